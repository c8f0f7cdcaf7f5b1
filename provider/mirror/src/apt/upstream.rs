//! One archive's suite as it is now: its Release file, proven, and its indexes, in the pool. Decides nothing about packages.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::config::{Trust, Upstream};
use super::index::Compression;
use super::release::{self, Release};
use super::sign::seconds;
use super::{Error, date};
use crate::CancellationToken;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{self, Failure, Result};
use crate::fetch::{Answer, Document, Download, Fetcher, Known};
use crate::place::write_unsynced;
use crate::progress::Meter;

/// Release files of the largest distributions have some 300 KB.
const RELEASE_LIMIT: u64 = 16 << 20;

/// A suite's Release file that was proven.
#[derive(Debug, Clone)]
pub(crate) struct Suite {
    pub release: Release,
    /// Of the signed text.
    pub digest: Digest,
    /// What errors call it.
    pub file: String,
}

/// What is kept of a suite between syncs, with what a conditional request needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
    /// InRelease, or Release if there is a `signature`.
    text: String,
    /// Release.gpg.
    signature: Option<String>,
    /// There is none, and the user does not mind.
    unsigned: bool,
}

pub(crate) struct Visit<'a> {
    pub upstream: &'a Upstream,
    pub cache: &'a Cache,
    pub fetcher: &'a Fetcher,
    pub meter: &'a Meter,
    pub cancel: &'a CancellationToken,
    pub now: SystemTime,
}

