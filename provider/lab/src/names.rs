//! Names: which are legal, and the name of everything that a VM makes on the machine, derived from lab and VM alone.
//!
//! Because every name can be computed, cleaning up after a crash needs no records. Nothing here touches the machine.

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

/// Linux's IFNAMSIZ without the final NUL.
const INTERFACE_MAX: usize = 15;
/// systemd takes machine names up to the kernel's HOST_NAME_MAX.
const MACHINE_MAX: usize = 64;

pub(crate) const BRIDGE: &str = "ondol0";

/// `[a-z][a-z0-9-]{0,15}`: it is part of names that the kernel keeps short.
pub(crate) fn check_lab(name: &str) -> Result<(), String> {
    let legal = name.len() <= 16
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    if legal {
        Ok(())
    } else {
        Err("a lab's name is a lower-case letter and up to 15 more, digits or hyphens".to_owned())
    }
}

/// A DNS label (RFC 1123) in lower case.
pub(crate) fn check_label(name: &str) -> Result<(), String> {
    let legal = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if legal {
        Ok(())
    } else {
        Err(format!(
            "\"{name}\" is not a host name: 1 to 63 lower-case letters, digits or hyphens, no hyphen at the ends"
        ))
    }
}

/// Keys become file names and device names.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    let legal = (1..=32).contains(&key.len())
        && key
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
    if legal {
        Ok(())
    } else {
        Err("a key is 1 to 32 letters, digits, hyphens or underscores".to_owned())
    }
}

pub(crate) fn check_interface(name: &str) -> Result<(), String> {
    let legal = (1..=INTERFACE_MAX).contains(&name.len())
        && name != "lo"
        && name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && name.starts_with(|c: char| c.is_ascii_alphabetic());
    if legal {
        Ok(())
    } else {
        Err(format!(
            "\"{name}\" is not an interface's name: a letter and up to 14 letters, digits, dots, hyphens or underscores"
        ))
    }
}

/// A unicast address, six lower-case pairs.
pub(crate) fn check_mac(mac: &str) -> Result<(), String> {
    let pairs: Vec<&str> = mac.split(':').collect();
    let octets: Option<Vec<u8>> = pairs
        .iter()
        .map(|pair| {
            if pair.len() == 2 {
                u8::from_str_radix(pair, 16).ok()
            } else {
                None
            }
        })
        .collect();
    match octets {
        Some(octets) if octets.len() == 6 && mac == mac.to_ascii_lowercase() => {
            if octets[0] & 1 == 0 {
                Ok(())
            } else {
                Err(format!("{mac} is a multicast address"))
            }
        }
        _ => Err(format!(
            "\"{mac}\" is not six lower-case pairs of hexadecimal digits joined by colons"
        )),
    }
}

/// What `useradd` accepts on Debian and Ubuntu.
pub(crate) fn check_user(name: &str) -> Result<(), String> {
    let legal = (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'));
    if legal {
        Ok(())
    } else {
        Err(format!(
            "\"{name}\" is not a user's name: a lower-case letter and up to 31 lower-case letters, digits, hyphens or underscores"
        ))
    }
}

/// The names of what one VM has on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmNames {
    pub lab_netns: String,
    pub netns: String,
    pub machine: String,
    /// Below the root of each cgroup hierarchy.
    pub cgroup: String,
    lab: String,
    vm: String,
}

impl VmNames {
    pub(crate) fn new(lab: &str, vm: &str) -> Self {
        let lab_netns = lab_netns(lab);
        // A lab's name holds no dot, so that no two pairs of lab and VM share a name.
        let full = format!("{lab_netns}.{vm}");
        let machine = if full.len() <= MACHINE_MAX {
            full.clone()
        } else {
            let digest = hex(&digest(&[lab, vm])[..5]);
            let room = MACHINE_MAX - lab_netns.len() - digest.len() - 2;
            format!("{lab_netns}.{}-{digest}", vm[..room].trim_end_matches('-'))
        };
        Self {
            lab_netns,
            netns: full,
            machine,
            cgroup: format!("ondol/{lab}/{vm}"),
            lab: lab.to_owned(),
            vm: vm.to_owned(),
        }
    }

