//! From the same recipe a disk that boots: BIOS or EFI, as an appliance for VirtualBox and others, made without a loop device or a mount.
//!
//! mmdebstrap makes an archive of the files; everything after that is computed, so that the same packages give the same bytes.
//! Privileges are not needed but for the namespace that mmdebstrap works in, and not even those if it is run by root.

mod boot;
mod crc;
mod ext4;
mod fat;
mod finish;
mod gpt;
mod ova;
mod sparse;
mod tree;
mod vmdk;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::boot::{BiosLoader, SCRATCH};
use self::finish::{Finish, Texts};
use self::gpt::{MIB, Partition};
use self::ova::Appliance;
use self::sparse::{Reader, Sparse};
use self::tree::Tree;
use crate::bootstrap::{Mmdebstrap, quoted};
use crate::error::{Error, Result};
use crate::job::{self, Job, Progress, create_dir, is_root, on_path};
use crate::manifest;
use crate::origin::Origin;
use crate::recipe::{Recipe, hex, sha256};

/// Raised whenever the same recipe would come out as another disk.
const FORMAT: u32 = 1;

const BIOS_BOOT_AT: u64 = MIB;
const EFI_AT: u64 = 2 * MIB;
const EFI_SIZE: u64 = 64 * MIB;
const ROOT_AT: u64 = EFI_AT + EFI_SIZE;
/// Room in the root file system before it grows: the first boot writes a little before it comes to that.
const FREE: u64 = 256 * MIB;

/// What the appliance asks for until somebody says otherwise.
const CPUS: u32 = 2;
const MEMORY_MIB: u64 = 2048;

/// What a disk is made to beside its recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpec {
    /// Of the virtual disk, which takes no more room than its content. The root file system fills it on first boot.
    pub size_mib: u64,
    /// Seconds since 1970 (UTC). Nothing on the disk is newer; the date of the newest package if not said.
    pub source_date_epoch: Option<i64>,
}

impl DiskSpec {
    pub const DEFAULT_SIZE_MIB: u64 = 10 * 1024;
    pub const SMALLEST_MIB: u64 = 2 * 1024;
    /// Two tebibytes, as far as a protective MBR reaches.
    pub const LARGEST_MIB: u64 = 2 * 1024 * 1024;

    /// With SOURCE_DATE_EPOCH of this process's environment.
    pub fn new(size_mib: u64) -> Self {
        Self {
            size_mib,
            source_date_epoch: std::env::var("SOURCE_DATE_EPOCH")
                .ok()
                .and_then(|text| text.parse().ok()),
        }
    }

    /// Everything that can be said without building it.
    pub fn validate(&self) -> Result<()> {
        if (Self::SMALLEST_MIB..=Self::LARGEST_MIB).contains(&self.size_mib) {
            return Ok(());
        }
        Err(Error::DiskSize {
            size_mib: self.size_mib,
            smallest_mib: Self::SMALLEST_MIB,
            largest_mib: Self::LARGEST_MIB,
        })
    }

    /// Hexadecimal SHA-256 of what the recipe and the disk mean.
    pub fn digest(&self, recipe: &Recipe) -> String {
        let meaning = format!(
            "ondol disk {FORMAT}\n{}\n{}\n{:?}\n",
            recipe.digest(),
            self.size_mib,
            self.source_date_epoch
        );
        sha256(meaning.as_bytes())
    }
}

/// `disk.json` beside a built disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskManifest {
    pub digest: String,
    pub recipe: Recipe,
    pub size_mib: u64,
    /// Seconds since 1970 (UTC): the newest time on the disk.
    pub epoch: i64,
    pub ova_sha256: String,
    pub vmdk_sha256: String,
    /// As in [`crate::Manifest`]; of all packages of the disk.
    pub content_digest: String,
    /// Name to version.
    pub packages: BTreeMap<String, String>,
}

/// A built disk, in two wrappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootableDisk {
    pub manifest: DiskManifest,
    /// The appliance: description, manifest and disk.
    pub ova: PathBuf,
    /// The disk by itself: a stream-optimised VMDK, which QEMU reads too.
    pub vmdk: PathBuf,
}

