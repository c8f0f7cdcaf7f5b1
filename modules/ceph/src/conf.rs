//! `/etc/ceph/ceph.conf`: how a machine finds its cluster. Everything else belongs in the monitors' own configuration (`ceph_config`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use uuid::Uuid;

pub(crate) const PATH: &str = "/etc/ceph/ceph.conf";
pub(crate) const ADMIN_KEYRING: &str = "/etc/ceph/ceph.client.admin.keyring";

/// Ports of the second and the first wire protocol.
pub(crate) const PORTS: [u16; 2] = [3300, 6789];

/// A monitor's addresses as Ceph writes them.
pub(crate) fn addresses(address: IpAddr) -> String {
    let host = match address {
        IpAddr::V4(it) => it.to_string(),
        IpAddr::V6(it) => format!("[{it}]"),
    };
    format!("[v2:{host}:{},v1:{host}:{}]", PORTS[0], PORTS[1])
}

pub(crate) fn mon_host<'a>(monitors: impl IntoIterator<Item = &'a IpAddr>) -> String {
    let all: Vec<String> = monitors.into_iter().map(|it| addresses(*it)).collect();
    all.join(",")
}

/// What a machine must know before it can ask the monitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conf {
    pub(crate) fsid: Uuid,
    pub(crate) monitors: BTreeMap<String, IpAddr>,
    pub(crate) public_network: Option<IpNet>,
    pub(crate) cluster_network: Option<IpNet>,
}

impl Conf {
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "# Managed by ondol.cloud.ceph_monitor. Other options: ondol.cloud.ceph_config.\n\
             [global]\nfsid = {}\nmon_host = {}\n",
            self.fsid,
            mon_host(self.monitors.values())
        );
        if let Some(network) = self.public_network {
            text += &format!("public_network = {network}\n");
        }
        if let Some(network) = self.cluster_network {
            text += &format!("cluster_network = {network}\n");
        }
        // A dual-stack host would otherwise bind IPv4 alone.
        if self.monitors.values().any(IpAddr::is_ipv6) {
            text += "ms_bind_ipv4 = false\nms_bind_ipv6 = true\n";
        }
        text
    }
}

/// The value of an option anywhere in the file; blanks, hyphens and underscores in names are the same to Ceph.
pub(crate) fn option(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let key = key.trim().replace([' ', '-'], "_");
        (key == name).then(|| value.trim().to_owned())
    })
}

/// The addresses in a value of `mon_host`, without ports. Names are left out.
pub(crate) fn hosts(mon_host: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let words = mon_host.split([',', ' ', ';']);
    for word in words {
        // `[v2:ADDRESS:3300/0`, `v1:ADDRESS:6789]`, `ADDRESS:6789` or `ADDRESS`.
        let word = word.trim_start_matches('[');
        let word = word
            .strip_prefix("v2:")
            .or_else(|| word.strip_prefix("v1:"))
            .unwrap_or(word);
        let address = word.trim_end_matches(']').parse().ok().or_else(|| {
            let (host, _) = word.rsplit_once(':')?;
            host.trim_matches(['[', ']']).parse().ok()
        });
        if let Some(address) = address
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let conf = Conf {
            fsid: Uuid::from_u128(7),
            monitors: BTreeMap::from([
                ("a".to_owned(), [10, 0, 0, 1].into()),
                ("b".to_owned(), [10, 0, 0, 2].into()),
            ]),
            public_network: Some("10.0.0.0/24".parse().unwrap()),
            cluster_network: None,
        };
        let text = conf.text();
        assert_eq!(
            option(&text, "fsid").as_deref(),
            Some("00000000-0000-0000-0000-000000000007")
        );
        assert_eq!(
            hosts(&option(&text, "mon_host").unwrap()),
            [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]
        );
        assert!(text.contains("public_network = 10.0.0.0/24\n"), "{text}");
    }

    #[test]
    fn addresses_are_found_in_every_form_of_mon_host() {
        for (text, wanted) in [
            ("10.0.0.1", vec!["10.0.0.1"]),
            ("10.0.0.1:6789, 10.0.0.2", vec!["10.0.0.1", "10.0.0.2"]),
            ("[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]", vec!["10.0.0.1"]),
            ("[v2:[fd00::1]:3300,v1:[fd00::1]:6789]", vec!["fd00::1"]),
            ("mon.example", vec![]),
        ] {
            let found: Vec<String> = hosts(text).iter().map(ToString::to_string).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
