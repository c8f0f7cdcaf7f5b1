//! `vsftpd`: the FTP server of a machine, with TLS, and its users each shut into a directory of their own.
//!
//! System users, their directories and the certificate are made before, by ansible.builtin's modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ondol_kit::{Invalid, Module, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::service::{self, Unit, absolute, word};

/// Run an FTP server with TLS whose users cannot leave their directories
///
/// Writes the whole C(/etc/vsftpd.conf) and the list of users who may log in. Before the file replaces the one in use, the server is started with it
/// on a port of the loopback interface and must offer TLS there. Passwords and data only ever travel encrypted. A changed configuration restarts
/// the server, which ends transfers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// System users who may log in. Each has a shell of C(/etc/shells), which PAM asks for, and a home directory that exists.
    #[serde(default)]
    users: BTreeSet<String>,
    /// Directory below which each user has one of the same name, and sees nothing else. The user must not be able to write to that directory
    /// itself, only to those in it: vsftpd demands it.
    #[serde(default = "root")]
    root: String,
    /// Certificate in PEM form. Required for `present`.
    certificate: Option<String>,
    /// Its private key in PEM form. Required for `present`.
    private_key: Option<String>,
    /// Whether users may upload, rename and delete.
    #[serde(default = "yes")]
    writable: bool,
    /// Ports for data, for a firewall to let in.
    #[serde(default)]
    passive_ports: Ports,
    /// Further options of vsftpd.conf(5).
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// Whether the server should run.
    #[serde(default)]
    state: State,
}

/// A range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The lowest.
    #[schemars(range(min = 1024, max = 65_535))]
    first: u16,
    /// The highest.
    #[schemars(range(min = 1024, max = 65_535))]
    last: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            first: 40_000,
            last: 40_099,
        }
    }
}

/// Whether it should run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    /// Stopped and disabled; its configuration stays.
    Absent,
}

fn root() -> String {
    "/srv/ftp".to_owned()
}

fn yes() -> bool {
    true
}

