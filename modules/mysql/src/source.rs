//! `mysql_source`: who of a replicated set takes writes. The one module that opens a server, and the only one that promotes.
//!
//! What it decides is in [`decide`], which is pure. It does not fence anybody: `mysql_fence` does, or a power switch.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ondol_database::member::{ask_all, check_set};
use ondol_kit::{Invalid, Module, Notices, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::client::Client;
use crate::fence::yes;
use crate::gtid::GtidSet;
use crate::local::{self, State};
use crate::members::{
    Access, Member, Replication, Seen, SemiSync, Server, ask, describe, read_role_file,
    require_gtid, role_file, semi_sync, set_semi_sync, set_source, write_role_file,
};
use crate::replication::wait_for;
use crate::server::{Statement, run};
use crate::sha2;
use crate::sql::{account, hexadecimal, literal, unhex};

/// Make this machine's MySQL server the one that takes writes
///
/// Of a set of members there is never more than one that is open to writes, and none opens by itself when it starts. A server is opened only if every
/// other member either answers and is closed, or is named under O(fenced) with how it was fenced; only if no other has transactions that this one
/// lacks; and, when the old source does not answer, only if every acknowledged commit is here: because commits waited for a replica. On the source the
/// account of replication is kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Which of the members this machine is.
    name: String,
    /// All members, this one too.
    #[schemars(length(min = 1))]
    members: Vec<Member>,
    /// How the members log in to each other. The account is made and kept on the source.
    replication: Replication,
    /// Whether a commit waits until a replica has it, however long that takes. It does from the run on that finds a replica connected; from a promotion
    /// up to then it does not, and a warning says so.
    #[serde(default = "yes")]
    semi_synchronous: bool,
    /// Members that do not answer, by name, with how they were kept from writing. Before such a member may be promoted it must have been a replica again.
    #[serde(default)]
    fenced: BTreeMap<String, How>,
    /// Says that commits which were acknowledged may be lost in a promotion.
    #[serde(default)]
    accept_data_loss: bool,
}

/// How a member was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// M(ondol.cloud.mysql_fence) closed it.
    Closed,
    /// Its machine is without power, or its server is stopped. It is a member of the set, so it is closed when it starts.
    PoweredOff,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired {
    others: Vec<Member>,
    access: Access,
    /// What is stored of the account's password: chance has no place in `plan`.
    stored: Secret,
    semi_synchronous: bool,
    fenced: BTreeMap<String, How>,
    accept_data_loss: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        for (index, member) in params.members.iter().enumerate() {
            if member.name.is_empty() {
                return Err(Invalid::new(
                    format!("members[{index}].name"),
                    "must not be empty",
                ));
            }
        }
        let members = params.members.iter().map(|it| it.name.as_str());
        check_set(
            &params.name,
            members,
            params.fenced.keys().map(String::as_str),
        )?;
        let access = Access::new(params.replication)?;
        Ok(Self {
            others: (params.members.into_iter())
                .filter(|member| member.name != params.name)
                .collect(),
            stored: Secret::new(hexadecimal(&sha2::verifier(access.password.expose()))),
            access,
            semi_synchronous: params.semi_synchronous,
            fenced: params.fenced,
            accept_data_loss: params.accept_data_loss,
        })
    }
}

/// This server and what it sees of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// There is no server here yet. In check mode an earlier task may be about to make it.
    Absent,
    Present(Box<Present>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    me: Server,
    file: String,
    semi_sync: SemiSync,
    account: Account,
    /// By name, in the order of `Desired::others`.
    others: Vec<(String, Seen)>,
}

/// The account of replication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    exists: bool,
    password_fits: bool,
    requires_tls: bool,
    privileges: bool,
    /// The mark in the data that says how the source that wrote it committed. It goes to the replicas like everything else, so that each
    /// knows up to which point the rule held.
    semi_synchronous: bool,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CloseAtStart {
        text: String,
    },
    SetSemiSync,
    Promote {
        /// What must be applied first.
        wait_for: GtidSet,
        why: String,
    },
    Open {
        why: String,
        /// Commits wait for a replica from the first one on.
        semi_synchronous: bool,
        /// The mark in the data must be taken back before anybody else writes.
        unmark: bool,
    },
    Sql(Statement),
    CommitSemiSynchronously,
    CommitAlone,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseAtStart { .. } => {
                f.write_str("close the server to writes whenever it starts")
            }
            Self::SetSemiSync => f.write_str("prepare semi-synchronous replication"),
            Self::Promote { why, .. } => write!(f, "promote this replica: {why}"),
            Self::Open { why, .. } => write!(f, "open the server to writes: {why}"),
            Self::Sql(statement) => statement.fmt(f),
            Self::CommitSemiSynchronously => {
                f.write_str("let commits wait until a replica has them")
            }
            Self::CommitAlone => f.write_str("let commits no longer wait for a replica"),
        }
    }
}

