//! What the provider asks of a hypervisor, in words that fit both a container on this machine and
//! VBoxManage on another one.
//!
//! Values and a trait only: no engine is implemented here, and nothing here knows Terraform.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use ondol_virtualbox::answer::HostAdapter;
pub use ondol_virtualbox::command::{
    Attachment, BootDevice, Chipset, Firmware, Forward, NicModel, Promiscuous, Protocol,
};
pub use ondol_virtualbox::spec::{Hardware, StaticNetwork};
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

use crate::engines::virtualbox::VirtualBoxEngine;

/// A byte stream to a guest.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub type BoxStream = Box<dyn Stream>;

/// What an asynchronous act returns. Boxed, because engines are chosen at run time.
pub type Act<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens a stream to an address in the guests' network, within the given time.
pub type Connector =
    Arc<dyn Fn(SocketAddr, Duration) -> Act<'static, std::io::Result<BoxStream>> + Send + Sync>;

/// Connects straight from this machine: for hosts and for tests.
pub fn direct_connector() -> Connector {
    Arc::new(|address, timeout| {
        Box::pin(async move {
            match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(address)).await {
                Ok(stream) => stream.map(|stream| Box::new(stream) as BoxStream),
                Err(_) => Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("no answer within {} s", timeout.as_secs()),
                )),
            }
        })
    })
}

/// Everything that decides what a VM is, in units that every engine shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    pub name: String,
    pub image: PathBuf,
    /// Share the image's blocks instead of copying them.
    pub linked_clone: bool,
    pub cpus: u32,
    pub memory_mib: u64,
    /// What is left open is not managed.
    pub hardware: Hardware,
    /// Size of the disk that the image became; `None` leaves it as it is.
    pub system_disk_mib: Option<u64>,
    /// Data disks by key, in MiB.
    pub disks: BTreeMap<String, u64>,
    /// In adapter order. Empty means the engine's default: one adapter.
    pub network_interfaces: Vec<NetworkInterface>,
    pub shared_folders: BTreeMap<String, SharedFolder>,
    pub seed: Seed,
    pub lab: LabFeatures,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Name inside the guest.
    pub name: String,
    pub mac_address: Option<String>,
    /// Where its cable leads. `None`, here and below, is the engine's choice.
    pub attachment: Option<Attachment>,
    pub model: Option<NicModel>,
    pub promiscuous: Option<Promiscuous>,
    pub cable_connected: Option<bool>,
    pub port_forwards: BTreeMap<String, Forward>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFolder {
    pub host_path: PathBuf,
    pub guest_path: PathBuf,
    pub read_only: bool,
}

/// What is put on a VM's disk before its first boot. Empty for a VM that was made without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seed {
    pub user: String,
    pub authorized_keys: Vec<String>,
    pub sudo: bool,
    /// Of the first adapter. `None`: the guest asks the network, and has its first-boot address.
    pub network: Option<StaticNetwork>,
}

/// Rights that only the lab's containers need; a virtual machine has them by nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LabFeatures {
    pub containers: bool,
    pub tun: bool,
    pub fuse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    Running,
    Stopped,
}

impl PowerState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A VM as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    pub id: Uuid,
    pub spec: VmSpec,
    pub state: PowerState,
    /// Where it answers before it has a netplan. Never changes.
    pub first_boot_address: IpAddr,
    /// Where it confirmed its netplan, for an engine that cannot ask its guests; see [`Engine::note_address`].
    pub confirmed_address: Option<IpAddr>,
    /// OpenSSH form, without a comment.
    pub ssh_host_key: String,
    pub mac_addresses: Vec<String>,
    /// Someone's state holds it.
    pub acknowledged: bool,
    /// Its engine has hardware to configure. One that has not passes over wishes about it, and knows nothing of them afterwards; the
    /// same holds the other way round for [`LabFeatures`].
    pub has_hardware: bool,
}

impl Vm {
    /// The spec as it was found, with `wish`'s word for what the engine passes over.
    pub fn spec_beside(&self, wish: &VmSpec) -> VmSpec {
        let mut spec = self.spec.clone();
        if self.has_hardware {
            spec.lab = wish.lab;
            return spec;
        }
        spec.linked_clone = wish.linked_clone;
        spec.hardware = wish.hardware.clone();
        spec.system_disk_mib = wish.system_disk_mib;
        spec.seed.network = wish.seed.network.clone();
        for (found, wished) in spec
            .network_interfaces
            .iter_mut()
            .zip(&wish.network_interfaces)
        {
            *found = NetworkInterface {
                name: found.name.clone(),
                mac_address: found.mac_address.clone(),
                ..wished.clone()
            };
        }
        spec
    }
}

/// When a change can take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impact {
    Live,
    Restart,
    Replace,
    Refused(String),
}

/// One field of a [`VmSpec`] that differs. `field` is a path in Terraform's words, `disks["data"].size_mib`
/// being `["disks", "data", "size_mib"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub field: Vec<String>,
    pub from: String,
    pub to: String,
    pub impact: Impact,
}

