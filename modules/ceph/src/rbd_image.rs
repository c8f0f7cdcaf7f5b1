//! `ceph_rbd_image`: one block device image in a pool. It maps nothing to a device and knows no snapshots.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::{Cluster, parse};
use crate::map::{OsdMap, Pool};
use crate::system::check_name;

/// Create, grow or remove an RBD image of a Ceph cluster
///
/// An image is never made smaller and never removed without a word, because that loses what is in it. The machine needs C(/etc/ceph/ceph.conf) and
/// the administrator's keyring.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Pool of the image.
    pool: String,
    /// Name of the image.
    name: String,
    /// Size. Required for `present`.
    #[schemars(range(min = 1, max = 1_073_741_824))]
    size_mib: Option<u64>,
    /// Pool of the data when the image is made, such as an erasure-coded one.
    data_pool: Option<String>,
    /// Allow the image to be cut off at a smaller size, and to be removed.
    #[serde(default)]
    delete_data: bool,
    /// Whether the image should exist.
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

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pool: String,
    name: String,
    /// `None`: the image should not exist.
    image: Option<Image>,
    delete_data: bool,
}

/// An image as it is or should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Bytes.
    size: u64,
    data_pool: Option<String>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        check_name("pool", &params.pool)?;
        check_name("name", &params.name)?;
        if let Some(pool) = &params.data_pool {
            check_name("data_pool", pool)?;
        }
        let image = match params.state {
            State::Absent => None,
            State::Present => Some(Image {
                size: params.size_mib.ok_or_else(|| {
                    Invalid::new("size_mib", "is required for an image that is present")
                })? << 20,
                data_pool: params.data_pool,
            }),
        };
        Ok(Self {
            pool: params.pool,
            name: params.name,
            image,
            delete_data: params.delete_data,
        })
    }
}

/// What `rbd info` tells.
#[derive(Debug, Clone, Deserialize)]
struct Info {
    size: u64,
    data_pool: Option<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Create(Image),
    Resize { size: u64, from: u64 },
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(image) => {
                write!(f, "create the image of {} MiB", image.size >> 20)?;
                match &image.data_pool {
                    Some(pool) => write!(f, " with its data in {pool}"),
                    None => Ok(()),
                }
            }
            Self::Resize { size, from } => {
                let act = if size > from { "grow" } else { "cut" };
                write!(
                    f,
                    "{act} the image to {} MiB (is {} MiB)",
                    size >> 20,
                    from >> 20
                )
            }
            Self::Remove => write!(f, "remove the image"),
        }
    }
}

/// Why nothing may be done, if so. `full` names pools: `rbd` would wait until they are not, and say nothing.
fn refusal(desired: &Desired, current: Option<&Image>, full: &BTreeSet<String>) -> Option<String> {
    if let Some(image) = &desired.image
        && current.is_none_or(|is| image.size > is.size)
        && let Some(pool) = [Some(&desired.pool), image.data_pool.as_ref()]
            .into_iter()
            .flatten()
            .find(|pool| full.contains(*pool))
    {
        return Some(format!(
            "the pool {pool} is full, and takes nothing until there is room again"
        ));
    }
    let (name, current) = (format!("{}/{}", desired.pool, desired.name), current?);
    let Some(wanted) = &desired.image else {
        return (!desired.delete_data)
            .then(|| format!("the image {name} may hold data; `delete_data: true` removes it"));
    };
    if wanted.data_pool.is_some() && wanted.data_pool != current.data_pool {
        return Some(format!(
            "the data of the image {name} is in {}, and stays there",
            current.data_pool.as_ref().unwrap_or(&desired.pool)
        ));
    }
    (wanted.size < current.size && !desired.delete_data).then(|| {
        format!(
            "the image {name} has {} MiB, and what is beyond {} MiB would be lost; `delete_data: true` cuts it off",
            current.size >> 20,
            wanted.size >> 20
        )
    })
}

fn plan(desired: &Desired, current: Option<&Image>) -> Vec<Step> {
    match (&desired.image, current) {
        (None, None) => Vec::new(),
        (None, Some(_)) => vec![Step::Remove],
        (Some(image), None) => vec![Step::Create(image.clone())],
        (Some(image), Some(is)) if image.size != is.size => vec![Step::Resize {
            size: image.size,
            from: is.size,
        }],
        (Some(_), Some(_)) => Vec::new(),
    }
}

/// The module.
#[derive(Default)]
pub struct CephRbdImage {
    cluster: Cluster,
    /// `pool/name` of the desired state, which `apply` is not given.
    spec: String,
}

impl CephRbdImage {
    /// The images of a pool. The list, because a missing pool and a missing image have one and the same exit status.
    fn names(&self, pool: &str) -> anyhow::Result<Vec<String>> {
        let listed = self
            .cluster
            .tool("rbd", &["ls", pool, "--format", "json"], "")?;
        parse(&listed).context("read the list of images")
    }
}

