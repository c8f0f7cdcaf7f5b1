//! SSH against a real sshd on loopback: every credential, every host-key case, commands and their ends.
//!
//! sshd runs in a mount namespace of its own with its own password files, so that users and passwords
//! can be tested without touching this machine's. Needs root and OpenSSH's server.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use terraform_provider_ondol::engine::{Connector, direct_connector};
use terraform_provider_ondol::ssh::{
    self, Credential, Error, Exit, HostKeyError, HostKeyPolicy, Limits, Pool, Secret, Target,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const ROOT_PASSWORD: &str = "correct horse";
/// `openssl passwd -6` of it.
const ROOT_HASH: &str = "$6$ondoltest$0WWStDuMBHSZp4JYCodSR3ii6xk6vATZzngY2.oJZdokMhIYSD5JoeAsF5sfCeYdu5iOPVRTved2Skc1NcD7y1";

/// A server with its own keys and password files. Dropped, it is gone.
struct Sshd {
    dir: tempfile::TempDir,
    address: SocketAddr,
    child: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{program} {args:?}");
}

fn keygen(path: &Path, kind: &str, passphrase: &str) {
    run(
        "ssh-keygen",
        &[
            "-q",
            "-t",
            kind,
            "-N",
            passphrase,
            "-f",
            path.to_str().unwrap(),
        ],
    );
}

/// True when the test can run; a machine that cannot is told so, and in CI that is a failure.
fn possible() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "root"
    } else if !Path::new("/usr/sbin/sshd").exists() {
        "OpenSSH's server (apt-get install openssh-server)"
    } else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "these tests need {missing}"
    );
    eprintln!("SKIPPED: these tests need {missing}");
    false
}

