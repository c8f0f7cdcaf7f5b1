//! Properties of the codec: what is written is read back, and no bytes bring the decoders down.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::path;

fn kinds() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        Just(Type::String),
        Just(Type::Number),
        Just(Type::Bool),
        Just(Type::Dynamic)
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(Type::list),
            inner.clone().prop_map(Type::set),
            inner.clone().prop_map(Type::map),
            btree_map("[a-z]{1,4}", inner.clone(), 0..4).prop_map(Type::Object),
            vec(inner, 0..4).prop_map(Type::Tuple),
        ]
    })
}

fn numbers() -> impl Strategy<Value = Number> {
    prop_oneof![
        any::<i64>().prop_map(Number::from),
        any::<u64>().prop_map(Number::from),
        any::<f64>().prop_filter_map("NaN and infinity are no decimals", |float| {
            Number::from_f64(float).filter(|_| float.is_finite())
        }),
        any::<f64>().prop_filter_map("NaN and infinity are no decimals", |float| {
            Number::from_exact_f64(float).filter(|_| float.is_finite())
        }),
        "-?[1-9][0-9]{0,40}(\\.[0-9]{1,40})?(e-?[0-9]{1,3})?"
            .prop_filter_map("a number", |text| Number::parse(&text)),
    ]
}

/// Values of a type; unknown ones among them if asked for.
fn values(kind: &Type, unknowns: bool) -> BoxedStrategy<Value> {
    let known = match kind {
        Type::String => any::<String>().prop_map(Value::String).boxed(),
        Type::Number => numbers().prop_map(Value::Number).boxed(),
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Dynamic => kinds()
            .prop_filter("a value's own type is never open", |kind| {
                *kind != Type::Dynamic
            })
            .prop_flat_map(move |kind| {
                let value = values(&kind, unknowns);
                (Just(kind), value)
            })
            .prop_map(|pair| Value::Dynamic(Box::new(pair)))
            .boxed(),
        Type::List(kind) => vec(values(kind, unknowns), 0..4)
            .prop_map(Value::List)
            .boxed(),
        Type::Set(kind) => vec(values(kind, unknowns), 0..4)
            .prop_map(Value::Set)
            .boxed(),
        Type::Map(kind) => btree_map(any::<String>(), values(kind, unknowns), 0..4)
            .prop_map(Value::Map)
            .boxed(),
        Type::Object(kinds) => {
            let attributes: Vec<_> = kinds
                .iter()
                .map(|(name, kind)| (Just(name.clone()), values(kind, unknowns)))
                .collect();
            attributes
                .prop_map(|pairs| Value::Map(pairs.into_iter().collect::<BTreeMap<_, _>>()))
                .boxed()
        }
        Type::Tuple(kinds) => {
            let elements: Vec<_> = kinds.iter().map(|kind| values(kind, unknowns)).collect();
            elements.prop_map(Value::List).boxed()
        }
    };
    let refinement = prop_oneof![
        Just(Refinement(None)),
        vec(any::<u8>(), 0..9).prop_map(|bytes| Refinement(Some(bytes.into()))),
    ];
    if unknowns {
        prop_oneof![8 => known, 1 => Just(Value::Null), 1 => refinement.prop_map(Value::Unknown)]
            .boxed()
    } else {
        prop_oneof![8 => known, 1 => Just(Value::Null)].boxed()
    }
}

