//! `ceph_osd`: one OSD on a raw device, or on a file where there is no device; found again by what BlueStore wrote on it.
//!
//! It neither partitions nor encrypts devices and knows nothing of LVM; an OSD of `ceph-volume` is not its business.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use crate::map::{Osd, OsdMap, Rule, Tree};
use crate::system::{Unit, check_name};

mod io;
mod plan;
#[cfg(test)]
mod tests;

pub use io::CephOsd;
use plan::{plan, refusal};

/// Run a Ceph OSD on a device or a file, or take one away
///
/// An OSD is known by the identifier on its device, not by the device's name: a device that moved, or whose machine was installed anew, is taken into
/// service again with its data. A device that holds anything else is refused. An OSD is removed only if the cluster says that it can be stopped and,
/// after its data has moved, that it is safe to destroy. The machine needs C(/etc/ceph/ceph.conf) and the administrator's keyring.
///
/// An empty device in the place of one that was an OSD is its replacement: the new OSD gets a number of its own, the former one is marked out and its
/// service retired, so that its data is made anew on the new device. The cluster keeps the former one until it is removed by its `id`, which is
/// refused as long as copies are missing.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Block device, best by a name below C(/dev/disk/by-id) that does not change. It must be empty, or an OSD of this cluster.
    device: Option<String>,
    /// File in place of a device, for machines that have none.
    file: Option<String>,
    /// Size of the file when it is made.
    #[schemars(range(min = 1024))]
    file_size_mib: Option<u64>,
    /// Number of the OSD to remove, for one whose device is gone.
    id: Option<u32>,
    /// Class of the device, such as `ssd`, which CRUSH rules can ask for.
    device_class: Option<String>,
    /// Memory that the OSD tries to stay within.
    #[schemars(range(min = 896))]
    memory_target_mib: Option<u64>,
    /// Whether the OSD should exist.
    #[serde(default)]
    state: State,
    /// With `absent`: make the device empty, or remove the file.
    #[serde(default)]
    zap: bool,
    /// Seconds to wait until the OSD is up, or its data has moved away.
    #[serde(default = "patience")]
    #[schemars(range(min = 1, max = 604_800))]
    timeout_seconds: u32,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It exists and is up.
    #[default]
    Present,
    /// It is gone from the cluster and from this machine, without loss of a copy.
    Absent,
}

fn patience() -> u32 {
    180
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    place: Option<Place>,
    want: Want,
    patience: Duration,
}

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Device(PathBuf),
    File {
        path: PathBuf,
        size_mib: Option<u64>,
    },
}

impl Place {
    fn path(&self) -> &PathBuf {
        match self {
            Self::Device(path) | Self::File { path, .. } => path,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    Present {
        device_class: Option<String>,
        memory_target: Option<u64>,
    },
    Absent {
        id: Option<u32>,
        zap: bool,
    },
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let absolute = |param, text: String| {
            let path = PathBuf::from(&text);
            let fine = path.is_absolute() && !text.contains(char::is_whitespace);
            fine.then_some(path).ok_or_else(|| {
                Invalid::new(
                    param,
                    format!("{text:?} is not an absolute path without blanks"),
                )
            })
        };
        let place = match (params.device, params.file) {
            (Some(_), Some(_)) => {
                return Err(Invalid::new(
                    "file",
                    "an OSD is on a device or on a file, not both",
                ));
            }
            (Some(device), None) => Some(Place::Device(absolute("device", device)?)),
            (None, Some(file)) => Some(Place::File {
                path: absolute("file", file)?,
                size_mib: params.file_size_mib,
            }),
            (None, None) => None,
        };
        let present = params.state == State::Present;
        if present && place.is_none() {
            return Err(Invalid::new(
                "device",
                "an OSD needs a `device` or a `file`",
            ));
        }
        if present && params.id.is_some() {
            return Err(Invalid::new("id", "the cluster numbers OSDs itself"));
        }
        if !present && place.is_none() && params.id.is_none() {
            return Err(Invalid::new(
                "id",
                "say which OSD goes, by `id`, `device` or `file`",
            ));
        }
        if let Some(class) = &params.device_class {
            check_name("device_class", class)?;
        }
        Ok(Self {
            place,
            want: if present {
                Want::Present {
                    device_class: params.device_class,
                    memory_target: params.memory_target_mib.map(|mib| mib << 20),
                }
            } else {
                Want::Absent {
                    id: params.id,
                    zap: params.zap,
                }
            },
            patience: Duration::from_secs(params.timeout_seconds.into()),
        })
    }
}

/// What is on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Label {
    /// Not asked for, or there is no such device or file.
    Nowhere,
    Empty,
    Osd {
        uuid: Uuid,
        /// What BlueStore writes last when it is made; `None`: it never was whole.
        whole: Option<Whole>,
    },
    /// Something else, in blkid's words.
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    id: u32,
    cluster: Uuid,
}

