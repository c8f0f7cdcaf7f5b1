//! Attributes as a wish that an engine understands, and what was found as attributes. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use tfplugin::{Attr, Diagnostics};

use super::interfaces::agrees;
use super::model::{
    Disk, Folder, Interface, LabModel, Model, Power, SeedModel, SeedNetwork, WaitFor,
};
use crate::diagnostics;
use crate::engine::{
    BootDevice, Chipset, Firmware, Hardware, LabFeatures, NetworkInterface, PowerState, Seed,
    SharedFolder, StaticNetwork, Vm, VmSpec,
};

impl Model {
    /// The spec that the model asks for; `None` while something in it is unknown or, before an import's first read, absent.
    pub(super) fn spec(&self) -> Option<VmSpec> {
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
            seed: match settled(&self.seed)? {
                Some(seed) => seed.spec()?,
                None => Seed::default(),
            },
            lab,
        })
    }

    /// `None` while something in it is unknown.
    pub(super) fn hardware(&self) -> Option<Hardware> {
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
    pub(super) fn observe_hardware(&mut self, found: &VmSpec, before: Option<&VmSpec>) {
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
    pub(super) fn observe_interfaces(
        &mut self,
        found: &[NetworkInterface],
        before: Option<&VmSpec>,
    ) {
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
    pub(super) fn observed(mut self, host: &str, vm: &Vm) -> Self {
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
        // A seed that was left out is not managed.
        if before.is_none() || !self.seed.is_null() {
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
        }
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

    pub(super) fn wanted_power(&self) -> PowerState {
        self.power.unwrap_or(Power::Running).into()
    }

    pub(super) fn label(&self) -> String {
        format!(
            "{:?} on host {:?}",
            self.name.as_str().unwrap_or("?"),
            self.host.as_str().unwrap_or("?")
        )
    }
}

impl SeedModel {
    /// `None` while something in it is unknown.
    pub(super) fn spec(&self) -> Option<Seed> {
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
    pub(super) fn spec(&self) -> Option<StaticNetwork> {
        let servers = settled(&self.nameservers)?.unwrap_or_default();
        Some(StaticNetwork {
            addresses: self.addresses.known()?.clone(),
            gateway: settled(&self.gateway)?.and_then(|it| it.parse().ok()),
            nameservers: servers.iter().filter_map(|it| it.parse().ok()).collect(),
        })
    }

    pub(super) fn validate(&self, at: &tfplugin::Path, diagnostics: &mut Diagnostics) {
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
pub(super) fn settled<T: Clone>(attribute: &Attr<T>) -> Option<Option<T>> {
    match attribute {
        Attr::Unknown => None,
        Attr::Null => Some(None),
        Attr::Known(value) => Some(Some(value.clone())),
    }
}

/// Complains about a word that is none of VirtualBox's.
pub(super) fn check_word(
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

pub(super) fn unless_empty<T>(map: BTreeMap<String, T>) -> Attr<BTreeMap<String, T>> {
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
