//! A module's page of the reference in Markdown, from the schema that Ansible's documentation is made of. It writes no
//! files, and knows nothing of the pages around it.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::docs::{self, STEPS};
use crate::entry::Entry;
use crate::schema::Node;

/// `home` is the collection, `ondol.cloud`: another module of it is a page beside this one.
pub(crate) fn page(entry: &Entry, home: &str) -> anyhow::Result<String> {
    let page = Page { home };
    let schema = entry.schema();
    let root = Node::root(&schema);
    let mut text = format!("# {home}.{} (module)\n", entry.name);
    for paragraph in page.paragraphs(root) {
        let _ = write!(text, "\n{}\n", ended(&paragraph));
    }
    for (title, wanted) in [
        ("Required parameters", true),
        ("Optional parameters", false),
    ] {
        let mut items = String::new();
        for (name, child) in root.properties() {
            if root.requires(name) == wanted {
                page.parameter(&mut items, name, child, None)?;
            }
        }
        if !items.is_empty() {
            let _ = write!(text, "\n## {title}\n\n{items}");
        }
    }
    text += "\n## Modes\n\n";
    for mode in docs::modes(entry) {
        let _ = writeln!(text, "- {}: {}. {}", mode.title, mode.support, mode.details);
    }
    text += "\n## Return values\n\n";
    match entry.answer_schema() {
        Some(schema) => page.returned(&mut text, Node::root(&schema), 0),
        None => {
            let _ = writeln!(text, "- `steps` (list(str), always) {}", STEPS.join(" "));
        }
    }
    let _ = write!(
        text,
        "\n## Example\n\n```yaml\n{}\n```\n",
        entry.examples.trim()
    );
    Ok(text)
}

/// The first paragraph alone, as a sentence.
pub(crate) fn summary(entry: &Entry, home: &str) -> String {
    let schema = entry.schema();
    let paragraphs = Page { home }.paragraphs(Node::root(&schema));
    ended(paragraphs.first().map_or("", String::as_str))
}

struct Page<'a> {
    home: &'a str,
}

