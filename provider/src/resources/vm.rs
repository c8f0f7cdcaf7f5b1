//! `ondol_vm`: a VM on a host.
//!
//! It makes the machine and keeps its shape and power as wanted. What runs inside, its final address
//! included, is not its concern: that is `ondol_netplan`'s and Ansible's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Interrupted, Operation, Planned,
    Resource, Timeouts, attribute, path,
};
use tokio::io::AsyncReadExt as _;

use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::{
    Change, Engine, Impact, LabFeatures, NetworkInterface, PowerState, Seed, SharedFolder, Vm,
    VmSpec,
};
use crate::topology::bad_label;

/// How long a guest may take to shut down before its power is cut.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);
/// How long an act that should not be broken off goes on after Terraform has asked to stop. Well below the SDK's own
/// patience, after which an operation is abandoned without a word of its own.
const LAST_MOMENT: Duration = Duration::from_millis(2500);
const SSH_PORT: u16 = 22;

/// A VM on one of the provider's hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The VM's UUID.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// The host that carries it, a key of the provider's `hosts`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// The VM's name and host name: a DNS label.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub name: Attr<String>,
    /// The image that a new VM's disk starts from, `path` of an `ondol_golden_image`. An existing VM keeps its disk: another
    /// image is only noted, and is used once the VM is made anew (`terraform apply -replace`, or `replace_on_image_change`).
    /// `disk_image` says which one its disk was made from.
    #[schemars(transform = attribute::required)]
    pub image: Attr<String>,
    /// Makes the VM anew, with an empty disk, whenever `image` is not the one that its disk was made from.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub replace_on_image_change: Attr<bool>,
    /// Number of CPUs.
    #[schemars(transform = attribute::optional_computed, extend("default" = 1))]
    pub cpus: Attr<u32>,
    /// Memory in MiB.
    #[schemars(transform = attribute::required)]
    pub memory_mib: Attr<u64>,
    /// Data disks by key. They can be added and grown; shrinking is refused.
    pub disks: Attr<BTreeMap<String, Disk>>,
    /// Network adapters in order. Default: one, `enp0s3` in the guest.
    pub network_interfaces: Attr<Vec<Interface>>,
    /// Directories of the host that the guest sees, by key.
    pub shared_folders: Attr<BTreeMap<String, Folder>>,
    /// The account that is made before the first boot. Another seed makes another VM.
    #[schemars(transform = attribute::required)]
    pub seed: Attr<SeedModel>,
    /// Rights of the lab's containers. A virtual machine has them anyway.
    pub lab: Attr<LabModel>,
    /// Whether it should run. A VM that was stopped or killed behind Terraform's back is started again.
    #[schemars(transform = attribute::optional_computed, extend("default" = "running"))]
    pub power: Attr<Power>,
    /// What to wait for after a start: `ssh` waits until the guest's SSH server answers.
    #[schemars(transform = attribute::optional_computed, extend("default" = "none"))]
    pub wait_for: Attr<WaitFor>,
    /// Refuses to destroy or replace the VM.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub protected: Attr<bool>,
    /// The image that the VM's disk was made from, as found. It stays in use for as long as the VM lives.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub disk_image: Attr<String>,
    /// `running` or `stopped`, as found.
    #[schemars(transform = attribute::computed)]
    pub state: Attr<String>,
    /// Where the guest answers before it has a netplan.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub first_boot_address: Attr<String>,
    /// The guest's SSH host key, to be pinned: `ssh-ed25519 AAAA...`.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub ssh_host_key: Attr<String>,
    /// Hardware addresses of the adapters, in order.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub mac_addresses: Attr<Vec<String>>,
    pub timeouts: Attr<Timeouts>,
}

/// A data disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// Size in MiB.
    #[schemars(transform = attribute::required)]
    pub size_mib: Attr<u64>,
}

/// A network adapter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interface {
    /// Its name in the guest, for example `enp0s3`.
    #[schemars(transform = attribute::required)]
    pub name: Attr<String>,
    /// Its hardware address. Left out, it is derived from the VM's name.
    pub mac_address: Attr<String>,
}

/// A directory of the host that the guest sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Folder {
    /// Absolute path on the host.
    #[schemars(transform = attribute::required)]
    pub host_path: Attr<String>,
    /// Absolute path in the guest.
    #[schemars(transform = attribute::required)]
    pub guest_path: Attr<String>,
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    /// The guest cannot write to it.
    pub read_only: Attr<bool>,
}

/// The first account of a guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SeedModel {
    /// The user's name. `root` is allowed.
    #[schemars(transform = attribute::required)]
    pub user: Attr<String>,
    /// Public keys that may log in as that user, one line each.
    #[schemars(transform = attribute::required)]
    pub authorized_keys: Attr<Vec<String>>,
    /// Whether the user may become root without a password.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub sudo: Attr<bool>,
}

