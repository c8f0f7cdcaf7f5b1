//! `reachability`: whether this machine reaches others, by ICMP echo and by TCP connect.
//!
//! All targets are probed at once by one thread that waits in poll(2): forty machines may do this to each other at the same time on few
//! cores. It measures what is there; it neither traces routes nor measures bandwidth.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use ondol_kit::{Finding, Invalid, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod echo;
mod wait;

pub use wait::{Heard, Options, TcpHeard, listen};

/// Probe other machines from this one by ICMP echo and TCP connect
///
/// Every target is probed at the same time, so the time taken does not grow with their number. The task fails if a target does not answer;
/// the result is complete all the same. Needs root, or a C(net.ipv4.ping_group_range) that covers the user.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Machines to probe.
    targets: Vec<Target>,
    /// Name of this machine in the result. The host name by default.
    from: Option<String>,
    /// Echo requests to each target.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100))]
    count: u16,
    /// Milliseconds between two echo requests to one target.
    #[serde(default = "interval")]
    #[schemars(range(min = 10, max = 60_000))]
    interval_ms: u32,
    /// Milliseconds to wait for an echo reply or a TCP connection.
    #[serde(default = "timeout")]
    #[schemars(range(min = 10, max = 60_000))]
    timeout_ms: u32,
    /// TCP ports that must accept a connection. An empty list probes by ICMP only.
    #[serde(default = "ssh")]
    tcp_ports: Vec<u16>,
    /// Loss, in percent, up to which a target counts as reached.
    #[serde(default)]
    #[schemars(range(max = 100))]
    max_loss_percent: u8,
    /// Report targets that do not answer without failing.
    #[serde(default)]
    allow_failures: bool,
}

/// A machine to probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name in the result.
    name: String,
    /// IPv4 or IPv6 address.
    address: String,
}

fn three() -> u16 {
    3
}
fn interval() -> u32 {
    200
}
fn timeout() -> u32 {
    2000
}
fn ssh() -> Vec<u16> {
    vec![22]
}

/// `Params` after checking.
#[derive(Debug)]
pub struct Desired {
    targets: Vec<(String, IpAddr)>,
    from: Option<String>,
    options: Options,
    max_loss_percent: u8,
    allow_failures: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let mut targets = Vec::with_capacity(params.targets.len());
        for (index, Target { name, address }) in params.targets.into_iter().enumerate() {
            let address = address.parse().map_err(|_| {
                Invalid::new(
                    format!("targets[{index}].address"),
                    format!("{address:?} (of {name}) is not an address"),
                )
            })?;
            targets.push((name, address));
        }
        if let Some(index) = params.tcp_ports.iter().position(|port| *port == 0) {
            return Err(Invalid::new(
                format!("tcp_ports[{index}]"),
                "0 is not a port",
            ));
        }
        // The sequence number on the wire has 16 bits.
        if targets.len() * usize::from(params.count) > usize::from(u16::MAX) {
            return Err(Invalid::new(
                "count",
                "targets times count must stay below 65536",
            ));
        }
        Ok(Self {
            targets,
            from: params.from,
            options: Options {
                count: params.count,
                interval: Duration::from_millis(params.interval_ms.into()),
                timeout: Duration::from_millis(params.timeout_ms.into()),
                tcp_ports: params.tcp_ports,
            },
            max_loss_percent: params.max_loss_percent,
            allow_failures: params.allow_failures,
        })
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    /// Name of this machine.
    pub from: String,
    /// Whether every target was reached.
    pub reachable: bool,
    /// Every target, in the order given.
    pub targets: Vec<Reached>,
    /// The same in short, as M(ondol.cloud.report) takes it.
    pub matrix: Vec<Cell>,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Reached {
    pub name: String,
    pub address: String,
    /// Loss within the limit, and every port accepts.
    pub ok: bool,
    pub sent: u16,
    pub received: u16,
    pub loss_percent: f64,
    pub rtt_min_ms: Option<f64>,
    pub rtt_avg_ms: Option<f64>,
    pub rtt_max_ms: Option<f64>,
    /// Why an echo request could not be sent.
    pub icmp_error: Option<String>,
    pub tcp: Vec<Port>,
}

/// One TCP port of a target.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Port {
    pub port: u16,
    pub ok: bool,
    /// Until the connection stood.
    pub ms: Option<f64>,
    pub error: Option<String>,
}

