//! SSH to guests and hosts: one authenticated connection per target, shared by everything that needs it.
//!
//! The transport comes from outside (an engine's connector), so this knows nothing of namespaces or
//! hypervisors. It runs commands and writes files; no SFTP, no port forwarding, no terminals.

mod auth;
mod client;
mod host_key;
mod pool;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use auth::{Attempt, Method};
pub use client::{Connection, Exit, Limits, Output};
pub use host_key::{
    Fingerprint, HostKeyError, HostKeyPolicy, default_known_hosts, known_hosts_name, openssh_text,
    parse_pin,
};
pub use pool::{Guest, Pool};

use crate::engine::Connector;

/// A text that never shows itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One way to prove who we are. They are tried in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A private key file in OpenSSH or PKCS form.
    KeyFile {
        path: PathBuf,
        passphrase: Option<Secret>,
    },
    /// The text of a private key.
    Key {
        text: Secret,
        passphrase: Option<Secret>,
    },
    /// The keys of an agent; `None` is the one that SSH_AUTH_SOCK names.
    Agent {
        socket: Option<PathBuf>,
    },
    Password(Secret),
}

/// Whom to reach, as whom, and how to know that it is them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub address: SocketAddr,
    pub user: String,
    pub credentials: Vec<Credential>,
    pub host_key: HostKeyPolicy,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.address)
    }
}

/// Everything that can keep a command from running on a guest, or make it fail.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No connection: nothing was said about who the other side is.
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: SocketAddr, reason: String },
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error(
        "{address} refused to let user {user:?} in. Tried: {}. The server accepts: {accepted}. \
         Check the user's name and that its ~/.ssh/authorized_keys holds the key", list(.attempts)
    )]
    Refused {
        address: SocketAddr,
        user: String,
        attempts: Vec<Attempt>,
        accepted: String,
    },
    #[error(
        "no usable credential for {user:?} at {address}: {}. \
         Set ssh.private_key_file, ssh.private_key, ssh.agent or ssh.password", list(.attempts)
    )]
    NoCredential {
        address: SocketAddr,
        user: String,
        attempts: Vec<Attempt>,
    },
    #[error("the SSH connection to {address} broke while {act}: {reason}")]
    Lost {
        address: SocketAddr,
        act: String,
        reason: String,
    },
    #[error(
        "{address} opened no session for {act} on an open connection, where no command had run for {} s. \
         MaxSessions in the sshd_config there is the number of sessions that one connection may have", .after.as_secs()
    )]
    NoSession {
        address: SocketAddr,
        act: String,
        after: Duration,
    },
    #[error("{act} on {address} did not end within {} s", .after.as_secs())]
    Deadline {
        address: SocketAddr,
        act: String,
        after: Duration,
    },
    #[error("{act} on {address} was cut short because Terraform was told to stop")]
    Stopped { address: SocketAddr, act: String },
    #[error("{act} on {address} printed more than {limit} bytes")]
    TooMuchOutput {
        address: SocketAddr,
        act: String,
        limit: usize,
    },
    #[error("user {user:?} on {address} may not become root: {words}. {remedy}")]
    Sudo {
        address: SocketAddr,
        user: String,
        words: String,
        remedy: String,
    },
    #[error("{act} on {address} failed with {exit}: {words}")]
    Command {
        address: SocketAddr,
        act: String,
        exit: Exit,
        words: String,
    },
}

impl Error {
    /// True where a later attempt can succeed without anybody changing anything: a machine that is
    /// still starting refuses or resets connections.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Lost { .. } | Self::Deadline { .. }
        )
    }

    /// The attribute of an `ssh` object that decides about this error, if one does.
    pub fn attribute(&self) -> Option<&'static str> {
        match self {
            Self::HostKey(_) => Some("host_key"),
            Self::Refused { .. } | Self::Sudo { .. } => Some("user"),
            Self::NoCredential { attempts, .. } => attempts
                .iter()
                .find_map(|attempt| attempt.method.attribute()),
            _ => None,
        }
    }
}

fn list(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "nothing".to_owned();
    }
    attempts
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Opens one connection, without the pool.
pub async fn connect(
    target: &Target,
    connector: &Connector,
    limits: &Limits,
) -> Result<Connection, Error> {
    client::connect(target, connector, limits).await
}

/// Wraps `text` so that a POSIX shell reads it as one word.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_a_shell() {
        for (text, quoted) in [
            ("plain-1.2/x", "plain-1.2/x"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$(x)`y`\n", "'$(x)`y`\n'"),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }

    #[test]
    fn a_secret_never_shows_itself() {
        let target = Target {
            address: "127.0.0.1:22".parse().unwrap(),
            user: "u".to_owned(),
            credentials: vec![Credential::Password(Secret::new("hunter2"))],
            host_key: HostKeyPolicy::Pinned(String::new()),
        };
        assert!(!format!("{target:?} {target}").contains("hunter2"));
    }
}
