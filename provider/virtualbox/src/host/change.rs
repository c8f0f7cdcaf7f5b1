//! Changing a VM to what is wished, at once where it can, otherwise once it is stopped.

use super::{CONTROLLER, Host, lies_in};
use crate::command::{Command, Medium};
use crate::error::{Error, Result};
use crate::host_key::HostKey;
use crate::observe::key;
use crate::plan::{Act, Impact, Step};
use crate::seed;
use crate::spec::{Adapter, FIRST_DATA_PORT, PORTS, SEED_FILE, SEED_PORT, SYSTEM_DISK, Vm, VmSpec};

impl Host {
    /// Changes a VM to what is wished. A running VM takes what it can; the answer is what waits until it is stopped.
    pub async fn update(&self, id: &str, desired: &VmSpec) -> Result<Vec<Step>> {
        let _vm = self.lock(id).await;
        let vm = self.require(id).await?;
        let steps = self.plan(&vm.spec, desired);
        if let Some(step) = steps
            .iter()
            .find(|step| matches!(step.impact, Impact::Refused(_)))
        {
            let Impact::Refused(reason) = &step.impact else {
                unreachable!("it was looked for")
            };
            return Err(Error::Invalid {
                field: step.field.clone(),
                reason: format!("cannot become {} (it is {}): {reason}", step.to, step.from),
            });
        }
        if steps.is_empty() {
            return Ok(steps);
        }
        let names_networks = |step: &Step| {
            step.field
                .first()
                .is_some_and(|it| it == "network_interfaces" || it == "os_type")
        };
        if steps.iter().any(names_networks) {
            self.check(desired).await?;
        }
        let running = vm.state.is_on();
        let (now, later): (Vec<Step>, Vec<Step>) = steps
            .into_iter()
            .partition(|step| !running || step.impact == Impact::Live);
        let mut settings = Vec::new();
        for step in &now {
            match &step.act {
                Act::Set { running: acts, .. } if running => {
                    for act in acts {
                        self.act(Command::Control {
                            vm: id.to_owned(),
                            act: act.clone(),
                        })
                        .await?;
                    }
                }
                Act::Set { stopped, .. } => settings.extend(stopped.clone()),
                act => self.apply(&vm, act, desired).await?,
            }
        }
        if !settings.is_empty() {
            self.act(Command::ModifyVm {
                vm: id.to_owned(),
                settings,
            })
            .await?;
        }
        if later.is_empty() {
            let wish = VmSpec {
                image: vm.spec.image.clone(),
                ..desired.clone()
            };
            self.note_spec(id, &wish).await?;
        }
        Ok(later)
    }