/// Rights of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LabModel {
    /// Docker, containerd and Kubernetes can run in it.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub containers: Attr<bool>,
    /// It has /dev/net/tun.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub tun: Attr<bool>,
    /// It has /dev/fuse.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub fuse: Attr<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    Running,
    Stopped,
}

impl From<Power> for PowerState {
    fn from(power: Power) -> Self {
        match power {
            Power::Running => Self::Running,
            Power::Stopped => Self::Stopped,
        }
    }
}

impl From<PowerState> for Power {
    fn from(state: PowerState) -> Self {
        match state {
            PowerState::Running => Self::Running,
            PowerState::Stopped => Self::Stopped,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    None,
    Ssh,
}

/// What finds a VM for import.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// A key of the provider's `hosts`.
    #[schemars(transform = attribute::required)]
    pub host: Attr<String>,
    /// The VM's UUID.
    #[schemars(transform = attribute::required)]
    pub id: Attr<String>,
}

impl Model {
    /// The spec that the model asks for; `None` while something in it is unknown or, before an import's first read, absent.
    fn spec(&self) -> Option<VmSpec> {
        let disks = match &self.disks {
            Attr::Unknown => return None,
            disks => disks
                .known()
                .into_iter()
                .flatten()
                .map(|(key, disk)| Some((key.clone(), *disk.size_mib.known()?))),
        };
        let interfaces = match &self.network_interfaces {
            Attr::Unknown => return None,
            interfaces => interfaces.known().into_iter().flatten().map(|interface| {
                let mac_address = match &interface.mac_address {
                    Attr::Unknown => return None,
                    mac_address => mac_address.known().cloned(),
                };
                Some(NetworkInterface {
                    name: interface.name.known()?.clone(),
                    mac_address,
                })
            }),
        };
        let folders = match &self.shared_folders {
            Attr::Unknown => return None,
            folders => folders.known().into_iter().flatten().map(|(key, folder)| {
                let folder = SharedFolder {
                    host_path: PathBuf::from(folder.host_path.known()?),
                    guest_path: PathBuf::from(folder.guest_path.known()?),
                    read_only: folder.read_only.unwrap_or(false),
                };
                Some((key.clone(), folder))
            }),
        };
        let lab = match &self.lab {
            Attr::Unknown => return None,
            Attr::Null => LabFeatures::default(),
            Attr::Known(lab) => LabFeatures {
                containers: lab.containers.unwrap_or(false),
                tun: lab.tun.unwrap_or(false),
                fuse: lab.fuse.unwrap_or(false),
            },
        };
        Some(VmSpec {
            name: self.name.known()?.clone(),
            image: PathBuf::from(self.image.known()?),
            cpus: self.cpus.unwrap_or(1),
            memory_mib: *self.memory_mib.known()?,
            disks: disks.collect::<Option<_>>()?,
            network_interfaces: interfaces.collect::<Option<_>>()?,
            shared_folders: folders.collect::<Option<_>>()?,
            seed: self.seed.known()?.spec()?,
            lab,
        })
    }

    /// Takes over what was found. What says the same in other words (`{}` for nothing, a key with a line
    /// break) stays as it was written, so that it is no difference.
    fn observed(mut self, host: &str, vm: &Vm) -> Self {
        let before = self.spec();
        let found = &vm.spec;
        macro_rules! take {
            ($field:ident, $value:expr) => {
                if before
                    .as_ref()
                    .is_none_or(|before| before.$field != found.$field)
                {
                    self.$field = $value;
                }
            };
        }
        take!(name, found.name.clone().into());
        take!(cpus, found.cpus.into());
        take!(memory_mib, found.memory_mib.into());
        take!(
            disks,
            unless_empty(
                found
                    .disks
                    .iter()
                    .map(|(key, &size)| (
                        key.clone(),
                        Disk {
                            size_mib: size.into()
                        }
                    ))
                    .collect()
            )
        );
        take!(network_interfaces, {
            let interfaces: Vec<Interface> = found
                .network_interfaces
                .iter()
                .map(|interface| Interface {
                    name: interface.name.clone().into(),
                    mac_address: interface.mac_address.clone().into(),
                })
                .collect();
            if interfaces.is_empty() {
                Attr::Null
            } else {
                interfaces.into()
            }
        });
        take!(
            shared_folders,
            unless_empty(
                found
                    .shared_folders
                    .iter()
                    .map(|(key, folder)| (key.clone(), Folder::from(folder)))
                    .collect()
            )
        );
        take!(
            seed,
            SeedModel {
                user: found.seed.user.clone().into(),
                authorized_keys: found.seed.authorized_keys.clone().into(),
                sudo: found.seed.sudo.into(),
            }
            .into()
        );
        take!(
            lab,
            if found.lab == LabFeatures::default() {
                Attr::Null
            } else {
                LabModel::from(found.lab).into()
            }
        );
        self.disk_image = found.image.display().to_string().into();
        self.host = host.into();
        self.id = vm.id.to_string().into();
        self.state = vm.state.as_str().into();
        self.first_boot_address = vm.first_boot_address.to_string().into();
        self.ssh_host_key = vm.ssh_host_key.clone().into();
        self.mac_addresses = vm.mac_addresses.clone().into();
        // Only an import comes without these. The image is a wish, which what is found does not change.
        if self.image.is_null() {
            self.image = self.disk_image.clone();
        }
        if self.replace_on_image_change.is_null() {
            self.replace_on_image_change = false.into();
        }
        if self.power.is_null() {
            self.power = Power::from(vm.state).into();
        }
        if self.wait_for.is_null() {
            self.wait_for = WaitFor::None.into();
        }
        if self.protected.is_null() {
            self.protected = false.into();
        }
        self
    }

