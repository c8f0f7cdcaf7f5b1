//! The registry mirror between real registries on loopback. Images are pushed and pulled by skopeo, which knows nothing of ours.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod daemon;
#[expect(dead_code, reason = "the tests of files use the rest")]
mod loopback;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use daemon::{Images, Registry, possible, skopeo};
use ondol_mirror::CancellationToken;
use ondol_mirror::fetch::{Fetcher, Options};
use ondol_mirror::pool::Pool;
use ondol_mirror::progress::Silent;
use ondol_mirror::registry::{self, AuthFile, Config, Image, LocalName, Mirrored};

const BOTH: [&str; 2] = ["linux/amd64", "linux/arm64"];

struct Site {
    dir: tempfile::TempDir,
    fetcher: Fetcher,
}

impl Site {
    fn new() -> Self {
        let options = Options {
            tries: 2,
            backoff: Duration::from_millis(5),
            stall_timeout: Duration::from_secs(10),
            ..Options::default()
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            fetcher: Fetcher::new(options).unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pool(&self) -> Pool {
        Pool::open(&self.path("cache")).unwrap()
    }

    async fn sync(&self, config: &Config) -> Result<Mirrored, String> {
        let cancel = CancellationToken::new();
        registry::sync(config, &self.pool(), &self.fetcher, &Silent, &cancel)
            .await
            .map_err(|error| error.to_string())
    }

    async fn resolve(&self, config: &Config) -> BTreeMap<LocalName, registry::Digest> {
        registry::resolve(config, &self.fetcher, &CancellationToken::new())
            .await
            .unwrap()
    }

    /// The layout at `path`, in which skopeo must be able to read every image.
    fn pulls_from_layout(&self, config: &Config) {
        let layout = config.layout.as_ref().unwrap();
        for name in config.images.keys() {
            let to = tempfile::tempdir().unwrap();
            skopeo(&[
                "copy",
                "--all",
                &format!("oci:{}:{name}", layout.display()),
                &format!("dir:{}", to.path().display()),
            ]);
        }
    }
}

fn images(list: &[(&str, &str, &[&str])]) -> BTreeMap<LocalName, Image> {
    let images = list.iter().map(|(name, source, platforms)| {
        let platforms = platforms.iter().map(|text| text.parse().unwrap());
        let image = Image {
            source: source.parse().unwrap(),
            platforms: platforms.collect(),
        };
        (name.parse().unwrap(), image)
    });
    images.collect()
}

/// Pulls by digest as a container engine would, and answers with the raw index or manifest.
#[track_caller]
fn pull(registry: &Registry, repository: &str, digest: &str) -> Vec<u8> {
    let from = format!("docker://{}/{repository}@{digest}", registry.address);
    let to = tempfile::tempdir().unwrap();
    let to = format!("dir:{}", to.path().display());
    skopeo(&["copy", "--all", "--src-tls-verify=false", &from, &to]);
    skopeo(&["inspect", "--raw", "--tls-verify=false", &from])
}

#[tokio::test]
async fn an_image_is_mirrored_and_outlives_its_upstream() {
    if !possible() {
        return;
    }
    let site = Site::new();
    let mut upstream = Registry::start(&site.path("upstream"));
    let local = Registry::start(&site.path("local"));
    let mut made = Images::new(&site.path("made"));
    let digest = made.add("1", &BOTH, "one");
    made.push("1", &format!("{}/team/app:1.0", upstream.address), &[]);

    let source = format!("{}/team/app:1.0", upstream.address);
    let mut config = Config {
        images: images(&[
            ("app:1.0", &source, &[]),
            ("copies/app:latest", &source, &[]),
        ]),
        layout: Some(site.path("srv/registry/site")),
        push: Some(local.address.clone()),
        plain_http: [upstream.address.clone(), local.address.clone()].into(),
        ..Config::default()
    };
    let done = site.sync(&config).await.unwrap();
    // Two configurations, two layers of their own and one that is shared; two manifests and an index.
    assert_eq!((done.fetched, done.blobs), (5, 8));
    let copy = done.images[&"app:1.0".parse().unwrap()];
    assert_eq!(copy.digest.to_string(), digest);
    assert_eq!(copy.source_digest, copy.digest);
    site.pulls_from_layout(&config);
    let uploads = |registry: &Registry| {
        let put = registry.requests("PUT");
        put.iter()
            .filter(|request| request.contains("/blobs/uploads/"))
            .count()
    };
    // The second repository takes its blobs from the first one.
    assert_eq!(uploads(&local), 5);

    let (got, put) = (upstream.requests("GET").len(), local.requests("PUT").len());
    let posted = local.requests("POST").len();
    let again = site.sync(&config).await.unwrap();
    assert_eq!((again.fetched, again.pushed), (0, 0));
    assert_eq!(again.images, done.images);
    assert_eq!(upstream.requests("GET").len(), got, "one HEAD and no GET");
    assert_eq!(
        (local.requests("PUT").len(), local.requests("POST").len()),
        (put, posted)
    );

    upstream.stop();
    pull(&local, "app", &digest);
    let raw = pull(&local, "copies/app", &digest);
    assert_eq!(format!("sha256:{}", ondol_mirror::Digest::of(&raw)), digest);
    // What is named by its digest needs no upstream at all, nor a cache.
    std::fs::remove_dir_all(site.path("cache")).unwrap();
    config.images = images(&[(
        "app:1.0",
        &format!("{}/team/app@{digest}", upstream.address),
        &[],
    )]);
    let local_only = site.sync(&config).await.unwrap();
    assert_eq!((local_only.fetched, local_only.pushed), (0, 0));
    let pushed = registry::pushed(&config, &site.fetcher, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(pushed[&"app:1.0".parse().unwrap()].to_string(), digest);
    let layout = registry::observe(config.layout.as_ref().unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(
        layout.images.len(),
        1,
        "the image that is no longer wanted has left"
    );
}

#[tokio::test]
async fn a_tag_that_moved_costs_only_what_is_new() {
    if !possible() {
        return;
    }
    let site = Site::new();
    let upstream = Registry::start(&site.path("upstream"));
    let mut made = Images::new(&site.path("made"));
    made.add("1", &BOTH, "one");
    let second = made.add("2", &BOTH, "two");
    let source = format!("{}/app:stable", upstream.address);
    made.push("1", &source, &[]);
    let config = Config {
        images: images(&[("app:stable", &source, &["linux/amd64"])]),
        layout: Some(site.path("layout")),
        plain_http: [upstream.address.clone()].into(),
        ..Config::default()
    };
    let first = site.sync(&config).await.unwrap();
    assert_eq!((first.fetched, first.blobs), (3, 5), "one platform of two");
    let name = "app:stable".parse().unwrap();
    assert_ne!(
        first.images[&name].digest,
        first.images[&name].source_digest
    );
    site.pulls_from_layout(&config);

    made.push("2", &source, &[]);
    assert_eq!(site.resolve(&config).await[&name].to_string(), second);
    let moved = site.sync(&config).await.unwrap();
    assert_eq!(
        moved.fetched, 2,
        "configuration and own layer; the shared layer is there"
    );
    assert_eq!(moved.images[&name].source_digest.to_string(), second);
    assert_eq!(
        std::fs::read_dir(site.path("layout/blobs/sha256"))
            .unwrap()
            .count(),
        5
    );

    let wrong = Config {
        images: images(&[("app:x", &source, &["linux/s390x"])]),
        ..config.clone()
    };
    let error = site.sync(&wrong).await.unwrap_err();
    assert!(
        error.contains("no image for linux/s390x; it has linux/amd64, linux/arm64"),
        "{error}"
    );
    let missing = Config {
        images: images(&[("app:x", &format!("{}/app:nope", upstream.address), &[])]),
        ..config.clone()
    };
    let error = site.sync(&missing).await.unwrap_err();
    assert!(
        error.contains("/app:nope: the registry does not have it"),
        "{error}"
    );
    let layout = registry::observe(&site.path("layout")).unwrap().unwrap();
    assert_eq!(
        layout.images,
        [(name.clone(), moved.images[&name].digest)].into()
    );
}

#[tokio::test]
async fn damage_is_seen_and_mended_and_a_lying_upstream_is_refused() {
    if !possible() {
        return;
    }
    let site = Site::new();
    let upstream = Registry::start(&site.path("upstream"));
    let mut made = Images::new(&site.path("made"));
    made.add("1", &BOTH, "one");
    let source = format!("{}/app:1", upstream.address);
    made.push("1", &source, &[]);
    let layout = site.path("layout");
    let config = Config {
        images: images(&[("app:1", &source, &[])]),
        layout: Some(layout.clone()),
        plain_http: [upstream.address.clone()].into(),
        ..Config::default()
    };
    let done = site.sync(&config).await.unwrap();
    let name: LocalName = "app:1".parse().unwrap();
    let damaged = || {
        registry::observe(&layout)
            .unwrap()
            .unwrap()
            .damaged
            .remove(&name)
    };
    assert_eq!(damaged(), None);

    let blobs: Vec<PathBuf> = std::fs::read_dir(layout.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    for (index, blob) in blobs.iter().enumerate() {
        let sound = std::fs::read(blob).unwrap();
        let words = match index % 3 {
            0 => {
                // The pool's file is the same one.
                let mut bytes = sound.clone();
                bytes[0] ^= 1;
                std::fs::write(blob, bytes).unwrap();
                "has been changed"
            }
            1 => {
                std::fs::write(blob, &sound[1..]).unwrap();
                "bytes"
            }
            _ => {
                std::fs::remove_file(blob).unwrap();
                "is missing"
            }
        };
        let seen = damaged().unwrap();
        assert!(seen.contains(words), "{seen}");
        assert_eq!(site.sync(&config).await.unwrap().images, done.images);
        assert_eq!(damaged(), None);
        assert_eq!(std::fs::read(blob).unwrap(), sound);
    }

    // A layer that is not what it is called.
    let victim = made.add("2", &["linux/amd64"], "two");
    made.push("2", &format!("{}/app:2", upstream.address), &[]);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(upstream.data(&victim)).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(upstream.data(manifest)).unwrap()).unwrap();
    let layer = manifest["layers"][1]["digest"].as_str().unwrap();
    let mut bytes = std::fs::read(upstream.data(layer)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(upstream.data(layer), bytes).unwrap();
    let second = Config {
        images: images(&[
            ("app:1", &source, &[]),
            ("app:2", &format!("{}/app:2", upstream.address), &[]),
        ]),
        ..config.clone()
    };
    let error = site.sync(&second).await.unwrap_err();
    assert!(
        error.contains(layer) && error.contains("wrong hash"),
        "{error}"
    );
    assert_eq!(registry::observe(&layout).unwrap().unwrap().images.len(), 1);
    assert!(
        !site
            .pool()
            .holds(&layer.trim_start_matches("sha256:").parse().unwrap())
            .unwrap()
    );

    registry::remove(&layout).unwrap();
    assert!(!layout.exists());
    assert_eq!(registry::observe(&layout).unwrap(), None);
}

/// `ops` and `s3cret-word`.
const HTPASSWD: &str = "$2b$04$hVwKR/GUd0pIJvCR0eDL7uPfjGtv2fRa203XnyNjO.G2YzMVw/xaO";
const LOGIN: &str = "b3BzOnMzY3JldC13b3Jk";

#[tokio::test]
async fn a_registry_with_passwords_wants_a_login_and_gets_it() {
    if !possible() {
        return;
    }
    let site = Site::new();
    std::fs::write(site.path("htpasswd"), format!("ops:{HTPASSWD}\n")).unwrap();
    let auth = format!(
        "auth: {{ htpasswd: {{ realm: site, path: {} }} }}\n",
        site.path("htpasswd").display()
    );
    let upstream = Registry::start_with(&site.path("upstream"), &auth);
    let local = Registry::start_with(&site.path("local"), &auth);
    let mut made = Images::new(&site.path("made"));
    let digest = made.add("1", &BOTH, "one");
    let source = format!("{}/app:1", upstream.address);
    made.push("1", &source, &["--dest-creds=ops:s3cret-word"]);

    let mut config = Config {
        images: images(&[("app:1", &source, &[])]),
        push: Some(local.address.clone()),
        plain_http: [upstream.address.clone(), local.address.clone()].into(),
        ..Config::default()
    };
    let error = site.sync(&config).await.unwrap_err();
    assert!(
        error.contains(&upstream.address) && error.contains("asks for a login"),
        "{error}"
    );
    let auths = |login: &str| {
        let text = format!(
            r#"{{"auths": {{"{}": {{"auth": "{login}"}}, "{}": {{"auth": "{login}"}}}}}}"#,
            upstream.address, local.address
        );
        AuthFile::parse(&text).unwrap()
    };
    config.auth = auths("b3BzOndyb25n");
    let error = site.sync(&config).await.unwrap_err();
    assert!(
        error.contains("denies it") && error.contains("UNAUTHORIZED") && !error.contains("wrong"),
        "{error}"
    );
    config.auth = auths(LOGIN);
    let done = site.sync(&config).await.unwrap();
    assert_eq!((done.fetched, done.pushed), (5, 5));
    // Manifests are at hand, and so nobody has asked for the password before the first blob.
    let layer = std::fs::read_dir(site.path("cache/pool/sha256")).unwrap();
    let largest = layer
        .flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len());
    std::fs::remove_file(largest.unwrap()).unwrap();
    config.images = images(&[("app:1", &format!("{}/app@{digest}", upstream.address), &[])]);
    assert_eq!(site.sync(&config).await.unwrap().fetched, 1);
    let from = format!("docker://{}/app@{digest}", local.address);
    skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        "--creds=ops:s3cret-word",
        &from,
    ]);
}

/// Gives tokens that docker-registry believes: signed by a key whose certificate it knows.
struct TokenServer {
    server: loopback::Server,
    /// Of the registry's configuration.
    settings: String,
}

impl TokenServer {
    fn start(dir: &std::path::Path) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["token.example".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let bundle = dir.join("token.pem");
        std::fs::write(&bundle, certificate.pem()).unwrap();
        let (der, pkcs8) = (certificate.der().to_vec(), key.serialize_der());
        let server = loopback::Server::new(move |request| {
            let (_, query) = request.target.split_once('?').unwrap();
            let scope = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("scope="))
                .unwrap();
            let scope = scope
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",");
            let parts: Vec<&str> = scope.split(':').collect();
            let [_, name, actions] = parts[..] else {
                panic!("{scope}")
            };
            let pushes = actions.contains("push");
            if pushes && request.authorization.as_deref() != Some(&format!("Basic {LOGIN}")) {
                return loopback::Reply {
                    status: 401,
                    ..loopback::Reply::default()
                };
            }
            let actions: Vec<&str> = actions.split(',').collect();
            let token = token(&der, &pkcs8, name, &actions);
            loopback::file(serde_json::json!({ "token": token }).to_string().as_bytes())
        });
        let settings = format!(
            "auth: {{ token: {{ realm: \"{}\", service: site, issuer: test, rootcertbundle: {} }} }}\n",
            server.url("/token"),
            bundle.display()
        );
        Self { server, settings }
    }
}

