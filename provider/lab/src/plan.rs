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
