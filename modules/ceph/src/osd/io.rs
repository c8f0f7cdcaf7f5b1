//! The OSD's device, directory and service. Decides nothing.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, bail};
use ondol_kit::Secret;
use ondol_machine::file;
use ondol_machine::program::Program;
use serde_json::json;

use super::*;
use crate::cluster::{Cluster, Failure, parse};
use crate::config::Set;
use crate::key::{self, Caps, User};
use crate::system::{self, wait};

/// The first bytes of BlueStore's label; the OSD's uuid follows.
const MAGIC: &[u8] = b"bluestore block device\n";
const OSDS: &str = "/var/lib/ceph/osd";
/// Beginning of the name of a directory whose OSD is not whole; its uuid follows.
const BEGUN: &str = ".new-";

/// What `ceph-bluestore-tool show-label` prints for a device.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Shown {
    osd_uuid: Uuid,
    ceph_fsid: Option<Uuid>,
    whoami: Option<String>,
    /// Written last.
    ready: Option<String>,
}

impl From<Shown> for Label {
    fn from(shown: Shown) -> Self {
        let id = shown.whoami.and_then(|it| it.parse().ok());
        let whole = match (id, shown.ceph_fsid, shown.ready) {
            (Some(id), Some(cluster), Some(_)) => Some(Whole { id, cluster }),
            _ => None,
        };
        Self::Osd {
            uuid: shown.osd_uuid,
            whole,
        }
    }
}

/// What `ceph osd safe-to-destroy` prints. Its exit status says nothing in this form.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SafeToDestroy {
    safe_to_destroy: Vec<u32>,
    #[serde(default)]
    active: Vec<u32>,
    #[serde(default)]
    missing_stats: Vec<u32>,
    #[serde(default)]
    stored_pgs: Vec<u32>,
}

impl SafeToDestroy {
    pub(super) fn verdict(&self, id: u32) -> Verdict {
        if self.safe_to_destroy.contains(&id) {
            Verdict::Yes
        } else if self.active.contains(&id) {
            Verdict::No("placement groups are on it".to_owned())
        } else if self.stored_pgs.contains(&id) {
            Verdict::No("it may hold the last copy of something".to_owned())
        } else {
            debug_assert!(self.missing_stats.contains(&id) || self.missing_stats.is_empty());
            Verdict::Unknown
        }
    }
}

/// What `ceph osd ok-to-stop` prints.
#[derive(Debug, Clone, Deserialize)]
struct OkToStop {
    ok_to_stop: bool,
    #[serde(default)]
    num_not_ok_pgs: u64,
}

/// The module.
#[derive(Default)]
pub struct CephOsd {
    cluster: Cluster,
    /// Known once the OSD is registered.
    id: Option<u32>,
}

fn folder(id: u32) -> PathBuf {
    Path::new(OSDS).join(format!("ceph-{id}"))
}

fn unit(id: u32) -> String {
    format!("ceph-osd@{id}")
}

fn drop_in_folder(id: u32) -> PathBuf {
    Path::new("/etc/systemd/system").join(format!("{}.service.d", unit(id)))
}

fn label(path: &Path) -> anyhow::Result<Label> {
    let mut device = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Label::Nowhere),
        other => other.with_context(|| format!("open {}", path.display()))?,
    };
    let mut first = vec![0; 4096];
    let read = device
        .read(&mut first)
        .with_context(|| format!("read {}", path.display()))?;
    if first[..read].starts_with(MAGIC) {
        let shown = Program::new("ceph-bluestore-tool")
            .args(["show-label".as_ref(), "--dev".as_ref(), path.as_os_str()])
            .succeed()
            .with_context(|| format!("read the label of {}", path.display()))?;
        let shown: BTreeMap<String, Shown> = parse(&shown.stdout)
            .with_context(|| format!("read the label of {}", path.display()))?;
        let shown = shown.into_values().next();
        return Ok(shown.context("ceph-bluestore-tool told no label")?.into());
    }
    let blkid = Program::new("blkid")
        .args([
            "-p".as_ref(),
            "-o".as_ref(),
            "export".as_ref(),
            path.as_os_str(),
        ])
        .run()?;
    match blkid.status.code() {
        // Nothing that blkid knows; then it must be nothing at all.
        Some(2) if first[..read].iter().all(|byte| *byte == 0) => Ok(Label::Empty),
        Some(2) => Ok(Label::Other("data of an unknown kind".to_owned())),
        Some(0) => Ok(Label::Other(kind(&blkid.stdout))),
        _ => bail!("look at {} with blkid: {}", path.display(), blkid.words()),
    }
}

