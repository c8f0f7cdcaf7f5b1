//! `ondol_vm`: a VM on a host.
//!
//! It makes the machine and keeps its shape and power as wanted. What runs inside, its final address
//! included, is not its concern: that is `ondol_netplan`'s and Ansible's.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Interrupted, Operation, Planned,
    Resource, Timeouts, attribute, path,
};
use tokio::io::AsyncReadExt as _;

use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::{
    Attachment, BootDevice, Change, Chipset, Engine, Firmware, Forward, Hardware, Impact,
    LabFeatures, NetworkInterface, NicModel, PowerState, Promiscuous, Protocol, Seed, SharedFolder,
    StaticNetwork, Vm, VmSpec,
};
use crate::topology::bad_label;

/// How long a guest may take to shut down before its power is cut.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);
/// How long an act that should not be broken off goes on after Terraform has asked to stop. Well below the SDK's own
/// patience, after which an operation is abandoned without a word of its own.
const LAST_MOMENT: Duration = Duration::from_millis(2500);
const SSH_PORT: u16 = 22;

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
    /// anew and the guest's cloud-init applies it at its next start.
    #[schemars(transform = attribute::required)]
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
    /// Where its cable leads with VirtualBox: `bridged`, `nat`, `hostonly`, `intnet` or `natnetwork`. Default: bridged with the host's
    /// `virtualbox.bridged_adapter`, else `nat`.
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

impl Model {
    /// The spec that the model asks for; `None` while something in it is unknown or, before an import's first read, absent.
    fn spec(&self) -> Option<VmSpec> {
        let disks = match &self.disks {
            Attr::Unknown => return None,
            disks => disks
                .known()
                .into_iter()
                .flatten()
                .map(|(key, disk)| Some((key.clone(), *disk.size_mib.known()?))),
        };
        let interfaces = match &self.network_interfaces {
            Attr::Unknown => return None,
            interfaces => interfaces
                .known()
                .into_iter()
                .flatten()
                .map(Interface::spec),
        };
        let folders = match &self.shared_folders {
            Attr::Unknown => return None,
            folders => folders.known().into_iter().flatten().map(|(key, folder)| {
                let folder = SharedFolder {
                    host_path: PathBuf::from(folder.host_path.known()?),
                    guest_path: PathBuf::from(folder.guest_path.known()?),
                    read_only: folder.read_only.unwrap_or(false),
                };
                Some((key.clone(), folder))
            }),
        };
        let lab = match &self.lab {
            Attr::Unknown => return None,
            Attr::Null => LabFeatures::default(),
            Attr::Known(lab) => LabFeatures {
                containers: lab.containers.unwrap_or(false),
                tun: lab.tun.unwrap_or(false),
                fuse: lab.fuse.unwrap_or(false),
            },
        };
        Some(VmSpec {
            name: self.name.known()?.clone(),
            image: PathBuf::from(self.image.known()?),
            linked_clone: self.linked_clone.unwrap_or(false),
            cpus: self.cpus.unwrap_or(1),
            memory_mib: *self.memory_mib.known()?,
            hardware: self.hardware()?,
            system_disk_mib: settled(&self.system_disk_mib)?,
            disks: disks.collect::<Option<_>>()?,
            network_interfaces: interfaces.collect::<Option<_>>()?,
            shared_folders: folders.collect::<Option<_>>()?,
            seed: self.seed.known()?.spec()?,
            lab,
        })
    }

    /// `None` while something in it is unknown.
    fn hardware(&self) -> Option<Hardware> {
        let word = |attribute: &Attr<String>| settled(attribute);
        Some(Hardware {
            os_type: word(&self.os_type)?,
            vram_mib: settled(&self.vram_mib)?,
            firmware: word(&self.firmware)?
                .as_deref()
                .and_then(Firmware::from_word),
            chipset: word(&self.chipset)?.as_deref().and_then(Chipset::from_word),
            nested_virtualization: settled(&self.nested_virtualization)?,
            boot_order: settled(&self.boot_order)?.map(|order| {
                order
                    .iter()
                    .filter_map(|word| BootDevice::from_word(word))
                    .collect()
            }),
            serial_file: word(&self.serial_file)?,
            autostart: settled(&self.autostart)?,
        })
    }

    /// Takes over what was found of the hardware, as far as it is managed.
    fn observe_hardware(&mut self, found: &VmSpec, before: Option<&VmSpec>) {
        let hardware = &found.hardware;
        /// What was left open stays open; what says the same stays as it was written.
        macro_rules! manage {
            ($field:ident, $found:expr, $same:expr) => {
                if !self.$field.is_null() && !$same {
                    self.$field = $found.into();
                }
            };
        }
        let wished = before.map(|before| &before.hardware);
        macro_rules! manage_word {
            ($field:ident, $show:expr) => {
                manage!(
                    $field,
                    hardware.$field.clone().map($show),
                    wished.is_some_and(|it| it.$field == hardware.$field)
                )
            };
        }
        manage_word!(os_type, |it| it);
        manage_word!(vram_mib, |it| it);
        manage_word!(firmware, |it| it.word().to_owned());
        manage_word!(chipset, |it| it.word().to_owned());
        manage_word!(nested_virtualization, |it| it);
        manage_word!(serial_file, |it| it);
        manage_word!(autostart, |it| it);
        let order = |order: Option<&Vec<BootDevice>>| -> Vec<String> {
            let devices = order.into_iter().flatten();
            devices
                .filter(|device| **device != BootDevice::None)
                .map(|device| device.word().to_owned())
                .collect()
        };
        let (have, want) = (
            order(hardware.boot_order.as_ref()),
            order(wished.and_then(|it| it.boot_order.as_ref())),
        );
        manage!(boot_order, have.clone(), have == want);
        manage!(
            system_disk_mib,
            found.system_disk_mib,
            before.is_some_and(|it| it.system_disk_mib == found.system_disk_mib)
        );
        if before.is_none_or(|before| before.linked_clone != found.linked_clone) {
            self.linked_clone = found.linked_clone.into();
        }
    }

