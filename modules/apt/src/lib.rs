//! Modules about apt: where a machine takes its packages from. Packages themselves are `ansible.builtin.apt`'s.

pub mod sources;
