//! Real registries (Debian's docker-registry) on loopback, and skopeo as a client that is not ours.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ondol_mirror::Digest;
use serde_json::{Value, json};

/// True when the tests can run here; a machine that cannot is told so, and in CI that is a failure.
pub(crate) fn possible() -> bool {
    let on_path = |tool: &&str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
    };
    let Some(missing) = ["docker-registry", "skopeo"]
        .into_iter()
        .find(|tool| !on_path(tool))
    else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none(),
        "these tests need {missing}"
    );
    eprintln!("SKIPPED: these tests need {missing} (apt-get install docker-registry skopeo)");
    false
}

pub(crate) struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    dir: PathBuf,
}

impl Registry {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, "")
    }

    /// `settings`: more of its configuration, such as an `auth` section.
    pub(crate) fn start_with(dir: &Path, settings: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        // Free now, and hardly taken by somebody else a moment later.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let config = format!(
            "version: 0.1\nlog: {{ level: info, accesslog: {{ disabled: false }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }}, delete: {{ enabled: true }} }}\n\
             http: {{ addr: \"{address}\" }}\n{settings}",
            dir.join("storage").display()
        );
        let file = dir.join("config.yml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            process,
            address,
            dir: dir.to_owned(),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "{}", registry.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Requests that it has answered by now, such as `GET /v2/app/manifests/1`, of one method.
    pub(crate) fn requests(&self, method: &str) -> Vec<String> {
        let needle = format!("\"{method} ");
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(" HTTP/1.1\" "));
        lines
            .filter_map(|line| {
                let from = line.find(&needle)? + 1;
                let (request, _) = line[from..].split_once(" HTTP/")?;
                Some(request.to_owned())
            })
            .collect()
    }

    /// Where it keeps the bytes of a blob or manifest.
    pub(crate) fn data(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.dir
            .join("storage/docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }

    pub(crate) fn stop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs skopeo; answers with what it printed.
#[track_caller]
pub(crate) fn skopeo(args: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo")
        .args(["--insecure-policy"])
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "skopeo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// An OCI image layout, written by hand.
pub(crate) struct Images {
    dir: PathBuf,
    manifests: Vec<Value>,
}

impl Images {
    pub(crate) fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            dir: dir.to_owned(),
            manifests: Vec::new(),
        }
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        std::fs::write(self.dir.join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    }

    /// An image for each platform, with a layer of its own and one that all share, under one index. Answers with its digest.
    pub(crate) fn add(&mut self, tag: &str, platforms: &[&str], content: &str) -> String {
        let shared = layer("shared", &vec![7; 100_000]);
        let mut children = Vec::new();
        for platform in platforms {
            let (os, architecture) = platform.split_once('/').unwrap();
            let own = layer("own", format!("{content} {platform}").as_bytes());
            let diff_ids: Vec<String> = [&shared, &own]
                .iter()
                .map(|(_, tar)| format!("sha256:{}", Digest::of(tar)))
                .collect();
            let config = json!({"architecture": architecture, "os": os, "config": {},
                "rootfs": {"type": "layers", "diff_ids": diff_ids}});
            let config = self.blob(
                "application/vnd.oci.image.config.v1+json",
                config.to_string().as_bytes(),
            );
            let layers: Vec<Value> = [&shared, &own]
                .iter()
                .map(|(gz, _)| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", gz))
                .collect();
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
            let mut child = self.blob(MANIFEST, manifest.to_string().as_bytes());
            child["platform"] = json!({"os": os, "architecture": architecture});
            children.push(child);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
        let mut root = self.blob(INDEX, index.to_string().as_bytes());
        let digest = root["digest"].as_str().unwrap().to_owned();
        root["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(root);
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        std::fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
        digest
    }

    /// Pushes one of them by skopeo.
    #[track_caller]
    pub(crate) fn push(&self, tag: &str, to: &str, more: &[&str]) {
        let (from, to) = (
            format!("oci:{}:{tag}", self.dir.display()),
            format!("docker://{to}"),
        );
        let mut args = vec![
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ];
        args.extend(more);
        args.extend([from.as_str(), to.as_str()]);
        skopeo(&args);
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layer with one file, compressed and not.
fn layer(name: &str, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    use std::io::Write as _;
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, name, bytes).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar).unwrap();
    (gz.finish().unwrap(), tar)
}
