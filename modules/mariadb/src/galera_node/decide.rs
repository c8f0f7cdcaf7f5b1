//! What a node that is outside of every Primary Component may do, from what is known of all nodes. Pure.
//!
//! The rule behind all of it: two Primary Components must never exist, and no row that only one node holds may be
//! overwritten. So "unknown" is never taken for "absent", and data are discarded only when told.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{NodeFacts, ServerState};
use crate::wsrep::{Position, Uuid};

/// What the playbook said about the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Name and address of every node that holds data.
    pub(crate) members: BTreeMap<String, String>,
    /// Those of `members` that do not exist any more, or whose data do not count.
    pub(crate) lost: BTreeSet<String>,
    /// A Primary Component may be founded.
    pub(crate) bootstrap: bool,
    /// This node's data may be replaced by another history's.
    pub(crate) discard_local_data: bool,
}

/// The way of one node into the Primary Component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is in the Primary Component.
    Member,
    /// Its server is on the way by itself.
    Wait,
    Join {
        /// The node that founds the component now, if it does not exist yet.
        founder: Option<Founder>,
    },
    Found {
        /// Where the history goes on; nothing for a new one.
        from: Option<Position>,
    },
}

/// The node that founds the Primary Component that others wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Its server runs now and will be stopped before.
    pub(crate) stops_first: bool,
}

/// Why nothing may be done. Each names the nodes and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "split brain: {0} and {1} are in different Primary Components; take one of them away from all clients, then join it with \
         discard_local_data, which loses what only it holds"
    )]
    SplitBrain(String, String),
    #[error("nothing is known of {}: run mariadb_galera_status there, or name in lost_members what does not exist any more", .0.join(", "))]
    Unknown(Vec<String>),
    #[error(
        "{0} is down and its position is not known: run mariadb_galera_status with recover there"
    )]
    NoPosition(String),
    #[error("no node is in a Primary Component; with bootstrap one can be founded")]
    NoPrimary,
    #[error("nodes hold different histories, and only a person can say which one counts: {}; name in lost_members those that do not", list(.0))]
    Histories(Vec<(String, Position)>),
    #[error(
        "more than one node holds databases and no node belongs to a cluster: {}; join those that may be overwritten with discard_local_data, \
         after the one that counts was bootstrapped",
        .0.join(", ")
    )]
    SeveralStandalone(Vec<String>),
    #[error(
        "the data of {name} belong to history {own}, the cluster's is {cluster}: joining would discard them; discard_local_data allows it"
    )]
    OtherHistory {
        name: String,
        own: Uuid,
        cluster: Uuid,
    },
    #[error(
        "{name} holds databases ({}) that belong to no cluster: joining would discard them; discard_local_data allows it",
        .databases.join(", ")
    )]
    OwnData {
        name: String,
        databases: Vec<String>,
    },
}

fn list(positions: &[(String, Position)]) -> String {
    let all: Vec<String> = positions
        .iter()
        .map(|(name, position)| format!("{name} is at {position}"))
        .collect();
    all.join(", ")
}

/// `others`: what is known of other nodes; of an unknown name nothing counts.
pub(crate) fn way(rules: &Rules, own: &NodeFacts, others: &[NodeFacts]) -> Result<Way, Refusal> {
    let known: BTreeMap<&str, &NodeFacts> = others
        .iter()
        .filter(|it| rules.members.contains_key(&it.name) && it.name != own.name)
        .chain([own])
        .map(|it| (it.name.as_str(), it))
        .collect();
    split_brain(&known)?;
    if own.is_primary() {
        return Ok(Way::Member);
    }
    let primary = known.values().find(|it| it.is_primary());
    if let Some(primary) = primary {
        if own.server == ServerState::Running && own.wsrep.is_some() {
            // It was cut off, and comes back as soon as it is heard.
            return Ok(Way::Wait);
        }
        may_be_overwritten(rules, own, primary.history())?;
        return Ok(match own.server {
            ServerState::Starting => Way::Wait,
            _ => Way::Join { founder: None },
        });
    }
    if own.founding {
        return Ok(Way::Wait);
    }
    if let Some(founding) = known.values().find(|it| it.founding) {
        may_be_overwritten(rules, own, founding.history())?;
        return Ok(match own.server {
            ServerState::Starting => Way::Wait,
            _ => Way::Join {
                founder: Some(founder(rules, founding, false)),
            },
        });
    }
    if !rules.bootstrap {
        return Err(Refusal::NoPrimary);
    }
    let (chosen, from) = choose(rules, &known)?;
    if chosen.name == own.name {
        return Ok(Way::Found { from });
    }
    may_be_overwritten(rules, own, from.as_ref().map(|it| &it.uuid))?;
    Ok(Way::Join {
        founder: Some(founder(
            rules,
            chosen,
            matches!(chosen.server, ServerState::Starting | ServerState::Running),
        )),
    })
}

