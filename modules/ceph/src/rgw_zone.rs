//! `ceph_rgw_zone`: a realm with its one zone group and zone, for gateways of a single site. It replicates nothing to other sites and removes nothing.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::{Cluster, parse};
use crate::map::OsdMap;
use crate::system::check_name;

/// Create the realm, zone group and zone of a Ceph object gateway
///
/// The zone group is the realm's master and the zone the group's. Whatever is there already is used, and the period is committed if it does not know the
/// zone yet. Nothing of this is ever removed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the realm.
    realm: String,
    /// Name of the zone group, which S3 clients see as the region.
    zonegroup: String,
    /// Name of the zone, with which the names of its pools begin.
    zone: String,
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    realm: String,
    zonegroup: String,
    zone: String,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name("realm", &params.realm)?;
        check_name("zonegroup", &params.zonegroup)?;
        check_name("zone", &params.zone)?;
        Ok(Self {
            realm: params.realm,
            zonegroup: params.zonegroup,
            zone: params.zone,
        })
    }
}

/// What is there of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    realms: BTreeSet<String>,
    zonegroups: BTreeSet<String>,
    zones: BTreeSet<String>,
    /// Zones of the zone group.
    members: BTreeSet<String>,
    /// Zones that the realm's period knows, which is what gateways go by.
    committed: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Realms {
    realms: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Zonegroups {
    zonegroups: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Zones {
    zones: BTreeSet<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Zonegroup {
    zones: Vec<Zone>,
}

#[derive(Debug, Clone, Deserialize)]
struct Zone {
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Period {
    period_map: PeriodMap,
}

#[derive(Debug, Clone, Deserialize)]
struct PeriodMap {
    zonegroups: Vec<Zonegroup>,
}

fn names(zonegroups: impl IntoIterator<Item = Zonegroup>) -> BTreeSet<String> {
    zonegroups
        .into_iter()
        .flat_map(|it| it.zones)
        .map(|it| it.name)
        .collect()
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    CreateRealm,
    CreateZonegroup,
    CreateZone,
    Commit,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateRealm => "create the realm",
            Self::CreateZonegroup => "create the zone group",
            Self::CreateZone => "create the zone",
            Self::Commit => "commit the period, so that gateways know the zone",
        })
    }
}

fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let Desired {
        zonegroup, zone, ..
    } = desired;
    (current.zones.contains(zone)
        && current.zonegroups.contains(zonegroup)
        && !current.members.contains(zone))
    .then(|| format!("the zone {zone} is there, and not in the zone group {zonegroup}"))
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    for (is_there, step) in [
        (current.realms.contains(&desired.realm), Step::CreateRealm),
        (
            current.zonegroups.contains(&desired.zonegroup),
            Step::CreateZonegroup,
        ),
        (current.zones.contains(&desired.zone), Step::CreateZone),
        (current.committed.contains(&desired.zone), Step::Commit),
    ] {
        if !is_there {
            steps.push(step);
        }
    }
    steps
}

/// The module.
#[derive(Default)]
pub struct CephRgwZone {
    cluster: Cluster,
    /// Of the desired state, which `apply` is not given.
    place: [String; 3],
}

impl CephRgwZone {
    fn admin(&self, args: &[&str]) -> anyhow::Result<String> {
        self.cluster.tool("radosgw-admin", args, "")
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<T> {
        let text = self.admin(args)?;
        parse(&text)
            .with_context(|| format!("read what \"radosgw-admin {}\" printed", args.join(" ")))
    }
}

/// Where the realm and the zones are kept. `radosgw-admin` makes it when it only looks, so it is looked for before.
pub(crate) fn has_pool(cluster: &Cluster, name: &str) -> anyhow::Result<bool> {
    let map: OsdMap = cluster.ask(&["osd", "dump"])?;
    Ok(map.pools.iter().any(|pool| pool.pool_name == name))
}

impl Module for CephRgwZone {
    const NAME: &'static str = "ceph_rgw_zone";
    const EXAMPLES: &'static str = r#"
- name: The site's place for objects
  ondol.cloud.ceph_rgw_zone:
    realm: site
    zonegroup: home
    zone: lab
  run_once: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let Desired {
            realm,
            zonegroup,
            zone,
        } = desired;
        self.place = [realm.clone(), zonegroup.clone(), zone.clone()];
        let mut current = Current::default();
        if !self.cluster.is_known() {
            return Ok(current);
        }
        if has_pool(&self.cluster, ".rgw.root")? {
            current.realms = self.ask::<Realms>(&["realm", "list"])?.realms;
            current.zonegroups = self.ask::<Zonegroups>(&["zonegroup", "list"])?.zonegroups;
            current.zones = self.ask::<Zones>(&["zone", "list"])?.zones;
            if current.zonegroups.contains(zonegroup) {
                let told: Zonegroup =
                    self.ask(&["zonegroup", "get", "--rgw-zonegroup", zonegroup])?;
                current.members = names([told]);
            }
            if current.realms.contains(realm) {
                let told: Period = self.ask(&["period", "get", "--rgw-realm", realm])?;
                current.committed = names(told.period_map.zonegroups);
            }
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
        let [realm, zonegroup, zone] = &self.place;
        let (realm, zonegroup, zone) = (
            ["--rgw-realm", realm],
            ["--rgw-zonegroup", zonegroup],
            ["--rgw-zone", zone],
        );
        let master = ["--master", "--default"];
        let args = match step {
            Step::CreateRealm => [&["realm", "create"][..], &realm, &["--default"]].concat(),
            Step::CreateZonegroup => {
                [&["zonegroup", "create"][..], &realm, &zonegroup, &master].concat()
            }
            Step::CreateZone => {
                [&["zone", "create"][..], &realm, &zonegroup, &zone, &master].concat()
            }
            Step::Commit => [
                &["period", "update", "--commit"][..],
                &realm,
                &zonegroup,
                &zone,
            ]
            .concat(),
        };
        self.admin(&args)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired() -> Desired {
        Desired {
            realm: "site".into(),
            zonegroup: "home".into(),
            zone: "lab".into(),
        }
    }

    fn whole() -> Current {
        let set = |name: &str| BTreeSet::from([name.to_owned()]);
        Current {
            realms: set("site"),
            zonegroups: set("home"),
            zones: set("lab"),
            members: set("lab"),
            committed: set("lab"),
        }
    }

    #[test]
    fn each_part_that_is_missing_is_made() {
        use Step::{Commit, CreateRealm, CreateZone, CreateZonegroup};
        assert_eq!(
            plan(&desired(), &Current::default()),
            [CreateRealm, CreateZonegroup, CreateZone, Commit]
        );
        assert_eq!(plan(&desired(), &whole()), []);
        let mut current = whole();
        current.committed.clear();
        assert_eq!(plan(&desired(), &current), [Commit]);
        current.zones.clear();
        current.members.clear();
        assert_eq!(plan(&desired(), &current), [CreateZone, Commit]);
    }

    #[test]
    fn a_zone_of_another_group_is_left_there() {
        let mut current = whole();
        current.members.clear();
        assert_eq!(
            refusal(&desired(), &current).as_deref(),
            Some("the zone lab is there, and not in the zone group home")
        );
        assert_eq!(refusal(&desired(), &whole()), None);
    }
}
