//! Cases of joining, following and copying.

use super::*;
use crate::gtid::GtidSet;
use crate::members::{Follows, Thread, role_file};

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

fn desired(json: serde_json::Value) -> Desired {
    let mut params = serde_json::json!({
        "source": {"address": "db-1"},
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

fn follows() -> Follows {
    let runs = Thread {
        state: "Yes".to_owned(),
        ..Thread::default()
    };
    Follows {
        host: "db-1".to_owned(),
        port: 3306,
        user: "replicator".to_owned(),
        ca_file: "/ca.pem".to_owned(),
        verifies_host: false,
        auto_position: true,
        receiver: runs.clone(),
        applier: runs,
        lag_s: Some(0),
    }
}

/// A replica of A whose source has executed 1 to 20.
fn replica(executed: &str) -> Present {
    let server = |uuid: &str, id: &str, executed: &str| Server {
        uuid: uuid.to_owned(),
        server_id: id.to_owned(),
        executed: set(executed),
        ..Server::default()
    };
    Present {
        me: Server {
            follows: Some(follows()),
            ..server(B, "2", executed)
        },
        source: server(A, "1", "A:1-20"),
        file: role_file(true),
        semi_sync: SemiSync {
            loaded: true,
            settings: true,
            source_enabled: false,
        },
        clone_loaded: true,
        leaves_out: String::new(),
    }
}

fn lines(json: serde_json::Value, present: Present) -> Vec<String> {
    MysqlReplication::plan(&desired(json), &Current::Present(Box::new(present)))
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn plans() {
    let none = serde_json::json!({});
    assert_eq!(lines(none.clone(), replica("A:1-18")), [""; 0]);
    let bare = Present {
        me: Server {
            writable: true,
            executed: GtidSet::default(),
            follows: None,
            ..replica("").me
        },
        file: String::new(),
        semi_sync: SemiSync::default(),
        ..replica("")
    };
    let join = [
        "close the server to writes whenever it starts",
        "close the server to writes",
        "confirm to the source what was received",
        "replace the data by a copy of db-1 port 3306's: it has no data of its own",
        "follow db-1 port 3306: its data is a copy",
    ];
    assert_eq!(lines(none.clone(), bare.clone()), join);
    let foretold: Vec<String> = MysqlReplication::plan(&desired(none.clone()), &Current::Absent)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(foretold, join);
    assert_eq!(
        lines(serde_json::json!({"copy": "never"}), bare),
        [
            join[0],
            join[1],
            join[2],
            "follow db-1 port 3306: it follows nobody"
        ]
    );
    // An old source that comes back.
    let mut old = replica("A:1-15");
    old.me.follows = None;
    assert_eq!(
        lines(none.clone(), old),
        ["follow db-1 port 3306: it follows nobody"]
    );
    let mut moved = replica("A:1-15");
    moved.me.follows = Some(Follows {
        host: "db-3".to_owned(),
        ..follows()
    });
    assert_eq!(
        lines(none.clone(), moved),
        ["follow db-1 port 3306: it follows another"]
    );
    let mut stopped = replica("A:1-15");
    stopped.me.follows = Some(Follows {
        receiver: Thread::default(),
        ..follows()
    });
    assert_eq!(
        lines(none, stopped),
        ["follow db-1 port 3306: it does not receive"]
    );
}

#[test]
fn a_replica_of_rds_leaves_out_the_system_tables() {
    let rds = serde_json::json!({"copy": "never", "leave_out_system_tables": true});
    let starts = "close the server to writes whenever it starts";
    let again = "follow db-1 port 3306: what it leaves out is changed";
    assert_eq!(
        lines(rds.clone(), replica("A:1-18")),
        [starts, "leave out the tables mysql.%", again]
    );
    let mut set = replica("A:1-18");
    set.leaves_out = "mysql.%".to_owned();
    assert_eq!(
        lines(serde_json::json!({}), set.clone()),
        ["leave out no table", again]
    );
    set.file = crate::members::role_file_leaving_out(true, "mysql.%");
    assert_eq!(lines(rds, set), [""; 0]);
}

#[test]
fn errant_transactions_are_named_and_block() {
    let errant = replica("A:1-15,B:1-2");
    let error = decide(&desired(serde_json::json!({})), &errant).expect_err("errant");
    assert!(
        error.starts_with(&format!(
            "this server has 2 errant transactions that the source has not: {B}:1-2. "
        )),
        "{error}"
    );
    let allowed = serde_json::json!({"copy": "allowed"});
    assert_eq!(lines(allowed, errant).len(), 2);
}

#[test]
fn what_cannot_work_is_refused() {
    let decided = |present: &Present| decide(&desired(serde_json::json!({})), present);
    let mut purged = replica("A:1-15");
    purged.source.purged = set("A:1-17");
    let mut twin = replica("A:1-15");
    twin.me.uuid = A.to_owned();
    let mut numbered = replica("A:1-15");
    numbered.me.server_id = "1".to_owned();
    let mut broken = replica("A:1-15");
    broken.me.follows = Some(Follows {
        applier: Thread {
            state: "No".to_owned(),
            error: (1062, "Duplicate entry".to_owned()),
        },
        ..follows()
    });
    for (present, words) in [
        (
            purged,
            format!("no longer has what this server lacks: {A}:16-17"),
        ),
        (twin, "are both".to_owned()),
        (numbered, "each needs its own".to_owned()),
        (broken, "Duplicate entry (1062)".to_owned()),
    ] {
        let error = decided(&present).expect_err(&words);
        assert!(error.contains(&words), "{error}");
    }
}

#[test]
fn the_password_is_in_nothing_that_is_printed() {
    let printed = format!("{:?}", desired(serde_json::json!({})));
    assert!(!printed.contains("hunter2"), "{printed}");
}