impl Visit<'_> {
    fn kept_path(&self) -> PathBuf {
        let of = self.upstream.suite_urls().join("\n");
        self.cache
            .dir()
            .join("apt/releases")
            .join(format!("{}.json", Digest::of(of.as_bytes())))
    }

    /// The suite's Release file: asked for on condition that it has changed, and proven each time.
    pub(crate) async fn suite(&self) -> Result<Suite> {
        // A damaged note costs a transfer and nothing else.
        let kept: Option<Kept> = fs::read(self.kept_path())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(found) = self.ask(kept.as_ref()).await? else {
            let kept = kept.expect("only what is known can be unchanged");
            return self.prove(&kept);
        };
        let suite = self.prove(&found)?;
        // A mirror that lags behind, or someone who replays an old copy, does not take us back.
        if let Some(Ok(known)) = kept.as_ref().map(|kept| self.prove(kept))
            && let (Some(old), Some(new)) = (known.release.date, suite.release.date)
            && new < old
        {
            tracing::warn!(
                "{}: it is of {}, older than what is known already, of {}; keeping that",
                suite.file,
                date::format(new),
                date::format(old)
            );
            return Ok(known);
        }
        let json = serde_json::to_vec(&found).expect("texts can be written as JSON");
        write_unsynced(&self.kept_path(), &json)?;
        Ok(suite)
    }

    /// `None`: nothing new.
    async fn ask(&self, kept: Option<&Kept>) -> Result<Option<Kept>> {
        let detached = kept.is_some_and(|kept| kept.signature.is_some() || kept.unsigned);
        if !detached {
            match self.get("InRelease", kept).await {
                Ok(Answer::Unchanged) => return Ok(None),
                Ok(Answer::Found(document)) => return Ok(Some(self.keep(document, None, false)?)),
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let document = match self.get("Release", kept.filter(|_| detached)).await {
            Ok(Answer::Unchanged) => return Ok(None),
            Ok(Answer::Found(document)) => document,
            Err(error) if is_missing(&error) && detached => {
                // The archive has changed its ways.
                return match self.get("InRelease", None).await? {
                    Answer::Found(document) => Ok(Some(self.keep(document, None, false)?)),
                    Answer::Unchanged => Ok(None),
                };
            }
            Err(error) if is_missing(&error) => {
                return Err(Error::UnknownSuite {
                    suite: self.upstream.suite.clone(),
                    urls: self
                        .upstream
                        .suite_urls()
                        .iter()
                        .map(|url| error::shown(url))
                        .collect::<Vec<_>>()
                        .join(", "),
                }
                .into());
            }
            Err(error) => return Err(error),
        };
        match self.get("Release.gpg", None).await {
            Ok(Answer::Found(signature)) => {
                let signature = text_of(&signature)?;
                Ok(Some(self.keep(document, Some(signature), false)?))
            }
            Ok(Answer::Unchanged) => Ok(None),
            Err(error) if is_missing(&error) && matches!(self.upstream.trust, Trust::Anyone) => {
                Ok(Some(self.keep(document, None, true)?))
            }
            Err(error) => Err(error),
        }
    }

    async fn get(&self, file: &str, kept: Option<&Kept>) -> Result<Answer> {
        let urls: Vec<String> = self
            .upstream
            .suite_urls()
            .iter()
            .map(|url| format!("{url}/{file}"))
            .collect();
        let known = kept.map(|kept| Known {
            etag: kept.etag.clone(),
            last_modified: kept.last_modified.clone(),
        });
        self.fetcher
            .get(
                &format!("{file} of suite {}", self.upstream.suite),
                &urls,
                known.as_ref(),
                RELEASE_LIMIT,
                self.meter,
                self.cancel,
            )
            .await
    }

    fn keep(&self, document: Document, signature: Option<String>, unsigned: bool) -> Result<Kept> {
        Ok(Kept {
            text: text_of(&document)?,
            // Without a password: anybody may read the cache.
            url: error::shown(&document.url),
            etag: document.known.etag,
            last_modified: document.known.last_modified,
            signature,
            unsigned,
        })
    }

    fn prove(&self, kept: &Kept) -> Result<Suite> {
        let file = kept.url.clone();
        let untrusted = |reason: super::sign::Untrusted| Error::Untrusted {
            file: file.clone(),
            reason: reason.to_string(),
        };
        let text = match (&self.upstream.trust, &kept.signature) {
            (Trust::Anyone, _) => match super::sign::text_within(&kept.text) {
                Some(text) => text.map_err(untrusted)?,
                None => kept.text.clone(),
            },
            (Trust::Keyring(keyring), Some(signature)) => {
                keyring
                    .verify_detached(kept.text.as_bytes(), signature.as_bytes(), self.now)
                    .map_err(untrusted)?;
                kept.text.clone()
            }
            (Trust::Keyring(keyring), None) => keyring
                .verify_inline(&kept.text, self.now)
                .map_err(untrusted)?,
        };
        let release = release::parse(&text).map_err(|reason| Error::Malformed {
            file: file.clone(),
            reason,
        })?;
        if self.upstream.check_valid_until
            && let Some(until) = release.valid_until
            && until < seconds(self.now)
        {
            return Err(Error::Expired {
                file,
                until: date::format(until),
            }
            .into());
        }
        Ok(Suite {
            release,
            digest: Digest::of(text.as_bytes()),
            file,
        })
    }
}

fn text_of(document: &Document) -> Result<String> {
    String::from_utf8(document.bytes.clone()).map_err(|_| {
        Error::Malformed {
            file: error::shown(&document.url),
            reason: "not a text".to_owned(),
        }
        .into()
    })
}

fn is_missing(error: &crate::Error) -> bool {
    matches!(error, crate::Error::Fetch { attempts, .. }
        if attempts.iter().all(|(_, failure)| *failure == Failure::NotFound))
}

/// In place of an architecture: the only index of a flat archive, for whatever architectures there are.
pub(crate) const ANY: &str = "any";

/// One Packages file to read.
#[derive(Debug, Clone)]
pub(crate) struct IndexFile {
    /// Place of its upstream in the configuration.
    pub upstream: usize,
    pub component: String,
    /// `all` where those packages are listed apart, [`ANY`] in a flat archive.
    pub architecture: String,
    pub compression: Compression,
    pub sha256: Digest,
    /// In bytes, of the text.
    pub unpacked_size: Option<u64>,
    pub download: Download,
}

/// The indexes of a suite that are wanted. `is_there` tells which digests need not be fetched.
pub(crate) fn indexes(
    number: usize,
    upstream: &Upstream,
    suite: &Suite,
    architectures: &[String],
    is_there: &dyn Fn(&Digest) -> bool,
) -> Result<Vec<IndexFile>, Error> {
    let mut wanted: Vec<(String, String, bool)> = Vec::new();
    for component in upstream.components() {
        for architecture in architectures {
            wanted.push((component.clone(), architecture.clone(), true));
        }
        if suite.release.all_apart && !upstream.is_flat() {
            wanted.push((component, "all".to_owned(), false));
        }
    }
    if upstream.is_flat() {
        wanted = vec![("main".to_owned(), ANY.to_owned(), true)];
    }
    let mut files = Vec::new();
    for (component, architecture, required) in wanted {
        let directory = if upstream.is_flat() {
            String::new()
        } else {
            format!("{component}/binary-{architecture}/")
        };
        let plain = format!("{directory}Packages");
        let offered = Compression::ALL.into_iter().filter_map(|compression| {
            let path = format!("{plain}{}", compression.extension());
            let &(size, sha256) = suite.release.files.get(&path)?;
            Some((compression, path, size, sha256))
        });
        let unpacked = suite.release.files.get(&plain).map(|(size, _)| *size);
        let best = offered.min_by_key(|(compression, _, size, sha256)| {
            // Where the text's size is not told: indexes are packed to about a quarter.
            let cost = compression.cost(*size, unpacked.unwrap_or(size.saturating_mul(4)));
            (!is_there(sha256), cost)
        });
        let Some((compression, path, size, sha256)) = best else {
            if required {
                return Err(no_index(upstream, suite, &component, &architecture));
            }
            continue;
        };
        let mut urls = Vec::new();
        for url in upstream.suite_urls() {
            if suite.release.by_hash {
                urls.push(format!("{url}/{directory}by-hash/SHA256/{sha256}"));
            }
            urls.push(format!("{url}/{path}"));
        }
        files.push(IndexFile {
            upstream: number,
            component,
            architecture,
            compression,
            sha256,
            unpacked_size: unpacked,
            download: Download::new(
                format!("{path} of suite {}", upstream.suite),
                urls,
                Some(size),
                sha256,
            ),
        });
    }
    Ok(files)
}

fn no_index(upstream: &Upstream, suite: &Suite, component: &str, architecture: &str) -> Error {
    let mut there: Vec<&str> = suite
        .release
        .files
        .keys()
        .filter_map(|path| {
            let (directory, file) = path.rsplit_once('/')?;
            file.starts_with("Packages").then_some(directory)
        })
        .collect();
    there.sort_unstable();
    there.dedup();
    Error::NoIndex {
        file: suite.file.clone(),
        suite: upstream.suite.clone(),
        what: format!("component \"{component}\" and architecture {architecture}"),
        there: if there.is_empty() {
            "none".to_owned()
        } else {
            there.join(", ")
        },
    }
}
