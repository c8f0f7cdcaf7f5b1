//! The images of a mirror as an OCI image layout: a directory that any OCI tool reads, served as files or not at all.
//! Which blobs belong there is decided by the caller; nothing is fetched here.
//!
//! Format: OCI image specification 1.1, "Image Layout". Blobs are links to the pool's files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::place::write_atomically;

use super::manifest::Descriptor;
use super::reference::{Digest, LocalName};

/// The annotation that tells the images of a layout apart.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = "oci-layout";
const MARKER_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = "index.json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// The text of `index.json`.
fn render(images: &BTreeMap<LocalName, Descriptor>) -> Vec<u8> {
    let manifests = images.iter().map(|(name, root)| {
        let mut root = root.clone();
        root.platform = None;
        root.annotations = [(REF_NAME.to_owned(), Value::from(name.to_string()))]
            .into_iter()
            .collect();
        root
    });
    let index = Index {
        schema_version: 2,
        media_type: super::manifest::OCI_INDEX.to_owned(),
        manifests: manifests.collect(),
    };
    let mut text = serde_json::to_vec_pretty(&index).expect("a tree with string keys is JSON");
    text.push(b'\n');
    text
}

/// The images that an `index.json` names; entries without a name of ours are passed over.
fn parse(text: &[u8]) -> Result<BTreeMap<LocalName, Descriptor>, serde_json::Error> {
    let index: Index = serde_json::from_slice(text)?;
    let named = index.manifests.into_iter().filter_map(|root| {
        let name = root.annotations.get(REF_NAME)?.as_str()?.parse().ok()?;
        Some((name, root))
    });
    Ok(named.collect())
}

/// A layout's directory.
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.0.to_string())
    }

    /// The images that it has now; `None` if there is no layout.
    pub(crate) fn images(&self) -> Result<Option<BTreeMap<LocalName, Descriptor>>> {
        let path = self.dir.join(INDEX);
        let read = |error| Error::io(format!("read {}", path.display()), error);
        match std::fs::read(&path) {
            Ok(text) => parse(&text).map(Some).map_err(|error| read(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(read(error)),
        }
    }

    pub(crate) fn read(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        let path = self.blob(&blob.digest);
        std::fs::read(&path).map_err(|error| Error::io(format!("read {}", path.display()), error))
    }

    /// When the images were named last.
    pub(crate) fn published(&self) -> Result<SystemTime> {
        let path = self.dir.join(INDEX);
        let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
        modified.map_err(|error| Error::io(format!("look at {}", path.display()), error))
    }

    /// Removes a blob that is not what its name says.
    pub(crate) fn discard(&self, digest: &Digest) -> Result<()> {
        let path = self.blob(digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Names these images and no others. Every blob that they need is there by now.
    pub(crate) fn publish(&self, images: &BTreeMap<LocalName, Descriptor>) -> Result<()> {
        write_atomically(&self.dir.join(MARKER), MARKER_TEXT.as_bytes(), 0o644)?;
        // Written even if it is the same: its time says since when the blobs are known to be sound.
        write_atomically(&self.dir.join(INDEX), &render(images), 0o644)
    }

    /// Removes blobs that no image needs, and returns how many.
    pub(crate) fn sweep(&self, needed: &BTreeSet<Digest>) -> Result<u64> {
        let blobs = self.blobs();
        let sweep = || {
            let mut removed = 0;
            for entry in std::fs::read_dir(&blobs)? {
                let entry = entry?;
                let name = entry.file_name();
                let digest = name
                    .to_str()
                    .and_then(|hex| Some(Digest(hex.parse().ok()?)));
                // What is named otherwise was left by a copy that was cut off.
                if digest.is_none_or(|digest| !needed.contains(&digest)) {
                    std::fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
            Ok(removed)
        };
        sweep().map_err(|error: io::Error| Error::io(format!("sweep {}", blobs.display()), error))
    }

    /// Removes the whole layout, and nothing else that is in its directory.
    pub(crate) fn remove(&self) -> Result<()> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let remove = || {
            gone(std::fs::remove_file(self.dir.join(INDEX)))?;
            gone(std::fs::remove_file(self.dir.join(MARKER)))?;
            gone(std::fs::remove_dir_all(self.dir.join("blobs")))?;
            match std::fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => gone(other),
            }
        };
        remove().map_err(|error| Error::io(format!("remove {}", self.dir.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::manifest::OCI_MANIFEST;

    fn root(digit: char) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest(digit.to_string().repeat(64).parse().unwrap()),
            size: 3,
            platform: None,
            annotations: serde_json::Map::new(),
        }
    }

    #[test]
    fn an_index_names_its_images_and_reads_back() {
        let images: BTreeMap<LocalName, Descriptor> =
            [("app:1", 'a'), ("app:2", 'a'), ("team/b:x", 'b')]
                .map(|(name, digit)| (name.parse().unwrap(), root(digit)))
                .into();
        let read = parse(&render(&images)).unwrap();
        let digests = |images: &BTreeMap<LocalName, Descriptor>| {
            images
                .iter()
                .map(|(name, root)| (name.to_string(), root.digest))
                .collect::<Vec<_>>()
        };
        assert_eq!(digests(&read), digests(&images));
    }

    #[test]
    fn what_no_image_needs_is_swept_and_what_is_not_ours_stays_on_removal() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("site"));
        assert!(layout.images().unwrap().is_none());
        std::fs::create_dir_all(layout.blobs()).unwrap();
        let (kept, old) = (root('a'), root('b'));
        for blob in [&kept, &old] {
            std::fs::write(layout.blob(&blob.digest), "abc").unwrap();
        }
        std::fs::write(layout.dir().join("blobs/sha256/half.partial"), "a").unwrap();
        layout
            .publish(&[("app:1".parse().unwrap(), kept.clone())].into())
            .unwrap();
        assert_eq!(layout.sweep(&[kept.digest].into()).unwrap(), 2);
        assert!(layout.blob(&kept.digest).exists() && !layout.blob(&old.digest).exists());

        std::fs::write(layout.dir().join("notes"), "").unwrap();
        layout.remove().unwrap();
        layout.remove().unwrap();
        assert!(layout.dir().join("notes").exists() && !layout.dir().join("blobs").exists());
    }
}
