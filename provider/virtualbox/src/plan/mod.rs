//! Decisions: what turns one VM into another, when it can be done, and what a creation does with a name that is taken. Pure.

mod adapters;

use std::fmt;

pub(crate) use self::adapters::adapter_settings;
use self::adapters::plan_adapters;
use crate::command::{Attachment, BootDevice, Control, Setting};
use crate::spec::{Adapter, Phase, SharedFolder, Vm, VmSpec};

/// When a change can take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impact {
    /// At once, even while the VM runs.
    Live,
    /// The VM must be stopped for it.
    Restart,
    /// Only another VM can have it.
    Replace,
    /// It would lose data; say so and do nothing.
    Refused(String),
}

/// One field that differs, and what is done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Path in Terraform's words: `disks`, `data`, `size_mib`.
    pub field: Vec<String>,
    pub from: String,
    pub to: String,
    pub impact: Impact,
    pub act: Act,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.field.join("."), self.from, self.to)
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// `stopped` by modifyvm; `running` by controlvm, where the impact is live.
    Set {
        stopped: Vec<Setting>,
        running: Vec<Control>,
    },
    GrowSystemDisk(u64),
    AddDisk(String, u64),
    GrowDisk(String, u64),
    RemoveDisk(String),
    AddFolder(String, SharedFolder),
    RemoveFolder(String),
    WriteSeed,
    /// Nothing can be done to this VM.
    Nothing,
}

const ABSENT: &str = "(none)";

/// What it takes to turn `current` into `desired`; empty if they say the same. What `desired` leaves open stays as it is, and so does
/// the system disk's content, whatever image is named. `default` is what adapters that do not say are attached to.
pub fn plan(current: &VmSpec, desired: &VmSpec, default: &Attachment) -> Vec<Step> {
    let mut steps = Vec::new();
    if current.name != desired.name {
        steps.push(replace(&["name"], &current.name, &desired.name));
    }
    if current.image.path != desired.image.path {
        steps.push(replace(
            &["image"],
            &current.image.path,
            &desired.image.path,
        ));
    }
    if current.image.linked != desired.image.linked {
        let (from, to) = (
            current.image.linked.to_string(),
            desired.image.linked.to_string(),
        );
        steps.push(replace(&["linked_clone"], &from, &to));
    }
    plan_hardware(current, desired, &mut steps);
    plan_system_disk(current, desired, &mut steps);
    plan_disks(current, desired, &mut steps);
    plan_adapters(current, desired, default, &mut steps);
    plan_folders(current, desired, &mut steps);
    if current.seed != desired.seed {
        steps.push(Step {
            field: path(&["seed"]),
            from: show_seed(current),
            to: show_seed(desired),
            impact: Impact::Restart,
            act: Act::WriteSeed,
        });
    }
    steps
}

fn path(field: &[&str]) -> Vec<String> {
    field.iter().map(|&step| step.to_owned()).collect()
}

fn replace(field: &[&str], from: &str, to: &str) -> Step {
    Step {
        field: path(field),
        from: from.to_owned(),
        to: to.to_owned(),
        impact: Impact::Replace,
        act: Act::Nothing,
    }
}

fn set(field: &[&str], from: impl fmt::Display, to: impl fmt::Display, setting: Setting) -> Step {
    Step {
        field: path(field),
        from: from.to_string(),
        to: to.to_string(),
        impact: Impact::Restart,
        act: Act::Set {
            stopped: vec![setting],
            running: Vec::new(),
        },
    }
}

