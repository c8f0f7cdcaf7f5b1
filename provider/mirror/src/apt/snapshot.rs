//! What is published: the manifest of a snapshot, and reading what is there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::select::{Entry, Missing};
use crate::digest::Digest;
use crate::error::{self, Result};

/// `manifest.json` of a snapshot: all that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this form: 1.
    pub format: u32,
    /// Time of its making and the beginning of its digest: `20250517T084629Z-1a2b3c4d5e6f`. Sorts by time.
    pub id: String,
    /// The same for the same content, wherever and whenever it was made.
    pub digest: Digest,
    pub name: String,
    pub suite: String,
    /// RFC 3339, UTC.
    pub created: String,
    pub components: Vec<String>,
    pub architectures: Vec<String>,
    /// Packages files, uncompressed, below `dists/<suite>`.
    pub indexes: Vec<Index>,
    pub packages: Vec<Entry>,
    pub missing: Vec<Missing>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub component: String,
    pub architecture: String,
    pub sha256: Digest,
}

impl Index {
    /// Below `dists/<suite>`, without `/Packages`.
    pub(crate) fn directory(&self) -> String {
        format!("{}/binary-{}", self.component, self.architecture)
    }
}

impl Manifest {
    pub(crate) const FORMAT: u32 = 1;

    pub fn size_bytes(&self) -> u64 {
        self.packages.iter().map(|entry| entry.size).sum()
    }

    pub(crate) fn read(snapshot: &Path) -> Result<Self> {
        let path = snapshot.join("manifest.json");
        let bytes = fs::read(&path)
            .map_err(|error| error::Error::io(format!("read {}", path.display()), error))?;
        Self::parse(&bytes, &path.display().to_string())
    }

    pub(crate) fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed {
            file: file.to_owned(),
            reason,
        };
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if manifest.format != Self::FORMAT {
            return Err(malformed(format!(
                "a manifest of form {}, made by another version of this program",
                manifest.format
            ))
            .into());
        }
        // An archive from elsewhere may say anything, and these become paths.
        let is_word = |text: &str| {
            !text.is_empty()
                && text
                    .split('/')
                    .all(|part| !part.is_empty() && !part.starts_with('.'))
        };
        let words = manifest
            .components
            .iter()
            .chain(&manifest.architectures)
            .chain(manifest.packages.iter().map(|entry| &entry.file))
            .chain(
                manifest
                    .indexes
                    .iter()
                    .flat_map(|index| [&index.component, &index.architecture]),
            )
            .chain([&manifest.suite]);
        for word in words {
            if !is_word(word) {
                return Err(malformed(format!("{word:?} is no path")).into());
            }
        }
        if !is_word(&manifest.id) || manifest.id.contains('/') {
            return Err(malformed(format!("{:?} is no snapshot's name", manifest.id)).into());
        }
        if manifest
            .packages
            .iter()
            .any(|entry| !entry.file.starts_with("pool/"))
        {
            return Err(malformed("a package outside of pool/".to_owned()).into());
        }
        Ok(manifest)
    }
}

/// What a sync answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: String,
    /// The same for the same content, wherever and whenever it was made.
    pub digest: Digest,
    pub name: String,
    pub suite: String,
    pub components: Vec<String>,
    pub architectures: Vec<String>,
    pub package_count: usize,
    pub size_bytes: u64,
    pub missing: Vec<Missing>,
    /// Path of the bill of materials: SPDX 2.3 as JSON.
    pub bom: PathBuf,
    /// Path of the manifest.
    pub manifest: PathBuf,
    /// The site's key, armoured.
    pub public_key: String,
    /// Whether this sync has published something new.
    pub changed: bool,
    /// Requests that this sync sent.
    pub requests: u64,
    /// Bytes that came over the line in this sync.
    pub bytes_received: u64,
}

impl Snapshot {
    /// The deb822 text for /etc/apt/sources.list.d, the key in it. `base_url` is where the served directory is seen, for example
    /// `http://192.168.10.11` or `file:/srv/mirror`.
    pub fn sources_text(&self, base_url: &str) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}/apt/{}/current\nSuites: {}\nComponents: {}\nArchitectures: {}\nSigned-By:\n",
            base_url.trim_end_matches('/'),
            self.name,
            self.suite,
            self.components.join(" "),
            self.architectures.join(" "),
        );
        for line in self.public_key.lines() {
            text += &format!(" {}\n", if line.trim().is_empty() { "." } else { line });
        }
        text
    }
}

/// Ids of the snapshots of a mirror, oldest first.
pub fn list(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("snapshots");
    let act = || format!("list {}", dir.display());
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error::Error::io(act(), error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(|error| error::Error::io(act(), error))?
            .file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') {
            ids.push(name.into_owned());
        }
    }
    ids.sort();
    Ok(ids)
}

/// Id of the published snapshot.
pub fn current(root: &Path) -> Result<Option<String>> {
    let link = root.join("current");
    match fs::read_link(&link) {
        Ok(target) => Ok(target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|id| root.join("snapshots").join(id).is_dir())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error::Error::io(format!("read {}", link.display()), error)),
    }
}
