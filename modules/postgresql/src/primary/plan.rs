//! Who may be promoted, and what a primary keeps in order. Pure.

use super::{Current, Desired, How, Me, Primary, Role, Standby, Step};
use crate::replication::{Answer, Durability, Member, Seen, is_ours, slot};
use crate::server::Statement;
use crate::sql::{identifier, literal};

/// The steps, or why nothing may be done.
pub(super) fn decide(desired: &Desired, current: &Current) -> Result<Vec<Step>, String> {
    match &current.me {
        Me::Absent => Ok(keep(desired, &Primary::default())),
        Me::Primary(primary) => {
            sane(desired, current, &primary.system_identifier)?;
            Ok(keep(desired, primary))
        }
        Me::Standby(standby) => {
            sane(desired, current, &standby.system_identifier)?;
            silent_are_fenced(desired, current)?;
            let why = nothing_is_lost(desired, current, standby)?;
            let mut steps = vec![Step::Promote {
                timeline: standby.timeline + 1,
                why,
            }];
            // The role and its grants came with the log; the promotion itself sees to the boot.
            let promoted = Primary {
                manual: true,
                slots: standby.slots.clone(),
                role: Role {
                    exists: true,
                    able: true,
                    password_fits: true,
                    rewinds: true,
                },
                ..Primary::default()
            };
            steps.extend(keep(desired, &promoted));
            Ok(steps)
        }
        Me::Stopped { standby: true, .. } => Err(
            "this member is a standby and does not run: ondol.cloud.postgresql_standby starts it, then it can be promoted".to_owned(),
        ),
        Me::Stopped {
            system_identifier,
            timeline,
            ..
        } => {
            sane(desired, current, system_identifier)?;
            silent_are_fenced(desired, current)?;
            for (member, answer) in answers(desired, current) {
                if answer.timeline > *timeline {
                    return Err(format!(
                        "{} is on timeline {}, this old primary on {timeline}: it has been replaced, and ondol.cloud.postgresql_standby makes it follow",
                        member.name, answer.timeline
                    ));
                }
            }
            let unseen = unseen(desired, current);
            if !unseen.is_empty() && !desired.accept_data_loss {
                return Err(format!(
                    "{} cannot be asked whether it has replaced this old primary and taken commits since: accept_data_loss: true would start this one nevertheless",
                    unseen.join(" and ")
                ));
            }
            Ok(vec![Step::StartPrimary])
        }
    }
}

fn answers<'a>(
    desired: &'a Desired,
    current: &'a Current,
) -> impl Iterator<Item = (&'a Member, &'a Answer)> {
    (desired.others.iter().zip(&current.others)).filter_map(|(member, seen)| match seen {
        Seen::Answers(answer) => Some((member, answer)),
        Seen::Refuses | Seen::Denies(_) | Seen::Silent(_) => None,
    })
}

fn unseen<'a>(desired: &'a Desired, current: &Current) -> Vec<&'a str> {
    (desired.others.iter().zip(&current.others))
        .filter(|(_, seen)| !matches!(seen, Seen::Answers(_)))
        .map(|(member, _)| member.name.as_str())
        .collect()
}

/// All who answer belong to this set, and none of them takes writes.
fn sane(desired: &Desired, current: &Current, system_identifier: &str) -> Result<(), String> {
    for (member, answer) in answers(desired, current) {
        if answer.system_identifier != system_identifier {
            return Err(format!(
                "{} at {} is a server of another origin (system identifier {}, here {system_identifier}): it is no member of this set",
                member.name, member.address, answer.system_identifier
            ));
        }
        if !answer.in_recovery {
            let claim = if desired.fenced.contains_key(&member.name) {
                ", although it is said to be fenced"
            } else {
                ""
            };
            return Err(format!(
                "{} at {} takes writes on timeline {}{claim}: there must not be two primaries, so fence it first (ondol.cloud.postgresql_fence)",
                member.name, member.address, answer.timeline
            ));
        }
    }
    Ok(())
}

/// Every member that does not answer is said to be fenced, and nothing that can be seen speaks against it.
fn silent_are_fenced(desired: &Desired, current: &Current) -> Result<(), String> {
    for (member, seen) in desired.others.iter().zip(&current.others) {
        let claim = desired.fenced.get(&member.name).map(|(how, _)| *how);
        let reason = match (seen, claim) {
            (Seen::Answers(_), _) => continue,
            (Seen::Refuses, Some(How::Stopped))
            | (Seen::Silent(_), Some(How::Stopped | How::PoweredOff)) => continue,
            (Seen::Refuses, Some(How::PoweredOff)) => {
                return Err(format!(
                    "{} is said to be powered off, but its machine at {} answers that nothing listens on port {}: it has power, and the server may start",
                    member.name, member.address, member.port
                ));
            }
            (Seen::Refuses, None) => "nothing listens there now, but the server may start",
            (Seen::Denies(reason), _) | (Seen::Silent(reason), None) => reason,
        };
        return Err(format!(
            "{} at {} may still be a primary ({reason}): fence it and say how under fenced.{}",
            member.name, member.address, member.name
        ));
    }
    Ok(())
}

