//! The managed resources. One file each: model, checks, plan, what is done, tests.

pub mod ansible_inventory;
pub mod golden_image;
pub mod netplan;
pub mod vm;
