//! `postgresql_privileges`: what one role may do in one database, in one task. Memberships and attributes are the role's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use ondol_database::Session;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Client;
use crate::server::{Presence, Scope, Server, Statement, Target, usual_cluster};
use crate::sql::{check_name, identifier, literal, literals};

/// Manage what a PostgreSQL role may do in a database
///
/// One task holds all grants of a role in a database, on objects that exist and, with O(grants[].future_by), on those that a role will make.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Role that gets the privileges, or V(PUBLIC) for everyone.
    role: String,
    /// Database.
    database: String,
    /// What the role may do.
    #[schemars(length(min = 1))]
    grants: Vec<Grant>,
    /// Whether the role shall have these privileges. C(absent) takes them away.
    #[serde(default)]
    state: Presence,
    /// Whether to take away what else the role has been granted on the same objects.
    #[serde(default)]
    exclusive: bool,
    /// Major version of the cluster on this machine.
    version: Option<u16>,
    /// Name of the cluster on this machine.
    #[serde(default = "usual_cluster")]
    cluster: String,
    /// A server that is reached over TCP, in place of a cluster on this machine.
    server: Option<Server>,
}

/// Privileges on objects of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Kind of the objects. V(table) stands for views too.
    object_type: Kind,
    /// Schema of tables, sequences and functions.
    #[serde(default = "public")]
    schema: String,
    /// Names of schemas, tables, sequences or functions (with or without their argument types). Left out: all in the schema. Not for V(database).
    names: Option<Vec<String>>,
    /// Such as V(SELECT) or V(USAGE); V(ALL) for all that the kind knows.
    #[schemars(length(min = 1))]
    privileges: Vec<String>,
    /// Whether the role may pass them on.
    #[serde(default)]
    grant_option: bool,
    /// Role whose future objects of this kind, in this schema, are granted as well.
    future_by: Option<String>,
}

/// What privileges are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Database,
    Schema,
    Table,
    Sequence,
    Function,
}

fn public() -> String {
    "public".to_owned()
}

impl Kind {
    fn privileges(self) -> &'static [&'static str] {
        match self {
            Self::Database => &["CONNECT", "CREATE", "TEMPORARY"],
            Self::Schema => &["CREATE", "USAGE"],
            Self::Table => &[
                "DELETE",
                "INSERT",
                "REFERENCES",
                "SELECT",
                "TRIGGER",
                "TRUNCATE",
                "UPDATE",
            ],
            Self::Sequence => &["SELECT", "UPDATE", "USAGE"],
            Self::Function => &["EXECUTE"],
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Database => "DATABASE",
            Self::Schema => "SCHEMA",
            Self::Table => "TABLE",
            Self::Sequence => "SEQUENCE",
            Self::Function => "FUNCTION",
        }
    }

    /// `pg_default_acl.defaclobjtype`.
    fn letter(self) -> Option<char> {
        match self {
            Self::Table => Some('r'),
            Self::Sequence => Some('S'),
            Self::Function => Some('f'),
            Self::Database | Self::Schema => None,
        }
    }
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
    database: String,
    /// None for PUBLIC.
    role: Option<String>,
    grants: Vec<Wanted>,
    present: bool,
    exclusive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    grant: Grant,
    privileges: BTreeSet<&'static str>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name(&params.role).map_err(|reason| Invalid::new("role", reason))?;
        check_name(&params.database).map_err(|reason| Invalid::new("database", reason))?;
        let grants = params
            .grants
            .into_iter()
            .enumerate()
            .map(|(index, grant)| wanted(index, grant))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            target: Target::new(params.version, &params.cluster, params.server)?,
            database: params.database,
            role: Some(params.role).filter(|role| !role.eq_ignore_ascii_case("public")),
            grants,
            present: params.state == Presence::Present,
            exclusive: params.exclusive,
        })
    }
}

