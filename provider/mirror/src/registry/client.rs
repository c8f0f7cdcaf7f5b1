//! The distribution API, as far as a mirror speaks it: manifests and blobs, whether they are there, and putting them there.
//!
//! Blobs are fetched by [`crate::fetch`], which resumes and verifies; here is only where they are and with which credentials. Why a
//! client of our own on the shared one: what is left beside the downloader is five requests, and `oci-client` brings a downloader
//! that neither resumes nor knows the pool.
//!
//! Protocol: OCI distribution specification 1.1.

use std::collections::{BTreeSet, HashMap};
use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use reqwest::header::{
    ACCEPT as ACCEPT_HEADER, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue,
    LOCATION, WWW_AUTHENTICATE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::error::{Error as MirrorError, Failure};
use crate::fetch::Fetcher;
use crate::progress::Meter;

use super::auth::{AuthFile, Challenge, challenge};
use super::error::{Error, Result};
use super::manifest::{ACCEPT, Descriptor, MAX_BYTES};
use super::reference::{Digest, Reference};

const CONTENT_DIGEST: &str = "docker-content-digest";
/// Of what a registry says about an error.
const WORDS_SHOWN: usize = 300;
const TOKEN_BYTES: u64 = 256 * 1024;
const CHUNK_BYTES: usize = 256 * 1024;

/// What the credentials are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Pull,
    Push,
}

/// A repository of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Repository {
    pub(crate) registry: String,
    pub(crate) name: String,
}

