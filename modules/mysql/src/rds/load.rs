//! `mysql_rds_load`: an Amazon RDS instance gets the data of this machine's server, as a snapshot from which replication can go on.
//!
//! What goes over is what `mysqldump` says and `mysql` repeats; nothing is written to a disk on the way. It does not make RDS follow:
//! `mysql_rds_replication` does. Accounts are not copied.

mod io;
mod script;

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::io::read_mark;
use self::io::{clear, count, databases, load, other_engines};
use super::procedures::{Procedure, procedure};
use crate::gtid::GtidSet;
use crate::local::{self, State};
use crate::members::{describe, require_gtid};
use crate::server::{NAME, Server, Target};
use crate::sql::check_name;

/// Load an Amazon RDS instance with this machine's databases
///
/// Runs on the server that takes writes and streams a consistent snapshot of it into RDS, with the transactions that the snapshot holds, so that
/// M(ondol.cloud.mysql_rds_replication) can go on from there. A load that was cut off is removed from RDS and begun anew by the next run. The
/// transactions that the load makes on RDS are counted as executed here too (and so on all replicas): that keeps the way back open, in which this
/// server follows RDS. Accounts are not copied; views, triggers, routines
/// and events become the master user's. All tables must be InnoDB's. For a moment at the beginning the server takes no writes (FLUSH TABLES WITH READ LOCK).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The RDS instance and its master user.
    server: Server,
    /// Which databases, with their triggers, routines and events.
    #[schemars(length(min = 1))]
    databases: Vec<String>,
    /// Says that databases of these names, which RDS has from elsewhere, may go.
    #[serde(default)]
    replace: bool,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    rds: Target,
    databases: BTreeSet<String>,
    replace: bool,
}

/// Where RDS keeps how its load went.
const MARK: &str = "ondol_load";
const NOT_OURS: [&str; 5] = [
    "information_schema",
    "mysql",
    "performance_schema",
    "sys",
    MARK,
];

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        for (index, name) in params.databases.iter().enumerate() {
            let at = format!("databases[{index}]");
            if let Err(reason) = check_name(name, NAME) {
                return Err(Invalid::new(at, reason));
            }
            if NOT_OURS.iter().any(|it| it.eq_ignore_ascii_case(name)) {
                return Err(Invalid::new(at, "belongs to the server"));
            }
            // It would be taken for an option.
            if name.starts_with('-') {
                return Err(Invalid::new(at, "must not begin with a hyphen"));
            }
        }
        Ok(Self {
            rds: Target::new(Some(params.server))?,
            databases: params.databases.into_iter().collect(),
            replace: params.replace,
        })
    }
}

/// Both servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// There is no server here yet. In check mode an earlier task may be about to make it.
    Absent,
    Present(Box<Present>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// What this server has executed.
    executed: GtidSet,
    mark: Option<Mark>,
    /// Of the wanted databases, those that RDS has.
    there: BTreeSet<String>,
}

/// What RDS keeps of its load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// It came to its end.
    pub done: bool,
    databases: BTreeSet<String>,
    /// The transactions that are in the data.
    pub snapshot: GtidSet,
    /// RDS's own until then: of the load, and of its beginnings.
    own: GtidSet,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Clear {
        databases: BTreeSet<String>,
        why: &'static str,
    },
    Load {
        databases: BTreeSet<String>,
    },
    Count,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear { databases, why } => {
                write!(f, "drop {} on RDS: {why}", list(databases))
            }
            Self::Load { databases } => {
                write!(f, "load {} into RDS as a snapshot", list(databases))
            }
            Self::Count => f.write_str(
                "count the load's own transactions as executed here, so that this server can follow RDS",
            ),
        }
    }
}

fn list(databases: &BTreeSet<String>) -> String {
    let quoted: Vec<String> = databases.iter().map(|it| format!("{it:?}")).collect();
    quoted.join(", ")
}

/// The module.
#[derive(Default)]
pub struct MysqlRdsLoad {
    desired: Option<Desired>,
}

