//! `mariadb_galera_node`: one data node of a Galera cluster: its configuration, its way into the Primary Component, its restarts.
//!
//! What may be done is decided in `decide`, from the facts of all nodes that the playbook brings; this file turns it into steps.
//! It does not install packages, make users, or open ports, and it logs in to no other machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ondol_kit::{Invalid, Module, Notices, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::facts::{NodeFacts, ServerState};
use crate::instance;
use crate::server::{self, Server};
use crate::settings::{self, Drift};
use crate::wsrep::Position;

mod act;
mod decide;

use decide::{Founder, Rules, Way, way};

/// Make this machine's MariaDB a node of a Galera cluster
///
/// Run it on every node at the same time: the one whose data are the most advanced founds the Primary Component if there is none and C(bootstrap)
/// allows it, the others join it. What it may do follows from `cluster`, the facts of all nodes. It refuses to found a component beside another,
/// to put different histories together, and to take a node that does not answer for one that is gone.
///
/// A running member is restarted only with `allow_restart`, and only while every other node is in the component; run such a task with C(throttle: 1).
/// An arbitrator must not run while a component is founded: with no data node beside it, it turns every node away.
///
/// The server's packages and, for C(mariabackup), C(mariadb-backup) and C(socat) must be installed. The account C(mysql@localhost) that Debian
/// makes is used for the transfer, by its Unix socket: there is no password.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the cluster.
    cluster_name: String,
    /// Name of this node, one of `members`.
    node_name: String,
    /// Addresses of all nodes that hold data, this one among them, by name.
    members: BTreeMap<String, String>,
    /// Addresses of all arbitrators, by name.
    #[serde(default)]
    arbitrators: BTreeMap<String, String>,
    /// What M(ondol.cloud.mariadb_galera_status) returned as `node` on every node, a moment ago.
    cluster: Vec<NodeFacts>,
    /// Found a Primary Component if no node is in one.
    #[serde(default)]
    bootstrap: bool,
    /// Members that do not exist any more, or whose data do not count. Each must be switched off or cut off from all clients.
    #[serde(default)]
    lost_members: Vec<String>,
    /// Let the cluster's data replace what this node holds, if that is not of the cluster's history.
    #[serde(default)]
    discard_local_data: bool,
    /// Restart a running server if its configuration needs it. Without it the module warns.
    #[serde(default)]
    allow_restart: bool,
    /// How a node that lacks too much gets its data.
    #[serde(default)]
    sst_method: SstMethod,
    /// More variables of the server, by name. See its option C(--help --verbose).
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// Options of Galera itself, such as C(gcache.size) or C(pc.weight). The timers C(evs.*) must be the same on all nodes and arbitrators:
    /// otherwise those that are left do not agree on who is gone, and none stays in a Primary Component.
    #[serde(default)]
    provider_options: BTreeMap<String, String>,
    /// Seconds for a node to come into the component, a transfer of all data included.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 10, max = 86_400))]
    timeout_seconds: u32,
}

fn ten_minutes() -> u32 {
    600
}

/// A state snapshot transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SstMethod {
    /// The donor goes on serving.
    #[default]
    Mariabackup,
    /// The donor stops writing meanwhile.
    Rsync,
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    node_name: String,
    rules: Rules,
    arbitrators: BTreeMap<String, String>,
    cluster: Vec<NodeFacts>,
    /// Every variable of the configuration file.
    settings: BTreeMap<String, String>,
    allow_restart: bool,
    patience: Duration,
}

/// Sorts after the files of Debian's package.
const FILE: &str = "80-ondol-galera.cnf";

