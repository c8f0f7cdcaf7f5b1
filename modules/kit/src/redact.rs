//! Removal of known secret values from what a module says.
//!
//! It cannot find a secret that was transformed (hashed, encoded): a module must not print those.

use serde_json::Value;

use crate::secret::MASK;

/// The secret values of one call.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that a secret which contains another is removed whole.
    needles: Vec<String>,
}

impl Redactor {
    pub fn new<I: IntoIterator<Item = String>>(secrets: I) -> Self {
        let mut needles: Vec<String> = secrets
            .into_iter()
            .flat_map(|secret| {
                // A program that quotes the value in its complaint prints the escaped form.
                let debug = format!("{secret:?}");
                let escaped = debug.trim_matches('"').to_owned();
                let json = Value::String(secret.clone()).to_string();
                let json = json[1..json.len() - 1].to_owned();
                let trimmed = secret.trim().to_owned();
                [secret, escaped, json, trimmed]
            })
            .filter(|needle| !needle.is_empty())
            .collect();
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self { needles }
    }

    pub fn text(&self, text: &str) -> String {
        self.needles
            .iter()
            .fold(text.to_owned(), |text, needle| text.replace(needle, MASK))
    }

    /// Redacts every string, every key below the top, and every number that equals a secret.
    pub fn value(&self, value: &mut Value) {
        if self.needles.is_empty() {
            return;
        }
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Number(number) => {
                if self.needles.contains(&number.to_string()) {
                    *value = Value::String(MASK.to_owned());
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(map) => {
                *map = std::mem::take(map)
                    .into_iter()
                    .map(|(key, mut value)| {
                        self.value(&mut value);
                        (self.text(&key), value)
                    })
                    .collect();
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_leave_strings_keys_and_numbers() {
        let redactor = Redactor::new(["pass\"word".into(), "pass".into(), "4711".into()]);
        let mut value = json!({"a": ["pass", 4711, 47110, true], "pass": {"b": "got pass\"word"}});
        redactor.value(&mut value);
        assert_eq!(
            value,
            json!({"a": ["***", "***", 47110, true], "***": {"b": "got ***"}})
        );
        assert_eq!(
            redactor.text(&format!("{:?}", "pass\"word")),
            "\"***\"",
            "a quoted secret"
        );
    }

    #[test]
    fn an_empty_secret_redacts_nothing() {
        assert_eq!(Redactor::new([String::new()]).text("abc"), "abc");
    }
}
