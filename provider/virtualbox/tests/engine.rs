//! The engine with the real VBoxManage: VMs come, change, are found as they are, and go without a trace; whatever cuts it short.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[expect(dead_code, reason = "each test file uses its own part of the support")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ondol_virtualbox::answer::VmState;
use ondol_virtualbox::command::{
    Attachment, BootDevice, Chipset, Firmware, Forward, Promiscuous, Protocol,
};
use ondol_virtualbox::image::Images;
use ondol_virtualbox::machine::{Act, Held};
use ondol_virtualbox::plan::Impact;
use ondol_virtualbox::spec::{Adapter, Hardware, Image, Seed, SharedFolder, StaticNetwork};
use ondol_virtualbox::{Error, Local, Options, Output, Phase, Transport, VmSpec};
use support::Host;

type Engine = ondol_virtualbox::Host;

/// Counts what goes to the host, and after a number of lines breaks: the provider was killed.
struct Counted {
    inner: Local,
    lines: AtomicUsize,
    vboxmanage: AtomicUsize,
    left: AtomicUsize,
}

impl Counted {
    fn new(host: &Host, left: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Local {
                enter: host.enter(),
            },
            lines: AtomicUsize::new(0),
            vboxmanage: AtomicUsize::new(0),
            left: AtomicUsize::new(left),
        })
    }
}

impl Transport for Counted {
    fn exec<'a>(
        &'a self,
        act: &'a str,
        line: &'a str,
        stdin: &'a [u8],
    ) -> Act<'a, Result<Output, Error>> {
        let spend = |left: usize| left.checked_sub(1);
        if self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend)
            .is_err()
        {
            return Box::pin(async move {
                Err(Error::Unreachable {
                    act: act.to_owned(),
                    words: "cut".to_owned(),
                    remedy: String::new(),
                })
            });
        }
        self.lines.fetch_add(1, Ordering::SeqCst);
        self.vboxmanage
            .fetch_add(usize::from(line.contains("/VBoxManage ")), Ordering::SeqCst);
        self.inner.exec(act, line, stdin)
    }

    fn hold<'a>(&'a self, act: &'a str, line: &'a str) -> Act<'a, Result<Held, Error>> {
        self.inner.hold(act, line)
    }

    fn shares_files(&self) -> bool {
        false
    }
}

fn engine(host: &Host) -> Engine {
    Engine::new(
        Counted::new(host, usize::MAX),
        Options::default(),
        Images::default(),
    )
}

/// An appliance with one disk of 64 MiB, made by VirtualBox itself, on this machine.
fn appliance(host: &Host, directory: &std::path::Path) -> String {
    host.run(&[
        "sh",
        "-ec",
        "VBoxManage createvm --name golden --ostype Linux_64 --register; VBoxManage createmedium disk --filename /tmp/golden.vdi --size 64
         VBoxManage storagectl golden --name SATA --add sata; VBoxManage storageattach golden --storagectl SATA --port 0 --type hdd --medium /tmp/golden.vdi
         VBoxManage export golden --output /tmp/golden.ova --manifest; VBoxManage unregistervm golden --delete",
    ]);
    let path = directory.join("golden.ova");
    std::fs::copy(host.path("/tmp/golden.ova"), &path).unwrap();
    host.run(&["rm", "/tmp/golden.ova"]);
    path.display().to_string()
}

fn spec(name: &str, image: &str) -> VmSpec {
    VmSpec {
        name: name.to_owned(),
        image: Image {
            path: image.to_owned(),
            linked: false,
        },
        cpus: 1,
        memory_mib: 256,
        hardware: Hardware::default(),
        system_disk_mib: None,
        disks: BTreeMap::new(),
        adapters: Vec::new(),
        shared_folders: BTreeMap::new(),
        seed: Seed {
            user: "ondol".to_owned(),
            authorized_keys: vec!["ssh-ed25519 AAAA it's me".to_owned()],
            sudo: true,
            network: None,
        },
    }
}

