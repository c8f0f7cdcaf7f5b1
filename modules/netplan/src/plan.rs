//! What has to be done to a guest, decided without touching it.

use std::fmt;
use std::net::IpAddr;

use ondol_host::names::check_hostname;

use crate::config::{Config, Interface, Network, Problem, Segment, interface_path};
use crate::observe::{Definition, FILE, Link, Observed, OtherFile};
use crate::render::render;

/// What a guest's network should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// `None` leaves the host name alone.
    pub hostname: Option<String>,
    pub presence: Presence,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    Present(Network),
    /// Our file is gone and what it replaced is back. What runs is left running until the next boot.
    Absent,
}

impl Desired {
    /// Checks what the user gave. Paths of problems begin with `ethernets` or `hostname`.
    pub fn present(config: &Config, name: Option<&str>) -> Result<Self, Vec<Problem>> {
        let network = Network::try_from(config);
        let name_problem = name
            .and_then(|name| check_hostname(name).err())
            .map(|reason| Problem {
                path: vec![Segment::Attribute("hostname")],
                reason,
            });
        match (network, name_problem) {
            (Ok(network), None) => Ok(Self {
                hostname: name.map(str::to_owned),
                presence: Presence::Present(network),
            }),
            (network, problem) => {
                let mut problems = network.err().unwrap_or_default();
                problems.extend(problem);
                Err(problems)
            }
        }
    }

    /// The file is to go.
    pub fn absent() -> Self {
        Self {
            hostname: None,
            presence: Presence::Absent,
        }
    }
}

/// One act. Its `Display` is its diff line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    SetHostname {
        name: String,
        /// Running and static, for the reader.
        from: (String, Option<String>),
    },
    /// The file defines an interface of ours. It goes to `/var/lib/ondol/netplan/replaced`.
    MoveAside {
        path: String,
        interfaces: Vec<String>,
    },
    /// The file's text.
    WriteFile {
        before: Option<String>,
        text: String,
    },
    /// Mode 0600, owner root.
    Protect {
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// What runs is not what the file will say.
    Apply {
        because: Vec<String>,
    },
    Restore {
        name: String,
    },
    RemoveFile,
}

impl Step {
    /// Whether the step can cut the guest off and so belongs into a change that rolls itself back.
    pub fn is_risky(&self) -> bool {
        matches!(
            self,
            Self::MoveAside { .. } | Self::WriteFile { .. } | Self::Apply { .. }
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetHostname {
                name,
                from: (running, fixed),
            } => match fixed {
                Some(fixed) if fixed == running => {
                    write!(f, "set hostname to {name:?} (is {running:?})")
                }
                Some(fixed) => write!(
                    f,
                    "set hostname to {name:?} (runs as {running:?}, /etc/hostname says {fixed:?})"
                ),
                None => write!(
                    f,
                    "set hostname to {name:?} (runs as {running:?}, /etc/hostname is missing)"
                ),
            },
            Self::MoveAside { path, interfaces } => {
                write!(
                    f,
                    "move {path} aside (it defines {})",
                    interfaces.join(", ")
                )
            }
            Self::WriteFile { before: None, .. } => write!(f, "create {FILE}"),
            Self::WriteFile {
                before: Some(before),
                text,
            } => {
                write!(f, "change {FILE}:")?;
                for line in changed_lines(before, text) {
                    write!(f, " [{line}]")?;
                }
                Ok(())
            }
            Self::Protect { mode, uid, gid } => {
                write!(
                    f,
                    "set {FILE} to mode 0600, owner root (is {mode:04o}, {uid}:{gid})"
                )
            }
            Self::Apply { because } => write!(f, "apply: {}", because.join("; ")),
            Self::Restore { name } => write!(f, "restore /etc/netplan/{name}"),
            Self::RemoveFile => write!(f, "remove {FILE}"),
        }
    }
}

