//! The modules on a real PostgreSQL of this machine, in a cluster of the test's own: configuration, data and sockets in a temporary directory.
//!
//! Needs root and a package `postgresql-<version>`; `CI` set, a machine without them fails, else the tests skip loudly. No other cluster is touched.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ondol_kit::{Call, Entry, run};
use ondol_postgresql::{
    PostgresqlDatabase, PostgresqlExtension, PostgresqlFence, PostgresqlInstance,
    PostgresqlPrivileges, PostgresqlRole, PostgresqlStatus,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const CLUSTER: &str = "ondoltest";

/// A cluster that does not exist yet, removed with the test.
struct Lab {
    dir: TempDir,
    version: String,
    name: String,
    port: u16,
}

impl Lab {
    fn new() -> Option<Self> {
        let version = ["15", "14", "17", "16"]
            .into_iter()
            .find(|it| Path::new(&format!("/usr/lib/postgresql/{it}/bin/postgres")).exists());
        let root = fs::metadata("/proc/self").is_ok_and(|it| {
            use std::os::unix::fs::MetadataExt as _;
            it.uid() == 0
        });
        let Some(version) = version.filter(|_| root) else {
            let reason = "needs root and a package postgresql-15";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            eprintln!("SKIPPED, not tested: {reason}");
            return None;
        };
        let dir = TempDir::with_prefix("ondol-pg").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // SAFETY: each test is a process of its own, and has no other thread yet.
        unsafe { std::env::set_var("PG_CLUSTER_CONF_ROOT", dir.path().join("etc")) };
        fs::create_dir(dir.path().join("etc")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Some(Self {
            name: format!("{CLUSTER}{}", std::process::id()),
            version: version.to_owned(),
            dir,
            port,
        })
    }

    fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }

    fn log(&self) -> String {
        format!(
            "/var/log/postgresql/postgresql-{}-{}.log",
            self.version, self.name
        )
    }

    fn call(&self, entry: Entry, args: &Value, extra: &Value) -> Value {
        let mut all = json!({"version": self.version, "cluster": self.name});
        for map in [args, extra] {
            for (key, value) in map.as_object().unwrap() {
                all[key] = value.clone();
            }
        }
        if !all["server"].is_null() {
            let map = all.as_object_mut().unwrap();
            map.remove("version");
            map.remove("cluster");
        }
        let reply = run(&entry, &Call::parse(&all.to_string()).unwrap());
        serde_json::from_str(&reply.to_line()).unwrap()
    }

    /// What check mode says is what is done; the second run changes nothing. The steps.
    #[track_caller]
    fn converges(&self, entry: Entry, args: &Value) -> Vec<String> {
        let checked = self.call(entry, args, &json!({"_ansible_check_mode": true}));
        assert!(checked["failed"].is_null(), "{checked}");
        let applied = self.call(entry, args, &json!({"_ansible_diff": true}));
        assert!(applied["failed"].is_null(), "{applied}");
        assert_eq!(checked["steps"], applied["steps"], "check mode lied");
        let again = self.call(entry, args, &json!({}));
        assert_eq!(again["changed"], json!(false), "{again}");
        let steps = applied["steps"].as_array().unwrap();
        steps
            .iter()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect()
    }

    #[track_caller]
    fn fails(&self, entry: Entry, args: &Value, words: &str) {
        let reply = self.call(entry, args, &json!({}));
        let message = reply["msg"].as_str().unwrap_or_default().to_owned();
        assert!(
            reply["failed"] == json!(true) && message.contains(words),
            "{reply}"
        );
    }

    fn instance(&self, args: Value) -> Value {
        let mut all = json!({
            "port": self.port, "data_directory": self.path("data"), "socket_directory": self.path("sock"),
        });
        for (key, value) in args.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    }

    /// One that runs.
    fn started(&self, parameters: Value) {
        let args = self.instance(json!({"parameters": parameters}));
        let reply = self.call(INSTANCE, &args, &json!({}));
        assert!(reply["failed"].is_null(), "{reply}");
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--init-groups",
                "psql",
                "-AtX",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
            ])
            .arg(self.path("sock"))
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql])
            .current_dir("/")
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("pg_dropcluster")
            .args(["--stop", &self.version, &self.name])
            .output();
        let _ = fs::remove_file(self.log());
    }
}