fn token(certificate: &[u8], pkcs8: &[u8], name: &str, actions: &[&str]) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let header =
        serde_json::json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(certificate)]});
    let claims = serde_json::json!({
        "iss": "test", "sub": "", "aud": "site", "exp": now + 60, "nbf": now - 5, "iat": now, "jti": "1",
        "access": [{"type": "repository", "name": name, "actions": actions}],
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &random).unwrap();
    let signature = key.sign(&random, text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

#[tokio::test]
async fn tokens_are_fetched_for_each_repository_and_with_a_login_where_it_is_needed() {
    if !possible() {
        return;
    }
    let site = Site::new();
    let tokens = TokenServer::start(site.dir.path());
    let upstream = Registry::start_with(&site.path("upstream"), &tokens.settings);
    let local = Registry::start_with(&site.path("local"), &tokens.settings);
    let mut made = Images::new(&site.path("made"));
    let digest = made.add("1", &BOTH, "one");
    let source = format!("{}/team/app:1", upstream.address);
    made.push("1", &source, &["--dest-creds=ops:s3cret-word"]);
    tokens.server.requests();

    let mut config = Config {
        images: images(&[("app:1", &source, &[])]),
        plain_http: [upstream.address.clone(), local.address.clone()].into(),
        ..Config::default()
    };
    // Anybody may pull.
    assert_eq!(site.sync(&config).await.unwrap().fetched, 5);
    let asked = tokens.server.requests();
    assert_eq!(asked.len(), 1, "one token serves all requests: {asked:?}");
    assert_eq!(asked[0].authorization, None);

    config.push = Some(local.address.clone());
    let error = site.sync(&config).await.unwrap_err();
    assert!(
        error.contains(&local.address) && error.contains("asks for a login"),
        "{error}"
    );
    let auths = format!(
        r#"{{"auths": {{"{}": {{"auth": "{LOGIN}"}}}}}}"#,
        local.address
    );
    config.auth = AuthFile::parse(&auths).unwrap();
    let done = site.sync(&config).await.unwrap();
    assert_eq!((done.fetched, done.pushed), (0, 5));
    pull(&local, "app", &digest);
}

#[tokio::test]
async fn plain_http_is_used_only_when_asked() {
    if !possible() {
        return;
    }
    let site = Site::new();
    let upstream = Registry::start(&site.path("upstream"));
    let config = Config {
        images: images(&[("app:1", &format!("{}/app:1", upstream.address), &[])]),
        ..Config::default()
    };
    site.sync(&config).await.unwrap_err();
    assert_eq!(upstream.requests("HEAD"), [""; 0]);
}
