//! The first content of a VM's own disk: identity, keys and the network of its first boot.
//!
//! Everything is written into the upper layer of the VM's overlay before anything runs; the image is only read. Nothing of the machine
//! itself goes in.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::machine;
use crate::spec::VmSpec;

/// Units that have no work in a container, and cost each of 40 VMs time and memory. Nothing that the lab's images install needs logind.
const MASKED_UNITS: &[&str] = &[
    "dev-hugepages.mount",
    "modprobe@.service",
    "sys-fs-fuse-connections.mount",
    "systemd-logind.service",
    "systemd-network-generator.service",
    "systemd-remount-fs.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

/// Generators for disks and kernels that a container does not have. systemd runs them all at boot and again at each daemon-reload.
const MASKED_GENERATORS: &[&str] = &[
    "systemd-cryptsetup-generator",
    "systemd-getty-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-run-generator",
    "systemd-system-update-generator",
    "systemd-veritysetup-generator",
];

/// `netplan apply` asks the kernel to announce the interfaces again, a write to /sys, and fails if it cannot. The interfaces are the
/// VM's own, but systemd-nspawn shows all of /sys/devices read-only, and the file system below it too. The latter exists once per
/// network namespace: making it writable opens this one mount of this VM.
const NET_UEVENTS: &str = "\
[Unit]
Description=Let netplan announce this container's own interfaces
DefaultDependencies=no
Before=systemd-networkd.service sysinit.target
ConditionVirtualization=container

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount --bind /sys/devices/virtual/net /sys/devices/virtual/net
ExecStart=mount -o remount,rw,nosuid,nodev,noexec /sys/devices/virtual/net
";

/// Who the VM is, apart from its spec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub id: Uuid,
    pub first_boot_address: Ipv4Addr,
    /// Of the first interface.
    pub mac: &'a str,
}

/// Writes the seed; answers with the public SSH host key (`ssh-ed25519 AAAA...`).
pub(crate) fn write(spec: &VmSpec, identity: Identity<'_>, upper: &Path) -> Result<String> {
    let disk = Upper {
        lower: &spec.image,
        upper,
    };
    let name = &spec.name;
    disk.file("etc/hostname", &format!("{name}\n"), 0o644)?;
    disk.file(
        "etc/hosts",
        &format!(
            "127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        ),
        0o644,
    )?;
    disk.file(
        "etc/machine-id",
        &format!("{}\n", identity.id.as_simple()),
        0o444,
    )?;
    disk.file(
        "etc/systemd/network/70-ondol-first-boot.network",
        &first_boot_network(identity),
        0o644,
    )?;
    disk.link(
        "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        "/lib/systemd/system/systemd-networkd.service",
    )?;
    const UNIT: &str = "etc/systemd/system/ondol-net-uevents.service";
    disk.file(UNIT, NET_UEVENTS, 0o644)?;
    disk.link(
        "etc/systemd/system/sysinit.target.wants/ondol-net-uevents.service",
        &format!("/{UNIT}"),
    )?;
    if spec.image.join("lib/systemd/systemd-resolved").exists() {
        disk.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")?;
    } else {
        disk.file("etc/resolv.conf", "", 0o644)?;
    }
    for unit in MASKED_UNITS {
        disk.link(&format!("etc/systemd/system/{unit}"), "/dev/null")?;
    }
    for generator in MASKED_GENERATORS {
        disk.link(
            &format!("etc/systemd/system-generators/{generator}"),
            "/dev/null",
        )?;
    }
    seed_user(&disk, spec)?;
    host_key(&disk, name)
}

/// The address by which a VM is reached before it has a netplan, whose `10-netplan-*.network` comes first once it exists
/// (systemd.network(5): the first file that matches wins).
fn first_boot_network(identity: Identity<'_>) -> String {
    format!(
        "# Until netplan configures this interface.\n[Match]\nMACAddress={}\nType=ether\n\n[Link]\nRequiredForOnline=no\n\n\
         [Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n\n\
         # The engine keeps it unique; asking the network first would take networkd 5 s.\n\
         [Address]\nAddress={}/16\nDuplicateAddressDetection=none\n",
        identity.mac, identity.first_boot_address
    )
}

fn host_key(disk: &Upper<'_>, name: &str) -> Result<String> {
    let act = format!("VM \"{name}\": make its SSH host key");
    let dir = disk.dir("etc/ssh")?;
    let path = dir.join("ssh_host_ed25519_key");
    let shown = path.display().to_string();
    machine::run(
        &act,
        &[
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "",
            "-f",
            &shown,
        ],
        "",
    )?;
    let public = fs::read_to_string(dir.join("ssh_host_ed25519_key.pub"))
        .map_err(|error| Error::io(act, error))?;
    Ok(public
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" "))
}

