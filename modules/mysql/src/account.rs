//! An account as SQL makes and changes it, in MySQL and in MariaDB alike: what is wanted, what is there, and the statement between the two.
//!
//! How a product stores a password, and where it keeps its accounts, is said by `mysql_user` and `mariadb_user`.

use std::fmt::Write as _;

use ondol_database::{Found, Presence, Statement};
use ondol_kit::{Invalid, Secret};

use crate::sql::{account, check_name};

/// The host part of an account that may come from anywhere.
pub fn everywhere() -> String {
    "%".to_owned()
}

/// An account by name and host, and what is wanted of it.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    /// In lower case, as the servers keep it.
    pub host: String,
    /// `None`: it shall not exist.
    wanted: Option<Wanted>,
}

/// What is left out is left alone.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub login: Option<Login>,
    pub require_tls: Option<bool>,
    pub locked: Option<bool>,
    pub max_connections: Option<u32>,
}

/// How an account logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginBy {
    Password(Secret),
    /// As the system's user of the same name.
    Socket,
}

/// The same with its clause of SQL. That is made before `plan`: a salt is chance, which has no place there.
#[derive(Debug, Clone)]
pub struct Login {
    pub by: LoginBy,
    /// Such as `IDENTIFIED WITH auth_socket`.
    pub clause: Secret,
}

impl LoginBy {
    /// Of the parameters `password`, of so many bytes at most, and `auth_socket`.
    pub fn new(
        password: Option<Secret>,
        auth_socket: bool,
        bytes: usize,
    ) -> Result<Option<Self>, Invalid> {
        match (password, auth_socket) {
            (Some(_), true) => Err(Invalid::new(
                "password",
                "cannot be given together with auth_socket",
            )),
            (Some(given), false) if given.expose().is_empty() || given.expose().len() > bytes => {
                Err(Invalid::new(
                    "password",
                    format!("must have 1 to {bytes} bytes"),
                ))
            }
            (Some(given), false) if given.expose().contains('\0') => {
                Err(Invalid::new("password", "must not hold a NUL"))
            }
            (Some(given), false) => Ok(Some(Self::Password(given))),
            (None, true) => Ok(Some(Self::Socket)),
            (None, false) => Ok(None),
        }
    }
}

/// The account as it is, as far as it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Whether it logs in as wanted, the password included.
    pub login_fits: bool,
    pub requires_tls: bool,
    pub locked: bool,
    pub max_connections: u32,
}

impl Account {
    /// `characters`: how many the server takes for a user's name.
    pub fn new(
        name: String,
        host: &str,
        characters: usize,
        state: Presence,
        wanted: Wanted,
    ) -> Result<Self, Invalid> {
        check_name(&name, characters).map_err(|reason| Invalid::new("name", reason))?;
        check_name(host, 255).map_err(|reason| Invalid::new("host", reason))?;
        Ok(Self {
            name,
            host: host.to_ascii_lowercase(),
            wanted: (state == Presence::Present).then_some(wanted),
        })
    }

    /// As SQL writes it.
    pub fn quoted(&self) -> String {
        account(&self.name, &self.host)
    }

    pub fn login(&self) -> Option<&LoginBy> {
        Some(&self.wanted.as_ref()?.login.as_ref()?.by)
    }

    /// Of one that the server does not have: that it can be made.
    pub fn check_new(&self) -> Result<(), Invalid> {
        let open = |it: &Wanted| it.login.is_none() && it.locked == Some(false);
        if self.wanted.as_ref().is_some_and(open) {
            return Err(Invalid::new(
                "password",
                "is needed for a new account that is not locked",
            ));
        }
        Ok(())
    }

    pub fn plan(&self, current: &Found<User>) -> Vec<Statement> {
        let who = self.quoted();
        let Some(wanted) = &self.wanted else {
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
        if let Some(login) = &wanted.login
            && !user.is_some_and(|it| it.login_fits)
        {
            secret = matches!(login.by, LoginBy::Password(_));
            says.push(
                if secret {
                    "its password"
                } else {
                    "auth_socket"
                }
                .to_owned(),
            );
            let _ = write!(sql, " {}", login.clause.expose());
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
}
