//! MariaDB on real machines: one server with its accounts, then a Galera cluster of two nodes and an arbitrator, from nothing through every loss
//! that it must survive.
//!
//! One test, because each part needs the cluster that the part before left. Needs root, systemd-nspawn and, once, a Debian mirror.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod accounts;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ondol_kit::Entry;
use ondol_mariadb::arbitrator::Arbitrator;
use ondol_mariadb::database::MariadbDatabase;
use ondol_mariadb::galera_node::Galera;
use ondol_mariadb::instance::Instance;
use ondol_mariadb::privileges::MariadbPrivileges;
use ondol_mariadb::status::Status;
use ondol_mariadb::user::MariadbUser;
use ondol_test_lab::reply::{failure, refused, steps, unchanged};
use ondol_test_lab::{
    TestLab, VmSpec, answer, answer_in, argv, debian_with, eventually, image, input, spec,
};
use serde_json::{Value, json};

/// Not a test: it is how the test's own program answers as a module in a VM.
#[test]
#[ignore = "run in a VM by the test below"]
fn answers_a_call() {
    answer(&[
        Entry::module::<Arbitrator>(),
        Entry::module::<Galera>(),
        Entry::module::<Instance>(),
        Entry::module::<MariadbDatabase>(),
        Entry::module::<MariadbPrivileges>(),
        Entry::module::<MariadbUser>(),
        Entry::probe::<Status>(),
    ]);
}

/// What a node and an arbitrator need.
const PACKAGES: [&str; 7] = [
    "galera-4",
    "galera-arbitrator-4",
    "mariadb-backup",
    "mariadb-server",
    "nftables",
    "rsync",
    "socat",
];

const ONE: &str = "db-01";
const TWO: &str = "db-02";
const ARBITER: &str = "arb-01";
const NODES: [&str; 2] = [ONE, TWO];

/// Losses are noticed in seconds. Every member must have the same.
fn options() -> Value {
    json!({
        "evs.keepalive_period": "PT0.3S",
        "evs.inactive_check_period": "PT0.3S",
        "evs.suspect_timeout": "PT2S",
        "evs.inactive_timeout": "PT6S",
    })
}

struct Cluster {
    lab: TestLab,
    /// Parameters of the nodes that a part of the test changed.
    more: BTreeMap<&'static str, Value>,
}

