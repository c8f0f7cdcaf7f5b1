//! The mirror resources under real Terraform, with upstreams on loopback.
//!
//! Needs root and terraform; the registry mirror also docker-registry and skopeo.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[expect(dead_code, reason = "shared with the tests of ondol-mirror")]
#[path = "../mirror/tests/daemon/mod.rs"]
mod daemon;
#[expect(dead_code, reason = "shared with tests that have VMs")]
mod site;
#[path = "../mirror/tests/upstream/mod.rs"]
mod upstream;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ondol_mirror::Digest;
use serde_json::{Value, json};
use site::{Site, eventually, possible};
use upstream::{Archive, Fault, Server};

const HEAD: &str = r#"
terraform {
  required_providers {
    ondol = { source = "ondol/ondol" }
  }
}
provider "ondol" {
  hosts = {}
}
"#;

#[track_caller]
fn nothing_to_do(site: &Site) {
    assert_eq!(site.plan(), [""; 0]);
}

/// A site whose configuration may say `DIR` and `URL`.
fn site(tag: &str, configuration: &str, url: &str) -> Site {
    let site = Site::new(tag, "");
    let dir = site.path("").display().to_string();
    let text = configuration
        .replace("DIR", dir.trim_end_matches('/'))
        .replace("URL", url);
    site.write("main.tf", &format!("{HEAD}{text}"));
    site
}

const FILES: &str = r#"
resource "ondol_file_mirror" "site" {
  name      = "site"
  path      = "DIR/www"
  cache_dir = "DIR/cache"
  base_url  = "http://mirror.example"
  files = {
    "images/disk.ova" = { urls = ["URL/missing", "URL/disk"], sha256 = "DISK" }
    "chart.tgz"       = { urls = ["URL/chart"], sha256 = "CHART" }
  }
}
"#;

#[test]
fn files_are_mirrored_changed_mended_and_imported() {
    if !possible() {
        return;
    }
    let served = tempfile::tempdir().unwrap();
    for name in ["disk", "chart"] {
        std::fs::write(served.path().join(name), name).unwrap();
    }
    let server = Server::start(served.path());
    let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
    let text = FILES
        .replace("DISK", &digest("disk"))
        .replace("CHART", &digest("chart"));
    let site = site("fm", &text, &server.url);
    let mirror = "ondol_file_mirror.site";
    let published = |name: &str| site.path("www/files/site").join(name);
    site.apply().success();
    nothing_to_do(&site);
    assert_eq!(
        std::fs::read_to_string(published("images/disk.ova")).unwrap(),
        "disk"
    );
    assert_eq!(site.attribute(mirror, "size_bytes"), json!(9));
    assert_eq!(
        site.attribute(mirror, "urls")["images/disk.ova"],
        json!("http://mirror.example/files/site/images/disk.ova")
    );
    let checked = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(published(""))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");

    // Damaged in place: the same file as the cache's, and as large as before.
    server.log();
    std::fs::write(published("chart.tgz"), "CHART").unwrap();
    std::fs::remove_file(published("images/disk.ova")).unwrap();
    let plan = site.plan_json();
    let drift = site
        .difference(&plan, mirror)
        .into_iter()
        .find(|(name, ..)| name == "drift");
    let (_, before, after) = drift.unwrap();
    assert_eq!(
        (before, after),
        (
            json!(["chart.tgz: changed", "images/disk.ova: missing"]),
            json!([])
        )
    );
    site.apply().success();
    nothing_to_do(&site);
    assert_eq!(
        server.log(),
        ["200 /chart"],
        "what the cache has is not fetched"
    );

    site.edit("\"chart.tgz\" ", "\"charts/app.tgz\" ");
    assert_eq!(site.plan(), [format!("update {mirror}")]);
    site.apply().success();
    assert!(published("charts/app.tgz").exists() && !published("chart.tgz").exists());
    assert_eq!(server.log(), [""; 0]);

    site.edit(&digest("chart"), &digest("another"));
    site.apply().failure().says(&[
        "charts/app.tgz",
        "wrong hash",
        "published files are as they were",
    ]);
    assert_eq!(
        std::fs::read_to_string(published("charts/app.tgz")).unwrap(),
        "chart"
    );
    site.edit(&digest("another"), &digest("chart"));

    let id = published("").display().to_string();
    site.terraform(&["state", "rm", mirror]).success();
    site.edit("cache_dir = ", "# cache_dir = ");
    site.terraform(&["import", mirror, &id]).success();
    assert_eq!(site.attribute(mirror, "size_bytes"), json!(9));
    site.edit("# cache_dir = ", "cache_dir = ");
    site.apply().success();
    nothing_to_do(&site);
    site.terraform(&["destroy", "-auto-approve"]).success();
    assert!(!published("").exists());

    site.edit("\"charts/app.tgz\"", "\"../app.tgz\"");
    site.terraform(&["plan"])
        .failure()
        .says(&["A file cannot have this name", "../app.tgz"]);
}

