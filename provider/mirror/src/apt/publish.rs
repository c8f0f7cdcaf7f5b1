//! A snapshot becomes what clients see. Everything is written beside, synced, and switched to by one rename; a crash at any point leaves
//! the old snapshot published, and what it leaves behind the next sync removes.
//!
//! ```text
//! <root>/current -> snapshots/<id>
//! <root>/snapshots/<id>/dists/<suite>/...      indexes, also by hash, those of the other kept snapshots too
//! <root>/snapshots/<id>/pool -> ../../pool
//! <root>/snapshots/<id>/{manifest,sbom}.json
//! <root>/pool/<2 hex>/<16 hex>-<file>.deb      of all kept snapshots
//! <root>/.state.json, <root>/.lock, <root>/.linking
//! ```
//!
//! A snapshot's packages and indexes never change. Its Release file is signed anew when an older snapshot is published again: apt takes
//! an older date than it has seen for a replay and keeps what it has (apt-secure(8)).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use serde::{Deserialize, Serialize};

use super::config::public_key_path;
use super::select::{Draft, Entry, IndexText};
use super::sign::{SiteKey, seconds, time};
use super::snapshot::{Index, Manifest, current, list};
use super::{Error, bom, date, release};
use crate::digest::Digest;
use crate::error::{self, Result};
use crate::place::{create_dir, parent, replace_link, write_atomically, write_unsynced};
use crate::pool::{Batch, Pool, sync_file_system};

/// What the last sync left, for the next one. Without it the next one only works harder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of the configuration and of upstream's Release files, as they were.
    pub inputs: Option<Digest>,
    /// Which snapshot that gave.
    pub snapshot: Option<String>,
    /// The latest date that was ever published, in seconds since 1970.
    pub date: i64,
}

impl State {
    pub(crate) fn read(root: &Path) -> Self {
        fs::read(root.join(".state.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).expect("plain values can be written as JSON");
        write_unsynced(&root.join(".state.json"), &json)
    }
}

/// See [`Publisher::observe`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    /// `None` too if it is of another suite or damaged.
    pub manifest: Option<Arc<Manifest>>,
    /// Every file that a client may ask for is there and has its size.
    pub is_whole: bool,
}

impl Published {
    /// Those that are surely there: file and digest.
    pub(crate) fn packages(&self) -> HashSet<(&str, Digest)> {
        self.manifest
            .iter()
            .filter(|_| self.is_whole)
            .flat_map(|manifest| &manifest.packages)
            .map(|entry| (entry.file.as_str(), entry.sha256))
            .collect()
    }
}

/// A snapshot that waits for its packages: see [`Publisher::prepare`].
#[derive(Debug)]
pub(crate) enum Prepared {
    /// One of this content that was published before, or is.
    Kept(Manifest),
    Built(Manifest, Building),
}

/// A snapshot's directory before it has its name; removed if it never gets one.
#[derive(Debug)]
pub(crate) struct Building(PathBuf);

impl Drop for Building {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // What stays, the next sync removes.
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

/// An index file as a Release file names it.
#[derive(Debug)]
struct Listed {
    /// Below `dists/<suite>`.
    path: String,
    /// In bytes.
    size: u64,
    sha256: Digest,
}

/// One mirror's directory, whose lock the caller holds.
#[derive(Debug)]
pub(crate) struct Publisher<'a> {
    pub path: &'a Path,
    pub root: PathBuf,
    pub name: &'a str,
    pub suite: &'a str,
    pub keep: usize,
    pub pool: &'a Pool,
    pub key: &'a SiteKey,
}

impl Publisher<'_> {
    fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    fn dists(&self, snapshot: &Path) -> PathBuf {
        snapshot.join("dists").join(self.suite)
    }

