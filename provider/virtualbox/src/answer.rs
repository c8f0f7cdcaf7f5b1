//! What VBoxManage prints, read into values.
//!
//! Its long listings are meant for people: only the lines that every version has are read, and a VM's configuration comes from its
//! settings file instead ([`crate::settings`]).

use std::collections::BTreeMap;
use std::net::IpAddr;

use uuid::Uuid;

/// A VM as `list --long vms` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVm {
    pub uuid: Uuid,
    /// `None`: its settings file cannot be read, so that nothing but its place is known.
    pub accessible: Option<Accessible>,
    /// The settings file, on the host.
    pub settings_file: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accessible {
    pub name: String,
    pub state: VmState,
}

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    PoweredOff,
    Running,
    Paused,
    Saved,
    /// Its process ended without a word.
    Aborted,
    /// Between two of the others, or one that VirtualBox added later.
    Changing,
}

impl VmState {
    /// The words of `list --long` ("powered off") and of `showvminfo --machinereadable` ("poweroff").
    fn from_words(words: &str) -> Self {
        match words {
            "powered off" | "poweroff" => Self::PoweredOff,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "saved" | "aborted-saved" => Self::Saved,
            "aborted" => Self::Aborted,
            _ => Self::Changing,
        }
    }

    /// A process of VirtualBox holds the VM.
    pub fn is_on(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Changing)
    }
}

/// Reads `list --long vms`. What is in no VM's own lines (warnings of start scripts) is passed over.
pub fn vms(text: &str) -> Vec<ListedVm> {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    let starts: Vec<usize> = (0..lines.len())
        .filter(|&at| starts_vm(&lines[at..]))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    starts
        .iter()
        .zip(ends)
        .filter_map(|(&start, end)| listed_vm(&lines[start..end]))
        .collect()
}

/// A description may hold any line, and a shared folder's begins with "Name:" too: the line after tells.
fn starts_vm(lines: &[&str]) -> bool {
    let [first, second, ..] = lines else {
        return false;
    };
    let Some(name) = first.strip_prefix("Name:") else {
        return false;
    };
    second.starts_with("Encryption:")
        || second.starts_with("Groups:")
        || (name.trim() == INACCESSIBLE && second.starts_with("UUID:"))
}

const INACCESSIBLE: &str = "<inaccessible!>";

fn listed_vm(lines: &[&str]) -> Option<ListedVm> {
    let value = |key: &str| {
        lines
            .iter()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .map(str::trim)
    };
    let name = value("Name")?;
    let accessible = (name != INACCESSIBLE).then(|| {
        let state = value("State").unwrap_or_default();
        let words = state.split(" (").next().unwrap_or_default();
        Accessible {
            name: name.to_owned(),
            state: VmState::from_words(words.trim()),
        }
    });
    Some(ListedVm {
        uuid: value("UUID")?.parse().ok()?,
        accessible,
        settings_file: value("Config file")?.to_owned(),
    })
}

/// A hard disk that VirtualBox knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDisk {
    pub uuid: Uuid,
    /// Of the disk that this one holds the differences to.
    pub parent: Option<Uuid>,
    pub location: String,
    pub size_mib: u64,
    /// The file is there and can be read.
    pub accessible: bool,
    pub attached: bool,
}

/// Reads `list --long hdds`.
pub fn disks(text: &str) -> Vec<ListedDisk> {
    records(text)
        .filter_map(|record| {
            Some(ListedDisk {
                uuid: record.get("UUID")?.parse().ok()?,
                parent: record.get("Parent UUID").and_then(|uuid| uuid.parse().ok()),
                location: (*record.get("Location")?).to_owned(),
                size_mib: record
                    .get("Capacity")
                    .and_then(|size| size.split(' ').next()?.parse().ok())
                    .unwrap_or(0),
                accessible: record
                    .get("State")
                    .is_none_or(|state| *state != "inaccessible"),
                attached: record.contains_key("In use by VMs"),
            })
        })
        .collect()
}

/// An adapter of the host that a VM's can be bridged with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAdapter {
    pub name: String,
    pub address: Option<IpAddr>,
    pub up: bool,
}

/// Reads `list bridgedifs` and `list hostonlyifs`.
pub fn host_adapters(text: &str) -> Vec<HostAdapter> {
    records(text)
        .filter_map(|record| {
            let address: Option<IpAddr> = record.get("IPAddress").and_then(|it| it.parse().ok());
            Some(HostAdapter {
                name: (*record.get("Name")?).to_owned(),
                address: address.filter(|address| !address.is_unspecified()),
                up: record.get("Status").is_some_and(|status| *status == "Up"),
            })
        })
        .collect()
}

/// The identifiers in `list ostypes`. 7.1 put each with its description on one line, `ID / Description: Debian_64 -- Debian (64-bit)`.
pub fn os_types(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let id = match line.strip_prefix("ID / Description:") {
                Some(both) => both.split(" -- ").next()?,
                None => line.strip_prefix("ID:")?,
            };
            Some(id.trim().to_owned())
        })
        .collect()
}

