//! Between typed models and Terraform's values, by serde. Errors carry the path of the value they are about.

mod de;
mod dynamic;
mod ser;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use dynamic::Dynamic;

use crate::cty::{Type, Value, ValueError};

/// The name under which a value of dynamic type passes through serde.
pub(crate) const DYNAMIC: &str = "$tfplugin::Dynamic";

/// A model's value. Its collections are not yet sets where the schema says so: [`Value::conform`] does that.
pub(crate) fn to_value<T: Serialize + ?Sized>(model: &T) -> Result<Value, ValueError> {
    model.serialize(ser::Serializer).map_err(|error| error.0)
}

/// A model's value, as one of the schema's type.
pub(crate) fn to_value_of<T: Serialize + ?Sized>(
    model: &T,
    kind: &Type,
) -> Result<Value, ValueError> {
    to_value(model)?.conform(kind)
}

/// The model with this value. What the value lacks is null.
pub(crate) fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, ValueError> {
    T::deserialize(de::Deserializer(value)).map_err(|error| error.0)
}

/// A [`ValueError`] that serde can make.
#[derive(Debug)]
struct Error(ValueError);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(ValueError::new(message.to_string()))
    }
}

impl serde::ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(ValueError::new(message.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::cty::Number;
    use crate::{Attr, Key, Set, path};

    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Bridged,
        Nat,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Disk {
        size_mib: Attr<u64>,
        mode: Attr<Mode>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Vm {
        name: Attr<String>,
        disks: Attr<BTreeMap<String, Disk>>,
        list: Attr<Vec<Disk>>,
        set: Attr<Set<Disk>>,
        labels: Attr<BTreeMap<String, Attr<String>>>,
        names: Attr<Vec<String>>,
        load: Attr<f64>,
        anything: Attr<Dynamic>,
    }

    fn object<const N: usize>(pairs: [(&str, Value); N]) -> Value {
        Value::Map(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    }

    fn int(int: i64) -> Value {
        Value::Number(Number::Int(int))
    }

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn a_model_survives_the_way_to_values_and_back() {
        let vm = Vm {
            name: "db".into(),
            disks: BTreeMap::from([(
                "data".to_owned(),
                Disk {
                    size_mib: 5.into(),
                    mode: Mode::Nat.into(),
                },
            )])
            .into(),
            list: vec![Disk::default()].into(),
            set: Set(vec![Disk {
                size_mib: Attr::Unknown,
                mode: Attr::Null,
            }])
            .into(),
            labels: BTreeMap::from([
                ("a".to_owned(), Attr::Unknown),
                ("b".to_owned(), Attr::Null),
            ])
            .into(),
            names: vec!["x".to_owned()].into(),
            load: 0.5.into(),
            anything: Dynamic {
                kind: Type::list(Type::Number),
                value: Value::List(vec![
                    int(1),
                    Value::Number(Number::Big("1e999".into())),
                    Value::UNKNOWN,
                ]),
            }
            .into(),
        };
        let value = to_value(&vm).expect("it can be written");
        assert!(matches!(value.get("set"), Some(Value::Set(_))));
        assert_eq!(from_value::<Vm>(&value), Ok(vm));
    }

    #[test]
    fn what_a_value_lacks_is_null() {
        assert_eq!(from_value::<Vm>(&object([])), Ok(Vm::default()));
    }

    #[test]
    fn an_unknown_object_is_an_object_whose_attributes_are_unknown() {
        let value = object([("list", Value::List(vec![Value::UNKNOWN]))]);
        let vm: Vm = from_value(&value).expect("it can be read");
        let unknown = Disk {
            size_mib: Attr::Unknown,
            mode: Attr::Unknown,
        };
        assert_eq!(vm.list, vec![unknown].into());
    }

    #[test]
    fn a_list_that_cannot_hold_an_unknown_element_is_unknown() {
        let value = object([("names", Value::List(vec![text("a"), Value::UNKNOWN]))]);
        let vm: Vm = from_value(&value).expect("it can be read");
        assert_eq!(vm.names, Attr::Unknown);
    }

    #[test]
    fn an_error_says_where_it_is() {
        let cases = [
            (
                object([("disks", object([("data", object([("size_mib", int(-1))]))]))]),
                path!["disks", Key("data"), "size_mib"],
                "invalid value: integer `-1`, expected u64",
            ),
            (
                object([(
                    "list",
                    Value::List(vec![object([]), object([("mode", text("hostonly"))])]),
                )]),
                path!["list", 1usize, "mode"],
                "unknown variant `hostonly`, expected `bridged` or `nat`",
            ),
            (
                object([("names", Value::List(vec![Value::Null]))]),
                path!["names", 0usize],
                "a value is needed here, but it is null",
            ),
            (
                object([("name", int(1))]),
                path!["name"],
                "invalid type: integer `1`, expected a string",
            ),
        ];
        for (value, path, message) in cases {
            let error = from_value::<Vm>(&value).expect_err("it cannot be read");
            assert_eq!(error.path, path);
            assert_eq!(error.message, message);
        }
    }
}
