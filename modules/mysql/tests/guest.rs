//! The modules on real servers, in machines of a lab: one alone, and two as a set that is switched and failed over under load.
//!
//! They need root, mmdebstrap and the machine's own Debian mirror once; see `support`. The servers are Debian unstable's. What Ansible does around a
//! module is not tested here.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ondol_kit::Entry;
use ondol_mysql::client::{Client, Endpoint, Login, Tls};
use ondol_mysql::database::MysqlDatabase;
use ondol_mysql::fence::MysqlFence;
use ondol_mysql::instance::MysqlInstance;
use ondol_mysql::privileges::MysqlPrivileges;
use ondol_mysql::rds::MysqlRdsReplication;
use ondol_mysql::rds::load::MysqlRdsLoad;
use ondol_mysql::replication::MysqlReplication;
use ondol_mysql::source::MysqlSource;
use ondol_mysql::status::MysqlStatus;
use ondol_mysql::user::MysqlUser;
use ondol_test_lab::{answer, eventually};
use serde_json::{Value, json};
use support::Site;

/// Not a test: it is how the test's own program answers as a module in a VM.
#[test]
#[ignore = "run in a VM by the tests below"]
fn answers_a_call() {
    answer(&[
        Entry::module::<MysqlDatabase>(),
        Entry::module::<MysqlFence>(),
        Entry::module::<MysqlInstance>(),
        Entry::module::<MysqlPrivileges>(),
        Entry::module::<MysqlRdsLoad>(),
        Entry::module::<MysqlRdsReplication>(),
        Entry::module::<MysqlReplication>(),
        Entry::module::<MysqlSource>(),
        Entry::probe::<MysqlStatus>(),
        Entry::module::<MysqlUser>(),
    ]);
}

/// Quotes, a backslash, UTF-8, and longer than one block of SHA-256.
const AWKWARD: &str = r#"it's a "back\slash" 비밀, and it is longer than one block of SHA-256 is"#;