    fn wanted_power(&self) -> PowerState {
        self.power.unwrap_or(Power::Running).into()
    }

    fn label(&self) -> String {
        format!(
            "{:?} on host {:?}",
            self.name.as_str().unwrap_or("?"),
            self.host.as_str().unwrap_or("?")
        )
    }
}

impl SeedModel {
    /// `None` while something in it is unknown.
    fn spec(&self) -> Option<Seed> {
        let keys = self.authorized_keys.known()?;
        let sudo = match self.sudo {
            Attr::Known(sudo) => sudo,
            Attr::Null => true,
            Attr::Unknown => return None,
        };
        Some(Seed {
            user: self.user.known()?.clone(),
            // A key read with file() ends in a line break.
            authorized_keys: keys.iter().map(|key| key.trim().to_owned()).collect(),
            sudo,
        })
    }
}

fn unless_empty<T>(map: BTreeMap<String, T>) -> Attr<BTreeMap<String, T>> {
    if map.is_empty() {
        Attr::Null
    } else {
        map.into()
    }
}

impl From<&SharedFolder> for Folder {
    fn from(folder: &SharedFolder) -> Self {
        Self {
            host_path: folder.host_path.display().to_string().into(),
            guest_path: folder.guest_path.display().to_string().into(),
            read_only: folder.read_only.into(),
        }
    }
}

impl From<LabFeatures> for LabModel {
    fn from(features: LabFeatures) -> Self {
        Self {
            containers: features.containers.into(),
            tun: features.tun.into(),
            fuse: features.fuse.into(),
        }
    }
}

pub struct VmResource;

impl Resource for VmResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = Identity;
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_vm";
    const IMPORT_ID: Option<&'static str> = Some("HOST/NAME or HOST/UUID");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(Duration::from_secs(600));

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let Some(name) = config.name.known()
            && let Some(reason) = bad_label(name)
        {
            diagnostics.error(
                path!["name"],
                format!("{name:?} is not a DNS label"),
                format!("The name becomes the guest's host name: {reason}."),
            );
        }
        for (attribute, value, why) in [
            (
                "memory_mib",
                config.memory_mib.known().copied(),
                "A VM needs memory: give its size in MiB.",
            ),
            (
                "cpus",
                config.cpus.known().map(|&cpus| cpus.into()),
                "A VM needs at least one CPU.",
            ),
        ] {
            if value == Some(0) {
                diagnostics.error(path![attribute], format!("{attribute} is 0"), why);
            }
        }
        for (key, disk) in config.disks.known().into_iter().flatten() {
            if disk.size_mib.known() == Some(&0) {
                diagnostics::complain(
                    diagnostics,
                    path!["disks", tfplugin::Key(key), "size_mib"],
                    format!("The disk {key:?} has no size"),
                    "Give its size in MiB.",
                );
            }
        }
    }

    fn plan(
        prior: Option<&Model>,
        planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        let mut planned = Planned::from(plan(prior, planned));
        let Some(prior) = prior else { return planned };
        if another_seed(prior, &planned.model) {
            planned = planned.replace(path!["seed"]);
        }
        if another_disk(prior, &planned.model) {
            planned.model.disk_image = Attr::Unknown;
            // Terraform heeds only what differs, and `image` may have been noted by an earlier apply.
            planned = planned.replace(path!["image"]).replace(path!["disk_image"]);
        }
        planned
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        prior: Option<&Model>,
        mut planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        let Some(host) = planned
            .model
            .host
            .known()
            .filter(|_| cx.context().is_known())
        else {
            return Ok(planned);
        };
        let engine = cx.context().engine(host, path!["host"])?;
        let wanted = planned.model.spec();
        if let Some(spec) = &wanted {
            engine
                .validate(spec)
                .map_err(|error| diagnostics::engine(&error))?;
        }
        let Some(prior) = prior else {
            cx.wait(engine.check())
                .await
                .map_err(Diagnostic::from)?
                .map_err(|error| diagnostics::engine(&error))?;
            return Ok(planned);
        };
        if let (Some(current), Some(wanted)) = (prior.spec(), wanted) {
            // Whether another image means anything was decided without the engine.
            let wanted = VmSpec {
                image: current.image.clone(),
                ..wanted
            };
            let running = prior.state.as_str() == Some("running")
                && planned.model.wanted_power() == PowerState::Running;
            let verdict = judge(
                &engine.plan_update(&current, &wanted),
                &planned.model,
                running,
            )?;
            for warning in verdict.warnings {
                cx.warn(warning);
            }
            planned.replace.extend(verdict.replace);
        }
        if prior.protected == true.into() {
            refuse_replacement(prior, &planned)?;
        }
        Ok(planned)
    }

    fn plan_delete(prior: &Model, diagnostics: &mut Diagnostics) {
        if prior.protected == true.into() {
            diagnostics.push(protected(prior));
        }
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let engine = engine_of(cx, &planned)?;
        let spec = require_spec(&planned)?;
        let vm = finish(cx, engine.create(&spec))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?;
        let made = planned.observed(engine.host(), &vm);
        cx.keep(&made);
        if made.wanted_power() == PowerState::Stopped {
            return Ok(made);
        }
        match start(cx, &engine, made.clone(), &vm).await {
            Ok(model) => Ok(model),
            // An error here would taint the VM and throw it away at the next apply. It exists and is whole: keep it, say so.
            Err(Unstarted::Interrupted(interrupted)) => {
                cx.warn(
                    Diagnostic::warning(format!(
                        "VM {} is made, but was not waited for",
                        made.label()
                    ))
                    .detail(format!(
                        "{} It is in the state; run terraform apply again.",
                        diagnostics::sentence(&interrupted.to_string())
                    )),
                );
                Ok(refresh(&engine, made).await)
            }
            Err(Unstarted::Failed(diagnostic)) => {
                Err(Failure::partial(refresh(&engine, made).await, diagnostic))
            }
        }
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let engine = engine_of(cx, &state)?;
        let id = require_id(&state)?;
        let found = cx
            .wait(engine.observe(&id))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?;
        let Some(vm) = found else { return Ok(None) };
        if !vm.acknowledged {
            engine
                .acknowledge(&id)
                .await
                .map_err(|error| diagnostics::engine(&error))?;
        }
        Ok(Some(state.observed(engine.host(), &vm)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let engine = engine_of(cx, &planned)?;
        let (id, spec) = (require_id(&prior)?, require_spec(&planned)?);
        let planned = Model {
            id: prior.id.clone(),
            ..planned
        };
        let result = bring_to(cx, &engine, &id, &spec, planned.clone()).await;
        match result {
            Ok(model) => Ok(model),
            Err(unstarted) => {
                let diagnostic = match unstarted {
                    Unstarted::Failed(diagnostic) => diagnostic,
                    Unstarted::Interrupted(interrupted) => interrupted.into(),
                };
                // What was changed until then is found out by looking, not by guessing.
                match engine.observe(&id).await {
                    Ok(Some(vm)) => Err(Failure::partial(
                        prior.observed(engine.host(), &vm),
                        diagnostic,
                    )),
                    _ => Err(diagnostic.into()),
                }
            }
        }
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        if state.protected == true.into() {
            return Err(protected(&state).into());
        }
        let engine = engine_of(cx, &state)?;
        let id = require_id(&state)?;
        Ok(finish(cx, engine.delete(&id))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?)
    }

    async fn import(cx: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let Some((host, vm)) = id
            .split_once('/')
            .filter(|(host, vm)| !host.is_empty() && !vm.is_empty())
        else {
            return Err(Diagnostic::error(format!("{id:?} does not name a VM"))
                .detail("Write HOST/NAME or HOST/UUID, for example srv-01/dns-server. HOST is a key of the provider's `hosts`.")
                .into());
        };
        import(cx, host, vm).await
    }

    async fn import_by_identity(
        cx: &Operation<Cloud>,
        identity: Identity,
    ) -> Result<Model, Diagnostics> {
        let host = identity.host.require(path!["host"])?;
        let id = identity.id.require(path!["id"])?;
        import(cx, host, id).await
    }

    fn identity(state: &Model) -> Option<Identity> {
        Some(Identity {
            host: state.host.known()?.clone().into(),
            id: state.id.known()?.clone().into(),
        })
    }
}

/// The state is what `power` asks for; another order of adapters gives other hardware addresses.
fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
    if let Some(power) = planned.power.known() {
        // A creation that is stopped between making and starting leaves it stopped, so it promises nothing.
        planned.state = if prior.is_some() {
            PowerState::from(*power).as_str().into()
        } else {
            Attr::Unknown
        };
    }
    if prior.is_some_and(|prior| prior.network_interfaces != planned.network_interfaces) {
        planned.mac_addresses = Attr::Unknown;
    }
    planned
}

