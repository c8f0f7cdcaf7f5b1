//! The acts of VBoxManage as values, and their command lines for each version.
//!
//! Nothing is run here, and nothing is quoted: that is the way to a host's business ([`crate::quote`]).

mod network;
mod setting;
mod snapshot;

pub use self::network::{NatChange, NetworkAct};
pub use self::setting::{
    Attachment, BootDevice, Chipset, Control, Firmware, Forward, NicModel, Promiscuous, Protocol,
    Setting,
};
pub use self::snapshot::SnapshotAct;
use crate::version::Version;

/// One call of VBoxManage. VMs are named by name or UUID; paths are the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Version,
    /// Every VM with its configuration, `list --long vms`.
    ListVms,
    /// Every hard disk that is registered.
    ListDisks,
    ListBridgedAdapters,
    ListHostOnlyAdapters,
    /// `list --long natnets`: the short list leaves the rules out.
    ListNatNetworks,
    /// Host-only networks of macOS.
    ListVmnets,
    ListDhcpServers,
    ListOsTypes,
    ListSystemProperties,
    HostInfo,
    /// `showvminfo --machinereadable`.
    ShowVm {
        vm: String,
    },
    CreateVm {
        name: String,
        os_type: String,
        uuid: uuid::Uuid,
    },
    ModifyVm {
        vm: String,
        settings: Vec<Setting>,
    },
    /// What a running VM can take.
    Control {
        vm: String,
        act: Control,
    },
    AddController {
        vm: String,
        name: String,
        ports: u32,
    },
    /// Puts a medium into a port, or with `None` takes out what is there.
    Attach {
        vm: String,
        controller: String,
        port: u32,
        medium: Option<Medium>,
    },
    CreateDisk {
        path: String,
        size_mib: u64,
    },
    /// A disk that holds only what differs from `parent`.
    CreateDifferencing {
        parent: String,
        path: String,
    },
    /// Copies a disk of any format into a VDI.
    CloneDisk {
        from: String,
        to: String,
    },
    ResizeDisk {
        path: String,
        size_mib: u64,
    },
    /// Takes a medium out of the registry, and off the disk if `delete`.
    CloseMedium {
        medium: Medium,
        delete: bool,
    },
    AddSharedFolder {
        vm: String,
        name: String,
        host_path: String,
        guest_path: String,
        read_only: bool,
    },
    RemoveSharedFolder {
        vm: String,
        name: String,
    },
    /// `None` removes the key.
    SetExtraData {
        vm: String,
        key: String,
        value: Option<String>,
    },
    /// Without a window.
    Start {
        vm: String,
    },
    /// Removes a VM from the registry; with `delete`, its settings, logs and attached disks too.
    Unregister {
        vm: String,
        delete: bool,
    },
    GuestProperties {
        vm: String,
        pattern: String,
    },
    Import {
        appliance: String,
        name: String,
    },
    Export {
        vm: String,
        appliance: String,
    },
    CloneVm {
        vm: String,
        name: String,
        /// Share the disks of this snapshot instead of copying them.
        linked_to: Option<String>,
    },
    Snapshot {
        vm: String,
        act: SnapshotAct,
    },
    Network(NetworkAct),
}

/// A medium by path or UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    Disk(String),
    Dvd(String),
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