    /// Takes over what was found of the adapters, as far as it is managed.
    fn observe_interfaces(&mut self, found: &[NetworkInterface], before: Option<&VmSpec>) {
        let wished = before.map(|before| before.network_interfaces.as_slice());
        let same = wished.is_some_and(|wished| {
            wished.len() == found.len()
                && wished
                    .iter()
                    .zip(found)
                    .all(|(wished, found)| agrees(wished, found))
        });
        if same {
            return;
        }
        let written = self.network_interfaces.known().cloned().unwrap_or_default();
        let interfaces: Vec<Interface> = found
            .iter()
            .enumerate()
            .map(|(index, found)| Interface::observed(written.get(index), found))
            .collect();
        self.network_interfaces = if interfaces.is_empty() {
            Attr::Null
        } else {
            interfaces.into()
        };
    }

    /// Takes over what was found. What says the same in other words (`{}` for nothing, a key with a line
    /// break) stays as it was written, so that it is no difference.
    fn observed(mut self, host: &str, vm: &Vm) -> Self {
        let before = self.spec();
        let found = &before
            .as_ref()
            .map_or_else(|| vm.spec.clone(), |before| vm.spec_beside(before));
        self.observe_hardware(found, before.as_ref());
        self.observe_interfaces(&found.network_interfaces, before.as_ref());
        macro_rules! take {
            ($field:ident, $value:expr) => {
                if before
                    .as_ref()
                    .is_none_or(|before| before.$field != found.$field)
                {
                    self.$field = $value;
                }
            };
        }
        take!(name, found.name.clone().into());
        take!(cpus, found.cpus.into());
        take!(memory_mib, found.memory_mib.into());
        take!(
            disks,
            unless_empty(
                found
                    .disks
                    .iter()
                    .map(|(key, &size)| (
                        key.clone(),
                        Disk {
                            size_mib: size.into()
                        }
                    ))
                    .collect()
            )
        );
        take!(
            shared_folders,
            unless_empty(
                found
                    .shared_folders
                    .iter()
                    .map(|(key, folder)| (key.clone(), Folder::from(folder)))
                    .collect()
            )
        );
        take!(
            seed,
            SeedModel {
                user: found.seed.user.clone().into(),
                authorized_keys: found.seed.authorized_keys.clone().into(),
                sudo: found.seed.sudo.into(),
                network: found.seed.network.as_ref().map(SeedNetwork::from).into(),
            }
            .into()
        );
        take!(
            lab,
            if found.lab == LabFeatures::default() {
                Attr::Null
            } else {
                LabModel::from(found.lab).into()
            }
        );
        self.disk_image = found.image.display().to_string().into();
        self.host = host.into();
        self.id = vm.id.to_string().into();
        self.state = vm.state.as_str().into();
        self.first_boot_address = vm.first_boot_address.to_string().into();
        self.ssh_host_key = vm.ssh_host_key.clone().into();
        self.mac_addresses = vm.mac_addresses.clone().into();
        // Only an import comes without these. The image is a wish, which what is found does not change.
        if self.image.is_null() {
            self.image = self.disk_image.clone();
        }
        if self.replace_on_image_change.is_null() {
            self.replace_on_image_change = false.into();
        }
        if self.power.is_null() {
            self.power = Power::from(vm.state).into();
        }
        if self.wait_for.is_null() {
            self.wait_for = WaitFor::None.into();
        }
        if self.protected.is_null() {
            self.protected = false.into();
        }
        if self.linked_clone.is_null() {
            self.linked_clone = false.into();
        }
        self
    }

    fn wanted_power(&self) -> PowerState {
        self.power.unwrap_or(Power::Running).into()
    }

    fn label(&self) -> String {
        format!(
            "{:?} on host {:?}",
            self.name.as_str().unwrap_or("?"),
            self.host.as_str().unwrap_or("?")
        )
    }
}

impl SeedModel {
    /// `None` while something in it is unknown.
    fn spec(&self) -> Option<Seed> {
        let keys = self.authorized_keys.known()?;
        let sudo = match self.sudo {
            Attr::Known(sudo) => sudo,
            Attr::Null => true,
            Attr::Unknown => return None,
        };
        Some(Seed {
            user: self.user.known()?.clone(),
            // A key read with file() ends in a line break.
            authorized_keys: keys.iter().map(|key| key.trim().to_owned()).collect(),
            sudo,
            network: match settled(&self.network)? {
                Some(network) => Some(network.spec()?),
                None => None,
            },
        })
    }
}

impl SeedNetwork {
    /// `None` while something in it is unknown.
    fn spec(&self) -> Option<StaticNetwork> {
        let servers = settled(&self.nameservers)?.unwrap_or_default();
        Some(StaticNetwork {
            addresses: self.addresses.known()?.clone(),
            gateway: settled(&self.gateway)?.and_then(|it| it.parse().ok()),
            nameservers: servers.iter().filter_map(|it| it.parse().ok()).collect(),
        })
    }

    fn validate(&self, at: &tfplugin::Path, diagnostics: &mut Diagnostics) {
        for (index, address) in self.addresses.known().into_iter().flatten().enumerate() {
            if address.parse::<ipnet::IpNet>().is_err() {
                diagnostics::complain(
                    diagnostics,
                    at.child("addresses").child(index),
                    format!("{address:?} is not an address with its prefix length"),
                    "Write it like \"192.168.10.11/24\".",
                );
            }
        }
        let servers = self.nameservers.known().into_iter().flatten().enumerate();
        let servers = servers.map(|(index, server)| (at.child("nameservers").child(index), server));
        let gateway = self
            .gateway
            .known()
            .map(|gateway| (at.child("gateway"), gateway));
        for (at, address) in servers.chain(gateway) {
            if address.parse::<IpAddr>().is_err() {
                let summary = format!("{address:?} is not an IP address");
                diagnostics::complain(
                    diagnostics,
                    at,
                    summary,
                    "Write it without a prefix length.",
                );
            }
        }
    }
}

