//! A VM's settings file (`.vbox`): everything about a VM that `showvminfo` leaves out or prints ambiguously, and its extra data, for
//! the price of reading a file.
//!
//! Read only. VirtualBox writes the file before a command that changes a setting returns, and leaves out what has its default value;
//! the defaults here are those of its schema (`VirtualBox-settings.xsd`).

use std::collections::BTreeMap;

use roxmltree::{Document, Node};
use uuid::Uuid;

use crate::command::{
    Attachment, BootDevice, Chipset, Firmware, Forward, NicModel, Promiscuous, Protocol,
};

/// A VM as its settings file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub uuid: Uuid,
    pub name: String,
    pub os_type: String,
    pub extra_data: BTreeMap<String, String>,
    pub cpus: u32,
    pub memory_mib: u64,
    pub vram_mib: u32,
    pub firmware: Firmware,
    pub chipset: Chipset,
    pub nested_virtualization: bool,
    /// Positions 1 to 4.
    pub boot_order: [BootDevice; 4],
    /// Slots 1 to 8; what an empty one was before it was emptied is still there.
    pub adapters: BTreeMap<u32, Adapter>,
    /// Where the first serial port writes, if it writes to a file.
    pub serial_file: Option<String>,
    pub shared_folders: BTreeMap<String, SharedFolder>,
    pub autostart: bool,
    pub controllers: Vec<Controller>,
    pub has_snapshots: bool,
    /// Path of each disk and DVD that the file registers, absolute or relative to its own directory.
    pub media: BTreeMap<Uuid, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// `None`: an attachment that this crate does not manage, or no cable's end at all.
    pub attachment: Option<Attachment>,
    /// Twelve hexadecimal digits, upper case.
    pub mac: String,
    pub model: Option<NicModel>,
    pub promiscuous: Promiscuous,
    pub cable_connected: bool,
    pub forwards: BTreeMap<String, Forward>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFolder {
    pub host_path: String,
    pub guest_path: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    pub name: String,
    /// Media by port. `None`: an empty drive.
    pub ports: BTreeMap<u32, Option<AttachedMedium>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedMedium {
    pub uuid: Uuid,
    pub is_disk: bool,
}

/// Why a settings file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("it is not XML: {0}")]
    Xml(String),
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("it is encrypted, and only VirtualBox with its password can read it")]
    Encrypted,
}

/// Reads a `.vbox` file.
pub fn read(text: &str) -> Result<Settings, SettingsError> {
    let document = Document::parse(text).map_err(|error| SettingsError::Xml(error.to_string()))?;
    if descend(document.root_element(), &["MachineEncrypted"]).is_some() {
        return Err(SettingsError::Encrypted);
    }
    let machine = child(document.root_element(), "Machine")
        .ok_or(SettingsError::Missing("element Machine"))?;
    let hardware = child(machine, "Hardware").ok_or(SettingsError::Missing("element Hardware"))?;
    Ok(Settings {
        uuid: uuid(machine, "uuid").ok_or(SettingsError::Missing("UUID"))?,
        name: machine
            .attribute("name")
            .ok_or(SettingsError::Missing("name"))?
            .to_owned(),
        os_type: machine.attribute("OSType").unwrap_or("Other").to_owned(),
        extra_data: extra_data(machine),
        cpus: number(hardware, &["CPU"], "count").unwrap_or(1),
        memory_mib: number(hardware, &["Memory"], "RAMSize").unwrap_or(128),
        vram_mib: number(hardware, &["Display"], "VRAMSize").unwrap_or(8),
        firmware: word(hardware, &["Firmware"], "type", Firmware::from_word)
            .unwrap_or(Firmware::Bios),
        chipset: word(hardware, &["Chipset"], "type", Chipset::from_word).unwrap_or(Chipset::Piix3),
        nested_virtualization: flag(hardware, &["CPU", "NestedHWVirt"], "enabled").unwrap_or(false),
        boot_order: boot_order(hardware),
        adapters: adapters(hardware),
        serial_file: serial_file(hardware),
        shared_folders: shared_folders(hardware),
        autostart: flag(machine, &["Hardware", "Autostart"], "enabled")
            .or_else(|| flag(machine, &["Autostart"], "enabled"))
            .unwrap_or(false),
        // Up to format 1.14 (6.1) they stand beside the hardware.
        controllers: child(hardware, "StorageControllers")
            .or_else(|| child(machine, "StorageControllers"))
            .map(controllers)
            .unwrap_or_default(),
        has_snapshots: child(machine, "Snapshot").is_some(),
        media: media(machine),
    })
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|it| it.tag_name().name() == name)
}

fn children<'a, 'input>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children()
        .filter(move |it| it.tag_name().name() == name)
}

fn descend<'a, 'input>(node: Node<'a, 'input>, path: &[&str]) -> Option<Node<'a, 'input>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

fn number<T: std::str::FromStr>(node: Node<'_, '_>, path: &[&str], name: &str) -> Option<T> {
    descend(node, path)?.attribute(name)?.parse().ok()
}

