//! `nfs_export`: one export of an NFS server, the kernel's where the machine has one, else NFS-Ganesha, which also exports CephFS.
//!
//! One file per export, so that each is judged and taken away alone. It mounts nothing, and leaves who may read a file to the file's mode.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use ondol_kit::{Invalid, Module, TextDiff};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::service::{Unit, absolute, word};

mod io;
mod plan;
#[cfg(test)]
mod tests;

pub use io::NfsExport;
use plan::{plan, refusal};

/// Export a directory or a Ceph file system by NFS, or stop to
///
/// The kernel's server takes part in a machine's page cache and is the first choice for a local directory; where the kernel has none, as in a
/// container, or for CephFS, it is NFS-Ganesha with NFS version 4. The steps say which. A new configuration of Ganesha is tried by a second server on
/// another port before it replaces the old one; with the kernel's server, exportfs judges, and the old file comes back if it refuses.
/// A Ganesha that Ceph has shut out, as it does with one that was silent or held others up for too long, never finds back by itself: a unit beside it,
/// C(nfs-ganesha-evicted.service), restarts it. As after every start, nobody opens a file until the clients of before have had their time to come back (90 s).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the export: its file is named after it.
    name: String,
    /// Directory to export, or the directory within the Ceph file system. Required for `present`.
    path: Option<String>,
    /// Takes the directory from a Ceph file system. The machine needs C(/etc/ceph/ceph.conf) and the user's keyring.
    cephfs: Option<Cephfs>,
    /// Path that clients of NFS version 4 ask Ganesha for. As `path` if left out.
    pseudo: Option<String>,
    /// Who may mount it, and how. Required for `present`.
    #[serde(default)]
    clients: Vec<Client>,
    /// Which server.
    #[serde(default)]
    server: Choice,
    /// Whether the export should exist.
    #[serde(default)]
    state: State,
}

/// A Ceph file system.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cephfs {
    /// Name of the file system.
    filesystem: String,
    /// Ceph's user without C(client.), whose keyring is C(/etc/ceph/ceph.client.USER.keyring).
    user: String,
}

/// Machines and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// An address, a network such as C(192.168.10.0/24), or a name.
    hosts: String,
    /// What they may do.
    #[serde(default)]
    access: Access,
    /// Whose rights on the server are taken from users who come as these.
    #[serde(default)]
    squash: Squash,
}

/// What clients may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    #[default]
    ReadWrite,
    ReadOnly,
}

/// Who becomes nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Squash {
    /// The administrator of the client.
    #[default]
    Root,
    /// Every user.
    All,
    /// No one: the client's administrator is the server's.
    None,
}

/// Which server exports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The kernel's where there is one and the directory is local, else Ganesha.
    #[default]
    Auto,
    Kernel,
    Ganesha,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    Absent,
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    server: Choice,
    export: Option<Export>,
}

