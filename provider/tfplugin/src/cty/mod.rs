//! Terraform's values and their types, and the two ways they are written: [`msgpack`] on the wire, [`json`] in states.
//! Nothing here knows about models or schemas.

pub mod json;
pub mod msgpack;
mod number;
mod types;
mod value;

pub(crate) use number::BIG;
pub use number::Number;
pub use types::Type;
pub use value::{Refinement, Value};

use std::fmt;

use crate::path::{Path, Step};

/// How deep values and types may nest. The codec recurses, and a plugin must not overflow its stack on what it is sent.
pub const MAX_DEPTH: usize = 100;

/// A value that cannot be read or written, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    pub path: Path,
    /// A lowercase fragment.
    pub message: String,
}

impl ValueError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            path: Path::root(),
            message: message.into(),
        }
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ValueError {}

/// Adds to an error the step that leads to it.
pub(crate) trait Within {
    fn within(self, step: impl FnOnce() -> Step) -> Self;
}

impl<T> Within for Result<T, ValueError> {
    fn within(self, step: impl FnOnce() -> Step) -> Self {
        self.map_err(|mut error| {
            error.path.push_front(step());
            error
        })
    }
}

/// The depth one level down, if there is one.
fn deeper(depth: usize) -> Result<usize, ValueError> {
    if depth >= MAX_DEPTH {
        return Err(ValueError::new(format!(
            "it nests deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(depth + 1)
}

#[cfg(test)]
mod tests;
