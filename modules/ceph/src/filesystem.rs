//! `ceph_filesystem`: one CephFS over pools that are there, and that it is served.
//!
//! It makes neither pools nor metadata servers, and mounts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::bail;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::map::OsdMap;
use crate::system::{check_name, wait};

/// Create, change or remove a file system of a Ceph cluster
///
/// The pools come from M(ondol.cloud.ceph_pool), the servers from M(ondol.cloud.ceph_mds). It is waited until as many servers are active as asked for.
/// The pools of a file system that is removed stay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the file system.
    name: String,
    /// Pool of the metadata. Required for `present`.
    metadata_pool: Option<String>,
    /// Pools of the data, the default one first. Required for `present`. Others that the file system has are left alone.
    #[serde(default)]
    data_pools: Vec<String>,
    /// Metadata servers that serve it at the same time.
    #[schemars(range(min = 1, max = 64))]
    max_mds: Option<u32>,
    /// Standbys that must be there, or the cluster warns.
    standbys_wanted: Option<u32>,
    /// Whether the file system should exist.
    #[serde(default)]
    state: State,
    /// With `absent`: take it out of service and remove it with the way to its files.
    #[serde(default)]
    delete_data: bool,
    /// Seconds to wait until it is served. 0 does not wait.
    #[serde(default = "patience")]
    #[schemars(range(max = 3600))]
    timeout_seconds: u32,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    Absent,
}

fn patience() -> u32 {
    120
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    want: Want,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    Present {
        metadata_pool: String,
        /// At least one.
        data_pools: Vec<String>,
        max_mds: Option<u32>,
        standbys_wanted: Option<u32>,
        patience: Duration,
    },
    Absent {
        delete_data: bool,
    },
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name("name", &params.name)?;
        for pool in &params.data_pools {
            check_name("data_pools", pool)?;
        }
        let want = match params.state {
            State::Absent => Want::Absent {
                delete_data: params.delete_data,
            },
            State::Present => {
                let required =
                    |param| Invalid::new(param, "is required for a file system that is present");
                let metadata_pool = params
                    .metadata_pool
                    .ok_or_else(|| required("metadata_pool"))?;
                check_name("metadata_pool", &metadata_pool)?;
                if params.data_pools.is_empty() {
                    return Err(required("data_pools"));
                }
                if params.data_pools.contains(&metadata_pool) {
                    return Err(Invalid::new(
                        "data_pools",
                        format!("{metadata_pool:?} is the metadata's pool"),
                    ));
                }
                Want::Present {
                    metadata_pool,
                    data_pools: params.data_pools,
                    max_mds: params.max_mds,
                    standbys_wanted: params.standbys_wanted,
                    patience: Duration::from_secs(params.timeout_seconds.into()),
                }
            }
        };
        Ok(Self {
            name: params.name,
            want,
        })
    }
}

/// What `ceph fs dump` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Dump {
    #[serde(default)]
    standbys: Vec<Server>,
    #[serde(default)]
    filesystems: Vec<Filesystem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Server {
    name: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Filesystem {
    mdsmap: MdsMap,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct MdsMap {
    fs_name: String,
    max_mds: u32,
    standby_count_wanted: u32,
    #[serde(default)]
    info: BTreeMap<String, Server>,
}

impl Dump {
    /// State of each metadata server by name.
    pub(crate) fn servers(&self) -> BTreeMap<String, String> {
        self.standbys
            .iter()
            .chain(
                self.filesystems
                    .iter()
                    .flat_map(|it| it.mdsmap.info.values()),
            )
            .map(|it| (it.name.clone(), it.state.clone()))
            .collect()
    }

    fn served(&self, name: &str) -> Option<Served> {
        let map = &self
            .filesystems
            .iter()
            .find(|it| it.mdsmap.fs_name == name)?
            .mdsmap;
        let active = map
            .info
            .values()
            .filter(|it| it.state == "up:active")
            .count();
        Some(Served {
            max_mds: map.max_mds,
            standbys_wanted: map.standby_count_wanted,
            active: u32::try_from(active).unwrap_or(u32::MAX),
        })
    }
}

/// One of `ceph fs ls`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Listed {
    name: String,
    metadata_pool: String,
    data_pools: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Served {
    max_mds: u32,
    standbys_wanted: u32,
    active: u32,
}

/// The file system and the pools of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    listed: Option<Listed>,
    served: Option<Served>,
    pools: BTreeSet<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create {
        metadata_pool: String,
        data_pool: String,
    },
    AddDataPool(String),
    SetMaxMds {
        max_mds: u32,
        from: Option<u32>,
    },
    SetStandbysWanted {
        count: u32,
        from: Option<u32>,
    },
    AwaitActive {
        count: u32,
        patience: Duration,
    },
    Fail,
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let was = |f: &mut fmt::Formatter<'_>, from: &Option<u32>| match from {
            Some(from) => write!(f, " (is {from})"),
            None => Ok(()),
        };
        match self {
            Self::Create {
                metadata_pool,
                data_pool,
            } => write!(
                f,
                "create the file system on {metadata_pool} and {data_pool}"
            ),
            Self::AddDataPool(pool) => write!(f, "add the data pool {pool}"),
            Self::SetMaxMds { max_mds, from } => {
                write!(f, "let {max_mds} metadata servers be active")?;
                was(f, from)
            }
            Self::SetStandbysWanted { count, from } => {
                write!(f, "want {count} standbys")?;
                was(f, from)
            }
            Self::AwaitActive { count, .. } => {
                write!(f, "wait until {count} metadata servers are active")
            }
            Self::Fail => write!(f, "take the file system out of service"),
            Self::Remove => write!(f, "remove the file system; its pools stay"),
        }
    }
}

