//! Reads a schema from the JSON schema that schemars derives from a model.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::{Attribute, Nesting, Rules, Schema, Shape, object};
use crate::attr::ATTR_MARK;
use crate::attribute as marks;
use crate::cty::{Type, json};
use crate::path::{Path, Step};

/// A model that cannot be a schema: a bug in the provider, which names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{model}{}{field}: {message}", if field.is_root() { "" } else { "." })]
pub struct SchemaError {
    pub model: String,
    pub field: Path,
    pub message: String,
}

/// Arguments that Terraform keeps for itself in resource blocks.
const RESERVED: [&str; 7] = [
    "connection",
    "count",
    "depends_on",
    "for_each",
    "lifecycle",
    "provider",
    "provisioner",
];

/// An error while reading, before the model's name is known.
struct Problem {
    field: Path,
    message: String,
}

type Result<T> = std::result::Result<T, Problem>;

fn problem<T>(message: impl Into<String>) -> Result<T> {
    Err(Problem {
        field: Path::root(),
        message: message.into(),
    })
}

fn within<T>(result: Result<T>, step: Step) -> Result<T> {
    result.map_err(|mut problem| {
        problem.field.push_front(step);
        problem
    })
}

impl Schema {
    /// The schema of a model whose fields must be able to be null and unknown.
    pub(crate) fn of<M: JsonSchema>(version: i64) -> std::result::Result<Self, SchemaError> {
        let json = json_schema::<M>();
        let read = || {
            let attributes = attributes(&json, false)?;
            if let Some(reserved) = attributes
                .iter()
                .find(|a| RESERVED.contains(&a.name.as_str()))
            {
                return problem(format!(
                    "Terraform keeps the name {:?} for itself",
                    reserved.name
                ));
            }
            let timeouts = properties(&json)
                .find(|(_, json)| is_marked(json, marks::TIMEOUTS))
                .map(|(name, _)| name.clone());
            Ok(Self {
                version,
                description: text(&json, "description"),
                deprecated: flag(&json, "deprecated"),
                kind: object(&attributes),
                attributes,
                timeouts,
            })
        };
        read().map_err(|problem| problem.of::<M>())
    }

    /// The schema of a configuration that is never planned, a provider's: its defaults are the SDK's own business, and
    /// nothing in it is computed.
    pub(crate) fn of_config<M: JsonSchema>() -> std::result::Result<Self, SchemaError> {
        fn only_configured(attributes: &mut [Attribute]) -> Result<()> {
            for attribute in attributes {
                let step = Step::Attribute(attribute.name.clone());
                if attribute.computed && attribute.default.is_none() {
                    return within(
                        problem("a provider's configuration cannot be computed"),
                        step,
                    );
                }
                attribute.computed = false;
                if let Shape::Nested { attributes, .. } = &mut attribute.shape {
                    within(only_configured(attributes), step)?;
                }
            }
            Ok(())
        }
        let mut schema = Self::of::<M>(0)?;
        only_configured(&mut schema.attributes).map_err(|problem| problem.of::<M>())?;
        Ok(schema)
    }

    /// The attributes of a model that is always wholly known: an identity, a function's arguments.
    pub(crate) fn plain_attributes<M: JsonSchema>()
    -> std::result::Result<Vec<PlainAttribute>, SchemaError> {
        let json = json_schema::<M>();
        let read = || {
            properties(&json)
                .map(|(name, json)| {
                    let step = || Step::Attribute(name.clone());
                    let (kind, rules) = within(plain(json), step())?;
                    Ok(PlainAttribute {
                        name: name.clone(),
                        description: text(json, "description"),
                        nullable: flag(json, ATTR_MARK) || is_nullable(json),
                        optional: flag(json, marks::OPTIONAL),
                        variadic: flag(json, marks::VARIADIC),
                        allow_unknown: flag(json, marks::ALLOW_UNKNOWN),
                        kind,
                        rules,
                    })
                })
                .collect::<Result<Vec<_>>>()
        };
        read().map_err(|problem| problem.of::<M>())
    }

    /// The type of one value, such as a function's result.
    pub(crate) fn plain_type<M: JsonSchema>() -> std::result::Result<Type, SchemaError> {
        plain(&json_schema::<M>())
            .map(|(kind, _)| kind)
            .map_err(|problem| problem.of::<M>())
    }

    /// The doc comment of a model.
    pub(crate) fn description_of<M: JsonSchema>() -> String {
        text(&json_schema::<M>(), "description")
    }
}

