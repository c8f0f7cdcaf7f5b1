//! The server of this machine: its unit, its data directory, its client on the local socket. Decides nothing.
//!
//! Debian's and Ubuntu's packages are what it knows: one server, the unit `mariadb`, configuration below `/etc/mysql`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_machine::file;
use ondol_machine::program::Program;

use crate::facts::{NodeFacts, ServerState, Wsrep};
use crate::settings::Effective;
use crate::wsrep::{self, Grastate, Position, Uuid};

pub(crate) const UNIT: &str = "mariadb.service";
/// Group communication; a node listens there from its start to its end.
pub(crate) const GROUP_PORT: u16 = 4567;
/// `galera_new_cluster` writes this and removes it: one that stays makes every start found a new cluster.
pub(crate) const NEW_CLUSTER_FLAG: &str = "/run/mariadb-wsrep-new-cluster";

/// How long a server may take connections without a word.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How a unit stands, in systemd's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`.
    pub(crate) active: String,
    /// 0: no process.
    pub(crate) main_pid: u32,
    /// Since it was last started it was ready at some time.
    pub(crate) was_ready: bool,
}

impl Unit {
    pub(crate) fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }
}

/// `Err`: there is no such unit, or systemd does not answer.
pub(crate) fn unit(name: &str) -> anyhow::Result<Unit> {
    let output = Program::new("systemctl")
        .args(["show", "-p", "LoadState,ActiveState,MainPID"])
        .args(["-p", "InactiveExitTimestampMonotonic"])
        .args(["-p", "ActiveEnterTimestampMonotonic", name])
        .succeed()
        .with_context(|| format!("ask systemd for {name}"))?;
    let fields: BTreeMap<&str, &str> = output
        .stdout
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let microseconds = |name: &str| field(name).parse::<u64>().unwrap_or(0);
    if field("LoadState") == "not-found" {
        bail!("there is no unit {name}: is its package installed?");
    }
    Ok(Unit {
        active: field("ActiveState").to_owned(),
        main_pid: field("MainPID").parse().unwrap_or(0),
        was_ready: microseconds("ActiveEnterTimestampMonotonic")
            >= microseconds("InactiveExitTimestampMonotonic"),
    })
}

pub(crate) fn systemctl(args: &[&str], patience: Duration) -> anyhow::Result<()> {
    Program::new("systemctl")
        .args(args)
        .within(patience)
        .succeed()
        .map(drop)
}

pub(crate) fn is_installed() -> bool {
    Path::new("/usr/sbin/mariadbd").exists()
}

/// The last lines that say what went wrong in the log of a unit's last run.
pub(crate) fn last_words(name: &str) -> String {
    let printed = |program: Program| program.run().map(|it| it.stdout).unwrap_or_default();
    let id =
        printed(Program::new("systemctl").args(["show", "-p", "InvocationID", "--value", name]));
    let run = format!("_SYSTEMD_INVOCATION_ID={}", id.trim());
    let text = printed(Program::new("journalctl").args(["-o", "cat", "--no-pager", &run]));
    let wrong: Vec<&str> = text
        .lines()
        .filter(|line| ["ERROR", "FATAL"].iter().any(|it| line.contains(it)))
        .collect();
    let last = &wrong[wrong.len().saturating_sub(5)..];
    last.join(" | ")
}

/// What came of asking the server.
pub(crate) enum Asked<T> {
    Answered(T),
    /// Nothing listens on its socket.
    NotThere,
}

/// The server and where it keeps things.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) data: PathBuf,
    socket: String,
}

