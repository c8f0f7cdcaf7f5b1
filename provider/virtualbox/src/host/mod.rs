//! VirtualBox on one host as an engine: it looks at VMs, makes them, changes them and removes them.
//!
//! Every act can be cut short at any point: what is left is known for ours and is completed or cleared away by the next one. Decisions
//! are [`crate::plan`]'s.

mod change;
mod create;
mod facts;
mod images;
mod networks;
mod power;
mod prepare;
mod remove;
mod snapshots;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard};
use uuid::Uuid;

pub use self::facts::Facts;
pub use self::images::Appliance;
pub use self::prepare::Preparation;
use crate::answer::{self, ListedDisk};
use crate::command::{Attachment, Command};
use crate::error::{Error, Result};
use crate::image::Images;
use crate::machine::{Machine, Transport};
use crate::observe::{ACKNOWLEDGED, assemble, key};
use crate::plan::{Step, plan};
use crate::settings;
use crate::shell::System;
use crate::spec::{Vm, VmSpec};

/// How old an answer may be that a refresh is content with: a plan asks for each VM, one after the other, and looks at the host once.
const REFRESH_AGE: Duration = Duration::from_secs(30);
const CONTROLLER: &str = "SATA";

/// What a host's configuration says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where VBoxManage is, if it is nowhere usual.
    pub vboxmanage: Option<String>,
    /// What an adapter that does not say is attached to.
    pub default_attachment: Attachment,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vboxmanage: None,
            default_attachment: Attachment::Nat,
        }
    }
}

/// A host. Looked at when something on it is needed first.
pub struct Host {
    transport: Arc<dyn Transport>,
    options: Options,
    images: Images,
    machine: OnceCell<Machine>,
    seen: Mutex<Option<Seen>>,
    /// Counts our own acts: what was seen before one is not taken for the truth after it.
    acts: AtomicU64,
    locks: StdMutex<HashMap<String, Arc<Mutex<()>>>>,
}

struct Seen {
    began: Instant,
    acts: u64,
    inventory: Arc<Inventory>,
}

/// The VMs of a host at one moment.
#[derive(Debug, Default)]
pub struct Inventory {
    pub vms: Vec<Vm>,
    /// VMs that are registered but cannot be read, and why.
    pub unreadable: Vec<(Uuid, Error)>,
}

impl Inventory {
    /// By UUID or name. A VM that cannot be read is an error for whoever names it by its UUID.
    fn find(&self, id_or_name: &str) -> Result<Option<&Vm>> {
        let id: Option<Uuid> = id_or_name.parse().ok();
        if let Some((_, error)) = self.unreadable.iter().find(|(it, _)| Some(*it) == id) {
            return Err(error.clone());
        }
        Ok(self
            .vms
            .iter()
            .find(|vm| Some(vm.id) == id || (id.is_none() && vm.spec.name == id_or_name)))
    }
}

impl Host {
    pub fn new(transport: Arc<dyn Transport>, options: Options, images: Images) -> Self {
        Self {
            transport,
            options,
            images,
            machine: OnceCell::new(),
            seen: Mutex::default(),
            acts: AtomicU64::new(0),
            locks: StdMutex::default(),
        }
    }

    /// The host, once it was found to have a VirtualBox. Only success is remembered.
    pub async fn machine(&self) -> Result<&Machine> {
        let vboxmanage = self.options.vboxmanage.as_deref();
        self.machine
            .get_or_try_init(|| Machine::discover(self.transport.clone(), vboxmanage))
            .await
    }

    /// The host as it is, with VirtualBox or without. Looked at anew each time: one may be installed meanwhile.
    async fn any_machine(&self) -> Result<Machine> {
        let vboxmanage = self.options.vboxmanage.as_deref();
        Machine::discover_any(self.transport.clone(), vboxmanage).await
    }

    /// Whether the host has a VirtualBox that this crate knows.
    pub async fn ready(&self) -> Result<()> {
        self.machine().await?.version().await.map(drop)
    }

