//! VirtualBox on one host, by way of VBoxManage: its acts and answers as values, and an engine that keeps VMs as they are wished.
//!
//! Knows nothing of Terraform, and of SSH only that there are ways to a host ([`machine::Transport`]).

pub mod answer;
pub mod command;
pub mod error;
pub mod host;
mod host_key;
pub mod image;
mod iso;
pub mod machine;
mod observe;
pub mod plan;
pub mod quote;
mod seed;
pub mod settings;
pub mod shell;
pub mod spec;
pub mod version;

pub use error::{Code, Error, Result};
pub use host::{Host, Options};
pub use machine::{Local, Machine, Output, Transport};
pub use spec::{Phase, Vm, VmSpec};
pub use version::Version;
