//! Limits: memory, processors and processes of each VM, by cgroup version 1, 2 or the hybrid of both, whatever the machine mounts.
//!
//! Each VM has one group of the same path in every hierarchy. That it has its own is needed even without limits: the systemds of two
//! containers in one group would take each other's services for their own.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    mount: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Controllers, or `name=systemd`.
    V1(Vec<String>),
    /// Controllers that the root offers; none in a hybrid machine.
    V2(Vec<String>),
}

/// Which limits this machine can put into force. Where one is false, VMs run without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub memory: bool,
    pub cpu: bool,
    pub pids: bool,
}

/// Processes and threads of one VM: enough for Kubernetes, too few to starve the machine's pid table.
const PIDS_MAX: u32 = 16384;
/// The kernel's default period, in microseconds.
const CPU_PERIOD: u64 = 100_000;

#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    pub(crate) fn of_this_machine() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| Error::io("find the cgroup mounts", error))?;
        let mut hierarchies = parse_mounts(&text);
        for hierarchy in &mut hierarchies {
            if let Kind::V2(controllers) = &mut hierarchy.kind {
                let offered = fs::read_to_string(hierarchy.mount.join("cgroup.controllers"))
                    .unwrap_or_default();
                *controllers = offered.split_whitespace().map(str::to_owned).collect();
            }
        }
        Ok(Self { hierarchies })
    }

    pub(crate) fn limits(&self) -> Limits {
        let has = |controller: &str| {
            self.hierarchies
                .iter()
                .any(|hierarchy| hierarchy.has(controller))
        };
        Limits {
            memory: has("memory"),
            cpu: has("cpu"),
            pids: has("pids"),
        }
    }

    /// Version 2 only: a newer systemd refuses to run in anything else.
    pub(crate) fn is_unified(&self) -> bool {
        !self
            .hierarchies
            .iter()
            .any(|hierarchy| matches!(hierarchy.kind, Kind::V1(_)))
    }

    /// Makes the group and sets its limits. Answers with the files through which a process joins it.
    pub(crate) fn create(&self, group: &str, cpus: u32, memory_mib: u64) -> Result<Vec<PathBuf>> {
        for hierarchy in &self.hierarchies {
            hierarchy.create(group)?;
        }
        self.set_cpus(group, cpus)?;
        self.set_memory(group, memory_mib)?;
        for hierarchy in self
            .hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.has("pids"))
        {
            write(
                &hierarchy.mount.join(group).join("pids.max"),
                &PIDS_MAX.to_string(),
            )?;
        }
        Ok(self
            .hierarchies
            .iter()
            .map(|hierarchy| hierarchy.mount.join(group).join("cgroup.procs"))
            .collect())
    }

    pub(crate) fn set_cpus(&self, group: &str, cpus: u32) -> Result<()> {
        let quota = u64::from(cpus) * CPU_PERIOD;
        for hierarchy in self
            .hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.has("cpu"))
        {
            let dir = hierarchy.mount.join(group);
            match hierarchy.kind {
                Kind::V1(_) => write(&dir.join("cpu.cfs_quota_us"), &quota.to_string())?,
                Kind::V2(_) => write(&dir.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?,
            }
        }
        Ok(())
    }

    pub(crate) fn set_memory(&self, group: &str, memory_mib: u64) -> Result<()> {
        let bytes = (memory_mib * 1024 * 1024).to_string();
        for hierarchy in self
            .hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.has("memory"))
        {
            let file = match hierarchy.kind {
                Kind::V1(_) => "memory.limit_in_bytes",
                Kind::V2(_) => "memory.max",
            };
            write(&hierarchy.mount.join(group).join(file), &bytes)?;
        }
        Ok(())
    }

    /// Where another process joins a running VM. In version 2 a group with children takes no processes: systemd-nspawn has made
    /// `supervisor` below it.
    pub(crate) fn join_files(&self, group: &str) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .map(|hierarchy| {
                let dir = hierarchy.mount.join(group);
                let supervisor = dir.join("supervisor");
                if supervisor.is_dir() { supervisor } else { dir }.join("cgroup.procs")
            })
            .filter(|path| path.exists())
            .collect()
    }

    /// Bytes that the VM could not give back: usage without the page cache that the kernel would drop first.
    pub(crate) fn memory_used(&self, group: &str) -> Option<u64> {
        let hierarchy = self
            .hierarchies
            .iter()
            .find(|hierarchy| hierarchy.has("memory"))?;
        let dir = hierarchy.mount.join(group);
        let (usage, inactive) = match hierarchy.kind {
            Kind::V1(_) => ("memory.usage_in_bytes", "total_inactive_file "),
            Kind::V2(_) => ("memory.current", "inactive_file "),
        };
        let usage: u64 = fs::read_to_string(dir.join(usage))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
        let inactive = stat
            .lines()
            .find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok());
        Some(usage.saturating_sub(inactive.unwrap_or(0)))
    }

    /// Every process in the group or below it, in any hierarchy.
    pub(crate) fn processes(&self, group: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        for hierarchy in &self.hierarchies {
            for dir in tree(&hierarchy.mount.join(group)) {
                let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                pids.extend(
                    text.split_whitespace()
                        .filter_map(|pid| pid.parse::<i32>().ok())
                        .filter(|pid| *pid > 0),
                );
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes the group and all below it. It must have no processes; what has just died is waited for.
    pub(crate) fn remove(&self, group: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        for hierarchy in &self.hierarchies {
            for dir in tree(&hierarchy.mount.join(group)) {
                remove_dir(&dir, deadline)?;
            }
        }
        Ok(())
    }

    /// Removes a group that only held others, if it is empty.
    pub(crate) fn remove_if_empty(&self, group: &str) {
        for hierarchy in &self.hierarchies {
            // Not empty is a good reason to stay, and not an error.
            drop(fs::remove_dir(hierarchy.mount.join(group)));
        }
    }

    /// Names of the groups directly below `group`.
    pub(crate) fn children(&self, group: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .hierarchies
            .iter()
            .filter_map(|hierarchy| fs::read_dir(hierarchy.mount.join(group)).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        match &self.kind {
            Kind::V1(controllers) | Kind::V2(controllers) => {
                controllers.iter().any(|name| name == controller)
            }
        }
    }

    fn create(&self, group: &str) -> Result<()> {
        let mut dir = self.mount.clone();
        for part in Path::new(group) {
            if let Kind::V2(controllers) = &self.kind {
                for controller in ["cpu", "memory", "pids"]
                    .iter()
                    .filter(|name| controllers.iter().any(|c| c == *name))
                {
                    write(
                        &dir.join("cgroup.subtree_control"),
                        &format!("+{controller}"),
                    )?;
                }
            }
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(Error::io(
                        format!("create the cgroup {}", dir.display()),
                        error,
                    ));
                }
                Ok(()) => self.inherit_cpuset(&parent, &dir)?,
            }
        }
        Ok(())
    }

    /// In version 1 a new cpuset is empty, and an empty one takes no process.
    fn inherit_cpuset(&self, parent: &Path, dir: &Path) -> Result<()> {
        if matches!(self.kind, Kind::V1(_)) && self.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read_to_string(parent.join(file)).map_err(|error| {
                    Error::io(format!("read {}", parent.join(file).display()), error)
                })?;
                write(&dir.join(file), value.trim())?;
            }
        }
        Ok(())
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value)
        .map_err(|error| Error::io(format!("write {value} to {}", path.display()), error))
}

