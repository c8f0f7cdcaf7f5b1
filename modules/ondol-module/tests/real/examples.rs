//! `examples/modules` under real ansible-playbook. Those that would change the machine's name or network run in check
//! mode only, where nothing may differ afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::{is_root, repository, skip, with_each_ansible};

fn example(name: &str) -> PathBuf {
    repository().join(format!("examples/modules/{name}.yml"))
}

#[test]
fn every_module_has_an_example_that_ansible_can_read() {
    let listed = std::process::Command::new(env!("CARGO_BIN_EXE_ondol-module"))
        .arg("--list")
        .output()
        .expect("runs");
    let modules: BTreeSet<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(|name| format!("{name}.yml"))
        .collect();
    let examples: BTreeSet<String> = fs::read_dir(repository().join("examples/modules"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    assert_eq!(examples, modules);
    with_each_ansible(|site| {
        for file in &examples {
            let path = repository().join("examples/modules").join(file);
            let played = site.play_file(&[], &path, &["--syntax-check"]).succeed();
            assert!(played.text.contains("playbook: "), "{}", played.text);
        }
    });
}

#[test]
fn the_example_of_facts_tells_the_distribution() {
    with_each_ansible(|site| {
        let played = site.play_file(&[], &example("facts"), &[]).succeed();
        let facts = &played.result(0)["ansible_facts"];
        let wanted = format!(
            "{} {}, {} MiB",
            facts["ansible_distribution"].as_str().expect("a name"),
            facts["ansible_distribution_version"]
                .as_str()
                .expect("a version"),
            facts["ansible_memtotal_mb"]
        );
        assert_eq!(played.message(), wanted);
    });
}

#[test]
fn the_example_of_reachability_reaches_the_loopback() {
    if !is_root() {
        skip("an ICMP echo needs root, or a ping_group_range");
        return;
    }
    with_each_ansible(|site| {
        let played = site.play_file(&[], &example("reachability"), &[]).succeed();
        assert_eq!(played.result(0)["reachable"], json!(true));
        assert_eq!(played.result(0)["changed"], json!(false));
        assert!(
            played.message().starts_with("myself: "),
            "{}",
            played.message()
        );
    });
}

#[test]
fn the_example_of_report_writes_a_page() {
    with_each_ansible(|site| {
        let folder = site.path("report");
        let variable = format!("report={}", folder.display());
        let played = site
            .play_file(&[], &example("report"), &["-e", &variable])
            .succeed();
        let verdict = &played.result(0)["verdict"];
        assert_eq!(
            (&verdict["ok"], &verdict["vms"], &verdict["checks"]),
            (&json!(true), &json!(1), &json!(1)),
            "{verdict}"
        );
        let page = fs::read_to_string(folder.join("index.html")).expect("a page");
        assert!(page.contains("SSH answers"), "{page}");
    });
}

#[test]
fn the_example_of_host_identity_says_what_it_would_do_and_does_nothing() {
    if !is_root() {
        skip("the example becomes root");
        return;
    }
    let machine = || {
        ["/etc/hostname", "/etc/hosts", "/proc/sys/kernel/hostname"].map(|path| fs::read(path).ok())
    };
    let before = machine();
    with_each_ansible(|site| {
        let played = site
            .play_file(
                &[],
                &example("host_identity"),
                &["--check", "--diff", "-e", "ansible_become=false"],
            )
            .succeed();
        let result = played.result(0);
        assert_eq!(result["changed"], json!(true), "{result}");
        let steps = result["steps"].to_string();
        assert!(steps.contains("dns-server"), "{steps}");
    });
    assert_eq!(machine(), before);
}

#[test]
fn the_example_of_apt_sources_says_what_it_would_do_and_does_nothing() {
    if !is_root() {
        skip("the example becomes root");
        return;
    }
    let machine = || {
        let names = fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten();
        (
            fs::read("/etc/apt/sources.list").ok(),
            names
                .flatten()
                .map(|it| it.file_name())
                .collect::<BTreeSet<_>>(),
        )
    };
    let before = machine();
    with_each_ansible(|site| {
        let played = site
            .play_file(
                &[],
                &example("apt_sources"),
                &["--check", "--diff", "-e", "ansible_become=false"],
            )
            .succeed();
        let result = played.result(0);
        assert_eq!(result["changed"], json!(true), "{result}");
        let steps = result["steps"].to_string();
        assert!(steps.contains("sources.list.d/mirror.sources"), "{steps}");
        assert!(steps.contains("fetch the package lists"), "{steps}");
    });
    assert_eq!(machine(), before);
}

/// In a network namespace of its own, with the example's interface: this machine's network is out of its reach.
const OWN_NETWORK: [&str; 6] = [
    "unshare",
    "--net",
    "--mount",
    "sh",
    "-ec",
    "mount -t sysfs none /sys; ip link add enp0s3 type veth peer name other; ip link set enp0s3 up; exec \"$0\" \"$@\"",
];

#[test]
fn the_example_of_netplan_says_what_it_would_do_and_does_nothing() {
    if !is_root() {
        skip("a network namespace needs root");
        return;
    }
    let machine = || {
        ["/etc/netplan", "/run/netplan", "/run/systemd/network"].map(|folder| {
            let names = fs::read_dir(folder).into_iter().flatten().flatten();
            names.map(|it| it.file_name()).collect::<BTreeSet<_>>()
        })
    };
    let before = machine();
    with_each_ansible(|site| {
        let played = site
            .play_file(
                &OWN_NETWORK,
                &example("netplan"),
                &["--check", "--diff", "-e", "ansible_become=false"],
            )
            .succeed();
        let result = played.result(0);
        assert_eq!(result["changed"], json!(true), "{result}");
        let steps = result["steps"].to_string();
        assert!(steps.contains("60-ondol.yaml"), "{steps}");
    });
    assert_eq!(machine(), before);
}
