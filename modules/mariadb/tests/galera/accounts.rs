//! Databases, accounts and privileges on a server of its own: by the local socket and over TLS, with what can go wrong on the way.

use std::thread;

use ondol_test_lab::eventually;
use ondol_test_lab::reply::{failure, refused, steps, unchanged};
use serde_json::{Value, json};

use super::{Cluster, ONE};

/// Quotes, a backslash, UTF-8, and longer than one block of SHA-1.
const AWKWARD: &str =
    r#"it's a "back\slash" 비밀, and it is longer than one block of SHA-1 is, too"#;
const TLS: &str = "/etc/mysql/tls";

pub(crate) fn on_one_server(cluster: &Cluster) {
    a_user_and_its_password(cluster);
    databases_and_privileges(cluster);
    nothing_tells_the_password(cluster);
    over_tls(cluster);
    killed_in_mid_task(cluster);
    stopped_is_not_absent(cluster);
    // What follows is about a cluster that is new.
    cluster.lab.sh(
        ONE,
        &format!("rm -rf /etc/mysql/mariadb.conf.d/70-ondol.cnf {TLS}; systemctl restart mariadb"),
    );
    for user in ["app", "theirs", "twice"] {
        converges(
            cluster,
            "mariadb_user",
            &json!({"name": user, "state": "absent"}),
        );
    }
}

fn converges(cluster: &Cluster, module: &str, args: &Value) -> Vec<String> {
    cluster.lab.converges(ONE, module, args)
}

fn sql(cluster: &Cluster, sql: &str) -> String {
    cluster.sql(ONE, sql).expect("the server takes it")
}

fn app() -> Value {
    json!({"name": "app", "password": AWKWARD})
}

fn a_user_and_its_password(cluster: &Cluster) {
    sql(cluster, "SET GLOBAL general_log = ON");
    let user = json!({"name": "o'k", "host": "10.%", "password": AWKWARD, "require_tls": true, "max_connections": 9});
    assert_eq!(
        converges(cluster, "mariadb_user", &user),
        ["create user 'o''k'@'10.%': its password, REQUIRE SSL, MAX_USER_CONNECTIONS 9"]
    );
    let mut other = user.clone();
    other["password"] = json!("other");
    other["require_tls"] = json!(false);
    other["locked"] = json!(true);
    assert_eq!(
        converges(cluster, "mariadb_user", &other),
        ["alter user 'o''k'@'10.%': its password, REQUIRE NONE, ACCOUNT LOCK"]
    );
    converges(cluster, "mariadb_user", &app());
    let password = AWKWARD.replace('\\', "\\\\").replace('"', "\\\"");
    let file = format!("[client]\nuser=app\npassword=\"{password}\"\n");
    cluster.lab.put(ONE, "/root/app.cnf", &file);
    let login = "mariadb --defaults-file=/root/app.cnf -BN -e 'SELECT USER()'";
    assert_eq!(cluster.lab.sh(ONE, login), "app@localhost");
    // What the server itself stored is known again.
    sql(
        cluster,
        "CREATE USER theirs IDENTIFIED BY 'from the server'; \
         CREATE USER twice IDENTIFIED VIA mysql_native_password USING PASSWORD('x') OR unix_socket",
    );
    let theirs = json!({"name": "theirs", "password": "from the server"});
    unchanged(&cluster.call(ONE, "mariadb_user", &theirs, None));
    // A second way in is not what was asked for.
    assert_eq!(
        converges(
            cluster,
            "mariadb_user",
            &json!({"name": "twice", "password": "x"})
        ),
        ["alter user 'twice'@'%': its password"]
    );
    assert_eq!(
        converges(
            cluster,
            "mariadb_user",
            &json!({"name": "twice", "auth_socket": true})
        ),
        ["alter user 'twice'@'%': auth_socket"]
    );
    let gone = json!({"name": "o'k", "host": "10.%", "state": "absent"});
    assert_eq!(
        converges(cluster, "mariadb_user", &gone),
        ["drop user 'o''k'@'10.%'"]
    );
}

