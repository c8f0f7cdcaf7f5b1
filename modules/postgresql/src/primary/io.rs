//! Looking at this member and the others, and the promotion itself. Nothing here decides.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ondol_database::member::ask_all;
use ondol_machine::file;

use super::plan::REWIND;
use super::{Current, Desired, Me, Primary, Role, Standby};
use crate::client::{Client, PATIENCE};
use crate::cluster::{Cluster, StartMode};
use crate::instance::reload;
use crate::replication::{Durability, Local, Member, Seen, ask, local, slots};
use crate::scram;
use crate::sql::literal;
use crate::synchronous;

pub(super) fn warnings(desired: &Desired, current: &Current) -> Vec<String> {
    (desired.others.iter().zip(&current.others))
        .filter_map(|(member, seen)| match seen {
            Seen::Answers(_) => None,
            Seen::Refuses => Some(format!("{}: nothing listens there", member.name)),
            Seen::Denies(reason) | Seen::Silent(reason) => {
                Some(format!("{}: {reason}", member.name))
            }
        })
        .filter(|_| matches!(current.me, Me::Primary(_)))
        .collect()
}

pub(super) fn observe(desired: &Desired) -> anyhow::Result<Current> {
    let cluster = &desired.cluster;
    let me = match local(cluster, &cluster.default_data())? {
        Local::Absent => {
            return Ok(Current {
                me: Me::Absent,
                others: Vec::new(),
            });
        }
        Local::Unconfigured | Local::Empty => anyhow::bail!(
            "cluster {cluster} is unfinished: ondol.cloud.postgresql_standby or ondol.cloud.postgresql_instance completes it"
        ),
        Local::Stopped(stopped) => Me::Stopped {
            standby: stopped.is_standby(),
            system_identifier: stopped.control.system_identifier,
            timeline: stopped.control.timeline,
        },
        Local::Running(mut running) if running.in_recovery => Me::Standby(Standby {
            durability: Durability::read(&mut running.client)?,
            slots: slots(&mut running.client)?,
            system_identifier: running.system_identifier,
            timeline: running.timeline,
            lsn: running.lsn,
        }),
        Local::Running(mut running) => Me::Primary(Primary {
            role: role(&mut running.client, desired)?,
            slots: slots(&mut running.client)?,
            manual: running.mode == StartMode::Manual,
            system_identifier: running.system_identifier,
            timeline: running.timeline,
        }),
    };
    // The members know the role and its password from this log: what is not in it yet, they would refuse.
    if matches!(&me, Me::Primary(primary) if !primary.role.password_fits) {
        return Ok(Current {
            me,
            others: (desired.others.iter())
                .map(|_| Seen::Silent("not asked: the role of replication changes".to_owned()))
                .collect(),
        });
    }
    // The claim counts; what is looked for is only what speaks against it, and writers wait meanwhile.
    let patience = |member: &Member| {
        if desired.fenced.contains_key(&member.name) {
            PATIENCE / 3
        } else {
            PATIENCE
        }
    };
    let others = ask_all(&desired.others, |it| {
        ask(&desired.access, &it.address, it.port, false, patience(it))
    })?;
    Ok(Current { me, others })
}

fn role(client: &mut Client, desired: &Desired) -> anyhow::Result<Role> {
    let functions: Vec<String> = REWIND
        .iter()
        .map(|it| format!("has_function_privilege(oid, {}, 'EXECUTE')", literal(it)))
        .collect();
    let rows = client
        .query(&format!(
            "SELECT rolcanlogin AND rolreplication, rolpassword, {} FROM pg_authid WHERE rolname = {}",
            functions.join(" AND "),
            literal(&desired.access.user)
        ))
        .context("look up the role of replication")?;
    Ok(rows.first().map_or(Role::default(), |row| Role {
        exists: true,
        able: row.text(0) == "t",
        password_fits: scram::matches(row.text(1), desired.access.password.expose()),
        rewinds: row.text(2) == "t",
    }))
}

pub(super) fn promote(cluster: &Cluster, timeline: u32) -> anyhow::Result<()> {
    let place = cluster.require_place()?;
    let mut client = cluster.client("postgres")?;
    // A rule from its time as a primary would make its first commit wait for standbys that do not follow yet.
    let rule = synchronous::rule_file(&place.conf);
    if rule.exists() {
        file::remove(&rule)?;
        reload(cluster)?;
    }
    // Before, so that a machine that dies in between does not start a primary by itself.
    cluster.set_start_mode(StartMode::Manual)?;
    let promoted = client
        .value(&format!("SELECT pg_promote(true, {})", PROMOTION.as_secs()))
        .context("promote")?;
    anyhow::ensure!(
        promoted == "t",
        "the promotion is not through after {} s: see the server's log",
        PROMOTION.as_secs()
    );
    // pg_rewind reads the timeline from the control file, which only a checkpoint brings up to date.
    client.query("CHECKPOINT").context("make a checkpoint")?;
    let now = cluster
        .control(Path::new(&place.data))?
        .map_or(0, |control| control.timeline);
    anyhow::ensure!(
        now == timeline,
        "promoted to timeline {now}, where {timeline} was expected: somebody else promoted before"
    );
    Ok(())
}

const PROMOTION: Duration = Duration::from_secs(60);
