//! Syncs from an archive that behaves: what is published, what is asked for, what is kept.

mod upstream;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use ondol_mirror::apt::{Request, Selection, Trust, Upstream, current, list, observe, plan};
use ondol_mirror::progress::{Silent, Status};
use ondol_mirror::{Cache, CancellationToken};
use upstream::{Archive, Server, Site, config, run, sync};

#[test]
fn the_closure_is_published_signed_and_linked_and_nothing_else() {
    let site = Site::new();
    let snapshot = site.sync().expect("syncs");
    assert_eq!(site.published(), ["app=1.0", "data=1.0", "lib=1.0"]);
    assert_eq!((snapshot.package_count, snapshot.changed), (3, true));
    site.assert_sound();
    let root = site.config.root();
    assert_eq!(
        current(&root).expect("reads").as_deref(),
        Some(snapshot.id.as_str())
    );
    assert_eq!(
        observe(&site.config)
            .expect("reads")
            .map(|seen| seen.digest),
        Some(snapshot.digest)
    );

    let entry = first_file(&root.join("pool"));
    assert_eq!(
        fs::metadata(entry).expect("is there").nlink(),
        2,
        "one file, in the cache and here"
    );
    for link in [root.join("current"), root.join("current/pool")] {
        let target = fs::read_link(&link).expect("is a link");
        assert!(target.is_relative(), "{}", target.display());
    }
    let mode = fs::metadata(&site.config.site_key)
        .expect("is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let bom: serde_json::Value =
        serde_json::from_slice(&fs::read(&snapshot.bom).expect("is there")).expect("is JSON");
    assert_eq!(bom["spdxVersion"], "SPDX-2.3");
    let names: Vec<&str> = bom["packages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    assert_eq!(names, ["app", "data", "lib"]);
}

fn first_file(dir: &Path) -> std::path::PathBuf {
    let entry = fs::read_dir(dir)
        .expect("reads")
        .next()
        .expect("is not empty")
        .expect("reads");
    if entry.path().is_dir() {
        first_file(&entry.path())
    } else {
        entry.path()
    }
}

#[test]
fn without_a_change_one_conditional_request_for_each_suite_is_all() {
    let site = Site::new();
    let first = site.sync().expect("syncs");
    site.server.log();
    let again = site.sync().expect("syncs");
    assert_eq!(site.server.log(), ["304 /dists/stable/InRelease"]);
    assert_eq!(
        (again.changed, again.requests, again.bytes_received),
        (false, 1, 0)
    );
    assert_eq!((again.id, again.digest), (first.id, first.digest));
}

#[test]
fn only_what_has_changed_is_fetched_and_old_indexes_stay_readable_by_hash() {
    let mut site = Site::new();
    site.sync().expect("syncs");
    let root = site.config.root();
    let by_hash = |root: &Path| -> Vec<String> {
        fs::read_dir(root.join("current/dists/stable/main/binary-amd64/by-hash/SHA256"))
            .expect("is there")
            .map(|entry| {
                entry
                    .expect("reads")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    };
    let before = by_hash(&root);
    site.server.log();
    site.archive.put("lib", "1.1", "");
    site.archive.date += 1;
    site.archive.write();
    let second = site.sync().expect("syncs");
    assert!(second.changed);
    assert_eq!(site.published(), ["app=1.0", "data=1.0", "lib=1.1"]);
    let log = site.server.log();
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log[2].contains("lib_1.1"), "{log:?}");
    let after = by_hash(&root);
    assert!(before.iter().all(|digest| after.contains(digest)));
    // Two snapshots' indexes in two forms each.
    assert_eq!(after.len(), 4);
    site.assert_sound();
}

/// Names of the files of the mirror's pool, without what makes them unique.
fn packages(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    collect(&root.join("pool"), &mut files);
    let mut names: Vec<String> = files
        .iter()
        .map(|file| file.split_once('-').map_or(file.as_str(), |(_, name)| name))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

#[test]
fn what_a_killed_sync_has_linked_goes_when_the_next_one_publishes() {
    let mut site = Site::new();
    site.sync().expect("syncs");
    let root = site.config.root();
    assert!(!root.join(".linking").exists(), "all is swept");
    // As a sync leaves it that is killed between its packages and its snapshot.
    fs::write(root.join(".linking"), "").expect("writes");
    fs::create_dir_all(root.join("pool/zz/deep")).expect("makes");
    fs::write(root.join("pool/zz/deep/0-stray_1_all.deb"), "x").expect("writes");
    site.archive.put("lib", "1.1", "");
    site.archive.date += 1;
    site.archive.write();
    site.sync().expect("syncs");
    let all = [
        "app_1.0_all.deb",
        "data_1.0_all.deb",
        "lib_1.0_all.deb",
        "lib_1.1_all.deb",
    ];
    assert_eq!(packages(&root), all);
    assert!(!root.join("pool/zz").exists());
    assert!(!root.join(".linking").exists());
    site.assert_sound();
}

#[test]
fn old_snapshots_and_their_packages_go_and_the_others_stay_whole() {
    let mut site = Site::new();
    let mut ids = vec![site.sync().expect("syncs").id];
    let mut dates = vec![site.dated()];
    for version in ["1.1", "1.2", "1.3"] {
        site.archive.put("lib", version, "");
        site.archive.date += 1;
        site.archive.write();
        ids.push(site.sync().expect("syncs").id);
        dates.push(site.dated());
    }
    let root = site.config.root();
    assert_eq!(list(&root).expect("reads"), ids[2..]);
    let left = [
        "app_1.0_all.deb",
        "data_1.0_all.deb",
        "lib_1.2_all.deb",
        "lib_1.3_all.deb",
    ];
    assert_eq!(packages(&root), left);
    site.assert_sound();

    // Back to the one before, and back again without a pin.
    site.config.pin = Some(ids[2].clone());
    site.server.log();
    let pinned = site.sync().expect("pins");
    dates.push(site.dated());
    assert_eq!(
        (pinned.id.as_str(), pinned.changed),
        (ids[2].as_str(), true)
    );
    assert!(site.published().contains(&"lib=1.2".to_owned()));
    assert!(!site.sync().expect("pins again").changed);
    assert_eq!(site.server.log(), Vec::<String>::new(), "a pin asks nobody");
    site.assert_sound();
    site.config.pin = None;
    let back = site.sync().expect("syncs");
    assert_eq!((back.id.as_str(), back.changed), (ids[3].as_str(), true));
    dates.push(site.dated());
    // A client asks for what has changed since the second in which the file was made.
    assert!(dates.is_sorted_by(|one, next| one < next), "{dates:?}");
    site.assert_sound();

    site.config.pin = Some("20000101T000000Z-000000000000".into());
    let error = site.sync().expect_err("there is none").to_string();
    assert!(
        error.contains(&ids[2]) && error.contains(&ids[3]),
        "{error}"
    );
}

fn collect(dir: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).expect("reads") {
        let entry = entry.expect("reads");
        if entry.path().is_dir() {
            collect(&entry.path(), names);
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
}

#[test]
fn several_suites_become_one_and_the_newest_version_wins() {
    let mut site = Site::new();
    let root = site.dir.path().join("security");
    let mut security = Archive::new(&root);
    security.put("lib", "1.0+deb12u1", "Depends: extra\n");
    security.put("extra", "1", "");
    security.put("data", "0.9", "");
    security.write();
    let server = Server::start(&root);
    site.config.upstreams.push(Upstream {
        uris: vec![server.url.clone()],
        trust: Trust::Keyring(security.key.keyring()),
        ..site.config.upstreams[0].clone()
    });
    site.sync().expect("syncs");
    assert_eq!(
        site.published(),
        ["app=1.0", "data=1.0", "extra=1", "lib=1.0+deb12u1"]
    );
    site.assert_sound();
    site.server.log();
    server.log();
    site.sync().expect("syncs");
    assert_eq!((site.server.log().len(), server.log().len()), (1, 1));
}

#[test]
fn a_whole_component_and_release_files_of_every_kind_are_taken() {
    let mut site = Site::new();
    site.config.selection = Selection::Everything;
    site.archive.detach();
    site.sync().expect("syncs by Release.gpg");
    assert_eq!(
        site.published(),
        ["app=1.0", "data=1.0", "lib=1.0", "other=1.0"]
    );
    site.server.log();
    assert!(!site.sync().expect("syncs").changed);
    assert_eq!(site.server.log(), ["304 /dists/stable/Release"]);

    // The archive changes its ways, and offers a plain index without by-hash.
    fs::remove_file(site.archive.root.join("dists/stable/Release")).expect("removes");
    site.archive.put("other", "2.0", "");
    (site.archive.by_hash, site.archive.compression) = (false, "");
    site.archive.date += 1;
    site.archive.write();
    assert!(site.sync().expect("syncs by InRelease").changed);
    assert!(site.published().contains(&"other=2.0".to_owned()));
    site.assert_sound();
}

#[test]
fn a_flat_archive_without_a_signature_is_taken_from_a_directory_if_the_user_trusts_it() {
    let site = Site::new();
    let flat = site.dir.path().join("flat archive");
    fs::create_dir_all(&flat).expect("makes");
    let content = b"a package";
    fs::write(flat.join("tool+x.deb"), content).expect("writes");
    let index = format!(
        "Package: tool\nVersion: 1\nArchitecture: amd64\nFilename: ./tool+x.deb\nSize: {}\nSHA256: {}\n",
        content.len(),
        ondol_mirror::Digest::of(content)
    );
    fs::write(flat.join("Packages"), &index).expect("writes");
    fs::write(
        flat.join("Release"),
        format!(
            "SHA256:\n {} {} Packages\n",
            ondol_mirror::Digest::of(index.as_bytes()),
            index.len()
        ),
    )
    .expect("writes");
    let mut config = config(
        site.dir.path(),
        &format!("file:{}", flat.display()).replace(' ', "%20"),
        site.archive.key.keyring(),
        &["tool"],
    );
    config.upstreams[0].suite = "./".into();
    config.upstreams[0].components = Vec::new();
    let error = sync(&config, &site.cache())
        .expect_err("not signed")
        .to_string();
    assert!(error.contains("Release.gpg"), "{error}");
    config.upstreams[0].trust = Trust::Anyone;
    sync(&config, &site.cache()).expect("syncs");
    assert_eq!(upstream::published(&config), ["tool=1"]);
    assert!(!sync(&config, &site.cache()).expect("syncs").changed);
    upstream::assert_sound(&config);
}

#[test]
fn what_cannot_be_had_is_told_with_its_chain_or_listed_as_missing() {
    let mut site = Site::new();
    site.archive.put("bad", "1", "Depends: lib (>= 9)\n");
    site.archive.write();
    site.sync().expect("syncs");
    let before = site.published();
    site.config.selection = Selection::Closure(Request {
        packages: vec!["app".into(), "bad".into(), "nosuch".into()],
        ..Request::default()
    });
    let error = site.sync().expect_err("cannot be had").to_string();
    assert_eq!(
        error,
        "2 packages cannot be had:\n  nosuch: no package has the name \"nosuch\" and none provides it\n  \
         bad: bad 1 depends on lib (>= 9): lib is version 1.0"
    );
    assert_eq!(site.published(), before);
    site.config.allow_missing = true;
    let snapshot = site.sync().expect("syncs");
    let missing: Vec<&str> = snapshot
        .missing
        .iter()
        .map(|gap| gap.package.as_str())
        .collect();
    assert_eq!(missing, ["bad", "nosuch"]);
    assert_eq!(site.sync().expect("syncs").missing, snapshot.missing);
}

#[test]
fn a_plan_tells_the_difference_and_fetches_no_package() {
    let mut site = Site::new();
    let ask = |site: &Site| {
        run(plan(
            &site.config,
            &site.cache(),
            &Silent,
            CancellationToken::new(),
        ))
        .expect("plans")
    };
    let first = ask(&site);
    assert_eq!(
        (first.up_to_date, first.package_count, first.download_count),
        (false, 3, 3)
    );
    assert_eq!(
        first.delta.to_string(),
        "+ app 1.0\n+ data 1.0\n+ lib 1.0\n"
    );
    assert!(site.server.log().iter().all(|line| !line.contains(".deb")));
    assert!(!site.config.path.exists(), "a plan makes nothing");
    let snapshot = site.sync().expect("syncs");
    assert_eq!(snapshot.digest, first.digest);
    let second = ask(&site);
    assert!(second.up_to_date && second.delta.is_empty() && second.download_bytes == 0);
    site.archive.put("app", "2.0", "Depends: lib\n");
    site.archive.date += 1;
    site.archive.write();
    let third = ask(&site);
    assert_eq!(third.delta.to_string(), "~ app 1.0 -> 2.0\n- data 1.0\n");
    assert_eq!((third.up_to_date, third.download_count), (false, 1));
}

#[test]
fn what_is_damaged_in_the_served_directory_is_mended() {
    let site = Site::new();
    let snapshot = site.sync().expect("syncs");
    let root = site.config.root();
    fs::remove_file(first_file(&root.join("pool"))).expect("removes");
    let again = site.sync().expect("syncs");
    assert_eq!(again.id, snapshot.id);
    site.assert_sound();
    fs::write(
        root.join("current/dists/stable/main/binary-amd64/Packages"),
        "",
    )
    .expect("damages");
    site.sync().expect("syncs");
    site.assert_sound();
    fs::write(root.join("current/manifest.json"), "{").expect("damages");
    site.sync().expect("syncs");
    site.assert_sound();
    fs::remove_dir_all(&root).expect("removes");
    site.server.log();
    site.sync().expect("syncs");
    site.assert_sound();
    assert!(
        site.server.log().iter().all(|line| !line.contains(".deb")),
        "the cache has them"
    );
}

#[test]
fn two_at_once_are_one_after_the_other() {
    let site = Site::new();
    let cache = Cache::open(&site.dir.path().join("cache")).expect("opens");
    let (first, second) = run(async {
        let one = ondol_mirror::apt::sync(&site.config, &cache, &Silent, CancellationToken::new());
        let two = ondol_mirror::apt::sync(&site.config, &cache, &Silent, CancellationToken::new());
        tokio::join!(one, two)
    });
    let (first, second) = (first.expect("syncs"), second.expect("syncs"));
    assert_eq!(first.id, second.id);
    assert_eq!(
        [first.changed, second.changed]
            .iter()
            .filter(|&&changed| changed)
            .count(),
        1
    );
    assert_eq!(
        site.server
            .log()
            .iter()
            .filter(|line| line.contains(".deb"))
            .count(),
        3
    );
    site.assert_sound();
}

#[test]
fn a_second_sync_that_waits_says_so_and_can_be_stopped() {
    let site = Site::new();
    fs::create_dir_all(site.config.root()).expect("makes");
    let lock = fs::File::create(site.config.root().join(".lock")).expect("makes");
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).expect("locks");
    let cancel = CancellationToken::new();
    let seen = cancel.clone();
    let progress = move |status: &Status| {
        if status.phase.starts_with("wait for another sync") {
            seen.cancel();
        }
    };
    let error = run(ondol_mirror::apt::sync(
        &site.config,
        &site.cache(),
        &progress,
        cancel,
    ))
    .expect_err("stopped")
    .to_string();
    assert_eq!(
        error,
        "wait for another sync of mirror \"test\": stopped on request"
    );
}

#[test]
fn futures_can_be_sent_to_another_thread() {
    fn is_send<T: Send>(_: T) {}
    let site = Site::new();
    let cache = site.cache();
    is_send(ondol_mirror::apt::sync(
        &site.config,
        &cache,
        &Silent,
        CancellationToken::new(),
    ));
    is_send(plan(
        &site.config,
        &cache,
        &Silent,
        CancellationToken::new(),
    ));
}