/// The lines `key: value` of `list systemproperties` and `list hostinfo`; of a repeated key the first.
pub fn properties(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(':') {
            found
                .entry(key.trim().to_owned())
                .or_insert_with(|| value.trim().to_owned());
        }
    }
    found
}

/// Records of `Key: value` lines, parted by empty lines. A line that begins with white space continues another and is passed over.
pub(crate) fn records(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    let mut records = vec![BTreeMap::new()];
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        if line.trim().is_empty() {
            records.push(BTreeMap::new());
        } else if !line.starts_with([' ', '\t'])
            && let Some((key, value)) = line.split_once(':')
            && let Some(record) = records.last_mut()
        {
            record.entry(key).or_insert(value.trim());
        }
    }
    records.into_iter().filter(|record| !record.is_empty())
}

/// `showvminfo --machinereadable` of one VM. Keys that VirtualBox prints once per adapter without its number (`Forwarding(0)`,
/// `mtu`) stand under the number of the adapter that they follow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineReadable {
    pub values: BTreeMap<String, String>,
    /// Port forwards by adapter, as printed: `name,tcp,host address,host port,guest address,guest port`.
    pub forwards: BTreeMap<u32, Vec<String>>,
}

impl MachineReadable {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    pub fn state(&self) -> Option<VmState> {
        self.get("VMState").map(VmState::from_words)
    }
}

/// Reads `showvminfo --machinereadable`.
pub fn machine_readable(text: &str) -> MachineReadable {
    let mut info = MachineReadable::default();
    let mut adapter = 0;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_end_matches('\r');
        let Some((key, raw)) = split_assignment(line) else {
            continue;
        };
        // A description runs over several lines until its closing quote.
        let mut raw = raw.to_owned();
        while raw.starts_with('"') && !closes(&raw) {
            let Some(next) = lines.next() else { break };
            raw.push('\n');
            raw.push_str(next.trim_end_matches('\r'));
        }
        let value = unquote(&raw);
        if let Some(number) = key.strip_prefix("nic").and_then(|n| n.parse().ok()) {
            adapter = number;
        }
        if key.starts_with("Forwarding(") {
            info.forwards.entry(adapter).or_default().push(value);
        } else {
            info.values.entry(key.to_owned()).or_insert(value);
        }
    }
    info
}

/// `key=value`; a key with spaces is quoted (`"SATA Controller-0-0"="none"`).
fn split_assignment(line: &str) -> Option<(&str, &str)> {
    if let Some(rest) = line.strip_prefix('"') {
        rest.split_once("\"=")
    } else {
        line.split_once('=')
    }
}

fn closes(raw: &str) -> bool {
    raw.len() > 1 && raw.ends_with('"') && !raw.ends_with("\\\"") || raw.ends_with("\\\\\"")
}

fn unquote(raw: &str) -> String {
    let Some(inner) = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) else {
        return raw.to_owned();
    };
    // Only some strings are escaped; a Windows path is printed raw. `\"` and `\\` cannot stand in a raw one next to each other.
    inner.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Addresses in `guestproperty enumerate VM /VirtualBox/GuestInfo/Net/*`, in the order printed.
