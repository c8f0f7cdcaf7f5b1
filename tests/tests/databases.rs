//! Stage 7, PostgreSQL and MariaDB: from bare machines to replicated databases that lose no acknowledged row when a machine fails.
//!
//! The modules' own tests go through what a cluster may do to them; this one is about the plays, the drills and the report. MySQL has a
//! test of its own, as its machines are made from another image.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ondol_tests::plan::recap;
use ondol_tests::{Site, site::repository};
use serde_json::{Value, json};

/// The mirror's machine, from which the databases are asked too, the databases, and the arbitrator.
const MACHINES: [&str; 6] = [
    "multi-cloud-admin",
    "postgresql-db-01",
    "postgresql-db-02",
    "mariadb-01",
    "mariadb-02",
    "monitoring-01",
];

/// Where `mariadb-01` answers.
const MARIADB: &str = "192.168.10.27";

/// One test, because the machines are made once: each step stands on the one before it.
#[test]
fn stage_7_replicates_and_fails_over_without_losing_a_row() -> Result<()> {
    let site = Site::new("databases")?;
    only(&site, &MACHINES)?;

    step("check mode on bare machines foresees the first run, and changes nothing");
    site.make(&["lab", "STAGES=3 4"])?;
    let foreseen = site.must("ansible-playbook playbooks/07-databases.yml --check --diff")?;
    nothing_is_installed(&site)?;
    let first = site.make(&["lab", "STAGES=7"])?;
    ensure!(
        first.contains("PLAY [Stage 3"),
        "stage 7 did not bring the stages that it stands on:\n{first}"
    );
    let foreseen = changed_tasks(&foreseen);
    ensure!(
        foreseen.len() >= 20,
        "check mode foresaw next to nothing: {foreseen:?}"
    );
    assert_eq!(foreseen, changed_tasks(&first));
    no_password_is_told(&site, &first)?;

    step("a second run changes nothing, and the report shows what the databases do");
    let second = site.make(&["lab", "STAGES=7"])?;
    ensure!(
        second.contains("No changes."),
        "Terraform changed something:\n{second}"
    );
    nothing_changes(&second)?;
    for check in section(&site, "07 databases")?["checks"]
        .as_array()
        .context("checks")?
    {
        ensure!(check["ok"] == json!(true), "{check:#}");
    }

    step("MariaDB's application comes over TLS or not at all, and knows whom it talks to");
    mariadb_is_asked_over_tls_only(&site)?;

    step("PostgreSQL's primary is cut off under a writer");
    let title = "07 drill: PostgreSQL failover, network cut";
    site.must("ansible-playbook playbooks/drills/postgresql-failover.yml -e fault=cut")?;
    no_row_is_lost(&site, title)?;
    let events = section(&site, title)?["timeline"].to_string();
    for event in [
        "the network of postgresql-db-01 is cut",
        "may still be a primary",
        "postgresql-db-02 is promoted",
        "rewind the data to what postgresql-db-02 has",
    ] {
        ensure!(events.contains(event), "{event:?} is not in {events}");
    }

    step("a Galera node loses its power under a writer");
    site.must("ansible-playbook playbooks/drills/mariadb-failover.yml")?;
    no_row_is_lost(&site, "07 drill: MariaDB failover, power lost")?;

    step("stage 7 keeps what the drills made, and the page shows it all");
    nothing_changes(&site.must("ansible-playbook playbooks/07-databases.yml")?)?;
    let page = fs::read_to_string(site.report().join("index.html")).context("read the page")?;
    for text in [title, "longest time without a write", "takes no writes"] {
        ensure!(page.contains(text), "{text:?} is not on the page");
    }
    Ok(())
}

fn step(name: &str) {
    eprintln!("--- {name}");
}

/// Leaves no other machine in the site's topology.
fn only(site: &Site, machines: &[&str]) -> Result<()> {
    let text = fs::read_to_string(site.topology()).context("read the topology")?;
    let named = |line: &&str| {
        let Some((_, rest)) = line.split_once("- { name: ") else {
            return true;
        };
        machines
            .iter()
            .any(|name| rest.starts_with(&format!("{name},")))
    };
    let kept: Vec<&str> = text.lines().filter(named).collect();
    fs::write(site.topology(), kept.join("\n") + "\n").context("write the topology")
}

