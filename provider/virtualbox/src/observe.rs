//! A VM put together from what the lists and its settings file say. Pure.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use crate::answer::{Accessible, ListedDisk, ListedVm};
use crate::command::Attachment;
use crate::settings::{self, Settings};
use crate::shell::System;
use crate::spec::{
    self, Adapter, Hardware, Image, Phase, Place, PlacedMedium, SYSTEM_DISK, SYSTEM_PORT, Seed,
    SharedFolder, Vm, VmSpec, guest_name, is_ours, paired_mac,
};

/// Keys of a VM's extra data.
pub(crate) mod key {
    /// `ready` or `deleting`; nothing while a creation is under way.
    pub(crate) const PHASE: &str = "ondol/phase";
    /// The spec that was applied last, as JSON.
    pub(crate) const SPEC: &str = "ondol/spec";
    /// SHA-256 of the image's file.
    pub(crate) const IMAGE: &str = "ondol/image";
    /// The public half of the guest's SSH host key.
    pub(crate) const HOST_KEY: &str = "ondol/host-key";
}

pub(crate) const READY: &str = "ready";
pub(crate) const DELETING: &str = "deleting";

/// A file in a VM's folder, present once someone's state holds the VM. In it is the address that the guest last confirmed its network
/// on, once it has. Extra data would cost a run of VBoxManage for each VM in the first plan after it was made, and go with an export.
pub(crate) const ACKNOWLEDGED: &str = "ondol.acknowledged";

pub(crate) fn assemble(
    system: System,
    listed: &ListedVm,
    accessible: &Accessible,
    settings: &Settings,
    disks: &HashMap<Uuid, ListedDisk>,
    acknowledged: Option<&[u8]>,
) -> Vm {
    let folder = system
        .split(&listed.settings_file)
        .map_or("", |(folder, _)| folder);
    let wish: Option<VmSpec> = settings
        .extra_data
        .get(key::SPEC)
        .and_then(|text| serde_json::from_str(text).ok());
    let place = place(system, listed, folder, settings, disks, wish.as_ref());
    let adapters = adapters(settings, wish.as_ref());
    let macs: Vec<String> = adapters
        .iter()
        .filter_map(|adapter| adapter.mac.clone())
        .collect();
    let seed = wish
        .as_ref()
        .map_or_else(Seed::default, |wish| wish.seed.clone());
    let extra = |name: &str| settings.extra_data.get(name).cloned();
    let phase = match extra(key::PHASE).as_deref() {
        Some(READY) => Phase::Ready,
        Some(_) => Phase::Unfinished,
        None if is_ours(listed.uuid) => Phase::Unfinished,
        None => Phase::Foreign,
    };
    let (system_disk_mib, data_disks) = sizes(system, folder, settings, disks, &place);
    Vm {
        id: listed.uuid,
        state: accessible.state,
        phase,
        acknowledged: acknowledged.is_some(),
        confirmed_address: acknowledged
            .and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok()),
        image_digest: extra(key::IMAGE).unwrap_or_default(),
        ssh_host_key: extra(key::HOST_KEY).unwrap_or_default(),
        first_boot_address: spec::first_boot_address(
            &seed,
            macs.first().map_or("", String::as_str),
        ),
        spec: VmSpec {
            name: settings.name.clone(),
            image: wish
                .as_ref()
                .map_or_else(Image::default, |wish| wish.image.clone()),
            cpus: settings.cpus,
            memory_mib: settings.memory_mib,
            hardware: Hardware {
                os_type: Some(settings.os_type.clone()),
                vram_mib: Some(settings.vram_mib),
                firmware: Some(settings.firmware),
                chipset: Some(settings.chipset),
                nested_virtualization: Some(settings.nested_virtualization),
                boot_order: Some(settings.boot_order.to_vec()),
                serial_file: Some(settings.serial_file.clone().unwrap_or_default()),
                autostart: Some(settings.autostart),
            },
            system_disk_mib,
            disks: data_disks,
            adapters,
            shared_folders: settings
                .shared_folders
                .iter()
                .map(|(name, folder)| {
                    let folder = SharedFolder {
                        host_path: folder.host_path.clone(),
                        guest_path: folder.guest_path.clone(),
                        read_only: folder.read_only,
                    };
                    (name.clone(), folder)
                })
                .collect(),
            seed,
        },
        macs,
        wish,
        place,
    }
}

