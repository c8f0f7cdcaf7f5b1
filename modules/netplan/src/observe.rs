//! What a guest's network is now: a shell script that looks, and the parser of what it prints.
//!
//! The script only reads, needs root for the mode-0600 files, and runs wherever there is a POSIX shell, coreutils and iproute2.
//! It decides nothing; the output ends with a line `end`, so that a cut connection is not taken for an empty guest.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use ipnet::IpNet;
use serde::Deserialize;

use crate::status::{Status, parse_status_lines};

/// Name of our file in `/etc/netplan`, and of the candidate in `/run/netplan` that shadows it.
pub const FILE_NAME: &str = "60-ondol.yaml";
/// Our file.
pub const FILE: &str = "/etc/netplan/60-ondol.yaml";
/// Where files that stood in the way are kept.
pub const REPLACED: &str = "/var/lib/ondol/netplan/replaced";

/// Prints everything that `parse_observation` reads. Run as root: `sudo -n sh -s`, script on standard input.
pub const OBSERVE: &str = concat!(
    include_str!("scripts/status.sh"),
    include_str!("scripts/observe.sh")
);

/// A guest's network as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub hostname: Hostname,
    /// Our file, if it is there.
    pub file: Option<OwnFile>,
    /// Other files that netplan reads, in its order of reading.
    pub others: Vec<OtherFile>,
    /// Names of files moved aside earlier.
    pub replaced: Vec<String>,
    /// By name; the loopback is left out.
    pub links: BTreeMap<String, Link>,
    /// The main table without what the kernel adds by itself.
    pub routes: Vec<RunningRoute>,
    /// The last change that was begun since the guest booted.
    pub status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hostname {
    /// What the kernel says.
    pub running: String,
    /// What `/etc/hostname` says; holds after a reboot.
    pub fixed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFile {
    pub text: String,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A netplan file that is not ours. Its text is not kept: it may hold Wi-Fi passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherFile {
    pub path: String,
    /// `Err` when it is no netplan YAML.
    pub definitions: Result<Vec<Definition>, String>,
}

/// An interface that another file defines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    pub id: String,
    pub matched: bool,
    pub match_name: Option<String>,
    pub match_macaddress: Option<String>,
    pub set_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    /// Lower case.
    pub mac: String,
    /// The hardware's own address where it is overridden. Lower case.
    pub permanent_mac: Option<String>,
    pub mtu: u32,
    pub carrier: bool,
    pub addresses: Vec<RunningAddress>,
    /// As systemd-networkd has them; `None` when it does not manage the link.
    pub dns: Option<Dns>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAddress {
    pub net: IpNet,
    /// From DHCP or a router; nobody wrote it in a file.
    pub dynamic: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningRoute {
    /// `None`: default.
    pub to: Option<IpNet>,
    pub via: Option<IpAddr>,
    pub device: String,
    pub metric: Option<u32>,
    /// From DHCP or a router.
    pub dynamic: bool,
}

/// The observation could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObservationError {
    #[error("the guest's answer is not an observation; it begins with {0:?}")]
    NotOne(String),
    #[error("the guest's answer breaks off; the last line is {0:?}")]
    Truncated(String),
    #[error("the guest says: {0}")]
    Guest(String),
    #[error("the guest's answer has a line that cannot be read ({reason}): {line:?}")]
    Line { line: String, reason: String },
}

/// Reads what `OBSERVE` printed.
pub fn parse_observation(text: &str) -> Result<Observed, ObservationError> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if first != "ondol-netplan-observation 1" {
        return Err(ObservationError::NotOne(first.chars().take(120).collect()));
    }
    let mut observed = Observed::default();
    let mut dns: BTreeMap<u32, Dns> = BTreeMap::new();
    let mut status = Vec::new();
    let mut last = first;
    for line in lines {
        last = line;
        if line == "end" {
            for link in observed.links.values_mut() {
                link.dns = dns.remove(&link.index);
            }
            observed.status = parse_status_lines(&status);
            return Ok(observed);
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let wrong = |reason: String| ObservationError::Line {
            line: line.chars().take(200).collect(),
            reason,
        };
        match word {
            "error" => return Err(ObservationError::Guest(rest.to_owned())),
            "hostname-running" => observed.hostname.running = rest.to_owned(),
            "hostname-static" => {
                observed.hostname.fixed = (!rest.is_empty()).then(|| rest.to_owned());
            }
            "file" => file_line(rest, &mut observed).map_err(wrong)?,
            "replaced" => observed.replaced.push(rest.to_owned()),
            "links" => observed.links = links(rest).map_err(wrong)?,
            "routes4" | "routes6" => observed
                .routes
                .extend(routes(rest, word == "routes4").map_err(wrong)?),
            "networkd" => {
                let (index, state) = networkd(rest).map_err(wrong)?;
                dns.insert(index, state);
            }
            "status" => status.push(rest),
            _ => return Err(wrong("unknown word".to_owned())),
        }
    }
    Err(ObservationError::Truncated(
        last.chars().take(120).collect(),
    ))
}

/// `MODE UID GID BASE64 PATH`; the text of an empty file is `-`.
fn file_line(rest: &str, observed: &mut Observed) -> Result<(), String> {
    let mut words = rest.splitn(5, ' ');
    let mut word = || words.next().ok_or("too few words".to_owned());
    let mode = u32::from_str_radix(word()?, 8).map_err(|e| format!("mode: {e}"))?;
    let uid = word()?.parse().map_err(|e| format!("uid: {e}"))?;
    let gid = word()?.parse().map_err(|e| format!("gid: {e}"))?;
    let text = decode(word()?)?;
    let path = word()?;
    if path == FILE {
        observed.file = Some(OwnFile {
            text,
            mode,
            uid,
            gid,
        });
    } else {
        observed.others.push(OtherFile {
            path: path.to_owned(),
            definitions: definitions(&text),
        });
    }
    Ok(())
}

fn decode(word: &str) -> Result<String, String> {
    if word == "-" {
        return Ok(String::new());
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(word)
        .map_err(|error| format!("base64: {error}"))?;
    // A file of ours is always UTF-8; one that is not differs from ours, which is all that matters.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Interfaces that a netplan file defines, whatever their kind.
fn definitions(text: &str) -> Result<Vec<Definition>, String> {
    let value: serde_json::Value =
        serde_norway::from_str(text).map_err(|error| error.to_string())?;
    let Some(network) = value.get("network").and_then(|v| v.as_object()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for kind in network.values().filter_map(|v| v.as_object()) {
        for (id, body) in kind {
            let text = |value: Option<&serde_json::Value>| {
                value.and_then(|v| v.as_str()).map(str::to_owned)
            };
            let matches = body.get("match");
            found.push(Definition {
                id: id.clone(),
                matched: matches.is_some_and(|m| !m.is_null()),
                match_name: text(matches.and_then(|m| m.get("name"))),
                match_macaddress: text(matches.and_then(|m| m.get("macaddress")))
                    .map(|mac| mac.to_ascii_lowercase()),
                set_name: text(body.get("set-name")),
            });
        }
    }
    Ok(found)
}

#[derive(Deserialize)]
struct IpLink {
    ifindex: u32,
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    address: String,
    permaddr: Option<String>,
    #[serde(default)]
    addr_info: Vec<IpAddress>,
}

#[derive(Deserialize)]
struct IpAddress {
    family: String,
    local: IpAddr,
    prefixlen: u8,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    dynamic: bool,
    #[serde(default)]
    mngtmpaddr: bool,
}

fn links(json: &str) -> Result<BTreeMap<String, Link>, String> {
    let list: Vec<IpLink> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut links = BTreeMap::new();
    for link in list {
        if link.flags.iter().any(|flag| flag == "LOOPBACK") {
            continue;
        }
        let mut addresses = Vec::new();
        for address in link.addr_info {
            // fe80::/10 is the kernel's or networkd's own doing.
            if address.family == "inet6" && address.scope == "link" {
                continue;
            }
            addresses.push(RunningAddress {
                net: IpNet::new(address.local, address.prefixlen).map_err(|e| e.to_string())?,
                dynamic: address.dynamic || address.mngtmpaddr,
            });
        }
        links.insert(
            link.ifname,
            Link {
                index: link.ifindex,
                mac: link.address.to_ascii_lowercase(),
                permanent_mac: link.permaddr.map(|mac| mac.to_ascii_lowercase()),
                mtu: link.mtu,
                carrier: link.flags.iter().any(|flag| flag == "LOWER_UP"),
                addresses,
                dns: None,
            },
        );
    }
    Ok(links)
}

#[derive(Deserialize)]
struct IpRoute {
    dst: String,
    gateway: Option<IpAddr>,
    dev: Option<String>,
    metric: Option<u32>,
    #[serde(default)]
    protocol: String,
}

fn routes(json: &str, v4: bool) -> Result<Vec<RunningRoute>, String> {
    let list: Vec<IpRoute> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut routes = Vec::new();
    for route in list {
        // A multipath route has no device of its own: it is none of ours.
        let Some(device) = route.dev else { continue };
        if route.protocol == "kernel" {
            continue;
        }
        let to = match route.dst.as_str() {
            "default" => None,
            text => Some(
                text.parse::<IpNet>()
                    .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| format!("{text:?} is no destination"))?,
            ),
        };
        // IPv6 shows the kernel's default metric where nobody gave one.
        let metric = route.metric.filter(|metric| v4 || *metric != 1024);
        routes.push(RunningRoute {
            to,
            via: route.gateway,
            device,
            metric,
            dynamic: matches!(route.protocol.as_str(), "dhcp" | "ra"),
        });
    }
    Ok(routes)
}

/// `INDEX BASE64` of networkd's state file of a link. The file calls itself private, but it is the only source that needs
/// neither D-Bus nor a particular version of networkctl, and these two keys have been in it since systemd 209.
fn networkd(rest: &str) -> Result<(u32, Dns), String> {
    let (index, text) = rest.split_once(' ').ok_or("too few words")?;
    let index = index.parse().map_err(|error| format!("index: {error}"))?;
    let text = decode(text)?;
    let values = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    Ok((
        index,
        Dns {
            // A server may carry a port or a TLS name (`192.0.2.1#name`); netplan writes neither.
            servers: values("DNS")
                .iter()
                .filter_map(|text| text.split('#').next()?.parse().ok())
                .collect(),
            search: values("DOMAINS"),
        },
    ))
}
