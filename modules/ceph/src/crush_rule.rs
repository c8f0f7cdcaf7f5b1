//! `ceph_crush_rule`: one rule for replicated pools: below which root, on which class of devices, and what no two copies share.
//!
//! Rules of erasure-coded pools come with the pools. A rule is not edited: Ceph cannot.

use std::fmt;

use anyhow::bail;
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::map::{OsdMap, Rule};
use crate::system::check_name;

/// Create or remove a CRUSH rule for replicated pools
///
/// A rule that differs is replaced if no pool uses it, and refused otherwise: make one of another name and let the pool change over.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the rule.
    name: String,
    /// What no two copies share, such as `host`, `rack` or `osd`.
    #[serde(default = "host")]
    failure_domain: String,
    /// Bucket below which copies are placed.
    #[serde(default = "default_root")]
    root: String,
    /// Class of the devices. All classes by default.
    device_class: Option<String>,
    /// Whether the rule should exist.
    #[serde(default)]
    state: State,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    Absent,
}

fn host() -> String {
    "host".to_owned()
}

fn default_root() -> String {
    "default".to_owned()
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    shape: Shape,
    present: bool,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    failure_domain: String,
    root: String,
    device_class: Option<String>,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "one copy per {} below {}",
            self.failure_domain, self.root
        )?;
        match &self.device_class {
            Some(class) => write!(f, " on {class}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name("name", &params.name)?;
        check_name("failure_domain", &params.failure_domain)?;
        check_name("root", &params.root)?;
        if let Some(class) = &params.device_class {
            check_name("device_class", class)?;
        }
        Ok(Self {
            name: params.name,
            shape: Shape {
                failure_domain: params.failure_domain,
                root: params.root,
                device_class: params.device_class,
            },
            present: params.state == State::Present,
        })
    }
}

/// The rule, and who uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    rule: Option<Found>,
    pools: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Replicated(Shape),
    /// An erasure-coded pool's rule, or one with steps of someone's own.
    Other,
}

impl From<&Rule> for Found {
    fn from(rule: &Rule) -> Self {
        match (rule.r#type, rule.root_and_class(), rule.failure_domain()) {
            (1, Some((root, class)), Some(domain)) if rule.steps.len() == 3 => {
                Self::Replicated(Shape {
                    failure_domain: domain.to_owned(),
                    root: root.to_owned(),
                    device_class: class.map(str::to_owned),
                })
            }
            _ => Self::Other,
        }
    }
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create(Shape),
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(shape) => write!(f, "create the rule: {shape}"),
            Self::Remove => write!(f, "remove the rule"),
        }
    }
}

fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let name = &desired.name;
    let is_right = match &current.rule {
        None => return None,
        Some(Found::Replicated(shape)) => *shape == desired.shape,
        Some(Found::Other) => false,
    };
    if current.pools.is_empty() || (desired.present && is_right) {
        return None;
    }
    let users = current.pools.join(", ");
    Some(match (&current.rule, desired.present) {
        (_, false) => format!("the rule {name} is used by {users}"),
        (Some(Found::Replicated(shape)), true) => format!(
            "the rule {name} is used by {users} and is not as asked: it places {shape}, not {}",
            desired.shape
        ),
        _ => {
            format!("the rule {name} is used by {users} and is no simple rule for replicated pools")
        }
    })
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let create = || Step::Create(desired.shape.clone());
    match (&current.rule, desired.present) {
        (None, true) => vec![create()],
        (None, false) => Vec::new(),
        (Some(Found::Replicated(shape)), true) if *shape == desired.shape => Vec::new(),
        (Some(_), true) => vec![Step::Remove, create()],
        (Some(_), false) => vec![Step::Remove],
    }
}

/// The module.
#[derive(Default)]
pub struct CephCrushRule {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    name: String,
}

impl Module for CephCrushRule {
    const NAME: &'static str = "ceph_crush_rule";
    const EXAMPLES: &'static str = r#"
- name: No two copies on one host
  ondol.cloud.ceph_crush_rule:
    name: by_host
    failure_domain: host

- name: Fast devices only
  ondol.cloud.ceph_crush_rule:
    name: fast
    device_class: ssd
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.name.clone_from(&desired.name);
        if desired.present && !self.cluster.is_known() {
            return Ok(Current::default());
        }
        let rules: Vec<Rule> = self.cluster.ask(&["osd", "crush", "rule", "dump"])?;
        let mut current = Current::default();
        if let Some(rule) = rules.iter().find(|it| it.rule_name == desired.name) {
            current.rule = Some(rule.into());
            let map: OsdMap = self.cluster.ask(&["osd", "dump"])?;
            let users = map
                .pools
                .into_iter()
                .filter(|it| it.crush_rule == rule.rule_id);
            current.pools = users.map(|it| it.pool_name).collect();
        }
        match refusal(desired, &current) {
            Some(reason) => bail!("refused: {reason}"),
            None => Ok(current),
        }
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let mut args = vec!["osd", "crush", "rule"];
        match step {
            Step::Create(shape) => {
                args.extend([
                    "create-replicated",
                    &self.name,
                    &shape.root,
                    &shape.failure_domain,
                ]);
                args.extend(shape.device_class.as_deref());
            }
            Step::Remove => args.extend(["rm", &self.name]),
        }
        self.cluster.run(&args)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::tests::rules;

    fn desired(json: serde_json::Value) -> Desired {
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap()).unwrap()
    }

    /// A rule of the captured map.
    fn current(name: &str, pools: &[&str]) -> Current {
        Current {
            rule: rules()
                .iter()
                .find(|it| it.rule_name == name)
                .map(Into::into),
            pools: pools.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    #[test]
    fn a_rule_is_created_left_alone_or_replaced() {
        let hdd = desired(serde_json::json!({"name": "r_host", "device_class": "hdd"}));
        let ssd = desired(serde_json::json!({"name": "r_host", "device_class": "ssd"}));
        let create = |it: &Desired| Step::Create(it.shape.clone());
        for (desired, current, wanted) in [
            (&hdd, current("nope", &[]), vec![create(&hdd)]),
            (&hdd, current("r_host", &["p1"]), vec![]),
            (
                &ssd,
                current("r_host", &[]),
                vec![Step::Remove, create(&ssd)],
            ),
        ] {
            assert_eq!(refusal(desired, &current), None);
            assert_eq!(plan(desired, &current), wanted);
        }
        assert_eq!(
            create(&hdd).to_string(),
            "create the rule: one copy per host below default on hdd"
        );
    }

    #[test]
    fn a_rule_in_use_is_neither_changed_nor_removed() {
        let rack =
            desired(serde_json::json!({"name": "replicated_rule", "failure_domain": "rack"}));
        assert_eq!(
            refusal(&rack, &current("replicated_rule", &["p1"])).as_deref(),
            Some(
                "the rule replicated_rule is used by p1 and is not as asked: it places one copy per host below default, \
                 not one copy per rack below default"
            )
        );
        let absent = desired(serde_json::json!({"name": "ec1", "state": "absent"}));
        assert_eq!(
            refusal(&absent, &current("ec1", &["ec1"])).as_deref(),
            Some("the rule ec1 is used by ec1")
        );
        assert_eq!(plan(&absent, &current("ec1", &[])), [Step::Remove]);
        assert_eq!(plan(&absent, &current("nope", &[])), []);
    }
}
