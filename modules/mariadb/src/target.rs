//! Where the SQL of a task goes: to the server of this machine over its socket, as root, or to one that is reached over TCP.
//!
//! MariaDB speaks MySQL's protocol, so the client is that of `ondol-mysql`. What is about the server itself, and must work while it does not take
//! queries, is [`crate::server`]'s.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_database::{Connect, Statement};
use ondol_kit::Invalid;
use ondol_mysql::client::{self, Client, Endpoint, Login};
pub(crate) use ondol_mysql::server::Server;
use ondol_mysql::server::Target as Remote;

use crate::server::{self, UNIT, is_installed, unit};
use crate::settings;

/// How many characters the server takes for a user.
pub(crate) const USER_NAME: usize = 80;
/// The first version that keeps accounts in `mysql.global_priv`.
const OLDEST: (u32, u32) = (10, 4);
/// Where Debian's package has it, unless its configuration says otherwise.
const SOCKET: &str = "/run/mysqld/mysqld.sock";
/// A server that comes up takes its time after a crash.
const COMING_UP: Duration = Duration::from_secs(60);

/// Where the SQL of a task goes.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Local,
    Remote(Box<Remote>),
}

impl Target {
    pub(crate) fn new(server: Option<Server>) -> Result<Self, Invalid> {
        Ok(match server {
            None => Self::Local,
            server => Self::Remote(Box::new(Remote::new(server)?)),
        })
    }
}

impl Connect for Target {
    type Client = Client;

    fn open(&self) -> anyhow::Result<Option<Client>> {
        let client = match self {
            Self::Local => local()?,
            Self::Remote(remote) => remote.open()?,
        };
        if let Some(client) = &client {
            check_version(&client.version).map_err(anyhow::Error::msg)?;
        }
        Ok(client)
    }

    fn require(&self) -> anyhow::Result<Client> {
        self.open()?
            .context("there is no MariaDB on this machine: install the package mariadb-server")
    }

    fn run(statement: &Statement, client: &mut Client) -> anyhow::Result<()> {
        Ok(client.run(&statement.sql)?)
    }
}

fn local() -> anyhow::Result<Option<Client>> {
    if !is_installed() {
        return Ok(None);
    }
    let deadline = Instant::now() + COMING_UP;
    loop {
        // The server is asked where its socket is only if it is not where it usually is: that takes it a moment.
        let mut asked = connect(Path::new(SOCKET));
        if asked.as_ref().is_err_and(client::Error::nobody_listens) {
            asked = connect(&server::Server::new(&settings::as_is()?).socket());
        }
        let error = match asked {
            Ok(client) => return Ok(Some(client)),
            Err(error) => error,
        };
        if error.nobody_listens() && unit(UNIT)?.is_down() {
            bail!(
                "the server on this machine does not run: start it, or see why with journalctl -u mariadb"
            );
        }
        // 1053: it shuts down. A connection that breaks during the login is of one that ends.
        let passing = error.nobody_listens()
            || error.code() == Some(1053)
            || matches!(error, client::Error::Broken { .. });
        if !passing || Instant::now() >= deadline {
            return Err(error).context("connect to the server on this machine as root");
        }
        sleep(Duration::from_millis(100));
    }
}

fn connect(socket: &Path) -> client::Result<Client> {
    let login = Login {
        user: "root",
        password: None,
    };
    Client::connect(&Endpoint::Socket(socket.to_owned()), login)
}

/// `greeted`: as the server names itself, such as `5.5.5-10.11.19-MariaDB-0+deb12u1`. The first number is for old replicas.
fn check_version(greeted: &str) -> Result<(), String> {
    let version = greeted.strip_prefix("5.5.5-").unwrap_or(greeted);
    if !greeted.contains("MariaDB") {
        return Err(format!(
            "the server is no MariaDB, it calls itself {greeted:?}: the modules mysql_* are for MySQL"
        ));
    }
    let mut numbers = version.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Ok(()),
        _ => Err(format!(
            "the server is MariaDB {version}: {}.{} or newer is needed",
            OLDEST.0, OLDEST.1
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_and_what_is_too_old_are_refused_by_name() {
        for (greeted, words) in [
            ("5.5.5-10.11.19-MariaDB-0+deb12u1", None),
            ("11.8.2-MariaDB", None),
            ("5.5.5-10.4.0-MariaDB", None),
            (
                "5.5.5-10.3.39-MariaDB-0+deb10u2",
                Some("MariaDB 10.3.39-MariaDB-0+deb10u2: 10.4 or newer is needed"),
            ),
            ("9.7.4-2", Some("it calls itself \"9.7.4-2\"")),
            ("MariaDB", Some("10.4 or newer is needed")),
        ] {
            match (check_version(greeted), words) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.contains(words), "{error}"),
                (other, _) => panic!("{greeted}: {other:?}"),
            }
        }
    }
}