impl Cluster {
    /// One module on one machine; `seconds`: killed without warning after them.
    fn call(&self, machine: &str, module: &str, args: &Value, seconds: Option<&str>) -> Value {
        let mut argv = argv(module);
        if let Some(seconds) = seconds {
            let killed = ["timeout", "--signal=KILL", seconds].map(str::to_owned);
            argv.splice(0..0, killed);
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = self
            .lab
            .exec(machine, &argv, input(module, args).as_bytes())
            .unwrap();
        match answer_in(&output) {
            Some(reply) => reply,
            None if seconds.is_some() => Value::Null,
            None => panic!("{machine}: {module}: {output:?}"),
        }
    }

    fn status(&self, machine: &str) -> Value {
        let args = json!({"node_name": machine, "recover": true});
        let reply = self.call(machine, "mariadb_galera_status", &args, None);
        assert_eq!(reply["changed"], json!(false), "{reply}");
        assert!(reply["node"].is_object(), "{reply}");
        reply["node"].clone()
    }

    fn facts(&self) -> Value {
        NODES.iter().map(|it| self.status(it)).collect()
    }

    fn address(&self, machine: &str) -> String {
        self.lab.address(machine)
    }

    fn members(&self) -> Value {
        json!({ONE: self.address(ONE), TWO: self.address(TWO)})
    }

    fn node_args(&self, machine: &str, facts: &Value) -> Value {
        let mut args = json!({
            "cluster_name": "site",
            "node_name": machine,
            "members": self.members(),
            "arbitrators": {ARBITER: self.address(ARBITER)},
            "cluster": facts,
            "bootstrap": true,
            "timeout_seconds": 90,
            "provider_options": options(),
            "settings": {"innodb_buffer_pool_size": "64M"},
        });
        for (name, value) in &self.more {
            args[*name] = value.clone();
        }
        args
    }

    fn node(&self, machine: &str, facts: &Value) -> Value {
        let args = self.node_args(machine, facts);
        self.call(machine, "mariadb_galera_node", &args, None)
    }

    /// Every node at the same time, as Ansible does it.
    fn nodes(&self, facts: &Value, extra: &Value, seconds: Option<&str>) -> [Value; 2] {
        std::thread::scope(|scope| {
            NODES
                .map(|machine| {
                    let mut args = self.node_args(machine, facts);
                    for (name, value) in extra.as_object().into_iter().flatten() {
                        args[name] = value.clone();
                    }
                    scope.spawn(move || self.call(machine, "mariadb_galera_node", &args, seconds))
                })
                .map(|it| it.join().unwrap())
        })
    }

    fn arbitrator(&self, state: &str, extra: &Value) -> Value {
        let mut args = json!({
            "cluster_name": "site", "members": self.members(), "state": state, "provider_options": options(),
        });
        for (name, value) in extra.as_object().into_iter().flatten() {
            args[name] = value.clone();
        }
        self.call(ARBITER, "mariadb_galera_arbitrator", &args, None)
    }

    fn sql(&self, machine: &str, sql: &str) -> Result<String, String> {
        let argv = [
            "mariadb",
            "--batch",
            "--skip-column-names",
            "--connect-timeout=2",
        ];
        let output = self.lab.exec(machine, &argv, sql.as_bytes());
        let output = output.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    fn await_size(&self, machine: &str, size: u32) {
        eventually(&format!("{machine} is in a component of {size}"), || {
            let node = self.status(machine);
            node["wsrep"]["primary"] == json!(true) && node["wsrep"]["size"] == json!(size)
        });
    }

    /// Numbered rows, each by its own connection: on `first` for as long as it takes them, then on `second`.
    fn write(&self, first: &str, second: &str, load: &Load) -> Written {
        let mut written = Written::default();
        let mut target = first;
        let mut last = Instant::now();
        for number in 1.. {
            if load.stop.load(Ordering::Relaxed) {
                break;
            }
            while let Err(error) = self.sql(
                target,
                &format!("INSERT IGNORE INTO app.t VALUES ({number})"),
            ) {
                assert!(
                    last.elapsed() < Duration::from_secs(30),
                    "no writes for 30 s: {target}: {error}"
                );
                target = if target == first { second } else { first };
                sleep(Duration::from_millis(50));
            }
            written.pause = written.pause.max(last.elapsed());
            last = Instant::now();
            written.rows = number;
            let by = usize::from(target == second);
            load.rows[by].fetch_add(1, Ordering::Relaxed);
        }
        written
    }
}

/// What a writer is told, and how far it is.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    /// Rows that were acknowledged by the first, and by the second.
    rows: [AtomicU32; 2],
}

impl Load {
    fn await_rows(&self, by: usize) {
        eventually("rows are acknowledged", || {
            self.rows[by].load(Ordering::Relaxed) >= 20
        });
    }
}

#[derive(Debug, Default)]
struct Written {
    /// Rows 1 to this one were acknowledged.
    rows: u32,
    /// The longest time between two of them.
    pause: Duration,
}

/// What the machine holds of the cluster: configuration, state, whether the server runs.
fn traces(cluster: &Cluster, machine: &str) -> String {
    cluster.lab.sh(
        machine,
        "md5sum /etc/mysql/mariadb.conf.d/* /etc/default/garb; ls /var/lib/mysql /etc/systemd/system; \
         systemctl show -p MainPID,ActiveState mariadb garb",
    )
}

#[test]
fn a_cluster_lives_through_the_loss_of_each_part() {
    let Some(lab) = TestLab::open("galera") else {
        return;
    };
    let image = image(&debian_with(&PACKAGES));
    let machines = [ONE, TWO, ARBITER];
    for machine in machines {
        lab.launch(&VmSpec {
            cpus: 2,
            ..spec(machine, &image)
        });
    }
    for machine in machines {
        lab.wait_booted(machine);
    }
    let mut cluster = Cluster {
        lab,
        more: BTreeMap::new(),
    };
    let began = Instant::now();
    let part = |name: &str| eprintln!("{:6.1} s  {name}", began.elapsed().as_secs_f64());

    part("bad parameters");
    bad_parameters(&cluster);
    part("an instance");
    an_instance_of_its_own(&cluster);
    part("accounts and databases");
    accounts::on_one_server(&cluster);
    part("a new cluster");
    a_new_cluster(&cluster);
    part("the arbitrator");
    the_arbitrator(&cluster);
    part("a node is killed");
    a_node_is_killed_under_load(&cluster);
    part("a node is cut off");
    a_node_is_cut_off(&cluster);
    part("one restart at a time");
    one_restart_at_a_time(&mut cluster);
    part("all are killed");
    all_are_killed(&cluster);
    part("done");
}

fn bad_parameters(cluster: &Cluster) {
    let facts = cluster.facts();
    let with = |settings: Value| {
        let mut args = cluster.node_args(ONE, &facts);
        args["settings"] = settings;
        cluster.call(ONE, "mariadb_galera_node", &args, None)
    };
    let before = traces(cluster, ONE);
    refused(
        &with(json!({"no_such_thing": 1})),
        "unknown variable 'no_such_thing=1'",
    );
    refused(&with(json!({"max_connections": 5})), "adjusted to 10");
    refused(
        &with(json!({"binlog_row_image": "SOME"})),
        "Error while setting value 'SOME' to 'binlog_row_image'",
    );
    refused(&with(json!({"wsrep_on": "OFF"})), "settings.wsrep_on");
    let reply = cluster.call(
        ONE,
        "mariadb_galera_node",
        &json!({"cluster": facts, "nodename": ONE}),
        None,
    );
    refused(&reply, "nodename");
    let args = json!({"node_name": ONE, "expect_size": 3});
    let reply = cluster.call(ONE, "mariadb_galera_status", &args, None);
    refused(&reply, "db-01 is not a synced member");
    // Without leave there is no foundation.
    let mut args = cluster.node_args(ONE, &facts);
    args["bootstrap"] = json!(false);
    refused(
        &cluster.call(ONE, "mariadb_galera_node", &args, None),
        "no node is in a Primary Component",
    );
    // What is not known of is not taken for absent.
    let alone = json!([cluster.status(ONE)]);
    refused(&cluster.node(ONE, &alone), "nothing is known of db-02");
    assert_eq!(traces(cluster, ONE), before);
}

fn an_instance_of_its_own(cluster: &Cluster) {
    let call = |args: Value| cluster.call(ONE, "mariadb_instance", &args, None);
    let path = "write /etc/mysql/mariadb.conf.d/70-ondol.cnf";
    refused(
        &call(json!({"settings": {"no_such_thing": 1}})),
        "unknown variable 'no_such_thing=1'",
    );
    let mut args =
        json!({"settings": {"max_connections": 91, "back_log": 50}, "_ansible_check_mode": true});
    let before = traces(cluster, ONE);
    let predicted = call(args.clone());
    assert_eq!(traces(cluster, ONE), before);
    args["_ansible_check_mode"] = json!(false);
    let applied = call(args.clone());
    assert_eq!(steps(&applied)[0], path);
    assert_eq!(steps(&predicted)[0], path);
    let running = || {
        cluster
            .sql(ONE, "SELECT @@max_connections, @@back_log")
            .unwrap()
    };
    assert_eq!(running(), "91\t80");
    let again = call(args.clone());
    unchanged(&again);
    assert!(
        again["warnings"]
            .to_string()
            .contains("needs a restart for back_log"),
        "{again}"
    );
    args["allow_restart"] = json!(true);
    assert_eq!(
        steps(&call(args.clone())),
        ["restart the server for back_log (\"50\" instead of \"80\")"]
    );
    assert_eq!(running(), "91\t50");
    unchanged(&call(args.clone()));
    unchanged(&call(
        json!({"settings": {"max_connections": 91, "back_log": 50}}),
    ));
    // A port that is taken: the server's words, and it is not lost.
    cluster.lab.sh(
        ONE,
        "systemd-run --quiet --unit=taken socat TCP-LISTEN:3399,fork PIPE",
    );
    eventually("the port is taken", || {
        cluster.lab.sh_ok(ONE, "ss -Hltn sport = 3399 | grep -q .")
    });
    let mut taken = args.clone();
    taken["settings"]["port"] = json!(3399);
    let reason = failure(&call(taken));
    for words in [
        "settings: the server does not come up with them",
        "Address already in use",
        "it runs with the former settings again",
    ] {
        assert!(reason.contains(words), "{reason}");
    }
    assert_eq!(running(), "91\t50");
    unchanged(&call(args.clone()));
    cluster.lab.sh(ONE, "systemctl stop taken");
    // What follows is about the node's own file.
    cluster.lab.sh(
        ONE,
        "rm /etc/mysql/mariadb.conf.d/70-ondol.cnf; systemctl restart mariadb",
    );
}

fn a_new_cluster(cluster: &Cluster) {
    let facts = cluster.facts();
    let before = NODES.map(|it| traces(cluster, it));
    let check = json!({"_ansible_check_mode": true, "_ansible_diff": true});
    let predicted = cluster.nodes(&facts, &check, None);
    assert_eq!(NODES.map(|it| traces(cluster, it)), before);
    assert_eq!(
        steps(&predicted[0])[1..],
        ["found the Primary Component on db-01, a new history"]
    );
    assert_eq!(
        steps(&predicted[1])[1..],
        ["join db-02 to the Primary Component that db-01 founds"]
    );
    let diff = predicted[0]["diff"].to_string();
    assert!(diff.contains("wsrep_cluster_address = gcomm://"), "{diff}");

    let applied = cluster.nodes(&facts, &Value::Null, None);
    assert_eq!(
        applied.each_ref().map(steps),
        predicted.each_ref().map(steps)
    );
    let facts = cluster.facts();
    for reply in cluster.nodes(&facts, &Value::Null, None) {
        unchanged(&reply);
    }
    let uuids: Vec<&Value> = (0..2)
        .map(|it| &facts[it]["wsrep"]["cluster_uuid"])
        .collect();
    assert_eq!(uuids[0], uuids[1]);
    assert_eq!(facts[0]["wsrep"]["component"], json!(NODES));
    cluster
        .sql(
            ONE,
            "CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY)",
        )
        .unwrap();
}

fn the_arbitrator(cluster: &Cluster) {
    let reply = cluster.arbitrator("started", &json!({"provider_options": {"a": "$(reboot)"}}));
    refused(&reply, "provider_options");
    let before = traces(cluster, ARBITER);
    let predicted = cluster.arbitrator("started", &json!({"_ansible_check_mode": true}));
    assert_eq!(traces(cluster, ARBITER), before);
    let applied = cluster.arbitrator("started", &Value::Null);
    assert_eq!(steps(&applied), steps(&predicted));
    unchanged(&cluster.arbitrator("started", &Value::Null));
    cluster.await_size(ONE, 3);
    let options = json!({"provider_options": {"gmcast.peer_timeout": "PT4S"}});
    assert_eq!(
        steps(&cluster.arbitrator("started", &options)),
        [
            "write /etc/default/garb",
            "restart the arbitrator with its new configuration"
        ]
    );
    unchanged(&cluster.arbitrator("started", &options));
    cluster.arbitrator("started", &Value::Null);
    cluster.await_size(ONE, 3);
    let args = json!({"node_name": ONE, "expect_size": 3});
    let reply = cluster.call(ONE, "mariadb_galera_status", &args, None);
    assert_eq!(
        reply["node"]["wsrep"]["component"],
        json!([ONE, TWO, "garb"]),
        "{reply}"
    );
}

fn a_node_is_killed_under_load(cluster: &Cluster) {
    let load = Load::default();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| cluster.write(ONE, TWO, &load));
        load.await_rows(0);
        cluster.lab.kill(ONE).unwrap();
        load.await_rows(1);
        load.stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    eprintln!("          {written:?}");
    let node = cluster.status(TWO);
    assert_eq!(node["wsrep"]["component"], json!([TWO, "garb"]), "{node}");
    let rows = |machine: &str| {
        cluster
            .sql(machine, "SELECT COUNT(*), MAX(id) FROM app.t")
            .unwrap()
    };
    let all = format!("{0}\t{0}", written.rows);
    assert_eq!(rows(TWO), all, "every acknowledged row");