fn plan_hardware(current: &VmSpec, desired: &VmSpec, steps: &mut Vec<Step>) {
    if current.cpus != desired.cpus {
        steps.push(set(
            &["cpus"],
            current.cpus,
            desired.cpus,
            Setting::Cpus(desired.cpus),
        ));
    }
    if current.memory_mib != desired.memory_mib {
        let setting = Setting::MemoryMib(desired.memory_mib);
        steps.push(set(
            &["memory_mib"],
            current.memory_mib,
            desired.memory_mib,
            setting,
        ));
    }
    let (have, want) = (&current.hardware, &desired.hardware);
    /// A field that is wished for and is not so.
    macro_rules! differs {
        ($field:ident, $setting:expr) => {
            if let Some(wanted) = &want.$field
                && have.$field.as_ref() != Some(wanted)
            {
                let from = have
                    .$field
                    .as_ref()
                    .map_or(ABSENT.to_owned(), |it| it.to_string());
                let setting = $setting(wanted.clone());
                steps.push(set(&[stringify!($field)], from, wanted, setting));
            }
        };
    }
    differs!(os_type, Setting::OsType);
    differs!(vram_mib, Setting::VramMib);
    differs!(firmware, Setting::Firmware);
    differs!(chipset, Setting::Chipset);
    differs!(nested_virtualization, Setting::NestedVirtualization);
    differs!(serial_file, serial);
    differs!(autostart, Setting::Autostart);
    if let Some(wanted) = &want.boot_order
        && have.boot_order.as_ref().map(|order| trimmed(order)) != Some(trimmed(wanted))
    {
        steps.push(Step {
            field: path(&["boot_order"]),
            from: show_order(have.boot_order.as_deref().unwrap_or_default()),
            to: show_order(wanted),
            impact: Impact::Restart,
            act: Act::Set {
                stopped: boot_settings(wanted),
                running: Vec::new(),
            },
        });
    }
}

fn serial(file: String) -> Setting {
    Setting::SerialFile(Some(file).filter(|file| !file.is_empty()))
}

/// VirtualBox has four positions, a wish names as many as it needs.
fn trimmed(order: &[BootDevice]) -> &[BootDevice] {
    let end = order.iter().rposition(|it| *it != BootDevice::None);
    &order[..end.map_or(0, |last| last + 1)]
}

fn show_order(order: &[BootDevice]) -> String {
    let words: Vec<&str> = trimmed(order).iter().map(|device| device.word()).collect();
    words.join(", ")
}

fn boot_settings(order: &[BootDevice]) -> Vec<Setting> {
    let devices = order
        .iter()
        .copied()
        .chain(std::iter::repeat(BootDevice::None));
    (1..=4)
        .zip(devices)
        .map(|(position, device)| Setting::Boot(position, device))
        .collect()
}

const SHRINKING: &str = "a disk can only grow: shrinking would cut off data";

fn plan_system_disk(current: &VmSpec, desired: &VmSpec, steps: &mut Vec<Step>) {
    let (Some(from), Some(to)) = (current.system_disk_mib, desired.system_disk_mib) else {
        return;
    };
    if from != to {
        steps.push(grow(
            &["system_disk_mib"],
            from,
            to,
            Act::GrowSystemDisk(to),
        ));
    }
}

fn grow(field: &[&str], from: u64, to: u64, act: Act) -> Step {
    let shrinks = to < from;
    Step {
        field: path(field),
        from: from.to_string(),
        to: to.to_string(),
        impact: if shrinks {
            Impact::Refused(SHRINKING.to_owned())
        } else {
            Impact::Restart
        },
        act: if shrinks { Act::Nothing } else { act },
    }
}

fn plan_disks(current: &VmSpec, desired: &VmSpec, steps: &mut Vec<Step>) {
    for (key, &to) in &desired.disks {
        match current.disks.get(key) {
            None => steps.push(Step {
                field: path(&["disks", key]),
                from: ABSENT.to_owned(),
                to: format!("{to} MiB"),
                impact: Impact::Restart,
                act: Act::AddDisk(key.clone(), to),
            }),
            Some(&from) if from != to => {
                let act = Act::GrowDisk(key.clone(), to);
                steps.push(grow(&["disks", key, "size_mib"], from, to, act));
            }
            Some(_) => {}
        }
    }
    for (key, from) in &current.disks {
        if !desired.disks.contains_key(key) {
            steps.push(Step {
                field: path(&["disks", key]),
                from: format!("{from} MiB"),
                to: ABSENT.to_owned(),
                impact: Impact::Restart,
                act: Act::RemoveDisk(key.clone()),
            });
        }
    }
}

/// Everything that `modifyvm` sets on a new VM. `adapters` have their MAC and attachment.
pub(crate) fn creation_settings(spec: &VmSpec, adapters: &[Adapter]) -> Vec<Setting> {
    let hardware = &spec.hardware;
    let mut settings = vec![
        Setting::ServerDefaults,
        Setting::Cpus(spec.cpus),
        Setting::MemoryMib(spec.memory_mib),
        // Eight, VirtualBox's own default, are too few for its own graphics controller.
        Setting::VramMib(hardware.vram_mib.unwrap_or(16)),
    ];
    settings.extend(hardware.firmware.map(Setting::Firmware));
    settings.extend(hardware.chipset.map(Setting::Chipset));
    settings.extend(
        hardware
            .nested_virtualization
            .map(Setting::NestedVirtualization),
    );
    settings.extend(hardware.serial_file.clone().map(serial));
    settings.extend(hardware.autostart.filter(|on| *on).map(Setting::Autostart));
    let order = hardware
        .boot_order
        .as_deref()
        .unwrap_or(&[BootDevice::Disk]);
    settings.extend(boot_settings(order));
    for (slot, adapter) in (1..).zip(adapters) {
        settings.extend(adapter_settings(slot, adapter));
    }
    settings
}

