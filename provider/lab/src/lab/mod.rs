//! The lab itself: what can be asked of it, each act under the lock of the VM it concerns.
//!
//! Decisions are in `plan`; this file puts the parts in order. It waits for processes, never for services: whether SSH answers is the
//! caller's question.

mod boot;
mod end;
mod inside;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use uuid::Uuid;

use self::end::{end, power_off};
use crate::cgroup::{Cgroups, Limits};
use crate::disks;
use crate::error::{Error, Result, near_names};
use crate::names::{self, VmNames};
use crate::network::{self, Cable};
use crate::nspawn::{self, Places};
use crate::plan::{Change, Creation, Existing, Impact, Phase, plan_creation, plan_update};
use crate::process::{self, Supervisor};
use crate::seed::{self, Identity};
use crate::spec::{InterfaceSpec, PowerState, Vm, VmSpec};
use crate::store::{Record, Store};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabConfig {
    /// `[a-z][a-z0-9-]{0,15}`. Labs of different names share nothing but the machine.
    pub name: String,
    /// Addresses of the lab's own end of its bridge, each with its network.
    pub gateway: Vec<Ipv4Net>,
    /// VMs' disks and records.
    pub state_dir: PathBuf,
    /// Locks and console logs.
    pub run_dir: PathBuf,
}

impl LabConfig {
    /// The product's places, and the gateway 192.168.10.1/24.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            gateway: vec!["192.168.10.1/24".parse().expect("a literal network")],
            state_dir: PathBuf::from("/var/lib/ondol"),
            run_dir: PathBuf::from("/run/ondol"),
        }
    }
}

impl Default for LabConfig {
    fn default() -> Self {
        Self::new("ondol")
    }
}

/// A handle on a lab. Cheap to clone and free of state: two processes may hold the same lab.
#[derive(Debug, Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: LabConfig,
    store: Store,
    cgroups: Cgroups,
}

/// What an update left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    pub vm: Vm,
    /// Changes that wait for the VM's next start; empty if all are in force.
    pub pending: Vec<Change>,
}

/// A VM and what can be seen of it from outside.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    pub vm: Vm,
    /// Addresses on its interfaces, without loopback and IPv6 link-local; empty if it is stopped.
    pub addresses: Vec<IpAddr>,
    /// Without the page cache that the kernel would drop first. `None` if it is stopped or the machine does not count.
    pub memory_bytes: Option<u64>,
    pub uptime_seconds: Option<u64>,
}

impl Lab {
    /// Makes nothing yet: a lab exists by its VMs. Fails unless run as root.
    pub fn open(config: LabConfig) -> Result<Self> {
        let invalid = |reason: String| {
            Err(Error::InvalidLab {
                lab: config.name.clone(),
                reason,
            })
        };
        if let Err(reason) = names::check_lab(&config.name) {
            return invalid(reason);
        }
        if !nix::unistd::geteuid().is_root() {
            return invalid(
                "a lab makes namespaces, mounts and interfaces: run this as root (sudo)".to_owned(),
            );
        }
        let store = Store::new(&config.name, &config.state_dir, &config.run_dir);
        Ok(Self {
            inner: Arc::new(Inner {
                cgroups: Cgroups::of_this_machine()?,
                store,
                config,
            }),
        })
    }

    pub fn config(&self) -> &LabConfig {
        &self.inner.config
    }

    /// Which of a VM's limits this machine enforces.
    pub fn limits(&self) -> Limits {
        self.inner.cgroups.limits()
    }

