//! What values an attribute allows beyond its type: schemars' `range`, `length`, `pattern`, and the variants of an enum.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value as Json;

use crate::cty::{Number, Value};
use crate::path::{Path, Step};

/// Constraints, along the shape of a type.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    integer: bool,
    minimum: Option<Number>,
    maximum: Option<Number>,
    above: Option<Number>,
    below: Option<Number>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    pattern: Option<Pattern>,
    one_of: Vec<String>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    /// For the elements of a list, set or map.
    pub(super) elements: Option<Box<Rules>>,
    /// For the attributes of an object that has no nested attributes.
    pub(super) attributes: BTreeMap<String, Rules>,
}

/// Compiled when it is first needed, so that schemas are built fast.
#[derive(Debug)]
struct Pattern {
    text: String,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn regex(&self) -> Option<&Regex> {
        self.regex
            .get_or_init(|| Regex::new(&self.text).ok())
            .as_ref()
    }
}

/// A value that breaks a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    pub(crate) path: Path,
    /// What is allowed, after "must be".
    pub(crate) allowed: String,
    /// What was found, after "it is".
    pub(crate) found: String,
}

impl Rules {
    /// Reads the constraints of one level of a JSON schema.
    pub(super) fn read(schema: &Json) -> Result<Self, String> {
        let number = |key: &str| {
            schema
                .get(key)
                .filter(|json| json.is_number())
                .and_then(|json| Number::parse(&json.to_string()))
        };
        let count = |key: &str| schema.get(key).and_then(Json::as_u64);
        let mut rules = Self {
            integer: schema.get("type").is_some_and(|kind| kind == "integer"),
            minimum: number("minimum"),
            maximum: number("maximum"),
            above: number("exclusiveMinimum"),
            below: number("exclusiveMaximum"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems").or_else(|| count("minProperties")),
            max_items: count("maxItems").or_else(|| count("maxProperties")),
            one_of: variants(schema),
            ..Self::default()
        };
        if rules.integer {
            rules.bound_by_format(
                schema
                    .get("format")
                    .and_then(Json::as_str)
                    .unwrap_or_default(),
            );
        }
        if let Some(text) = schema.get("pattern").and_then(Json::as_str) {
            let pattern = Pattern {
                text: text.to_owned(),
                regex: OnceLock::new(),
            };
            rules.pattern = Some(pattern);
        }
        Ok(rules)
    }

    /// A Rust integer type bounds its values even where the schema does not say so.
    fn bound_by_format(&mut self, format: &str) {
        let (least, most): (i64, u64) = match format {
            "int8" => (i8::MIN.into(), 0x7f),
            "int16" => (i16::MIN.into(), 0x7fff),
            "int32" => (i32::MIN.into(), 0x7fff_ffff),
            "int64" | "int" => (i64::MIN, i64::MAX as u64),
            "uint8" => (0, u8::MAX.into()),
            "uint16" => (0, u16::MAX.into()),
            "uint32" => (0, u32::MAX.into()),
            "uint64" | "uint" => (0, u64::MAX),
            _ => return,
        };
        self.minimum.get_or_insert(Number::from(least));
        self.maximum.get_or_insert(Number::from(most));
    }

    /// The pattern that cannot be compiled, for the schema's own check.
    pub(super) fn broken_pattern(&self) -> Option<&str> {
        let pattern = self.pattern.as_ref()?;
        pattern.regex().is_none().then_some(pattern.text.as_str())
    }

    /// What is allowed, as a fragment that follows "must be".
    pub(crate) fn describe(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.integer {
            parts.push("a whole number".to_owned());
        }
        if !self.one_of.is_empty() {
            let names: Vec<_> = self.one_of.iter().map(|name| format!("{name:?}")).collect();
            parts.push(match names.as_slice() {
                [only] => only.clone(),
                names => format!("one of {}", names.join(", ")),
            });
        }
        let shown = |number: &Option<Number>, extreme: &[Number]| {
            number
                .as_ref()
                .filter(|number| !extreme.contains(number))
                .cloned()
        };
        let least = shown(&self.minimum, &[Number::from(i64::MIN)]);
        let most = shown(
            &self.maximum,
            &[Number::from(i64::MAX), Number::from(u64::MAX)],
        );
        match (least, most) {
            (Some(least), Some(most)) => parts.push(format!("from {least} to {most}")),
            (Some(least), None) => parts.push(format!("at least {least}")),
            (None, Some(most)) => parts.push(format!("at most {most}")),
            (None, None) => {}
        }
        if let Some(above) = &self.above {
            parts.push(format!("above {above}"));
        }
        if let Some(below) = &self.below {
            parts.push(format!("below {below}"));
        }
        parts.extend(range(self.min_length, self.max_length, "character"));
        if let Some(pattern) = &self.pattern {
            parts.push(format!("text that matches {}", pattern.text));
        }
        parts.extend(range(self.min_items, self.max_items, "element"));
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Checks a value and everything in it that has rules here. Null and unknown values break none.
    pub(crate) fn check(&self, value: &Value, path: &mut Path, violations: &mut Vec<Violation>) {
        let fine = match value {
            Value::Null | Value::Unknown(_) | Value::Bool(_) => true,
            Value::Dynamic(_) => true,
            Value::Number(number) => self.allows_number(number),
            Value::String(text) => self.allows_text(text),
            Value::List(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.check_element(element, Step::Index(index as u64), path, violations);
                }
                self.allows_count(elements.len())
            }
            Value::Set(elements) => {
                for element in elements {
                    self.check_element(element, Step::Element, path, violations);
                }
                self.allows_count(elements.len())
            }
            Value::Map(elements) => {
                for (key, element) in elements {
                    if let Some(rules) = self.attributes.get(key) {
                        path.push(Step::Attribute(key.clone()));
                        rules.check(element, path, violations);
                        path.pop();
                    } else {
                        self.check_element(element, Step::Key(key.clone()), path, violations);
                    }
                }
                self.allows_count(elements.len())
            }
        };
        if !fine {
            violations.push(Violation {
                path: path.clone(),
                allowed: self.describe().unwrap_or_default(),
                found: found(value),
            });
        }
    }

    fn check_element(
        &self,
        element: &Value,
        step: Step,
        path: &mut Path,
        violations: &mut Vec<Violation>,
    ) {
        if let Some(rules) = &self.elements {
            path.push(step);
            rules.check(element, path, violations);
            path.pop();
        }
    }

    fn allows_number(&self, number: &Number) -> bool {
        let whole = !self.integer || matches!(number, Number::Int(_) | Number::UInt(_));
        let bounds = [
            (&self.minimum, Ordering::Less),
            (&self.maximum, Ordering::Greater),
        ];
        let within = bounds.iter().all(|(bound, wrong)| {
            bound
                .as_ref()
                .is_none_or(|bound| number.order(bound) != *wrong)
        });
        let strictly = [
            (&self.above, Ordering::Greater),
            (&self.below, Ordering::Less),
        ];
        let inside = strictly.iter().all(|(bound, right)| {
            bound
                .as_ref()
                .is_none_or(|bound| number.order(bound) == *right)
        });
        whole && within && inside
    }

    fn allows_text(&self, text: &str) -> bool {
        let length = text.chars().count() as u64;
        self.min_length.is_none_or(|least| length >= least)
            && self.max_length.is_none_or(|most| length <= most)
            && (self.one_of.is_empty() || self.one_of.iter().any(|name| name == text))
            && self
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.regex().is_none_or(|regex| regex.is_match(text)))
    }

