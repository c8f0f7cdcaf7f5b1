//! `mysql_rds_replication`: an Amazon RDS instance follows this machine's server. RDS takes no statements about replication, only calls of its own
//! procedures: <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/mysql-stored-proc-replicating.html>.
//!
//! It does not make the RDS instance (`mysql_rds_instance`), load its first data (`mysql_rds_load`), or make the account of replication. The way back
//! is `mysql_replication` with RDS as its source.

pub mod api;
pub mod instance;
pub mod load;
mod procedures;

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Notices, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Client;
use crate::gtid::GtidSet;
use crate::local::{self, State};
use crate::members::{self, Follows, describe, require_gtid};
use crate::rds::load::{Mark, read_mark};
use crate::rds::procedures::{Procedure, call, procedure};
use crate::replication::wait_for;
use crate::server::{Server, Target, USER_NAME, usual_port};
use crate::sql::{check_name, literal};

/// Let an Amazon RDS instance replicate from this machine's MySQL server
///
/// Runs on the source and talks to RDS by its documented procedures, whose names depend on RDS's version. Replication is by GTID and over TLS. RDS
/// must have been loaded so far that the source still has all that is missing; else the error names what is. RDS does not check the source's
/// certificate, and it writes the call with the password into its own general log, if that is on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The RDS instance and its master user.
    server: Server,
    /// What shall be.
    #[serde(default)]
    state: Wish,
    /// Where RDS reaches this machine's server. Needed for O(state=running).
    source: Option<Source>,
    /// Seconds that RDS stays behind on purpose.
    #[serde(default)]
    #[schemars(range(max = 86400))]
    delay_s: u32,
}

/// What shall be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// RDS replicates.
    #[default]
    Running,
    /// It knows its source, and does not replicate.
    Stopped,
    /// It knows no source and is a server of its own. If this machine's server is closed to writes, RDS has all of its data then: so it takes over.
    Absent,
}

/// How RDS reaches the source.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Host name or address, as RDS sees it.
    address: String,
    /// Port.
    #[serde(default = "usual_port")]
    port: u16,
    /// Account with REPLICATION SLAVE and REPLICATION CLIENT, such as M(ondol.cloud.mysql_source) keeps.
    user: String,
    /// Its password.
    password: Secret,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    rds: Target,
    wanted: Wanted,
    delay_s: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Running(Source),
    Stopped,
    Absent,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let wanted = match (params.state, params.source) {
            (Wish::Running, None) => {
                return Err(Invalid::new("source", "is needed for state: running"));
            }
            (Wish::Running, Some(source)) => {
                check_name(&source.user, USER_NAME)
                    .map_err(|reason| Invalid::new("source.user", reason))?;
                if source.address.is_empty() {
                    return Err(Invalid::new("source.address", "must not be empty"));
                }
                Wanted::Running(source)
            }
            (Wish::Stopped, _) => Wanted::Stopped,
            (Wish::Absent, _) => Wanted::Absent,
        };
        Ok(Self {
            rds: Target::new(Some(params.server))?,
            wanted,
            delay_s: params.delay_s,
        })
    }
}

/// What RDS says of itself, and of this machine's server what matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    rds: members::Server,
    /// Of the load that RDS began with.
    mark: Option<Mark>,
    here: Here,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Here {
    /// It does not matter.
    #[default]
    NotAsked,
    Absent,
    Stopped,
    Runs(Box<members::Server>),
}

impl Current {
    /// What this machine's server has and RDS lacks, if it is closed to writes: that can become all.
    fn owed(&self) -> Option<GtidSet> {
        match &self.here {
            Here::Runs(here) if !here.writable && self.rds.follows.is_some() => {
                Some(here.executed.minus(&self.rds.executed)).filter(|it| !it.is_empty())
            }
            _ => None,
        }
    }

    fn replicates(&self) -> bool {
        let follows = self.rds.follows.as_ref();
        follows.is_some_and(|it| it.receiver.runs() && it.applier.runs())
    }
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CatchUp,
    Stop,
    Reset,
    Set(Box<Source>),
    Start,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchUp => f.write_str("wait until RDS has all of this closed server's data"),
            Self::Stop => f.write_str("stop replication on RDS"),
            Self::Reset => f.write_str("let RDS forget its source"),
            Self::Set(source) => write!(
                f,
                "name {} port {} to RDS as its source",
                source.address, source.port
            ),
            Self::Start => f.write_str("start replication on RDS"),
        }
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlRdsReplication {
    desired: Option<Desired>,
    notices: Notices,
}

