//! `mysql_replication`: this machine's server is a replica of a source. It promotes nobody and opens no server to writes.

mod io;
mod plan;

use std::fmt;

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Notices};
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::io::wait_for;
use self::io::{copy, follow, has_clone, leave_out, left_out};
use self::plan::{Verdict, decide};
use crate::fence::{close, yes};
use crate::local::{self, State};
use crate::members::{
    Access, Replication, Seen, SemiSync, Server, ask, describe, read_role_file, require_gtid,
    semi_sync, set_semi_sync, write_role_file,
};
use crate::server::usual_port;

/// Make this machine's MySQL server a replica
///
/// It follows a source by GTID over TLS and takes no writes but the source's, also after a restart (C(super_read_only)). A new replica gets its data
/// with the clone plugin. A server that has transactions which the source has not (errant ones, as those of an old source that were never
/// acknowledged) is not let in: the error names them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The server to follow.
    source: Source,
    /// How members log in to each other. M(ondol.cloud.mysql_source) makes the account.
    replication: Replication,
    /// Whether commits of the source wait until a replica has them.
    #[serde(default = "yes")]
    semi_synchronous: bool,
    /// When this server's data may be replaced by a copy of the source's. Amazon RDS gives no copy: V(never).
    #[serde(default)]
    copy: Copy,
    /// Leaves out what the source writes to its own schema C(mysql): accounts, and Amazon RDS's housekeeping. Needed to follow RDS, which writes there
    /// all the time what no other server has.
    #[serde(default)]
    leave_out_system_tables: bool,
}

/// A server to follow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Host name or address.
    address: String,
    /// Port.
    #[serde(default = "usual_port")]
    port: u16,
}

/// When data may be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Copy {
    /// Not at all.
    Never,
    /// On a server that has executed no transaction.
    #[default]
    New,
    /// On a server that cannot catch up either, or has errant transactions. They are lost.
    Allowed,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    source: Source,
    access: Access,
    semi_synchronous: bool,
    copy: Copy,
    /// Pattern of the tables to leave out; empty for none.
    leave_out: &'static str,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        // Part of clone_valid_donor_list.
        if params.source.address.is_empty() || params.source.address.contains([',', ' ', '\0']) {
            return Err(Invalid::new(
                "source.address",
                "is not a host or an address",
            ));
        }
        Ok(Self {
            source: params.source,
            access: Access::new(params.replication)?,
            semi_synchronous: params.semi_synchronous,
            copy: params.copy,
            leave_out: if params.leave_out_system_tables {
                "mysql.%"
            } else {
                ""
            },
        })
    }
}

/// This server and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// There is no server here yet. In check mode an earlier task may be about to make it.
    Absent,
    Present(Box<Present>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    me: Server,
    source: Server,
    file: String,
    semi_sync: SemiSync,
    clone_loaded: bool,
    /// As `Desired::leave_out`.
    leaves_out: String,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CloseAtStart { text: String },
    Close,
    SetSemiSync,
    LeaveOut { pattern: &'static str },
    Copy { from: String, why: String },
    Follow { source: String, why: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseAtStart { .. } => {
                f.write_str("close the server to writes whenever it starts")
            }
            Self::Close => f.write_str("close the server to writes"),
            Self::SetSemiSync => f.write_str("confirm to the source what was received"),
            Self::LeaveOut { pattern: "" } => f.write_str("leave out no table"),
            Self::LeaveOut { pattern } => write!(f, "leave out the tables {pattern}"),
            Self::Copy { from, why } => write!(f, "replace the data by a copy of {from}'s: {why}"),
            Self::Follow { source, why } => write!(f, "follow {source}: {why}"),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlReplication {
    desired: Option<Desired>,
    notices: Notices,
}

impl Module for MysqlReplication {
    const NAME: &'static str = "mysql_replication";
    const EXAMPLES: &'static str = r#"
- name: A replica of the first server
  ondol.cloud.mysql_replication:
    source:
      address: 192.168.10.25
    replication:
      password: "{{ vault_mysql_replication_password }}"
      ca_file: /etc/mysql/ca.pem
  become: true

- name: The way back, after RDS took the writes
  ondol.cloud.mysql_replication:
    source:
      address: "{{ rds_endpoint }}"
    replication:
      password: "{{ vault_mysql_replication_password }}"
      tls: identity
      ca_file: /etc/mysql/rds-global-bundle.pem
    semi_synchronous: false
    copy: never
    leave_out_system_tables: true
  become: true
"#;
    /// A server that was copied to is looked at again: its source may have gone on meanwhile.
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
        let me = describe(&mut client)?;
        require_gtid(&me)?;
        let source = match ask(
            &desired.access,
            &desired.source.address,
            desired.source.port,
        )? {
            Seen::Answers(server) => *server,
            Seen::Refuses => bail!(
                "nothing listens at the source, {} port {}",
                desired.source.address,
                desired.source.port
            ),
            Seen::Denies(words) | Seen::Silent(words) => bail!("ask the source: {words}"),
        };
        require_gtid(&source).context("the source")?;
        let present = Present {
            semi_sync: semi_sync(&mut client)?,
            clone_loaded: has_clone(&mut client)?,
            leaves_out: left_out(&mut client)?,
            file: read_role_file()?,
            me,
            source,
        };
        match decide(desired, &present) {
            Err(reason) => bail!("{reason}"),
            Ok(Verdict::Copy(_)) if !present.clone_loaded => bail!(
                "the plugin \"clone\" is not loaded: ondol.cloud.mysql_instance does with plugin_load_add"
            ),
            Ok(_) => {}
        }
        anyhow::ensure!(
            !desired.semi_synchronous || present.semi_sync.loaded,
            "semi-synchronous replication is not loaded: ondol.cloud.mysql_instance does with plugin_load_add: \
             semisync_source.so;semisync_replica.so"
        );
        Ok(Current::Present(Box::new(present)))
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan::steps(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.clone().expect("observe comes first");
        let place = local::place()?;
        match step {
            Step::CloseAtStart { text } => write_role_file(text),
            Step::Close => close(&place),
            Step::SetSemiSync => set_semi_sync(&mut place.client()?),
            Step::LeaveOut { pattern } => leave_out(&mut place.client()?, pattern),
            Step::Copy { .. } => copy(&place, &desired),
            Step::Follow { .. } => follow(&mut place.client()?, &desired),
        }
    }

    fn notices(&mut self) -> Notices {
        std::mem::take(&mut self.notices)
    }
}

#[cfg(test)]
mod tests;
