//! The packages of one architecture, and which of them make a relation true. Follows no relation further.

use std::collections::{HashMap, HashSet};

use super::super::depends::{Term, clauses, term};
use super::super::packages::{MultiArch, Package};
use super::super::version;

/// Index into [`Universe::package`].
pub type Id = u32;

/// The packages of one architecture, of all archives, in the order of preference.
#[derive(Debug)]
pub struct Universe<'a> {
    pub(super) architecture: &'a str,
    packages: Vec<Package<'a>>,
    /// Which archive each package is of, as given to [`Universe::new`].
    origins: Vec<u32>,
    pub(super) names: HashMap<&'a str, Name<'a>>,
}

#[derive(Debug, Default)]
pub(super) struct Name<'a> {
    /// The newest.
    pub(super) candidate: Option<Id>,
    /// Other versions, that can be asked for by version.
    pub(super) others: Vec<Id>,
    /// Candidates that provide it, with the version that they provide.
    pub(super) providers: Vec<(Id, Option<&'a str>)>,
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

    pub(super) fn sort(&self, ids: &mut [Id]) {
        ids.sort_by(|&a, &b| {
            let (a, b) = (self.package(a), self.package(b));
            a.name
                .cmp(b.name)
                .then_with(|| version::compare(a.version, b.version))
                .then_with(|| a.version.cmp(b.version))
        });
    }

    /// What makes a term true, the best first: the package of that name, then those that provide it. `pinned` versions replace candidates.
    pub(super) fn satisfiers(
        &self,
        term: &Term<'_>,
        pinned: &HashMap<&str, Id>,
        out: &mut Vec<Id>,
    ) {
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
    pub(super) fn reason(&self, term: &Term<'_>) -> String {
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
