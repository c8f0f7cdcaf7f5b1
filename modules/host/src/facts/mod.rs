//! `ondol.cloud.facts`: the facts that playbooks use, gathered without an interpreter on the target.
//!
//! Names and values are those of `ansible.builtin.setup`; a test compares the two on a real machine. Left out on purpose:
//! block devices, local facts (`facts.d`), and whatever needs a program to be run or a name server to be asked.

mod clock;
mod hardware;
mod network;
mod system;
mod tree;
mod virtualization;

use ondol_kit::{Finding, Invalid, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use tree::Tree;

/// Facts about one topic, keyed without the prefix `ansible_`.
type Found = Map<String, Value>;

/// Gathers the `ansible_*` facts about a machine that needs no Python.
///
/// The facts have the names and values of M(ansible.builtin.setup), so that playbooks written for that one work.
///
/// Use it as a task in a play with `gather_facts: false`, or set the variable `ansible_facts_modules` to
/// `ondol.cloud.facts`. The task is faster, because `gather_facts` copies the program anew each time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What to gather.
    ///
    /// V(all), V(min), V(hardware), V(network) or V(virtual); with `!` in front a part is left out. V(min) is
    /// always gathered, unless V(!min) is given.
    #[serde(default = "all")]
    pub gather_subset: Vec<String>,
    /// Shell patterns; only facts whose full name matches one of them are returned. An empty list returns all.
    #[serde(default)]
    pub filter: Vec<String>,
}

fn all() -> Vec<String> {
    vec!["all".to_owned()]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Min,
    Hardware,
    Network,
    Virtual,
}

impl Part {
    const ALL: [Self; 4] = [Self::Min, Self::Hardware, Self::Network, Self::Virtual];

    /// The names of setup's own smaller subsets are taken for the part that holds them.
    fn of_subset(name: &str) -> Option<&'static [Self]> {
        Some(match name {
            "all" => &Self::ALL,
            "min" | "apparmor" | "caps" | "cmdline" | "date_time" | "distribution" | "dns"
            | "env" | "fips" | "lsb" | "machine_id" | "pkg_mgr" | "platform" | "python"
            | "selinux" | "service_mgr" | "ssh_pub_keys" | "system" | "user" => &[Self::Min],
            "hardware" | "devices" | "loadavg" | "memory" | "mounts" | "processor" | "uptime" => {
                &[Self::Hardware]
            }
            "network" | "interfaces" | "default_ipv4" | "default_ipv6" | "all_ipv4_addresses"
            | "all_ipv6_addresses" => &[Self::Network],
            "virtual" | "virtualization_role" | "virtualization_type" => &[Self::Virtual],
            _ => return None,
        })
    }
}

/// What to gather and return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    parts: Vec<Part>,
    subset: Vec<String>,
    filter: Vec<String>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let mut wanted = Vec::new();
        let mut left_out = Vec::new();
        for (index, word) in params.gather_subset.iter().enumerate() {
            let (name, list) = match word.strip_prefix('!') {
                Some(name) => (name, &mut left_out),
                None => (word.as_str(), &mut wanted),
            };
            let parts = Part::of_subset(name).ok_or_else(|| {
                Invalid::new(
                    format!("gather_subset[{index}]"),
                    format!(
                        "{word:?} is no subset; known are all, min, hardware, network, virtual"
                    ),
                )
            })?;
            list.extend(parts);
            // `!all` leaves the minimum, as setup does.
            if word == "!all" {
                list.retain(|part| *part != Part::Min);
            }
        }
        if wanted.is_empty() {
            wanted.extend(Part::ALL);
        }
        wanted.push(Part::Min);
        Ok(Self {
            parts: Part::ALL
                .into_iter()
                .filter(|part| wanted.contains(part) && !left_out.contains(part))
                .collect(),
            subset: params.gather_subset,
            filter: params.filter,
        })
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Answer {
    /// The facts, each with the prefix `ansible_`.
    pub ansible_facts: Map<String, Value>,
}

#[derive(Debug, Default)]
pub struct Facts;

impl Probe for Facts {
    const NAME: &'static str = "facts";
    const EXAMPLES: &'static str = r#"
- name: Gather every fact
  ondol.cloud.facts:

- name: Gather the addresses only
  ondol.cloud.facts:
    gather_subset: [network]
    filter: [ansible_default_ipv4, ansible_all_ipv4_addresses]
"#;

    type Params = Params;
    type Desired = Desired;
    type Answer = Answer;