impl Module for MysqlRdsReplication {
    const NAME: &'static str = "mysql_rds_replication";
    const EXAMPLES: &'static str = r#"
- name: RDS follows this server
  ondol.cloud.mysql_rds_replication:
    server:
      host: "{{ rds_endpoint }}"
      user: admin
      password: "{{ vault_rds_password }}"
      tls: identity
      ca_file: /etc/ssl/certs/rds-global-bundle.pem
    source:
      address: 192.168.10.25
      user: replicator
      password: "{{ vault_mysql_replication_password }}"
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let mut client = desired.rds.client()?;
        let rds = describe(&mut client)?;
        procedure(&mut client, Procedure::Start)?;
        let runs = matches!(desired.wanted, Wanted::Running(_));
        let mut current = Current {
            mark: if runs { read_mark(&mut client)? } else { None },
            rds,
            here: Here::NotAsked,
        };
        if runs || (desired.wanted == Wanted::Absent && current.rds.follows.is_some()) {
            current.here = match local::place()?.state()? {
                State::Absent => Here::Absent,
                State::Stopped => Here::Stopped,
                State::Running(mut client) => Here::Runs(Box::new(describe(&mut client)?)),
            };
        }
        refuse(desired, &current)?;
        if let (true, Here::Runs(here)) = (runs, &current.here) {
            let errant = current.rds.executed.minus(&here.executed);
            self.notices.warnings = warning(&errant).into_iter().collect();
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let follows = current.rds.follows.as_ref();
        let runs = follows.is_some_and(|it| it.receiver.state != "No" || it.applier.state != "No");
        let stop = runs.then_some(Step::Stop);
        match &desired.wanted {
            Wanted::Stopped => stop.into_iter().collect(),
            Wanted::Absent => {
                let wait = current.owed().map(|_| Step::CatchUp);
                let reset = follows.is_some().then_some(Step::Reset);
                wait.into_iter().chain(stop).chain(reset).collect()
            }
            Wanted::Running(source) if follows.is_some_and(|it| is_as_wanted(it, source)) => {
                let start = (!current.replicates()).then_some(Step::Start);
                start.into_iter().collect()
            }
            Wanted::Running(source) => {
                let reset = follows.is_some().then_some(Step::Reset);
                let set = [Step::Set(Box::new(source.clone())), Step::Start];
                stop.into_iter().chain(reset).chain(set).collect()
            }
        }
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.clone().expect("observe comes first");
        let mut client = desired.rds.client()?;
        // The procedures wait for the replica's threads themselves.
        client.set_patience(Duration::from_secs(120))?;
        match step {
            Step::CatchUp => {
                let here = describe(&mut local::place()?.client()?)?;
                wait_for(&mut client, &here.executed, CATCH_UP).context("wait for RDS")
            }
            Step::Stop => call(&mut client, Procedure::Stop, ""),
            Step::Reset => call(&mut client, Procedure::Reset, ""),
            Step::Set(source) => {
                let arguments = format!(
                    "{}, {}, {}, {}, 1, {}",
                    literal(&source.address),
                    source.port,
                    literal(&source.user),
                    literal(source.password.expose()),
                    desired.delay_s
                );
                call(&mut client, Procedure::Set, &arguments)
            }
            Step::Start => {
                call(&mut client, Procedure::Start, "")?;
                wait_running(&mut client)
            }
        }
    }

    fn notices(&mut self) -> Notices {
        std::mem::take(&mut self.notices)
    }
}

/// What cannot work, or would lose data.
fn refuse(desired: &Desired, current: &Current) -> anyhow::Result<()> {
    let rds = &current.rds;
    match (&desired.wanted, &current.here) {
        (Wanted::Stopped, _) => {}
        (Wanted::Absent, _) => {
            if let Some(missing) = current.owed().filter(|_| !current.replicates()) {
                bail!(
                    "RDS lacks {missing}, which this closed server has, and does not replicate: say state: running first"
                );
            }
        }
        (Wanted::Running(_), Here::Stopped) => {
            bail!("the server on this machine does not run")
        }
        (Wanted::Running(_), Here::Absent | Here::NotAsked) => {
            bail!("there is no server on this machine")
        }
        (Wanted::Running(_), Here::Runs(here)) => {
            require_gtid(here).context("the source")?;
            require_gtid(rds).context("RDS")?;
            if let Some(mark) = &current.mark {
                anyhow::ensure!(
                    mark.done,
                    "the load of RDS has not come to its end: run ondol.cloud.mysql_rds_load again"
                );
                let uncounted = mark.snapshot.minus(&rds.executed);
                anyhow::ensure!(
                    uncounted.is_empty(),
                    "RDS was loaded with {uncounted} and does not count them as executed: they would come a second time"
                );
            }
            let lost = here.purged.minus(&rds.executed);
            anyhow::ensure!(
                lost.is_empty(),
                "RDS lacks {lost}, which the source no longer has: load it first with ondol.cloud.mysql_rds_load"
            );
        }
    }
    Ok(())
}

