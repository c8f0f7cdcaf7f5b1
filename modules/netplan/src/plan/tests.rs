//! Tables for `plan` and `blockers`, from what a real guest printed (Debian 12: netplan 0.106, systemd 252, iproute2 6.1).

use std::path::Path;

use super::*;
use crate::observe::{OwnFile, parse_observation};

fn fixture(name: &str) -> Observed {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name);
    parse_observation(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn desired(yaml: &str) -> Desired {
    Desired::present(&serde_norway::from_str(yaml).unwrap(), None).unwrap()
}

const USUAL: &str = "ethernets: {enp0s3: {addresses: [192.168.10.11/24], gateway4: 192.168.10.1,
    nameservers: {addresses: [192.168.10.12], search: [infra.internal]}}}";

fn lines(desired: &Desired, observed: &Observed) -> Vec<String> {
    assert_eq!(blockers(desired, observed), []);
    plan(desired, observed)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn blocked(desired: &Desired, observed: &Observed) -> Vec<String> {
    blockers(desired, observed)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// What differs from the fixture is made by `change`.
fn changed(name: &str, change: impl FnOnce(&mut Observed)) -> Observed {
    let mut observed = fixture(name);
    change(&mut observed);
    observed
}

fn link(observed: &mut Observed) -> &mut Link {
    observed.links.get_mut("enp0s3").unwrap()
}

#[test]
fn a_fresh_guest_gets_everything() {
    assert_eq!(
        lines(&desired(USUAL), &fixture("first-boot.txt")),
        [
            "create /etc/netplan/60-ondol.yaml",
            "apply: enp0s3 lacks address 192.168.10.11/24; enp0s3 has address 169.254.7.7/16 as well; \
             enp0s3 lacks route default via 192.168.10.1; enp0s3 uses name servers [], not [192.168.10.12]; \
             enp0s3 searches [], not [infra.internal]"
        ]
    );
}

#[test]
fn a_configured_guest_needs_nothing_and_drift_is_named() {
    let wanted = desired(USUAL);
    let table: Vec<(Observed, &[&str])> = vec![
        (fixture("configured.txt"), &[]),
        (
            changed("configured.txt", |o| o.file.as_mut().unwrap().mode = 0o644),
            &["set /etc/netplan/60-ondol.yaml to mode 0600, owner root (is 0644, 0:0)"],
        ),
        (
            changed("configured.txt", |o| o.file.as_mut().unwrap().uid = 1000),
            &["set /etc/netplan/60-ondol.yaml to mode 0600, owner root (is 0600, 1000:0)"],
        ),
        (
            changed("configured.txt", |o| {
                let file = o.file.as_mut().unwrap();
                file.text = file.text.replace("10.12", "10.99") + "# mine\n";
                file.mode = 0o644;
            }),
            &[
                "change /etc/netplan/60-ondol.yaml: [- - \"192.168.10.99\"] [- search:] [- - \"infra.internal\"] [- # mine] \
               [+ - \"192.168.10.12\"] [+ search:] [+ - \"infra.internal\"]",
            ],
        ),
        (
            changed("configured.txt", |o| o.file = None),
            &["create /etc/netplan/60-ondol.yaml"],
        ),
        (
            changed("configured.txt", |o| link(o).addresses.clear()),
            &["apply: enp0s3 lacks address 192.168.10.11/24"],
        ),
        (
            changed("configured.txt", |o| {
                link(o).addresses.push(running("10.5.5.5/8", false))
            }),
            &["apply: enp0s3 has address 10.5.5.5/8 as well"],
        ),
        (
            changed("configured.txt", |o| {
                link(o).addresses.push(running("10.5.5.5/8", true))
            }),
            &["apply: enp0s3 still has 10.5.5.5/8 by DHCP"],
        ),
        (
            changed("configured.txt", |o| {
                link(o).addresses.push(running("2001:db8::7/64", true))
            }),
            &[],
        ),
        (
            changed("configured.txt", |o| o.routes.clear()),
            &["apply: enp0s3 lacks route default via 192.168.10.1"],
        ),
        (
            changed("configured.txt", |o| {
                o.routes[0].via = Some([192, 168, 10, 2].into())
            }),
            &[
                "apply: enp0s3 lacks route default via 192.168.10.1; enp0s3 has a default route via 192.168.10.2 as well",
            ],
        ),
        (
            changed("configured.txt", |o| link(o).dns = None),
            &[
                "apply: enp0s3 uses name servers [], not [192.168.10.12]; enp0s3 searches [], not [infra.internal]",
            ],
        ),
    ];
    for (observed, expected) in table {
        assert_eq!(lines(&wanted, &observed), expected);
    }
}

fn running(net: &str, dynamic: bool) -> crate::observe::RunningAddress {
    crate::observe::RunningAddress {
        net: net.parse().unwrap(),
        dynamic,
    }
}

#[test]
fn properties_of_the_link_are_compared_where_they_are_wanted() {
    let wanted = desired(
        "ethernets: {enp0s3: {addresses: [192.168.10.11/24], mtu: 1400, macaddress: '02:00:00:00:00:01'}}",
    );
    let observed = changed("configured.txt", |o| {
        o.routes.clear();
        link(o).dns = None;
        o.file.as_mut().unwrap().text = render(match &wanted.presence {
            Presence::Present(network) => network,
            Presence::Absent => unreachable!(),
        });
    });
    assert_eq!(
        lines(&wanted, &observed),
        [
            "apply: enp0s3 has hardware address 08:00:27:00:00:01, not 02:00:00:00:00:01; enp0s3 has mtu 1500, not 1400"
        ]
    );
}

#[test]
fn the_host_name_is_compared_running_and_static() {
    let config = serde_norway::from_str(USUAL).unwrap();
    let wanted = |name| Desired::present(&config, Some(name)).unwrap();
    let observed = fixture("configured.txt");
    assert_eq!(lines(&wanted("guest"), &observed), Vec::<String>::new());
    assert_eq!(
        lines(&wanted("db-01"), &observed),
        ["set hostname to \"db-01\" (is \"guest\")"]
    );
    let half = changed("configured.txt", |o| o.hostname.fixed = None);
    assert_eq!(
        lines(&wanted("guest"), &half),
        ["set hostname to \"guest\" (runs as \"guest\", /etc/hostname is missing)"]
    );
    let problems = Desired::present(&config, Some("Bad_Name")).unwrap_err();
    assert_eq!(problems[0].path, [Segment::Attribute("hostname")]);
}

fn other(path: &str, text: &str) -> OtherFile {
    let line = format!(
        "ondol-netplan-observation 1\nfile 600 0 0 {} {path}\nend",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
    );
    parse_observation(&line).unwrap().others.remove(0)
}

#[test]
fn a_file_in_the_way_is_moved_only_when_nothing_is_lost() {
    let wanted = desired(USUAL);
    let moves = |path: &str, text: &str| {
        let observed = changed("configured.txt", |o| o.others.push(other(path, text)));
        (blocked(&wanted, &observed), plan(&wanted, &observed))
    };
    let aside = |path: &str, id: &str| {
        (
            Vec::new(),
            vec![Step::MoveAside {
                path: path.to_owned(),
                interfaces: vec![id.to_owned()],
            }],
        )
    };
    let cloud = "/etc/netplan/50-cloud-init.yaml";
    let table = [
        ("network: {ethernets: {enp0s3: {dhcp4: true}}}", "enp0s3"),
        (
            "network: {ethernets: {any: {match: {name: 'en*'}, dhcp4: true}}}",
            "any",
        ),
        (
            "network: {ethernets: {m: {match: {macaddress: '08:00:27:00:00:01'}}}}",
            "m",
        ),
        (
            "network: {ethernets: {x: {match: {macaddress: 'aa:00:00:00:00:01'}, set-name: enp0s3}}}",
            "x",
        ),
    ];
    for (text, id) in table {
        assert_eq!(moves(cloud, text), aside(cloud, id), "{text}");
    }
    for harmless in [
        "network: {version: 2, renderer: NetworkManager}",
        "network: {ethernets: {enp0s8: {dhcp4: true}}}",
        "network: {ethernets: {any: {match: {name: 'eth*'}}}}",
        "network: [broken",
        "",
    ] {
        assert_eq!(moves(cloud, harmless), (vec![], vec![]), "{harmless}");
    }
    let (blocked_by, _) = moves(
        cloud,
        "network: {ethernets: {enp0s3: {}, enp0s8: {dhcp4: true}}}",
    );
    assert_eq!(
        blocked_by,
        [
            "ethernets.enp0s3: /etc/netplan/50-cloud-init.yaml defines it too, and also enp0s8, which would be lost: \
          add enp0s8 to `ethernets` or take it out of that file"
        ]
    );
    let (blocked_by, _) = moves(
        "/lib/netplan/00-x.yaml",
        "network: {ethernets: {enp0s3: {}}}",
    );
    assert_eq!(
        blocked_by,
        [
            "ethernets.enp0s3: /lib/netplan/00-x.yaml defines it too and belongs to a package; remove that package's definition first"
        ]
    );
}

#[test]
fn an_interface_that_is_not_there_is_named_with_those_that_are() {
    let observed = fixture("configured.txt");
    assert_eq!(
        blocked(&desired("ethernets: {enp0s9: {dhcp4: true}}"), &observed),
        [
            "ethernets.enp0s9: the guest has no such interface; it has enp0s3 (`optional` allows one that comes later)"
        ]
    );
    assert_eq!(
        blocked(
            &desired("ethernets: {enp0s9: {dhcp4: true, optional: true}}"),
            &observed
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        blocked(
            &desired("ethernets: {lan: {match: {macaddress: '08:00:27:00:00:01'}, dhcp4: true}}"),
            &observed
        ),
        Vec::<String>::new()
    );
}

#[test]
fn absent_restores_first_and_then_removes() {
    let observed = changed("configured.txt", |o| {
        o.replaced.push("50-cloud-init.yaml".to_owned())
    });
    assert_eq!(
        plan(&Desired::absent(), &observed),
        [
            Step::Restore {
                name: "50-cloud-init.yaml".to_owned()
            },
            Step::RemoveFile
        ]
    );
    let gone = changed("configured.txt", |o| o.file = None);
    assert_eq!(plan(&Desired::absent(), &gone), []);
}

#[test]
fn wildcards_match_as_netplans_do() {
    for (pattern, name, expected) in [
        ("en*", "enp0s3", true),
        ("enp?s3", "enp0s3", true),
        ("*", "x", true),
        ("*3", "enp0s3", true),
        ("eth*", "enp0s3", false),
        ("enp0s3", "enp0s31", false),
        ("", "", true),
    ] {
        assert_eq!(wildcard(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn an_answer_that_is_cut_off_or_foreign_is_an_error() {
    for (text, expected) in [
        (
            "",
            "the guest's answer is not an observation; it begins with \"\"",
        ),
        (
            "bash: sudo: command not found",
            "the guest's answer is not an observation; it begins with \"bash: sudo: command not found\"",
        ),
        (
            "ondol-netplan-observation 1\nhostname-running a\n",
            "the guest's answer breaks off; the last line is \"hostname-running a\"",
        ),
        (
            "ondol-netplan-observation 1\nerror iproute2 is not installed\n",
            "the guest says: iproute2 is not installed",
        ),
        (
            "ondol-netplan-observation 1\nlinks [\nend\n",
            "the guest's answer has a line that cannot be read (EOF while parsing a list at line 1 column 1): \"links [\"",
        ),
    ] {
        assert_eq!(parse_observation(text).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_fixture_holds_what_the_guest_showed() {
    let observed = fixture("configured.txt");
    assert_eq!(
        observed.file,
        Some(OwnFile {
            text: match &desired(USUAL).presence {
                Presence::Present(network) => render(network),
                Presence::Absent => unreachable!(),
            },
            mode: 0o600,
            uid: 0,
            gid: 0
        })
    );
    assert_eq!(
        observed.status,
        crate::status::Status::Confirmed {
            id: "fixture".to_owned()
        }
    );
    assert_eq!(observed.links["enp0s3"].mac, "08:00:27:00:00:01");
}
