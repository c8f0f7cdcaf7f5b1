//! `ceph_rgw`: one object gateway, which speaks S3. Its realm and zone are `ceph_rgw_zone`'s, its users `ceph_rgw_user`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::config::{Set, is_same};
use crate::daemon::{self, Act, Daemon, Kind};
use crate::system::{self, check_name, short_hostname, wait};

/// Run a Ceph object gateway (S3) on this machine
///
/// Makes its user, sets its options in the monitors' configuration, starts it, and waits until it accepts connections. The machine needs
/// C(/etc/ceph/ceph.conf) and the administrator's keyring.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of this gateway. The host name up to its first dot by default.
    name: Option<String>,
    /// Port it listens at, on every address.
    #[serde(default = "port")]
    #[schemars(range(min = 1, max = 65_535))]
    port: u16,
    /// Realm it belongs to, with `zonegroup` and `zone`. The cluster's own default zone if all three are left out.
    realm: Option<String>,
    /// Zone group it belongs to.
    zonegroup: Option<String>,
    /// Zone it serves.
    zone: Option<String>,
    /// Whether the gateway should exist.
    #[serde(default)]
    state: State,
    /// Seconds to wait until it accepts connections.
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

fn port() -> u16 {
    7480
}

fn patience() -> u32 {
    180
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    daemon: Daemon,
    port: u16,
    /// Options of the gateway's own section.
    options: BTreeMap<&'static str, String>,
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
        let mut options =
            BTreeMap::from([("rgw_frontends", format!("beast port={}", params.port))]);
        let place = [
            ("realm", "rgw_realm", params.realm),
            ("zonegroup", "rgw_zonegroup", params.zonegroup),
            ("zone", "rgw_zone", params.zone),
        ];
        let given = place.iter().filter(|(_, _, value)| value.is_some()).count();
        for (param, option, value) in place {
            match value {
                Some(value) => {
                    check_name(param, &value)?;
                    options.insert(option, value);
                }
                None if given > 0 => {
                    return Err(Invalid::new(
                        param,
                        "realm, zonegroup and zone belong together",
                    ));
                }
                None => {}
            }
        }
        Ok(Self {
            daemon: Daemon {
                kind: Kind::Gateway,
                name,
            },
            port: params.port,
            options,
            present: params.state == State::Present,
            patience: Duration::from_secs(params.timeout_seconds.into()),
        })
    }
}

/// The daemon and its options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    daemon: daemon::Observed,
    options: BTreeMap<String, String>,
    listens: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Set {
        name: &'static str,
        value: String,
        from: Option<String>,
    },
    Unset {
        name: String,
    },
    Daemon(String, Act),
    Restart,
    AwaitPort {
        port: u16,
        patience: Duration,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { name, value, from } => {
                write!(f, "set {name} to {value:?}")?;
                match from {
                    Some(from) => write!(f, " (is {from:?})"),
                    None => Ok(()),
                }
            }
            Self::Unset { name } => write!(f, "unset {name}"),
            Self::Daemon(name, act) => act.line(f, name),
            Self::Restart => write!(f, "start the gateway again, with its new options"),
            Self::AwaitPort { port, .. } => write!(f, "wait until port {port} accepts connections"),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let entity = desired.daemon.entity();
    let daemon = |acts: Vec<Act>| {
        acts.into_iter()
            .map(|act| Step::Daemon(entity.clone(), act))
    };
    if !desired.present {
        let unset = current
            .options
            .keys()
            .map(|name| Step::Unset { name: name.clone() });
        return daemon(daemon::plan_absent(&current.daemon))
            .chain(unset)
            .collect();
    }
    let mut steps = Vec::new();
    for (name, value) in &desired.options {
        let from = current.options.get(*name);
        if !from.is_some_and(|it| is_same(it, value)) {
            steps.push(Step::Set {
                name,
                value: value.clone(),
                from: from.cloned(),
            });
        }
    }
    let retuned = !steps.is_empty();
    let acts = daemon::plan_present(&desired.daemon, &current.daemon);
    let starts = acts.contains(&Act::Start);
    steps.extend(daemon(acts));
    if retuned && !starts {
        steps.push(Step::Restart);
    }
    if retuned || starts || !current.listens {
        steps.push(Step::AwaitPort {
            port: desired.port,
            patience: desired.patience,
        });
    }
    steps
}

