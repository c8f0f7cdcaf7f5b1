//! What a user may say about a guest's network, and what of it makes sense.
//!
//! `Config` is what was typed: strings, as in the playbook or the Terraform configuration. `Network` is the same after checking:
//! addresses are addresses, every gateway can be reached, nothing is said twice. Only `Network` can be rendered or planned.
//! Wi-Fi, bonds, bridges and VLANs are deliberately not here, nor is any renderer but systemd-networkd.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use ondol_host::names::check_domain_name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The wanted network of one guest. One netplan file holds all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Ethernet interfaces by name, for example `enp0s3`. With `match`, the key is only a label.
    pub ethernets: BTreeMap<String, Ethernet>,
}

/// One Ethernet interface. An option left out is left out of the netplan file too, so that netplan's default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ethernet {
    /// Static addresses with their prefix length, for example `192.168.10.11/24` or `2001:db8::11/64`.
    pub addresses: Vec<String>,
    /// The IPv4 default gateway; short for a route to `default`.
    pub gateway4: Option<String>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// Name servers and search domains.
    pub nameservers: Nameservers,
    /// Ask for an IPv4 address by DHCP.
    pub dhcp4: Option<bool>,
    /// Ask for an IPv6 address by DHCP.
    pub dhcp6: Option<bool>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// The machine may finish booting without this interface.
    pub optional: Option<bool>,
    /// Give the interface this hardware address.
    pub macaddress: Option<String>,
    /// Find the interface by a property instead of by the key.
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    /// Rename the matched interface. Needs `match`.
    pub set_name: Option<String>,
}

/// How an interface is found when the key is not its name. What is given must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Current name; `*` and `?` are wildcards.
    pub name: Option<String>,
    /// Hardware address.
    pub macaddress: Option<String>,
}

/// A static route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A network such as `10.0.0.0/8`, or `default`.
    pub to: String,
    /// The gateway's address.
    pub via: String,
    /// Lower wins.
    #[serde(default)]
    pub metric: Option<u32>,
    /// The gateway is reached directly although no address of the interface shares a network with it.
    #[serde(default)]
    pub on_link: Option<bool>,
}

/// Name servers and search domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nameservers {
    /// Addresses of name servers.
    pub addresses: Vec<String>,
    /// Domains tried for names without a dot.
    pub search: Vec<String>,
}

/// Something wrong in what the user gave, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", show_path(.path))]
pub struct Problem {
    pub path: Vec<Segment>,
    pub reason: String,
}

/// One step of the way from the whole configuration to the value at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Attribute(&'static str),
    Key(String),
    Index(usize),
}

fn show_path(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Attribute(name) if text.is_empty() => text.push_str(name),
            Segment::Attribute(name) => text.push_str(&format!(".{name}")),
            Segment::Key(key) => text.push_str(&format!(".{key}")),
            Segment::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// A checked `Config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub interfaces: BTreeMap<String, Interface>,
}

/// A checked `Ethernet`. `gateway4` has become a route; hardware addresses are lower case with colons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub addresses: Vec<IpNet>,
    pub routes: Vec<CheckedRoute>,
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub dhcp4: Option<bool>,
    pub dhcp6: Option<bool>,
    pub mtu: Option<u32>,
    pub optional: Option<bool>,
    pub macaddress: Option<String>,
    pub match_name: Option<String>,
    pub match_macaddress: Option<String>,
    pub set_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRoute {
    /// `None` is the default route of the gateway's family.
    pub to: Option<IpNet>,
    pub via: IpAddr,
    pub metric: Option<u32>,
    pub on_link: Option<bool>,
}

impl fmt::Display for CheckedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Some(to) => write!(f, "{to} via {}", self.via),
            None => write!(f, "default via {}", self.via),
        }?;
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

