//! Reading the JSON Schema that schemars made. Only what schemars emits for plain structs and enums is understood;
//! [`unsupported_keywords`] finds the rest, so that no rule is documented without being enforced.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

/// The schema of what is read.
pub(crate) fn of_params<T: JsonSchema>() -> Value {
    root::<T>(SchemaSettings::draft2020_12().for_deserialize())
}

/// The schema of what is written.
pub(crate) fn of_answer<T: JsonSchema>() -> Value {
    root::<T>(SchemaSettings::draft2020_12().for_serialize())
}

fn root<T: JsonSchema>(settings: SchemaSettings) -> Value {
    SchemaGenerator::new(settings)
        .into_root_schema_for::<T>()
        .to_value()
}

/// One place in a schema, with the document its references point into.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    root: &'a Value,
    pub(crate) here: &'a Value,
}

impl<'a> Node<'a> {
    pub(crate) fn root(root: &'a Value) -> Self {
        Self { root, here: root }
    }

    fn at(self, here: &'a Value) -> Self {
        Self { here, ..self }
    }

    /// Follows `$ref` and drops the `null` branch of an option, until a schema that says something.
    pub(crate) fn resolve(self) -> Self {
        if let Some(name) = self.text("$ref") {
            let target = name
                .strip_prefix('#')
                .and_then(|pointer| self.root.pointer(pointer));
            return target.map_or(self, |target| self.at(target).resolve());
        }
        let mut branches = self.branches().into_iter().filter(|node| !node.is_null());
        match (branches.next(), branches.next()) {
            (Some(only), None) if self.get("const").is_none() => only.resolve(),
            _ => self,
        }
    }

    /// The branches of `oneOf` or `anyOf`; empty if there are none.
    pub(crate) fn branches(self) -> Vec<Self> {
        ["oneOf", "anyOf"]
            .into_iter()
            .filter_map(|key| self.get(key)?.as_array())
            .flatten()
            .map(|here| self.at(here))
            .collect()
    }

    fn is_null(self) -> bool {
        self.text("type") == Some("null")
    }

    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        self.here.get(key)
    }

    pub(crate) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    pub(crate) fn child(self, key: &str) -> Option<Self> {
        self.get(key).map(|here| self.at(here))
    }

    pub(crate) fn properties(self) -> impl Iterator<Item = (&'a str, Self)> {
        self.get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(move |(name, here)| (name.as_str(), self.at(here)))
    }

    pub(crate) fn requires(self, name: &str) -> bool {
        self.get("required")
            .and_then(Value::as_array)
            .is_some_and(|names| names.iter().any(|it| it == name))
    }

    pub(crate) fn is_secret(self) -> bool {
        self.get("writeOnly") == Some(&Value::Bool(true))
            || self.resolve().get("writeOnly") == Some(&Value::Bool(true))
    }

    /// The type's name besides `null`; none where anything goes.
    pub(crate) fn kind(self) -> Option<&'a str> {
        match self.get("type")? {
            Value::String(name) => Some(name),
            Value::Array(names) => {
                let mut names = names
                    .iter()
                    .filter_map(Value::as_str)
                    .filter(|it| *it != "null");
                let first = names.next();
                if names.next().is_some() { None } else { first }
            }
            _ => None,
        }
    }

    /// The words of an enumeration, with their documentation.
    pub(crate) fn choices(self) -> Option<Vec<(&'a str, Option<&'a str>)>> {
        if let Some(word) = self.text("const") {
            return Some(vec![(word, self.text("description"))]);
        }
        if let Some(words) = self.get("enum").and_then(Value::as_array) {
            return Some(
                words
                    .iter()
                    .filter_map(Value::as_str)
                    .map(|word| (word, self.text("description").filter(|_| words.len() == 1)))
                    .collect(),
            );
        }
        let branches: Vec<_> = self
            .branches()
            .into_iter()
            .filter(|node| !node.is_null())
            .collect();
        if branches.is_empty() {
            return None;
        }
        let choices: Option<Vec<Vec<_>>> = branches.into_iter().map(Self::choices).collect();
        choices.map(|all| all.into_iter().flatten().collect())
    }
}

/// Keywords in this schema that the kit neither enforces nor documents, as paths. Empty is good.
pub fn unsupported_keywords(schema: &Value) -> Vec<String> {
    const KNOWN: &[&str] = &[
        "$defs",
        "$ref",
        "$schema",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "deprecated",
        "description",
        "enum",
        "examples",
        "format",
        "items",
        "maximum",
        "maxItems",
        "maxLength",
        "minimum",
        "minItems",
        "minLength",
        "oneOf",
        "properties",
        "required",
        "title",
        "type",
        "uniqueItems",
        "writeOnly",
    ];
    /// Keywords whose value is a map from names to schemas.
    const NAMED: &[&str] = &["$defs", "properties"];

    fn walk(path: &str, schema: &Value, found: &mut Vec<String>) {
        let empty = Map::new();
        for (key, value) in schema.as_object().unwrap_or(&empty) {
            let here = format!("{path}/{key}");
            if !KNOWN.contains(&key.as_str()) {
                found.push(here);
            } else if NAMED.contains(&key.as_str()) {
                for (name, schema) in value.as_object().unwrap_or(&empty) {
                    walk(&format!("{here}/{name}"), schema, found);
                }
            } else if matches!(key.as_str(), "items" | "additionalProperties") {
                walk(&here, value, found);
            } else if matches!(key.as_str(), "oneOf" | "anyOf") {
                for schema in value.as_array().into_iter().flatten() {
                    walk(&here, schema, found);
                }
            }
        }
    }

    let mut found = Vec::new();
    walk("", schema, &mut found);
    found
}
