//! `mariadb_galera_status`: what one node of a Galera cluster holds and where it stands, as the decisions about a cluster need it.
//!
//! It only looks; and it looks at this machine alone, so that a node that does not answer is missing in a playbook's list.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ondol_kit::{Finding, Invalid, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::facts::{NodeFacts, ServerState};
use crate::galera_node::is_name;
use crate::server::{Server, is_installed};
use crate::settings::{self, Effective};

/// See where this machine's MariaDB stands in its Galera cluster
///
/// Collect what it returns as `node` on all nodes and hand it to M(ondol.cloud.mariadb_galera_node), which decides by it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of this node.
    node_name: String,
    /// If the server is down and did not end in order, let it recover its position. InnoDB then applies its log, as at every start; nothing
    /// else changes.
    #[serde(default)]
    recover: bool,
    /// Fail unless the node is a synced member of a Primary Component.
    #[serde(default)]
    expect_synced: bool,
    /// Fail unless its component has this many nodes, arbitrators among them.
    expect_size: Option<u32>,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired(Params);

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        if !is_name(&params.node_name) {
            return Err(Invalid::new(
                "node_name",
                "a node's name is made of letters, digits, hyphens, underscores and dots",
            ));
        }
        Ok(Self(params))
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Answer {
    /// This node.
    pub node: NodeFacts,
}

fn judge(desired: &Params, node: NodeFacts) -> Finding<Answer> {
    let size = node.wsrep.as_ref().map_or(0, |it| it.size);
    let failure = if (desired.expect_synced || desired.expect_size.is_some()) && !node.is_synced() {
        Some(format!(
            "{} is not a synced member of a Primary Component: {}",
            node.name,
            match &node.wsrep {
                Some(wsrep) if wsrep.primary => format!("it is {}", wsrep.state),
                Some(_) => "it is outside of every Primary Component".to_owned(),
                None => format!("its server is {:?}", node.server).to_lowercase(),
            }
        ))
    } else {
        desired
            .expect_size
            .filter(|it| *it != size)
            .map(|expected| format!("the component has {size} nodes, not {expected}"))
    };
    let answer = Answer { node };
    match failure {
        Some(failure) => Finding::bad(answer, failure),
        None => Finding::good(answer),
    }
}

/// A unit that starts lets the server recover first; where that ends is known when the server itself runs.
const SETTLING: Duration = Duration::from_secs(60);

/// The probe.
#[derive(Debug, Default)]
pub struct Status;

impl Probe for Status {
    const NAME: &'static str = "mariadb_galera_status";
    const EXAMPLES: &'static str = r#"
- name: Where every node stands
  ondol.cloud.mariadb_galera_status:
    node_name: "{{ inventory_hostname }}"
    recover: true
  register: galera

- name: Two nodes and their arbitrator are one component
  ondol.cloud.mariadb_galera_status:
    node_name: "{{ inventory_hostname }}"
    expect_size: 3
"#;

    type Params = Params;
    type Desired = Desired;
    type Answer = Answer;

    fn probe(&mut self, desired: &Desired) -> anyhow::Result<Finding<Answer>> {
        let Desired(params) = desired;
        let server = if is_installed() {
            Server::new(&settings::as_is()?)
        } else {
            Server::new(&Effective::new())
        };
        let deadline = Instant::now() + SETTLING;
        let node = loop {
            let node = server.facts(&params.node_name, params.recover)?;
            let settling = node.server == ServerState::Starting && !node.position_known;
            if !settling || Instant::now() >= deadline {
                break node;
            }
            sleep(Duration::from_millis(200));
        };
        Ok(judge(params, node))
    }
}
