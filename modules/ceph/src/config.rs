//! `ceph_config`: options in the monitors' configuration, and the cluster's flags.
//!
//! It does not write `ceph.conf`, and restarts nothing: an option that takes effect only at a start is said so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ondol_kit::{Invalid, Module, Notices};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::map::OsdMap;

/// Set options and flags of a Ceph cluster
///
/// Options live in the monitors' configuration and reach every daemon; nothing is written to files. What is not named is left alone.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Options and their values by section: `global`, `mon`, `mgr`, `osd`, `mds`, `client`, one daemon such as `osd.3`, or a section with a mask such
    /// as `osd/host:storage-server-01` or `osd/class:ssd`.
    #[serde(default)]
    options: BTreeMap<String, BTreeMap<String, String>>,
    /// Options by section that must not be set, so that they have their defaults.
    #[serde(default)]
    absent: BTreeMap<String, BTreeSet<String>>,
    /// Flags of the cluster, such as `noout`, and whether they are set.
    #[serde(default)]
    flags: BTreeMap<String, bool>,
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// By section and name; `None`: not set.
    options: BTreeMap<(String, String), Option<String>>,
    flags: BTreeMap<String, bool>,
}

/// What `ceph osd set` takes and `ceph osd dump` shows under the same name.
const FLAGS: [&str; 12] = [
    "full",
    "nobackfill",
    "nodeep-scrub",
    "nodown",
    "noin",
    "noout",
    "norebalance",
    "norecover",
    "noscrub",
    "nosnaptrim",
    "notieragent",
    "noup",
];

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let mut options = BTreeMap::new();
        for (section, values) in params.options {
            for (name, value) in values {
                let key = option(&section, &name)
                    .map_err(|reason| Invalid::new(format!("options.{section}.{name}"), reason))?;
                options.insert(key, Some(value));
            }
        }
        for (section, names) in params.absent {
            for name in names {
                let at = || format!("absent.{section}");
                let key = option(&section, &name).map_err(|reason| Invalid::new(at(), reason))?;
                if options.insert(key, None).is_some() {
                    return Err(Invalid::new(at(), format!("{name:?} is in `options`, too")));
                }
            }
        }
        if let Some(flag) = params.flags.keys().find(|it| !FLAGS.contains(&it.as_str())) {
            return Err(Invalid::new(
                format!("flags.{flag}"),
                format!("is not one of {}", FLAGS.join(", ")),
            ));
        }
        Ok(Self {
            options,
            flags: params.flags,
        })
    }
}

/// Names as Ceph stores them: blanks and hyphens are underscores.
fn option(section: &str, name: &str) -> Result<(String, String), String> {
    let who = section.split(['.', '/']).next().unwrap_or_default();
    if !["global", "mon", "mgr", "osd", "mds", "client"].contains(&who)
        || section.contains(char::is_whitespace)
    {
        return Err(format!("{section:?} is not a section"));
    }
    let name = name.replace([' ', '-'], "_");
    let fine = !name.is_empty()
        && !name.starts_with('/')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_/.".contains(&b));
    if fine {
        Ok((section.to_owned(), name))
    } else {
        Err(format!("{name:?} is not the name of an option"))
    }
}

/// One option of `ceph config dump`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Set {
    pub(crate) section: String,
    pub(crate) name: String,
    pub(crate) value: String,
    #[serde(default)]
    mask: String,
    #[serde(default)]
    can_update_at_runtime: bool,
}

impl Set {
    fn key(&self) -> (String, String) {
        let section = if self.mask.is_empty() {
            self.section.clone()
        } else {
            format!("{}/{}", self.section, self.mask)
        };
        (section, self.name.clone())
    }
}

