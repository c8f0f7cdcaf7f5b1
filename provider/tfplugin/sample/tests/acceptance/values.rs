//! What only looks or computes: data sources and functions.

use serde_json::json;

use crate::terraform::Terraform;

#[test]
fn a_data_source_looks_and_has_defaults() {
    let terraform = Terraform::new(
        "resource \"sample_file\" \"a\" {\n name = \"apple\"\n}\n\
         resource \"sample_file\" \"b\" {\n name = \"banana\"\n}\n\
         data \"sample_files\" \"all\" {\n depends_on = [sample_file.a, sample_file.b]\n}\n\
         data \"sample_files\" \"some\" {\n prefix = \"ba\"\n depends_on = [sample_file.b]\n}",
    );
    terraform.apply().succeeded();
    let all = terraform.state("data.sample_files.all");
    assert_eq!(
        all["files"],
        json!({"apple": {"position": 0}, "banana": {"position": 1}})
    );
    assert_eq!(all["prefix"], "");
    let some = terraform.state("data.sample_files.some");
    assert_eq!(some["files"], json!({"banana": {"position": 0}}));
    terraform.settled();
}

#[test]
fn a_data_source_refuses_wrong_values_by_name() {
    let terraform = Terraform::new("data \"sample_files\" \"x\" {\n prefix = \"/\"\n}");
    terraform.validate().failed().says("Names have no slash");
    terraform.configure("data \"sample_files\" \"x\" {\n prefix = \"too long\"\n}");
    terraform
        .validate()
        .failed()
        .says("prefix must be at most 5 characters");
}

fn output(expression: &str) -> String {
    format!("output \"x\" {{\n value = {expression}\n}}")
}

#[test]
fn functions_take_any_number_of_arguments_and_return_objects() {
    let cases = [
        (
            "provider::sample::join(\"-\", \"a\", \"b\", \"c\")",
            json!("a-b-c"),
        ),
        ("provider::sample::join(\"-\")", json!("")),
        (
            "provider::sample::port(\"db:5432\", null)",
            json!({"host": "db", "port": 5432}),
        ),
        (
            "provider::sample::port(\"db\", 80)",
            json!({"host": "db", "port": 80}),
        ),
    ];
    let terraform = Terraform::new("");
    for (expression, expected) in cases {
        terraform.configure(&output(expression));
        terraform.apply().succeeded();
        assert_eq!(terraform.outputs()["x"]["value"], expected, "{expression}");
    }
}

#[test]
fn a_functions_error_names_its_argument() {
    let cases = [
        (
            "provider::sample::port(\"db:x\", 80)",
            "Invalid value for \"address\" parameter: address: \"x\" is no port",
        ),
        (
            "provider::sample::port(\"db\", 70000)",
            "Invalid value for \"fallback\" parameter",
        ),
        (
            "provider::sample::join(\"long\", \"a\")",
            "Invalid value for \"separator\" parameter",
        ),
        (
            "provider::sample::join(\"-\", \"a\", \"panic\")",
            "word 1 said so",
        ),
    ];
    let terraform = Terraform::new("");
    for (expression, message) in cases {
        terraform.configure(&output(expression));
        terraform.plan().failed().says(message);
    }
}

#[test]
fn the_provider_serves_terraform_on_a_loopback_port_too() {
    let terraform = Terraform::new(&output("provider::sample::join(\"-\", \"a\", \"b\")"))
        .with("SAMPLE_TRANSPORT", "tcp");
    terraform.apply().succeeded();
    assert_eq!(terraform.outputs()["x"]["value"], "a-b");
}

#[test]
fn log_lines_reach_terraforms_own_log_with_their_time() {
    let terraform = Terraform::new(&output("1")).with("TF_LOG_PROVIDER", "DEBUG");
    terraform.configure("resource \"sample_file\" \"a\" {\n name = \"a\"\n}");
    let run = terraform.plan().succeeded();
    let line = run
        .output
        .lines()
        .find(|line| line.contains("operation=\"plan sample_file\""));
    let line = line.unwrap_or_else(|| panic!("the operation is not in the log:\n{}", run.output));
    assert!(line.starts_with("20"), "{line}");
    assert!(line.contains("[DEBUG]"), "{line}");
}
