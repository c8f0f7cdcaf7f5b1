//! The monitor's files, its admin socket, and its neighbours. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ondol_machine::file;
use ondol_machine::program::Program;

use super::*;
use crate::cluster::{Cluster, Failure, parse};
use crate::system::{self, wait};

/// What a monitor or its quorum tells about the map, in `mon_status` and `quorum_status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Told {
    /// `leader` and `peon` are in the quorum. Only a monitor tells it.
    #[serde(default)]
    pub(super) state: String,
    /// Only the quorum tells it.
    #[serde(default)]
    pub(super) quorum_names: BTreeSet<String>,
    pub(super) monmap: MonMap,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct MonMap {
    pub(super) fsid: Uuid,
    mons: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Member {
    name: String,
    public_addrs: Addresses,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Addresses {
    addrvec: Vec<Address>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Address {
    addr: SocketAddr,
}

impl MonMap {
    pub(super) fn members(&self) -> BTreeMap<String, IpAddr> {
        self.mons
            .iter()
            .filter_map(|mon| {
                let first = mon.public_addrs.addrvec.first()?;
                Some((mon.name.clone(), first.addr.ip()))
            })
            .collect()
    }
}

impl From<Told> for Living {
    fn from(told: Told) -> Self {
        Self::Quorum {
            fsid: told.monmap.fsid,
            members: told.monmap.members(),
            quorum: told.quorum_names,
        }
    }
}

/// How long a neighbour may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// A neighbour that listens and has a quorum answers sooner than this.
const ANSWER: Duration = Duration::from_secs(8);

const STORES: &str = "/var/lib/ceph/mon";

/// The module.
#[derive(Default)]
pub struct CephMonitor {
    /// Of the desired state, which `apply` is not given.
    name: String,
    fsid: Uuid,
}

impl CephMonitor {
    fn unit(&self) -> String {
        format!("ceph-mon@{}", self.name)
    }

    fn store(&self) -> PathBuf {
        Path::new(STORES).join(format!("ceph-{}", self.name))
    }

    /// What the running monitor says of itself; `None`: it does not listen.
    fn told(&self) -> anyhow::Result<Option<Told>> {
        let path = format!("/run/ceph/ceph-mon.{}.asok", self.name);
        let text = match ask_socket(Path::new(&path), r#"{"prefix":"mon_status"}"#) {
            Ok(text) => text,
            // A monitor that was killed leaves its socket behind.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("ask {path}")),
        };
        parse(&text).map(Some).context("read the monitor's status")
    }

    /// The cluster of the store on disk, which only a monitor that does not run lets read.
    fn cluster_of_store(&self) -> anyhow::Result<Uuid> {
        let folder = tempfile::tempdir_in("/run").context("make a directory below /run")?;
        system::give_to_ceph(folder.path())?;
        let map = folder.path().join("monmap");
        Program::new("ceph-mon")
            .args([
                "-i",
                &self.name,
                "--setuser",
                "ceph",
                "--setgroup",
                "ceph",
                "--extract-monmap",
            ])
            .args([&map])
            .succeed()
            .with_context(|| format!("read the store {}", self.store().display()))?;
        let printed = Program::new("monmaptool")
            .args(["--print"])
            .args([&map])
            .succeed()?;
        fsid_of_map(&printed.stdout).context("monmaptool told no fsid")
    }

    fn store_and_status(&self, unit: Unit) -> anyhow::Result<(Option<Uuid>, bool)> {
        if !self.store().exists() {
            return Ok((None, false));
        }
        let mut told = self.told()?;
        if unit.active {
            // One that was just started opens its socket in a moment.
            wait(
                Duration::from_secs(60),
                "the monitor answers at its socket",
                || {
                    told = self.told()?;
                    Ok(told.is_none().then(|| "it does not listen".to_owned()))
                },
            )?;
        }
        match told {
            Some(told) => {
                let in_quorum = matches!(told.state.as_str(), "leader" | "peon");
                Ok((Some(told.monmap.fsid), in_quorum))
            }
            None => Ok((Some(self.cluster_of_store()?), false)),
        }
    }

    fn make_store(
        &self,
        keyring: &Secret,
        map: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let folder = tempfile::tempdir_in("/run").context("make a directory below /run")?;
        system::give_to_ceph(folder.path())?;
        let (map_path, keyring_path) =
            (folder.path().join("monmap"), folder.path().join("keyring"));
        map(&map_path)?;
        system::give_to_ceph(&map_path)?;
        system::write_private(&keyring_path, keyring.expose())?;
        // Renamed when it is whole. Each run has a name of its own: a ceph-mon that outlives a killed one still writes.
        let prefix = format!(".new-{}-", self.name);
        for entry in fs::read_dir(STORES).with_context(|| format!("list {STORES}"))? {
            let entry = entry.with_context(|| format!("list {STORES}"))?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                system::remove_dir(&entry.path())?;
            }
        }
        let new = Path::new(STORES).join(format!("{prefix}{}", Uuid::new_v4().simple()));
        system::create_dir(&new)?;
        Program::new("ceph-mon")
            .args([
                "--mkfs",
                "-i",
                &self.name,
                "--setuser",
                "ceph",
                "--setgroup",
                "ceph",
            ])
            .args(["--fsid", &self.fsid.to_string()])
            .args(["--mon-data".as_ref(), new.as_os_str()])
            .args(["--monmap".as_ref(), map_path.as_os_str()])
            .args(["--keyring".as_ref(), keyring_path.as_os_str()])
            .succeed()?;
        fs::rename(&new, self.store()).with_context(|| format!("name {}", self.store().display()))
    }
}

/// From lines such as `fsid 11111111-2222-4333-8444-555555555555`.
pub(super) fn fsid_of_map(printed: &str) -> Option<Uuid> {
    printed
        .lines()
        .find_map(|line| line.strip_prefix("fsid ")?.trim().parse().ok())
}

/// The admin socket takes one command that ends in a zero, and answers with a length in four bytes and the text.
fn ask_socket(path: &Path, command: &str) -> std::io::Result<String> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(command.as_bytes())?;
    socket.write_all(&[0])?;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut text = String::new();
    socket
        .take(u32::from_be_bytes(length).into())
        .read_to_string(&mut text)?;
    Ok(text)
}

fn look_at(address: IpAddr) -> Peer {
    let mut why = None;
    for port in conf::PORTS {
        match TcpStream::connect_timeout(&SocketAddr::from((address, port)), CONNECT) {
            Ok(_) => return Peer::Answers,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => why = Some(error.to_string()),
        }
    }
    why.map_or(Peer::Refuses, Peer::Silent)
}

/// The clusters of the OSDs on this machine.
fn clusters_of_osds() -> anyhow::Result<BTreeSet<Uuid>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/var/lib/ceph/osd").into_iter().flatten() {
        let path = entry
            .context("list /var/lib/ceph/osd")?
            .path()
            .join("ceph_fsid");
        if let Some(fsid) = file::read(&path)?.and_then(|text| text.trim().parse().ok()) {
            found.insert(fsid);
        }
    }
    Ok(found)
}

