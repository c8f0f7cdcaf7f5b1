//! `postgresql_instance`: a cluster on this machine, its parameters and its access rules. Roles, databases and replication are other modules'.

mod io;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Notices, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use self::io::{create, enable_checksums, observe, remove_unfinished};
pub(crate) use self::io::{reload, write_rules};
use crate::cluster::{Cluster, StartMode, program, write_file};
use crate::hba::{self, Rule};
use crate::server::usual_cluster;
use crate::settings::{self, Parameters, Setting};

/// Manage a PostgreSQL cluster on this machine, its parameters and access rules
///
/// Makes the cluster with Debian's C(pg_createcluster), so that systemd, C(pg_lsclusters) and upgrades know it. Parameters go to
/// C(conf.d/60-ondol.conf) and are read by the server's own program before anything changes; what it does not accept is the error, with the
/// parameter's name. If the server does not come up with them, the former ones are put back. Access rules that the server finds wrong, or that
/// would lock this module out, are taken back too. A fenced cluster, and a primary of a replicated set that is down, are never started here.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Major version, from 14.
    version: u16,
    /// Name of the cluster.
    #[serde(default = "usual_cluster")]
    cluster: String,
    /// C(absent) stops the cluster and deletes it with its data; this needs O(delete_data=true).
    #[serde(default)]
    state: Wish,
    /// Says that the data may go, for O(state=absent).
    #[serde(default)]
    delete_data: bool,
    /// TCP port and the socket's number. V(5432) for a new cluster.
    #[schemars(range(min = 1))]
    port: Option<u16>,
    /// Directory of the data of a new cluster. C(/var/lib/postgresql/VERSION/CLUSTER), if left out.
    data_directory: Option<String>,
    /// Directory of the sockets of a new cluster. C(/var/run/postgresql), if left out.
    socket_directory: Option<String>,
    /// Encoding of a new cluster.
    #[serde(default = "utf8")]
    encoding: String,
    /// Locale of a new cluster.
    #[serde(default = "c_utf8")]
    locale: String,
    /// Data checksums. An old cluster without them gets them, which needs a restart. They also make pg_rewind possible.
    #[serde(default = "yes")]
    checksums: bool,
    /// Server parameters by name, all values as text: quote V("on") and V("0.9"). Those not named are the distribution's.
    parameters: Option<BTreeMap<String, String>>,
    /// Rules of C(pg_hba.conf), in order; the file holds exactly these.
    pg_hba: Option<Vec<Rule>>,
    /// Whether the server may be restarted where a change needs it. Else a warning names what waits.
    #[serde(default)]
    restart: Restart,
}

/// What shall be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// It exists and runs.
    #[default]
    Running,
    /// It does not exist.
    Absent,
}

/// Whether sessions may be ended by a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    #[default]
    Never,
    Allowed,
}

fn utf8() -> String {
    "UTF8".to_owned()
}

fn c_utf8() -> String {
    "C.UTF-8".to_owned()
}

fn yes() -> bool {
    true
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    cluster: Cluster,
    wish: Wish,
    creation: Creation,
    checksums: bool,
    /// With the port, if one was given.
    parameters: Option<Parameters>,
    hba: Option<String>,
    restart: bool,
}

/// All that is decided when a cluster is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    pub data: PathBuf,
    sockets: Option<PathBuf>,
    port: u16,
    encoding: String,
    locale: String,
    checksums: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let cluster = Cluster::new(params.version, &params.cluster)?;
        if params.state == Wish::Absent && !params.delete_data {
            return Err(Invalid::new(
                "delete_data",
                "state: absent deletes the data: say so with delete_data: true",
            ));
        }
        let absolute = |name: &'static str, path: Option<String>| match path {
            Some(path) if !path.starts_with('/') || path.contains(['\n', '\'', ',']) => Err(
                Invalid::new(name, format!("{path:?} is not a usable absolute path")),
            ),
            path => Ok(path.map(PathBuf::from)),
        };
        let data = absolute("data_directory", params.data_directory)?;
        let mut parameters = params.parameters.map(settings::check).transpose()?;
        if let Some(port) = params.port {
            (parameters.get_or_insert_default()).insert("port".to_owned(), port.to_string());
        }
        if let Some(rules) = &params.pg_hba {
            hba::check(rules)?;
        }
        Ok(Self {
            wish: params.state,
            creation: Creation {
                data: data.unwrap_or_else(|| cluster.default_data()),
                sockets: absolute("socket_directory", params.socket_directory)?,
                port: params.port.unwrap_or(5432),
                encoding: params.encoding,
                locale: params.locale,
                checksums: params.checksums,
            },
            cluster,
            checksums: params.checksums,
            parameters,
            hba: params.pg_hba.as_deref().map(hba::render),
            restart: params.restart == Restart::Allowed,
        })
    }
}

