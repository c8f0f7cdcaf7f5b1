//! The server that a task is about: the cluster on this machine, or one that is reached over TCP. And how one SQL act is run there.

use std::path::PathBuf;

use anyhow::Context as _;
use ondol_database::Connect;
pub use ondol_database::{Found, Presence, Statement};
use ondol_kit::{Invalid, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::{self, Client, Endpoint, Login, Purpose, Tls};
use crate::cluster::{Cluster, State};

/// A server that is reached over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Host name or address.
    pub host: String,
    /// Port.
    #[serde(default = "usual_port")]
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Its password. Only SCRAM-SHA-256 is spoken: the password itself is never sent.
    pub password: Secret,
    /// How the server is known to be the right one.
    #[serde(default)]
    pub tls: TlsMode,
    /// File of the certificate authority, for O(server.tls=authority).
    pub ca_file: Option<String>,
}

/// How a server over TCP is known to be the right one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// By the password: bound to the TLS channel, it is good only for a server that holds its verifier, whoever signed the certificate.
    #[default]
    ChannelBinding,
    /// By a certificate that the authority in C(ca_file) signed for the host.
    Authority,
    /// Not at all, and not encrypted.
    Disabled,
}

pub(crate) fn usual_port() -> u16 {
    5432
}

pub(crate) fn usual_cluster() -> String {
    "main".to_owned()
}

/// Checked [`TlsMode`] with its file; `path` is the parameter's.
pub(crate) fn tls(mode: TlsMode, ca_file: Option<String>, path: &str) -> Result<Tls, Invalid> {
    match (mode, ca_file) {
        (TlsMode::Authority, Some(file)) => Ok(Tls::Authority(PathBuf::from(file))),
        (TlsMode::Authority, None) => Err(Invalid::new(
            format!("{path}ca_file"),
            "is needed for tls: authority",
        )),
        (_, Some(_)) => Err(Invalid::new(
            format!("{path}ca_file"),
            "is used with tls: authority only",
        )),
        (TlsMode::ChannelBinding, None) => Ok(Tls::ChannelBinding),
        (TlsMode::Disabled, None) => Ok(Tls::Off),
    }
}

/// Where the SQL of a task goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Local(Cluster),
    Remote {
        endpoint: Endpoint,
        user: String,
        password: Secret,
    },
}

impl Target {
    pub fn new(
        version: Option<u16>,
        cluster: &str,
        server: Option<Server>,
    ) -> Result<Self, Invalid> {
        match (version, server) {
            (Some(version), None) => Ok(Self::Local(Cluster::new(version, cluster)?)),
            (None, Some(server)) => Ok(Self::Remote {
                endpoint: Endpoint::Tcp {
                    host: server.host,
                    port: server.port,
                    tls: tls(server.tls, server.ca_file, "server.")?,
                },
                user: server.user,
                password: server.password,
            }),
            (Some(_), Some(_)) => Err(Invalid::new(
                "server",
                "cannot be given together with `version`: one is another machine, the other this one",
            )),
            (None, None) => Err(Invalid::new(
                "version",
                "is needed, or `server` for one that is reached over TCP",
            )),
        }
    }

    /// One of its databases, for a task.
    pub(crate) fn scope(&self, database: &str) -> Scope {
        Scope {
            target: self.clone(),
            database: database.to_owned(),
        }
    }

    /// Connects, or says which part certainly is not there yet.
    fn open(&self, database: &str) -> anyhow::Result<Reach> {
        let opened = match self {
            Self::Local(cluster) => {
                let Some(place) = cluster.place()? else {
                    return Ok(Reach::NoInstance);
                };
                match cluster.state(&place, database) {
                    Ok(State::Running(client)) => Ok(client),
                    Ok(State::Stopped) => anyhow::bail!("cluster {cluster} does not run"),
                    Err(error) => Err(error),
                }
            }
            Self::Remote {
                endpoint,
                user,
                password,
            } => {
                let login = Login {
                    user,
                    password: Some(password.expose()),
                    purpose: Purpose::Database(database),
                    patience: client::PATIENCE,
                };
                Client::connect(endpoint, &login)
                    .with_context(|| format!("log in as {user:?} to database {database:?}"))
            }
        };
        match opened {
            Ok(client) => Ok(Reach::Open(client)),
            Err(error) if is_unknown_database(&error) => Ok(Reach::NoDatabase),
            Err(error) => Err(error),
        }
    }

    /// For an act, which needs everything to be there.
    fn client(&self, database: &str) -> anyhow::Result<Client> {
        match self.open(database)? {
            Reach::Open(client) => Ok(client),
            Reach::NoDatabase => anyhow::bail!("there is no database {database:?}"),
            Reach::NoInstance => match self {
                Self::Local(cluster) => Err(cluster.require_place().err().unwrap_or_else(|| {
                    anyhow::anyhow!("cluster {cluster} appeared in the meantime: run again")
                })),
                Self::Remote { endpoint, .. } => anyhow::bail!("there is no server at {endpoint}"),
            },
        }
    }
}

enum Reach {
    NoInstance,
    NoDatabase,
    Open(Client),
}

/// The database that every server has, for what is about no database.
pub(crate) const ANY: &str = "postgres";

/// A database of a server.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    target: Target,
    database: String,
}

impl Connect for Scope {
    type Client = Client;

    fn open(&self) -> anyhow::Result<Option<Client>> {
        match self.target.open(&self.database)? {
            Reach::Open(client) => Ok(Some(client)),
            Reach::NoDatabase if self.database == ANY => {
                anyhow::bail!("the database {ANY:?} is missing")
            }
            Reach::NoInstance | Reach::NoDatabase => Ok(None),
        }
    }

    fn require(&self) -> anyhow::Result<Client> {
        self.target.client(&self.database)
    }

    fn run(statement: &Statement, client: &mut Client) -> anyhow::Result<()> {
        run(statement, client)
    }
}

fn is_unknown_database(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<crate::client::Error>())
        .any(|error| error.code() == Some("3D000"))
}

/// What a server writes of a statement, and how that is switched off.
const LOGS: [(&str, &str); 5] = [
    ("log_statement", "'none'"),
    ("log_min_duration_statement", "-1"),
    ("log_min_duration_sample", "-1"),
    ("log_min_error_statement", "'panic'"),
    ("pg_stat_statements.track", "'none'"),
];

/// Runs one, and keeps a secret out of the server's log too. What follows in the session is logged as ever.
pub(crate) fn run(statement: &Statement, client: &mut Client) -> anyhow::Result<()> {
    let mut silent = false;
    if statement.secret {
        // Only a superuser may; what another one sends is a verifier too, never the password.
        let sql = LOGS.map(|(name, off)| format!("SET {name} = {off}"));
        match client.query(&sql.join("; ")) {
            Ok(_) => silent = true,
            Err(error) if error.code() == Some("42501") => {}
            Err(error) => return Err(error).context("silence the log"),
        }
    }
    client.query("SET lock_timeout = '30s'")?;
    client.query(&statement.sql)?;
    if silent {
        let sql = LOGS.map(|(name, _)| format!("RESET {name}"));
        client.query(&sql.join("; ")).context("log again")?;
    }
    Ok(())
}
