//! VirtualBox as an engine: VBoxManage on this machine, or on any host that SSH reaches.
//!
//! A thin translation: `ondol_virtualbox` does the work and decides.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ondol_virtualbox::answer::VmState;
use ondol_virtualbox::image::Images;
use ondol_virtualbox::machine::Held;
use ondol_virtualbox::{self as virtualbox, Local, Options, Output, Transport};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine::{
    Act, Change, Connector, Engine, EngineError, HostFacts, Impact, LabFeatures, NetworkInterface,
    PowerState, Seed, SharedFolder, Vm, VmSpec, direct_connector,
};
use crate::ssh::{self, Credential, Exit, HostKeyPolicy, Limits, Pool, Target};

/// Longer than any act of VBoxManage, which copies disks and waits for other processes' copies.
const LONGEST_ACT: Duration = Duration::from_secs(3600);
const CONNECT: Duration = Duration::from_secs(15);
/// OpenSSH allows ten sessions on a connection unless told otherwise (MaxSessions), and somebody else may want one.
const SESSIONS: usize = 8;

/// How to reach a host.
#[derive(Debug, Clone)]
pub struct SshHost {
    /// A name or an address.
    pub address: String,
    pub port: u16,
    pub user: String,
    pub credentials: Vec<Credential>,
    pub host_key: HostKeyPolicy,
}

/// Lines for a host's shell, through the pooled connection to it.
struct SshTransport {
    host: SshHost,
    pool: Pool,
    sessions: Semaphore,
}

impl SshTransport {
    async fn target(&self, act: &str) -> Result<Target, virtualbox::Error> {
        let unknown = |words: String| virtualbox::Error::Unreachable {
            act: act.to_owned(),
            words: format!("{:?} is no address of a host: {words}", self.host.address),
            remedy: "Check ssh.address".to_owned(),
        };
        let mut found = tokio::net::lookup_host((self.host.address.as_str(), self.host.port))
            .await
            .map_err(|error| unknown(error.to_string()))?;
        let address = found
            .next()
            .ok_or_else(|| unknown("the name has none".to_owned()))?;
        Ok(Target {
            address,
            user: self.host.user.clone(),
            credentials: self.host.credentials.clone(),
            host_key: self.host.host_key.clone(),
        })
    }
}

impl Transport for SshTransport {
    fn exec<'a>(
        &'a self,
        act: &'a str,
        line: &'a str,
        stdin: &'a [u8],
    ) -> ondol_virtualbox::machine::Act<'a, Result<Output, virtualbox::Error>> {
        Box::pin(async move {
            let _session = self.sessions.acquire().await.expect("it is never closed");
            let target = self.target(act).await?;
            let guest = self.pool.guest("hosts", target, direct_connector());
            // An act in the middle of a change is not broken off when Terraform asks to stop: the caller decides how long it waits.
            let limits =
                Limits::new(LONGEST_ACT, &CancellationToken::new()).connect_within(CONNECT);
            let failed = |error: ssh::Error| virtualbox::Error::Unreachable {
                act: act.to_owned(),
                remedy: remedy(&error),
                words: error.to_string(),
            };
            let connection = guest.connection(&limits).await.map_err(failed)?;
            let output = connection
                .exec(act, line, stdin, &limits)
                .await
                .map_err(failed)?;
            Ok(Output {
                stdout: output.stdout,
                stderr: output.stderr,
                status: match output.exit {
                    Exit::Status(status) => i32::try_from(status).ok(),
                    Exit::Signal(_) => None,
                },
            })
        })
    }

    fn hold<'a>(
        &'a self,
        act: &'a str,
        line: &'a str,
    ) -> ondol_virtualbox::machine::Act<'a, Result<Held, virtualbox::Error>> {
        Box::pin(async move {
            // A session for as long as it is held: not one of those that whoever holds it needs.
            let target = self.target(act).await?;
            let guest = self.pool.guest("hosts", target, direct_connector());
            let limits =
                Limits::new(LONGEST_ACT, &CancellationToken::new()).connect_within(CONNECT);
            let failed = |error: ssh::Error| virtualbox::Error::Unreachable {
                act: act.to_owned(),
                remedy: remedy(&error),
                words: error.to_string(),
            };
            let connection = guest.connection(&limits).await.map_err(failed)?;
            let hold = connection.hold(act, line, &limits).await.map_err(failed)?;
            Ok(Held::new((hold, connection)))
        })
    }

    fn shares_files(&self) -> bool {
        false
    }
}

