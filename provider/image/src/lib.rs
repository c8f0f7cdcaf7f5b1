//! Golden images: a recipe built into a content-addressed root file system, and into a disk that boots.
//!
//! Either is made once per recipe, from the apt sources of the machine itself or from a mirror that the recipe names, and kept in a cache
//! that every lab on the machine shares. This crate starts no VM and imports nothing into VirtualBox.

mod bootstrap;
mod build;
mod disk;
mod error;
mod job;
mod manifest;
mod origin;
mod recipe;
mod rootfs;

pub use build::build;
pub use disk::{BootableDisk, DiskManifest, DiskSpec, build_disk, disk_dir, disk_paths, find_disk};
pub use error::{Error, Result};
pub use job::Progress;
pub use manifest::{Image, Manifest, find};
pub use recipe::{Distribution, IMAGE_SOURCES_PATH, Recipe, User, Variant};

/// Where images and downloaded packages are kept unless someone says otherwise. It outlives the labs.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/ondol";
