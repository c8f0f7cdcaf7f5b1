//! The binary by itself: what a person and Ansible's stock path can ask of it, and where it can run.

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::Command as Asserted;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_ondol-module");

fn ondol() -> Asserted {
    Asserted::new(BINARY)
}

fn reply(output: &[u8]) -> Value {
    serde_json::from_slice(output).expect("the reply is JSON")
}

#[test]
fn a_person_is_told_what_it_is() {
    let output = ondol().output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.starts_with("ondol-module: the modules of the Ansible collection ondol.cloud"));
    ondol().arg("--help").assert().success().stdout(told);
    let version = concat!("ondol-module ", env!("CARGO_PKG_VERSION"), "\n");
    ondol().arg("--version").assert().success().stdout(version);
}

#[test]
fn every_listed_module_has_a_schema_and_documentation() {
    let output = ondol().arg("--list").output().expect("runs");
    let names = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(names.lines().any(|name| name == "facts"), "{names}");
    let schemas = reply(&ondol().arg("--schema").output().expect("runs").stdout);
    for name in names.lines() {
        let schema = reply(
            &ondol()
                .args(["--schema", name])
                .output()
                .expect("runs")
                .stdout,
        );
        assert_eq!(schema, schemas[name], "{name}");
        assert_eq!(schema["additionalProperties"], json!(false), "{name}");
        let documented = ondol().args(["--doc", name]).output().expect("runs");
        assert!(documented.status.success(), "{name}");
        let text = String::from_utf8_lossy(&documented.stdout).into_owned();
        assert!(text.contains(&format!("module: {name}\n")), "{text}");
    }
    ondol().args(["--schema", "fcts"]).assert().code(2);
}

#[test]
fn arguments_come_from_standard_input_or_from_a_file() {
    let arguments = json!({"_ansible_module_name": "ondol.cloud.facts", "gather_subset": "!all", "filter": "kernel"});
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("args");
    fs::write(&file, arguments.to_string()).expect("write");

    let piped = ondol()
        .arg("-")
        .write_stdin(arguments.to_string())
        .output()
        .expect("runs");
    let read = ondol().arg(&file).output().expect("runs");
    assert!(piped.status.success());
    assert_eq!(reply(&piped.stdout), reply(&read.stdout));
    let facts = &reply(&read.stdout)["ansible_facts"];
    assert!(facts["ansible_kernel"].is_string(), "{facts}");
}

#[test]
fn the_name_it_is_called_by_chooses_the_module() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let link = folder.path().join("facts");
    std::os::unix::fs::symlink(BINARY, &link).expect("symlink");
    let output = Asserted::new(&link)
        .arg("-")
        .write_stdin(r#"{"filter": "kernel"}"#)
        .output()
        .expect("runs");
    assert!(reply(&output.stdout)["ansible_facts"]["ansible_kernel"].is_string());
}

#[test]
fn what_cannot_be_run_fails_in_ansibles_own_terms() {
    for (arguments, message) in [
        ("{", "arguments are not JSON (line 1, column 1)"),
        ("[]", "arguments are not a JSON object"),
        (
            "{}",
            "the arguments do not name a module (_ansible_module_name)",
        ),
        (
            r#"{"_ansible_module_name": "ondol.cloud.nothing"}"#,
            "holds no module \"nothing\"",
        ),
    ] {
        let output = ondol()
            .arg("-")
            .write_stdin(arguments)
            .output()
            .expect("runs");
        let reply = reply(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert_eq!(reply["failed"], json!(true), "{arguments}");
        let told = reply["msg"].as_str().unwrap_or_default();
        assert!(told.contains(message), "{told}");
    }
    let output = ondol().arg("/nonexistent/args").output().expect("runs");
    let told = reply(&output.stdout)["msg"].clone();
    let told = told.as_str().unwrap_or_default();
    assert!(
        told.starts_with("read arguments /nonexistent/args: "),
        "{told}"
    );
}

#[test]
fn the_collections_generated_files_are_up_to_date() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    ondol()
        .arg("--write-collection")
        .arg(folder.path())
        .assert()
        .success();
    let checked_in = crate::harness::repository().join("modules/collection");
    for part in ["plugins/modules", "plugins/action", "tests/sanity", "meta"] {
        let (present, wanted) = (
            texts(&checked_in.join(part)),
            texts(&folder.path().join(part)),
        );
        let names = |texts: &[(String, String)]| -> Vec<String> {
            texts.iter().map(|(name, _)| name.clone()).collect()
        };
        let how = "run: cargo run -p ondol-module -- --write-collection modules/collection";
        assert_eq!(names(&present), names(&wanted), "{part}: {how}");
        for ((name, present), (_, wanted)) in present.iter().zip(&wanted) {
            assert!(present == wanted, "{part}/{name} is out of date; {how}");
        }
    }
}

fn texts(folder: &Path) -> Vec<(String, String)> {
    let mut texts: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && !path.is_symlink())
        .map(|path| {
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read_to_string(&path).expect("text"))
        })
        .collect();
    texts.sort();
    texts
}

/// Ubuntu 22.04 has glibc 2.35.
#[test]
fn it_asks_for_no_c_library_newer_than_ubuntu_22_04_has() {
    let Some(objdump) = crate::harness::find("objdump") else {
        crate::harness::skip("objdump is not installed (package binutils)");
        return;
    };
    let output = Command::new(objdump)
        .args(["-T", BINARY])
        .output()
        .expect("objdump runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut versions: Vec<(u32, u32)> = text
        .split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let mut numbers = rest[..end].split('.').map(str::parse::<u32>);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .collect();
    versions.sort_unstable();
    let highest = versions.last().expect("it is linked with glibc");
    assert!(*highest <= (2, 35), "it needs glibc {highest:?}");
}
