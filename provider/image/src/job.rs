//! One build under way: commands run and heard, one build at a time, and somebody who may break it off.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::bootstrap;
use crate::error::{Error, Result};
use crate::rootfs::InRoot;

/// Given to the caller's closure at least four times a second while a build runs.
#[derive(Debug, Clone)]
pub struct Progress {
    pub elapsed: Duration,
    /// What is going on, in words, if there is something new to say.
    pub news: Option<String>,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(200);

pub(crate) struct Job<'a> {
    began: Instant,
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>) -> Self {
        Self {
            began: Instant::now(),
            progress,
        }
    }

    pub(crate) fn report(&mut self, act: &str, news: Option<String>) -> Result<()> {
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

    /// Waits until no other process builds the same thing. `path` is a file that stays.
    fn lock(&mut self, path: &Path) -> Result<Flock<File>> {
        let mut file = File::create(path)
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

    pub(crate) fn run_in_root(&mut self, root: &Path, command: InRoot) -> Result<()> {
        let argv = ["chroot".to_owned(), root.display().to_string()]
            .into_iter()
            .chain(command.argv)
            .collect();
        self.run(&command.act, argv, &[])
    }

    /// Runs a command to its end, passing on what it says. `environment` is beside the little that every command gets.
    pub(crate) fn run(
        &mut self,
        act: &str,
        argv: Vec<String>,
        environment: &[(&str, String)],
    ) -> Result<()> {
        let tool = argv.first().expect("a command has a name").clone();
        let argv = bootstrap::contained(argv, is_root());
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("PATH", PATH)
            .env_remove("TMPDIR")
            .env_remove("SOURCE_DATE_EPOCH")
            .envs(environment.iter().map(|(name, value)| (name, value)))
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

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| Error::io(format!("create {}", dir.display()), error))
}

/// Finds what `digest` names below `home`, or makes it in a directory of its own and then gives that its name.
///
/// Two processes that want the same make it once. A crash leaves a directory `.building-*`, which the next build of the same removes.
pub(crate) fn once<T>(
    job: &mut Job<'_>,
    home: &Path,
    digest: &str,
    find: impl Fn() -> Result<Option<T>>,
    build: impl FnOnce(&mut Job<'_>, &Path) -> Result<()>,
) -> Result<T> {
    if let Some(found) = find()? {
        return Ok(found);
    }
    create_dir(home)?;
    let _lock = job.lock(&home.join(format!(".{digest}.lock")))?;
    if let Some(found) = find()? {
        return Ok(found);
    }
    let dir = home.join(format!(".building-{digest}"));
    let place = home.join(digest);
    for dir in [&dir, &place] {
        remove_leftover(dir)?;
    }
    create_dir(&dir)?;
    if let Err(error) = build(job, &dir) {
        // The error matters more than what a failed clean-up would say; the next build cleans again.
        drop(fs::remove_dir_all(&dir));
        return Err(error);
    }
    fs::rename(&dir, &place)
        .and_then(|()| File::open(home)?.sync_all())
        .map_err(|error| Error::io(format!("publish {}", place.display()), error))?;
    find()?.ok_or_else(|| {
        let missing = std::io::Error::from(ErrorKind::NotFound);
        Error::io(format!("read {}", place.display()), missing)
    })
}

fn remove_leftover(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(
            format!("remove what an earlier build left in {}", dir.display()),
            error,
        )),
        _ => Ok(()),
    }
}

/// On the path that commands are run with.
pub(crate) fn on_path(program: &str) -> bool {
    PATH.split(':')
        .any(|dir| Path::new(dir).join(program).is_file())
}
