//! `ondol_netplan`: a guest's host name and network, over SSH, changed so that a mistake takes itself back.
//!
//! What is in the file, what differs and how a change is rolled back are `ondol_netplan`'s decisions; here is
//! the way to the guest and back to it on its new address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ondol_netplan as guest;
use ondol_netplan::{ChangeId, Config, Desired, Observed, Presence, Segment, Status, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Key, Operation, Path, Planned,
    Resource, Timeouts, attribute, path,
};
use uuid::Uuid;

use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::{Engine, PowerState, Vm};
use crate::ssh::{self, Credential, Guest, HostKeyPolicy, Limits, Secret, Target, parse_pin};

const DEFAULT_PORT: u16 = 22;
const DEFAULT_CONFIRM_SECONDS: u64 = 30;
/// One try to log in at one address, and the part of it until the transport is open.
const LOGIN: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_millis(1500);
/// One command on the guest.
const COMMAND: Duration = Duration::from_secs(60);
/// One look at how a change stands.
const STATUS: Duration = Duration::from_secs(5);
/// How much later the next candidate address is tried while the first has not answered.
const STAGGER: Duration = Duration::from_millis(250);
/// A guest that is still booting lets nobody but root in (pam_nologin). Longer than this, it means it.
const BOOTING: Duration = Duration::from_secs(10);
/// networkd takes a reload and acts on it a moment later.
const TAKING_EFFECT: Duration = Duration::from_millis(700);
/// How long a refresh looks for a guest that runs but does not answer.
const READ_PATIENCE: Duration = Duration::from_secs(20);

/// A guest's network, written to netplan, applied and confirmed over the new address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The VM, as in `vm`.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// The host that carries the VM, a key of the provider's `hosts`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// The VM's `id`, or its name on that host.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub vm: Attr<String>,
    /// Where the guest answers before it has a netplan: `first_boot_address` of the `ondol_vm`.
    #[schemars(transform = attribute::required)]
    pub first_boot_address: Attr<String>,
    /// The guest's host name.
    #[schemars(transform = attribute::required)]
    pub hostname: Attr<String>,
    /// Ethernet interfaces by name, in netplan's words.
    #[schemars(transform = attribute::required)]
    pub ethernets: Attr<BTreeMap<String, Ethernet>>,
    /// How to log in to the guest.
    #[schemars(transform = attribute::required)]
    pub ssh: Attr<Ssh>,
    /// How many seconds the guest waits for the confirmation over its new address before it takes the change back.
    #[schemars(transform = attribute::optional_computed, extend("default" = DEFAULT_CONFIRM_SECONDS), range(min = 5, max = 3600))]
    pub confirm_timeout_seconds: Attr<u64>,
    /// The guest's first static address, without prefix length. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub address: Attr<String>,
    /// Addresses that run on the managed interfaces, with prefix length.
    #[schemars(transform = attribute::computed)]
    pub running_addresses: Attr<Vec<String>>,
    /// SHA-256 of the netplan file on the guest.
    #[schemars(transform = attribute::computed)]
    pub file_sha256: Attr<String>,
    /// What on the guest is not as wanted, a line each; empty when everything is.
    #[schemars(transform = attribute::computed)]
    pub drift: Attr<Vec<String>>,
    pub timeouts: Attr<Timeouts>,
}

/// One Ethernet interface. What is left out is left out of the netplan file too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ethernet {
    /// Static addresses with prefix length, for example `192.168.10.11/24`.
    pub addresses: Attr<Vec<String>>,
    /// The IPv4 default gateway; short for a route to `default`.
    pub gateway4: Attr<String>,
    /// Static routes.
    pub routes: Attr<Vec<Route>>,
    /// Name servers and search domains.
    pub nameservers: Attr<Nameservers>,
    /// Ask for an IPv4 address by DHCP.
    pub dhcp4: Attr<bool>,
    /// Ask for an IPv6 address by DHCP.
    pub dhcp6: Attr<bool>,
    /// Largest packet in bytes.
    pub mtu: Attr<u32>,
    /// The guest may finish booting without this interface.
    pub optional: Attr<bool>,
    /// Give the interface this hardware address.
    pub macaddress: Attr<String>,
    /// Find the interface by a property instead of by the key.
    #[serde(rename = "match")]
    pub matches: Attr<Match>,
    /// Rename the matched interface.
    pub set_name: Attr<String>,
}

/// A static route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// A network such as `10.0.0.0/8`, or `default`.
    #[schemars(transform = attribute::required)]
    pub to: Attr<String>,
    /// The gateway's address.
    #[schemars(transform = attribute::required)]
    pub via: Attr<String>,
    /// Lower wins.
    pub metric: Attr<u32>,
    /// The gateway is reached directly although no address shares a network with it.
    pub on_link: Attr<bool>,
}

/// Name servers and search domains.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nameservers {
    /// Addresses of name servers.
    pub addresses: Attr<Vec<String>>,
    /// Domains tried for names without a dot.
    pub search: Attr<Vec<String>>,
}

/// How an interface is found when the key is not its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Match {
    /// Current name; `*` and `?` are wildcards.
    pub name: Attr<String>,
    /// Hardware address.
    pub macaddress: Attr<String>,
}