fn seed_user(disk: &Upper<'_>, spec: &VmSpec) -> Result<()> {
    let seed = &spec.seed;
    let user = seed.user.as_str();
    let passwd = disk.read("etc/passwd")?;
    let account = match find_account(&passwd, user) {
        Some(account) => account,
        None => {
            let databases = Databases {
                passwd,
                group: disk.read("etc/group")?,
                shadow: disk.read("etc/shadow")?,
                gshadow: disk.read("etc/gshadow")?,
            };
            let (databases, account) = add_account(&databases, user);
            disk.file("etc/passwd", &databases.passwd, 0o644)?;
            disk.file("etc/group", &databases.group, 0o644)?;
            for (path, text) in [
                ("etc/shadow", &databases.shadow),
                ("etc/gshadow", &databases.gshadow),
            ] {
                disk.file(path, text, 0o640)?;
                disk.own_like_image(path)?;
            }
            disk.make_home(&account)?;
            account
        }
    };
    if !seed.authorized_keys.is_empty() {
        let home = account.home.trim_start_matches('/');
        let path = format!("{home}/.ssh/authorized_keys");
        let mut lines: Vec<String> = disk
            .read_or_empty(&path)?
            .lines()
            .map(str::to_owned)
            .collect();
        for key in &seed.authorized_keys {
            if !lines.contains(key) {
                lines.push(key.clone());
            }
        }
        disk.file(&path, &(lines.join("\n") + "\n"), 0o600)?;
        let ssh_dir = disk.upper.join(home).join(".ssh");
        set_mode(&ssh_dir, 0o700)?;
        for path in [&ssh_dir, &ssh_dir.join("authorized_keys")] {
            own(path, account.uid, account.gid)?;
        }
    }
    if seed.sudo && user != "root" {
        if !spec.image.join("usr/bin/sudo").exists() {
            return Err(Error::InvalidSpec {
                vm: spec.name.clone(),
                field: "seed.sudo".to_owned(),
                reason: format!("the image {} has no sudo", spec.image.display()),
            });
        }
        disk.file(
            "etc/sudoers.d/90-ondol-seed",
            &format!("{user} ALL=(ALL:ALL) NOPASSWD:ALL\n"),
            0o440,
        )?;
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    home: String,
}

/// The text of passwd(5), group(5), shadow(5) and gshadow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Databases {
    passwd: String,
    group: String,
    shadow: String,
    gshadow: String,
}

fn find_account(passwd: &str, user: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.first() != Some(&user) {
            return None;
        }
        Some(Account {
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: (*fields.get(5)?).to_owned(),
        })
    })
}

/// Adds a user with a group of its own and a locked password, with the first id from 1000 that is free as both.
fn add_account(databases: &Databases, user: &str) -> (Databases, Account) {
    let used = |text: &str| -> Vec<u32> {
        text.lines()
            .filter_map(|line| line.split(':').nth(2)?.parse().ok())
            .collect()
    };
    let taken = [used(&databases.passwd), used(&databases.group)].concat();
    let id = (1000..60000)
        .find(|id| !taken.contains(id))
        .expect("an image has fewer than 59000 users");
    let home = format!("/home/{user}");
    let add = |text: &str, line: String| {
        let separator = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        format!("{text}{separator}{line}\n")
    };
    let changed = Databases {
        passwd: add(
            &databases.passwd,
            format!("{user}:x:{id}:{id}::{home}:/bin/bash"),
        ),
        group: add(&databases.group, format!("{user}:x:{id}:")),
        // 1 is a day in 1970: 0 would ask for a new password at the first login.
        shadow: add(&databases.shadow, format!("{user}:!:1:0:99999:7:::")),
        gshadow: add(&databases.gshadow, format!("{user}:!::")),
    };
    (
        changed,
        Account {
            uid: id,
            gid: id,
            home,
        },
    )
}

/// The upper layer of an overlay that is not mounted yet.
struct Upper<'a> {
    lower: &'a Path,
    upper: &'a Path,
}

