//! One sync from beginning to end: what does upstream have, what do we want of it, fetch it, publish it. The parts are elsewhere.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::try_join_all;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::archive::Archive;
use super::closure::{Delta, delta};
use super::config::{Config, public_key_path};
use super::publish::{Prepared, Published, Publisher, State};
use super::select::{Draft, Missing, select};
use super::sign::{Keyring, SiteKey};
use super::snapshot::{Manifest, Snapshot};
use super::upstream::{IndexFile, Suite, Visit, indexes};
use super::{Error, snapshot};
use crate::CancellationToken;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{self, Result};
use crate::fetch::{Download, Fetcher};
use crate::place::create_dir;
use crate::pool::Batch;
use crate::progress::{Meter, Progress};

/// Brings the mirror up to date with its upstreams and publishes a new snapshot if there is something new; or publishes the pinned one.
///
/// If nothing has changed, this costs one conditional request for each suite. Whatever fails, what was published stays published.
pub async fn sync(
    config: &Config,
    cache: &Cache,
    progress: &dyn Progress,
    cancel: CancellationToken,
) -> Result<Snapshot> {
    config.check()?;
    let meter = Arc::new(Meter::default());
    let work = Work::new(config, cache, &meter, &cancel)?;
    meter.shown(progress, work.sync()).await
}

/// What [`sync`] would do. Fetches indexes, no packages, and publishes nothing.
pub async fn plan(
    config: &Config,
    cache: &Cache,
    progress: &dyn Progress,
    cancel: CancellationToken,
) -> Result<Plan> {
    config.check()?;
    let meter = Arc::new(Meter::default());
    let work = Work::new(config, cache, &meter, &cancel)?;
    meter.shown(progress, work.plan()).await
}

/// Writes the published snapshot to a tar file for a site without a line: all of it, or what it has more than the snapshot `base`.
///
/// The file says who made it: it is signed with this site's key.
pub async fn export_archive(
    config: &Config,
    cache: &Cache,
    archive: &Path,
    base: Option<&str>,
    progress: &dyn Progress,
    cancel: CancellationToken,
) -> Result<Snapshot> {
    config.check()?;
    let meter = Arc::new(Meter::default());
    let work = Work::new(config, cache, &meter, &cancel)?;
    meter.shown(progress, work.export(archive, base)).await
}

/// Publishes the snapshot of a tar file that another site has exported. Its id and digest are the same here and there; it is signed with
/// this site's key. `keyring` has the key of the site that made the file. Needs no network.
pub async fn import_archive(
    config: &Config,
    cache: &Cache,
    archive: &Path,
    keyring: &Keyring,
    progress: &dyn Progress,
    cancel: CancellationToken,
) -> Result<Snapshot> {
    // Upstreams are of no interest here.
    Config {
        pin: Some(String::new()),
        ..config.clone()
    }
    .check()?;
    let meter = Arc::new(Meter::default());
    let work = Work::new(config, cache, &meter, &cancel)?;
    meter.shown(progress, work.import(archive, keyring)).await
}

/// What is published now; `None` before the first sync. Changes nothing.
pub fn observe(config: &Config) -> Result<Option<Snapshot>> {
    let root = config.root();
    let Some(id) = snapshot::current(&root)? else {
        return Ok(None);
    };
    let manifest = Manifest::read(&root.join("snapshots").join(id))?;
    let path = public_key_path(&config.path);
    let key = match fs::read_to_string(&path) {
        Ok(key) => key,
        // The next sync puts it back.
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error::Error::io(format!("read {}", path.display()), error)),
    };
    Ok(Some(answer(
        config,
        &manifest,
        key,
        false,
        &Meter::default(),
    )))
}

/// Answer of [`plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of the snapshot that a sync would publish.
    pub digest: Digest,
    /// Whether that is published already.
    pub up_to_date: bool,
    pub package_count: usize,
    pub size_bytes: u64,
    /// Of those, what is not in the cache.
    pub download_count: usize,
    pub download_bytes: u64,
    /// From what is published to what would be.
    pub delta: Delta,
    pub missing: Vec<Missing>,
}