fn remedy(error: &ssh::Error) -> String {
    if matches!(error, ssh::Error::NoSession { .. }) {
        return "Set MaxSessions in the host's sshd_config to 10, which is OpenSSH's own, or more"
            .to_owned();
    }
    match error.attribute() {
        Some(attribute) => format!("Check ssh.{attribute} of the host"),
        None => "Check that the host is on and that its SSH server answers".to_owned(),
    }
}

/// One host of the `hosts` map.
pub struct VirtualBoxEngine {
    name: String,
    host: virtualbox::Host,
}

impl VirtualBoxEngine {
    /// Without `ssh` it is this machine.
    pub fn new(
        name: impl Into<String>,
        ssh: Option<SshHost>,
        options: Options,
        pool: &Pool,
        images: &Images,
    ) -> Self {
        let transport: Arc<dyn Transport> = match ssh {
            None => Arc::new(Local::default()),
            Some(host) => Arc::new(SshTransport {
                host,
                pool: pool.clone(),
                sessions: Semaphore::new(SESSIONS),
            }),
        };
        Self {
            name: name.into(),
            host: virtualbox::Host::new(transport, options, images.clone()),
        }
    }

    fn run<'a, T: Send + 'a>(
        &'a self,
        act: impl Into<String>,
        work: impl Future<Output = virtualbox::Result<T>> + Send + 'a,
    ) -> Act<'a, Result<T, EngineError>> {
        let act = act.into();
        Box::pin(async move { work.await.map_err(|error| self.translate(&act, error)) })
    }

    /// What only VirtualBox has.
    pub fn virtualbox_host(&self) -> &virtualbox::Host {
        &self.host
    }

    /// `act` is what was to be done; an error may know the smaller act that failed.
    pub fn translate(&self, act: &str, error: virtualbox::Error) -> EngineError {
        let host = self.name.clone();
        match error {
            virtualbox::Error::Unreachable { words, remedy, .. } => EngineError::Unreachable {
                host,
                act: act.to_owned(),
                words,
                remedy,
            },
            virtualbox::Error::NoVirtualBox { remedy } => EngineError::Unreachable {
                host,
                act: act.to_owned(),
                words: "VirtualBox's VBoxManage cannot be used there".to_owned(),
                remedy,
            },
            error @ virtualbox::Error::TooOld { .. } => EngineError::Unreachable {
                host,
                act: act.to_owned(),
                words: "its VirtualBox is too old".to_owned(),
                remedy: error.to_string(),
            },
            virtualbox::Error::Invalid { field, reason } => EngineError::Invalid {
                host,
                field,
                reason,
            },
            virtualbox::Error::Exists { vm, reason } => EngineError::Exists {
                host,
                vm,
                words: reason,
            },
            error => EngineError::Failed {
                host,
                act: act.to_owned(),
                words: error.to_string(),
            },
        }
    }
}

