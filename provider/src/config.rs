//! The `provider "ondol"` block, and what it becomes: an engine for each host and the shared SSH connections.
//!
//! Nothing is contacted here; a host is looked at when something on it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use ondol_lab::LabConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostic, Diagnostics, Key, Path, attribute, path};

use crate::diagnostics::complain;
use crate::engine::Engine;
use crate::engines::lab::{LabEngine, SharedLab};
use crate::ssh::Pool;

/// Names the default lab, as for the `ondol-lab` command.
const LAB_VARIABLE: &str = "ONDOL_LAB";
const DEFAULT_LAB: &str = "ondol";

/// Manages the VMs of a private cloud on the hosts that carry them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The hosts that carry VMs. Their keys are what `host` attributes name.
    #[schemars(transform = attribute::required)]
    pub hosts: Attr<BTreeMap<String, Host>>,
    /// The lab of hosts with `engine = "lab"` that do not name another.
    pub lab: Attr<LabSettings>,
}

/// One host.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// What runs its VMs. This version knows `lab`.
    #[schemars(transform = attribute::required)]
    pub engine: Attr<String>,
    /// Settings of this host's lab, where they differ from the provider's `lab`.
    pub lab: Attr<LabSettings>,
}

/// A lab: a network of its own on the machine that runs Terraform, with containers for VMs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct LabSettings {
    /// The lab's name: a lower-case letter, then up to 15 letters, digits and hyphens. Default: the environment
    /// variable `ONDOL_LAB`, else `ondol`.
    pub name: Attr<String>,
    /// Addresses of the lab's gateway, each with its prefix length. Default: `["192.168.10.1/24"]`.
    pub gateways: Attr<Vec<String>>,
    /// Where the VMs' disks are kept. Default: `/var/lib/ondol`.
    pub state_dir: Attr<String>,
    /// Where run-time files are kept. Default: `/run/ondol`.
    pub run_dir: Attr<String>,
}

impl LabSettings {
    /// What a host says, and for the rest what the provider says.
    fn or(&self, other: &Self) -> Self {
        fn pick<T: Clone>(first: &Attr<T>, second: &Attr<T>) -> Attr<T> {
            if first.is_null() {
                second.clone()
            } else {
                first.clone()
            }
        }
        Self {
            name: pick(&self.name, &other.name),
            gateways: pick(&self.gateways, &other.gateways),
            state_dir: pick(&self.state_dir, &other.state_dir),
            run_dir: pick(&self.run_dir, &other.run_dir),
        }
    }

    fn is_known(&self) -> bool {
        !(self.name.is_unknown()
            || self.gateways.is_unknown()
            || self.state_dir.is_unknown()
            || self.run_dir.is_unknown())
    }

    fn to_config(&self, variable: Option<&str>) -> LabConfig {
        let name = self
            .name
            .as_str()
            .or(variable.filter(|name| !name.is_empty()))
            .unwrap_or(DEFAULT_LAB);
        let mut config = LabConfig::new(name);
        if let Some(gateways) = self.gateways.known() {
            config.gateway = gateways
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect();
        }
        if let Some(directory) = self.state_dir.known() {
            config.state_dir = PathBuf::from(directory);
        }
        if let Some(directory) = self.run_dir.known() {
            config.run_dir = PathBuf::from(directory);
        }
        config
    }

    fn validate(&self, at: &Path, diagnostics: &mut Diagnostics) {
        if let Some(name) = self.name.known()
            && !is_lab_name(name)
        {
            complain(
                diagnostics,
                at.child("name"),
                format!("{name:?} cannot name a lab"),
                "A lab's name is a lower-case letter followed by at most 15 lower-case letters, digits and hyphens.",
            );
        }
        for (index, gateway) in self.gateways.known().into_iter().flatten().enumerate() {
            if gateway.parse::<Ipv4Net>().is_err() {
                complain(
                    diagnostics,
                    at.child("gateways").child(index),
                    format!("{gateway:?} is not an IPv4 address with its prefix length"),
                    "Write it like \"192.168.10.1/24\".",
                );
            }
        }
        for (name, value) in [("state_dir", &self.state_dir), ("run_dir", &self.run_dir)] {
            if let Some(directory) = value.known()
                && !directory.starts_with('/')
            {
                complain(
                    diagnostics,
                    at.child(name),
                    format!("{directory:?} is not an absolute path"),
                    "Terraform may run in any directory: write the path from the root.",
                );
            }
        }
    }
}

