//! The lab as an engine: VMs are containers on this machine, grouped into the hosts they stand for.
//!
//! A thin translation: `ondol_lab` does the work and decides. Every call runs on a blocking thread.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ondol_lab as lab;

use crate::engine::{
    Act, BoxStream, Change, Connector, Engine, EngineError, Hardware, HostFacts, Impact,
    LabFeatures, NetworkInterface, PowerState, Seed, SharedFolder, Vm, VmSpec,
};

/// What the lab cannot do without, and the Debian package that has it.
const TOOLS: [(&str, &str); 4] = [
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
];

/// One lab, shared by the hosts in it. Opened when first needed, so that a plan without any VM needs no rights.
#[derive(Clone)]
pub struct SharedLab(Arc<Inner>);

struct Inner {
    config: lab::LabConfig,
    opened: OnceLock<lab::Lab>,
}

impl SharedLab {
    pub fn new(config: lab::LabConfig) -> Self {
        Self(Arc::new(Inner {
            config,
            opened: OnceLock::new(),
        }))
    }

    /// The lab, once this machine was found fit to run it. Only success is remembered.
    fn open(&self) -> Result<&lab::Lab, Unfit> {
        if let Some(lab) = self.0.opened.get() {
            return Ok(lab);
        }
        check_machine(&self.0.config)?;
        let lab = lab::Lab::open(self.0.config.clone()).map_err(|error| Unfit {
            words: chain(&error),
            remedy: "Check the provider's `lab` settings".to_owned(),
        })?;
        Ok(self.0.opened.get_or_init(|| lab))
    }
}

/// Why this machine cannot run the lab.
struct Unfit {
    words: String,
    remedy: String,
}

fn check_machine(config: &lab::LabConfig) -> Result<(), Unfit> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Unfit {
            words: format!("the lab {:?} needs root on this machine", config.name),
            remedy: "Run terraform as root or through sudo".to_owned(),
        });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (tool, package) in TOOLS {
        if !on_path(tool, &path) {
            return Err(Unfit {
                words: format!("the program {tool} is not on PATH"),
                remedy: format!("Install it: apt-get install {package}"),
            });
        }
    }
    for (directory, setting) in [
        (&config.state_dir, "lab.state_dir"),
        (&config.run_dir, "lab.run_dir"),
    ] {
        std::fs::create_dir_all(directory).map_err(|error| Unfit {
            words: format!(
                "the directory {} cannot be used: {error}",
                directory.display()
            ),
            remedy: format!("Set {setting} to a directory on this machine that can be written"),
        })?;
    }
    Ok(())
}

fn on_path(tool: &str, path: &OsStr) -> bool {
    std::env::split_paths(path).any(|directory| directory.join(tool).is_file())
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

/// One host of the `hosts` map.
pub struct LabEngine {
    host: String,
    lab: SharedLab,
}

impl LabEngine {
    pub fn new(host: impl Into<String>, lab: SharedLab) -> Self {
        Self {
            host: host.into(),
            lab,
        }
    }

    /// Runs `work` on a blocking thread. `act` says what it is for: `create the VM "x"`.
    fn run<'a, T: Send + 'static>(
        &'a self,
        act: String,
        work: impl FnOnce(&lab::Lab, &str) -> lab::Result<T> + Send + 'static,
    ) -> Act<'a, Result<T, EngineError>> {
        let (shared, host) = (self.lab.clone(), self.host.clone());
        Box::pin(async move {
            let owner = host.clone();
            let task = tokio::task::spawn_blocking(move || {
                let lab = shared
                    .open()
                    .map_err(|unfit| unreachable_host(&owner, &act, unfit))?;
                work(lab, &owner).map_err(|error| translate_error(&owner, &act, &error))
            });
            match task.await {
                Ok(result) => result,
                Err(error) => Err(EngineError::Failed {
                    host,
                    act: "talk to the lab".to_owned(),
                    words: format!("its thread ended early: {error}"),
                }),
            }
        })
    }
}

fn unreachable_host(host: &str, act: &str, unfit: Unfit) -> EngineError {
    EngineError::Unreachable {
        host: host.to_owned(),
        act: act.to_owned(),
        words: unfit.words,
        remedy: unfit.remedy,
    }
}