impl From<&StaticNetwork> for SeedNetwork {
    fn from(network: &StaticNetwork) -> Self {
        let servers: Vec<String> = network
            .nameservers
            .iter()
            .map(ToString::to_string)
            .collect();
        Self {
            addresses: network.addresses.clone().into(),
            gateway: network.gateway.map(|gateway| gateway.to_string()).into(),
            nameservers: if servers.is_empty() {
                Attr::Null
            } else {
                servers.into()
            },
        }
    }
}

/// The value, or nothing where it is left out; `None` while it is unknown.
fn settled<T: Clone>(attribute: &Attr<T>) -> Option<Option<T>> {
    match attribute {
        Attr::Unknown => None,
        Attr::Null => Some(None),
        Attr::Known(value) => Some(Some(value.clone())),
    }
}

/// Whether an adapter is as it was wished; what the wish leaves open may be anything.
fn agrees(wished: &NetworkInterface, found: &NetworkInterface) -> bool {
    fn fits<T: PartialEq>(wished: Option<T>, found: Option<T>) -> bool {
        wished.is_none() || wished == found
    }
    let plain = |mac: &Option<String>| mac.as_deref().map(str::to_ascii_lowercase);
    wished.name == found.name
        && fits(plain(&wished.mac_address), plain(&found.mac_address))
        && fits(wished.attachment.as_ref(), found.attachment.as_ref())
        && fits(wished.model, found.model)
        && fits(wished.promiscuous, found.promiscuous)
        && fits(wished.cable_connected, found.cable_connected)
        && wished.port_forwards == found.port_forwards
}

impl Interface {
    /// `None` while something in it is unknown.
    fn spec(&self) -> Option<NetworkInterface> {
        let to = settled(&self.adapter)?.unwrap_or_default();
        let attachment = settled(&self.kind)?.and_then(|kind| attachment(&kind, to));
        let forwards = settled(&self.port_forwards)?.unwrap_or_default();
        let forwards = forwards
            .iter()
            .map(|(name, forward)| Some((name.clone(), forward.spec()?)));
        let word = |attribute: &Attr<String>| settled(attribute);
        Some(NetworkInterface {
            name: self.name.known()?.clone(),
            mac_address: word(&self.mac_address)?,
            attachment,
            model: word(&self.model)?.as_deref().and_then(NicModel::from_word),
            promiscuous: word(&self.promiscuous)?
                .as_deref()
                .and_then(Promiscuous::from_word),
            cable_connected: settled(&self.cable_connected)?,
            port_forwards: forwards.collect::<Option<_>>()?,
        })
    }

    /// `written` is what stood there before: what it left open stays open.
    fn observed(written: Option<&Self>, found: &NetworkInterface) -> Self {
        fn manage<T>(written: Option<&Attr<T>>, found: Option<T>) -> Attr<T> {
            match written {
                Some(Attr::Null) => Attr::Null,
                _ => found.into(),
            }
        }
        let attachment = found.attachment.as_ref();
        let forwards: BTreeMap<String, PortForward> = found
            .port_forwards
            .iter()
            .map(|(name, forward)| (name.clone(), PortForward::from(forward)))
            .collect();
        Self {
            name: found.name.clone().into(),
            mac_address: manage(written.map(|it| &it.mac_address), found.mac_address.clone()),
            kind: manage(
                written.map(|it| &it.kind),
                attachment.map(|it| it.kind().to_owned()),
            ),
            adapter: manage(
                written.map(|it| &it.adapter),
                attachment.and_then(Attachment::to).map(str::to_owned),
            ),
            model: manage(
                written.map(|it| &it.model),
                found.model.map(|it| it.word().to_owned()),
            ),
            promiscuous: manage(
                written.map(|it| &it.promiscuous),
                found.promiscuous.map(|it| it.word().to_owned()),
            ),
            cable_connected: manage(written.map(|it| &it.cable_connected), found.cable_connected),
            port_forwards: unless_empty(forwards),
        }
    }

    fn validate(&self, at: &tfplugin::Path, diagnostics: &mut Diagnostics) {
        const KINDS: [&str; 5] = ["bridged", "nat", "hostonly", "intnet", "natnetwork"];
        check_word(diagnostics, at.child("type"), &self.kind, &KINDS);
        check_word(diagnostics, at.child("model"), &self.model, NicModel::WORDS);
        check_word(
            diagnostics,
            at.child("promiscuous"),
            &self.promiscuous,
            Promiscuous::WORDS,
        );
        match self.kind.as_str() {
            Some("nat") if !self.adapter.is_null() => diagnostics::complain(
                diagnostics,
                at.child("adapter"),
                "NAT leads to no adapter",
                "Leave `adapter` out, or choose another type.",
            ),
            Some(kind) if kind != "nat" && KINDS.contains(&kind) && self.adapter.is_null() => {
                diagnostics::complain(
                    diagnostics,
                    at.child("adapter"),
                    format!("The type {kind:?} needs an adapter"),
                    "Name the host's adapter, or the network, that its cable leads to.",
                );
            }
            None if self.kind.is_null() && !self.adapter.is_null() => diagnostics::complain(
                diagnostics,
                at.child("type"),
                "An adapter without a type",
                "Say with `type` what the cable leads to.",
            ),
            _ => {}
        }
        for (name, forward) in self.port_forwards.known().into_iter().flatten() {
            let at = at.child("port_forwards").child(tfplugin::Key(name));
            check_word(
                diagnostics,
                at.child("protocol"),
                &forward.protocol,
                Protocol::WORDS,
            );
            if let Some(address) = forward.host_address.known()
                && address.parse::<IpAddr>().is_err()
            {
                let summary = format!("{address:?} is not an IP address");
                let advice = "Write one of the host's addresses, or leave it out for all of them.";
                diagnostics::complain(diagnostics, at.child("host_address"), summary, advice);
            }
        }
    }
}

