//! Real ansible-playbook, a collection built from the binary under test, and an sshd of the test's own.
//!
//! Every test has its own folder, home and cache, so tests may run at the same time. Nothing outside that folder is
//! changed, and the sshd ends with its test.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Both ends of what the collection supports.
const VERSIONS: [&str; 2] = ["2.16", "2.19"];

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the repository exists")
}

pub(crate) fn is_root() -> bool {
    // The owner of our own process entry is who we are.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

/// On a laptop a missing program skips the test, loudly; in CI it fails.
pub(crate) fn skip(what: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "CI must have it: {what}"
    );
    eprintln!("\n*** SKIPPED: {what} ***\n");
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(program))
        .find(|it| it.is_file())
}

/// The `bin` folders of the installed versions, with their names. `ONDOL_ANSIBLE_BIN` gives one instead.
pub(crate) fn ansibles() -> Vec<(String, PathBuf)> {
    if let Some(bin) = std::env::var_os("ONDOL_ANSIBLE_BIN") {
        return vec![("given".to_owned(), PathBuf::from(bin))];
    }
    let mut found = Vec::new();
    for version in VERSIONS {
        let bin = repository()
            .join("target/ansible")
            .join(version)
            .join("bin");
        if bin.join("ansible-playbook").is_file() {
            found.push((version.to_owned(), bin));
        } else {
            skip(&format!(
                "ansible-core {version} is not installed in {}; see modules/collection/requirements",
                bin.display()
            ));
        }
    }
    found
}

/// Runs a test once for each ansible-core.
pub(crate) fn with_each_ansible(test: impl Fn(&Site)) {
    for (version, bin) in ansibles() {
        eprintln!("--- ansible-core {version}");
        test(&Site::new(bin));
    }
}

/// One test's folder: collection, home, playbooks.
pub(crate) struct Site {
    folder: TempDir,
    bin: PathBuf,
}

/// What a playbook did.
pub(crate) struct Played {
    pub(crate) ok: bool,
    /// Standard output and error.
    pub(crate) text: String,
    /// Results in order: `{task, status, result}`.
    pub(crate) results: Vec<Value>,
}

impl Played {
    pub(crate) fn succeed(self) -> Self {
        assert!(self.ok, "{}", self.text);
        self
    }

    pub(crate) fn fail(self) -> Self {
        assert!(!self.ok, "it should have failed: {}", self.text);
        self
    }

    pub(crate) fn result(&self, index: usize) -> &Value {
        let count = self.results.len();
        let line = self.results.get(index);
        &line.unwrap_or_else(|| panic!("{count} results: {}", self.text))["result"]
    }

    /// The message of the last result.
    pub(crate) fn message(&self) -> &str {
        self.result(self.results.len().saturating_sub(1))["msg"]
            .as_str()
            .unwrap_or_default()
    }

    /// How often a binary was sent.
    pub(crate) fn uploads(&self) -> usize {
        self.text
            .lines()
            .filter(|line| line.contains("EXEC") && line.contains("mktemp"))
            .count()
    }
}

impl Site {
    fn new(bin: PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let site = Self { folder, bin };
        // Others must be able to enter for the tests of become.
        fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(site.home()).expect("mkdir");
        fs::write(site.path("ansible.cfg"), "[defaults]\n").expect("write");
        let built = Command::new(repository().join("modules/collection/build"))
            .arg(env!("CARGO_BIN_EXE_ondol-module"))
            .arg(site.path("built"))
            .env("ANSIBLE_GALAXY", ":")
            .output()
            .expect("build runs");
        assert!(built.status.success(), "{}", text_of(&built));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.home().join(".cache/ondol")
    }

    pub(crate) fn collection(&self) -> PathBuf {
        self.path("built/ansible_collections/ondol/cloud")
    }

