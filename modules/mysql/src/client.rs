//! A blocking client of MySQL's protocol: one connection, statements as text, values as text.
//!
//! It is written out here and not taken from the crate `mysql`, because a module sends a handful of statements, and that crate (or the codec
//! below it, `mysql_common`) brings a decimal type, regular expressions, binary logs and compression to every target. It does not prepare
//! statements, load files, compress, or send a password over a connection that is neither encrypted nor local.

mod packet;

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

pub use ondol_database::Row;
use ondol_database::connection::Patience;
use ondol_database::{Check, Peer, Stream};

use packet::{Answer, Greeting, Malformed};

/// What the server said about a statement or a login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The server's own number, such as 1193: <https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html>.
    pub code: u16,
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl ondol_database::Refusal for Refusal {
    type Code<'a> = u16;

    fn code(&self) -> u16 {
        self.code
    }
}

pub type Error = ondol_database::Error<Refusal>;
pub type Result<T> = std::result::Result<T, Error>;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Socket(PathBuf),
    Tcp { host: String, port: u16, tls: Tls },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Tcp { host, port, .. } => write!(f, "{host} port {port}"),
        }
    }
}

/// How a server over TCP is known to be the right one. The protocol has no channel binding: a server whose certificate is not checked could
/// ask for the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// By a certificate that this authority signed for the host's name or address.
    Identity(PathBuf),
    /// By a certificate that this authority signed, for whatever name: MySQL's own certificates name no host.
    Authority(PathBuf),
    /// Not at all, and not encrypted. The password itself is never sent then.
    Off,
}

impl Tls {
    /// `None`: not encrypted.
    fn check(&self) -> Option<Check<'_>> {
        match self {
            Self::Identity(path) => Some(Check::Host(path)),
            Self::Authority(path) => Some(Check::Signer(path)),
            Self::Off => None,
        }
    }
}

/// Who logs in.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    pub user: &'a str,
    pub password: Option<&'a str>,
}

/// The rows of a query, and the columns' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

impl Table {
    /// A column of the first row by its name, whatever the case. For statements such as `SHOW REPLICA STATUS`, whose columns differ by version.
    pub fn named(&self, name: &str) -> Option<&str> {
        let column = self
            .columns
            .iter()
            .position(|it| it.eq_ignore_ascii_case(name))?;
        self.rows.first()?.optional(column)
    }
}

/// An open connection.
pub struct Client {
    stream: Stream,
    sequence: u8,
    peer: Peer,
    /// As the server names it: `8.0.45-0ubuntu0.22.04.1`.
    pub version: String,
}

/// How long to wait for a TCP connection: in a failover, one member does not answer.
const CONNECT: Duration = Duration::from_secs(3);
/// How long to wait for each answer, unless [`Client::set_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whatever the server's defaults: texts are UTF-8, backslashes in them are escapes, wrong values are errors, a lock is not waited for forever.
const SESSION: &str = "SET NAMES utf8mb4, SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
                       SESSION lock_wait_timeout = 30, SESSION group_concat_max_len = 1048576";

impl Client {
    /// Opens a connection and logs in.
    pub fn connect(endpoint: &Endpoint, login: Login<'_>) -> Result<Self> {
        let peer = Peer::new(endpoint);
        let stream = match endpoint {
            Endpoint::Socket(path) => Stream::local(path),
            Endpoint::Tcp { host, port, .. } => Stream::dial(
                host,
                *port,
                Patience {
                    connect: CONNECT,
                    answer: PATIENCE,
                },
            ),
        };
        let stream = stream
            .and_then(|stream| stream.set_patience(PATIENCE).map(|()| stream))
            .map_err(|source| peer.unreachable(source))?;
        let mut client = Self {
            stream,
            sequence: 0,
            peer,
            version: String::new(),
        };
        client.log_in(login, endpoint)?;
        client.run(SESSION)?;
        Ok(client)
    }

