//! Upstreams that misbehave: each time the old snapshot stays served, the message names the file, and the next good sync mends it.

mod upstream;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ondol_mirror::apt::{Config, SiteKey, Trust};
use ondol_mirror::progress::{Silent, Status};
use ondol_mirror::{Cache, CancellationToken};
use upstream::{Fault, SUITE, Server, Site, now, run, sync};

/// A site that has published `lib=1.0`, and an upstream that has `lib=1.1` by now.
fn site() -> Site {
    let mut site = Site::new();
    site.sync().expect("the first sync is good");
    site.archive.put("lib", "1.1", "");
    site.archive.date += 1;
    site.archive.write();
    site.server.log();
    site
}

/// Syncs in vain, and then with success once `mend` is done.
fn fails(mut site: Site, expected: &[&str], mend: impl FnOnce(&mut Site)) {
    let before = site.published();
    let error = site.sync().expect_err("must fail").to_string();
    for part in expected {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert_eq!(site.published(), before);
    assert_eq!(unfinished(&site), Vec::<String>::new());
    site.assert_sound();
    mend(&mut site);
    site.sync().expect("works again");
    assert!(site.published().contains(&"lib=1.1".to_owned()));
    site.assert_sound();
}

/// Snapshots that were begun.
fn unfinished(site: &Site) -> Vec<String> {
    fs::read_dir(site.config.root().join("snapshots"))
        .expect("is there")
        .map(|entry| {
            entry
                .expect("reads")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.starts_with('.'))
        .collect()
}

fn heal(site: &mut Site) {
    site.server.heal();
}

#[test]
fn a_wrong_signature() {
    let site = site();
    let release = site.archive.release_text();
    let path = site
        .archive
        .root
        .join("dists")
        .join(SUITE)
        .join("InRelease");
    let good = fs::read_to_string(&path).expect("reads");
    fs::write(&path, good.replace("Origin: Test", "Origin: Evil")).expect("writes");
    fails(
        site,
        &["dists/stable/InRelease: not trusted: bad signature by key"],
        move |site| {
            site.archive.sign(&release);
        },
    );
}

#[test]
fn a_signature_by_an_unknown_key() {
    let mut site = site();
    let right = site.archive.key.clone();
    site.archive.key = SiteKey::open(&site.dir.path().join("other.key"))
        .expect("a key")
        .into();
    site.archive.write();
    fails(
        site,
        &[
            "dists/stable/InRelease: not trusted: signed by key",
            "not in the keyring",
        ],
        move |site| {
            site.archive.key = right;
            site.archive.write();
        },
    );
}

#[test]
fn an_expired_release() {
    let mut site = site();
    site.archive.valid_until = Some(now() - 3600);
    site.archive.write();
    fails(
        site,
        &["dists/stable/InRelease: expired on ", "check_valid_until"],
        |site| {
            site.config.upstreams[0].check_valid_until = false;
        },
    );
}

#[test]
fn a_release_that_expires_is_refused_even_if_it_is_unchanged() {
    let mut site = Site::new();
    let valid_until = now() + 5;
    site.archive.valid_until = Some(valid_until);
    site.archive.write();
    site.sync().expect("still valid");
    while now() <= valid_until {
        std::thread::sleep(Duration::from_millis(100));
    }
    let error = site.sync().expect_err("no longer valid").to_string();
    assert!(error.contains("expired on"), "{error}");
    site.assert_sound();
}

#[test]
fn an_older_release_than_is_known_is_not_gone_back_to() {
    let mut site = site();
    site.sync().expect("syncs");
    site.archive.put("lib", "0.9", "");
    site.archive.date -= 10;
    site.archive.write();
    assert!(!site.sync().expect("keeps what it knows").changed);
    assert!(site.published().contains(&"lib=1.1".to_owned()));
}

#[test]
fn an_unknown_suite() {
    let mut site = site();
    site.config.upstreams[0].suite = "nosuch".into();
    fails(site, &["no suite \"nosuch\"", "/dists/nosuch"], |site| {
        site.config.upstreams[0].suite = SUITE.into();
    });
}

#[test]
fn an_unknown_component() {
    let mut site = site();
    site.config.upstreams[0].components.push("contrib".into());
    fails(
        site,
        &[
            "suite \"stable\" has no index of component \"contrib\" and architecture amd64; it has main/binary-amd64",
        ],
        |site| {
            site.config.upstreams[0].components.pop();
        },
    );
}

#[test]
fn a_wrong_hash_of_a_package() {
    let site = site();
    site.server.fail("lib_1.1", Fault::Corrupt, usize::MAX);
    fails(
        site,
        &["fetch pool/main/lib_1.1_all.deb", "wrong hash"],
        heal,
    );
}

#[test]
fn a_wrong_hash_of_an_index() {
    let mut site = site();
    site.archive.by_hash = false;
    site.archive.write();
    site.server.fail("Packages.gz", Fault::Corrupt, usize::MAX);
    fails(
        site,
        &[
            "fetch main/binary-amd64/Packages.gz of suite stable",
            "wrong hash",
        ],
        heal,
    );
}

#[test]
fn a_package_of_the_wrong_size() {
    let site = site();
    let path = site.archive.root.join(site.archive.filename("lib"));
    let good = fs::read(&path).expect("reads");
    fs::write(&path, &good[..100]).expect("writes");
    fails(
        site,
        &["lib_1.1_all.deb", "wrong size: 100 bytes instead of"],
        move |_| {
            fs::write(&path, good).expect("writes");
        },
    );
}

#[test]
fn a_download_that_ends_early_each_time() {
    let site = site();
    site.server.fail("lib_1.1", Fault::Truncate(0), usize::MAX);
    fails(
        site,
        &["lib_1.1_all.deb", "ended after 0 of 4000 bytes"],
        heal,
    );
}

#[test]
fn a_download_that_ends_early_once_goes_on_where_it_ended() {
    let site = site();
    site.server.fail("lib_1.1", Fault::Truncate(1000), 1);
    let snapshot = site.sync().expect("syncs");
    let log = site.server.log();
    let of_lib: Vec<&String> = log.iter().filter(|line| line.contains("lib_1.1")).collect();
    assert_eq!(of_lib.len(), 2);
    assert!(of_lib[1].starts_with("206 "), "{log:?}");
    // InRelease, index, and each byte of the package once.
    let index = fs::metadata(
        site.archive
            .root
            .join("dists/stable/main/binary-amd64/Packages.gz"),
    )
    .expect("is there");
    let release = fs::metadata(site.archive.root.join("dists/stable/InRelease")).expect("is there");
    assert_eq!(snapshot.bytes_received, 4000 + index.len() + release.len());
    site.assert_sound();
}

#[test]
fn a_leftover_of_another_file_does_not_spoil_a_download() {
    let site = site();
    let sha256 = ondol_mirror::Digest::of(
        &fs::read(site.archive.root.join(site.archive.filename("lib"))).expect("reads"),
    );
    let partial = site
        .dir
        .path()
        .join("cache/pool/partial")
        .join(sha256.to_string());
    fs::write(&partial, vec![b'x'; 1234]).expect("writes");
    site.sync().expect("syncs");
    site.assert_sound();
    assert!(!partial.exists());
}

#[test]
fn a_file_that_is_not_there() {
    let site = site();
    site.server.fail("lib_1.1", Fault::NotFound, usize::MAX);
    fails(
        site,
        &[
            "fetch pool/main/lib_1.1_all.deb: http://",
            "not found (404)",
        ],
        heal,
    );
}

#[test]
fn a_server_in_trouble() {
    let site = site();
    site.server.fail("lib_1.1", Fault::Status(503), usize::MAX);
    fails(site, &["lib_1.1_all.deb", "status 503"], heal);
}

#[test]
fn a_server_that_stalls() {
    let mut site = site();
    site.config.fetch.stall_timeout = Duration::from_secs(1);
    site.server.fail("lib_1.1", Fault::Stall(10), usize::MAX);
    let began = Instant::now();
    fails(
        site,
        &["lib_1.1_all.deb", "stalled: nothing came for 1 s"],
        heal,
    );
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_server_that_is_not_there() {
    let mut site = site();
    let dead = dead_address();
    let right = std::mem::replace(&mut site.config.upstreams[0].uris, vec![dead]);
    fails(
        site,
        &["fetch InRelease of suite stable", "onnection refused"],
        |site| {
            site.config.upstreams[0].uris = right;
        },
    );
}

#[test]
fn where_one_address_fails_the_next_is_asked() {
    let mut site = site();
    site.config.upstreams[0].uris.insert(0, dead_address());
    site.sync().expect("syncs from the second");
    assert!(site.published().contains(&"lib=1.1".to_owned()));

    // One that has the lists and lacks a package.
    let poor = Server::start(&site.archive.root);
    poor.fail("lib_1.2", Fault::NotFound, usize::MAX);
    site.config.upstreams[0].uris[0] = poor.url.clone();
    site.archive.put("lib", "1.2", "");
    site.archive.date += 1;
    site.archive.write();
    site.sync().expect("syncs from both");
    assert!(site.published().contains(&"lib=1.2".to_owned()));
    site.assert_sound();
}

fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    format!("http://{}", listener.local_addr().expect("is bound"))
}

#[test]
fn an_upstream_that_changes_before_the_index_is_read() {
    let mut site = site();
    site.archive.by_hash = false;
    site.archive.write();
    let mut next = site.archive.clone();
    next.put("lib", "1.2", "");
    next.date += 1;
    site.server.before("Packages.gz", move || next.write());
    site.sync().expect("begins again and succeeds");
    assert!(site.published().contains(&"lib=1.2".to_owned()));
    site.assert_sound();
}

#[test]
fn an_upstream_that_changes_before_a_package_is_read() {
    let site = site();
    let mut next = site.archive.clone();
    let old = next.root.join(next.filename("lib"));
    next.put("lib", "1.2", "");
    next.date += 1;
    site.server.before("lib_1.1", move || {
        next.write();
        fs::remove_file(old).expect("removes");
    });
    site.sync().expect("begins again and succeeds");
    assert!(site.published().contains(&"lib=1.2".to_owned()));
    site.assert_sound();
}

#[test]
fn an_index_that_is_no_index() {
    let site = site();
    let release = site.archive.release_text();
    let dists = site.archive.root.join("dists").join(SUITE);
    let index = b"Package: lib\nnonsense\n";
    fs::write(dists.join("main/binary-amd64/Packages"), index).expect("writes");
    site.archive.sign(&format!(
        "Date: {}\nSHA256:\n {} {} main/binary-amd64/Packages\n",
        ondol_mirror::apt::date::format(now()),
        ondol_mirror::Digest::of(index),
        index.len()
    ));
    fails(
        site,
        &["main/binary-amd64/Packages of suite stable: line 1: a line without a colon"],
        move |site| {
            // The date of the bad one is known by now: an older one would be passed over.
            site.archive.date += 10;
            site.archive.write();
            drop(release);
        },
    );
}

/// A small file system of its own, gone when this is dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: &Path, options: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none(),
                "root is needed to mount a small file system"
            );
            eprintln!("SKIPPED: root is needed to mount a small file system");
            return None;
        }
        fs::create_dir_all(path).expect("makes");
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options),
        )
        .expect("mounts");
        Some(Self(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A mount that stays is told by the failure to remove its directory.
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap_or_default();
    }
}