/// How to log in to a guest. What is given of keys, agent and password is tried in that order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ssh {
    /// The user. One who is not root needs sudo without a password.
    #[schemars(transform = attribute::required)]
    pub user: Attr<String>,
    /// TCP port.
    #[schemars(transform = attribute::optional_computed, extend("default" = DEFAULT_PORT), range(min = 1, max = 65535))]
    pub port: Attr<u16>,
    /// The guest's public host key, `ssh_host_key` of the `ondol_vm`. This or `known_hosts_file` is needed:
    /// no key is accepted unseen.
    pub host_key: Attr<String>,
    /// A known_hosts file with the guest's key for each of its addresses.
    pub known_hosts_file: Attr<String>,
    /// A private key file.
    pub private_key_file: Attr<String>,
    /// The text of a private key.
    #[schemars(transform = attribute::sensitive)]
    pub private_key: Attr<String>,
    /// The passphrase of the private key.
    #[schemars(transform = attribute::sensitive)]
    pub private_key_passphrase: Attr<String>,
    /// Offer the keys of the SSH agent that SSH_AUTH_SOCK names.
    pub agent: Attr<bool>,
    /// The user's password.
    #[schemars(transform = attribute::sensitive)]
    pub password: Attr<String>,
}

impl Ssh {
    fn credentials(&self) -> Vec<Credential> {
        let passphrase = self.private_key_passphrase.known().map(Secret::new);
        let mut credentials = Vec::new();
        if let Some(path) = self.private_key_file.known() {
            credentials.push(Credential::KeyFile {
                path: expand_home(path),
                passphrase: passphrase.clone(),
            });
        }
        if let Some(text) = self.private_key.known() {
            credentials.push(Credential::Key {
                text: Secret::new(text),
                passphrase,
            });
        }
        if self.agent == true.into() {
            credentials.push(Credential::Agent { socket: None });
        }
        if let Some(password) = self.password.known() {
            credentials.push(Credential::Password(Secret::new(password)));
        }
        credentials
    }

    fn host_key_policy(&self) -> Result<HostKeyPolicy, Diagnostic> {
        match (self.host_key.known(), self.known_hosts_file.known()) {
            (Some(key), _) => Ok(HostKeyPolicy::Pinned(key.clone())),
            (None, Some(file)) => Ok(HostKeyPolicy::KnownHosts(expand_home(file))),
            (None, None) => Err(no_host_key()),
        }
    }

    fn validate(&self, diagnostics: &mut Diagnostics) {
        if self.host_key.is_null() && self.known_hosts_file.is_null() {
            diagnostics.push(no_host_key());
        }
        if let Some(key) = self.host_key.known()
            && let Err(error) = parse_pin(key)
        {
            diagnostics::complain(
                diagnostics,
                path!["ssh", "host_key"],
                "host_key is not a public key",
                diagnostics::sentence(&error.to_string()),
            );
        }
        let nothing = self.private_key_file.is_null()
            && self.private_key.is_null()
            && self.password.is_null()
            && !self.agent.is_unknown()
            && self.agent != true.into();
        if nothing {
            diagnostics.error(
                path!["ssh"],
                "There is no way to log in",
                "Set one of private_key_file, private_key, agent = true and password.",
            );
        }
        if self.user.as_str() == Some("") {
            diagnostics::complain(
                diagnostics,
                path!["ssh", "user"],
                "The user has no name",
                "Name the user to log in as.",
            );
        }
    }
}

fn no_host_key() -> Diagnostic {
    Diagnostic::error("The guest's host key is not pinned")
        .detail("Set host_key (the ssh_host_key of the ondol_vm) or known_hosts_file: a key that nobody vouches for is not accepted.")
        .at(path!["ssh", "host_key"])
}

fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

impl Model {
    /// netplan's configuration; `None` while something in it is unknown.
    fn config(&self) -> Option<Config> {
        let ethernets = self.ethernets.known()?;
        let mut config = Config::default();
        for (name, ethernet) in ethernets {
            config
                .ethernets
                .insert(name.clone(), ethernet.to_netplan()?);
        }
        Some(config)
    }

    /// What the guest should be; `None` while something is unknown.
    fn desired(&self) -> Option<Result<Desired, Diagnostics>> {
        let config = self.config()?;
        let hostname = self.hostname.known()?;
        Some(
            Desired::present(&config, Some(hostname))
                .map_err(|problems| problems.iter().map(problem).collect()),
        )
    }

    fn require_desired(&self) -> Result<Desired, Diagnostics> {
        self.desired().unwrap_or_else(|| {
            Err(Diagnostic::error(format!(
                "The network of {} is not fully described",
                self.label()
            ))
            .detail("An attribute has no value at apply time. This is a bug in the provider.")
            .into())
        })
    }

    fn label(&self) -> String {
        let name = self.hostname.as_str().or(self.vm.as_str()).unwrap_or("?");
        format!("{name:?} on host {:?}", self.host.as_str().unwrap_or("?"))
    }
}

/// `Some(None)` is a value that is not given, `None` one that is not known.
fn given<T: Clone>(value: &Attr<T>) -> Option<Option<T>> {
    match value {
        Attr::Known(value) => Some(Some(value.clone())),
        Attr::Null => Some(None),
        Attr::Unknown => None,
    }
}

