//! What a VM is wished to be, in units that VirtualBox shares with Terraform's attributes; and a VM as it was found.
//!
//! Values and checks that need no host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::answer::VmState;
use crate::command::{Attachment, BootDevice, Chipset, Firmware, Forward, NicModel, Promiscuous};
use crate::error::{Error, Result};

/// Everything that decides what a VM is. `None` leaves the matter alone; a new VM then has the engine's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    pub name: String,
    pub image: Image,
    pub cpus: u32,
    pub memory_mib: u64,
    #[serde(default)]
    pub hardware: Hardware,
    /// Size of the disk that the image became. It can grow.
    pub system_disk_mib: Option<u64>,
    /// Further disks by key, in MiB.
    pub disks: BTreeMap<String, u64>,
    /// In adapter order. Empty means the engine's default: one.
    pub adapters: Vec<Adapter>,
    pub shared_folders: BTreeMap<String, SharedFolder>,
    pub seed: Seed,
}

/// What the system disk is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// An .ova, .vmdk, .vdi or .vhd on the machine that asks.
    pub path: String,
    /// Share the image's blocks with the host's other VMs instead of copying them.
    #[serde(default)]
    pub linked: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// An identifier of `VBoxManage list ostypes`.
    pub os_type: Option<String>,
    pub vram_mib: Option<u32>,
    pub firmware: Option<Firmware>,
    pub chipset: Option<Chipset>,
    pub nested_virtualization: Option<bool>,
    /// At most four; the rest of the positions are empty.
    pub boot_order: Option<Vec<BootDevice>>,
    /// A file on the host; the empty text is a VM without a serial port.
    pub serial_file: Option<String>,
    pub autostart: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Adapter {
    /// Name inside the guest.
    pub name: String,
    /// Six pairs of hexadecimal digits joined by colons.
    pub mac: Option<String>,
    pub attachment: Option<Attachment>,
    pub model: Option<NicModel>,
    pub promiscuous: Option<Promiscuous>,
    pub cable_connected: Option<bool>,
    /// Port forwards by name, with NAT only.
    pub forwards: BTreeMap<String, Forward>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFolder {
    pub host_path: String,
    pub guest_path: String,
    pub read_only: bool,
}

/// What cloud-init does at a guest's first boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    pub user: String,
    pub authorized_keys: Vec<String>,
    pub sudo: bool,
    #[serde(default)]
    pub network: Option<StaticNetwork>,
}

/// The first adapter's address. Without it, DHCP and an address of its own in 169.254.0.0/16.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticNetwork {
    /// Each with its prefix length.
    pub addresses: Vec<String>,
    pub gateway: Option<IpAddr>,
    pub nameservers: Vec<IpAddr>,
}

/// How far the engine got with a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A creation or a removal was cut short, or is under way.
    Unfinished,
    Ready,
    /// Not made by this engine.
    Foreign,
}

/// A VM as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    pub id: Uuid,
    /// What it is, not what it was wished to be: drift shows here. Image and seed are those it was made from.
    pub spec: VmSpec,
    pub state: VmState,
    pub phase: Phase,
    /// Someone's state holds it.
    pub acknowledged: bool,
    /// Where the guest last confirmed its network, see [`Host::note_address`](crate::Host::note_address).
    pub confirmed_address: Option<IpAddr>,
    /// SHA-256 of the image's file; empty if not known.
    pub image_digest: String,
    /// `ssh-ed25519 AAAA...`; empty if not known.
    pub ssh_host_key: String,
    pub first_boot_address: IpAddr,
    /// Of all adapters, six lower-case pairs each.
    pub macs: Vec<String>,
    /// The spec that was applied last.
    pub(crate) wish: Option<VmSpec>,
    pub(crate) place: Place,
}

/// Where a VM's parts are on its host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub settings_file: String,
    /// The settings file's own directory.
    pub folder: String,
    /// Snapshots hold on to disks that are attached no more.
    pub has_snapshots: bool,
    /// The controller that the disks are on.
    pub controller: Option<String>,
    pub media: Vec<PlacedMedium>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlacedMedium {
    pub controller: String,
    pub port: u32,
    /// The file that is written to.
    pub path: Option<String>,
    /// What it is known by: the disk in the VM's own folder that it holds the differences to, where the VM has snapshots; else itself.
    pub base: Option<String>,
    pub is_disk: bool,
}

/// VirtualBox's adapters as Linux names them with the PIIX3 chipset.
const GUEST_NAMES: [&str; 8] = [
    "enp0s3", "enp0s8", "enp0s9", "enp0s10", "enp0s16", "enp0s17", "enp0s18", "enp0s19",
];

/// What Linux calls an adapter, as long as nobody says otherwise.
pub fn guest_name(index: usize) -> String {
    GUEST_NAMES.get(index).copied().unwrap_or("").to_owned()
}

pub(crate) const ADAPTERS: usize = GUEST_NAMES.len();

