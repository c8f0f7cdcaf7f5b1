//! Ways to a host: a line for its shell goes there, and what it printed comes back. The way through SSH is whoever's has the keys.

use std::pin::Pin;
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::{Error, Result};

/// What an asynchronous act returns. Boxed, because ways to a host are chosen at run time.
pub type Act<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a program printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// `None`: a signal ended it.
    pub status: Option<i32>,
}

impl Output {
    /// The program's own words: standard error, or standard output where that is empty.
    pub fn words(&self) -> String {
        let stderr = String::from_utf8_lossy(&self.stderr);
        let stdout = String::from_utf8_lossy(&self.stdout);
        let words = [stderr.trim(), stdout.trim()]
            .into_iter()
            .find(|words| !words.is_empty());
        let words = words.map(|words| words.lines().map(str::trim).collect::<Vec<_>>().join("; "));
        words.unwrap_or_else(|| match self.status {
            Some(status) => format!("it printed nothing and ended with status {status}"),
            None => "it printed nothing and was killed".to_owned(),
        })
    }
}

/// The way to a host. One that breaks answers with [`Error::Unreachable`].
pub trait Transport: Send + Sync {
    /// Runs a line in the default shell of the host's user, standard input given.
    fn exec<'a>(&'a self, act: &'a str, line: &'a str, stdin: &'a [u8]) -> Act<'a, Result<Output>>;

    /// Runs a line that says something once it has what it was run for, and that ends with its standard input: which is when the
    /// answer is dropped, or this process ends, whatever the reason.
    fn hold<'a>(&'a self, act: &'a str, line: &'a str) -> Act<'a, Result<Held>>;

    /// The host sees the files of the machine that this program runs on, under the same paths.
    fn shares_files(&self) -> bool;
}

/// Something that is let go when this is dropped.
pub struct Held(#[expect(dead_code, reason = "it is only kept")] Box<dyn Send + Sync>);

impl Held {
    pub fn new(what: impl Send + Sync + 'static) -> Self {
        Self(Box::new(what))
    }
}

/// The machine that this program runs on, or a part of it that a program leads into.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// Comes before the shell: `nsenter ...`, `sudo -u vbox`. Files are not taken to be shared then.
    pub enter: Vec<String>,
}

impl Local {
    fn spawn(&self, act: &str, line: &str) -> Result<tokio::process::Child> {
        let words = self.enter.iter().map(String::as_str);
        let words: Vec<&str> = words.chain(["sh", "-c", line]).collect();
        tokio::process::Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| broken(act, format!("{}: {error}", words[0])))
    }
}

fn broken(act: &str, words: String) -> Error {
    Error::Unreachable {
        act: act.to_owned(),
        words,
        remedy: "Check that the program can be run".to_owned(),
    }
}

impl Transport for Local {
    fn exec<'a>(&'a self, act: &'a str, line: &'a str, stdin: &'a [u8]) -> Act<'a, Result<Output>> {
        Box::pin(async move {
            let mut child = self.spawn(act, line)?;
            let mut pipe = child.stdin.take().expect("it was asked for");
            let feed = async move {
                // A program may end without reading all of its input; its exit status tells the story.
                let _ = pipe.write_all(stdin).await;
                let _ = pipe.shutdown().await;
            };
            let (output, ()) = tokio::join!(child.wait_with_output(), feed);
            let output = output.map_err(|error| broken(act, error.to_string()))?;
            Ok(Output {
                stdout: output.stdout,
                stderr: output.stderr,
                status: output.status.code(),
            })
        })
    }

    fn hold<'a>(&'a self, act: &'a str, line: &'a str) -> Act<'a, Result<Held>> {
        Box::pin(async move {
            let mut child = self.spawn(act, line)?;
            let mut stdout = child.stdout.take().expect("it was asked for");
            let mut first = [0];
            match stdout.read(&mut first).await {
                Ok(1) => Ok(Held::new((child, stdout))),
                _ => {
                    drop(child.stdin.take());
                    let output = child.wait_with_output().await;
                    let output = output.map_err(|error| broken(act, error.to_string()))?;
                    Err(Error::File {
                        act: act.to_owned(),
                        words: Output {
                            stdout: output.stdout,
                            stderr: output.stderr,
                            status: output.status.code(),
                        }
                        .words(),
                    })
                }
            }
        })
    }

    fn shares_files(&self) -> bool {
        self.enter.is_empty()
    }
}
