//! The provider under real Terraform, with VMs in a lab of their own.
//!
//! Needs root, terraform, systemd-nspawn and a golden image, which is built on first use and cached.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[expect(dead_code, reason = "each test file uses its own part of the support")]
mod site;

use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ondol_image::{Distribution, Recipe};
use serde_json::{Value, json};
use site::{Done, Site, eventually, possible, provider_of};

const TWO_VMS: &str = include_str!("site/main.tf");

fn one_vm() -> String {
    TWO_VMS.replace(
        "    web-02 = { host = \"srv-02\", address = \"192.168.10.31\" }\n",
        "",
    )
}

/// Without netplan and inventory: nothing is awaited in the guest.
fn vm_only() -> String {
    let all = one_vm();
    let (vm, _) = all
        .split_once("resource \"ondol_netplan\"")
        .expect("main.tf has a netplan");
    vm.to_owned()
}

#[track_caller]
fn nothing_to_do(site: &Site) {
    assert_eq!(site.plan(), [""; 0]);
}

#[test]
fn a_site_is_built_changed_and_mended() {
    if !possible() {
        return;
    }
    let site = Site::new("site", TWO_VMS);
    site.apply().success();
    nothing_to_do(&site);
    for (vm, address) in [("web-01", "192.168.10.29"), ("web-02", "192.168.10.31")] {
        assert!(site.answers(address), "{address}");
        assert_eq!(site.guest(vm, "hostname"), vm);
        assert_eq!(
            site.guest(vm, "stat -c '%a %U' /etc/netplan/60-ondol.yaml"),
            "600 root"
        );
    }
    let inventory = std::fs::read_to_string(site.path("inventory/hosts.yml")).unwrap();
    assert!(
        inventory.contains("ansible_host: 192.168.10.29"),
        "{inventory}"
    );
    let mode = |name: &str| {
        std::fs::metadata(site.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("inventory/hosts.yml"), mode("inventory/known_hosts")),
        (0o644, 0o600)
    );

    an_edited_address_moves_that_guest_only(&site);
    drift_in_a_guest_is_seen_and_mended(&site);
    a_killed_host_is_planned_back_to_running(&site);
    a_vm_is_changed_in_place(&site);

    site.terraform(&["destroy", "-auto-approve"]).success();
    assert_eq!(site.lab().list().unwrap().len(), 0);
    assert!(!site.path("inventory/hosts.yml").exists());
}

fn an_edited_address_moves_that_guest_only(site: &Site) {
    site.edit("192.168.10.29", "192.168.10.77");
    let plan = site.plan_json();
    assert_eq!(
        site.plan(),
        [
            "update ondol_ansible_inventory.site",
            "update ondol_netplan.vm[\"web-01\"]"
        ]
    );
    let changed: Vec<String> = site
        .difference(&plan, "ondol_netplan.vm[\"web-01\"]")
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(
        changed,
        ["address", "ethernets", "file_sha256", "running_addresses"]
    );
    site.apply().success();
    assert!(site.answers("192.168.10.77"));
    assert!(!site.answers("192.168.10.29"));
    nothing_to_do(site);
}

fn drift_in_a_guest_is_seen_and_mended(site: &Site) {
    let address = "ondol_netplan.vm[\"web-01\"]";
    let damages: [(&str, &str, &str); 4] = [
        (
            "echo '# tampered' >> /etc/netplan/60-ondol.yaml",
            "file_sha256",
            "grep -c 'tampered' /etc/netplan/60-ondol.yaml || true",
        ),
        (
            "chmod 644 /etc/netplan/60-ondol.yaml",
            "drift",
            "stat -c %a /etc/netplan/60-ondol.yaml",
        ),
        ("hostnamectl set-hostname evil", "hostname", "hostname"),
        (
            "ip address del 192.168.10.77/24 dev enp0s3; ip address add 192.168.10.99/24 dev enp0s3",
            "running_addresses",
            "ip -4 -o address show dev enp0s3 | grep -c 192.168.10.99 || true",
        ),
    ];
    let mended = ["0", "600", "web-01", "0"];
    for ((damage, attribute, look), expected) in damages.into_iter().zip(mended) {
        site.guest("web-01", damage);
        let plan = site.plan_json();
        let seen = site.difference(&plan, address);
        assert!(
            seen.iter().any(|(name, ..)| name == attribute),
            "{damage}: {seen:?}"
        );
        let drift = seen.iter().find(|(name, ..)| name == "drift");
        if attribute != "hostname" {
            assert_eq!(
                drift.map(|(_, _, after)| after),
                Some(&json!([])),
                "{damage}: {seen:?}"
            );
        }
        site.apply().success();
        assert_eq!(site.guest("web-01", look), expected, "{damage}");
        nothing_to_do(site);
    }
}

