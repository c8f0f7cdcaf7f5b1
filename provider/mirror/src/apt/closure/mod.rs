//! Which packages a list of packages needs. Pure.
//!
//! As apt does with equal pins, only the newest version of a package counts, and of several archives with the same one the first. A
//! package belongs to the closure if what is asked for can need it; `Conflicts` and `Breaks` are not looked at, because a mirror serves
//! many machines that have installed different things.

mod delta;
mod reach;
#[cfg(test)]
mod tests;
mod universe;

use std::fmt;

pub use self::delta::{Change, Delta, delta};
use self::reach::Reach;
pub use self::universe::{Id, Universe};
use super::version;

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

impl Universe<'_> {
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
}