impl Sshd {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With further lines of configuration.
    fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        keygen(&at("host_ed25519"), "ed25519", "");
        keygen(&at("host_rsa"), "rsa", "");
        for (name, kind, passphrase) in [
            ("plain", "ed25519", ""),
            ("locked", "ed25519", "open sesame"),
            ("rsa", "rsa", ""),
            ("stranger", "ed25519", ""),
        ] {
            keygen(&at(name), kind, passphrase);
        }
        let authorized: String = ["plain.pub", "locked.pub", "rsa.pub"]
            .iter()
            .map(|name| std::fs::read_to_string(at(name)).unwrap())
            .collect();
        std::fs::write(at("authorized_keys"), authorized).unwrap();
        std::fs::write(
            at("passwd"),
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:104:65534::/run/sshd:/usr/sbin/nologin\nops:x:4242:4242::/tmp:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            at("shadow"),
            format!("root:{ROOT_HASH}:19000:0:99999:7:::\nops:*:19000:0:99999:7:::\n"),
        )
        .unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        std::fs::write(
            at("config"),
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host_ed25519\nHostKey {0}/host_rsa\nUsePAM no\n\
                 PermitRootLogin yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nStrictModes no\n\
                 AuthorizedKeysFile {0}/authorized_keys\nPidFile none\nMaxStartups 100\n{more}\n",
                dir.path().display()
            ),
        )
        .unwrap();
        let script = format!(
            "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir /run/sshd && \
             mount --bind {0}/passwd /etc/passwd && mount --bind {0}/shadow /etc/shadow && \
             exec /usr/sbin/sshd -D -e -f {0}/config 2>{0}/log",
            dir.path().display()
        );
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .spawn()
            .unwrap();
        let server = Self {
            address: ([127, 0, 0, 1], port).into(),
            dir,
            child,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(server.address).is_err() {
            assert!(
                Instant::now() < deadline,
                "sshd did not start: {}",
                std::fs::read_to_string(server.at("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn public(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(&format!("{name}.pub"))).unwrap()
    }

    fn key(&self, name: &str) -> Credential {
        Credential::KeyFile {
            path: self.at(name),
            passphrase: None,
        }
    }

    fn target(&self, user: &str, credentials: Vec<Credential>) -> Target {
        Target {
            address: self.address,
            user: user.to_owned(),
            credentials,
            host_key: HostKeyPolicy::Pinned(self.public("host_ed25519")),
        }
    }

    fn known_hosts(&self, text: &str) -> HostKeyPolicy {
        let path = self.at("known_hosts");
        std::fs::write(&path, text).unwrap();
        HostKeyPolicy::KnownHosts(path)
    }
}

fn limits() -> Limits {
    Limits::new(Duration::from_secs(20), &CancellationToken::new())
}

async fn connect(target: &Target) -> Result<ssh::Connection, Error> {
    ssh::connect(target, &direct_connector(), &limits()).await
}

fn refusal(result: Result<ssh::Connection, Error>) -> Error {
    result.err().expect("the connection must be refused")
}

#[tokio::test]
async fn each_kind_of_credential_is_accepted() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let agent = Agent::start(&server, &["stranger", "plain"]);
    let text = std::fs::read_to_string(server.at("plain")).unwrap();
    let cases = [
        vec![server.key("plain")],
        vec![server.key("rsa")],
        vec![Credential::KeyFile {
            path: server.at("locked"),
            passphrase: Some(Secret::new("open sesame")),
        }],
        vec![Credential::Key {
            text: Secret::new(text),
            passphrase: None,
        }],
        vec![Credential::Agent {
            socket: Some(agent.socket.clone()),
        }],
        vec![Credential::Password(Secret::new(ROOT_PASSWORD))],
        vec![
            server.key("stranger"),
            server.key("absent"),
            server.key("plain"),
        ],
    ];
    for credentials in cases {
        let target = server.target("root", credentials);
        let connection = connect(&target)
            .await
            .unwrap_or_else(|error| panic!("{target:?}: {error}"));
        let output = connection
            .exec("greet", "id -un", b"", &limits())
            .await
            .unwrap();
        assert_eq!(output.stdout, b"root\n", "{target:?}");
    }
}

#[tokio::test]
async fn a_refused_user_is_told_what_was_tried() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let target = server.target(
        "nobody-here",
        vec![
            server.key("absent"),
            server.key("plain"),
            Credential::Password(Secret::new("wrong secret")),
        ],
    );
    let error = refusal(connect(&target).await);
    assert_eq!(error.attribute(), Some("user"));
    let text = error.to_string();
    for needle in [
        "refused to let user \"nobody-here\" in",
        "cannot be read: No such file",
        "SHA256:",
        "password: not accepted",
        "publickey",
    ] {
        assert!(text.contains(needle), "{needle} not in: {text}");
    }
    assert!(!text.contains("wrong secret"));
}

#[tokio::test]
async fn credentials_that_cannot_be_used_name_their_attribute() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let cases = [
        (server.key("absent"), "private_key_file", "No such file"),
        (
            server.key("locked"),
            "private_key_file",
            "set ssh.private_key_passphrase",
        ),
        (
            Credential::KeyFile {
                path: server.at("locked"),
                passphrase: Some(Secret::new("no")),
            },
            "private_key_file",
            "does not open with ssh.private_key_passphrase",
        ),
        (
            Credential::Key {
                text: Secret::new("junk"),
                passphrase: None,
            },
            "private_key",
            "not a private key",
        ),
        (
            Credential::Agent {
                socket: Some(server.at("no-agent")),
            },
            "agent",
            "cannot reach",
        ),
    ];
    for (credential, attribute, words) in cases {
        let error = refusal(connect(&server.target("root", vec![credential])).await);
        assert!(matches!(error, Error::NoCredential { .. }), "{error}");
        assert_eq!(error.attribute(), Some(attribute));
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_host_is_trusted_only_by_a_key_that_is_written_down() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let name = format!("[127.0.0.1]:{}", server.address.port());
    let (ed25519, rsa, stranger) = (
        server.public("host_ed25519"),
        server.public("host_rsa"),
        server.public("stranger"),
    );
    let hashed = {
        let path = server.at("hashed");
        std::fs::write(&path, format!("{name} {ed25519}")).unwrap();
        run("ssh-keygen", &["-q", "-H", "-f", path.to_str().unwrap()]);
        std::fs::read_to_string(path).unwrap()
    };
    assert!(hashed.starts_with("|1|"), "{hashed}");
    let cases = [
        (HostKeyPolicy::Pinned(ed25519.clone()), "trusted"),
        (HostKeyPolicy::Pinned(rsa.clone()), "trusted"),
        (HostKeyPolicy::Pinned(stranger.clone()), "mismatch"),
        (
            HostKeyPolicy::Pinned("ssh-ed25519 junk".to_owned()),
            "bad pin",
        ),
        (server.known_hosts(""), "unknown"),
    ];
    for (host_key, expected) in cases {
        judge(&server, host_key, expected).await;
    }
    for (text, expected) in [
        (format!("{name} {ed25519}"), "trusted"),
        (format!("{name} {rsa}"), "trusted"),
        (hashed, "trusted"),
        (format!("127.0.0.1 {ed25519}"), "unknown"),
        (format!("{name} {stranger}"), "mismatch"),
        (format!("{name} {ed25519}@revoked * {ed25519}"), "revoked"),
    ] {
        let policy = server.known_hosts(&text);
        judge(&server, policy, expected).await;
    }
    judge(
        &server,
        HostKeyPolicy::KnownHosts(server.at("no-file")),
        "unreadable",
    )
    .await;
}

async fn judge(server: &Sshd, host_key: HostKeyPolicy, expected: &str) {
    let target = Target {
        host_key,
        ..server.target("root", vec![server.key("plain")])
    };
    let verdict = match connect(&target).await {
        Ok(_) => "trusted",
        Err(Error::HostKey(error)) => {
            if matches!(
                error,
                HostKeyError::Unknown { .. } | HostKeyError::Mismatch { .. }
            ) {
                let text = error.to_string();
                assert!(text.contains("SHA256:"), "{text}");
                assert!(text.contains(&server.address.port().to_string()), "{text}");
            }
            match error {
                HostKeyError::Unknown { .. } => "unknown",
                HostKeyError::Mismatch { .. } => "mismatch",
                HostKeyError::Revoked { .. } => "revoked",
                HostKeyError::BadPin { .. } => "bad pin",
                HostKeyError::Unreadable { .. } => "unreadable",
                HostKeyError::Certificate { .. } => "certificate",
            }
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(verdict, expected, "{target:?}");
}

#[tokio::test]
async fn commands_carry_input_output_and_how_they_ended() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let connection = connect(&server.target("root", vec![server.key("plain")]))
        .await
        .unwrap();
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let output = connection
        .exec("echo", "cat; echo words >&2; exit 3", &big, &limits())
        .await
        .unwrap();
    assert_eq!(
        (output.stdout == big, output.stderr.as_slice(), &output.exit),
        (true, b"words\n".as_slice(), &Exit::Status(3))
    );

    let output = connection
        .exec("die", "kill -TERM $$", b"", &limits())
        .await
        .unwrap();
    assert_eq!(output.exit, Exit::Signal("TERM".to_owned()));

    // A command that does not read its input must not hang the writer.
    let output = connection
        .exec("ignore input", "exit 0", &big, &limits())
        .await
        .unwrap();
    assert_eq!(output.exit, Exit::Status(0));

    let path = server.at("written");
    connection
        .write_file(path.to_str().unwrap(), &big, 0o600, &limits())
        .await
        .unwrap();
    assert!(std::fs::read(&path).unwrap() == big);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let error = connection
        .write_file("/proc/nowhere/x", b"", 0o600, &limits())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Command { .. }), "{error}");
    assert!(
        error.to_string().contains("write /proc/nowhere/x"),
        "{error}"
    );
}

