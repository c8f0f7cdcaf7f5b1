//! The local mirror: Debian packages, files and container images, verified and published.
//!
//! All three kinds fetch by [`fetch`] into one content-addressed [`pool`] and publish from there. This crate serves nothing by itself: what
//! it publishes is a directory that any web server can show.

pub mod apt;
#[cfg(feature = "sync")]
pub mod audit;
#[cfg(feature = "sync")]
mod cache;
#[cfg(feature = "sync")]
mod digest;
#[cfg(feature = "sync")]
mod error;
#[cfg(feature = "sync")]
pub mod fetch;
#[cfg(feature = "sync")]
pub mod files;
#[cfg(feature = "sync")]
mod place;
#[cfg(feature = "sync")]
pub mod pool;
#[cfg(feature = "sync")]
pub mod progress;
#[cfg(feature = "sync")]
pub mod registry;

#[cfg(feature = "sync")]
pub use cache::{Cache, DEFAULT_CACHE_DIR};
#[cfg(feature = "sync")]
pub use digest::{Digest, Hasher};
#[cfg(feature = "sync")]
pub use error::{Error, Failure, Result};
#[cfg(feature = "sync")]
pub use place::{replace_link, write_atomically};
#[cfg(feature = "sync")]
pub use tokio_util::sync::CancellationToken;
