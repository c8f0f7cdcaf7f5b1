//! From the arguments Ansible sends to a typed `Params`, or to sentences that name every parameter that is wrong.
//!
//! Ad-hoc commands and `k=v` tasks send strings only ("5", "yes"), so values are first coerced to what the schema asks
//! for, as Ansible's own modules do. Deliberately narrower than Ansible where its coercion loses something: a boolean
//! or a fraction is not taken for text.

use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::schema::{self, Node};

/// One parameter and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Empty for the arguments as a whole: `disks[0].size_mib`.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Everything that is wrong with the arguments of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// What [`decode`] learns on the way, whether or not it succeeds. It holds secrets, so it cannot be printed.
#[derive(Default)]
pub(crate) struct Learnt {
    /// Values of secret parameters, as given.
    pub(crate) secrets: Vec<String>,
    /// Paths of deprecated parameters that were given.
    pub(crate) deprecated: Vec<String>,
    /// The arguments with secrets masked, for the echo.
    pub(crate) echo: Value,
}

/// `args` without Ansible's own keys.
pub fn decode<T: DeserializeOwned + JsonSchema>(args: Map<String, Value>) -> Result<T, Problems> {
    decode_learning(args, &mut Learnt::default())
}

pub(crate) fn decode_learning<T: DeserializeOwned + JsonSchema>(
    args: Map<String, Value>,
    learnt: &mut Learnt,
) -> Result<T, Problems> {
    let root = schema::of_params::<T>();
    let mut walk = Walk {
        learnt,
        problems: Vec::new(),
    };
    let args = Value::Object(args);
    walk.learn(Node::root(&root), &args, "");
    walk.learnt.echo = args.clone();
    mask(Node::root(&root), &mut walk.learnt.echo);
    let coerced = walk.coerce(Node::root(&root), args, "");
    if !walk.problems.is_empty() {
        return Err(Problems(walk.problems));
    }
    serde_path_to_error::deserialize(&coerced).map_err(|error| {
        let path = error.path().to_string();
        Problems(vec![Problem {
            path: if path == "." { String::new() } else { path },
            message: error.into_inner().to_string(),
        }])
    })
}

/// Replaces what the schema calls secret.
fn mask(node: Node<'_>, value: &mut Value) {
    if node.is_secret() {
        if !value.is_null() {
            *value = Value::String(crate::secret::MASK.to_owned());
        }
        return;
    }
    let node = node.resolve();
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(child) = property(node, key) {
                    mask(child, value);
                } else {
                    // An unknown name may be a misspelt secret.
                    *value = Value::String(crate::secret::MASK.to_owned());
                }
            }
        }
        Value::Array(items) => {
            if let Some(child) = node.child("items") {
                items.iter_mut().for_each(|item| mask(child, item));
            }
        }
        _ => {}
    }
}

/// The schema of one key of a map or struct; of any branch that knows it, for a tagged enum.
fn property<'a>(node: Node<'a>, key: &str) -> Option<Node<'a>> {
    node.properties()
        .find(|(name, _)| *name == key)
        .map(|(_, child)| child)
        .or_else(|| {
            node.child("additionalProperties")
                .filter(|child| child.here != &Value::Bool(false))
        })
        .or_else(|| {
            node.branches()
                .into_iter()
                .find_map(|branch| property(branch.resolve(), key))
        })
        .or_else(|| is_open(node).then_some(node))
}

/// Whether the schema says nothing about a map's keys.
fn is_open(node: Node<'_>) -> bool {
    node.here == &Value::Bool(true)
        || (node.get("properties").is_none()
            && node.get("additionalProperties").is_none()
            && node.branches().is_empty())
}

struct Walk<'l> {
    learnt: &'l mut Learnt,
    problems: Vec<Problem>,
}