/// What becomes of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It is open already.
    Stay,
    Open(String),
    Promote {
        wait_for: GtidSet,
        why: String,
    },
}

/// Whether this server may be the one that takes writes. A text names what stands against it.
fn decide(desired: &Desired, present: &Present) -> Result<Verdict, String> {
    let me = &present.me;
    for (name, seen) in &present.others {
        if let Seen::Answers(other) = seen
            && other.writable
        {
            return Err(if me.writable {
                format!(
                    "both this server and {name} take writes: fence one with ondol.cloud.mysql_fence, at once"
                )
            } else {
                format!("{name} takes writes: fence it first with ondol.cloud.mysql_fence")
            });
        }
    }
    if me.writable && me.follows.is_none() {
        return Ok(Verdict::Stay);
    }
    let mut wait_for = GtidSet::default();
    let mut silent = Vec::new();
    for (name, seen) in &present.others {
        let words = match seen {
            Seen::Answers(other) => {
                let here = me.executed.plus(&me.received);
                let missing = other.executed.minus(&here);
                // From a source that still feeds this one, the rest is on its way.
                let feeds = me.follows.as_ref().is_some_and(|it| {
                    it.receiver.runs() && is_at(desired, name, &it.host, it.port)
                });
                if !missing.is_empty() && !feeds && !desired.accept_data_loss {
                    return Err(format!(
                        "{name} has transactions that this server lacks: {missing}. Promote {name}, or say accept_data_loss: true"
                    ));
                }
                if missing.is_empty() || feeds {
                    wait_for = wait_for.plus(&other.executed);
                }
                continue;
            }
            Seen::Denies(words) => {
                return Err(format!(
                    "{name} answers and lets nobody in, so it may take writes: {words}"
                ));
            }
            Seen::Refuses => "nothing listens there",
            Seen::Silent(words) => words,
        };
        if !desired.fenced.contains_key(name) {
            return Err(format!(
                "{name} cannot be asked, so it may take writes ({words}): fence it, and name it under `fenced`"
            ));
        }
        silent.push(name.as_str());
    }
    let Some(follows) = &me.follows else {
        return Ok(Verdict::Open(why(&silent)));
    };
    // What was received is applied in any case.
    wait_for = wait_for.plus(&me.received);
    let source_is_silent = silent
        .iter()
        .any(|name| is_at(desired, name, &follows.host, follows.port));
    if source_is_silent && !desired.accept_data_loss {
        if !present.account.semi_synchronous {
            return Err(format!(
                "{} does not answer, and its commits did not wait for a replica: some that were acknowledged may be on it alone. \
                 Bring it back, or say accept_data_loss: true",
                silent.join(", ")
            ));
        }
        // One replica's word was enough for a commit: it may have been another's.
        if silent.len() > 1 {
            return Err(format!(
                "{} do not answer: a commit may be on these alone. Bring one back, or say accept_data_loss: true",
                silent.join(" and ")
            ));
        }
    }
    Ok(Verdict::Promote {
        wait_for,
        why: why(&silent),
    })
}

fn why(silent: &[&str]) -> String {
    if silent.is_empty() {
        "every other member is closed".to_owned()
    } else {
        format!("fenced: {}", silent.join(", "))
    }
}

/// Whether a member is the one at that address.
fn is_at(desired: &Desired, name: &str, host: &str, port: u16) -> bool {
    (desired.others.iter()).any(|it| it.name == name && it.address == host && it.port == port)
}

/// Members that receive now. From whom is not asked: if it is not from here, the first commit that is to wait for them says so.
fn followers(me: &Server, others: &[(String, Seen)]) -> usize {
    let follows = |seen: &Seen| match seen {
        Seen::Answers(other) => other.follows.as_ref().is_some_and(|it| it.receiver.runs()),
        _ => false,
    };
    if me.follows.is_some() {
        return 0;
    }
    others.iter().filter(|(_, seen)| follows(seen)).count()
}

