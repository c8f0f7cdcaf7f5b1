//! Sockets of providers that were killed. Each provider removes those of its predecessors; a loopback port leaves nothing.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// What the name of a socket's folder begins with; the process's id and something random follow.
pub(crate) const FOLDER: &str = "tfplugin-";
pub(crate) const SOCKET: &str = "socket";

/// A folder younger than this is left alone, whatever its name says.
const SETTLED: Duration = Duration::from_secs(60);

/// Removes what providers that were killed left beside `own`, this provider's folder. Nothing depends on it, so that nothing is
/// said where it fails.
pub(crate) fn sweep(own: &Path, now: SystemTime) {
    let (Some(base), Ok(mine)) = (own.parent(), own.metadata()) else {
        return;
    };
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(owner) else {
            continue;
        };
        let folder = entry.path();
        // Of the entry itself: a link is none of ours.
        let Ok(found) = folder.symlink_metadata() else {
            continue;
        };
        let settled = found
            .modified()
            .ok()
            .and_then(|made| now.duration_since(made).ok())
            .is_some_and(|age| age >= SETTLED);
        let ours = found.is_dir() && found.uid() == mine.uid();
        let socket = folder.join(SOCKET);
        if settled && ours && is_gone(owner) && is_deaf(&socket) {
            drop(std::fs::remove_file(&socket));
            // Only if it holds nothing else.
            drop(std::fs::remove_dir(&folder));
        }
    }
}

/// The process whose folder has this name.
fn owner(name: &str) -> Option<i32> {
    let (id, _) = name.strip_prefix(FOLDER)?.split_once('-')?;
    id.parse().ok().filter(|&id| id > 0)
}

fn is_gone(process: i32) -> bool {
    kill(Pid::from_raw(process), None) == Err(Errno::ESRCH)
}

/// Whether nobody listens. A container may share the folders but not the process ids, so the id alone does not tell.
fn is_deaf(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => false,
        Err(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id of a process that has ended.
    fn ended() -> u32 {
        let mut process = std::process::Command::new("true").spawn().expect("it runs");
        process.wait().expect("it ends");
        process.id()
    }

    #[test]
    fn only_what_a_killed_provider_left_is_swept_away() {
        let base = tempfile::tempdir().expect("a folder");
        let make = |name: String| {
            let folder = base.path().join(name);
            std::fs::create_dir(&folder).expect("it is new");
            folder
        };
        let listen = |folder: &Path| {
            std::os::unix::net::UnixListener::bind(folder.join(SOCKET)).expect("it listens")
        };
        let (gone, here) = (ended(), std::process::id());
        let own = make(format!("{FOLDER}{here}-own"));
        let stale = make(format!("{FOLDER}{gone}-stale"));
        drop(listen(&stale));
        let bare = make(format!("{FOLDER}{gone}-bare"));
        let full = make(format!("{FOLDER}{gone}-full"));
        std::fs::write(full.join("else"), "").expect("it is written");
        let heard = make(format!("{FOLDER}{gone}-heard"));
        let _heard = listen(&heard);
        let alive = make(format!("{FOLDER}{here}-alive"));
        let nameless = make(format!("{FOLDER}abcdef"));
        let foreign = make(format!("other-{gone}-x"));
        let target = make("target".to_owned());
        let link = base.path().join(format!("{FOLDER}{gone}-link"));
        std::os::unix::fs::symlink(&target, &link).expect("it is new");
        let later = SystemTime::now() + SETTLED;

        sweep(&own, SystemTime::now());
        assert!(stale.join(SOCKET).exists(), "it was too young");
        sweep(&own, later);
        for (folder, kept) in [
            (&own, true),
            (&stale, false),
            (&bare, false),
            (&full, true),
            (&heard.join(SOCKET), true),
            (&alive, true),
            (&nameless, true),
            (&foreign, true),
            (&link, true),
            (&target, true),
        ] {
            assert_eq!(folder.exists(), kept, "{}", folder.display());
        }
    }

    #[test]
    fn a_folders_name_tells_its_owner() {
        for (name, id) in [
            ("tfplugin-17-abc", Some(17)),
            ("tfplugin-abc", None),
            ("tfplugin--abc", None),
            ("tfplugin-0-abc", None),
            ("tfplugin--1-abc", None),
            ("tfplugin-99999999999-abc", None),
            ("plugin-17-abc", None),
        ] {
            assert_eq!(owner(name), id, "{name}");
        }
    }
}