#[test]
fn a_server_with_its_users_databases_and_privileges() {
    let Some(site) = Site::start("mysql-one", &["db"]) else {
        return;
    };
    // Nothing is there: what comes later is foretold all the same.
    let user = json!({"name": "o'k", "host": "10.%", "password": AWKWARD, "require_tls": true, "max_connections": 9});
    let check = |args: &Value| {
        let mut args = args.clone();
        args["_ansible_check_mode"] = json!(true);
        args
    };
    let create = ["create user 'o''k'@'10.%': its password, REQUIRE SSL, MAX_USER_CONNECTIONS 9"];
    assert_eq!(site.steps("db", "mysql_user", &check(&user)), create);

    // Bad parameters, in the server's words.
    for (parameters, words) in [
        (
            json!({"max_connectionsx": "5"}),
            "parameters.max_connectionsx: the server says: unknown variable 'max_connectionsx=5'",
        ),
        (
            json!({"binlog_format": "SQUARE"}),
            "parameters.binlog_format: the server says: ",
        ),
    ] {
        let refusal = site.refusal("db", "mysql_instance", &json!({"parameters": parameters}));
        assert!(refusal.contains(words), "{refusal}");
    }
    assert_eq!(
        site.sh(
            "db",
            "ls -A /var/lib/mysql /etc/mysql/mysql.conf.d | tr '\\n' ' '"
        ),
        "/etc/mysql/mysql.conf.d: mysql.cnf mysqld.cnf  /var/lib/mysql:"
    );

    // Killed in the middle of the initialisation, and run again.
    let instance = |max: &str, restart: &str| {
        json!({"restart": restart, "parameters":
        {"max_connections": max, "server-id": "5", "gtid_mode": "ON", "enforce_gtid_consistency": "ON", "innodb_buffer_pool_size": "64M"}})
    };
    let mut child = site.begin("db", "mysql_instance", &instance("77", "never"));
    eventually("the initialisation has begun", || {
        !site
            .sh("db", "ls -A /var/lib/mysql/.ondol-new 2>/dev/null || true")
            .is_empty()
    });
    site.sh(
        "db",
        "pkill -KILL -f '[a]nswers_a_call'; pkill -KILL mysqld || true",
    );
    child.wait().unwrap();
    assert_eq!(
        site.converges("db", "mysql_instance", &instance("77", "never")),
        [
            "initialise the data in /var/lib/mysql, root by auth_socket",
            "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: enforce_gtid_consistency, gtid_mode, innodb_buffer_pool_size, max_connections, server_id",
            "start the server at boot",
            "start the server",
        ]
    );
    assert_eq!(
        site.sql(
            "db",
            "SELECT plugin, @@max_connections FROM mysql.user WHERE user = 'root'"
        ),
        "auth_socket\t77"
    );
    let shut = site
        .exec(
            "db",
            &[
                "setpriv", "--reuid", "nobody", "mysql", "-uroot", "-e", "SELECT 1",
            ],
            b"",
        )
        .unwrap();
    assert!(!shut.status.success(), "{shut:?}");

    // Live; by restart; what the server cannot come up with is taken back.
    assert_eq!(
        site.converges("db", "mysql_instance", &instance("88", "never")),
        [
            "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: max_connections",
            "set max_connections = 88"
        ]
    );
    let mut moved = instance("88", "never");
    moved["parameters"]["port"] = json!("3307");
    let reply = site.call("db", "mysql_instance", &moved);
    assert_eq!(
        reply["warnings"][0],
        "in force only after a restart, which restart: allowed would do: port"
    );
    moved["restart"] = json!("allowed");
    assert_eq!(
        site.converges("db", "mysql_instance", &moved),
        ["restart the server for port"]
    );
    // A port that is taken: the server's words, and it is not lost.
    site.sh(
        "db",
        "systemd-run --quiet --unit=taken systemd-socket-activate --listen=3310 /bin/cat",
    );
    eventually("the port is taken", || {
        site.sh("db", "ss -Hltn sport = 3310").contains("3310")
    });
    let mut broken = moved.clone();
    broken["parameters"]["port"] = json!("3310");
    let refusal = site.refusal("db", "mysql_instance", &broken);
    assert!(
        refusal.contains("runs with the former parameters again")
            && refusal.contains("Address already in use"),
        "{refusal}"
    );
    site.sh("db", "systemctl stop taken");
    assert_eq!(site.steps("db", "mysql_instance", &moved), [""; 0]);
    site.sql("db", "SET PERSIST max_connections = 10");
    assert_eq!(
        site.converges("db", "mysql_instance", &moved),
        [
            "undo SET PERSIST max_connections, which wins over the file",
            "set max_connections = 88"
        ]
    );

    // Users.
    site.sql("db", "SET GLOBAL general_log = ON");
    assert_eq!(site.converges("db", "mysql_user", &user), create);
    let mut other = user.clone();
    other["password"] = json!("other");
    other["require_tls"] = json!(false);
    assert_eq!(
        site.converges("db", "mysql_user", &other),
        ["alter user 'o''k'@'10.%': its password, REQUIRE NONE"]
    );
    let local = json!({"name": "app", "password": AWKWARD});
    site.converges("db", "mysql_user", &local);
    site.put(
        "db",
        "/root/app.cnf",
        &format!(
            "[client]\nuser=app\npassword=\"{}\"\n",
            AWKWARD.replace('\\', "\\\\").replace('"', "\\\"")
        ),
    );
    assert_eq!(
        site.sh(
            "db",
            "mysql --defaults-file=/root/app.cnf -BN -e 'SELECT USER()'"
        ),
        "app@localhost"
    );
    // A password that the server itself stored is known again.
    site.sql("db", "CREATE USER theirs IDENTIFIED BY 'from the server'");
    assert_eq!(
        site.steps(
            "db",
            "mysql_user",
            &json!({"name": "theirs", "password": "from the server"})
        ),
        [""; 0]
    );
    assert_eq!(
        site.converges(
            "db",
            "mysql_user",
            &json!({"name": "theirs", "locked": true})
        ),
        ["alter user 'theirs'@'%': ACCOUNT LOCK"]
    );

    // Databases and privileges.
    let database =
        json!({"name": "my_app", "character_set": "utf8mb4", "collation": "utf8mb4_bin"});
    assert_eq!(
        site.converges("db", "mysql_database", &database),
        ["create database \"my_app\": CHARACTER SET utf8mb4, COLLATE utf8mb4_bin"]
    );
    site.sql("db", "CREATE TABLE my_app.t (n INT PRIMARY KEY)");
    // Another account than `app`, though many of the server's tables do not tell them apart.
    site.sql("db", "CREATE USER APP");
    for privileges in [
        json!({"my_app.*": ["SELECT", "INSERT"], "*.*": ["PROCESS", "CLONE_ADMIN"]}),
        json!({"my_app.*": ["ALL", "GRANT OPTION"], "my_app.t": ["SELECT"]}),
        json!({"*.*": ["ALL"], "my_app.t": ["ALL"]}),
        json!({"*.*": ["GRANT OPTION"]}),
        json!({}),
    ] {
        for (name, host) in [("app", "%"), ("APP", "%"), ("o'k", "10.%")] {
            let args = json!({"name": name, "host": host, "privileges": privileges});
            let steps = site.converges("db", "mysql_privileges", &args);
            assert_ne!(steps, [""; 0], "{args}");
        }
    }
    assert_eq!(
        site.sql("db", "SHOW GRANTS FOR app"),
        "GRANT USAGE ON *.* TO `app`@`%`"
    );
    let refusal = site.refusal(
        "db",
        "mysql_privileges",
        &json!({"name": "app", "privileges": {"my_app.*": ["FLY"]}}),
    );
    assert!(
        refusal.contains("(1064)") || refusal.contains("(1149)") || refusal.contains("FLY"),
        "{refusal}"
    );
    let gone = json!({"name": "my_app", "state": "absent"});
    let refusal = site.refusal("db", "mysql_database", &gone);
    assert!(refusal.contains("holds 1 tables"), "{refusal}");
    let gone = json!({"name": "my_app", "state": "absent", "delete_data": true});
    assert_eq!(
        site.converges("db", "mysql_database", &gone),
        ["drop database \"my_app\" with its 1 tables"]
    );
    assert_eq!(
        site.converges(
            "db",
            "mysql_user",
            &json!({"name": "o'k", "host": "10.%", "state": "absent"})
        ),
        ["drop user 'o''k'@'10.%'"]
    );

    // The password is in no log, and not in the answer that -vvv would show.
    let log = site.sh(
        "db",
        "cat /var/lib/mysql/db.log /var/log/mysql/error.log; journalctl --no-pager",
    );
    assert!(log.contains("CREATE USER"), "the general log is on: {log}");
    let mut loud = local.clone();
    loud["_ansible_verbosity"] = json!(4);
    let reply = site.call("db", "mysql_user", &loud).to_string();
    assert!(reply.contains("***"), "the arguments are shown: {reply}");
    for words in ["back\\\\slash", "longer than one block", "from the server$"] {
        assert!(!log.contains(words) && !reply.contains(words), "{words}");
    }

    // Stopped is not absent, and nothing is made anew.
    site.sh("db", "systemctl stop mysql");
    let refusal = site.refusal("db", "mysql_user", &local);
    assert!(refusal.contains("does not run"), "{refusal}");
    assert_eq!(
        site.converges("db", "mysql_instance", &moved),
        ["start the server"]
    );
    // Nor is one that cannot be reached, or not be trusted.
    let remote = json!({"host": "127.0.0.1", "port": 3307, "user": "app", "password": AWKWARD, "ca_file": "/var/lib/mysql/ca.pem"});
    let database = json!({"name": "x", "state": "absent", "server": remote});
    assert_eq!(site.steps("db", "mysql_database", &database), [""; 0]);
    for (key, value, words) in [
        ("port", json!(3399), "no connection to 127.0.0.1 port 3399"),
        ("password", json!("wrong"), "Access denied"),
        (
            "ca_file",
            json!("/etc/ssl/certs/ca-certificates.crt"),
            "is not trusted",
        ),
        ("tls", json!("identity"), "is not trusted"),
    ] {
        let mut args = database.clone();
        args["server"][key] = value;
        let refusal = site.refusal("db", "mysql_database", &args);
        assert!(refusal.contains(words), "{key}: {refusal}");
    }
}