impl Walk<'_> {
    fn problem(&mut self, path: &str, message: String) {
        self.problems.push(Problem {
            path: path.to_owned(),
            message,
        });
    }

    /// Collects secrets and deprecated names. Apart from coercion, so that it is complete even if that stops early.
    fn learn(&mut self, node: Node<'_>, value: &Value, path: &str) {
        if value.is_null() {
            return;
        }
        if node.get("deprecated") == Some(&Value::Bool(true)) {
            self.learnt.deprecated.push(path.to_owned());
        }
        if node.is_secret() {
            leaves(value, &mut self.learnt.secrets);
            return;
        }
        let node = node.resolve();
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match property(node, key) {
                        Some(child) => self.learn(child, value, &join(path, key)),
                        // May be a misspelt secret; its value must not come back in any message.
                        None => leaves_long(value, &mut self.learnt.secrets),
                    }
                }
            }
            Value::Array(items) => {
                if let Some(child) = node.child("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.learn(child, item, &format!("{path}[{index}]"));
                    }
                }
            }
            _ => {}
        }
    }

    /// The value in the shape that the schema asks for. On a problem it is recorded and the value returned as it was.
    fn coerce(&mut self, node: Node<'_>, value: Value, path: &str) -> Value {
        let secret = node.is_secret();
        let nullable = node.get("type").is_some_and(
            |kind| matches!(kind, Value::Array(names) if names.iter().any(|it| it == "null")),
        ) || node.text("type") == Some("null");
        let node = node.resolve();
        if value.is_null() && nullable {
            return value;
        }
        if let Some(choices) = node.choices() {
            return self.choose(&choices, value, path);
        }
        if node.kind().is_none() && !node.branches().is_empty() {
            return self.branch(node, value, path);
        }
        let wrong = |wanted: &str, value: &Value| {
            format!("expected {wanted}, got {}", describe(value, secret))
        };
        match node.kind() {
            Some("boolean") => match boolean(&value) {
                Some(yes) => Value::Bool(yes),
                None => {
                    self.problem(path, wrong("a boolean", &value));
                    value
                }
            },
            Some("integer") => match integer(&value) {
                Some(number) => {
                    self.check_range(node, &number, path);
                    number
                }
                None => {
                    self.problem(path, wrong("an integer", &value));
                    value
                }
            },
            Some("number") => match number(&value) {
                Some(number) => {
                    self.check_range(node, &number, path);
                    number
                }
                None => {
                    self.problem(path, wrong("a number", &value));
                    value
                }
            },
            Some("string") => match value {
                Value::String(text) => {
                    self.check_length(node, text.chars().count(), "character", "Length", path);
                    Value::String(text)
                }
                Value::Number(number) if !number.is_f64() => Value::String(number.to_string()),
                other => {
                    let hint = match other {
                        Value::Bool(_) | Value::Number(_) => ": quote it",
                        _ => "",
                    };
                    self.problem(path, wrong("a string", &other) + hint);
                    other
                }
            },
            Some("array") => self.list(node, value, path, secret),
            Some("object") => self.map(node, value, path, secret),
            _ => value,
        }
    }

    fn choose(&mut self, choices: &[(&str, Option<&str>)], value: Value, path: &str) -> Value {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        // To YAML 1.1 an unquoted `off` is a boolean. Where one choice is such a word it is what was meant, as with Ansible's own
        // modules.
        let value = match value {
            Value::Bool(meant) => {
                let mut same = words
                    .iter()
                    .filter(|word| yaml_boolean(word) == Some(meant));
                match (same.next(), same.next()) {
                    (Some(word), None) => Value::String((*word).to_owned()),
                    _ => Value::Bool(meant),
                }
            }
            other => other,
        };
        match &value {
            Value::String(text) if words.contains(&text.as_str()) => {}
            Value::String(text) => {
                let near = nearest(text, &words)
                    .map(|word| format!(" (did you mean {word:?}?)"))
                    .unwrap_or_default();
                self.problem(
                    path,
                    format!("{text:?} is not one of {}{near}", words.join(", ")),
                );
            }
            other => self.problem(
                path,
                format!(
                    "expected one of {}, got {}",
                    words.join(", "),
                    describe(other, false)
                ),
            ),
        }
        value
    }

    /// A tagged enum is entered by its tag; any other is left to the type itself.
    fn branch(&mut self, node: Node<'_>, value: Value, path: &str) -> Value {
        let Value::Object(map) = &value else {
            return value;
        };
        let mut tags: Vec<(&str, &str)> = Vec::new();
        for branch in node.branches() {
            let branch = branch.resolve();
            for (name, child) in branch.properties() {
                let Some(tag) = child.text("const") else {
                    continue;
                };
                if map.get(name).and_then(Value::as_str) == Some(tag) {
                    return self.map(branch, value, path, false);
                }
                tags.push((name, tag));
            }
        }
        if let Some((name, _)) = tags.first() {
            let words: Vec<&str> = tags.iter().map(|(_, tag)| *tag).collect();
            let wanted = words.join(", ");
            let at = join(path, name);
            match map.get(*name) {
                None => self.problem(&at, format!("missing; one of {wanted}")),
                Some(given) => self.problem(
                    &at,
                    format!("expected one of {wanted}, got {}", describe(given, false)),
                ),
            }
        }
        value
    }

    fn list(&mut self, node: Node<'_>, value: Value, path: &str, secret: bool) -> Value {
        let items = match value {
            Value::Array(items) => items,
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(Value::Array(items)) => items,
                _ if text.trim().is_empty() => Vec::new(),
                _ => text
                    .split(',')
                    .map(|item| Value::String(item.trim().to_owned()))
                    .collect(),
            },
            Value::Number(_) => vec![value],
            other => {
                self.problem(
                    path,
                    format!("expected a list, got {}", describe(&other, secret)),
                );
                return other;
            }
        };
        self.check_length(node, items.len(), "item", "Items", path);
        let Some(child) = node.child("items") else {
            return Value::Array(items);
        };
        let items: Vec<Value> = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| self.coerce(child, item, &format!("{path}[{index}]")))
            .collect();
        if node.get("uniqueItems") == Some(&Value::Bool(true)) {
            for (index, item) in items.iter().enumerate() {
                if items[..index].contains(item) {
                    self.problem(
                        &format!("{path}[{index}]"),
                        format!("{} is given twice", describe(item, child.is_secret())),
                    );
                }
            }
        }
        Value::Array(items)
    }

    fn map(&mut self, node: Node<'_>, value: Value, path: &str, secret: bool) -> Value {
        let given = match value {
            Value::Object(map) => map,
            Value::String(text) => match map_from_text(&text) {
                Some(map) => map,
                None => {
                    let shown = describe(&Value::String(text.clone()), secret);
                    self.problem(path, format!("expected a map, got {shown}"));
                    return Value::String(text);
                }
            },
            other => {
                self.problem(
                    path,
                    format!("expected a map, got {}", describe(&other, secret)),
                );
                return other;
            }
        };
        if is_open(node) {
            return Value::Object(given);
        }
        let rest = node
            .child("additionalProperties")
            .filter(|child| child.here != &Value::Bool(false));
        let names: Vec<&str> = node.properties().map(|(name, _)| name).collect();
        let mut taken = Map::new();
        for (key, value) in given {
            let at = join(path, &key);
            match node.properties().find(|(name, _)| *name == key) {
                // A null is a parameter left out, as for Ansible's own modules.
                Some(_) if value.is_null() => {}
                Some((_, child)) => {
                    let value = self.coerce(child, value, &at);
                    taken.insert(key, value);
                }
                None => match rest {
                    Some(child) => {
                        let value = self.coerce(child, value, &at);
                        taken.insert(key, value);
                    }
                    None => {
                        let near = nearest(&key, &names)
                            .map(|name| format!(", did you mean {name:?}?"))
                            .unwrap_or_default();
                        let known = if names.is_empty() {
                            "there are none".to_owned()
                        } else {
                            format!("known are {}", names.join(", "))
                        };
                        self.problem(&at, format!("unknown parameter{near} ({known})"));
                    }
                },
            }
        }
        for (name, child) in node.properties() {
            if node.requires(name) && !taken.contains_key(name) {
                let meaning = child
                    .text("description")
                    .or_else(|| child.resolve().text("description"))
                    .and_then(|text| text.lines().next())
                    .map(|line| format!(": {line}"))
                    .unwrap_or_default();
                self.problem(
                    &join(path, name),
                    format!("missing required parameter{meaning}"),
                );
            }
        }
        Value::Object(taken)
    }

    fn check_range(&mut self, node: Node<'_>, number: &Value, path: &str) {
        let Some(given) = number.as_f64() else { return };
        let bound = |key: &str| node.get(key).filter(|bound| bound.is_number());
        if let Some(low) = bound("minimum")
            && low.as_f64().is_some_and(|low| given < low)
        {
            self.problem(path, format!("must be at least {low}, got {number}"));
        }
        if let Some(high) = bound("maximum")
            && high.as_f64().is_some_and(|high| given > high)
        {
            self.problem(path, format!("must be at most {high}, got {number}"));
        }
    }

    fn check_length(&mut self, node: Node<'_>, length: usize, unit: &str, key: &str, path: &str) {
        let bound = |prefix: &str| {
            node.get(&format!("{prefix}{key}"))
                .and_then(Value::as_u64)
                .and_then(|bound| usize::try_from(bound).ok())
        };
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        if let Some(low) = bound("min")
            && length < low
        {
            self.problem(
                path,
                if length == 0 && low == 1 {
                    "must not be empty".to_owned()
                } else {
                    format!("needs at least {low} {unit}{}, has {length}", plural(low))
                },
            );
        }
        if let Some(high) = bound("max")
            && length > high
        {
            self.problem(
                path,
                format!(
                    "may have at most {high} {unit}{}, has {length}",
                    plural(high)
                ),
            );
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Every scalar in a secret value, as text.
fn leaves(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Number(number) => into.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, into)),
        Value::Object(map) => map.values().for_each(|item| leaves(item, into)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// As [`leaves`], for values that are secret only perhaps: a short word among them would blot out the message that is
/// to explain the mistake.
fn leaves_long(value: &Value, into: &mut Vec<String>) {
    let mut found = Vec::new();
    leaves(value, &mut found);
    into.extend(found.into_iter().filter(|text| text.chars().count() >= 6));
}

/// The value's type, and the value itself if it is short and may be shown.
fn describe(value: &Value, secret: bool) -> String {
    const SHOWN: usize = 60;
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "the boolean",
        Value::Number(number) if number.is_f64() => "the number",
        Value::Number(_) => "the integer",
        Value::String(_) => "the string",
        Value::Array(_) => return "a list".to_owned(),
        Value::Object(_) => return "a map".to_owned(),
    };
    if secret {
        return kind
            .replace("the ", "a ")
            .replace("a integer", "an integer");
    }
    let shown = value.to_string();
    if shown.chars().count() > SHOWN {
        let start: String = shown.chars().take(SHOWN).collect();
        format!("{kind} {start}…")
    } else {
        format!("{kind} {shown}")
    }
}

/// Ansible's words for yes and no.
fn boolean(value: &Value) -> Option<bool> {
    let word = match value {
        Value::Bool(yes) => return Some(*yes),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    match word.as_str() {
        "y" | "yes" | "on" | "1" | "true" | "t" => Some(true),
        "n" | "no" | "off" | "0" | "false" | "f" => Some(false),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<Value> {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64()?;
            // 2^53: beyond it a float no longer says which integer was meant.
            (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0)
                .then(|| format!("{float:.0}").parse::<i64>().ok())
                .flatten()
                .map(Value::from)
        }
        Value::Number(_) => Some(value.clone()),
        Value::String(text) => {
            let text = text.trim();
            text.parse::<i64>()
                .map(Value::from)
                .or_else(|_| text.parse::<u64>().map(Value::from))
                .ok()
        }
        _ => None,
    }
}

fn number(value: &Value) -> Option<Value> {
    match value {
        Value::Number(_) => Some(value.clone()),
        Value::String(text) => {
            let float: f64 = text.trim().parse().ok()?;
            float.is_finite().then(|| Value::from(float))
        }
        _ => None,
    }
}

/// `{"a": 1}` or `a=1,b=2`, as Ansible takes a map given as text.
fn map_from_text(text: &str) -> Option<Map<String, Value>> {
    let text = text.trim();
    if text.starts_with('{') {
        return serde_json::from_str(text).ok();
    }
    if text.is_empty() {
        return Some(Map::new());
    }
    text.split([',', ' '])
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), Value::String(value.to_owned())))
        })
        .collect()
}