fn a_killed_host_is_planned_back_to_running(site: &Site) {
    site.lab().kill("srv-01").unwrap();
    let plan = site.plan_json();
    assert_eq!(
        site.difference(&plan, "ondol_vm.vm[\"web-01\"]"),
        [("state".to_owned(), json!("stopped"), json!("running"))]
    );
    assert_eq!(site.plan(), ["update ondol_vm.vm[\"web-01\"]"]);
    site.apply().success();
    assert!(eventually(Duration::from_secs(30), || site.answers("192.168.10.77")));
    nothing_to_do(site);
}

fn a_vm_is_changed_in_place(site: &Site) {
    let id = site.attribute("ondol_vm.vm[\"web-01\"]", "id");
    site.edit(
        "  memory_mib = 256\n",
        "  memory_mib = 320\n  disks = { data = { size_mib = 64 } }\n",
    );
    assert_eq!(
        site.plan(),
        [
            "update ondol_vm.vm[\"web-01\"]",
            "update ondol_vm.vm[\"web-02\"]"
        ]
    );
    site.apply().success();
    assert_eq!(site.attribute("ondol_vm.vm[\"web-01\"]", "id"), id);
    assert!(site.answers("192.168.10.77"));
    nothing_to_do(site);
    site.edit("size_mib = 64", "size_mib = 32");
    site.terraform(&["plan"]).failure().says(&[
        "disks[\"data\"].size_mib cannot become 32",
        "a disk can only grow",
    ]);
    site.edit("size_mib = 32", "size_mib = 64");
}

#[test]
fn a_network_that_cuts_the_guest_off_is_taken_back_by_the_guest() {
    if !possible() {
        return;
    }
    let site = Site::new("cut", &one_vm());
    site.apply().success();
    // No address of the lab's network: nobody can confirm it.
    site.edit(
        "addresses   = [\"${each.value.address}/24\"]\n      gateway4    = \"192.168.10.1\"",
        "addresses   = [\"10.99.0.5/24\"]",
    );
    let failed = site.apply().failure();
    failed.says(&[
        "was taken back",
        "rolled it back by itself",
        "answers on 192.168.10.29 as before",
        "ethernets",
    ]);
    assert!(site.answers("192.168.10.29"));
    assert!(
        site.guest("web-01", "cat /etc/netplan/60-ondol.yaml")
            .contains("192.168.10.29")
    );
    // The address stays, but nothing of the network can be reached from it: an old connection must not vouch for it.
    site.edit(
        "addresses   = [\"10.99.0.5/24\"]",
        "addresses   = [\"192.168.10.29/32\"]",
    );
    site.apply()
        .failure()
        .says(&["was taken back", "answers on 192.168.10.29 as before"]);
    assert!(site.answers("192.168.10.29"));
    site.edit(
        "addresses   = [\"192.168.10.29/32\"]",
        "addresses   = [\"192.168.10.29/24\"]\n      gateway4    = \"192.168.10.1\"",
    );
    site.apply().success();
    nothing_to_do(&site);
}

#[test]
fn an_apply_whose_provider_is_killed_is_completed_by_the_next() {
    if !possible() {
        return;
    }
    let site = Site::new("kill", TWO_VMS);
    let kill = |mut apply: std::process::Child| {
        for pid in provider_of(&apply) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        apply.wait().unwrap();
    };
    let early = site.start_apply();
    std::thread::sleep(Duration::from_millis(700));
    kill(early);
    // The worst moment: the guest runs a network that nobody has confirmed.
    let late = site.start_apply();
    let pending = || {
        let status = site
            .lab()
            .exec("web-01", &["cat", "/run/ondol/netplan/status"], b"");
        status.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("state pending"))
    };
    assert!(
        eventually(Duration::from_secs(60), pending),
        "the guest's network was never pending"
    );
    kill(late);
    site.apply().success();
    nothing_to_do(&site);
    assert_eq!(site.lab().list().unwrap().len(), 2);
    assert!(site.answers("192.168.10.29") && site.answers("192.168.10.31"));
    let mut expected = vec![
        format!("namespace ondol-{}", site.lab),
        "port".to_owned(),
        "port".to_owned(),
    ];
    for vm in ["web-01", "web-02"] {
        expected.push(format!("container ondol-{}.{vm}", site.lab));
        expected.push(format!("namespace ondol-{}.{vm}", site.lab));
    }
    expected.sort();
    assert_eq!(site.traces(), expected, "more is there than two VMs need");
    site.terraform(&["destroy", "-auto-approve"]).success();
    site.lab().destroy().unwrap();
    assert_eq!(site.traces(), [""; 0]);
}

