//! One task of ours against Python's `ping`: the same Ansible, the same sshd, both pipelined, near and with 25 ms of round trip.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::delay;
use super::figure::{Figure, median};
use crate::site::repository;

const TASKS: u32 = 20;
const ROUNDS: usize = 3;
const OURS: &str = "ondol.cloud.host_identity: {hostname: '{{ here }}'}";
const PING: &str = "ansible.builtin.ping:";
/// What no module can undercut: Ansible's own work and one command over the shared connection. It is skipped in check mode.
const FLOOR: &str = "{ansible.builtin.raw: 'true', check_mode: false}";

pub fn task() -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let sshd = Sshd::start(directory.path())?;
    let far = delay::proxy(sshd.address, Duration::from_millis(25))?;
    let mut figures = Vec::new();
    for (name, address) in [("loopback", sshd.address), ("25 ms round trip", far)] {
        let ours = per_task_ms(directory.path(), address, OURS)?;
        let ping = per_task_ms(directory.path(), address, PING)?;
        figures.push(Figure::against(
            &format!("one task, {name}"),
            ours,
            "ms",
            "Python ping, pipelined",
            ping,
        ));
        let floor = per_task_ms(directory.path(), address, FLOOR)?;
        figures.push(Figure::against(
            &format!("one raw task, {name}"),
            floor,
            "ms",
            "Python ping, pipelined",
            ping,
        ));
    }
    Ok(figures)
}

/// The time that one more task adds to a play: twenty tasks against one, so that start-up and connection cancel out.
fn per_task_ms(directory: &Path, address: SocketAddr, task: &str) -> Result<f64> {
    let inventory = directory.join("inventory.yml");
    let key = directory.join("key");
    fs::write(
        &inventory,
        format!(
            "all: {{hosts: {{target: {{ansible_host: {}, ansible_port: {}, ansible_user: root, ansible_ssh_private_key_file: {}, \
             ansible_python_interpreter: /usr/bin/python3, here: {},\n  ansible_ssh_common_args: '-o UserKnownHostsFile={} -o HostKeyAlias=bench'}}}}}}\n",
            address.ip(),
            address.port(),
            key.display(),
            fs::read_to_string("/proc/sys/kernel/hostname")?.trim(),
            directory.join("known_hosts").display(),
        ),
    )?;
    let play = |count: u32| -> Result<f64> {
        let file = directory.join("play.yml");
        let tasks: String = (0..count).map(|_| format!("    - {task}\n")).collect();
        fs::write(
            &file,
            format!("- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}"),
        )?;
        let started = Instant::now();
        let output = Command::new("ansible-playbook")
            .arg("-i")
            .arg(&inventory)
            .args(["--check", "--diff"])
            .arg(&file)
            .env("ANSIBLE_CONFIG", repository().join("playbooks/ansible.cfg"))
            .env(
                "ANSIBLE_COLLECTIONS_PATH",
                repository().join("target/ansible"),
            )
            .stdin(Stdio::null())
            .output()
            .context("run ansible-playbook")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    };
    play(1)?; // opens the shared connection and fills the caches
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push((play(TASKS + 1)? - play(1)?) / f64::from(TASKS));
    }
    Ok(median(times))
}

/// An sshd on loopback with a key of its own; it ends with this value.
#[derive(Debug)]
struct Sshd {
    process: Child,
    address: SocketAddr,
}

impl Sshd {
    fn start(directory: &Path) -> Result<Self> {
        for key in ["host", "key"] {
            let status = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(directory.join(key))
                .status()?;
            ensure!(status.success(), "ssh-keygen ended with {status}");
        }
        fs::copy(directory.join("key.pub"), directory.join("authorized_keys"))?;
        let host_key = fs::read_to_string(directory.join("host.pub"))?;
        fs::write(directory.join("known_hosts"), format!("bench {host_key}"))?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let configuration = directory.join("sshd_config");
        fs::write(
            &configuration,
            format!(
                "ListenAddress {address}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\nStrictModes no\n\
                 PermitRootLogin prohibit-password\nUsePAM no\n",
                directory.display()
            ),
        )?;
        fs::create_dir_all("/run/sshd").context("create sshd's privilege separation directory")?;
        // A target has a home of its own: root's shell start-up files on this machine are no part of a task's cost.
        let home = std::env::home_dir().context("find the home directory")?;
        let process = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg(r#"mount -t tmpfs home "$1" && exec /usr/sbin/sshd -D -f "$2""#)
            .arg("sh")
            .arg(home)
            .arg(&configuration)
            .stderr(Stdio::null())
            .spawn()
            .context("start sshd")?;
        let sshd = Sshd { process, address };
        for _ in 0..100 {
            if TcpStream::connect(address).is_ok() {
                return Ok(sshd);
            }
            thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("sshd does not answer on {address}")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
