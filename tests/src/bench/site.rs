//! The whole site: all machines of the topology from an image that exists, until they answer; their memory; the plan; the mirror when
//! all of them install from it at once; the stages.
//!
//! `ONDOL_BENCH_MACHINES`, names with commas between, measures these alone. The mirror's VM and the name server must be among them.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

use super::figure::Figure;
use super::provider::Watch;
use crate::Site;

/// From empty lists, so that every machine fetches what it installs by. One that cannot fails the benchmark.
const INSTALL: &str = "rm -rf /var/lib/apt/lists/* && apt-get -qq -o APT::Update::Error-Mode=any update && \
     DEBIAN_FRONTEND=noninteractive apt-get -qq install -y nginx && nginx -v";
const IDENTITY: &str = "ansible-playbook playbooks/site.yml --tags stage4,verify";

pub fn site() -> Result<Vec<Figure>> {
    let site = Site::new("bench")?;
    if let Ok(machines) = std::env::var("ONDOL_BENCH_MACHINES") {
        site.keep_machines(&machines.split(',').map(str::trim).collect::<Vec<_>>())?;
    }
    // All from one mirror: MySQL's machines would have one of their own, without nginx.
    site.make(&["site-env", "SKIP=mysql"])?;
    site.must(
        "terraform -chdir=terraform/lab apply -auto-approve -input=false -target=ondol_golden_image.base -target=ondol_golden_image.suite",
    )?;

    let watch = Watch::start();
    let apply = seconds(|| site.apply())?;
    let memory = watch.finish();
    let idle = idle_memory_mib(site.name())?;
    let vms = count_hosts(&site.must("ansible all --list-hosts")?)?;
    let plan = seconds(|| {
        site.must("terraform -chdir=terraform/lab plan -input=false -detailed-exitcode")
    })?;
    let mirror = seconds(|| site.must("ansible-playbook playbooks/site.yml --tags stage3"))?;
    let install = seconds(|| {
        site.must(&format!(
            "ansible all --become --forks {vms} -m ansible.builtin.shell -a '{INSTALL}'"
        ))
    })?;
    let stage = seconds(|| site.must(IDENTITY))?;
    let again = seconds(|| site.must(IDENTITY))?;
    Ok(vec![
        Figure::alone(
            &format!("apply: {vms} VMs until all answer SSH, addresses, inventory"),
            apply,
            "s",
        ),
        Figure::alone("provider: peak resident set in that apply", memory, "MiB"),
        Figure::alone(
            &format!("{vms} idle VMs: proportional set size of all their processes"),
            idle,
            "MiB",
        ),
        Figure::alone("plan without changes", plan, "s"),
        Figure::alone(
            &format!("stage 3: mirror served, {vms} VMs held to it"),
            mirror,
            "s",
        ),
        Figure::alone(
            &format!("{vms} VMs at once: apt-get update, then nginx installed from the mirror"),
            install,
            "s",
        ),
        Figure::alone("stage 4 and verification, first run", stage, "s"),
        Figure::alone("stage 4 and verification, second run", again, "s"),
    ])
}

fn seconds(act: impl FnOnce() -> Result<String>) -> Result<f64> {
    let started = Instant::now();
    act()?;
    Ok(started.elapsed().as_secs_f64())
}

/// How many hosts `ansible --list-hosts` names: its first line is `  hosts (40):`.
fn count_hosts(listed: &str) -> Result<usize> {
    let count = listed
        .trim_start()
        .strip_prefix("hosts (")
        .and_then(|rest| rest.split_once("):"))
        .and_then(|(count, _)| count.parse().ok());
    count
        .filter(|&count| count > 0)
        .with_context(|| format!("ansible lists no hosts: {listed:?}"))
}

/// The proportional set sizes (proc_pid_smaps(5)) of the lab's container managers and everything below them.
fn idle_memory_mib(lab: &str) -> Result<f64> {
    let mark = format!("labs/{lab}/");
    let mut parents = Vec::new();
    let mut members = BTreeSet::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let status = read("status");
        if let Some(parent) = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok())
        {
            parents.push((pid, parent));
        }
        if read("cmdline").contains(&mark) {
            members.insert(pid);
        }
    }
    loop {
        let before = members.len();
        members.extend(
            parents
                .iter()
                .filter(|(_, parent)| members.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if members.len() == before {
            break;
        }
    }
    let kib: u64 = members
        .iter()
        .filter_map(|pid| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            rollup.lines().find_map(|line| {
                line.strip_prefix("Pss:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
        })
        .sum();
    Ok(kib as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_an_inventory_are_counted_and_none_is_an_error() {
        let listed = "  hosts (2):\n    dns-server\n    multi-cloud-admin\n";
        assert_eq!(count_hosts(listed).ok(), Some(2));
        for nothing in ["", "  hosts (0):\n", "hosts:\n"] {
            assert!(count_hosts(nothing).is_err(), "{nothing:?}");
        }
    }

    /// It stands in single quotes on a command line.
    #[test]
    fn what_installs_has_no_quote_of_its_own() {
        assert!(!INSTALL.contains('\''), "{INSTALL}");
    }
}
