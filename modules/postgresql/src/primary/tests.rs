//! Who may be promoted, case by case.

use super::*;
use crate::replication::Answer;

fn desired(json: serde_json::Value) -> Desired {
    let mut args = serde_json::json!({
        "version": 15, "name": "b", "replication": {"password": "x"},
        "members": [{"name": "a", "address": "10.0.0.1"}, {"name": "b", "address": "10.0.0.2"}, {"name": "c", "address": "10.0.0.3"}],
    });
    for (key, value) in json.as_object().expect("a map") {
        args[key] = value.clone();
    }
    let params: Params = serde_json::from_value(args).expect("params");
    Desired::try_from(params).expect("valid")
}

fn at(lsn: &str) -> Lsn {
    lsn.parse().expect("a place")
}

fn answer(in_recovery: bool, timeline: u32, lsn: &str) -> Seen {
    Seen::Answers(Answer {
        system_identifier: "7".to_owned(),
        timeline,
        lsn: at(lsn),
        in_recovery,
        history: Vec::new(),
    })
}

fn silent() -> Seen {
    Seen::Silent("no route".to_owned())
}

/// This member is a standby at 0/5000 on timeline 1; each commit waited for one of b and c.
fn standby(others: [Seen; 2]) -> Current {
    Current {
        me: Me::Standby(Standby {
            system_identifier: "7".to_owned(),
            timeline: 1,
            lsn: at("0/5000"),
            durability: Some(Durability {
                timeline: 1,
                count: 1,
                standbys: vec!["b".to_owned(), "c".to_owned()],
            }),
            slots: Vec::new(),
        }),
        others: others.into(),
    }
}

fn powered_off() -> serde_json::Value {
    serde_json::json!({"fenced": {"a": {"how": "powered_off"}}})
}

#[track_caller]
fn refused(desired: &Desired, current: &Current, words: &str) {
    match decide(desired, current) {
        Err(reason) => assert!(reason.contains(words), "{reason}"),
        Ok(steps) => panic!("{steps:?}"),
    }
}

#[track_caller]
fn promoted(desired: &Desired, current: &Current, words: &str) {
    match decide(desired, current) {
        Ok(steps) => match &steps[0] {
            Step::Promote { timeline: 2, why } => assert!(why.contains(words), "{why}"),
            other => panic!("{other}"),
        },
        Err(reason) => panic!("{reason}"),
    }
}

#[test]
fn a_member_that_takes_writes_forbids_a_promotion_whatever_is_said() {
    for claim in [serde_json::json!({}), powered_off()] {
        let current = standby([answer(false, 1, "0/5000"), answer(true, 1, "0/5000")]);
        refused(
            &desired(claim),
            &current,
            "a at 10.0.0.1 takes writes on timeline 1",
        );
    }
}

#[test]
fn silence_is_not_absence() {
    let follower = || answer(true, 1, "0/5000");
    refused(
        &desired(serde_json::json!({})),
        &standby([silent(), follower()]),
        "a at 10.0.0.1 may still be a primary (no route)",
    );
    refused(
        &desired(serde_json::json!({})),
        &standby([Seen::Refuses, follower()]),
        "the server may start",
    );
    // Its machine answers, so it is not off.
    refused(
        &desired(powered_off()),
        &standby([Seen::Refuses, follower()]),
        "it has power",
    );
    // Who lets nobody in is there, whatever is said.
    refused(
        &desired(powered_off()),
        &standby([Seen::Denies("wrong password".to_owned()), follower()]),
        "a at 10.0.0.1 may still be a primary (wrong password)",
    );
    // The other standby may have been promoted by somebody else.
    refused(
        &desired(powered_off()),
        &standby([silent(), silent()]),
        "c at 10.0.0.3 may still be a primary",
    );
    promoted(
        &desired(powered_off()),
        &standby([silent(), follower()]),
        "each commit waited for 1 of b, c",
    );
    let stopped = serde_json::json!({"fenced": {"a": {"how": "stopped"}}});
    promoted(
        &desired(stopped),
        &standby([Seen::Refuses, follower()]),
        "none of those is ahead",
    );
}

