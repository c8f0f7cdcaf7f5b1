//! From an image's name to everything that it consists of: its manifests, by way of the pool, and the blobs that these name.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use crate::fetch::{Download, Fetcher};
use crate::pool::Pool;
use crate::progress::Meter;

use super::Image;
use super::client::{Client, Repository};
use super::error::{Error, Result};
use super::layout::Layout;
use super::manifest::{self, Descriptor, Document, InvalidManifest};
use super::reference::Digest;

/// Indexes within indexes, beyond which a document is not honest.
const DEPTH: usize = 4;

/// All that an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closure {
    pub(crate) source: Repository,
    pub(crate) source_digest: Digest,
    /// Children before their parents, so the root is the last.
    pub(crate) manifests: Vec<Descriptor>,
    /// Each one once.
    pub(crate) blobs: Vec<Descriptor>,
}

impl Closure {
    pub(crate) fn root(&self) -> &Descriptor {
        self.manifests.last().expect("an image has a manifest")
    }
}

pub(crate) struct Walk<'a> {
    pub(crate) client: &'a Client,
    pub(crate) pool: &'a Pool,
    pub(crate) fetcher: &'a Fetcher,
    pub(crate) meter: &'a Arc<Meter>,
    pub(crate) cancel: &'a CancellationToken,
}

/// Something still to be looked at.
enum Visit {
    Enter(Descriptor, usize),
    /// All that it needs is listed.
    Leave(Descriptor),
}

impl Walk<'_> {
    /// Manifests are in the pool afterwards; blobs only listed.
    pub(crate) async fn closure(&self, image: &Image, source_digest: Digest) -> Result<Closure> {
        let source = Repository::of(&image.source);
        let wrong = |reason| Error::Manifest {
            reference: image.source.to_string(),
            reason,
        };
        let (mut root, bytes) = self.manifest(&source, source_digest, None).await?;
        match manifest::parse(&root.media_type, &bytes).map_err(wrong)? {
            _ if image.platforms.is_empty() => {}
            Document::Index(manifests) => {
                let narrowed =
                    manifest::narrow(&bytes, &manifests, &image.platforms).map_err(wrong)?;
                if let Some(bytes) = narrowed {
                    root.digest = Digest(self.pool.put(&bytes)?);
                    root.size = bytes.len() as u64;
                }
            }
            Document::Image { config, .. } => {
                let bytes = self.config(&source, &config).await?;
                manifest::check_platform(&bytes, &image.platforms).map_err(wrong)?;
            }
        }
        let mut manifests = Vec::new();
        let mut blobs = BTreeMap::new();
        let mut visits = vec![Visit::Enter(root, 0)];
        while let Some(visit) = visits.pop() {
            let (descriptor, depth) = match visit {
                Visit::Enter(descriptor, depth) => (descriptor, depth),
                Visit::Leave(descriptor) => {
                    if !manifests.contains(&descriptor) {
                        manifests.push(descriptor);
                    }
                    continue;
                }
            };
            if depth > DEPTH {
                return Err(wrong(InvalidManifest::TooDeep(DEPTH)));
            }
            let (_, bytes) = self
                .manifest(&source, descriptor.digest, Some(&descriptor))
                .await?;
            let document = manifest::parse(&descriptor.media_type, &bytes).map_err(wrong)?;
            visits.push(Visit::Leave(descriptor));
            for needed in document.needs() {
                if needed.is_manifest() {
                    visits.push(Visit::Enter(needed, depth + 1));
                } else if matches!(document, Document::Index(_)) {
                    return Err(wrong(InvalidManifest::MediaType(needed.media_type)));
                } else {
                    blobs.insert(needed.digest, needed);
                }
            }
        }
        Ok(Closure {
            source,
            source_digest,
            manifests,
            blobs: blobs.into_values().collect(),
        })
    }

    /// A manifest from the pool, or from the registry into the pool. `said` is what the referring document says of it.
    async fn manifest(
        &self,
        repository: &Repository,
        digest: Digest,
        said: Option<&Descriptor>,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let wrong = |reason| Error::Manifest {
            reference: format!("{repository}@{digest}"),
            reason,
        };
        let kept = match self.pool.holds(&digest.0)? {
            true => Some(self.pool.read(&digest.0)?).filter(|bytes| Digest::of(bytes) == digest),
            false => None,
        };
        let (media_type, bytes) = match kept {
            Some(bytes) => (manifest::own_media_type(&bytes).map_err(wrong)?, bytes),
            None => {
                crate::audit::recheck(self.pool, &digest.0)?;
                let answer = self
                    .client
                    .manifest(repository, &digest.to_string())
                    .await?;
                // It is kept only if it is a manifest.
                manifest::parse(&answer.media_type, &answer.bytes).map_err(wrong)?;
                self.pool.put(&answer.bytes)?;
                (answer.media_type, answer.bytes)
            }
        };
        let got = bytes.len() as u64;
        if let Some(said) = said
            && said.size != got
        {
            return Err(wrong(InvalidManifest::WrongSize {
                digest,
                said: said.size,
                got,
            }));
        }
        let descriptor = Descriptor {
            media_type,
            digest,
            size: got,
            platform: None,
            annotations: serde_json::Map::new(),
        };
        Ok((descriptor, bytes))
    }

    async fn config(&self, repository: &Repository, config: &Descriptor) -> Result<Vec<u8>> {
        let (url, headers) = self.client.blob(repository, &config.digest).await?;
        let name = format!("{} of {repository}", config.digest);
        let download = Download {
            headers,
            ..Download::new(name, vec![url], Some(config.size), config.digest.0)
        };
        self.fetcher
            .fetch_all(self.pool, vec![download], self.meter, self.cancel)
            .await?;
        Ok(self.pool.read(&config.digest.0)?)
    }
}

/// Whether an image of a layout is whole. A file changed after `published` is read, others are believed by their size. `known` holds
/// what was found by then.
pub(crate) fn check(
    layout: &Layout,
    root: &Descriptor,
    published: SystemTime,
    known: &mut HashMap<Digest, Result<(), String>>,
) -> Result<(), String> {
    let mut open = vec![root.clone()];
    let mut first = Ok(());
    while let Some(descriptor) = open.pop() {
        let digest = descriptor.digest;
        let found = known
            .entry(digest)
            .or_insert_with(|| check_file(&layout.blob(&digest), &descriptor, published))
            .clone();
        let found = found.and_then(|()| {
            if descriptor.is_manifest() {
                let bytes = layout
                    .read(&descriptor)
                    .map_err(|error| error.to_string())?;
                let document = manifest::parse(&descriptor.media_type, &bytes)
                    .map_err(|error| format!("{digest}: {error}"))?;
                open.extend(document.needs());
            }
            Ok(())
        });
        if first.is_ok() {
            first = found;
        }
    }
    first
}

fn check_file(path: &Path, said: &Descriptor, published: SystemTime) -> Result<(), String> {
    let digest = said.digest;
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{digest} is missing"),
        _ => format!("{digest} cannot be read: {error}"),
    };
    let found = std::fs::metadata(path).map_err(unreadable)?;
    if found.len() != said.size {
        return Err(format!(
            "{digest} has {} of {} bytes",
            found.len(),
            said.size
        ));
    }
    let touched = found.modified().is_ok_and(|modified| modified >= published);
    if touched && crate::Digest::of_file(path).map_err(unreadable)?.0 != digest.0 {
        return Err(format!("{digest} has been changed"));
    }
    Ok(())
}
