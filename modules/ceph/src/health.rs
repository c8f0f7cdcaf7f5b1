//! `ceph_health`: whether a cluster is well, waited for up to a deadline, with the cluster's own words about what is not.
//!
//! It mends nothing and mutes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ondol_kit::{Finding, Invalid, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;

/// Wait until a Ceph cluster is well, and tell what is not
///
/// Well means: no health check is raised but those that are accepted, every placement group is active and clean, every OSD is up and in, and as many
/// monitors, managers and OSDs are there as asked for. If that does not come true in time the task fails and the result holds every check with its
/// details. That the monitors cannot be reached is an error of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Seconds to wait. 0 looks once.
    #[serde(default = "patience")]
    #[schemars(range(max = 86_400))]
    timeout_seconds: u32,
    /// Health checks that are no reason to wait or to fail, such as `OSDMAP_FLAGS`.
    #[serde(default)]
    accept: BTreeSet<String>,
    /// Monitors that must be in the quorum.
    monitors: Option<u32>,
    /// Managers that must be there, the active one among them.
    managers: Option<u32>,
    /// OSDs that must be up and in.
    osds: Option<u32>,
    /// Report without failing.
    #[serde(default)]
    allow_failures: bool,
}

fn patience() -> u32 {
    300
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    patience: Duration,
    accept: BTreeSet<String>,
    monitors: Option<u32>,
    managers: Option<u32>,
    osds: Option<u32>,
    allow_failures: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        for code in &params.accept {
            if code.is_empty()
                || !code
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            {
                return Err(Invalid::new(
                    "accept",
                    format!("{code:?} is not the code of a health check, such as OSDMAP_FLAGS"),
                ));
            }
        }
        Ok(Self {
            patience: Duration::from_secs(params.timeout_seconds.into()),
            accept: params.accept,
            monitors: params.monitors,
            managers: params.managers,
            osds: params.osds,
            allow_failures: params.allow_failures,
        })
    }
}

/// What `ceph status` tells.
#[derive(Debug, Clone, Deserialize)]
struct Status {
    fsid: String,
    quorum_names: Vec<String>,
    monmap: MonMap,
    osdmap: OsdMap,
    pgmap: PgMap,
    mgrmap: MgrMap,
    /// Without details.
    health: Health,
}

#[derive(Debug, Clone, Deserialize)]
struct MonMap {
    num_mons: u32,
}

#[derive(Debug, Clone, Deserialize)]
struct OsdMap {
    num_osds: u32,
    num_up_osds: u32,
    num_in_osds: u32,
}

#[derive(Debug, Clone, Deserialize)]
struct PgMap {
    #[serde(default)]
    pgs_by_state: Vec<PgState>,
    num_pgs: u32,
    #[serde(default)]
    degraded_ratio: f64,
    #[serde(default)]
    misplaced_ratio: f64,
    #[serde(default)]
    bytes_used: u64,
    #[serde(default)]
    bytes_total: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct PgState {
    state_name: String,
    count: u32,
}

#[derive(Debug, Clone, Deserialize)]
struct MgrMap {
    available: bool,
    num_standbys: u32,
}

/// What `ceph status` tells of the health checks, and with their details `ceph health detail`.
#[derive(Debug, Clone, Deserialize)]
struct Health {
    status: String,
    checks: BTreeMap<String, Raised>,
}

#[derive(Debug, Clone, Deserialize)]
struct Raised {
    severity: String,
    summary: Words,
    #[serde(default)]
    detail: Vec<Words>,
    #[serde(default)]
    muted: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Words {
    message: String,
}

/// What was seen last.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    /// Whether everything asked for is so.
    pub well: bool,
    /// Identifier of the cluster.
    pub fsid: String,
    /// C(HEALTH_OK), C(HEALTH_WARN) or C(HEALTH_ERR), as the cluster says it.
    pub status: String,
    /// Every health check that is raised, the accepted ones too.
    pub checks: Vec<Check>,
    /// Why it is not well, one line each.
    pub reasons: Vec<String>,
    /// Monitors in the quorum.
    pub quorum: Vec<String>,
    /// Monitors in the map.
    pub monitors: u32,
    /// The active manager and its standbys.
    pub managers: u32,
    pub osds: Osds,
    pub placement_groups: PlacementGroups,
    /// Percent of the room that is taken.
    pub used_percent: f64,
    /// How long it was waited.
    pub waited_seconds: f64,
}

/// A health check that is raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Check {
    /// Such as C(OSD_DOWN).
    pub code: String,
    /// C(HEALTH_WARN) or C(HEALTH_ERR).
    pub severity: String,
    pub summary: String,
    /// The cluster's lines about each thing concerned.
    pub detail: Vec<String>,
    /// Silenced in the cluster.
    pub muted: bool,
    /// Named in `accept`.
    pub accepted: bool,
}