fn to_virtualbox(spec: &VmSpec) -> virtualbox::VmSpec {
    virtualbox::VmSpec {
        name: spec.name.clone(),
        image: virtualbox::spec::Image {
            path: spec.image.display().to_string(),
            linked: spec.linked_clone,
        },
        cpus: spec.cpus,
        memory_mib: spec.memory_mib,
        hardware: spec.hardware.clone(),
        system_disk_mib: spec.system_disk_mib,
        disks: spec.disks.clone(),
        adapters: spec
            .network_interfaces
            .iter()
            .map(|interface| virtualbox::spec::Adapter {
                name: interface.name.clone(),
                mac: interface.mac_address.clone(),
                attachment: interface.attachment.clone(),
                model: interface.model,
                promiscuous: interface.promiscuous,
                cable_connected: interface.cable_connected,
                forwards: interface.port_forwards.clone(),
            })
            .collect(),
        shared_folders: spec
            .shared_folders
            .iter()
            .map(|(key, folder)| {
                let folder = virtualbox::spec::SharedFolder {
                    host_path: folder.host_path.display().to_string(),
                    guest_path: folder.guest_path.display().to_string(),
                    read_only: folder.read_only,
                };
                (key.clone(), folder)
            })
            .collect(),
        seed: virtualbox::spec::Seed {
            user: spec.seed.user.clone(),
            authorized_keys: spec.seed.authorized_keys.clone(),
            sudo: spec.seed.sudo,
            network: spec.seed.network.clone(),
        },
    }
}

fn from_virtualbox(vm: &virtualbox::Vm, spec: virtualbox::VmSpec) -> Vm {
    Vm {
        id: vm.id,
        state: match vm.state {
            VmState::Running | VmState::Paused | VmState::Changing => PowerState::Running,
            VmState::PoweredOff | VmState::Saved | VmState::Aborted => PowerState::Stopped,
        },
        first_boot_address: vm.first_boot_address,
        confirmed_address: vm.confirmed_address,
        ssh_host_key: vm.ssh_host_key.clone(),
        mac_addresses: vm.macs.clone(),
        acknowledged: vm.acknowledged,
        has_hardware: true,
        spec: VmSpec {
            name: spec.name,
            image: PathBuf::from(spec.image.path),
            linked_clone: spec.image.linked,
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            hardware: spec.hardware,
            system_disk_mib: spec.system_disk_mib,
            disks: spec.disks,
            network_interfaces: spec
                .adapters
                .into_iter()
                .map(|adapter| NetworkInterface {
                    name: adapter.name,
                    mac_address: adapter.mac,
                    attachment: adapter.attachment,
                    model: adapter.model,
                    promiscuous: adapter.promiscuous,
                    cable_connected: adapter.cable_connected,
                    port_forwards: adapter.forwards,
                })
                .collect(),
            shared_folders: spec
                .shared_folders
                .into_iter()
                .map(|(key, folder)| {
                    let folder = SharedFolder {
                        host_path: folder.host_path.into(),
                        guest_path: folder.guest_path.into(),
                        read_only: folder.read_only,
                    };
                    (key, folder)
                })
                .collect(),
            seed: Seed {
                user: spec.seed.user,
                authorized_keys: spec.seed.authorized_keys,
                sudo: spec.seed.sudo,
                network: spec.seed.network,
            },
            lab: LabFeatures::default(),
        },
    }
}

fn from_step(step: virtualbox::plan::Step) -> Change {
    use virtualbox::plan::Impact as Theirs;
    Change {
        field: step.field,
        from: step.from,
        to: step.to,
        impact: match step.impact {
            Theirs::Live => Impact::Live,
            Theirs::Restart => Impact::Restart,
            Theirs::Replace => Impact::Replace,
            Theirs::Refused(reason) => Impact::Refused(reason),
        },
    }
}

impl Engine for VirtualBoxEngine {
    fn host(&self) -> &str {
        &self.name
    }

    fn virtualbox(&self) -> Option<&VirtualBoxEngine> {
        Some(self)
    }

    fn network_scope(&self) -> String {
        // Guests are in the network that this machine is in.
        "hosts".to_owned()
    }

