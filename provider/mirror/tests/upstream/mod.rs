//! An archive of the test's own making, and an HTTP server that shows it and misbehaves on demand.
#![expect(dead_code, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ondol_mirror::apt::{
    Config, Keyring, Request, Selection, SiteKey, Snapshot, Trust, Upstream, date,
};
use ondol_mirror::fetch::Options;
use ondol_mirror::progress::Silent;
use ondol_mirror::{Cache, CancellationToken, Digest, Result};

pub(crate) const SUITE: &str = "stable";

/// A Debian archive below a directory.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub(crate) root: PathBuf,
    pub(crate) key: Arc<SiteKey>,
    /// Name to stanza fields and content.
    packages: BTreeMap<String, Package>,
    pub(crate) by_hash: bool,
    pub(crate) valid_until: Option<i64>,
    pub(crate) date: i64,
    pub(crate) compression: &'static str,
}

#[derive(Debug, Clone)]
struct Package {
    version: String,
    fields: String,
    filename: String,
    content: Vec<u8>,
}

impl Archive {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            key: Arc::new(
                SiteKey::open(&root.join("private/upstream.key")).expect("a key can be made"),
            ),
            packages: BTreeMap::new(),
            by_hash: true,
            valid_until: None,
            date: now(),
            compression: ".gz",
        }
    }

    /// A file that only claims to be a package: enough where no dpkg reads it.
    pub(crate) fn put(&mut self, name: &str, version: &str, fields: &str) {
        let content = format!("{name} {version} ").repeat(500).into_bytes();
        self.put_content(name, version, fields, content);
    }

    pub(crate) fn put_content(
        &mut self,
        name: &str,
        version: &str,
        fields: &str,
        content: Vec<u8>,
    ) {
        let filename = format!("pool/main/{name}_{}_all.deb", version.replace(':', "%3a"));
        self.packages.insert(
            name.to_owned(),
            Package {
                version: version.to_owned(),
                fields: fields.to_owned(),
                filename,
                content,
            },
        );
    }

    /// A package that dpkg can install.
    pub(crate) fn put_deb(&mut self, name: &str, version: &str, fields: &str) {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).expect("makes");
        fs::write(
            tree.join("DEBIAN/control"),
            format!("Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example>\n{fields}Description: test\n"),
        )
        .expect("writes");
        let deb = dir.path().join("x.deb");
        let status = Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "-b"])
            .args([&tree, &deb])
            .stdout(std::process::Stdio::null())
            .status()
            .expect("dpkg-deb runs");
        assert!(status.success());
        let content = fs::read(&deb).expect("reads");
        self.put_content(name, version, fields, content);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.packages.remove(name);
    }

    pub(crate) fn filename(&self, name: &str) -> String {
        self.packages[name].filename.clone()
    }

    /// Writes everything: packages first, so that an index never names what is not there. Old files stay.
    pub(crate) fn write(&self) {
        let mut text = String::new();
        for (name, package) in &self.packages {
            let path = self.root.join(&package.filename);
            fs::create_dir_all(path.parent().expect("has one")).expect("makes");
            fs::write(path, &package.content).expect("writes");
            text += &format!(
                "Package: {name}\nVersion: {}\nArchitecture: all\n{}Filename: {}\nSize: {}\nSHA256: {}\nDescription: test\n\n",
                package.version,
                package.fields,
                package.filename,
                package.content.len(),
                Digest::of(&package.content)
            );
        }
        let dists = self.root.join("dists").join(SUITE);
        let dir = dists.join("main/binary-amd64");
        fs::create_dir_all(dir.join("by-hash/SHA256")).expect("makes");
        let packed = match self.compression {
            ".gz" => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text.as_bytes()).expect("writes");
                encoder.finish().expect("writes")
            }
            _ => text.clone().into_bytes(),
        };
        let index = format!("main/binary-amd64/Packages{}", self.compression);
        fs::write(dists.join(&index), &packed).expect("writes");
        fs::write(
            dir.join("by-hash/SHA256")
                .join(Digest::of(&packed).to_string()),
            &packed,
        )
        .expect("writes");
        let mut release = format!(
            "Origin: Test\nSuite: {SUITE}\nCodename: {SUITE}\nDate: {}\nArchitectures: amd64\nComponents: main\n",
            date::format(self.date)
        );
        if self.by_hash {
            release += "Acquire-By-Hash: yes\n";
        }
        if let Some(until) = self.valid_until {
            release += &format!("Valid-Until: {}\n", date::format(until));
        }
        release += &format!(
            "SHA256:\n {} {} {index}\n",
            Digest::of(&packed),
            packed.len()
        );
        self.sign(&release);
    }

    /// Writes a Release file that says whatever it says, well signed.
    pub(crate) fn sign(&self, release: &str) {
        let dists = self.root.join("dists").join(SUITE);
        fs::write(
            dists.join("InRelease"),
            self.key.sign_inline(release).expect("signs"),
        )
        .expect("writes");
    }

    /// Release and Release.gpg in place of InRelease.
    pub(crate) fn detach(&self) {
        let dists = self.root.join("dists").join(SUITE);
        let inline = fs::read_to_string(dists.join("InRelease")).expect("reads");
        let text = self
            .key
            .keyring()
            .verify_inline(&inline, SystemTime::now())
            .expect("good");
        fs::write(dists.join("Release"), &text).expect("writes");
        fs::write(
            dists.join("Release.gpg"),
            self.key.sign_detached(&text).expect("signs"),
        )
        .expect("writes");
        fs::remove_file(dists.join("InRelease")).expect("removes");
    }

    pub(crate) fn release_text(&self) -> String {
        let path = self.root.join("dists").join(SUITE).join("InRelease");
        let inline = fs::read_to_string(path).expect("reads");
        self.key
            .keyring()
            .verify_inline(&inline, SystemTime::now())
            .expect("good")
    }
}