/// Lines that are only on one side, `-` before, `+` after. Good enough for files of this size; not a minimal diff.
fn changed_lines(before: &str, after: &str) -> Vec<String> {
    let before: Vec<&str> = before.lines().collect();
    let after: Vec<&str> = after.lines().collect();
    let same_head = before
        .iter()
        .zip(&after)
        .take_while(|(a, b)| a == b)
        .count();
    let same_tail = before[same_head..]
        .iter()
        .rev()
        .zip(after[same_head..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let minus = before[same_head..before.len() - same_tail]
        .iter()
        .map(|line| format!("- {}", line.trim()));
    let plus = after[same_head..after.len() - same_tail]
        .iter()
        .map(|line| format!("+ {}", line.trim()));
    minus.chain(plus).collect()
}

/// What stands against the desired state on this very guest. Nothing may be done while this is not empty.
pub fn blockers(desired: &Desired, observed: &Observed) -> Vec<Problem> {
    let Presence::Present(network) = &desired.presence else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    for (key, interface) in &network.interfaces {
        if link_of(key, interface, observed).is_none() && interface.optional != Some(true) {
            let known: Vec<&str> = observed.links.keys().map(String::as_str).collect();
            problems.push(Problem {
                path: vec![
                    Segment::Attribute("ethernets"),
                    Segment::Key(key.clone()),
                ],
                reason: format!(
                    "the guest has no such interface; it has {} (`optional` allows one that comes later)",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ),
            });
        }
    }
    for other in &observed.others {
        let Ok(definitions) = &other.definitions else {
            continue;
        };
        let (ours, foreign): (Vec<_>, Vec<_>) = definitions
            .iter()
            .partition(|definition| defines_ours(definition, network, observed));
        let Some(first) = ours.first() else { continue };
        let path = interface_path_of(&first.id);
        if other.path.starts_with("/lib/") || other.path.starts_with("/usr/lib/") {
            problems.push(Problem {
                path,
                reason: format!(
                    "{} defines it too and belongs to a package; remove that package's definition first",
                    other.path
                ),
            });
        } else if let Some(foreign) = foreign.first() {
            problems.push(Problem {
                path,
                reason: format!(
                    "{} defines it too, and also {}, which would be lost: add {} to `ethernets` or take it out of that file",
                    other.path, foreign.id, foreign.id
                ),
            });
        }
    }
    problems
}

fn interface_path_of(name: &str) -> Vec<Segment> {
    let mut path = interface_path(name, "");
    path.truncate(2);
    path
}

/// The steps, in order. Empty when the guest is as it should be.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(name) = &desired.hostname
        && (observed.hostname.running != *name || observed.hostname.fixed.as_ref() != Some(name))
    {
        steps.push(Step::SetHostname {
            name: name.clone(),
            from: (
                observed.hostname.running.clone(),
                observed.hostname.fixed.clone(),
            ),
        });
    }
    match &desired.presence {
        Presence::Present(network) => present(network, observed, &mut steps),
        Presence::Absent => {
            // First what replaces us, then we: a power cut between the two leaves the guest with a network.
            steps.extend(
                observed
                    .replaced
                    .iter()
                    .map(|name| Step::Restore { name: name.clone() }),
            );
            if observed.file.is_some() {
                steps.push(Step::RemoveFile);
            }
        }
    }
    steps
}

fn present(network: &Network, observed: &Observed, steps: &mut Vec<Step>) {
    for other in &observed.others {
        let interfaces = ours_in(other, network, observed);
        if !interfaces.is_empty() {
            steps.push(Step::MoveAside {
                path: other.path.clone(),
                interfaces,
            });
        }
    }
    let text = render(network);
    match &observed.file {
        Some(file) if file.text == text => {
            if (file.mode, file.uid, file.gid) != (0o600, 0, 0) {
                steps.push(Step::Protect {
                    mode: file.mode,
                    uid: file.uid,
                    gid: file.gid,
                });
            }
        }
        file => steps.push(Step::WriteFile {
            before: file.as_ref().map(|file| file.text.clone()),
            text,
        }),
    }
    let because = running_differences(network, observed);
    if !because.is_empty() {
        steps.push(Step::Apply { because });
    }
}

fn ours_in(other: &OtherFile, network: &Network, observed: &Observed) -> Vec<String> {
    other
        .definitions
        .iter()
        .flatten()
        .filter(|definition| defines_ours(definition, network, observed))
        .map(|definition| definition.id.clone())
        .collect()
}

fn defines_ours(definition: &Definition, network: &Network, observed: &Observed) -> bool {
    network.interfaces.iter().any(|(key, interface)| {
        if definition.id == *key {
            return true;
        }
        let name = device_name(key, interface, observed);
        if definition.set_name.as_deref() == Some(name) {
            return true;
        }
        if !definition.matched {
            return definition.id == name;
        }
        let Some(link) = observed.links.get(name) else {
            return false;
        };
        definition
            .match_name
            .as_ref()
            .is_none_or(|pattern| wildcard(pattern, name))
            && definition
                .match_macaddress
                .as_ref()
                .is_none_or(|mac| has_mac(link, mac))
            && (definition.match_name.is_some() || definition.match_macaddress.is_some())
    })
}

/// The device that an entry of the configuration means, as it is called now.
pub(crate) fn link_of<'a>(
    key: &str,
    interface: &Interface,
    observed: &'a Observed,
) -> Option<(&'a str, &'a Link)> {
    let by_name = |name: &str| {
        observed
            .links
            .get_key_value(name)
            .map(|(name, link)| (name.as_str(), link))
    };
    if interface.match_name.is_none() && interface.match_macaddress.is_none() {
        return by_name(key);
    }
    if let Some(found) = interface.set_name.as_deref().and_then(by_name) {
        return Some(found);
    }
    observed
        .links
        .iter()
        .find(|(name, link)| {
            interface
                .match_name
                .as_ref()
                .is_none_or(|pattern| wildcard(pattern, name))
                && interface
                    .match_macaddress
                    .as_ref()
                    .is_none_or(|mac| has_mac(link, mac))
        })
        .map(|(name, link)| (name.as_str(), link))
}

