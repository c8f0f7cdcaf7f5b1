//! The managed resources. One file each: model, checks, plan, what is done, tests.

pub mod ansible_inventory;
pub mod apt_mirror;
pub mod file_mirror;
pub mod golden_image;
pub mod host;
pub mod host_only_network;
pub mod image;
pub mod nat_network;
pub mod netplan;
mod on_virtualbox;
pub mod ova_export;
pub mod registry_mirror;
pub mod vm;
pub mod vm_snapshot;
