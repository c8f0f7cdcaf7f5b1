//! Where Terraform connects: a unix socket in a folder that only this user can enter, or, on Windows, a loopback port.
//! Either way a connection counts only after its TLS handshake. Handshakes run beside each other, so that one that never
//! finishes holds up no other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

#[cfg(unix)]
use crate::leftovers::{FOLDER, SOCKET};

/// How a provider listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A unix socket. Only on Unix.
    Unix,
    /// A port on 127.0.0.1.
    Tcp,
}

impl Transport {
    /// The one that Terraform and this system have in common.
    pub const fn native() -> Self {
        if cfg!(windows) { Self::Tcp } else { Self::Unix }
    }
}

/// The ports that go-plugin allows, where its client says nothing.
const PORTS: (u16, u16) = (10_000, 25_000);

/// A TLS handshake that takes longer than this is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What listens.
pub(crate) enum Listener {
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        socket: std::path::PathBuf,
    },
    Tcp(TcpListener),
}

/// What go-plugin's client says about where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) folder: Option<std::path::PathBuf>,
    pub(crate) min_port: Option<u16>,
    pub(crate) max_port: Option<u16>,
}

impl Wishes {
    pub(crate) fn from_environment() -> Self {
        let port = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        Self {
            folder: std::env::var_os("PLUGIN_UNIX_SOCKET_DIR")
                .filter(|folder| !folder.is_empty())
                .map(Into::into),
            min_port: port("PLUGIN_MIN_PORT"),
            max_port: port("PLUGIN_MAX_PORT"),
        }
    }

    fn ports(&self) -> std::ops::RangeInclusive<u16> {
        let (least, most) = PORTS;
        self.min_port.unwrap_or(least)..=self.max_port.unwrap_or(most)
    }
}

impl Listener {
    /// Listens. The folder of a socket comes along, because it has to be dropped before the process ends, whatever
    /// still runs then.
    pub(crate) async fn bind(
        transport: Transport,
        wishes: &Wishes,
    ) -> anyhow::Result<(Self, Option<tempfile::TempDir>)> {
        match transport {
            #[cfg(unix)]
            Transport::Unix => {
                use std::os::unix::fs::PermissionsExt;
                let base = wishes.folder.clone().unwrap_or_else(std::env::temp_dir);
                let folder = tempfile::Builder::new()
                    .prefix(&format!("{FOLDER}{}-", std::process::id()))
                    .permissions(std::fs::Permissions::from_mode(0o700))
                    .tempdir_in(&base)
                    .with_context(|| {
                        format!("make a folder for the socket in {}", base.display())
                    })?;
                let socket = folder.path().join(SOCKET);
                let listener = UnixListener::bind(&socket)
                    .with_context(|| format!("listen on {}", socket.display()))?;
                Ok((Self::Unix { listener, socket }, Some(folder)))
            }
            #[cfg(not(unix))]
            Transport::Unix => bail!("this system has no unix sockets"),
            Transport::Tcp => {
                for port in wishes.ports() {
                    if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
                        return Ok((Self::Tcp(listener), None));
                    }
                }
                bail!("no port from {:?} on 127.0.0.1 is free", wishes.ports());
            }
        }
    }

    /// The network and the address, as the handshake line names them.
    pub(crate) fn announce(&self) -> anyhow::Result<(&'static str, String)> {
        match self {
            #[cfg(unix)]
            Self::Unix { socket, .. } => {
                let text = socket.to_str().context("the socket's path is not UTF-8")?;
                Ok(("unix", text.to_owned()))
            }
            Self::Tcp(listener) => Ok((
                "tcp",
                listener.local_addr().context("read the port")?.to_string(),
            )),
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Socket>> {
        match self {
            #[cfg(unix)]
            Self::Unix { listener, .. } => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Every connection whose handshake succeeds. Drop the stream to stop listening.
    pub(crate) fn connections(
        self,
        acceptor: TlsAcceptor,
    ) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let socket = tokio::select! {
                    socket = self.accept() => socket,
                    () = sender.closed() => return,
                };
                let socket = match socket {
                    Ok(socket) => socket,
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        // Most likely out of file descriptors, which a moment may cure.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let acceptor = acceptor.clone();
                let sender = sender.clone();
                tokio::spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                        // Nobody to send to means that the server is going down.
                        Ok(Ok(stream)) => drop(sender.send(Ok(Connection(stream))).await),
                        Ok(Err(error)) => tracing::warn!("refused a connection: {error}"),
                        Err(_) => tracing::warn!("gave up a TLS handshake after {HANDSHAKE:?}"),
                    }
                });
            }
        });
        ReceiverStream::new(receiver)
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection from Terraform, and from nobody else.
pub(crate) struct Connection(TlsStream<Box<dyn Socket>>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn the_socket_lies_in_a_folder_that_only_its_user_can_enter_and_goes_with_it() {
        use std::os::unix::fs::PermissionsExt;
        let base = tempfile::tempdir().expect("a folder");
        let wishes = Wishes {
            folder: Some(base.path().to_owned()),
            ..Wishes::default()
        };
        let (listener, kept) = Listener::bind(Transport::Unix, &wishes)
            .await
            .expect("it listens");
        let (network, address) = listener.announce().expect("an address");
        assert_eq!(network, "unix");
        let folder = std::path::Path::new(&address).parent().expect("a folder");
        let mode = std::fs::metadata(folder)
            .expect("it exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(folder.parent(), Some(base.path()));
        drop(kept);
        assert!(!std::path::Path::new(&address).exists());
    }

    #[tokio::test]
    async fn a_port_is_taken_from_the_range_that_terraform_allows() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let wishes = |min_port, max_port| Wishes {
            min_port: Some(min_port),
            max_port: Some(max_port),
            ..Wishes::default()
        };
        let refused = Listener::bind(Transport::Tcp, &wishes(port, port)).await;
        assert!(refused.is_err());
        drop(taken);
        let (listener, _) = Listener::bind(Transport::Tcp, &wishes(port, port))
            .await
            .expect("it listens");
        assert_eq!(
            listener.announce().expect("an address"),
            ("tcp", format!("127.0.0.1:{port}"))
        );
    }
}
