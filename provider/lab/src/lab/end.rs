//! A VM ends, in order or at once, and nothing of it stays. It needs no record of what there is: whatever a crash left is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Lab;
use crate::disks;
use crate::error::{Error, Result};
use crate::network::{self, Cable};
use crate::plan::Phase;
use crate::process::{self, Supervisor};
use crate::store::Record;

impl Lab {
    /// Removes a VM whatever state it is in. The caller holds its lock.
    pub(super) fn wipe(&self, name: &str) -> Result<()> {
        let mut cables = Vec::new();
        if let Some(record) = self.store().read(name)? {
            cables = self.record_cables(&record);
            // From here on it is nothing that anyone may start or adopt, should this be broken off.
            self.store().write(&Record {
                phase: Phase::Creating,
                ..record
            })?;
        }
        self.clean(name, &cables)?;
        self.store().remove_vm(name)
    }

    /// Ends and removes everything that a VM has on the machine, except its directory. Needs no record; finding nothing is fine.
    pub(super) fn clean(&self, name: &str, cables: &[Cable]) -> Result<()> {
        let names = self.names(name);
        let dir = self.store().vm_dir(name);
        if let Some(supervisor) = self.supervisor(name)? {
            end(&supervisor)?;
        }
        let alive = process::kill_all(&self.inner.cgroups.processes(&names.cgroup));
        if !alive.is_empty() {
            let reason = std::io::Error::other(format!("processes {alive:?} do not die"));
            return Err(Error::io(
                format!("lab \"{}\", VM \"{name}\": end it", self.name()),
                reason,
            ));
        }
        network::remove_vm(&names, cables)?;
        unmount_below(&dir)?;
        disks::detach_below(&dir)?;
        self.inner.cgroups.remove(&names.cgroup)?;
        for kind in ["propagate", "unix-export"] {
            crate::store::remove_tree(
                &Path::new("/run/systemd/nspawn")
                    .join(kind)
                    .join(&names.machine),
            )?;
        }
        Ok(())
    }
}

pub(super) fn power_off(supervisor: &Supervisor, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        // Asked again each second: a systemd that is still starting does not listen yet.
        if let Some(leader) = supervisor.leader() {
            leader.power_off()?;
        }
        if supervisor
            .process
            .wait_gone(deadline.min(Instant::now() + Duration::from_secs(1)))
        {
            break;
        }
    }
    Ok(())
}

/// Ends a container at once. With its first process the kernel ends all others; systemd-nspawn follows, or is made to.
pub(super) fn end(supervisor: &Supervisor) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    if let Some(leader) = supervisor.leader() {
        leader.kill()?;
        leader.wait_gone(deadline);
    }
    supervisor.process.kill()?;
    supervisor.process.wait_gone(deadline);
    Ok(())
}

/// A lab never mounts anything there that others can see: this is for what someone or something else left.
fn unmount_below(dir: &Path) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Error::io("list the mounts", error))?;
    let mounts = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")));
    let mut below: Vec<PathBuf> = mounts.filter(|path| path.starts_with(dir)).collect();
    below.reverse();
    for path in below {
        nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)
            .map_err(|error| Error::io(format!("unmount {}", path.display()), error))?;
    }
    Ok(())
}