#[test]
fn an_interrupted_apply_returns_at_once_and_keeps_its_state() {
    if !possible() {
        return;
    }
    let site = Site::new("int", TWO_VMS);
    let mut apply = site.start_apply();
    let made = eventually(Duration::from_secs(120), || {
        site.lab().list().is_ok_and(|vms| vms.len() == 2)
    });
    assert!(made, "no VM was made");
    let interrupted = Instant::now();
    let terraform = nix::unistd::Pid::from_raw(i32::try_from(apply.id()).unwrap());
    nix::sys::signal::kill(terraform, nix::sys::signal::Signal::SIGINT).unwrap();
    apply.wait().unwrap();
    assert!(
        interrupted.elapsed() < Duration::from_secs(5),
        "{:?}",
        interrupted.elapsed()
    );
    let state = site.state();
    assert!(
        state.contains(&"ondol_golden_image.base".to_owned()),
        "{state:?}"
    );
    let ids: Vec<String> = site
        .lab()
        .list()
        .unwrap()
        .iter()
        .map(|vm| vm.id.to_string())
        .collect();
    site.apply().success();
    nothing_to_do(&site);
    let after: Vec<String> = site
        .lab()
        .list()
        .unwrap()
        .iter()
        .map(|vm| vm.id.to_string())
        .collect();
    assert_eq!(ids, after, "a VM was thrown away");
}

#[test]
fn a_vm_that_exists_is_imported() {
    if !possible() {
        return;
    }
    let site = Site::new("imp", &one_vm());
    site.apply().success();
    // The same key without its line break is no other key.
    let key = "file(\"${path.module}/id_ed25519.pub\")";
    site.edit(key, &format!("trimspace({key})"));
    assert_eq!(site.plan(), ["update ondol_vm.vm[\"web-01\"]"]);
    let id = site.attribute("ondol_vm.vm[\"web-01\"]", "id");
    for import in [
        "srv-01/web-01".to_owned(),
        format!("srv-01/{}", id.as_str().unwrap()),
    ] {
        site.terraform(&["state", "rm", "ondol_vm.vm[\"web-01\"]"])
            .success();
        // What exists and is in nobody's state is not taken over in silence.
        site.terraform(&["import", "ondol_vm.vm[\"web-01\"]", &import])
            .success();
        assert_eq!(site.attribute("ondol_vm.vm[\"web-01\"]", "id"), id);
        nothing_to_do(&site);
    }
    site.terraform(&["state", "rm", "ondol_netplan.vm[\"web-01\"]"])
        .success();
    site.terraform(&["import", "ondol_netplan.vm[\"web-01\"]", "srv-01/web-01"])
        .success();
    site.apply().success();
    nothing_to_do(&site);
    site.terraform(&["state", "rm", "ondol_vm.vm[\"web-01\"]"])
        .success();
    site.terraform(&["apply", "-auto-approve", "-target=ondol_vm.vm"])
        .failure()
        .says(&["VM \"web-01\" already exists", "import it as srv-01/web-01"]);
    site.terraform(&["import", "ondol_vm.vm[\"web-01\"]", "srv-09/web-01"])
        .failure()
        .says(&["No host \"srv-09\"", "it has srv-01, srv-02"]);
    site.terraform(&["import", "ondol_vm.vm[\"web-01\"]", "srv-02/web-01"])
        .failure()
        .says(&["Host \"srv-02\" has no VM \"web-01\""]);
    site.terraform(&["import", "ondol_vm.vm[\"web-01\"]", "srv-01/web-01"])
        .success();
}