/// `TYPE=ext4` or `PTTYPE=gpt` among the lines of blkid.
pub(super) fn kind(export: &str) -> String {
    let value = |key: &str| {
        export
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    match (value("TYPE"), value("PTTYPE")) {
        (Some(kind), _) => kind.to_owned(),
        (None, Some(table)) => format!("a partition table ({table})"),
        (None, None) => "something that blkid knows".to_owned(),
    }
}

/// The unfinished OSD whose data is to be at this path.
fn begun(path: &Path) -> anyhow::Result<Option<Uuid>> {
    let entries = match fs::read_dir(OSDS) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("list {OSDS}"))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("list {OSDS}"))?;
        let name = entry.file_name();
        if let Some(uuid) = name.to_str().and_then(|it| it.strip_prefix(BEGUN))
            && fs::read_link(entry.path().join("block")).is_ok_and(|it| it == path)
        {
            return uuid
                .parse()
                .map(Some)
                .with_context(|| format!("read the name of {}", entry.path().display()));
        }
    }
    Ok(None)
}

/// OSDs of this machine whose directory says that this path is their device, but for the one that is on it.
fn former(path: &Path, on_it: Option<Uuid>) -> anyhow::Result<Vec<Former>> {
    let entries = match fs::read_dir(OSDS) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("list {OSDS}"))?,
    };
    let mut former = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {OSDS}"))?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|it| it.strip_prefix("ceph-"));
        let Some(id) = id.and_then(|it| it.parse().ok()) else {
            continue;
        };
        if !fs::read_link(entry.path().join("block")).is_ok_and(|it| it == path) {
            continue;
        }
        let known_as = entry.path().join("fsid");
        // BlueStore writes it when the OSD is made; without it the directory tells of none.
        let Some(text) = file::read(&known_as)? else {
            continue;
        };
        let uuid = text
            .trim()
            .parse()
            .with_context(|| format!("read {}", known_as.display()))?;
        if Some(uuid) != on_it {
            former.push(Former {
                id,
                uuid,
                unit: system::unit(&unit(id))?,
            });
        }
    }
    former.sort_by_key(|it| it.id);
    Ok(former)
}

impl CephOsd {
    fn id(&self) -> u32 {
        self.id
            .expect("a step that needs the number comes after one that learns it")
    }

    fn removal(&self, id: u32) -> anyhow::Result<Removal> {
        let id_text = id.to_string();
        let destroy = match self
            .cluster
            .ask::<SafeToDestroy>(&["osd", "safe-to-destroy", &id_text])
        {
            Ok(told) => told.verdict(id),
            Err(error) => unsettled(error)?,
        };
        let stop = match self
            .cluster
            .ask::<OkToStop>(&["osd", "ok-to-stop", &id_text])
        {
            Ok(OkToStop {
                ok_to_stop: true, ..
            }) => Verdict::Yes,
            Ok(told) => Verdict::No(format!(
                "{} placement groups would stop",
                told.num_not_ok_pgs
            )),
            // Some versions say no by their exit status.
            Err(error) => match error.downcast_ref::<Failure>() {
                Some(Failure::Refused {
                    status: 16, words, ..
                }) => Verdict::No(words.clone()),
                _ => unsettled(error)?,
            },
        };
        Ok(Removal {
            rules: self.cluster.ask(&["osd", "crush", "rule", "dump"])?,
            stop,
            destroy,
        })
    }

    fn memory_target(&self, id: u32) -> anyhow::Result<Option<u64>> {
        let options: Vec<Set> = self.cluster.ask(&["config", "dump"])?;
        let section = format!("osd.{id}");
        Ok(options
            .iter()
            .find(|it| it.section == section && it.name == "osd_memory_target")
            .and_then(|it| it.value.parse().ok()))
    }