/// What is exported, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Export {
    path: String,
    cephfs: Option<Cephfs>,
    pseudo: String,
    clients: Vec<Client>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        word("name", &params.name)?;
        let server = match (params.server, &params.cephfs) {
            (Choice::Kernel, Some(_)) => {
                return Err(Invalid::new(
                    "server",
                    "the kernel's server does not export a Ceph file system by itself",
                ));
            }
            (Choice::Auto, Some(_)) => Choice::Ganesha,
            (choice, _) => choice,
        };
        if params.state == State::Absent {
            return Ok(Self {
                name: params.name,
                server,
                export: None,
            });
        }
        let path = params
            .path
            .ok_or_else(|| Invalid::new("path", "is required for an export that is present"))?;
        absolute("path", &path)?;
        let pseudo = params.pseudo.unwrap_or_else(|| path.clone());
        absolute("pseudo", &pseudo)?;
        if pseudo == "/" {
            return Err(Invalid::new(
                "pseudo",
                "/ is the root that clients see all exports below",
            ));
        }
        if let Some(cephfs) = &params.cephfs {
            word("cephfs.filesystem", &cephfs.filesystem)?;
            word("cephfs.user", &cephfs.user)?;
        }
        if params.clients.is_empty() {
            return Err(Invalid::new("clients", "say who may mount it"));
        }
        let mut seen = BTreeSet::new();
        for (index, client) in params.clients.iter().enumerate() {
            let at = || format!("clients[{index}].hosts");
            let fine = !client.hosts.is_empty()
                && !client.hosts.starts_with('-')
                && client
                    .hosts
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.:/*?@".contains(&b));
            if !fine {
                return Err(Invalid::new(
                    at(),
                    format!("{:?} is not an address, network or name", client.hosts),
                ));
            }
            if !seen.insert(&client.hosts) {
                return Err(Invalid::new(
                    at(),
                    format!("{:?} is there twice", client.hosts),
                ));
            }
        }
        Ok(Self {
            name: params.name,
            server,
            export: Some(Export {
                path,
                cephfs: params.cephfs,
                pseudo,
                clients: params.clients,
            }),
        })
    }
}

/// The server that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Kernel,
    Ganesha,
}

impl Server {
    fn unit(self) -> &'static str {
        match self {
            Self::Kernel => "nfs-server",
            Self::Ganesha => "nfs-ganesha",
        }
    }

    /// Where its exports are, a file each.
    fn folder(self) -> &'static Path {
        Path::new(match self {
            Self::Kernel => "/etc/exports.d",
            Self::Ganesha => "/etc/ganesha/exports.d",
        })
    }

    fn file(self, name: &str) -> PathBuf {
        self.folder().join(match self {
            Self::Kernel => format!("{name}.exports"),
            Self::Ganesha => format!("{name}.conf"),
        })
    }
}

/// The machine's servers and exports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// Whether the kernel has an NFS server.
    has_kernel_server: bool,
    /// Texts of the chosen server's exports by name.
    exports: BTreeMap<String, String>,
    /// Text of Ganesha's configuration.
    main: Option<String>,
    unit: Unit,
    watch: Watch,
    /// When the newest of these was written, in seconds since 1970.
    written_at: u64,
}

/// The unit beside a Ganesha that exports CephFS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Watch {
    unit: Unit,
    text: Option<String>,
    /// In seconds since 1970.
    written_at: u64,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    WriteExport {
        server: Server,
        name: String,
        text: String,
        /// A local directory, which must be there.
        local: Option<String>,
        new: bool,
    },
    RemoveExport {
        server: Server,
        name: String,
    },
    /// Ganesha's configuration, which names the exports.
    WriteMain {
        text: String,
    },
    Enable(Server),
    Start(Server),
    Restart(Server),
    /// With a running Ganesha.
    Watch {
        text: String,
    },
    Unwatch,
    /// `exportfs -ra`.
    Publish,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |server: &Server| match server {
            Server::Kernel => "the kernel's NFS server",
            Server::Ganesha => "NFS-Ganesha",
        };
        match self {
            Self::WriteExport {
                server, name, new, ..
            } => {
                let what = if *new { "create" } else { "change" };
                write!(f, "{what} the export {name} of {}", of(server))
            }
            Self::RemoveExport { server, name } => {
                write!(f, "remove the export {name} of {}", of(server))
            }
            Self::WriteMain { .. } => write!(f, "write {MAIN}"),
            Self::Enable(server) => write!(f, "enable {}", of(server)),
            Self::Start(server) => write!(f, "start {}", of(server)),
            Self::Restart(server) => write!(f, "restart {} with its new exports", of(server)),
            Self::Watch { .. } => write!(
                f,
                "write and start {WATCH}, which restarts NFS-Ganesha when Ceph has shut it out"
            ),
            Self::Unwatch => write!(f, "stop and remove {WATCH}"),
            Self::Publish => write!(f, "let the kernel's NFS server know"),
        }
    }
}

const MAIN: &str = "/etc/ganesha/ganesha.conf";
const WATCH: &str = "nfs-ganesha-evicted.service";

fn watch_file() -> PathBuf {
    Path::new("/etc/systemd/system").join(WATCH)
}
