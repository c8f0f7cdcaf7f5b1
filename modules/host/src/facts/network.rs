//! Interfaces, their addresses, and which of them leads out.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use nix::ifaddrs::getifaddrs;
use serde_json::{Map, Value, json};

use super::tree::Tree;
use super::{Found, found};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address4 {
    interface: String,
    address: Ipv4Addr,
    prefix: u8,
    broadcast: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address6 {
    interface: String,
    address: Ipv6Addr,
    prefix: u8,
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DefaultRoute {
    interface: String,
    gateway: Option<String>,
}

pub(super) fn gather(tree: &Tree) -> anyhow::Result<Found> {
    let addresses4 = addresses4()?;
    let addresses6 = addresses6(&tree.read("/proc/net/if_inet6").unwrap_or_default());
    let route4 = default_route4(&tree.read("/proc/net/route").unwrap_or_default());
    let route6 = default_route6(&tree.read("/proc/net/ipv6_route").unwrap_or_default());
    let links = tree
        .names("/sys/class/net")
        .into_iter()
        // A plain file there (bonding_masters) is no interface.
        .filter(|name| tree.exists(&format!("/sys/class/net/{name}/mtu")))
        .map(|name| {
            let link = link(tree, &name);
            (name, link)
        })
        .collect();
    Ok(facts(&links, &addresses4, &addresses6, route4, route6))
}

fn facts(
    links: &BTreeMap<String, Found>,
    addresses4: &[Address4],
    addresses6: &[Address6],
    route4: Option<DefaultRoute>,
    route6: Option<DefaultRoute>,
) -> Found {
    let own4 = |name: &str| {
        let name = name.to_owned();
        addresses4
            .iter()
            // `eth0:1` is a label of an address on `eth0`.
            .filter(move |it| it.interface.split(':').next() == Some(name.as_str()))
    };
    let own6 = |name: &str| {
        let name = name.to_owned();
        addresses6.iter().filter(move |it| it.interface == name)
    };
    let mut found = Found::new();
    for (name, link) in links {
        let mut interface = link.clone();
        let mut four = own4(name).map(fact4);
        if let Some(first) = four.next() {
            interface.insert("ipv4".to_owned(), first);
            let more: Vec<Value> = four.collect();
            if !more.is_empty() {
                interface.insert("ipv4_secondaries".to_owned(), json!(more));
            }
        }
        let six: Vec<Value> = own6(name).map(fact6).collect();
        if !six.is_empty() {
            interface.insert("ipv6".to_owned(), json!(six));
        }
        // A variable's name cannot hold these.
        found.insert(name.replace(['-', ':', '.'], "_"), Value::Object(interface));
    }
    let default4 = route4.and_then(|route| {
        let address = own4(&route.interface).next()?;
        let mut fact = fact4(address).as_object()?.clone();
        fact.insert("alias".to_owned(), json!(address.interface));
        Some(default(fact, &route, links))
    });
    let default6 = route6.and_then(|route| {
        let address = own6(&route.interface)
            .find(|it| it.scope == "global")
            .or_else(|| own6(&route.interface).next())?;
        Some(default(fact6(address).as_object()?.clone(), &route, links))
    });
    found.extend(found! {
        "interfaces": links.keys().collect::<Vec<_>>(),
        "all_ipv4_addresses": addresses4
            .iter()
            .filter(|it| !it.address.is_loopback())
            .map(|it| it.address)
            .collect::<Vec<_>>(),
        "all_ipv6_addresses": addresses6
            .iter()
            .filter(|it| !it.address.is_loopback())
            .map(|it| it.address)
            .collect::<Vec<_>>(),
        "default_ipv4": default4.unwrap_or_default(),
        "default_ipv6": default6.unwrap_or_default(),
    });
    found
}

fn default(
    mut fact: Map<String, Value>,
    route: &DefaultRoute,
    links: &BTreeMap<String, Found>,
) -> Map<String, Value> {
    fact.insert("interface".to_owned(), json!(route.interface));
    if let Some(gateway) = &route.gateway {
        fact.insert("gateway".to_owned(), json!(gateway));
    }
    for key in ["macaddress", "mtu", "type"] {
        if let Some(value) = links.get(&route.interface).and_then(|link| link.get(key)) {
            fact.insert(key.to_owned(), value.clone());
        }
    }
    fact
}

fn fact4(address: &Address4) -> Value {
    let mask = mask(address.prefix);
    json!({
        "address": address.address,
        "broadcast": address.broadcast.map(|it| it.to_string()).unwrap_or_default(),
        "netmask": mask,
        "network": Ipv4Addr::from_bits(address.address.to_bits() & mask.to_bits()),
        "prefix": address.prefix.to_string(),
    })
}

fn fact6(address: &Address6) -> Value {
    json!({
        "address": address.address,
        "prefix": address.prefix.to_string(),
        "scope": address.scope,
    })
}

fn mask(prefix: u8) -> Ipv4Addr {
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(!hosts)
}

fn addresses4() -> anyhow::Result<Vec<Address4>> {
    let all = getifaddrs().context("list the addresses of the interfaces")?;
    Ok(all
        .filter_map(|one| {
            let prefix = one
                .netmask
                .as_ref()
                .and_then(|it| it.as_sockaddr_in())
                .map_or(32, |mask| mask.ip().to_bits().leading_ones());
            Some(Address4 {
                address: one.address?.as_sockaddr_in()?.ip(),
                prefix: u8::try_from(prefix).expect("at most 32 ones"),
                broadcast: one
                    .broadcast
                    .as_ref()
                    .and_then(|it| it.as_sockaddr_in())
                    .map(|it| it.ip()),
                interface: one.interface_name,
            })
        })
        .collect())
}

/// `/proc/net/if_inet6`: address, index, prefix length, scope and flags in hexadecimal, then the name.
fn addresses6(text: &str) -> Vec<Address6> {
    let mut found: Vec<Address6> = text
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [address, _, prefix, scope, _, interface] = fields[..] else {
                return None;
            };
            Some(Address6 {
                address: Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?),
                prefix: u8::from_str_radix(prefix, 16).ok()?,
                scope: match scope {
                    "00" => "global",
                    "10" => "host",
                    "20" => "link",
                    "40" => "site",
                    _ => "unknown",
                },
                interface: interface.to_owned(),
            })
        })
        .collect();
    // The kernel lists by hash; wider scopes first is the order of `ip addr`, by address the rest for a stable result.
    found.sort_by_key(|it| {
        let narrow = matches!(it.scope, "link" | "host");
        (it.interface.clone(), narrow, it.address)
    });
    found
}