    // The server joins by itself when the machine is back; the module waits for it and does nothing else.
    cluster.lab.start(ONE).unwrap();
    cluster.lab.wait_booted(ONE);
    let facts = cluster.facts();
    for step in steps(&cluster.node(ONE, &facts)) {
        assert_eq!(step, "wait until db-01 is synced");
    }
    unchanged(&cluster.node(ONE, &facts));
    assert_eq!(rows(ONE), all);
    cluster.await_size(ONE, 3);
}

fn a_node_is_cut_off(cluster: &Cluster) {
    cluster.lab.cut(ONE).unwrap();
    eventually("the minority is no Primary Component", || {
        cluster.status(ONE)["wsrep"]["primary"] == json!(false)
    });
    let refusal = cluster
        .sql(ONE, "INSERT INTO app.t VALUES (1000001)")
        .unwrap_err();
    assert!(refusal.contains("ERROR 1047"), "{refusal}");
    cluster.await_size(TWO, 2);
    cluster
        .sql(TWO, "INSERT INTO app.t VALUES (1000002)")
        .unwrap();
    // The minority must not found a component of its own, whatever it is told.
    let alone = json!([cluster.status(ONE)]);
    refused(&cluster.node(ONE, &alone), "nothing is known of db-02");
    let facts = cluster.facts();
    let mut args = cluster.node_args(ONE, &facts);
    args["_ansible_check_mode"] = json!(true);
    let reply = cluster.call(ONE, "mariadb_galera_node", &args, None);
    assert_eq!(steps(&reply), ["wait until db-01 is synced"]);

    cluster.lab.heal(ONE).unwrap();
    assert_eq!(
        steps(&cluster.node(ONE, &facts)),
        ["wait until db-01 is synced"]
    );
    let rows = "SELECT GROUP_CONCAT(id) FROM app.t WHERE id > 1000000";
    assert_eq!(cluster.sql(ONE, rows).unwrap(), "1000002");
    cluster.await_size(ONE, 3);
}

