//! Sockets and the one wait for all of them. No verdicts.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::echo::{Token, reply, request};

/// How to probe.
#[derive(Debug, Clone)]
pub struct Options {
    /// Echo requests to each target; 0 sends none.
    pub count: u16,
    /// Between two requests to one target.
    pub interval: Duration,
    /// For a reply and for a connection.
    pub timeout: Duration,
    pub tcp_ports: Vec<u16>,
}

/// What came back from one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// One for each reply.
    pub rtts: Vec<Duration>,
    /// The last error in sending.
    pub error: Option<String>,
    pub tcp: Vec<TcpHeard>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpHeard {
    pub port: u16,
    /// Time until the connection stood, or the system's words.
    pub result: Result<Duration, String>,
}

/// Probes all targets at once. Takes at most `(count - 1) * interval + timeout` on a machine that is not overloaded, less when everybody
/// answers. On one that is, a late request is still given its whole timeout.
pub fn listen(targets: &[IpAddr], options: &Options) -> io::Result<Vec<Heard>> {
    let mut heard = vec![Heard::default(); targets.len()];
    let start = Instant::now();
    let mut connections = connect_all(targets, options, &mut heard);
    let token = token();
    let mut echoes = Vec::new();
    for v4 in [true, false] {
        if options.count > 0 && targets.iter().any(|target| target.is_ipv4() == v4) {
            echoes.push(EchoSocket::open(v4)?);
        }
    }
    let mut sent_at: Vec<Option<Instant>> = vec![None; targets.len() * usize::from(options.count)];
    let mut rounds = 0;
    let mut waiting = 0;
    let mut last_round = start;
    loop {
        let now = Instant::now();
        if rounds < options.count && now >= start + options.interval * u32::from(rounds) {
            for (index, target) in targets.iter().enumerate() {
                let sequence = index * usize::from(options.count) + usize::from(rounds);
                // The module checks that all sequence numbers fit.
                let packet = request(target.is_ipv4(), token, sequence as u16);
                let socket = echoes.iter().find(|echo| echo.v4 == target.is_ipv4());
                let sent = socket.map(|echo| {
                    let to = SockAddr::from(SocketAddr::new(*target, 0));
                    (Instant::now(), echo.socket.send_to(&packet, &to))
                });
                match sent {
                    Some((at, Ok(_))) => {
                        sent_at[sequence] = Some(at);
                        waiting += 1;
                    }
                    Some((_, Err(error))) => heard[index].error = Some(words(&error)),
                    None => {}
                }
            }
            rounds += 1;
            last_round = Instant::now();
        }
        let deadline = if rounds < options.count {
            start + options.interval * u32::from(rounds)
        } else if waiting > 0 {
            last_round + options.timeout
        } else {
            start + options.timeout
        };
        if rounds >= options.count
            && (waiting == 0 && connections.is_empty() || Instant::now() >= deadline)
        {
            break;
        }
        wait(&echoes, &connections, deadline)?;
        for echo in &echoes {
            while let Some((at, from, sequence)) = echo.receive(token)? {
                let index = sequence / usize::from(options.count);
                // A reply of somebody else, or the second of the same: a broken network may do either.
                if targets.get(index) != Some(&from) {
                    continue;
                }
                if let Some(sent) = sent_at.get_mut(sequence).and_then(Option::take) {
                    heard[index].rtts.push(at - sent);
                    waiting -= 1;
                }
            }
        }
        let now = Instant::now();
        connections.retain(
            |connection| match connection.outcome(now, options.timeout) {
                None => true,
                Some(result) => {
                    heard[connection.target].tcp.push(TcpHeard {
                        port: connection.port,
                        result,
                    });
                    false
                }
            },
        );
    }
    for connection in &connections {
        heard[connection.target].tcp.push(TcpHeard {
            port: connection.port,
            result: Err("no answer".to_owned()),
        });
    }
    for heard in &mut heard {
        heard
            .tcp
            .sort_by_key(|tcp| options.tcp_ports.iter().position(|port| *port == tcp.port));
    }
    Ok(heard)
}

struct Connection {
    target: usize,
    port: u16,
    socket: Socket,
    since: Instant,
}

impl Connection {
    /// `None` while it is still under way.
    fn outcome(&self, now: Instant, timeout: Duration) -> Option<Result<Duration, String>> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        if !ready {
            return (now - self.since >= timeout).then(|| Err("no answer".to_owned()));
        }
        match self.socket.take_error() {
            Ok(None) => {
                // A reset in place of four more packets; we have nothing to say to the server.
                let _ = self.socket.set_linger(Some(Duration::ZERO));
                Some(Ok(now - self.since))
            }
            Ok(Some(error)) | Err(error) => Some(Err(words(&error))),
        }
    }
}

