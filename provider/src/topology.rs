//! The topology file: hosts, VMs, addresses and sizes as data, checked field by field.
//!
//! Parsing is by hand over a YAML tree, so that every complaint names the exact field and all
//! complaints come at once. It reads no file and knows nothing of Terraform.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_norway::{Mapping, Value};

/// Used where neither the VM, nor its size, nor `defaults` says otherwise.
const DEFAULT_CPUS: u32 = 1;
const DEFAULT_MEMORY_MIB: u64 = 512;
/// Enough to see the pattern of a mistake made everywhere.
const MAX_PROBLEMS: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub network: Network,
    /// Host name in lower case to the names of its VMs, in the file's order.
    pub hosts: BTreeMap<String, Vec<String>>,
    /// By name.
    pub vms: BTreeMap<String, Vm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub cidr: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub dns: Vec<Ipv4Addr>,
    pub domain: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    pub id: String,
    pub host: String,
    pub address: Ipv4Addr,
    pub app: String,
    pub role: String,
    pub groups: Vec<String>,
    pub cpus: u32,
    pub memory_mib: u64,
    /// Disk key to its size in MiB.
    pub disks: BTreeMap<String, u64>,
    pub features: Features,
}

/// What a VM's engine must allow, as `ondol_vm.lab` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    pub containers: bool,
    pub tun: bool,
    pub fuse: bool,
}

/// One complaint: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Reads a topology, or says everything that is wrong with it (at least one problem).
pub fn parse(text: &str) -> Result<Topology, Vec<Problem>> {
    let mut problems = Problems::default();
    let topology = read(text, &mut problems);
    match topology {
        Some(topology) if problems.0.is_empty() => Ok(topology),
        _ => Err(problems.0),
    }
}

/// All problems as one text, cut where it would scroll away.
pub fn describe(problems: &[Problem]) -> String {
    let mut lines: Vec<String> = problems
        .iter()
        .take(MAX_PROBLEMS)
        .map(ToString::to_string)
        .collect();
    if problems.len() > MAX_PROBLEMS {
        lines.push(format!("and {} more", problems.len() - MAX_PROBLEMS));
    }
    lines.join("\n")
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem {
            path: path.into(),
            message: message.into(),
        });
    }
}

/// Where two fields must not be equal: value to the path that had it first.
#[derive(Default)]
struct Taken(BTreeMap<String, String>);

impl Taken {
    fn claim(&mut self, value: &str, path: &str, problems: &mut Problems, remedy: &str) {
        match self.0.get(value) {
            Some(first) => problems.add(
                path,
                format!("{value:?} is already used by {first}: {remedy}"),
            ),
            None => {
                self.0.insert(value.to_owned(), path.to_owned());
            }
        }
    }
}

/// What a VM may leave to its size or to the defaults.
#[derive(Debug, Clone, Default)]
struct Sizing {
    cpus: Option<u32>,
    memory_mib: Option<u64>,
    disks: Option<BTreeMap<String, u64>>,
}

impl Sizing {
    fn or(self, other: &Self) -> Self {
        Self {
            cpus: self.cpus.or(other.cpus),
            memory_mib: self.memory_mib.or(other.memory_mib),
            disks: self.disks.or_else(|| other.disks.clone()),
        }
    }
}