const CONF: &str = "/etc/vsftpd.conf";
const USERS: &str = "/etc/vsftpd.users";
const UNIT: &str = "vsftpd";

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Texts of the configuration and of the list of users; `None`: it should not run.
    texts: Option<Texts>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Texts {
    conf: String,
    users: String,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if params.state == State::Absent {
            return Ok(Self { texts: None });
        }
        for user in &params.users {
            word("users", user)?;
        }
        let path = |param: &'static str, path: Option<String>| {
            let path = path
                .ok_or_else(|| Invalid::new(param, "is required: there is no login without TLS"))?;
            absolute(param, &path)?;
            Ok::<String, Invalid>(path)
        };
        absolute("root", &params.root)?;
        let Ports { first, last } = params.passive_ports;
        if first > last {
            return Err(Invalid::new(
                "passive_ports",
                format!("{first} is above {last}"),
            ));
        }
        let on = |it: bool| if it { "YES" } else { "NO" }.to_owned();
        let mut options = BTreeMap::from(
            [
                ("listen", on(true)),
                ("listen_ipv6", on(false)),
                ("anonymous_enable", on(false)),
                ("local_enable", on(true)),
                ("write_enable", on(params.writable)),
                ("local_umask", "022".to_owned()),
                ("use_localtime", on(true)),
                ("xferlog_enable", on(true)),
                ("pam_service_name", "vsftpd".to_owned()),
                ("secure_chroot_dir", "/run/vsftpd/empty".to_owned()),
                ("userlist_enable", on(true)),
                ("userlist_deny", on(false)),
                ("userlist_file", USERS.to_owned()),
                ("chroot_local_user", on(true)),
                ("user_sub_token", "$USER".to_owned()),
                (
                    "local_root",
                    format!("{}/$USER", params.root.trim_end_matches('/')),
                ),
                ("ssl_enable", on(true)),
                ("force_local_logins_ssl", on(true)),
                ("force_local_data_ssl", on(true)),
                ("ssl_sslv2", on(false)),
                ("ssl_sslv3", on(false)),
                ("ssl_ciphers", "HIGH".to_owned()),
                // TLS 1.3 has no session that a client could show again on the data connection.
                ("require_ssl_reuse", on(false)),
                ("rsa_cert_file", path("certificate", params.certificate)?),
                (
                    "rsa_private_key_file",
                    path("private_key", params.private_key)?,
                ),
                ("pasv_min_port", first.to_string()),
                ("pasv_max_port", last.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        for (name, value) in params.settings {
            let at = || format!("settings.{name}");
            let is_option = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !is_option || value.contains('\n') || value.trim() != value {
                return Err(Invalid::new(at(), "is not an option and its value"));
            }
            // What makes it safe is not to be taken back by the way.
            if [
                "ssl_enable",
                "force_local_logins_ssl",
                "force_local_data_ssl",
                "chroot_local_user",
                "anonymous_enable",
            ]
            .contains(&name.as_str())
            {
                return Err(Invalid::new(at(), "is not for a setting to change"));
            }
            options.insert(name, value);
        }
        // No blanks around the equals sign: vsftpd takes them for a part of the value.
        let lines: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        Ok(Self {
            texts: Some(Texts {
                conf: format!("# Managed by ondol.cloud.vsftpd.\n{}", lines.concat()),
                users: params.users.iter().map(|it| format!("{it}\n")).collect(),
            }),
        })
    }
}

/// The files and the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    conf: Option<String>,
    users: Option<String>,
    unit: Unit,
    /// When the configuration was written, in seconds since 1970.
    written_at: u64,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    WriteConf { text: String },
    WriteUsers { text: String },
    Enable,
    Start,
    Restart,
    Stop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteConf { .. } => write!(f, "write {CONF}"),
            Self::WriteUsers { text } => {
                let users: Vec<&str> = text.lines().collect();
                write!(f, "let in {}", users.join(", "))
            }
            Self::Enable => write!(f, "enable the FTP server"),
            Self::Start => write!(f, "start the FTP server"),
            Self::Restart => write!(f, "restart the FTP server with its new configuration"),
            Self::Stop => write!(f, "stop and disable the FTP server"),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let Some(texts) = &desired.texts else {
        if current.unit.active || current.unit.enabled {
            steps.push(Step::Stop);
        }
        return steps;
    };
    // The list is read at each login, and must be there before the configuration that names it.
    if current.users.as_ref() != Some(&texts.users) {
        steps.push(Step::WriteUsers {
            text: texts.users.clone(),
        });
    }
    let changes = current.conf.as_ref() != Some(&texts.conf);
    if changes {
        steps.push(Step::WriteConf {
            text: texts.conf.clone(),
        });
    }
    if !current.unit.enabled {
        steps.push(Step::Enable);
    }
    if !current.unit.active {
        steps.push(Step::Start);
    } else if changes || current.unit.is_older_than(current.written_at) {
        steps.push(Step::Restart);
    }
    steps
}

/// How long the server may take to greet.
const GREETING: Duration = Duration::from_secs(10);

/// Starts the server with a configuration on a port of its own, and asks it for TLS.
fn check(text: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in("/run").context("make a directory below /run")?;
    let candidate = folder.path().join("vsftpd.conf");
    file::write(&candidate, text, 0o600)?;
    // What its unit does before a start.
    fs::create_dir_all("/run/vsftpd/empty").context("create /run/vsftpd/empty")?;
    let port = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        listener.local_addr().context("find a free port")?.port()
    };
    // To vsftpd its standard input is a client's connection: there it says what is wrong.
    let said = folder.path().join("said");
    let client = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&said)
        .with_context(|| format!("create {}", said.display()))?;
    let mut server = Command::new("vsftpd")
        .arg(&candidate)
        .args(["-obackground=NO", "-olisten=YES", "-olisten_ipv6=NO"])
        .arg("-olisten_address=127.0.0.1")
        .arg(format!("-olisten_port={port}"))
        .stdin(client)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("run vsftpd")?;
    let answer = talk(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &mut || {
        Ok(server.try_wait()?.is_some())
    });
    let _ = server.kill();
    server.wait().context("wait for vsftpd")?;
    let said = file::read(&said)?.unwrap_or_default();
    match answer {
        Ok(answer) => verdict(&answer),
        Err(error) if said.trim().is_empty() => Err(error),
        Err(_) => bail!("vsftpd refuses it: {}", said.trim()),
    }
}

