//! A snapshot as one tar file, for a site without a line.
//!
//! ```text
//! manifest.json       what the snapshot holds
//! manifest.json.asc   detached signature of the site that made the file
//! indexes/<n>         its Packages files, in the manifest's order
//! files/<64 hex>      its packages, those of the base left out
//! ```
//!
//! The signature proves the manifest, and its digests all the rest. Plain tar: packages are compressed already.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::Path;
use std::time::SystemTime;

use super::Error;
use super::select::{Draft, IndexText, digest};
use super::sign::{Keyring, SiteKey};
use super::snapshot::{Manifest, list};
use crate::CancellationToken;
use crate::digest::Digest;
use crate::error::{self, Result};
use crate::place::{create_dir, parent, sync_dir};
use crate::pool::{Batch, Pool};
use crate::progress::Meter;

/// Of a manifest or an index: far more than any has.
const DOCUMENT_LIMIT: u64 = 1 << 30;

pub(crate) struct Archive<'a> {
    pub path: &'a Path,
    pub meter: &'a Meter,
    pub cancel: &'a CancellationToken,
}

impl Archive<'_> {
    pub(crate) fn export(
        &self,
        root: &Path,
        manifest: &Manifest,
        base: Option<&str>,
        key: &SiteKey,
    ) -> Result<()> {
        let snapshot = |id: &str| root.join("snapshots").join(id);
        let known: HashSet<Digest> = match base {
            None => HashSet::new(),
            Some(base) => {
                let there = list(root)?;
                if !there.iter().any(|id| id == base) {
                    return Err(Error::UnknownSnapshot {
                        pin: base.to_owned(),
                        there,
                    }
                    .into());
                }
                let base = Manifest::read(&snapshot(base))?;
                base.packages.iter().map(|entry| entry.sha256).collect()
            }
        };
        let mut wanted = HashSet::new();
        let packages: Vec<_> = manifest
            .packages
            .iter()
            .filter(|entry| !known.contains(&entry.sha256) && wanted.insert(entry.sha256))
            .collect();
        self.meter.phase(
            "write archive",
            packages.len() as u64,
            packages.iter().map(|entry| entry.size).sum(),
        );
        create_dir(parent(self.path))?;
        let temporary = self.path.with_extension("partial");
        let failed = |error| {
            error::Error::write(
                format!("write archive {}", self.path.display()),
                self.path,
                error,
            )
        };
        let written = (|| -> Result<()> {
            let file = File::create(&temporary).map_err(failed)?;
            let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
            let json = serde_json::to_vec(manifest).expect("plain values can be written as JSON");
            let text = String::from_utf8(json).expect("JSON is text");
            let signature = key.sign_detached(&text)?;
            append(&mut tar, "manifest.json", text.as_bytes()).map_err(failed)?;
            append(&mut tar, "manifest.json.asc", signature.as_bytes()).map_err(failed)?;
            for (number, index) in manifest.indexes.iter().enumerate() {
                let path = snapshot(&manifest.id)
                    .join("dists")
                    .join(&manifest.suite)
                    .join(index.directory())
                    .join("Packages");
                let bytes = fs::read(&path)
                    .map_err(|error| error::Error::io(format!("read {}", path.display()), error))?;
                append(&mut tar, &format!("indexes/{number}"), &bytes).map_err(failed)?;
            }
            for entry in packages {
                self.stop_if_cancelled()?;
                let path = root.join(&entry.file);
                let read = |error| error::Error::io(format!("read {}", path.display()), error);
                let bytes = fs::read(&path).map_err(read)?;
                // What goes to another site is proven once more: discs forget.
                if Digest::of(&bytes) != entry.sha256 {
                    return Err(Error::Malformed {
                        file: path.display().to_string(),
                        reason: format!(
                            "damaged: it is not the file of {} {} that was fetched; run a sync after removing it",
                            entry.name, entry.version
                        ),
                    }
                    .into());
                }
                append(&mut tar, &format!("files/{}", entry.sha256), &bytes).map_err(failed)?;
                self.meter.resumed(entry.size);
                self.meter.file_done();
            }
            let mut file = tar.into_inner().map_err(failed)?;
            file.flush().map_err(failed)?;
            let file = file
                .into_inner()
                .map_err(|error| failed(error.into_error()))?;
            file.sync_all().map_err(failed)?;
            fs::rename(&temporary, self.path).map_err(failed)?;
            sync_dir(parent(self.path))
        })();
        if written.is_err() {
            // The first error is the one that counts.
            drop(fs::remove_file(&temporary));
        }
        written
    }

    /// Takes the packages into the pool. Answers with what to publish, with the id and the date of its
    /// making, and with the batch to seal.
    pub(crate) fn import(
        &self,
        pool: &Pool,
        keyring: &Keyring,
        suite: &str,
        now: SystemTime,
    ) -> Result<(Draft, (String, String), Batch)> {
        let name = self.path.display().to_string();
        let read = |error: io::Error| error::Error::io(format!("read archive {name}"), error);
        let malformed = |reason: String| -> error::Error {
            Error::Malformed {
                file: name.clone(),
                reason,
            }
            .into()
        };
        self.meter.phase("read archive", 0, 0);
        let file = File::open(self.path).map_err(read)?;
        let mut tar = tar::Archive::new(BufReader::with_capacity(1 << 20, file));
        let mut entries = tar.entries().map_err(read)?;
        let mut document = |expected: &str| -> Result<String> {
            let mut entry = entries
                .next()
                .ok_or_else(|| malformed(format!("it ends before {expected}")))?
                .map_err(read)?;
            let is = entry.path().map_err(read)?.display().to_string();
            if is != expected {
                return Err(malformed(format!("{is:?} stands where {expected} should")));
            }
            let mut text = String::new();
            (&mut entry)
                .take(DOCUMENT_LIMIT)
                .read_to_string(&mut text)
                .map_err(read)?;
            Ok(text)
        };
        let json = document("manifest.json")?;
        let signature = document("manifest.json.asc")?;
        keyring
            .verify_detached(json.as_bytes(), signature.as_bytes(), now)
            .map_err(|reason| Error::Untrusted {
                file: name.clone(),
                reason: reason.to_string(),
            })?;
        let manifest = Manifest::parse(json.as_bytes(), &name)?;
        if manifest.suite != suite {
            return Err(malformed(format!(
                "it is of suite \"{}\", and this mirror of \"{suite}\"",
                manifest.suite
            )));
        }
        let mut indexes = Vec::new();
        for (number, index) in manifest.indexes.iter().enumerate() {
            let text = document(&format!("indexes/{number}"))?;
            let (component, architecture) = (index.component.clone(), index.architecture.clone());
            let text = IndexText::new(component, architecture, text);
            if text.sha256 != index.sha256 {
                return Err(malformed(format!(
                    "indexes/{number} is damaged: wrong hash"
                )));
            }
            indexes.push(text);
        }
        if digest(suite, &indexes) != manifest.digest {
            return Err(malformed(
                "its indexes do not make the digest that it claims".to_owned(),
            ));
        }
        let wanted: HashSet<Digest> = manifest.packages.iter().map(|entry| entry.sha256).collect();
        self.meter
            .phase("read archive", wanted.len() as u64, manifest.size_bytes());
        let batch = pool.batch()?;
        for entry in entries {
            self.stop_if_cancelled()?;
            let entry = entry.map_err(read)?;
            let path = entry.path().map_err(read)?.display().to_string();
            let sha256: Digest = path
                .strip_prefix("files/")
                .and_then(|digest| digest.parse().ok())
                .filter(|digest| wanted.contains(digest))
                .ok_or_else(|| malformed(format!("{path:?} is not in its manifest")))?;
            let size = entry.size();
            match pool.take_in(entry, &sha256)? {
                Ok(_) => {}
                Err(failure) => return Err(malformed(format!("{path} is damaged: {failure}"))),
            }
            self.meter.resumed(size);
            self.meter.file_done();
        }
        let mut gaps = Vec::new();
        for entry in &manifest.packages {
            if pool.size(&entry.sha256)? != Some(entry.size) {
                gaps.push(&entry.file);
            }
        }
        if let Some(first) = gaps.first() {
            return Err(Error::IncompleteArchive {
                archive: name,
                missing: gaps.len(),
                first: (*first).clone(),
                base: "that its maker names".to_owned(),
            }
            .into());
        }
        Ok((
            Draft {
                packages: manifest.packages,
                indexes,
                missing: manifest.missing,
                digest: manifest.digest,
            },
            (manifest.id, manifest.created),
            batch,
        ))
    }

    fn stop_if_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(error::Error::Cancelled {
                act: format!("archive {}", self.path.display()),
            });
        }
        Ok(())
    }
}

fn append(tar: &mut tar::Builder<impl io::Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    // Without a date, so that the same snapshot makes the same file but for its signature.
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}