fn translate_error(host: &str, act: &str, error: &lab::Error) -> EngineError {
    let host = host.to_owned();
    match error {
        lab::Error::InvalidSpec { field, reason, .. } => EngineError::Invalid {
            host,
            field: field_path(field),
            reason: reason.clone(),
        },
        lab::Error::ChangeRefused { change, reason, .. } => EngineError::Invalid {
            host,
            field: field_path(&change.field),
            reason: format!(
                "cannot become {} (it is {}): {reason}",
                change.to, change.from
            ),
        },
        lab::Error::Exists { vm, .. } => EngineError::Exists {
            host,
            vm: vm.clone(),
            words: chain(error),
        },
        lab::Error::InvalidLab { .. } => EngineError::Unreachable {
            host,
            act: act.to_owned(),
            words: chain(error),
            remedy: "Check the provider's `lab` settings".to_owned(),
        },
        _ => EngineError::Failed {
            host,
            act: act.to_owned(),
            words: chain(error),
        },
    }
}

/// The lab's `disks.data.size_mib`, `interfaces[0].mac` in Terraform's words, step by step.
fn field_path(field: &str) -> Vec<String> {
    let mut steps: Vec<String> = field
        .split(['.', '['])
        .map(|step| step.trim_end_matches(']').to_owned())
        .collect();
    let renamed = match steps.first().map(String::as_str) {
        Some("interfaces") => Some("network_interfaces"),
        Some("features") => Some("lab"),
        _ => None,
    };
    if let Some(name) = renamed {
        steps[0] = name.to_owned();
    }
    if steps[0] == "network_interfaces" && steps.last().is_some_and(|step| step == "mac") {
        steps.pop();
        steps.push("mac_address".to_owned());
    }
    steps
}

fn to_lab(spec: &VmSpec, host: &str) -> lab::VmSpec {
    lab::VmSpec {
        name: spec.name.clone(),
        host: host.to_owned(),
        image: spec.image.clone(),
        cpus: spec.cpus,
        memory_mib: spec.memory_mib,
        disks: spec
            .disks
            .iter()
            .map(|(key, &size_mib)| (key.clone(), lab::DiskSpec { size_mib }))
            .collect(),
        interfaces: spec
            .network_interfaces
            .iter()
            .map(|interface| lab::InterfaceSpec {
                name: interface.name.clone(),
                mac: interface.mac_address.clone(),
            })
            .collect(),
        shared_folders: spec
            .shared_folders
            .iter()
            .map(|(key, folder)| {
                let folder = lab::SharedFolder {
                    host_path: folder.host_path.clone(),
                    guest_path: folder.guest_path.clone(),
                    read_only: folder.read_only,
                };
                (key.clone(), folder)
            })
            .collect(),
        features: lab::Features {
            containers: spec.lab.containers,
            tun: spec.lab.tun,
            fuse: spec.lab.fuse,
        },
        seed: lab::Seed {
            user: spec.seed.user.clone(),
            authorized_keys: spec.seed.authorized_keys.clone(),
            sudo: spec.seed.sudo,
        },
    }
}

fn from_lab(vm: &lab::Vm) -> Vm {
    let spec = &vm.spec;
    Vm {
        id: vm.id,
        spec: VmSpec {
            name: spec.name.clone(),
            image: spec.image.clone(),
            linked_clone: false,
            hardware: Hardware::default(),
            system_disk_mib: None,
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            disks: spec
                .disks
                .iter()
                .map(|(key, disk)| (key.clone(), disk.size_mib))
                .collect(),
            network_interfaces: spec
                .interfaces
                .iter()
                .map(|interface| NetworkInterface {
                    name: interface.name.clone(),
                    mac_address: interface.mac.clone(),
                    ..NetworkInterface::default()
                })
                .collect(),
            shared_folders: spec
                .shared_folders
                .iter()
                .map(|(key, folder)| {
                    let folder = SharedFolder {
                        host_path: folder.host_path.clone(),
                        guest_path: folder.guest_path.clone(),
                        read_only: folder.read_only,
                    };
                    (key.clone(), folder)
                })
                .collect(),
            seed: Seed {
                user: spec.seed.user.clone(),
                authorized_keys: spec.seed.authorized_keys.clone(),
                sudo: spec.seed.sudo,
                network: None,
            },
            lab: LabFeatures {
                containers: spec.features.containers,
                tun: spec.features.tun,
                fuse: spec.features.fuse,
            },
        },
        state: match vm.state {
            lab::PowerState::Running => PowerState::Running,
            lab::PowerState::Stopped => PowerState::Stopped,
        },
        first_boot_address: vm.first_boot_address.into(),
        confirmed_address: None,
        ssh_host_key: vm.ssh_host_key.clone(),
        mac_addresses: vm.macs.clone(),
        acknowledged: vm.acknowledged,
        has_hardware: false,
    }
}