///
/// Up to 7.0 a line is `Name: /VirtualBox/..., value: 10.0.2.15, timestamp: ...`, from 7.0 on `/VirtualBox/... = '10.0.2.15' @ ...`.
pub fn guest_addresses(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter(|line| line.contains("/V4/IP"))
        .filter_map(|line| {
            let value = match line.split_once("value:") {
                Some((_, rest)) => rest.split(',').next()?,
                None => line.split('\'').nth(1)?,
            };
            value.trim().parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMS: &str = include_str!("../fixtures/7.2.22/list-long-vms.txt");

    #[test]
    fn vms_are_told_from_what_looks_like_one_in_a_description() {
        let found = vms(VMS);
        let names: Vec<Option<&str>> = found
            .iter()
            .map(|vm| Some(vm.accessible.as_ref()?.name.as_str()))
            .collect();
        assert_eq!(names, [Some("a-01"), Some("web 01"), None]);
        assert_eq!(
            found[0],
            ListedVm {
                uuid: "4f8829de-667a-4c44-98a8-5979c7ea9a36".parse().unwrap(),
                accessible: Some(Accessible {
                    name: "a-01".to_owned(),
                    state: VmState::PoweredOff
                }),
                settings_file: "/root/VirtualBox VMs/a-01/a-01.vbox".to_owned(),
            }
        );
        assert_eq!(
            found[2].settings_file,
            "/root/VirtualBox VMs/gone/gone.vbox"
        );
        assert_eq!(vms(""), []);
    }

    #[test]
    fn a_vm_of_6_1_has_no_line_about_encryption() {
        let text = "Name:                        a\r\nGroups:                      /\r\nGuest OS:                    Debian (64-bit)\r\n\
                    UUID:                        4f8829de-667a-4c44-98a8-5979c7ea9a36\r\nConfig file:                 C:\\VMs\\a\\a.vbox\r\n\
                    State:                       running (since 2023-01-01T00:00:00.000000000)\r\n";
        let found = vms(text);
        assert_eq!(found[0].settings_file, r"C:\VMs\a\a.vbox");
        assert_eq!(
            found[0].accessible.as_ref().unwrap().state,
            VmState::Running
        );
    }

    #[test]
    fn disks_have_their_size_and_their_parent() {
        let found = disks(include_str!("../fixtures/7.2.22/list-long-hdds.txt"));
        assert_eq!(found[0].location, "/root/.ondol/images/base.vdi");
        assert_eq!((found[0].size_mib, found[0].attached), (100, false));
        assert_eq!(found[1].location, "/root/VirtualBox VMs/a-01/data.vdi");
        assert_eq!((found[1].size_mib, found[1].attached), (128, true));
        assert_eq!(found[1].parent, None);
        let child = "UUID: 795222cc-0294-4211-8d28-8256391189c5\nParent UUID:    0c1eef6d-ef88-43d7-bbf3-e94456f6cde6\n\
                     State: inaccessible\nLocation: C:\\a: b.vdi\n";
        let child = &disks(child)[0];
        assert_eq!(
            (child.parent.is_some(), child.accessible, &*child.location),
            (true, false, r"C:\a: b.vdi")
        );
    }

    #[test]
    fn the_hosts_adapters_are_listed_with_their_state() {
        let found = host_adapters(include_str!("../fixtures/7.2.22/list-bridgedifs.txt"));
        let shown: Vec<(&str, bool, bool)> = found
            .iter()
            .map(|it| (it.name.as_str(), it.address.is_some(), it.up))
            .collect();
        assert_eq!(
            shown,
            [
                ("eth0", true, true),
                ("ifb0", false, false),
                ("ifb1", false, false)
            ]
        );
        let windows = "Name:            Intel(R) Ethernet Connection (7) I219-V\r\nIPAddress:       10.0.0.5\r\nStatus:          Up\r\n\r\n";
        assert_eq!(
            host_adapters(windows)[0].name,
            "Intel(R) Ethernet Connection (7) I219-V"
        );
    }

    #[test]
    fn systems_networks_and_properties_are_read_in_both_layouts() {
        let types = os_types(include_str!("../fixtures/7.2.22/list-ostypes.txt"));
        assert!(types.len() > 150, "{}", types.len());
        for known in ["Debian_64", "Ubuntu22_LTS_64", "Windows11_64"] {
            assert!(types.iter().any(|it| it == known), "{known}");
        }
        let old = "ID:          Ubuntu_64\nDescription: Ubuntu (64-bit)\nFamily ID:   Linux\n";
        assert_eq!(os_types(old), ["Ubuntu_64"]);
        let properties = properties(include_str!("../fixtures/7.2.22/list-systemproperties.txt"));
        assert_eq!(properties["Default machine folder"], "/root/VirtualBox VMs");
        assert_eq!(properties["Maximum guest CPU count"], "64");
    }

    #[test]
    fn machine_readable_values_are_unquoted_and_forwards_keep_their_adapter() {
        let info = machine_readable(include_str!("../fixtures/7.2.22/showvminfo.txt"));
        for (key, value) in [
            ("name", "a-01"),
            ("memory", "600"),
            ("firmware", "EFI"),
            ("ondol-1-0", "/root/VirtualBox VMs/a-01/data.vdi"),
            ("bridgeadapter1", "nope0"),
            ("description", "two lines\n\nName:            fake\nUUID: x"),
            ("GuestMemoryBalloon", "0"),
        ] {
            assert_eq!(info.get(key), Some(value), "{key}");
        }
        assert_eq!(
            info.forwards,
            BTreeMap::from([(2, vec!["ssh,tcp,127.0.0.1,2222,,22".to_owned()])])
        );
        assert_eq!(info.state(), Some(VmState::PoweredOff));
        let quoted = machine_readable("description=\"he said \\\"hi\\\"\"\r\nmemory=1\r\n");
        assert_eq!(quoted.get("description"), Some("he said \"hi\""));
        assert_eq!(quoted.get("memory"), Some("1"));
    }

    #[test]
    fn a_guests_addresses_are_found_in_both_layouts() {
        let old = "Name: /VirtualBox/GuestInfo/Net/0/V4/IP, value: 10.0.2.15, timestamp: 1, flags:\nName: /VirtualBox/GuestInfo/Net/0/MAC, value: 08, timestamp: 1, flags:\n";
        let new = "/VirtualBox/GuestInfo/Net/0/V4/IP = '10.0.2.15' @ 2024-01-01T00:00:00.000Z\n";
        for text in [old, new] {
            assert_eq!(
                guest_addresses(text),
                ["10.0.2.15".parse::<IpAddr>().unwrap()]
            );
        }
        assert!(guest_addresses("No properties found.\n").is_empty());
    }
}
