//! The finishing of a root file system: what a fresh installation has that a golden image must not have, and the image's users.
//!
//! Everything is done by path below the new root; only users and units go through the root's own programs.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::error::{Error, Result};
use crate::recipe::{IMAGE_SOURCES_PATH, Recipe, User};

/// Units that do nothing useful in a VM without a console, a way out or a battery of disks, and cost memory or time in each of 40.
/// No password of an image is set, so that a login prompt would serve nobody. Timers for apt would fight with Ansible over the lock.
const MASKED_UNITS: &[&str] = &[
    "apt-daily-upgrade.service",
    "apt-daily-upgrade.timer",
    "apt-daily.service",
    "apt-daily.timer",
    "console-getty.service",
    "container-getty@.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@.service",
    "man-db.timer",
    "motd-news.timer",
    "serial-getty@.service",
    "systemd-networkd-wait-online.service",
];

const JOURNAL_LIMITS: &str = "\
# A lab's 40 journals share one memory.
[Journal]
RuntimeMaxUse=8M
SystemMaxUse=64M
";

pub(crate) const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

pub(crate) const SOURCES_LIST: &str =
    "# The site's mirror is the only source of packages; it is configured when the VM is.\n";

/// What belongs to one machine or to the build.
pub(crate) const NOT_IN_AN_IMAGE: &[&str] = &[
    "etc/resolv.conf",
    "etc/hostname",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
];

/// A command to be run with its root in the new file system.
pub(crate) struct InRoot {
    pub act: String,
    pub argv: Vec<String>,
}

/// Makes an installed root file system into an image: no identity, no trace of the machine it was built on.
pub(crate) fn generalise(root: &Path, recipe: &Recipe) -> Result<()> {
    for name in entries(&root.join("etc/ssh"))? {
        if name.starts_with("ssh_host_") {
            remove(&root.join("etc/ssh").join(name))?;
        }
    }
    for path in NOT_IN_AN_IMAGE {
        remove(&root.join(path))?;
    }
    for name in entries(&root.join("etc/apt/sources.list.d"))? {
        remove(&root.join("etc/apt/sources.list.d").join(name))?;
    }
    // Empty rather than absent: systemd then fills it in at first boot even if the rest of /etc is read-only.
    put(root, "etc/machine-id", "")?;
    put(root, "etc/hosts", HOSTS)?;
    put(root, "etc/apt/sources.list", SOURCES_LIST)?;
    if let Some(text) = &recipe.image_sources {
        put(root, IMAGE_SOURCES_PATH, &with_end(text))?;
    }
    // Nothing in /usr is newer than what was made from it: spares each first boot the work of ConditionNeedsUpdate=.
    put(root, "etc/.updated", "")?;
    put(root, "var/.updated", "")?;
    if !root.join("usr/lib/systemd/systemd").exists() && !root.join("lib/systemd/systemd").exists()
    {
        return Ok(());
    }
    put(
        root,
        "etc/systemd/journald.conf.d/50-ondol.conf",
        JOURNAL_LIMITS,
    )?;
    for unit in MASKED_UNITS {
        let link = root.join("etc/systemd/system").join(unit);
        remove(&link)?;
        symlink("/dev/null", &link).map_err(|error| Error::io(format!("mask {unit}"), error))?;
    }
    Ok(())
}

/// Commands for the recipe's services and users, in order.
pub(crate) fn commands(root: &Path, recipe: &Recipe) -> Vec<InRoot> {
    let mut commands = Vec::new();
    let mut push = |act: String, argv: &[&str]| {
        commands.push(InRoot {
            act,
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
        });
    };
    for unit in ["systemd-networkd.service", "systemd-resolved.service"] {
        if root.join("lib/systemd/system").join(unit).exists() {
            push(format!("enable {unit}"), &["systemctl", "enable", unit]);
        }
    }
    for user in recipe.users.iter().filter(|user| user.name != "root") {
        push(
            format!("create user \"{}\"", user.name),
            &[
                "useradd",
                "--create-home",
                "--shell",
                "/bin/bash",
                "--password",
                "!",
                &user.name,
            ],
        );
    }
    commands
}

/// Files of the recipe's users; after [`commands`]. Answers with the commands that check and own them.
pub(crate) fn put_user_files(root: &Path, user: &User) -> Result<Vec<InRoot>> {
    let mut commands = Vec::new();
    if user.sudo && user.name != "root" {
        let path = format!("etc/sudoers.d/90-{}", user.name);
        put(root, &path, &sudo_rule(user))?;
        mode(&root.join(&path), 0o440)?;
        commands.push(InRoot {
            act: format!("check the sudo rule of user \"{}\"", user.name),
            argv: ["visudo", "--check", "--file", &format!("/{path}")]
                .map(str::to_owned)
                .to_vec(),
        });
    }
    if !user.authorized_keys.is_empty() {
        let home = if user.name == "root" {
            "root".to_owned()
        } else {
            format!("home/{}", user.name)
        };
        put(
            root,
            &format!("{home}/.ssh/authorized_keys"),
            &authorized_keys(user),
        )?;
        mode(&root.join(&home).join(".ssh"), 0o700)?;
        mode(&root.join(&home).join(".ssh/authorized_keys"), 0o600)?;
        commands.push(InRoot {
            act: format!("give user \"{}\" the keys", user.name),
            argv: [
                "chown",
                "-R",
                &format!("{0}:{0}", user.name),
                &format!("/{home}/.ssh"),
            ]
            .map(str::to_owned)
            .to_vec(),
        });
    }
    Ok(commands)
}

pub(crate) fn sudo_rule(user: &User) -> String {
    format!("{} ALL=(ALL:ALL) NOPASSWD:ALL\n", user.name)
}

pub(crate) fn authorized_keys(user: &User) -> String {
    user.authorized_keys.join("\n") + "\n"
}

/// A text file ends with an end of line.
pub(crate) fn with_end(text: &str) -> String {
    format!("{}\n", text.trim_end_matches('\n'))
}

fn put(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    let act = || format!("write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| Error::io(act(), error))?;
    }
    // What is there may be a link that leads out of the new root.
    remove(&path)?;
    fs::write(&path, text).map_err(|error| Error::io(act(), error))?;
    mode(&path, 0o644)
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| Error::io(format!("set the mode of {}", path.display()), error))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format!("list {}", dir.display()), error)),
    }
}
