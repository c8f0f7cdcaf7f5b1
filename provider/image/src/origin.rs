//! Where packages come from: the recipe's sources or this machine's own, with their keys and what apt needs to reach them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use ondol_mirror::apt::sources::{self, Release, SignedBy, Source};

use crate::bootstrap;
use crate::error::{Error, Result};
use crate::recipe::Recipe;

#[derive(Debug)]
pub(crate) struct Origin {
    /// The suite itself first.
    pub sources: Vec<Source>,
    /// Where a source's inline key was put; none for the others.
    pub keys: Vec<Option<String>>,
    /// `Key "value"`.
    pub apt_options: Vec<String>,
}

impl Origin {
    /// Inline keys are put into `dir`.
    pub(crate) fn of(recipe: &Recipe, dir: &Path) -> Result<Self> {
        let sources = match &recipe.apt_sources {
            Some(text) => given(text),
            None => of_this_machine(recipe)?,
        };
        let mut keys = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            keys.push(match &source.signed_by {
                SignedBy::Inline(key) => {
                    let path = dir.join(format!("key-{index}.asc"));
                    fs::write(&path, key)
                        .map_err(|error| Error::io(format!("write {}", path.display()), error))?;
                    Some(path.display().to_string())
                }
                _ => None,
            });
        }
        Ok(Self {
            sources,
            keys,
            apt_options: bootstrap::fetch_options(&apt_config()?),
        })
    }

    /// One line each, as sources.list has them.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.sources
            .iter()
            .zip(&self.keys)
            .map(|(source, key)| source.line(key.as_deref()))
            .collect()
    }

    /// Whether some of it is a directory of this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.sources
            .iter()
            .any(|source| source.uri.starts_with("copy:"))
    }
}

/// The text has been checked. With `file:` apt would hand dpkg a path that the new root does not have.
fn given(text: &str) -> Vec<Source> {
    let mut sources = sources::parse_deb822(text);
    for source in &mut sources {
        if let Some(path) = source.uri.strip_prefix("file:") {
            source.uri = format!("copy:{path}");
        }
    }
    sources
}

fn of_this_machine(recipe: &Recipe) -> Result<Vec<Source>> {
    let known: Vec<(Source, Release)> = machine_sources()?
        .into_iter()
        .map(|source| {
            let release = machine_release(&source);
            (source, release)
        })
        .collect();
    let distribution = recipe.distribution.to_string();
    let chosen = sources::select(&known, &distribution, &recipe.suite);
    if chosen.is_empty() {
        return Err(Error::UnknownSuite {
            distribution,
            suite: recipe.suite.clone(),
            available: sources::available(&known),
        });
    }
    Ok(chosen)
}

fn machine_sources() -> Result<Vec<Source>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = Path::new("/etc/apt/sources.list.d");
    match fs::read_dir(parts) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            files.extend(paths);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(format!("list {}", parts.display()), error)),
    }
    let mut sources = Vec::new();
    for path in files {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources::parse_list,
            Some("sources") => sources::parse_deb822,
            _ => continue,
        };
        match fs::read_to_string(&path) {
            Ok(text) => sources.extend(parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
        }
    }
    Ok(sources)
}

/// What apt last fetched of the source's Release file, if anything.
fn machine_release(source: &Source) -> Release {
    let stem = source.release_file_stem();
    ["InRelease", "Release"]
        .iter()
        .find_map(|end| fs::read_to_string(format!("/var/lib/apt/lists/{stem}{end}")).ok())
        .map_or_else(Release::default, |text| sources::parse_release(&text))
}

fn apt_config() -> Result<String> {
    let output = Command::new("apt-config")
        .arg("dump")
        .output()
        .map_err(|error| {
            Error::io(
                "read this machine's apt configuration with apt-config",
                error,
            )
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_copied_from_and_a_web_server_is_left_as_it_is() {
        let text = "\
Types: deb
URIs: file:/srv/mirror copy:///srv/other http://mirror.example/debian
Suites: bookworm
Components: main
";
        let uris: Vec<String> = given(text).into_iter().map(|source| source.uri).collect();
        assert_eq!(
            uris,
            [
                "copy:/srv/mirror",
                "copy:///srv/other",
                "http://mirror.example/debian"
            ]
        );
    }
}
