//! The acts on a cluster, and looking at it. Nothing here decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::Invalid;
use ondol_machine::file;

use super::{Creation, Current, Desired, Existing};
use crate::cluster::{Cluster, OWNER, Place, State, as_owner, beside, program, write_file};
use crate::{hba, settings};

fn marker(data: &Path) -> PathBuf {
    beside(data, "ondol-creating")
}

pub(super) fn observe(desired: &Desired) -> anyhow::Result<Current> {
    let cluster = &desired.cluster;
    let data = &desired.creation.data;
    // A server that once ran has left its options.
    if marker(data).exists() && !data.join("postmaster.opts").exists() {
        return Ok(Current {
            unfinished: true,
            existing: None,
        });
    }
    let Some(place) = cluster.place()? else {
        if data.join("PG_VERSION").exists() {
            bail!(
                "{} holds a cluster, but {} does not describe it: adopt it with pg_createcluster, or remove it",
                data.display(),
                cluster.conf().display()
            );
        }
        return Ok(Current::default());
    };
    let ours = file::read(&place.conf.join("conf.d").join(settings::FILE))?.unwrap_or_default();
    let hba = file::read(&place.conf.join("pg_hba.conf"))?.unwrap_or_default();
    let checksums = cluster
        .control(&place.data)?
        .with_context(|| format!("{} holds no cluster", place.data.display()))?
        .checksums;
    let mut existing = Existing {
        running: false,
        data: place.data.clone(),
        checksums,
        file: ours,
        hba,
        settings: BTreeMap::new(),
    };
    if let State::Running(mut client) = cluster.state(&place, "postgres")? {
        existing.running = true;
        let wanted = desired.parameters.iter().flat_map(BTreeMap::keys);
        let in_file = crate::cluster::assignments(&existing.file);
        let names: BTreeSet<&str> = wanted.chain(in_file.keys()).map(String::as_str).collect();
        if !names.is_empty() {
            existing.settings = settings::ask(&mut client, names)?;
        }
    }
    Ok(Current {
        unfinished: false,
        existing: Some(existing),
    })
}

pub(super) fn create(cluster: &Cluster, creation: &Creation) -> anyhow::Result<()> {
    cluster.require_installed()?;
    if let Some(parent) = creation.data.parent()
        && !parent.exists()
    {
        fs::create_dir_all(parent)
            .and_then(|()| file::give(parent, OWNER))
            .with_context(|| format!("make {}", parent.display()))?;
    }
    let marker = marker(&creation.data);
    fs::write(&marker, "").with_context(|| format!("write {}", marker.display()))?;
    let mut command = program("pg_createcluster")
        .args(["--start-conf", "auto"])
        .args(["--port", &creation.port.to_string()])
        .args(["--encoding", &creation.encoding])
        .args(["--locale", &creation.locale])
        .arg("--datadir")
        .arg(&creation.data);
    if let Some(sockets) = &creation.sockets {
        command = command.arg("--socketdir").arg(sockets);
    }
    command = command.args([&cluster.version.to_string(), &cluster.name]);
    if creation.checksums {
        command = command.args(["--", "--data-checksums"]);
    }
    command.succeed()?;
    file::remove(&marker)
}

pub(super) fn remove_unfinished(cluster: &Cluster, data: &Path) -> anyhow::Result<()> {
    for path in [&cluster.conf(), data] {
        file::remove_directory(path)?;
    }
    file::remove(&marker(data))
}

/// Waits until the server has read its files.
pub(crate) fn reload(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client("postgres")?;
    let before = client.value("SELECT pg_conf_load_time()")?;
    let done = client.value("SELECT pg_reload_conf()")?;
    anyhow::ensure!(done == "t", "the server could not be told to reload");
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.value("SELECT pg_conf_load_time()")? == before {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the server did not read its configuration: see its log"
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(super) fn enable_checksums(cluster: &Cluster) -> anyhow::Result<()> {
    let place = cluster.require_place()?;
    if matches!(cluster.state(&place, "postgres")?, State::Running(_)) {
        cluster.ctl("stop")?;
    }
    let enabled = as_owner(cluster.program("pg_checksums"))
        .arg("--enable")
        .arg("-D")
        .arg(&place.data)
        .succeed();
    // It comes up again either way.
    let started = cluster.ctl("start");
    enabled.and(started)
}

/// Puts the rules in force, or the former ones back.
pub(crate) fn write_rules(cluster: &Cluster, text: &str) -> anyhow::Result<()> {
    let place = cluster.require_place()?;
    let path = place.conf.join("pg_hba.conf");
    // Byte for byte: it need not be ours.
    let before = file::read_bytes(&path)?;
    let back = |error: anyhow::Error| -> anyhow::Error {
        match before.as_ref().map(|it| write_file(&path, it, 0o640)) {
            Some(Err(failed)) => {
                error.context(format!("and pg_hba.conf could not be put back: {failed:#}"))
            }
            _ => error,
        }
    };
    let mut client = cluster.client("postgres")?;
    write_file(&path, text, 0o640)?;
    let mistakes = client
        .query(
            "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY 1",
        )
        .map_err(|error| back(error.into()))?;
    if let Some(row) = mistakes.first() {
        let rule = hba::rule_of_line(row.text(0).parse().unwrap_or(0));
        return Err(back(
            Invalid::new(
                format!("pg_hba[{rule}]"),
                format!("the server says: {}", row.text(1)),
            )
            .into(),
        ));
    }
    reload(cluster).map_err(back)?;
    // The rules that are in force decide whether anyone can put things right again.
    if let Err(error) = still_in(cluster, &place) {
        let error = back(anyhow::Error::new(error).context(
            "pg_hba: these rules lock the superuser out of the local socket; the former ones are back",
        ));
        client
            .query("SELECT pg_reload_conf()")
            .context("reload the former rules")?;
        return Err(error);
    }
    Ok(())
}

fn still_in(cluster: &Cluster, place: &Place) -> crate::client::Result<()> {
    cluster.connect(place, "postgres").map(drop)
}
