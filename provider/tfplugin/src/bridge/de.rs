//! Values to models.

use std::collections::BTreeMap;

use serde::de::value::{BorrowedStrDeserializer, StringDeserializer, UnitDeserializer};
use serde::de::{self, DeserializeSeed, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::{DYNAMIC, Error};
use crate::attr::NOT_KNOWN;
use crate::cty::{Number, Value, Within};
use crate::path::Step;

#[derive(Clone, Copy)]
pub(super) struct Deserializer<'de>(pub(super) &'de Value);

type Result<T> = std::result::Result<T, Error>;

static NULL: Value = Value::Null;
static UNKNOWN: Value = Value::UNKNOWN;

fn step<T>(result: Result<T>, step: impl FnOnce() -> Step) -> Result<T> {
    result.map_err(|error| error.0).within(step).map_err(Error)
}

impl<'de> Deserializer<'de> {
    /// The value inside one of dynamic type, wherever the model does not ask for the type.
    fn plain(self) -> &'de Value {
        match self.0 {
            Value::Dynamic(pair) => &pair.1,
            value => value,
        }
    }

    fn mismatch<V: Visitor<'de>>(self, visitor: &V) -> Error {
        let found = match self.plain() {
            Value::Null => return Error::custom("a value is needed here, but it is null"),
            Value::Unknown(_) => return Error::custom(NOT_KNOWN),
            Value::Bool(bool) => Unexpected::Bool(*bool),
            Value::Number(Number::Int(int)) => Unexpected::Signed(*int),
            Value::Number(Number::UInt(uint)) => Unexpected::Unsigned(*uint),
            Value::Number(Number::Float(float)) => Unexpected::Float(*float),
            Value::Number(Number::Big(_)) => Unexpected::Other("number too long for this type"),
            Value::String(text) => Unexpected::Str(text),
            Value::List(_) | Value::Set(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
            Value::Dynamic(_) => Unexpected::Other("value of dynamic type"),
        };
        Error::invalid_type(found, visitor)
    }
}

impl<'de> de::Deserializer<'de> for Deserializer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::Null => visitor.visit_unit(),
            // Only Attr and Value understand a newtype here; to everything else it is an error.
            Value::Unknown(_) => visitor
                .visit_newtype_struct(UnitDeserializer::<Error>::new())
                .map_err(|_| Error::custom(NOT_KNOWN)),
            Value::Bool(bool) => visitor.visit_bool(*bool),
            Value::Number(Number::Int(int)) => visitor.visit_i64(*int),
            Value::Number(Number::UInt(uint)) => visitor.visit_u64(*uint),
            Value::Number(Number::Float(float)) => visitor.visit_f64(*float),
            Value::Number(Number::Big(text)) => {
                visitor.visit_newtype_struct(BorrowedStrDeserializer::new(text))
            }
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::List(elements) | Value::Set(elements) => visitor.visit_seq(Elements {
                elements: elements.iter().enumerate(),
            }),
            Value::Map(elements) => visitor.visit_map(Members {
                elements: elements.iter(),
                value: None,
            }),
            Value::Dynamic(_) => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::Null => visitor.visit_none(),
            Value::Unknown(_) => visitor
                .visit_newtype_struct(UnitDeserializer::<Error>::new())
                .map_err(|_| Error::custom(NOT_KNOWN)),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        if name == DYNAMIC {
            return match self.0 {
                Value::Dynamic(pair) => visitor.visit_map(TypeAndValue {
                    kind: Some(pair.0.to_json().to_string()),
                    value: Some(&pair.1),
                }),
                _ => Err(self.mismatch(&visitor)),
            };
        }
        match self.plain() {
            Value::Map(elements) => visitor.visit_map(Fields {
                names: fields.iter(),
                source: Source::Object(elements),
                value: None,
            }),
            Value::Unknown(_) => visitor.visit_map(Fields {
                names: fields.iter(),
                source: Source::Unknown,
                value: None,
            }),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::List(_) | Value::Set(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.plain() {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::Number(number) => visitor.visit_f64(number.to_f64()),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::String(text) => visitor.visit_borrowed_str(text),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::Bool(bool) => visitor.visit_bool(*bool),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.plain() {
            Value::Number(Number::Int(int)) => visitor.visit_i64(*int),
            Value::Number(Number::UInt(uint)) => visitor.visit_u64(*uint),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_u64(visitor)
    }

    forward_to_deserialize_any! {
        char bytes byte_buf tuple tuple_struct identifier ignored_any
    }

    /// A model without attributes may be `()`: whatever object there is, it has nothing to read.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_unit()
    }
}

struct Elements<'de> {
    elements: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
}

impl<'de> de::SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some((index, element)) = self.elements.next() else {
            return Ok(None);
        };
        step(seed.deserialize(Deserializer(element)), || {
            Step::Index(index as u64)
        })
        .map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

/// The elements of a map.
struct Members<'de> {
    elements: std::collections::btree_map::Iter<'de, String, Value>,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> de::MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((key, value)) = self.elements.next() else {
            return Ok(None);
        };
        self.value = Some((key, value));
        seed.deserialize(BorrowedStrDeserializer::new(key))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let (key, value) = self.value.take().expect("serde asks for the key first");
        step(seed.deserialize(Deserializer(value)), || {
            Step::Key(key.to_owned())
        })
    }
}

/// Where a struct's fields come from. The attributes of an unknown object are unknown.
enum Source<'de> {
    Object(&'de BTreeMap<String, Value>),
    Unknown,
}

/// The fields of a struct: each of them, whether or not the object has it.
struct Fields<'de> {
    names: std::slice::Iter<'static, &'static str>,
    source: Source<'de>,
    value: Option<(&'static str, &'de Value)>,
}

impl<'de> de::MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        let value = match self.source {
            Source::Object(elements) => elements.get(*name).unwrap_or(&NULL),
            Source::Unknown => &UNKNOWN,
        };
        self.value = Some((name, value));
        seed.deserialize(BorrowedStrDeserializer::new(name))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let (name, value) = self.value.take().expect("serde asks for the key first");
        step(seed.deserialize(Deserializer(value)), || {
            Step::Attribute(name.to_owned())
        })
    }
}

/// The two fields of [`super::Dynamic`].
struct TypeAndValue<'de> {
    kind: Option<String>,
    value: Option<&'de Value>,
}

impl<'de> de::MapAccess<'de> for TypeAndValue<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let name = match (&self.kind, self.value) {
            (Some(_), _) => "type",
            (None, Some(_)) => "value",
            (None, None) => return Ok(None),
        };
        seed.deserialize(BorrowedStrDeserializer::new(name))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        match self.kind.take() {
            Some(kind) => seed.deserialize(StringDeserializer::new(kind)),
            None => seed.deserialize(Deserializer(self.value.take().expect("the key said so"))),
        }
    }
}