#[test]
fn bad_input_is_refused_with_the_attribute_named_and_nothing_changed() {
    if !possible() {
        return;
    }
    let site = Site::new("bad", &one_vm());
    let cases: [(&str, &str, &[&str]); 11] = [
        (
            "confirm_timeout_seconds = 20",
            "confirm_timeout_seconds = 4",
            &["confirm_timeout_seconds", "5"],
        ),
        (
            "confirm_timeout_seconds = 20",
            "confirm_timeout_seconds = 3601",
            &["confirm_timeout_seconds", "3600"],
        ),
        (
            "  memory_mib = 256",
            "  memory_mib = 0",
            &["memory_mib is 0", "give its size in MiB"],
        ),
        (
            "host = \"srv-01\", address",
            "host = \"srv-77\", address",
            &["No host \"srv-77\"", "it has srv-01, srv-02", "host ="],
        ),
        (
            "srv-02 = { engine = \"lab\" }",
            "srv-02 = { engine = \"kvm\" }",
            &["\"kvm\" is not an engine", "hosts[\"srv-02\"].engine"],
        ),
        (
            "srv-01 = { engine = \"lab\" }",
            "srv-01 = { engine = \"lab\", lab = { name = \"other\", state_dir = \"/proc/none\" } }",
            &[
                "Host \"srv-01\" cannot be reached",
                "hosts[\"srv-01\"]",
                "/proc/none",
            ],
        ),
        (
            "web-01 = {",
            "Web_01 = {",
            &["\"Web_01\" is not a DNS label", "name"],
        ),
        (
            "suite = \"bookworm\"",
            "suite = \"bookworm\"\n  checksum = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"",
            &["checksum is sha256:0000", "Nothing was registered"],
        ),
        (
            "addresses   = [\"${each.value.address}/24\"]",
            "addresses   = [\"192.168.10.999/24\"]",
            &["ethernets[\"enp0s3\"].addresses[0]", "192.168.10.999"],
        ),
        (
            "gateway4    = \"192.168.10.1\"",
            "gateway4    = \"10.0.0.1\"",
            &["gateway4", "10.0.0.1"],
        ),
        (
            "    host_key         = ondol_vm.vm[each.key].ssh_host_key\n",
            "",
            &["The guest's host key is not pinned"],
        ),
    ];
    for (from, to, words) in cases {
        site.edit(from, to);
        site.apply().failure().says(words);
        assert!(site.lab().list().unwrap().is_empty(), "{to}");
        site.edit(to, from);
    }
}

#[test]
fn a_guest_is_not_entered_as_an_unknown_user_nor_with_another_host_key() {
    if !possible() {
        return;
    }
    let mut site = Site::new("ssh", &one_vm());
    site.set("user", "nobody-here");
    site.apply().failure().says(&[
        "Could not log in to the guest \"web-01\"",
        "refused to let user \"nobody-here\" in",
        "key file",
        "ssh = {",
    ]);
    site.set("user", "ops");
    let stranger =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    site.edit(
        "host_key         = ondol_vm.vm[each.key].ssh_host_key",
        &format!("host_key         = \"{stranger}\""),
    );
    site.apply().failure().says(&[
        "offered the host key ssh-ed25519 SHA256:",
        "the pinned host_key says",
        "set host_key = \"ssh-ed25519",
    ]);
    assert_eq!(site.guest("web-01", "ls /etc/netplan"), "");
}

