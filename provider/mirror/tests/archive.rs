//! From a site with a line to one without: export, carry, import.

mod upstream;

use std::fs;
use std::path::Path;

use ondol_mirror::apt::{Config, Keyring, Snapshot, export_archive, import_archive, list};
use ondol_mirror::progress::Silent;
use ondol_mirror::{Cache, CancellationToken, Result};
use upstream::{Site, assert_sound, published, run};

fn export(site: &Site, archive: &Path, base: Option<&str>) -> Result<Snapshot> {
    run(export_archive(
        &site.config,
        &site.cache(),
        archive,
        base,
        &Silent,
        CancellationToken::new(),
    ))
}

/// A machine that no upstream reaches.
struct Island {
    dir: tempfile::TempDir,
    config: Config,
}

impl Island {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut config =
            upstream::config(dir.path(), "http://127.0.0.1:1", Keyring::default(), &[]);
        config.upstreams.clear();
        Self { dir, config }
    }

    fn import(&self, archive: &Path, keyring: &Keyring) -> Result<Snapshot> {
        let cache = Cache::open(&self.dir.path().join("cache")).expect("opens");
        run(import_archive(
            &self.config,
            &cache,
            archive,
            keyring,
            &Silent,
            CancellationToken::new(),
        ))
    }
}

fn site_keyring(site: &Site) -> Keyring {
    Keyring::load(&site.config.path.join("keys/site.asc")).expect("is published")
}

#[test]
fn an_import_has_the_same_digest_and_an_increment_has_only_what_is_new() {
    let mut site = Site::new();
    let whole = site.dir.path().join("whole.tar");
    let error = export(&site, &whole, None)
        .expect_err("nothing yet")
        .to_string();
    assert!(error.contains("nothing has been published yet"), "{error}");
    let first = site.sync().expect("syncs");
    export(&site, &whole, None).expect("exports");
    let keyring = site_keyring(&site);

    let island = Island::new();
    let there = island.import(&whole, &keyring).expect("imports");
    assert_eq!(
        (there.digest, &there.id, there.changed),
        (first.digest, &first.id, true)
    );
    assert_eq!(published(&island.config), site.published());
    assert_sound(&island.config);
    assert!(
        !island
            .import(&whole, &keyring)
            .expect("imports again")
            .changed
    );

    site.archive.put("lib", "1.1", "");
    site.archive.date += 1;
    site.archive.write();
    let second = site.sync().expect("syncs");
    let more = site.dir.path().join("more.tar");
    export(&site, &more, Some(&first.id)).expect("exports");
    let mut tar = tar::Archive::new(fs::File::open(&more).expect("is there"));
    let files = tar
        .entries()
        .expect("a tar")
        .filter(|entry| {
            entry
                .as_ref()
                .is_ok_and(|entry| entry.path().is_ok_and(|path| path.starts_with("files")))
        })
        .count();
    assert_eq!(files, 1);
    let there = island.import(&more, &keyring).expect("imports");
    assert_eq!(there.digest, second.digest);
    assert_eq!(
        list(&island.config.root()).expect("reads"),
        [first.id, second.id.clone()]
    );
    assert_sound(&island.config);

    let error = Island::new()
        .import(&more, &keyring)
        .expect_err("lacks the base")
        .to_string();
    assert!(error.contains("it lacks 2 files"), "{error}");
    let error = export(&site, &more, Some("nosuch"))
        .expect_err("no base")
        .to_string();
    assert!(error.contains(&second.id), "{error}");
}

#[test]
fn a_damaged_or_foreign_archive_changes_nothing() {
    let site = Site::new();
    site.sync().expect("syncs");
    let whole = site.dir.path().join("whole.tar");
    export(&site, &whole, None).expect("exports");
    let keyring = site_keyring(&site);
    let good = fs::read(&whole).expect("reads");
    let island = Island::new();
    let bad = site.dir.path().join("bad.tar");
    let attempt = |bytes: &[u8], keyring: &Keyring| {
        fs::write(&bad, bytes).expect("writes");
        let error = island.import(&bad, keyring).expect_err("bad").to_string();
        assert!(error.contains("bad.tar"), "{error}");
        assert_eq!(published(&island.config), Vec::<String>::new());
        error
    };
    let altered = |from: &[u8], to: &[u8]| {
        let at = good
            .windows(from.len())
            .position(|part| part == from)
            .expect("is in there");
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    assert!(
        attempt(&altered(b"\"name\":\"app\"", b"\"name\":\"axx\""), &keyring)
            .contains("bad signature")
    );
    assert!(
        attempt(&altered(b"lib 1.0 lib", b"lib 1.1 lib"), &keyring)
            .contains("is damaged: wrong hash")
    );
    assert!(
        attempt(&altered(b"Package: app", b"Package: axx"), &keyring)
            .contains("indexes/0 is damaged")
    );
    assert!(attempt(&good, &site.archive.key.keyring()).contains("which is not in the keyring"));
    attempt(&good[..good.len() / 2], &keyring);
    attempt(b"nonsense", &keyring);
    attempt(b"", &keyring);
    island
        .import(&whole, &keyring)
        .expect("the good one is good");
    assert_sound(&island.config);

    let mut other = Island::new();
    other.config.suite = "testing".into();
    let error = other
        .import(&whole, &keyring)
        .expect_err("of another suite")
        .to_string();
    assert!(
        error.contains("it is of suite \"stable\", and this mirror of \"testing\""),
        "{error}"
    );
}
