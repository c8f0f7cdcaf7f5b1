//! Three machines with MariaDB in a lab of the test's own, which is destroyed with the test, also when that panics.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Deref};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ondol_image::{DEFAULT_CACHE_DIR, Distribution, Recipe};
use ondol_lab::{Features, Lab, LabConfig, Seed, SharedFolder, VmSpec};

/// Where the test's folder is seen in each machine.
pub(crate) const SHARED: &str = "/mnt/test";

pub(crate) struct TestLab {
    lab: Lab,
    /// First-boot addresses by name of the machine.
    pub(crate) addresses: BTreeMap<String, String>,
}

impl TestLab {
    /// `name` is one no other test uses. What an earlier, broken-off run left is removed first.
    pub(crate) fn start(name: &str, machines: &[&str], shared: &Path) -> Self {
        let lab = Lab::open(LabConfig::new(name)).expect("tests of the lab run as root");
        lab.destroy()
            .expect("leftovers of an earlier run can be removed");
        let mut lab = Self {
            lab,
            addresses: BTreeMap::new(),
        };
        let image = image();
        for machine in machines {
            let spec = spec(machine, &image, shared);
            lab.create(&spec).expect("the VM can be created");
            let vm = lab.lab.start(machine).expect("the VM starts");
            lab.addresses
                .insert((*machine).to_owned(), vm.first_boot_address.to_string());
        }
        for machine in machines {
            lab.wait_booted(machine);
        }
        lab
    }

    /// Waits until systemd in the machine has finished booting, with failed units or without.
    pub(crate) fn wait_booted(&self, machine: &str) {
        eventually("the VM boots", || {
            let output = self
                .exec(machine, &["systemctl", "is-system-running"], b"")
                .expect("the VM runs");
            let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            state == "running" || state == "degraded"
        });
    }

    /// Output of a shell script in the machine, which must succeed.
    pub(crate) fn sh(&self, machine: &str, script: &str) -> String {
        let output = self
            .exec(machine, &["sh", "-ec", script], b"")
            .expect("the VM runs");
        assert!(
            output.status.success(),
            "{machine}: {script}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Deref for TestLab {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if let Err(error) = self.lab.destroy() {
            eprintln!("destroy lab \"{}\": {error}", self.config().name);
        }
    }
}

fn spec(name: &str, image: &Path, shared: &Path) -> VmSpec {
    VmSpec {
        name: name.to_owned(),
        host: name.to_owned(),
        image: image.to_owned(),
        cpus: 2,
        memory_mib: 1024,
        disks: BTreeMap::new(),
        interfaces: Vec::new(),
        shared_folders: BTreeMap::from([(
            "test".to_owned(),
            SharedFolder {
                host_path: shared.to_owned(),
                guest_path: PathBuf::from(SHARED),
                read_only: true,
            },
        )]),
        features: Features::default(),
        seed: Seed::default(),
    }
}

/// This machine's own release with what a node and an arbitrator need, built once and then taken from the cache.
fn image() -> PathBuf {
    let mut recipe = Recipe::base(Distribution::Debian, "bookworm");
    recipe.packages.extend(
        [
            "galera-4",
            "galera-arbitrator-4",
            "mariadb-backup",
            "mariadb-server",
            "nftables",
            "rsync",
            "socat",
        ]
        .map(str::to_owned),
    );
    ondol_image::build(&recipe, Path::new(DEFAULT_CACHE_DIR), &mut |_| {
        ControlFlow::Continue(())
    })
    .expect("the image with MariaDB builds")
    .rootfs
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "did not happen within 60 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
