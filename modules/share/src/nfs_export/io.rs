//! Files, servers and the trial of a configuration. Decides nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use ondol_machine::file;
use ondol_machine::program::Program;

use super::plan::{complaint, trial_text};
use super::*;
use crate::service;

/// How long a trial server may take to come up, with a cluster that is busy.
const TRIAL: &str = "60";

/// The module.
#[derive(Default)]
pub struct NfsExport;

/// Loaded, built in, or there to be loaded.
fn has_kernel_server() -> anyhow::Result<bool> {
    let known = file::read(Path::new("/proc/filesystems"))?.unwrap_or_default();
    if known.split_whitespace().any(|it| it == "nfsd") {
        return Ok(true);
    }
    // A machine without modprobe has no modules.
    Ok(Program::new("modprobe")
        .args(["--dry-run", "--quiet", "nfsd"])
        .run()
        .is_ok_and(|it| it.status.success()))
}

fn exports(server: Server) -> anyhow::Result<BTreeMap<String, String>> {
    let mut exports = BTreeMap::new();
    let folder = server.folder();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(exports),
        other => other.with_context(|| format!("list {}", folder.display()))?,
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        let Some(name) = path.file_stem().and_then(|it| it.to_str()) else {
            continue;
        };
        if path == server.file(name)
            && let Some(text) = file::read(&path)?
        {
            exports.insert(name.to_owned(), text);
        }
    }
    Ok(exports)
}

