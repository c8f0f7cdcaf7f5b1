//! Which packages a list of packages needs. Pure.
//!
//! As apt does with equal pins, only the newest version of a package counts, and of several archives with the same one the first. A
//! package belongs to the closure if what is asked for can need it; `Conflicts` and `Breaks` are not looked at, because a mirror serves
//! many machines that have installed different things.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;

use super::depends::{Term, alternatives, clauses, term};
use super::packages::{MultiArch, Package};
use super::version;

/// Index into [`Universe::package`].
pub type Id = u32;

/// The packages of one architecture, of all archives, in the order of preference.
#[derive(Debug)]
pub struct Universe<'a> {
    architecture: &'a str,
    packages: Vec<Package<'a>>,
    /// Which archive each package is of, as given to [`Universe::new`].
    origins: Vec<u32>,
    names: HashMap<&'a str, Name<'a>>,
}

#[derive(Debug, Default)]
struct Name<'a> {
    /// The newest.
    candidate: Option<Id>,
    /// Other versions, that can be asked for by version.
    others: Vec<Id>,
    /// Candidates that provide it, with the version that they provide.
    providers: Vec<(Id, Option<&'a str>)>,
}

/// What to take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Names as apt-get takes them: `name`, `name=version`, `name:architecture`. A virtual package counts if one package provides it.
    pub packages: Vec<String>,
    /// Also what is only recommended, where it can be had.
    pub recommends: bool,
    /// Also every package that is marked essential.
    pub essential: bool,
    /// Also every package of these priorities, for example `required`.
    pub priorities: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// Sorted by name, then version.
    pub packages: Vec<Id>,
    /// What was asked for by name and cannot be had, with the reason.
    pub unsatisfied: Vec<Unsatisfied>,
}

/// A package that was asked for and cannot be installed, with the whole chain of what fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsatisfied {
    /// As it was asked for.
    pub package: String,
    /// From what was asked for down to what is not there.
    pub chain: Vec<String>,
}

impl fmt::Display for Unsatisfied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.package, self.chain.join(": "))
    }
}

/// What one package needs: one of `options`, the best first.
#[derive(Debug)]
struct Clause<'a> {
    text: &'a str,
    field: &'static str,
    /// Recommended only.
    soft: bool,
    options: Vec<Id>,
}

impl<'a> Universe<'a> {
    /// `archives` in the order of preference among equal versions. Packages of another architecture than `architecture` and `all` are left
    /// out.
    pub fn new(architecture: &'a str, archives: Vec<Vec<Package<'a>>>) -> Self {
        let count = archives.iter().map(Vec::len).sum();
        let mut packages: Vec<Package<'a>> = Vec::with_capacity(count);
        let mut origins = Vec::with_capacity(count);
        let mut names: HashMap<&str, Name<'_>> = HashMap::with_capacity(count);
        for (origin, archive) in (0..).zip(archives) {
            for package in archive {
                if package.architecture != architecture && package.architecture != "all" {
                    continue;
                }
                let id =
                    Id::try_from(packages.len()).expect("an index has less than 2^32 packages");
                let name = names.entry(package.name).or_default();
                match name.candidate {
                    None => name.candidate = Some(id),
                    Some(old) => {
                        let newer =
                            version::compare(package.version, packages[old as usize].version)
                                .is_gt();
                        name.others.push(if newer { old } else { id });
                        if newer {
                            name.candidate = Some(id);
                        }
                    }
                }
                packages.push(package);
                origins.push(origin);
            }
        }
        let mut universe = Self {
            architecture,
            packages,
            origins,
            names,
        };
        universe.note_providers();
        universe
    }

    fn note_providers(&mut self) {
        let mut provided = Vec::new();
        for name in self.names.values() {
            let Some(id) = name.candidate else { continue };
            for term in clauses(self.package(id).provides).filter_map(term) {
                provided.push((term.name, id, term.version.map(|(_, version)| version)));
            }
        }
        for (name, id, version) in provided {
            let name = self.names.entry(name).or_default();
            name.providers.push((id, version));
        }
        // The best provider first: that of the higher priority, then by name. Also what makes the order independent of the hash map's.
        let packages = &self.packages;
        for name in self.names.values_mut() {
            name.providers.sort_by_key(|(id, version)| {
                let package = &packages[*id as usize];
                (rank(package.priority), package.name, *version)
            });
        }
    }

