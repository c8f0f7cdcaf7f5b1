//! Ansible's own judgement of the collection: `ansible-test sanity`, with the newest ansible-core that is installed.
//!
//! Its virtual environments stay in `target/ansible/sanity`: only the first run makes them.

use std::process::Command;

use crate::harness::{ansibles, repository};

#[test]
fn ansible_test_finds_nothing_wrong_with_the_collection() {
    let Some((_, bin)) = ansibles().pop() else {
        return;
    };
    let output = Command::new(repository().join("modules/collection/sanity"))
        .arg(env!("CARGO_BIN_EXE_ondol-module"))
        .arg(repository().join("target/ansible/sanity"))
        .env("ANSIBLE_TEST", bin.join("ansible-test"))
        .output()
        .expect("sanity runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for test in ["import", "pylint", "validate-modules", "yamllint"] {
        assert!(
            text.contains(&format!("Running sanity test \"{test}\"")),
            "{test} did not run: {text}"
        );
    }
    assert!(!text.contains("targets skipped"), "{text}");
}