fn typed(unknowns: bool) -> impl Strategy<Value = (Type, Value)> {
    kinds().prop_flat_map(move |kind| {
        let value = values(&kind, unknowns);
        (Just(kind), value)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn what_is_written_in_msgpack_is_read_back((kind, value) in typed(true)) {
        let bytes = msgpack::encode(&value, &kind).expect("it is of its type");
        prop_assert_eq!(msgpack::decode(&bytes, &kind), Ok(value));
    }

    #[test]
    fn what_is_written_in_json_is_read_back((kind, value) in typed(false)) {
        let text = json::encode(&value, &kind).expect("it is of its type");
        prop_assert_eq!(json::decode(text.as_bytes(), &kind, json::Extra::Refuse), Ok(value));
    }

    #[test]
    fn a_value_of_a_type_conforms_to_it((kind, value) in typed(true)) {
        prop_assert_eq!(value.clone().conform(&kind), Ok(value));
    }

    #[test]
    fn a_value_survives_serde((_, value) in typed(false)) {
        let expected = value.clone();
        let through = crate::bridge::to_value(&value).and_then(|value| crate::bridge::from_value::<Value>(&value));
        // Without a type at hand, a set is only a sequence and a dynamic value only itself.
        prop_assert_eq!(plain(through.expect("it passes")), plain(expected));
    }

    #[test]
    fn no_bytes_bring_the_decoders_down(kind in kinds(), bytes in vec(any::<u8>(), 0..200)) {
        drop(msgpack::decode(&bytes, &kind));
        drop(json::decode(&bytes, &kind, json::Extra::Drop));
    }

    #[test]
    fn no_damage_to_a_message_brings_the_decoder_down(
        (kind, value) in typed(true),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = msgpack::encode(&value, &kind).expect("it is of its type");
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let cut = cut.index(bytes.len() + 1);
        for bytes in [&bytes[..], &bytes[..cut]] {
            if let Ok(value) = msgpack::decode(bytes, &kind) {
                let again = msgpack::encode(&value, &kind).expect("what was read can be written");
                prop_assert_eq!(msgpack::decode(&again, &kind), Ok(value));
            }
        }
    }
}

fn plain(value: Value) -> Value {
    match value {
        Value::List(elements) | Value::Set(elements) => {
            Value::List(elements.into_iter().map(plain).collect())
        }
        Value::Map(elements) => Value::Map(
            elements
                .into_iter()
                .map(|(key, value)| (key, plain(value)))
                .collect(),
        ),
        Value::Dynamic(pair) => plain(pair.1),
        value => value,
    }
}

#[test]
fn depth_is_refused_before_the_stack_ends() {
    // A value of dynamic type brings a type along, so its depth is the sender's choice.
    let deep_value = [0x91_u8; 1_000_000];
    let mut kind = Type::Dynamic;
    for _ in 0..90 {
        kind = Type::list(kind);
    }
    assert!(msgpack::decode(&deep_value, &kind).is_err());
    let mut deep_dynamic = vec![0x92, 0xc5, 0, 0];
    let kind_text = format!(
        "{}\"string\"{}",
        "[\"list\",".repeat(7000),
        "]".repeat(7000)
    );
    deep_dynamic[2..4]
        .copy_from_slice(&u16::try_from(kind_text.len()).expect("short").to_be_bytes());
    deep_dynamic.extend(kind_text.as_bytes());
    assert!(msgpack::decode(&deep_dynamic, &Type::Dynamic).is_err());
    let deep_json = "[".repeat(1_000_000);
    assert!(json::decode(deep_json.as_bytes(), &kind, json::Extra::Drop).is_err());
    let mut value = Value::Null;
    let mut kind = Type::String;
    for _ in 0..=MAX_DEPTH {
        value = Value::List(vec![value]);
        kind = Type::list(kind);
    }
    assert!(msgpack::encode(&value, &kind).is_err());
    assert!(value.conform(&kind).is_err());
}

#[test]
fn a_length_is_not_believed_before_the_elements_are_there() {
    let cases: [(&[u8], Type); 5] = [
        (&[0xdd, 0xff, 0xff, 0xff, 0xff], Type::list(Type::String)),
        (&[0xdf, 0xff, 0xff, 0xff, 0xff], Type::map(Type::String)),
        (&[0xdb, 0xff, 0xff, 0xff, 0xff, b'a'], Type::String),
        (&[0xc9, 0xff, 0xff, 0xff, 0xff, 12, 0], Type::String),
        (&[0x92, 0xc6, 0xff, 0xff, 0xff, 0xff], Type::Dynamic),
    ];
    for (bytes, kind) in cases {
        let error = msgpack::decode(bytes, &kind).expect_err("the data ends");
        assert!(
            error.message.contains("ends in the middle") || error.message.contains("text"),
            "{error}"
        );
    }
}

#[test]
fn an_error_says_where_the_value_stands() {
    let disk = Type::Object(BTreeMap::from([("size".to_owned(), Type::Number)]));
    let kind = Type::Object(BTreeMap::from([(
        "disks".to_owned(),
        Type::map(Type::list(disk)),
    )]));
    let expected = path!["disks", crate::Key("data"), 1usize, "size"];
    let text = r#"{"disks": {"data": [{"size": 1}, {"size": "two"}]}}"#;
    let error = json::decode(text.as_bytes(), &kind, json::Extra::Refuse).expect_err("a string");
    assert_eq!(error.path, expected);
    assert_eq!(
        error.message,
        "a value of type number was expected, but a string was found"
    );

    let bytes = b"\x81\xa5disks\x81\xa4data\x92\x81\xa4size\x01\x81\xa4size\xc3";
    let error = msgpack::decode(bytes, &kind).expect_err("a bool");
    assert_eq!(error.path, expected);
    assert_eq!(
        error.message,
        "a value of type number was expected, but a bool was found"
    );
}

#[test]
fn terraforms_own_forms_are_read() {
    let cases: [(&[u8], Type, Value); 9] = [
        (b"\xc0", Type::String, Value::Null),
        (b"\xd4\x00\x00", Type::Bool, Value::UNKNOWN),
        (
            b"\xc7\x03\x0c\x81\x01\xc2",
            Type::String,
            Value::Unknown(Refinement(Some([0x81, 0x01, 0xc2].as_slice().into()))),
        ),
        (b"\xa30.1", Type::Number, Value::Number(Number::Float(0.1))),
        (
            b"\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00",
            Type::Number,
            Value::Number(Number::Float(0.5)),
        ),
        (
            b"\xca\x40\x00\x00\x00",
            Type::Number,
            Value::Number(Number::Int(2)),
        ),
        (
            b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
            Type::Number,
            Value::Number(Number::UInt(u64::MAX)),
        ),
        (
            b"\x92\xc4\x08\"string\"\xa1x",
            Type::Dynamic,
            Value::Dynamic(Box::new((Type::String, Value::String("x".to_owned())))),
        ),
        (
            b"\x92\xc4\x06\"bool\"\xc0",
            Type::Dynamic,
            Value::Dynamic(Box::new((Type::Bool, Value::Null))),
        ),
    ];
    for (bytes, kind, expected) in cases {
        assert_eq!(msgpack::decode(bytes, &kind), Ok(expected));
    }
    let attributes = Type::Object(BTreeMap::from([("a".to_owned(), Type::String)]));
    let missing = Value::Map(BTreeMap::from([("a".to_owned(), Value::Null)]));
    assert_eq!(msgpack::decode(b"\x80", &attributes), Ok(missing));
}
