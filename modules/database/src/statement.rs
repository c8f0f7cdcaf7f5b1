//! SQL as a step, and the thing that it is about. How it is run is each product's own.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

/// One act in SQL, its names quoted.
#[derive(Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its line in the diff.
    pub says: String,
    pub sql: String,
    /// Whether `sql` holds what must not be shown.
    pub secret: bool,
}

impl Statement {
    pub fn new(says: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            says: says.into(),
            sql: sql.into(),
            secret: false,
        }
    }

    #[must_use]
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.says)
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sql = if self.secret { "***" } else { &self.sql };
        write!(f, "{}: {sql}", self.says)
    }
}

/// What is there of the thing that a task is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// Not even the server, certainly.
    NoServer,
    Absent,
    Present(T),
}

impl<T> Found<T> {
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(it) => Some(it),
            Self::NoServer | Self::Absent => None,
        }
    }
}

/// Whether a named thing shall be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    #[default]
    Present,
    Absent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_in_nothing_that_is_printed() {
        let statement = Statement::new("set the password of \"app\"", "PASSWORD 'hunter2'");
        assert!(format!("{statement:?}").contains("hunter2"));
        let printed = format!("{statement} {:?}", statement.clone().secret());
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
