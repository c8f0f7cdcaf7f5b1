//! Ansible's documentation of a module, from its schema. The same in Markdown is in `reference`.

use serde_json::{Map, Value, json};

use crate::entry::Entry;
use crate::params::yaml_boolean;
use crate::schema::Node;

const SINCE: &str = "0.1.0";

/// What `steps` holds, the one return value of every module that may change something.
pub(crate) const STEPS: [&str; 3] = [
    "What was done, one line for each act, in order.",
    "In check mode what would be done first.",
    "If the task failed, only what was done before.",
];

pub(crate) fn of(entry: &Entry) -> anyhow::Result<[(&'static str, String); 3]> {
    Ok([
        ("DOCUMENTATION", yaml(&documentation(entry)?)?),
        ("EXAMPLES", entry.examples.trim().to_owned() + "\n"),
        ("RETURN", yaml(&returns(entry))?),
    ])
}

/// YAML with lines that `ansible-test sanity` does not find too long.
fn yaml(value: &Value) -> anyhow::Result<String> {
    let folded: String = serde_norway::to_string(value)?
        .lines()
        .map(|line| folded(&quoted(line)) + "\n")
        .collect();
    let again: Value = serde_norway::from_str(&folded)?;
    anyhow::ensure!(again == *value, "folding changed the text: {folded}");
    Ok(folded)
}

/// Ansible reads YAML 1.1, to which a bare `off` is a boolean. The serialiser writes YAML 1.2 and quotes only `true` and `false`.
fn quoted(line: &str) -> String {
    let text = line.trim_start();
    let start = match text.strip_prefix("- ") {
        Some(_) => line.len() - text.len() + 2,
        None => line.find(": ").map_or(line.len(), |colon| colon + 2),
    };
    let (before, word) = line.split_at(start);
    match yaml_boolean(word) {
        Some(_) if !matches!(word, "true" | "false") => format!("{before}'{word}'"),
        _ => line.to_owned(),
    }
}

/// A scalar may go on in the next line if that is indented more than what holds it.
fn folded(line: &str) -> String {
    const WIDTH: usize = 110;
    let indent = line.len() - line.trim_start().len() + 2;
    let mut folded = String::new();
    let mut width = 0;
    for word in line.split(' ') {
        let length = word.chars().count() + 1;
        if width > indent && width + length > WIDTH {
            folded += &format!("\n{:indent$}{word}", "");
            width = indent + length;
        } else {
            if !folded.is_empty() || width > 0 {
                folded.push(' ');
            }
            folded += word;
            width += length;
        }
    }
    folded
}

/// How far a module goes along with a mode of Ansible's.
pub(crate) struct Mode {
    pub(crate) title: &'static str,
    /// `full` or `none`.
    pub(crate) support: &'static str,
    pub(crate) details: &'static str,
}

/// Check mode, diff mode, async.
pub(crate) fn modes(entry: &Entry) -> [Mode; 3] {
    let (check, diff, details) = if entry.read_only {
        (
            "It changes nothing, so check mode makes no difference.",
            "none",
            "There is nothing to show.",
        )
    } else {
        (
            "The plan is made and shown, and nothing is done.",
            "full",
            "Shows what changed, or would change in check mode.",
        )
    };
    let mode = |title, support, details| Mode {
        title,
        support,
        details,
    };
    [
        mode("Check mode", "full", check),
        mode("Diff mode", diff, details),
        mode("`async`", "full", "It needs Python on the target."),
    ]
}

fn documentation(entry: &Entry) -> anyhow::Result<Value> {
    let schema = entry.schema();
    let root = Node::root(&schema);
    let mut paragraphs = paragraphs(root.text("description").unwrap_or_default());
    anyhow::ensure!(
        !paragraphs.is_empty(),
        "{}: its parameters have no doc comment",
        entry.name
    );
    let short = paragraphs.remove(0);
    let short = short.trim_end_matches('.').to_owned();
    if paragraphs.is_empty() {
        paragraphs.push(format!("{short}."));
    }
    let [check, diff, _] = modes(entry);
    let mut document = json!({
        "module": entry.name,
        "short_description": short,
        "version_added": SINCE,
        "description": paragraphs,
        "author": ["Ondol contributors (@ondol)"],
        "options": options(root)?,
        "attributes": {
            "check_mode": {
                "description": "Can run in check mode and say what it would change.",
                "support": check.support,
                "details": [check.details],
            },
            "diff_mode": {
                "description": "Says what changed, or would change in check mode, when in diff mode.",
                "support": diff.support,
            },
            "async": {
                "description": "Can be run with the task keyword C(async); this needs Python on the target.",
                "support": "full",
            },
            "platform": {
                "description": "Systems the module runs on.",
                "support": "full",
                "platforms": "debian",
            },
        },
    });
    if entry.name == "facts"
        && let Some(attributes) = document["attributes"].as_object_mut()
    {
        attributes.insert(
            "facts".to_owned(),
            json!({"description": "Returns C(ansible_facts).", "support": "full"}),
        );
    }
    Ok(document)
}

fn options(node: Node<'_>) -> anyhow::Result<Value> {
    node.properties()
        .map(|(name, child)| {
            let mut description = description_of(child);
            anyhow::ensure!(!description.is_empty(), "{name}: no doc comment");
            let resolved = child.resolve();
            if child.is_secret() {
                description.push("The value is a secret and is never shown.".to_owned());
            }
            if let Some(choices) = resolved.choices() {
                description.extend(choices.iter().filter_map(|(word, text)| {
                    Some(format!("V({word}): {}", paragraphs((*text)?).join(" ")))
                }));
            }
            description.extend(keys_of_values(resolved));
            let mut option = Map::new();
            option.insert("description".to_owned(), json!(description));
            option.extend(kind(child)?);
            if node.requires(name) {
                option.insert("required".to_owned(), json!(true));
            }
            if let Some(default) = child.get("default").filter(|it| !it.is_null()) {
                option.insert("default".to_owned(), default.clone());
            }
            Ok((name.to_owned(), Value::Object(option)))
        })
        .collect::<anyhow::Result<Map<_, _>>>()
        .map(Value::Object)
}

/// A map with names of the user's choice has no suboptions in Ansible's eyes, so the keys of its values are told in words.
fn keys_of_values(node: Node<'_>) -> Vec<String> {
    let Some(value) = node.child("additionalProperties").map(Node::resolve) else {
        return Vec::new();
    };
    let mut keys: Vec<String> = value
        .properties()
        .map(|(name, child)| {
            let required = if value.requires(name) {
                ", required"
            } else {
                ""
            };
            let word = kind_word(child.resolve());
            let text = description_of(child).join(" ");
            format!("Key C({name}) ({word}{required}): {text}")
        })
        .collect();
    if !keys.is_empty() {
        keys.insert(0, "Each value is a map with these keys.".to_owned());
    }
    keys
}

/// Own paragraphs, or those of the type.
fn description_of(node: Node<'_>) -> Vec<String> {
    let text = node
        .text("description")
        .or_else(|| node.resolve().text("description"))
        .unwrap_or_default();
    paragraphs(text)
}

/// Ansible's name of a type.
pub(crate) fn kind_word(node: Node<'_>) -> &'static str {
    if node.choices().is_some() {
        return "str";
    }
    match node.kind() {
        Some("boolean") => "bool",
        Some("integer") => "int",
        Some("number") => "float",
        Some("string") => "str",
        Some("array") => "list",
        Some("object") => "dict",
        _ if !node.branches().is_empty() => "dict",
        _ => "raw",
    }
}

/// `type`, `elements`, `choices` and `suboptions` of an option.
fn kind(node: Node<'_>) -> anyhow::Result<Map<String, Value>> {
    let mut kind = Map::new();
    let node = node.resolve();
    if let Some(choices) = node.choices() {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        kind.insert("type".to_owned(), json!("str"));
        kind.insert("choices".to_owned(), json!(words));
        return Ok(kind);
    }
    kind.insert("type".to_owned(), json!(kind_word(node)));
    if let Some(items) = node.child("items") {
        let items = self::kind(items)?;
        kind.insert(
            "elements".to_owned(),
            items.get("type").cloned().unwrap_or_else(|| json!("raw")),
        );
        for key in ["suboptions", "choices"] {
            if let Some(value) = items.get(key) {
                kind.insert(key.to_owned(), value.clone());
            }
        }
    }
    if node.properties().next().is_some() {
        kind.insert("suboptions".to_owned(), options(node)?);
    }
    Ok(kind)
}

fn returns(entry: &Entry) -> Value {
    let Some(schema) = entry.answer_schema() else {
        return json!({
            "steps": {
                "description": STEPS,
                "returned": "always",
                "type": "list",
                "elements": "str",
                "sample": [],
            },
        });
    };
    returned(Node::root(&schema))
}

fn returned(node: Node<'_>) -> Value {
    node.properties()
        .map(|(name, child)| {
            let resolved = child.resolve();
            let mut description = description_of(child);
            if description.is_empty() {
                // The name says it; Ansible wants a sentence.
                description.push(format!("The {}.", name.replace('_', " ")));
            }
            let mut entry = Map::new();
            entry.insert("description".to_owned(), json!(description));
            let always = node.requires(name);
            entry.insert(
                "returned".to_owned(),
                json!(if always { "always" } else { "when it applies" }),
            );
            entry.insert("type".to_owned(), json!(kind_word(resolved)));
            let mut inner = resolved;
            if let Some(items) = resolved.child("items").map(Node::resolve) {
                entry.insert("elements".to_owned(), json!(kind_word(items)));
                inner = items;
            }
            if inner.properties().next().is_some() {
                entry.insert("contains".to_owned(), returned(inner));
            }
            (name.to_owned(), Value::Object(entry))
        })
        .collect::<Map<_, _>>()
        .into()
}

/// Blank lines part paragraphs; the line breaks within one mean nothing.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = String> {
    text.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
}

fn paragraphs(text: &str) -> Vec<String> {
    lines(text).map(|line| code_marks(&line)).collect()
}

/// Rust's back quotes in Ansible's markup. `C()` has no escape for a parenthesis, so such code is quoted instead.
fn code_marks(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return text.to_owned();
    }
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| match (index % 2, part.contains(')')) {
            (0, _) => (*part).to_owned(),
            (_, false) => format!("C({part})"),
            (_, true) => format!("\"{part}\""),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_and_mean_the_same() {
        let words = "word ".repeat(60);
        let value = json!({"a": {"list": [words.trim(), format!("it's: {words}end # of"), "- x"]}});
        let text = yaml(&value).expect("the same");
        assert!(text.lines().count() > 6, "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    }

    #[test]
    fn words_that_are_booleans_to_ansible_are_quoted() {
        let value = json!({"choices": ["on", "off", "warn", "n"], "default": "off", "required": true, "text": "on and off"});
        let text = yaml(&value).unwrap();
        assert_eq!(
            text,
            "choices:\n- 'on'\n- 'off'\n- warn\n- 'n'\ndefault: 'off'\nrequired: true\ntext: on and off\n"
        );
    }

    #[test]
    fn a_line_break_in_a_paragraph_means_nothing() {
        assert_eq!(
            paragraphs("one\n  two `a\nb`\n\nthree"),
            ["one two C(a b)", "three"]
        );
    }

    #[test]
    fn back_quotes_become_markup() {
        for (text, marked) in [
            ("plain", "plain"),
            ("the `a` of `b`", "the C(a) of C(b)"),
            ("call `f(x)`", "call \"f(x)\""),
            ("a lone ` stays", "a lone ` stays"),
        ] {
            assert_eq!(code_marks(text), marked);
        }
    }
}
