use serde_json::json;

use super::io::{SafeToDestroy, Shown, kind};
use super::plan::drop_in;
use super::*;
use crate::cluster::parse;
use crate::map::tests::{osd_map, rules, tree};

fn try_desired(json: serde_json::Value) -> Result<Desired, Invalid> {
    Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
}

fn desired(json: serde_json::Value) -> Desired {
    try_desired(json).unwrap()
}

fn device() -> Desired {
    desired(json!({"device": "/dev/disk/by-id/a"}))
}

/// The uuid of osd.0 in the captured map, and another.
const KNOWN: &str = "db4a27f1-a237-4169-81d4-4d4e11274315";
const OTHER: &str = "99999999-a237-4169-81d4-4d4e11274315";

fn osd(uuid: &str, id: u32) -> Label {
    Label::Osd {
        uuid: uuid.parse().unwrap(),
        whole: Some(Whole {
            id,
            cluster: osd_map().fsid,
        }),
    }
}

fn bare() -> Current {
    Current {
        label: Label::Empty,
        former: Vec::new(),
        begun: None,
        spare: Uuid::from_u128(1),
        local: Local::default(),
        map: osd_map(),
        tree: tree(),
        memory_target: None,
        removal: None,
    }
}

fn settled() -> Current {
    Current {
        label: osd(KNOWN, 0),
        local: Local {
            folder: true,
            unit: Unit {
                active: true,
                enabled: true,
            },
            drop_in: drop_in(&Place::Device("/dev/disk/by-id/a".into())),
        },
        ..bare()
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
fn parameters_that_name_no_osd_are_refused() {
    for (json, wanted) in [
        (json!({}), "device: an OSD needs"),
        (
            json!({"device": "/dev/a", "file": "/b"}),
            "file: an OSD is on a device or on a file",
        ),
        (
            json!({"device": "sda"}),
            "device: \"sda\" is not an absolute path",
        ),
        (
            json!({"device": "/dev/a", "id": 1}),
            "id: the cluster numbers OSDs itself",
        ),
        (json!({"state": "absent"}), "id: say which OSD goes"),
        (
            json!({"device": "/dev/a", "device_class": "a b"}),
            "device_class: ",
        ),
    ] {
        let error = try_desired(json).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn an_empty_device_becomes_an_osd() {
    assert_eq!(
        lines(
            &desired(
                json!({"device": "/dev/disk/by-id/a", "device_class": "ssd", "memory_target_mib": 1024})
            ),
            &bare()
        ),
        [
            "create an OSD on /dev/disk/by-id/a",
            "give the OSD its device at every start",
            "enable the OSD's service",
            "start the OSD",
            "wait until the OSD is up",
            "set the device class ssd",
            "set the memory target to 1024 MiB",
        ]
    );
}

#[test]
fn a_file_is_made_once() {
    let desired = desired(json!({"file": "/var/a.img", "file_size_mib": 4096}));
    let mut current = bare();
    current.label = Label::Nowhere;
    assert_eq!(
        lines(&desired, &current)[..2],
        [
            "create the file /var/a.img of 4096 MiB",
            "create an OSD on /var/a.img"
        ]
    );
    let mut current = settled();
    current.local.drop_in = None;
    assert_eq!(lines(&desired, &current), [""; 0]);
}

#[test]
fn what_runs_is_left_alone_and_drift_is_mended() {
    let with = |change: fn(&mut Current)| {
        let mut current = settled();
        change(&mut current);
        lines(&device(), &current)
    };
    assert_eq!(with(|_| {}), [""; 0]);
    assert_eq!(with(|it| it.local.unit.active = false), ["start the OSD"]);
    assert_eq!(
        with(|it| it.local = Local::default())[0],
        "take osd.0 on /dev/disk/by-id/a into service again"
    );
    assert_eq!(
        with(|it| it.local.drop_in = Some(String::new())),
        ["give the OSD its device at every start"]
    );
    let tuned = desired(
        json!({"device": "/dev/disk/by-id/a", "device_class": "ssd", "memory_target_mib": 1024}),
    );
    let mut current = settled();
    current.memory_target = Some(2 << 30);
    assert_eq!(
        lines(&tuned, &current),
        [
            "set the device class ssd (is hdd)",
            "set the memory target to 1024 MiB (is 2048 MiB)"
        ]
    );
}

#[test]
fn an_osd_that_was_begun_is_finished_with_the_same_uuid() {
    let begun: Uuid = OTHER.parse().unwrap();
    for label in [
        Label::Empty,
        Label::Osd {
            uuid: begun,
            whole: None,
        },
        osd(OTHER, 3),
    ] {
        let current = Current {
            label,
            begun: Some(begun),
            ..bare()
        };
        assert_eq!(refusal(&device(), &current), None);
        assert_eq!(
            plan(&device(), &current)[0],
            Step::Create {
                path: "/dev/disk/by-id/a".into(),
                uuid: begun,
                begun: true
            }
        );
    }
}

#[test]
fn a_device_with_anything_else_on_it_is_refused() {
    let cases: [(Label, &str); 5] = [
        (Label::Nowhere, "there is no /dev/disk/by-id/a"),
        (
            Label::Other("ext4".into()),
            "/dev/disk/by-id/a is not empty: it holds ext4",
        ),
        (
            Label::Osd {
                uuid: OTHER.parse().unwrap(),
                whole: None,
            },
            "/dev/disk/by-id/a holds an OSD (99999999-a237-4169-81d4-4d4e11274315) that is not whole",
        ),
        (
            Label::Osd {
                uuid: KNOWN.parse().unwrap(),
                whole: Some(Whole {
                    id: 0,
                    cluster: Uuid::from_u128(9),
                }),
            },
            "/dev/disk/by-id/a holds osd.0 of the cluster 00000000",
        ),
        (
            osd(OTHER, 0),
            "/dev/disk/by-id/a holds osd.0 (99999999-a237-4169-81d4-4d4e11274315), which the cluster has purged",
        ),
    ];
    for (label, wanted) in cases {
        let current = Current { label, ..bare() };
        let reason = refusal(&device(), &current).expect(wanted);
        assert!(reason.starts_with(wanted), "{reason}");
    }
}

/// osd.0, whose directory still names the device.
fn replaced(uuid: &str, unit: Unit) -> Vec<Former> {
    vec![Former {
        id: 0,
        uuid: uuid.parse().unwrap(),
        unit,
    }]
}

#[test]
fn an_empty_device_in_the_place_of_an_osd_replaces_it() {
    let enabled = Unit {
        active: false,
        enabled: true,
    };
    let mut current = Current {
        former: replaced(KNOWN, enabled),
        ..bare()
    };
    assert_eq!(
        lines(&device(), &current),
        [
            "mark osd.0 out, so that its data moves away",
            "retire the service of osd.0, whose device is gone",
            "create an OSD on /dev/disk/by-id/a",
            "give the OSD its device at every start",
            "enable the OSD's service",
            "start the OSD",
            "wait until the OSD is up",
        ]
    );
    // A run that was killed after the first step, after the second one, and in the middle of the new OSD.
    current.map = out(current.map);
    assert_eq!(
        lines(&device(), &current)[..2],
        [
            "retire the service of osd.0, whose device is gone",
            "create an OSD on /dev/disk/by-id/a"
        ]
    );
    current.former = replaced(KNOWN, Unit::default());
    assert_eq!(
        lines(&device(), &current)[0],
        "create an OSD on /dev/disk/by-id/a"
    );
    current.begun = OTHER.parse().ok();
    assert_eq!(
        lines(&device(), &current)[0],
        "finish the OSD that was begun on /dev/disk/by-id/a"
    );
    // The new one is there: what the former one is now is not this task's business.
    let mut whole = settled();
    whole.former = replaced(OTHER, Unit::default());
    assert_eq!(lines(&device(), &whole), [""; 0]);
    // The cluster has purged it, and the new one may get its number.
    current.begun = None;
    current.former = replaced(OTHER, enabled);
    assert_eq!(
        lines(&device(), &current)[..3],
        [
            "retire the service of osd.0, whose device is gone",
            "remove what osd.0 has on this machine",
            "create an OSD on /dev/disk/by-id/a"
        ]
    );
}

/// The map with all of its OSDs marked out.
fn out(map: crate::map::OsdMap) -> crate::map::OsdMap {
    let osds = map
        .osds
        .iter()
        .map(|osd| json!({"osd": osd.osd, "uuid": osd.uuid, "up": u8::from(osd.is_up()), "in": 0}));
    let osds = serde_json::from_value(osds.collect()).unwrap();
    crate::map::OsdMap { osds, ..map }
}

#[test]
fn a_running_osd_that_lost_its_label_is_not_replaced() {
    for active in [true, false] {
        let current = Current {
            former: replaced(
                KNOWN,
                Unit {
                    active,
                    enabled: true,
                },
            ),
            ..bare()
        };
        let wanted = active.then_some(
            "osd.0 runs on /dev/disk/by-id/a, which no longer holds its label; stop it first if its device was replaced",
        );
        assert_eq!(refusal(&device(), &current).as_deref(), wanted);
    }
}

#[test]
fn the_former_osd_of_a_replaced_device_goes_when_the_copies_are_whole() {
    let absent = desired(json!({"id": 0, "state": "absent"}));
    let mut current = Current {
        label: Label::Nowhere,
        local: Local {
            folder: true,
            ..Local::default()
        },
        removal: removal(Verdict::Yes, Verdict::Unknown),
        ..bare()
    };
    assert_eq!(
        refusal(&absent, &current).as_deref(),
        Some("the cluster cannot tell yet whether osd.0 is safe to destroy")
    );
    current.removal = removal(Verdict::Yes, Verdict::Yes);
    assert_eq!(
        lines(&absent, &current),
        [
            "purge osd.0 from the cluster",
            "remove what osd.0 has on this machine"
        ]
    );
}

fn removal(stop: Verdict, destroy: Verdict) -> Option<Removal> {
    Some(Removal {
        rules: rules(),
        stop,
        destroy,
    })
}

#[test]
fn an_osd_goes_only_if_nothing_is_lost() {
    let absent = desired(json!({"device": "/dev/disk/by-id/a", "state": "absent", "zap": true}));
    let no = |why: &str| Verdict::No(why.to_owned());
    for (removal, wanted) in [
        (
            removal(Verdict::Yes, Verdict::Unknown),
            Some("the cluster cannot tell yet whether osd.0 is safe to destroy"),
        ),
        (
            removal(no("3 placement groups would stop"), Verdict::Yes),
            Some("osd.0 cannot be stopped: 3 placement groups would stop"),
        ),
        (
            removal(Verdict::Unknown, Verdict::Yes),
            Some("the cluster cannot tell yet whether osd.0 can be stopped"),
        ),
        // Three hosts, and pools of three: the data has nowhere to go.
        (
            removal(Verdict::Yes, no("placement groups are on it")),
            Some(
                "osd.0 is not safe to destroy: the pool device_health_metrics keeps 3 copies or shards, each on another host, \
                 and without it 2 would be left",
            ),
        ),
        (removal(Verdict::Yes, Verdict::Yes), None),
    ] {
        let current = Current {
            removal,
            ..settled()
        };
        assert_eq!(refusal(&absent, &current).as_deref(), wanted);
    }
}

/// As `ceph osd dump` tells it of one that is full.
fn fill(osd: &mut Osd) {
    let state = json!(["exists", "full", "up"]);
    *osd = serde_json::from_value(
        json!({"osd": osd.osd, "uuid": osd.uuid, "up": 1, "in": 1, "state": state}),
    )
    .unwrap();
}

#[test]
fn an_osd_stays_where_the_others_are_full() {
    let absent = desired(json!({"id": 0, "state": "absent"}));
    let mut current = Current {
        removal: removal(
            Verdict::Yes,
            Verdict::No("placement groups are on it".into()),
        ),
        ..settled()
    };
    current.map.pools.iter_mut().for_each(|pool| pool.size = 2);
    // Its own room is no concern: that goes with it.
    fill(&mut current.map.osds[0]);
    assert_eq!(refusal(&absent, &current), None);
    fill(&mut current.map.osds[2]);
    assert_eq!(
        refusal(&absent, &current).as_deref(),
        Some(
            "osd.0 is not safe to destroy: the pool device_health_metrics keeps 2 copies or shards, each on another host, \
             and without it 1 would be left, as osd.2 can take nothing: too full"
        )
    );
}

#[test]
fn an_osd_drains_before_it_goes() {
    let absent = desired(json!({"device": "/dev/disk/by-id/a", "state": "absent", "zap": true}));
    let mut current = Current {
        removal: removal(
            Verdict::Yes,
            Verdict::No("placement groups are on it".into()),
        ),
        ..settled()
    };
    current.map.pools.iter_mut().for_each(|pool| pool.size = 2);
    let gone = [
        "stop osd.0",
        "purge osd.0 from the cluster",
        "remove what osd.0 has on this machine",
        "make /dev/disk/by-id/a empty",
    ];
    let lines_of = lines(&absent, &current);
    assert_eq!(
        lines_of[..2],
        [
            "mark osd.0 out, so that its data moves away",
            "wait until osd.0 is safe to destroy"
        ]
    );
    assert_eq!(lines_of[2..], gone);
    current.removal = removal(Verdict::Yes, Verdict::Yes);
    assert_eq!(lines(&absent, &current), gone);
    // As a run that was killed after the purge finds it.
    current.map.osds.retain(|osd| osd.osd != 0);
    current.removal = None;
    current.local.unit = Unit::default();
    assert_eq!(lines(&absent, &current), gone[2..]);
    current.local = Local::default();
    current.label = Label::Empty;
    assert_eq!(lines(&absent, &current), [""; 0]);
}

#[test]
fn an_osd_that_was_only_begun_goes_without_waiting() {
    let absent = desired(json!({"device": "/dev/disk/by-id/a", "state": "absent", "zap": true}));
    for (uuid, label, wanted) in [
        (
            KNOWN,
            osd(KNOWN, 0),
            vec![
                "purge osd.0 from the cluster",
                "remove what was begun of the OSD",
                "make /dev/disk/by-id/a empty",
            ],
        ),
        (
            OTHER,
            Label::Empty,
            vec!["remove what was begun of the OSD"],
        ),
    ] {
        let current = Current {
            label,
            begun: uuid.parse().ok(),
            ..bare()
        };
        assert_eq!(lines(&absent, &current), wanted);
    }
}

#[test]
fn the_number_of_a_purged_osd_may_have_gone_to_another() {
    let absent = desired(json!({"device": "/dev/disk/by-id/a", "state": "absent"}));
    // The device says osd.0 by a uuid that the cluster no longer knows; osd.0 is now someone else.
    let current = Current {
        label: osd(OTHER, 0),
        removal: removal(Verdict::Yes, Verdict::Yes),
        ..bare()
    };
    assert_eq!(lines(&absent, &current), [""; 0]);
}

#[test]
fn an_osd_without_a_device_is_removed_by_its_number() {
    let absent = |id: u32| desired(json!({"id": id, "state": "absent"}));
    let mut current = Current {
        label: Label::Nowhere,
        removal: removal(Verdict::Yes, Verdict::Yes),
        ..bare()
    };
    assert_eq!(
        lines(&absent(1), &current),
        ["purge osd.1 from the cluster"]
    );
    current.removal = None;
    assert_eq!(lines(&absent(7), &current), [""; 0]);
    let wrong = desired(json!({"id": 7, "device": "/dev/disk/by-id/a", "state": "absent"}));
    assert_eq!(
        refusal(&wrong, &settled()).as_deref(),
        Some("/dev/disk/by-id/a holds osd.0, not osd.7")
    );
}

#[test]
fn what_real_tools_print_is_read() {
    let told: SafeToDestroy =
        parse(include_str!("../../fixtures/pacific/safe_to_destroy.json")).unwrap();
    assert_eq!(
        told.verdict(0),
        Verdict::No("placement groups are on it".into())
    );
    assert_eq!(told.verdict(7), Verdict::Unknown);
    let shown: Shown = parse(include_str!("../../fixtures/pacific/label.json")).unwrap();
    assert_eq!(
        Label::from(shown),
        Label::Osd {
            uuid: "13902817-1e0e-4d26-a982-c3c789cbc636".parse().unwrap(),
            whole: Some(Whole {
                id: 2,
                cluster: osd_map().fsid
            })
        }
    );
    assert_eq!(kind("DEVNAME=/dev/loop0\nUUID=x\nTYPE=ext4\n"), "ext4");
    assert_eq!(
        kind("DEVNAME=/dev/loop0\nPTTYPE=gpt\n"),
        "a partition table (gpt)"
    );
}
