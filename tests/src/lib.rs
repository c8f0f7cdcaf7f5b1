//! The harness of the whole-system tests: a site of its own on the lab engine, driven by the commands a user types.
//!
//! It holds no expectation about the product: those are in `tests/`.

pub mod ansible;
pub mod bench;
pub mod plan;
pub mod site;
pub mod traces;

pub use site::Site;

/// Tells in a test's output how far it has come.
pub fn step(name: &str) {
    eprintln!("--- {name}");
}
