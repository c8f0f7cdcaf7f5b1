//! The scripts on a real guest: Debian 12 with systemd-networkd and netplan in a container with a network of its own.
//!
//! Needs root, systemd-nspawn and a root file system: `ONDOL_TEST_ROOTFS`, or the newest golden image of Debian 12 below
//! `/var/cache/ondol/images`.
//! Without them the tests skip loudly; with `CI` set they fail. They do not test how a client reaches the guest.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod lab;

use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::Guest;
use ondol_netplan::{
    BeginError, Change, ChangeId, Config, Desired, OBSERVE, Observed, Problem, Status, Step, abort,
    begin, blockers, confirm, direct, parse_begin, parse_observation, parse_status, plan, status,
};

const FIRST_BOOT: &str = "169.254.7.7";
const ADDRESS: &str = "192.168.10.11";

fn desired(yaml: &str) -> Desired {
    let config: Config = serde_norway::from_str(yaml).unwrap();
    Desired::present(&config, None).unwrap()
}

fn usual() -> Desired {
    desired(
        "ethernets:
           enp0s3:
             addresses: [192.168.10.11/24]
             gateway4: 192.168.10.1
             nameservers: {addresses: [192.168.10.12], search: [infra.internal]}",
    )
}

fn observe(guest: &Guest) -> Observed {
    parse_observation(&guest.sh(OBSERVE)).unwrap()
}

fn lines(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

fn state(guest: &Guest) -> Status {
    parse_status(&guest.sh(&status()))
}

fn change(guest: &Guest, desired: &Desired, id: &str, seconds: u64) -> Change {
    let observed = observe(guest);
    assert_eq!(blockers(desired, &observed), Vec::<Problem>::new());
    Change::of(
        desired,
        &observed,
        &plan(desired, &observed),
        ChangeId::new(id).unwrap(),
        Duration::from_secs(seconds),
    )
    .expect("there is something to change")
}

fn begun(guest: &Guest, change: &Change) -> Result<(), BeginError> {
    parse_begin(&change.id, &guest.sh(&begin(change)))
}

/// Brings `desired` about as a client does, and checks that nothing is left to do.
fn converge(guest: &Guest, desired: &Desired, id: &str) {
    let change = change(guest, desired, id, 30);
    begun(guest, &change).unwrap();
    assert_eq!(
        parse_status(&guest.sh(&confirm(&change.id))),
        Status::Confirmed { id: id.to_owned() }
    );
    settles(guest, desired);
}

/// networkd takes a moment to have routes and name servers up.
fn settles(guest: &Guest, desired: &Desired) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left = lines(&plan(desired, &observe(guest)));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left to do: {left:?}");
        sleep(Duration::from_millis(200));
    }
}