/// Directories from the leaves to `root`.
fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(root) {
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            found.extend(tree(&entry.path()));
        }
        found.push(root.to_owned());
    }
    found
}

fn remove_dir(dir: &Path, deadline: Instant) -> Result<()> {
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // A process that was killed stays in its group until it is reaped.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                return Err(Error::io(
                    format!("remove the cgroup {}", dir.display()),
                    error,
                ));
            }
        }
    }
}

/// The hierarchies in the text of /proc/PID/mountinfo (proc(5)); each once, where it was mounted first.
fn parse_mounts(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(mount), mut right) = (left.split(' ').nth(4), right.split(' ')) else {
            continue;
        };
        let kind = match right.next() {
            Some("cgroup") => {
                const NOT_CONTROLLERS: &[&str] = &[
                    "rw",
                    "ro",
                    "xattr",
                    "clone_children",
                    "noprefix",
                    "cpuset_v2_mode",
                ];
                let options = right.nth(1).unwrap_or_default().split(',');
                Kind::V1(
                    options
                        .filter(|option| {
                            !NOT_CONTROLLERS.contains(option)
                                && !option.starts_with("release_agent=")
                        })
                        .map(str::to_owned)
                        .collect(),
                )
            }
            Some("cgroup2") => Kind::V2(Vec::new()),
            _ => continue,
        };
        if !found.iter().any(|hierarchy| hierarchy.kind == kind) {
            found.push(Hierarchy {
                mount: PathBuf::from(mount.replace("\\040", " ")),
                kind,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(mount: &str, controllers: &[&str]) -> Hierarchy {
        Hierarchy {
            mount: mount.into(),
            kind: Kind::V1(controllers.iter().map(|&c| c.to_owned()).collect()),
        }
    }

    #[test]
    fn a_hybrid_machine_shows_each_hierarchy_once() {
        let text = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
99 31 0:29 / /elsewhere rw,relatime - cgroup cgroup rw,cpu,cpuacct
";
        assert_eq!(
            parse_mounts(text),
            [
                v1("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                v1("/sys/fs/cgroup/systemd", &["name=systemd"]),
                Hierarchy {
                    mount: "/sys/fs/cgroup/unified".into(),
                    kind: Kind::V2(vec![])
                },
            ]
        );
    }

    #[test]
    fn limits_are_those_of_the_controllers_wherever_they_are() {
        let hybrid = Cgroups {
            hierarchies: vec![v1("/m", &["memory"]), v1("/s", &["name=systemd"])],
        };
        assert_eq!(
            hybrid.limits(),
            Limits {
                memory: true,
                cpu: false,
                pids: false
            }
        );
        assert!(!hybrid.is_unified());
        let kind = Kind::V2(vec!["cpu".into(), "memory".into(), "pids".into()]);
        let unified = Cgroups {
            hierarchies: vec![Hierarchy {
                mount: "/sys/fs/cgroup".into(),
                kind,
            }],
        };
        assert_eq!(
            unified.limits(),
            Limits {
                memory: true,
                cpu: true,
                pids: true
            }
        );
        assert!(unified.is_unified());
    }
}
