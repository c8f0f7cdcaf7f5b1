//! Documents that have no digest yet, such as Release files: read into memory, on condition that they have changed.

use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use tokio_util::sync::CancellationToken;

use super::course::{Broken, Course};
use super::local::{local_failure, local_path};
use super::{Fetcher, status_of};
use crate::error::{Error, Failure, Result};
use crate::progress::Meter;

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

impl Fetcher {
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
}