impl Network {
    /// Every address that the file gives the guest, in the order of the interfaces' names.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.interfaces
            .values()
            .flat_map(|interface| interface.addresses.iter().copied())
    }

    /// The gateways of all default routes: what must answer for the guest to be of use.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.interfaces
            .values()
            .flat_map(|interface| &interface.routes)
            .filter(|route| route.to.is_none())
            .map(|route| route.via)
    }
}

impl TryFrom<&Config> for Network {
    type Error = Vec<Problem>;

    /// Finds every problem, not only the first.
    fn try_from(config: &Config) -> Result<Self, Vec<Problem>> {
        let mut check = Check::default();
        check.at(Segment::Attribute("ethernets"), |check| {
            if config.ethernets.is_empty() {
                check.problem("must name at least one interface");
            }
        });
        let mut interfaces = BTreeMap::new();
        for (name, ethernet) in &config.ethernets {
            let interface = check.at(Segment::Attribute("ethernets"), |check| {
                check.at(Segment::Key(name.clone()), |check| {
                    if let Err(reason) = interface_name(name) {
                        check.problem(reason);
                    }
                    check.interface(ethernet)
                })
            });
            interfaces.insert(name.clone(), interface);
        }
        check.across(&interfaces);
        if check.problems.is_empty() {
            Ok(Self { interfaces })
        } else {
            Err(check.problems)
        }
    }
}

/// Collects problems while it walks down the configuration.
#[derive(Default)]
struct Check {
    path: Vec<Segment>,
    problems: Vec<Problem>,
}

impl Check {
    fn at<T>(&mut self, segment: Segment, act: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(segment);
        let value = act(self);
        self.path.pop();
        value
    }

    fn problem(&mut self, reason: impl Into<String>) {
        self.problems.push(Problem {
            path: self.path.clone(),
            reason: reason.into(),
        });
    }

