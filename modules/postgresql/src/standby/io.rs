//! The acts of a standby on its machine, and looking at it. Nothing here decides.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_machine::file;

use super::{Alive, Current, Desired, Me};
use crate::client::PATIENCE;
use crate::cluster::{
    Cluster, OWNER, Place, StartMode, State, as_owner, assignments, beside, program, write_file,
};
use crate::replication::{Local, Running, Seen, ask, local, passfile, slot, slots};
use crate::settings::{self, Parameters};
use crate::synchronous;

/// How long a standby that has just been started may take until the log comes in.
const STREAM: Duration = Duration::from_secs(60);
/// How long the upstream may hold a slot for somebody who is gone: `wal_sender_timeout`, and a little more.
const SLOT_FREE: Duration = Duration::from_secs(70);

fn new_data(data: &Path) -> PathBuf {
    beside(data, "ondol-new")
}

fn old_data(data: &Path) -> PathBuf {
    beside(data, "ondol-old")
}

fn follow_file(conf: &Path) -> PathBuf {
    conf.join("conf.d/70-ondol-standby.conf")
}

fn follow_text(desired: &Desired, data: &Path) -> String {
    let conninfo = desired.access.conninfo(
        &desired.upstream.address,
        desired.upstream.port,
        &desired.name,
        &passfile(data),
    );
    format!(
        "# Written by ondol.cloud.postgresql_standby.\nprimary_conninfo = '{}'\nprimary_slot_name = '{}'\nrecovery_target_timeline = 'latest'\n",
        conninfo.replace('\\', "\\\\").replace('\'', "''"),
        slot(&desired.name)
    )
}

pub(super) fn observe(desired: &Desired) -> anyhow::Result<Current> {
    let cluster = &desired.cluster;
    let local = local(cluster, &desired.data)?;
    let place = cluster.place()?;
    let data = place.as_ref().map_or(&desired.data, |place| &place.data);
    let leftovers = [new_data(data), old_data(data)]
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    let me = match local {
        Local::Absent => Me::Absent { configured: false },
        Local::Empty => Me::Absent { configured: true },
        Local::Unconfigured => {
            anyhow::ensure!(
                desired.data.join("standby.signal").exists(),
                "{} holds a cluster that is no standby and that no configuration describes: adopt it with pg_createcluster, or remove it",
                desired.data.display()
            );
            Me::Unconfigured
        }
        Local::Stopped(stopped) => Me::Stopped(stopped),
        Local::Running(running) => Me::Running(alive(cluster, *running)?),
    };
    let upstream = ask(
        &desired.access,
        &desired.upstream.address,
        desired.upstream.port,
        true,
        PATIENCE,
    );
    let upstream = match (upstream, &me) {
        // It may not know the role of replication yet. The base backup will tell.
        (Err(error), Me::Absent { .. }) => Seen::Silent(format!("{error:#}")),
        (seen, _) => seen?,
    };
    let follows = match &place {
        Some(place) => {
            file::read(&follow_file(&place.conf))?.as_deref()
                == Some(&follow_text(desired, &place.data))
                && file::read(&passfile(&place.data))?.as_deref()
                    == Some(&desired.access.passfile())
                && !synchronous::rule_file(&place.conf).exists()
        }
        None => false,
    };
    let parameters = match &desired.parameters {
        Some(parameters) => lacking(place.as_ref(), parameters)?,
        None => None,
    };
    let rules = match (&place, &desired.hba) {
        (Some(place), Some(text)) => {
            let has = file::read(&place.conf.join("pg_hba.conf"))?;
            (has.as_ref() != Some(text)).then(|| text.clone())
        }
        (_, wanted) => wanted.clone(),
    };
    Ok(Current {
        me,
        upstream,
        leftovers,
        follows,
        parameters,
        rules,
    })
}

/// The text of the file of parameters, if it is another one. A port that postgresql_instance put there stays.
fn lacking(place: Option<&Place>, parameters: &Parameters) -> anyhow::Result<Option<String>> {
    let mut wanted = parameters.clone();
    let mut text = String::new();
    if let Some(place) = place {
        let path = place.conf.join("conf.d").join(settings::FILE);
        text = file::read(&path)?.unwrap_or_default();
        if let Some(port) = assignments(&text).remove("port") {
            wanted.insert("port".to_owned(), port);
        }
    }
    let rendered = settings::render(&wanted);
    Ok((rendered != text).then_some(rendered))
}

fn alive(cluster: &Cluster, mut running: Running) -> anyhow::Result<Alive> {
    let client = &mut running.client;
    let control = cluster.control(&running.place.data)?.unwrap_or_default();
    Ok(Alive {
        streams: client
            .value("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')")?
            == "t",
        slots: slots(client)?,
        waiting: (client
            .query("SELECT name FROM pg_settings WHERE pending_restart ORDER BY 1")?
            .iter())
        .map(|row| row.text(0).to_owned())
        .collect(),
        in_recovery: running.in_recovery,
        system_identifier: running.system_identifier,
        timeline: running.timeline,
        lsn: running.lsn,
        manual: running.mode != StartMode::Auto,
        rewindable: control.checksums || control.hint_bits_logged,
    })
}

