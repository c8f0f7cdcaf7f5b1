//! Three VMs with Ceph's packages in a lab of their own, which goes with the test, also when that panics.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Deref};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ondol_image::{DEFAULT_CACHE_DIR, Distribution, Recipe};
use ondol_kit::{Call, Entry};
use ondol_lab::{DiskSpec, Features, Lab, LabConfig, Seed, SharedFolder, VmSpec};
use serde_json::{Value, json};

pub(crate) const VMS: [(&str, &str); 3] = [
    ("ceph-01", "192.168.10.81"),
    ("ceph-02", "192.168.10.82"),
    ("ceph-03", "192.168.10.83"),
];

/// Where a VM sees the directory of this test's own program.
const PROGRAMS: &str = "/opt/ondol-test";
const CALL: &str = "ONDOL_TEST_CALL";
const MARK: &str = "answer: ";

/// In a VM this test's own program plays the binary that holds the modules: it is always as new as the test.
pub(crate) fn answer(modules: &[Entry]) {
    let text = std::env::var(CALL).expect("is run by the lab's test");
    let call = Call::parse(&text).expect("a call");
    let entry = modules
        .iter()
        .find(|entry| Some(entry.name) == call.module.as_deref())
        .expect("a module");
    println!("\n{MARK}{}", ondol_kit::run(entry, &call).to_line());
}

pub(crate) struct TestLab(Lab);

impl TestLab {
    pub(crate) fn new(name: &str) -> Self {
        let lab = Lab::open(LabConfig::new(name)).expect("tests of the lab run as root");
        lab.destroy()
            .expect("leftovers of an earlier run can be removed");
        let lab = Self(lab);
        let image = image();
        for (index, (vm, address)) in VMS.into_iter().enumerate() {
            lab.create(&spec(vm, index, &image)).expect("is created");
            lab.start(vm).expect("starts");
            lab.sh(
                vm,
                &format!(
                    "d=/etc/systemd/network/70-ondol-first-boot.network.d; mkdir -p $d; \
                     printf '[Address]\\nAddress={address}/24\\n' > $d/site.conf"
                ),
            );
        }
        for (vm, address) in VMS {
            eventually("the VM boots", || {
                lab.sh_ok(vm, "systemctl is-active --quiet multi-user.target")
            });
            lab.sh(vm, "networkctl reload");
            eventually("the address is there", || {
                lab.sh(vm, "ip -br address").contains(address)
            });
        }
        lab
    }

    /// The module's answer, run in the VM as Ansible runs it. `flags` are `check` or empty.
    pub(crate) fn module(&self, vm: &str, name: &str, args: &Value, flags: &str) -> Value {
        let argv = self.argv(name, args, flags);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = self.exec(vm, &argv, b"").expect("the VM runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let answer = text.lines().find_map(|line| line.strip_prefix(MARK));
        let answer = answer.unwrap_or_else(|| panic!("{name} on {vm}: {output:?}"));
        serde_json::from_str(answer).expect("JSON")
    }

    /// The command line that runs a module in a VM.
    pub(crate) fn argv(&self, name: &str, args: &Value, flags: &str) -> Vec<String> {
        let mut call = args.clone();
        call["_ansible_module_name"] = json!(name);
        call["_ansible_check_mode"] = json!(flags == "check");
        call["_ansible_diff"] = json!(true);
        let own = std::env::current_exe().expect("a test has a file");
        let own = own
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        [
            "/usr/bin/env".to_owned(),
            format!("{CALL}={call}"),
            format!("{PROGRAMS}/{own}"),
        ]
        .into_iter()
        .chain(
            [
                "--ignored",
                "--exact",
                "answers_a_call_in_a_vm",
                "--nocapture",
            ]
            .map(str::to_owned),
        )
        .collect()
    }

    /// Output of a shell script in the VM, which must succeed.
    pub(crate) fn sh(&self, vm: &str, script: &str) -> String {
        let output = self
            .exec(vm, &["sh", "-ec", script], b"")
            .expect("the VM runs");
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Whether a shell script succeeds in the VM.
    pub(crate) fn sh_ok(&self, vm: &str, script: &str) -> bool {
        self.exec(vm, &["sh", "-ec", script], b"")
            .expect("the VM runs")
            .status
            .success()
    }
}

impl Deref for TestLab {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy() {
            eprintln!("destroy lab \"{}\": {error}", self.config().name);
        }
    }
}

fn spec(name: &str, index: usize, image: &Path) -> VmSpec {
    let own = std::env::current_exe().expect("a test has a file");
    let programs = own.parent().expect("a directory").to_owned();
    VmSpec {
        name: name.to_owned(),
        host: format!("srv-{:02}", index + 1),
        image: image.to_owned(),
        cpus: 2,
        memory_mib: 1024,
        disks: BTreeMap::from([("osd".to_owned(), DiskSpec { size_mib: 4096 })]),
        interfaces: Vec::new(),
        shared_folders: BTreeMap::from([(
            "programs".to_owned(),
            SharedFolder {
                host_path: programs,
                guest_path: PROGRAMS.into(),
                read_only: true,
            },
        )]),
        features: Features::default(),
        seed: Seed::default(),
    }
}

/// Debian 12 with Ceph 16, built once and then taken from the cache.
pub(crate) fn image() -> PathBuf {
    let mut recipe = Recipe::base(Distribution::Debian, "bookworm");
    recipe.packages.extend(
        [
            "ceph-mon",
            "ceph-mgr",
            "ceph-osd",
            "ceph-mds",
            "ceph-common",
            "ceph-fuse",
            "radosgw",
        ]
        .map(str::to_owned),
    );
    ondol_image::build(&recipe, Path::new(DEFAULT_CACHE_DIR), &mut |_| {
        ControlFlow::Continue(())
    })
    .expect("the image builds")
    .rootfs
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "did not happen within 120 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
