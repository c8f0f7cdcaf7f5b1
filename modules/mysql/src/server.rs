//! The server that a task is about: the one on this machine, or one that is reached over TCP. And how one SQL act is run there.

use std::path::PathBuf;

use anyhow::Context as _;
use ondol_database::Connect;
pub use ondol_database::{Found, Presence, Statement};
use ondol_kit::{Invalid, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::{Client, Endpoint, Login, Tls};
use crate::local::{self, State};
use crate::sql::check_name;

/// A server that is reached over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Host name or address.
    pub host: String,
    /// Port.
    #[serde(default = "usual_port")]
    pub port: u16,
    /// User to log in as.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// How the server is known to be the right one.
    #[serde(default)]
    pub tls: TlsMode,
    /// File of the certificate authority, on this machine. Needed unless O(server.tls=off).
    pub ca_file: Option<String>,
}

/// How a server over TCP is known to be the right one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// By a certificate that the authority in C(ca_file) signed, for whatever name: those that a server makes for itself name no host.
    #[default]
    Authority,
    /// By a certificate that the authority in C(ca_file) signed for the host.
    Identity,
    /// Not at all, and not encrypted. The password itself is never sent: with C(caching_sha2_password) it works only while the server has it in its
    /// cache.
    Off,
}

pub(crate) fn usual_port() -> u16 {
    3306
}

/// Checked [`TlsMode`] with its file; `path` is the parameter's.
pub(crate) fn tls(mode: TlsMode, ca_file: Option<String>, path: &str) -> Result<Tls, Invalid> {
    match (mode, ca_file) {
        (TlsMode::Off, None) => Ok(Tls::Off),
        (TlsMode::Off, Some(_)) => Err(Invalid::new(
            format!("{path}ca_file"),
            "is of no use with tls: off",
        )),
        (_, None) => Err(Invalid::new(
            format!("{path}ca_file"),
            "is needed: whoever answers on that port could ask for the password",
        )),
        (TlsMode::Authority, Some(file)) => Ok(Tls::Authority(PathBuf::from(file))),
        (TlsMode::Identity, Some(file)) => Ok(Tls::Identity(PathBuf::from(file))),
    }
}

/// Where the SQL of a task goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Local,
    Remote {
        endpoint: Endpoint,
        user: String,
        password: Secret,
    },
}

impl Target {
    pub fn new(server: Option<Server>) -> Result<Self, Invalid> {
        let Some(server) = server else {
            return Ok(Self::Local);
        };
        check_name(&server.user, USER_NAME)
            .map_err(|reason| Invalid::new("server.user", reason))?;
        Ok(Self::Remote {
            endpoint: Endpoint::Tcp {
                host: server.host,
                port: server.port,
                tls: tls(server.tls, server.ca_file, "server.")?,
            },
            user: server.user,
            password: server.password,
        })
    }

    /// For what needs the server.
    pub fn client(&self) -> anyhow::Result<Client> {
        self.require()
    }
}

impl Connect for Target {
    type Client = Client;

    fn open(&self) -> anyhow::Result<Option<Client>> {
        match self {
            Self::Local => match local::place()?.state()? {
                State::Absent => Ok(None),
                State::Stopped => anyhow::bail!("the server on this machine does not run"),
                State::Running(client) => Ok(Some(*client)),
            },
            Self::Remote {
                endpoint,
                user,
                password,
            } => {
                let login = Login {
                    user,
                    password: Some(password.expose()),
                };
                Client::connect(endpoint, login)
                    .map(Some)
                    .with_context(|| format!("log in as {user:?}"))
            }
        }
    }

    fn require(&self) -> anyhow::Result<Client> {
        self.open()?
            .context("there is no server on this machine: ondol.cloud.mysql_instance makes one")
    }

    fn run(statement: &Statement, client: &mut Client) -> anyhow::Result<()> {
        run(statement, client)
    }
}

/// How many characters the server takes for a user and for a schema, a table or a column.
pub const USER_NAME: usize = 32;
pub const NAME: usize = 64;

pub(crate) fn run(statement: &Statement, client: &mut Client) -> anyhow::Result<()> {
    Ok(client.run(&statement.sql)?)
}
