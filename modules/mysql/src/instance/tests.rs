//! Cases of a server's parameters.

use std::fs;

use super::io::{UNFINISHED, refuse_foreign};
use super::*;

fn desired(json: serde_json::Value) -> Desired {
    let params: Params = serde_json::from_value(json).expect("params");
    Desired::try_from(params).expect("valid")
}

fn lines(json: serde_json::Value, current: &Current) -> Vec<String> {
    let steps = MysqlInstance::plan(&desired(json), current);
    steps.iter().map(ToString::to_string).collect()
}

fn variable(value: &str, dynamic: bool, from_file: bool) -> Setting {
    Setting::Variable {
        value: value.to_owned(),
        dynamic,
        from_file,
        persisted: false,
    }
}

fn running(file: &[(&str, &str)], settings: &[(&str, Setting)]) -> Current {
    let parameters: Parameters = file
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Current {
        data: "/var/lib/mysql".into(),
        initialised: true,
        running: true,
        at_boot: true,
        file: if file.is_empty() {
            String::new()
        } else {
            rendered(&parameters)
        },
        settings: settings
            .iter()
            .map(|(name, setting)| ((*name).to_owned(), setting.clone()))
            .collect(),
        others: Parameters::new(),
    }
}

#[test]
fn plans() {
    let none = Current {
        data: "/var/lib/mysql".into(),
        at_boot: true,
        ..Current::default()
    };
    assert_eq!(
        lines(serde_json::json!({"parameters": {"server-id": "7"}}), &none),
        [
            "initialise the data in /var/lib/mysql, root by auth_socket",
            "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: server_id",
            "start the server",
        ]
    );
    let wanted = serde_json::json!({"parameters": {"max_connections": "200", "port": "3307", "plugin_load_add": "mysql_clone.so"}});
    let before = running(
        &[],
        &[
            ("max_connections", variable("151", true, false)),
            ("plugin_load_add", Setting::Option { in_force: false }),
            ("port", variable("3306", false, false)),
        ],
    );
    let live = [
        "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: max_connections, plugin_load_add, port",
        "set max_connections = 200",
    ];
    assert_eq!(lines(wanted.clone(), &before), live);
    let mut allowed = wanted.clone();
    allowed["restart"] = "allowed".into();
    assert_eq!(
        lines(allowed.clone(), &before),
        [
            live[0],
            live[1],
            "restart the server for plugin_load_add, port"
        ]
    );
    let file = [
        ("max_connections", "200"),
        ("plugin_load_add", "mysql_clone.so"),
        ("port", "3307"),
    ];
    let after = running(
        &file,
        &[
            ("max_connections", variable("200", true, false)),
            ("plugin_load_add", Setting::Option { in_force: true }),
            ("port", variable("3307", false, true)),
        ],
    );
    assert_eq!(lines(allowed.clone(), &after), [""; 0]);
    // Somebody set it by hand.
    let mut drifted = after.clone();
    drifted
        .settings
        .insert("max_connections".to_owned(), variable("10", true, false));
    assert_eq!(
        lines(allowed.clone(), &drifted),
        ["set max_connections = 200"]
    );
    // What the server rounded when it read our file is right.
    let mut rounded = after.clone();
    rounded
        .settings
        .insert("max_connections".to_owned(), variable("208", true, true));
    assert_eq!(lines(allowed, &rounded), [""; 0]);
    // What is no longer wanted gets its default, or what another file says.
    let mut less = after;
    less.others
        .insert("max_connections".to_owned(), "99".to_owned());
    assert_eq!(
        lines(
            serde_json::json!({"parameters": {"port": "3307"}, "restart": "allowed"}),
            &less
        ),
        [
            "write /etc/mysql/mysql.conf.d/zz-ondol.cnf: max_connections, plugin_load_add",
            "set max_connections = 99",
            "restart the server for plugin_load_add"
        ]
    );
    assert_eq!(lines(serde_json::json!({}), &less), [""; 0]);
}

#[test]
fn a_stopped_server_is_started_and_stays_for_the_next_boot() {
    let stopped = Current {
        initialised: true,
        data: "/var/lib/mysql".into(),
        ..Current::default()
    };
    assert_eq!(
        lines(serde_json::json!({}), &stopped),
        ["start the server at boot", "start the server"]
    );
}

#[test]
fn what_persists_over_the_file_is_undone() {
    let mut current = running(
        &[("max_connections", "200")],
        &[("max_connections", variable("10", true, false))],
    );
    current.settings.insert(
        "max_connections".to_owned(),
        Setting::Variable {
            value: "10".to_owned(),
            dynamic: true,
            from_file: false,
            persisted: true,
        },
    );
    assert_eq!(
        lines(
            serde_json::json!({"parameters": {"max_connections": "200"}}),
            &current
        ),
        [
            "undo SET PERSIST max_connections, which wins over the file",
            "set max_connections = 200"
        ]
    );
}

#[test]
fn data_that_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    refuse_foreign(folder.path()).expect("empty");
    refuse_foreign(&folder.path().join("none")).expect("not there");
    fs::create_dir(folder.path().join("lost+found")).expect("made");
    refuse_foreign(folder.path()).expect("a file system's own");
    fs::write(folder.path().join("ibdata1"), "").expect("written");
    let error = refuse_foreign(folder.path()).expect_err("foreign");
    assert!(error.to_string().contains("ibdata1"), "{error}");
    fs::create_dir(folder.path().join(UNFINISHED)).expect("made");
    refuse_foreign(folder.path()).expect("ours, broken off");
}
