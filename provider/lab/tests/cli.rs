//! `ondol-lab` as a user runs it.
#![expect(
    dead_code,
    reason = "each test file uses its own part of the support module"
)]

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use support::{TestLab, eventually};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn vms_are_listed_switched_and_destroyed() {
    let lab = TestLab::new("t-cli");
    for name in ["web-01", "web-02"] {
        let mut spec = lab.spec(name);
        spec.host = "srv-07".into();
        lab.create(&spec).expect("created");
    }
    let started = lab.cli(&["start", "srv-07"]);
    assert_eq!(
        out(&started),
        "srv-07/web-01: started\nsrv-07/web-02: started\n",
        "{}",
        err(&started)
    );
    let address = lab
        .observe("web-01")
        .expect("observed")
        .expect("there")
        .first_boot_address
        .to_string();
    eventually("the address shows", || {
        out(&lab.cli(&["ls"])).contains(&address)
    });
    let table = out(&lab.cli(&["ls"]));
    assert!(
        table.starts_with("HOST") && table.contains("srv-07  web-01  running"),
        "{table}"
    );

    let json: serde_json::Value =
        serde_json::from_slice(&lab.cli(&["ls", "--json"]).stdout).expect("JSON");
    assert_eq!(json[0]["vm"]["spec"]["name"], "web-01");
    assert_eq!(json[0]["vm"]["state"], "running");
    assert_eq!(json[0]["addresses"][0], address.as_str());

    assert_eq!(
        out(&lab.cli(&["kill", "web-01"])),
        "srv-07/web-01: killed\n"
    );
    assert_eq!(
        out(&lab.cli(&["stop", "web-01", "web-02"])),
        "srv-07/web-01: stopped\nsrv-07/web-02: stopped\n"
    );
    let wrong = lab.cli(&["kill", "web-1", "web-02"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        err(&wrong).contains("did you mean web-01"),
        "{}",
        err(&wrong)
    );

    let asked = lab.cli(&["destroy"]);
    assert!(
        !asked.status.success() && err(&asked).contains("--yes"),
        "{}",
        err(&asked)
    );
    assert_eq!(
        out(&lab.cli(&["destroy", "--yes", "web-01"])),
        "srv-07/web-01: destroyed\n"
    );
    assert_eq!(lab.list().expect("listed").len(), 1);
    assert!(lab.cli(&["destroy", "--yes"]).status.success());
    assert_eq!(lab.list().expect("listed"), []);
}

#[test]
fn a_shell_passes_on_input_output_and_the_exit_code() {
    let lab = TestLab::new("t-shell");
    lab.create_and_start(&lab.spec("web-01"));
    let output = lab.cli(&[
        "shell",
        "web-01",
        "--",
        "sh",
        "-c",
        "hostname; id -u; echo oops >&2; exit 42",
    ]);
    assert_eq!(
        (out(&output).as_str(), err(&output).as_str()),
        ("web-01\n0\n", "oops\n")
    );
    assert_eq!(output.status.code(), Some(42));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ondol-lab"))
        .args([
            "--lab", "t-shell", "shell", "web-01", "--", "tr", "a-z", "A-Z",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"quiet")
        .expect("written");
    assert_eq!(out(&child.wait_with_output().expect("ended")), "QUIET");

    // script(1) gives it a terminal.
    let line = format!(
        "{} --lab t-shell shell web-01 -- sh -c 'tty; exit 7'",
        env!("CARGO_BIN_EXE_ondol-lab")
    );
    let terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("run");
    assert!(out(&terminal).contains("/dev/pts/"), "{terminal:?}");
    assert_eq!(terminal.status.code(), Some(7));
}
