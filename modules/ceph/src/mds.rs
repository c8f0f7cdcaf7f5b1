//! `ceph_mds`: one metadata server, a standby until a file system takes it. File systems are `ceph_filesystem`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::bail;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::daemon::{self, Act, Daemon, Kind};
use crate::filesystem::Dump;
use crate::system::{check_name, short_hostname, wait};

/// Run a Ceph metadata server on this machine
///
/// Makes its user, starts it, and waits until the cluster counts it. One that serves a file system goes only if a standby can take over. The machine
/// needs C(/etc/ceph/ceph.conf) and the administrator's keyring.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of this server. The host name up to its first dot by default. It must not begin with a digit.
    name: Option<String>,
    /// Whether the server should exist.
    #[serde(default)]
    state: State,
    /// Seconds to wait until the cluster knows the server.
    #[serde(default = "patience")]
    #[schemars(range(min = 1, max = 3600))]
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
    daemon: Daemon,
    present: bool,
    patience: Duration,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let name = match params.name {
            Some(name) => name,
            None => short_hostname().map_err(|error| Invalid::new("name", format!("{error:#}")))?,
        };
        check_name("name", &name)?;
        // The server itself takes such a name for a rank.
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Invalid::new(
                "name",
                format!("{name:?} begins with a digit"),
            ));
        }
        Ok(Self {
            daemon: Daemon {
                kind: Kind::Mds,
                name,
            },
            present: params.state == State::Present,
            patience: Duration::from_secs(params.timeout_seconds.into()),
        })
    }
}

/// The daemon, and the servers as the cluster tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    daemon: daemon::Observed,
    /// State of each server by name; `up:active` ones serve a file system.
    servers: BTreeMap<String, String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Daemon(String, Act),
    Await { patience: Duration },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(name, act) => act.line(f, name),
            Self::Await { .. } => write!(f, "wait until the cluster counts the server"),
        }
    }
}

fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let name = &desired.daemon.name;
    let serves = current
        .servers
        .get(name)
        .is_some_and(|state| state != "up:standby");
    let standby = current
        .servers
        .iter()
        .any(|(other, state)| other != name && state.starts_with("up:standby"));
    (!desired.present && serves && !standby)
        .then(|| format!("{name} serves a file system and no standby can take over"))
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let entity = desired.daemon.entity();
    let acts = if desired.present {
        daemon::plan_present(&desired.daemon, &current.daemon)
    } else {
        daemon::plan_absent(&current.daemon)
    };
    let mut steps: Vec<Step> = acts
        .into_iter()
        .map(|act| Step::Daemon(entity.clone(), act))
        .collect();
    if desired.present && !current.servers.contains_key(&desired.daemon.name) {
        steps.push(Step::Await {
            patience: desired.patience,
        });
    }
    steps
}

/// The module.
#[derive(Default)]
pub struct CephMds {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    daemon: Option<Daemon>,
}

impl Module for CephMds {
    const NAME: &'static str = "ceph_mds";
    const EXAMPLES: &'static str = r#"
- name: A metadata server on each storage server, one to serve and the others in reserve
  ondol.cloud.ceph_mds:
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.daemon = Some(desired.daemon.clone());
        if desired.present && !self.cluster.is_known() {
            return Ok(Current::default());
        }
        let dump: Dump = self.cluster.ask(&["fs", "dump"])?;
        let current = Current {
            daemon: desired.daemon.observe(&self.cluster)?,
            servers: dump.servers(),
        };
        match refusal(desired, &current) {
            Some(reason) => bail!("refused: {reason}"),
            None => Ok(current),
        }
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let daemon = self.daemon.as_ref().expect("observe was called before");
        match step {
            Step::Daemon(_, act) => daemon.apply(&self.cluster, act),
            Step::Await { patience } => wait(*patience, "the cluster counts the server", || {
                let dump: Dump = self.cluster.ask(&["fs", "dump"])?;
                let known = dump.servers().contains_key(&daemon.name);
                Ok((!known).then(|| "it is not among the metadata servers".to_owned()))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Desired {
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap()).unwrap()
    }

    fn servers(all: &[(&str, &str)]) -> Current {
        Current {
            servers: all
                .iter()
                .map(|(name, state)| ((*name).into(), (*state).into()))
                .collect(),
            ..Current::default()
        }
    }

    #[test]
    fn a_new_server_is_waited_for() {
        let lines: Vec<String> = plan(
            &desired(serde_json::json!({"name": "a"})),
            &servers(&[("b", "up:active")]),
        )
        .iter()
        .map(ToString::to_string)
        .collect();
        assert_eq!(
            lines,
            [
                "create the user mds.a",
                "write the keyring of mds.a",
                "enable the service of mds.a",
                "start mds.a",
                "wait until the cluster counts the server",
            ]
        );
    }

    #[test]
    fn the_last_one_that_serves_stays() {
        let absent = desired(serde_json::json!({"name": "a", "state": "absent"}));
        for (all, refused) in [
            (&[("a", "up:active")][..], true),
            (&[("a", "up:active"), ("b", "up:active")], true),
            (&[("a", "up:active"), ("b", "up:standby")], false),
            (&[("a", "up:active"), ("b", "up:standby-replay")], false),
            (&[("a", "up:standby"), ("b", "up:active")], false),
            (&[], false),
        ] {
            assert_eq!(
                refusal(&absent, &servers(all)).is_some(),
                refused,
                "{all:?}"
            );
        }
    }
}
