//! The registry mirror: container images by tag or digest, with every platform or the chosen ones, kept as an OCI image layout, put
//! into a local registry, or both.
//!
//! Everything is verified by its digest on the way into the pool. What the pool has is not fetched again, what the local registry has
//! is not pushed again. Images that are no longer wanted leave the layout; what was pushed stays in the registry, because others
//! may use it.

mod auth;
mod client;
mod error;
mod layout;
mod manifest;
mod reference;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nix::fcntl::{Flock, FlockArg};
use tokio_util::sync::CancellationToken;

pub use auth::{AuthFile, Credentials, InvalidAuthFile};
pub use error::{Error, Result};
pub use manifest::{InvalidManifest, InvalidPlatform, Platform};
pub use reference::{Digest, InvalidReference, LocalName, Reference, is_registry};

use client::{Client, Repository};
use layout::Layout;
use manifest::Descriptor;
use walk::{Closure, Walk};

use crate::audit::{adopt, recheck};
use crate::error::{Error as MirrorError, Failure};
use crate::fetch::{Download, Fetcher};
use crate::pool::Pool;
use crate::progress::{Meter, Progress};

/// How often credentials that ran out during the download are renewed without a file coming of it.
const RENEWALS: u32 = 3;

/// What to mirror, and where to.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub images: BTreeMap<LocalName, Image>,
    /// Directory of the OCI image layout.
    pub layout: Option<PathBuf>,
    /// Registry to push to: a host, with a port where it is not the usual one.
    pub push: Option<String>,
    /// Registries that are asked over plain http.
    pub plain_http: BTreeSet<String>,
    pub auth: AuthFile,
}

/// One image, and which parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub source: Reference,
    /// Empty: all. Otherwise an index is narrowed to these, and gets a digest of its own.
    pub platforms: Vec<Platform>,
}

/// An image in the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    pub digest: Digest,
    /// Upstream's; another one if the index was narrowed.
    pub source_digest: Digest,
}

/// What a sync has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrored {
    pub images: BTreeMap<LocalName, Copy>,
    /// Of all manifests and blobs, each counted once.
    pub size_bytes: u64,
    pub blobs: u64,
    /// Layers and configurations that came over the line now.
    pub fetched: u64,
    /// Blobs whose bytes were sent now.
    pub pushed: u64,
}

/// A layout as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    pub images: BTreeMap<LocalName, Digest>,
    /// Images that are not whole: why, in words.
    pub damaged: BTreeMap<LocalName, String>,
}

/// Reads the credentials that `docker login`, `podman login` and `skopeo login` have written.
pub fn read_auth_file(path: &Path) -> Result<AuthFile> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        MirrorError::io(format!("read credentials from {}", path.display()), error)
    })?;
    AuthFile::parse(&text).map_err(|reason| Error::AuthFile {
        path: path.to_owned(),
        reason,
    })
}

/// The digests that upstream's registries have now.
pub async fn resolve(
    config: &Config,
    fetcher: &Fetcher,
    cancel: &CancellationToken,
) -> Result<BTreeMap<LocalName, Digest>> {
    let client = client(config, fetcher, &Arc::default());
    let mut asked = Vec::new();
    for (name, image) in &config.images {
        let client = &client;
        asked.push(async move {
            let digest = digest_of(client, &image.source).await?;
            Ok((name.clone(), digest))
        });
    }
    let work = at_once(fetcher, asked);
    let found = stoppable("look for images", cancel, work).await?;
    Ok(found.into_iter().collect())
}

/// The digests that the local registry has now under the images' names; those it does not have are left out.
pub async fn pushed(
    config: &Config,
    fetcher: &Fetcher,
    cancel: &CancellationToken,
) -> Result<BTreeMap<LocalName, Digest>> {
    let Some(registry) = &config.push else {
        return Ok(BTreeMap::new());
    };
    let client = client(config, fetcher, &Arc::default());
    let mut asked = Vec::new();
    for name in config.images.keys() {
        let client = &client;
        asked.push(async move {
            let found = client.resolve(&local(registry, name), &name.tag).await?;
            Ok(found.map(|digest| (name.clone(), digest)))
        });
    }
    let work = at_once(fetcher, asked);
    let found = stoppable("look for pushed images", cancel, work).await?;
    Ok(found.into_iter().flatten().collect())
}

