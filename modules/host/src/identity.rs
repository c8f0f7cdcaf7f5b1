//! `host_identity`: who a machine is: host name, `/etc/hosts`, machine-id, time zone.
//!
//! Files and one system call; no D-Bus and no hostnamectl, so that it works in a container and on a machine whose services are down. It does not
//! touch the network (that is `netplan`) and does not restart anything.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::Context as _;
use ondol_kit::{Invalid, Module, Notices, TextDiff};
use ondol_machine::file;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::names::{check_domain_name, check_hostname};

mod hosts;

use hosts::{contradictions, with_hosts};

/// Give a machine its host name, C(/etc/hosts), machine-id and time zone
///
/// What is left out is left alone. Works without D-Bus, also in a container. The host name is set at once and for the next boot.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Host name, static and running.
    hostname: Option<String>,
    /// Domain that completes names without a dot in C(/etc/hosts).
    domain: Option<String>,
    /// Names and their addresses for C(/etc/hosts), usually every machine of the inventory. Debian's line C(127.0.1.1) for the machine's own name
    /// goes if the name is among them: a cluster member must not take itself for the loopback.
    hosts: Option<BTreeMap<String, String>>,
    /// How much of C(/etc/hosts) is managed.
    #[serde(default)]
    hosts_scope: HostsScope,
    /// Machine-ids that other machines have; an empty list if there are none to know of. If given, the machine-id is made anew when it is missing,
    /// malformed or among them.
    machine_ids_taken: Option<Vec<String>>,
    /// Time zone, as its path below C(/usr/share/zoneinfo).
    timezone: Option<String>,
}

/// How much of `/etc/hosts` is ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostsScope {
    /// A marked block; other lines stay.
    #[default]
    Block,
    /// The file; other lines go.
    Whole,
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    hostname: Option<String>,
    hosts: Option<Hosts>,
    machine_ids_taken: Option<Vec<String>>,
    timezone: Option<String>,
}

/// Lines of `/etc/hosts`, sorted by address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hosts {
    scope: HostsScope,
    /// Address, then its names, the full one first.
    lines: Vec<(IpAddr, Vec<String>)>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if let Some(name) = &params.hostname {
            check_hostname(name).map_err(|reason| Invalid::new("hostname", reason))?;
        }
        if let Some(domain) = &params.domain {
            check_domain_name(domain).map_err(|reason| Invalid::new("domain", reason))?;
        }
        let hosts = match params.hosts {
            Some(map) => Some(Hosts {
                scope: params.hosts_scope,
                lines: host_lines(map, params.domain.as_deref())?,
            }),
            None => None,
        };
        if let Some(zone) = &params.timezone
            && !zone.split('/').all(is_zone_part)
        {
            return Err(Invalid::new(
                "timezone",
                format!("{zone:?} is not the name of a time zone such as Asia/Seoul"),
            ));
        }
        let taken = params.machine_ids_taken.map(|ids| {
            ids.iter()
                .map(|id| id.trim().replace('-', "").to_ascii_lowercase())
                .collect()
        });
        Ok(Self {
            hostname: params.hostname,
            hosts,
            machine_ids_taken: taken,
            timezone: params.timezone,
        })
    }
}

/// Also keeps the path below the directory of zones.
fn is_zone_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b))
}

fn host_lines(
    map: BTreeMap<String, String>,
    domain: Option<&str>,
) -> Result<Vec<(IpAddr, Vec<String>)>, Invalid> {
    let mut lines: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (name, address) in map {
        let at = || format!("hosts.{name}");
        check_domain_name(&name).map_err(|reason| Invalid::new(at(), reason))?;
        let parsed: IpAddr = address
            .parse()
            .map_err(|_| Invalid::new(at(), format!("{address:?} is not an address")))?;
        let names = lines.entry(parsed).or_default();
        if let Some(domain) = domain.filter(|_| !name.contains('.')) {
            names.push(format!("{name}.{domain}"));
        }
        names.push(name);
    }
    Ok(lines.into_iter().collect())
}