fn founder(rules: &Rules, node: &NodeFacts, stops_first: bool) -> Founder {
    Founder {
        name: node.name.clone(),
        address: rules.members.get(&node.name).cloned().unwrap_or_default(),
        stops_first,
    }
}

/// Two nodes that are Primary and do not have each other in their components, or that continue different histories.
fn split_brain(known: &BTreeMap<&str, &NodeFacts>) -> Result<(), Refusal> {
    let primaries: Vec<(&str, _)> = known
        .iter()
        .filter_map(|(name, node)| Some((*name, node.wsrep.as_ref().filter(|it| it.primary)?)))
        .collect();
    for (index, (name, wsrep)) in primaries.iter().enumerate() {
        for (other_name, other) in &primaries[index + 1..] {
            let has = |component: &[String], name: &str| {
                component.is_empty() || component.iter().any(|it| it == name)
            };
            // Seen from one side only, it is a change between two looks.
            let apart = !has(&wsrep.component, other_name) && !has(&other.component, name);
            if apart || wsrep.cluster_uuid != other.cluster_uuid {
                return Err(Refusal::SplitBrain(
                    (*name).to_owned(),
                    (*other_name).to_owned(),
                ));
            }
        }
    }
    Ok(())
}

/// `history` is the cluster's; nothing for one that is new.
fn may_be_overwritten(
    rules: &Rules,
    own: &NodeFacts,
    history: Option<&Uuid>,
) -> Result<(), Refusal> {
    if rules.discard_local_data || own.half_copied {
        return Ok(());
    }
    match (own.history(), history) {
        (Some(own_history), Some(cluster)) if own_history == cluster => Ok(()),
        (Some(own_history), Some(cluster)) => Err(Refusal::OtherHistory {
            name: own.name.clone(),
            own: own_history.clone(),
            cluster: cluster.clone(),
        }),
        _ if own.databases.is_empty() => Ok(()),
        // Of a server that only receives data, the directory says nothing.
        _ if own.server == ServerState::Starting => Ok(()),
        _ => Err(Refusal::OwnData {
            name: own.name.clone(),
            databases: own.databases.clone(),
        }),
    }
}

/// The node whose data the cluster continues.
fn choose<'a>(
    rules: &Rules,
    known: &BTreeMap<&str, &'a NodeFacts>,
) -> Result<(&'a NodeFacts, Option<Position>), Refusal> {
    let unknown: Vec<String> = rules
        .members
        .keys()
        .filter(|name| !known.contains_key(name.as_str()) && !rules.lost.contains(*name))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Err(Refusal::Unknown(unknown));
    }
    let known: BTreeMap<&str, &NodeFacts> = known
        .iter()
        .filter(|(name, _)| !rules.lost.contains(**name))
        .map(|(name, node)| (*name, *node))
        .collect();
    if let Some(node) = known.values().find(|it| !it.position_known) {
        return Err(Refusal::NoPosition(node.name.clone()));
    }
    let positions: Vec<(&NodeFacts, &Position)> = known
        .values()
        .filter_map(|node| Some((*node, node.position.as_ref()?)))
        .collect();
    let histories: BTreeSet<&Uuid> = positions.iter().map(|(_, it)| &it.uuid).collect();
    if histories.len() > 1 {
        let named =
            |(node, position): &(&NodeFacts, &Position)| (node.name.clone(), (*position).clone());
        return Err(Refusal::Histories(positions.iter().map(named).collect()));
    }
    // Of equals the one that Galera marked, then the first by name: every node must come to the same answer.
    let best = positions.iter().rev().max_by_key(|(node, position)| {
        let marked = node
            .grastate
            .as_ref()
            .is_some_and(|it| it.safe_to_bootstrap);
        (position.seqno, marked)
    });
    if let Some((node, position)) = best {
        return Ok((node, Some((*position).clone())));
    }
    let with_data: Vec<&NodeFacts> = known
        .values()
        .copied()
        .filter(|it| !it.databases.is_empty() && !it.half_copied)
        .collect();
    match with_data.as_slice() {
        [] => {
            let Some(first) = known.values().next() else {
                return Err(Refusal::NoPrimary);
            };
            Ok((first, None))
        }
        [only] => Ok((only, None)),
        several => Err(Refusal::SeveralStandalone(
            several.iter().map(|it| it.name.clone()).collect(),
        )),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
