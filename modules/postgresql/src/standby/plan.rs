//! What is to be done that this member follows, or why nothing may be. Pure.

use super::{Alive, Current, Desired, Me, Step};
use crate::replication::{Answer, Lsn, Seen, Stopped, is_ours, slot};
use crate::server::Statement;
use crate::sql::literal;

impl Current {
    /// Whether waiting may help.
    pub(super) fn hopes(&self) -> bool {
        let alive = matches!(&self.me, Me::Running(me) if me.in_recovery && !me.streams);
        alive && self.follows && matches!(self.upstream, Seen::Answers(_))
    }
}

/// The steps, or why nothing may be done.
pub(super) fn decide(desired: &Desired, current: &Current) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    if !current.leftovers.is_empty() {
        steps.push(Step::RemoveLeftovers {
            paths: current.leftovers.clone(),
        });
    }
    let mut rest = match &current.me {
        // The upstream is asked when the backup is taken; there is nothing here to lose.
        Me::Absent { configured } => anew(desired, current, false, !configured),
        Me::Unconfigured => {
            let mut steps = vec![describe_step(desired)];
            steps.extend(file_steps(current));
            steps.extend([follow_step(desired), Step::Start]);
            steps
        }
        Me::Stopped(me) => stopped(desired, current, me)?,
        Me::Running(me) => running(desired, current, me)?,
    };
    steps.append(&mut rest);
    Ok(steps)
}

/// An upstream that answers and is of the same origin, or why not; `None` if a base backup of it may replace everything here.
fn known<'a>(
    desired: &Desired,
    current: &'a Current,
    system_identifier: &str,
) -> Result<Option<&'a Answer>, String> {
    let name = &desired.upstream.name;
    let answer = match &current.upstream {
        Seen::Answers(answer) => answer,
        Seen::Refuses => {
            return Err(format!(
                "{name} cannot be asked: nothing listens on {} port {}; nothing is changed here",
                desired.upstream.address, desired.upstream.port
            ));
        }
        Seen::Denies(reason) | Seen::Silent(reason) => {
            return Err(format!(
                "{name} cannot be asked: {reason}; nothing is changed here"
            ));
        }
    };
    if answer.system_identifier == system_identifier {
        return Ok(Some(answer));
    }
    if desired.allow_base_backup {
        return Ok(None);
    }
    Err(format!(
        "the data here is of another origin than {name}'s (system identifier {system_identifier}, there {}): allow_base_backup: true would replace it",
        answer.system_identifier
    ))
}

fn stopped(desired: &Desired, current: &Current, me: &Stopped) -> Result<Vec<Step>, String> {
    let Some(upstream) = known(desired, current, &me.control.system_identifier)? else {
        return Ok(anew(desired, current, true, false));
    };
    let name = &desired.upstream.name;
    let mut steps: Vec<Step> = file_steps(current).collect();
    if me.is_standby() {
        if !current.follows || !me.signal || me.fenced {
            steps.push(follow_step(desired));
        }
        steps.push(Step::Start);
        return Ok(steps);
    }
    if upstream.timeline <= me.control.timeline {
        return Err(if upstream.in_recovery {
            format!(
                "this is the last primary (timeline {}), and {name} is a standby that was not promoted: ondol.cloud.postgresql_primary promotes one or starts this one",
                me.control.timeline
            )
        } else {
            format!(
                "{name} takes writes on timeline {}, which is not after this old primary's {}: one of them is a copy that must not be mixed in",
                upstream.timeline, me.control.timeline
            )
        });
    }
    let end: Option<Lsn> = (me.control.state == "shut down")
        .then(|| me.control.checkpoint.parse().ok())
        .flatten();
    // The last record is the checkpoint of its shutdown: an upstream that left the timeline behind its start has it.
    let in_order = end.is_some_and(|end| {
        upstream
            .fork(me.control.timeline)
            .is_some_and(|fork| end < fork)
    });
    if !in_order {
        let rewindable = me.control.checksums || me.control.hint_bits_logged;
        match back(desired, rewindable)? {
            Some(rewind) => steps.push(rewind),
            None => return Ok(anew(desired, current, true, false)),
        }
    }
    steps.extend([follow_step(desired), Step::Start]);
    Ok(steps)
}

/// The rewind, or nothing where only a base backup helps and is allowed.
fn back(desired: &Desired, rewindable: bool) -> Result<Option<Step>, String> {
    if rewindable {
        return Ok(Some(Step::Rewind {
            from: desired.upstream.name.clone(),
            or_base_backup: desired.allow_base_backup,
        }));
    }
    if desired.allow_base_backup {
        return Ok(None);
    }
    Err("the data here has neither checksums nor logged hint bits, so pg_rewind cannot bring it back: allow_base_backup: true would replace it".to_owned())
}

