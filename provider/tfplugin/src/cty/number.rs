//! Numbers without loss: Terraform's have any size and precision.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The name under which a [`Number::Big`] passes through serde.
pub(crate) const BIG: &str = "$tfplugin::Big";

/// A number in the smallest form that holds it exactly: build it with the constructors, not the variants, so that equal
/// numbers are equal values.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    Int(i64),
    /// Above `i64::MAX`.
    UInt(u64),
    /// Neither whole nor NaN, or too large for the above. It stands for the shortest decimal that reads back as it, so
    /// that 0.1 is the same number here as in a configuration. Infinity is a number to Terraform.
    Float(f64),
    /// A decimal that none of the others holds: its digits, `e`, and an exponent.
    Big(String),
}

impl Number {
    /// The number that a program means by a float: the shortest decimal that reads back as it. `None` for NaN.
    pub fn from_f64(float: f64) -> Option<Self> {
        if float.is_nan() {
            None
        } else if float.is_infinite() {
            Some(Self::Float(float))
        } else {
            Self::parse(&format!("{float:e}"))
        }
    }

    /// Exactly the binary float, digit for digit. `None` for NaN.
    pub fn from_exact_f64(float: f64) -> Option<Self> {
        if !float.is_finite() {
            return Self::from_f64(float);
        }
        // No float has more digits after the point than the smallest, 2^-1074.
        let text = format!("{float:.1074}");
        Self::parse(text.trim_end_matches('0').trim_end_matches('.'))
    }

    /// Reads decimal text. `None` if it is not a number as JSON writes them.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(int) = text.parse::<i64>() {
            return Some(Self::Int(int));
        }
        if let Ok(uint) = text.parse::<u64>() {
            return Some(Self::UInt(uint));
        }
        let decimal = Decimal::parse(text)?;
        if let Some(whole) = decimal.whole() {
            return i64::try_from(whole)
                .map(Self::Int)
                .or_else(|_| u64::try_from(whole).map(Self::UInt))
                .ok();
        }
        // Rust prints the shortest text that reads back, so this holds for the numbers that programs mean by a float.
        let float: f64 = text.parse().ok()?;
        if float.is_finite() && Decimal::parse(&format!("{float:e}")).as_ref() == Some(&decimal) {
            return Some(Self::Float(float));
        }
        Some(Self::Big(decimal.to_string()))
    }

    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(int) => u64::try_from(*int).ok(),
            Self::UInt(uint) => Some(*uint),
            _ => None,
        }
    }

    /// Which is greater. Exact between integers, by the nearest float otherwise.
    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        let whole = |number: &Self| match number {
            Self::Int(int) => Some(i128::from(*int)),
            Self::UInt(uint) => Some(i128::from(*uint)),
            Self::Float(_) | Self::Big(_) => None,
        };
        match (whole(self), whole(other)) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => self.to_f64().total_cmp(&other.to_f64()),
        }
    }

    /// The nearest float.
    pub fn to_f64(&self) -> f64 {
        match self {
            Self::Int(int) => *int as f64,
            Self::UInt(uint) => *uint as f64,
            Self::Float(float) => *float,
            // Its text was checked to be a number.
            Self::Big(text) => text.parse().unwrap_or(f64::NAN),
        }
    }
}

impl From<i64> for Number {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<u64> for Number {
    fn from(uint: u64) -> Self {
        i64::try_from(uint).map_or(Self::UInt(uint), Self::Int)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => write!(f, "{int}"),
            Self::UInt(uint) => write!(f, "{uint}"),
            Self::Float(float) if (1e-7..1e21).contains(&float.abs()) => write!(f, "{float}"),
            Self::Float(float) => write!(f, "{float:e}"),
            Self::Big(text) => f.write_str(text),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(int) => serializer.serialize_i64(*int),
            Self::UInt(uint) => serializer.serialize_u64(*uint),
            Self::Float(float) => serializer.serialize_f64(*float),
            Self::Big(text) => serializer.serialize_newtype_struct(BIG, text),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl<'de> de::Visitor<'de> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, int: i64) -> Result<Number, E> {
                Ok(Number::Int(int))
            }

            fn visit_u64<E>(self, uint: u64) -> Result<Number, E> {
                Ok(uint.into())
            }

