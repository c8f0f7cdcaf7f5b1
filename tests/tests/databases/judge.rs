//! The judge of a drill: what it finds in the log of one, and that it finds against it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ondol_tests::site::repository;
use serde_json::{Value, json};

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
