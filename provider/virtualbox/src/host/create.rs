//! Making a VM: registered first, so that whatever cuts it short is found again by its name and its UUID.
//!
//! What is done about a name that is taken is [`crate::plan`]'s decision.

use std::time::Duration;

use uuid::Uuid;

use super::{CONTROLLER, Host};
use crate::answer;
use crate::command::{Command, Medium};
use crate::error::{Code, Error, Result};
use crate::host_key::HostKey;
use crate::machine::Machine;
use crate::observe::{READY, key};
use crate::plan::{Creation, creation_settings, plan_creation};
use crate::seed;
use crate::settings;
use crate::spec::{
    Adapter, FIRST_DATA_PORT, PORTS, SEED_FILE, SEED_PORT, SYSTEM_DISK, SYSTEM_PORT, Vm, VmSpec,
    derived_mac, is_ours, new_id,
};

const DEFAULT_OS_TYPE: &str = "Linux_64";

impl Host {
    /// Makes a VM, stopped. What an interrupted creation left is cleared away first; a VM that somebody else made is refused.
    pub async fn create(&self, spec: &VmSpec) -> Result<Vm> {
        let _vm = self.lock(&spec.name).await;
        self.check(spec).await?;
        if let Some(adopted) = self.make_room(spec).await? {
            return Ok(adopted);
        }
        let digest = self.images.digest(&spec.image.path).await?;
        let base = self.place_image(&spec.image.path, &digest).await?;
        self.build(spec, &digest, &base).await?;
        self.require(&spec.name).await
    }

    /// Sees to it that the name is free; answers the VM that has it, if it is the wished one.
    async fn make_room(&self, spec: &VmSpec) -> Result<Option<Vm>> {
        let mut settled = false;
        loop {
            let existing = self.fresh(&spec.name).await?;
            match plan_creation(existing.as_ref(), spec, &self.options.default_attachment) {
                Creation::Build => return Ok(None),
                Creation::Adopt => return Ok(existing),
                // Whoever was at it died, and VBoxManage may still be at work for it.
                Creation::WipeAndBuild if !settled => {
                    self.machine().await?.settle().await?;
                    settled = true;
                }
                Creation::WipeAndBuild => {
                    let vm = existing.expect("only an existing VM is wiped");
                    self.wipe(&vm, &spec.name).await?;
                    return Ok(None);
                }
                Creation::Refuse(reason) => {
                    return Err(Error::Exists {
                        vm: spec.name.clone(),
                        reason,
                    });
                }
            }
        }
    }

    async fn build(&self, spec: &VmSpec, digest: &str, base: &str) -> Result<()> {
        let machine = self.machine().await?;
        let system = machine.system;
        let id = new_id();
        let vm = id.to_string();
        let folder = self.register(spec, id).await?;
        let path = |name: &str| system.join(&folder, name);

        let disk = path(&format!("{SYSTEM_DISK}.vdi"));
        self.act(if spec.image.linked {
            Command::CreateDifferencing {
                parent: base.to_owned(),
                path: disk.clone(),
            }
        } else {
            Command::CloneDisk {
                from: base.to_owned(),
                to: disk.clone(),
            }
        })
        .await?;
        if let Some(wanted) = spec.system_disk_mib {
            self.grow_fresh_disk(&disk, wanted).await?;
        }
        let mut media = vec![(SYSTEM_PORT, Medium::Disk(disk))];

        let adapters: Vec<Adapter> = spec
            .effective_adapters(&self.options.default_attachment)
            .into_iter()
            .enumerate()
            .map(|(index, adapter)| Adapter {
                mac: adapter.mac.clone().or_else(|| Some(derived_mac(id, index))),
                ..adapter
            })
            .collect();
        let key = HostKey::generate();
        let medium = seed::write(id, &spec.name, &spec.seed, &adapters, &key);
        machine.write_file(&path(SEED_FILE), &medium).await?;
        media.push((SEED_PORT, Medium::Dvd(path(SEED_FILE))));

        for (port, (name, &size_mib)) in (FIRST_DATA_PORT..).zip(&spec.disks) {
            let path = path(&format!("{name}.vdi"));
            self.act(Command::CreateDisk {
                path: path.clone(),
                size_mib,
            })
            .await?;
            media.push((port, Medium::Disk(path)));
        }
        self.act(Command::ModifyVm {
            vm: vm.clone(),
            settings: creation_settings(spec, &adapters),
        })
        .await?;
        self.act(Command::AddController {
            vm: vm.clone(),
            name: CONTROLLER.to_owned(),
            ports: PORTS,
        })
        .await?;
        for (port, medium) in media {
            self.act(Command::Attach {
                vm: vm.clone(),
                controller: CONTROLLER.to_owned(),
                port,
                medium: Some(medium),
            })
            .await?;
        }
        for (name, folder) in &spec.shared_folders {
            self.act(Command::AddSharedFolder {
                vm: vm.clone(),
                name: name.clone(),
                host_path: folder.host_path.clone(),
                guest_path: folder.guest_path.clone(),
                read_only: folder.read_only,
            })
            .await?;
        }
        self.note(&vm, key::IMAGE, Some(digest.to_owned())).await?;
        self.note(&vm, key::HOST_KEY, Some(key.public)).await?;
        self.note_spec(&vm, spec).await?;
        // Last: a VM without it was not finished.
        self.note(&vm, key::PHASE, Some(READY.to_owned())).await
    }