/// Why every acknowledged commit is on this standby.
fn nothing_is_lost(desired: &Desired, current: &Current, me: &Standby) -> Result<String, String> {
    let place = (me.timeline, me.lsn);
    let ahead = answers(desired, current).find(|(_, it)| (it.timeline, it.lsn) > place);
    let lost = match ahead {
        Some((member, answer)) => Err(format!(
            "{} is ahead of this standby (timeline {} at {}, here {} at {}): promote that one",
            member.name, answer.timeline, answer.lsn, me.timeline, me.lsn
        )),
        // One who is not seen is the old primary. A second could have been promoted after it.
        None if unseen(desired, current).len() > 1 => Err(format!(
            "{} cannot be seen, and one of them may have been promoted and have taken commits since",
            unseen(desired, current).join(" and ")
        )),
        None => in_order(desired, me).map_or_else(|| by_rule(desired, current, me), Ok),
    };
    match lost {
        Err(reason) if desired.accept_data_loss => {
            Ok(format!("accepting that commits may be lost ({reason})"))
        }
        Err(reason) => Err(format!(
            "acknowledged commits could be lost: {reason}. accept_data_loss: true would do it nevertheless"
        )),
        Ok(why) => Ok(why),
    }
}

/// By a fenced primary's shutdown.
fn in_order(desired: &Desired, me: &Standby) -> Option<String> {
    desired.fenced.iter().find_map(|(name, (how, lsn))| {
        let lsn = (*lsn)?;
        (*how == How::Stopped && me.lsn >= lsn).then(|| {
            format!(
                "{name} was shut down in order at {lsn}, this standby is at {}",
                me.lsn
            )
        })
    })
}

/// By the rule of synchronous commit. If each commit waited for `count` of n standbys, then any n - count + 1 of them hold every commit between
/// them, and the one of those that is ahead holds all.
fn by_rule(desired: &Desired, current: &Current, me: &Standby) -> Result<String, String> {
    let in_force = |rule: &&Durability| rule.timeline == me.timeline && rule.count > 0;
    let Some(rule) = me.durability.as_ref().filter(in_force) else {
        return Err(format!(
            "no rule of synchronous commit was in force on timeline {}",
            me.timeline
        ));
    };
    if !rule.standbys.contains(&desired.name) {
        return Err(format!(
            "the old primary waited for {}, not for this standby",
            rule.standbys.join(", ")
        ));
    }
    let others = answers(desired, current).filter(|(member, answer)| {
        rule.standbys.contains(&member.name) && answer.timeline == me.timeline
    });
    let seen = 1 + others.count();
    let needed = (rule.standbys.len() + 1).saturating_sub(rule.count);
    if seen < needed {
        return Err(format!(
            "each commit waited for {} of {}, so {needed} of them must be seen to know the one that has all, and {seen} can be",
            rule.count,
            rule.standbys.join(", ")
        ));
    }
    Ok(format!(
        "each commit waited for {} of {}, and none of those is ahead",
        rule.count,
        rule.standbys.join(", ")
    ))
}

/// What a primary keeps in order.
fn keep(desired: &Desired, primary: &Primary) -> Vec<Step> {
    let mut steps = Vec::new();
    if !primary.manual {
        steps.push(Step::KeepDownAtBoot);
    }
    let user = &desired.access.user;
    let (quoted, role) = (identifier(user), primary.role);
    if !role.exists {
        steps.push(Step::Sql(Statement::new(
            format!("create role {user:?} for replication"),
            format!("CREATE ROLE {quoted} LOGIN REPLICATION"),
        )));
    } else if !role.able {
        steps.push(Step::Sql(Statement::new(
            format!("let role {user:?} log in and replicate"),
            format!("ALTER ROLE {quoted} LOGIN REPLICATION"),
        )));
    }
    if !role.password_fits {
        let verifier = literal(desired.verifier.expose());
        steps.push(Step::Sql(
            Statement::new(
                format!("set the password of role {user:?}"),
                format!("ALTER ROLE {quoted} PASSWORD {verifier}"),
            )
            .secret(),
        ));
    }
    if !role.rewinds {
        steps.push(Step::Sql(Statement::new(
            format!("let role {user:?} read what pg_rewind reads"),
            format!(
                "GRANT EXECUTE ON FUNCTION {} TO {quoted}",
                REWIND.join(", ")
            ),
        )));
    }
    let wanted: Vec<String> = (desired.others.iter())
        .filter(|member| {
            (member.upstream.as_ref()).is_none_or(|upstream| *upstream == desired.name)
        })
        .map(|member| slot(&member.name))
        .collect();
    for name in &wanted {
        if !primary.slots.iter().any(|(slot, _)| slot == name) {
            steps.push(Step::Sql(Statement::new(
                format!("create replication slot {name}"),
                format!(
                    "SELECT pg_create_physical_replication_slot({}, true)",
                    literal(name)
                ),
            )));
        }
    }
    for (name, active) in &primary.slots {
        if is_ours(name) && !active && !wanted.contains(name) {
            steps.push(Step::Sql(Statement::new(
                format!("drop replication slot {name}, which would keep the log for nobody"),
                format!("SELECT pg_drop_replication_slot({})", literal(name)),
            )));
        }
    }
    steps
}

/// <https://www.postgresql.org/docs/15/app-pgrewind.html>, "Notes".
pub(super) const REWIND: [&str; 4] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];