/// The machine's part of an OSD, by its number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// Its directory is there.
    folder: bool,
    unit: Unit,
    /// Text of our addition to its service.
    drop_in: Option<String>,
}

/// An OSD of this machine whose directory names the place as its device, and whose uuid is not the one that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    id: u32,
    uuid: Uuid,
    unit: Unit,
}

/// The device, the machine and the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    label: Label,
    /// In the order of their numbers.
    former: Vec<Former>,
    /// OSD that an earlier run began on this place and did not finish.
    begun: Option<Uuid>,
    /// In case one is needed: chance has no place in `plan`.
    spare: Uuid,
    local: Local,
    map: OsdMap,
    tree: Tree,
    memory_target: Option<u64>,
    removal: Option<Removal>,
}

/// What the cluster says about stopping and destroying the OSD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    rules: Vec<Rule>,
    stop: Verdict,
    destroy: Verdict,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    No(String),
    /// The cluster cannot tell now.
    #[default]
    Unknown,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CreateFile {
        path: PathBuf,
        size_mib: u64,
    },
    Create {
        path: PathBuf,
        uuid: Uuid,
        begun: bool,
    },
    Activate {
        path: PathBuf,
        uuid: Uuid,
        id: u32,
    },
    WriteDropIn {
        text: String,
    },
    Enable,
    Start,
    AwaitUp {
        patience: Duration,
    },
    SetClass {
        class: String,
        from: Option<String>,
    },
    SetMemoryTarget {
        bytes: u64,
        from: Option<u64>,
    },
    MarkOut {
        id: u32,
    },
    /// The service of an OSD whose device another one took the place of.
    Retire {
        id: u32,
    },
    AwaitSafe {
        id: u32,
        patience: Duration,
    },
    Stop {
        id: u32,
    },
    Purge {
        id: u32,
    },
    RemoveFolder {
        id: u32,
    },
    /// What is here of an OSD that never was whole.
    RemoveBegun {
        uuid: Uuid,
    },
    Zap {
        path: PathBuf,
        is_file: bool,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateFile { path, size_mib } => {
                write!(f, "create the file {} of {size_mib} MiB", path.display())
            }
            Self::Create {
                path, begun: false, ..
            } => write!(f, "create an OSD on {}", path.display()),
            Self::Create { path, .. } => {
                write!(f, "finish the OSD that was begun on {}", path.display())
            }
            Self::Activate { path, id, .. } => {
                write!(f, "take osd.{id} on {} into service again", path.display())
            }
            Self::WriteDropIn { .. } => write!(f, "give the OSD its device at every start"),
            Self::Enable => write!(f, "enable the OSD's service"),
            Self::Start => write!(f, "start the OSD"),
            Self::AwaitUp { .. } => write!(f, "wait until the OSD is up"),
            Self::SetClass { class, from: None } => write!(f, "set the device class {class}"),
            Self::SetClass {
                class,
                from: Some(from),
            } => {
                write!(f, "set the device class {class} (is {from})")
            }
            Self::SetMemoryTarget { bytes, from } => {
                write!(f, "set the memory target to {} MiB", bytes >> 20)?;
                match from {
                    Some(from) => write!(f, " (is {} MiB)", from >> 20),
                    None => Ok(()),
                }
            }
            Self::MarkOut { id } => write!(f, "mark osd.{id} out, so that its data moves away"),
            Self::Retire { id } => {
                write!(f, "retire the service of osd.{id}, whose device is gone")
            }
            Self::AwaitSafe { id, .. } => write!(f, "wait until osd.{id} is safe to destroy"),
            Self::Stop { id } => write!(f, "stop osd.{id}"),
            Self::Purge { id } => write!(f, "purge osd.{id} from the cluster"),
            Self::RemoveFolder { id } => write!(f, "remove what osd.{id} has on this machine"),
            Self::RemoveBegun { .. } => write!(f, "remove what was begun of the OSD"),
            Self::Zap {
                path,
                is_file: true,
            } => write!(f, "remove the file {}", path.display()),
            Self::Zap { path, .. } => write!(f, "make {} empty", path.display()),
        }
    }
}

impl Current {
    fn entry(&self, uuid: Uuid) -> Option<&Osd> {
        self.map.osds.iter().find(|osd| osd.uuid == uuid)
    }
}