fn from_lab_change(change: &lab::Change) -> Change {
    Change {
        field: field_path(&change.field),
        from: change.from.clone(),
        to: change.to.clone(),
        impact: match &change.impact {
            lab::Impact::Live => Impact::Live,
            lab::Impact::NeedsRestart => Impact::Restart,
            lab::Impact::NeedsReplacement => Impact::Replace,
            lab::Impact::Refused { reason } => Impact::Refused(reason.clone()),
        },
    }
}

impl Engine for LabEngine {
    fn host(&self) -> &str {
        &self.host
    }

    fn network_scope(&self) -> String {
        format!("lab {}", self.lab.0.config.name)
    }

    fn check(&self) -> Act<'_, Result<(), EngineError>> {
        self.run("look at the lab".to_owned(), |_, _| Ok(()))
    }

    fn validate(&self, spec: &VmSpec) -> Result<(), EngineError> {
        let spec = to_lab(spec, &self.host);
        spec.validate().map_err(|error| {
            translate_error(&self.host, &format!("check the VM {:?}", spec.name), &error)
        })
    }

    fn facts(&self) -> Act<'_, Result<HostFacts, EngineError>> {
        let state_dir = self.lab.0.config.state_dir.clone();
        let facts = self.run("read the host's capacity".to_owned(), move |_, _| {
            Ok(read_facts(&state_dir))
        });
        let host = self.host.clone();
        Box::pin(async move {
            facts.await?.map_err(|words| EngineError::Failed {
                host,
                act: "read the host's capacity".to_owned(),
                words,
            })
        })
    }

    fn observe<'a>(&'a self, id_or_name: &'a str) -> Act<'a, Result<Option<Vm>, EngineError>> {
        let wanted = id_or_name.to_owned();
        self.run(
            format!("look for the VM {id_or_name:?}"),
            move |lab, host| {
                // A lab holds several hosts; a VM of another one is not here.
                Ok(lab
                    .observe(&wanted)?
                    .filter(|vm| vm.spec.host == host)
                    .map(|vm| from_lab(&vm)))
            },
        )
    }

    fn list(&self) -> Act<'_, Result<Vec<Vm>, EngineError>> {
        self.run("list the VMs".to_owned(), |lab, host| {
            Ok(lab
                .list()?
                .iter()
                .filter(|vm| vm.spec.host == host)
                .map(from_lab)
                .collect())
        })
    }

    fn create<'a>(&'a self, spec: &'a VmSpec) -> Act<'a, Result<Vm, EngineError>> {
        let spec = to_lab(spec, &self.host);
        self.run(format!("create the VM {:?}", spec.name), move |lab, _| {
            Ok(from_lab(&lab.create(&spec)?))
        })
    }

    fn acknowledge<'a>(&'a self, id: &'a str) -> Act<'a, Result<(), EngineError>> {
        let id = id.to_owned();
        self.run(format!("mark the VM {id} as known"), move |lab, _| {
            lab.acknowledge(&id)
        })
    }

    fn plan_update(&self, current: &VmSpec, desired: &VmSpec) -> Vec<Change> {
        lab::plan_update(&to_lab(current, &self.host), &to_lab(desired, &self.host))
            .iter()
            .map(from_lab_change)
            .collect()
    }

    fn update<'a>(
        &'a self,
        id: &'a str,
        desired: &'a VmSpec,
    ) -> Act<'a, Result<Vec<Change>, EngineError>> {
        let (id, spec) = (id.to_owned(), to_lab(desired, &self.host));
        self.run(format!("change the VM {:?}", spec.name), move |lab, _| {
            Ok(lab
                .update(&id, &spec)?
                .pending
                .iter()
                .map(from_lab_change)
                .collect())
        })
    }

    fn power<'a>(
        &'a self,
        id: &'a str,
        wanted: PowerState,
        patience: Duration,
    ) -> Act<'a, Result<(), EngineError>> {
        let id = id.to_owned();
        match wanted {
            PowerState::Running => self.run(format!("start the VM {id}"), move |lab, _| {
                lab.start(&id).map(drop)
            }),
            PowerState::Stopped => self.run(format!("stop the VM {id}"), move |lab, _| {
                lab.stop(&id, patience).map(drop)
            }),
        }
    }

    fn delete<'a>(&'a self, id: &'a str) -> Act<'a, Result<(), EngineError>> {
        let id = id.to_owned();
        self.run(format!("delete the VM {id}"), move |lab, _| lab.delete(&id))
    }

    fn guest_addresses<'a>(&'a self, id: &'a str) -> Act<'a, Result<Vec<IpAddr>, EngineError>> {
        let id = id.to_owned();
        self.run(
            format!("ask the VM {id} for its addresses"),
            move |lab, _| {
                let output = lab.exec(&id, &["hostname", "--all-ip-addresses"], b"")?;
                let words = String::from_utf8_lossy(&output.stdout).into_owned();
                Ok(words
                    .split_ascii_whitespace()
                    .filter_map(|word| word.parse().ok())
                    .collect())
            },
        )
    }

    fn connector(&self) -> Connector {
        let shared = self.lab.clone();
        Arc::new(move |address, timeout| {
            let shared = shared.clone();
            Box::pin(async move {
                let connect = move || {
                    let lab = shared
                        .open()
                        .map_err(|unfit| std::io::Error::other(unfit.words))?;
                    let stream = lab
                        .connect(address, timeout)
                        .map_err(|error| std::io::Error::other(chain(&error)))?;
                    stream.set_nonblocking(true)?;
                    Ok::<_, std::io::Error>(stream)
                };
                let stream = tokio::task::spawn_blocking(connect)
                    .await
                    .map_err(std::io::Error::other)??;
                Ok(Box::new(tokio::net::TcpStream::from_std(stream)?) as BoxStream)
            })
        })
    }
}