fn connect_all(targets: &[IpAddr], options: &Options, heard: &mut [Heard]) -> Vec<Connection> {
    let mut connections = Vec::new();
    for (target, address) in targets.iter().enumerate() {
        for port in &options.tcp_ports {
            let since = Instant::now();
            match connect(SocketAddr::new(*address, *port)) {
                Ok(socket) => connections.push(Connection {
                    target,
                    port: *port,
                    socket,
                    since,
                }),
                Err(error) => heard[target].tcp.push(TcpHeard {
                    port: *port,
                    result: Err(words(&error)),
                }),
            }
        }
    }
    connections
}

fn connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    match socket.connect(&to.into()) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

struct EchoSocket {
    v4: bool,
    socket: Socket,
    /// Only raw IPv4 sockets deliver the IP header.
    with_header: bool,
}

impl EchoSocket {
    /// A datagram socket where the system lets us (no privilege needed, and we hear only our own), else a raw one.
    fn open(v4: bool) -> io::Result<Self> {
        let (domain, protocol) = if v4 {
            (Domain::IPV4, Protocol::ICMPV4)
        } else {
            (Domain::IPV6, Protocol::ICMPV6)
        };
        let (socket, raw) = match Socket::new(domain, Type::DGRAM.nonblocking(), Some(protocol)) {
            Ok(socket) => (socket, false),
            Err(_) => {
                let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol)).map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("open an ICMP socket (needs root, or net.ipv4.ping_group_range): {error}"),
                    )
                })?;
                (socket, true)
            }
        };
        Ok(Self {
            v4,
            socket,
            with_header: raw && v4,
        })
    }

    /// The next reply to us; `None` when there is none right now.
    fn receive(&self, token: Token) -> io::Result<Option<(Instant, IpAddr, usize)>> {
        let mut buffer = [MaybeUninit::uninit(); 256];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // A report about an earlier request; its silence tells the same.
                Err(error)
                    if error.kind() == io::ErrorKind::Interrupted || is_unreachable(&error) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let at = Instant::now();
            let packet: Vec<u8> = buffer[..length]
                .iter()
                // SAFETY: recv_from says that the first `length` bytes are written.
                .map(|byte| unsafe { byte.assume_init() })
                .collect();
            let Some(from) = from.as_socket() else {
                continue;
            };
            if let Some(sequence) = reply(self.v4, self.with_header, token, &packet) {
                return Ok(Some((at, from.ip(), usize::from(sequence))));
            }
        }
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::ConnectionRefused
    )
}

/// Until something can be read or written, or the deadline.
fn wait(echoes: &[EchoSocket], connections: &[Connection], deadline: Instant) -> io::Result<()> {
    let readers = echoes
        .iter()
        .map(|echo| PollFd::new(echo.socket.as_fd(), PollFlags::POLLIN));
    let writers = connections
        .iter()
        .map(|connection| PollFd::new(connection.socket.as_fd(), PollFlags::POLLOUT));
    let mut fds: Vec<PollFd<'_>> = readers.chain(writers).collect();
    // Rounded up: waking just before the deadline would spin.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Differs between processes and runs; need not be secret.
fn token() -> Token {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // The low bits change fastest; nothing else of the number matters.
    let nanos = since.as_nanos() as u64;
    Token(nanos.rotate_left(17) ^ (u64::from(std::process::id()) << 40))
}

/// The system's words without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn options(ports: Vec<u16>) -> Options {
        Options {
            count: 2,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(60),
            tcp_ports: ports,
        }
    }

    #[test]
    fn loopback_answers_and_a_closed_port_says_so() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed_port = closed.local_addr().unwrap().port();
        drop(closed);
        let ports = vec![open.local_addr().unwrap().port(), closed_port];
        let targets = ["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
        let heard = match listen(&targets, &options(ports.clone())) {
            Ok(heard) => heard,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("SKIPPED, not tested: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(heard[0].rtts.len(), 2);
        assert_eq!(heard[1].rtts.len(), 2);
        assert_eq!(heard[0].tcp[0].port, ports[0]);
        assert!(heard[0].tcp[0].result.is_ok());
        assert_eq!(heard[0].tcp[1].result, Err("Connection refused".to_owned()));
    }

    #[test]
    fn nobody_to_probe_takes_no_time() {
        let start = Instant::now();
        assert_eq!(
            listen(&[], &options(vec![22])).unwrap(),
            Vec::<Heard>::new()
        );
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
