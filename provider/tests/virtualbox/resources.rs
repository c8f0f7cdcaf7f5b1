//! What only VirtualBox has: images, appliances, snapshots and networks of a host, as resources; the data source; and each example that
//! needs a VirtualBox.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::prepared::give_processor;
use crate::room::{Room, appliance, appliance_called, machine};
use crate::site::{Site, possible};
use crate::support::Host;

const VBOXMANAGE: &str = "/usr/lib/virtualbox/VBoxManage";

fn configuration(room: &Room, site: &Site, resources: &str) -> String {
    format!(
        "terraform {{\n required_providers {{ ondol = {{ source = \"ondol/ondol\" }} }}\n}}\nprovider \"ondol\" {{\n hosts = {{\n{} lab = {{ engine = \"lab\" }}\n }}\n}}\n{resources}",
        room.hosts(site)
    )
}

fn list(host: &Host, what: &str) -> String {
    host.run(&[VBOXMANAGE, "list", what])
}

pub(crate) fn sha256(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

const IMAGE: &str = r#"
resource "ondol_image" "base" {
  host     = "srv-01"
  source   = "${path.module}/golden.ova"
  checksum = "CHECKSUM"
}
resource "ondol_vm" "clone" {
  host         = "srv-01"
  name         = "clone-01"
  image        = ondol_image.base.source
  linked_clone = true
  memory_mib   = 256
  disks        = { data = { size_mib = 8 } }
  power        = "stopped"
  seed         = { user = "ops", authorized_keys = [] }
}
"#;

const SNAPSHOT: &str = r#"
resource "ondol_vm_snapshot" "clean" {
  host    = "srv-01"
  vm      = ondol_vm.clone.id
  name    = "clean"
  restore = null
}
resource "ondol_ova_export" "clone" {
  host = "srv-01"
  vm   = ondol_vm.clone.id
  path = "/root/out/clone 01.ova"
}
"#;

#[test]
fn images_snapshots_and_appliances_are_made_found_again_mended_and_removed() {
    if !possible() {
        return;
    }
    let site = Site::new("vboximg", "");
    let Some(room) = Room::new(1, &site) else {
        return;
    };
    let host = room.host(0);
    appliance(host, &site);
    let digest = sha256(&site.path("golden.ova"));
    let text = configuration(&room, &site, IMAGE);

    // A file that is not the expected one never reaches the host; neither does one that is for a lab.
    site.write("main.tf", &text.replace("CHECKSUM", &"0".repeat(64)));
    site.apply()
        .failure()
        .says(&["not the one that is expected", &digest, "checksum"]);
    let of_lab = text.replace("host     = \"srv-01\"", "host     = \"lab\"");
    site.write("main.tf", &of_lab.replace("CHECKSUM", &digest));
    site.apply()
        .failure()
        .says(&["Host \"lab\" has no VirtualBox", "ondol_image"]);
    assert!(!host.files().iter().any(|it| it.contains("vdi")));

    site.write("main.tf", &text.replace("CHECKSUM", &digest));
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    let image = format!("/root/.ondol/images/{digest}.vdi");
    assert_eq!(
        site.attribute("ondol_image.base", "path"),
        serde_json::json!(image)
    );
    assert!(host.path(&image).exists());
    // Its file may go: the image is found by what it is.
    std::fs::rename(site.path("golden.ova"), site.path("gone.ova")).unwrap();
    assert_eq!(site.plan(), [""; 0]);
    std::fs::rename(site.path("gone.ova"), site.path("golden.ova")).unwrap();
    site.terraform(&["destroy", "-target=ondol_image.base", "-auto-approve"])
        .success();
    site.apply().success();
    // A VM that Terraform does not know of holds on to it.
    site.terraform(&["state", "rm", "ondol_vm.clone"]).success();
    site.terraform(&["destroy", "-auto-approve"])
        .failure()
        .says(&["linked clones of it", "clone-01/system.vdi"]);
    site.terraform(&["import", "ondol_vm.clone", "srv-01/clone-01"])
        .success();
    site.apply().success();

    // From an address it is fetched once, and what is not what was promised is not taken.
    let fetched = format!(
        "\nresource \"ondol_image\" \"fetched\" {{\n host = \"srv-01\"\n source = \"file:{}\"\n checksum = \"CHECKSUM\"\n cache_dir = {:?}\n}}\n",
        site.path("other.ova").display(),
        site.path("cache"),
    );
    appliance_called("other", host, &site);
    let other = sha256(&site.path("other.ova"));
    let with = text.replace("CHECKSUM", &digest);
    site.write(
        "main.tf",
        &format!("{with}{}", fetched.replace("\"CHECKSUM\"", "null")),
    );
    site.apply()
        .failure()
        .says(&["What is fetched needs a checksum"]);
    site.write(
        "main.tf",
        &format!("{with}{}", fetched.replace("CHECKSUM", &"0".repeat(64))),
    );
    site.apply()
        .failure()
        .says(&["could not be fetched", &other, "other.ova"]);
    site.write(
        "main.tf",
        &format!("{with}{}", fetched.replace("CHECKSUM", &other)),
    );
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    let file = site.attribute("ondol_image.fetched", "file");
    assert_eq!(sha256(Path::new(file.as_str().unwrap())), other);
    // Nobody is asked for it again.
    std::fs::remove_file(site.path("other.ova")).unwrap();
    site.terraform(&["destroy", "-target=ondol_image.fetched", "-auto-approve"])
        .success();
    site.apply().success();
    assert!(
        host.path(&format!("/root/.ondol/images/{other}.vdi"))
            .exists()
    );

    // Snapshots change nothing about the VM, and bring it back.
    let with = format!("{}{SNAPSHOT}", text.replace("CHECKSUM", &digest));
    site.write("main.tf", &with);
    site.apply().success();
    assert_eq!(site.plan(), [""; 0], "the disks are known under a snapshot");
    let appliance = host.path("/root/out/clone 01.ova");
    assert!(appliance.exists());
    assert_eq!(
        site.attribute("ondol_ova_export.clone", "sha256"),
        serde_json::json!(sha256(&appliance))
    );
    let id = site.attribute("ondol_vm_snapshot.clean", "id");
    let vm = site.attribute("ondol_vm.clone", "id");
    let (id, vm) = (id.as_str().unwrap(), vm.as_str().unwrap());

    host.run(&[VBOXMANAGE, "modifyvm", "clone-01", "--memory", "300"]);
    site.edit("restore = null", "restore = \"today\"");
    site.edit("memory_mib   = 256", "memory_mib   = 300");
    let planned = site.terraform(&["plan", "-input=false"]).success();
    planned.says(&["will be brought back to the snapshot \"clean\""]);
    site.apply().success();
    assert_eq!(machine(host, "clone-01", "memory"), "256");
    site.edit("memory_mib   = 300", "memory_mib   = 256");
    site.edit(
        "name    = \"clean\"",
        "name    = \"pristine\"\n description = \"new\"",
    );
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    let file = host.run(&["cat", "/root/VirtualBox VMs/clone-01/clone-01.vbox"]);
    assert!(file.contains("name=\"pristine\"") && file.contains("<Description>new<"));
    site.terraform(&["state", "rm", "ondol_vm_snapshot.clean"])
        .success();
    site.apply()
        .failure()
        .says(&["already has a snapshot \"pristine\"", id]);
    let import = format!("srv-01/{vm}/{id}");
    site.terraform(&["import", "ondol_vm_snapshot.clean", &import])
        .success();
    site.edit("restore = \"today\"", "restore = null");
    assert_eq!(site.plan(), [""; 0]);

    // What somebody removed is made again.
    host.run(&[VBOXMANAGE, "snapshot", "clone-01", "delete", "pristine"]);
    std::fs::write(&appliance, "cut off").unwrap();
    assert_eq!(
        site.plan(),
        [
            "create ondol_ova_export.clone",
            "create ondol_vm_snapshot.clean"
        ]
    );
    site.apply().success();

    site.terraform(&["destroy", "-auto-approve"]).success();
    assert_eq!(
        (list(host, "vms"), list(host, "hdds")),
        (String::new(), String::new())
    );
    let files: Vec<String> = host
        .files()
        .into_iter()
        .filter(|it| it.starts_with("VirtualBox VMs/") || it.contains(&digest))
        .collect();
    assert_eq!(files, [""; 0]);
    assert!(!appliance.exists());
}

const NETWORKS: &str = r#"
resource "ondol_nat_network" "site" {
  host          = "srv-01"
  name          = "site"
  network       = "10.0.5.0/24"
  port_forwards = { ssh = { host_port = 2222, guest_address = "10.0.5.10", guest_port = 22 } }
}
resource "ondol_host_only_network" "lan" {
  host    = "srv-01"
  address = "192.168.58.1/24"
  dhcp    = { lower_address = "192.168.58.10", upper_address = "192.168.58.99" }
}
data "ondol_host" "first" {
  name       = "srv-01"
  depends_on = [ondol_nat_network.site]
}
output "host" { value = data.ondol_host.first }
"#;

fn with_double(host: &Host) {
    let script = include_str!("host-only-double.sh");
    let path = host.path("/root/VBoxManage");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn networks_of_a_host_are_made_mended_changed_and_removed() {
    if !possible() {
        return;
    }
    let site = Site::new("vboxnet", "");
    let Some(room) = Room::new(1, &site) else {
        return;
    };
    let host = room.host(0);
    site.write("main.tf", &configuration(&room, &site, NETWORKS));

    // Without the driver there is no host-only adapter, and nobody is left to guess why.
    site.apply()
        .failure()
        .says(&["srv-01", "/dev/vboxnetctl", "vboxnetadp"]);
    with_double(host);
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    let nat = list(host, "natnets");
    assert!(nat.contains("10.0.5.0/24"), "{nat}");
    assert_eq!(
        site.attribute("ondol_host_only_network.lan", "name"),
        serde_json::json!("vboxnet0")
    );
    let dhcp = host.run(&["cat", "/root/double/dhcp-vboxnet0"]);
    assert!(dhcp.contains("192.168.58.2") && dhcp.contains("192.168.58.99"));
    let facts: serde_json::Value =
        serde_json::from_str(&site.terraform(&["output", "-json", "host"]).success().text).unwrap();
    assert_eq!(facts["engine"], "virtualbox");
    assert!(
        facts["tools"]["VirtualBox"]
            .as_str()
            .unwrap()
            .starts_with("7.")
    );
    assert!(facts["cpus"].as_u64().unwrap() > 0 && facts["memory_free_mib"].as_u64().unwrap() > 0);
    assert_eq!(facts["driver"], false);
    assert!(
        facts["adapters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it["name"] == room.adapter.as_str())
    );

    // Drift by hand, in both.
    host.run(&[
        "sh",
        "-ec",
        "/usr/lib/virtualbox/VBoxManage natnetwork modify --netname site --dhcp off --port-forward-4 delete ssh; /root/VBoxManage dhcpserver remove --interface=vboxnet0",
    ]);
    assert_eq!(
        site.plan(),
        [
            "update ondol_host_only_network.lan",
            "update ondol_nat_network.site"
        ]
    );
    site.edit("host_port = 2222", "host_port = 2223");
    site.edit("192.168.58.1/24", "192.168.59.1/24");
    site.edit("192.168.58.10", "192.168.59.10");
    site.edit("192.168.58.99", "192.168.59.99");
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    let adapters = host.run(&["/root/VBoxManage", "list", "hostonlyifs"]);
    assert!(adapters.contains("vboxnet0") && adapters.contains("192.168.59.1"));

    // A name or an address that is somebody's is refused, and can be imported.
    for (address, import, words) in [
        ("ondol_nat_network.site", "srv-01/site", ""),
        (
            "ondol_host_only_network.lan",
            "srv-01/vboxnet0",
            "already has 192.168.59.1",
        ),
    ] {
        site.terraform(&["state", "rm", address]).success();
        if !words.is_empty() {
            site.apply().failure().says(&[words, "vboxnet0"]);
        }
        site.terraform(&["import", address, import]).success();
        assert!(site.plan().iter().all(|it| it.starts_with("update ")));
    }
    site.apply().success();
    host.run(&[
        VBOXMANAGE,
        "natnetwork",
        "add",
        "--netname",
        "theirs",
        "--network",
        "10.9.0.0/24",
    ]);
    site.edit("\"site\"\n  network", "\"theirs\"\n  network");
    site.apply()
        .failure()
        .says(&["already has a NAT network \"theirs\"", "srv-01"]);
    site.edit("\"theirs\"\n  network", "\"site\"\n  network");
    site.apply().success();

    site.terraform(&["destroy", "-auto-approve"]).success();
    let nat = list(host, "natnets");
    assert!(
        nat.contains("theirs") && !nat.contains("10.0.5.0/24"),
        "{nat}"
    );
    assert_eq!(host.run(&["/root/VBoxManage", "list", "hostonlyifs"]), "");
}

/// Each example that names a VirtualBox, as it stands but for the way to its host: applied, planned again without a change, destroyed.
#[test]
fn every_example_of_virtualbox_works_as_it_is_written() {
    if !possible() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/resources");
    let mut examples: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("main.tf"))
        .collect();
    examples.sort();
    let mut site = Site::new("vboxex", "");
    let Some(room) = Room::new(1, &site) else {
        return;
    };
    let host = room.host(0);
    appliance(host, &site);
    with_double(host);
    give_processor(host, "fpu vmx");
    let image = site.path("golden.ova");
    let key = std::fs::read_to_string(site.path("id_ed25519.pub")).unwrap();
    site.set("authorized_key", key);
    site.set("image", image.display().to_string());
    site.set("image_sha256", sha256(&image));
    let mut tried = 0;
    for example in examples {
        let text = std::fs::read_to_string(&example).unwrap();
        let local = "    srv-01 = { engine = \"virtualbox\" }\n";
        if !text.contains(local) {
            continue;
        }
        tried += 1;
        eprintln!("=== {}", example.display());
        site.write("main.tf", &text.replace(local, &room.hosts(&site)));
        site.apply().success();
        assert_eq!(site.plan(), [""; 0]);
        site.terraform(&["destroy", "-auto-approve"]).success();
        assert_eq!(list(host, "vms"), "");
    }
    assert!(tried >= 6, "{tried}");
}
