//! The plugin that Terraform starts. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tfplugin::serve(terraform_provider_ondol::Ondol)
}
