//! Runs the real Terraform on a configuration of its own, with the sample provider in place of a registry. It uses no
//! network and touches nothing outside its temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const PROVIDER: &str = env!("CARGO_BIN_EXE_terraform-provider-sample");

pub(crate) struct Terraform {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

/// What Terraform printed.
pub(crate) struct Run {
    pub(crate) success: bool,
    pub(crate) output: String,
}

impl Run {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.success, "terraform failed:\n{}", self.output);
        self
    }

    #[track_caller]
    pub(crate) fn failed(self) -> Self {
        assert!(!self.success, "terraform succeeded:\n{}", self.output);
        self
    }

    /// Terraform breaks its lines where it likes, so words are compared, not lines.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.contains(text), "{text:?} is not in:\n{}", self.output);
        self
    }

    #[track_caller]
    pub(crate) fn hides(self, text: &str) -> Self {
        assert!(!self.contains(text), "{text:?} is in:\n{}", self.output);
        self
    }

    fn contains(&self, text: &str) -> bool {
        let words = |text: &str| {
            let words = text.split(|c: char| c.is_whitespace() || "│╷╵".contains(c));
            words
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        };
        words(&self.output).contains(&words(text))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            success: output.status.success(),
            output: text(&output.stdout) + &text(&output.stderr),
        }
    }
}

impl Terraform {
    /// A folder with this configuration, beside the one that stands for the machine.
    pub(crate) fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["bin", "machine", "work"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        std::os::unix::fs::symlink(
            PROVIDER,
            folder.path().join("bin/terraform-provider-sample"),
        )
        .expect("a link");
        let settings = format!(
            "provider_installation {{\n  dev_overrides {{\n    \"ondol/sample\" = {:?}\n  }}\n}}\n",
            folder.path().join("bin")
        );
        std::fs::write(folder.path().join("terraformrc"), settings).expect("a file");
        let terraform = Self {
            folder,
            environment: Vec::new(),
        };
        terraform.configure(configuration);
        terraform
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Replaces the configuration. The provider is configured already.
    pub(crate) fn configure(&self, configuration: &str) {
        let machine = self.machine();
        let text = format!(
            "terraform {{\n  required_providers {{\n    sample = {{ source = \"ondol/sample\" }}\n  }}\n}}\n\
             provider \"sample\" {{\n  directory = {machine:?}\n}}\n{configuration}\n"
        );
        self.configure_all(&text);
    }

    /// Replaces the configuration, provider block included.
    pub(crate) fn configure_all(&self, text: &str) {
        std::fs::write(self.work().join("main.tf"), text).expect("a file");
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn machine(&self) -> PathBuf {
        self.folder.path().join("machine")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("terraform");
        command
            .args(arguments)
            .current_dir(self.work())
            .env("TF_CLI_CONFIG_FILE", self.folder.path().join("terraformrc"))
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1")
            .env_remove("TF_LOG")
            .env_remove("TF_LOG_PROVIDER")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output();
        output.expect("terraform is on the PATH").into()
    }

    pub(crate) fn validate(&self) -> Run {
        self.run(&["validate", "-no-color"])
    }

    pub(crate) fn apply(&self) -> Run {
        self.run(&["apply", "-auto-approve", "-no-color"])
    }

    pub(crate) fn destroy(&self) -> Run {
        self.run(&["destroy", "-auto-approve", "-no-color"])
    }

    pub(crate) fn plan(&self) -> Run {
        self.run(&["plan", "-no-color", "-out=plan"])
    }

    /// What a plan would change at this address.
    #[track_caller]
    pub(crate) fn planned(&self, address: &str) -> Value {
        self.plan().succeeded();
        let plan = self.json(&["show", "-json", "plan"]);
        let changes = plan["resource_changes"]
            .as_array()
            .expect("a plan has changes");
        let found = changes.iter().find(|change| change["address"] == address);
        found.unwrap_or_else(|| panic!("nothing is planned for {address}"))["change"].clone()
    }

    /// The attributes at this address in the state.
    #[track_caller]
    pub(crate) fn state(&self, address: &str) -> Value {
        let state = self.json(&["show", "-json"]);
        let resources = state["values"]["root_module"]["resources"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = resources
            .into_iter()
            .find(|resource| resource["address"] == address);
        found.unwrap_or_else(|| panic!("{address} is not in the state: {state}"))["values"].clone()
    }

    /// Everything that Terraform wrote down.
    pub(crate) fn state_file(&self) -> String {
        std::fs::read_to_string(self.work().join("terraform.tfstate")).expect("a state")
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self
            .command(arguments)
            .output()
            .expect("terraform is on the PATH");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub(crate) fn outputs(&self) -> Value {
        self.json(&["output", "-json"])
    }

    /// Nothing is left to do.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let run = self.run(&["plan", "-no-color", "-detailed-exitcode"]);
        assert!(run.success, "there is something to do:\n{}", run.output);
    }

    /// What the machine wrote into its diary.
    pub(crate) fn diary(&self) -> String {
        std::fs::read_to_string(self.machine().join("diary")).unwrap_or_default()
    }

    /// Starts Terraform and returns when the machine's diary has this line.
    pub(crate) fn begin(&self, arguments: &[&str], line: &str) -> Child {
        let child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("terraform is on the PATH");
        let began = Instant::now();
        while !self.diary().contains(line) {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{line:?} never came"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

/// The provider processes below a process.
pub(crate) fn providers_of(terraform: u32) -> Vec<u32> {
    let children = |id: u32| {
        let threads = Path::new("/proc").join(id.to_string()).join("task");
        let threads = std::fs::read_dir(threads).into_iter().flatten().flatten();
        let lists = threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        lists
            .flat_map(|list| {
                list.split_whitespace()
                    .filter_map(|id| id.parse().ok())
                    .collect::<Vec<u32>>()
            })
            .collect::<Vec<_>>()
    };
    let is_provider = |id: &u32| {
        std::fs::read_to_string(format!("/proc/{id}/comm"))
            .is_ok_and(|name| name.starts_with("terraform-provi"))
    };
    children(terraform)
        .into_iter()
        .filter(is_provider)
        .collect()
}

pub(crate) fn signal(id: u32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &id.to_string()])
        .status();
    assert!(status.expect("kill is on the PATH").success());
}