fn rich(name: &str, image: &str) -> VmSpec {
    VmSpec {
        hardware: Hardware {
            os_type: Some("Ubuntu_64".to_owned()),
            vram_mib: Some(20),
            firmware: Some(Firmware::Efi),
            chipset: Some(Chipset::Ich9),
            nested_virtualization: Some(true),
            boot_order: Some(vec![BootDevice::Disk, BootDevice::Net]),
            serial_file: Some("/tmp/serial.log".to_owned()),
            autostart: Some(false),
        },
        system_disk_mib: Some(128),
        disks: BTreeMap::from([("data".to_owned(), 32), ("log".to_owned(), 16)]),
        adapters: vec![
            Adapter {
                name: "enp0s3".to_owned(),
                mac: Some("08:00:27:aa:bb:cc".to_owned()),
                attachment: Some(Attachment::Nat),
                forwards: BTreeMap::from([(
                    "ssh".to_owned(),
                    Forward {
                        protocol: Protocol::Tcp,
                        host_address: Some("127.0.0.1".parse().unwrap()),
                        host_port: 2222,
                        guest_port: 22,
                    },
                )]),
                ..Adapter::default()
            },
            Adapter {
                name: "lan0".to_owned(),
                attachment: Some(Attachment::Internal("lan".to_owned())),
                promiscuous: Some(Promiscuous::AllowVms),
                cable_connected: Some(false),
                ..Adapter::default()
            },
        ],
        shared_folders: BTreeMap::from([(
            "src".to_owned(),
            SharedFolder {
                host_path: "/tmp".to_owned(),
                guest_path: "/mnt/src".to_owned(),
                read_only: true,
            },
        )]),
        ..spec(name, image)
    }
}

#[tokio::test]
async fn a_vm_is_made_as_wished_changed_in_place_and_removed_without_a_trace() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let engine = engine(&host);
    let wish = rich("web-01", &image);
    let vm = engine.create(&wish).await.unwrap();
    assert_eq!(engine.plan(&vm.spec, &wish), []);
    assert_eq!(
        (vm.phase, vm.acknowledged, vm.state),
        (Phase::Ready, false, VmState::PoweredOff)
    );
    assert_eq!(vm.spec.system_disk_mib, Some(128));
    assert_eq!(vm.macs[0], "08:00:27:aa:bb:cc");
    assert!(vm.ssh_host_key.starts_with("ssh-ed25519 AAAA"));
    assert!(vm.first_boot_address.to_string().starts_with("169.254."));
    assert_eq!(vm.image_digest.len(), 64);

    // The seed is a medium that other programs know.
    let seed = host.path("/root/VirtualBox VMs/web-01/seed.iso");
    let probed = std::process::Command::new("blkid")
        .arg("-p")
        .arg(&seed)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&probed.stdout).contains("LABEL=\"cidata\""));

    // An apply that was interrupted before its state was written comes again; then somebody's state holds it.
    assert_eq!(engine.create(&wish).await.unwrap().id, vm.id);
    let id = vm.id.to_string();
    engine.acknowledge(&id).await.unwrap();
    let known = || async { engine.observe("web-01").await.unwrap().unwrap() };
    assert!(known().await.acknowledged);
    assert_eq!(known().await.confirmed_address, None);
    let address = "192.0.2.77".parse().unwrap();
    engine.note_address(&id, address).await.unwrap();
    assert!(known().await.acknowledged);
    assert_eq!(known().await.confirmed_address, Some(address));
    let error = engine.create(&wish).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");

    let mut changed = wish.clone();
    changed.cpus = 2;
    changed.memory_mib = 300;
    changed.hardware.firmware = Some(Firmware::Bios);
    changed.hardware.serial_file = Some(String::new());
    changed.system_disk_mib = Some(256);
    changed.disks = BTreeMap::from([
        ("data".to_owned(), 64),
        ("a".to_owned(), 8),
        ("b".to_owned(), 8),
    ]);
    changed.adapters[0]
        .forwards
        .get_mut("ssh")
        .unwrap()
        .host_port = 2223;
    changed.adapters[1].attachment = Some(Attachment::Internal("other".to_owned()));
    changed.adapters.push(Adapter {
        name: "third".to_owned(),
        ..Adapter::default()
    });
    changed.shared_folders.get_mut("src").unwrap().read_only = false;
    changed
        .seed
        .authorized_keys
        .push("ssh-ed25519 BBBB".to_owned());
    changed.seed.network = Some(StaticNetwork {
        addresses: vec!["192.0.2.11/24".to_owned()],
        gateway: Some("192.0.2.1".parse().unwrap()),
        nameservers: vec![],
    });
    let before = std::fs::read(&seed).unwrap();
    assert_eq!(engine.update(&id, &changed).await.unwrap(), []);
    let vm_now = engine.observe(&id).await.unwrap().unwrap();
    assert_eq!(engine.plan(&vm_now.spec, &changed), []);
    assert_eq!((vm_now.id, &vm_now.ssh_host_key), (vm.id, &vm.ssh_host_key));
    assert_eq!(vm_now.first_boot_address.to_string(), "192.0.2.11");
    assert_ne!(std::fs::read(&seed).unwrap(), before);
    assert_eq!(engine.update(&id, &changed).await.unwrap(), []);

    let mut smaller = changed.clone();
    smaller.disks.insert("data".to_owned(), 8);
    match engine.update(&id, &smaller).await.unwrap_err() {
        Error::Invalid { field, reason } => {
            assert_eq!(field, ["disks", "data", "size_mib"]);
            assert!(reason.contains("only grow"), "{reason}");
        }
        other => panic!("{other}"),
    }

    engine.delete(&id).await.unwrap();
    engine.delete(&id).await.unwrap();
    assert_eq!(engine.observe("web-01").await.unwrap(), None);
    let digest = vm.image_digest;
    assert_eq!(
        host.files(),
        [
            ".ondol/host.lock".to_owned(),
            ".ondol/images".to_owned(),
            ".ondol/images.lock".to_owned(),
            format!(".ondol/images/{digest}.vdi")
        ]
    );
    assert!(!host.run(&["VBoxManage", "list", "hdds"]).contains("web-01"));
    assert!(!host.run(&["VBoxManage", "list", "dvds"]).contains("web-01"));
}

