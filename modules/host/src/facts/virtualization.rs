//! On what kind of machine this runs: a container, a virtual machine, a host of virtual machines.
//!
//! The order of the questions is setup's, because the first answer wins and playbooks compare with its words.

use super::tree::Tree;
use super::{Found, found};

pub(super) fn gather(tree: &Tree) -> Found {
    let clues = Clues {
        first_cgroup: tree.read("/proc/1/cgroup").unwrap_or_default(),
        first_environ: tree.read("/proc/1/environ").unwrap_or_default(),
        systemd_container: tree.line("/run/systemd/container"),
        docker_file: tree.exists("/.dockerenv") || tree.exists("/.dockerinit"),
        product: tree.line("/sys/devices/virtual/dmi/id/product_name"),
        vendor: tree.line("/sys/devices/virtual/dmi/id/sys_vendor"),
        bios: tree.line("/sys/devices/virtual/dmi/id/bios_vendor"),
        kvm_device: tree.exists("/dev/kvm"),
        modules: tree.read("/proc/modules").unwrap_or_default(),
    };
    facts(&clues)
}

#[derive(Default)]
struct Clues {
    first_cgroup: String,
    /// Variables of process 1, each ended by NUL; empty unless root reads it.
    first_environ: String,
    systemd_container: Option<String>,
    docker_file: bool,
    product: Option<String>,
    vendor: Option<String>,
    bios: Option<String>,
    kvm_device: bool,
    modules: String,
}

fn facts(clues: &Clues) -> Found {
    let mut guest = guest_of(clues);
    let mut host = host_of(clues);
    let (kind, role) = match (guest.first(), host.first()) {
        (Some(kind), _) => (kind.clone(), "guest"),
        (None, Some(kind)) => ((*kind).to_owned(), "host"),
        (None, None) => ("NA".to_owned(), "NA"),
    };
    guest.sort();
    guest.dedup();
    host.sort_unstable();
    found! {
        "virtualization_type": kind,
        "virtualization_role": role,
        "virtualization_tech_guest": guest,
        "virtualization_tech_host": host,
    }
}

/// Every kind of guest this is, the innermost first.
fn guest_of(clues: &Clues) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    let mut add = |kind: &str| kinds.push(kind.to_owned());
    for line in clues.first_cgroup.lines() {
        if line.contains("/docker/") || line.contains("/docker-") {
            add("docker");
            add("container");
        } else if line.contains("/lxc/") {
            add("lxc");
            add("container");
        }
    }
    let variable = clues
        .first_environ
        .split('\0')
        .find_map(|it| it.strip_prefix("container="));
    match variable {
        Some("lxc") => {
            add("lxc");
            add("container");
        }
        Some("podman") => {
            add("podman");
            add("container");
        }
        Some(name) if !name.is_empty() => add("container"),
        _ => {}
    }
    if let Some(name) = &clues.systemd_container {
        add(name);
        add("container");
    }
    if clues.docker_file {
        add("docker");
        add("container");
    }
    if let Some(kind) = machine(clues) {
        add(kind);
    }
    kinds
}

/// What the firmware says it is.
fn machine(clues: &Clues) -> Option<&'static str> {
    let is = |text: &Option<String>, words: &[&str]| {
        text.as_deref().is_some_and(|text| words.contains(&text))
    };
    let starts = |text: &Option<String>, word: &str| {
        text.as_deref().is_some_and(|text| text.starts_with(word))
    };
    let (product, vendor, bios) = (&clues.product, &clues.vendor, &clues.bios);
    if is(product, &["VirtualBox"]) || is(bios, &["innotek GmbH"]) {
        Some("virtualbox")
    } else if starts(product, "VMware") {
        Some("VMware")
    } else if is(product, &["OpenStack Compute", "OpenStack Nova"]) {
        Some("openstack")
    } else if is(product, &["KVM", "KVM Server", "Bochs", "AHV"])
        || is(
            vendor,
            &["QEMU", "Amazon EC2", "DigitalOcean", "Google", "Hetzner"],
        )
        || is(bios, &["Amazon EC2"])
    {
        Some("kvm")
    } else if is(bios, &["Xen"]) || starts(product, "HVM domU") {
        Some("xen")
    } else if is(vendor, &["Microsoft Corporation"]) && starts(product, "Virtual Machine") {
        Some("VirtualPC")
    } else if starts(product, "Parallels") || starts(vendor, "Parallels") {
        Some("parallels")
    } else {
        None
    }
}

fn host_of(clues: &Clues) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let loaded: Vec<&str> = clues
        .modules
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    if loaded.contains(&"kvm") || clues.kvm_device {
        kinds.push("kvm");
    }
    if loaded.contains(&"vboxdrv") {
        kinds.push("virtualbox");
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_innermost_guest_gives_the_type() {
        let text = |text: &str| Some(text.to_owned());
        let table = [
            (Clues::default(), "NA", "NA", json!([])),
            (
                Clues {
                    first_environ: "TERM=linux\0container=systemd-nspawn\0".to_owned(),
                    systemd_container: text("systemd-nspawn"),
                    kvm_device: true,
                    ..Clues::default()
                },
                "container",
                "guest",
                json!(["container", "systemd-nspawn"]),
            ),
            (
                // As a user that may not read process 1.
                Clues {
                    systemd_container: text("systemd-nspawn"),
                    ..Clues::default()
                },
                "systemd-nspawn",
                "guest",
                json!(["container", "systemd-nspawn"]),
            ),
            (
                Clues {
                    product: text("VirtualBox"),
                    vendor: text("innotek GmbH"),
                    bios: text("innotek GmbH"),
                    ..Clues::default()
                },
                "virtualbox",
                "guest",
                json!(["virtualbox"]),
            ),
            (
                Clues {
                    modules: "kvm_intel 1 0 - Live 0x0\nkvm 1 1 kvm_intel, Live 0x0\n".to_owned(),
                    ..Clues::default()
                },
                "kvm",
                "host",
                json!([]),
            ),
        ];
        for (clues, kind, role, guest) in table {
            let found = facts(&clues);
            assert_eq!(found["virtualization_type"], Value::from(kind));
            assert_eq!(found["virtualization_role"], Value::from(role), "{kind}");
            assert_eq!(found["virtualization_tech_guest"], guest, "{kind}");
        }
    }
}
