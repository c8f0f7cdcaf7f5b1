//! Hosts with the real VirtualBox of Debian unstable, for tests: a tree that is built once per machine, and any number of hosts in it,
//! each with processes, files and VBoxSVC of its own, gone with the test.
//!
//! There is no kernel driver: everything works but starting a VM. Used by the provider's tests too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// Counted up when what is in the tree changes.
const TREE: &str = "/var/cache/ondol/virtualbox/tree-1";
const PACKAGES: &str = "virtualbox,virtualbox-source,openssh-server";
const ATTEMPTS: u32 = 3;

/// The tree, or why there is none.
fn tree() -> Result<PathBuf, String> {
    let tree = PathBuf::from(TREE);
    if tree.exists() {
        return Ok(tree);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("root".to_owned());
    }
    let cache = tree.parent().expect("it has one");
    fs::create_dir_all(cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    let file = File::create(cache.join("lock")).map_err(|error| error.to_string())?;
    let _lock =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
    if tree.exists() {
        return Ok(tree);
    }
    let source = unstable_source()?;
    let partial = cache.join("partial");
    let mut words = String::new();
    for attempt in 1..=ATTEMPTS {
        eprintln!("building the tree with VirtualBox (attempt {attempt} of {ATTEMPTS}) ...");
        let _ = fs::remove_dir_all(&partial);
        let output = Command::new("mmdebstrap")
            .args([
                "--quiet",
                "--variant=apt",
                "--mode=root",
                &format!("--include={PACKAGES}"),
            ])
            .args([
                "--aptopt=APT::Install-Recommends \"false\"",
                "--aptopt=Acquire::Retries \"5\"",
            ])
            // A frozen mirror's unstable is older than its own promise; its signature is checked all the same.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg("sid")
            .arg(&partial)
            .arg(&source)
            .output()
            .map_err(|error| format!("mmdebstrap (apt-get install mmdebstrap): {error}"))?;
        if output.status.success() {
            let _ = fs::remove_dir_all(partial.join("var/cache/apt/archives"));
            fs::rename(&partial, &tree).map_err(|error| error.to_string())?;
            return Ok(tree);
        }
        words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    let _ = fs::remove_dir_all(&partial);
    Err(format!("Debian unstable's virtualbox: {words}"))
}

/// Debian unstable from where this machine's own Debian comes from.
fn unstable_source() -> Result<String, String> {
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
    let uri = targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian "));
    let uri = uri.ok_or("an apt source of Debian with its lists (apt-get update)")?;
    Ok(format!(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} sid main contrib"
    ))
}

/// A host that has VirtualBox and nothing else going on. Its processes end and its files vanish with it.
pub(crate) struct Host {
    init: Child,
    pid: u32,
    directory: tempfile::TempDir,
}

impl Host {
    /// `None` where this machine cannot have one: said aloud, and in CI a failure.
    pub(crate) fn start() -> Option<Self> {
        Self::with(&["--net"], "ip link set lo up")
    }

    /// One that shares this machine's network, so that its SSH server can be reached.
    pub(crate) fn start_reachable() -> Option<Self> {
        Self::with(&[], "true")
    }

    /// One with a network of its own, where it is 10.77.4.1/24 on the bridge `lan0`, and with this machine's files at /machine.
    pub(crate) fn start_with_lan() -> Option<Self> {
        let lan = "ip link set lo up; ip link add lan0 type bridge; ip address add 10.77.4.1/24 dev lan0; ip link set lan0 up";
        let host = Self::with(&["--net"], lan)?;
        let root = host.directory.path().join("root");
        fs::create_dir(host.path("/machine")).expect("the host can be written to");
        let pid = host.pid.to_string();
        let status = Command::new("nsenter")
            .args(["--target", &pid, "--mount", "mount", "--rbind", "/"])
            .arg(root.join("machine"))
            .status();
        assert!(status.is_ok_and(|it| it.success()), "{}", root.display());
        fs::write(host.path("/root/root"), root.display().to_string()).expect("writable");
        Some(host)
    }

    /// What leads a program of this machine into the host's network: comes before it.
    pub(crate) fn network(&self) -> Vec<String> {
        let pid = self.pid.to_string();
        ["nsenter", "--target", &pid, "--net"]
            .map(str::to_owned)
            .to_vec()
    }

    fn with(namespaces: &[&str], first: &str) -> Option<Self> {
        match tree() {
            Ok(tree) => Some(Self::within(&tree, namespaces, first)),
            Err(missing) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "these tests need {missing}"
                );
                eprintln!("SKIPPED: a test with the real VirtualBox needs {missing}");
                None
            }
        }
    }

    fn within(tree: &Path, namespaces: &[&str], first: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let at = directory.path().display();
        // Everything is in memory and in namespaces of its own: the kernel clears up after the last process.
        let script = format!(
            "set -e; mount -t tmpfs none {at}; mkdir {at}/upper {at}/work {at}/root; \
             mount -t overlay none -o lowerdir={tree},upperdir={at}/upper,workdir={at}/work {at}/root; \
             mount -t proc proc {at}/root/proc; mount --rbind /dev {at}/root/dev; mount -t tmpfs none {at}/root/tmp; \
             mkdir {at}/root/small; mount -t tmpfs -o size=8m none {at}/root/small; mkdir -p {at}/root/run/sshd; {first}; touch {at}/root/ready; exec chroot {at}/root sh -c 'while :; do sleep 3600 & wait; done'",
            tree = tree.display()
        );
        let init = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
            ])
            .args(namespaces)
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is part of util-linux");
        let began = Instant::now();
        let pid = loop {
            let children = format!("/proc/{0}/task/{0}/children", init.id());
            let child: Option<u32> = fs::read_to_string(children)
                .ok()
                .and_then(|list| list.split_whitespace().next()?.parse().ok());
            if let Some(pid) = child
                && fs::metadata(format!("/proc/{pid}/root/ready")).is_ok()
            {
                break pid;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "the host does not come up"
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        Self {
            init,
            pid,
            directory,
        }
    }

    /// What leads into the host: comes before a command.
    pub(crate) fn enter(&self) -> Vec<String> {
        let pid = self.pid.to_string();
        let words = [
            "nsenter", "--target", &pid, "--mount", "--net", "--pid", "--root",
        ];
        // nsenter's own --wd is opened before it enters, and so would lie outside of the root.
        let environment = [
            "env",
            "-i",
            "--chdir=/root",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "USER=root",
            "LOGNAME=root",
        ];
        words
            .iter()
            .chain(&environment)
            .map(|&word| word.to_owned())
            .collect()
    }

    /// Output of a command in the host, which must succeed.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn try_run(&self, words: &[&str]) -> std::process::Output {
        let enter = self.enter();
        Command::new(&enter[0])
            .args(&enter[1..])
            .args(words)
            .output()
            .expect("nsenter is part of util-linux")
    }

    /// Has a file of the host read as another one of it.
    pub(crate) fn cover(&self, path: &str, with: &str) {
        let root = self.directory.path().join("root");
        let pid = self.pid.to_string();
        // The host has no mount of its own.
        let status = Command::new("nsenter")
            .args(["--target", &pid, "--mount", "mount", "--bind"])
            .arg(root.join(with.trim_start_matches('/')))
            .arg(root.join(path.trim_start_matches('/')))
            .status();
        assert!(status.is_ok_and(|it| it.success()), "{with} over {path}");
    }

    /// A path in the host as this machine sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Everything below VirtualBox's machine folder and our own directory, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let listing = self.run(&[
            "sh",
            "-c",
            "cd; find 'VirtualBox VMs' .ondol -mindepth 1 2>/dev/null || true",
        ]);
        let mut files: Vec<String> = listing.lines().map(str::to_owned).collect();
        files.sort();
        files
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // With the first process of the namespace all others die.
        let _ = self.init.kill();
        let _ = self.init.wait();
        let _ = self.directory.path();
    }
}
