//! What can go wrong between registries and a mirror, in words a person can act on.

use std::path::PathBuf;

use super::auth::InvalidAuthFile;
use super::manifest::InvalidManifest;
use super::reference::Digest;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Mirror(#[from] crate::Error),
    /// In the registry's or the library's own words.
    #[error("{act}: {words}")]
    Registry { act: String, words: String },
    #[error(
        "{act}: {registry} denies it: {words}. Its credentials are looked for in the auth file"
    )]
    Denied {
        act: String,
        registry: String,
        words: String,
    },
    #[error(
        "{registry} asks for a login, and the auth file has none for it. Log in with `skopeo login`, `podman login` or `docker login`"
    )]
    LoginNeeded { registry: String },
    #[error("{reference}: the registry does not have it")]
    NotFound { reference: String },
    #[error("{reference}: {reason}")]
    Manifest {
        reference: String,
        reason: InvalidManifest,
    },
    #[error(
        "{what} is not what its digest says: it has {got} instead of {expected}. Nothing of it was kept"
    )]
    WrongDigest {
        what: String,
        got: Digest,
        expected: Digest,
    },
    #[error("credentials in {}: {reason}", .path.display())]
    AuthFile {
        path: PathBuf,
        reason: InvalidAuthFile,
    },
}