const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// Variables that other parameters say, or that a Galera node must not have otherwise.
const TAKEN: &[&str] = &[
    "binlog_format",
    "default_storage_engine",
    "innodb_autoinc_lock_mode",
    "wsrep_cluster_address",
    "wsrep_cluster_name",
    "wsrep_node_address",
    "wsrep_node_name",
    "wsrep_on",
    "wsrep_provider",
    "wsrep_provider_options",
    "wsrep_sst_auth",
    "wsrep_sst_method",
];

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if !is_name(&params.cluster_name) || params.cluster_name.len() > 32 {
            return Err(Invalid::new(
                "cluster_name",
                "a cluster's name is made of at most 32 letters, digits, hyphens, underscores and dots",
            ));
        }
        addresses("members", &params.members)?;
        addresses("arbitrators", &params.arbitrators)?;
        let Some(address) = params.members.get(&params.node_name).cloned() else {
            return Err(Invalid::new(
                "node_name",
                format!("{:?} is not one of members", params.node_name),
            ));
        };
        if let Some(name) = params
            .arbitrators
            .keys()
            .find(|it| params.members.contains_key(*it))
        {
            return Err(Invalid::new(
                format!("arbitrators.{name}"),
                "is one of members as well",
            ));
        }
        let lost: BTreeSet<String> = params.lost_members.into_iter().collect();
        if let Some(name) = lost.iter().find(|it| !params.members.contains_key(*it)) {
            return Err(Invalid::new(
                "lost_members",
                format!("{name:?} is not one of members"),
            ));
        }
        for (index, node) in params.cluster.iter().enumerate() {
            let at = || format!("cluster[{index}].name");
            if !params.members.contains_key(&node.name) {
                let reason = format!("{:?} is not one of members", node.name);
                return Err(Invalid::new(at(), reason));
            }
            if params.cluster[..index]
                .iter()
                .any(|it| it.name == node.name)
            {
                return Err(Invalid::new(
                    at(),
                    format!("{:?} is there twice", node.name),
                ));
            }
        }
        let mut settings = settings::check("settings", params.settings, TAKEN)?;
        let all: Vec<&str> = params
            .members
            .values()
            .chain(params.arbitrators.values())
            .map(String::as_str)
            .collect();
        let sst_method = match params.sst_method {
            SstMethod::Mariabackup => "mariabackup",
            SstMethod::Rsync => "rsync",
        };
        for (name, value) in [
            ("binlog_format", "ROW"),
            ("default_storage_engine", "InnoDB"),
            ("innodb_autoinc_lock_mode", "2"),
            (
                "wsrep_cluster_address",
                &format!("gcomm://{}", all.join(",")),
            ),
            ("wsrep_cluster_name", &params.cluster_name),
            ("wsrep_node_address", &address),
            ("wsrep_node_name", &params.node_name),
            ("wsrep_on", "ON"),
            ("wsrep_provider", PROVIDER),
            ("wsrep_sst_method", sst_method),
        ] {
            settings.insert(name.to_owned(), value.to_owned());
        }
        if params.sst_method == SstMethod::Mariabackup {
            settings.insert("wsrep_sst_auth".to_owned(), "mysql:".to_owned());
        }
        let options = provider_options(&params.provider_options)?;
        if !options.is_empty() {
            settings.insert("wsrep_provider_options".to_owned(), options);
        }
        Ok(Self {
            node_name: params.node_name,
            rules: Rules {
                members: params.members,
                lost,
                bootstrap: params.bootstrap,
                discard_local_data: params.discard_local_data,
            },
            arbitrators: params.arbitrators,
            cluster: params.cluster,
            settings,
            allow_restart: params.allow_restart,
            patience: Duration::from_secs(params.timeout_seconds.into()),
        })
    }
}

pub(crate) fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !text.is_empty() && text.bytes().all(plain)
}

pub(crate) fn addresses(param: &str, of: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (name, address) in of {
        let at = || format!("{param}.{name}");
        if !is_name(name) {
            let reason = "a node's name is made of letters, digits, hyphens, underscores and dots";
            return Err(Invalid::new(at(), reason));
        }
        if address.parse::<IpAddr>().is_err() {
            let reason = format!("{address:?} is not an address");
            return Err(Invalid::new(at(), reason));
        }
    }
    Ok(())
}

pub(crate) fn provider_options(options: &BTreeMap<String, String>) -> Result<String, Invalid> {
    let mut parts = Vec::new();
    for (name, value) in options {
        let plain = |text: &str| {
            !text.is_empty() && !text.contains(|it: char| it.is_control() || ";='\"\\".contains(it))
        };
        if !plain(name) || !plain(value) {
            return Err(Invalid::new(
                format!("provider_options.{name}"),
                "names and values hold no semicolons, equals signs, quotes, backslashes or line breaks",
            ));
        }
        parts.push(format!("{name}={value}"));
    }
    Ok(parts.join("; "))
}

