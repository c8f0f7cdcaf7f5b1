//! Snapshots of a VM: taken, described, gone back to, and let go.

use std::time::Duration;

use uuid::Uuid;

use super::Host;
use crate::command::{Command, SnapshotAct};
use crate::error::{Error, Result};
use crate::snapshot::{Snapshot, snapshots};
use crate::spec::Vm;

/// How long a VM that goes back to a snapshot may take to be off; what it was doing is thrown away anyway.
const LETTING_GO: Duration = Duration::ZERO;

impl Host {
    /// All snapshots of a VM; `None` if there certainly is no such VM.
    pub async fn snapshots(&self, vm: &str) -> Result<Option<Vec<Snapshot>>> {
        match self.observe(vm).await? {
            Some(vm) => self.snapshots_of(&vm).await.map(Some),
            None => Ok(None),
        }
    }

    async fn snapshots_of(&self, vm: &Vm) -> Result<Vec<Snapshot>> {
        let file = self
            .machine()
            .await?
            .read_file(&vm.place.settings_file)
            .await?;
        Ok(snapshots(&String::from_utf8_lossy(
            &file.unwrap_or_default(),
        )))
    }

    /// Takes one; of a running VM with what it is doing. Its name must be free, as whoever looks for it has nothing else.
    pub async fn take_snapshot(&self, vm: &str, name: &str, description: &str) -> Result<Snapshot> {
        let _vm = self.lock(vm).await;
        let found = self.require(vm).await?;
        let before = self.snapshots_of(&found).await?;
        if let Some(taken) = before.iter().find(|it| it.name == name) {
            return Err(Error::invalid(
                &["name"],
                format!(
                    "the VM {:?} already has a snapshot {name:?} (id {}): import it, or choose another name",
                    found.spec.name, taken.id
                ),
            ));
        }
        self.act_on_snapshot(
            &found,
            SnapshotAct::Take {
                name: name.to_owned(),
                description: description.to_owned(),
            },
        )
        .await?;
        let after = self.snapshots_of(&found).await?;
        let new = after.into_iter().find(|it| it.name == name);
        new.ok_or_else(|| Error::NotFound {
            vm: format!("{}, snapshot {name:?}", found.spec.name),
        })
    }

    pub async fn describe_snapshot(
        &self,
        vm: &str,
        snapshot: Uuid,
        name: &str,
        description: &str,
    ) -> Result<()> {
        let _vm = self.lock(vm).await;
        let found = self.require(vm).await?;
        let edit = SnapshotAct::Edit {
            snapshot: snapshot.to_string(),
            name: name.to_owned(),
            description: description.to_owned(),
        };
        self.act_on_snapshot(&found, edit).await
    }

    /// Brings a VM back to a snapshot. One that runs has its power cut, and runs again afterwards.
    pub async fn restore_snapshot(&self, vm: &str, snapshot: Uuid) -> Result<()> {
        let found = self.require(vm).await?;
        let ran = found.state.is_on();
        let id = found.id.to_string();
        if ran {
            self.power(&id, false, LETTING_GO).await?;
        }
        {
            let _vm = self.lock(&id).await;
            let restore = SnapshotAct::Restore(snapshot.to_string());
            self.act_on_snapshot(&found, restore).await?;
        }
        if ran {
            self.power(&id, true, LETTING_GO).await?;
        }
        Ok(())
    }

    /// Lets a snapshot go; the VM stays as it is. What is gone already is a success.
    pub async fn delete_snapshot(&self, vm: &str, snapshot: Uuid) -> Result<()> {
        let _vm = self.lock(vm).await;
        let Some(found) = self.fresh(vm).await? else {
            return Ok(());
        };
        let known = self.snapshots_of(&found).await?;
        if !known.iter().any(|it| it.id == snapshot) {
            return Ok(());
        }
        self.act_on_snapshot(&found, SnapshotAct::Delete(snapshot.to_string()))
            .await
    }

    async fn act_on_snapshot(&self, vm: &Vm, act: SnapshotAct) -> Result<()> {
        let vm = vm.id.to_string();
        self.act(Command::Snapshot { vm, act }).await.map(drop)
    }
}
