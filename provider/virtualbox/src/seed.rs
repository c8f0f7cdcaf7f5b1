//! The `cidata` medium that cloud-init reads at the first boot (its NoCloud data source): who the guest is, who may enter, and its
//! first network.
//!
//! Pure: bytes come out. JSON is YAML, and has no pitfalls of quoting.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::command::Attachment;
use crate::host_key::HostKey;
use crate::iso::{self, File};
use crate::spec::{Adapter, Seed, first_boot_address};

/// cloud-init looks for a volume of this name.
const LABEL: &str = "cidata";

/// The medium. `adapters` have their MAC and attachment. Another content gives another instance, so that cloud-init applies a changed
/// seed at the next boot.
pub(crate) fn write(
    id: Uuid,
    name: &str,
    seed: &Seed,
    adapters: &[Adapter],
    key: &HostKey,
) -> Vec<u8> {
    let user_data = format!("#cloud-config\n{}\n", pretty(&user_data(name, seed, key)));
    let network = format!("{}\n", pretty(&network(seed, adapters)));
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        format!("{user_data}{network}").as_bytes(),
    );
    let tag: String = digest.as_ref()[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let meta_data = json!({ "instance-id": format!("{id}-{tag}"), "local-hostname": name });
    let file = |name: &str, content: String| File {
        name: name.to_owned(),
        content: content.into_bytes(),
    };
    iso::write(
        LABEL,
        &[
            file("meta-data", format!("{}\n", pretty(&meta_data))),
            file("network-config", network),
            file("user-data", user_data),
        ],
    )
}

/// The host key in a medium that [`write`] made.
pub(crate) fn host_key(medium: &[u8]) -> Option<HostKey> {
    let text = String::from_utf8(iso::read(medium, "user-data")?).ok()?;
    let data: Value = serde_json::from_str(text.strip_prefix("#cloud-config\n")?).ok()?;
    let half = |name: &str| Some(data.get("ssh_keys")?.get(name)?.as_str()?.to_owned());
    Some(HostKey {
        private: half("ed25519_private")?,
        public: half("ed25519_public")?,
    })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("it has only string keys")
}

fn user_data(name: &str, seed: &Seed, key: &HostKey) -> Value {
    let mut user = json!({
        "name": seed.user,
        "shell": "/bin/bash",
        "lock_passwd": true,
    });
    // cloud-init warns of lists that are empty.
    if !seed.authorized_keys.is_empty() {
        user["ssh_authorized_keys"] = json!(seed.authorized_keys);
    }
    if seed.user != "root" && seed.sudo {
        user["sudo"] = json!("ALL=(ALL) NOPASSWD:ALL");
    }
    json!({
        "hostname": name,
        "preserve_hostname": false,
        "manage_etc_hosts": "localhost",
        // The one that every image has. cloud-init's own choice is not generated in most of them.
        "locale": "C.UTF-8",
        "users": [user],
        "disable_root": seed.user != "root",
        "ssh_pwauth": false,
        // No key that an image brought along survives.
        "ssh_deletekeys": true,
        "ssh_keys": { "ed25519_private": key.private, "ed25519_public": key.public },
        "growpart": { "mode": "auto", "devices": ["/"] },
    })
}

/// netplan's format, version 2. Adapters are found by their MAC and take the name that they were promised.
fn network(seed: &Seed, adapters: &[Adapter]) -> Value {
    let mut ethernets = serde_json::Map::new();
    for (index, adapter) in adapters.iter().enumerate() {
        let mac = adapter.mac.clone().unwrap_or_default();
        let mut ethernet = json!({ "match": { "macaddress": mac }, "set-name": adapter.name });
        match &seed.network {
            Some(network) if index == 0 => {
                ethernet["addresses"] = json!(network.addresses);
                if let Some(gateway) = network.gateway {
                    ethernet["routes"] = json!([{ "to": "default", "via": gateway }]);
                }
                if !network.nameservers.is_empty() {
                    ethernet["nameservers"] = json!({ "addresses": network.nameservers });
                }
            }
            _ => {
                let own = first_boot_address(&Seed::default(), &mac);
                let has_server = matches!(
                    adapter.attachment,
                    Some(Attachment::Nat | Attachment::Bridged(_) | Attachment::NatNetwork(_))
                );
                ethernet["dhcp4"] = json!(has_server);
                ethernet["optional"] = json!(true);
                if index == 0 {
                    ethernet["addresses"] = json!([format!("{own}/16")]);
                }
            }
        }
        ethernets.insert(format!("adapter{}", index + 1), ethernet);
    }
    json!({ "version": 2, "ethernets": ethernets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::StaticNetwork;

    fn adapters() -> Vec<Adapter> {
        [
            (
                "enp0s3",
                "08:00:27:00:00:01",
                Attachment::Bridged("eth0".to_owned()),
            ),
            (
                "enp0s8",
                "08:00:27:00:00:02",
                Attachment::Internal("lan".to_owned()),
            ),
        ]
        .into_iter()
        .map(|(name, mac, attachment)| Adapter {
            name: name.to_owned(),
            mac: Some(mac.to_owned()),
            attachment: Some(attachment),
            ..Adapter::default()
        })
        .collect()
    }

    fn key() -> HostKey {
        HostKey {
            private: "-----BEGIN\nsecret\n-----END\n".to_owned(),
            public: "ssh-ed25519 AAAA".to_owned(),
        }
    }

    fn text(medium: &[u8], name: &str) -> String {
        String::from_utf8(iso::read(medium, name).unwrap()).unwrap()
    }

    #[test]
    fn a_seed_says_who_the_guest_is_and_who_may_enter() {
        let seed = Seed {
            user: "ops".to_owned(),
            authorized_keys: vec!["ssh-ed25519 BBBB \"me\": #1".to_owned()],
            sudo: true,
            network: Some(StaticNetwork {
                addresses: vec!["192.168.10.11/24".to_owned()],
                gateway: Some("192.168.10.1".parse().unwrap()),
                nameservers: vec!["192.168.10.11".parse().unwrap()],
            }),
        };
        let medium = write(Uuid::nil(), "web-01", &seed, &adapters(), &key());
        insta::assert_snapshot!(format!(
            "{}{}{}",
            text(&medium, "meta-data"),
            text(&medium, "network-config"),
            text(&medium, "user-data")
        ));
        assert_eq!(host_key(&medium), Some(key()));
    }

    #[test]
    fn without_a_network_there_is_dhcp_and_a_first_boot_address() {
        let seed = Seed {
            user: "root".to_owned(),
            ..Seed::default()
        };
        let medium = write(Uuid::nil(), "web-01", &seed, &adapters(), &key());
        let network: Value = serde_json::from_str(&text(&medium, "network-config")).unwrap();
        let first = &network["ethernets"]["adapter1"];
        let address = first["addresses"][0].as_str().unwrap();
        assert!(
            address.starts_with("169.254.") && address.ends_with("/16"),
            "{address}"
        );
        assert_eq!(
            (&first["dhcp4"], &network["ethernets"]["adapter2"]["dhcp4"]),
            (&json!(true), &json!(false))
        );
        assert!(text(&medium, "user-data").contains("\"disable_root\": false"));
    }

    #[test]
    fn another_seed_is_another_instance() {
        let instance = |seed: &Seed| {
            text(
                &write(Uuid::nil(), "a", seed, &adapters(), &key()),
                "meta-data",
            )
        };
        let other = Seed {
            user: "x".to_owned(),
            ..Seed::default()
        };
        assert_eq!(instance(&Seed::default()), instance(&Seed::default()));
        assert_ne!(instance(&Seed::default()), instance(&other));
    }
}
