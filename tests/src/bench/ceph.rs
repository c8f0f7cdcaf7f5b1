//! Stage 6 on three storage servers: from bare machines to `HEALTH_OK`, the stage again, and a task of our pool module against the `ceph`
//! commands that say the same.
//!
//! The mirror is served and the machines have their identity before the clock starts: both are measured elsewhere.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::figure::{Figure, median};
use crate::Site;

const MACHINES: [&str; 4] = [
    "multi-cloud-admin",
    "storage-server-01",
    "storage-server-02",
    "storage-server-03",
];
const STAGE: &str = "ansible-playbook playbooks/06-storage.yml";
/// The first play after the one that waits until the cluster is well.
const AFTER_HEALTH: &str = "PLAY [Stage 6: NFS]";
const TASKS: usize = 5;
const ROUNDS: usize = 3;

/// The pool `vms`, as the stage has made it.
const OURS: &str = "
    - ondol.cloud.ceph_pool: {name: vms, size: 3, min_size: 2, crush_rule: by_host, pg_num: 32, pg_autoscale: 'off', applications: [rbd]}";
/// The same pool by the commands of Ceph's documentation, each of which may be repeated; one task, which is kind to them.
const IN_ONE_SHELL: &str = "
    - ansible.builtin.shell: >-
        set -e; ceph osd pool ls | grep -qx vms || ceph osd pool create vms 32 32 replicated by_host;
        ceph osd pool set vms size 3; ceph osd pool set vms min_size 2; ceph osd pool set vms crush_rule by_host;
        ceph osd pool set vms pg_num 32; ceph osd pool set vms pg_autoscale_mode off; ceph osd pool application enable vms rbd";
/// The same again, as playbooks have it: a task for each command.
const IN_TASKS: &str = "
    - ansible.builtin.command: ceph osd pool ls
    - ansible.builtin.command: ceph osd pool set vms size 3
    - ansible.builtin.command: ceph osd pool set vms min_size 2
    - ansible.builtin.command: ceph osd pool set vms crush_rule by_host
    - ansible.builtin.command: ceph osd pool set vms pg_num 32
    - ansible.builtin.command: ceph osd pool set vms pg_autoscale_mode off
    - ansible.builtin.command: ceph osd pool application enable vms rbd";

pub fn ceph() -> Result<Vec<Figure>> {
    let site = Site::new("bench-ceph")?;
    site.keep_machines(&MACHINES)?;
    site.make(&["lab", "STAGES=3 4"])?;

    let (healthy, first) = until_healthy(&site)?;
    let began = Instant::now();
    site.must(STAGE)?;
    let again = began.elapsed().as_secs_f64();

    let ours = per_task_ms(&site, OURS)?;
    let mut figures = vec![
        Figure::alone(
            "stage 6: from bare machines to HEALTH_OK, with pools, file system, S3 and all packages",
            healthy,
            "s",
        ),
        Figure::alone(
            "stage 6: the whole first run, with NFS, SMB and what clients are answered",
            first,
            "s",
        ),
        Figure::alone("stage 6: the second run", again, "s"),
    ];
    for (peer, tasks) in [
        ("ceph commands in one shell task", IN_ONE_SHELL),
        ("a task for each ceph command", IN_TASKS),
    ] {
        let theirs = per_task_ms(&site, tasks)?;
        figures.push(Figure::against(
            "ceph_pool, a pool that is as it should be",
            ours,
            "ms",
            peer,
            theirs,
        ));
    }
    Ok(figures)
}

/// Seconds until the cluster was well, and until the stage's end.
fn until_healthy(site: &Site) -> Result<(f64, f64)> {
    let began = Instant::now();
    let mut stage = site
        .command(STAGE)
        .env("PYTHONUNBUFFERED", "1")
        .stdout(Stdio::piped())
        .spawn()
        .context("run stage 6")?;
    let output = stage.stdout.take().expect("it is piped");
    let mut healthy = None;
    for line in BufReader::new(output).lines() {
        let line = line.context("read what stage 6 prints")?;
        if healthy.is_none() && line.starts_with(AFTER_HEALTH) {
            healthy = Some(began.elapsed().as_secs_f64());
        }
    }
    let status = stage.wait().context("wait for stage 6")?;
    ensure!(status.success(), "stage 6 ended with {status}");
    let healthy = healthy.context("stage 6 came to its end without the play after its health")?;
    Ok((healthy, began.elapsed().as_secs_f64()))
}

/// What one more repetition of the tasks adds to a play, so that start-up and connection cancel out.
fn per_task_ms(site: &Site, tasks: &str) -> Result<f64> {
    let play = |count: usize| -> Result<f64> {
        let file = site.directory().join("bench.yml");
        let text = format!(
            "- hosts: ceph[0]\n  gather_facts: false\n  become: true\n  tasks:{}\n",
            tasks.repeat(count)
        );
        fs::write(&file, text).context("write the play")?;
        let began = Instant::now();
        site.must(&format!("ansible-playbook {}", file.display()))?;
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    };
    play(1)?; // opens the shared connection and fills the caches
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push((play(TASKS + 1)? - play(1)?) / TASKS as f64);
    }
    Ok(median(times))
}