#[tokio::test]
async fn drift_made_by_hand_is_seen_and_mended() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let engine = engine(&host);
    let wish = rich("web-01", &image);
    let id = engine.create(&wish).await.unwrap().id.to_string();
    host.run(&[
        "sh",
        "-ec",
        "VBoxManage modifyvm web-01 --memory 999 --cpus 4 --nic1 none --nic-promisc2 deny --boot1 net
         VBoxManage sharedfolder remove web-01 --name src
         VBoxManage storageattach web-01 --storagectl SATA --port 2 --device 0 --medium none
         VBoxManage createmedium disk --filename /tmp/foreign.vdi --size 8
         VBoxManage storageattach web-01 --storagectl SATA --port 9 --device 0 --type hdd --medium /tmp/foreign.vdi",
    ]);
    // Another process did it: what this one saw before is no longer asked for.
    let engine = self::engine(&host);
    let vm = engine.observe(&id).await.unwrap().unwrap();
    let fields: Vec<String> = engine
        .plan(&vm.spec, &wish)
        .iter()
        .map(|step| step.field.join("."))
        .collect();
    for expected in [
        "cpus",
        "memory_mib",
        "boot_order",
        "disks.data",
        "disks./tmp/foreign.vdi",
        "shared_folders.src",
    ] {
        assert!(
            fields.iter().any(|it| it == expected),
            "{expected}: {fields:?}"
        );
    }
    engine.update(&id, &wish).await.unwrap();
    let vm = engine.observe(&id).await.unwrap().unwrap();
    assert_eq!(engine.plan(&vm.spec, &wish), []);
    assert!(
        host.path("/tmp/foreign.vdi").exists(),
        "what is not ours stays"
    );
}

#[tokio::test]
async fn linked_clones_share_the_image_and_leave_it_alone_when_they_go() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let engine = engine(&host);
    let linked = |name: &str| VmSpec {
        image: Image {
            path: image.clone(),
            linked: true,
        },
        system_disk_mib: Some(100),
        ..spec(name, &image)
    };
    let a = engine.create(&linked("a")).await.unwrap();
    let b = engine.create(&linked("b")).await.unwrap();
    assert_eq!(engine.plan(&a.spec, &linked("a")), []);
    engine.delete(&a.id.to_string()).await.unwrap();
    let base = format!("/root/.ondol/images/{}.vdi", a.image_digest);
    assert!(host.path(&base).exists());
    let found = engine.observe("b").await.unwrap().unwrap();
    assert_eq!(found.spec.system_disk_mib, Some(100));
    engine.delete(&b.id.to_string()).await.unwrap();
    assert!(host.path(&base).exists());
    // A snapshot holds on to its disks, and not to the image.
    let s = engine.create(&linked("s")).await.unwrap();
    host.run(&["VBoxManage", "snapshot", "s", "take", "first"]);
    engine.delete(&s.id.to_string()).await.unwrap();
    assert!(
        !host
            .run(&["VBoxManage", "list", "hdds"])
            .contains("VirtualBox VMs")
    );
    assert!(host.path(&base).exists() && !host.path("/root/VirtualBox VMs/s").exists());
    // And it still is a good one.
    let c = engine.create(&linked("c")).await.unwrap();
    assert_eq!(c.phase, Phase::Ready);
}

