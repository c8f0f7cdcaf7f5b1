//! The contract between a compiled Ansible module and Ansible: observe, plan, apply.
//!
//! A module is a type that implements [`Module`] (it may change the machine) or [`Probe`] (it only looks). [`Entry`]
//! erases that type, so that one binary can hold many; [`run`] answers one call. Schema, argument checking and
//! documentation all come from `Params`.
//!
//! The kit does not know any product, does not choose among entries, and never touches the machine itself.

mod converge;
mod docs;
mod entry;
mod module;
mod params;
mod redact;
mod reference;
mod reply;
mod schema;
mod secret;

pub use converge::{Mode, Outcome, converge};
pub use entry::{Entry, run};
pub use module::{Finding, Invalid, Module, Notices, Probe, TextDiff};
pub use params::{Problem, Problems, decode};
pub use redact::Redactor;
pub use reply::{Call, RESERVED, Reply};
pub use schema::unsupported_keywords;
pub use secret::Secret;
