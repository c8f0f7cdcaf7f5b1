//! What is known while planning, what a guest shows, and mistakes, as tables.

use std::collections::BTreeMap;

use ondol_netplan as guest;
use ondol_netplan::{Desired, Observed, Presence};
use tfplugin::Attr;

use super::model::Ethernet;
use super::ssh::Ssh;
use super::*;
use crate::ssh::{Credential, Secret};
use ondol_netplan::{Hostname, Link, OwnFile, RunningAddress, RunningRoute};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

fn model() -> Model {
    Model {
        host: "srv-01".into(),
        vm: "7".into(),
        first_boot_address: "169.254.7.7".into(),
        hostname: "web-01".into(),
        ethernets: BTreeMap::from([(
            "enp0s3".to_owned(),
            Ethernet {
                addresses: vec!["192.168.10.29/24".to_owned()].into(),
                gateway4: "192.168.10.1".into(),
                ..Ethernet::default()
            },
        )])
        .into(),
        ssh: Ssh {
            user: "ops".into(),
            port: 22.into(),
            host_key: KEY.into(),
            private_key_file: "/keys/id".into(),
            ..Ssh::default()
        }
        .into(),
        confirm_timeout_seconds: 30.into(),
        ..Model::default()
    }
}

fn ethernet(model: &mut Model) -> &mut Ethernet {
    model
        .ethernets
        .known_mut()
        .unwrap()
        .get_mut("enp0s3")
        .unwrap()
}

fn desired() -> Desired {
    model().desired().unwrap().unwrap()
}

/// A guest that is as `model` wants it.
fn guest_as_wanted() -> Observed {
    let Presence::Present(network) = desired().presence else {
        unreachable!("present() is present")
    };
    let link = Link {
        index: 2,
        mac: "08:00:27:00:00:01".to_owned(),
        permanent_mac: None,
        mtu: 1500,
        carrier: true,
        addresses: vec![RunningAddress {
            net: "192.168.10.29/24".parse().unwrap(),
            dynamic: false,
        }],
        dns: None,
    };
    Observed {
        hostname: Hostname {
            running: "web-01".to_owned(),
            fixed: Some("web-01".to_owned()),
        },
        file: Some(OwnFile {
            text: guest::render(&network),
            mode: 0o600,
            uid: 0,
            gid: 0,
        }),
        links: BTreeMap::from([("enp0s3".to_owned(), link)]),
        routes: vec![RunningRoute {
            to: None,
            via: Some("192.168.10.1".parse().unwrap()),
            device: "enp0s3".to_owned(),
            metric: None,
            dynamic: false,
        }],
        ..Observed::default()
    }
}

#[test]
fn everything_that_a_good_guest_shows_is_known_while_planning() {
    let planned = plan(model());
    assert_eq!(planned.address, "192.168.10.29".into());
    assert_eq!(
        planned.running_addresses,
        vec!["192.168.10.29/24".to_owned()].into()
    );
    assert_eq!(
        observed_state(planned.clone(), &desired(), &guest_as_wanted()),
        planned
    );
}

#[test]
fn an_unknown_address_leaves_unknown_what_follows_from_it() {
    let mut unknown = model();
    ethernet(&mut unknown).addresses = Attr::Unknown;
    let planned = plan(unknown);
    assert!(
        planned.address.is_unknown()
            && planned.file_sha256.is_unknown()
            && planned.running_addresses.is_unknown()
    );
    assert_eq!(planned.drift, Vec::new().into());
}

