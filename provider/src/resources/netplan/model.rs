//! What Terraform sees of `ondol_netplan`, and what follows from it without asking anyone.

use std::collections::BTreeMap;

use ondol_netplan as guest;
use ondol_netplan::{Config, Desired, Observed, Presence, Segment, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tfplugin::{Attr, Diagnostic, Diagnostics, Key, Path, Timeouts, attribute};

use super::ssh::Ssh;
use crate::diagnostics;

pub(super) const DEFAULT_CONFIRM_SECONDS: u64 = 30;

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
    pub(super) fn desired(&self) -> Option<Result<Desired, Diagnostics>> {
        let config = self.config()?;
        let hostname = self.hostname.known()?;
        Some(
            Desired::present(&config, Some(hostname))
                .map_err(|problems| problems.iter().map(problem).collect()),
        )
    }

    pub(super) fn require_desired(&self) -> Result<Desired, Diagnostics> {
        self.desired().unwrap_or_else(|| {
            Err(Diagnostic::error(format!(
                "The network of {} is not fully described",
                self.label()
            ))
            .detail("An attribute has no value at apply time. This is a bug in the provider.")
            .into())
        })
    }

    pub(super) fn label(&self) -> String {
        let name = self.hostname.as_str().or(self.vm.as_str()).unwrap_or("?");
        format!("{name:?} on host {:?}", self.host.as_str().unwrap_or("?"))
    }
}

/// `Some(None)` is a value that is not given, `None` one that is not known.
pub(super) fn given<T: Clone>(value: &Attr<T>) -> Option<Option<T>> {
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
pub(super) fn problem(problem: &guest::Problem) -> Diagnostic {
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
pub(super) struct Settled {
    pub(super) address: Option<String>,
    running_addresses: Vec<String>,
    file_sha256: String,
}

pub(super) fn settled(desired: &Desired) -> Settled {
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

pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(super) fn plan(mut planned: Model) -> Model {
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
pub(super) fn observed_state(mut state: Model, desired: &Desired, observed: &Observed) -> Model {
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
pub(super) fn shown_hostname(wanted: Option<&str>, observed: &Observed) -> String {
    if Some(observed.hostname.running.as_str()) != wanted {
        return observed.hostname.running.clone();
    }
    observed.hostname.fixed.clone().unwrap_or_default()
}

pub(super) fn running_addresses(desired: &Desired, observed: &Observed) -> Vec<String> {
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
