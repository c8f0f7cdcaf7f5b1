//! `ceph_monitor`: one monitor of a cluster, from its bootstrap to its safe removal.
//!
//! All founding monitors are given the same first map, so none of them can form a cluster alone, and one that lost its store finds the others
//! instead of founding a second cluster. It does not install packages, and leaves the cluster's options to `ceph_config`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use ondol_kit::{Invalid, Module, Secret, TextDiff};
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use crate::conf::{self, Conf};
use crate::key;
use crate::system::{Unit, check_name, short_hostname};

mod io;
mod plan;
#[cfg(test)]
mod tests;

pub use io::CephMonitor;
use plan::{list, plan, refusal};

/// Run a Ceph monitor, found a cluster with others, or take a monitor away
///
/// Writes C(/etc/ceph/ceph.conf) and the administrator's keyring, makes the monitor's store, starts it and waits until it is in the quorum. The
/// monitors of a new cluster are founded together: run the task on all of them at the same time, with `bootstrap`. A monitor whose store is lost
/// joins those that live. A store or configuration of another cluster is never touched.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of this monitor. The host name up to its first dot by default.
    name: Option<String>,
    /// Identifier of the cluster, a UUID.
    fsid: String,
    /// Addresses of all monitors by name: an odd number. For `absent` those that remain in the end.
    monitors: BTreeMap<String, String>,
    /// Whether a new cluster may be founded if none of the monitors lives.
    #[serde(default)]
    bootstrap: bool,
    /// Key of the monitors among themselves (user C(mon.)). Required for `present`.
    monitor_key: Option<Secret>,
    /// Key of C(client.admin). Required for `present`.
    admin_key: Option<Secret>,
    /// Network of clients and monitors.
    public_network: Option<String>,
    /// Network of OSDs among themselves.
    cluster_network: Option<String>,
    /// Whether the monitor should exist.
    #[serde(default)]
    state: State,
    /// Seconds to wait for the quorum. 0 does not wait, for monitors that are founded one after the other.
    #[serde(default = "patience")]
    #[schemars(range(max = 3600))]
    timeout_seconds: u32,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It exists and is in the quorum.
    #[default]
    Present,
    /// It is gone from the map of monitors and from this machine, if the others keep the quorum.
    Absent,
}

fn patience() -> u32 {
    180
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    fsid: Uuid,
    monitors: BTreeMap<String, IpAddr>,
    want: Want,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    Present {
        address: IpAddr,
        bootstrap: bool,
        monitor_key: Secret,
        admin_key: Secret,
        public_network: Option<IpNet>,
        cluster_network: Option<IpNet>,
        patience: Duration,
    },
    Absent,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let name = match params.name {
            Some(name) => name,
            None => short_hostname().map_err(|error| Invalid::new("name", format!("{error:#}")))?,
        };
        check_name("name", &name)?;
        let fsid = params
            .fsid
            .parse::<Uuid>()
            .ok()
            .filter(|it| !it.is_nil())
            .ok_or_else(|| Invalid::new("fsid", format!("{:?} is not a UUID", params.fsid)))?;
        let monitors = monitors(params.monitors)?;
        let network = |param, text: Option<String>| {
            text.map(|text| {
                text.parse::<IpNet>()
                    .map_err(|_| Invalid::new(param, format!("{text:?} is not a network")))
            })
            .transpose()
        };
        let secret = |param, key: Option<Secret>| {
            let key = key
                .ok_or_else(|| Invalid::new(param, "is required for a monitor that is present"))?;
            key::check(&key).map_err(|reason| Invalid::new(param, reason))?;
            Ok::<_, Invalid>(key)
        };
        let want = match params.state {
            State::Absent if monitors.contains_key(&name) => {
                return Err(Invalid::new(
                    "monitors",
                    format!("holds those that remain, so {name:?} cannot be among them"),
                ));
            }
            State::Absent => Want::Absent,
            State::Present => Want::Present {
                address: *monitors.get(&name).ok_or_else(|| {
                    Invalid::new("monitors", format!("does not hold {name:?}, this monitor"))
                })?,
                bootstrap: params.bootstrap,
                monitor_key: secret("monitor_key", params.monitor_key)?,
                admin_key: secret("admin_key", params.admin_key)?,
                public_network: network("public_network", params.public_network)?,
                cluster_network: network("cluster_network", params.cluster_network)?,
                patience: Duration::from_secs(params.timeout_seconds.into()),
            },
        };
        Ok(Self {
            name,
            fsid,
            monitors,
            want,
        })
    }
}

