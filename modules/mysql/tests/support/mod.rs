//! Lab machines with the real MySQL of Debian unstable on Debian 12: an image that is built once per machine, a lab of its own for each test,
//! and the modules run in the machines as Ansible would run them.
//!
//! The machines are Debian 12's but for MySQL and the libraries that it needs: unstable's systemd no longer runs on the cgroups of older hosts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use ondol_kit::{Call, Entry};
use ondol_lab::{Features, Lab, LabConfig, Seed, SharedFolder, Vm, VmSpec};
use serde_json::{Value, json};

/// Counted up when what is in the image changes.
const IMAGE: &str = "/var/cache/ondol/mysql/image-1";
const PACKAGES: &str = "ca-certificates,curl,dbus,iproute2,iputils-ping,netplan.io,openssh-server,perl,procps,psmisc,python3-minimal,sudo,\
                        systemd,systemd-resolved,systemd-sysv,udev";
const ATTEMPTS: u32 = 3;

/// Prefers Debian 12 in everything that MySQL does not need newer.
const PREFER: &str = r#"mkdir -p "$1"/etc/apt/preferences.d
printf 'Package: *\nPin: release n=sid\nPin-Priority: 100\n' > "$1"/etc/apt/preferences.d/sid"#;

/// The package's script calls unstable's systemd-sysusers in a way that Debian 12's does not know, so the user is made beforehand. What the
/// package makes of the data directory is not what a test wants to find. A file that moved from one package to another on the way from Debian 12
/// to unstable may be in both for a moment.
const INSTALL: &str = r#"set -e
cp --dereference --remove-destination /etc/resolv.conf "$1"/etc/resolv.conf
chroot "$1" sh -e <<'END'
export DEBIAN_FRONTEND=noninteractive
useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /bin/false mysql
dpkg-divert --quiet --local --rename --divert /usr/bin/systemd-sysusers.real --add /usr/bin/systemd-sysusers
ln -s /bin/true /usr/bin/systemd-sysusers
apt-get -qq -y --no-install-recommends -o Dpkg::Options::=--force-overwrite -t sid install mysql-server \
  systemd/bookworm systemd-sysv/bookworm udev/bookworm systemd-resolved/bookworm </dev/null
rm /usr/bin/systemd-sysusers
dpkg-divert --quiet --local --rename --remove /usr/bin/systemd-sysusers
systemctl disable --quiet mysql.service
systemctl enable --quiet systemd-networkd.service
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
  console-getty.service getty@.service systemd-networkd-wait-online.service