    /// `check` of one attribute's text; a failure is recorded and gives `None`.
    fn text<T>(
        &mut self,
        segment: Segment,
        text: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match check(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.at(segment, |check| check.problem(reason));
                None
            }
        }
    }

    fn list<T>(
        &mut self,
        attribute: &'static str,
        texts: &[String],
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        self.at(Segment::Attribute(attribute), |this| {
            texts
                .iter()
                .enumerate()
                .filter_map(|(index, text)| this.text(Segment::Index(index), text, &check))
                .collect()
        })
    }

    fn interface(&mut self, ethernet: &Ethernet) -> Interface {
        let addresses = self.list("addresses", &ethernet.addresses, host_address);
        let mut routes = Vec::new();
        if let Some(gateway) = &ethernet.gateway4 {
            let via = self.text(Segment::Attribute("gateway4"), gateway, |text| {
                let via: IpAddr = text
                    .parse()
                    .map_err(|_| format!("{text:?} is not an address"))?;
                if via.is_ipv6() {
                    return Err(format!("{via} is not an IPv4 address; use a route"));
                }
                reachable_gateway(via, &addresses)?;
                Ok(via)
            });
            routes.extend(via.map(|via| CheckedRoute {
                to: None,
                via,
                metric: None,
                on_link: None,
            }));
        }
        for (index, route) in ethernet.routes.iter().enumerate() {
            let checked = self.at(Segment::Attribute("routes"), |check| {
                check.at(Segment::Index(index), |check| {
                    check.route(route, &addresses)
                })
            });
            routes.extend(checked);
        }
        let (nameservers, search) = self.at(Segment::Attribute("nameservers"), |check| {
            let servers = &ethernet.nameservers;
            (
                check.list("addresses", &servers.addresses, |text| {
                    text.parse::<IpAddr>()
                        .map_err(|_| format!("{text:?} is not an address"))
                }),
                check.list("search", &servers.search, |text| {
                    check_domain_name(text).map(|()| text.to_owned())
                }),
            )
        });
        if let Some(mtu) = ethernet.mtu {
            // RFC 791 and RFC 8200: what every link must carry.
            let least = if addresses.iter().any(|a| a.addr().is_ipv6()) {
                1280
            } else {
                68
            };
            if !(least..=65_535).contains(&mtu) {
                self.at(Segment::Attribute("mtu"), |check| {
                    check.problem(format!("{mtu} is not between {least} and 65535"));
                });
            }
        }
        let (match_name, match_macaddress) = self.matches(ethernet);
        Interface {
            routes,
            nameservers,
            search,
            dhcp4: ethernet.dhcp4,
            dhcp6: ethernet.dhcp6,
            mtu: ethernet.mtu,
            optional: ethernet.optional,
            macaddress: ethernet.macaddress.as_ref().and_then(|text| {
                self.text(Segment::Attribute("macaddress"), text, hardware_address)
            }),
            match_name,
            match_macaddress,
            set_name: ethernet.set_name.clone(),
            addresses,
        }
    }

    fn matches(&mut self, ethernet: &Ethernet) -> (Option<String>, Option<String>) {
        if let Some(name) = &ethernet.set_name {
            self.at(Segment::Attribute("set_name"), |check| {
                if let Err(reason) = interface_name(name) {
                    check.problem(reason);
                }
                if ethernet.matches.is_none() {
                    check.problem("needs `match`: netplan renames only what it has matched");
                }
            });
        }
        let Some(matches) = &ethernet.matches else {
            return (None, None);
        };
        self.at(Segment::Attribute("match"), |check| {
            if matches.name.is_none() && matches.macaddress.is_none() {
                check.problem("must give `name`, `macaddress` or both");
            }
            (
                matches.name.clone(),
                matches.macaddress.as_ref().and_then(|text| {
                    check.text(Segment::Attribute("macaddress"), text, hardware_address)
                }),
            )
        })
    }

    fn route(&mut self, route: &Route, addresses: &[IpNet]) -> Option<CheckedRoute> {
        let to = self.text(Segment::Attribute("to"), &route.to, |text| {
            if text == "default" {
                return Ok(None);
            }
            let net: IpNet = text.parse().map_err(|_| {
                format!("{text:?} is neither `default` nor a network such as 10.0.0.0/8")
            })?;
            if net.prefix_len() == 0 {
                return Ok(None);
            }
            if net.addr() != net.network() {
                return Err(format!(
                    "{net} has host bits set; the network is {}",
                    net.trunc()
                ));
            }
            Ok(Some(net))
        })?;
        let via = self.text(Segment::Attribute("via"), &route.via, |text| {
            let via: IpAddr = text
                .parse()
                .map_err(|_| format!("{text:?} is not an address"))?;
            if to.is_some_and(|net| net.addr().is_ipv4() != via.is_ipv4()) {
                return Err(format!("{via} is not of the same family as {}", route.to));
            }
            if route.on_link != Some(true) {
                reachable_gateway(via, addresses)?;
            }
            Ok(via)
        })?;
        Some(CheckedRoute {
            to,
            via,
            metric: route.metric,
            on_link: route.on_link,
        })
    }

    /// What no interface can see alone: an address or a default route that is there twice.
    fn across(&mut self, interfaces: &BTreeMap<String, Interface>) {
        let mut addresses: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut defaults: BTreeMap<(bool, Option<u32>), &str> = BTreeMap::new();
        for (name, interface) in interfaces {
            for address in &interface.addresses {
                if let Some(first) = addresses.insert(address.addr(), name) {
                    let at = interface_path(name, "addresses");
                    self.problems.push(Problem {
                        path: at,
                        reason: format!("{} is given twice (first on {first})", address.addr()),
                    });
                }
            }
            for route in interface.routes.iter().filter(|route| route.to.is_none()) {
                let key = (route.via.is_ipv4(), route.metric);
                if let Some(first) = defaults.insert(key, name) {
                    self.problems.push(Problem {
                        path: interface_path(name, "routes"),
                        reason: format!(
                            "a second default route ({route}; first on {first}) needs a metric of its own"
                        ),
                    });
                }
            }
        }
    }
}

