//! The file mirror: single files by URL and SHA-256, such as images, charts, manifests and .ova files, published below
//! `<root>/files/<name>/` under the names that they are given.
//!
//! A file is fetched once, whatever URL or mirror wants it, because the pool knows it by its digest. Nothing is unpacked, and a
//! file without a digest is not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::audit::{adopt, gone, recheck};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fetch::{Download, Fetcher};
use crate::place::{create_dir, write_atomically};
use crate::pool::Pool;
use crate::progress::{Meter, Progress};

/// Lists the digests for `sha256sum -c`.
pub const SUMS: &str = "SHA256SUMS";
/// Says what is published, and what the files looked like then.
const MANIFEST: &str = "manifest.json";

/// The relative path of a file in the mirror: parts of letters, digits and `._+~@=-`, none of which begins with a dot. So it is safe in
/// a URL, in a shell and in a checksum file, and cannot leave its directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot name a file of the mirror: {reason}")]
pub struct InvalidName {
    pub name: String,
    pub reason: &'static str,
}

impl FileName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn directories(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FileName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+~@=-".contains(c);
        let reason = if name.len() > 1024 || name.split('/').any(|part| part.len() > 200) {
            Some("it is too long: 200 characters in a part, 1024 in all")
        } else if name.split('/').any(str::is_empty) {
            Some("it is a path from the mirror's directory, with parts between single slashes")
        } else if name.split('/').any(|part| part.starts_with('.')) {
            Some("a part that begins with a dot is hidden or leads elsewhere")
        } else if !name.split('/').all(|part| part.chars().all(is_plain)) {
            Some("letters, digits and ._+~@=- are possible")
        } else if name.starts_with('-') {
            Some("it would be taken for an option")
        } else if [SUMS, MANIFEST].contains(&name) {
            Some("the mirror writes a file of this name itself")
        } else {
            None
        };
        match reason {
            Some(reason) => Err(InvalidName {
                name: name.to_owned(),
                reason,
            }),
            None => Ok(Self(name.to_owned())),
        }
    }
}

impl TryFrom<String> for FileName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        name.parse()
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

/// Where a file comes from and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Tried in this order. `http`, `https` or `file`.
    pub urls: Vec<String>,
    pub sha256: Digest,
    /// In bytes, if it is known: then a wrong file is refused at once, and progress can tell the time that is left.
    pub size: Option<u64>,
}

/// A name that another name needs as a directory.
pub fn clashes(names: &BTreeSet<&FileName>) -> Option<(FileName, FileName)> {
    names.iter().find_map(|name| {
        let directory = name
            .directories()
            .find_map(|directory| names.iter().find(|other| other.as_str() == directory))?;
        Some(((*directory).clone(), (*name).clone()))
    })
}

/// What to publish, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory that is published. It is the mirror's own, though files in it that it does not know are left alone.
    pub dir: PathBuf,
    pub files: BTreeMap<FileName, Source>,
}

/// The files of a mirror as they were found, or as a sync left them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Digest and size in bytes of the files that are as they were published.
    pub files: BTreeMap<FileName, (Digest, u64)>,
    pub damaged: BTreeSet<FileName>,
    pub missing: BTreeSet<FileName>,
}

impl Published {
    pub fn size_bytes(&self) -> u64 {
        self.files.values().map(|(_, size)| size).sum()
    }
}

/// The text of [`SUMS`], whose own digest says whether two mirrors hold the same.
pub fn sums<'a>(files: impl IntoIterator<Item = (&'a FileName, &'a Digest)>) -> String {
    let lines: BTreeMap<&FileName, &Digest> = files.into_iter().collect();
    lines
        .iter()
        .map(|(name, digest)| format!("{digest}  {name}\n"))
        .collect()
}

/// A file as it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    sha256: Digest,
    size: u64,
    /// Being written when this was: whether the file is the old or the new one is only known by reading it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pending: bool,
}

/// A published directory's own record. A file that was changed after it was written is read again; others are believed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<FileName, Entry>,
}