    /// How long each answer may take from now on.
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        self.stream
            .set_patience(patience)
            .map_err(|source| self.peer.broken(source))
    }

    fn log_in(&mut self, login: Login<'_>, endpoint: &Endpoint) -> Result<()> {
        let greeting = self.receive()?;
        if greeting.first() == Some(&0xff) {
            return Err(self.refused(&greeting));
        }
        let greeting = Greeting::parse(&greeting).map_err(|it| self.malformed(it))?;
        self.version.clone_from(&greeting.version);
        let encrypt = match endpoint {
            Endpoint::Socket(_) => None,
            Endpoint::Tcp { host, tls, .. } => tls.check().map(|check| (host, check)),
        };
        if let Some((host, check)) = encrypt {
            if !greeting.offers_tls() {
                return Err(self.peer.untrusted("it does not offer TLS"));
            }
            self.send(&packet::tls_request())?;
            self.stream
                .encrypt(host, &check)
                .map_err(|reason| self.peer.untrusted(reason))?;
        }
        let password = login.password.unwrap_or_default();
        let mut plugin = greeting.plugin.clone();
        let mut challenge = greeting.challenge.clone();
        // A plugin we do not know is answered with one that we do; the server then switches.
        if !matches!(plugin.as_str(), SHA2 | SOCKET | NATIVE) {
            plugin = SHA2.to_owned();
        }
        let proof = self.proof(&plugin, password, &challenge)?;
        self.send(&packet::login(
            login.user,
            &proof,
            &plugin,
            encrypt.is_some(),
        ))?;
        loop {
            let bytes = self.receive()?;
            match packet::Login::parse(&bytes).map_err(|it| self.malformed(it))? {
                packet::Login::Done => return Ok(()),
                packet::Login::Refused => return Err(self.refused(&bytes)),
                packet::Login::Switch {
                    plugin: wanted,
                    challenge: new,
                } => {
                    challenge = new;
                    let proof = self.proof(&wanted, password, &challenge)?;
                    self.send(&proof)?;
                }
                packet::Login::Known => {}
                packet::Login::WantsPassword if self.stream.is_private() => {
                    self.send(&[password.as_bytes(), b"\0"].concat())?;
                }
                packet::Login::WantsPassword => {
                    return Err(self
                        .peer
                        .untrusted("it wants the password itself, and nothing is encrypted"));
                }
            }
        }
    }

    fn proof(&self, plugin: &str, password: &str, challenge: &[u8]) -> Result<Vec<u8>> {
        match plugin {
            SHA2 => Ok(crate::sha2::scramble(password.as_bytes(), challenge)),
            SOCKET => Ok(Vec::new()),
            NATIVE => Ok(packet::native_scramble(password.as_bytes(), challenge)),
            other => Err(self.peer.untrusted(format!(
                "it wants the authentication {other:?}, which is not spoken here"
            ))),
        }
    }

    /// Runs a statement whose answer is of no interest.
    pub fn run(&mut self, sql: &str) -> Result<()> {
        self.table(sql).map(drop)
    }

    /// The rows of a statement.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        Ok(self.table(sql)?.rows)
    }

    /// The first column of the first row; empty if there is none.
    pub fn value(&mut self, sql: &str) -> Result<String> {
        let rows = self.query(sql)?;
        Ok(rows
            .first()
            .map(|row| row.text(0).to_owned())
            .unwrap_or_default())
    }

    /// The rows of a statement, with the columns' names. Of a procedure's many answers, the last that has rows.
    pub fn table(&mut self, sql: &str) -> Result<Table> {
        self.sequence = 0;
        self.send(&[&[packet::QUERY], sql.as_bytes()].concat())?;
        let mut table = Table::default();
        loop {
            let first = self.receive()?;
            let more = match Answer::parse(&first).map_err(|it| self.malformed(it))? {
                Answer::Refused => return Err(self.refused(&first)),
                Answer::Done { more } => more,
                Answer::Columns(count) => {
                    let mut columns = Vec::with_capacity(count);
                    for _ in 0..count {
                        let column = self.receive()?;
                        columns
                            .push(packet::column_name(&column).map_err(|it| self.malformed(it))?);
                    }
                    let (rows, more) = self.rows(count)?;
                    table = Table { columns, rows };
                    more
                }
            };
            if !more {
                return Ok(table);
            }
        }
    }

    fn rows(&mut self, columns: usize) -> Result<(Vec<Row>, bool)> {
        let mut rows = Vec::new();
        loop {
            let bytes = self.receive()?;
            match packet::row(&bytes, columns).map_err(|it| self.malformed(it))? {
                packet::Line::Row(row) => rows.push(Row(row)),
                packet::Line::End { more } => return Ok((rows, more)),
                packet::Line::Refused => return Err(self.refused(&bytes)),
            }
        }
    }

    fn send(&mut self, payload: &[u8]) -> Result<()> {
        for part in packet::frames(payload, &mut self.sequence) {
            self.stream
                .write_all(&part)
                .map_err(|source| self.peer.broken(source))?;
        }
        self.stream
            .flush()
            .map_err(|source| self.peer.broken(source))
    }

    /// One packet, put together if it came in parts.
    fn receive(&mut self) -> Result<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 4];
            self.stream
                .read_exact(&mut header)
                .map_err(|source| self.peer.broken(source))?;
            let [a, b, c, sequence] = header;
            let length = u32::from_le_bytes([a, b, c, 0]) as usize;
            if sequence != self.sequence {
                return Err(self.malformed(Malformed("a packet out of sequence")));
            }
            self.sequence = self.sequence.wrapping_add(1);
            let start = payload.len();
            payload.resize(start + length, 0);
            self.stream
                .read_exact(&mut payload[start..])
                .map_err(|source| self.peer.broken(source))?;
            if length < packet::LONGEST {
                return Ok(payload);
            }
        }
    }

    fn refused(&self, bytes: &[u8]) -> Error {
        match packet::refusal(bytes) {
            Ok(refusal) => self.peer.refused(refusal),
            Err(malformed) => self.malformed(malformed),
        }
    }

    fn malformed(&self, malformed: Malformed) -> Error {
        self.peer
            .broken(io::Error::new(io::ErrorKind::InvalidData, malformed.0))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.sequence = 0;
        // The server notices either way.
        let _ = self.send(&[packet::QUIT]);
    }
}

const SHA2: &str = "caching_sha2_password";
const SOCKET: &str = "auth_socket";
const NATIVE: &str = "mysql_native_password";