#[test]
fn an_interrupted_download_goes_on_in_the_next_apply() {
    if !possible() {
        return;
    }
    let served = tempfile::tempdir().unwrap();
    let bytes = vec![7; 3_000_000];
    std::fs::write(served.path().join("disk"), &bytes).unwrap();
    let server = Server::start(served.path());
    let text = r#"
resource "ondol_file_mirror" "site" {
  name      = "site"
  path      = "DIR/www"
  cache_dir = "DIR/cache"
  files     = { disk = { urls = ["URL/disk"], sha256 = "DISK", size_bytes = 3000000 } }
}
"#;
    let text = text.replace("DISK", &Digest::of(&bytes).to_string());
    let site = site("fi", &text, &server.url);
    server.fail("/disk", Fault::Stall(2_000_000), 1);
    let mut apply = site.command(&["apply", "-auto-approve", "-input=false"]);
    let apply = apply
        .env("TF_LOG_PROVIDER", "INFO")
        .env("TF_LOG_PATH", site.path("log"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let partial = site
        .path("cache/pool/partial")
        .join(Digest::of(&bytes).to_string());
    let got = || std::fs::metadata(&partial).is_ok_and(|partial| partial.len() == 2_000_000);
    assert!(eventually(Duration::from_secs(30), got));
    let told = || {
        std::fs::read_to_string(site.path("log"))
            .is_ok_and(|log| log.contains("file mirror site: fetch files: 0/1 files"))
    };
    assert!(eventually(Duration::from_secs(30), told));
    let terraform = nix::unistd::Pid::from_raw(i32::try_from(apply.id()).unwrap());
    let began = Instant::now();
    nix::sys::signal::kill(terraform, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = apply.wait_with_output().unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("was stopped"), "{said}");

    server.log();
    site.apply().success();
    assert_eq!(
        server.log(),
        ["206 /disk"],
        "only the rest came over the line"
    );
    assert_eq!(
        site.attribute("ondol_file_mirror.site", "size_bytes"),
        json!(3_000_000)
    );
}

const REGISTRY: &str = r#"
resource "ondol_registry_mirror" "site" {
  name       = "site"
  path       = "DIR/www"
  push       = "LOCAL"
  cache_dir  = "DIR/cache"
  plain_http = ["LOCAL", "URL"]
  images = {
    "app:1.0"   = { source = "URL/team/app:stable" }
    "small:1.0" = { source = "URL/team/app:stable", platforms = ["linux/amd64"] }
  }
}
"#;

#[test]
fn images_are_mirrored_and_pulled_after_upstream_has_stopped() {
    if !possible() || !daemon::possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut upstream = daemon::Registry::start(&dir.path().join("upstream"));
    let local = daemon::Registry::start(&dir.path().join("local"));
    let mut made = daemon::Images::new(&dir.path().join("made"));
    let platforms = ["linux/amd64", "linux/arm64"];
    let first = made.add("1", &platforms, "one");
    let second = made.add("2", &platforms, "two");
    let stable = format!("{}/team/app:stable", upstream.address);
    made.push("1", &stable, &[]);
    let site = site(
        "rm",
        &REGISTRY.replace("LOCAL", &local.address),
        &upstream.address,
    );
    let mirror = "ondol_registry_mirror.site";
    let digests = |name: &str| site.attribute(mirror, name);
    site.apply().success();
    nothing_to_do(&site);
    assert_eq!(digests("digests")["app:1.0"], json!(first));
    assert_eq!(digests("source_digests")["small:1.0"], json!(first));
    assert_ne!(digests("digests")["small:1.0"], json!(first));
    let reference = format!("{}/app@{first}", local.address);
    assert_eq!(digests("references")["app:1.0"], json!(reference));

    // A tag that moves is news only for those who ask.
    made.push("2", &stable, &[]);
    nothing_to_do(&site);
    site.edit("push ", "refresh = \"always\"\n  push ");
    site.terraform(&["plan"]).success().says(&[
        "The tag of app:1.0 has moved",
        &format!("{first} is mirrored, and upstream has {second}."),
    ]);
    site.apply().success();
    nothing_to_do(&site);
    assert_eq!(digests("digests")["app:1.0"], json!(second));

    upstream.stop();
    site.terraform(&["plan"]).failure().says(&[
        "The tags' present meaning cannot be looked up",
        "refresh = \"on_change\"",
    ]);
    site.edit("refresh = \"always\"", "refresh = \"on_change\"");
    site.apply().success();
    let pulled = tempfile::tempdir().unwrap();
    let (from, to) = (
        format!("docker://{}/app@{second}", local.address),
        format!("dir:{}", pulled.path().display()),
    );
    daemon::skopeo(&["copy", "--all", "--src-tls-verify=false", &from, &to]);

    // Both places are looked at, and mended without upstream.
    let blob = site
        .path("www/registry/site/blobs/sha256")
        .join(second.trim_start_matches("sha256:"));
    std::fs::remove_file(&blob).unwrap();
    let tag = dir
        .path()
        .join("local/storage/docker/registry/v2/repositories/small");
    std::fs::remove_dir_all(tag).unwrap();
    let plan = site.plan_json();
    let (_, before, after) = site
        .difference(&plan, mirror)
        .into_iter()
        .find(|(name, ..)| name == "drift")
        .unwrap();
    assert_eq!(
        before,
        json!([
            format!("app:1.0: {second} is missing"),
            "small:1.0: it is not in the local registry"
        ])
    );
    assert_eq!(after, json!([]));
    site.apply().success();
    nothing_to_do(&site);
    assert!(blob.exists());

    site.terraform(&["destroy", "-auto-approve"]).success();
    assert!(!site.path("www/registry/site").exists());
    daemon::skopeo(&["inspect", "--raw", "--tls-verify=false", &from]);
}

const APT: &str = r#"
resource "ondol_apt_mirror" "site" {
  name          = "site"
  path          = "DIR/www"
  suite         = "stable"
  upstreams     = [{ uris = ["URL"], keyring_file = "DIR/upstream.asc" }]
  architectures = ["amd64"]
  packages      = ["app"]
  keep          = 4
  base_url      = "http://mirror.example"
  site_key_file = "DIR/secret/site.key"
  cache_dir     = "DIR/cache"
}
"#;

struct AptSite {
    site: Site,
    archive: Archive,
    server: Server,
    /// Its directory.
    _upstream: tempfile::TempDir,
}

impl AptSite {
    fn new(tag: &str, configuration: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(dir.path());
        archive.put_deb("app", "1.0", "Depends: lib\n");
        archive.put_deb("lib", "1.0", "");
        archive.put_deb("other", "1.0", "");
        archive.write();
        let server = Server::start(dir.path());
        let site = site(tag, configuration, &server.url);
        site.write("upstream.asc", &archive.key.public().unwrap());
        Self {
            site,
            archive,
            server,
            _upstream: dir,
        }
    }

    fn upgrade(&mut self, version: &str) {
        self.archive.put_deb("lib", version, "");
        self.archive.date += 1;
        self.archive.write();
    }

    fn get(&self, name: &str) -> Value {
        self.site.attribute(MIRROR, name)
    }

    fn published(&self, name: &str) -> PathBuf {
        self.site.path("www/apt/site/current").join(name)
    }

    /// A plan must show these changes: a summary and a line for each package.
    #[track_caller]
    fn plans(&self, changes: &[&str]) {
        let plan = self.site.terraform(&["plan"]).success();
        plan.says(&[&format!("Packages will change: {}", changes[0])]);
        plan.says(&changes[1..]);
    }
}

const MIRROR: &str = "ondol_apt_mirror.site";

/// What `apt-get` itself makes of a sources text, without touching this machine's apt.
#[track_caller]
fn apt_get(dir: &Path, sources: &str, args: &[&str]) -> String {
    for below in [
        "etc/sources.list.d",
        "etc/preferences.d",
        "etc/apt.conf.d",
        "etc/trusted.gpg.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        std::fs::create_dir_all(dir.join(below)).unwrap();
    }
    std::fs::write(dir.join("etc/sources.list.d/site.sources"), sources).unwrap();
    std::fs::write(dir.join("status"), "").unwrap();
    let set = |name: &str, path: &str| format!("{name}={}", dir.join(path).display());
    let output = Command::new("apt-get")
        .args([
            "-o",
            &set("Dir::Etc", "etc"),
            "-o",
            &set("Dir::State", "state"),
        ])
        .args([
            "-o",
            &set("Dir::State::status", "status"),
            "-o",
            &set("Dir::Cache", "cache"),
        ])
        .args([
            "-o",
            "APT::Architecture=amd64",
            "-o",
            "APT::Sandbox::User=root",
        ])
        .args(args)
        .env("APT_CONFIG", "/dev/null")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "apt-get {args:?}:\n{text}");
    text
}

#[test]
fn packages_are_mirrored_signed_and_planned() {
    if !possible() {
        return;
    }
    let mut apt = AptSite::new("am", APT);
    apt.plans(&[
        "2 added, 0 changed, 0 removed, 0 unchanged",
        "+ app 1.0",
        "+ lib 1.0",
    ]);
    assert!(
        !apt.site.path("secret/site.key").exists(),
        "a plan makes no key"
    );
    apt.site.apply().success();
    assert_eq!(
        (apt.get("package_count"), apt.get("missing")),
        (json!(2), json!([]))
    );
    assert!(
        apt.get("sources")
            .as_str()
            .unwrap()
            .contains("URIs: http://mirror.example/apt/site/current\n")
    );
    assert!(Path::new(apt.get("sbom_path").as_str().unwrap()).exists());
    let key = std::fs::metadata(apt.site.path("secret/site.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let state = std::fs::read_to_string(apt.site.path("terraform.tfstate")).unwrap();
    assert!(state.contains("BEGIN PGP PUBLIC KEY") && !state.contains("PRIVATE"));

    let client = tempfile::tempdir().unwrap();
    let sources = apt.get("local_sources");
    apt_get(client.path(), sources.as_str().unwrap(), &["update"]);
    let said = apt_get(
        client.path(),
        sources.as_str().unwrap(),
        &["install", "--simulate", "app"],
    );
    assert!(
        said.contains("Inst lib (1.0") && said.contains("Inst app (1.0"),
        "{said}"
    );

    // What is new upstream is no news by itself.
    apt.server.log();
    apt.upgrade("1.1");
    nothing_to_do(&apt.site);
    assert_eq!(apt.server.log(), [""; 0]);
    let first = apt.get("snapshot_id");
    apt.site
        .edit("base_url ", "triggers = { month = \"1\" }\n  base_url ");
    let news = [
        "0 added, 1 changed, 0 removed, 1 unchanged",
        "~ lib 1.0 -> 1.1",
    ];
    apt.plans(&news);
    apt.site.apply().success();
    nothing_to_do(&apt.site);
    assert_eq!(
        (apt.get("changes"), apt.get("local_sources")),
        (json!(news), sources)
    );
    assert_ne!(apt.get("snapshot_id"), first);
    assert_eq!(apt.get("snapshots").as_array().unwrap().len(), 2);

    a_plan_that_always_asks(&mut apt);
    what_is_damaged_is_mended(&apt);
    what_cannot_be_had_is_told(&apt);
    an_old_snapshot_is_published_again(&apt, &first);

    let (root, id) = (apt.site.path("www/apt/site"), apt.get("snapshot_id"));
    apt.site.terraform(&["state", "rm", MIRROR]).success();
    apt.site
        .terraform(&["import", MIRROR, root.to_str().unwrap()])
        .success();
    apt.site.apply().success();
    nothing_to_do(&apt.site);
    assert_eq!(apt.get("snapshot_id"), id);

    apt.site.terraform(&["destroy", "-auto-approve"]).success();
    assert!(!root.exists() && apt.site.path("secret/site.key").exists());
}

fn a_plan_that_always_asks(apt: &mut AptSite) {
    let before = apt.get("snapshot_id");
    apt.site
        .edit("base_url ", "refresh = \"always\"\n  base_url ");
    apt.site.apply().success();
    assert_eq!(apt.get("snapshot_id"), before);
    apt.server.log();
    nothing_to_do(&apt.site);
    assert_eq!(apt.server.log(), ["304 /dists/stable/InRelease"]);
    apt.upgrade("1.2");
    apt.plans(&[
        "0 added, 1 changed, 0 removed, 1 unchanged",
        "~ lib 1.1 -> 1.2",
    ]);
    apt.site.apply().success();
    nothing_to_do(&apt.site);
    // Upstream may be quicker than the person who looks at the plan.
    apt.upgrade("1.3");
    apt.site.terraform(&["plan", "-out=plan.bin"]).success();
    apt.upgrade("1.4");
    apt.site.terraform(&["apply", "plan.bin"]).success();
    nothing_to_do(&apt.site);
    assert_eq!(apt.get("changes")[1], json!("~ lib 1.2 -> 1.4"));
    apt.site.edit("refresh = \"always\"\n  ", "");
    apt.site.apply().success();
}

fn what_is_damaged_is_mended(apt: &AptSite) {
    let sound = || {
        let client = tempfile::tempdir().unwrap();
        let sources = apt.get("local_sources");
        let sources = sources.as_str().unwrap();
        apt_get(client.path(), sources, &["update"]);
        apt_get(
            client.path(),
            sources,
            &["install", "--download-only", "-y", "app"],
        );
    };
    sound();
    let pool = apt.site.path("www/apt/site/pool");
    let find = |name: &str| {
        let found = Command::new("find")
            .arg(&pool)
            .args(["-name", name])
            .output()
            .unwrap();
        PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
    };
    let damages: [(&str, &dyn Fn()); 5] = [
        ("lib_1.4", &|| {
            // Of the same size, and the same file as the cache's.
            let file = find("*-lib_1.4*");
            let mut bytes = std::fs::read(&file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("app_1.0", &|| {
            std::fs::remove_file(find("*-app_1.0*")).unwrap()
        }),
        ("Packages", &|| {
            std::fs::write(
                apt.published("dists/stable/main/binary-amd64/Packages.gz"),
                "x",
            )
            .unwrap()
        }),
        ("not signed with the site's key", &|| {
            let file = apt.published("dists/stable/InRelease");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, text.replace("Suite: stable", "Suite: stabel")).unwrap();
        }),
        ("manifest.json", &|| {
            std::fs::write(apt.published("manifest.json"), "{").unwrap()
        }),
    ];
    for (words, damage) in damages {
        damage();
        let plan = apt.site.plan_json();
        let drift = apt
            .site
            .difference(&plan, MIRROR)
            .into_iter()
            .find(|(name, ..)| name == "drift");
        let (_, before, _) = drift.unwrap_or_else(|| panic!("{words}: no drift"));
        assert!(before.to_string().contains(words), "{words}: {before}");
        apt.site.apply().success();
        nothing_to_do(&apt.site);
        sound();
    }
    let kept = apt.get("snapshots");
    assert_eq!(
        kept.as_array().unwrap().len(),
        4,
        "what can be gone back to stays"
    );
}

fn what_cannot_be_had_is_told(apt: &AptSite) {
    let before = apt.get("snapshot_id");
    apt.site.edit("[\"app\"]", "[\"app\", \"no-such-thing\"]");
    apt.site.terraform(&["plan"]).failure().says(&[
        "Packages cannot be had",
        "no-such-thing",
        "allow_missing = true",
    ]);
    apt.site
        .edit("base_url ", "allow_missing = true\n  base_url ");
    apt.site.apply().success();
    nothing_to_do(&apt.site);
    let missing = apt.get("missing");
    assert!(
        missing[0].as_str().unwrap().starts_with("no-such-thing: "),
        "{missing}"
    );
    apt.site.edit("allow_missing = true\n  ", "");
    apt.site.edit(", \"no-such-thing\"", "");
    apt.site.apply().success();
    assert_eq!(
        (apt.get("missing"), apt.get("snapshot_id")),
        (json!([]), before)
    );
}

fn an_old_snapshot_is_published_again(apt: &AptSite, first: &Value) {
    let latest = apt.get("snapshot_id");
    apt.site
        .edit("base_url ", &format!("pin = {first}\n  base_url "));
    apt.server.log();
    apt.plans(&[
        "0 added, 1 changed, 0 removed, 1 unchanged",
        "~ lib 1.4 -> 1.0",
    ]);
    apt.site.apply().success();
    nothing_to_do(&apt.site);
    assert_eq!(apt.get("snapshot_id"), *first);
    assert_eq!(apt.server.log(), [""; 0]);
    apt.site
        .edit(&format!("pin = {first}"), "pin = \"never-was\"");
    apt.site
        .terraform(&["plan"])
        .failure()
        .says(&["There is no such snapshot", first.as_str().unwrap()]);
    apt.site.edit("pin = \"never-was\"\n  ", "");
    apt.site.apply().success();
    assert_eq!(apt.get("snapshot_id"), latest);
}

const OTHER_SITE: &str = r#"
resource "ondol_apt_mirror" "there" {
  name          = "site"
  path          = "DIR/there"
  suite         = "stable"
  architectures = ["amd64"]
  transport = {
    mode         = "import_archive"
    archive      = "DIR/site.tar"
    keyring_file = "DIR/www/keys/site.asc"
  }
  site_key_file = "DIR/there.key"
  cache_dir     = "DIR/there-cache"
}
"#;

#[test]
fn a_site_without_a_line_gets_the_same_by_an_archive() {
    if !possible() {
        return;
    }
    let exporting = APT.replace(
        "base_url ",
        "transport = { mode = \"export_archive\", archive = \"DIR/site.tar\" }\n  base_url ",
    );
    let apt = AptSite::new("ar", &exporting);
    apt.site.apply().success();
    nothing_to_do(&apt.site);
    let archive = apt.site.path("site.tar");
    std::fs::remove_file(&archive).unwrap();
    assert_eq!(apt.site.plan(), [format!("update {MIRROR}")]);
    apt.site.apply().success();
    assert!(archive.exists());

    let dir = apt.site.path("").display().to_string();
    let both = std::fs::read_to_string(apt.site.path("main.tf")).unwrap()
        + &OTHER_SITE.replace("DIR", dir.trim_end_matches('/'));
    apt.site.write("main.tf", &both);
    apt.server.log();
    apt.site.apply().success();
    nothing_to_do(&apt.site);
    assert_eq!(apt.server.log(), [""; 0]);
    let there = |name: &str| apt.site.attribute("ondol_apt_mirror.there", name);
    for name in ["content_digest", "snapshot_id", "package_count"] {
        assert_eq!(there(name), apt.get(name), "{name}");
    }
    assert_ne!(there("public_key"), apt.get("public_key"));
    let client = tempfile::tempdir().unwrap();
    apt_get(
        client.path(),
        there("local_sources").as_str().unwrap(),
        &["update"],
    );
}