/// Which task changed which machine. A task that can only be foreseen by another one has that one's name with a suffix.
fn changed_tasks(output: &str) -> BTreeSet<(String, String)> {
    let mut task = "";
    let mut changed = BTreeSet::new();
    for line in output.lines() {
        if let Some((name, _)) = line
            .strip_prefix("TASK [")
            .and_then(|rest| rest.rsplit_once(']'))
        {
            task = name.trim_end_matches(", in check mode");
        } else if let Some((host, _)) = line
            .strip_prefix("changed: [")
            .and_then(|rest| rest.split_once(']'))
        {
            changed.insert((task.to_owned(), host.to_owned()));
        }
    }
    changed
}

fn nothing_is_installed(site: &Site) -> Result<()> {
    for vm in MACHINES {
        let seen = site.shell(
            vm,
            "dpkg-query -W -f '${Package} ' | tr ' ' '\\n' | grep -E '^(postgresql|mariadb|galera)' || true; ls -d /etc/postgresql* /etc/mysql 2>/dev/null || true",
        )?;
        ensure!(seen.trim().is_empty(), "check mode changed {vm}: {seen}");
    }
    Ok(())
}

fn nothing_changes(output: &str) -> Result<()> {
    let recap = recap(output);
    ensure!(
        recap.len() == MACHINES.len() + 1,
        "the recap has {} hosts:\n{output}",
        recap.len()
    );
    for (host, counts) in recap {
        ensure!(
            counts == [0, 0, 0],
            "{host}: {counts:?} tasks changed, unreachable, failed:\n{output}"
        );
    }
    Ok(())
}

/// As the application asks, with the password on standard input, and as somebody would who does not look at certificates or sends in the clear.
fn mariadb_is_asked_over_tls_only(site: &Site) -> Result<()> {
    let asked = |more: &str| {
        site.must(&format!(
            "printf '%s\\n' \"$(cat \"${{ANSIBLE_INVENTORY%/*}}/secrets/mariadb_app\")\" \"SHOW STATUS LIKE 'Ssl_version'\" | \
             ondol-lab shell multi-cloud-admin -- sh -c 'IFS= read -r MYSQL_PWD; export MYSQL_PWD; \
             mariadb -BN --user=app --host={MARIADB} {more} app 2>&1 || true'"
        ))
    };
    let known = "--ssl-ca=/etc/ssl/site-authority.pem --ssl-verify-server-cert";
    let answer = asked(known)?;
    ensure!(answer.contains("TLSv1."), "{answer}");
    let answer = asked("--skip-ssl")?;
    ensure!(answer.contains("ERROR 1045"), "{answer}");
    let answer = asked("--ssl-ca=/etc/ssl/certs/ca-certificates.crt --ssl-verify-server-cert")?;
    ensure!(answer.contains("ERROR 2026"), "{answer}");
    Ok(())
}

/// Passwords are in files that only their owner reads, and nowhere in what a run prints or leaves on a machine.
fn no_password_is_told(site: &Site, output: &str) -> Result<()> {
    let secrets = site
        .must("dirname \"$ANSIBLE_INVENTORY\"")
        .map(|directory| format!("{}/secrets", directory.trim()))?;
    let mode =
        |path: &std::path::Path| fs::metadata(path).map(|it| it.permissions().mode() & 0o777);
    assert_eq!(mode(secrets.as_ref())?, 0o700);
    let mut seen = Vec::new();
    for entry in fs::read_dir(&secrets).context("list the secrets")? {
        let path = entry?.path();
        assert_eq!(mode(&path)?, 0o600, "{}", path.display());
        let text = fs::read_to_string(&path)?.trim().to_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        seen.push(name.clone().into_owned());
        let secret = match &*name {
            // For everybody to read, and on every machine.
            "site_authority.pem" => continue,
            "site_authority.key" => text.lines().nth(1).context("the key's text")?,
            _ => {
                ensure!(text.len() == 32, "{name} is no password");
                &text
            }
        };
        ensure!(!output.contains(secret), "{name} was printed");
        for vm in MACHINES {
            let found = site.shell(
                vm,
                &format!(
                    "grep -rlFs -- '{secret}' /etc /var/log /run/log /tmp /root /home || true"
                ),
            )?;
            // What a standby logs in with is the server's own file, which only it reads.
            ensure!(found.trim().is_empty(), "{name} is in {found} of {vm}");
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "mariadb_app",
            "postgresql_app",
            "postgresql_replication",
            "site_authority.key",
            "site_authority.pem"
        ]
    );
    Ok(())
}

fn section(site: &Site, name: &str) -> Result<Value> {
    let text = fs::read_to_string(site.report().join("report.json"))
        .context("read the report's JSON twin")?;
    let twin: Value = serde_json::from_str(&text).context("parse the report's JSON twin")?;
    ensure!(
        twin["verdict"]["ok"] == json!(true),
        "the report is not green: {:#}",
        twin["verdict"]
    );
    let sections = twin["sections"].as_array().into_iter().flatten();
    let named: Vec<&Value> = sections.filter(|it| it["name"] == json!(name)).collect();
    ensure!(
        named.len() == 1,
        "{} sections are called {name:?}",
        named.len()
    );
    Ok(named[0].clone())
}