/// The greeting and the answer to `AUTH TLS`.
fn talk(
    at: SocketAddr,
    ended: &mut dyn FnMut() -> std::io::Result<bool>,
) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + GREETING;
    let stream = loop {
        match TcpStream::connect_timeout(&at, Duration::from_secs(1)) {
            Ok(stream) => break stream,
            Err(error) => {
                ensure!(!ended()?, "vsftpd ended at once");
                if Instant::now() >= deadline {
                    return Err(error).context("connect to vsftpd");
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    };
    stream.set_read_timeout(Some(GREETING))?;
    let mut answers = Vec::new();
    let mut lines = BufReader::new(&stream).lines();
    let mut next = || lines.next().transpose().context("read what vsftpd says");
    answers.extend(next()?);
    (&stream)
        .write_all(b"AUTH TLS\r\n")
        .context("ask for TLS")?;
    answers.extend(next()?);
    Ok(answers)
}

/// 220 greets, 234 goes on with TLS (RFC 4217).
fn verdict(answers: &[String]) -> anyhow::Result<()> {
    match answers {
        [greeting, tls] if greeting.starts_with("220") && tls.starts_with("234") => Ok(()),
        [] => bail!("vsftpd said nothing"),
        _ => bail!("vsftpd refuses it: {}", answers.join("; ")),
    }
}

/// The module.
#[derive(Default)]
pub struct Vsftpd;

impl Module for Vsftpd {
    const NAME: &'static str = "vsftpd";
    const EXAMPLES: &'static str = r#"
- name: FTP with TLS for two users
  ondol.cloud.vsftpd:
    users: [backup, scanner]
    root: /srv/ftp
    certificate: /etc/ssl/certs/ftp.pem
    private_key: /etc/ssl/private/ftp.key
    passive_ports: {first: 40000, last: 40099}
    settings:
      idle_session_timeout: "300"
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, _: &Desired) -> anyhow::Result<Current> {
        Ok(Current {
            conf: file::read(Path::new(CONF))?,
            users: file::read(Path::new(USERS))?,
            unit: service::unit(UNIT)?,
            written_at: service::written_at(Path::new(CONF))?,
        })
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::WriteConf { text } => {
                check(text)?;
                file::write(Path::new(CONF), text, 0o644)
            }
            Step::WriteUsers { text } => file::write(Path::new(USERS), text, 0o644),
            Step::Enable => service::systemctl(&["enable", "--quiet", UNIT]),
            Step::Start => service::systemctl(&["start", UNIT]),
            Step::Restart => service::systemctl(&["restart", UNIT]),
            Step::Stop => service::systemctl(&["disable", "--quiet", "--now", UNIT]),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        let text = |is: &Option<String>| is.clone().unwrap_or_default();
        plan(desired, current)
            .into_iter()
            .filter_map(|step| match step {
                Step::WriteConf { text: new } => {
                    Some(TextDiff::new(CONF, text(&current.conf), new))
                }
                Step::WriteUsers { text: new } => {
                    Some(TextDiff::new(USERS, text(&current.users), new))
                }
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(change: serde_json::Value) -> Result<Desired, Invalid> {
        let mut json = serde_json::json!({"users": ["scanner", "backup"], "certificate": "/c", "private_key": "/k"});
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    fn settled() -> Current {
        let texts = desired(serde_json::json!({})).unwrap().texts.unwrap();
        Current {
            conf: Some(texts.conf),
            users: Some(texts.users),
            unit: Unit {
                active: true,
                enabled: true,
                started_at: 20,
            },
            written_at: 10,
        }
    }

    #[test]
    fn a_server_is_set_up_changed_left_alone_and_stopped() {
        let with = |change: fn(&mut Current)| {
            let mut current = settled();
            change(&mut current);
            current
        };
        for (change, current, wanted) in [
            (
                serde_json::json!({}),
                Current::default(),
                vec![
                    "let in backup, scanner",
                    "write /etc/vsftpd.conf",
                    "enable the FTP server",
                    "start the FTP server",
                ],
            ),
            (serde_json::json!({}), settled(), vec![]),
            (
                serde_json::json!({"users": ["backup"]}),
                settled(),
                vec!["let in backup"],
            ),
            (
                serde_json::json!({"writable": false}),
                settled(),
                vec![
                    "write /etc/vsftpd.conf",
                    "restart the FTP server with its new configuration",
                ],
            ),
            // Killed between the two.
            (
                serde_json::json!({}),
                with(|it| it.written_at = 30),
                vec!["restart the FTP server with its new configuration"],
            ),
            (
                serde_json::json!({}),
                with(|it| it.unit.active = false),
                vec!["start the FTP server"],
            ),
            (
                serde_json::json!({"state": "absent"}),
                settled(),
                vec!["stop and disable the FTP server"],
            ),
            (
                serde_json::json!({"state": "absent"}),
                Current::default(),
                vec![],
            ),
        ] {
            let steps: Vec<String> = plan(&desired(change.clone()).unwrap(), &current)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(steps, wanted, "{change}");
        }
    }

    #[test]
    fn tls_and_the_shut_directory_are_always_in_the_configuration() {
        let conf = desired(
            serde_json::json!({"root": "/data/", "settings": {"idle_session_timeout": "300"}}),
        )
        .unwrap()
        .texts
        .unwrap()
        .conf;
        for line in [
            "chroot_local_user=YES",
            "force_local_data_ssl=YES",
            "force_local_logins_ssl=YES",
            "idle_session_timeout=300",
            "local_root=/data/$USER",
            "rsa_cert_file=/c",
            "ssl_enable=YES",
            "userlist_deny=NO",
        ] {
            assert!(conf.lines().any(|it| it == line), "{line}\n{conf}");
        }
        for change in [
            serde_json::json!({"settings": {"ssl_enable": "NO"}}),
            serde_json::json!({"settings": {"chroot_local_user": "NO"}}),
            serde_json::json!({"settings": {"a b": "NO"}}),
            serde_json::json!({"settings": {"banner_file": "x\nssl_enable=NO"}}),
            serde_json::json!({"certificate": null}),
            serde_json::json!({"private_key": "k"}),
            serde_json::json!({"passive_ports": {"first": 3000, "last": 2000}}),
            serde_json::json!({"users": ["a\nb"]}),
        ] {
            assert!(desired(change.clone()).is_err(), "{change}");
        }
    }

    /// As vsftpd 3.0.3 says it.
    #[test]
    fn a_server_that_does_not_offer_tls_is_refused_in_its_own_words() {
        let answers =
            |all: &[&str]| -> Vec<String> { all.iter().map(|it| (*it).to_owned()).collect() };
        assert!(
            verdict(&answers(&[
                "220 (vsFTPd 3.0.3)",
                "234 Proceed with negotiation."
            ]))
            .is_ok()
        );
        for (said, wanted) in [
            (
                answers(&["500 OOPS: SSL: cannot load RSA certificate"]),
                "cannot load RSA certificate",
            ),
            (
                answers(&["220 (vsFTPd 3.0.3)", "530 Please login with USER and PASS."]),
                "530 Please login",
            ),
            (answers(&[]), "said nothing"),
        ] {
            let error = verdict(&said).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
