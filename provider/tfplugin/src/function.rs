//! The contract of a provider's function: pure, of its arguments alone.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A function that configurations call as `provider::NAME::FUNCTION(...)`.
pub trait Function: Send + Sync + 'static {
    /// The parameters, in the order of the struct's fields. `Attr` and `Option` allow null; see also
    /// [`attribute::variadic`](crate::attribute::variadic) and [`attribute::allow_unknown`](crate::attribute::allow_unknown).
    type Arguments: DeserializeOwned + JsonSchema + Send + 'static;
    type Output: Serialize + JsonSchema + 'static;

    const NAME: &'static str;
    /// One line for the reference; the arguments' doc comment is the description.
    const SUMMARY: &'static str;

    fn call(arguments: Self::Arguments) -> Result<Self::Output, FunctionError>;
}

/// Why a function has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError {
    /// The field of `Arguments` that is at fault.
    pub argument: Option<&'static str>,
    pub text: String,
}

impl FunctionError {
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            argument: None,
            text: text.into(),
        }
    }

    /// An error that names the argument by its field.
    pub fn argument(argument: &'static str, text: impl Into<String>) -> Self {
        Self {
            argument: Some(argument),
            text: text.into(),
        }
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(argument) = self.argument {
            write!(f, "{argument}: ")?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for FunctionError {}