const PRIVILEGES: [&str; 3] = ["BACKUP_ADMIN", "REPLICATION CLIENT", "REPLICATION SLAVE"];

/// The account as it shall be.
fn account_statements(desired: &Desired, account: &Account) -> Vec<Statement> {
    let who = who(desired);
    let mut statements = Vec::new();
    if !account.password_fits || !account.requires_tls {
        let act = if account.exists { "alter" } else { "create" };
        let sql = format!(
            "{} USER {who} IDENTIFIED WITH caching_sha2_password AS {} REQUIRE SSL",
            act.to_uppercase(),
            desired.stored.expose()
        );
        statements.push(Statement::new(format!("{act} user {who} for replication"), sql).secret());
    }
    if !account.privileges {
        let list = PRIVILEGES.join(", ");
        statements.push(Statement::new(
            format!("grant {list} to {who}"),
            format!("GRANT {list} ON *.* TO {who}"),
        ));
    }
    statements
}

fn who(desired: &Desired) -> String {
    account(&desired.access.user, "%")
}

/// The module.
#[derive(Default)]
pub struct MysqlSource {
    desired: Option<Desired>,
    warning: Option<String>,
}

impl Module for MysqlSource {
    const NAME: &'static str = "mysql_source";
    const EXAMPLES: &'static str = r#"
- name: The first server takes writes
  ondol.cloud.mysql_source:
    name: mysql-db-01
    members:
      - {name: mysql-db-01, address: 192.168.10.25}
      - {name: mysql-db-02, address: 192.168.10.26}
    replication:
      password: "{{ vault_mysql_replication_password }}"
      ca_file: /etc/mysql/ca.pem
  become: true

- name: The second one takes over from a machine that was powered off
  ondol.cloud.mysql_source:
    name: mysql-db-02
    members:
      - {name: mysql-db-01, address: 192.168.10.25}
      - {name: mysql-db-02, address: 192.168.10.26}
    replication:
      password: "{{ vault_mysql_replication_password }}"
      ca_file: /etc/mysql/ca.pem
    fenced:
      mysql-db-01: powered_off
  become: true
"#;

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
        let seen = ask_all(&desired.others, |it| {
            ask(&desired.access, &it.address, it.port)
        })?;
        let names = desired.others.iter().map(|it| it.name.clone());
        let others = names.zip(seen).collect();
        let me = describe(&mut client)?;
        require_gtid(&me)?;
        let present = Present {
            me,
            file: read_role_file()?,
            semi_sync: semi_sync(&mut client)?,
            account: look_up(&mut client, desired).context("look up the account of replication")?,
            others,
        };
        if let Err(reason) = decide(desired, &present) {
            bail!("{reason}");
        }
        anyhow::ensure!(
            !desired.semi_synchronous || present.semi_sync.loaded,
            "semi-synchronous replication is not loaded: ondol.cloud.mysql_instance does with plugin_load_add: \
             semisync_source.so;semisync_replica.so"
        );
        let alone = followers(&present.me, &present.others) == 0;
        self.warning = (desired.semi_synchronous && alone && !desired.others.is_empty()).then(|| {
            "no replica is connected, so commits are on this server alone: run this again when one is".to_owned()
        });
        Ok(Current::Present(Box::new(present)))
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        let fresh = Present::default();
        let (present, verdict) = match current {
            Current::Absent => (&fresh, Verdict::Stay),
            Current::Present(present) => match decide(desired, present) {
                Ok(verdict) => (&**present, verdict),
                // `observe` has refused it.
                Err(_) => return Vec::new(),
            },
        };
        let mut steps = Vec::new();
        let text = role_file(desired.semi_synchronous);
        if present.file != text {
            steps.push(Step::CloseAtStart { text });
        }
        if desired.semi_synchronous && !present.semi_sync.settings {
            steps.push(Step::SetSemiSync);
        }
        let waits = desired.semi_synchronous && followers(&present.me, &present.others) > 0;
        let stays = verdict == Verdict::Stay;
        let open = |why: String| Step::Open {
            why,
            semi_synchronous: waits && present.account.semi_synchronous,
            unmark: present.account.semi_synchronous && !waits,
        };
        match verdict {
            Verdict::Stay => {}
            Verdict::Open(why) => steps.push(open(why)),
            Verdict::Promote { wait_for, why } => {
                steps.push(Step::Promote {
                    wait_for,
                    why: why.clone(),
                });
                steps.push(open(why));
            }
        }
        let statements = account_statements(desired, &present.account);
        steps.extend(statements.into_iter().map(Step::Sql));
        let marked = present.account.semi_synchronous && (stays || waits);
        let enabled = if stays {
            present.semi_sync.source_enabled
        } else {
            waits && present.account.semi_synchronous
        };
        if waits && !(marked && enabled) {
            steps.push(Step::CommitSemiSynchronously);
        } else if !desired.semi_synchronous && stays && (marked || enabled) {
            steps.push(Step::CommitAlone);
        }
        steps
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let desired = self.desired.clone().expect("observe comes first");
        if let Step::CloseAtStart { text } = step {
            return write_role_file(text);
        }
        let mut client = local::place()?.client()?;
        match step {
            Step::CloseAtStart { .. } => Ok(()),
            Step::SetSemiSync => set_semi_sync(&mut client),
            Step::Promote { wait_for, .. } => promote(&mut client, wait_for),
            Step::Open {
                semi_synchronous,
                unmark,
                ..
            } => {
                // Root may write from here on, and nobody else: what must be first in the log is.
                client.run("SET GLOBAL read_only = ON, GLOBAL super_read_only = OFF")?;
                if semi_loaded(&mut client)? {
                    set_source(&mut client, *semi_synchronous)?;
                }
                if *unmark {
                    mark(&mut client, &desired, false)?;
                }
                client.run("SET GLOBAL read_only = OFF")?;
                Ok(())
            }
            Step::Sql(statement) => run(statement, &mut client),
            Step::CommitSemiSynchronously => {
                set_source(&mut client, true)?;
                // Acknowledged by a replica itself, and behind all that came before it.
                mark(&mut client, &desired, true)
            }
            Step::CommitAlone => {
                mark(&mut client, &desired, false)?;
                set_source(&mut client, false)
            }
        }
    }

    fn notices(&mut self) -> Notices {
        Notices {
            warnings: self.warning.take().into_iter().collect(),
            ..Notices::default()
        }
    }
}

