//! How images are named: `registry/repository:tag@digest`, and digests. Pure text; no registry is a default, because no
//! upstream is.
//!
//! Grammar: OCI distribution specification, "Pulling manifests", and the reference grammar that its clients share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The digest of a manifest or a blob, written `sha256:` and 64 lower-case hexadecimal digits. The other algorithms of the OCI
/// specification are refused: the pool is addressed by SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub crate::Digest);

const ALGORITHM: &str = "sha256:";

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(crate::Digest::of(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        text.strip_prefix(ALGORITHM)
            .filter(|hex| !hex.contains(|c: char| c.is_ascii_uppercase()))
            .and_then(|hex| Some(Self(hex.parse().ok()?)))
            .ok_or_else(|| {
                InvalidReference::new(
                    text,
                    "a digest is \"sha256:\" and 64 lower-case hexadecimal digits",
                )
            })
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct InvalidReference {
    pub text: String,
    pub reason: String,
}

impl InvalidReference {
    fn new(text: &str, reason: impl Into<String>) -> Self {
        Self {
            text: text.to_owned(),
            reason: reason.into(),
        }
    }
}

/// An image in some registry. At least one of `tag` and `digest` is there; where both are, the digest decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host name or address, with the port where it is not the scheme's own.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// What stands after `manifests/` in a request for it.
    pub(crate) fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => unreachable!("a reference has a tag or a digest"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let wrong = |reason: &str| Err(InvalidReference::new(text, reason));
        let Some((registry, rest)) = text.split_once('/') else {
            return wrong("write the registry too: \"registry.example:5000/team/image:1.0\"");
        };
        if !is_registry(registry) {
            return wrong(
                "it does not begin with a registry: a host name with a dot or a port, as in \"registry.example:5000/team/image:1.0\"",
            );
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_repository(repository) {
            return wrong(
                "a repository is lower-case letters and digits, which \".\", \"_\", \"__\" or hyphens may separate, in parts between \"/\"",
            );
        }
        match tag {
            Some(tag) if !is_tag(tag) => wrong(
                "a tag is up to 128 letters, digits, \"_\", \".\" and \"-\", and begins with none of the last two",
            ),
            None if digest.is_none() => {
                wrong("it has neither a tag nor a digest, and no tag is a default")
            }
            _ => Ok(Self {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                tag: tag.map(str::to_owned),
                digest,
            }),
        }
    }
}

/// What an image is called in the mirror: `repository:tag`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalName {
    pub repository: String,
    pub tag: String,
}

impl fmt::Display for LocalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for LocalName {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        match text.split_once(':') {
            Some((repository, tag)) if is_repository(repository) && is_tag(tag) => Ok(Self {
                repository: repository.to_owned(),
                tag: tag.to_owned(),
            }),
            _ => Err(InvalidReference::new(
                text,
                "a name in the mirror is a repository and a tag without a registry: \"team/image:1.0\"",
            )),
        }
    }
}

/// A host that cannot be taken for the first part of a repository, with or without a port.
pub fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
            return is_address && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let told = host == "localhost" || host.contains('.') || port.is_some();
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    told && host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_repository(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_repository_part)
}

/// Letters and digits in runs, between which stands `.`, `_`, `__` or any number of hyphens.
fn is_repository_part(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut separator = String::new();
    let ends_plain = part.starts_with(is_plain) && part.ends_with(is_plain);
    ends_plain
        && part.chars().all(|c| {
            if !is_plain(c) {
                separator.push(c);
                return true;
            }
            let between = std::mem::take(&mut separator);
            matches!(between.as_str(), "" | "." | "_" | "__") || between.chars().all(|c| c == '-')
        })
}

fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_reference_has_a_registry_a_repository_and_a_version() {
        let by_both = format!("127.0.0.1:5000/a/b-c__d:1.0_x@{DIGEST}");
        let by_digest = format!("[::1]:5000/app@{DIGEST}");
        let cases = [
            (
                "registry.example/team/app:1.27",
                ("registry.example", "team/app", Some("1.27"), false),
            ),
            (
                "localhost/app:latest",
                ("localhost", "app", Some("latest"), false),
            ),
            (
                by_both.as_str(),
                ("127.0.0.1:5000", "a/b-c__d", Some("1.0_x"), true),
            ),
            (by_digest.as_str(), ("[::1]:5000", "app", None, true)),
        ];
        for (text, (registry, repository, tag, has_digest)) in cases {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(reference.registry, registry, "{text}");
            assert_eq!(reference.repository, repository, "{text}");
            assert_eq!(reference.tag.as_deref(), tag, "{text}");
            assert_eq!(reference.digest.is_some(), has_digest, "{text}");
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn text_that_names_no_image_is_refused_with_a_reason() {
        let short = "registry.example/app@sha256:0123";
        let cases = [
            ("nginx:1.27", "write the registry too"),
            ("library/nginx:1.27", "does not begin with a registry"),
            ("registry.example/app", "neither a tag nor a digest"),
            ("registry.example/App:1", "a repository is lower-case"),
            ("registry.example/a//b:1", "a repository is lower-case"),
            ("registry.example/a..b:1", "a repository is lower-case"),
            ("registry.example/../etc:1", "a repository is lower-case"),
            ("registry.example/a/:1", "a repository is lower-case"),
            ("registry.example/app:.1", "a tag is"),
            ("registry.example/app:", "a tag is"),
            ("registry.example:0/app:1", "does not begin with a registry"),
            ("-x.example/app:1", "does not begin with a registry"),
            ("[::g]:5000/app:1", "does not begin with a registry"),
            (short, "64 lower-case hexadecimal digits"),
        ];
        for (text, words) in cases {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_in_the_mirror_is_a_repository_and_a_tag() {
        let name: LocalName = "team/app:1.0".parse().unwrap();
        assert_eq!(
            (name.repository.as_str(), name.tag.as_str()),
            ("team/app", "1.0")
        );
        for wrong in [
            "app",
            "App:1",
            "app:1:2",
            "../app:1",
            "registry.example:5000/app:1",
            ":1",
        ] {
            assert!(wrong.parse::<LocalName>().is_err(), "{wrong}");
        }
    }
}