impl Upper<'_> {
    fn read(&self, path: &str) -> Result<String> {
        let place = self.lower.join(path);
        fs::read_to_string(&place)
            .map_err(|error| Error::io(format!("read {} of the image", place.display()), error))
    }

    fn read_or_empty(&self, path: &str) -> Result<String> {
        match fs::read_to_string(self.lower.join(path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Error::io(
                format!("read {} of the image", self.lower.join(path).display()),
                error,
            )),
            Ok(text) => Ok(text),
        }
    }

    /// Makes a directory with the owner and mode that it has in the image: the upper layer's are the ones that count.
    fn dir(&self, path: &str) -> Result<PathBuf> {
        let mut below = PathBuf::new();
        for part in Path::new(path) {
            below.push(part);
            let place = self.upper.join(&below);
            let act = |error| Error::io(format!("create {}", place.display()), error);
            match fs::create_dir(&place) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                result => result.map_err(act)?,
            }
            match fs::symlink_metadata(self.lower.join(&below)) {
                Ok(image) if image.is_dir() => {
                    set_mode(&place, image.mode() & 0o7777)?;
                    own(&place, image.uid(), image.gid())?;
                }
                // A directory in the upper layer would hide a link's target.
                Ok(_) => {
                    return Err(act(std::io::Error::new(
                        ErrorKind::NotADirectory,
                        "it is not a directory in the image",
                    )));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => set_mode(&place, 0o755)?,
                Err(error) => return Err(act(error)),
            }
        }
        Ok(self.upper.join(path))
    }

    fn parent_of(&self, path: &str) -> Result<PathBuf> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.dir(dir)?.join(name))
    }

    fn file(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let place = self.parent_of(path)?;
        let act = |error| Error::io(format!("write {}", place.display()), error);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&place)
            .map_err(act)?;
        file.write_all(text.as_bytes()).map_err(act)?;
        set_mode(&place, mode)
    }

    fn link(&self, path: &str, target: &str) -> Result<()> {
        let place = self.parent_of(path)?;
        symlink(target, &place)
            .map_err(|error| Error::io(format!("link {}", place.display()), error))
    }

    fn own_like_image(&self, path: &str) -> Result<()> {
        let place = self.lower.join(path);
        let image = fs::metadata(&place)
            .map_err(|error| Error::io(format!("read {}", place.display()), error))?;
        own(&self.upper.join(path), image.uid(), image.gid())
    }

    fn make_home(&self, account: &Account) -> Result<()> {
        let home = account.home.trim_start_matches('/');
        let place = self.dir(home)?;
        set_mode(&place, 0o750)?;
        own(&place, account.uid, account.gid)?;
        let skeleton = self.lower.join("etc/skel");
        let entries = match fs::read_dir(&skeleton) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("list {}", skeleton.display()), error)),
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        {
            let copy = place.join(entry.file_name());
            fs::copy(entry.path(), &copy)
                .map_err(|error| Error::io(format!("write {}", copy.display()), error))?;
            own(&copy, account.uid, account.gid)?;
        }
        Ok(())
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| Error::io(format!("set the mode of {}", path.display()), error))
}

fn own(path: &Path, uid: u32, gid: u32) -> Result<()> {
    chown(path, Some(uid), Some(gid))
        .map_err(|error| Error::io(format!("set the owner of {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_user_gets_the_first_free_id_and_a_locked_password() {
        let before = Databases {
            passwd: "root:x:0:0:root:/root:/bin/bash\ntaken:x:1000:1000::/home/taken:/bin/sh"
                .into(),
            group: "root:x:0:\nstaff:x:1001:\n".into(),
            shadow: "root:*:1::::::\n".into(),
            gshadow: String::new(),
        };
        let (after, account) = add_account(&before, "ondol");
        assert_eq!(
            account,
            Account {
                uid: 1002,
                gid: 1002,
                home: "/home/ondol".into()
            }
        );
        assert_eq!(
            after,
            Databases {
                passwd: format!(
                    "{}\nondol:x:1002:1002::/home/ondol:/bin/bash\n",
                    before.passwd
                ),
                group: format!("{}ondol:x:1002:\n", before.group),
                shadow: format!("{}ondol:!:1:0:99999:7:::\n", before.shadow),
                gshadow: "ondol:!::\n".into(),
            }
        );
        assert_eq!(find_account(&after.passwd, "ondol"), Some(account));
        assert_eq!(find_account(&after.passwd, "ond"), None);
    }
}