fn plan_folders(current: &VmSpec, desired: &VmSpec, steps: &mut Vec<Step>) {
    let show = |folder: &SharedFolder| {
        let mode = if folder.read_only { ", read-only" } else { "" };
        format!("{} at {}{mode}", folder.host_path, folder.guest_path)
    };
    for (name, have) in &current.shared_folders {
        if desired.shared_folders.get(name) != Some(have) {
            let to = desired.shared_folders.get(name);
            steps.push(Step {
                field: path(&["shared_folders", name]),
                from: show(have),
                to: to.map_or(ABSENT.to_owned(), show),
                impact: Impact::Restart,
                act: Act::RemoveFolder(name.clone()),
            });
        }
    }
    for (name, want) in &desired.shared_folders {
        let have = current.shared_folders.get(name);
        if have != Some(want) {
            steps.push(Step {
                field: path(&["shared_folders", name]),
                from: have.map_or(ABSENT.to_owned(), show),
                to: show(want),
                impact: Impact::Restart,
                act: Act::AddFolder(name.clone(), want.clone()),
            });
        }
    }
}

fn show_seed(spec: &VmSpec) -> String {
    let seed = &spec.seed;
    let addresses = seed
        .network
        .as_ref()
        .map(|network| network.addresses.join(", "));
    format!(
        "{} with {} keys{}{}",
        seed.user,
        seed.authorized_keys.len(),
        if seed.sudo { " and sudo" } else { "" },
        addresses.map_or(String::new(), |it| format!(" at {it}"))
    )
}

/// What a creation does about a VM that has the name.
#[derive(Debug, PartialEq, Eq)]
pub enum Creation {
    /// The name is free.
    Build,
    /// A creation was cut short: what it left cannot be trusted.
    WipeAndBuild,
    /// Made by an apply that was interrupted before its state was written: it is ours and it is what is wanted.
    Adopt,
    /// Someone's, or not what is wanted.
    Refuse(String),
}