#[test]
fn a_second_who_is_not_seen_may_have_been_promoted() {
    let both =
        serde_json::json!({"fenced": {"a": {"how": "powered_off"}, "c": {"how": "powered_off"}}});
    let mut accepting = both.clone();
    accepting["accept_data_loss"] = true.into();
    let current = standby([silent(), silent()]);
    refused(
        &desired(both),
        &current,
        "a and c cannot be seen, and one of them may have been promoted",
    );
    promoted(&desired(accepting), &current, "accepting");
}

#[test]
fn a_promotion_that_could_lose_commits_needs_leave() {
    let off = powered_off();
    let mut accepting = off.clone();
    accepting["accept_data_loss"] = true.into();
    let follower = |lsn| answer(true, 1, lsn);
    let behind = standby([silent(), follower("0/5001")]);
    refused(&desired(off.clone()), &behind, "c is ahead of this standby");
    promoted(
        &desired(accepting.clone()),
        &behind,
        "accepting that commits may be lost (c is ahead",
    );

    let with = |durability: Option<Durability>| {
        let mut current = standby([silent(), follower("0/4000")]);
        if let Me::Standby(me) = &mut current.me {
            me.durability = durability;
        }
        current
    };
    let rule = |timeline, count, names: &[&str]| {
        Some(Durability {
            timeline,
            count,
            standbys: names.iter().map(|it| (*it).to_owned()).collect(),
        })
    };
    for (durability, words) in [
        (
            None,
            "no rule of synchronous commit was in force on timeline 1",
        ),
        (
            rule(2, 1, &["b"]),
            "no rule of synchronous commit was in force",
        ),
        (
            rule(1, 0, &[]),
            "no rule of synchronous commit was in force",
        ),
        (rule(1, 1, &["c"]), "waited for c, not for this standby"),
        (
            rule(1, 1, &["b", "c", "d"]),
            "3 of them must be seen to know the one that has all, and 2 can be",
        ),
    ] {
        refused(&desired(off.clone()), &with(durability.clone()), words);
        promoted(&desired(accepting.clone()), &with(durability), "accepting");
    }
    for durability in [
        rule(1, 1, &["b"]),
        rule(1, 2, &["b", "c", "d"]),
        rule(1, 2, &["b", "c"]),
    ] {
        promoted(
            &desired(off.clone()),
            &with(durability),
            "each commit waited for",
        );
    }
}

#[test]
fn a_shutdown_in_order_is_proof_enough() {
    let mut current = standby([Seen::Refuses, answer(true, 1, "0/5000")]);
    if let Me::Standby(me) = &mut current.me {
        me.durability = None;
    }
    for (lsn, good) in [("0/4FD8", true), ("0/5000", true), ("0/5001", false)] {
        let desired =
            desired(serde_json::json!({"fenced": {"a": {"how": "stopped", "shutdown_lsn": lsn}}}));
        assert_eq!(decide(&desired, &current).is_ok(), good, "{lsn}");
    }
}

#[test]
fn a_server_of_another_origin_is_no_member() {
    let stranger = Seen::Answers(Answer {
        system_identifier: "8".to_owned(),
        in_recovery: true,
        timeline: 1,
        ..Answer::default()
    });
    refused(
        &desired(powered_off()),
        &standby([silent(), stranger]),
        "c at 10.0.0.3 is a server of another origin",
    );
}

fn primary() -> Primary {
    Primary {
        system_identifier: "7".to_owned(),
        timeline: 1,
        manual: true,
        role: Role {
            exists: true,
            able: true,
            password_fits: true,
            rewinds: true,
        },
        slots: vec![("ondol_a".to_owned(), true), ("ondol_c".to_owned(), false)],
    }
}

