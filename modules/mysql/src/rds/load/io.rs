//! Dumping, repeating, and what is kept of it on RDS. Nothing here decides.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::script::{Script, Snapshot};
use super::{MARK, Mark};
use crate::client::{Client, Endpoint, Tls};
use crate::gtid::GtidSet;
use crate::local::Place;
use crate::members::describe;
use crate::rds::procedures::{Procedure, call};
use crate::server::Target;
use crate::sql::{identifier, literal};

/// What RDS keeps of its load; `None` if it was never loaded by the module.
pub(crate) fn read_mark(client: &mut Client) -> anyhow::Result<Option<Mark>> {
    let there = client.value(&format!(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{MARK}' AND TABLE_NAME = 'snapshot'"
    ))?;
    if there != "1" {
        return Ok(None);
    }
    let rows = client.query(&format!(
        "SELECT done, databases_, gtids, own FROM {MARK}.snapshot"
    ))?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let set = |column| {
        let text: &str = row.text(column);
        text.parse::<GtidSet>()
            .context("read a set of GTIDs that RDS keeps")
    };
    Ok(Some(Mark {
        done: row.text(0) == "1",
        databases: row.text(1).lines().map(str::to_owned).collect(),
        snapshot: set(2)?,
        own: set(3)?,
    }))
}

pub(super) fn databases(client: &mut Client) -> anyhow::Result<BTreeSet<String>> {
    let rows = client.query("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA")?;
    Ok(rows.iter().map(|row| row.text(0).to_owned()).collect())
}

/// Tables that a snapshot does not hold as of one moment.
pub(super) fn other_engines(
    client: &mut Client,
    databases: &BTreeSet<String>,
) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = databases.iter().map(|it| literal(it)).collect();
    let rows = client.query(&format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES
         WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB' AND TABLE_SCHEMA IN ({}) ORDER BY 1, 2 LIMIT 20",
        names.join(", ")
    ))?;
    Ok(rows
        .iter()
        .map(|row| format!("{}.{} ({})", row.text(0), row.text(1), row.text(2)))
        .collect())
}

/// A load may take days; what is asked meanwhile is nothing.
const IDLE_S: u32 = 7 * 24 * 3600;
/// How long RDS may take for one of the statements that change its data.
const PATIENCE: Duration = Duration::from_secs(600);

/// A connection that is the only one to load RDS while it is open. Of a run that was killed, what is left is waited for: its session ends
/// with its input.
fn alone(rds: &Target) -> anyhow::Result<Client> {
    let mut client = rds.client()?;
    client.set_patience(PATIENCE)?;
    client.run(&format!("SET SESSION wait_timeout = {IDLE_S}"))?;
    let mut lock = |name: &str, seconds: u32| {
        client.value(&format!("SELECT GET_LOCK('{MARK}{name}', {seconds})"))
    };
    anyhow::ensure!(lock("", 0)? == "1", "another run loads RDS just now");
    anyhow::ensure!(
        lock(".session", 120)? == "1",
        "an earlier load of RDS is still going on there"
    );
    client.run(&format!("DO RELEASE_LOCK('{MARK}.session')"))?;
    Ok(client)
}

pub(super) fn clear(rds: &Target, databases: &BTreeSet<String>) -> anyhow::Result<()> {
    let mut client = alone(rds)?;
    for name in databases {
        client
            .run(&format!("DROP DATABASE IF EXISTS {}", identifier(name)))
            .with_context(|| format!("drop database {name:?} on RDS"))?;
    }
    Ok(())
}

pub(super) fn load(
    place: &Place,
    rds: &Target,
    databases: &BTreeSet<String>,
) -> anyhow::Result<()> {
    let mut client = alone(rds)?;
    let names: Vec<&str> = databases.iter().map(String::as_str).collect();
    for sql in [
        format!("CREATE DATABASE IF NOT EXISTS {MARK}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {MARK}.snapshot (one BOOLEAN PRIMARY KEY CHECK (one = 1), done BOOLEAN NOT NULL,
             databases_ TEXT NOT NULL, gtids LONGTEXT NOT NULL, log_file VARCHAR(512) NOT NULL, log_position BIGINT NOT NULL,
             own LONGTEXT NOT NULL) CHARACTER SET utf8mb4"
        ),
        format!(
            "REPLACE INTO {MARK}.snapshot VALUES (1, 0, {}, '', '', 0, '')",
            literal(&names.join("\n"))
        ),
    ] {
        client
            .run(&sql)
            .context("note on RDS that its load begins")?;
    }
    let Snapshot { gtids, log } = stream(place, rds, databases)?;
    let loaded = describe(&mut client)?;
    for (uuid, tag, first, last) in gtids.minus(&loaded.executed).runs() {
        anyhow::ensure!(
            tag.is_empty(),
            "RDS cannot count the transactions {uuid}:{tag}:{first}-{last}, which have a tag"
        );
        let arguments = format!("{}, {first}, {last}", literal(uuid));
        call(&mut client, Procedure::Count, &arguments)?;
    }
    // The note itself is one of RDS's own transactions.
    let own = loaded.executed.minus(&gtids).with_next_of(&loaded.uuid);
    client
        .run(&format!(
            "UPDATE {MARK}.snapshot SET done = 1, gtids = {}, log_file = {}, log_position = {}, own = {}",
            literal(&gtids.to_string()),
            literal(&log.0),
            log.1,
            literal(&own.to_string())
        ))
        .context("note on RDS that it is loaded")
}