/// OSDs by their state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Osds {
    pub total: u32,
    pub up: u32,
    pub r#in: u32,
}

/// Placement groups by their state.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PlacementGroups {
    pub total: u32,
    /// Active and clean, scrubbing or not.
    pub clean: u32,
    /// How many are in each state.
    pub by_state: BTreeMap<String, u32>,
    /// Percent of the copies that are missing.
    pub degraded_percent: f64,
    /// Percent of the copies that are not where they belong.
    pub misplaced_percent: f64,
}

/// From what the cluster told to a verdict.
fn judge(desired: &Desired, status: &Status, health: &Health, waited: Duration) -> Answer {
    let checks: Vec<Check> = health
        .checks
        .iter()
        .map(|(code, raised)| Check {
            code: code.clone(),
            severity: raised.severity.clone(),
            summary: raised.summary.message.clone(),
            detail: raised
                .detail
                .iter()
                .map(|it| it.message.trim().to_owned())
                .collect(),
            muted: raised.muted,
            accepted: desired.accept.contains(code),
        })
        .collect();
    let mut by_state: BTreeMap<String, u32> = BTreeMap::new();
    for state in &status.pgmap.pgs_by_state {
        *by_state.entry(state.state_name.clone()).or_default() += state.count;
    }
    // A scrub shows beside the state and takes nothing from it.
    let clean = by_state
        .iter()
        .filter(|(state, _)| {
            let words: BTreeSet<&str> = state.split('+').collect();
            words.is_superset(&["active", "clean"].into())
                && words.is_subset(
                    &[
                        "active",
                        "clean",
                        "scrubbing",
                        "deep",
                        "snaptrim",
                        "snaptrim_wait",
                    ]
                    .into(),
                )
        })
        .map(|(_, count)| count)
        .sum();
    let mut reasons: Vec<String> = checks
        .iter()
        .filter(|check| !check.accepted && !check.muted)
        .map(|check| {
            let detail = if check.detail.is_empty() {
                String::new()
            } else {
                format!(" ({})", check.detail.join("; "))
            };
            format!("{}: {}{detail}", check.code, check.summary)
        })
        .collect();
    let managers = u32::from(status.mgrmap.available) + status.mgrmap.num_standbys;
    let in_quorum = u32::try_from(status.quorum_names.len()).unwrap_or(u32::MAX);
    let OsdMap {
        num_osds,
        num_up_osds,
        num_in_osds,
    } = status.osdmap;
    let up_and_in = num_up_osds.min(num_in_osds);
    for (what, wanted, is) in [
        ("monitors in the quorum", desired.monitors, in_quorum),
        ("managers", desired.managers, managers),
        ("OSDs up and in", desired.osds, up_and_in),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| is < *wanted) {
            reasons.push(format!("{is} of {wanted} {what}"));
        }
    }
    // What the managers last heard of the groups is worth nothing while one of its sources is gone.
    if clean < status.pgmap.num_pgs {
        let states: Vec<String> = by_state
            .iter()
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        reasons.push(format!(
            "{clean} of {} placement groups are active and clean ({})",
            status.pgmap.num_pgs,
            states.join(", ")
        ));
    }
    if num_up_osds < num_in_osds {
        reasons.push(format!(
            "{num_up_osds} of {num_in_osds} OSDs that are in are up"
        ));
    }
    let total = status.pgmap.bytes_total;
    Answer {
        well: reasons.is_empty(),
        fsid: status.fsid.clone(),
        status: health.status.clone(),
        checks,
        reasons,
        quorum: status.quorum_names.clone(),
        monitors: status.monmap.num_mons,
        managers,
        osds: Osds {
            total: num_osds,
            up: num_up_osds,
            r#in: num_in_osds,
        },
        placement_groups: PlacementGroups {
            total: status.pgmap.num_pgs,
            clean,
            by_state,
            degraded_percent: percent(status.pgmap.degraded_ratio),
            misplaced_percent: percent(status.pgmap.misplaced_ratio),
        },
        used_percent: if total == 0 {
            0.0
        } else {
            #[expect(clippy::cast_precision_loss, reason = "percent with two digits")]
            percent(status.pgmap.bytes_used as f64 / total as f64)
        },
        waited_seconds: (waited.as_secs_f64() * 10.0).round() / 10.0,
    }
}