    fn allows_count(&self, count: usize) -> bool {
        let count = count as u64;
        self.min_items.is_none_or(|least| count >= least)
            && self.max_items.is_none_or(|most| count <= most)
    }
}

/// A collection is too long or too short as a whole, so its count says more than its elements.
fn found(value: &Value) -> String {
    match value {
        Value::List(elements) | Value::Set(elements) => {
            format!("a collection of {}", elements.len())
        }
        Value::Map(elements) => format!("a collection of {}", elements.len()),
        value => value.to_string(),
    }
}

fn range(least: Option<u64>, most: Option<u64>, unit: &str) -> Option<String> {
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    match (least, most) {
        (Some(least), Some(most)) if least == most => {
            Some(format!("exactly {least} {unit}{}", plural(least)))
        }
        (Some(least), Some(most)) => Some(format!("{least} to {most} {unit}s")),
        (Some(least), None) => Some(format!("at least {least} {unit}{}", plural(least))),
        (None, Some(most)) => Some(format!("at most {most} {unit}{}", plural(most))),
        (None, None) => None,
    }
}

/// The variants of an enum: `enum`, `const`, or a choice of those where variants have descriptions.
fn variants(schema: &Json) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |json: &Json| {
        if let Some(name) = json.as_str() {
            names.push(name.to_owned());
        }
    };
    let choices = ["oneOf", "anyOf"]
        .iter()
        .filter_map(|key| schema.get(key)?.as_array())
        .flatten();
    for choice in std::iter::once(schema).chain(choices) {
        choice
            .get("enum")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .for_each(&mut add);
        choice.get("const").into_iter().for_each(&mut add);
    }
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::path;

    fn violations(schema: Json, value: Value) -> Vec<String> {
        let rules = Rules::read(&schema).expect("readable");
        let mut found = Vec::new();
        rules.check(&value, &mut path!["x"], &mut found);
        found
            .into_iter()
            .map(|violation| {
                format!(
                    "{} must be {}, not {}",
                    violation.path, violation.allowed, violation.found
                )
            })
            .collect()
    }

    #[test]
    fn each_rule_says_what_is_allowed_and_what_was_found() {
        let number = |text: &str| Value::Number(Number::parse(text).expect("a number"));
        let text = |text: &str| Value::String(text.to_owned());
        let cases = [
            (json!({"type": "integer", "minimum": 64}), number("64"), ""),
            (
                json!({"type": "integer", "minimum": 64, "format": "uint32"}),
                number("0"),
                "x must be a whole number, from 64 to 4294967295, not 0",
            ),
            (
                json!({"type": "integer", "format": "uint64", "minimum": 0}),
                number("2.5"),
                "x must be a whole number, at least 0, not 2.5",
            ),
            (
                json!({"type": "integer", "format": "uint64"}),
                number("18446744073709551615"),
                "",
            ),
            (
                json!({"type": "number", "exclusiveMinimum": 0.0}),
                number("0"),
                "x must be above 0, not 0",
            ),
            (
                json!({"type": "string", "minLength": 1, "maxLength": 3}),
                text(""),
                "x must be 1 to 3 characters, not \"\"",
            ),
            (json!({"type": "string", "maxLength": 3}), text("äöü"), ""),
            (
                json!({"type": "string", "pattern": "^[a-z]+$"}),
                text("A"),
                "x must be text that matches ^[a-z]+$, not \"A\"",
            ),
            (
                json!({"oneOf": [{"const": "nat"}, {"enum": ["bridged"]}]}),
                text("host"),
                "x must be one of \"nat\", \"bridged\", not \"host\"",
            ),
            (
                json!({"type": "array", "minItems": 1}),
                Value::List(vec![]),
                "x must be at least 1 element, not a collection of 0",
            ),
            (json!({"type": "string", "minLength": 1}), Value::Null, ""),
            (
                json!({"type": "string", "minLength": 1}),
                Value::UNKNOWN,
                "",
            ),
        ];
        for (schema, value, expected) in cases {
            assert_eq!(
                violations(schema.clone(), value).join("; "),
                expected,
                "{schema}"
            );
        }
    }
}