fn look_up(client: &mut Client, desired: &Desired) -> anyhow::Result<Account> {
    let user = literal(&desired.access.user);
    let rows = client.query(&format!(
        "SELECT plugin, HEX(authentication_string), ssl_type, User_attributes->>'$.metadata.ondol_commits'
         FROM mysql.user WHERE User = {user} AND Host = '%'"
    ))?;
    let Some(row) = rows.first() else {
        return Ok(Account::default());
    };
    let grantee = literal(&format!("'{}'@'%'", desired.access.user));
    let granted = client.query(&format!(
        "SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = {grantee}"
    ))?;
    let stored = unhex(row.text(1)).unwrap_or_default();
    Ok(Account {
        exists: true,
        password_fits: row.text(0) == "caching_sha2_password"
            && sha2::matches(&stored, desired.access.password.expose()),
        requires_tls: !row.text(2).is_empty(),
        privileges: PRIVILEGES
            .iter()
            .all(|it| granted.iter().any(|row| row.text(0) == *it)),
        semi_synchronous: row.text(3) == "semi_synchronous",
    })
}

/// How long what was received may take to be applied.
const APPLY: Duration = Duration::from_secs(300);
/// How long the rest of a source that is closed may take to arrive.
const ARRIVE: Duration = Duration::from_secs(30);

/// What is received is applied before the relay log is thrown away, and nothing more is received after that.
fn promote(client: &mut Client, set: &GtidSet) -> anyhow::Result<()> {
    let before = describe(client)?;
    let on_its_way = set.minus(&before.executed.plus(&before.received));
    let patience = if on_its_way.is_empty() { APPLY } else { ARRIVE };
    wait_for(client, set, patience)?;
    client.run("STOP REPLICA IO_THREAD")?;
    let received = describe(client)?.received;
    wait_for(client, &received, APPLY)?;
    client.run("STOP REPLICA")?;
    Ok(client.run("RESET REPLICA ALL")?)
}

fn semi_loaded(client: &mut Client) -> anyhow::Result<bool> {
    Ok(semi_sync(client)?.loaded)
}

