//! `mysql_replication`: this machine's server is a replica of a source. It promotes nobody and opens no server to writes.
//!
//! What it decides is in [`decide`], which is pure.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, Notices};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Client;
use crate::fence::{close, yes};
use crate::gtid::GtidSet;
use crate::local::{self, Place, State};
use crate::members::{
    Access, Follows, Replication, Seen, SemiSync, Server, ask, describe, read_role_file,
    require_gtid, role_file, semi_sync, set_semi_sync, write_role_file,
};
use crate::server::usual_port;
use crate::sql::{account, literal};

/// Make this machine's MySQL server a replica
///
/// It follows a source by GTID over TLS and takes no writes but the source's, also after a restart (C(super_read_only)). A new replica gets its data
/// with the clone plugin. A server that has transactions which the source has not (errant ones, as those of an old source that were never
/// acknowledged) is not let in: the error names them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The server to follow.
    source: Source,
    /// How members log in to each other. M(ondol.cloud.mysql_source) makes the account.
    replication: Replication,
    /// Whether commits of the source wait until a replica has them.
    #[serde(default = "yes")]
    semi_synchronous: bool,
    /// When this server's data may be replaced by a copy of the source's.
    #[serde(default)]
    copy: Copy,
}

/// A server to follow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Host name or address.
    address: String,
    /// Port.
    #[serde(default = "usual_port")]
    port: u16,
}

/// When data may be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Copy {
    /// Not at all.
    Never,
    /// On a server that has executed no transaction.
    #[default]
    New,
    /// On a server that cannot catch up either, or has errant transactions. They are lost.
    Allowed,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    source: Source,
    access: Access,
    semi_synchronous: bool,
    copy: Copy,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        // Part of clone_valid_donor_list.
        if params.source.address.is_empty() || params.source.address.contains([',', ' ', '\0']) {
            return Err(Invalid::new(
                "source.address",
                "is not a host or an address",
            ));
        }
        Ok(Self {
            source: params.source,
            access: Access::new(params.replication)?,
            semi_synchronous: params.semi_synchronous,
            copy: params.copy,
        })
    }
}

/// This server and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// There is no server here yet. In check mode an earlier task may be about to make it.
    Absent,
    Present(Box<Present>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    me: Server,
    source: Server,
    file: String,
    semi_sync: SemiSync,
    clone_loaded: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CloseAtStart { text: String },
    Close,
    SetSemiSync,
    Copy { from: String, why: String },
    Follow { source: String, why: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseAtStart { .. } => {
                f.write_str("close the server to writes whenever it starts")
            }
            Self::Close => f.write_str("close the server to writes"),
            Self::SetSemiSync => f.write_str("confirm to the source what was received"),
            Self::Copy { from, why } => write!(f, "replace the data by a copy of {from}'s: {why}"),
            Self::Follow { source, why } => write!(f, "follow {source}: {why}"),
        }
    }
}

/// How the data comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// By replication alone.
    Keep,
    Copy(String),
}

/// Whether this server may become a replica of that source with the data it has. A text names what stands against it.
fn decide(desired: &Desired, present: &Present) -> Result<Verdict, String> {
    let (me, source) = (&present.me, &present.source);
    if me.uuid == source.uuid {
        return Err(format!(
            "this server and its source are both {}: the source's address is this machine's, or auto.cnf was copied with the data",
            me.uuid
        ));
    }
    if me.server_id == source.server_id {
        return Err(format!(
            "server_id is {} on this server and on its source: each needs its own",
            me.server_id
        ));
    }
    let errant = me.executed.minus(&source.executed);
    let lost = source.purged.minus(&me.executed);
    let broken = me
        .follows
        .as_ref()
        .map(|it| &it.applier.error)
        .filter(|(code, _)| *code != 0);
    let why = if !errant.is_empty() {
        format!(
            "this server has {} errant transactions that the source has not: {errant}",
            errant.count()
        )
    } else if me.executed.is_empty() && !source.executed.is_empty() && desired.copy != Copy::Never {
        return Ok(Verdict::Copy("it has no data of its own".to_owned()));
    } else if !lost.is_empty() {
        format!("the source no longer has what this server lacks: {lost}")
    } else if let Some((code, words)) = broken {
        format!("what the source sent could not be applied: {words} ({code})")
    } else {
        return Ok(Verdict::Keep);
    };
    if desired.copy == Copy::Allowed {
        return Ok(Verdict::Copy(why));
    }
    Err(format!(
        "{why}. Look at them, and say copy: allowed to replace this server's data by a copy of the source's"
    ))
}

