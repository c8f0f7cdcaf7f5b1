//! `postgresql_role`: a role, its attributes, memberships and password. It does not manage what the role owns or may do: `privileges` does.

use std::collections::BTreeSet;

use anyhow::Context as _;
use ondol_database::Session;
use ondol_kit::{Invalid, Module, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Row;
use crate::scram::{self, Salt};
use crate::server::{ANY, Found, Presence, Scope, Server, Statement, Target, usual_cluster};
use crate::sql::{check_name, identifier, literal};

/// Manage a PostgreSQL role, its password and its memberships
///
/// A password is compared with the SCRAM verifier that the server stores, by computing it anew from the stored salt: a second run changes
/// nothing. The server only ever gets a verifier, with its statement log switched off for that moment. An option left out is left alone.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the role, any characters.
    name: String,
    /// Whether it shall exist. A role that owns something or has privileges is not removed: the server says what.
    #[serde(default)]
    state: Presence,
    /// Password, or a verifier that begins with C(SCRAM-SHA-256$).
    password: Option<Secret>,
    /// Whether it may log in.
    login: Option<bool>,
    /// Whether it may do everything.
    superuser: Option<bool>,
    /// Whether it may create databases.
    createdb: Option<bool>,
    /// Whether it may create roles.
    createrole: Option<bool>,
    /// Whether it may replicate.
    replication: Option<bool>,
    /// Whether row security does not concern it.
    bypassrls: Option<bool>,
    /// Whether it has the privileges of its groups without C(SET ROLE).
    inherit: Option<bool>,
    /// How many connections it may have; V(-1) is any number.
    #[schemars(range(min = -1))]
    connection_limit: Option<i32>,
    /// Time from which the password is not taken, as V(2030-01-01 00:00+00), or V(infinity).
    valid_until: Option<String>,
    /// Exactly the roles that it is a member of.
    member_of: Option<Vec<String>>,
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
    name: String,
    wanted: Option<Wanted>,
}

#[derive(Debug, Clone, Default)]
struct Wanted {
    password: Option<Password>,
    /// In the order of [`ATTRIBUTES`].
    attributes: [Option<bool>; ATTRIBUTES.len()],
    connection_limit: Option<i32>,
    valid_until: Option<String>,
    member_of: Option<BTreeSet<String>>,
}

#[derive(Debug, Clone)]
struct Password {
    given: Secret,
    salt: Salt,
}

impl Password {
    /// As SQL writes it, in the form that the server keeps.
    fn clause(&self) -> String {
        let verifier = scram::verifier(self.given.expose(), &self.salt);
        format!("PASSWORD {}", literal(&verifier))
    }
}

const ATTRIBUTES: [&str; 7] = [
    "LOGIN",
    "SUPERUSER",
    "CREATEDB",
    "CREATEROLE",
    "REPLICATION",
    "BYPASSRLS",
    "INHERIT",
];

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name(&params.name).map_err(|reason| Invalid::new("name", reason))?;
        if params.name.starts_with("pg_") {
            return Err(Invalid::new(
                "name",
                "roles that begin with \"pg_\" belong to the server",
            ));
        }
        let groups = params.member_of.iter().flatten().enumerate();
        for (index, group) in groups {
            check_name(group)
                .map_err(|reason| Invalid::new(format!("member_of[{index}]"), reason))?;
        }
        if let Some(password) = &params.password
            && (password.expose().is_empty() || password.expose().contains('\0'))
        {
            return Err(Invalid::new("password", "must not be empty or hold a NUL"));
        }
        let wanted = match params.state {
            Presence::Absent => None,
            Presence::Present => Some(Wanted {
                password: params.password.map(|given| Password {
                    given,
                    salt: Salt::random(),
                }),
                attributes: [
                    params.login,
                    params.superuser,
                    params.createdb,
                    params.createrole,
                    params.replication,
                    params.bypassrls,
                    params.inherit,
                ],
                connection_limit: params.connection_limit,
                valid_until: params.valid_until,
                member_of: params.member_of.map(BTreeSet::from_iter),
            }),
        };
        Ok(Self {
            target: Target::new(params.version, &params.cluster, params.server)?,
            name: params.name,
            wanted,
        })
    }
}

/// The role as it is, as far as it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    attributes: [bool; ATTRIBUTES.len()],
    connection_limit: i32,
    /// Empty where it is not asked for.
    member_of: BTreeSet<String>,
    /// Whether the stored verifier is the given password's.
    password_fits: bool,
    /// Whether the stored time is the given one.
    valid_until_fits: bool,
}

/// The module.
#[derive(Default)]
pub struct PostgresqlRole {
    session: Session<Scope>,
}