fn flag(node: Node<'_, '_>, path: &[&str], name: &str) -> Option<bool> {
    // Some versions write 1 for true.
    Some(matches!(
        descend(node, path)?.attribute(name)?,
        "true" | "1"
    ))
}

fn word<T>(
    node: Node<'_, '_>,
    path: &[&str],
    name: &str,
    read: fn(&str) -> Option<T>,
) -> Option<T> {
    read(descend(node, path)?.attribute(name)?)
}

/// In the file UUIDs stand in braces.
fn uuid(node: Node<'_, '_>, name: &str) -> Option<Uuid> {
    node.attribute(name)?.parse().ok()
}

fn extra_data(machine: Node<'_, '_>) -> BTreeMap<String, String> {
    let Some(data) = child(machine, "ExtraData") else {
        return BTreeMap::new();
    };
    children(data, "ExtraDataItem")
        .filter_map(|item| {
            Some((
                item.attribute("name")?.to_owned(),
                item.attribute("value")?.to_owned(),
            ))
        })
        .collect()
}

fn boot_order(hardware: Node<'_, '_>) -> [BootDevice; 4] {
    let mut order = [
        BootDevice::Floppy,
        BootDevice::Dvd,
        BootDevice::Disk,
        BootDevice::None,
    ];
    for entry in child(hardware, "Boot")
        .into_iter()
        .flat_map(|it| children(it, "Order"))
    {
        let position: Option<usize> = entry.attribute("position").and_then(|it| it.parse().ok());
        let device = match entry.attribute("device") {
            Some("HardDisk") => BootDevice::Disk,
            Some("Network") => BootDevice::Net,
            Some("DVD") => BootDevice::Dvd,
            Some("Floppy") => BootDevice::Floppy,
            _ => BootDevice::None,
        };
        if let Some(place) = position.and_then(|position| order.get_mut(position.wrapping_sub(1))) {
            *place = device;
        }
    }
    order
}

fn adapters(hardware: Node<'_, '_>) -> BTreeMap<u32, Adapter> {
    child(hardware, "Network")
        .into_iter()
        .flat_map(|network| children(network, "Adapter"))
        .filter_map(|node| {
            let slot: u32 = node.attribute("slot")?.parse().ok()?;
            Some((slot + 1, adapter(node)))
        })
        // The ICH9 chipset has 36, which nobody uses.
        .filter(|(slot, _)| *slot <= 8)
        .collect()
}

fn adapter(node: Node<'_, '_>) -> Adapter {
    let named = |element: &str| {
        let name = child(node, element)?.attribute("name")?;
        Some(name.to_owned())
    };
    let attachment = named("BridgedInterface")
        .map(Attachment::Bridged)
        .or_else(|| named("HostOnlyInterface").map(Attachment::HostOnly))
        .or_else(|| named("HostOnlyNetwork").map(Attachment::Vmnet))
        .or_else(|| named("InternalNetwork").map(Attachment::Internal))
        .or_else(|| named("NATNetwork").map(Attachment::NatNetwork))
        .or_else(|| child(node, "NAT").map(|_| Attachment::Nat));
    let attachment = match node.attribute("enabled") {
        Some("true") => attachment,
        _ => Some(Attachment::Absent),
    };
    // VirtualBox keeps them while another attachment is in use.
    let forwards = child(node, "NAT")
        .into_iter()
        .chain(descend(node, &["DisabledModes", "NAT"]))
        .flat_map(|nat| children(nat, "Forwarding"))
        .filter_map(forward)
        .collect();
    Adapter {
        attachment,
        mac: node
            .attribute("MACAddress")
            .unwrap_or_default()
            .to_ascii_uppercase(),
        model: match node.attribute("type") {
            None => Some(NicModel::Am79C973),
            Some(name) => NicModel::from_word(name),
        },
        promiscuous: match node.attribute("promiscuousModePolicy") {
            Some("AllowNetwork") => Promiscuous::AllowVms,
            Some("AllowAll") => Promiscuous::AllowAll,
            _ => Promiscuous::Deny,
        },
        cable_connected: node.attribute("cable") != Some("false"),
        forwards,
    }
}

fn forward(node: Node<'_, '_>) -> Option<(String, Forward)> {
    let port = |name: &str| node.attribute(name)?.parse().ok();
    Some((
        node.attribute("name")?.to_owned(),
        Forward {
            protocol: match node.attribute("proto") {
                Some("0") => Protocol::Udp,
                _ => Protocol::Tcp,
            },
            host_address: node.attribute("hostip").and_then(|it| it.parse().ok()),
            host_port: port("hostport").unwrap_or(0),
            guest_port: port("guestport").unwrap_or(0),
        },
    ))
}

