//! `mariadb_instance`: variables of this machine's MariaDB, in its configuration and in the running server.
//!
//! A server that is a Galera node is neither started nor restarted here: `mariadb_galera_node` does that, with an eye on the others.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Notices, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::facts::ServerState;
use crate::server::{Asked, Server, UNIT, last_words, systemctl, unit};
use crate::settings::{self, Drift};

/// Configure this machine's MariaDB server
///
/// The server itself checks the configuration before it is written. A variable that can be set while the server runs is set; for the others the
/// server is restarted if `allow_restart` says so; one that does not come up then gets its former configuration back. In a Galera cluster that is left
/// to M(ondol.cloud.mariadb_galera_node).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Variables of the server, by name. Those that are left out are what other files or the server say.
    settings: BTreeMap<String, String>,
    /// Restart a running server if its configuration needs it. Without it the module warns.
    #[serde(default)]
    allow_restart: bool,
    /// Seconds for the server to start or restart.
    #[serde(default = "five_minutes")]
    #[schemars(range(min = 5, max = 86_400))]
    timeout_seconds: u32,
}

fn five_minutes() -> u32 {
    300
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    settings: BTreeMap<String, String>,
    allow_restart: bool,
    patience: Duration,
}

/// Sorts after the files of Debian's package and before that of a Galera node.
pub(crate) const FILE: &str = "70-ondol.cnf";

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let settings = settings::check("settings", params.settings, &[])?;
        if let Some(name) = settings.keys().find(|it| it.starts_with("wsrep_")) {
            return Err(Invalid::new(
                format!("settings.{name}"),
                "mariadb_galera_node says how a node is in its cluster",
            ));
        }
        Ok(Self {
            settings,
            allow_restart: params.allow_restart,
            patience: Duration::from_secs(params.timeout_seconds.into()),
        })
    }
}

/// The server as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    config: Option<String>,
    server: ServerState,
    /// It is configured as a Galera node.
    replicates: bool,
    drift: Vec<Drift>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    WriteConfig {
        text: String,
        new: bool,
    },
    SetVariable {
        name: String,
        value: String,
        from: String,
    },
    Start {
        patience: Duration,
    },
    Restart {
        why: Vec<String>,
        patience: Duration,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteConfig { new, .. } => {
                let what = if *new { "write" } else { "change" };
                write!(f, "{what} {}", settings::path(FILE).display())
            }
            Self::SetVariable { name, value, from } => {
                write!(f, "set {name} to {value:?} (is {from:?})")
            }
            Self::Start { .. } => f.write_str("start the server"),
            Self::Restart { why, .. } => write!(f, "restart the server for {}", why.join(", ")),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let text = settings::render(Instance::NAME, &desired.settings);
    if current.config.as_ref() != Some(&text) {
        steps.push(Step::WriteConfig {
            new: current.config.is_none(),
            text,
        });
    }
    let patience = desired.patience;
    if current.server != ServerState::Running {
        if !current.replicates {
            steps.push(Step::Start { patience });
        }
        return steps;
    }
    let why = settings::needs_restart(&current.drift);
    if !why.is_empty() && desired.allow_restart && !current.replicates {
        // It comes up with everything.
        steps.push(Step::Restart { why, patience });
        return steps;
    }
    for drift in current.drift.iter().filter(|it| it.dynamic) {
        steps.push(Step::SetVariable {
            name: drift.name.clone(),
            value: drift.wanted.clone(),
            from: drift.running.clone(),
        });
    }
    steps
}

/// The module.
#[derive(Debug, Default)]
pub struct Instance {
    notices: Notices,
    /// The configuration that this run has replaced, to go back to.
    former: Option<Former>,
}

/// The text of the file; `None`: there was none.
type Former = Option<String>;

impl Instance {
    const NAME: &'static str = "mariadb_instance";
}

