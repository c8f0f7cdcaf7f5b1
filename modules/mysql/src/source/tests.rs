//! Cases of promotion, of what a source keeps in order, and of parameters.

use super::plan::Verdict;
use super::*;
use crate::members::{Follows, Thread, role_file};

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

fn desired(json: serde_json::Value) -> Desired {
    let mut params = serde_json::json!({
        "name": "b",
        "members": [
            {"name": "a", "address": "10.0.0.1"},
            {"name": "b", "address": "10.0.0.2"},
            {"name": "c", "address": "10.0.0.3"},
        ],
        "replication": {"password": "hunter2", "ca_file": "/ca.pem"},
    });
    for (key, value) in json.as_object().expect("a map") {
        params[key] = value.clone();
    }
    let params: Params = serde_json::from_value(params).expect("params");
    Desired::try_from(params).expect("valid")
}

fn set(text: &str) -> GtidSet {
    text.replace("A:", &format!("{A}:"))
        .replace("B:", &format!("{B}:"))
        .parse()
        .expect("a set")
}

fn runs() -> Thread {
    Thread {
        state: "Yes".to_owned(),
        ..Thread::default()
    }
}

fn follows(host: &str) -> Option<Follows> {
    Some(Follows {
        host: host.to_owned(),
        port: 3306,
        receiver: runs(),
        applier: runs(),
        ..Follows::default()
    })
}

fn other(executed: &str, writable: bool, of: Option<&str>) -> Seen {
    Seen::Answers(Box::new(Server {
        executed: set(executed),
        writable,
        follows: of.and_then(follows),
        ..Server::default()
    }))
}

fn account_there(semi_synchronous: bool) -> Account {
    Account {
        exists: true,
        password_fits: true,
        requires_tls: true,
        privileges: true,
        semi_synchronous,
    }
}

/// `b` as a replica of `a`.
fn replica(a: Seen, c: Seen) -> Present {
    Present {
        me: Server {
            executed: set("A:1-18"),
            received: set("A:5-20"),
            follows: follows("10.0.0.1"),
            ..Server::default()
        },
        file: role_file(true),
        semi_sync: SemiSync {
            loaded: true,
            settings: true,
            source_enabled: false,
        },
        account: account_there(true),
        others: vec![("a".to_owned(), a), ("c".to_owned(), c)],
    }
}

fn silent() -> Seen {
    Seen::Silent("no answer in time".to_owned())
}