/// The configuration and the flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    options: BTreeMap<(String, String), String>,
    flags: BTreeSet<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Set {
        section: String,
        name: String,
        value: String,
        from: Option<String>,
    },
    Unset {
        section: String,
        name: String,
        from: String,
    },
    Raise(String),
    Lower(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set {
                section,
                name,
                value,
                from,
            } => {
                write!(f, "set {name} of {section} to {value:?}")?;
                match from {
                    Some(from) => write!(f, " (is {from:?})"),
                    None => Ok(()),
                }
            }
            Self::Unset {
                section,
                name,
                from,
            } => {
                write!(f, "unset {name} of {section} (is {from:?})")
            }
            Self::Raise(flag) => write!(f, "set the flag {flag}"),
            Self::Lower(flag) => write!(f, "clear the flag {flag}"),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    for (key, wanted) in &desired.options {
        let (section, name) = key.clone();
        match (wanted, current.options.get(key)) {
            (Some(value), Some(from)) if is_same(value, from) => {}
            (Some(value), from) => steps.push(Step::Set {
                section,
                name,
                value: value.clone(),
                from: from.cloned(),
            }),
            (None, Some(from)) => steps.push(Step::Unset {
                section,
                name,
                from: from.clone(),
            }),
            (None, None) => {}
        }
    }
    for (flag, wanted) in &desired.flags {
        match (wanted, current.flags.contains(flag)) {
            (true, false) => steps.push(Step::Raise(flag.clone())),
            (false, true) => steps.push(Step::Lower(flag.clone())),
            _ => {}
        }
    }
    steps
}

/// An option that we have set and that is not set. OSDs that schedule by mClock, the default since Ceph 17, remove those of the other scheduler.
fn taken_back<'a>(
    set: &'a BTreeSet<(String, String)>,
    options: &BTreeMap<(String, String), String>,
) -> Option<&'a (String, String)> {
    set.iter().find(|key| !options.contains_key(*key))
}

/// Ceph stores `1G` as 1073741824, `1` as true and 0.05 as 0.050000.
pub(crate) fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim(), b.trim());
    if a == b {
        return true;
    }
    if let (Some(a), Some(b)) = (truth(a), truth(b)) {
        return a == b;
    }
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()),
        _ => false,
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// With the units that Ceph's options take for bytes. `M` alone is binary there.
fn number(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..]
        .trim_end_matches('B')
        .trim_end_matches('i')
    {
        "" => 1_u64,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    #[expect(clippy::cast_precision_loss, reason = "powers of two are exact")]
    digits
        .trim()
        .parse::<f64>()
        .ok()
        .map(|value| value * factor as f64)
}

/// The module.
#[derive(Default)]
pub struct CephConfig {
    cluster: Cluster,
    set: BTreeSet<(String, String)>,
    later: BTreeSet<String>,
}

