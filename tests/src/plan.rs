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
}
