//! A blocking client of PostgreSQL's protocol, version 3: one connection, the simple query protocol, values as text.
//!
//! It stands on the codec `postgres-protocol` and not on `postgres`, because a standby's questions (`IDENTIFY_SYSTEM`, slots) need a physical
//! replication connection, which that crate cannot open, and because a module does one thing at a time and needs no async runtime.
//! It does not prepare statements, copy, or speak any authentication but peer, trust (both on the local socket only) and SCRAM.

mod end_point;

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
pub(crate) use ondol_database::Row;
use ondol_database::connection::Patience;
use ondol_database::{Check, Peer, Stream};
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::{backend::ErrorFields, backend::Message, frontend};

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

impl ondol_database::Refusal for Refusal {
    type Code<'a> = &'a str;

    fn code(&self) -> &str {
        &self.code
    }
}

pub(crate) type Error = ondol_database::Error<Refusal>;
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

/// An open connection.
pub struct Client {
    stream: Stream,
    incoming: BytesMut,
    outgoing: BytesMut,
    peer: Peer,
}

/// How long to wait for a TCP connection, usually.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait for each answer over it.
const ANSWER: Duration = Duration::from_secs(5);

impl Client {
    /// Opens a connection and logs in.
    pub fn connect(endpoint: &Endpoint, login: &Login<'_>) -> Result<Self> {
        let peer = Peer::new(endpoint);
        let unreachable = |source| peer.unreachable(source);
        let (stream, binding) = match endpoint {
            Endpoint::Socket { directory, port } => {
                let path = directory.join(format!(".s.PGSQL.{port}"));
                let stream = Stream::local(&path).map_err(unreachable)?;
                (stream, ChannelBinding::unsupported())
            }
            Endpoint::Tcp { host, port, tls } => {
                let patience = Patience {
                    connect: login.patience,
                    answer: ANSWER,
                };
                let stream = Stream::dial(host, *port, patience).map_err(unreachable)?;
                match tls {
                    Tls::Off => (stream, ChannelBinding::unsupported()),
                    Tls::ChannelBinding => encrypt(stream, host, &Check::Later, &peer)?,
                    Tls::Authority(path) => encrypt(stream, host, &Check::Host(path), &peer)?,
                }
            }
        };
        let mut client = Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            peer,
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
            .map_err(|source| self.peer.broken(source))?;
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
                    return Err(self
                        .peer
                        .untrusted("it asks for no password, so it proved nothing"));
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
                        .map_err(|source| self.peer.broken(source))?;
                    let mechanism = if mechanisms.iter().any(|it| it == SCRAM_SHA_256_PLUS)
                        && over_tcp
                        && !matches!(endpoint, Endpoint::Tcp { tls: Tls::Off, .. })
                    {
                        SCRAM_SHA_256_PLUS
                    } else if bound {
                        return Err(self.peer.untrusted("it does not offer SCRAM-SHA-256-PLUS"));
                    } else {
                        SCRAM_SHA_256
                    };
                    let password = login.password.ok_or_else(|| {
                        self.peer
                            .untrusted("it wants a password, and none was given")
                    })?;
                    let binding = binding
                        .take()
                        .ok_or_else(|| self.peer.untrusted("it begins SASL twice"))?;
                    let binding = if mechanism == SCRAM_SHA_256_PLUS {
                        binding
                    } else {
                        ChannelBinding::unsupported()
                    };
                    let begun = ScramSha256::new(password.as_bytes(), binding);
                    frontend::sasl_initial_response(mechanism, begun.message(), &mut self.outgoing)
                        .map_err(|source| self.peer.broken(source))?;
                    scram = Some(begun);
                    self.flush()?;
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(|| {
                        self.peer.untrusted("it continues a SASL that never began")
                    })?;
                    scram
                        .update(body.data())
                        .map_err(|error| self.peer.untrusted(error.to_string()))?;
                    frontend::sasl_response(scram.message(), &mut self.outgoing)
                        .map_err(|source| self.peer.broken(source))?;
                    self.flush()?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram
                        .as_mut()
                        .ok_or_else(|| self.peer.untrusted("it ends a SASL that never began"))?;
                    scram
                        .finish(body.data())
                        .map_err(|error| self.peer.untrusted(error.to_string()))?;
                    proven = true;
                }
                Message::ErrorResponse(body) => {
                    let refusal =
                        refusal(body.fields()).map_err(|source| self.peer.broken(source))?;
                    return Err(self.peer.refused(refusal));
                }
                Message::ReadyForQuery(_) => return Ok(()),
                _ => {
                    return Err(self
                        .peer
                        .untrusted("it wants an authentication other than SCRAM-SHA-256"));
                }
            }
        }
    }

    /// Runs one statement or several; the rows of the last one that returns any.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        frontend::query(sql, &mut self.outgoing).map_err(|source| self.peer.broken(source))?;
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
                        .map_err(|source| self.peer.broken(source))?;
                    rows.push(Row(columns));
                }
                Message::ErrorResponse(body) => {
                    let refusal =
                        refusal(body.fields()).map_err(|source| self.peer.broken(source))?;
                    // A server that shuts down says so and hangs up without becoming ready again.
                    if refusal.code.starts_with("57P") {
                        return Err(self.peer.refused(refusal));
                    }
                    refused = Some(refusal);
                }
                Message::ReadyForQuery(_) => {
                    return match refused {
                        Some(refusal) => Err(self.peer.refused(refusal)),
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
            .map_err(|source| self.peer.broken(source))
    }

    fn message(&mut self) -> Result<Message> {
        loop {
            let parsed =
                Message::parse(&mut self.incoming).map_err(|source| self.peer.broken(source))?;
            if let Some(message) = parsed {
                return Ok(message);
            }
            let mut buffer = [0; 8192];
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.peer.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.peer.broken(error)),
            };
            self.incoming.extend_from_slice(&buffer[..length]);
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

/// Asks for TLS as <https://www.postgresql.org/docs/15/protocol-flow.html#id-1.10.6.7.13> has it.
fn encrypt(
    mut stream: Stream,
    host: &str,
    check: &Check<'_>,
    peer: &Peer,
) -> Result<(Stream, ChannelBinding)> {
    let broken = |source| peer.broken(source);
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).map_err(broken)?;
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(broken)?;
    if answer != *b"S" {
        return Err(peer.untrusted("it does not offer TLS"));
    }
    stream
        .encrypt(host, check)
        .map_err(|reason| peer.untrusted(reason))?;
    let certificate = stream
        .certificate()
        .ok_or_else(|| peer.untrusted("it shows no certificate"))?;
    let binding = match end_point::hash(certificate) {
        Some(hash) => ChannelBinding::tls_server_end_point(hash),
        None => ChannelBinding::unsupported(),
    };
    Ok((stream, binding))
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