/// What is not as it should be in whom this server follows.
fn to_mend(desired: &Desired, follows: Option<&Follows>) -> Option<&'static str> {
    let Some(follows) = follows else {
        return Some("it follows nobody");
    };
    let (ca_file, verifies_host) = desired.access.authority();
    if follows.host != desired.source.address || follows.port != desired.source.port {
        Some("it follows another")
    } else if follows.user != desired.access.user
        || follows.ca_file != ca_file.to_string_lossy()
        || follows.verifies_host != verifies_host
        || !follows.auto_position
    {
        Some("it follows in another way")
    } else if !follows.receiver.runs() {
        Some("it does not receive")
    } else if !follows.applier.runs() {
        Some("it does not apply")
    } else {
        None
    }
}

/// The module.
#[derive(Default)]
pub struct MysqlReplication {
    desired: Option<Desired>,
    notices: Notices,
}

impl Module for MysqlReplication {
    const NAME: &'static str = "mysql_replication";
    const EXAMPLES: &'static str = r#"
- name: A replica of the first server
  ondol.cloud.mysql_replication:
    source:
      address: 192.168.10.25
    replication:
      password: "{{ vault_mysql_replication_password }}"
      ca_file: /etc/mysql/ca.pem
  become: true
"#;
    /// A server that was copied to is looked at again: its source may have gone on meanwhile.
    const ROUNDS: usize = 2;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.desired = Some(desired.clone());
        let mut client = match local::place()?.state()? {
            State::Absent => return Ok(Current::Absent),
            State::Stopped => bail!("the server on this machine does not run"),
            State::Running(client) => client,
        };
        let me = describe(&mut client)?;
        require_gtid(&me)?;
        let source = match ask(
            &desired.access,
            &desired.source.address,
            desired.source.port,
        )? {
            Seen::Answers(server) => *server,
            Seen::Refuses => bail!(
                "nothing listens at the source, {} port {}",
                desired.source.address,
                desired.source.port
            ),
            Seen::Denies(words) | Seen::Silent(words) => bail!("ask the source: {words}"),
        };
        require_gtid(&source).context("the source")?;
        let present = Present {
            semi_sync: semi_sync(&mut client)?,
            clone_loaded: has_clone(&mut client)?,
            file: read_role_file()?,
            me,
            source,
        };
        match decide(desired, &present) {
            Err(reason) => bail!("{reason}"),
            Ok(Verdict::Copy(_)) if !present.clone_loaded => bail!(
                "the plugin \"clone\" is not loaded: ondol.cloud.mysql_instance does with plugin_load_add"
            ),
            Ok(_) => {}
        }
        anyhow::ensure!(
            !desired.semi_synchronous || present.semi_sync.loaded,
            "semi-synchronous replication is not loaded: ondol.cloud.mysql_instance does with plugin_load_add: \
             semisync_source.so;semisync_replica.so"
        );
        Ok(Current::Present(Box::new(present)))
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let source = format!("{} port {}", desired.source.address, desired.source.port);
        let text = role_file(desired.semi_synchronous);
        let unknown = Present::default();
        let (present, verdict) = match current {
            // As a new server will be found.
            Current::Absent => (
                &unknown,
                Verdict::Copy("it has no data of its own".to_owned()),
            ),
            Current::Present(present) => match decide(desired, present) {
                Ok(verdict) => (&**present, verdict),
                // `observe` has refused it.
                Err(_) => return Vec::new(),
            },
        };
        let absent = *current == Current::Absent;
        let mut steps = Vec::new();
        if present.file != text {
            steps.push(Step::CloseAtStart { text });
        }
        if present.me.writable || present.semi_sync.source_enabled || absent {
            steps.push(Step::Close);
        }
        let confirm = desired.semi_synchronous && !present.semi_sync.settings;
        if confirm {
            steps.push(Step::SetSemiSync);
        }
        let mut why = to_mend(desired, present.me.follows.as_ref());
        if let Verdict::Copy(reason) = verdict {
            steps.push(Step::Copy {
                from: source.clone(),
                why: reason,
            });
            why = Some("its data is a copy");
        }
        if let Some(why) = why.or(confirm.then_some("it is to confirm what it receives")) {
            steps.push(Step::Follow {
                source,
                why: why.to_owned(),
            });
        }
        steps
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.clone().expect("observe comes first");
        let place = local::place()?;
        match step {
            Step::CloseAtStart { text } => write_role_file(text),
            Step::Close => close(&place),
            Step::SetSemiSync => set_semi_sync(&mut place.client()?),
            Step::Copy { .. } => copy(&place, &desired),
            Step::Follow { .. } => follow(&mut place.client()?, &desired),
        }
    }

    fn notices(&mut self) -> Notices {
        std::mem::take(&mut self.notices)
    }
}