/// Takes the backup beside the data and puts it in its place only when it is whole.
pub(super) fn base_backup(desired: &Desired) -> anyhow::Result<()> {
    let cluster = &desired.cluster;
    cluster.require_installed()?;
    let place = cluster.place()?;
    let data = place
        .as_ref()
        .map_or_else(|| desired.data.clone(), |place| place.data.clone());
    let upstream = &desired.upstream;
    let mut client = desired
        .access
        .connect(&upstream.address, upstream.port, PATIENCE)
        .with_context(|| format!("ask {} for a base backup", upstream.name))?;
    let slot = slot(&desired.name);
    match client.query(&format!(
        "CREATE_REPLICATION_SLOT \"{slot}\" PHYSICAL RESERVE_WAL"
    )) {
        // There already.
        Err(error) if error.code() == Some("42710") => {}
        Err(error) => return Err(error).with_context(|| format!("create slot {slot}")),
        Ok(_) => {}
    }
    drop(client);
    if let Some(parent) = data.parent()
        && !parent.exists()
    {
        fs::create_dir_all(parent)
            .and_then(|()| file::give(parent, OWNER))
            .with_context(|| format!("make {}", parent.display()))?;
    }
    let (new, old, passfile) = (new_data(&data), old_data(&data), passfile(&data));
    file::remove_directory(&new)?;
    write_file(&passfile, desired.access.passfile(), 0o600)?;
    let conninfo = desired.access.conninfo(
        &upstream.address,
        upstream.port,
        &format!("{}-backup", desired.name),
        &passfile,
    );
    let deadline = Instant::now() + SLOT_FREE;
    loop {
        let copied = as_owner(cluster.program("pg_basebackup"))
            .arg("--pgdata")
            .arg(&new)
            .args(["--dbname", &conninfo, "--slot", &slot])
            .args(["--wal-method=stream", "--checkpoint=fast", "--no-password"])
            .succeed();
        match copied {
            // The upstream has not noticed yet that the last one who took a backup was killed.
            Err(error)
                if error.to_string().contains("is active for PID") && Instant::now() < deadline =>
            {
                file::remove_directory(&new)?;
                sleep(Duration::from_secs(1));
            }
            copied => break copied.map(drop)?,
        }
    }
    let signal = new.join("standby.signal");
    write_file(&signal, "", 0o600)?;
    if let Some(place) = &place {
        cluster.set_start_mode(StartMode::Disabled)?;
        if place.data.join("global/pg_control").exists()
            && matches!(cluster.state(place, "postgres")?, State::Running(_))
        {
            cluster.ctl("stop")?;
        }
    }
    let swap = || -> io::Result<()> {
        if data.exists() {
            if old.exists() {
                fs::remove_dir_all(&old)?;
            }
            fs::rename(&data, &old)?;
        }
        fs::rename(&new, &data)?;
        data.parent().map_or(Ok(()), file::sync_directory)
    };
    swap().with_context(|| format!("put the base backup into {}", data.display()))?;
    file::remove_directory(&old)
}

