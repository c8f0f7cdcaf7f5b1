//! `mariadb_privileges`: exactly what an account may do, globally, in databases and on tables. Privileges on columns and routines, and roles, are
//! left alone. What is planned is what `mysql_privileges` plans.

use std::collections::BTreeMap;

use ondol_database::{Found, Session, Statement};
use ondol_kit::{Invalid, Module};
use ondol_mysql::account::everywhere;
use ondol_mysql::privileges::{Granted, Wanted};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::target::{Server, Target, USER_NAME};

/// Manage what a MariaDB account may do
///
/// The account has exactly these privileges: what is missing is granted, what is there beyond is revoked. Privileges on columns and routines, and
/// roles, are left alone.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the user.
    name: String,
    /// Host part of the account.
    #[serde(default = "everywhere")]
    host: String,
    /// Privileges by what they are on: C(*.*), C(database.*) or C(database.table), a name with a dot in backticks. C(ALL) is every privilege there is
    /// on it, C(GRANT OPTION) lets the account pass them on.
    privileges: BTreeMap<String, Vec<String>>,
    /// A server that is reached over TCP, in place of the one on this machine.
    server: Option<Server>,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
    wanted: Wanted,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let mut privileges = params.privileges;
        for word in privileges.values_mut().flatten() {
            *word = as_listed(word);
        }
        Ok(Self {
            wanted: Wanted::new(params.name, &params.host, USER_NAME, privileges)?,
            target: Target::new(params.server)?,
        })
    }
}

/// What the server itself calls a privilege of several names.
fn as_listed(word: &str) -> String {
    let word = word.trim().to_ascii_uppercase();
    let listed = match word.as_str() {
        "DELETE VERSIONING ROWS" => "DELETE HISTORY",
        "REPLICA MONITOR" => "SLAVE MONITOR",
        "REPLICATION CLIENT" => "BINLOG MONITOR",
        "REPLICATION REPLICA" => "REPLICATION SLAVE",
        "REPLICATION REPLICA ADMIN" => "REPLICATION SLAVE ADMIN",
        _ => return word,
    };
    listed.to_owned()
}

/// The module.
#[derive(Default)]
pub struct MariadbPrivileges {
    session: Session<Target>,
}

impl Module for MariadbPrivileges {
    const NAME: &'static str = "mariadb_privileges";
    const EXAMPLES: &'static str = r#"
- name: An application reads and writes its own database only
  ondol.cloud.mariadb_privileges:
    name: app
    host: 192.168.10.%
    privileges:
      app.*: [SELECT, INSERT, UPDATE, DELETE]
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Found<Granted>;
    type Step = Statement;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Found<Granted>> {
        self.session
            .observe(&desired.target, |client| desired.wanted.observe(client))
    }

    fn plan(desired: &Desired, current: &Found<Granted>) -> Vec<Statement> {
        desired.wanted.plan(current)
    }

    fn apply(&mut self, step: &Statement) -> anyhow::Result<()> {
        self.session.run(step)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_privilege_of_several_names_is_asked_for_as_the_server_lists_it() {
        let params: Params = serde_json::from_value(json!({
            "name": "o'k",
            "privileges": {"*.*": ["replication client", "Replica Monitor"], "my_app.*": [" select "]},
        }))
        .unwrap();
        let desired = Desired::try_from(params).unwrap();
        for current in [Found::Absent, Found::NoServer] {
            let steps = MariadbPrivileges::plan(&desired, &current);
            let sql: Vec<&str> = steps.iter().map(|it| it.sql.as_str()).collect();
            assert_eq!(
                sql,
                [
                    "GRANT BINLOG MONITOR, SLAVE MONITOR ON *.* TO 'o''k'@'%'",
                    "GRANT SELECT ON `my\\_app`.* TO 'o''k'@'%'",
                ]
            );
        }
    }

    #[test]
    fn what_is_no_privilege_is_refused_by_its_parameter() {
        for (privileges, param) in [
            (json!({"a.*": ["SELECT; DROP"]}), "privileges.a.*"),
            (json!({"a": ["SELECT"]}), "privileges.a"),
        ] {
            let params = json!({"name": "a", "privileges": privileges});
            let params: Params = serde_json::from_value(params).unwrap();
            assert_eq!(Desired::try_from(params).unwrap_err().param, param);
        }
    }
}
