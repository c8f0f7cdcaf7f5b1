//! The build itself: reads this machine's apt sources, runs the tools, and publishes the result by one rename.
//!
//! A crash leaves only a directory `images/.building-*`, which the next build of the same recipe removes.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::bootstrap::{self, Places};
use crate::error::{Error, Result};
use crate::manifest::{self, Image, Manifest};
use crate::recipe::Recipe;
use crate::rootfs::{self, InRoot};
use crate::sources::{self, Release, SignedBy, Source};

/// Given to the caller's closure at least four times a second while a build runs.
#[derive(Debug, Clone)]
pub struct Progress {
    pub elapsed: Duration,
    /// What is going on, in words, if there is something new to say.
    pub news: Option<String>,
}

/// How often the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(200);

/// Builds the image of `recipe`, or finds it in `cache_dir`. `progress` may break off the build; nothing is left of it then.
///
/// Two processes that build the same recipe at the same time build it once.
pub fn build(
    recipe: &Recipe,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Image> {
    build_with(None, recipe, cache_dir, progress)
}

/// The programs that can make a root file system, the better one first.
#[derive(Debug, Clone, Copy)]
enum Tool {
    Mmdebstrap,
    Debootstrap,
}

impl Tool {
    fn of_this_machine() -> Result<Self> {
        if on_path("mmdebstrap") {
            Ok(Self::Mmdebstrap)
        } else if on_path("debootstrap") {
            Ok(Self::Debootstrap)
        } else {
            Err(Error::NoBootstrapTool)
        }
    }
}

fn build_with(
    tool: Option<Tool>,
    recipe: &Recipe,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Image> {
    recipe.validate()?;
    let digest = recipe.digest();
    if let Some(image) = manifest::find(cache_dir, &digest)? {
        return Ok(image);
    }
    let mut build = Build {
        tool,
        recipe,
        cache_dir,
        digest,
        began: Instant::now(),
        progress,
    };
    let _lock = build.lock()?;
    if let Some(image) = manifest::find(cache_dir, &build.digest)? {
        return Ok(image);
    }
    build.remove_leftovers()?;
    let dir = build.building_dir();
    let built = build.build_in(&dir);
    if built.is_err() {
        // The error matters more than what a failed clean-up would say; the next build cleans again.
        drop(fs::remove_dir_all(&dir));
    }
    built
}

struct Build<'a> {
    /// The machine's best if not said.
    tool: Option<Tool>,
    recipe: &'a Recipe,
    cache_dir: &'a Path,
    digest: String,
    began: Instant,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl Build<'_> {
    fn images(&self) -> PathBuf {
        self.cache_dir.join("images")
    }

    fn building_dir(&self) -> PathBuf {
        self.images().join(format!(".building-{}", self.digest))
    }

    fn report(&mut self, act: &str, news: Option<String>) -> Result<()> {
        let progress = Progress {
            elapsed: self.began.elapsed(),
            news,
        };
        match (self.progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled {
                act: act.to_owned(),
            }),
        }
    }

    fn lock(&mut self) -> Result<Flock<File>> {
        let path = self.images().join(format!(".{}.lock", self.digest));
        create_dir(&self.images())?;
        let mut file = File::create(&path)
            .map_err(|error| Error::io(format!("create {}", path.display()), error))?;
        let mut told = false;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK)) => {
                    file = back;
                    let news = (!told).then(|| {
                        "another process is building this image: waiting for it".to_owned()
                    });
                    told = true;
                    self.report("wait for another build of the same image", news)?;
                    std::thread::sleep(TICK);
                }
                Err((_, errno)) => {
                    return Err(Error::io(format!("lock {}", path.display()), errno));
                }
            }
        }
    }

    /// Only the holder of the lock may call this.
    fn remove_leftovers(&self) -> Result<()> {
        for dir in [
            self.building_dir(),
            manifest::image_dir(self.cache_dir, &self.digest),
        ] {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(
                        format!("remove what an earlier build left in {}", dir.display()),
                        error,
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn build_in(&mut self, dir: &Path) -> Result<Image> {
        let root = dir.join("rootfs");
        let debs = self.cache_dir.join("debs");
        create_dir(dir)?;
        create_dir(&debs)?;
        let chosen = self.sources()?;
        self.bootstrap(
            &chosen,
            dir,
            Places {
                rootfs: &root,
                debs: &debs,
            },
        )?;

        self.report(
            "finish the image",
            Some("finishing: identity removed, units masked, users made".to_owned()),
        )?;
        rootfs::generalise(&root)?;
        for command in rootfs::commands(&root, self.recipe) {
            self.run_in_root(&root, command)?;
        }
        for user in &self.recipe.users {
            for command in rootfs::put_user_files(&root, user)? {
                self.run_in_root(&root, command)?;
            }
        }
        let image = self.describe(dir, &root)?;
        let place = manifest::image_dir(self.cache_dir, &self.digest);
        fs::rename(dir, &place)
            .map_err(|error| Error::io(format!("publish {}", place.display()), error))?;
        sync_dir(&self.images())?;
        Ok(Image {
            rootfs: place.join("rootfs"),
            ..image
        })
    }

    fn sources(&self) -> Result<Vec<Source>> {
        let known: Vec<(Source, Release)> = machine_sources()?
            .into_iter()
            .map(|source| {
                let release = machine_release(&source);
                (source, release)
            })
            .collect();
        let chosen = sources::select(&known, self.recipe.distribution, &self.recipe.suite);
        if chosen.is_empty() {
            return Err(Error::UnknownSuite {
                distribution: self.recipe.distribution.to_string(),
                suite: self.recipe.suite.clone(),
                available: sources::available(&known),
            });
        }
        Ok(chosen)
    }

    fn bootstrap(&mut self, chosen: &[Source], dir: &Path, places: Places<'_>) -> Result<()> {
        let act = format!(
            "build a root file system of {} {}",
            self.recipe.distribution, self.recipe.suite
        );
        let options = bootstrap::fetch_options(&apt_config()?);
        let mut keys = Vec::new();
        for (index, source) in chosen.iter().enumerate() {
            keys.push(match &source.signed_by {
                SignedBy::Inline(key) => {
                    let path = dir.join(format!("key-{index}.asc"));
                    fs::write(&path, key)
                        .map_err(|error| Error::io(format!("write {}", path.display()), error))?;
                    Some(path.display().to_string())
                }
                _ => None,
            });
        }
        let lines: Vec<String> = chosen
            .iter()
            .zip(&keys)
            .map(|(source, key)| source.line(key.as_deref()))
            .collect();
        let tool = self.tool.map_or_else(Tool::of_this_machine, Ok)?;
        if let Tool::Mmdebstrap = tool {
            return self.run(
                &act,
                bootstrap::mmdebstrap(self.recipe, &lines, &options, places),
            );
        }
        let base = &chosen[0];
        let keyring = match (&base.signed_by, &keys[0]) {
            (SignedBy::Named(path), _) if path.starts_with('/') => path.split(',').next(),
            (_, inline) => inline.as_deref(),
        };
        self.run(
            &act,
            bootstrap::debootstrap(self.recipe, base, keyring, places),
        )?;
        let within = install_keys(chosen, &keys, places.rootfs)?;
        self.run(
            &act,
            bootstrap::upgrade_script(places.rootfs, &within, &options),
        )
    }

    fn describe(&self, dir: &Path, root: &Path) -> Result<Image> {
        let path = root.join("var/lib/dpkg/status");
        let status = fs::read_to_string(&path)
            .map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        let packages = manifest::parse_dpkg_status(&status);
        let manifest = Manifest {
            digest: self.digest.clone(),
            recipe: self.recipe.clone(),
            content_digest: manifest::content_digest(&packages),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            packages,
        };
        manifest::write(dir, &manifest)?;
        Ok(Image {
            digest: self.digest.clone(),
            rootfs: root.to_owned(),
            package_count: manifest.packages.len(),
            content_digest: manifest.content_digest.clone(),
            manifest,
        })
    }

    fn run_in_root(&mut self, root: &Path, command: InRoot) -> Result<()> {
        let argv = ["chroot".to_owned(), root.display().to_string()]
            .into_iter()
            .chain(command.argv)
            .collect();
        self.run(&command.act, argv)
    }

    /// Runs a command to its end, passing on what it says.
    fn run(&mut self, act: &str, argv: Vec<String>) -> Result<()> {
        let tool = argv.first().expect("a command has a name").clone();
        let argv = bootstrap::contained(argv);
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env_remove("TMPDIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::io(format!("{act}: run {}", argv[0]), error))?;
        let (sender, lines) = mpsc::channel();
        forward(
            child.stdout.take().expect("stdout is a pipe"),
            sender.clone(),
        );
        forward(child.stderr.take().expect("stderr is a pipe"), sender);

        let mut last_words = VecDeque::new();
        let outcome = loop {
            let news = match lines.recv_timeout(TICK) {
                Ok(line) => {
                    last_words.push_back(line.clone());
                    if last_words.len() > 30 {
                        last_words.pop_front();
                    }
                    Some(line)
                }
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            };
            if let Err(cancelled) = self.report(act, news) {
                break Err(cancelled);
            }
        };
        if outcome.is_err() {
            child
                .kill()
                .map_err(|error| Error::io(format!("{act}: stop {tool}"), error))?;
        }
        let status = child
            .wait()
            .map_err(|error| Error::io(format!("{act}: wait for {tool}"), error))?;
        outcome?;
        if status.success() {
            return Ok(());
        }
        let output = last_words.into_iter().collect::<Vec<_>>().join("\n");
        Err(Error::Tool {
            act: act.to_owned(),
            tool,
            status: status.to_string(),
            output,
        })
    }
}

fn forward(pipe: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe)
            .split(b'\n')
            .map_while(std::io::Result::ok)
        {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !line.is_empty() && lines.send(line).is_err() {
                break;
            }
        }
    });
}