/// What a file looks like now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// With these bytes, and so many.
    Sound(Digest, u64),
    /// It is there, but is not what was published with this digest.
    Damaged(Digest),
    Missing,
}

/// One act on the published directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Publish(FileName, Digest),
    Remove(FileName),
}

/// What makes the published files the wanted ones. Removals come last: a file that only gets another name is linked first.
fn plan(wanted: &BTreeMap<FileName, Digest>, found: &BTreeMap<FileName, Found>) -> Vec<Step> {
    let publications = wanted.iter().filter_map(|(name, digest)| {
        let is_there = matches!(found.get(name), Some(Found::Sound(there, _)) if there == digest);
        (!is_there).then(|| Step::Publish(name.clone(), *digest))
    });
    let removals = found.iter().filter_map(|(name, found)| {
        let goes = !wanted.contains_key(name) && *found != Found::Missing;
        goes.then(|| Step::Remove(name.clone()))
    });
    publications.chain(removals).collect()
}

/// Looks at a published directory; `None` if nothing was published there.
pub fn observe(dir: &Path) -> Result<Option<Published>> {
    let Some((manifest, published)) = read_manifest(dir)? else {
        return Ok(None);
    };
    let mut all = Published::default();
    for (name, found) in look(dir, &manifest, published)? {
        match found {
            Found::Sound(digest, size) => {
                all.files.insert(name, (digest, size));
            }
            Found::Damaged(_) => {
                all.damaged.insert(name);
            }
            Found::Missing => {
                all.missing.insert(name);
            }
        }
    }
    Ok(Some(all))
}