#[track_caller]
fn wait_for(what: &str, seconds: u64, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !seen() {
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_network_is_brought_up_once_and_drift_is_mended() {
    let Some(guest) = Guest::start("up") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));
    let desired = usual();
    assert_eq!(
        lines(&plan(&desired, &observe(&guest))),
        [
            "create /etc/netplan/60-ondol.yaml",
            "apply: enp0s3 lacks address 192.168.10.11/24; enp0s3 has address 169.254.7.7/16 as well; \
             enp0s3 lacks route default via 192.168.10.1; enp0s3 uses name servers [], not [192.168.10.12]; \
             enp0s3 searches [], not [infra.internal]"
        ]
    );
    assert_eq!(state(&guest), Status::None);
    converge(&guest, &desired, "first");
    wait_for("new address", 5, || guest.answers(ADDRESS));
    assert!(!guest.answers(FIRST_BOOT));
    assert_eq!(
        guest.sh("stat -c '%a %u %g' /etc/netplan/60-ondol.yaml; ls /run/netplan /etc/netplan"),
        "600 0 0\n/etc/netplan:\n60-ondol.yaml\n\n/run/netplan:\n"
    );

    // The mode alone is mended without touching the network.
    guest.sh("chmod 644 /etc/netplan/60-ondol.yaml");
    let steps = plan(&desired, &observe(&guest));
    assert_eq!(
        steps,
        [Step::Protect {
            mode: 0o644,
            uid: 0,
            gid: 0
        }]
    );
    guest.sh(&direct(&steps).unwrap());
    settles(&guest, &desired);

    // The file's text.
    guest.sh("sed -i s/192.168.10.12/192.168.10.13/ /etc/netplan/60-ondol.yaml");
    assert_eq!(
        lines(&plan(&desired, &observe(&guest))),
        ["change /etc/netplan/60-ondol.yaml: [- - \"192.168.10.13\"] [+ - \"192.168.10.12\"]"]
    );
    converge(&guest, &desired, "text");

    // What runs: an address too many, the default route gone.
    guest.sh("ip address add 192.168.10.99/24 dev enp0s3; ip route del default");
    assert_eq!(
        lines(&plan(&desired, &observe(&guest))),
        [
            "apply: enp0s3 has address 192.168.10.99/24 as well; enp0s3 lacks route default via 192.168.10.1"
        ]
    );
    converge(&guest, &desired, "running");
    assert!(guest.answers(ADDRESS));

    // The address itself, on a durable file.
    guest.sh("ip address flush dev enp0s3 scope global");
    converge(&guest, &desired, "flushed");

    // A new address in place.
    let moved = desired_with("192.168.10.61/24");
    converge(&guest, &moved, "moved");
    wait_for("moved address", 5, || guest.answers("192.168.10.61"));
    assert!(!guest.answers(ADDRESS));

    // It holds over a reboot.
    let guest = guest.restart();
    wait_for("address after a reboot", 20, || {
        guest.answers("192.168.10.61")
    });
    settles(&guest, &moved);

    // Gone from the file, still running.
    let steps = plan(&Desired::absent(), &observe(&guest));
    assert_eq!(steps, [Step::RemoveFile]);
    guest.sh(&direct(&steps).unwrap());
    assert!(guest.answers("192.168.10.61"));
    assert_eq!(plan(&Desired::absent(), &observe(&guest)), []);
    let guest = guest.restart();
    wait_for("first boot address after removal", 20, || {
        guest.answers(FIRST_BOOT)
    });
}

/// Writes the fixtures of the unit tests anew: `ONDOL_WRITE_FIXTURES=1`. Otherwise checks that what a guest prints still reads.
#[test]
fn what_a_guest_prints_is_what_the_fixtures_hold() {
    let Some(guest) = Guest::start("fixture") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));
    let fixture = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(name);
        let text = guest.sh(OBSERVE);
        if std::env::var_os("ONDOL_WRITE_FIXTURES").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let now = parse_observation(&text).unwrap();
        let then = parse_observation(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let shape = |o: &Observed| {
            let links: Vec<_> = o
                .links
                .iter()
                .map(|(name, link)| {
                    (
                        name.clone(),
                        link.mac.clone(),
                        link.addresses.clone(),
                        link.dns.clone(),
                    )
                })
                .collect();
            (
                o.hostname.clone(),
                o.file.clone(),
                o.routes.clone(),
                o.status.clone(),
                links,
            )
        };
        assert_eq!(shape(&now), shape(&then), "{name}");
    };
    fixture("first-boot.txt");
    converge(&guest, &usual(), "fixture");
    fixture("configured.txt");
}

fn desired_with(address: &str) -> Desired {
    desired(&format!(
        "ethernets: {{enp0s3: {{addresses: [{address}], gateway4: 192.168.10.1}}}}"
    ))
}

