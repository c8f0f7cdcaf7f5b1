//! Which host keys are trusted, and what to tell a user whose host offers another.
//!
//! There is no trust on first use: a key is pinned by the caller or listed in a known_hosts file.
//! Host certificates and DNS (SSHFP) are not consulted.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use russh::keys::ssh_key::{HashAlg, PublicKey};

/// Where the trusted keys of a host come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostKeyPolicy {
    /// One public key in OpenSSH form, `ssh-ed25519 AAAA...`; a comment is ignored.
    Pinned(String),
    /// A file in the format of `sshd(8)`, section SSH_KNOWN_HOSTS FILE FORMAT.
    KnownHosts(PathBuf),
}

/// Why a host was not trusted. Every text names the host, the key that was offered and the next move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyError {
    #[error(
        "{host} offered the host key {offered}, but {source_name} has no key for it. \
         If that fingerprint is the host's own (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there), \
         {remedy}"
    )]
    Unknown {
        host: String,
        offered: Fingerprint,
        source_name: String,
        remedy: String,
    },
    #[error(
        "{host} offered the host key {offered}, but {source_name} says {expected}. \
         Either the machine was built anew or something stands between you and it. \
         Compare the fingerprints at the machine's console; if the new one is right, {remedy}"
    )]
    Mismatch {
        host: String,
        offered: Fingerprint,
        expected: String,
        source_name: String,
        remedy: String,
    },
    #[error(
        "{host} offered the host key {offered}, which {source_name} marks @revoked: do not connect until the machine has a new key"
    )]
    Revoked {
        host: String,
        offered: Fingerprint,
        source_name: String,
    },
    #[error(
        "{host} offered a host certificate; only plain host keys are supported: pin the host's public key instead"
    )]
    Certificate { host: String },
    #[error(
        "the pinned host_key is not a public key in OpenSSH form (\"ssh-ed25519 AAAA...\"): {reason}"
    )]
    BadPin { reason: String },
    #[error("cannot read the known_hosts file {path}: {reason}")]
    Unreadable { path: PathBuf, reason: String },
}

/// A key's algorithm and SHA-256 fingerprint, as `ssh-keygen -l` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn of(key: &PublicKey) -> Self {
        Self(format!(
            "{} {}",
            key.algorithm(),
            key.fingerprint(HashAlg::Sha256)
        ))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys that count for one host, read once per connection.
#[derive(Debug, Clone)]
pub(super) struct Trust {
    host: String,
    source_name: String,
    file: Option<PathBuf>,
    trusted: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
}

impl Trust {
    /// Reads the policy's keys for `name` (host name or address) at `port`.
    pub(super) fn load(
        policy: &HostKeyPolicy,
        name: &str,
        port: u16,
    ) -> Result<Self, HostKeyError> {
        let host = known_hosts_name(name, port);
        match policy {
            HostKeyPolicy::Pinned(text) => Ok(Self {
                host,
                source_name: "the pinned host_key".to_owned(),
                file: None,
                trusted: vec![parse_pin(text)?],
                revoked: Vec::new(),
            }),
            HostKeyPolicy::KnownHosts(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| HostKeyError::Unreadable {
                        path: path.clone(),
                        reason: error.to_string(),
                    })?;
                let (trusted, revoked) = keys_for(&text, &host);
                Ok(Self {
                    host,
                    source_name: path.display().to_string(),
                    file: Some(path.clone()),
                    trusted,
                    revoked,
                })
            }
        }
    }

    /// Trusted keys, so that the key exchange can prefer their algorithms.
    pub(super) fn keys(&self) -> &[PublicKey] {
        &self.trusted
    }

    /// Judges the key that the host offered.
    pub(super) fn check(&self, offered: &PublicKey) -> Result<(), HostKeyError> {
        let same = |key: &PublicKey| key.key_data() == offered.key_data();
        let fingerprint = Fingerprint::of(offered);
        if self.revoked.iter().any(same) {
            return Err(HostKeyError::Revoked {
                host: self.host.clone(),
                offered: fingerprint,
                source_name: self.source_name.clone(),
            });
        }
        if self.trusted.iter().any(same) {
            return Ok(());
        }
        let remedy = self.remedy(offered);
        if self.trusted.is_empty() {
            return Err(HostKeyError::Unknown {
                host: self.host.clone(),
                offered: fingerprint,
                source_name: self.source_name.clone(),
                remedy,
            });
        }
        let expected: Vec<String> = self
            .trusted
            .iter()
            .map(|key| Fingerprint::of(key).to_string())
            .collect();
        Err(HostKeyError::Mismatch {
            host: self.host.clone(),
            offered: fingerprint,
            expected: expected.join(" or "),
            source_name: self.source_name.clone(),
            remedy,
        })
    }

    fn remedy(&self, offered: &PublicKey) -> String {
        let line = openssh_text(offered);
        match &self.file {
            None => format!("set host_key = \"{line}\""),
            Some(path) if self.trusted.is_empty() => {
                format!("add this line to {}: {} {line}", path.display(), self.host)
            }
            Some(path) => format!(
                "replace the host's line in {} by: {} {line}",
                path.display(),
                self.host
            ),
        }
    }
}

