//! What goes wrong while Terraform runs: failures halfway, panics, limits of time, Ctrl-C, a killed Terraform.

use std::time::{Duration, Instant};

use crate::terraform::{Run, Terraform, providers_of, signal};

fn faulty(fault: &str) -> String {
    format!("resource \"sample_faulty\" \"a\" {{\n fault = \"{fault}\"\n}}")
}

#[test]
fn a_panic_while_planning_names_the_resource_and_the_operation() {
    let terraform = Terraform::new(&faulty("panic_plan"));
    let run = terraform
        .plan()
        .failed()
        .says("The provider crashed: plan sample_faulty");
    run.says("planned to panic").says("src/faulty.rs");
}

#[test]
fn a_panic_while_creating_leaves_no_resource_behind_unless_it_kept_one() {
    let terraform = Terraform::new(&faulty("panic_create"));
    terraform
        .apply()
        .failed()
        .says("The provider crashed: create sample_faulty")
        .says("created to panic");
    assert!(!terraform.state_file().contains("halfway"));
    terraform.configure(&faulty("panic_create_halfway"));
    terraform.apply().failed().says("halfway to panic");
    assert!(terraform.state_file().contains("\"halfway\""));
    terraform.plan().says("is tainted");
}

#[test]
fn a_panic_over_the_identity_of_what_was_created_does_not_lose_it() {
    let terraform = Terraform::new(&faulty("panic_identity"));
    let run = terraform.apply().failed();
    run.says("The provider crashed: create sample_faulty")
        .says("identified to panic");
    assert!(terraform.state_file().contains("\"whole\""));
}

#[test]
fn a_panic_while_reading_keeps_the_state() {
    let terraform = Terraform::new(
        "resource \"sample_faulty\" \"a\" {\n fault = \"none\"\n note = \"panic on read\"\n}",
    );
    terraform.apply().succeeded();
    terraform
        .plan()
        .failed()
        .says("The provider crashed: read sample_faulty");
    assert!(terraform.state_file().contains("\"whole\""));
}

#[test]
fn a_create_that_fails_midway_keeps_what_it_made() {
    let terraform = Terraform::new(&faulty("fail_create"));
    let run = terraform
        .apply()
        .failed()
        .says("Could not create")
        .says("The machine said: no.");
    run.says("on main.tf line");
    assert!(!terraform.state_file().contains("halfway"));
    terraform.configure(&faulty("fail_create_halfway"));
    terraform.apply().failed().says("Could not finish");
    assert!(terraform.state_file().contains("\"halfway\""));
    terraform.configure(&faulty("none"));
    terraform.apply().succeeded().says("1 destroyed");
    terraform.settled();
}

#[test]
fn a_plan_can_be_refused() {
    let terraform = Terraform::new(&faulty("refuse_plan"));
    terraform.plan().failed().says("Could not plan");
}

#[test]
fn an_update_or_a_delete_that_fails_keeps_the_prior_state() {
    let terraform = Terraform::new(&faulty("none"));
    terraform.apply().succeeded();
    terraform.configure(&faulty("fail_update"));
    terraform.apply().failed().says("Could not update");
    assert_eq!(terraform.state("sample_faulty.a")["fault"], "none");
    terraform.configure(&faulty("fail_delete"));
    terraform.apply().succeeded();
    terraform.destroy().failed().says("Could not delete");
    assert_eq!(terraform.state("sample_faulty.a")["id"], "whole");
}

#[test]
fn a_value_that_the_resource_leaves_unknown_is_named() {
    let terraform = Terraform::new(&faulty("leave_unknown"));
    terraform
        .apply()
        .failed()
        .says("create sample_faulty left result unknown");
    assert!(terraform.state_file().contains("\"halfway\""));
}

fn slow(millis: u64, rest: &str) -> String {
    format!("resource \"sample_slow\" \"a\" {{\n create_millis = {millis}\n {rest}\n}}")
}

#[test]
fn an_operation_that_exceeds_its_limit_is_ended_by_name() {
    let terraform = Terraform::new(&slow(60_000, "timeouts = { create = \"300ms\" }"));
    let began = Instant::now();
    let run = terraform
        .apply()
        .failed()
        .says("create sample_slow did not finish within 300ms");
    run.says("timeouts");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(terraform.diary().contains("create interrupted"));
    assert!(
        terraform.state_file().contains("\"slow\""),
        "the unfinished resource is in the state"
    );
}

#[test]
fn an_operation_that_hears_nothing_is_abandoned_and_keeps_what_it_had() {
    let terraform = Terraform::new(&slow(
        60_000,
        "deaf = true\n timeouts = { create = \"200ms\" }",
    ));
    let began = Instant::now();
    terraform
        .apply()
        .failed()
        .says("Abandoned: create sample_slow");
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(terraform.state_file().contains("\"slow\""));
}

/// Terraform's output, once it has ended.
fn wait(child: std::process::Child) -> Run {
    child.wait_with_output().expect("it ends").into()
}

#[test]
fn ctrl_c_stops_an_operation_within_seconds_and_keeps_its_state() {
    let terraform = Terraform::new(&slow(120_000, ""));
    let child = terraform.begin(&["apply", "-auto-approve", "-no-color"], "create began");
    // A terminal sends it to the whole group: Terraform and its providers.
    let providers = providers_of(child.id());
    assert!(!providers.is_empty(), "the provider runs");
    for id in providers {
        signal(id, "INT");
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        !terraform.diary().contains("interrupted"),
        "the provider minds only Terraform"
    );
    let began = Instant::now();
    signal(child.id(), "INT");
    let run = wait(child).failed().says("create sample_slow was stopped");
    assert!(began.elapsed() < Duration::from_secs(20), "{}", run.output);
    assert!(terraform.diary().contains("create interrupted"));
    assert!(terraform.state_file().contains("\"slow\""));
}

#[test]
fn the_provider_ends_when_terraform_is_killed() {
    let terraform = Terraform::new(&slow(120_000, ""));
    let mut child = terraform.begin(&["apply", "-auto-approve", "-no-color"], "create began");
    let providers = providers_of(child.id());
    assert!(!providers.is_empty(), "the provider runs");
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    let began = Instant::now();
    let alive = |id: &u32| {
        std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    while providers.iter().any(alive) {
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "the provider outlives Terraform"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        terraform.diary().contains("create interrupted"),
        "its operation was told to stop"
    );
}
