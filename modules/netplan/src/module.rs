//! `netplan`: the guest changes its own network, with the same scripts and the same rollback as Terraform over SSH.
//!
//! The module runs on the guest, so it cannot see whether the controller still reaches it. What it can see, `verify`, it checks before it
//! confirms. An address by which Ansible itself comes is better moved by Terraform's `ondol_netplan`, which confirms over the new one.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_host::reachability::{Options, listen};
use ondol_kit::{Invalid, Module, TextDiff};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{
    Change, ChangeId, abort, begin, confirm, direct, parse_begin, parse_status, status,
};
use crate::config::{Config, Ethernet, Problem};
use crate::observe::{FILE, OBSERVE, Observed, parse_observation};
use crate::plan::{Desired as Wanted, Presence, Step as Act, blockers, plan};
use crate::render::render;
use crate::status::Status;

/// Manage a machine's network with netplan, taking a change back that cuts the machine off
///
/// Writes C(/etc/netplan/60-ondol.yaml) for systemd-networkd and compares both the file and what runs with what is wanted: missing and additional
/// addresses, default routes, name servers. A change is tried first and becomes durable only when O(verify) answers; else, or if the machine
/// reboots meanwhile, the old state comes back. Other netplan files for the same interfaces are moved to C(/var/lib/ondol/netplan/replaced).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Ethernet interfaces by name. Needed unless O(state=absent).
    #[serde(default)]
    ethernets: BTreeMap<String, Ethernet>,
    /// C(absent) removes the file and brings back what it replaced. What runs stays as it is until the next boot, so that the machine is not cut
    /// off.
    #[serde(default)]
    state: State,
    /// What must answer before a change is confirmed. The gateways of the default routes, if left out; nothing, if empty.
    verify: Option<Vec<Target>>,
    /// Seconds after which the machine takes back a change that was not confirmed.
    #[serde(default = "thirty")]
    #[schemars(range(min = 5, max = 3600))]
    rollback_after: u32,
}

/// Whether our file is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    Absent,
}

/// What must answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// IPv4 or IPv6 address.
    address: String,
    /// A TCP port that must accept a connection; an ICMP echo if left out.
    port: Option<u16>,
}

fn thirty() -> u32 {
    30
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    wanted: Wanted,
    verify: Vec<(IpAddr, Option<u16>)>,
    rollback_after: Duration,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let wanted = match params.state {
            State::Absent => Wanted::absent(),
            State::Present => {
                let config = Config {
                    ethernets: params.ethernets,
                };
                Wanted::present(&config, None).map_err(|problems| invalid(&problems))?
            }
        };
        let verify = match params.verify {
            Some(targets) => targets
                .into_iter()
                .enumerate()
                .map(|(index, target)| {
                    let address = target.address.parse().map_err(|_| {
                        Invalid::new(
                            format!("verify[{index}].address"),
                            format!("{:?} is not an address", target.address),
                        )
                    })?;
                    Ok((address, target.port))
                })
                .collect::<Result<_, Invalid>>()?,
            None => match &wanted.presence {
                Presence::Present(network) => {
                    // Without a zone a link-local gateway cannot be addressed.
                    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                    network
                        .gateways()
                        .filter(|gateway| !link_local(gateway))
                        .map(|gateway| (gateway, None))
                        .collect()
                }
                Presence::Absent => Vec::new(),
            },
        };
        Ok(Self {
            wanted,
            verify,
            rollback_after: Duration::from_secs(params.rollback_after.into()),
        })
    }
}

/// The kit takes one; the others follow in its reason.
fn invalid(problems: &[Problem]) -> Invalid {
    let mut texts = problems.iter().map(ToString::to_string);
    let first = texts.next().unwrap_or_default();
    let (param, reason) = first.split_once(": ").unwrap_or(("ethernets", &first));
    let others: String = texts.map(|text| format!("; {text}")).collect();
    Invalid::new(param.to_owned(), format!("{reason}{others}"))
}

