//! systemd's view of a server, and texts that are checked before anyone reads them. Decides nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use ondol_kit::Invalid;
use ondol_machine::program::Program;

/// A systemd unit. One whose package is not there yet is neither active nor enabled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) active: bool,
    pub(crate) enabled: bool,
    /// When its program was started, in seconds since 1970.
    pub(crate) started_at: u64,
}

impl Unit {
    /// It runs with a configuration that has been written since. Within one second that cannot be told, and is taken for no.
    pub(crate) fn is_older_than(&self, written_at: u64) -> bool {
        self.active && self.started_at < written_at
    }
}

pub(crate) fn unit(name: &str) -> anyhow::Result<Unit> {
    let shown = Program::new("systemctl")
        .args([
            "show",
            "--timestamp=unix",
            "--property=ActiveState,UnitFileState,ExecMainStartTimestamp",
            name,
        ])
        .succeed()
        .with_context(|| format!("ask systemd about {name}"))?;
    Ok(parse(&shown.stdout))
}

fn parse(text: &str) -> Unit {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
    };
    Unit {
        active: value("ActiveState") == "active",
        enabled: matches!(value("UnitFileState"), "enabled" | "enabled-runtime"),
        started_at: value("ExecMainStartTimestamp")
            .strip_prefix('@')
            .and_then(|it| it.parse().ok())
            .unwrap_or_default(),
    }
}

pub(crate) fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    Program::new("systemctl")
        .args(args)
        .within(Duration::from_secs(120))
        .succeed()
        .with_context(|| format!("systemctl {}", args.join(" ")))?;
    Ok(())
}

/// Seconds since 1970; 0: there is no such file.
pub(crate) fn written_at(path: &Path) -> anyhow::Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => {
            let written = metadata.modified().context("read a file's time")?;
            Ok(written
                .duration_since(UNIX_EPOCH)
                .map_or(0, |it| it.as_secs()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}

pub(crate) fn absolute(param: &'static str, text: &str) -> Result<(), Invalid> {
    let fine = text.starts_with('/') && !text.contains(['\n', '"', '\0']);
    fine.then_some(())
        .ok_or_else(|| Invalid::new(param, format!("{text:?} is not an absolute path")))
}

/// Names of shares, exports and users: a file's name, and a word to every server.
pub(crate) fn word(param: &'static str, text: &str) -> Result<(), Invalid> {
    let fine = !text.is_empty()
        && !text.starts_with(['-', '.'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    fine.then_some(()).ok_or_else(|| {
        Invalid::new(
            param,
            format!("{text:?} is not a name (letters, digits, `-`, `_`, `.`)"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_from_what_systemctl_shows() {
        for (text, wanted) in [
            (
                "ActiveState=active\nUnitFileState=enabled\nExecMainStartTimestamp=@1700000000\n",
                Unit {
                    active: true,
                    enabled: true,
                    started_at: 1_700_000_000,
                },
            ),
            (
                "ActiveState=inactive\nUnitFileState=\nExecMainStartTimestamp=\n",
                Unit::default(),
            ),
        ] {
            assert_eq!(parse(text), wanted);
        }
    }

    #[test]
    fn only_a_server_that_runs_can_be_older_than_its_configuration() {
        let unit = |active| Unit {
            active,
            enabled: true,
            started_at: 10,
        };
        for (unit, written_at, wanted) in [
            (unit(true), 11, true),
            (unit(true), 10, false),
            (unit(false), 11, false),
        ] {
            assert_eq!(unit.is_older_than(written_at), wanted);
        }
    }
}
