//! `mariadb_galera_arbitrator`: garbd, the member of a Galera cluster that votes and holds no data.
//!
//! It cannot be asked whether its component is Primary: that is seen on a data node, by `mariadb_galera_status`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::galera_node::{addresses, is_name, provider_options};
use crate::server::{GROUP_PORT, last_words, systemctl, unit};

/// Run a Galera arbitrator, or stop it
///
/// An arbitrator gives a cluster of two nodes a third vote, so that one of them goes on when the other is gone. Stop it while a Primary Component
/// is founded anew, and start it again afterwards. The package C(galera-arbitrator-4) must be installed.
///
/// Debian's unit gives up if no node answers within half a minute after boot; a drop-in lets systemd try again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the cluster.
    cluster_name: String,
    /// Addresses of the nodes that hold data, by name.
    members: BTreeMap<String, String>,
    /// Whether it runs.
    #[serde(default)]
    state: State,
    /// Options of Galera itself. The timers C(evs.*) must be the same on all nodes and arbitrators: otherwise those that are left do not agree
    /// on who is gone, and none stays in a Primary Component.
    #[serde(default)]
    provider_options: BTreeMap<String, String>,
    /// Seconds for it to find a node.
    #[serde(default = "one_minute")]
    #[schemars(range(min = 5, max = 3600))]
    timeout_seconds: u32,
}

fn one_minute() -> u32 {
    60
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Configured, running and connected to a node.
    #[default]
    Started,
    /// Not running. Its configuration is left alone.
    Stopped,
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    started: bool,
    /// Text of the configuration file.
    config: String,
    /// Arguments that garbd has with it.
    arguments: Vec<String>,
    patience: Duration,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if !is_name(&params.cluster_name) || params.cluster_name.len() > 32 {
            return Err(Invalid::new(
                "cluster_name",
                "a cluster's name is made of at most 32 letters, digits, hyphens, underscores and dots",
            ));
        }
        if params.members.is_empty() {
            return Err(Invalid::new(
                "members",
                "an arbitrator needs a node to vote for",
            ));
        }
        addresses("members", &params.members)?;
        let options = provider_options(&params.provider_options)?;
        // The file is read by a shell.
        if options.contains(['$', '`']) {
            return Err(Invalid::new(
                "provider_options",
                "neither $ nor ` may be in it",
            ));
        }
        let nodes: Vec<String> = params
            .members
            .values()
            .map(|address| match address.contains(':') {
                true => format!("[{address}]:{GROUP_PORT}"),
                false => format!("{address}:{GROUP_PORT}"),
            })
            .collect();
        let mut arguments: Vec<String> = ["-a", "-g"].map(str::to_owned).into();
        arguments.insert(1, format!("gcomm://{}", nodes.join(",")));
        arguments.push(params.cluster_name.clone());
        let mut config = format!(
            "# Written by ondol.cloud.{}; changes are overwritten.\nGALERA_NODES=\"{}\"\nGALERA_GROUP=\"{}\"\n",
            Arbitrator::NAME,
            nodes.join(" "),
            params.cluster_name
        );
        if !options.is_empty() {
            config += &format!("GALERA_OPTIONS=\"{options}\"\n");
            arguments.extend(["-o".to_owned(), options]);
        }
        Ok(Self {
            started: params.state == State::Started,
            config,
            arguments,
            patience: Duration::from_secs(params.timeout_seconds.into()),
        })
    }
}

const CONFIG: &str = "/etc/default/garb";
const DROP_IN: &str = "/etc/systemd/system/garb.service.d/ondol.conf";
const DROP_IN_TEXT: &str = "# Written by ondol.cloud.mariadb_galera_arbitrator; changes are overwritten.\n\
[Service]\nRestart=on-failure\nRestartSec=5\n";
const UNIT: &str = "garb.service";