fn read(text: &str, problems: &mut Problems) -> Option<Topology> {
    let tree: Value = match serde_norway::from_str(text) {
        Ok(tree) => tree,
        Err(error) => {
            problems.add("", format!("this is not valid YAML: {error}"));
            return None;
        }
    };
    let Value::Mapping(tree) = tree else {
        problems.add(
            "",
            format!(
                "expected a mapping with `network` and `vms`, found {}",
                kind(&tree)
            ),
        );
        return None;
    };
    let top = Fields::new("", &tree);
    top.deny_unknown(&["network", "defaults", "sizes", "vms"], problems);

    let network = top
        .mapping("network", problems)
        .and_then(|fields| read_network(&fields, problems));
    let defaults = top.optional_mapping("defaults", problems).map(|fields| {
        fields.deny_unknown(SIZING, problems);
        read_sizing(&fields, problems)
    });
    let sizes = top
        .optional_mapping("sizes", problems)
        .map(|fields| read_sizes(&fields, problems));
    let entries = top.sequence("vms", problems)?;
    if entries.is_empty() {
        problems.add("vms", "is empty: list at least one VM");
    }

    let context = VmContext {
        network: network.as_ref(),
        defaults: defaults.unwrap_or_default(),
        sizes: sizes.unwrap_or_default(),
    };
    let mut vms = Vec::new();
    let (mut names, mut ids, mut addresses) =
        (Taken::default(), Taken::default(), Taken::default());
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("vms[{index}]");
        let Value::Mapping(mapping) = entry else {
            problems.add(path, format!("expected a mapping such as {{ name: ..., id: ..., host: ..., address: ... }}, found {}", kind(entry)));
            continue;
        };
        let fields = Fields::new(&path, mapping);
        if let Some(name) = fields.peek("name") {
            names.claim(
                &name,
                &fields.path("name"),
                problems,
                "every VM needs a name of its own",
            );
        }
        if let Some(id) = fields.peek("id") {
            ids.claim(
                &id,
                &fields.path("id"),
                problems,
                "every VM needs an id of its own",
            );
        }
        if let Some(address) = fields.peek("address") {
            addresses.claim(
                &address,
                &fields.path("address"),
                problems,
                "give this VM a free address",
            );
        }
        vms.extend(read_vm(&fields, &context, problems));
    }

    let network = network?;
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, vm) in &vms {
        hosts.entry(vm.host.clone()).or_default().push(name.clone());
    }
    Some(Topology {
        network,
        hosts,
        vms: vms.into_iter().collect(),
    })
}

fn read_network(fields: &Fields<'_>, problems: &mut Problems) -> Option<Network> {
    fields.deny_unknown(&["cidr", "gateway", "dns", "domain"], problems);
    let cidr =
        fields.parsed::<Ipv4Net>("cidr", "an IPv4 network such as 192.168.10.0/24", problems);
    let gateway = fields.parsed::<Ipv4Addr>("gateway", "an IPv4 address", problems);
    let domain = fields.text("domain", problems);
    let mut dns = Vec::new();
    for (index, entry) in fields
        .sequence("dns", problems)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let path = format!("{}[{index}]", fields.path("dns"));
        match entry.as_str().map(str::parse::<Ipv4Addr>) {
            Some(Ok(address)) => dns.push(address),
            _ => problems.add(
                path,
                format!("expected an IPv4 address, found {}", show(entry)),
            ),
        }
    }
    if let Some(domain) = &domain
        && let Some(reason) = domain.split('.').find_map(bad_label)
    {
        problems.add(
            fields.path("domain"),
            format!("{domain:?} is not a domain name: {reason}"),
        );
    }
    let cidr = cidr?;
    if cidr.addr() != cidr.network() {
        problems.add(
            fields.path("cidr"),
            format!("{cidr} has host bits set: write {}", cidr.trunc()),
        );
    }
    if cidr.prefix_len() > 30 {
        problems.add(
            fields.path("cidr"),
            format!("{cidr} has no room for a gateway and a VM: use a prefix of at most /30"),
        );
    }
    let gateway = gateway?;
    if !cidr.contains(&gateway) {
        problems.add(
            fields.path("gateway"),
            format!("{gateway} is outside network.cidr {cidr}"),
        );
    } else if gateway == cidr.network() || gateway == cidr.broadcast() {
        problems.add(
            fields.path("gateway"),
            format!("{gateway} is the network or broadcast address of {cidr}"),
        );
    }
    Some(Network {
        cidr,
        gateway,
        dns,
        domain: domain?,
    })
}

const SIZING: &[&str] = &["cpus", "memory_mib", "disks"];

fn read_sizes(fields: &Fields<'_>, problems: &mut Problems) -> BTreeMap<String, Sizing> {
    let mut sizes = BTreeMap::new();
    for name in fields.keys() {
        if let Some(size) = fields.mapping(&name, problems) {
            size.deny_unknown(SIZING, problems);
            sizes.insert(name, read_sizing(&size, problems));
        }
    }
    sizes
}