fn one_restart_at_a_time(cluster: &mut Cluster) {
    let pid = |cluster: &Cluster, machine: &str| {
        cluster.lab.sh(machine, "systemctl show -p MainPID mariadb")
    };
    let before = NODES.map(|it| pid(cluster, it));
    // A variable that can be set is set; the other waits for leave.
    let settings = json!({"innodb_buffer_pool_size": "64M", "max_connections": 77, "back_log": 60});
    cluster.more.insert("settings", settings);
    let facts = cluster.facts();
    let reply = cluster.node(ONE, &facts);
    assert_eq!(
        steps(&reply),
        [
            "change /etc/mysql/mariadb.conf.d/80-ondol-galera.cnf",
            "set max_connections to \"77\" (is \"151\")"
        ]
    );
    let warning = reply["warnings"].to_string();
    assert!(
        warning.contains("db-01 needs a restart for back_log"),
        "{warning}"
    );
    assert_eq!(pid(cluster, ONE), before[0]);
    unchanged(&cluster.node(ONE, &facts));

    cluster.more.insert("allow_restart", json!(true));
    // With a node missing it stays as it is.
    assert_eq!(
        steps(&cluster.arbitrator("stopped", &Value::Null)),
        ["stop the arbitrator"]
    );
    cluster.await_size(ONE, 2);
    refused(
        &cluster.node(ONE, &facts),
        "only 2 of 3 nodes are in the component",
    );
    cluster.arbitrator("started", &Value::Null);
    cluster.await_size(ONE, 3);

    for (machine, before) in NODES.iter().zip(&before) {
        let done = steps(&cluster.node(machine, &facts));
        let last = done.last().unwrap();
        assert!(
            last.starts_with(&format!("restart {machine} for back_log")),
            "{done:?}"
        );
        assert_ne!(pid(cluster, machine), *before);
        unchanged(&cluster.node(machine, &facts));
    }
    cluster.more.remove("allow_restart");
}