/// Whether the VM is to be made anew because its disk is another image's. An older state does not know the disk's image,
/// but then it was the wished one.
fn another_disk(prior: &Model, planned: &Model) -> bool {
    let disk = prior.disk_image.known().or(prior.image.known());
    planned.replace_on_image_change == true.into()
        && planned.image.known().map(Path::new) != disk.map(Path::new)
}

/// Whether a change of the seed means anything: a key with a line break more is the same key.
fn another_seed(prior: &Model, planned: &Model) -> bool {
    if prior.seed == planned.seed {
        return false;
    }
    match (
        prior.seed.known().map(SeedModel::spec),
        planned.seed.known().map(SeedModel::spec),
    ) {
        (Some(Some(before)), Some(Some(after))) => before != after,
        _ => true,
    }
}

/// What an engine's list of changes means to a plan.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    warnings: Vec<Diagnostic>,
    replace: Vec<tfplugin::Path>,
}

fn judge(changes: &[Change], planned: &Model, running: bool) -> Result<Verdict, Diagnostics> {
    let mut verdict = Verdict::default();
    let mut refused = Diagnostics::new();
    let mut restart = Vec::new();
    for change in changes {
        let at = diagnostics::field_path(&change.field);
        match &change.impact {
            Impact::Live => {}
            Impact::Replace => verdict
                .replace
                .push(at.steps().iter().take(1).cloned().collect()),
            Impact::Restart => restart.push(format!("{at}: {} -> {}", change.from, change.to)),
            Impact::Refused(reason) => refused.error(
                at.clone(),
                format!("{at} cannot become {}", change.to),
                format!("VM {}: it is {}: {reason}.", planned.label(), change.from),
            ),
        }
    }
    if running && !restart.is_empty() {
        verdict.warnings.push(
            Diagnostic::warning(format!("VM {} will be restarted", planned.label())).detail(
                format!(
                    "It cannot take these changes while it runs: {}.",
                    restart.join("; ")
                ),
            ),
        );
    }
    if refused.is_empty() {
        Ok(verdict)
    } else {
        Err(refused)
    }
}

