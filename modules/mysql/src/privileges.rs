//! `mysql_privileges`: exactly what an account may do, globally, in databases and on tables. Privileges on columns and routines, and roles, are
//! left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Context as _;
use ondol_database::Session;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::account::everywhere;
use crate::client::Client;
use crate::server::{Found, NAME, Server, Statement, Target, USER_NAME};
use crate::sql::{account, check_name, identifier, literal};

/// Manage what a MySQL account may do
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

/// What privileges are on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Global,
    Database(String),
    Table(String, String),
}

impl Object {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not *.*, database.* or database.table");
        let (database, rest) = part(text).ok_or_else(wrong)?;
        let (table, rest) = rest.strip_prefix('.').and_then(part).ok_or_else(wrong)?;
        if !rest.is_empty() {
            return Err(wrong());
        }
        match (database, table) {
            (None, None) => Ok(Self::Global),
            (Some(database), None) => {
                check_name(&database, NAME).map(|()| Self::Database(database))
            }
            (Some(database), Some(table)) => {
                check_name(&database, NAME)?;
                check_name(&table, NAME)?;
                Ok(Self::Table(database, table))
            }
            (None, Some(_)) => Err(wrong()),
        }
    }

    /// As SQL writes it. In the name of a database `_` and `%` stand for others, unless escaped.
    fn sql(&self) -> String {
        match self {
            Self::Global => "*.*".to_owned(),
            Self::Database(pattern) => format!("{}.*", identifier(pattern)),
            Self::Table(database, table) => {
                format!("{}.{}", identifier(database), identifier(table))
            }
        }
    }

    /// The privileges that `ALL` stands for: <https://dev.mysql.com/doc/refman/en/grant.html>.
    fn all(&self, global: &BTreeSet<String>) -> BTreeSet<String> {
        const TABLE: [&str; 12] = [
            "ALTER",
            "CREATE",
            "CREATE VIEW",
            "DELETE",
            "DROP",
            "INDEX",
            "INSERT",
            "REFERENCES",
            "SELECT",
            "SHOW VIEW",
            "TRIGGER",
            "UPDATE",
        ];
        const DATABASE: [&str; 6] = [
            "ALTER ROUTINE",
            "CREATE ROUTINE",
            "CREATE TEMPORARY TABLES",
            "EVENT",
            "EXECUTE",
            "LOCK TABLES",
        ];
        // Those that only MariaDB knows, from some version on.
        const MORE_TABLE: [&str; 1] = ["DELETE HISTORY"];
        const MORE_DATABASE: [&str; 1] = ["SHOW CREATE ROUTINE"];
        let known = |more: &[&'static str]| {
            let known = more.iter().filter(|it| global.contains(**it));
            known.copied().collect::<Vec<_>>()
        };
        let table = TABLE.into_iter().chain(known(&MORE_TABLE));
        match self {
            Self::Global => global.clone(),
            Self::Database(_) => (table.chain(DATABASE).chain(known(&MORE_DATABASE)))
                .map(str::to_owned)
                .collect(),
            Self::Table(..) => table.map(str::to_owned).collect(),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql())
    }
}

/// A name, or `None` for the asterisk, and what follows it.
fn part(text: &str) -> Option<(Option<String>, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some((None, rest));
    }
    let Some(mut rest) = text.strip_prefix('`') else {
        let end = text.find('.').unwrap_or(text.len());
        return Some((Some(text[..end].to_owned()), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let end = rest.find('`')?;
        name += &rest[..end];
        rest = &rest[end + 1..];
        match rest.strip_prefix('`') {
            Some(after) => {
                name.push('`');
                rest = after;
            }
            None => return Some((Some(name), rest)),
        }
    }
}

/// `_` and `%` as themselves.
fn escaped(database: &str) -> String {
    database.replace('_', "\\_").replace('%', "\\%")
}

const ALL: &str = "ALL";
const GRANT_OPTION: &str = "GRANT OPTION";

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
    wanted: Wanted,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        Ok(Self {
            wanted: Wanted::new(params.name, &params.host, USER_NAME, params.privileges)?,
            target: Target::new(params.server)?,
        })
    }
}

/// What an account shall be allowed to do, in MySQL and in MariaDB alike.
#[derive(Debug, Clone)]
pub struct Wanted {
    name: String,
    host: String,
    privileges: BTreeMap<Object, BTreeSet<String>>,
}

