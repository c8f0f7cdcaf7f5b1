//! The whole way through on the specification's real table: `make lab` as a newcomer types it, and what must hold afterwards.
//!
//! One test, because 40 machines are made once: each step stands on the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use ondol_tests::ansible::nothing_changed;
use ondol_tests::plan::{Change, changes};
use ondol_tests::{Site, step, traces};
use serde_json::Value;

const LAB: &str = "forty";
/// Of a play: the machines, and the one that Ansible runs on.
const HOSTS: usize = 41;

#[test]
fn make_lab_builds_names_addresses_and_proves_the_forty_machines() -> Result<()> {
    let interfaces = traces::interfaces();
    let site = Site::new(LAB)?;

    step("a first `make lab` on nothing");
    site.make(&["lab"])?;
    every_machine_has_its_name_and_address(&site)?;
    the_report_shows_every_host_machine_and_pair(&site)?;

    step("a second `make lab` changes nothing");
    let again = site.make(&["lab"])?;
    ensure!(
        again.contains("No changes."),
        "Terraform changed something:\n{again}"
    );
    nothing_changed(&again, HOSTS)?;

    step("one edited address is one netplan and the inventory");
    an_edited_address_moves_one_machine(&site)?;

    step("a killed host is two machines to start");
    a_killed_host_is_started_again(&site)?;

    step("a netplan edited by hand is seen and mended");
    a_netplan_edited_by_hand_is_mended(&site)?;

    step("the first stages after all that are green, and then idle");
    site.make(&["lab", "STAGES=3 4"])?;
    nothing_changed(&site.make(&["lab", "STAGES=3 4"])?, HOSTS)?;

    step("`make lab-destroy` leaves nothing");
    ensure!(
        !traces::of(LAB).is_empty(),
        "the lab has no trace while it runs: the check below would prove nothing"
    );
    site.make(&["lab-destroy"])?;
    assert_eq!(traces::of(&format!("ondol-{LAB}")), BTreeSet::new());
    assert_eq!(traces::of(&format!("labs/{LAB}")), BTreeSet::new());
    assert_eq!(traces::interfaces(), interfaces);
    Ok(())
}

/// The specification's table, name to address, as the test's own reading of the topology gives it.
fn table(site: &Site) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(site.topology()).context("read the topology")?;
    let topology: Value = serde_norway::from_str(&text).context("parse the topology")?;
    let vms = topology["vms"].as_array().context("the topology has VMs")?;
    let field = |vm: &Value, name: &str| vm[name].as_str().unwrap_or_default().to_owned();
    Ok(vms
        .iter()
        .map(|vm| (field(vm, "name"), field(vm, "address")))
        .collect())
}

fn every_machine_has_its_name_and_address(site: &Site) -> Result<()> {
    let table = table(site)?;
    assert_eq!(table.len(), 40);
    let mut machine_ids = BTreeSet::new();
    for (name, address) in &table {
        let seen = site.shell(name, "hostname; cat /etc/machine-id; ip -4 -o addr show dev enp0s3; stat -c %a /etc/netplan/60-ondol.yaml")?;
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines.first(), Some(&name.as_str()), "hostname of {name}");
        machine_ids.extend(lines.get(1).map(|id| id.to_string()));
        ensure!(
            seen.contains(&format!("inet {address}/24 ")),
            "{name} lacks {address}:\n{seen}"
        );
        assert_eq!(
            lines.last(),
            Some(&"600"),
            "mode of the netplan file of {name}"
        );
    }
    assert_eq!(machine_ids.len(), 40, "machine-ids are unique");
    Ok(())
}

fn the_report_shows_every_host_machine_and_pair(site: &Site) -> Result<()> {
    let twin = fs::read_to_string(site.report().join("report.json"))
        .context("read the report's JSON twin")?;
    let twin: Value = serde_json::from_str(&twin).context("parse the report's JSON twin")?;
    let verdict = &twin["verdict"];
    ensure!(
        verdict["ok"] == Value::Bool(true),
        "the report is not green: {verdict:#}"
    );
    let counts = ["hosts", "vms", "pairs", "pairs_failed", "checks_failed"];
    let counts = counts.map(|count| verdict[count].as_u64());
    assert_eq!(counts, [20, 40, 40 * 39, 0, 0].map(Some));

    let page =
        fs::read_to_string(site.report().join("index.html")).context("read the report page")?;
    for name in table(site)?.keys() {
        ensure!(page.contains(name.as_str()), "{name} is not on the page");
    }
    for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
        ensure!(
            !page.contains(outside),
            "the page fetches something: {outside}"
        );
    }
    Ok(())
}

fn an_edited_address_moves_one_machine(site: &Site) -> Result<()> {
    let (old, new) = ("192.168.10.22", "192.168.10.122");
    site.edit_topology(&format!("address: {old},"), &format!("address: {new},"))?;
    assert_eq!(
        changes(&site.plan()?),
        [
            Change::new("module.site.ondol_ansible_inventory.this", &["update"]),
            Change::new(
                "module.site.ondol_netplan.this[\"email-server\"]",
                &["update"]
            ),
        ]
    );
    site.apply()?;
    let seen = site.shell("email-server", "ip -4 -o addr show dev enp0s3")?;
    ensure!(
        seen.contains(&format!("inet {new}/24 ")) && !seen.contains(&format!("inet {old}/24")),
        "{seen}"
    );
    site.shell("dns-server", &format!("ping -c 1 -W 2 {new}"))?;
    ensure!(
        site.shell("dns-server", &format!("ping -c 1 -W 1 {old}"))
            .is_err(),
        "the old address still answers"
    );
    assert_eq!(changes(&site.plan()?), []);
    Ok(())
}

fn a_killed_host_is_started_again(site: &Site) -> Result<()> {
    let on_host = ["ftp-server", "storage-server-01"];
    site.must("ondol-lab kill srv-04")?;
    let plan = site.plan()?;
    assert_eq!(
        changes(&plan),
        on_host.map(|vm| Change::new(&format!("module.site.ondol_vm.this[{vm:?}]"), &["update"]))
    );
    site.apply()?;
    for vm in on_host {
        site.shell(
            "dns-server",
            &format!("ping -c 1 -W 2 {}", table(site)?[vm]),
        )?;
    }
    assert_eq!(changes(&site.plan()?), []);
    Ok(())
}

fn a_netplan_edited_by_hand_is_mended(site: &Site) -> Result<()> {
    let file = "/etc/netplan/60-ondol.yaml";
    let before = site.shell("web-server-01", &format!("cat {file}"))?;
    site.shell(
        "web-server-01",
        &format!("sed -i 's/192.168.10.29/192.168.10.229/' {file}; chmod 644 {file}"),
    )?;
    assert_eq!(
        changes(&site.plan()?),
        [Change::new(
            "module.site.ondol_netplan.this[\"web-server-01\"]",
            &["update"]
        )]
    );
    site.apply()?;
    assert_eq!(site.shell("web-server-01", &format!("cat {file}"))?, before);
    assert_eq!(
        site.shell("web-server-01", &format!("stat -c %a {file}"))?
            .trim(),
        "600"
    );
    assert_eq!(changes(&site.plan()?), []);
    Ok(())
}