/// What is on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// A creation of ours that was broken off; nothing ever ran there.
    unfinished: bool,
    existing: Option<Existing>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Existing {
    running: bool,
    data: PathBuf,
    checksums: bool,
    /// Text of our file of parameters.
    file: String,
    hba: String,
    /// Of the parameters wanted or in our file. Empty unless it runs.
    settings: BTreeMap<String, Setting>,
}

/// One act on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    RemoveUnfinished { data: PathBuf },
    Create(Creation),
    WriteParameters { text: String, names: Vec<String> },
    ResetSystem { name: String },
    Start,
    Reload,
    Restart { names: Vec<String> },
    EnableChecksums,
    WriteRules { text: String },
    Drop { data: PathBuf },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveUnfinished { data } => write!(
                f,
                "remove the cluster in {} whose creation was broken off",
                data.display()
            ),
            Self::Create(creation) => write!(
                f,
                "create the cluster in {}, port {}, {}, {}, {} checksums",
                creation.data.display(),
                creation.port,
                creation.encoding,
                creation.locale,
                if creation.checksums {
                    "with"
                } else {
                    "without"
                }
            ),
            Self::WriteParameters { names, .. } => {
                write!(f, "write conf.d/{}: {}", settings::FILE, names.join(", "))
            }
            Self::ResetSystem { name } => {
                write!(f, "undo ALTER SYSTEM SET {name}, which wins over the file")
            }
            Self::Start => f.write_str("start the cluster"),
            Self::Reload => f.write_str("reload the configuration"),
            Self::Restart { names } => write!(f, "restart the cluster for {}", names.join(", ")),
            Self::EnableChecksums => f.write_str("stop the cluster, enable checksums, start it"),
            Self::WriteRules { .. } => f.write_str("write pg_hba.conf and reload it"),
            Self::Drop { data } => write!(
                f,
                "stop the cluster and delete it with its data in {}",
                data.display()
            ),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct PostgresqlInstance {
    cluster: Option<Cluster>,
    /// Our file as it was before this run changed it.
    before: Option<String>,
    waiting: Vec<String>,
}

