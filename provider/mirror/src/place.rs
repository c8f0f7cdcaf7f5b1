//! Writing so that a reader sees the old or the new and nothing between.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes beside `path` and renames. Parent directories are made. Synced, so that a power cut leaves the old or the new.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, bytes, mode, true)?;
    sync_dir(parent(path))
}

/// As [`write_atomically`], for what a power cut may spoil because its reader copes with that, or because all is synced later.
pub(crate) fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, 0o644, false)
}

fn replace(path: &Path, bytes: &[u8], mode: u32, synced: bool) -> Result<()> {
    create_dir(parent(path))?;
    let temporary = beside(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        if synced { file.sync_all() } else { Ok(()) }
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    renamed.map_err(|error| {
        // What matters is why it failed; a leftover is told by its name.
        drop(fs::remove_file(&temporary));
        Error::write(format!("write {}", path.display()), path, error)
    })
}

/// Makes `path` a symbolic link to `target`, in one step if there is one already. Parent directories are made.
pub fn replace_link(path: &Path, target: &Path) -> Result<()> {
    let parent = parent(path);
    create_dir(parent)?;
    let temporary = beside(path);
    symlink(target, &temporary)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| {
            drop(fs::remove_file(&temporary));
            Error::io(
                format!("switch {} to {}", path.display(), target.display()),
                error,
            )
        })?;
    sync_dir(parent)
}

pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| Error::io(format!("create {}", dir.display()), error))
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::io(format!("sync {}", dir.display()), error))
}

pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name in the same directory that no other writer uses.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4().simple()))
}