#[tokio::test]
async fn a_command_waits_for_a_session_where_the_server_has_no_more_on_a_connection() {
    if !possible() {
        return;
    }
    let server = Sshd::start_with("MaxSessions 3");
    let target = server.target("root", vec![server.key("plain")]);
    let connection = Arc::new(connect(&target).await.unwrap());
    let held = connection
        .hold("hold", "echo held; cat", &limits())
        .await
        .unwrap();
    let commands: JoinSet<_> = (0..60)
        .map(|_| {
            let connection = connection.clone();
            async move { connection.exec("say", "echo it", b"", &limits()).await }
        })
        .collect();
    for output in commands.join_all().await {
        assert_eq!(output.unwrap().stdout, b"it\n");
    }
    drop(held);

    // As long as commands run there will be one.
    let server = Sshd::start_with("MaxSessions 1");
    let target = server.target("root", vec![server.key("plain")]);
    let connection = Arc::new(connect(&target).await.unwrap());
    let slow = connection.clone();
    let slow = tokio::spawn(async move { slow.exec("wait", "sleep 6", b"", &limits()).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let quick = connection.exec("say", "echo it", b"", &limits()).await;
    assert_eq!(quick.unwrap().stdout, b"it\n");
    slow.await.unwrap().unwrap();

    // Refused for good: the error says so long before the command's own deadline.
    let server = Sshd::start_with("MaxSessions 0");
    let target = server.target("root", vec![server.key("plain")]);
    let connection = connect(&target).await.unwrap();
    for refused in [
        connection
            .exec("say", "echo it", b"", &limits())
            .await
            .err(),
        connection.hold("say", "echo it", &limits()).await.err(),
    ] {
        let error = refused.expect("the server opens no session");
        assert!(matches!(error, Error::NoSession { .. }), "{error}");
        assert!(error.to_string().contains("MaxSessions"), "{error}");
    }
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline_and_when_told_to_stop() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let connection = connect(&server.target("root", vec![server.key("plain")]))
        .await
        .unwrap();
    let started = Instant::now();
    let error = connection
        .exec(
            "sleep",
            "sleep 30",
            b"",
            &Limits::new(Duration::from_millis(200), &CancellationToken::new()),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    let stop = CancellationToken::new();
    let (limits, stopper) = (Limits::new(Duration::from_secs(30), &stop), stop.clone());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stopper.cancel();
    });
    let error = connection
        .exec("sleep", "sleep 30", b"", &limits)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_user_who_may_not_become_root_is_told_so() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let connection = connect(&server.target("ops", vec![server.key("plain")]))
        .await
        .unwrap();
    let error = connection
        .exec_as_root("look", "id -u", b"", &limits())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Sudo { .. }), "{error}");
    assert_eq!(error.attribute(), Some("user"));
    assert!(error.to_string().contains("sudo"), "{error}");
}