    /// The end of an interface's cable that is plugged into the lab's bridge.
    pub(crate) fn port(&self, interface: &str) -> String {
        format!(
            "v{}",
            hex(&digest(&["port", &self.lab, &self.vm, interface])[..6])
        )
    }

    /// A VirtualBox prefix, so that an inventory looks the same with both engines.
    pub(crate) fn mac(&self, interface: &str) -> String {
        let d = digest(&["mac", &self.lab, &self.vm, interface]);
        format!("08:00:27:{:02x}:{:02x}:{:02x}", d[0], d[1], d[2])
    }
}

pub(crate) fn lab_netns(lab: &str) -> String {
    format!("ondol-{lab}")
}

/// Candidates for the first-boot address of the VM with this MAC, in order of preference. RFC 3927 reserves the first and the last 256
/// addresses of 169.254.0.0/16; the lab's gateway is among the reserved.
pub(crate) fn first_boot_candidates(mac: &str) -> impl Iterator<Item = Ipv4Addr> + use<> {
    const USABLE: u32 = 254 * 256;
    let d = digest(&["first-boot", mac]);
    let start = u32::from_be_bytes([d[0], d[1], d[2], d[3]]) % USABLE;
    (0..USABLE).map(move |step| {
        let offset = (start + step) % USABLE;
        let [_, _, high, low] = (offset + 256).to_be_bytes();
        Ipv4Addr::new(169, 254, high, low)
    })
}

fn digest(parts: &[&str]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().to_vec()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_legal_and_never_shared_between_vms_and_labs() {
        let long = "a".repeat(63);
        let pairs = [
            ("ondol", "db-01"),
            ("ondol-db", "01"),
            ("ondol", "db"),
            ("abcdefghijklmnop", &long),
            ("b", &long),
        ];
        let mut seen = BTreeSet::new();
        for (lab, vm) in pairs {
            let names = VmNames::new(lab, vm);
            let port = names.port("enp0s3");
            assert!(names.machine.len() <= MACHINE_MAX, "{}", names.machine);
            assert!(check_interface(&port).is_ok(), "{port}");
            assert!(check_mac(&names.mac("enp0s3")).is_ok());
            for name in [
                names.machine.clone(),
                names.netns.clone() + "/",
                port,
                names.mac("enp0s3"),
                names.cgroup.clone(),
            ] {
                assert!(seen.insert(name.clone()), "{name} is used twice");
            }
        }
        let names = VmNames::new("ondol", "db-01");
        assert_eq!(names.machine, "ondol-ondol.db-01");
        assert_ne!(names.port("enp0s3"), names.port("enp0s8"));
    }

    #[test]
    fn first_boot_addresses_stay_within_what_hosts_may_use_and_none_is_left_out() {
        let all: BTreeSet<Ipv4Addr> = first_boot_candidates("08:00:27:00:00:01").collect();
        assert_eq!(all.len(), 254 * 256);
        assert_eq!(all.first(), Some(&Ipv4Addr::new(169, 254, 1, 0)));
        assert_eq!(all.last(), Some(&Ipv4Addr::new(169, 254, 254, 255)));
        let first = |mac| first_boot_candidates(mac).next();
        assert_eq!(first("08:00:27:00:00:01"), first("08:00:27:00:00:01"));
        assert_ne!(first("08:00:27:00:00:01"), first("08:00:27:00:00:02"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "Ondol", "1lab", "a_b", "abcdefghijklmnopq", "../x"] {
            assert!(check_lab(bad).is_err(), "{bad}");
        }
        for bad in ["", "-a", "a-", "a.b", "A", ".lab", "a/b"] {
            assert!(check_label(bad).is_err(), "{bad}");
        }
        for bad in ["", "lo", "0abc", "sixteen-letters-", "a b"] {
            assert!(check_interface(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "08:00:27:00:00",
            "08:00:27:00:00:zz",
            "08-00-27-00-00-01",
            "08:00:27:AA:00:01",
            "01:00:00:00:00:00",
        ] {
            assert!(check_mac(bad).is_err(), "{bad}");
        }
        for good in ["postgresql-db-01", "a", "0a"] {
            assert!(check_label(good).is_ok(), "{good}");
        }
    }
}