#[test]
fn what_is_not_confirmed_goes_back_by_itself() {
    let Some(guest) = Guest::start("back") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));

    // From the very first state: networkd's own file, no netplan at all.
    let lost = desired("ethernets: {enp0s3: {addresses: [10.77.0.5/24]}}");
    begun(&guest, &change(&guest, &lost, "lost", 3)).unwrap();
    wait_for("cut off", 5, || !guest.answers(FIRST_BOOT));
    // A second one is refused meanwhile.
    let second = begun(&guest, &change(&guest, &usual(), "second", 3));
    assert!(matches!(second, Err(BeginError::Refused(_))), "{second:?}");
    wait_for("back", 12, || guest.answers(FIRST_BOOT));
    wait_for("settled", 5, || {
        state(&guest)
            == Status::RolledBack {
                id: "lost".to_owned(),
                reason: "not confirmed within 3 s".to_owned(),
            }
    });
    // Too late.
    let late = parse_status(&guest.sh(&confirm(&ChangeId::new("lost").unwrap())));
    assert!(matches!(late, Status::RolledBack { .. }), "{late:?}");
    assert_eq!(
        guest.sh("ls /etc/netplan /run/netplan"),
        "/etc/netplan:\n\n/run/netplan:\n"
    );

    // From a confirmed state.
    converge(&guest, &usual(), "good");
    begun(&guest, &change(&guest, &lost, "lost-again", 30)).unwrap();
    wait_for("cut off", 5, || !guest.answers(ADDRESS));
    let answer = guest.sh(&abort(
        &ChangeId::new("lost-again").unwrap(),
        "the gateway is silent",
    ));
    assert_eq!(
        parse_status(&answer),
        Status::RolledBack {
            id: "lost-again".to_owned(),
            reason: "the gateway is silent".to_owned()
        }
    );
    wait_for("back", 5, || guest.answers(ADDRESS));
    settles(&guest, &usual());

    // The guard killed in the middle: systemd settles it all the same.
    begun(&guest, &change(&guest, &lost, "killed", 30)).unwrap();
    wait_for("cut off", 5, || !guest.answers(ADDRESS));
    guest.sh("systemctl kill --signal=KILL ondol-netplan.service");
    wait_for("back", 5, || guest.answers(ADDRESS));
    settles(&guest, &usual());

    // Guard and settling both dead: the next change takes the old one back first.
    begun(&guest, &change(&guest, &lost, "abandoned", 30)).unwrap();
    wait_for("cut off", 5, || !guest.answers(ADDRESS));
    guest.sh(
        "cd /run/ondol/netplan; cp settle.sh kept; echo exit 0 > settle.sh
         systemctl kill --signal=KILL ondol-netplan.service; sleep 1; mv kept settle.sh",
    );
    assert_eq!(
        state(&guest),
        Status::Abandoned {
            id: "abandoned".to_owned()
        }
    );
    assert!(!guest.answers(ADDRESS));
    converge(&guest, &usual(), "after-abandoned");
    wait_for("back", 5, || guest.answers(ADDRESS));

    // A reboot in the middle.
    begun(&guest, &change(&guest, &lost, "reboot", 300)).unwrap();
    wait_for("cut off", 5, || !guest.answers(ADDRESS));
    let guest = guest.pull_the_plug();
    wait_for("back after a reboot", 20, || guest.answers(ADDRESS));
    assert_eq!(state(&guest), Status::None);
    settles(&guest, &usual());
}

#[test]
fn an_address_that_no_file_knows_comes_back_too() {
    let Some(guest) = Guest::start("byhand") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));
    guest.sh(
        "rm /etc/systemd/network/70-ondol-first-boot.network; networkctl reload; sleep 1
         ip address flush dev enp0s3 scope global; ip address add 192.168.10.70/24 dev enp0s3; ip link set enp0s3 up
         ip route add default via 192.168.10.1",
    );
    wait_for("address by hand", 5, || guest.answers("192.168.10.70"));
    let lost = desired("ethernets: {enp0s3: {addresses: [10.77.0.5/24], mtu: 1400}}");
    begun(&guest, &change(&guest, &lost, "lost", 2)).unwrap();
    wait_for("cut off", 5, || !guest.answers("192.168.10.70"));
    wait_for("back", 15, || guest.answers("192.168.10.70"));
    wait_for("settled", 5, || {
        matches!(state(&guest), Status::RolledBack { .. })
    });
    assert_eq!(
        guest.sh("ip -o link show enp0s3 | grep -o 'mtu [0-9]*'; ip route show default"),
        "mtu 1500\ndefault via 192.168.10.1 dev enp0s3 \n"
    );
}

#[test]
fn netplan_refuses_and_nothing_has_happened() {
    let Some(guest) = Guest::start("refuse") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));
    // A file of somebody else's that is broken makes netplan refuse everything.
    guest.sh(
        "printf 'network: {ethernets: [' > /etc/netplan/99-broken.yaml; chmod 600 /etc/netplan/*",
    );
    let error = begun(&guest, &change(&guest, &usual(), "c", 30)).unwrap_err();
    let BeginError::Invalid(words) = &error else {
        panic!("{error:?}")
    };
    assert!(
        words.contains("/etc/netplan/99-broken.yaml:2:1: Invalid YAML"),
        "{words}"
    );
    assert!(!words.contains("/run/ondol"), "{words}");
    assert!(guest.answers(FIRST_BOOT));
    assert_eq!(state(&guest), Status::None);
    assert_eq!(
        guest.sh("ls /etc/netplan; ls /run/ondol/netplan"),
        "99-broken.yaml\napply.sh\nlock\nsettle.sh\n"
    );
}