impl Module for PostgresqlRole {
    const NAME: &'static str = "postgresql_role";
    const EXAMPLES: &'static str = r#"
- name: An application's role
  ondol.cloud.postgresql_role:
    version: 15
    name: app
    password: "{{ vault_app_password }}"
    login: true
    member_of: [readers]
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Found<Role>;
    type Step = Statement;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Found<Role>> {
        let Some(client) = self.session.open(&desired.target.scope(ANY))? else {
            return Ok(Found::NoServer);
        };
        let wanted = desired.wanted.clone().unwrap_or_default();
        // Not everybody may read pg_authid, and it is of no use without a password.
        let (table, password) = match wanted.password {
            Some(_) => ("pg_authid", "rolpassword"),
            None => ("pg_roles", "NULL"),
        };
        let until_fits = match &wanted.valid_until {
            Some(until) => format!(
                "coalesce(rolvaliduntil, 'infinity') = {}::timestamptz",
                literal(until)
            ),
            None => "true".to_owned(),
        };
        let rows = client
            .query(&format!(
                "SELECT rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit, rolconnlimit,
                        {until_fits}, {password}
                 FROM {table} WHERE rolname = {}",
                literal(&desired.name)
            ))
            .with_context(|| format!("look up role {:?}", desired.name))?;
        let Some(row) = rows.first() else {
            return Ok(Found::Absent);
        };
        let mut role = role_of(row);
        // It costs the server more than the role itself.
        if wanted.member_of.is_some() {
            let groups = client
                .query(&format!(
                    "SELECT DISTINCT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
                     WHERE r.rolname = {}",
                    literal(&desired.name)
                ))
                .with_context(|| format!("look up the groups of role {:?}", desired.name))?;
            role.member_of = groups.iter().map(|row| row.text(0).to_owned()).collect();
        }
        role.password_fits = wanted
            .password
            .is_some_and(|password| scram::matches(row.text(9), password.given.expose()));
        Ok(Found::Present(role))
    }

    fn plan(desired: &Desired, current: &Found<Role>) -> Vec<Statement> {
        let (name, quoted) = (&desired.name, identifier(&desired.name));
        let Some(wanted) = &desired.wanted else {
            return match current {
                Found::Present(_) => vec![Statement::new(
                    format!("drop role {name:?}"),
                    format!("DROP ROLE {quoted}"),
                )],
                Found::Absent | Found::NoServer => Vec::new(),
            };
        };
        let mut steps = Vec::new();
        let role = current.present();
        let options = options(wanted, role);
        if role.is_none() {
            steps.push(create(name, wanted, options));
        } else if !options.is_empty() {
            steps.push(Statement::new(
                format!("alter role {name:?}: {}", options.join(", ")),
                format!("ALTER ROLE {quoted} {}", options.join(" ")),
            ));
        }
        if let Some(password) = &wanted.password
            && role.is_some_and(|role| !role.password_fits)
        {
            steps.push(
                Statement::new(
                    format!("set the password of role {name:?}"),
                    format!("ALTER ROLE {quoted} {}", password.clause()),
                )
                .secret(),
            );
        }
        let has = role.map(|role| role.member_of.clone()).unwrap_or_default();
        let groups = wanted.member_of.as_ref().unwrap_or(&has);
        for group in groups.difference(&has) {
            steps.push(Statement::new(
                format!("make role {name:?} a member of {group:?}"),
                format!("GRANT {} TO {quoted}", identifier(group)),
            ));
        }
        for group in has.difference(groups) {
            steps.push(Statement::new(
                format!("take role {name:?} out of {group:?}"),
                format!("REVOKE {} FROM {quoted}", identifier(group)),
            ));
        }
        steps
    }

    fn apply(&mut self, step: &Statement) -> anyhow::Result<()> {
        self.session.run(step)
    }
}

/// With its password: a role is never there without, and it is one commit.
fn create(name: &str, wanted: &Wanted, options: Vec<String>) -> Statement {
    let mut says = options.clone();
    let mut sql = vec![format!("CREATE ROLE {}", identifier(name))];
    sql.extend(options);
    if let Some(password) = &wanted.password {
        says.insert(0, "its password".to_owned());
        sql.push(password.clause());
    }
    let with = if says.is_empty() { "" } else { " with " };
    let statement = Statement::new(
        format!("create role {name:?}{with}{}", says.join(", ")),
        sql.join(" "),
    );
    match wanted.password {
        Some(_) => statement.secret(),
        None => statement,
    }
}

/// What `CREATE ROLE` or `ALTER ROLE` is told. A new role has the server's own defaults.
fn options(wanted: &Wanted, role: Option<&Role>) -> Vec<String> {
    let mut options = Vec::new();
    for (index, word) in ATTRIBUTES.into_iter().enumerate() {
        let Some(yes) = wanted.attributes[index] else {
            continue;
        };
        let has = role.map_or(word == "INHERIT", |role| role.attributes[index]);
        if yes != has {
            options.push(format!("{}{word}", if yes { "" } else { "NO" }));
        }
    }
    if let Some(limit) = wanted.connection_limit
        && limit != role.map_or(-1, |role| role.connection_limit)
    {
        options.push(format!("CONNECTION LIMIT {limit}"));
    }
    if let Some(until) = &wanted.valid_until
        && !role.is_some_and(|role| role.valid_until_fits)
    {
        options.push(format!("VALID UNTIL {}", literal(until)));
    }
    options
}