impl Ethernet {
    fn to_netplan(&self) -> Option<guest::Ethernet> {
        let routes = match given(&self.routes)? {
            None => Vec::new(),
            Some(routes) => routes
                .iter()
                .map(|route| {
                    Some(guest::Route {
                        to: given(&route.to)??,
                        via: given(&route.via)??,
                        metric: given(&route.metric)?,
                        on_link: given(&route.on_link)?,
                    })
                })
                .collect::<Option<_>>()?,
        };
        let nameservers = match given(&self.nameservers)? {
            None => guest::Nameservers::default(),
            Some(servers) => guest::Nameservers {
                addresses: given(&servers.addresses)?.unwrap_or_default(),
                search: given(&servers.search)?.unwrap_or_default(),
            },
        };
        let matches = match given(&self.matches)? {
            None => None,
            Some(matches) => Some(guest::Match {
                name: given(&matches.name)?,
                macaddress: given(&matches.macaddress)?,
            }),
        };
        Some(guest::Ethernet {
            addresses: given(&self.addresses)?.unwrap_or_default(),
            gateway4: given(&self.gateway4)?,
            routes,
            nameservers,
            dhcp4: given(&self.dhcp4)?,
            dhcp6: given(&self.dhcp6)?,
            mtu: given(&self.mtu)?,
            optional: given(&self.optional)?,
            macaddress: given(&self.macaddress)?,
            matches,
            set_name: given(&self.set_name)?,
        })
    }
}

/// A complaint of netplan's rules at its attribute.
fn problem(problem: &guest::Problem) -> Diagnostic {
    let mut at = Path::root();
    for segment in &problem.path {
        at = match segment {
            Segment::Attribute(name) => at.child(*name),
            Segment::Key(key) => at.child(Key(key)),
            Segment::Index(index) => at.child(*index),
        };
    }
    Diagnostic::error(format!("{at} is not possible"))
        .detail(diagnostics::sentence(&problem.reason))
        .at(at)
}

/// What the guest shows when it is as wanted.
#[derive(Debug, Clone, PartialEq)]
struct Settled {
    address: Option<String>,
    running_addresses: Vec<String>,
    file_sha256: String,
}

