//! A VM's life in a real lab: made, adopted, started, stopped, cut off, killed, and cleaned up after.
#![expect(
    dead_code,
    reason = "each test file uses its own part of the support module"
)]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ondol_lab::{Error, Lab, LabConfig, PowerState};
use support::{TestLab, eventually, ip, run, traces};

const TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn a_vm_is_created_stopped_then_answers_ssh_with_the_host_key_that_was_told() {
    let lab = TestLab::new("t-ssh");
    let key_dir = tempfile::tempdir().expect("a temporary directory");
    let key = key_dir.path().join("key").display().to_string();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    let public = std::fs::read_to_string(format!("{key}.pub"))
        .expect("readable")
        .trim()
        .to_owned();
    let mut spec = lab.spec("web-01");
    spec.seed.authorized_keys = vec![public];
    assert_eq!(lab.observe("web-01").expect("observed"), None);

    let created = lab.create(&spec).expect("created");
    assert_eq!(created.state, PowerState::Stopped);
    assert_eq!(
        lab.observe("web-01").expect("observed"),
        Some(created.clone())
    );
    assert_eq!(
        lab.observe(&created.id.to_string()).expect("observed"),
        Some(created.clone())
    );
    assert!(matches!(
        lab.exec("web-01", &["true"], b""),
        Err(Error::NotRunning { .. })
    ));

    let began = Instant::now();
    let started = lab.start("web-01").expect("started");
    assert_eq!(started.state, PowerState::Running);
    lab.wait_ssh(&started);
    println!("port 22 answered after {:?}", began.elapsed());
    assert_eq!(lab.list().expect("listed"), std::slice::from_ref(&started));

    let known_hosts = key_dir.path().join("known_hosts");
    std::fs::write(
        &known_hosts,
        format!("{} {}\n", started.first_boot_address, started.ssh_host_key),
    )
    .expect("written");
    let proxy = format!(
        "ProxyCommand={} --lab t-ssh proxy %h %p",
        env!("CARGO_BIN_EXE_ondol-lab")
    );
    let ssh = |command: &str| {
        run(
            "ssh",
            &[
                "-F",
                "none",
                "-i",
                &key,
                "-o",
                &proxy,
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=yes",
                "-o",
                &format!("UserKnownHostsFile={}", known_hosts.display()),
                &format!("ondol@{}", started.first_boot_address),
                command,
            ],
        )
    };
    assert_eq!(
        ssh("hostname; id -un; sudo -n id -un"),
        "web-01\nondol\nroot\n"
    );
    assert_eq!(
        ssh("cat /etc/machine-id").trim(),
        started.id.as_simple().to_string()
    );
    lab.wait_booted("web-01");
    assert_eq!(lab.sh("web-01", "systemctl --failed --no-legend"), "");
}

#[test]
fn only_an_equal_vm_that_nobody_knows_is_adopted_and_only_a_half_made_one_is_wiped() {
    let lab = TestLab::new("t-adopt");
    let spec = lab.spec("db-01");
    let first = lab.create(&spec).expect("created");
    let adopted = lab.create(&spec).expect("adopted");
    assert_eq!(adopted, first);

    let mut other = spec.clone();
    other.memory_mib += 1;
    assert!(matches!(lab.create(&other), Err(Error::Exists { id, .. }) if id == first.id));
    lab.acknowledge("db-01").expect("acknowledged");
    let error = lab
        .create(&spec)
        .expect_err("it is someone's now")
        .to_string();
    assert!(
        error.contains("srv-01/db-01") && error.contains("ondol-lab"),
        "{error}"
    );

    let record = lab.vm_dir("db-01").join("vm.json");
    let text = std::fs::read_to_string(&record).expect("readable");
    std::fs::write(&record, text.replace("\"ready\"", "\"creating\"")).expect("written");
    std::fs::write(lab.vm_dir("db-01").join("upper/half"), "").expect("written");
    assert_eq!(lab.observe("db-01").expect("observed"), None);
    let rebuilt = lab.create(&other).expect("wiped and built anew");
    assert_ne!(rebuilt.id, first.id);
    assert_ne!(rebuilt.ssh_host_key, first.ssh_host_key);
    assert!(!rebuilt.acknowledged);
    assert!(!lab.vm_dir("db-01").join("upper/half").exists());
}