    pub fn package(&self, id: Id) -> &Package<'a> {
        &self.packages[id as usize]
    }

    /// Number of the archive that the package is of.
    pub fn origin(&self, id: Id) -> u32 {
        self.origins[id as usize]
    }

    /// Every package and version, those that are the same in two archives once.
    pub fn everything(&self) -> Vec<Id> {
        let mut seen = HashSet::with_capacity(self.packages.len());
        let mut all: Vec<Id> = (0..)
            .zip(&self.packages)
            .filter(|(_, package)| {
                seen.insert((package.name, package.version, package.architecture))
            })
            .map(|(id, _)| id)
            .collect();
        self.sort(&mut all);
        all
    }

    fn sort(&self, ids: &mut [Id]) {
        ids.sort_by(|&a, &b| {
            let (a, b) = (self.package(a), self.package(b));
            a.name
                .cmp(b.name)
                .then_with(|| version::compare(a.version, b.version))
                .then_with(|| a.version.cmp(b.version))
        });
    }

    pub fn closure(&self, request: &Request) -> Closure {
        let mut unsatisfied = Vec::new();
        let mut roots = Vec::new();
        for wanted in &request.packages {
            match self.wanted(wanted) {
                Ok(id) => roots.push((Some(wanted), id)),
                Err(reason) => unsatisfied.push(Unsatisfied {
                    package: wanted.clone(),
                    chain: vec![reason],
                }),
            }
        }
        let mut base: Vec<Id> = self
            .names
            .values()
            .filter_map(|name| name.candidate)
            .filter(|&id| {
                let package = self.package(id);
                (request.essential && package.essential)
                    || request
                        .priorities
                        .iter()
                        .any(|priority| priority == package.priority)
            })
            .collect();
        self.sort(&mut base);
        roots.extend(base.into_iter().map(|id| (None, id)));

        let pinned = roots.iter().map(|&(_, id)| id).collect::<Vec<_>>();
        let reach = Reach::new(self, &pinned, request.recommends);
        let mut sound = Vec::new();
        for (wanted, id) in roots {
            if !reach.broken.contains_key(&id) {
                sound.push(id);
                continue;
            }
            let package = self.package(id).name.to_owned();
            unsatisfied.push(Unsatisfied {
                package: wanted.cloned().unwrap_or(package),
                chain: reach.chain(self, id),
            });
        }
        let mut packages = reach.choose(&sound);
        self.sort(&mut packages);
        Closure {
            packages,
            unsatisfied,
        }
    }

    /// The package that is meant by a name as apt-get takes it.
    fn wanted(&self, wanted: &str) -> Result<Id, String> {
        let (name, wanted_version) = match wanted.split_once('=') {
            Some((name, version)) => (name, Some(version)),
            None => (wanted, None),
        };
        let name = match name.split_once(':') {
            Some((name, architecture))
                if architecture == self.architecture || architecture == "any" =>
            {
                name
            }
            Some((name, "all")) => name,
            Some((_, architecture)) => {
                return Err(format!(
                    "this index is of {}, not of {architecture}",
                    self.architecture
                ));
            }
            None => name,
        };
        let entry = self.names.get(name);
        let nothing = || format!("no package has the name {name:?} and none provides it");
        let Some(entry) = entry else {
            return Err(nothing());
        };
        match (entry.candidate, wanted_version) {
            (Some(id), None) => Ok(id),
            (Some(candidate), Some(version)) => std::iter::once(candidate)
                .chain(entry.others.iter().copied())
                .find(|&id| version::compare(self.package(id).version, version).is_eq())
                .ok_or_else(|| {
                    let mut there: Vec<&str> = std::iter::once(candidate)
                        .chain(entry.others.iter().copied())
                        .map(|id| self.package(id).version)
                        .collect();
                    there.sort_by(|a, b| version::compare(b, a));
                    format!("version {version} is not there, but {}", there.join(", "))
                }),
            (None, Some(_)) => Err(nothing()),
            (None, None) => {
                let mut providers: Vec<Id> = entry.providers.iter().map(|&(id, _)| id).collect();
                providers.dedup();
                match providers[..] {
                    [] => Err(nothing()),
                    [only] => Ok(only),
                    _ => Err(format!(
                        "it is a virtual package: ask for one of {}",
                        providers
                            .iter()
                            .map(|&id| self.package(id).name)
                            .collect::<Vec<_>>()
                            .join(", ")
                    )),
                }
            }
        }
    }

    /// What makes a term true, the best first: the package of that name, then those that provide it. `pinned` versions replace candidates.
    fn satisfiers(&self, term: &Term<'_>, pinned: &HashMap<&str, Id>, out: &mut Vec<Id>) {
        let Some(entry) = self.names.get(term.name) else {
            return;
        };
        let candidate = pinned.get(term.name).copied().or(entry.candidate);
        if let Some(id) = candidate {
            let package = self.package(id);
            let version = term
                .version
                .is_none_or(|(relation, wanted)| relation.holds(package.version, wanted));
            let architecture = match term.architecture {
                None => true,
                Some("any") => package.multi_arch == MultiArch::Allowed,
                Some(other) => other == self.architecture,
            };
            if version && architecture {
                out.push(id);
            }
        }
        if term
            .architecture
            .is_some_and(|other| other != self.architecture)
        {
            return;
        }
        for &(id, version) in &entry.providers {
            let holds = match (term.version, version) {
                (None, _) => true,
                (Some((relation, wanted)), Some(have)) => relation.holds(have, wanted),
                (Some(_), None) => false,
            };
            if holds {
                out.push(id);
            }
        }
    }

    /// Why nothing makes a term true.
    fn reason(&self, term: &Term<'_>) -> String {
        let Some(entry) = self.names.get(term.name) else {
            return format!(
                "no package has the name {:?} and none provides it",
                term.name
            );
        };
        match entry.candidate {
            Some(id) => {
                let package = self.package(id);
                match term.architecture {
                    Some("any") if package.multi_arch != MultiArch::Allowed => {
                        format!("{} is not Multi-Arch: allowed", term.name)
                    }
                    Some(other) if other != "any" && other != self.architecture => {
                        format!("this index is of {}", self.architecture)
                    }
                    _ => format!("{} is version {}", term.name, package.version),
                }
            }
            None => format!("{:?} is provided, but not in that version", term.name),
        }
    }
}

