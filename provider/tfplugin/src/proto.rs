//! The messages and services that `build.rs` makes from `proto/`. Nothing here is written by hand.

/// The provider protocol, version 6.10.
pub mod tfplugin6 {
    tonic::include_proto!("tfplugin6");
}

/// go-plugin's control service.
pub mod plugin {
    tonic::include_proto!("plugin");
}
