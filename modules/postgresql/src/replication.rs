//! What the modules of a replicated set share: its members, how one asks another over the replication protocol, and the state of this one.
//!
//! Nothing here decides.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use ondol_kit::{Invalid, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::{self, Client, Endpoint, Login, Purpose, Tls};
use crate::cluster::{Cluster, Control, Place, StartMode, State, beside};
use crate::server::{TlsMode, tls, usual_port};
use crate::sql::check_name;

/// One server of a replicated set.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    /// Name of the member, as its host's: letters, digits and hyphens.
    pub name: String,
    /// Host name or address at which the others reach it.
    pub address: String,
    /// Port.
    #[serde(default = "usual_port")]
    pub port: u16,
    /// Member that it follows. The primary, if left out.
    pub upstream: Option<String>,
}

/// How the members log in to each other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replication {
    /// Role with the attribute REPLICATION.
    #[serde(default = "replicator")]
    pub user: String,
    /// Its password. It is kept for the server in a file that only its owner can read.
    pub password: Secret,
    /// How a member is known to be the right one.
    #[serde(default)]
    pub tls: TlsMode,
    /// File of the certificate authority, for C(tls: authority).
    pub ca_file: Option<String>,
}

fn replicator() -> String {
    "replicator".to_owned()
}

/// [`Replication`] after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub user: String,
    pub password: Secret,
    pub tls: Tls,
}

impl Access {
    pub(crate) fn new(replication: Replication) -> Result<Self, Invalid> {
        check_name(&replication.user).map_err(|reason| Invalid::new("replication.user", reason))?;
        let password = replication.password.expose();
        if password.is_empty() || password.contains(['\n', '\r', '\0']) {
            return Err(Invalid::new(
                "replication.password",
                "must not be empty or hold a line break: PostgreSQL's password file could not keep it",
            ));
        }
        Ok(Self {
            tls: tls(replication.tls, replication.ca_file, "replication.")?,
            user: replication.user,
            password: replication.password,
        })
    }

    /// A physical replication connection.
    pub(crate) fn connect(
        &self,
        address: &str,
        port: u16,
        patience: Duration,
    ) -> client::Result<Client> {
        let endpoint = Endpoint::Tcp {
            host: address.to_owned(),
            port,
            tls: self.tls.clone(),
        };
        let login = Login {
            user: &self.user,
            password: Some(self.password.expose()),
            purpose: Purpose::Replication,
            patience,
        };
        Client::connect(&endpoint, &login)
    }

    /// The words of a libpq connection string, without the password.
    pub(crate) fn conninfo(&self, address: &str, port: u16, name: &str, passfile: &Path) -> String {
        let mut words = vec![
            ("host", address.to_owned()),
            ("port", port.to_string()),
            ("user", self.user.clone()),
            ("passfile", passfile.display().to_string()),
            ("application_name", name.to_owned()),
            ("connect_timeout", "5".to_owned()),
        ];
        match &self.tls {
            Tls::ChannelBinding => {
                words.push(("sslmode", "require".to_owned()));
                words.push(("channel_binding", "require".to_owned()));
            }
            Tls::Authority(file) => {
                words.push(("sslmode", "verify-full".to_owned()));
                words.push(("sslrootcert", file.display().to_string()));
            }
            Tls::Off => words.push(("sslmode", "disable".to_owned())),
        }
        let words: Vec<String> = words
            .into_iter()
            .map(|(word, value)| {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                format!("{word}='{value}'")
            })
            .collect();
        words.join(" ")
    }

    /// The text of a libpq password file.
    pub(crate) fn passfile(&self) -> String {
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        format!(
            "*:*:*:{}:{}\n",
            escape(&self.user),
            escape(self.password.expose())
        )
    }
}

/// A member's name is part of its slot's, which takes fewer characters.
pub(crate) fn check_member(path: &str, name: &str) -> Result<(), Invalid> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 50 || !name.chars().all(plain) {
        return Err(Invalid::new(
            path.to_owned(),
            format!("{name:?} is not a member's name (lower-case letters, digits and hyphens)"),
        ));
    }
    Ok(())
}

const SLOT_PREFIX: &str = "ondol_";

/// The slot that keeps the log for a member.
pub(crate) fn slot(member: &str) -> String {
    format!("{SLOT_PREFIX}{}", member.replace('-', "_"))
}

/// Whether a slot is one of ours.
pub(crate) fn is_ours(slot: &str) -> bool {
    slot.starts_with(SLOT_PREFIX)
}

/// A place in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(pub u64);

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u64::from);
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(parse(high)? << 32 | parse(low)?)))
            .ok_or_else(|| format!("{text:?} is not a place in the log, such as 0/5000060"))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What a member says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub system_identifier: String,
    pub timeline: u32,
    /// The end of its log; of a standby, of what it has received or replayed.
    pub lsn: Lsn,
    pub in_recovery: bool,
    /// For each earlier timeline where this one left it; asked of an upstream only.
    pub history: Vec<(u32, Lsn)>,
}