fn wanted(index: usize, grant: Grant) -> Result<Wanted, Invalid> {
    let invalid =
        |name: &str, reason: String| Err(Invalid::new(format!("grants[{index}].{name}"), reason));
    match (grant.object_type, &grant.names) {
        (Kind::Database, Some(_)) => {
            return invalid(
                "names",
                "the database is the parameter `database`".to_owned(),
            );
        }
        (Kind::Schema, None) => return invalid("names", "is needed for schemas".to_owned()),
        _ => {}
    }
    if grant.future_by.is_some() && grant.object_type.letter().is_none() {
        return invalid(
            "future_by",
            "is for tables, sequences and functions".to_owned(),
        );
    }
    if grant.names.as_ref().is_some_and(Vec::is_empty) {
        return invalid("names", "must not be empty".to_owned());
    }
    if grant.names.iter().flatten().any(|it| it.contains('\0')) {
        return invalid("names", "must not hold a NUL".to_owned());
    }
    let known = grant.object_type.privileges();
    let mut privileges = BTreeSet::new();
    for given in &grant.privileges {
        let word = given.to_ascii_uppercase();
        let word = if word == "TEMP" { "TEMPORARY" } else { &word };
        if matches!(word, "ALL" | "ALL PRIVILEGES") {
            privileges.extend(known);
            continue;
        }
        match known.iter().find(|it| **it == word) {
            Some(word) => privileges.insert(*word),
            None => {
                return invalid(
                    "privileges",
                    format!("{given:?} is not among {} and ALL", known.join(", ")),
                );
            }
        };
    }
    Ok(Wanted { grant, privileges })
}

/// One object, or the objects that a role will make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Quoted, with its schema.
    sql: String,
    /// Granted to the role; true with grant option.
    has: BTreeMap<String, bool>,
}

/// For each grant: its objects, and the privileges on future ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current(Vec<(Vec<Object>, BTreeMap<String, bool>)>);

/// The module.
#[derive(Default)]
pub struct PostgresqlPrivileges {
    session: Session<Scope>,
}

impl Module for PostgresqlPrivileges {
    const NAME: &'static str = "postgresql_privileges";
    const EXAMPLES: &'static str = r#"
- name: A role that reads everything, now and later
  ondol.cloud.postgresql_privileges:
    version: 15
    database: app
    role: readers
    grants:
      - {object_type: database, privileges: [CONNECT]}
      - {object_type: schema, names: [public], privileges: [USAGE]}
      - {object_type: table, schema: public, privileges: [SELECT], future_by: app}
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Statement;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let scope = desired.target.scope(&desired.database);
        let mut client = self.session.open(&scope)?;
        let grantee = match &desired.role {
            Some(role) => format!(
                "(SELECT oid FROM pg_roles WHERE rolname = {})",
                literal(role)
            ),
            None => "0::oid".to_owned(),
        };
        let mut all = Vec::new();
        for (index, wanted) in desired.grants.iter().enumerate() {
            let grant = &wanted.grant;
            let Some(client) = &mut client else {
                all.push((promised(grant, &desired.database), BTreeMap::new()));
                continue;
            };
            let objects = objects(client, grant, &desired.database, &grantee)
                .with_context(|| format!("look up the objects of grants[{index}]"))?;
            let objects = named(index, grant, objects)?;
            let future = match (&grant.future_by, grant.object_type.letter()) {
                (Some(owner), Some(letter)) => future(client, grant, owner, letter, &grantee)
                    .with_context(|| format!("look up the future of grants[{index}]"))?,
                _ => BTreeMap::new(),
            };
            all.push((objects, future));
        }
        Ok(Current(all))
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Statement> {
        let mut steps = Vec::new();
        for (wanted, (objects, future)) in desired.grants.iter().zip(&current.0) {
            // Objects that lack the same go into one statement.
            let mut changes: BTreeMap<Change, Vec<&str>> = BTreeMap::new();
            for object in objects {
                for change in differences(desired, wanted, &object.has) {
                    changes.entry(change).or_default().push(&object.sql);
                }
            }
            for (change, objects) in changes {
                let on = format!("{} {}", wanted.grant.object_type.word(), objects.join(", "));
                let text = change.text(&on, desired.role.as_deref());
                steps.push(Statement::new(text.clone(), text));
            }
            if let Some(owner) = &wanted.grant.future_by {
                let on = format!("{}S", wanted.grant.object_type.word());
                for change in differences(desired, wanted, future) {
                    let text = format!(
                        "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} {}",
                        identifier(owner),
                        identifier(&wanted.grant.schema),
                        change.text(&on, desired.role.as_deref())
                    );
                    steps.push(Statement::new(text.clone(), text));
                }
            }
        }
        steps
    }