fn place(
    system: System,
    listed: &ListedVm,
    folder: &str,
    settings: &Settings,
    disks: &HashMap<Uuid, ListedDisk>,
    wish: Option<&VmSpec>,
) -> Place {
    let path = |uuid: &Uuid| {
        let known = disks.get(uuid).map(|disk| disk.location.clone());
        known.or_else(|| {
            let written = settings.media.get(uuid)?;
            Some(if system.is_absolute(written) {
                written.clone()
            } else {
                system.join(folder, written)
            })
        })
    };
    // Snapshots put disks of differences on top of the VM's own. What these differ from in turn may be an image.
    let base = |uuid: &Uuid| {
        let lineage = std::iter::successors(disks.get(uuid), |disk| disks.get(&disk.parent?));
        let own = lineage.map(|disk| &disk.location).find(|location| {
            system
                .split(location)
                .is_some_and(|(parent, _)| parent == folder)
        });
        own.cloned().or_else(|| path(uuid))
    };
    let media = settings.controllers.iter().flat_map(|controller| {
        controller.ports.iter().map(|(&port, medium)| PlacedMedium {
            controller: controller.name.clone(),
            port,
            path: medium.as_ref().and_then(|medium| path(&medium.uuid)),
            base: medium.as_ref().and_then(|medium| base(&medium.uuid)),
            is_disk: medium.as_ref().is_some_and(|medium| medium.is_disk),
        })
    });
    let mut media: Vec<PlacedMedium> = media.collect();
    if is_ours(settings.uuid) {
        rename_merged(system, folder, &mut media, wish);
    }
    Place {
        settings_file: listed.settings_file.clone(),
        folder: folder.to_owned(),
        has_snapshots: settings.has_snapshots,
        controller: settings.controllers.first().map(|it| it.name.clone()),
        media,
    }
}

/// A snapshot that is deleted can leave its disk of differences as the only one, and the VM's own file is gone. It is known by where it
/// is attached then: the system disk has its port, and another is what is missing.
fn rename_merged(system: System, folder: &str, media: &mut [PlacedMedium], wish: Option<&VmSpec>) {
    let file = |key: &str| system.join(folder, &format!("{key}.vdi"));
    let known: Vec<String> = media.iter().filter_map(|it| it.base.clone()).collect();
    let keys = wish.into_iter().flat_map(|wish| wish.disks.keys());
    let mut missing = keys
        .map(|key| file(key))
        .filter(|file| !known.contains(file));
    let snapshots = system.join(folder, "Snapshots");
    for medium in media.iter_mut().filter(|medium| medium.is_disk) {
        let base = medium.base.as_deref().unwrap_or_default();
        if system
            .split(base)
            .is_none_or(|(parent, _)| parent != snapshots)
        {
            continue;
        }
        let own = file(SYSTEM_DISK);
        medium.base = match medium.port {
            SYSTEM_PORT if !known.contains(&own) => Some(own),
            _ => missing.next().or_else(|| medium.base.take()),
        };
    }
}

/// The system disk's size, and those of the others by key. A disk in the VM's own folder has its file's stem as key, one that somebody
/// attached from elsewhere its whole path.
fn sizes(
    system: System,
    folder: &str,
    settings: &Settings,
    disks: &HashMap<Uuid, ListedDisk>,
    place: &Place,
) -> (Option<u64>, BTreeMap<String, u64>) {
    let by_path: HashMap<&str, u64> = disks
        .values()
        .map(|disk| (disk.location.as_str(), disk.size_mib))
        .collect();
    let key = |path: &str| match system.split(path) {
        Some((parent, name)) if parent == folder => name
            .rsplit_once('.')
            .map_or(name, |(stem, _)| stem)
            .to_owned(),
        _ => path.to_owned(),
    };
    let size = |path: &str| by_path.get(path).copied().unwrap_or(0);
    let attached: Vec<(String, u64)> = place
        .media
        .iter()
        .filter(|medium| medium.is_disk)
        .filter_map(|medium| Some((key(medium.base.as_deref()?), size(medium.path.as_deref()?))))
        .collect();
    // A VM that somebody else made boots from its first disk, whatever that is called.
    let own = is_ours(settings.uuid);
    let first = attached
        .iter()
        .position(|(key, _)| key == SYSTEM_DISK)
        .or((!own && !attached.is_empty()).then_some(0));
    let others = attached
        .iter()
        .enumerate()
        .filter(|(index, _)| Some(*index) != first);
    (
        first.map(|index| attached[index].1),
        others.map(|(_, disk)| disk.clone()).collect(),
    )
}

