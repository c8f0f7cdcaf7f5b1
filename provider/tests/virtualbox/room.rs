//! A room of PCs: hosts with the real VirtualBox, each with an SSH server, on one machine.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use crate::site::{Site, eventually};
use crate::support::Host;

/// Hosts, each with its port for SSH and its public key.
pub(crate) struct Room {
    pub(crate) hosts: Vec<(Host, u16, String)>,
    /// An adapter that all of them can bridge: they share this machine's.
    pub(crate) adapter: String,
}

impl Room {
    /// `None` where this machine cannot have such hosts.
    pub(crate) fn new(size: usize, site: &Site) -> Option<Self> {
        let mut hosts = Vec::new();
        for _ in 0..size {
            hosts.push(open(Host::start_reachable()?, site));
        }
        let adapters = hosts[0].0.run(&["VBoxManage", "list", "bridgedifs"]);
        let adapter = adapters.lines().find_map(|line| line.strip_prefix("Name:"));
        let adapter = adapter
            .expect("this machine has a network adapter")
            .trim()
            .to_owned();
        Some(Self { hosts, adapter })
    }

    /// The provider's `hosts`.
    pub(crate) fn hosts(&self, site: &Site) -> String {
        let mut text = String::new();
        for (index, (_, port, key)) in self.hosts.iter().enumerate() {
            let _ = writeln!(
                text,
                "srv-0{} = {{ engine = \"virtualbox\"\n ssh = {{ address = \"127.0.0.1\", port = {port}, user = \"root\", host_key = {key:?}, private_key_file = {:?} }}\n\
                 virtualbox = {{ bridged_adapter = {:?}, vboxmanage = \"/root/VBoxManage\" }} }}",
                index + 1,
                site.path("id_ed25519"),
                self.adapter
            );
        }
        text
    }

    pub(crate) fn host(&self, index: usize) -> &Host {
        &self.hosts[index].0
    }

    /// How often VBoxManage was run on a host since this was asked last.
    pub(crate) fn runs(&self, index: usize) -> usize {
        let host = self.host(index);
        let text = host.run(&["sh", "-c", "cat /root/runs 2>/dev/null; rm -f /root/runs"]);
        text.lines().count()
    }
}

/// Starts a host's SSH server. VBoxManage is counted.
pub(crate) fn open(host: Host, site: &Site) -> (Host, u16, String) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let public = std::fs::read_to_string(site.path("id_ed25519.pub")).unwrap();
    let script = format!(
        "umask 077; mkdir -p /root/.ssh; echo '{public}' >/root/.ssh/authorized_keys
         ssh-keygen -q -t ed25519 -N '' -f /root/host_key
         printf '%s\\n' '#!/bin/sh' 'echo \"$*\" >>/root/runs' 'exec /usr/lib/virtualbox/VBoxManage \"$@\"' >/root/VBoxManage; chmod 755 /root/VBoxManage
         printf '%s\\n' 'Port {port}' 'ListenAddress 127.0.0.1' 'HostKey /root/host_key' 'UsePAM no' 'PidFile none' 'PermitRootLogin yes' >/root/sshd
         /usr/sbin/sshd -f /root/sshd"
    );
    host.run(&["sh", "-ec", &script]);
    let key = host.run(&["cut", "-d ", "-f1,2", "/root/host_key.pub"]);
    let knock = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    assert!(eventually(Duration::from_secs(10), || {
        host.try_run(&["bash", "-c", &knock]).status.success()
    }));
    (host, port, key.trim().to_owned())
}

/// An appliance with one small disk, made by VirtualBox itself.
pub(crate) fn appliance(host: &Host, site: &Site) {
    appliance_called("golden", host, site);
}

/// NAME.ova; no other has its content.
pub(crate) fn appliance_called(name: &str, host: &Host, site: &Site) {
    let script = format!(
        "exec >/dev/null; VBoxManage createvm --name {name} --ostype Linux_64 --register; VBoxManage createmedium disk --filename /tmp/{name}.vdi --size 64
         VBoxManage storagectl {name} --name SATA --add sata; VBoxManage storageattach {name} --storagectl SATA --port 0 --type hdd --medium /tmp/{name}.vdi
         VBoxManage export {name} --output /tmp/{name}.ova --manifest; VBoxManage unregistervm {name} --delete"
    );
    host.run(&["sh", "-ec", &script]);
    let ova = format!("{name}.ova");
    std::fs::copy(host.path(&format!("/tmp/{ova}")), site.path(&ova)).unwrap();
}

pub(crate) fn machine(host: &Host, vm: &str, key: &str) -> String {
    let info = host.run(&[
        "/usr/lib/virtualbox/VBoxManage",
        "showvminfo",
        vm,
        "--machinereadable",
    ]);
    let prefix = format!("{key}=");
    let value = info.lines().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or("(none)").trim_matches('"').to_owned()
}