#[test]
fn what_differs_on_the_guest_differs_in_the_state() {
    type Damage = fn(&mut Observed);
    type Seen = fn(&Model) -> bool;
    let cases: [(Damage, Seen); 5] = [
        (
            |guest| guest.hostname.running = "evil".to_owned(),
            |state| state.hostname == "evil".into(),
        ),
        (
            |guest| guest.hostname.fixed = Some("evil".to_owned()),
            |state| state.hostname == "evil".into(),
        ),
        (
            |guest| guest.file = None,
            |state| state.file_sha256.is_null(),
        ),
        (
            |guest| guest.file.as_mut().unwrap().mode = 0o644,
            |state| state.drift.known().unwrap()[0].contains("is 0644"),
        ),
        (
            |guest| {
                guest.links.get_mut("enp0s3").unwrap().addresses[0].net =
                    "192.168.10.99/24".parse().unwrap()
            },
            |state| state.running_addresses == vec!["192.168.10.99/24".to_owned()].into(),
        ),
    ];
    for (position, (damage, seen)) in cases.into_iter().enumerate() {
        let mut guest = guest_as_wanted();
        damage(&mut guest);
        let state = observed_state(plan(model()), &desired(), &guest);
        assert!(seen(&state), "{position}: {state:?}");
        assert!(!state.drift.known().unwrap().is_empty(), "{position}");
    }
}

#[test]
fn a_guest_is_looked_for_where_it_was_confirmed_and_a_new_one_where_it_boots() {
    let (first_boot, wanted): (IpAddr, IpAddr) = (
        "169.254.7.7".parse().unwrap(),
        "192.168.10.29".parse().unwrap(),
    );
    assert_eq!(
        candidates(None, &desired(), first_boot),
        [first_boot, wanted]
    );
    let prior = Model {
        address: "192.168.10.77".into(),
        ..model()
    };
    assert_eq!(
        candidates(Some(&prior), &desired(), first_boot),
        ["192.168.10.77".parse().unwrap(), wanted, first_boot]
    );
    let same = plan(model());
    assert_eq!(
        candidates(Some(&same), &desired(), first_boot),
        [wanted, first_boot]
    );
}

fn problems(model: &Model) -> Vec<String> {
    let mut diagnostics = Diagnostics::new();
    NetplanResource::validate(model, &mut diagnostics);
    diagnostics
        .iter()
        .map(|diagnostic| diagnostic.path.to_string())
        .collect()
}

#[test]
fn mistakes_are_named_where_they_stand() {
    assert_eq!(problems(&model()), [""; 0]);
    let with = |change: fn(&mut Model)| {
        let mut model = model();
        change(&mut model);
        problems(&model)
    };
    let ssh = |change: fn(&mut Ssh)| {
        let mut model = model();
        change(model.ssh.known_mut().unwrap());
        problems(&model)
    };
    assert_eq!(
        with(|m| ethernet(m).addresses = vec!["192.168.10.29".to_owned()].into()),
        [
            "ethernets[\"enp0s3\"].addresses[0]",
            "ethernets[\"enp0s3\"].gateway4"
        ]
    );
    assert_eq!(with(|m| m.hostname = "Web 01".into()), ["hostname"]);
    assert_eq!(
        with(|m| m.first_boot_address = "web".into()),
        ["first_boot_address"]
    );
    assert_eq!(ssh(|ssh| ssh.host_key = Attr::Null), ["ssh.host_key"]);
    assert_eq!(
        ssh(|ssh| ssh.host_key = "ssh-ed25519 junk".into()),
        ["ssh.host_key"]
    );
    assert_eq!(ssh(|ssh| ssh.host_key = Attr::Unknown), [""; 0]);
    assert_eq!(ssh(|ssh| ssh.private_key_file = Attr::Null), ["ssh"]);
    assert_eq!(ssh(|ssh| ssh.private_key_file = Attr::Unknown), [""; 0]);
}

#[test]
fn credentials_are_tried_in_the_documented_order() {
    let ssh = Ssh {
        password: "p".into(),
        agent: true.into(),
        private_key: "text".into(),
        private_key_file: "/keys/id".into(),
        private_key_passphrase: "open".into(),
        ..Ssh::default()
    };
    let passphrase = Some(Secret::new("open"));
    assert_eq!(
        ssh.credentials(),
        [
            Credential::KeyFile {
                path: "/keys/id".into(),
                passphrase: passphrase.clone()
            },
            Credential::Key {
                text: Secret::new("text"),
                passphrase
            },
            Credential::Agent { socket: None },
            Credential::Password(Secret::new("p")),
        ]
    );
}