fn settled(desired: &Desired) -> Settled {
    let Presence::Present(network) = &desired.presence else {
        unreachable!("this resource never asks for an absent file")
    };
    let mut running: Vec<String> = network
        .addresses()
        .map(|address| address.to_string())
        .collect();
    running.sort();
    Settled {
        address: network
            .addresses()
            .next()
            .map(|address| address.addr().to_string()),
        running_addresses: running,
        file_sha256: sha256(&guest::render(network)),
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn plan(mut planned: Model) -> Model {
    planned.id = planned.vm.clone();
    match planned.desired() {
        Some(Ok(desired)) => {
            let settled = settled(&desired);
            planned.address = settled.address.into();
            planned.running_addresses = settled.running_addresses.into();
            planned.file_sha256 = settled.file_sha256.into();
        }
        _ => {
            planned.address = Attr::Unknown;
            planned.running_addresses = Attr::Unknown;
            planned.file_sha256 = Attr::Unknown;
        }
    }
    planned.drift = Vec::new().into();
    planned
}

/// The state that an observation gives: as wanted where nothing has to be done, and what is there instead elsewhere.
fn observed_state(mut state: Model, desired: &Desired, observed: &Observed) -> Model {
    let steps = guest::plan(desired, observed);
    let settled = settled(desired);
    state.id = state.vm.clone();
    state.address = settled.address.into();
    let runs = !steps.iter().any(|step| matches!(step, Step::Apply { .. }));
    state.running_addresses = if runs {
        settled.running_addresses
    } else {
        running_addresses(desired, observed)
    }
    .into();
    state.file_sha256 = observed.file.as_ref().map(|file| sha256(&file.text)).into();
    if steps
        .iter()
        .any(|step| matches!(step, Step::SetHostname { .. }))
    {
        state.hostname = shown_hostname(state.hostname.as_str(), observed).into();
    }
    state.drift = steps
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .into();
    state
}

/// The name that differs: the running one, or else the one in /etc/hostname.
fn shown_hostname(wanted: Option<&str>, observed: &Observed) -> String {
    if Some(observed.hostname.running.as_str()) != wanted {
        return observed.hostname.running.clone();
    }
    observed.hostname.fixed.clone().unwrap_or_default()
}

fn running_addresses(desired: &Desired, observed: &Observed) -> Vec<String> {
    let Presence::Present(network) = &desired.presence else {
        return Vec::new();
    };
    let mut addresses: Vec<String> = network
        .interfaces
        .keys()
        .filter_map(|name| observed.links.get(name))
        .flat_map(|link| &link.addresses)
        .map(|address| address.net.to_string())
        .filter(|address| !address.starts_with("fe80:"))
        .collect();
    addresses.sort();
    addresses
}

pub struct NetplanResource;

impl Resource for NetplanResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_netplan";
    const IMPORT_ID: Option<&'static str> = Some("HOST/NAME or HOST/UUID");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts {
        read: Duration::from_secs(60),
        ..DefaultTimeouts::all(Duration::from_secs(300))
    };

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let Some(ssh) = config.ssh.known() {
            ssh.validate(diagnostics);
        }
        if let Some(Err(problems)) = config.desired() {
            diagnostics.extend(problems);
        }
        if let Some(address) = config.first_boot_address.known()
            && address.parse::<IpAddr>().is_err()
        {
            diagnostics.error(
                path!["first_boot_address"],
                format!("{address:?} is not an address"),
                "Give the first_boot_address of the ondol_vm.",
            );
        }
    }

    fn plan(_: Option<&Model>, planned: Model, _: &Model, _: &mut Diagnostics) -> Planned<Model> {
        plan(planned).into()
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        _: Option<&Model>,
        planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        if let Some(host) = planned.model.host.known()
            && cx.context().is_known()
        {
            cx.context().engine(host, path!["host"])?;
        }
        Ok(planned)
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        Ok(converge(cx, None, planned).await?)
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let engine = engine_of(cx, &state)?;
        let vm = observe_vm(cx, &engine, &state).await?;
        let Some(vm) = vm else { return Ok(None) };
        // Right after an import there is nothing to log in with yet: the next apply looks.
        let (Some(Ok(desired)), Some(_)) = (state.desired(), state.ssh.known()) else {
            return Ok(Some(state));
        };
        if vm.state == PowerState::Stopped {
            cx.warn(
                Diagnostic::warning(format!(
                    "The network of {} was not looked at",
                    state.label()
                ))
                .detail("Its VM is stopped. The state keeps what was last seen."),
            );
            return Ok(Some(state));
        }
        let search = Search {
            label: state.label(),
            candidates: candidates(Some(&state), &desired, vm.first_boot_address),
            until: Instant::now() + READ_PATIENCE,
        };
        let reached = Way::new(cx, &engine, &state, &vm)?.reach(&search).await?;
        let observed = reached.observe().await?;
        Ok(Some(observed_state(state, &desired, &observed)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        Ok(converge(cx, Some(&prior), planned).await?)
    }

    /// The guest keeps its network: without an address nobody could reach it any more.
    async fn delete(_: &Operation<Cloud>, _: Model) -> Result<(), Failure<Model>> {
        Ok(())
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
        let engine = cx.context().engine(host, Path::root())?;
        let state = Model {
            host: host.into(),
            vm: vm.into(),
            ..Model::default()
        };
        let found = observe_vm(cx, &engine, &state)
            .await?
            .ok_or_else(|| no_vm(&engine, vm))?;
        Ok(Model {
            id: found.id.to_string().into(),
            vm: found.id.to_string().into(),
            first_boot_address: found.first_boot_address.to_string().into(),
            ..state
        })
    }
}

fn engine_of(cx: &Operation<Cloud>, model: &Model) -> Result<Arc<dyn Engine>, Diagnostic> {
    cx.context()
        .engine(model.host.require(path!["host"])?, path!["host"])
}

async fn observe_vm(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    model: &Model,
) -> Result<Option<Vm>, Diagnostic> {
    let vm = model.vm.require(path!["vm"])?;
    cx.wait(engine.observe(vm))
        .await?
        .map_err(|error| diagnostics::engine(&error))
}

fn no_vm(engine: &Arc<dyn Engine>, vm: &str) -> Diagnostic {
    Diagnostic::error(format!("Host {:?} has no VM {vm:?}", engine.host()))
        .detail("Give the `id` of an ondol_vm on that host.")
        .at(path!["vm"])
}

/// Brings a guest to what is planned and returns the state that it shows then.
async fn converge(
    cx: &Operation<Cloud>,
    prior: Option<&Model>,
    planned: Model,
) -> Result<Model, Diagnostics> {
    let desired = planned.require_desired()?;
    let engine = engine_of(cx, &planned)?;
    let name = planned.vm.require(path!["vm"])?.clone();
    let vm = observe_vm(cx, &engine, &planned)
        .await?
        .ok_or_else(|| no_vm(&engine, &name))?;
    if vm.state == PowerState::Stopped {
        return Err(Diagnostic::error(format!(
            "The network of {} cannot be changed",
            planned.label()
        ))
        .detail("Its VM is stopped. Start it first: set power = \"running\" on the ondol_vm.")
        .at(path!["vm"])
        .into());
    }
    let way = Way::new(cx, &engine, &planned, &vm)?;
    let until = cx
        .deadline()
        .unwrap_or_else(|| Instant::now() + Duration::from_secs(300));
    let search = Search {
        label: planned.label(),
        candidates: candidates(prior, &desired, vm.first_boot_address),
        until,
    };
    let mut reached = way.reach(&search).await?;
    // A round more than one change needs: the second looks whether the first has held.
    for _ in 0..3 {
        let (calm, observed) = calm(&way, reached, &search).await?;
        reached = calm;
        let blockers = guest::blockers(&desired, &observed);
        if !blockers.is_empty() {
            return Err(blockers.iter().map(problem).collect());
        }
        let steps = guest::plan(&desired, &observed);
        if steps.is_empty() {
            return Ok(observed_state(planned, &desired, &observed));
        }
        if let Some(change) = new_change(&planned, &desired, &observed, &steps) {
            reached = change_over(&way, reached, &desired, &change, &planned, until).await?;
        }
        if let Some(script) = guest::direct(&steps) {
            reached
                .run("set what cannot cut the guest off", &script)
                .await?;
        }
    }
    let observed = reached.observe().await?;
    let left: Vec<String> = guest::plan(&desired, &observed)
        .iter()
        .map(ToString::to_string)
        .collect();
    if left.is_empty() {
        return Ok(observed_state(planned, &desired, &observed));
    }
    Err(Diagnostic::error(format!(
        "The network of {} does not stay as wanted",
        planned.label()
    ))
    .detail(format!(
        "Something on the guest works against it. Still to be done after three rounds: {}.",
        left.join("; ")
    ))
    .at(path!["ethernets"])
    .into())
}

fn new_change(
    planned: &Model,
    desired: &Desired,
    observed: &Observed,
    steps: &[Step],
) -> Option<guest::Change> {
    let id =
        ChangeId::new(Uuid::new_v4().to_string()).expect("a UUID is letters, digits and hyphens");
    let patience = Duration::from_secs(
        planned
            .confirm_timeout_seconds
            .unwrap_or(DEFAULT_CONFIRM_SECONDS),
    );
    guest::Change::of(desired, observed, steps, id, patience)
}

/// Begins a change and confirms it over the address that it gives; otherwise says what the guest did.
async fn change_over(
    way: &Way<'_>,
    reached: Reached,
    desired: &Desired,
    change: &guest::Change,
    planned: &Model,
    until: Instant,
) -> Result<Reached, Diagnostics> {
    begin(&reached, change).await?;
    let old = reached.address;
    let mut addresses = static_addresses(desired);
    if addresses.is_empty() {
        // DHCP alone: the old address may stay, or the hypervisor knows the new one.
        addresses.push(old);
        addresses.extend(way.engine_addresses().await);
    }
    let give_up = until.min(Instant::now() + change.rollback_after + Duration::from_secs(5));
    if addresses.contains(&old) {
        wait_until_applied(way, &reached, give_up).await?;
    }
    // A connection from before the change proves nothing about the network after it.
    reached.guest.forget().await;
    let reason = match confirm(way, &addresses, change, give_up).await {
        Ok(new) => return Ok(new),
        Err(Unreached::Stopped(diagnostic)) => return Err(diagnostic.into()),
        Err(Unreached::Unanswered(reason)) => reason,
    };
    let tried: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let outcome = after_rollback(way, planned, old, change).await;
    Err(Diagnostic::error(format!("The new network of {} was taken back", planned.label()))
        .detail(format!(
            "The guest did not answer on {} within {} s after the change: {reason}. {outcome} Check address, gateway and the network between.",
            tried.join(", "),
            change.rollback_after.as_secs(),
        ))
        .at(path!["ethernets"])
        .into())
}

/// On an address that stays, waits until the guest runs the new network; the old one would answer as well.
async fn wait_until_applied(
    way: &Way<'_>,
    reached: &Reached,
    give_up: Instant,
) -> Result<(), Diagnostic> {
    while Instant::now() < give_up {
        let answer = reached.status().await;
        match answer.map(|text| guest::parse_status(&text)) {
            Ok(Status::Pending { applied: false, .. }) => {
                way.sleep(Duration::from_millis(200)).await?
            }
            // Cut off: the change has arrived.
            Ok(_) | Err(_) => break,
        }
    }
    way.sleep(TAKING_EFFECT).await
}

/// Confirms a change over a connection that is opened after it. Says why, where the guest was not reached or took it back.
async fn confirm(
    way: &Way<'_>,
    addresses: &[IpAddr],
    change: &guest::Change,
    give_up: Instant,
) -> Result<Reached, Unreached> {
    loop {
        let new = way.reach_any(addresses, give_up).await?;
        let answer = new
            .try_run("confirm the network change", &guest::confirm(&change.id))
            .await;
        let reason = match answer.map(|text| guest::parse_status(&text)) {
            Ok(Status::Confirmed { .. }) => return Ok(new),
            Ok(Status::RolledBack { reason, .. }) => return Err(Unreached::Unanswered(reason)),
            Ok(other) => format!("the guest answered the confirmation with {other:?}"),
            // To say it twice is fine: the connection may have broken before or after the guest heard it.
            Err(error) => error.to_string(),
        };
        if Instant::now() >= give_up {
            return Err(Unreached::Unanswered(reason));
        }
        new.guest.forget().await;
        way.sleep(Duration::from_millis(300))
            .await
            .map_err(Unreached::Stopped)?;
    }
}

/// Waits until no change is under way on the guest, and says what it is like then. A change that an apply left when it was
/// killed is taken back by the guest itself, and the address that it was reached on may go with it.
async fn calm(
    way: &Way<'_>,
    mut reached: Reached,
    search: &Search,
) -> Result<(Reached, Observed), Diagnostics> {
    loop {
        match reached.observe().await {
            // The address that was asked may go while the guest settles. Asking changes nothing, so it is asked again elsewhere.
            Err(unobserved) if !unobserved.lost || Instant::now() >= search.until => {
                return Err(unobserved.into());
            }
            Err(_) => {}
            Ok(observed)
                if !matches!(
                    observed.status,
                    Status::Pending { .. } | Status::Settling { .. }
                ) =>
            {
                return Ok((reached, observed));
            }
            Ok(_) => {}
        }
        if Instant::now() >= search.until {
            return Err(Diagnostic::error(format!("The network of {} cannot be changed now", search.label))
                .detail("Another change of it is under way on the guest, and did not end in time. Run terraform apply again.")
                .at(path!["ethernets"])
                .into());
        }
        reached.guest.forget().await;
        way.sleep(Duration::from_secs(1)).await?;
        reached = way.reach(search).await?;
    }
}

async fn begin(reached: &Reached, change: &guest::Change) -> Result<(), Diagnostics> {
    let act = "begin the network change";
    let answer = match reached.try_run(act, &guest::begin(change)).await {
        Ok(answer) => answer,
        // Begun or not, the new address will tell.
        Err(ssh::Error::Lost { .. } | ssh::Error::Deadline { .. }) => return Ok(()),
        Err(error) => return Err(diagnostics::ssh(&error, act).into()),
    };
    guest::parse_begin(&change.id, &answer).map_err(|error| {
        Diagnostic::error("The guest did not take the network change")
            .detail(format!(
                "{} Nothing was changed on the guest.",
                diagnostics::sentence(&error.to_string())
            ))
            .at(path!["ethernets"])
            .into()
    })
}

/// Looks whether the guest came back where it was, and says so.
async fn after_rollback(
    way: &Way<'_>,
    planned: &Model,
    old: IpAddr,
    change: &guest::Change,
) -> String {
    let until = Instant::now() + change.rollback_after + Duration::from_secs(10);
    while let Ok(reached) = way.reach_any(&[old], until).await {
        match reached
            .status()
            .await
            .map(|text| guest::parse_status(&text))
        {
            Ok(Status::RolledBack { reason, .. }) => {
                return format!(
                    "The guest rolled it back by itself ({reason}) and answers on {old} as before."
                );
            }
            Ok(Status::Pending { .. } | Status::Settling { .. }) | Err(_) => {}
            Ok(other) => return format!("The guest answers on {old} as before ({other:?})."),
        }
        if Instant::now() >= until || way.sleep(Duration::from_millis(500)).await.is_err() {
            break;
        }
    }
    format!(
        "The guest {} rolls it back by itself, but did not answer on {old} yet.",
        planned.hostname.as_str().unwrap_or_default()
    )
}

/// Where the guest may answer, most likely first: where it was confirmed last or, if it never was, where it
/// boots first; and where it should be, because an apply that was cut short may have brought it there.
fn candidates(prior: Option<&Model>, desired: &Desired, first_boot: IpAddr) -> Vec<IpAddr> {
    let confirmed: Option<IpAddr> = prior.and_then(|prior| prior.address.known()?.parse().ok());
    let wanted = static_addresses(desired);
    match confirmed {
        Some(confirmed) => unique([confirmed].into_iter().chain(wanted).chain([first_boot])),
        None => unique([first_boot].into_iter().chain(wanted)),
    }
}

fn static_addresses(desired: &Desired) -> Vec<IpAddr> {
    match &desired.presence {
        Presence::Present(network) => network.addresses().map(|address| address.addr()).collect(),
        Presence::Absent => Vec::new(),
    }
}

/// How to get to one guest.
struct Way<'a> {
    cx: &'a Operation<Cloud>,
    engine: &'a Arc<dyn Engine>,
    vm: &'a Vm,
    target: Target,
}