#[test]
fn a_vm_that_was_stopped_or_killed_keeps_its_data_address_and_key() {
    let lab = TestLab::new("t-keep");
    let vm = lab.create_and_start(&lab.spec("db-01"));
    lab.wait_booted("db-01");
    lab.sh("db-01", "echo kept > /var/data");

    let began = Instant::now();
    let stopped = lab.stop("db-01", TIMEOUT).expect("stopped");
    assert_eq!(stopped.state, PowerState::Stopped);
    assert!(began.elapsed() < TIMEOUT, "it powered off by itself");
    let console = std::fs::read_to_string("/run/ondol/labs/t-keep/db-01.log").expect("readable");
    assert!(
        console.contains("Reached target") && console.contains("Power"),
        "{console}"
    );
    lab.stop("db-01", TIMEOUT)
        .expect("stopping what is stopped is fine");

    assert_eq!(lab.start("db-01").expect("started"), vm);
    assert_eq!(lab.sh("db-01", "cat /var/data"), "kept");
    lab.kill("db-01").expect("killed");
    lab.start("db-01").expect("started");
    assert_eq!(lab.start("db-01").expect("starting what runs is fine"), vm);
    assert_eq!(lab.sh("db-01", "cat /var/data"), "kept");
    lab.wait_ssh(&vm);
}

#[test]
fn a_vm_that_does_not_obey_is_stopped_when_the_time_is_up() {
    let lab = TestLab::new("t-stop");
    lab.create_and_start(&lab.spec("db-01"));
    lab.wait_booted("db-01");
    lab.sh(
        "db-01",
        "printf '[Service]\\nExecStart=sleep inf\\nExecStop=sleep inf\\nTimeoutStopSec=600\\n' > /etc/systemd/system/stubborn.service
         systemctl start stubborn",
    );
    let began = Instant::now();
    lab.stop("db-01", Duration::from_secs(3)).expect("stopped");
    assert!(
        (3..60).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        lab.observe("db-01").expect("observed").map(|vm| vm.state),
        Some(PowerState::Stopped)
    );
}

#[test]
fn killing_a_host_takes_all_of_its_vms_and_no_other() {
    let lab = TestLab::new("t-host");
    for (name, host) in [("a-01", "srv-01"), ("a-02", "srv-01"), ("b-01", "srv-02")] {
        let mut spec = lab.spec(name);
        spec.host = host.to_owned();
        lab.create_and_start(&spec);
    }
    let killed: Vec<String> = lab
        .kill("srv-01")
        .expect("killed")
        .into_iter()
        .map(|vm| vm.spec.name)
        .collect();
    assert_eq!(killed, ["a-01", "a-02"]);
    let running: Vec<String> = lab
        .list()
        .expect("listed")
        .into_iter()
        .filter(|vm| vm.state == PowerState::Running)
        .map(|vm| vm.spec.name)
        .collect();
    assert_eq!(running, ["b-01"]);
    let Err(Error::NotFound { near, .. }) = lab.kill("srv-03") else {
        panic!("there is no such host")
    };
    assert_eq!(near, ["srv-01", "srv-02"]);
}

#[test]
fn a_vm_that_is_cut_off_answers_again_when_healed() {
    let lab = TestLab::new("t-cut");
    let vm = lab.create_and_start(&lab.spec("web-01"));
    lab.wait_ssh(&vm);
    let to = (vm.first_boot_address, 22).into();
    lab.cut("web-01").expect("cut");
    lab.connect(to, Duration::from_millis(500))
        .expect_err("it is cut off");
    assert_eq!(lab.sh("web-01", "hostname"), "web-01", "it still runs");
    lab.heal("srv-01").expect("healed by its host's name");
    eventually("it answers again", || {
        lab.connect(to, Duration::from_secs(1)).is_ok()
    });
    lab.kill("web-01").expect("killed");
    assert!(matches!(lab.cut("web-01"), Err(Error::NotRunning { .. })));
}

