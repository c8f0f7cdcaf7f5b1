//! Tables of what is planned: a prior state, a configuration, and the plan that follows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::cty::{Number, Refinement};
use crate::{Attr, Key, Set, Timeouts, attribute, bridge, path};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Disk {
    size_mib: Attr<u64>,
    #[schemars(extend("default" = "vdi"), transform = attribute::requires_replace)]
    format: Attr<String>,
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    uuid: Attr<String>,
    #[schemars(transform = attribute::computed)]
    used_mib: Attr<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Vm {
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    id: Attr<String>,
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    name: Attr<String>,
    #[schemars(extend("default" = 2048))]
    memory_mib: Attr<u64>,
    #[schemars(transform = attribute::computed)]
    address: Attr<String>,
    #[schemars(transform = attribute::optional_computed, transform = attribute::requires_replace)]
    mac: Attr<String>,
    #[schemars(transform = attribute::write_only)]
    password: Attr<String>,
    disks: Attr<BTreeMap<String, Disk>>,
    list: Attr<Vec<Disk>>,
    set: Attr<Set<Disk>>,
    #[schemars(extend("default" = {}))]
    root: Attr<Disk>,
    timeouts: Attr<Timeouts>,
}

fn schema() -> Schema {
    Schema::of::<Vm>(0).expect("a schema")
}

fn value(vm: &Vm) -> Value {
    bridge::to_value_of(vm, schema().kind()).expect("a value")
}

fn vm() -> Vm {
    Vm {
        name: "db".into(),
        ..Vm::default()
    }
}

/// Plans as Terraform would ask for it: `proposed` is the configuration, with prior values for computed attributes.
fn plan(prior: Option<&Vm>, config: &Vm, proposed: &Vm) -> Vm {
    let prior = prior.map_or(Value::Null, value);
    let planned = propose(&schema(), &prior, value(proposed), &value(config));
    bridge::from_value(&planned).expect("a model")
}

fn new_disk(size_mib: u64) -> Disk {
    Disk {
        size_mib: size_mib.into(),
        ..Disk::default()
    }
}

fn planned_disk(size_mib: Attr<u64>) -> Disk {
    Disk {
        size_mib,
        format: "vdi".into(),
        uuid: Attr::Unknown,
        used_mib: Attr::Unknown,
    }
}

fn old_disk(size_mib: Attr<u64>, uuid: &str) -> Disk {
    Disk {
        size_mib,
        format: "vdi".into(),
        uuid: uuid.into(),
        used_mib: 1.into(),
    }
}

/// What exists after a machine of the simplest configuration was created.
fn existing() -> Vm {
    Vm {
        id: "1".into(),
        name: "db".into(),
        memory_mib: 2048.into(),
        address: "10.0.0.1".into(),
        mac: "08".into(),
        root: old_disk(Attr::Null, "r").into(),
        ..Vm::default()
    }
}

#[test]
fn a_new_resource_gets_defaults_and_unknowns_at_every_depth() {
    let config = Vm {
        disks: BTreeMap::from([("data".to_owned(), new_disk(5))]).into(),
        list: vec![new_disk(6)].into(),
        set: Set(vec![new_disk(7), new_disk(8)]).into(),
        password: "secret".into(),
        ..vm()
    };
    let planned = plan(None, &config, &config);
    assert_eq!(
        planned,
        Vm {
            id: Attr::Unknown,
            memory_mib: 2048.into(),
            address: Attr::Unknown,
            mac: Attr::Unknown,
            disks: BTreeMap::from([("data".to_owned(), planned_disk(5.into()))]).into(),
            list: vec![planned_disk(6.into())].into(),
            set: Set(vec![planned_disk(8.into()), planned_disk(7.into())]).into(),
            root: planned_disk(Attr::Null).into(),
            ..vm()
        }
    );
}

#[test]
fn a_default_does_not_overwrite_an_unknown() {
    let config = Vm {
        memory_mib: Attr::Unknown,
        list: Attr::Unknown,
        ..vm()
    };
    let planned = plan(None, &config, &config);
    assert_eq!(planned.memory_mib, Attr::Unknown);
    assert_eq!(planned.list, Attr::Unknown);
}

#[test]
fn nothing_becomes_unknown_while_nothing_changes() {
    assert_eq!(plan(Some(&existing()), &vm(), &existing()), existing());
}

#[test]
fn a_change_makes_computed_attributes_unknown_but_stable_ones_stay() {
    let config = Vm {
        memory_mib: 4096.into(),
        ..vm()
    };
    let proposed = Vm {
        memory_mib: 4096.into(),
        ..existing()
    };
    let planned = plan(Some(&existing()), &config, &proposed);
    let expected = Vm {
        memory_mib: 4096.into(),
        address: Attr::Unknown,
        mac: Attr::Unknown,
        root: Disk {
            used_mib: Attr::Unknown,
            ..old_disk(Attr::Null, "r")
        }
        .into(),
        ..existing()
    };
    assert_eq!(planned, expected);
}

#[test]
fn a_nested_default_takes_the_place_of_what_was_configured_before() {
    let before = Vm {
        root: old_disk(5.into(), "r").into(),
        ..existing()
    };
    let planned = plan(Some(&before), &vm(), &before);
    let root = planned.root.known().expect("it has a default");
    assert_eq!((root.size_mib, root.uuid.clone()), (Attr::Null, "r".into()));
}

#[test]
fn new_limits_change_nothing_else() {
    let limits: Attr<Timeouts> = Timeouts {
        create: crate::timeouts::Span(std::time::Duration::from_secs(5)).into(),
        ..Timeouts::default()
    }
    .into();
    let config = Vm {
        timeouts: limits.clone(),
        ..vm()
    };
    let proposed = Vm {
        timeouts: limits,
        ..existing()
    };
    assert_eq!(plan(Some(&existing()), &config, &proposed), proposed);
    assert!(!differs(&schema(), &value(&existing()), &value(&proposed)));
}

#[test]
fn elements_keep_their_stable_values_in_lists_sets_and_maps() {
    let prior = Vm {
        set: Set(vec![old_disk(1.into(), "a"), old_disk(2.into(), "b")]).into(),
        list: vec![old_disk(1.into(), "c")].into(),
        disks: BTreeMap::from([("x".to_owned(), old_disk(1.into(), "d"))]).into(),
        ..existing()
    };
    let config = Vm {
        set: Set(vec![new_disk(2), new_disk(3), new_disk(1)]).into(),
        list: vec![new_disk(1), new_disk(9)].into(),
        disks: BTreeMap::from([("x".to_owned(), new_disk(5)), ("y".to_owned(), new_disk(6))])
            .into(),
        ..vm()
    };
    // Terraform carries computed values over to elements that are otherwise equal, and to the same index and key.
    let proposed = Vm {
        set: Set(vec![
            old_disk(1.into(), "a"),
            old_disk(2.into(), "b"),
            new_disk(3),
        ])
        .into(),
        list: vec![old_disk(1.into(), "c"), new_disk(9)].into(),
        disks: BTreeMap::from([
            ("x".to_owned(), old_disk(5.into(), "d")),
            ("y".to_owned(), new_disk(6)),
        ])
        .into(),
        ..prior.clone()
    };
    let planned = plan(Some(&prior), &config, &proposed);
    let kept = |size_mib: u64, uuid: &str| Disk {
        uuid: uuid.into(),
        ..planned_disk(size_mib.into())
    };
    assert_eq!(
        planned.set,
        Set(vec![kept(1, "a"), kept(2, "b"), planned_disk(3.into())]).into()
    );
    assert_eq!(
        planned.list,
        vec![kept(1, "c"), planned_disk(9.into())].into()
    );
    assert_eq!(
        planned.disks,
        BTreeMap::from([
            ("x".to_owned(), kept(5, "d")),
            ("y".to_owned(), planned_disk(6.into()))
        ])
        .into()
    );
}

#[test]
fn replacement_is_asked_for_where_an_attribute_that_needs_it_changes() {
    let with_disk = |disk: Disk| Vm {
        disks: BTreeMap::from([("x".to_owned(), disk)]).into(),
        ..existing()
    };
    let qcow = Disk {
        format: "qcow2".into(),
        ..old_disk(1.into(), "d")
    };
    let same = old_disk(1.into(), "d");
    let in_set = |disks: Vec<Disk>| Vm {
        set: Set(disks).into(),
        ..existing()
    };
    let cases = [
        (existing(), existing(), vec![]),
        (
            existing(),
            Vm {
                name: "web".into(),
                ..existing()
            },
            vec![path!["name"]],
        ),
        (
            existing(),
            Vm {
                name: Attr::Unknown,
                ..existing()
            },
            vec![path!["name"]],
        ),
        // Nobody configured it, so that it may change is no reason.
        (
            existing(),
            Vm {
                mac: Attr::Unknown,
                ..existing()
            },
            vec![],
        ),
        (
            existing(),
            Vm {
                mac: "09".into(),
                ..existing()
            },
            vec![path!["mac"]],
        ),
        (
            with_disk(same.clone()),
            with_disk(qcow.clone()),
            vec![path!["disks", Key("x"), "format"]],
        ),
        (existing(), with_disk(qcow.clone()), vec![]),
        (with_disk(same.clone()), existing(), vec![]),
        (
            Vm {
                list: vec![same.clone()].into(),
                ..existing()
            },
            Vm {
                list: vec![qcow.clone()].into(),
                ..existing()
            },
            vec![path!["list", 0usize, "format"]],
        ),
        (
            in_set(vec![same.clone()]),
            in_set(vec![qcow.clone()]),
            vec![path!["set"]],
        ),
        (
            in_set(vec![same.clone()]),
            in_set(vec![same.clone(), qcow]),
            vec![],
        ),
        (
            in_set(vec![same.clone()]),
            in_set(vec![Disk {
                size_mib: 9.into(),
                ..same
            }]),
            vec![],
        ),
    ];
    for (prior, planned, expected) in cases {
        let config = Vm {
            mac: if planned.mac.is_unknown() {
                Attr::Null
            } else {
                planned.mac.clone()
            },
            ..planned.clone()
        };
        let found = replacements(&schema(), &value(&prior), &value(&planned), &value(&config));
        assert_eq!(found, expected, "{planned:?}");
    }
}

#[test]
fn what_the_resource_did_not_touch_stays_as_it_was_sent() {
    let refined = Value::Unknown(Refinement(Some([0x80].as_slice().into())));
    let long = Value::Number(Number::Big("0.12345678901234567890123".into()));
    let object = |pairs: &[(&str, Value)]| {
        Value::Map(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
        )
    };
    let original = object(&[
        ("a", refined.clone()),
        ("b", long.clone()),
        ("c", Value::Null),
    ]);
    let short = Value::Number(Number::Float(0.123_456_789_012_345_68));
    let before = object(&[
        ("a", Value::UNKNOWN),
        ("b", short.clone()),
        ("c", Value::Null),
    ]);
    let after = object(&[
        ("a", Value::UNKNOWN),
        ("b", short),
        ("c", Value::Bool(true)),
    ]);
    let expected = object(&[("a", refined), ("b", long), ("c", Value::Bool(true))]);
    assert_eq!(merge(original, &before, after), expected);
}

#[test]
fn a_state_has_no_unknowns() {
    let mut state = value(&Vm {
        address: Attr::Unknown,
        ..existing()
    });
    assert_eq!(settle(&mut state), [path!["address"]]);
    assert!(!state.has_unknown());
}
