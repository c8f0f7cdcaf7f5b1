//! `mariadb_user`: an account and how it logs in. Its privileges are `mariadb_privileges`. The statement is the one that `mysql_user` plans too;
//! how a password is stored, and where accounts are kept, is MariaDB's own.

use anyhow::Context as _;
use ondol_database::{Found, Presence, Row, Session, Statement};
use ondol_kit::{Invalid, Module, Secret};
use ondol_mysql::account::{Account, Login, LoginBy, User, Wanted, everywhere};
use ondol_mysql::sql::literal;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::target::{Server, Target, USER_NAME};

/// Manage a MariaDB account
///
/// What is compared with the server and what is sent to it is the form in which the server stores a password, so that a repeat changes nothing, and
/// the password is in no log, binary log or process list. In a Galera cluster it is done on one node, and the others follow.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the user.
    name: String,
    /// Host part of the account: an address, a network, a pattern, or V(%) for all.
    #[serde(default = "everywhere")]
    host: String,
    /// Whether it shall exist.
    #[serde(default)]
    state: Presence,
    /// Its password, for C(mysql_native_password).
    password: Option<Secret>,
    /// Logs in as the system's user of the same name over the local socket, in place of a password. MariaDB calls it C(unix_socket).
    #[serde(default)]
    auth_socket: bool,
    /// Whether it must come over TLS.
    require_tls: Option<bool>,
    /// Whether it may not log in.
    locked: Option<bool>,
    /// How many connections it may have at a time; V(0) is any number.
    max_connections: Option<u32>,
    /// A server that is reached over TCP, in place of the one on this machine.
    server: Option<Server>,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
    account: Account,
}

/// As many as MySQL takes, so that a password does for both.
const PASSWORD_BYTES: usize = 256;

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if params.name == "mariadb.sys" {
            return Err(Invalid::new("name", "belongs to the server"));
        }
        let by = LoginBy::new(params.password, params.auth_socket, PASSWORD_BYTES)?;
        let wanted = Wanted {
            login: by.map(|by| Login {
                clause: clause(&by),
                by,
            }),
            require_tls: params.require_tls,
            locked: params.locked,
            max_connections: params.max_connections,
        };
        Ok(Self {
            account: Account::new(params.name, &params.host, USER_NAME, params.state, wanted)?,
            target: Target::new(params.server)?,
        })
    }
}

fn clause(by: &LoginBy) -> Secret {
    Secret::new(match by {
        LoginBy::Password(given) => format!(
            "IDENTIFIED VIA mysql_native_password USING '{}'",
            stored(given.expose())
        ),
        LoginBy::Socket => "IDENTIFIED VIA unix_socket".to_owned(),
    })
}

