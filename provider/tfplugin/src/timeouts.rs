//! The `timeouts` attribute: how long each operation may take. A resource whose model has `pub timeouts: Attr<Timeouts>`
//! lets its users say. It only reads and writes durations; the deadline itself
//! is kept by [`crate::Operation`] and enforced by the server.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cty::Value;
use crate::operation::Verb;
use crate::{Attr, attribute};

/// A duration as users write it: `90s`, `10m`, `1h30m`, `500ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write numbers with units h, m, s or ms, such as \"10m\" or \"1h30m\""
)]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || SpanError(text.to_owned());
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, after) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| bad())?;
            let letters = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(letters);
            let part = match unit {
                "h" => number.checked_mul(3600).map(Duration::from_secs),
                "m" => number.checked_mul(60).map(Duration::from_secs),
                "s" => Some(Duration::from_secs(number)),
                "ms" => Some(Duration::from_millis(number)),
                _ => None,
            };
            total = part
                .and_then(|part| total.checked_add(part))
                .ok_or_else(bad)?;
            rest = after;
        }
        if total.is_zero() {
            Err(bad())
        } else {
            Ok(Self(total))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(self.0.subsec_millis()), "ms"),
        ];
        let mut written = false;
        for (number, unit) in parts {
            if number > 0 {
                write!(f, "{number}{unit}")?;
                written = true;
            }
        }
        if written { Ok(()) } else { f.write_str("0s") }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "duration" })
    }
}

/// How long each operation may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = mark)]
pub struct Timeouts {
    /// How long creating may take, such as `10m` or `1h30m`.
    pub create: Attr<Span>,
    /// How long reading may take.
    pub read: Attr<Span>,
    /// How long updating may take.
    pub update: Attr<Span>,
    /// How long deleting may take.
    pub delete: Attr<Span>,
}

fn mark(schema: &mut Schema) {
    schema.insert(attribute::TIMEOUTS.to_owned(), true.into());
}

/// The limits where a user sets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultTimeouts {
    pub create: Duration,
    pub read: Duration,
    pub update: Duration,
    pub delete: Duration,
}

impl DefaultTimeouts {
    /// The same limit for every operation.
    pub const fn all(limit: Duration) -> Self {
        Self {
            create: limit,
            read: limit,
            update: limit,
            delete: limit,
        }
    }

    /// Twenty minutes for each operation, as Terraform users know it.
    pub const USUAL: Self = Self::all(Duration::from_secs(20 * 60));

    fn of(&self, verb: Verb) -> Option<Duration> {
        match verb {
            Verb::Create => Some(self.create),
            Verb::Read => Some(self.read),
            Verb::Update => Some(self.update),
            Verb::Delete => Some(self.delete),
            _ => None,
        }
    }

    /// The limit of an operation on the resource with this value, whose `timeouts` attribute has this name. An
    /// unreadable duration cannot get here: validation refuses it.
    pub(crate) fn limit(
        &self,
        verb: Verb,
        value: &Value,
        attribute: Option<&str>,
    ) -> Option<Duration> {
        let set = attribute
            .and_then(|name| value.get(name)?.get(&verb.to_string())?.as_str())
            .and_then(|text| text.parse::<Span>().ok());
        set.map(|span| span.0).or_else(|| self.of(verb))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_users_write_them() {
        let cases = [
            ("90s", Some(90_000)),
            ("10m", Some(600_000)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("", None),
            ("0s", None),
            ("10", None),
            ("10 m", None),
            ("-1m", None),
            ("1d", None),
            ("99999999999999999999h", None),
            ("18446744073709551615h", None),
        ];
        for (text, millis) in cases {
            let read = text.parse::<Span>().ok().map(|span| span.0.as_millis());
            assert_eq!(read, millis, "{text}");
        }
    }

    #[test]
    fn a_duration_is_written_as_it_was_read() {
        for text in ["1h30m", "90ms", "2m5s"] {
            assert_eq!(text.parse::<Span>().expect("valid").to_string(), text);
        }
    }
}
