//! `postgresql_standby`: this member follows another, whatever it was before: nothing, a standby, or an old primary.
//!
//! What it decides is in `plan`, which is pure; its acts are in `io`. It never promotes, and it never takes an upstream that it cannot reach for one that is gone.

mod io;
mod plan;

use std::fmt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use ondol_kit::{Invalid, Module, Notices};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use self::io::{base_backup, describe, follow, observe, rewind, start, why_not};
use self::plan::decide;
use crate::cluster::{Cluster, StartMode, State, write_file};
use crate::hba::{self, Rule};
use crate::instance::{reload, write_rules};
use crate::replication::{Access, Lsn, Member, Replication, Seen, Stopped, check_member};
use crate::server::{Statement, run, usual_cluster};
use crate::settings::{self, Parameters};

/// Make this machine's PostgreSQL cluster follow another
///
/// Takes a base backup where there is nothing, and changes the upstream of a standby in place. An old primary is brought back by C(pg_rewind), with
/// what it alone had undone, or without if it was shut down in order; only if that is impossible and O(allow_base_backup=true) is its data replaced.
/// A primary that is still needed is never turned into a standby. While the upstream cannot be reached nothing is changed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Major version of the cluster.
    version: u16,
    /// Name of the cluster.
    #[serde(default = "usual_cluster")]
    cluster: String,
    /// Which member this machine is. The upstream knows it by this name.
    name: String,
    /// Member to follow: the primary, or a standby that passes the log on.
    upstream: Member,
    /// How the members log in to each other.
    replication: Replication,
    /// Whether data that is here may be replaced by a new base backup, if there is no other way.
    #[serde(default)]
    allow_base_backup: bool,
    /// Members that follow this one in turn: each gets a slot.
    #[serde(default)]
    downstream: Vec<String>,
    /// Server parameters, as of M(ondol.cloud.postgresql_instance). Give the same to both: some must not be smaller than on the primary when the
    /// standby first starts.
    parameters: Option<std::collections::BTreeMap<String, String>>,
    /// Rules of C(pg_hba.conf), as of M(ondol.cloud.postgresql_instance).
    pg_hba: Option<Vec<Rule>>,
    /// Port of a new cluster.
    #[serde(default = "crate::server::usual_port")]
    port: u16,
    /// Directory of the data of a new cluster. C(/var/lib/postgresql/VERSION/CLUSTER), if left out.
    data_directory: Option<String>,
    /// Directory of the sockets of a new cluster. C(/var/run/postgresql), if left out.
    socket_directory: Option<String>,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    cluster: Cluster,
    name: String,
    upstream: Member,
    access: Access,
    allow_base_backup: bool,
    downstream: Vec<String>,
    parameters: Option<Parameters>,
    /// Text of `pg_hba.conf`.
    hba: Option<String>,
    port: u16,
    data: PathBuf,
    sockets: Option<PathBuf>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let cluster = Cluster::new(params.version, &params.cluster)?;
        check_member("name", &params.name)?;
        check_member("upstream.name", &params.upstream.name)?;
        for (index, name) in params.downstream.iter().enumerate() {
            check_member(&format!("downstream[{index}]"), name)?;
        }
        if let Some(rules) = &params.pg_hba {
            hba::check(rules)?;
        }
        if params.upstream.name == params.name {
            return Err(Invalid::new(
                "upstream.name",
                "a member cannot follow itself",
            ));
        }
        let data = params
            .data_directory
            .map_or_else(|| cluster.default_data(), PathBuf::from);
        if !data.is_absolute() {
            return Err(Invalid::new("data_directory", "must be an absolute path"));
        }
        Ok(Self {
            access: Access::new(params.replication)?,
            name: params.name,
            upstream: params.upstream,
            allow_base_backup: params.allow_base_backup,
            downstream: params.downstream,
            parameters: params.parameters.map(settings::check).transpose()?,
            hba: params.pg_hba.as_deref().map(hba::render),
            port: params.port,
            sockets: params.socket_directory.map(PathBuf::from),
            data,
            cluster,
        })
    }
}

