//! `postgresql_status`: what a cluster on this machine is and does. It only looks, and only at this machine.

use anyhow::Context as _;
use ondol_kit::{Finding, Invalid, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::replication::{Local, Running, local};
use crate::server::usual_cluster;

/// Tell what a PostgreSQL cluster on this machine is and does
///
/// Whether it is a primary or a standby, stopped or fenced, where its log ends, who follows it. What it says of a cluster that was shut down in order
/// is what M(ondol.cloud.postgresql_primary) takes for a proof in a switchover.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Major version of the cluster.
    version: u16,
    /// Name of the cluster.
    #[serde(default = "usual_cluster")]
    cluster: String,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired(Cluster);

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        Ok(Self(Cluster::new(params.version, &params.cluster)?))
    }
}

/// What a cluster is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// There is none.
    #[default]
    Absent,
    /// Its creation or base backup was broken off.
    Unfinished,
    /// It does not run.
    Stopped,
    /// It follows another.
    Standby,
    /// It takes writes.
    Primary,
}

/// The cluster as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Answer {
    /// What the cluster is.
    pub role: Role,
    /// Whether it is forbidden to start.
    pub fenced: bool,
    /// V(auto), V(manual) or V(disabled): what happens at boot.
    pub start_mode: Option<String>,
    /// Version of the running server.
    pub server_version: Option<String>,
    /// Same for all members of a replicated set.
    pub system_identifier: Option<String>,
    /// Raised by one with each promotion.
    pub timeline: Option<u32>,
    /// End of the log of a running cluster.
    pub lsn: Option<String>,
    /// End of the log of a cluster that was shut down in order.
    pub shutdown_lsn: Option<String>,
    /// Whether a standby receives the log now.
    pub streaming: Option<bool>,
    /// C(synchronous_standby_names) of a primary.
    pub synchronous: Option<String>,
    /// Who follows.
    pub standbys: Vec<Follower>,
    /// Replication slots.
    pub slots: Vec<Slot>,
}

/// One that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Follower {
    /// Name of the member.
    pub name: String,
    /// V(streaming), V(catchup), V(startup), V(backup) or V(stopping).
    pub state: String,
    /// V(async), V(potential), V(sync) or V(quorum).
    pub sync_state: String,
    /// Bytes of log that it has not written to disk.
    pub behind_bytes: Option<u64>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Slot {
    /// Name of the slot.
    pub name: String,
    /// Whether somebody uses it now.
    pub active: bool,
    /// V(reserved), V(extended), V(unreserved) or V(lost).
    pub wal_status: Option<String>,
}

/// The module.
#[derive(Default)]
pub struct PostgresqlStatus;

impl Probe for PostgresqlStatus {
    const NAME: &'static str = "postgresql_status";
    const EXAMPLES: &'static str = r#"
- name: What is this member
  ondol.cloud.postgresql_status:
    version: 15
  become: true
  register: postgresql
"#;

    type Params = Params;
    type Desired = Desired;
    type Answer = Answer;

    fn probe(&mut self, desired: &Desired) -> anyhow::Result<Finding<Answer>> {
        let cluster = &desired.0;
        let mut answer = match local(cluster, &cluster.default_data())? {
            Local::Absent => return Ok(Finding::good(Answer::default())),
            Local::Unconfigured | Local::Empty => Answer {
                role: Role::Unfinished,
                ..Answer::default()
            },
            Local::Stopped(stopped) => Answer {
                role: Role::Stopped,
                timeline: Some(stopped.control.timeline),
                shutdown_lsn: (stopped.control.state == "shut down")
                    .then_some(stopped.control.checkpoint),
                system_identifier: Some(stopped.control.system_identifier),
                ..Answer::default()
            },
            Local::Running(running) => alive(*running)?,
        };
        let mode = cluster.start_mode()?;
        answer.fenced = answer.role == Role::Stopped && mode == crate::cluster::StartMode::Disabled;
        answer.start_mode = Some(mode.to_string());
        Ok(Finding::good(answer))
    }
}

fn alive(mut running: Running) -> anyhow::Result<Answer> {
    let client = &mut running.client;
    Ok(Answer {
        role: if running.in_recovery {
            Role::Standby
        } else {
            Role::Primary
        },
        server_version: Some(client.value("SHOW server_version")?),
        system_identifier: Some(running.system_identifier),
        timeline: Some(running.timeline),
        lsn: Some(running.lsn.to_string()),
        streaming: running.in_recovery.then_some(
            client.value(
                "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')",
            )? == "t",
        ),
        synchronous: Some(client.value("SHOW synchronous_standby_names")?),
        standbys: followers(client)?,
        slots: slots(client)?,
        ..Answer::default()
    })
}

fn followers(client: &mut Client) -> anyhow::Result<Vec<Follower>> {
    let rows = client
        .query(
            "SELECT application_name, state, sync_state,
                    (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END - flush_lsn)::bigint
             FROM pg_stat_replication ORDER BY 1, pid",
        )
        .context("list the standbys")?;
    Ok(rows
        .iter()
        .map(|row| Follower {
            name: row.text(0).to_owned(),
            state: row.text(1).to_owned(),
            sync_state: row.text(2).to_owned(),
            behind_bytes: row.optional(3).and_then(|it| it.parse().ok()),
        })
        .collect())
}

fn slots(client: &mut Client) -> anyhow::Result<Vec<Slot>> {
    let rows = client
        .query("SELECT slot_name, active, wal_status FROM pg_replication_slots ORDER BY 1")
        .context("list the replication slots")?;
    Ok(rows
        .iter()
        .map(|row| Slot {
            name: row.text(0).to_owned(),
            active: row.text(1) == "t",
            wal_status: row.optional(2).map(str::to_owned),
        })
        .collect())
}
