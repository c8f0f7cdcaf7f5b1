//! What a VM is from within: its disks, folders, limits, features and network.
#![expect(
    dead_code,
    reason = "each test file uses its own part of the support module"
)]

mod support;

use std::time::Duration;

use ondol_lab::{DiskSpec, Error, Features, InterfaceSpec, SharedFolder};
use support::{TestLab, eventually};

#[test]
fn a_data_disk_is_a_block_device_that_keeps_its_content_and_grows_while_the_vm_runs() {
    let lab = TestLab::new("t-disk");
    let mut spec = lab.spec("ceph-01");
    spec.disks.insert("data".into(), DiskSpec { size_mib: 32 });
    lab.create_and_start(&spec);
    const DISK: &str = "/dev/disk/by-id/ondol-data";
    lab.sh(
        "ceph-01",
        &format!(
            "mkfs.ext4 -q {DISK} && mkdir -p /data && mount {DISK} /data && echo kept > /data/file"
        ),
    );
    lab.kill("ceph-01").expect("killed");
    lab.start("ceph-01").expect("started");
    assert_eq!(
        lab.sh("ceph-01", &format!("mount {DISK} /data && cat /data/file")),
        "kept"
    );

    spec.disks.insert("data".into(), DiskSpec { size_mib: 64 });
    spec.disks.insert("more".into(), DiskSpec { size_mib: 16 });
    let updated = lab.update("ceph-01", &spec).expect("updated");
    assert_eq!(updated.pending, []);
    assert_eq!(
        lab.sh("ceph-01", &format!("blockdev --getsize64 {DISK}")),
        (64 * 1024 * 1024).to_string()
    );
    assert_eq!(
        lab.sh("ceph-01", "blockdev --getsize64 /dev/disk/by-id/ondol-more"),
        (16 * 1024 * 1024).to_string()
    );

    let mut smaller = spec.clone();
    smaller
        .disks
        .insert("data".into(), DiskSpec { size_mib: 8 });
    let error = lab
        .update("ceph-01", &smaller)
        .expect_err("it would cut off data");
    assert!(
        matches!(&error, Error::ChangeRefused { change, .. } if change.field == "disks.data.size_mib"),
        "{error}"
    );

    spec.disks.remove("more");
    let updated = lab.update("ceph-01", &spec).expect("updated");
    assert_eq!(
        updated
            .pending
            .iter()
            .map(|change| change.field.as_str())
            .collect::<Vec<_>>(),
        ["disks.more"]
    );
    lab.kill("ceph-01").expect("killed");
    lab.start("ceph-01").expect("started");
    assert!(!lab.sh_ok("ceph-01", "test -e /dev/disk/by-id/ondol-more"));
    assert_eq!(
        lab.sh("ceph-01", &format!("mount {DISK} /data && cat /data/file")),
        "kept"
    );
}

#[test]
fn shared_folders_are_seen_on_both_sides_and_read_only_means_it() {
    let lab = TestLab::new("t-share");
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("in"), "from outside").expect("written");
    let mut spec = lab.spec("web-01");
    let folder = |guest_path: &str, read_only| SharedFolder {
        host_path: dir.path().to_owned(),
        guest_path: guest_path.into(),
        read_only,
    };
    spec.shared_folders
        .insert("rw".into(), folder("/mnt/rw", false));
    spec.shared_folders
        .insert("ro".into(), folder("/mnt/ro", true));
    lab.create_and_start(&spec);
    assert_eq!(lab.sh("web-01", "cat /mnt/ro/in"), "from outside");
    lab.sh("web-01", "echo from inside > /mnt/rw/out");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("out")).expect("readable"),
        "from inside\n"
    );
    assert!(!lab.sh_ok("web-01", "echo x > /mnt/ro/in"));

    spec.shared_folders.insert(
        "none".into(),
        SharedFolder {
            host_path: "/no/such/folder".into(),
            guest_path: "/mnt/none".into(),
            read_only: true,
        },
    );
    let error = lab
        .update("web-01", &spec)
        .expect_err("there is no such folder");
    assert!(
        matches!(&error, Error::InvalidSpec { field, .. } if field == "shared_folders.none.host_path"),
        "{error}"
    );
}

