//! One resource from its first plan to its end: defaults, unknowns, updates, replacement, drift, import, state versions.

use serde_json::json;

use crate::terraform::Terraform;

const FILE: &str = "resource \"sample_file\" \"a\" {\n  name = \"notes\"\n  content = \"hi\"\n}";

#[test]
fn a_resource_is_created_and_then_nothing_is_left_to_do() {
    let terraform = Terraform::new(FILE);
    let change = terraform.planned("sample_file.a");
    assert_eq!(change["actions"], json!(["create"]));
    assert_eq!(change["after"]["mode"], 420);
    assert_eq!(change["after"]["access"], "private");
    assert_eq!(
        change["after"]["size"], 2,
        "the resource's own plan knows the size"
    );
    assert_eq!(change["after_unknown"]["id"], true);
    assert_eq!(change["after_unknown"]["owner"], true);
    terraform.apply().succeeded();
    let state = terraform.state("sample_file.a");
    assert_eq!(state["id"], "file/notes");
    assert_eq!(state["owner"], "root");
    assert_eq!(state["revision"], 1);
    terraform.settled();
}

#[test]
fn an_update_keeps_stable_values_and_makes_the_other_computed_ones_unknown() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    terraform.configure(&FILE.replace("hi", "longer"));
    let change = terraform.planned("sample_file.a");
    assert_eq!(change["actions"], json!(["update"]));
    assert_eq!(change["after"]["id"], "file/notes");
    assert_eq!(change["after"]["owner"], "root");
    assert_eq!(change["after_unknown"], json!({"revision": true}));
    terraform.apply().succeeded();
    let state = terraform.state("sample_file.a");
    assert_eq!(state["revision"], 2, "the private state counts");
    assert_eq!(state["size"], 6);
    terraform.settled();
}

#[test]
fn an_attribute_that_is_left_out_again_goes_back_to_its_default() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    terraform.configure(&FILE.replace("  content = \"hi\"\n", ""));
    assert_eq!(terraform.planned("sample_file.a")["after"]["content"], "");
    terraform.apply().succeeded().says("The file is empty");
    terraform.settled();
}

#[test]
fn a_default_does_not_stand_in_for_what_is_not_known_yet() {
    let terraform = Terraform::new(
        "resource \"sample_file\" \"a\" {\n  name = \"first\"\n}\n\
         resource \"sample_file\" \"b\" {\n  name = \"second\"\n  content = sample_file.a.id\n}",
    );
    let change = terraform.planned("sample_file.b");
    assert_eq!(change["after_unknown"]["content"], true);
    terraform.apply().succeeded();
    assert_eq!(terraform.state("sample_file.b")["content"], "file/first");
    terraform.settled();
}

#[test]
fn another_name_needs_another_resource() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    terraform.configure(&FILE.replace("notes", "letters"));
    let change = terraform.planned("sample_file.a");
    assert_eq!(change["actions"], json!(["delete", "create"]));
    assert_eq!(change["replace_paths"], json!([["name"]]));
    terraform.apply().succeeded();
    assert_eq!(terraform.state("sample_file.a")["id"], "file/letters");
    assert!(!terraform.machine().join("file/notes.json").exists());
}

#[test]
fn drift_is_seen_and_mended() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    let place = terraform.machine().join("file/notes.json");
    let text = std::fs::read_to_string(&place).expect("the file was written");
    std::fs::write(&place, text.replace("\"hi\"", "\"edited\"")).expect("it can be written");
    let change = terraform.planned("sample_file.a");
    assert_eq!(change["before"]["content"], "edited");
    assert_eq!(change["after"]["content"], "hi");
    std::fs::remove_file(&place).expect("it exists");
    assert_eq!(
        terraform.planned("sample_file.a")["actions"],
        json!(["create"])
    );
    terraform.apply().succeeded();
    terraform.settled();
}

#[test]
fn what_cannot_be_read_is_an_error_and_never_gone() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    std::fs::write(terraform.machine().join("file/notes.json"), "{").expect("it can be written");
    terraform.plan().failed().says("notes.json");
    assert!(terraform.state_file().contains("file/notes"));
}

#[test]
fn destroying_removes_the_resource_and_can_be_refused() {
    let terraform = Terraform::new(&FILE.replace("\n}", "\n  keep = true\n}"));
    terraform.apply().succeeded();
    terraform.destroy().failed().says("The file is to be kept");
    terraform.configure(FILE);
    terraform.apply().succeeded();
    terraform.destroy().succeeded();
    assert!(!terraform.machine().join("file/notes.json").exists());
}

#[test]
fn an_existing_object_is_imported_by_its_id() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    terraform.run(&["state", "rm", "sample_file.a"]).succeeded();
    terraform
        .apply()
        .failed()
        .says("The file \"notes\" exists")
        .says("with sample_file.a");
    terraform
        .run(&["import", "-no-color", "sample_file.a", "notes"])
        .succeeded();
    assert_eq!(terraform.state("sample_file.a")["id"], "file/notes");
    terraform.settled();
    terraform.run(&["state", "rm", "sample_file.a"]).succeeded();
    terraform
        .run(&["import", "-no-color", "sample_file.a", "absent"])
        .failed();
}

