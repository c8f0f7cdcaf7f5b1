//! What a VM of the lab is: the caller's wish, and the VM as it was found. Pure values; nothing here touches the machine.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::names;

/// Everything that decides what a VM is. Equal specs give equal VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Host name of the VM and its name in the lab: a DNS label.
    pub name: String,
    /// The machine that it pretends to run on: VMs of one host are killed together.
    pub host: String,
    /// Root file system that the VM's own changes are laid over. It is never written to, and it is the VM's for life: changes over
    /// another one would be a broken system.
    pub image: PathBuf,
    pub cpus: u32,
    pub memory_mib: u64,
    /// Data disks by key. Inside, a disk is the block device `/dev/disk/by-id/ondol-<key>`.
    #[serde(default)]
    pub disks: BTreeMap<String, DiskSpec>,
    /// The first one carries the first-boot address. Empty means one interface, [`InterfaceSpec::default`].
    #[serde(default)]
    pub interfaces: Vec<InterfaceSpec>,
    #[serde(default)]
    pub shared_folders: BTreeMap<String, SharedFolder>,
    #[serde(default)]
    pub features: Features,
    #[serde(default)]
    pub seed: Seed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Sparse: it takes room as it fills.
    pub size_mib: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSpec {
    /// Name inside the VM, at most 15 bytes.
    pub name: String,
    /// `08:00:27:xx:xx:xx` derived from lab, VM and interface if not given.
    #[serde(default)]
    pub mac: Option<String>,
}

impl Default for InterfaceSpec {
    /// VirtualBox's first adapter has this name in a guest, so that one netplan document fits both engines.
    fn default() -> Self {
        Self {
            name: "enp0s3".to_owned(),
            mac: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedFolder {
    pub host_path: PathBuf,
    pub guest_path: PathBuf,
    #[serde(default)]
    pub read_only: bool,
}

/// What a container may do beyond an ordinary VM's guest work. All of it weakens the wall around it: off unless asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Features {
    /// Docker, containerd and Kubernetes: all capabilities, their system calls, writable cgroups. Implies root on the machine.
    pub containers: bool,
    /// `/dev/net/tun`, for VPNs.
    pub tun: bool,
    /// `/dev/fuse`.
    pub fuse: bool,
}

/// What is put on the VM's disk before its first boot. A later change of it makes another VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seed {
    /// Made if the image lacks it, with a locked password. `root` is allowed.
    pub user: String,
    /// Lines of OpenSSH's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// May become root without a password.
    pub sudo: bool,
}

impl Default for Seed {
    fn default() -> Self {
        Self {
            user: "ondol".to_owned(),
            authorized_keys: Vec::new(),
            sudo: true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    Running,
    Stopped,
}

/// A VM as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    pub id: Uuid,
    pub spec: VmSpec,
    pub state: PowerState,
    /// In 169.254.0.0/16; it answers until a netplan exists in the guest. Never changes.
    pub first_boot_address: Ipv4Addr,
    /// The address of each interface, in the order of the spec.
    pub macs: Vec<String>,
    /// `ssh-ed25519 AAAA...`: the key to pin.
    pub ssh_host_key: String,
    /// Someone's state knows this VM.
    pub acknowledged: bool,
}

impl VmSpec {
    /// The interfaces that the VM gets, with the default filled in.
    pub fn effective_interfaces(&self) -> Vec<InterfaceSpec> {
        if self.interfaces.is_empty() {
            vec![InterfaceSpec::default()]
        } else {
            self.interfaces.clone()
        }
    }