/// An attribute of an identity, or a parameter of a function.
#[derive(Debug)]
pub(crate) struct PlainAttribute {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) nullable: bool,
    pub(crate) optional: bool,
    pub(crate) variadic: bool,
    pub(crate) allow_unknown: bool,
    pub(crate) kind: Type,
    pub(crate) rules: Rules,
}

impl Problem {
    fn of<M: JsonSchema>(self) -> SchemaError {
        SchemaError {
            model: M::schema_name().into_owned(),
            field: self.field,
            message: self.message,
        }
    }
}

fn json_schema<M: JsonSchema>() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings
        .into_generator()
        .into_root_schema_for::<M>()
        .to_value()
}

fn text(json: &Json, key: &str) -> String {
    json.get(key)
        .and_then(Json::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn flag(json: &Json, key: &str) -> bool {
    json.get(key).and_then(Json::as_bool).unwrap_or_default()
}

/// A mark stands on the type itself, which is one level down where the value may also be null.
fn is_marked(json: &Json, key: &str) -> bool {
    flag(json, key) || flag(without_null(json), key)
}

fn properties(json: &Json) -> impl Iterator<Item = (&String, &Json)> {
    json.get("properties")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
}

/// `Option` adds null to the types, or makes a choice between the type and null.
fn is_nullable(json: &Json) -> bool {
    let in_types = json
        .get("type")
        .and_then(Json::as_array)
        .is_some_and(|kinds| kinds.iter().any(|kind| kind == "null"));
    in_types || !std::ptr::eq(without_null(json), json)
}

fn without_null(json: &Json) -> &Json {
    match json
        .get("anyOf")
        .and_then(Json::as_array)
        .map(Vec::as_slice)
    {
        Some([choice, null]) if null.get("type").is_some_and(|kind| kind == "null") => choice,
        _ => json,
    }
}

/// The one JSON type, null apart.
fn kind_name(json: &Json) -> Option<&str> {
    match json.get("type")? {
        Json::String(name) => Some(name),
        Json::Array(names) => match names
            .iter()
            .filter_map(Json::as_str)
            .filter(|name| *name != "null")
            .collect::<Vec<_>>()[..]
        {
            [name] => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// The attributes of a struct. `in_computed`: it is inside a nested attribute that only the provider sets.
fn attributes(json: &Json, in_computed: bool) -> Result<Vec<Attribute>> {
    properties(json)
        .map(|(name, json)| {
            within(
                attribute(name, json, in_computed),
                Step::Attribute(name.clone()),
            )
        })
        .collect()
}

/// What collection of structs a schema describes, and the schema of the struct.
fn nesting(json: &Json) -> Option<(Nesting, &Json)> {
    let is_struct = |json: &Json| json.get("properties").is_some();
    let json = without_null(json);
    if is_struct(json) {
        return Some((Nesting::Single, json));
    }
    let (nesting, element) = match kind_name(json)? {
        "array" if flag(json, "uniqueItems") => (Nesting::Set, json.get("items")?),
        "array" => (Nesting::List, json.get("items")?),
        "object" => (Nesting::Map, json.get("additionalProperties")?),
        _ => return None,
    };
    is_struct(element).then_some((nesting, element))
}

fn attribute(name: &str, json: &Json, in_computed: bool) -> Result<Attribute> {
    let well_named = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !well_named {
        return problem("attributes are named in lower case, with digits and underscores");
    }
    if !flag(json, ATTR_MARK) {
        return problem("its type must be Attr<...>, because its value may be null or unknown");
    }
    let default = json.get("default").filter(|default| !default.is_null());
    let required = flag(json, marks::REQUIRED);
    let marked_computed = flag(json, marks::COMPUTED);
    let marked_optional = flag(json, marks::OPTIONAL);
    let computed =
        marked_computed || default.is_some() || (in_computed && !required && !marked_optional);
    let optional =
        marked_optional || (default.is_some() && !in_computed) || (!required && !computed);
    let only_computed = computed && !optional;

    let (shape, kind, rules) = match nesting(json) {
        Some((nesting, inner)) if !flag(json, marks::PLAIN_OBJECT) => {
            let attributes = attributes(inner, only_computed)?;
            let kind = nesting.of(object(&attributes));
            let rules = read_rules(without_null(json))?;
            (
                Shape::Nested {
                    nesting,
                    attributes,
                },
                kind,
                rules,
            )
        }
        _ => {
            let (kind, rules) = plain(json)?;
            (Shape::Plain, kind, rules)
        }
    };
    let default = match default {
        None => None,
        Some(default) => {
            match json::decode(default.to_string().as_bytes(), &kind, json::Extra::Refuse) {
                Ok(value) => {
                    let mut violations = Vec::new();
                    rules.check(&value, &mut Path::root(), &mut violations);
                    if let Some(violation) = violations.first() {
                        return problem(format!(
                            "the default must be {}, not {}",
                            violation.allowed, violation.found
                        ));
                    }
                    Some(value)
                }
                Err(error) => return problem(format!("the default does not fit: {error}")),
            }
        }
    };
    let attribute = Attribute {
        name: name.to_owned(),
        description: text(json, "description"),
        shape,
        required,
        optional,
        computed,
        sensitive: flag(json, marks::SENSITIVE),
        write_only: flag(json, marks::WRITE_ONLY),
        requires_replace: flag(json, marks::REQUIRES_REPLACE),
        stable: flag(json, marks::STABLE),
        deprecated: flag(json, "deprecated"),
        deprecation: text(json, marks::DEPRECATED),
        default,
        rules,
        kind,
    };
    check(&attribute)?;
    Ok(attribute)
}

/// Behaviours that exclude each other. Terraform would refuse some of these itself, without naming the field.
fn check(attribute: &Attribute) -> Result<()> {
    if attribute.required && (attribute.computed || attribute.optional) {
        return problem("a required attribute has no default and is neither optional nor computed");
    }
    if attribute.write_only && attribute.computed {
        return problem("a write-only attribute cannot be computed or have a default");
    }
    if attribute.stable && !attribute.computed {
        return problem("only a computed attribute can be stable");
    }
    if let Some((Nesting::Set, attributes)) = attribute.nested()
        && let Some(hidden) = attributes
            .iter()
            .find(|attribute| has_write_only(attribute))
    {
        return problem(format!(
            "a set's elements cannot have write-only attributes, but {} is one",
            hidden.name
        ));
    }
    Ok(())
}

fn has_write_only(attribute: &Attribute) -> bool {
    let nested = attribute
        .nested()
        .map_or(&[][..], |(_, attributes)| attributes);
    attribute.write_only || nested.iter().any(has_write_only)
}

fn read_rules(json: &Json) -> Result<Rules> {
    let rules = Rules::read(json).or_else(problem)?;
    // Patterns are compiled here only where tests run, which find a broken one; elsewhere start-up stays fast.
    if cfg!(any(debug_assertions, test))
        && let Some(pattern) = rules.broken_pattern()
    {
        return problem(format!(
            "the pattern {pattern:?} is not a regular expression"
        ));
    }
    Ok(rules)
}

/// The type of one value without nested attributes, and its rules.
fn plain(json: &Json) -> Result<(Type, Rules)> {
    let json = without_null(json);
    let mut rules = read_rules(json)?;
    if flag(json, marks::DYNAMIC) {
        return Ok((Type::Dynamic, rules));
    }
    if json.get("$ref").is_some() {
        return problem("the type contains itself, which Terraform cannot express");
    }
    let kind = match kind_name(json) {
        Some("string") => Type::String,
        Some("integer" | "number") => Type::Number,
        Some("boolean") => Type::Bool,
        Some("array") => match (
            json.get("items"),
            json.get("prefixItems").and_then(Json::as_array),
        ) {
            (_, Some(prefix)) => {
                let kinds: Result<Vec<_>> = prefix
                    .iter()
                    .map(|json| plain(json).map(|(kind, _)| kind))
                    .collect();
                Type::Tuple(kinds?)
            }
            (Some(items), None) => {
                let (element, element_rules) = plain(items)?;
                rules.elements = Some(Box::new(element_rules));
                if flag(json, "uniqueItems") {
                    Type::set(element)
                } else {
                    Type::list(element)
                }
            }
            (None, None) => return problem("its elements have no type"),
        },
        Some("object") => match (json.get("properties"), json.get("additionalProperties")) {
            (None, Some(element)) if element.is_object() => {
                let (element, element_rules) = plain(element)?;
                rules.elements = Some(Box::new(element_rules));
                Type::map(element)
            }
            _ => {
                let mut kinds = BTreeMap::new();
                for (name, json) in properties(json) {
                    let (kind, attribute_rules) =
                        within(plain(json), Step::Attribute(name.clone()))?;
                    kinds.insert(name.clone(), kind);
                    rules.attributes.insert(name.clone(), attribute_rules);
                }
                Type::Object(kinds)
            }
        },
        // The variants of an enum with documentation are a choice between constants.
        None if rules.describe().is_some() => Type::String,
        _ => {
            return problem(format!(
                "Terraform has no type for this (schema {}); use Dynamic for a value of any type",
                json.to_string().chars().take(120).collect::<String>()
            ));
        }
    };
    Ok((kind, rules))
}