/// Which guest is looked for, where, and for how long.
struct Search {
    label: String,
    candidates: Vec<IpAddr>,
    until: Instant,
}

/// A guest that answered, as itself, on an address.
struct Reached {
    guest: Guest,
    address: IpAddr,
    limits: Limits,
}

/// Why a guest's network was not read.
struct Unobserved {
    diagnostic: Diagnostic,
    /// The connection went, not the guest: asking again may help.
    lost: bool,
}

impl From<Unobserved> for Diagnostics {
    fn from(unobserved: Unobserved) -> Self {
        unobserved.diagnostic.into()
    }
}

enum Unreached {
    Stopped(Diagnostic),
    /// What each address answered.
    Unanswered(String),
}

impl<'a> Way<'a> {
    fn new(
        cx: &'a Operation<Cloud>,
        engine: &'a Arc<dyn Engine>,
        model: &Model,
        vm: &'a Vm,
    ) -> Result<Self, Diagnostic> {
        let ssh = model.ssh.require(path!["ssh"])?;
        let target = Target {
            address: SocketAddr::new(vm.first_boot_address, ssh.port.unwrap_or(DEFAULT_PORT)),
            user: ssh.user.require(path!["ssh", "user"])?.clone(),
            credentials: ssh.credentials(),
            host_key: ssh.host_key_policy()?,
        };
        Ok(Self {
            cx,
            engine,
            vm,
            target,
        })
    }

