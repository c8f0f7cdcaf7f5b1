//! Values as states hold them: JSON, read and written along the value's type. Numbers keep every digit.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Number, Refinement, Type, Value, ValueError, Within, deeper};
use crate::path::Step;

type Result<T> = std::result::Result<T, ValueError>;

/// What becomes of attributes that the type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// They are errors.
    Refuse,
    /// They are left out: the model has lost an attribute since the state was written.
    Drop,
}

/// Reads a value.
pub fn decode(bytes: &[u8], kind: &Type, extra: Extra) -> Result<Value> {
    let raw: &RawValue =
        serde_json::from_slice(bytes).map_err(|error| ValueError::new(error.to_string()))?;
    decode_at(raw, kind, extra, 0)
}

/// Writes a value. JSON has no unknown values: one is an error that says where it stands.
pub fn encode(value: &Value, kind: &Type) -> Result<String> {
    let mut text = String::new();
    encode_at(&mut text, value, kind, 0)?;
    Ok(text)
}

/// One level of JSON: what lies deeper stays text until its turn, so that its depth is counted before it is read.
fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue, kind: &Type) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|_| {
        let found = match raw.get().as_bytes().first() {
            Some(b'"') => "a string",
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b't' | b'f') => "a bool",
            _ => "a number",
        };
        ValueError::new(format!(
            "a value of type {kind} was expected, but {found} was found"
        ))
    })
}

fn decode_at(raw: &RawValue, kind: &Type, extra: Extra, depth: usize) -> Result<Value> {
    let depth = deeper(depth)?;
    if raw.get() == "null" {
        return Ok(Value::Null);
    }
    match kind {
        Type::Bool => parse(raw, kind).map(Value::Bool),
        Type::String => parse(raw, kind).map(Value::String),
        Type::Number => match Number::parse(raw.get()) {
            Some(number) => Ok(Value::Number(number)),
            // Number reads what JSON writes, so this is something else; parse says what.
            None => parse::<f64>(raw, kind)
                .and_then(|_| Err(ValueError::new(format!("{} is not a number", raw.get())))),
        },
        Type::List(element) => elements(parse(raw, kind)?, element, extra, depth).map(Value::List),
        Type::Set(element) => elements(parse(raw, kind)?, element, extra, depth).map(Value::Set),
        Type::Tuple(kinds) => {
            let elements: Vec<&RawValue> = parse(raw, kind)?;
            if elements.len() != kinds.len() {
                return Err(ValueError::new(format!(
                    "a tuple of {} elements was expected, but it has {}",
                    kinds.len(),
                    elements.len()
                )));
            }
            elements
                .into_iter()
                .zip(kinds)
                .enumerate()
                .map(|(index, (raw, kind))| {
                    decode_at(raw, kind, extra, depth).within(|| Step::Index(index as u64))
                })
                .collect::<Result<_>>()
                .map(Value::List)
        }
        Type::Map(element) => {
            let map: BTreeMap<String, &RawValue> = parse(raw, kind)?;
            map.into_iter()
                .map(|(key, raw)| {
                    let value =
                        decode_at(raw, element, extra, depth).within(|| Step::Key(key.clone()))?;
                    Ok((key, value))
                })
                .collect::<Result<_>>()
                .map(Value::Map)
        }
        Type::Object(kinds) => {
            let mut found: BTreeMap<String, &RawValue> = parse(raw, kind)?;
            let mut object = BTreeMap::new();
            for (name, kind) in kinds {
                let value = match found.remove(name) {
                    Some(raw) => decode_at(raw, kind, extra, depth)
                        .within(|| Step::Attribute(name.clone()))?,
                    None => Value::Null,
                };
                object.insert(name.clone(), value);
            }
            match found.into_keys().next() {
                Some(name) if extra == Extra::Refuse => Err(ValueError::new(format!(
                    "there is no attribute {}",
                    Value::String(name)
                ))),
                _ => Ok(Value::Map(object)),
            }
        }
        Type::Dynamic => {
            #[derive(Deserialize)]
            struct Pair<'a> {
                #[serde(borrow, rename = "type")]
                kind: &'a RawValue,
                #[serde(borrow)]
                value: &'a RawValue,
            }
            let pair: Pair<'_> = parse(raw, kind)?;
            let kind = Type::from_bytes(pair.kind.get().as_bytes())?;
            let value = decode_at(pair.value, &kind, extra, depth)?;
            Ok(Value::Dynamic(Box::new((kind, value))))
        }
    }
}

