//! Schemas as Terraform reads them.

use super::read::PlainAttribute;
use super::{Attribute, Nesting, Schema, Shape};
use crate::proto::tfplugin6 as wire;

impl Schema {
    pub(crate) fn to_wire(&self) -> wire::Schema {
        wire::Schema {
            version: self.version,
            block: Some(wire::schema::Block {
                version: self.version,
                attributes: self.attributes.iter().map(Attribute::to_wire).collect(),
                block_types: Vec::new(),
                description: self.description.clone(),
                description_kind: wire::StringKind::Markdown.into(),
                deprecated: self.deprecated,
                deprecation_message: String::new(),
            }),
        }
    }
}

impl Attribute {
    fn to_wire(&self) -> wire::schema::Attribute {
        use wire::schema::object::NestingMode;
        let nested_type = match &self.shape {
            Shape::Plain => None,
            Shape::Nested {
                nesting,
                attributes,
            } => Some(wire::schema::Object {
                attributes: attributes.iter().map(Self::to_wire).collect(),
                nesting: match nesting {
                    Nesting::Single => NestingMode::Single,
                    Nesting::List => NestingMode::List,
                    Nesting::Set => NestingMode::Set,
                    Nesting::Map => NestingMode::Map,
                }
                .into(),
                ..wire::schema::Object::default()
            }),
        };
        wire::schema::Attribute {
            name: self.name.clone(),
            // Terraform takes one or the other, never both.
            r#type: match &nested_type {
                Some(_) => Vec::new(),
                None => self.kind.to_bytes(),
            },
            nested_type,
            description: self.description.clone(),
            description_kind: wire::StringKind::Markdown.into(),
            required: self.required,
            optional: self.optional,
            computed: self.computed,
            sensitive: self.sensitive,
            deprecated: self.deprecated,
            deprecation_message: self.deprecation.clone(),
            write_only: self.write_only,
        }
    }
}

impl PlainAttribute {
    pub(crate) fn to_identity(&self) -> wire::resource_identity_schema::IdentityAttribute {
        wire::resource_identity_schema::IdentityAttribute {
            name: self.name.clone(),
            r#type: self.kind.to_bytes(),
            required_for_import: !self.optional,
            optional_for_import: self.optional,
            description: self.description.clone(),
        }
    }

    pub(crate) fn to_parameter(&self) -> wire::function::Parameter {
        wire::function::Parameter {
            name: self.name.clone(),
            r#type: self.kind.to_bytes(),
            allow_null_value: self.nullable,
            allow_unknown_values: self.allow_unknown,
            description: self.description.clone(),
            description_kind: wire::StringKind::Markdown.into(),
        }
    }
}
