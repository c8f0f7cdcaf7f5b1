//! One VM as a systemd-nspawn process: its command line (pure), and its start.
//!
//! The overlay is mounted in a mount namespace of that process alone, so that it is gone when the process is: there is no mount on the
//! machine to leave behind.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::disks::{self, Attached};
use crate::error::{Error, Result};
use crate::machine;
use crate::names::VmNames;
use crate::network;
use crate::spec::VmSpec;

/// Directories of one VM.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Where the overlay is mounted, seen by the VM's own processes only.
    pub root: PathBuf,
    pub disks: PathBuf,
}

impl Places {
    pub(crate) fn below(vm_dir: &Path) -> Self {
        Self {
            upper: vm_dir.join("upper"),
            work: vm_dir.join("work"),
            root: vm_dir.join("root"),
            disks: vm_dir.join("disks"),
        }
    }
}

/// The first systemd that refuses to run on cgroup version 1.
const UNIFIED_ONLY: u32 = 258;

pub(crate) const TUN: &str = "/dev/net/tun";

pub(crate) fn argv(
    spec: &VmSpec,
    names: &VmNames,
    places: &Places,
    disks: &[(String, Attached)],
    machine_has_tun: bool,
) -> Vec<String> {
    let mut argv: Vec<String> = [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--settings=no",
        // The machine's own systemd, if it has one, is not asked: the process must outlive whoever started it.
        "--register=no",
        "--keep-unit",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=read-only",
    ]
    .map(str::to_owned)
    .to_vec();
    argv.push(format!("--machine={}", names.machine));
    argv.push(format!("--hostname={}", spec.name));
    argv.push(format!("--directory={}", places.root.display()));
    if spec.features.containers {
        argv.push("--capability=all".to_owned());
        argv.push("--system-call-filter=@keyring bpf perf_event_open".to_owned());
    } else {
        argv.push("--capability=CAP_NET_ADMIN".to_owned());
        // With it root in a VM could make itself a node for the machine's own disks.
        argv.push("--drop-capability=CAP_MKNOD".to_owned());
    }
    match (spec.features.tun, machine_has_tun) {
        (true, _) => argv.push(format!("--bind={TUN}")),
        // systemd-nspawn gives this device to everyone where the machine has it. Its --inaccessible= would need files that only a
        // systemd as the machine's own process 1 makes.
        (false, true) => argv.push(format!("--bind=/dev/null:{TUN}")),
        (false, false) => {}
    }
    if spec.features.fuse {
        argv.push("--bind=/dev/fuse".to_owned());
    }
    for (key, disk) in disks {
        argv.push(format!(
            "--bind={}:{}",
            disk.source().display(),
            disks::guest_path(key)
        ));
    }
    for folder in spec.shared_folders.values() {
        let option = if folder.read_only {
            "--bind-ro"
        } else {
            "--bind"
        };
        argv.push(format!(
            "{option}={}:{}",
            folder.host_path.display(),
            folder.guest_path.display()
        ));
    }
    argv
}

pub(crate) fn environment(
    guest_systemd: Option<u32>,
    machine_is_unified: bool,
) -> Vec<(&'static str, &'static str)> {
    let mut environment = vec![
        ("PATH", machine::PATH),
        // The network namespace is the VM's own, which nspawn cannot know: we entered it first. So its sysctls are its own too.
        ("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network"),
        // Our own lock is held; nspawn's would leave a file beside the root.
        ("SYSTEMD_NSPAWN_LOCK", "0"),
    ];
    if !machine_is_unified && guest_systemd.is_some_and(|version| version >= UNIFIED_ONLY) {
        environment.push(("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1"));
    }
    environment
}

/// Version of the systemd in an image, from the name of its private library: `libsystemd-shared-252.so`.
pub(crate) fn guest_systemd(image: &Path) -> Option<u32> {
    let usr_lib = image.join("usr/lib");
    let dirs = fs::read_dir(&usr_lib)
        .ok()?
        .flatten()
        .map(|entry| entry.path().join("systemd"));
    std::iter::once(usr_lib.join("systemd"))
        .chain(dirs)
        .find_map(|dir| {
            fs::read_dir(dir)
                .ok()?
                .flatten()
                .find_map(|entry| shared_library_version(entry.file_name().to_str()?))
        })
}

