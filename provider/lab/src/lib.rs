//! The lab engine: each VM is a systemd-nspawn container with its own systemd, disk overlay and network namespace, on one Linux machine.
//!
//! Blocking and cheap to clone. It keeps nothing in memory that the machine does not also know: any process can open the same lab.
//! It does not build images (`ondol-image`), does not speak SSH and knows nothing of Terraform.

mod cgroup;
mod disks;
mod error;
mod lab;
mod machine;
mod names;
mod network;
mod nspawn;
mod plan;
mod process;
mod seed;
mod spec;
mod store;

pub use cgroup::Limits;
pub use error::{Error, Result};
pub use lab::{Lab, LabConfig, Status, Updated};
pub use plan::{Change, Impact, plan_update};
pub use spec::{
    DiskSpec, Features, InterfaceSpec, MEMORY_MIB_MIN, PowerState, Seed, SharedFolder, Vm, VmSpec,
};
