//! VirtualBox on one host as an engine: it looks at VMs, makes them, changes them and removes them.
//!
//! Every act can be cut short at any point: what is left is known for ours and is completed or cleared away by the next one. Decisions
//! are [`crate::plan`]'s.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard};
use uuid::Uuid;

use crate::answer::{self, HostAdapter, ListedDisk, VmState};
use crate::command::{Attachment, Command, Control, Medium};
use crate::error::{Code, Error, Result, start_hint};
use crate::host_key::HostKey;
use crate::image::{self, Images};
use crate::machine::{Machine, Transport};
use crate::observe::{ACKNOWLEDGED, DELETING, READY, assemble, key};
use crate::plan::{Act, Creation, Impact, Step, creation_settings, plan, plan_creation};
use crate::seed;
use crate::settings;
use crate::shell::System;
use crate::spec::{
    Adapter, FIRST_DATA_PORT, PORTS, Phase, SEED_FILE, SEED_PORT, SYSTEM_DISK, SYSTEM_PORT, Vm,
    VmSpec, derived_mac, is_ours, new_id,
};
use crate::version::Version;

/// How old an answer may be that a refresh is content with: a plan asks for each VM, one after the other, and looks at the host once.
const REFRESH_AGE: Duration = Duration::from_secs(30);
/// How long a VM may take to come up after VirtualBox said that it started it, and to go down after its power was cut.
const SWITCHING: Duration = Duration::from_secs(60);
const CONTROLLER: &str = "SATA";
const DEFAULT_OS_TYPE: &str = "Linux_64";

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

