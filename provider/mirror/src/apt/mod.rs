//! Debian packages: which there are, which are needed, and a signed archive that holds exactly those.
//!
//! [`sync`] is the way in: a [`Config`] says what a mirror is to hold, a [`Snapshot`] what it holds then.

#[cfg(feature = "sync")]
mod archive;
#[cfg(feature = "sync")]
mod bom;
#[cfg(feature = "index")]
pub mod closure;
#[cfg(feature = "sync")]
mod config;
#[cfg(feature = "sync")]
pub mod date;
#[cfg(feature = "index")]
pub mod depends;
#[cfg(feature = "sync")]
mod error;
#[cfg(feature = "index")]
pub mod index;
#[cfg(feature = "sync")]
pub mod machine;
#[cfg(feature = "index")]
pub mod packages;
#[cfg(feature = "sync")]
mod publish;
#[cfg(feature = "sync")]
pub mod release;
#[cfg(feature = "sync")]
mod select;
#[cfg(feature = "sync")]
pub mod sign;
#[cfg(feature = "sync")]
mod snapshot;
pub mod sources;
#[cfg(feature = "sync")]
mod sync;
#[cfg(feature = "sync")]
mod upstream;
#[cfg(feature = "index")]
pub mod version;

#[cfg(feature = "sync")]
pub use closure::{Delta, Request};
#[cfg(feature = "sync")]
pub use config::{Config, DEFAULT_SITE_KEY, Selection, Trust, Upstream};
#[cfg(feature = "sync")]
pub use error::Error;
#[cfg(feature = "sync")]
pub use machine::Machine;
#[cfg(feature = "sync")]
pub use select::{Entry, Missing};
#[cfg(feature = "sync")]
pub use sign::{Keyring, SiteKey};
#[cfg(feature = "sync")]
pub use snapshot::{Manifest, Snapshot, current, list};
#[cfg(feature = "sync")]
pub use sync::{Plan, export_archive, import_archive, observe, plan, sync};