fn attachment(kind: &str, to: String) -> Option<Attachment> {
    Some(match kind {
        "nat" => Attachment::Nat,
        "bridged" => Attachment::Bridged(to),
        "hostonly" => Attachment::HostOnly(to),
        "intnet" => Attachment::Internal(to),
        "natnetwork" => Attachment::NatNetwork(to),
        _ => return None,
    })
}

impl PortForward {
    /// `None` while something in it is unknown.
    fn spec(&self) -> Option<Forward> {
        let protocol = settled(&self.protocol)?;
        Some(Forward {
            protocol: protocol
                .as_deref()
                .and_then(Protocol::from_word)
                .unwrap_or(Protocol::Tcp),
            host_address: settled(&self.host_address)?.and_then(|it| it.parse().ok()),
            host_port: *self.host_port.known()?,
            guest_port: *self.guest_port.known()?,
        })
    }
}

impl From<&Forward> for PortForward {
    fn from(forward: &Forward) -> Self {
        Self {
            protocol: forward.protocol.word().to_owned().into(),
            host_address: forward.host_address.map(|it| it.to_string()).into(),
            host_port: forward.host_port.into(),
            guest_port: forward.guest_port.into(),
        }
    }
}

/// Complains about a word that is none of VirtualBox's.
fn check_word(
    diagnostics: &mut Diagnostics,
    at: tfplugin::Path,
    attribute: &Attr<String>,
    words: &[&str],
) {
    if let Some(word) = attribute.known()
        && !words.contains(&word.as_str())
    {
        diagnostics::complain(
            diagnostics,
            at.clone(),
            format!("{at} cannot be {word:?}"),
            format!("It is one of {}.", words.join(", ")),
        );
    }
}

fn unless_empty<T>(map: BTreeMap<String, T>) -> Attr<BTreeMap<String, T>> {
    if map.is_empty() {
        Attr::Null
    } else {
        map.into()
    }
}

impl From<&SharedFolder> for Folder {
    fn from(folder: &SharedFolder) -> Self {
        Self {
            host_path: folder.host_path.display().to_string().into(),
            guest_path: folder.guest_path.display().to_string().into(),
            read_only: folder.read_only.into(),
        }
    }
}

impl From<LabFeatures> for LabModel {
    fn from(features: LabFeatures) -> Self {
        Self {
            containers: features.containers.into(),
            tun: features.tun.into(),
            fuse: features.fuse.into(),
        }
    }
}

pub struct VmResource;