#[test]
fn limits_are_in_force_and_change_while_the_vm_runs() {
    let lab = TestLab::new("t-limit");
    let mut spec = lab.spec("db-01");
    spec.memory_mib = 128;
    lab.create_and_start(&spec);
    lab.wait_booted("db-01");
    let limits = lab.limits();
    let allocate = "python3 -c 'x = b\"x\" * (200 << 20)'";
    if limits.memory {
        assert!(
            !lab.sh_ok("db-01", allocate),
            "200 MiB do not fit into 128 MiB"
        );
    } else {
        eprintln!("SKIPPED: this machine has no memory controller");
    }
    spec.memory_mib = 512;
    spec.cpus = 3;
    assert_eq!(lab.update("db-01", &spec).expect("updated").pending, []);
    assert!(lab.sh_ok("db-01", allocate), "200 MiB fit into 512 MiB");
    if limits.cpu {
        // Three times the period: version 1 has it alone in a file, version 2 before the period.
        let files = [
            "/sys/fs/cgroup/cpu/ondol/t-limit/db-01/cpu.cfs_quota_us",
            "/sys/fs/cgroup/ondol/t-limit/db-01/cpu.max",
        ];
        let quota: Vec<String> = files
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .collect();
        assert!(
            quota.iter().any(|text| text.starts_with("300000")),
            "{quota:?}"
        );
    }
    lab.kill("db-01").expect("killed");
    lab.start("db-01").expect("started");
    assert!(lab.sh_ok("db-01", allocate), "the new limit is kept");
}