#[test]
fn a_disk_that_would_be_full_is_told_before_anything_is_fetched() {
    let mut site = Site::new();
    site.sync().expect("syncs");
    let small = site.dir.path().join("small");
    let Some(_mounted) = Small::mount(&small, "size=1m") else {
        return;
    };
    site.archive.put_content("lib", "1.1", "", vec![7; 3 << 20]);
    site.archive.date += 1;
    site.archive.write();
    site.server.log();
    let before = site.published();
    let cache = Cache::open(&small).expect("opens");
    let error = sync(&site.config, &cache).expect_err("no room").to_string();
    assert!(error.contains("fetch packages: no space left"), "{error}");
    assert!(error.contains("(3 MiB needed, 0 MiB free)"), "{error}");
    assert!(error.contains(&small.display().to_string()), "{error}");
    assert!(site.server.log().iter().all(|line| !line.contains(".deb")));
    assert_eq!(site.published(), before);
    site.assert_sound();
}

#[test]
fn a_disk_that_becomes_full_under_way_is_named_and_nothing_is_lost() {
    let mut site = Site::new();
    site.sync().expect("syncs");
    let small = site.dir.path().join("small");
    let Some(_mounted) = Small::mount(&small, "size=2m") else {
        return;
    };
    site.archive.put_content("lib", "1.1", "", vec![7; 3 << 19]);
    site.archive.date += 1;
    site.archive.write();
    let before = site.published();
    let cache = Cache::open(&small).expect("opens");
    let ballast = small.join("ballast");
    let path = ballast.clone();
    site.server.before("lib_1.1", move || {
        // Whatever fits; the rest is the error that we want.
        drop(fs::write(path, vec![1; 4 << 20]));
    });
    let error = sync(&site.config, &cache).expect_err("no room").to_string();
    assert!(
        error.contains("no space left on the file system of"),
        "{error}"
    );
    assert_eq!(site.published(), before);
    site.assert_sound();
    fs::remove_file(ballast).expect("removes");
    sync(&site.config, &cache).expect("works again");
    assert!(site.published().contains(&"lib=1.1".to_owned()));
    assert_eq!(cache.pool().verify().expect("reads"), []);
    site.assert_sound();
}