    /// Removes what a crash left; answers whether there was something.
    pub(crate) fn remove_leftovers(&self) -> Result<bool> {
        let dir = self.root.join("snapshots");
        let mut found = false;
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error::Error::io(format!("list {}", dir.display()), error)),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let hidden = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if hidden {
                found = true;
                fs::remove_dir_all(&path).map_err(|error| {
                    error::Error::io(format!("remove {}", path.display()), error)
                })?;
            }
        }
        Ok(found)
    }

    /// What clients see now.
    pub(crate) fn observe(&self) -> Result<Published> {
        let manifest = self.current()?;
        Ok(Published {
            is_whole: manifest
                .as_ref()
                .is_some_and(|manifest| self.is_whole(manifest)),
            manifest: manifest.map(Arc::new),
        })
    }

    /// The published snapshot, if it is of our suite and can be read.
    fn current(&self) -> Result<Option<Manifest>> {
        let Some(id) = current(&self.root)? else {
            return Ok(None);
        };
        // One that is damaged is made anew, like one that is not there.
        Ok(Manifest::read(&self.snapshot_dir(&id))
            .ok()
            .filter(|manifest| manifest.id == id && manifest.suite == self.suite))
    }

    /// Whether every file that a client may ask for is there and has its size.
    fn is_whole(&self, manifest: &Manifest) -> bool {
        // Relative to an open directory: the way to it is not walked again for each of thousands.
        let Ok(root) = File::open(&self.root) else {
            return false;
        };
        let packages = manifest.packages.iter().all(|entry| {
            fstatat(&root, entry.file.as_str(), AtFlags::empty())
                .is_ok_and(|file| u64::try_from(file.st_size) == Ok(entry.size))
        });
        packages && self.has_indexes(manifest)
    }

    fn has_indexes(&self, manifest: &Manifest) -> bool {
        let dists = self.dists(&self.snapshot_dir(&manifest.id));
        let releases = ["InRelease", "Release", "Release.gpg"]
            .iter()
            .all(|name| dists.join(name).is_file());
        releases
            && manifest.indexes.iter().all(|index| {
                let directory = dists.join(index.directory());
                Digest::of_file(&directory.join("Packages"))
                    .is_ok_and(|(sha256, _)| sha256 == index.sha256)
                    && directory.join("Packages.gz").is_file()
            })
            && fs::read_link(self.snapshot_dir(&manifest.id).join("pool")).is_ok()
    }

    /// Everything of a draft's snapshot but its packages, which may still be on their way. Clients see nothing of it.
    pub(crate) fn prepare(
        &self,
        draft: &Draft,
        published: &Published,
        made: Option<(&str, &str)>,
        now: SystemTime,
    ) -> Result<Prepared> {
        match self.find(draft.digest, published.manifest.as_deref())? {
            Some(there) => Ok(Prepared::Kept(there)),
            None => self.build(draft, made, now),
        }
    }

    /// Publishes a draft whose packages are all in the pool. Answers with its manifest and whether clients see something new.
    pub(crate) fn publish(
        &self,
        draft: &Draft,
        published: &Published,
        prepared: Prepared,
        batch: Batch,
        inputs: Option<Digest>,
        now: SystemTime,
    ) -> Result<(Manifest, bool)> {
        let mark = self.mark();
        let swept = !mark.exists();
        fs::write(&mark, "").map_err(|error| {
            error::Error::write(format!("write {}", mark.display()), &mark, error)
        })?;
        self.link_packages(draft, published)?;
        let was = published.manifest.as_ref().map(|manifest| &manifest.id);
        let (manifest, changed) = match prepared {
            Prepared::Kept(there) if Some(&there.id) == was => {
                self.sync(Some(batch))?;
                (there, false)
            }
            Prepared::Kept(there) => {
                self.switch_to(&there, Some(batch), now)?;
                (there, true)
            }
            Prepared::Built(manifest, building) => {
                self.sync(Some(batch))?;
                self.put_in_place(&manifest.id, building)?;
                self.point_at(&manifest.id)?;
                self.remove_leftovers()?;
                (manifest, true)
            }
        };
        let manifest = if manifest.missing == draft.missing {
            manifest
        } else {
            // The same packages, but other gaps: only the list of these is out of date.
            let manifest = Manifest {
                missing: draft.missing.clone(),
                ..manifest
            };
            self.write_documents(&self.snapshot_dir(&manifest.id), &manifest)?;
            manifest
        };
        self.publish_key()?;
        let state = State {
            inputs,
            snapshot: Some(manifest.id.clone()),
            ..State::read(&self.root)
        };
        state.write(&self.root)?;
        if self.collect_garbage(&manifest, swept)? {
            fs::remove_file(&mark)
                .map_err(|error| error::Error::io(format!("remove {}", mark.display()), error))?;
        }
        Ok((manifest, changed))
    }

    /// There while the pool may hold packages that no snapshot has.
    fn mark(&self) -> PathBuf {
        self.root.join(".linking")
    }

    /// Publishes a snapshot that is there.
    pub(crate) fn pin(&self, id: &str, now: SystemTime) -> Result<(Manifest, bool)> {
        let there = list(&self.root)?;
        if !there.iter().any(|known| known == id) {
            return Err(Error::UnknownSnapshot {
                pin: id.to_owned(),
                there,
            }
            .into());
        }
        let manifest = Manifest::read(&self.snapshot_dir(id))?;
        let changed = current(&self.root)?.as_deref() != Some(id);
        if changed {
            self.switch_to(&manifest, None, now)?;
            // The next sync without a pin is to look again.
            let state = State {
                inputs: None,
                snapshot: Some(id.to_owned()),
                ..State::read(&self.root)
            };
            state.write(&self.root)?;
        }
        self.publish_key()?;
        Ok((manifest, changed))
    }

    /// A kept snapshot of this content, whole but for packages, which are linked anyway.
    fn find(&self, digest: Digest, published: Option<&Manifest>) -> Result<Option<Manifest>> {
        let start = digest.to_string();
        for id in list(&self.root)?.iter().rev() {
            if !id.ends_with(&start[..12]) {
                continue;
            }
            let manifest = match published {
                Some(published) if published.id == *id => Ok(published.clone()),
                _ => Manifest::read(&self.snapshot_dir(id)),
            };
            if let Ok(manifest) = manifest
                && manifest.digest == digest
                && manifest.suite == self.suite
                && self.has_indexes(&manifest)
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// Links what is not there yet, on several cores.
    fn link_packages(&self, draft: &Draft, published: &Published) -> Result<()> {
        let there = published.packages();
        let new: Vec<&Entry> = draft
            .packages
            .iter()
            .filter(|entry| !there.contains(&(entry.file.as_str(), entry.sha256)))
            .collect();
        let link = |entries: &[&Entry]| -> Result<()> {
            for entry in entries {
                self.pool
                    .link(&entry.sha256, &self.root.join(&entry.file))?;
            }
            Ok(())
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = new.len().div_ceil(cores).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = new
                .chunks(share)
                .map(|entries| scope.spawn(move || link(entries)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("linking does not panic"))
        })
    }

    fn build(
        &self,
        draft: &Draft,
        made: Option<(&str, &str)>,
        now: SystemTime,
    ) -> Result<Prepared> {
        let at = self.date(now)?;
        let (id, created) = match made {
            Some((id, created)) => (id.to_owned(), created.to_owned()),
            None => (
                format!("{}-{}", date::compact(at), &draft.digest.to_string()[..12]),
                date::iso(at),
            ),
        };
        let mut components: Vec<String> = draft
            .indexes
            .iter()
            .map(|index| index.component.clone())
            .collect();
        components.dedup();
        let mut architectures: Vec<String> = draft
            .indexes
            .iter()
            .map(|index| index.architecture.clone())
            .collect();
        architectures.sort();
        architectures.dedup();
        let manifest = Manifest {
            format: Manifest::FORMAT,
            id,
            digest: draft.digest,
            name: self.name.to_owned(),
            suite: self.suite.to_owned(),
            created,
            components,
            architectures,
            indexes: draft
                .indexes
                .iter()
                .map(|index| Index {
                    component: index.component.clone(),
                    architecture: index.architecture.clone(),
                    sha256: index.sha256,
                })
                .collect(),
            packages: draft.packages.clone(),
            missing: draft.missing.clone(),
        };
        let name = format!(".building-{}", uuid::Uuid::new_v4().simple());
        let building = Building(self.root.join("snapshots").join(name));
        create_dir(&building.0)?;
        let listed = self.write_indexes(&building.0, &draft.indexes)?;
        self.write_documents(&building.0, &manifest)?;
        symlink("../../pool", building.0.join("pool"))
            .map_err(|error| error::Error::write("link the pool", &building.0, error))?;
        self.sign(&building.0, &manifest, &listed, at)?;
        self.share_by_hash(&building.0, &manifest.id)?;
        Ok(Prepared::Built(manifest, building))
    }

    fn put_in_place(&self, id: &str, mut building: Building) -> Result<()> {
        let place = self.snapshot_dir(id);
        if place.exists() {
            // Of the same name, but found wanting. Clients see a gap only if it is the published one, and that one is damaged.
            let name = format!(".damaged-{}", uuid::Uuid::new_v4().simple());
            let aside = self.root.join("snapshots").join(name);
            fs::rename(&place, &aside).map_err(|error| {
                error::Error::io(format!("move {} away", place.display()), error)
            })?;
        }
        fs::rename(&building.0, &place)
            .map_err(|error| error::Error::io(format!("publish {}", place.display()), error))?;
        building.0.clear();
        Ok(())
    }

    /// Publishes a snapshot that is not published now, with a date that is later than any before.
    fn switch_to(&self, manifest: &Manifest, batch: Option<Batch>, now: SystemTime) -> Result<()> {
        let snapshot = self.snapshot_dir(&manifest.id);
        let listed = self.listed(&snapshot, manifest)?;
        self.sign(&snapshot, manifest, &listed, self.date(now)?)?;
        self.share_by_hash(&snapshot, &manifest.id)?;
        self.sync(batch)?;
        self.point_at(&manifest.id)
    }

    /// Everything that was written for a snapshot is on the disk before clients see it.
    fn sync(&self, batch: Option<Batch>) -> Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        if batch.is_none() || device(&self.root) != device(self.pool.root()) {
            sync_file_system(&self.root)?;
        }
        batch.map_or(Ok(()), Batch::seal)
    }

    fn point_at(&self, id: &str) -> Result<()> {
        replace_link(&self.root.join("current"), &Path::new("snapshots").join(id))
    }

    fn write_documents(&self, snapshot: &Path, manifest: &Manifest) -> Result<()> {
        let json = |value: serde_json::Result<Vec<u8>>| {
            value.expect("plain values can be written as JSON")
        };
        write_unsynced(
            &snapshot.join("manifest.json"),
            &json(serde_json::to_vec(manifest)),
        )?;
        write_unsynced(
            &snapshot.join("sbom.json"),
            &json(serde_json::to_vec_pretty(&bom::spdx(manifest))),
        )
    }

    fn write_indexes(&self, snapshot: &Path, indexes: &[IndexText]) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for index in indexes {
            let directory = self
                .dists(snapshot)
                .join(&index.component)
                .join(format!("binary-{}", index.architecture));
            let by_hash = directory.join("by-hash/SHA256");
            create_dir(&by_hash)?;
            let gzip = packed(index.text.as_bytes());
            for (name, bytes, sha256) in [
                ("Packages", index.text.as_bytes(), index.sha256),
                ("Packages.gz", &gzip, Digest::of(&gzip)),
            ] {
                let path = directory.join(name);
                let failed =
                    |error| error::Error::write(format!("write {}", path.display()), &path, error);
                fs::write(&path, bytes).map_err(failed)?;
                fs::hard_link(&path, by_hash.join(sha256.to_string())).map_err(failed)?;
                listed.push(Listed {
                    path: format!("{}/binary-{}/{name}", index.component, index.architecture),
                    size: bytes.len() as u64,
                    sha256,
                });
            }
        }
        Ok(listed)
    }

    /// The indexes of a snapshot that was written before.
    fn listed(&self, snapshot: &Path, manifest: &Manifest) -> Result<Vec<Listed>> {
        let dists = self.dists(snapshot);
        let mut listed = Vec::new();
        for index in &manifest.indexes {
            for name in ["Packages", "Packages.gz"] {
                let path = format!("{}/{name}", index.directory());
                let file = dists.join(&path);
                let (sha256, size) = Digest::of_file(&file)
                    .map_err(|error| error::Error::io(format!("read {}", file.display()), error))?;
                listed.push(Listed { path, size, sha256 });
            }
        }
        Ok(listed)
    }

    /// Clients that have read another snapshot's Release file a moment ago still find its indexes.
    fn share_by_hash(&self, snapshot: &Path, of: &str) -> Result<()> {
        let ours = self.dists(snapshot);
        for id in list(&self.root)? {
            if id == of {
                continue;
            }
            let theirs = self.dists(&self.snapshot_dir(&id));
            // Only what is theirs, and not what they hold for others: these may be gone for long.
            let Some(release) = fs::read_to_string(theirs.join("Release"))
                .ok()
                .and_then(|text| release::parse(&text).ok())
            else {
                continue;
            };
            for (path, (_, sha256)) in &release.files {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                let place = format!("{directory}/by-hash/SHA256/{sha256}");
                let target = ours.join(&place);
                if target.exists() {
                    continue;
                }
                let failed = |error| {
                    error::Error::write(format!("link {}", target.display()), &target, error)
                };
                create_dir(parent(&target))?;
                match fs::hard_link(theirs.join(&place), &target) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// When to say that this is published: later than all before, by the second that Release files and HTTP tell the time by. A client that
    /// has the one before asks for what is newer, and would not get what is of the same second.
    fn date(&self, now: SystemTime) -> Result<i64> {
        let mut state = State::read(&self.root);
        state.date = seconds(now).max(state.date.saturating_add(1));
        // Before it is used: a date that was never published does no harm, one that is forgotten does.
        state.write(&self.root)?;
        Ok(state.date)
    }

    fn sign(&self, snapshot: &Path, manifest: &Manifest, listed: &[Listed], at: i64) -> Result<()> {
        let dists = self.dists(snapshot);
        let text = release_text(manifest, listed, at);
        for (name, bytes) in [
            ("Release", text.clone()),
            ("Release.gpg", self.key.sign_detached(&text)?),
            ("InRelease", self.key.sign_inline(&text)?),
        ] {
            let path = dists.join(name);
            write_unsynced(&path, bytes.as_bytes())?;
            let dated = File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(time(at)));
            dated.map_err(|error| {
                error::Error::io(format!("set the time of {}", path.display()), error)
            })?;
        }
        Ok(())
    }

    pub(crate) fn publish_key(&self) -> Result<()> {
        let path = public_key_path(self.path);
        let armoured = self.key.public()?;
        if fs::read(&path).is_ok_and(|there| there == armoured.as_bytes()) {
            return Ok(());
        }
        write_atomically(&path, armoured.as_bytes(), 0o644)
    }

    /// Removes the oldest snapshots but `keep`, and the packages that none of the others has. In a pool that is `swept` these can only be
    /// packages of the snapshots that go; in another one a sync that was killed may have left anything. Answers whether it is swept now.
    fn collect_garbage(&self, published: &Manifest, swept: bool) -> Result<bool> {
        let mut ids = list(&self.root)?;
        let others = ids.len().saturating_sub(self.keep);
        let mut gone: Vec<String> = ids.iter().take(others).cloned().collect();
        // The published one stays even if it is the oldest.
        gone.retain(|id| *id != published.id);
        if gone.is_empty() && swept {
            return Ok(true);
        }
        // One that cannot be read may have had anything.
        let mut suspects: Option<HashSet<String>> = swept.then(HashSet::new);
        for id in &gone {
            suspects = match (suspects, Manifest::read(&self.snapshot_dir(id))) {
                (Some(mut files), Ok(manifest)) => {
                    files.extend(manifest.packages.into_iter().map(|entry| entry.file));
                    Some(files)
                }
                _ => None,
            };
            // By another name first, so that nothing half removed is ever taken for a snapshot.
            let dying = self.root.join("snapshots").join(format!(".dying-{id}"));
            fs::rename(self.snapshot_dir(id), &dying)
                .and_then(|()| fs::remove_dir_all(&dying))
                .map_err(|error| error::Error::io(format!("remove snapshot {id}"), error))?;
        }
        ids.retain(|id| !gone.contains(id));
        let mut wanted: HashSet<PathBuf> = HashSet::new();
        for id in &ids {
            let manifest = match Manifest::read(&self.snapshot_dir(id)) {
                Ok(manifest) => manifest,
                Err(error) => {
                    // Better some packages too many than one too few.
                    tracing::warn!(
                        "no package is removed, because a snapshot cannot be read: {error}"
                    );
                    return Ok(false);
                }
            };
            wanted.extend(
                manifest
                    .packages
                    .iter()
                    .map(|entry| self.root.join(&entry.file)),
            );
        }
        let Some(suspects) = suspects else {
            remove_others(&self.root.join("pool"), &wanted)?;
            return Ok(true);
        };
        for file in suspects {
            let path = self.root.join(file);
            if !wanted.contains(&path) {
                remove_package(&path)?;
            }
        }
        Ok(true)
    }
}

/// One file of the pool, and the directories that are empty without it.
fn remove_package(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error::Error::io(
                format!("remove {}", path.display()),
                error,
            ));
        }
        _ => {}
    }
    // Two levels: earlier versions gave each package a directory of its own.
    for directory in path.ancestors().skip(1).take(2) {
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(())
}

