//! A host's own networks: what they are wished to be, what VBoxManage says they are, and what lies between. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::answer::records;
use crate::command::{NatChange, NetworkAct, Protocol};
use crate::error::{Error, Result};

/// A network behind a router of VirtualBox's own, which several VMs share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatNetwork {
    pub name: String,
    /// `10.0.5.0/24`.
    pub cidr: String,
    pub dhcp: bool,
    pub ipv6: bool,
    pub enabled: bool,
    /// Ports of the host that lead to a guest, by name.
    pub rules: BTreeMap<String, NatRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatRule {
    pub protocol: Protocol,
    /// `None` listens on every address of the host.
    pub host_address: Option<Ipv4Addr>,
    pub host_port: u16,
    pub guest_address: Ipv4Addr,
    pub guest_port: u16,
}

/// A network between the host and its VMs, of which nobody else knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOnlyNetwork {
    /// As VirtualBox named it; what VMs' adapters lead to.
    pub name: String,
    /// The host's own.
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    pub dhcp: Option<DhcpServer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpServer {
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    pub lower: Ipv4Addr,
    pub upper: Ipv4Addr,
}

/// Reads `list --long natnets`. 6.1 and early 7.0 name some fields otherwise.
pub fn nat_networks(text: &str) -> Vec<NatNetwork> {
    let mut found: Vec<NatNetwork> = Vec::new();
    let mut in_rules = false;
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        if line.starts_with([' ', '\t']) {
            if let Some(network) = found.last_mut().filter(|_| in_rules)
                && let Some((name, rule)) = rule(line.trim())
            {
                network.rules.insert(name, rule);
            }
            continue;
        }
        in_rules = line.starts_with("Port-forwarding (ipv4)");
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if matches!(key, "Name" | "NetworkName") {
            found.push(NatNetwork {
                name: value.to_owned(),
                cidr: String::new(),
                dhcp: false,
                ipv6: false,
                // A short listing does not say.
                enabled: true,
                rules: BTreeMap::new(),
            });
        }
        let Some(network) = found.last_mut() else {
            continue;
        };
        match key {
            "Network" => network.cidr = value.to_owned(),
            "DHCP Server" | "DHCP Enabled" => network.dhcp = value == "Yes",
            "IPv6" | "IPv6 Enabled" => network.ipv6 = value == "Yes",
            "Enabled" => network.enabled = value == "Yes",
            _ => {}
        }
    }
    found
}

/// `ssh:tcp:[127.0.0.1]:2222:[10.0.5.10]:22`.
fn rule(text: &str) -> Option<(String, NatRule)> {
    let mut parts = text.rsplitn(6, ':');
    let guest_port = parts.next()?.parse().ok()?;
    let bare = |part: &str| part.trim_matches(['[', ']']).to_owned();
    let guest_address = bare(parts.next()?).parse().ok()?;
    let host_port = parts.next()?.parse().ok()?;
    let host_address = bare(parts.next()?).parse().ok();
    let protocol = Protocol::from_word(parts.next()?)?;
    let rule = NatRule {
        protocol,
        host_address,
        host_port,
        guest_address,
        guest_port,
    };
    Some((parts.next()?.to_owned(), rule))
}

/// What turns the NAT network that is found, if one is, into the one that is wished.
pub fn plan_nat(current: Option<&NatNetwork>, wanted: &NatNetwork) -> Vec<NetworkAct> {
    let Some(current) = current else {
        return vec![NetworkAct::AddNat(wanted.clone())];
    };
    let mut changes = Vec::new();
    if current.cidr != wanted.cidr {
        changes.push(NatChange::Cidr(wanted.cidr.clone()));
    }
    if current.dhcp != wanted.dhcp {
        changes.push(NatChange::Dhcp(wanted.dhcp));
    }
    if current.ipv6 != wanted.ipv6 {
        changes.push(NatChange::Ipv6(wanted.ipv6));
    }
    if current.enabled != wanted.enabled {
        changes.push(NatChange::Enabled(wanted.enabled));
    }
    // A rule is changed by making it anew, and its port must be free for that.
    for (name, rule) in &current.rules {
        if wanted.rules.get(name) != Some(rule) {
            changes.push(NatChange::DeleteRule(name.clone()));
        }
    }
    for (name, rule) in &wanted.rules {
        if current.rules.get(name) != Some(rule) {
            changes.push(NatChange::AddRule(name.clone(), rule.clone()));
        }
    }
    if changes.is_empty() {
        return Vec::new();
    }
    vec![NetworkAct::ModifyNat {
        name: wanted.name.clone(),
        changes,
    }]
}