/// A public key without its comment.
pub fn openssh_text(key: &PublicKey) -> String {
    let text = key
        .to_openssh()
        .unwrap_or_else(|error| format!("(key cannot be written: {error})"));
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// How known_hosts files name a host: the port is part of the name unless it is 22.
pub fn known_hosts_name(name: &str, port: u16) -> String {
    if port == 22 {
        name.to_owned()
    } else {
        format!("[{name}]:{port}")
    }
}

/// Reads a pinned key; also used to validate the attribute at plan time.
pub fn parse_pin(text: &str) -> Result<PublicKey, HostKeyError> {
    PublicKey::from_openssh(text.trim()).map_err(|error| HostKeyError::BadPin {
        reason: error.to_string(),
    })
}

/// Trusted and revoked keys of `host` (in known_hosts spelling). Lines that do not parse and key
/// types this build does not know are passed over, as ssh does: another line may still match.
fn keys_for(text: &str, host: &str) -> (Vec<PublicKey>, Vec<PublicKey>) {
    let (mut trusted, mut revoked) = (Vec::new(), Vec::new());
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split_ascii_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@'));
        let (Some(patterns), Some(kind), Some(blob)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if !matches_host(patterns, host) {
            continue;
        }
        let Ok(key) = PublicKey::from_openssh(&format!("{kind} {blob}")) else {
            continue;
        };
        match marker {
            None => trusted.push(key),
            Some("@revoked") => revoked.push(key),
            // A certificate authority vouches for certificates, which are refused elsewhere.
            Some(_) => {}
        }
    }
    (trusted, revoked)
}

fn matches_host(patterns: &str, host: &str) -> bool {
    if let Some(hashed) = patterns.strip_prefix("|1|") {
        return matches_hashed(hashed, host);
    }
    let mut found = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(negated) if glob(negated, host) => return false,
            Some(_) => {}
            None => found |= glob(pattern, host),
        }
    }
    found
}

/// `|1|salt|hash`, both base64: HMAC-SHA1 of the name keyed with the salt.
fn matches_hashed(rest: &str, host: &str) -> bool {
    let Some((salt, hash)) = rest.split_once('|') else {
        return false;
    };
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else {
        return false;
    };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, host.as_bytes(), &hash).is_ok()
}

/// `*` and `?`, without regard to case, as ssh compares host names.
fn glob(pattern: &str, name: &str) -> bool {
    fn go(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                go(rest, name)
                    || name
                        .split_first()
                        .is_some_and(|(_, tail)| go(pattern, tail))
            }
            (Some((b'?', rest)), Some((_, tail))) => go(rest, tail),
            (Some((p, rest)), Some((n, tail))) => p.eq_ignore_ascii_case(n) && go(rest, tail),
            _ => false,
        }
    }
    go(pattern.as_bytes(), name.as_bytes())
}

/// The default file of a user, when there is one.
pub fn default_known_hosts(home: Option<&Path>) -> Option<PathBuf> {
    home.map(|home| home.join(".ssh").join("known_hosts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).unwrap()
    }

    fn hashed(name: &str) -> String {
        let salt = [7u8; 20];
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt),
            name.as_bytes(),
        );
        format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(tag))
    }

    fn verdict(file: &str, name: &str, port: u16, offered: &str) -> &'static str {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        std::fs::write(&path, file).unwrap();
        let trust = Trust::load(&HostKeyPolicy::KnownHosts(path), name, port).unwrap();
        match trust.check(&key(offered)) {
            Ok(()) => "trusted",
            Err(HostKeyError::Unknown { .. }) => "unknown",
            Err(HostKeyError::Mismatch { .. }) => "mismatch",
            Err(HostKeyError::Revoked { .. }) => "revoked",
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn known_hosts_lines_are_matched_as_ssh_matches_them() {
        let cases = [
            (format!("10.0.0.1 {A} comment"), 22, A, "trusted"),
            (format!("10.0.0.1 {A}"), 22, B, "mismatch"),
            (format!("10.0.0.1 {A}"), 2222, A, "unknown"),
            (format!("[10.0.0.1]:2222 {A}"), 2222, A, "trusted"),
            (format!("{} {A}", hashed("10.0.0.1")), 22, A, "trusted"),
            (
                format!("{} {A}", hashed("[10.0.0.1]:2222")),
                2222,
                A,
                "trusted",
            ),
            (format!("{} {A}", hashed("10.0.0.2")), 22, A, "unknown"),
            (format!("10.0.0.* {A}"), 22, A, "trusted"),
            (format!("10.0.0.?,!10.0.0.1 {A}"), 22, A, "unknown"),
            (
                format!("other,10.0.0.1 {B}\n10.0.0.1 {A}"),
                22,
                A,
                "trusted",
            ),
            (format!("10.0.0.1 {A}\n@revoked * {A}"), 22, A, "revoked"),
            (format!("@cert-authority * {A}"), 22, A, "unknown"),
            (
                format!("# 10.0.0.1 {A}\n\nnonsense\n10.0.0.1 ssh-future AAAA"),
                22,
                A,
                "unknown",
            ),
        ];
        for (file, port, offered, expected) in cases {
            assert_eq!(
                verdict(&file, "10.0.0.1", port, offered),
                expected,
                "{file}"
            );
        }
    }

    #[test]
    fn a_mismatch_names_both_fingerprints_and_what_to_write() {
        let trust = Trust::load(&HostKeyPolicy::Pinned(A.to_owned()), "10.0.0.1", 2222).unwrap();
        let text = trust.check(&key(B)).unwrap_err().to_string();
        for needle in [
            "[10.0.0.1]:2222",
            &Fingerprint::of(&key(A)).to_string(),
            &Fingerprint::of(&key(B)).to_string(),
            &format!("set host_key = \"{B}\""),
        ] {
            assert!(text.contains(needle), "{needle} not in: {text}");
        }
    }

    #[test]
    fn a_pin_that_is_no_key_is_refused() {
        for bad in ["", "ssh-ed25519", "SHA256:abc", "ssh-ed25519 AAAA"] {
            assert!(
                matches!(parse_pin(bad), Err(HostKeyError::BadPin { .. })),
                "{bad}"
            );
        }
        assert_eq!(
            openssh_text(&parse_pin(&format!("{A} root@x\n")).unwrap()),
            A
        );
    }
}