fn shared_library_version(name: &str) -> Option<u32> {
    let version = name
        .strip_prefix("libsystemd-shared-")?
        .strip_suffix(".so")?;
    version
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// What a start needs beside the command line.
pub(crate) struct Launch<'a> {
    pub argv: Vec<String>,
    pub environment: Vec<(&'static str, &'static str)>,
    pub names: &'a VmNames,
    pub image: &'a Path,
    pub places: &'a Places,
    /// `cgroup.procs` files of the VM's groups.
    pub cgroups: Vec<PathBuf>,
    pub log: &'a Path,
}

/// Starts systemd-nspawn as nobody's child, in a session, mount namespace and cgroup of its own, inside the VM's network namespace.
/// Answers with its pid.
pub(crate) fn launch(launch: Launch<'_>) -> Result<i32> {
    let act = format!("start {}", launch.names.machine);
    let io = |error: std::io::Error| Error::io(act.clone(), error);
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(launch.log)
        .map_err(io)?;
    let netns_path = network::netns_path(&launch.names.netns);
    let netns = File::open(&netns_path)
        .map_err(|error| Error::io(format!("{act}: open {}", netns_path.display()), error))?;
    let mut groups = Vec::new();
    for path in &launch.cgroups {
        let group = OpenOptions::new().write(true).open(path);
        groups.push(
            group.map_err(|error| Error::io(format!("{act}: open {}", path.display()), error))?,
        );
    }
    let (mut pid_reader, pid_writer) = std::io::pipe().map_err(io)?;

    let root = c_string(launch.places.root.as_os_str())?;
    let options = overlay_options(launch.image, launch.places)?;
    let group_fds: Vec<RawFd> = groups.iter().map(AsRawFd::as_raw_fd).collect();
    let pid_fd = pid_writer.as_raw_fd();

    let mut command = Command::new(&launch.argv[0]);
    command
        .args(&launch.argv[1..])
        .env_clear()
        .envs(launch.environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone().map_err(io)?))
        .stderr(Stdio::from(log));
    // SAFETY: between fork and exec only system calls are made, on values prepared above; nothing allocates or takes a lock.
    unsafe {
        command.pre_exec(move || {
            detach(
                &netns,
                &group_fds,
                pid_fd,
                Mounts {
                    root: &root,
                    options: &options,
                },
            )
        });
    }
    let mut child = command
        .spawn()
        .map_err(|error| machine::spawn_error(&act, "systemd-nspawn", error))?;
    drop(command);
    drop(pid_writer);
    // What we spawned has handed over to its own child and ended.
    child.wait().map_err(io)?;
    let mut pid = [0; size_of::<i32>()];
    pid_reader.read_exact(&mut pid).map_err(io)?;
    Ok(i32::from_ne_bytes(pid))
}

/// Arguments of mount(2), made before the fork.
#[derive(Clone, Copy)]
struct Mounts<'a> {
    root: &'a CString,
    options: &'a CString,
}

