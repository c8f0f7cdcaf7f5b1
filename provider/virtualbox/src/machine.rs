//! A host as something that runs programs and keeps files, wherever it is.
//!
//! A [`Transport`] carries one line to the host's default shell; what is here is built on that and is the same for every way to a host. It
//! knows that VBoxManage exists, not what it does.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Mutex, OnceCell};

use crate::command::Command;
use crate::error::{Error, Result, judge};
use crate::quote::encoded_command;
use crate::shell::{
    self, Algorithm, DISCOVER_POSIX, DISCOVER_WINDOWS, LOCK_TIMEOUT_STATUS, Locker, System, Task,
    WHICH_SHELL,
};
pub use crate::transport::{Act, Held, Local, Output, Transport};
use crate::version::Version;

/// Our directory in the home of the user that owns the VMs.
const DIRECTORY: &str = ".ondol";
/// Held, in it, by every act that VirtualBox cannot do beside another.
const HOST_LOCK: &str = "host.lock";
/// VBoxSVC ends five seconds after its last client, and two clients that find it gone both start one: with Debian's start script,
/// one of them removes the other's socket.
const SERVER_LIVES: Duration = Duration::from_secs(3);
/// cmd.exe's limit, with room for what sshd puts before it.
const WINDOWS_LINE: usize = 8000;
/// Attempts for refusals that pass, and the longest wait between two of them.
const ATTEMPTS: u32 = 8;
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A host that was looked at: its system, and where its VBoxManage is.
pub struct Machine {
    transport: Arc<dyn Transport>,
    pub system: System,
    pub vboxmanage: String,
    version: OnceCell<Version>,
    home: String,
    /// Acts that VirtualBox cannot do side by side.
    host: Mutex<()>,
    /// When VBoxManage ended last. Whoever finds that long ago goes first, alone.
    served: std::sync::Mutex<Option<Instant>>,
    cold: Mutex<()>,
}

impl Machine {
    /// Looks at a host. `vboxmanage` is where VBoxManage is, if it is nowhere usual.
    pub async fn discover(transport: Arc<dyn Transport>, vboxmanage: Option<&str>) -> Result<Self> {
        let machine = Self::discover_any(transport, vboxmanage).await?;
        if !machine.vboxmanage.is_empty() {
            return Ok(machine);
        }
        Err(Error::NoVirtualBox {
            remedy: "Install VirtualBox there, or say where VBoxManage is: hosts[...].virtualbox.vboxmanage"
                .to_owned(),
        })
    }

    /// Looks at a host that may have no VirtualBox: then `vboxmanage` is empty, and nothing of it can be run.
    pub async fn discover_any(
        transport: Arc<dyn Transport>,
        vboxmanage: Option<&str>,
    ) -> Result<Self> {
        let act = "look at the host";
        let answer = transport.exec(act, WHICH_SHELL, b"").await?;
        let windows = shell::parse_shell(&String::from_utf8_lossy(&answer.stdout));
        let line = if windows {
            encoded_command(DISCOVER_WINDOWS)
        } else {
            shell::posix_line(DISCOVER_POSIX)
        };
        let output = transport.exec(act, &line, b"").await?;
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        if output.status != Some(0) {
            return Err(Error::Unreachable {
                act: act.to_owned(),
                words: output.words(),
                remedy: "Its user needs a home directory that can be written, and sh or PowerShell"
                    .to_owned(),
            });
        }
        let value = |key: &str| {
            let lines = text.lines();
            lines
                .filter_map(|line| line.split_once('='))
                .find(|(it, _)| *it == key)
        };
        let locker = match value("locker") {
            Some((_, "flock")) => Locker::Flock,
            Some((_, "perl")) => Locker::Perl,
            _ => Locker::Nothing,
        };
        let system = match value("system") {
            Some((_, "Windows")) => System::Windows,
            Some((_, "Darwin")) => System::MacOs(locker),
            _ => System::Linux(locker),
        };
        let found = vboxmanage.or(value("vboxmanage").map(|(_, path)| path));
        let vboxmanage = found.unwrap_or_default().to_owned();
        let home = value("home")
            .map(|(_, home)| home.to_owned())
            .unwrap_or_default();
        Ok(Self {
            transport,
            system,
            vboxmanage,
            version: OnceCell::new(),
            home,
            host: Mutex::new(()),
            served: std::sync::Mutex::new(None),
            cold: Mutex::new(()),
        })
    }

