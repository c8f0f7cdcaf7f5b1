//! `ceph_manager`: one manager daemon and the managers' modules. It does not configure what the modules do (`ceph_config` does).

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::bail;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::daemon::{self, Act, Daemon, Kind};
use crate::system::{check_name, short_hostname, wait};

/// Run a Ceph manager on this machine
///
/// Makes its user, starts it, and waits until the cluster counts it as the active manager or a standby. The machine needs C(/etc/ceph/ceph.conf) and
/// the administrator's keyring, as M(ondol.cloud.ceph_monitor) writes them. The cluster's last manager is not taken away.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of this manager. The host name up to its first dot by default.
    name: Option<String>,
    /// Modules that must be enabled, in all managers.
    #[serde(default)]
    modules: BTreeSet<String>,
    /// Modules that must not be enabled.
    #[serde(default)]
    disabled_modules: BTreeSet<String>,
    /// Whether the manager should exist.
    #[serde(default)]
    state: State,
    /// Seconds to wait until the cluster knows the manager.
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
    modules: BTreeSet<String>,
    disabled_modules: BTreeSet<String>,
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
        for module in params.modules.iter().chain(&params.disabled_modules) {
            check_name("modules", module)?;
        }
        if let Some(module) = params.modules.intersection(&params.disabled_modules).next() {
            return Err(Invalid::new(
                "disabled_modules",
                format!("{module:?} is in `modules`, too"),
            ));
        }
        Ok(Self {
            daemon: Daemon {
                kind: Kind::Manager,
                name,
            },
            modules: params.modules,
            disabled_modules: params.disabled_modules,
            present: params.state == State::Present,
            patience: Duration::from_secs(params.timeout_seconds.into()),
        })
    }
}

/// The daemon, and the managers as the cluster tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    daemon: daemon::Observed,
    active: String,
    standbys: BTreeSet<String>,
    modules: Modules,
}

/// What `ceph mgr module ls` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Modules {
    always_on_modules: BTreeSet<String>,
    enabled_modules: BTreeSet<String>,
}

/// What `ceph mgr dump` tells.
#[derive(Debug, Clone, Deserialize)]
struct Map {
    active_name: String,
    available: bool,
    standbys: Vec<Standby>,
}

#[derive(Debug, Clone, Deserialize)]
struct Standby {
    name: String,
}

impl Map {
    fn knows(&self, name: &str) -> bool {
        (self.available && self.active_name == name)
            || self.standbys.iter().any(|it| it.name == name)
    }
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Daemon(String, Act),
    Await { patience: Duration },
    EnableModule(String),
    DisableModule(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(name, act) => act.line(f, name),
            Self::Await { .. } => write!(f, "wait until the cluster counts the manager"),
            Self::EnableModule(module) => write!(f, "enable the managers' module {module}"),
            Self::DisableModule(module) => write!(f, "disable the managers' module {module}"),
        }
    }
}

fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let name = &desired.daemon.name;
    let others = current.standbys.iter().any(|it| it != name)
        || (!current.active.is_empty() && current.active != *name);
    let is_known = current.active == *name || current.standbys.contains(name);
    (!desired.present && is_known && !others).then(|| {
        format!("{name} is the only manager: a cluster without one does not know its own state")
    })
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let entity = desired.daemon.entity();
    let daemon = |acts: Vec<Act>| {
        acts.into_iter()
            .map(|act| Step::Daemon(entity.clone(), act))
    };
    if !desired.present {
        return daemon(daemon::plan_absent(&current.daemon)).collect();
    }
    let mut steps: Vec<Step> =
        daemon(daemon::plan_present(&desired.daemon, &current.daemon)).collect();
    let name = &desired.daemon.name;
    if current.active != *name && !current.standbys.contains(name) {
        steps.push(Step::Await {
            patience: desired.patience,
        });
    }
    let Modules {
        always_on_modules,
        enabled_modules,
    } = &current.modules;
    for module in desired.modules.difference(enabled_modules) {
        if !always_on_modules.contains(module) {
            steps.push(Step::EnableModule(module.clone()));
        }
    }
    for module in desired.disabled_modules.intersection(enabled_modules) {
        steps.push(Step::DisableModule(module.clone()));
    }
    steps
}

/// The module.
#[derive(Default)]
pub struct CephManager {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    daemon: Option<Daemon>,
}

impl Module for CephManager {
    const NAME: &'static str = "ceph_manager";
    const EXAMPLES: &'static str = r#"
- name: A manager on each storage server, with little memory
  ondol.cloud.ceph_manager:
    disabled_modules: [restful]

- name: The cluster's figures for Prometheus
  ondol.cloud.ceph_manager:
    modules: [prometheus]
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
        let map: Map = self.cluster.ask(&["mgr", "dump"])?;
        let standbys = map.standbys.iter().map(|it| it.name.clone()).collect();
        let current = Current {
            daemon: desired.daemon.observe(&self.cluster)?,
            active: if map.available {
                map.active_name
            } else {
                String::new()
            },
            standbys,
            modules: if desired.modules.is_empty() && desired.disabled_modules.is_empty() {
                Modules::default()
            } else {
                self.cluster.ask(&["mgr", "module", "ls"])?
            },
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
            Step::Await { patience } => wait(*patience, "the cluster counts the manager", || {
                let map: Map = self.cluster.ask(&["mgr", "dump"])?;
                let known = map.knows(&daemon.name);
                Ok((!known).then(|| format!("active is {:?}", map.active_name)))
            }),
            Step::EnableModule(module) => {
                self.cluster.run(&["mgr", "module", "enable", module])?;
                Ok(())
            }
            Step::DisableModule(module) => {
                self.cluster.run(&["mgr", "module", "disable", module])?;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Desired {
        let params: Params = serde_json::from_value(json).unwrap();
        Desired::try_from(params).unwrap()
    }

    fn current(active: &str, standbys: &[&str]) -> Current {
        Current {
            daemon: daemon::Observed::default(),
            active: active.to_owned(),
            standbys: standbys.iter().map(|it| (*it).to_owned()).collect(),
            modules: Modules {
                always_on_modules: BTreeSet::from(["balancer".to_owned()]),
                enabled_modules: BTreeSet::from(["restful".to_owned()]),
            },
        }
    }

    #[test]
    fn a_new_manager_is_waited_for_before_modules_are_switched() {
        let desired = desired(serde_json::json!({
            "name": "a", "modules": ["balancer", "prometheus"], "disabled_modules": ["restful", "nfs"]
        }));
        let lines: Vec<String> = plan(&desired, &current("", &[]))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "create the user mgr.a",
                "write the keyring of mgr.a",
                "enable the service of mgr.a",
                "start mgr.a",
                "wait until the cluster counts the manager",
                "enable the managers' module prometheus",
                "disable the managers' module restful",
            ]
        );
    }

    #[test]
    fn the_last_manager_stays() {
        let desired = desired(serde_json::json!({"name": "a", "state": "absent"}));
        assert!(refusal(&desired, &current("a", &[])).is_some());
        assert!(refusal(&desired, &current("", &["a"])).is_some());
        assert_eq!(refusal(&desired, &current("a", &["b"])), None);
        assert_eq!(refusal(&desired, &current("b", &["a"])), None);
        assert_eq!(refusal(&desired, &current("b", &[])), None);
    }

    #[test]
    fn the_map_of_a_real_cluster_is_read() {
        let map: Map =
            crate::cluster::parse(include_str!("../fixtures/pacific/mgr_dump.json")).unwrap();
        assert!(map.knows("ceph-03") && map.knows("ceph-02") && !map.knows("ceph-04"));
    }
}