#[test]
fn two_labs_with_the_same_vm_do_not_see_each_other() {
    let one = TestLab::new("t-one");
    let two = TestLab::new("t-one-b");
    let mut spec = one.spec("web-01");
    spec.interfaces = vec![ondol_lab::InterfaceSpec {
        mac: Some("08:00:27:00:00:01".into()),
        ..Default::default()
    }];
    let in_one = one.create_and_start(&spec);
    let in_two = two.create_and_start(&spec);
    assert_ne!(in_one.id, in_two.id);
    assert_eq!(
        in_one.first_boot_address, in_two.first_boot_address,
        "the same MAC prefers the same address"
    );
    one.wait_ssh(&in_one);
    two.wait_ssh(&in_two);
    two.destroy().expect("destroyed");
    assert_eq!(traces("t-one-b"), Vec::<String>::new());
    assert_eq!(one.sh("web-01", "hostname"), "web-01");
    one.wait_ssh(&in_one);
}

#[test]
fn a_vm_has_no_way_out_and_nothing_of_the_machines_own_network_in_it() {
    let lab = TestLab::new("t-out");
    let vm = lab.create_and_start(&lab.spec("web-01"));
    lab.wait_ssh(&vm);
    assert_eq!(lab.sh("web-01", "ls /sys/class/net"), "enp0s3\nlo");
    assert_eq!(lab.sh("web-01", "ip -4 route show default"), "");
    let machines = std::fs::read_to_string("/etc/resolv.conf").expect("readable");
    let within = lab.sh("web-01", "cat /etc/resolv.conf");
    for server in machines
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "))
    {
        assert!(!within.contains(server), "{within}");
    }
    lab.sh("web-01", "sysctl -q -w net.ipv4.ip_forward=1");
    let of_lab = lab
        .in_network(|| std::fs::read_to_string("/proc/thread-self/net/route"))
        .expect("entered")
        .expect("readable");
    assert!(
        of_lab.contains("ondol0") && !of_lab.contains("eth0"),
        "{of_lab}"
    );
}

#[test]
fn destroy_leaves_nothing_on_the_machine() {
    let lab = TestLab::new("t-gone");
    let before = ip("-o link show");
    let mut spec = lab.spec("db-01");
    spec.disks
        .insert("data".into(), ondol_lab::DiskSpec { size_mib: 8 });
    lab.create_and_start(&spec);
    lab.create_and_start(&lab.spec("db-02"));
    lab.create(&lab.spec("db-03")).expect("created");
    let during = traces("t-gone");
    for kind in [
        "process",
        "loop",
        "cgroup",
        "/run/netns/ondol-t-gone.db-01",
        "/var/lib/ondol/labs/t-gone",
    ] {
        assert!(
            during.iter().any(|trace| trace.contains(kind)),
            "{kind} is not among {during:?}"
        );
    }
    assert!(
        !during.iter().any(|trace| trace.starts_with("mount /var")),
        "the overlays are their VMs' own: {during:?}"
    );
    assert_eq!(
        ip("-o link show"),
        before,
        "nothing is in the machine's own network"
    );
    lab.delete("db-02").expect("deleted");
    lab.delete("db-02").expect("deleting what is gone is fine");
    lab.destroy().expect("destroyed");
    assert_eq!(traces("t-gone"), Vec::<String>::new());
    lab.destroy().expect("destroying what is gone is fine");
}