impl Repository {
    pub(crate) fn of(reference: &Reference) -> Self {
        Self {
            registry: reference.registry.clone(),
            name: reference.repository.clone(),
        }
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

/// A manifest as a registry answered it.
pub(crate) struct Answer {
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Client {
    fetcher: Fetcher,
    meter: Arc<Meter>,
    plain_http: BTreeSet<String>,
    auth: AuthFile,
    /// `Authorization` headers that worked.
    granted: tokio::sync::Mutex<HashMap<(Repository, Access), HeaderValue>>,
}

impl Client {
    /// `plain_http`: the registries that are asked without TLS.
    pub(crate) fn new(
        fetcher: Fetcher,
        meter: Arc<Meter>,
        plain_http: BTreeSet<String>,
        auth: AuthFile,
    ) -> Self {
        Self {
            fetcher,
            meter,
            plain_http,
            auth,
            granted: tokio::sync::Mutex::default(),
        }
    }

    fn url(&self, repository: &Repository, rest: &str) -> Result<Url> {
        let scheme = if self.plain_http.contains(&repository.registry) {
            "http"
        } else {
            "https"
        };
        let text = format!(
            "{scheme}://{}/v2/{}/{rest}",
            repository.registry, repository.name
        );
        Url::parse(&text).map_err(|error| Error::Registry {
            act: format!("ask {}", repository.registry),
            words: error.to_string(),
        })
    }

    /// The digest of a tag; `None` if the registry does not have it.
    pub(crate) async fn resolve(
        &self,
        repository: &Repository,
        version: &str,
    ) -> Result<Option<Digest>> {
        let act = format!("look for {repository} {version}");
        let url = self.url(repository, &format!("manifests/{version}"))?;
        let ask = |method: Method| {
            let url = url.clone();
            move |client: &reqwest::Client| {
                client
                    .request(method.clone(), url.clone())
                    .header(ACCEPT_HEADER, ACCEPT)
            }
        };
        let response = self
            .send(repository, Access::Pull, &act, ask(Method::HEAD))
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if response.status().is_success()
            && let Some(digest) = content_digest(&response)
        {
            return Ok(Some(digest));
        }
        // Not every registry answers a HEAD, or says the digest in it.
        let response = self
            .send(repository, Access::Pull, &act, ask(Method::GET))
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = expect(response, &act, &[StatusCode::OK]).await?;
        let bytes = self.body(response, &act, MAX_BYTES).await?;
        Ok(Some(Digest::of(&bytes)))
    }

    pub(crate) async fn manifest(&self, repository: &Repository, version: &str) -> Result<Answer> {
        let act = format!("fetch the manifest of {repository} {version}");
        let url = self.url(repository, &format!("manifests/{version}"))?;
        let build =
            |client: &reqwest::Client| client.get(url.clone()).header(ACCEPT_HEADER, ACCEPT);
        let response = self.send(repository, Access::Pull, &act, build).await?;
        let response = expect(response, &act, &[StatusCode::OK]).await?;
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|text| text.split(';').next().unwrap_or(text).trim().to_owned())
            .unwrap_or_default();
        let told = content_digest(&response);
        let bytes = self.body(response, &act, MAX_BYTES).await?;
        let got = Digest::of(&bytes);
        for expected in version.parse().ok().into_iter().chain(told) {
            if got != expected {
                return Err(Error::WrongDigest {
                    what: format!("the manifest of {repository} {version}"),
                    got,
                    expected,
                });
            }
        }
        Ok(Answer { media_type, bytes })
    }

    /// Where a blob is, and the headers to ask for it with.
    pub(crate) async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(String, HeaderMap)> {
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let mut headers = HeaderMap::new();
        if let Some(header) = self.grant(repository, Access::Pull).await {
            headers.insert(AUTHORIZATION, header);
        }
        Ok((url.into(), headers))
    }

    /// Forgets what a registry no longer accepts; the next request asks for another token.
    pub(crate) async fn renew(&self, repository: &Repository) -> Result<()> {
        self.granted
            .lock()
            .await
            .remove(&(repository.clone(), Access::Pull));
        // Any request will do to be challenged.
        self.resolve(repository, &Digest::of(b"").to_string())
            .await
            .map(drop)
    }

    pub(crate) async fn has_blob(&self, repository: &Repository, digest: &Digest) -> Result<bool> {
        let act = format!("look for blob {digest} in {repository}");
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let response = self
            .send(repository, Access::Push, &act, |client| {
                client.head(url.clone())
            })
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        expect(response, &act, &[StatusCode::OK])
            .await
            .map(|_| true)
    }

    pub(crate) async fn has_manifest(
        &self,
        repository: &Repository,
        version: &str,
        digest: &Digest,
    ) -> Result<bool> {
        let act = format!("look for {repository} {version}");
        let url = self.url(repository, &format!("manifests/{version}"))?;
        let response = self
            .send(repository, Access::Push, &act, |client| {
                client.head(url.clone()).header(ACCEPT_HEADER, ACCEPT)
            })
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let response = expect(response, &act, &[StatusCode::OK]).await?;
        Ok(content_digest(&response).is_none_or(|found| found == *digest))
    }

    /// Puts a blob into a repository. `elsewhere` is a repository of the same registry that has it: then no byte is sent.
    pub(crate) async fn put_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        file: &Path,
        elsewhere: Option<&str>,
    ) -> Result<()> {
        let act = format!("push blob {} to {repository}", blob.digest);
        let mut url = self.url(repository, "blobs/uploads/")?;
        if let Some(from) = elsewhere {
            url.query_pairs_mut()
                .append_pair("mount", &blob.digest.to_string())
                .append_pair("from", from);
        }
        let options = self.fetcher.options().clone();
        for attempt in 1.. {
            let begun = self
                .send(repository, Access::Push, &act, |client| {
                    client.post(url.clone()).header(CONTENT_LENGTH, 0)
                })
                .await?;
            let begun = expect(begun, &act, &[StatusCode::ACCEPTED, StatusCode::CREATED]).await?;
            if begun.status() == StatusCode::CREATED {
                return Ok(());
            }
            let mut place = location(&url, &begun, &act)?;
            place
                .query_pairs_mut()
                .append_pair("digest", &blob.digest.to_string());
            // A token goes to the registry that gave it and to nobody else.
            let header = match place.host_str() == url.host_str()
                && place.port_or_known_default() == url.port_or_known_default()
            {
                true => self.grant(repository, Access::Push).await,
                false => None,
            };
            let sent = self.upload(place, header, blob, file, &act).await;
            let done = match sent {
                Ok(response) if !is_transient(response.status()) => {
                    return expect(response, &act, &[StatusCode::CREATED])
                        .await
                        .map(drop);
                }
                Ok(response) => Err(refusal(response, &act).await),
                Err(error) => Err(error),
            };
            if attempt >= options.tries.max(1) {
                return done;
            }
            tokio::time::sleep(options.backoff * 2_u32.saturating_pow(attempt - 1)).await;
        }
        unreachable!("the loop returns")
    }

    /// Sends a file, and gives up when no byte of it is taken for a while.
    async fn upload(
        &self,
        place: Url,
        header: Option<HeaderValue>,
        blob: &Descriptor,
        file: &Path,
        act: &str,
    ) -> Result<Response> {
        let sent = Arc::new(AtomicU64::new(0));
        let mut request = self
            .fetcher
            .client()
            .put(place)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(
                body_of(file, &sent, &self.meter)
                    .await
                    .map_err(|error| MirrorError::io(format!("read {}", file.display()), error))?,
            );
        if let Some(header) = header {
            request = request.header(AUTHORIZATION, header);
        }
        self.meter.request();
        let stall = self.fetcher.options().stall_timeout;
        let mut response = std::pin::pin!(request.send());
        let mut before = 0;
        loop {
            match tokio::time::timeout(stall, &mut response).await {
                Ok(response) => return response.map_err(|error| transport(act, error)),
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == before {
                        return Err(Error::Registry {
                            act: act.to_owned(),
                            words: Failure::Stalled(stall).to_string(),
                        });
                    }
                    before = now;
                }
            }
        }
    }