    /// Makes the VM's disk, identity and record, and leaves it stopped.
    ///
    /// A VM of that name that a broken-off creation left is wiped; one that is ready, equal and known to nobody is adopted (it may be
    /// running); any other is [`Error::Exists`].
    pub fn create(&self, spec: &VmSpec) -> Result<Vm> {
        spec.validate()?;
        check_machine(spec)?;
        let _lock = self.store().lock_vm(&spec.name, "create")?;
        let existing = self.store().read(&spec.name)?;
        let creation = plan_creation(
            existing.as_ref().map(|record| Existing {
                id: record.id,
                phase: record.phase,
                acknowledged: record.acknowledged,
                spec: &record.spec,
            }),
            spec,
        );
        match (creation, existing) {
            (Creation::Refuse { id, host }, _) => {
                return Err(Error::Exists {
                    lab: self.name().to_owned(),
                    vm: spec.name.clone(),
                    host,
                    id,
                });
            }
            (Creation::Adopt(_), Some(record)) => return self.seen(record),
            _ => {}
        }
        // Also without a record there may be something: a directory whose record was never written, or namespaces of a lost one.
        self.clean(&spec.name, &self.cables(spec, &[]))?;
        self.store().remove_vm(&spec.name)?;
        let mut record = self.reserve(spec)?;
        let places = self.places(&spec.name);
        // The upper layer's root is the VM's root: everyone must be able to pass.
        for (dir, mode) in [
            (&places.upper, 0o755),
            (&places.work, 0o755),
            (&places.root, 0o755),
        ] {
            crate::store::create_dir(dir, mode)?;
        }
        disks::ensure_files(&places.disks, &spec.disks)?;
        let identity = Identity {
            id: record.id,
            first_boot_address: record.first_boot_address,
            mac: &record.macs[0],
        };
        record.ssh_host_key = seed::write(spec, identity, &places.upper)?;
        record.phase = Phase::Ready;
        self.store().write(&record)?;
        Ok(vm(record, PowerState::Stopped))
    }

    /// `Ok(None)` only if there certainly is no such VM. One whose creation was broken off is none.
    pub fn observe(&self, id_or_name: &str) -> Result<Option<Vm>> {
        match self.record(id_or_name)? {
            Some(record) => self.seen(record).map(Some),
            None => Ok(None),
        }
    }

    /// The VM of that name or id, or every VM of that host; [`Error::NotFound`] with what looks alike if there is neither.
    pub fn find(&self, vm_or_host: &str) -> Result<Vec<Vm>> {
        self.with_power_state(self.matching(vm_or_host)?)
    }

    /// Every VM, sorted by name.
    pub fn list(&self) -> Result<Vec<Vm>> {
        self.with_power_state(self.records()?)
    }

    fn with_power_state(&self, records: Vec<Record>) -> Result<Vec<Vm>> {
        let supervisors = process::supervisors()?;
        let seen = |record: Record| {
            let state = self.power_state(&record.spec.name, &supervisors);
            vm(record, state)
        };
        Ok(records.into_iter().map(seen).collect())
    }

    /// Every VM with what can be seen from outside, sorted by name.
    pub fn status(&self) -> Result<Vec<Status>> {
        let supervisors = process::supervisors()?;
        let mut all = Vec::new();
        for record in self.records()? {
            let names = self.names(&record.spec.name);
            let supervisor = self.supervisor_in(&record.spec.name, &supervisors);
            let state = power_state(supervisor.is_some());
            let addresses = if supervisor.is_some() {
                network::addresses(&names)?
            } else {
                Vec::new()
            };
            all.push(Status {
                addresses,
                memory_bytes: supervisor
                    .and_then(|_| self.inner.cgroups.memory_used(&names.cgroup)),
                uptime_seconds: supervisor.map(|supervisor| supervisor.process.uptime().as_secs()),
                vm: vm(record, state),
            });
        }
        Ok(all)
    }

    /// Returns once the VM's process 1 runs; its services follow within seconds. A running VM is left alone.
    pub fn start(&self, id_or_name: &str) -> Result<Vm> {
        let name = self.existing(id_or_name)?.spec.name;
        let _lock = self.store().lock_vm(&name, "start")?;
        let record = self.existing(&name)?;
        if self.supervisor(&name)?.is_none()
            && let Err(error) = self.boot(&record)
        {
            // The error matters more; whatever stays behind is cleaned before the next start.
            if let Err(also) = self.clean(&name, &self.record_cables(&record)) {
                tracing::warn!(vm = name, error = %also, "clean up after a failed start");
            }
            return Err(error);
        }
        Ok(vm(record, PowerState::Running))
    }

