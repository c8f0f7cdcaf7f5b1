//! The data sources. One file each.

pub mod host;
pub mod vm;
pub mod vms;