fn no_pool(name: &str) -> String {
    format!("there is no pool {name}")
}

fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let name = &desired.name;
    match &desired.want {
        Want::Absent { delete_data } => (current.listed.is_some() && !delete_data).then(|| {
            format!("the file system {name} may hold files; `delete_data: true` gives them up")
        }),
        Want::Present {
            metadata_pool,
            data_pools,
            ..
        } => {
            // In check mode an earlier task may be about to make the pools of a new file system; making it says so if there are none.
            let listed = current.listed.as_ref()?;
            if let Some(pool) = [metadata_pool]
                .into_iter()
                .chain(data_pools)
                .find(|it| !current.pools.contains(*it))
            {
                return Some(no_pool(pool));
            }
            if listed.metadata_pool != *metadata_pool {
                return Some(format!(
                    "the file system {name} has its metadata in {}, and cannot move to {metadata_pool}",
                    listed.metadata_pool
                ));
            }
            (listed.data_pools.first() != data_pools.first()).then(|| {
                format!(
                    "the default data pool of the file system {name} is {}, and stays so",
                    listed.data_pools.first().map_or("none", String::as_str)
                )
            })
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let Want::Present {
        metadata_pool,
        data_pools,
        max_mds,
        standbys_wanted,
        patience,
    } = &desired.want
    else {
        if current.listed.is_some() {
            steps.extend([Step::Fail, Step::Remove]);
        }
        return steps;
    };
    let has = match &current.listed {
        Some(listed) => listed.data_pools.as_slice(),
        None => {
            steps.push(Step::Create {
                metadata_pool: metadata_pool.clone(),
                data_pool: data_pools[0].clone(),
            });
            &data_pools[..1]
        }
    };
    let added = data_pools.iter().filter(|it| !has.contains(it));
    steps.extend(added.map(|it| Step::AddDataPool(it.clone())));
    let served = current.served.as_ref();
    if let Some(max_mds) = *max_mds
        && served.map_or(1, |it| it.max_mds) != max_mds
    {
        steps.push(Step::SetMaxMds {
            max_mds,
            from: served.map(|it| it.max_mds),
        });
    }
    if let Some(count) = *standbys_wanted
        && served.map_or(1, |it| it.standbys_wanted) != count
    {
        steps.push(Step::SetStandbysWanted {
            count,
            from: served.map(|it| it.standbys_wanted),
        });
    }
    let count = max_mds.unwrap_or_else(|| served.map_or(1, |it| it.max_mds));
    if !patience.is_zero() && served.is_none_or(|it| it.active != count) {
        steps.push(Step::AwaitActive {
            count,
            patience: *patience,
        });
    }
    steps
}

/// The module.
#[derive(Default)]
pub struct CephFilesystem {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    name: String,
}

impl Module for CephFilesystem {
    const NAME: &'static str = "ceph_filesystem";
    const EXAMPLES: &'static str = r#"
- name: A file system with a standby
  ondol.cloud.ceph_filesystem:
    name: shared
    metadata_pool: shared.meta
    data_pools: [shared.data]
    max_mds: 1
    standbys_wanted: 1
"#;

    /// A server that prefers the file system (`mds_join_fs`) takes the place of whoever was active first.
    const ROUNDS: usize = 3;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.name.clone_from(&desired.name);
        if matches!(desired.want, Want::Present { .. }) && !self.cluster.is_known() {
            return Ok(Current::default());
        }
        let listed: Vec<Listed> = self.cluster.ask(&["fs", "ls"])?;
        let mut current = Current {
            listed: listed.into_iter().find(|it| it.name == desired.name),
            ..Current::default()
        };
        if let Want::Present { .. } = desired.want {
            let dump: Dump = self.cluster.ask(&["fs", "dump"])?;
            let map: OsdMap = self.cluster.ask(&["osd", "dump"])?;
            current.served = dump.served(&desired.name);
            current.pools = map.pools.into_iter().map(|it| it.pool_name).collect();
        }
        match refusal(desired, &current) {
            Some(reason) => bail!("refused: {reason}"),
            None => Ok(current),
        }
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let name = self.name.as_str();
        let run = |args: &[&str]| {
            self.cluster.run(args)?;
            Ok(())
        };
        match step {
            Step::Create {
                metadata_pool,
                data_pool,
            } => {
                let map: OsdMap = self.cluster.ask(&["osd", "dump"])?;
                for pool in [metadata_pool, data_pool] {
                    if !map.pools.iter().any(|it| it.pool_name == *pool) {
                        bail!("refused: {}", no_pool(pool));
                    }
                }
                run(&["fs", "new", name, metadata_pool, data_pool])
            }
            Step::AddDataPool(pool) => run(&["fs", "add_data_pool", name, pool]),
            Step::SetMaxMds { max_mds, .. } => {
                run(&["fs", "set", name, "max_mds", &max_mds.to_string()])
            }
            Step::SetStandbysWanted { count, .. } => run(&[
                "fs",
                "set",
                name,
                "standby_count_wanted",
                &count.to_string(),
            ]),
            Step::AwaitActive { count, patience } => {
                wait(*patience, "the file system is served", || {
                    let dump: Dump = self.cluster.ask(&["fs", "dump"])?;
                    let active = dump.served(name).map_or(0, |it| it.active);
                    Ok((active != *count).then(|| {
                        format!(
                            "{active} of {count} metadata servers are active; all: {:?}",
                            dump.servers()
                        )
                    }))
                })
            }
            Step::Fail => run(&["fs", "fail", name]),
            Step::Remove => run(&["fs", "rm", name, "--yes-i-really-mean-it"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(change: serde_json::Value) -> Result<Desired, Invalid> {
        let mut json =
            serde_json::json!({"name": "shared", "metadata_pool": "meta", "data_pools": ["data"]});
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    fn absent() -> Current {
        Current {
            pools: ["meta", "data", "more"].map(str::to_owned).into(),
            ..Current::default()
        }
    }

    fn present() -> Current {
        Current {
            listed: Some(Listed {
                name: "shared".into(),
                metadata_pool: "meta".into(),
                data_pools: vec!["data".into()],
            }),
            served: Some(Served {
                max_mds: 1,
                standbys_wanted: 1,
                active: 1,
            }),
            ..absent()
        }
    }

    fn lines(change: serde_json::Value, current: &Current) -> Vec<String> {
        let desired = desired(change).unwrap();
        assert_eq!(refusal(&desired, current), None);
        plan(&desired, current)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_file_system_is_created_changed_and_left_alone() {
        use serde_json::json;
        for (change, current, wanted) in [
            (
                json!({"data_pools": ["data", "more"], "max_mds": 2, "standbys_wanted": 1}),
                absent(),
                vec![
                    "create the file system on meta and data",
                    "add the data pool more",
                    "let 2 metadata servers be active",
                    "wait until 2 metadata servers are active",
                ],
            ),
            (json!({"max_mds": 1}), present(), vec![]),
            (
                json!({"max_mds": 2, "standbys_wanted": 0}),
                present(),
                vec![
                    "let 2 metadata servers be active (is 1)",
                    "want 0 standbys (is 1)",
                    "wait until 2 metadata servers are active",
                ],
            ),
            (
                json!({"state": "absent", "delete_data": true}),
                present(),
                vec![
                    "take the file system out of service",
                    "remove the file system; its pools stay",
                ],
            ),
            (json!({"state": "absent"}), absent(), vec![]),
        ] {
            assert_eq!(lines(change, &current), wanted);
        }
    }

    #[test]
    fn a_new_file_system_is_planned_before_its_pools_are_there() {
        let bare = Current::default();
        assert_eq!(
            refusal(&desired(serde_json::json!({})).unwrap(), &bare),
            None
        );
        assert_eq!(
            lines(serde_json::json!({}), &bare),
            lines(serde_json::json!({}), &absent())
        );
    }

    #[test]
    fn what_would_lose_files_or_cannot_be_is_refused() {
        use serde_json::json;
        for (change, wanted) in [
            (
                json!({"state": "absent"}),
                "the file system shared may hold files",
            ),
            (
                json!({"metadata_pool": "more"}),
                "the file system shared has its metadata in meta",
            ),
            (
                json!({"data_pools": ["more"]}),
                "the default data pool of the file system shared is data",
            ),
            (
                json!({"data_pools": ["data", "nope"]}),
                "there is no pool nope",
            ),
        ] {
            let reason = refusal(&desired(change).unwrap(), &present()).expect(wanted);
            assert!(reason.starts_with(wanted), "{reason}");
        }
        for (change, wanted) in [
            (json!({"data_pools": []}), "data_pools: is required"),
            (json!({"metadata_pool": null}), "metadata_pool: is required"),
            (
                json!({"data_pools": ["meta"]}),
                "data_pools: \"meta\" is the metadata's pool",
            ),
        ] {
            let error = desired(change).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
