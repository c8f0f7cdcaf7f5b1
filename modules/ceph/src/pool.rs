//! `ceph_pool`: one pool, replicated or erasure-coded, from its creation to every change that can be made in place.
//!
//! It never trades safety silently: fewer copies need a word, and so does the loss of the data in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ondol_kit::Invalid;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::map::Pool;
use crate::system::check_name;

mod io;
mod plan;
#[cfg(test)]
mod tests;

pub use io::CephPool;
use plan::{plan, refusal};

/// Create, change or remove a pool of a Ceph cluster
///
/// A new pool has its `size` from the first moment and its `min_size` before an application may use it. What can be changed is changed in place; what
/// cannot (kind, erasure profile) is refused. What is left out is the cluster's default at creation, and left alone afterwards.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the pool.
    name: String,
    /// Whether the pool should exist.
    #[serde(default)]
    state: State,
    /// Copies of each object, of a replicated pool.
    #[schemars(range(min = 2, max = 10))]
    size: Option<u32>,
    /// Copies, or shards, that must be there for an object to be read and written.
    #[schemars(range(min = 1, max = 40))]
    min_size: Option<u32>,
    /// Makes the pool erasure-coded.
    erasure: Option<Erasure>,
    /// CRUSH rule that says where copies go.
    crush_rule: Option<String>,
    /// Placement groups. With autoscaling on this is only where it starts.
    #[schemars(range(min = 1, max = 65_536))]
    pg_num: Option<u32>,
    /// Whether the cluster chooses the number of placement groups.
    pg_autoscale: Option<Autoscale>,
    /// Applications that use the pool: `rbd`, `rgw`, `cephfs`, or a name of your own. Others are left alone.
    #[serde(default)]
    applications: BTreeSet<String>,
    /// Most bytes the pool may hold. 0 lifts the limit.
    quota_bytes: Option<u64>,
    /// Most objects the pool may hold. 0 lifts the limit.
    quota_objects: Option<u64>,
    /// Allow a smaller `size` or `min_size` than the pool has.
    #[serde(default)]
    allow_less_redundancy: bool,
    /// With `absent`: remove the pool although there are objects in it.
    #[serde(default)]
    delete_data: bool,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    /// The monitors must allow it (option `mon_allow_pool_delete`).
    Absent,
}

/// Who chooses the number of placement groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Autoscale {
    /// The cluster.
    On,
    /// You.
    Off,
    /// You, and the cluster warns.
    Warn,
}

impl Autoscale {
    fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Warn => "warn",
        }
    }
}

/// How an erasure-coded pool is cut.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// Shards with data.
    #[schemars(range(min = 2, max = 32))]
    k: u32,
    /// Shards that may be lost.
    #[schemars(range(min = 1, max = 32))]
    m: u32,
    /// What no two shards share.
    #[serde(default = "host")]
    failure_domain: String,
    /// Class of the devices.
    device_class: Option<String>,
    /// Allow changes within an object, as RBD and CephFS need. It cannot be taken back.
    #[serde(default)]
    overwrites: bool,
}

fn host() -> String {
    "host".to_owned()
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    want: Want,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    Present(Box<Spec>),
    Absent { delete_data: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    size: Option<u32>,
    min_size: Option<u32>,
    erasure: Option<Erasure>,
    crush_rule: Option<String>,
    pg_num: Option<u32>,
    pg_autoscale: Option<Autoscale>,
    applications: BTreeSet<String>,
    quota_bytes: Option<u64>,
    quota_objects: Option<u64>,
    allow_less_redundancy: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name("name", &params.name)?;
        if let Some(rule) = &params.crush_rule {
            check_name("crush_rule", rule)?;
        }
        for application in &params.applications {
            check_name("applications", application)?;
        }
        let mut most = params.size;
        if let Some(erasure) = &params.erasure {
            check_name("erasure.failure_domain", &erasure.failure_domain)?;
            if let Some(class) = &erasure.device_class {
                check_name("erasure.device_class", class)?;
            }
            if params.size.is_some() {
                return Err(Invalid::new(
                    "size",
                    "an erasure-coded pool has k + m shards",
                ));
            }
            if params.min_size.is_some_and(|it| it < erasure.k) {
                return Err(Invalid::new(
                    "min_size",
                    format!("{} shards are needed to read at all", erasure.k),
                ));
            }
            most = Some(erasure.k + erasure.m);
        }
        if let (Some(min_size), Some(most)) = (params.min_size, most)
            && min_size > most
        {
            return Err(Invalid::new(
                "min_size",
                format!("{min_size} is more than there are copies or shards ({most})"),
            ));
        }
        Ok(Self {
            name: params.name,
            want: match params.state {
                State::Absent => Want::Absent {
                    delete_data: params.delete_data,
                },
                State::Present => Want::Present(Box::new(Spec {
                    size: params.size,
                    min_size: params.min_size,
                    erasure: params.erasure,
                    crush_rule: params.crush_rule,
                    pg_num: params.pg_num,
                    pg_autoscale: params.pg_autoscale,
                    applications: params.applications,
                    quota_bytes: params.quota_bytes,
                    quota_objects: params.quota_objects,
                    allow_less_redundancy: params.allow_less_redundancy,
                })),
            },
        })
    }
}