fn all_are_killed(cluster: &Cluster) {
    // The first one is ahead by rows that the second never saw.
    cluster.lab.kill(TWO).unwrap();
    cluster.await_size(ONE, 2);
    cluster
        .sql(ONE, "INSERT INTO app.t VALUES (2000001)")
        .unwrap();
    let count = "SELECT COUNT(*), MAX(id) FROM app.t";
    let rows = cluster.sql(ONE, count).unwrap();
    for machine in [ONE, ARBITER] {
        cluster.lab.kill(machine).unwrap();
    }
    for machine in [ONE, TWO, ARBITER] {
        cluster.lab.start(machine).unwrap();
    }
    eventually("the servers wait for each other", || {
        NODES.iter().all(|it| {
            let active = cluster
                .lab
                .exec(it, &["systemctl", "is-active", "mariadb"], b"");
            let waits = active.is_ok_and(|it| it.stdout == b"activating\n");
            waits && cluster.status(it)["server"] == json!("starting")
        })
    });
    let facts = cluster.facts();
    let seqno = |it: usize| facts[it]["position"]["seqno"].as_i64().unwrap();
    assert!(seqno(0) > seqno(1), "{facts}");
    cluster.arbitrator("stopped", &Value::Null);

    // Another history on one of them.
    let grastate = "/var/lib/mysql/grastate.dat";
    cluster.lab.sh(
        TWO,
        &format!(
            "systemctl stop --no-block mariadb; systemctl kill -s KILL mariadb; while pgrep -x mariadbd; do sleep 0.1; done; \
             cp -p {grastate} /root/; sed -i 's/^uuid:.*/uuid: bbbbbbbb-e696-11f1-8be0-3e7392a1b536/; s/^seqno:.*/seqno: 999/' {grastate}"
        ),
    );
    let doctored = cluster.facts();
    for reply in cluster.nodes(&doctored, &Value::Null, None) {
        refused(&reply, "different histories");
        let message = reply["msg"].as_str().unwrap();
        assert!(
            message.contains("db-02 is at bbbbbbbb-e696-11f1-8be0-3e7392a1b536:999"),
            "{message}"
        );
    }
    cluster
        .lab
        .sh(TWO, &format!("cp -p /root/grastate.dat {grastate}"));

    // Power goes in the middle of the task, as far as the modules are concerned.
    let facts = cluster.facts();
    let predicted = cluster.nodes(&facts, &json!({"_ansible_check_mode": true}), None);
    let last = |reply: &Value| steps(reply).pop().unwrap();
    let position = format!(
        "{}:{}",
        facts[0]["position"]["uuid"].as_str().unwrap(),
        facts[0]["position"]["seqno"]
    );
    assert_eq!(
        last(&predicted[0]),
        format!("found the Primary Component on db-01, at {position}")
    );
    assert_eq!(
        last(&predicted[1]),
        "join db-02 to the Primary Component that db-01 founds"
    );
    let killed = cluster.nodes(&facts, &Value::Null, Some("2"));
    assert_eq!(killed, [Value::Null, Value::Null]);
    let facts = cluster.facts();
    for reply in cluster.nodes(&facts, &Value::Null, None) {
        steps(&reply);
    }
    let facts = cluster.facts();
    for reply in cluster.nodes(&facts, &Value::Null, None) {
        unchanged(&reply);
    }
    for machine in NODES {
        assert_eq!(cluster.sql(machine, count).unwrap(), rows);
    }
    cluster.arbitrator("started", &Value::Null);
    cluster.await_size(ONE, 3);
    assert!(!Path::new("/run/mariadb-wsrep-new-cluster").exists());
    for machine in NODES {
        let left = cluster.lab.sh(
            machine,
            "ls /run/mariadb-wsrep-new-cluster 2>/dev/null || echo none",
        );
        assert_eq!(left, "none");
    }
}