#[tokio::test]
async fn a_vm_that_cannot_start_stays_and_says_what_is_missing() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let engine = engine(&host);
    let vm = engine.create(&spec("web-01", &image)).await.unwrap();
    let id = vm.id.to_string();
    let error = engine
        .power(&id, true, Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotStarted { .. }), "{error}");
    for part in [
        "web-01",
        "terminated unexpectedly",
        "/dev/vboxdrv",
        "virtualbox-dkms",
    ] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let found = engine.observe(&id).await.unwrap().unwrap();
    assert_eq!(
        (found.phase, found.state),
        (Phase::Ready, VmState::PoweredOff)
    );
    engine
        .power(&id, false, Duration::from_secs(1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_look_at_a_host_is_two_runs_of_vboxmanage_however_many_vms_it_has() {
    let Some(host) = Host::start() else { return };
    host.run(&["sh", "-ec", "for i in 1 2 3 4 5 6 7 8 9; do VBoxManage createvm --name v$i --ostype Linux_64 --register; done"]);
    let transport = Counted::new(&host, usize::MAX);
    let engine = Engine::new(transport.clone(), Options::default(), Images::default());
    engine.machine().await.unwrap();
    let (lines, runs) = (
        transport.lines.load(Ordering::SeqCst),
        transport.vboxmanage.load(Ordering::SeqCst),
    );
    for name in ["v1", "v5", "v9", "none"] {
        assert_eq!(
            engine.observe(name).await.unwrap().is_some(),
            name != "none"
        );
    }
    assert_eq!(engine.list().await.unwrap().len(), 9);
    assert_eq!(transport.vboxmanage.load(Ordering::SeqCst) - runs, 2);
    assert_eq!(transport.lines.load(Ordering::SeqCst) - lines, 3);
}

#[tokio::test]
async fn a_vm_whose_settings_cannot_be_read_is_an_error_and_not_gone() {
    let Some(host) = Host::start() else { return };
    host.run(&[
        "sh",
        "-ec",
        "for i in a b; do VBoxManage createvm --name $i --ostype Linux_64 --register; done",
    ]);
    let ids = engine(&host).list().await.unwrap();
    let id = |name: &str| {
        ids.iter()
            .find(|vm| vm.spec.name == name)
            .unwrap()
            .id
            .to_string()
    };
    host.run(&[
        "sh",
        "-ec",
        "echo nonsense >'/root/VirtualBox VMs/a/a.vbox'",
    ]);
    let error = engine(&host).observe(&id("a")).await.unwrap_err();
    assert!(matches!(error, Error::Settings { .. }), "{error}");
    host.run(&["rm", "/root/VirtualBox VMs/a/a.vbox"]);
    let error = engine(&host).observe(&id("a")).await.unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
    assert!(engine(&host).observe(&id("b")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_full_disk_is_named_as_the_cause_and_stands_in_nobodys_way_afterwards() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let engine = engine(&host);
    let fill = "rm -rf '/root/VirtualBox VMs'; ln -s /small '/root/VirtualBox VMs'; cat /dev/zero >/small/filler 2>/dev/null || true";
    host.run(&["sh", "-ec", fill]);
    let error = engine
        .create(&spec("web-01", &image))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("Free space on the host's disk"), "{error}");
    host.run(&["rm", "/small/filler"]);
    let vm = engine.create(&spec("web-01", &image)).await.unwrap();
    assert_eq!(vm.phase, Phase::Ready);
}

#[tokio::test]
async fn wishes_that_a_host_cannot_fulfil_are_met_with_what_it_has() {
    let Some(host) = Host::start() else { return };
    host.run(&[
        "ip", "link", "add", "br-lan", "type", "veth", "peer", "name", "other",
    ]);
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let engine = engine(&host);
    let with = |edit: fn(&mut VmSpec)| {
        let mut spec = spec("web-01", &image);
        edit(&mut spec);
        spec
    };
    let attached = |attachment: Attachment| VmSpec {
        adapters: vec![Adapter {
            name: "enp0s3".to_owned(),
            attachment: Some(attachment),
            ..Adapter::default()
        }],
        ..spec("web-01", &image)
    };
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        spec("web-01", &path.display().to_string())
    };
    let whole = std::fs::read(&image).unwrap();
    let mut damaged = whole.clone();
    // The first bytes of the disk's first block, behind the header that tells what it is.
    let disk = whole
        .windows(4)
        .position(|it| it == b"KDMV")
        .expect("the disk is in it");
    damaged[disk + 2048] ^= 0xff;
    host.run(&[
        "VBoxManage",
        "createvm",
        "--name",
        "taken",
        "--ostype",
        "Linux_64",
        "--register",
    ]);
    let cases: Vec<(VmSpec, &[&str])> = vec![
        (
            attached(Attachment::Bridged("br-lam".to_owned())),
            &["network_interfaces.0.adapter", "br-lam", "\"br-lan\""],
        ),
        (
            attached(Attachment::HostOnly("vboxnet0".to_owned())),
            &["network_interfaces.0.adapter", "it has none"],
        ),
        (
            with(|it| it.hardware.os_type = Some("Ubuntu-22".to_owned())),
            &["os_type", "Ubuntu22_LTS_64"],
        ),
        (
            with(|it| it.system_disk_mib = Some(10)),
            &["system_disk_mib", "64 MiB"],
        ),
        (
            spec("web-01", "/nowhere/x.ova"),
            &["/nowhere/x.ova", "machine that runs Terraform"],
        ),
        (
            file("short.ova", &whole[..whole.len() / 2]),
            &["short.ova", "not a whole .ova"],
        ),
        (
            file("noise.ova", b"noise"),
            &["noise.ova", "not a whole .ova"],
        ),
        (
            file("noise.vdi", &[7; 4096]),
            &["noise.vdi", "VirtualBox cannot read its disk"],
        ),
        (file("damaged.ova", &damaged), &["damaged.ova", "manifest"]),
        (
            with(|it| it.name = "taken".to_owned()),
            &["somebody else", "taken"],
        ),
    ];
    for (spec, parts) in cases {
        let error = engine.create(&spec).await.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    // One that was begun is finished by the next, better wish.
    engine.create(&spec("web-01", &image)).await.unwrap();
    let names: Vec<String> = engine
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|vm| vm.spec.name)
        .collect();
    assert_eq!(names, ["taken", "web-01"]);
    assert!(
        !host.files().iter().any(|path| path.contains(".taken.")
            || path.contains(".sent.")
            || path.contains(".new.")),
        "{:?}",
        host.files()
    );
}

#[tokio::test]
async fn a_creation_or_removal_that_is_cut_short_anywhere_is_completed_by_the_next() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let wish = VmSpec {
        disks: BTreeMap::from([("data".to_owned(), 8)]),
        ..spec("web-01", &image)
    };
    let mut cuts = 0;
    for left in (0..).step_by(7) {
        let cut = Engine::new(
            Counted::new(&host, left),
            Options::default(),
            Images::default(),
        );
        let whole = engine(&host);
        let first = cut.create(&wish).await;
        let vm = whole
            .create(&wish)
            .await
            .unwrap_or_else(|error| panic!("cut after {left}: {error}"));
        assert_eq!(whole.plan(&vm.spec, &wish), [], "cut after {left}");
        let files: Vec<String> = host
            .files()
            .into_iter()
            .filter(|path| path.contains("web-01/"))
            .collect();
        let expected = [
            "data.vdi",
            "seed.iso",
            "system.vdi",
            "web-01.vbox",
            "web-01.vbox-prev",
        ];
        assert_eq!(
            files,
            expected.map(|name| format!("VirtualBox VMs/web-01/{name}")),
            "cut after {left}"
        );

        let cut = Engine::new(
            Counted::new(&host, left),
            Options::default(),
            Images::default(),
        );
        let removed = cut.delete(&vm.id.to_string()).await;
        let whole = engine(&host);
        if let Some(vm) = whole.observe("web-01").await.unwrap() {
            whole.delete(&vm.id.to_string()).await.unwrap();
        }
        if first.is_ok() && removed.is_ok() {
            break;
        }
        cuts += 1;
        // The image is made anew each time, to cut that short too.
        host.run(&["sh", "-c", "rm -f /root/.ondol/images/*"]);
    }
    assert!(cuts > 3, "{cuts}");
    assert!(
        !host.files().iter().any(|path| path.contains("web-01")),
        "{:?}",
        host.files()
    );
    assert!(!host.run(&["VBoxManage", "list", "hdds"]).contains("web-01"));
}

#[tokio::test]
async fn a_creation_whose_provider_dies_while_vboxmanage_works_is_completed_by_the_next() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let wish = VmSpec {
        disks: BTreeMap::from([("data".to_owned(), 8)]),
        ..spec("web-01", &image)
    };
    for milliseconds in [250, 500, 800, 1100, 1500, 2000] {
        let (killed, again) = (Arc::new(engine(&host)), engine(&host));
        let task = {
            let wish = wish.clone();
            tokio::spawn(async move { killed.create(&wish).await })
        };
        // Programs that were started go on, as after a SIGKILL; nobody reads what they print.
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        task.abort();
        let _ = task.await;
        let vm = again
            .create(&wish)
            .await
            .unwrap_or_else(|error| panic!("after {milliseconds} ms: {error}"));
        assert_eq!(again.plan(&vm.spec, &wish), [], "after {milliseconds} ms");
        again.delete(&vm.id.to_string()).await.unwrap();
        let left: Vec<String> = host
            .files()
            .into_iter()
            .filter(|path| path.contains("web-01"))
            .collect();
        assert_eq!(left, [""; 0], "after {milliseconds} ms");
        host.run(&["sh", "-c", "rm -f /root/.ondol/images/*"]);
    }
    assert!(!host.run(&["VBoxManage", "list", "hdds"]).contains("web-01"));
}

