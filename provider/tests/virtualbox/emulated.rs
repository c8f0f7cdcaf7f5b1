//! Guests that run: the golden appliance as a VM of the real VirtualBox, its own disks and seed started by an emulator in the place of the
//! kernel driver ([`DOUBLE`]). What VirtualBox's own execution of a guest does is not shown here.
//!
//! Needs QEMU, and what the image needs to be built (see the tests of `ondol-image`).

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::room::{Room, machine, open};
use crate::site::{Site, possible};
use crate::support::Host;

const DOUBLE: &str = include_str!("emulated.sh");

const HEAD: &str = "terraform {\n required_providers { ondol = { source = \"ondol/ondol\" } }\n}\n";

/// The disk that the tests of `ondol-image` boot, too: it is built once.
const IMAGE: &str = r#"
resource "ondol_golden_image" "base" {
  suite   = "bookworm"
  formats = ["ova"]
}
"#;

const NODE: &str = r#"
resource "ondol_vm" "node" {
  host       = "srv-01"
  name       = "node-01"
  image      = ondol_golden_image.base.ova_path
  cpus       = 2
  memory_mib = 1024
  wait_for   = "ssh"
  seed = {
    user            = "ops"
    authorized_keys = [file("${path.module}/id_ed25519.pub")]
    network         = { addresses = ["10.77.4.20/24"], gateway = "10.77.4.1" }
  }
  timeouts = { create = "30m", update = "30m" }
}

resource "ondol_netplan" "node" {
  host                    = ondol_vm.node.host
  vm                      = ondol_vm.node.id
  first_boot_address      = ondol_vm.node.first_boot_address
  hostname                = "node-01"
  confirm_timeout_seconds = 300
  ethernets = {
    enp0s3 = { addresses = ["10.77.4.21/24"], gateway4 = "10.77.4.1", nameservers = { addresses = ["10.77.4.1"] } }
  }
  ssh = {
    user             = "ops"
    private_key_file = "${path.module}/id_ed25519"
    host_key         = ondol_vm.node.ssh_host_key
  }
}
"#;

const EXPORT: &str = r#"
resource "ondol_ova_export" "node" {
  host = ondol_vm.node.host
  vm   = ondol_vm.node.id
  path = "/root/node.ova"
}
"#;

const COPY: &str = r#"
resource "ondol_vm" "copy" {
  host       = "srv-01"
  name       = "copy-01"
  image      = "${path.module}/node.ova"
  cpus       = 2
  memory_mib = 1024
  POWER
  seed = {
    user            = "ops"
    authorized_keys = [file("${path.module}/id_ed25519.pub")]
    network         = { addresses = ["10.77.4.30/24"], gateway = "10.77.4.1" }
  }
  timeouts = { create = "30m", update = "30m" }
}
"#;
const OFF: &str = "power = \"stopped\"";
const ON: &str = "wait_for = \"ssh\"";

struct Lan<'a> {
    site: &'a Site,
    host: &'a Host,
}

impl Lan<'_> {
    /// What a guest answers over SSH, with the host key that the state has.
    fn ssh(&self, vm: &str, address: &str, command: &str) -> Result<String, String> {
        let key = self.site.attribute(vm, "ssh_host_key");
        let known = self.site.path("known_hosts");
        std::fs::write(&known, format!("{address} {}\n", key.as_str().unwrap())).unwrap();
        let words = self.host.network();
        let output = Command::new(&words[0])
            .args(&words[1..])
            .args(["ssh", "-F", "none", "-l", "ops", "-i"])
            .arg(self.site.path("id_ed25519"))
            .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=20"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .args([address, command])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    fn consoles(&self) -> String {
        let script = "for it in /run/emulated/*; do cat $it/qemu; tail -n 60 $it/serial; done";
        self.host.run(&["sh", "-c", script])
    }
}

