//! The SDK's features, each with the sample provider under the real Terraform, or, where Terraform 1.11 has no call for
//! it, under a client that speaks the protocol. Terraform must be on the PATH.

#![cfg(unix)]

mod collections;
mod configuration;
mod faults;
mod lifecycle;
mod secrets;
mod terraform;
mod values;
mod wire;
