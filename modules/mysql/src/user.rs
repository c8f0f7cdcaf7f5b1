//! `mysql_user`: an account and how it logs in. Its privileges are `mysql_privileges`.

use std::fmt::Write as _;

use anyhow::Context as _;
use ondol_kit::{Invalid, Module, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::server::{Found, Presence, Server, Statement, Target, USER_NAME, run};
use crate::sha2;
use crate::sql::{account, check_name, hexadecimal, literal, unhex};

/// Manage a MySQL account
///
/// A password is compared with what the server has stored, by computing that anew from its salt, so that a repeat changes nothing; and what is sent
/// is the stored form, so that the password is in no log, binary log or process list.
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
    /// Its password, for C(caching_sha2_password).
    password: Option<Secret>,
    /// Logs in as the system's user of the same name over the local socket, in place of a password.
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

fn everywhere() -> String {
    "%".to_owned()
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
    name: String,
    host: String,
    /// `None`: it shall not exist.
    wanted: Option<Wanted>,
}

#[derive(Debug, Clone, Default)]
struct Wanted {
    login: Option<LoginBy>,
    require_tls: Option<bool>,
    locked: Option<bool>,
    max_connections: Option<u32>,
}

#[derive(Debug, Clone)]
enum LoginBy {
    Password {
        given: Secret,
        /// As SQL writes what is stored, made with a new salt: chance has no place in `plan`.
        stored: Secret,
    },
    Socket,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name(&params.name, USER_NAME).map_err(|reason| Invalid::new("name", reason))?;
        check_name(&params.host, 255).map_err(|reason| Invalid::new("host", reason))?;
        if params.name.starts_with("mysql.") {
            return Err(Invalid::new(
                "name",
                "users that begin with \"mysql.\" belong to the server",
            ));
        }
        let login = match (params.password, params.auth_socket) {
            (Some(_), true) => {
                return Err(Invalid::new(
                    "password",
                    "cannot be given together with auth_socket",
                ));
            }
            (Some(given), false) => {
                // The server's limit: MAX_PLAINTEXT_LENGTH of caching_sha2_password.
                if given.expose().is_empty() || given.expose().len() > 256 {
                    return Err(Invalid::new("password", "must have 1 to 256 bytes"));
                }
                if given.expose().contains('\0') {
                    return Err(Invalid::new("password", "must not hold a NUL"));
                }
                Some(LoginBy::Password {
                    stored: Secret::new(hexadecimal(&sha2::verifier(given.expose()))),
                    given,
                })
            }
            (None, true) => Some(LoginBy::Socket),
            (None, false) => None,
        };
        let wanted = match params.state {
            Presence::Absent => None,
            Presence::Present => Some(Wanted {
                login,
                require_tls: params.require_tls,
                locked: params.locked,
                max_connections: params.max_connections,
            }),
        };
        Ok(Self {
            target: Target::new(params.server)?,
            name: params.name,
            // The server keeps it so.
            host: params.host.to_ascii_lowercase(),
            wanted,
        })
    }
}

/// The account as it is, as far as it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Whether it logs in as wanted, the password included.
    login_fits: bool,
    requires_tls: bool,
    locked: bool,
    max_connections: u32,
}

/// The module.
#[derive(Default)]
pub struct MysqlUser {
    target: Option<Target>,
}