fn is_lab_name(name: &str) -> bool {
    name.len() <= 16
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Checks everything about the block that is known by now.
pub fn validate(config: &Config, diagnostics: &mut Diagnostics) {
    if let Some(settings) = config.lab.known() {
        settings.validate(&path!["lab"], diagnostics);
    }
    for (name, host) in config.hosts.known().into_iter().flatten() {
        let at = path!["hosts", Key(name)];
        if let Some(settings) = host.lab.known() {
            settings.validate(&at.child("lab"), diagnostics);
        }
        match host.engine.as_str() {
            None | Some("lab") => {}
            Some("virtualbox") => complain(
                diagnostics,
                at.child("engine"),
                "The virtualbox engine is not in this version",
                format!(
                    "hosts[{name:?}].engine is \"virtualbox\". This version of the provider supports engine = \"lab\" only."
                ),
            ),
            Some(other) => complain(
                diagnostics,
                at.child("engine"),
                format!("{other:?} is not an engine"),
                format!(
                    "hosts[{name:?}].engine must be \"lab\": it is the engine that this version supports."
                ),
            ),
        }
    }
}

/// What resources work with.
pub struct Cloud {
    /// `None` while the configuration is not known yet.
    hosts: Option<BTreeMap<String, Arc<dyn Engine>>>,
    /// Where labs of this machine may keep their VMs, as far as the configuration tells.
    state_dirs: BTreeSet<PathBuf>,
    pub ssh: Pool,
}

impl Cloud {
    pub fn new(config: &Config) -> Result<Self, Diagnostics> {
        let mut diagnostics = Diagnostics::new();
        validate(config, &mut diagnostics);
        let variable = std::env::var(LAB_VARIABLE).ok();
        let hosts = engines(config, variable.as_deref(), &mut diagnostics);
        diagnostics.into_result()?;
        Ok(Self {
            hosts,
            state_dirs: state_dirs(config),
            ssh: Pool::default(),
        })
    }

    /// True when it can be said whether a host exists.
    pub fn is_known(&self) -> bool {
        self.hosts.is_some()
    }

    /// The default and every configured state directory of a lab.
    pub fn state_dirs(&self) -> BTreeSet<PathBuf> {
        self.state_dirs.clone()
    }

    /// All hosts by name; empty while the configuration is not known.
    pub fn engines(&self) -> impl Iterator<Item = (&String, &Arc<dyn Engine>)> {
        self.hosts.iter().flatten()
    }

    /// The engine of a host. `at` is the attribute that names it.
    pub fn engine(&self, host: &str, at: Path) -> Result<Arc<dyn Engine>, Diagnostic> {
        let Some(hosts) = &self.hosts else {
            return Err(Diagnostic::error("The provider's hosts are not known yet")
                .detail("The provider's `hosts` depends on something that is not created yet. Give it values that are known before apply.")
                .at(at));
        };
        hosts
            .get(host)
            .cloned()
            .ok_or_else(|| unknown_host(host, hosts.keys(), at))
    }
}

fn state_dirs(config: &Config) -> BTreeSet<PathBuf> {
    let of_hosts = config
        .hosts
        .known()
        .into_iter()
        .flatten()
        .filter_map(|(_, host)| host.lab.known());
    let mut found: BTreeSet<PathBuf> = config
        .lab
        .known()
        .into_iter()
        .chain(of_hosts)
        .filter_map(|settings| settings.state_dir.known())
        .map(PathBuf::from)
        .collect();
    found.insert(LabConfig::default().state_dir);
    found
}

fn unknown_host<'a>(host: &str, known: impl Iterator<Item = &'a String>, at: Path) -> Diagnostic {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let list = if known.is_empty() {
        "it has no hosts".to_owned()
    } else {
        format!("it has {}", known.join(", "))
    };
    Diagnostic::error(format!("No host {host:?}"))
        .detail(format!("{host:?} is not a key of the provider's `hosts`: {list}. Add it there or name one of these."))
        .at(at)
}

fn engines(
    config: &Config,
    variable: Option<&str>,
    diagnostics: &mut Diagnostics,
) -> Option<BTreeMap<String, Arc<dyn Engine>>> {
    let hosts = config.hosts.known()?;
    let default = LabSettings::default();
    let provider_lab = match &config.lab {
        Attr::Known(settings) => settings,
        Attr::Null => &default,
        Attr::Unknown => return None,
    };
    let mut labs: BTreeMap<String, (LabConfig, SharedLab, &str)> = BTreeMap::new();
    let mut engines: BTreeMap<String, Arc<dyn Engine>> = BTreeMap::new();
    for (name, host) in hosts {
        if host.engine.is_unknown() || host.lab.is_unknown() {
            return None;
        }
        let settings = host.lab.known().unwrap_or(&default).or(provider_lab);
        if !settings.is_known() {
            return None;
        }
        let lab = settings.to_config(variable);
        let (first, shared, owner) = labs
            .entry(lab.name.clone())
            .or_insert_with(|| (lab.clone(), SharedLab::new(lab.clone()), name));
        if !same_lab(first, &lab) {
            complain(
                diagnostics,
                path!["hosts", Key(name), "lab"],
                format!("The lab {:?} is described in two ways", lab.name),
                format!(
                    "hosts[{name:?}] and hosts[{owner:?}] name the same lab with different gateways or directories. Make them equal, or give one of them another lab.name."
                ),
            );
        }
        engines.insert(
            name.clone(),
            Arc::new(LabEngine::new(name.clone(), shared.clone())),
        );
    }
    Some(engines)
}