impl Page<'_> {
    /// A parameter as an item of a list, and its own ones as a list in it. `need` is the depth and whether it must be
    /// given; none at the top, where the heading says it.
    fn parameter(
        &self,
        text: &mut String,
        name: &str,
        node: Node<'_>,
        need: Option<(usize, bool)>,
    ) -> anyhow::Result<()> {
        let resolved = node.resolve();
        let mut facts = vec![kind(resolved)];
        if let Some((_, required)) = need {
            facts.push(if required { "required" } else { "optional" }.to_owned());
        }
        if let Some(default) = node.get("default").filter(|it| says_something(it)) {
            facts.push(format!("default `{}`", plain(default)));
        }
        if node.is_secret() {
            facts.push("secret: never shown".to_owned());
        }
        if node.get("deprecated") == Some(&Value::Bool(true)) {
            facts.push("deprecated".to_owned());
        }
        let mut sentences = self.description(node);
        anyhow::ensure!(!sentences.is_empty(), "{name}: no doc comment");
        let choices = resolved.choices().unwrap_or_default();
        let explained = choices.iter().any(|(_, text)| text.is_some());
        if !choices.is_empty() && !explained {
            let words: Vec<String> = choices.iter().map(|it| format!("`{}`", it.0)).collect();
            sentences.push(format!("One of {}.", words.join(", ")));
        }
        sentences.extend(constraints(resolved));
        let depth = need.map_or(0, |(depth, _)| depth);
        let indent = "  ".repeat(depth);
        let _ = writeln!(
            text,
            "{indent}- `{name}` ({}) {}",
            facts.join(", "),
            sentences.join(" ")
        );
        if explained {
            for (word, told) in choices {
                let item = format!(
                    "{indent}  - `{word}`: {}",
                    self.inline(told.unwrap_or_default())
                );
                let _ = writeln!(text, "{}", item.trim_end_matches([' ', ':']));
            }
        }
        let within = inner(resolved);
        for (name, child) in within.properties() {
            self.parameter(text, name, child, Some((depth + 1, within.requires(name))))?;
        }
        Ok(())
    }

    fn returned(&self, text: &mut String, node: Node<'_>, depth: usize) {
        for (name, child) in node.properties() {
            let resolved = child.resolve();
            let when = match (node.requires(name), may_be_null(child)) {
                (true, true) => " or null, always",
                (true, false) => ", always",
                (false, _) => ", when it applies",
            };
            let item = format!(
                "{:indent$}- `{name}` ({}{when}) {}",
                "",
                kind(resolved),
                self.description(child).join(" "),
                indent = depth * 2
            );
            let _ = writeln!(text, "{}", item.trim_end());
            self.returned(text, inner(resolved), depth + 1);
        }
    }

    /// Own paragraphs, or those of the type.
    fn description(&self, node: Node<'_>) -> Vec<String> {
        let own = self.paragraphs(node);
        if own.is_empty() {
            return self.paragraphs(node.resolve());
        }
        own
    }

    fn paragraphs(&self, node: Node<'_>) -> Vec<String> {
        docs::lines(node.text("description").unwrap_or_default())
            .map(|line| self.inline(&line))
            .collect()
    }

    /// Ansible's markup as Markdown. What stands in back quotes is Markdown already.
    fn inline(&self, text: &str) -> String {
        let parts: Vec<&str> = text.split('`').collect();
        if parts.len().is_multiple_of(2) {
            return self.prose(text);
        }
        let mut markdown = String::new();
        for (index, part) in parts.iter().enumerate() {
            markdown += &if index % 2 == 0 {
                self.prose(part)
            } else {
                format!("`{part}`")
            };
        }
        markdown
    }

    fn prose(&self, text: &str) -> String {
        let mut markdown = String::new();
        let mut rest = text;
        let mut before = None;
        while let Some(letter) = rest.chars().next() {
            let word_begins = !before.is_some_and(char::is_alphanumeric);
            if let Some((mark, inside, after)) = macro_at(rest).filter(|_| word_begins) {
                markdown += &self.marked(mark, &inside);
                rest = after;
                before = Some(')');
                continue;
            }
            // Else it would begin a tag or an emphasis.
            if matches!(letter, '<' | '*' | '[') {
                markdown.push('\\');
            }
            markdown.push(letter);
            before = Some(letter);
            rest = &rest[letter.len_utf8()..];
        }
        markdown
    }

    fn marked(&self, mark: &str, inside: &str) -> String {
        match mark {
            "I" => format!("*{inside}*"),
            "B" => format!("**{inside}**"),
            "U" => format!("<{inside}>"),
            "L" => match inside.rsplit_once(',') {
                Some((words, address)) => format!("[{}]({})", words.trim(), address.trim()),
                None => inside.to_owned(),
            },
            "M" => {
                let ours = inside
                    .strip_prefix(self.home)
                    .and_then(|rest| rest.strip_prefix('.'));
                match ours {
                    Some(name) => format!("[`{inside}`]({name}.md)"),
                    None => format!("`{inside}`"),
                }
            }
            _ => format!("`{inside}`"),
        }
    }
}

/// `C(text)` and its like at the start of `text`: the mark, what it holds, and what follows. In the newer ones a
/// backslash takes the meaning of a parenthesis away
/// (<https://docs.ansible.com/ansible/latest/dev_guide/ansible_markup.html>).
fn macro_at(text: &str) -> Option<(&'static str, String, &str)> {
    const MARKS: [(&str, bool); 10] = [
        ("RV", true),
        ("C", false),
        ("O", true),
        ("V", true),
        ("E", true),
        ("M", false),
        ("I", false),
        ("B", false),
        ("U", false),
        ("L", false),
    ];
    let (mark, escapes) = MARKS
        .into_iter()
        .find(|(mark, _)| text.starts_with(mark) && text[mark.len()..].starts_with('('))?;
    let mut inside = String::new();
    let mut letters = text[mark.len() + 1..].char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            ')' => return Some((mark, inside, &text[mark.len() + 1 + at + 1..])),
            '\\' if escapes => inside.extend(letters.next().map(|(_, letter)| letter)),
            _ => inside.push(letter),
        }
    }
    None
}

