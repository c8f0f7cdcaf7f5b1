//! The provider's functions. One file each.

pub mod base_packages;
pub mod topology;