            fn visit_f64<E: de::Error>(self, float: f64) -> Result<Number, E> {
                Number::from_f64(float).ok_or_else(|| E::custom("NaN is not a number"))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Number, D::Error> {
                let text = String::deserialize(deserializer)?;
                Number::parse(&text)
                    .ok_or_else(|| de::Error::custom(format!("{text:?} is not a number")))
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

impl JsonSchema for Number {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number" })
    }
}

/// A decimal number taken apart: significant digits without zeros at either end, and the power of ten of the last.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if whole.is_empty() || !digits.iter().all(u8::is_ascii_digit) || mantissa.ends_with('.') {
            return None;
        }
        let mut exponent = i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
        let trailing = digits
            .iter()
            .rev()
            .take_while(|digit| **digit == b'0')
            .count();
        digits.truncate(digits.len() - trailing);
        exponent += i64::try_from(trailing).ok()?;
        let leading = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..leading);
        if digits.is_empty() {
            return Some(Self {
                negative: false,
                digits,
                exponent: 0,
            });
        }
        Some(Self {
            negative,
            digits,
            exponent,
        })
    }

    /// The number, if it is whole and fits into 64 bits, signed or not.
    fn whole(&self) -> Option<i128> {
        const LONGEST: i64 = 20;
        if self.exponent < 0 || self.exponent > LONGEST || self.digits.len() > LONGEST as usize {
            return None;
        }
        let digits = self
            .digits
            .iter()
            .fold(0, |sum: i128, digit| sum * 10 + i128::from(digit - b'0'));
        let whole = digits.checked_mul(10_i128.pow(self.exponent.try_into().ok()?))?;
        let signed = if self.negative { -whole } else { whole };
        (i128::from(i64::MIN)..=i128::from(u64::MAX))
            .contains(&signed)
            .then_some(signed)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        let digits = String::from_utf8_lossy(&self.digits);
        match self.exponent {
            0 => write!(f, "{sign}{digits}"),
            exponent => write!(f, "{sign}{digits}e{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_the_smallest_form_that_holds_it() {
        let cases = [
            ("0", Some(Number::Int(0))),
            ("-0.0", Some(Number::Int(0))),
            ("2.0", Some(Number::Int(2))),
            ("1e3", Some(Number::Int(1000))),
            ("-9223372036854775808", Some(Number::Int(i64::MIN))),
            ("9223372036854775808", Some(Number::UInt(1 << 63))),
            ("0.5", Some(Number::Float(0.5))),
            ("0.1", Some(Number::Float(0.1))),
            ("1.50", Some(Number::Float(1.5))),
            ("1e300", Some(Number::Float(1e300))),
            (
                "4.611686018427388e18",
                Some(Number::Int(4_611_686_018_427_388_000)),
            ),
            (
                "18446744073709551616",
                Some(Number::Big("18446744073709551616".into())),
            ),
            (
                "18446744073709551617.0",
                Some(Number::Big("18446744073709551617".into())),
            ),
            (
                "0.12345678901234567890123",
                Some(Number::Big("12345678901234567890123e-23".into())),
            ),
            ("1e+999", Some(Number::Big("1e999".into()))),
            ("", None),
            ("-", None),
            ("1.", None),
            ("0x10", None),
            ("NaN", None),
            ("inf", None),
        ];
        for (text, number) in cases {
            assert_eq!(Number::parse(text), number, "{text}");
        }
    }

    #[test]
    fn a_float_means_its_shortest_decimal_and_a_binary_one_all_its_digits() {
        assert_eq!(Number::from_f64(-0.0), Some(Number::Int(0)));
        assert_eq!(Number::from_f64(0.1), Number::parse("0.1"));
        assert_eq!(Number::from_f64(1e300), Some(Number::Float(1e300)));
        assert_eq!(Number::from_f64(f64::NAN), None);
        assert_eq!(Number::from_exact_f64(0.5), Some(Number::Float(0.5)));
        assert_eq!(
            Number::from_exact_f64(18_446_744_073_709_551_616.0),
            Number::parse("18446744073709551616")
        );
        assert_ne!(Number::from_exact_f64(0.1), Number::parse("0.1"));
    }
}
