//! The attributes of `ondol_vm`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Timeouts, attribute};

use crate::engine::PowerState;

/// A VM on one of the provider's hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The VM's UUID.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// The host that carries it, a key of the provider's `hosts`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// The VM's name and host name: a DNS label.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub name: Attr<String>,
    /// The image that a new VM's disk starts from: `path` of an `ondol_golden_image`, and with VirtualBox an .ova, .vmdk, .vdi or .vhd
    /// on the machine that runs Terraform, which is brought to the host once and kept there by its checksum. An existing VM keeps its disk: another
    /// image is only noted, and is used once the VM is made anew (`terraform apply -replace`, or `replace_on_image_change`).
    /// `disk_image` says which one its disk was made from.
    #[schemars(transform = attribute::required)]
    pub image: Attr<String>,
    /// Makes the VM anew, with an empty disk, whenever `image` is not the one that its disk was made from.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub replace_on_image_change: Attr<bool>,
    /// Number of CPUs.
    #[schemars(transform = attribute::optional_computed, extend("default" = 1))]
    pub cpus: Attr<u32>,
    /// Memory in MiB.
    #[schemars(transform = attribute::required)]
    pub memory_mib: Attr<u64>,
    /// VirtualBox's identifier of the guest system, from `VBoxManage list ostypes`. Default: `Linux_64`. Like all hardware of a virtual
    /// machine, the lab passes over it; left out, a VM's present value is left alone.
    pub os_type: Attr<String>,
    /// What starts the guest: `bios`, `efi`, `efi32` or `efi64`.
    pub firmware: Attr<String>,
    /// `piix3` or `ich9`.
    pub chipset: Attr<String>,
    /// Video memory in MiB.
    pub vram_mib: Attr<u32>,
    /// Whether the guest can run virtual machines itself.
    pub nested_virtualization: Attr<bool>,
    /// What the guest starts from, in order: up to four of `disk`, `dvd`, `net` and `floppy`.
    pub boot_order: Attr<Vec<String>>,
    /// A file on the host that takes what the guest writes to its first serial port; the empty text is a guest without that port.
    pub serial_file: Attr<String>,
    /// Whether the host starts the VM when it starts itself. VirtualBox must be set up for it (`autostartdbpath`).
    pub autostart: Attr<bool>,
    /// Size in MiB of the disk that the image becomes. It can grow; shrinking is refused. Default: the image's own.
    pub system_disk_mib: Attr<u64>,
    /// Share the image's blocks with the host's other VMs instead of copying them. Made once: another value makes another VM.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub linked_clone: Attr<bool>,
    /// Data disks by key. They can be added and grown; shrinking is refused.
    pub disks: Attr<BTreeMap<String, Disk>>,
    /// Network adapters in order. Default: one, `enp0s3` in the guest.
    pub network_interfaces: Attr<Vec<Interface>>,
    /// Directories of the host that the guest sees, by key.
    pub shared_folders: Attr<BTreeMap<String, Folder>>,
    /// What the guest is told before its first boot. In the lab another seed makes another VM; with VirtualBox the medium is written
    /// anew and the guest's cloud-init applies it at its next start. A new VM needs it; left out, that of a VM that exists is left alone.
    pub seed: Attr<SeedModel>,
    /// Rights of the lab's containers. A virtual machine has them anyway.
    pub lab: Attr<LabModel>,
    /// Whether it should run. A VM that was stopped or killed behind Terraform's back is started again.
    #[schemars(transform = attribute::optional_computed, extend("default" = "running"))]
    pub power: Attr<Power>,
    /// What to wait for after a start: `ip` until the hypervisor knows an address of the guest, `ssh` until its SSH server answers.
    #[schemars(transform = attribute::optional_computed, extend("default" = "none"))]
    pub wait_for: Attr<WaitFor>,
    /// Refuses to destroy or replace the VM.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub protected: Attr<bool>,
    /// The image that the VM's disk was made from, as found. It stays in use for as long as the VM lives.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub disk_image: Attr<String>,
    /// `running` or `stopped`, as found.
    #[schemars(transform = attribute::computed)]
    pub state: Attr<String>,
    /// Where the guest answers before it has a netplan.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub first_boot_address: Attr<String>,
    /// The guest's SSH host key, to be pinned: `ssh-ed25519 AAAA...`.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub ssh_host_key: Attr<String>,
    /// Hardware addresses of the adapters, in order.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub mac_addresses: Attr<Vec<String>>,
    pub timeouts: Attr<Timeouts>,
}