pub(crate) fn now() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs(),
    )
    .expect("before the end of time")
}

/// What to do wrong with a path.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    NotFound,
    Status(u16),
    /// As many bytes of the body, then the connection breaks off.
    Truncate(usize),
    /// As many bytes of the body, then nothing for a long time.
    Stall(usize),
    /// One byte of the body is another.
    Corrupt,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Behaviour {
    /// By a part of the path; how many times still.
    faults: Vec<(String, Fault, usize)>,
    hooks: Vec<(String, Hook)>,
    log: Vec<String>,
}

/// Serves until it is dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    address: std::net::SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Server {
    pub(crate) fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("is bound");
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (root, shared, ending) = (root.to_owned(), behaviour.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let (root, shared) = (root.clone(), shared.clone());
                std::thread::spawn(move || drop(serve(stream, &root, &shared)));
            }
        });
        Self {
            url: format!("http://{address}"),
            address,
            behaviour,
            stop,
        }
    }

    fn behaviour(&self) -> std::sync::MutexGuard<'_, Behaviour> {
        self.behaviour.lock().expect("no test panics in here")
    }

    pub(crate) fn fail(&self, part: &str, fault: Fault, times: usize) {
        self.behaviour()
            .faults
            .push((part.to_owned(), fault, times));
    }

    pub(crate) fn heal(&self) {
        let mut behaviour = self.behaviour();
        behaviour.faults.clear();
        behaviour.hooks.clear();
    }

    /// Runs once, before the first request of such a path is answered.
    pub(crate) fn before(&self, part: &str, act: impl FnOnce() + Send + 'static) {
        self.behaviour()
            .hooks
            .push((part.to_owned(), Box::new(act)));
    }

    /// Status and path of every request since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.behaviour().log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: TcpStream, root: &Path, behaviour: &Mutex<Behaviour>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((key, value)) = line.trim().split_once(':') else {
                break;
            };
            headers.insert(key.to_ascii_lowercase(), value.trim().to_owned());
        }
        let (hook, fault) = {
            let mut behaviour = behaviour.lock().expect("no test panics in here");
            let hook = behaviour
                .hooks
                .iter()
                .position(|(part, _)| path.contains(part.as_str()))
                .map(|index| behaviour.hooks.remove(index).1);
            let fault = behaviour
                .faults
                .iter_mut()
                .find(|(part, _, times)| path.contains(part.as_str()) && *times > 0)
                .map(|(_, fault, times)| {
                    *times -= 1;
                    fault.clone()
                });
            (hook, fault)
        };
        if let Some(hook) = hook {
            hook();
        }
        let decoded = decoded(&path);
        let file = root.join(decoded.trim_start_matches('/'));
        let mut body = (!decoded.contains("private") && !decoded.contains("..") && file.is_file())
            .then(|| fs::read(&file))
            .transpose()?;
        let mut status = 200;
        match &fault {
            Some(Fault::NotFound) => body = None,
            Some(Fault::Status(code)) => (status, body) = (*code, Some(Vec::new())),
            Some(Fault::Corrupt) => {
                if let Some(byte) = body.as_mut().and_then(|body| body.last_mut()) {
                    *byte ^= 1;
                }
            }
            _ => {}
        }
        let Some(mut body) = body else {
            behaviour
                .lock()
                .expect("no test panics in here")
                .log
                .push(format!("404 {path}"));
            write!(
                writer,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            )?;
            continue;
        };
        let etag = format!("\"{}\"", &Digest::of(&body).to_string()[..16]);
        let mut extra = String::new();
        if status == 200 && headers.get("if-none-match") == Some(&etag) {
            (status, body) = (304, Vec::new());
        } else if let Some(from) = headers
            .get("range")
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse::<usize>()
                    .ok()
            })
            .filter(|_| status == 200)
        {
            if from < body.len() {
                status = 206;
                extra = format!(
                    "Content-Range: bytes {from}-{}/{}\r\n",
                    body.len() - 1,
                    body.len()
                );
                body.drain(..from);
            } else {
                (status, body) = (416, Vec::new());
            }
        }
        behaviour
            .lock()
            .expect("no test panics in here")
            .log
            .push(format!("{status} {path}"));
        write!(
            writer,
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nETag: {etag}\r\n{extra}\r\n",
            body.len()
        )?;
        match fault {
            Some(Fault::Truncate(bytes)) => {
                writer.write_all(&body[..bytes.min(body.len())])?;
                return writer.shutdown(Shutdown::Both);
            }
            Some(Fault::Stall(bytes)) => {
                writer.write_all(&body[..bytes.min(body.len())])?;
                std::thread::sleep(Duration::from_secs(30));
                return Ok(());
            }
            _ => writer.write_all(&body)?,
        }
    }
}

fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = u8::from_str_radix(&part[..2], 16).expect("clients quote well");
        decoded.push(char::from(byte));
        decoded += &part[2..];
    }
    decoded
}

/// An archive, its server, and a mirror of it, all in one temporary directory.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) archive: Archive,
    pub(crate) server: Server,
    pub(crate) config: Config,
}

impl Site {
    /// `app` needs `lib` and `data`; `other` needs nothing.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let upstream = dir.path().join("upstream");
        let mut archive = Archive::new(&upstream);
        archive.put("app", "1.0", "Depends: lib (>= 1), data\n");
        archive.put("lib", "1.0", "");
        archive.put("data", "1.0", "");
        archive.put("other", "1.0", "");
        archive.write();
        let server = Server::start(&upstream);
        let config = config(dir.path(), &server.url, archive.key.keyring(), &["app"]);
        Self {
            dir,
            archive,
            server,
            config,
        }
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::open(&self.dir.path().join("cache")).expect("a cache can be made")
    }

    pub(crate) fn sync(&self) -> Result<Snapshot> {
        sync(&self.config, &self.cache())
    }

    /// `name=version` of what clients see, by the published index.
    pub(crate) fn published(&self) -> Vec<String> {
        published(&self.config)
    }

    /// What a client compares when it asks whether there is something new: in seconds since 1970, as HTTP tells it.
    pub(crate) fn dated(&self) -> i64 {
        let release = format!("current/dists/{}/InRelease", self.config.suite);
        let file = fs::metadata(self.config.root().join(release)).expect("is published");
        file.mtime()
    }

    /// Every published file is what its index says, and the pool holds nothing that is not proven.
    pub(crate) fn assert_sound(&self) {
        assert_sound(&self.config);
        assert_eq!(self.cache().pool().verify().expect("reads"), []);
    }
}