struct Work<'a> {
    config: &'a Config,
    cache: &'a Cache,
    fetcher: Fetcher,
    meter: &'a Arc<Meter>,
    cancel: &'a CancellationToken,
    now: SystemTime,
}

impl<'a> Work<'a> {
    fn new(
        config: &'a Config,
        cache: &'a Cache,
        meter: &'a Arc<Meter>,
        cancel: &'a CancellationToken,
    ) -> Result<Self> {
        Ok(Self {
            config,
            cache,
            fetcher: Fetcher::new(config.fetch.clone())?,
            meter,
            cancel,
            now: SystemTime::now(),
        })
    }

    async fn sync(&self) -> Result<Snapshot> {
        let _lock = self.lock().await?;
        let key = Arc::new(SiteKey::open(&self.config.site_key)?);
        let root = self.config.root();
        let publisher = self.publisher(&key);
        let crashed = publisher.remove_leftovers()?;
        if let Some(pin) = &self.config.pin {
            let (manifest, changed) = publisher.pin(pin, self.now)?;
            return Ok(answer(
                self.config,
                &manifest,
                key.public()?,
                changed,
                self.meter,
            ));
        }
        let (published, suites) = tokio::join!(
            self.with_publisher(&key, |publisher, _| publisher.observe()),
            self.suites()
        );
        let suites = suites?;
        let published = published?;
        let mut inputs = self.inputs(&suites);
        let state = State::read(&root);
        if !crashed
            && state.inputs == Some(inputs)
            && published.is_whole
            && let Some(current) = &published.manifest
            && state.snapshot.as_ref() == Some(&current.id)
        {
            publisher.publish_key()?;
            return Ok(answer(
                self.config,
                current,
                key.public()?,
                false,
                self.meter,
            ));
        }
        let batch = self.cache.pool().batch()?;
        let fetched = self
            .fetch_consistently(suites, &mut inputs, &published, &batch, &key)
            .await;
        let (draft, prepared) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => {
                // What came is kept for the next attempt; that this one failed is what there is to tell.
                drop(blocking(move || batch.seal()).await);
                return Err(error);
            }
        };
        self.stop_if_cancelled("publish")?;
        self.meter.phase("publish", 0, 0);
        let (manifest, changed) = self
            .publish(draft, published, prepared, batch, Some(inputs), &key)
            .await?;
        Ok(answer(
            self.config,
            &manifest,
            key.public()?,
            changed,
            self.meter,
        ))
    }

    async fn prepare(
        &self,
        draft: &Arc<Draft>,
        published: &Published,
        made: Option<(String, String)>,
        key: &Arc<SiteKey>,
    ) -> Result<Prepared> {
        let (draft, published) = (draft.clone(), published.clone());
        self.with_publisher(key, move |publisher, now| {
            let made = made
                .as_ref()
                .map(|(id, created)| (id.as_str(), created.as_str()));
            publisher.prepare(&draft, &published, made, now)
        })
        .await
    }

    async fn publish(
        &self,
        draft: Arc<Draft>,
        published: Published,
        prepared: Prepared,
        batch: Batch,
        inputs: Option<Digest>,
        key: &Arc<SiteKey>,
    ) -> Result<(Manifest, bool)> {
        self.with_publisher(key, move |publisher, now| {
            publisher.publish(&draft, &published, prepared, batch, inputs, now)
        })
        .await
    }

    /// Where waiting for the disk does not hold up anything.
    async fn with_publisher<T: Send + 'static>(
        &self,
        key: &Arc<SiteKey>,
        work: impl FnOnce(&Publisher<'_>, SystemTime) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let key = key.clone();
        let (config, pool, now) = (self.config.clone(), self.cache.pool().clone(), self.now);
        blocking(move || {
            let publisher = Publisher {
                path: &config.path,
                root: config.root(),
                name: &config.name,
                suite: &config.suite,
                keep: config.keep,
                pool: &pool,
                key: &key,
            };
            work(&publisher, now)
        })
        .await
    }

    async fn plan(&self) -> Result<Plan> {
        let root = self.config.root();
        let published = match snapshot::current(&root)? {
            Some(id) => Manifest::read(&root.join("snapshots").join(id)).ok(),
            None => None,
        };
        let (digest, packages, missing) = match &self.config.pin {
            Some(pin) => {
                let there = snapshot::list(&root)?;
                if !there.contains(pin) {
                    return Err(Error::UnknownSnapshot {
                        pin: pin.clone(),
                        there,
                    }
                    .into());
                }
                let manifest = Manifest::read(&root.join("snapshots").join(pin))?;
                (manifest.digest, manifest.packages, manifest.missing)
            }
            None => {
                let suites = self.suites().await?;
                let batch = self.cache.pool().batch()?;
                let (draft, _) = match self.select(&suites, &batch).await {
                    Err(error) if is_mismatch(&error) => {
                        let suites = self.suites().await?;
                        self.select(&suites, &batch).await?
                    }
                    selected => selected?,
                };
                blocking(move || batch.seal()).await?;
                (draft.digest, draft.packages, draft.missing)
            }
        };
        let mut plan = Plan {
            digest,
            up_to_date: published
                .as_ref()
                .is_some_and(|manifest| manifest.digest == digest),
            package_count: packages.len(),
            size_bytes: packages.iter().map(|entry| entry.size).sum(),
            download_count: 0,
            download_bytes: 0,
            delta: Delta::default(),
            missing,
        };
        for entry in &packages {
            if !self.cache.pool().holds(&entry.sha256)? {
                plan.download_count += 1;
                plan.download_bytes += entry.size;
            }
        }
        let key = |entry: &'_ super::select::Entry| {
            (
                entry.name.clone(),
                entry.architecture.clone(),
                entry.version.clone(),
            )
        };
        let before: Vec<_> = published
            .iter()
            .flat_map(|manifest| manifest.packages.iter().map(key))
            .collect();
        let after: Vec<_> = packages.iter().map(key).collect();
        fn borrowed(list: &[(String, String, String)]) -> impl Iterator<Item = (&str, &str, &str)> {
            list.iter()
                .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()))
        }
        plan.delta = delta(borrowed(&before), borrowed(&after));
        Ok(plan)
    }

    async fn export(&self, archive: &Path, base: Option<&str>) -> Result<Snapshot> {
        let _lock = self.lock().await?;
        let key = SiteKey::open(&self.config.site_key)?;
        let root = self.config.root();
        let Some(id) = snapshot::current(&root)? else {
            return Err(Error::NothingPublished {
                name: self.config.name.clone(),
                path: root.display().to_string(),
            }
            .into());
        };
        let manifest = Manifest::read(&root.join("snapshots").join(id))?;
        let answer = answer(self.config, &manifest, key.public()?, false, self.meter);
        let (archive, base) = (archive.to_owned(), base.map(str::to_owned));
        let (meter, cancel) = (self.meter.clone(), self.cancel.clone());
        blocking(move || {
            let archive = Archive {
                path: &archive,
                meter: &meter,
                cancel: &cancel,
            };
            archive.export(&root, &manifest, base.as_deref(), &key)
        })
        .await?;
        Ok(answer)
    }

    async fn import(&self, archive: &Path, keyring: &Keyring) -> Result<Snapshot> {
        let _lock = self.lock().await?;
        let key = Arc::new(SiteKey::open(&self.config.site_key)?);
        self.publisher(&key).remove_leftovers()?;
        let (archive, keyring) = (archive.to_owned(), keyring.clone());
        let (meter, cancel) = (self.meter.clone(), self.cancel.clone());
        let (pool, now) = (self.cache.pool().clone(), self.now);
        let suite = self.config.suite.clone();
        let (draft, made, batch) = blocking(move || {
            let archive = Archive {
                path: &archive,
                meter: &meter,
                cancel: &cancel,
            };
            archive.import(&pool, &keyring, &suite, now)
        })
        .await?;
        self.stop_if_cancelled("publish")?;
        self.meter.phase("publish", 0, 0);
        let draft = Arc::new(draft);
        let published = self
            .with_publisher(&key, |publisher, _| publisher.observe())
            .await?;
        let prepared = self.prepare(&draft, &published, Some(made), &key).await?;
        let (manifest, changed) = self
            .publish(draft, published, prepared, batch, None, &key)
            .await?;
        Ok(answer(
            self.config,
            &manifest,
            key.public()?,
            changed,
            self.meter,
        ))
    }

    fn publisher<'k>(&'k self, key: &'k SiteKey) -> Publisher<'k> {
        Publisher {
            path: &self.config.path,
            root: self.config.root(),
            name: &self.config.name,
            suite: &self.config.suite,
            keep: self.config.keep,
            pool: self.cache.pool(),
            key,
        }
    }

    fn stop_if_cancelled(&self, act: &str) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(error::Error::Cancelled {
                act: act.to_owned(),
            });
        }
        Ok(())
    }

    /// One sync of a mirror at a time; a second one waits.
    async fn lock(&self) -> Result<Flock<File>> {
        let root = self.config.root();
        create_dir(&root)?;
        let path = root.join(".lock");
        let failed = |error| error::Error::write(format!("lock {}", path.display()), &path, error);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK)) => {
                    file = back;
                    self.meter
                        .phase("wait for another sync of this mirror", 0, 0);
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
            tokio::select! {
                () = self.cancel.cancelled() => {
                    return Err(error::Error::Cancelled {
                        act: format!("wait for another sync of mirror \"{}\"", self.config.name),
                    });
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    }

    async fn suites(&self) -> Result<Vec<Suite>> {
        self.meter.phase("ask upstream", 0, 0);
        try_join_all(self.config.upstreams.iter().map(|upstream| async move {
            let visit = Visit {
                upstream,
                cache: self.cache,
                fetcher: &self.fetcher,
                meter: self.meter,
                cancel: self.cancel,
                now: self.now,
            };
            visit.suite().await
        }))
        .await
    }

    /// Of everything that a snapshot depends on.
    fn inputs(&self, suites: &[Suite]) -> Digest {
        let mut text = self.config.fingerprint().to_string();
        for suite in suites {
            text += &format!("\n{}", suite.digest);
        }
        Digest::of(text.as_bytes())
    }

    async fn select(&self, suites: &[Suite], batch: &Batch) -> Result<(Draft, Vec<Download>)> {
        let mut files: Vec<IndexFile> = Vec::new();
        let pool = self.cache.pool();
        let is_there = |digest: &Digest| pool.holds(digest).unwrap_or(false);
        for (number, (upstream, suite)) in self.config.upstreams.iter().zip(suites).enumerate() {
            files.extend(indexes(
                number,
                upstream,
                suite,
                &self.config.architectures,
                &is_there,
            )?);
        }
        let downloads: Vec<Download> = files.iter().map(|file| file.download.clone()).collect();
        self.fetch_all("fetch indexes", downloads, batch).await?;
        self.meter.phase("resolve packages", 0, 0);
        let (config, pool) = (self.config.clone(), pool.clone());
        blocking(move || select(&config, &files, &pool)).await
    }

    /// All of one state of upstream. If that has changed under our hands, its Release files are others now, and one more attempt is worth it.
    async fn fetch_consistently(
        &self,
        suites: Vec<Suite>,
        inputs: &mut Digest,
        published: &Published,
        batch: &Batch,
        key: &Arc<SiteKey>,
    ) -> Result<(Arc<Draft>, Prepared)> {
        let error = match self.fetch(&suites, published, batch, key).await {
            Err(error) if is_mismatch(&error) => error,
            fetched => return fetched,
        };
        let suites = self.suites().await?;
        let now = self.inputs(&suites);
        if now == *inputs {
            return Err(error);
        }
        tracing::info!("upstream has changed during the sync, beginning again: {error}");
        *inputs = now;
        self.fetch(&suites, published, batch, key).await
    }

    /// The packages, and meanwhile all of the snapshot that can be made without them.
    async fn fetch(
        &self,
        suites: &[Suite],
        published: &Published,
        batch: &Batch,
        key: &Arc<SiteKey>,
    ) -> Result<(Arc<Draft>, Prepared)> {
        let (draft, downloads) = self.select(suites, batch).await?;
        self.stop_if_cancelled("fetch packages")?;
        let there = published.packages();
        let downloads = draft
            .packages
            .iter()
            .zip(downloads)
            .filter(|(entry, _)| !there.contains(&(entry.file.as_str(), entry.sha256)))
            .map(|(_, download)| download)
            .collect();
        let draft = Arc::new(draft);
        let (prepared, fetched) = tokio::join!(
            self.prepare(&draft, published, None, key),
            self.fetch_all("fetch packages", downloads, batch)
        );
        fetched?;
        Ok((draft, prepared?))
    }

    async fn fetch_all(&self, phase: &str, downloads: Vec<Download>, batch: &Batch) -> Result<()> {
        let pool = self.cache.pool();
        let files = downloads.len();
        let mut absent = Vec::new();
        let mut bytes = 0;
        for download in downloads {
            if !pool.holds(&download.sha256)? {
                bytes += download.size.unwrap_or(0);
                absent.push(download);
            }
        }
        self.check_room(phase, bytes)?;
        self.meter.phase(phase, files as u64, bytes);
        self.meter.files_done((files - absent.len()) as u64);
        self.fetcher
            .fetch_unsynced(pool, absent, self.meter, self.cancel, batch)
            .await?;
        Ok(())
    }

    /// A disk that would be full in the end is told of in the beginning.
    fn check_room(&self, act: &str, needed: u64) -> Result<()> {
        let root = self.config.root();
        // The mirror's directory may not be there yet; its file system is.
        let root = root
            .ancestors()
            .find(|dir| dir.exists())
            .unwrap_or(Path::new("/"));
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let mut dirs = vec![self.cache.dir()];
        if device(root) != device(self.cache.dir()) {
            dirs.push(root);
        }
        for dir in dirs {
            let Ok(room) = nix::sys::statvfs::statvfs(dir) else {
                // Some file systems do not say; then the write will.
                continue;
            };
            let free = room.blocks_available() * room.fragment_size();
            if free < needed {
                return Err(error::Error::DiskFull {
                    act: act.to_owned(),
                    path: dir.to_owned(),
                    needed: Some(needed),
                    free: Some(free),
                });
            }
        }
        Ok(())
    }
}

fn answer(
    config: &Config,
    manifest: &Manifest,
    public_key: String,
    changed: bool,
    meter: &Meter,
) -> Snapshot {
    let dir = config.root().join("snapshots").join(&manifest.id);
    Snapshot {
        id: manifest.id.clone(),
        digest: manifest.digest,
        name: manifest.name.clone(),
        suite: manifest.suite.clone(),
        components: manifest.components.clone(),
        architectures: manifest.architectures.clone(),
        package_count: manifest.packages.len(),
        size_bytes: manifest.size_bytes(),
        missing: manifest.missing.clone(),
        bom: dir.join("sbom.json"),
        manifest: dir.join("manifest.json"),
        public_key,
        changed,
        requests: meter.requests(),
        bytes_received: meter.bytes_received(),
    }
}

/// Whether a file was not, or no longer, what its index says.
fn is_mismatch(error: &error::Error) -> bool {
    match error {
        error::Error::Fetch { attempts, .. } => {
            attempts.iter().any(|(_, failure)| failure.is_mismatch())
        }
        _ => false,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