fn role_of(row: &Row) -> Role {
    Role {
        attributes: std::array::from_fn(|column| row.text(column) == "t"),
        connection_limit: row.text(7).parse().unwrap_or(-1),
        valid_until_fits: row.text(8) == "t",
        ..Role::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(mut json: serde_json::Value) -> Desired {
        json["version"] = 15.into();
        let params: Params = serde_json::from_value(json).expect("params");
        Desired::try_from(params).expect("valid")
    }

    fn lines(json: serde_json::Value, current: &Found<Role>) -> Vec<String> {
        PostgresqlRole::plan(&desired(json), current)
            .iter()
            .map(|step| {
                if step.secret {
                    step.says.clone()
                } else {
                    format!("{} | {}", step.says, step.sql)
                }
            })
            .collect()
    }

    fn app() -> Role {
        Role {
            // LOGIN and INHERIT.
            attributes: [true, false, false, false, false, false, true],
            connection_limit: -1,
            member_of: BTreeSet::from(["readers".to_owned()]),
            password_fits: true,
            valid_until_fits: true,
        }
    }

    #[test]
    fn plans() {
        let full = serde_json::json!({"name": "app", "password": "x", "login": true, "member_of": ["readers"], "inherit": true});
        let create = [
            "create role \"app\" with its password, LOGIN",
            "make role \"app\" a member of \"readers\" | GRANT \"readers\" TO \"app\"",
        ];
        assert_eq!(lines(full.clone(), &Found::Absent), create);
        assert_eq!(lines(full.clone(), &Found::NoServer), create);
        for (json, line) in [
            (
                serde_json::json!({"name": "app", "login": true}),
                "create role \"app\" with LOGIN | CREATE ROLE \"app\" LOGIN",
            ),
            (
                serde_json::json!({"name": "app"}),
                "create role \"app\" | CREATE ROLE \"app\"",
            ),
        ] {
            assert_eq!(lines(json, &Found::Absent), [line]);
        }
        assert_eq!(lines(full.clone(), &Found::Present(app())), [""; 0]);
        let other_password = Role {
            password_fits: false,
            ..app()
        };
        assert_eq!(
            lines(full, &Found::Present(other_password)),
            ["set the password of role \"app\""]
        );
        assert_eq!(
            lines(
                serde_json::json!({"name": "app", "login": false, "createdb": true, "connection_limit": 5, "member_of": []}),
                &Found::Present(app())
            ),
            [
                "alter role \"app\": NOLOGIN, CREATEDB, CONNECTION LIMIT 5 | ALTER ROLE \"app\" NOLOGIN CREATEDB CONNECTION LIMIT 5",
                "take role \"app\" out of \"readers\" | REVOKE \"readers\" FROM \"app\"",
            ]
        );
        // What is left out is left alone.
        assert_eq!(
            lines(serde_json::json!({"name": "app"}), &Found::Present(app())),
            [""; 0]
        );
        assert_eq!(
            lines(
                serde_json::json!({"name": "a\"b", "state": "absent"}),
                &Found::Present(app())
            ),
            ["drop role \"a\\\"b\" | DROP ROLE \"a\"\"b\""]
        );
        assert_eq!(
            lines(
                serde_json::json!({"name": "app", "state": "absent"}),
                &Found::Absent
            ),
            [""; 0]
        );
    }

    #[test]
    fn neither_password_nor_verifier_is_in_what_is_printed() {
        let desired = desired(serde_json::json!({"name": "app", "password": "hunter2"}));
        let other = Role {
            password_fits: false,
            ..app()
        };
        for current in [Found::Absent, Found::Present(other)] {
            let steps = PostgresqlRole::plan(&desired, &current);
            let printed = format!("{steps:?} {desired:?} {}", steps[0]);
            assert!(
                !printed.contains("hunter2") && !printed.contains("SCRAM"),
                "{printed}"
            );
            assert!(steps[0].sql.contains("PASSWORD 'SCRAM-SHA-256$4096:"));
            assert!(!steps[0].sql.contains("hunter2"));
        }
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (json, param) in [
            (serde_json::json!({"name": ""}), "name"),
            (serde_json::json!({"name": "pg_app"}), "name"),
            (
                serde_json::json!({"name": "a", "member_of": ["b", ""]}),
                "member_of[1]",
            ),
            (serde_json::json!({"name": "a", "password": ""}), "password"),
            (serde_json::json!({"name": "a", "version": null}), "version"),
            (serde_json::json!({"name": "a", "version": 12}), "version"),
        ] {
            let mut json = json;
            if json.get("version").is_none() {
                json["version"] = 15.into();
            }
            let params: Params = serde_json::from_value(json).expect("params");
            let error = Desired::try_from(params).expect_err("invalid");
            assert_eq!(error.param, param);
        }
    }
}