    /// Asks the VM's systemd to power off; what still runs after `timeout` is killed. A stopped VM is left alone.
    pub fn stop(&self, id_or_name: &str, timeout: Duration) -> Result<Vm> {
        let name = self.existing(id_or_name)?.spec.name;
        let _lock = self.store().lock_vm(&name, "stop")?;
        let record = self.existing(&name)?;
        if let Some(supervisor) = self.supervisor(&name)? {
            power_off(&supervisor, timeout)?;
        }
        self.clean(&name, &self.record_cables(&record))?;
        Ok(vm(record, PowerState::Stopped))
    }

    /// A power cut: of one VM, or of every VM of a host. Answers with the VMs that it concerned.
    pub fn kill(&self, vm_or_host: &str) -> Result<Vec<Vm>> {
        let records = self.matching(vm_or_host)?;
        in_parallel(&records, |record| {
            let name = &record.spec.name;
            let _lock = self.store().lock_vm(name, "kill")?;
            self.clean(name, &self.record_cables(record))
        })?;
        Ok(records
            .into_iter()
            .map(|record| vm(record, PowerState::Stopped))
            .collect())
    }

    /// Does what [`plan_update`] says: live changes at once, others at the next start. Refuses, before doing anything, what no update
    /// can do.
    pub fn update(&self, id_or_name: &str, desired: &VmSpec) -> Result<Updated> {
        desired.validate()?;
        check_machine(desired)?;
        let name = self.existing(id_or_name)?.spec.name;
        let _lock = self.store().lock_vm(&name, "update")?;
        let mut record = self.existing(&name)?;
        let changes = plan_update(&record.spec, desired);
        for change in &changes {
            let reason = match &change.impact {
                Impact::NeedsReplacement => {
                    "it is part of what the VM was created as: replace the VM".to_owned()
                }
                Impact::Refused { reason } => reason.clone(),
                Impact::Live | Impact::NeedsRestart => continue,
            };
            return Err(Error::ChangeRefused {
                vm: name,
                change: Box::new(change.clone()),
                reason,
            });
        }
        let interfaces_differ =
            record.spec.effective_interfaces() != desired.effective_interfaces();
        let supervisor = self.supervisor(&name)?;
        let mut pending = Vec::new();
        match supervisor.as_ref() {
            Some(supervisor) => {
                self.apply_live(&record.spec, desired, supervisor)?;
                pending = changes
                    .into_iter()
                    .filter(|change| change.impact == Impact::NeedsRestart)
                    .collect();
            }
            None => disks::ensure_files(&self.places(&name).disks, &desired.disks)?,
        }
        if interfaces_differ {
            record.macs = self.macs(desired);
            self.refuse_taken_macs(desired, &record.macs)?;
        }
        record.spec = desired.clone();
        self.store().write(&record)?;
        let state = if supervisor.is_some() {
            PowerState::Running
        } else {
            PowerState::Stopped
        };
        Ok(Updated {
            vm: vm(record, state),
            pending,
        })
    }

    /// Power cut, then removes the VM and its disks. One that is gone already is no error.
    pub fn delete(&self, id_or_name: &str) -> Result<()> {
        let name = match self.record(id_or_name)? {
            Some(record) => record.spec.name,
            None if names::check_label(id_or_name).is_ok() => id_or_name.to_owned(),
            None => return Ok(()),
        };
        let _lock = self.store().lock_vm(&name, "delete")?;
        self.wipe(&name)
    }

    /// Notes that someone's state knows the VM: a creation will not adopt it again.
    pub fn acknowledge(&self, id_or_name: &str) -> Result<()> {
        let record = self.existing(id_or_name)?;
        if record.acknowledged {
            return Ok(());
        }
        let name = record.spec.name;
        let _lock = self.store().lock_vm(&name, "acknowledge")?;
        let record = self.existing(&name)?;
        self.store().write(&Record {
            acknowledged: true,
            ..record
        })
    }

