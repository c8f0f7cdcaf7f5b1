//! `ondol_host`, stage 1, on a Linux host: what a person must change is said, what can be installed is, and what is there is left alone.
//! Its commands for Windows are compared as text only (`ondol_virtualbox::prepare`).

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::room::Room;
use crate::site::{Site, possible};
use crate::support::Host;

const CONFIGURATION: &str = r#"
resource "ondol_host" "first" {
  host          = "srv-01"
  kernel_driver = true
}
"#;

/// A double of apt-get: the network is cut, but the package is there already, under another name.
const APT: &str =
    "#!/bin/sh\necho \"$*\" >>/root/apt\nmv /usr/bin/VBoxManage.away /usr/bin/VBoxManage\n";

/// Has a host's processor say these flags, whatever this machine's are.
pub(crate) fn give_processor(host: &Host, flags: &str) {
    std::fs::write(host.path("/root/cpuinfo"), format!("flags : {flags}\n")).unwrap();
    host.cover("/proc/cpuinfo", "/root/cpuinfo");
}

#[test]
fn a_host_is_made_ready_as_far_as_a_program_can() {
    if !possible() {
        return;
    }
    let site = Site::new("vboxhost", "");
    let Some(room) = Room::new(1, &site) else {
        return;
    };
    let host = room.host(0);
    // Where a package puts it.
    let hosts = room
        .hosts(&site)
        .replace(", vboxmanage = \"/root/VBoxManage\"", "");
    site.write(
        "main.tf",
        &format!(
            "terraform {{\n required_providers {{ ondol = {{ source = \"ondol/ondol\" }} }}\n}}\nprovider \"ondol\" {{\n hosts = {{\n{hosts} }}\n}}\n{CONFIGURATION}"
        ),
    );
    give_processor(host, "fpu sse");
    site.apply()
        .failure()
        .says(&["srv-01", "turn on VT-x", "firmware setup"]);

    give_processor(host, "fpu vmx");
    site.apply()
        .failure()
        .says(&["srv-01", "load VirtualBox's kernel driver"]);
    site.edit("kernel_driver = true", "kernel_driver = false");
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    let version = site.attribute("ondol_host.first", "virtualbox_version");
    assert!(version.as_str().unwrap().starts_with("7."), "{version}");

    // Somebody removed it.
    host.run(&["mv", "/usr/bin/VBoxManage", "/usr/bin/VBoxManage.away"]);
    let apt = host.path("/usr/local/sbin/apt-get");
    std::fs::write(&apt, APT).unwrap();
    std::fs::set_permissions(&apt, std::fs::Permissions::from_mode(0o755)).unwrap();
    host.run(&["ln", "-sf", "/usr/local/sbin/apt-get", "/usr/bin/apt-get"]);
    assert_eq!(site.plan(), ["update ondol_host.first"]);
    site.apply().success();
    assert_eq!(
        host.run(&["cat", "/root/apt"]),
        "install -y --no-install-recommends virtualbox\n"
    );
    assert_eq!(site.plan(), [""; 0]);
    assert_eq!(
        site.attribute("ondol_host.first", "lacking"),
        json!([] as [&str; 0])
    );

    site.terraform(&["state", "rm", "ondol_host.first"])
        .success();
    site.terraform(&["import", "ondol_host.first", "srv-01"])
        .success();
    site.apply().success();
    assert_eq!(site.plan(), [""; 0]);
    site.terraform(&["destroy", "-auto-approve"]).success();
    assert!(
        host.path("/usr/bin/VBoxManage").exists(),
        "it is left as it is"
    );
}
