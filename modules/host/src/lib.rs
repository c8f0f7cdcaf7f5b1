//! Modules about a machine itself: facts, identity, reachability.

pub mod facts;
pub mod identity;
pub mod names;
pub mod reachability;
