//! `ondol_vm` on hosts over SSH: made, mended, changed, imported, removed; and what stands against a VM.

use crate::room::{Room, appliance, machine};
use crate::site::{Site, possible};

const VMS: &str = r#"
terraform {
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}

provider "ondol" {
  hosts = {
HOSTS
  }
}

locals {
  vms = {
    dns-01 = { host = "srv-01", memory_mib = 256, disks = {} }
    web-01 = { host = "srv-01", memory_mib = 512, disks = { data = { size_mib = 16 } } }
    db-01  = { host = "srv-02", memory_mib = 512, disks = { data = { size_mib = 32 }, log = { size_mib = 8 } } }
    db-02  = { host = "srv-02", memory_mib = 512, disks = {} }
  }
}

resource "ondol_vm" "vm" {
  for_each        = local.vms
  host            = each.value.host
  name            = each.key
  image           = "${path.module}/golden.ova"
  cpus            = 2
  memory_mib      = each.value.memory_mib
  disks           = each.value.disks
  os_type         = "Ubuntu_64"
  system_disk_mib = 100
  boot_order      = ["disk"]
  linked_clone    = each.key == "db-02"
  power           = "stopped"
  network_interfaces = each.key != "web-01" ? null : [
    { name = "enp0s3" },
    { name = "nat0", type = "nat", port_forwards = { ssh = { host_address = "127.0.0.1", host_port = 2222, guest_port = 22 } } },
  ]
  seed = {
    user            = "ops"
    authorized_keys = [file("${path.module}/id_ed25519.pub")]
  }
}
"#;

#[test]
fn vms_on_hosts_over_ssh_are_made_mended_changed_and_removed() {
    if !possible() {
        return;
    }
    let site = Site::new("vbox", "");
    let Some(room) = Room::new(2, &site) else {
        return;
    };
    appliance(room.host(0), &site);
    site.write("main.tf", &VMS.replace("HOSTS", &room.hosts(&site)));

    site.apply().success();
    assert_eq!(machine(room.host(0), "web-01", "memory"), "512");
    assert_eq!(
        machine(room.host(0), "dns-01", "bridgeadapter1"),
        room.adapter
    );
    assert_eq!(
        machine(room.host(0), "web-01", "Forwarding(0)"),
        "ssh,tcp,127.0.0.1,2222,,22"
    );
    assert_eq!(machine(room.host(1), "db-01", "cpus"), "2");
    assert_eq!(site.plan(), [""; 0]);

    // What a plan costs where nothing changes: two lists.
    room.runs(0);
    assert_eq!(site.plan(), [""; 0]);
    assert_eq!(room.runs(0), 2);

    room.host(1).run(&["sh", "-ec", "VBoxManage modifyvm db-01 --memory 300 --cpus 1 --nic1 nat; VBoxManage unregistervm db-02 >/dev/null; rm -r '/root/VirtualBox VMs/db-02'"]);
    assert_eq!(
        site.plan(),
        [
            "create ondol_vm.vm[\"db-02\"]",
            "update ondol_vm.vm[\"db-01\"]"
        ]
    );
    site.apply().success();
    assert_eq!(machine(room.host(1), "db-01", "memory"), "512");
    assert_eq!(site.plan(), [""; 0]);

    site.edit(
        "disks = { data = { size_mib = 16 } }",
        "disks = { data = { size_mib = 24 }, more = { size_mib = 8 } }",
    );
    site.edit("system_disk_mib = 100", "system_disk_mib = 120");
    site.edit("host_port = 2222", "host_port = 2223");
    site.edit("user            = \"ops\"", "user            = \"admin\"");
    let changes = site.plan();
    assert!(
        changes.len() == 4 && changes.iter().all(|it| it.starts_with("update ")),
        "{changes:?}"
    );
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    assert_eq!(
        machine(room.host(0), "web-01", "Forwarding(0)"),
        "ssh,tcp,127.0.0.1,2223,,22"
    );

    // Out of the state and in again by name.
    site.terraform(&["state", "rm", "ondol_vm.vm[\"web-01\"]"])
        .success();
    let refused = site.apply().failure();
    refused.says(&[
        "VM \"web-01\" already exists",
        "srv-01",
        "import it by its name",
    ]);
    site.terraform(&["import", "ondol_vm.vm[\"web-01\"]", "srv-01/web-01"])
        .success();
    let after = site.plan();
    assert!(
        after.iter().all(|it| it.starts_with("update ")),
        "{after:?}"
    );
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);

    site.terraform(&["destroy", "-auto-approve", "-input=false"])
        .success();
    for index in 0..2 {
        let host = room.host(index);
        assert_eq!(
            host.run(&["/usr/lib/virtualbox/VBoxManage", "list", "vms"]),
            ""
        );
        assert!(
            !host
                .files()
                .iter()
                .any(|path| path.starts_with("VirtualBox VMs/")),
            "{:?}",
            host.files()
        );
    }
}

