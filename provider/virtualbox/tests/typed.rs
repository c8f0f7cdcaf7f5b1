//! Each act of the typed layer with the real VBoxManage, and what it prints read back.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[expect(dead_code, reason = "each test file uses its own part of the support")]
mod support;

use ondol_virtualbox::command::{
    Attachment, BootDevice, Chipset, Command, Control, Firmware, Forward, Medium, NicModel,
    Promiscuous, Protocol, Setting, SnapshotAct,
};
use ondol_virtualbox::{Code, Local, Machine, Version, answer, network, settings};
use support::Host;
use uuid::Uuid;

async fn machine(host: &Host) -> Machine {
    let transport = Local {
        enter: host.enter(),
    };
    Machine::discover(std::sync::Arc::new(transport), None)
        .await
        .unwrap()
}

async fn settings_of(machine: &Machine, vm: &str) -> settings::Settings {
    let listed = answer::vms(&machine.run(&Command::ListVms).await.unwrap());
    let is_it = |it: &&answer::ListedVm| it.accessible.as_ref().is_some_and(|it| it.name == vm);
    let path = &listed.iter().find(is_it).unwrap().settings_file;
    let text = machine.read_file(path).await.unwrap().unwrap();
    settings::read(std::str::from_utf8(&text).unwrap()).unwrap()
}

#[tokio::test]
async fn every_setting_is_taken_and_read_back() {
    let Some(host) = Host::start() else { return };
    host.run(&["install", "-d", "-m", "1777", "/etc/vbox"]);
    host.run(&["VBoxManage", "setproperty", "autostartdbpath", "/etc/vbox"]);
    let machine = machine(&host).await;
    let version = machine.version().await.unwrap();
    assert!(version >= Version::new(7, 2, 0), "{version}");
    let (vm, uuid) = ("it's \"web\" 01".to_owned(), Uuid::from_u128(0x1234_5678));
    let run = async |command: Command| machine.run(&command).await.unwrap();
    run(Command::CreateVm {
        name: vm.clone(),
        os_type: "Debian_64".to_owned(),
        uuid,
    })
    .await;
    let forward = |host_port| Forward {
        protocol: Protocol::Tcp,
        host_address: Some("127.0.0.1".parse().unwrap()),
        host_port,
        guest_port: 22,
    };
    let wanted = vec![
        Setting::ServerDefaults,
        Setting::OsType("Ubuntu_64".to_owned()),
        Setting::Cpus(3),
        Setting::MemoryMib(640),
        Setting::VramMib(17),
        Setting::Firmware(Firmware::Efi),
        Setting::Chipset(Chipset::Ich9),
        Setting::NestedVirtualization(true),
        Setting::Boot(1, BootDevice::Disk),
        Setting::Boot(2, BootDevice::Net),
        Setting::Boot(3, BootDevice::None),
        Setting::Boot(4, BootDevice::None),
        Setting::Nic(1, Attachment::Bridged("Intel(R) X, \"y\"".to_owned())),
        Setting::NicModel(1, NicModel::Virtio),
        Setting::Mac(1, "080027ABCDEF".to_owned()),
        Setting::Promiscuous(1, Promiscuous::AllowAll),
        Setting::Cable(1, false),
        Setting::Nic(2, Attachment::Nat),
        Setting::AddForward(2, "ssh".to_owned(), forward(2222)),
        Setting::AddForward(2, "web".to_owned(), forward(8080)),
        Setting::Nic(3, Attachment::HostOnly("vboxnet7".to_owned())),
        Setting::Nic(4, Attachment::Internal("lan".to_owned())),
        Setting::Nic(5, Attachment::NatNetwork("site".to_owned())),
        Setting::SerialFile(Some("/tmp/serial log".to_owned())),
    ];
    let modify = async |settings| {
        let vm = vm.clone();
        run(Command::ModifyVm { vm, settings }).await
    };
    modify(wanted).await;
    let value = "{\"a\":\"<&>'\\\\\"}".to_owned();
    for (key, value) in [
        ("ondol/spec", Some(value.clone())),
        ("ondol/gone", Some("x".to_owned())),
        ("ondol/gone", None),
    ] {
        let (vm, key) = (vm.clone(), key.to_owned());
        run(Command::SetExtraData { vm, key, value }).await;
    }
    run(Command::AddSharedFolder {
        vm: vm.clone(),
        name: "src".to_owned(),
        host_path: "/tmp".to_owned(),
        guest_path: "/mnt/src".to_owned(),
        read_only: true,
    })
    .await;

    let found = settings_of(&machine, &vm).await;
    assert_eq!(
        (found.uuid, found.name.as_str(), found.os_type.as_str()),
        (uuid, vm.as_str(), "Ubuntu_64")
    );
    assert_eq!((found.cpus, found.memory_mib, found.vram_mib), (3, 640, 17));
    assert_eq!(
        (found.firmware, found.chipset),
        (Firmware::Efi, Chipset::Ich9)
    );
    assert!(found.nested_virtualization);
    assert_eq!(
        found.boot_order,
        [
            BootDevice::Disk,
            BootDevice::Net,
            BootDevice::None,
            BootDevice::None
        ]
    );
    let first = &found.adapters[&1];
    assert_eq!(
        first.attachment,
        Some(Attachment::Bridged("Intel(R) X, \"y\"".to_owned()))
    );
    assert_eq!(
        (first.mac.as_str(), first.model),
        ("080027ABCDEF", Some(NicModel::Virtio))
    );
    assert_eq!(
        (first.promiscuous, first.cable_connected),
        (Promiscuous::AllowAll, false)
    );
    assert_eq!(found.adapters[&2].forwards["ssh"], forward(2222));
    assert_eq!(
        found.adapters[&3].attachment,
        Some(Attachment::HostOnly("vboxnet7".to_owned()))
    );
    assert_eq!(
        found.adapters[&4].attachment,
        Some(Attachment::Internal("lan".to_owned()))
    );
    assert_eq!(
        found.adapters[&5].attachment,
        Some(Attachment::NatNetwork("site".to_owned()))
    );
    assert_eq!(found.serial_file.as_deref(), Some("/tmp/serial log"));
    assert_eq!(found.extra_data.get("ondol/spec"), Some(&value));
    assert_eq!(found.extra_data.get("ondol/gone"), None);
    let folder = &found.shared_folders["src"];
    assert_eq!(
        (
            folder.host_path.as_str(),
            folder.guest_path.as_str(),
            folder.read_only
        ),
        ("/tmp", "/mnt/src", true)
    );

    modify(vec![
        Setting::DeleteForward(2, "ssh".to_owned()),
        Setting::Nic(5, Attachment::Absent),
        Setting::SerialFile(None),
        Setting::Autostart(true),
    ])
    .await;
    run(Command::RemoveSharedFolder {
        vm: vm.clone(),
        name: "src".to_owned(),
    })
    .await;
    let found = settings_of(&machine, &vm).await;
    assert_eq!(
        found.adapters[&2].forwards.keys().collect::<Vec<_>>(),
        ["web"]
    );
    assert_eq!(
        (
            &found.adapters[&5].attachment,
            found.serial_file,
            found.autostart
        ),
        (&Some(Attachment::Absent), None, true)
    );
    assert!(found.shared_folders.is_empty());

    let info = answer::machine_readable(&run(Command::ShowVm { vm: vm.clone() }).await);
    assert_eq!(info.get("memory"), Some("640"));
    assert_eq!(info.forwards[&2], ["web,tcp,127.0.0.1,8080,,22"]);
    run(Command::Unregister {
        vm: vm.clone(),
        delete: true,
    })
    .await;
    let error = machine.run(&Command::ShowVm { vm }).await.unwrap_err();
    assert_eq!(error.code(), Some(&Code::ObjectNotFound));
}