/// Ports of the controller: the system disk, the seed, and data disks after them.
pub(crate) const SYSTEM_PORT: u32 = 0;
pub(crate) const SEED_PORT: u32 = 1;
pub(crate) const FIRST_DATA_PORT: u32 = 2;
pub(crate) const PORTS: u32 = 30;

impl VmSpec {
    /// The adapters, the default one included. `default` is what an adapter that does not say is attached to.
    pub fn effective_adapters(&self, default: &Attachment) -> Vec<Adapter> {
        let one = [Adapter {
            name: guest_name(0),
            ..Adapter::default()
        }];
        let adapters = if self.adapters.is_empty() {
            &one
        } else {
            self.adapters.as_slice()
        };
        adapters
            .iter()
            .map(|adapter| Adapter {
                attachment: Some(
                    adapter
                        .attachment
                        .clone()
                        .unwrap_or_else(|| default.clone()),
                ),
                ..adapter.clone()
            })
            .collect()
    }

    /// Whether any VirtualBox could make it.
    pub fn validate(&self) -> Result<()> {
        let name_fits = !self.name.is_empty()
            && self.name.len() <= 63
            && self
                .name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
            && !self.name.starts_with(['-', '.']);
        if !name_fits {
            return Err(Error::invalid(
                &["name"],
                "a VM's name is also its host name and its folder: up to 63 letters, digits, hyphens",
            ));
        }
        let extension = self
            .image
            .path
            .rsplit_once('.')
            .map(|(_, it)| it.to_ascii_lowercase());
        if !matches!(extension.as_deref(), Some("ova" | "vmdk" | "vdi" | "vhd")) {
            return Err(Error::invalid(
                &["image"],
                format!(
                    "{:?} is not an image that VirtualBox reads: give an .ova, .vmdk, .vdi or .vhd",
                    self.image.path
                ),
            ));
        }
        if self.adapters.len() > ADAPTERS {
            return Err(Error::invalid(
                &["network_interfaces"],
                format!(
                    "VirtualBox has {ADAPTERS} adapters, not {}",
                    self.adapters.len()
                ),
            ));
        }
        for (index, adapter) in self.adapters.iter().enumerate() {
            let at = |field: &str| {
                vec![
                    "network_interfaces".to_owned(),
                    index.to_string(),
                    field.to_owned(),
                ]
            };
            if let Some(mac) = &adapter.mac
                && plain_mac(mac).is_none()
            {
                return Err(Error::Invalid {
                    field: at("mac_address"),
                    reason: format!(
                        "{mac:?} is not six pairs of hexadecimal digits joined by colons, the first of them even"
                    ),
                });
            }
            let has_nat = matches!(adapter.attachment, None | Some(Attachment::Nat));
            if !adapter.forwards.is_empty() && !has_nat {
                return Err(Error::Invalid {
                    field: at("port_forwards"),
                    reason: "ports are forwarded by NAT only: set type = \"nat\"".to_owned(),
                });
            }
        }
        for key in self.disks.keys() {
            let fits = !key.is_empty()
                && key.len() <= 32
                && key
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
            if !fits || key == SYSTEM_DISK {
                return Err(Error::invalid(
                    &["disks", key],
                    "a key names the disk's file: 1 to 32 letters, digits, hyphens or underscores, and not \"system\"",
                ));
            }
        }
        if self.disks.len() > (PORTS - FIRST_DATA_PORT) as usize {
            return Err(Error::invalid(
                &["disks"],
                "a SATA controller has room for 28 data disks",
            ));
        }
        if self
            .hardware
            .boot_order
            .as_ref()
            .is_some_and(|order| order.len() > 4)
        {
            return Err(Error::invalid(
                &["boot_order"],
                "VirtualBox tries at most four devices",
            ));
        }
        Ok(())
    }
}

/// Stem of the file that the image became.
pub(crate) const SYSTEM_DISK: &str = "system";
pub(crate) const SEED_FILE: &str = "seed.iso";

/// Twelve capital digits, as VirtualBox writes it; `None` if it is no unicast address.
pub(crate) fn plain_mac(mac: &str) -> Option<String> {
    let pairs: Vec<&str> = mac.split(':').collect();
    let fits = pairs.len() == 6
        && pairs
            .iter()
            .all(|pair| pair.len() == 2 && pair.bytes().all(|c| c.is_ascii_hexdigit()));
    let first = u8::from_str_radix(pairs.first()?, 16).ok()?;
    (fits && first & 1 == 0).then(|| pairs.concat().to_ascii_uppercase())
}

/// Six lower-case pairs.
pub(crate) fn paired_mac(plain: &str) -> String {
    let lower = plain.to_ascii_lowercase();
    let pairs: Vec<&str> = (0..lower.len())
        .step_by(2)
        .filter_map(|at| lower.get(at..at + 2))
        .collect();
    pairs.join(":")
}

