//! Values as Terraform sends them: msgpack, read and written along the value's type.

use std::collections::BTreeMap;
use std::sync::Arc;

use rmp::{Marker, decode as read, encode as write};

use super::{Number, Refinement, Type, Value, ValueError, Within, deeper};
use crate::path::Step;

/// An unknown value that nothing is known about: an extension of type 0 with one zero byte.
const UNREFINED: [u8; 3] = [0xd4, 0, 0];
/// The extension type of an unknown value with refinements. Every other extension is an unknown value too.
const REFINED: i8 = 12;
/// No collection reserves room for more elements than this before they have been read.
const RESERVE: usize = 64;

type Result<T> = std::result::Result<T, ValueError>;

/// Reads one value and requires that nothing follows.
pub fn decode(bytes: &[u8], kind: &Type) -> Result<Value> {
    let mut rest = bytes;
    let value = decode_at(&mut rest, kind, 0)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(ValueError::new(format!(
            "{} bytes follow the value",
            rest.len()
        )))
    }
}

/// Writes a value. One that is not of the type is a bug in the provider, and the error says where it stands.
pub fn encode(value: &Value, kind: &Type) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_at(&mut bytes, value, kind, 0)?;
    Ok(bytes)
}

fn decode_at(rest: &mut &[u8], kind: &Type, depth: usize) -> Result<Value> {
    let depth = deeper(depth)?;
    let marker = Marker::from_u8(*rest.first().ok_or_else(cut_short)?);
    match marker {
        Marker::Null => {
            *rest = &rest[1..];
            return Ok(Value::Null);
        }
        Marker::FixExt1
        | Marker::FixExt2
        | Marker::FixExt4
        | Marker::FixExt8
        | Marker::FixExt16
        | Marker::Ext8
        | Marker::Ext16
        | Marker::Ext32 => {
            let meta = read::read_ext_meta(rest).map_err(|_| cut_short())?;
            let body = take(rest, meta.size)?;
            let refinement = (meta.typeid == REFINED).then(|| Arc::from(body));
            return Ok(Value::Unknown(Refinement(refinement)));
        }
        _ => {}
    }
    let expected = || {
        ValueError::new(format!(
            "a value of type {kind} was expected, but {} was found",
            name(marker)
        ))
    };
    match kind {
        Type::Bool => read::read_bool(rest)
            .map(Value::Bool)
            .map_err(|_| expected()),
        Type::String => match marker {
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                text(rest).map(Value::String)
            }
            _ => Err(expected()),
        },
        Type::Number => match marker {
            Marker::F32 => {
                let float = read::read_f32(rest).map_err(|_| cut_short())?;
                float_value(float.into())
            }
            Marker::F64 => float_value(read::read_f64(rest).map_err(|_| cut_short())?),
            Marker::U64 => {
                let uint = read::read_u64(rest).map_err(|_| cut_short())?;
                Ok(Value::Number(uint.into()))
            }
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let text = text(rest)?;
                let number = match text.as_str() {
                    "Inf" | "+Inf" => Some(Number::Float(f64::INFINITY)),
                    "-Inf" => Some(Number::Float(f64::NEG_INFINITY)),
                    text => Number::parse(text),
                };
                number.map(Value::Number).ok_or_else(|| {
                    ValueError::new(format!("{} is not a number", Value::String(text)))
                })
            }
            _ => read::read_int::<i64, _>(rest)
                .map(|int| Value::Number(int.into()))
                .map_err(|_| expected()),
        },
        Type::List(kind) => elements(rest, kind, depth, expected).map(Value::List),
        Type::Set(kind) => elements(rest, kind, depth, expected).map(Value::Set),
        Type::Tuple(kinds) => {
            let length = read::read_array_len(rest).map_err(|_| expected())?;
            if length as usize != kinds.len() {
                return Err(ValueError::new(format!(
                    "a tuple of {} elements was expected, but it has {length}",
                    kinds.len()
                )));
            }
            kinds
                .iter()
                .enumerate()
                .map(|(index, kind)| {
                    decode_at(rest, kind, depth).within(|| Step::Index(index as u64))
                })
                .collect::<Result<_>>()
                .map(Value::List)
        }
        Type::Map(kind) => {
            let length = read::read_map_len(rest).map_err(|_| expected())?;
            let mut map = BTreeMap::new();
            for _ in 0..length {
                let key = text(rest)?;
                let value = decode_at(rest, kind, depth).within(|| Step::Key(key.clone()))?;
                map.insert(key, value);
            }
            Ok(Value::Map(map))
        }
        Type::Object(kinds) => {
            let length = read::read_map_len(rest).map_err(|_| expected())?;
            let mut object = BTreeMap::new();
            for _ in 0..length {
                let name = text(rest)?;
                let kind = kinds.get(&name).ok_or_else(|| {
                    ValueError::new(format!(
                        "there is no attribute {}",
                        Value::String(name.clone())
                    ))
                })?;
                let value =
                    decode_at(rest, kind, depth).within(|| Step::Attribute(name.clone()))?;
                object.insert(name, value);
            }
            for name in kinds.keys() {
                if !object.contains_key(name) {
                    object.insert(name.clone(), Value::Null);
                }
            }
            Ok(Value::Map(object))
        }
        Type::Dynamic => {
            if read::read_array_len(rest).map_err(|_| expected())? != 2 {
                return Err(ValueError::new(
                    "a value of dynamic type must be a pair of type and value",
                ));
            }
            let length = match rest.first().copied().map(Marker::from_u8) {
                Some(Marker::Bin8 | Marker::Bin16 | Marker::Bin32) => {
                    read::read_bin_len(rest).map_err(|_| cut_short())?
                }
                _ => {
                    read::read_str_len(rest).map_err(|_| ValueError::new("its type is not text"))?
                }
            };
            let kind = Type::from_bytes(take(rest, length)?)?;
            let value = decode_at(rest, &kind, depth)?;
            Ok(Value::Dynamic(Box::new((kind, value))))
        }
    }
}

