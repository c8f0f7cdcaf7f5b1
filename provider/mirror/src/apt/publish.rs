//! A snapshot becomes what clients see. Everything is written beside, synced, and switched to by one rename; a crash at any point leaves
//! the old snapshot published, and what it leaves behind the next sync removes.
//!
//! ```text
//! <root>/current -> snapshots/<id>
//! <root>/snapshots/<id>/dists/<suite>/...      indexes, also by hash, those of the other kept snapshots too
//! <root>/snapshots/<id>/pool -> ../../pool
//! <root>/snapshots/<id>/{manifest,sbom}.json
//! <root>/pool/<2 hex>/<16 hex>/<file>.deb      of all kept snapshots
//! <root>/.state.json, <root>/.lock
//! ```
//!
//! A snapshot's packages and indexes never change. Its Release file is signed anew when an older snapshot is published again: apt takes
//! an older date than it has seen for a replay and keeps what it has (apt-secure(8)).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::config::public_key_path;
use super::select::{Draft, IndexText};
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

    /// The published snapshot, if it is of our suite and can be read.
    pub(crate) fn current(&self) -> Result<Option<Manifest>> {
        let Some(id) = current(&self.root)? else {
            return Ok(None);
        };
        // One that is damaged is made anew, like one that is not there.
        Ok(Manifest::read(&self.snapshot_dir(&id))
            .ok()
            .filter(|manifest| manifest.id == id && manifest.suite == self.suite))
    }

    /// Whether every file that a client may ask for is there and has its size.
    pub(crate) fn is_whole(&self, manifest: &Manifest) -> bool {
        let packages = manifest.packages.iter().all(|entry| {
            fs::metadata(self.root.join(&entry.file)).is_ok_and(|file| file.len() == entry.size)
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

    /// Publishes a draft whose packages are all in the pool. Answers with its manifest and whether clients see something new.
    pub(crate) fn publish(
        &self,
        draft: &Draft,
        batch: Batch,
        made: Option<(&str, &str)>,
        inputs: Option<Digest>,
        now: SystemTime,
    ) -> Result<(Manifest, bool)> {
        let before = self.current()?;
        self.link_packages(draft)?;
        let same = self.find(draft.digest)?;
        let (manifest, changed) = match same {
            Some(there) if before.as_ref().is_some_and(|before| before.id == there.id) => {
                self.sync(Some(batch))?;
                (there, false)
            }
            Some(there) => {
                self.switch_to(&there, Some(batch), now)?;
                (there, true)
            }
            None => {
                let manifest = self.build(draft, batch, made, now)?;
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
        self.collect_garbage()?;
        Ok((manifest, changed))
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

    /// A kept snapshot of this content, whole.
    fn find(&self, digest: Digest) -> Result<Option<Manifest>> {
        let start = digest.to_string();
        for id in list(&self.root)?.iter().rev() {
            if !id.ends_with(&start[..12]) {
                continue;
            }
            if let Ok(manifest) = Manifest::read(&self.snapshot_dir(id))
                && manifest.digest == digest
                && manifest.suite == self.suite
                && self.is_whole(&manifest)
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    fn link_packages(&self, draft: &Draft) -> Result<()> {
        for entry in &draft.packages {
            self.pool
                .link(&entry.sha256, &self.root.join(&entry.file))?;
        }
        Ok(())
    }

    fn build(
        &self,
        draft: &Draft,
        batch: Batch,
        made: Option<(&str, &str)>,
        now: SystemTime,
    ) -> Result<Manifest> {
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
                    sha256: Digest::of(index.text.as_bytes()),
                })
                .collect(),
            packages: draft.packages.clone(),
            missing: draft.missing.clone(),
        };
        let snapshots = self.root.join("snapshots");
        let building = snapshots.join(format!(".building-{}", uuid::Uuid::new_v4().simple()));
        create_dir(&building)?;
        self.write_indexes(&building, &draft.indexes)?;
        self.write_documents(&building, &manifest)?;
        symlink("../../pool", building.join("pool"))
            .map_err(|error| error::Error::write("link the pool", &building, error))?;
        self.sign(&building, &manifest, at)?;
        self.sync(Some(batch))?;
        let place = self.snapshot_dir(&manifest.id);
        if place.exists() {
            // Of the same name, but found wanting. Clients see a gap only if it is the published one, and that one is damaged.
            let aside = snapshots.join(format!(".damaged-{}", uuid::Uuid::new_v4().simple()));
            fs::rename(&place, &aside).map_err(|error| {
                error::Error::io(format!("move {} away", place.display()), error)
            })?;
        }
        fs::rename(&building, &place)
            .map_err(|error| error::Error::io(format!("publish {}", place.display()), error))?;
        self.share_by_hash(&manifest)?;
        self.point_at(&manifest.id)?;
        self.remove_leftovers()?;
        Ok(manifest)
    }

    /// Publishes a snapshot that is not published now, with a date that is later than any before.
    fn switch_to(&self, manifest: &Manifest, batch: Option<Batch>, now: SystemTime) -> Result<()> {
        self.sign(&self.snapshot_dir(&manifest.id), manifest, self.date(now)?)?;
        self.share_by_hash(manifest)?;
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

    fn write_indexes(&self, snapshot: &Path, indexes: &[IndexText]) -> Result<()> {
        for index in indexes {
            let directory = self
                .dists(snapshot)
                .join(&index.component)
                .join(format!("binary-{}", index.architecture));
            let by_hash = directory.join("by-hash/SHA256");
            create_dir(&by_hash)?;
            for (name, bytes) in packed(index.text.as_bytes()) {
                let path = directory.join(name);
                let failed =
                    |error| error::Error::write(format!("write {}", path.display()), &path, error);
                fs::write(&path, &bytes).map_err(failed)?;
                let hash = by_hash.join(Digest::of(&bytes).to_string());
                fs::hard_link(&path, hash).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Clients that have read another snapshot's Release file a moment ago still find its indexes.
    fn share_by_hash(&self, manifest: &Manifest) -> Result<()> {
        let ours = self.dists(&self.snapshot_dir(&manifest.id));
        for id in list(&self.root)? {
            let theirs = self.dists(&self.snapshot_dir(&id));
            if theirs == ours {
                continue;
            }
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

    fn sign(&self, snapshot: &Path, manifest: &Manifest, at: i64) -> Result<()> {
        let dists = self.dists(snapshot);
        let text = release_text(&dists, manifest, at)?;
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

    /// Removes the oldest snapshots but `keep`, and the packages that none of the others has.
    pub(crate) fn collect_garbage(&self) -> Result<()> {
        let mut ids = list(&self.root)?;
        let published = current(&self.root)?;
        let others = ids.len().saturating_sub(self.keep);
        let mut gone = Vec::new();
        // The published one stays even if it is the oldest.
        for id in ids.iter().take(others) {
            if Some(id) != published.as_ref() {
                gone.push(id.clone());
            }
        }
        for id in &gone {
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
                    return Ok(());
                }
            };
            wanted.extend(
                manifest
                    .packages
                    .iter()
                    .map(|entry| self.root.join(&entry.file)),
            );
        }
        remove_others(&self.root.join("pool"), &wanted)?;
        Ok(())
    }
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

/// The index in its two forms, gzip by a fast level: clients fetch it over the site's own network, and everybody waits for it here. The
/// smaller xz would be an eighth less to send, and half of the time that a small change takes to publish.
fn packed(text: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(3));
    encoder
        .write_all(text)
        .expect("memory takes all that is written");
    let gzip = encoder.finish().expect("memory takes all that is written");
    [("Packages", text.to_vec()), ("Packages.gz", gzip)]
}

fn release_text(dists: &Path, manifest: &Manifest, at: i64) -> Result<String> {
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
    for index in &manifest.indexes {
        for name in ["Packages", "Packages.gz"] {
            let path = format!("{}/{name}", index.directory());
            let file = dists.join(&path);
            let (sha256, size) = Digest::of_file(&file)
                .map_err(|error| error::Error::io(format!("read {}", file.display()), error))?;
            text += &format!(" {sha256} {size:>10} {path}\n");
        }
    }
    Ok(text)
}