impl Module for MysqlUser {
    const NAME: &'static str = "mysql_user";
    const EXAMPLES: &'static str = r#"
- name: An application's account
  ondol.cloud.mysql_user:
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
        self.target = Some(desired.target.clone());
        let Some(mut client) = desired.target.open()? else {
            return Ok(Found::NoServer);
        };
        let rows = client
            .query(&format!(
                "SELECT plugin, HEX(authentication_string), ssl_type, account_locked, max_user_connections
                 FROM mysql.user WHERE User = {} AND Host = {}",
                literal(&desired.name),
                literal(&desired.host)
            ))
            .with_context(|| format!("look up {}", account(&desired.name, &desired.host)))?;
        let Some(row) = rows.first() else {
            let wanted = desired.wanted.as_ref();
            if wanted.is_some_and(|it| it.login.is_none() && it.locked == Some(false)) {
                return Err(Invalid::new(
                    "password",
                    "is needed for a new account that is not locked",
                )
                .into());
            }
            return Ok(Found::Absent);
        };
        let login = desired.wanted.as_ref().and_then(|it| it.login.as_ref());
        let stored = unhex(row.text(1)).unwrap_or_default();
        Ok(Found::Present(User {
            login_fits: match login {
                None => true,
                Some(LoginBy::Socket) => row.text(0) == "auth_socket" && stored.is_empty(),
                Some(LoginBy::Password { given, .. }) => {
                    row.text(0) == "caching_sha2_password" && sha2::matches(&stored, given.expose())
                }
            },
            requires_tls: !row.text(2).is_empty(),
            locked: row.text(3) == "Y",
            max_connections: row.text(4).parse().unwrap_or(0),
        }))
    }

    fn plan(desired: &Desired, current: &Found<User>) -> Vec<Statement> {
        let who = account(&desired.name, &desired.host);
        let Some(wanted) = &desired.wanted else {
            return match current {
                Found::Present(_) => vec![Statement::new(
                    format!("drop user {who}"),
                    format!("DROP USER {who}"),
                )],
                Found::Absent | Found::NoServer => Vec::new(),
            };
        };
        let user = current.present();
        let act = if user.is_some() { "ALTER" } else { "CREATE" };
        let mut says = Vec::new();
        let mut sql = format!("{act} USER {who}");
        let mut secret = false;
        if !user.is_some_and(|it| it.login_fits) {
            match &wanted.login {
                Some(LoginBy::Password { stored, .. }) => {
                    says.push("its password".to_owned());
                    let _ = write!(
                        sql,
                        " IDENTIFIED WITH caching_sha2_password AS {}",
                        stored.expose()
                    );
                    secret = true;
                }
                Some(LoginBy::Socket) => {
                    says.push("auth_socket".to_owned());
                    sql += " IDENTIFIED WITH auth_socket";
                }
                None => {}
            }
        }
        if let Some(tls) = wanted.require_tls
            && tls != user.is_some_and(|it| it.requires_tls)
        {
            let word = if tls { "SSL" } else { "NONE" };
            says.push(format!("REQUIRE {word}"));
            let _ = write!(sql, " REQUIRE {word}");
        }
        if let Some(most) = wanted.max_connections
            && most != user.map_or(0, |it| it.max_connections)
        {
            says.push(format!("MAX_USER_CONNECTIONS {most}"));
            let _ = write!(sql, " WITH MAX_USER_CONNECTIONS {most}");
        }
        // Without a password it would be open to everybody.
        let open = user.is_none() && wanted.login.is_none();
        if let Some(locked) = wanted.locked.or(open.then_some(true))
            && locked != user.is_some_and(|it| it.locked)
        {
            let word = if locked { "LOCK" } else { "UNLOCK" };
            says.push(format!("ACCOUNT {word}"));
            let _ = write!(sql, " ACCOUNT {word}");
        }
        if says.is_empty() {
            return Vec::new();
        }
        let line = format!("{} user {who}: {}", act.to_lowercase(), says.join(", "));
        let statement = Statement::new(line, sql);
        vec![if secret {
            statement.secret()
        } else {
            statement
        }]
    }

    fn apply(&mut self, step: &Statement) -> anyhow::Result<()> {
        let target = self.target.as_ref().expect("observe comes first");
        run(step, &mut target.client()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Desired {
        let params: Params = serde_json::from_value(json).expect("params");
        Desired::try_from(params).expect("valid")
    }

    fn lines(json: serde_json::Value, current: &Found<User>) -> Vec<String> {
        MysqlUser::plan(&desired(json), current)
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

    fn app() -> User {
        User {
            login_fits: true,
            ..User::default()
        }
    }

    #[test]
    fn plans() {
        let full = serde_json::json!({"name": "app", "host": "10.0.0.%", "password": "x", "require_tls": true});
        let create = ["create user 'app'@'10.0.0.%': its password, REQUIRE SSL"];
        assert_eq!(lines(full.clone(), &Found::Absent), create);
        assert_eq!(lines(full.clone(), &Found::NoServer), create);
        let there = User {
            requires_tls: true,
            ..app()
        };
        assert_eq!(lines(full.clone(), &Found::Present(there)), [""; 0]);
        let other = User {
            login_fits: false,
            requires_tls: true,
            ..app()
        };
        assert_eq!(
            lines(full, &Found::Present(other)),
            ["alter user 'app'@'10.0.0.%': its password"]
        );
        assert_eq!(
            lines(
                serde_json::json!({"name": "app", "auth_socket": true, "locked": true, "max_connections": 5}),
                &Found::Absent
            ),
            [
                "create user 'app'@'%': auth_socket, MAX_USER_CONNECTIONS 5, ACCOUNT LOCK | CREATE USER 'app'@'%' IDENTIFIED WITH auth_socket \
                 WITH MAX_USER_CONNECTIONS 5 ACCOUNT LOCK"
            ]
        );
        // Nobody gets in without a password because none was given.
        assert_eq!(
            lines(serde_json::json!({"name": "app"}), &Found::Absent),
            ["create user 'app'@'%': ACCOUNT LOCK | CREATE USER 'app'@'%' ACCOUNT LOCK"]
        );
        // What is left out is left alone.
        let busy = User {
            locked: true,
            requires_tls: true,
            max_connections: 9,
            ..app()
        };
        assert_eq!(
            lines(serde_json::json!({"name": "app"}), &Found::Present(busy)),
            [""; 0]
        );
        let gone = serde_json::json!({"name": "a'b", "host": "LocalHost", "state": "absent"});
        assert_eq!(
            lines(gone.clone(), &Found::Present(app())),
            ["drop user 'a''b'@'localhost' | DROP USER 'a''b'@'localhost'"]
        );
        assert_eq!(lines(gone, &Found::Absent), [""; 0]);
    }

    #[test]
    fn neither_password_nor_what_is_stored_is_in_what_is_printed() {
        let desired = desired(serde_json::json!({"name": "app", "password": "hunter2"}));
        let steps = MysqlUser::plan(&desired, &Found::Absent);
        let printed = format!("{steps:?} {desired:?} {}", steps[0]);
        assert!(
            !printed.contains("hunter2") && !printed.contains("0x2441"),
            "{printed}"
        );
        // `$A$005$`, and never the password.
        assert!(steps[0].sql.contains("AS 0x24412430303524"));
        assert!(!steps[0].sql.contains("hunter2"));
        assert!(!steps[0].sql.contains(&hexadecimal(b"hunter2")[2..]));
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (json, param) in [
            (serde_json::json!({"name": ""}), "name"),
            (serde_json::json!({"name": "mysql.sys"}), "name"),
            (serde_json::json!({"name": "a".repeat(33)}), "name"),
            (serde_json::json!({"name": "a", "host": ""}), "host"),
            (serde_json::json!({"name": "a", "password": ""}), "password"),
            (
                serde_json::json!({"name": "a", "password": "x", "auth_socket": true}),
                "password",
            ),
            (
                serde_json::json!({"name": "a", "server": {"host": "h", "user": "u", "password": "p"}}),
                "server.ca_file",
            ),
        ] {
            let params: Params = serde_json::from_value(json).expect("params");
            let error = Desired::try_from(params).expect_err("invalid");
            assert_eq!(error.param, param);
        }
    }
}
