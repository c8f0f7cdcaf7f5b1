//! Decisions: what an update of a VM means, and what a creation does with a name that is taken. Pure.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::spec::VmSpec;

/// When a change can take effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Impact {
    /// At once, even while the VM runs.
    Live,
    /// At the VM's next start.
    NeedsRestart,
    /// Only another VM can have it.
    NeedsReplacement,
    /// It would lose data; say so and do nothing.
    Refused { reason: String },
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Path in [`VmSpec`], for example `disks.data.size_mib`.
    pub field: String,
    pub from: String,
    pub to: String,
    pub impact: Impact,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.field, self.from, self.to)
    }
}

const ABSENT: &str = "(none)";

/// What it takes to turn `current` into `desired`. Empty if they are equal.
pub fn plan_update(current: &VmSpec, desired: &VmSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut compare = |field: &str, from: String, to: String, impact: Impact| {
        if from != to {
            changes.push(Change {
                field: field.to_owned(),
                from,
                to,
                impact,
            });
        }
    };
    compare(
        "name",
        current.name.clone(),
        desired.name.clone(),
        Impact::NeedsReplacement,
    );
    // The host only groups VMs here: nothing of the VM itself depends on it.
    compare(
        "host",
        current.host.clone(),
        desired.host.clone(),
        Impact::Live,
    );
    compare(
        "image",
        show(&current.image),
        show(&desired.image),
        Impact::NeedsReplacement,
    );
    compare(
        "cpus",
        current.cpus.to_string(),
        desired.cpus.to_string(),
        Impact::Live,
    );
    compare(
        "memory_mib",
        current.memory_mib.to_string(),
        desired.memory_mib.to_string(),
        Impact::Live,
    );
    compare(
        "interfaces",
        show(&current.effective_interfaces()),
        show(&desired.effective_interfaces()),
        Impact::NeedsRestart,
    );
    compare(
        "shared_folders",
        show(&current.shared_folders),
        show(&desired.shared_folders),
        Impact::NeedsRestart,
    );
    compare(
        "features",
        show(&current.features),
        show(&desired.features),
        Impact::NeedsRestart,
    );
    compare(
        "seed",
        show(&current.seed),
        show(&desired.seed),
        Impact::NeedsReplacement,
    );
    changes.extend(plan_disks(current, desired));
    changes
}

fn plan_disks(current: &VmSpec, desired: &VmSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, disk) in &desired.disks {
        let to = disk.size_mib;
        match current.disks.get(key).map(|disk| disk.size_mib) {
            None => changes.push(Change {
                field: format!("disks.{key}"),
                from: ABSENT.to_owned(),
                to: format!("{to} MiB"),
                impact: Impact::Live,
            }),
            Some(from) if from != to => changes.push(Change {
                field: format!("disks.{key}.size_mib"),
                from: from.to_string(),
                to: to.to_string(),
                impact: if to > from {
                    Impact::Live
                } else {
                    Impact::Refused {
                        reason: "a disk can only grow: shrinking would cut off data".to_owned(),
                    }
                },
            }),
            Some(_) => {}
        }
    }
    for (key, disk) in &current.disks {
        if !desired.disks.contains_key(key) {
            changes.push(Change {
                field: format!("disks.{key}"),
                from: format!("{} MiB", disk.size_mib),
                to: ABSENT.to_owned(),
                // A running guest may hold it open, and nothing could tell the guest that it went.
                impact: Impact::NeedsRestart,
            });
        }
    }
    changes
}

fn show(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a spec has only string keys")
}

/// How far a creation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Creating,
    Ready,
}

/// What is already there under the name of a VM to create.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Existing<'a> {
    pub id: Uuid,
    pub phase: Phase,
    pub acknowledged: bool,
    pub spec: &'a VmSpec,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    /// The name is free.
    Build,
    /// A creation was cut short: what it left cannot be trusted.
    WipeAndBuild,
    /// Made by an apply that was interrupted before its state was written: it is ours and it is what is wanted.
    Adopt(Uuid),
    /// Someone's, or not what is wanted.
    Refuse { id: Uuid, host: String },
}

