//! A whole cluster on three VMs with real daemons of Debian 12, from its founding to the loss of a machine.
//!
//! One test, because a cluster is slow to build. It needs root and builds an image with Ceph's packages once.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use ondol_ceph::{
    config, crush_rule, filesystem, health, keys, manager, mds, monitor, osd, pool, rbd_image, rgw,
    rgw_user, rgw_zone,
};
use ondol_kit::Entry;
use serde_json::{Value, json};
use support::{TestLab, VMS};

const FSID: &str = "0d3f9f1e-5b0c-4f7e-8a57-6f0c3f1d2a11";
/// Made up for this test: 16 letters in a key's frame.
const MONITOR_KEY: &str = "AQAAAAAAAAAAABAAbW9uaXRvcnMtc2VjcmV0MQ==";
const ADMIN_KEY: &str = "AQAAAAAAAAAAABAAYWRtaW5zLXNlY3JldC0yMg==";

const S3_SECRET: &str = "a-secret-that-is-only-of-this-test";

const MODULES: &[Entry] = &[
    Entry::module::<config::CephConfig>(),
    Entry::module::<crush_rule::CephCrushRule>(),
    Entry::module::<filesystem::CephFilesystem>(),
    Entry::module::<keys::CephKey>(),
    Entry::module::<mds::CephMds>(),
    Entry::module::<pool::CephPool>(),
    Entry::module::<rbd_image::CephRbdImage>(),
    Entry::module::<rgw::CephRgw>(),
    Entry::module::<rgw_user::CephRgwUser>(),
    Entry::module::<rgw_zone::CephRgwZone>(),
    Entry::probe::<health::CephHealth>(),
    Entry::module::<manager::CephManager>(),
    Entry::module::<monitor::CephMonitor>(),
    Entry::module::<osd::CephOsd>(),
];

/// Not a test: it is how the test's own program answers as a module in a VM.
#[test]
#[ignore = "run in a VM by the test below"]
fn answers_a_call() {
    support::answer(MODULES);
}

