//! What can go wrong with an apt mirror, in words a person can act on.

use super::closure::Unsatisfied;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("apt mirror: {field}: {reason}")]
    Invalid {
        /// Path of the field in [`super::Config`].
        field: String,
        reason: String,
    },
    #[error("{file}: {reason}")]
    Malformed {
        /// Address or path of the file.
        file: String,
        reason: String,
    },
    #[error("{act}: {reason}")]
    Signing { act: String, reason: String },
    #[error(
        "no suite \"{suite}\": neither InRelease nor Release is at {urls}; look at the suite's name and at the address of the archive"
    )]
    UnknownSuite { suite: String, urls: String },
    #[error("{file}: suite \"{suite}\" has no index of {what}; it has {there}")]
    NoIndex {
        file: String,
        suite: String,
        what: String,
        there: String,
    },
    #[error("{file}: not trusted: {reason}")]
    Untrusted { file: String, reason: String },
    #[error(
        "{file}: expired on {until}: the archive is no longer kept up, or someone replays an old copy of it; \
         if this is meant to be, set `check_valid_until` to false"
    )]
    Expired { file: String, until: String },
    /// Every package that was asked for and cannot be had.
    #[error("{} cannot be had:\n{}", count(.0.len()), .0.iter().map(|package| format!("  {package}")).collect::<Vec<_>>().join("\n"))]
    Unsatisfied(Vec<Unsatisfied>),
    #[error("pin: there is no snapshot \"{pin}\"; there {}", available(.there))]
    UnknownSnapshot { pin: String, there: Vec<String> },
    #[error("apt mirror \"{name}\": nothing has been published yet at {path}")]
    NothingPublished { name: String, path: String },
    #[error(
        "{archive}: it lacks {missing} files that this machine has not either, the first of them {first}; \
         it was made as the difference to snapshot {base}: import that one first, or export without a base"
    )]
    IncompleteArchive {
        archive: String,
        missing: usize,
        first: String,
        base: String,
    },
}

fn count(packages: usize) -> String {
    if packages == 1 {
        "1 package".to_owned()
    } else {
        format!("{packages} packages")
    }
}

fn available(there: &[String]) -> String {
    if there.is_empty() {
        "is none yet".to_owned()
    } else {
        format!("are {}", there.join(", "))
    }
}
