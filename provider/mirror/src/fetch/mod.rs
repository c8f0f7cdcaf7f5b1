//! The downloader: many files at once over kept-alive connections, each one resumed, verified and only then kept in the pool.
//!
//! Addresses are `http:`, `https:`, `file:` and `copy:`. Nothing is interpreted here: a file is its size and its SHA-256. The documents
//! that have no digest yet (Release files, registry answers) are read into memory by [`Fetcher::get`].

mod course;
mod document;
mod local;
mod proxies;
mod trust;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE, RETRY_AFTER};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::course::{Broken, Course, origin};
pub use self::document::{Answer, Document, Known};
use self::local::{local_path, read_local};
pub use self::proxies::Proxies;
use crate::digest::Digest;
use crate::error::{Error, Failure, Result};
use crate::pool::{Batch, Claim, Partial, Pool};
use crate::progress::Meter;

/// How to fetch. [`Default`] is right for a site's line; tests shorten the times.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files at the same time, over all hosts, each over a connection of its own. Packages are small and upstream is some milliseconds away: this
    /// many fill a site's line, and other mirror tools ask no fewer.
    pub parallel: usize,
    pub connect_timeout: Duration,
    /// The longest time without one byte.
    pub stall_timeout: Duration,
    /// Attempts for each address of a file, if what goes wrong may pass.
    pub tries: u32,
    /// Before the second attempt; doubled for each further one.
    pub backoff: Duration,
    pub proxies: Proxies,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 20,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            tries: 4,
            backoff: Duration::from_millis(500),
            proxies: Proxies::default(),
        }
    }
}

/// One file to have in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// What errors call it.
    pub name: String,
    /// Tried in this order; those of a host that is down come last.
    pub urls: Vec<String>,
    /// In bytes, if it is known.
    pub size: Option<u64>,
    pub sha256: Digest,
    /// Sent with each request, for example an `Authorization`.
    pub headers: HeaderMap,
}

impl Download {
    pub fn new(
        name: impl Into<String>,
        urls: Vec<String>,
        size: Option<u64>,
        sha256: Digest,
    ) -> Self {
        Self {
            name: name.into(),
            urls,
            size,
            sha256,
            headers: HeaderMap::new(),
        }
    }
}

/// What [`Fetcher::fetch_all`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that came over the line, wholly or in part.
    pub fetched: u64,
    /// Files that the pool had already.
    pub reused: u64,
}

/// Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: reqwest::Client,
    options: Options,
    /// Hosts that did not answer of late.
    down: Mutex<HashSet<String>>,
}

