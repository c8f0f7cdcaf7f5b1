//! `mysql_status`: what this machine's server says of itself, for drills, monitoring and reports. It judges nothing.

use ondol_kit::{Finding, Invalid, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::local::{self, State};
use crate::members::{Thread, describe, semi_sync};
use crate::server::{self, Target};

/// Tell the role and the progress of a MySQL server
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// A server that is reached over TCP, such as an RDS instance, in place of the one on this machine.
    server: Option<server::Server>,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        Ok(Self {
            target: Target::new(params.server)?,
        })
    }
}

/// What a server is in its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// There is no server on this machine.
    Absent,
    /// There is one, and it does not run.
    Stopped,
    /// It takes writes.
    Source,
    /// It follows a source.
    Replica,
    /// It takes no writes and follows nobody.
    Closed,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Answer {
    /// What the server is in its set.
    role: Role,
    /// Version, as the server names it.
    version: Option<String>,
    /// The server's UUID, which its transactions carry.
    server_uuid: Option<String>,
    /// The transactions that it has executed, as a set of GTIDs.
    executed: Option<String>,
    /// Of a replica, the transactions that it has received.
    received: Option<String>,
    /// Of a replica, the address and port that it follows.
    source: Option<String>,
    /// Whether it receives.
    receiving: bool,
    /// Whether it applies what it received.
    applying: bool,
    /// Seconds behind the source, where that is known.
    lag_s: Option<u64>,
    /// Why it does not receive or apply, in the server's words.
    trouble: Option<String>,
    /// Whether its commits wait until a replica has them.
    commits_wait: bool,
}

impl Answer {
    fn of(role: Role) -> Self {
        Self {
            role,
            version: None,
            server_uuid: None,
            executed: None,
            received: None,
            source: None,
            receiving: false,
            applying: false,
            lag_s: None,
            trouble: None,
            commits_wait: false,
        }
    }
}

/// The probe.
#[derive(Default)]
pub struct MysqlStatus;

impl Probe for MysqlStatus {
    const NAME: &'static str = "mysql_status";
    const EXAMPLES: &'static str = r#"
- name: Where the server stands
  ondol.cloud.mysql_status:
  become: true
  register: status

- name: How far RDS is behind
  ondol.cloud.mysql_status:
    server:
      host: "{{ rds_endpoint }}"
      user: admin
      password: "{{ vault_rds_password }}"
      tls: identity
      ca_file: /etc/ssl/certs/rds-global-bundle.pem
  register: rds
"#;

    type Params = Params;
    type Desired = Desired;
    type Answer = Answer;

    fn probe(&mut self, desired: &Desired) -> anyhow::Result<Finding<Answer>> {
        let mut client = match &desired.target {
            Target::Local => match local::place()?.state()? {
                State::Absent => return Ok(Finding::good(Answer::of(Role::Absent))),
                State::Stopped => return Ok(Finding::good(Answer::of(Role::Stopped))),
                State::Running(client) => *client,
            },
            remote @ Target::Remote { .. } => remote.client()?,
        };
        let server = describe(&mut client)?;
        let role = match (&server.follows, server.writable) {
            (_, true) => Role::Source,
            (Some(_), false) => Role::Replica,
            (None, false) => Role::Closed,
        };
        let mut answer = Answer {
            version: Some(server.version),
            server_uuid: Some(server.uuid),
            executed: Some(server.executed.to_string()),
            commits_wait: semi_sync(&mut client)?.source_enabled,
            ..Answer::of(role)
        };
        if let Some(follows) = server.follows {
            answer.received = Some(server.received.to_string());
            answer.source = Some(format!("{} port {}", follows.host, follows.port));
            answer.receiving = follows.receiver.runs();
            answer.applying = follows.applier.runs();
            answer.lag_s = follows.lag_s;
            answer.trouble = trouble(&[&follows.receiver, &follows.applier]);
        }
        Ok(Finding::good(answer))
    }
}

fn trouble(threads: &[&Thread]) -> Option<String> {
    let words: Vec<String> = threads
        .iter()
        .filter(|thread| thread.error.0 != 0)
        .map(|thread| format!("{} ({})", thread.error.1, thread.error.0))
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_both_halves_are_kept() {
        let thread = |code, words: &str| Thread {
            state: "No".to_owned(),
            error: (code, words.to_owned()),
        };
        assert_eq!(trouble(&[&thread(0, ""), &thread(0, "")]), None);
        assert_eq!(
            trouble(&[&thread(2003, "no route"), &thread(1062, "twice")]).as_deref(),
            Some("no route (2003); twice (1062)")
        );
    }
}
