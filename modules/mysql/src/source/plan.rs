//! Who may be opened or promoted, and what the account of replication shall be. Pure.

use super::{Account, Current, Desired, Present, Step};
use crate::gtid::GtidSet;
use crate::members::{Seen, Server, role_file};
use crate::server::Statement;
use crate::sql::account;

/// What becomes of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is open already.
    Stay,
    Open(String),
    Promote {
        wait_for: GtidSet,
        why: String,
    },
}

/// Whether this server may be the one that takes writes. A text names what stands against it.
pub(super) fn decide(desired: &Desired, present: &Present) -> Result<Verdict, String> {
    let me = &present.me;
    for (name, seen) in &present.others {
        if let Seen::Answers(other) = seen
            && other.writable
        {
            return Err(if me.writable {
                format!(
                    "both this server and {name} take writes: fence one with ondol.cloud.mysql_fence, at once"
                )
            } else {
                format!("{name} takes writes: fence it first with ondol.cloud.mysql_fence")
            });
        }
    }
    if me.writable && me.follows.is_none() {
        return Ok(Verdict::Stay);
    }
    let mut wait_for = GtidSet::default();
    let mut silent = Vec::new();
    for (name, seen) in &present.others {
        let words = match seen {
            Seen::Answers(other) => {
                let here = me.executed.plus(&me.received);
                let missing = other.executed.minus(&here);
                // From a source that still feeds this one, the rest is on its way.
                let feeds = me.follows.as_ref().is_some_and(|it| {
                    it.receiver.runs() && is_at(desired, name, &it.host, it.port)
                });
                if !missing.is_empty() && !feeds && !desired.accept_data_loss {
                    return Err(format!(
                        "{name} has transactions that this server lacks: {missing}. Promote {name}, or say accept_data_loss: true"
                    ));
                }
                if missing.is_empty() || feeds {
                    wait_for = wait_for.plus(&other.executed);
                }
                continue;
            }
            Seen::Denies(words) => {
                return Err(format!(
                    "{name} answers and lets nobody in, so it may take writes: {words}"
                ));
            }
            Seen::Refuses => "nothing listens there",
            Seen::Silent(words) => words,
        };
        if !desired.fenced.contains_key(name) {
            return Err(format!(
                "{name} cannot be asked, so it may take writes ({words}): fence it, and name it under `fenced`"
            ));
        }
        silent.push(name.as_str());
    }
    let Some(follows) = &me.follows else {
        return Ok(Verdict::Open(why(&silent)));
    };
    // What was received is applied in any case.
    wait_for = wait_for.plus(&me.received);
    let source_is_silent = silent
        .iter()
        .any(|name| is_at(desired, name, &follows.host, follows.port));
    if source_is_silent && !desired.accept_data_loss {
        if !present.account.semi_synchronous {
            return Err(format!(
                "{} does not answer, and its commits did not wait for a replica: some that were acknowledged may be on it alone. \
                 Bring it back, or say accept_data_loss: true",
                silent.join(", ")
            ));
        }
        // One replica's word was enough for a commit: it may have been another's.
        if silent.len() > 1 {
            return Err(format!(
                "{} do not answer: a commit may be on these alone. Bring one back, or say accept_data_loss: true",
                silent.join(" and ")
            ));
        }
    }
    Ok(Verdict::Promote {
        wait_for,
        why: why(&silent),
    })
}

pub(super) fn why(silent: &[&str]) -> String {
    if silent.is_empty() {
        "every other member is closed".to_owned()
    } else {
        format!("fenced: {}", silent.join(", "))
    }
}

/// Whether a member is the one at that address.
pub(super) fn is_at(desired: &Desired, name: &str, host: &str, port: u16) -> bool {
    (desired.others.iter()).any(|it| it.name == name && it.address == host && it.port == port)
}

/// Members that receive now. From whom is not asked: if it is not from here, the first commit that is to wait for them says so.
pub(super) fn followers(me: &Server, others: &[(String, Seen)]) -> usize {
    let follows = |seen: &Seen| match seen {
        Seen::Answers(other) => other.follows.as_ref().is_some_and(|it| it.receiver.runs()),
        _ => false,
    };
    if me.follows.is_some() {
        return 0;
    }
    others.iter().filter(|(_, seen)| follows(seen)).count()
}

pub(super) const PRIVILEGES: [&str; 3] =
    ["BACKUP_ADMIN", "REPLICATION CLIENT", "REPLICATION SLAVE"];

/// The account as it shall be.
pub(super) fn account_statements(desired: &Desired, account: &Account) -> Vec<Statement> {
    let who = who(desired);
    let mut statements = Vec::new();
    if !account.password_fits || !account.requires_tls {
        let act = if account.exists { "alter" } else { "create" };
        let sql = format!(
            "{} USER {who} IDENTIFIED WITH caching_sha2_password AS {} REQUIRE SSL",
            act.to_uppercase(),
            desired.stored.expose()
        );
        statements.push(Statement::new(format!("{act} user {who} for replication"), sql).secret());
    }
    if !account.privileges {
        let list = PRIVILEGES.join(", ");
        statements.push(Statement::new(
            format!("grant {list} to {who}"),
            format!("GRANT {list} ON *.* TO {who}"),
        ));
    }
    statements
}

pub(super) fn who(desired: &Desired) -> String {
    account(&desired.access.user, "%")
}

/// What a run does now.
pub(super) fn steps(desired: &Desired, current: &Current) -> Vec<Step> {
    let fresh = Present::default();
    let (present, verdict) = match current {
        Current::Absent => (&fresh, Verdict::Stay),
        Current::Present(present) => match decide(desired, present) {
            Ok(verdict) => (&**present, verdict),
            // `observe` has refused it.
            Err(_) => return Vec::new(),
        },
    };
    let mut steps = Vec::new();
    let text = role_file(desired.semi_synchronous);
    if present.file != text {
        steps.push(Step::CloseAtStart { text });
    }
    if desired.semi_synchronous && !present.semi_sync.settings {
        steps.push(Step::SetSemiSync);
    }
    let waits = desired.semi_synchronous && followers(&present.me, &present.others) > 0;
    let stays = verdict == Verdict::Stay;
    let open = |why: String| Step::Open {
        why,
        semi_synchronous: waits && present.account.semi_synchronous,
        unmark: present.account.semi_synchronous && !waits,
    };
    match verdict {
        Verdict::Stay => {}
        Verdict::Open(why) => steps.push(open(why)),
        Verdict::Promote { wait_for, why } => {
            steps.push(Step::Promote {
                wait_for,
                why: why.clone(),
            });
            steps.push(open(why));
        }
    }
    let statements = account_statements(desired, &present.account);
    steps.extend(statements.into_iter().map(Step::Sql));
    let marked = present.account.semi_synchronous && (stays || waits);
    let enabled = if stays {
        present.semi_sync.source_enabled
    } else {
        waits && present.account.semi_synchronous
    };
    if waits && !(marked && enabled) {
        steps.push(Step::CommitSemiSynchronously);
    } else if !desired.semi_synchronous && stays && (marked || enabled) {
        steps.push(Step::CommitAlone);
    }
    steps
}