fn adapters(settings: &Settings, wish: Option<&VmSpec>) -> Vec<Adapter> {
    let matters = |found: &settings::Adapter| {
        found.attachment != Some(Attachment::Absent) || !found.forwards.is_empty()
    };
    let last = settings.adapters.iter().rfind(|(_, found)| matters(found));
    let last = last.map_or(0, |(&slot, _)| slot);
    settings
        .adapters
        .range(..=last)
        .enumerate()
        .map(|(index, (_, found))| {
            let promised = wish.and_then(|wish| wish.adapters.get(index));
            Adapter {
                name: promised
                    .map(|adapter| adapter.name.clone())
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| guest_name(index)),
                mac: Some(paired_mac(&found.mac)),
                attachment: found.attachment.clone(),
                model: found.model,
                promiscuous: Some(found.promiscuous),
                cable_connected: Some(found.cable_connected),
                forwards: found.forwards.clone(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{self, VmState};
    use crate::shell::Locker;

    #[test]
    fn disks_that_only_their_differences_are_left_of_keep_their_names() {
        let linux = System::Linux(Locker::Flock);
        let medium = |port, base: &str, is_disk| PlacedMedium {
            controller: "SATA".to_owned(),
            port,
            path: Some(base.to_owned()),
            base: Some(base.to_owned()),
            is_disk,
        };
        let mut media = [
            medium(0, "/v/web/Snapshots/{a}.vdi", true),
            medium(1, "/v/web/seed.iso", false),
            medium(2, "/v/web/data.vdi", true),
            medium(3, "/v/web/Snapshots/{b}.vdi", true),
            medium(4, "/elsewhere/x.vdi", true),
        ];
        let wish = VmSpec {
            disks: ["data", "log"].map(|key| (key.to_owned(), 8)).into(),
            ..spec::example()
        };
        rename_merged(linux, "/v/web", &mut media, Some(&wish));
        let bases: Vec<&str> = media.iter().filter_map(|it| it.base.as_deref()).collect();
        assert_eq!(
            bases,
            [
                "/v/web/system.vdi",
                "/v/web/seed.iso",
                "/v/web/data.vdi",
                "/v/web/log.vdi",
                "/elsewhere/x.vdi"
            ]
        );
    }

    #[test]
    fn a_vm_that_somebody_else_made_is_described_as_far_as_it_goes() {
        let listed = answer::vms(include_str!("../fixtures/7.2.22/list-long-vms.txt"));
        let disks: HashMap<Uuid, ListedDisk> =
            answer::disks(include_str!("../fixtures/7.2.22/list-long-hdds.txt"))
                .into_iter()
                .map(|disk| (disk.uuid, disk))
                .collect();
        let settings = settings::read(include_str!("../fixtures/7.2.22/a-01.vbox")).unwrap();
        let assembled = |acknowledged| {
            assemble(
                System::Linux(Locker::Flock),
                &listed[0],
                listed[0].accessible.as_ref().unwrap(),
                &settings,
                &disks,
                acknowledged,
            )
        };
        let vm = assembled(None);
        assert_eq!(
            (vm.phase, vm.acknowledged, vm.state),
            (Phase::Foreign, false, VmState::PoweredOff)
        );
        for (text, address) in [("", None), ("?", None), ("192.0.2.7", Some("192.0.2.7"))] {
            let vm = assembled(Some(text.as_bytes()));
            assert!(vm.acknowledged);
            assert_eq!(
                vm.confirmed_address,
                address.map(|it| it.parse().unwrap()),
                "{text:?}"
            );
        }
        assert_eq!(vm.spec.system_disk_mib, Some(128));
        assert!(vm.spec.disks.is_empty());
        assert_eq!(vm.macs[0], "08:00:27:aa:bb:cc");
        assert_eq!(vm.spec.adapters[1].name, "enp0s8");
        assert_eq!(vm.place.folder, "/root/VirtualBox VMs/a-01");
        assert_eq!(
            vm.place.media,
            [PlacedMedium {
                controller: "ondol".to_owned(),
                port: 1,
                path: Some("/root/VirtualBox VMs/a-01/data.vdi".to_owned()),
                base: Some("/root/VirtualBox VMs/a-01/data.vdi".to_owned()),
                is_disk: true,
            }]
        );
    }
}