fn running(desired: &Desired, current: &Current, me: &Alive) -> Result<Vec<Step>, String> {
    let name = &desired.upstream.name;
    let Some(upstream) = known(desired, current, &me.system_identifier)? else {
        return Ok(anew(desired, current, true, false));
    };
    if !me.in_recovery {
        if upstream.in_recovery {
            return Err(format!(
                "this member is the primary and {name} a standby: fence this one (ondol.cloud.postgresql_fence) and promote another (ondol.cloud.postgresql_primary) first"
            ));
        }
        if upstream.timeline <= me.timeline {
            return Err(format!(
                "this member and {name} both take writes, on timelines {} and {}: the one that was not promoted last must be fenced, and that is not this one",
                me.timeline, upstream.timeline
            ));
        }
        let why = format!(
            "{name} took over on timeline {}, this is an old primary on {}",
            upstream.timeline, me.timeline
        );
        return replaced(desired, current, me, why);
    }
    if !upstream.continues(me.timeline, me.lsn) {
        if upstream.timeline < me.timeline {
            return Err(format!(
                "this standby is on timeline {}, {name} only on {}: it is itself out of date",
                me.timeline, upstream.timeline
            ));
        }
        let why = format!(
            "it went on to {} on timeline {}, where {name} left at {}",
            me.lsn,
            me.timeline,
            upstream.fork(me.timeline).unwrap_or_default()
        );
        return replaced(desired, current, me, why);
    }
    let mut steps: Vec<Step> = file_steps(current).collect();
    let reload = current.parameters.is_some() || !current.follows;
    if current.follows && !me.streams {
        let reason = format!("this standby is told to follow {name}, but no log comes in");
        if !desired.allow_base_backup {
            return Err(reason);
        }
        return Ok(anew(desired, current, true, false));
    }
    if !current.follows {
        steps.push(follow_step(desired));
    }
    if reload {
        steps.push(Step::Reload);
    }
    if me.manual && current.follows {
        steps.push(Step::StartAtBoot);
    }
    steps.extend(slot_steps(desired, &me.slots));
    Ok(steps)
}

fn replaced(
    desired: &Desired,
    current: &Current,
    me: &Alive,
    why: String,
) -> Result<Vec<Step>, String> {
    match back(desired, me.rewindable)? {
        None => Ok(anew(desired, current, true, false)),
        Some(rewind) => {
            let mut steps = vec![Step::Stop { why }];
            steps.extend(file_steps(current));
            steps.extend([rewind, follow_step(desired), Step::Start]);
            Ok(steps)
        }
    }
}

fn anew(desired: &Desired, current: &Current, replaces: bool, describe: bool) -> Vec<Step> {
    let mut steps = vec![Step::BaseBackup {
        from: desired.upstream.name.clone(),
        replaces,
    }];
    if describe {
        steps.push(describe_step(desired));
    }
    steps.extend(file_steps(current));
    steps.extend([follow_step(desired), Step::Start]);
    steps.extend(slot_steps(desired, &[]));
    steps
}

fn describe_step(desired: &Desired) -> Step {
    Step::Describe {
        data: desired.data.clone(),
    }
}

fn follow_step(desired: &Desired) -> Step {
    Step::Follow {
        upstream: desired.upstream.name.clone(),
    }
}

/// The files that are as with any cluster.
fn file_steps(current: &Current) -> impl Iterator<Item = Step> {
    let parameters = (current.parameters.clone()).map(|text| Step::WriteParameters { text });
    let rules = (current.rules.clone()).map(|text| Step::WriteRules { text });
    parameters.into_iter().chain(rules)
}

/// Slots of those who follow this one; ours for others, as of its time as a primary, would keep the log for nobody.
fn slot_steps(desired: &Desired, slots: &[(String, bool)]) -> Vec<Step> {
    let wanted: Vec<String> = desired.downstream.iter().map(|name| slot(name)).collect();
    let missing = (wanted.iter())
        .filter(|name| !slots.iter().any(|(slot, _)| slot == *name))
        .map(|name| {
            Statement::new(
                format!("create replication slot {name}"),
                format!(
                    "SELECT pg_create_physical_replication_slot({}, true)",
                    literal(name)
                ),
            )
        });
    let unused = (slots.iter())
        .filter(|(name, active)| is_ours(name) && !active && !wanted.contains(name))
        .map(|(name, _)| {
            Statement::new(
                format!("drop replication slot {name}, which would keep the log for nobody"),
                format!("SELECT pg_drop_replication_slot({})", literal(name)),
            )
        });
    missing.chain(unused).map(Step::Sql).collect()
}