    fn probe(&mut self, desired: &Desired) -> anyhow::Result<Finding<Answer>> {
        let tree = Tree::machine();
        let mut found = Found::new();
        for part in &desired.parts {
            found.extend(match part {
                Part::Min => minimum(&tree)?,
                Part::Hardware => hardware::gather(&tree)?,
                Part::Network => network::gather(&tree)?,
                Part::Virtual => virtualization::gather(&tree),
            });
        }
        let ansible_facts = named(found, desired);
        Ok(Finding::good(Answer { ansible_facts }))
    }
}

fn minimum(tree: &Tree) -> anyhow::Result<Found> {
    let mut found = system::gather(tree)?;
    found.insert("date_time".to_owned(), clock::now()?);
    Ok(found)
}

/// Puts the prefix on, adds the two keys that tell Ansible facts were gathered, and keeps what the filter wants.
fn named(found: Found, desired: &Desired) -> Map<String, Value> {
    let mut facts: Map<String, Value> = found
        .into_iter()
        .map(|(key, value)| (format!("ansible_{key}"), value))
        .filter(|(key, _)| {
            desired.filter.is_empty() || desired.filter.iter().any(|it| matches(it, key))
        })
        .collect();
    facts.insert("gather_subset".to_owned(), json!(desired.subset));
    facts.insert("module_setup".to_owned(), json!(true));
    facts
}

/// Shell pattern with `*` and `?`. As setup has it, a pattern may leave the prefix out.
fn matches(pattern: &str, name: &str) -> bool {
    fn glob(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.first(), name.first()) {
            (Some(b'*'), _) => {
                glob(&pattern[1..], name) || (!name.is_empty() && glob(pattern, &name[1..]))
            }
            (Some(b'?'), Some(_)) => glob(&pattern[1..], &name[1..]),
            (Some(a), Some(b)) => a == b && glob(&pattern[1..], &name[1..]),
            (None, None) => true,
            _ => false,
        }
    }
    let bare = name.strip_prefix("ansible_").unwrap_or(name);
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes())
}

/// A literal of [`Found`], written like `json!`'s.
macro_rules! found {
    ($($body:tt)*) => {
        match serde_json::json!({$($body)*}) {
            serde_json::Value::Object(found) => found,
            _ => unreachable!("braces make an object"),
        }
    };
}
use found;

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(subset: &[&str]) -> Result<Vec<Part>, String> {
        let params = Params {
            gather_subset: subset.iter().map(ToString::to_string).collect(),
            filter: Vec::new(),
        };
        Desired::try_from(params)
            .map(|desired| desired.parts)
            .map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn subsets_are_chosen_as_setup_does() {
        use Part::{Hardware, Min, Network, Virtual};
        for (subset, wanted) in [
            (&["all"][..], vec![Min, Hardware, Network, Virtual]),
            (&[], vec![Min, Hardware, Network, Virtual]),
            (&["min"], vec![Min]),
            (&["network"], vec![Min, Network]),
            (&["network", "!min"], vec![Network]),
            (&["!hardware"], vec![Min, Network, Virtual]),
            (&["!all"], vec![Min]),
            (&["!all", "!min"], vec![]),
            (&["mounts", "virtual"], vec![Min, Hardware, Virtual]),
        ] {
            assert_eq!(parts(subset), Ok(wanted), "{subset:?}");
        }
    }

    #[test]
    fn an_unknown_subset_is_named() {
        assert_eq!(
            parts(&["all", "!hardwear"]),
            Err(
                "gather_subset[1]: \"!hardwear\" is no subset; known are all, min, hardware, network, virtual"
                    .to_owned()
            )
        );
    }

    #[test]
    fn filters_take_full_and_bare_names() {
        for (pattern, name, yes) in [
            ("ansible_eth*", "ansible_eth0", true),
            ("eth?", "ansible_eth0", true),
            ("*_mb", "ansible_memtotal_mb", true),
            ("ansible_eth", "ansible_eth0", false),
            ("eth?", "ansible_eth10", false),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn a_filter_keeps_the_marks_of_gathered_facts() {
        let desired = Desired {
            parts: Vec::new(),
            subset: all(),
            filter: vec!["kernel".to_owned()],
        };
        let found = found! {"kernel": "6.1", "system": "Linux"};
        assert_eq!(
            Value::Object(named(found, &desired)),
            json!({"ansible_kernel": "6.1", "gather_subset": ["all"], "module_setup": true})
        );
    }
}
