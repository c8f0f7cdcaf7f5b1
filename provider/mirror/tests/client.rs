//! apt itself as the client, with a root of its own and no privileges: it updates from what is published, and downloads.

mod upstream;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ondol_mirror::apt::Snapshot;
use upstream::{Server, Site};

/// A private root for apt.
struct Apt {
    dir: tempfile::TempDir,
}

impl Apt {
    fn new() -> Option<Self> {
        if Command::new("apt-get").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "apt is not installed");
            eprintln!("SKIPPED: apt is not installed");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for name in [
            "etc/apt/sources.list.d",
            "etc/apt/preferences.d",
            "etc/apt/none.d",
            "state/lists/partial",
            "cache/archives/partial",
            "dpkg",
            "work",
        ] {
            fs::create_dir_all(dir.path().join(name)).expect("makes");
        }
        fs::write(dir.path().join("dpkg/status"), "").expect("writes");
        fs::write(dir.path().join("etc/apt.conf"), "").expect("writes");
        Some(Self { dir })
    }

    fn source(&self, snapshot: &Snapshot, base_url: &str) {
        fs::write(
            self.dir
                .path()
                .join("etc/apt/sources.list.d/mirror.sources"),
            snapshot.sources_text(base_url),
        )
        .expect("writes");
    }

    /// Output of both kinds, and whether apt was content: no error and no warning.
    fn run(&self, arguments: &[&str]) -> (String, bool) {
        let root = self.dir.path();
        let options = [
            format!("Dir={}", root.display()),
            format!("Dir::Etc={}", root.join("etc/apt").display()),
            format!("Dir::State={}", root.join("state").display()),
            format!("Dir::State::status={}", root.join("dpkg/status").display()),
            format!("Dir::Cache={}", root.join("cache").display()),
            "Dir::Bin::Methods=/usr/lib/apt/methods".to_owned(),
            format!("Dir::Etc::trusted={}", root.join("etc/none").display()),
            format!(
                "Dir::Etc::trustedparts={}",
                root.join("etc/apt/none.d").display()
            ),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::http::Proxy=DIRECT".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ];
        let output = Command::new("apt-get")
            .env("APT_CONFIG", root.join("etc/apt.conf"))
            .env("LC_ALL", "C")
            .current_dir(root.join("work"))
            .args(options.iter().flat_map(|option| ["-o", option.as_str()]))
            .args(arguments)
            .output()
            .expect("apt-get runs");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let content = output.status.success()
            && !text.lines().any(|line| {
                line.starts_with("E:") || line.starts_with("W:") || line.starts_with("Err:")
            });
        (text, content)
    }

    fn good(&self, arguments: &[&str]) -> String {
        let (text, content) = self.run(arguments);
        assert!(content, "apt-get {arguments:?}: {text}");
        text
    }

    fn downloaded(&self) -> Vec<PathBuf> {
        let mut debs: Vec<PathBuf> = fs::read_dir(self.dir.path().join("work"))
            .expect("is there")
            .map(|entry| entry.expect("reads").path())
            .collect();
        debs.sort();
        debs
    }
}

/// Real packages, and the served directory behind a web server of its own.
fn site() -> (Site, Server) {
    let mut site = Site::new();
    site.archive
        .put_deb("app", "1.0", "Depends: lib (>= 1), data\n");
    site.archive.put_deb("lib", "1:1.0+x~1", "");
    site.archive.put_deb("data", "1.0", "");
    site.archive.write();
    fs::create_dir_all(&site.config.path).expect("makes");
    let web = Server::start(&site.config.path);
    (site, web)
}

fn contents(path: &Path) -> String {
    let output = Command::new("dpkg-deb")
        .arg("-f")
        .arg(path)
        .arg("Package")
        .output()
        .expect("dpkg-deb runs");
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

#[test]
fn apt_updates_from_the_mirror_and_downloads_over_http_and_from_a_directory() {
    let Some(apt) = Apt::new() else { return };
    let (site, web) = site();
    let snapshot = site.sync().expect("syncs");
    for base in [
        web.url.clone(),
        format!("file:{}", site.config.path.display()),
        format!("copy:{}", site.config.path.display()),
    ] {
        apt.source(&snapshot, &base);
        apt.good(&["update"]);
        apt.good(&["download", "app", "lib", "data"]);
        let names: Vec<String> = apt.downloaded().iter().map(|path| contents(path)).collect();
        assert_eq!(names, ["app", "data", "lib"], "{base}");
        for path in apt.downloaded() {
            fs::remove_file(path).expect("removes");
        }
        let plan = apt.good(&["install", "-s", "app"]);
        assert!(plan.contains("Inst lib (1:1.0+x~1 test:stable"), "{plan}");
    }
    let log = web.log();
    assert!(
        log.iter().any(|line| line.contains("/by-hash/SHA256/")),
        "{log:?}"
    );
    assert!(log.iter().all(|line| !line.starts_with("404 ")), "{log:?}");
}

#[test]
fn apt_follows_back_to_a_pinned_snapshot() {
    let Some(apt) = Apt::new() else { return };
    let (mut site, web) = site();
    let first = site.sync().expect("syncs");
    apt.source(&first, &web.url);
    let has = |version: &str| {
        apt.good(&["update"]);
        let plan = apt.good(&["install", "-s", "data"]);
        assert!(plan.contains(&format!("Inst data ({version} ")), "{plan}");
    };
    has("1.0");
    // Faster than the second that HTTP and Release files tell the time by.
    site.archive.put_deb("data", "2.0", "");
    site.archive.date += 1;
    site.archive.write();
    site.sync().expect("syncs");
    has("2.0");
    site.config.pin = Some(first.id);
    site.sync().expect("pins");
    has("1.0");
    site.config.pin = None;
    site.sync().expect("syncs");
    has("2.0");
}

#[test]
fn apt_loops_through_twenty_publishes_without_one_error() {
    if Apt::new().is_none() {
        return;
    }
    let (mut site, web) = site();
    site.config.keep = 3;
    let snapshot = site.sync().expect("syncs");
    let done = AtomicBool::new(false);
    let loops = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let apt = Apt::new().expect("was there a moment ago");
                    apt.source(&snapshot, &web.url);
                    while !done.load(Ordering::Relaxed) {
                        apt.good(&["update"]);
                        loops.fetch_add(1, Ordering::Relaxed);
                    }
                    apt.good(&["update"]);
                    apt.good(&["download", "app", "data"]);
                })
            })
            .collect();
        for round in 0..20 {
            site.archive.put_deb("data", &format!("2.{round}"), "");
            site.archive.date += 1;
            site.archive.write();
            assert!(site.sync().expect("syncs").changed);
            std::thread::sleep(Duration::from_millis(300));
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no error in twenty publishes");
        }
    });
    let loops = loops.into_inner();
    println!("{loops} updates through 20 publishes");
    assert!(loops >= 20, "{loops} updates are too few to prove anything");
    assert!(web.log().iter().all(|line| !line.starts_with("404 ")));
}