const INSTANCE: Entry = Entry::module::<PostgresqlInstance>();
const ROLE: Entry = Entry::module::<PostgresqlRole>();
const DATABASE: Entry = Entry::module::<PostgresqlDatabase>();
const EXTENSION: Entry = Entry::module::<PostgresqlExtension>();
const PRIVILEGES: Entry = Entry::module::<PostgresqlPrivileges>();
const FENCE: Entry = Entry::module::<PostgresqlFence>();
const STATUS: Entry = Entry::probe::<PostgresqlStatus>();

#[test]
fn an_instance_is_made_changed_and_removed() {
    let Some(lab) = Lab::new() else { return };
    let with =
        |parameters: Value| lab.instance(json!({"parameters": parameters, "restart": "allowed"}));

    // Bad input changes nothing, before there is anything and after.
    let bad = [
        (
            json!({"shared_bufers": "64MB"}),
            "parameters.shared_bufers: the server says: unrecognized configuration parameter \"shared_bufers\"",
        ),
        (
            json!({"work_mem": "lots"}),
            "parameters.work_mem: the server says: invalid value for parameter \"work_mem\": \"lots\"",
        ),
        (
            json!({"work_mem": "1kB"}),
            "parameters.work_mem: the server says: 1 kB is outside the valid range",
        ),
        (
            json!({"wal_level": "some"}),
            "parameters.wal_level: the server says: invalid value for parameter \"wal_level\"",
        ),
    ];
    for (parameters, words) in &bad {
        lab.fails(INSTANCE, &with(parameters.clone()), words);
    }
    assert_eq!(
        lab.call(STATUS, &json!({}), &json!({}))["role"],
        json!("absent")
    );

    let rules = json!([{"type": "local", "method": "peer"}, {"type": "host", "address": "127.0.0.1/32", "method": "scram-sha-256"}]);
    let mut first = with(json!({"work_mem": "8MB", "max_connections": "40"}));
    first["pg_hba"] = rules.clone();
    let steps = lab.converges(INSTANCE, &first);
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert_eq!(lab.sql("postgres", "SHOW data_checksums"), "on");
    assert_eq!(lab.sql("postgres", "SHOW work_mem"), "8MB");
    let status = lab.call(STATUS, &json!({}), &json!({}));
    assert_eq!(
        (&status["role"], &status["timeline"]),
        (&json!("primary"), &json!(1)),
        "{status}"
    );

    // The same in other words, then what a reload does, then what needs a restart.
    let mut same = first.clone();
    same["parameters"] = json!({"work_mem": "8192kB", "max_connections": "40"});
    let steps = lab.converges(INSTANCE, &same);
    assert_eq!(
        steps,
        [
            "write conf.d/60-ondol.conf: work_mem",
            "reload the configuration"
        ]
    );
    let started = || lab.sql("postgres", "SELECT pg_postmaster_start_time()");
    let before = started();
    lab.converges(
        INSTANCE,
        &with(json!({"work_mem": "16MB", "max_connections": "40"})),
    );
    assert_eq!(
        (lab.sql("postgres", "SHOW work_mem"), started()),
        ("16MB".to_owned(), before.clone())
    );

    let mut careful = with(json!({"work_mem": "16MB", "max_connections": "50"}));
    careful["restart"] = json!("never");
    let reply = lab.call(INSTANCE, &careful, &json!({}));
    assert!(
        reply["warnings"][0]
            .as_str()
            .unwrap()
            .contains("max_connections"),
        "{reply}"
    );
    assert_eq!(lab.sql("postgres", "SHOW max_connections"), "40");
    let again = lab.call(INSTANCE, &careful, &json!({}));
    assert_eq!(again["changed"], json!(false), "{again}");
    careful["restart"] = json!("allowed");
    let steps = lab.converges(INSTANCE, &careful);
    assert_eq!(steps, ["restart the cluster for max_connections"]);
    assert_eq!(lab.sql("postgres", "SHOW max_connections"), "50");
    assert_ne!(started(), before);

    // Each is right, and together they are not: only a start tells.
    let impossible =
        with(json!({"wal_level": "minimal", "max_wal_senders": "5", "work_mem": "16MB"}));
    lab.fails(
        INSTANCE,
        &impossible,
        "WAL streaming (max_wal_senders > 0) requires wal_level",
    );
    assert_eq!(
        lab.sql("postgres", "SHOW max_connections"),
        "50",
        "the former parameters are back"
    );
    assert_eq!(
        lab.call(INSTANCE, &careful, &json!({}))["changed"],
        json!(false)
    );

    // What an administrator did behind our back.
    lab.sql("postgres", "ALTER SYSTEM SET work_mem = '1MB'");
    let steps = lab.converges(INSTANCE, &careful);
    assert_eq!(
        steps[0],
        "undo ALTER SYSTEM SET work_mem, which wins over the file"
    );
    assert_eq!(lab.sql("postgres", "SHOW work_mem"), "16MB");

    // Rules that the server finds wrong, or that lock everyone out.
    let hba = fs::read_to_string(
        lab.path("etc")
            .join(&lab.version)
            .join(&lab.name)
            .join("pg_hba.conf"),
    )
    .unwrap();
    let mut wrong = careful.clone();
    wrong["pg_hba"] = json!([{"type": "local", "method": "peer"}, {"type": "host", "address": "all", "method": "magic"}]);
    lab.fails(
        INSTANCE,
        &wrong,
        "pg_hba[1]: the server says: invalid authentication method \"magic\"",
    );
    wrong["pg_hba"] = json!([{"type": "local", "method": "reject"}]);
    lab.fails(INSTANCE, &wrong, "lock the superuser out");
    let after = fs::read_to_string(
        lab.path("etc")
            .join(&lab.version)
            .join(&lab.name)
            .join("pg_hba.conf"),
    )
    .unwrap();
    assert_eq!(hba, after);
    assert_eq!(lab.sql("postgres", "SELECT 1"), "1");

    // Stopped is started, fenced is not.
    Command::new("pg_ctlcluster")
        .args([&lab.version, &lab.name, "stop"])
        .status()
        .unwrap();
    assert_eq!(lab.converges(INSTANCE, &careful), ["start the cluster"]);
    assert_eq!(
        lab.converges(FENCE, &json!({})),
        ["forbid the cluster to start", "stop the cluster"]
    );
    lab.fails(INSTANCE, &careful, "is fenced");
    let status = lab.call(STATUS, &json!({}), &json!({}));
    assert_eq!(
        (&status["role"], &status["fenced"]),
        (&json!("stopped"), &json!(true)),
        "{status}"
    );
    assert!(status["shutdown_lsn"].is_string(), "{status}");

    let absent = lab.instance(json!({"state": "absent", "delete_data": true}));
    assert_eq!(lab.converges(INSTANCE, &absent).len(), 1);
    assert!(!lab.path("data").exists());
}