fn same_lab(a: &LabConfig, b: &LabConfig) -> bool {
    (&a.gateway, &a.state_dir, &a.run_dir) == (&b.gateway, &b.state_dir, &b.run_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(engine: &str) -> Host {
        Host {
            engine: engine.into(),
            lab: Attr::Null,
        }
    }

    fn config(hosts: impl IntoIterator<Item = (&'static str, Host)>) -> Config {
        Config {
            hosts: hosts
                .into_iter()
                .map(|(name, host)| (name.to_owned(), host))
                .collect::<BTreeMap<_, _>>()
                .into(),
            lab: Attr::Null,
        }
    }

    fn problems(config: &Config) -> Vec<String> {
        let mut diagnostics = Diagnostics::new();
        validate(config, &mut diagnostics);
        diagnostics
            .iter()
            .map(|diagnostic| format!("{}: {}", diagnostic.path, diagnostic.summary))
            .collect()
    }

    #[test]
    fn labs_are_looked_for_in_the_default_and_in_every_configured_directory() {
        let settings = |directory: &str| LabSettings {
            state_dir: directory.into(),
            ..LabSettings::default()
        };
        let mut configured = config([
            ("srv-01", host("lab")),
            (
                "srv-02",
                Host {
                    lab: settings("/b").into(),
                    ..host("lab")
                },
            ),
        ]);
        configured.lab = settings("/a").into();
        let found = state_dirs(&configured);
        assert_eq!(
            found,
            ["/a", "/b", "/var/lib/ondol"].map(PathBuf::from).into()
        );
    }

    #[test]
    fn an_engine_that_this_version_lacks_names_its_host() {
        assert_eq!(problems(&config([("srv-01", host("lab"))])), [""; 0]);
        assert_eq!(
            problems(&config([
                ("srv-01", host("virtualbox")),
                ("srv-02", host("kvm"))
            ])),
            [
                "hosts[\"srv-01\"].engine: The virtualbox engine is not in this version",
                "hosts[\"srv-02\"].engine: \"kvm\" is not an engine",
            ]
        );
    }

    #[test]
    fn lab_settings_are_checked_where_they_stand() {
        let mut wrong = config([("srv-01", host("lab"))]);
        wrong.lab = LabSettings {
            name: "My Lab".into(),
            gateways: vec!["192.168.10.1".to_owned()].into(),
            state_dir: "var".into(),
            run_dir: Attr::Null,
        }
        .into();
        assert_eq!(
            problems(&wrong),
            [
                "lab.name: \"My Lab\" cannot name a lab",
                "lab.gateways[0]: \"192.168.10.1\" is not an IPv4 address with its prefix length",
                "lab.state_dir: \"var\" is not an absolute path",
            ]
        );
    }

    #[test]
    fn a_host_that_is_not_there_is_met_with_those_that_are() {
        let cloud = Cloud::new(&config([("srv-01", host("lab")), ("srv-02", host("lab"))]))
            .unwrap_or_else(|d| panic!("{d:?}"));
        let error = cloud.engine("srv-03", path!["host"]).err().unwrap();
        assert_eq!(error.path, path!["host"]);
        assert!(
            error.detail.contains("it has srv-01, srv-02"),
            "{}",
            error.detail
        );
        assert!(cloud.engine("srv-02", path!["host"]).is_ok());
    }

    #[test]
    fn one_lab_cannot_have_two_descriptions() {
        let elsewhere = Host {
            engine: "lab".into(),
            lab: LabSettings {
                state_dir: "/srv/other".into(),
                ..LabSettings::default()
            }
            .into(),
        };
        let error = Cloud::new(&config([("srv-01", host("lab")), ("srv-02", elsewhere)]))
            .err()
            .unwrap();
        assert_eq!(
            error.iter().next().unwrap().path,
            path!["hosts", Key("srv-02"), "lab"]
        );
    }

    #[test]
    fn what_is_not_known_yet_is_not_judged() {
        let unknown = Config {
            hosts: Attr::Unknown,
            lab: Attr::Null,
        };
        let cloud = Cloud::new(&unknown).unwrap_or_else(|d| panic!("{d:?}"));
        assert!(!cloud.is_known());
    }
}
