//! What the modules of a replicated set share: how one server asks another, and what this one says of itself.
//!
//! Nothing here decides.

use std::path::Path;

use anyhow::Context as _;
use ondol_kit::{Invalid, Secret};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::{self, Client, Endpoint, Login, Tls};
use crate::gtid::GtidSet;
use crate::options::{self, Parameters};
use crate::server::{TlsMode, USER_NAME, tls, usual_port};
use crate::sql::{check_name, literal};

/// One server of a replicated set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Name of the member, as its host's.
    pub name: String,
    /// Host name or address at which the others reach it.
    pub address: String,
    /// Port.
    #[serde(default = "usual_port")]
    pub port: u16,
}

/// How the members log in to each other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// User that may replicate, from any host and over TLS.
    #[serde(default = "replicator")]
    pub user: String,
    /// Its password, at most 32 bytes: the server takes no longer one for replication.
    pub password: Secret,
    /// How a member is known to be the right one.
    #[serde(default)]
    pub tls: TlsMode,
    /// File of the certificate authority of all members, readable by the server. Needed unless C(tls: off).
    pub ca_file: Option<String>,
}

fn replicator() -> String {
    "replicator".to_owned()
}

/// [`Replication`] after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub user: String,
    pub password: Secret,
    pub tls: Tls,
}

impl Access {
    pub fn new(replication: Replication) -> Result<Self, Invalid> {
        check_name(&replication.user, USER_NAME)
            .map_err(|reason| Invalid::new("replication.user", reason))?;
        let password = replication.password.expose();
        // <https://dev.mysql.com/doc/refman/en/change-replication-source-to.html>, SOURCE_PASSWORD.
        if password.is_empty() || password.len() > 32 || password.contains('\0') {
            return Err(Invalid::new(
                "replication.password",
                "must have 1 to 32 bytes and no NUL",
            ));
        }
        if replication.tls == TlsMode::Off {
            return Err(Invalid::new(
                "replication.tls",
                "replication over an open wire is not offered",
            ));
        }
        Ok(Self {
            tls: tls(replication.tls, replication.ca_file, "replication.")?,
            user: replication.user,
            password: replication.password,
        })
    }

    pub fn connect(&self, address: &str, port: u16) -> client::Result<Client> {
        let endpoint = Endpoint::Tcp {
            host: address.to_owned(),
            port,
            tls: self.tls.clone(),
        };
        let login = Login {
            user: &self.user,
            password: Some(self.password.expose()),
        };
        Client::connect(&endpoint, login)
    }

    /// The authority's file and whether the certificate must name the host.
    pub fn authority(&self) -> (&Path, bool) {
        match &self.tls {
            Tls::Identity(path) => (path, true),
            Tls::Authority(path) => (path, false),
            Tls::Off => unreachable!("refused when the access was checked"),
        }
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    pub version: String,
    pub uuid: String,
    pub server_id: String,
    pub gtid_mode: String,
    /// Neither `read_only` nor `super_read_only` is on.
    pub writable: bool,
    pub executed: GtidSet,
    pub purged: GtidSet,
    /// Of a replica, what it has received and perhaps not yet applied.
    pub received: GtidSet,
    /// Whom it follows.
    pub follows: Option<Follows>,
}

/// A replica's side of replication, of the default channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Follows {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub ca_file: String,
    pub verifies_host: bool,
    pub auto_position: bool,
    pub receiver: Thread,
    pub applier: Thread,
    /// Seconds behind the source; unknown while it does not receive.
    pub lag_s: Option<u64>,
}

/// One half of a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thread {
    /// `Yes`, `No` or `Connecting`.
    pub state: String,
    /// Number and words of its last error; zero if there is none.
    pub error: (u16, String),
}

impl Thread {
    pub fn runs(&self) -> bool {
        self.state == "Yes"
    }
}