pub(crate) fn interface_path(name: &str, attribute: &'static str) -> Vec<Segment> {
    vec![
        Segment::Attribute("ethernets"),
        Segment::Key(name.to_owned()),
        Segment::Attribute(attribute),
    ]
}

fn host_address(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| {
        if text.parse::<IpAddr>().is_ok() {
            format!("{text:?} lacks the prefix length, as in {text}/24")
        } else {
            format!("{text:?} is not an address with a prefix length, such as 192.168.10.11/24")
        }
    })?;
    let address = net.addr();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!("{address} cannot be a host's address"));
    }
    // A /31 (RFC 3021) or /127 (RFC 6164) has no network address.
    let spare = net.max_prefix_len() - net.prefix_len();
    if spare > 1 && address == net.network() {
        return Err(format!("{net} is the address of the network itself"));
    }
    if spare > 1 && address.is_ipv4() && address == net.broadcast() {
        return Err(format!("{net} is the broadcast address of {}", net.trunc()));
    }
    Ok(net)
}

fn reachable_gateway(via: IpAddr, addresses: &[IpNet]) -> Result<(), String> {
    if addresses.iter().any(|net| net.addr() == via) {
        return Err(format!("{via} is this guest's own address"));
    }
    if let IpAddr::V6(v6) = via
        && v6.is_unicast_link_local()
    {
        return Ok(());
    }
    if addresses.iter().any(|net| net.contains(&via)) {
        return Ok(());
    }
    let networks: Vec<String> = addresses
        .iter()
        .filter(|net| net.addr().is_ipv4() == via.is_ipv4())
        .map(|net| net.trunc().to_string())
        .collect();
    Err(if networks.is_empty() {
        format!("{via} cannot be reached: the interface has no static address of that family")
    } else {
        format!("{via} is outside {}", networks.join(" and "))
    })
}

/// The kernel's rule (`dev_valid_name`): up to 15 bytes, no slash, no colon, no white space.
fn interface_name(name: &str) -> Result<(), String> {
    let fine = !name.is_empty()
        && name.len() <= 15
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && name != "."
        && name != "..";
    if fine {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is not an interface name (1 to 15 of letters, digits, `-`, `_`, `.`)"
        ))
    }
}