const PASSWORD: &str = "replicate 'it' \\ here";

struct Pair {
    site: Site,
    /// The authority, on this machine.
    ca: PathBuf,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn start(lab: &str) -> Option<Self> {
        let site = Site::start(lab, &["db1", "db2"])?;
        let folder = tempfile::tempdir().unwrap();
        site.sh("db1", "cd /root; openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=site -keyout ca-key.pem -out ca.pem 2>&1");
        for (index, vm) in ["db1", "db2"].into_iter().enumerate() {
            site.sh("db1", &format!(
                "cd /root; openssl req -newkey rsa:2048 -nodes -subj /CN={vm} -keyout {vm}-key.pem -out {vm}.csr 2>&1; \
                 printf 'subjectAltName=DNS:{vm},IP:{}\n' > ext; \
                 openssl x509 -req -in {vm}.csr -CA ca.pem -CAkey ca-key.pem -set_serial {index}2 -days 30 -extfile ext -out {vm}.pem 2>&1",
                site.address(vm)
            ));
            for (from, to) in [
                ("ca.pem", "ca.pem"),
                (&format!("{vm}.pem"), "cert.pem"),
                (&format!("{vm}-key.pem"), "key.pem"),
            ] {
                let text = site.sh("db1", &format!("cat /root/{from}"));
                site.put(vm, &format!("/etc/mysql/{to}"), &text);
            }
            site.sh(vm, "chown mysql /etc/mysql/*.pem");
        }
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, site.sh("db1", "cat /root/ca.pem")).unwrap();
        Some(Self {
            site,
            ca,
            _folder: folder,
        })
    }

    fn instance(id: &str) -> Value {
        json!({"restart": "allowed", "parameters": {
            "bind_address": "*", "server_id": id, "gtid_mode": "ON", "enforce_gtid_consistency": "ON", "innodb_buffer_pool_size": "64M",
            "plugin_load_add": "mysql_clone.so;semisync_source.so;semisync_replica.so",
            "ssl_ca": "/etc/mysql/ca.pem", "ssl_cert": "/etc/mysql/cert.pem", "ssl_key": "/etc/mysql/key.pem",
        }})
    }

    fn access() -> Value {
        json!({"password": PASSWORD, "ca_file": "/etc/mysql/ca.pem", "tls": "identity"})
    }

    fn source(&self, name: &str) -> Value {
        json!({"name": name, "replication": Self::access(), "members": [
            {"name": "db1", "address": self.site.address("db1")},
            {"name": "db2", "address": self.site.address("db2")},
        ]})
    }

    fn replica_of(&self, name: &str) -> Value {
        json!({"source": {"address": self.site.address(name)}, "replication": Self::access()})
    }

    /// From the network of the lab, as an application connects.
    fn connect(&self, vm: &str, user: &str, password: &str) -> Result<Client, String> {
        let endpoint = Endpoint::Tcp {
            host: self.site.address(vm),
            port: 3306,
            tls: Tls::Identity(self.ca.clone()),
        };
        let login = Login {
            user,
            password: Some(password),
        };
        Client::connect(&endpoint, login).map_err(|error| error.to_string())
    }

    fn in_step(&self, source: &str, replica: &str) {
        let wanted = self
            .site
            .sql(source, "SELECT @@gtid_executed")
            .replace("\\n", "");
        let late = self.site.sql(
            replica,
            &format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{wanted}', 60)"),
        );
        assert_eq!(late, "0", "{replica} catches up with {source}");
    }
}

