//! `mysql_database`: a database and its character set. What is in it is not this module's.

use anyhow::Context as _;
use ondol_database::Session;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Client;
use crate::server::{Found, NAME, Presence, Server, Statement, Target};
use crate::sql::{check_name, identifier, literal};

/// Manage a MySQL database
///
/// Makes it, or changes the character set and collation that new tables get. Deleting one that holds tables must be said.
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

/// What is wanted of a database, in MySQL and in MariaDB alike.
#[derive(Debug, Clone)]
pub struct Wanted {
    name: String,
    state: Presence,
    delete_data: bool,
    character_set: Option<String>,
    collation: Option<String>,
}

const BUILT_IN: [&str; 4] = ["information_schema", "mysql", "performance_schema", "sys"];

impl Wanted {
    /// Of the parameters of these names.
    pub fn new(
        name: String,
        state: Presence,
        delete_data: bool,
        [character_set, collation]: [Option<String>; 2],
    ) -> Result<Self, Invalid> {
        check_name(&name, NAME).map_err(|reason| Invalid::new("name", reason))?;
        if BUILT_IN.iter().any(|it| it.eq_ignore_ascii_case(&name)) {
            return Err(Invalid::new("name", "belongs to the server"));
        }
        let word = |at: &'static str, word: Option<String>| match word {
            Some(word)
                if word.is_empty()
                    || !word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') =>
            {
                Err(Invalid::new(at, format!("{word:?} is not a name of one")))
            }
            word => Ok(word.map(|it| it.to_ascii_lowercase())),
        };
        Ok(Self {
            name,
            state,
            delete_data,
            character_set: word("character_set", character_set)?,
            collation: word("collation", collation)?,
        })
    }

    /// What the server has of it. One that shall go with its tables must be allowed to.
    pub fn observe(&self, client: &mut Client) -> anyhow::Result<Found<Database>> {
        let name = literal(&self.name);
        let rows = client
            .query(&format!(
                "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME,
                        (SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {name})
                 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {name}"
            ))
            .with_context(|| format!("look up database {:?}", self.name))?;
        let Some(row) = rows.first() else {
            return Ok(Found::Absent);
        };
        let database = Database {
            character_set: row.text(0).to_owned(),
            collation: row.text(1).to_owned(),
            tables: row.text(2).parse().context("read a number of tables")?,
        };
        if self.state == Presence::Absent && database.tables > 0 && !self.delete_data {
            return Err(Invalid::new(
                "delete_data",
                format!(
                    "database {:?} holds {} tables: say delete_data: true if they may go",
                    self.name, database.tables
                ),
            )
            .into());
        }
        Ok(Found::Present(database))
    }

    pub fn plan(&self, current: &Found<Database>) -> Vec<Statement> {
        let (name, quoted) = (&self.name, identifier(&self.name));
        let database = current.present();
        if self.state == Presence::Absent {
            return database
                .map(|it| {
                    let tables = match it.tables {
                        0 => String::new(),
                        count => format!(" with its {count} tables"),
                    };
                    Statement::new(
                        format!("drop database {name:?}{tables}"),
                        format!("DROP DATABASE {quoted}"),
                    )
                })
                .into_iter()
                .collect();
        }
        let mut options = Vec::new();
        if let Some(set) = &self.character_set
            && database.is_none_or(|it| !same(&it.character_set, set))
        {
            options.push(format!("CHARACTER SET {set}"));
        }
        if let Some(collation) = &self.collation
            && database.is_none_or(|it| !same(&it.collation, collation))
        {
            options.push(format!("COLLATE {collation}"));
        }
        let (says, sql) = match (database, options.is_empty()) {
            (Some(_), true) => return Vec::new(),
            (Some(_), false) => (
                format!("alter database {name:?}: {}", options.join(", ")),
                format!("ALTER DATABASE {quoted} {}", options.join(" ")),
            ),
            (None, true) => (
                format!("create database {name:?}"),
                format!("CREATE DATABASE {quoted}"),
            ),
            (None, false) => (
                format!("create database {name:?}: {}", options.join(", ")),
                format!("CREATE DATABASE {quoted} {}", options.join(" ")),
            ),
        };
        vec![Statement::new(says, sql)]
    }
}

/// The database as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    character_set: String,
    collation: String,
    tables: u64,
}

/// The module.
#[derive(Default)]
pub struct MysqlDatabase {
    session: Session<Target>,
}

impl Module for MysqlDatabase {
    const NAME: &'static str = "mysql_database";
    const EXAMPLES: &'static str = r#"
- name: An application's database
  ondol.cloud.mysql_database:
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

/// Servers of some versions call it `utf8`, of others `utf8mb3`, and take both.
fn same(a: &str, b: &str) -> bool {
    let short = |word: &str| match word.strip_prefix("utf8mb3") {
        Some(rest) => format!("utf8{rest}"),
        None => word.to_owned(),
    };
    short(a) == short(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(json: serde_json::Value, current: &Found<Database>) -> Vec<String> {
        let params: Params = serde_json::from_value(json).expect("params");
        let desired = Desired::try_from(params).expect("valid");
        MysqlDatabase::plan(&desired, current)
            .iter()
            .map(|step| format!("{} | {}", step.says, step.sql))
            .collect()
    }

    #[test]
    fn plans() {
        let there = |tables| {
            Found::Present(Database {
                character_set: "utf8mb4".to_owned(),
                collation: "utf8mb4_0900_ai_ci".to_owned(),
                tables,
            })
        };
        let app = serde_json::json!({"name": "a`pp", "character_set": "UTF8MB4"});
        let create = [
            "create database \"a`pp\": CHARACTER SET utf8mb4 | CREATE DATABASE `a``pp` CHARACTER SET utf8mb4",
        ];
        assert_eq!(lines(app.clone(), &Found::Absent), create);
        assert_eq!(lines(app.clone(), &Found::NoServer), create);
        assert_eq!(lines(app, &there(3)), [""; 0]);
        assert_eq!(
            lines(
                serde_json::json!({"name": "app", "collation": "utf8mb4_bin"}),
                &there(3)
            ),
            [
                "alter database \"app\": COLLATE utf8mb4_bin | ALTER DATABASE `app` COLLATE utf8mb4_bin"
            ]
        );
        let gone = serde_json::json!({"name": "app", "state": "absent", "delete_data": true});
        assert_eq!(
            lines(gone.clone(), &there(3)),
            ["drop database \"app\" with its 3 tables | DROP DATABASE `app`"]
        );
        assert_eq!(lines(gone, &Found::Absent), [""; 0]);
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (json, param) in [
            (serde_json::json!({"name": ""}), "name"),
            (serde_json::json!({"name": "MySQL"}), "name"),
            (
                serde_json::json!({"name": "a", "character_set": "x; y"}),
                "character_set",
            ),
            (
                serde_json::json!({"name": "a", "collation": ""}),
                "collation",
            ),
        ] {
            let params: Params = serde_json::from_value(json).expect("params");
            let error = Desired::try_from(params).expect_err("invalid");
            assert_eq!(error.param, param);
        }
    }
}
