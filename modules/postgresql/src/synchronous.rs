//! `postgresql_synchronous`: for how many standbys a commit waits, and the proof of it that a failover asks for.
//!
//! The rule itself is a parameter in a file of its own. Once enough standbys are in step, the rule is also written into the log, where every standby
//! has it (see [`Durability`]); before a rule is weakened that note is taken back. So a standby that finds itself in the note knows that it had
//! to confirm each commit since.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Client;
use crate::cluster::{Cluster, write_file};
use crate::instance::reload;
use crate::replication::{Durability, Local, check_member, local};
use crate::server::usual_cluster;
use crate::sql::literal;

/// Have a PostgreSQL primary wait for its standbys before it acknowledges a commit
///
/// Runs on the primary. The rule comes into force only when enough of the standbys stream; else it is taken back and the task fails, because
/// every commit would hang. M(ondol.cloud.postgresql_primary) promotes a standby without loss by this rule.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Major version of the cluster.
    version: u16,
    /// Name of the cluster.
    #[serde(default = "usual_cluster")]
    cluster: String,
    /// Members that can confirm a commit, without the primary.
    standbys: Vec<String>,
    /// How many of them each commit waits for. V(0) waits for none: a failover may then lose commits.
    #[serde(default = "one")]
    count: usize,
    /// Members whose confirmation is no longer waited for although they do not stream now. By naming one you say that it will not be promoted before
    /// it has followed again.
    #[serde(default)]
    give_up: Vec<String>,
    /// Seconds to wait for the standbys to be in step.
    #[serde(default = "thirty")]
    #[schemars(range(min = 1, max = 3600))]
    wait: u32,
}

fn one() -> usize {
    1
}

fn thirty() -> u32 {
    30
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    cluster: Cluster,
    standbys: Vec<String>,
    count: usize,
    give_up: Vec<String>,
    wait: Duration,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        for (index, name) in params.standbys.iter().enumerate() {
            check_member(&format!("standbys[{index}]"), name)?;
        }
        let mut standbys = params.standbys;
        standbys.sort();
        standbys.dedup();
        if params.count > standbys.len() {
            return Err(Invalid::new(
                "count",
                format!(
                    "{} of {} standbys cannot be waited for",
                    params.count,
                    standbys.len()
                ),
            ));
        }
        if params.count == 0 {
            standbys.clear();
        }
        Ok(Self {
            cluster: Cluster::new(params.version, &params.cluster)?,
            standbys,
            count: params.count,
            give_up: params.give_up,
            wait: Duration::from_secs(params.wait.into()),
        })
    }
}

/// The rule as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    timeline: u32,
    /// `synchronous_standby_names`.
    rule: String,
    /// Text of our file; empty if there is none.
    file: String,
    note: Option<Durability>,
    /// Names of those who stream.
    streaming: Vec<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    TakeBackNote { rule: Durability },
    Require { rule: String, count: usize },
    Release,
    Note { rule: Durability },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakeBackNote { rule } => write!(
                f,
                "take back the note that each commit waits for {} of {}",
                rule.count,
                rule.standbys.join(", ")
            ),
            Self::Require { rule, .. } => write!(f, "set synchronous_standby_names to {rule}"),
            Self::Release => f.write_str("wait for no standby any more"),
            Self::Note { rule } => write!(
                f,
                "note in the log that each commit waits for {} of {}",
                rule.count,
                rule.standbys.join(", ")
            ),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct PostgresqlSynchronous {
    desired: Option<Desired>,
}

