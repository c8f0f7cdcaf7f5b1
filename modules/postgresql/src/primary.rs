//! `postgresql_primary`: who of a replicated set takes writes. The one module that promotes, and the only one that starts a primary.
//!
//! What it decides is in `plan`, which is pure. It does not fence anybody: `fence` does, or a power switch.

mod io;
mod plan;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::anyhow;
use ondol_database::member::check_set;
use ondol_kit::{Invalid, Module, Notices, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use self::io::{observe, promote, warnings};
use self::plan::decide;
use crate::cluster::{Cluster, StartMode};
use crate::replication::{Access, Durability, Lsn, Member, Replication, Seen, check_member};
use crate::scram::{self, Salt};
use crate::server::{Statement, run, usual_cluster};

/// Make this machine's PostgreSQL cluster the one that takes writes
///
/// Of a set of members there is never more than one primary. A standby is promoted only if every other member either answers as a standby or is
/// named under O(fenced) with how it was fenced, and what can be seen does not contradict that; only if no other standby is ahead of it; and only
/// if every acknowledged commit is on it: because the old primary shut down in order, or because of the rule of
/// M(ondol.cloud.postgresql_synchronous). A stopped primary is started only if nobody has been promoted meanwhile, which takes every other member's word. A primary of a set never starts
/// by itself at boot. On the primary the role of replication and the slots of the members are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Major version of the cluster.
    version: u16,
    /// Name of the cluster.
    #[serde(default = "usual_cluster")]
    cluster: String,
    /// Which of the members this machine is.
    name: String,
    /// All members, this one too.
    #[schemars(length(min = 1))]
    members: Vec<Member>,
    /// How the members log in to each other. The role is made and kept on the primary.
    replication: Replication,
    /// Members that do not answer, by name, with how they were kept from writing.
    #[serde(default)]
    fenced: BTreeMap<String, Fenced>,
    /// Says that commits which were acknowledged may be lost in a promotion.
    #[serde(default)]
    accept_data_loss: bool,
}

/// How a member was fenced.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fenced {
    /// What was done to it.
    how: How,
    /// For a member that was stopped in order: C(shutdown_lsn) of M(ondol.cloud.postgresql_status). A standby that has the log up to there has
    /// everything.
    shutdown_lsn: Option<String>,
}

/// What was done to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// M(ondol.cloud.postgresql_fence) stopped it and forbade it to start.
    Stopped,
    /// Its machine is without power, and it is a member whose primary does not start by itself.
    PoweredOff,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    cluster: Cluster,
    name: String,
    others: Vec<Member>,
    access: Access,
    /// Of the role of replication: chance has no place in `plan`.
    verifier: Secret,
    fenced: BTreeMap<String, (How, Option<Lsn>)>,
    accept_data_loss: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        for (index, member) in params.members.iter().enumerate() {
            check_member(&format!("members[{index}].name"), &member.name)?;
        }
        let members = params.members.iter().map(|it| it.name.as_str());
        let named = params.fenced.keys().map(String::as_str);
        check_set(&params.name, members, named)?;
        let mut fenced = BTreeMap::new();
        for (name, how) in &params.fenced {
            let lsn = (how.shutdown_lsn.as_deref())
                .filter(|text| !text.is_empty())
                .map(str::parse)
                .transpose()
                .map_err(|reason| Invalid::new(format!("fenced.{name}.shutdown_lsn"), reason))?;
            fenced.insert(name.clone(), (how.how, lsn));
        }
        let access = Access::new(params.replication)?;
        Ok(Self {
            cluster: Cluster::new(params.version, &params.cluster)?,
            others: (params.members.into_iter())
                .filter(|member| member.name != params.name)
                .collect(),
            name: params.name,
            verifier: Secret::new(scram::verifier(access.password.expose(), &Salt::random())),
            access,
            fenced,
            accept_data_loss: params.accept_data_loss,
        })
    }
}

/// This member and what it sees of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    me: Me,
    /// In the order of `Desired::others`.
    others: Vec<Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Me {
    Absent,
    Stopped {
        standby: bool,
        system_identifier: String,
        timeline: u32,
    },
    Standby(Standby),
    Primary(Primary),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standby {
    system_identifier: String,
    timeline: u32,
    lsn: Lsn,
    durability: Option<Durability>,
    slots: Vec<(String, bool)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Primary {
    system_identifier: String,
    timeline: u32,
    manual: bool,
    role: Role,
    slots: Vec<(String, bool)>,
}

/// The role of replication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Role {
    exists: bool,
    able: bool,
    password_fits: bool,
    /// May call what pg_rewind calls.
    rewinds: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Promote { timeline: u32, why: String },
    StartPrimary,
    KeepDownAtBoot,
    Sql(Statement),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Promote { timeline, why } => {
                write!(
                    f,
                    "promote this standby to timeline {timeline}, and keep it from starting by itself at boot: {why}"
                )
            }
            Self::StartPrimary => {
                f.write_str("start the primary, which nobody has replaced meanwhile")
            }
            Self::KeepDownAtBoot => f.write_str("keep the primary from starting by itself at boot"),
            Self::Sql(statement) => statement.fmt(f),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct PostgresqlPrimary {
    desired: Option<Desired>,
    warnings: Vec<String>,
}

impl Module for PostgresqlPrimary {
    const NAME: &'static str = "postgresql_primary";
    const EXAMPLES: &'static str = r#"
- name: The primary, its members and their slots
  ondol.cloud.postgresql_primary:
    version: 15
    name: postgresql-db-01
    members: "{{ postgresql_members }}"
    replication:
      password: "{{ vault_replication_password }}"
  become: true

- name: Failover, after the machine of the old primary was switched off
  ondol.cloud.postgresql_primary:
    version: 15
    name: postgresql-db-02
    members: "{{ postgresql_members }}"
    replication:
      password: "{{ vault_replication_password }}"
    fenced:
      postgresql-db-01: {how: powered_off}
  become: true
"#;
    const ROUNDS: usize = 3;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let current = observe(desired)?;
        decide(desired, &current).map_err(|reason| anyhow!(reason))?;
        self.warnings = warnings(desired, &current);
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
            Step::Promote { timeline, .. } => {
                // As late as can be: somebody may have come back since.
                let now = observe(desired)?;
                decide(desired, &now).map_err(|reason| anyhow!(reason))?;
                promote(cluster, *timeline)
            }
            Step::StartPrimary => {
                cluster.require_installed()?;
                cluster.set_start_mode(StartMode::Manual)?;
                cluster.ctl("start")
            }
            Step::KeepDownAtBoot => {
                cluster.require_place()?;
                cluster.set_start_mode(StartMode::Manual)
            }
            Step::Sql(statement) => run(statement, &mut cluster.client("postgres")?),
        }
    }

    fn notices(&mut self) -> Notices {
        Notices {
            warnings: std::mem::take(&mut self.warnings),
            deprecations: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
