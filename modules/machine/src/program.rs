//! Programs, run to their end within a time, in the C locale; what they said is kept for the error.

use std::fmt;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// A program that ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// What it said about a failure: its standard error, or where that is empty its standard output.
    pub fn words(&self) -> &str {
        match self.stderr.trim() {
            "" => self.stdout.trim(),
            words => words,
        }
    }
}

/// A program that said no, or could not be run. Its words are in the text.
#[derive(Debug, thiserror::Error)]
#[error("{program} ended with {status}: {words}")]
pub struct Refused {
    pub program: String,
    pub status: ExitStatus,
    pub words: String,
}

/// What to run. Arguments must hold no secret: everyone on the machine can read them.
pub struct Program {
    command: Command,
    stdin: Vec<u8>,
    patience: Duration,
}

impl Program {
    pub fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8");
        Self {
            command,
            stdin: Vec::new(),
            patience: Duration::from_secs(60),
        }
    }

    #[must_use]
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    #[must_use]
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = text.into();
        self
    }

    /// How long it may take; one minute if not said.
    #[must_use]
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs it to its end. An `Err`: it could not be started, or took too long and was ended with all its children.
    pub fn run(mut self) -> anyhow::Result<Output> {
        let name = self.name();
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("run {name}"))?;
        let mut stdin = child.stdin.take().expect("is piped");
        let given = std::mem::take(&mut self.stdin);
        // One that ends without reading what it was given says why by its status.
        let writer = thread::spawn(move || drop(stdin.write_all(&given)));
        let stdout = drain(child.stdout.take().expect("is piped"));
        let stderr = drain(child.stderr.take().expect("is piped"));
        let status = wait(&mut child, self.patience)
            .with_context(|| format!("wait for {name}"))?
            .with_context(|| format!("{name} did not end within {} s", self.patience.as_secs()))?;
        let _ = writer.join();
        let text = |bytes: thread::Result<Vec<u8>>| {
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        Ok(Output {
            status,
            stdout: text(stdout.join()),
            stderr: text(stderr.join()),
        })
    }

    /// Runs it and takes every status but 0 for an error, a [`Refused`].
    pub fn succeed(self) -> anyhow::Result<Output> {
        let program = self.name();
        let output = self.run()?;
        if output.status.success() {
            return Ok(output);
        }
        Err(Refused {
            program,
            status: output.status,
            words: output.words().to_owned(),
        }
        .into())
    }

    fn name(&self) -> String {
        let mut name = self.command.get_program().to_string_lossy().into_owned();
        // The act, such as `update`, and not its options.
        if let Some(act) = self
            .command
            .get_args()
            .find(|it| !it.as_encoded_bytes().starts_with(b"-"))
        {
            name = format!("{name} {}", act.to_string_lossy());
        }
        name
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command.fmt(f)
    }
}

fn drain(mut from: impl std::io::Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// `None`: the time is over, and the program was ended.
fn wait(child: &mut Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("is a pid"));
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_is_in_the_error() {
        let error = Program::new("sh")
            .args(["-c", "echo no such thing >&2; exit 3"])
            .succeed()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh echo no such thing >&2; exit 3 ended with exit status: 3: no such thing"
        );
    }

    #[test]
    fn standard_input_arrives_whole_and_the_locale_is_c() {
        let text = "x".repeat(1 << 20);
        let output = Program::new("sh")
            .args(["-c", "cat; printf %s \"$LC_ALL\" >&2"])
            .stdin(text.clone())
            .succeed()
            .unwrap();
        assert_eq!((output.stdout, output.stderr.as_str()), (text, "C.UTF-8"));
    }

    #[test]
    fn one_that_takes_too_long_is_ended_with_its_children() {
        let started = Instant::now();
        let error = Program::new("sh")
            .args(["-c", "sleep 60 & sleep 60"])
            .within(Duration::from_millis(100))
            .run()
            .unwrap_err();
        assert!(
            error.to_string().contains("did not end within 0 s"),
            "{error}"
        );
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Program::new("no-such-program").run().unwrap_err();
        assert_eq!(error.to_string(), "run no-such-program");
    }
}