fn has_clone(client: &mut Client) -> anyhow::Result<bool> {
    let found = client.value(
        "SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone' AND PLUGIN_STATUS = 'ACTIVE'",
    )?;
    Ok(found == "1")
}

/// How long a copy may take.
const COPY: Duration = Duration::from_secs(24 * 3600);
/// How long a server that restarts after one may take to come up.
const RESTART: Duration = Duration::from_secs(300);

fn copy(place: &Place, desired: &Desired) -> anyhow::Result<()> {
    let mut client = place.client()?;
    let (ca_file, _) = desired.access.authority();
    let donor = format!("{}:{}", desired.source.address, desired.source.port);
    client.run("STOP REPLICA")?;
    client.run(&format!(
        "SET GLOBAL clone_valid_donor_list = {}, GLOBAL clone_ssl_ca = {}",
        literal(&donor),
        literal(&ca_file.to_string_lossy())
    ))?;
    client.set_patience(COPY)?;
    // What is here is dropped first, which only root may now; with the copy the server starts closed again.
    client.run("SET GLOBAL read_only = ON, GLOBAL super_read_only = OFF")?;
    let sql = format!(
        "CLONE INSTANCE FROM {}:{} IDENTIFIED BY {} REQUIRE SSL",
        account(&desired.access.user, &desired.source.address),
        desired.source.port,
        literal(desired.access.password.expose())
    );
    // The server ends the connection when it restarts with the copy. A refusal is final, but for one that cannot restart itself.
    match client.run(&sql) {
        Err(error) if error.code() == Some(NOT_SUPERVISED) => place.start()?,
        Err(error) if error.code().is_some() => {
            client.run("SET GLOBAL super_read_only = ON")?;
            return Err(error.into());
        }
        _ => {}
    }
    drop(client);
    let deadline = Instant::now() + RESTART;
    loop {
        let outcome = copied(place);
        match outcome {
            Ok(Some(())) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context("wait for the server with the copy"));
            }
            Ok(None) if Instant::now() > deadline => bail!("the copy does not come to an end"),
            Ok(None) | Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}

/// `ER_RESTART_SERVER_FAILED`.
const NOT_SUPERVISED: u16 = 3707;

/// Whether the server runs on the copy.
fn copied(place: &Place) -> anyhow::Result<Option<()>> {
    let rows = place
        .client()?
        .query("SELECT STATE, ERROR_NO, ERROR_MESSAGE FROM performance_schema.clone_status")?;
    let row = rows.first().cloned().unwrap_or_default();
    match row.text(0) {
        "Completed" => Ok(Some(())),
        _ => Ok(None),
    }
}