/// One act on the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Acts that can cut the guest off, as one change that takes itself back.
    Change {
        acts: Vec<Act>,
        change: Box<Change>,
        verify: Vec<(IpAddr, Option<u16>)>,
    },
    Direct(Act),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(act) => act.fmt(f),
            Self::Change { acts, .. } => {
                for (index, act) in acts.iter().enumerate() {
                    if index > 0 {
                        f.write_str("; ")?;
                    }
                    act.fmt(f)?;
                }
                Ok(())
            }
        }
    }
}

/// What was observed, and the name of the change that may follow from it: chance has no place in `plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    observed: Observed,
    next: ChangeId,
}

/// The module.
#[derive(Debug, Default)]
pub struct Netplan {
    /// Of the last observation: what `apply` waits for.
    wanted: Option<Wanted>,
}

impl Module for Netplan {
    const NAME: &'static str = "netplan";
    const EXAMPLES: &'static str = r#"
- name: A static address
  ondol.cloud.netplan:
    ethernets:
      enp0s3:
        addresses: [192.168.10.11/24]
        gateway4: 192.168.10.1
        nameservers:
          addresses: [192.168.10.12]
          search: [infra.internal]

- name: Confirmed only if the mirror can be reached
  ondol.cloud.netplan:
    ethernets: "{{ netplan_ethernets }}"
    verify:
      - address: 192.168.10.16
        port: 80
    rollback_after: 60
"#;
    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let observed = observe()?;
        self.wanted = Some(desired.wanted.clone());
        let blockers = blockers(&desired.wanted, &observed);
        if !blockers.is_empty() {
            return Err(invalid(&blockers).into());
        }
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let id = format!("ansible-{}-{}", since_epoch.as_millis(), std::process::id());
        Ok(Current {
            observed,
            next: ChangeId::new(id).expect("made of letters, digits and hyphens"),
        })
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let acts = plan(&desired.wanted, &current.observed);
        let change = Change::of(
            &desired.wanted,
            &current.observed,
            &acts,
            current.next.clone(),
            desired.rollback_after,
        );
        let (risky, direct): (Vec<_>, Vec<_>) = acts.into_iter().partition(Act::is_risky);
        let change = change.map(|change| Step::Change {
            acts: risky,
            change: Box::new(change),
            verify: desired.verify.clone(),
        });
        change
            .into_iter()
            .chain(direct.into_iter().map(Step::Direct))
            .collect()
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Direct(act) => {
                let script = direct(std::slice::from_ref(act)).expect("the act is not risky");
                run(&script).map(drop)
            }
            Step::Change { change, verify, .. } => {
                make(change, verify)?;
                self.settle()
            }
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        let before = current
            .observed
            .file
            .as_ref()
            .map(|file| file.text.clone())
            .unwrap_or_default();
        let after = match &desired.wanted.presence {
            Presence::Present(network) => render(network),
            Presence::Absent => String::new(),
        };
        if before == after {
            return Vec::new();
        }
        vec![TextDiff::new(FILE, before, after)]
    }
}

/// How long networkd may take for routes and name servers after the addresses are up.
const SETTLE: Duration = Duration::from_secs(10);

