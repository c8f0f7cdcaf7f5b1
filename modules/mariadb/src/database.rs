//! `mariadb_database`: a database and its character set. What is in it is not this module's. What is planned is what `mysql_database` plans.

use ondol_database::{Found, Presence, Session, Statement};
use ondol_kit::{Invalid, Module};
use ondol_mysql::database::{Database, Wanted};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::target::{Server, Target};

/// Manage a MariaDB database
///
/// Makes it, or changes the character set and collation that new tables get. Deleting one that holds tables must be said. In a Galera cluster it is
/// done on one node, and the others follow.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the database.
    name: String,
    /// Whether it shall exist. V(absent) needs O(delete_data=true) if it holds tables.
    #[serde(default)]
    state: Presence,
    /// Says that the data may go, for O(state=absent).
    #[serde(default)]
    delete_data: bool,
    /// Character set of new tables.
    character_set: Option<String>,
    /// Collation of new tables.
    collation: Option<String>,
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
        let words = [params.character_set, params.collation];
        Ok(Self {
            wanted: Wanted::new(params.name, params.state, params.delete_data, words)?,
            target: Target::new(params.server)?,
        })
    }
}

/// The module.
#[derive(Default)]
pub struct MariadbDatabase {
    session: Session<Target>,
}

impl Module for MariadbDatabase {
    const NAME: &'static str = "mariadb_database";
    const EXAMPLES: &'static str = r#"
- name: An application's database
  ondol.cloud.mariadb_database:
    name: app
    character_set: utf8mb4
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Found<Database>;
    type Step = Statement;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Found<Database>> {
        self.session
            .observe(&desired.target, |client| desired.wanted.observe(client))
    }

    fn plan(desired: &Desired, current: &Found<Database>) -> Vec<Statement> {
        desired.wanted.plan(current)
    }

    fn apply(&mut self, step: &Statement) -> anyhow::Result<()> {
        self.session.run(step)
    }
}