    fn check(&self) -> Act<'_, Result<(), EngineError>> {
        self.run("look for VirtualBox", self.host.ready())
    }

    fn validate(&self, spec: &VmSpec) -> Result<(), EngineError> {
        to_virtualbox(spec)
            .validate()
            .map_err(|error| self.translate(&format!("check the VM {:?}", spec.name), error))
    }

    fn check_wish<'a>(&'a self, spec: &'a VmSpec) -> Act<'a, Result<(), EngineError>> {
        self.run(format!("check the VM {:?}", spec.name), async move {
            self.host.check(&to_virtualbox(spec)).await
        })
    }

    fn seed_replaces(&self) -> bool {
        false
    }

    fn facts(&self) -> Act<'_, Result<HostFacts, EngineError>> {
        self.run("read the host's capacity", async {
            let facts = self.host.facts().await?;
            let version = ("VirtualBox".to_owned(), facts.version.to_string());
            Ok(HostFacts {
                engine: "virtualbox",
                cpus: facts.readiness.cpus.unwrap_or(0),
                memory_mib: facts.memory_mib,
                disk_free_mib: facts.disk_free_mib,
                memory_free_mib: Some(facts.memory_free_mib),
                tools: [version].into(),
                operating_system: Some(facts.operating_system),
                cpu_virtualization: facts.readiness.cpu_virtualization,
                driver: facts.readiness.driver,
                hypervisor: facts.readiness.hypervisor,
                vbs: facts.readiness.vbs,
                adapters: facts.adapters,
            })
        })
    }

    fn observe<'a>(&'a self, id_or_name: &'a str) -> Act<'a, Result<Option<Vm>, EngineError>> {
        self.run(format!("look for the VM {id_or_name:?}"), async move {
            let found = self.host.observe(id_or_name).await?;
            Ok(found.map(|vm| from_virtualbox(&vm, self.host.as_wished(&vm))))
        })
    }

    fn list(&self) -> Act<'_, Result<Vec<Vm>, EngineError>> {
        self.run("list the VMs", async {
            let found = self.host.list().await?;
            Ok(found
                .iter()
                .map(|vm| from_virtualbox(vm, self.host.as_wished(vm)))
                .collect())
        })
    }

    fn create<'a>(&'a self, spec: &'a VmSpec) -> Act<'a, Result<Vm, EngineError>> {
        self.run(format!("create the VM {:?}", spec.name), async move {
            let vm = self.host.create(&to_virtualbox(spec)).await?;
            Ok(from_virtualbox(&vm, self.host.as_wished(&vm)))
        })
    }

    fn acknowledge<'a>(&'a self, id: &'a str) -> Act<'a, Result<(), EngineError>> {
        self.run(
            format!("mark the VM {id} as known"),
            self.host.acknowledge(id),
        )
    }

    fn note_address<'a>(
        &'a self,
        id: &'a str,
        address: IpAddr,
    ) -> Act<'a, Result<(), EngineError>> {
        self.run(
            format!("note the address of the VM {id}"),
            self.host.note_address(id, address),
        )
    }

    fn plan_update(&self, current: &VmSpec, desired: &VmSpec) -> Vec<Change> {
        let steps = self
            .host
            .plan(&to_virtualbox(current), &to_virtualbox(desired));
        steps.into_iter().map(from_step).collect()
    }

    fn update<'a>(
        &'a self,
        id: &'a str,
        desired: &'a VmSpec,
    ) -> Act<'a, Result<Vec<Change>, EngineError>> {
        self.run(format!("change the VM {:?}", desired.name), async move {
            let later = self.host.update(id, &to_virtualbox(desired)).await?;
            Ok(later.into_iter().map(from_step).collect())
        })
    }

    fn power<'a>(
        &'a self,
        id: &'a str,
        wanted: PowerState,
        patience: Duration,
    ) -> Act<'a, Result<(), EngineError>> {
        let (act, on) = match wanted {
            PowerState::Running => ("start", true),
            PowerState::Stopped => ("stop", false),
        };
        self.run(
            format!("{act} the VM {id}"),
            self.host.power(id, on, patience),
        )
    }

    fn delete<'a>(&'a self, id: &'a str) -> Act<'a, Result<(), EngineError>> {
        self.run(format!("delete the VM {id}"), self.host.delete(id))
    }

    fn guest_addresses<'a>(&'a self, id: &'a str) -> Act<'a, Result<Vec<IpAddr>, EngineError>> {
        self.run(
            format!("ask the VM {id} for its addresses"),
            self.host.guest_addresses(id),
        )
    }

    fn connector(&self) -> Connector {
        direct_connector()
    }
}
