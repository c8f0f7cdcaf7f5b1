//! The order in which the addresses of a file are asked, and when one is given up.

use std::collections::VecDeque;
use std::time::Duration;

use super::Fetcher;
use crate::error::{Error, Failure, Result};

/// The addresses of one file, one after the other, each several times if what goes wrong there may pass.
pub(super) struct Course<'a> {
    fetcher: &'a Fetcher,
    name: &'a str,
    /// Those still to be tried; the first is being tried.
    urls: VecDeque<String>,
    tries: u32,
    wait: Option<Duration>,
    attempts: Vec<(String, Failure)>,
}

impl<'a> Course<'a> {
    pub(super) fn new(fetcher: &'a Fetcher, name: &'a str, urls: &[String]) -> Self {
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
    pub(super) async fn next(&mut self) -> Option<String> {
        if let Some(wait) = self.wait.take() {
            tokio::time::sleep(wait).await;
        }
        self.tries += 1;
        self.urls.front().cloned()
    }

    /// The last attempt does not count.
    pub(super) fn again(&mut self) {
        self.tries -= 1;
    }

    /// Takes note of a failure. An error of this machine is passed on: no other address mends it.
    pub(super) fn failed(&mut self, broken: Broken) -> Result<()> {
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

    pub(super) fn end(self) -> Error {
        Error::Fetch {
            name: self.name.to_owned(),
            attempts: self.attempts,
        }
    }
}

/// Why an attempt came to nothing.
pub(super) enum Broken {
    /// And how long the server asks to wait.
    Remote(Failure, Option<Duration>),
    Local(Error),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Remote(failure, None)
    }
}

/// Scheme, host and port.
pub(super) fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("http://a.example:80/b/c"), "http://a.example:80");
        assert_eq!(origin("https://a.example"), "https://a.example");
        assert_eq!(origin("file:/x"), "file:");
    }
}