impl Resource for VmResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = Identity;
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_vm";
    const IMPORT_ID: Option<&'static str> = Some("HOST/NAME or HOST/UUID");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(Duration::from_secs(600));

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let Some(name) = config.name.known()
            && let Some(reason) = bad_label(name)
        {
            diagnostics.error(
                path!["name"],
                format!("{name:?} is not a DNS label"),
                format!("The name becomes the guest's host name: {reason}."),
            );
        }
        for (attribute, value, why) in [
            (
                "memory_mib",
                config.memory_mib.known().copied(),
                "A VM needs memory: give its size in MiB.",
            ),
            (
                "cpus",
                config.cpus.known().map(|&cpus| cpus.into()),
                "A VM needs at least one CPU.",
            ),
        ] {
            if value == Some(0) {
                diagnostics.error(path![attribute], format!("{attribute} is 0"), why);
            }
        }
        for (name, attribute, words) in [
            ("firmware", &config.firmware, Firmware::WORDS),
            ("chipset", &config.chipset, Chipset::WORDS),
        ] {
            check_word(diagnostics, path![name], attribute, words);
        }
        for (index, word) in config.boot_order.known().into_iter().flatten().enumerate() {
            let at = path!["boot_order", index];
            check_word(diagnostics, at, &word.clone().into(), BootDevice::WORDS);
        }
        for (index, interface) in config
            .network_interfaces
            .known()
            .into_iter()
            .flatten()
            .enumerate()
        {
            interface.validate(&path!["network_interfaces", index], diagnostics);
        }
        if let Some(network) = config.seed.known().and_then(|seed| seed.network.known()) {
            network.validate(&path!["seed", "network"], diagnostics);
        }
        for (key, disk) in config.disks.known().into_iter().flatten() {
            if disk.size_mib.known() == Some(&0) {
                diagnostics::complain(
                    diagnostics,
                    path!["disks", tfplugin::Key(key), "size_mib"],
                    format!("The disk {key:?} has no size"),
                    "Give its size in MiB.",
                );
            }
        }
    }

    fn plan(
        prior: Option<&Model>,
        planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        let mut planned = Planned::from(plan(prior, planned));
        let Some(prior) = prior else { return planned };
        if another_disk(prior, &planned.model) {
            planned.model.disk_image = Attr::Unknown;
            // Terraform heeds only what differs, and `image` may have been noted by an earlier apply.
            planned = planned.replace(path!["image"]).replace(path!["disk_image"]);
        }
        planned
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        prior: Option<&Model>,
        mut planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        let Some(host) = planned
            .model
            .host
            .known()
            .filter(|_| cx.context().is_known())
        else {
            return Ok(planned);
        };
        let engine = cx.context().engine(host, path!["host"])?;
        let wanted = planned.model.spec();
        if let Some(spec) = &wanted {
            engine
                .validate(spec)
                .map_err(|error| diagnostics::engine(&error))?;
        }
        let Some(prior) = prior else {
            cx.wait(engine.check())
                .await
                .map_err(Diagnostic::from)?
                .map_err(|error| diagnostics::engine(&error))?;
            if let Some(spec) = &wanted {
                cx.wait(engine.check_wish(spec))
                    .await
                    .map_err(Diagnostic::from)?
                    .map_err(|error| diagnostics::engine(&error))?;
            }
            return Ok(planned);
        };
        if engine.seed_replaces() && another_seed(prior, &planned.model) {
            planned = planned.replace(path!["seed"]);
        }
        if let (Some(current), Some(wanted)) = (prior.spec(), wanted) {
            // Whether another image means anything was decided without the engine.
            let wanted = VmSpec {
                image: current.image.clone(),
                ..wanted
            };
            let running = prior.state.as_str() == Some("running")
                && planned.model.wanted_power() == PowerState::Running;
            let verdict = judge(
                &engine.plan_update(&current, &wanted),
                &planned.model,
                running,
            )?;
            for warning in verdict.warnings {
                cx.warn(warning);
            }
            planned.replace.extend(verdict.replace);
        }
        if prior.protected == true.into() {
            refuse_replacement(prior, &planned)?;
        }
        Ok(planned)
    }

    fn plan_delete(prior: &Model, diagnostics: &mut Diagnostics) {
        if prior.protected == true.into() {
            diagnostics.push(protected(prior));
        }
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let engine = engine_of(cx, &planned)?;
        let spec = require_spec(&planned)?;
        let vm = finish(cx, engine.create(&spec))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?;
        let made = planned.observed(engine.host(), &vm);
        cx.keep(&made);
        if made.wanted_power() == PowerState::Stopped {
            return Ok(made);
        }
        match start(cx, &engine, made.clone(), &vm).await {
            Ok(model) => Ok(model),
            // An error here would taint the VM and throw it away at the next apply. It exists and is whole: keep it, say so.
            Err(Unstarted::Interrupted(interrupted)) => {
                cx.warn(
                    Diagnostic::warning(format!(
                        "VM {} is made, but was not waited for",
                        made.label()
                    ))
                    .detail(format!(
                        "{} It is in the state; run terraform apply again.",
                        diagnostics::sentence(&interrupted.to_string())
                    )),
                );
                Ok(refresh(&engine, made).await)
            }
            Err(Unstarted::Failed(diagnostic)) => {
                let detail = format!(
                    "{} The VM is in the state, tainted: once it can start, `terraform untaint` keeps it, and another apply alone makes it anew.",
                    diagnostics::sentence(&diagnostic.detail)
                );
                Err(Failure::partial(
                    refresh(&engine, made).await,
                    diagnostic.detail(detail),
                ))
            }
        }
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let engine = engine_of(cx, &state)?;
        let id = require_id(&state)?;
        let found = cx
            .wait(engine.observe(&id))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?;
        let Some(vm) = found else { return Ok(None) };
        if !vm.acknowledged {
            engine
                .acknowledge(&id)
                .await
                .map_err(|error| diagnostics::engine(&error))?;
        }
        Ok(Some(state.observed(engine.host(), &vm)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let engine = engine_of(cx, &planned)?;
        let (id, spec) = (require_id(&prior)?, require_spec(&planned)?);
        let planned = Model {
            id: prior.id.clone(),
            ..planned
        };
        let result = bring_to(cx, &engine, &id, &spec, planned.clone()).await;
        match result {
            Ok(model) => Ok(model),
            Err(unstarted) => {
                let diagnostic = match unstarted {
                    Unstarted::Failed(diagnostic) => diagnostic,
                    Unstarted::Interrupted(interrupted) => interrupted.into(),
                };
                // What was changed until then is found out by looking, not by guessing.
                match engine.observe(&id).await {
                    Ok(Some(vm)) => Err(Failure::partial(
                        prior.observed(engine.host(), &vm),
                        diagnostic,
                    )),
                    _ => Err(diagnostic.into()),
                }
            }
        }
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        if state.protected == true.into() {
            return Err(protected(&state).into());
        }
        let engine = engine_of(cx, &state)?;
        let id = require_id(&state)?;
        Ok(finish(cx, engine.delete(&id))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?)
    }

    async fn import(cx: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let Some((host, vm)) = id
            .split_once('/')
            .filter(|(host, vm)| !host.is_empty() && !vm.is_empty())
        else {
            return Err(Diagnostic::error(format!("{id:?} does not name a VM"))
                .detail("Write HOST/NAME or HOST/UUID, for example srv-01/dns-server. HOST is a key of the provider's `hosts`.")
                .into());
        };
        import(cx, host, vm).await
    }

    async fn import_by_identity(
        cx: &Operation<Cloud>,
        identity: Identity,
    ) -> Result<Model, Diagnostics> {
        let host = identity.host.require(path!["host"])?;
        let id = identity.id.require(path!["id"])?;
        import(cx, host, id).await
    }

    fn identity(state: &Model) -> Option<Identity> {
        Some(Identity {
            host: state.host.known()?.clone().into(),
            id: state.id.known()?.clone().into(),
        })
    }
}

/// The state is what `power` asks for; another order of adapters gives other hardware addresses.
fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
    if let Some(power) = planned.power.known() {
        // A creation that is stopped between making and starting leaves it stopped, so it promises nothing.
        planned.state = if prior.is_some() {
            PowerState::from(*power).as_str().into()
        } else {
            Attr::Unknown
        };
    }
    let Some(prior) = prior else { return planned };
    if prior.network_interfaces != planned.network_interfaces {
        planned.mac_addresses = Attr::Unknown;
    }
    if first_network(prior) != first_network(&planned) {
        planned.first_boot_address = Attr::Unknown;
    }
    planned
}

/// What decides about the first-boot address.
fn first_network(model: &Model) -> (Option<&Attr<SeedNetwork>>, Option<&Attr<String>>) {
    let interfaces = model.network_interfaces.known();
    (
        model.seed.known().map(|seed| &seed.network),
        interfaces
            .and_then(|all| all.first())
            .map(|first| &first.mac_address),
    )
}

/// Whether the VM is to be made anew because its disk is another image's. An older state does not know the disk's image,
/// but then it was the wished one.
fn another_disk(prior: &Model, planned: &Model) -> bool {
    let disk = prior.disk_image.known().or(prior.image.known());
    planned.replace_on_image_change == true.into()
        && planned.image.known().map(Path::new) != disk.map(Path::new)
}

/// Whether a change of the seed means anything: a key with a line break more is the same key.
fn another_seed(prior: &Model, planned: &Model) -> bool {
    if prior.seed == planned.seed {
        return false;
    }
    match (
        prior.seed.known().map(SeedModel::spec),
        planned.seed.known().map(SeedModel::spec),
    ) {
        (Some(Some(before)), Some(Some(after))) => before != after,
        _ => true,
    }
}