#[test]
fn a_served_directory_on_another_file_system_gets_copies() {
    let mut site = Site::new();
    let small = site.dir.path().join("small");
    let Some(_mounted) = Small::mount(&small, "size=4m") else {
        return;
    };
    site.config.path = small.join("www");
    site.sync().expect("syncs");
    site.assert_sound();
}

#[test]
fn a_sync_that_is_stopped_leaves_the_old_snapshot() {
    let site = site();
    let before = site.published();
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    site.server.before("lib_1.1", move || stop.cancel());
    site.server.fail("lib_1.1", Fault::Stall(10), 1);
    let error = run(ondol_mirror::apt::sync(
        &site.config,
        &site.cache(),
        &Silent,
        cancel,
    ))
    .expect_err("stopped");
    assert!(error.to_string().contains("stopped on request"), "{error}");
    assert_eq!(site.published(), before);
    site.sync().expect("works again");
    site.assert_sound();
}

#[test]
fn progress_counts_files_and_bytes_to_the_end() {
    let mut site = Site::new();
    site.config.fetch.stall_timeout = Duration::from_secs(1);
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |status: &Status| seen.lock().expect("no panic in here").push(status.clone());
    site.server.fail("lib_1.0", Fault::Stall(10), 1);
    run(ondol_mirror::apt::sync(
        &site.config,
        &site.cache(),
        &progress,
        CancellationToken::new(),
    ))
    .expect("syncs");
    let seen = seen.into_inner().expect("no panic in there");
    let fetching: Vec<&Status> = seen
        .iter()
        .filter(|status| status.phase == "fetch packages")
        .collect();
    assert!(!fetching.is_empty());
    assert!(
        fetching
            .iter()
            .all(|status| status.files_total == 3 && status.bytes_total > 0)
    );
    assert_eq!(seen.last().expect("one at the end").phase, "publish");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let site = Site::new();
    type Spoil = fn(&mut Config);
    let cases: [(&str, Spoil); 7] = [
        ("name", |config| config.name = "../x".into()),
        ("suite", |config| config.suite = "a/../b".into()),
        ("keep", |config| config.keep = 0),
        ("site_key", |config| {
            config.site_key = config.path.join("keys/x")
        }),
        ("architectures", |config| {
            config.architectures = vec!["all".into()]
        }),
        ("upstreams[0].components", |config| {
            config.upstreams[0].components.clear()
        }),
        ("upstreams", |config| config.upstreams.clear()),
    ];
    for (field, spoil) in cases {
        let mut config = site.config.clone();
        spoil(&mut config);
        let error = sync(&config, &site.cache()).expect_err(field).to_string();
        assert!(
            error.starts_with(&format!("apt mirror: {field}: ")),
            "{error}"
        );
    }
    assert!(matches!(site.config.upstreams[0].trust, Trust::Keyring(_)));
    assert!(site.server.log().is_empty());
}