/// Asks monitors on behalf of a machine that has no configuration yet.
fn ask_quorum(monitors: &[IpAddr], admin_key: &Secret) -> anyhow::Result<Living> {
    let folder = tempfile::tempdir_in("/run").context("make a directory below /run")?;
    let keyring = folder.path().join("keyring");
    file::write(
        &keyring,
        &key::keyring("client.admin", admin_key, &key::Caps::new()),
        0o600,
    )?;
    let options = vec![
        "--conf".to_owned(),
        "/dev/null".to_owned(),
        "--keyring".to_owned(),
        keyring.display().to_string(),
        "-m".to_owned(),
        conf::mon_host(monitors),
    ];
    living(&Cluster::with_options(options, ANSWER))
}

fn living(cluster: &Cluster) -> anyhow::Result<Living> {
    match cluster.run(&["quorum_status", "--format", "json"]) {
        Ok(text) => Ok(parse::<Told>(&text)
            .context("read the quorum's status")?
            .into()),
        Err(failure @ Failure::Denied { .. }) => Ok(Living::Denied(failure.to_string())),
        Err(failure @ Failure::Unreachable { .. }) => Ok(Living::NoQuorum(failure.to_string())),
        Err(failure) => Err(failure.into()),
    }
}

impl Module for CephMonitor {
    const NAME: &'static str = "ceph_monitor";
    const EXAMPLES: &'static str = r#"
- name: Three monitors, founded together
  ondol.cloud.ceph_monitor:
    fsid: 5a1f4d4e-7c6f-4d2a-9d3e-2f8b7c1a0e55
    monitors:
      storage-server-01: 192.168.10.17
      storage-server-02: 192.168.10.19
      storage-server-03: 192.168.10.21
    public_network: 192.168.10.0/24
    bootstrap: true
    monitor_key: "{{ ceph_monitor_key }}"
    admin_key: "{{ ceph_admin_key }}"

- name: A monitor goes; three of five remain when the other one has gone, too
  ondol.cloud.ceph_monitor:
    name: storage-server-05
    fsid: 5a1f4d4e-7c6f-4d2a-9d3e-2f8b7c1a0e55
    monitors:
      storage-server-01: 192.168.10.17
      storage-server-02: 192.168.10.19
      storage-server-03: 192.168.10.21
    state: absent
"#;