/// What an engine's list of changes means to a plan.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    warnings: Vec<Diagnostic>,
    replace: Vec<tfplugin::Path>,
}

fn judge(changes: &[Change], planned: &Model, running: bool) -> Result<Verdict, Diagnostics> {
    let mut verdict = Verdict::default();
    let mut refused = Diagnostics::new();
    let mut restart = Vec::new();
    for change in changes {
        let at = diagnostics::field_path(&change.field);
        match &change.impact {
            Impact::Live => {}
            Impact::Replace => verdict
                .replace
                .push(at.steps().iter().take(1).cloned().collect()),
            Impact::Restart => restart.push(format!("{at}: {} -> {}", change.from, change.to)),
            Impact::Refused(reason) => refused.error(
                at.clone(),
                format!("{at} cannot become {}", change.to),
                format!("VM {}: it is {}: {reason}.", planned.label(), change.from),
            ),
        }
    }
    if running && !restart.is_empty() {
        verdict.warnings.push(
            Diagnostic::warning(format!("VM {} will be restarted", planned.label())).detail(
                format!(
                    "It cannot take these changes while it runs: {}.",
                    restart.join("; ")
                ),
            ),
        );
    }
    if refused.is_empty() {
        Ok(verdict)
    } else {
        Err(refused)
    }
}

fn refuse_replacement(prior: &Model, planned: &Planned<Model>) -> Result<(), Diagnostic> {
    let new = &planned.model;
    let replaced = prior.host != new.host || prior.name != new.name || !planned.replace.is_empty();
    if replaced {
        Err(protected(prior))
    } else {
        Ok(())
    }
}

fn protected(vm: &Model) -> Diagnostic {
    Diagnostic::error(format!("VM {} is protected", vm.label()))
        .detail("It has protected = true, so it is neither destroyed nor replaced. Set protected = false and apply that first.")
        .at(path!["protected"])
}

fn engine_of(cx: &Operation<Cloud>, model: &Model) -> Result<Arc<dyn Engine>, Diagnostic> {
    cx.context()
        .engine(model.host.require(path!["host"])?, path!["host"])
}

fn require_id(model: &Model) -> Result<String, Diagnostic> {
    model.id.require(path!["id"]).cloned()
}

fn require_spec(model: &Model) -> Result<VmSpec, Diagnostic> {
    model.spec().ok_or_else(|| {
        Diagnostic::error(format!("VM {} is not fully described", model.label()))
            .detail("An attribute that decides what the VM is has no value at apply time. This is a bug in the provider.")
    })
}

async fn import(cx: &Operation<Cloud>, host: &str, id_or_name: &str) -> Result<Model, Diagnostics> {
    let engine = cx.context().engine(host, tfplugin::Path::root())?;
    let found = cx
        .wait(engine.observe(id_or_name))
        .await
        .map_err(Diagnostic::from)?
        .map_err(|error| diagnostics::engine(&error))?;
    let vm = found.ok_or_else(|| {
        Diagnostic::error(format!("Host {host:?} has no VM {id_or_name:?}"))
            .detail("Import names a VM by its name or its UUID. The data source ondol_vms lists what the host has.")
    })?;
    Ok(Model::default().observed(host, &vm))
}

/// Why a VM does not run as it should, though it exists.
enum Unstarted {
    Interrupted(Interrupted),
    Failed(Diagnostic),
}

impl From<Interrupted> for Unstarted {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

impl From<Diagnostic> for Unstarted {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Failed(diagnostic)
    }
}

/// Waits for an act that is better finished than broken off: when Terraform asks to stop, it gets a moment more.
async fn finish<T>(cx: &Operation<Cloud>, act: impl Future<Output = T>) -> Result<T, Interrupted> {
    let mut act = pin!(act);
    match cx.wait(act.as_mut()).await {
        Ok(output) => Ok(output),
        Err(interrupted) => tokio::time::timeout(LAST_MOMENT, act)
            .await
            .map_err(|_| interrupted),
    }
}

/// Changes a VM's shape, then its power. The disk stays what it is, whatever image is wished for.
async fn bring_to(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    id: &str,
    spec: &VmSpec,
    planned: Model,
) -> Result<Model, Unstarted> {
    let engine_error = |error| Unstarted::Failed(diagnostics::engine(&error));
    let spec = VmSpec {
        image: found(engine, id).await?.spec.image,
        ..spec.clone()
    };
    let waiting = finish(cx, engine.update(id, &spec))
        .await?
        .map_err(engine_error)?;
    let wanted = planned.wanted_power();
    let vm = found(engine, id).await?;
    let runs = vm.state == PowerState::Running;
    let stop = runs && (!waiting.is_empty() || wanted == PowerState::Stopped);
    if stop {
        cx.wait(engine.power(id, PowerState::Stopped, SHUTDOWN_PATIENCE))
            .await?
            .map_err(engine_error)?;
        // What had to wait can be done now; an engine that keeps it for the next start has nothing left to do.
        finish(cx, engine.update(id, &spec))
            .await?
            .map_err(engine_error)?;
    }
    if wanted == PowerState::Running && (stop || !runs) {
        return start(cx, engine, planned, &vm).await;
    }
    Ok(planned.observed(engine.host(), &found(engine, id).await?))
}

async fn found(engine: &Arc<dyn Engine>, id: &str) -> Result<Vm, Diagnostic> {
    engine
        .observe(id)
        .await
        .map_err(|error| diagnostics::engine(&error))?
        .ok_or_else(|| {
            Diagnostic::error(format!("Host {:?} has no VM {id} any more", engine.host()))
                .detail("It was removed while Terraform worked on it. Run terraform apply again.")
        })
}