    async fn sleep(&self, duration: Duration) -> Result<(), Diagnostic> {
        Ok(self.cx.sleep(duration).await?)
    }

    fn guest(&self, address: IpAddr) -> Guest {
        let target = Target {
            address: SocketAddr::new(address, self.target.address.port()),
            ..self.target.clone()
        };
        self.cx
            .context()
            .ssh
            .guest(self.engine.network_scope(), target, self.engine.connector())
    }

    fn limits(&self, deadline: Duration) -> Limits {
        Limits::new(deadline, self.cx.stop())
    }

    async fn engine_addresses(&self) -> Vec<IpAddr> {
        self.engine
            .guest_addresses(&self.vm.id.to_string())
            .await
            .unwrap_or_default()
    }

    /// Reaches the guest on one of the candidates, or else where the hypervisor sees it.
    async fn reach(&self, search: &Search) -> Result<Reached, Diagnostics> {
        let mut candidates = search.candidates.clone();
        let refused_until = Instant::now() + BOOTING;
        loop {
            let errors = match self.race(&candidates).await {
                Ok(reached) => return Ok(reached),
                Err(errors) => errors,
            };
            if self.cx.stop().is_cancelled() {
                self.sleep(Duration::ZERO).await?;
            }
            let decisive = errors.iter().find(|(_, error)| !error.may_pass());
            let patient = match decisive {
                Some((_, ssh::Error::Refused { .. })) => Instant::now() < refused_until,
                Some(_) => false,
                None => true,
            };
            if !patient || Instant::now() + Duration::from_secs(1) > search.until {
                let act = format!("log in to the guest {}", search.label);
                return Err(match decisive {
                    Some((_, error)) => diagnostics::ssh(error, &act),
                    None => Diagnostic::error(format!("Could not {act}")).detail(format!(
                        "It runs, but did not answer on any of its addresses: {}. It is not taken to be gone. Look at its console and its network.",
                        listed(&errors)
                    )),
                }
                .into());
            }
            for address in self.engine_addresses().await {
                if !candidates.contains(&address) {
                    candidates.push(address);
                }
            }
            self.sleep(Duration::from_millis(300)).await?;
        }
    }

