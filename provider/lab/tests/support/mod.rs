//! A lab of its own for each test, which is destroyed with the test, also when that panics. Needs root and the machine's apt mirror once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{ControlFlow, Deref};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ondol_image::{DEFAULT_CACHE_DIR, Distribution, Recipe};
use ondol_lab::{Features, Lab, LabConfig, Seed, Vm, VmSpec};

pub(crate) struct TestLab(Lab);

impl TestLab {
    /// `name` is one no other test uses. What an earlier, broken-off run left is removed first.
    pub(crate) fn new(name: &str) -> Self {
        let lab = Lab::open(LabConfig::new(name)).expect("tests of the lab run as root");
        lab.destroy()
            .expect("leftovers of an earlier run can be removed");
        Self(lab)
    }

    pub(crate) fn spec(&self, name: &str) -> VmSpec {
        spec(name)
    }

    pub(crate) fn create_and_start(&self, spec: &VmSpec) -> Vm {
        self.create(spec).expect("the VM can be created");
        self.start(&spec.name).expect("the VM starts")
    }

    /// Waits until systemd in the VM has finished booting.
    pub(crate) fn wait_booted(&self, vm: &str) {
        eventually("the VM boots", || {
            let output = self
                .exec(vm, &["systemctl", "is-system-running"], b"")
                .expect("the VM runs");
            String::from_utf8_lossy(&output.stdout).trim() == "running"
        });
    }

    /// Waits until the VM's SSH server answers at its first-boot address.
    pub(crate) fn wait_ssh(&self, vm: &Vm) {
        let to = SocketAddr::from((vm.first_boot_address, 22));
        eventually("port 22 answers", || {
            self.connect(to, Duration::from_secs(1)).is_ok()
        });
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

    pub(crate) fn vm_dir(&self, vm: &str) -> PathBuf {
        let config = self.config();
        config
            .state_dir
            .join("labs")
            .join(&config.name)
            .join("vms")
            .join(vm)
    }

    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ondol-lab"))
            .args(["--lab", &self.config().name])
            .args(arguments)
            .output()
            .expect("the program can be run")
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

/// A small VM on host `srv-01`.
pub(crate) fn spec(name: &str) -> VmSpec {
    VmSpec {
        name: name.to_owned(),
        host: "srv-01".to_owned(),
        image: image(),
        cpus: 1,
        memory_mib: 256,
        disks: BTreeMap::new(),
        interfaces: Vec::new(),
        shared_folders: BTreeMap::new(),
        features: Features::default(),
        seed: Seed::default(),
    }
}

/// The base image of this machine's own release, built once and then taken from the cache.
pub(crate) fn image() -> PathBuf {
    let recipe = Recipe::base(Distribution::Debian, "bookworm");
    ondol_image::build(&recipe, Path::new(DEFAULT_CACHE_DIR), &mut |_| {
        ControlFlow::Continue(())
    })
    .expect("the base image builds")
    .rootfs
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "did not happen within 120 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Everything on the machine that belongs to the lab of that name, one line each.
pub(crate) fn traces(lab: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lab_dir = format!("/labs/{lab}/");
    let prefix = format!("ondol-{lab}");
    let of_lab = |name: &str| name == prefix || name.starts_with(&format!("{prefix}."));

    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    for line in mounts.lines() {
        let mount = line.split(' ').nth(4).unwrap_or_default();
        if mount.contains(&lab_dir) || mount.strip_prefix("/run/netns/").is_some_and(of_lab) {
            found.push(format!("mount {mount}"));
        }
    }
    for entry in std::fs::read_dir("/proc").expect("readable").flatten() {
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        if cmdline.contains(&format!("--machine={prefix}.")) {
            found.push(format!("process {cmdline}"));
        }
    }
    for dir in ["/run/netns", "/run/systemd/nspawn/propagate"] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if of_lab(&name) {
                found.push(format!("{dir}/{name}"));
            }
        }
    }
    for entry in std::fs::read_dir("/sys/block").expect("readable").flatten() {
        let backing =
            std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if backing.contains(&lab_dir) {
            found.push(format!("loop {}", backing.trim()));
        }
    }
    let cgroups = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(cgroups)
        .expect("readable")
        .flatten()
        .map(|entry| entry.path());
    for hierarchy in hierarchies.chain([cgroups.to_owned()]) {
        let group = hierarchy.join("ondol").join(lab);
        if group.exists() {
            found.push(format!("cgroup {}", group.display()));
        }
    }
    for root in ["/var/lib/ondol/labs", "/run/ondol/labs"] {
        if Path::new(root).join(lab).exists() {
            found.push(format!("{root}/{lab}"));
        }
    }
    found
}

pub(crate) fn ip(arguments: &str) -> String {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the program can be run");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