/// The arbitrator as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    config: Option<String>,
    drop_in: Option<String>,
    /// A process is there, or will be soon.
    up: bool,
    /// garbd's arguments; none if it does not run.
    arguments: Vec<String>,
    /// It has a connection to a node.
    connected: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    WriteConfig { path: &'static str, text: String },
    Start { patience: Duration },
    Restart { patience: Duration },
    AwaitConnection { patience: Duration },
    Stop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Whether the package brought one already makes no difference.
            Self::WriteConfig { path, .. } => write!(f, "write {path}"),
            Self::Start { .. } => f.write_str("start the arbitrator"),
            Self::Restart { .. } => {
                f.write_str("restart the arbitrator with its new configuration")
            }
            Self::AwaitConnection { .. } => f.write_str("wait until the arbitrator finds a node"),
            Self::Stop => f.write_str("stop the arbitrator"),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let files = [
        (CONFIG, &current.config, desired.config.as_str()),
        (DROP_IN, &current.drop_in, DROP_IN_TEXT),
    ];
    for (path, is, text) in files {
        if desired.started && is.as_deref() != Some(text) {
            steps.push(Step::WriteConfig {
                path,
                text: text.to_owned(),
            });
        }
    }
    let patience = desired.patience;
    let up_to_date = current.arguments == desired.arguments;
    match (desired.started, current.up) {
        (false, true) => steps.push(Step::Stop),
        (false, false) => {}
        (true, false) => steps.push(Step::Start { patience }),
        (true, true) if !up_to_date => steps.push(Step::Restart { patience }),
        (true, true) if !current.connected => steps.push(Step::AwaitConnection { patience }),
        (true, true) => {}
    }
    steps
}

/// Arguments of the garbd that the unit's shell script runs.
fn arguments_of_child(parent: u32) -> anyhow::Result<Vec<String>> {
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let path = entry.context("list /proc")?.path();
        // Processes end while they are listed.
        let Ok(stat) = fs::read_to_string(path.join("stat")) else {
            continue;
        };
        if parent_of(&stat) != Some(parent) {
            continue;
        }
        let bytes = fs::read(path.join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut arguments = text.trim_end_matches('\0').split('\0').map(str::to_owned);
        if arguments.next().is_some_and(|it| it.ends_with("garbd")) {
            return Ok(arguments.collect());
        }
    }
    Ok(Vec::new())
}

/// From proc(5)'s `stat`: the fourth field; the second is a name in parentheses that may hold anything.
fn parent_of(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Whether the lines of `/proc/net/tcp` show an established connection of group communication.
fn has_connection(tcp: &str) -> bool {
    const ESTABLISHED: &str = "01";
    let port = format!(":{GROUP_PORT:04X}");
    tcp.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().take(4).collect();
        match fields.as_slice() {
            [_, local, remote, state] => {
                *state == ESTABLISHED && (local.ends_with(&port) || remote.ends_with(&port))
            }
            _ => false,
        }
    })
}