/// `/proc/net/route`: the default with the lowest metric. Addresses are hexadecimal in the machine's byte order.
fn default_route4(text: &str) -> Option<DefaultRoute> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [
                interface,
                "00000000",
                gateway,
                flags,
                _,
                _,
                metric,
                "00000000",
                ..,
            ] = fields[..]
            else {
                return None;
            };
            const UP: u32 = 1;
            const REJECT: u32 = 0x200;
            let flags = u32::from_str_radix(flags, 16).ok()?;
            if flags & UP == 0 || flags & REJECT != 0 {
                return None;
            }
            let gateway = u32::from_str_radix(gateway, 16).ok()?;
            let gateway = (gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()).to_string());
            Some((
                metric.parse::<u32>().ok()?,
                DefaultRoute {
                    interface: interface.to_owned(),
                    gateway,
                },
            ))
        })
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, route)| route)
}

/// `/proc/net/ipv6_route`. The kernel's own default on `lo` says "unreachable" and is no route.
fn default_route6(text: &str) -> Option<DefaultRoute> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [to, "00", _, _, gateway, metric, _, _, _, interface] = fields[..] else {
                return None;
            };
            if to.chars().any(|c| c != '0') || interface == "lo" {
                return None;
            }
            let gateway = u128::from_str_radix(gateway, 16).ok()?;
            Some((
                u32::from_str_radix(metric, 16).ok()?,
                DefaultRoute {
                    interface: interface.to_owned(),
                    gateway: (gateway != 0).then(|| Ipv6Addr::from_bits(gateway).to_string()),
                },
            ))
        })
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, route)| route)
}

