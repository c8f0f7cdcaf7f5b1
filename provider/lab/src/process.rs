//! Finding and ending the processes of VMs. The machine's process table is the only source: no pid is ever written down.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// `systemd-nspawn` as the kernel shortens names: it fits.
const SUPERVISOR: &str = "systemd-nspawn";

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub pid: i32,
    /// Clock ticks since the machine booted.
    pub started: u64,
}

/// A running `systemd-nspawn` and what it says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    pub process: Process,
    parent: i32,
    /// As the kernel gives them, each with a zero byte at its end: a site has thousands, so they stay in one piece.
    arguments: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

/// The fields of `/proc/PID/stat` (proc(5)) that matter here. The second field may hold anything, parentheses included.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

impl Process {
    fn find(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (!matches!(stat.state, 'Z' | 'X')).then_some(Self {
            pid,
            started: stat.started,
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    pub(crate) fn uptime(&self) -> Duration {
        let now = fs::read_to_string("/proc/uptime")
            .ok()
            .and_then(|text| text.split('.').next()?.parse::<u64>().ok());
        // The kernel has counted 100 ticks a second towards user space on every architecture since 2.6.
        Duration::from_secs(now.unwrap_or(0).saturating_sub(self.started / 100))
    }

    /// Capabilities that the process and its children can never gain, of those that we could pass on: a bit each.
    pub(crate) fn forbidden_capabilities(&self) -> Result<u64> {
        Ok(bounding_set("self")? & !bounding_set(&self.pid.to_string())?)
    }

    fn signal(&self, number: i32) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        // SAFETY: kill(2) takes plain numbers. nix has no type for real-time signals.
        if unsafe { libc::kill(self.pid, number) } == 0 || Errno::last() == Errno::ESRCH {
            return Ok(());
        }
        Err(Error::io(
            format!("send signal {number} to process {}", self.pid),
            Errno::last(),
        ))
    }

    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Asks systemd, if this is its process 1, to power off (systemd(1), SIGNALS).
    pub(crate) fn power_off(&self) -> Result<()> {
        self.signal(libc::SIGRTMIN() + 4)
    }

    /// Whether it ended before the deadline.
    pub(crate) fn wait_gone(&self, deadline: Instant) -> bool {
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl Supervisor {
    fn argument(&self, name: &str) -> Option<&str> {
        self.arguments
            .split(|byte| *byte == 0)
            .filter_map(|argument| std::str::from_utf8(argument).ok())
            .find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
    }

    pub(crate) fn machine(&self) -> &str {
        self.argument("--machine").unwrap_or_default()
    }

    pub(crate) fn is_of(&self, machine: &str, root: &Path) -> bool {
        self.machine() == machine
            && self
                .argument("--directory")
                .is_some_and(|dir| Path::new(dir) == root)
    }

    /// The container's process 1; `None` while it has not begun or when it just ended.
    pub(crate) fn leader(&self) -> Option<Process> {
        children(self.process.pid).into_iter().find_map(|child| {
            let process = Process::find(child)?;
            let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
            // Beside the container nspawn has helpers, which are outside: to enter one would be to stay on the machine. And until it
            // turns into the container's init, the container's first process is still nspawn itself.
            let own = arguments(child)?;
            let is_init =
                is_first_of_a_namespace(&status) && !own.is_empty() && own != self.arguments;
            is_init.then_some(process)
        })
    }
}

/// Whether `/proc/PID/status` is that of process 1 of a pid namespace below ours.
fn is_first_of_a_namespace(status: &str) -> bool {
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap_or_default();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    ids.len() > 1 && ids.last() == Some(&"1")
}

fn bounding_set(process: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text =
        fs::read_to_string(&path).map_err(|error| Error::io(format!("read {path}"), error))?;
    let set = text
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    Ok(set.expect("the kernel has said CapBnd since 2.6.26"))
}

/// All containers that run on the machine, ours and others'.
pub(crate) fn supervisors() -> Result<Vec<Supervisor>> {
    supervisors_that(|_| true)
}

/// Those of them that are wanted. What is not wanted is not kept while the rest is read.
pub(crate) fn supervisors_that(is_wanted: impl Fn(&Supervisor) -> bool) -> Result<Vec<Supervisor>> {
    let found = pids()?.into_iter().filter_map(supervisor);
    let mut found: Vec<Supervisor> = found.filter(is_wanted).collect();
    let children: Vec<i32> = found
        .iter()
        .filter(|one| {
            found
                .iter()
                .any(|other| other.process.pid == one.parent && other.arguments == one.arguments)
        })
        .map(|child| child.process.pid)
        .collect();
    found.retain(|one| !children.contains(&one.process.pid));
    Ok(found)
}

/// Processes of `ondol-lab proxy` into a lab, whoever started them: an ssh that shares its connection keeps one for minutes.
pub(crate) fn proxies(lab: &str) -> Result<Vec<i32>> {
    let is_proxy = |pid: &i32| {
        let environment = || fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        arguments(*pid).is_some_and(|arguments| {
            proxied_lab(&words(&arguments), environment).as_deref() == Some(lab)
        })
    };
    Ok(pids()?.into_iter().filter(is_proxy).collect())
}

/// Which lab a process is a proxy into, by its arguments or else its environment, as the command line reads them.
fn proxied_lab(arguments: &[String], environment: impl Fn() -> Vec<u8>) -> Option<String> {
    let (program, words) = arguments.split_first()?;
    if Path::new(program).file_name()? != "ondol-lab" || !words.iter().any(|word| word == "proxy") {
        return None;
    }
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--lab" {
            return words.next().cloned();
        }
        if let Some(name) = word.strip_prefix("--lab=") {
            return Some(name.to_owned());
        }
    }
    let environment = String::from_utf8_lossy(&environment()).into_owned();
    let named = environment
        .split('\0')
        .find_map(|entry| entry.strip_prefix("ONDOL_LAB="));
    Some(named.unwrap_or("ondol").to_owned())
}

/// The process if it is a systemd-nspawn that lives.
pub(crate) fn supervisor(pid: i32) -> Option<Supervisor> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if comm.trim_end() != SUPERVISOR {
        return None;
    }
    let process = Process::find(pid)?;
    Some(Supervisor {
        process,
        parent: stat(pid)?.parent,
        arguments: arguments(pid)?,
    })
}

/// The systemd-nspawn that was started just now; `None` if it has ended. The kernel lets go of who started a program a moment before it gives the
/// process the program's name and arguments, and on a busy machine a moment may be long.
pub(crate) fn started(pid: i32, deadline: Instant) -> Option<Supervisor> {
    loop {
        if let Some(supervisor) = supervisor(pid).filter(|it| !it.arguments.is_empty()) {
            return Some(supervisor);
        }
        Process::find(pid)?;
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pids() -> Result<Vec<i32>> {
    let entries =
        fs::read_dir("/proc").map_err(|error| Error::io("list processes in /proc", error))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

fn arguments(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/cmdline")).ok()
}

fn words(arguments: &[u8]) -> Vec<String> {
    arguments
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

fn children(pid: i32) -> Vec<i32> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(text) => text
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect(),
        // A kernel without CONFIG_PROC_CHILDREN: ask every process for its parent.
        Err(_) => pids()
            .unwrap_or_default()
            .into_iter()
            .filter(|child| stat(*child).is_some_and(|stat| stat.parent == pid))
            .collect(),
    }
}

/// Kills the processes and waits for them, at most five seconds. Answers with those that still live.
pub(crate) fn kill_all(pids: &[i32]) -> Vec<i32> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let processes: Vec<Process> = pids.iter().filter_map(|pid| Process::find(*pid)).collect();
    for process in &processes {
        if let Err(error) = kill(Pid::from_raw(process.pid), Signal::SIGKILL)
            && error != Errno::ESRCH
        {
            tracing::warn!(pid = process.pid, %error, "kill a process of a VM");
        }
    }
    processes
        .into_iter()
        .filter(|process| !process.wait_gone(deadline))
        .map(|process| process.pid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_its_arguments_and_then_by_its_environment() {
        let of = |line: &str, environment: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            proxied_lab(&words, || environment.replace(' ', "\0").into_bytes())
        };
        let cases = [
            (
                "/usr/bin/ondol-lab --lab a proxy 192.168.10.5 22",
                "ONDOL_LAB=b",
                Some("a"),
            ),
            ("ondol-lab proxy --lab=a dns-server 22", "", Some("a")),
            (
                "ondol-lab proxy dns-server 22",
                "HOME=/root ONDOL_LAB=b",
                Some("b"),
            ),
            ("ondol-lab proxy dns-server 22", "HOME=/root", Some("ondol")),
            ("ondol-lab --lab a shell dns-server", "", None),
            ("grep ondol-lab proxy", "", None),
            ("", "", None),
        ];
        for (line, environment, lab) in cases {
            assert_eq!(of(line, environment).as_deref(), lab, "{line}");
        }
    }

    #[test]
    fn a_program_without_its_name_yet_is_waited_for_and_one_that_has_ended_is_not() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};

        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let program = directory.path().join(SUPERVISOR);
        fs::copy("/bin/sleep", &program).expect("copies");
        let mut child = Command::new("sh")
            .args(["-c", "read -r _; exec \"$0\" 600"])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .expect("starts");
        let pid = i32::try_from(child.id()).expect("pids are small");
        assert!(supervisor(pid).is_none(), "it is a shell yet");
        let mut input = child.stdin.take().expect("it is piped");
        let until = Instant::now() + Duration::from_secs(60);
        let found = std::thread::scope(|scope| {
            let waits = scope.spawn(|| started(pid, until));
            std::thread::sleep(Duration::from_millis(50));
            input.write_all(b"\n").expect("writes");
            waits.join().expect("does not panic")
        });
        child.kill().expect("is ours");
        child.wait().expect("is ours");
        assert_eq!(found.map(|it| it.process.pid), Some(pid));
        assert!(started(pid, until).is_none(), "it has ended");
    }

    #[test]
    fn a_process_whose_name_holds_parentheses_is_still_read_right() {
        let text = "42 (a) R (b)) S 7 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654 1000 200 18446744073709551615";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                state: 'S',
                parent: 7,
                started: 987_654
            })
        );
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn only_process_1_of_an_inner_namespace_is_a_containers_init() {
        assert!(is_first_of_a_namespace(
            "Name:\tsystemd\nPid:\t4711\nNSpid:\t4711\t1\n"
        ));
        assert!(!is_first_of_a_namespace("NSpid:\t4711\n"));
        assert!(!is_first_of_a_namespace("NSpid:\t1\n"));
        assert!(!is_first_of_a_namespace("NSpid:\t4711\t12\n"));
        assert!(!is_first_of_a_namespace(""));
    }

    #[test]
    fn this_process_is_alive_and_a_later_one_with_its_pid_would_not_be_taken_for_it() {
        let this = Process::find(i32::try_from(std::process::id()).expect("pids are small"))
            .expect("alive");
        assert!(this.is_alive());
        assert!(
            !Process {
                started: this.started + 1,
                ..this
            }
            .is_alive()
        );
    }
}
