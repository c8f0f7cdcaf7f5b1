//! Small files of the system, read and written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use anyhow::Context as _;
use nix::unistd::{User, geteuid};

/// The text, with what is not UTF-8 replaced; `None`: there is no such file.
pub fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let bytes = read_bytes(path)?;
    Ok(bytes.map(|it| String::from_utf8_lossy(&it).into_owned()))
}

/// As it is, for one that is put back later.
pub fn read_bytes(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a file of this mode beside it, flushed, then renamed over it. Where the file is a mount of its own (containers
/// do this with `/etc/hosts`), in place.
pub fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    replace(path, text.as_bytes(), mode, None).with_context(|| format!("write {}", path.display()))
}

/// As [`write`], and the file is that system user's before it takes its place. A process that is not root leaves it to itself.
pub fn write_owned(
    path: &Path,
    bytes: impl AsRef<[u8]>,
    mode: u32,
    user: &str,
) -> anyhow::Result<()> {
    replace(path, bytes.as_ref(), mode, Some(user))
        .with_context(|| format!("write {}", path.display()))
}

/// Gives a file or a directory, not what a link leads to, to a system user and its group. A process that is not root leaves it as it is.
pub fn give(path: &Path, user: &str) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let found = User::from_name(user)?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no system user {user}: is its package installed?"),
        )
    })?;
    lchown(path, Some(found.uid.as_raw()), Some(found.gid.as_raw()))
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    gone(fs::remove_file(path)).with_context(|| format!("remove {}", path.display()))
}

/// Removes a directory with all in it. It may be gone already.
pub fn remove_directory(path: &Path) -> anyhow::Result<()> {
    gone(fs::remove_dir_all(path)).with_context(|| format!("remove {}", path.display()))
}

/// So that a power cut does not undo what was made, renamed or removed in it.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn replace(path: &Path, bytes: &[u8], mode: u32, user: Option<&str>) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this path names no file"))?;
    let new = path.with_file_name(format!(".{}.ondol", name.to_string_lossy()));
    create(&new, bytes, mode)?;
    if let Some(user) = user {
        give(&new, user)?;
    }
    match fs::rename(&new, path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            fs::remove_file(&new)?;
            return fs::write(path, bytes);
        }
        renamed => renamed?,
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // What a broken-off run left may have another mode.
    gone(fs::remove_file(path))?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // Whatever the umask says.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, "one", 0o644).unwrap();
        // As a crash between writing and renaming leaves it.
        fs::write(folder.path().join(".a.conf.ondol"), "half").unwrap();
        write(&path, "two", 0o600).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for _ in 0..2 {
            remove(&path).unwrap();
            remove_directory(&folder.path().join("none")).unwrap();
        }
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_file_for_a_user_that_is_not_there_is_not_written() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        let error = write_owned(&path, "one", 0o600, "no-such-user").unwrap_err();
        assert!(format!("{error:#}").contains("no system user no-such-user"));
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn an_error_names_the_file() {
        let error = read(Path::new("/proc/self/mem")).unwrap_err();
        assert!(error.to_string().contains("/proc/self/mem"), "{error}");
    }
}
