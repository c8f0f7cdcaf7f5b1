//! Copying, following, and waiting for what was sent. Nothing here decides.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Desired;
use crate::client::Client;
use crate::gtid::GtidSet;
use crate::local::Place;
use crate::members::{LEAVE_OUT, describe};
use crate::sql::{account, literal};

pub(super) fn has_clone(client: &mut Client) -> anyhow::Result<bool> {
    let found = client.value(
        "SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone' AND PLUGIN_STATUS = 'ACTIVE'",
    )?;
    Ok(found == "1")
}

/// How long a copy may take.
const COPY: Duration = Duration::from_secs(24 * 3600);
/// How long a server that restarts after one may take to come up.
const RESTART: Duration = Duration::from_secs(300);

pub(super) fn copy(place: &Place, desired: &Desired) -> anyhow::Result<()> {
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
pub(super) fn copied(place: &Place) -> anyhow::Result<Option<()>> {
    let rows = place
        .client()?
        .query("SELECT STATE, ERROR_NO, ERROR_MESSAGE FROM performance_schema.clone_status")?;
    let row = rows.first().cloned().unwrap_or_default();
    match row.text(0) {
        "Completed" => Ok(Some(())),
        _ => Ok(None),
    }
}

/// The tables that replication leaves out, as patterns.
pub(super) fn left_out(client: &mut Client) -> anyhow::Result<String> {
    let rows = client.query(&format!(
        "SELECT FILTER_RULE FROM performance_schema.replication_applier_global_filters WHERE FILTER_NAME = '{}'",
        LEAVE_OUT.to_ascii_uppercase()
    ))?;
    Ok(rows
        .first()
        .map(|row| row.text(0).to_owned())
        .unwrap_or_default())
}

/// It holds until the next start; the file of the role has it for then.
pub(super) fn leave_out(client: &mut Client, pattern: &str) -> anyhow::Result<()> {
    let list = if pattern.is_empty() {
        String::new()
    } else {
        literal(pattern)
    };
    client.run("STOP REPLICA")?;
    Ok(client.run(&format!(
        "CHANGE REPLICATION FILTER {} = ({list})",
        LEAVE_OUT.to_ascii_uppercase()
    ))?)
}

/// How long a replica may take to reach its source.
const CONNECT: Duration = Duration::from_secs(30);

pub(super) fn follow(client: &mut Client, desired: &Desired) -> anyhow::Result<()> {
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
