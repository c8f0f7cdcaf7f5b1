//! What the three mirror resources share: names and places, the downloader, progress in Terraform's log, and how a sync ends when
//! Terraform asks it to.
//!
//! What a mirror is and does is `ondol_mirror`'s; nothing is fetched here.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use ondol_mirror::fetch::{Fetcher, Options};
use ondol_mirror::pool::Pool;
use ondol_mirror::progress::{Progress, Status};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, CancellationToken, Diagnostic, Diagnostics, Operation, Path, path};

use crate::config::Cloud;
use crate::diagnostics::sentence;

/// A site's line may be slow, and what stalls ends by itself much earlier.
pub const TIMEOUT: Duration = Duration::from_secs(6 * 60 * 60);
const NAME_LENGTH: usize = 63;
/// How often a sync that runs says in the log how far it is.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// When a mirror looks upstream for what is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// Only when its configuration changes or what it published is damaged.
    OnChange,
    /// At each plan.
    Always,
}

/// Checks a mirror's name, which becomes a directory and a part of URLs.
pub fn check_name(name: &Attr<String>, diagnostics: &mut Diagnostics) {
    if let Some(name) = name.known()
        && !is_name(name)
    {
        diagnostics.error(
            path!["name"],
            format!("{name:?} cannot name a mirror"),
            "A mirror's name is at most 63 lower-case letters, digits and hyphens, and begins and ends with a letter or a digit.",
        );
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= NAME_LENGTH
        && name.starts_with(is_plain)
        && name.ends_with(is_plain)
        && name.chars().all(|c| is_plain(c) || c == '-')
}

/// Checks that a path does not depend on where Terraform runs.
pub fn check_absolute(path: &Attr<String>, at: Path, diagnostics: &mut Diagnostics) {
    if let Some(path) = path.known()
        && !path.starts_with('/')
    {
        diagnostics.error(
            at,
            format!("{path:?} is not an absolute path"),
            "Terraform may run in any directory: write the path from the root.",
        );
    }
}

/// Checks an address under which clients find what is published.
pub fn check_base_url(url: &Attr<String>, diagnostics: &mut Diagnostics) {
    if let Some(url) = url.known()
        && !["http://", "https://", "file:/", "copy:/"]
            .iter()
            .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
    {
        diagnostics.error(
            path!["base_url"],
            format!("{url:?} is not the address of a mirror"),
            "Write where clients find what is published in `path`, such as \"http://mirror.example\".",
        );
    }
}

/// Where a mirror of a kind is published.
pub fn directory(path: &Attr<String>, kind: &str, name: &Attr<String>) -> Option<PathBuf> {
    Some(FilePath::new(path.known()?).join(kind).join(name.known()?))
}

/// `PATH/KIND/NAME` taken apart, for import.
pub fn from_directory(id: &str, kind: &str) -> Result<(String, String), Diagnostic> {
    let parts = || {
        let (rest, name) = id.trim_end_matches('/').rsplit_once('/')?;
        let path = rest.strip_suffix(kind)?.strip_suffix('/')?;
        let path = if path.is_empty() { "/" } else { path };
        (path.starts_with('/') && is_name(name)).then(|| (path.to_owned(), name.to_owned()))
    };
    parts().ok_or_else(|| {
        Diagnostic::error(format!("{id:?} is not the directory of such a mirror")).detail(format!(
            "Write the directory that it is published in, such as \"/srv/mirror/{kind}/site\"."
        ))
    })
}

pub fn pool(cache_dir: &Attr<String>) -> Result<Pool, Diagnostic> {
    let cache_dir = cache_dir.require(path!["cache_dir"])?;
    Pool::open(FilePath::new(cache_dir)).map_err(|error| {
        Diagnostic::error("The cache cannot be used")
            .detail(sentence(&error.to_string()))
            .at(path!["cache_dir"])
    })
}

/// A downloader with the environment's proxies.
pub fn fetcher() -> Result<Fetcher, Diagnostic> {
    Fetcher::new(Options::default()).map_err(|error| {
        Diagnostic::error("Nothing can be fetched").detail(sentence(&error.to_string()))
    })
}

/// Runs a sync until it ends, Terraform asks to stop or its time is over. Then it is told to, so that what it does on other threads ends
/// too.
pub async fn run<T, W: Future<Output = T>>(
    cx: &Operation<Cloud>,
    work: impl FnOnce(CancellationToken) -> W,
) -> Result<T, Diagnostic> {
    let cancel = cx.stop().child_token();
    let _ended = cancel.clone().drop_guard();
    Ok(cx.wait(work(cancel)).await?)
}

/// Tells Terraform's log how far a sync is: counts, bytes, rate and time left.
pub struct Log {
    mirror: String,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    phase: String,
    at: Duration,
}

impl Log {
    /// `mirror`: what the lines begin with.
    pub fn new(mirror: impl Into<String>) -> Self {
        Self {
            mirror: mirror.into(),
            told: Mutex::default(),
        }
    }
}

impl Progress for Log {
    fn report(&self, status: &Status) {
        let mut told = self.told.lock().expect("nothing panics under this lock");
        if told.is_due(status) {
            tracing::info!("{}: {status}", self.mirror);
        }
    }
}

impl Told {
    /// At each new phase, and now and then within one.
    fn is_due(&mut self, status: &Status) -> bool {
        let due = self.phase != status.phase || status.elapsed >= self.at + LOG_INTERVAL;
        if due {
            self.phase.clone_from(&status.phase);
            self.at = status.elapsed;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_a_directory_and_nothing_else() {
        for good in ["a", "site", "bookworm-2", "0"] {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(64);
        for bad in ["", ".", "..", "a/b", "A", "a_b", "-a", "a-", "a b", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_mirror_is_imported_by_its_directory() {
        let parsed = |id: &str| from_directory(id, "files").ok();
        let site = |path: &str| Some((path.to_owned(), "site".to_owned()));
        assert_eq!(parsed("/srv/mirror/files/site"), site("/srv/mirror"));
        assert_eq!(parsed("/srv/mirror/files/site/"), site("/srv/mirror"));
        assert_eq!(parsed("/files/site"), site("/"));
        for wrong in [
            "/srv/mirror/apt/site",
            "srv/files/site",
            "/srv/files",
            "/srv/xfiles/site",
            "/srv/files/..",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_log_is_told_of_phases_and_now_and_then() {
        let mut told = Told::default();
        let status = |phase: &str, seconds: u64| Status {
            phase: phase.to_owned(),
            elapsed: Duration::from_secs(seconds),
            ..Status::default()
        };
        let cases = [
            ("a", 0, true),
            ("a", 4, false),
            ("a", 5, true),
            ("b", 6, true),
            ("b", 7, false),
        ];
        for (phase, seconds, due) in cases {
            assert_eq!(
                told.is_due(&status(phase, seconds)),
                due,
                "{phase} {seconds}"
            );
        }
    }
}
