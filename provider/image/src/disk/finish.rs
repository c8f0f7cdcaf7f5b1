//! The finishing of a bootable disk's files: no identity, no trace of the build, and what a machine with a real console, a boot loader
//! and a seed needs. Pure; the same for the lab's root file system is in [`crate::rootfs`].

use uuid::Uuid;

use super::boot;
use super::tree::{Kind, Tree};
use crate::recipe::{Distribution, IMAGE_SOURCES_PATH, Recipe};
use crate::rootfs;

/// Timers for apt would fight with Ansible over the lock.
const MASKED_UNITS: &[&str] = &[
    "apt-daily-upgrade.service",
    "apt-daily-upgrade.timer",
    "apt-daily.service",
    "apt-daily.timer",
    "motd-news.timer",
];

/// What packaging leaves behind and what differs from build to build.
const LEFTOVERS: &[&str] = &[
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/statoverride-old",
];

/// The seed is the only thing asked: no search for a metadata service, no wait for one.
const CLOUD_CONFIG: &str = "\
datasource_list: [NoCloud, None]
apt:
  preserve_sources_list: true
system_info:
  network:
    renderers: [netplan]
";

/// One working interface is enough to go on; a second one without a cable would cost two minutes.
const WAIT_ONLINE: &str = "\
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=30
";

/// Text files of the tree that the finishing looks into.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts {
    pub passwd: String,
    pub shadow: String,
}

pub(crate) struct Finish<'a> {
    pub recipe: &'a Recipe,
    pub title: &'a str,
    pub root_id: Uuid,
    pub efi_serial: u32,
    /// Seconds since 1970 (UTC).
    pub epoch: i64,
}

impl Finish<'_> {
    pub(crate) fn apply(&self, tree: &mut Tree, texts: &Texts) {
        self.remove_traces(tree);
        tree.put("etc/machine-id", 0o444, "");
        tree.put("etc/hosts", 0o644, rootfs::HOSTS);
        tree.put("etc/apt/sources.list", 0o644, rootfs::SOURCES_LIST);
        if let Some(text) = &self.recipe.image_sources {
            tree.put(IMAGE_SOURCES_PATH, 0o644, rootfs::with_end(text));
        }
        tree.replace("etc/shadow", shadow(&texts.shadow, self.epoch));
        self.users(tree, &texts.passwd);

        tree.put("etc/fstab", 0o644, fstab(self.root_id, self.efi_serial));
        tree.directory("boot/efi", 0o700);
        tree.put(
            "etc/default/grub",
            0o644,
            boot::defaults(self.recipe.distribution),
        );
        let menu = boot::menu(self.title, &boot::kernels(tree), self.root_id);
        tree.put("boot/grub/grub.cfg", 0o600, menu);
        // What update-grub's menu asks for beyond what the core has.
        for name in tree.names("usr/lib/grub/i386-pc") {
            if name.ends_with(".mod") || name.ends_with(".lst") {
                tree.copy(
                    &format!("usr/lib/grub/i386-pc/{name}"),
                    &format!("boot/grub/i386-pc/{name}"),
                );
            }
        }
        tree.put("etc/cloud/cloud.cfg.d/90-ondol.cfg", 0o644, CLOUD_CONFIG);
        tree.put(
            "etc/systemd/system/systemd-networkd-wait-online.service.d/50-ondol.conf",
            0o644,
            WAIT_ONLINE,
        );
        for unit in MASKED_UNITS {
            tree.link(&format!("etc/systemd/system/{unit}"), "/dev/null");
        }
    }

    fn remove_traces(&self, tree: &mut Tree) {
        for name in tree.names("etc/ssh") {
            if name.starts_with("ssh_host_") {
                tree.remove(&format!("etc/ssh/{name}"));
            }
        }
        for path in rootfs::NOT_IN_AN_IMAGE.iter().chain(LEFTOVERS) {
            tree.remove(path);
        }
        tree.remove(boot::SCRATCH);
        for directory in [
            "etc/apt/sources.list.d",
            "tmp",
            "var/tmp",
            "run",
            "var/lib/apt/lists",
        ] {
            tree.remove_below(directory);
        }
        empty_logs(tree, "var/log");
        // Packages that were brought in without root left their bringer's name on it.
        tree.own("var/cache/apt/archives", 0, 0);
    }

    fn users(&self, tree: &mut Tree, passwd: &str) {
        for user in &self.recipe.users {
            if user.sudo && user.name != "root" {
                let path = format!("etc/sudoers.d/90-{}", user.name);
                tree.put(&path, 0o440, rootfs::sudo_rule(user));
            }
            if user.authorized_keys.is_empty() {
                continue;
            }
            let Some((uid, gid, home)) = account(passwd, &user.name) else {
                continue;
            };
            let directory = format!("{}/.ssh", home.trim_matches('/'));
            let file = format!("{directory}/authorized_keys");
            tree.directory(&directory, 0o700);
            tree.put(&file, 0o600, rootfs::authorized_keys(user));
            for path in [directory, file] {
                tree.own(&path, uid, gid);
            }
        }
    }
}