fn digest(text: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The address of an adapter that was given none: VirtualBox's prefix, the rest from the VM.
pub(crate) fn derived_mac(vm: Uuid, index: usize) -> String {
    let digest = digest(&format!("{vm} {index}"));
    format!(
        "08:00:27:{:02x}:{:02x}:{:02x}",
        digest[0], digest[1], digest[2]
    )
}

/// Where a guest answers before it has a netplan: the seed's first address, else one of 169.254.1.0 to 169.254.254.255 (RFC 3927)
/// that belongs to the first adapter.
pub(crate) fn first_boot_address(seed: &Seed, mac: &str) -> IpAddr {
    let given = seed.network.as_ref().and_then(|network| {
        let address = network.addresses.first()?;
        address.split('/').next()?.parse().ok()
    });
    given.unwrap_or_else(|| {
        let digest = digest(mac);
        IpAddr::from([169, 254, 1 + digest[0] % 254, digest[1]])
    })
}

/// UUIDs of VMs that this engine made begin with these bytes, so that a VM is known for ours from the moment it exists.
const MARK: [u8; 6] = *b"ondol!";

pub(crate) fn new_id() -> Uuid {
    let mut bytes = *Uuid::new_v4().as_bytes();
    bytes[..6].copy_from_slice(&MARK);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

pub(crate) fn is_ours(id: Uuid) -> bool {
    id.as_bytes()[..6] == MARK
}

#[cfg(test)]
pub(crate) fn example() -> VmSpec {
    VmSpec {
        name: "web-01".to_owned(),
        image: Image {
            path: "/images/base.ova".to_owned(),
            linked: false,
        },
        cpus: 1,
        memory_mib: 512,
        hardware: Hardware::default(),
        system_disk_mib: None,
        disks: BTreeMap::from([("data".to_owned(), 64)]),
        adapters: Vec::new(),
        shared_folders: BTreeMap::new(),
        seed: Seed {
            user: "ondol".to_owned(),
            authorized_keys: vec!["ssh-ed25519 AAAA".to_owned()],
            sudo: true,
            network: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_spec_is_refused_with_its_field() {
        type Edit = fn(&mut VmSpec);
        let cases: [(Edit, &str); 8] = [
            (|it| it.name = "a b".to_owned(), "name"),
            (|it| it.name = "../x".to_owned(), "name"),
            (|it| it.image.path = "/images/x/rootfs".to_owned(), "image"),
            (
                |it| it.adapters = vec![Adapter::default(); 9],
                "network_interfaces",
            ),
            (
                |it| {
                    it.adapters = vec![Adapter {
                        mac: Some("01:00:00:00:00:01".to_owned()),
                        ..Adapter::default()
                    }];
                },
                "network_interfaces.0.mac_address",
            ),
            (
                |it| {
                    it.adapters = vec![Adapter {
                        attachment: Some(Attachment::Internal("lan".to_owned())),
                        forwards: BTreeMap::from([(
                            "ssh".to_owned(),
                            Forward {
                                protocol: crate::command::Protocol::Tcp,
                                host_address: None,
                                host_port: 1,
                                guest_port: 2,
                            },
                        )]),
                        ..Adapter::default()
                    }];
                },
                "network_interfaces.0.port_forwards",
            ),
            (
                |it| it.disks = BTreeMap::from([("system".to_owned(), 1)]),
                "disks.system",
            ),
            (
                |it| it.hardware.boot_order = Some(vec![BootDevice::Disk; 5]),
                "boot_order",
            ),
        ];
        assert_eq!(example().validate(), Ok(()));
        for (edit, expected) in cases {
            let mut spec = example();
            edit(&mut spec);
            match spec.validate() {
                Err(Error::Invalid { field, .. }) => assert_eq!(field.join("."), expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn addresses_are_derived_and_stay_within_their_ranges() {
        let id = Uuid::from_u128(7);
        assert_eq!(derived_mac(id, 0), derived_mac(id, 0));
        assert_ne!(derived_mac(id, 0), derived_mac(id, 1));
        assert!(derived_mac(id, 0).starts_with("08:00:27:"));
        assert_eq!(
            plain_mac("08:00:27:aB:00:01").as_deref(),
            Some("080027AB0001")
        );
        assert_eq!(paired_mac("080027AB0001"), "08:00:27:ab:00:01");
        for last in 0..=255u8 {
            let IpAddr::V4(address) = first_boot_address(&Seed::default(), &last.to_string())
            else {
                panic!("it is an IPv4 address");
            };
            let [a, b, c, _] = address.octets();
            assert!((a, b) == (169, 254) && (1..=254).contains(&c), "{address}");
        }
        let seed = Seed {
            network: Some(StaticNetwork {
                addresses: vec!["192.168.10.11/24".to_owned()],
                ..StaticNetwork::default()
            }),
            ..Seed::default()
        };
        assert_eq!(first_boot_address(&seed, "x").to_string(), "192.168.10.11");
    }

    #[test]
    fn our_vms_are_known_by_their_uuid() {
        let (a, b) = (new_id(), new_id());
        assert!(is_ours(a) && is_ours(b) && a != b);
        assert!(!is_ours(Uuid::new_v4()));
        assert_eq!(a.to_string().parse(), Ok(a));
    }
}