fn device_name<'a>(key: &'a str, interface: &'a Interface, observed: &'a Observed) -> &'a str {
    link_of(key, interface, observed).map_or(key, |(name, _)| name)
}

fn has_mac(link: &Link, mac: &str) -> bool {
    link.mac == mac || link.permanent_mac.as_deref() == Some(mac)
}

/// `*` and `?`, as netplan's `match: name:` has them.
fn wildcard(pattern: &str, name: &str) -> bool {
    fn matches(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..]))
            }
            (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
            (Some(a), Some(b)) if a == b => matches(&pattern[1..], &name[1..]),
            _ => false,
        }
    }
    matches(pattern.as_bytes(), name.as_bytes())
}

fn running_differences(network: &Network, observed: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    for (key, interface) in &network.interfaces {
        let Some((device, link)) = link_of(key, interface, observed) else {
            continue;
        };
        // networkd configures an interface only once it has a carrier; without one there is nothing to compare.
        if !link.carrier && interface.optional == Some(true) {
            continue;
        }
        interface_differences(device, link, interface, observed, &mut found);
    }
    found
}

fn interface_differences(
    device: &str,
    link: &Link,
    interface: &Interface,
    observed: &Observed,
    found: &mut Vec<String>,
) {
    if let Some(name) = interface.set_name.as_deref().filter(|name| *name != device) {
        found.push(format!("{device} should be called {name}"));
    }
    if let Some(mac) = interface
        .macaddress
        .as_ref()
        .filter(|mac| **mac != link.mac)
    {
        found.push(format!(
            "{device} has hardware address {}, not {mac}",
            link.mac
        ));
    }
    if let Some(mtu) = interface.mtu.filter(|mtu| *mtu != link.mtu) {
        found.push(format!("{device} has mtu {}, not {mtu}", link.mtu));
    }
    for wanted in &interface.addresses {
        if !link.addresses.iter().any(|running| running.net == *wanted) {
            found.push(format!("{device} lacks address {wanted}"));
        }
    }
    for running in link.addresses.iter().filter(|running| !running.dynamic) {
        if !interface.addresses.contains(&running.net) {
            found.push(format!("{device} has address {} as well", running.net));
        }
    }
    // An address that came by DHCP stays with its lease even after DHCP is switched off in the file.
    for running in link.addresses.iter().filter(|running| running.dynamic) {
        if running.net.addr().is_ipv4() && interface.dhcp4 != Some(true) {
            found.push(format!("{device} still has {} by DHCP", running.net));
        }
    }
    let routes: Vec<_> = observed
        .routes
        .iter()
        .filter(|route| route.device == device)
        .collect();
    for wanted in &interface.routes {
        let there = routes.iter().any(|route| {
            route.to == wanted.to
                && route.via == Some(wanted.via)
                && wanted
                    .metric
                    .is_none_or(|metric| route.metric == Some(metric))
        });
        if !there {
            found.push(format!("{device} lacks route {wanted}"));
        }
    }
    for route in routes
        .iter()
        .filter(|route| route.to.is_none() && !route.dynamic)
    {
        let wanted = interface
            .routes
            .iter()
            .any(|wanted| wanted.to.is_none() && Some(wanted.via) == route.via);
        if !wanted && let Some(via) = route.via {
            found.push(format!("{device} has a default route via {via} as well"));
        }
    }
    dns_differences(device, link, interface, found);
}

fn dns_differences(device: &str, link: &Link, interface: &Interface, found: &mut Vec<String>) {
    let dns = link.dns.clone().unwrap_or_default();
    let (servers, search) = (&interface.nameservers, &interface.search);
    // A DHCP server's name servers stand beside ours.
    let dynamic = interface.dhcp4 == Some(true) || interface.dhcp6 == Some(true);
    let servers_differ = if dynamic {
        servers.iter().any(|server| !dns.servers.contains(server))
    } else {
        *servers != dns.servers
    };
    if servers_differ {
        found.push(format!(
            "{device} uses name servers [{}], not [{}]",
            join(&dns.servers),
            join(servers)
        ));
    }
    let search_differs = if dynamic {
        search.iter().any(|domain| !dns.search.contains(domain))
    } else {
        *search != dns.search
    };
    if search_differs {
        found.push(format!(
            "{device} searches [{}], not [{}]",
            dns.search.join(", "),
            search.join(", ")
        ));
    }
}

fn join(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests;