/// A host's own capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub version: Version,
    /// `None`: VirtualBox cannot tell, as long as its kernel driver is missing.
    pub cpus: Option<u32>,
    pub memory_mib: u64,
    pub disk_free_mib: u64,
    pub operating_system: String,
    pub hardware_virtualization: bool,
    pub adapters: Vec<HostAdapter>,
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
                    let acknowledged = files.get(1).is_some_and(Option::is_some);
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

    pub async fn facts(&self) -> Result<Facts> {
        let machine = self.machine().await?;
        let info = answer::properties(&machine.run(&Command::HostInfo).await?);
        let properties = answer::properties(&machine.run(&Command::ListSystemProperties).await?);
        let adapters = answer::host_adapters(&machine.run(&Command::ListBridgedAdapters).await?);
        let number = |key: &str| -> Option<u64> { info.get(key)?.split(' ').next()?.parse().ok() };
        let folder = properties
            .get("Default machine folder")
            .cloned()
            .unwrap_or_default();
        // The folder is made with the first VM.
        let below = match machine.list(&folder).await?.is_empty() {
            true => machine.directory(),
            false => folder,
        };
        let system = ["Operating system", "Operating system version"]
            .map(|it| info.get(it).cloned().unwrap_or_default());
        Ok(Facts {
            version: machine.version().await?,
            cpus: number("Processor count")
                .filter(|&it| it > 0)
                .and_then(|it| it.try_into().ok()),
            memory_mib: number("Memory size").unwrap_or(0),
            disk_free_mib: machine.free_mib(&below).await?,
            operating_system: system.join(" ").trim().to_owned(),
            hardware_virtualization: info
                .get("Processor supports HW virtualization")
                .is_some_and(|it| it == "yes"),
            adapters,
        })
    }

    /// Whether this host has what the VM names: guest system, adapters, networks.
    pub async fn check(&self, spec: &VmSpec) -> Result<()> {
        spec.validate()?;
        let machine = self.machine().await?;
        if let Some(wanted) = &spec.hardware.os_type {
            let known = answer::os_types(&machine.run(&Command::ListOsTypes).await?);
            if !known.contains(wanted) {
                return Err(Error::invalid(
                    &["os_type"],
                    format!(
                        "this VirtualBox knows no guest system {wanted:?}{}",
                        nearest(wanted, &known)
                    ),
                ));
            }
        }
        let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (index, adapter) in spec
            .effective_adapters(&self.options.default_attachment)
            .iter()
            .enumerate()
        {
            let (name, command) = match &adapter.attachment {
                Some(Attachment::Bridged(name)) => (name, Command::ListBridgedAdapters),
                Some(Attachment::HostOnly(name)) => (name, Command::ListHostOnlyAdapters),
                Some(Attachment::NatNetwork(name)) => (name, Command::ListNatNetworks),
                _ => continue,
            };
            let kind = adapter.attachment.as_ref().map_or("", Attachment::kind);
            if !lists.contains_key(kind) {
                let text = machine.run(&command).await?;
                let names = match command {
                    Command::ListNatNetworks => answer::nat_networks(&text),
                    _ => answer::host_adapters(&text)
                        .into_iter()
                        .map(|it| it.name)
                        .collect(),
                };
                lists.insert(kind, names);
            }
            if !lists[kind].contains(name) {
                let candidates = match lists[kind].as_slice() {
                    [] => "it has none".to_owned(),
                    names => format!("it has {}", quoted(names)),
                };
                return Err(Error::invalid(
                    &["network_interfaces", &index.to_string(), "adapter"],
                    format!(
                        "the host has nothing of the type {kind} called {name:?}: {candidates}"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Makes a VM, stopped. What an interrupted creation left is cleared away first; a VM that somebody else made is refused.
    pub async fn create(&self, spec: &VmSpec) -> Result<Vm> {
        let _vm = self.lock(&spec.name).await;
        self.check(spec).await?;
        let inventory = self.inventory(Duration::ZERO).await?;
        let existing = inventory.find(&spec.name)?;
        match plan_creation(existing, spec, &self.options.default_attachment) {
            Creation::Build => {}
            Creation::WipeAndBuild => {
                let vm = existing.expect("only an existing VM is wiped");
                self.wipe(vm, &spec.name).await?;
            }
            Creation::Adopt => {
                return Ok(existing.expect("only an existing VM is adopted").clone());
            }
            Creation::Refuse(reason) => {
                return Err(Error::Exists {
                    vm: spec.name.clone(),
                    reason,
                });
            }
        }
        let digest = self.images.digest(&spec.image.path).await?;
        let base = {
            let _image = self.lock(&format!("image {digest}")).await;
            image::ensure(self.machine().await?, &spec.image.path, &digest).await?
        };
        self.build(spec, &digest, &base).await?;
        self.require(&spec.name).await
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
                self.remove_leftover(machine, in_the_way, &spec.name)
                    .await?;
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

    /// A VM with everything that belongs to it. It stays registered until the end, so that it can be found again if this is cut short.
    async fn wipe(&self, vm: &Vm, name: &str) -> Result<()> {
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
    async fn discard_disks_in(&self, folder: &str, disks: &[ListedDisk]) -> Result<()> {
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

    async fn discard_disk(&self, path: &str, accessible: bool) -> Result<()> {
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
    async fn remove_folder(&self, folder: &str, name: &str) -> Result<()> {
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
        let machine = self.machine().await?;
        let vm = self
            .observe(id)
            .await?
            .ok_or_else(|| Error::NotFound { vm: id.to_owned() })?;
        let path = acknowledgement(machine.system, &vm.place.settings_file);
        machine.write_file(&path, b"").await?;
        // What was seen stays true but for this.
        if let Some(seen) = &mut *self.seen.lock().await {
            let mut vms = seen.inventory.vms.clone();
            for known in vms.iter_mut().filter(|it| it.id == vm.id) {
                known.acknowledged = true;
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
                    .path
                    .as_ref()
                    .is_some_and(|path| *path == inside || path == name)
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

    /// Starts a VM, or stops it: gracefully for `patience`, then by cutting its power.
    pub async fn power(&self, id: &str, on: bool, patience: Duration) -> Result<()> {
        let _vm = self.lock(id).await;
        let vm = self.require(id).await?;
        let id = vm.id.to_string();
        if vm.state.is_on() == on {
            return Ok(());
        }
        if on {
            return self.start(&vm).await;
        }
        let button = Command::Control {
            vm: id.clone(),
            act: Control::PowerButton,
        };
        // A guest that is not up yet, or paused, has no ear for it; its power can be cut all the same.
        if self.act(button).await.is_ok() && self.wait_for(&id, false, patience).await?.is_none() {
            return Ok(());
        }
        let cut = Command::Control {
            vm: id.clone(),
            act: Control::PowerOff,
        };
        if let Err(error) = self.act(cut).await
            && self.state(&id).await?.is_on()
        {
            return Err(error);
        }
        match self.wait_for(&id, false, SWITCHING).await? {
            None => Ok(()),
            Some(state) => Err(Error::StillOn {
                vm: vm.spec.name,
                state,
                seconds: SWITCHING.as_secs(),
            }),
        }
    }

    async fn start(&self, vm: &Vm) -> Result<()> {
        let machine = self.machine().await?;
        let id = vm.id.to_string();
        let answer = self.act(Command::Start { vm: id.clone() }).await;
        let words = match answer {
            // It can say no and have started the VM, and say yes while the VM is still on its way down again.
            Err(Error::Refused { words, .. }) => {
                if self.state(&id).await?.is_on() {
                    return Ok(());
                }
                words
            }
            Err(other) => return Err(other),
            Ok(_) => match self.wait_for(&id, true, SWITCHING).await? {
                None => return Ok(()),
                Some(state) => format!("it is {state:?} {} s later", SWITCHING.as_secs()),
            },
        };
        let log = machine
            .system
            .join(&machine.system.join(&vm.place.folder, "Logs"), "VBox.log");
        let log = machine.read_file(&log).await?.unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let reason = log
            .lines()
            .rfind(|line| line.contains("VERR_"))
            .map(str::trim);
        let words = match reason {
            Some(line) => format!("{words}; its log says: {line}"),
            None => words,
        };
        let driver_missing = matches!(machine.system, System::Linux(_))
            && !machine
                .list("/dev")
                .await?
                .iter()
                .any(|name| name == "vboxdrv");
        Err(Error::NotStarted {
            vm: vm.spec.name.clone(),
            hint: start_hint(&words, driver_missing),
            words,
        })
    }

    async fn state(&self, id: &str) -> Result<VmState> {
        let machine = self.machine().await?;
        let info = machine.run(&Command::ShowVm { vm: id.to_owned() }).await?;
        Ok(answer::machine_readable(&info)
            .state()
            .unwrap_or(VmState::Changing))
    }

    /// Waits until a VM is on or off; answers the state that it is stuck in, if it does not get there.
    async fn wait_for(&self, id: &str, on: bool, patience: Duration) -> Result<Option<VmState>> {
        let deadline = Instant::now() + patience;
        loop {
            let state = self.state(id).await?;
            if state != VmState::Changing && state.is_on() == on {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Ok(Some(state));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
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

    /// Addresses that the guest additions report; none without them.
    pub async fn guest_addresses(&self, id: &str) -> Result<Vec<IpAddr>> {
        let machine = self.machine().await?;
        let command = Command::GuestProperties {
            vm: id.to_owned(),
            pattern: "/VirtualBox/GuestInfo/Net/*".to_owned(),
        };
        Ok(answer::guest_addresses(&machine.run(&command).await?))
    }
}

/// Beside the settings file.
fn acknowledgement(system: System, settings_file: &str) -> String {
    let folder = system.split(settings_file).map_or("", |(folder, _)| folder);
    system.join(folder, ACKNOWLEDGED)
}

fn between_quotes(text: &str) -> Option<&str> {
    let start = text.find('\'')? + 1;
    let end = text.rfind('\'')?;
    text.get(start..end)
}

fn lies_in(system: System, path: &str, folder: &str) -> bool {
    let Some(rest) = path.strip_prefix(folder) else {
        return false;
    };
    rest.starts_with('/') || (system.is_windows() && rest.starts_with('\\'))
}

fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Names that share the wanted one's beginning or ending.
fn nearest(wanted: &str, known: &[String]) -> String {
    let wanted = wanted.to_ascii_lowercase();
    let stem: String = wanted
        .chars()
        .take_while(|c| c.is_ascii_alphabetic())
        .collect();
    let near: Vec<String> = known
        .iter()
        .filter(|name| !stem.is_empty() && name.to_ascii_lowercase().starts_with(&stem))
        .cloned()
        .collect();
    if near.is_empty() {
        "; `VBoxManage list ostypes` on the host lists them".to_owned()
    } else {
        format!("; it knows {}", quoted(&near))
    }
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

    #[test]
    fn an_unknown_guest_system_is_met_with_those_like_it() {
        let known = ["Debian_64", "Ubuntu_64", "Ubuntu22_LTS_64"].map(str::to_owned);
        assert_eq!(
            nearest("Ubuntu-22", &known),
            "; it knows \"Ubuntu_64\", \"Ubuntu22_LTS_64\""
        );
        assert!(nearest("Plan9", &known).contains("list ostypes"));
    }

    #[test]
    fn paths_are_taken_out_of_their_quotes() {
        assert_eq!(
            between_quotes("Settings file: '/v/it's/x.vbox'"),
            Some("/v/it's/x.vbox")
        );
        assert_eq!(between_quotes("none"), None);
    }
}
