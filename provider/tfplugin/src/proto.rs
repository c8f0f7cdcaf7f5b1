//! The messages and services that `build.rs` makes from `proto/`. Nothing here is written by hand.

/// The provider protocol, version 6.10.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "the generators write such attributes"
)]
pub mod tfplugin6 {
    tonic::include_proto!("tfplugin6");
}

/// go-plugin's control service.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "the generators write such attributes"
)]
pub mod plugin {
    tonic::include_proto!("plugin");
}