fn with(mut base: Value, change: Value) -> Value {
    for (key, value) in change.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn monitor(change: Value) -> Value {
    let monitors: serde_json::Map<String, Value> = VMS
        .iter()
        .map(|(name, address)| ((*name).to_owned(), json!(address)))
        .collect();
    let base = json!({
        "fsid": FSID,
        "monitors": monitors,
        "public_network": "192.168.10.0/24",
        "bootstrap": true,
        "monitor_key": MONITOR_KEY,
        "admin_key": ADMIN_KEY,
    });
    with(base, change)
}

/// A lab and the words for what is expected of a module in it.
struct Site {
    lab: TestLab,
    began: Instant,
}

impl Site {
    fn note(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn call(&self, vm: &str, name: &str, args: &Value, flags: &str) -> Value {
        let began = Instant::now();
        let answer = self.lab.module(vm, name, args, flags);
        let text = answer.to_string();
        for secret in [MONITOR_KEY, ADMIN_KEY, S3_SECRET] {
            assert!(!text.contains(secret), "{text}");
        }
        self.note(&format!(
            "{name} {flags} on {vm}: {:.1} s, {}",
            began.elapsed().as_secs_f64(),
            match () {
                () if answer["failed"] == json!(true) => &answer["msg"],
                () if answer["steps"].is_null() => &answer["reasons"],
                () => &answer["steps"],
            },
        ));
        answer
    }

    /// Succeeds and changes something.
    #[track_caller]
    fn changes(&self, vm: &str, name: &str, args: &Value) -> Vec<String> {
        let answer = self.call(vm, name, args, "");
        assert_eq!(answer["failed"], json!(null), "{answer}");
        assert_eq!(answer["changed"], json!(true), "{answer}");
        steps(&answer)
    }

    /// Succeeds and has nothing to do.
    #[track_caller]
    fn rests(&self, vm: &str, name: &str, args: &Value) {
        let answer = self.call(vm, name, args, "");
        assert_eq!(
            (&answer["failed"], &answer["changed"]),
            (&json!(null), &json!(false)),
            "{answer}"
        );
    }

    /// Check mode says what is then done, the second run has nothing to do.
    #[track_caller]
    fn settles(&self, vm: &str, name: &str, args: &Value) -> Vec<String> {
        let predicted = self.call(vm, name, args, "check");
        assert_eq!(predicted["failed"], json!(null), "{predicted}");
        let done = self.changes(vm, name, args);
        assert_eq!(steps(&predicted), done);
        self.rests(vm, name, args);
        done
    }

    /// Says no, and why. Check mode says the same: both refuse before anything is planned.
    #[track_caller]
    fn refuses(&self, vm: &str, name: &str, args: &Value, wanted: &str) {
        let answer = self.call(vm, name, args, "");
        assert_eq!(answer["failed"], json!(true), "{answer}");
        let message = answer["msg"].as_str().unwrap();
        assert!(message.contains(wanted), "{message}");
        assert_eq!(answer["changed"], json!(false), "{answer}");
    }

    /// Waits until the cluster is well and whole.
    #[track_caller]
    fn well(&self) {
        let gate = json!({"monitors": 3, "managers": 3, "osds": 3, "timeout_seconds": 120});
        let answer = self.call(VMS[0].0, "ceph_health", &gate, "");
        assert_eq!(answer["failed"], json!(null), "{answer}");
        assert_eq!(answer["status"], json!("HEALTH_OK"), "{answer}");
        assert_eq!(answer["changed"], json!(false));
    }

    /// Runs a module and kills it, and what it started, as soon as a shell command succeeds.
    fn killed(&self, vm: &str, name: &str, args: &Value, until: &str) {
        let call = support::argv(name).join(" ");
        let left = self.lab.sh_with(
            vm,
            &format!(
                "cat > /run/args; setsid {call} </run/args >/dev/null 2>&1 & i=0; until {until} >/dev/null 2>&1; do \
                 i=$((i+1)); test $i -lt 5000; sleep 0.01; done; \
                 kill -KILL -$! $(cat /proc/$!/task/*/children); wait || true; \
                 ls -d /etc/ceph/ceph.conf /var/lib/ceph/mon/* /var/lib/ceph/mon/.new* /var/lib/ceph/osd/.new* 2>/dev/null || true"
            ),
            &support::input(name, args),
        );
        self.note(&format!(
            "{name} on {vm} killed at {until}; left: {}",
            left.replace('\n', " ")
        ));
    }

    fn on_all(&self, act: impl Fn(&str) + Sync) {
        thread::scope(|scope| {
            for (vm, _) in VMS {
                let act = &act;
                scope.spawn(move || act(vm));
            }
        });
    }
}

fn steps(answer: &Value) -> Vec<String> {
    serde_json::from_value(answer["steps"].clone()).unwrap()
}

#[test]
fn a_cluster_is_founded_used_and_survives_the_loss_of_a_machine() {
    let began = Instant::now();
    let site = Site {
        lab: TestLab::new("t-ceph"),
        began,
    };
    site.note("three VMs run");
    before_there_is_a_cluster(&site);
    founds(&site);
    managers(&site);
    osds(&site);
    settings(&site);
    pools(&site);
    users(&site);
    filesystem(&site);
    gateway(&site);
    refusals(&site);
    a_machine_is_lost(&site);
    a_monitor_goes_and_comes(&site);
    disks(&site);
    if std::env::var_os("ONDOL_TEST_HOLD").is_some() {
        std::mem::forget(site);
    }
}

/// Check mode of a whole play comes here before the cluster does: it foresees, and nothing is done or taken for granted.
fn before_there_is_a_cluster(site: &Site) {
    let first = VMS[0].0;
    for (name, args) in [
        ("ceph_monitor", monitor(json!({}))),
        ("ceph_manager", json!({})),
        ("ceph_config", json!({"options": {"mon": {"x": "1"}}})),
        (
            "ceph_osd",
            json!({"device": DEVICE, "memory_target_mib": 896}),
        ),
        ("ceph_mds", json!({})),
        ("ceph_crush_rule", json!({"name": "by_host"})),
        (
            "ceph_pool",
            json!({"name": "vms", "size": 3, "crush_rule": "by_host"}),
        ),
        (
            "ceph_filesystem",
            json!({"name": "shared", "metadata_pool": "m", "data_pools": ["d"]}),
        ),
        (
            "ceph_rbd_image",
            json!({"pool": "vms", "name": "disk", "size_mib": 16}),
        ),
        (
            "ceph_key",
            json!({"name": "client.vms", "caps": {"mon": "profile rbd"}}),
        ),
        (
            "ceph_rgw_zone",
            json!({"realm": "site", "zonegroup": "home", "zone": "lab"}),
        ),
        ("ceph_rgw", json!({"port": 8080})),
        (
            "ceph_rgw_user",
            json!({"uid": "a", "display_name": "A", "access_key": "A", "secret_key": S3_SECRET}),
        ),
    ] {
        let answer = site.call(first, name, &args, "check");
        assert_eq!(answer["failed"], json!(null), "{answer}");
        assert_eq!(answer["changed"], json!(true), "{answer}");
    }
    for (name, args) in [
        ("ceph_crush_rule", json!({"name": "by_host"})),
        (
            "ceph_crush_rule",
            json!({"name": "by_host", "state": "absent"}),
        ),
    ] {
        site.refuses(first, name, &args, "cannot reach the monitors");
    }
    site.lab
        .sh(first, "test ! -e /etc/ceph/ceph.conf; test -z \"$(ls /var/lib/ceph/mon /var/lib/ceph/osd | grep -v :)\"");
}

fn founds(site: &Site) {
    let first = VMS[0].0;
    site.refuses(
        first,
        "ceph_monitor",
        &monitor(json!({"fsid": "x"})),
        "fsid: ",
    );
    let two = json!({"monitors": {VMS[0].0: VMS[0].1, VMS[1].0: VMS[1].1}});
    site.refuses(first, "ceph_monitor", &monitor(two), "even number");
    site.refuses(
        first,
        "ceph_monitor",
        &monitor(json!({"bootstrap": false})),
        "no monitor of the cluster answers",
    );
    // Killed in the middle, at a different place on each machine.
    site.on_all(|vm| {
        let until = match vm {
            "ceph-01" => "test -e /etc/ceph/ceph.conf",
            "ceph-02" => "ls /var/lib/ceph/mon/.new-*/store.db",
            _ => "test -e /var/lib/ceph/mon/ceph-ceph-03",
        };
        site.killed(vm, "ceph_monitor", &monitor(json!({})), until);
    });
    site.on_all(|vm| {
        site.call(vm, "ceph_monitor", &monitor(json!({})), "check");
        site.changes(vm, "ceph_monitor", &monitor(json!({})));
    });
    site.on_all(|vm| site.rests(vm, "ceph_monitor", &monitor(json!({}))));
}

fn managers(site: &Site) {
    site.on_all(|vm| {
        site.settles(vm, "ceph_manager", &json!({}));
    });
}

const DEVICE: &str = "/dev/disk/by-id/ondol-osd";

fn osds(site: &Site) {
    let osd = json!({"device": DEVICE, "device_class": "ssd", "memory_target_mib": 896});
    let first = VMS[0].0;
    site.refuses(first, "ceph_osd", &json!({"device": "sda"}), "device: ");
    site.refuses(
        first,
        "ceph_osd",
        &json!({"device": "/dev/none"}),
        "there is no /dev/none",
    );
    site.lab.sh(first, &format!("mkfs.ext4 -q {DEVICE}"));
    site.refuses(first, "ceph_osd", &osd, "is not empty: it holds ext4");
    site.lab.sh(
        first,
        &format!("dd if=/dev/zero of={DEVICE} bs=1M count=1 status=none; wipefs -qa {DEVICE}"),
    );
    site.on_all(|vm| {
        match vm {
            // Registered and not made; in the middle of mkfs.
            "ceph-01" => site.killed(
                vm,
                "ceph_osd",
                &osd,
                "test -e /var/lib/ceph/osd/.new-*/keyring",
            ),
            "ceph-02" => site.killed(
                vm,
                "ceph_osd",
                &osd,
                "grep -q blue /var/lib/ceph/osd/.new-*/type",
            ),
            _ => {}
        }
        let done = site.settles(vm, "ceph_osd", &osd);
        assert!(done.iter().any(|it| it == "start the OSD"), "{done:?}");
    });
    let told = site.lab.sh(first, "ceph osd dump -f json");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        told["osds"].as_array().unwrap().len(),
        3,
        "no number was lost: {told}"
    );
}

fn settings(site: &Site) {
    let first = VMS[0].0;
    site.refuses(
        first,
        "ceph_config",
        &json!({"flags": {"nope": true}}),
        "flags.nope: ",
    );
    let args = json!({
        "options": {
            "mon": {
                "auth_allow_insecure_global_id_reclaim": "0",
                // The test's own machine may be nearly full.
                "mon_data_avail_warn": "1",
                "mon_data_avail_crit": "1",
                "mon_allow_pool_delete": "true",
            },
            "mgr": {"mgr/devicehealth/enable_monitoring": "false", "mgr_stats_period": "1"},
            // Disks that are files of one computer need no pauses between the copies that are moved.
            "osd": {"osd_recovery_sleep_hdd": "0", "osd_max_backfills": "8"},
            // Of the pools that the gateway makes: few groups, as each costs time at every change of the cluster.
            "global": {"osd_pool_default_pg_num": "4", "osd_pool_default_pg_autoscale_mode": "off"},
        },
        "flags": {"nodeep-scrub": true},
    });
    site.settles(first, "ceph_config", &args);
    let health = json!({"monitors": 3, "managers": 3, "osds": 3, "timeout_seconds": 0});
    let answer = site.call(first, "ceph_health", &health, "");
    let message = answer["msg"].as_str().unwrap_or_default();
    assert!(
        message.contains("OSDMAP_FLAGS: nodeep-scrub flag(s) set"),
        "{answer}"
    );
    let lowered = site.settles(
        first,
        "ceph_config",
        &json!({"flags": {"nodeep-scrub": false}}),
    );
    assert_eq!(lowered, ["clear the flag nodeep-scrub"]);
    site.well();
}

fn pools(site: &Site) {
    let first = VMS[0].0;
    let rule = json!({"name": "by_host", "device_class": "ssd"});
    site.settles(first, "ceph_crush_rule", &rule);
    let pool = json!({
        "name": "vms", "size": 3, "min_size": 2, "crush_rule": "by_host", "pg_num": 8,
        "pg_autoscale": "off", "applications": ["rbd"], "quota_objects": 1000,
    });
    site.refuses(
        first,
        "ceph_pool",
        &with(pool.clone(), json!({"min_size": 4})),
        "min_size: ",
    );
    site.settles(first, "ceph_pool", &pool);
    assert_eq!(
        site.lab.sh(first, "ceph osd pool get vms all -f json | tr ',{}' '\\n' | grep -E '\"(size|min_size|crush_rule|pg_num)\"'"),
        "\"size\":3\n\"min_size\":2\n\"pg_num\":8\n\"crush_rule\":\"by_host\""
    );
    let changed = with(
        pool.clone(),
        json!({"min_size": 3, "pg_num": 16, "quota_objects": 0, "applications": ["rbd", "own"]}),
    );
    let done = site.settles(first, "ceph_pool", &changed);
    assert_eq!(
        done,
        [
            "set min_size to 3 (is 2)",
            "set pg_num to 16 (is 8)",
            "set the quota max_objects to 0 (is 1000)",
            "enable the application own",
        ]
    );
    site.refuses(
        first,
        "ceph_pool",
        &pool,
        "min_size of the pool vms would fall from 3 to 2",
    );
    let less = json!({"name": "vms", "min_size": 2, "allow_less_redundancy": true});
    site.settles(first, "ceph_pool", &less);
    site.refuses(
        first,
        "ceph_crush_rule",
        &json!({"name": "by_host", "failure_domain": "osd"}),
        "the rule by_host is used by vms",
    );

    let archive = json!({"name": "archive", "erasure": {"k": 2, "m": 1}, "pg_num": 4, "pg_autoscale": "off", "applications": ["archive"]});
    site.settles(first, "ceph_pool", &archive);
    site.refuses(
        first,
        "ceph_pool",
        &with(archive, json!({"erasure": {"k": 3, "m": 1}})),
        "the erasure profile of the pool archive cannot be changed",
    );
    site.lab.sh(first, "echo kept | rados -p archive put a -");
    assert_eq!(site.lab.sh(first, "rados -p archive get a -"), "kept");
}

fn users(site: &Site) {
    let first = VMS[0].0;
    let keyring = "/etc/ceph/ceph.client.vms.keyring";
    let user = json!({
        "name": "client.vms",
        "caps": {"mon": "profile rbd", "osd": "profile rbd pool=vms"},
        "keyring": keyring,
    });
    let all = with(user.clone(), json!({"caps": {"osd": "allow *"}}));
    site.refuses(first, "ceph_key", &all, "reaches everything");
    site.settles(first, "ceph_key", &user);
    assert_eq!(
        site.lab.sh(first, &format!("stat -c '%a %U' {keyring}")),
        "600 root"
    );
    let image = json!({"pool": "vms", "name": "disk", "size_mib": 16});
    site.refuses(
        first,
        "ceph_rbd_image",
        &with(image.clone(), json!({"pool": "nope"})),
        "rbd ls nope: ",
    );
    site.settles(first, "ceph_rbd_image", &image);
    let grown = with(image.clone(), json!({"size_mib": 32}));
    assert_eq!(
        site.settles(first, "ceph_rbd_image", &grown),
        ["grow the image to 32 MiB (is 16 MiB)"]
    );
    site.refuses(first, "ceph_rbd_image", &image, "would be lost");
    site.lab.sh(first, "head -c 5000000 /dev/urandom >/tmp/in; rbd -n client.vms import /tmp/in vms/in; rbd -n client.vms export vms/in - | cmp - /tmp/in");
    assert!(!site.lab.sh_ok(
        first,
        "timeout 20 rados -n client.vms -p archive get a - >/dev/null 2>&1"
    ));
    // Elsewhere the same user is there and only its keyring is missing.
    let done = site.settles(VMS[1].0, "ceph_key", &user);
    assert_eq!(done, [format!("write {keyring} (it is missing)")]);
    let done = site.settles(
        first,
        "ceph_key",
        &with(user, json!({"caps": {"mon": "profile rbd-read-only"}})),
    );
    assert_eq!(done.len(), 1, "{done:?}");
}

fn filesystem(site: &Site) {
    let first = VMS[0].0;
    for vm in [VMS[0].0, VMS[1].0] {
        site.settles(vm, "ceph_mds", &json!({}));
    }
    let filesystem =
        json!({"name": "shared", "metadata_pool": "shared.meta", "data_pools": ["shared.data"]});
    site.refuses(
        first,
        "ceph_filesystem",
        &filesystem,
        "there is no pool shared.meta",
    );
    for name in ["shared.meta", "shared.data"] {
        let pool =
            json!({"name": name, "size": 3, "min_size": 2, "pg_num": 4, "pg_autoscale": "off"});
        site.changes(first, "ceph_pool", &pool);
    }
    // The monitors make any server active at first, and take it away again for the one that prefers the file system.
    let preferred = VMS[1].0;
    site.lab.sh(
        first,
        &format!("ceph config set mds.{preferred} mds_join_fs shared"),
    );
    site.changes(first, "ceph_filesystem", &filesystem);
    site.lab.sh(
        first,
        &format!(
            "for n in $(seq 60); do ceph fs dump 2>&1 | grep -q '^\\[mds.{preferred}{{.* state up:active ' && exit; sleep 1; done; exit 1"
        ),
    );
    site.rests(first, "ceph_filesystem", &filesystem);
    let changed = with(filesystem.clone(), json!({"standbys_wanted": 0}));
    assert_eq!(
        site.settles(first, "ceph_filesystem", &changed),
        ["want 0 standbys (is 1)"]
    );
    site.refuses(
        first,
        "ceph_filesystem",
        &json!({"name": "shared", "state": "absent"}),
        "may hold files",
    );
    site.well();
}

fn gateway(site: &Site) {
    let (first, (last, address)) = (VMS[0].0, VMS[2]);
    let zone = json!({"realm": "site", "zonegroup": "home", "zone": "lab"});
    let done = site.settles(first, "ceph_rgw_zone", &zone);
    assert_eq!(done.len(), 4, "{done:?}");
    let gateway = with(zone, json!({"port": 8080}));
    site.settles(last, "ceph_rgw", &gateway);
    let user = json!({
        "uid": "backup", "display_name": "Backups", "zone": "lab", "access_key": "BACKUP", "secret_key": S3_SECRET,
    });
    site.refuses(
        first,
        "ceph_rgw_user",
        &with(user.clone(), json!({"secret_key": "short"})),
        "secret_key: ",
    );
    site.settles(first, "ceph_rgw_user", &user);
    let changed = with(user.clone(), json!({"max_buckets": 2}));
    assert_eq!(
        site.settles(first, "ceph_rgw_user", &changed),
        ["allow 2 buckets (is 1000)"]
    );
    // From another machine, signed as S3 clients do it.
    let s3 = |key: &str, request: &str| {
        site.lab.sh(
            first,
            &format!(
                "curl -sS --max-time 60 -o /tmp/answer -w '%{{http_code}}' --aws-sigv4 aws:amz:home:s3 --user BACKUP:{key} \
                 -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' {}",
                request.replace("S3", &format!("http://{address}:8080"))
            ),
        )
    };
    assert_eq!(s3(S3_SECRET, "-X PUT S3/archive"), "200");
    site.lab
        .sh(first, "head -c 3000000 /dev/urandom >/tmp/object");
    assert_eq!(s3(S3_SECRET, "-T /tmp/object S3/archive/object"), "200");
    assert_eq!(s3(S3_SECRET, "S3/archive/object"), "200");
    site.lab.sh(first, "cmp /tmp/object /tmp/answer");
    assert_eq!(s3("another-secret-key", "S3/archive/object"), "403");
    let gone = json!({"uid": "backup", "zone": "lab", "state": "absent"});
    site.refuses(
        first,
        "ceph_rgw_user",
        &gone,
        "the user backup owns archive",
    );
}

fn refusals(site: &Site) {
    let last = VMS[2].0;
    let gone = json!({"device": DEVICE, "state": "absent", "zap": true});
    // The manager learns of the gateway's new pools a few seconds after they are there. Until then the answer is no, too, but
    // for another reason.
    site.well();
    for _ in 0..30 {
        let answer = site.call(last, "ceph_osd", &gone, "check");
        if !answer["msg"]
            .as_str()
            .unwrap_or_default()
            .contains("cannot tell yet")
        {
            break;
        }
        thread::sleep(Duration::from_secs(1));
    }
    site.refuses(last, "ceph_osd", &gone, "is not safe to destroy");
    // The third machine forgets its monitor and wants a cluster of its own, by three ways.
    let unit = "ceph-mon@ceph-03";
    site.lab.sh(
        last,
        &format!("systemctl stop {unit}; mv /var/lib/ceph/mon/ceph-ceph-03 /var/lib/ceph/aside"),
    );
    let alone = json!({VMS[2].0: VMS[2].1});
    let refuses =
        |change: Value, wanted: &str| site.refuses(last, "ceph_monitor", &monitor(change), wanted);
    refuses(
        json!({"monitors": alone}),
        "nothing is founded over a living cluster",
    );
    refuses(
        json!({"admin_key": MONITOR_KEY}),
        "does not accept admin_key",
    );
    let other = "7e1d1c52-5d0b-4f38-9f25-0f6f6d0e7a10";
    refuses(
        json!({"fsid": other}),
        &format!("/etc/ceph/ceph.conf is of the cluster {FSID}, not {other}"),
    );
    site.lab.sh(last, "mv /etc/ceph/ceph.conf /etc/ceph/aside");
    refuses(
        json!({"fsid": other}),
        &format!("are those of the cluster {FSID}, not {other}"),
    );
    site.lab.sh(
        last,
        &format!("mv /etc/ceph/aside /etc/ceph/ceph.conf; mv /var/lib/ceph/aside /var/lib/ceph/mon/ceph-ceph-03; systemctl start {unit}"),
    );
    let other = monitor(json!({"fsid": other}));
    site.refuses(
        last,
        "ceph_monitor",
        &other,
        "the store of monitor ceph-03 belongs to the cluster",
    );
}

fn a_machine_is_lost(site: &Site) {
    let first = VMS[0].0;
    site.well();
    // A standby's machine: the loss of the active manager is noticed only after its grace of 30 s.
    let active = site.lab.sh(
        first,
        "ceph mgr dump -f json | tr ',' '\\n' | sed -n 's/\"active_name\":\"\\(.*\\)\"/\\1/p'",
    );
    let lost = if active == VMS[2].0 {
        VMS[1].0
    } else {
        VMS[2].0
    };
    site.lab
        .sh(first, "echo before | rados -p vms put before -");
    site.lab.kill(lost).expect("is killed");
    site.note(&format!("{lost} is lost"));
    let look = json!({"timeout_seconds": 0, "allow_failures": true});
    let seen = |answer: &Value| {
        let codes: Vec<&str> = answer["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["code"].as_str().unwrap())
            .collect();
        codes.contains(&"OSD_DOWN") && codes.contains(&"MON_DOWN")
    };
    support::eventually("the loss is told", || {
        let answer = site.call(first, "ceph_health", &look, "");
        answer["status"] == json!("HEALTH_WARN") && answer["well"] == json!(false) && seen(&answer)
    });
    let gate = json!({"monitors": 3, "osds": 3, "timeout_seconds": 1});
    let answer = site.call(first, "ceph_health", &gate, "");
    assert_eq!(answer["failed"], json!(true), "{answer}");
    let message = answer["msg"].as_str().unwrap();
    assert!(
        message.contains("2 of 3 monitors in the quorum"),
        "{message}"
    );
    // Two of three are enough to write.
    site.lab
        .sh(first, "echo during | timeout 60 rados -p vms put during -");
    // With one machine lost, another monitor is needed.
    let remain = json!({"name": first, "state": "absent", "monitors": {VMS[1].0: VMS[1].1}});
    site.refuses(
        first,
        "ceph_monitor",
        &monitor(remain),
        "which is no majority",
    );
    site.lab.start(lost).expect("starts");
    site.note(&format!("{lost} is started"));
    site.well();
    for object in ["before", "during"] {
        assert_eq!(
            site.lab.sh(lost, &format!("rados -p vms get {object} -")),
            object
        );
    }
    site.rests(lost, "ceph_monitor", &monitor(json!({})));
    site.rests(
        lost,
        "ceph_osd",
        &json!({"device": DEVICE, "device_class": "ssd", "memory_target_mib": 896}),
    );
}

fn a_monitor_goes_and_comes(site: &Site) {
    let last = VMS[2].0;
    let gone = json!({"state": "absent", "monitors": {VMS[0].0: VMS[0].1}});
    let done = site.settles(last, "ceph_monitor", &monitor(gone));
    assert_eq!(done[0], "remove the monitor from the map, which leaves 2");
    let done = site.settles(last, "ceph_monitor", &monitor(json!({"bootstrap": false})));
    assert_eq!(done[0], "make the monitor's store to join ceph-01, ceph-02");
    site.well();
}

/// A cluster without room says so at once, and so do those who would write to it; what is there is read, and with room all is as before.
fn full(site: &Site, gone: &Value) {
    let first = VMS[0].0;
    let ratios = |nearfull: &str, backfillfull: &str, full: &str| {
        site.lab.sh(
            first,
            &format!("ceph osd set-nearfull-ratio {nearfull}; ceph osd set-backfillfull-ratio {backfillfull}; ceph osd set-full-ratio {full}"),
        )
    };
    // What an empty OSD keeps for itself is more.
    ratios("0.0001", "0.0002", "0.0003");
    support::eventually("every OSD and pool is full", || {
        let map = site.lab.sh(first, "ceph osd dump");
        map.lines()
            .filter(|it| it.starts_with("osd."))
            .all(|it| it.contains(" exists,full,up "))
            && map
                .lines()
                .any(|it| it.contains("'vms'") && it.contains(",full"))
    });
    let gate = json!({"timeout_seconds": 0});
    site.refuses(first, "ceph_health", &gate, "OSD_FULL: 4 full osd(s)");
    let image = json!({"pool": "vms", "name": "more", "size_mib": 16});
    site.refuses(first, "ceph_rbd_image", &image, "the pool vms is full");
    site.refuses(first, "ceph_osd", gone, "can take nothing: too full");
    assert!(!site.lab.sh_ok(
        first,
        "echo lost | timeout 3 rados -p vms put full - >/dev/null 2>&1"
    ));
    assert_eq!(site.lab.sh(first, "rados -p vms get during -"), "during");
    ratios("0.85", "0.9", "0.95");
    site.well();
    site.settles(first, "ceph_rbd_image", &image);
}

/// Growth by an OSD on a file, its way out, and a machine that forgot its OSD.
fn disks(site: &Site) {
    let (first, second) = (VMS[0].0, VMS[1].0);
    let file = json!({"file": "/var/lib/ceph/osd-files/a.img", "file_size_mib": 2048});
    site.settles(first, "ceph_osd", &file);
    // Until its placement groups have settled it may rightly not go.
    site.well();
    let gone = with(file, json!({"state": "absent", "zap": true}));
    full(site, &gone);
    let done = site.changes(first, "ceph_osd", &gone);
    assert!(
        done.contains(&"purge osd.3 from the cluster".to_owned()),
        "{done:?}"
    );
    site.rests(first, "ceph_osd", &gone);
    site.lab.sh(
        first,
        "test ! -e /var/lib/ceph/osd/ceph-3 && test ! -e /var/lib/ceph/osd-files/a.img",
    );

    site.lab.sh(
        second,
        "systemctl stop 'ceph-osd@*'; rm -r /var/lib/ceph/osd/ceph-* /etc/systemd/system/ceph-osd@*.d; \
         rm -f /etc/systemd/system/ceph-osd.target.wants/*; systemctl daemon-reload",
    );
    let done = site.settles(second, "ceph_osd", &json!({"device": DEVICE}));
    assert!(
        done[0].starts_with("take osd.") && done[0].ends_with("into service again"),
        "{done:?}"
    );
    site.well();
    assert_eq!(site.lab.sh(second, "rados -p vms get during -"), "during");
}