/// Lets `mysql` repeat on RDS what `mysqldump` says here. The lines go through this process, so that both end when it is killed.
fn stream(place: &Place, rds: &Target, databases: &BTreeSet<String>) -> anyhow::Result<Snapshot> {
    let mut dump = start(
        dump(place, databases)
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    )?;
    let mut repeat = start(repeat(rds)?.stdin(Stdio::piped()).stdout(Stdio::null()))?;
    let said = [words(&mut dump), words(&mut repeat)];
    let from = dump.stdout.take().expect("it is piped");
    let into = repeat.stdin.take().expect("it is piped");
    let relayed = relay(from, into);
    if relayed.is_err() {
        // The one that is left has nothing more to do. What is on RDS is marked as unfinished.
        dump.kill().context("end mysqldump")?;
    }
    let status = [
        ("mysqldump", dump.wait().context("wait for mysqldump")?),
        ("mysql", repeat.wait().context("wait for mysql")?),
    ];
    let said = said.map(|it| it.join().unwrap_or_default());
    // Of two that ended badly, the one that was not ended by the other's end knows why.
    let failed = (status.iter().zip(&said))
        .filter(|((_, status), _)| !status.success())
        .max_by_key(|((_, status), _)| status.code().is_some());
    if let Some(((name, status), words)) = failed {
        bail!("{name} ended with {status}: {}", words.trim());
    }
    let script = relayed.context("pass the dump on to RDS")?;
    script.end().map_err(anyhow::Error::msg)
}

fn relay(from: impl Read, mut into: ChildStdin) -> std::io::Result<Script> {
    let mut from = BufReader::with_capacity(1 << 20, from);
    let mut script = Script::default();
    let mut line = Vec::new();
    writeln!(into, "DO GET_LOCK('{MARK}.session', 60);")?;
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(script);
        }
        if let Some(line) = script.pass(&line) {
            into.write_all(&line)?;
        }
    }
}

fn dump(place: &Place, databases: &BTreeSet<String>) -> Command {
    let mut command = Command::new("mysqldump");
    command
        .args(["--no-defaults", "--user=root", "--single-transaction"])
        .args(["--source-data=2", "--set-gtid-purged=COMMENTED"])
        .args(["--routines", "--triggers", "--events", "--hex-blob"])
        .args(["--no-tablespaces", "--default-character-set=utf8mb4"])
        .arg(format!("--socket={}", place.socket.display()))
        .arg("--databases")
        .args(databases);
    command
}

fn repeat(rds: &Target) -> anyhow::Result<Command> {
    let Target::Remote {
        endpoint: Endpoint::Tcp { host, port, tls },
        user,
        password,
    } = rds
    else {
        bail!("RDS is reached over TCP only");
    };
    let (mode, authority) = match tls {
        Tls::Identity(path) => ("VERIFY_IDENTITY", Some(path)),
        Tls::Authority(path) => ("VERIFY_CA", Some(path)),
        Tls::Off => ("DISABLED", None),
    };
    let mut command = Command::new("mysql");
    command
        .args(["--no-defaults", "--batch", "--binary-mode"])
        .args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"])
        .arg("--compression-algorithms=zstd,zlib,uncompressed")
        .arg(format!("--host={host}"))
        .arg(format!("--port={port}"))
        .arg(format!("--user={user}"))
        .arg(format!("--ssl-mode={mode}"))
        .args(authority.map(|path| format!("--ssl-ca={}", path.display())))
        // Arguments are for everybody to read; the environment is for root.
        .env("MYSQL_PWD", password.expose());
    Ok(command)
}

fn start(command: &mut Command) -> anyhow::Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .env("LC_ALL", "C.UTF-8")
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {name}"))
}

/// Collects what a program says about failures, so that it never waits for a reader.
fn words(child: &mut Child) -> thread::JoinHandle<String> {
    let mut from = child.stderr.take().expect("it is piped");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read up to an error is as good as all.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Commits on this server nothing at all under the names of RDS's own transactions. It goes on to the replicas like everything else.
pub(super) fn count(here: &mut Client, there: &mut Client) -> anyhow::Result<()> {
    let mark = read_mark(there)?.context("RDS no longer knows its load")?;
    let missing = mark.own.minus(&describe(here)?.executed);
    for (uuid, tag, first, last) in missing.runs() {
        let tag = if tag.is_empty() {
            String::new()
        } else {
            format!("{tag}:")
        };
        for number in first..=last {
            here.run(&format!("SET GTID_NEXT = '{uuid}:{tag}{number}'"))?;
            here.run("BEGIN")?;
            here.run("COMMIT")
                .with_context(|| format!("count {uuid}:{tag}{number}"))?;
        }
    }
    Ok(here.run("SET GTID_NEXT = AUTOMATIC")?)
}
