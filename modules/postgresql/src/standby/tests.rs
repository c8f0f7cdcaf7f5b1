//! How a member comes to follow, case by case.

use super::*;
use crate::cluster::Control;
use crate::replication::Answer;

fn desired(json: serde_json::Value) -> Desired {
    let mut args = serde_json::json!({
        "version": 15, "name": "b", "upstream": {"name": "a", "address": "10.0.0.1"}, "replication": {"password": "x"},
    });
    for (key, value) in json.as_object().expect("a map") {
        args[key] = value.clone();
    }
    let params: Params = serde_json::from_value(args).expect("params");
    Desired::try_from(params).expect("valid")
}

fn plain() -> Desired {
    desired(serde_json::json!({}))
}

fn allowing() -> Desired {
    desired(serde_json::json!({"allow_base_backup": true}))
}

fn at(lsn: &str) -> Lsn {
    lsn.parse().expect("a place")
}

/// The upstream, which left timeline 1 at 0/5000 if it is on 2.
fn upstream(in_recovery: bool, timeline: u32) -> Seen {
    Seen::Answers(Answer {
        system_identifier: "7".to_owned(),
        timeline,
        lsn: at("0/9000"),
        in_recovery,
        history: if timeline == 2 {
            vec![(1, at("0/5000"))]
        } else {
            Vec::new()
        },
    })
}

fn current(me: Me, upstream: Seen) -> Current {
    Current {
        me,
        upstream,
        leftovers: Vec::new(),
        follows: true,
        parameters: None,
        rules: None,
    }
}

fn alive(in_recovery: bool, timeline: u32, lsn: &str) -> Alive {
    Alive {
        in_recovery,
        system_identifier: "7".to_owned(),
        timeline,
        lsn: at(lsn),
        streams: in_recovery,
        manual: false,
        rewindable: true,
        slots: Vec::new(),
        waiting: Vec::new(),
    }
}

fn stopped(state: &str, checkpoint: &str) -> Stopped {
    Stopped {
        control: Control {
            system_identifier: "7".to_owned(),
            state: state.to_owned(),
            timeline: 1,
            checkpoint: checkpoint.to_owned(),
            checksums: true,
            hint_bits_logged: false,
        },
        signal: false,
        fenced: false,
    }
}

#[track_caller]
fn does(desired: &Desired, current: &Current, wanted: &[&str]) {
    let steps = decide(desired, current).expect("allowed");
    let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(lines, wanted);
}

#[track_caller]
fn refuses(desired: &Desired, current: &Current, words: &str) {
    match decide(desired, current) {
        Err(reason) => assert!(reason.contains(words), "{reason}"),
        Ok(steps) => panic!("{steps:?}"),
    }
}

const BACKUP: &str = "take a base backup from a";
const REPLACE: &str = "take a base backup from a, replacing the data here";
const REWIND: &str = "rewind the data to what a has";
const FOLLOW: &str = "follow a";
const START: &str = "start the standby and see it stream";

#[test]
fn where_there_is_nothing_a_base_backup_is_taken() {
    let describe = "configure a cluster for /var/lib/postgresql/15/main";
    let silent = || Seen::Silent("no route".to_owned());
    let nothing = |configured| Me::Absent { configured };
    // In check mode the upstream may not be there yet either.
    for seen in [upstream(false, 1), silent(), Seen::Refuses] {
        does(
            &plain(),
            &current(nothing(false), seen),
            &[BACKUP, describe, FOLLOW, START],
        );
    }
    let mut broken_off = current(nothing(false), upstream(false, 1));
    broken_off.leftovers = vec!["/x".into()];
    broken_off.parameters = Some(String::new());
    broken_off.rules = Some(String::new());
    does(
        &desired(serde_json::json!({"downstream": ["c"]})),
        &broken_off,
        &[
            "remove an unfinished base backup: /x",
            BACKUP,
            describe,
            "write conf.d/60-ondol.conf",
            "write pg_hba.conf",
            FOLLOW,
            START,
            "create replication slot ondol_c",
        ],
    );
    does(
        &plain(),
        &current(nothing(true), upstream(false, 1)),
        &[BACKUP, FOLLOW, START],
    );
    does(
        &plain(),
        &current(Me::Unconfigured, silent()),
        &[describe, FOLLOW, START],
    );
}

#[test]
fn an_upstream_that_cannot_be_asked_changes_nothing() {
    for me in [
        Me::Running(alive(true, 1, "0/4000")),
        Me::Running(alive(false, 1, "0/4000")),
        Me::Stopped(stopped("in production", "0/4000")),
    ] {
        for wish in [plain(), allowing()] {
            refuses(
                &wish,
                &current(me.clone(), Seen::Silent("no route".to_owned())),
                "cannot be asked: no route",
            );
            refuses(
                &wish,
                &current(me.clone(), Seen::Refuses),
                "nothing listens on 10.0.0.1 port 5432",
            );
        }
    }
}