/// Runs in the new process, between fork and exec.
fn detach(
    netns: &File,
    groups: &[RawFd],
    pid_fd: RawFd,
    mounts: Mounts<'_>,
) -> std::io::Result<()> {
    // SAFETY: plain system calls; the parent half of the fork leaves at once, running no destructors.
    unsafe {
        match libc::fork() {
            -1 => return Err(std::io::Error::last_os_error()),
            0 => {}
            _ => libc::_exit(0),
        }
        if libc::setsid() == -1 {
            return Err(std::io::Error::last_os_error());
        }
        // A caller may ignore signals, and that would be inherited.
        for signal in [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGCHLD,
        ] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::umask(0o022);
        let pid = libc::getpid();
        if libc::write(pid_fd, (&raw const pid).cast(), size_of::<i32>()) == -1 {
            return Err(std::io::Error::last_os_error());
        }
        for group in groups {
            if libc::write(*group, c"0".as_ptr().cast(), 1) == -1 {
                return Err(std::io::Error::last_os_error());
            }
        }
        // Whatever the caller has open is not the VM's. A kernel before 5.11 does not know this; ours are marked already.
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        );
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Mounts of the machine still arrive here, ours do not leave; and a network namespace deleted there does not live on here.
    mount(
        None::<&str>,
        c"/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )?;
    mount(
        Some(c"overlay"),
        mounts.root.as_c_str(),
        Some(c"overlay"),
        MsFlags::empty(),
        Some(mounts.options.as_c_str()),
    )?;
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

/// linux/close_range.h
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

fn overlay_options(image: &Path, places: &Places) -> Result<CString> {
    let mut options = OsString::from("lowerdir=");
    options.push(image);
    options.push(",upperdir=");
    options.push(&places.upper);
    options.push(",workdir=");
    options.push(&places.work);
    c_string(&options)
}

fn c_string(text: &std::ffi::OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        Error::io(
            format!("use the path {}", text.display()),
            std::io::Error::from(ErrorKind::InvalidInput),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::{DiskSpec, Features, Seed, SharedFolder};

    fn spec() -> VmSpec {
        VmSpec {
            name: "ceph-01".into(),
            host: "srv-01".into(),
            image: "/image".into(),
            cpus: 2,
            memory_mib: 512,
            disks: BTreeMap::from([("osd".into(), DiskSpec { size_mib: 64 })]),
            interfaces: vec![],
            shared_folders: BTreeMap::from([
                (
                    "in".into(),
                    SharedFolder {
                        host_path: "/srv/in".into(),
                        guest_path: "/mnt/in".into(),
                        read_only: true,
                    },
                ),
                (
                    "out".into(),
                    SharedFolder {
                        host_path: "/srv/out".into(),
                        guest_path: "/mnt/out".into(),
                        read_only: false,
                    },
                ),
            ]),
            features: Features::default(),
            seed: Seed::default(),
        }
    }

    fn line(spec: &VmSpec) -> Vec<String> {
        let disks = [("osd".to_owned(), Attached::Loop("/dev/loop3".into()))];
        argv(
            spec,
            &VmNames::new("t", &spec.name),
            &Places::below(Path::new("/state")),
            &disks,
            true,
        )
    }

    #[test]
    fn an_ordinary_vm_gets_what_it_asked_for_and_no_more() {
        insta::assert_snapshot!(line(&spec()).join("\n"), @r"
        systemd-nspawn
        --quiet
        --boot
        --settings=no
        --register=no
        --keep-unit
        --link-journal=no
        --resolv-conf=off
        --timezone=off
        --console=read-only
        --machine=ondol-t.ceph-01
        --hostname=ceph-01
        --directory=/state/root
        --capability=CAP_NET_ADMIN
        --drop-capability=CAP_MKNOD
        --bind=/dev/null:/dev/net/tun
        --bind=/dev/loop3:/dev/disk/by-id/ondol-osd
        --bind-ro=/srv/in:/mnt/in
        --bind=/srv/out:/mnt/out
        ");
    }

    #[test]
    fn features_open_exactly_their_own_doors() {
        let mut vm = spec();
        vm.features = Features {
            containers: true,
            tun: true,
            fuse: true,
        };
        let (plain, open) = (line(&spec()), line(&vm));
        let added: Vec<_> = open.iter().filter(|word| !plain.contains(word)).collect();
        let removed: Vec<_> = plain.iter().filter(|word| !open.contains(word)).collect();
        assert_eq!(
            added,
            [
                "--capability=all",
                "--system-call-filter=@keyring bpf perf_event_open",
                "--bind=/dev/net/tun",
                "--bind=/dev/fuse"
            ]
        );
        assert_eq!(
            removed,
            [
                "--capability=CAP_NET_ADMIN",
                "--drop-capability=CAP_MKNOD",
                "--bind=/dev/null:/dev/net/tun"
            ]
        );
    }

    #[test]
    fn only_a_guest_that_needs_it_is_given_another_cgroup_version_than_the_machines() {
        let asks = |version, unified| {
            environment(version, unified)
                .iter()
                .any(|(key, _)| *key == "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY")
        };
        assert!(asks(Some(258), false));
        assert!(!asks(Some(252), false));
        assert!(!asks(Some(258), true));
        assert!(!asks(None, false));
        assert_eq!(
            shared_library_version("libsystemd-shared-252.so"),
            Some(252)
        );
        assert_eq!(
            shared_library_version("libsystemd-shared-258~rc1.so"),
            Some(258)
        );
        assert_eq!(shared_library_version("libsystemd-core-252.so"), None);
    }
}
