//! The hypervisors. One file each.

pub mod lab;