pub fn plan_creation(existing: Option<&Vm>, wanted: &VmSpec, default: &Attachment) -> Creation {
    let Some(vm) = existing else {
        return Creation::Build;
    };
    let name = &vm.spec.name;
    match vm.phase {
        Phase::Unfinished if vm.state.is_on() => Creation::Refuse(format!(
            "a VM {name:?} was not finished, but it runs: stop it, or import it by its name"
        )),
        Phase::Unfinished => Creation::WipeAndBuild,
        Phase::Ready if !vm.acknowledged && plan(&vm.spec, wanted, default).is_empty() => {
            Creation::Adopt
        }
        Phase::Ready => Creation::Refuse(format!(
            "it already has a VM {name:?} (id {}) that Terraform made: import it by its name, or remove it with `VBoxManage unregistervm {} --delete`",
            vm.id, vm.id
        )),
        Phase::Foreign => Creation::Refuse(format!(
            "it already has a VM {name:?} (id {}) that somebody else made: choose another name, or import it by its name",
            vm.id
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::answer::VmState;
    use crate::command::{Chipset, Firmware, Forward, NicModel, Promiscuous, Protocol};
    use crate::spec::{Hardware, Place, StaticNetwork, example};

    /// A VM as it is found: nothing is left open.
    fn found() -> VmSpec {
        VmSpec {
            hardware: Hardware {
                os_type: Some("Linux_64".to_owned()),
                vram_mib: Some(16),
                firmware: Some(Firmware::Bios),
                chipset: Some(Chipset::Piix3),
                nested_virtualization: Some(false),
                boot_order: Some(vec![
                    BootDevice::Disk,
                    BootDevice::None,
                    BootDevice::None,
                    BootDevice::None,
                ]),
                serial_file: Some(String::new()),
                autostart: Some(false),
            },
            system_disk_mib: Some(2048),
            adapters: vec![Adapter {
                name: "enp0s3".to_owned(),
                mac: Some("08:00:27:00:00:01".to_owned()),
                attachment: Some(Attachment::Nat),
                model: Some(NicModel::I82540EM),
                promiscuous: Some(Promiscuous::Deny),
                cable_connected: Some(true),
                forwards: BTreeMap::from([("ssh".to_owned(), forward(2222))]),
            }],
            ..example()
        }
    }

    fn forward(host_port: u16) -> Forward {
        Forward {
            protocol: Protocol::Tcp,
            host_address: None,
            host_port,
            guest_port: 22,
        }
    }

    #[test]
    fn each_difference_is_one_step_with_its_impact() {
        type Case = (fn(&mut VmSpec), &'static str, Impact);
        let cases: [Case; 22] = [
            (
                |s| s.name = "x".into(),
                "name: web-01 -> x",
                Impact::Replace,
            ),
            (
                |s| s.image.path = "/b.ova".into(),
                "image: /images/base.ova -> /b.ova",
                Impact::Replace,
            ),
            (
                |s| s.image.linked = true,
                "linked_clone: false -> true",
                Impact::Replace,
            ),
            (|s| s.cpus = 2, "cpus: 1 -> 2", Impact::Restart),
            (
                |s| s.memory_mib = 1024,
                "memory_mib: 512 -> 1024",
                Impact::Restart,
            ),
            (
                |s| s.hardware.os_type = Some("Ubuntu_64".into()),
                "os_type: Linux_64 -> Ubuntu_64",
                Impact::Restart,
            ),
            (
                |s| s.hardware.firmware = Some(Firmware::Efi),
                "firmware: bios -> efi",
                Impact::Restart,
            ),
            (
                |s| s.hardware.chipset = Some(Chipset::Ich9),
                "chipset: piix3 -> ich9",
                Impact::Restart,
            ),
            (
                |s| s.hardware.nested_virtualization = Some(true),
                "nested_virtualization: false -> true",
                Impact::Restart,
            ),
            (
                |s| s.hardware.boot_order = Some(vec![BootDevice::Net, BootDevice::Disk]),
                "boot_order: disk -> net, disk",
                Impact::Restart,
            ),
            (
                |s| s.hardware.serial_file = Some("/l".into()),
                "serial_file:  -> /l",
                Impact::Restart,
            ),
            (
                |s| s.system_disk_mib = Some(4096),
                "system_disk_mib: 2048 -> 4096",
                Impact::Restart,
            ),
            (
                |s| s.system_disk_mib = Some(1024),
                "system_disk_mib: 2048 -> 1024",
                Impact::Refused(SHRINKING.into()),
            ),
            (
                |s| {
                    s.disks.insert("log".into(), 8);
                },
                "disks.log: (none) -> 8 MiB",
                Impact::Restart,
            ),
            (
                |s| {
                    s.disks.insert("data".into(), 128);
                },
                "disks.data.size_mib: 64 -> 128",
                Impact::Restart,
            ),
            (
                |s| {
                    s.disks.insert("data".into(), 32);
                },
                "disks.data.size_mib: 64 -> 32",
                Impact::Refused(SHRINKING.into()),
            ),
            (
                |s| s.disks.clear(),
                "disks.data: 64 MiB -> (none)",
                Impact::Restart,
            ),
            (
                |s| s.adapters[0].attachment = Some(Attachment::Bridged("eth0".into())),
                "network_interfaces.0.type: nat -> bridged \"eth0\"",
                Impact::Live,
            ),
            (
                |s| s.adapters[0].cable_connected = Some(false),
                "network_interfaces.0.cable_connected: true -> false",
                Impact::Live,
            ),
            (
                |s| s.adapters[0].mac = Some("08:00:27:00:00:02".into()),
                "network_interfaces.0.mac_address: 08:00:27:00:00:01 -> 08:00:27:00:00:02",
                Impact::Restart,
            ),
            (
                |s| {
                    s.adapters[0].forwards.insert("ssh".into(), forward(2223));
                },
                "network_interfaces.0.port_forwards.ssh: tcp *:2222 to 22 -> tcp *:2223 to 22",
                Impact::Live,
            ),
            (
                |s| s.seed.sudo = false,
                "seed: ondol with 1 keys and sudo -> ondol with 1 keys",
                Impact::Restart,
            ),
        ];
        for (change, line, impact) in cases {
            let mut desired = found();
            change(&mut desired);
            let steps = plan(&found(), &desired, &Attachment::Nat);
            assert_eq!(
                steps.iter().map(ToString::to_string).collect::<Vec<_>>(),
                [line]
            );
            assert_eq!(steps[0].impact, impact, "{line}");
        }
    }

    #[test]
    fn what_a_wish_leaves_open_is_no_difference() {
        let mut wish = example();
        wish.adapters = vec![Adapter {
            name: "enp0s3".to_owned(),
            forwards: BTreeMap::from([("ssh".to_owned(), forward(2222))]),
            ..Adapter::default()
        }];
        assert_eq!(plan(&found(), &wish, &Attachment::Nat), []);
        let mut same = found();
        same.hardware.boot_order = Some(vec![BootDevice::Disk]);
        same.adapters[0].mac = Some("08:00:27:00:00:01".to_owned());
        assert_eq!(plan(&found(), &same, &Attachment::Nat), []);
    }

    #[test]
    fn adapters_come_and_go_from_the_end() {
        let mut two = found();
        two.adapters.push(Adapter {
            name: "enp0s8".to_owned(),
            attachment: Some(Attachment::Internal("lan".to_owned())),
            ..Adapter::default()
        });
        let lines = |steps: Vec<Step>| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            lines(plan(&found(), &two, &Attachment::Nat)),
            ["network_interfaces.1: (none) -> enp0s8 intnet \"lan\""]
        );
        let back = plan(&two, &found(), &Attachment::Nat);
        assert_eq!(
            back[0].act,
            Act::Set {
                stopped: vec![Setting::Nic(2, Attachment::Absent)],
                running: vec![]
            }
        );
    }

    #[test]
    fn a_shared_folder_that_changes_is_removed_and_added() {
        let folder = |host_path: &str| SharedFolder {
            host_path: host_path.to_owned(),
            guest_path: "/mnt".to_owned(),
            read_only: true,
        };
        let with = |host_path: &str| VmSpec {
            shared_folders: BTreeMap::from([("src".to_owned(), folder(host_path))]),
            ..found()
        };
        let acts: Vec<Act> = plan(&with("/a"), &with("/b"), &Attachment::Nat)
            .into_iter()
            .map(|step| step.act)
            .collect();
        assert_eq!(
            acts,
            [
                Act::RemoveFolder("src".to_owned()),
                Act::AddFolder("src".to_owned(), folder("/b"))
            ]
        );
    }

    #[test]
    fn another_network_of_the_seed_is_written_to_the_seed() {
        let mut desired = found();
        desired.seed.network = Some(StaticNetwork {
            addresses: vec!["10.0.0.2/24".to_owned()],
            ..StaticNetwork::default()
        });
        let steps = plan(&found(), &desired, &Attachment::Nat);
        assert_eq!(
            steps[0].to_string(),
            "seed: ondol with 1 keys and sudo -> ondol with 1 keys and sudo at 10.0.0.2/24"
        );
        assert_eq!(steps[0].act, Act::WriteSeed);
    }

    #[test]
    fn a_taken_name_is_adopted_wiped_or_refused() {
        let vm = |phase, acknowledged, state| Vm {
            id: uuid::Uuid::nil(),
            spec: found(),
            state,
            phase,
            acknowledged,
            confirmed_address: None,
            image_digest: String::new(),
            ssh_host_key: String::new(),
            first_boot_address: "169.254.1.1".parse().unwrap(),
            macs: vec![],
            wish: None,
            place: Place::default(),
        };
        let off = VmState::PoweredOff;
        let other = VmSpec { cpus: 4, ..found() };
        let decide = |vm: &Vm, wanted: &VmSpec| plan_creation(Some(vm), wanted, &Attachment::Nat);
        assert_eq!(
            plan_creation(None, &found(), &Attachment::Nat),
            Creation::Build
        );
        assert_eq!(
            decide(&vm(Phase::Unfinished, false, off), &other),
            Creation::WipeAndBuild
        );
        assert_eq!(
            decide(&vm(Phase::Ready, false, off), &found()),
            Creation::Adopt
        );
        for refused in [
            decide(&vm(Phase::Ready, true, off), &found()),
            decide(&vm(Phase::Ready, false, off), &other),
            decide(&vm(Phase::Foreign, false, off), &found()),
            decide(&vm(Phase::Unfinished, false, VmState::Running), &found()),
        ] {
            assert!(matches!(refused, Creation::Refuse(_)), "{refused:?}");
        }
    }
}
