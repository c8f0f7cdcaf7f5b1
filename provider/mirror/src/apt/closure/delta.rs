//! What two lists of packages differ by.

use std::collections::BTreeMap;
use std::fmt;

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
    use super::*;

    #[test]
    fn a_delta_says_what_comes_changes_and_goes() {
        let before = [("a", "amd64", "1"), ("b", "amd64", "1"), ("c", "all", "1")];
        let after = [("b", "amd64", "2"), ("c", "all", "1"), ("d", "all", "1")];
        let delta = delta(before.into_iter(), after.into_iter());
        assert_eq!(delta.to_string(), "+ d 1\n~ b 1 -> 2\n- a 1\n");
        assert_eq!((delta.unchanged, delta.is_empty()), (1, false));
    }
}
