//! Acts on a host's own networks, NAT networks and host-only ones, which its VMs share.

use std::net::Ipv4Addr;

use super::{Protocol, words};
use crate::network::{DhcpServer, NatNetwork, NatRule};

/// What is done with a network of the host. Host-only networks are adapters of the host (`hostonlyif`), but where macOS's vmnet carries
/// them (`hostonlynet`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkAct {
    AddNat(NatNetwork),
    ModifyNat {
        name: String,
        changes: Vec<NatChange>,
    },
    RemoveNat(String),
    /// VirtualBox chooses the name.
    CreateAdapter,
    ConfigureAdapter {
        name: String,
        address: Ipv4Addr,
        netmask: Ipv4Addr,
    },
    RemoveAdapter(String),
    /// `exists`: it is modified instead.
    SetDhcp {
        adapter: String,
        server: DhcpServer,
        exists: bool,
    },
    RemoveDhcp(String),
    /// `exists`: it is modified instead.
    SetVmnet {
        name: String,
        netmask: Ipv4Addr,
        lower: Ipv4Addr,
        upper: Ipv4Addr,
        exists: bool,
    },
    RemoveVmnet(String),
}

/// What `natnetwork modify` changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatChange {
    Cidr(String),
    Dhcp(bool),
    Ipv6(bool),
    Enabled(bool),
    AddRule(String, NatRule),
    DeleteRule(String),
}

impl NatChange {
    fn render(&self, out: &mut Vec<String>) {
        let on = |value: &bool| if *value { "on" } else { "off" };
        match self {
            Self::Cidr(cidr) => out.extend(words(["--network", cidr])),
            Self::Dhcp(value) => out.extend(words(["--dhcp", on(value)])),
            Self::Ipv6(value) => out.extend(words(["--ipv6", on(value)])),
            Self::Enabled(true) => out.push("--enable".to_owned()),
            Self::Enabled(false) => out.push("--disable".to_owned()),
            Self::AddRule(name, rule) => {
                out.extend(words(["--port-forward-4", &rule_text(name, rule)]));
            }
            Self::DeleteRule(name) => out.extend(words(["--port-forward-4", "delete", name])),
        }
    }
}

/// `name:tcp:[host address]:host port:[guest address]:guest port`.
fn rule_text(name: &str, rule: &NatRule) -> String {
    let host = rule.host_address.map(|it| it.to_string());
    format!(
        "{name}:{}:[{}]:{}:[{}]:{}",
        match rule.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
        host.unwrap_or_default(),
        rule.host_port,
        rule.guest_address,
        rule.guest_port
    )
}

impl NetworkAct {
    pub(super) fn argv(&self) -> Vec<String> {
        let exists_or_not = |exists: &bool| if *exists { "modify" } else { "add" };
        match self {
            Self::AddNat(network) => {
                let mut argv = words(["natnetwork", "add", "--netname", &network.name]);
                let settings = [
                    NatChange::Cidr(network.cidr.clone()),
                    NatChange::Dhcp(network.dhcp),
                    NatChange::Ipv6(network.ipv6),
                    NatChange::Enabled(network.enabled),
                ];
                let rules = network.rules.iter();
                let rules =
                    rules.map(|(name, rule)| NatChange::AddRule(name.clone(), rule.clone()));
                for change in settings.into_iter().chain(rules) {
                    change.render(&mut argv);
                }
                argv
            }
            Self::ModifyNat { name, changes } => {
                let mut argv = words(["natnetwork", "modify", "--netname", name]);
                for change in changes {
                    change.render(&mut argv);
                }
                argv
            }
            Self::RemoveNat(name) => words(["natnetwork", "remove", "--netname", name]),
            Self::CreateAdapter => words(["hostonlyif", "create"]),
            Self::ConfigureAdapter {
                name,
                address,
                netmask,
            } => words([
                "hostonlyif",
                "ipconfig",
                name,
                "--ip",
                &address.to_string(),
                "--netmask",
                &netmask.to_string(),
            ]),
            Self::RemoveAdapter(name) => words(["hostonlyif", "remove", name]),
            Self::SetDhcp {
                adapter,
                server,
                exists,
            } => words([
                "dhcpserver",
                exists_or_not(exists),
                &format!("--interface={adapter}"),
                &format!("--server-ip={}", server.address),
                &format!("--netmask={}", server.netmask),
                &format!("--lower-ip={}", server.lower),
                &format!("--upper-ip={}", server.upper),
                "--enable",
            ]),
            Self::RemoveDhcp(adapter) => {
                words(["dhcpserver", "remove", &format!("--interface={adapter}")])
            }
            Self::SetVmnet {
                name,
                netmask,
                lower,
                upper,
                exists,
            } => words([
                "hostonlynet",
                exists_or_not(exists),
                &format!("--name={name}"),
                &format!("--netmask={netmask}"),
                &format!("--lower-ip={lower}"),
                &format!("--upper-ip={upper}"),
                "--enable",
            ]),
            Self::RemoveVmnet(name) => words(["hostonlynet", "remove", &format!("--name={name}")]),
        }
    }

