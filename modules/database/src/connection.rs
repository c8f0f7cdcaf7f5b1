//! A byte stream to a server, in the clear, encrypted or local, and what can go wrong on it. No protocol.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, StreamOwned};

use crate::tls::{self, Check};

/// What a server said about a statement or a login.
pub trait Refusal: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// As the server numbers its errors.
    type Code<'a>;

    fn code(&self) -> Self::Code<'_>;
}

#[derive(Debug, thiserror::Error)]
pub enum Error<R: Refusal> {
    /// Nothing is known about the server: it may be down, or only out of reach.
    #[error("no connection to {to}: {source}")]
    Unreachable { to: String, source: io::Error },
    /// The server answered, with a no.
    #[error("the server at {to} says: {refusal}")]
    Refused { to: String, refusal: R },
    /// What answered cannot be trusted to be the server.
    #[error("the server at {to} is not trusted: {reason}")]
    Untrusted { to: String, reason: String },
    #[error("the connection to {to} broke: {source}")]
    Broken { to: String, source: io::Error },
}

impl<R: Refusal> Error<R> {
    /// The server's code, if it was the server that refused.
    pub fn code(&self) -> Option<R::Code<'_>> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.code()),
            _ => None,
        }
    }

    /// Of a local socket: certainly nobody listens there.
    pub fn nobody_listens(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Unreachable { source, .. } if matches!(source.kind(), NotFound | ConnectionRefused))
    }
}

/// The other end, as errors name it.
#[derive(Debug, Clone)]
pub struct Peer(String);

impl Peer {
    pub fn new(name: impl fmt::Display) -> Self {
        Self(name.to_string())
    }

    pub fn unreachable<R: Refusal>(&self, source: io::Error) -> Error<R> {
        Error::Unreachable {
            to: self.0.clone(),
            source,
        }
    }

    pub fn refused<R: Refusal>(&self, refusal: R) -> Error<R> {
        Error::Refused {
            to: self.0.clone(),
            refusal,
        }
    }

    pub fn untrusted<R: Refusal>(&self, reason: impl Into<String>) -> Error<R> {
        Error::Untrusted {
            to: self.0.clone(),
            reason: reason.into(),
        }
    }

    pub fn broken<R: Refusal>(&self, source: io::Error) -> Error<R> {
        let source = match source.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
            }
            _ => source,
        };
        Error::Broken {
            to: self.0.clone(),
            source,
        }
    }
}

/// How long a server over TCP may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub connect: Duration,
    /// For each read and each write.
    pub answer: Duration,
}

/// An open connection.
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    pub fn local(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::Unix)
    }

    /// Tries all addresses of the name within one patience.
    pub fn dial(host: &str, port: u16, patience: Patience) -> io::Result<Self> {
        let deadline = Instant::now() + patience.connect;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (host, port).to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(patience.answer))?;
                    stream.set_write_timeout(Some(patience.answer))?;
                    return Ok(Self::Tcp(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Turns a TCP connection into one over TLS, with the handshake done. Errors are texts for a person.
    pub fn encrypt(&mut self, host: &str, check: &Check<'_>) -> Result<(), String> {
        let Self::Tcp(socket) = self else {
            return Err("only a connection in the clear over TCP can be encrypted".to_owned());
        };
        let socket = socket.try_clone().map_err(|error| error.to_string())?;
        let mut stream = StreamOwned::new(tls::connection(host, check)?, socket);
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .map_err(|error| error.to_string())?;
        }
        *self = Self::Tls(Box::new(stream));
        Ok(())
    }

    /// The server's own certificate, over TLS.
    pub fn certificate(&self) -> Option<&CertificateDer<'_>> {
        match self {
            Self::Tls(stream) => stream.conn.peer_certificates()?.first(),
            Self::Unix(_) | Self::Tcp(_) => None,
        }
    }

    /// Nobody on the way can read it.
    pub fn is_private(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// How long each read may take from now on.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(patience)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(patience)),
        }
    }
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

/// One row of an answer, values as text, with the columns in the order of the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row(pub Vec<Option<String>>);

impl Row {
    /// A column as text; empty for NULL and for a column that is not there.
    pub fn text(&self, column: usize) -> &str {
        self.optional(column).unwrap_or_default()
    }

    pub fn optional(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }
}