    pub(crate) async fn put_manifest(
        &self,
        repository: &Repository,
        version: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let act = format!("push the manifest of {repository} {version}");
        let url = self.url(repository, &format!("manifests/{version}"))?;
        let response = self
            .send(repository, Access::Push, &act, |client| {
                client
                    .put(url.clone())
                    .header(CONTENT_TYPE, media_type)
                    .body(bytes.to_vec())
            })
            .await?;
        expect(response, &act, &[StatusCode::CREATED])
            .await
            .map(drop)
    }

    async fn grant(&self, repository: &Repository, access: Access) -> Option<HeaderValue> {
        let granted = self.granted.lock().await;
        granted.get(&(repository.clone(), access)).cloned()
    }

    /// Sends a request until it is answered; with a token or a password if the registry asks for it.
    async fn send(
        &self,
        repository: &Repository,
        access: Access,
        act: &str,
        build: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response> {
        let attempt = async |header: Option<HeaderValue>| {
            self.send_with_patience(act, || {
                let request = build(self.fetcher.client());
                match &header {
                    Some(header) => request.header(AUTHORIZATION, header.clone()),
                    None => request,
                }
            })
            .await
        };
        let response = attempt(self.grant(repository, access).await).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let header = self.authorize(repository, access, &response).await?;
        self.granted
            .lock()
            .await
            .insert((repository.clone(), access), header.clone());
        // With this one and no other: a request beside this one may have put a token of its own in the same place.
        attempt(Some(header)).await
    }

    /// Sends a request again if what goes wrong may pass.
    async fn send_with_patience(
        &self,
        act: &str,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Response> {
        let options = self.fetcher.options();
        let mut wait = options.backoff;
        for attempt in 1.. {
            self.meter.request();
            let last = attempt >= options.tries.max(1);
            let sent = tokio::time::timeout(options.stall_timeout, build().send()).await;
            match sent {
                Ok(Ok(response)) if last || !is_transient(response.status()) => {
                    return Ok(response);
                }
                Ok(Err(error)) if last => return Err(transport(act, error)),
                Err(_) if last => {
                    return Err(Error::Registry {
                        act: act.to_owned(),
                        words: Failure::Stalled(options.stall_timeout).to_string(),
                    });
                }
                _ => {}
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        unreachable!("the loop returns")
    }

    /// What a registry wants to see, after it has refused without it.
    async fn authorize(
        &self,
        repository: &Repository,
        access: Access,
        refused: &Response,
    ) -> Result<HeaderValue> {
        let registry = &repository.registry;
        let headers = refused.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenge(headers.iter().filter_map(|header| header.to_str().ok()));
        let credentials = self.auth.get(registry);
        let login = || Error::LoginNeeded {
            registry: registry.clone(),
        };
        let text = match challenge {
            None => {
                return Err(Error::Registry {
                    act: format!("log in to {registry}"),
                    words: "it refuses, and asks neither for a token nor for a password".to_owned(),
                });
            }
            Some(Challenge::Basic) => credentials.ok_or_else(login)?.header(),
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let scope = token_scope(access, &repository.name, scope);
                self.token(registry, &realm, service.as_deref(), &scope)
                    .await?
            }
        };
        let mut header = HeaderValue::from_str(&text).map_err(|_| login())?;
        header.set_sensitive(true);
        Ok(header)
    }

    async fn token(
        &self,
        registry: &str,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<String> {
        let act = format!("get a token for {registry}");
        let wrong = |words: String| Error::Registry {
            act: act.clone(),
            words,
        };
        let mut url = Url::parse(realm).map_err(|error| wrong(format!("{realm:?}: {error}")))?;
        // A password must not travel in the clear because a registry says so.
        if url.scheme() != "https" && !self.plain_http.contains(registry) {
            return Err(wrong(format!(
                "it is to be had from {realm:?}, which is not https"
            )));
        }
        {
            let mut query = url.query_pairs_mut();
            for (name, value) in [("service", service), ("scope", Some(scope))] {
                if let Some(value) = value {
                    query.append_pair(name, value);
                }
            }
        }
        let credentials = self.auth.get(registry);
        let response = self
            .send_with_patience(&act, || {
                let request = self.fetcher.client().get(url.clone());
                match credentials {
                    Some(credentials) => request.header(AUTHORIZATION, credentials.header()),
                    None => request,
                }
            })
            .await?;
        if response.status() == StatusCode::UNAUTHORIZED && credentials.is_none() {
            return Err(Error::LoginNeeded {
                registry: registry.to_owned(),
            });
        }
        let response = expect(response, &act, &[StatusCode::OK]).await?;
        let body = self.body(response, &act, TOKEN_BYTES).await?;
        let body: serde_json::Value = serde_json::from_slice(&body)
            .map_err(|_| wrong("the answer is not JSON".to_owned()))?;
        let token = ["token", "access_token"]
            .iter()
            .find_map(|name| body.get(name)?.as_str().filter(|token| !token.is_empty()));
        token
            .map(|token| format!("Bearer {token}"))
            .ok_or_else(|| wrong("the answer has no token".to_owned()))
    }

    async fn body(&self, mut response: Response, act: &str, limit: u64) -> Result<Vec<u8>> {
        let stall = self.fetcher.options().stall_timeout;
        let wrong = |failure: Failure| Error::Registry {
            act: act.to_owned(),
            words: failure.to_string(),
        };
        let mut bytes = Vec::new();
        loop {
            let chunk = tokio::time::timeout(stall, response.chunk())
                .await
                .map_err(|_| wrong(Failure::Stalled(stall)))?
                .map_err(|error| transport(act, error))?;
            let Some(chunk) = chunk else {
                return Ok(bytes);
            };
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(wrong(Failure::TooLong { limit }));
            }
            bytes.extend_from_slice(&chunk);
        }
    }
}

/// A file as the body of a request, counted as it goes.
async fn body_of(
    path: &Path,
    sent: &Arc<AtomicU64>,
    meter: &Arc<Meter>,
) -> std::io::Result<reqwest::Body> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(SeekFrom::Start(0)).await?;
    let (sent, meter) = (sent.clone(), meter.clone());
    let stream = stream::try_unfold(file, move |mut file| {
        let (sent, meter) = (sent.clone(), meter.clone());
        async move {
            let mut chunk = vec![0; CHUNK_BYTES];
            let count = file.read(&mut chunk).await?;
            chunk.truncate(count);
            sent.fetch_add(count as u64, Ordering::Relaxed);
            meter.received(count as u64);
            Ok::<_, std::io::Error>((count > 0).then_some((chunk, file)))
        }
    });
    Ok(reqwest::Body::wrap_stream(stream))
}

/// What a token is asked for: what the challenge names. A registry that challenges a question asked in mid-push names pulling
/// only, and such a token would be refused by the next upload: then the scope is our own.
fn token_scope(access: Access, repository: &str, challenged: Option<String>) -> String {
    let actions = match access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    challenged
        .filter(|scope| access == Access::Pull || names_push(scope))
        .unwrap_or_else(|| format!("repository:{repository}:{actions}"))
}

fn names_push(scope: &str) -> bool {
    scope
        .split(' ')
        .filter_map(|one| one.rsplit(':').next())
        .any(|actions| actions.split(',').any(|action| action == "push"))
}

fn content_digest(response: &Response) -> Option<Digest> {
    let header = response.headers().get(CONTENT_DIGEST)?;
    header.to_str().ok()?.parse().ok()
}

/// Where an upload goes on: relative to the registry, or anywhere.
fn location(base: &Url, response: &Response, act: &str) -> Result<Url> {
    let place = response
        .headers()
        .get(LOCATION)
        .and_then(|header| header.to_str().ok())
        .and_then(|text| base.join(text).ok());
    place.ok_or_else(|| Error::Registry {
        act: act.to_owned(),
        words: "the registry does not say where to".to_owned(),
    })
}

fn is_transient(status: StatusCode) -> bool {
    Failure::Status(status.as_u16()).is_transient()
}

async fn expect(response: Response, act: &str, wanted: &[StatusCode]) -> Result<Response> {
    if wanted.contains(&response.status()) {
        Ok(response)
    } else {
        Err(refusal(response, act).await)
    }
}

/// A registry's refusal, in its own words.
async fn refusal(response: Response, act: &str) -> Error {
    let status = response.status();
    let registry = response.url().host_str().unwrap_or_default().to_owned();
    let words = tokio::time::timeout(Duration::from_secs(5), response.text()).await;
    let words = words
        .ok()
        .and_then(std::result::Result::ok)
        .unwrap_or_default();
    let words = words_of(status, &words);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied {
            act: act.to_owned(),
            registry,
            words,
        },
        _ => Error::Registry {
            act: act.to_owned(),
            words,
        },
    }
}

/// The codes and messages of an error answer, or its status alone.
fn words_of(status: StatusCode, body: &str) -> String {
    let said = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|body| {
            let errors = body.get("errors")?.as_array()?.clone();
            let said: Vec<String> =
                errors
                    .iter()
                    .filter_map(|error| {
                        let code = error.get("code")?.as_str()?;
                        let message = error.get("message").and_then(serde_json::Value::as_str);
                        Some(message.map_or_else(
                            || code.to_owned(),
                            |message| format!("{code}: {message}"),
                        ))
                    })
                    .collect();
            (!said.is_empty()).then(|| said.join("; "))
        });
    match said {
        Some(said) => {
            let said: String = said.chars().take(WORDS_SHOWN).collect();
            format!("{said} ({status})")
        }
        None => format!("the registry answers with status {status}"),
    }
}

