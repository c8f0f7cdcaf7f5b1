//! A sample page for looking at: `cargo run -p ondol-report --example sample -- TOPOLOGY.yaml OUT.html [broken]`.
//!
//! The numbers are invented. It is for the eye; no test uses it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ondol_report::model::{Cell, Check, Event, Host, Machine, Report, Section, Vm};
use ondol_report::render;

fn main() {
    let mut args = std::env::args().skip(1);
    let topology = args
        .next()
        .map(PathBuf::from)
        .expect("path of topology.yaml");
    let out = args.next().map(PathBuf::from).expect("path of the page");
    let broken = args.next().is_some();
    let text = std::fs::read_to_string(topology).expect("topology.yaml can be read");
    let site: serde_json::Value = serde_norway::from_str(&text).expect("topology.yaml is YAML");
    let word = |vm: &serde_json::Value, key: &str| vm[key].as_str().unwrap_or_default().to_owned();
    let mut hosts: BTreeMap<String, Vec<Vm>> = BTreeMap::new();
    for vm in site["vms"].as_array().expect("a list of vms") {
        let groups = vm["groups"].as_array().into_iter().flatten();
        hosts
            .entry(word(vm, "host").to_lowercase())
            .or_default()
            .push(Vm {
                name: word(vm, "name"),
                address: word(vm, "address"),
                role: word(vm, "role"),
                groups: groups
                    .filter_map(|g| g.as_str())
                    .map(str::to_owned)
                    .collect(),
                state: "running".to_owned(),
            });
    }
    let names: Vec<(String, String)> = hosts
        .values()
        .flatten()
        .map(|vm| (vm.name.clone(), vm.address.clone()))
        .collect();
    let down = |name: &str| broken && name == "mariadb-01";
    let check = |name: &str, subject: &str, ok: bool, evidence: String| Check {
        name: name.to_owned(),
        subject: subject.to_owned(),
        ok,
        evidence,
        seconds: Some(0.04),
    };
    let mut checks = Vec::new();
    for (name, address) in &names {
        let up = !down(name);
        checks.push(check(
            "host name is the inventory's",
            name,
            true,
            format!("hostname: {name}\n/etc/hostname: {name}"),
        ));
        checks.push(check(
            "address is up",
            name,
            true,
            format!("enp0s3 {address}/24, default via 192.168.10.1"),
        ));
        checks.push(check(
            "SSH answers",
            name,
            up,
            if up {
                "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3".to_owned()
            } else {
                format!("connect to {address} port 22: Connection refused")
            },
        ));
        checks.push(check(
            "machine-id is its own",
            name,
            true,
            "7c6d1b0e5f0a4f0d9c1e2f3a4b5c6d7e".to_owned(),
        ));
    }
    let mut matrix = Vec::new();
    for (i, (from, _)) in names.iter().enumerate() {
        for (j, (to, _)) in names.iter().enumerate().filter(|(j, _)| *j != i) {
            let spread = ((i * 31 + j * 17) % 23) as f64 / 23.0;
            let dead = down(from) || down(to);
            let lossy = broken && (i, j) == (4, 20);
            matrix.push(Cell {
                from: from.clone(),
                to: to.clone(),
                ok: !dead,
                loss: if dead {
                    100.0
                } else if lossy {
                    33.333
                } else {
                    0.0
                },
                rtt_ms: (!dead).then(|| {
                    (0.05
                        + spread * spread * spread * 4.0
                        + f64::from(u8::from(i / 2 != j / 2)) * 0.12)
                        .min(30.0)
                }),
                tcp_ok: !dead,
            });
        }
    }
    let sections = vec![
        Section {
            name: "04 identity".to_owned(),
            recorded_at: "2026-11-22T14:01:40Z".to_owned(),
            checks,
            ..Section::default()
        },
        Section {
            name: "verify".to_owned(),
            recorded_at: "2026-11-22T14:02:55Z".to_owned(),
            checks: vec![check(
                "Terraform sees no changes",
                "controller",
                true,
                "No changes. Your infrastructure matches the configuration.".to_owned(),
            )],
            matrix,
            figures: vec![],
            timeline: vec![
                Event {
                    at: "14:02:10".to_owned(),
                    what: "srv-04 killed".to_owned(),
                    detail: "storage-server-01 and ftp-server gone".to_owned(),
                },
                Event {
                    at: "14:02:31".to_owned(),
                    what: "srv-04 started again".to_owned(),
                    detail: "both answer SSH after 4.2 s".to_owned(),
                },
            ],
        },
    ];
    let topology = hosts
        .into_iter()
        .map(|(name, vms)| Host { name, vms })
        .collect();
    let machine = Machine {
        name: "controller".to_owned(),
        kernel: "Linux 6.1.0".to_owned(),
        cpus: 2,
        memory_mib: 24_044,
    };
    let report = Report::new(
        "infra.internal · 20 hosts, 40 virtual machines".to_owned(),
        "2026-11-22T14:03:11Z".to_owned(),
        machine,
        topology,
        sections,
    );
    std::fs::write(out, render(&report)).expect("the page can be written");
}