fn is_connected() -> anyhow::Result<bool> {
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if file::read(Path::new(path))?.is_some_and(|text| has_connection(&text)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn await_connection(patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while !is_connected()? {
        if Instant::now() >= deadline {
            bail!(
                "no node was found within {} s: {}",
                patience.as_secs(),
                last_words(UNIT)
            );
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The module.
#[derive(Debug, Default)]
pub struct Arbitrator;

impl Arbitrator {
    const NAME: &'static str = "mariadb_galera_arbitrator";
}

/// `systemctl` waits for as long as the unit's own limit, two minutes.
const STOPS: Duration = Duration::from_secs(180);

impl Module for Arbitrator {
    const NAME: &'static str = Self::NAME;
    const EXAMPLES: &'static str = r#"
- name: A third vote for two nodes
  ondol.cloud.mariadb_galera_arbitrator:
    cluster_name: site
    members:
      mariadb-db-01: 192.168.10.31
      mariadb-db-02: 192.168.10.32
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, _: &Desired) -> anyhow::Result<Current> {
        // Check mode comes here before the package does.
        let installed = Path::new("/usr/bin/garbd").exists();
        let unit = installed.then(|| unit(UNIT)).transpose()?;
        let arguments = match unit.as_ref().map_or(0, |it| it.main_pid) {
            0 => Vec::new(),
            pid => arguments_of_child(pid)?,
        };
        Ok(Current {
            config: file::read(Path::new(CONFIG))?,
            drop_in: file::read(Path::new(DROP_IN))?,
            // Between two tries it is on its way, without a process.
            up: unit.is_some_and(|it| !it.is_down()),
            connected: !arguments.is_empty() && is_connected()?,
            arguments,
        })
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::WriteConfig { path, text, .. } => {
                let path = Path::new(path);
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)
                        .with_context(|| format!("create {}", folder.display()))?;
                }
                file::write(path, text, 0o644)?;
                systemctl(&["daemon-reload"], STOPS)
            }
            Step::Start { patience } | Step::Restart { patience } => {
                systemctl(&["reset-failed", UNIT], STOPS)?;
                systemctl(&["restart", UNIT], STOPS)?;
                await_connection(*patience)
            }
            Step::AwaitConnection { patience } => await_connection(*patience),
            Step::Stop => systemctl(&["stop", UNIT], STOPS),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        plan(desired, current)
            .into_iter()
            .filter_map(|step| match step {
                Step::WriteConfig { path, text, .. } => {
                    let is = if path == CONFIG {
                        &current.config
                    } else {
                        &current.drop_in
                    };
                    Some(TextDiff::new(path, is.clone().unwrap_or_default(), text))
                }
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(state: &str) -> Params {
        serde_json::from_value(serde_json::json!({
            "cluster_name": "site",
            "members": {"db-01": "10.0.0.1", "db-02": "10.0.0.2"},
            "state": state,
            "provider_options": {"pc.weight": "1"},
        }))
        .unwrap()
    }

    fn desired(state: &str) -> Desired {
        Desired::try_from(params(state)).unwrap()
    }

    fn running(desired: &Desired) -> Current {
        Current {
            config: Some(desired.config.clone()),
            drop_in: Some(DROP_IN_TEXT.to_owned()),
            up: true,
            arguments: desired.arguments.clone(),
            connected: true,
        }
    }

    fn lines(desired: &Desired, current: &Current) -> Vec<String> {
        plan(desired, current)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_file_and_the_arguments_say_the_same() {
        let desired = desired("started");
        assert_eq!(
            desired.config,
            "# Written by ondol.cloud.mariadb_galera_arbitrator; changes are overwritten.\n\
             GALERA_NODES=\"10.0.0.1:4567 10.0.0.2:4567\"\nGALERA_GROUP=\"site\"\nGALERA_OPTIONS=\"pc.weight=1\"\n"
        );
        assert_eq!(
            desired.arguments,
            [
                "-a",
                "gcomm://10.0.0.1:4567,10.0.0.2:4567",
                "-g",
                "site",
                "-o",
                "pc.weight=1"
            ]
        );
    }

    #[test]
    fn what_a_shell_would_run_is_refused() {
        for (key, value) in [("a", "$(reboot)"), ("a", "`reboot`"), ("a", "x\"; reboot")] {
            let mut params = params("started");
            params.provider_options = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert!(Desired::try_from(params).is_err(), "{value}");
        }
        let mut params = params("started");
        params.cluster_name = "a b".to_owned();
        assert!(Desired::try_from(params).is_err());
    }

    #[test]
    fn an_arbitrator_is_brought_up_kept_and_stopped() {
        let start = desired("started");
        let new = [
            "write /etc/default/garb",
            &format!("write {DROP_IN}"),
            "start the arbitrator",
        ];
        assert_eq!(lines(&start, &Current::default()), new);
        assert_eq!(lines(&start, &running(&start)), [""; 0]);
        let lonely = Current {
            connected: false,
            ..running(&start)
        };
        assert_eq!(
            lines(&start, &lonely),
            ["wait until the arbitrator finds a node"]
        );
        let old = Current {
            arguments: vec!["-a".to_owned()],
            ..running(&start)
        };
        assert_eq!(
            lines(&start, &old),
            ["restart the arbitrator with its new configuration"]
        );
        let stop = desired("stopped");
        assert_eq!(lines(&stop, &running(&stop)), ["stop the arbitrator"]);
        let down = Current {
            up: false,
            ..running(&stop)
        };
        assert_eq!(lines(&stop, &down), [""; 0]);
        assert_eq!(lines(&stop, &Current::default()), [""; 0]);
    }

    #[test]
    fn a_connection_of_the_group_is_told_from_others() {
        let tcp = |port: &str, state: &str| {
            format!(
                "  sl  local_address rem_address   st tx_queue\n   0: 93A33CA9:9C4E 0E25FEA9:{port} {state} 00000000:00000000\n"
            )
        };
        assert!(has_connection(&tcp("11D7", "01")));
        assert!(!has_connection(&tcp("11D7", "0A")));
        assert!(!has_connection(&tcp("0016", "01")));
        assert!(!has_connection(""));
    }

    #[test]
    fn the_parent_is_read_past_any_name() {
        assert_eq!(parent_of("98 (garbd (x) 7) S 95 95 95 0"), Some(95));
        assert_eq!(parent_of("98"), None);
    }
}
