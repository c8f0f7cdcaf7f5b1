//! A whole site for a test: its own lab, state, keys, topology and report, made and removed by the repository's Makefile.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A site whose lab is called `name`. Dropping it destroys the lab, so that a failed test leaves nothing behind.
#[derive(Debug)]
pub struct Site {
    name: String,
    directory: PathBuf,
    environment: Vec<(String, String)>,
}

impl Site {
    /// A new site from the specification's topology. A lab of the same name, left by an interrupted run, is destroyed first.
    pub fn new(name: &str) -> Result<Self> {
        let site = Site::at(name);
        site.make(&["lab-destroy"])?;
        fs::create_dir_all(&site.directory).context("create the site's directory")?;
        fs::copy(
            repository().join("terraform/topology.yaml"),
            site.topology(),
        )
        .context("copy the topology")?;
        Ok(site)
    }

    fn at(name: &str) -> Self {
        let directory = repository().join("target/sites").join(name);
        Site {
            name: name.to_owned(),
            directory,
            environment: Vec::new(),
        }
    }

    /// Gives a variable of Terraform's root module a value from now on, as text or as HCL.
    pub fn set(&mut self, variable: &str, value: &str) {
        let name = format!("TF_VAR_{variable}");
        self.environment.push((name, value.to_owned()));
    }

    /// Leaves a variable of Terraform's root module to its default again.
    pub fn unset(&mut self, variable: &str) {
        let name = format!("TF_VAR_{variable}");
        self.environment.retain(|(set, _)| *set != name);
    }

    /// Where this site's files are, beside what `make` keeps there.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The topology that this site is built from: the test's own copy, to edit.
    pub fn topology(&self) -> PathBuf {
        self.directory.with_extension("topology.yaml")
    }

    pub fn report(&self) -> PathBuf {
        self.directory.with_extension("report")
    }