/// How long a replica may take to reach its source.
const CONNECT: Duration = Duration::from_secs(30);

fn follow(client: &mut Client, desired: &Desired) -> anyhow::Result<()> {
    let (ca_file, verifies_host) = desired.access.authority();
    client.run("STOP REPLICA")?;
    client.run(&format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = {}, SOURCE_PORT = {}, SOURCE_USER = {}, SOURCE_PASSWORD = {}, SOURCE_AUTO_POSITION = 1,
         SOURCE_SSL = 1, SOURCE_SSL_CA = {}, SOURCE_SSL_VERIFY_SERVER_CERT = {}, SOURCE_CONNECT_RETRY = 2, SOURCE_RETRY_COUNT = 4294967295,
         SOURCE_HEARTBEAT_PERIOD = 2",
        literal(&desired.source.address),
        desired.source.port,
        literal(&desired.access.user),
        literal(desired.access.password.expose()),
        literal(&ca_file.to_string_lossy()),
        u8::from(verifies_host),
    ))?;
    client.run("START REPLICA")?;
    let deadline = Instant::now() + CONNECT;
    loop {
        let follows = describe(client)?
            .follows
            .context("the server follows nobody after all")?;
        if follows.receiver.runs() && follows.applier.runs() {
            return Ok(());
        }
        for (what, thread) in [("receive", &follows.receiver), ("apply", &follows.applier)] {
            let (code, words) = &thread.error;
            // 2003 and its like are of a connection that is tried again.
            let passing = (2000..3000).contains(code) && Instant::now() < deadline;
            anyhow::ensure!(
                *code == 0 || passing,
                "the replica does not {what}: {words} ({code})"
            );
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "the replica does not receive within {} s",
            CONNECT.as_secs()
        );
        sleep(Duration::from_millis(50));
    }
}