/// Starts a VM and waits for what the model asks to wait for.
async fn start(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    model: Model,
    vm: &Vm,
) -> Result<Model, Unstarted> {
    let id = vm.id.to_string();
    cx.wait(engine.power(&id, PowerState::Running, SHUTDOWN_PATIENCE))
        .await?
        .map_err(|error| Unstarted::Failed(diagnostics::engine(&error)))?;
    match model.wait_for {
        Attr::Known(WaitFor::Ssh) => wait_for_ssh(cx, engine, vm).await?,
        Attr::Known(WaitFor::Ip) => wait_for_ip(cx, engine, &id).await?,
        _ => {}
    }
    Ok(model.observed(engine.host(), &found(engine, &id).await?))
}

/// The state as it is now; as it was, where nobody can say.
async fn refresh(engine: &Arc<dyn Engine>, model: Model) -> Model {
    match engine.observe(model.id.as_str().unwrap_or_default()).await {
        Ok(Some(vm)) => model.observed(engine.host(), &vm),
        _ => model,
    }
}

/// Waits until the hypervisor knows an address of the guest.
async fn wait_for_ip(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    id: &str,
) -> Result<(), Interrupted> {
    loop {
        if let Ok(known) = cx.wait(engine.guest_addresses(id)).await?
            && !known.is_empty()
        {
            return Ok(());
        }
        cx.sleep(Duration::from_millis(500)).await?;
    }
}

