//! `postgresql_database`: a database as a whole. What is in it is not its business.

use anyhow::Context as _;
use ondol_database::Session;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::server::{ANY, Found, Presence, Scope, Server, Statement, Target, usual_cluster};
use crate::sql::{check_name, identifier, literal};

/// Manage a PostgreSQL database
///
/// Encoding and locale are fixed when a database is made: another wish later is an error and never a new database. An option left out is left
/// alone.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the database.
    name: String,
    /// Whether it shall exist. C(absent) deletes it with everything in it.
    #[serde(default)]
    state: Presence,
    /// Role that owns it.
    owner: Option<String>,
    /// Encoding, as V(UTF8).
    encoding: Option<String>,
    /// Order of text, as V(C.UTF-8).
    lc_collate: Option<String>,
    /// Classes of characters, as V(C.UTF-8).
    lc_ctype: Option<String>,
    /// Database to copy. V(template0), if an encoding or locale is given.
    template: Option<String>,
    /// How many connections it may have; V(-1) is any number.
    #[schemars(range(min = -1))]
    connection_limit: Option<i32>,
    /// With O(state=absent): whether to end the sessions that use it. Else they keep it alive, and the task fails.
    #[serde(default)]
    force: bool,
    /// Major version of the cluster on this machine.
    version: Option<u16>,
    /// Name of the cluster on this machine.
    #[serde(default = "usual_cluster")]
    cluster: String,
    /// A server that is reached over TCP, in place of a cluster on this machine.
    server: Option<Server>,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
    params: Params,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name(&params.name).map_err(|reason| Invalid::new("name", reason))?;
        if params.state == Presence::Absent
            && ["postgres", "template0", "template1"].contains(&params.name.as_str())
        {
            return Err(Invalid::new(
                "name",
                format!("{:?} belongs to the server and is not removed", params.name),
            ));
        }
        for (path, name) in [("owner", &params.owner), ("template", &params.template)] {
            if let Some(name) = name {
                check_name(name).map_err(|reason| Invalid::new(path, reason))?;
            }
        }
        Ok(Self {
            target: Target::new(params.version, &params.cluster, params.server.clone())?,
            params,
        })
    }
}

/// The database as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    owner: String,
    encoding: String,
    lc_collate: String,
    lc_ctype: String,
    connection_limit: i32,
}

/// The module.
#[derive(Default)]
pub struct PostgresqlDatabase {
    session: Session<Scope>,
}

impl Module for PostgresqlDatabase {
    const NAME: &'static str = "postgresql_database";
    const EXAMPLES: &'static str = r#"
- name: An application's database
  ondol.cloud.postgresql_database:
    version: 15
    name: app
    owner: app
    encoding: UTF8
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Found<Database>;
    type Step = Statement;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Found<Database>> {
        let Some(client) = self.session.open(&desired.target.scope(ANY))? else {
            return Ok(Found::NoServer);
        };
        let name = &desired.params.name;
        let rows = client
            .query(&format!(
                "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit
                 FROM pg_database WHERE datname = {}",
                literal(name)
            ))
            .with_context(|| format!("look up database {name:?}"))?;
        let Some(row) = rows.first() else {
            return Ok(Found::Absent);
        };
        let database = Database {
            owner: row.text(0).to_owned(),
            encoding: row.text(1).to_owned(),
            lc_collate: row.text(2).to_owned(),
            lc_ctype: row.text(3).to_owned(),
            connection_limit: row.text(4).parse().unwrap_or(-1),
        };
        fixed(&desired.params, &database)?;
        Ok(Found::Present(database))
    }

    fn plan(desired: &Desired, current: &Found<Database>) -> Vec<Statement> {
        let params = &desired.params;
        let (name, quoted) = (&params.name, identifier(&params.name));
        match (params.state, current.present()) {
            (Presence::Absent, None) => Vec::new(),
            (Presence::Absent, Some(_)) => {
                let (how, force) = if params.force {
                    (" and end its sessions", " WITH (FORCE)")
                } else {
                    ("", "")
                };
                vec![Statement::new(
                    format!("drop database {name:?}{how}"),
                    format!("DROP DATABASE {quoted}{force}"),
                )]
            }
            (Presence::Present, None) => vec![create(params)],
            (Presence::Present, Some(database)) => {
                let mut steps = Vec::new();
                if let Some(owner) = &params.owner
                    && *owner != database.owner
                {
                    steps.push(Statement::new(
                        format!(
                            "change the owner of database {name:?} from {:?} to {owner:?}",
                            database.owner
                        ),
                        format!("ALTER DATABASE {quoted} OWNER TO {}", identifier(owner)),
                    ));
                }
                if let Some(limit) = params.connection_limit
                    && limit != database.connection_limit
                {
                    steps.push(Statement::new(
                        format!(
                            "change the connection limit of database {name:?} from {} to {limit}",
                            database.connection_limit
                        ),
                        format!("ALTER DATABASE {quoted} CONNECTION LIMIT {limit}"),
                    ));
                }
                steps
            }
        }
    }