#[test]
fn another_image_leaves_a_vm_alone_unless_it_asks_to_be_replaced() {
    if !possible() {
        return;
    }
    let site = Site::new("img", &vm_only());
    site.apply().success();
    let vm = "ondol_vm.vm[\"web-01\"]";
    let of = |name: &str| site.attribute(vm, name);
    let (id, disk_image, image) = (of("id"), of("disk_image"), of("image"));
    assert_eq!(disk_image, image);
    let booted = site.guest(
        "web-01",
        "cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id",
    );

    site.edit("ondol_golden_image.base.path", "\"/srv/newer/rootfs\"");
    let plan = site.plan_json();
    assert_eq!(
        site.difference(&plan, vm),
        [("image".to_owned(), image, json!("/srv/newer/rootfs"))]
    );
    assert_eq!(site.plan(), [format!("update {vm}")]);
    site.apply().success();
    nothing_to_do(&site);
    assert_eq!(
        (of("id"), of("image"), of("disk_image")),
        (id.clone(), json!("/srv/newer/rootfs"), disk_image.clone())
    );
    // Its next boot is from its own disk too.
    site.edit(
        "memory_mib = 256",
        "memory_mib = 320\n  lab = { tun = true }",
    );
    assert_eq!(site.plan(), [format!("update {vm}")]);
    site.apply().success();
    assert_eq!(
        (of("id"), of("disk_image")),
        (id.clone(), disk_image.clone())
    );
    let found = site.lab().list().unwrap();
    assert_eq!(json!(found[0].spec.image), disk_image);
    let now = site.guest(
        "web-01",
        "cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id",
    );
    assert_eq!(now.lines().last(), booted.lines().last());

    site.terraform(&["state", "rm", vm]).success();
    site.terraform(&["import", vm, "srv-01/web-01"]).success();
    assert_eq!(
        (of("image"), of("disk_image")),
        (disk_image.clone(), disk_image.clone())
    );

    site.edit(
        "memory_mib = 320",
        "memory_mib = 320\n  replace_on_image_change = true",
    );
    assert_eq!(site.plan(), [format!("delete+create {vm}")]);
    site.edit("memory_mib = 320", "memory_mib = 320\n  protected = true");
    site.edit("\"/srv/newer/rootfs\"", "ondol_golden_image.base.path");
    site.apply().success();
    nothing_to_do(&site);
    site.edit("ondol_golden_image.base.path", "\"/srv/newer/rootfs\"");
    site.terraform(&["plan"]).failure().says(&["is protected"]);
}

