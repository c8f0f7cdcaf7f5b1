//! What a Terraform plan would do, read from `terraform show -json`.

use serde_json::Value;

/// One resource that a plan changes: its address and the actions, such as `["update"]` or `["delete", "create"]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub address: String,
    pub actions: Vec<String>,
}

impl Change {
    pub fn new(address: &str, actions: &[&str]) -> Self {
        Change {
            address: address.to_owned(),
            actions: actions.iter().map(|&action| action.to_owned()).collect(),
        }
    }
}

/// The changes of a plan in the order of their addresses; reads and no-ops are left out.
pub fn changes(plan: &Value) -> Vec<Change> {
    let mut changes: Vec<Change> = plan["resource_changes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|resource| {
            let actions: Vec<String> = resource["change"]["actions"]
                .as_array()?
                .iter()
                .filter_map(|action| action.as_str().map(str::to_owned))
                .collect();
            let acts = actions
                .iter()
                .any(|action| action != "no-op" && action != "read");
            acts.then(|| Change {
                address: resource["address"].as_str().unwrap_or_default().to_owned(),
                actions,
            })
        })
        .collect();
    changes.sort();
    changes
}

/// The hosts of an Ansible run's recap, each with its counts of changed, unreachable and failed tasks.
pub fn recap(output: &str) -> Vec<(String, [u32; 3])> {
    let Some((_, recap)) = output.rsplit_once("PLAY RECAP") else {
        return Vec::new();
    };
    let count = |line: &str, word: &str| {
        let rest = line.split_once(&format!("{word}="))?.1;
        rest.split_whitespace().next()?.parse().ok()
    };
    recap
        .lines()
        .filter_map(|line| {
            let (host, counts) = line.split_once(" : ")?;
            Some((
                host.trim().to_owned(),
                [
                    count(counts, "changed")?,
                    count(counts, "unreachable")?,
                    count(counts, "failed")?,
                ],
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_lists_what_it_changes_and_nothing_else() {
        let plan = json!({"resource_changes": [
            {"address": "b", "change": {"actions": ["update"]}},
            {"address": "c", "change": {"actions": ["no-op"]}},
            {"address": "d", "change": {"actions": ["read"]}},
            {"address": "a", "change": {"actions": ["delete", "create"]}},
        ]});
        assert_eq!(
            changes(&plan),
            [
                Change::new("a", &["delete", "create"]),
                Change::new("b", &["update"])
            ]
        );
        assert_eq!(changes(&json!({})), []);
    }

    #[test]
    fn a_recap_gives_changed_unreachable_and_failed_of_each_host() {
        let output = "ok: [x]\n\nPLAY RECAP *****\n\
                      dns-server   : ok=5    changed=1    unreachable=0    failed=2    skipped=0\n\
                      k8s-master   : ok=5    changed=0    unreachable=1    failed=0    skipped=0\n";
        assert_eq!(
            recap(output),
            [
                ("dns-server".to_owned(), [1, 0, 2]),
                ("k8s-master".to_owned(), [0, 1, 0])
            ]
        );
        assert_eq!(recap("no recap here"), []);
    }
}
