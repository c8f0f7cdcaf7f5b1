//! VMs that terra-farm's provider made, taken over by a `moved` block: the state is written as that provider writes it, and the VM is made
//! as it makes one.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::room::{Room, appliance, machine};
use crate::site::{Site, possible};

const CONFIGURATION: &str = r#"
resource "ondol_vm" "node" {
  host       = "srv-02"
  name       = "node-01"
  image      = "${path.module}/golden.ova"
  cpus       = 2
  memory_mib = 512
  power      = "stopped"
  network_interfaces = [
    { name = "enp0s3", type = "bridged", adapter = "ADAPTER" },
    { name = "enp0s8", type = "nat" },
  ]
}
moved {
  from = virtualbox_vm.node
  to   = ondol_vm.node
}
"#;

/// The address of a provider's registry, as this Terraform writes it into states.
fn registry(site: &Site) -> String {
    let text = site.terraform(&["providers"]).text;
    let start = text.find("provider[").unwrap() + "provider[".len();
    text[start..].split("/ondol/").next().unwrap().to_owned()
}

#[test]
fn a_vm_of_terra_farms_is_taken_over_without_being_touched() {
    if !possible() {
        return;
    }
    let site = Site::new("vboxmov", "");
    let Some(room) = Room::new(2, &site) else {
        return;
    };
    let host = room.host(1);
    appliance(host, &site);
    let script = format!(
        "exec >/dev/null; b=/root/.terraform/virtualbox/machine; VBoxManage createvm --name node-01 --ostype Linux_64 --basefolder $b --register
         VBoxManage modifyvm node-01 --cpus 2 --memory 512 --vram 20 --nic1 bridged --bridgeadapter1 '{}' --nictype1 82545EM --nic2 nat --boot1 disk --boot2 none --boot3 none --boot4 none
         VBoxManage createmedium disk --filename $b/node-01/disk.vdi --size 32
         VBoxManage storagectl node-01 --name SATA --add sata --portcount 2; VBoxManage storageattach node-01 --storagectl SATA --port 0 --type hdd --medium $b/node-01/disk.vdi",
        room.adapter
    );
    host.run(&["sh", "-ec", &script]);
    let uuid = machine(host, "node-01", "UUID");

    let configuration = format!(
        "terraform {{\n required_providers {{ ondol = {{ source = \"ondol/ondol\" }} }}\n}}\nprovider \"ondol\" {{\n hosts = {{\n{} }}\n}}\n{}",
        room.hosts(&site),
        CONFIGURATION.replace("ADAPTER", &room.adapter)
    );
    site.write("main.tf", &configuration);
    // Terraform wants every provider of a state installed, whether it asks it or not. Ours stands in for the one that is left.
    let ours = Path::new(env!("CARGO_BIN_EXE_terraform-provider-ondol"));
    std::fs::create_dir(site.path("former")).unwrap();
    symlink(ours, site.path("former/terraform-provider-virtualbox")).unwrap();
    let cli = format!(
        "provider_installation {{\n  dev_overrides {{\n    \"ondol/ondol\" = {:?}\n    \"terra-farm/virtualbox\" = {:?}\n  }}\n  direct {{}}\n}}\n",
        ours.parent().unwrap(),
        site.path("former")
    );
    site.write("cli.tfrc", &cli);
    let provider = format!("provider[\"{}/terra-farm/virtualbox\"]", registry(&site));
    let attributes = json!({
        "id": uuid, "name": "node-01", "image": "./ubuntu.box", "url": null, "cpus": 2, "memory": "512 mib", "status": "poweroff",
        "user_data": "", "checksum": "", "checksum_type": "", "optical_disks": null, "boot_order": ["disk", "none", "none", "none"],
        "network_adapter": [
            { "type": "bridged", "device": "IntelPro1000MTServer", "host_interface": room.adapter, "mac_address": "080027AABBCC",
              "status": "down", "ipv4_address": "", "ipv4_address_available": "no" },
            { "type": "nat", "device": "IntelPro1000MTDesktop", "host_interface": "", "mac_address": "080027AABBCD",
              "status": "down", "ipv4_address": "", "ipv4_address_available": "no" },
        ],
    });
    let state = json!({
        "version": 4, "terraform_version": "1.11.0", "serial": 3, "lineage": "5a3f7f0e-0000-4000-8000-000000000001", "outputs": {},
        "resources": [{
            "mode": "managed", "type": "virtualbox_vm", "name": "node", "provider": provider,
            "instances": [{ "schema_version": 0, "attributes": attributes }],
        }],
    });
    site.write("terraform.tfstate", &state.to_string());

    // Without a look at the hosts nobody knows which of them has it, and it must not be made anew for that.
    site.terraform(&["plan", "-input=false", "-refresh=false"])
        .failure()
        .says(&["\"node-01\" was moved, but not looked at yet"]);
    let before = host.run(&[
        "cat",
        "/root/.terraform/virtualbox/machine/node-01/node-01.vbox",
    ]);
    let plan = site.plan_json();
    let changes = site.difference(&plan, "ondol_vm.node");
    let changed: Vec<&str> = changes.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(changed, ["image"], "{changes:?}");
    assert_eq!(
        plan["resource_changes"][0]["previous_address"],
        "virtualbox_vm.node"
    );
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    assert_eq!(site.state(), ["ondol_vm.node"]);
    assert_eq!(
        site.attribute("ondol_vm.node", "id"),
        json!(uuid),
        "the same VM"
    );
    let after = host.run(&[
        "cat",
        "/root/.terraform/virtualbox/machine/node-01/node-01.vbox",
    ]);
    assert_eq!(before, after, "nothing about it was changed");

    // From now on it is managed like any other.
    site.edit("memory_mib = 512", "memory_mib = 640");
    assert_eq!(site.plan(), ["update ondol_vm.node"]);
    site.apply().success();
    assert_eq!(machine(host, "node-01", "memory"), "640");
    assert_eq!(machine(host, "node-01", "UUID"), uuid);
    assert_eq!(site.plan(), [""; 0]);
    site.terraform(&["destroy", "-auto-approve"]).success();
    let left = host.run(&["ls", "/root/.terraform/virtualbox/machine"]);
    assert_eq!(left, "");

    // A new VM cannot do without a seed.
    site.apply()
        .failure()
        .says(&["has no seed", "give it a user and a public key"]);
}
