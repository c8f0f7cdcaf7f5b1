//! `mysql_user`: an account and how it logs in. Its privileges are `mysql_privileges`.

use anyhow::Context as _;
use ondol_database::Session;
use ondol_kit::{Invalid, Module, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::account::{Account, Login, LoginBy, User, Wanted, everywhere};
use crate::server::{Found, Presence, Server, Statement, Target, USER_NAME};
use crate::sha2;
use crate::sql::{hexadecimal, literal, unhex};

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

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    target: Target,
    account: Account,
}

/// The server's limit for a password: MAX_PLAINTEXT_LENGTH of caching_sha2_password.
const PASSWORD_BYTES: usize = 256;

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if params.name.starts_with("mysql.") {
            return Err(Invalid::new(
                "name",
                "users that begin with \"mysql.\" belong to the server",
            ));
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
            "IDENTIFIED WITH caching_sha2_password AS {}",
            hexadecimal(&sha2::verifier(given.expose()))
        ),
        LoginBy::Socket => "IDENTIFIED WITH auth_socket".to_owned(),
    })
}

/// The module.
#[derive(Default)]
pub struct MysqlUser {
    session: Session<Target>,
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
        let Some(client) = self.session.open(&desired.target)? else {
            return Ok(Found::NoServer);
        };
        let account = &desired.account;
        let rows = client
            .query(&format!(
                "SELECT plugin, HEX(authentication_string), ssl_type, account_locked, max_user_connections
                 FROM mysql.user WHERE User = {} AND Host = {}",
                literal(&account.name),
                literal(&account.host)
            ))
            .with_context(|| format!("look up {}", account.quoted()))?;
        let Some(row) = rows.first() else {
            account.check_new()?;
            return Ok(Found::Absent);
        };
        let stored = unhex(row.text(1)).unwrap_or_default();
        Ok(Found::Present(User {
            login_fits: match account.login() {
                None => true,
                Some(LoginBy::Socket) => row.text(0) == "auth_socket" && stored.is_empty(),
                Some(LoginBy::Password(given)) => {
                    row.text(0) == "caching_sha2_password" && sha2::matches(&stored, given.expose())
                }
            },
            requires_tls: !row.text(2).is_empty(),
            locked: row.text(3) == "Y",
            max_connections: row.text(4).parse().unwrap_or(0),
        }))
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
