//! One SSH connection: opening it, running commands on it, writing files through it.
//!
//! Every wait has a deadline and listens for Terraform's stop. Nothing is retried here but the opening of a session on a connection whose
//! server has, for the moment, as many as it allows.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use russh::client::{self, Handle};
use russh::keys::{Algorithm, PublicKey};
use russh::{ChannelMsg, Disconnect, Preferred, Sig};
use tokio_util::sync::CancellationToken;

use super::host_key::Trust;
use super::{Error, HostKeyError, Target, auth, quote};
use crate::engine::Connector;

/// Small on purpose: with 40 guests open, russh's default of 2 MiB per channel would not fit the
/// provider's memory budget, and what we read is short.
const WINDOW: u32 = 128 * 1024;
const MAX_OUTPUT: usize = 8 * 1024 * 1024;
const STDIN_CHUNK: usize = 32 * 1024;
/// How long a server may go on saying that it opens no session while no command runs. It counts a session until it has seen the channel
/// closed from both sides, so that it refuses some of many quick commands.
const SESSION_PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions for a session, at first and at most: a server writes each refusal into its log.
const SESSION_PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// How long an act may take, and what ends it early.
#[derive(Debug, Clone)]
pub struct Limits {
    pub deadline: Duration,
    /// Part of the deadline that opening the transport may take. An address that is about to appear does not answer
    /// packets sent before it did, so a short try repeated finds it sooner than a long one.
    pub connect: Duration,
    pub stop: CancellationToken,
}

impl Limits {
    pub fn new(deadline: Duration, stop: &CancellationToken) -> Self {
        Self {
            deadline,
            connect: deadline,
            stop: stop.clone(),
        }
    }