    /// Reaches the guest on one of these addresses and nowhere else.
    async fn reach_any(&self, addresses: &[IpAddr], until: Instant) -> Result<Reached, Unreached> {
        loop {
            let errors = match self.race(addresses).await {
                Ok(reached) => return Ok(reached),
                Err(errors) => errors,
            };
            if Instant::now() >= until {
                return Err(Unreached::Unanswered(listed(&errors)));
            }
            self.sleep(Duration::from_millis(200))
                .await
                .map_err(Unreached::Stopped)?;
        }
    }

    /// Tries all addresses, the first with a small head start; whichever answers as the guest first, wins.
    async fn race(&self, addresses: &[IpAddr]) -> Result<Reached, Vec<(IpAddr, ssh::Error)>> {
        let mut attempts = tokio::task::JoinSet::new();
        for (position, &address) in addresses.iter().enumerate() {
            let (guest, limits) = (
                self.guest(address),
                self.limits(LOGIN).connect_within(CONNECT),
            );
            let delay = STAGGER * u32::try_from(position).unwrap_or(u32::MAX);
            attempts.spawn(async move {
                tokio::time::sleep(delay).await;
                let outcome = guest.connection(&limits).await.map(drop);
                (address, guest, outcome)
            });
        }
        let mut errors = Vec::new();
        while let Some(finished) = attempts.join_next().await {
            match finished {
                Ok((address, guest, Ok(()))) => {
                    return Ok(Reached {
                        guest,
                        address,
                        limits: self.limits(COMMAND),
                    });
                }
                Ok((address, _, Err(error))) => errors.push((address, error)),
                Err(_) => {}
            }
        }
        Err(errors)
    }
}

fn listed(errors: &[(IpAddr, ssh::Error)]) -> String {
    errors
        .iter()
        .map(|(_, error)| error.to_string())
        .collect::<Vec<_>>()
        .join("; ")
}

/// Each address once, in this order.
fn unique(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique
}

impl Reached {
    /// How the last change stands. Asked while the network under the connection may go, so it does not wait long.
    async fn status(&self) -> Result<String, ssh::Error> {
        let limits = Limits {
            deadline: STATUS,
            ..self.limits.clone()
        };
        self.guest
            .root("ask how the change stands", &guest::status(), &limits)
            .await
    }

    async fn try_run(&self, act: &str, script: &str) -> Result<String, ssh::Error> {
        self.guest.root(act, script, &self.limits).await
    }

    async fn run(&self, act: &str, script: &str) -> Result<String, Diagnostic> {
        self.try_run(act, script)
            .await
            .map_err(|error| diagnostics::ssh(&error, act))
    }

