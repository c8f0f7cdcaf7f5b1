//! Looking at the account of replication, and the acts of a promotion. Nothing here decides.

use std::time::Duration;

use anyhow::Context as _;

use super::plan::{PRIVILEGES, who};
use super::{Account, Desired};
use crate::client::Client;
use crate::gtid::GtidSet;
use crate::members::{describe, semi_sync, set_source};
use crate::replication::wait_for;
use crate::sha2;
use crate::sql::{literal, unhex};

pub(super) fn look_up(client: &mut Client, desired: &Desired) -> anyhow::Result<Account> {
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
pub(super) fn promote(client: &mut Client, set: &GtidSet) -> anyhow::Result<()> {
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

/// `unmark`: the mark in the data is taken back before anybody writes.
pub(super) fn open(
    client: &mut Client,
    desired: &Desired,
    semi_synchronous: bool,
    unmark: bool,
) -> anyhow::Result<()> {
    // Root may write from here on, and nobody else: what must be first in the log is.
    client.run("SET GLOBAL read_only = ON, GLOBAL super_read_only = OFF")?;
    if semi_sync(client)?.loaded {
        set_source(client, semi_synchronous)?;
    }
    if unmark {
        mark(client, desired, false)?;
    }
    Ok(client.run("SET GLOBAL read_only = OFF")?)
}

pub(super) fn mark(
    client: &mut Client,
    desired: &Desired,
    semi_synchronous: bool,
) -> anyhow::Result<()> {
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
