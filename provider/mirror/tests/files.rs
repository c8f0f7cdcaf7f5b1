//! The file mirror against a web server on loopback that breaks off, lies and counts.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod loopback;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loopback::{Reply, Server, file};
use ondol_mirror::fetch::{Fetcher, Options};
use ondol_mirror::files::{self, Config, Published, Source};
use ondol_mirror::pool::Pool;
use ondol_mirror::progress::Silent;
use ondol_mirror::{CancellationToken, Digest};

struct Site {
    dir: tempfile::TempDir,
    served: Arc<Mutex<BTreeMap<String, Reply>>>,
    server: Server,
}

impl Site {
    fn new() -> Self {
        let served: Arc<Mutex<BTreeMap<String, Reply>>> = Arc::default();
        let server = Server::of_files(served.clone());
        Self {
            dir: tempfile::tempdir().unwrap(),
            served,
            server,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("files/site").join(name)
    }

    fn serve(&self, target: &str, reply: Reply) {
        self.served.lock().unwrap().insert(target.to_owned(), reply);
    }

    /// Names, targets on the server, and what the files must be.
    fn config(&self, files: &[(&str, &str, &[u8])]) -> Config {
        let files = files.iter().map(|(name, target, bytes)| {
            let source = Source {
                urls: vec![self.server.url(target)],
                sha256: Digest::of(bytes),
                size: None,
            };
            (name.parse().unwrap(), source)
        });
        Config {
            dir: self.dir.path().join("files/site"),
            files: files.collect(),
        }
    }

    async fn sync(&self, config: &Config) -> Result<Published, String> {
        let pool = Pool::open(&self.dir.path().join("cache")).unwrap();
        let fetcher = Fetcher::new(Options {
            tries: 3,
            backoff: Duration::from_millis(5),
            stall_timeout: Duration::from_secs(2),
            ..Options::default()
        })
        .unwrap();
        let done = files::sync(config, &pool, &fetcher, &Silent, &CancellationToken::new()).await;
        done.map_err(|error| error.to_string())
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(name)).ok()
    }
}

#[tokio::test]
async fn files_are_published_fetched_once_and_removed_when_unwanted() {
    let site = Site::new();
    site.serve("/disk.ova", file(b"disk"));
    site.serve("/chart", file(b"chart"));
    let both = site.config(&[
        ("images/disk.ova", "/disk.ova", b"disk"),
        ("chart.tgz", "/chart", b"chart"),
    ]);
    let published = site.sync(&both).await.unwrap();
    assert_eq!(published.size_bytes(), 9);
    assert_eq!(files::observe(&both.dir).unwrap(), Some(published));
    assert_eq!(site.read("images/disk.ova").as_deref(), Some(&b"disk"[..]));
    let sums = String::from_utf8(site.read("SHA256SUMS").unwrap()).unwrap();
    assert_eq!(
        sums,
        files::sums(
            both.files
                .iter()
                .map(|(name, source)| (name, &source.sha256))
        )
    );
    // One file, two names: the pool's and the mirror's.
    assert_eq!(
        std::fs::metadata(site.path("chart.tgz")).unwrap().nlink(),
        2
    );
    assert_eq!(site.server.requests().len(), 2);

    site.sync(&both).await.unwrap();
    assert_eq!(site.server.requests(), []);
    std::fs::remove_dir_all(site.dir.path().join("cache")).unwrap();
    site.sync(&both).await.unwrap();
    assert_eq!(
        site.server.requests(),
        [],
        "what is published need not be fetched"
    );

    std::fs::write(site.path("notes"), "not the mirror's").unwrap();
    let renamed = site.config(&[("other/disk.ova", "/gone", b"disk")]);
    let published = site.sync(&renamed).await.unwrap();
    assert_eq!(
        site.server.requests(),
        [],
        "the pool has it under its digest"
    );
    assert_eq!(published.files.len(), 1);
    assert_eq!(site.read("other/disk.ova").as_deref(), Some(&b"disk"[..]));
    assert!(!site.path("images").exists() && !site.path("chart.tgz").exists());

    files::remove(&renamed.dir).unwrap();
    assert_eq!(files::observe(&renamed.dir).unwrap(), None);
    let left: Vec<_> = std::fs::read_dir(&renamed.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes"]);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_ended() {
    let site = Site::new();
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    site.serve(
        "/big",
        Reply {
            cut: Some(500_000),
            ..file(&bytes)
        },
    );
    let config = site.config(&[("big", "/big", &bytes)]);
    site.sync(&config).await.unwrap();
    let requests = site.server.requests();
    let ranges: Vec<Option<&str>> = requests
        .iter()
        .map(|request| request.range.as_deref())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=500000-")]);
    assert_eq!(site.read("big"), Some(bytes));
}

#[tokio::test]
async fn one_file_that_cannot_be_had_leaves_the_published_ones_as_they_are() {
    let site = Site::new();
    site.serve("/a", file(b"a1"));
    let before = site.config(&[("a", "/a", b"a1")]);
    site.sync(&before).await.unwrap();

    site.serve("/a2", file(b"a2"));
    site.serve("/wrong", file(b"something else"));
    let cases = [("/missing", "not found (404)"), ("/wrong", "wrong hash")];
    for (target, words) in cases {
        let after = site.config(&[("a", "/a2", b"a2"), ("dir/b", target, b"b")]);
        let error = site.sync(&after).await.unwrap_err();
        assert!(error.contains(words) && error.contains("dir/b"), "{error}");
        assert_eq!(site.read("a").as_deref(), Some(&b"a1"[..]));
        assert!(!site.path("dir").exists());
    }
}

#[tokio::test]
async fn what_was_damaged_or_removed_is_seen_and_mended_in_the_cache_too() {
    let site = Site::new();
    for target in ["/a", "/b", "/c"] {
        site.serve(target, file(target.as_bytes()));
    }
    let config = site.config(&[("a", "/a", b"/a"), ("b", "/b", b"/b"), ("c", "/c", b"/c")]);
    let sound = site.sync(&config).await.unwrap();
    site.server.requests();

    // The same size, and the same file as the cache's.
    std::fs::write(site.path("a"), "xx").unwrap();
    std::fs::remove_file(site.path("b")).unwrap();
    let found = files::observe(&config.dir).unwrap().unwrap();
    assert_eq!(found.damaged, ["a".parse().unwrap()].into());
    assert_eq!(found.missing, ["b".parse().unwrap()].into());
    assert_eq!(found.files.len(), 1);

    assert_eq!(site.sync(&config).await.unwrap(), sound);
    assert_eq!(site.read("a").as_deref(), Some(&b"/a"[..]));
    let fetched: Vec<String> = site
        .server
        .requests()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(fetched, ["/a"], "only what the cache no longer had");
    assert_eq!(files::observe(&config.dir).unwrap(), Some(sound));
}
