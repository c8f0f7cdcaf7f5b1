//! One throw-away guest per test. Not the product's lab engine: that one would bring a golden image and a provider's rules along.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running container, cut off from everything but its own switch.
pub(crate) struct Guest {
    name: String,
    dir: TempDir,
    child: Child,
}

impl Guest {
    /// `None`, with a word on standard error, where this machine cannot do it.
    pub(crate) fn start(name: &str) -> Option<Self> {
        match rootfs() {
            Ok(rootfs) => Some(Self::create(name, &rootfs)),
            Err(reason) if std::env::var_os("CI").is_some() => panic!("{reason}"),
            Err(reason) => {
                eprintln!("SKIPPED, not tested: {reason}");
                None
            }
        }
    }

    fn create(name: &str, rootfs: &Path) -> Self {
        let name = format!("onp-{name}-{}", std::process::id());
        let dir = TempDir::with_prefix_in(&name, "/var/tmp").unwrap();
        for sub in ["upper", "work", "root"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let at = |sub: &str| dir.path().join(sub).display().to_string();
        must(
            Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o"])
                .arg(format!(
                    "lowerdir={},upperdir={},workdir={}",
                    rootfs.display(),
                    at("upper"),
                    at("work")
                ))
                .arg(at("root")),
        );
        seed(&dir.path().join("root"));
        let switch = format!("{name}-sw");
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        for address in ["192.168.10.1/24", "169.254.0.1/16"] {
            ip(&["-n", &switch, "address", "add", address, "dev", "br0"]);
        }
        for device in ["lo", "br0"] {
            ip(&["-n", &switch, "link", "set", device, "up"]);
        }
        let child = boot(&name, dir.path());
        Self { name, dir, child }
    }

    /// Runs a script as root in the guest, as a client would: on standard input.
    pub(crate) fn sh(&self, script: &str) -> String {
        let leader = self.leader().expect("the guest runs");
        let mut child = Command::new("nsenter")
            .args([
                "-t",
                &leader.to_string(),
                "-m",
                "-u",
                "-i",
                "-n",
                "-p",
                "-r",
                "-w",
                "sh",
                "-s",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{status}: {stderr}\n{script}");
        String::from_utf8(stdout).unwrap()
    }

    /// Writes a file of the guest.
    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        let path = self
            .dir
            .path()
            .join("root")
            .join(path.trim_start_matches('/'));
        fs::write(path, bytes).unwrap();
    }

    /// Whether the switch gets an answer from the address: the guest's sshd listens or the port is refused.
    pub(crate) fn answers(&self, address: &str) -> bool {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}-sw", self.name))
            .args([
                "timeout",
                "1",
                "bash",
                "-c",
                &format!("exec 3<>/dev/tcp/{address}/22"),
            ])
            .output()
            .unwrap();
        output.status.success() || String::from_utf8_lossy(&output.stderr).contains("refused")
    }

    /// Shuts down in order and boots again.
    pub(crate) fn restart(mut self) -> Self {
        let leader = self.leader().expect("the guest runs");
        // SIGRTMIN+4: systemd powers off.
        must(Command::new("kill").args(["-s", "RTMIN+4", &leader.to_string()]));
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the guest does not shut down");
            sleep(Duration::from_millis(50));
        }
        self.reboot();
        self
    }

    /// As a power cut does it.
    pub(crate) fn pull_the_plug(mut self) -> Self {
        self.cut_power();
        self.reboot();
        self
    }

    fn cut_power(&mut self) {
        if let Some(leader) = self.leader() {
            let _ = Command::new("kill")
                .args(["-KILL", &leader.to_string()])
                .status();
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    fn reboot(&mut self) {
        // The kernel takes a namespace's links away some time after its name; the cable must be free before it is plugged in again.
        let (switch, port) = cable(&self.name);
        let _ = Command::new("ip")
            .args(["-n", &switch, "link", "delete", &port])
            .output();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .output();
        self.child = boot(&self.name, self.dir.path());
    }

    fn leader(&self) -> Option<u32> {
        let outer = self.child.id();
        fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))
            .ok()?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.cut_power();
        for namespace in [&self.name, &format!("{}-sw", self.name)] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .output();
        }
        let _ = Command::new("umount")
            .args(["-l"])
            .arg(self.dir.path().join("root"))
            .output();
    }
}

/// The namespace of the switch, and the port there that the guest is plugged into.
fn cable(name: &str) -> (String, String) {
    (format!("{name}-sw"), format!("v{}", std::process::id()))
}

fn boot(name: &str, dir: &Path) -> Child {
    let (switch, port) = cable(name);
    ip(&["netns", "add", name]);
    ip(&[
        "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "enp0s3", "netns",
        name,
    ]);
    ip(&[
        "-n",
        name,
        "link",
        "set",
        "enp0s3",
        "address",
        "08:00:27:00:00:01",
    ]);
    ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
    let console = fs::File::create(dir.join("console")).unwrap();
    Command::new("systemd-nspawn")
        .args([
            "--register=no",
            "--keep-unit",
            "--quiet",
            "--boot",
            "--console=read-only",
        ])
        .args(["--capability=CAP_NET_ADMIN,CAP_NET_RAW", "-M", name, "-D"])
        .arg(dir.join("root"))
        .arg(format!("--network-namespace-path=/run/netns/{name}"))
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .spawn()
        .unwrap()
}

/// What the engine seeds: a name, and a link-local address until there is a netplan.
fn seed(root: &Path) {
    let network = root.join("etc/systemd/network");
    fs::create_dir_all(&network).unwrap();
    fs::write(
        network.join("70-ondol-first-boot.network"),
        "[Match]\nName=enp0s3\n[Network]\nLinkLocalAddressing=no\n\
         [Address]\nAddress=169.254.7.7/16\nDuplicateAddressDetection=none\n",
    )
    .unwrap();
    fs::write(root.join("etc/hostname"), "guest\n").unwrap();
    fs::create_dir_all(root.join("etc/netplan")).unwrap();
    for file in fs::read_dir(root.join("etc/netplan")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    let _ = std::os::unix::fs::symlink(
        "/lib/systemd/system/systemd-networkd.service",
        wants.join("systemd-networkd.service"),
    );
}

fn rootfs() -> Result<PathBuf, String> {
    if String::from_utf8_lossy(&Command::new("id").arg("-u").output().unwrap().stdout).trim() != "0"
    {
        return Err("needs root".to_owned());
    }
    if Command::new("systemd-nspawn")
        .arg("--version")
        .output()
        .is_err()
    {
        return Err("systemd-nspawn is not installed (package systemd-container)".to_owned());
    }
    if let Some(path) = std::env::var_os("ONDOL_TEST_ROOTFS") {
        return Ok(path.into());
    }
    let images = fs::read_dir("/var/cache/ondol/images")
        .into_iter()
        .flatten()
        .flatten();
    images
        .map(|entry| entry.path().join("rootfs"))
        .filter(|path| {
            path.join("usr/sbin/netplan").is_symlink() || path.join("usr/sbin/netplan").exists()
        })
        // Others have other versions of netplan and systemd, whose ways this test does not know.
        .filter(|path| {
            let release = fs::read_to_string(path.join("etc/debian_version"));
            release.is_ok_and(|release| release.starts_with("12."))
        })
        .max_by_key(|path| fs::metadata(path).and_then(|m| m.modified()).ok())
        .ok_or_else(|| {
            "no root file system: set ONDOL_TEST_ROOTFS or build the golden image".to_owned()
        })
}

fn ip(args: &[&str]) {
    must(Command::new("ip").args(args));
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
