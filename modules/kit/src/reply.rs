//! The two JSON documents of a call: the arguments that Ansible sends and the result that it reads.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::converge::{Mode, Outcome};
use crate::module::{Finding, Notices};
use crate::redact::Redactor;

/// Keys of a result that Ansible or the kit gives a meaning to; an answer may not use them.
pub const RESERVED: &[&str] = &[
    "add_group",
    "add_host",
    "ansible_job_id",
    "attempts",
    "censored",
    "changed",
    "deprecations",
    "diff",
    "exception",
    "failed",
    "failed_when_result",
    "finished",
    "invocation",
    "item",
    "msg",
    "rc",
    "results",
    "results_file",
    "retries",
    "skip_reason",
    "skipped",
    "started",
    "stderr",
    "stderr_lines",
    "stdout",
    "stdout_lines",
    "steps",
    "unreachable",
    "until",
    "warnings",
];

const PREFIX: &str = "_ansible_";
const COLLECTION: &str = "ondol.cloud";

/// What Ansible asked for.
#[derive(Clone, Default)]
pub struct Call {
    /// `_ansible_module_name`, without the collection.
    pub module: Option<String>,
    /// The user's arguments, undecoded.
    pub args: Map<String, Value>,
    pub check: bool,
    pub diff: bool,
    pub no_log: bool,
    pub verbosity: u64,
    /// The task's `environment:`, from the collection's action plugin only; the stock path sets it by itself.
    pub environment: Vec<(String, String)>,
}

/// Without arguments and environment: what is secret among them is not known here.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("module", &self.module)
            .field("check", &self.check)
            .field("diff", &self.diff)
            .field("no_log", &self.no_log)
            .field("verbosity", &self.verbosity)
            .finish_non_exhaustive()
    }
}

impl Call {
    /// `text` is the JSON object that Ansible sends. The error never quotes it: it may hold secrets.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            anyhow::anyhow!(
                "arguments are not JSON (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let Value::Object(all) = value else {
            anyhow::bail!("arguments are not a JSON object");
        };
        let mut call = Self::default();
        for (key, value) in all {
            let Some(own) = key.strip_prefix(PREFIX) else {
                call.args.insert(key, value);
                continue;
            };
            let yes = value.as_bool().unwrap_or(false);
            match own {
                "module_name" => {
                    call.module = value.as_str().map(|name| short_name(name).to_owned());
                }
                "check_mode" => call.check = yes,
                "diff" => call.diff = yes,
                "no_log" => call.no_log = yes,
                "ondol_environment" => {
                    let Value::Object(variables) = value else {
                        continue;
                    };
                    call.environment.extend(
                        variables
                            .into_iter()
                            .filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())))
                            .filter(|(name, value)| {
                                !name.is_empty()
                                    && !name.contains(['=', '\0'])
                                    && !value.contains('\0')
                            }),
                    );
                }
                "verbosity" => call.verbosity = value.as_u64().unwrap_or(0),
                // The set grows with every ansible-core; what the kit does not know does not concern it.
                _ => {}
            }
        }
        Ok(call)
    }

    /// Reads and parses the file that Ansible's stock path passes as the only argument.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read arguments {}", path.display()))?;
        Self::parse(&text)
    }

    pub(crate) fn mode(&self) -> Mode {
        if self.check { Mode::Check } else { Mode::Apply }
    }
}

/// A module's name without the collection's.
pub(crate) fn short_name(name: &str) -> &str {
    name.strip_prefix(COLLECTION)
        .and_then(|rest| rest.strip_prefix('.'))
        .unwrap_or(name)
}

/// What a call returns to Ansible.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    body: Map<String, Value>,
}

impl Reply {
    /// The task failed before or without touching anything.
    pub fn failure(message: impl Into<String>) -> Self {
        let mut reply = Self { body: Map::new() };
        reply.set("changed", false);
        reply.fail(message);
        reply
    }