/// What sysfs says about one interface.
fn link(tree: &Tree, name: &str) -> Found {
    let file = |file: &str| format!("/sys/class/net/{name}/{file}");
    let number = |name: &str| tree.line(&file(name)).and_then(|it| it.parse::<i64>().ok());
    let mut found = found! {
        "device": name,
        "active": tree.line(&file("operstate")).as_deref() != Some("down"),
    };
    let mut put = |key: &str, value: Value| found.insert(key.to_owned(), value);
    if let Some(mac) = tree
        .line(&file("address"))
        .filter(|mac| mac.chars().any(|c| c != '0' && c != ':'))
    {
        put("macaddress", json!(mac));
    }
    if let Some(mtu) = number("mtu") {
        put("mtu", json!(mtu));
    }
    if let Some(speed) = number("speed") {
        put("speed", json!(speed));
    }
    if let Some(driver) = tree.link_name(&file("device/driver/module")) {
        put("module", json!(driver));
    }
    if let Some(device) = tree.link_name(&file("device")) {
        put("pciid", json!(device));
    }
    // linux/if_arp.h
    let mut kind = match number("type") {
        Some(1) => "ether",
        Some(32) => "infiniband",
        Some(512) => "ppp",
        Some(772) => "loopback",
        Some(65534) => "tunnel",
        _ => "unknown",
    };
    if tree.exists(&file("bridge")) {
        kind = "bridge";
        put("interfaces", json!(tree.names(&file("brif"))));
        if let Some(id) = tree.line(&file("bridge/bridge_id")) {
            put("id", json!(id));
        }
        put("stp", json!(number("bridge/stp_state") == Some(1)));
    }
    put("type", json!(kind));
    const PROMISCUOUS: u32 = 0x100;
    let flags = tree
        .line(&file("flags"))
        .and_then(|it| u32::from_str_radix(it.trim_start_matches("0x"), 16).ok());
    if let Some(flags) = flags {
        put("promisc", json!(flags & PROMISCUOUS != 0));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(interface: &str, gateway: Option<&str>) -> Option<DefaultRoute> {
        Some(DefaultRoute {
            interface: interface.to_owned(),
            gateway: gateway.map(ToOwned::to_owned),
        })
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_wins() {
        let head =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let slow = "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        let fast = "eth0\t00000000\t010A0A0A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        let net = "eth0\t000A0A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let direct = "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n";
        for (text, wanted) in [
            (head.to_owned(), None),
            (format!("{head}{net}"), None),
            (
                format!("{head}{slow}{net}{fast}"),
                route("eth0", Some("10.10.10.1")),
            ),
            (format!("{head}{slow}{direct}"), route("tun0", None)),
        ] {
            assert_eq!(default_route4(&text), wanted, "{text}");
        }
    }

    #[test]
    fn the_unreachable_default_on_lo_is_no_route() {
        let zero = "00000000000000000000000000000000";
        let lo =
            format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n");
        let eth = format!(
            "{zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n"
        );
        assert_eq!(default_route6(&lo), None);
        assert_eq!(default_route6(&(lo + &eth)), route("eth0", Some("fd00::1")));
    }

    #[test]
    fn inet6_lists_wider_scopes_first() {
        let text = "fe8000000000000000fc00fffe000001 02 40 20 80     eth0\nfd000000000000000000000000000002 02 40 00 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n";
        let shown: Vec<String> = addresses6(text)
            .iter()
            .map(|it| format!("{} {}/{} {}", it.interface, it.address, it.prefix, it.scope))
            .collect();
        assert_eq!(
            shown,
            [
                "eth0 fd00::2/64 global",
                "eth0 fe80::fc:ff:fe00:1/64 link",
                "lo ::1/128 host"
            ]
        );
    }

    #[test]
    fn addresses_are_put_with_their_interfaces() {
        let links = BTreeMap::from([
            (
                "br-lan".to_owned(),
                found! {"device": "br-lan", "mtu": 1500, "type": "bridge"},
            ),
            (
                "eth0".to_owned(),
                found! {"device": "eth0", "mtu": 1400, "type": "ether", "macaddress": "02:00:00:00:00:01"},
            ),
        ]);
        let address = |interface: &str, last, broadcast| Address4 {
            interface: interface.to_owned(),
            address: Ipv4Addr::new(10, 0, 0, last),
            prefix: 25,
            broadcast,
        };
        let four = [
            address("eth0", 130, Some(Ipv4Addr::new(10, 0, 0, 255))),
            address("eth0:1", 131, None),
        ];
        let found = facts(&links, &four, &[], route("eth0", Some("10.0.0.129")), None);
        assert_eq!(
            Value::Object(found),
            json!({
                "br_lan": {"device": "br-lan", "mtu": 1500, "type": "bridge"},
                "eth0": {
                    "device": "eth0", "mtu": 1400, "type": "ether", "macaddress": "02:00:00:00:00:01",
                    "ipv4": {"address": "10.0.0.130", "broadcast": "10.0.0.255",
                        "netmask": "255.255.255.128", "network": "10.0.0.128", "prefix": "25"},
                    "ipv4_secondaries": [{"address": "10.0.0.131", "broadcast": "",
                        "netmask": "255.255.255.128", "network": "10.0.0.128", "prefix": "25"}],
                },
                "interfaces": ["br-lan", "eth0"],
                "all_ipv4_addresses": ["10.0.0.130", "10.0.0.131"],
                "all_ipv6_addresses": [],
                "default_ipv4": {"address": "10.0.0.130", "broadcast": "10.0.0.255",
                    "netmask": "255.255.255.128", "network": "10.0.0.128", "prefix": "25",
                    "alias": "eth0", "interface": "eth0", "gateway": "10.0.0.129",
                    "macaddress": "02:00:00:00:00:01", "mtu": 1400, "type": "ether"},
                "default_ipv6": {},
            })
        );
    }

    #[test]
    fn masks_of_every_length() {
        assert_eq!(mask(0), Ipv4Addr::new(0, 0, 0, 0));
        assert_eq!(mask(25), Ipv4Addr::new(255, 255, 255, 128));
        assert_eq!(mask(32), Ipv4Addr::new(255, 255, 255, 255));
    }
}
