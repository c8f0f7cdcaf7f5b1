//! Small files of the system, read and written whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;

/// The text, with what is not UTF-8 replaced; `None`: there is no such file.
pub fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Writes a file of this mode beside it, flushed, then renamed over it. Where the file is a mount of its own (containers
/// do this with `/etc/hosts`), in place.
pub fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let name = path.file_name().context("a file has a name")?;
    let new = path.with_file_name(format!(".{}.ondol", name.to_string_lossy()));
    let written = create(&new, text, mode).and_then(|()| fs::rename(&new, path));
    let result = match written {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            fs::remove_file(&new).and_then(|()| fs::write(path, text))
        }
        other => other,
    };
    result.with_context(|| format!("write {}", path.display()))
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
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
    }

    #[test]
    fn an_error_names_the_file() {
        let error = read(Path::new("/proc/self/mem")).unwrap_err();
        assert!(error.to_string().contains("/proc/self/mem"), "{error}");
    }
}
