//! `mysql_source`: who of a replicated set takes writes. The one module that opens a server, and the only one that promotes.
//!
//! It does not fence anybody: `mysql_fence` does, or a power switch.

mod io;
mod plan;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, bail};
use ondol_database::member::{ask_all, check_set};
use ondol_kit::{Invalid, Module, Notices, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use self::io::{look_up, mark, open, promote};
use self::plan::{decide, followers};
use crate::fence::yes;
use crate::gtid::GtidSet;
use crate::local::{self, State};
use crate::members::{
    Access, Member, Replication, Seen, SemiSync, Server, ask, describe, read_role_file,
    require_gtid, semi_sync, set_semi_sync, set_source, write_role_file,
};
use crate::server::{Statement, run};
use crate::sha2;
use crate::sql::hexadecimal;

/// Make this machine's MySQL server the one that takes writes
///
/// Of a set of members there is never more than one that is open to writes, and none opens by itself when it starts. A server is opened only if every
/// other member either answers and is closed, or is named under O(fenced) with how it was fenced; only if no other has transactions that this one
/// lacks; and, when the old source does not answer, only if every acknowledged commit is here: because commits waited for a replica. On the source the
/// account of replication is kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Which of the members this machine is.
    name: String,
    /// All members, this one too.
    #[schemars(length(min = 1))]
    members: Vec<Member>,
    /// How the members log in to each other. The account is made and kept on the source.
    replication: Replication,
    /// Whether a commit waits until a replica has it, however long that takes. It does from the run on that finds a replica connected; from a promotion
    /// up to then it does not, and a warning says so.
    #[serde(default = "yes")]
    semi_synchronous: bool,
    /// Members that do not answer, by name, with how they were kept from writing. Before such a member may be promoted it must have been a replica again.
    #[serde(default)]
    fenced: BTreeMap<String, How>,
    /// Says that commits which were acknowledged may be lost in a promotion.
    #[serde(default)]
    accept_data_loss: bool,
}

/// How a member was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// M(ondol.cloud.mysql_fence) closed it.
    Closed,
    /// Its machine is without power, or its server is stopped. It is a member of the set, so it is closed when it starts.
    PoweredOff,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    others: Vec<Member>,
    access: Access,
    /// What is stored of the account's password: chance has no place in `plan`.
    stored: Secret,
    semi_synchronous: bool,
    fenced: BTreeMap<String, How>,
    accept_data_loss: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        for (index, member) in params.members.iter().enumerate() {
            if member.name.is_empty() {
                return Err(Invalid::new(
                    format!("members[{index}].name"),
                    "must not be empty",
                ));
            }
        }
        let members = params.members.iter().map(|it| it.name.as_str());
        check_set(
            &params.name,
            members,
            params.fenced.keys().map(String::as_str),
        )?;
        let access = Access::new(params.replication)?;
        Ok(Self {
            others: (params.members.into_iter())
                .filter(|member| member.name != params.name)
                .collect(),
            stored: Secret::new(hexadecimal(&sha2::verifier(access.password.expose()))),
            access,
            semi_synchronous: params.semi_synchronous,
            fenced: params.fenced,
            accept_data_loss: params.accept_data_loss,
        })
    }
}

/// This server and what it sees of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// There is no server here yet. In check mode an earlier task may be about to make it.
    Absent,
    Present(Box<Present>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    me: Server,
    file: String,
    semi_sync: SemiSync,
    account: Account,
    /// By name, in the order of `Desired::others`.
    others: Vec<(String, Seen)>,
}