fn monitors(given: BTreeMap<String, String>) -> Result<BTreeMap<String, IpAddr>, Invalid> {
    let mut monitors: BTreeMap<String, IpAddr> = BTreeMap::new();
    for (name, address) in given {
        check_name("monitors", &name)?;
        let at = || format!("monitors.{name}");
        let parsed: IpAddr = address
            .parse()
            .map_err(|_| Invalid::new(at(), format!("{address:?} is not an address")))?;
        if monitors.values().any(|other| *other == parsed) {
            return Err(Invalid::new(at(), format!("{address} is used twice")));
        }
        monitors.insert(name, parsed);
    }
    if monitors.len().is_multiple_of(2) {
        return Err(Invalid::new(
            "monitors",
            format!(
                "{} is an even number: one more would not cost more failures, and one less would not allow fewer",
                monitors.len()
            ),
        ));
    }
    Ok(monitors)
}

impl Desired {
    fn conf(&self) -> Option<String> {
        match &self.want {
            Want::Absent => None,
            Want::Present {
                address,
                public_network,
                cluster_network,
                ..
            } => {
                let conf = Conf {
                    fsid: self.fsid,
                    monitors: self.monitors.clone(),
                    public_network: *public_network,
                    cluster_network: *cluster_network,
                };
                // A monitor that is not in the map yet takes its address from here.
                Some(format!(
                    "{}\n[mon.{}]\npublic_addr = {address}\n",
                    conf.text(),
                    self.name
                ))
            }
        }
    }
}

/// The machine and, where it must be known, the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Text of `/etc/ceph/ceph.conf`.
    conf: Option<String>,
    /// The administrator's key in its keyring.
    admin_key: Option<Secret>,
    unit: Unit,
    /// Cluster that the monitor's store belongs to.
    store: Option<Uuid>,
    /// Whether the monitor says it is in the quorum.
    in_quorum: bool,
    /// Clusters that OSDs of this machine belong to.
    osds_of: BTreeSet<Uuid>,
    /// Who answers at the other monitors' addresses; looked at if there is no store.
    peers: BTreeMap<IpAddr, Peer>,
    living: Living,
}

/// Another machine's monitor as a TCP connection finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Answers,
    /// The machine is there and no monitor listens.
    Refuses,
    /// Nothing is known about it.
    Silent(String),
}

/// The cluster as its quorum tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Living {
    /// Not asked: this machine has a store, or no monitor answers.
    NotAsked,
    Quorum {
        fsid: Uuid,
        /// Every monitor of the map.
        members: BTreeMap<String, IpAddr>,
        quorum: BTreeSet<String>,
    },
    /// A monitor answers, but not to this administrator.
    Denied(String),
    /// A monitor answers, and there is no quorum.
    NoQuorum(String),
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    WriteConf {
        text: String,
        new: bool,
    },
    WriteAdminKeyring {
        key: Secret,
    },
    /// Makes the store of a founding monitor.
    Found {
        monitors: BTreeMap<String, IpAddr>,
        keyring: Secret,
    },
    /// Makes the store of a monitor that joins, with the living monitors' map.
    Join {
        living: Vec<String>,
        keyring: Secret,
    },
    Enable,
    Start,
    AwaitQuorum {
        patience: Duration,
    },
    RemoveFromMap {
        remain: usize,
    },
    Stop,
    RemoveStore,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteConf { new, .. } => {
                let what = if *new { "write" } else { "change" };
                write!(f, "{what} {}", conf::PATH)
            }
            Self::WriteAdminKeyring { .. } => write!(f, "write {}", conf::ADMIN_KEYRING),
            Self::Found { monitors, .. } => {
                let names: Vec<&str> = monitors.keys().map(String::as_str).collect();
                write!(
                    f,
                    "make the monitor's store for a new cluster of {}",
                    names.join(", ")
                )
            }
            Self::Join { living, .. } => {
                write!(f, "make the monitor's store to join {}", living.join(", "))
            }
            Self::Enable => write!(f, "enable the monitor's service"),
            Self::Start => write!(f, "start the monitor"),
            Self::AwaitQuorum { .. } => write!(f, "wait until the monitor is in the quorum"),
            Self::RemoveFromMap { remain } => {
                write!(f, "remove the monitor from the map, which leaves {remain}")
            }
            Self::Stop => write!(f, "stop and disable the monitor's service"),
            Self::RemoveStore => write!(f, "remove the monitor's store"),
        }
    }
}