#[test]
fn another_file_for_the_interface_steps_aside_and_comes_back() {
    let Some(guest) = Guest::start("aside") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));
    guest.sh(
        "printf 'network: {version: 2, ethernets: {enp0s3: {addresses: [192.168.10.80/24]}}}' > /etc/netplan/50-cloud-init.yaml
         chmod 600 /etc/netplan/*; /lib/netplan/generate; networkctl reload",
    );
    wait_for("the other file's address", 10, || {
        guest.answers("192.168.10.80")
    });
    let desired = usual();
    assert_eq!(
        lines(&plan(&desired, &observe(&guest)))[0],
        "move /etc/netplan/50-cloud-init.yaml aside (it defines enp0s3)"
    );

    // Taken back: nothing was moved.
    begun(&guest, &change(&guest, &desired, "a", 60)).unwrap();
    wait_for("new address", 5, || guest.answers(ADDRESS));
    assert!(!guest.answers("192.168.10.80"));
    guest.sh(&abort(&ChangeId::new("a").unwrap(), "no"));
    wait_for("the other file's address again", 5, || {
        guest.answers("192.168.10.80")
    });
    assert_eq!(guest.sh("ls /etc/netplan"), "50-cloud-init.yaml\n");

    converge(&guest, &desired, "b");
    assert_eq!(
        guest.sh("ls /etc/netplan /var/lib/ondol/netplan/replaced"),
        "/etc/netplan:\n60-ondol.yaml\n\n/var/lib/ondol/netplan/replaced:\n50-cloud-init.yaml\n"
    );
    let steps = plan(&Desired::absent(), &observe(&guest));
    assert_eq!(
        lines(&steps),
        [
            "restore /etc/netplan/50-cloud-init.yaml",
            "remove /etc/netplan/60-ondol.yaml"
        ]
    );
    guest.sh(&direct(&steps).unwrap());
    assert!(guest.answers(ADDRESS));
    assert_eq!(plan(&Desired::absent(), &observe(&guest)), []);
    let guest = guest.restart();
    wait_for("the other file's address after a reboot", 20, || {
        guest.answers("192.168.10.80")
    });
}

#[test]
fn names_are_changed() {
    let Some(guest) = Guest::start("names") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));
    let config: Config = serde_norway::from_str(
        "ethernets: {lan: {match: {name: 'enp*'}, set_name: lan0, addresses: [192.168.10.11/24]}}",
    )
    .unwrap();
    let desired = Desired::present(&config, Some("renamed-01")).unwrap();
    let observed = observe(&guest);
    let steps = plan(&desired, &observed);
    let change = Change::of(
        &desired,
        &observed,
        &steps,
        ChangeId::new("r").unwrap(),
        Duration::from_secs(3),
    )
    .unwrap();
    // Not confirmed: the interface has its old name again.
    begun(&guest, &change).unwrap();
    wait_for("renamed", 5, || guest.sh("ip -br link").contains("lan0"));
    wait_for("settled", 15, || {
        matches!(state(&guest), Status::RolledBack { .. })
    });
    assert!(guest.sh("ip -br link").contains("enp0s3"));
    assert!(guest.answers(FIRST_BOOT));

    begun(&guest, &change).unwrap();
    assert!(matches!(
        parse_status(&guest.sh(&confirm(&change.id))),
        Status::Confirmed { .. }
    ));
    guest.sh(&direct(&steps).unwrap());
    settles(&guest, &desired);
    assert_eq!(
        guest.sh("uname -n; cat /etc/hostname; grep -c '127.0.1.1 renamed-01' /etc/hosts"),
        "renamed-01\nrenamed-01\n1\n"
    );
}

/// This test program, run inside the guest by `module` below: answers one call of the Ansible module.
#[test]
#[ignore = "runs inside the guest"]
fn inside_the_guest() {
    let params = std::fs::read_to_string("/params.json").unwrap();
    let params: ondol_netplan::module::Params = serde_json::from_str(&params).unwrap();
    let desired = ondol_netplan::module::Desired::try_from(params).unwrap();
    let mode = match std::env::var_os("CHECK") {
        Some(_) => ondol_kit::Mode::Check,
        None => ondol_kit::Mode::Apply,
    };
    let outcome = ondol_kit::converge(&mut ondol_netplan::Netplan::default(), &desired, mode);
    let error = outcome.error.map(|error| format!("{error:#}"));
    let answer = serde_json::json!({"steps": outcome.steps, "error": error});
    std::fs::write("/answer.json", answer.to_string()).unwrap();
}

/// Steps and error of one call on the guest.
fn module(guest: &Guest, params: &serde_json::Value, check: bool) -> (Vec<String>, Option<String>) {
    guest.put("/params.json", params.to_string().as_bytes());
    let check = if check { "CHECK=1 " } else { "" };
    guest.sh(&format!(
        "{check}/module --ignored --exact inside_the_guest > /dev/null"
    ));
    let answer: serde_json::Value = serde_json::from_str(&guest.sh("cat /answer.json")).unwrap();
    (
        serde_json::from_value(answer["steps"].clone()).unwrap(),
        serde_json::from_value(answer["error"].clone()).unwrap(),
    )
}

#[test]
fn the_module_confirms_what_answers_and_takes_back_what_does_not() {
    let Some(guest) = Guest::start("module") else {
        return;
    };
    wait_for("first boot address", 20, || guest.answers(FIRST_BOOT));
    guest.put(
        "/module",
        &std::fs::read(std::env::current_exe().unwrap()).unwrap(),
    );
    guest.sh("chmod 755 /module");
    let good = serde_json::json!({"ethernets": {"enp0s3": {"addresses": ["192.168.10.11/24"], "gateway4": "192.168.10.1",
        "nameservers": {"addresses": ["192.168.10.12"]}}}});

    let (planned, error) = module(&guest, &good, true);
    assert_eq!((planned.len(), error), (1, None));
    assert!(guest.answers(FIRST_BOOT), "check mode changed something");
    assert_eq!(module(&guest, &good, false), (planned, None));
    assert!(guest.answers(ADDRESS));
    assert_eq!(module(&guest, &good, false), (vec![], None));

    // The gateway is not there: back to the old address, and said so.
    let silent = serde_json::json!({"ethernets": {"enp0s3": {"addresses": ["192.168.77.5/24"], "gateway4": "192.168.77.1"}},
        "rollback_after": 5});
    let (done, error) = module(&guest, &silent, false);
    assert_eq!(done, Vec::<String>::new());
    let error = error.unwrap();
    assert!(
        error.ends_with("rolled back: 192.168.77.1 did not answer"),
        "{error}"
    );
    wait_for("old address", 5, || guest.answers(ADDRESS));
    settles(&guest, &usual_without_search());

    // A TCP port as the proof; nobody listens on 9.
    let port = serde_json::json!({"ethernets": {"enp0s3": {"addresses": ["192.168.10.12/24"]}},
        "verify": [{"address": "192.168.10.1", "port": 9}], "rollback_after": 5});
    let (_, error) = module(&guest, &port, false);
    assert!(
        error
            .unwrap()
            .ends_with("rolled back: 192.168.10.1 port 9 did not answer")
    );

    let unknown = serde_json::json!({"ethernets": {"enp0s9": {"dhcp4": true}}});
    let (_, error) = module(&guest, &unknown, false);
    assert!(
        error
            .unwrap()
            .starts_with("ethernets.enp0s9: the guest has no such interface")
    );

    assert_eq!(
        module(&guest, &serde_json::json!({"state": "absent"}), false),
        (vec!["remove /etc/netplan/60-ondol.yaml".to_owned()], None)
    );
    assert_eq!(
        module(&guest, &serde_json::json!({"state": "absent"}), false),
        (vec![], None)
    );
    assert!(guest.answers(ADDRESS));
}

fn usual_without_search() -> Desired {
    desired(
        "ethernets: {enp0s3: {addresses: [192.168.10.11/24], gateway4: 192.168.10.1, nameservers: {addresses: [192.168.10.12]}}}",
    )
}