/// Makes the mirror what `config` says.
pub async fn sync(
    config: &Config,
    pool: &Pool,
    fetcher: &Fetcher,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Mirrored> {
    let meter = Arc::new(Meter::default());
    let sync = Sync {
        config,
        pool,
        fetcher,
        client: client(config, fetcher, &meter),
        meter: meter.clone(),
        cancel,
    };
    let work = stoppable("mirror images", cancel, sync.run());
    meter.shown(progress, work).await
}

/// The layout in a directory; `None` if there is none. Sizes and times are looked at; a file changed since is read.
pub fn observe(dir: &Path) -> Result<Option<Observed>> {
    let layout = Layout::new(dir);
    let Some(images) = layout.images()? else {
        return Ok(None);
    };
    let published = layout.published()?;
    let mut observed = Observed::default();
    let mut sound: HashMap<Digest, Result<(), String>> = HashMap::new();
    for (name, root) in images {
        if let Err(words) = walk::check(&layout, &root, published, &mut sound) {
            observed.damaged.insert(name.clone(), words);
        }
        observed.images.insert(name, root.digest);
    }
    Ok(Some(observed))
}

/// Removes a layout, and nothing else that is in its directory.
pub fn remove(dir: &Path) -> Result<()> {
    Ok(Layout::new(dir).remove()?)
}

fn client(config: &Config, fetcher: &Fetcher, meter: &Arc<Meter>) -> Client {
    Client::new(
        fetcher.clone(),
        meter.clone(),
        config.plain_http.clone(),
        config.auth.clone(),
    )
}

fn local(registry: &str, name: &LocalName) -> Repository {
    Repository {
        registry: registry.to_owned(),
        name: name.repository.clone(),
    }
}

async fn digest_of(client: &Client, source: &Reference) -> Result<Digest> {
    if let Some(digest) = source.digest {
        return Ok(digest);
    }
    client
        .resolve(&Repository::of(source), &source.version())
        .await?
        .ok_or_else(|| Error::NotFound {
            reference: source.to_string(),
        })
}

/// Runs work side by side, as much of it as the downloader does; ends with the first failure.
async fn at_once<T>(
    fetcher: &Fetcher,
    work: Vec<impl Future<Output = Result<T>>>,
) -> Result<Vec<T>> {
    stream::iter(work)
        .buffer_unordered(fetcher.options().parallel)
        .try_collect()
        .await
}

async fn stoppable<T>(
    act: &str,
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(MirrorError::Cancelled { act: act.to_owned() }.into()),
        done = work => done,
    }
}

struct Sync<'a> {
    config: &'a Config,
    pool: &'a Pool,
    fetcher: &'a Fetcher,
    client: Client,
    meter: Arc<Meter>,
    cancel: &'a CancellationToken,
}