/// Reads the sets in an order in which a transaction that arrives meanwhile does not look errant: ask a replica before its source.
pub fn describe(client: &mut Client) -> anyhow::Result<Server> {
    let rows = client.query(
        "SELECT @@GLOBAL.server_uuid, @@GLOBAL.server_id, @@GLOBAL.gtid_mode, @@GLOBAL.read_only OR @@GLOBAL.super_read_only,
                @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged",
    )?;
    let row = rows.first().context("the server says nothing of itself")?;
    let set = |text: &str| text.parse::<GtidSet>().context("read a set of GTIDs");
    let mut server = Server {
        version: client.version.clone(),
        uuid: row.text(0).to_owned(),
        server_id: row.text(1).to_owned(),
        gtid_mode: row.text(2).to_owned(),
        writable: row.text(3) == "0",
        executed: set(row.text(4))?,
        purged: set(row.text(5))?,
        received: GtidSet::default(),
        follows: None,
    };
    let status = client
        .table("SHOW REPLICA STATUS")
        .context("ask for the state of replication")?;
    let text = |name: &str| status.named(name).unwrap_or_default().to_owned();
    if status.rows.is_empty() || text("Source_Host").is_empty() {
        return Ok(server);
    }
    server.received = set(&text("Retrieved_Gtid_Set"))?;
    let thread = |state: &str, code: &str, words: &str| Thread {
        state: text(state),
        error: (text(code).parse().unwrap_or(0), text(words)),
    };
    server.follows = Some(Follows {
        host: text("Source_Host"),
        port: text("Source_Port").parse().unwrap_or(0),
        user: text("Source_User"),
        ca_file: text("Source_SSL_CA_File"),
        verifies_host: text("Source_SSL_Verify_Server_Cert") == "Yes",
        auto_position: text("Auto_Position") == "1",
        receiver: thread("Replica_IO_Running", "Last_IO_Errno", "Last_IO_Error"),
        applier: thread("Replica_SQL_Running", "Last_SQL_Errno", "Last_SQL_Error"),
        lag_s: status
            .named("Seconds_Behind_Source")
            .and_then(|it| it.parse().ok()),
    });
    Ok(server)
}

pub type Seen = ondol_database::Seen<Box<Server>>;

/// `ER_SERVER_SHUTDOWN`.
const SHUTS_DOWN: u16 = 1053;

/// Asks a member. One that cannot be trusted is an error.
pub fn ask(access: &Access, address: &str, port: u16) -> anyhow::Result<Seen> {
    let asked = access.connect(address, port);
    let seen = ondol_database::Seen::of(asked, |refusal| refusal.code == SHUTS_DOWN);
    seen.map_err(anyhow::Error::new)
        .and_then(|seen| {
            seen.and_then(|mut client| match describe(&mut client) {
                Ok(server) => Ok(Seen::Answers(Box::new(server))),
                Err(error) => match error.downcast_ref::<client::Error>() {
                    Some(client::Error::Broken { .. }) => Ok(Seen::Silent(format!("{error:#}"))),
                    _ => Err(error),
                },
            })
        })
        .with_context(|| format!("ask the member at {address}"))
}

/// Every member of a set starts closed to writes: one that comes back after a crash does not know whether another was promoted.
/// `mysql_source` alone opens a server.
pub fn role_file(semi_synchronous: bool) -> String {
    role_file_leaving_out(semi_synchronous, "")
}

/// The same of a replica that leaves out the tables of a pattern; an empty one leaves out none.
pub fn role_file_leaving_out(semi_synchronous: bool, pattern: &str) -> String {
    let mut parameters = Parameters::from([("super_read_only".to_owned(), "ON".to_owned())]);
    if !pattern.is_empty() {
        parameters.insert(LEAVE_OUT.to_owned(), pattern.to_owned());
    }
    if semi_synchronous {
        // A server whose plugin is missing starts all the same.
        for (name, value) in SEMI_SYNCHRONOUS {
            parameters.insert(format!("loose_{name}"), value.to_owned());
        }
    }
    options::render("mysql_source and mysql_replication", &parameters)
}

/// A commit is acknowledged only when another member has it, however long that takes. Both sides, since the roles change.
pub const SEMI_SYNCHRONOUS: [(&str, &str); 3] = [
    ("rpl_semi_sync_replica_enabled", "ON"),
    ("rpl_semi_sync_source_timeout", "4294967295"),
    ("rpl_semi_sync_source_wait_point", "AFTER_SYNC"),
];
/// Its form in `SHOW` and in statements is in upper case.
pub const LEAVE_OUT: &str = "replicate_wild_ignore_table";
pub const SOURCE_ENABLED: &str = "rpl_semi_sync_source_enabled";

/// The part of semi-synchronous replication that is in force here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SemiSync {
    /// Both plugins are loaded.
    pub loaded: bool,
    /// All of [`SEMI_SYNCHRONOUS`].
    pub settings: bool,
    pub source_enabled: bool,
}