fn lines(json: serde_json::Value, present: Present) -> Vec<String> {
    MysqlSource::plan(&desired(json), &Current::Present(Box::new(present)))
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_new_server_becomes_the_source_of_members_that_are_not_there_yet() {
    let bare = Present {
        me: Server {
            writable: true,
            ..Server::default()
        },
        semi_sync: SemiSync {
            loaded: true,
            ..SemiSync::default()
        },
        others: vec![
            ("a".to_owned(), Seen::Refuses),
            ("c".to_owned(), Seen::Denies("Access denied".to_owned())),
        ],
        ..Present::default()
    };
    let wanted = [
        "close the server to writes whenever it starts",
        "prepare semi-synchronous replication",
        "create user 'replicator'@'%' for replication",
        "grant BACKUP_ADMIN, REPLICATION CLIENT, REPLICATION SLAVE to 'replicator'@'%'",
    ];
    assert_eq!(lines(serde_json::json!({}), bare), wanted);
    let foretold: Vec<String> =
        MysqlSource::plan(&desired(serde_json::json!({})), &Current::Absent)
            .iter()
            .map(ToString::to_string)
            .collect();
    assert_eq!(foretold, wanted);
}

#[test]
fn commits_wait_from_the_moment_a_replica_is_there() {
    let mut source = replica(
        other("A:1-20", false, Some("10.0.0.2")),
        other("A:1-20", false, Some("10.0.0.2")),
    );
    source.me = Server {
        writable: true,
        executed: set("A:1-20,B:1"),
        ..Server::default()
    };
    source.account.semi_synchronous = false;
    assert_eq!(
        lines(serde_json::json!({}), source.clone()),
        ["let commits wait until a replica has them"]
    );
    source.account.semi_synchronous = true;
    source.semi_sync.source_enabled = true;
    assert_eq!(lines(serde_json::json!({}), source.clone()), [""; 0]);
    let mut alone = source;
    alone.file = role_file(false);
    assert_eq!(
        lines(serde_json::json!({"semi_synchronous": false}), alone),
        ["let commits no longer wait for a replica"]
    );
}

#[test]
fn promotions_and_what_stands_against_them() {
    let none = serde_json::json!({});
    let fenced = serde_json::json!({"fenced": {"a": "powered_off"}});
    let loss = serde_json::json!({"fenced": {"a": "powered_off"}, "accept_data_loss": true});
    let closed = |text: &str| other(text, false, None);
    let c = || other("A:1-19", false, Some("10.0.0.1"));
    let mut alone = replica(silent(), c());
    alone.account.semi_synchronous = false;
    let mut open = replica(closed("A:1-20"), c());
    open.me.writable = true;
    open.me.follows = None;
    open.me.received = GtidSet::default();
    let mut open_too = open.clone();
    open_too.others[0].1 = other("A:1-20", true, None);
    let mut restarted = open.clone();
    restarted.me.writable = false;
    let behind = restarted.clone();
    restarted.me.executed = set("A:1-20");
    let mut cut = replica(closed("A:1-25"), c());
    if let Some(follows) = &mut cut.me.follows {
        follows.receiver = Thread::default();
    }
    let promote = |text: &str, why: &str| {
        Ok(Verdict::Promote {
            wait_for: set(text),
            why: why.to_owned(),
        })
    };
    let cases: Vec<(&serde_json::Value, Present, Result<Verdict, &str>)> = vec![
        (&none, open, Ok(Verdict::Stay)),
        (&none, open_too, Err("both this server and a take writes")),
        (
            &none,
            restarted,
            Ok(Verdict::Open("every other member is closed".to_owned())),
        ),
        (
            &none,
            behind,
            Err("a has transactions that this server lacks"),
        ),
        // A switchover: what the old source has is on its way.
        (
            &none,
            replica(closed("A:1-25"), c()),
            promote("A:1-25", "every other member is closed"),
        ),
        (&none, cut, Err("a has transactions that this server lacks")),
        (
            &none,
            replica(other("A:1-20", true, None), c()),
            Err("a takes writes: fence it first"),
        ),
        // A failover.
        (&none, replica(silent(), c()), Err("a cannot be asked")),
        (&none, replica(Seen::Refuses, c()), Err("a cannot be asked")),
        (
            &fenced,
            replica(silent(), c()),
            promote("A:1-20", "fenced: a"),
        ),
        (
            &fenced,
            replica(Seen::Denies("Access denied".to_owned()), c()),
            Err("a answers and lets nobody in"),
        ),
        (
            &fenced,
            replica(other("A:1-20", true, None), c()),
            Err("a takes writes"),
        ),
        (&fenced, alone.clone(), Err("did not wait for a replica")),
        (&loss, alone, promote("A:1-20", "fenced: a")),
        (
            &fenced,
            replica(silent(), other("A:1-22", false, None)),
            Err("c has transactions that this server lacks"),
        ),
        (
            &fenced,
            replica(silent(), silent()),
            Err("c cannot be asked"),
        ),
    ];
    for (json, present, wanted) in cases {
        let decided = decide(&desired(json.clone()), &present);
        match wanted {
            Ok(verdict) => assert_eq!(decided, Ok(verdict), "{json} {present:?}"),
            Err(words) => {
                let error = decided.expect_err(words);
                assert!(error.contains(words), "{error}");
            }
        }
    }
    let both = serde_json::json!({"fenced": {"a": "powered_off", "c": "closed"}});
    let error = decide(&desired(both), &replica(silent(), silent())).expect_err("two are gone");
    assert!(error.contains("a and c do not answer"), "{error}");
}

#[test]
fn a_survivor_opens_with_the_mark_taken_back() {
    let fenced = serde_json::json!({"fenced": {"a": "powered_off"}});
    let present = replica(silent(), other("A:1-19", false, Some("10.0.0.1")));
    let steps = MysqlSource::plan(&desired(fenced), &Current::Present(Box::new(present)));
    assert_eq!(
        steps[1..],
        [Step::Open {
            why: "fenced: a".to_owned(),
            semi_synchronous: false,
            unmark: true
        }]
    );
}

#[test]
fn parameters_that_cannot_be_meant_are_refused() {
    for (json, param) in [
        (serde_json::json!({"name": "x"}), "name"),
        (serde_json::json!({"fenced": {"b": "closed"}}), "fenced.b"),
        (serde_json::json!({"fenced": {"x": "closed"}}), "fenced.x"),
        (
            serde_json::json!({"members": [{"name": "b", "address": "x"}, {"name": "b", "address": "y"}]}),
            "members[1].name",
        ),
    ] {
        let mut params = serde_json::json!({
            "name": "b",
            "members": [{"name": "a", "address": "x"}, {"name": "b", "address": "y"}],
            "replication": {"password": "x", "ca_file": "/ca"},
        });
        for (key, value) in json.as_object().expect("a map") {
            params[key] = value.clone();
        }
        let params: Params = serde_json::from_value(params).expect("params");
        assert_eq!(Desired::try_from(params).expect_err("invalid").param, param);
    }
}