#[test]
fn a_port_that_is_taken_and_a_creation_that_was_killed() {
    let Some(lab) = Lab::new() else { return };
    let args = lab.instance(json!({"parameters": {"listen_addresses": "127.0.0.1"}}));
    let taken = TcpListener::bind(("127.0.0.1", lab.port)).unwrap();
    lab.fails(INSTANCE, &args, "Address already in use");
    drop(taken);
    // Killed while initdb ran: something is there, and nothing ever ran on it.
    let _ = Command::new("pg_dropcluster")
        .args(["--stop", &lab.version, &lab.name])
        .output();
    fs::create_dir_all(lab.path("data/base")).unwrap();
    fs::write(lab.path("data/PG_VERSION"), "15\n").unwrap();
    fs::write(lab.path("data.ondol-creating"), "").unwrap();
    let steps = lab.converges(INSTANCE, &args);
    assert!(
        steps[0].contains("whose creation was broken off"),
        "{steps:?}"
    );
    assert_eq!(lab.sql("postgres", "SELECT 1"), "1");
    // A stale mark does not endanger data that has been used.
    fs::write(lab.path("data.ondol-creating"), "").unwrap();
    assert_eq!(
        lab.call(INSTANCE, &args, &json!({}))["changed"],
        json!(false)
    );
}