/// As after an upgrade of the provider whose built-in packages are others: no attribute of the configuration differs.
#[test]
fn an_image_whose_recipe_changed_by_itself_is_made_anew_in_place_and_no_vm_is_replaced() {
    if !possible() {
        return;
    }
    let recipe = Recipe::base(Distribution::Debian, "bookworm");
    let made = ondol_image::build(
        &recipe,
        Path::new(ondol_image::DEFAULT_CACHE_DIR),
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap();
    let site = Site::new("dig", &vm_only());
    let images = site.path("cache/images");
    std::fs::create_dir_all(&images).unwrap();
    // A cache of its own without a build: what is removed from it is a link.
    let (ours, theirs) = (images.join(&made.digest), images.join("0".repeat(64)));
    std::os::unix::fs::symlink(made.rootfs.parent().unwrap(), &ours).unwrap();
    site.edit(
        "suite = \"bookworm\"",
        &format!(
            "suite = \"bookworm\"\n  cache_dir = {:?}",
            site.path("cache")
        ),
    );
    site.apply().success();
    let (image, vm) = ("ondol_golden_image.base", "ondol_vm.vm[\"web-01\"]");
    let content = site.attribute(image, "content_digest");
    let id = site.attribute(vm, "id");

    std::fs::create_dir_all(theirs.join("rootfs")).unwrap();
    let manifest = std::fs::read_to_string(ours.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["digest"] = json!("0".repeat(64));
    manifest["content_digest"] = json!("1".repeat(64));
    std::fs::write(theirs.join("manifest.json"), manifest.to_string()).unwrap();
    site.edit_state(image, |attributes| {
        for name in ["id", "digest"] {
            attributes[name] = json!("0".repeat(64));
        }
        attributes["path"] = json!(theirs.join("rootfs"));
        attributes["content_digest"] = json!(format!("sha256:{}", "1".repeat(64)));
        attributes["package_count"] = json!(3);
    });
    site.edit_state(vm, |attributes| {
        attributes["image"] = json!(theirs.join("rootfs"))
    });
    assert_eq!(
        site.plan(),
        [format!("update {image}"), format!("update {vm}")]
    );
    site.apply().success();
    nothing_to_do(&site);
    assert_eq!(
        (
            site.attribute(image, "digest"),
            site.attribute(image, "content_digest")
        ),
        (json!(made.digest), content)
    );
    assert_eq!(site.attribute(vm, "id"), id);

    // Nor is the image taken away from under a VM, though it does not run and no state knows it.
    site.edit("cache_dir =", "purge_on_destroy = true\n  cache_dir =");
    site.apply().success();
    site.terraform(&["state", "rm", vm]).success();
    site.lab().kill("web-01").unwrap();
    site.terraform(&["destroy", "-auto-approve"])
        .failure()
        .says(&[
            "could not be removed from the cache",
            &format!("web-01 of the lab {}", site.lab),
            "purge_on_destroy = false",
        ]);
    assert!(ours.join("manifest.json").exists());
    site.lab().delete("web-01").unwrap();
    site.terraform(&["destroy", "-auto-approve"]).success();
    assert!(!ours.exists());
    assert!(made.rootfs.is_dir(), "the link was followed");
}

#[test]
fn a_stop_or_a_destroy_that_takes_long_ends_at_an_interrupt() {
    if !possible() {
        return;
    }
    let site = Site::new("slow", &vm_only());
    site.apply().success();
    let interrupted = |args: &[&str], act: &str| {
        let mut run = site
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stdout = BufReader::new(run.stdout.take().unwrap());
        while !said.contains(act) {
            let read = stdout.read_line(&mut said).unwrap();
            assert!(read > 0, "{args:?} ended without {act:?}:\n{said}");
        }
        // Into what it does for long: the guest is told to stop at once.
        std::thread::sleep(Duration::from_secs(2));
        assert!(
            run.try_wait().unwrap().is_none(),
            "{args:?} was over too early"
        );
        let began = Instant::now();
        let terraform = nix::unistd::Pid::from_raw(i32::try_from(run.id()).unwrap());
        nix::sys::signal::kill(terraform, nix::sys::signal::Signal::SIGINT).unwrap();
        let output = run.wait_with_output().unwrap();
        let took = began.elapsed();
        stdout.read_to_string(&mut said).unwrap();
        let mut text = said;
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        eprintln!("--- {args:?}, interrupted, ended after {took:?}\n{text}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        Done {
            code: output.status.code(),
            text,
        }
    };
    let id = site.attribute("ondol_vm.vm[\"web-01\"]", "id");

    // A guest that does not shut down by itself within the 30 s that it is given.
    let stubborn = || {
        let state = site.guest(
            "web-01",
            "printf '[Service]\\nExecStart=/bin/sleep 999\\nExecStop=/bin/sleep 300\\nTimeoutStopSec=600\\n' >/run/systemd/system/stubborn.service; \
             systemctl daemon-reload; systemctl start stubborn; systemctl is-active stubborn",
        );
        state == "active"
    };
    // Its systemd may still be starting.
    assert!(eventually(Duration::from_secs(30), stubborn));
    site.edit(
        "memory_mib = 256",
        "memory_mib = 256\n  power = \"stopped\"",
    );
    interrupted(&["apply", "-auto-approve"], ": Modifying...")
        .failure()
        .says(&["was stopped: Terraform was interrupted"]);
    assert_eq!(site.attribute("ondol_vm.vm[\"web-01\"]", "id"), id);

    // Another process holds the VM: what it does cannot be hurried.
    site.lab().kill("web-01").unwrap();
    let lock = std::fs::File::open(format!("/run/ondol/labs/{}/web-01.lock", site.lab)).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    interrupted(&["destroy", "-auto-approve"], ": Destroying...")
        .failure()
        .says(&["delete ondol_vm was stopped: Terraform was interrupted"]);
    assert_eq!(site.attribute("ondol_vm.vm[\"web-01\"]", "id"), id);
    drop(lock);
    site.terraform(&["destroy", "-auto-approve"]).success();
    assert!(site.lab().list().unwrap().is_empty());
}

#[test]
fn a_host_whose_lab_cannot_be_used_is_named_and_its_vms_are_not_taken_to_be_gone() {
    if !possible() {
        return;
    }
    let site = Site::new("gone", &vm_only());
    site.apply().success();
    let before = site.state();
    site.write("a-file", "");
    let file = site.path("a-file");
    let host = "srv-01 = { engine = \"lab\" }";
    let beside = "srv-01 = { engine = \"lab\", lab = { name = \"elsewhere\", SETTING = PLACE } }";
    for setting in ["state_dir", "run_dir"] {
        let beside = beside
            .replace("SETTING", setting)
            .replace("PLACE", &format!("{:?}", file.join("below")));
        site.edit(host, &beside);
        for act in [
            &["plan"] as &[&str],
            &["apply", "-auto-approve"],
            &["destroy", "-auto-approve"],
            &["plan", "-refresh=false", "-replace=ondol_vm.vm[\"web-01\"]"],
        ] {
            let done = site.terraform(act).failure();
            done.says(&[
                "Host \"srv-01\" cannot be reached",
                "hosts[\"srv-01\"]",
                &file.join("below").display().to_string(),
                &format!("Set lab.{setting} to a directory"),
                "nothing was changed",
            ]);
            assert!(!done.text.contains("will be created"), "{}", done.text);
            assert_eq!(site.state(), before);
        }
        site.terraform(&["plan"])
            .failure()
            .says(&["could not look for the VM"]);
        site.edit(&beside, host);
    }
    nothing_to_do(&site);
}

const TOPOLOGY: &str = r#"
terraform {
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}
variable "topology" {}
output "topology" {
  value = provider::ondol::topology(file(var.topology))
}
"#;

#[test]
fn a_topology_becomes_a_typed_value_or_names_its_mistakes() {
    if !possible() {
        return;
    }
    let mut site = Site::new("top", TOPOLOGY);
    let good = "network: { cidr: 192.168.10.0/24, gateway: 192.168.10.1, dns: [192.168.10.12], domain: infra.internal }\n\
                defaults: { memory_mib: 384 }\n\
                vms:\n\
                \x20 - { name: dns, id: VM-01, host: SRV-01, address: 192.168.10.12, app: DNS, role: BIND, groups: [dns], disks: { data: { size_mib: 64 } }, features: [tun] }\n";
    site.write("topology.yaml", good);
    site.set("topology", "topology.yaml");
    site.apply().success();
    let output = site
        .command(&["output", "-json", "topology"])
        .output()
        .unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        value,
        json!({
            "network": { "cidr": "192.168.10.0/24", "prefix": 24, "gateway": "192.168.10.1", "dns": ["192.168.10.12"], "domain": "infra.internal" },
            "hosts": { "srv-01": ["dns"] },
            "vms": { "dns": {
                "id": "VM-01", "host": "srv-01", "address": "192.168.10.12", "prefix": 24, "app": "DNS", "role": "BIND", "groups": ["dns"],
                "cpus": 1, "memory_mib": 384, "disks": { "data": { "size_mib": 64 } },
                "features": { "containers": false, "tun": true, "fuse": false },
            } },
        })
    );
    for (from, to, words) in [
        (
            "192.168.10.12, app",
            "192.168.99.12, app",
            "vms[0].address: 192.168.99.12 is outside network.cidr 192.168.10.0/24",
        ),
        (", role: BIND", "", "vms[0].role: is missing"),
        (
            "name: dns",
            "name: DNS",
            "vms[0].name: \"DNS\" is not a DNS label",
        ),
        (
            "memory_mib: 384",
            "memory_mib: 0",
            "defaults.memory_mib: is 0",
        ),
    ] {
        site.write("topology.yaml", &good.replace(from, to));
        site.terraform(&["plan"]).failure().says(&[words]);
    }
}

/// Each example of the lab as it stands: applied, planned again without a change, destroyed.
#[test]
fn every_example_works_as_it_is_written() {
    if !possible() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut examples: Vec<PathBuf> = ["resources", "data-sources", "functions"]
        .iter()
        .flat_map(|kind| std::fs::read_dir(root.join(kind)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    examples.push(root.join("provider"));
    examples.sort();
    assert!(examples.len() >= 9, "{examples:?}");
    for example in examples {
        let text = std::fs::read_to_string(example.join("main.tf")).unwrap();
        // Those are tried where there is one.
        if text.contains("engine = \"virtualbox\"") {
            continue;
        }
        eprintln!("=== {}", example.display());
        let mut site = Site::new("ex", &text);
        if let Ok(topology) = std::fs::read_to_string(example.join("topology.yaml")) {
            site.write("topology.yaml", &topology);
        }
        let key = std::fs::read_to_string(site.path("id_ed25519.pub")).unwrap();
        site.set("authorized_key", key);
        site.set(
            "private_key_file",
            site.path("id_ed25519").display().to_string(),
        );
        site.apply().success();
        nothing_to_do(&site);
        site.terraform(&["destroy", "-auto-approve"]).success();
        assert!(site.lab().list().unwrap().is_empty());
    }
}