/// The profile of our own that an erasure-coded pool is made with.
impl Erasure {
    fn profile(&self) -> BTreeMap<String, String> {
        let mut profile = BTreeMap::from([
            ("k".to_owned(), self.k.to_string()),
            ("m".to_owned(), self.m.to_string()),
            (
                "crush-failure-domain".to_owned(),
                self.failure_domain.clone(),
            ),
        ]);
        if let Some(class) = &self.device_class {
            profile.insert("crush-device-class".to_owned(), class.clone());
        }
        profile
    }

    /// What in a profile is not as it is asked for.
    fn differs_from(&self, profile: &BTreeMap<String, String>) -> Option<String> {
        // Ceph shows a class that was not asked for as an empty one.
        self.profile().into_iter().find_map(|(key, wanted)| {
            let is = profile.get(&key).map_or("", String::as_str);
            (is != wanted).then(|| format!("{key} is {is:?}, not {wanted:?}"))
        })
    }
}

/// The pool and what it refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    pool: Option<Pool>,
    /// Name of the pool's rule.
    rule: Option<String>,
    /// The pool's profile, or the one that its creation would take up.
    profile: Option<BTreeMap<String, String>>,
    /// Names of all rules.
    rules: BTreeSet<String>,
    /// Only asked for a pool that should go.
    objects: Option<u64>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CreateProfile {
        name: String,
        profile: BTreeMap<String, String>,
    },
    CreateReplicated {
        pg_num: Option<u32>,
        size: Option<u32>,
        rule: Option<String>,
        autoscale: Option<Autoscale>,
    },
    CreateErasure {
        pg_num: Option<u32>,
        profile: String,
        rule: Option<String>,
        autoscale: Option<Autoscale>,
    },
    /// A property and its value; `from` is missing for a new pool.
    Set {
        property: &'static str,
        value: String,
        from: Option<String>,
    },
    SetQuota {
        property: &'static str,
        value: u64,
        from: Option<u64>,
    },
    Enable {
        application: String,
    },
    Delete {
        objects: u64,
    },
    DeleteProfile {
        name: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateProfile { name, profile } => {
                let words: Vec<String> = profile
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                write!(f, "create the erasure profile {name} ({})", words.join(" "))
            }
            Self::CreateReplicated { size, rule, .. } => {
                write!(f, "create the replicated pool")?;
                if let Some(size) = size {
                    write!(f, " with {size} copies")?;
                }
                match rule {
                    Some(rule) => write!(f, " by the rule {rule}"),
                    None => Ok(()),
                }
            }
            Self::CreateErasure { profile, .. } => {
                write!(f, "create the erasure-coded pool by the profile {profile}")
            }
            Self::Set {
                property,
                value,
                from,
            } => {
                write!(f, "set {property} to {value}")?;
                match from {
                    Some(from) => write!(f, " (is {from})"),
                    None => Ok(()),
                }
            }
            Self::SetQuota {
                property,
                value,
                from,
            } => {
                write!(f, "set the quota {property} to {value}")?;
                match from {
                    Some(from) => write!(f, " (is {from})"),
                    None => Ok(()),
                }
            }
            Self::Enable { application } => write!(f, "enable the application {application}"),
            Self::Delete { objects } => write!(f, "delete the pool with its {objects} objects"),
            Self::DeleteProfile { name } => write!(f, "delete the erasure profile {name}"),
        }
    }
}