    /// Directory, number, BlueStore, in this order: each part that is there is used again.
    fn create(&mut self, path: &Path, uuid: Uuid) -> anyhow::Result<()> {
        let new = Path::new(OSDS).join(format!("{BEGUN}{uuid}"));
        system::create_dir(&new)?;
        link(path, &new.join("block"))?;
        // The device itself, through the link that was given.
        let device = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        system::give_to_ceph(&device)?;
        let secret = self.secret(&new)?;
        let given = json!({"cephx_secret": secret.expose()}).to_string();
        let told = self
            .cluster
            .run_with(&["osd", "new", &uuid.to_string(), "-i", "-"], &given)?;
        let id: u32 = told
            .trim()
            .parse()
            .with_context(|| format!("read the number of the new OSD in {told:?}"))?;
        system::write_private(
            &new.join("keyring"),
            &key::keyring(&format!("osd.{id}"), &secret, &Caps::new()),
        )?;
        if !matches!(label(path)?, Label::Osd { whole: Some(_), .. }) {
            let map = new.join("activate.monmap");
            self.cluster
                .run(&["mon", "getmap", "-o", &map.display().to_string()])?;
            system::give_to_ceph(&map)?;
            Program::new("ceph-osd")
                .args([
                    "--mkfs",
                    "-i",
                    &id.to_string(),
                    "--osd-uuid",
                    &uuid.to_string(),
                ])
                .args([
                    "--setuser",
                    "ceph",
                    "--setgroup",
                    "ceph",
                    "--osd-objectstore",
                    "bluestore",
                ])
                .args([
                    "--osd-data".as_ref(),
                    new.as_os_str(),
                    "--monmap".as_ref(),
                    map.as_os_str(),
                ])
                .args(["--keyring".as_ref(), new.join("keyring").as_os_str()])
                .within(Duration::from_secs(300))
                .succeed()?;
        }
        fs::rename(&new, folder(id)).with_context(|| format!("name {}", folder(id).display()))?;
        self.id = Some(id);
        // Not before: a run that is killed here would begin with another key, which the cluster refuses.
        fs::remove_file(folder(id).join("secret"))
            .context("remove the OSD's key, which its keyring has")
    }

    /// The OSD's key, the same one each time this is tried.
    fn secret(&self, new: &Path) -> anyhow::Result<Secret> {
        let path = new.join("secret");
        if let Some(text) = file::read(&path)? {
            return Ok(Secret::new(text.trim()));
        }
        let made = Program::new("ceph-authtool")
            .args(["--gen-print-key"])
            .succeed()?;
        let secret = Secret::new(made.stdout.trim());
        system::write_private(&path, secret.expose())?;
        Ok(secret)
    }

    /// A directory for an OSD whose data is there, as on a machine that was installed anew.
    fn activate(&mut self, path: &Path, id: u32) -> anyhow::Result<()> {
        let folder = folder(id);
        let new = Path::new(OSDS).join(format!(".activate-{id}"));
        system::remove_dir(&new)?;
        system::create_dir(&new)?;
        let device = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        system::give_to_ceph(&device)?;
        Program::new("ceph-bluestore-tool")
            .args(["prime-osd-dir".as_ref(), "--dev".as_ref(), path.as_os_str()])
            .args([
                "--path".as_ref(),
                new.as_os_str(),
                "--no-mon-config".as_ref(),
            ])
            .succeed()?;
        link(path, &new.join("block"))?;
        let entity = format!("osd.{id}");
        let users: Vec<User> = self.cluster.ask(&["auth", "get", &entity])?;
        let user = users
            .first()
            .with_context(|| format!("the user {entity} is gone"))?;
        system::write_private(
            &new.join("keyring"),
            &key::keyring(&entity, &user.key, &Caps::new()),
        )?;
        for entry in fs::read_dir(&new).with_context(|| format!("list {}", new.display()))? {
            system::give_to_ceph(
                &entry
                    .with_context(|| format!("list {}", new.display()))?
                    .path(),
            )?;
        }
        fs::rename(&new, &folder).with_context(|| format!("name {}", folder.display()))?;
        self.id = Some(id);
        Ok(())
    }
}