#[test]
fn a_standby_follows_and_is_left_alone() {
    let me = || Me::Running(alive(true, 1, "0/4000"));
    does(&plain(), &current(me(), upstream(false, 1)), &[]);
    let mut other = current(me(), upstream(true, 1));
    other.follows = false;
    does(&plain(), &other, &[FOLLOW, "reload the configuration"]);
    // It is on the old timeline, and has nothing that the new one lacks.
    let mut behind = current(Me::Running(alive(true, 1, "0/5000")), upstream(false, 2));
    behind.follows = false;
    does(&plain(), &behind, &[FOLLOW, "reload the configuration"]);

    let dry = Alive {
        streams: false,
        ..alive(true, 1, "0/4000")
    };
    refuses(
        &plain(),
        &current(Me::Running(dry.clone()), upstream(false, 1)),
        "no log comes in",
    );
    does(
        &allowing(),
        &current(Me::Running(dry), upstream(false, 1)),
        &[REPLACE, FOLLOW, START],
    );

    let slots = vec![
        ("ondol_a".to_owned(), false),
        ("other".to_owned(), false),
        ("ondol_c".to_owned(), true),
    ];
    let with = Me::Running(Alive {
        slots,
        ..alive(true, 1, "0/4000")
    });
    does(
        &plain(),
        &current(with, upstream(false, 1)),
        &["drop replication slot ondol_a, which would keep the log for nobody"],
    );
}

#[test]
fn a_standby_that_went_on_alone_is_rewound() {
    let me = || Me::Running(alive(true, 1, "0/5001"));
    does(
        &plain(),
        &current(me(), upstream(false, 2)),
        &[
            "stop the cluster: it went on to 0/5001 on timeline 1, where a left at 0/5000",
            REWIND,
            FOLLOW,
            START,
        ],
    );
    refuses(
        &plain(),
        &current(Me::Running(alive(true, 2, "0/6000")), upstream(false, 1)),
        "itself out of date",
    );
    let bare = Me::Running(Alive {
        rewindable: false,
        ..alive(true, 1, "0/5001")
    });
    refuses(
        &plain(),
        &current(bare.clone(), upstream(false, 2)),
        "neither checksums",
    );
    does(
        &allowing(),
        &current(bare, upstream(false, 2)),
        &[REPLACE, FOLLOW, START],
    );
}

#[test]
fn a_primary_that_is_needed_is_not_turned_into_a_standby() {
    let me = || Me::Running(alive(false, 1, "0/4000"));
    for wish in [plain(), allowing()] {
        refuses(
            &wish,
            &current(me(), upstream(true, 1)),
            "this member is the primary and a a standby",
        );
        refuses(
            &wish,
            &current(me(), upstream(false, 1)),
            "both take writes",
        );
    }
    does(
        &plain(),
        &current(me(), upstream(false, 2)),
        &[
            "stop the cluster: a took over on timeline 2, this is an old primary on 1",
            REWIND,
            FOLLOW,
            START,
        ],
    );
}

#[test]
fn an_old_primary_comes_back_as_it_was_left() {
    let off = |state, checkpoint| Me::Stopped(stopped(state, checkpoint));
    // In order, and the upstream had its last record.
    does(
        &plain(),
        &current(off("shut down", "0/4FD8"), upstream(false, 2)),
        &[FOLLOW, START],
    );
    does(
        &plain(),
        &current(off("shut down", "0/5000"), upstream(false, 2)),
        &[REWIND, FOLLOW, START],
    );
    does(
        &plain(),
        &current(off("in production", "0/4000"), upstream(false, 2)),
        &[REWIND, FOLLOW, START],
    );
    does(
        &allowing(),
        &current(off("in production", "0/4000"), upstream(false, 2)),
        &[
            "rewind the data to what a has, or take a base backup if that fails",
            FOLLOW,
            START,
        ],
    );
    // Nobody was promoted.
    refuses(
        &plain(),
        &current(off("shut down", "0/4FD8"), upstream(true, 1)),
        "this is the last primary",
    );
    refuses(
        &plain(),
        &current(off("in production", "0/4FD8"), upstream(false, 1)),
        "must not be mixed in",
    );
    // Rewound, and killed before it was told to follow.
    does(
        &plain(),
        &current(off("in archive recovery", "0/4000"), upstream(false, 2)),
        &[FOLLOW, START],
    );
    let standby = Me::Stopped(Stopped {
        signal: true,
        ..stopped("shut down in recovery", "0/4000")
    });
    does(&plain(), &current(standby, upstream(false, 2)), &[START]);
}

#[test]
fn data_of_another_origin_is_replaced_only_with_leave() {
    let stranger = |me: Me| {
        let mut current = current(me, upstream(false, 1));
        if let Seen::Answers(answer) = &mut current.upstream {
            answer.system_identifier = "8".to_owned();
        }
        current
    };
    for me in [
        Me::Running(alive(false, 1, "0/4000")),
        Me::Stopped(stopped("shut down", "0/4000")),
    ] {
        refuses(&plain(), &stranger(me.clone()), "of another origin");
        does(&allowing(), &stranger(me), &[REPLACE, FOLLOW, START]);
    }
}