pub(crate) fn plan_creation(existing: Option<Existing<'_>>, wanted: &VmSpec) -> Creation {
    match existing {
        None => Creation::Build,
        Some(vm) if vm.phase == Phase::Creating => Creation::WipeAndBuild,
        Some(vm) if !vm.acknowledged && vm.spec == wanted => Creation::Adopt(vm.id),
        Some(vm) => Creation::Refuse {
            id: vm.id,
            host: vm.spec.host.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::{DiskSpec, Features, InterfaceSpec, Seed, SharedFolder};

    fn spec() -> VmSpec {
        VmSpec {
            name: "db-01".into(),
            host: "srv-01".into(),
            image: "/image".into(),
            cpus: 1,
            memory_mib: 512,
            disks: BTreeMap::from([("data".into(), DiskSpec { size_mib: 64 })]),
            interfaces: vec![],
            shared_folders: BTreeMap::new(),
            features: Features::default(),
            seed: Seed::default(),
        }
    }

    #[test]
    fn each_difference_is_one_change_with_its_impact() {
        type Case = (fn(&mut VmSpec), &'static str, Impact);
        let cases: [Case; 13] = [
            (
                |s| s.name = "db-02".into(),
                "name: db-01 -> db-02",
                Impact::NeedsReplacement,
            ),
            (
                |s| s.host = "srv-02".into(),
                "host: srv-01 -> srv-02",
                Impact::Live,
            ),
            (
                |s| s.image = "/other".into(),
                "image: \"/image\" -> \"/other\"",
                Impact::NeedsReplacement,
            ),
            (|s| s.cpus = 2, "cpus: 1 -> 2", Impact::Live),
            (
                |s| s.memory_mib = 256,
                "memory_mib: 512 -> 256",
                Impact::Live,
            ),
            (
                |s| {
                    s.interfaces = vec![InterfaceSpec {
                        name: "eth0".into(),
                        mac: None,
                    }]
                },
                "interfaces: [{\"name\":\"enp0s3\",\"mac\":null}] -> [{\"name\":\"eth0\",\"mac\":null}]",
                Impact::NeedsRestart,
            ),
            (
                |s| {
                    let folder = SharedFolder {
                        host_path: "/a".into(),
                        guest_path: "/b".into(),
                        read_only: true,
                    };
                    s.shared_folders.insert("x".into(), folder);
                },
                "shared_folders: {} -> {\"x\":{\"host_path\":\"/a\",\"guest_path\":\"/b\",\"read_only\":true}}",
                Impact::NeedsRestart,
            ),
            (
                |s| s.features.tun = true,
                "features: {\"containers\":false,\"tun\":false,\"fuse\":false} -> {\"containers\":false,\"tun\":true,\"fuse\":false}",
                Impact::NeedsRestart,
            ),
            (
                |s| s.seed.sudo = false,
                "seed: {\"user\":\"ondol\",\"authorized_keys\":[],\"sudo\":true} -> {\"user\":\"ondol\",\"authorized_keys\":[],\"sudo\":false}",
                Impact::NeedsReplacement,
            ),
            (
                |s| {
                    s.disks.insert("log".into(), DiskSpec { size_mib: 8 });
                },
                "disks.log: (none) -> 8 MiB",
                Impact::Live,
            ),
            (
                |s| {
                    s.disks.insert("data".into(), DiskSpec { size_mib: 128 });
                },
                "disks.data.size_mib: 64 -> 128",
                Impact::Live,
            ),
            (
                |s| {
                    s.disks.insert("data".into(), DiskSpec { size_mib: 32 });
                },
                "disks.data.size_mib: 64 -> 32",
                Impact::Refused {
                    reason: "a disk can only grow: shrinking would cut off data".into(),
                },
            ),
            (
                |s| s.disks.clear(),
                "disks.data: 64 MiB -> (none)",
                Impact::NeedsRestart,
            ),
        ];
        for (change, line, impact) in cases {
            let mut desired = spec();
            change(&mut desired);
            let changes = plan_update(&spec(), &desired);
            assert_eq!(
                changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
                [line]
            );
            assert_eq!(changes[0].impact, impact, "{line}");
        }
    }

    #[test]
    fn equal_specs_need_nothing_also_if_one_says_the_default_aloud() {
        assert_eq!(plan_update(&spec(), &spec()), []);
        let aloud = VmSpec {
            interfaces: vec![InterfaceSpec::default()],
            ..spec()
        };
        assert_eq!(plan_update(&spec(), &aloud), []);
    }

    #[test]
    fn a_taken_name_is_adopted_wiped_or_refused() {
        let (id, wanted) = (Uuid::from_u128(7), spec());
        let other = VmSpec { cpus: 2, ..spec() };
        let refused = Creation::Refuse {
            id,
            host: "srv-01".into(),
        };
        let cases = [
            (Phase::Creating, false, &wanted, Creation::WipeAndBuild),
            (Phase::Creating, true, &other, Creation::WipeAndBuild),
            (Phase::Ready, false, &wanted, Creation::Adopt(id)),
            (
                Phase::Ready,
                true,
                &wanted,
                Creation::Refuse {
                    id,
                    host: "srv-01".into(),
                },
            ),
            (Phase::Ready, false, &other, refused),
        ];
        assert_eq!(plan_creation(None, &wanted), Creation::Build);
        for (phase, acknowledged, spec, expected) in cases {
            let existing = Existing {
                id,
                phase,
                acknowledged,
                spec,
            };
            assert_eq!(
                plan_creation(Some(existing), &wanted),
                expected,
                "{existing:?}"
            );
        }
    }
}