/// The cluster could not tell; any other error stays one.
fn unsettled(error: anyhow::Error) -> anyhow::Result<Verdict> {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Unsettled { .. }) => Ok(Verdict::Unknown),
        _ => Err(error),
    }
}

fn link(to: &Path, at: &Path) -> anyhow::Result<()> {
    match fs::remove_file(at) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replace {}", at.display()));
        }
        _ => {}
    }
    symlink(to, at).with_context(|| format!("link {}", at.display()))?;
    system::give_to_ceph(at)
}

fn create_file(path: &Path, size_mib: u64) -> anyhow::Result<()> {
    let act = || format!("create {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(act)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(act)?;
    file.set_len(size_mib << 20).with_context(act)?;
    system::give_to_ceph(path)
}

/// What tells that the device was an OSD: BlueStore's label and the first of its own structures.
fn zap(path: &Path) -> anyhow::Result<()> {
    let act = || format!("make {} empty", path.display());
    let mut device = OpenOptions::new()
        .write(true)
        .open(path)
        .with_context(act)?;
    device.seek(SeekFrom::Start(0)).with_context(act)?;
    device.write_all(&vec![0; 1 << 20]).with_context(act)?;
    device.sync_all().with_context(act)
}

impl Module for CephOsd {
    const NAME: &'static str = "ceph_osd";
    const EXAMPLES: &'static str = r#"
- name: The data disk of each storage server is an OSD
  ondol.cloud.ceph_osd:
    device: /dev/disk/by-id/ondol-osd-0
    memory_target_mib: 4096

- name: An OSD on a file, where there is no disk
  ondol.cloud.ceph_osd:
    file: /var/lib/ceph/osd-files/a.img
    file_size_mib: 8192

- name: An OSD whose disk was replaced is forgotten, once its copies are on the new one
  ondol.cloud.ceph_osd:
    id: 7
    state: absent

- name: A disk is taken out of service when its data has moved elsewhere
  ondol.cloud.ceph_osd:
    device: /dev/disk/by-id/wwn-0x5000c500a1b2c3d4
    state: absent
    zap: true
    timeout_seconds: 86400
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let (label, begun) = match &desired.place {
            Some(place) => (label(place.path())?, begun(place.path())?),
            None => (Label::Nowhere, None),
        };
        let map: OsdMap = match desired.want {
            Want::Present { .. } if !self.cluster.is_known() => OsdMap::default(),
            _ => self.cluster.ask(&["osd", "dump"])?,
        };
        let labelled = match &label {
            Label::Osd { uuid, whole } => map
                .osds
                .iter()
                .find(|osd| osd.uuid == *uuid)
                .map(|it| it.osd)
                .or(whole.as_ref().map(|it| it.id)),
            _ => None,
        };
        let (id, absent, class_is_wanted) = match &desired.want {
            Want::Absent { id, .. } => (labelled.or(*id), true, false),
            Want::Present { device_class, .. } => (labelled, false, device_class.is_some()),
        };
        self.id = id;
        let on_it = match &label {
            Label::Osd { uuid, .. } => Some(*uuid),
            _ => begun,
        };
        let mut current = Current {
            former: match &desired.place {
                Some(place) => former(place.path(), on_it)?,
                None => Vec::new(),
            },
            label,
            begun,
            spare: Uuid::new_v4(),
            local: Local::default(),
            tree: Tree::default(),
            memory_target: None,
            removal: None,
            map,
        };
        if let Some(id) = id {
            current.local = Local {
                folder: folder(id).exists(),
                unit: system::unit(&unit(id))?,
                drop_in: file::read(&drop_in_folder(id).join("ondol.conf"))?,
            };
            if let Want::Present {
                memory_target: Some(_),
                ..
            } = desired.want
            {
                current.memory_target = self.memory_target(id)?;
            }
            let known = current.map.osds.iter().any(|osd| osd.osd == id);
            if absent && known {
                current.removal = Some(self.removal(id)?);
            }
            if class_is_wanted || absent {
                current.tree = self.cluster.ask(&["osd", "tree"])?;
            }
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
            Step::CreateFile { path, size_mib } => create_file(path, *size_mib),
            Step::Create { path, uuid, .. } => self.create(path, *uuid),
            Step::Activate { path, id, .. } => self.activate(path, *id),
            Step::WriteDropIn { text } => {
                let folder = drop_in_folder(self.id());
                fs::create_dir_all(&folder)
                    .with_context(|| format!("create {}", folder.display()))?;
                file::write(&folder.join("ondol.conf"), text, 0o644)?;
                system::systemctl(&["daemon-reload"])
            }
            Step::Enable => system::systemctl(&["enable", "--quiet", &unit(self.id())]),
            Step::Start => system::start(&unit(self.id())),
            Step::AwaitUp { patience } => wait(*patience, "the OSD is up", || {
                let map: OsdMap = self.cluster.ask(&["osd", "dump"])?;
                let up = map.osds.iter().any(|it| it.osd == self.id() && it.is_up());
                Ok((!up).then(|| format!("osd.{} is down", self.id())))
            }),
            Step::SetClass { class, from } => {
                let name = format!("osd.{}", self.id());
                // A class that is set is only ever replaced after it was removed.
                if from.is_some() || self.class()?.is_some() {
                    self.cluster
                        .run(&["osd", "crush", "rm-device-class", &name])?;
                }
                self.cluster
                    .run(&["osd", "crush", "set-device-class", class, &name])?;
                Ok(())
            }
            Step::SetMemoryTarget { bytes, .. } => {
                let (name, bytes) = (format!("osd.{}", self.id()), bytes.to_string());
                self.cluster
                    .run(&["config", "set", &name, "osd_memory_target", &bytes])?;
                Ok(())
            }
            Step::MarkOut { id } => {
                self.cluster.run(&["osd", "out", &id.to_string()])?;
                Ok(())
            }
            Step::AwaitSafe { id, patience } => wait(
                *patience,
                "the data of the OSD has moved away (it goes on moving)",
                || {
                    let Removal { destroy, stop, .. } = self.removal(*id)?;
                    let missing = match (destroy, stop) {
                        (Verdict::Yes, Verdict::Yes) => None,
                        (Verdict::No(why), _) | (_, Verdict::No(why)) => Some(why),
                        _ => Some("the cluster cannot tell".to_owned()),
                    };
                    Ok(missing)
                },
            ),
            Step::Stop { id } | Step::Retire { id } => {
                system::systemctl(&["disable", "--quiet", "--now", &unit(*id)])
            }
            Step::Purge { id } => {
                let (id, name) = (id.to_string(), format!("osd.{id}"));
                let purge = ["osd", "purge", &id, "--yes-i-really-mean-it"];
                // The cluster learns in a moment that the OSD has stopped.
                wait(Duration::from_secs(60), "the OSD is down", || {
                    match self.cluster.run(&purge) {
                        Ok(_) => Ok(None),
                        Err(Failure::Refused {
                            status: 16, words, ..
                        }) => Ok(Some(words)),
                        Err(failure) => Err(failure.into()),
                    }
                })?;
                self.cluster
                    .run(&["config", "rm", &name, "osd_memory_target"])?;
                Ok(())
            }
            Step::RemoveFolder { id } => {
                system::remove_dir(&folder(*id))?;
                system::remove_dir(&drop_in_folder(*id))?;
                system::systemctl(&["daemon-reload"])
            }
            Step::RemoveBegun { uuid } => {
                system::remove_dir(&Path::new(OSDS).join(format!("{BEGUN}{uuid}")))
            }
            Step::Zap {
                path,
                is_file: true,
            } => fs::remove_file(path).with_context(|| format!("remove {}", path.display())),
            Step::Zap { path, .. } => zap(path),
        }
    }
}

impl CephOsd {
    fn class(&self) -> anyhow::Result<Option<String>> {
        let tree: Tree = self.cluster.ask(&["osd", "tree"])?;
        Ok(tree.class_of(self.id()).map(str::to_owned))
    }
}
