//! The appliance in the real VirtualBox.

#[expect(dead_code, reason = "the tests of ondol-virtualbox need more of it")]
#[path = "../../../virtualbox/tests/support/mod.rs"]
mod support;

use std::fs;

use super::shared;

/// What Debian's wrapper says where there is no kernel driver.
const NO_DRIVER: [&str; 2] = [
    "WARNING: The character device /dev/vboxdrv does not exist.",
    "until this problem is fixed.",
];

#[test]
fn the_real_virtualbox_imports_the_appliance_without_a_warning() {
    let Some(host) = support::Host::start() else {
        return;
    };
    let disk = shared();
    fs::copy(&disk.ova, host.path("/root/golden.ova")).expect("the host has room");
    // The host's working directory is not below its root, and VirtualBox opens what is in an appliance by relative paths.
    let output = host.try_run(&[
        "sh",
        "-c",
        "cd / && exec VBoxManage import /root/golden.ova",
    ]);
    let said = without_driver_warning(&format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ));
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("Successfully imported the appliance."),
        "{said}"
    );
    assert!(!said.to_lowercase().contains("warning"), "{said}");

    let machine = host.run(&[
        "VBoxManage",
        "showvminfo",
        "ondol-debian-bookworm",
        "--machinereadable",
    ]);
    for setting in [
        "ostype=\"Debian (64-bit)\"",
        "memory=2048",
        "cpus=2",
        "storagecontrollertype0=\"IntelAhci\"",
        "nic1=\"nat\"",
        "nictype1=\"82540EM\"",
    ] {
        assert!(machine.contains(setting), "{setting}: {machine}");
    }
    let disks = host.run(&["VBoxManage", "list", "hdds"]);
    assert!(
        disks.contains("10240 MBytes") && disks.contains("VMDK"),
        "{disks}"
    );
}

fn without_driver_warning(text: &str) -> String {
    let [from, to] = NO_DRIVER;
    match (text.find(from), text.find(to)) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{}", &text[..start], &text[end + to.len()..])
        }
        _ => text.to_owned(),
    }
}
