//! One cluster on this machine in Debian's layout: where its files are, whether it runs, and the programs that act on it.
//!
//! Debian's own tools (`pg_createcluster`, `pg_ctlcluster`) make and start it, so that `pg_lsclusters`, systemd's `postgresql@` units, log rotation and
//! `pg_upgradecluster` know it. They honour `PG_CLUSTER_CONF_ROOT`, and so does this file. What is wanted of a cluster is decided elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::unistd::{Uid, User, geteuid, seteuid};
use ondol_kit::Invalid;
use ondol_machine::file;
use ondol_machine::program::Program;

use crate::client::{self, Client, Endpoint, Login, Purpose};

/// The system user that owns every cluster, and the superuser that it becomes by peer authentication.
pub(crate) const OWNER: &str = "postgres";

/// The major version and name of a cluster: `15/main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub version: u16,
    pub name: String,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.version, self.name)
    }
}

/// Where a configured cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub conf: PathBuf,
    pub data: PathBuf,
    pub sockets: PathBuf,
    pub port: u16,
}

/// What `pg_controldata` says of a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    pub system_identifier: String,
    /// `in production`, `shut down`, `in archive recovery` and so on.
    pub state: String,
    pub timeline: u32,
    /// Location of the latest checkpoint: for a clean shutdown the end of the log.
    pub checkpoint: String,
    pub checksums: bool,
    pub hint_bits_logged: bool,
}

impl Cluster {
    pub fn new(version: u16, name: &str) -> Result<Self, Invalid> {
        // Older ones lack what this crate stands on: `in_hot_standby`, `primary_conninfo` changed by a reload, SCRAM by default.
        if version < 14 {
            return Err(Invalid::new(
                "version",
                format!("PostgreSQL {version} is too old: 14 is the oldest that is managed"),
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(plain) || name.starts_with('.') {
            return Err(Invalid::new(
                "cluster",
                format!("{name:?} is not a cluster's name (letters, digits, \"_\", \".\")"),
            ));
        }
        Ok(Self {
            version,
            name: name.to_owned(),
        })
    }

    pub fn conf(&self) -> PathBuf {
        let root = std::env::var_os("PG_CLUSTER_CONF_ROOT")
            .map_or_else(|| PathBuf::from("/etc/postgresql"), PathBuf::from);
        root.join(self.version.to_string()).join(&self.name)
    }

    /// Where the data is unless the user says otherwise.
    pub fn default_data(&self) -> PathBuf {
        PathBuf::from("/var/lib/postgresql")
            .join(self.version.to_string())
            .join(&self.name)
    }

    /// A program of this major version.
    pub fn program(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/usr/lib/postgresql/{}/bin", self.version)).join(name)
    }

    pub fn is_installed(&self) -> bool {
        self.program("postgres").exists()
    }

    pub fn require_installed(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.is_installed(),
            "{} is missing: install the package postgresql-{}",
            self.program("postgres").display(),
            self.version
        );
        Ok(())
    }

    /// `None` only if there certainly is no such cluster. A configuration that cannot be read is an error.
    pub fn place(&self) -> anyhow::Result<Option<Place>> {
        let conf = self.conf();
        let main = conf.join("postgresql.conf");
        let Some(mut text) = file::read(&main)? else {
            return Ok(None);
        };
        for path in included(&conf)? {
            text += "\n";
            text += &file::read(&path)?.unwrap_or_default();
        }
        let mut found = assignments(&text);
        let data = found
            .remove("data_directory")
            .map_or_else(|| self.default_data(), PathBuf::from);
        if let Some(auto) = file::read(&data.join("postgresql.auto.conf"))? {
            found.extend(assignments(&auto));
        }
        let sockets = found
            .remove("unix_socket_directories")
            .and_then(|list| list.split(',').next().map(|it| it.trim().to_owned()))
            .filter(|first| !first.is_empty())
            .unwrap_or_else(|| "/var/run/postgresql".to_owned());
        let port = found.remove("port").unwrap_or_else(|| "5432".to_owned());
        Ok(Some(Place {
            data,
            sockets: sockets.into(),
            port: port
                .parse()
                .with_context(|| format!("read the port of cluster {self} from {port:?}"))?,
            conf,
        }))
    }

    /// As [`Cluster::place`], where its absence is an error.
    pub fn require_place(&self) -> anyhow::Result<Place> {
        self.place()?.with_context(|| {
            format!("there is no cluster {self} on this machine: ondol.cloud.postgresql_instance makes one")
        })
    }

    /// `None` if the directory holds no cluster.
    pub fn control(&self, data: &Path) -> anyhow::Result<Option<Control>> {
        let file = data.join("global/pg_control");
        let there = file
            .try_exists()
            .with_context(|| format!("look for {}", file.display()))?;
        if !there || !self.is_installed() {
            return Ok(None);
        }
        let output = program(self.program("pg_controldata"))
            .arg("-D")
            .arg(data)
            .succeed()?;
        Ok(Some(parse_control(&output.stdout)))
    }

    /// Start, stop, restart or reload. With systemd this goes through the cluster's unit.
    pub fn ctl(&self, act: &str) -> anyhow::Result<()> {
        let mut command =
            program("pg_ctlcluster").args([&self.version.to_string(), &self.name, act]);
        if act == "stop" && !Path::new("/run/systemd/system").is_dir() {
            command = command.args(["-m", "fast"]);
        }
        let done = command
            .succeed()
            .with_context(|| format!("{act} cluster {self}"));
        let Err(error) = done else {
            return Ok(());
        };
        Err(match self.last_words() {
            Some(words) if act != "stop" => error.context(words),
            _ => error,
        })
    }

    /// Why the server gave up, from the end of its log.
    fn last_words(&self) -> Option<String> {
        let log = self.conf().join("log");
        let path = if log.exists() {
            log
        } else {
            PathBuf::from(format!(
                "/var/log/postgresql/postgresql-{}-{}.log",
                self.version, self.name
            ))
        };
        let mut file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(4096)))
            .ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let fatal = text.lines().rev().take(12).find_map(|line| {
            line.split_once("FATAL:  ")
                .or_else(|| line.split_once("PANIC:  "))
                .map(|(_, words)| words.to_owned())
        })?;
        Some(format!("the server's log says: {fatal}"))
    }