#[tokio::test]
async fn nobody_answering_is_a_connection_error_and_not_a_refusal() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let target = Target {
        address: port,
        user: "root".to_owned(),
        credentials: Vec::new(),
        host_key: HostKeyPolicy::Pinned(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
                .to_owned(),
        ),
    };
    let error = refusal(connect(&target).await);
    assert!(
        matches!(error, Error::Connect { .. }) && error.may_pass(),
        "{error}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
}

/// A connector that counts how often it is used.
fn counting() -> (Connector, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, direct) = (count.clone(), direct_connector());
    let connector: Connector = Arc::new(move |address, timeout| {
        counter.fetch_add(1, Ordering::SeqCst);
        direct(address, timeout)
    });
    (connector, count)
}

#[tokio::test]
async fn callers_share_one_connection_and_a_dead_one_is_opened_anew() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let (connector, opened) = counting();
    let guest = Pool::default().guest(
        "test",
        server.target("root", vec![server.key("plain")]),
        connector,
    );
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let guest = guest.clone();
            tokio::spawn(async move { guest.root("count", &format!("echo {n}"), &limits()).await })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().unwrap(), format!("{n}\n"));
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1);

    // Above our shell is the login shell, and above that the session's own sshd process.
    let cut = "kill -9 $(awk '{print $4}' /proc/$PPID/stat)";
    let error = guest.root("cut", cut, &limits()).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    let output = guest.root("again", "echo back", &limits()).await.unwrap();
    assert_eq!(output, "back\n");
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn callers_that_wait_behind_a_failing_attempt_share_its_answer() {
    if !possible() {
        return;
    }
    let server = Sshd::start();
    let (connector, opened) = counting();
    let guest = Pool::default().guest(
        "test",
        server.target("root", vec![server.key("stranger")]),
        connector,
    );
    let tasks: Vec<_> = (0..5)
        .map(|_| {
            let guest = guest.clone();
            tokio::spawn(async move { guest.connection(&limits()).await.map(drop) })
        })
        .collect();
    for task in tasks {
        assert!(matches!(task.await.unwrap(), Err(Error::Refused { .. })));
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1);
}

/// An agent that holds some of the server's keys.
struct Agent {
    socket: PathBuf,
    child: Child,
}

impl Agent {
    fn start(server: &Sshd, keys: &[&str]) -> Self {
        let socket = server.at("agent.sock");
        let child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { socket, child };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !agent.socket.exists() {
            assert!(Instant::now() < deadline, "ssh-agent did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        for key in keys {
            let output = Command::new("ssh-add")
                .arg(server.at(key))
                .env("SSH_AUTH_SOCK", &agent.socket)
                .output()
                .unwrap();
            assert!(output.status.success());
            std::io::stderr().write_all(&output.stderr).unwrap();
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
