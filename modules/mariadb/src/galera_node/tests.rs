//! Parameters that cannot be, and the steps of a node in each situation.

use serde_json::json;

use super::*;
use crate::facts::Wsrep;
use crate::wsrep::Uuid;

const A: &str = "aaaaaaaa-e696-11f1-8be0-3e7392a1b536";

fn params(change: impl FnOnce(&mut serde_json::Value)) -> Result<Desired, Invalid> {
    let mut args = json!({
        "cluster_name": "site",
        "node_name": "db-01",
        "members": {"db-01": "10.0.0.1", "db-02": "10.0.0.2"},
        "arbitrators": {"arb-01": "10.0.0.3"},
        "cluster": [],
        "bootstrap": true,
        "settings": {"max_connections": "200"},
        "provider_options": {"gcache.size": "64M", "pc.weight": "1"},
    });
    change(&mut args);
    let params: Params = serde_json::from_value(args).unwrap();
    Desired::try_from(params)
}

fn desired() -> Desired {
    params(|_| {}).unwrap()
}

fn uuid() -> Uuid {
    Uuid::try_from(A.to_owned()).unwrap()
}

fn node(server: ServerState) -> NodeFacts {
    NodeFacts {
        name: "db-01".to_owned(),
        server,
        founding: false,
        wsrep: None,
        grastate: None,
        position: None,
        position_known: true,
        databases: Vec::new(),
        half_copied: false,
    }
}

fn member(state: &str, size: u32) -> Current {
    let mut node = node(ServerState::Running);
    node.wsrep = Some(Wsrep {
        primary: true,
        ready: true,
        state: state.to_owned(),
        cluster_uuid: Some(uuid()),
        size,
        component: Vec::new(),
        provider_version: String::new(),
    });
    Current {
        config: Some(settings::render(Galera::NAME, &desired().settings)),
        node,
        way: Way::Member,
        drift: Vec::new(),
        armed: false,
    }
}

fn drift(name: &str, dynamic: bool) -> Drift {
    Drift {
        name: name.to_owned(),
        wanted: "4".to_owned(),
        running: "1".to_owned(),
        dynamic,
    }
}