fn rank(priority: &str) -> usize {
    ["required", "important", "standard", "optional"]
        .iter()
        .position(|&known| known == priority)
        .unwrap_or(4)
}

/// All that the roots can come to need, whichever alternatives are taken.
struct Reach<'a> {
    clauses: HashMap<Id, Vec<Clause<'a>>>,
    /// Packages that cannot be installed, with the number of the clause that nothing makes true.
    broken: HashMap<Id, usize>,
}

impl<'a> Reach<'a> {
    fn new(universe: &Universe<'a>, roots: &[Id], recommends: bool) -> Self {
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
    fn chain(&self, universe: &Universe<'a>, mut id: Id) -> Vec<String> {
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
    fn choose(&self, roots: &[Id]) -> Vec<Id> {
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

/// How many packages of each name and architecture two lists differ by. Versions are compared by text.
pub fn delta<'a>(
    before: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    after: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
) -> Delta {
    let collect = |list: &mut dyn Iterator<Item = (&'a str, &'a str, &'a str)>| {
        let mut map: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for (name, architecture, version) in list {
            map.entry((name, architecture)).or_default().push(version);
        }
        map
    };
    let (mut before, mut after) = (before, after);
    let (before, after) = (collect(&mut before), collect(&mut after));
    let mut delta = Delta::default();
    let line = |(name, architecture): &(&str, &str), versions: &[&str]| Change {
        package: (*name).to_owned(),
        architecture: (*architecture).to_owned(),
        versions: versions.iter().map(|&version| version.to_owned()).collect(),
    };
    for (key, versions) in &after {
        match before.get(key) {
            None => delta.added.push(line(key, versions)),
            Some(old) if old == versions => delta.unchanged += versions.len(),
            Some(old) => delta.changed.push((line(key, old), line(key, versions))),
        }
    }
    for (key, versions) in &before {
        if !after.contains_key(key) {
            delta.removed.push(line(key, versions));
        }
    }
    delta
}

/// See [`delta`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    pub added: Vec<Change>,
    /// From, to.
    pub changed: Vec<(Change, Change)>,
    pub removed: Vec<Change>,
    pub unchanged: usize,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub package: String,
    pub architecture: String,
    pub versions: Vec<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.package, self.versions.join(", "))
    }
}

