//! What a module author implements. Nothing here runs.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt::Display;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// A module that brings something on the machine to a desired state.
///
/// The kit calls `observe`, then `plan`, then `apply` for each step, and observes again until `plan` returns nothing. In
/// check mode it stops before `apply`; a module cannot tell the difference.
pub trait Module: Default {
    /// Name without the collection: `host_identity`.
    const NAME: &'static str;
    /// Tasks in YAML for the documentation, using the full name `ondol.cloud.<NAME>`.
    const EXAMPLES: &'static str;
    /// How often steps may be planned before the kit says that the module did not converge.
    const ROUNDS: usize = 1;

    /// What a playbook may say. Its doc comments are the user's documentation: the first paragraph of the struct's is
    /// the short description. Must deny unknown fields.
    type Params: DeserializeOwned + JsonSchema;
    /// `Params` after checking: illegal combinations cannot be written down. May be `Params` itself.
    type Desired: TryFrom<Self::Params, Error: Into<Invalid>>;
    /// A plain value; names, sets and units are normalised when read.
    type Current;
    /// One act with every choice made. Its `Display` is its line in the diff.
    type Step: Display;

    fn observe(&mut self, desired: &Self::Desired) -> anyhow::Result<Self::Current>;
    /// Only what is possible now, in the order of application; empty when nothing is left to do.
    fn plan(desired: &Self::Desired, current: &Self::Current) -> Vec<Self::Step>;
    fn apply(&mut self, step: &Self::Step) -> anyhow::Result<()>;

    /// Texts to show for `--diff` in place of the step lines: whole files before and after. Called only when steps
    /// exist.
    fn diff(_desired: &Self::Desired, _current: &Self::Current) -> Vec<TextDiff> {
        Vec::new()
    }

    /// Collected once, after the last step.
    fn notices(&mut self) -> Notices {
        Notices::default()
    }
}

/// A module that only looks: never changed, and the same in check mode.
pub trait Probe: Default {
    const NAME: &'static str;
    const EXAMPLES: &'static str;

    type Params: DeserializeOwned + JsonSchema;
    type Desired: TryFrom<Self::Params, Error: Into<Invalid>>;
    /// Becomes the keys of the result, so it must serialize as a map, without a key of [`crate::RESERVED`]. Its doc
    /// comments document the return values.
    type Answer: Serialize + JsonSchema;

    /// An `Err` is a probe that could not look. What it saw and did not like is a [`Finding`] that failed.
    fn probe(&mut self, desired: &Self::Desired) -> anyhow::Result<Finding<Self::Answer>>;
}

/// What a probe saw. With `failure` the task fails, and the answer is still in the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding<A> {
    pub answer: A,
    pub failure: Option<String>,
    pub notices: Notices,
}

impl<A> Finding<A> {
    pub fn good(answer: A) -> Self {
        Self {
            answer,
            failure: None,
            notices: Notices::default(),
        }
    }

    pub fn bad(answer: A, message: impl Into<String>) -> Self {
        Self {
            answer,
            failure: Some(message.into()),
            notices: Notices::default(),
        }
    }

    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.notices.warnings.push(warning.into());
        self
    }
}

/// Lines that Ansible shows beside the result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notices {
    pub warnings: Vec<String>,
    /// Each is shown with the collection's name and version.
    pub deprecations: Vec<String>,
}

/// One text before and after, shown as a unified diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TextDiff {
    pub before: String,
    pub after: String,
    pub before_header: String,
    pub after_header: String,
}

impl TextDiff {
    /// `name` heads both sides; usually a path.
    pub fn new(name: &str, before: impl Into<String>, after: impl Into<String>) -> Self {
        Self {
            before: before.into(),
            after: after.into(),
            before_header: name.to_owned(),
            after_header: name.to_owned(),
        }
    }
}

/// A parameter whose value is of the right type and still cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {reason}")]
pub struct Invalid {
    /// Path of the parameter: `ethernets.enp0s3.mtu`.
    pub param: Cow<'static, str>,
    pub reason: String,
}

impl Invalid {
    pub fn new(param: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            reason: reason.into(),
        }
    }
}

/// Lets `Desired` be `Params` itself.
impl From<Infallible> for Invalid {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