pub fn semi_sync(client: &mut Client) -> anyhow::Result<SemiSync> {
    let rows = client.query(
        "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.global_variables WHERE VARIABLE_NAME LIKE 'rpl\\_semi\\_sync\\_%'",
    )?;
    let value = |name: &str| {
        rows.iter()
            .find(|row| row.text(0) == name)
            .map(|row| row.text(1))
    };
    Ok(SemiSync {
        loaded: value(SOURCE_ENABLED).is_some() && value(SEMI_SYNCHRONOUS[0].0).is_some(),
        settings: SEMI_SYNCHRONOUS
            .iter()
            .all(|(name, wanted)| value(name).is_some_and(|it| options::same(it, wanted))),
        source_enabled: value(SOURCE_ENABLED) == Some("ON"),
    })
}

/// `SET GLOBAL` of each of [`SEMI_SYNCHRONOUS`].
pub fn set_semi_sync(client: &mut Client) -> anyhow::Result<()> {
    for (name, value) in SEMI_SYNCHRONOUS {
        let value = match options::number(value) {
            Some(_) => value.to_owned(),
            None => literal(value),
        };
        client.run(&format!("SET GLOBAL {name} = {value}"))?;
    }
    Ok(())
}

/// Whether commits here wait for a replica.
pub fn set_source(client: &mut Client, enabled: bool) -> anyhow::Result<()> {
    let word = if enabled { "ON" } else { "OFF" };
    Ok(client.run(&format!("SET GLOBAL {SOURCE_ENABLED} = {word}"))?)
}

pub fn read_role_file() -> anyhow::Result<String> {
    Ok(file::read(Path::new(options::ROLE))?.unwrap_or_default())
}

pub fn write_role_file(text: &str) -> anyhow::Result<()> {
    file::write(Path::new(options::ROLE), text, 0o644)
}

/// What a set needs of every server.
pub fn require_gtid(server: &Server) -> anyhow::Result<()> {
    let version: Vec<u32> = server
        .version
        .split(['.', '-'])
        .map_while(|it| it.parse().ok())
        .collect();
    anyhow::ensure!(
        version.as_slice() >= &[8, 0, 26][..],
        "MySQL {} is too old for this module: 8.0.26 is the oldest that names sources and replicas",
        server.version
    );
    anyhow::ensure!(
        server.gtid_mode == "ON",
        "gtid_mode is {} on this server: ondol.cloud.mysql_instance sets gtid_mode and enforce_gtid_consistency to ON",
        server.gtid_mode
    );
    anyhow::ensure!(
        server.server_id != "0",
        "server_id is 0 on this server: ondol.cloud.mysql_instance sets it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(json: serde_json::Value) -> Result<Access, Invalid> {
        Access::new(serde_json::from_value(json).expect("params"))
    }

    #[test]
    fn an_access_that_cannot_work_is_refused() {
        for (json, param) in [
            (serde_json::json!({"password": "x"}), "replication.ca_file"),
            (
                serde_json::json!({"password": "", "ca_file": "/ca"}),
                "replication.password",
            ),
            (
                serde_json::json!({"password": "x".repeat(33), "ca_file": "/ca"}),
                "replication.password",
            ),
            (
                serde_json::json!({"password": "x", "tls": "off"}),
                "replication.tls",
            ),
            (
                serde_json::json!({"password": "x", "user": "", "ca_file": "/ca"}),
                "replication.user",
            ),
        ] {
            assert_eq!(access(json).expect_err("invalid").param, param);
        }
        let good = access(serde_json::json!({"password": "x", "ca_file": "/ca"})).expect("valid");
        assert_eq!(good.authority(), (Path::new("/ca"), false));
    }

    #[test]
    fn a_server_that_is_too_old_or_without_gtids_is_named() {
        let server = |version: &str, mode: &str| Server {
            version: version.to_owned(),
            gtid_mode: mode.to_owned(),
            server_id: "1".to_owned(),
            ..Server::default()
        };
        for (server, words) in [
            (server("8.0.25-ubuntu", "ON"), "too old"),
            (server("5.7.44", "ON"), "too old"),
            (server("9.7.4-2", "OFF"), "gtid_mode is OFF"),
        ] {
            let error = require_gtid(&server).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
        }
        require_gtid(&server("8.0.45-0ubuntu0.22.04.1", "ON")).expect("fine");
    }
}
