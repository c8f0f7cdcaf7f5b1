//! What is written beside a built root file system, and finding an image again by it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::recipe::{Recipe, hex};

/// `manifest.json` of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub digest: String,
    pub recipe: Recipe,
    /// Of the packages installed, not of the files: two builds with the same packages have the same one.
    pub content_digest: String,
    /// Seconds since 1970 (UTC).
    pub created: u64,
    /// Name to version.
    pub packages: BTreeMap<String, String>,
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// [`Recipe::digest`].
    pub digest: String,
    /// The directory that is the image's `/`. Nobody writes to it.
    pub rootfs: PathBuf,
    pub package_count: usize,
    /// SHA-256 over the sorted lines `name=version`.
    pub content_digest: String,
    pub manifest: Manifest,
}

pub(crate) fn image_dir(cache_dir: &Path, digest: &str) -> PathBuf {
    cache_dir.join("images").join(digest)
}

/// The image of a recipe's digest if the cache has it.
pub fn find(cache_dir: &Path, digest: &str) -> Result<Option<Image>> {
    let dir = image_dir(cache_dir, digest);
    let path = dir.join("manifest.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
    };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|source| Error::Manifest { path, source })?;
    let rootfs = dir.join("rootfs");
    if !rootfs.is_dir() {
        return Ok(None);
    }
    Ok(Some(Image {
        digest: manifest.digest.clone(),
        rootfs,
        package_count: manifest.packages.len(),
        content_digest: manifest.content_digest.clone(),
        manifest,
    }))
}

/// On the disk before it returns, so that what it describes is never published without it.
pub(crate) fn write_json(path: &Path, manifest: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(manifest).expect("a manifest has only string keys");
    let act = || format!("write {}", path.display());
    let mut file = fs::File::create(path).map_err(|error| Error::io(act(), error))?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::io(act(), error))
}

pub(crate) fn content_digest(packages: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for (name, version) in packages {
        hasher.update(format!("{name}={version}\n"));
    }
    hex(&hasher.finalize())
}

/// Installed packages in the text of dpkg's status file (deb822; `Status: install ok installed`).
pub(crate) fn parse_dpkg_status(text: &str) -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let installed = field("Status").is_some_and(|status| status.ends_with(" installed"));
        if let (true, Some(name), Some(version)) = (installed, field("Package"), field("Version")) {
            packages.insert(name.to_owned(), version.to_owned());
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_are_counted() {
        let text = "\
Package: curl
Status: install ok installed
Description: a tool
 Package: not this
Version: 7.88.1-10+deb12u14

Package: gone
Status: deinstall ok config-files
Version: 1.0
";
        let packages = parse_dpkg_status(text);
        assert_eq!(
            packages,
            BTreeMap::from([("curl".into(), "7.88.1-10+deb12u14".into())])
        );
        assert_eq!(
            content_digest(&packages),
            // printf 'curl=7.88.1-10+deb12u14\n' | sha256sum
            SHA_OF_CURL
        );
    }

    const SHA_OF_CURL: &str = "34576047101bf8690bb565c9de2ec339cfa61b631ac2a1ec4137fe126d9aff94";
}