/// The account of replication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    exists: bool,
    password_fits: bool,
    requires_tls: bool,
    privileges: bool,
    /// The mark in the data that says how the source that wrote it committed. It goes to the replicas like everything else, so that each
    /// knows up to which point the rule held.
    semi_synchronous: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CloseAtStart {
        text: String,
    },
    SetSemiSync,
    Promote {
        /// What must be applied first.
        wait_for: GtidSet,
        why: String,
    },
    Open {
        why: String,
        /// Commits wait for a replica from the first one on.
        semi_synchronous: bool,
        /// The mark in the data must be taken back before anybody else writes.
        unmark: bool,
    },
    Sql(Statement),
    CommitSemiSynchronously,
    CommitAlone,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseAtStart { .. } => {
                f.write_str("close the server to writes whenever it starts")
            }
            Self::SetSemiSync => f.write_str("prepare semi-synchronous replication"),
            Self::Promote { why, .. } => write!(f, "promote this replica: {why}"),
            Self::Open { why, .. } => write!(f, "open the server to writes: {why}"),
            Self::Sql(statement) => statement.fmt(f),
            Self::CommitSemiSynchronously => {
                f.write_str("let commits wait until a replica has them")
            }
            Self::CommitAlone => f.write_str("let commits no longer wait for a replica"),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlSource {
    desired: Option<Desired>,
    warning: Option<String>,
}

impl Module for MysqlSource {
    const NAME: &'static str = "mysql_source";
    const EXAMPLES: &'static str = r#"
- name: The first server takes writes
  ondol.cloud.mysql_source:
    name: mysql-db-01
    members:
      - {name: mysql-db-01, address: 192.168.10.25}
      - {name: mysql-db-02, address: 192.168.10.26}
    replication:
      password: "{{ vault_mysql_replication_password }}"
      ca_file: /etc/mysql/ca.pem
  become: true

- name: The second one takes over from a machine that was powered off
  ondol.cloud.mysql_source:
    name: mysql-db-02
    members:
      - {name: mysql-db-01, address: 192.168.10.25}
      - {name: mysql-db-02, address: 192.168.10.26}
    replication:
      password: "{{ vault_mysql_replication_password }}"
      ca_file: /etc/mysql/ca.pem
    fenced:
      mysql-db-01: powered_off
  become: true
"#;

    /// A server that is promoted may have replicas of its own already, which are seen when it follows nobody any more.
    const ROUNDS: usize = 2;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let mut client = match local::place()?.state()? {
            State::Absent => return Ok(Current::Absent),
            State::Stopped => bail!("the server on this machine does not run"),
            State::Running(client) => client,
        };
        let seen = ask_all(&desired.others, |it| {
            ask(&desired.access, &it.address, it.port)
        })?;
        let names = desired.others.iter().map(|it| it.name.clone());
        let others = names.zip(seen).collect();
        let me = describe(&mut client)?;
        require_gtid(&me)?;
        let present = Present {
            me,
            file: read_role_file()?,
            semi_sync: semi_sync(&mut client)?,
            account: look_up(&mut client, desired).context("look up the account of replication")?,
            others,
        };
        if let Err(reason) = decide(desired, &present) {
            bail!("{reason}");
        }
        anyhow::ensure!(
            !desired.semi_synchronous || present.semi_sync.loaded,
            "semi-synchronous replication is not loaded: ondol.cloud.mysql_instance does with plugin_load_add: \
             semisync_source.so;semisync_replica.so"
        );
        let alone = followers(&present.me, &present.others) == 0;
        self.warning = (desired.semi_synchronous && alone && !desired.others.is_empty()).then(|| {
            "no replica is connected, so commits are on this server alone: run this again when one is".to_owned()
        });
        Ok(Current::Present(Box::new(present)))
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan::steps(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.clone().expect("observe comes first");
        if let Step::CloseAtStart { text } = step {
            return write_role_file(text);
        }
        let mut client = local::place()?.client()?;
        match step {
            Step::CloseAtStart { .. } => Ok(()),
            Step::SetSemiSync => set_semi_sync(&mut client),
            Step::Promote { wait_for, .. } => promote(&mut client, wait_for),
            Step::Open {
                semi_synchronous,
                unmark,
                ..
            } => open(&mut client, &desired, *semi_synchronous, *unmark),
            Step::Sql(statement) => run(statement, &mut client),
            Step::CommitSemiSynchronously => {
                set_source(&mut client, true)?;
                // Acknowledged by a replica itself, and behind all that came before it.
                mark(&mut client, &desired, true)
            }
            Step::CommitAlone => {
                mark(&mut client, &desired, false)?;
                set_source(&mut client, false)
            }
        }
    }

    fn notices(&mut self) -> Notices {
        Notices {
            warnings: self.warning.take().into_iter().collect(),
            ..Notices::default()
        }
    }
}

#[cfg(test)]
mod tests;