/// The word that was probably meant, if one is near enough to be worth a guess.
pub(crate) fn nearest<'a>(given: &str, words: &[&'a str]) -> Option<&'a str> {
    words
        .iter()
        .map(|word| (distance(given, word), *word))
        .filter(|(distance, word)| *distance <= word.chars().count().max(3) / 3)
        .min()
        .map(|(_, word)| word)
}

/// Edits between two words, a swap of neighbours counting one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in table.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in table[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            table[i][j] = (table[i - 1][j] + 1)
                .min(table[i][j - 1] + 1)
                .min(table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]))
                .min(if swap {
                    table[i - 2][j - 2] + 1
                } else {
                    usize::MAX
                });
        }
    }
    table[a.len()][b.len()]
}

/// What YAML 1.1 takes a word for.
pub(crate) fn yaml_boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "y" | "yes" | "on" | "true" => Some(true),
        "n" | "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use schemars::JsonSchema;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::Secret;

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        /// Name of the role.
        name: String,
        #[serde(default)]
        state: State,
        force: Option<bool>,
        #[schemars(range(min = 1, max = 10))]
        limit: Option<u32>,
        ratio: Option<f64>,
        #[serde(default)]
        tags: Vec<String>,
        #[serde(default)]
        disks: BTreeMap<String, Disk>,
        address: Option<Ipv4Addr>,
        password: Option<Secret>,
        #[schemars(length(min = 1))]
        comment: Option<String>,
        origin: Option<Origin>,
        anything: Option<Value>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum State {
        /// It exists.
        #[default]
        Present,
        /// It does not.
        Absent,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Disk {
        size_mib: u64,
        #[serde(default)]
        removable: bool,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    enum Origin {
        Url { address: String },
        Copy { of: String, depth: u8 },
    }

    fn take(args: Value) -> Result<Params, String> {
        let Value::Object(args) = args else {
            panic!("tests pass a map")
        };
        decode(args).map_err(|problems| problems.to_string())
    }

    fn bare() -> Params {
        Params {
            name: "app".to_owned(),
            state: State::Present,
            force: None,
            limit: None,
            ratio: None,
            tags: Vec::new(),
            disks: BTreeMap::new(),
            address: None,
            password: None,
            comment: None,
            origin: None,
            anything: None,
        }
    }

    #[test]
    fn a_boolean_stands_for_the_one_choice_that_yaml_takes_for_it() {
        #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        enum Autoscale {
            On,
            Off,
            Warn,
        }
        #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct Pool {
            autoscale: Autoscale,
        }
        for (given, expected) in [
            (json!(true), Some(Autoscale::On)),
            (json!(false), Some(Autoscale::Off)),
            (json!("warn"), Some(Autoscale::Warn)),
            (json!(1), None),
        ] {
            let args = Map::from_iter([("autoscale".to_owned(), given)]);
            assert_eq!(
                decode::<Pool>(args).ok().map(|pool| pool.autoscale),
                expected
            );
        }
    }

    #[test]
    fn what_an_ad_hoc_command_sends_is_coerced() {
        let given = take(json!({
            "name": 5, "state": "absent", "force": "yes", "limit": "7", "ratio": "0.5",
            "tags": "a, b", "disks": r#"{"data": {"size_mib": "64", "removable": "on"}}"#,
            "address": "10.0.0.1", "password": 1234,
        }));
        let disk = Disk {
            size_mib: 64,
            removable: true,
        };
        assert_eq!(
            given,
            Ok(Params {
                name: "5".to_owned(),
                state: State::Absent,
                force: Some(true),
                limit: Some(7),
                ratio: Some(0.5),
                tags: vec!["a".to_owned(), "b".to_owned()],
                disks: BTreeMap::from([("data".to_owned(), disk)]),
                address: Some(Ipv4Addr::new(10, 0, 0, 1)),
                password: Some(Secret::new("1234")),
                ..bare()
            })
        );
    }

    #[test]
    fn more_shapes_of_the_same_value() {
        assert_eq!(
            take(
                json!({"name": "app", "limit": 3.0, "tags": 5, "origin": {"kind": "copy", "of": "x", "depth": "2"},
                "anything": {"a": [1]}, "comment": null, "state": null})
            ),
            Ok(Params {
                limit: Some(3),
                tags: vec!["5".to_owned()],
                origin: Some(Origin::Copy {
                    of: "x".to_owned(),
                    depth: 2
                }),
                anything: Some(json!({"a": [1]})),
                ..bare()
            })
        );
        let empty = take(json!({"name": "app", "tags": "", "disks": ""}));
        assert_eq!(empty, Ok(bare()));
        assert_eq!(
            take(json!({"name": "app", "tags": "[\"a,b\"]"})).map(|it| it.tags),
            Ok(vec!["a,b".to_owned()])
        );
    }

    #[test]
    fn each_mistake_is_one_clear_sentence() {
        for (args, message) in [
            (
                json!({}),
                "name: missing required parameter: Name of the role.",
            ),
            (
                json!({"name": null}),
                "name: missing required parameter: Name of the role.",
            ),
            (
                json!({"name": "a", "forc": true}),
                "forc: unknown parameter, did you mean \"force\"? (known are name, state, force, limit, ratio, tags, disks, address, password, comment, origin, anything)",
            ),
            (
                json!({"name": "a", "state": "abset"}),
                "state: \"abset\" is not one of present, absent (did you mean \"absent\"?)",
            ),
            (
                json!({"name": "a", "state": 1}),
                "state: expected one of present, absent, got the integer 1",
            ),
            (
                json!({"name": "a", "force": "maybe"}),
                "force: expected a boolean, got the string \"maybe\"",
            ),
            (
                json!({"name": "a", "limit": "many"}),
                "limit: expected an integer, got the string \"many\"",
            ),
            (
                json!({"name": "a", "limit": 2.5}),
                "limit: expected an integer, got the number 2.5",
            ),
            (
                json!({"name": "a", "limit": 11}),
                "limit: must be at most 10, got 11",
            ),
            (
                json!({"name": "a", "limit": -1}),
                "limit: must be at least 1, got -1",
            ),
            (
                json!({"name": "a", "comment": ""}),
                "comment: must not be empty",
            ),
            (
                json!({"name": true}),
                "name: expected a string, got the boolean true: quote it",
            ),
            (
                json!({"name": 22.10}),
                "name: expected a string, got the number 22.1: quote it",
            ),
            (
                json!({"name": ["a"]}),
                "name: expected a string, got a list",
            ),
            (
                json!({"name": "a", "tags": {"a": 1}}),
                "tags: expected a list, got a map",
            ),
            (
                json!({"name": "a", "tags": ["x", {"y": 1}]}),
                "tags[1]: expected a string, got a map",
            ),
            (
                json!({"name": "a", "disks": {"data": {"size_mib": "big"}}}),
                "disks.data.size_mib: expected an integer, got the string \"big\"",
            ),
            (
                json!({"name": "a", "disks": {"data": {"size": 1}}}),
                "disks.data.size: unknown parameter (known are size_mib, removable); disks.data.size_mib: missing required parameter",
            ),
            (
                json!({"name": "a", "disks": "data"}),
                "disks: expected a map, got the string \"data\"",
            ),
            (
                json!({"name": "a", "address": "10.0.0.300"}),
                "address: invalid IPv4 address syntax",
            ),
            (
                json!({"name": "a", "origin": {"kind": "urll", "address": "x"}}),
                "origin.kind: expected one of url, copy, got the string \"urll\"",
            ),
            (
                json!({"name": "a", "origin": {"kind": "copy", "of": "x", "depth": 300}}),
                "origin.depth: must be at most 255, got 300",
            ),
            (
                json!({"name": "a", "password": ["hunter2"]}),
                "password: expected a string, got a list",
            ),
            (
                json!({"name": "a", "password": 1.5}),
                "password: expected a string, got a number: quote it",
            ),
        ] {
            assert_eq!(take(args.clone()), Err(message.to_owned()), "{args}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        assert_eq!(
            take(json!({"name": "a", "force": "x", "limit": "y"})),
            Err(
                "force: expected a boolean, got the string \"x\"; limit: expected an integer, got the string \"y\""
                    .to_owned()
            )
        );
    }

    #[test]
    fn secrets_are_learnt_even_from_wrong_arguments() {
        let mut learnt = Learnt::default();
        let Value::Object(args) =
            json!({"password": "hunter2", "passwrd": "hunter3", "limit": "x"})
        else {
            unreachable!()
        };
        let result: Result<Params, _> = decode_learning(args, &mut learnt);
        assert!(result.is_err());
        assert_eq!(learnt.secrets, ["hunter2", "hunter3"]);
        assert_eq!(
            learnt.echo,
            json!({"password": "***", "passwrd": "***", "limit": "x"})
        );
    }

    #[test]
    fn a_guess_is_made_only_when_it_is_near() {
        for (given, guess) in [
            ("nmae", Some("name")),
            ("Name", Some("name")),
            ("adress", Some("address")),
            ("size", None),
            ("n", None),
        ] {
            assert_eq!(nearest(given, &["name", "address"]), guess, "{given}");
        }
    }
}