    /// Does to a stopped VM what is more than a setting.
    async fn apply(&self, vm: &Vm, act: &Act, desired: &VmSpec) -> Result<()> {
        let machine = self.machine().await?;
        let id = vm.id.to_string();
        let file = |name: &str| {
            machine
                .system
                .join(&vm.place.folder, &format!("{name}.vdi"))
        };
        let at = |name: &str| {
            let inside = file(name);
            vm.place.media.iter().find(|medium| {
                medium
                    .base
                    .as_ref()
                    .is_some_and(|base| *base == inside || base == name)
            })
        };
        match act {
            Act::Set { .. } | Act::Nothing => Ok(()),
            Act::GrowSystemDisk(size_mib) => {
                let own = at(SYSTEM_DISK);
                let disk = own.or_else(|| vm.place.media.iter().find(|medium| medium.is_disk));
                let path = disk
                    .and_then(|disk| disk.path.clone())
                    .unwrap_or_else(|| file(SYSTEM_DISK));
                let size_mib = *size_mib;
                self.act(Command::ResizeDisk { path, size_mib })
                    .await
                    .map(drop)
            }
            Act::GrowDisk(name, size_mib) => {
                let path = at(name)
                    .and_then(|disk| disk.path.clone())
                    .unwrap_or_else(|| file(name));
                let size_mib = *size_mib;
                self.act(Command::ResizeDisk { path, size_mib })
                    .await
                    .map(drop)
            }
            Act::AddDisk(name, size_mib) => {
                let path = file(name);
                // A change that was cut short may have made it without attaching it.
                self.discard_disk(&path, true).await?;
                machine.remove_file(&path).await?;
                self.act(Command::CreateDisk {
                    path: path.clone(),
                    size_mib: *size_mib,
                })
                .await?;
                let controller = vm
                    .place
                    .controller
                    .clone()
                    .unwrap_or_else(|| CONTROLLER.to_owned());
                // Several may be added in one go, so what is free is looked up each time.
                let now = self.require(&id).await?;
                let taken: Vec<u32> = now
                    .place
                    .media
                    .iter()
                    .filter(|it| it.controller == controller)
                    .map(|it| it.port)
                    .collect();
                let port = (FIRST_DATA_PORT..PORTS).find(|port| !taken.contains(port));
                let port = port.ok_or_else(|| {
                    Error::invalid(&["disks", name], "the controller has no free port")
                })?;
                self.act(Command::Attach {
                    vm: id,
                    controller,
                    port,
                    medium: Some(Medium::Disk(path)),
                })
                .await
                .map(drop)
            }
            Act::RemoveDisk(name) => {
                let Some(medium) = at(name) else {
                    return Ok(());
                };
                self.act(Command::Attach {
                    vm: id,
                    controller: medium.controller.clone(),
                    port: medium.port,
                    medium: None,
                })
                .await?;
                match &medium.path {
                    // What somebody attached from elsewhere is not ours to delete.
                    Some(path) if lies_in(machine.system, path, &vm.place.folder) => {
                        self.discard_disk(path, true).await
                    }
                    _ => Ok(()),
                }
            }
            Act::AddFolder(name, folder) => self
                .act(Command::AddSharedFolder {
                    vm: id,
                    name: name.clone(),
                    host_path: folder.host_path.clone(),
                    guest_path: folder.guest_path.clone(),
                    read_only: folder.read_only,
                })
                .await
                .map(drop),
            Act::RemoveFolder(name) => {
                let name = name.clone();
                self.act(Command::RemoveSharedFolder { vm: id, name })
                    .await
                    .map(drop)
            }
            Act::WriteSeed => self.write_seed(vm, desired).await,
        }
    }

    /// The same medium with another content: the guest keeps its host key, and cloud-init takes it for a new instance.
    async fn write_seed(&self, vm: &Vm, desired: &VmSpec) -> Result<()> {
        let machine = self.machine().await?;
        let id = vm.id.to_string();
        let dvd = vm.place.media.iter().find(|medium| {
            let path = medium
                .path
                .as_deref()
                .and_then(|path| machine.system.split(path));
            !medium.is_disk && path.is_some_and(|(_, name)| name == SEED_FILE)
        });
        let path = dvd
            .and_then(|medium| medium.path.clone())
            .unwrap_or_else(|| machine.system.join(&vm.place.folder, SEED_FILE));
        let before = machine.read_file(&path).await?;
        let kept = before.as_deref().and_then(seed::host_key);
        let key = kept.unwrap_or_else(HostKey::generate);
        let adapters: Vec<Adapter> = desired
            .effective_adapters(&self.options.default_attachment)
            .into_iter()
            .enumerate()
            .map(|(index, adapter)| Adapter {
                mac: adapter
                    .mac
                    .clone()
                    .or_else(|| vm.spec.adapters.get(index).and_then(|it| it.mac.clone())),
                ..adapter
            })
            .collect();
        let medium = seed::write(vm.id, &desired.name, &desired.seed, &adapters, &key);
        machine.write_file(&path, &medium).await?;
        if dvd.is_none() {
            self.act(Command::Attach {
                vm: id.clone(),
                controller: vm
                    .place
                    .controller
                    .clone()
                    .unwrap_or_else(|| CONTROLLER.to_owned()),
                port: SEED_PORT,
                medium: Some(Medium::Dvd(path)),
            })
            .await?;
        }
        if key.public != vm.ssh_host_key {
            self.note(&id, key::HOST_KEY, Some(key.public)).await?;
        }
        Ok(())
    }
}