    /// Another monitor that joins makes all of them elect again: one that was in the quorum may be out of it a moment later.
    const ROUNDS: usize = 3;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.name.clone_from(&desired.name);
        self.fsid = desired.fsid;
        let unit = system::unit(&self.unit())?;
        let (store, in_quorum) = self.store_and_status(unit)?;
        let mut current = Current {
            conf: file::read(Path::new(conf::PATH))?,
            admin_key: file::read(Path::new(conf::ADMIN_KEYRING))?
                .and_then(|text| key::in_keyring(&text, "client.admin")),
            unit,
            store,
            in_quorum,
            osds_of: clusters_of_osds()?,
            peers: BTreeMap::new(),
            living: Living::NotAsked,
        };
        match &desired.want {
            Want::Absent => current.living = living(&Cluster::default())?,
            Want::Present {
                address, admin_key, ..
            } if store.is_none() => {
                let known = current
                    .conf
                    .as_deref()
                    .and_then(|text| conf::option(text, "mon_host"));
                let known = known.map(|it| conf::hosts(&it)).unwrap_or_default();
                let others: BTreeSet<IpAddr> = desired
                    .monitors
                    .values()
                    .copied()
                    .chain(known)
                    .filter(|it| it != address)
                    .collect();
                let lookers: Vec<_> = others
                    .into_iter()
                    .map(|it| (it, thread::spawn(move || look_at(it))))
                    .collect();
                for (address, looker) in lookers {
                    let Ok(peer) = looker.join() else {
                        bail!("look at {address}: the thread panicked");
                    };
                    current.peers.insert(address, peer);
                }
                let answering: Vec<IpAddr> = current
                    .peers
                    .iter()
                    .filter(|(_, peer)| **peer == Peer::Answers)
                    .map(|(address, _)| *address)
                    .collect();
                if !answering.is_empty() {
                    current.living = ask_quorum(&answering, admin_key)?;
                }
            }
            Want::Present { .. } => {}
        }
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
            Step::WriteConf { text, .. } => file::write(Path::new(conf::PATH), text, 0o644),
            Step::WriteAdminKeyring { key } => file::write(
                Path::new(conf::ADMIN_KEYRING),
                &key::keyring("client.admin", key, &key::Caps::new()),
                0o600,
            ),
            Step::Found { monitors, keyring } => self.make_store(keyring, |map| {
                let mut tool =
                    Program::new("monmaptool").args(["--create", "--fsid", &self.fsid.to_string()]);
                for (name, address) in monitors {
                    tool = tool.args(["--addv", name, &conf::addresses(*address)]);
                }
                tool.args([map]).succeed()?;
                Ok(())
            }),
            Step::Join { keyring, .. } => self.make_store(keyring, |map| {
                Cluster::default().run(&["mon", "getmap", "-o", &map.display().to_string()])?;
                Ok(())
            }),
            Step::Enable => system::systemctl(&["enable", "--quiet", &self.unit()]),
            Step::Start => system::start(&self.unit()),
            Step::AwaitQuorum { patience } => {
                wait(*patience, "the monitor is in the quorum", || {
                    Ok(match self.told()? {
                        Some(told) if matches!(told.state.as_str(), "leader" | "peon") => None,
                        Some(told) => Some(format!(
                            "it is {}; monitors of the map: {}",
                            told.state,
                            list(told.monmap.members().keys())
                        )),
                        None => Some("it does not run".to_owned()),
                    })
                })
            }
            Step::RemoveFromMap { .. } => {
                Cluster::default().run(&["mon", "remove", &self.name])?;
                Ok(())
            }
            Step::Stop => system::systemctl(&["disable", "--quiet", "--now", &self.unit()]),
            Step::RemoveStore => system::remove_dir(&self.store()),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        plan(desired, current)
            .into_iter()
            .filter_map(|step| match step {
                Step::WriteConf { text, .. } => Some(TextDiff::new(
                    conf::PATH,
                    current.conf.clone().unwrap_or_default(),
                    text,
                )),
                _ => None,
            })
            .collect()
    }
}