/// Commits numbered rows wherever it is let, and sees who takes writes.
struct Load {
    acknowledged: Mutex<Vec<u64>>,
    /// Most servers that were open to writes at a time.
    open: AtomicUsize,
    probes: AtomicUsize,
    over: AtomicBool,
}

fn write(pair: &Pair, load: &Load) {
    let mut client = None;
    let mut number = 0;
    let mut turn = 0;
    while !load.over.load(Ordering::Relaxed) {
        let Some(open) = &mut client else {
            turn += 1;
            client = pair.connect(["db1", "db2"][turn % 2], "app", "write").ok();
            sleep(Duration::from_millis(20));
            continue;
        };
        let client_now: &mut Client = open;
        let _ = client_now.set_patience(Duration::from_secs(2));
        match client_now.run(&format!("INSERT INTO app.rows_ VALUES ({number})")) {
            Ok(()) => load.acknowledged.lock().unwrap().push(number),
            Err(_) => client = None,
        }
        // What was not acknowledged may still be there, so that its number is not used again.
        number += 1;
        sleep(Duration::from_millis(2));
    }
}

fn probe(pair: &Pair, load: &Load) {
    while !load.over.load(Ordering::Relaxed) {
        let open = ["db1", "db2"].into_iter().filter(|vm| {
            let value = pair
                .connect(vm, "app", "write")
                .ok()
                .and_then(|mut it| it.value("SELECT @@read_only").ok());
            value.as_deref() == Some("0")
        });
        load.open.fetch_max(open.count(), Ordering::Relaxed);
        load.probes.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_set_is_made_switched_over_and_failed_over_without_losing_a_row() {
    let Some(pair) = Pair::start("mysql-two") else {
        return;
    };
    let site = &pair.site;
    let began = Instant::now();
    let say = |what: &str| eprintln!("{:6.1} s  {what}", began.elapsed().as_secs_f64());
    site.converges("db1", "mysql_instance", &Pair::instance("1"));
    site.converges("db2", "mysql_instance", &Pair::instance("2"));

    // No source yet: that is no reason to make anything up.
    let refusal = site.refusal("db2", "mysql_replication", &pair.replica_of("db1"));
    assert!(refusal.contains("is not allowed to connect"), "{refusal}");
    say("instances");
    assert_eq!(
        site.converges("db1", "mysql_source", &pair.source("db1")),
        [
            "close the server to writes whenever it starts",
            "prepare semi-synchronous replication",
            "create user 'replicator'@'%' for replication",
            "grant BACKUP_ADMIN, REPLICATION CLIENT, REPLICATION SLAVE to 'replicator'@'%'",
        ]
    );
    site.converges("db1", "mysql_database", &json!({"name": "app"}));
    site.converges(
        "db1",
        "mysql_user",
        &json!({"name": "app", "password": "write", "require_tls": true}),
    );
    site.converges(
        "db1",
        "mysql_privileges",
        &json!({"name": "app", "privileges": {"app.*": ["SELECT", "INSERT"]}}),
    );
    site.sql("db1", "CREATE TABLE app.rows_ (n BIGINT PRIMARY KEY)");
    // Whoever looks at the process lists meanwhile sees no password.
    site.sh(
        "db2",
        "systemd-run --quiet --unit=onlooker sh -c 'while :; do mysql -e \"SHOW FULL PROCESSLIST\"; ps axww; done > /run/seen 2>&1'",
    );
    let from = format!("{} port 3306", site.address("db1"));
    assert_eq!(
        site.converges("db2", "mysql_replication", &pair.replica_of("db1")),
        [
            "close the server to writes whenever it starts".to_owned(),
            "close the server to writes".to_owned(),
            "confirm to the source what was received".to_owned(),
            format!("replace the data by a copy of {from}'s: it has no data of its own"),
            format!("follow {from}: its data is a copy"),
        ]
    );
    let seen = site.sh("db2", "systemctl stop onlooker; cat /run/seen");
    assert!(seen.contains("SHOW FULL PROCESSLIST") && !seen.contains("replicate '"));
    say(&format!(
        "process lists: the copy was seen {} times",
        seen.matches("CLONE INSTANCE").count()
    ));
    assert_eq!(
        site.converges("db1", "mysql_source", &pair.source("db1")),
        ["let commits wait until a replica has them"]
    );
    say("set is made");

    let pair = Arc::new(pair);
    let load = Arc::new(Load {
        acknowledged: Mutex::default(),
        open: AtomicUsize::new(0),
        probes: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let threads: Vec<_> = [write, probe]
        .into_iter()
        .map(|work| {
            let (pair, load) = (pair.clone(), load.clone());
            std::thread::spawn(move || pair.site.in_network(|| work(&pair, &load)).unwrap())
        })
        .collect();
    let site = &pair.site;
    let written = || load.acknowledged.lock().unwrap().len();
    let goes_on = |what: &str| {
        let before = written();
        eventually(what, || written() > before + 20);
        say(what);
    };
    goes_on("the writer writes");

    // Switchover. Without the fence it is refused.
    let refusal = site.refusal("db2", "mysql_source", &pair.source("db2"));
    assert!(
        refusal.contains("db1 takes writes: fence it first"),
        "{refusal}"
    );
    site.converges("db1", "mysql_fence", &json!({}));
    let reply = site.call("db2", "mysql_source", &pair.source("db2"));
    assert_eq!(reply["changed"], json!(true), "{reply:#}");
    goes_on("the writer writes after the switchover");
    site.converges("db1", "mysql_replication", &pair.replica_of("db2"));
    site.steps("db2", "mysql_source", &pair.source("db2"));
    goes_on("the writer writes with a replica again");

    // Cut off: the old source may take writes, and so the promotion is refused.
    site.cut("db2").unwrap();
    let refusal = site.refusal("db1", "mysql_source", &pair.source("db1"));
    assert!(
        refusal.contains("db2 cannot be asked, so it may take writes"),
        "{refusal}"
    );
    let refusal = site.refusal("db1", "mysql_replication", &pair.replica_of("db2"));
    assert!(
        refusal.contains("ask the source: no connection to"),
        "{refusal}"
    );
    site.heal("db2").unwrap();
    goes_on("the writer writes after the cut");

    // Failover.
    let killed = Instant::now();
    site.kill("db2").unwrap();
    let mut failover = pair.source("db1");
    failover["fenced"] = json!({"db2": "powered_off"});
    let reply = site.call("db1", "mysql_source", &failover);
    assert_ne!(reply["failed"], json!(true), "{reply:#}");
    assert!(
        reply["warnings"][0]
            .as_str()
            .unwrap()
            .contains("no replica is connected"),
        "{reply:#}"
    );
    goes_on("the writer writes after the failover");
    say(&format!(
        "failover took {:.1} s at most",
        killed.elapsed().as_secs_f64()
    ));

    // The old source comes back closed.
    site.start("db2").unwrap();
    site.wait_booted("db2");
    eventually("the old source is up", || {
        site.exec("db2", &["mysql", "-e", "SELECT 1"], b"")
            .unwrap()
            .status
            .success()
    });
    assert_eq!(site.sql("db2", "SELECT @@super_read_only"), "1");
    // A commit that was never acknowledged may be on it; then it is named, and let go.
    let reply = site.call("db2", "mysql_replication", &pair.replica_of("db1"));
    if reply["failed"] == json!(true) {
        assert!(
            reply["msg"]
                .as_str()
                .unwrap()
                .contains("errant transactions"),
            "{reply:#}"
        );
        say(reply["msg"].as_str().unwrap());
        let mut again = pair.replica_of("db1");
        again["copy"] = json!("allowed");
        site.steps("db2", "mysql_replication", &again);
    }
    site.steps("db1", "mysql_source", &pair.source("db1"));
    goes_on("the writer writes with the old source as a replica");
    load.over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    pair.in_step("db1", "db2");
    let acknowledged = load.acknowledged.lock().unwrap().clone();
    for vm in ["db1", "db2"] {
        let rows = site.sql(vm, "SELECT n FROM app.rows_");
        let rows: std::collections::HashSet<u64> =
            rows.lines().map(|it| it.parse().unwrap()).collect();
        let lost: Vec<&u64> = acknowledged
            .iter()
            .filter(|it| !rows.contains(it))
            .collect();
        assert!(lost.is_empty(), "{vm} lacks acknowledged rows: {lost:?}");
    }
    assert_eq!(
        load.open.load(Ordering::Relaxed),
        1,
        "open to writes at a time"
    );
    say(&format!(
        "{} rows acknowledged, {} probes",
        acknowledged.len(),
        load.probes.load(Ordering::Relaxed)
    ));

    // A transaction of the replica's own is named, and blocks.
    site.sql("db2", "STOP REPLICA; RESET REPLICA ALL; SET GLOBAL super_read_only = OFF; CREATE DATABASE errant; SET GLOBAL super_read_only = ON");
    let uuid = site.sql("db2", "SELECT @@server_uuid");
    let refusal = site.refusal("db2", "mysql_replication", &pair.replica_of("db1"));
    assert!(
        refusal.contains("1 errant transactions that the source has not")
            && refusal.contains(&uuid),
        "{refusal}"
    );
    let mut again = pair.replica_of("db1");
    again["copy"] = json!("allowed");
    // Killed in the middle of the copy, and run again.
    let mut child = site.begin("db2", "mysql_replication", &again);
    sleep(Duration::from_millis(700));
    site.sh("db2", "pkill -KILL -f '[a]nswers_a_call' || true");
    child.wait().unwrap();
    eventually("the copy begins again or is done", || {
        site.call("db2", "mysql_replication", &again)["failed"] != json!(true)
    });
    assert_eq!(
        site.steps("db2", "mysql_replication", &pair.replica_of("db1")),
        [""; 0]
    );
    assert_eq!(site.sql("db2", "SHOW DATABASES LIKE 'errant'"), "");

    let status = site.call("db1", "mysql_status", &json!({}));
    assert_eq!(
        (&status["role"], &status["commits_wait"]),
        (&json!("source"), &json!(true)),
        "{status:#}"
    );
    let status = site.call("db2", "mysql_status", &json!({}));
    assert_eq!(
        (&status["role"], &status["receiving"]),
        (&json!("replica"), &json!(true)),
        "{status:#}"
    );

    // No secret in logs, process list or answers.
    for vm in ["db1", "db2"] {
        let log = site.sh(
            vm,
            "cat /var/log/mysql/error.log; journalctl --no-pager; mysql -e 'SHOW FULL PROCESSLIST'",
        );
        assert!(!log.contains("replicate '"), "{vm}");
    }
    let reply = site
        .call("db2", "mysql_replication", &pair.replica_of("db1"))
        .to_string();
    assert!(!reply.contains("replicate '"), "{reply}");
    say("the set is done");
}

/// Makes a server a stand-in of RDS.
const RDS: &str = include_str!("support/rds.sql");

#[test]
fn rds_is_loaded_follows_takes_over_and_is_followed() {
    let Some(pair) = Pair::start("mysql-rds") else {
        return;
    };
    let site = &pair.site;
    let began = Instant::now();
    let say = |what: &str| eprintln!("{:6.1} s  {what}", began.elapsed().as_secs_f64());
    site.converges("db1", "mysql_instance", &Pair::instance("1"));
    // The second server plays RDS.
    site.converges("db2", "mysql_instance", &Pair::instance("2"));
    let mut source = pair.source("db1");
    source["members"] = json!([{"name": "db1", "address": site.address("db1")}]);
    site.converges("db1", "mysql_source", &source);
    for sql in [
        "CREATE DATABASE app; CREATE TABLE app.rows_ (n BIGINT PRIMARY KEY, word VARCHAR(600)); SET SESSION cte_max_recursion_depth = 200000;
         INSERT INTO app.rows_ WITH RECURSIVE n AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
           SELECT n, REPEAT('it''s a \\\\ \u{be44}', 40) FROM n",
        "CREATE VIEW app.some AS SELECT n FROM app.rows_ WHERE n < 10",
        "CREATE TABLE app.words (word TEXT); CREATE TRIGGER app.said AFTER INSERT ON app.words FOR EACH ROW SET @said = NEW.word",
    ] {
        site.sql("db1", sql);
    }
    let server = json!({"host": site.address("db2"), "user": "admin", "password": "master", "tls": "identity", "ca_file": "/etc/mysql/ca.pem"});
    let follow = json!({"server": server, "source": {"address": site.address("db1"), "user": "replicator", "password": PASSWORD}});
    let load = json!({"server": server, "databases": ["app"]});

    // A server like any other is none of RDS.
    site.sql("db2", "SET sql_log_bin = OFF; CREATE USER admin IDENTIFIED BY 'master'; GRANT ALL ON *.* TO admin");
    for (module, args, words) in [
        (
            "mysql_rds_replication",
            &follow,
            "has no procedure mysql.rds_start_replication",
        ),
        (
            "mysql_rds_load",
            &load,
            "has no procedure mysql.rds_set_external_source_gtid_purged",
        ),
    ] {
        let refusal = site.refusal("db1", module, args);
        assert!(refusal.contains(words), "{refusal}");
    }
    site.sql(
        "db2",
        &format!("SET sql_log_bin = OFF; DROP USER admin;\n{RDS}"),
    );

    // What is not of a load is kept; what cannot be in a snapshot is named.
    site.sql(
        "db2",
        "CREATE DATABASE app; CREATE TABLE app.theirs (n INT)",
    );
    let refusal = site.refusal("db1", "mysql_rds_load", &load);
    assert!(
        refusal.contains("RDS has \"app\" already: say replace: true"),
        "{refusal}"
    );
    site.sql("db2", "DROP DATABASE app");
    site.sql("db1", "CREATE TABLE app.old (n INT) ENGINE = MyISAM");
    let refusal = site.refusal("db1", "mysql_rds_load", &load);
    assert!(
        refusal.contains("not InnoDB's") && refusal.contains("app.old (MyISAM)"),
        "{refusal}"
    );
    site.sql("db1", "DROP TABLE app.old");

    // Killed in the middle of the load, and run again: what was there is removed first.
    let mut child = site.begin("db1", "mysql_rds_load", &load);
    // The dump goes on by small steps only, so that it is in the middle when it ends. Rows cannot be counted: their table is locked.
    site.sh("db1", "until pkill -STOP mysqldump; do sleep 0.01; done");
    eventually("the load has begun", || {
        let tables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'app'";
        if site.sql("db2", tables) != "0" {
            return true;
        }
        site.sh(
            "db1",
            "pkill -CONT mysqldump; sleep 0.05; pkill -STOP mysqldump",
        );
        false
    });
    site.sh(
        "db1",
        "pkill -KILL -f '[a]nswers_a_call'; pkill -KILL mysqldump || true",
    );
    child.wait().unwrap();
    assert_eq!(
        site.sql("db2", "SELECT done FROM ondol_load.snapshot"),
        "0",
        "it was killed in the middle"
    );
    let refusal = site.refusal("db1", "mysql_rds_replication", &follow);
    assert!(refusal.contains("has not come to its end"), "{refusal}");
    say("killed");
    let count =
        "count the load's own transactions as executed here, so that this server can follow RDS";
    assert_eq!(
        site.converges("db1", "mysql_rds_load", &load),
        [
            "drop \"app\" on RDS: a load of them did not come to its end",
            "load \"app\" into RDS as a snapshot",
            count
        ]
    );
    say("loaded");
    assert_eq!(
        site.sql(
            "db2",
            "SELECT GTID_SUBSET((SELECT gtids FROM ondol_load.snapshot), @@gtid_executed)"
        ),
        "1"
    );

    // It follows, and leaves out what is said about accounts.
    let name = format!(
        "name {} port 3306 to RDS as its source",
        site.address("db1")
    );
    assert_eq!(
        site.converges("db1", "mysql_rds_replication", &follow),
        [name.as_str(), "start replication on RDS"]
    );
    site.sql("db1", "INSERT INTO app.rows_ VALUES (200000, 'later'); CREATE USER only_here; ALTER USER replicator COMMENT 'changed'");
    pair.in_step("db1", "db2");
    let digest =
        "SELECT COUNT(*), SUM(CRC32(word)), (SELECT COUNT(*) FROM app.some) FROM app.rows_";
    assert_eq!(site.sql("db2", digest), site.sql("db1", digest));
    assert_eq!(
        site.sql(
            "db2",
            "SELECT COUNT(*) FROM mysql.user WHERE user = 'only_here'"
        ),
        "0"
    );
    let status = site.call("db1", "mysql_status", &json!({"server": server}));
    assert_eq!(
        (&status["receiving"], &status["applying"], &status["lag_s"]),
        (&json!(true), &json!(true), &json!(0)),
        "{status:#}"
    );
    for (state, steps) in [
        ("stopped", vec!["stop replication on RDS"]),
        ("running", vec!["start replication on RDS"]),
    ] {
        let mut args = follow.clone();
        args["state"] = json!(state);
        assert_eq!(site.converges("db1", "mysql_rds_replication", &args), steps);
    }
    say("followed");

    // RDS takes over; what it then writes comes back, its housekeeping does not.
    site.converges("db1", "mysql_fence", &json!({}));
    pair.in_step("db1", "db2");
    let mut absent = follow.clone();
    absent["state"] = json!("absent");
    assert_eq!(
        site.converges("db1", "mysql_rds_replication", &absent),
        ["stop replication on RDS", "let RDS forget its source"]
    );
    site.sql(
        "db2",
        "CREATE USER replicator IDENTIFIED BY 'replicate \\'it\\' \\\\ here' REQUIRE SSL; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO replicator;
             CREATE TABLE mysql.rds_heartbeat2 (id INT PRIMARY KEY, value BIGINT); INSERT INTO mysql.rds_heartbeat2 VALUES (1, 1);
             INSERT INTO app.rows_ VALUES (200001, 'of RDS')",
    );
    let mut back = pair.replica_of("db2");
    back["copy"] = json!("never");
    back["leave_out_system_tables"] = json!(true);
    let from = format!("{} port 3306", site.address("db2"));
    assert_eq!(
        site.converges("db1", "mysql_replication", &back),
        [
            "close the server to writes whenever it starts",
            "leave out the tables mysql.%",
            &format!("follow {from}: it follows nobody"),
        ]
    );
    pair.in_step("db2", "db1");
    assert_eq!(site.sql("db1", digest), site.sql("db2", digest));
    // It is so after a restart too.
    site.sh("db1", "systemctl restart mysql");
    site.sql(
        "db2",
        "UPDATE mysql.rds_heartbeat2 SET value = 2; INSERT INTO app.rows_ VALUES (200002, 'after')",
    );
    pair.in_step("db2", "db1");
    assert_eq!(site.steps("db1", "mysql_replication", &back), [""; 0]);
    say("followed back");

    // The writes come home, and RDS follows again without another load.
    site.sql("db2", "SET GLOBAL read_only = ON");
    let reply = site.call("db1", "mysql_source", &source);
    assert_eq!(reply["changed"], json!(true), "{reply:#}");
    site.sql("db1", "INSERT INTO app.rows_ VALUES (200003, 'home')");
    site.sql("db2", "SET GLOBAL read_only = OFF");
    assert_eq!(site.steps("db1", "mysql_rds_load", &load), [""; 0]);
    assert_eq!(
        site.converges("db1", "mysql_rds_replication", &follow),
        [name.as_str(), "start replication on RDS"]
    );
    pair.in_step("db1", "db2");
    assert_eq!(site.sql("db2", digest), site.sql("db1", digest));
    let log = site.sh(
        "db1",
        "cat /var/log/mysql/error.log; journalctl --no-pager; mysql -e 'SHOW FULL PROCESSLIST'",
    );
    assert!(!log.contains("replicate '"));
    say("done");
}