/// Until the server that `act` starts takes queries.
fn until_it_answers(args: &[&str], patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    systemctl(&["reset-failed", UNIT], patience)?;
    let started = systemctl(args, patience).map_err(|error| error.context(last_words(UNIT)));
    let server = Server::new(&settings::as_is()?);
    started?;
    while let Asked::NotThere = server.ask("SELECT 1")? {
        if Instant::now() >= deadline || unit(UNIT)?.is_down() {
            bail!("the server does not answer: {}", last_words(UNIT));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Restarts the server. One that does not come up gets the configuration back that it ran with.
fn restart(former: Option<Former>, patience: Duration) -> anyhow::Result<()> {
    let args = ["restart", UNIT];
    let Err(error) = until_it_answers(&args, patience) else {
        return Ok(());
    };
    let Some(former) = former else {
        return Err(error);
    };
    let path = settings::path(FILE);
    match former {
        Some(text) => file::write(&path, &text, 0o644)?,
        None => fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?,
    }
    let again = until_it_answers(&args, patience)
        .map(|()| "it runs with the former settings again".to_owned())
        .unwrap_or_else(|also| format!("nor does it with the former settings: {also:#}"));
    let reason = format!("the server does not come up with them: {error:#}; {again}");
    Err(Invalid::new("settings", reason).into())
}

impl Module for Instance {
    const NAME: &'static str = Self::NAME;
    const EXAMPLES: &'static str = r#"
- name: The server listens on every address and takes 300 connections
  ondol.cloud.mariadb_instance:
    settings:
      bind_address: 0.0.0.0
      max_connections: 300
    allow_restart: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let text = settings::render(Self::NAME, &desired.settings);
        let effective = settings::with_file(FILE, &text)
            .map_err(|error| Invalid::new("settings", format!("{error:#}")))?;
        let server = Server::new(&effective);
        let node = server.facts("server", false)?;
        let takes_queries = node.wsrep.as_ref().is_none_or(|it| it.ready);
        let drift = match node.server {
            ServerState::Running if takes_queries => settings::drift(
                desired.settings.keys().map(String::as_str),
                &effective,
                &settings::running(&server)?,
            ),
            _ => Vec::new(),
        };
        let current = Current {
            config: file::read(&settings::path(FILE))?,
            server: node.server,
            replicates: node.wsrep.is_some()
                || effective.get("wsrep_on").is_some_and(|it| it == "TRUE"),
            drift,
        };
        let why = settings::needs_restart(&current.drift);
        if !why.is_empty() && (current.replicates || !desired.allow_restart) {
            let how = if current.replicates {
                "mariadb_galera_node with allow_restart does it"
            } else {
                "allow_restart allows it"
            };
            self.notices.warnings = vec![format!(
                "the server needs a restart for {}; {how}",
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
            Step::WriteConfig { text, .. } => {
                let path = settings::path(FILE);
                self.former = Some(file::read(&path)?);
                file::write(&path, text, 0o644)
            }
            Step::SetVariable { name, value, .. } => {
                settings::set(&Server::new(&settings::as_is()?), name, value)
            }
            Step::Start { patience } => until_it_answers(&["start", UNIT], *patience),
            Step::Restart { patience, .. } => restart(self.former.take(), *patience),
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
mod tests {
    use super::*;

    fn desired(allow_restart: bool) -> Desired {
        let params: Params = serde_json::from_value(serde_json::json!({
            "settings": {"max_connections": "300", "back-log": "60"},
            "allow_restart": allow_restart,
        }))
        .unwrap();
        Desired::try_from(params).unwrap()
    }

    fn current(server: ServerState, replicates: bool, drift: &[(&str, bool)]) -> Current {
        let drift = drift.iter().map(|(name, dynamic)| Drift {
            name: (*name).to_owned(),
            wanted: "2".to_owned(),
            running: "1".to_owned(),
            dynamic: *dynamic,
        });
        Current {
            config: Some(settings::render(Instance::NAME, &desired(false).settings)),
            server,
            replicates,
            drift: drift.collect(),
        }
    }

    fn lines(desired: &Desired, current: &Current) -> Vec<String> {
        plan(desired, current)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_server_is_restarted_only_if_it_must_and_may() {
        let both = [("max_connections", true), ("back_log", false)];
        let set = "set max_connections to \"2\" (is \"1\")";
        let restart = "restart the server for back_log (\"2\" instead of \"1\")";
        for (allowed, replicates, drift, expected) in [
            (true, false, &both[..0], vec![]),
            (true, false, &both[..1], vec![set]),
            (true, false, &both[..], vec![restart]),
            (false, false, &both[..], vec![set]),
            (true, true, &both[..], vec![set]),
        ] {
            let current = current(ServerState::Running, replicates, drift);
            assert_eq!(lines(&desired(allowed), &current), expected);
        }
    }

    #[test]
    fn a_stopped_server_is_started_unless_it_is_a_node() {
        let stopped = |replicates| current(ServerState::Stopped, replicates, &[]);
        assert_eq!(
            lines(&desired(false), &stopped(false)),
            ["start the server"]
        );
        assert_eq!(lines(&desired(false), &stopped(true)), [""; 0]);
        let mut new = stopped(false);
        new.config = None;
        assert_eq!(
            lines(&desired(false), &new),
            [
                "write /etc/mysql/mariadb.conf.d/70-ondol.cnf",
                "start the server"
            ]
        );
    }

    #[test]
    fn what_belongs_to_a_cluster_is_refused() {
        let params: Params = serde_json::from_value(serde_json::json!({
            "settings": {"wsrep-cluster-address": "gcomm://"},
        }))
        .unwrap();
        assert_eq!(
            Desired::try_from(params).unwrap_err().to_string(),
            "settings.wsrep_cluster_address: mariadb_galera_node says how a node is in its cluster"
        );
    }
}
