//! VirtualBox on one host, by way of VBoxManage: its acts and answers as values, and an engine that keeps VMs as they are wished.
//!
//! Knows nothing of Terraform, and of SSH only that there are ways to a host ([`transport::Transport`]).

pub mod answer;
pub mod command;
pub mod error;
pub mod host;
mod host_key;
pub mod image;
mod iso;
pub mod machine;
pub mod network;
mod observe;
pub mod plan;
pub mod prepare;
pub mod quote;
pub mod readiness;
mod seed;
pub mod settings;
pub mod shell;
pub mod snapshot;
pub mod spec;
pub mod transport;
pub mod version;

pub use error::{Code, Error, Result};
pub use host::{Host, Options};
pub use machine::Machine;
pub use spec::{Phase, Vm, VmSpec};
pub use transport::{Local, Output, Transport};
pub use version::Version;
