//! One value, of any type.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Number, Type, ValueError, Within, deeper};
use crate::attr::same_elements;
use crate::path::Step;

/// What is known about an unknown value, as Terraform wrote it: kept and sent back, not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refinement(pub(crate) Option<Arc<[u8]>>);

#[derive(Clone, Debug, Default)]
pub enum Value {
    #[default]
    Null,
    Unknown(Refinement),
    Bool(bool),
    Number(Number),
    String(String),
    /// A list or a tuple.
    List(Vec<Value>),
    Set(Vec<Value>),
    /// A map or an object.
    Map(BTreeMap<String, Value>),
    /// A value whose type the schema leaves open.
    Dynamic(Box<(Type, Value)>),
}

/// Sets are equal in any order.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Unknown(left), Self::Unknown(right)) => left == right,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Number(left), Self::Number(right)) => left == right,
            (Self::String(left), Self::String(right)) => left == right,
            (Self::List(left), Self::List(right)) => left == right,
            (Self::Set(left), Self::Set(right)) => same_elements(left, right),
            (Self::Map(left), Self::Map(right)) => left == right,
            (Self::Dynamic(left), Self::Dynamic(right)) => left == right,
            _ => false,
        }
    }
}

impl Value {
    /// An unknown value of which nothing is known.
    pub const UNKNOWN: Self = Self::Unknown(Refinement(None));

    /// A null that brings its type along is null too.
    pub fn is_null(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Dynamic(pair) => pair.1.is_null(),
            _ => false,
        }
    }

    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Dynamic(pair) => pair.1.is_unknown(),
            _ => false,
        }
    }

    /// Whether it, or anything in it, is unknown.
    pub fn has_unknown(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::List(elements) | Self::Set(elements) => elements.iter().any(Self::has_unknown),
            Self::Map(elements) => elements.values().any(Self::has_unknown),
            Self::Dynamic(pair) => pair.1.has_unknown(),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => false,
        }
    }

    /// An attribute of an object or an element of a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(elements) => elements.get(key),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages that must not show it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Unknown(_) => "an unknown value",
            Self::Bool(_) => "a bool",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Set(_) => "a set",
            Self::Map(_) => "a map or object",
            Self::Dynamic(_) => "a value of dynamic type",
        }
    }

    /// The value as one of this type: elements become a set where the type says so, attributes left out become null.
    pub fn conform(self, kind: &Type) -> Result<Self, ValueError> {
        self.conform_at(kind, 0)
    }

    fn conform_at(self, kind: &Type, depth: usize) -> Result<Self, ValueError> {
        let depth = deeper(depth)?;
        let elements = |elements: Vec<Self>, kind: &Type| {
            elements
                .into_iter()
                .enumerate()
                .map(|(index, element)| {
                    element
                        .conform_at(kind, depth)
                        .within(|| Step::Index(index as u64))
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(match (self, kind) {
            (value @ (Self::Null | Self::Unknown(_)), _) => value,
            (value @ Self::Bool(_), Type::Bool)
            | (value @ Self::Number(_), Type::Number)
            | (value @ Self::String(_), Type::String) => value,
            (Self::List(list), Type::List(kind)) => Self::List(elements(list, kind)?),
            (Self::List(list) | Self::Set(list), Type::Set(kind)) => {
                Self::Set(elements(list, kind)?)
            }
            (Self::List(list), Type::Tuple(kinds)) if list.len() == kinds.len() => Self::List(
                list.into_iter()
                    .zip(kinds)
                    .enumerate()
                    .map(|(index, (element, kind))| {
                        element
                            .conform_at(kind, depth)
                            .within(|| Step::Index(index as u64))
                    })
                    .collect::<Result<_, _>>()?,
            ),
            (Self::Map(map), Type::Map(kind)) => Self::Map(
                map.into_iter()
                    .map(|(key, element)| {
                        let element = element
                            .conform_at(kind, depth)
                            .within(|| Step::Key(key.clone()))?;
                        Ok((key, element))
                    })
                    .collect::<Result<_, _>>()?,
            ),
            (Self::Map(mut map), Type::Object(kinds)) => {
                let mut object = BTreeMap::new();
                for (name, kind) in kinds {
                    let value = map.remove(name).unwrap_or_default();
                    let value = value
                        .conform_at(kind, depth)
                        .within(|| Step::Attribute(name.clone()))?;
                    object.insert(name.clone(), value);
                }
                if let Some(name) = map.into_keys().next() {
                    return Err(ValueError::new(format!("there is no attribute {name:?}")));
                }
                Self::Map(object)
            }
            (Self::Dynamic(pair), Type::Dynamic) => {
                let (kind, value) = *pair;
                let value = value.conform_at(&kind, depth)?;
                Self::Dynamic(Box::new((kind, value)))
            }
            (value, kind) => {
                return Err(ValueError::new(format!(
                    "{} is not of type {kind}",
                    value.kind()
                )));
            }
        })
    }
}

/// For messages: as the Terraform language writes it, long values cut.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 80;
        match self {
            Self::Null => f.write_str("null"),
            Self::Unknown(_) => f.write_str("(known after apply)"),
            Self::Bool(bool) => write!(f, "{bool}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::String(text) => match text.char_indices().nth(LONGEST) {
                Some((end, _)) => {
                    write!(f, "{:?} and {} bytes more", &text[..end], text.len() - end)
                }
                None => write!(f, "{text:?}"),
            },
            Self::List(elements) | Self::Set(elements) => {
                f.write_str("[")?;
                for (position, element) in elements.iter().enumerate() {
                    let comma = if position == 0 { "" } else { ", " };
                    write!(f, "{comma}{element}")?;
                }
                f.write_str("]")
            }
            Self::Map(elements) => {
                f.write_str("{")?;
                for (position, (key, element)) in elements.iter().enumerate() {
                    let comma = if position == 0 { " " } else { ", " };
                    write!(f, "{comma}{key} = {element}")?;
                }
                f.write_str(" }")
            }
            Self::Dynamic(pair) => write!(f, "{}", pair.1),
        }
    }
}