    /// Unplugs the network cables of a VM, or of every VM of a host, until [`Lab::heal`] or the next start.
    pub fn cut(&self, vm_or_host: &str) -> Result<Vec<Vm>> {
        self.plug(vm_or_host, false)
    }

    pub fn heal(&self, vm_or_host: &str) -> Result<Vec<Vm>> {
        self.plug(vm_or_host, true)
    }

    /// A connection made from inside the lab's network, usable from anywhere.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        network::connect(self.name(), to, timeout)
    }

    /// Runs `work` in a thread of its own inside the lab's network: sockets that it opens stay there and can be handed over.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        network::in_netns(&network::netns_path(&names::lab_netns(self.name())), work)
    }

    /// Removes every VM and everything else of the lab, also what a crash or a lost record left.
    pub fn destroy(&self) -> Result<()> {
        let prefix = format!("{}.", names::lab_netns(self.name()));
        let group = format!("ondol/{}", self.name());
        let mut all: BTreeSet<String> = self.store().names()?.into_iter().collect();
        all.extend(network::vms_with_netns(self.name()));
        all.extend(self.inner.cgroups.children(&group));
        in_parallel(&all.into_iter().collect::<Vec<_>>(), |name| {
            let _lock = self.store().lock_vm(name, "destroy")?;
            self.wipe(name)
        })?;
        for supervisor in process::supervisors()?
            .iter()
            .filter(|supervisor| supervisor.machine().starts_with(&prefix))
        {
            end(supervisor)?;
        }
        // Their sockets would keep the namespace alive after it has lost its name.
        process::kill_all(&process::proxies(self.name())?);
        let _lock = self.store().lock_lab("destroy")?;
        network::remove_unknown_ports(self.name(), &[])?;
        network::remove_lab(self.name())?;
        self.inner.cgroups.remove(&group)?;
        self.inner.cgroups.remove_if_empty("ondol");
        self.store().remove_all()
    }

    fn name(&self) -> &str {
        &self.inner.config.name
    }

    fn store(&self) -> &Store {
        &self.inner.store
    }

    fn names(&self, vm: &str) -> VmNames {
        VmNames::new(self.name(), vm)
    }

    fn places(&self, vm: &str) -> Places {
        Places::below(&self.store().vm_dir(vm))
    }

    /// Records of VMs whose creation was finished.
    fn records(&self) -> Result<Vec<Record>> {
        self.each_record()?.collect()
    }

    /// One after the other, so that who looks for one of them does not hold them all.
    fn each_record(&self) -> Result<impl Iterator<Item = Result<Record>>> {
        let read = |name: String| match self.store().read(&name) {
            Ok(record) => record.filter(|record| record.phase == Phase::Ready).map(Ok),
            Err(error) => Some(Err(error)),
        };
        Ok(self.store().names()?.into_iter().filter_map(read))
    }

    fn record(&self, id_or_name: &str) -> Result<Option<Record>> {
        if names::check_label(id_or_name).is_ok()
            && let Some(record) = self.store().read(id_or_name)?
        {
            return Ok(Some(record).filter(|record| record.phase == Phase::Ready));
        }
        match Uuid::parse_str(id_or_name) {
            Ok(id) => self
                .each_record()?
                .find(|record| record.as_ref().map_or(true, |record| record.id == id))
                .transpose(),
            Err(_) => Ok(None),
        }
    }

    fn existing(&self, id_or_name: &str) -> Result<Record> {
        match self.record(id_or_name)? {
            Some(record) => Ok(record),
            None => Err(self.not_found(id_or_name, false)?),
        }
    }

    /// The VM of that name, or the VMs of that host.
    fn matching(&self, vm_or_host: &str) -> Result<Vec<Record>> {
        if let Some(record) = self.record(vm_or_host)? {
            return Ok(vec![record]);
        }
        let records: Vec<Record> = self
            .records()?
            .into_iter()
            .filter(|record| record.spec.host == vm_or_host)
            .collect();
        if records.is_empty() {
            Err(self.not_found(vm_or_host, true)?)
        } else {
            Ok(records)
        }
    }

    fn not_found(&self, name: &str, hosts_too: bool) -> Result<Error> {
        let records = self.records()?;
        let hosts = records
            .iter()
            .map(|record| record.spec.host.as_str())
            .filter(|_| hosts_too);
        let known = records
            .iter()
            .map(|record| record.spec.name.as_str())
            .chain(hosts);
        Ok(Error::NotFound {
            lab: self.name().to_owned(),
            name: name.to_owned(),
            near: near_names(name, known),
        })
    }

    fn supervisor(&self, vm: &str) -> Result<Option<Supervisor>> {
        let (names, places) = (self.names(vm), self.places(vm));
        let found =
            process::supervisors_that(|supervisor| supervisor.is_of(&names.machine, &places.root))?;
        Ok(found.into_iter().next())
    }

    fn supervisor_in<'a>(&self, vm: &str, all: &'a [Supervisor]) -> Option<&'a Supervisor> {
        let (names, places) = (self.names(vm), self.places(vm));
        all.iter()
            .find(|supervisor| supervisor.is_of(&names.machine, &places.root))
    }

    fn power_state(&self, vm: &str, all: &[Supervisor]) -> PowerState {
        power_state(self.supervisor_in(vm, all).is_some())
    }

    fn seen(&self, record: Record) -> Result<Vm> {
        let supervisor = self.supervisor(&record.spec.name)?;
        Ok(vm(record, power_state(supervisor.is_some())))
    }

    fn macs(&self, spec: &VmSpec) -> Vec<String> {
        let names = self.names(&spec.name);
        let interfaces = spec.effective_interfaces();
        interfaces
            .into_iter()
            .map(|InterfaceSpec { name, mac }| mac.unwrap_or_else(|| names.mac(&name)))
            .collect()
    }

    fn cables(&self, spec: &VmSpec, macs: &[String]) -> Vec<Cable> {
        let names = self.names(&spec.name);
        let interfaces = spec.effective_interfaces();
        let macs = macs.iter().cloned().chain(std::iter::repeat(String::new()));
        interfaces
            .into_iter()
            .zip(macs)
            .map(|(interface, mac)| Cable {
                port: names.port(&interface.name),
                interface: interface.name,
                mac,
            })
            .collect()
    }

    fn record_cables(&self, record: &Record) -> Vec<Cable> {
        self.cables(&record.spec, &record.macs)
    }

    fn refuse_taken_macs(&self, spec: &VmSpec, macs: &[String]) -> Result<()> {
        for name in self
            .store()
            .names()?
            .into_iter()
            .filter(|name| *name != spec.name)
        {
            let Some(other) = self.store().read(&name)? else {
                continue;
            };
            if let Some(index) = macs.iter().position(|mac| other.macs.contains(mac)) {
                return Err(Error::InvalidSpec {
                    vm: spec.name.clone(),
                    field: format!("interfaces[{index}].mac"),
                    reason: format!("{} is taken by \"{name}\"", macs[index]),
                });
            }
        }
        Ok(())
    }

    /// Chooses what must be unique in the lab and writes the record that says so, before anything else of the VM exists.
    fn reserve(&self, spec: &VmSpec) -> Result<Record> {
        let _lock = self.store().lock_lab("choose addresses")?;
        let macs = self.macs(spec);
        self.refuse_taken_macs(spec, &macs)?;
        let mut taken: BTreeSet<Ipv4Addr> = BTreeSet::new();
        for name in self.store().names()? {
            taken.extend(
                self.store()
                    .read(&name)?
                    .map(|record| record.first_boot_address),
            );
        }
        let record = Record {
            id: Uuid::new_v4(),
            phase: Phase::Creating,
            acknowledged: false,
            first_boot_address: names::first_boot_candidates(&macs[0])
                .find(|address| !taken.contains(address))
                .expect("a lab has fewer than 65024 VMs"),
            macs,
            ssh_host_key: String::new(),
            spec: spec.clone(),
        };
        self.store().write(&record)?;
        Ok(record)
    }

    fn apply_live(
        &self,
        current: &VmSpec,
        desired: &VmSpec,
        supervisor: &Supervisor,
    ) -> Result<()> {
        let group = self.names(&current.name).cgroup;
        if current.cpus != desired.cpus {
            self.inner.cgroups.set_cpus(&group, desired.cpus)?;
        }
        if current.memory_mib != desired.memory_mib {
            self.inner.cgroups.set_memory(&group, desired.memory_mib)?;
        }
        let places = self.places(&current.name);
        // Files of disks that go stay until the guest lets go of them: the next start removes them.
        let union: BTreeMap<_, _> = current
            .disks
            .iter()
            .chain(&desired.disks)
            .map(|(key, disk)| (key.clone(), *disk))
            .collect();
        disks::ensure_files(&places.disks, &union)?;
        for key in desired.disks.keys() {
            match current.disks.get(key) {
                Some(before) if before != &desired.disks[key] => {
                    disks::refresh(&places.disks, key)?
                }
                Some(_) => {}
                None => self.plug_disk(&current.name, supervisor, &places, key)?,
            }
        }
        Ok(())
    }

    fn plug(&self, vm_or_host: &str, plugged: bool) -> Result<Vec<Vm>> {
        let records = self.matching(vm_or_host)?;
        let supervisors = process::supervisors()?;
        let act = if plugged {
            "heal its network"
        } else {
            "cut its network"
        };
        for record in &records {
            let name = &record.spec.name;
            if self.supervisor_in(name, &supervisors).is_none() {
                return Err(Error::NotRunning {
                    lab: self.name().to_owned(),
                    vm: name.clone(),
                    act: act.to_owned(),
                });
            }
        }
        for record in &records {
            let _lock = self.store().lock_vm(&record.spec.name, act)?;
            network::set_plugged(
                &self.names(&record.spec.name),
                &self.record_cables(record),
                plugged,
            )?;
        }
        Ok(records
            .into_iter()
            .map(|record| vm(record, PowerState::Running))
            .collect())
    }
}

