//! The pool's commands. Decides nothing.

use anyhow::bail;
use ondol_kit::Module;

use super::*;
use crate::cluster::Cluster;
use crate::map::{OsdMap, Rule};

/// What `ceph df` tells.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Usage {
    pub(super) pools: Vec<PoolUsage>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PoolUsage {
    pub(super) name: String,
    pub(super) stats: Stats,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Stats {
    pub(super) objects: u64,
}

/// The module.
#[derive(Default)]
pub struct CephPool {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    name: String,
}

impl Module for CephPool {
    const NAME: &'static str = "ceph_pool";
    const EXAMPLES: &'static str = r#"
- name: Images of virtual machines, three copies on three hosts
  ondol.cloud.ceph_pool:
    name: vms
    size: 3
    min_size: 2
    crush_rule: by_host
    pg_autoscale: "on"
    applications: [rbd]

- name: An archive that survives the loss of one host at half the price
  ondol.cloud.ceph_pool:
    name: archive
    erasure: {k: 2, m: 1}
    applications: [archive]
    quota_bytes: 1099511627776
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        self.name.clone_from(&desired.name);
        if matches!(desired.want, Want::Present(_)) && !self.cluster.is_known() {
            return Ok(Current::default());
        }
        let map: OsdMap = self.cluster.ask(&["osd", "dump"])?;
        let pool = map
            .pools
            .into_iter()
            .find(|it| it.pool_name == desired.name);
        let profile = pool
            .as_ref()
            .map_or(&desired.name, |it| &it.erasure_code_profile);
        let mut current = Current {
            profile: map.erasure_code_profiles.get(profile).cloned(),
            pool,
            ..Current::default()
        };
        match &desired.want {
            Want::Present(spec) if spec.crush_rule.is_some() => {
                let rules: Vec<Rule> = self.cluster.ask(&["osd", "crush", "rule", "dump"])?;
                let id = current.pool.as_ref().map(|it| it.crush_rule);
                current.rule = rules
                    .iter()
                    .find(|it| Some(it.rule_id) == id)
                    .map(|it| it.rule_name.clone());
                current.rules = rules.into_iter().map(|it| it.rule_name).collect();
            }
            Want::Absent { .. } if current.pool.is_some() => {
                let usage: Usage = self.cluster.ask(&["df"])?;
                let pool = usage.pools.into_iter().find(|it| it.name == desired.name);
                let Some(pool) = pool else {
                    bail!(
                        "the cluster does not tell how much is in the pool {}",
                        desired.name
                    );
                };
                current.objects = Some(pool.stats.objects);
            }
            _ => {}
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
        let name = self.name.as_str();
        let mut args: Vec<String> = Vec::new();
        let mut say = |words: &[&str]| args.extend(words.iter().map(|it| (*it).to_owned()));
        match step {
            Step::CreateProfile { name, profile } => {
                say(&["osd", "erasure-code-profile", "set", name]);
                for (key, value) in profile {
                    say(&[&format!("{key}={value}")]);
                }
            }
            Step::CreateReplicated {
                pg_num,
                size,
                rule,
                autoscale,
            } => {
                say(&["osd", "pool", "create", name]);
                options(
                    &mut say,
                    *pg_num,
                    rule.as_ref(),
                    *autoscale,
                    "replicated",
                    None,
                );
                if let Some(size) = size {
                    say(&["--size", &size.to_string()]);
                }
            }
            Step::CreateErasure {
                pg_num,
                profile,
                rule,
                autoscale,
            } => {
                say(&["osd", "pool", "create", name]);
                options(
                    &mut say,
                    *pg_num,
                    rule.as_ref(),
                    *autoscale,
                    "erasure",
                    Some(profile),
                );
            }
            Step::Set {
                property, value, ..
            } => say(&["osd", "pool", "set", name, property, value]),
            Step::SetQuota {
                property, value, ..
            } => {
                say(&[
                    "osd",
                    "pool",
                    "set-quota",
                    name,
                    property,
                    &value.to_string(),
                ]);
            }
            Step::Enable { application } => {
                say(&["osd", "pool", "application", "enable", name, application]);
                // A second application on one pool wants to be confirmed.
                say(&["--yes-i-really-mean-it"]);
            }
            Step::Delete { .. } => say(&[
                "osd",
                "pool",
                "delete",
                name,
                name,
                "--yes-i-really-really-mean-it",
            ]),
            Step::DeleteProfile { name } => say(&["osd", "erasure-code-profile", "rm", name]),
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.cluster.run(&args)?;
        Ok(())
    }
}

/// Positional arguments of `osd pool create` as far as they go, then those with names.
fn options(
    say: &mut impl FnMut(&[&str]),
    pg_num: Option<u32>,
    rule: Option<&String>,
    autoscale: Option<Autoscale>,
    kind: &str,
    profile: Option<&String>,
) {
    if let Some(pg_num) = pg_num {
        let pg_num = pg_num.to_string();
        say(&[&pg_num, &pg_num]);
    }
    say(&[kind]);
    if let Some(profile) = profile {
        say(&[profile]);
    }
    if let Some(rule) = rule {
        say(&[rule]);
    }
    if let Some(autoscale) = autoscale {
        say(&[&format!("--autoscale-mode={}", autoscale.word())]);
    }
}
