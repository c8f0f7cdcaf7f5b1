//! The `provider "ondol"` block, and what it becomes: an engine for each host and the shared SSH connections.
//!
//! Nothing is contacted here; a host is looked at when something on it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use ondol_lab::LabConfig;
use ondol_virtualbox::Options;
use ondol_virtualbox::image::Images;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostic, Diagnostics, Key, Path, attribute, path};

use crate::diagnostics::complain;
use crate::engine::{Attachment, Engine};
use crate::engines::lab::{LabEngine, SharedLab};
use crate::engines::virtualbox::{SshHost, VirtualBoxEngine};
use crate::ssh::{Credential, HostKeyPolicy, Pool, Secret, parse_pin};

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
    /// What runs its VMs: `virtualbox`, or `lab` for containers on the machine that runs Terraform.
    #[schemars(transform = attribute::required)]
    pub engine: Attr<String>,
    /// How to reach a host with `engine = "virtualbox"`. Left out, it is the machine that runs Terraform.
    pub ssh: Attr<HostSsh>,
    /// Settings of this host's VirtualBox.
    pub virtualbox: Attr<VirtualBoxSettings>,
    /// Settings of this host's lab, where they differ from the provider's `lab`.
    pub lab: Attr<LabSettings>,
}

/// How to log in to a host, as the user that owns the VMs. What is given of keys, agent and password is tried in that order.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct HostSsh {
    /// The host's name or address.
    #[schemars(transform = attribute::required)]
    pub address: Attr<String>,
    /// TCP port. Default: 22.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Attr<u16>,
    /// The user whose VMs they are: VirtualBox keeps a registry for each user.
    #[schemars(transform = attribute::required)]
    pub user: Attr<String>,
    /// The host's public key, `ssh-ed25519 AAAA...`. This or `known_hosts_file` is needed: no key is accepted unseen.
    pub host_key: Attr<String>,
    /// A known_hosts file that has the host's key for its IP address.
    pub known_hosts_file: Attr<String>,
    /// A private key file.
    pub private_key_file: Attr<String>,
    /// The text of a private key.
    #[schemars(transform = attribute::sensitive)]
    pub private_key: Attr<String>,
    /// The passphrase of the private key.
    #[schemars(transform = attribute::sensitive)]
    pub private_key_passphrase: Attr<String>,
    /// Offer the keys of the SSH agent that SSH_AUTH_SOCK names.
    pub agent: Attr<bool>,
    /// The user's password.
    #[schemars(transform = attribute::sensitive)]
    pub password: Attr<String>,
}

impl HostSsh {
    fn is_known(&self) -> bool {
        let texts = [
            &self.address,
            &self.user,
            &self.host_key,
            &self.known_hosts_file,
            &self.private_key_file,
            &self.private_key,
            &self.private_key_passphrase,
            &self.password,
        ];
        !texts.iter().any(|text| text.is_unknown())
            && !self.port.is_unknown()
            && !self.agent.is_unknown()
    }

    fn validate(&self, at: &Path, diagnostics: &mut Diagnostics) {
        for (name, value) in [("address", &self.address), ("user", &self.user)] {
            if value.as_str() == Some("") {
                complain(
                    diagnostics,
                    at.child(name),
                    format!("{name} is empty"),
                    "Say whom to reach, and as whom.",
                );
            }
        }
        if self.host_key.is_null() && self.known_hosts_file.is_null() {
            complain(
                diagnostics,
                at.child("host_key"),
                "The host's key is not pinned",
                "Set host_key (`ssh-keyscan -t ed25519` on the host's own network shows it) or known_hosts_file: a key that nobody vouches for is not accepted.",
            );
        }
        if let Some(key) = self.host_key.known()
            && let Err(error) = parse_pin(key)
        {
            let detail = crate::diagnostics::sentence(&error.to_string());
            let summary = "host_key is not a public key";
            complain(diagnostics, at.child("host_key"), summary, detail);
        }
        let nothing = self.private_key_file.is_null()
            && self.private_key.is_null()
            && self.password.is_null()
            && !self.agent.is_unknown()
            && self.agent != true.into();
        if nothing {
            complain(
                diagnostics,
                at.clone(),
                "There is no way to log in",
                "Set one of private_key_file, private_key, agent = true and password.",
            );
        }
    }

    /// `None` where the host's key is not pinned, which was complained about.
    fn to_host(&self) -> Option<SshHost> {
        let host_key = match (self.host_key.known(), self.known_hosts_file.known()) {
            (Some(key), _) => HostKeyPolicy::Pinned(key.clone()),
            (None, Some(file)) => HostKeyPolicy::KnownHosts(expand_home(file)),
            (None, None) => return None,
        };
        let passphrase = self.private_key_passphrase.known().map(Secret::new);
        let key_file = self
            .private_key_file
            .known()
            .map(|path| Credential::KeyFile {
                path: expand_home(path),
                passphrase: passphrase.clone(),
            });
        let key = self.private_key.known().map(|text| Credential::Key {
            text: Secret::new(text),
            passphrase: passphrase.clone(),
        });
        let agent = (self.agent == true.into()).then_some(Credential::Agent { socket: None });
        let password = self
            .password
            .known()
            .map(|it| Credential::Password(Secret::new(it)));
        Some(SshHost {
            address: self.address.known()?.clone(),
            port: self.port.unwrap_or(22),
            user: self.user.known()?.clone(),
            credentials: [key_file, key, agent, password]
                .into_iter()
                .flatten()
                .collect(),
            host_key,
        })
    }
}

fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// A host's VirtualBox.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct VirtualBoxSettings {
    /// The adapter of the host that VMs are bridged with unless they say otherwise: on Linux the interface's name, on Windows the
    /// adapter's description. `VBoxManage list bridgedifs` shows them. Left out, adapters that do not say get NAT.
    pub bridged_adapter: Attr<String>,
    /// Where VBoxManage is, if it is neither on PATH nor where VirtualBox installs it.
    pub vboxmanage: Attr<String>,
}

impl VirtualBoxSettings {
    fn to_options(&self) -> Options {
        Options {
            vboxmanage: self.vboxmanage.known().cloned(),
            default_attachment: match self.bridged_adapter.known() {
                Some(name) => Attachment::Bridged(name.clone()),
                None => Attachment::Nat,
            },
        }
    }
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
            None => {}
            Some("lab") => {
                for (attribute, is_set) in [
                    ("ssh", !host.ssh.is_null()),
                    ("virtualbox", !host.virtualbox.is_null()),
                ] {
                    if is_set {
                        complain(
                            diagnostics,
                            at.child(attribute),
                            format!("A lab has no {attribute}"),
                            format!(
                                "hosts[{name:?}] has engine = \"lab\", which is on the machine that runs Terraform. Leave {attribute} out, or set engine = \"virtualbox\"."
                            ),
                        );
                    }
                }
            }
            Some("virtualbox") => {
                if let Some(ssh) = host.ssh.known() {
                    ssh.validate(&at.child("ssh"), diagnostics);
                }
                if !host.lab.is_null() {
                    complain(
                        diagnostics,
                        at.child("lab"),
                        "VirtualBox has no lab",
                        format!(
                            "hosts[{name:?}] has engine = \"virtualbox\". Leave lab out, or set engine = \"lab\"."
                        ),
                    );
                }
            }
            Some(other) => complain(
                diagnostics,
                at.child("engine"),
                format!("{other:?} is not an engine"),
                format!("hosts[{name:?}].engine must be \"virtualbox\" or \"lab\"."),
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
        let ssh = Pool::default();
        let hosts = engines(config, variable.as_deref(), &ssh, &mut diagnostics);
        diagnostics.into_result()?;
        Ok(Self {
            hosts,
            state_dirs: state_dirs(config),
            ssh,
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
    pool: &Pool,
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
    let images = Images::default();
    for (name, host) in hosts {
        if host.engine.is_unknown() || host.lab.is_unknown() {
            return None;
        }
        if host.engine.as_str() == Some("virtualbox") {
            let engine = virtualbox_engine(name, host, pool, &images)?;
            engines.insert(name.clone(), Arc::new(engine));
            continue;
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

/// `None` while something about the host is unknown, or wrong and complained about.
fn virtualbox_engine(
    name: &str,
    host: &Host,
    pool: &Pool,
    images: &Images,
) -> Option<VirtualBoxEngine> {
    let ssh = match &host.ssh {
        Attr::Unknown => return None,
        Attr::Null => None,
        Attr::Known(ssh) if ssh.is_known() => Some(ssh.to_host()?),
        Attr::Known(_) => return None,
    };
    let options = match &host.virtualbox {
        Attr::Unknown => return None,
        Attr::Null => Options::default(),
        Attr::Known(it) if it.bridged_adapter.is_unknown() || it.vboxmanage.is_unknown() => {
            return None;
        }
        Attr::Known(settings) => settings.to_options(),
    };
    Some(VirtualBoxEngine::new(name, ssh, options, pool, images))
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
            ..Host::default()
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
    fn an_engine_that_there_is_not_names_its_host() {
        assert_eq!(problems(&config([("srv-01", host("lab"))])), [""; 0]);
        assert_eq!(
            problems(&config([
                ("srv-01", host("virtualbox")),
                ("srv-02", host("kvm"))
            ])),
            ["hosts[\"srv-02\"].engine: \"kvm\" is not an engine"]
        );
    }

    #[test]
    fn a_hosts_way_in_is_checked_where_it_stands() {
        let ssh = HostSsh {
            address: "10.0.0.5".into(),
            user: "vbox".into(),
            host_key: "ssh-ed25519 nonsense".into(),
            ..HostSsh::default()
        };
        let over = |engine: &str, ssh: &HostSsh| Host {
            ssh: ssh.clone().into(),
            ..host(engine)
        };
        assert_eq!(
            problems(&config([
                ("srv-01", over("virtualbox", &ssh)),
                ("srv-02", over("virtualbox", &HostSsh::default())),
                ("srv-03", over("lab", &ssh)),
            ])),
            [
                "hosts[\"srv-01\"].ssh.host_key: host_key is not a public key",
                "hosts[\"srv-01\"].ssh: There is no way to log in",
                "hosts[\"srv-02\"].ssh.host_key: The host's key is not pinned",
                "hosts[\"srv-02\"].ssh: There is no way to log in",
                "hosts[\"srv-03\"].ssh: A lab has no ssh",
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
            ..Host::default()
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
