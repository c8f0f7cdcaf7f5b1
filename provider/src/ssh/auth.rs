//! Proving who we are: private keys, an agent, a password, in the order the caller gave.
//!
//! Every attempt is remembered, so that a refusal can say what was tried. Keys are read before
//! anything is sent, and never printed. User certificates and GSSAPI are not offered.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle, Handler, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::HashAlg;
use russh::keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, decode_secret_key};
use russh::{MethodKind, MethodSet};

use super::{Credential, Error, Secret, Target};

/// OpenSSH hangs up after six failures (MaxAuthTries); an agent may hold more keys than that.
const AGENT_KEYS: usize = 5;

/// How one attempt was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    KeyFile(PathBuf),
    Key,
    Agent,
    Password,
}

impl Method {
    fn of(credential: &Credential) -> Self {
        match credential {
            Credential::KeyFile { path, .. } => Self::KeyFile(path.clone()),
            Credential::Key { .. } => Self::Key,
            Credential::Agent { .. } => Self::Agent,
            Credential::Password(_) => Self::Password,
        }
    }

    /// The attribute of the `ssh` object that this method comes from.
    pub fn attribute(&self) -> Option<&'static str> {
        Some(match self {
            Self::KeyFile(_) => "private_key_file",
            Self::Key => "private_key",
            Self::Agent => "agent",
            Self::Password => "password",
        })
    }
}

/// One attempt and how it ended. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub method: Method,
    pub outcome: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Method::KeyFile(path) => write!(f, "key file {}: {}", path.display(), self.outcome),
            Method::Key => write!(f, "private_key: {}", self.outcome),
            Method::Agent => write!(f, "agent: {}", self.outcome),
            Method::Password => write!(f, "password: {}", self.outcome),
        }
    }
}

/// Outcome of one credential.
enum Verdict {
    In,
    /// The server saw it and said no.
    Refused(String, MethodSet),
    /// It never reached the server.
    Unusable(String),
}

/// Tries the target's credentials in order until one is accepted.
pub(super) async fn authenticate<H: Handler>(
    handle: &mut Handle<H>,
    target: &Target,
) -> Result<(), Error> {
    let mut attempts = Vec::new();
    let mut accepted = None;
    for credential in &target.credentials {
        let verdict = match credential {
            Credential::KeyFile { path, passphrase } => {
                match read_key_file(path, passphrase.as_ref()) {
                    Ok(key) => offer_key(handle, target, key).await?,
                    Err(reason) => Verdict::Unusable(reason),
                }
            }
            Credential::Key { text, passphrase } => {
                match decode_key(text.expose(), passphrase.as_ref()) {
                    Ok(key) => offer_key(handle, target, key).await?,
                    Err(reason) => Verdict::Unusable(reason),
                }
            }
            Credential::Agent { socket } => offer_agent(handle, target, socket.as_deref()).await?,
            Credential::Password(password) => offer_password(handle, target, password).await?,
        };
        let method = Method::of(credential);
        match verdict {
            Verdict::In => return Ok(()),
            Verdict::Refused(outcome, remaining) => {
                accepted = Some(remaining);
                attempts.push(Attempt { method, outcome });
            }
            Verdict::Unusable(outcome) => attempts.push(Attempt { method, outcome }),
        }
    }
    let (address, user) = (target.address, target.user.clone());
    Err(match accepted {
        None => Error::NoCredential {
            address,
            user,
            attempts,
        },
        Some(methods) => Error::Refused {
            address,
            user,
            attempts,
            accepted: names(&methods),
        },
    })
}

fn names(methods: &MethodSet) -> String {
    let names: Vec<&'static str> = methods.iter().map(Into::into).collect();
    if names.is_empty() {
        "nothing further (it closed the connection)".to_owned()
    } else {
        names.join(", ")
    }
}

fn read_key_file(path: &Path, passphrase: Option<&Secret>) -> Result<PrivateKey, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    decode_key(&text, passphrase)
}

fn decode_key(text: &str, passphrase: Option<&Secret>) -> Result<PrivateKey, String> {
    decode_secret_key(text, passphrase.map(Secret::expose)).map_err(|error| match (&error, passphrase) {
        (russh::keys::Error::KeyIsEncrypted, None) => {
            "the key is encrypted: set ssh.private_key_passphrase, or load it into an agent and set ssh.agent".to_owned()
        }
        (_, Some(_)) => format!("the key does not open with ssh.private_key_passphrase: {error}"),
        (_, None) => format!("not a private key this build can read: {error}"),
    })
}