fn read_sizing(fields: &Fields<'_>, problems: &mut Problems) -> Sizing {
    let disks = fields.optional_mapping("disks", problems).map(|disks| {
        let mut sizes = BTreeMap::new();
        for key in disks.keys() {
            if let Some(reason) = bad_label(&key) {
                problems.add(
                    disks.path(&key),
                    format!("{key:?} cannot name a disk: {reason}"),
                );
            }
            let Some(disk) = disks.mapping(&key, problems) else {
                continue;
            };
            disk.deny_unknown(&["size_mib"], problems);
            if !disk.has("size_mib") {
                problems.add(
                    disk.path("size_mib"),
                    "is missing: give the disk's size in MiB",
                );
            } else if let Some(size) =
                disk.positive("size_mib", "a disk needs at least 1 MiB", problems)
            {
                sizes.insert(key, size);
            }
        }
        sizes
    });
    let cpus = fields.positive("cpus", "a VM needs at least 1 CPU", problems);
    let cpus = cpus.and_then(|cpus| match u32::try_from(cpus) {
        Ok(cpus) => Some(cpus),
        Err(_) => {
            problems.add(
                fields.path("cpus"),
                format!("{cpus} CPUs are more than any host has"),
            );
            None
        }
    });
    Sizing {
        cpus,
        memory_mib: fields.positive(
            "memory_mib",
            "a VM needs memory: give its size in MiB, 256 or more",
            problems,
        ),
        disks,
    }
}

struct VmContext<'a> {
    network: Option<&'a Network>,
    defaults: Sizing,
    sizes: BTreeMap<String, Sizing>,
}

fn read_vm(
    fields: &Fields<'_>,
    context: &VmContext<'_>,
    problems: &mut Problems,
) -> Option<(String, Vm)> {
    fields.deny_unknown(
        &[
            "name",
            "id",
            "host",
            "address",
            "app",
            "role",
            "groups",
            "size",
            "cpus",
            "memory_mib",
            "disks",
            "features",
        ],
        problems,
    );
    let name = fields.text("name", problems);
    let id = fields.text("id", problems);
    let host = fields
        .text("host", problems)
        .map(|host| host.to_ascii_lowercase());
    let app = fields.text("app", problems);
    let role = fields.text("role", problems);
    let address =
        fields.parsed::<Ipv4Addr>("address", "an IPv4 address such as 192.168.10.11", problems);
    let groups = fields.texts("groups", problems);

    for (field, value) in [("name", &name), ("host", &host)] {
        if let Some(value) = value
            && let Some(reason) = bad_label(value)
        {
            problems.add(
                fields.path(field),
                format!("{value:?} is not a DNS label: {reason}"),
            );
        }
    }
    for (index, group) in groups.iter().flatten().enumerate() {
        let valid = group.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && group.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid {
            let path = format!("{}[{index}]", fields.path("groups"));
            problems.add(path, format!("{group:?} is not an Ansible group name: use letters, digits and _ only, and no digit first"));
        }
    }
    if let (Some(address), Some(network)) = (address, context.network) {
        check_address(address, network, &fields.path("address"), problems);
    }
    let own = read_sizing(fields, problems);
    let size = read_size_choice(fields, context, problems);
    let sizing = own.or(&size).or(&context.defaults);
    let features = read_features(fields, problems);
    Some((
        name?,
        Vm {
            id: id?,
            host: host?,
            address: address?,
            app: app?,
            role: role?,
            groups: groups?,
            cpus: sizing.cpus.unwrap_or(DEFAULT_CPUS),
            memory_mib: sizing.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB),
            disks: sizing.disks.unwrap_or_default(),
            features,
        },
    ))
}

fn read_size_choice(
    fields: &Fields<'_>,
    context: &VmContext<'_>,
    problems: &mut Problems,
) -> Sizing {
    if !fields.has("size") {
        return Sizing::default();
    }
    let Some(size) = fields.text("size", problems) else {
        return Sizing::default();
    };
    match context.sizes.get(&size) {
        Some(sizing) => sizing.clone(),
        None => {
            let known: Vec<&str> = context.sizes.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            problems.add(
                fields.path("size"),
                format!("{size:?} is not in `sizes` (known: {known})"),
            );
            Sizing::default()
        }
    }
}

fn read_features(fields: &Fields<'_>, problems: &mut Problems) -> Features {
    let mut features = Features::default();
    if !fields.has("features") {
        return features;
    }
    for (index, feature) in fields
        .texts("features", problems)
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        match feature.as_str() {
            "containers" => features.containers = true,
            "tun" => features.tun = true,
            "fuse" => features.fuse = true,
            other => problems.add(
                format!("{}[{index}]", fields.path("features")),
                format!("{other:?} is not a feature (known: containers, tun, fuse)"),
            ),
        }
    }
    features
}

