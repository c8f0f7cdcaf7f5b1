//! The hypervisors. One file each.

pub mod lab;
pub mod virtualbox;