impl Sync<'_> {
    async fn run(&self) -> Result<Mirrored> {
        if let Some(dir) = &self.config.layout {
            self.take_stock(dir).await?;
        }
        let images = self.closures().await?;
        let fetched = self.fetch_blobs(&images).await?;
        let all: BTreeMap<Digest, u64> = images
            .values()
            .flat_map(|image| image.manifests.iter().chain(&image.blobs))
            .map(|descriptor| (descriptor.digest, descriptor.size))
            .collect();
        if let Some(dir) = &self.config.layout {
            self.meter.phase("write the layout", 0, 0);
            let (dir, pool, images) = (dir.clone(), self.pool.clone(), images.clone());
            blocking(move || publish(&Layout::new(&dir), &pool, &images)).await?;
        }
        let pushed = match &self.config.push {
            Some(registry) => self.push_all(registry, &images).await?,
            None => 0,
        };
        let copies = images.into_iter().map(|(name, image)| {
            let copy = Copy {
                digest: image.root().digest,
                source_digest: image.source_digest,
            };
            (name, copy)
        });
        Ok(Mirrored {
            images: copies.collect(),
            size_bytes: all.values().sum(),
            blobs: all.len() as u64,
            fetched,
            pushed,
        })
    }

    /// What the layout has and is sound need not be fetched. What was damaged must not be taken from the pool: it may be the same file.
    async fn take_stock(&self, dir: &Path) -> Result<()> {
        let (dir, pool) = (dir.to_owned(), self.pool.clone());
        blocking(move || {
            let layout = Layout::new(&dir);
            let Ok(Some(images)) = layout.images() else {
                return Ok(());
            };
            let published = layout.published()?;
            let mut sound = HashMap::new();
            for root in images.values() {
                // Which image suffers does not matter here, only which files.
                drop(walk::check(&layout, root, published, &mut sound));
            }
            for (digest, found) in &sound {
                if found.is_ok() {
                    adopt(&pool, &digest.0, &layout.blob(digest))?;
                } else {
                    recheck(&pool, &digest.0)?;
                    layout.discard(digest)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn closures(&self) -> Result<BTreeMap<LocalName, Closure>> {
        self.meter
            .phase("read manifests", self.config.images.len() as u64, 0);
        let walk = Walk {
            client: &self.client,
            pool: self.pool,
            fetcher: self.fetcher,
            meter: &self.meter,
            cancel: self.cancel,
        };
        let mut closures = Vec::new();
        for (name, image) in &self.config.images {
            let walk = &walk;
            closures.push(async move {
                let source_digest = digest_of(walk.client, &image.source).await?;
                let closure = walk.closure(image, source_digest).await?;
                walk.meter.file_done();
                Ok((name.clone(), closure))
            });
        }
        let closures = at_once(self.fetcher, closures).await?;
        Ok(closures.into_iter().collect())
    }

    /// Has every blob in the pool; answers with how many came over the line.
    async fn fetch_blobs(&self, images: &BTreeMap<LocalName, Closure>) -> Result<u64> {
        let mut missing: BTreeMap<Digest, (&Repository, &Descriptor)> = BTreeMap::new();
        for image in images.values() {
            for blob in &image.blobs {
                if self.pool.size(&blob.digest.0)? != Some(blob.size) {
                    missing.entry(blob.digest).or_insert((&image.source, blob));
                }
            }
        }
        let bytes = missing.values().map(|(_, blob)| blob.size).sum();
        self.meter
            .phase("fetch layers", missing.len() as u64, bytes);
        let mut fetched = 0;
        let mut renewals = 0;
        loop {
            let mut downloads = Vec::new();
            for (digest, (repository, blob)) in &missing {
                if self.pool.holds(&digest.0)? {
                    continue;
                }
                let (url, headers) = self.client.blob(repository, digest).await?;
                let name = format!("{digest} of {repository}");
                downloads.push(Download {
                    headers,
                    ..Download::new(name, vec![url], Some(blob.size), digest.0)
                });
            }
            let left = downloads.len();
            let done = self
                .fetcher
                .fetch_all(self.pool, downloads, &self.meter, self.cancel)
                .await;
            match done {
                Ok(summary) => return Ok(fetched + summary.fetched),
                Err(error) if refused_login(&error) => {
                    let mut now_left = 0;
                    for digest in missing.keys() {
                        now_left += usize::from(!self.pool.holds(&digest.0)?);
                    }
                    fetched += (left - now_left) as u64;
                    renewals = if now_left < left { 0 } else { renewals + 1 };
                    if renewals >= RENEWALS {
                        return Err(error.into());
                    }
                    let repositories: BTreeSet<String> = missing
                        .values()
                        .map(|(repository, _)| repository.to_string())
                        .collect();
                    for repository in repositories {
                        let (repository, _) = missing
                            .values()
                            .find(|(known, _)| known.to_string() == repository)
                            .expect("it was listed from there");
                        self.client.renew(repository).await?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Answers with the number of blobs whose bytes were sent.
    async fn push_all(&self, registry: &str, images: &BTreeMap<LocalName, Closure>) -> Result<u64> {
        let blobs: BTreeSet<(&str, Digest)> = images
            .iter()
            .flat_map(|(name, image)| {
                image
                    .blobs
                    .iter()
                    .map(|blob| (name.repository.as_str(), blob.digest))
            })
            .collect();
        let bytes = images.values().flat_map(|image| &image.blobs);
        let bytes: BTreeMap<Digest, u64> = bytes.map(|blob| (blob.digest, blob.size)).collect();
        self.meter
            .phase("push", blobs.len() as u64, bytes.values().sum());
        let mut pushed = 0;
        // Which repository of the registry has a blob for certain: another one can take it from there.
        let mut homes: HashMap<Digest, String> = HashMap::new();
        let mut done: BTreeSet<(&str, Digest)> = BTreeSet::new();
        for (name, image) in images {
            let repository = local(registry, name);
            let missing: Vec<&Descriptor> = image
                .blobs
                .iter()
                .filter(|blob| done.insert((&name.repository, blob.digest)))
                .collect();
            let mut pushes = Vec::new();
            for blob in &missing {
                pushes.push(self.push_blob(&repository, blob, homes.get(&blob.digest)));
            }
            let sent = at_once(self.fetcher, pushes).await?;
            pushed += sent.into_iter().map(u64::from).sum::<u64>();
            for blob in missing {
                homes.insert(blob.digest, name.repository.clone());
            }
            // Children first: a registry takes no index whose images it does not know.
            for manifest in &image.manifests {
                let version = manifest.digest.to_string();
                self.push_manifest(&repository, &version, manifest).await?;
            }
            self.push_manifest(&repository, &name.tag, image.root())
                .await?;
        }
        Ok(pushed)
    }

    async fn push_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        home: Option<&String>,
    ) -> Result<bool> {
        let there = self.client.has_blob(repository, &blob.digest).await?;
        if !there {
            let file = self.pool.path(&blob.digest.0);
            let home = home.filter(|home| **home != repository.name);
            self.client
                .put_blob(repository, blob, &file, home.map(String::as_str))
                .await?;
        }
        self.meter.file_done();
        Ok(!there)
    }

    async fn push_manifest(
        &self,
        repository: &Repository,
        version: &str,
        manifest: &Descriptor,
    ) -> Result<()> {
        if self
            .client
            .has_manifest(repository, version, &manifest.digest)
            .await?
        {
            return Ok(());
        }
        let bytes = self.pool.read(&manifest.digest.0)?;
        self.client
            .put_manifest(repository, version, &manifest.media_type, &bytes)
            .await
    }
}

/// Links what the images need, names them, and then removes the rest.
fn publish(layout: &Layout, pool: &Pool, images: &BTreeMap<LocalName, Closure>) -> Result<()> {
    let failed =
        |error: io::Error| MirrorError::io(format!("lock {}", layout.dir().display()), error);
    crate::place::create_dir(&layout.blobs())?;
    let dir = File::open(layout.dir()).map_err(failed)?;
    // Two at once would remove what the other has linked and not yet named.
    let _lock =
        Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
    let mut needed = BTreeSet::new();
    for descriptor in images
        .values()
        .flat_map(|image| image.manifests.iter().chain(&image.blobs))
    {
        if needed.insert(descriptor.digest) {
            pool.link(&descriptor.digest.0, &layout.blob(&descriptor.digest))?;
        }
    }
    let roots: BTreeMap<LocalName, Descriptor> = images
        .iter()
        .map(|(name, image)| (name.clone(), image.root().clone()))
        .collect();
    layout.publish(&roots)?;
    layout.sweep(&needed)?;
    Ok(())
}

fn refused_login(error: &MirrorError) -> bool {
    match error {
        MirrorError::Fetch { attempts, .. } => attempts
            .iter()
            .any(|(_, failure)| matches!(failure, Failure::Status(401))),
        _ => false,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("work on files does not panic")
}