/// One cell of a matrix of machines.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Cell {
    pub from: String,
    pub to: String,
    pub ok: bool,
    /// Percent.
    pub loss: f64,
    /// Average.
    pub rtt_ms: Option<f64>,
    pub tcp_ok: bool,
}

/// The probe.
#[derive(Debug, Default)]
pub struct Reachability;

impl Probe for Reachability {
    const NAME: &'static str = "reachability";
    const EXAMPLES: &'static str = r#"
- name: Every machine reaches every other
  ondol.cloud.reachability:
    from: "{{ inventory_hostname }}"
    # addresses: a map from names to addresses
    targets: "{{ addresses | dict2items(key_name='name', value_name='address') | rejectattr('name', 'eq', inventory_hostname) | list }}"

- name: The gateway answers, by ICMP alone
  ondol.cloud.reachability:
    targets:
      - name: gateway
        address: 192.168.10.1
    tcp_ports: []
    count: 5
"#;

    type Params = Params;
    type Desired = Desired;
    type Answer = Answer;

    fn probe(&mut self, desired: &Desired) -> anyhow::Result<Finding<Answer>> {
        let from = match &desired.from {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()
                .context("ask for the host name")?
                .to_string_lossy()
                .into_owned(),
        };
        let addresses: Vec<IpAddr> = desired
            .targets
            .iter()
            .map(|(_, address)| *address)
            .collect();
        let heard = listen(&addresses, &desired.options).context("probe the targets")?;
        Ok(judge(from, desired, &heard))
    }
}

/// From what was heard to a verdict.
fn judge(from: String, desired: &Desired, heard: &[Heard]) -> Finding<Answer> {
    let mut failures = Vec::new();
    let mut targets = Vec::new();
    for ((name, address), heard) in desired.targets.iter().zip(heard) {
        let reached = reached(name, *address, heard, desired);
        if !reached.ok {
            failures.push(format!("{from} -> {name} ({address}): {}", why(&reached)));
        }
        targets.push(reached);
    }
    let matrix = targets
        .iter()
        .map(|target| Cell {
            from: from.clone(),
            to: target.name.clone(),
            ok: target.ok,
            loss: target.loss_percent,
            rtt_ms: target.rtt_avg_ms,
            tcp_ok: target.tcp.iter().all(|port| port.ok),
        })
        .collect();
    let answer = Answer {
        from,
        reachable: failures.is_empty(),
        targets,
        matrix,
    };
    if failures.is_empty() || desired.allow_failures {
        Finding::good(answer)
    } else {
        let message = format!(
            "{} of {} targets not reached: {}",
            failures.len(),
            answer.targets.len(),
            failures.join("; ")
        );
        Finding::bad(answer, message)
    }
}

fn reached(name: &str, address: IpAddr, heard: &Heard, desired: &Desired) -> Reached {
    let sent = desired.options.count;
    // At most `count`, which is a u16.
    let received = u16::try_from(heard.rtts.len()).unwrap_or(sent);
    let loss_percent = round(100.0 * f64::from(sent - received.min(sent)) / f64::from(sent));
    let times: Vec<f64> = heard
        .rtts
        .iter()
        .map(|rtt| rtt.as_secs_f64() * 1e3)
        .collect();
    let tcp: Vec<Port> = heard
        .tcp
        .iter()
        .map(|tcp| Port {
            port: tcp.port,
            ok: tcp.result.is_ok(),
            ms: tcp
                .result
                .as_ref()
                .ok()
                .map(|time| round(time.as_secs_f64() * 1e3)),
            error: tcp.result.as_ref().err().cloned(),
        })
        .collect();
    Reached {
        name: name.to_owned(),
        address: address.to_string(),
        ok: loss_percent <= f64::from(desired.max_loss_percent) && tcp.iter().all(|port| port.ok),
        sent,
        received,
        loss_percent,
        rtt_min_ms: times.iter().copied().reduce(f64::min).map(round),
        rtt_avg_ms: (!times.is_empty())
            .then(|| round(times.iter().sum::<f64>() / f64::from(received))),
        rtt_max_ms: times.iter().copied().reduce(f64::max).map(round),
        icmp_error: heard.error.clone(),
        tcp,
    }
}