impl Wanted {
    /// Of the parameters of these names. `characters`: how many the server takes for a user's name.
    pub fn new(
        name: String,
        host: &str,
        characters: usize,
        given: BTreeMap<String, Vec<String>>,
    ) -> Result<Self, Invalid> {
        check_name(&name, characters).map_err(|reason| Invalid::new("name", reason))?;
        check_name(host, 255).map_err(|reason| Invalid::new("host", reason))?;
        let mut privileges: BTreeMap<Object, BTreeSet<String>> = BTreeMap::new();
        for (on, words) in given {
            let at = format!("privileges.{on}");
            let object = Object::parse(&on).map_err(|reason| Invalid::new(at.clone(), reason))?;
            let set = privileges.entry(object).or_default();
            for word in words {
                let word = word.trim().to_ascii_uppercase();
                if word.is_empty()
                    || !word
                        .chars()
                        .all(|c| c.is_ascii_uppercase() || " _".contains(c))
                {
                    return Err(Invalid::new(at, format!("{word:?} is not a privilege")));
                }
                set.insert(match word.as_str() {
                    "ALL PRIVILEGES" => ALL.to_owned(),
                    _ => word,
                });
            }
            set.remove("USAGE");
        }
        privileges.retain(|_, set| !set.is_empty());
        Ok(Self {
            name,
            host: host.to_ascii_lowercase(),
            privileges,
        })
    }

    /// What the account has of it.
    pub fn observe(&self, client: &mut Client) -> anyhow::Result<Found<Granted>> {
        granted(client, &self.name, &self.host, Needs::of(&self.privileges))
            .with_context(|| format!("look up what {} may do", account(&self.name, &self.host)))
            .map(|found| found.map_or(Found::Absent, Found::Present))
    }

    pub fn plan(&self, current: &Found<Granted>) -> Vec<Statement> {
        statements(
            &account(&self.name, &self.host),
            &self.privileges,
            current.present().unwrap_or(&Granted::default()),
        )
    }
}

/// What the account may do, and what the server knows about privileges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// Databases as patterns.
    privileges: BTreeMap<Object, BTreeSet<String>>,
    /// Every privilege that can be granted globally; empty where [`Needs`] has it that nobody asks.
    global: BTreeSet<String>,
    /// `partial_revokes`: then names of databases are no patterns.
    literal_names: bool,
}

/// What must be known of the server itself to plan. A MySQL takes longer to say it than to say what an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    /// Every privilege there is: `ALL` stands for them.
    global: bool,
    /// Whether names of databases are patterns: one of them would be another as a pattern.
    patterns: bool,
}