fn lines(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn a_primary_is_kept_in_order() {
    let follower = || answer(true, 1, "0/5000");
    let current = |primary| Current {
        me: Me::Primary(primary),
        others: vec![follower(), silent()],
    };
    let plain = desired(serde_json::json!({}));
    assert_eq!(decide(&plain, &current(primary())), Ok(vec![]));
    let bare = Primary {
        manual: false,
        role: Role::default(),
        slots: Vec::new(),
        ..primary()
    };
    let all = [
        "keep the primary from starting by itself at boot",
        "create role \"replicator\" for replication",
        "set the password of role \"replicator\"",
        "let role \"replicator\" read what pg_rewind reads",
        "create replication slot ondol_a",
        "create replication slot ondol_c",
    ];
    assert_eq!(
        decide(&plain, &current(bare)).map(|it| lines(&it)),
        Ok(all.map(str::to_owned).to_vec())
    );
    // In check mode, before anything is there, the same.
    let absent = Current {
        me: Me::Absent,
        others: Vec::new(),
    };
    assert_eq!(
        decide(&plain, &absent).map(|it| lines(&it)),
        Ok(all.map(str::to_owned).to_vec())
    );
    // c follows a, and a slot of an old member is left; one that is not ours stays.
    let cascade = desired(serde_json::json!({"members": [
        {"name": "a", "address": "x"}, {"name": "b", "address": "y"}, {"name": "c", "address": "z", "upstream": "a"}]}));
    let slots = vec![
        ("backup".to_owned(), false),
        ("ondol_a".to_owned(), true),
        ("ondol_c".to_owned(), false),
        ("ondol_d".to_owned(), true),
    ];
    assert_eq!(
        decide(&cascade, &current(Primary { slots, ..primary() })).map(|it| lines(&it)),
        Ok(vec![
            "drop replication slot ondol_c, which would keep the log for nobody".to_owned()
        ])
    );
    let two = Current {
        me: Me::Primary(primary()),
        others: vec![answer(false, 2, "0/1"), follower()],
    };
    refused(&plain, &two, "there must not be two primaries");
}

#[test]
fn a_stopped_primary_is_started_only_if_nobody_replaced_it() {
    let me = |standby| Me::Stopped {
        standby,
        system_identifier: "7".to_owned(),
        timeline: 1,
    };
    let current = |others: [Seen; 2]| Current {
        me: me(false),
        others: others.into(),
    };
    let follower = |timeline| answer(true, timeline, "0/1");
    let plain = desired(serde_json::json!({}));
    assert_eq!(
        decide(&plain, &current([follower(1), follower(1)])),
        Ok(vec![Step::StartPrimary])
    );
    refused(
        &plain,
        &current([follower(1), follower(2)]),
        "it has been replaced",
    );
    refused(
        &plain,
        &current([follower(1), answer(false, 2, "0/1")]),
        "takes writes",
    );
    refused(
        &plain,
        &current([follower(1), silent()]),
        "c at 10.0.0.3 may still be a primary",
    );
    let off = serde_json::json!({"fenced": {"c": {"how": "powered_off"}}});
    refused(
        &desired(off.clone()),
        &current([follower(1), silent()]),
        "c cannot be asked whether it has replaced this old primary",
    );
    let mut accepting = off;
    accepting["accept_data_loss"] = true.into();
    assert_eq!(
        decide(&desired(accepting), &current([follower(1), silent()])),
        Ok(vec![Step::StartPrimary])
    );
    let standby = Current {
        me: me(true),
        others: vec![follower(1), follower(1)],
    };
    refused(&plain, &standby, "postgresql_standby starts it");
}

#[test]
fn parameters_that_cannot_be_meant_are_refused() {
    for (key, value, param) in [
        ("name", serde_json::json!("x"), "name"),
        (
            "members",
            serde_json::json!([{"name": "b", "address": "x"}, {"name": "b", "address": "y"}]),
            "members[1].name",
        ),
        (
            "fenced",
            serde_json::json!({"b": {"how": "stopped"}}),
            "fenced.b",
        ),
        (
            "fenced",
            serde_json::json!({"a": {"how": "stopped", "shutdown_lsn": "soon"}}),
            "fenced.a.shutdown_lsn",
        ),
        (
            "replication",
            serde_json::json!({"password": "a\nb"}),
            "replication.password",
        ),
    ] {
        let mut args = serde_json::json!({
            "version": 15, "name": "b", "replication": {"password": "x"},
            "members": [{"name": "a", "address": "x"}, {"name": "b", "address": "y"}],
        });
        args[key] = value;
        let params: Params = serde_json::from_value(args).expect("params");
        assert_eq!(Desired::try_from(params).expect_err("invalid").param, param);
    }
}