impl Module for PostgresqlInstance {
    const NAME: &'static str = "postgresql_instance";
    const EXAMPLES: &'static str = r#"
- name: A cluster that listens to its network
  ondol.cloud.postgresql_instance:
    version: 15
    parameters:
      listen_addresses: "*"
      shared_buffers: 256MB
      wal_level: replica
    pg_hba:
      - {type: local, method: peer}
      - {type: hostssl, databases: [all, replication], address: 192.168.10.0/24, method: scram-sha-256}
    restart: allowed
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let cluster = &desired.cluster;
        self.cluster = Some(cluster.clone());
        let current = observe(desired)?;
        let file = current.existing.as_ref().map(|it| it.file.clone());
        let wanted = desired.parameters.as_ref();
        if desired.wish == Wish::Running
            && let Some(parameters) = wanted
            && file.as_deref() != Some(&settings::render(parameters))
        {
            settings::validate(cluster, parameters)?;
        }
        if let Some(existing) = &current.existing {
            blocked(desired, existing)?;
            self.waiting = if desired.restart {
                Vec::new()
            } else {
                needs_restart(desired, existing)
            };
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let mut steps = Vec::new();
        if current.unfinished {
            steps.push(Step::RemoveUnfinished {
                data: desired.creation.data.clone(),
            });
        }
        let fresh = Existing::default();
        let existing = match (&current.existing, desired.wish) {
            (None, Wish::Absent) => return steps,
            (Some(existing), Wish::Absent) => {
                steps.push(Step::Drop {
                    data: existing.data.clone(),
                });
                return steps;
            }
            (None, Wish::Running) => {
                steps.push(Step::Create(desired.creation.clone()));
                &fresh
            }
            (Some(existing), Wish::Running) => existing,
        };
        let mut touched = false;
        if let Some(parameters) = &desired.parameters {
            let text = settings::render(parameters);
            let nothing = existing.file.is_empty() && parameters.is_empty();
            if text != existing.file && !nothing {
                let names = settings::changed(&existing.file, parameters);
                steps.push(Step::WriteParameters { text, names });
                touched = true;
            }
            for name in parameters.keys() {
                if existing
                    .settings
                    .get(name)
                    .is_some_and(|it| it.altered_system)
                {
                    steps.push(Step::ResetSystem { name: name.clone() });
                    touched = true;
                }
            }
        }
        if current.existing.is_some() && desired.checksums && !existing.checksums {
            steps.push(Step::EnableChecksums);
        } else if !existing.running {
            steps.push(Step::Start);
        } else {
            let names = needs_restart(desired, existing);
            if !names.is_empty() && desired.restart {
                steps.push(Step::Restart { names });
            } else if touched {
                steps.push(Step::Reload);
            }
        }
        if let Some(text) = &desired.hba
            && *text != existing.hba
        {
            steps.push(Step::WriteRules { text: text.clone() });
        }
        steps
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let cluster = self.cluster.clone().expect("observe comes first");
        match step {
            Step::RemoveUnfinished { data } => remove_unfinished(&cluster, data),
            Step::Create(creation) => create(&cluster, creation),
            Step::WriteParameters { text, .. } => {
                let path = cluster.conf().join("conf.d").join(settings::FILE);
                self.before = Some(file::read(&path)?.unwrap_or_default());
                write_file(&path, text, 0o644)
            }
            Step::ResetSystem { name } => {
                let sql = format!("ALTER SYSTEM RESET {}", crate::sql::identifier(name));
                cluster.client("postgres")?.query(&sql)?;
                Ok(())
            }
            Step::Start => cluster.ctl("start"),
            Step::Reload => reload(&cluster),
            Step::Restart { .. } => self.restart(&cluster),
            Step::EnableChecksums => enable_checksums(&cluster),
            Step::WriteRules { text } => write_rules(&cluster, text),
            Step::Drop { .. } => {
                let version = cluster.version.to_string();
                program("pg_dropcluster")
                    .args(["--stop", &version, &cluster.name])
                    .succeed()
                    .map(drop)
            }
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        if desired.wish == Wish::Absent {
            return Vec::new();
        }
        let existing = current.existing.clone().unwrap_or_default();
        let file = format!("conf.d/{}", settings::FILE);
        let texts = [
            (
                file.as_str(),
                existing.file,
                desired.parameters.as_ref().map(settings::render),
            ),
            ("pg_hba.conf", existing.hba, desired.hba.clone()),
        ];
        texts
            .into_iter()
            .filter_map(|(name, before, after)| Some((name, before, after?)))
            .filter(|(_, before, after)| before != after)
            .map(|(name, before, after)| TextDiff::new(name, before, after))
            .collect()
    }

    fn notices(&mut self) -> Notices {
        let mut notices = Notices::default();
        if !self.waiting.is_empty() {
            notices.warnings.push(format!(
                "in force only after a restart, which restart: allowed would do: {}",
                self.waiting.join(", ")
            ));
        }
        notices
    }
}

impl PostgresqlInstance {
    fn restart(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let Err(error) = cluster.ctl("restart") else {
            return Ok(());
        };
        let Some(before) = &self.before else {
            return Err(error);
        };
        let path = cluster.conf().join("conf.d").join(settings::FILE);
        write_file(&path, before, 0o644)?;
        cluster
            .ctl("start")
            .with_context(|| format!("go back to the former parameters after: {error:#}"))?;
        Err(error.context("the server did not come up; it runs with the former parameters again"))
    }
}

/// The parameters that are wanted, are not in force, and cannot be without a restart.
fn needs_restart(desired: &Desired, existing: &Existing) -> Vec<String> {
    let Some(wanted) = &desired.parameters else {
        return Vec::new();
    };
    let changed: BTreeSet<String> = settings::changed(&existing.file, wanted)
        .into_iter()
        .collect();
    let needs = |(name, setting): &(&String, &Setting)| {
        if setting.context != "postmaster" {
            return false;
        }
        match wanted.get(*name) {
            Some(value) => {
                let told =
                    setting.pending_restart || setting.altered_system || changed.contains(*name);
                told && !setting.is(value)
            }
            None => changed.contains(*name),
        }
    };
    existing
        .settings
        .iter()
        .filter(needs)
        .map(|(name, _)| name.clone())
        .collect()
}

/// What stands against bringing this cluster up.
fn blocked(desired: &Desired, existing: &Existing) -> anyhow::Result<()> {
    if desired.wish == Wish::Running && !existing.running {
        let mode = desired.cluster.start_mode()?;
        let is_standby = existing.data.join("standby.signal").exists();
        match mode {
            StartMode::Disabled => bail!(
                "cluster {} is fenced (start.conf says disabled): ondol.cloud.postgresql_standby brings it back as a standby",
                desired.cluster
            ),
            StartMode::Manual if !is_standby => bail!(
                "cluster {} is down and may be an old primary (start.conf says manual): ondol.cloud.postgresql_primary starts it after asking its members",
                desired.cluster
            ),
            _ => {}
        }
    }
    if desired.wish == Wish::Running
        && desired.checksums
        && !existing.checksums
        && existing.running
        && !desired.restart
    {
        bail!(Invalid::new(
            "checksums",
            "the cluster has none, and to enable them it must be stopped: say restart: allowed, or checksums: false",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(mut json: serde_json::Value) -> Desired {
        json["version"] = 15.into();
        let params: Params = serde_json::from_value(json).expect("params");
        Desired::try_from(params).expect("valid")
    }

    fn lines(json: serde_json::Value, current: &Current) -> Vec<String> {
        let steps = PostgresqlInstance::plan(&desired(json), current);
        steps.iter().map(ToString::to_string).collect()
    }

    fn running(file: &str, settings: &[(&str, &str, &str)]) -> Current {
        let setting = |(name, value, context): &(&str, &str, &str)| {
            let setting = Setting {
                value: (*value).to_owned(),
                unit: Some("8kB".to_owned()).filter(|_| *name == "shared_buffers"),
                kind: "integer".to_owned(),
                context: (*context).to_owned(),
                ..Setting::default()
            };
            ((*name).to_owned(), setting)
        };
        Current {
            unfinished: false,
            existing: Some(Existing {
                running: true,
                data: "/var/lib/postgresql/15/main".into(),
                checksums: true,
                file: file.to_owned(),
                hba: "theirs".to_owned(),
                settings: settings.iter().map(setting).collect(),
            }),
        }
    }

    fn file(pairs: &[(&str, &str)]) -> String {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        settings::render(&pairs.collect())
    }

    #[test]
    fn a_cluster_comes_up_in_one_round() {
        let create = "create the cluster in /var/lib/postgresql/15/main, port 5432, UTF8, C.UTF-8, with checksums";
        let json = serde_json::json!({"parameters": {"work_mem": "8MB"}, "pg_hba": [{"type": "local", "method": "peer"}]});
        let wanted = [
            create,
            "write conf.d/60-ondol.conf: work_mem",
            "start the cluster",
            "write pg_hba.conf and reload it",
        ];
        assert_eq!(lines(json.clone(), &Current::default()), wanted);
        let unfinished = Current {
            unfinished: true,
            existing: None,
        };
        assert_eq!(
            lines(serde_json::json!({}), &unfinished),
            [
                "remove the cluster in /var/lib/postgresql/15/main whose creation was broken off",
                create,
                "start the cluster"
            ]
        );
    }

    #[test]
    fn a_restart_is_for_parameters_that_need_it_only() {
        let buffers = |context| running(&file(&[]), &[("shared_buffers", "16384", context)]);
        let wish = |value: &str, restart: &str| serde_json::json!({"parameters": {"shared_buffers": value}, "restart": restart});
        let write = "write conf.d/60-ondol.conf: shared_buffers";
        for (current, json, last) in [
            (
                buffers("postmaster"),
                wish("1GB", "allowed"),
                "restart the cluster for shared_buffers",
            ),
            (
                buffers("postmaster"),
                wish("1GB", "never"),
                "reload the configuration",
            ),
            (
                buffers("postmaster"),
                wish("128MB", "allowed"),
                "reload the configuration",
            ),
            (
                buffers("sighup"),
                wish("1GB", "allowed"),
                "reload the configuration",
            ),
        ] {
            assert_eq!(lines(json, &current), [write, last]);
        }
        let same = running(
            &file(&[("shared_buffers", "128MB")]),
            &[("shared_buffers", "16384", "postmaster")],
        );
        assert_eq!(lines(wish("128MB", "allowed"), &same), [""; 0]);

        // Written before, without leave to restart.
        let mut pending = running(
            &file(&[("shared_buffers", "1GB")]),
            &[("shared_buffers", "16384", "postmaster")],
        );
        if let Some(setting) =
            (pending.existing.as_mut()).and_then(|it| it.settings.get_mut("shared_buffers"))
        {
            setting.pending_restart = true;
        }
        assert_eq!(
            lines(wish("1GB", "allowed"), &pending),
            ["restart the cluster for shared_buffers"]
        );
        assert_eq!(lines(wish("1GB", "never"), &pending), [""; 0]);
    }

    #[test]
    fn alter_system_does_not_win() {
        let mut current = running(
            &file(&[("work_mem", "8MB")]),
            &[("work_mem", "4096", "user")],
        );
        if let Some(setting) =
            (current.existing.as_mut()).and_then(|it| it.settings.get_mut("work_mem"))
        {
            setting.altered_system = true;
        }
        assert_eq!(
            lines(
                serde_json::json!({"parameters": {"work_mem": "8MB"}}),
                &current
            ),
            [
                "undo ALTER SYSTEM SET work_mem, which wins over the file",
                "reload the configuration"
            ]
        );
    }

    #[test]
    fn what_is_not_given_is_left_alone_and_what_is_not_wanted_goes() {
        let current = running("theirs", &[]);
        assert_eq!(lines(serde_json::json!({}), &current), [""; 0]);
        let stopped = Current {
            existing: current.existing.clone().map(|it| Existing {
                running: false,
                checksums: false,
                ..it
            }),
            ..current.clone()
        };
        assert_eq!(
            lines(serde_json::json!({"checksums": false}), &stopped),
            ["start the cluster"]
        );
        assert_eq!(
            lines(serde_json::json!({}), &stopped),
            ["stop the cluster, enable checksums, start it"]
        );
        let absent = serde_json::json!({"state": "absent", "delete_data": true});
        assert_eq!(
            lines(absent.clone(), &current),
            ["stop the cluster and delete it with its data in /var/lib/postgresql/15/main"]
        );
        assert_eq!(lines(absent, &Current::default()), [""; 0]);
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (json, param) in [
            (serde_json::json!({"state": "absent"}), "delete_data"),
            (serde_json::json!({"data_directory": "x"}), "data_directory"),
            (
                serde_json::json!({"parameters": {"port": "1"}}),
                "parameters.port",
            ),
            (
                serde_json::json!({"pg_hba": [{"type": "host", "method": "peer"}]}),
                "pg_hba[0].address",
            ),
        ] {
            let mut json = json;
            json["version"] = 15.into();
            let params: Params = serde_json::from_value(json).expect("params");
            assert_eq!(Desired::try_from(params).expect_err("invalid").param, param);
        }
    }
}
