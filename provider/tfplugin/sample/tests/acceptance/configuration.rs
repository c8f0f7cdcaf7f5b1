//! What a user gets wrong, and what each mistake is answered with: the attribute, the value, and what is allowed.

use crate::terraform::Terraform;

#[test]
fn each_wrong_value_is_named_with_what_is_allowed() {
    let cases = [
        (
            "name = \"Notes\"",
            "name must be 1 to 30 characters, text that matches ^[a-z][a-z0-9-]*$, but it is \"Notes\"",
        ),
        ("name = \"\"", "but it is \"\""),
        (
            "name = \"a\"\n mode = 512",
            "mode must be a whole number, from 0 to 511, but it is 512",
        ),
        ("name = \"a\"\n mode = 1.5", "but it is 1.5"),
        (
            "name = \"a\"\n access = \"open\"",
            "access must be one of \"private\", \"shared\", but it is \"open\"",
        ),
        (
            "name = \"a\"\n timeouts = { create = \"soon\" }",
            "timeouts.create cannot be read: \"soon\" is not a duration",
        ),
        ("content = \"a\"", "The argument \"name\" is required"),
        ("name = \"a\"\n id = \"mine\"", "id is read-only"),
        ("name = \"a\"\n unheard_of = 1", "unheard_of"),
        ("name = \"a\"\n mode = \"many\"", "a number is required"),
    ];
    let terraform = Terraform::new("");
    for (attributes, message) in cases {
        terraform.configure(&format!(
            "resource \"sample_file\" \"a\" {{\n{attributes}\n}}"
        ));
        terraform.validate().failed().says(message);
    }
}

#[test]
fn a_secret_is_not_shown_in_a_complaint_about_it() {
    let terraform =
        Terraform::new("resource \"sample_file\" \"a\" {\n name = \"a\"\n password = \"pst\"\n}");
    let run = terraform
        .validate()
        .failed()
        .says("password must be at least 4 characters");
    run.says("something else (not shown)");
}

#[test]
fn a_nested_mistake_is_named_with_its_whole_path() {
    let terraform = Terraform::new(
        "resource \"sample_nested\" \"a\" {\n name = \"a\"\n map = { log = { size_mib = 0 } }\n}",
    );
    let run = terraform.validate().failed();
    run.says("map[\"log\"].size_mib must be a whole number, at least 1, but it is 0");
    terraform.configure("resource \"sample_nested\" \"a\" {\n name = \"a\"\n list = [{ size_mib = 1 }, { size_mib = 0 }]\n}");
    terraform
        .validate()
        .failed()
        .says("list[1].size_mib must be");
    terraform.configure(
        "resource \"sample_nested\" \"a\" {\n name = \"a\"\n set = [{ size_mib = 0 }]\n}",
    );
    terraform
        .validate()
        .failed()
        .says("set[*].size_mib must be");
}

#[test]
fn what_attributes_mean_together_is_checked_by_the_resource() {
    let shared = "resource \"sample_file\" \"a\" {\n name = \"a\"\n access = \"shared\"\n password = \"open sesame\"\n}";
    let terraform = Terraform::new(shared);
    terraform
        .validate()
        .failed()
        .says("A shared file has no password")
        .says("on main.tf line");
    terraform.configure(
        "resource \"sample_nested\" \"a\" {\n name = \"a\"\n map = { x = { size_mib = 13 } }\n}",
    );
    terraform
        .validate()
        .failed()
        .says("An unlucky size")
        .says("Null");
}

#[test]
fn null_and_unknown_values_trip_no_check() {
    let terraform = Terraform::new(
        "resource \"sample_file\" \"f\" {\n name = \"f\"\n}\n\
         resource \"sample_file\" \"a\" {\n name = sample_file.f.owner\n mode = null\n access = null\n\
         password = sample_file.f.id\n timeouts = { create = sample_file.f.owner }\n}",
    );
    terraform.validate().succeeded();
    terraform.plan().succeeded();
}

#[test]
fn a_deprecated_attribute_warns_and_says_what_to_use() {
    let terraform =
        Terraform::new("resource \"sample_file\" \"a\" {\n name = \"a\"\n title = \"A\"\n}");
    let run = terraform.validate().succeeded().says("title is deprecated");
    run.says("use `name`");
}

fn provider(attributes: &str) -> String {
    format!(
        "terraform {{\n required_providers {{\n sample = {{ source = \"ondol/sample\" }}\n }}\n}}\n\
         provider \"sample\" {{\n{attributes}\n}}\n\
         data \"sample_files\" \"all\" {{}}\noutput \"greeting\" {{\n value = data.sample_files.all.greeting\n}}"
    )
}

#[test]
fn the_provider_checks_its_own_configuration() {
    let terraform = Terraform::new("");
    terraform.configure_all(&provider("directory = \"\""));
    terraform
        .validate()
        .failed()
        .says("directory must be at least 1 character");
    terraform.configure_all(&provider("directory = \"x\"\n greeting = \"goodbye\""));
    terraform.validate().failed().says("That is no greeting");
    terraform.configure_all(&provider("directory = \"/nonexistent\""));
    terraform
        .plan()
        .failed()
        .says("/nonexistent is not a folder")
        .says("with provider");
}

#[test]
fn the_provider_has_defaults_too() {
    let terraform = Terraform::new("");
    let directory = terraform.machine();
    terraform.configure_all(&provider(&format!("directory = {directory:?}")));
    terraform.apply().succeeded();
    assert_eq!(terraform.outputs()["greeting"]["value"], "hello");
}

#[test]
fn the_schema_has_every_behaviour_that_terraform_knows() {
    let terraform = Terraform::new("");
    let schemas = terraform.json(&["providers", "schema", "-json"]);
    let all = schemas["provider_schemas"].as_object().expect("schemas");
    let sample = all.values().next().expect("one provider");
    let file = &sample["resource_schemas"]["sample_file"]["block"]["attributes"];
    assert_eq!(file["name"]["required"], true);
    assert_eq!(file["password"]["sensitive"], true);
    assert_eq!(file["title"]["deprecated"], true);
    assert_eq!(file["id"]["computed"], true);
    assert_eq!(file["owner"]["optional"], true);
    assert_eq!(file["owner"]["computed"], true);
    assert_eq!(file["name"]["description"], "The file's name.");
    assert_eq!(file["name"]["description_kind"], "markdown");
    let nested = &sample["resource_schemas"]["sample_nested"]["block"]["attributes"];
    for (name, mode) in [
        ("seed", "single"),
        ("list", "list"),
        ("set", "set"),
        ("map", "map"),
    ] {
        assert_eq!(nested[name]["nested_type"]["nesting_mode"], mode);
    }
    assert_eq!(
        nested["seed"]["nested_type"]["attributes"]["password"]["write_only"],
        true
    );
    assert_eq!(nested["anything"]["type"], "dynamic");
    assert_eq!(
        nested["words"]["type"],
        serde_json::json!(["set", "string"])
    );
    assert_eq!(sample["resource_schemas"]["sample_upgraded"]["version"], 2);
    assert!(sample["ephemeral_resource_schemas"]["sample_token"].is_object());
    assert_eq!(
        sample["functions"]["join"]["variadic_parameter"]["name"],
        "words"
    );
    assert_eq!(
        sample["functions"]["port"]["parameters"][1]["is_nullable"],
        true
    );
}