find /var/lib/mysql -mindepth 1 -delete
rm -rf /etc/ssh/ssh_host_* /etc/resolv.conf /etc/hostname /var/lib/dbus/machine-id /var/log/mysql/*
: > /etc/machine-id
END
rm -rf "$1"/var/cache/apt/archives/*.deb"#;

/// The image, or why there is none.
fn image() -> Result<PathBuf, String> {
    let image = PathBuf::from(IMAGE);
    if !nix::unistd::geteuid().is_root() {
        return Err("root".to_owned());
    }
    if image.exists() {
        return Ok(image);
    }
    let cache = image.parent().expect("it has one");
    fs::create_dir_all(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let file = File::create(cache.join("lock")).map_err(|error| error.to_string())?;
    let _lock =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
    if image.exists() {
        return Ok(image);
    }
    let uri = debian()?;
    let source = |suite: &str| {
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite} main")
    };
    let partial = cache.join("partial");
    let mut words = String::new();
    for attempt in 1..=ATTEMPTS {
        eprintln!("building the image with MySQL (attempt {attempt} of {ATTEMPTS}) ...");
        let _ = fs::remove_dir_all(&partial);
        let output = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--mode=root"])
            .arg(format!("--include={PACKAGES}"))
            .args([
                "--aptopt=APT::Install-Recommends \"false\"",
                "--aptopt=Acquire::Retries \"5\"",
            ])
            // A frozen mirror's unstable is older than its own promise; its signature is checked all the same.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg(format!("--setup-hook={PREFER}"))
            .arg(format!("--customize-hook={INSTALL}"))
            .arg("bookworm")
            .arg(&partial)
            .args([source("bookworm"), source("sid")])
            .output()
            .map_err(|error| format!("mmdebstrap (apt-get install mmdebstrap): {error}"))?;
        if output.status.success() {
            fs::rename(&partial, &image).map_err(|error| error.to_string())?;
            return Ok(image);
        }
        words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    let _ = fs::remove_dir_all(&partial);
    Err(format!("Debian unstable's mysql-server: {words}"))
}

/// Where this machine's own Debian comes from.
fn debian() -> Result<String, String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .map_err(|error| format!("apt-get: {error}"))?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian "))
        .map(str::to_owned)
        .ok_or_else(|| "an apt source of Debian with its lists (apt-get update)".to_owned())
}

/// A lab with its machines up, destroyed with the test, also when that panics.
pub(crate) struct Site {
    lab: Lab,
}

impl Site {
    /// `None` where this machine cannot have one: said aloud, and in CI a failure. `lab` is a name that no other test uses.
    pub(crate) fn start(lab: &str, machines: &[&str]) -> Option<Self> {
        let image = match image() {
            Ok(image) => image,
            Err(missing) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "these tests need {missing}"
                );
                eprintln!("SKIPPED: a test with the real MySQL needs {missing}");
                return None;
            }
        };
        let lab = Lab::open(LabConfig::new(lab)).expect("tests of the lab run as root");
        lab.destroy()
            .expect("leftovers of an earlier run can be removed");
        let site = Self { lab };
        for name in machines {
            site.lab
                .create(&spec(name, &image))
                .expect("the VM can be created");
        }
        for name in machines {
            site.lab.start(name).expect("the VM starts");
        }
        for name in machines {
            site.wait_booted(name);
        }
        Some(site)
    }

    pub(crate) fn wait_booted(&self, vm: &str) {
        eventually("the VM boots", || {
            let shown = self
                .lab
                .exec(vm, &["systemctl", "is-system-running"], b"")
                .expect("the VM runs");
            matches!(
                String::from_utf8_lossy(&shown.stdout).trim(),
                "running" | "degraded"
            )
        });
    }

    pub(crate) fn address(&self, vm: &str) -> String {
        self.vm(vm).first_boot_address.to_string()
    }

    pub(crate) fn vm(&self, vm: &str) -> Vm {
        self.lab
            .observe(vm)
            .expect("the lab can be asked")
            .expect("it exists")
    }

    /// Output of a shell script in the VM, which must succeed.
    #[track_caller]
    pub(crate) fn sh(&self, vm: &str, script: &str) -> String {
        let output = self
            .lab
            .exec(vm, &["sh", "-ec", script], b"")
            .expect("the VM runs");
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What the server of a VM answers to SQL, by the distribution's own client.
    #[track_caller]
    pub(crate) fn sql(&self, vm: &str, sql: &str) -> String {
        let output = self
            .lab
            .exec(
                vm,
                &["mysql", "--batch", "--skip-column-names"],
                sql.as_bytes(),
            )
            .expect("the VM runs");
        assert!(output.status.success(), "{sql}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a module in a VM and answers with its result, as Ansible would read it.
    #[track_caller]
    pub(crate) fn call(&self, vm: &str, module: &str, args: &Value) -> Value {
        let output = self
            .command(vm, module, args)
            .output()
            .expect("the module runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.split_once(REPLY));
        let Some((_, line)) = line else {
            panic!("no answer of {module}: {output:?}");
        };
        serde_json::from_str(line).expect("JSON")
    }

    /// The same, to be started by the caller.
    pub(crate) fn command(&self, vm: &str, module: &str, args: &Value) -> Command {
        let itself = std::env::current_exe().expect("a program has a file");
        let guest = Path::new(GUEST).join(itself.file_name().expect("a file has a name"));
        let mut args = args.clone();
        args["_ansible_module_name"] = json!(format!("ondol.cloud.{module}"));
        args["_ansible_verbosity"] = json!(3);
        args["_ansible_diff"] = json!(true);
        let file = format!("/run/ondol-call-{module}.json");
        self.put(vm, &file, &args.to_string());
        let guest = guest.display().to_string();
        let call = format!("{CALL}={file}");
        self.lab
            .command(
                vm,
                &[
                    "env",
                    &call,
                    &guest,
                    "--exact",
                    "answers_a_call",
                    "--nocapture",
                ],
            )
            .expect("the VM runs")
    }

    pub(crate) fn put(&self, vm: &str, path: &str, text: &str) {
        let script = format!("umask 077; cat > {path}");
        let output = self
            .lab
            .exec(vm, &["sh", "-c", &script], text.as_bytes())
            .expect("the VM runs");
        assert!(output.status.success(), "{output:?}");
    }

    /// The steps of a call that must succeed.
    #[track_caller]
    pub(crate) fn steps(&self, vm: &str, module: &str, args: &Value) -> Vec<String> {
        let reply = self.call(vm, module, args);
        assert_ne!(reply["failed"], json!(true), "{module} on {vm}: {reply:#}");
        let steps = reply["steps"].as_array().expect("a list").iter();
        steps
            .map(|step| step.as_str().expect("a text").to_owned())
            .collect()
    }

    /// Why a call that must fail failed.
    #[track_caller]
    pub(crate) fn refusal(&self, vm: &str, module: &str, args: &Value) -> String {
        let reply = self.call(vm, module, args);
        assert_eq!(reply["failed"], json!(true), "{module} on {vm}: {reply:#}");
        reply["msg"].as_str().expect("a text").to_owned()
    }

    /// Check mode foretells what the run then does, the run does it, and a repeat does nothing.
    #[track_caller]
    pub(crate) fn converges(&self, vm: &str, module: &str, args: &Value) -> Vec<String> {
        let mut check = args.clone();
        check["_ansible_check_mode"] = json!(true);
        let foretold = self.steps(vm, module, &check);
        let done = self.steps(vm, module, args);
        assert_eq!(done, foretold, "{module} on {vm}");
        assert_eq!(
            self.steps(vm, module, args),
            [""; 0],
            "{module} on {vm}, repeated"
        );
        done
    }

    /// What the test's own function does in the guest.
    pub(crate) fn answer(entries: &[Entry]) {
        let Some(path) = std::env::var_os(CALL) else {
            return;
        };
        let call = Call::read(Path::new(&path)).expect("arguments");
        let name = call.module.clone().expect("a module's name");
        let entry = entries
            .iter()
            .find(|entry| entry.name == name)
            .expect("one of ours");
        println!("\n{REPLY}{}", ondol_kit::run(entry, &call).to_line());
    }
}

const GUEST: &str = "/run/ondol-test";
const CALL: &str = "ONDOL_MYSQL_CALL";
const REPLY: &str = "reply: ";

impl Deref for Site {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = self.lab.destroy() {
            eprintln!("destroy lab \"{}\": {error}", self.lab.config().name);
        }
    }
}

fn spec(name: &str, image: &Path) -> VmSpec {
    let itself = std::env::current_exe().expect("a program has a file");
    let programs = SharedFolder {
        host_path: itself.parent().expect("a file is in a folder").to_owned(),
        guest_path: GUEST.into(),
        read_only: true,
    };
    VmSpec {
        name: name.to_owned(),
        host: format!("host-{name}"),
        image: image.to_owned(),
        cpus: 1,
        memory_mib: 1024,
        disks: BTreeMap::new(),
        interfaces: Vec::new(),
        shared_folders: BTreeMap::from([("programs".to_owned(), programs)]),
        features: Features::default(),
        seed: Seed::default(),
    }
}

#[track_caller]
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