fn why(target: &Reached) -> String {
    let mut reasons = Vec::new();
    if target.loss_percent > 0.0 {
        let error = target.icmp_error.as_ref();
        reasons.push(format!(
            "{} % loss{}",
            target.loss_percent,
            error.map(|error| format!(" ({error})")).unwrap_or_default()
        ));
    }
    for port in &target.tcp {
        if let Some(error) = &port.error {
            reasons.push(format!("TCP {}: {error}", port.port));
        }
    }
    reasons.join(", ")
}

/// Microseconds are below what a scheduler lets us measure.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(allow_failures: bool, max_loss_percent: u8) -> Desired {
        Desired {
            targets: vec![
                ("a".to_owned(), [10, 0, 0, 1].into()),
                ("b".to_owned(), [10, 0, 0, 2].into()),
            ],
            from: None,
            options: Options {
                count: 4,
                interval: Duration::ZERO,
                timeout: Duration::ZERO,
                tcp_ports: vec![22],
            },
            max_loss_percent,
            allow_failures,
        }
    }

    fn heard(rtts_ms: &[u64], tcp: Result<u64, &str>) -> Heard {
        Heard {
            rtts: rtts_ms
                .iter()
                .map(|ms| Duration::from_millis(*ms))
                .collect(),
            error: None,
            tcp: vec![TcpHeard {
                port: 22,
                result: tcp.map(Duration::from_millis).map_err(str::to_owned),
            }],
        }
    }

    #[test]
    fn all_answers_make_a_good_finding_with_a_matrix() {
        let heard = [heard(&[1, 2, 3, 6], Ok(2)), heard(&[1, 1, 1, 1], Ok(1))];
        let finding = judge("me".to_owned(), &desired(false, 0), &heard);
        assert_eq!(finding.failure, None);
        assert!(finding.answer.reachable);
        let first = &finding.answer.targets[0];
        assert_eq!(
            (first.rtt_min_ms, first.rtt_avg_ms, first.rtt_max_ms),
            (Some(1.0), Some(3.0), Some(6.0))
        );
        assert_eq!(
            finding.answer.matrix[1],
            Cell {
                from: "me".to_owned(),
                to: "b".to_owned(),
                ok: true,
                loss: 0.0,
                rtt_ms: Some(1.0),
                tcp_ok: true
            }
        );
    }

    #[test]
    fn failing_pairs_are_named_with_their_reasons() {
        let heard = [
            heard(&[1, 2, 3], Ok(2)),
            heard(&[], Err("Connection refused")),
        ];
        let finding = judge("me".to_owned(), &desired(false, 0), &heard);
        assert_eq!(
            finding.failure.as_deref(),
            Some(
                "2 of 2 targets not reached: me -> a (10.0.0.1): 25 % loss; \
                 me -> b (10.0.0.2): 100 % loss, TCP 22: Connection refused"
            )
        );
        let lenient = judge("me".to_owned(), &desired(false, 25), &heard);
        assert!(lenient.answer.targets[0].ok && !lenient.answer.targets[1].ok);
        let allowed = judge("me".to_owned(), &desired(true, 0), &heard);
        assert_eq!(allowed.failure, None);
        assert!(!allowed.answer.reachable);
    }

    #[test]
    fn a_target_without_an_address_is_refused_by_name() {
        let params: Params = serde_json::from_value(serde_json::json!({
            "targets": [{"name": "a", "address": "10.0.0.1"}, {"name": "b", "address": "b.example"}]
        }))
        .unwrap();
        assert_eq!(
            Desired::try_from(params).unwrap_err().to_string(),
            "targets[1].address: \"b.example\" (of b) is not an address"
        );
    }
}