    /// Its VirtualBox's version. Asked once, and only when something depends on it: a plan without changes runs VBoxManage twice.
    pub async fn version(&self) -> Result<Version> {
        self.version
            .get_or_try_init(|| self.ask_version())
            .await
            .copied()
    }

    async fn ask_version(&self) -> Result<Version> {
        let printed = self.send(&Command::Version, Version::OLDEST).await?;
        let version: Version = printed.parse().map_err(|error| Error::NoVirtualBox {
            remedy: format!("{} printed something else: {error}", self.vboxmanage),
        })?;
        if version.is_supported() {
            Ok(version)
        } else {
            Err(Error::TooOld { found: version })
        }
    }

    /// Our directory on the host.
    pub fn directory(&self) -> String {
        self.system.join(&self.home, DIRECTORY)
    }

    pub fn shares_files(&self) -> bool {
        self.transport.shares_files()
    }

    /// Runs VBoxManage. Acts that disturb each other wait for one another, those of other processes too; refusals that pass are tried
    /// again for some seconds.
    pub async fn run(&self, command: &Command) -> Result<String> {
        let _host = match command.needs_host() {
            true => Some(self.host.lock().await),
            false => None,
        };
        let mut wait = Duration::from_millis(200);
        for attempt in 1.. {
            match self.run_once(command).await {
                Err(error) if attempt < ATTEMPTS && error.code().is_some_and(|it| it.passes()) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                answer => return answer,
            }
        }
        unreachable!("the last attempt answers")
    }

    async fn run_once(&self, command: &Command) -> Result<String> {
        if *command == Command::Version {
            // It answers without the server.
            return self.call(command).await;
        }
        let alone = match self.is_served() {
            true => None,
            false => Some(self.cold.lock().await),
        };
        // Whoever waited for the first one finds the server running.
        let alone = alone.filter(|_| !self.is_served());
        let answer = self.call(command).await;
        *self
            .served
            .lock()
            .expect("no panic happens under this lock") = Some(Instant::now());
        drop(alone);
        answer
    }

    fn is_served(&self) -> bool {
        let served = self
            .served
            .lock()
            .expect("no panic happens under this lock");
        served.is_some_and(|at| at.elapsed() < SERVER_LIVES)
    }

    async fn call(&self, command: &Command) -> Result<String> {
        let version = match command.depends_on_version() {
            true => self.version().await?,
            false => Version::OLDEST,
        };
        self.send(command, version).await
    }

    async fn send(&self, command: &Command, version: Version) -> Result<String> {
        let arguments = command.argv(version);
        let lock = self.system.join(&self.directory(), HOST_LOCK);
        let task = match command {
            Command::Start { .. } if self.system.is_windows() => Task::RunDetached {
                program: &self.vboxmanage,
                arguments: &arguments,
            },
            _ => Task::Run {
                program: &self.vboxmanage,
                arguments: &arguments,
                lock: command.needs_host().then_some(&*lock),
            },
        };
        let output = self.exec(&command.act(), &task, b"").await?;
        if command.needs_host() && output.status == Some(LOCK_TIMEOUT_STATUS) {
            return Err(Error::Locked { lock });
        }
        // What a shell says when there is no such program, or it cannot be run.
        if matches!(output.status, Some(126 | 127)) {
            return Err(Error::NoVirtualBox {
                remedy: format!(
                    "{}: {}. Install VirtualBox there, or correct hosts[...].virtualbox.vboxmanage",
                    self.vboxmanage,
                    output.words()
                ),
            });
        }
        judge(command, &output)
    }