/// Reads `list hostonlyifs` beside `list dhcpservers`.
pub fn host_only_adapters(adapters: &str, servers: &str) -> Vec<HostOnlyNetwork> {
    let servers: BTreeMap<String, DhcpServer> = records(servers)
        .filter(|record| record.get("Enabled").is_none_or(|it| *it == "Yes"))
        .filter_map(|record| {
            let server = DhcpServer {
                address: record.get("Dhcpd IP").or(record.get("IP"))?.parse().ok()?,
                netmask: record.get("NetworkMask")?.parse().ok()?,
                lower: record.get("LowerIPAddress")?.parse().ok()?,
                upper: record.get("UpperIPAddress")?.parse().ok()?,
            };
            Some(((*record.get("NetworkName")?).to_owned(), server))
        })
        .collect();
    records(adapters)
        .filter_map(|record| {
            let unset = Ipv4Addr::UNSPECIFIED;
            let address = |key: &str| {
                record
                    .get(key)
                    .and_then(|it| it.parse().ok())
                    .unwrap_or(unset)
            };
            let network = record.get("VBoxNetworkName")?;
            Some(HostOnlyNetwork {
                name: (*record.get("Name")?).to_owned(),
                address: address("IPAddress"),
                netmask: address("NetworkMask"),
                dhcp: servers.get(*network).cloned(),
            })
        })
        .collect()
}

/// Reads `list hostonlynets`, of macOS: vmnet gives the host the lowest address and serves the others by DHCP. A record has an empty line
/// in it.
pub fn vmnets(text: &str) -> Vec<HostOnlyNetwork> {
    let mut found: Vec<BTreeMap<&str, &str>> = Vec::new();
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        if key == "Name" {
            found.push(BTreeMap::new());
        }
        if let Some(record) = found.last_mut() {
            record.insert(key, value.trim());
        }
    }
    found
        .into_iter()
        .filter_map(|record| {
            let address = |key: &str| record.get(key)?.parse::<Ipv4Addr>().ok();
            let (lower, upper) = (address("LowerIP")?, address("UpperIP")?);
            let netmask = address("NetworkMask")?;
            Some(HostOnlyNetwork {
                name: (*record.get("Name")?).to_owned(),
                address: lower,
                netmask,
                dhcp: Some(DhcpServer {
                    address: lower,
                    netmask,
                    lower,
                    upper,
                }),
            })
        })
        .collect()
}

/// What turns a host-only adapter, found or just made, into the one that is wished.
pub fn plan_adapter(current: &HostOnlyNetwork, wanted: &HostOnlyNetwork) -> Vec<NetworkAct> {
    let name = &current.name;
    let mut acts = Vec::new();
    if (current.address, current.netmask) != (wanted.address, wanted.netmask) {
        acts.push(NetworkAct::ConfigureAdapter {
            name: name.clone(),
            address: wanted.address,
            netmask: wanted.netmask,
        });
    }
    match (&current.dhcp, &wanted.dhcp) {
        (have, Some(want)) if have.as_ref() != Some(want) => acts.push(NetworkAct::SetDhcp {
            adapter: name.clone(),
            server: want.clone(),
            exists: have.is_some(),
        }),
        (Some(_), None) => acts.push(NetworkAct::RemoveDhcp(name.clone())),
        _ => {}
    }
    acts
}

