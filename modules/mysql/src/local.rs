//! The server on this machine in Debian's layout: where its files are, whether it runs, and systemd's unit that starts it. What is wanted of it
//! is decided elsewhere.

use std::fs;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_machine::file;
use ondol_machine::program::Program;

use crate::client::{self, Client, Endpoint, Login};
use crate::options;

/// The system user that owns the data, and systemd's unit.
pub const OWNER: &str = "mysql";
const UNIT: &str = "mysql.service";
const SERVER: &str = "/usr/sbin/mysqld";

/// Where the server's files are, as its option files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub data: PathBuf,
    pub socket: PathBuf,
    log: PathBuf,
}

/// The server as it is. An answer other than yes or a certain no is an error.
pub enum State {
    /// There is no data, so nothing that could run.
    Absent,
    Stopped,
    Running(Box<Client>),
}

/// Of a package that is not installed the usual places.
pub fn place() -> anyhow::Result<Place> {
    let mut found = options::assignments(&options::expand(Path::new(options::MAIN), None)?);
    let mut path = |name: &str, usual: &str| {
        let named = found.remove(name).filter(|it| it.starts_with('/'));
        PathBuf::from(named.unwrap_or_else(|| usual.to_owned()))
    };
    Ok(Place {
        data: path("datadir", "/var/lib/mysql"),
        socket: path("socket", "/var/run/mysqld/mysqld.sock"),
        log: path("log_error", "/var/log/mysql/error.log"),
    })
}

pub fn is_installed() -> bool {
    Path::new(SERVER).exists()
}

pub fn require_installed() -> anyhow::Result<()> {
    anyhow::ensure!(
        is_installed(),
        "{SERVER} is missing: install the package mysql-server"
    );
    Ok(())
}

/// The server's own program.
pub fn server() -> Program {
    Program::new(SERVER)
}

impl Place {
    /// Whether the data directory holds a server's data. It is the last thing that an initialisation moves there.
    pub fn is_initialised(&self) -> anyhow::Result<bool> {
        let tables = self.data.join("mysql");
        tables
            .try_exists()
            .with_context(|| format!("look for {}", tables.display()))
    }

    pub fn state(&self) -> anyhow::Result<State> {
        if !self.is_initialised()? {
            return Ok(State::Absent);
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let error = match self.connect() {
                Ok(client) => return Ok(State::Running(Box::new(client))),
                Err(error) => error,
            };
            let no_one_listens = error.nobody_listens();
            if no_one_listens && !is_active()? {
                return Ok(State::Stopped);
            }
            // 1053: it shuts down. A connection that breaks during the login is of one that ends.
            let passing = no_one_listens
                || error.code() == Some(1053)
                || matches!(error, client::Error::Broken { .. });
            if !passing || Instant::now() > deadline {
                return Err(error).context("connect to the server on this machine as root");
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn connect(&self) -> client::Result<Client> {
        let login = Login {
            user: "root",
            password: None,
        };
        Client::connect(&Endpoint::Socket(self.socket.clone()), login)
    }

    /// Starts the server and waits until it takes connections. An error holds the last words of its log.
    pub fn start(&self) -> anyhow::Result<()> {
        self.act("start")
    }

    pub fn restart(&self) -> anyhow::Result<()> {
        self.act("restart")
    }

    pub fn stop(&self) -> anyhow::Result<()> {
        self.act("stop")
    }

    fn act(&self, act: &str) -> anyhow::Result<()> {
        // What a crash loop left would refuse the start.
        systemctl(["reset-failed", UNIT]).run()?;
        let log = self.log_length();
        let done = systemctl([act, UNIT]).succeed();
        let up = match done {
            Ok(_) if act == "stop" => return Ok(()),
            Ok(_) => self.wait_up(),
            Err(error) => Err(error),
        };
        up.map_err(|error| match self.last_words(log) {
            Some(words) => error.context(format!("the server's log says: {words}")),
            None => error,
        })
    }

    /// Until it runs, which a server that restarts by itself does after a while.
    pub fn wait_up(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            match self.state()? {
                State::Running(_) => return Ok(()),
                State::Absent => bail!("{} holds no data", self.data.display()),
                State::Stopped if Instant::now() < deadline && !is_failed()? => {
                    sleep(Duration::from_millis(200));
                }
                State::Stopped => bail!("the server does not run"),
            }
        }
    }

    /// A connection to a server that must run.
    pub fn client(&self) -> anyhow::Result<Client> {
        match self.state()? {
            State::Running(client) => Ok(*client),
            State::Stopped => bail!("the server on this machine does not run"),
            State::Absent => {
                bail!("there is no server on this machine: ondol.cloud.mysql_instance makes one")
            }
        }
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |meta| meta.len())
    }

    /// The errors that the server logged since then.
    fn last_words(&self, since: u64) -> Option<String> {
        let mut file = fs::File::open(&self.log).ok()?;
        file.seek(io::SeekFrom::Start(since)).ok()?;
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes).ok()?;
        errors(&String::from_utf8_lossy(&bytes))
    }
}

/// Of lines such as `2026-11-22T17:05:42.5Z 0 [ERROR] [MY-000067] [Server] unknown variable 'x=4'.`, the first that say why.
pub fn errors(log: &str) -> Option<String> {
    let lines: Vec<&str> = log
        .lines()
        .filter_map(|line| {
            let (_, after) = line.split_once("[ERROR] ")?;
            Some(after.splitn(3, "] ").last().unwrap_or(after).trim())
        })
        .filter(|line| *line != "Aborting")
        .take(4)
        .collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

fn systemctl<const N: usize>(args: [&str; N]) -> Program {
    // A server that recovers after a crash takes its time.
    Program::new("systemctl")
        .args(args)
        .within(Duration::from_secs(300))
}

fn is_active() -> anyhow::Result<bool> {
    let shown = active_state()?;
    Ok(!matches!(shown.as_str(), "inactive" | "failed"))
}

fn is_failed() -> anyhow::Result<bool> {
    Ok(active_state()? == "failed")
}

fn active_state() -> anyhow::Result<String> {
    let shown = systemctl(["show", "--property=ActiveState", "--value", UNIT]).succeed()?;
    Ok(shown.stdout.trim().to_owned())
}

/// Whether the server starts at boot.
pub fn starts_at_boot() -> anyhow::Result<bool> {
    let shown = systemctl(["is-enabled", UNIT]).run()?;
    Ok(shown.stdout.trim() == "enabled")
}

pub fn start_at_boot() -> anyhow::Result<()> {
    systemctl(["enable", "--quiet", UNIT]).succeed().map(drop)
}

/// Gives a path to the user that the server runs as.
pub fn give_to_owner(path: &Path) -> anyhow::Result<()> {
    file::give(path, OWNER).with_context(|| format!("give {} to {OWNER}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_in_a_log() {
        let log = "2026-11-22T17:05:42.527415Z 0 [System] [MY-010116] [Server] starting\n\
                   2026-11-22T17:05:42.527415Z 0 [ERROR] [MY-000067] [Server] unknown variable 'max_connectionsx=4'.\n\
                   2026-11-22T17:05:42.527440Z 0 [ERROR] [MY-010119] [Server] Aborting\n";
        assert_eq!(
            errors(log).as_deref(),
            Some("unknown variable 'max_connectionsx=4'.")
        );
        assert_eq!(errors("all is well"), None);
    }
}