/// Starts a second Ganesha with one export, reads its log until it is up, and ends it.
fn try_export(text: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in("/run").context("make a directory below /run")?;
    let candidate = folder.path().join("ganesha.conf");
    let port = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        listener.local_addr().context("find a free port")?.port()
    };
    file::write(&candidate, &trial_text(text, port, folder.path()), 0o600)?;
    let mut server = Command::new("timeout")
        .args([
            "--kill-after=10",
            TRIAL,
            "ganesha.nfsd",
            "-F",
            "-N",
            "EVENT",
        ])
        .args(["-L", "/dev/stdout", "-f"])
        .arg(&candidate)
        .arg("-p")
        .arg(folder.path().join("pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("run ganesha.nfsd")?;
    let mut log = String::new();
    let mut is_up = false;
    for line in BufReader::new(server.stdout.take().expect("is piped")).lines() {
        let line = line.context("read Ganesha's log")?;
        is_up = line.contains("NFS SERVER INITIALIZED");
        log.push_str(&line);
        log.push('\n');
        if is_up {
            break;
        }
    }
    // A regular end: one that is killed leaves a session at the metadata servers. It is passed on by timeout.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id()).expect("is a pid"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    server.wait().context("wait for the trial's end")?;
    if let Some(words) = complaint(&log) {
        bail!("NFS-Ganesha refuses it: {words}");
    }
    ensure!(
        is_up,
        "NFS-Ganesha did not come up with it: {}",
        log.lines().last().unwrap_or("it said nothing")
    );
    Ok(())
}

fn publish() -> anyhow::Result<()> {
    Program::new("exportfs")
        .args(["-ra"])
        .succeed()
        .context("publish the exports")?;
    Ok(())
}

/// The kernel's server has no trial: exportfs judges what is there, and what was there before comes back if it refuses.
fn publish_or_restore(path: &Path, text: &str) -> anyhow::Result<()> {
    let before = file::read(path)?;
    file::write(path, text, 0o644)?;
    let Err(error) = publish() else {
        return Ok(());
    };
    match before {
        Some(before) => file::write(path, &before, 0o644)?,
        None => remove(path)?,
    }
    Err(error)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

impl Module for NfsExport {
    const NAME: &'static str = "nfs_export";
    const EXAMPLES: &'static str = r#"
- name: A directory for the site's network
  ondol.cloud.nfs_export:
    name: team
    path: /srv/team
    clients:
      - hosts: 192.168.10.0/24

- name: A Ceph file system, read by all and written by one
  ondol.cloud.nfs_export:
    name: shared
    path: /
    cephfs: {filesystem: shared, user: nfs}
    pseudo: /shared
    clients:
      - {hosts: 192.168.10.16, squash: none}
      - {hosts: 192.168.10.0/24, access: read_only}
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let has_kernel_server = desired.server != Choice::Ganesha && has_kernel_server()?;
        let server = desired.server(has_kernel_server);
        let main = file::read(Path::new(MAIN))?;
        let newest = [
            service::written_at(Path::new(MAIN))?,
            service::written_at(&server.file(&desired.name))?,
        ];
        let current = Current {
            has_kernel_server,
            exports: exports(server)?,
            main,
            unit: service::unit(server.unit())?,
            watch: Watch {
                unit: service::unit(WATCH)?,
                text: file::read(&watch_file())?,
                written_at: service::written_at(&watch_file())?,
            },
            written_at: newest.into_iter().max().unwrap_or_default(),
        };
        match refusal(desired, &current) {
            Some(reason) => bail!("refused: {reason}"),
            None => Ok(current),
        }
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::WriteExport {
                server,
                name,
                text,
                local,
                ..
            } => {
                if let Some(local) = local {
                    ensure!(Path::new(local).is_dir(), "there is no directory {local}");
                }
                let folder = server.folder();
                fs::create_dir_all(folder)
                    .with_context(|| format!("create {}", folder.display()))?;
                match server {
                    Server::Kernel => publish_or_restore(&server.file(name), text),
                    Server::Ganesha => {
                        try_export(text)?;
                        file::write(&server.file(name), text, 0o644)
                    }
                }
            }
            Step::RemoveExport { server, name } => remove(&server.file(name)),
            Step::WriteMain { text } => file::write(Path::new(MAIN), text, 0o644),
            Step::Enable(server) => service::systemctl(&["enable", "--quiet", server.unit()]),
            Step::Start(server) => service::systemctl(&["start", server.unit()]),
            Step::Restart(server) => {
                service::systemctl(&["restart", server.unit()])?;
                // That restarts the watch too, but does not wait for it.
                if *server == Server::Ganesha && watch_file().exists() {
                    service::systemctl(&["start", WATCH])?;
                }
                Ok(())
            }
            Step::Watch { text } => {
                file::write(&watch_file(), text, 0o644)?;
                service::systemctl(&["daemon-reload"])?;
                service::systemctl(&["enable", "--quiet", WATCH])?;
                service::systemctl(&["restart", WATCH])
            }
            Step::Unwatch => {
                service::systemctl(&["disable", "--quiet", "--now", WATCH])?;
                remove(&watch_file())?;
                service::systemctl(&["daemon-reload"])
            }
            Step::Publish => publish(),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        plan(desired, current)
            .into_iter()
            .filter_map(|step| match step {
                Step::WriteExport {
                    server, name, text, ..
                } => Some(TextDiff::new(
                    &server.file(&name).display().to_string(),
                    current.exports.get(&name).cloned().unwrap_or_default(),
                    text,
                )),
                Step::RemoveExport { server, name } => Some(TextDiff::new(
                    &server.file(&name).display().to_string(),
                    current.exports.get(&name).cloned().unwrap_or_default(),
                    "",
                )),
                Step::WriteMain { text } => Some(TextDiff::new(
                    MAIN,
                    current.main.clone().unwrap_or_default(),
                    text,
                )),
                Step::Watch { text } => Some(TextDiff::new(
                    &watch_file().display().to_string(),
                    current.watch.text.clone().unwrap_or_default(),
                    text,
                )),
                Step::Unwatch => Some(TextDiff::new(
                    &watch_file().display().to_string(),
                    current.watch.text.clone().unwrap_or_default(),
                    "",
                )),
                _ => None,
            })
            .collect()
    }
}
