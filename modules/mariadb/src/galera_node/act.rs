//! The acts of a node: founding, joining, restarting, with their waits. Each checks once more what it relies on.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ondol_database::member::{Seen, knock};
use ondol_machine::file;
use ondol_machine::program::Program;

use super::decide::Founder;
use crate::facts::NodeFacts;
use crate::server::{GROUP_PORT, NEW_CLUSTER_FLAG, Server, UNIT, last_words, systemctl, unit};
use crate::wsrep::{Position, marked_safe};

const PAUSE: Duration = Duration::from_millis(200);
/// For servers of other nodes to end that are being stopped at the same time.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) fn is_armed() -> anyhow::Result<bool> {
    if Path::new(NEW_CLUSTER_FLAG).exists() {
        return Ok(true);
    }
    // Where older versions keep the same.
    let output = Program::new("systemctl")
        .args(["show-environment"])
        .succeed()
        .context("ask systemd for its environment")?;
    let armed = |line: &str| {
        line.strip_prefix("_WSREP_NEW_CLUSTER=")
            .is_some_and(|value| value.contains("wsrep"))
    };
    Ok(output.stdout.lines().any(armed))
}

pub(super) fn disarm() -> anyhow::Result<()> {
    file::remove(Path::new(NEW_CLUSTER_FLAG))?;
    systemctl(&["unset-environment", "_WSREP_NEW_CLUSTER"], SILENCE)
}

/// What the group port of another machine says.
fn listen(address: &str) -> anyhow::Result<Seen<()>> {
    let address: IpAddr = address
        .parse()
        .with_context(|| format!("read the address {address:?}"))?;
    let to = SocketAddr::new(address, GROUP_PORT);
    Ok(knock(to, Duration::from_secs(2)))
}

/// Nobody else may be able to be a Primary Component. `others`: name, address, may be out of reach.
pub(super) fn silence(others: &[(String, String, bool)]) -> anyhow::Result<()> {
    let deadline = Instant::now() + SILENCE;
    for (name, address, lost) in others {
        loop {
            let why = match listen(address)? {
                Seen::Refuses => break,
                Seen::Silent(_) if *lost => break,
                Seen::Answers(()) | Seen::Denies(_) => format!(
                    "{name} answers at {address}:{GROUP_PORT}: a server or an arbitrator that runs there must be stopped first"
                ),
                Seen::Silent(words) => format!(
                    "{name} cannot be reached at {address}:{GROUP_PORT} ({words}): it may be a Primary Component by itself; \
                     name it in lost_members if it is switched off"
                ),
            };
            ensure!(Instant::now() < deadline, "{why}");
            sleep(PAUSE);
        }
    }
    Ok(())
}

/// Until the founder's new server listens. Not before: whoever listens keeps it from founding.
pub(super) fn await_founder(founder: &Founder, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    if founder.stops_first {
        // What listens now is the server that it stops. That moment may be over already.
        let missed = Instant::now() + Duration::from_secs(30);
        while listen(&founder.address)? == Seen::Answers(()) && Instant::now() < missed {
            sleep(PAUSE);
        }
    }
    loop {
        let heard = listen(&founder.address)?;
        if heard == Seen::Answers(()) {
            return Ok(());
        }
        let why = match heard {
            Seen::Silent(words) => format!(" ({words})"),
            _ => String::new(),
        };
        ensure!(
            Instant::now() < deadline,
            "{} founded no Primary Component within {} s{why}: is this task running there at the same time?",
            founder.name,
            patience.as_secs()
        );
        sleep(PAUSE);
    }
}

pub(super) fn found(
    server: &Server,
    name: &str,
    from: Option<&Position>,
    patience: Duration,
) -> anyhow::Result<()> {
    let now = unit(UNIT)?;
    ensure!(
        now.is_down(),
        "{UNIT} is {}, it was started meanwhile",
        now.active
    );
    let path = server.grastate_path();
    if let Some(text) = file::read(&path)? {
        let marked = marked_safe(&text);
        if marked != text {
            file::write(&path, &marked, 0o660)?;
        }
        // Also what a broken-off run left to root.
        let owner = fs::metadata(&server.data)
            .with_context(|| format!("look at {}", server.data.display()))?;
        chown(&path, Some(owner.uid()), Some(owner.gid()))
            .with_context(|| format!("give {} back to its owner", path.display()))?;
    }
    systemctl(&["reset-failed", UNIT], SILENCE)?;
    Program::new("galera_new_cluster")
        .within(patience)
        .succeed()
        .map_err(|error| error.context(last_words(UNIT)))?;
    let node = synced(server, name, patience)?;
    if let (Some(from), Some(now)) = (from, &node.position) {
        ensure!(
            from.uuid == now.uuid && from.seqno <= now.seqno,
            "{name} founded a component at {now}, and its data were at {from}"
        );
    }
    Ok(())
}

/// Starts the server, again and again if it gives up because no component is there yet.
pub(super) fn join(server: &Server, name: &str, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        systemctl(&["reset-failed", UNIT], SILENCE)?;
        // Until the server says that it is ready, a transfer of all data included.
        match systemctl(&["start", UNIT], left()) {
            Ok(()) => return synced(server, name, left()).map(drop),
            Err(error) => {
                let words = last_words(UNIT);
                // What Galera says if it found nobody to join within its own half a minute.
                let nobody = words.contains("Connection timed out");
                if !nobody || Instant::now() >= deadline {
                    return Err(error.context(words));
                }
                sleep(Duration::from_secs(2));
            }
        }
    }
}

/// One node at a time: whoever is missing would be the second.
pub(super) fn restart(
    server: &Server,
    name: &str,
    size: usize,
    patience: Duration,
) -> anyhow::Result<()> {
    complete(server, name, size, Duration::from_secs(30))?;
    systemctl(&["restart", UNIT], patience).map_err(|error| error.context(last_words(UNIT)))?;
    synced(server, name, patience)?;
    complete(server, name, size, patience)
}

fn complete(server: &Server, name: &str, size: usize, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let node = server.facts(name, false)?;
        let now = node.wsrep.as_ref().map_or(0, |it| it.size);
        if node.is_synced() && usize::try_from(now).is_ok_and(|it| it >= size) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "only {now} of {size} nodes are in the component"
        );
        sleep(PAUSE);
    }
}

/// Waits until the node is a synced member of a Primary Component that takes queries.
pub(super) fn synced(server: &Server, name: &str, patience: Duration) -> anyhow::Result<NodeFacts> {
    let deadline = Instant::now() + patience;
    loop {
        let failed = match server.facts(name, false) {
            Ok(node) if node.is_synced() => return Ok(node),
            Ok(node) => format!("it is {}", state(&node)),
            // In the moment between two states.
            Err(error) => format!("{error:#}"),
        };
        let now = unit(UNIT)?;
        if now.is_down() {
            bail!("the server of {name} ended: {}", last_words(UNIT));
        }
        ensure!(
            Instant::now() < deadline,
            "{name} was not synced within {} s: {failed}",
            patience.as_secs()
        );
        sleep(PAUSE);
    }
}

fn state(node: &NodeFacts) -> String {
    match &node.wsrep {
        Some(wsrep) if wsrep.primary => format!("{} in the Primary Component", wsrep.state),
        Some(_) => "outside of every Primary Component".to_owned(),
        None => "starting".to_owned(),
    }
}
