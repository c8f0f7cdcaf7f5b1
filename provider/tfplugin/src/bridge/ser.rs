//! Models to values.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{self, Error as _, Impossible};

use super::{DYNAMIC, Error};
use crate::attr::{SET, UNKNOWN};
use crate::cty::{Number, Type, Value, Within};
use crate::path::Step;

pub(super) struct Serializer;

type Result<T> = std::result::Result<T, Error>;

fn step<T>(result: Result<T>, step: impl FnOnce() -> Step) -> Result<T> {
    result.map_err(|error| error.0).within(step).map_err(Error)
}

impl ser::Serializer for Serializer {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = Elements;
    type SerializeTuple = Elements;
    type SerializeTupleStruct = Elements;
    type SerializeTupleVariant = Impossible<Value, Error>;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Impossible<Value, Error>;

    fn serialize_bool(self, bool: bool) -> Result<Value> {
        Ok(Value::Bool(bool))
    }

    fn serialize_i8(self, int: i8) -> Result<Value> {
        self.serialize_i64(int.into())
    }

    fn serialize_i16(self, int: i16) -> Result<Value> {
        self.serialize_i64(int.into())
    }

    fn serialize_i32(self, int: i32) -> Result<Value> {
        self.serialize_i64(int.into())
    }

    fn serialize_i64(self, int: i64) -> Result<Value> {
        Ok(Value::Number(int.into()))
    }

    fn serialize_u8(self, uint: u8) -> Result<Value> {
        self.serialize_u64(uint.into())
    }

    fn serialize_u16(self, uint: u16) -> Result<Value> {
        self.serialize_u64(uint.into())
    }

    fn serialize_u32(self, uint: u32) -> Result<Value> {
        self.serialize_u64(uint.into())
    }

    fn serialize_u64(self, uint: u64) -> Result<Value> {
        Ok(Value::Number(uint.into()))
    }

    fn serialize_f32(self, float: f32) -> Result<Value> {
        self.serialize_f64(float.into())
    }

    fn serialize_f64(self, float: f64) -> Result<Value> {
        Number::from_f64(float)
            .map(Value::Number)
            .ok_or_else(|| Error::custom("NaN is not a number"))
    }

    fn serialize_char(self, char: char) -> Result<Value> {
        Ok(Value::String(char.to_string()))
    }

    fn serialize_str(self, text: &str) -> Result<Value> {
        Ok(Value::String(text.to_owned()))
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<Value> {
        Err(Error::custom(
            "bytes have no type in Terraform: encode them as text",
        ))
    }

    fn serialize_none(self) -> Result<Value> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<Value> {
        Ok(if name == UNKNOWN {
            Value::UNKNOWN
        } else {
            Value::Null
        })
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Value> {
        let value = value.serialize(self)?;
        Ok(match (name, value) {
            (SET, Value::List(elements)) => Value::Set(elements),
            (crate::cty::BIG, Value::String(text)) => Number::parse(&text)
                .map(Value::Number)
                .ok_or_else(|| Error::custom(format!("{text:?} is not a number")))?,
            (_, value) => value,
        })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Value> {
        Err(no_enum(name))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Elements> {
        Ok(Elements(Vec::with_capacity(length.unwrap_or_default())))
    }

    fn serialize_tuple(self, length: usize) -> Result<Elements> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Elements> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant> {
        Err(no_enum(name))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members> {
        Ok(Members::default())
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Members> {
        Ok(Members {
            dynamic: name == DYNAMIC,
            ..Members::default()
        })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant> {
        Err(no_enum(name))
    }
}

fn no_enum(name: &str) -> Error {
    Error::custom(format!(
        "{name} has a variant with data, which Terraform has no type for"
    ))
}

pub(super) struct Elements(Vec<Value>);

impl Elements {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let index = self.0.len() as u64;
        self.0
            .push(step(value.serialize(Serializer), || Step::Index(index))?);
        Ok(())
    }
}

impl ser::SerializeSeq for Elements {
    type Ok = Value;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.push(value)
    }

    fn end(self) -> Result<Value> {
        Ok(Value::List(self.0))
    }
}

impl ser::SerializeTuple for Elements {
    type Ok = Value;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.push(value)
    }

    fn end(self) -> Result<Value> {
        Ok(Value::List(self.0))
    }
}

impl ser::SerializeTupleStruct for Elements {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.push(value)
    }

    fn end(self) -> Result<Value> {
        Ok(Value::List(self.0))
    }
}

#[derive(Default)]
pub(super) struct Members {
    map: BTreeMap<String, Value>,
    key: Option<String>,
    dynamic: bool,
}

impl ser::SerializeMap for Members {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        match key.serialize(Serializer)? {
            Value::String(key) => {
                self.key = Some(key);
                Ok(())
            }
            other => Err(Error::custom(format!(
                "the key of a map must be text, not {}",
                other.kind()
            ))),
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let key = self
            .key
            .take()
            .expect("serde gives the key before the value");
        let value = step(value.serialize(Serializer), || Step::Key(key.clone()))?;
        self.map.insert(key, value);
        Ok(())
    }

    fn end(self) -> Result<Value> {
        Ok(Value::Map(self.map))
    }
}

impl ser::SerializeStruct for Members {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<()> {
        let value = step(value.serialize(Serializer), || {
            Step::Attribute(name.to_owned())
        })?;
        self.map.insert(name.to_owned(), value);
        Ok(())
    }

    fn end(mut self) -> Result<Value> {
        if !self.dynamic {
            return Ok(Value::Map(self.map));
        }
        let kind = self
            .map
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let kind = Type::from_bytes(kind.as_bytes()).map_err(Error)?;
        let value = self.map.remove("value").unwrap_or_default();
        Ok(Value::Dynamic(Box::new((kind, value))))
    }
}