/// What turns a vmnet network, if there is one, into the one that is wished. vmnet has no host address or DHCP server of its own.
pub fn plan_vmnet(
    current: Option<&HostOnlyNetwork>,
    wanted: &HostOnlyNetwork,
) -> Result<Vec<NetworkAct>> {
    let range = wanted
        .dhcp
        .as_ref()
        .filter(|server| server.lower == wanted.address && server.address == wanted.address);
    let Some(range) = range else {
        return Err(Error::invalid(
            &["dhcp"],
            "on macOS a host-only network always has DHCP, and its lowest address is the host's: leave server_address out, and make lower_address the same as address",
        ));
    };
    if current == Some(wanted) {
        return Ok(Vec::new());
    }
    Ok(vec![NetworkAct::SetVmnet {
        name: wanted.name.clone(),
        netmask: wanted.netmask,
        lower: range.lower,
        upper: range.upper,
        exists: current.is_some(),
    }])
}

/// The name in `Interface 'vboxnet0' was successfully created`.
pub fn created_adapter(answer: &str) -> Option<&str> {
    let line = answer
        .lines()
        .find(|line| line.contains("was successfully created"))?;
    let start = line.find('\'')? + 1;
    line.get(start..line.rfind('\'')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn rule(host_port: u16) -> NatRule {
        NatRule {
            protocol: Protocol::Tcp,
            host_address: Some(address("127.0.0.1")),
            host_port,
            guest_address: address("10.0.5.10"),
            guest_port: 22,
        }
    }

    fn site() -> NatNetwork {
        NatNetwork {
            name: "si te".to_owned(),
            cidr: "10.0.5.0/24".to_owned(),
            dhcp: true,
            ipv6: false,
            enabled: true,
            rules: BTreeMap::from([
                ("ssh".to_owned(), rule(2222)),
                (
                    "w".to_owned(),
                    NatRule {
                        protocol: Protocol::Udp,
                        host_address: None,
                        guest_port: 53,
                        ..rule(53)
                    },
                ),
            ]),
        }
    }

    #[test]
    fn nat_networks_are_read_with_their_rules() {
        let found = nat_networks(include_str!("../fixtures/7.2.22/list-long-natnets.txt"));
        let off = NatNetwork {
            name: "off".to_owned(),
            cidr: "10.0.8.0/24".to_owned(),
            enabled: false,
            rules: BTreeMap::new(),
            ..site()
        };
        assert_eq!(found, [site(), off]);
        let short = nat_networks(include_str!("../fixtures/7.2.22/list-natnets.txt"));
        assert_eq!((short.len(), short[0].name.as_str()), (1, "site"));
        let old = "NetworkName:    old\nIP:             10.0.2.1\nNetwork:        10.0.2.0/24\nIPv6 Enabled:   No\nDHCP Enabled:   Yes\nEnabled:        Yes\n";
        let found = nat_networks(old);
        assert_eq!(
            (
                found[0].name.as_str(),
                found[0].cidr.as_str(),
                found[0].dhcp
            ),
            ("old", "10.0.2.0/24", true)
        );
    }

    #[test]
    fn a_nat_network_is_brought_to_what_is_wished() {
        assert_eq!(plan_nat(None, &site()), [NetworkAct::AddNat(site())]);
        assert_eq!(plan_nat(Some(&site()), &site()), []);
        let wanted = NatNetwork {
            cidr: "10.0.6.0/24".to_owned(),
            dhcp: false,
            rules: BTreeMap::from([("ssh".to_owned(), rule(2223))]),
            ..site()
        };
        let changes = vec![
            NatChange::Cidr("10.0.6.0/24".to_owned()),
            NatChange::Dhcp(false),
            NatChange::DeleteRule("ssh".to_owned()),
            NatChange::DeleteRule("w".to_owned()),
            NatChange::AddRule("ssh".to_owned(), rule(2223)),
        ];
        let name = "si te".to_owned();
        assert_eq!(
            plan_nat(Some(&site()), &wanted),
            [NetworkAct::ModifyNat { name, changes }]
        );
    }

    fn server() -> DhcpServer {
        DhcpServer {
            address: address("192.168.56.100"),
            netmask: address("255.255.255.0"),
            lower: address("192.168.56.101"),
            upper: address("192.168.56.254"),
        }
    }

    fn adapter(dhcp: Option<DhcpServer>) -> HostOnlyNetwork {
        HostOnlyNetwork {
            name: "vboxnet0".to_owned(),
            address: address("192.168.56.1"),
            netmask: address("255.255.255.0"),
            dhcp,
        }
    }

    /// The adapter is written by hand, as none can be made without the kernel driver. The servers are captured.
    const ADAPTER: &str = "Name:            vboxnet0\nGUID:            786f6276-656e-4074-8000-0a0027000000\nDHCP:            Disabled\nIPAddress:       192.168.56.1\n\
        NetworkMask:     255.255.255.0\nHardwareAddress: 0a:00:27:00:00:00\nMediumType:      Ethernet\nStatus:          Down\nVBoxNetworkName: HostInterfaceNetworking-vboxnet0\n";

    #[test]
    fn host_only_adapters_are_read_with_their_dhcp_servers() {
        let servers = include_str!("../fixtures/7.2.22/list-dhcpservers.txt");
        assert_eq!(
            host_only_adapters(ADAPTER, servers),
            [adapter(Some(server()))]
        );
        assert_eq!(host_only_adapters(ADAPTER, ""), [adapter(None)]);
        let created = "0%...10%...100%\nInterface 'vboxnet0' was successfully created\n";
        assert_eq!(created_adapter(created), Some("vboxnet0"));
        assert_eq!(created_adapter("0%..."), None);
    }

    #[test]
    fn a_host_only_adapter_is_brought_to_what_is_wished() {
        let acts = |current: &HostOnlyNetwork, wanted: &HostOnlyNetwork| -> Vec<String> {
            let acts = plan_adapter(current, wanted);
            acts.iter().map(|act| format!("{act:?}")).collect()
        };
        let (plain, served) = (adapter(None), adapter(Some(server())));
        assert_eq!(acts(&served, &served), [""; 0]);
        assert!(acts(&plain, &served)[0].contains("exists: false"));
        assert_eq!(acts(&served, &plain), ["RemoveDhcp(\"vboxnet0\")"]);
        let moved = HostOnlyNetwork {
            address: address("192.168.57.1"),
            ..plain.clone()
        };
        assert!(acts(&plain, &moved)[0].starts_with("ConfigureAdapter"));
    }

    #[test]
    fn a_network_of_macos_is_read_and_planned() {
        let text = "Name:            lan\nGUID:            ce4e8ba8-0000-4000-8000-000000000000\n\nState:           Enabled\nNetworkMask:     255.255.255.0\n\
            LowerIP:         192.168.60.1\nUpperIP:         192.168.60.99\nVBoxNetworkName: hostonly-lan\n\n";
        let range = DhcpServer {
            address: address("192.168.60.1"),
            netmask: address("255.255.255.0"),
            lower: address("192.168.60.1"),
            upper: address("192.168.60.99"),
        };
        let lan = HostOnlyNetwork {
            name: "lan".to_owned(),
            address: range.lower,
            netmask: range.netmask,
            dhcp: Some(range),
        };
        assert_eq!(vmnets(text), std::slice::from_ref(&lan));
        assert_eq!(plan_vmnet(Some(&lan), &lan), Ok(vec![]));
        assert_eq!(plan_vmnet(None, &lan).unwrap().len(), 1);
        let without = HostOnlyNetwork { dhcp: None, ..lan };
        assert!(matches!(
            plan_vmnet(None, &without),
            Err(Error::Invalid { .. })
        ));
    }
}
