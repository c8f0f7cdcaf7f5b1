//! A typed SDK for Terraform providers: plugin protocol 6 on tonic and prost.
//!
#![doc = include_str!("../README.md")]

mod attr;
pub mod attribute;
mod bridge;
#[cfg(feature = "client")]
pub mod client;
pub mod cty;
mod data_source;
mod diagnostics;
pub mod docs;
mod ephemeral;
mod erased;
mod function;
#[cfg(unix)]
mod leftovers;
mod log;
mod operation;
mod path;
mod plan;
#[doc(hidden)]
pub mod proto;
mod provider;
mod registry;
mod resource;
pub mod schema;
mod serve;
mod server;
pub mod timeouts;
mod tls;
mod transport;
mod validate;

pub use attr::{Attr, Model, Set};
pub use bridge::Dynamic;
pub use data_source::DataSource;
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use ephemeral::{Ephemeral, Opened};
pub use function::{Function, FunctionError};
pub use operation::{Interrupted, Operation, Private, Verb};
pub use path::{Key, Path, Step};
pub use provider::Provider;
pub use registry::{Registry, check};
pub use resource::{Failure, MoveSource, Planned, Resource};
pub use serve::{serve, serve_on};
pub use timeouts::{DefaultTimeouts, Timeouts};
pub use transport::Transport;

/// Re-exported for `Provider::configure`.
pub use tokio_util::sync::CancellationToken;