/// Waits until this server has applied all of the set.
pub(crate) fn wait_for(
    client: &mut Client,
    set: &GtidSet,
    patience: Duration,
) -> anyhow::Result<()> {
    if set.is_empty() {
        return Ok(());
    }
    client.set_patience(patience + Duration::from_secs(10))?;
    let late = client.value(&format!(
        "SELECT WAIT_FOR_EXECUTED_GTID_SET({}, {})",
        literal(&set.to_string()),
        patience.as_secs()
    ))?;
    anyhow::ensure!(
        late == "0",
        "not all of {set} was applied within {} s",
        patience.as_secs()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Thread;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn desired(json: serde_json::Value) -> Desired {
        let mut params = serde_json::json!({
            "source": {"address": "db-1"},
            "replication": {"password": "hunter2", "ca_file": "/ca.pem"},
        });
        for (key, value) in json.as_object().expect("a map") {
            params[key] = value.clone();
        }
        let params: Params = serde_json::from_value(params).expect("params");
        Desired::try_from(params).expect("valid")
    }

    fn set(text: &str) -> GtidSet {
        text.replace("A:", &format!("{A}:"))
            .replace("B:", &format!("{B}:"))
            .parse()
            .expect("a set")
    }

    fn follows() -> Follows {
        let runs = Thread {
            state: "Yes".to_owned(),
            ..Thread::default()
        };
        Follows {
            host: "db-1".to_owned(),
            port: 3306,
            user: "replicator".to_owned(),
            ca_file: "/ca.pem".to_owned(),
            verifies_host: false,
            auto_position: true,
            receiver: runs.clone(),
            applier: runs,
            lag_s: Some(0),
        }
    }

    /// A replica of A whose source has executed 1 to 20.
    fn replica(executed: &str) -> Present {
        let server = |uuid: &str, id: &str, executed: &str| Server {
            uuid: uuid.to_owned(),
            server_id: id.to_owned(),
            executed: set(executed),
            ..Server::default()
        };
        Present {
            me: Server {
                follows: Some(follows()),
                ..server(B, "2", executed)
            },
            source: server(A, "1", "A:1-20"),
            file: role_file(true),
            semi_sync: SemiSync {
                loaded: true,
                settings: true,
                source_enabled: false,
            },
            clone_loaded: true,
        }
    }

    fn lines(json: serde_json::Value, present: Present) -> Vec<String> {
        MysqlReplication::plan(&desired(json), &Current::Present(Box::new(present)))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn plans() {
        let none = serde_json::json!({});
        assert_eq!(lines(none.clone(), replica("A:1-18")), [""; 0]);
        let bare = Present {
            me: Server {
                writable: true,
                executed: GtidSet::default(),
                follows: None,
                ..replica("").me
            },
            file: String::new(),
            semi_sync: SemiSync::default(),
            ..replica("")
        };
        let join = [
            "close the server to writes whenever it starts",
            "close the server to writes",
            "confirm to the source what was received",
            "replace the data by a copy of db-1 port 3306's: it has no data of its own",
            "follow db-1 port 3306: its data is a copy",
        ];
        assert_eq!(lines(none.clone(), bare.clone()), join);
        let foretold: Vec<String> =
            MysqlReplication::plan(&desired(none.clone()), &Current::Absent)
                .iter()
                .map(ToString::to_string)
                .collect();
        assert_eq!(foretold, join);
        assert_eq!(
            lines(serde_json::json!({"copy": "never"}), bare),
            [
                join[0],
                join[1],
                join[2],
                "follow db-1 port 3306: it follows nobody"
            ]
        );
        // An old source that comes back.
        let mut old = replica("A:1-15");
        old.me.follows = None;
        assert_eq!(
            lines(none.clone(), old),
            ["follow db-1 port 3306: it follows nobody"]
        );
        let mut moved = replica("A:1-15");
        moved.me.follows = Some(Follows {
            host: "db-3".to_owned(),
            ..follows()
        });
        assert_eq!(
            lines(none.clone(), moved),
            ["follow db-1 port 3306: it follows another"]
        );
        let mut stopped = replica("A:1-15");
        stopped.me.follows = Some(Follows {
            receiver: Thread::default(),
            ..follows()
        });
        assert_eq!(
            lines(none, stopped),
            ["follow db-1 port 3306: it does not receive"]
        );
    }

    #[test]
    fn errant_transactions_are_named_and_block() {
        let errant = replica("A:1-15,B:1-2");
        let error = decide(&desired(serde_json::json!({})), &errant).expect_err("errant");
        assert!(
            error.starts_with(&format!(
                "this server has 2 errant transactions that the source has not: {B}:1-2. "
            )),
            "{error}"
        );
        let allowed = serde_json::json!({"copy": "allowed"});
        assert_eq!(lines(allowed, errant).len(), 2);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let decided = |present: &Present| decide(&desired(serde_json::json!({})), present);
        let mut purged = replica("A:1-15");
        purged.source.purged = set("A:1-17");
        let mut twin = replica("A:1-15");
        twin.me.uuid = A.to_owned();
        let mut numbered = replica("A:1-15");
        numbered.me.server_id = "1".to_owned();
        let mut broken = replica("A:1-15");
        broken.me.follows = Some(Follows {
            applier: Thread {
                state: "No".to_owned(),
                error: (1062, "Duplicate entry".to_owned()),
            },
            ..follows()
        });
        for (present, words) in [
            (
                purged,
                format!("no longer has what this server lacks: {A}:16-17"),
            ),
            (twin, "are both".to_owned()),
            (numbered, "each needs its own".to_owned()),
            (broken, "Duplicate entry (1062)".to_owned()),
        ] {
            let error = decided(&present).expect_err(&words);
            assert!(error.contains(&words), "{error}");
        }
    }

    #[test]
    fn the_password_is_in_nothing_that_is_printed() {
        let printed = format!("{:?}", desired(serde_json::json!({})));
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
