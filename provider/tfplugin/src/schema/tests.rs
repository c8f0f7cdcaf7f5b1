//! What models become, and which ones are refused.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{Attr, Dynamic, Set, attribute};

fn refusal<M: JsonSchema>() -> String {
    Schema::of::<M>(0).expect_err("it is refused").to_string()
}

/// A model with one field that is wrong.
macro_rules! wrong {
    ($(#[$behaviour:meta])* $field:ident: $kind:ty) => {{
        #[derive(Serialize, Deserialize, JsonSchema)]
        struct Model {
            $(#[$behaviour])*
            $field: $kind,
        }
        refusal::<Model>()
    }};
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Bare {
    size: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Hidden {
    #[schemars(transform = attribute::write_only)]
    key: Attr<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Endless {
    inner: Attr<Vec<Endless>>,
}

#[test]
fn a_model_that_cannot_be_a_schema_is_refused_by_field() {
    let cases = [
        (
            wrong!(name: String),
            "Model.name: its type must be Attr<...>",
        ),
        (
            wrong!(disk: Attr<Bare>),
            "Model.disk.size: its type must be Attr<...>",
        ),
        (
            wrong!(count: Attr<u64>),
            "Terraform keeps the name \"count\"",
        ),
        (
            wrong!(#[schemars(transform = attribute::required, extend("default" = 1))] size: Attr<u64>),
            "a required attribute has no default",
        ),
        (
            wrong!(#[schemars(extend("default" = "many"))] size: Attr<u64>),
            "the default does not fit",
        ),
        (
            wrong!(#[schemars(extend("default" = 0), range(min = 1))] size: Attr<u64>),
            "the default must be a whole number, at least 1, not 0",
        ),
        (
            wrong!(#[schemars(transform = attribute::stable)] size: Attr<u64>),
            "only a computed attribute can be stable",
        ),
        (
            wrong!(#[schemars(transform = attribute::write_only, transform = attribute::computed)] size: Attr<u64>),
            "a write-only attribute cannot be computed",
        ),
        (
            wrong!(keys: Attr<Set<Hidden>>),
            "cannot have write-only attributes, but key is one",
        ),
        (
            wrong!(#[schemars(pattern("("))] name: Attr<String>),
            "is not a regular expression",
        ),
        (
            wrong!(anything: Attr<serde_json::Value>),
            "use Dynamic for a value of any type",
        ),
        (refusal::<Endless>(), "the type contains itself"),
    ];
    for (refusal, expected) in cases {
        assert!(
            refusal.contains(expected),
            "{expected:?} is not in {refusal:?}"
        );
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Disk {
    #[schemars(transform = attribute::required)]
    size: Attr<u64>,
    note: Attr<String>,
}

/// Every way to have something.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Everything {
    text: Attr<String>,
    labels: Attr<BTreeMap<String, Attr<String>>>,
    words: Attr<Set<String>>,
    anything: Attr<Dynamic>,
    single: Attr<Disk>,
    map: Attr<BTreeMap<String, Disk>>,
    #[schemars(transform = attribute::plain_object)]
    plain: Attr<Vec<Disk>>,
    matrix: Attr<Vec<Vec<f64>>>,
    #[schemars(transform = attribute::computed)]
    found: Attr<Disk>,
}

#[test]
fn each_rust_type_has_its_terraform_type() {
    let schema = Schema::of::<Everything>(3).expect("a schema");
    assert_eq!(schema.version, 3);
    assert_eq!(schema.description, "Every way to have something.");
    let found: Vec<_> = schema
        .attributes
        .iter()
        .map(|attribute| {
            let nesting = attribute.nested().map(|(nesting, _)| nesting);
            (attribute.name.as_str(), attribute.kind.to_string(), nesting)
        })
        .collect();
    let disk = "object({note = string, size = number})";
    let expected = [
        ("text", "string".to_owned(), None),
        ("labels", "map(string)".to_owned(), None),
        ("words", "set(string)".to_owned(), None),
        ("anything", "any".to_owned(), None),
        ("single", disk.to_owned(), Some(Nesting::Single)),
        ("map", format!("map({disk})"), Some(Nesting::Map)),
        ("plain", format!("list({disk})"), None),
        ("matrix", "list(list(number))".to_owned(), None),
        ("found", disk.to_owned(), Some(Nesting::Single)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_only_the_provider_sets_has_only_such_attributes() {
    let schema = Schema::of::<Everything>(0).expect("a schema");
    let found = schema.attributes.last().expect("the last one");
    let (_, inside) = found.nested().expect("it is nested");
    let note = &inside[1];
    assert_eq!((note.computed, note.optional), (true, false));
}
