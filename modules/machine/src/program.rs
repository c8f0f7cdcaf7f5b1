//! Programs, run to their end within a time, in the C locale; what they said is kept for the error.
//!
//! Both ends of what passes are files in memory and not pipes: a server that a program leaves behind would hold a pipe open, and its caller with it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::memfd::{MFdFlags, memfd_create};

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
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    directory: Option<PathBuf>,
    user: Option<String>,
    stdin: Vec<u8>,
    patience: Duration,
}

impl Program {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: vec![("LC_ALL".to_owned(), "C.UTF-8".to_owned())],
            directory: None,
            user: None,
            stdin: Vec::new(),
            patience: Duration::from_secs(60),
        }
    }

    #[must_use]
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|it| it.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where it runs; this process's own directory if not said.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// As that user and all its groups, if this process is root. It then does not outlive this process, even one that is killed.
    #[must_use]
    pub fn as_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
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

    /// Runs it to its end, which is not that of a server that it leaves behind. An `Err`: it could not be started, or took too long and was
    /// ended with all its children.
    pub fn run(self) -> anyhow::Result<Output> {
        let name = self.name();
        let memory = || memory().with_context(|| format!("make room for what {name} says"));
        let (stdout, stderr) = (memory()?, memory()?);
        let mut child = self
            .command()
            .stdin(given(&self.stdin).with_context(|| format!("lay out the input of {name}"))?)
            .stdout(stdout.try_clone().context("share a file")?)
            .stderr(stderr.try_clone().context("share a file")?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("run {name}"))?;
        let status = wait(&mut child, self.patience)
            .with_context(|| format!("wait for {name}"))?
            .with_context(|| format!("{name} did not end within {} s", self.patience.as_secs()))?;
        let said = |file| said(file).with_context(|| format!("read what {name} said"));
        Ok(Output {
            status,
            stdout: said(&stdout)?,
            stderr: said(&stderr)?,
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

    fn command(&self) -> Command {
        let user = self.user.as_deref();
        let mut command = match user.filter(|_| nix::unistd::geteuid().is_root()) {
            None => Command::new(&self.program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--reuid", user, "--regid", user, "--init-groups"])
                    .args(["--pdeathsig", "KILL", "--"])
                    .arg(&self.program);
                command
            }
        };
        command.args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    fn name(&self) -> String {
        let mut name = self.program.to_string_lossy().into_owned();
        // The act, such as `update`, and not its options.
        if let Some(act) = self
            .args
            .iter()
            .find(|it| !it.as_encoded_bytes().starts_with(b"-"))
        {
            name = format!("{name} {}", act.to_string_lossy());
        }
        name
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command().fmt(f)
    }
}

fn memory() -> io::Result<File> {
    Ok(memfd_create(c"output", MFdFlags::MFD_CLOEXEC)?.into())
}

fn given(text: &[u8]) -> io::Result<Stdio> {
    if text.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = memory()?;
    file.write_all(text)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Without moving the place at which one who is left behind goes on writing.
fn said(file: &File) -> io::Result<String> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

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
    fn a_server_that_a_program_leaves_behind_does_not_hold_the_caller() {
        let started = Instant::now();
        let output = Program::new("sh")
            .args(["-c", "sleep 20 & echo $!"])
            .stdin("x".repeat(1 << 20))
            .succeed()
            .unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
        let left = output.stdout.trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn another_user_comes_with_its_group_and_the_name_stays_the_programs() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let who = Program::new("sh")
            .args(["-c", "id -un; id -gn; pwd"])
            .current_dir("/")
            .as_user("daemon");
        assert_eq!(who.succeed().unwrap().stdout, "daemon\ndaemon\n/\n");
        let error = Program::new("false")
            .as_user("daemon")
            .succeed()
            .unwrap_err();
        assert!(error.to_string().starts_with("false ended with"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Program::new("no-such-program").run().unwrap_err();
        assert_eq!(error.to_string(), "run no-such-program");
    }
}
