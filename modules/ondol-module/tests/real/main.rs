//! The built binary and the collection, by themselves and under real ansible-playbook.

mod binary;
mod examples;
mod harness;
mod playbook;
mod reference;
mod sanity;