impl Command {
    /// The arguments after `VBoxManage`.
    pub fn argv(&self, version: Version) -> Vec<String> {
        match self {
            Self::Version => words(["--version"]),
            Self::ListVms => words(["list", "--long", "vms"]),
            Self::ListDisks => words(["list", "--long", "hdds"]),
            Self::ListBridgedAdapters => words(["list", "bridgedifs"]),
            Self::ListHostOnlyAdapters => words(["list", "hostonlyifs"]),
            Self::ListNatNetworks => words(["list", "--long", "natnets"]),
            Self::ListVmnets => words(["list", "hostonlynets"]),
            Self::ListDhcpServers => words(["list", "dhcpservers"]),
            Self::ListOsTypes => words(["list", "ostypes"]),
            Self::ListSystemProperties => words(["list", "systemproperties"]),
            Self::HostInfo => words(["list", "hostinfo"]),
            Self::ShowVm { vm } => words(["showvminfo", vm, "--machinereadable"]),
            Self::CreateVm {
                name,
                os_type,
                uuid,
            } => {
                let mut argv = words(["createvm", "--name", name, "--ostype", os_type]);
                if version.names_platform() {
                    argv.extend(words(["--platform-architecture", "x86"]));
                }
                argv.extend(words(["--uuid", &uuid.to_string(), "--register"]));
                argv
            }
            Self::ModifyVm { vm, settings } => {
                let mut argv = words(["modifyvm", vm]);
                for setting in settings {
                    setting.render(version, &mut argv);
                }
                argv
            }
            Self::Control { vm, act } => {
                let mut argv = words(["controlvm", vm]);
                act.render(&mut argv);
                argv
            }
            Self::AddController { vm, name, ports } => words([
                "storagectl",
                vm,
                "--name",
                name,
                "--add",
                "sata",
                "--controller",
                "IntelAhci",
                "--portcount",
                &ports.to_string(),
                "--bootable",
                "on",
            ]),
            Self::Attach {
                vm,
                controller,
                port,
                medium,
            } => {
                let mut argv = words([
                    "storageattach",
                    vm,
                    "--storagectl",
                    controller,
                    "--port",
                    &port.to_string(),
                    "--device",
                    "0",
                ]);
                argv.extend(match medium {
                    Some(Medium::Disk(path)) => words(["--type", "hdd", "--medium", path]),
                    Some(Medium::Dvd(path)) => words(["--type", "dvddrive", "--medium", path]),
                    None => words(["--medium", "none"]),
                });
                argv
            }
            Self::CreateDisk { path, size_mib } => words([
                "createmedium",
                "disk",
                "--filename",
                path,
                "--size",
                &size_mib.to_string(),
                "--format",
                "VDI",
            ]),
            Self::CreateDifferencing { parent, path } => words([
                "createmedium",
                "disk",
                "--filename",
                path,
                "--diffparent",
                parent,
            ]),
            Self::CloneDisk { from, to } => {
                words(["clonemedium", "disk", from, to, "--format", "VDI"])
            }
            Self::ResizeDisk { path, size_mib } => words([
                "modifymedium",
                "disk",
                path,
                "--resize",
                &size_mib.to_string(),
            ]),
            Self::CloseMedium { medium, delete } => {
                let mut argv = match medium {
                    Medium::Disk(path) => words(["closemedium", "disk", path]),
                    Medium::Dvd(path) => words(["closemedium", "dvd", path]),
                };
                if *delete {
                    argv.push("--delete".to_owned());
                }
                argv
            }
            Self::AddSharedFolder {
                vm,
                name,
                host_path,
                guest_path,
                read_only,
            } => {
                let mut argv = words([
                    "sharedfolder",
                    "add",
                    vm,
                    "--name",
                    name,
                    "--hostpath",
                    host_path,
                    "--automount",
                    "--auto-mount-point",
                    guest_path,
                ]);
                if *read_only {
                    argv.push("--readonly".to_owned());
                }
                argv
            }
            Self::RemoveSharedFolder { vm, name } => {
                words(["sharedfolder", "remove", vm, "--name", name])
            }
            Self::SetExtraData { vm, key, value } => {
                let mut argv = words(["setextradata", vm, key]);
                argv.extend(value.clone());
                argv
            }
            Self::Start { vm } => words(["startvm", vm, "--type", "headless"]),
            Self::Unregister { vm, delete } => {
                let mut argv = words(["unregistervm", vm]);
                if *delete {
                    argv.push("--delete".to_owned());
                }
                argv
            }
            Self::GuestProperties { vm, pattern } if version.hyphenates() => {
                words(["guestproperty", "enumerate", vm, pattern])
            }
            Self::GuestProperties { vm, pattern } => {
                words(["guestproperty", "enumerate", vm, "--patterns", pattern])
            }
            Self::Import { appliance, name } => words([
                "import",
                appliance,
                "--vsys",
                "0",
                "--vmname",
                name,
                "--options",
                "importtovdi",
            ]),
            Self::Export { vm, appliance } => {
                words(["export", vm, "--output", appliance, "--manifest"])
            }
            Self::CloneVm {
                vm,
                name,
                linked_to,
            } => {
                let mut argv = words(["clonevm", vm, "--name", name, "--register"]);
                if let Some(snapshot) = linked_to {
                    argv.extend(words(["--snapshot", snapshot, "--options", "link"]));
                }
                argv
            }
            Self::Snapshot { vm, act } => act.argv(vm),
            Self::Network(act) => act.argv(),
        }
    }

    /// Whether versions differ in its arguments.
    pub fn depends_on_version(&self) -> bool {
        matches!(
            self,
            Self::CreateVm { .. } | Self::ModifyVm { .. } | Self::GuestProperties { .. }
        )
    }

    /// True for acts that disturb each other on one host: VirtualBox locks media and networks globally and gives up instead of
    /// waiting.
    pub fn needs_host(&self) -> bool {
        matches!(
            self,
            Self::CreateVm { .. }
                | Self::CreateDisk { .. }
                | Self::CreateDifferencing { .. }
                | Self::CloneDisk { .. }
                | Self::ResizeDisk { .. }
                | Self::CloseMedium { .. }
                | Self::Attach { .. }
                | Self::Unregister { .. }
                | Self::Import { .. }
                | Self::Export { .. }
                | Self::CloneVm { .. }
                | Self::Snapshot { .. }
                | Self::Network(_)
        )
    }

