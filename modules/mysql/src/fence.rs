//! `mysql_fence`: makes sure that this machine's server takes no writes, now and after a restart. It promotes nobody.

use std::fmt;

use anyhow::Context as _;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::local::{self, Place, State};
use crate::members::{self, describe, semi_sync, set_source};

/// Close a MySQL server to writes and keep it closed
///
/// The first half of a switchover, and what a failed source needs before another is promoted. The server goes on answering reads and feeding its
/// replicas. It is closed for the next start first, then now: a machine that dies in between does not come back open.
/// M(ondol.cloud.mysql_source) opens it again, if no one else was promoted.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Whether commits wait for another member: the same as the set's M(ondol.cloud.mysql_source) says.
    #[serde(default = "yes")]
    semi_synchronous: bool,
}

pub(crate) fn yes() -> bool {
    true
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    semi_synchronous: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        Ok(Self {
            semi_synchronous: params.semi_synchronous,
        })
    }
}

/// What is there to fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// No server, so nothing that could write.
    Absent,
    Present {
        /// Text of the file that closes it at its start.
        file: String,
        /// It takes writes, or would still have commits wait for a replica, as a source does.
        open: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CloseAtStart { text: String },
    Close,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CloseAtStart { .. } => "close the server to writes whenever it starts",
            Self::Close => "close the server to writes",
        })
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlFence;

impl Module for MysqlFence {
    const NAME: &'static str = "mysql_fence";
    const EXAMPLES: &'static str = r#"
- name: The old source takes no more writes
  ondol.cloud.mysql_fence:
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, _: &Desired) -> anyhow::Result<Current> {
        let open = match local::place()?.state()? {
            State::Absent => return Ok(Current::Absent),
            State::Stopped => false,
            State::Running(mut client) => {
                describe(&mut client)?.writable || semi_sync(&mut client)?.source_enabled
            }
        };
        Ok(Current::Present {
            file: members::read_role_file()?,
            open,
        })
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let Current::Present { file, open } = current else {
            return Vec::new();
        };
        let text = members::role_file(desired.semi_synchronous);
        let at_start = (*file != text).then_some(Step::CloseAtStart { text });
        let now = open.then_some(Step::Close);
        at_start.into_iter().chain(now).collect()
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::CloseAtStart { text } => members::write_role_file(text),
            Step::Close => close(&local::place()?),
        }
    }
}

/// `ER_LOCK_WAIT_TIMEOUT`.
const WAITED: u16 = 1205;

/// Closes a running server. Commits that wait for a replica's answer hold the lock that this needs: then the server is restarted, and comes
/// up closed.
pub(crate) fn close(place: &Place) -> anyhow::Result<()> {
    let mut client = place.client()?;
    client.run("SET SESSION lock_wait_timeout = 5")?;
    match client.run("SET GLOBAL super_read_only = ON") {
        // No commit is under way any more that this could acknowledge too early. What a replica applies must wait for nobody.
        Ok(()) if semi_sync(&mut client)?.source_enabled => set_source(&mut client, false),
        Ok(()) => Ok(()),
        Err(error) if error.code() == Some(WAITED) || error.code().is_none() => place
            .restart()
            .with_context(|| format!("restart the server, which could not be closed: {error}")),
        Err(error) => Err(error).context("close the server to writes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_start_is_closed_before_the_server_is() {
        let text = members::role_file(true);
        let desired = Desired {
            semi_synchronous: true,
        };
        let present = |file: &str, open| Current::Present {
            file: file.to_owned(),
            open,
        };
        let forbid = Step::CloseAtStart { text: text.clone() };
        for (current, wanted) in [
            (Current::Absent, vec![]),
            (present("", true), vec![forbid.clone(), Step::Close]),
            (present(&text, true), vec![Step::Close]),
            (present("", false), vec![forbid]),
            (present(&text, false), vec![]),
        ] {
            assert_eq!(MysqlFence::plan(&desired, &current), wanted);
        }
    }
}