fn serial_file(hardware: Node<'_, '_>) -> Option<String> {
    let first = children(child(hardware, "UART")?, "Port")
        .find(|port| port.attribute("slot") == Some("0"))?;
    let writes = first.attribute("enabled") == Some("true")
        && first.attribute("hostMode") == Some("RawFile");
    writes.then(|| first.attribute("path").unwrap_or_default().to_owned())
}

fn shared_folders(hardware: Node<'_, '_>) -> BTreeMap<String, SharedFolder> {
    child(hardware, "SharedFolders")
        .into_iter()
        .flat_map(|folders| children(folders, "SharedFolder"))
        .filter_map(|node| {
            Some((
                node.attribute("name")?.to_owned(),
                SharedFolder {
                    host_path: node.attribute("hostPath")?.to_owned(),
                    guest_path: node
                        .attribute("autoMountPoint")
                        .unwrap_or_default()
                        .to_owned(),
                    read_only: node.attribute("writable") != Some("true"),
                },
            ))
        })
        .collect()
}

fn controllers(node: Node<'_, '_>) -> Vec<Controller> {
    children(node, "StorageController")
        .map(|controller| Controller {
            name: controller.attribute("name").unwrap_or_default().to_owned(),
            ports: children(controller, "AttachedDevice")
                .filter_map(|device| {
                    let port = device.attribute("port")?.parse().ok()?;
                    let medium = child(device, "Image").and_then(|image| {
                        Some(AttachedMedium {
                            uuid: uuid(image, "uuid")?,
                            is_disk: device.attribute("type") == Some("HardDisk"),
                        })
                    });
                    Some((port, medium))
                })
                .collect(),
        })
        .collect()
}

fn media(machine: Node<'_, '_>) -> BTreeMap<Uuid, String> {
    let registry = child(machine, "MediaRegistry");
    registry
        .into_iter()
        .flat_map(|registry| registry.descendants())
        .filter(|node| matches!(node.tag_name().name(), "HardDisk" | "Image"))
        .filter_map(|node| Some((uuid(node, "uuid")?, node.attribute("location")?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_7_2_is_read() {
        let settings = read(include_str!("../fixtures/7.2.22/a-01.vbox")).unwrap();
        insta::assert_debug_snapshot!(settings);
    }

    #[test]
    fn what_a_file_leaves_out_has_its_default() {
        let settings = read(include_str!("../fixtures/7.2.22/web-01.vbox")).unwrap();
        assert_eq!(settings.name, "web 01");
        assert_eq!(
            (settings.cpus, settings.memory_mib, settings.vram_mib),
            (1, 1024, 8)
        );
        assert_eq!(
            (settings.firmware, settings.chipset),
            (Firmware::Bios, Chipset::Piix3)
        );
        assert_eq!(settings.adapters[&1].attachment, Some(Attachment::Nat));
        assert!(
            settings
                .adapters
                .values()
                .skip(1)
                .all(|it| it.attachment == Some(Attachment::Absent))
        );
        assert!(settings.controllers.is_empty() && settings.extra_data.is_empty());
    }

    #[test]
    fn the_layout_of_6_1_is_read_too() {
        let text = r#"<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.16-linux">
  <Machine uuid="{4f8829de-667a-4c44-98a8-5979c7ea9a36}" name="old" OSType="Debian_64" snapshotFolder="Snapshots">
    <Hardware>
      <CPU count="2"/>
      <Memory RAMSize="512"/>
      <Network><Adapter slot="0" enabled="true" MACAddress="080027AABBCC" cable="true" type="82540EM"><HostOnlyInterface name="vboxnet0"/></Adapter>
        <Adapter slot="1" enabled="true" MACAddress="080027AABBCD" cable="true" type="82540EM"><HostOnlyNetwork name="lan"/></Adapter></Network>
    </Hardware>
    <StorageControllers>
      <StorageController name="SATA" type="AHCI" PortCount="1">
        <AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{fe616af8-9039-4924-8bad-85ed2924805f}"/></AttachedDevice>
        <AttachedDevice passthrough="false" type="DVD" port="1" device="0"/>
      </StorageController>
    </StorageControllers>
  </Machine>
</VirtualBox>"#;
        let settings = read(text).unwrap();
        assert_eq!(settings.controllers[0].ports.len(), 2);
        assert_eq!(settings.controllers[0].ports[&1], None);
        assert_eq!(
            settings.adapters[&1].attachment,
            Some(Attachment::HostOnly("vboxnet0".to_owned()))
        );
        assert_eq!(
            settings.adapters[&2].attachment,
            Some(Attachment::Vmnet("lan".to_owned())),
            "as VirtualBox 7 writes it on macOS"
        );
    }

    #[test]
    fn what_is_no_settings_file_is_said_to_be_none() {
        assert!(matches!(read("nonsense"), Err(SettingsError::Xml(_))));
        assert_eq!(
            read("<VirtualBox/>"),
            Err(SettingsError::Missing("element Machine"))
        );
        assert_eq!(
            read("<VirtualBox><MachineEncrypted/></VirtualBox>"),
            Err(SettingsError::Encrypted)
        );
    }
}
