//! Feeds bytes to the decoders. The first byte chooses the type. What decodes must survive being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tfplugin::cty::{Type, json, msgpack};

const TYPES: [&str; 6] = [
    r#""dynamic""#,
    r#""number""#,
    r#"["list", "string"]"#,
    r#"["map", ["set", "number"]]"#,
    r#"["object", {"a": "string", "b": ["list", "dynamic"], "c": "bool"}]"#,
    r#"["tuple", ["string", "dynamic"]]"#,
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let text = TYPES[usize::from(*choice) % TYPES.len()];
    let kind = Type::from_json(&serde_json::from_str(text).expect("this is JSON")).expect("these are types");
    if let Ok(value) = msgpack::decode(data, &kind) {
        let bytes = msgpack::encode(&value, &kind).expect("what was read can be written");
        assert_eq!(msgpack::decode(&bytes, &kind).as_ref(), Ok(&value));
    }
    if let Ok(value) = json::decode(data, &kind, json::Extra::Drop) {
        let text = json::encode(&value, &kind).expect("what was read can be written");
        assert_eq!(json::decode(text.as_bytes(), &kind, json::Extra::Refuse).as_ref(), Ok(&value));
    }
});