/// Where the appliance and the bare disk of a digest are once they are built. Known before that.
pub fn disk_paths(cache_dir: &Path, recipe: &Recipe, digest: &str) -> (PathBuf, PathBuf) {
    let dir = disk_dir(cache_dir, digest);
    let (ova, vmdk) = file_names(recipe);
    (dir.join(ova), dir.join(vmdk))
}

/// Holds everything of one disk.
pub fn disk_dir(cache_dir: &Path, digest: &str) -> PathBuf {
    cache_dir.join("disks").join(digest)
}

fn file_names(recipe: &Recipe) -> (String, String) {
    let name = name(recipe);
    (format!("{name}.ova"), format!("{name}.vmdk"))
}

fn name(recipe: &Recipe) -> String {
    let distribution = recipe.distribution.to_string().to_lowercase();
    format!("ondol-{distribution}-{}", recipe.suite)
}

/// The disk of a digest if the cache has it.
pub fn find_disk(cache_dir: &Path, digest: &str) -> Result<Option<BootableDisk>> {
    let path = disk_dir(cache_dir, digest).join("disk.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
    };
    let manifest: DiskManifest =
        serde_json::from_slice(&text).map_err(|source| Error::Manifest { path, source })?;
    let (ova, vmdk) = disk_paths(cache_dir, &manifest.recipe, digest);
    Ok((ova.is_file() && vmdk.is_file()).then_some(BootableDisk {
        manifest,
        ova,
        vmdk,
    }))
}

/// Builds the disk, or finds it in `cache_dir`; as [`crate::build`] does.
pub fn build_disk(
    recipe: &Recipe,
    spec: &DiskSpec,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<BootableDisk> {
    recipe.validate()?;
    spec.validate()?;
    let digest = spec.digest(recipe);
    let build = Build {
        recipe,
        spec,
        cache_dir,
        digest: &digest,
        title: finish::title(recipe.distribution, &recipe.suite),
    };
    job::once(
        &mut Job::new(progress),
        &cache_dir.join("disks"),
        &digest,
        || find_disk(cache_dir, &digest),
        |job, dir| build.run(job, dir),
    )
}

struct Build<'a> {
    recipe: &'a Recipe,
    spec: &'a DiskSpec,
    cache_dir: &'a Path,
    digest: &'a str,
    title: String,
}

