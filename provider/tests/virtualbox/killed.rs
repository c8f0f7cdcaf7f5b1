//! The provider killed with SIGKILL while VBoxManage works for it: the next apply ends up where an undisturbed one does, with nothing left
//! lying about.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::room::{Room, appliance};
use crate::site::{Site, eventually, possible, provider_of};
use crate::support::Host;

/// The real VBoxManage, which takes its time once over the command that is to be interrupted. It goes on when nobody listens any more,
/// as it does on a host whose connection broke.
const SLOW: &str = r#"#!/bin/sh
if [ -e /root/slow ] && read -r what </root/slow; then
  case "$*" in $what*) mv /root/slow /root/reached; sleep 2 ;; esac
fi
exec /usr/lib/virtualbox/VBoxManage "$@"
"#;

const VM: &str = r#"
resource "ondol_vm" "web" {
  host            = "srv-01"
  name            = "web-01"
  image           = "${path.module}/golden.ova"
  memory_mib      = 256
  system_disk_mib = 80
  disks           = { data = { size_mib = 8 }, log = { size_mib = 8 } }
  power           = "stopped"
  seed            = { user = "ops", authorized_keys = [] }
}
"#;

/// All files of VMs and images, and every disk that is registered.
fn traces(host: &Host) -> (Vec<String>, Vec<String>) {
    let text = host.run(&["/usr/lib/virtualbox/VBoxManage", "list", "hdds"]);
    let lines = text.lines().filter_map(|it| it.strip_prefix("Location:"));
    let mut disks: Vec<String> = lines.map(|it| it.trim().to_owned()).collect();
    disks.sort();
    (host.files(), disks)
}

#[test]
fn a_provider_that_is_killed_anywhere_leaves_what_the_next_apply_completes() {
    if !possible() {
        return;
    }
    let site = Site::new("vboxkill", "");
    let Some(room) = Room::new(1, &site) else {
        return;
    };
    let host = room.host(0);
    appliance(host, &site);
    let wrapper = host.path("/root/VBoxManage");
    std::fs::write(&wrapper, SLOW).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let configuration = format!(
        "terraform {{\n required_providers {{ ondol = {{ source = \"ondol/ondol\" }} }}\n}}\nprovider \"ondol\" {{\n hosts = {{\n{} }}\n}}\n{VM}",
        room.hosts(&site)
    );
    site.write("main.tf", &configuration);
    let (nothing, _) = traces(host);

    // The first has no image on the host yet.
    let mut whole = None;
    for (act, command) in [
        ("import", "clonemedium disk"),
        ("register", "createvm"),
        ("clone", "clonemedium disk"),
        ("attach", "storageattach"),
        ("finish", "setextradata"),
    ] {
        eprintln!("=== killed at {act}");
        std::fs::write(host.path("/root/slow"), format!("{command}\n")).unwrap();
        let terraform = site.start_apply();
        let reached = eventually(Duration::from_secs(60), || {
            host.path("/root/reached").exists()
        });
        assert!(reached, "{act}: {command} was never run");
        for provider in provider_of(&terraform) {
            kill(Pid::from_raw(provider), Signal::SIGKILL).unwrap();
        }
        let output = terraform.wait_with_output().unwrap();
        assert!(!output.status.success(), "{act}");
        std::fs::remove_file(host.path("/root/reached")).unwrap();

        site.apply().success();
        assert_eq!(site.plan(), [""; 0], "{act}");
        let now = traces(host);
        assert_eq!(&now, whole.get_or_insert_with(|| now.clone()), "{act}");
        site.terraform(&["destroy", "-auto-approve"]).success();
    }
    let (files, disks) = traces(host);
    let of_vms = |it: &&String| it.contains("VirtualBox VMs/");
    assert_eq!(files.iter().chain(&disks).find(of_vms), None);
    let images = files.iter().filter(|it| it.starts_with(".ondol/images/"));
    assert_eq!(images.count(), 1, "{files:?}");
    assert!(nothing.iter().all(|it| files.contains(it)));
}