fn refuse_replacement(prior: &Model, planned: &Planned<Model>) -> Result<(), Diagnostic> {
    let new = &planned.model;
    let replaced = prior.host != new.host || prior.name != new.name || !planned.replace.is_empty();
    if replaced {
        Err(protected(prior))
    } else {
        Ok(())
    }
}

fn protected(vm: &Model) -> Diagnostic {
    Diagnostic::error(format!("VM {} is protected", vm.label()))
        .detail("It has protected = true, so it is neither destroyed nor replaced. Set protected = false and apply that first.")
        .at(path!["protected"])
}

fn engine_of(cx: &Operation<Cloud>, model: &Model) -> Result<Arc<dyn Engine>, Diagnostic> {
    cx.context()
        .engine(model.host.require(path!["host"])?, path!["host"])
}

fn require_id(model: &Model) -> Result<String, Diagnostic> {
    model.id.require(path!["id"]).cloned()
}

fn require_spec(model: &Model) -> Result<VmSpec, Diagnostic> {
    model.spec().ok_or_else(|| {
        Diagnostic::error(format!("VM {} is not fully described", model.label()))
            .detail("An attribute that decides what the VM is has no value at apply time. This is a bug in the provider.")
    })
}

async fn import(cx: &Operation<Cloud>, host: &str, id_or_name: &str) -> Result<Model, Diagnostics> {
    let engine = cx.context().engine(host, tfplugin::Path::root())?;
    let found = cx
        .wait(engine.observe(id_or_name))
        .await
        .map_err(Diagnostic::from)?
        .map_err(|error| diagnostics::engine(&error))?;
    let vm = found.ok_or_else(|| {
        Diagnostic::error(format!("Host {host:?} has no VM {id_or_name:?}"))
            .detail("Import names a VM by its name or its UUID. The data source ondol_vms lists what the host has.")
    })?;
    Ok(Model::default().observed(host, &vm))
}

