//! What VBoxManage sets on a VM, stopped or running, in each version's words.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::version::Version;

/// What `modifyvm` changes while a VM is stopped. Adapters and boot positions count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    OsType(String),
    Cpus(u32),
    MemoryMib(u64),
    VramMib(u32),
    Firmware(Firmware),
    Chipset(Chipset),
    NestedVirtualization(bool),
    Boot(u32, BootDevice),
    Nic(u32, Attachment),
    NicModel(u32, NicModel),
    /// Twelve hexadecimal digits.
    Mac(u32, String),
    Promiscuous(u32, Promiscuous),
    Cable(u32, bool),
    AddForward(u32, String, Forward),
    DeleteForward(u32, String),
    /// The first serial port writes to this file; `None` removes the port.
    SerialFile(Option<String>),
    Autostart(bool),
    /// What a server has no use for: sound. A clock in UTC and a graphics adapter that every guest has a driver for.
    ServerDefaults,
}

/// What `controlvm` does with a running VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    PowerButton,
    PowerOff,
    Nic(u32, Attachment),
    Promiscuous(u32, Promiscuous),
    Cable(u32, bool),
    AddForward(u32, String, Forward),
    DeleteForward(u32, String),
}

/// Where an adapter's cable leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// The slot is empty.
    Absent,
    Nat,
    /// The host's adapter, as `list bridgedifs` names it.
    Bridged(String),
    HostOnly(String),
    /// A host-only network of macOS, as `list hostonlynets` names it.
    Vmnet(String),
    Internal(String),
    NatNetwork(String),
}

impl Attachment {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::Nat => "nat",
            Self::Bridged(_) => "bridged",
            Self::HostOnly(_) => "hostonly",
            Self::Vmnet(_) => "hostonlynet",
            Self::Internal(_) => "intnet",
            Self::NatNetwork(_) => "natnetwork",
        }
    }

    /// The adapter or network it leads to.
    pub fn to(&self) -> Option<&str> {
        match self {
            Self::Absent | Self::Nat => None,
            Self::Bridged(name)
            | Self::HostOnly(name)
            | Self::Vmnet(name)
            | Self::Internal(name)
            | Self::NatNetwork(name) => Some(name),
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to() {
            None => f.write_str(self.kind()),
            Some(name) => write!(f, "{} {name:?}", self.kind()),
        }
    }
}

/// A port of the host that leads to one of the guest, on an adapter with NAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    pub protocol: Protocol,
    /// `None` listens on every address of the host.
    pub host_address: Option<IpAddr>,
    pub host_port: u16,
    pub guest_port: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host_address.map(|address| address.to_string());
        write!(
            f,
            "{} {}:{} to {}",
            self.protocol.word(),
            host.as_deref().unwrap_or("*"),
            self.host_port,
            self.guest_port
        )
    }
}