    /// Registers an empty VM; answers its folder. A folder in the way that a crash of ours left behind is removed.
    async fn register(&self, spec: &VmSpec, id: Uuid) -> Result<String> {
        let machine = self.machine().await?;
        let os_type = spec.hardware.os_type.clone();
        let create = Command::CreateVm {
            name: spec.name.clone(),
            os_type: os_type.unwrap_or_else(|| DEFAULT_OS_TYPE.to_owned()),
            uuid: id,
        };
        let answer = match self.act(create.clone()).await {
            Err(Error::Refused {
                code: Code::FileError,
                words,
                ..
            }) if words.contains("already exists") => {
                let in_the_way = between_quotes(&words).unwrap_or_default();
                if self.fresh(&spec.name).await?.is_none() {
                    self.remove_leftover(machine, in_the_way, &spec.name)
                        .await?;
                } else if self.make_room(spec).await?.is_some() {
                    // Registered while this waited for its turn, by a provider that had died; this one was alive.
                    return Err(Error::Exists {
                        vm: spec.name.clone(),
                        reason: "another process made it just now: apply again".to_owned(),
                    });
                }
                self.act(create).await?
            }
            answer => answer?,
        };
        let settings_file = answer
            .lines()
            .find_map(|line| between_quotes(line.strip_prefix("Settings file:")?))
            .ok_or_else(|| Error::File {
                act: format!("register the VM {}", spec.name),
                words: format!("VBoxManage did not say where its settings file is: {answer}"),
            })?;
        machine
            .system
            .split(settings_file)
            .map(|(folder, _)| folder.to_owned())
            .ok_or_else(|| Error::File {
                act: format!("register the VM {}", spec.name),
                words: format!("{settings_file:?} is in no folder"),
            })
    }

    /// `settings_file` belongs to no registered VM. Only if it is one of ours, its folder goes.
    async fn remove_leftover(
        &self,
        machine: &Machine,
        settings_file: &str,
        name: &str,
    ) -> Result<()> {
        let content = machine.read_file(settings_file).await?.unwrap_or_default();
        let folder = machine
            .system
            .split(settings_file)
            .map(|(folder, _)| folder);
        let ours = match settings::read(&String::from_utf8_lossy(&content)) {
            Ok(settings) => is_ours(settings.uuid),
            // A full disk cut it off. Alone in its folder it is worth nothing to anybody.
            Err(_) => {
                let names = machine.list(folder.unwrap_or_default()).await?;
                let prefix = format!("{name}.vbox");
                names.iter().all(|it| it.starts_with(&prefix))
            }
        };
        let registered = self.inventory(Duration::ZERO).await?;
        let in_use = registered
            .vms
            .iter()
            .any(|vm| vm.place.settings_file == settings_file);
        match folder {
            Some(folder) if ours && !in_use => {
                let disks = answer::disks(&machine.run(&Command::ListDisks).await?);
                self.discard_disks_in(folder, &disks).await?;
                self.remove_folder(folder, name).await
            }
            _ => Err(Error::Exists {
                vm: name.to_owned(),
                reason: format!(
                    "it has no VM {name:?}, but the settings file of one that somebody else made: {settings_file}. Move its folder away, or register it with `VBoxManage registervm`"
                ),
            }),
        }
    }

    async fn grow_fresh_disk(&self, path: &str, wanted: u64) -> Result<()> {
        let machine = self.machine().await?;
        let disks = answer::disks(&machine.run(&Command::ListDisks).await?);
        let has = disks
            .iter()
            .find(|disk| disk.location == path)
            .map_or(0, |disk| disk.size_mib);
        if has > wanted {
            return Err(Error::invalid(
                &["system_disk_mib"],
                format!("the image's disk has {has} MiB: a disk can only grow, give at least that"),
            ));
        }
        if has < wanted {
            self.act(Command::ResizeDisk {
                path: path.to_owned(),
                size_mib: wanted,
            })
            .await?;
        }
        Ok(())
    }
}

fn between_quotes(text: &str) -> Option<&str> {
    let start = text.find('\'')? + 1;
    let end = text.rfind('\'')?;
    text.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_out_of_their_quotes() {
        assert_eq!(
            between_quotes("Settings file: '/v/it's/x.vbox'"),
            Some("/v/it's/x.vbox")
        );
        assert_eq!(between_quotes("none"), None);
    }
}