pub(crate) type Seen = ondol_database::Seen<Answer>;

/// Asks a member. A login that fails is an error: whoever answers there is not to be counted as gone.
pub(crate) fn ask(
    access: &Access,
    address: &str,
    port: u16,
    history: bool,
    patience: Duration,
) -> anyhow::Result<Seen> {
    let asked = try_ask(access, address, port, history, patience);
    // Class 57: it starts, stops, or is told to.
    match Seen::of(asked, |refusal| refusal.code.starts_with("57")) {
        Ok(Seen::Denies(words)) => Err(anyhow!(words)),
        Ok(seen) => Ok(seen),
        Err(error) => Err(error.into()),
    }
    .with_context(|| format!("ask the member at {address}"))
}

fn try_ask(
    access: &Access,
    address: &str,
    port: u16,
    history: bool,
    patience: Duration,
) -> client::Result<Answer> {
    let mut client = access.connect(address, port, patience)?;
    let rows = client.query("IDENTIFY_SYSTEM")?;
    let column = |index: usize| rows.first().map_or("", |row| row.text(index));
    let mut answer = Answer {
        system_identifier: column(0).to_owned(),
        timeline: column(1).parse().unwrap_or(0),
        lsn: column(2).parse().unwrap_or_default(),
        in_recovery: client.value("SHOW in_hot_standby")? == "on",
        history: Vec::new(),
    };
    if history && answer.timeline > 1 {
        let rows = client.query(&format!("TIMELINE_HISTORY {}", answer.timeline))?;
        answer.history = parse_history(rows.first().map_or("", |row| row.text(1)));
    }
    Ok(answer)
}

/// `1<tab>0/5000060<tab>reason` for each timeline that came before.
fn parse_history(text: &str) -> Vec<(u32, Lsn)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

impl Answer {
    /// Where this member's history left `timeline`: `None` if it never was on it, or still is.
    pub(crate) fn fork(&self, timeline: u32) -> Option<Lsn> {
        self.history
            .iter()
            .find(|(earlier, _)| *earlier == timeline)
            .map(|(_, lsn)| *lsn)
    }

    /// Whether somebody who is at `lsn` on `timeline` has only what this member's history has too.
    pub(crate) fn continues(&self, timeline: u32, lsn: Lsn) -> bool {
        timeline == self.timeline || self.fork(timeline).is_some_and(|fork| lsn <= fork)
    }
}

/// This machine's member.
pub(crate) enum Local {
    /// Neither configuration nor data, certainly.
    Absent,
    /// Data that no configuration describes, as after a base backup that was broken off at the very end.
    Unconfigured,
    /// A configuration without data.
    Empty,
    Stopped(Stopped),
    Running(Box<Running>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    pub control: Control,
    /// Whether it would come up as a standby.
    pub signal: bool,
    pub fenced: bool,
}

impl Stopped {
    /// It would come up as a standby, or was rewound and only lacks the signal to.
    pub fn is_standby(&self) -> bool {
        self.signal
            || matches!(
                self.control.state.as_str(),
                "in archive recovery" | "shut down in recovery"
            )
    }
}

pub(crate) struct Running {
    pub client: Client,
    pub place: Place,
    pub in_recovery: bool,
    pub system_identifier: String,
    pub timeline: u32,
    pub lsn: Lsn,
    pub mode: StartMode,
}

/// Looks at this machine. `data` is where the data would be if nothing is configured.
pub(crate) fn local(cluster: &Cluster, data: &Path) -> anyhow::Result<Local> {
    let Some(place) = cluster.place()? else {
        let there = data
            .join("PG_VERSION")
            .try_exists()
            .with_context(|| format!("look into {}", data.display()))?;
        return Ok(if there {
            Local::Unconfigured
        } else {
            Local::Absent
        });
    };
    let Some(control) = cluster.control(&place.data)? else {
        return Ok(Local::Empty);
    };
    let mode = cluster.start_mode()?;
    match cluster.state(&place, "postgres")? {
        State::Stopped => Ok(Local::Stopped(Stopped {
            signal: place.data.join("standby.signal").exists(),
            fenced: mode == StartMode::Disabled,
            control,
        })),
        State::Running(mut client) => {
            let rows = client
                .query(
                    "SELECT pg_is_in_recovery(), s.system_identifier,
                        CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                             ELSE pg_current_wal_flush_lsn() END,
                        CASE WHEN pg_is_in_recovery()
                             THEN greatest((SELECT received_tli FROM pg_stat_wal_receiver), r.min_recovery_end_timeline, c.timeline_id,
                                  (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int) FROM pg_ls_waldir() WHERE name LIKE '%.history'))
                             ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END
                     FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r",
                )
                .context("ask the cluster about its log")?;
            let column = |index: usize| rows.first().map_or("", |row| row.text(index));
            Ok(Local::Running(Box::new(Running {
                in_recovery: column(0) == "t",
                system_identifier: column(1).to_owned(),
                lsn: column(2).parse().unwrap_or_default(),
                timeline: column(3).parse().unwrap_or(0),
                client,
                place,
                mode,
            })))
        }
    }
}

