//! The provider's functions. One file each.

pub mod topology;
