//! The exact bytes of the netplan file.
//!
//! Written by hand and not by a YAML library: the text is compared byte by byte with what is on the guest, so it may not change
//! with a library's taste. Every value is quoted; nothing is left to YAML's guessing (a MAC address can read as a base-60 number).

use std::fmt::Write as _;

use crate::config::{Interface, Network};

/// First lines of every file we write.
pub const HEADER: &str = "\
# Managed by Ondol: Terraform's ondol_netplan or Ansible's ondol.cloud.netplan.
# What is changed here by hand is drift: the next run puts it back.
";

/// The file's text. Equal networks give equal bytes.
pub fn render(network: &Network) -> String {
    let mut out = String::from(HEADER);
    out.push_str("network:\n  version: 2\n  renderer: networkd\n  ethernets:\n");
    for (name, interface) in &network.interfaces {
        out.push_str(&block(name, interface));
    }
    out
}

fn block(name: &str, interface: &Interface) -> String {
    let mut out = String::new();
    let mut line = |depth: usize, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:1$}{text}", "", depth * 2);
    };
    line(2, &format!("{}:", quote(name)));
    let mut any = false;
    let mut field = |text: String| {
        any = true;
        line(3, &text);
    };
    if interface.match_name.is_some() || interface.match_macaddress.is_some() {
        field("match:".to_owned());
        if let Some(name) = &interface.match_name {
            field(format!("  name: {}", quote(name)));
        }
        if let Some(address) = &interface.match_macaddress {
            field(format!("  macaddress: {}", quote(address)));
        }
    }
    for (key, text) in [
        ("set-name", &interface.set_name),
        ("macaddress", &interface.macaddress),
    ] {
        if let Some(text) = text {
            field(format!("{key}: {}", quote(text)));
        }
    }
    if let Some(mtu) = interface.mtu {
        field(format!("mtu: {mtu}"));
    }
    for (key, flag) in [
        ("optional", interface.optional),
        ("dhcp4", interface.dhcp4),
        ("dhcp6", interface.dhcp6),
    ] {
        if let Some(flag) = flag {
            field(format!("{key}: {flag}"));
        }
    }
    if !interface.addresses.is_empty() {
        field("addresses:".to_owned());
        for address in &interface.addresses {
            field(format!("  - {}", quote(&address.to_string())));
        }
    }
    if !interface.routes.is_empty() {
        field("routes:".to_owned());
        for route in &interface.routes {
            // netplan 0.104 (Ubuntu 22.04) wants 0.0.0.0/0 or `default`; both families take `default`.
            let to = route
                .to
                .map_or_else(|| "default".to_owned(), |net| net.to_string());
            field(format!("  - to: {}", quote(&to)));
            field(format!("    via: {}", quote(&route.via.to_string())));
            if let Some(metric) = route.metric {
                field(format!("    metric: {metric}"));
            }
            if let Some(on_link) = route.on_link {
                field(format!("    on-link: {on_link}"));
            }
        }
    }
    if !interface.nameservers.is_empty() || !interface.search.is_empty() {
        field("nameservers:".to_owned());
        let servers = interface.nameservers.iter().map(ToString::to_string);
        for (key, values) in [
            ("addresses", servers.collect::<Vec<_>>()),
            ("search", interface.search.clone()),
        ] {
            if !values.is_empty() {
                field(format!("  {key}:"));
                for value in values {
                    field(format!("    - {}", quote(&value)));
                }
            }
        }
    }
    if any {
        out
    } else {
        format!("    {}: {{}}\n", quote(name))
    }
}

/// A double-quoted YAML scalar. JSON's escapes are a subset of YAML's.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rendered(yaml: &str) -> String {
        let config: Config = serde_norway::from_str(yaml).unwrap();
        render(&Network::try_from(&config).unwrap())
    }

    #[test]
    fn a_guest_of_the_lab() {
        insta::assert_snapshot!(rendered(
            "ethernets:
               enp0s3:
                 addresses: [192.168.10.11/24]
                 gateway4: 192.168.10.1
                 nameservers: {addresses: [192.168.10.12], search: [infra.internal]}"
        ), @r#"
        # Managed by Ondol: Terraform's ondol_netplan or Ansible's ondol.cloud.netplan.
        # What is changed here by hand is drift: the next run puts it back.
        network:
          version: 2
          renderer: networkd
          ethernets:
            "enp0s3":
              addresses:
                - "192.168.10.11/24"
              routes:
                - to: "default"
                  via: "192.168.10.1"
              nameservers:
                addresses:
                  - "192.168.10.12"
                search:
                  - "infra.internal"
        "#);
    }

    #[test]
    fn everything_at_once_and_nothing_at_all() {
        insta::assert_snapshot!(rendered(
            "ethernets:
               bare: {}
               lan:
                 match: {name: 'enp*', macaddress: 08-00-27-AA-BB-CC}
                 set_name: lan0
                 macaddress: 02:00:00:00:00:01
                 mtu: 9000
                 optional: true
                 dhcp4: false
                 dhcp6: true
                 addresses: [10.0.0.5/24, '2001:db8::5/64']
                 routes:
                   - {to: 10.1.0.0/16, via: 10.0.0.1, metric: 50}
                   - {to: default, via: 'fe80::1', on_link: true}"
        ), @r#"
        # Managed by Ondol: Terraform's ondol_netplan or Ansible's ondol.cloud.netplan.
        # What is changed here by hand is drift: the next run puts it back.
        network:
          version: 2
          renderer: networkd
          ethernets:
            "bare": {}
            "lan":
              match:
                name: "enp*"
                macaddress: "08:00:27:aa:bb:cc"
              set-name: "lan0"
              macaddress: "02:00:00:00:00:01"
              mtu: 9000
              optional: true
              dhcp4: false
              dhcp6: true
              addresses:
                - "10.0.0.5/24"
                - "2001:db8::5/64"
              routes:
                - to: "10.1.0.0/16"
                  via: "10.0.0.1"
                  metric: 50
                - to: "default"
                  via: "fe80::1"
                  on-link: true
        "#);
    }

    #[test]
    fn what_is_written_reads_back_as_yaml_with_the_same_values() {
        let text = rendered(
            "ethernets: {on: {macaddress: '02:00:00:00:00:01', addresses: ['2001:db8::5/64']}}",
        );
        let value: serde_json::Value = serde_norway::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"network": {"version": 2, "renderer": "networkd", "ethernets": {
                "on": {"macaddress": "02:00:00:00:00:01", "addresses": ["2001:db8::5/64"]}}}})
        );
    }
}