    /// What it does, for an error: "grow the disk /vms/a/data.vdi".
    pub fn act(&self) -> String {
        match self {
            Self::Version => "ask for the version of VirtualBox".to_owned(),
            Self::ListVms => "list the VMs".to_owned(),
            Self::ListDisks => "list the disks".to_owned(),
            Self::ListBridgedAdapters => "list the adapters that can be bridged".to_owned(),
            Self::ListHostOnlyAdapters => "list the host-only adapters".to_owned(),
            Self::ListNatNetworks => "list the NAT networks".to_owned(),
            Self::ListVmnets => "list the host-only networks".to_owned(),
            Self::ListDhcpServers => "list the DHCP servers".to_owned(),
            Self::ListOsTypes => "list the guest systems that VirtualBox knows".to_owned(),
            Self::ListSystemProperties => "read the properties of VirtualBox".to_owned(),
            Self::HostInfo => "read the host's capacity".to_owned(),
            Self::ShowVm { vm } => format!("look at the VM {vm}"),
            Self::CreateVm { name, .. } => format!("register the VM {name}"),
            Self::ModifyVm { vm, .. } => format!("change the VM {vm}"),
            Self::Control { vm, act } => match act {
                Control::PowerButton => format!("press the power button of the VM {vm}"),
                Control::PowerOff => format!("cut the power of the VM {vm}"),
                _ => format!("change the running VM {vm}"),
            },
            Self::AddController { vm, .. } => format!("give the VM {vm} a disk controller"),
            Self::Attach {
                vm,
                medium: Some(Medium::Disk(path) | Medium::Dvd(path)),
                ..
            } => format!("attach {path} to the VM {vm}"),
            Self::Attach { vm, port, .. } => format!("detach port {port} of the VM {vm}"),
            Self::CreateDisk { path, .. } | Self::CreateDifferencing { path, .. } => {
                format!("make the disk {path}")
            }
            Self::CloneDisk { from, to } => format!("copy the disk {from} to {to}"),
            Self::ResizeDisk { path, .. } => format!("grow the disk {path}"),
            Self::CloseMedium {
                medium: Medium::Disk(path) | Medium::Dvd(path),
                ..
            } => format!("close the medium {path}"),
            Self::AddSharedFolder { vm, name, .. } => format!("share {name:?} with the VM {vm}"),
            Self::RemoveSharedFolder { vm, name } => {
                format!("stop sharing {name:?} with the VM {vm}")
            }
            Self::SetExtraData { vm, key, .. } => format!("note {key} on the VM {vm}"),
            Self::Start { vm } => format!("start the VM {vm}"),
            Self::Unregister { vm, .. } => format!("remove the VM {vm}"),
            Self::GuestProperties { vm, .. } => format!("ask the guest of the VM {vm}"),
            Self::Import { appliance, name } => format!("import {appliance} as the VM {name}"),
            Self::Export { vm, appliance } => format!("export the VM {vm} to {appliance}"),
            Self::CloneVm { vm, name, .. } => format!("clone the VM {vm} to {name}"),
            Self::Snapshot { vm, act } => act.act(vm),
            Self::Network(act) => act.act(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V61: Version = Version::new(6, 1, 50);
    const V70: Version = Version::new(7, 0, 14);
    const V71: Version = Version::new(7, 1, 4);
    const V72: Version = Version::new(7, 2, 22);

    fn modify(setting: Setting, version: Version) -> String {
        let command = Command::ModifyVm {
            vm: "a".to_owned(),
            settings: vec![setting],
        };
        command.argv(version)[2..].join(" ")
    }

    #[test]
    fn renamed_flags_are_spelled_as_each_version_knows_them() {
        let forward = Forward {
            protocol: Protocol::Tcp,
            host_address: Some("127.0.0.1".parse().unwrap()),
            host_port: 2222,
            guest_port: 22,
        };
        let cases: Vec<(Setting, &str, &str)> = vec![
            (
                Setting::OsType("Debian_64".to_owned()),
                "--ostype Debian_64",
                "--os-type Debian_64",
            ),
            (
                Setting::Nic(1, Attachment::Bridged("eth0".to_owned())),
                "--nic1 bridged --bridgeadapter1 eth0",
                "--nic1 bridged --bridge-adapter1 eth0",
            ),
            (
                Setting::Nic(2, Attachment::HostOnly("vboxnet0".to_owned())),
                "--nic2 hostonly --hostonlyadapter2 vboxnet0",
                "--nic2 hostonly --host-only-adapter2 vboxnet0",
            ),
            (
                Setting::Nic(2, Attachment::Vmnet("lan".to_owned())),
                "--nic2 hostonlynet --host-only-net2 lan",
                "--nic2 hostonlynet --host-only-net2 lan",
            ),
            (
                Setting::Nic(3, Attachment::Internal("lan".to_owned())),
                "--nic3 intnet --intnet3 lan",
                "--nic3 intnet --intnet3 lan",
            ),
            (
                Setting::Nic(4, Attachment::NatNetwork("site".to_owned())),
                "--nic4 natnetwork --nat-network4 site",
                "--nic4 natnetwork --nat-network4 site",
            ),
            (
                Setting::Nic(8, Attachment::Absent),
                "--nic8 none",
                "--nic8 none",
            ),
            (
                Setting::NicModel(1, NicModel::Virtio),
                "--nictype1 virtio",
                "--nic-type1 virtio",
            ),
            (
                Setting::Mac(1, "080027000001".to_owned()),
                "--macaddress1 080027000001",
                "--mac-address1 080027000001",
            ),
            (
                Setting::Promiscuous(1, Promiscuous::AllowVms),
                "--nicpromisc1 allow-vms",
                "--nic-promisc1 allow-vms",
            ),
            (
                Setting::Cable(1, false),
                "--cableconnected1 off",
                "--cable-connected1 off",
            ),
            (
                Setting::AddForward(1, "ssh".to_owned(), forward),
                "--natpf1 ssh,tcp,127.0.0.1,2222,,22",
                "--nat-pf1 ssh,tcp,127.0.0.1,2222,,22",
            ),
            (
                Setting::DeleteForward(1, "ssh".to_owned()),
                "--natpf1 delete ssh",
                "--nat-pf1 delete ssh",
            ),
            (
                Setting::SerialFile(Some("/tmp/x".to_owned())),
                "--uart1 0x3F8 4 --uartmode1 file /tmp/x",
                "--uart1 0x3F8 4 --uart-mode1 file /tmp/x",
            ),
            (
                Setting::ServerDefaults,
                "--rtcuseutc on --graphicscontroller vmsvga --audio none",
                "--rtc-use-utc on --graphicscontroller vmsvga --audio-enabled off",
            ),
        ];
        for (setting, old, new) in cases {
            assert_eq!(modify(setting.clone(), V61), old);
            for version in [V70, V71, V72] {
                assert_eq!(modify(setting.clone(), version), new, "{version}");
            }
        }
    }

    #[test]
    fn a_new_vms_platform_is_named_where_it_must_be() {
        let create = Command::CreateVm {
            name: "web 01".to_owned(),
            os_type: "Debian_64".to_owned(),
            uuid: uuid::Uuid::nil(),
        };
        let tail = [
            "--uuid",
            "00000000-0000-0000-0000-000000000000",
            "--register",
        ];
        let head = ["createvm", "--name", "web 01", "--ostype", "Debian_64"];
        for version in [V61, V70] {
            assert_eq!(create.argv(version), [&head[..], &tail].concat());
        }
        for version in [V71, V72] {
            let platform = ["--platform-architecture", "x86"];
            assert_eq!(create.argv(version), [&head[..], &platform, &tail].concat());
        }
    }

    #[test]
    fn running_vms_are_changed_in_the_words_of_every_version() {
        for (act, expected) in [
            (Control::PowerButton, "acpipowerbutton"),
            (
                Control::Nic(1, Attachment::Bridged("en0: Wi-Fi".to_owned())),
                "nic1 bridged en0: Wi-Fi",
            ),
            (Control::Nic(2, Attachment::Nat), "nic2 nat"),
            (Control::Cable(1, true), "setlinkstate1 on"),
            (
                Control::DeleteForward(1, "ssh".to_owned()),
                "natpf1 delete ssh",
            ),
        ] {
            let command = Command::Control {
                vm: "a".to_owned(),
                act,
            };
            assert_eq!(command.argv(V72)[2..].join(" "), expected);
            assert_eq!(command.argv(V61), command.argv(V72));
        }
    }

    #[test]
    fn what_does_not_depend_on_the_version_is_the_same_in_all() {
        let vm = || "a".to_owned();
        let same = [
            Command::ListVms,
            Command::ListDisks,
            Command::ShowVm { vm: vm() },
            Command::Start { vm: vm() },
            Command::Unregister {
                vm: vm(),
                delete: true,
            },
            Command::CloneDisk {
                from: vm(),
                to: vm(),
            },
            Command::Control {
                vm: vm(),
                act: Control::PowerOff,
            },
        ];
        for command in same {
            assert!(!command.depends_on_version());
            assert_eq!(command.argv(V61), command.argv(V72));
        }
    }

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!(Chipset::from_word("PIIX3"), Some(Chipset::Piix3));
        assert_eq!(Firmware::from_word("EFI"), Some(Firmware::Efi));
        assert_eq!(NicModel::from_word("Virtio"), Some(NicModel::Virtio));
        assert_eq!(Firmware::from_word("uefi"), None);
    }
}
