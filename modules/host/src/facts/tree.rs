//! The machine's files, or a captured part of them in tests.

use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn machine() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }

    #[cfg(test)]
    pub(super) fn fixture(name: &str) -> Self {
        Self {
            root: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fixtures/facts")
                .join(name),
        }
    }

    /// `path` is absolute on the machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file. None if it is missing or may not be read: a fact that cannot be known is left out, as setup
    /// leaves it out.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The text without white space around it; none if that is empty.
    pub(super) fn line(&self, path: &str) -> Option<String> {
        let text = self.read(path)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The last part of what a symbolic link points to.
    pub(super) fn link_name(&self, path: &str) -> Option<String> {
        name_of(&fs::read_link(self.path(path)).ok()?)
    }

    /// Names in a folder, sorted; empty if there is none.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}
