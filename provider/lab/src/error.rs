//! What can go wrong in a lab, in words a person can act on. Rendering for Terraform diagnostics is the provider's.

use std::io;
use std::path::PathBuf;

use crate::plan::Change;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that no VM can be. Nothing was touched.
    #[error("VM \"{vm}\": {field}: {reason}")]
    InvalidSpec {
        vm: String,
        /// Path of the field in [`crate::VmSpec`], for example `disks.data.size_mib`.
        field: String,
        reason: String,
    },
    #[error("lab \"{lab}\": {reason}")]
    InvalidLab { lab: String, reason: String },
    #[error("lab \"{lab}\" has no VM or host \"{name}\"{}", near_hint(near))]
    NotFound {
        lab: String,
        name: String,
        /// Names that exist and look alike, best first.
        near: Vec<String>,
    },
    #[error(
        "lab \"{lab}\" already has a VM \"{vm}\" (on host \"{host}\", id {id}): import it as {host}/{vm}, \
         or remove it with `ondol-lab --lab {lab} destroy {vm}`"
    )]
    Exists {
        lab: String,
        vm: String,
        host: String,
        id: uuid::Uuid,
    },
    #[error("VM \"{vm}\": {} cannot become {} (it is {}): {reason}", change.field, change.to, change.from)]
    ChangeRefused {
        vm: String,
        change: Box<Change>,
        reason: String,
    },
    #[error(
        "lab \"{lab}\", VM \"{vm}\": {act}: it is stopped; start it first (`ondol-lab --lab {lab} start {vm}`)"
    )]
    NotRunning {
        lab: String,
        vm: String,
        act: String,
    },
    #[error("lab \"{lab}\", VM \"{vm}\" did not start: {reason}; its console log is {}\n{console}", log.display())]
    Boot {
        lab: String,
        vm: String,
        reason: &'static str,
        log: PathBuf,
        console: String,
    },
    #[error("lab \"{lab}\": another process has held {} for {seconds} s: {what}", path.display())]
    Busy {
        lab: String,
        path: PathBuf,
        seconds: u64,
        what: String,
    },
    /// A program that we rely on said no.
    #[error("{act}: `{tool}` {status}: {stderr}{hint}")]
    Tool {
        act: String,
        tool: String,
        status: String,
        stderr: String,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
    #[error("{act}: {} is not what this program writes: {source}", path.display())]
    Record {
        act: String,
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn io(act: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            act: act.into(),
            source: source.into(),
        }
    }
}

fn near_hint(near: &[String]) -> String {
    match near {
        [] => "; `ondol-lab ls` lists what there is".to_owned(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// Names of `known` that someone may have meant by `typed`, best first, at most three.
pub(crate) fn near_names<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let limit = typed.len().div_ceil(3).max(2);
    let mut ranked: Vec<(usize, &str)> = known
        .into_iter()
        .map(|name| {
            let distance = edit_distance(typed, name);
            let contained = typed.len() >= 2 && (name.contains(typed) || typed.contains(name));
            (if contained { distance.min(1) } else { distance }, name)
        })
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// Levenshtein distance in bytes; names are ASCII.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_met_with_the_names_that_look_like_it() {
        let known = [
            "postgresql-db-01",
            "postgresql-db-02",
            "mysql-db-01",
            "vault",
        ];
        assert_eq!(
            near_names("postgres-db-01", known),
            ["postgresql-db-01", "postgresql-db-02"]
        );
        assert_eq!(near_names("valt", known), ["vault"]);
        assert_eq!(near_names("mysql", known), ["mysql-db-01"]);
        assert!(near_names("kafka-broker", known).is_empty());
    }
}