impl Module for PostgresqlSynchronous {
    const NAME: &'static str = "postgresql_synchronous";
    const EXAMPLES: &'static str = r#"
- name: No acknowledged commit is on one machine only
  ondol.cloud.postgresql_synchronous:
    version: 15
    standbys: [postgresql-db-02]
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let cluster = &desired.cluster;
        let mut running = match local(cluster, &cluster.default_data())? {
            // In check mode an earlier task may be about to make it, on its first timeline.
            Local::Absent => {
                return Ok(Current {
                    timeline: 1,
                    ..Current::default()
                });
            }
            Local::Running(running) if running.in_recovery => bail!(
                "this member is a standby: the rule belongs to the primary, which alone acknowledges commits"
            ),
            Local::Running(running) => running,
            Local::Unconfigured | Local::Empty | Local::Stopped(_) => {
                bail!("cluster {cluster} does not run")
            }
        };
        let client = &mut running.client;
        let current = Current {
            timeline: running.timeline,
            rule: client.value("SHOW synchronous_standby_names")?,
            file: file::read(&rule_file(&running.place.conf))?.unwrap_or_default(),
            note: Durability::read(client)?,
            streaming: streaming(client, false)?,
        };
        given_up(desired, &current)?;
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let mut steps = Vec::new();
        let rule = rule(desired);
        let note = Durability {
            timeline: current.timeline,
            count: desired.count,
            standbys: desired.standbys.clone(),
        };
        let in_force = current.rule == rule && current.file == render(&rule);
        let noted = current.note.as_ref() == Some(&note);
        let taken_back = current.note.as_ref().is_none_or(|it| it.count == 0);
        if let Some(old) = &current.note
            && !taken_back
            && (!in_force || !noted)
        {
            steps.push(Step::TakeBackNote { rule: old.clone() });
        }
        if !in_force {
            steps.push(if desired.count == 0 {
                Step::Release
            } else {
                Step::Require {
                    rule,
                    count: desired.count,
                }
            });
        }
        if desired.count > 0 && !(in_force && noted) {
            steps.push(Step::Note { rule: note });
        }
        steps
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.as_ref().expect("observe comes first");
        let cluster = &desired.cluster;
        let place = cluster.require_place()?;
        let mut client = cluster.client("postgres")?;
        match step {
            Step::TakeBackNote { .. } => {
                // Those it would wait for may be the ones that are gone.
                client.query("SET synchronous_commit = local")?;
                let none = Durability::default();
                write_note(&mut client, &none)
            }
            Step::Release => {
                file::remove(&rule_file(&place.conf))?;
                reload(cluster)
            }
            Step::Require { rule, count } => {
                let path = rule_file(&place.conf);
                let before = file::read(&path)?;
                write_file(&path, render(rule), 0o644)?;
                reload(cluster)?;
                let Err(error) = in_step(&mut client, *count, desired.wait) else {
                    return Ok(());
                };
                match before {
                    Some(text) => write_file(&path, &text, 0o644)?,
                    None => file::remove(&path)?,
                }
                reload(cluster)?;
                Err(error.context("the rule is taken back, else every commit would hang"))
            }
            Step::Note { rule } => write_note(&mut client, rule),
        }
    }
}

/// `ANY 1 ("db-02")`; empty for no rule.
fn rule(desired: &Desired) -> String {
    if desired.count == 0 {
        return String::new();
    }
    let names: Vec<String> = (desired.standbys.iter())
        .map(|it| format!("\"{it}\""))
        .collect();
    format!("ANY {} ({})", desired.count, names.join(", "))
}

/// Sorted after the file of parameters, so that it wins.
pub(crate) fn rule_file(conf: &Path) -> PathBuf {
    conf.join("conf.d/65-ondol-synchronous.conf")
}

fn render(rule: &str) -> String {
    if rule.is_empty() {
        return String::new();
    }
    format!(
        "# Written by ondol.cloud.postgresql_synchronous.\nsynchronous_standby_names = '{rule}'\n"
    )
}

/// A standby that has confirmed commits until now and is not there may be promoted by its own knowledge, and lack what is acknowledged from here on.
fn given_up(desired: &Desired, current: &Current) -> Result<(), Invalid> {
    let Some(note) = &current.note else {
        return Ok(());
    };
    let weaker = desired.count < note.count
        || (desired.standbys.iter()).any(|name| !note.standbys.contains(name))
        || note
            .standbys
            .iter()
            .any(|name| !desired.standbys.contains(name));
    if note.timeline != current.timeline || note.count == 0 || !weaker {
        return Ok(());
    }
    let gone = (note.standbys.iter())
        .find(|name| !current.streaming.contains(name) && !desired.give_up.contains(name));
    match gone {
        None => Ok(()),
        Some(name) => Err(Invalid::new(
            "give_up",
            format!(
                "{name} has confirmed every commit until now and does not stream: it could be promoted without what is acknowledged from here on. Name it here if it will not be"
            ),
        )),
    }
}

