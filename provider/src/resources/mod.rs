//! The managed resources. One file each: model, checks, plan, what is done, tests.

pub mod ansible_inventory;
pub mod apt_mirror;
pub mod file_mirror;
pub mod golden_image;
pub mod netplan;
pub mod registry_mirror;
pub mod vm;