    /// What systemd, and Debian's scripts without it, do with the cluster at boot.
    pub fn start_mode(&self) -> anyhow::Result<StartMode> {
        let text = file::read(&self.conf().join("start.conf"))?.unwrap_or_default();
        Ok(StartMode::parse(&text))
    }

    pub fn set_start_mode(&self, mode: StartMode) -> anyhow::Result<()> {
        let text = format!("# Written by ondol.cloud: auto, manual or disabled.\n{mode}\n");
        write_file(&self.conf().join("start.conf"), &text, 0o644)?;
        if Path::new("/run/systemd/system").is_dir() {
            program("systemctl").arg("daemon-reload").succeed()?;
        }
        Ok(())
    }

    /// The cluster as it is now. An answer other than yes or a certain no is an error.
    pub fn state(&self, place: &Place, database: &str) -> anyhow::Result<State> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let error = match self.connect(place, database) {
                Ok(client) => return Ok(State::Running(client)),
                Err(error) => error,
            };
            let no_one_listens = error.nobody_listens();
            if no_one_listens && !has_postmaster(&place.data)? {
                return Ok(State::Stopped);
            }
            // 57P03: it starts or stops.
            let passing = no_one_listens || error.code() == Some("57P03");
            if !passing || Instant::now() > deadline {
                return Err(error).with_context(|| format!("connect to cluster {self}"));
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// As the superuser, over the local socket.
    pub fn connect(&self, place: &Place, database: &str) -> client::Result<Client> {
        let endpoint = Endpoint::Socket {
            directory: place.sockets.clone(),
            port: place.port,
        };
        let login = Login {
            user: OWNER,
            password: None,
            purpose: Purpose::Database(database),
            patience: client::PATIENCE,
        };
        let _guard = AsOwner::enter().map_err(|source| client::Error::Unreachable {
            to: endpoint.to_string(),
            source,
        })?;
        Client::connect(&endpoint, &login)
    }

    /// Of a cluster that must run.
    pub fn client(&self, database: &str) -> anyhow::Result<Client> {
        let place = self.require_place()?;
        match self.state(&place, database)? {
            State::Running(client) => Ok(client),
            State::Stopped => bail!("cluster {self} does not run"),
        }
    }
}

pub enum State {
    Stopped,
    Running(Client),
}

/// `start.conf` of postgresql-common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartMode {
    /// At boot.
    #[default]
    Auto,
    /// When somebody asks for it.
    Manual,
    /// Not even then.
    Disabled,
}

impl StartMode {
    fn parse(text: &str) -> Self {
        let word = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'));
        match word {
            Some("manual") => Self::Manual,
            Some("disabled") => Self::Disabled,
            _ => Self::Auto,
        }
    }
}

impl fmt::Display for StartMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
            Self::Disabled => "disabled",
        })
    }
}

/// While it lives, this process is the owner of the cluster to whoever asks who connects.
struct AsOwner(Option<Uid>);

impl AsOwner {
    fn enter() -> io::Result<Self> {
        let before = geteuid();
        if !before.is_root() {
            return Ok(Self(None));
        }
        seteuid(owner()?.uid)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            seteuid(before).expect("a process that was root may be so again");
        }
    }
}

fn owner() -> io::Result<User> {
    User::from_name(OWNER)?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "there is no system user postgres: install the package postgresql-common",
        )
    })
}

