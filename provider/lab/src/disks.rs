//! Data disks: sparse files, shown to a VM as block devices through loop devices.
//!
//! A machine without loop devices binds the file itself in: enough for what takes a file as its disk, not for `mount`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::machine;
use crate::spec::DiskSpec;
use crate::store::{create_dir, remove_file};

/// What a VM sees of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attached {
    Loop(PathBuf),
    File(PathBuf),
}

impl Attached {
    pub(crate) fn source(&self) -> &Path {
        match self {
            Self::Loop(path) | Self::File(path) => path,
        }
    }
}

/// Where a disk is inside every VM.
pub(crate) fn guest_path(key: &str) -> String {
    format!("/dev/disk/by-id/ondol-{key}")
}

pub(crate) fn image_path(disks_dir: &Path, key: &str) -> PathBuf {
    disks_dir.join(format!("{key}.img"))
}

/// Makes the files of `disks` at least as large as they should be, and removes the files of disks that are no more.
pub(crate) fn ensure_files(disks_dir: &Path, disks: &BTreeMap<String, DiskSpec>) -> Result<()> {
    create_dir(disks_dir, 0o700)?;
    for (key, disk) in disks {
        let path = image_path(disks_dir, key);
        let act = |error| {
            Error::io(
                format!("make {} {} MiB large", path.display(), disk.size_mib),
                error,
            )
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(act)?;
        let wanted = disk.size_mib * 1024 * 1024;
        // Never smaller: that would cut off data.
        if file.metadata().map_err(act)?.len() < wanted {
            file.set_len(wanted).map_err(act)?;
        }
    }
    let entries = fs::read_dir(disks_dir)
        .map_err(|error| Error::io(format!("list {}", disks_dir.display()), error))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let wanted = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(|key| disks.contains_key(key));
        if !wanted {
            remove_file(&path)?;
        }
    }
    Ok(())
}

pub(crate) fn attach(disks_dir: &Path, key: &str) -> Result<Attached> {
    let path = image_path(disks_dir, key);
    if !Path::new("/dev/loop-control").exists() {
        tracing::warn!(disk = %path.display(), "no loop devices on this machine: the VM sees this disk as a file");
        return Ok(Attached::File(path));
    }
    if let Some((device, _)) = loops()?.into_iter().find(|(_, backing)| *backing == path) {
        return Ok(Attached::Loop(device));
    }
    let shown = path.display().to_string();
    let device = machine::run(
        &format!("attach {shown} to a loop device"),
        &["losetup", "--find", "--show", &shown],
        "",
    )?;
    Ok(Attached::Loop(PathBuf::from(device.trim())))
}

/// Tells a loop device that its file has grown.
pub(crate) fn refresh(disks_dir: &Path, key: &str) -> Result<()> {
    if let Attached::Loop(device) = attach(disks_dir, key)? {
        let device = device.display().to_string();
        machine::run(
            &format!("grow {device}"),
            &["losetup", "--set-capacity", &device],
            "",
        )?;
    }
    Ok(())
}

/// Detaches every loop device whose file is below `dir`, even if the file is gone.
pub(crate) fn detach_below(dir: &Path) -> Result<()> {
    for (device, backing) in loops()? {
        if backing.starts_with(dir) {
            let device = device.display().to_string();
            machine::run(
                &format!("detach {device} from {}", backing.display()),
                &["losetup", "--detach", &device],
                "",
            )?;
        }
    }
    Ok(())
}

/// Device and file of each loop device in use.
fn loops() -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir("/sys/block") {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(Error::io("list /sys/block", error)),
    };
    for entry in entries.flatten() {
        if let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) {
            // The kernel marks a file that has been removed.
            let backing = backing
                .trim_end_matches('\n')
                .trim_end_matches(" (deleted)");
            found.push((
                Path::new("/dev").join(entry.file_name()),
                PathBuf::from(backing),
            ));
        }
    }
    Ok(found)
}

/// Major and minor number of a block device.
pub(crate) fn device_numbers(device: &Path) -> Result<(u64, u64)> {
    let metadata = File::open(device)
        .and_then(|file| file.metadata())
        .map_err(|error| Error::io(format!("open {}", device.display()), error))?;
    Ok((
        nix::sys::stat::major(metadata.rdev()),
        nix::sys::stat::minor(metadata.rdev()),
    ))
}