pub(crate) fn config(dir: &Path, url: &str, keyring: Keyring, packages: &[&str]) -> Config {
    Config {
        name: "test".into(),
        path: dir.join("www"),
        suite: "stable".into(),
        upstreams: vec![Upstream {
            uris: vec![url.to_owned()],
            suite: SUITE.into(),
            components: vec!["main".into()],
            trust: Trust::Keyring(keyring),
            check_valid_until: true,
        }],
        architectures: vec!["amd64".into()],
        selection: Selection::Closure(Request {
            packages: packages.iter().map(|&name| name.to_owned()).collect(),
            ..Request::default()
        }),
        allow_missing: false,
        keep: 2,
        pin: None,
        site_key: dir.join("secret/site.key"),
        fetch: fast(),
    }
}

/// The same ways, in a test's time.
pub(crate) fn fast() -> Options {
    Options {
        connect_timeout: Duration::from_secs(2),
        // Long enough for a machine that has other things to do; a test of stalling shortens it.
        stall_timeout: Duration::from_secs(10),
        tries: 2,
        backoff: Duration::from_millis(10),
        ..Options::default()
    }
}

pub(crate) fn sync(config: &Config, cache: &Cache) -> Result<Snapshot> {
    run(ondol_mirror::apt::sync(
        config,
        cache,
        &Silent,
        CancellationToken::new(),
    ))
}

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(work)
}

pub(crate) fn published(config: &Config) -> Vec<String> {
    let current = config.root().join("current");
    let index = current
        .join("dists")
        .join(&config.suite)
        .join("main/binary-amd64/Packages");
    let Ok(text) = fs::read_to_string(index) else {
        return Vec::new();
    };
    ondol_mirror::apt::packages::parse(&text)
        .expect("ours is well-formed")
        .iter()
        .map(|package| format!("{}={}", package.name, package.version))
        .collect()
}

/// As a client would prove it: the signature, the indexes by it, the packages by these.
pub(crate) fn assert_sound(config: &Config) {
    let current = config.root().join("current");
    let dists = current.join("dists").join(&config.suite);
    let public = fs::read(config.path.join("keys/site.asc")).expect("the key is published");
    let keyring = Keyring::parse(&public).expect("a keyring");
    let inline = fs::read_to_string(dists.join("InRelease")).expect("is there");
    let text = keyring
        .verify_inline(&inline, SystemTime::now() + Duration::from_secs(60))
        .expect("signed by the site");
    let release = ondol_mirror::apt::release::parse(&text).expect("ours is well-formed");
    assert!(!release.files.is_empty());
    for (path, (size, sha256)) in &release.files {
        let bytes = fs::read(dists.join(path)).expect("every index is there");
        assert_eq!(
            (bytes.len() as u64, Digest::of(&bytes)),
            (*size, *sha256),
            "{path}"
        );
        let (directory, _) = path.rsplit_once('/').expect("has one");
        let by_hash = dists
            .join(directory)
            .join(format!("by-hash/SHA256/{sha256}"));
        assert_eq!(fs::read(by_hash).expect("also by hash"), bytes);
    }
    let index = fs::read_to_string(dists.join("main/binary-amd64/Packages")).expect("is there");
    for package in ondol_mirror::apt::packages::parse(&index).expect("ours is well-formed") {
        let bytes = fs::read(current.join(package.filename)).expect("every package is there");
        assert_eq!(
            (bytes.len() as u64, Digest::of(&bytes).to_string()),
            (package.size, package.sha256.to_owned()),
            "{}",
            package.filename
        );
    }
    let leftovers: Vec<PathBuf> = fs::read_dir(config.root().join("snapshots"))
        .expect("is there")
        .map(|entry| entry.expect("can be read").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with('.'))
        })
        .collect();
    assert_eq!(leftovers, Vec::<PathBuf>::new());
}
