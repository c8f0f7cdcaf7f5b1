//! The whole site: 40 machines from an image that exists, until they answer; their memory; the plan; the stages.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

use super::figure::Figure;
use super::provider::Watch;
use crate::Site;

const IDENTITY: &str = "ansible-playbook playbooks/site.yml --tags stage4,verify";

pub fn site() -> Result<Vec<Figure>> {
    let site = Site::new("bench")?;
    site.make(&["site-env"])?;
    site.must(
        "terraform -chdir=terraform/lab apply -auto-approve -input=false -target=ondol_golden_image.base -target=ondol_golden_image.suite",
    )?;

    let watch = Watch::start();
    let apply = seconds(|| site.apply())?;
    let memory = watch.finish();
    let idle = idle_memory_mib(site.name())?;
    let plan = seconds(|| {
        site.must("terraform -chdir=terraform/lab plan -input=false -detailed-exitcode")
    })?;
    let mirror = seconds(|| site.must("ansible-playbook playbooks/site.yml --tags stage3"))?;
    let install = seconds(|| {
        site.must("ansible all --become --forks 40 -m ansible.builtin.shell -a 'apt-get update -qq && apt-get install -y -qq nginx'")
    })?;
    let stage = seconds(|| site.must(IDENTITY))?;
    let again = seconds(|| site.must(IDENTITY))?;
    Ok(vec![
        Figure::alone(
            "apply: 40 VMs until all answer SSH, addresses, inventory",
            apply,
            "s",
        ),
        Figure::alone("provider: peak resident set in that apply", memory, "MiB"),
        Figure::alone(
            "40 idle VMs: proportional set size of all their processes",
            idle,
            "MiB",
        ),
        Figure::alone("plan without changes", plan, "s"),
        Figure::alone("stage 3: mirror served, 40 VMs held to it", mirror, "s"),
        Figure::alone(
            "40 VMs at once: apt-get update, then nginx installed from the mirror",
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
