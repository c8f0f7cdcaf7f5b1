//! Runs one module of this crate as the whole binary would: its name as the only argument, Ansible's arguments on standard input.
//! The tests run it inside the machines of a lab.

use std::io::Read as _;
use std::process::ExitCode;

use ondol_kit::{Call, Entry, Reply, run};
use ondol_postgresql::{
    PostgresqlDatabase, PostgresqlExtension, PostgresqlFence, PostgresqlInstance,
    PostgresqlPrimary, PostgresqlPrivileges, PostgresqlRole, PostgresqlStandby, PostgresqlStatus,
    PostgresqlSynchronous,
};

const MODULES: [Entry; 10] = [
    Entry::module::<PostgresqlDatabase>(),
    Entry::module::<PostgresqlExtension>(),
    Entry::module::<PostgresqlFence>(),
    Entry::module::<PostgresqlInstance>(),
    Entry::module::<PostgresqlPrimary>(),
    Entry::module::<PostgresqlPrivileges>(),
    Entry::module::<PostgresqlRole>(),
    Entry::module::<PostgresqlStandby>(),
    Entry::module::<PostgresqlSynchronous>(),
    Entry::probe::<PostgresqlStatus>(),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let mut text = String::new();
    let reply = match std::io::stdin().read_to_string(&mut text) {
        Err(error) => Reply::failure(error.to_string()),
        Ok(_) => match (
            MODULES.iter().find(|it| it.name == name),
            Call::parse(&text),
        ) {
            (Some(entry), Ok(call)) => run(entry, &call),
            (None, _) => Reply::failure(format!("no module {name:?}")),
            (_, Err(error)) => Reply::failure(error.to_string()),
        },
    };
    println!("{}", reply.to_line());
    if reply.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