/// Ansible's word for the type, with the type of what it holds.
fn kind(node: Node<'_>) -> String {
    let of = |container: &str, child: Node<'_>| {
        let child = child.resolve();
        if child.properties().next().is_some() {
            format!("{container} of dicts")
        } else {
            format!("{container}({})", kind(child))
        }
    };
    if let Some(items) = node.child("items") {
        return of("list", items);
    }
    // `false` there says that no other keys are allowed.
    match node.child("additionalProperties") {
        Some(value) if value.here.is_object() && node.properties().next().is_none() => {
            of("map", value)
        }
        _ => docs::kind_word(node).to_owned(),
    }
}

/// An optional value that is written although it is not there.
fn may_be_null(node: Node<'_>) -> bool {
    let null = json!("null");
    match node.get("type") {
        Some(Value::Array(names)) => names.contains(&null),
        Some(name) => *name == null,
        None => node.branches().into_iter().any(may_be_null),
    }
}

/// What has keys of its own: the value itself, or each element or value of it.
fn inner(node: Node<'_>) -> Node<'_> {
    if node.properties().next().is_some() {
        return node;
    }
    let held = ["items", "additionalProperties"]
        .into_iter()
        .find_map(|key| node.child(key).filter(|it| it.here.is_object()));
    held.map_or(node, |held| inner(held.resolve()))
}

/// The rules that the kit enforces beside the type, each as a sentence.
fn constraints(node: Node<'_>) -> Vec<String> {
    let number = |key: &str| node.get(key).filter(|it| it.is_number());
    let span = |low: Option<&Value>, high: Option<&Value>| match (low, high) {
        (Some(low), Some(high)) if low == high => Some(format!("{low}")),
        (Some(low), Some(high)) => Some(format!("from {low} to {high}")),
        (Some(low), None) => Some(format!("at least {low}")),
        (None, Some(high)) => Some(format!("at most {high}")),
        (None, None) => None,
    };
    let mut sentences = Vec::new();
    if let Some(range) = span(number("minimum"), number("maximum")) {
        sentences.push(format!("Must be {range}."));
    }
    if let Some(range) = span(number("minLength"), number("maxLength")) {
        sentences.push(format!("Its length must be {range}."));
    }
    if let Some(range) = span(number("minItems"), number("maxItems")) {
        sentences.push(format!("The number of elements must be {range}."));
    }
    if node.get("uniqueItems") == Some(&Value::Bool(true)) {
        sentences.push("No element may come twice.".to_owned());
    }
    // What an element must be is told where it has no item of its own.
    if let Some(items) = node.child("items").map(Node::resolve)
        && items.properties().next().is_none()
    {
        let choices = items.choices().unwrap_or_default();
        if !choices.is_empty() {
            let words: Vec<String> = choices.iter().map(|it| format!("`{}`", it.0)).collect();
            sentences.push(format!("Each is one of {}.", words.join(", ")));
        }
        let each = constraints(items).into_iter();
        sentences.extend(each.map(|sentence| format!("For each element: {}", lower(&sentence))));
    }
    sentences
}

fn lower(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

/// An empty list, map or text as a default says no more than "optional".
fn says_something(default: &Value) -> bool {
    match default {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => map.values().any(says_something),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// As it would be written in a playbook.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(plain).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

fn ended(paragraph: &str) -> String {
    if paragraph.is_empty() || paragraph.ends_with(['.', '?', '!', ':']) {
        return paragraph.to_owned();
    }
    format!("{paragraph}.")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Finding, Probe, Secret};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    #[test]
    fn markup_becomes_markdown() {
        for (text, markdown) in [
            ("plain", "plain"),
            ("C(a) and O(b=c), V(d)", "`a` and `b=c`, `d`"),
            ("I(so) B(much)", "*so* **much**"),
            ("RV(a.b) of E(HOME)", "`a.b` of `HOME`"),
            ("M(x.y.z) and M(other.z)", "[`x.y.z`](z.md) and `other.z`"),
            (
                "L(words, https://a.example/b) U(https://c.example)",
                "[words](https://a.example/b) <https://c.example>",
            ),
            (r"V(a\)b) C(c\)", r"`a)b` `c\`"),
            ("the `f(x)` of `*`", "the `f(x)` of `*`"),
            ("a <b> * [c]", r"a \<b> \* \[c]"),
            ("ABC(x), 1C(x)", "ABC(x), 1C(x)"),
            ("C(without end", "C(without end"),
            ("a lone ` stays", "a lone ` stays"),
            ("`code` in C(`x`)", "`code` in C(`x`)"),
        ] {
            assert_eq!(Page { home: "x.y" }.inline(text), markdown, "{text}");
        }
    }

    /// Sees to a thing
    ///
    /// As long as M(x.y.other) is there.
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Params {
        /// Which thing.
        #[schemars(length(min = 1, max = 8))]
        name: String,
        /// How many.
        #[serde(default = "three")]
        #[schemars(range(min = 1, max = 9))]
        count: u32,
        /// Opens it.
        key: Option<Secret>,
        /// What becomes of it.
        fate: Option<Fate>,
        /// Where it goes.
        side: Option<Side>,
        /// Parts by name.
        #[serde(default)]
        parts: BTreeMap<String, Part>,
        /// Numbers of doors.
        #[serde(default)]
        doors: Vec<u16>,
    }

    fn three() -> u32 {
        3
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Fate {
        /// It stays.
        Kept,
        /// It goes.
        Lost,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Side {
        Left,
        Right,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Part {
        /// Its weight.
        grams: u8,
        /// Its neighbours.
        #[serde(default)]
        beside: Vec<Neighbour>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Neighbour {
        /// Its name.
        name: Option<String>,
    }

    #[derive(Serialize, JsonSchema)]
    struct Answer {
        /// Every part that was seen.
        seen: Vec<Seen>,
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u32>,
        first: Option<Seen>,
    }

    /// An observed part.
    #[derive(Serialize, JsonSchema)]
    struct Seen {
        /// Its name.
        name: String,
    }

    #[derive(Default)]
    struct Look;

    impl Probe for Look {
        const NAME: &'static str = "look";
        const EXAMPLES: &'static str = "\n- x.y.look:\n    name: it\n";
        type Params = Params;
        type Desired = Params;
        type Answer = Answer;

        fn probe(&mut self, _: &Params) -> anyhow::Result<Finding<Answer>> {
            anyhow::bail!("nobody calls it")
        }
    }

    #[test]
    fn a_page_tells_all_that_the_schema_knows() {
        let page = page(&Entry::probe::<Look>(), "x.y").expect("a page");
        let wanted = "\
# x.y.look (module)

Sees to a thing.

As long as [`x.y.other`](other.md) is there.

## Required parameters

- `name` (str) Which thing. Its length must be from 1 to 8.

## Optional parameters

- `count` (int, default `3`) How many. Must be from 1 to 9.
- `key` (str, secret: never shown) Opens it.
- `fate` (str) What becomes of it.
  - `kept`: It stays.
  - `lost`: It goes.
- `side` (str) Where it goes. One of `left`, `right`.
- `parts` (map of dicts) Parts by name.
  - `grams` (int, required) Its weight. Must be from 0 to 255.
  - `beside` (list of dicts, optional) Its neighbours.
    - `name` (str, optional) Its name.
- `doors` (list(int)) Numbers of doors. For each element: must be from 0 to 65535.

## Modes

- Check mode: full. It changes nothing, so check mode makes no difference.
- Diff mode: none. There is nothing to show.
- `async`: full. It needs Python on the target.

## Return values

- `seen` (list of dicts, always) Every part that was seen.
  - `name` (str, always) Its name.
- `total` (int, when it applies)
- `first` (dict or null, always) An observed part.
  - `name` (str, always) Its name.

## Example

```yaml
- x.y.look:
    name: it
```
";
        assert_eq!(page, wanted);
        assert_eq!(summary(&Entry::probe::<Look>(), "x.y"), "Sees to a thing.");
    }

    #[test]
    fn a_default_that_says_nothing_is_not_told() {
        for (default, told) in [
            (json!(null), false),
            (json!([]), false),
            (json!({"a": [], "b": ""}), false),
            (json!(""), false),
            (json!(false), true),
            (json!(0), true),
            (json!([22]), true),
            (json!({"a": [1]}), true),
        ] {
            assert_eq!(says_something(&default), told, "{default}");
        }
        assert_eq!(plain(&json!(["all", 1])), "[all, 1]");
    }
}