    /// Everything that can be said without looking at the machine.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field: &str, reason: String| {
            Err(Error::InvalidSpec {
                vm: self.name.clone(),
                field: field.to_owned(),
                reason,
            })
        };
        if let Err(reason) = names::check_label(&self.name) {
            return invalid("name", reason);
        }
        if let Err(reason) = names::check_label(&self.host) {
            return invalid("host", reason);
        }
        if !self.image.is_absolute() {
            return invalid(
                "image",
                format!("{} is not an absolute path", self.image.display()),
            );
        }
        // The kernel's overlay splits its options at these.
        if self
            .image
            .to_str()
            .is_none_or(|path| path.contains([',', ':', '\\', '\n']))
        {
            return invalid(
                "image",
                format!(
                    "{} holds a comma, a colon, a backslash or a line break",
                    self.image.display()
                ),
            );
        }
        if self.cpus == 0 {
            return invalid("cpus", "must be at least 1".to_owned());
        }
        if self.memory_mib < MEMORY_MIB_MIN {
            return invalid(
                "memory_mib",
                format!("must be at least {MEMORY_MIB_MIN}: systemd does not boot in less"),
            );
        }
        for (key, disk) in &self.disks {
            if let Err(reason) = names::check_key(key) {
                return invalid(&format!("disks.{key}"), reason);
            }
            if disk.size_mib == 0 {
                return invalid(
                    &format!("disks.{key}.size_mib"),
                    "must be at least 1".to_owned(),
                );
            }
        }
        self.validate_interfaces()?;
        self.validate_folders()?;
        self.validate_seed()
    }

    fn validate_interfaces(&self) -> Result<()> {
        let mut seen: Vec<&InterfaceSpec> = Vec::new();
        for (index, interface) in self.interfaces.iter().enumerate() {
            let invalid = |field: &str, reason: String| {
                Err(Error::InvalidSpec {
                    vm: self.name.clone(),
                    field: format!("interfaces[{index}].{field}"),
                    reason,
                })
            };
            if let Err(reason) = names::check_interface(&interface.name) {
                return invalid("name", reason);
            }
            if let Some(mac) = &interface.mac
                && let Err(reason) = names::check_mac(mac)
            {
                return invalid("mac", reason);
            }
            for other in &seen {
                if other.name == interface.name {
                    return invalid("name", format!("\"{}\" is used twice", interface.name));
                }
                if other.mac.is_some() && other.mac == interface.mac {
                    return invalid("mac", "is used twice".to_owned());
                }
            }
            seen.push(interface);
        }
        Ok(())
    }

    fn validate_folders(&self) -> Result<()> {
        for (key, folder) in &self.shared_folders {
            for (field, path) in [
                ("host_path", &folder.host_path),
                ("guest_path", &folder.guest_path),
            ] {
                if let Err(reason) = check_bind_path(path) {
                    return Err(Error::InvalidSpec {
                        vm: self.name.clone(),
                        field: format!("shared_folders.{key}.{field}"),
                        reason,
                    });
                }
            }
        }
        Ok(())
    }

    fn validate_seed(&self) -> Result<()> {
        let invalid = |field: &str, reason: String| {
            Err(Error::InvalidSpec {
                vm: self.name.clone(),
                field: format!("seed.{field}"),
                reason,
            })
        };
        if let Err(reason) = names::check_user(&self.seed.user) {
            return invalid("user", reason);
        }
        for (index, key) in self.seed.authorized_keys.iter().enumerate() {
            if key.contains(['\n', '\r']) || key.split_whitespace().count() < 2 {
                return invalid(
                    &format!("authorized_keys[{index}]"),
                    "is not one line of an authorized_keys file (type, key, comment)".to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// Below this a Debian 12 guest runs out of memory while booting.
pub const MEMORY_MIB_MIN: u64 = 64;

/// systemd-nspawn splits the argument of `--bind` at colons.
fn check_bind_path(path: &Path) -> Result<(), String> {
    let text = path.to_str().ok_or("is not UTF-8")?;
    if !path.is_absolute()
        || path
            .components()
            .any(|part| part == std::path::Component::ParentDir)
    {
        return Err(format!("{text} is not an absolute path without \"..\""));
    }
    if path.parent().is_none() {
        return Err("cannot be the root directory".to_owned());
    }
    if text.contains([':', '\\', '\n']) {
        return Err(format!(
            "{text} holds a colon, a backslash or a line break, which systemd-nspawn cannot take"
        ));
    }
    Ok(())
}
