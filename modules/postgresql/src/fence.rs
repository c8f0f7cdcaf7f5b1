//! `postgresql_fence`: makes sure that this machine's cluster takes no writes, now and after a reboot. It promotes nobody.

use std::fmt;

use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::{Cluster, StartMode, State};
use crate::server::usual_cluster;

/// Stop a PostgreSQL cluster and keep it from starting
///
/// The first half of a switchover, and what a failed primary needs before another is promoted. The cluster is forbidden to start first, then
/// stopped: a machine that dies in between does not bring it back. A clean stop hands the last of the log to the standbys.
/// M(ondol.cloud.postgresql_standby) lifts the fence by making the cluster a standby, M(ondol.cloud.postgresql_primary) if nobody was promoted.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Major version of the cluster.
    version: u16,
    /// Name of the cluster.
    #[serde(default = "usual_cluster")]
    cluster: String,
}

/// `Params` after checking.
#[derive(Debug, Clone)]
pub struct Desired(Cluster);

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        Ok(Self(Cluster::new(params.version, &params.cluster)?))
    }
}

/// What is there to fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// No cluster, so nothing that could write.
    Absent,
    Present {
        running: bool,
        mode: StartMode,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Forbid,
    Stop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forbid => "forbid the cluster to start",
            Self::Stop => "stop the cluster",
        })
    }
}

/// The module.
#[derive(Default)]
pub struct PostgresqlFence {
    cluster: Option<Cluster>,
}

impl Module for PostgresqlFence {
    const NAME: &'static str = "postgresql_fence";
    const EXAMPLES: &'static str = r#"
- name: The old primary takes no more writes
  ondol.cloud.postgresql_fence:
    version: 15
  become: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let cluster = &desired.0;
        self.cluster = Some(cluster.clone());
        let Some(place) = cluster.place()? else {
            return Ok(Current::Absent);
        };
        let running = matches!(cluster.state(&place, "postgres")?, State::Running(_));
        Ok(Current::Present {
            running,
            mode: cluster.start_mode()?,
        })
    }

    fn plan(_: &Desired, current: &Current) -> Vec<Step> {
        let Current::Present { running, mode } = *current else {
            return Vec::new();
        };
        let forbid = (mode != StartMode::Disabled).then_some(Step::Forbid);
        let stop = running.then_some(Step::Stop);
        forbid.into_iter().chain(stop).collect()
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let cluster = self.cluster.as_ref().expect("observe comes first");
        match step {
            Step::Forbid => cluster.set_start_mode(StartMode::Disabled),
            Step::Stop => cluster.ctl("stop"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_is_forbidden_before_the_cluster_is_stopped() {
        let present = |running, mode| Current::Present { running, mode };
        let cluster = Cluster::new(15, "main").expect("valid");
        for (current, wanted) in [
            (Current::Absent, vec![]),
            (
                present(true, StartMode::Auto),
                vec![Step::Forbid, Step::Stop],
            ),
            (present(true, StartMode::Disabled), vec![Step::Stop]),
            (present(false, StartMode::Manual), vec![Step::Forbid]),
            (present(false, StartMode::Disabled), vec![]),
        ] {
            assert_eq!(
                PostgresqlFence::plan(&Desired(cluster.clone()), &current),
                wanted
            );
        }
    }
}