/// A host's own capacity and tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    pub engine: &'static str,
    pub cpus: u32,
    pub memory_mib: u64,
    /// Where the VMs' disks live.
    pub disk_free_mib: u64,
    pub memory_free_mib: Option<u64>,
    /// Tool to the version it prints.
    pub tools: BTreeMap<String, String>,
    pub operating_system: Option<String>,
    /// VT-x or AMD-V, usable.
    pub cpu_virtualization: Option<bool>,
    /// The engine's kernel driver is there.
    pub driver: Option<bool>,
    /// Another hypervisor that holds the processor's virtualization.
    pub hypervisor: Option<String>,
    /// Windows' virtualization-based security runs.
    pub vbs: Option<bool>,
    /// What VMs can be bridged with.
    pub adapters: Vec<HostAdapter>,
}

/// Why an engine could not do something. `host` is a key of the provider's `hosts`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing can be said about any VM of this host.
    #[error("{act}: hosts[{host:?}] cannot be reached: {words}. {remedy}")]
    Unreachable {
        host: String,
        act: String,
        words: String,
        remedy: String,
    },
    /// The wish itself is impossible. `field` as in [`Change`].
    #[error("{}: {reason}", .field.join("."))]
    Invalid {
        host: String,
        field: Vec<String>,
        reason: String,
    },
    #[error("{words}")]
    Exists {
        host: String,
        vm: String,
        words: String,
    },
    #[error("{act} on host {host:?}: {words}")]
    Failed {
        host: String,
        act: String,
        words: String,
    },
}

/// A hypervisor on one host of the provider's `hosts` map.
///
/// Reads answer `Ok(None)` only when the VM certainly does not exist; a host that cannot be asked is
/// [`EngineError::Unreachable`]. Acts are idempotent: what is already as wanted succeeds.
pub trait Engine: Send + Sync {
    /// The key in `hosts`.
    fn host(&self) -> &str;
    /// Itself, where VirtualBox runs the VMs: for what no other engine has.
    fn virtualbox(&self) -> Option<&VirtualBoxEngine> {
        None
    }
    /// Tells networks apart in which the same address may exist twice.
    fn network_scope(&self) -> String;
    /// Whether the host can be used at all: its tools, its rights, its storage.
    fn check(&self) -> Act<'_, Result<(), EngineError>>;
    /// Whether this engine can make such a VM. Pure.
    fn validate(&self, spec: &VmSpec) -> Result<(), EngineError>;
    /// Whether the host has what the VM names: adapters, networks, guest systems. Asked when a VM is planned that does not exist yet.
    fn check_wish<'a>(&'a self, _: &'a VmSpec) -> Act<'a, Result<(), EngineError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// Whether another seed makes another VM. Where not, it is applied at the next start.
    fn seed_replaces(&self) -> bool {
        true
    }
    fn facts(&self) -> Act<'_, Result<HostFacts, EngineError>>;
    /// `id_or_name`: a UUID, or a name on this host.
    fn observe<'a>(&'a self, id_or_name: &'a str) -> Act<'a, Result<Option<Vm>, EngineError>>;
    /// The VMs of this host.
    fn list(&self) -> Act<'_, Result<Vec<Vm>, EngineError>>;
    /// Makes a VM, stopped. One that an interrupted creation left is completed or made anew; one that
    /// somebody else made is [`EngineError::Exists`].
    fn create<'a>(&'a self, spec: &'a VmSpec) -> Act<'a, Result<Vm, EngineError>>;
    /// Someone's state holds the VM now: it is no leftover any more.
    fn acknowledge<'a>(&'a self, id: &'a str) -> Act<'a, Result<(), EngineError>>;
    /// What turning one spec into the other means. Pure.
    fn plan_update(&self, current: &VmSpec, desired: &VmSpec) -> Vec<Change>;
    /// Applies what can be applied; says what waits for the next start.
    fn update<'a>(
        &'a self,
        id: &'a str,
        desired: &'a VmSpec,
    ) -> Act<'a, Result<Vec<Change>, EngineError>>;
    /// Stopping is graceful for `patience`, then a power cut.
    fn power<'a>(
        &'a self,
        id: &'a str,
        wanted: PowerState,
        patience: Duration,
    ) -> Act<'a, Result<(), EngineError>>;
    fn delete<'a>(&'a self, id: &'a str) -> Act<'a, Result<(), EngineError>>;
    /// Addresses that the running guest has now, as the hypervisor knows them; empty if it cannot tell.
    fn guest_addresses<'a>(&'a self, id: &'a str) -> Act<'a, Result<Vec<IpAddr>, EngineError>>;
    /// Notes where a guest answers now that its network was changed, for an engine that cannot tell by [`Engine::guest_addresses`].
    fn note_address<'a>(&'a self, _: &'a str, _: IpAddr) -> Act<'a, Result<(), EngineError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// The way to the guests' network.
    fn connector(&self) -> Connector;
}
