//! The Markdown reference: that `docs/modules` is what the code says, and what writing and checking it do.

use std::fs;
use std::path::Path;

use assert_cmd::Command;

fn ondol(option: &str, folder: &Path) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_ondol-module"))
        .arg(option)
        .arg(folder)
        .output()
        .expect("runs")
}

fn told(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_reference_of_the_modules_is_up_to_date() {
    let output = ondol(
        "--check-reference",
        &crate::harness::repository().join("docs/modules"),
    );
    assert!(
        output.status.success(),
        "{}run: cargo run -p ondol-module -- --write-reference docs/modules",
        told(&output)
    );
}

#[test]
fn what_is_written_is_up_to_date_until_it_is_touched() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path().join("modules");
    let check = || ondol("--check-reference", &folder);
    let write = || {
        let output = ondol("--write-reference", &folder);
        assert!(output.status.success(), "{}", told(&output));
    };
    let stale = |output: &std::process::Output| {
        assert_eq!(output.status.code(), Some(1), "{}", told(output));
        let text = told(output);
        let (_, rest) = text.split_once("is not what the code says: ").expect("so");
        rest.split_once(';').expect("what to do").0.to_owned()
    };

    assert_eq!(check().status.code(), Some(2), "there is no such folder");
    write();
    assert!(check().status.success(), "{}", told(&check()));

    let page = fs::read_to_string(folder.join("facts.md")).expect("a page");
    fs::write(folder.join("gone.md"), &page).expect("write");
    fs::write(folder.join("facts.md"), page + "more\n").expect("write");
    fs::remove_file(folder.join("report.md")).expect("remove");
    assert_eq!(stale(&check()), "facts.md, gone.md, report.md");
    write();
    assert!(check().status.success(), "{}", told(&check()));

    // Not one of ours, so it is told and left alone.
    fs::write(folder.join("notes.md"), "mine\n").expect("write");
    write();
    assert_eq!(stale(&check()), "notes.md");
}
