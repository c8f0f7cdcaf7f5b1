//! A replicated set on three machines of a lab: made, failed over under a writer, cut off, rejoined, switched over.
//!
//! Needs root and, once, the machine's apt mirror for a golden image with PostgreSQL and without Python.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod set;

use ondol_kit::Entry;
use ondol_postgresql::{
    PostgresqlDatabase, PostgresqlFence, PostgresqlInstance, PostgresqlPrimary,
    PostgresqlPrivileges, PostgresqlRole, PostgresqlStandby, PostgresqlStatus,
    PostgresqlSynchronous,
};
use ondol_test_lab::answer;
use ondol_test_lab::reply::steps;
use serde_json::{Value, json};
use set::{PASSWORD, Set};

const A: &str = "db-01";
const B: &str = "db-02";
const C: &str = "db-03";

/// Not a test: it is how the test's own program answers as a module in a VM.
#[test]
#[ignore = "run in a VM by the test below"]
fn answers_a_call() {
    answer(&[
        Entry::module::<PostgresqlDatabase>(),
        Entry::module::<PostgresqlFence>(),
        Entry::module::<PostgresqlInstance>(),
        Entry::module::<PostgresqlPrimary>(),
        Entry::module::<PostgresqlPrivileges>(),
        Entry::module::<PostgresqlRole>(),
        Entry::module::<PostgresqlStandby>(),
        Entry::module::<PostgresqlSynchronous>(),
        Entry::probe::<PostgresqlStatus>(),
    ]);
}

/// One test, because three machines take a while to come up: what comes later needs what came before.
#[test]
fn a_replicated_set_keeps_every_acknowledged_row() {
    let Some(set) = Set::start("t-pg", &[A, B, C]) else {
        return;
    };
    a_bare_set_comes_up_as_foreseen(&set);
    a_base_backup_that_ends_early_is_begun_anew(&set);
    out_of_reach_is_not_gone(&set);
    set.begin_writing(C, &[A, B]);
    set.more_rows(20);
    a_primary_that_dies_is_replaced(&set);
    a_primary_that_is_cut_off_is_fenced_and_rewound(&set);
    a_switchover_needs_no_rewind(&set);
    set.end_writing();
    for vm in [A, B, C] {
        set.has_all_rows(vm);
    }
    assert_eq!(
        set.writers(&[A, B, C]),
        [A, B, A, B],
        "who took writes, one after the other"
    );
    no_secret_is_seen(&set);
}

/// Check mode on bare machines says what a run then does, and a second run does nothing.
fn a_bare_set_comes_up_as_foreseen(set: &Set) {
    let plays = [
        (A, "postgresql_instance", set.instance()),
        (A, "postgresql_primary", set.primary(A, B, &json!({}))),
        (B, "postgresql_standby", set.standby(B, A, &[C])),
        (A, "postgresql_synchronous", json!({"standbys": [B]})),
        (A, "postgresql_database", json!({"name": "app"})),
        (
            A,
            "postgresql_role",
            json!({"name": "writer", "login": true, "password": "writes"}),
        ),
    ];
    let foreseen: Vec<Value> = (plays.iter())
        .map(|(vm, module, args)| set.check(vm, module, args)["steps"].clone())
        .collect();
    for vm in [A, B] {
        assert_eq!(
            set.status(vm)["role"],
            json!("absent"),
            "check mode changed {vm}"
        );
    }
    for ((vm, module, args), foreseen) in plays.iter().zip(&foreseen) {
        let reply = set.applies(vm, module, args);
        assert_eq!(&reply["steps"], foreseen, "{module} on {vm}");
    }
    for (vm, module, args) in &plays {
        set.unchanged(vm, module, args);
    }
    set.sql(A, "app", "CREATE TABLE rows (n int PRIMARY KEY)");
    let grants = json!([{"object_type": "table", "names": ["rows"], "privileges": ["INSERT"]}]);
    set.applies(
        A,
        "postgresql_privileges",
        &json!({"database": "app", "role": "writer", "grants": grants}),
    );
}

