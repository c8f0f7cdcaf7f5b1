//! All that a list of packages can come to need: what of it cannot be had, and what is taken where there is a choice.

use std::collections::{HashMap, HashSet, VecDeque};

use super::super::depends::{alternatives, clauses};
use super::universe::{Id, Universe};

/// What one package needs: one of `options`, the best first.
#[derive(Debug)]
struct Clause<'a> {
    text: &'a str,
    field: &'static str,
    /// Recommended only.
    soft: bool,
    options: Vec<Id>,
}

/// All that the roots can come to need, whichever alternatives are taken.
pub(super) struct Reach<'a> {
    clauses: HashMap<Id, Vec<Clause<'a>>>,
    /// Packages that cannot be installed, with the number of the clause that nothing makes true.
    pub(super) broken: HashMap<Id, usize>,
}

impl<'a> Reach<'a> {
    pub(super) fn new(universe: &Universe<'a>, roots: &[Id], recommends: bool) -> Self {
        // A version that was asked for by number stands for its package everywhere.
        let pinned: HashMap<&str, Id> = roots
            .iter()
            .map(|&id| (universe.package(id).name, id))
            .collect();
        let mut all: HashMap<Id, Vec<Clause<'a>>> = HashMap::new();
        let mut queue: VecDeque<Id> = roots.iter().copied().collect();
        let mut seen: HashSet<Id> = queue.iter().copied().collect();
        while let Some(id) = queue.pop_front() {
            let package = universe.package(id);
            let mut fields = vec![
                ("pre-depends on", false, package.pre_depends),
                ("depends on", false, package.depends),
            ];
            if recommends {
                fields.push(("recommends", true, package.recommends));
            }
            let mut of_package = Vec::new();
            for (field, soft, text) in fields {
                for text in clauses(text) {
                    let mut options = Vec::new();
                    for term in alternatives(text) {
                        universe.satisfiers(&term, &pinned, &mut options);
                    }
                    let mut known = HashSet::new();
                    options.retain(|&option| known.insert(option));
                    for &option in &options {
                        if seen.insert(option) {
                            queue.push_back(option);
                        }
                    }
                    of_package.push(Clause {
                        text,
                        field,
                        soft,
                        options,
                    });
                }
            }
            all.insert(id, of_package);
        }
        let mut reach = Self {
            clauses: all,
            broken: HashMap::new(),
        };
        reach.find_broken();
        reach
    }

    /// A package is broken if one of its clauses has no option, or only broken ones.
    fn find_broken(&mut self) {
        let mut needed_by: HashMap<Id, Vec<(Id, usize)>> = HashMap::new();
        let mut left: HashMap<(Id, usize), usize> = HashMap::new();
        let mut queue = VecDeque::new();
        // In a fixed order, so that of two reasons the same one is told each time.
        let mut ids: Vec<Id> = self.clauses.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            for (number, clause) in self.clauses[&id].iter().enumerate() {
                if clause.soft {
                    continue;
                }
                if clause.options.is_empty() {
                    queue.push_back((id, number));
                }
                left.insert((id, number), clause.options.len());
                for &option in &clause.options {
                    needed_by.entry(option).or_default().push((id, number));
                }
            }
        }
        while let Some((id, number)) = queue.pop_front() {
            if self.broken.contains_key(&id) {
                continue;
            }
            self.broken.insert(id, number);
            for &(other, number) in needed_by.get(&id).into_iter().flatten() {
                let left = left
                    .get_mut(&(other, number))
                    .expect("every clause that is needed was counted");
                *left -= 1;
                if *left == 0 {
                    queue.push_back((other, number));
                }
            }
        }
    }

    /// From a broken package down to what is not there. Where all of several alternatives fail, the first one is followed.
    pub(super) fn chain(&self, universe: &Universe<'a>, mut id: Id) -> Vec<String> {
        let mut chain = Vec::new();
        loop {
            let package = universe.package(id);
            let clause = &self.clauses[&id][self.broken[&id]];
            chain.push(format!(
                "{} {} {} {}",
                package.name, package.version, clause.field, clause.text
            ));
            // What is broken was found so before what needs it: this ends.
            match clause.options.first() {
                Some(&next) => id = next,
                None => {
                    let reasons: Vec<String> = alternatives(clause.text)
                        .map(|term| universe.reason(&term))
                        .collect();
                    chain.push(if reasons.is_empty() {
                        "this relation cannot be understood".to_owned()
                    } else {
                        reasons.join("; ")
                    });
                    return chain;
                }
            }
        }
    }

    /// Follows the clauses from the roots. What leaves no choice comes first, so that a choice is made late and can fall on what is
    /// there already.
    pub(super) fn choose(&self, roots: &[Id]) -> Vec<Id> {
        let mut chosen: HashSet<Id> = roots.iter().copied().collect();
        let mut queue: VecDeque<Id> = roots.iter().copied().collect();
        let mut choices: VecDeque<Vec<Id>> = VecDeque::new();
        loop {
            while let Some(id) = queue.pop_front() {
                for clause in &self.clauses[&id] {
                    let options: Vec<Id> = clause
                        .options
                        .iter()
                        .copied()
                        .filter(|option| !self.broken.contains_key(option))
                        .collect();
                    match options[..] {
                        [] => {}
                        [only] => {
                            if chosen.insert(only) {
                                queue.push_back(only);
                            }
                        }
                        _ => choices.push_back(options),
                    }
                }
            }
            let Some(options) = choices.pop_front() else {
                break;
            };
            if !options.iter().any(|option| chosen.contains(option)) {
                chosen.insert(options[0]);
                queue.push_back(options[0]);
            }
        }
        chosen.into_iter().collect()
    }
}