    async fn observe(&self) -> Result<Observed, Unobserved> {
        let act = "read the guest's network";
        let text = self.try_run(act, guest::OBSERVE).await.map_err(|error| {
            let lost = matches!(error, ssh::Error::Lost { .. } | ssh::Error::Deadline { .. });
            let diagnostic = diagnostics::ssh(&error, act);
            Unobserved { diagnostic, lost }
        })?;
        guest::parse_observation(&text).map_err(|error| {
            let diagnostic = Diagnostic::error(format!("Could not {act}")).detail(format!(
                "{} answered what cannot be read: {error}.",
                self.guest.target()
            ));
            Unobserved {
                diagnostic,
                lost: false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_netplan::{Hostname, Link, OwnFile, RunningAddress, RunningRoute};

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn model() -> Model {
        Model {
            host: "srv-01".into(),
            vm: "7".into(),
            first_boot_address: "169.254.7.7".into(),
            hostname: "web-01".into(),
            ethernets: BTreeMap::from([(
                "enp0s3".to_owned(),
                Ethernet {
                    addresses: vec!["192.168.10.29/24".to_owned()].into(),
                    gateway4: "192.168.10.1".into(),
                    ..Ethernet::default()
                },
            )])
            .into(),
            ssh: Ssh {
                user: "ops".into(),
                port: 22.into(),
                host_key: KEY.into(),
                private_key_file: "/keys/id".into(),
                ..Ssh::default()
            }
            .into(),
            confirm_timeout_seconds: 30.into(),
            ..Model::default()
        }
    }

    fn ethernet(model: &mut Model) -> &mut Ethernet {
        model
            .ethernets
            .known_mut()
            .unwrap()
            .get_mut("enp0s3")
            .unwrap()
    }

    fn desired() -> Desired {
        model().desired().unwrap().unwrap()
    }

    /// A guest that is as `model` wants it.
    fn guest_as_wanted() -> Observed {
        let Presence::Present(network) = desired().presence else {
            unreachable!("present() is present")
        };
        let link = Link {
            index: 2,
            mac: "08:00:27:00:00:01".to_owned(),
            permanent_mac: None,
            mtu: 1500,
            carrier: true,
            addresses: vec![RunningAddress {
                net: "192.168.10.29/24".parse().unwrap(),
                dynamic: false,
            }],
            dns: None,
        };
        Observed {
            hostname: Hostname {
                running: "web-01".to_owned(),
                fixed: Some("web-01".to_owned()),
            },
            file: Some(OwnFile {
                text: guest::render(&network),
                mode: 0o600,
                uid: 0,
                gid: 0,
            }),
            links: BTreeMap::from([("enp0s3".to_owned(), link)]),
            routes: vec![RunningRoute {
                to: None,
                via: Some("192.168.10.1".parse().unwrap()),
                device: "enp0s3".to_owned(),
                metric: None,
                dynamic: false,
            }],
            ..Observed::default()
        }
    }

    #[test]
    fn everything_that_a_good_guest_shows_is_known_while_planning() {
        let planned = plan(model());
        assert_eq!(planned.address, "192.168.10.29".into());
        assert_eq!(
            planned.running_addresses,
            vec!["192.168.10.29/24".to_owned()].into()
        );
        assert_eq!(
            observed_state(planned.clone(), &desired(), &guest_as_wanted()),
            planned
        );
    }

    #[test]
    fn an_unknown_address_leaves_unknown_what_follows_from_it() {
        let mut unknown = model();
        ethernet(&mut unknown).addresses = Attr::Unknown;
        let planned = plan(unknown);
        assert!(
            planned.address.is_unknown()
                && planned.file_sha256.is_unknown()
                && planned.running_addresses.is_unknown()
        );
        assert_eq!(planned.drift, Vec::new().into());
    }

    #[test]
    fn what_differs_on_the_guest_differs_in_the_state() {
        type Damage = fn(&mut Observed);
        type Seen = fn(&Model) -> bool;
        let cases: [(Damage, Seen); 5] = [
            (
                |guest| guest.hostname.running = "evil".to_owned(),
                |state| state.hostname == "evil".into(),
            ),
            (
                |guest| guest.hostname.fixed = Some("evil".to_owned()),
                |state| state.hostname == "evil".into(),
            ),
            (
                |guest| guest.file = None,
                |state| state.file_sha256.is_null(),
            ),
            (
                |guest| guest.file.as_mut().unwrap().mode = 0o644,
                |state| state.drift.known().unwrap()[0].contains("is 0644"),
            ),
            (
                |guest| {
                    guest.links.get_mut("enp0s3").unwrap().addresses[0].net =
                        "192.168.10.99/24".parse().unwrap()
                },
                |state| state.running_addresses == vec!["192.168.10.99/24".to_owned()].into(),
            ),
        ];
        for (position, (damage, seen)) in cases.into_iter().enumerate() {
            let mut guest = guest_as_wanted();
            damage(&mut guest);
            let state = observed_state(plan(model()), &desired(), &guest);
            assert!(seen(&state), "{position}: {state:?}");
            assert!(!state.drift.known().unwrap().is_empty(), "{position}");
        }
    }

    #[test]
    fn a_guest_is_looked_for_where_it_was_confirmed_and_a_new_one_where_it_boots() {
        let (first_boot, wanted): (IpAddr, IpAddr) = (
            "169.254.7.7".parse().unwrap(),
            "192.168.10.29".parse().unwrap(),
        );
        assert_eq!(
            candidates(None, &desired(), first_boot),
            [first_boot, wanted]
        );
        let prior = Model {
            address: "192.168.10.77".into(),
            ..model()
        };
        assert_eq!(
            candidates(Some(&prior), &desired(), first_boot),
            ["192.168.10.77".parse().unwrap(), wanted, first_boot]
        );
        let same = plan(model());
        assert_eq!(
            candidates(Some(&same), &desired(), first_boot),
            [wanted, first_boot]
        );
    }

    fn problems(model: &Model) -> Vec<String> {
        let mut diagnostics = Diagnostics::new();
        NetplanResource::validate(model, &mut diagnostics);
        diagnostics
            .iter()
            .map(|diagnostic| diagnostic.path.to_string())
            .collect()
    }

    #[test]
    fn mistakes_are_named_where_they_stand() {
        assert_eq!(problems(&model()), [""; 0]);
        let with = |change: fn(&mut Model)| {
            let mut model = model();
            change(&mut model);
            problems(&model)
        };
        let ssh = |change: fn(&mut Ssh)| {
            let mut model = model();
            change(model.ssh.known_mut().unwrap());
            problems(&model)
        };
        assert_eq!(
            with(|m| ethernet(m).addresses = vec!["192.168.10.29".to_owned()].into()),
            [
                "ethernets[\"enp0s3\"].addresses[0]",
                "ethernets[\"enp0s3\"].gateway4"
            ]
        );
        assert_eq!(with(|m| m.hostname = "Web 01".into()), ["hostname"]);
        assert_eq!(
            with(|m| m.first_boot_address = "web".into()),
            ["first_boot_address"]
        );
        assert_eq!(ssh(|ssh| ssh.host_key = Attr::Null), ["ssh.host_key"]);
        assert_eq!(
            ssh(|ssh| ssh.host_key = "ssh-ed25519 junk".into()),
            ["ssh.host_key"]
        );
        assert_eq!(ssh(|ssh| ssh.host_key = Attr::Unknown), [""; 0]);
        assert_eq!(ssh(|ssh| ssh.private_key_file = Attr::Null), ["ssh"]);
        assert_eq!(ssh(|ssh| ssh.private_key_file = Attr::Unknown), [""; 0]);
    }

    #[test]
    fn credentials_are_tried_in_the_documented_order() {
        let ssh = Ssh {
            password: "p".into(),
            agent: true.into(),
            private_key: "text".into(),
            private_key_file: "/keys/id".into(),
            private_key_passphrase: "open".into(),
            ..Ssh::default()
        };
        let passphrase = Some(Secret::new("open"));
        assert_eq!(
            ssh.credentials(),
            [
                Credential::KeyFile {
                    path: "/keys/id".into(),
                    passphrase: passphrase.clone()
                },
                Credential::Key {
                    text: Secret::new("text"),
                    passphrase
                },
                Credential::Agent { socket: None },
                Credential::Password(Secret::new("p")),
            ]
        );
    }
}
