//! Programs inside a running VM: those that the lab runs for its own work, and those that a user runs.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use nix::libc;

use super::Lab;
use crate::disks::{self, Attached};
use crate::error::{Error, Result};
use crate::machine;
use crate::nspawn::Places;
use crate::process::{Process, Supervisor};

impl Lab {
    /// Runs a program as root inside a running VM, to its end. A program that fails is an answer, not an error.
    pub fn exec(&self, id_or_name: &str, argv: &[&str], stdin: &[u8]) -> Result<Output> {
        let mut command = self.command(id_or_name, argv)?;
        machine::output(
            &format!("run {} in {id_or_name}", argv.join(" ")),
            &mut command,
            stdin,
        )
    }

    /// A command that will run as root inside a running VM: in all its namespaces and under its limits. Standard streams are the
    /// caller's to set.
    pub fn command(&self, id_or_name: &str, argv: &[&str]) -> Result<Command> {
        let name = self.existing(id_or_name)?.spec.name;
        let act = format!("run {}", argv.join(" "));
        let leader = self
            .supervisor(&name)?
            .and_then(|supervisor| supervisor.leader());
        let leader = leader.ok_or_else(|| Error::NotRunning {
            lab: self.name().to_owned(),
            vm: name.clone(),
            act: act.clone(),
        })?;
        self.command_in(&name, &leader, Power::Guest, argv)
    }

    pub(super) fn command_in(
        &self,
        vm: &str,
        leader: &Process,
        power: Power,
        argv: &[&str],
    ) -> Result<Command> {
        let mut groups = Vec::new();
        for path in self.inner.cgroups.join_files(&self.names(vm).cgroup) {
            let file = fs::OpenOptions::new().write(true).open(&path);
            groups
                .push(file.map_err(|error| Error::io(format!("open {}", path.display()), error))?);
        }
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(leader.pid.to_string())
            .args([
                "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
            ])
            .args(match power {
                Power::Machine => Vec::new(),
                Power::Guest => without_capabilities(leader.forbidden_capabilities()?),
            })
            .args(argv)
            .env_clear()
            .envs([
                ("PATH", machine::PATH),
                ("HOME", "/root"),
                ("LANG", "C.UTF-8"),
                ("LC_ALL", "C.UTF-8"),
            ])
            .current_dir("/");
        if let Some(term) = std::env::var_os("TERM") {
            command.env("TERM", term);
        }
        // SAFETY: between fork and exec only write(2) is called, on files opened above.
        unsafe {
            command.pre_exec(move || {
                use std::os::fd::AsRawFd;
                for group in &groups {
                    if libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1) == -1 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        Ok(command)
    }

    /// Shows a new disk to a running VM.
    pub(super) fn plug_disk(
        &self,
        vm: &str,
        supervisor: &Supervisor,
        places: &Places,
        key: &str,
    ) -> Result<()> {
        // Without loop devices the file would have to be bound in, which takes a start.
        let Attached::Loop(device) = disks::attach(&places.disks, key)? else {
            return Ok(());
        };
        let (major, minor) = disks::device_numbers(&device)?;
        let act = format!("show disk \"{key}\" to {vm}");
        let leader = supervisor.leader().ok_or_else(|| Error::NotRunning {
            lab: self.name().to_owned(),
            vm: vm.to_owned(),
            act: act.clone(),
        })?;
        let path = disks::guest_path(key);
        let script = "mkdir -p \"${1%/*}\" && rm -f \"$1\" && mknod -m 0660 \"$1\" b \"$2\" \"$3\" && chgrp disk \"$1\"";
        let (major, minor) = (major.to_string(), minor.to_string());
        self.set_up_inside(vm, &leader, act, "mknod", script, &[&path, &major, &minor])
    }

    /// Runs a shell script as part of what makes the VM; `tool` is what may fail in it.
    pub(super) fn set_up_inside(
        &self,
        vm: &str,
        leader: &Process,
        act: String,
        tool: &str,
        script: &str,
        args: &[&str],
    ) -> Result<()> {
        let argv = [&["/bin/sh", "-c", script, "sh"], args].concat();
        let mut command = self.command_in(vm, leader, Power::Machine, &argv)?;
        let output = machine::output(&act, &mut command, b"")?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Tool {
            act,
            tool: tool.to_owned(),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            hint: "",
        })
    }
}

/// With whose capabilities a program runs inside a VM.
#[derive(Debug, Clone, Copy)]
pub(super) enum Power {
    /// The lab's own work: what the machine's root may do.
    Machine,
    /// What root of the VM may do.
    Guest,
}

/// Words before a command that take capabilities (a bit each) from it for good. nsenter alone would pass on all that we have.
fn without_capabilities(bits: u64) -> Vec<String> {
    let dropped: Vec<String> = (0..64)
        .filter(|number| bits >> number & 1 == 1)
        .map(|number| format!("-cap_{number}"))
        .collect();
    if dropped.is_empty() {
        return Vec::new();
    }
    vec![
        "setpriv".to_owned(),
        format!("--bounding-set={}", dropped.join(",")),
        "--".to_owned(),
    ]
}