fn elements(raw: Vec<&RawValue>, kind: &Type, extra: Extra, depth: usize) -> Result<Vec<Value>> {
    raw.into_iter()
        .enumerate()
        .map(|(index, raw)| decode_at(raw, kind, extra, depth).within(|| Step::Index(index as u64)))
        .collect()
}

fn encode_at(text: &mut String, value: &Value, kind: &Type, depth: usize) -> Result<()> {
    let depth = deeper(depth)?;
    match (value, kind) {
        (Value::Null, _) => text.push_str("null"),
        (Value::Unknown(Refinement(_)), _) => return Err(ValueError::new(crate::attr::NOT_KNOWN)),
        (Value::Bool(bool), Type::Bool) => text.push_str(if *bool { "true" } else { "false" }),
        (Value::Number(number), Type::Number) => match number {
            Number::Float(float) if float.is_infinite() => {
                return Err(ValueError::new("JSON has no infinite numbers"));
            }
            number => text.push_str(&number.to_string()),
        },
        (Value::String(string), Type::String) => quote(text, string),
        (Value::List(elements), Type::List(kind)) | (Value::Set(elements), Type::Set(kind)) => {
            encode_elements(
                text,
                elements.iter().map(|element| (element, &**kind)),
                depth,
            )?;
        }
        (Value::List(elements), Type::Tuple(kinds)) if elements.len() == kinds.len() => {
            encode_elements(text, elements.iter().zip(kinds), depth)?;
        }
        (Value::Map(elements), Type::Map(kind)) => {
            text.push('{');
            for (position, (key, element)) in elements.iter().enumerate() {
                begin_member(text, position, key);
                encode_at(text, element, kind, depth).within(|| Step::Key(key.clone()))?;
            }
            text.push('}');
        }
        (Value::Map(elements), Type::Object(kinds)) => {
            text.push('{');
            for (position, (name, kind)) in kinds.iter().enumerate() {
                begin_member(text, position, name);
                let element = elements.get(name).unwrap_or(&Value::Null);
                encode_at(text, element, kind, depth).within(|| Step::Attribute(name.clone()))?;
            }
            text.push('}');
        }
        (Value::Dynamic(pair), Type::Dynamic) => {
            let (kind, value) = &**pair;
            text.push_str(r#"{"type":"#);
            text.push_str(&kind.to_json().to_string());
            text.push_str(r#","value":"#);
            encode_at(text, value, kind, depth)?;
            text.push('}');
        }
        (value, kind) => {
            return Err(ValueError::new(format!(
                "{} is not of type {kind}",
                value.kind()
            )));
        }
    }
    Ok(())
}

fn encode_elements<'a>(
    text: &mut String,
    elements: impl Iterator<Item = (&'a Value, &'a Type)>,
    depth: usize,
) -> Result<()> {
    text.push('[');
    for (index, (element, kind)) in elements.enumerate() {
        if index > 0 {
            text.push(',');
        }
        encode_at(text, element, kind, depth).within(|| Step::Index(index as u64))?;
    }
    text.push(']');
    Ok(())
}

fn begin_member(text: &mut String, position: usize, key: &str) {
    if position > 0 {
        text.push(',');
    }
    quote(text, key);
    text.push(':');
}

fn quote(text: &mut String, string: &str) {
    text.push_str(&serde_json::Value::from(string).to_string());
}