impl Fetcher {
    pub fn new(options: Options) -> Result<Self> {
        let tls = trust::tls().map_err(|error| Error::Client(chain(&error)))?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("ondol-mirror/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(options.parallel)
            .tcp_nodelay(true);
        if !options.proxies.is_empty() {
            let proxies = options.proxies.clone().with_environment();
            builder = builder.proxy(
                reqwest::Proxy::custom(move |url| {
                    let proxy = proxies.of(url.scheme(), url.host_str().unwrap_or_default())?;
                    reqwest::Url::parse(proxy).ok()
                })
                .no_proxy(reqwest::NoProxy::from_env()),
            );
        }
        let client = builder
            .build()
            .map_err(|error| Error::Client(chain(&error)))?;
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                options,
                down: Mutex::default(),
            }),
        })
    }

    /// For requests of another kind over the same connections and proxies.
    pub fn client(&self) -> &reqwest::Client {
        &self.shared.client
    }

    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Has every file in the pool when it returns without an error, and on the disk. Stops at the first file that cannot be had; what was
    /// fetched by then stays, also what was half fetched.
    ///
    /// The caller begins the [`Meter`]'s phase.
    pub async fn fetch_all(
        &self,
        pool: &Pool,
        downloads: Vec<Download>,
        meter: &Arc<Meter>,
        cancel: &CancellationToken,
    ) -> Result<Summary> {
        let mut reused = 0;
        let mut absent = Vec::new();
        for download in downloads {
            if pool.holds(&download.sha256)? {
                reused += 1;
                meter.file_done();
            } else {
                absent.push(download);
            }
        }
        let batch = pool.batch()?;
        let fetched = self
            .fetch_unsynced(pool, absent, meter, cancel, &batch)
            .await;
        if matches!(fetched, Ok(0)) {
            batch.unused()?;
            return Ok(Summary { fetched: 0, reused });
        }
        let sealed = tokio::task::spawn_blocking(move || batch.seal())
            .await
            .expect("syncing does not panic");
        fetched.and_then(|fetched| sealed.map(|()| Summary { fetched, reused }))
    }

    /// As [`Fetcher::fetch_all`], of files that the pool does not hold, and the caller seals the batch. Answers how many came over the line.
    pub(crate) async fn fetch_unsynced(
        &self,
        pool: &Pool,
        downloads: Vec<Download>,
        meter: &Arc<Meter>,
        cancel: &CancellationToken,
        batch: &Batch,
    ) -> Result<u64> {
        let mut seen = HashSet::new();
        let mut queue: VecDeque<Download> = downloads.into();
        queue.retain(|download| {
            let is_new = seen.insert(download.sha256);
            if !is_new {
                meter.file_done();
            }
            is_new
        });
        if queue.is_empty() {
            return Ok(0);
        }
        let stop = cancel.child_token();
        let workers = self.shared.options.parallel.clamp(1, queue.len());
        let queue = Arc::new(Mutex::new(queue));
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (fetcher, pool) = (self.clone(), pool.clone());
            let (queue, meter, stop) = (queue.clone(), meter.clone(), stop.clone());
            let ahead = batch.ahead();
            tasks.spawn(async move {
                let mut fetched = 0;
                loop {
                    let next = queue
                        .lock()
                        .expect("nothing panics under this lock")
                        .pop_front();
                    let Some(download) = next else {
                        return Ok(fetched);
                    };
                    let work = fetcher.fetch(&pool, &download, &meter);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {
                            return Err(Error::Cancelled { act: format!("fetch {}", download.name) });
                        }
                        done = work => done?,
                    }
                    ahead.came_in(download.size.unwrap_or_default())?;
                    meter.file_done();
                    fetched += 1;
                }
            });
        }
        // A task that stops because another failed says only that: the first error is the one to tell.
        let mut first = None;
        let mut all = 0;
        while let Some(done) = tasks.join_next().await {
            match done.expect("a download does not panic") {
                Ok(fetched) => all += fetched,
                Err(error) => {
                    stop.cancel();
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(all), Err)
    }

    /// One file into the pool.
    async fn fetch(&self, pool: &Pool, download: &Download, meter: &Meter) -> Result<()> {
        let Some(mut partial) = claim(pool, &download.sha256).await? else {
            return Ok(());
        };
        let kept = partial.resume()?;
        meter.resumed(kept);
        // What a run before this one left may be of another version of the file; what this run begins may not.
        let mut inherited = kept > 0;
        let mut course = Course::new(self, &download.name, &download.urls);
        while let Some(url) = course.next().await {
            if let Err(broken) = self.read_into(&mut partial, &url, download, meter).await {
                course.failed(broken)?;
                continue;
            }
            let size = partial.size();
            let Err(failure) = partial.admit()? else {
                self.note(&url, true);
                return Ok(());
            };
            meter.discarded(size);
            match claim(pool, &download.sha256).await? {
                Some(again) => partial = again,
                None => return Ok(()),
            }
            if std::mem::take(&mut inherited) {
                course.again();
            } else {
                course.failed(failure.into())?;
            }
        }
        Err(course.end())
    }

    /// Reads the rest of a file. What came is kept whether or not the rest did.
    async fn read_into(
        &self,
        partial: &mut Partial,
        url: &str,
        download: &Download,
        meter: &Meter,
    ) -> Result<(), Broken> {
        let restart = |partial: &mut Partial| {
            meter.discarded(partial.size());
            partial.restart().map_err(Broken::Local)
        };
        if download.size.is_some_and(|size| partial.size() > size) {
            restart(partial)?;
        }
        if download.size == Some(partial.size()) && partial.size() > 0 {
            return Ok(());
        }
        if let Some(path) = local_path(url) {
            return read_local(partial, &path, download, meter).await;
        }
        let mut response = loop {
            let mut headers = download.headers.clone();
            let from = partial.size();
            if from > 0 {
                let range = format!("bytes={from}-");
                headers.insert(RANGE, range.parse().expect("digits make a header"));
            }
            let response = self.request(url, headers, meter).await?;
            if from > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                restart(partial)?;
                continue;
            }
            status_of(&response)?;
            if from > 0 {
                let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
                    && response
                        .headers()
                        .get(CONTENT_RANGE)
                        .and_then(|range| range.to_str().ok())
                        .is_some_and(|range| range.starts_with(&format!("bytes {from}-")));
                if !goes_on {
                    restart(partial)?;
                    if response.status() == StatusCode::PARTIAL_CONTENT {
                        continue;
                    }
                }
            }
            break response;
        };
        let expected = response
            .content_length()
            .map(|length| partial.size() + length);
        if let (Some(size), Some(expected)) = (download.size, expected)
            && size != expected
        {
            return Err(Failure::WrongSize {
                got: expected,
                expected: size,
            }
            .into());
        }
        while let Some(chunk) = self.chunk(&mut response, partial.size(), expected).await? {
            check_length(partial, &chunk, download)?;
            partial.write(&chunk).map_err(Broken::Local)?;
            meter.received(chunk.len() as u64);
        }
        match download.size {
            Some(size) if partial.size() < size => Err(Failure::Truncated {
                got: partial.size(),
                expected: Some(size),
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn note(&self, url: &str, up: bool) {
        let mut down = self
            .shared
            .down
            .lock()
            .expect("nothing panics under this lock");
        if !up {
            down.insert(origin(url).to_owned());
        } else if !down.is_empty() {
            down.remove(origin(url));
        }
    }

    async fn request(
        &self,
        url: &str,
        headers: HeaderMap,
        meter: &Meter,
    ) -> Result<reqwest::Response, Broken> {
        meter.request();
        let stall = self.shared.options.stall_timeout;
        let send = self.shared.client.get(url).headers(headers).send();
        match tokio::time::timeout(stall, send).await {
            Err(_) => Err(Failure::Stalled(stall).into()),
            Ok(Err(error)) => Err(Failure::Transport(chain(&error.without_url())).into()),
            Ok(Ok(response)) => Ok(response),
        }
    }

    async fn chunk(
        &self,
        response: &mut reqwest::Response,
        got: u64,
        expected: Option<u64>,
    ) -> Result<Option<Bytes>, Broken> {
        let stall = self.shared.options.stall_timeout;
        match tokio::time::timeout(stall, response.chunk()).await {
            Err(_) => Err(Failure::Stalled(stall).into()),
            // The library has several words for a body that ends early or a connection that breaks off; for us they are one.
            Ok(Err(_)) => Err(Failure::Truncated { got, expected }.into()),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }
}

/// The right to write a file; `None` if it is in the pool already. Waits while another task or process writes it.
async fn claim(pool: &Pool, digest: &Digest) -> Result<Option<Partial>> {
    loop {
        match pool.partial(digest)? {
            Claim::Mine(partial) => return Ok(Some(partial)),
            Claim::Done => return Ok(None),
            Claim::Taken => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn status_of(response: &reqwest::Response) -> Result<(), Broken> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return Err(Failure::NotFound.into());
    }
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    Err(Broken::Remote(Failure::Status(status.as_u16()), after))
}

fn check_length(partial: &Partial, chunk: &[u8], download: &Download) -> Result<(), Broken> {
    let got = partial.size() + chunk.len() as u64;
    match download.size {
        Some(expected) if got > expected => Err(Failure::WrongSize { got, expected }.into()),
        _ => Ok(()),
    }
}

/// The library's error and all that it says of why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let reason = source.to_string();
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        next = source.source();
    }
    text
}