impl Netplan {
    /// Waits until nothing risky is left to do. What stays beyond that is for the kit to name.
    fn settle(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE;
        if let Some(wanted) = &self.wanted {
            while plan(wanted, &observe()?).iter().any(Act::is_risky) && Instant::now() < deadline {
                sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }
}

fn observe() -> anyhow::Result<Observed> {
    let text = run(OBSERVE).context("observe the network")?;
    parse_observation(&text).context("observe the network")
}

/// Begins the change, checks it, and confirms it or takes it back.
fn make(change: &Change, verify: &[(IpAddr, Option<u16>)]) -> anyhow::Result<()> {
    parse_begin(&change.id, &run(&begin(change))?)?;
    let deadline = Instant::now() + change.rollback_after;
    let applied = loop {
        match parse_status(&run(&status())?) {
            Status::Pending { applied: true, .. } => break true,
            Status::Pending { .. } | Status::Settling { .. } if Instant::now() < deadline => {
                sleep(Duration::from_millis(100));
            }
            Status::RolledBack { reason, .. } => bail!("rolled back: {reason}"),
            _ => break false,
        }
    };
    anyhow::ensure!(applied, "the guest lost track of the change");
    // Something is left for confirming, so that our own reason is given and not the clock's.
    let until = deadline - change.rollback_after / 5;
    if let Err(silent) = wait_for(verify, until) {
        let reason = format!("{silent} did not answer");
        let after = parse_status(&run(&abort(&change.id, &reason))?);
        anyhow::ensure!(
            matches!(after, Status::RolledBack { .. }),
            "{reason}, and the change could not be taken back: {after:?}"
        );
        bail!("rolled back: {reason}");
    }
    match parse_status(&run(&confirm(&change.id))?) {
        Status::Confirmed { .. } => Ok(()),
        Status::RolledBack { reason, .. } => bail!("rolled back: {reason}"),
        other => bail!("the change was not confirmed: {other:?}"),
    }
}

/// Until all answer; else who does not.
fn wait_for(verify: &[(IpAddr, Option<u16>)], until: Instant) -> Result<(), String> {
    loop {
        let silent = verify
            .iter()
            .find(|(address, port)| !answers(*address, *port));
        match silent {
            None => return Ok(()),
            Some((address, port)) if Instant::now() >= until => {
                return Err(match port {
                    Some(port) => format!("{address} port {port}"),
                    None => address.to_string(),
                });
            }
            Some(_) => sleep(Duration::from_millis(200)),
        }
    }
}

fn answers(address: IpAddr, port: Option<u16>) -> bool {
    let options = Options {
        count: if port.is_some() { 0 } else { 1 },
        interval: Duration::ZERO,
        timeout: Duration::from_secs(1),
        tcp_ports: port.into_iter().collect(),
    };
    // No route is an answer too: "no".
    listen(&[address], &options).is_ok_and(|heard| {
        heard.iter().all(|heard| match port {
            Some(_) => heard.tcp.iter().all(|tcp| tcp.result.is_ok()),
            None => !heard.rtts.is_empty(),
        })
    })
}

/// Runs a script of ours on this machine.
fn run(script: &str) -> anyhow::Result<String> {
    let mut child = Command::new("/bin/sh")
        .arg("-s")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start /bin/sh")?;
    let mut stdin = child.stdin.take().expect("asked for above");
    stdin
        .write_all(script.as_bytes())
        .context("hand the script to /bin/sh")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for /bin/sh")?;
    if !output.status.success() {
        bail!(
            "the script failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Result<Desired, Invalid> {
        let params: Params = serde_json::from_value(json).unwrap();
        Desired::try_from(params)
    }

    #[test]
    fn the_gateways_are_verified_unless_told_otherwise() {
        let ethernets = serde_json::json!({"e": {"addresses": ["10.0.0.5/24"], "gateway4": "10.0.0.1",
            "routes": [{"to": "default", "via": "fe80::1"}]}});
        let table = [
            (
                serde_json::json!({"ethernets": ethernets}),
                vec![("10.0.0.1", None)],
            ),
            (
                serde_json::json!({"ethernets": ethernets, "verify": []}),
                vec![],
            ),
            (
                serde_json::json!({"ethernets": ethernets, "verify": [{"address": "10.0.0.9", "port": 80}]}),
                vec![("10.0.0.9", Some(80))],
            ),
        ];
        for (json, expected) in table {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(address, port)| (address.parse().unwrap(), port))
                .collect();
            assert_eq!(desired(json).unwrap().verify, expected);
        }
    }

    #[test]
    fn problems_carry_the_parameters_path() {
        let error = desired(
            serde_json::json!({"ethernets": {"e": {"addresses": ["10.0.0.0/24"], "mtu": 1}}}),
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "ethernets.e.addresses[0]: 10.0.0.0/24 is the address of the network itself; \
             ethernets.e.mtu: 1 is not between 68 and 65535"
        );
        let error = desired(serde_json::json!({"ethernets": {}, "verify": [{"address": "gw"}]}));
        assert_eq!(
            error.unwrap_err().to_string(),
            "ethernets: must name at least one interface"
        );
    }

    #[test]
    fn the_schema_holds_nothing_that_the_kit_does_not_enforce() {
        let schema = ondol_kit::Entry::module::<Netplan>().schema();
        assert_eq!(
            ondol_kit::unsupported_keywords(&schema),
            Vec::<String>::new()
        );
    }
}