fn mark(client: &mut Client, desired: &Desired, semi_synchronous: bool) -> anyhow::Result<()> {
    let word = if semi_synchronous {
        "semi_synchronous"
    } else {
        "alone"
    };
    client
        .run(&format!(
            "ALTER USER {} ATTRIBUTE '{{\"ondol_commits\": \"{word}\"}}'",
            who(desired)
        ))
        .context("note in the data how commits are made")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Follows, Thread};

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn desired(json: serde_json::Value) -> Desired {
        let mut params = serde_json::json!({
            "name": "b",
            "members": [
                {"name": "a", "address": "10.0.0.1"},
                {"name": "b", "address": "10.0.0.2"},
                {"name": "c", "address": "10.0.0.3"},
            ],
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

    fn runs() -> Thread {
        Thread {
            state: "Yes".to_owned(),
            ..Thread::default()
        }
    }

    fn follows(host: &str) -> Option<Follows> {
        Some(Follows {
            host: host.to_owned(),
            port: 3306,
            receiver: runs(),
            applier: runs(),
            ..Follows::default()
        })
    }

    fn other(executed: &str, writable: bool, of: Option<&str>) -> Seen {
        Seen::Answers(Box::new(Server {
            executed: set(executed),
            writable,
            follows: of.and_then(follows),
            ..Server::default()
        }))
    }

    fn account_there(semi_synchronous: bool) -> Account {
        Account {
            exists: true,
            password_fits: true,
            requires_tls: true,
            privileges: true,
            semi_synchronous,
        }
    }

    /// `b` as a replica of `a`.
    fn replica(a: Seen, c: Seen) -> Present {
        Present {
            me: Server {
                executed: set("A:1-18"),
                received: set("A:5-20"),
                follows: follows("10.0.0.1"),
                ..Server::default()
            },
            file: role_file(true),
            semi_sync: SemiSync {
                loaded: true,
                settings: true,
                source_enabled: false,
            },
            account: account_there(true),
            others: vec![("a".to_owned(), a), ("c".to_owned(), c)],
        }
    }

    fn silent() -> Seen {
        Seen::Silent("no answer in time".to_owned())
    }

    fn lines(json: serde_json::Value, present: Present) -> Vec<String> {
        MysqlSource::plan(&desired(json), &Current::Present(Box::new(present)))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_new_server_becomes_the_source_of_members_that_are_not_there_yet() {
        let bare = Present {
            me: Server {
                writable: true,
                ..Server::default()
            },
            semi_sync: SemiSync {
                loaded: true,
                ..SemiSync::default()
            },
            others: vec![
                ("a".to_owned(), Seen::Refuses),
                ("c".to_owned(), Seen::Denies("Access denied".to_owned())),
            ],
            ..Present::default()
        };
        let wanted = [
            "close the server to writes whenever it starts",
            "prepare semi-synchronous replication",
            "create user 'replicator'@'%' for replication",
            "grant BACKUP_ADMIN, REPLICATION CLIENT, REPLICATION SLAVE to 'replicator'@'%'",
        ];
        assert_eq!(lines(serde_json::json!({}), bare), wanted);
        let foretold: Vec<String> =
            MysqlSource::plan(&desired(serde_json::json!({})), &Current::Absent)
                .iter()
                .map(ToString::to_string)
                .collect();
        assert_eq!(foretold, wanted);
    }

    #[test]
    fn commits_wait_from_the_moment_a_replica_is_there() {
        let mut source = replica(
            other("A:1-20", false, Some("10.0.0.2")),
            other("A:1-20", false, Some("10.0.0.2")),
        );
        source.me = Server {
            writable: true,
            executed: set("A:1-20,B:1"),
            ..Server::default()
        };
        source.account.semi_synchronous = false;
        assert_eq!(
            lines(serde_json::json!({}), source.clone()),
            ["let commits wait until a replica has them"]
        );
        source.account.semi_synchronous = true;
        source.semi_sync.source_enabled = true;
        assert_eq!(lines(serde_json::json!({}), source.clone()), [""; 0]);
        let mut alone = source;
        alone.file = role_file(false);
        assert_eq!(
            lines(serde_json::json!({"semi_synchronous": false}), alone),
            ["let commits no longer wait for a replica"]
        );
    }

    #[test]
    fn promotions_and_what_stands_against_them() {
        let none = serde_json::json!({});
        let fenced = serde_json::json!({"fenced": {"a": "powered_off"}});
        let loss = serde_json::json!({"fenced": {"a": "powered_off"}, "accept_data_loss": true});
        let closed = |text: &str| other(text, false, None);
        let c = || other("A:1-19", false, Some("10.0.0.1"));
        let mut alone = replica(silent(), c());
        alone.account.semi_synchronous = false;
        let mut open = replica(closed("A:1-20"), c());
        open.me.writable = true;
        open.me.follows = None;
        open.me.received = GtidSet::default();
        let mut open_too = open.clone();
        open_too.others[0].1 = other("A:1-20", true, None);
        let mut restarted = open.clone();
        restarted.me.writable = false;
        let behind = restarted.clone();
        restarted.me.executed = set("A:1-20");
        let mut cut = replica(closed("A:1-25"), c());
        if let Some(follows) = &mut cut.me.follows {
            follows.receiver = Thread::default();
        }
        let promote = |text: &str, why: &str| {
            Ok(Verdict::Promote {
                wait_for: set(text),
                why: why.to_owned(),
            })
        };
        let cases: Vec<(&serde_json::Value, Present, Result<Verdict, &str>)> = vec![
            (&none, open, Ok(Verdict::Stay)),
            (&none, open_too, Err("both this server and a take writes")),
            (
                &none,
                restarted,
                Ok(Verdict::Open("every other member is closed".to_owned())),
            ),
            (
                &none,
                behind,
                Err("a has transactions that this server lacks"),
            ),
            // A switchover: what the old source has is on its way.
            (
                &none,
                replica(closed("A:1-25"), c()),
                promote("A:1-25", "every other member is closed"),
            ),
            (&none, cut, Err("a has transactions that this server lacks")),
            (
                &none,
                replica(other("A:1-20", true, None), c()),
                Err("a takes writes: fence it first"),
            ),
            // A failover.
            (&none, replica(silent(), c()), Err("a cannot be asked")),
            (&none, replica(Seen::Refuses, c()), Err("a cannot be asked")),
            (
                &fenced,
                replica(silent(), c()),
                promote("A:1-20", "fenced: a"),
            ),
            (
                &fenced,
                replica(Seen::Denies("Access denied".to_owned()), c()),
                Err("a answers and lets nobody in"),
            ),
            (
                &fenced,
                replica(other("A:1-20", true, None), c()),
                Err("a takes writes"),
            ),
            (&fenced, alone.clone(), Err("did not wait for a replica")),
            (&loss, alone, promote("A:1-20", "fenced: a")),
            (
                &fenced,
                replica(silent(), other("A:1-22", false, None)),
                Err("c has transactions that this server lacks"),
            ),
            (
                &fenced,
                replica(silent(), silent()),
                Err("c cannot be asked"),
            ),
        ];
        for (json, present, wanted) in cases {
            let decided = decide(&desired(json.clone()), &present);
            match wanted {
                Ok(verdict) => assert_eq!(decided, Ok(verdict), "{json} {present:?}"),
                Err(words) => {
                    let error = decided.expect_err(words);
                    assert!(error.contains(words), "{error}");
                }
            }
        }
        let both = serde_json::json!({"fenced": {"a": "powered_off", "c": "closed"}});
        let error = decide(&desired(both), &replica(silent(), silent())).expect_err("two are gone");
        assert!(error.contains("a and c do not answer"), "{error}");
    }

    #[test]
    fn a_survivor_opens_with_the_mark_taken_back() {
        let fenced = serde_json::json!({"fenced": {"a": "powered_off"}});
        let present = replica(silent(), other("A:1-19", false, Some("10.0.0.1")));
        let steps = MysqlSource::plan(&desired(fenced), &Current::Present(Box::new(present)));
        assert_eq!(
            steps[1..],
            [Step::Open {
                why: "fenced: a".to_owned(),
                semi_synchronous: false,
                unmark: true
            }]
        );
    }

    #[test]
    fn parameters_that_cannot_be_meant_are_refused() {
        for (json, param) in [
            (serde_json::json!({"name": "x"}), "name"),
            (serde_json::json!({"fenced": {"b": "closed"}}), "fenced.b"),
            (serde_json::json!({"fenced": {"x": "closed"}}), "fenced.x"),
            (
                serde_json::json!({"members": [{"name": "b", "address": "x"}, {"name": "b", "address": "y"}]}),
                "members[1].name",
            ),
        ] {
            let mut params = serde_json::json!({
                "name": "b",
                "members": [{"name": "a", "address": "x"}, {"name": "b", "address": "y"}],
                "replication": {"password": "x", "ca_file": "/ca"},
            });
            for (key, value) in json.as_object().expect("a map") {
                params[key] = value.clone();
            }
            let params: Params = serde_json::from_value(params).expect("params");
            assert_eq!(Desired::try_from(params).expect_err("invalid").param, param);
        }
    }
}