    pub(super) fn act(&self) -> String {
        match self {
            Self::AddNat(network) => format!("make the NAT network {:?}", network.name),
            Self::ModifyNat { name, .. } => format!("change the NAT network {name:?}"),
            Self::RemoveNat(name) => format!("remove the NAT network {name:?}"),
            Self::CreateAdapter => "make a host-only adapter".to_owned(),
            Self::ConfigureAdapter { name, .. } => {
                format!("give the host-only adapter {name:?} its address")
            }
            Self::RemoveAdapter(name) => format!("remove the host-only adapter {name:?}"),
            Self::SetDhcp { adapter, .. } => {
                format!("set up the DHCP server of the host-only adapter {adapter:?}")
            }
            Self::RemoveDhcp(adapter) => {
                format!("remove the DHCP server of the host-only adapter {adapter:?}")
            }
            Self::SetVmnet { name, .. } => format!("set up the host-only network {name:?}"),
            Self::RemoveVmnet(name) => format!("remove the host-only network {name:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_act_on_a_network_is_said_in_virtualboxs_words() {
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let rule = NatRule {
            protocol: Protocol::Tcp,
            host_address: Some(address("127.0.0.1")),
            host_port: 2222,
            guest_address: address("10.0.5.10"),
            guest_port: 22,
        };
        let open = NatRule {
            protocol: Protocol::Udp,
            host_address: None,
            ..rule.clone()
        };
        let network = NatNetwork {
            name: "si te".to_owned(),
            cidr: "10.0.5.0/24".to_owned(),
            dhcp: true,
            ipv6: false,
            enabled: true,
            rules: [("ssh".to_owned(), rule)].into(),
        };
        let server = DhcpServer {
            address: address("192.168.56.2"),
            netmask: address("255.255.255.0"),
            lower: address("192.168.56.10"),
            upper: address("192.168.56.99"),
        };
        let cases = [
            (
                NetworkAct::AddNat(network),
                "natnetwork add --netname si te --network 10.0.5.0/24 --dhcp on --ipv6 off --enable --port-forward-4 ssh:tcp:[127.0.0.1]:2222:[10.0.5.10]:22",
            ),
            (
                NetworkAct::ModifyNat {
                    name: "s".to_owned(),
                    changes: vec![
                        NatChange::Enabled(false),
                        NatChange::DeleteRule("ssh".to_owned()),
                        NatChange::AddRule("dns".to_owned(), open),
                    ],
                },
                "natnetwork modify --netname s --disable --port-forward-4 delete ssh --port-forward-4 dns:udp:[]:2222:[10.0.5.10]:22",
            ),
            (
                NetworkAct::ConfigureAdapter {
                    name: "vboxnet0".to_owned(),
                    address: address("192.168.56.1"),
                    netmask: address("255.255.255.0"),
                },
                "hostonlyif ipconfig vboxnet0 --ip 192.168.56.1 --netmask 255.255.255.0",
            ),
            (
                NetworkAct::SetDhcp {
                    adapter: "vboxnet0".to_owned(),
                    server,
                    exists: true,
                },
                "dhcpserver modify --interface=vboxnet0 --server-ip=192.168.56.2 --netmask=255.255.255.0 --lower-ip=192.168.56.10 --upper-ip=192.168.56.99 --enable",
            ),
            (
                NetworkAct::SetVmnet {
                    name: "lan".to_owned(),
                    netmask: address("255.255.255.0"),
                    lower: address("192.168.60.1"),
                    upper: address("192.168.60.99"),
                    exists: false,
                },
                "hostonlynet add --name=lan --netmask=255.255.255.0 --lower-ip=192.168.60.1 --upper-ip=192.168.60.99 --enable",
            ),
        ];
        for (act, line) in cases {
            assert_eq!(act.argv().join(" "), line);
        }
    }
}