fn read_facts(state_dir: &Path) -> Result<HostFacts, String> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")
        .map_err(|error| format!("/proc/meminfo: {error}"))?;
    let storage = nix::sys::statvfs::statvfs(state_dir)
        .map_err(|error| format!("{}: {error}", state_dir.display()))?;
    let free = storage
        .blocks_available()
        .saturating_mul(storage.fragment_size());
    Ok(HostFacts {
        engine: "lab",
        cpus: std::thread::available_parallelism()
            .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
        memory_mib: total_memory_mib(&meminfo).ok_or("/proc/meminfo has no MemTotal")?,
        disk_free_mib: free / (1024 * 1024),
        memory_free_mib: None,
        tools: tool_versions(),
        operating_system: None,
        cpu_virtualization: None,
        driver: None,
        hypervisor: None,
        vbs: None,
        adapters: Vec::new(),
    })
}

fn total_memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn tool_versions() -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for (tool, flag) in [
        ("systemd-nspawn", "--version"),
        ("ip", "-V"),
        ("mmdebstrap", "--version"),
        ("debootstrap", "--version"),
    ] {
        if let Ok(output) = Command::new(tool).arg(flag).output() {
            let words = String::from_utf8_lossy(&output.stdout).into_owned();
            if let Some(line) = words.lines().next() {
                versions.insert(tool.to_owned(), line.trim().to_owned());
            }
        }
    }
    versions
}

/// The VMs of any lab below `state_dir` whose disks were made from something in `directory`, in words. An error means that it
/// cannot be known.
pub fn vms_made_from(directory: &Path, state_dir: &Path) -> Result<Vec<String>, String> {
    let labs = state_dir.join("labs");
    let entries = match std::fs::read_dir(&labs) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(format!("list {}: {error}", labs.display())),
    };
    let mut users = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("list {}: {error}", labs.display()))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let config = lab::LabConfig {
            state_dir: state_dir.to_owned(),
            ..lab::LabConfig::new(&name)
        };
        let vms = lab::Lab::open(config)
            .and_then(|lab| lab.list())
            .map_err(|error| format!("look for VMs that need the image: {}", chain(&error)))?;
        users.extend(
            vms.iter()
                .filter(|vm| lies_in(&vm.spec.image, directory))
                .map(|vm| format!("{} of the lab {name}", vm.spec.name)),
        );
    }
    users.sort();
    Ok(users)
}