#[test]
fn what_a_crash_left_is_cleaned_by_the_next_start_and_by_destroy() {
    let lab = TestLab::new("t-crash");
    let mut spec = lab.spec("db-01");
    spec.disks
        .insert("data".into(), ondol_lab::DiskSpec { size_mib: 8 });
    let vm = lab.create_and_start(&spec);
    for pid in run(
        "pgrep",
        &["-f", "systemd-nspawn .*--machine=ondol-t-crash[.]db-01 "],
    )
    .split_whitespace()
    {
        run("kill", &["-9", pid]);
    }
    eventually("it is seen as stopped", || {
        lab.observe("db-01").expect("observed").map(|vm| vm.state) == Some(PowerState::Stopped)
    });
    assert!(
        traces("t-crash")
            .iter()
            .any(|trace| trace.starts_with("loop")),
        "the crash left a loop device"
    );
    let root = lab.vm_dir("db-01").join("root").display().to_string();
    run("mount", &["-t", "tmpfs", "stale", &root]);

    assert_eq!(lab.start("db-01").expect("started again"), vm);
    lab.wait_ssh(&vm);
    assert!(
        !traces("t-crash").contains(&format!("mount {root}")),
        "the stale mount is gone"
    );

    // Now as if the records were lost too, and with things that only look like ours.
    lab.kill("db-01").expect("killed");
    run("mount", &["-t", "tmpfs", "stale", &root]);
    ip("netns add ondol-t-crash.db-07");
    ip(
        "-n ondol-t-crash link add v0123456789ab type veth peer name enp0s3 netns ondol-t-crash.db-07",
    );
    std::fs::write("/run/netns/ondol-t-crash.db-08", "").expect("a stale name can be made");
    std::fs::remove_file(lab.vm_dir("db-01").join("vm.json")).expect("removed");
    lab.destroy().expect("destroyed");
    assert_eq!(traces("t-crash"), Vec::<String>::new());
}

/// The kernel takes a deleted namespace apart in its own time: in some of the rounds while destroy looks at its interfaces.
#[test]
fn interfaces_that_go_by_themselves_do_not_stop_destroy() {
    for _ in 0..40 {
        let lab = TestLab::new("t-going");
        ip("netns add ondol-t-going");
        ip("netns add ondol-t-going.db-01");
        ip(
            "-n ondol-t-going link add v0123456789ab type veth peer name enp0s3 netns ondol-t-going.db-01",
        );
        lab.destroy().expect("destroyed");
        assert_eq!(traces("t-going"), Vec::<String>::new());
    }
}

/// As when an `ip netns add` outlives the process that was killed, and the next one has made the namespace already.
#[test]
fn a_namespace_whose_name_is_mounted_twice_is_destroyed() {
    let lab = TestLab::new("t-twice");
    for name in ["ondol-t-twice", "ondol-t-twice.db-01"] {
        ip(&format!("netns add {name}"));
        let path = format!("/run/netns/{name}");
        run("mount", &["--bind", &path, &path]);
    }
    lab.destroy().expect("destroyed");
    assert_eq!(traces("t-twice"), Vec::<String>::new());
}

/// Run by the next tests in a process of its own.
#[test]
#[ignore = "only the other half of tests below"]
fn child_that_makes_vms() {
    let Ok(name) = std::env::var("ONDOL_TEST_CHILD_LAB") else {
        return;
    };
    let lab = Lab::open(LabConfig::new(&name)).expect("opened");
    for index in 0..4 {
        let mut spec = support::spec(&format!("vm-{index}"));
        spec.disks
            .insert("data".into(), ondol_lab::DiskSpec { size_mib: 8 });
        lab.create(&spec).expect("created");
        lab.start(&spec.name).expect("started");
    }
}

fn child(lab: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("known"));
    command
        .args(["--ignored", "--exact", "child_that_makes_vms"])
        .env("ONDOL_TEST_CHILD_LAB", lab)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn vms_outlive_the_process_that_started_them() {
    let lab = TestLab::new("t-live");
    let began = Instant::now();
    assert!(child("t-live").status().expect("run").success());
    println!("the child took {:?}", began.elapsed());
    let vms = lab.list().expect("listed");
    assert_eq!(vms.len(), 4);
    for vm in vms {
        assert_eq!(vm.state, PowerState::Running);
        lab.wait_ssh(&vm);
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_a_lab_that_can_be_completed_and_destroyed() {
    let lab = TestLab::new("t-mid");
    for milliseconds in [30, 60, 90, 120, 160, 200, 250, 300, 400] {
        let mut process = child("t-mid").spawn().expect("spawned");
        std::thread::sleep(Duration::from_millis(milliseconds));
        process.kill().expect("killed");
        process.wait().expect("ended");
    }
    assert!(
        child("t-mid").status().expect("run").success(),
        "the next run completes the lab"
    );
    let vms = lab.list().expect("listed");
    assert_eq!(vms.len(), 4);
    for vm in &vms {
        lab.wait_ssh(vm);
    }
    lab.destroy().expect("destroyed");
    assert_eq!(traces("t-mid"), Vec::<String>::new());
}