#[tokio::test]
async fn disks_grow_are_copied_and_share_a_parent() {
    let Some(host) = Host::start() else { return };
    let machine = machine(&host).await;
    let run = async |command: Command| machine.run(&command).await.unwrap();
    let vm = "disks".to_owned();
    let path = |name: &str| format!("/root/VirtualBox VMs/disks/{name}.vdi");
    run(Command::CreateVm {
        name: vm.clone(),
        os_type: "Linux_64".to_owned(),
        uuid: Uuid::new_v4(),
    })
    .await;
    run(Command::AddController {
        vm: vm.clone(),
        name: "SATA".to_owned(),
        ports: 8,
    })
    .await;
    run(Command::CreateDisk {
        path: path("base"),
        size_mib: 64,
    })
    .await;
    run(Command::CloneDisk {
        from: path("base"),
        to: path("copy"),
    })
    .await;
    run(Command::CreateDifferencing {
        parent: path("base"),
        path: path("child"),
    })
    .await;
    for (port, name) in [(0, "copy"), (1, "child")] {
        run(Command::Attach {
            vm: vm.clone(),
            controller: "SATA".to_owned(),
            port,
            medium: Some(Medium::Disk(path(name))),
        })
        .await;
    }
    for name in ["copy", "child"] {
        run(Command::ResizeDisk {
            path: path(name),
            size_mib: 128,
        })
        .await;
    }
    let disks = answer::disks(&run(Command::ListDisks).await);
    let disk = |name: &str| {
        disks
            .iter()
            .find(|disk| disk.location == path(name))
            .unwrap()
    };
    assert_eq!((disk("base").size_mib, disk("base").attached), (64, false));
    assert_eq!((disk("copy").size_mib, disk("copy").attached), (128, true));
    assert_eq!(
        (disk("child").size_mib, disk("child").parent),
        (128, Some(disk("base").uuid))
    );

    let shrink = Command::ResizeDisk {
        path: path("copy"),
        size_mib: 32,
    };
    let error = machine.run(&shrink).await.unwrap_err();
    assert_eq!(error.code(), Some(&Code::NotSupported), "{error}");
    let close = |name: &str| Command::CloseMedium {
        medium: Medium::Disk(path(name)),
        delete: true,
    };
    let error = machine.run(&close("copy")).await.unwrap_err();
    assert_eq!(error.code(), Some(&Code::ObjectInUse), "{error}");
    let settings = settings_of(&machine, &vm).await;
    assert_eq!(settings.controllers[0].ports.len(), 2);
    run(Command::Attach {
        vm: vm.clone(),
        controller: "SATA".to_owned(),
        port: 0,
        medium: None,
    })
    .await;
    run(close("copy")).await;
    assert!(!host.path(&path("copy")).exists());
}

