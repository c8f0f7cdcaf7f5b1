//! The parts of the cluster's maps that several modules look at, as `ceph osd dump`, `osd tree` and `osd crush rule dump` print them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use uuid::Uuid;

/// From `ceph osd dump`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct OsdMap {
    pub(crate) fsid: Uuid,
    pub(crate) flags_set: BTreeSet<String>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) osds: Vec<Osd>,
    pub(crate) erasure_code_profiles: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Osd {
    pub(crate) osd: u32,
    pub(crate) uuid: Uuid,
    up: u8,
    r#in: u8,
    #[serde(default)]
    state: BTreeSet<String>,
}

impl Osd {
    pub(crate) fn is_up(&self) -> bool {
        self.up == 1
    }

    pub(crate) fn is_in(&self) -> bool {
        self.r#in == 1
    }

    /// So full that the cluster moves nothing onto it. Of its words for that an OSD has the worst alone.
    pub(crate) fn takes_nothing(&self) -> bool {
        ["backfillfull", "full"]
            .iter()
            .any(|it| self.state.contains(*it))
    }
}

/// A pool as the OSD map tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Pool {
    pub(crate) pool_name: String,
    /// 1 for replicated, 3 for erasure-coded.
    pub(crate) r#type: u8,
    pub(crate) size: u32,
    pub(crate) min_size: u32,
    pub(crate) crush_rule: i64,
    pub(crate) pg_autoscale_mode: String,
    /// What the cluster is on its way to.
    pub(crate) pg_num_target: u32,
    pub(crate) quota_max_bytes: u64,
    pub(crate) quota_max_objects: u64,
    pub(crate) erasure_code_profile: String,
    pub(crate) flags_names: String,
    #[serde(default)]
    pub(crate) application_metadata: BTreeMap<String, serde_json::Value>,
}

impl Pool {
    /// By its quota, or because one of its OSDs is full. Whoever writes to it then waits, and is told nothing.
    pub(crate) fn is_full(&self) -> bool {
        self.flags_names.split(',').any(|flag| flag == "full")
    }
}

/// One of `ceph osd crush rule dump`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Rule {
    pub(crate) rule_id: i64,
    pub(crate) rule_name: String,
    /// 1 for replicated, 3 for erasure-coded.
    pub(crate) r#type: u8,
    pub(crate) steps: Vec<RuleStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct RuleStep {
    op: String,
    #[serde(default)]
    item_name: String,
    #[serde(default)]
    r#type: String,
}

impl Rule {
    /// Root, and the class of devices within it, which the map joins by `~`.
    pub(crate) fn root_and_class(&self) -> Option<(&str, Option<&str>)> {
        let take = self.steps.iter().find(|step| step.op == "take")?;
        Some(match take.item_name.split_once('~') {
            Some((root, class)) => (root, Some(class)),
            None => (&take.item_name, None),
        })
    }

    /// What no two copies share: `host`, `rack`, or `osd`.
    pub(crate) fn failure_domain(&self) -> Option<&str> {
        let choose = self
            .steps
            .iter()
            .find(|step| step.op.starts_with("choose"))?;
        Some(&choose.r#type)
    }
}

/// From `ceph osd tree`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Node {
    id: i64,
    r#type: String,
    #[serde(default)]
    children: Vec<i64>,
    #[serde(default)]
    device_class: Option<String>,
}

impl Tree {
    pub(crate) fn class_of(&self, osd: u32) -> Option<&str> {
        let id = i64::from(osd);
        let node = self.nodes.iter().find(|node| node.id == id)?;
        node.device_class.as_deref()
    }

    /// How many buckets of this type hold one of these OSDs.
    pub(crate) fn domains(&self, domain: &str, osds: &BTreeSet<u32>) -> usize {
        if domain == "osd" {
            return osds.len();
        }
        self.nodes
            .iter()
            .filter(|node| node.r#type == domain && self.holds(node, osds))
            .count()
    }

    fn holds(&self, node: &Node, osds: &BTreeSet<u32>) -> bool {
        node.children
            .iter()
            .any(|child| match u32::try_from(*child) {
                Ok(osd) => osds.contains(&osd),
                Err(_) => self
                    .nodes
                    .iter()
                    .find(|node| node.id == *child)
                    .is_some_and(|node| self.holds(node, osds)),
            })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cluster::parse;

    pub(crate) fn osd_map() -> OsdMap {
        parse(include_str!("../fixtures/pacific/osd_dump.json")).unwrap()
    }

    pub(crate) fn tree() -> Tree {
        parse(include_str!("../fixtures/pacific/osd_tree.json")).unwrap()
    }

    pub(crate) fn rules() -> Vec<Rule> {
        parse(include_str!("../fixtures/pacific/rules.json")).unwrap()
    }

    #[test]
    fn a_real_map_is_read() {
        let map = osd_map();
        assert_eq!(map.osds.len(), 3);
        assert!(map.osds.iter().all(|osd| osd.is_up() && osd.is_in()));
        let pools: Vec<(&str, u8, u32, u32)> = map
            .pools
            .iter()
            .map(|it| (it.pool_name.as_str(), it.r#type, it.size, it.min_size))
            .collect();
        assert_eq!(
            pools,
            [
                ("device_health_metrics", 1, 3, 2),
                ("p1", 1, 3, 2),
                ("ec1", 3, 3, 2)
            ]
        );
        assert_eq!(map.pools[1].quota_max_bytes, 1_000_000);
        assert!(map.pools[1].application_metadata.contains_key("rados"));
        assert_eq!(map.erasure_code_profiles["ec21"]["k"], "2");
    }

    #[test]
    fn a_rule_tells_its_root_class_and_failure_domain() {
        let told: Vec<_> = rules()
            .iter()
            .map(|rule| {
                let (root, class) = rule.root_and_class().unwrap();
                format!(
                    "{} {root} {class:?} {:?}",
                    rule.rule_name,
                    rule.failure_domain()
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "replicated_rule default None Some(\"host\")",
                "ec1 default None Some(\"host\")",
                "r_host default Some(\"hdd\") Some(\"host\")",
            ]
        );
    }

    #[test]
    fn domains_are_counted_by_what_they_hold() {
        let tree = tree();
        for (domain, osds, count) in [
            ("host", vec![0, 1, 2], 3),
            ("host", vec![0, 2], 2),
            ("osd", vec![0, 2], 2),
            ("root", vec![1], 1),
            ("host", vec![], 0),
            ("rack", vec![0], 0),
        ] {
            assert_eq!(
                tree.domains(domain, &osds.into_iter().collect()),
                count,
                "{domain}"
            );
        }
        assert_eq!(tree.class_of(1), Some("hdd"));
    }
}