/// Makes the published files the wanted ones: all are fetched and verified before the first one is touched.
pub async fn sync(
    config: &Config,
    pool: &Pool,
    fetcher: &Fetcher,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Published> {
    let meter = Arc::new(Meter::default());
    let work = async {
        let dir = config.dir.clone();
        let ours = pool.clone();
        blocking(move || take_stock(&dir, &ours)).await?;
        let downloads: Vec<Download> = config
            .files
            .iter()
            .map(|(name, source)| {
                Download::new(
                    name.as_str(),
                    source.urls.clone(),
                    source.size,
                    source.sha256,
                )
            })
            .collect();
        let mut missing = BTreeMap::new();
        for download in &downloads {
            if !pool.holds(&download.sha256)? {
                missing.insert(download.sha256, download.size.unwrap_or_default());
            }
        }
        meter.phase(
            "fetch files",
            downloads.len() as u64,
            missing.values().sum(),
        );
        fetcher.fetch_all(pool, downloads, &meter, cancel).await?;
        meter.phase("publish files", 0, 0);
        let (dir, pool) = (config.dir.clone(), pool.clone());
        let wanted = config.files.iter();
        let wanted: BTreeMap<FileName, Digest> = wanted
            .map(|(name, source)| (name.clone(), source.sha256))
            .collect();
        blocking(move || publish(&dir, &wanted, &pool)).await
    };
    meter.shown(progress, work).await
}

/// What is published and sound need not be fetched, and what was damaged there must not be taken from the pool: it may be the same file.
fn take_stock(dir: &Path, pool: &Pool) -> Result<()> {
    let Some((manifest, published)) = read_manifest(dir)? else {
        return Ok(());
    };
    for (name, found) in look(dir, &manifest, published)? {
        match found {
            Found::Damaged(digest) => recheck(pool, &digest)?,
            Found::Sound(digest, _) => adopt(pool, &digest, &dir.join(name.as_str()))?,
            Found::Missing => {}
        }
    }
    Ok(())
}

/// Removes what was published, and nothing else that is in the directory.
pub fn remove(dir: &Path) -> Result<()> {
    let Some((manifest, _)) = read_manifest(dir)? else {
        return Ok(());
    };
    for name in manifest.files.keys() {
        remove_file(dir, name)?;
    }
    let act = || format!("remove {}", dir.display());
    for own in [SUMS, MANIFEST] {
        gone(fs::remove_file(dir.join(own))).map_err(|error| Error::io(act(), error))?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        other => gone(other).map_err(|error| Error::io(act(), error)),
    }
}

fn publish(dir: &Path, wanted: &BTreeMap<FileName, Digest>, pool: &Pool) -> Result<Published> {
    let failed = |error: io::Error| Error::io(format!("lock {}", dir.display()), error);
    create_dir(dir)?;
    let lock = File::open(dir).map_err(failed)?;
    // What one sync publishes, another one at the same time must not remove.
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
    let (mut manifest, found) = match read_manifest(dir)? {
        Some((manifest, published)) => {
            let found = look(dir, &manifest, published)?;
            (manifest, found)
        }
        None => Default::default(),
    };
    let steps = plan(wanted, &found);
    let sizes = sizes(wanted, pool)?;
    for step in &steps {
        if let Step::Publish(name, digest) = step {
            let entry = Entry {
                sha256: *digest,
                size: sizes[name],
                pending: true,
            };
            manifest.files.insert(name.clone(), entry);
        }
    }
    // Known before they are there: what a killed process leaves is then ours to remove.
    if !steps.is_empty() {
        write_manifest(dir, &manifest)?;
    }
    for step in steps {
        match step {
            Step::Publish(name, digest) => place(dir, &name, &digest, pool)?,
            Step::Remove(name) => remove_file(dir, &name)?,
        }
    }
    let mut published = Published::default();
    manifest.files.clear();
    for (name, digest) in wanted {
        let size = sizes[name];
        let entry = Entry {
            sha256: *digest,
            size,
            pending: false,
        };
        manifest.files.insert(name.clone(), entry);
        published.files.insert(name.clone(), (*digest, size));
    }
    write_atomically(&dir.join(SUMS), sums(wanted).as_bytes(), 0o644)?;
    write_manifest(dir, &manifest)?;
    Ok(published)
}

fn sizes(wanted: &BTreeMap<FileName, Digest>, pool: &Pool) -> Result<BTreeMap<FileName, u64>> {
    let sizes = wanted.iter().map(|(name, digest)| {
        let size = pool.size(digest)?.ok_or_else(|| {
            let missing = io::Error::from(ErrorKind::NotFound);
            Error::io(format!("look at {}", pool.path(digest).display()), missing)
        })?;
        Ok((name.clone(), size))
    });
    sizes.collect()
}

/// Gives a file its name in one step: who reads the old one reads it to its end.
fn place(dir: &Path, name: &FileName, digest: &Digest, pool: &Pool) -> Result<()> {
    let path = dir.join(name.as_str());
    let next = path.with_file_name(format!(".{digest}.next"));
    let act = || format!("publish {}", path.display());
    gone(fs::remove_file(&next)).map_err(|error| Error::io(act(), error))?;
    pool.link(digest, &next)?;
    // Where both names are the same file already, a rename does nothing and leaves both (rename(2)).
    fs::rename(&next, &path)
        .and_then(|()| gone(fs::remove_file(&next)))
        .map_err(|error| Error::write(act(), &path, error))
}

/// And the directories that are empty without it.
fn remove_file(dir: &Path, name: &FileName) -> Result<()> {
    let path = dir.join(name.as_str());
    gone(fs::remove_file(&path))
        .map_err(|error| Error::io(format!("remove {}", path.display()), error))?;
    for directory in name.directories().collect::<Vec<_>>().into_iter().rev() {
        if fs::remove_dir(dir.join(directory)).is_err() {
            break;
        }
    }
    Ok(())
}

fn read_manifest(dir: &Path) -> Result<Option<(Manifest, SystemTime)>> {
    let path = dir.join(MANIFEST);
    let failed = |error| Error::io(format!("read {}", path.display()), error);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let published = fs::metadata(&path).and_then(|metadata| metadata.modified());
    let manifest = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    Ok(Some((manifest, published.map_err(failed)?)))
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(manifest).expect("a tree with string keys is JSON");
    text.push(b'\n');
    write_atomically(&dir.join(MANIFEST), &text, 0o644)
}

fn look(
    dir: &Path,
    manifest: &Manifest,
    published: SystemTime,
) -> Result<BTreeMap<FileName, Found>> {
    let looked = manifest.files.iter().map(|(name, entry)| {
        let path = dir.join(name.as_str());
        let failed = |error| Error::io(format!("look at {}", path.display()), error);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok((name.clone(), Found::Missing));
            }
            Err(error) => return Err(failed(error)),
        };
        let touched = entry.pending || metadata.modified().map_err(failed)? >= published;
        let is_sound = metadata.is_file()
            && metadata.len() == entry.size
            && (!touched || Digest::of_file(&path).map_err(failed)?.0 == entry.sha256);
        let found = match is_sound {
            true => Found::Sound(entry.sha256, entry.size),
            false => Found::Damaged(entry.sha256),
        };
        Ok((name.clone(), found))
    });
    looked.collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("work on files does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> FileName {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn a_name_cannot_leave_the_mirror_nor_mean_something_else() {
        for good in ["a", "images/disk-1.0_x+y~z@w.ova", "charts/a=b/c.tgz"] {
            assert_eq!(name(good).as_str(), good);
        }
        let long = "x".repeat(201);
        let bad = [
            "",
            "/etc/passwd",
            "a//b",
            "a/",
            "../a",
            "a/../b",
            ".hidden",
            "a/.b",
            "a b",
            "a\nb",
            "a%2e",
            "ä",
            "a\\b",
            "-rf",
            "SHA256SUMS",
            "manifest.json",
            &long,
        ];
        for bad in bad {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?}");
        }
        assert!(name("a/manifest.json").as_str().ends_with("manifest.json"));
    }

    #[test]
    fn a_name_is_not_a_file_and_a_directory() {
        let names = ["a/b", "a/b.c", "d", "a/b/c"].map(name);
        let clash = clashes(&names.iter().collect());
        assert_eq!(clash, Some((name("a/b"), name("a/b/c"))));
        assert_eq!(clashes(&names[..3].iter().collect()), None);
    }

    #[test]
    fn a_plan_has_only_what_differs_and_removes_last() {
        let sound = |text: &str| Found::Sound(digest(text), 1);
        let found: BTreeMap<FileName, Found> = [
            ("damaged", Found::Damaged(digest("d"))),
            ("gone", Found::Missing),
            ("kept", sound("k")),
            ("new-bytes", sound("old")),
            ("unwanted", sound("u")),
            ("unwanted-gone", Found::Missing),
            ("unwanted-damaged", Found::Damaged(digest("x"))),
        ]
        .map(|(text, found)| (name(text), found))
        .into();
        let wanted: BTreeMap<FileName, Digest> = [
            ("added", "a"),
            ("damaged", "d"),
            ("gone", "g"),
            ("kept", "k"),
            ("new-bytes", "n"),
        ]
        .map(|(text, bytes)| (name(text), digest(bytes)))
        .into();
        assert_eq!(
            plan(&wanted, &found),
            [
                Step::Publish(name("added"), digest("a")),
                Step::Publish(name("damaged"), digest("d")),
                Step::Publish(name("gone"), digest("g")),
                Step::Publish(name("new-bytes"), digest("n")),
                Step::Remove(name("unwanted")),
                Step::Remove(name("unwanted-damaged")),
            ]
        );
        assert_eq!(plan(&BTreeMap::new(), &BTreeMap::new()), []);
    }

    #[test]
    fn checksums_are_sorted_and_in_the_form_of_sha256sum() {
        let (a, b) = (name("a"), name("b/c"));
        let (one, two) = (digest("1"), digest("2"));
        assert_eq!(
            sums([(&b, &two), (&a, &one)]),
            format!("{one}  a\n{two}  b/c\n")
        );
    }
}
