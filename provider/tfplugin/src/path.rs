//! The place of a value inside a resource: `disks["data"].size_mib`. It does not look values up.

use std::fmt;

use crate::proto::tfplugin6 as wire;

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// An attribute of an object.
    Attribute(String),
    /// An element of a map.
    Key(String),
    /// An element of a list or tuple, from 0.
    Index(u64),
    /// Some element of a set. The protocol has no name for it, so on the wire a path ends before this.
    Element,
}

/// Names a map's element in [`path!`](crate::path): `path!["disks", Key("data"), "size_mib"]`.
#[derive(Clone, Debug)]
pub struct Key<T>(pub T);

impl<T: Into<String>> From<Key<T>> for Step {
    fn from(Key(key): Key<T>) -> Self {
        Self::Key(key.into())
    }
}

impl From<&str> for Step {
    fn from(name: &str) -> Self {
        Self::Attribute(name.to_owned())
    }
}

impl From<String> for Step {
    fn from(name: String) -> Self {
        Self::Attribute(name)
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index as u64)
    }
}

/// Steps from the root of a resource, data source or provider configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(Vec<Step>);

impl Path {
    /// The whole value.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// This path and one step more.
    #[must_use]
    pub fn child(&self, step: impl Into<Step>) -> Self {
        let mut steps = self.0.clone();
        steps.push(step.into());
        Self(steps)
    }

    /// Adds the step that leads to where this path begins. Errors that travel outward call it.
    pub(crate) fn push_front(&mut self, step: Step) {
        self.0.insert(0, step);
    }

    pub(crate) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    /// `None` for the root, which the protocol expresses by leaving the path out.
    pub(crate) fn to_wire(&self) -> Option<wire::AttributePath> {
        use wire::attribute_path::step::Selector;
        let steps: Vec<_> = self
            .0
            .iter()
            .map_while(|step| {
                let selector = match step {
                    Step::Attribute(name) => Selector::AttributeName(name.clone()),
                    Step::Key(key) => Selector::ElementKeyString(key.clone()),
                    Step::Index(index) => Selector::ElementKeyInt(i64::try_from(*index).ok()?),
                    Step::Element => return None,
                };
                Some(wire::attribute_path::Step {
                    selector: Some(selector),
                })
            })
            .collect();
        (!steps.is_empty()).then_some(wire::AttributePath { steps })
    }
}

impl FromIterator<Step> for Path {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Attribute(name) if position == 0 => f.write_str(name)?,
                Step::Attribute(name) => write!(f, ".{name}")?,
                Step::Key(key) => write!(f, "[{key:?}]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Element => f.write_str("[*]")?,
            }
        }
        Ok(())
    }
}

/// Builds a [`Path`](crate::Path): text is an attribute, a `usize` an element of a list, [`Key`](crate::Key) an element of a map.
///
/// ```
/// use tfplugin::{Key, path};
/// assert_eq!(path!["disks", Key("data"), "size_mib"].to_string(), r#"disks["data"].size_mib"#);
/// assert_eq!(path!["interfaces", 0usize].to_string(), "interfaces[0]");
/// ```
#[macro_export]
macro_rules! path {
    ($($step:expr),* $(,)?) => {
        <$crate::Path as ::core::iter::FromIterator<$crate::Step>>::from_iter([$($crate::Step::from($step)),*])
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_on_the_wire_ends_where_a_set_begins() {
        let mut path = path!["rules"];
        path.push(Step::Element);
        path.push(Step::Attribute("port".into()));
        assert_eq!(path.to_string(), "rules[*].port");
        assert_eq!(path.to_wire().expect("not the root").steps.len(), 1);
        assert_eq!(Path::root().to_wire(), None);
    }
}
