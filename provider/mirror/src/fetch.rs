//! The downloader: many files at once over kept-alive connections, each one resumed, verified and only then kept in the pool.
//!
//! Addresses are `http:`, `https:`, `file:` and `copy:`. Nothing is interpreted here: a file is its size and its SHA-256. The documents
//! that have no digest yet (Release files, registry answers) are read into memory by [`Fetcher::get`].

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{
    CONTENT_RANGE, ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RANGE,
    RETRY_AFTER,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::error::{Error, Failure, Result};
use crate::pool::{Batch, Claim, Partial, Pool};
use crate::progress::Meter;

/// How to fetch. [`Default`] is right for a site's line; tests shorten the times.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files at the same time, over all hosts.
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
            parallel: 8,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            tries: 4,
            backoff: Duration::from_millis(500),
            proxies: Proxies::default(),
        }
    }
}

/// Proxies of the machine's apt. Where apt names none, the environment's `http_proxy`, `https_proxy` and `no_proxy` count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    /// By host; `None` is a direct connection.
    pub hosts: BTreeMap<String, Option<String>>,
}

impl Proxies {
    /// From what `apt-config dump` prints: `Acquire::http::Proxy`, `Acquire::https::Proxy` and their per-host forms (apt-transport-http(1)).
    pub fn from_apt_config(dump: &str) -> Self {
        let mut proxies = Self::default();
        for line in dump.lines() {
            let Some((key, value)) = line
                .trim()
                .strip_suffix(';')
                .and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            let value = value.trim_matches('"');
            let key: Vec<&str> = key.split("::").collect();
            let is = |index: usize, word: &str| {
                key.get(index)
                    .is_some_and(|part: &&str| part.eq_ignore_ascii_case(word))
            };
            if value.is_empty() || !is(0, "Acquire") || !is(2, "Proxy") {
                continue;
            }
            let direct = value.eq_ignore_ascii_case("DIRECT") || value == "false";
            let proxy = (!direct).then(|| value.to_owned());
            match key.get(3) {
                Some(host) => {
                    proxies.hosts.insert((*host).to_owned(), proxy);
                }
                None if is(1, "http") => proxies.http = proxy,
                None if is(1, "https") => proxies.https = proxy,
                None => {}
            }
        }
        proxies
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fills in what apt leaves open.
    fn with_environment(mut self) -> Self {
        let variable = |names: [&str; 2]| {
            names
                .into_iter()
                .find_map(|name| std::env::var(name).ok())
                .filter(|value| !value.is_empty())
        };
        if self.http.is_none() {
            self.http = variable(["http_proxy", "HTTP_PROXY"]);
        }
        if self.https.is_none() {
            self.https = variable(["https_proxy", "HTTPS_PROXY"]);
        }
        self
    }

    fn of(&self, scheme: &str, host: &str) -> Option<&str> {
        if let Some(proxy) = self.hosts.get(host) {
            return proxy.as_deref();
        }
        match scheme {
            "http" => self.http.as_deref(),
            "https" => self.https.as_deref(),
            _ => None,
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

/// What makes a request conditional: values of an earlier [`Document`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
}

/// Answer to [`Fetcher::get`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// HTTP 304: as it was when [`Known`] was learned.
    Unchanged,
    Found(Document),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub bytes: Vec<u8>,
    pub known: Known,
    /// Which of the addresses gave it.
    pub url: String,
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
        // The first one in the process wins; all of ours are the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
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

    /// A document into memory, at most `limit` bytes of it. With [`Known`] values the request is conditional.
    pub async fn get(
        &self,
        name: &str,
        urls: &[String],
        known: Option<&Known>,
        limit: u64,
        meter: &Meter,
        cancel: &CancellationToken,
    ) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            let mut put = |key, value: &Option<String>| {
                if let Some(value) = value.as_deref().and_then(|value| value.parse().ok()) {
                    headers.insert(key, value);
                }
            };
            put(IF_NONE_MATCH, &known.etag);
            put(IF_MODIFIED_SINCE, &known.last_modified);
        }
        let work = async {
            let mut course = Course::new(self, name, urls);
            while let Some(url) = course.next().await {
                match self.get_once(&url, headers.clone(), limit, meter).await {
                    Ok(answer) => {
                        self.note(&url, true);
                        return Ok(answer);
                    }
                    Err(broken) => course.failed(broken)?,
                }
            }
            Err(course.end())
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled { act: format!("fetch {name}") }),
            answer = work => answer,
        }
    }

    async fn get_once(
        &self,
        url: &str,
        headers: HeaderMap,
        limit: u64,
        meter: &Meter,
    ) -> Result<Answer, Broken> {
        if let Some(path) = local_path(url) {
            let bytes = tokio::fs::read(&path).await.map_err(local_failure)?;
            meter.received(bytes.len() as u64);
            return Ok(Answer::Found(Document {
                bytes,
                known: Known::default(),
                url: url.to_owned(),
            }));
        }
        let conditional =
            headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE);
        let mut response = self.request(url, headers, meter).await?;
        if response.status() == StatusCode::NOT_MODIFIED && conditional {
            return Ok(Answer::Unchanged);
        }
        status_of(&response)?;
        let header = |key| {
            let value = response.headers().get(key)?;
            value.to_str().ok().map(str::to_owned)
        };
        let known = Known {
            etag: header(ETAG),
            last_modified: header(LAST_MODIFIED),
        };
        let expected = response.content_length();
        let mut bytes = Vec::new();
        while let Some(chunk) = self
            .chunk(&mut response, bytes.len() as u64, expected)
            .await?
        {
            meter.received(chunk.len() as u64);
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(Failure::TooLong { limit }.into());
            }
        }
        Ok(Answer::Found(Document {
            bytes,
            known,
            url: url.to_owned(),
        }))
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
        let batch = pool.batch()?;
        let fetched = self
            .fetch_unsynced(pool, downloads, meter, cancel, &batch)
            .await;
        if matches!(fetched, Ok(Summary { fetched: 0, .. })) {
            return batch.unused().and(fetched);
        }
        let sealed = tokio::task::spawn_blocking(move || batch.seal())
            .await
            .expect("syncing does not panic");
        fetched.and_then(|summary| sealed.map(|()| summary))
    }

    /// As [`Fetcher::fetch_all`], but the caller seals the batch.
    pub(crate) async fn fetch_unsynced(
        &self,
        pool: &Pool,
        downloads: Vec<Download>,
        meter: &Arc<Meter>,
        cancel: &CancellationToken,
        _batch: &Batch,
    ) -> Result<Summary> {
        let mut seen = HashSet::new();
        let mut summary = Summary::default();
        let mut queue = VecDeque::new();
        for download in downloads {
            if !seen.insert(download.sha256) {
                meter.file_done();
            } else if pool.holds(&download.sha256)? {
                summary.reused += 1;
                meter.file_done();
            } else {
                queue.push_back(download);
            }
        }
        if queue.is_empty() {
            return Ok(summary);
        }
        let stop = cancel.child_token();
        let workers = self.shared.options.parallel.clamp(1, queue.len());
        let queue = Arc::new(Mutex::new(queue));
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (fetcher, pool) = (self.clone(), pool.clone());
            let (queue, meter, stop) = (queue.clone(), meter.clone(), stop.clone());
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
                    meter.file_done();
                    fetched += 1;
                }
            });
        }
        // A task that stops because another failed says only that: the first error is the one to tell.
        let mut first = None;
        while let Some(done) = tasks.join_next().await {
            match done.expect("a download does not panic") {
                Ok(fetched) => summary.fetched += fetched,
                Err(error) => {
                    stop.cancel();
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(summary), Err)
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

/// The addresses of one file, one after the other, each several times if what goes wrong there may pass.
struct Course<'a> {
    fetcher: &'a Fetcher,
    name: &'a str,
    /// Those still to be tried; the first is being tried.
    urls: VecDeque<String>,
    tries: u32,
    wait: Option<Duration>,
    attempts: Vec<(String, Failure)>,
}

impl<'a> Course<'a> {
    fn new(fetcher: &'a Fetcher, name: &'a str, urls: &[String]) -> Self {
        let mut ordered = urls.to_vec();
        let down = fetcher
            .shared
            .down
            .lock()
            .expect("nothing panics under this lock");
        ordered.sort_by_key(|url| down.contains(origin(url)));
        Self {
            fetcher,
            name,
            urls: ordered.into(),
            tries: 0,
            wait: None,
            attempts: Vec::new(),
        }
    }

    /// The address to ask now. Waits before it asks one again.
    async fn next(&mut self) -> Option<String> {
        if let Some(wait) = self.wait.take() {
            tokio::time::sleep(wait).await;
        }
        self.tries += 1;
        self.urls.front().cloned()
    }

    /// The last attempt does not count.
    fn again(&mut self) {
        self.tries -= 1;
    }

    /// Takes note of a failure. An error of this machine is passed on: no other address mends it.
    fn failed(&mut self, broken: Broken) -> Result<()> {
        let (failure, after) = match broken {
            Broken::Remote(failure, after) => (failure, after),
            Broken::Local(error) => return Err(error),
        };
        let options = self.fetcher.options();
        let url = self.urls.front().expect("an attempt was made there");
        let unreachable = matches!(failure, Failure::Transport(_) | Failure::Stalled(_));
        if unreachable {
            self.fetcher.note(url, false);
        }
        // With another address at hand there is no sense in asking a dead one again and again.
        let enough = self.tries >= options.tries.max(1) || (unreachable && self.urls.len() > 1);
        if enough || !failure.is_transient() {
            let url = self.urls.pop_front().expect("looked at above");
            self.attempts.push((url, failure));
            self.tries = 0;
        } else {
            tracing::debug!("fetch {}: {failure}; trying again", self.name);
            let wait = options.backoff * 2_u32.saturating_pow(self.tries - 1);
            self.wait = Some(after.unwrap_or(wait).min(options.stall_timeout));
        }
        Ok(())
    }

    fn end(self) -> Error {
        Error::Fetch {
            name: self.name.to_owned(),
            attempts: self.attempts,
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

/// Why an attempt came to nothing.
enum Broken {
    /// And how long the server asks to wait.
    Remote(Failure, Option<Duration>),
    Local(Error),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Remote(failure, None)
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

async fn read_local(
    partial: &mut Partial,
    path: &Path,
    download: &Download,
    meter: &Meter,
) -> Result<(), Broken> {
    use tokio::io::AsyncReadExt as _;
    meter.discarded(partial.size());
    partial.restart().map_err(Broken::Local)?;
    let mut file = tokio::fs::File::open(path).await.map_err(local_failure)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer).await.map_err(local_failure)?;
        if count == 0 {
            break;
        }
        check_length(partial, &buffer[..count], download)?;
        partial.write(&buffer[..count]).map_err(Broken::Local)?;
        meter.received(count as u64);
    }
    match download.size {
        Some(expected) if partial.size() < expected => Err(Failure::WrongSize {
            got: partial.size(),
            expected,
        }
        .into()),
        _ => Ok(()),
    }
}

fn check_length(partial: &Partial, chunk: &[u8], download: &Download) -> Result<(), Broken> {
    let got = partial.size() + chunk.len() as u64;
    match download.size {
        Some(expected) if got > expected => Err(Failure::WrongSize { got, expected }.into()),
        _ => Ok(()),
    }
}

fn local_failure(error: std::io::Error) -> Broken {
    match error.kind() {
        ErrorKind::NotFound => Failure::NotFound.into(),
        _ => Failure::Transport(error.to_string()).into(),
    }
}

/// `file:/x`, `file:///x`, `copy:/x`: apt's two names for a local directory.
fn local_path(url: &str) -> Option<PathBuf> {
    let rest = url
        .strip_prefix("file:")
        .or_else(|| url.strip_prefix("copy:"))?;
    let path = match rest.strip_prefix("//") {
        // A host name may stand here, and only this machine makes sense.
        Some(rest) => &rest[rest.find('/')?..],
        None => rest,
    };
    Some(PathBuf::from(percent_decoded(path)))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let byte = (bytes[index] == b'%')
            .then(|| text.get(index + 1..index + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[index]));
        index += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    &url[..end]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_as_apt_configures_them() {
        let dump = "\
Acquire \"\";
Acquire::http \"\";
Acquire::http::Proxy \"http://cache.example:3142\";
Acquire::http::Proxy::direct.example \"DIRECT\";
acquire::https::proxy \"false\";
Acquire::https::Proxy::far.example \"http://other.example:1\";
Acquire::http::Pipeline-Depth \"0\";
APT::Proxy \"http://no\";
";
        let proxies = Proxies::from_apt_config(dump);
        let of = |scheme: &str, host: &str| proxies.of(scheme, host).map(str::to_owned);
        assert_eq!(
            of("http", "a.example"),
            Some("http://cache.example:3142".into())
        );
        assert_eq!(of("http", "direct.example"), None);
        assert_eq!(of("https", "a.example"), None);
        assert_eq!(
            of("https", "far.example"),
            Some("http://other.example:1".into())
        );
    }

    #[test]
    fn local_addresses_have_several_forms() {
        for url in [
            "file:/a/b%20c",
            "file:///a/b%20c",
            "file://localhost/a/b%20c",
            "copy:/a/b c",
        ] {
            assert_eq!(local_path(url), Some(PathBuf::from("/a/b c")), "{url}");
        }
        assert_eq!(local_path("http://a/b"), None);
        assert_eq!(local_path("file:///%zz%4"), Some(PathBuf::from("/%zz%4")));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("http://a.example:80/b/c"), "http://a.example:80");
        assert_eq!(origin("https://a.example"), "https://a.example");
        assert_eq!(origin("file:/x"), "file:");
    }
}
