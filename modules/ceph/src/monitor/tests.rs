use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::io::{Told, fsid_of_map};
use super::*;
use crate::cluster::parse;

const FSID: &str = "11111111-2222-4333-8444-555555555555";
const KEY: &str = "AQBzzzzzAAAAABAAvzzzzzzzzzzzzzzzzzzzzA==";
const ADMIN: &str = "AQBzzzzzAAAAABAAvzzzzzzzzzzzzzzzzzzzzQ==";

fn params(change: serde_json::Value) -> Params {
    let mut all = json!({
        "name": "ceph-01",
        "fsid": FSID,
        "monitors": {"ceph-01": "192.168.10.81", "ceph-02": "192.168.10.82", "ceph-03": "192.168.10.83"},
        "monitor_key": KEY,
        "admin_key": ADMIN,
        "public_network": "192.168.10.0/24",
    });
    for (key, value) in change.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn desired(change: serde_json::Value) -> Desired {
    Desired::try_from(params(change)).unwrap()
}

/// A machine with nothing of Ceph's on it, whose neighbours have nothing either.
fn bare() -> Current {
    Current {
        conf: None,
        admin_key: None,
        unit: Unit::default(),
        store: None,
        in_quorum: false,
        osds_of: BTreeSet::new(),
        peers: [82, 83]
            .map(|last| (IpAddr::from([192, 168, 10, last]), Peer::Refuses))
            .into(),
        living: Living::NotAsked,
    }
}

fn settled(desired: &Desired) -> Current {
    Current {
        conf: desired.conf(),
        admin_key: Some(Secret::new(ADMIN)),
        unit: Unit {
            active: true,
            enabled: true,
        },
        store: Some(FSID.parse().unwrap()),
        in_quorum: true,
        peers: BTreeMap::new(),
        ..bare()
    }
}

fn quorum(names: &[&str], alive: &[&str]) -> Living {
    let address = |name: &str| {
        let last: u8 = name.trim_start_matches("ceph-0").parse().unwrap();
        IpAddr::from([192, 168, 10, 80 + last])
    };
    Living::Quorum {
        fsid: FSID.parse().unwrap(),
        members: names
            .iter()
            .map(|it| ((*it).to_owned(), address(it)))
            .collect(),
        quorum: alive.iter().map(|it| (*it).to_owned()).collect(),
    }
}

fn lines(desired: &Desired, current: &Current) -> Vec<String> {
    assert_eq!(refusal(desired, current), None);
    plan(desired, current)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn parameters_that_make_no_cluster_are_refused_by_name() {
    for (change, wanted) in [
        (json!({"fsid": "ceph"}), "fsid: \"ceph\" is not a UUID"),
        (
            json!({"monitors": {"ceph-01": "192.168.10.81", "ceph-02": "192.168.10.82"}}),
            "monitors: 2 is an even number",
        ),
        (json!({"monitors": {}}), "monitors: 0 is an even number"),
        (
            json!({"monitors": {"ceph-01": "192.168.10.81", "ceph-02": "192.168.10.82", "ceph-03": "192.168.10.81"}}),
            "monitors.ceph-03: 192.168.10.81 is used twice",
        ),
        (
            json!({"name": "ceph-09"}),
            "monitors: does not hold \"ceph-09\", this monitor",
        ),
        (json!({"name": "../x"}), "name: \"../x\" is not a name"),
        (
            json!({"admin_key": "secret"}),
            "admin_key: is not a key of Ceph's",
        ),
        (json!({"monitor_key": null}), "monitor_key: is required"),
        (
            json!({"public_network": "lan"}),
            "public_network: \"lan\" is not a network",
        ),
        (
            json!({"state": "absent"}),
            "monitors: holds those that remain",
        ),
    ] {
        let error = Desired::try_from(params(change)).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_new_cluster_is_founded_by_all_monitors_together() {
    let desired = desired(json!({"bootstrap": true}));
    let all = [
        "write /etc/ceph/ceph.conf",
        "write /etc/ceph/ceph.client.admin.keyring",
        "make the monitor's store for a new cluster of ceph-01, ceph-02, ceph-03",
        "enable the monitor's service",
        "start the monitor",
        "wait until the monitor is in the quorum",
    ];
    assert_eq!(lines(&desired, &bare()), all);
    // Another founder was faster: it listens and has no quorum yet.
    let mut second = bare();
    second
        .peers
        .insert([192, 168, 10, 82].into(), Peer::Answers);
    second.living = Living::NoQuorum("timed out".to_owned());
    assert_eq!(lines(&desired, &second), all);
    // Two are enough: the third joins what it was meant to found.
    second.living = quorum(&["ceph-01", "ceph-02", "ceph-03"], &["ceph-02", "ceph-03"]);
    assert_eq!(
        lines(&desired, &second)[2],
        "make the monitor's store to join ceph-02, ceph-03"
    );
}

#[test]
fn what_is_there_is_left_alone_and_drift_is_mended() {
    let desired = desired(json!({}));
    let with = |change: fn(&mut Current)| {
        let mut current = settled(&desired);
        change(&mut current);
        lines(&desired, &current)
    };
    assert_eq!(with(|_| {}), [""; 0]);
    assert_eq!(
        with(|it| it.conf = Some(format!("[global]\nfsid = {FSID}\n"))),
        ["change /etc/ceph/ceph.conf"]
    );
    assert_eq!(
        with(|it| {
            it.unit.active = false;
            it.in_quorum = false;
        }),
        [
            "start the monitor",
            "wait until the monitor is in the quorum"
        ]
    );
    assert_eq!(
        with(|it| it.admin_key = None),
        ["write /etc/ceph/ceph.client.admin.keyring"]
    );
}

#[test]
fn a_lost_store_is_made_anew_from_those_that_live() {
    let desired = desired(json!({}));
    let mut current = settled(&desired);
    (current.store, current.in_quorum) = (None, false);
    current.unit.active = false;
    current
        .peers
        .insert([192, 168, 10, 82].into(), Peer::Answers);
    current.osds_of.insert(FSID.parse().unwrap());
    current.living = quorum(&["ceph-01", "ceph-02", "ceph-03"], &["ceph-02", "ceph-03"]);
    assert_eq!(
        lines(&desired, &current),
        [
            "make the monitor's store to join ceph-02, ceph-03",
            "start the monitor",
            "wait until the monitor is in the quorum"
        ]
    );
}

#[test]
fn nothing_is_founded_over_a_cluster_that_lives_or_may_live() {
    type Case = (serde_json::Value, fn(&mut Current), &'static str);
    let cases: [Case; 12] = [
        (
            json!({"bootstrap": true}),
            |it| it.store = Some(Uuid::from_u128(9)),
            "the store of monitor ceph-01 belongs to the cluster 00000000",
        ),
        (
            json!({"bootstrap": true}),
            |it| it.conf = Some("[global]\nfsid = 00000000-0000-0000-0000-000000000009\n".into()),
            "/etc/ceph/ceph.conf is of the cluster 00000000",
        ),
        (
            json!({}),
            |_| {},
            "no monitor of the cluster answers; if there is none yet",
        ),
        (
            json!({}),
            |it| it.living = Living::NoQuorum("timed out".into()),
            "the monitors have no quorum: timed out",
        ),
        (
            json!({"bootstrap": true}),
            |it| {
                it.peers
                    .insert([192, 168, 10, 83].into(), Peer::Silent("no route".into()));
            },
            "it is unknown whether a monitor lives at 192.168.10.83",
        ),
        (
            json!({"bootstrap": true}),
            |it| {
                it.osds_of.insert(FSID.parse().unwrap());
            },
            "this machine holds OSDs of the cluster 11111111",
        ),
        (
            json!({"bootstrap": true}),
            |it| {
                it.peers.insert([192, 168, 10, 82].into(), Peer::Answers);
                it.living = Living::Denied("permission denied".into());
            },
            "a cluster lives at 192.168.10.82 and does not accept admin_key",
        ),
        (
            json!({"bootstrap": true}),
            |it| {
                it.peers.insert([192, 168, 10, 82].into(), Peer::Answers);
                it.living = Living::Quorum {
                    fsid: Uuid::from_u128(9),
                    members: BTreeMap::new(),
                    quorum: BTreeSet::new(),
                };
            },
            "the monitors at 192.168.10.82 are those of the cluster 00000000",
        ),
        (
            json!({"bootstrap": true, "monitors": {"ceph-01": "192.168.10.81"}}),
            |it| {
                it.living = quorum(
                    &["ceph-01", "ceph-02", "ceph-03"],
                    &["ceph-01", "ceph-02", "ceph-03"],
                )
            },
            "the cluster 11111111-2222-4333-8444-555555555555 lives with the monitors ceph-01, ceph-02, ceph-03",
        ),
        (
            json!({}),
            |it| it.living = quorum(&["ceph-02", "ceph-03", "ceph-04"], &["ceph-02", "ceph-03"]),
            "the map would hold an even number of monitors (ceph-01, ceph-02, ceph-03, ceph-04)",
        ),
        (
            json!({"monitors": {"ceph-01": "192.168.10.91", "ceph-02": "192.168.10.82", "ceph-03": "192.168.10.83"}}),
            |it| it.living = quorum(&["ceph-01", "ceph-02", "ceph-03"], &["ceph-02", "ceph-03"]),
            "the cluster knows the monitor ceph-01 at 192.168.10.81",
        ),
        (
            json!({}),
            |it| {
                it.store = Some(FSID.parse().unwrap());
                it.admin_key = Some(Secret::new("another"));
            },
            "admin_key is not the key in /etc/ceph/ceph.client.admin.keyring",
        ),
    ];
    for (change, current_change, wanted) in cases {
        let mut current = bare();
        current_change(&mut current);
        let reason = refusal(&desired(change), &current).expect(wanted);
        assert!(reason.starts_with(wanted), "{reason}");
    }
}

#[test]
fn a_cluster_grows_from_three_to_five_through_four() {
    let desired = desired(json!({
        "name": "ceph-05",
        "monitors": {
            "ceph-01": "192.168.10.81", "ceph-02": "192.168.10.82", "ceph-03": "192.168.10.83",
            "ceph-04": "192.168.10.84", "ceph-05": "192.168.10.85",
        },
    }));
    let mut current = bare();
    current.living = quorum(
        &["ceph-01", "ceph-02", "ceph-03"],
        &["ceph-01", "ceph-02", "ceph-03"],
    );
    assert_eq!(
        lines(&desired, &current)[2],
        "make the monitor's store to join ceph-01, ceph-02, ceph-03"
    );
}

#[test]
fn a_monitor_goes_only_if_the_others_keep_the_quorum() {
    let desired = desired(json!({
        "name": "ceph-03", "state": "absent", "monitors": {"ceph-01": "192.168.10.81"}
    }));
    let mut current = settled(&desired);
    let all = ["ceph-01", "ceph-02", "ceph-03"];
    for (members, alive, reason) in [
        (&all[..], &all[..], None),
        (&all, &["ceph-01", "ceph-02"], None),
        (
            &all,
            &["ceph-01", "ceph-03"],
            Some(
                "without ceph-03 1 of 2 monitors would be left in the quorum, which is no majority",
            ),
        ),
        (
            &["ceph-03"],
            &["ceph-03"],
            Some("ceph-01 should remain and is not in the map"),
        ),
        (&["ceph-01", "ceph-02"], &["ceph-01", "ceph-02"], None),
    ] {
        current.living = quorum(members, alive);
        assert_eq!(refusal(&desired, &current).as_deref(), reason);
    }
    current.living = quorum(&all, &all);
    assert_eq!(
        lines(&desired, &current),
        [
            "remove the monitor from the map, which leaves 2",
            "stop and disable the monitor's service",
            "remove the monitor's store"
        ]
    );
    current.living = Living::NoQuorum("cannot reach the monitors".to_owned());
    assert!(refusal(&desired, &current).is_some());
    let gone = Current {
        living: quorum(&all[..2], &all[..2]),
        ..bare()
    };
    assert_eq!(lines(&desired, &gone), [""; 0]);
}

#[test]
fn no_line_holds_a_key() {
    let desired = desired(json!({"bootstrap": true}));
    let steps = plan(&desired, &bare());
    let text = format!("{:?} {:?}", steps, lines(&desired, &bare()));
    assert!(!text.contains(KEY) && !text.contains(ADMIN), "{text}");
}

#[test]
fn a_quorum_of_real_monitors_is_read() {
    let told: Told = parse(include_str!("../../fixtures/pacific/quorum_status.json")).unwrap();
    assert_eq!(
        Living::from(told),
        quorum(
            &["ceph-01", "ceph-02", "ceph-03"],
            &["ceph-01", "ceph-02", "ceph-03"]
        )
    );
    assert_eq!(
        fsid_of_map(
            "monmaptool: monmap file /tmp/monmap\nepoch 0\nfsid 11111111-2222-4333-8444-555555555555\n"
        ),
        FSID.parse().ok()
    );
}
