//! The values of attributes in typed models: known, null, or not known until apply. And the set, which Rust's own sets
//! cannot be: two unknown elements are two elements.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::{Diagnostic, Path};

/// The name under which an unknown value passes through serde.
pub(crate) const UNKNOWN: &str = "$tfplugin::Unknown";
/// The name under which a [`Set`] passes through serde.
pub(crate) const SET: &str = "$tfplugin::Set";
/// Marks, in a JSON schema, a place whose Rust type can hold null and unknown.
pub(crate) const ATTR_MARK: &str = "x-tf-attr";
/// What a value says that cannot be unknown, but is.
pub(crate) const NOT_KNOWN: &str = "the value is not known yet";

/// A struct that can be a resource's, data source's or provider's attributes.
pub trait Model: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static> Model for T {}

/// The value of an attribute. An attribute that the configuration leaves out is `Null`; one that depends on something
/// not yet created is `Unknown`, and only while validating and planning.
///
/// A collection whose elements have no `Attr` of their own is `Unknown` as a whole as long as any element is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attr<T> {
    Known(T),
    #[default]
    Null,
    Unknown,
}

impl<T> Attr<T> {
    pub fn as_ref(&self) -> Attr<&T> {
        match self {
            Self::Known(value) => Attr::Known(value),
            Self::Null => Attr::Null,
            Self::Unknown => Attr::Unknown,
        }
    }

    /// The value if it is known and not null.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    pub fn known_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    pub fn into_known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    pub fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Attr<U> {
        match self {
            Self::Known(value) => Attr::Known(f(value)),
            Self::Null => Attr::Null,
            Self::Unknown => Attr::Unknown,
        }
    }

    /// The value, or an error that names the attribute. For attributes that the schema makes certain: required ones,
    /// and in apply those with a default.
    pub fn require(&self, path: Path) -> Result<&T, Diagnostic> {
        let state = match self {
            Self::Known(value) => return Ok(value),
            Self::Null => "it is null",
            Self::Unknown => NOT_KNOWN,
        };
        Err(Diagnostic::error(format!("{path} is needed here"))
            .detail(format!(
                "The operation needs the value of {path}, but {state}."
            ))
            .at(path))
    }
}

impl<T: Clone> Attr<T> {
    /// The value, or this one where there is none.
    pub fn unwrap_or(&self, otherwise: T) -> T {
        self.known().cloned().unwrap_or(otherwise)
    }
}

impl<T: Default + Clone> Attr<T> {
    pub fn unwrap_or_default(&self) -> T {
        self.known().cloned().unwrap_or_default()
    }
}

impl Attr<String> {
    pub fn as_str(&self) -> Option<&str> {
        self.known().map(String::as_str)
    }
}

impl<T> From<T> for Attr<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T> From<Option<T>> for Attr<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::Known)
    }
}

impl From<&str> for Attr<String> {
    fn from(value: &str) -> Self {
        Self::Known(value.to_owned())
    }
}

impl<T: Serialize> Serialize for Attr<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(value) => serializer.serialize_some(value),
            Self::Null => serializer.serialize_none(),
            Self::Unknown => serializer.serialize_unit_struct(UNKNOWN),
        }
    }
}

/// Reads as an option, so that a missing field is null in every format. The bridge from cty answers a newtype where the
/// value is unknown, which `Option` refuses and `Attr` understands.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Attr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AttrVisitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for AttrVisitor<T> {
            type Value = Attr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(Attr::Null)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Attr::Null)
            }

            fn visit_some<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Self::Value, D::Error> {
                match T::deserialize(deserializer) {
                    Ok(value) => Ok(Attr::Known(value)),
                    // Something inside is unknown and has no way to say so: then this is what is unknown.
                    Err(error) if error.to_string().ends_with(NOT_KNOWN) => Ok(Attr::Unknown),
                    Err(error) => Err(error),
                }
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                _: D,
            ) -> Result<Self::Value, D::Error> {
                Ok(Attr::Unknown)
            }
        }

        deserializer.deserialize_option(AttrVisitor(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Attr<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Attr_{}", T::schema_name()).into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("tfplugin::Attr<{}>", T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = generator.subschema_for::<T>();
        schema.insert(ATTR_MARK.to_owned(), true.into());
        schema
    }
}

/// A set: its elements' order means nothing. It keeps duplicates, because two unknown elements may turn out different.
#[derive(Clone, Debug)]
pub struct Set<T>(pub Vec<T>);

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Set<T> {
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: PartialEq> PartialEq for Set<T> {
    fn eq(&self, other: &Self) -> bool {
        same_elements(&self.0, &other.0)
    }
}

impl<T: Eq> Eq for Set<T> {}

impl<T> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Self(elements.into_iter().collect())
    }
}

impl<T> IntoIterator for Set<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Set<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Serialize> Serialize for Set<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(SET, &self.0)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Set<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Set<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Set_of_{}", T::schema_name()).into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("tfplugin::Set<{}>", T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = <Vec<T>>::json_schema(generator);
        schema.insert("uniqueItems".to_owned(), true.into());
        schema
    }
}

/// Whether two sequences hold the same elements, however ordered.
pub(crate) fn same_elements<T: PartialEq>(left: &[T], right: &[T]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    // Terraform sends sets in one order, so almost always every pair matches where it stands.
    let mut taken = vec![false; right.len()];
    left.iter().enumerate().all(|(position, element)| {
        let here = (!taken[position] && right[position] == *element).then_some(position);
        let found =
            here.or_else(|| (0..right.len()).find(|&at| !taken[at] && right[at] == *element));
        found.is_some_and(|at| {
            taken[at] = true;
            true
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        present: Attr<u32>,
        absent: Attr<String>,
    }

    #[test]
    fn a_missing_field_is_null_in_json_too() {
        let sample: Sample = serde_json::from_str(r#"{"present": 7}"#).expect("valid");
        assert_eq!(
            sample,
            Sample {
                present: Attr::Known(7),
                absent: Attr::Null
            }
        );
        assert_eq!(
            serde_json::to_string(&sample).expect("valid"),
            r#"{"present":7,"absent":null}"#
        );
    }

    #[test]
    fn sets_are_equal_in_any_order_and_count_their_elements() {
        let cases = [
            (vec![1, 2, 3], vec![3, 1, 2], true),
            (vec![1, 1, 2], vec![1, 2, 2], false),
            (vec![1], vec![1, 1], false),
            (vec![], vec![], true),
        ];
        for (left, right, same) in cases {
            assert_eq!(
                Set(left.clone()) == Set(right.clone()),
                same,
                "{left:?} {right:?}"
            );
        }
    }

    #[test]
    fn a_value_that_is_needed_and_absent_names_its_attribute() {
        let error = Attr::<u32>::Null
            .require(path!["seed", "user"])
            .expect_err("null");
        assert_eq!(error.path, path!["seed", "user"]);
        assert_eq!(Attr::Known(3).require(path!["n"]), Ok(&3));
    }
}
