//! What makes a root file system boot: packages, the boot loader's parts and its menu. Pure.
//!
//! One disk for both kinds of firmware: GRUB in a BIOS boot partition, and the distribution's signed shim and GRUB where UEFI looks on a
//! disk that it does not know, so that Secure Boot works too. Neither is written by `grub-install`, which wants the disk as a device.

use uuid::Uuid;

use super::fat::Directory;
use super::gpt::SECTOR;
use super::sparse::Source;
use super::tree::Tree;
use crate::recipe::Distribution;

/// Below the root while it is built; gone from the image.
pub(crate) const SCRATCH: &str = ".ondol";

const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200n8";

/// `zstd` compresses the initramfs in seconds, `fdisk` has the sfdisk that growpart calls, the two file system packages have its fsck.
const PACKAGES: &[&str] = &[
    "cloud-guest-utils",
    "cloud-init",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "grub-efi-amd64-bin",
    "grub-efi-amd64-signed",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "shim-signed",
    "zstd",
];

/// The recipe's packages and those that booting needs. A kernel that the recipe names is taken instead of the usual one.
pub(crate) fn packages(distribution: Distribution, recipe: &[String]) -> Vec<&str> {
    let kernel = match distribution {
        Distribution::Debian => "linux-image-amd64",
        // The one of Ubuntu's own cloud images: no firmware files, but the drivers of every hypervisor.
        Distribution::Ubuntu => "linux-image-virtual",
    };
    let named = recipe.iter().any(|name| name.starts_with("linux-image-"));
    let mut packages: Vec<&str> = recipe.iter().map(String::as_str).collect();
    packages.extend(PACKAGES);
    packages.extend((!named).then_some(kernel));
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Modules that GRUB needs to come to its menu and on to a kernel without finding more of them.
const BIOS_MODULES: &str = "biosdisk part_gpt ext2 search search_fs_uuid configfile normal linux \
     echo test serial terminal minicmd ls cat reboot halt";

/// The last hook of the bootstrap: what only programs of the new root can make. Leaves in [`SCRATCH`] the `epoch` in seconds and GRUB's
/// `boot.img` and `core.img`.
///
/// The epoch is the date of the newest changelog, which follows from the set of packages, unless SOURCE_DATE_EPOCH says otherwise.
pub(crate) fn hook(root_id: Uuid, users: &[&str]) -> String {
    let users: String = users
        .iter()
        .map(|user| {
            format!(
                "chroot \"$root\" useradd --create-home --shell /bin/bash --password '!' {user}\n"
            )
        })
        .collect();
    format!(
        r#"set -eu
root="$1"
scratch="$root/{SCRATCH}"
mkdir "$scratch"
SOURCE_DATE_EPOCH="${{SOURCE_DATE_EPOCH:-$(find "$root/usr/share/doc" -name 'changelog*.gz' -printf '%Ts\n' | sort -n | tail -n 1)}}"
export SOURCE_DATE_EPOCH
printf %s "$SOURCE_DATE_EPOCH" > "$scratch/epoch"
{users}for unit in systemd-networkd.service systemd-resolved.service; do
  if [ -e "$root/lib/systemd/system/$unit" ]; then chroot "$root" systemctl --quiet enable "$unit"; fi
done
for modules in "$root"/lib/modules/*/; do
  chroot "$root" update-initramfs -c -k "$(basename "$modules")"
done
printf '%s\n' 'search.fs_uuid {root_id} root' 'set prefix=($root)/boot/grub' > "$scratch/early.cfg"
chroot "$root" grub-mkimage --format=i386-pc --output=/{SCRATCH}/core.img --prefix=/boot/grub --config=/{SCRATCH}/early.cfg {BIOS_MODULES}
cp "$root/usr/lib/grub/i386-pc/boot.img" "$scratch/boot.img"
"#
    )
}

/// Code for the MBR and the whole of GRUB's core, made to find each other as `grub-bios-setup` would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BiosLoader {
    pub boot: Vec<u8>,
    pub core: Vec<u8>,
}

/// `core_at` is the offset in bytes on the disk where the core will be. None if the parts are not what GRUB 2 makes.
pub(crate) fn bios_loader(
    mut boot: Vec<u8>,
    mut core: Vec<u8>,
    core_at: u64,
) -> Option<BiosLoader> {
    // Places of grub/i386/pc/boot.h.
    const KERNEL_SECTOR: usize = 0x5c;
    const DRIVE_CHECK: usize = 0x66;
    const BLOCK_LIST_END: usize = 0x200 - 12;
    let sector = SECTOR as usize;
    if boot.len() != sector || core.len() <= sector {
        return None;
    }
    let first = core_at / SECTOR;
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    // Some BIOSes name a drive that is not the one they boot from; the check would then take over.
    boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    // The core's first sector loads the rest; the length is there already.
    core[BLOCK_LIST_END..BLOCK_LIST_END + 8].copy_from_slice(&(first + 1).to_le_bytes());
    Some(BiosLoader { boot, core })
}

/// The files of the EFI system partition; an error is the path that is missing.
pub(crate) fn efi_files(
    tree: &Tree,
    distribution: Distribution,
    root_id: Uuid,
) -> Result<Directory, &'static str> {
    let first = |paths: &[&'static str]| {
        paths
            .iter()
            .find_map(|path| tree.content(path))
            .cloned()
            .ok_or(paths[0])
    };
    // Ubuntu's newer packages have a link of the short name.
    let shim = first(&[
        "usr/lib/shim/shimx64.efi.signed",
        "usr/lib/shim/shimx64.efi.signed.latest",
    ])?;
    let key_enrolment = first(&["usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/mmx64.efi"])?;
    let grub = first(&["usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"])?;
    // Where the signed GRUB looks for its configuration.
    let vendor = match distribution {
        Distribution::Debian => "DEBIAN",
        Distribution::Ubuntu => "UBUNTU",
    };
    let config = format!(
        "search.fs_uuid {root_id} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"
    );
    let mut files = Directory::default();
    files.put("EFI/BOOT/BOOTX64.EFI", shim);
    files.put("EFI/BOOT/GRUBX64.EFI", grub);
    files.put("EFI/BOOT/MMX64.EFI", key_enrolment);
    files.put(
        &format!("EFI/{vendor}/GRUB.CFG"),
        Source::Bytes(config.into_bytes()),
    );
    Ok(files)
}

/// Versions of the kernels that have an initramfs, the newest first.
pub(crate) fn kernels(tree: &Tree) -> Vec<String> {
    let mut versions: Vec<String> = tree
        .names("boot")
        .iter()
        .filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .filter(|version| {
            tree.content(&format!("boot/initrd.img-{version}"))
                .is_some()
        })
        .collect();
    versions.sort_by_cached_key(|version| std::cmp::Reverse(natural(version)));
    versions
}

/// Digits compare as numbers.
fn natural(version: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    for part in version.split(['.', '-', '+', '~']) {
        let digits = part.chars().take_while(char::is_ascii_digit).count();
        parts.push((
            part[..digits].parse().unwrap_or(0),
            part[digits..].to_owned(),
        ));
    }
    parts
}

/// The menu that the image comes with. The first update of a kernel replaces it by `update-grub`'s own.
pub(crate) fn menu(title: &str, kernels: &[String], root_id: Uuid) -> String {
    let entries: String = kernels
        .iter()
        .map(|version| {
            format!(
                "menuentry '{title}, Linux {version}' {{
  linux /boot/vmlinuz-{version} root=UUID={root_id} ro {COMMAND_LINE}
  initrd /boot/initrd.img-{version}
}}
"
            )
        })
        .collect();
    format!(
        "# update-grub writes this file anew.
if serial --unit=0 --speed=115200; then
  terminal_input console serial
  terminal_output console serial
fi
set default=0
set timeout=1
search --no-floppy --fs-uuid --set=root {root_id}
{entries}"
    )
}

/// /etc/default/grub: the same choices for `update-grub`.
pub(crate) fn defaults(distribution: Distribution) -> String {
    format!(
        "GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR={distribution}
GRUB_CMDLINE_LINUX_DEFAULT=\"\"
GRUB_CMDLINE_LINUX=\"{COMMAND_LINE}\"
GRUB_TERMINAL=\"console serial\"
GRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distribution_has_its_own_kernel_and_a_recipe_can_have_another() {
        let recipe = ["curl".to_owned(), "zstd".to_owned()];
        let debian = packages(Distribution::Debian, &recipe);
        assert!(debian.contains(&"linux-image-amd64") && debian.contains(&"curl"));
        assert_eq!(debian.iter().filter(|name| **name == "zstd").count(), 1);
        let ubuntu = packages(Distribution::Ubuntu, &recipe);
        assert!(ubuntu.contains(&"linux-image-virtual") && !ubuntu.contains(&"linux-image-amd64"));
        let own = ["linux-image-cloud-amd64".to_owned()];
        let kernels: Vec<&str> = packages(Distribution::Debian, &own)
            .into_iter()
            .filter(|name| name.starts_with("linux-"))
            .collect();
        assert_eq!(kernels, ["linux-image-cloud-amd64"]);
    }

    #[test]
    fn the_two_parts_of_grub_find_each_other() {
        let loader = bios_loader(vec![1; 512], vec![2; 1024], 1 << 20).expect("GRUB's sizes");
        assert_eq!(loader.boot[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(loader.boot[0x64..0x69], [1, 1, 0x90, 0x90, 1]);
        assert_eq!(loader.core[500..508], 2049u64.to_le_bytes());
        assert_eq!(bios_loader(vec![1; 511], vec![2; 1024], 0), None);
    }

    #[test]
    fn the_newest_kernel_with_an_initramfs_is_first() {
        let mut tree = Tree::new();
        for version in ["6.1.0-9-amd64", "6.1.0-56-amd64", "6.2.0-1-amd64"] {
            tree.put(&format!("boot/vmlinuz-{version}"), 0o644, "");
        }
        for version in ["6.1.0-9-amd64", "6.1.0-56-amd64"] {
            tree.put(&format!("boot/initrd.img-{version}"), 0o644, "");
        }
        assert_eq!(kernels(&tree), ["6.1.0-56-amd64", "6.1.0-9-amd64"]);
        insta::assert_snapshot!(menu("Debian bookworm", &kernels(&tree)[..1], Uuid::from_u128(5)), @"
        # update-grub writes this file anew.
        if serial --unit=0 --speed=115200; then
          terminal_input console serial
          terminal_output console serial
        fi
        set default=0
        set timeout=1
        search --no-floppy --fs-uuid --set=root 00000000-0000-0000-0000-000000000005
        menuentry 'Debian bookworm, Linux 6.1.0-56-amd64' {
          linux /boot/vmlinuz-6.1.0-56-amd64 root=UUID=00000000-0000-0000-0000-000000000005 ro console=tty0 console=ttyS0,115200n8
          initrd /boot/initrd.img-6.1.0-56-amd64
        }
        ");
    }

    #[test]
    fn efi_finds_the_signed_parts_where_either_distribution_has_them() {
        let mut tree = Tree::new();
        let efi = |tree: &Tree| efi_files(tree, Distribution::Ubuntu, Uuid::from_u128(5));
        assert_eq!(efi(&tree).err(), Some("usr/lib/shim/shimx64.efi.signed"));
        tree.link(
            "usr/lib/shim/shimx64.efi.signed",
            "/etc/alternatives/shimx64.efi.signed",
        );
        tree.put("usr/lib/shim/shimx64.efi.signed.latest", 0o644, "shim");
        tree.put("usr/lib/shim/mmx64.efi", 0o644, "mm");
        tree.put(
            "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
            0o644,
            "grub",
        );
        let files = efi(&tree).expect("complete");
        let boot = &files.directories["EFI"].directories["BOOT"].files;
        assert_eq!(boot["BOOTX64.EFI"], Source::Bytes(b"shim".to_vec()));
        assert!(
            files.directories["EFI"].directories["UBUNTU"]
                .files
                .contains_key("GRUB.CFG")
        );
    }
}
