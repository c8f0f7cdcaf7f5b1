//! A blocking client of PostgreSQL's protocol, version 3: one connection, the simple query protocol, values as text.
//!
//! It stands on the codec `postgres-protocol` and not on `postgres`, because a standby's questions (`IDENTIFY_SYSTEM`, slots) need a physical
//! replication connection, which that crate cannot open, and because a module does one thing at a time and needs no async runtime.
//! It does not prepare statements, copy, or speak any authentication but peer, trust (both on the local socket only) and SCRAM.

mod tls;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::{backend::ErrorFields, backend::Message, frontend};
use rustls::{ClientConnection, StreamOwned};

/// What the server said about a statement or a login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE, five characters.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        for (title, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(f, "; {title}: {text}")?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is known about the server: it may be down, or only out of reach.
    #[error("no connection to {to}: {source}")]
    Unreachable { to: String, source: io::Error },
    /// The server answered, with a no.
    #[error("the server at {to} says: {refusal}")]
    Refused { to: String, refusal: Refusal },
    /// What answered cannot be trusted to be the server.
    #[error("the server at {to} is not trusted: {reason}")]
    Untrusted { to: String, reason: String },
    #[error("the connection to {to} broke: {source}")]
    Broken { to: String, source: io::Error },
}

impl Error {
    /// The SQLSTATE, if it was the server that refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { refusal, .. } => Some(&refusal.code),
            _ => None,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Socket { directory: PathBuf, port: u16 },
    Tcp { host: String, port: u16, tls: Tls },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { directory, port } => {
                write!(f, "{}/.s.PGSQL.{port}", directory.display())
            }
            Self::Tcp { host, port, .. } => write!(f, "{host} port {port}"),
        }
    }
}

/// How a server over TCP is known to be the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// By the password itself: SCRAM bound to the TLS channel succeeds only with a server that holds the password's verifier and the
    /// certificate at hand, whoever signed that (RFC 5802, RFC 5929 section 4).
    ChannelBinding,
    /// By a certificate that this authority signed for the host's name or address.
    Authority(PathBuf),
    /// Not at all, and not encrypted. The password still does not cross the wire.
    Off,
}

/// Who logs in, to what.
#[derive(Debug, Clone)]
pub struct Login<'a> {
    pub user: &'a str,
    pub password: Option<&'a str>,
    pub purpose: Purpose<'a>,
    /// How long to wait for a connection over TCP.
    pub patience: Duration,
}

