//! The machine under a daemon: its systemd units, its user, its name. Decides nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ondol_kit::Invalid;
use ondol_machine::file;
pub(crate) use ondol_machine::file::remove_directory as remove_dir;
use ondol_machine::program::Program;

/// Whom daemons run as.
const USER: &str = "ceph";

/// A systemd unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// It runs, or systemd is at starting it again.
    pub(crate) active: bool,
    /// It starts with the machine.
    pub(crate) enabled: bool,
}

pub(crate) fn unit(name: &str) -> anyhow::Result<Unit> {
    let output = Program::new("systemctl")
        .args(["show", "--property=ActiveState,UnitFileState", name])
        .succeed()
        .with_context(|| format!("ask systemd about {name}"))?;
    Ok(parse_unit(&output.stdout))
}

fn parse_unit(text: &str) -> Unit {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
    };
    Unit {
        active: value("ActiveState") == "active",
        enabled: matches!(value("UnitFileState"), "enabled" | "enabled-runtime"),
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

/// Starts a unit, also one that systemd gave up on.
pub(crate) fn start(name: &str) -> anyhow::Result<()> {
    // It fails for a unit that was never loaded, which start then says in better words.
    let _ = Program::new("systemctl").args(["reset-failed", name]).run();
    systemctl(&["start", name])
}

/// Makes Ceph's user the owner, of links themselves too.
pub(crate) fn give_to_ceph(path: &Path) -> anyhow::Result<()> {
    file::give(path, USER).with_context(|| format!("give {} to the user {USER}", path.display()))
}

/// A directory of Ceph's, mode 0750. One that is there is fine.
pub(crate) fn create_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("create {}", path.display()));
        }
        _ => {}
    }
    give_to_ceph(path)
}

/// A file of Ceph's that no one else reads.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    file::write_owned(path, text, 0o600, USER)
}

/// The host name up to its first dot, which is what Ceph's packages name daemons by.
pub(crate) fn short_hostname() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("ask for the host name")?;
    let name = name.to_string_lossy();
    Ok(name.split('.').next().unwrap_or_default().to_owned())
}

/// Names of daemons, pools and the like: what Ceph takes without quoting, and no path.
pub(crate) fn check_name(param: &'static str, name: &str) -> Result<(), Invalid> {
    let fine = !name.is_empty()
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fine {
        Ok(())
    } else {
        Err(Invalid::new(
            param,
            format!("{name:?} is not a name (letters, digits, `-`, `_`, `.`)"),
        ))
    }
}

/// Asks until it is so. `look` returns `Ok(None)` when it is, or what is still missing.
pub(crate) fn wait(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(200);
    loop {
        let missing = match look() {
            Ok(None) => return Ok(()),
            Ok(Some(missing)) => missing,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) => format!("{error:#}"),
        };
        anyhow::ensure!(
            Instant::now() < deadline,
            "{what}: not within {} s: {missing}",
            patience.as_secs()
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_from_what_systemctl_shows() {
        for (text, wanted) in [
            ("ActiveState=active\nUnitFileState=enabled\n", (true, true)),
            (
                "ActiveState=activating\nUnitFileState=disabled\n",
                (false, false),
            ),
            ("ActiveState=inactive\nUnitFileState=\n", (false, false)),
        ] {
            let unit = parse_unit(text);
            assert_eq!((unit.active, unit.enabled), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_is_no_path_and_no_option() {
        for (name, fine) in [
            ("a-1_b.c", true),
            ("", false),
            ("-x", false),
            ("..", false),
            ("a/b", false),
        ] {
            assert_eq!(check_name("name", name).is_ok(), fine, "{name}");
        }
    }
}