/// A program that acts on a cluster. Nobody can say how long a recovery or a base backup takes.
///
/// Not in root's directory, which the owner may not enter; and what it says, and what a new cluster's locale would be by default, is C.
pub(crate) fn program(program: impl AsRef<OsStr>) -> Program {
    Program::new(program)
        .env("LC_ALL", "C")
        .current_dir("/")
        .within(Duration::from_secs(24 * 3600))
}

/// One that must not run as root, run as the owner. It does not outlive this process, even one that is killed: a base backup that nobody waits
/// for would still write.
pub(crate) fn as_owner(path: impl AsRef<OsStr>) -> Program {
    let program = program(path).as_user(OWNER);
    if geteuid().is_root() {
        // libpq looks for certificates there, and is not allowed to look at root's.
        program.env("HOME", "/var/lib/postgresql")
    } else {
        program
    }
}

/// Writes a file of the cluster whole or not at all, owned by its owner.
pub(crate) fn write_file(path: &Path, text: impl AsRef<[u8]>, mode: u32) -> anyhow::Result<()> {
    file::write_owned(path, text, mode, OWNER)
}

/// A path that only adds to the name of another: `with_extension` would take `15.2` for a name with an extension.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Whether the process that `postmaster.pid` names is alive.
fn has_postmaster(data: &Path) -> anyhow::Result<bool> {
    let Some(text) = file::read(&data.join("postmaster.pid"))? else {
        return Ok(false);
    };
    let pid = text.lines().next().unwrap_or_default().trim();
    let name = file::read(&PathBuf::from(format!("/proc/{pid}/comm")))?.unwrap_or_default();
    Ok(name.trim() == "postgres")
}

/// Files of Debian's `include_dir = 'conf.d'`, in the order in which the server reads them.
fn included(conf: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let dir = conf.join("conf.d");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()
        .with_context(|| format!("list {}", dir.display()))?;
    paths.retain(|path| path.extension().is_some_and(|it| it == "conf"));
    paths.sort();
    Ok(paths)
}

/// `name = value` lines as the server reads them: the last of a name counts, names in lower case, values without quotes.
pub(crate) fn assignments(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(assignment).collect()
}

fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    if name.is_empty() {
        return None;
    }
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted),
        None => rest.split(['#', ' ', '\t']).next()?.to_owned(),
    };
    Some((name.to_ascii_lowercase(), value))
}

/// Up to the closing quote; a doubled one and one after a backslash are part of the value.
fn unquote(quoted: &str) -> String {
    let mut value = String::new();
    let mut letters = quoted.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if letters.peek() == Some(&'\'') => value.extend(letters.next()),
            '\'' => break,
            '\\' => value.extend(letters.next()),
            _ => value.push(letter),
        }
    }
    value
}

fn parse_control(text: &str) -> Control {
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| value.trim())
    };
    Control {
        system_identifier: value("Database system identifier").to_owned(),
        state: value("Database cluster state").to_owned(),
        timeline: value("Latest checkpoint's TimeLineID").parse().unwrap_or(0),
        checkpoint: value("Latest checkpoint location").to_owned(),
        checksums: !matches!(value("Data page checksum version"), "0" | ""),
        hint_bits_logged: value("wal_log_hints setting") == "on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_as_the_server_reads_them() {
        let text = "# port = 1\nport = 5432   # (change requires restart)\nPort 5433\n\
                    data_directory = '/srv/it''s' # x\nssl=on\nsearch_path = '\"$user\", public'\n = 3\n";
        let wanted = [
            ("data_directory", "/srv/it's"),
            ("port", "5433"),
            ("search_path", "\"$user\", public"),
            ("ssl", "on"),
        ];
        let found = assignments(text);
        assert_eq!(
            found
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect::<Vec<_>>(),
            wanted
        );
    }

    #[test]
    fn control_data_of_a_stopped_cluster_is_read() {
        let text = include_str!("../fixtures/pg_controldata-15.txt");
        let control = parse_control(text);
        assert_eq!(control.state, "shut down");
        assert_eq!(control.timeline, 1);
        assert!(control.checksums && !control.hint_bits_logged);
        assert!(control.system_identifier.parse::<u64>().is_ok());
        assert!(control.checkpoint.contains('/'));
    }

    #[test]
    fn start_conf_is_its_first_word() {
        for (text, mode) in [
            ("# auto\n\nmanual\n", StartMode::Manual),
            ("disabled", StartMode::Disabled),
            ("auto", StartMode::Auto),
            ("", StartMode::Auto),
        ] {
            assert_eq!(StartMode::parse(text), mode);
        }
    }

    #[test]
    fn a_cluster_that_cannot_be_managed_is_refused() {
        for (version, name, good) in [
            (15, "main", true),
            (13, "main", false),
            (15, "", false),
            (15, "../x", false),
            (15, "a b", false),
        ] {
            assert_eq!(
                Cluster::new(version, name).is_ok(),
                good,
                "{version} {name:?}"
            );
        }
    }
}