fn vm(record: Record, state: PowerState) -> Vm {
    Vm {
        id: record.id,
        state,
        first_boot_address: record.first_boot_address,
        macs: record.macs,
        ssh_host_key: record.ssh_host_key,
        acknowledged: record.acknowledged,
        spec: record.spec,
    }
}

/// What a spec needs of the machine, with the field named that asks too much.
fn check_machine(spec: &VmSpec) -> Result<()> {
    let invalid = |field: String, reason: String| {
        Err(Error::InvalidSpec {
            vm: spec.name.clone(),
            field,
            reason,
        })
    };
    if !spec.image.join("etc/os-release").exists() {
        return invalid(
            "image".into(),
            format!(
                "{} is not a root file system (it has no etc/os-release)",
                spec.image.display()
            ),
        );
    }
    for (key, folder) in &spec.shared_folders {
        if !folder.host_path.exists() {
            return invalid(
                format!("shared_folders.{key}.host_path"),
                format!("{} does not exist", folder.host_path.display()),
            );
        }
    }
    for (wanted, field, device) in [
        (spec.features.tun, "features.tun", nspawn::TUN),
        (spec.features.fuse, "features.fuse", "/dev/fuse"),
    ] {
        if wanted && !Path::new(device).exists() {
            return invalid(field.into(), format!("this machine has no {device}"));
        }
    }
    Ok(())
}

fn power_state(has_supervisor: bool) -> PowerState {
    if has_supervisor {
        PowerState::Running
    } else {
        PowerState::Stopped
    }
}

/// Does `work` for each item, some at a time; all are tried, the first error is the answer.
fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    const AT_A_TIME: usize = 8;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_A_TIME.min(items.len()))
            .map(|_| {
                scope.spawn(|| {
                    let mut result = Ok(());
                    while let Some(item) =
                        items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        result = result.and(work(item));
                    }
                    result
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join())
            .collect::<Vec<_>>()
    });
    for result in results {
        match result {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(())
}