#[tokio::test]
async fn vms_are_cloned_exported_and_imported() {
    let Some(host) = Host::start() else { return };
    let machine = machine(&host).await;
    let run = async |command: Command| machine.run(&command).await.unwrap();
    let vm = "first".to_owned();
    run(Command::CreateVm {
        name: vm.clone(),
        os_type: "Linux_64".to_owned(),
        uuid: Uuid::new_v4(),
    })
    .await;
    run(Command::Snapshot {
        vm: vm.clone(),
        act: SnapshotAct::Take {
            name: "s 1".to_owned(),
            description: String::new(),
        },
    })
    .await;
    run(Command::CloneVm {
        vm: vm.clone(),
        name: "linked".to_owned(),
        linked_to: Some("s 1".to_owned()),
    })
    .await;
    run(Command::CloneVm {
        vm: vm.clone(),
        name: "full".to_owned(),
        linked_to: None,
    })
    .await;
    run(Command::Export {
        vm: "full".to_owned(),
        appliance: "/tmp/full.ova".to_owned(),
    })
    .await;
    assert_eq!(
        machine.tar_members("/tmp/full.ova").await.unwrap(),
        ["full.ovf", "full.mf"]
    );
    run(Command::Import {
        appliance: "/tmp/full.ova".to_owned(),
        name: "imported".to_owned(),
    })
    .await;
    let listed = answer::vms(&run(Command::ListVms).await);
    let mut names: Vec<&str> = listed
        .iter()
        .filter_map(|vm| Some(vm.accessible.as_ref()?.name.as_str()))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["first", "full", "imported", "linked"]);

    let missing = Command::Import {
        appliance: "/tmp/none.ova".to_owned(),
        name: "none".to_owned(),
    };
    let error = machine.run(&missing).await.unwrap_err();
    assert_eq!(error.code(), Some(&Code::ObjectNotFound), "{error}");
}

#[tokio::test]
async fn a_host_tells_what_it_has() {
    let Some(host) = Host::start() else { return };
    host.run(&[
        "ip", "link", "add", "br-lan", "type", "veth", "peer", "name", "other",
    ]);
    let machine = machine(&host).await;
    let run = async |command: Command| machine.run(&command).await.unwrap();
    let adapters = answer::host_adapters(&run(Command::ListBridgedAdapters).await);
    assert!(
        adapters.iter().any(|adapter| adapter.name == "br-lan"),
        "{adapters:?}"
    );
    assert!(answer::host_adapters(&run(Command::ListHostOnlyAdapters).await).is_empty());
    assert!(network::nat_networks(&run(Command::ListNatNetworks).await).is_empty());
    assert!(
        answer::os_types(&run(Command::ListOsTypes).await)
            .iter()
            .any(|it| it == "Ubuntu_64")
    );
    let properties = answer::properties(&run(Command::ListSystemProperties).await);
    assert_eq!(properties["Default machine folder"], "/root/VirtualBox VMs");
    assert!(answer::properties(&run(Command::HostInfo).await)["Memory size"].ends_with("MByte"));
    let vm = Command::Control {
        vm: "none".to_owned(),
        act: Control::PowerOff,
    };
    assert_eq!(
        machine.run(&vm).await.unwrap_err().code(),
        Some(&Code::ObjectNotFound)
    );
}

#[tokio::test]
async fn many_acts_at_once_on_a_host_that_was_asleep_all_succeed() {
    let Some(host) = Host::start() else { return };
    let machine = machine(&host).await;
    let creations = (0..12).map(async |number| {
        let create = Command::CreateVm {
            name: format!("vm-{number}"),
            os_type: "Linux_64".to_owned(),
            uuid: Uuid::new_v4(),
        };
        machine.run(&create).await
    });
    // Each is polled in turn on this one thread, their programs run side by side.
    for outcome in join_all(creations).await {
        outcome.unwrap();
    }
    let listed = answer::vms(&machine.run(&Command::ListVms).await.unwrap());
    assert_eq!(listed.len(), 12);
}

/// Drives futures together.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}
