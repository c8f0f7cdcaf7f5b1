//! Terraform against hosts with the real VirtualBox, over SSH: what a room of PCs is, on one machine.
//!
//! Needs root, terraform, an SSH server in the hosts' tree, and that tree (see the support of `ondol-virtualbox`'s tests). VirtualBox's kernel
//! driver is missing there, so no VM starts: that, too, is tested.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod emulated;
mod killed;
mod moved;
mod prepared;
mod resources;
mod room;
mod root;
#[expect(dead_code, reason = "each test file uses its own part of the support")]
#[path = "../site/mod.rs"]
mod site;
#[expect(dead_code, reason = "each test file uses its own part of the support")]
#[path = "../../virtualbox/tests/support/mod.rs"]
mod support;
mod vms;