/// Why a VM does not run as it should, though it exists.
enum Unstarted {
    Interrupted(Interrupted),
    Failed(Diagnostic),
}

impl From<Interrupted> for Unstarted {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

impl From<Diagnostic> for Unstarted {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Failed(diagnostic)
    }
}

/// Waits for an act that is better finished than broken off: when Terraform asks to stop, it gets a moment more.
async fn finish<T>(cx: &Operation<Cloud>, act: impl Future<Output = T>) -> Result<T, Interrupted> {
    let mut act = pin!(act);
    match cx.wait(act.as_mut()).await {
        Ok(output) => Ok(output),
        Err(interrupted) => tokio::time::timeout(LAST_MOMENT, act)
            .await
            .map_err(|_| interrupted),
    }
}

/// Changes a VM's shape, then its power. The disk stays what it is, whatever image is wished for.
async fn bring_to(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    id: &str,
    spec: &VmSpec,
    planned: Model,
) -> Result<Model, Unstarted> {
    let engine_error = |error| Unstarted::Failed(diagnostics::engine(&error));
    let spec = VmSpec {
        image: found(engine, id).await?.spec.image,
        ..spec.clone()
    };
    let waiting = finish(cx, engine.update(id, &spec))
        .await?
        .map_err(engine_error)?;
    let wanted = planned.wanted_power();
    let vm = found(engine, id).await?;
    let restart =
        !waiting.is_empty() && vm.state == PowerState::Running && wanted == PowerState::Running;
    if vm.state == PowerState::Running && (restart || wanted == PowerState::Stopped) {
        cx.wait(engine.power(id, PowerState::Stopped, SHUTDOWN_PATIENCE))
            .await?
            .map_err(engine_error)?;
    }
    if wanted == PowerState::Running && (restart || vm.state == PowerState::Stopped) {
        return start(cx, engine, planned, &vm).await;
    }
    Ok(planned.observed(engine.host(), &found(engine, id).await?))
}

async fn found(engine: &Arc<dyn Engine>, id: &str) -> Result<Vm, Diagnostic> {
    engine
        .observe(id)
        .await
        .map_err(|error| diagnostics::engine(&error))?
        .ok_or_else(|| {
            Diagnostic::error(format!("Host {:?} has no VM {id} any more", engine.host()))
                .detail("It was removed while Terraform worked on it. Run terraform apply again.")
        })
}

/// Starts a VM and waits for what the model asks to wait for.
async fn start(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    model: Model,
    vm: &Vm,
) -> Result<Model, Unstarted> {
    let id = vm.id.to_string();
    cx.wait(engine.power(&id, PowerState::Running, SHUTDOWN_PATIENCE))
        .await?
        .map_err(|error| Unstarted::Failed(diagnostics::engine(&error)))?;
    if model.wait_for == WaitFor::Ssh.into() {
        wait_for_ssh(cx, engine, vm).await?;
    }
    Ok(model.observed(engine.host(), &found(engine, &id).await?))
}

/// The state as it is now; as it was, where nobody can say.
async fn refresh(engine: &Arc<dyn Engine>, model: Model) -> Model {
    match engine.observe(model.id.as_str().unwrap_or_default()).await {
        Ok(Some(vm)) => model.observed(engine.host(), &vm),
        _ => model,
    }
}

