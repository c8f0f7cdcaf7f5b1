//! What is known of one node at one moment: the words in which nodes are compared with each other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wsrep::{Grastate, Position, Uuid};

/// One node as M(ondol.cloud.mariadb_galera_status) saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeFacts {
    /// Name of the node in its cluster.
    pub name: String,
    /// What the server does.
    pub server: ServerState,
    /// The server was started to found a Primary Component.
    pub founding: bool,
    /// The node in its component; only of a running server that replicates.
    pub wsrep: Option<Wsrep>,
    /// What Galera's state file says.
    pub grastate: Option<Grastate>,
    /// The last transaction that the node holds. Nothing if it holds no history, or if `position_known` is false.
    pub position: Option<Position>,
    /// Whether `position` was found out. After a crash of a server that is down it takes `recover`.
    pub position_known: bool,
    /// Databases in the data directory beside the server's own.
    pub databases: Vec<String>,
    /// A copy of another node's data was broken off here: what is there is half of something.
    pub half_copied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// MariaDB is not installed.
    Absent,
    /// There is no process.
    Stopped,
    /// There is a process that does not take connections yet: it waits for its cluster, or receives data.
    Starting,
    /// It takes connections.
    Running,
}

/// A running server's view of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wsrep {
    /// The node is in a Primary Component.
    pub primary: bool,
    /// The node takes queries, C(wsrep_ready).
    pub ready: bool,
    /// C(wsrep_local_state_comment), such as C(Synced).
    pub state: String,
    /// UUID of the history that its component continues.
    pub cluster_uuid: Option<Uuid>,
    /// Nodes in its component, arbitrators among them.
    pub size: u32,
    /// Names of the nodes in its component. An arbitrator is called C(garb). Empty where the node takes no queries.
    pub component: Vec<String>,
    /// Version of Galera.
    pub provider_version: String,
}

impl NodeFacts {
    pub(crate) fn is_primary(&self) -> bool {
        self.wsrep.as_ref().is_some_and(|it| it.primary)
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.wsrep
            .as_ref()
            .is_some_and(|it| it.primary && it.ready && it.state == "Synced")
    }

    /// UUID of the history that the node's data belong to.
    pub(crate) fn history(&self) -> Option<&Uuid> {
        match &self.wsrep {
            Some(wsrep) if wsrep.primary => wsrep.cluster_uuid.as_ref(),
            _ => self
                .position
                .as_ref()
                .map(|it| &it.uuid)
                .or_else(|| self.grastate.as_ref()?.uuid.as_ref()),
        }
    }
}