    async fn exec(&self, act: &str, task: &Task<'_>, stdin: &[u8]) -> Result<Output> {
        let line = shell::line(self.system, task);
        if self.system.is_windows() && line.len() > WINDOWS_LINE && stdin.is_empty() {
            let script = shell::powershell_input(task);
            return self
                .transport
                .exec(act, shell::POWERSHELL_STDIN, script.as_bytes())
                .await;
        }
        self.transport.exec(act, &line, stdin).await
    }

    /// Takes a lock of the whole host, among all processes of all machines that work on it, until the answer is dropped.
    pub async fn hold(&self, name: &str) -> Result<Held> {
        let lock = self.system.join(&self.directory(), name);
        let line = shell::line(self.system, &Task::Hold { lock: &lock });
        let act = format!("take the lock {lock}");
        self.transport.hold(&act, &line).await
    }

    /// Waits until VBoxManage has ended what it does for others, such as a process that died meanwhile.
    pub async fn settle(&self) -> Result<()> {
        let _host = self.host.lock().await;
        self.hold(HOST_LOCK).await.map(drop)
    }

    /// Runs a script of ours, for sh or for PowerShell, and answers what it printed.
    pub async fn script(&self, act: &str, posix: &str, powershell: &str) -> Result<String> {
        let line = if self.system.is_windows() {
            encoded_command(powershell)
        } else {
            shell::posix_line(posix)
        };
        let output = self.transport.exec(act, &line, b"").await?;
        if output.status == Some(0) {
            return Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""));
        }
        Err(Error::File {
            act: act.to_owned(),
            words: output.words(),
        })
    }

    /// Does something with files, and answers what it printed.
    async fn files(&self, act: String, task: Task<'_>, stdin: &[u8]) -> Result<String> {
        let output = self.exec(&act, &task, stdin).await?;
        if output.status == Some(0) {
            Ok(String::from_utf8_lossy(&output.stdout).replace('\r', ""))
        } else {
            Err(Error::File {
                act,
                words: output.words(),
            })
        }
    }

    /// Contents in the order asked for, all at once; `None` for a file that is not there or cannot be read.
    pub async fn read_files(&self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = String::new();
        for path in paths {
            let _ = writeln!(list, "{path}");
        }
        let act = format!("read {}", paths[0]);
        let text = self
            .files(act.clone(), Task::ReadFiles, list.as_bytes())
            .await?;
        let contents: Vec<Option<Vec<u8>>> = text
            .lines()
            .map(|line| STANDARD.decode(line.strip_prefix('=')?).ok())
            .collect();
        if contents.len() == paths.len() {
            Ok(contents)
        } else {
            Err(Error::File {
                act,
                words: format!("{} of {} files were answered", contents.len(), paths.len()),
            })
        }
    }

    pub async fn read_file(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let mut contents = self.read_files(&[path.to_owned()]).await?;
        Ok(contents.pop().flatten())
    }

    /// Complete, or not at all; for its owner only. Directories on the way are made.
    pub async fn write_file(&self, path: &str, content: &[u8]) -> Result<()> {
        let act = format!("write {path}");
        self.files(act, Task::WriteFile { path }, content)
            .await
            .map(drop)
    }

    /// Adds to a file that has `offset` bytes so far; with 0 it is begun.
    pub async fn append_file(&self, path: &str, offset: u64, content: &[u8]) -> Result<()> {
        let act = format!("write {path}");
        self.files(act, Task::AppendFile { path, offset }, content)
            .await
            .map(drop)
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let act = format!("rename {from} to {to}");
        self.files(act, Task::Rename { from, to }, b"")
            .await
            .map(drop)
    }

    pub async fn remove_file(&self, path: &str) -> Result<()> {
        let act = format!("remove {path}");
        self.files(act, Task::RemoveFile { path }, b"")
            .await
            .map(drop)
    }

    /// A directory with everything in it. Whoever calls has made sure whose it is.
    pub async fn remove_tree(&self, path: &str) -> Result<()> {
        let act = format!("remove {path}");
        self.files(act, Task::RemoveTree { path }, b"")
            .await
            .map(drop)
    }

    /// Names in a directory; none if it does not exist.
    pub async fn list(&self, path: &str) -> Result<Vec<String>> {
        let text = self
            .files(format!("list {path}"), Task::List { path }, b"")
            .await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Lower-case hexadecimal digits.
    pub async fn checksum(&self, path: &str, algorithm: Algorithm) -> Result<String> {
        let text = self
            .files(
                format!("read {path}"),
                Task::Checksum { path, algorithm },
                b"",
            )
            .await?;
        Ok(text.trim().to_owned())
    }

    pub async fn tar_members(&self, archive: &str) -> Result<Vec<String>> {
        let act = format!("list the archive {archive}");
        let text = self.files(act, Task::TarList { archive }, b"").await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub async fn tar_extract(&self, archive: &str, member: &str, to: &str) -> Result<()> {
        let act = format!("take {member} out of {archive}");
        let task = Task::TarExtract {
            archive,
            member,
            to,
        };
        self.files(act, task, b"").await.map(drop)
    }

    /// In bytes; `None` if there is no such file.
    pub async fn size(&self, path: &str) -> Result<Option<u64>> {
        let act = format!("look at {path}");
        let text = self.files(act, Task::Size { path }, b"").await?;
        Ok(text.trim().parse().ok())
    }

    pub async fn free_mib(&self, path: &str) -> Result<u64> {
        let act = format!("ask for the free space in {path}");
        let text = self.files(act.clone(), Task::FreeMib { path }, b"").await?;
        text.trim().parse().map_err(|_| Error::File {
            act,
            words: format!("{text:?} is no number"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Machine {
        Machine {
            transport: Arc::new(Local::default()),
            system: System::Linux(Locker::Flock),
            vboxmanage: "VBoxManage".to_owned(),
            version: OnceCell::new(),
            home: "/nonexistent".to_owned(),
            host: Mutex::new(()),
            served: std::sync::Mutex::new(None),
            cold: Mutex::new(()),
        }
    }

    #[tokio::test]
    async fn files_are_written_read_renamed_and_removed_by_their_odd_names() {
        let dir = tempfile::tempdir().unwrap();
        let machine = local();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (a, b) = (at("it's \"a\" $x/file 1"), at("b; rm"));
        let content: Vec<u8> = (0..=255).collect();
        machine.write_file(&a, &content).await.unwrap();
        let found = machine
            .read_files(&[a.clone(), b.clone(), at("")])
            .await
            .unwrap();
        assert_eq!(found, [Some(content.clone()), None, None]);
        machine.rename(&a, &b).await.unwrap();
        assert_eq!(machine.read_file(&b).await.unwrap(), Some(content));
        let mut names = machine.list(&at("")).await.unwrap();
        names.sort();
        assert_eq!(names, ["b; rm", "it's \"a\" $x"]);
        machine.remove_file(&b).await.unwrap();
        machine.remove_file(&b).await.unwrap();
        machine.remove_tree(&at("it's \"a\" $x")).await.unwrap();
        assert_eq!(machine.list(&at("")).await.unwrap(), [""; 0]);
        assert_eq!(machine.list(&at("nowhere")).await.unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn a_file_grows_piece_by_piece_and_only_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let machine = local();
        let path = dir.path().join("up load").display().to_string();
        machine.append_file(&path, 0, b"ab").await.unwrap();
        machine.append_file(&path, 2, b"c").await.unwrap();
        let error = machine.append_file(&path, 2, b"d").await.unwrap_err();
        assert!(error.to_string().contains("another length"), "{error}");
        assert_eq!(
            machine.checksum(&path, Algorithm::Sha256).await.unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        machine.append_file(&path, 0, b"x").await.unwrap();
        assert_eq!(machine.read_file(&path).await.unwrap().unwrap(), b"x");
        assert!(
            machine
                .free_mib(&dir.path().display().to_string())
                .await
                .unwrap()
                > 0
        );
    }

    #[tokio::test]
    async fn a_lock_keeps_other_processes_out_and_passes_the_exit_status_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        for locker in [Locker::Flock, Locker::Perl] {
            let system = System::Linux(locker);
            let (lock, log) = (path("lock file"), path("log"));
            let script = format!("echo in >>{log}; sleep 0.2; echo out >>{log}; exit 3");
            let arguments = ["-c".to_owned(), script];
            let task = Task::Run {
                program: "sh",
                arguments: &arguments,
                lock: Some(&lock),
            };
            let line = shell::line(system, &task);
            let transport = Local::default();
            let (a, b) = tokio::join!(
                transport.exec("a", &line, b""),
                transport.exec("b", &line, b"")
            );
            assert_eq!(
                (a.unwrap().status, b.unwrap().status),
                (Some(3), Some(3)),
                "{locker:?}"
            );
            let order = std::fs::read_to_string(&log).unwrap();
            assert_eq!(order, "in\nout\nin\nout\n", "{locker:?}");
            std::fs::remove_file(&log).unwrap();
        }
    }

    #[tokio::test]
    async fn a_lock_is_held_until_its_holder_lets_it_go() {
        let dir = tempfile::tempdir().unwrap();
        for locker in [Locker::Flock, Locker::Perl] {
            let machine = Machine {
                system: System::Linux(locker),
                home: dir.path().display().to_string(),
                ..local()
            };
            std::fs::create_dir_all(machine.directory()).unwrap();
            let held = machine.hold("x.lock").await.unwrap();
            let second = machine.hold("x.lock");
            let mut second = std::pin::pin!(second);
            let soon = Duration::from_millis(300);
            assert!(tokio::time::timeout(soon, second.as_mut()).await.is_err());
            drop(held);
            let late = Duration::from_secs(10);
            assert!(tokio::time::timeout(late, second).await.unwrap().is_ok());
        }
        let nowhere = Machine {
            home: "/nonexistent".to_owned(),
            ..local()
        };
        let error = nowhere.hold("x.lock").await.err().unwrap();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[tokio::test]
    async fn a_virtualbox_that_is_too_old_or_none_at_all_is_told_from_one_that_works() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("VBoxManage").display().to_string();
        let ask = async |script: &str| {
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            let mut machine = local();
            machine.vboxmanage = path.clone();
            machine.version().await
        };
        assert_eq!(
            ask("#!/bin/sh\necho 6.1.50r161033\n").await.unwrap(),
            Version::new(6, 1, 50)
        );
        assert_eq!(
            ask("#!/bin/sh\necho 5.2.44r139111\n").await.unwrap_err(),
            Error::TooOld {
                found: Version::new(5, 2, 44)
            }
        );
        for broken in ["#!/bin/sh\necho hello\n", "#!/nonexistent\n"] {
            let error = ask(broken).await.unwrap_err();
            assert!(matches!(error, Error::NoVirtualBox { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_host_without_virtualbox_says_so() {
        let enter = ["env", "PATH=/nonexistent", "HOME=/tmp", "/bin/sh", "-c"];
        // A shell that finds nothing on its PATH.
        let transport = Local {
            enter: enter
                .into_iter()
                .chain(["shift; PATH=/nonexistent; mkdir() { :; }; uname() { echo Linux; }; eval \"$2\""])
                .map(str::to_owned)
                .collect(),
        };
        let error = Machine::discover(Arc::new(transport), None)
            .await
            .err()
            .unwrap();
        assert!(matches!(error, Error::NoVirtualBox { .. }), "{error}");
    }
}