/// The machine as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    running_hostname: String,
    static_hostname: Option<String>,
    /// `None`: there is no such file.
    hosts: Option<String>,
    /// Text of the file without its newline.
    machine_id: Option<String>,
    /// A new one, in case it is needed: chance has no place in `plan`.
    spare_machine_id: String,
    /// Where `/etc/localtime` points, below the directory of zones.
    localtime: Option<String>,
    /// Text of `/etc/timezone`.
    timezone: Option<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    SetStaticHostname {
        name: String,
        from: Option<String>,
    },
    SetRunningHostname {
        name: String,
        from: String,
    },
    WriteHosts {
        text: String,
        entries: usize,
        whole: bool,
    },
    SetMachineId {
        id: String,
        why: &'static str,
    },
    LinkLocaltime {
        zone: String,
        from: Option<String>,
    },
    WriteTimezone {
        zone: String,
        from: Option<String>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let was = |from: &Option<String>| match from {
            Some(from) => format!(" (is {from:?})"),
            None => " (is missing)".to_owned(),
        };
        match self {
            Self::SetStaticHostname { name, from } => {
                write!(f, "write hostname {name:?} to /etc/hostname{}", was(from))
            }
            Self::SetRunningHostname { name, from } => {
                write!(f, "set running hostname to {name:?} (is {from:?})")
            }
            Self::WriteHosts { entries, whole, .. } => {
                let what = if *whole { "file" } else { "managed block" };
                let noun = if *entries == 1 {
                    "address"
                } else {
                    "addresses"
                };
                write!(f, "write /etc/hosts: {what} with {entries} {noun}")
            }
            Self::SetMachineId { why, .. } => write!(f, "make a new machine-id ({why})"),
            Self::LinkLocaltime { zone, from } => {
                write!(f, "link /etc/localtime to {zone}{}", was(from))
            }
            Self::WriteTimezone { zone, from } => {
                write!(f, "write {zone} to /etc/timezone{}", was(from))
            }
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(hosts) = &desired.hosts {
        let own = desired
            .hostname
            .as_ref()
            .unwrap_or(&current.running_hostname);
        let text = with_hosts(current.hosts.as_deref(), hosts, own);
        if current.hosts.as_ref() != Some(&text) {
            // Before the name: whoever resolves it in between finds it.
            steps.push(Step::WriteHosts {
                text,
                entries: hosts.lines.len(),
                whole: hosts.scope == HostsScope::Whole,
            });
        }
    }
    if let Some(name) = &desired.hostname {
        if current.static_hostname.as_ref() != Some(name) {
            steps.push(Step::SetStaticHostname {
                name: name.clone(),
                from: current.static_hostname.clone(),
            });
        }
        if current.running_hostname != *name {
            steps.push(Step::SetRunningHostname {
                name: name.clone(),
                from: current.running_hostname.clone(),
            });
        }
    }
    if let Some(taken) = &desired.machine_ids_taken
        && let Some(why) = bad_machine_id(current.machine_id.as_deref(), taken)
    {
        steps.push(Step::SetMachineId {
            id: current.spare_machine_id.clone(),
            why,
        });
    }
    if let Some(zone) = &desired.timezone {
        if current.localtime.as_ref() != Some(zone) {
            steps.push(Step::LinkLocaltime {
                zone: zone.clone(),
                from: current.localtime.clone(),
            });
        }
        if current.timezone.as_ref() != Some(zone) {
            steps.push(Step::WriteTimezone {
                zone: zone.clone(),
                from: current.timezone.clone(),
            });
        }
    }
    steps
}

/// machine-id(5): 32 lower-case hexadecimal digits, not all zero. `None`: it is fine.
fn bad_machine_id(id: Option<&str>, taken: &[String]) -> Option<&'static str> {
    let Some(id) = id else {
        return Some("it is missing");
    };
    match id {
        "" => Some("it is empty"),
        "uninitialized" => Some("it is uninitialized"),
        _ if id.len() != 32
            || !id
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) =>
        {
            Some("it is malformed")
        }
        _ if id.bytes().all(|b| b == b'0') => Some("it is all zeros"),
        _ if taken.iter().any(|other| other == id) => Some("another machine has it"),
        _ => None,
    }
}

/// The kernel's host name, apart so that a test does not rename the machine it runs on.
trait Kernel {
    fn hostname(&self) -> anyhow::Result<String>;
    fn set_hostname(&mut self, name: &str) -> anyhow::Result<()>;
}

struct Linux;

impl Kernel for Linux {
    fn hostname(&self) -> anyhow::Result<String> {
        let name = nix::unistd::gethostname().context("ask for the host name")?;
        Ok(name.to_string_lossy().into_owned())
    }

    fn set_hostname(&mut self, name: &str) -> anyhow::Result<()> {
        nix::unistd::sethostname(name).context("set the running host name")
    }
}

/// The module.
pub struct HostIdentity {
    root: PathBuf,
    kernel: Box<dyn Kernel>,
    notices: Notices,
}

impl Default for HostIdentity {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            kernel: Box::new(Linux),
            notices: Notices::default(),
        }
    }
}

const ZONES: &str = "usr/share/zoneinfo";