/// Names of the standbys that stream; with `confirming` only those that commits wait for.
fn streaming(client: &mut Client, confirming: bool) -> anyhow::Result<Vec<String>> {
    let which = if confirming {
        "AND sync_state IN ('sync', 'quorum')"
    } else {
        ""
    };
    let rows = client
        .query(&format!(
            "SELECT DISTINCT application_name FROM pg_stat_replication WHERE state = 'streaming' {which} ORDER BY 1"
        ))
        .context("list the standbys")?;
    Ok(rows.iter().map(|row| row.text(0).to_owned()).collect())
}

fn in_step(client: &mut Client, count: usize, wait: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    loop {
        let names = streaming(client, true)?;
        if names.len() >= count {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "{count} standbys were to confirm commits, and after {} s these do: {}",
                wait.as_secs(),
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            );
        }
        sleep(Duration::from_millis(100));
    }
}

fn write_note(client: &mut Client, rule: &Durability) -> anyhow::Result<()> {
    client
        .query(&format!(
            "ALTER DATABASE postgres SET {} = {}",
            Durability::SETTING,
            literal(&rule.to_string())
        ))
        .context("note the rule in the log")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Desired {
        let mut args = json;
        args["version"] = 15.into();
        let params: Params = serde_json::from_value(args).expect("params");
        Desired::try_from(params).expect("valid")
    }

    fn note(timeline: u32, count: usize, names: &[&str]) -> Option<Durability> {
        Some(Durability {
            timeline,
            count,
            standbys: names.iter().map(|it| (*it).to_owned()).collect(),
        })
    }

    fn current(rule: &str, note: Option<Durability>) -> Current {
        Current {
            timeline: 2,
            rule: rule.to_owned(),
            file: render(rule),
            note,
            streaming: vec!["b".to_owned()],
        }
    }

    #[test]
    fn a_note_is_only_there_while_its_rule_is_in_force() {
        let one = "ANY 1 (\"b\")";
        let require = format!("set synchronous_standby_names to {one}");
        let noted = "note in the log that each commit waits for 1 of b";
        let back = "take back the note that each commit waits for 1 of b";
        for (json, current, wanted) in [
            (
                serde_json::json!({"standbys": ["b"]}),
                current("", None),
                vec![require.as_str(), noted],
            ),
            (
                serde_json::json!({"standbys": ["b"]}),
                current(one, note(2, 1, &["b"])),
                vec![],
            ),
            (
                serde_json::json!({"standbys": ["b"]}),
                current(one, None),
                vec![noted],
            ),
            // Of before a promotion.
            (
                serde_json::json!({"standbys": ["b"]}),
                current("", note(1, 1, &["b"])),
                vec![back, &require, noted],
            ),
            (
                serde_json::json!({"standbys": ["b"]}),
                current("", note(2, 0, &[])),
                vec![&require, noted],
            ),
            (
                serde_json::json!({"standbys": [], "count": 0}),
                current(one, note(2, 1, &["b"])),
                vec![back, "wait for no standby any more"],
            ),
            (
                serde_json::json!({"standbys": [], "count": 0}),
                current("", note(2, 0, &[])),
                vec![],
            ),
            (
                serde_json::json!({"standbys": [], "count": 0}),
                current("", None),
                vec![],
            ),
        ] {
            let steps = PostgresqlSynchronous::plan(&desired(json.clone()), &current);
            let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
            assert_eq!(lines, wanted, "{json} {current:?}");
        }
    }

    #[test]
    fn a_standby_that_is_gone_must_be_given_up_in_words() {
        let mut now = current("ANY 1 (\"b\")", note(2, 1, &["b"]));
        let off = |give_up: &[&str]| {
            desired(serde_json::json!({"standbys": [], "count": 0, "give_up": give_up}))
        };
        assert!(given_up(&off(&[]), &now).is_ok(), "it streams");
        now.streaming.clear();
        assert!(given_up(&off(&[]), &now).is_err());
        assert!(given_up(&off(&["b"]), &now).is_ok());
        assert!(
            given_up(&desired(serde_json::json!({"standbys": ["b"]})), &now).is_ok(),
            "nothing changes"
        );
        now.timeline = 3;
        assert!(
            given_up(&off(&[]), &now).is_ok(),
            "the note is of another timeline"
        );
    }
}