#[test]
fn what_stands_against_a_vm_is_said_with_its_host_and_attribute() {
    if !possible() {
        return;
    }
    let site = Site::new("vboxbad", "");
    let Some(room) = Room::new(2, &site) else {
        return;
    };
    appliance(room.host(0), &site);
    let hosts = room.hosts(&site);
    let good = VMS.replace("HOSTS", &hosts);
    let only_web = good
        .lines()
        .filter(|line| {
            !["    dns-01 =", "    db-01  =", "    db-02  ="]
                .iter()
                .any(|it| line.starts_with(it))
        })
        .collect::<Vec<_>>()
        .join("\n");
    let refused = |from: &str, to: &str, words: &[&str]| {
        assert!(only_web.contains(from), "{from}");
        site.write("main.tf", &only_web.replace(from, to));
        site.apply().failure().says(words);
    };
    refused(
        "{ name = \"enp0s3\" }",
        "{ name = \"enp0s3\", type = \"bridged\", adapter = \"eth77\" }",
        &[
            "srv-01",
            "network_interfaces[0].adapter",
            "eth77",
            &room.adapter,
        ],
    );
    refused(
        "Ubuntu_64",
        "Ubuntu-22",
        &["srv-01", "os_type", "Ubuntu22_LTS_64"],
    );
    refused(
        "boot_order      = [\"disk\"]",
        "boot_order      = [\"cd\"]",
        &["boot_order[0]", "dvd"],
    );
    refused("golden.ova", "missing.ova", &["srv-01", "missing.ova"]);
    refused(
        "system_disk_mib = 100",
        "system_disk_mib = 10",
        &["system_disk_mib", "64 MiB"],
    );
    refused(
        "vboxmanage = \"/root/VBoxManage\"",
        "vboxmanage = \"/root/none\"",
        &["srv-01", "/root/none"],
    );
    let key = &room.hosts[0].2;
    let other = &room.hosts[1].2;
    refused(key, other, &["srv-01", "offered the host key"]);
    refused(
        "user = \"root\"",
        "user = \"nobody\"",
        &["srv-01", "nobody"],
    );
    refused(
        &format!("private_key_file = {:?}", site.path("id_ed25519")),
        "password = \"wrong\"",
        &["srv-01", "root", "password: not accepted"],
    );

    // It does not start, and it does not get lost.
    site.write("main.tf", &only_web.replace("\"stopped\"", "\"running\""));
    site.apply()
        .failure()
        .says(&["srv-01", "web-01", "did not start", "/dev/vboxdrv"]);
    assert_eq!(site.state(), ["ondol_vm.vm[\"web-01\"]"]);
    assert_eq!(machine(room.host(0), "web-01", "VMState"), "poweroff");
    site.write("main.tf", &only_web);
    let changes = site.plan();
    assert!(!changes.is_empty(), "a failed creation is tainted");
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);

    // Nothing is taken to be gone because its host does not answer.
    room.host(0).run(&["pkill", "-x", "sshd"]);
    let down = site.terraform(&["plan", "-input=false"]).failure();
    down.says(&["Host \"srv-01\" cannot be reached", "not taken to be gone"]);
    assert_eq!(site.state(), ["ondol_vm.vm[\"web-01\"]"]);
}