fn databases_and_privileges(cluster: &Cluster) {
    let database = |more: Value| {
        let mut args = json!({"name": "my_app"});
        for (name, value) in more.as_object().expect("a map") {
            args[name] = value.clone();
        }
        args
    };
    let utf8 = database(json!({"character_set": "utf8mb4", "collation": "utf8mb4_bin"}));
    assert_eq!(
        converges(cluster, "mariadb_database", &utf8),
        ["create database \"my_app\": CHARACTER SET utf8mb4, COLLATE utf8mb4_bin"]
    );
    // The server has another name for it.
    let short = database(json!({"character_set": "utf8"}));
    assert_eq!(
        converges(cluster, "mariadb_database", &short),
        ["alter database \"my_app\": CHARACTER SET utf8"]
    );
    let unknown = database(json!({"collation": "utf8mb4_klingon"}));
    let refusal = failure(&cluster.call(ONE, "mariadb_database", &unknown, None));
    assert!(
        refusal.contains("Unknown collation: 'utf8mb4_klingon' (1273)"),
        "{refusal}"
    );
    sql(cluster, "CREATE TABLE my_app.t (n INT PRIMARY KEY)");
    // Another account than `app`, though many of the server's tables do not tell them apart.
    sql(cluster, "CREATE USER APP");
    for privileges in [
        json!({"my_app.*": ["SELECT", "INSERT"], "*.*": ["PROCESS", "REPLICATION CLIENT", "REPLICATION REPLICA", "REPLICA MONITOR",
            "REPLICATION REPLICA ADMIN"], "my_app.t": ["DELETE VERSIONING ROWS"]}),
        json!({"my_app.*": ["ALL", "GRANT OPTION"], "my_app.t": ["SELECT"]}),
        json!({"*.*": ["ALL"], "my_app.t": ["ALL"]}),
        json!({"*.*": ["GRANT OPTION"]}),
        json!({}),
    ] {
        for name in ["app", "APP"] {
            let args = json!({"name": name, "privileges": privileges});
            assert_ne!(
                converges(cluster, "mariadb_privileges", &args),
                [""; 0],
                "{args}"
            );
        }
    }
    let left = sql(cluster, "SHOW GRANTS FOR app");
    assert!(
        left.starts_with("GRANT USAGE ON *.*") && !left.contains('\n'),
        "{left}"
    );
    for (privileges, words) in [
        (
            json!({"my_app.*": ["FLY"]}),
            "You have an error in your SQL syntax",
        ),
        (
            json!({"my_app.no": ["SELECT"]}),
            "Table 'my_app.no' doesn't exist (1146)",
        ),
        (json!({"my_app": ["SELECT"]}), "privileges.my_app"),
    ] {
        let args = json!({"name": "app", "privileges": privileges});
        let refusal = failure(&cluster.call(ONE, "mariadb_privileges", &args, None));
        assert!(refusal.contains(words), "{refusal}");
    }
    let mut gone = database(json!({"state": "absent"}));
    let reply = cluster.call(ONE, "mariadb_database", &gone, None);
    refused(&reply, "holds 1 tables");
    gone["delete_data"] = json!(true);
    assert_eq!(
        converges(cluster, "mariadb_database", &gone),
        ["drop database \"my_app\" with its 1 tables"]
    );
}

fn nothing_tells_the_password(cluster: &Cluster) {
    let log = cluster
        .lab
        .sh(ONE, "cat /var/lib/mysql/*.log; journalctl --no-pager");
    assert!(log.contains("CREATE USER"), "the general log is on: {log}");
    let mut loud = app();
    loud["_ansible_verbosity"] = json!(4);
    let reply = cluster.call(ONE, "mariadb_user", &loud, None).to_string();
    assert!(reply.contains("***"), "the arguments are shown: {reply}");
    for words in ["back\\slash", "back\\\\slash", "longer than one block"] {
        assert!(!log.contains(words) && !reply.contains(words), "{words}");
    }
}