/// A rule of synchronous commit, as the primary wrote it into its own log once it was in force.
///
/// It is a setting of the database `postgres` without a meaning to the server, so every standby has it. It counts for the timeline that it names
/// only: a promotion ends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durability {
    pub timeline: u32,
    /// How many of `standbys` have every commit that was acknowledged. 0: nobody may have it.
    pub count: usize,
    pub standbys: Vec<String>,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standbys = self.standbys.join(" ");
        write!(f, "{} {} {standbys}", self.timeline, self.count)
    }
}

impl Durability {
    pub const SETTING: &'static str = "ondol.synchronous";

    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            timeline: words.next()?.parse().ok()?,
            count: words.next()?.parse().ok()?,
            standbys: words.map(str::to_owned).collect(),
        })
    }

    pub fn read(client: &mut Client) -> anyhow::Result<Option<Self>> {
        let text = client
            .value(
                "SELECT substr(line, length('ondol.synchronous=') + 1)
                 FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) line
                 WHERE d.datname = 'postgres' AND s.setrole = 0 AND line LIKE 'ondol.synchronous=%'",
            )
            .context("read the rule of synchronous commit")?;
        Ok(Self::parse(&text))
    }
}

/// Names of all physical slots, and whether somebody uses them.
pub(crate) fn slots(client: &mut Client) -> anyhow::Result<Vec<(String, bool)>> {
    let rows = client
        .query("SELECT slot_name, active FROM pg_replication_slots WHERE slot_type = 'physical' ORDER BY 1")
        .context("list the replication slots")?;
    Ok(rows
        .iter()
        .map(|row| (row.text(0).to_owned(), row.text(1) == "t"))
        .collect())
}

/// Beside the data, where the server's owner may read it.
pub(crate) fn passfile(data: &Path) -> PathBuf {
    beside(data, "ondol-pgpass")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_log_are_ordered_as_numbers() {
        let at = |text: &str| text.parse::<Lsn>();
        assert!(at("0/9000000") < at("0/10000000"));
        assert!(at("0/FFFFFFFF") < at("1/0"));
        assert_eq!(at("1A/2b").map(|it| it.to_string()), Ok("1A/2B".to_owned()));
        for bad in ["", "12", "0/x", "0/1/2"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_history_tells_who_has_diverged() {
        let text = "1\t0/5000060\tno recovery target specified\n\n2\t0/6000000\tno recovery target specified\n";
        let upstream = Answer {
            timeline: 3,
            history: parse_history(text),
            ..Answer::default()
        };
        for (timeline, lsn, continues) in [
            (3, "0/9000000", true),
            (1, "0/5000060", true),
            (1, "0/5000061", false),
            (2, "0/5000061", true),
            (2, "0/7000000", false),
            (4, "0/1", false),
        ] {
            let lsn = lsn.parse().expect("a place");
            assert_eq!(
                upstream.continues(timeline, lsn),
                continues,
                "{timeline} {lsn}"
            );
        }
    }

    #[test]
    fn a_connection_string_and_a_password_file_keep_odd_characters_apart() {
        let access = Access {
            user: "re:pl".to_owned(),
            password: Secret::new(r"a:b\c'd"),
            tls: Tls::ChannelBinding,
        };
        assert_eq!(access.passfile(), "*:*:*:re\\:pl:a\\:b\\\\c'd\n");
        let conninfo = access.conninfo("10.0.0.1", 5432, "db-01", Path::new("/x y"));
        assert_eq!(
            conninfo,
            "host='10.0.0.1' port='5432' user='re:pl' passfile='/x y' application_name='db-01' connect_timeout='5' \
             sslmode='require' channel_binding='require'"
        );
        assert!(!conninfo.contains("b\\c"));
    }

    #[test]
    fn a_rule_reads_back() {
        let rule = Durability {
            timeline: 3,
            count: 1,
            standbys: vec!["db-02".to_owned(), "db-03".to_owned()],
        };
        assert_eq!(Durability::parse(&rule.to_string()), Some(rule));
        assert_eq!(Durability::parse(""), None);
        assert_eq!(slot("db-02"), "ondol_db_02");
        assert!(check_member("name", "db_02").is_err());
    }
}