impl Needs {
    fn of(privileges: &BTreeMap<Object, BTreeSet<String>>) -> Self {
        Self {
            global: privileges.values().any(|words| words.contains(ALL)),
            patterns: privileges
                .keys()
                .any(|object| matches!(object, Object::Database(name) if escaped(name) != *name)),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlPrivileges {
    session: Session<Target>,
}

impl Module for MysqlPrivileges {
    const NAME: &'static str = "mysql_privileges";
    const EXAMPLES: &'static str = r#"
- name: An application reads and writes its own database only
  ondol.cloud.mysql_privileges:
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

/// `None`: there is no such account. In check mode an earlier task may be about to make it.
fn granted(
    client: &mut Client,
    name: &str,
    host: &str,
    needs: Needs,
) -> anyhow::Result<Option<Granted>> {
    let there = client.value(&format!(
        "SELECT COUNT(*) FROM mysql.user WHERE User = {} AND Host = {}",
        literal(name),
        literal(host)
    ))?;
    if there == "0" {
        return Ok(None);
    }
    let mut granted = Granted {
        literal_names: needs.patterns && revokes_partially(client)?,
        ..Granted::default()
    };
    if needs.global {
        // The first column of these is the name, in lower case but for the dynamic ones.
        for row in client.query("SHOW PRIVILEGES")? {
            let name = row.text(0).to_ascii_uppercase();
            if !matches!(name.as_str(), "USAGE" | "PROXY" | GRANT_OPTION) {
                granted.global.insert(name);
            }
        }
    }
    // The server puts quotes around both parts and escapes nothing. Compared as text, the user `App` would be taken for `app`.
    let grantee = literal(&format!("'{name}'@'{host}'"));
    for (table, columns) in [
        ("USER_PRIVILEGES", ""),
        ("SCHEMA_PRIVILEGES", ", TABLE_SCHEMA"),
        ("TABLE_PRIVILEGES", ", TABLE_SCHEMA, TABLE_NAME"),
    ] {
        let rows = client.query(&format!(
            "SELECT PRIVILEGE_TYPE, IS_GRANTABLE{columns} FROM information_schema.{table} WHERE CAST(GRANTEE AS BINARY) = {grantee}"
        ))?;
        for row in rows {
            let object = match (row.optional(2), row.optional(3)) {
                (Some(database), Some(table)) => {
                    Object::Table(database.to_owned(), table.to_owned())
                }
                (Some(database), None) => Object::Database(database.to_owned()),
                (None, _) => Object::Global,
            };
            let set = granted.privileges.entry(object).or_default();
            if row.text(0) != "USAGE" {
                set.insert(row.text(0).to_owned());
            }
            if row.text(1) == "YES" {
                set.insert(GRANT_OPTION.to_owned());
            }
        }
    }
    granted.privileges.retain(|_, set| !set.is_empty());
    Ok(Some(granted))
}

/// `partial_revokes`. MariaDB does not know it, nor does an old MySQL.
fn revokes_partially(client: &mut Client) -> anyhow::Result<bool> {
    match client.value("SELECT @@GLOBAL.partial_revokes") {
        Ok(value) => Ok(value == "1"),
        Err(error) if error.code() == Some(UNKNOWN_VARIABLE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `ER_UNKNOWN_SYSTEM_VARIABLE`
const UNKNOWN_VARIABLE: u16 = 1193;

fn statements(
    who: &str,
    desired: &BTreeMap<Object, BTreeSet<String>>,
    current: &Granted,
) -> Vec<Statement> {
    let none = BTreeSet::new();
    let wanted: BTreeMap<Object, &BTreeSet<String>> = desired
        .iter()
        .map(|(object, set)| match object {
            Object::Database(name) if !current.literal_names => {
                (Object::Database(escaped(name)), set)
            }
            other => (other.clone(), set),
        })
        .collect();
    let mut steps = Vec::new();
    // What is granted comes first, so that nobody is without a privilege for a moment.
    for (object, words) in &wanted {
        let has = current.privileges.get(object).unwrap_or(&none);
        let mut missing: Vec<&str> = if words.contains(ALL) {
            let all = object.all(&current.global);
            // Without a server nothing is known, and all is missing.
            if all.is_empty() || !all.is_subset(has) {
                vec!["ALL PRIVILEGES"]
            } else {
                Vec::new()
            }
        } else {
            words
                .difference(has)
                .map(String::as_str)
                .filter(|it| *it != GRANT_OPTION)
                .collect()
        };
        let pass_on = words.contains(GRANT_OPTION) && !has.contains(GRANT_OPTION);
        if missing.is_empty() && !pass_on {
            continue;
        }
        if missing.is_empty() {
            missing.push("USAGE");
        }
        let tail = if pass_on { " WITH GRANT OPTION" } else { "" };
        let list = missing.join(", ");
        steps.push(Statement::new(
            format!("grant {list} on {object} to {who}{}", tail.to_lowercase()),
            format!("GRANT {list} ON {} TO {who}{tail}", object.sql()),
        ));
    }
    for (object, has) in &current.privileges {
        let words = wanted.get(object).copied().unwrap_or(&none);
        let mut keep = words.clone();
        if keep.contains(ALL) {
            keep.extend(object.all(&current.global));
        }
        let extra: Vec<&str> = has.difference(&keep).map(String::as_str).collect();
        if extra.is_empty() {
            continue;
        }
        let list = extra.join(", ");
        steps.push(Statement::new(
            format!("revoke {list} on {object} from {who}"),
            format!("REVOKE {list} ON {} FROM {who}", object.sql()),
        ));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|it| (*it).to_owned()).collect()
    }

    fn lines(privileges: serde_json::Value, current: &[(&str, &[&str])]) -> Vec<String> {
        let params: Params =
            serde_json::from_value(serde_json::json!({"name": "app", "privileges": privileges}))
                .expect("params");
        let desired = Desired::try_from(params).expect("valid");
        let granted = Granted {
            privileges: current
                .iter()
                .map(|(on, words)| (Object::parse(on).expect("an object"), set(words)))
                .collect(),
            global: set(&["SELECT", "INSERT", "CLONE_ADMIN"]),
            literal_names: false,
        };
        MysqlPrivileges::plan(&desired, &Found::Present(granted))
            .iter()
            .map(|step| step.sql.clone())
            .collect()
    }

    #[test]
    fn plans() {
        let all: Vec<String> = Object::Database("app".to_owned())
            .all(&BTreeSet::new())
            .into_iter()
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let cases = [
            (
                serde_json::json!({"app.*": ["select", "INSERT"]}),
                vec![],
                vec!["GRANT INSERT, SELECT ON `app`.* TO 'app'@'%'"],
            ),
            (
                serde_json::json!({"app.*": ["SELECT"], "*.*": ["USAGE"]}),
                vec![("app.*", &["SELECT"][..])],
                vec![],
            ),
            (
                serde_json::json!({"my_app.*": ["SELECT"]}),
                vec![("my_app.*", &["SELECT"])],
                vec![
                    "GRANT SELECT ON `my\\_app`.* TO 'app'@'%'",
                    "REVOKE SELECT ON `my_app`.* FROM 'app'@'%'",
                ],
            ),
            (
                serde_json::json!({"app.*": ["ALL PRIVILEGES"]}),
                vec![("app.*", &["SELECT", "GRANT OPTION"])],
                vec![
                    "GRANT ALL PRIVILEGES ON `app`.* TO 'app'@'%'",
                    "REVOKE GRANT OPTION ON `app`.* FROM 'app'@'%'",
                ],
            ),
            (
                serde_json::json!({"app.*": ["ALL"]}),
                vec![("app.*", &all)],
                vec![],
            ),
            (
                serde_json::json!({"*.*": ["ALL", "GRANT OPTION"]}),
                vec![("*.*", &["SELECT", "INSERT", "CLONE_ADMIN"])],
                vec!["GRANT USAGE ON *.* TO 'app'@'%' WITH GRANT OPTION"],
            ),
            (
                serde_json::json!({}),
                vec![("app.t", &["SELECT"]), ("*.*", &["CLONE_ADMIN"])],
                vec![
                    "REVOKE CLONE_ADMIN ON *.* FROM 'app'@'%'",
                    "REVOKE SELECT ON `app`.`t` FROM 'app'@'%'",
                ],
            ),
        ];
        for (privileges, current, wanted) in cases {
            assert_eq!(lines(privileges.clone(), &current), wanted, "{privileges}");
        }
    }

    #[test]
    fn the_server_is_asked_only_for_what_the_plan_turns_on() {
        for (privileges, global, patterns) in [
            (serde_json::json!({}), false, false),
            (serde_json::json!({"app.*": ["SELECT"]}), false, false),
            (
                serde_json::json!({"app.*": ["all privileges"]}),
                true,
                false,
            ),
            (serde_json::json!({"*.*": ["ALL"]}), true, false),
            (serde_json::json!({"my_app.*": ["SELECT"]}), false, true),
            (
                serde_json::json!({"a%.*": ["ALL"], "b.*": ["SELECT"]}),
                true,
                true,
            ),
            // The name of a table, and that of its database beside it, is never a pattern.
            (serde_json::json!({"my_app.my_t": ["SELECT"]}), false, false),
        ] {
            let params = serde_json::json!({"name": "app", "privileges": privileges});
            let params: Params = serde_json::from_value(params).expect("params");
            let wanted = Desired::try_from(params).expect("valid").wanted;
            let needs = Needs { global, patterns };
            assert_eq!(Needs::of(&wanted.privileges), needs, "{privileges}");
        }
    }

    #[test]
    fn objects_are_read_with_and_without_quotes() {
        for (text, wanted) in [
            ("*.*", Ok(Object::Global)),
            ("app.*", Ok(Object::Database("app".to_owned()))),
            (
                "`a.``b`.t",
                Ok(Object::Table("a.`b".to_owned(), "t".to_owned())),
            ),
            ("app", Err(())),
            ("*.t", Err(())),
            ("a.b.c", Err(())),
            ("`a.b", Err(())),
            (".x", Err(())),
        ] {
            assert_eq!(Object::parse(text).map_err(drop), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_privilege_is_refused() {
        for privileges in [
            serde_json::json!({"a.*": ["SELECT; DROP"]}),
            serde_json::json!({"a.*": [""]}),
            serde_json::json!({"a": ["SELECT"]}),
        ] {
            let params: Params =
                serde_json::from_value(serde_json::json!({"name": "a", "privileges": privileges}))
                    .expect("params");
            let error = Desired::try_from(params).expect_err("invalid");
            assert!(error.param.starts_with("privileges."), "{error}");
        }
    }
}
