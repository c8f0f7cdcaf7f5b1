//! Values that must not stay: write-only attributes, sensitive ones, ephemeral resources.

use serde_json::json;

use crate::terraform::Terraform;

#[test]
fn a_write_only_value_reaches_the_machine_and_no_file_of_terraforms() {
    let secret = "resource \"sample_secret\" \"a\" {\n password = \"hush hush\"\n}";
    let terraform = Terraform::new(secret);
    let change = terraform.planned("sample_secret.a");
    assert_eq!(change["after"]["password"], json!(null));
    terraform
        .run(&["apply", "-no-color", "plan"])
        .succeeded()
        .hides("hush");
    assert_eq!(terraform.diary(), "password hush hush\n");
    assert_eq!(terraform.state("sample_secret.a")["length"], 9);
    assert!(!terraform.state_file().contains("hush"));
    terraform.configure(&secret.replace("hush hush", "another"));
    terraform.settled();
    terraform.configure(&secret.replace("hush hush\"", "another\"\n version = 2"));
    terraform.apply().succeeded();
    assert_eq!(terraform.diary(), "password hush hush\npassword another\n");
    assert_eq!(terraform.state("sample_secret.a")["length"], 7);
}

#[test]
fn a_wrong_write_only_value_is_refused_and_not_shown() {
    let terraform = Terraform::new("resource \"sample_secret\" \"a\" {\n password = \"pst\"\n}");
    terraform
        .validate()
        .failed()
        .says("password must be at least 4 characters")
        .says("not shown");
}

#[test]
fn a_sensitive_value_is_hidden_in_plans() {
    let terraform = Terraform::new(
        "resource \"sample_file\" \"a\" {\n name = \"a\"\n password = \"hush hush\"\n}",
    );
    terraform
        .plan()
        .succeeded()
        .says("(sensitive value)")
        .hides("hush");
    terraform.apply().succeeded().hides("hush");
    assert_eq!(terraform.state("sample_file.a")["password"], "hush hush");
}

#[test]
fn an_ephemeral_value_is_opened_used_and_closed_and_never_stored() {
    let terraform = Terraform::new(
        "ephemeral \"sample_token\" \"t\" {\n owner = \"ann\"\n}\n\
         resource \"sample_secret\" \"a\" {\n password = ephemeral.sample_token.t.token\n}",
    );
    terraform.apply().succeeded();
    let diary = terraform.diary();
    assert!(diary.contains("open ann\n"), "{diary}");
    assert!(diary.contains("password token-of-ann\n"), "{diary}");
    assert!(diary.ends_with("close ann after 0 renewals\n"), "{diary}");
    assert!(!terraform.state_file().contains("token-of-ann"));
}

#[test]
fn an_ephemeral_value_is_renewed_while_it_is_used() {
    let terraform = Terraform::new(
        "ephemeral \"sample_token\" \"t\" {\n owner = \"ann\"\n renew_millis = 100\n}\n\
         provider \"sample\" {\n alias = \"other\"\n directory = \"MACHINE\"\n greeting = ephemeral.sample_token.t.token\n}\n\
         resource \"sample_slow\" \"a\" {\n provider = sample.other\n create_millis = 1500\n}",
    );
    let configuration =
        std::fs::read_to_string(terraform.work().join("main.tf")).expect("it was written");
    let machine = terraform.machine();
    terraform.configure_all(&configuration.replace("MACHINE", machine.to_str().expect("UTF-8")));
    terraform.apply().succeeded();
    let diary = terraform.diary();
    assert!(diary.contains("renew ann\n"), "{diary}");
    assert!(diary.contains("close ann"), "{diary}");
}

#[test]
fn a_wrong_ephemeral_value_is_named() {
    let terraform = Terraform::new("ephemeral \"sample_token\" \"t\" {\n owner = \"a\"\n}");
    terraform
        .validate()
        .failed()
        .says("owner must be at least 2 characters");
}