fn check_address(address: Ipv4Addr, network: &Network, path: &str, problems: &mut Problems) {
    let cidr = network.cidr;
    if !cidr.contains(&address) {
        problems.add(
            path,
            format!("{address} is outside network.cidr {cidr}: use an address from {cidr}"),
        );
    } else if address == cidr.network() {
        problems.add(
            path,
            format!("{address} is the network address of {cidr}, which no machine can have"),
        );
    } else if address == cidr.broadcast() {
        problems.add(
            path,
            format!("{address} is the broadcast address of {cidr}, which no machine can have"),
        );
    } else if address == network.gateway {
        problems.add(
            path,
            format!("{address} is network.gateway: give this VM a free address"),
        );
    }
}

/// Why `text` is not a DNS label (RFC 1123, lower case as host names are compared), or `None` if it is one.
pub fn bad_label(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() {
        Some("it is empty".to_owned())
    } else if text.len() > 63 {
        Some(format!("it has {} characters, 63 is the limit", text.len()))
    } else if text.chars().any(|c| c.is_ascii_uppercase()) {
        Some(format!(
            "write it in lower case, {:?}",
            text.to_ascii_lowercase()
        ))
    } else if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        Some(format!("{bad:?} is not allowed, use a-z, 0-9 and -"))
    } else if text.starts_with('-') || text.ends_with('-') {
        Some("it must not start or end with -".to_owned())
    } else {
        None
    }
}

/// A mapping and where it stands.
struct Fields<'a> {
    at: String,
    mapping: &'a Mapping,
}

impl<'a> Fields<'a> {
    fn new(at: &str, mapping: &'a Mapping) -> Self {
        Self {
            at: at.to_owned(),
            mapping,
        }
    }

