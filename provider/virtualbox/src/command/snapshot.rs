//! Acts on a VM's snapshots.

use super::words;

/// `snapshot VM ...`. Snapshots are named by UUID, as VirtualBox lets several have one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotAct {
    Take {
        name: String,
        description: String,
    },
    /// The VM must be off.
    Restore(String),
    /// What came after it keeps its content.
    Delete(String),
    Edit {
        snapshot: String,
        name: String,
        description: String,
    },
}

impl SnapshotAct {
    pub(super) fn argv(&self, vm: &str) -> Vec<String> {
        let mut argv = words(["snapshot", vm]);
        argv.extend(match self {
            Self::Take { name, description } => words(["take", name, "--description", description]),
            Self::Restore(snapshot) => words(["restore", snapshot]),
            Self::Delete(snapshot) => words(["delete", snapshot]),
            Self::Edit {
                snapshot,
                name,
                description,
            } => words([
                "edit",
                snapshot,
                "--name",
                name,
                "--description",
                description,
            ]),
        });
        argv
    }

    pub(super) fn act(&self, vm: &str) -> String {
        match self {
            Self::Take { name, .. } => format!("take the snapshot {name:?} of the VM {vm}"),
            Self::Restore(snapshot) => format!("bring the VM {vm} back to the snapshot {snapshot}"),
            Self::Delete(snapshot) => format!("delete the snapshot {snapshot} of the VM {vm}"),
            Self::Edit { snapshot, .. } => {
                format!("describe the snapshot {snapshot} of the VM {vm}")
            }
        }
    }
}
