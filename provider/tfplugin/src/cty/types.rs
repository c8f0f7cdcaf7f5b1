//! The types of values, and their JSON form: `"string"`, `["list", "number"]`, `["object", {...}]`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value as Json, json};

use super::{MAX_DEPTH, ValueError, deeper};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Number,
    Bool,
    /// The value brings its type along.
    Dynamic,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Object(BTreeMap<String, Type>),
    Tuple(Vec<Type>),
}

impl Type {
    pub fn list(element: Self) -> Self {
        Self::List(Box::new(element))
    }

    pub fn set(element: Self) -> Self {
        Self::Set(Box::new(element))
    }

    pub fn map(element: Self) -> Self {
        Self::Map(Box::new(element))
    }

    pub fn to_json(&self) -> Json {
        match self {
            Self::String => json!("string"),
            Self::Number => json!("number"),
            Self::Bool => json!("bool"),
            Self::Dynamic => json!("dynamic"),
            Self::List(element) => json!(["list", element.to_json()]),
            Self::Set(element) => json!(["set", element.to_json()]),
            Self::Map(element) => json!(["map", element.to_json()]),
            Self::Object(attributes) => {
                let attributes: Map<_, _> = attributes
                    .iter()
                    .map(|(k, v)| (k.clone(), v.to_json()))
                    .collect();
                json!(["object", attributes])
            }
            Self::Tuple(elements) => json!([
                "tuple",
                elements.iter().map(Self::to_json).collect::<Vec<_>>()
            ]),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.to_json().to_string().into_bytes()
    }

    pub fn from_json(json: &Json) -> Result<Self, ValueError> {
        Self::from_json_at(json, 0)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, ValueError> {
        let json: Json = serde_json::from_slice(bytes)
            .map_err(|error| ValueError::new(format!("its type is not JSON: {error}")))?;
        Self::from_json(&json)
    }

    fn from_json_at(json: &Json, depth: usize) -> Result<Self, ValueError> {
        let unreadable = || ValueError::new(format!("{} is not a type", brief(json)));
        if let Some(name) = json.as_str() {
            return match name {
                "string" => Ok(Self::String),
                "number" => Ok(Self::Number),
                "bool" => Ok(Self::Bool),
                "dynamic" => Ok(Self::Dynamic),
                _ => Err(unreadable()),
            };
        }
        let depth = deeper(depth)?;
        // An object type may have a third element, the names of its optional attributes.
        let [kind, inner, ..] = json.as_array().map(Vec::as_slice).ok_or_else(unreadable)? else {
            return Err(unreadable());
        };
        let element = || Self::from_json_at(inner, depth);
        match kind.as_str() {
            Some("list") => Ok(Self::list(element()?)),
            Some("set") => Ok(Self::set(element()?)),
            Some("map") => Ok(Self::map(element()?)),
            Some("object") => {
                let attributes = inner.as_object().ok_or_else(unreadable)?;
                attributes
                    .iter()
                    .map(|(name, json)| Ok((name.clone(), Self::from_json_at(json, depth)?)))
                    .collect::<Result<_, _>>()
                    .map(Self::Object)
            }
            Some("tuple") => {
                let elements = inner.as_array().ok_or_else(unreadable)?;
                elements
                    .iter()
                    .map(|json| Self::from_json_at(json, depth))
                    .collect::<Result<_, _>>()
                    .map(Self::Tuple)
            }
            _ => Err(unreadable()),
        }
    }
}

/// Enough of a text to recognise it by.
fn brief(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// As the Terraform language writes it: `map(string)`.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Number => f.write_str("number"),
            Self::Bool => f.write_str("bool"),
            Self::Dynamic => f.write_str("any"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Set(element) => write!(f, "set({element})"),
            Self::Map(element) => write!(f, "map({element})"),
            Self::Object(attributes) => {
                f.write_str("object({")?;
                for (position, (name, kind)) in attributes.iter().enumerate() {
                    let comma = if position == 0 { "" } else { ", " };
                    write!(f, "{comma}{name} = {kind}")?;
                }
                f.write_str("})")
            }
            Self::Tuple(elements) => {
                f.write_str("tuple([")?;
                for (position, kind) in elements.iter().enumerate() {
                    let comma = if position == 0 { "" } else { ", " };
                    write!(f, "{comma}{kind}")?;
                }
                f.write_str("])")
            }
        }
    }
}

const _: () = assert!(
    MAX_DEPTH < 128,
    "serde_json reads JSON of a type no deeper than this"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_survives_its_json() {
        let object = Type::Object(BTreeMap::from([
            ("a".to_owned(), Type::list(Type::Number)),
            ("b".to_owned(), Type::Tuple(vec![Type::Bool, Type::Dynamic])),
        ]));
        for kind in [Type::map(Type::set(object)), Type::String] {
            assert_eq!(Type::from_json(&kind.to_json()), Ok(kind));
        }
    }

    #[test]
    fn a_type_may_not_nest_without_end() {
        let mut json = json!("string");
        for _ in 0..=MAX_DEPTH {
            json = json!(["list", json]);
        }
        let error = Type::from_json(&json).expect_err("too deep");
        assert!(error.message.contains("deeper"), "{error}");
    }
}
