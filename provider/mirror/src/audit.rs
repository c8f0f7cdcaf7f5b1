//! Whether what is published is still what was published, and making room for its repair. Repairing is the next sync's work.
//!
//! A file that was written to after its manifest is read and compared; others are believed by their size. The pool's file and the
//! published one may be one and the same, so what is damaged here must not be taken from there.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::apt::{self, Config, Manifest, SiteKey};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::pool::Pool;

/// A published file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Below the mirror's own directory.
    pub file: PathBuf,
    pub reason: String,
    /// What it was, where that is the digest of a file of the pool.
    pub sha256: Option<Digest>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.reason)
    }
}

/// What is wrong with the published snapshot of an apt mirror. Empty if nothing is published.
pub fn apt(config: &Config) -> Result<Vec<Damage>> {
    let root = config.root();
    let Some(id) = apt::current(&root)? else {
        return Ok(Vec::new());
    };
    let snapshot = Path::new("snapshots").join(id);
    let mut damages = Vec::new();
    let mut found = |file: PathBuf, reason: &str, sha256| {
        damages.push(Damage {
            file,
            reason: reason.to_owned(),
            sha256,
        });
    };
    let manifest_file = snapshot.join("manifest.json");
    let manifest = fs::read(root.join(&manifest_file))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
    let published = modified(&root.join(&manifest_file));
    let (Some(manifest), Ok(published)) = (manifest, published) else {
        found(manifest_file, "it cannot be read", None);
        return Ok(damages);
    };
    for entry in &manifest.packages {
        let file = PathBuf::from(&entry.file);
        if let Some(reason) = check(&root.join(&file), entry.size, &entry.sha256, published)? {
            found(file, reason, Some(entry.sha256));
        }
    }
    let dists = snapshot.join("dists").join(&manifest.suite);
    let in_release = dists.join("InRelease");
    let Some(release) = release(config, &root.join(&in_release))? else {
        found(in_release, "it is not signed with the site's key", None);
        return Ok(damages);
    };
    for (name, (size, sha256)) in &release.files {
        let file = dists.join(name);
        if let Some(reason) = check(&root.join(&file), *size, sha256, published)? {
            found(file, reason, None);
        }
    }
    damages.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(damages)
}

/// The text of an InRelease file, if it is signed with the site's key. The key is not made if it is not there.
fn release(config: &Config, path: &Path) -> Result<Option<apt::release::Release>> {
    if !config.site_key.exists() {
        return Ok(None);
    }
    let keyring = SiteKey::open(&config.site_key)?.keyring();
    let text = fs::read_to_string(path).unwrap_or_default();
    let proven = keyring.verify_inline(&text, SystemTime::now());
    Ok(proven.ok().and_then(|text| apt::release::parse(&text).ok()))
}

/// Takes damaged files away, so that a sync puts sound ones in their places.
pub fn discard(root: &Path, damages: &[Damage], pool: &Pool) -> Result<()> {
    for damage in damages {
        if let Some(sha256) = &damage.sha256 {
            recheck(pool, sha256)?;
        }
        let path = root.join(&damage.file);
        gone(fs::remove_file(&path))
            .map_err(|error| Error::io(format!("remove {}", path.display()), error))?;
    }
    Ok(())
}

/// Removes a file from the pool if it is not what its name says.
pub(crate) fn recheck(pool: &Pool, digest: &Digest) -> Result<()> {
    let path = pool.path(digest);
    let failed = |error| Error::io(format!("check {}", path.display()), error);
    match Digest::of_file(&path) {
        Ok((found, _)) if found == *digest => Ok(()),
        Ok(_) => {
            tracing::warn!(
                "{} was changed in the cache and is fetched again",
                path.display()
            );
            gone(fs::remove_file(&path)).map_err(failed)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Brings a published file back into a pool that has lost it.
pub(crate) fn adopt(pool: &Pool, digest: &Digest, path: &Path) -> Result<()> {
    if pool.holds(digest)? {
        return Ok(());
    }
    let file =
        File::open(path).map_err(|error| Error::io(format!("read {}", path.display()), error))?;
    if let Err(failure) = pool.take_in(file, digest)? {
        tracing::warn!("{} is fetched again: {failure}", path.display());
    }
    Ok(())
}

/// Why a file is not what it was; `None` if it is.
fn check(
    path: &Path,
    size: u64,
    sha256: &Digest,
    published: SystemTime,
) -> Result<Option<&'static str>> {
    let failed = |error| Error::io(format!("look at {}", path.display()), error);
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Some("missing"));
        }
        Err(error) => return Err(failed(error)),
    };
    let touched = metadata.modified().map_err(failed)? >= published;
    let same = metadata.is_file()
        && metadata.len() == size
        && (!touched || Digest::of_file(path).map_err(failed)?.0 == *sha256);
    Ok((!same).then_some("changed"))
}

fn modified(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

pub(crate) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