fn lines(desired: &Desired, current: &Current) -> Vec<String> {
    plan(desired, current)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_configuration_holds_the_cluster_and_no_empty_address() {
    assert_eq!(
        settings::render(Galera::NAME, &desired().settings),
        "# Written by ondol.cloud.mariadb_galera_node; changes are overwritten.\n[mariadbd]\n\
         binlog_format = ROW\ndefault_storage_engine = InnoDB\ninnodb_autoinc_lock_mode = 2\nmax_connections = 200\n\
         wsrep_cluster_address = gcomm://10.0.0.1,10.0.0.2,10.0.0.3\nwsrep_cluster_name = site\n\
         wsrep_node_address = 10.0.0.1\nwsrep_node_name = db-01\nwsrep_on = ON\n\
         wsrep_provider = /usr/lib/galera/libgalera_smm.so\n\
         wsrep_provider_options = \"gcache.size=64M; pc.weight=1\"\nwsrep_sst_auth = mysql:\nwsrep_sst_method = mariabackup\n"
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let set = |path: &'static str, value: serde_json::Value| {
        params(move |args| *args.pointer_mut(path).unwrap() = value)
            .unwrap_err()
            .to_string()
    };
    for (path, value, error) in [
        (
            "/cluster_name",
            json!("a\nb"),
            "cluster_name: a cluster's name is made of at most 32 letters, digits, hyphens, underscores and dots",
        ),
        (
            "/node_name",
            json!("db-09"),
            "node_name: \"db-09\" is not one of members",
        ),
        (
            "/members",
            json!({"db-01": "10.0.0"}),
            "members.db-01: \"10.0.0\" is not an address",
        ),
        (
            "/arbitrators",
            json!({"db-02": "10.0.0.3"}),
            "arbitrators.db-02: is one of members as well",
        ),
        (
            "/settings",
            json!({"wsrep_cluster_address": "gcomm://"}),
            "settings.wsrep_cluster_address: another parameter of the module says this",
        ),
        (
            "/provider_options",
            json!({"pc.weight": "1; pc.bootstrap=1"}),
            "provider_options.pc.weight: names and values hold no semicolons, equals signs, quotes, backslashes or line breaks",
        ),
    ] {
        assert_eq!(set(path, value), error);
    }
    let twice = params(|args| {
        let node = serde_json::to_value(node(ServerState::Stopped)).unwrap();
        args["cluster"] = json!([node.clone(), node]);
    });
    assert_eq!(
        twice.unwrap_err().to_string(),
        "cluster[1].name: \"db-01\" is there twice"
    );
}

#[test]
fn a_member_as_it_should_be_needs_nothing() {
    assert_eq!(lines(&desired(), &member("Synced", 3)), [""; 0]);
    assert_eq!(
        lines(&desired(), &member("Joined", 3)),
        ["wait until db-01 is synced"]
    );
}

#[test]
fn a_member_is_restarted_only_when_told_and_only_if_all_are_there() {
    let mut current = member("Synced", 3);
    current.drift = vec![drift("max_connections", true), drift("bind_address", false)];
    let set = "set max_connections to \"4\" (is \"1\")";
    assert_eq!(lines(&desired(), &current), [set]);
    let told = params(|args| args["allow_restart"] = json!(true)).unwrap();
    assert_eq!(
        lines(&told, &current),
        [
            set,
            "restart db-01 for bind_address (\"4\" instead of \"1\")"
        ]
    );
    assert!(may_be_stopped(&told, &current).is_ok());
    let mut lonely = member("Synced", 2);
    lonely.drift = current.drift;
    assert_eq!(
        may_be_stopped(&told, &lonely).unwrap_err().to_string(),
        "db-01 needs a restart for bind_address (\"4\" instead of \"1\"), and only 2 of 3 nodes are in the component: it \
         stays as it is until they are back"
    );
    // The list of addresses is read at the next start anyway.
    let mut addresses = member("Synced", 3);
    addresses.drift = vec![drift("wsrep_cluster_address", false)];
    assert_eq!(lines(&told, &addresses), [""; 0]);
}

#[test]
fn a_fresh_machine_becomes_the_founder_or_joins() {
    let fresh = |way: Way| Current {
        config: None,
        node: node(ServerState::Running),
        way,
        drift: Vec::new(),
        armed: false,
    };
    let first = "write /etc/mysql/mariadb.conf.d/80-ondol-galera.cnf";
    let founds = fresh(Way::Found { from: None });
    assert_eq!(
        lines(&desired(), &founds),
        [first, "found the Primary Component on db-01, a new history"]
    );
    // Before the package is there, check mode says the same.
    let bare = Current {
        node: node(ServerState::Absent),
        ..founds.clone()
    };
    assert_eq!(lines(&desired(), &bare), lines(&desired(), &founds));
    let Some(Step::Found {
        stop: true, others, ..
    }) = plan(&desired(), &founds).pop()
    else {
        panic!("it founds");
    };
    let other = |name: &str, address: &str| (name.to_owned(), address.to_owned(), false);
    assert_eq!(
        others,
        [other("db-02", "10.0.0.2"), other("arb-01", "10.0.0.3")]
    );
    assert_eq!(
        lines(&desired(), &fresh(Way::Join { founder: None }))[1],
        "join db-01 to the Primary Component"
    );
}

#[test]
fn a_server_with_databases_becomes_a_member_only_when_told() {
    let mut current = member("Synced", 3);
    current.node = node(ServerState::Running);
    current.node.databases = vec!["shop".to_owned()];
    current.way = Way::Found { from: None };
    assert_eq!(
        may_be_stopped(&desired(), &current)
            .unwrap_err()
            .to_string(),
        "db-01 runs on its own and holds databases (shop): it becomes a member by a restart, which allow_restart allows"
    );
    let told = params(|args| args["allow_restart"] = json!(true)).unwrap();
    assert!(may_be_stopped(&told, &current).is_ok());
}

#[test]
fn what_a_broken_off_foundation_left_goes_first() {
    let mut current = member("Synced", 3);
    current.armed = true;
    assert_eq!(
        lines(&desired(), &current),
        ["remove /run/mariadb-wsrep-new-cluster, which a broken-off bootstrap left"]
    );
}

#[test]
fn recovery_stops_what_waits_in_vain_and_goes_on_from_the_position() {
    let mut current = member("Synced", 3);
    current.node = node(ServerState::Starting);
    current.way = Way::Found {
        from: Some(Position {
            uuid: uuid(),
            seqno: 8,
        }),
    };
    assert_eq!(
        lines(&desired(), &current),
        [
            "stop the server (it waits for a Primary Component in vain)".to_owned(),
            format!("found the Primary Component on db-01, at {A}:8")
        ]
    );
}
