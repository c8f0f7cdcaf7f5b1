//! The machine: a folder with a folder for each resource type, and a JSON file for each resource.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tfplugin::{Attr, Diagnostic, path};

pub(crate) struct Machine {
    directory: PathBuf,
    pub(crate) greeting: String,
}

impl Machine {
    pub(crate) fn new(directory: PathBuf, greeting: String) -> Self {
        Self {
            directory,
            greeting,
        }
    }

    fn place(&self, kind: &str, name: &str) -> PathBuf {
        self.directory.join(kind).join(format!("{name}.json"))
    }

    pub(crate) fn put(&self, kind: &str, name: &str, thing: &impl Serialize) -> anyhow::Result<()> {
        let place = self.place(kind, name);
        let folder = place.parent().expect("it was joined");
        std::fs::create_dir_all(folder)
            .with_context(|| format!("make the folder {}", folder.display()))?;
        let text = serde_json::to_vec_pretty(thing)
            .with_context(|| format!("describe {kind} {name:?}"))?;
        std::fs::write(&place, text).with_context(|| format!("write {}", place.display()))
    }

    /// `None` when it certainly does not exist.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        kind: &str,
        name: &str,
    ) -> anyhow::Result<Option<T>> {
        let place = self.place(kind, name);
        match std::fs::read(&place) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("read {}", place.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", place.display())),
        }
    }

    pub(crate) fn remove(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        let place = self.place(kind, name);
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", place.display()))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn list(&self, kind: &str) -> anyhow::Result<Vec<String>> {
        let folder = self.directory.join(kind);
        let mut names = Vec::new();
        match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(names),
            entries => {
                for entry in entries.with_context(|| format!("list {}", folder.display()))? {
                    let name = entry.context("list a file")?.file_name();
                    names.extend(
                        name.to_str()
                            .and_then(|name| name.strip_suffix(".json"))
                            .map(str::to_owned),
                    );
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// Writes a line to the machine's diary, which tests read.
    pub(crate) fn note(&self, line: &str) -> anyhow::Result<()> {
        use std::io::Write;
        let place = self.directory.join("diary");
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&place)
            .and_then(|mut file| writeln!(file, "{line}"))
            .with_context(|| format!("write {}", place.display()))
    }
}

/// The name that every resource here has.
pub(crate) fn named(name: &Attr<String>) -> Result<&str, Diagnostic> {
    name.require(path!["name"]).map(String::as_str)
}