/// This member and its upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    me: Me,
    upstream: Seen,
    /// What a base backup that was broken off left.
    leftovers: Vec<PathBuf>,
    /// Whether the files that make it follow are as they should be.
    follows: bool,
    /// What the file of parameters should hold, if it does not.
    parameters: Option<String>,
    /// What `pg_hba.conf` should hold, if it does not.
    rules: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Me {
    /// No data.
    Absent {
        configured: bool,
    },
    /// A finished base backup that nothing describes yet.
    Unconfigured,
    Stopped(Stopped),
    Running(Alive),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alive {
    in_recovery: bool,
    system_identifier: String,
    timeline: u32,
    lsn: Lsn,
    /// Whether the log comes in.
    streams: bool,
    manual: bool,
    /// It can be rewound: checksums or logged hint bits.
    rewindable: bool,
    slots: Vec<(String, bool)>,
    /// Parameters that are in force after a restart only.
    waiting: Vec<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    RemoveLeftovers { paths: Vec<PathBuf> },
    BaseBackup { from: String, replaces: bool },
    Describe { data: PathBuf },
    WriteParameters { text: String },
    WriteRules { text: String },
    Stop { why: String },
    Rewind { from: String, or_base_backup: bool },
    Follow { upstream: String },
    Reload,
    StartAtBoot,
    Start,
    Sql(Statement),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveLeftovers { paths } => {
                let paths: Vec<String> = paths.iter().map(|it| it.display().to_string()).collect();
                write!(f, "remove an unfinished base backup: {}", paths.join(", "))
            }
            Self::BaseBackup { from, replaces } => {
                let what = if *replaces {
                    ", replacing the data here"
                } else {
                    ""
                };
                write!(f, "take a base backup from {from}{what}")
            }
            Self::Describe { data } => write!(f, "configure a cluster for {}", data.display()),
            Self::WriteParameters { .. } => write!(f, "write conf.d/{}", settings::FILE),
            Self::WriteRules { .. } => f.write_str("write pg_hba.conf"),
            Self::Stop { why } => write!(f, "stop the cluster: {why}"),
            Self::Rewind {
                from,
                or_base_backup,
            } => {
                let or = if *or_base_backup {
                    ", or take a base backup if that fails"
                } else {
                    ""
                };
                write!(f, "rewind the data to what {from} has{or}")
            }
            Self::Follow { upstream } => write!(f, "follow {upstream}"),
            Self::Reload => f.write_str("reload the configuration"),
            Self::StartAtBoot => f.write_str("let the standby start at boot"),
            Self::Start => f.write_str("start the standby and see it stream"),
            Self::Sql(statement) => statement.fmt(f),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct PostgresqlStandby {
    desired: Option<Desired>,
    waiting: Vec<String>,
}

impl Module for PostgresqlStandby {
    const NAME: &'static str = "postgresql_standby";
    const EXAMPLES: &'static str = r#"
- name: Follow the primary
  ondol.cloud.postgresql_standby:
    version: 15
    name: postgresql-db-02
    upstream: {name: postgresql-db-01, address: 192.168.10.23}
    replication:
      password: "{{ vault_replication_password }}"
    parameters: "{{ postgresql_parameters }}"
  become: true
"#;
    /// After a start slots may be left that only a running server can drop.
    const ROUNDS: usize = 3;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let mut current = observe(desired)?;
        // A standby that has just been told whom to follow needs a moment.
        let deadline = Instant::now() + SETTLE;
        while current.hopes() && Instant::now() < deadline {
            sleep(Duration::from_millis(200));
            current = observe(desired)?;
        }
        self.waiting = match &current.me {
            Me::Running(me) => me.waiting.clone(),
            _ => Vec::new(),
        };
        decide(desired, &current).map_err(|reason| match why_not(&desired.cluster, &current) {
            Some(words) => anyhow!("{reason}; the server's log says: {words}"),
            None => anyhow!(reason),
        })?;
        if let Some(parameters) = &desired.parameters
            && current.parameters.is_some()
        {
            settings::validate(&desired.cluster, parameters)?;
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        // `observe` has stopped at a refusal.
        decide(desired, current).unwrap_or_default()
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.as_ref().expect("observe comes first");
        let cluster = &desired.cluster;
        match step {
            Step::RemoveLeftovers { paths } => {
                paths.iter().try_for_each(|it| file::remove_directory(it))
            }
            Step::BaseBackup { .. } => base_backup(desired),
            Step::Describe { .. } => describe(desired),
            Step::WriteParameters { text } => write_file(
                &cluster.conf().join("conf.d").join(settings::FILE),
                text,
                0o644,
            ),
            Step::WriteRules { text } => {
                let place = cluster.require_place()?;
                match cluster.state(&place, "postgres")? {
                    State::Running(_) => write_rules(cluster, text),
                    // If they are wrong the server does not come up, and says so.
                    State::Stopped => write_file(&place.conf.join("pg_hba.conf"), text, 0o640),
                }
            }
            Step::Stop { .. } => {
                // In this order: a machine that dies in between does not bring it back as it was.
                cluster.set_start_mode(StartMode::Disabled)?;
                cluster.ctl("stop")
            }
            Step::Rewind { or_base_backup, .. } => {
                let Err(error) = rewind(desired) else {
                    return Ok(());
                };
                if !or_base_backup {
                    return Err(error.context(
                        "pg_rewind failed; allow_base_backup: true would replace the data",
                    ));
                }
                base_backup(desired).with_context(|| {
                    format!("take a base backup after pg_rewind failed: {error:#}")
                })
            }
            Step::Follow { .. } => follow(desired),
            Step::Reload => reload(cluster),
            Step::StartAtBoot => cluster.set_start_mode(StartMode::Auto),
            Step::Start => start(desired),
            Step::Sql(statement) => run(statement, &mut cluster.client("postgres")?),
        }
    }

    fn notices(&mut self) -> Notices {
        let mut notices = Notices::default();
        if !self.waiting.is_empty() {
            notices.warnings.push(format!(
                "in force only after a restart, which ondol.cloud.postgresql_instance does: {}",
                self.waiting.join(", ")
            ));
        }
        notices
    }
}

/// How long a running standby may take until the log comes in.
const SETTLE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