/// Copies the keys of the sources to where the new root's own apt finds them; answers with its sources.list.
fn install_keys(chosen: &[Source], inline: &[Option<String>], root: &Path) -> Result<String> {
    let mut list = String::new();
    for (index, source) in chosen.iter().enumerate() {
        let outside = match (&source.signed_by, &inline[index]) {
            (SignedBy::Named(path), _) if path.starts_with('/') => {
                path.split(',').map(PathBuf::from).collect()
            }
            (_, Some(path)) => vec![PathBuf::from(path)],
            _ => Vec::new(),
        };
        let mut within = Vec::new();
        for path in outside {
            let extension = path
                .extension()
                .and_then(|extension| extension.to_str())
                .unwrap_or("gpg");
            let place = format!(
                "usr/share/keyrings/ondol-build-{index}-{}.{extension}",
                within.len()
            );
            fs::copy(&path, root.join(&place))
                .map_err(|error| Error::io(format!("copy {}", path.display()), error))?;
            within.push(format!("/{place}"));
        }
        let mut source = source.clone();
        if !within.is_empty() {
            source.signed_by = SignedBy::Named(within.join(","));
        }
        list += &(source.line(None) + "\n");
    }
    Ok(list)
}

fn machine_sources() -> Result<Vec<Source>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = Path::new("/etc/apt/sources.list.d");
    match fs::read_dir(parts) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            files.extend(paths);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(format!("list {}", parts.display()), error)),
    }
    let mut sources = Vec::new();
    for path in files {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources::parse_list,
            Some("sources") => sources::parse_deb822,
            _ => continue,
        };
        match fs::read_to_string(&path) {
            Ok(text) => sources.extend(parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("read {}", path.display()), error)),
        }
    }
    Ok(sources)
}