    /// Replaces one piece of the topology's text, which must be there exactly once.
    pub fn edit_topology(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.topology()).context("read the topology")?;
        ensure!(
            text.matches(from).count() == 1,
            "{from:?} is not in the topology exactly once"
        );
        fs::write(self.topology(), text.replace(from, to)).context("write the topology")
    }

    /// Leaves only these machines in the topology, for a test of one stage. Every line of a machine is one line of the file.
    pub fn keep_machines(&self, wanted: &[&str]) -> Result<()> {
        let text = fs::read_to_string(self.topology()).context("read the topology")?;
        let (text, kept) = only(&text, wanted);
        ensure!(
            kept == wanted.len(),
            "the topology has {kept} of {wanted:?}"
        );
        fs::write(self.topology(), text).context("write the topology")
    }

    /// `make TARGETS` for this site, as a user types it. Fails, with all it printed, unless it exits with 0.
    pub fn make(&self, targets: &[&str]) -> Result<String> {
        let mut command = Command::new("make");
        command
            .arg("--no-print-directory")
            .args(targets)
            .arg(format!("LAB={}", self.name))
            .arg(format!("SITE={}", self.directory.display()))
            .arg(format!("TOPOLOGY={}", self.topology().display()))
            .arg(format!("REPORT={}", self.report().display()))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            .current_dir(repository());
        // What cargo tells a test about its own package; a build script that looks at it would build everything anew.
        let of_a_test = |name: &str| {
            ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_", "NEXTEST"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(of_a_test) {
                command.env_remove(name);
            }
        }
        succeeded(command)
    }

    /// A program in the environment that `make lab` leaves in the site's `env` file.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .args([
                "-euc",
                &format!(". {}/env; {script}", self.directory.display()),
            ])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(repository())
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell line in the site's environment, whatever it exits with.
    pub fn run(&self, script: &str) -> Result<Output> {
        self.command(script)
            .output()
            .with_context(|| format!("run {script}"))
    }

    /// Runs a shell line in the site's environment and gives what it printed; fails unless it exits with 0.
    pub fn must(&self, script: &str) -> Result<String> {
        succeeded(self.command(script))
    }

    /// Terraform's plan as `terraform show -json` prints it.
    pub fn plan(&self) -> Result<Value> {
        let file = self.directory.join("test.tfplan");
        self.must(&format!(
            "terraform -chdir=terraform/lab plan -input=false -no-color -out={0} >/dev/null && terraform -chdir=terraform/lab show -json {0}",
            file.display()
        ))
        .and_then(|text| serde_json::from_str(&text).context("parse the plan"))
    }

    pub fn apply(&self) -> Result<String> {
        self.must("terraform -chdir=terraform/lab apply -auto-approve -input=false -no-color -parallelism=40")
    }

    /// A section of the report, which must be green as a whole.
    pub fn section(&self, name: &str) -> Result<Value> {
        let report = self.report().join("report.json");
        let text = fs::read_to_string(report).context("read the report's JSON twin")?;
        let twin: Value = serde_json::from_str(&text).context("parse the report's JSON twin")?;
        let verdict = &twin["verdict"];
        ensure!(
            verdict["ok"] == Value::Bool(true),
            "the report is not green: {verdict:#}"
        );
        let sections = twin["sections"].as_array().into_iter().flatten();
        let named: Vec<&Value> = sections.filter(|it| it["name"] == name).collect();
        ensure!(
            named.len() == 1,
            "{} sections are called {name:?}",
            named.len()
        );
        Ok(named[0].clone())
    }

    /// The passwords and keys that the stages made here, by the names of their files, which only their owner may read. What is public is
    /// left out.
    pub fn secrets(&self) -> Result<BTreeMap<String, String>> {
        let directory = self.directory.join("secrets");
        let mode = |path: &Path| -> Result<u32> {
            let metadata = fs::metadata(path).context("look at the secrets")?;
            Ok(metadata.permissions().mode() & 0o777)
        };
        ensure!(
            mode(&directory)? == 0o700,
            "others can list {}",
            directory.display()
        );
        let mut secrets = BTreeMap::new();
        for entry in fs::read_dir(&directory).context("list the secrets")? {
            let path = entry.context("list the secrets")?.path();
            ensure!(mode(&path)? == 0o600, "others can read {}", path.display());
            let text = fs::read_to_string(&path).context("read a secret")?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".pem") {
                continue;
            }
            // Of a key, the first line of what is secret of it; of a password, all but what Ansible keeps beside it.
            let line = text.lines().nth(usize::from(name.ends_with(".key")));
            let secret = line.and_then(|line| line.split_whitespace().next());
            let secret = secret.with_context(|| format!("the secret {name} is empty"))?;
            ensure!(secret.len() >= 16, "the secret {name} is none");
            secrets.insert(name.into_owned(), secret.to_owned());
        }
        Ok(secrets)
    }

    /// What a command printed in a VM, run as root in it.
    pub fn shell(&self, vm: &str, command: &str) -> Result<String> {
        self.must(&format!("ondol-lab shell {vm} -- sh -c {}", quote(command)))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = self.make(&["lab-destroy"]) {
            eprintln!("destroy lab {}: {error:#}", self.name);
        }
    }
}

/// The root of this repository, where the Makefile is.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the repository")
}

/// A topology's text without the machines that are not wanted, and how many are left.
fn only(topology: &str, wanted: &[&str]) -> (String, usize) {
    let name = |line: &str| {
        let (name, _) = line.trim().strip_prefix("- { name: ")?.split_once(',')?;
        Some(name.to_owned())
    };
    let is_wanted = |name: &String| wanted.contains(&name.as_str());
    let kept = topology.lines().filter_map(name).filter(is_wanted).count();
    let lines = topology
        .lines()
        .filter(|line| name(line).is_none_or(|name| is_wanted(&name)));
    (lines.map(|line| format!("{line}\n")).collect(), kept)
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

pub(crate) fn succeeded(mut command: Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n{stdout}\n{stderr}",
        output.status
    );
    Ok(stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topology_is_cut_to_the_machines_that_are_wanted() {
        let text = "vms:\n  - { name: a, id: 1 }\n  - { name: ab, id: 2 }\n# end\n";
        assert_eq!(
            only(text, &["ab", "c"]),
            ("vms:\n  - { name: ab, id: 2 }\n# end\n".to_owned(), 1)
        );
    }
}