fn a_base_backup_that_ends_early_is_begun_anew(set: &Set) {
    let third = set.standby(C, B, &[]);
    // The disk is too small: the server's words, and nothing half-done passes for a standby.
    set.sh(C, "mount -t tmpfs -o size=16m tmpfs /var/lib/postgresql");
    set.refuses(C, "postgresql_standby", &third, "No space left on device");
    set.sh(C, "umount /var/lib/postgresql");
    assert_eq!(set.status(C)["role"], json!("absent"));

    set.sample_processes(C);
    set.killed_while(
        C,
        "postgresql_standby",
        &third,
        "test -e /var/lib/postgresql/15/main.ondol-new",
    );
    let reply = set.applies(C, "postgresql_standby", &third);
    assert!(
        steps(&reply)[0].starts_with("remove an unfinished base backup"),
        "{reply}"
    );
    let seen = set.sampled_processes(C);
    assert!(seen.contains("pg_basebackup"), "nothing was seen");
    assert!(
        !seen.contains(PASSWORD) && !seen.contains("ication 비밀"),
        "in the process list"
    );
    set.unchanged(C, "postgresql_standby", &third);
    // It follows a standby, so the primary keeps no slot for it.
    assert_eq!(set.status(A)["slots"].as_array().unwrap().len(), 1);
    assert_eq!(set.status(B)["standbys"][0]["name"], json!(C));
}

fn out_of_reach_is_not_gone(set: &Set) {
    let data = || {
        set.sh(
            B,
            "stat -c %i /var/lib/postgresql/15/main /var/lib/postgresql/15/main/PG_VERSION",
        )
    };
    let before = data();
    set.sh(A, "iptables -I INPUT -p tcp --dport 5432 -j DROP");
    let mut allowed = set.standby(B, A, &[C]);
    allowed["allow_base_backup"] = json!(true);
    set.refuses(
        B,
        "postgresql_standby",
        &allowed,
        "db-01 cannot be asked: no connection to",
    );
    set.refuses(
        B,
        "postgresql_primary",
        &set.primary(B, B, &json!({})),
        "may still be a primary",
    );
    set.sh(A, "iptables -D INPUT -p tcp --dport 5432 -j DROP");
    assert_eq!(data(), before);
    set.unchanged(B, "postgresql_standby", &set.standby(B, A, &[C]));
    set.refuses(
        B,
        "postgresql_primary",
        &set.primary(B, B, &json!({})),
        "takes writes on timeline 1",
    );
    let mut wrong = set.standby(B, A, &[C]);
    wrong["replication"]["password"] = json!("wrong");
    set.refuses(
        B,
        "postgresql_standby",
        &wrong,
        "password authentication failed",
    );
    // A primary that is needed is not made a standby.
    set.refuses(
        A,
        "postgresql_standby",
        &set.standby(A, B, &[]),
        "this member is the primary",
    );
}

fn a_primary_that_dies_is_replaced(set: &Set) {
    set.lab.kill(A).unwrap();
    set.refuses(
        B,
        "postgresql_primary",
        &set.primary(B, B, &json!({})),
        "may still be a primary",
    );
    let takeover = set.primary(B, B, &json!({A: {"how": "powered_off"}}));
    let foreseen = set.check(B, "postgresql_primary", &takeover)["steps"].clone();
    let reply = set.applies(B, "postgresql_primary", &takeover);
    assert_eq!(reply["steps"], foreseen);
    assert!(
        steps(&reply)[0].contains("each commit waited for 1 of db-02"),
        "{reply}"
    );
    set.more_rows(20);
    println!(
        "the primary's machine died: no row for {:?}",
        set.longest_pause()
    );
    assert_eq!(set.status(B)["timeline"], json!(2));
    set.has_all_rows(B);

    // It comes back without a second writer, and follows.
    set.boot(A);
    assert_eq!(set.status(A)["role"], json!("stopped"));
    set.refuses(
        A,
        "postgresql_instance",
        &set.instance(),
        "may be an old primary",
    );
    set.refuses(
        A,
        "postgresql_primary",
        &set.primary(A, B, &json!({})),
        "takes writes on timeline 2",
    );
    set.applies(A, "postgresql_standby", &set.standby(A, B, &[]));
    set.unchanged(A, "postgresql_standby", &set.standby(A, B, &[]));
    set.applies(B, "postgresql_synchronous", &json!({"standbys": [A]}));
    set.unchanged(B, "postgresql_primary", &set.primary(B, B, &json!({})));
    set.has_all_rows(A);
}