impl Module for CephRbdImage {
    const NAME: &'static str = "ceph_rbd_image";
    const EXAMPLES: &'static str = r#"
- name: A disk of 20 GiB
  ondol.cloud.ceph_rbd_image:
    pool: vms
    name: disk
    size_mib: 20480
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Option<Image>;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Option<Image>> {
        self.spec = format!("{}/{}", desired.pool, desired.name);
        if desired.image.is_some() && !self.cluster.is_known() {
            return Ok(None);
        }
        let mut full = BTreeSet::new();
        if desired.image.is_some() {
            let map: OsdMap = self.cluster.ask(&["osd", "dump"])?;
            // In check mode an earlier task may be about to make the pool. Otherwise creation says that there is none.
            if !map.pools.iter().any(|it| it.pool_name == desired.pool) {
                return Ok(None);
            }
            let pools = map.pools.into_iter().filter(Pool::is_full);
            full.extend(pools.map(|it| it.pool_name));
        }
        let names = self.names(&desired.pool)?;
        let current = if names.contains(&desired.name) {
            let info = self
                .cluster
                .tool("rbd", &["info", &self.spec, "--format", "json"], "")?;
            let info: Info = parse(&info).with_context(|| format!("read about {}", self.spec))?;
            Some(Image {
                size: info.size,
                data_pool: info.data_pool,
            })
        } else {
            None
        };
        match refusal(desired, current.as_ref(), &full) {
            Some(reason) => bail!("refused: {reason}"),
            None => Ok(current),
        }
    }

    fn plan(desired: &Desired, current: &Option<Image>) -> Vec<Step> {
        plan(desired, current.as_ref())
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        let bytes = |size: u64| format!("{size}B");
        match step {
            Step::Create(image) => {
                if let Some((pool, _)) = self.spec.split_once('/') {
                    self.names(pool)?;
                }
                let size = bytes(image.size);
                let mut args = vec!["create", &self.spec, "--size", &size];
                if let Some(pool) = &image.data_pool {
                    args.extend(["--data-pool", pool]);
                }
                self.cluster.tool("rbd", &args, "")?;
            }
            Step::Resize { size, from } => {
                let text = bytes(*size);
                let mut args = vec!["resize", &self.spec, "--size", &text, "--no-progress"];
                if size < from {
                    args.push("--allow-shrink");
                }
                self.cluster.tool("rbd", &args, "")?;
            }
            Step::Remove => {
                self.cluster
                    .tool("rbd", &["rm", &self.spec, "--no-progress"], "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(change: serde_json::Value) -> Desired {
        let mut json = serde_json::json!({"pool": "vms", "name": "disk", "size_mib": 1024});
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap()).unwrap()
    }

    fn image(mib: u64) -> Image {
        Image {
            size: mib << 20,
            data_pool: None,
        }
    }

    #[test]
    fn an_image_is_created_grown_and_left_alone() {
        use serde_json::json;
        for (change, current, wanted) in [
            (json!({}), None, vec!["create the image of 1024 MiB"]),
            (
                json!({"data_pool": "ec"}),
                None,
                vec!["create the image of 1024 MiB with its data in ec"],
            ),
            (json!({}), Some(image(1024)), vec![]),
            (
                json!({}),
                Some(image(512)),
                vec!["grow the image to 1024 MiB (is 512 MiB)"],
            ),
            (
                json!({"delete_data": true}),
                Some(image(2048)),
                vec!["cut the image to 1024 MiB (is 2048 MiB)"],
            ),
            (
                json!({"state": "absent", "delete_data": true}),
                Some(image(1)),
                vec!["remove the image"],
            ),
            (json!({"state": "absent"}), None, vec![]),
        ] {
            let desired = desired(change);
            assert_eq!(refusal(&desired, current.as_ref(), &BTreeSet::new()), None);
            let lines: Vec<String> = plan(&desired, current.as_ref())
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(lines, wanted);
        }
    }

    #[test]
    fn data_is_not_lost_without_a_word() {
        use serde_json::json;
        for (change, wanted) in [
            (
                json!({}),
                "the image vms/disk has 2048 MiB, and what is beyond 1024 MiB would be lost",
            ),
            (
                json!({"state": "absent"}),
                "the image vms/disk may hold data",
            ),
            (
                json!({"size_mib": 2048, "data_pool": "ec"}),
                "the data of the image vms/disk is in vms, and stays there",
            ),
        ] {
            let reason =
                refusal(&desired(change), Some(&image(2048)), &BTreeSet::new()).expect(wanted);
            assert!(reason.starts_with(wanted), "{reason}");
        }
    }

    #[test]
    fn a_full_pool_takes_no_image_but_may_lose_one() {
        use serde_json::json;
        let full = BTreeSet::from(["ec".to_owned(), "vms".to_owned()]);
        let data_alone = BTreeSet::from(["ec".to_owned()]);
        let of = |pool: &str| {
            Some(format!(
                "the pool {pool} is full, and takes nothing until there is room again"
            ))
        };
        for (change, current, full, wanted) in [
            (json!({}), None, &full, of("vms")),
            (json!({"data_pool": "ec"}), None, &data_alone, of("ec")),
            (json!({}), Some(image(512)), &full, of("vms")),
            (json!({}), None, &data_alone, None),
            (json!({}), Some(image(1024)), &full, None),
            (
                json!({"state": "absent", "delete_data": true}),
                Some(image(1)),
                &full,
                None,
            ),
        ] {
            let told = refusal(&desired(change.clone()), current.as_ref(), full);
            assert_eq!(told, wanted, "{change}");
        }
    }
}
