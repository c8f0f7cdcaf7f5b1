//! The cluster as its monitors tell it: `ceph` commands, their JSON, and why there was no answer.
//!
//! "No such thing" is an answer of the monitors. Silence, a refused key and an unknown state are errors, never absence.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ondol_machine::program::{Output, Program};
use serde::de::DeserializeOwned;

use crate::conf;

/// Why a command brought no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot reach the monitors ({act}): {words}")]
    Unreachable { act: String, words: String },
    #[error("the monitors do not accept this key ({act}): {words}")]
    Denied { act: String, words: String },
    /// What was asked for does not exist.
    #[error("ceph {act}: {words}")]
    Absent { act: String, words: String },
    /// The cluster does not know yet.
    #[error("ceph {act}: {words}")]
    Unsettled { act: String, words: String },
    #[error("ceph {act} (status {status}): {words}")]
    Refused {
        act: String,
        status: i32,
        words: String,
    },
}

/// How long the monitors may take to answer at all.
const CONNECT: Duration = Duration::from_secs(15);
/// A command that waits longer has lost its quorum on the way.
const ANSWER: Duration = Duration::from_secs(60);

/// How to reach the monitors.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    options: Vec<String>,
    connect: Duration,
}

impl Default for Cluster {
    /// With `/etc/ceph/ceph.conf` and the administrator's keyring.
    fn default() -> Self {
        Self {
            options: Vec::new(),
            connect: CONNECT,
        }
    }
}

impl Cluster {
    /// By these options of `ceph` instead of the machine's own configuration.
    pub(crate) fn with_options(options: Vec<String>, connect: Duration) -> Self {
        Self { options, connect }
    }

    /// Whether this machine was ever told of a cluster. Without [`conf::PATH`] it can neither ask one nor change one, so what is wanted there is
    /// planned as if nothing were there: in check mode an earlier task may be about to found the cluster, and otherwise the first step fails.
    pub(crate) fn is_known(&self) -> bool {
        !self.options.is_empty() || Path::new(conf::PATH).exists()
    }

    /// Standard output of a command.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String, Failure> {
        self.run_with(args, "")
    }

    /// The same with something on standard input, which is where secrets go.
    pub(crate) fn run_with(&self, args: &[&str], stdin: &str) -> Result<String, Failure> {
        let program = Program::new("ceph")
            .args(["--connect-timeout", &self.connect.as_secs().to_string()])
            .args(&self.options)
            .args(args)
            .stdin(stdin)
            .within(self.connect + ANSWER);
        match program.run() {
            Ok(output) if output.status.success() => Ok(output.stdout),
            Ok(output) => Err(failure(args, &output)),
            Err(error) => Err(Failure::Unreachable {
                act: act(args),
                words: format!("{error:#}"),
            }),
        }
    }

    /// Standard output of another of Ceph's tools, such as `rbd`.
    pub(crate) fn tool(&self, tool: &str, args: &[&str], stdin: &str) -> anyhow::Result<String> {
        let patience = format!("--client_mount_timeout={}", self.connect.as_secs());
        let output = Program::new(tool)
            .args([&patience])
            .args(args)
            .stdin(stdin)
            .within(self.connect + ANSWER)
            .run()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        anyhow::bail!("{tool} {}: {}", act(args), plain(output.words()))
    }

    /// The JSON that a command prints.
    pub(crate) fn ask<T: DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<T> {
        let text = self.run(&[args, &["--format", "json"]].concat())?;
        parse(&text).with_context(|| format!("read what \"ceph {}\" printed", act(args)))
    }

    /// The same; `None` only if the monitors said that there is no such thing.
    pub(crate) fn find<T: DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<Option<T>> {
        match self.run(&[args, &["--format", "json"]].concat()) {
            Ok(text) => parse(&text)
                .map(Some)
                .with_context(|| format!("read what \"ceph {}\" printed", act(args))),
            Err(Failure::Absent { .. }) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }
}

pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    let mut from = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut from).map_err(Into::into)
}

/// The words of a command without options.
fn act(args: &[&str]) -> String {
    let words: Vec<&str> = args
        .iter()
        .copied()
        .take_while(|word| !word.starts_with('-'))
        .collect();
    words.join(" ")
}

fn failure(args: &[&str], output: &Output) -> Failure {
    classify(act(args), output.status.code(), output.words())
}

/// `ceph` exits with the error number of the monitors' answer, and with small numbers of its own for everything else.
fn classify(act: String, status: Option<i32>, said: &str) -> Failure {
    let words = plain(said);
    let answered = said.lines().any(|line| line.starts_with("Error E"));
    match status {
        Some(2) if answered => Failure::Absent { act, words },
        Some(11) if answered => Failure::Unsettled { act, words },
        Some(status) if answered => Failure::Refused { act, status, words },
        // The daemon's own log lines say more than the tool's last word, but also more than anyone wants to read.
        _ if said.contains("permission denied") || said.contains("handle_auth_bad_method") => {
            Failure::Denied { act, words }
        }
        Some(22) => Failure::Refused {
            act,
            status: 22,
            words,
        },
        _ => Failure::Unreachable { act, words },
    }
}

/// Without lines of the client library's log, which begin with a date, unless there is nothing else.
fn plain(said: &str) -> String {
    let is_log =
        |line: &&str| line.len() > 10 && line.as_bytes()[4] == b'-' && line.starts_with("20");
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !is_log(line))
        .collect();
    if lines.is_empty() {
        said.trim().to_owned()
    } else {
        lines.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Ceph 16.2.15 said them.
    #[test]
    fn silence_and_a_wrong_key_are_not_absence() {
        let kind = |status, said: &str| match classify("x".into(), Some(status), said) {
            Failure::Unreachable { .. } => "unreachable",
            Failure::Denied { .. } => "denied",
            Failure::Absent { .. } => "absent",
            Failure::Unsettled { .. } => "unsettled",
            Failure::Refused { .. } => "refused",
        };
        for (status, said, wanted) in [
            (
                2,
                "Error ENOENT: failed to find client.nope in keyring",
                "absent",
            ),
            (1, "timed out", "unreachable"),
            (
                1,
                "[errno 110] RADOS timed out (error connecting to the cluster)",
                "unreachable",
            ),
            (
                2,
                "[errno 2] RADOS object not found (error connecting to the cluster)",
                "unreachable",
            ),
            (
                13,
                "[errno 13] RADOS permission denied (error connecting to the cluster)",
                "denied",
            ),
            (
                11,
                "Error EAGAIN: 65 pgs have unknown state; cannot draw any conclusions",
                "unsettled",
            ),
            (16, "Error EBUSY: pool is in use", "refused"),
            (22, "Invalid command: missing required parameter", "refused"),
        ] {
            assert_eq!(kind(status, said), wanted, "{said}");
        }
    }

    #[test]
    fn log_lines_are_left_out_of_an_error() {
        let said = "2026-11-22T17:02:06.892+0000 7f5d1f23e6c0 -1 auth: unable to find a keyring\n\n\
                    [errno 13] RADOS permission denied (error connecting to the cluster)\n";
        let failure = classify(act(&["auth", "get", "--x"]), Some(13), said);
        assert_eq!(
            failure.to_string(),
            "the monitors do not accept this key (auth get): \
             [errno 13] RADOS permission denied (error connecting to the cluster)"
        );
    }
}