    /// Names in the cache, sorted.
    pub(crate) fn cached(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.cache())
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// A program that hides the real one of this name, for `Run::shims`.
    pub(crate) fn shim(&self, name: &str, script: &str) {
        let path = self.path("shims").join(name);
        fs::create_dir_all(self.path("shims")).expect("mkdir");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    /// An Ansible program with this site's settings and nobody else's.
    pub(crate) fn ansible(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        let python = Path::new("/usr/bin/python3");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ANSIBLE_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.folder.path())
            .env("HOME", self.home())
            .env("ANSIBLE_CONFIG", self.path("ansible.cfg"))
            .env("ANSIBLE_HOME", self.path("ansible-home"))
            .env("ANSIBLE_COLLECTIONS_PATH", self.path("built"))
            .env("ANSIBLE_REMOTE_TMP", self.path("ansible-tmp"))
            .env("ANSIBLE_ASYNC_DIR", self.path("ansible-async"))
            .env("ANSIBLE_SSH_CONTROL_PATH_DIR", self.path("control"))
            .env(
                "ANSIBLE_CALLBACK_PLUGINS",
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/callback_plugins"),
            )
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_PYTHON_INTERPRETER", python)
            .env("ONDOL_RESULTS", self.path("results"))
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Plays `tasks` (YAML, unindented) on this machine.
    pub(crate) fn play(&self, tasks: &str) -> Played {
        self.run(tasks, |_| {})
    }

    pub(crate) fn run(&self, tasks: &str, adjust: impl FnOnce(&mut Run)) -> Played {
        let mut run = Run {
            inventory: "target ansible_connection=local".to_owned(),
            keywords: "gather_facts: false".to_owned(),
            arguments: vec!["-vvv".to_owned()],
            environment: Vec::new(),
            shims: false,
            prefix: Vec::new(),
        };
        adjust(&mut run);
        let indented = |text: &str, by: usize| -> String {
            text.trim()
                .lines()
                .map(|line| format!("{:by$}{line}\n", ""))
                .collect()
        };
        let playbook = format!(
            "- hosts: all\n{}  tasks:\n{}",
            indented(&run.keywords, 2),
            indented(tasks, 4)
        );
        fs::write(self.path("play.yml"), playbook).expect("write");
        fs::write(self.path("inventory"), run.inventory + "\n").expect("write");
        let _ = fs::remove_file(self.path("results"));
        let mut ansible = self.ansible("ansible-playbook");
        ansible
            .args(["-i", "inventory", "play.yml"])
            .args(run.arguments);
        let mut command = self.within(&run.prefix, ansible);
        command.envs(run.environment);
        if run.shims {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", self.path("shims").display()));
        }
        self.played(&mut command)
    }

    /// `program`, run by the command that `prefix` is.
    fn within(&self, prefix: &[String], program: Command) -> Command {
        let [first, rest @ ..] = prefix else {
            return program;
        };
        let mut outer = Command::new(first);
        outer
            .args(rest)
            .arg(program.get_program())
            .args(program.get_args())
            .current_dir(self.folder.path());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer
    }

    /// Plays a playbook of the repository on this machine, as `prefix` runs it.
    pub(crate) fn play_file(&self, prefix: &[&str], playbook: &Path, arguments: &[&str]) -> Played {
        let _ = fs::remove_file(self.path("results"));
        let mut ansible = self.ansible("ansible-playbook");
        ansible
            .args(["-i", "localhost,", "-c", "local"])
            .arg(playbook)
            .args(arguments);
        let prefix: Vec<String> = prefix.iter().map(|word| (*word).to_owned()).collect();
        self.played(&mut self.within(&prefix, ansible))
    }

    fn played(&self, command: &mut Command) -> Played {
        let output = command.output().expect("ansible-playbook starts");
        let results = fs::read_to_string(self.path("results")).unwrap_or_default();
        Played {
            ok: output.status.success(),
            text: text_of(&output),
            results: results
                .lines()
                .map(|line| serde_json::from_str(line).expect("the callback writes JSON"))
                .collect(),
        }
    }
}

/// How a playbook is run.
pub(crate) struct Run {
    pub(crate) inventory: String,
    /// Keywords of the play, in YAML.
    pub(crate) keywords: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Whether the programs of `Site::shim` come first in PATH.
    pub(crate) shims: bool,
    /// A command that runs ansible-playbook.
    pub(crate) prefix: Vec<String>,
}

fn text_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// An SSH daemon on 127.0.0.1, with keys of its own, that gives every session the site's home.
pub(crate) struct Sshd {
    daemon: Child,
    port: u16,
    key: PathBuf,
    known_hosts: PathBuf,
    /// Where Ansible keeps the sockets of its shared connections.
    control: PathBuf,
}

impl Sshd {
    /// None, after saying so, if no sshd is installed.
    pub(crate) fn start(site: &Site) -> Option<Self> {
        let Some(program) = find("sshd") else {
            skip("sshd is not installed (package openssh-server)");
            return None;
        };
        if is_root() {
            fs::create_dir_all("/run/sshd").expect("sshd needs /run/sshd");
        }
        let folder = site.path("sshd");
        fs::create_dir(&folder).expect("mkdir");
        for name in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(name))
                .status();
            assert!(made.expect("ssh-keygen runs").success());
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|it| it.local_addr())
            .expect("a free port")
            .port();
        let show = |name: &str| folder.join(name).display().to_string();
        fs::write(
            folder.join("config"),
            format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSetEnv HOME={}\n",
                show("host"),
                show("user.pub"),
                site.home().display(),
            ),
        )
        .expect("write");
        let host_key = fs::read_to_string(folder.join("host.pub")).expect("a key");
        fs::write(
            folder.join("known_hosts"),
            format!("[127.0.0.1]:{port} {host_key}"),
        )
        .expect("write");
        let daemon = Command::new(program)
            .args(["-D", "-f"])
            .arg(folder.join("config"))
            .arg("-E")
            .arg(folder.join("log"))
            .stdin(Stdio::null())
            .spawn()
            .expect("sshd starts");
        let sshd = Self {
            daemon,
            port,
            key: folder.join("user"),
            known_hosts: folder.join("known_hosts"),
            control: site.path("control"),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "sshd does not listen: {}",
                fs::read_to_string(folder.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(sshd)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn inventory(&self) -> String {
        format!(
            "target ansible_host=127.0.0.1 ansible_port={} ansible_ssh_private_key_file={} \
             ansible_ssh_common_args='-o UserKnownHostsFile={} -o IdentitiesOnly=yes -o ControlPersist=30s'",
            self.port,
            self.key.display(),
            self.known_hosts.display()
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for socket in fs::read_dir(&self.control).into_iter().flatten().flatten() {
            let _ = Command::new("ssh")
                .arg(format!("-oControlPath={}", socket.path().display()))
                .args(["-O", "exit", "target"])
                .output();
        }
        // It may have ended by itself; there is nothing to do about it then.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
