//! The images of a host: each is brought there once, checked, turned into a disk and kept under its SHA-256.
//!
//! `~/.ondol/images/<sha256>.vdi` is complete, or it does not exist. VMs copy it or put their differences upon it; none writes to it.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::io::AsyncReadExt as _;

use crate::answer;
use crate::command::{Command, Medium};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::shell::Algorithm;

/// Sent at once. A transport keeps a copy of it.
const PIECE: usize = 8 * 1024 * 1024;

/// What one process knows about images. Shared by all hosts, so that 20 of them read a file once.
#[derive(Default, Clone)]
pub struct Images {
    digests: Arc<Mutex<Digests>>,
}

/// Path, size and time of a file to its SHA-256.
type Digests = HashMap<(String, u64, SystemTime), String>;

impl Images {
    /// SHA-256 of a file of this machine. Read again only if its size or time changed.
    pub async fn digest(&self, path: &str) -> Result<String> {
        let failed = |error: std::io::Error| Error::Image {
            path: path.to_owned(),
            reason: format!("it cannot be read on the machine that runs Terraform: {error}"),
        };
        let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::Image {
                path: path.to_owned(),
                reason: "it is not a file".to_owned(),
            });
        }
        let modified = metadata.modified().map_err(failed)?;
        let identity = (path.to_owned(), metadata.len(), modified);
        if let Some(digest) = self.known().get(&identity) {
            return Ok(digest.clone());
        }
        let file = path.to_owned();
        let digest = tokio::task::spawn_blocking(move || sha256(Path::new(&file)))
            .await
            .map_err(|error| failed(std::io::Error::other(error)))?
            .map_err(failed)?;
        self.known().insert(identity, digest.clone());
        Ok(digest)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Digests> {
        self.digests
            .lock()
            .expect("no panic happens under this lock")
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => context.update(&buffer[..length]),
        }
    }
    Ok(context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Held while images come and go: two processes that bring the same one would write to the same files.
const LOCK: &str = "images.lock";

fn directory(machine: &Machine) -> String {
    machine.system.join(&machine.directory(), "images")
}

/// Where the disk of an image is, once it is there.
fn place(machine: &Machine, digest: &str) -> String {
    machine
        .system
        .join(&directory(machine), &format!("{digest}.vdi"))
}

/// The path of an image's disk, if it is on the host.
pub(crate) async fn find(machine: &Machine, digest: &str) -> Result<Option<String>> {
    let names = machine.list(&directory(machine)).await?;
    let found = names.contains(&format!("{digest}.vdi"));
    Ok(found.then(|| place(machine, digest)))
}

/// Removes an image from a host. One that other disks are differences to is refused.
pub(crate) async fn remove(machine: &Machine, digest: &str) -> Result<()> {
    let _held = machine.hold(LOCK).await?;
    let Some(disk) = find(machine, digest).await? else {
        return Ok(());
    };
    let disks = answer::disks(&machine.run(&Command::ListDisks).await?);
    if let Some(image) = disks.iter().find(|it| it.location == disk) {
        let users = disks.iter().filter(|it| it.parent == Some(image.uuid));
        let users: Vec<&str> = users.map(|it| it.location.as_str()).collect();
        if !users.is_empty() {
            return Err(Error::Image {
                path: disk,
                reason: format!(
                    "these disks are linked clones of it: {}. Destroy their VMs first",
                    users.join(", ")
                ),
            });
        }
        let close = Command::CloseMedium {
            medium: Medium::Disk(disk.clone()),
            delete: false,
        };
        machine.run(&close).await?;
    }
    machine.remove_file(&disk).await
}

/// Brings an image to a host unless it is there; answers the path of its disk.
pub(crate) async fn ensure(machine: &Machine, path: &str, digest: &str) -> Result<String> {
    if let Some(disk) = find(machine, digest).await? {
        return Ok(disk);
    }
    let _held = machine.hold(LOCK).await?;
    // Whoever held it may have brought the same.
    if let Some(disk) = find(machine, digest).await? {
        return Ok(disk);
    }
    let system = machine.system;
    let directory = directory(machine);
    let at = |name: String| system.join(&directory, &name);
    let disk = place(machine, digest);
    // What an interrupted attempt left, the registration included. VirtualBox remembers a disk by its place.
    let unfinished = at(format!("{digest}.new.vdi"));
    for stale in [&unfinished, &disk] {
        let close = Command::CloseMedium {
            medium: Medium::Disk(stale.clone()),
            delete: false,
        };
        // Not registered is what it should be.
        let _ = machine.run(&close).await;
    }
    for name in machine.list(&directory).await? {
        // Nobody else is at it: what is not whole was left by an attempt that was cut short.
        if name.starts_with(digest) {
            machine.remove_file(&at(name)).await?;
        }
    }

    let mut temporary = Vec::new();
    let converted = convert(machine, path, digest, &unfinished, &mut temporary).await;
    for file in &temporary {
        machine.remove_file(file).await?;
    }
    converted?;
    machine.rename(&unfinished, &disk).await?;
    Ok(disk)
}

/// Makes the disk `to`. What it writes besides is named in `temporary`.
async fn convert(
    machine: &Machine,
    path: &str,
    digest: &str,
    to: &str,
    temporary: &mut Vec<String>,
) -> Result<()> {
    let extension = path
        .rsplit_once('.')
        .map_or(String::new(), |(_, it)| it.to_ascii_lowercase());
    let directory = directory(machine);
    let at = |name: String| machine.system.join(&directory, &name);
    let source = if machine.shares_files() {
        path.to_owned()
    } else {
        let sent = at(format!("{digest}.sent.{extension}"));
        temporary.push(sent.clone());
        send(machine, path, &sent, digest).await?;
        sent
    };
    let source = if extension == "ova" {
        let taken = at(format!("{digest}.taken.vmdk"));
        temporary.push(taken.clone());
        take_disk(machine, path, &source, &taken).await?;
        taken
    } else {
        source
    };
    let clone = Command::CloneDisk {
        from: source.clone(),
        to: to.to_owned(),
    };
    let cloned = machine.run(&clone).await.map_err(|error| match error {
        Error::Refused { words, hint, .. } => Error::Image {
            path: path.to_owned(),
            reason: format!(
                "VirtualBox cannot read its disk: {words}{}{hint}",
                if hint.is_empty() { "" } else { ". " }
            ),
        },
        other => other,
    });
    for medium in [source.as_str(), to] {
        let close = Command::CloseMedium {
            medium: Medium::Disk(medium.to_owned()),
            delete: false,
        };
        // A clone that failed registered nothing.
        let _ = machine.run(&close).await;
    }
    cloned.map(drop)
}

/// Copies a file of this machine to the host, and has the host read it back.
async fn send(machine: &Machine, path: &str, to: &str, digest: &str) -> Result<()> {
    let failed = |error: std::io::Error| Error::Image {
        path: path.to_owned(),
        reason: format!("it cannot be read on the machine that runs Terraform: {error}"),
    };
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut piece = vec![0; PIECE];
    let mut offset: u64 = 0;
    loop {
        let mut length = 0;
        while length < piece.len() {
            match file.read(&mut piece[length..]).await.map_err(failed)? {
                0 => break,
                more => length += more,
            }
        }
        if length == 0 && offset > 0 {
            break;
        }
        machine.append_file(to, offset, &piece[..length]).await?;
        offset += length as u64;
        if length < piece.len() {
            break;
        }
    }
    let arrived = machine.checksum(to, Algorithm::Sha256).await?;
    if arrived == digest {
        return Ok(());
    }
    machine.remove_file(to).await?;
    Err(Error::Image {
        path: path.to_owned(),
        reason: format!("it has the SHA-256 {digest}, but {arrived} arrived on the host"),
    })
}

/// The one disk in an .ova, checked against the archive's manifest.
async fn take_disk(machine: &Machine, path: &str, archive: &str, to: &str) -> Result<()> {
    let broken = |reason: String| Error::Image {
        path: path.to_owned(),
        reason,
    };
    let refused = |error: Error| match error {
        Error::File { words, .. } => broken(format!("it is not a whole .ova: {words}")),
        other => other,
    };
    let members = machine.tar_members(archive).await.map_err(refused)?;
    let disk = only_disk(&members).map_err(broken)?;
    machine
        .tar_extract(archive, disk, to)
        .await
        .map_err(refused)?;
    if let Some(name) = members.iter().find(|name| name.ends_with(".mf")) {
        let manifest = format!("{to}.mf");
        machine
            .tar_extract(archive, name, &manifest)
            .await
            .map_err(refused)?;
        let text = machine.read_file(&manifest).await?.unwrap_or_default();
        machine.remove_file(&manifest).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Some((algorithm, promised)) = promised_digest(&text, disk) {
            let found = machine.checksum(to, algorithm).await?;
            if found != promised {
                machine.remove_file(to).await?;
                return Err(broken(format!(
                    "its manifest promises {promised} for {disk}, but {found} was found: the file is damaged"
                )));
            }
        }
    }
    Ok(())
}

fn only_disk(members: &[String]) -> Result<&str, String> {
    let disks: Vec<&str> = members
        .iter()
        .map(String::as_str)
        .filter(|name| {
            [".vmdk", ".vdi", ".vhd"]
                .iter()
                .any(|it| name.to_ascii_lowercase().ends_with(it))
        })
        .collect();
    match disks[..] {
        [disk] => Ok(disk),
        [] => Err(format!("it holds no disk, only {}", members.join(", "))),
        _ => Err(format!(
            "it holds several disks ({}): give the one to boot from as a .vmdk, and the others as disks",
            disks.join(", ")
        )),
    }
}

/// The checksum that a manifest gives for a member: `SHA256(disk.vmdk)= 01ab...`.
fn promised_digest(manifest: &str, member: &str) -> Option<(Algorithm, String)> {
    manifest.lines().find_map(|line| {
        let line = line.trim();
        let (algorithm, rest) = match line.strip_prefix("SHA256") {
            Some(rest) => (Algorithm::Sha256, rest),
            None => (Algorithm::Sha1, line.strip_prefix("SHA1")?),
        };
        let rest = rest.trim_start().strip_prefix('(')?;
        let (name, digest) = rest.split_once(')')?;
        let digest = digest.trim_start().strip_prefix('=')?.trim();
        (name.trim() == member).then(|| (algorithm, digest.to_ascii_lowercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_an_appliance_is_its_only_one() {
        let members = |names: &[&str]| names.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            only_disk(&members(&["a.ovf", "a.mf", "a-disk1.VMDK"])),
            Ok("a-disk1.VMDK")
        );
        assert!(
            only_disk(&members(&["a.ovf"]))
                .unwrap_err()
                .contains("no disk")
        );
        assert!(
            only_disk(&members(&["a.vmdk", "b.vmdk"]))
                .unwrap_err()
                .contains("several")
        );
    }

    #[test]
    fn a_manifest_is_read_in_the_ways_it_is_written() {
        let manifest = "SHA256(a.ovf)= 11\nSHA256 (a-disk1.vmdk) = AB\r\nSHA1(b.vmdk)= 22\n";
        let promised = |member: &str| promised_digest(manifest, member);
        assert_eq!(
            promised("a-disk1.vmdk"),
            Some((Algorithm::Sha256, "ab".to_owned()))
        );
        assert_eq!(promised("b.vmdk"), Some((Algorithm::Sha1, "22".to_owned())));
        assert_eq!(promised("c.vmdk"), None);
    }

    #[tokio::test]
    async fn a_file_is_read_again_only_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.vdi").display().to_string();
        std::fs::write(&path, "abc").unwrap();
        let images = Images::default();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(images.digest(&path).await.unwrap(), expected);
        std::fs::write(&path, "abcd").unwrap();
        assert_ne!(images.digest(&path).await.unwrap(), expected);
        let error = images.digest("/nowhere.ova").await.unwrap_err().to_string();
        assert!(
            error.contains("/nowhere.ova") && error.contains("machine that runs Terraform"),
            "{error}"
        );
    }
}
