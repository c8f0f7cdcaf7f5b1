//! What a provider tells the user: errors and warnings, each with a summary, a detail and the attribute they concern.
//! It does not print or log them; Terraform does.

use std::fmt;

use crate::Path;
use crate::proto::tfplugin6 as wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One message for the user. `summary` is one line; `detail` says what was found, in the tool's own words, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub summary: String,
    pub detail: String,
    pub path: Path,
}

impl Diagnostic {
    pub fn error(summary: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            summary: summary.into(),
            detail: String::new(),
            path: Path::root(),
        }
    }

    pub fn warning(summary: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(summary)
        }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Names the attribute, so that Terraform shows the line of the configuration.
    #[must_use]
    pub fn at(mut self, path: Path) -> Self {
        self.path = path;
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    pub(crate) fn to_wire(&self) -> wire::Diagnostic {
        use wire::diagnostic::Severity as Wire;
        wire::Diagnostic {
            severity: match self.severity {
                Severity::Error => Wire::Error,
                Severity::Warning => Wire::Warning,
            }
            .into(),
            summary: self.summary.clone(),
            detail: self.detail.clone(),
            attribute: self.path.to_wire(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.summary)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// The outermost context becomes the summary, the whole chain the detail.
impl From<anyhow::Error> for Diagnostic {
    fn from(error: anyhow::Error) -> Self {
        let summary = error.to_string();
        let chain = format!("{error:#}");
        let detail = if chain == summary {
            String::new()
        } else {
            chain
        };
        Self::error(summary).detail(detail)
    }
}

/// Diagnostics in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, diagnostic: impl Into<Diagnostic>) {
        self.0.push(diagnostic.into());
    }

    /// An error about one attribute.
    pub fn error(&mut self, path: Path, summary: impl Into<String>, detail: impl Into<String>) {
        self.push(Diagnostic::error(summary).detail(detail).at(path));
    }

    /// A warning about one attribute.
    pub fn warning(&mut self, path: Path, summary: impl Into<String>, detail: impl Into<String>) {
        self.push(Diagnostic::warning(summary).detail(detail).at(path));
    }

    pub fn has_error(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// `Err` with everything found if there is an error among it.
    pub fn into_result(self) -> Result<(), Self> {
        if self.has_error() { Err(self) } else { Ok(()) }
    }

    pub(crate) fn into_wire(self) -> Vec<wire::Diagnostic> {
        self.0.iter().map(Diagnostic::to_wire).collect()
    }
}

impl<D: Into<Diagnostic>> From<D> for Diagnostics {
    fn from(diagnostic: D) -> Self {
        Self(vec![diagnostic.into()])
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, more: I) {
        self.0.extend(more);
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, diagnostic) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::path;

    #[test]
    fn an_error_chain_keeps_every_link() {
        let error = std::fs::read("/nonexistent/file")
            .context("read the key")
            .expect_err("the file does not exist");
        let diagnostic = Diagnostic::from(error);
        assert_eq!(diagnostic.summary, "read the key");
        assert!(diagnostic.detail.contains("No such file"), "{diagnostic:?}");
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let mut all = Diagnostics::new();
        all.warning(path!["a"], "careful", "");
        assert!(!all.has_error());
        all.error(path!["b"], "broken", "because");
        assert_eq!(all.to_string(), "a: careful\nb: broken: because");
        assert!(all.into_result().is_err());
    }
}