    /// Serialises what is done to one VM, or with one image.
    async fn lock(&self, what: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().expect("no panic happens under this lock");
            locks.entry(what.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Runs VBoxManage for its effect.
    async fn act(&self, command: Command) -> Result<String> {
        let machine = self.machine().await?;
        let answer = machine.run(&command).await;
        self.acts.fetch_add(1, Ordering::SeqCst);
        answer
    }

    /// Everything on the host, with two runs of VBoxManage and one reading of files, however many VMs there are. Whoever asks
    /// meanwhile gets the same answer.
    async fn inventory(&self, age: Duration) -> Result<Arc<Inventory>> {
        let asked = Instant::now();
        let mut seen = self.seen.lock().await;
        let acts = self.acts.load(Ordering::SeqCst);
        if let Some(seen) = &*seen
            && seen.acts == acts
            && seen.began + age >= asked
        {
            return Ok(seen.inventory.clone());
        }
        let began = Instant::now();
        let inventory = Arc::new(self.look().await?);
        *seen = Some(Seen {
            began,
            acts,
            inventory: inventory.clone(),
        });
        Ok(inventory)
    }

    async fn look(&self) -> Result<Inventory> {
        let machine = self.machine().await?;
        let (vms, disks) = tokio::join!(
            machine.run(&Command::ListVms),
            machine.run(&Command::ListDisks)
        );
        let listed = answer::vms(&vms?);
        let disks: HashMap<Uuid, ListedDisk> = answer::disks(&disks?)
            .into_iter()
            .map(|disk| (disk.uuid, disk))
            .collect();
        let paths: Vec<String> = listed
            .iter()
            .flat_map(|vm| {
                [
                    vm.settings_file.clone(),
                    acknowledgement(machine.system, &vm.settings_file),
                ]
            })
            .collect();
        let files = machine.read_files(&paths).await?;
        let mut inventory = Inventory::default();
        for (listed, files) in listed.iter().zip(files.chunks(2)) {
            let path = &listed.settings_file;
            let (Some(accessible), Some(Some(content))) = (&listed.accessible, files.first())
            else {
                let error = Error::File {
                    act: format!("read the settings of the VM {}", listed.uuid),
                    words: format!(
                        "{path} cannot be read. Bring the file back, or remove the VM with `VBoxManage unregistervm {}`",
                        listed.uuid
                    ),
                };
                inventory.unreadable.push((listed.uuid, error));
                continue;
            };
            match settings::read(&String::from_utf8_lossy(content)) {
                Ok(settings) => {
                    let acknowledged = files.get(1).and_then(Option::as_deref);
                    let vm = assemble(
                        machine.system,
                        listed,
                        accessible,
                        &settings,
                        &disks,
                        acknowledged,
                    );
                    inventory.vms.push(vm);
                }
                Err(source) => {
                    let error = Error::Settings {
                        vm: accessible.name.clone(),
                        path: path.clone(),
                        source,
                    };
                    inventory.unreadable.push((listed.uuid, error));
                }
            }
        }
        Ok(inventory)
    }

    /// A VM by its UUID or name; `None` if there certainly is none.
    pub async fn observe(&self, id_or_name: &str) -> Result<Option<Vm>> {
        let inventory = self.inventory(REFRESH_AGE).await?;
        Ok(inventory.find(id_or_name)?.cloned())
    }

    /// The VMs that can be read.
    pub async fn list(&self) -> Result<Vec<Vm>> {
        Ok(self.inventory(REFRESH_AGE).await?.vms.clone())
    }

    /// As it is now, not as it was a moment ago.
    async fn fresh(&self, id_or_name: &str) -> Result<Option<Vm>> {
        let inventory = self.inventory(Duration::ZERO).await?;
        Ok(inventory.find(id_or_name)?.cloned())
    }

    async fn require(&self, id: &str) -> Result<Vm> {
        self.fresh(id)
            .await?
            .ok_or_else(|| Error::NotFound { vm: id.to_owned() })
    }

    /// What turning one spec into the other means here.
    pub fn plan(&self, current: &VmSpec, desired: &VmSpec) -> Vec<Step> {
        plan(current, desired, &self.options.default_attachment)
    }

    async fn note(&self, vm: &str, key: &str, value: Option<String>) -> Result<()> {
        let command = Command::SetExtraData {
            vm: vm.to_owned(),
            key: key.to_owned(),
            value,
        };
        self.act(command).await.map(drop)
    }

    async fn note_spec(&self, vm: &str, spec: &VmSpec) -> Result<()> {
        let text = serde_json::to_string(spec).expect("a spec has only string keys");
        self.note(vm, key::SPEC, Some(text)).await
    }

    /// Someone's state holds the VM now.
    pub async fn acknowledge(&self, id: &str) -> Result<()> {
        self.mark(id, None).await
    }

    /// Notes where the guest answers now that its network was changed: what it is looked for at when it is started again.
    pub async fn note_address(&self, id: &str, address: IpAddr) -> Result<()> {
        self.mark(id, Some(address)).await
    }

    async fn mark(&self, id: &str, address: Option<IpAddr>) -> Result<()> {
        let machine = self.machine().await?;
        let vm = self
            .observe(id)
            .await?
            .ok_or_else(|| Error::NotFound { vm: id.to_owned() })?;
        let path = acknowledgement(machine.system, &vm.place.settings_file);
        let text = address.map(|address| address.to_string());
        machine
            .write_file(&path, text.unwrap_or_default().as_bytes())
            .await?;
        // What was seen stays true but for this.
        if let Some(seen) = &mut *self.seen.lock().await {
            let mut vms = seen.inventory.vms.clone();
            for known in vms.iter_mut().filter(|it| it.id == vm.id) {
                known.acknowledged = true;
                known.confirmed_address = address;
            }
            let unreadable = seen.inventory.unreadable.clone();
            seen.inventory = Arc::new(Inventory { vms, unreadable });
        }
        Ok(())
    }

    /// A VM's spec in the words of whoever wished for it: adapters that were left to this engine, and are as it made them, are left out.
    pub fn as_wished(&self, vm: &Vm) -> VmSpec {
        let mut spec = vm.spec.clone();
        let unsaid = VmSpec {
            adapters: Vec::new(),
            ..spec.clone()
        };
        let left_open = vm
            .wish
            .as_ref()
            .is_some_and(|wish| wish.adapters.is_empty());
        if left_open && self.plan(&spec, &unsaid).is_empty() {
            spec.adapters.clear();
        }
        spec
    }
}

/// Beside the settings file.
fn acknowledgement(system: System, settings_file: &str) -> String {
    let folder = system.split(settings_file).map_or("", |(folder, _)| folder);
    system.join(folder, ACKNOWLEDGED)
}

fn lies_in(system: System, path: &str, folder: &str) -> bool {
    let Some(rest) = path.strip_prefix(folder) else {
        return false;
    };
    rest.starts_with('/') || (system.is_windows() && rest.starts_with('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Locker;

    #[test]
    fn a_path_is_within_a_folder_only_below_it() {
        let linux = System::Linux(Locker::Flock);
        assert!(lies_in(linux, "/v/web/a.vdi", "/v/web"));
        assert!(!lies_in(linux, "/v/web-2/a.vdi", "/v/web"));
        assert!(lies_in(System::Windows, r"C:\v\web\a.vdi", r"C:\v\web"));
    }
}