/// The old primary went on alone: rows that no client was ever told of.
fn a_primary_that_is_cut_off_is_fenced_and_rewound(set: &Set) {
    set.applies(A, "postgresql_standby", &set.standby(A, B, &[C]));
    set.applies(C, "postgresql_standby", &set.standby(C, A, &[]));
    set.applies(B, "postgresql_primary", &set.primary(B, A, &json!({})));
    set.more_rows(10);
    set.lab.cut(B).unwrap();
    set.sql(
        B,
        "app",
        "SET synchronous_commit = local; INSERT INTO rows SELECT -n FROM generate_series(1, 500) n; CHECKPOINT",
    );
    set.refuses(
        A,
        "postgresql_primary",
        &set.primary(A, A, &json!({})),
        "may still be a primary",
    );
    set.lab.kill(B).unwrap();
    set.applies(
        A,
        "postgresql_primary",
        &set.primary(A, A, &json!({B: {"how": "powered_off"}})),
    );
    set.more_rows(20);
    set.boot(B);
    let reply = set.applies(B, "postgresql_standby", &set.standby(B, A, &[]));
    assert_eq!(
        steps(&reply)[0],
        "rewind the data to what db-01 has",
        "{reply}"
    );
    assert_eq!(
        set.sql(B, "app", "SELECT count(*) FROM rows WHERE n < 0"),
        "0"
    );
    set.has_all_rows(B);
    set.applies(A, "postgresql_synchronous", &json!({"standbys": [B]}));
}

/// No proof but the end of the log is needed: the primary does not even wait for its standbys.
fn a_switchover_needs_no_rewind(set: &Set) {
    set.applies(
        A,
        "postgresql_synchronous",
        &json!({"standbys": [], "count": 0}),
    );
    set.applies(A, "postgresql_fence", &json!({}));
    set.unchanged(A, "postgresql_fence", &json!({}));
    let takeover = |how: Value| set.primary(B, A, &json!({A: how}));
    // A machine that answers is not powered off.
    set.refuses(
        B,
        "postgresql_primary",
        &takeover(json!({"how": "powered_off"})),
        "it has power",
    );
    set.refuses(
        B,
        "postgresql_primary",
        &takeover(json!({"how": "stopped"})),
        "no rule of synchronous commit was in force",
    );
    let end = set.status(A)["shutdown_lsn"].clone();
    let reply = set.applies(
        B,
        "postgresql_primary",
        &takeover(json!({"how": "stopped", "shutdown_lsn": end})),
    );
    assert!(
        steps(&reply)[0].contains("was shut down in order"),
        "{reply}"
    );
    let reply = set.applies(A, "postgresql_standby", &set.standby(A, B, &[C]));
    assert!(
        !steps(&reply).iter().any(|it| it.contains("rewind")),
        "{reply}"
    );
    set.applies(B, "postgresql_synchronous", &json!({"standbys": [A]}));
    set.more_rows(10);
}

fn no_secret_is_seen(set: &Set) {
    for vm in [A, B, C] {
        let seen = set.sh(
            vm,
            "cat /var/log/postgresql/*; journalctl --no-pager || true",
        );
        assert!(
            !seen.contains(PASSWORD) && !seen.contains("SCRAM-SHA-256$"),
            "in a log of {vm}"
        );
    }
    let mut args = set.standby(A, B, &[C]);
    args["_ansible_verbosity"] = json!(4);
    let loud = set.call(A, "postgresql_standby", &args).to_string();
    assert!(
        loud.contains("***") && !loud.contains("ication 비밀"),
        "{loud}"
    );
}
