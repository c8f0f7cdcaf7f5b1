//! A directory with a Terraform configuration, a lab of its own, and the real `terraform` that works on both.
//!
//! Dropped, the lab and everything in it is gone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ondol_lab::{Lab, LabConfig};
use serde_json::Value;

pub(crate) struct Site {
    dir: tempfile::TempDir,
    /// Where the configuration is, below `dir`.
    root: PathBuf,
    pub(crate) lab: String,
    /// For variables of the configuration.
    variables: Vec<(String, String)>,
    /// Comes before `terraform`.
    enter: Vec<String>,
}

/// What a command printed, both streams, and how it ended.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn failure(self) -> Self {
        assert_eq!(self.code, Some(1), "{}", self.text);
        self
    }

    /// Diagnostics are wrapped and framed: compare without frames and line breaks.
    #[track_caller]
    pub(crate) fn says(&self, needles: &[&str]) {
        let flat = flatten(&self.text);
        for needle in needles {
            assert!(
                flat.contains(&flatten(needle)),
                "{needle:?} is not in:\n{}",
                self.text
            );
        }
    }
}

fn flatten(text: &str) -> String {
    let text: String = text.chars().filter(|c| !"│╷╵".contains(*c)).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// True when these tests can run here; a machine that cannot is told so, and in CI that is a failure.
pub(crate) fn possible() -> bool {
    let on_path = |tool: &str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
    };
    let missing = if !nix::unistd::geteuid().is_root() {
        "root"
    } else if !on_path("terraform") {
        "terraform on PATH"
    } else if !on_path("systemd-nspawn") {
        "systemd-nspawn (apt-get install systemd-container)"
    } else if !on_path("ssh-keygen") {
        "ssh-keygen (apt-get install openssh-client)"
    } else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "these tests need {missing}"
    );
    eprintln!("SKIPPED: these tests need {missing}");
    false
}

impl Site {
    /// `tag`: a few letters that tell tests of one process apart.
    pub(crate) fn new(tag: &str, configuration: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lab = format!("{tag}{}", std::process::id());
        assert!(lab.len() <= 16, "{lab}");
        let plugin = Path::new(env!("CARGO_BIN_EXE_terraform-provider-ondol"))
            .parent()
            .unwrap();
        let cli = format!(
            "provider_installation {{\n  dev_overrides {{ \"ondol/ondol\" = {:?} }}\n  direct {{}}\n}}\n",
            plugin.display()
        );
        std::fs::write(dir.path().join("cli.tfrc"), cli).unwrap();
        let key = dir.path().join("id_ed25519");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        let site = Self {
            dir,
            root: PathBuf::new(),
            lab,
            variables: Vec::new(),
            enter: Vec::new(),
        };
        site.write("main.tf", configuration);
        site
    }