/// A data disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// Size in MiB.
    #[schemars(transform = attribute::required)]
    pub size_mib: Attr<u64>,
}

/// A network adapter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interface {
    /// Its name in the guest, for example `enp0s3`.
    #[schemars(transform = attribute::required)]
    pub name: Attr<String>,
    /// Its hardware address. Left out, the engine chooses one.
    pub mac_address: Attr<String>,
    /// Where its cable leads with VirtualBox: `bridged`, `nat`, `hostonly`, `hostonlynet` (macOS), `intnet` or `natnetwork`. Default: bridged
    /// with the host's `virtualbox.bridged_adapter`, else `nat`.
    #[serde(rename = "type")]
    pub kind: Attr<String>,
    /// The host's adapter or the network that the cable leads to; all types but `nat` need it.
    pub adapter: Attr<String>,
    /// The hardware that it imitates: `82540EM`, `82543GC`, `82545EM`, `Am79C970A`, `Am79C973` or `virtio`.
    pub model: Attr<String>,
    /// Which packets of others the guest may see: `deny`, `allow-vms` or `allow-all`.
    pub promiscuous: Attr<String>,
    /// Whether the cable is plugged in.
    pub cable_connected: Attr<bool>,
    /// Ports of the host that lead to the guest, by name; with `nat` only.
    pub port_forwards: Attr<BTreeMap<String, PortForward>>,
}

/// A port of the host that leads to one of the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortForward {
    /// `tcp` or `udp`.
    #[schemars(transform = attribute::optional_computed, extend("default" = "tcp"))]
    pub protocol: Attr<String>,
    /// The host's address to listen on. Default: all of them.
    pub host_address: Attr<String>,
    #[schemars(transform = attribute::required, range(min = 1, max = 65535))]
    /// Port of the host.
    pub host_port: Attr<u16>,
    #[schemars(transform = attribute::required, range(min = 1, max = 65535))]
    /// Port of the guest.
    pub guest_port: Attr<u16>,
}

/// A directory of the host that the guest sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Folder {
    /// Absolute path on the host.
    #[schemars(transform = attribute::required)]
    pub host_path: Attr<String>,
    /// Absolute path in the guest.
    #[schemars(transform = attribute::required)]
    pub guest_path: Attr<String>,
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    /// The guest cannot write to it.
    pub read_only: Attr<bool>,
}

/// The first account of a guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SeedModel {
    /// The user's name. `root` is allowed.
    #[schemars(transform = attribute::required)]
    pub user: Attr<String>,
    /// Public keys that may log in as that user, one line each.
    #[schemars(transform = attribute::required)]
    pub authorized_keys: Attr<Vec<String>>,
    /// Whether the user may become root without a password.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub sudo: Attr<bool>,
    /// The first adapter's network with VirtualBox. Left out, the guest asks a DHCP server and has a first-boot address besides. A final
    /// address is better given to `ondol_netplan`, which can change it without a restart.
    pub network: Attr<SeedNetwork>,
}

/// A guest's first network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SeedNetwork {
    /// Addresses, each with its prefix length.
    #[schemars(transform = attribute::required)]
    pub addresses: Attr<Vec<String>>,
    /// The way out.
    pub gateway: Attr<String>,
    /// DNS servers.
    pub nameservers: Attr<Vec<String>>,
}

/// Rights of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LabModel {
    /// Docker, containerd and Kubernetes can run in it.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub containers: Attr<bool>,
    /// It has /dev/net/tun.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub tun: Attr<bool>,
    /// It has /dev/fuse.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub fuse: Attr<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    Running,
    Stopped,
}

impl From<Power> for PowerState {
    fn from(power: Power) -> Self {
        match power {
            Power::Running => Self::Running,
            Power::Stopped => Self::Stopped,
        }
    }
}

impl From<PowerState> for Power {
    fn from(state: PowerState) -> Self {
        match state {
            PowerState::Running => Self::Running,
            PowerState::Stopped => Self::Stopped,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    None,
    Ip,
    Ssh,
}

/// What finds a VM for import.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// A key of the provider's `hosts`.
    #[schemars(transform = attribute::required)]
    pub host: Attr<String>,
    /// The VM's UUID.
    #[schemars(transform = attribute::required)]
    pub id: Attr<String>,
}