fn no_row_is_lost(site: &Site, title: &str) -> Result<()> {
    let section = section(site, title)?;
    let figure = |name: &str| {
        let figures = section["figures"].as_array().into_iter().flatten();
        let value = figures
            .filter(|it| it["name"] == json!(name))
            .find_map(|it| it["value"].as_f64());
        value.with_context(|| format!("no figure {name:?} in {section:#}"))
    };
    ensure!(figure("rows acknowledged")? >= 100.0, "{section:#}");
    ensure!(figure("acknowledged rows missing")? == 0.0, "{section:#}");
    ensure!(figure("longest time without a write")? > 0.0, "{section:#}");
    Ok(())
}

/// A judge that cannot find against a drill would be worth nothing.
#[test]
fn the_judge_of_a_drill_sees_a_lost_row_and_a_second_writer() -> Result<()> {
    let row = |at: u32, source: &str, node: &str, n: u32| json!({"at": at, "kind": "row", "source": source, "node": node, "n": n});
    let good = [
        row(1, "writer", "a", 1),
        row(2, "a", "a", 1),
        json!({"at": 3, "kind": "note", "what": "a loses its power", "detail": ""}),
        json!({"at": 3, "kind": "refused", "source": "a", "node": "a", "n": 2, "why": "it is stopped"}),
        row(6, "writer", "b", 2),
        row(7, "b", "b", 1),
    ];
    let all = "writer|1\na|1\nwriter\t2\nb|1\n";
    let failed = |verdict: &Value| -> Vec<String> {
        let checks = verdict["checks"].as_array().into_iter().flatten();
        checks
            .filter(|it| it["ok"] != json!(true))
            .map(|it| {
                format!(
                    "{}: {}",
                    it["name"].as_str().unwrap_or_default(),
                    it["subject"].as_str().unwrap_or_default()
                )
            })
            .collect()
    };

    let verdict = judge(&good, &[("a", all), ("b", all)])?;
    assert_eq!(failed(&verdict), [""; 0]);
    assert_eq!(verdict["figures"][2]["value"].as_f64(), Some(5.0));
    let events: Vec<&str> = verdict["timeline"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["what"].as_str())
        .collect();
    assert_eq!(
        events,
        [
            "the last row before the longest time without a write",
            "a takes writes",
            "a loses its power",
            "a takes no writes",
            "rows again, after 5.0 s",
            "b takes writes"
        ]
    );

    let lost = judge(&good, &[("a", all), ("b", "writer|1\na|1\nb|1\n")])?;
    assert_eq!(failed(&lost), ["every acknowledged row is there: b"]);
    assert_eq!(lost["figures"][1]["value"], json!(1));

    let mut two = good.to_vec();
    two.push(row(8, "a", "a", 3));
    let rows = format!("{all}a|3\n");
    let verdict = judge(&two, &[("a", &rows), ("b", &rows)])?;
    assert_eq!(failed(&verdict), ["never two nodes took writes at once: a"]);

    // A node that cannot be asked has lost all, and a drill without rows has shown nothing.
    assert_eq!(
        failed(&judge(&good, &[("a", all), ("b", "")])?),
        ["every acknowledged row is there: b"]
    );
    assert_eq!(failed(&judge(&[], &[("a", all)])?).len(), 2);
    Ok(())
}

/// What drill.py says of a log, where each node has these rows.
fn judge(log: &[Value], nodes: &[(&str, &str)]) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let lines: Vec<String> = log.iter().map(|it| format!("{it}\n")).collect();
    fs::write(directory.path().join("log.jsonl"), lines.concat())?;
    let mut addresses = serde_json::Map::new();
    for (node, rows) in nodes {
        let path = directory.path().join(node);
        fs::write(&path, rows)?;
        addresses.insert((*node).to_owned(), json!(path));
    }
    let spec = json!({"directory": directory.path(), "nodes": addresses, "rows": ["cat", "{address}"], "single_writer": true, "catch_up": 0});
    let mut program = Command::new("python3")
        .arg(repository().join("playbooks/drills/files/drill.py"))
        .arg("judge")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run drill.py")?;
    program
        .stdin
        .take()
        .context("its input")?
        .write_all(spec.to_string().as_bytes())?;
    let output = program.wait_with_output()?;
    ensure!(
        output.status.success(),
        "drill.py ended with {}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("parse its verdict")
}