/// Whether a path leads through a directory, which the two may name by different ways to its parent.
fn lies_in(path: &Path, directory: &Path) -> bool {
    let real = |parent: Option<&Path>| parent.and_then(|parent| parent.canonicalize().ok());
    path.ancestors()
        .filter(|above| above.file_name() == directory.file_name())
        .any(|above| {
            above == directory
                || real(above.parent()).is_some_and(|it| Some(it) == real(directory.parent()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labs_field_names_become_terraforms() {
        let cases = [
            ("disks.data.size_mib", vec!["disks", "data", "size_mib"]),
            (
                "interfaces[1].mac",
                vec!["network_interfaces", "1", "mac_address"],
            ),
            ("interfaces", vec!["network_interfaces"]),
            ("features", vec!["lab"]),
            (
                "seed.authorized_keys[0]",
                vec!["seed", "authorized_keys", "0"],
            ),
        ];
        for (field, expected) in cases {
            assert_eq!(field_path(field), expected, "{field}");
        }
    }

    #[test]
    fn a_spec_survives_the_way_into_the_lab_and_back() {
        let spec = VmSpec {
            name: "web-01".to_owned(),
            image: "/images/x".into(),
            linked_clone: false,
            hardware: Hardware::default(),
            system_disk_mib: None,
            cpus: 2,
            memory_mib: 512,
            disks: BTreeMap::from([("data".to_owned(), 1024)]),
            network_interfaces: vec![NetworkInterface {
                name: "enp0s3".to_owned(),
                ..NetworkInterface::default()
            }],
            shared_folders: BTreeMap::from([(
                "src".to_owned(),
                SharedFolder {
                    host_path: "/srv".into(),
                    guest_path: "/mnt".into(),
                    read_only: true,
                },
            )]),
            seed: Seed {
                user: "ops".to_owned(),
                authorized_keys: vec!["ssh-ed25519 AAAA".to_owned()],
                sudo: false,
                network: None,
            },
            lab: LabFeatures {
                containers: true,
                tun: false,
                fuse: true,
            },
        };
        let vm = lab::Vm {
            id: uuid::Uuid::nil(),
            spec: to_lab(&spec, "srv-01"),
            state: lab::PowerState::Stopped,
            first_boot_address: "169.254.1.2".parse().unwrap(),
            macs: vec!["08:00:27:00:00:01".to_owned()],
            ssh_host_key: "ssh-ed25519 AAAA".to_owned(),
            acknowledged: false,
        };
        assert_eq!(from_lab(&vm).spec, spec);
        assert_eq!(vm.spec.host, "srv-01");
    }

    #[test]
    fn an_image_is_found_in_its_directory_by_any_way_to_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        std::fs::create_dir_all(cache.join("ab")).unwrap();
        std::os::unix::fs::symlink(&cache, dir.path().join("link")).unwrap();
        let directory = cache.join("ab");
        for (image, expected) in [
            (cache.join("ab/rootfs"), true),
            (dir.path().join("link/ab/rootfs"), true),
            (dir.path().join("link/../cache/ab/rootfs"), true),
            (cache.join("abc/rootfs"), false),
            (dir.path().join("other/ab/rootfs"), false),
        ] {
            assert_eq!(lies_in(&image, &directory), expected, "{image:?}");
        }
        // Both are gone: only the words can tell.
        assert!(lies_in(Path::new("/none/ab/rootfs"), Path::new("/none/ab")));
        assert!(!lies_in(
            Path::new("/none/ab/rootfs"),
            Path::new("/nothing/ab")
        ));
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(
            total_memory_mib("MemTotal:       24606940 kB\nMemFree: 1 kB\n"),
            Some(24030)
        );
        assert_eq!(total_memory_mib("nothing"), None);
    }
}