    fn apply(&mut self, step: &Statement) -> anyhow::Result<()> {
        self.session.run(step)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Grant(Vec<String>, bool),
    Revoke(Vec<String>),
}

impl Change {
    fn text(&self, on: &str, role: Option<&str>) -> String {
        let role = role.map_or_else(|| "PUBLIC".to_owned(), identifier);
        match self {
            Self::Grant(privileges, option) => {
                let option = if *option { " WITH GRANT OPTION" } else { "" };
                format!("GRANT {} ON {on} TO {role}{option}", privileges.join(", "))
            }
            Self::Revoke(privileges) => {
                format!("REVOKE {} ON {on} FROM {role}", privileges.join(", "))
            }
        }
    }
}

fn differences(desired: &Desired, wanted: &Wanted, has: &BTreeMap<String, bool>) -> Vec<Change> {
    let names = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let wished = || wanted.privileges.iter().copied();
    let mut changes = Vec::new();
    if desired.present {
        let lacking: Vec<&str> = wished()
            .filter(|name| {
                !has.get(*name)
                    .is_some_and(|option| *option || !wanted.grant.grant_option)
            })
            .collect();
        if !lacking.is_empty() {
            changes.push(Change::Grant(names(lacking), wanted.grant.grant_option));
        }
        let extra: Vec<&str> = (has.keys().map(String::as_str))
            .filter(|name| desired.exclusive && !wanted.privileges.contains(name))
            .collect();
        if !extra.is_empty() {
            changes.push(Change::Revoke(names(extra)));
        }
    } else {
        let present: Vec<&str> = wished().filter(|name| has.contains_key(*name)).collect();
        if !present.is_empty() {
            changes.push(Change::Revoke(names(present)));
        }
    }
    changes
}

/// The objects by name, where nothing can be asked yet.
fn promised(grant: &Grant, database: &str) -> Vec<Object> {
    let object = |sql: String| Object {
        sql,
        has: BTreeMap::new(),
    };
    let names = grant.names.iter().flatten();
    match grant.object_type {
        Kind::Database => vec![object(identifier(database))],
        Kind::Schema => names.map(|name| object(identifier(name))).collect(),
        Kind::Table | Kind::Sequence | Kind::Function => names
            .map(|name| {
                object(format!(
                    "{}.{}",
                    identifier(&grant.schema),
                    identifier(name)
                ))
            })
            .collect(),
    }
}

/// Keeps what nobody asks for out of the answer: a schema may hold thousands of tables. A function may be asked for with its argument types, which
/// only [`named`] understands.
fn only(grant: &Grant, column: &str) -> String {
    match (&grant.names, grant.object_type) {
        (Some(names), Kind::Schema | Kind::Table | Kind::Sequence) => {
            let names = literals(names.iter().map(String::as_str));
            format!(" AND {column} IN {names}")
        }
        _ => String::new(),
    }
}

/// Objects with their plain names. A function is found by its name and by its name with argument types.
fn objects(
    client: &mut Client,
    grant: &Grant,
    database: &str,
    grantee: &str,
) -> anyhow::Result<Vec<(Vec<String>, Object)>> {
    let schema = literal(&grant.schema);
    let (name, sql, acl, letter, owner, from) = match grant.object_type {
        Kind::Database => (
            "d.datname",
            "quote_ident(d.datname)",
            "d.datacl",
            'd',
            "d.datdba",
            format!("pg_database d WHERE d.datname = {}", literal(database)),
        ),
        Kind::Schema => (
            "n.nspname",
            "quote_ident(n.nspname)",
            "n.nspacl",
            'n',
            "n.nspowner",
            "pg_namespace n WHERE true".to_owned(),
        ),
        Kind::Table => (
            "c.relname",
            "quote_ident(n.nspname) || '.' || quote_ident(c.relname)",
            "c.relacl",
            'r',
            "c.relowner",
            format!(
                "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {schema} AND c.relkind IN ('r','p','v','m','f')"
            ),
        ),
        Kind::Sequence => (
            "c.relname",
            "quote_ident(n.nspname) || '.' || quote_ident(c.relname)",
            "c.relacl",
            's',
            "c.relowner",
            format!(
                "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {schema} AND c.relkind = 'S'"
            ),
        ),
        Kind::Function => (
            "p.proname",
            "quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')'",
            "p.proacl",
            'f',
            "p.proowner",
            format!(
                "pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = {schema} AND p.prokind IN ('f','a','w')"
            ),
        ),
    };
    let only = only(grant, name);
    let rows = client.query(&format!(
        "SELECT {name}, {sql}, (SELECT string_agg(privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END, ',')
                FROM aclexplode(coalesce({acl}, acldefault('{letter}', {owner}))) WHERE grantee = {grantee})
         FROM {from}{only} ORDER BY 2"
    ))?;
    Ok(rows
        .iter()
        .map(|row| {
            let mut names = vec![row.text(0).to_owned()];
            if let Some((_, arguments)) = row.text(1).split_once('(') {
                names.push(format!("{}({arguments}", row.text(0)));
            }
            let object = Object {
                sql: row.text(1).to_owned(),
                has: privileges(row.text(2)),
            };
            (names, object)
        })
        .collect())
}