fn listens(port: u16) -> bool {
    let here = SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), port));
    TcpStream::connect_timeout(&here, Duration::from_secs(2)).is_ok()
}

/// The module.
#[derive(Default)]
pub struct CephRgw {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    daemon: Option<Daemon>,
}

impl Module for CephRgw {
    const NAME: &'static str = "ceph_rgw";
    const EXAMPLES: &'static str = r#"
- name: An S3 gateway in the site's zone
  ondol.cloud.ceph_rgw:
    port: 8080
    realm: site
    zonegroup: home
    zone: lab
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
        let section = desired.daemon.entity();
        let dump: Vec<Set> = self.cluster.ask(&["config", "dump"])?;
        Ok(Current {
            daemon: desired.daemon.observe(&self.cluster)?,
            options: dump
                .into_iter()
                .filter(|it| it.section == section)
                .map(|it| (it.name, it.value))
                .collect(),
            listens: listens(desired.port),
        })
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let daemon = self.daemon.as_ref().expect("observe was called before");
        let section = daemon.entity();
        match step {
            Step::Set { name, value, .. } => {
                self.cluster
                    .run(&["config", "set", &section, name, value])?;
                Ok(())
            }
            Step::Unset { name } => {
                self.cluster.run(&["config", "rm", &section, name])?;
                Ok(())
            }
            Step::Daemon(_, act) => daemon.apply(&self.cluster, act),
            Step::Restart => system::systemctl(&["restart", &daemon.unit()]),
            Step::AwaitPort { port, patience } => {
                wait(*patience, "the gateway accepts connections", || {
                    let unit = system::unit(&daemon.unit())?;
                    Ok((!listens(*port)).then(|| {
                        if unit.active {
                            "it is starting"
                        } else {
                            "its service does not run"
                        }
                        .to_owned()
                    }))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Unit;

    fn desired(json: serde_json::Value) -> Result<Desired, Invalid> {
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    fn lines(json: serde_json::Value, current: &Current) -> Vec<String> {
        let steps = plan(&desired(json).unwrap(), current);
        steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn options_are_set_before_the_start_and_cause_another_one() {
        let json = serde_json::json!({"name": "a", "port": 8080});
        let mut current = Current::default();
        assert_eq!(
            lines(json.clone(), &current),
            [
                "set rgw_frontends to \"beast port=8080\"",
                "create the user client.rgw.a",
                "write the keyring of client.rgw.a",
                "enable the service of client.rgw.a",
                "start client.rgw.a",
                "wait until port 8080 accepts connections",
            ]
        );
        current.daemon.unit = Unit {
            active: true,
            enabled: true,
        };
        current
            .options
            .insert("rgw_frontends".into(), "beast port=80".into());
        assert_eq!(
            lines(json, &current),
            [
                "set rgw_frontends to \"beast port=8080\" (is \"beast port=80\")",
                "create the user client.rgw.a",
                "write the keyring of client.rgw.a",
                "start the gateway again, with its new options",
                "wait until port 8080 accepts connections",
            ]
        );
    }

    #[test]
    fn a_zone_is_named_whole() {
        let error = desired(serde_json::json!({"name": "a", "realm": "x"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "zonegroup: realm, zonegroup and zone belong together"
        );
    }

    #[test]
    fn a_gateway_that_is_settled_is_left_alone_and_removed_whole() {
        let mut current = Current {
            daemon: daemon::tests::settled(Kind::Gateway),
            listens: true,
            ..Current::default()
        };
        current
            .options
            .insert("rgw_frontends".into(), "beast port=7480".into());
        assert_eq!(lines(serde_json::json!({"name": "a"}), &current), [""; 0]);
        current.listens = false;
        assert_eq!(
            lines(serde_json::json!({"name": "a"}), &current),
            ["wait until port 7480 accepts connections"]
        );
        assert_eq!(
            lines(
                serde_json::json!({"name": "a", "state": "absent"}),
                &current
            ),
            [
                "stop and disable the service of client.rgw.a",
                "remove the user client.rgw.a",
                "remove the directory of client.rgw.a",
                "unset rgw_frontends",
            ]
        );
    }
}
