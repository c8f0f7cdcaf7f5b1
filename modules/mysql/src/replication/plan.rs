//! Whether a server may follow a source with the data it has, and what is not in order in how it does. Pure.

use super::{Copy, Current, Desired, Present, Step};
use crate::members::{Follows, role_file_leaving_out};

/// How the data comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// By replication alone.
    Keep,
    Copy(String),
}

/// Whether this server may become a replica of that source with the data it has. A text names what stands against it.
pub(super) fn decide(desired: &Desired, present: &Present) -> Result<Verdict, String> {
    let (me, source) = (&present.me, &present.source);
    if me.uuid == source.uuid {
        return Err(format!(
            "this server and its source are both {}: the source's address is this machine's, or auto.cnf was copied with the data",
            me.uuid
        ));
    }
    if me.server_id == source.server_id {
        return Err(format!(
            "server_id is {} on this server and on its source: each needs its own",
            me.server_id
        ));
    }
    let errant = me.executed.minus(&source.executed);
    let lost = source.purged.minus(&me.executed);
    let broken = me
        .follows
        .as_ref()
        .map(|it| &it.applier.error)
        .filter(|(code, _)| *code != 0);
    let why = if !errant.is_empty() {
        format!(
            "this server has {} errant transactions that the source has not: {errant}",
            errant.count()
        )
    } else if me.executed.is_empty() && !source.executed.is_empty() && desired.copy != Copy::Never {
        return Ok(Verdict::Copy("it has no data of its own".to_owned()));
    } else if !lost.is_empty() {
        format!("the source no longer has what this server lacks: {lost}")
    } else if let Some((code, words)) = broken {
        format!("what the source sent could not be applied: {words} ({code})")
    } else {
        return Ok(Verdict::Keep);
    };
    if desired.copy == Copy::Allowed {
        return Ok(Verdict::Copy(why));
    }
    Err(format!(
        "{why}. Look at them, and say copy: allowed to replace this server's data by a copy of the source's"
    ))
}

/// What is not as it should be in whom this server follows.
pub(super) fn to_mend(desired: &Desired, follows: Option<&Follows>) -> Option<&'static str> {
    let Some(follows) = follows else {
        return Some("it follows nobody");
    };
    let (ca_file, verifies_host) = desired.access.authority();
    if follows.host != desired.source.address || follows.port != desired.source.port {
        Some("it follows another")
    } else if follows.user != desired.access.user
        || follows.ca_file != ca_file.to_string_lossy()
        || follows.verifies_host != verifies_host
        || !follows.auto_position
    {
        Some("it follows in another way")
    } else if !follows.receiver.runs() {
        Some("it does not receive")
    } else if !follows.applier.runs() {
        Some("it does not apply")
    } else {
        None
    }
}

/// What a run does now.
pub(super) fn steps(desired: &Desired, current: &Current) -> Vec<Step> {
    let source = format!("{} port {}", desired.source.address, desired.source.port);
    let text = role_file_leaving_out(desired.semi_synchronous, desired.leave_out);
    let unknown = Present::default();
    let (present, verdict) = match current {
        // As a new server will be found.
        Current::Absent => (
            &unknown,
            Verdict::Copy("it has no data of its own".to_owned()),
        ),
        Current::Present(present) => match decide(desired, present) {
            Ok(verdict) => (&**present, verdict),
            // `observe` has refused it.
            Err(_) => return Vec::new(),
        },
    };
    let absent = *current == Current::Absent;
    let mut steps = Vec::new();
    if present.file != text {
        steps.push(Step::CloseAtStart { text });
    }
    if present.me.writable || present.semi_sync.source_enabled || absent {
        steps.push(Step::Close);
    }
    let confirm = desired.semi_synchronous && !present.semi_sync.settings;
    if confirm {
        steps.push(Step::SetSemiSync);
    }
    if present.leaves_out != desired.leave_out {
        steps.push(Step::LeaveOut {
            pattern: desired.leave_out,
        });
    }
    let mut why = to_mend(desired, present.me.follows.as_ref());
    if let Verdict::Copy(reason) = verdict {
        steps.push(Step::Copy {
            from: source.clone(),
            why: reason,
        });
        why = Some("its data is a copy");
    }
    // The filter is set between two applications.
    if why.is_none() && present.leaves_out != desired.leave_out {
        why = Some("what it leaves out is changed");
    }
    if let Some(why) = why.or(confirm.then_some("it is to confirm what it receives")) {
        steps.push(Step::Follow {
            source,
            why: why.to_owned(),
        });
    }
    steps
}