/// Lower case, colons.
fn hardware_address(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let fine = parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
    if fine {
        Ok(parts.join(":").to_ascii_lowercase())
    } else {
        Err(format!(
            "{text:?} is not a hardware address such as 08:00:27:12:34:56"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(yaml: &str) -> Vec<String> {
        let config: Config = serde_norway::from_str(yaml).expect("the test's own YAML");
        match Network::try_from(&config) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn what_makes_sense_is_accepted() {
        for yaml in [
            "ethernets: {enp0s3: {addresses: [192.168.10.11/24], gateway4: 192.168.10.1}}",
            "ethernets: {enp0s3: {addresses: [10.0.0.0/31], gateway4: 10.0.0.1}}",
            "ethernets: {enp0s3: {dhcp4: true}}",
            "ethernets: {enp0s3: {addresses: ['2001:db8::11/64'], routes: [{to: default, via: 'fe80::1'}]}}",
            "ethernets: {enp0s3: {addresses: [10.0.0.5/32], routes: [{to: default, via: 10.9.9.1, on_link: true}]}}",
            "ethernets: {a: {addresses: [10.0.0.5/24], gateway4: 10.0.0.1}, b: {addresses: [10.0.1.5/24], routes: [{to: default, via: 10.0.1.1, metric: 200}]}}",
            "ethernets: {lan: {match: {macaddress: '08-00-27-AA-BB-CC'}, set_name: lan0, mtu: 9000}}",
        ] {
            assert_eq!(problems(yaml), Vec::<String>::new(), "{yaml}");
        }
    }

    #[test]
    fn what_does_not_is_refused_with_its_path() {
        let table = [
            (
                "ethernets: {}",
                "ethernets: must name at least one interface",
            ),
            (
                "ethernets: {'a b': {}}",
                "ethernets.a b: \"a b\" is not an interface name (1 to 15 of letters, digits, `-`, `_`, `.`)",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.300/24]}}",
                "ethernets.e.addresses[0]: \"10.0.0.300/24\" is not an address with a prefix length, such as 192.168.10.11/24",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.3]}}",
                "ethernets.e.addresses[0]: \"10.0.0.3\" lacks the prefix length, as in 10.0.0.3/24",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.3/24, 10.0.1.0/24]}}",
                "ethernets.e.addresses[1]: 10.0.1.0/24 is the address of the network itself",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.255/24]}}",
                "ethernets.e.addresses[0]: 10.0.0.255/24 is the broadcast address of 10.0.0.0/24",
            ),
            (
                "ethernets: {e: {addresses: [224.0.0.5/24]}}",
                "ethernets.e.addresses[0]: 224.0.0.5 cannot be a host's address",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.3/24], gateway4: 10.0.1.1}}",
                "ethernets.e.gateway4: 10.0.1.1 is outside 10.0.0.0/24",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.3/24], gateway4: 10.0.0.3}}",
                "ethernets.e.gateway4: 10.0.0.3 is this guest's own address",
            ),
            (
                "ethernets: {e: {dhcp4: true, gateway4: 10.0.0.1}}",
                "ethernets.e.gateway4: 10.0.0.1 cannot be reached: the interface has no static address of that family",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.3/24], routes: [{to: 10.1.0.1/16, via: 10.0.0.1}]}}",
                "ethernets.e.routes[0].to: 10.1.0.1/16 has host bits set; the network is 10.1.0.0/16",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.3/24], routes: [{to: '2001:db8::/32', via: 10.0.0.1}]}}",
                "ethernets.e.routes[0].via: 10.0.0.1 is not of the same family as 2001:db8::/32",
            ),
            (
                "ethernets: {e: {addresses: [10.0.0.3/24], gateway4: 10.0.0.1, routes: [{to: default, via: 10.0.0.2}]}}",
                "ethernets.e.routes: a second default route (default via 10.0.0.2; first on e) needs a metric of its own",
            ),
            (
                "ethernets: {a: {addresses: [10.0.0.3/24]}, b: {addresses: [10.0.0.3/16]}}",
                "ethernets.b.addresses: 10.0.0.3 is given twice (first on a)",
            ),
            (
                "ethernets: {e: {nameservers: {addresses: [dns.example]}}}",
                "ethernets.e.nameservers.addresses[0]: \"dns.example\" is not an address",
            ),
            (
                "ethernets: {e: {nameservers: {search: ['in valid']}}}",
                "ethernets.e.nameservers.search[0]: \"in valid\" is not a domain name",
            ),
            (
                "ethernets: {e: {mtu: 20}}",
                "ethernets.e.mtu: 20 is not between 68 and 65535",
            ),
            (
                "ethernets: {e: {set_name: lan0}}",
                "ethernets.e.set_name: needs `match`: netplan renames only what it has matched",
            ),
            (
                "ethernets: {e: {match: {}}}",
                "ethernets.e.match: must give `name`, `macaddress` or both",
            ),
            (
                "ethernets: {e: {macaddress: '08:00'}}",
                "ethernets.e.macaddress: \"08:00\" is not a hardware address such as 08:00:27:12:34:56",
            ),
        ];
        for (yaml, expected) in table {
            assert_eq!(problems(yaml), [expected], "{yaml}");
        }
    }

    #[test]
    fn every_problem_is_named_at_once() {
        assert_eq!(
            problems("ethernets: {e: {addresses: [x], mtu: 1, nameservers: {addresses: [y]}}}")
                .len(),
            3
        );
    }
}