impl HostIdentity {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn warn(&mut self, warning: String) {
        if !self.notices.warnings.contains(&warning) {
            self.notices.warnings.push(warning);
        }
    }
}

impl Module for HostIdentity {
    const NAME: &'static str = "host_identity";
    const EXAMPLES: &'static str = r#"
- name: The machine knows who it is and who the others are
  ondol.cloud.host_identity:
    hostname: "{{ inventory_hostname }}"
    domain: infra.internal
    hosts: "{{ dict(groups['all'] | zip(groups['all'] | map('extract', hostvars, 'ansible_host'))) }}"
    machine_ids_taken: []
    timezone: Asia/Seoul
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        if let Some(zone) = &desired.timezone
            && !self.at(ZONES).join(zone).is_file()
        {
            return Err(Invalid::new(
                "timezone",
                format!("{zone:?} is not in /usr/share/zoneinfo (package tzdata)"),
            )
            .into());
        }
        let current = Current {
            running_hostname: self.kernel.hostname()?,
            static_hostname: file::read(&self.at("etc/hostname"))?.and_then(|text| {
                // hostname(5): comments and blank lines do not count.
                text.lines()
                    .map(str::trim)
                    .find(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned)
            }),
            hosts: file::read(&self.at("etc/hosts"))?,
            machine_id: file::read(&self.at("etc/machine-id"))?
                .map(|text| text.trim_end().to_owned()),
            spare_machine_id: new_machine_id().context("make a machine-id")?,
            localtime: match fs::read_link(self.at("etc/localtime")) {
                Ok(target) => {
                    let target = target.to_string_lossy();
                    target
                        .split_once("zoneinfo/")
                        .map(|(_, zone)| zone.to_owned())
                        .or_else(|| Some(target.into_owned()))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                // A copy of a zone's file: which one cannot be told.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    Some("a file of its own".to_owned())
                }
                Err(error) => return Err(error).context("read the link /etc/localtime"),
            },
            timezone: file::read(&self.at("etc/timezone"))?.map(|text| text.trim_end().to_owned()),
        };
        if let Some(hosts) = desired
            .hosts
            .as_ref()
            .filter(|hosts| hosts.scope == HostsScope::Block)
        {
            let own = desired
                .hostname
                .as_ref()
                .unwrap_or(&current.running_hostname);
            for line in contradictions(current.hosts.as_deref().unwrap_or_default(), hosts, own) {
                self.warn(format!(
                    "/etc/hosts: the line {line:?} outside the managed block says otherwise; it was kept"
                ));
            }
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::SetStaticHostname { name, .. } => {
                file::write(&self.at("etc/hostname"), &format!("{name}\n"), 0o644)
            }
            Step::SetRunningHostname { name, .. } => self.kernel.set_hostname(name),
            Step::WriteHosts { text, .. } => file::write(&self.at("etc/hosts"), text, 0o644),
            Step::SetMachineId { id, .. } => {
                file::write(&self.at("etc/machine-id"), &format!("{id}\n"), 0o444)?;
                // Debian links this one to the other; where it is a copy, the two must not differ.
                let bus = self.at("var/lib/dbus/machine-id");
                if fs::symlink_metadata(&bus).is_ok_and(|meta| meta.is_file()) {
                    file::write(&bus, &format!("{id}\n"), 0o444)?;
                }
                self.warn(
                    "the machine-id is new: D-Bus, the journal and DHCP keep using the old one until a reboot"
                        .to_owned(),
                );
                Ok(())
            }
            Step::LinkLocaltime { zone, .. } => {
                let link = self.at("etc/localtime");
                let new = self.at("etc/.localtime.ondol");
                match fs::remove_file(&new) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).context("remove /etc/.localtime.ondol");
                    }
                    _ => {}
                }
                symlink(format!("/{ZONES}/{zone}"), &new).context("link /etc/.localtime.ondol")?;
                fs::rename(&new, &link).context("rename to /etc/localtime")
            }
            Step::WriteTimezone { zone, .. } => {
                file::write(&self.at("etc/timezone"), &format!("{zone}\n"), 0o644)
            }
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        plan(desired, current)
            .into_iter()
            .filter_map(|step| match step {
                Step::WriteHosts { text, .. } => Some(TextDiff::new(
                    "/etc/hosts",
                    current.hosts.clone().unwrap_or_default(),
                    text,
                )),
                _ => None,
            })
            .collect()
    }

    fn notices(&mut self) -> Notices {
        std::mem::take(&mut self.notices)
    }
}

/// As systemd makes it: random, with the bits of a version 4 UUID.
fn new_machine_id() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