/// Waits until the guest's SSH server greets, at its first-boot address or, where a netplan has taken that
/// away, at any address that the hypervisor sees.
async fn wait_for_ssh(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    vm: &Vm,
) -> Result<(), Interrupted> {
    let id = vm.id.to_string();
    let connector = engine.connector();
    loop {
        let mut addresses = vec![vm.first_boot_address];
        if let Ok(known) = cx.wait(engine.guest_addresses(&id)).await? {
            addresses.extend(
                known
                    .into_iter()
                    .filter(|address| *address != vm.first_boot_address),
            );
        }
        for address in addresses {
            let greeting = async {
                let mut stream =
                    connector(SocketAddr::new(address, SSH_PORT), Duration::from_secs(2))
                        .await
                        .ok()?;
                let mut start = [0; 4];
                stream.read_exact(&mut start).await.ok()?;
                (&start == b"SSH-").then_some(())
            };
            let greeting = tokio::time::timeout(Duration::from_secs(5), greeting);
            if let Ok(Some(())) = cx.wait(greeting).await? {
                return Ok(());
            }
        }
        cx.sleep(Duration::from_millis(300)).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            host: "srv-01".into(),
            name: "web-01".into(),
            image: "/images/a/rootfs".into(),
            cpus: 1.into(),
            memory_mib: 256.into(),
            disks: BTreeMap::new().into(),
            seed: SeedModel {
                user: "ondol".into(),
                authorized_keys: vec!["ssh-ed25519 AAAA me\n".to_owned()].into(),
                sudo: true.into(),
                network: Attr::Null,
            }
            .into(),
            linked_clone: false.into(),
            power: Power::Running.into(),
            wait_for: WaitFor::None.into(),
            protected: false.into(),
            ..Model::default()
        }
    }

    fn vm(model: &Model) -> Vm {
        Vm {
            id: uuid::Uuid::from_u128(7),
            spec: model.spec().unwrap(),
            state: PowerState::Running,
            first_boot_address: "169.254.7.7".parse().unwrap(),
            ssh_host_key: "ssh-ed25519 BBBB".to_owned(),
            mac_addresses: vec!["08:00:27:00:00:01".to_owned()],
            acknowledged: true,
            has_hardware: false,
        }
    }

    #[test]
    fn what_says_the_same_in_other_words_is_no_difference() {
        let wanted = model();
        let found = wanted.clone().observed("srv-01", &vm(&wanted));
        assert_eq!(found.disks, wanted.disks);
        assert_eq!(found.seed, wanted.seed);
        assert_eq!(found.state, "running".into());
    }

    fn planned(prior: &Model, change: impl FnOnce(&mut Model)) -> Planned<Model> {
        let mut model = prior.clone();
        change(&mut model);
        let (config, mut diagnostics) = (model.clone(), Diagnostics::new());
        VmResource::plan(Some(prior), model, &config, &mut diagnostics)
    }

    #[test]
    fn another_image_is_noted_and_replaces_the_vm_only_where_that_is_asked_for() {
        let old = "/images/a/rootfs";
        let prior = |image: &str| Model {
            image: image.into(),
            disk_image: old.into(),
            replace_on_image_change: false.into(),
            state: "running".into(),
            ..model()
        };
        let cases: [(Model, Attr<String>, bool, bool); 8] = [
            (prior(old), "/images/b/rootfs".into(), false, false),
            (prior(old), Attr::Unknown, false, false),
            (prior(old), "/images/b/rootfs".into(), true, true),
            (prior(old), Attr::Unknown, true, true),
            (prior(old), old.into(), true, false),
            (prior(old), "/images/a//rootfs/".into(), true, false),
            // Noted by an earlier apply; and back again.
            (
                prior("/images/b/rootfs"),
                "/images/b/rootfs".into(),
                true,
                true,
            ),
            (prior("/images/b/rootfs"), old.into(), true, false),
        ];
        for (prior, image, asked, replaced) in cases {
            let planned = planned(&prior, |model| {
                model.image = image.clone();
                model.replace_on_image_change = asked.into();
            });
            assert_eq!(!planned.replace.is_empty(), replaced, "{image:?}, {asked}");
            assert_eq!(
                planned.model.disk_image,
                if replaced { Attr::Unknown } else { old.into() },
                "{image:?}, {asked}"
            );
        }
        let before_disk_image = Model {
            disk_image: Attr::Null,
            ..prior(old)
        };
        let asked = |model: &mut Model| model.replace_on_image_change = true.into();
        assert_eq!(planned(&before_disk_image, asked).replace, []);
    }

    #[test]
    fn what_is_found_tells_the_disks_image_and_leaves_the_wish_alone() {
        let wanted = model();
        let mut older = vm(&wanted);
        older.spec.image = "/images/older/rootfs".into();
        let found = wanted.observed("srv-01", &older);
        assert_eq!(
            (found.image, found.disk_image),
            ("/images/a/rootfs".into(), "/images/older/rootfs".into())
        );
    }

    #[test]
    fn a_change_behind_terraforms_back_is_seen() {
        let wanted = model();
        let mut changed = vm(&wanted);
        changed.state = PowerState::Stopped;
        changed.spec.memory_mib = 128;
        changed.spec.disks.insert("extra".to_owned(), 64);
        let found = wanted.observed("srv-01", &changed);
        assert_eq!(found.state, "stopped".into());
        assert_eq!(found.memory_mib, 128.into());
        assert_eq!(found.disks.known().unwrap()["extra"].size_mib, 64.into());
    }

    #[test]
    fn an_import_gives_every_attribute_a_value_that_a_plain_configuration_has() {
        let mut plain = model();
        plain.disks = Attr::Null;
        let imported = Model::default().observed("srv-01", &vm(&plain));
        assert_eq!(
            (
                imported.disks.is_null(),
                imported.lab.is_null(),
                imported.network_interfaces.is_null()
            ),
            (true, true, true)
        );
        assert_eq!(
            (imported.image, imported.disk_image),
            ("/images/a/rootfs".into(), "/images/a/rootfs".into())
        );
        assert_eq!(imported.replace_on_image_change, false.into());
        assert_eq!(
            (imported.power, imported.wait_for, imported.protected),
            (Power::Running.into(), WaitFor::None.into(), false.into())
        );
        assert_eq!(imported.id, uuid::Uuid::from_u128(7).to_string().into());
    }

    #[test]
    fn a_stopped_vm_is_planned_back_to_running_and_a_new_one_promises_nothing() {
        let prior = Model {
            state: "stopped".into(),
            ..model()
        };
        assert_eq!(plan(Some(&prior), prior.clone()).state, "running".into());
        let running = Model {
            state: "running".into(),
            ..model()
        };
        assert_eq!(plan(Some(&running), running.clone()), running);
        assert_eq!(plan(None, model()).state, Attr::Unknown);
    }

    #[test]
    fn another_seed_replaces_the_vm_and_the_same_in_other_words_does_not() {
        let with = |change: fn(&mut SeedModel)| {
            let mut model = model();
            change(model.seed.known_mut().unwrap());
            model
        };
        type Edit = fn(&mut SeedModel);
        let cases: [(Edit, bool); 4] = [
            (
                |seed| seed.authorized_keys = vec!["ssh-ed25519 AAAA me".to_owned()].into(),
                false,
            ),
            (
                |seed| seed.authorized_keys = vec!["ssh-ed25519 BBBB me".to_owned()].into(),
                true,
            ),
            (|seed| seed.sudo = false.into(), true),
            (|seed| seed.user = Attr::Unknown, true),
        ];
        for (change, expected) in cases {
            assert_eq!(another_seed(&model(), &with(change)), expected);
        }
    }

    #[test]
    fn an_unknown_part_makes_the_spec_unknown() {
        assert!(model().spec().is_some());
        for change in [
            (|m: &mut Model| m.image = Attr::Unknown) as fn(&mut Model),
            |m| m.disks = Attr::Unknown,
            |m| m.lab = Attr::Unknown,
            |m| {
                m.disks = BTreeMap::from([(
                    "d".to_owned(),
                    Disk {
                        size_mib: Attr::Unknown,
                    },
                )])
                .into()
            },
        ] {
            let mut changed = model();
            change(&mut changed);
            assert_eq!(changed.spec(), None);
        }
    }

    fn change(field: &[&str], impact: Impact) -> Change {
        Change {
            field: field.iter().map(|&step| step.to_owned()).collect(),
            from: "a".to_owned(),
            to: "b".to_owned(),
            impact,
        }
    }

    #[test]
    fn the_engines_verdict_becomes_warnings_replacements_and_errors() {
        let none: Result<Verdict, Diagnostics> = Ok(Verdict::default());
        assert_eq!(
            judge(&[change(&["memory_mib"], Impact::Live)], &model(), true),
            none
        );
        let restart = [change(&["network_interfaces"], Impact::Restart)];
        assert_eq!(judge(&restart, &model(), true).unwrap().warnings.len(), 1);
        assert_eq!(judge(&restart, &model(), false), none);
        let replace = judge(
            &[change(&["seed", "user"], Impact::Replace)],
            &model(),
            true,
        )
        .unwrap();
        assert_eq!(replace.replace, [path!["seed"]]);
        let refused = judge(
            &[change(
                &["disks", "data", "size_mib"],
                Impact::Refused("no".to_owned()),
            )],
            &model(),
            true,
        );
        let refused = refused.unwrap_err();
        assert_eq!(
            refused.iter().next().unwrap().path,
            path!["disks", tfplugin::Key("data"), "size_mib"]
        );
    }

    #[test]
    fn a_protected_vm_is_neither_replaced_nor_destroyed() {
        let prior = Model {
            protected: true.into(),
            ..model()
        };
        let grown = Planned::from(Model {
            memory_mib: 512.into(),
            ..prior.clone()
        });
        assert!(refuse_replacement(&prior, &grown).is_ok());
        let moved = Planned::from(Model {
            host: "srv-02".into(),
            ..prior.clone()
        });
        assert_eq!(
            refuse_replacement(&prior, &moved).unwrap_err().path,
            path!["protected"]
        );
        let mut diagnostics = Diagnostics::new();
        VmResource::plan_delete(&prior, &mut diagnostics);
        assert!(diagnostics.has_error());
    }

    #[test]
    fn impossible_sizes_and_names_are_refused_with_the_attribute() {
        let mut wrong = model();
        wrong.name = "Web_01".into();
        wrong.memory_mib = 0.into();
        wrong.cpus = 0.into();
        wrong.disks = BTreeMap::from([("data".to_owned(), Disk { size_mib: 0.into() })]).into();
        let mut diagnostics = Diagnostics::new();
        VmResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| diagnostic.path.to_string())
            .collect();
        assert_eq!(
            paths,
            ["name", "memory_mib", "cpus", "disks[\"data\"].size_mib"]
        );
    }
}