impl Module for MysqlRdsLoad {
    const NAME: &'static str = "mysql_rds_load";
    const EXAMPLES: &'static str = r#"
- name: RDS has the application's data
  ondol.cloud.mysql_rds_load:
    server:
      host: "{{ rds_endpoint }}"
      user: admin
      password: "{{ vault_rds_password }}"
      tls: identity
      ca_file: /etc/ssl/certs/rds-global-bundle.pem
    databases: [app]
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let mut here = match local::place()?.state()? {
            State::Absent => return Ok(Current::Absent),
            State::Stopped => bail!("the server on this machine does not run"),
            State::Running(client) => client,
        };
        let mut there = desired.rds.client()?;
        let rds = describe(&mut there)?;
        require_gtid(&rds).context("RDS")?;
        procedure(&mut there, Procedure::Count)?;
        let mark = read_mark(&mut there)?;
        let source = describe(&mut here)?;
        require_gtid(&source).context("the source")?;
        let present = Present {
            executed: source.executed,
            there: &databases(&mut there)? & &desired.databases,
            mark,
        };
        refuse(desired, &present)?;
        if Self::plan(desired, &Current::Present(Box::new(present.clone()))).is_empty() {
            return Ok(Current::Present(Box::new(present)));
        }
        anyhow::ensure!(
            source.writable,
            "this server takes no writes: run this on the one that does"
        );
        if let Some(follows) = rds.follows.filter(|_| !present.is_loaded()) {
            bail!("RDS follows {} already", follows.host);
        }
        let missing = &desired.databases - &databases(&mut here)?;
        if !missing.is_empty() {
            return Err(Invalid::new(
                "databases",
                format!("this server has no {}", list(&missing)),
            )
            .into());
        }
        let other = other_engines(&mut here, &desired.databases)?;
        anyhow::ensure!(
            other.is_empty(),
            "these tables are not InnoDB's, so that no snapshot of them is consistent: {}",
            other.join(", ")
        );
        Ok(Current::Present(Box::new(present)))
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let unknown = Present::default();
        let present = match current {
            Current::Absent => &unknown,
            Current::Present(present) => present,
        };
        let load = [
            Step::Load {
                databases: desired.databases.clone(),
            },
            Step::Count,
        ];
        let clear = |databases: &BTreeSet<String>, why| {
            let databases = databases.clone();
            (!databases.is_empty()).then_some(Step::Clear { databases, why })
        };
        match &present.mark {
            Some(mark) if mark.done => (!mark.own.is_subset(&present.executed))
                .then_some(Step::Count)
                .into_iter()
                .collect(),
            Some(mark) => clear(&mark.databases, "a load of them did not come to its end")
                .into_iter()
                .chain(load)
                .collect(),
            None => clear(&present.there, "replace: true")
                .into_iter()
                .chain(load)
                .collect(),
        }
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.clone().expect("observe comes first");
        match step {
            Step::Clear { databases, .. } => clear(&desired.rds, databases),
            Step::Load { databases } => load(&local::place()?, &desired.rds, databases),
            Step::Count => count(&mut local::place()?.client()?, &mut desired.rds.client()?),
        }
    }
}

impl Present {
    fn is_loaded(&self) -> bool {
        self.mark.as_ref().is_some_and(|it| it.done)
    }
}

fn refuse(desired: &Desired, present: &Present) -> Result<(), Invalid> {
    match &present.mark {
        None if !present.there.is_empty() && !desired.replace => Err(Invalid::new(
            "replace",
            format!(
                "RDS has {} already: say replace: true if they may go",
                list(&present.there)
            ),
        )),
        Some(mark) if mark.done && !desired.databases.is_subset(&mark.databases) => {
            Err(Invalid::new(
                "databases",
                format!(
                    "RDS was loaded with {} only. To load it anew, end its replication and drop these and {MARK} there",
                    list(&mark.databases)
                ),
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn params(databases: &[&str]) -> Params {
        serde_json::from_value(serde_json::json!({
            "server": {"host": "rds", "user": "admin", "password": "hunter2", "ca_file": "/ca.pem"},
            "databases": databases,
        }))
        .expect("params")
    }

    fn desired(databases: &[&str]) -> Desired {
        Desired::try_from(params(databases)).expect("valid")
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    fn set(text: &str) -> GtidSet {
        let text = text
            .replace("A:", &format!("{A}:"))
            .replace("B:", &format!("{B}:"));
        text.parse().expect("a set")
    }

    fn mark(done: bool) -> Mark {
        Mark {
            done,
            databases: names(&["app"]),
            snapshot: set("A:1-9"),
            own: set("B:1-4"),
        }
    }

    fn lines(current: &Current) -> Vec<String> {
        MysqlRdsLoad::plan(&desired(&["app"]), current)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn present(executed: &str, mark: Option<Mark>, there: &[&str]) -> Current {
        Current::Present(Box::new(Present {
            executed: set(executed),
            mark,
            there: names(there),
        }))
    }

    #[test]
    fn plans() {
        let load = "load \"app\" into RDS as a snapshot";
        let count = "count the load's own transactions as executed here, so that this server can follow RDS";
        assert_eq!(lines(&Current::Absent), [load, count]);
        assert_eq!(lines(&present("A:1-9", None, &[])), [load, count]);
        assert_eq!(
            lines(&present("A:1-9", None, &["app"])),
            ["drop \"app\" on RDS: replace: true", load, count]
        );
        assert_eq!(
            lines(&present("A:1-9", Some(mark(false)), &["app"])),
            [
                "drop \"app\" on RDS: a load of them did not come to its end",
                load,
                count
            ]
        );
        // Killed after the load, and before its transactions were counted here.
        assert_eq!(
            lines(&present("A:1-9", Some(mark(true)), &["app"])),
            [count]
        );
        assert_eq!(
            lines(&present("A:1-12,B:1-4", Some(mark(true)), &["app"])),
            [""; 0]
        );
    }

    #[test]
    fn data_that_is_not_of_a_load_is_kept() {
        let with = |mark, there: &[&str]| Present {
            mark,
            there: names(there),
            ..Present::default()
        };
        let app = desired(&["app"]);
        let error = refuse(&app, &with(None, &["app"])).expect_err("refused");
        assert_eq!(error.param, "replace");
        refuse(&app, &with(Some(mark(false)), &["app"])).expect("a load's own rest");
        refuse(&app, &with(Some(mark(true)), &["app"])).expect("loaded");
        let two = desired(&["app", "shop"]);
        let error = refuse(&two, &with(Some(mark(true)), &["app"])).expect_err("refused");
        assert_eq!(error.param, "databases");
    }

    #[test]
    fn names_that_cannot_be_meant_are_refused() {
        for name in ["", "MySQL", "ondol_load", "--all-databases"] {
            let error = Desired::try_from(params(&["app", name])).expect_err(name);
            assert_eq!(error.param, "databases[1]");
        }
    }
}