impl Server {
    pub(crate) fn new(effective: &Effective) -> Self {
        let value = |name: &str, default: &str| match effective.get(name) {
            Some(value) if value.starts_with('/') => value.to_owned(),
            _ => default.to_owned(),
        };
        Self {
            data: value("datadir", "/var/lib/mysql").into(),
            socket: value("socket", "/run/mysqld/mysqld.sock"),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from(&self.socket)
    }

    /// Rows of the last statement. Text goes in on standard input, so that no argument holds it. An error is the server's own.
    pub(crate) fn ask(&self, sql: &str) -> anyhow::Result<Asked<Vec<Vec<String>>>> {
        let deadline = Instant::now() + HANDSHAKE;
        loop {
            let output = Program::new("mariadb")
                .args(["--no-defaults", "--protocol=socket", "--user=root"])
                .args([format!("--socket={}", self.socket)])
                .args(["--batch", "--skip-column-names", "--connect-timeout=10"])
                .stdin(sql)
                .run()?;
            if output.status.success() {
                let rows = output.stdout.lines();
                return Ok(Asked::Answered(rows.map(cells).collect()));
            }
            let words = output.words();
            // CR_CONNECTION_ERROR: no socket, or nobody behind it.
            if words.contains("ERROR 2002") {
                return Ok(Asked::NotThere);
            }
            // CR_SERVER_LOST before the first word: a server that comes up or goes down at this moment. Nothing was asked yet.
            let at_handshake = words.contains("ERROR 2013") && words.contains("'handshake");
            if !at_handshake || Instant::now() >= deadline {
                bail!("{words}")
            }
            sleep(Duration::from_millis(200));
        }
    }

    pub(crate) fn query(&self, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
        match self.ask(sql)? {
            Asked::Answered(rows) => Ok(rows),
            Asked::NotThere => bail!("the server does not answer at {}", self.socket),
        }
    }

    /// `recover`: where the server is down and only its recovery knows the position, let it recover.
    pub(crate) fn facts(&self, name: &str, recover: bool) -> anyhow::Result<NodeFacts> {
        let (server, wsrep, main_pid) = if is_installed() {
            self.running()?
        } else {
            (ServerState::Absent, None, 0)
        };
        let arguments = arguments(main_pid);
        let grastate = self.grastate()?;
        let mut facts = NodeFacts {
            name: name.to_owned(),
            founding: server == ServerState::Starting
                && arguments.iter().any(|it| is_new_cluster(it)),
            server,
            wsrep: wsrep.as_ref().map(|(wsrep, _)| wsrep.clone()),
            position: None,
            position_known: true,
            databases: self.databases()?,
            half_copied: matches!(server, ServerState::Stopped | ServerState::Absent)
                && self.data.join("sst_in_progress").exists(),
            grastate,
        };
        let noted = facts.grastate.as_ref();
        let noted_position = noted.and_then(Grastate::position);
        let unclean = noted.is_some_and(|it| it.uuid.is_some() && it.seqno < 0);
        match (server, wsrep) {
            (ServerState::Running, Some((_, position))) => facts.position = position,
            (ServerState::Starting, _) => match wsrep::start_position(&arguments)
                .context("read where the server starts from")?
            {
                Some(start) => facts.position = start.0,
                None => facts.position_known = false,
            },
            (ServerState::Stopped, _) if unclean && recover => facts.position = self.recover()?,
            _ if unclean => facts.position_known = false,
            _ => facts.position = noted_position,
        }
        Ok(facts)
    }

    /// What the server does, its view of its cluster with its position, and its process.
    #[expect(clippy::type_complexity, reason = "used once, just above")]
    fn running(&self) -> anyhow::Result<(ServerState, Option<(Wsrep, Option<Position>)>, u32)> {
        let status = self
            .ask("SHOW GLOBAL STATUS LIKE 'wsrep\\_%'")
            .context("ask the server for its state")?;
        let unit = unit(UNIT)?;
        let (server, wsrep) = match status {
            Asked::Answered(rows) => (ServerState::Running, self.wsrep(rows)?),
            Asked::NotThere if unit.is_down() => (ServerState::Stopped, None),
            Asked::NotThere if unit.active == "active" => bail!(
                "{UNIT} is active and does not answer at {}: its state is unknown",
                self.socket
            ),
            Asked::NotThere => (ServerState::Starting, None),
        };
        Ok((server, wsrep, unit.main_pid))
    }

    fn wsrep(&self, rows: Vec<Vec<String>>) -> anyhow::Result<Option<(Wsrep, Option<Position>)>> {
        let status: BTreeMap<String, String> = rows
            .into_iter()
            .filter_map(|row| row.try_into().ok())
            .map(|[name, value]: [String; 2]| (name, value))
            .collect();
        let Some(mut wsrep) = wsrep_of(&status) else {
            return Ok(None);
        };
        if wsrep.primary && wsrep.ready {
            // In sync with the view; a node that is just being cut off refuses.
            let names = self.query("SELECT node_name FROM mysql.wsrep_cluster_members");
            wsrep.component = names
                .context("ask for the members of the component")?
                .into_iter()
                .flatten()
                .collect();
            wsrep.component.sort();
        }
        let at =
            |uuid: &str, seqno: &str| Some(format!("{}:{}", status.get(uuid)?, status.get(seqno)?));
        let position = match at("wsrep_local_state_uuid", "wsrep_last_committed") {
            Some(text) => text.parse::<wsrep::Written>()?.0,
            None => None,
        };
        Ok(Some((wsrep, position)))
    }

    pub(crate) fn grastate_path(&self) -> PathBuf {
        self.data.join("grastate.dat")
    }

    fn grastate(&self) -> anyhow::Result<Option<Grastate>> {
        let path = self.grastate_path();
        file::read(&path)?
            .map(|text| Grastate::parse(&text))
            .transpose()
            .with_context(|| format!("read {}", path.display()))
    }

    fn databases(&self) -> anyhow::Result<Vec<String>> {
        let at = || format!("list {}", self.data.display());
        let entries = match fs::read_dir(&self.data) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(at),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.with_context(at)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && is_database(&name) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// InnoDB applies its log, as at every start; nothing else changes.
    fn recover(&self) -> anyhow::Result<Option<Position>> {
        let output = Program::new("mariadbd")
            .args(["--user=mysql", "--wsrep-recover", "--disable-log-error"])
            .within(Duration::from_secs(900))
            .succeed()
            .context("let the server recover its position")?;
        wsrep::recovered(&output.stderr)
    }

    /// Ends the server. One that waits for its cluster does not hear SIGTERM; it holds no client's work, so it is killed.
    pub(crate) fn stop(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        let deaf = Instant::now() + Duration::from_secs(5);
        let waiting = !unit(UNIT)?.was_ready;
        systemctl(&["stop", "--no-block", UNIT], patience)?;
        let mut killed = false;
        while !unit(UNIT)?.is_down() {
            if waiting && !killed && Instant::now() >= deaf {
                systemctl(&["kill", "--signal=SIGKILL", UNIT], patience)?;
                killed = true;
            }
            if Instant::now() >= deadline {
                bail!("{UNIT} did not stop within {} s", patience.as_secs());
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Arguments of a process; none if it is gone.
fn arguments(pid: u32) -> Vec<String> {
    if pid == 0 {
        return Vec::new();
    }
    let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"));
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    text.split('\0').map(str::to_owned).collect()
}

fn is_new_cluster(argument: &str) -> bool {
    matches!(argument, "--wsrep-new-cluster" | "--wsrep_new_cluster")
}

/// The server's own directories, and those of file systems and of half-done work, are none.
fn is_database(name: &str) -> bool {
    const OWN: &[&str] = &["lost+found", "mysql", "performance_schema", "sys"];
    !OWN.contains(&name) && !name.starts_with(['.', '#'])
}

/// `None`: the server does not replicate.
fn wsrep_of(status: &BTreeMap<String, String>) -> Option<Wsrep> {
    let value = |name: &str| status.get(name).map_or("", String::as_str);
    if value("wsrep_provider_name").is_empty() {
        return None;
    }
    let primary = value("wsrep_cluster_status") == "Primary";
    Some(Wsrep {
        primary,
        ready: value("wsrep_ready") == "ON",
        state: value("wsrep_local_state_comment").to_owned(),
        cluster_uuid: Uuid::try_from(value("wsrep_cluster_state_uuid").to_owned()).ok(),
        size: value("wsrep_cluster_size").parse().unwrap_or(0),
        component: Vec::new(),
        provider_version: value("wsrep_provider_version").to_owned(),
    })
}

/// Cells of a line of `mariadb --batch`, which escapes what would break lines and cells.
fn cells(line: &str) -> Vec<String> {
    line.split('\t')
        .map(|cell| {
            let mut text = String::with_capacity(cell.len());
            let mut characters = cell.chars();
            while let Some(character) = characters.next() {
                match character {
                    '\\' => match characters.next() {
                        Some('n') => text.push('\n'),
                        Some('t') => text.push('\t'),
                        Some('0') => text.push('\0'),
                        Some(other) => text.push(other),
                        None => text.push('\\'),
                    },
                    other => text.push(other),
                }
            }
            text
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| (format!("wsrep_{name}"), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_server_without_a_provider_does_not_replicate() {
        let off = status(&[("provider_name", ""), ("cluster_status", "Disconnected")]);
        assert_eq!(wsrep_of(&off), None);
    }

    #[test]
    fn a_node_that_lost_its_quorum_is_not_primary_and_not_ready() {
        let cut = status(&[
            ("provider_name", "Galera"),
            ("cluster_status", "non-Primary"),
            ("ready", "OFF"),
            ("local_state_comment", "Initialized"),
            ("cluster_state_uuid", "39eb9282-e696-11f1-8be0-3e7392a1b536"),
            ("cluster_size", "1"),
            ("provider_version", "4.23(rXXXX)"),
        ]);
        let wsrep = wsrep_of(&cut).unwrap();
        assert_eq!((wsrep.primary, wsrep.ready, wsrep.size), (false, false, 1));
    }

    #[test]
    fn only_what_users_made_counts_as_a_database() {
        let names = [
            "mysql",
            "sys",
            "performance_schema",
            "lost+found",
            "#innodb_temp",
            ".sst",
        ];
        assert!(!names.into_iter().any(is_database));
        assert!(is_database("app") && is_database("test"));
    }

    #[test]
    fn a_cell_comes_back_as_it_was() {
        assert_eq!(cells("a\\tb\\\\n\\n\tc"), ["a\tb\\n\n", "c"]);
        assert_eq!(cells("\t"), ["", ""]);
    }
}