impl Build<'_> {
    /// What tells this disk and its parts from others; the same in every build of it.
    fn id(&self, of: &str) -> Uuid {
        Uuid::new_v5(
            &Uuid::NAMESPACE_OID,
            format!("{}/{of}", self.digest).as_bytes(),
        )
    }

    fn efi_serial(&self) -> u32 {
        self.id("efi serial").as_fields().0
    }

    fn run(&self, job: &mut Job<'_>, dir: &Path) -> Result<()> {
        let work = dir.join("work");
        create_dir(&work)?;
        let archive_path = work.join("root.tar");
        self.bootstrap(job, &work, &archive_path)?;

        job.report("lay out the disk", Some("laying out the disk".to_owned()))?;
        let archive = File::open(&archive_path)
            .map_err(|error| Error::io(format!("open {}", archive_path.display()), error))?;
        let installed = self.read(&archive)?;
        let disk = self.lay_out(&installed)?.reader(&archive);

        job.report("compress the disk", Some("compressing the disk".to_owned()))?;
        let (ova, vmdk) = file_names(self.recipe);
        let vmdk_path = dir.join(vmdk);
        let vmdk = self.write_vmdk(job, &disk, &vmdk_path)?;

        job.report(
            "pack the appliance",
            Some("packing the appliance".to_owned()),
        )?;
        let appliance = Appliance {
            name: &name(self.recipe),
            distribution: self.recipe.distribution,
            product: &self.title,
            disk_id: self.id("disk"),
            disk_capacity: disk.size(),
            file_size: vmdk.len,
            cpus: CPUS,
            memory_mib: MEMORY_MIB,
        };
        let ova_path = dir.join(ova);
        let ova = hashed(&ova_path, |out| {
            let disk = File::open(&vmdk_path)?;
            ova::write(&appliance, disk, &vmdk.sha256, installed.epoch, out)
        })
        .map_err(|error| Error::io(format!("write {}", ova_path.display()), error))?;
        fs::remove_dir_all(&work)
            .map_err(|error| Error::io(format!("remove {}", work.display()), error))?;

        let manifest = DiskManifest {
            digest: self.digest.to_owned(),
            recipe: self.recipe.clone(),
            size_mib: self.spec.size_mib,
            epoch: installed.epoch,
            ova_sha256: ova.sha256,
            vmdk_sha256: vmdk.sha256,
            content_digest: manifest::content_digest(&installed.packages),
            packages: installed.packages,
        };
        manifest::write_json(&dir.join("disk.json"), &manifest)
    }

    fn bootstrap(&self, job: &mut Job<'_>, work: &Path, archive: &Path) -> Result<()> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(Error::Architecture {
                architecture: std::env::consts::ARCH,
            });
        }
        if !on_path("mmdebstrap") {
            return Err(Error::NoMmdebstrap {
                why: "to make a bootable disk".to_owned(),
            });
        }
        let debs = self.cache_dir.join("debs");
        create_dir(&debs)?;
        let users: Vec<&str> = self
            .recipe
            .users
            .iter()
            .map(|user| user.name.as_str())
            .filter(|name| *name != "root")
            .collect();
        let hook = work.join("hook.sh");
        fs::write(&hook, boot::hook(self.id("root"), &users))
            .map_err(|error| Error::io(format!("write {}", hook.display()), error))?;
        let command = Mmdebstrap {
            as_root: is_root(),
            format: "tar",
            variant: self.recipe.variant,
            packages: boot::packages(self.recipe.distribution, &self.recipe.packages),
            hooks: vec![format!("sh {} \"$1\"", quoted(&hook))],
            target: archive,
        };
        let act = format!(
            "install {} {} for a disk",
            self.recipe.distribution, self.recipe.suite
        );
        // The new root is beside the archive, so that packages can be linked into it. The hook makes the initramfs, once, and not the
        // kernel's own package.
        let mut environment = vec![
            ("TMPDIR", work.display().to_string()),
            ("INITRD", "No".to_owned()),
        ];
        if let Some(epoch) = self.spec.source_date_epoch {
            environment.push(("SOURCE_DATE_EPOCH", epoch.to_string()));
        }
        let origin = Origin::of(self.recipe, work)?;
        job.run(&act, command.argv(&origin, &debs), &environment)
    }

    fn read(&self, archive: &File) -> Result<Installed> {
        let unread = |error| Error::io("read the installed files", error);
        let mut tree = Tree::read(archive).map_err(unread)?;
        let bytes = |path: &str| -> Result<Vec<u8>> {
            let content = tree.content(path).ok_or_else(|| missing(path))?;
            content.bytes(archive).map_err(unread)
        };
        let text = |path: &str| -> Result<String> {
            Ok(String::from_utf8_lossy(&bytes(path)?).into_owned())
        };
        let texts = Texts {
            passwd: text("etc/passwd")?,
            shadow: text("etc/shadow")?,
        };
        let scratch = |name: &str| format!("{SCRATCH}/{name}");
        let epoch = text(&scratch("epoch"))?
            .parse()
            .map_err(|_| missing(&scratch("epoch")))?;
        let packages = manifest::parse_dpkg_status(&text("var/lib/dpkg/status")?);
        if boot::kernels(&tree).is_empty() {
            return Err(missing("boot/vmlinuz and boot/initrd.img of one version"));
        }
        let (boot, core) = (bytes(&scratch("boot.img"))?, bytes(&scratch("core.img"))?);
        let loader = boot::bios_loader(boot, core, BIOS_BOOT_AT)
            .filter(|loader| loader.core.len() as u64 <= EFI_AT - BIOS_BOOT_AT)
            .ok_or_else(|| missing("a boot loader of GRUB 2"))?;
        let efi =
            boot::efi_files(&tree, self.recipe.distribution, self.id("root")).map_err(missing)?;
        let finish = Finish {
            recipe: self.recipe,
            title: &self.title,
            root_id: self.id("root"),
            efi_serial: self.efi_serial(),
            epoch,
        };
        finish.apply(&mut tree, &texts);
        Ok(Installed {
            tree,
            loader,
            efi,
            epoch,
            packages,
        })
    }

    /// The whole disk; nothing of it is written yet.
    fn lay_out(&self, installed: &Installed) -> Result<Sparse> {
        let root = ext4::write(
            &ext4::Volume {
                id: *self.id("root").as_bytes(),
                hash_seed: *self.id("hash seed").as_bytes(),
                label: "ondol-root",
                epoch: installed.epoch,
                free: FREE,
            },
            &installed.tree,
        )
        .map_err(|error| Error::FileSystem {
            reason: error.to_string(),
        })?;
        let efi = fat::write(
            &fat::Volume {
                size: EFI_SIZE,
                serial: self.efi_serial(),
                label: "ONDOL-EFI",
                epoch: installed.epoch,
            },
            &installed.efi,
        );
        let size = self.spec.size_mib * MIB;
        // The copy of the partition table has the last MiB.
        let needed = ROOT_AT + root.size + MIB;
        if needed > size {
            return Err(Error::DiskSize {
                size_mib: self.spec.size_mib,
                smallest_mib: needed / MIB,
                largest_mib: DiskSpec::LARGEST_MIB,
            });
        }
        let partition = |kind, name, start, size| Partition {
            kind,
            id: self.id(name),
            name,
            start,
            size,
        };
        let mut disk = Sparse::new(size);
        gpt::write(
            &mut disk,
            self.id("disk"),
            &installed.loader.boot,
            &[
                partition(gpt::BIOS_BOOT, "bios", BIOS_BOOT_AT, EFI_AT - BIOS_BOOT_AT),
                partition(gpt::EFI_SYSTEM, "efi", EFI_AT, EFI_SIZE),
                // The last one, so that it can grow.
                partition(gpt::LINUX_ROOT, "root", ROOT_AT, root.size),
            ],
        );
        disk.put_bytes(BIOS_BOOT_AT, installed.loader.core.clone());
        disk.put_all(EFI_AT, efi);
        disk.put_all(ROOT_AT, root);
        Ok(disk)
    }

    fn write_vmdk(&self, job: &mut Job<'_>, disk: &Reader<'_>, path: &Path) -> Result<Written> {
        let file_name = path.file_name().expect("the name of a file");
        let identity = vmdk::Identity {
            file_name: &file_name.to_string_lossy(),
            content_id: self.id("content").as_fields().0,
        };
        let act = "compress the disk";
        let mut cancelled = None;
        let written = hashed(path, |out| {
            vmdk::write(disk, identity, out, &mut |_| {
                job.report(act, None).map_err(|error| {
                    cancelled = Some(error);
                    io::Error::other("stopped")
                })
            })
        });
        if let Some(cancelled) = cancelled {
            return Err(cancelled);
        }
        written.map_err(|error| Error::io(format!("write {}", path.display()), error))
    }
}

/// What the bootstrap made, read and finished.
struct Installed {
    tree: Tree,
    loader: BiosLoader,
    efi: fat::Directory,
    /// Seconds since 1970 (UTC).
    epoch: i64,
    packages: BTreeMap<String, String>,
}

struct Written {
    sha256: String,
    len: u64,
}

fn missing(what: &str) -> Error {
    Error::NotBootable {
        missing: what.to_owned(),
    }
}

/// Writes a file and its sum in one go.
fn hashed(
    path: &Path,
    write: impl FnOnce(&mut Hashing<BufWriter<File>>) -> io::Result<()>,
) -> io::Result<Written> {
    let mut out = Hashing {
        out: BufWriter::with_capacity(1 << 20, File::create(path)?),
        hasher: Sha256::new(),
        len: 0,
    };
    write(&mut out)?;
    out.out.flush()?;
    out.out.get_ref().sync_all()?;
    Ok(Written {
        sha256: hex(&out.hasher.finalize()),
        len: out.len,
    })
}

struct Hashing<W> {
    out: W,
    hasher: Sha256,
    len: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
