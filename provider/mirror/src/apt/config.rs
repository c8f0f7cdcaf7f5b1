//! What one apt mirror is to hold and where. Checked before anything is done.

use std::path::{Path, PathBuf};

use super::Error;
use super::closure::Request;
use super::sign::Keyring;
use crate::fetch;

#[derive(Debug, Clone)]
pub struct Config {
    /// Names the mirror below `path/apt`: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// The directory that a web server shows. All links inside are relative and stay inside.
    pub path: PathBuf,
    /// What the published suite is called; upstream's suites all go into this one.
    pub suite: String,
    /// In the order of preference among equal versions.
    pub upstreams: Vec<Upstream>,
    /// Debian's names, for example `amd64`.
    pub architectures: Vec<String>,
    pub selection: Selection,
    /// What cannot be had is left out and told in [`super::Snapshot::missing`], instead of being an error.
    pub allow_missing: bool,
    /// How many snapshots stay, at least one. The published one always does.
    pub keep: usize,
    /// Publish this snapshot, that is there already, and ask no upstream.
    pub pin: Option<String>,
    /// Secret half of the key that the mirror is signed with; made if it is not there. Outside of `path`.
    pub site_key: PathBuf,
    pub fetch: fetch::Options,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Every package and version of the upstreams' components.
    Everything,
    /// A list of packages and all that they need.
    Closure(Request),
}

/// One suite of one archive.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Roots of the archive, the better one first: where one fails the next is asked.
    pub uris: Vec<String>,
    /// As in sources.list(5); with a slash at its end the archive is flat and has no components.
    pub suite: String,
    pub components: Vec<String>,
    pub trust: Trust,
    /// Refuse a Release file whose `Valid-Until` has passed.
    pub check_valid_until: bool,
}

#[derive(Debug, Clone)]
pub enum Trust {
    /// A signature by one of these is required.
    Keyring(Keyring),
    /// `trusted=yes`: whatever the archive says. The digests still hold what is fetched to what the archive said.
    Anyone,
}

impl Upstream {
    pub(crate) fn is_flat(&self) -> bool {
        self.suite.ends_with('/')
    }

    /// Directories of the suite, one for each root.
    pub(crate) fn suite_urls(&self) -> Vec<String> {
        self.uris
            .iter()
            .map(|uri| {
                let root = uri.trim_end_matches('/');
                if self.is_flat() {
                    format!(
                        "{root}/{}",
                        self.suite.trim_start_matches('/').trim_end_matches('/')
                    )
                } else {
                    format!("{root}/dists/{}", self.suite)
                }
            })
            .collect()
    }

    /// Under which a flat archive's packages are published.
    pub(crate) fn components(&self) -> Vec<String> {
        if self.is_flat() {
            vec!["main".to_owned()]
        } else {
            self.components.clone()
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let invalid = |field: &str, reason: &str| {
            Err(Error::Invalid {
                field: field.to_owned(),
                reason: reason.to_owned(),
            })
        };
        let is_word = |text: &str| {
            !text.is_empty()
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '~'))
        };
        if !is_word(&self.name) {
            return invalid(
                "name",
                "letters, digits and . _ - only, a letter or digit first",
            );
        }
        if !self.suite.split('/').all(is_word) {
            return invalid(
                "suite",
                "words of letters, digits and . _ - +, parted by slashes",
            );
        }
        if self.keep == 0 {
            return invalid("keep", "at least one snapshot must stay");
        }
        if self.site_key.starts_with(&self.path) {
            return invalid(
                "site_key",
                "the secret key must not be in the directory that is served",
            );
        }
        if self.architectures.is_empty() || !self.architectures.iter().all(|name| is_word(name)) {
            return invalid("architectures", "at least one, such as amd64");
        }
        if self.architectures.iter().any(|name| name == "all") {
            return invalid(
                "architectures",
                "packages of architecture all come with every other one",
            );
        }
        if self.pin.is_some() {
            return Ok(());
        }
        if self.upstreams.is_empty() {
            return invalid("upstreams", "at least one is needed");
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let field = |name: &str| format!("upstreams[{index}].{name}");
            if upstream.uris.is_empty() {
                return invalid(&field("uris"), "at least one is needed");
            }
            if upstream.suite.is_empty() {
                return invalid(&field("suite"), "it is empty");
            }
            if upstream.is_flat() != upstream.components.is_empty() {
                return invalid(
                    &field("components"),
                    "an archive has components, or a suite that ends with a slash",
                );
            }
            if !upstream
                .components
                .iter()
                .all(|name| name.split('/').all(is_word))
            {
                return invalid(&field("components"), "words of letters, digits and . _ - +");
            }
        }
        Ok(())
    }

    /// The mirror's own directory.
    pub fn root(&self) -> PathBuf {
        self.path.join("apt").join(&self.name)
    }

    /// Changes whenever another selection may come out of the same upstream.
    pub(crate) fn fingerprint(&self) -> crate::Digest {
        let mut text = format!(
            "2\n{}\n{:?}\n{:?}\n{}\n",
            self.suite, self.architectures, self.selection, self.allow_missing
        );
        for upstream in &self.upstreams {
            text += &format!("{}\n{:?}\n", upstream.suite, upstream.components);
        }
        crate::Digest::of(text.as_bytes())
    }
}

/// Where the site's secret key is kept unless someone says otherwise.
pub const DEFAULT_SITE_KEY: &str = "/var/lib/ondol/keys/site.key";

/// The public half, below the served directory.
pub(crate) fn public_key_path(path: &Path) -> PathBuf {
    path.join("keys/site.asc")
}