    /// The same with a shorter time to open the transport.
    #[must_use]
    pub fn connect_within(self, connect: Duration) -> Self {
        Self { connect, ..self }
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    Status(u32),
    Signal(String),
}

impl Exit {
    pub fn success(&self) -> bool {
        *self == Self::Status(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "exit status {code}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
}

impl Output {
    /// The command's own words, for an error: standard error, or standard output where that is empty.
    pub fn words(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.stderr);
        let words = if stderr.trim().is_empty() {
            String::from_utf8_lossy(&self.stdout)
        } else {
            stderr
        };
        let words = words.trim();
        if words.is_empty() {
            "it printed nothing".to_owned()
        } else {
            words.to_owned()
        }
    }
}

/// An open, authenticated connection.
pub struct Connection {
    handle: Handle<Verifier>,
    address: SocketAddr,
    user: String,
    /// How many commands run on it that end by themselves, unlike a [`Hold`]'s.
    commands: AtomicUsize,
}

/// Judges the host's key. The judgement is kept aside because russh folds a refusal into "unknown key".
struct Verifier {
    trust: Trust,
    refusal: Arc<Mutex<Option<HostKeyError>>>,
}

impl client::Handler for Verifier {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        offered: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, russh::Error> {
        let verdict = match offered {
            russh::keys::PublicKeyOrCertificate::PublicKey { key, .. } => self.trust.check(key),
            russh::keys::PublicKeyOrCertificate::Certificate(_) => Err(HostKeyError::Certificate {
                host: "the host".to_owned(),
            }),
        };
        let trusted = verdict.is_ok();
        *self
            .refusal
            .lock()
            .expect("no panic happens under this lock") = verdict.err();
        Ok(trusted)
    }
}

fn config(trusted: &[PublicKey]) -> client::Config {
    client::Config {
        window_size: WINDOW,
        channel_buffer_size: 8,
        keepalive_interval: Some(Duration::from_secs(5)),
        keepalive_max: 3,
        nodelay: true,
        preferred: Preferred {
            key: key_order(trusted).into(),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// The algorithms of known keys first, so that a host with several keys shows the one we know.
fn key_order(trusted: &[PublicKey]) -> Vec<Algorithm> {
    let same_family = |a: &Algorithm, b: &Algorithm| {
        a == b || matches!((a, b), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
    };
    let known = |algorithm: &&Algorithm| {
        trusted
            .iter()
            .any(|key| same_family(&key.algorithm(), algorithm))
    };
    let (first, rest): (Vec<&Algorithm>, Vec<&Algorithm>) =
        Preferred::DEFAULT.key.iter().partition(known);
    first.into_iter().chain(rest).cloned().collect()
}

pub(super) async fn connect(
    target: &Target,
    connector: &Connector,
    limits: &Limits,
) -> Result<Connection, Error> {
    let opening = async {
        let trust = Trust::load(
            &target.host_key,
            &target.address.ip().to_string(),
            target.address.port(),
        )?;
        let unreachable = |reason: String| Error::Connect {
            address: target.address,
            reason,
        };
        let stream = connector(target.address, limits.connect)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let refusal = Arc::new(Mutex::new(None));
        let config = Arc::new(config(trust.keys()));
        let verifier = Verifier {
            trust,
            refusal: refusal.clone(),
        };
        let mut handle = match client::connect_stream(config, stream, verifier).await {
            Ok(handle) => handle,
            Err(error) => {
                let refusal = refusal
                    .lock()
                    .expect("no panic happens under this lock")
                    .take();
                return Err(refusal.map_or_else(
                    || unreachable(format!("SSH handshake: {error}")),
                    Error::HostKey,
                ));
            }
        };
        auth::authenticate(&mut handle, target).await?;
        Ok(Connection {
            handle,
            address: target.address,
            user: target.user.clone(),
            commands: AtomicUsize::new(0),
        })
    };
    bounded(opening, limits, target.address, "opening an SSH connection").await
}

/// Runs `work` until it ends, the deadline passes or Terraform says stop.
async fn bounded<T>(
    work: impl Future<Output = Result<T, Error>>,
    limits: &Limits,
    address: SocketAddr,
    act: &str,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = limits.stop.cancelled() => Err(Error::Stopped { address, act: act.to_owned() }),
        result = tokio::time::timeout(limits.deadline, work) => result.unwrap_or_else(|_| {
            Err(Error::Deadline { address, act: act.to_owned(), after: limits.deadline })
        }),
    }
}

impl Connection {
    pub fn is_open(&self) -> bool {
        !self.handle.is_closed()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs a shell command as the connection's user. `act` names it in errors ("read the netplan").
    pub async fn exec(
        &self,
        act: &str,
        command: &str,
        stdin: &[u8],
        limits: &Limits,
    ) -> Result<Output, Error> {
        bounded(
            self.exec_unbounded(act, command, stdin),
            limits,
            self.address,
            act,
        )
        .await
    }

    /// Runs a shell command that says something once it has what it was run for, and keeps it until its standard input ends: when the
    /// answer is dropped, or the connection breaks.
    pub async fn hold(&self, act: &str, command: &str, limits: &Limits) -> Result<Hold, Error> {
        bounded(self.hold_unbounded(act, command), limits, self.address, act).await
    }

    async fn hold_unbounded(&self, act: &str, command: &str) -> Result<Hold, Error> {
        let lost = |error: russh::Error| self.lost(act, error);
        let (mut read, write) = self.open_session(act).await?.split();
        write.exec(true, command).await.map_err(lost)?;
        let (mut words, mut status) = (Vec::new(), 255);
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { .. } => {
                    return Ok(Hold {
                        write: Some(write),
                        _read: read,
                    });
                }
                ChannelMsg::ExtendedData { data, ext: 1 } => words.extend_from_slice(&data),
                ChannelMsg::ExitStatus { exit_status } => status = exit_status,
                _ => {}
            }
        }
        Err(Error::Command {
            address: self.address,
            act: act.to_owned(),
            exit: Exit::Status(status),
            words: String::from_utf8_lossy(&words).trim().to_owned(),
        })
    }

    /// Runs a shell command as root: directly where the user is root, through `sudo -n` elsewhere.
    pub async fn exec_as_root(
        &self,
        act: &str,
        command: &str,
        stdin: &[u8],
        limits: &Limits,
    ) -> Result<Output, Error> {
        self.privileged(act, &format!("sh -c {}", quote(command)), stdin, limits)
            .await
    }

    /// Runs a shell script of any length as root. It travels on standard input, so nothing of it shows in
    /// the guest's process list.
    pub async fn script_as_root(
        &self,
        act: &str,
        script: &str,
        limits: &Limits,
    ) -> Result<Output, Error> {
        self.privileged(act, "sh -s", script.as_bytes(), limits)
            .await
    }

    async fn privileged(
        &self,
        act: &str,
        command: &str,
        stdin: &[u8],
        limits: &Limits,
    ) -> Result<Output, Error> {
        let output = self
            .exec(act, &as_root(&self.user, command), stdin, limits)
            .await?;
        match sudo_refusal(&self.user, &output) {
            None => Ok(output),
            Some((words, remedy)) => Err(Error::Sudo {
                address: self.address,
                user: self.user.clone(),
                words,
                remedy: remedy.to_owned(),
            }),
        }
    }

    /// Writes a file as root through standard input: complete with its mode, or not at all.
    pub async fn write_file(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        limits: &Limits,
    ) -> Result<(), Error> {
        let act = format!("write {path}");
        let output = self
            .exec_as_root(&act, &write_script(path, mode), content, limits)
            .await?;
        self.expect_success(&act, output).map(drop)
    }

    /// Turns a failed command into an error that carries its own words.
    pub fn expect_success(&self, act: &str, output: Output) -> Result<Output, Error> {
        if output.exit.success() {
            return Ok(output);
        }
        Err(Error::Command {
            address: self.address,
            act: act.to_owned(),
            words: output.words(),
            exit: output.exit,
        })
    }

    async fn exec_unbounded(
        &self,
        act: &str,
        command: &str,
        stdin: &[u8],
    ) -> Result<Output, Error> {
        let lost = |error: russh::Error| self.lost(act, error);
        let (mut read, write) = self.open_session(act).await?.split();
        let _counted = Counted::new(&self.commands);
        write.exec(true, command).await.map_err(lost)?;
        let feed = async {
            for chunk in stdin.chunks(STDIN_CHUNK) {
                // A command may end without reading all of its input; its exit status tells the story.
                if write.data_bytes(chunk.to_vec()).await.is_err() {
                    return;
                }
            }
            let _ = write.eof().await;
        };
        let collect = async {
            let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), None);
            while let Some(message) = read.wait().await {
                match message {
                    ChannelMsg::Data { data } => stdout.extend_from_slice(&data),
                    ChannelMsg::ExtendedData { data, ext: 1 } => stderr.extend_from_slice(&data),
                    ChannelMsg::ExitStatus { exit_status } => {
                        exit = Some(Exit::Status(exit_status))
                    }
                    ChannelMsg::ExitSignal { signal_name, .. } => {
                        exit = Some(Exit::Signal(signal(signal_name)))
                    }
                    ChannelMsg::Failure => {
                        return Err(Error::Command {
                            address: self.address,
                            act: act.to_owned(),
                            exit: Exit::Status(255),
                            words: "the server refused to run a command for this user".to_owned(),
                        });
                    }
                    _ => {}
                }
                if stdout.len() + stderr.len() > MAX_OUTPUT {
                    return Err(Error::TooMuchOutput {
                        address: self.address,
                        act: act.to_owned(),
                        limit: MAX_OUTPUT,
                    });
                }
            }
            exit.map(|exit| Output {
                stdout,
                stderr,
                exit,
            })
            .ok_or_else(|| Error::Lost {
                address: self.address,
                act: act.to_owned(),
                reason: "the channel closed before the command's exit status arrived".to_owned(),
            })
        };
        // The reader decides when it is over; a writer stuck on a full window must not hold it up.
        tokio::pin!(collect);
        tokio::select! {
            output = &mut collect => output,
            () = feed => collect.await,
        }
    }

    /// Waits for a session where the server has as many as it allows: as long as commands run on this connection, whose sessions will be
    /// free, and a little longer.
    async fn open_session(&self, act: &str) -> Result<russh::Channel<client::Msg>, Error> {
        use russh::ChannelOpenFailure::{ConnectFailed, ResourceShortage};
        let mut last_hope = Instant::now();
        let [mut pause, longest] = SESSION_PAUSES;
        loop {
            match self.handle.channel_open_session().await {
                // OpenSSH says the former, which is meant for forwarded connections; the latter is the protocol's word for it (RFC 4254, 5.1).
                Err(russh::Error::ChannelOpenFailure(ConnectFailed | ResourceShortage)) => {}
                answer => return answer.map_err(|error| self.lost(act, error)),
            }
            if self.commands.load(Ordering::Relaxed) > 0 {
                last_hope = Instant::now();
            } else if last_hope.elapsed() > SESSION_PATIENCE {
                return Err(Error::NoSession {
                    address: self.address,
                    act: act.to_owned(),
                    after: SESSION_PATIENCE,
                });
            }
            tokio::time::sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    fn lost(&self, act: &str, error: russh::Error) -> Error {
        Error::Lost {
            address: self.address,
            act: act.to_owned(),
            reason: error.to_string(),
        }
    }

    pub async fn close(&self) {
        let _ = self
            .handle
            .disconnect(Disconnect::ByApplication, "", "en")
            .await;
    }
}

/// One of a number of things, for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(number: &'a AtomicUsize) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A command that holds something; see [`Connection::hold`].
pub struct Hold {
    write: Option<russh::ChannelWriteHalf<client::Msg>>,
    _read: russh::ChannelReadHalf,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let (Some(write), Ok(runtime)) = (self.write.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        // Should it not arrive, the connection is broken, and the server has closed the command's input itself.
        runtime.spawn(async move {
            let _ = write.eof().await;
            let _ = write.close().await;
        });
    }
}

fn signal(signal: Sig) -> String {
    match signal {
        Sig::Custom(name) => name,
        other => format!("{other:?}"),
    }
}

fn as_root(user: &str, command: &str) -> String {
    if user == "root" {
        command.to_owned()
    } else {
        format!("sudo -n -- {command}")
    }
}

fn write_script(path: &str, mode: u32) -> String {
    let (path, temporary) = (quote(path), quote(&format!("{path}.ondol-new")));
    format!(
        "set -e; umask 077; cat > {temporary}; chmod {mode:04o} {temporary}; mv -f {temporary} {path}"
    )
}

/// Recognises sudo's own refusals: (its words, what to do about it).
fn sudo_refusal(user: &str, output: &Output) -> Option<(String, &'static str)> {
    if user == "root" || output.exit.success() {
        return None;
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let remedies = [
        (
            "sudo: a password is required",
            "Give it passwordless sudo (seed.sudo = true, or NOPASSWD in /etc/sudoers.d), or connect as root",
        ),
        (
            "sudo: a terminal is required",
            "Give it passwordless sudo (seed.sudo = true, or NOPASSWD in /etc/sudoers.d), or connect as root",
        ),
        (
            "is not in the sudoers file",
            "Give it sudo (seed.sudo = true, or a file in /etc/sudoers.d), or connect as root",
        ),
        (
            "is not allowed to execute",
            "Let sudo run sh for it, or connect as root",
        ),
        (
            "sudo: command not found",
            "Install sudo in the image, or connect as root",
        ),
        (
            "sudo: not found",
            "Install sudo in the image, or connect as root",
        ),
    ];
    remedies.iter().find_map(|(mark, remedy)| {
        let line = stderr.lines().find(|line| line.contains(mark))?;
        Some((line.trim().to_owned(), *remedy))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(stderr: &str) -> Output {
        Output {
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
            exit: Exit::Status(1),
        }
    }

    #[test]
    fn sudo_is_used_only_by_users_who_are_not_root() {
        assert_eq!(as_root("root", "sh -s"), "sh -s");
        assert_eq!(as_root("ops", "sh -s"), "sudo -n -- sh -s");
    }

    #[test]
    fn refusals_of_sudo_are_told_from_failures_of_the_command() {
        let cases = [
            ("ops", "sudo: a password is required\n", true),
            ("ops", "ops is not in the sudoers file.\n", true),
            ("ops", "sh: 1: sudo: not found\n", true),
            ("ops", "netplan: bad file\n", false),
            ("root", "sudo: a password is required\n", false),
        ];
        for (user, stderr, expected) in cases {
            assert_eq!(
                sudo_refusal(user, &failed(stderr)).is_some(),
                expected,
                "{user} {stderr}"
            );
        }
    }

    #[test]
    fn a_known_key_puts_its_algorithm_first_and_keeps_the_others() {
        let key = PublicKey::from_openssh(
            "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=",
        )
        .unwrap();
        let order = key_order(&[key]);
        assert_eq!(order.first().unwrap().to_string(), "ecdsa-sha2-nistp256");
        assert_eq!(order.len(), Preferred::DEFAULT.key.len());
    }
}