#[test]
fn a_resource_without_import_says_so() {
    let terraform = Terraform::new("resource \"sample_secret\" \"a\" {\n  password = \"abcd\"\n}");
    let run = terraform
        .run(&["import", "-no-color", "sample_secret.a", "x"])
        .failed();
    run.says("sample_secret cannot be imported by its id");
}

/// Changes a state as if an older version of the provider had written it.
fn rewrite_state(terraform: &Terraform, kind: &str, version: u64, attributes: serde_json::Value) {
    let mut state: serde_json::Value = serde_json::from_str(&terraform.state_file()).expect("JSON");
    let resources = state["resources"].as_array_mut().expect("resources");
    let resource = resources
        .iter_mut()
        .find(|resource| resource["type"] == kind)
        .expect("it is there");
    resource["instances"][0]["schema_version"] = version.into();
    resource["instances"][0]["attributes"] = attributes;
    state["serial"] = 99.into();
    std::fs::write(
        terraform.work().join("terraform.tfstate"),
        state.to_string(),
    )
    .expect("it can be written");
}

#[test]
fn states_of_older_versions_are_upgraded() {
    let terraform =
        Terraform::new("resource \"sample_upgraded\" \"a\" {\n  words = [\"one\", \"two\"]\n}");
    terraform.apply().succeeded();
    rewrite_state(
        &terraform,
        "sample_upgraded",
        0,
        json!({"title": "one two"}),
    );
    terraform.settled();
    rewrite_state(&terraform, "sample_upgraded", 1, json!({"name": "one two"}));
    terraform.settled();
    rewrite_state(
        &terraform,
        "sample_upgraded",
        1,
        json!({"title": "one two"}),
    );
    terraform.plan().failed().says("the state has no name");
}

#[test]
fn a_state_of_a_newer_version_is_refused() {
    let terraform = Terraform::new("resource \"sample_upgraded\" \"a\" {\n  words = [\"one\"]\n}");
    terraform.apply().succeeded();
    rewrite_state(&terraform, "sample_upgraded", 3, json!({"words": ["one"]}));
    // Terraform itself refuses before it asks the provider.
    terraform.plan().failed().says("newer");
}

#[test]
fn a_state_with_an_attribute_that_the_model_has_lost_is_still_read() {
    let terraform = Terraform::new("resource \"sample_upgraded\" \"a\" {\n  words = [\"one\"]\n}");
    terraform.apply().succeeded();
    rewrite_state(
        &terraform,
        "sample_upgraded",
        2,
        json!({"words": ["one"], "gone": {"since": 1}}),
    );
    terraform.settled();
}

#[test]
fn a_state_that_does_not_decode_names_the_attribute() {
    let terraform = Terraform::new("resource \"sample_upgraded\" \"a\" {\n  words = [\"one\"]\n}");
    terraform.apply().succeeded();
    rewrite_state(
        &terraform,
        "sample_upgraded",
        2,
        json!({"words": ["one", {"not": "a word"}]}),
    );
    terraform
        .plan()
        .failed()
        .says("words[1] cannot be read")
        .says("an object was found");
}

#[test]
fn a_resource_moves_to_another_type_with_its_state() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    terraform.configure(
        "resource \"sample_moved\" \"b\" {\n  name = \"notes\"\n}\n\
         moved {\n  from = sample_file.a\n  to = sample_moved.b\n}",
    );
    terraform.apply().succeeded();
    assert_eq!(terraform.state("sample_moved.b")["origin"], "sample_file");
    terraform.settled();
}

#[test]
fn a_move_from_an_unknown_type_is_refused_by_name() {
    let terraform = Terraform::new("resource \"sample_secret\" \"a\" {\n  password = \"abcd\"\n}");
    terraform.apply().succeeded();
    terraform.configure(
        "resource \"sample_moved\" \"b\" {\n  name = \"notes\"\n}\n\
         moved {\n  from = sample_secret.a\n  to = sample_moved.b\n}",
    );
    terraform
        .plan()
        .failed()
        .says("sample_secret cannot be moved to sample_moved");
}

#[test]
fn only_new_limits_are_stored_without_touching_the_machine() {
    let terraform = Terraform::new(FILE);
    terraform.apply().succeeded();
    terraform.configure(&FILE.replace("\n}", "\n  timeouts = { create = \"5m\" }\n}"));
    let change = terraform.planned("sample_file.a");
    assert_eq!(change["actions"], json!(["update"]));
    assert_eq!(change["after_unknown"], json!({}));
    terraform.apply().succeeded();
    assert_eq!(terraform.state("sample_file.a")["revision"], 1);
    terraform.settled();
}