/// What `mysql_native_password` stores: an asterisk and SHA1(SHA1(password)).
fn stored(password: &str) -> String {
    let once = digest(&SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    let twice = digest(&SHA1_FOR_LEGACY_USE_ONLY, once.as_ref());
    let digits = twice.as_ref().iter().map(|byte| format!("{byte:02X}"));
    format!("*{}", digits.collect::<String>())
}

/// Columns of an account: how it logs in, then what else it is asked for. `auth_or` lists all ways to log in if there were ever several; one that is
/// left is still listed.
const COLUMNS: &str = "JSON_VALUE(Priv, '$.plugin'), JSON_VALUE(Priv, '$.authentication_string'), JSON_LENGTH(Priv, '$.auth_or'),
    JSON_VALUE(Priv, '$.ssl_type'), JSON_VALUE(Priv, '$.account_locked'), JSON_VALUE(Priv, '$.max_user_connections')";

fn user(row: &Row, wanted: Option<&LoginBy>) -> User {
    let number = |column: usize| row.text(column).parse::<i64>().unwrap_or(0);
    let (plugin, kept, several) = (row.text(0), row.text(1), number(2) > 1);
    User {
        login_fits: match wanted {
            None => true,
            Some(LoginBy::Socket) => plugin == "unix_socket" && kept.is_empty() && !several,
            Some(LoginBy::Password(given)) => {
                plugin == "mysql_native_password" && kept == stored(given.expose()) && !several
            }
        },
        // 0: said to be none; 1: any; 2: with a certificate; 3: with certain ones.
        requires_tls: number(3) > 0,
        locked: matches!(row.text(4), "1" | "true"),
        max_connections: u32::try_from(number(5)).unwrap_or(0),
    }
}

/// The module.
#[derive(Default)]
pub struct MariadbUser {
    session: Session<Target>,
}

impl Module for MariadbUser {
    const NAME: &'static str = "mariadb_user";
    const EXAMPLES: &'static str = r#"
- name: An application's account
  ondol.cloud.mariadb_user:
    name: app
    host: 192.168.10.%
    password: "{{ vault_app_password }}"
    require_tls: true
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Found<User>;
    type Step = Statement;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Found<User>> {
        let Some(client) = self.session.open(&desired.target)? else {
            return Ok(Found::NoServer);
        };
        let account = &desired.account;
        let rows = client
            .query(&format!(
                "SELECT {COLUMNS} FROM mysql.global_priv WHERE User = {} AND Host = {}",
                literal(&account.name),
                literal(&account.host)
            ))
            .with_context(|| format!("look up {}", account.quoted()))?;
        match rows.first() {
            Some(row) => Ok(Found::Present(user(row, account.login()))),
            None => {
                account.check_new()?;
                Ok(Found::Absent)
            }
        }
    }

    fn plan(desired: &Desired, current: &Found<User>) -> Vec<Statement> {
        desired.account.plan(current)
    }

    fn apply(&mut self, step: &Statement) -> anyhow::Result<()> {
        self.session.run(step)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn desired(json: Value) -> Desired {
        let params: Params = serde_json::from_value(json).unwrap();
        Desired::try_from(params).unwrap()
    }

    fn row(cells: [Option<&str>; 6]) -> Row {
        Row(cells.map(|it| it.map(str::to_owned)).to_vec())
    }

    /// As MariaDB 10.11.19 keeps `CREATE USER app IDENTIFIED BY 'x'`.
    const X: &str = "*B69027D44F6E5EDC07F1AEAD1477967B16F28227";
    const NATIVE: Option<&str> = Some("mysql_native_password");

    #[test]
    fn accounts_are_compared_with_what_the_server_keeps() {
        let plain = row([NATIVE, Some(X), None, None, None, None]);
        let several = row([NATIVE, Some(X), Some("2"), None, None, None]);
        let no_longer = row([NATIVE, Some(X), Some("1"), None, None, None]);
        let socket = row([Some("unix_socket"), Some(""), None, None, None, None]);
        let password = |word: &str| Some(LoginBy::Password(Secret::new(word)));
        for (row, wanted, fits) in [
            (&plain, password("x"), true),
            (&plain, password("y"), false),
            (&plain, None, true),
            (&plain, Some(LoginBy::Socket), false),
            // Whoever gets in by the other way is not meant to.
            (&several, password("x"), false),
            (&no_longer, password("x"), true),
            (&socket, Some(LoginBy::Socket), true),
            (&socket, password("x"), false),
        ] {
            let user = user(row, wanted.as_ref());
            assert_eq!(user.login_fits, fits, "{row:?} {wanted:?}");
            assert_eq!((user.requires_tls, user.locked), (false, false));
        }
        let full = row([NATIVE, Some(X), None, Some("1"), Some("1"), Some("9")]);
        let full = user(&full, None);
        assert!(full.requires_tls && full.locked);
        assert_eq!(full.max_connections, 9);
    }

    #[test]
    fn plans() {
        let app = json!({"name": "o'k", "host": "10.%", "password": "x", "require_tls": true, "max_connections": 9});
        for current in [Found::Absent, Found::NoServer] {
            let steps = MariadbUser::plan(&desired(app.clone()), &current);
            assert_eq!(
                steps[0].says,
                "create user 'o''k'@'10.%': its password, REQUIRE SSL, MAX_USER_CONNECTIONS 9"
            );
            assert_eq!(
                steps[0].sql,
                format!(
                    "CREATE USER 'o''k'@'10.%' IDENTIFIED VIA mysql_native_password USING '{X}' REQUIRE SSL WITH MAX_USER_CONNECTIONS 9"
                )
            );
            let printed = format!("{:?} {steps:?}", desired(app.clone()));
            assert!(!printed.contains(&X[1..]), "{printed}");
        }
        let there = User {
            login_fits: true,
            requires_tls: true,
            max_connections: 9,
            locked: false,
        };
        assert_eq!(
            MariadbUser::plan(&desired(app), &Found::Present(there.clone())),
            []
        );
        let locked = desired(json!({"name": "o'k", "locked": true, "auth_socket": true}));
        assert_eq!(
            MariadbUser::plan(
                &locked,
                &Found::Present(User {
                    login_fits: false,
                    ..there
                })
            )[0]
            .sql,
            "ALTER USER 'o''k'@'%' IDENTIFIED VIA unix_socket ACCOUNT LOCK"
        );
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (json, param) in [
            (json!({"name": "mariadb.sys"}), "name"),
            (json!({"name": "a".repeat(81)}), "name"),
            (json!({"name": "a", "host": ""}), "host"),
            (json!({"name": "a", "password": ""}), "password"),
            (json!({"name": "a", "password": "a\0"}), "password"),
            (
                json!({"name": "a", "password": "x", "auth_socket": true}),
                "password",
            ),
            (
                json!({"name": "a", "server": {"host": "h", "user": "u", "password": "p"}}),
                "server.ca_file",
            ),
        ] {
            let params: Params = serde_json::from_value(json).unwrap();
            assert_eq!(Desired::try_from(params).unwrap_err().param, param);
        }
    }
}
