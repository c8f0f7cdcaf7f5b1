//! `ondol-lab`: a look at a lab from the command line, and a hand on its power and network switches.
//!
//! It makes no VMs: Terraform does. All it knows is in the library; here are arguments, tables and terminals.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("ONDOL_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .without_time()
        .init();
    match cli::run(cli::Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ondol-lab: {error:#}");
            ExitCode::from(cli::FAILED)
        }
    }
}
