//! Golden images: a recipe built into a content-addressed root file system.
//!
//! An image is made once per recipe, from the apt sources of the machine itself, and kept in a cache that every lab on the machine
//! shares. This crate starts no VM and makes no .ova.

mod bootstrap;
mod build;
mod error;
mod manifest;
mod recipe;
mod rootfs;
mod sources;

pub use build::{Progress, build};
pub use error::{Error, Result};
pub use manifest::{Image, Manifest, find};
pub use recipe::{Distribution, Recipe, User, Variant};

/// Where images and downloaded packages are kept unless someone says otherwise. It outlives the labs.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/ondol";