/// Not a test: the victim of the one below, in a process of its own.
#[test]
#[ignore = "run by the test that kills it"]
fn victim() {
    let dir = std::env::var("ONDOL_VICTIM_DIR").expect("only the other test runs this");
    let url = std::env::var("ONDOL_VICTIM_URL").expect("only the other test runs this");
    let dir = Path::new(&dir);
    let keyring = SiteKey::open(&dir.join("upstream/private/upstream.key"))
        .expect("is there")
        .keyring();
    let config = upstream::config(dir, &url, keyring, &["app"]);
    let cache = Cache::open(&dir.join("cache")).expect("opens");
    sync(&config, &cache).expect("syncs");
}

#[test]
fn a_sync_that_is_killed_at_any_moment_leaves_a_sound_mirror_and_the_next_one_converges() {
    let mut site = Site::new();
    let mut depends = String::from("Depends: lib");
    for number in 0..40 {
        let name = format!("part{number}");
        site.archive
            .put_content(&name, "1", "", name.repeat(20_000).into_bytes());
        depends += &format!(", {name}");
    }
    site.archive.put("app", "1.0", &format!("{depends}\n"));
    site.archive.write();
    let run_victim = || {
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "victim", "--ignored", "--quiet"])
            .env("ONDOL_VICTIM_DIR", site.dir.path())
            .env("ONDOL_VICTIM_URL", &site.server.url)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starts")
    };
    // How long it takes when it is left alone, so that the moments are spread over all of it.
    let began = Instant::now();
    assert!(run_victim().wait().expect("ends").success());
    let whole = began.elapsed();
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .subsec_nanos();
    println!("seed {seed}, {whole:?} undisturbed");
    let mut random = u64::from(seed) | 1;
    let mut archive = site.archive.clone();
    for round in 0..10_u32 {
        for number in 0..40 {
            let name = format!("part{number}");
            archive.put_content(
                &name,
                &format!("1.{round}"),
                "",
                format!("{name} {round}").repeat(9_000).into_bytes(),
            );
        }
        archive.date += 1;
        archive.write();
        let before = site.published();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = whole.mul_f64((f64::from(round) + (random % 1000) as f64 / 1000.0) / 10.0);
        let mut victim = run_victim();
        std::thread::sleep(moment);
        drop(victim.kill());
        victim.wait().expect("ends");
        // Before anything is mended: what clients see is whole, old or new.
        let seen = site.published();
        let is_new = seen.contains(&format!("part0=1.{round}"));
        assert!(is_new || seen == before, "{seen:?}");
        assert_eq!(site.cache().pool().verify().expect("reads"), []);
    }
    site.sync().expect("converges");
    assert!(site.published().contains(&"part7=1.9".to_owned()));
    site.assert_sound();
    assert!(!site.sync().expect("syncs").changed);
}
