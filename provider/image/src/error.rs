//! What can go wrong with a golden image, in words a person can act on.

use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("recipe: {field}: {reason}")]
    InvalidRecipe {
        /// Path of the field in [`crate::Recipe`].
        field: String,
        reason: String,
    },
    #[error(
        "recipe: suite: this machine's apt sources do not have {distribution} \"{suite}\"; they have: {}. \
         Add a source for it below /etc/apt/sources.list.d and run `apt-get update`",
        if available.is_empty() { "nothing".to_owned() } else { available.join(", ") }
    )]
    UnknownSuite {
        distribution: String,
        suite: String,
        available: Vec<String>,
    },
    #[error(
        "build a root file system: neither mmdebstrap nor debootstrap is installed; run `apt-get install mmdebstrap`"
    )]
    NoBootstrapTool,
    #[error("mmdebstrap is needed {why} and is not installed; run `apt-get install mmdebstrap`")]
    NoMmdebstrap { why: String },
    #[error("bootable disks are made for x86-64 only, and this machine is {architecture}")]
    Architecture { architecture: &'static str },
    #[error("disk_size_mib: {size_mib} is not between {smallest_mib} and {largest_mib}")]
    DiskSize {
        size_mib: u64,
        smallest_mib: u64,
        largest_mib: u64,
    },
    #[error("the installed files do not boot: {missing} is missing")]
    NotBootable { missing: String },
    #[error("make the root file system: {reason}")]
    FileSystem { reason: String },
    #[error("{act}: `{tool}` {status}: {output}")]
    Tool {
        act: String,
        tool: String,
        status: String,
        /// The end of what the tool said.
        output: String,
    },
    #[error("{act}: stopped on request")]
    Cancelled { act: String },
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
    #[error("read {}: {source}", path.display())]
    Manifest {
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
