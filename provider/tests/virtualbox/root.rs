//! `terraform/virtualbox`, the root module for a room of PCs, as it stands: the specification's first hosts with their VMs. `ONDOL_TEST_HOSTS=20`
//! makes it all of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::resources::sha256;
use crate::room::{Room, appliance, appliance_called, machine};
use crate::site::{Site, possible};

const HOSTS: usize = 4;

/// The specification's lines of the first hosts.
fn first_hosts(topology: &str, count: usize) -> String {
    let kept = topology.lines().filter(|line| {
        let host = line.split("host: SRV-").nth(1).and_then(|it| it.get(..2));
        host.is_none_or(|number| number.parse::<usize>().unwrap() <= count)
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// `showvminfo` of each VM of a plan's resources against what the plan says of it.
fn check_vm(room: &Room, plan: &Value) -> String {
    let text = |name: &str| plan[name].as_str().unwrap().to_owned();
    let (name, host) = (text("name"), text("host"));
    let number: usize = host.strip_prefix("srv-").unwrap().parse().unwrap();
    let host = room.host(number - 1);
    let is = |key: &str| machine(host, &name, key);
    assert_eq!(is("cpus"), plan["cpus"].to_string(), "{name}");
    assert_eq!(is("memory"), plan["memory_mib"].to_string(), "{name}");
    assert_eq!(
        (is("nic1"), is("bridgeadapter1"), is("VMState")),
        (
            "bridged".to_owned(),
            room.adapter.clone(),
            "poweroff".to_owned()
        ),
        "{name}"
    );
    let folder = format!("/root/VirtualBox VMs/{name}");
    let disks: BTreeMap<String, Value> =
        serde_json::from_value(plan["disks"].clone()).unwrap_or_default();
    for disk in ["system"]
        .into_iter()
        .chain(disks.keys().map(String::as_str))
    {
        assert!(host.path(&format!("{folder}/{disk}.vdi")).exists());
    }
    for (port, key) in (2..).zip(disks.keys()) {
        let attached = is(&format!("\"SATA-{port}-0\""));
        assert_eq!(attached, format!("{folder}/{key}.vdi"));
    }
    // The seed has the host name and the final address in plain text.
    let seed = std::fs::read(host.path(&format!("{folder}/seed.iso"))).unwrap();
    let seed = String::from_utf8_lossy(&seed).into_owned();
    let address = plan["seed"]["network"]["addresses"][0].as_str().unwrap();
    assert!(seed.contains(&name) && seed.contains(address), "{name}");
    format!("{}/{name}", text("host"))
}

#[test]
fn the_specifications_vms_are_made_on_a_room_of_pcs_and_mended_and_removed() {
    if !possible() {
        return;
    }
    let count = std::env::var("ONDOL_TEST_HOSTS")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(HOSTS);
    let site = Site::of_root("vboxroot", "virtualbox");
    let Some(room) = Room::new(count, &site) else {
        return;
    };
    appliance(room.host(0), &site);
    let topology = std::fs::read_to_string(site.path("terraform/topology.yaml")).unwrap();
    // One of the first hosts' machines is of the topic whose packages another suite has.
    let topology =
        first_hosts(&topology, count).replacen("groups: [ftp]", "groups: [ftp, mysql]", 1);
    site.write("terraform/topology.yaml", &topology);
    let hosts: BTreeMap<String, Value> = room
        .hosts
        .iter()
        .enumerate()
        .map(|(index, (_, port, key))| {
            let host = json!({
                "address": "127.0.0.1", "port": port, "host_key": key,
                "bridged_adapter": room.adapter, "vboxmanage": "/root/VBoxManage",
            });
            (format!("srv-{:02}", index + 1), host)
        })
        .collect();
    let mut variables = json!({
        "hosts": hosts,
        "ssh": { "user": "root", "private_key_file": site.path("id_ed25519") },
        "site_dir": site.path("id_ed25519").parent(),
        "image": site.path("golden.ova"),
        "power": "stopped",
    });
    let set = |variables: &Value| {
        site.write(
            "terraform/virtualbox/terraform.tfvars.json",
            &variables.to_string(),
        );
    };

    // A host that nobody said the address of is missed by its name, before anything is asked.
    let last = format!("srv-{count:02}");
    let known = variables["hosts"]
        .as_object_mut()
        .unwrap()
        .remove(&last)
        .unwrap();
    set(&variables);
    site.terraform(&["plan", "-input=false"])
        .failure()
        .says(&[&format!("hosts lacks {last}")]);
    variables["hosts"][&last] = known;
    set(&variables);

    // Without an image of that suite the topic is left out, and not in silence; with one its machines start from it.
    site.terraform(&["plan", "-input=false"])
        .success()
        .says(&["SKIPPED: mysql", "no image of their suite"]);
    appliance_called("other", room.host(0), &site);
    variables["images"] = json!({ "sid": site.path("other.ova") });
    set(&variables);

    let plan = site.plan_json();
    let vms: Vec<&Value> = plan["resource_changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["type"] == "ondol_vm")
        .map(|change| &change["change"]["after"])
        .collect();
    assert_eq!(vms.len(), topology.matches("{ name: ").count());
    site.terraform(&["apply", "-auto-approve", "-input=false", "-parallelism=40"])
        .success();
    let mut made: Vec<String> = vms.iter().map(|vm| check_vm(&room, vm)).collect();
    made.sort();
    assert_eq!(
        made[..2],
        ["srv-01/dns-server", "srv-01/main-controller-01"]
    );
    for (vm, image) in [
        ("ftp-server", "other.ova"),
        ("storage-server-01", "golden.ova"),
    ] {
        let key = [
            "/usr/lib/virtualbox/VBoxManage",
            "getextradata",
            vm,
            "ondol/image",
        ];
        let made_from = room.host(3).run(&key);
        assert_eq!(
            made_from.trim(),
            format!("Value: {}", sha256(&site.path(image))),
            "{vm}"
        );
    }
    let inventory = std::fs::read_to_string(site.path("inventory.yml")).unwrap();
    assert!(inventory.contains("192.168.10.12") && inventory.contains("dns-server"));
    assert_eq!(
        inventory.matches("suite: sid").count(),
        topology.matches(", mysql").count() + topology.matches("[mysql").count()
    );

    // The second plan is empty, and costs each host two runs of VBoxManage however many VMs it has.
    for index in 0..count {
        room.runs(index);
    }
    assert_eq!(site.plan(), [""; 0]);
    for index in 0..count {
        assert_eq!(room.runs(index), 2, "srv-{:02}", index + 1);
    }

    room.host(0).run(&[
        "sh",
        "-ec",
        "VBoxManage modifyvm dns-server --memory 300 --nic1 nat; VBoxManage unregistervm main-controller-01 --delete >/dev/null 2>&1",
    ]);
    let address = |name: &str| format!("module.site.ondol_vm.this[\"{name}\"]");
    assert_eq!(
        site.plan(),
        [
            format!("create {}", address("main-controller-01")),
            // It has the host key of the VM that is made anew.
            "update module.site.ondol_ansible_inventory.this".to_owned(),
            format!("update {}", address("dns-server")),
        ]
    );
    site.apply().success();
    for vm in &vms[..4] {
        check_vm(&room, vm);
    }
    assert_eq!(site.plan(), [""; 0]);

    site.terraform(&[
        "destroy",
        "-auto-approve",
        "-input=false",
        "-parallelism=40",
    ])
    .success();
    for (host, ..) in &room.hosts {
        assert_eq!(
            host.run(&["/usr/lib/virtualbox/VBoxManage", "list", "vms"]),
            ""
        );
        let left: Vec<String> = host
            .files()
            .into_iter()
            .filter(|path| path.starts_with("VirtualBox VMs/"))
            .collect();
        assert_eq!(left, [""; 0]);
    }
}
