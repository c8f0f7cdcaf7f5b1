//! `postgresql_extension`: an extension in one database. The package that holds it is the distribution's.

use anyhow::Context as _;
use ondol_database::Session;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::server::{Found, Presence, Scope, Server, Statement, Target, usual_cluster};
use crate::sql::{check_name, identifier, literal};

/// Manage an extension in a PostgreSQL database
///
/// An option left out is left alone: without O(extension_version) an extension that is there is never updated.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the extension.
    name: String,
    /// Database to have it in.
    database: String,
    /// Whether it shall be there.
    #[serde(default)]
    state: Presence,
    /// Schema for its objects; it must exist.
    schema: Option<String>,
    /// Version, or V(latest) for the newest that the server's files hold.
    extension_version: Option<String>,
    /// Whether to create the extensions that it needs, and to drop those that need it.
    #[serde(default)]
    cascade: bool,
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
        let schema = params.schema.iter().map(|name| ("schema", name));
        for (path, name) in [("name", &params.name), ("database", &params.database)]
            .into_iter()
            .chain(schema)
        {
            check_name(name).map_err(|reason| Invalid::new(path, reason))?;
        }
        Ok(Self {
            target: Target::new(params.version, &params.cluster, params.server.clone())?,
            params,
        })
    }
}

/// The extension as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    version: String,
    schema: String,
    /// The newest that the server could make of it.
    latest: String,
}

/// The module.
#[derive(Default)]
pub struct PostgresqlExtension {
    session: Session<Scope>,
}

impl Module for PostgresqlExtension {
    const NAME: &'static str = "postgresql_extension";
    const EXAMPLES: &'static str = r#"
- name: Statistics of statements
  ondol.cloud.postgresql_extension:
    version: 15
    database: app
    name: pg_stat_statements
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Found<Extension>;
    type Step = Statement;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Found<Extension>> {
        let params = &desired.params;
        let scope = desired.target.scope(&params.database);
        let Some(client) = self.session.open(&scope)? else {
            return Ok(Found::NoServer);
        };
        let rows = client
            .query(&format!(
                "SELECT e.extversion, n.nspname, coalesce(a.default_version, e.extversion)
                 FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace LEFT JOIN pg_available_extensions a ON a.name = e.extname
                 WHERE e.extname = {}",
                literal(&params.name)
            ))
            .with_context(|| format!("look up extension {:?}", params.name))?;
        Ok(rows.first().map_or(Found::Absent, |row| {
            Found::Present(Extension {
                version: row.text(0).to_owned(),
                schema: row.text(1).to_owned(),
                latest: row.text(2).to_owned(),
            })
        }))
    }

    fn plan(desired: &Desired, current: &Found<Extension>) -> Vec<Statement> {
        let params = &desired.params;
        let (name, quoted) = (&params.name, identifier(&params.name));
        let database = &params.database;
        let cascade = if params.cascade { " CASCADE" } else { "" };
        let given = params.extension_version.as_deref();
        match (params.state, current.present()) {
            (Presence::Absent, None) => Vec::new(),
            (Presence::Absent, Some(_)) => vec![Statement::new(
                format!("drop extension {name:?} of database {database:?}"),
                format!("DROP EXTENSION {quoted}{cascade}"),
            )],
            (Presence::Present, None) => {
                let schema = (params.schema.as_deref())
                    .map(|schema| format!(" SCHEMA {}", identifier(schema)))
                    .unwrap_or_default();
                let version = given
                    .filter(|version| *version != "latest")
                    .map(|version| format!(" VERSION {}", literal(version)))
                    .unwrap_or_default();
                vec![Statement::new(
                    format!("create extension {name:?} in database {database:?}"),
                    format!("CREATE EXTENSION {quoted}{schema}{version}{cascade}"),
                )]
            }
            (Presence::Present, Some(extension)) => {
                let mut steps = Vec::new();
                let version = match given {
                    Some("latest") => Some(extension.latest.as_str()),
                    other => other,
                };
                if let Some(version) = version
                    && version != extension.version
                {
                    steps.push(Statement::new(
                        format!(
                            "update extension {name:?} of database {database:?} from {} to {version}",
                            extension.version
                        ),
                        format!("ALTER EXTENSION {quoted} UPDATE TO {}", literal(version)),
                    ));
                }
                if let Some(schema) = &params.schema
                    && *schema != extension.schema
                {
                    steps.push(Statement::new(
                        format!(
                            "move extension {name:?} of database {database:?} from schema {:?} to {schema:?}",
                            extension.schema
                        ),
                        format!("ALTER EXTENSION {quoted} SET SCHEMA {}", identifier(schema)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let there = Found::Present(Extension {
            version: "1.9".to_owned(),
            schema: "public".to_owned(),
            latest: "1.10".to_owned(),
        });
        for (json, current, wanted) in [
            (
                serde_json::json!({}),
                &Found::Absent,
                vec!["CREATE EXTENSION \"x\""],
            ),
            (
                serde_json::json!({"extension_version": "1.9", "schema": "e", "cascade": true}),
                &Found::NoServer,
                vec!["CREATE EXTENSION \"x\" SCHEMA \"e\" VERSION '1.9' CASCADE"],
            ),
            (serde_json::json!({}), &there, vec![]),
            (
                serde_json::json!({"extension_version": "1.9", "schema": "public"}),
                &there,
                vec![],
            ),
            (
                serde_json::json!({"extension_version": "latest", "schema": "e"}),
                &there,
                vec![
                    "ALTER EXTENSION \"x\" UPDATE TO '1.10'",
                    "ALTER EXTENSION \"x\" SET SCHEMA \"e\"",
                ],
            ),
            (
                serde_json::json!({"state": "absent"}),
                &there,
                vec!["DROP EXTENSION \"x\""],
            ),
            (
                serde_json::json!({"state": "absent"}),
                &Found::Absent,
                vec![],
            ),
        ] {
            let mut args = json.clone();
            args["name"] = "x".into();
            args["database"] = "app".into();
            args["version"] = 15.into();
            let params: Params = serde_json::from_value(args).expect("params");
            let desired = Desired::try_from(params).expect("valid");
            let sql: Vec<String> = PostgresqlExtension::plan(&desired, current)
                .into_iter()
                .map(|step| step.sql)
                .collect();
            assert_eq!(sql, wanted, "{json}");
        }
    }
}