/// What apt last fetched of the source's Release file, if anything.
fn machine_release(source: &Source) -> Release {
    let stem = source.release_file_stem();
    ["InRelease", "Release"]
        .iter()
        .find_map(|end| fs::read_to_string(format!("/var/lib/apt/lists/{stem}{end}")).ok())
        .map_or_else(Release::default, |text| sources::parse_release(&text))
}

fn apt_config() -> Result<String> {
    let output = Command::new("apt-config")
        .arg("dump")
        .output()
        .map_err(|error| {
            Error::io(
                "read this machine's apt configuration with apt-config",
                error,
            )
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn on_path(program: &str) -> bool {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .iter()
    .any(|dir| Path::new(dir).join(program).is_file())
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| Error::io(format!("create {}", dir.display()), error))
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Error::io(format!("sync {}", dir.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Distribution;

    /// As real as those in tests/: root, debootstrap and the machine's mirror.
    #[test]
    fn debootstrap_builds_the_image_where_mmdebstrap_is_missing() {
        if !on_path("debootstrap") {
            assert!(
                std::env::var_os("CI").is_none(),
                "debootstrap is not installed"
            );
            eprintln!("SKIPPED: debootstrap is not installed");
            return;
        }
        let shared = Path::new(crate::DEFAULT_CACHE_DIR);
        create_dir(&shared.join("debs")).expect("the cache can be made");
        let cache = tempfile::tempdir_in(shared).expect("a directory in the cache can be made");
        std::os::unix::fs::symlink(shared.join("debs"), cache.path().join("debs"))
            .expect("a link can be made");
        let recipe = Recipe {
            packages: vec!["sudo".to_owned()],
            ..Recipe::base(Distribution::Debian, "bookworm")
        };
        let image = build_with(Some(Tool::Debootstrap), &recipe, cache.path(), &mut |_| {
            ControlFlow::Continue(())
        })
        .expect("the image builds");
        assert!(image.manifest.packages.contains_key("sudo"));
        let list = fs::read_to_string(image.rootfs.join("etc/apt/sources.list")).expect("readable");
        assert!(!list.contains("deb "), "{list}");
        assert!(!image.rootfs.join("etc/resolv.conf").exists());
        assert!(
            !image
                .rootfs
                .join("etc/apt/apt.conf.d/99ondol-build")
                .exists()
        );
    }
}
