//! Values in and out of protocol messages.

use std::time::SystemTime;

use crate::Diagnostic;
use crate::cty::{Type, Value, ValueError, json, msgpack};
use crate::erased::{unreadable, unwritable};
use crate::proto::tfplugin6 as wire;

/// Reads a value; one that is absent is null.
pub(crate) fn read(value: Option<wire::DynamicValue>, kind: &Type) -> Result<Value, Diagnostic> {
    read_plainly(value, kind).map_err(unreadable)
}

pub(crate) fn read_plainly(
    value: Option<wire::DynamicValue>,
    kind: &Type,
) -> Result<Value, ValueError> {
    match value {
        Some(value) if !value.msgpack.is_empty() => msgpack::decode(&value.msgpack, kind),
        Some(value) if !value.json.is_empty() => {
            json::decode(&value.json, kind, json::Extra::Refuse)
        }
        _ => Ok(Value::Null),
    }
}

pub(crate) fn write(value: &Value, kind: &Type) -> Result<wire::DynamicValue, Diagnostic> {
    let msgpack = msgpack::encode(value, kind).map_err(unwritable)?;
    Ok(wire::DynamicValue {
        msgpack,
        json: Vec::new(),
    })
}

/// A state as Terraform stores it.
pub(crate) fn raw_json(state: Option<wire::RawState>) -> Result<Vec<u8>, Diagnostic> {
    let state = state.unwrap_or_default();
    if state.json.is_empty() && !state.flatmap.is_empty() {
        return Err(
            Diagnostic::error("The state is of a Terraform older than 0.12")
                .detail("Upgrade it with Terraform 0.12 first."),
        );
    }
    Ok(state.json)
}

pub(crate) fn timestamp(at: SystemTime) -> prost_types::Timestamp {
    at.into()
}