#[test]
fn a_guest_boots_from_its_seed_changes_its_address_keeps_it_and_is_carried_on() {
    if !possible() {
        return;
    }
    let mut site = Site::new("vboxguest", "");
    let Some(host) = Host::start_with_lan() else {
        return;
    };
    // It comes from this machine's apt sources, which the host's network does not reach.
    let nobody = "provider \"ondol\" {\n hosts = {}\n}\n";
    site.write("main.tf", &format!("{HEAD}{nobody}{IMAGE}"));
    site.apply().success();

    let room = Room {
        hosts: vec![open(host, &site)],
        adapter: "lan0".to_owned(),
    };
    let host = room.host(0);
    let double = host.path("/root/VBoxManage");
    std::fs::write(&double, DOUBLE).unwrap();
    std::fs::set_permissions(&double, std::fs::Permissions::from_mode(0o755)).unwrap();
    site.enter(host.network());
    let head = format!(
        "{HEAD}provider \"ondol\" {{\n hosts = {{\n{} }}\n}}\n{IMAGE}",
        room.hosts(&site)
    );
    let lan = Lan { site: &site, host };

    // Made, started, greeted where its seed has it, and moved to where its netplan has it.
    site.write("main.tf", &format!("{head}{NODE}"));
    let made = site.apply();
    assert_eq!(made.code, Some(0), "{}\n{}", made.text, lan.consoles());
    let look = "hostname; ip -4 -brief address show scope global | tr -s ' '; ls /etc/netplan; cat /etc/machine-id; \
                df --output=size --block-size=1M / | tail -n 1; sudo grep WARNING /var/log/cloud-init.log || echo none; sync";
    let said = lan.ssh("ondol_vm.node", "10.77.4.21", look).unwrap();
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    let [
        "node-01",
        "enp0s3 UP 10.77.4.21/24",
        "60-ondol.yaml",
        machine_id,
        size,
        "none",
    ] = said[..]
    else {
        panic!("{said:#?}")
    };
    // The image's root partition has less than 2 GiB of the disk's ten.
    assert!(size.parse::<u32>().unwrap() > 9500, "{size}");
    assert_eq!(machine_id.len(), 32, "{machine_id}");
    assert_eq!(site.plan(), [""; 0]);

    // Off by its power button, which the guest is asked with, and written out.
    let off = NODE.replace("wait_for   = \"ssh\"", "power      = \"stopped\"");
    site.write("main.tf", &format!("{head}{off}"));
    site.apply().success();
    let id = site.attribute("ondol_vm.node", "id");
    let button = format!("controlvm {} acpipowerbutton", id.as_str().unwrap());
    let runs = std::fs::read_to_string(host.path("/root/runs")).unwrap();
    assert!(runs.lines().any(|it| it == button), "{runs}");
    assert_eq!(machine(host, "node-01", "VMState"), "poweroff");
    site.write("main.tf", &format!("{head}{off}{EXPORT}"));
    site.apply().success();

    // Read in again it is another VM with the same content.
    std::fs::copy(host.path("/root/node.ova"), site.path("node.ova")).unwrap();
    let copy = |power: &str| format!("{head}{off}{EXPORT}{}", COPY.replace("POWER", power));
    site.write("main.tf", &copy(OFF));
    site.apply().success();
    let disk = |vm: &str| host.path(&format!("/root/VirtualBox VMs/{vm}/system.vdi"));
    let compared = Command::new("qemu-img")
        .arg("compare")
        .args([disk("node-01"), disk("copy-01")])
        .output()
        .unwrap();
    let compared = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(compared.contains("Images are identical"), "{compared}");

    // Its seed makes it one of its own. The address that the content brings with it is free while the first one is off.
    site.write("main.tf", &copy(ON));
    let booted = site.apply();
    assert_eq!(booted.code, Some(0), "{}\n{}", booted.text, lan.consoles());
    assert_eq!(
        lan.ssh("ondol_vm.copy", "10.77.4.30", "hostname").unwrap(),
        "copy-01"
    );
    let key = |vm: &str| site.attribute(vm, "ssh_host_key");
    assert_ne!(key("ondol_vm.copy"), key("ondol_vm.node"));

    // On again it is where it was, and Terraform finds it there.
    site.write("main.tf", &format!("{head}{NODE}{EXPORT}"));
    let started = site.apply();
    assert_eq!(
        started.code,
        Some(0),
        "{}\n{}",
        started.text,
        lan.consoles()
    );
    let kept = lan.ssh("ondol_vm.node", "10.77.4.21", look).unwrap();
    let kept: Vec<&str> = kept.lines().map(str::trim).collect();
    assert_eq!(kept, said);
    assert_eq!(site.plan(), [""; 0]);

    site.terraform(&["destroy", "-auto-approve", "-input=false"])
        .success();
    let left = host.run(&["/usr/lib/virtualbox/VBoxManage", "list", "vms"]);
    assert_eq!(left, "");
}