    pub(crate) fn of_outcome(outcome: Outcome, diff: bool) -> Self {
        let mut reply = Self { body: Map::new() };
        reply.set("changed", outcome.changed());
        if let Some(error) = &outcome.error {
            reply.fail(format!("{error:#}"));
        }
        if diff && outcome.changed() {
            let diff = if outcome.texts.is_empty() {
                json!({"prepared": outcome.steps.join("\n") + "\n"})
            } else {
                json!(outcome.texts)
            };
            reply.set("diff", diff);
        }
        reply.set("steps", outcome.steps);
        reply.note(outcome.notices);
        reply
    }

    pub(crate) fn of_finding(finding: Finding<Value>) -> Self {
        let mut reply = Self { body: Map::new() };
        reply.set("changed", false);
        match finding.answer {
            Value::Object(answer) => {
                if let Some(key) = answer.keys().find(|key| is_reserved(key)) {
                    return Self::failure(format!(
                        "bug in the module: its answer uses the reserved key {key:?}"
                    ));
                }
                reply.body.extend(answer);
            }
            _ => return Self::failure("bug in the module: its answer is not a map"),
        }
        if let Some(message) = finding.failure {
            reply.fail(message);
        }
        reply.note(finding.notices);
        reply
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.body.insert(key.to_owned(), value.into());
    }

    fn fail(&mut self, message: impl Into<String>) {
        self.set("failed", true);
        self.set("msg", message.into());
    }

    pub(crate) fn note(&mut self, notices: Notices) {
        self.extend_list("warnings", notices.warnings.into_iter().map(Value::from));
        self.extend_list(
            "deprecations",
            notices
                .deprecations
                .into_iter()
                .map(|msg| json!({"msg": msg, "version": "2.0.0", "collection_name": COLLECTION})),
        );
    }

    fn extend_list(&mut self, key: &str, items: impl Iterator<Item = Value>) {
        let mut items = items.peekable();
        if items.peek().is_none() {
            return;
        }
        let list = self
            .body
            .entry(key)
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.extend(items);
        }
    }

    /// `echo` is the arguments with secrets masked.
    pub(crate) fn echo(&mut self, echo: Value) {
        self.set("invocation", json!({"module_args": echo}));
    }

    pub(crate) fn redact(&mut self, redactor: &Redactor) {
        for value in self.body.values_mut() {
            redactor.value(value);
        }
    }

    pub fn failed(&self) -> bool {
        self.body.get("failed") == Some(&Value::Bool(true))
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.body.get(key)
    }

    /// One line of JSON.
    pub fn to_line(&self) -> String {
        Value::Object(self.body.clone()).to_string()
    }
}

pub(crate) fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key) || key.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ansibles_own_keys_are_taken_out_and_unknown_ones_ignored() {
        let call = Call::parse(
            r#"{"a": 1, "_ansible_check_mode": true, "_ansible_module_name": "ondol.cloud.facts",
                "_ansible_verbosity": 3, "_ansible_from_the_future": [], "_ansible_no_log": true}"#,
        )
        .expect("valid");
        assert_eq!(Value::Object(call.args.clone()), json!({"a": 1}));
        assert_eq!(call.module.as_deref(), Some("facts"));
        assert_eq!(
            (call.check, call.diff, call.no_log, call.verbosity),
            (true, false, true, 3)
        );
    }

    #[test]
    fn broken_arguments_are_not_quoted() {
        let error = Call::parse("{\"password\": \"hunter2\"").expect_err("broken");
        assert_eq!(
            error.to_string(),
            "arguments are not JSON (line 1, column 22)"
        );
    }

    #[test]
    fn an_answer_may_not_pose_as_ansible() {
        for key in ["failed", "results", "_ansible_verbose_always"] {
            let reply = Reply::of_finding(Finding::good(json!({key: 1})));
            assert!(reply.failed(), "{key}");
        }
        assert!(Reply::of_finding(Finding::good(json!([]))).failed());
        assert!(!Reply::of_finding(Finding::good(json!({"matrix": []}))).failed());
    }
}