    fn apply(&mut self, step: &Statement) -> anyhow::Result<()> {
        self.session.run(step)
    }
}

fn create(params: &Params) -> Statement {
    let shaped =
        params.encoding.is_some() || params.lc_collate.is_some() || params.lc_ctype.is_some();
    let template = (params.template.as_deref()).or(shaped.then_some("template0"));
    let options: Vec<String> = [
        ("OWNER", params.owner.as_deref().map(identifier)),
        ("TEMPLATE", template.map(identifier)),
        ("ENCODING", params.encoding.as_deref().map(literal)),
        ("LC_COLLATE", params.lc_collate.as_deref().map(literal)),
        ("LC_CTYPE", params.lc_ctype.as_deref().map(literal)),
        (
            "CONNECTION LIMIT",
            params.connection_limit.map(|limit| limit.to_string()),
        ),
    ]
    .into_iter()
    .filter_map(|(word, value)| Some(format!(" {word} {}", value?)))
    .collect();
    let options = options.concat();
    Statement::new(
        format!(
            "create database {:?}{}",
            params.name,
            options.to_lowercase()
        ),
        format!("CREATE DATABASE {}{options}", identifier(&params.name)),
    )
}

/// What cannot be changed any more.
fn fixed(params: &Params, database: &Database) -> Result<(), Invalid> {
    if params.state == Presence::Absent {
        return Ok(());
    }
    // The server takes many spellings: UTF8, UTF-8, utf8.
    let spelt = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    for (path, wanted, has) in [
        ("encoding", &params.encoding, &database.encoding),
        ("lc_collate", &params.lc_collate, &database.lc_collate),
        ("lc_ctype", &params.lc_ctype, &database.lc_ctype),
    ] {
        if let Some(wanted) = wanted
            && spelt(wanted) != spelt(has)
        {
            return Err(Invalid::new(
                path,
                format!(
                    "database {:?} has {has:?}, and that cannot be changed to {wanted:?}: dump it and load it into a new one",
                    params.name
                ),
            ));
        }
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

    fn sql(json: serde_json::Value, current: &Found<Database>) -> Vec<String> {
        PostgresqlDatabase::plan(&desired(json), current)
            .into_iter()
            .map(|step| step.sql)
            .collect()
    }

    fn app() -> Found<Database> {
        Found::Present(Database {
            owner: "app".to_owned(),
            encoding: "UTF8".to_owned(),
            lc_collate: "C.UTF-8".to_owned(),
            lc_ctype: "C.UTF-8".to_owned(),
            connection_limit: -1,
        })
    }

    #[test]
    fn plans() {
        for (json, current, wanted) in [
            (
                serde_json::json!({"name": "app", "owner": "app", "encoding": "UTF8", "connection_limit": 9}),
                Found::Absent,
                vec![
                    "CREATE DATABASE \"app\" OWNER \"app\" TEMPLATE \"template0\" ENCODING 'UTF8' CONNECTION LIMIT 9",
                ],
            ),
            (
                serde_json::json!({"name": "app"}),
                Found::NoServer,
                vec!["CREATE DATABASE \"app\""],
            ),
            (
                serde_json::json!({"name": "app", "owner": "app", "encoding": "utf-8"}),
                app(),
                vec![],
            ),
            (
                serde_json::json!({"name": "app", "owner": "o'x", "connection_limit": 3}),
                app(),
                vec![
                    "ALTER DATABASE \"app\" OWNER TO \"o'x\"",
                    "ALTER DATABASE \"app\" CONNECTION LIMIT 3",
                ],
            ),
            (
                serde_json::json!({"name": "app", "state": "absent"}),
                app(),
                vec!["DROP DATABASE \"app\""],
            ),
            (
                serde_json::json!({"name": "app", "state": "absent", "force": true}),
                app(),
                vec!["DROP DATABASE \"app\" WITH (FORCE)"],
            ),
            (
                serde_json::json!({"name": "app", "state": "absent"}),
                Found::Absent,
                vec![],
            ),
        ] {
            assert_eq!(sql(json.clone(), &current), wanted, "{json}");
        }
    }

    #[test]
    fn another_encoding_is_refused_and_never_made_anew() {
        let wish = desired(serde_json::json!({"name": "app", "encoding": "LATIN1"}));
        let Found::Present(database) = app() else {
            unreachable!("it is present")
        };
        let error = fixed(&wish.params, &database).expect_err("fixed");
        assert_eq!(error.param, "encoding");
    }
}