impl fmt::Display for Delta {
    /// One line for each package: `+ hello 2.10`, `~ hello 2.9 -> 2.10`, `- hello 2.9`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for package in &self.added {
            writeln!(f, "+ {package}")?;
        }
        for (from, to) in &self.changed {
            writeln!(f, "~ {from} -> {}", to.versions.join(", "))?;
        }
        for package in &self.removed {
            writeln!(f, "- {package}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::packages::parse;
    use super::*;

    /// `name version field: value; field: value`, one package a line.
    fn index(lines: &str) -> String {
        lines
            .lines()
            .map(|line| {
                let (head, fields) = line.split_once(" / ").unwrap_or((line, ""));
                let (name, version) = head.trim().split_once(' ').expect("name and version");
                let fields: String = fields
                    .split(';')
                    .filter(|field| !field.trim().is_empty())
                    .map(|field| format!("{}\n", field.trim()))
                    .collect();
                format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: f\nSize: 1\n{fields}\n")
            })
            .collect()
    }

    fn closure_of(archives: &[&str], request: &Request) -> (Vec<String>, Vec<String>) {
        let texts: Vec<String> = archives.iter().map(|lines| index(lines)).collect();
        let universe = Universe::new(
            "amd64",
            texts
                .iter()
                .map(|text| parse(text).expect("well-formed"))
                .collect(),
        );
        let closure = universe.closure(request);
        (
            closure
                .packages
                .iter()
                .map(|&id| {
                    let package = universe.package(id);
                    format!("{}={}", package.name, package.version)
                })
                .collect(),
            closure
                .unsatisfied
                .iter()
                .map(ToString::to_string)
                .collect(),
        )
    }

    fn names(names: &[&str]) -> Request {
        Request {
            packages: names.iter().map(|&name| name.to_owned()).collect(),
            ..Request::default()
        }
    }

    #[test]
    fn dependencies_are_followed_and_the_newest_version_of_any_archive_wins() {
        let base = "app 1 / Depends: lib (>= 1), data\nlib 1.0\ndata 1 / Pre-Depends: tool\ntool 1\nother 1";
        let security = "lib 1.0+deb12u1 / Depends: extra\nextra 1\ntool 0.9";
        assert_eq!(
            closure_of(&[base, security], &names(&["app"])),
            (
                ["app=1", "data=1", "extra=1", "lib=1.0+deb12u1", "tool=1"]
                    .map(str::to_owned)
                    .to_vec(),
                vec![]
            )
        );
    }

    #[test]
    fn of_alternatives_the_first_that_can_be_had_is_taken_unless_one_is_there_already() {
        let archive = "\
a 1 / Depends: gone | broken | good | better
broken 1 / Depends: nothing
good 1
better 1
b 1 / Depends: better
virtual-user 1 / Depends: mail-agent
postfix 1 / Provides: mail-agent; Priority: optional
exim 1 / Provides: mail-agent; Priority: important";
        let of = |wanted: &[&str]| closure_of(&[archive], &names(wanted)).0;
        assert_eq!(of(&["a"]), ["a=1", "good=1"]);
        assert_eq!(of(&["a", "b"]), ["a=1", "b=1", "better=1"]);
        assert_eq!(of(&["virtual-user"]), ["exim=1", "virtual-user=1"]);
        assert_eq!(
            of(&["virtual-user", "postfix"]),
            ["postfix=1", "virtual-user=1"]
        );
    }

    #[test]
    fn provided_versions_and_architecture_qualifiers_are_honoured() {
        let archive = "\
a 1 / Depends: virt (>= 2)
p1 1 / Provides: virt
p2 9 / Provides: virt (= 1)
p3 1 / Provides: virt (= 2.5)
b 1 / Depends: python:any
python 3 / Multi-Arch: allowed
c 1 / Depends: plain:any
plain 1
d 1 / Depends: plain:amd64
e 1 / Depends: plain:i386";
        let of = |wanted: &[&str]| closure_of(&[archive], &names(wanted));
        assert_eq!(of(&["a"]).0, ["a=1", "p3=1"]);
        assert_eq!(of(&["b"]).0, ["b=1", "python=3"]);
        assert_eq!(of(&["d"]).0, ["d=1", "plain=1"]);
        assert_eq!(
            of(&["c"]).1,
            ["c: c 1 depends on plain:any: plain is not Multi-Arch: allowed"]
        );
        assert_eq!(
            of(&["e"]).1,
            ["e: e 1 depends on plain:i386: this index is of amd64"]
        );
    }

    #[test]
    fn the_whole_chain_that_fails_is_told() {
        let archive = "\
app 1 / Depends: mid (>= 1) | other
other 1 / Depends: mid
mid 2 / Pre-Depends: leaf (>= 3), fine
leaf 2.5
fine 1
x 1 / Depends: nosuch | leaf (<< 1)
two 1";
        assert_eq!(
            closure_of(&[archive], &names(&["app", "x", "unknown", "two=2", "two:arm64", "fine"])),
            (
                vec!["fine=1".to_owned()],
                [
                    "unknown: no package has the name \"unknown\" and none provides it",
                    "two=2: version 2 is not there, but 1",
                    "two:arm64: this index is of amd64, not of arm64",
                    "app: app 1 depends on mid (>= 1) | other: mid 2 pre-depends on leaf (>= 3): leaf is version 2.5",
                    "x: x 1 depends on nosuch | leaf (<< 1): no package has the name \"nosuch\" and none provides it; leaf is version 2.5",
                ]
                .map(str::to_owned)
                .to_vec()
            )
        );
    }

    #[test]
    fn circles_end_and_a_circle_with_a_gap_is_broken() {
        let archive =
            "a 1 / Depends: b\nb 1 / Depends: a\nc 1 / Depends: d\nd 1 / Depends: c, gone";
        assert_eq!(closure_of(&[archive], &names(&["a"])).0, ["a=1", "b=1"]);
        assert_eq!(
            closure_of(&[archive], &names(&["c"])).1,
            [
                "c: c 1 depends on d: d 1 depends on gone: no package has the name \"gone\" and none provides it"
            ]
        );
    }

    #[test]
    fn recommends_essential_and_priorities_are_taken_on_request() {
        let archive = "\
a 1 / Recommends: r, gone
r 1 / Depends: s
s 1
dash 1 / Essential: yes; Depends: base
base 1
login 1 / Priority: required";
        assert_eq!(closure_of(&[archive], &names(&["a"])).0, ["a=1"]);
        let all = Request {
            recommends: true,
            essential: true,
            priorities: vec!["required".into()],
            ..names(&["a"])
        };
        assert_eq!(
            closure_of(&[archive], &all),
            (
                ["a=1", "base=1", "dash=1", "login=1", "r=1", "s=1"]
                    .map(str::to_owned)
                    .to_vec(),
                vec![]
            )
        );
    }

    #[test]
    fn a_version_or_a_virtual_package_can_be_asked_for() {
        let archive = "k 1 / Depends: k-lib (= 1)\nk-lib 1\nk-lib 2\nk 2 / Depends: k-lib (= 2)\nx 1 / Depends: k\np 1 / Provides: only\nq 1 / Provides: many\nr 1 / Provides: many";
        let of = |wanted: &[&str]| closure_of(&[archive], &names(wanted));
        assert_eq!(of(&["k"]).0, ["k=2", "k-lib=2"]);
        assert_eq!(of(&["k=1", "k-lib=1", "x"]).0, ["k=1", "k-lib=1", "x=1"]);
        assert_eq!(of(&["only"]).0, ["p=1"]);
        assert_eq!(
            of(&["many"]).1,
            ["many: it is a virtual package: ask for one of q, r"]
        );
        assert_eq!(
            of(&["k=1"]).1,
            ["k=1: k 1 depends on k-lib (= 1): k-lib is version 2"]
        );
    }

    #[test]
    fn everything_is_every_version_once() {
        let (first, second) = (index("a 1\na 2\nb 1"), index("a 2\nc 1"));
        let universe = Universe::new(
            "amd64",
            vec![parse(&first).expect("ok"), parse(&second).expect("ok")],
        );
        let all: Vec<_> = universe
            .everything()
            .into_iter()
            .map(|id| {
                (
                    universe.package(id).name,
                    universe.package(id).version,
                    universe.origin(id),
                )
            })
            .collect();
        assert_eq!(
            all,
            [("a", "1", 0), ("a", "2", 0), ("b", "1", 0), ("c", "1", 1)]
        );
    }

    #[test]
    fn a_delta_says_what_comes_changes_and_goes() {
        let before = [("a", "amd64", "1"), ("b", "amd64", "1"), ("c", "all", "1")];
        let after = [("b", "amd64", "2"), ("c", "all", "1"), ("d", "all", "1")];
        let delta = delta(before.into_iter(), after.into_iter());
        assert_eq!(delta.to_string(), "+ d 1\n~ b 1 -> 2\n- a 1\n");
        assert_eq!((delta.unchanged, delta.is_empty()), (1, false));
    }
}