/// Makes an enum whose words are VBoxManage's own, which are also Terraform's.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads a word, in VBoxManage's spelling, in any case.
            pub fn from_word(word: &str) -> Option<Self> {
                match word.to_ascii_lowercase() {
                    $(word if word == $word.to_ascii_lowercase() => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// What starts the guest.
    Firmware { Bios = "bios", Efi = "efi", Efi32 = "efi32", Efi64 = "efi64" }
}
words! { Chipset { Piix3 = "piix3", Ich9 = "ich9" } }
words! { BootDevice { None = "none", Floppy = "floppy", Dvd = "dvd", Disk = "disk", Net = "net" } }
words! { Protocol { Tcp = "tcp", Udp = "udp" } }
words! {
    /// Which packets of others an adapter lets its guest see.
    Promiscuous { Deny = "deny", AllowVms = "allow-vms", AllowAll = "allow-all" }
}
words! {
    /// The hardware that an adapter imitates.
    NicModel { Am79C970A = "Am79C970A", Am79C973 = "Am79C973", I82540EM = "82540EM", I82543GC = "82543GC", I82545EM = "82545EM", Virtio = "virtio" }
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

impl Setting {
    /// The arguments of `modifyvm`.
    pub(super) fn render(&self, version: Version, out: &mut Vec<String>) {
        let new = version.hyphenates();
        let flag =
            |old: &str, hyphenated: &str| format!("--{}", if new { hyphenated } else { old });
        let numbered = |old: &str, hyphenated: &str, number: &u32| {
            format!("{}{number}", flag(old, hyphenated))
        };
        let mut push = |name: String, value: &str| out.extend([name, value.to_owned()]);
        match self {
            Self::OsType(value) => push(flag("ostype", "os-type"), value),
            Self::Cpus(value) => push("--cpus".to_owned(), &value.to_string()),
            Self::MemoryMib(value) => push("--memory".to_owned(), &value.to_string()),
            Self::VramMib(value) => push("--vram".to_owned(), &value.to_string()),
            Self::Firmware(value) => push("--firmware".to_owned(), value.word()),
            Self::Chipset(value) => push("--chipset".to_owned(), value.word()),
            Self::NestedVirtualization(value) => push("--nested-hw-virt".to_owned(), on(*value)),
            Self::Boot(position, device) => push(format!("--boot{position}"), device.word()),
            Self::Nic(slot, attachment) => {
                push(format!("--nic{slot}"), attachment.kind());
                let name = match attachment {
                    Attachment::Absent | Attachment::Nat => None,
                    Attachment::Bridged(_) => {
                        Some(numbered("bridgeadapter", "bridge-adapter", slot))
                    }
                    Attachment::HostOnly(_) => {
                        Some(numbered("hostonlyadapter", "host-only-adapter", slot))
                    }
                    // Younger than the renaming of flags.
                    Attachment::Vmnet(_) => Some(format!("--host-only-net{slot}")),
                    Attachment::Internal(_) => Some(format!("--intnet{slot}")),
                    Attachment::NatNetwork(_) => Some(format!("--nat-network{slot}")),
                };
                if let (Some(name), Some(to)) = (name, attachment.to()) {
                    push(name, to);
                }
            }
            Self::NicModel(slot, model) => {
                push(numbered("nictype", "nic-type", slot), model.word())
            }
            Self::Mac(slot, digits) => push(numbered("macaddress", "mac-address", slot), digits),
            Self::Promiscuous(slot, policy) => {
                push(numbered("nicpromisc", "nic-promisc", slot), policy.word());
            }
            Self::Cable(slot, plugged) => {
                push(
                    numbered("cableconnected", "cable-connected", slot),
                    on(*plugged),
                );
            }
            Self::AddForward(slot, name, forward) => {
                push(numbered("natpf", "nat-pf", slot), &rule(name, forward));
            }
            Self::DeleteForward(slot, name) => {
                let name = name.clone();
                out.extend([numbered("natpf", "nat-pf", slot), "delete".to_owned(), name]);
            }
            Self::SerialFile(Some(path)) => {
                out.extend(["--uart1", "0x3F8", "4"].map(str::to_owned));
                out.extend([
                    flag("uartmode1", "uart-mode1"),
                    "file".to_owned(),
                    path.clone(),
                ]);
            }
            Self::SerialFile(None) => push("--uart1".to_owned(), "off"),
            Self::Autostart(value) => push("--autostart-enabled".to_owned(), on(*value)),
            Self::ServerDefaults => {
                push(flag("rtcuseutc", "rtc-use-utc"), "on");
                push("--graphicscontroller".to_owned(), "vmsvga");
                if new {
                    push("--audio-enabled".to_owned(), "off");
                } else {
                    push("--audio".to_owned(), "none");
                }
            }
        }
    }
}

impl Control {
    /// `controlvm` kept its old spellings in every version.
    pub(super) fn render(&self, out: &mut Vec<String>) {
        match self {
            Self::PowerButton => out.push("acpipowerbutton".to_owned()),
            Self::PowerOff => out.push("poweroff".to_owned()),
            Self::Nic(slot, attachment) => {
                out.extend([format!("nic{slot}"), attachment.kind().to_owned()]);
                out.extend(attachment.to().map(str::to_owned));
            }
            Self::Promiscuous(slot, policy) => {
                out.extend([format!("nicpromisc{slot}"), policy.word().to_owned()]);
            }
            Self::Cable(slot, plugged) => {
                out.extend([format!("setlinkstate{slot}"), on(*plugged).to_owned()]);
            }
            Self::AddForward(slot, name, forward) => {
                out.extend([format!("natpf{slot}"), rule(name, forward)]);
            }
            Self::DeleteForward(slot, name) => {
                out.extend([format!("natpf{slot}"), "delete".to_owned(), name.clone()]);
            }
        }
    }
}

/// `name,tcp,host address,host port,guest address,guest port`. The guest's address is left to VirtualBox's DHCP.
fn rule(name: &str, forward: &Forward) -> String {
    let address = forward.host_address.map(|address| address.to_string());
    format!(
        "{name},{},{},{},,{}",
        forward.protocol.word(),
        address.unwrap_or_default(),
        forward.host_port,
        forward.guest_port
    )
}