    /// One of the repository's own root modules, `terraform/NAME`, beside everything that it refers to.
    pub(crate) fn of_root(tag: &str, name: &str) -> Self {
        let mut site = Self::new(tag, "");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../terraform");
        copy_tree(&source, &site.path("terraform"));
        site.root = Path::new("terraform").join(name);
        // Not `init`: it would look for the provider elsewhere than where this test has it.
        site.terraform(&["get"]).success();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Replaces text of the configuration; it must be there.
    #[track_caller]
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("main.tf")).unwrap();
        assert!(text.contains(from), "{from:?} is not in main.tf");
        self.write("main.tf", &text.replace(from, to));
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.into()));
    }

    /// Has Terraform run behind these words, as in another network.
    pub(crate) fn enter(&mut self, words: Vec<String>) {
        self.enter = words;
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let words = self.enter.iter().map(String::as_str);
        let words: Vec<&str> = words.chain(["terraform"]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(args)
            .arg("-no-color")
            .current_dir(self.dir.path().join(&self.root))
            .env("TF_CLI_CONFIG_FILE", self.path("cli.tfrc"))
            .env("TF_IN_AUTOMATION", "1")
            .env("CHECKPOINT_DISABLE", "1")
            .env("ONDOL_LAB", &self.lab)
            .stdin(Stdio::null());
        for (name, value) in &self.variables {
            command.env(format!("TF_VAR_{name}"), value);
        }
        command
    }

    pub(crate) fn terraform(&self, args: &[&str]) -> Done {
        let started = Instant::now();
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(args).output().unwrap();
        let mut text = String::from_utf8_lossy(&stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&stderr));
        eprintln!(
            "--- terraform {args:?}: {status}, {:.1} s\n{text}",
            started.elapsed().as_secs_f64()
        );
        Done {
            code: status.code(),
            text,
        }
    }

    pub(crate) fn apply(&self) -> Done {
        self.terraform(&["apply", "-auto-approve", "-input=false"])
    }

    /// Starts an apply and leaves it running.
    pub(crate) fn start_apply(&self) -> Child {
        self.command(&["apply", "-auto-approve", "-input=false"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Plans, and says what would happen to which resource: `update ondol_vm.web["web-01"]`.
    #[track_caller]
    pub(crate) fn plan(&self) -> Vec<String> {
        let plan = self.plan_json();
        let mut changes = Vec::new();
        for change in plan["resource_changes"].as_array().into_iter().flatten() {
            let actions: Vec<&str> = change["change"]["actions"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect();
            if actions != ["no-op"] && actions != ["read"] {
                changes.push(format!(
                    "{} {}",
                    actions.join("+"),
                    change["address"].as_str().unwrap()
                ));
            }
        }
        changes.sort();
        changes
    }

    #[track_caller]
    pub(crate) fn plan_json(&self) -> Value {
        self.terraform(&["plan", "-input=false", "-out=plan.bin"])
            .success();
        let output = self
            .command(&["show", "-json", "plan.bin"])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The change of one resource: attribute to (before, after), only where they differ.
    #[track_caller]
    pub(crate) fn difference(&self, plan: &Value, address: &str) -> Vec<(String, Value, Value)> {
        let changes = plan["resource_changes"].as_array().unwrap();
        let change = &changes
            .iter()
            .find(|change| change["address"] == address)
            .unwrap()["change"];
        let (before, after) = (
            change["before"].as_object().unwrap(),
            change["after"].as_object().unwrap(),
        );
        before
            .iter()
            .filter(|(name, value)| after.get(*name) != Some(value))
            .map(|(name, value)| {
                (
                    name.clone(),
                    value.clone(),
                    after.get(name).cloned().unwrap_or(Value::Null),
                )
            })
            .collect()
    }

    /// Changes a resource's attributes in the state, as another version of the provider would have written them.
    #[track_caller]
    pub(crate) fn edit_state(&self, address: &str, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(self.path("terraform.tfstate")).unwrap();
        let mut state: Value = serde_json::from_str(&text).unwrap();
        let (kind, name) = address.split_once('.').unwrap();
        let (name, key) = name.split_once("[\"").map_or((name, None), |(name, key)| {
            (name, Some(key.trim_end_matches("\"]")))
        });
        let resources = state["resources"].as_array_mut().unwrap().iter_mut();
        let instance = resources
            .filter(|resource| resource["type"] == kind && resource["name"] == name)
            .flat_map(|resource| resource["instances"].as_array_mut().unwrap())
            .find(|instance| instance["index_key"].as_str() == key);
        change(&mut instance.unwrap_or_else(|| panic!("no {address} in the state"))["attributes"]);
        self.write("terraform.tfstate", &state.to_string());
    }

    /// Every resource in the state.
    pub(crate) fn state(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .terraform(&["state", "list"])
            .text
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    /// One attribute of one resource in the state, as JSON.
    pub(crate) fn attribute(&self, address: &str, name: &str) -> Value {
        let output = self.command(&["show", "-json"]).output().unwrap();
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        let resources = state["values"]["root_module"]["resources"]
            .as_array()
            .unwrap()
            .clone();
        let resource = resources
            .iter()
            .find(|resource| resource["address"] == address);
        resource.unwrap_or_else(|| panic!("no {address} in the state"))["values"][name].clone()
    }

    pub(crate) fn lab(&self) -> Lab {
        Lab::open(LabConfig::new(&self.lab)).unwrap()
    }

    /// What the machine has of the lab: containers, namespaces, mounts, and ports of its bridge. A line each, sorted.
    pub(crate) fn traces(&self) -> Vec<String> {
        let name = format!("ondol-{}", self.lab);
        let ours = |word: &str| word == name || word.starts_with(&format!("{name}."));
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            let machine = words
                .split('\0')
                .find_map(|word| word.strip_prefix("--machine="));
            // Beside each container nspawn has a child with its own arguments.
            if let Some(machine) = machine.filter(|machine| ours(machine)) {
                found.push(format!("container {machine}"));
            }
        }
        found.sort();
        found.dedup();
        for entry in std::fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten()
        {
            let file = entry.file_name().to_string_lossy().into_owned();
            if ours(&file) {
                found.push(format!("namespace {file}"));
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = format!("/labs/{}/", self.lab);
        let mounts = mounts.lines().filter(|line| line.contains(&below));
        found.extend(mounts.map(|line| format!("mount {line}")));
        let ports = self.lab().in_network(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let names = text.lines().filter_map(|line| line.split_once(':'));
            names
                .filter(|(name, _)| !["lo", "ondol0"].contains(&name.trim()))
                .count()
        });
        found.extend(std::iter::repeat_n("port".to_owned(), ports.unwrap_or(0)));
        found.sort();
        found
    }

    /// Runs a command in a guest, around SSH.
    #[track_caller]
    pub(crate) fn guest(&self, vm: &str, script: &str) -> String {
        let output = self.lab().exec(vm, &["sh", "-c", script], b"").unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            let _ = write!(
                text,
                " ({}: {})",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        text
    }

    /// Whether the guest's SSH server answers on an address, asked from inside the lab's network.
    pub(crate) fn answers(&self, address: &str) -> bool {
        let to = format!("{address}:22").parse().unwrap();
        self.lab().connect(to, Duration::from_secs(3)).is_ok()
    }
}

/// Files of a configuration; what Terraform itself keeps beside them stays behind.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if path.is_dir() && !name.starts_with('.') {
            copy_tree(&path, &to.join(&*name));
        } else if path.is_file() && !name.starts_with(['.', '_']) && !name.contains("tfstate") {
            std::fs::copy(&path, to.join(&*name)).unwrap();
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = self.lab().destroy() {
            eprintln!("lab {} could not be destroyed: {error}", self.lab);
        }
    }
}

/// Waits until `condition` holds; false when it does not within `patience`.
pub(crate) fn eventually(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

/// The provider's processes below a running terraform.
pub(crate) fn provider_of(terraform: &Child) -> Vec<i32> {
    let parent = terraform.id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // pid (comm) state ppid; comm is cut to 15 characters.
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            continue;
        };
        let (Some((pid, comm)), Some(ppid)) = (head.split_once(" ("), tail.split(' ').nth(1))
        else {
            continue;
        };
        if comm.starts_with("terraform-provi") && ppid == parent {
            found.extend(pid.parse::<i32>());
        }
    }
    found
}