/// With two digits.
fn percent(ratio: f64) -> f64 {
    (ratio * 1e4).round() / 1e2
}

/// The probe.
#[derive(Default)]
pub struct CephHealth {
    cluster: Cluster,
}

impl CephHealth {
    /// Details cost as much as everything else, so they are asked for only if this look is the last one.
    fn look(&self, desired: &Desired, began: Instant, over: bool) -> anyhow::Result<Answer> {
        let status: Status = self.cluster.ask(&["status"])?;
        let answer = judge(desired, &status, &status.health, began.elapsed());
        if status.health.checks.is_empty() || !(answer.well || over) {
            return Ok(answer);
        }
        let health: Health = self.cluster.ask(&["health", "detail"])?;
        Ok(judge(desired, &status, &health, began.elapsed()))
    }
}

impl Probe for CephHealth {
    const NAME: &'static str = "ceph_health";
    const EXAMPLES: &'static str = r#"
- name: The cluster is well before anything else is done to it
  ondol.cloud.ceph_health:
    monitors: 3
    osds: 3
  run_once: true

- name: A look that does not fail while a machine is in maintenance
  ondol.cloud.ceph_health:
    timeout_seconds: 0
    accept: [OSDMAP_FLAGS]
    allow_failures: true
  register: health
"#;

    type Params = Params;
    type Desired = Desired;
    type Answer = Answer;

    fn probe(&mut self, desired: &Desired) -> anyhow::Result<Finding<Answer>> {
        let began = Instant::now();
        loop {
            let over = began.elapsed() >= desired.patience;
            match self.look(desired, began, over) {
                Ok(answer) if answer.well => return Ok(Finding::good(answer)),
                Ok(answer) if over && desired.allow_failures => return Ok(Finding::good(answer)),
                Ok(answer) if over => {
                    let message = format!(
                        "the cluster is not well ({}): {}",
                        answer.status,
                        answer.reasons.join("; ")
                    );
                    return Ok(Finding::bad(answer, message));
                }
                Err(error) if over => return Err(error),
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_secs(1)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::parse;

    fn desired(json: serde_json::Value) -> Desired {
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap()).unwrap()
    }

    fn status() -> Status {
        parse(include_str!("../fixtures/pacific/status.json")).unwrap()
    }

    fn health(text: &str) -> Health {
        parse(text).unwrap()
    }

    const OK: &str = r#"{"status":"HEALTH_OK","checks":{},"mutes":[]}"#;
    const HOST_DOWN: &str = include_str!("../fixtures/pacific/health_host_down.json");

    fn reasons(json: serde_json::Value, change: fn(&mut Status), said: &str) -> Vec<String> {
        let mut status = status();
        change(&mut status);
        judge(&desired(json), &status, &health(said), Duration::ZERO).reasons
    }

    #[test]
    fn a_cluster_in_order_is_well() {
        let none = [""; 0];
        let all = serde_json::json!({"monitors": 3, "managers": 3, "osds": 3});
        assert_eq!(reasons(all, |_| {}, OK), none);
        let scrubbing = |it: &mut Status| {
            it.pgmap.pgs_by_state = vec![
                PgState {
                    state_name: "active+clean".into(),
                    count: 33,
                },
                PgState {
                    state_name: "active+clean+scrubbing+deep".into(),
                    count: 1,
                },
            ];
        };
        assert_eq!(reasons(serde_json::json!({}), scrubbing, OK), none);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            reasons(
                serde_json::json!({"monitors": 5, "osds": 4}),
                |it| {
                    it.pgmap.pgs_by_state[0].state_name = "active+undersized+degraded".into();
                    it.osdmap.num_up_osds = 2;
                },
                OK
            ),
            [
                "3 of 5 monitors in the quorum",
                "2 of 4 OSDs up and in",
                "0 of 34 placement groups are active and clean (34 active+undersized+degraded)",
                "2 of 3 OSDs that are in are up",
            ]
        );
    }

    #[test]
    fn a_lost_host_is_told_in_the_clusters_words_unless_accepted() {
        let told = reasons(serde_json::json!({}), |_| {}, HOST_DOWN);
        assert_eq!(
            told[1],
            "OSD_DOWN: 1 osds down (osd.0 (root=default,host=ceph-03) is down)"
        );
        assert_eq!(told.len(), 3);
        let accept = serde_json::json!({"accept": ["MON_DOWN", "OSD_DOWN", "OSD_HOST_DOWN"]});
        assert_eq!(reasons(accept, |_| {}, HOST_DOWN), [""; 0]);
    }
}
