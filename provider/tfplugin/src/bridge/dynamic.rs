//! A value whose type the schema leaves open, in a typed model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::DYNAMIC;
use crate::attr::{SET, UNKNOWN};
use crate::attribute;
use crate::cty::{Number, Type, Value, json};

/// A value of any type, with its type. Used as `Attr<Dynamic>`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dynamic {
    pub kind: Type,
    pub value: Value,
}

impl Dynamic {
    /// The JSON of the value, such as `jsonencode` writes. An error if anything in it is unknown.
    pub fn to_json(&self) -> Result<String, crate::cty::ValueError> {
        json::encode(&self.value, &self.kind)
    }
}

impl Serialize for Dynamic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pair = serializer.serialize_struct(DYNAMIC, 2)?;
        pair.serialize_field("type", &self.kind.to_json().to_string())?;
        pair.serialize_field("value", &self.value)?;
        pair.end()
    }
}

impl<'de> Deserialize<'de> for Dynamic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "$tfplugin::Dynamic")]
        struct Pair {
            #[serde(rename = "type")]
            kind: String,
            value: Value,
        }
        let pair = Pair::deserialize(deserializer)?;
        let kind = Type::from_bytes(pair.kind.as_bytes()).map_err(de::Error::custom)?;
        let value = pair.value.conform(&kind).map_err(de::Error::custom)?;
        Ok(Self { kind, value })
    }
}

impl JsonSchema for Dynamic {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Dynamic".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({});
        schema.insert(attribute::DYNAMIC.to_owned(), true.into());
        schema
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Unknown(_) => serializer.serialize_unit_struct(UNKNOWN),
            Self::Bool(bool) => serializer.serialize_bool(*bool),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::List(elements) => elements.serialize(serializer),
            Self::Set(elements) => serializer.serialize_newtype_struct(SET, elements),
            Self::Map(elements) => elements.serialize(serializer),
            Self::Dynamic(pair) => Dynamic {
                kind: pair.0.clone(),
                value: pair.1.clone(),
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;

        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, bool: bool) -> Result<Value, E> {
                Ok(Value::Bool(bool))
            }

            fn visit_i64<E>(self, int: i64) -> Result<Value, E> {
                Ok(Value::Number(int.into()))
            }

            fn visit_u64<E>(self, uint: u64) -> Result<Value, E> {
                Ok(Value::Number(uint.into()))
            }

            fn visit_f64<E: de::Error>(self, float: f64) -> Result<Value, E> {
                Number::from_f64(float)
                    .map(Value::Number)
                    .ok_or_else(|| E::custom("NaN is not a number"))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::String(text.to_owned()))
            }

            /// How the bridge hands over what serde has no form for: a number's text, or, as a unit, the unknown.
            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Value, D::Error> {
                struct Inner;

                impl Visitor<'_> for Inner {
                    type Value = Value;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a number's text")
                    }

                    fn visit_unit<E>(self) -> Result<Value, E> {
                        Ok(Value::UNKNOWN)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
                        Number::parse(text)
                            .map(Value::Number)
                            .ok_or_else(|| E::custom(format!("{text:?} is not a number")))
                    }
                }

                deserializer.deserialize_any(Inner)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(Value::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, element)) = elements.next_entry()? {
                    map.insert(key, element);
                }
                Ok(Value::Map(map))
            }
        }

        deserializer.deserialize_any(ValueVisitor)
    }
}
