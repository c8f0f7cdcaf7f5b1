//! A VM comes up: from its files to its first process. Its services are waited for by nobody here.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Lab, check_machine};
use crate::disks::{self, Attached};
use crate::error::{Error, Result};
use crate::network;
use crate::nspawn::{self, Launch, Places};
use crate::process::{self, Process};
use crate::spec::VmSpec;
use crate::store::Record;

/// How long systemd-nspawn may take until the container's first process runs: it is far below a second on an idle machine.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(30);

/// Limits of the machine that many VMs run into; each is one for all of its network namespaces or users.
const MACHINE_LIMITS: [(&str, u64); 4] = [
    // The kernel's default of 128 ends at the 24th systemd.
    ("/proc/sys/fs/inotify/max_user_instances", 8192),
    // 40 VMs that know each other are 1560 neighbours; the kernel's default keeps 1024 and drops packets to the others.
    ("/proc/sys/net/ipv4/neigh/default/gc_thresh1", 4096),
    ("/proc/sys/net/ipv4/neigh/default/gc_thresh2", 8192),
    ("/proc/sys/net/ipv4/neigh/default/gc_thresh3", 16384),
];

impl Lab {
    /// The caller holds the VM's lock and has seen that it does not run.
    pub(super) fn boot(&self, record: &Record) -> Result<()> {
        let spec = &record.spec;
        let names = self.names(&spec.name);
        let places = self.places(&spec.name);
        let cables = self.record_cables(record);
        check_machine(spec)?;
        self.clean(&spec.name, &cables)?;
        raise_machine_limits()?;
        disks::ensure_files(&places.disks, &spec.disks)?;
        let attached = attach_disks(&places, spec)?;
        {
            let _lock = self.store().lock_lab("set up the network")?;
            network::ensure_lab(self.name(), &self.inner.config.gateway)?;
        }
        network::add_vm(&names, &cables)?;
        let cgroups = self
            .inner
            .cgroups
            .create(&names.cgroup, spec.cpus, spec.memory_mib)?;
        let log = self.store().log(&spec.name);
        let pid = nspawn::launch(Launch {
            argv: nspawn::argv(
                spec,
                &names,
                &places,
                &attached,
                Path::new(nspawn::TUN).exists(),
            ),
            environment: nspawn::environment(
                nspawn::guest_systemd(&spec.image),
                self.inner.cgroups.is_unified(),
            ),
            names: &names,
            image: &spec.image,
            places: &places,
            cgroups,
            log: &log,
        })?;
        let leader = self.wait_for_leader(&spec.name, pid, &log)?;
        if spec.features.containers {
            self.open_cgroups(&spec.name, &leader)?;
        }
        Ok(())
    }

    fn wait_for_leader(&self, vm: &str, pid: i32, log: &Path) -> Result<Process> {
        let failed = |reason: &'static str| {
            let console = fs::read(log).unwrap_or_default();
            let console = String::from_utf8_lossy(&console);
            let lines: Vec<&str> = console.lines().collect();
            Error::Boot {
                lab: self.name().to_owned(),
                vm: vm.to_owned(),
                reason,
                log: log.to_owned(),
                console: lines[lines.len().saturating_sub(20)..].join("\n"),
            }
        };
        let deadline = Instant::now() + LAUNCH_PATIENCE;
        let ended = || failed("systemd-nspawn ended at once");
        let supervisor = process::started(pid, deadline).ok_or_else(ended)?;
        loop {
            if let Some(leader) = supervisor.leader() {
                return Ok(leader);
            }
            if !supervisor.process.is_alive() {
                return Err(ended());
            }
            if Instant::now() >= deadline {
                return Err(failed("its first process did not appear in time"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// systemd-nspawn shows the version 1 controllers read-only; container engines make groups of their own in them.
    fn open_cgroups(&self, vm: &str, leader: &Process) -> Result<()> {
        const SCRIPT: &str = "while read -r _ dir kind _; do \
             if [ \"$kind\" = cgroup ]; then mount -o remount,rw,bind \"$dir\" || exit; fi; done </proc/self/mounts";
        let act = format!("make the cgroups of {vm} writable");
        self.set_up_inside(vm, leader, act, "mount", SCRIPT, &[])
    }
}

fn attach_disks(places: &Places, spec: &VmSpec) -> Result<Vec<(String, Attached)>> {
    spec.disks
        .keys()
        .map(|key| Ok((key.clone(), disks::attach(&places.disks, key)?)))
        .collect()
}

/// Only ever upwards: others on the machine may need more.
fn raise_machine_limits() -> Result<()> {
    for (path, wanted) in MACHINE_LIMITS {
        let current =
            fs::read_to_string(path).map_err(|error| Error::io(format!("read {path}"), error))?;
        let enough = current
            .trim()
            .parse::<u64>()
            .is_ok_and(|current| current >= wanted);
        if !enough {
            fs::write(path, wanted.to_string())
                .map_err(|error| Error::io(format!("raise {path} to {wanted}"), error))?;
        }
    }
    Ok(())
}