async fn rsa_hash<H: Handler>(
    handle: &Handle<H>,
    algorithm: &Algorithm,
    target: &Target,
) -> Result<Option<HashAlg>, Error> {
    if !matches!(algorithm, Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    let hash = handle
        .best_supported_rsa_hash()
        .await
        .map_err(|error| lost(target, &error))?;
    // A server that says nothing about signatures predates 2017; SHA-1 is refused by all others.
    Ok(hash.unwrap_or(Some(HashAlg::Sha256)))
}

async fn offer_key<H: Handler>(
    handle: &mut Handle<H>,
    target: &Target,
    key: PrivateKey,
) -> Result<Verdict, Error> {
    let fingerprint = key.fingerprint(HashAlg::Sha256);
    let hash = rsa_hash(handle, &key.algorithm(), target).await?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
    let result = handle
        .authenticate_publickey(&target.user, key)
        .await
        .map_err(|error| lost(target, &error))?;
    Ok(verdict(result, || format!("{fingerprint} not accepted")))
}

async fn offer_agent<H: Handler>(
    handle: &mut Handle<H>,
    target: &Target,
    socket: Option<&Path>,
) -> Result<Verdict, Error> {
    let Some(path) = socket
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from))
    else {
        return Ok(Verdict::Unusable(
            "SSH_AUTH_SOCK is not set: start ssh-agent and ssh-add the key".to_owned(),
        ));
    };
    let unusable = |what: &str, error: &dyn fmt::Display| {
        Ok(Verdict::Unusable(format!(
            "{what} {}: {error}",
            path.display()
        )))
    };
    let mut agent = match AgentClient::connect_uds(&path).await {
        Ok(agent) => agent,
        Err(error) => return unusable("cannot reach", &error),
    };
    let identities = match agent.request_identities().await {
        Ok(identities) => identities,
        Err(error) => return unusable("no list of keys from", &error),
    };
    let mut offered = Vec::new();
    let mut remaining = None;
    for identity in identities {
        let AgentIdentity::PublicKey { key, .. } = identity else {
            continue;
        };
        if offered.len() == AGENT_KEYS {
            break;
        }
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        let hash = rsa_hash(handle, &key.algorithm(), target).await?;
        match handle
            .authenticate_publickey_with(&target.user, key, hash, &mut agent)
            .await
        {
            Ok(AuthResult::Success) => return Ok(Verdict::In),
            Ok(AuthResult::Failure {
                remaining_methods, ..
            }) => {
                offered.push(format!("{fingerprint} not accepted"));
                let go_on = remaining_methods.contains(&MethodKind::PublicKey);
                remaining = Some(remaining_methods);
                if !go_on {
                    break;
                }
            }
            Err(error) => offered.push(format!("{fingerprint} could not sign: {error}")),
        }
    }
    Ok(match remaining {
        Some(methods) => Verdict::Refused(offered.join(", "), methods),
        None if offered.is_empty() => {
            Verdict::Unusable(format!("{} holds no keys: ssh-add the key", path.display()))
        }
        None => Verdict::Unusable(offered.join(", ")),
    })
}

async fn offer_password<H: Handler>(
    handle: &mut Handle<H>,
    target: &Target,
    password: &Secret,
) -> Result<Verdict, Error> {
    let result = handle
        .authenticate_password(&target.user, password.expose())
        .await
        .map_err(|error| lost(target, &error))?;
    let remaining = match result {
        AuthResult::Success => return Ok(Verdict::In),
        AuthResult::Failure {
            remaining_methods, ..
        } => remaining_methods,
    };
    if !remaining.contains(&MethodKind::KeyboardInteractive) {
        return Ok(Verdict::Refused("not accepted".to_owned(), remaining));
    }
    // PAM set-ups ask for the password as a prompt instead.
    let mut answer = handle
        .authenticate_keyboard_interactive_start(&target.user, None)
        .await
        .map_err(|error| lost(target, &error))?;
    loop {
        answer = match answer {
            KeyboardInteractiveAuthResponse::Success => return Ok(Verdict::In),
            KeyboardInteractiveAuthResponse::Failure {
                remaining_methods, ..
            } => {
                return Ok(Verdict::Refused(
                    "not accepted, neither as a prompt's answer".to_owned(),
                    remaining_methods,
                ));
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let answers = prompts
                    .iter()
                    .map(|_| password.expose().to_owned())
                    .collect();
                handle
                    .authenticate_keyboard_interactive_respond(answers)
                    .await
                    .map_err(|error| lost(target, &error))?
            }
        }
    }
}

fn verdict(result: AuthResult, refused: impl FnOnce() -> String) -> Verdict {
    match result {
        AuthResult::Success => Verdict::In,
        AuthResult::Failure {
            remaining_methods, ..
        } => Verdict::Refused(refused(), remaining_methods),
    }
}

fn lost(target: &Target, error: &russh::Error) -> Error {
    Error::Lost {
        address: target.address,
        act: format!("authenticating as {:?}", target.user),
        reason: error.to_string(),
    }
}