fn transport(act: &str, error: reqwest::Error) -> Error {
    let mut words = String::new();
    let error = error.without_url();
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = next {
        let reason = error.to_string();
        if !words.ends_with(&reason) {
            if !words.is_empty() {
                words.push_str(": ");
            }
            words.push_str(&reason);
        }
        next = error.source();
    }
    Error::Registry {
        act: act.to_owned(),
        words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_to_push_with_is_never_one_to_pull_with() {
        let mount = "repository:app:pull,push repository:base:pull";
        let cases = [
            (
                Access::Pull,
                Some("repository:app:pull"),
                "repository:app:pull",
            ),
            (Access::Pull, None, "repository:app:pull"),
            (
                Access::Push,
                Some("repository:app:pull"),
                "repository:app:pull,push",
            ),
            (
                Access::Push,
                Some("repository:push/app:pull"),
                "repository:app:pull,push",
            ),
            (Access::Push, None, "repository:app:pull,push"),
            (Access::Push, Some(mount), mount),
        ];
        for (access, challenged, expected) in cases {
            let scope = token_scope(access, "app", challenged.map(str::to_owned));
            assert_eq!(scope, expected, "{access:?} {challenged:?}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_registrys_words() {
        let cases = [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}},{"code":"X"}]}"#,
                "MANIFEST_UNKNOWN: manifest unknown; X (404 Not Found)",
            ),
            ("<html>", "the registry answers with status 404 Not Found"),
            (
                r#"{"errors":[]}"#,
                "the registry answers with status 404 Not Found",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(words_of(StatusCode::NOT_FOUND, body), expected);
        }
    }
}
