//! What can go wrong with fetching and keeping, in words a person can act on.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::Digest;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
    #[error(
        "{act}: no space left on the file system of {}{}; free some space there and run it again: what is fetched already is kept",
        path.display(),
        room(*needed, *free)
    )]
    DiskFull {
        act: String,
        path: PathBuf,
        /// Bytes, where known beforehand.
        needed: Option<u64>,
        free: Option<u64>,
    },
    /// Every address of one file failed; each with the last thing that went wrong there.
    #[error("fetch {name}: {}", attempts.iter().map(|(url, failure)| format!("{}: {failure}", shown(url))).collect::<Vec<_>>().join("; "))]
    Fetch {
        /// What the file is to the mirror, for example `pool/main/h/hello_1_amd64.deb`.
        name: String,
        attempts: Vec<(String, Failure)>,
    },
    #[error("HTTP client: {0}")]
    Client(String),
    #[error("{act}: stopped on request")]
    Cancelled { act: String },
    #[error(transparent)]
    Apt(#[from] crate::apt::Error),
}

impl Error {
    /// Knows a full disk when it sees one.
    pub fn io(act: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            act: act.into(),
            source: source.into(),
        }
    }

    /// As [`Error::io`], for writing below `path`.
    pub fn write(act: impl Into<String>, path: &Path, source: io::Error) -> Self {
        if is_full(&source) {
            Self::DiskFull {
                act: act.into(),
                path: path.to_owned(),
                needed: None,
                free: None,
            }
        } else {
            Self::io(act, source)
        }
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn room(needed: Option<u64>, free: Option<u64>) -> String {
    match (needed, free) {
        (Some(needed), Some(free)) => {
            format!(" ({} MiB needed, {} MiB free)", needed >> 20, free >> 20)
        }
        _ => String::new(),
    }
}

/// Why one address did not give the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// HTTP 404 or 410, or no such local file.
    NotFound,
    /// Any other status that is no success.
    Status(u16),
    /// Not one byte for this long.
    Stalled(Duration),
    /// The body ended too early.
    Truncated {
        got: u64,
        expected: Option<u64>,
    },
    WrongSize {
        got: u64,
        expected: u64,
    },
    WrongHash {
        got: Digest,
        expected: Digest,
    },
    /// Longer than any such document is.
    TooLong {
        limit: u64,
    },
    /// Name resolution, connection, TLS or protocol, in the library's words.
    Transport(String),
}

impl Failure {
    /// Whether the same address may do better a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => *status >= 500 || matches!(status, 408 | 425 | 429),
            Self::Stalled(_) | Self::Truncated { .. } | Self::Transport(_) => true,
            Self::NotFound
            | Self::WrongSize { .. }
            | Self::WrongHash { .. }
            | Self::TooLong { .. } => false,
        }
    }

    /// Whether the file is there but is not, or is no longer, what the index says.
    pub fn is_mismatch(&self) -> bool {
        matches!(
            self,
            Self::NotFound | Self::WrongSize { .. } | Self::WrongHash { .. }
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("not found (404)"),
            Self::Status(status) => write!(f, "the server answers with status {status}"),
            Self::Stalled(after) => {
                write!(f, "stalled: nothing came for {} s", after.as_secs_f32())
            }
            Self::Truncated { got, expected } => match expected {
                Some(expected) => write!(f, "ended after {got} of {expected} bytes"),
                None => write!(f, "ended early, after {got} bytes"),
            },
            Self::WrongSize { got, expected } => {
                write!(f, "wrong size: {got} bytes instead of {expected}")
            }
            Self::WrongHash { got, expected } => {
                write!(f, "wrong hash: SHA-256 {got} instead of {expected}")
            }
            Self::TooLong { limit } => write!(f, "longer than {limit} bytes"),
            Self::Transport(reason) => f.write_str(reason),
        }
    }
}

/// An address without the password it may hold.
pub(crate) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_every_address_and_no_password() {
        let error = Error::Fetch {
            name: "hello_1_amd64.deb".into(),
            attempts: vec![
                ("http://me:secret@one.example/a".into(), Failure::NotFound),
                (
                    "http://two.example/a@b".into(),
                    Failure::Stalled(Duration::from_millis(1500)),
                ),
            ],
        };
        assert_eq!(
            error.to_string(),
            "fetch hello_1_amd64.deb: http://one.example/a: not found (404); \
             http://two.example/a@b: stalled: nothing came for 1.5 s"
        );
    }

    #[test]
    fn a_full_disk_is_told_from_other_errors() {
        let full = Error::write("write x", Path::new("/c"), io::Error::from_raw_os_error(28));
        assert!(
            full.to_string()
                .starts_with("write x: no space left on the file system of /c;")
        );
        let other = Error::write("write x", Path::new("/c"), io::Error::from_raw_os_error(13));
        assert!(matches!(other, Error::Io { .. }));
    }
}