impl Module for CephConfig {
    const NAME: &'static str = "ceph_config";
    const EXAMPLES: &'static str = r#"
- name: Clients that reclaim their identity insecurely are refused
  ondol.cloud.ceph_config:
    options:
      mon:
        auth_allow_insecure_global_id_reclaim: "false"
        mon_data_avail_warn: "10"
      osd/class:ssd:
        osd_memory_target: 4G

- name: A machine is about to be restarted
  ondol.cloud.ceph_config:
    flags: {noout: true}
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let mut current = Current::default();
        let sets = desired.options.values().any(Option::is_some);
        if !self.cluster.is_known() && (sets || desired.flags.values().any(|it| *it)) {
            return Ok(current);
        }
        if !desired.options.is_empty() {
            let dump: Vec<Set> = self.cluster.ask(&["config", "dump"])?;
            self.later = dump
                .iter()
                .filter(|it| !it.can_update_at_runtime && self.set.contains(&it.key()))
                .map(|it| it.name.clone())
                .collect();
            current.options = dump.into_iter().map(|it| (it.key(), it.value)).collect();
            if let Some((section, name)) = taken_back(&self.set, &current.options) {
                anyhow::bail!(
                    "{name} of {section} was set and is gone again: since Ceph 17, OSDs that schedule by mClock decide on it themselves. Set osd_op_queue \
                     to wpq before they start, or osd_mclock_override_recovery_settings to true"
                );
            }
        }
        if !desired.flags.is_empty() {
            let map: OsdMap = self.cluster.ask(&["osd", "dump"])?;
            current.flags = map.flags_set;
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Set {
                section,
                name,
                value,
                ..
            } => {
                self.cluster.run(&["config", "set", section, name, value])?;
                self.set.insert((section.clone(), name.clone()));
            }
            Step::Unset { section, name, .. } => {
                self.cluster.run(&["config", "rm", section, name])?;
            }
            Step::Raise(flag) => {
                self.cluster.run(&["osd", "set", flag])?;
            }
            Step::Lower(flag) => {
                self.cluster.run(&["osd", "unset", flag])?;
            }
        }
        Ok(())
    }

    fn notices(&mut self) -> Notices {
        let warnings = self
            .later
            .iter()
            .map(|name| format!("{name} takes effect when its daemons start again"))
            .collect();
        Notices {
            warnings,
            deprecations: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::parse;

    fn try_desired(json: serde_json::Value) -> Result<Desired, Invalid> {
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    #[test]
    fn an_option_that_does_not_stay_is_found() {
        let key = |name: &str| ("osd".to_owned(), name.to_owned());
        let set = BTreeSet::from([key("osd_max_backfills"), key("osd_memory_target")]);
        let both = BTreeMap::from([
            (key("osd_max_backfills"), "8".to_owned()),
            (key("osd_memory_target"), "1".to_owned()),
        ]);
        assert_eq!(taken_back(&set, &both), None);
        let one = BTreeMap::from([(key("osd_memory_target"), "1".to_owned())]);
        assert_eq!(taken_back(&set, &one), Some(&key("osd_max_backfills")));
        assert_eq!(taken_back(&BTreeSet::new(), &one), None);
    }

    #[test]
    fn what_differs_is_set_and_what_should_not_be_is_unset() {
        let dump: Vec<Set> = parse(include_str!("../fixtures/pacific/config_dump.json")).unwrap();
        let current = Current {
            options: dump.into_iter().map(|it| (it.key(), it.value)).collect(),
            flags: BTreeSet::from(["noout".to_owned(), "sortbitwise".to_owned()]),
        };
        let desired = try_desired(serde_json::json!({
            "options": {
                "mon": {"auth_allow_insecure_global_id_reclaim": "0", "mon data-avail_warn": "10"},
                "osd/class:ssd": {"osd_memory_target": "4G"},
            },
            "absent": {"mon": ["mon_max_pg_per_osd"]},
            "flags": {"noout": false, "noscrub": true, "noin": false},
        }))
        .unwrap();
        let lines: Vec<String> = plan(&desired, &current)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "set mon_data_avail_warn of mon to \"10\" (is \"5\")",
                "set osd_memory_target of osd/class:ssd to \"4G\"",
                "clear the flag noout",
                "set the flag noscrub",
            ]
        );
        let absent =
            try_desired(serde_json::json!({"absent": {"mon": ["mon_data_avail_warn"]}})).unwrap();
        assert_eq!(
            plan(&absent, &current),
            [Step::Unset {
                section: "mon".into(),
                name: "mon_data_avail_warn".into(),
                from: "5".into()
            }]
        );
    }

    #[test]
    fn values_are_compared_by_meaning() {
        for (a, b, same) in [
            ("4G", "4294967296", true),
            ("896Mi", "939524096", true),
            ("0.05", "0.050000", true),
            ("1", "true", true),
            ("false", "true", false),
            ("4G", "4294967297000", false),
            ("a b", "a  b", false),
            ("10.0.0.0/24", "10.0.0.0/24", true),
        ] {
            assert_eq!(is_same(a, b), same, "{a} {b}");
        }
    }

    #[test]
    fn unknown_sections_names_and_flags_are_refused() {
        for (json, wanted) in [
            (
                serde_json::json!({"options": {"osds": {"a": "1"}}}),
                "options.osds.a: \"osds\" is not a section",
            ),
            (
                serde_json::json!({"options": {"osd": {"a=b": "1"}}}),
                "options.osd.a=b: \"a=b\" is not the name",
            ),
            (
                serde_json::json!({"flags": {"noup ": true}}),
                "flags.noup : is not one of",
            ),
            (
                serde_json::json!({"options": {"osd": {"a": "1"}}, "absent": {"osd": ["a"]}}),
                "absent.osd: \"a\" is in `options`, too",
            ),
        ] {
            let error = try_desired(json).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
