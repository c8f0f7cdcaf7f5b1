//! Attributes in attributes, collections, values of any type, and numbers.

use serde_json::json;

use crate::terraform::Terraform;

const NESTED: &str = r#"
resource "sample_nested" "a" {
  name  = "vm"
  seed  = { user = "ubuntu", keys = ["k1", "k2"], password = "first-secret" }
  list  = [{ size_mib = 1 }, { size_mib = 2, format = "raw" }]
  set   = [{ size_mib = 3 }, { size_mib = 4 }]
  map   = { data = { size_mib = 5 }, log = { size_mib = 6 } }
  labels = { a = "1", b = null }
  words  = ["x", "y"]
  anything = { list = [1, "two", null], flag = true }
}"#;

#[test]
fn nested_attributes_have_behaviours_of_their_own() {
    let terraform = Terraform::new(NESTED);
    let change = terraform.planned("sample_nested.a");
    assert_eq!(change["after"]["list"][0]["format"], "vdi");
    assert_eq!(change["after_unknown"]["list"][0]["uuid"], true);
    assert_eq!(change["after_unknown"]["map"]["data"]["uuid"], true);
    assert_eq!(change["after_unknown"]["report"], true);
    terraform.apply().succeeded();
    let state = terraform.state("sample_nested.a");
    assert_eq!(
        state["list"][1],
        json!({"size_mib": 2, "format": "raw", "uuid": "list-1"})
    );
    assert_eq!(state["map"]["log"]["uuid"], "map-log");
    assert_eq!(state["report"]["uuid"], "report");
    assert_eq!(state["labels"], json!({"a": "1", "b": null}));
    let sizes: Vec<_> = state["set"]
        .as_array()
        .expect("a set")
        .iter()
        .map(|disk| &disk["uuid"])
        .collect();
    assert_eq!(sizes, ["set-3", "set-4"]);
    assert_eq!(
        state["anything"],
        json!({"list": [1, "two", null], "flag": true})
    );
    assert_eq!(state["seed"]["password"], json!(null));
    assert!(!terraform.state_file().contains("first-secret"));
    assert!(terraform.diary().contains("password first-secret"));
    terraform.settled();
}

#[test]
fn elements_keep_what_is_stable_in_them() {
    let terraform = Terraform::new(NESTED);
    terraform.apply().succeeded();
    terraform.configure(
        &NESTED
            .replace(
                "[{ size_mib = 3 }, { size_mib = 4 }]",
                "[{ size_mib = 9 }, { size_mib = 4 }]",
            )
            .replace(
                "data = { size_mib = 5 }",
                "data = { size_mib = 50 }, new = { size_mib = 7 }",
            ),
    );
    let change = terraform.planned("sample_nested.a");
    assert_eq!(change["actions"], json!(["update"]));
    assert_eq!(
        change["after"]["map"]["data"],
        json!({"size_mib": 50, "format": "vdi", "uuid": "map-data"})
    );
    assert_eq!(change["after_unknown"]["map"]["new"]["uuid"], true);
    terraform.apply().succeeded();
    let state = terraform.state("sample_nested.a");
    assert_eq!(state["map"]["data"]["uuid"], "map-data");
    let uuids: Vec<_> = state["set"]
        .as_array()
        .expect("a set")
        .iter()
        .map(|disk| &disk["uuid"])
        .collect();
    assert_eq!(uuids, ["set-4", "set-9"]);
    terraform.settled();
}

#[test]
fn a_nested_attribute_can_need_another_resource() {
    let terraform = Terraform::new(NESTED);
    terraform.apply().succeeded();
    terraform.configure(&NESTED.replace(
        "data = { size_mib = 5 }",
        "data = { size_mib = 5, format = \"qcow2\" }",
    ));
    let change = terraform.planned("sample_nested.a");
    assert_eq!(change["actions"], json!(["delete", "create"]));
    assert_eq!(change["replace_paths"], json!([["map", "data", "format"]]));
}

#[test]
fn elements_that_are_not_known_yet_pass_through_every_collection() {
    let terraform = Terraform::new(
        r#"
resource "sample_file" "f" {
  name = "f"
}
resource "sample_nested" "a" {
  name   = sample_file.f.id
  seed   = { user = sample_file.f.id, keys = [sample_file.f.id, "k"] }
  list   = [{ size_mib = length(sample_file.f.id) }]
  set    = [for n in [sample_file.f.revision] : { size_mib = n, format = sample_file.f.id }]
  map    = { x = { size_mib = sample_file.f.revision } }
  labels = { a = sample_file.f.id }
  words  = [sample_file.f.id, "b"]
  anything = sample_file.f.id
}"#,
    );
    terraform.plan().succeeded();
    // Its name has a slash, which the sample machine cannot store as one file: give it another place.
    std::fs::create_dir_all(terraform.machine().join("nested/file")).expect("a folder");
    terraform.apply().succeeded();
    let state = terraform.state("sample_nested.a");
    assert_eq!(state["seed"]["keys"], json!(["file/f", "k"]));
    assert_eq!(state["set"][0]["format"], "file/f");
    assert_eq!(state["anything"], "file/f");
    terraform.settled();
}

#[test]
fn numbers_and_long_texts_arrive_as_they_were_written() {
    let long = "x".repeat(5 * 1024 * 1024);
    let configuration = |text: &str| {
        format!(
            r#"
resource "sample_numbers" "a" {{
  unsigned = 18446744073709551615
  signed   = -9223372036854775808
  small    = 255
  fraction = 0.1
  exact    = 123456789012345678901234567890.125
  text     = {text}
}}"#
        )
    };
    let terraform = Terraform::new(&configuration("file(\"${path.module}/long\")"));
    std::fs::write(terraform.work().join("long"), &long).expect("a file");
    terraform.apply().succeeded();
    let state = terraform.state_file();
    for number in [
        "18446744073709551615",
        "-9223372036854775808",
        "0.1",
        "123456789012345678901234567890.125",
    ] {
        assert!(
            state.contains(&format!("\": {number}")),
            "{number} is not in the state"
        );
    }
    assert!(state.contains(&long), "5 MiB of text are in the state");
    terraform.settled();
}
