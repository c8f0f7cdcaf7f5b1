//! Taking a VM away with everything that is its own, and nothing that is not.

use std::time::Duration;

use uuid::Uuid;

use super::{Host, acknowledgement, lies_in};
use crate::answer::{self, ListedDisk};
use crate::command::{Command, Medium};
use crate::error::{Code, Error, Result};
use crate::observe::{DELETING, key};
use crate::spec::{Phase, Vm, is_ours};

impl Host {
    /// A VM with everything that belongs to it. It stays registered until the end, so that it can be found again if this is cut short.
    pub(super) async fn wipe(&self, vm: &Vm, name: &str) -> Result<()> {
        let id = vm.id.to_string();
        let machine = self.machine().await?;
        let ours = vm.phase != Phase::Foreign || is_ours(vm.id);
        if vm.place.has_snapshots {
            // Disks can only be let go by the VM and its snapshots together. With `delete`, VirtualBox would delete the image too that the
            // last linked clone leaves behind; a VM that somebody else made is left to its ways.
            self.act(Command::Unregister {
                vm: id,
                delete: !ours,
            })
            .await?;
            if ours {
                self.remove_folder(&vm.place.folder, name).await?;
            }
            return Ok(());
        }
        for medium in &vm.place.media {
            self.act(Command::Attach {
                vm: id.clone(),
                controller: medium.controller.clone(),
                port: medium.port,
                medium: None,
            })
            .await?;
            match &medium.path {
                Some(path) if !medium.is_disk => {
                    let close = Command::CloseMedium {
                        medium: Medium::Dvd(path.clone()),
                        delete: false,
                    };
                    // Another VM may use it.
                    let _ = self.act(close).await;
                }
                _ => {}
            }
        }
        let disks = answer::disks(&machine.run(&Command::ListDisks).await?);
        self.discard_disks_in(&vm.place.folder, &disks).await?;
        let acknowledged = acknowledgement(machine.system, &vm.place.settings_file);
        machine.remove_file(&acknowledged).await?;
        // With nothing attached any more, it deletes settings, logs and its folder, and never the image that others are linked to.
        self.act(Command::Unregister {
            vm: id,
            delete: true,
        })
        .await?;
        if ours {
            self.remove_folder(&vm.place.folder, name).await?;
        }
        Ok(())
    }

    /// Closes and deletes every registered disk in a VM's own folder, children before their parents.
    pub(super) async fn discard_disks_in(&self, folder: &str, disks: &[ListedDisk]) -> Result<()> {
        let machine = self.machine().await?;
        let inside = |disk: &&ListedDisk| lies_in(machine.system, &disk.location, folder);
        let mut rest: Vec<&ListedDisk> = disks.iter().filter(inside).collect();
        while !rest.is_empty() {
            let parents: Vec<Uuid> = rest.iter().filter_map(|disk| disk.parent).collect();
            let (leaves, others): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|disk| !parents.contains(&disk.uuid));
            for disk in &leaves {
                self.discard_disk(&disk.location, disk.accessible).await?;
            }
            if leaves.is_empty() {
                break;
            }
            rest = others;
        }
        Ok(())
    }

    pub(super) async fn discard_disk(&self, path: &str, accessible: bool) -> Result<()> {
        let close = Command::CloseMedium {
            medium: Medium::Disk(path.to_owned()),
            delete: accessible,
        };
        match self.act(close).await {
            // Not registered, or gone with its file.
            Err(Error::Refused {
                code: Code::ObjectNotFound | Code::FileError,
                ..
            }) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The folder of a VM of ours that is not registered any more. Guarded: it must be named as the VM is.
    pub(super) async fn remove_folder(&self, folder: &str, name: &str) -> Result<()> {
        let machine = self.machine().await?;
        let is_the_vms = machine
            .system
            .split(folder)
            .is_some_and(|(parent, last)| !parent.is_empty() && last == name);
        if is_the_vms {
            machine.remove_tree(folder).await?;
        }
        Ok(())
    }

    /// Removes a VM with its own disks. What somebody attached from elsewhere stays.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let Some(vm) = self.fresh(id).await? else {
            return Ok(());
        };
        let name = vm.spec.name.clone();
        if vm.state.is_on() {
            self.power(id, false, Duration::ZERO).await?;
        }
        let _vm = self.lock(id).await;
        self.note(&vm.id.to_string(), key::PHASE, Some(DELETING.to_owned()))
            .await?;
        self.wipe(&vm, &name).await
    }
}