fn future(
    client: &mut Client,
    grant: &Grant,
    owner: &str,
    letter: char,
    grantee: &str,
) -> anyhow::Result<BTreeMap<String, bool>> {
    let text = client.value(&format!(
        "SELECT string_agg(a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ',')
         FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
         WHERE pg_get_userbyid(d.defaclrole) = {} AND n.nspname = {} AND d.defaclobjtype = '{letter}' AND a.grantee = {grantee}",
        literal(owner),
        literal(&grant.schema)
    ))?;
    Ok(privileges(&text))
}

/// `SELECT,INSERT*`. A privilege that two roles granted counts once.
fn privileges(text: &str) -> BTreeMap<String, bool> {
    let mut has = BTreeMap::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let name = word.trim_end_matches('*');
        *has.entry(name.to_owned()).or_default() |= word.ends_with('*');
    }
    has
}

/// Those that the grant names; all, if it names none.
fn named(
    index: usize,
    grant: &Grant,
    objects: Vec<(Vec<String>, Object)>,
) -> Result<Vec<Object>, Invalid> {
    let Some(wanted) = &grant.names else {
        return Ok(objects.into_iter().map(|(_, object)| object).collect());
    };
    for (at, name) in wanted.iter().enumerate() {
        if !objects.iter().any(|(names, _)| names.contains(name)) {
            return Err(Invalid::new(
                format!("grants[{index}].names[{at}]"),
                format!(
                    "there is no {} {name:?}{}",
                    grant.object_type.word().to_lowercase(),
                    if grant.object_type == Kind::Schema {
                        String::new()
                    } else {
                        format!(" in schema {:?}", grant.schema)
                    }
                ),
            ));
        }
    }
    Ok(objects
        .into_iter()
        .filter(|(names, _)| names.iter().any(|name| wanted.contains(name)))
        .map(|(_, object)| object)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Result<Desired, Invalid> {
        let mut args = json;
        args["version"] = 15.into();
        args["database"] = "app".into();
        args["role"] = args.get("role").cloned().unwrap_or("r".into());
        Desired::try_from(serde_json::from_value::<Params>(args).expect("params"))
    }

    fn object(sql: &str, has: &str) -> Object {
        Object {
            sql: sql.to_owned(),
            has: privileges(has),
        }
    }

    #[test]
    fn plans() {
        let select =
            serde_json::json!([{"object_type": "table", "privileges": ["select", "INSERT"]}]);
        let tables = vec![
            object("public.a", "SELECT,INSERT"),
            object("public.b", "SELECT,UPDATE"),
            object("public.c", "SELECT"),
        ];
        for (json, future, wanted) in [
            (
                serde_json::json!({"grants": select}),
                "",
                vec!["GRANT INSERT ON TABLE public.b, public.c TO \"r\""],
            ),
            (
                serde_json::json!({"grants": select, "exclusive": true}),
                "",
                vec![
                    "GRANT INSERT ON TABLE public.b, public.c TO \"r\"",
                    "REVOKE UPDATE ON TABLE public.b FROM \"r\"",
                ],
            ),
            (
                serde_json::json!({"grants": select, "state": "absent", "role": "PUBLIC"}),
                "",
                vec![
                    "REVOKE INSERT, SELECT ON TABLE public.a FROM PUBLIC",
                    "REVOKE SELECT ON TABLE public.b, public.c FROM PUBLIC",
                ],
            ),
            (
                serde_json::json!({"grants": [{"object_type": "table", "privileges": ["SELECT"], "future_by": "o"}]}),
                "",
                vec![
                    "ALTER DEFAULT PRIVILEGES FOR ROLE \"o\" IN SCHEMA \"public\" GRANT SELECT ON TABLES TO \"r\"",
                ],
            ),
            (
                serde_json::json!({"grants": [{"object_type": "table", "privileges": ["SELECT"], "future_by": "o"}]}),
                "SELECT",
                vec![],
            ),
            (
                serde_json::json!({"grants": [{"object_type": "table", "privileges": ["SELECT"], "grant_option": true}]}),
                "",
                vec![
                    "GRANT SELECT ON TABLE public.a, public.b, public.c TO \"r\" WITH GRANT OPTION",
                ],
            ),
        ] {
            let current = Current(vec![(tables.clone(), privileges(future))]);
            let steps =
                PostgresqlPrivileges::plan(&desired(json.clone()).expect("valid"), &current);
            let sql: Vec<String> = steps.into_iter().map(|step| step.sql).collect();
            assert_eq!(sql, wanted, "{json}");
        }
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (grant, param) in [
            (
                serde_json::json!({"object_type": "table", "privileges": ["USAGE"]}),
                "grants[0].privileges",
            ),
            (
                serde_json::json!({"object_type": "database", "names": ["x"], "privileges": ["ALL"]}),
                "grants[0].names",
            ),
            (
                serde_json::json!({"object_type": "schema", "privileges": ["ALL"]}),
                "grants[0].names",
            ),
            (
                serde_json::json!({"object_type": "schema", "names": ["s"], "privileges": ["ALL"], "future_by": "o"}),
                "grants[0].future_by",
            ),
            (
                serde_json::json!({"object_type": "table", "names": ["a", "b\u{0}"], "privileges": ["ALL"]}),
                "grants[0].names",
            ),
        ] {
            let error = desired(serde_json::json!({"grants": [grant]})).expect_err("invalid");
            assert_eq!(error.param, param);
        }
    }

    #[test]
    fn the_server_is_asked_for_the_named_objects_only() {
        for (grant, condition) in [
            (
                serde_json::json!({"object_type": "table", "names": ["a", "o'k"]}),
                " AND c IN ('a', 'o''k')",
            ),
            (
                serde_json::json!({"object_type": "schema", "names": ["public"]}),
                " AND c IN ('public')",
            ),
            (
                serde_json::json!({"object_type": "sequence", "names": ["s"]}),
                " AND c IN ('s')",
            ),
            (serde_json::json!({"object_type": "table"}), ""),
            (serde_json::json!({"object_type": "database"}), ""),
            (
                serde_json::json!({"object_type": "function", "names": ["f(integer)"]}),
                "",
            ),
        ] {
            let mut grant = grant;
            grant["privileges"] = serde_json::json!(["ALL"]);
            let grant: Grant = serde_json::from_value(grant).expect("a grant");
            assert_eq!(only(&grant, "c"), condition, "{grant:?}");
        }
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error_with_its_place() {
        let Ok(desired) = desired(
            serde_json::json!({"grants": [{"object_type": "table", "names": ["a", "x"], "privileges": ["ALL"]}]}),
        ) else {
            unreachable!("it is valid")
        };
        let objects = vec![(vec!["a".to_owned()], object("public.a", ""))];
        let error = named(0, &desired.grants[0].grant, objects).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "grants[0].names[1]: there is no table \"x\" in schema \"public\""
        );
    }
}