#[tokio::test]
async fn many_creations_on_one_host_at_once_all_succeed() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let engine = Arc::new(engine(&host));
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let (engine, wish) = (engine.clone(), spec(&format!("vm-{number}"), &image));
            tokio::spawn(async move { engine.create(&wish).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().phase, Phase::Ready);
    }
    let vms = engine.list().await.unwrap();
    assert_eq!(vms.len(), 8);
    let macs: std::collections::BTreeSet<&String> = vms.iter().flat_map(|vm| &vm.macs).collect();
    assert_eq!(macs.len(), 8);
    for vm in &vms {
        engine.delete(&vm.id.to_string()).await.unwrap();
    }
    assert!(
        !host
            .files()
            .iter()
            .any(|path| path.starts_with("VirtualBox VMs/"))
    );
}

/// Each engine has its own locks in memory, as two Terraform processes have.
#[tokio::test]
async fn two_processes_that_bring_the_same_image_at_once_share_it() {
    let Some(host) = Host::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let image = appliance(&host, directory.path());
    let (first, second) = (engine(&host), engine(&host));
    let specs = ["a-01", "b-01"].map(|name| spec(name, &image));
    let (a, b) = tokio::join!(first.create(&specs[0]), second.create(&specs[1]));
    assert_eq!(a.unwrap().image_digest, b.unwrap().image_digest);
    let files = host.files();
    let images = files.iter().filter(|it| it.starts_with(".ondol/images/"));
    assert_eq!(images.count(), 1, "{files:?}");
}

#[tokio::test]
async fn only_what_a_running_vm_can_take_is_called_live() {
    let engine = Engine::new(
        Arc::new(Local::default()),
        Options::default(),
        Images::default(),
    );
    let before = rich("web-01", "/x.ova");
    let mut after = before.clone();
    after.adapters[1].cable_connected = Some(true);
    after.memory_mib = 1024;
    let impacts: Vec<Impact> = engine
        .plan(&before, &after)
        .into_iter()
        .map(|step| step.impact)
        .collect();
    assert_eq!(impacts, [Impact::Restart, Impact::Live]);
}