#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    Database(&'a str),
    /// A physical replication connection: it knows `IDENTIFY_SYSTEM`, `SHOW` and slots, not SQL.
    Replication,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buffer),
            Self::Tcp(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// One row, with the columns in the order of the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub Vec<Option<String>>);

impl Row {
    /// A column as text; empty for NULL and for a column that is not there.
    pub fn text(&self, column: usize) -> &str {
        self.optional(column).unwrap_or_default()
    }

    pub fn optional(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }

    /// A boolean column: PostgreSQL writes `t` and `f`.
    pub fn yes(&self, column: usize) -> bool {
        self.text(column) == "t"
    }
}

/// An open connection.
pub struct Client {
    stream: Stream,
    incoming: BytesMut,
    outgoing: BytesMut,
    to: String,
}

/// How long to wait for a TCP connection, usually.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for each answer over it.
const ANSWER: Duration = Duration::from_secs(5);

impl Client {
    /// Opens a connection and logs in.
    pub fn connect(endpoint: &Endpoint, login: &Login<'_>) -> Result<Self> {
        let to = endpoint.to_string();
        let unreachable = |source| Error::Unreachable {
            to: to.clone(),
            source,
        };
        let (stream, binding) = match endpoint {
            Endpoint::Socket { directory, port } => {
                let path = directory.join(format!(".s.PGSQL.{port}"));
                let stream = UnixStream::connect(path).map_err(unreachable)?;
                (Stream::Unix(stream), ChannelBinding::unsupported())
            }
            Endpoint::Tcp { host, port, tls } => {
                let stream = dial(host, *port, login.patience).map_err(unreachable)?;
                let opened = match tls {
                    Tls::Off => (Stream::Tcp(stream), ChannelBinding::unsupported()),
                    Tls::ChannelBinding => encrypt(stream, host, None, &to)?,
                    Tls::Authority(path) => encrypt(stream, host, Some(path), &to)?,
                };
                (opened.0, opened.1)
            }
        };
        let mut client = Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            to,
        };
        client.log_in(login, binding, endpoint)?;
        Ok(client)
    }

    fn log_in(
        &mut self,
        login: &Login<'_>,
        binding: ChannelBinding,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let mut parameters = vec![
            ("user", login.user),
            ("application_name", "ondol"),
            ("client_encoding", "UTF8"),
        ];
        match login.purpose {
            Purpose::Database(name) => parameters.push(("database", name)),
            Purpose::Replication => parameters.push(("replication", "true")),
        }
        frontend::startup_message(parameters, &mut self.outgoing)
            .map_err(|source| self.broken(source))?;
        self.flush()?;
        let bound = matches!(
            endpoint,
            Endpoint::Tcp {
                tls: Tls::ChannelBinding,
                ..
            }
        );
        let over_tcp = matches!(endpoint, Endpoint::Tcp { .. });
        let mut scram = None;
        let mut binding = Some(binding);
        let mut proven = false;
        loop {
            match self.message()? {
                // Else anyone who answers on that port would pass for the server.
                Message::AuthenticationOk if bound && !proven => {
                    return Err(self.untrusted("it asks for no password, so it proved nothing"));
                }
                Message::AuthenticationOk
                | Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<String> = body
                        .mechanisms()
                        .map(|name| Ok(name.to_owned()))
                        .collect()
                        .map_err(|source| self.broken(source))?;
                    let mechanism = if mechanisms.iter().any(|it| it == SCRAM_SHA_256_PLUS)
                        && over_tcp
                        && !matches!(endpoint, Endpoint::Tcp { tls: Tls::Off, .. })
                    {
                        SCRAM_SHA_256_PLUS
                    } else if bound {
                        return Err(self.untrusted("it does not offer SCRAM-SHA-256-PLUS"));
                    } else {
                        SCRAM_SHA_256
                    };
                    let password = login
                        .password
                        .ok_or_else(|| self.untrusted("it wants a password, and none was given"))?;
                    let binding = binding
                        .take()
                        .ok_or_else(|| self.untrusted("it begins SASL twice"))?;
                    let binding = if mechanism == SCRAM_SHA_256_PLUS {
                        binding
                    } else {
                        ChannelBinding::unsupported()
                    };
                    let begun = ScramSha256::new(password.as_bytes(), binding);
                    frontend::sasl_initial_response(mechanism, begun.message(), &mut self.outgoing)
                        .map_err(|source| self.broken(source))?;
                    scram = Some(begun);
                    self.flush()?;
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram
                        .as_mut()
                        .ok_or_else(|| self.untrusted("it continues a SASL that never began"))?;
                    scram
                        .update(body.data())
                        .map_err(|error| self.untrusted(&error.to_string()))?;
                    frontend::sasl_response(scram.message(), &mut self.outgoing)
                        .map_err(|source| self.broken(source))?;
                    self.flush()?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram
                        .as_mut()
                        .ok_or_else(|| self.untrusted("it ends a SASL that never began"))?;
                    scram
                        .finish(body.data())
                        .map_err(|error| self.untrusted(&error.to_string()))?;
                    proven = true;
                }
                Message::ErrorResponse(body) => {
                    let refusal = refusal(body.fields()).map_err(|source| self.broken(source))?;
                    return Err(self.refused(refusal));
                }
                Message::ReadyForQuery(_) => return Ok(()),
                _ => {
                    return Err(
                        self.untrusted("it wants an authentication other than SCRAM-SHA-256")
                    );
                }
            }
        }
    }

    /// Runs one statement or several; the rows of the last one that returns any.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        frontend::query(sql, &mut self.outgoing).map_err(|source| self.broken(source))?;
        self.flush()?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            match self.message()? {
                Message::RowDescription(_) => rows.clear(),
                Message::DataRow(body) => {
                    let bytes = body.buffer();
                    let columns = body
                        .ranges()
                        .map(|range| {
                            Ok(range
                                .map(|range| String::from_utf8_lossy(&bytes[range]).into_owned()))
                        })
                        .collect()
                        .map_err(|source| self.broken(source))?;
                    rows.push(Row(columns));
                }
                Message::ErrorResponse(body) => {
                    let refusal = refusal(body.fields()).map_err(|source| self.broken(source))?;
                    // A server that shuts down says so and hangs up without becoming ready again.
                    if refusal.code.starts_with("57P") {
                        return Err(self.refused(refusal));
                    }
                    refused = Some(refusal);
                }
                Message::ReadyForQuery(_) => {
                    return match refused {
                        Some(refusal) => Err(self.refused(refusal)),
                        None => Ok(rows),
                    };
                }
                _ => {}
            }
        }
    }

    /// The first column of the first row; empty if there is none.
    pub fn value(&mut self, sql: &str) -> Result<String> {
        let rows = self.query(sql)?;
        Ok(rows
            .first()
            .map(|row| row.text(0).to_owned())
            .unwrap_or_default())
    }

    fn flush(&mut self) -> Result<()> {
        let sent = self.stream.write_all(&self.outgoing);
        self.outgoing.clear();
        sent.and_then(|()| self.stream.flush())
            .map_err(|source| self.broken(source))
    }

    fn message(&mut self) -> Result<Message> {
        loop {
            let parsed =
                Message::parse(&mut self.incoming).map_err(|source| self.broken(source))?;
            if let Some(message) = parsed {
                return Ok(message);
            }
            let mut buffer = [0; 8192];
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(error)),
            };
            self.incoming.extend_from_slice(&buffer[..length]);
        }
    }

    fn refused(&self, refusal: Refusal) -> Error {
        Error::Refused {
            to: self.to.clone(),
            refusal,
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Broken {
            to: self.to.clone(),
            source,
        }
    }

    fn untrusted(&self, reason: &str) -> Error {
        Error::Untrusted {
            to: self.to.clone(),
            reason: reason.to_owned(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        frontend::terminate(&mut self.outgoing);
        // The server notices either way.
        let _ = self.stream.write_all(&self.outgoing);
    }
}

fn dial(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER))?;
                stream.set_write_timeout(Some(ANSWER))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks for TLS as <https://www.postgresql.org/docs/15/protocol-flow.html#id-1.10.6.7.13> has it.
fn encrypt(
    mut stream: TcpStream,
    host: &str,
    authority: Option<&Path>,
    to: &str,
) -> Result<(Stream, ChannelBinding)> {
    let broken = |source| Error::Broken {
        to: to.to_owned(),
        source,
    };
    let untrusted = |reason: String| Error::Untrusted {
        to: to.to_owned(),
        reason,
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).map_err(broken)?;
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(broken)?;
    if answer != *b"S" {
        return Err(untrusted("it does not offer TLS".to_owned()));
    }
    let connection = tls::connection(host, authority).map_err(untrusted)?;
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|error| untrusted(error.to_string()))?;
    }
    let certificate = stream
        .conn
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or_else(|| untrusted("it shows no certificate".to_owned()))?;
    let binding = match tls::end_point_hash(certificate) {
        Some(hash) => ChannelBinding::tls_server_end_point(hash),
        None => ChannelBinding::unsupported(),
    };
    Ok((Stream::Tls(Box::new(stream)), binding))
}

fn refusal(fields: ErrorFields<'_>) -> io::Result<Refusal> {
    let mut refusal = Refusal::default();
    fields.for_each(|field| {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => refusal.code = text,
            b'M' => refusal.message = text,
            b'D' => refusal.detail = Some(text),
            b'H' => refusal.hint = Some(text),
            _ => {}
        }
        Ok(())
    })?;
    Ok(refusal)
}