#[test]
fn roles_databases_extensions_and_privileges() {
    let Some(lab) = Lab::new() else { return };
    // Before there is a server, check mode says what will be done, and a run says what is missing.
    let role = json!({"name": "app", "password": "x", "login": true});
    let checked = lab.call(ROLE, &role, &json!({"_ansible_check_mode": true}));
    assert_eq!(
        checked["steps"][0],
        json!("create role \"app\" with its password, LOGIN")
    );
    lab.fails(ROLE, &role, "there is no cluster");
    lab.started(json!({"listen_addresses": "127.0.0.1", "log_statement": "all", "log_min_duration_statement": "0"}));

    let odd = r#"a"b\c'd ; DROP"#;
    for password in [
        "plain",
        r#"it's "so" \ $x$ bad"#,
        "비밀번호",
        "\u{2168} \u{ad}soft",
        "\u{7}bell",
    ] {
        let role = json!({"name": odd, "password": password, "login": true, "createdb": true});
        lab.converges(ROLE, &role);
        // The server takes it, over TLS, with the channel bound.
        let server =
            json!({"host": "127.0.0.1", "port": lab.port, "user": odd, "password": password});
        let reply = lab.call(
            DATABASE,
            &json!({"name": "of odd", "server": server}),
            &json!({}),
        );
        assert!(reply["failed"].is_null(), "{reply}");
        let wrong =
            json!({"host": "127.0.0.1", "port": lab.port, "user": odd, "password": "wrong"});
        lab.fails(
            DATABASE,
            &json!({"name": "of odd", "server": wrong}),
            "password authentication failed",
        );
        let log = fs::read_to_string(lab.log()).unwrap();
        assert!(
            !log.contains(password) && !log.contains("SCRAM-SHA-256$"),
            "in the log: {password:?}"
        );
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nobody = json!({"host": "127.0.0.1", "port": closed, "user": "x", "password": "y"});
    lab.fails(
        DATABASE,
        &json!({"name": "x", "server": nobody}),
        "no connection to 127.0.0.1 port",
    );

    lab.converges(ROLE, &json!({"name": "readers"}));
    lab.converges(ROLE, &json!({"name": "app", "password": "x", "login": true, "member_of": ["readers"], "valid_until": "2031-01-01 00:00+00", "connection_limit": 7}));
    let log = fs::read_to_string(lab.log()).unwrap();
    assert!(
        log.contains("GRANT \"readers\" TO \"app\""),
        "what follows a secret is logged: {log}"
    );
    assert_eq!(
        lab.converges(
            ROLE,
            &json!({"name": "app", "login": false, "member_of": []})
        )
        .len(),
        2
    );
    lab.sql(
        "postgres",
        "ALTER ROLE app PASSWORD 'changed behind our back'",
    );
    assert_eq!(
        lab.converges(ROLE, &json!({"name": "app", "password": "x"})),
        ["set the password of role \"app\""]
    );

    let database =
        json!({"name": "app", "owner": "app", "encoding": "UTF8", "lc_collate": "C.UTF-8"});
    // A database that another task is about to make.
    let checked = lab.call(
        EXTENSION,
        &json!({"name": "plpgsql", "database": "app"}),
        &json!({"_ansible_check_mode": true}),
    );
    assert_eq!(
        checked["steps"][0],
        json!("create extension \"plpgsql\" in database \"app\"")
    );
    assert_eq!(lab.converges(DATABASE, &database).len(), 1);
    lab.fails(
        DATABASE,
        &json!({"name": "app", "encoding": "LATIN1"}),
        "encoding: database \"app\" has \"UTF8\"",
    );
    assert_eq!(
        lab.converges(DATABASE, &json!({"name": "app", "connection_limit": 9}))
            .len(),
        1
    );
    assert_eq!(
        lab.converges(
            EXTENSION,
            &json!({"name": "hstore", "database": "app", "schema": "public"})
        )
        .len(),
        1
    );
    lab.fails(
        EXTENSION,
        &json!({"name": "no_such", "database": "app"}),
        "no_such",
    );
    assert_eq!(
        lab.converges(
            EXTENSION,
            &json!({"name": "hstore", "database": "app", "state": "absent"})
        )
        .len(),
        1
    );

    lab.sql("app", "CREATE TABLE t (a int); CREATE TABLE \"T 2\" (a int); CREATE SEQUENCE s; CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'");
    let grants = json!([
        {"object_type": "database", "privileges": ["CONNECT", "TEMP"]},
        {"object_type": "schema", "names": ["public"], "privileges": ["ALL"]},
        {"object_type": "table", "privileges": ["SELECT"], "future_by": "postgres"},
        {"object_type": "sequence", "names": ["s"], "privileges": ["ALL"], "grant_option": true},
        {"object_type": "function", "names": ["f(integer)"], "privileges": ["EXECUTE"]},
    ]);
    let privileges = json!({"role": "readers", "database": "app", "grants": grants});
    assert_eq!(lab.converges(PRIVILEGES, &privileges).len(), 6);
    lab.sql("app", "CREATE TABLE later (a int)");
    assert_eq!(
        lab.converges(PRIVILEGES, &privileges),
        [""; 0],
        "the future was granted"
    );
    assert_eq!(
        lab.sql(
            "app",
            "SELECT has_table_privilege('readers', 'later', 'SELECT')"
        ),
        "t"
    );
    lab.sql("app", "GRANT INSERT ON t TO readers");
    let exact = json!({"role": "readers", "database": "app", "exclusive": true, "grants": [{"object_type": "table", "privileges": ["SELECT"]}]});
    assert_eq!(
        lab.converges(PRIVILEGES, &exact),
        ["REVOKE INSERT ON TABLE public.t FROM \"readers\""]
    );
    let mut gone = privileges.clone();
    gone["state"] = json!("absent");
    lab.converges(PRIVILEGES, &gone);
    assert_eq!(
        lab.sql(
            "app",
            "SELECT has_table_privilege('readers', 't', 'SELECT')"
        ),
        "f"
    );
    lab.fails(PRIVILEGES, &json!({"role": "readers", "database": "app", "grants": [{"object_type": "table", "names": ["x"], "privileges": ["SELECT"]}]}), "grants[0].names[0]: there is no table \"x\"");

    assert_eq!(
        lab.converges(
            DATABASE,
            &json!({"name": "app", "state": "absent", "force": true})
        )
        .len(),
        1
    );
    assert_eq!(
        lab.converges(ROLE, &json!({"name": "app", "state": "absent"}))
            .len(),
        1
    );
    // Not running is not absent.
    Command::new("pg_ctlcluster")
        .args([&lab.version, &lab.name, "stop"])
        .status()
        .unwrap();
    lab.fails(ROLE, &json!({"name": "app"}), "does not run");
}
