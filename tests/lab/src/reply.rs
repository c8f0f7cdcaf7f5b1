//! What a test expects of a module's answer.

use serde_json::{Value, json};

/// The steps of one that succeeded, and `changed` says whether there were any.
#[track_caller]
pub fn steps(reply: &Value) -> Vec<String> {
    assert_ne!(reply["failed"], json!(true), "{reply:#}");
    let steps = reply["steps"].as_array().expect("a list of steps");
    assert_eq!(reply["changed"], json!(!steps.is_empty()), "{reply:#}");
    let text = |step: &Value| step.as_str().expect("a step is a text").to_owned();
    steps.iter().map(text).collect()
}

/// It succeeded and had nothing to do.
#[track_caller]
pub fn unchanged(reply: &Value) {
    assert_eq!(steps(reply), [""; 0], "{reply:#}");
}

/// Why one failed. It may have done something before.
#[track_caller]
pub fn failure(reply: &Value) -> String {
    assert_eq!(reply["failed"], json!(true), "{reply:#}");
    reply["msg"].as_str().expect("a reason").to_owned()
}

/// It failed for this reason, with nothing done.
#[track_caller]
pub fn refused(reply: &Value, words: &str) {
    let reason = failure(reply);
    assert!(reason.contains(words), "{reason}");
    assert_eq!(reply["changed"], json!(false), "{reply:#}");
}
