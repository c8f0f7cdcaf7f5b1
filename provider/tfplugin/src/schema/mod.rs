//! What attributes a resource has and how each behaves: read from a model's JSON schema ([`read`]), sent to Terraform
//! ([`wire`]), and the ground on which values are validated and planned. It holds no values but defaults.

mod read;
mod rules;
mod wire;

use std::collections::BTreeMap;

pub(crate) use read::PlainAttribute;
pub use read::SchemaError;
pub(crate) use rules::{Rules, Violation};

use crate::cty::{Type, Value};

/// The attributes of a resource, a data source, an ephemeral resource or a provider.
#[derive(Debug)]
pub struct Schema {
    pub version: i64,
    /// Markdown.
    pub description: String,
    pub deprecated: bool,
    pub attributes: Vec<Attribute>,
    /// The name of the attribute that holds [`Timeouts`](crate::Timeouts).
    pub(crate) timeouts: Option<String>,
    pub(crate) kind: Type,
}

/// One attribute.
#[derive(Debug)]
pub struct Attribute {
    pub name: String,
    /// Markdown.
    pub description: String,
    pub shape: Shape,
    pub required: bool,
    pub optional: bool,
    pub computed: bool,
    pub sensitive: bool,
    pub write_only: bool,
    pub requires_replace: bool,
    pub stable: bool,
    pub deprecated: bool,
    /// What to use instead of a deprecated attribute.
    pub deprecation: String,
    pub default: Option<Value>,
    pub(crate) rules: Rules,
    pub(crate) kind: Type,
}

/// An attribute is one value, or has attributes of its own.
#[derive(Debug)]
pub enum Shape {
    Plain,
    Nested {
        nesting: Nesting,
        attributes: Vec<Attribute>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    Single,
    List,
    Set,
    Map,
}

impl Nesting {
    /// The type of the whole, made of such objects.
    fn of(self, object: Type) -> Type {
        match self {
            Self::Single => object,
            Self::List => Type::list(object),
            Self::Set => Type::set(object),
            Self::Map => Type::map(object),
        }
    }
}

impl Attribute {
    /// The type of its values.
    pub fn kind(&self) -> &Type {
        &self.kind
    }

    /// What is allowed, as a fragment that follows "must be": `at least 64`. `None`: everything of its type.
    pub fn constraint(&self) -> Option<String> {
        self.rules.describe()
    }

    pub(crate) fn nested(&self) -> Option<(Nesting, &[Attribute])> {
        match &self.shape {
            Shape::Plain => None,
            Shape::Nested {
                nesting,
                attributes,
            } => Some((*nesting, attributes)),
        }
    }
}

impl Schema {
    /// The type of the whole.
    pub fn kind(&self) -> &Type {
        &self.kind
    }
}

fn object(attributes: &[Attribute]) -> Type {
    let kinds: BTreeMap<_, _> = attributes
        .iter()
        .map(|attribute| (attribute.name.clone(), attribute.kind.clone()))
        .collect();
    Type::Object(kinds)
}

#[cfg(test)]
mod tests;