fn elements(
    rest: &mut &[u8],
    kind: &Type,
    depth: usize,
    expected: impl FnOnce() -> ValueError,
) -> Result<Vec<Value>> {
    let length = read::read_array_len(rest).map_err(|_| expected())? as usize;
    let mut elements = Vec::with_capacity(length.min(RESERVE));
    for index in 0..length {
        elements.push(decode_at(rest, kind, depth).within(|| Step::Index(index as u64))?);
    }
    Ok(elements)
}

fn float_value(float: f64) -> Result<Value> {
    Number::from_exact_f64(float)
        .map(Value::Number)
        .ok_or_else(|| ValueError::new("NaN is not a number"))
}

fn take<'a>(rest: &mut &'a [u8], length: u32) -> Result<&'a [u8]> {
    let (taken, after) = rest
        .split_at_checked(length as usize)
        .ok_or_else(cut_short)?;
    *rest = after;
    Ok(taken)
}

fn text(rest: &mut &[u8]) -> Result<String> {
    let length = read::read_str_len(rest).map_err(|_| ValueError::new("text was expected"))?;
    let bytes = take(rest, length)?;
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ValueError::new("text is not UTF-8"))
}

fn cut_short() -> ValueError {
    ValueError::new("the data ends in the middle of a value")
}

fn name(marker: Marker) -> &'static str {
    match marker {
        Marker::True | Marker::False => "a bool",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "a string",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "binary data",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "a list",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map",
        Marker::Reserved => "no value at all",
        _ => "a number",
    }
}

fn encode_at(bytes: &mut Vec<u8>, value: &Value, kind: &Type, depth: usize) -> Result<()> {
    let depth = deeper(depth)?;
    match (value, kind) {
        (Value::Null, _) => written(write::write_nil(bytes)),
        (Value::Unknown(Refinement(None)), _) => {
            bytes.extend_from_slice(&UNREFINED);
            Ok(())
        }
        (Value::Unknown(Refinement(Some(refinement))), _) => {
            written(write::write_ext_meta(
                bytes,
                length(refinement.len())?,
                REFINED,
            ))?;
            bytes.extend_from_slice(refinement);
            Ok(())
        }
        (Value::Bool(bool), Type::Bool) => written(write::write_bool(bytes, *bool)),
        (Value::String(text), Type::String) => written(write::write_str(bytes, text)),
        (Value::Number(number), Type::Number) => match number {
            Number::Int(int) => written(write::write_sint(bytes, *int)),
            Number::UInt(uint) => written(write::write_uint(bytes, *uint)),
            Number::Float(float) if float.is_infinite() => written(write::write_f64(bytes, *float)),
            // As text, because Terraform takes a binary float digit for digit: 0.1 would not be 0.1 there.
            Number::Float(_) | Number::Big(_) => {
                written(write::write_str(bytes, &number.to_string()))
            }
        },
        (Value::List(elements), Type::List(kind)) | (Value::Set(elements), Type::Set(kind)) => {
            written(write::write_array_len(bytes, length(elements.len())?))?;
            for (index, element) in elements.iter().enumerate() {
                encode_at(bytes, element, kind, depth).within(|| Step::Index(index as u64))?;
            }
            Ok(())
        }
        (Value::List(elements), Type::Tuple(kinds)) if elements.len() == kinds.len() => {
            written(write::write_array_len(bytes, length(elements.len())?))?;
            for (index, (element, kind)) in elements.iter().zip(kinds).enumerate() {
                encode_at(bytes, element, kind, depth).within(|| Step::Index(index as u64))?;
            }
            Ok(())
        }
        (Value::Map(elements), Type::Map(kind)) => {
            written(write::write_map_len(bytes, length(elements.len())?))?;
            for (key, element) in elements {
                written(write::write_str(bytes, key))?;
                encode_at(bytes, element, kind, depth).within(|| Step::Key(key.clone()))?;
            }
            Ok(())
        }
        (Value::Map(elements), Type::Object(kinds)) => {
            if let Some(name) = elements.keys().find(|name| !kinds.contains_key(*name)) {
                return Err(ValueError::new(format!("there is no attribute {name:?}")));
            }
            written(write::write_map_len(bytes, length(kinds.len())?))?;
            for (name, kind) in kinds {
                written(write::write_str(bytes, name))?;
                let element = elements.get(name).unwrap_or(&Value::Null);
                encode_at(bytes, element, kind, depth).within(|| Step::Attribute(name.clone()))?;
            }
            Ok(())
        }
        (Value::Dynamic(pair), Type::Dynamic) => {
            let (kind, value) = &**pair;
            written(write::write_array_len(bytes, 2))?;
            written(write::write_bin(bytes, &kind.to_bytes()))?;
            encode_at(bytes, value, kind, depth)
        }
        (value, kind) => Err(ValueError::new(format!(
            "{} is not of type {kind}",
            value.kind()
        ))),
    }
}

/// Writing into memory does not fail.
fn written<T, E: std::fmt::Debug>(result: std::result::Result<T, E>) -> Result<()> {
    result
        .map(drop)
        .map_err(|error| ValueError::new(format!("{error:?}")))
}

fn length(length: usize) -> Result<u32> {
    u32::try_from(length)
        .map_err(|_| ValueError::new("it has more elements than msgpack can count"))
}