/// The node as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Text of the configuration file; nothing if there is none.
    config: Option<String>,
    node: NodeFacts,
    way: Way,
    /// Variables of ours that the server runs with otherwise.
    drift: Vec<Drift>,
    /// The next start would found a new cluster, because of a broken-off foundation.
    armed: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Disarm,
    WriteConfig {
        text: String,
        new: bool,
    },
    SetVariable {
        name: String,
        value: String,
        from: String,
    },
    StopServer {
        why: &'static str,
        patience: Duration,
    },
    Found {
        name: String,
        from: Option<Position>,
        /// It runs on its own now.
        stop: bool,
        /// Nodes that must be silent, with their addresses, and whether they may be out of reach.
        others: Vec<(String, String, bool)>,
        patience: Duration,
    },
    Join {
        name: String,
        founder: Option<Founder>,
        /// It runs on its own now.
        stop: bool,
        patience: Duration,
    },
    Restart {
        name: String,
        why: Vec<String>,
        /// Nodes that the component must have before.
        size: usize,
        patience: Duration,
    },
    AwaitSync {
        name: String,
        patience: Duration,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disarm => write!(
                f,
                "remove {}, which a broken-off bootstrap left",
                server::NEW_CLUSTER_FLAG
            ),
            Self::WriteConfig { new, .. } => {
                let what = if *new { "write" } else { "change" };
                write!(f, "{what} {}", settings::path(FILE).display())
            }
            Self::SetVariable { name, value, from } => {
                write!(f, "set {name} to {value:?} (is {from:?})")
            }
            Self::StopServer { why, .. } => write!(f, "stop the server ({why})"),
            Self::Found { name, from, .. } => match from {
                Some(from) => write!(f, "found the Primary Component on {name}, at {from}"),
                None => write!(f, "found the Primary Component on {name}, a new history"),
            },
            Self::Join { name, founder, .. } => match founder {
                Some(founder) => write!(
                    f,
                    "join {name} to the Primary Component that {} founds",
                    founder.name
                ),
                None => write!(f, "join {name} to the Primary Component"),
            },
            Self::Restart { name, why, .. } => {
                write!(f, "restart {name} for {}", why.join(", "))
            }
            Self::AwaitSync { name, .. } => write!(f, "wait until {name} is synced"),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let name = || desired.node_name.clone();
    let patience = desired.patience;
    let standalone = current.node.server == ServerState::Running && current.node.wsrep.is_none();
    if current.armed {
        steps.push(Step::Disarm);
    }
    let text = settings::render(Galera::NAME, &desired.settings);
    if current.config.as_ref() != Some(&text) {
        steps.push(Step::WriteConfig {
            new: current.config.is_none(),
            text,
        });
    }
    match &current.way {
        Way::Member => {
            for drift in current.drift.iter().filter(|it| it.dynamic) {
                steps.push(Step::SetVariable {
                    name: drift.name.clone(),
                    value: drift.wanted.clone(),
                    from: drift.running.clone(),
                });
            }
            let why = settings::needs_restart(&current.drift);
            if !why.is_empty() && desired.allow_restart {
                steps.push(Step::Restart {
                    name: name(),
                    why,
                    size: expected_size(desired),
                    patience,
                });
            } else if !current.node.is_synced() {
                steps.push(Step::AwaitSync {
                    name: name(),
                    patience,
                });
            }
        }
        Way::Wait => steps.push(Step::AwaitSync {
            name: name(),
            patience,
        }),
        Way::Found { from } => {
            steps.extend(stop(current, patience));
            let lost = |name: &String| desired.rules.lost.contains(name);
            let others = desired.rules.members.iter().chain(&desired.arbitrators);
            steps.push(Step::Found {
                name: name(),
                from: from.clone(),
                stop: standalone,
                others: others
                    .filter(|(other, _)| **other != desired.node_name)
                    .map(|(other, address)| (other.clone(), address.clone(), lost(other)))
                    .collect(),
                patience,
            });
        }
        Way::Join { founder } => {
            steps.extend(stop(current, patience));
            steps.push(Step::Join {
                name: name(),
                founder: founder.clone(),
                stop: standalone,
                patience,
            });
        }
    }
    steps
}

/// A server on its own, as a package starts it, is stopped by the step that makes it a node: that is no act of its own.
fn stop(current: &Current, patience: Duration) -> Option<Step> {
    let why = match (current.node.server, &current.node.wsrep) {
        (ServerState::Absent | ServerState::Stopped, _) | (ServerState::Running, None) => {
            return None;
        }
        (ServerState::Starting, _) => "it waits for a Primary Component in vain",
        (ServerState::Running, Some(_)) => "it is outside of every Primary Component",
    };
    Some(Step::StopServer { why, patience })
}

fn expected_size(desired: &Desired) -> usize {
    desired.rules.members.len() + desired.arbitrators.len() - desired.rules.lost.len()
}

/// A server in use is stopped only when told, and a member only if the component can do without it.
fn may_be_stopped(desired: &Desired, current: &Current) -> anyhow::Result<()> {
    let node = &current.node;
    match &current.way {
        Way::Member => {
            let why = settings::needs_restart(&current.drift);
            let Some(wsrep) = &node.wsrep else {
                return Ok(());
            };
            let size = usize::try_from(wsrep.size).unwrap_or(0);
            ensure!(
                why.is_empty() || !desired.allow_restart || size >= expected_size(desired),
                "{} needs a restart for {}, and only {size} of {} nodes are in the component: it stays as it is until they are back",
                node.name,
                why.join(", "),
                expected_size(desired)
            );
        }
        Way::Found { .. } | Way::Join { .. } => {
            let standalone = node.server == ServerState::Running && node.wsrep.is_none();
            ensure!(
                !standalone || node.databases.is_empty() || desired.allow_restart,
                "{} runs on its own and holds databases ({}): it becomes a member by a restart, which allow_restart allows",
                node.name,
                node.databases.join(", ")
            );
        }
        Way::Wait => {}
    }
    Ok(())
}

