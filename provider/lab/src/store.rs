//! What a lab keeps on disk: one directory and one record per VM, and the locks that make two processes take turns.
//!
//! It records only what the machine cannot tell: wishes, identity, how far a creation got. Whether a VM runs is never written down.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::plan::Phase;
use crate::spec::VmSpec;

/// `vm.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: Uuid,
    pub phase: Phase,
    pub acknowledged: bool,
    pub first_boot_address: Ipv4Addr,
    /// In the order of the spec's interfaces.
    pub macs: Vec<String>,
    /// Empty while `phase` is creating.
    pub ssh_host_key: String,
    pub spec: VmSpec,
}

/// Where things of one lab are.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    lab: String,
    state: PathBuf,
    run: PathBuf,
}

impl Store {
    pub(crate) fn new(lab: &str, state_dir: &Path, run_dir: &Path) -> Self {
        let below = Path::new("labs").join(lab);
        Self {
            lab: lab.to_owned(),
            state: state_dir.join(&below),
            run: run_dir.join(below),
        }
    }

    fn vms_dir(&self) -> PathBuf {
        self.state.join("vms")
    }

    pub(crate) fn vm_dir(&self, name: &str) -> PathBuf {
        self.vms_dir().join(name)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.run.join(format!("{name}.log"))
    }

    pub(crate) fn create_run_dir(&self) -> Result<()> {
        create_dir(&self.run, 0o700)
    }

    /// Names that have a directory, whether or not it holds a VM. Sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let dir = self.vms_dir();
        let mut names = Vec::new();
        match fs::read_dir(&dir) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry
                        .map_err(|error| Error::io(format!("list {}", dir.display()), error))?;
                    if let Ok(name) = entry.file_name().into_string() {
                        names.push(name);
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("list {}", dir.display()), error)),
        }
        names.sort();
        Ok(names)
    }

    /// `None` if there certainly is no record.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Record>> {
        let path = self.vm_dir(name).join("vm.json");
        let act = || format!("lab \"{}\", VM \"{name}\": read its record", self.lab);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| Error::Record {
                    act: act(),
                    path,
                    source,
                }),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::io(act(), error)),
        }
    }

    /// Survives a power cut: either the old record is there or the new one.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let dir = self.vm_dir(&record.spec.name);
        let act = |error: std::io::Error| {
            Error::io(
                format!(
                    "lab \"{}\", VM \"{}\": write its record",
                    self.lab, record.spec.name
                ),
                error,
            )
        };
        create_dir(&dir, 0o700)?;
        let text = serde_json::to_vec_pretty(record).expect("a record has only string keys");
        let next = dir.join("vm.json.next");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)
            .map_err(act)?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(act)?;
        fs::rename(&next, dir.join("vm.json")).map_err(act)?;
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(act)
    }

    /// Removes a VM's directory; nothing may be mounted below it.
    pub(crate) fn remove_vm(&self, name: &str) -> Result<()> {
        remove_tree(&self.vm_dir(name))?;
        remove_file(&self.log(name))
    }

    /// Removes everything of the lab. The caller holds the lab's lock.
    pub(crate) fn remove_all(&self) -> Result<()> {
        remove_tree(&self.state)?;
        remove_tree(&self.run)
    }

    /// Keeps every other process from acting on the VM until dropped.
    pub(crate) fn lock_vm(&self, name: &str, act: &str) -> Result<Lock> {
        self.lock(&format!("{name}.lock"), act)
    }

    /// For what all VMs of a lab share: its network, and the choice of addresses.
    pub(crate) fn lock_lab(&self, act: &str) -> Result<Lock> {
        // A VM's name cannot begin with a dot.
        self.lock(".lab.lock", act)
    }

    fn lock(&self, file_name: &str, act: &str) -> Result<Lock> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let path = self.run.join(file_name);
        let failed = |error: std::io::Error| Error::io(format!("lock {}", path.display()), error);
        let began = Instant::now();
        loop {
            self.create_run_dir()?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut lock) => {
                    // The holder before may have been a destroy that removed the file: then this lock guards nothing.
                    let ours = lock.metadata().map_err(failed)?;
                    if !fs::metadata(&path)
                        .is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev())
                    {
                        continue;
                    }
                    let holder = format!("process {}: {act}", std::process::id());
                    lock.set_len(0)
                        .and_then(|()| lock.rewind())
                        .and_then(|()| lock.write_all(holder.as_bytes()))
                        .map_err(failed)?;
                    return Ok(Lock { _flock: lock });
                }
                Err((mut file, Errno::EWOULDBLOCK)) => {
                    if began.elapsed() > PATIENCE {
                        let mut what = String::new();
                        file.read_to_string(&mut what).map_err(failed)?;
                        return Err(Error::Busy {
                            lab: self.lab.clone(),
                            path,
                            seconds: PATIENCE.as_secs(),
                            what,
                        });
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Lock {
    _flock: Flock<File>,
}

pub(crate) fn create_dir(dir: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|error| Error::io(format!("create {}", dir.display()), error))
}

pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
