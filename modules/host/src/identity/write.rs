//! Writing a small file of the system whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;

/// Beside it, flushed, then renamed over it. Where the file is a mount of its own (containers do this with `/etc/hosts`), in place.
pub(super) fn file(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let name = path.file_name().context("a file has a name")?;
    let new = path.with_file_name(format!(".{}.ondol", name.to_string_lossy()));
    let written = write(&new, text, mode).and_then(|()| fs::rename(&new, path));
    let result = match written {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            fs::remove_file(&new).and_then(|()| fs::write(path, text))
        }
        other => other,
    };
    result.with_context(|| format!("write {}", path.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // Whatever the umask says.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