/// A source that was named with a password that it does not take is named again.
fn is_as_wanted(follows: &Follows, source: &Source) -> bool {
    /// `ER_ACCESS_DENIED_ERROR`.
    const DENIED: u16 = 1045;
    follows.host == source.address
        && follows.port == source.port
        && follows.user == source.user
        && follows.auto_position
        && follows.receiver.error.0 != DENIED
}

fn warning(errant: &GtidSet) -> Option<String> {
    (!errant.is_empty()).then(|| {
        format!("RDS has transactions that the source has not, and that would come here if this server followed RDS: {errant}")
    })
}

/// How long RDS may take for what it lacks of a server that is closed.
const CATCH_UP: Duration = Duration::from_secs(600);
/// How long RDS may take to reach its source.
const CONNECT: Duration = Duration::from_secs(60);

fn wait_running(client: &mut Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + CONNECT;
    loop {
        let follows = describe(client)?
            .follows
            .context("RDS knows no source after all")?;
        if follows.receiver.runs() && follows.applier.runs() {
            return Ok(());
        }
        let (code, words) = match follows.receiver.error.0 {
            0 => &follows.applier.error,
            _ => &follows.receiver.error,
        };
        let passing = *code == 0 || (2000..3000).contains(code);
        anyhow::ensure!(
            passing && Instant::now() < deadline,
            "RDS does not replicate: {words} ({code})"
        );
        sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Thread;

    fn desired(state: &str) -> Desired {
        let params: Params = serde_json::from_value(serde_json::json!({
            "server": {"host": "rds", "user": "admin", "password": "hunter2", "ca_file": "/ca.pem"},
            "state": state,
            "source": {"address": "10.0.0.1", "user": "replicator", "password": "hunter3"},
        }))
        .expect("params");
        Desired::try_from(params).expect("valid")
    }

    /// RDS that follows or not, with what it executed, beside this machine's server.
    fn current(follows: Option<Follows>, executed: &str, here: Here) -> Current {
        Current {
            rds: members::Server {
                version: "8.0.45".to_owned(),
                gtid_mode: "ON".to_owned(),
                executed: set(executed),
                follows,
                ..members::Server::default()
            },
            mark: None,
            here,
        }
    }

    fn here(executed: &str, purged: &str, writable: bool) -> Here {
        Here::Runs(Box::new(members::Server {
            version: "8.0.45".to_owned(),
            gtid_mode: "ON".to_owned(),
            executed: set(executed),
            purged: set(purged),
            writable,
            ..members::Server::default()
        }))
    }

    /// Such as `1-7`, all of one server's; nothing if empty.
    fn set(numbers: &str) -> GtidSet {
        let text = match numbers {
            "" => String::new(),
            numbers => format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:{numbers}"),
        };
        text.parse().expect("a set")
    }

    fn lines(state: &str, follows: Option<Follows>) -> Vec<String> {
        let current = current(follows, "", Here::NotAsked);
        MysqlRdsReplication::plan(&desired(state), &current)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn rds_takes_over_with_all_of_a_closed_server() {
        let running = || follows("10.0.0.1", "Yes");
        for (executed, here, wanted) in [
            ("1-5", here("1-7", "", false), true),
            ("1-7", here("1-7", "", false), false),
            // Of an open server there is no "all".
            ("1-5", here("1-7", "", true), false),
            ("1-5", Here::Stopped, false),
            ("1-5", Here::Absent, false),
        ] {
            let current = current(running(), executed, here);
            refuse(&desired("absent"), &current).expect("can be done");
            let mut steps = MysqlRdsReplication::plan(&desired("absent"), &current);
            if wanted {
                assert_eq!(steps.remove(0), Step::CatchUp, "{current:?}");
            }
            assert_eq!(steps, [Step::Stop, Step::Reset], "{current:?}");
        }
    }

    #[test]
    fn what_cannot_work_or_would_lose_data_is_refused() {
        let loaded = |done: bool, snapshot: &str| {
            let mut mark = Mark::default();
            (mark.done, mark.snapshot) = (done, set(snapshot));
            Some(mark)
        };
        let open = || here("1-7", "1-3", true);
        let no_gtid = Here::Runs(Box::default());
        let stands = || follows("10.0.0.1", "No");
        for (state, mark, current, words) in [
            ("running", None, current(None, "1-3", open()), None),
            (
                "running",
                loaded(true, "1-3"),
                current(None, "1-4", open()),
                None,
            ),
            (
                "running",
                loaded(false, ""),
                current(None, "1-4", open()),
                Some("has not come to its end"),
            ),
            (
                "running",
                loaded(true, "1-5"),
                current(None, "1-4", open()),
                Some("562:5 and does not count them"),
            ),
            (
                "running",
                None,
                current(None, "1-2", open()),
                Some("562:3, which the source no longer has"),
            ),
            (
                "running",
                None,
                current(None, "", no_gtid),
                Some("the source: "),
            ),
            (
                "running",
                None,
                Current {
                    here: open(),
                    ..Current::default()
                },
                Some("RDS: "),
            ),
            (
                "running",
                None,
                current(None, "1-3", Here::Stopped),
                Some("does not run"),
            ),
            (
                "running",
                None,
                current(None, "1-3", Here::Absent),
                Some("there is no server"),
            ),
            // Whatever is missing, it can stop.
            ("stopped", None, current(stands(), "", Here::NotAsked), None),
            (
                "absent",
                None,
                current(stands(), "1-5", here("1-7", "", false)),
                Some("lacks 3e11fa47-71ca-11e1-9e33-c80aa9429562:6-7"),
            ),
            (
                "absent",
                None,
                current(stands(), "1-7", here("1-7", "", false)),
                None,
            ),
            (
                "absent",
                None,
                current(None, "1-5", here("1-7", "", false)),
                None,
            ),
            ("absent", None, current(stands(), "1-5", open()), None),
        ] {
            let current = Current { mark, ..current };
            match (refuse(&desired(state), &current), words) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => {
                    let error = format!("{error:#}");
                    assert!(error.contains(words), "{error}");
                }
                (other, _) => panic!("{state} {current:?}: {other:?}"),
            }
        }
    }

    fn follows(host: &str, state: &str) -> Option<Follows> {
        let thread = Thread {
            state: state.to_owned(),
            ..Thread::default()
        };
        Some(Follows {
            host: host.to_owned(),
            port: 3306,
            user: "replicator".to_owned(),
            auto_position: true,
            receiver: thread.clone(),
            applier: thread,
            ..Follows::default()
        })
    }

    #[test]
    fn plans() {
        let name = "name 10.0.0.1 port 3306 to RDS as its source";
        let (stop, start) = ("stop replication on RDS", "start replication on RDS");
        let forget = "let RDS forget its source";
        assert_eq!(lines("running", None), [name, start]);
        assert_eq!(lines("running", follows("10.0.0.1", "Yes")), [""; 0]);
        assert_eq!(lines("running", follows("10.0.0.1", "No")), [start]);
        assert_eq!(
            lines("running", follows("10.0.0.9", "Yes")),
            [stop, forget, name, start]
        );
        let mut denied = follows("10.0.0.1", "Connecting");
        if let Some(follows) = &mut denied {
            follows.receiver.error = (1045, "Access denied".to_owned());
        }
        assert_eq!(lines("running", denied), [stop, forget, name, start]);
        assert_eq!(lines("stopped", follows("10.0.0.1", "Yes")), [stop]);
        assert_eq!(lines("stopped", None), [""; 0]);
        assert_eq!(lines("absent", follows("10.0.0.1", "Yes")), [stop, forget]);
        assert_eq!(lines("absent", follows("10.0.0.1", "No")), [forget]);
        assert_eq!(lines("absent", None), [""; 0]);
    }

    #[test]
    fn no_password_is_printed() {
        let desired = desired("running");
        let steps = MysqlRdsReplication::plan(&desired, &Current::default());
        let printed = format!("{desired:?} {steps:?}");
        assert!(!printed.contains("hunter"), "{printed}");
    }

    #[test]
    fn a_source_is_needed_to_replicate() {
        let params: Params = serde_json::from_value(serde_json::json!({
            "server": {"host": "rds", "user": "admin", "password": "x", "ca_file": "/ca.pem"},
        }))
        .expect("params");
        let error = Desired::try_from(params).expect_err("invalid");
        assert_eq!(error.param, "source");
    }
}