fn over_tls(cluster: &Cluster) {
    cluster.lab.sh(
        ONE,
        &format!(
            "mkdir -p {TLS}; cd {TLS}; \
             openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=site -keyout ca-key.pem -out ca.pem 2>&1; \
             openssl req -newkey rsa:2048 -nodes -subj /CN=db -keyout key.pem -out db.csr 2>&1; \
             printf 'subjectAltName=IP:127.0.0.1\n' > ext; \
             openssl x509 -req -in db.csr -CA ca.pem -CAkey ca-key.pem -set_serial 2 -days 30 -extfile ext -out cert.pem 2>&1; \
             chgrp mysql key.pem; chmod 0640 key.pem"
        ),
    );
    let settings = json!({"ssl_ca": format!("{TLS}/ca.pem"), "ssl_cert": format!("{TLS}/cert.pem"), "ssl_key": format!("{TLS}/key.pem")});
    let instance = json!({"settings": settings, "allow_restart": true});
    steps(&cluster.call(ONE, "mariadb_instance", &instance, None));
    let mut tls = app();
    tls["require_tls"] = json!(true);
    converges(cluster, "mariadb_user", &tls);
    let server = json!({"host": "127.0.0.1", "user": "app", "password": AWKWARD, "ca_file": format!("{TLS}/ca.pem"), "tls": "identity"});
    let absent = json!({"name": "x", "state": "absent", "server": server});
    unchanged(&cluster.call(ONE, "mariadb_database", &absent, None));
    // None of these is taken for a server without the database.
    let mut wrong: Vec<(&str, Value, &str)> = vec![
        ("port", json!(3399), "no connection to 127.0.0.1 port 3399"),
        ("password", json!("wrong"), "Access denied for user 'app'"),
        (
            "ca_file",
            json!("/etc/ssl/certs/ca-certificates.crt"),
            "is not trusted",
        ),
        ("ca_file", json!("/nowhere"), "/nowhere"),
        ("host", json!("localhost"), "is not trusted"),
    ];
    let refuse = |key: &str, value: Value, words: &str| {
        let mut args = absent.clone();
        args["state"] = json!("present");
        args["server"][key] = value;
        let reply = cluster.call(ONE, "mariadb_database", &args, None);
        refused(&reply, words);
    };
    for (key, value, words) in wrong.drain(..) {
        refuse(key, value, words);
    }
    cluster
        .lab
        .sh(ONE, "nft -f - <<'E'\ntable inet shut { chain in { type filter hook input priority 0; tcp dport 3306 drop; }; }\nE");
    refuse(
        "port",
        json!(3306),
        "no connection to 127.0.0.1 port 3306: ",
    );
    cluster.lab.sh(ONE, "nft delete table inet shut");
    assert_eq!(
        sql(cluster, "SHOW DATABASES LIKE 'x'"),
        "",
        "nothing was made"
    );
}

/// DDL waits for this session; `true`: it does.
fn a_lock_is_held(cluster: &Cluster, held: bool) {
    let sleeper = "SELECT ID FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'";
    if held {
        let hold =
            "systemd-run --quiet mariadb -e 'FLUSH TABLES WITH READ LOCK; SELECT SLEEP(900)'";
        cluster.lab.sh(ONE, hold);
        eventually("the lock is held", || !sql(cluster, sleeper).is_empty());
    } else {
        let id = sql(cluster, sleeper);
        sql(cluster, &format!("KILL {id}"));
    }
}

fn killed_in_mid_task(cluster: &Cluster) {
    let waits = || {
        let waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'CREATE USER \\'mid%'";
        eventually("the statement waits", || sql(cluster, waiting) == "1");
    };
    let mid = json!({"name": "mid", "password": AWKWARD});

    // The module.
    a_lock_is_held(cluster, true);
    let mut module = cluster.lab.begin(ONE, "mariadb_user", &mid);
    waits();
    cluster
        .lab
        .sh(ONE, "pkill -KILL -f '[a]nswers_a_call' || true");
    module.wait().expect("it was started");
    a_lock_is_held(cluster, false);
    steps(&cluster.call(ONE, "mariadb_user", &mid, None));
    unchanged(&cluster.call(ONE, "mariadb_user", &mid, None));
    let gone = json!({"name": "mid", "state": "absent"});
    assert_eq!(
        converges(cluster, "mariadb_user", &gone),
        ["drop user 'mid'@'%'"]
    );

    // The server: an error, and nothing that a run does not complete.
    a_lock_is_held(cluster, true);
    let reply = thread::scope(|scope| {
        let task = scope.spawn(|| cluster.call(ONE, "mariadb_user", &mid, None));
        waits();
        cluster.lab.sh(ONE, "systemctl kill -s KILL mariadb");
        task.join().expect("it answers")
    });
    let reason = failure(&reply);
    assert!(reason.contains("create user 'mid'@'%'"), "{reason}");
    assert!(
        reason.contains("broke") || reason.contains("shutdown"),
        "{reason}"
    );
    assert!(!reply.to_string().contains("longer than"), "{reply}");
    cluster.lab.sh(ONE, "systemctl start mariadb");
    steps(&cluster.call(ONE, "mariadb_user", &mid, None));
    unchanged(&cluster.call(ONE, "mariadb_user", &mid, None));
    converges(cluster, "mariadb_user", &gone);
}

fn stopped_is_not_absent(cluster: &Cluster) {
    cluster.lab.sh(ONE, "systemctl stop mariadb");
    for (module, args) in [
        ("mariadb_user", app()),
        ("mariadb_database", json!({"name": "x"})),
        (
            "mariadb_privileges",
            json!({"name": "app", "privileges": {}}),
        ),
    ] {
        let reply = cluster.call(ONE, module, &args, None);
        refused(&reply, "the server on this machine does not run");
    }
}