    fn path(&self, field: &str) -> String {
        if self.at.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.at)
        }
    }

    fn has(&self, field: &str) -> bool {
        self.mapping.contains_key(field)
    }

    fn keys(&self) -> Vec<String> {
        self.mapping
            .keys()
            .filter_map(|key| key.as_str().map(str::to_owned))
            .collect()
    }

    /// The field's text, without complaints.
    fn peek(&self, field: &str) -> Option<String> {
        self.mapping.get(field)?.as_str().map(str::to_owned)
    }

    fn deny_unknown(&self, known: &[&str], problems: &mut Problems) {
        for key in self.mapping.keys() {
            match key.as_str() {
                Some(key) if known.contains(&key) => {}
                Some(key) => problems.add(
                    self.path(key),
                    format!("is not a known field (known: {})", known.join(", ")),
                ),
                None => problems.add(&self.at, format!("{} is not a field name", show(key))),
            }
        }
    }

    fn required(&self, field: &str, expected: &str, problems: &mut Problems) -> Option<&'a Value> {
        let value = self.mapping.get(field);
        if value.is_none() {
            problems.add(self.path(field), format!("is missing: give {expected}"));
        }
        value
    }

    fn wrong(&self, field: &str, expected: &str, found: &Value, problems: &mut Problems) {
        problems.add(
            self.path(field),
            format!("expected {expected}, found {}", show(found)),
        );
    }

    fn text(&self, field: &str, problems: &mut Problems) -> Option<String> {
        let value = self.required(field, "a text", problems)?;
        match value.as_str() {
            Some("") => problems.add(self.path(field), "is empty"),
            Some(text) => return Some(text.to_owned()),
            None => self.wrong(field, "a text", value, problems),
        }
        None
    }

    fn texts(&self, field: &str, problems: &mut Problems) -> Option<Vec<String>> {
        let values = self.sequence(field, problems)?;
        let mut texts = Vec::new();
        for (index, value) in values.iter().enumerate() {
            match value.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => problems.add(
                    format!("{}[{index}]", self.path(field)),
                    format!("expected a text, found {}", show(value)),
                ),
            }
        }
        Some(texts)
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        field: &str,
        expected: &str,
        problems: &mut Problems,
    ) -> Option<T> {
        let value = self.required(field, expected, problems)?;
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.wrong(field, expected, value, problems);
        }
        parsed
    }

    /// An optional whole number above zero.
    fn positive(&self, field: &str, why: &str, problems: &mut Problems) -> Option<u64> {
        let value = self.mapping.get(field)?;
        match value.as_u64() {
            Some(0) => problems.add(self.path(field), format!("is 0: {why}")),
            Some(number) => return Some(number),
            None => self.wrong(field, "a whole number above 0", value, problems),
        }
        None
    }

    fn sequence(&self, field: &str, problems: &mut Problems) -> Option<&'a [Value]> {
        let value = self.required(field, "a list", problems)?;
        let sequence = value.as_sequence();
        if sequence.is_none() {
            self.wrong(field, "a list", value, problems);
        }
        sequence.map(Vec::as_slice)
    }

    fn mapping(&self, field: &str, problems: &mut Problems) -> Option<Fields<'a>> {
        let value = self.required(field, "a mapping", problems)?;
        let mapping = value.as_mapping();
        if mapping.is_none() {
            self.wrong(field, "a mapping", value, problems);
        }
        mapping.map(|mapping| Fields::new(&self.path(field), mapping))
    }

    fn optional_mapping(&self, field: &str, problems: &mut Problems) -> Option<Fields<'a>> {
        if self.has(field) {
            self.mapping(field, problems)
        } else {
            None
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tagged value",
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("{value:?}"),
        other => kind(other).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = "network: { cidr: 192.168.10.0/24, gateway: 192.168.10.1, dns: [192.168.10.12], domain: infra.internal }\n";

    fn vm(fields: &str) -> String {
        format!(
            "{{ name: web-01, id: VM-01, host: SRV-01, address: 192.168.10.11, app: Web, role: Nginx, groups: [web]{fields} }}"
        )
    }

    fn with(vms: &[String]) -> String {
        let mut text = format!("{NETWORK}vms:\n");
        for vm in vms {
            text.push_str(&format!("  - {vm}\n"));
        }
        text
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_vm_takes_its_own_sizes_before_its_size_class_before_the_defaults() {
        let text = format!(
            "{NETWORK}defaults: {{ cpus: 2, memory_mib: 384 }}\nsizes:\n  db: {{ memory_mib: 1024, disks: {{ data: {{ size_mib: 2048 }} }} }}\nvms:\n  - {}\n",
            vm(", size: db, cpus: 4, features: [tun, containers]")
        );
        let topology = parse(&text).unwrap();
        assert_eq!(
            topology.hosts,
            BTreeMap::from([("srv-01".to_owned(), vec!["web-01".to_owned()])])
        );
        assert_eq!(
            topology.vms["web-01"],
            Vm {
                id: "VM-01".to_owned(),
                host: "srv-01".to_owned(),
                address: "192.168.10.11".parse().unwrap(),
                app: "Web".to_owned(),
                role: "Nginx".to_owned(),
                groups: vec!["web".to_owned()],
                cpus: 4,
                memory_mib: 1024,
                disks: BTreeMap::from([("data".to_owned(), 2048)]),
                features: Features {
                    containers: true,
                    tun: true,
                    fuse: false
                },
            }
        );
    }

    #[test]
    fn every_mistake_names_its_field_and_what_to_do() {
        let second = |changes: &[(&str, &str)]| {
            let mut text = vm("")
                .replace("web-01", "web-02")
                .replace("VM-01", "VM-02")
                .replace("10.11", "10.12");
            for (from, to) in changes {
                text = text.replace(from, to);
            }
            with(&[vm(""), text])
        };
        let cases: &[(&[(&str, &str)], &str)] = &[
            (
                &[("web-02", "web-01")],
                "vms[1].name: \"web-01\" is already used by vms[0].name: every VM needs a name of its own",
            ),
            (
                &[("VM-02", "VM-01")],
                "vms[1].id: \"VM-01\" is already used by vms[0].id: every VM needs an id of its own",
            ),
            (
                &[("10.12", "10.11")],
                "vms[1].address: \"192.168.10.11\" is already used by vms[0].address: give this VM a free address",
            ),
            (
                &[("192.168.10.12", "192.168.11.12")],
                "vms[1].address: 192.168.11.12 is outside network.cidr 192.168.10.0/24: use an address from 192.168.10.0/24",
            ),
            (
                &[("10.12", "10.0")],
                "vms[1].address: 192.168.10.0 is the network address of 192.168.10.0/24, which no machine can have",
            ),
            (
                &[("10.12", "10.255")],
                "vms[1].address: 192.168.10.255 is the broadcast address of 192.168.10.0/24, which no machine can have",
            ),
            (
                &[("10.12", "10.1")],
                "vms[1].address: 192.168.10.1 is network.gateway: give this VM a free address",
            ),
            (
                &[("192.168.10.12", "192.168.10.300")],
                "vms[1].address: expected an IPv4 address such as 192.168.10.11, found \"192.168.10.300\"",
            ),
            (
                &[("web-02", "Web-02")],
                "vms[1].name: \"Web-02\" is not a DNS label: write it in lower case, \"web-02\"",
            ),
            (
                &[("web-02", "web_02")],
                "vms[1].name: \"web_02\" is not a DNS label: '_' is not allowed, use a-z, 0-9 and -",
            ),
            (
                &[(", role: Nginx", "")],
                "vms[1].role: is missing: give a text",
            ),
            (
                &[("app: Web", "app: 5")],
                "vms[1].app: expected a text, found the number 5",
            ),
            (
                &[("groups: [web]", "groups: web")],
                "vms[1].groups: expected a list, found \"web\"",
            ),
            (
                &[("[web]", "[load-balancer]")],
                "vms[1].groups[0]: \"load-balancer\" is not an Ansible group name: use letters, digits and _ only, and no digit first",
            ),
            (
                &[("groups: [web]", "groups: [web], memory_mib: 0")],
                "vms[1].memory_mib: is 0: a VM needs memory: give its size in MiB, 256 or more",
            ),
            (
                &[("groups: [web]", "groups: [web], cpus: two")],
                "vms[1].cpus: expected a whole number above 0, found \"two\"",
            ),
            (
                &[(
                    "groups: [web]",
                    "groups: [web], disks: { data: { size_mib: 0 } }",
                )],
                "vms[1].disks.data.size_mib: is 0: a disk needs at least 1 MiB",
            ),
            (
                &[("groups: [web]", "groups: [web], size: big")],
                "vms[1].size: \"big\" is not in `sizes` (known: none)",
            ),
            (
                &[("groups: [web]", "groups: [web], features: [gpu]")],
                "vms[1].features[0]: \"gpu\" is not a feature (known: containers, tun, fuse)",
            ),
        ];
        for (changes, expected) in cases {
            assert_eq!(problems(&second(changes)), [*expected]);
        }
        let unknown = problems(&with(&[vm(", ram: 5")]));
        assert!(
            unknown[0].starts_with("vms[0].ram: is not a known field (known: name, id, host"),
            "{unknown:?}"
        );
    }

    #[test]
    fn mistakes_in_the_network_and_in_the_shape_are_named_too() {
        let body = with(&[vm("")]);
        let cases = [
            (
                body.replace("cidr: 192.168.10.0/24", "cidr: 192.168.10.5/24"),
                "network.cidr: 192.168.10.5/24 has host bits set: write 192.168.10.0/24",
            ),
            (
                body.replace("gateway: 192.168.10.1", "gateway: 10.0.0.1"),
                "network.gateway: 10.0.0.1 is outside network.cidr 192.168.10.0/24",
            ),
            (
                body.replace("dns: [192.168.10.12]", "dns: [x]"),
                "network.dns[0]: expected an IPv4 address, found \"x\"",
            ),
            (
                body.replace("infra.internal", "infra..internal"),
                "network.domain: \"infra..internal\" is not a domain name: it is empty",
            ),
            (
                body.replace(", domain: infra.internal", ""),
                "network.domain: is missing: give a text",
            ),
            (
                format!("{NETWORK}vms: []\n"),
                "vms: is empty: list at least one VM",
            ),
            (NETWORK.to_owned(), "vms: is missing: give a list"),
            (
                format!("{NETWORK}vms: [5]\n"),
                "vms[0]: expected a mapping such as { name: ..., id: ..., host: ..., address: ... }, found a number",
            ),
            (
                "- a\n".to_owned(),
                "expected a mapping with `network` and `vms`, found a list",
            ),
            (
                format!("extra: 1\n{body}"),
                "extra: is not a known field (known: network, defaults, sizes, vms)",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(problems(&text), [expected], "{text}");
        }
        assert!(problems("vms: [")[0].starts_with("this is not valid YAML:"));
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let text = with(&[
            vm("").replace("Web,", "5,").replace("10.11", "10.1"),
            "7".to_owned(),
        ]);
        assert_eq!(problems(&text).len(), 3);
    }
}