/// Has Debian's tools describe data that is there. They move the configuration out of the data, so there must be one: what a new cluster
/// would have.
pub(super) fn describe(desired: &Desired) -> anyhow::Result<()> {
    let cluster = &desired.cluster;
    let samples = PathBuf::from(format!("/usr/share/postgresql/{}", cluster.version));
    let sample = |name: &str| -> anyhow::Result<String> {
        let path = samples.join(format!("{name}.sample"));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (certificate, key) = (
        "/etc/ssl/certs/ssl-cert-snakeoil.pem",
        "/etc/ssl/private/ssl-cert-snakeoil.key",
    );
    // Above the sample, which has no settings of its own: `pg_createcluster` lets it include conf.d at its end, and what is there counts.
    let mut main = AS_NEW.to_owned();
    if Path::new(certificate).exists() && Path::new(key).exists() {
        main += &format!("ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n");
    }
    main += &sample("postgresql.conf")?;
    for (name, text) in [
        ("postgresql.conf", main.as_str()),
        ("pg_hba.conf", LOCAL_RULES),
        ("pg_ident.conf", &sample("pg_ident.conf")?),
    ] {
        write_file(&desired.data.join(name), text, 0o600)?;
    }
    let mut command = program("pg_createcluster")
        // Until it follows.
        .args(["--start-conf", "disabled"])
        .args(["--port", &desired.port.to_string()])
        .arg("--datadir")
        .arg(&desired.data);
    if let Some(sockets) = &desired.sockets {
        command = command.arg("--socketdir").arg(sockets);
    }
    command
        .args([&cluster.version.to_string(), &cluster.name])
        .succeed()
        .map(drop)
}

/// What initdb and Debian set beside the samples.
const AS_NEW: &str = "log_line_prefix = '%m [%p] %q%u@%d '\nlog_timezone = 'Etc/UTC'\ntimezone = 'Etc/UTC'\ndatestyle = 'iso, mdy'\n\
    lc_messages = 'C.UTF-8'\nlc_monetary = 'C.UTF-8'\nlc_numeric = 'C.UTF-8'\nlc_time = 'C.UTF-8'\n\
    default_text_search_config = 'pg_catalog.english'\n";

/// Who may come in where the user gave no rules.
const LOCAL_RULES: &str = "local all all peer\nlocal replication all peer\nhost all all 127.0.0.1/32 scram-sha-256\n\
    host all all ::1/128 scram-sha-256\n";

pub(super) fn follow(desired: &Desired) -> anyhow::Result<()> {
    let cluster = &desired.cluster;
    let place = cluster.require_place()?;
    write_file(&passfile(&place.data), desired.access.passfile(), 0o600)?;
    write_file(
        &follow_file(&place.conf),
        follow_text(desired, &place.data),
        0o644,
    )?;
    file::remove(&synchronous::rule_file(&place.conf))?;
    // A running standby has none to lose: the file is there.
    let signal = place.data.join("standby.signal");
    if !signal.exists() {
        write_file(&signal, "", 0o600)?;
    }
    cluster.set_start_mode(StartMode::Auto)
}

pub(super) fn start(desired: &Desired) -> anyhow::Result<()> {
    let cluster = &desired.cluster;
    let place = cluster.require_place()?;
    // What a primary must not do: come up by this path.
    anyhow::ensure!(
        place.data.join("standby.signal").exists(),
        "{} lacks standby.signal: it would come up as a primary",
        place.data.display()
    );
    cluster.ctl("start")?;
    let deadline = Instant::now() + STREAM;
    loop {
        if let Local::Running(running) = local(cluster, &place.data)? {
            anyhow::ensure!(running.in_recovery, "it came up as a primary");
            if alive(cluster, *running)?.streams {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            match last_words(&place) {
                Some(words) => bail!("no log comes in; the server's log says: {words}"),
                None => bail!("no log comes in after {} s", STREAM.as_secs()),
            }
        }
        sleep(Duration::from_millis(100));
    }
}

pub(super) fn rewind(desired: &Desired) -> anyhow::Result<()> {
    let cluster = &desired.cluster;
    cluster.require_installed()?;
    let place = cluster.require_place()?;
    // While the data is neither the old nor the new, nobody is to start it.
    cluster.set_start_mode(StartMode::Disabled)?;
    anyhow::ensure!(
        matches!(cluster.state(&place, "postgres")?, State::Stopped),
        "cluster {cluster} runs"
    );
    let control = cluster.control(&place.data)?.unwrap_or_default();
    // pg_rewind does this by itself, but does not know where Debian keeps the configuration.
    if !matches!(
        control.state.as_str(),
        "shut down" | "shut down in recovery"
    ) {
        let signal = place.data.join("standby.signal");
        file::remove(&signal)?;
        as_owner(cluster.program("postgres"))
            .args(["--single", "-F", "-D"])
            .arg(&place.data)
            .arg("-c")
            .arg(format!(
                "config_file={}",
                place.conf.join("postgresql.conf").display()
            ))
            .arg("template1")
            .succeed()
            .context("recover from the crash")?;
    }
    let passfile = passfile(&place.data);
    write_file(&passfile, desired.access.passfile(), 0o600)?;
    let upstream = &desired.upstream;
    let conninfo = desired.access.conninfo(
        &upstream.address,
        upstream.port,
        &format!("{}-rewind", desired.name),
        &passfile,
    );
    as_owner(cluster.program("pg_rewind"))
        .arg("--target-pgdata")
        .arg(&place.data)
        .args(["--source-server", &format!("{conninfo} dbname=postgres")])
        .arg("--no-ensure-shutdown")
        .succeed()
        .map(drop)
}

/// For a standby that does not stream: the last complaint in its log.
pub(super) fn why_not(cluster: &Cluster, current: &Current) -> Option<String> {
    match &current.me {
        Me::Running(me) if me.in_recovery && !me.streams => last_words(&cluster.place().ok()??),
        _ => None,
    }
}

fn last_words(place: &Place) -> Option<String> {
    let bytes = fs::read(place.conf.join("log")).or_else(|_| {
        let name: Vec<String> = (place.conf.iter().rev().take(2))
            .map(|it| it.to_string_lossy().into_owned())
            .collect();
        fs::read(format!(
            "/var/log/postgresql/postgresql-{}-{}.log",
            name[1], name[0]
        ))
    });
    let bytes = bytes.ok()?;
    let tail = &bytes[bytes.len().saturating_sub(8192)..];
    String::from_utf8_lossy(tail)
        .lines()
        .rev()
        .find_map(|line| {
            ["FATAL:  ", "ERROR:  ", "PANIC:  "]
                .into_iter()
                .find_map(|mark| line.split_once(mark))
                .map(|(_, words)| words.to_owned())
        })
}
