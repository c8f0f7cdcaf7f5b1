//! Programs of the machine: run, and their words kept when they fail. No decisions.

use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};

/// What to do when a program that the lab runs is missing; the packages are Debian's and Ubuntu's.
const MISSING: &[(&str, &str)] = &[
    ("ip", "; run `apt-get install iproute2`"),
    ("losetup", "; run `apt-get install mount`"),
    ("nsenter", "; run `apt-get install util-linux`"),
    ("ssh-keygen", "; run `apt-get install openssh-client`"),
    (
        "systemd-nspawn",
        "; run `apt-get install systemd-container`",
    ),
];

pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs to the end and answers with stdout. `act` says what it is for.
pub(crate) fn run(act: &str, argv: &[&str], stdin: &str) -> Result<String> {
    let output = output(
        act,
        Command::new(argv[0])
            .args(&argv[1..])
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8"),
        stdin.as_bytes(),
    )?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Tool {
        act: act.to_owned(),
        tool: argv.join(" "),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        hint: "",
    })
}

/// Runs to the end with `stdin` fed from a thread, so that neither side can block the other.
pub(crate) fn output(act: &str, command: &mut Command, stdin: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| spawn_error(act, &command.get_program().to_string_lossy(), error))?;
    let mut pipe = child.stdin.take().expect("stdin is a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || match pipe.write_all(stdin) {
            // A program that does not read its input closes the pipe: its exit status says whether that matters.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                tracing::debug!(%error, "write to a program's input")
            }
            _ => {}
        });
        child.wait_with_output()
    })
    .map_err(|error| Error::io(act, error))
}

pub(crate) fn spawn_error(act: &str, tool: &str, error: std::io::Error) -> Error {
    let hint = match MISSING.iter().find(|(name, _)| *name == tool) {
        Some((_, hint)) if error.kind() == ErrorKind::NotFound => hint,
        _ => "",
    };
    Error::Tool {
        act: act.to_owned(),
        tool: tool.to_owned(),
        status: "did not start".to_owned(),
        stderr: error.to_string(),
        hint,
    }
}