/// Waits until the guest's SSH server greets, at its first-boot address or, where a netplan has taken that
/// away, at any address that the hypervisor sees.
async fn wait_for_ssh(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    vm: &Vm,
) -> Result<(), Interrupted> {
    let id = vm.id.to_string();
    let connector = engine.connector();
    loop {
        let mut addresses = vec![vm.first_boot_address];
        if let Ok(known) = cx.wait(engine.guest_addresses(&id)).await? {
            addresses.extend(
                known
                    .into_iter()
                    .filter(|address| *address != vm.first_boot_address),
            );
        }
        for address in addresses {
            let greeting = async {
                let mut stream =
                    connector(SocketAddr::new(address, SSH_PORT), Duration::from_secs(2))
                        .await
                        .ok()?;
                let mut start = [0; 4];
                stream.read_exact(&mut start).await.ok()?;
                (&start == b"SSH-").then_some(())
            };
            let greeting = tokio::time::timeout(Duration::from_secs(5), greeting);
            if let Ok(Some(())) = cx.wait(greeting).await? {
                return Ok(());
            }
        }
        cx.sleep(Duration::from_millis(300)).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            host: "srv-01".into(),
            name: "web-01".into(),
            image: "/images/a/rootfs".into(),
            cpus: 1.into(),
            memory_mib: 256.into(),
            disks: BTreeMap::new().into(),
            seed: SeedModel {
                user: "ondol".into(),
                authorized_keys: vec!["ssh-ed25519 AAAA me\n".to_owned()].into(),
                sudo: true.into(),
            }
            .into(),
            power: Power::Running.into(),
            wait_for: WaitFor::None.into(),
            protected: false.into(),
            ..Model::default()
        }
    }

    fn vm(model: &Model) -> Vm {
        Vm {
            id: uuid::Uuid::from_u128(7),
            spec: model.spec().unwrap(),
            state: PowerState::Running,
            first_boot_address: "169.254.7.7".parse().unwrap(),
            ssh_host_key: "ssh-ed25519 BBBB".to_owned(),
            mac_addresses: vec!["08:00:27:00:00:01".to_owned()],
            acknowledged: true,
        }
    }

    #[test]
    fn what_says_the_same_in_other_words_is_no_difference() {
        let wanted = model();
        let found = wanted.clone().observed("srv-01", &vm(&wanted));
        assert_eq!(found.disks, wanted.disks);
        assert_eq!(found.seed, wanted.seed);
        assert_eq!(found.state, "running".into());
    }

    fn planned(prior: &Model, change: impl FnOnce(&mut Model)) -> Planned<Model> {
        let mut model = prior.clone();
        change(&mut model);
        let (config, mut diagnostics) = (model.clone(), Diagnostics::new());
        VmResource::plan(Some(prior), model, &config, &mut diagnostics)
    }

    #[test]
    fn another_image_is_noted_and_replaces_the_vm_only_where_that_is_asked_for() {
        let old = "/images/a/rootfs";
        let prior = |image: &str| Model {
            image: image.into(),
            disk_image: old.into(),
            replace_on_image_change: false.into(),
            state: "running".into(),
            ..model()
        };
        let cases: [(Model, Attr<String>, bool, bool); 8] = [
            (prior(old), "/images/b/rootfs".into(), false, false),
            (prior(old), Attr::Unknown, false, false),
            (prior(old), "/images/b/rootfs".into(), true, true),
            (prior(old), Attr::Unknown, true, true),
            (prior(old), old.into(), true, false),
            (prior(old), "/images/a//rootfs/".into(), true, false),
            // Noted by an earlier apply; and back again.
            (
                prior("/images/b/rootfs"),
                "/images/b/rootfs".into(),
                true,
                true,
            ),
            (prior("/images/b/rootfs"), old.into(), true, false),
        ];
        for (prior, image, asked, replaced) in cases {
            let planned = planned(&prior, |model| {
                model.image = image.clone();
                model.replace_on_image_change = asked.into();
            });
            assert_eq!(!planned.replace.is_empty(), replaced, "{image:?}, {asked}");
            assert_eq!(
                planned.model.disk_image,
                if replaced { Attr::Unknown } else { old.into() },
                "{image:?}, {asked}"
            );
        }
        let before_disk_image = Model {
            disk_image: Attr::Null,
            ..prior(old)
        };
        let asked = |model: &mut Model| model.replace_on_image_change = true.into();
        assert_eq!(planned(&before_disk_image, asked).replace, []);
    }

    #[test]
    fn what_is_found_tells_the_disks_image_and_leaves_the_wish_alone() {
        let wanted = model();
        let mut older = vm(&wanted);
        older.spec.image = "/images/older/rootfs".into();
        let found = wanted.observed("srv-01", &older);
        assert_eq!(
            (found.image, found.disk_image),
            ("/images/a/rootfs".into(), "/images/older/rootfs".into())
        );
    }

    #[test]
    fn a_change_behind_terraforms_back_is_seen() {
        let wanted = model();
        let mut changed = vm(&wanted);
        changed.state = PowerState::Stopped;
        changed.spec.memory_mib = 128;
        changed.spec.disks.insert("extra".to_owned(), 64);
        let found = wanted.observed("srv-01", &changed);
        assert_eq!(found.state, "stopped".into());
        assert_eq!(found.memory_mib, 128.into());
        assert_eq!(found.disks.known().unwrap()["extra"].size_mib, 64.into());
    }

    #[test]
    fn an_import_gives_every_attribute_a_value_that_a_plain_configuration_has() {
        let mut plain = model();
        plain.disks = Attr::Null;
        let imported = Model::default().observed("srv-01", &vm(&plain));
        assert_eq!(
            (
                imported.disks.is_null(),
                imported.lab.is_null(),
                imported.network_interfaces.is_null()
            ),
            (true, true, true)
        );
        assert_eq!(
            (imported.image, imported.disk_image),
            ("/images/a/rootfs".into(), "/images/a/rootfs".into())
        );
        assert_eq!(imported.replace_on_image_change, false.into());
        assert_eq!(
            (imported.power, imported.wait_for, imported.protected),
            (Power::Running.into(), WaitFor::None.into(), false.into())
        );
        assert_eq!(imported.id, uuid::Uuid::from_u128(7).to_string().into());
    }

    #[test]
    fn a_stopped_vm_is_planned_back_to_running_and_a_new_one_promises_nothing() {
        let prior = Model {
            state: "stopped".into(),
            ..model()
        };
        assert_eq!(plan(Some(&prior), prior.clone()).state, "running".into());
        let running = Model {
            state: "running".into(),
            ..model()
        };
        assert_eq!(plan(Some(&running), running.clone()), running);
        assert_eq!(plan(None, model()).state, Attr::Unknown);
    }

    #[test]
    fn another_seed_replaces_the_vm_and_the_same_in_other_words_does_not() {
        let with = |change: fn(&mut SeedModel)| {
            let mut model = model();
            change(model.seed.known_mut().unwrap());
            model
        };
        type Edit = fn(&mut SeedModel);
        let cases: [(Edit, bool); 4] = [
            (
                |seed| seed.authorized_keys = vec!["ssh-ed25519 AAAA me".to_owned()].into(),
                false,
            ),
            (
                |seed| seed.authorized_keys = vec!["ssh-ed25519 BBBB me".to_owned()].into(),
                true,
            ),
            (|seed| seed.sudo = false.into(), true),
            (|seed| seed.user = Attr::Unknown, true),
        ];
        for (change, expected) in cases {
            assert_eq!(another_seed(&model(), &with(change)), expected);
        }
    }

    #[test]
    fn an_unknown_part_makes_the_spec_unknown() {
        assert!(model().spec().is_some());
        for change in [
            (|m: &mut Model| m.image = Attr::Unknown) as fn(&mut Model),
            |m| m.disks = Attr::Unknown,
            |m| m.lab = Attr::Unknown,
            |m| {
                m.disks = BTreeMap::from([(
                    "d".to_owned(),
                    Disk {
                        size_mib: Attr::Unknown,
                    },
                )])
                .into()
            },
        ] {
            let mut changed = model();
            change(&mut changed);
            assert_eq!(changed.spec(), None);
        }
    }

    fn change(field: &[&str], impact: Impact) -> Change {
        Change {
            field: field.iter().map(|&step| step.to_owned()).collect(),
            from: "a".to_owned(),
            to: "b".to_owned(),
            impact,
        }
    }

    #[test]
    fn the_engines_verdict_becomes_warnings_replacements_and_errors() {
        let none: Result<Verdict, Diagnostics> = Ok(Verdict::default());
        assert_eq!(
            judge(&[change(&["memory_mib"], Impact::Live)], &model(), true),
            none
        );
        let restart = [change(&["network_interfaces"], Impact::Restart)];
        assert_eq!(judge(&restart, &model(), true).unwrap().warnings.len(), 1);
        assert_eq!(judge(&restart, &model(), false), none);
        let replace = judge(
            &[change(&["seed", "user"], Impact::Replace)],
            &model(),
            true,
        )
        .unwrap();
        assert_eq!(replace.replace, [path!["seed"]]);
        let refused = judge(
            &[change(
                &["disks", "data", "size_mib"],
                Impact::Refused("no".to_owned()),
            )],
            &model(),
            true,
        );
        let refused = refused.unwrap_err();
        assert_eq!(
            refused.iter().next().unwrap().path,
            path!["disks", tfplugin::Key("data"), "size_mib"]
        );
    }

    #[test]
    fn a_protected_vm_is_neither_replaced_nor_destroyed() {
        let prior = Model {
            protected: true.into(),
            ..model()
        };
        let grown = Planned::from(Model {
            memory_mib: 512.into(),
            ..prior.clone()
        });
        assert!(refuse_replacement(&prior, &grown).is_ok());
        let moved = Planned::from(Model {
            host: "srv-02".into(),
            ..prior.clone()
        });
        assert_eq!(
            refuse_replacement(&prior, &moved).unwrap_err().path,
            path!["protected"]
        );
        let mut diagnostics = Diagnostics::new();
        VmResource::plan_delete(&prior, &mut diagnostics);
        assert!(diagnostics.has_error());
    }

    #[test]
    fn impossible_sizes_and_names_are_refused_with_the_attribute() {
        let mut wrong = model();
        wrong.name = "Web_01".into();
        wrong.memory_mib = 0.into();
        wrong.cpus = 0.into();
        wrong.disks = BTreeMap::from([("data".to_owned(), Disk { size_mib: 0.into() })]).into();
        let mut diagnostics = Diagnostics::new();
        VmResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| diagnostic.path.to_string())
            .collect();
        assert_eq!(
            paths,
            ["name", "memory_mib", "cpus", "disks[\"data\"].size_mib"]
        );
    }
}