/// Logs of the build are nobody's; those that have to be there are empty.
fn empty_logs(tree: &mut Tree, directory: &str) {
    const KEPT: &[&str] = &["btmp", "lastlog", "wtmp", "faillog"];
    for name in tree.names(directory) {
        let path = format!("{directory}/{name}");
        let Some(id) = tree.find(&path) else {
            continue;
        };
        match tree.node(id).kind {
            Kind::Directory(_) => empty_logs(tree, &path),
            _ if KEPT.contains(&name.as_str()) => tree.replace(&path, ""),
            _ => tree.remove(&path),
        }
    }
}

/// The third field is the day of the last change: that of the build, whichever it was.
fn shadow(text: &str, epoch: i64) -> String {
    let day = (epoch / 86_400).to_string();
    text.lines()
        .map(|line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            if let Some(changed) = fields.get_mut(2) {
                *changed = &day;
            }
            fields.join(":") + "\n"
        })
        .collect()
}

/// User's number, group's number and home.
fn account<'a>(passwd: &'a str, user: &str) -> Option<(u32, u32, &'a str)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else {
            return None;
        };
        (*name == user).then_some((uid.parse().ok()?, gid.parse().ok()?, *home))
    })
}

/// Without the EFI system partition a machine boots all the same, so it does not wait for it.
fn fstab(root_id: Uuid, efi_serial: u32) -> String {
    format!(
        "UUID={root_id} / ext4 errors=remount-ro,discard 0 1
UUID={:04X}-{:04X} /boot/efi vfat umask=0077,nofail 0 2
",
        efi_serial >> 16,
        efi_serial & 0xffff
    )
}

/// For people: `Debian bookworm`.
pub(crate) fn title(distribution: Distribution, suite: &str) -> String {
    format!("{distribution} {suite}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sparse::Source;
    use crate::recipe::User;

    fn text(tree: &Tree, path: &str) -> String {
        match tree.content(path) {
            Some(Source::Bytes(bytes)) => String::from_utf8(bytes.clone()).expect("UTF-8"),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn identity_and_traces_go_and_the_recipes_users_come() {
        let mut tree = Tree::new();
        for path in [
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/sshd_config",
            "etc/machine-id",
            "etc/hostname",
            "etc/shadow",
            "var/log/apt/history.log",
            "var/log/wtmp",
            ".ondol/epoch",
            "etc/apt/sources.list.d/build.list",
            "usr/lib/grub/i386-pc/ext2.mod",
            "usr/lib/grub/i386-pc/kernel.img",
        ] {
            tree.put(path, 0o640, "x");
        }
        let recipe = Recipe {
            users: vec![User {
                name: "ops".into(),
                sudo: true,
                authorized_keys: vec!["ssh-ed25519 AAAA a".into()],
            }],
            image_sources: Some("Types: deb".into()),
            ..Recipe::base(Distribution::Debian, "bookworm")
        };
        let texts = Texts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nops:x:1000:1001::/home/ops:/bin/bash\n"
                .into(),
            shadow: "root:*:20000:0:99999:7:::\nops:!:20000:0:99999:7:::\n".into(),
        };
        let finish = Finish {
            recipe: &recipe,
            title: "Debian bookworm",
            root_id: Uuid::from_u128(5),
            efi_serial: 0x1234_00cd,
            epoch: 86_400 * 19_000 + 5,
        };
        finish.apply(&mut tree, &texts);

        assert_eq!(tree.names("etc/ssh"), ["sshd_config"]);
        assert_eq!(text(&tree, "etc/machine-id"), "");
        assert_eq!(tree.names("etc/apt/sources.list.d"), ["ondol.sources"]);
        assert_eq!(text(&tree, IMAGE_SOURCES_PATH), "Types: deb\n");
        assert_eq!(
            text(&tree, "etc/shadow"),
            "root:*:19000:0:99999:7:::\nops:!:19000:0:99999:7:::\n"
        );
        assert!(tree.names("var/log/apt").is_empty());
        assert_eq!(text(&tree, "var/log/wtmp"), "");
        assert_eq!(tree.find("etc/hostname").or(tree.find(".ondol")), None);
        assert_eq!(tree.names("boot/grub/i386-pc"), ["ext2.mod"]);
        let keys = tree.node(tree.find("home/ops/.ssh/authorized_keys").expect("there"));
        assert_eq!((keys.mode, keys.uid, keys.gid), (0o600, 1000, 1001));
        assert_eq!(
            text(&tree, "etc/sudoers.d/90-ops"),
            "ops ALL=(ALL:ALL) NOPASSWD:ALL\n"
        );
        insta::assert_snapshot!(text(&tree, "etc/fstab"), @"
        UUID=00000000-0000-0000-0000-000000000005 / ext4 errors=remount-ro,discard 0 1
        UUID=1234-00CD /boot/efi vfat umask=0077,nofail 0 2
        ");
    }
}