/// The module.
#[derive(Debug, Default)]
pub struct Galera {
    notices: Notices,
}

impl Galera {
    const NAME: &'static str = "mariadb_galera_node";

    fn server() -> anyhow::Result<Server> {
        Ok(Server::new(&settings::as_is()?))
    }
}

impl Module for Galera {
    const NAME: &'static str = Self::NAME;
    const EXAMPLES: &'static str = r#"
- name: What every node holds
  ondol.cloud.mariadb_galera_status:
    node_name: "{{ inventory_hostname }}"
    recover: true
  register: galera

- name: The nodes are one cluster; the most advanced one begins
  ondol.cloud.mariadb_galera_node:
    cluster_name: site
    node_name: "{{ inventory_hostname }}"
    members:
      mariadb-db-01: 192.168.10.31
      mariadb-db-02: 192.168.10.32
    arbitrators:
      mariadb-arbiter-01: 192.168.10.33
    cluster: "{{ groups['mariadb'] | map('extract', hostvars) | selectattr('galera.node', 'defined') | map(attribute='galera.node') | list }}"
    bootstrap: true
    settings:
      bind_address: 0.0.0.0
      innodb_buffer_pool_size: 256M
"#;
    /// Found or join; then what only a running server shows.
    const ROUNDS: usize = 2;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let text = settings::render(Self::NAME, &desired.settings);
        // Check mode comes here before the package does.
        let effective = match server::is_installed() {
            false => settings::Effective::new(),
            true => settings::with_file(FILE, &text)
                .map_err(|error| Invalid::new("settings", format!("{error:#}")))?,
        };
        let server = Server::new(&effective);
        let given = desired
            .cluster
            .iter()
            .find(|it| it.name == desired.node_name);
        let mut node = server.facts(&desired.node_name, false)?;
        if let Some(given) = given.filter(|_| !node.position_known) {
            // Recovered by the probe; a server that is down does not move.
            node.position.clone_from(&given.position);
            node.position_known = given.position_known && given.server == node.server;
        }
        let way = way(&desired.rules, &node, &desired.cluster)?;
        let drift = match way {
            Way::Member if node.is_synced() => {
                let other = file::read(&settings::path(instance::FILE))?.unwrap_or_default();
                let mut names: BTreeSet<&str> =
                    desired.settings.keys().map(String::as_str).collect();
                names.extend(settings::assigned(&other));
                // Never shown by the server.
                names.remove("wsrep_sst_auth");
                settings::drift(names, &effective, &settings::running(&server)?)
            }
            _ => Vec::new(),
        };
        let current = Current {
            config: file::read(&settings::path(FILE))?,
            node,
            way,
            drift,
            armed: server::is_installed() && act::is_armed()?,
        };
        may_be_stopped(desired, &current)?;
        let why = settings::needs_restart(&current.drift);
        if !why.is_empty() && !desired.allow_restart {
            self.notices.warnings = vec![format!(
                "{} needs a restart for {}; allow_restart allows it",
                desired.node_name,
                why.join(", ")
            )];
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Disarm => act::disarm(),
            Step::WriteConfig { text, .. } => {
                ensure!(server::is_installed(), "mariadb-server is not installed");
                file::write(&settings::path(FILE), text, 0o644)
            }
            Step::SetVariable { name, value, .. } => settings::set(&Self::server()?, name, value),
            Step::StopServer { patience, .. } => Self::server()?.stop(*patience),
            Step::Found {
                name,
                from,
                stop,
                others,
                patience,
            } => {
                let server = Self::server()?;
                if *stop {
                    server.stop(*patience)?;
                }
                act::silence(others)?;
                act::found(&server, name, from.as_ref(), *patience)
            }
            Step::Join {
                name,
                founder,
                stop,
                patience,
            } => {
                let server = Self::server()?;
                if *stop {
                    server.stop(*patience)?;
                }
                if let Some(founder) = founder {
                    act::await_founder(founder, *patience)?;
                }
                act::join(&server, name, *patience)
            }
            Step::Restart {
                name,
                size,
                patience,
                ..
            } => act::restart(&Self::server()?, name, *size, *patience),
            Step::AwaitSync { name, patience } => act::synced(&Self::server()?, name, *patience)
                .map(drop)
                .context("the node did not come into the component"),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        let text = settings::render(Self::NAME, &desired.settings);
        let before = current.config.clone().unwrap_or_default();
        if before == text {
            return Vec::new();
        }
        let path = settings::path(FILE).display().to_string();
        vec![TextDiff::new(&path, before, text)]
    }

    fn notices(&mut self) -> Notices {
        std::mem::take(&mut self.notices)
    }
}

#[cfg(test)]
mod tests;