/// Removes the files below `dir` that are not wanted, and directories that this empties; answers whether `dir` is empty.
fn remove_others(dir: &Path, wanted: &HashSet<PathBuf>) -> Result<bool> {
    let failed = |act: &str, path: &Path, error| {
        error::Error::io(format!("{act} {}", path.display()), error)
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(failed("list", dir, error)),
    };
    let mut empty = true;
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", dir, error))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if remove_others(&path, wanted)? {
                fs::remove_dir(&path).map_err(|error| failed("remove", &path, error))?;
            } else {
                empty = false;
            }
        } else if wanted.contains(&path) {
            empty = false;
        } else {
            fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
        }
    }
    Ok(empty)
}

/// The index by gzip's fast level: clients fetch it over the site's own network, and everybody waits for it here. The
/// smaller xz would be an eighth less to send, and half of the time that a small change takes to publish.
fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(3));
    encoder
        .write_all(text)
        .expect("memory takes all that is written");
    encoder.finish().expect("memory takes all that is written")
}

fn release_text(manifest: &Manifest, listed: &[Listed], at: i64) -> String {
    let mut text = format!(
        "Origin: Ondol\nLabel: {}\nSuite: {suite}\nCodename: {suite}\nDate: {}\nAcquire-By-Hash: yes\n\
         No-Support-for-Architecture-all: Packages\nArchitectures: {}\nComponents: {}\n\
         Description: Snapshot {} of a local mirror\nSHA256:\n",
        manifest.name,
        date::format(at),
        manifest.architectures.join(" "),
        manifest.components.join(" "),
        manifest.id,
        suite = manifest.suite,
    );
    for Listed { path, size, sha256 } in listed {
        text += &format!(" {sha256} {size:>10} {path}\n");
    }
    text
}