#[test]
fn features_are_shut_unless_asked_for() {
    let lab = TestLab::new("t-feat");
    lab.create_and_start(&lab.spec("plain"));
    let tun = "python3 -c 'import fcntl, os, struct
fcntl.ioctl(os.open(\"/dev/net/tun\", os.O_RDWR), 0x400454ca, struct.pack(\"16sH22x\", b\"tun7\", 0x1001))'";
    let new_group = "for d in /sys/fs/cgroup/memory /sys/fs/cgroup; do if [ -e $d/cgroup.procs ]; then exec mkdir $d/of-an-engine; fi; done; false";
    assert!(!lab.sh_ok("plain", tun));
    assert!(!lab.sh_ok("plain", "test -e /dev/fuse"));
    assert!(
        !lab.sh_ok("plain", "mknod /tmp/disk b 7 0"),
        "it must not reach the machine's own disks"
    );
    assert!(!lab.sh_ok("plain", "cat /proc/kcore > /dev/null"));

    let mut spec = lab.spec("open");
    spec.features = Features {
        containers: true,
        tun: true,
        fuse: true,
    };
    lab.create_and_start(&spec);
    lab.sh("open", tun);
    lab.sh("open", "exec 3<>/dev/fuse");
    lab.sh("open", new_group);
    lab.sh("open", "unshare --mount --uts --ipc --net --pid --fork --cgroup sh -ec 'mount -t tmpfs x /mnt; mount -t proc p /proc; hostname within; ip link show lo'");
    assert_eq!(lab.sh("open", "hostname"), "open");
    lab.wait_booted("open");
}

#[test]
fn interfaces_have_the_names_and_addresses_asked_for() {
    let lab = TestLab::new("t-nic");
    let mut spec = lab.spec("fw-01");
    spec.interfaces = vec![
        InterfaceSpec::default(),
        InterfaceSpec {
            name: "enp0s8".into(),
            mac: Some("08:00:27:aa:bb:cc".into()),
        },
    ];
    let vm = lab.create_and_start(&spec);
    lab.wait_ssh(&vm);
    assert_eq!(lab.sh("fw-01", "ls /sys/class/net"), "enp0s3\nenp0s8\nlo");
    assert_eq!(
        lab.sh("fw-01", "cat /sys/class/net/enp0s3/address"),
        vm.macs[0]
    );
    assert_eq!(
        lab.sh("fw-01", "cat /sys/class/net/enp0s8/address"),
        "08:00:27:aa:bb:cc"
    );

    let mut twin = lab.spec("fw-02");
    twin.interfaces = vec![InterfaceSpec {
        name: "enp0s3".into(),
        mac: Some("08:00:27:aa:bb:cc".into()),
    }];
    let error = lab.create(&twin).expect_err("the address is taken");
    assert!(
        matches!(&error, Error::InvalidSpec { field, .. } if field == "interfaces[0].mac"),
        "{error}"
    );

    spec.interfaces.pop();
    let updated = lab.update("fw-01", &spec).expect("updated");
    assert_eq!(
        updated
            .pending
            .iter()
            .map(|change| change.field.as_str())
            .collect::<Vec<_>>(),
        ["interfaces"]
    );
    lab.stop("fw-01", Duration::from_secs(30)).expect("stopped");
    lab.start("fw-01").expect("started");
    assert_eq!(lab.sh("fw-01", "ls /sys/class/net"), "enp0s3\nlo");
}

#[test]
fn netplan_takes_over_from_the_first_boot_address_and_its_name_servers_count() {
    let lab = TestLab::new("t-plan");
    let vm = lab.create_and_start(&lab.spec("web-01"));
    lab.wait_ssh(&vm);
    let netplan = "network:\n  version: 2\n  ethernets:\n    enp0s3:\n      addresses: [192.168.10.31/24]\n      routes: [{to: default, via: 192.168.10.1}]\n      nameservers: {addresses: [192.168.10.2], search: [ondol.lab]}\n";
    let put = lab.exec(
        "web-01",
        &[
            "sh",
            "-ec",
            "umask 077; cat > /etc/netplan/60-test.yaml; netplan apply",
        ],
        netplan.as_bytes(),
    );
    assert!(
        put.as_ref().is_ok_and(|output| output.status.success()),
        "{put:?}"
    );
    let to = "192.168.10.31:22".parse().expect("an address");
    eventually("the new address answers", || {
        lab.connect(to, Duration::from_secs(1)).is_ok()
    });
    let old = (vm.first_boot_address, 22).into();
    eventually("the first-boot address is gone", || {
        lab.connect(old, Duration::from_millis(300)).is_err()
    });
    eventually("the name server is known", || {
        lab.sh("web-01", "cat /etc/resolv.conf; resolvectl dns enp0s3")
            .contains("192.168.10.2")
    });
    let status = lab.status().expect("observed");
    assert_eq!(
        status[0].addresses,
        [std::net::IpAddr::from([192, 168, 10, 31])]
    );
    lab.kill("web-01").expect("killed");
    lab.start("web-01").expect("started");
    eventually("the new address answers after a power cut", || {
        lab.connect(to, Duration::from_secs(1)).is_ok()
    });
}

#[test]
fn a_bad_spec_is_refused_with_the_field_named_and_nothing_made() {
    let lab = TestLab::new("t-bad");
    type Case = (fn(&mut ondol_lab::VmSpec), &'static str);
    let cases: [Case; 8] = [
        (|spec| spec.name = "Web_01".into(), "name"),
        (|spec| spec.memory_mib = 0, "memory_mib"),
        (|spec| spec.cpus = 0, "cpus"),
        (|spec| spec.image = "/no/such/image".into(), "image"),
        (
            |spec| {
                spec.interfaces = vec![InterfaceSpec {
                    name: "much-too-long-name".into(),
                    mac: None,
                }]
            },
            "interfaces[0].name",
        ),
        (
            |spec| {
                spec.interfaces = vec![InterfaceSpec {
                    name: "eth0".into(),
                    mac: Some("01:00:00:00:00:00".into()),
                }]
            },
            "interfaces[0].mac",
        ),
        (|spec| spec.seed.user = "no one".into(), "seed.user"),
        (
            |spec| spec.seed.authorized_keys = vec!["not-a-key".into()],
            "seed.authorized_keys[0]",
        ),
    ];
    for (change, wanted) in cases {
        let mut spec = lab.spec("web-01");
        change(&mut spec);
        match lab.create(&spec) {
            Err(Error::InvalidSpec { field, .. }) => assert_eq!(field, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }
    assert_eq!(lab.list().expect("listed"), []);
    assert!(!lab.vm_dir("web-01").exists());
}
