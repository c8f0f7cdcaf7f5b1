//! What is refused, and what is done otherwise. Pure: it reaches neither the device nor the cluster.

use super::*;

/// Why nothing may be done, if so.
pub(super) fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let path = desired
        .place
        .as_ref()
        .map(|it| it.path().display().to_string());
    let path = path.unwrap_or_default();
    let foreign = |whole: &Whole| {
        (whole.cluster != current.map.fsid).then(|| {
            format!(
                "{path} holds osd.{} of the cluster {}, not {}",
                whole.id, whole.cluster, current.map.fsid
            )
        })
    };
    // A running OSD reads its label only when it starts: what looks like an empty or foreign device may be its data.
    if let Want::Present { .. } = desired.want
        && !matches!(current.label, Label::Osd { .. })
        && let Some(former) = current.former.iter().find(|it| it.unit.active)
    {
        return Some(format!(
            "osd.{} runs on {path}, which no longer holds its label; stop it first if its device was replaced",
            former.id
        ));
    }
    match (&desired.want, &current.label) {
        (Want::Present { .. }, Label::Nowhere) => match &desired.place {
            Some(Place::File { size_mib: None, .. }) => {
                Some(format!("there is no {path}, and no `file_size_mib` to make it"))
            }
            Some(Place::Device(_)) => Some(format!("there is no {path}")),
            _ => None,
        },
        (Want::Present { .. }, Label::Other(what)) => Some(format!("{path} is not empty: it holds {what}")),
        (Want::Present { .. }, Label::Osd { uuid, whole: None }) => (current.begun != Some(*uuid))
            .then(|| format!("{path} holds an OSD ({uuid}) that is not whole and was not begun here")),
        (Want::Present { .. }, Label::Osd { uuid, whole: Some(whole) }) => foreign(whole).or_else(|| {
            let registered = current.entry(*uuid).is_some();
            (!registered && current.begun != Some(*uuid)).then(|| {
                format!(
                    "{path} holds osd.{} ({uuid}), which the cluster has purged; remove it with `state: absent` and `zap: true`",
                    whole.id
                )
            })
        }),
        (Want::Absent { zap: true, .. }, Label::Other(what)) => {
            Some(format!("{path} holds no OSD but {what}, and is left as it is"))
        }
        (Want::Absent { .. }, _) if current.begun.is_some() => None,
        (Want::Absent { id, .. }, Label::Osd { uuid, whole }) => {
            let whole_id = whole.as_ref().map(|it| it.id);
            if let Some(reason) = whole.as_ref().and_then(foreign) {
                return Some(reason);
            }
            if let (Some(id), Some(other)) = (id, whole_id)
                && *id != other
            {
                return Some(format!("{path} holds osd.{other}, not osd.{id}"));
            }
            removal_refusal(current, current.entry(*uuid))
        }
        (Want::Absent { id: Some(id), .. }, _) => {
            removal_refusal(current, current.map.osds.iter().find(|osd| osd.osd == *id))
        }
        (Want::Absent { .. } | Want::Present { .. }, _) => None,
    }
}

fn removal_refusal(current: &Current, entry: Option<&Osd>) -> Option<String> {
    let (Some(osd), Some(removal)) = (entry, &current.removal) else {
        return None;
    };
    let id = osd.osd;
    match &removal.destroy {
        Verdict::Yes if !osd.is_up() => return None,
        // With nothing on it that should be so; it is asked all the same.
        Verdict::Yes => {
            return match &removal.stop {
                Verdict::Yes => None,
                Verdict::No(why) => Some(format!("osd.{id} cannot be stopped: {why}")),
                Verdict::Unknown => Some(format!(
                    "the cluster cannot tell yet whether osd.{id} can be stopped"
                )),
            };
        }
        Verdict::Unknown => {
            return Some(format!(
                "the cluster cannot tell yet whether osd.{id} is safe to destroy"
            ));
        }
        Verdict::No(_) => {}
    }
    // Its data needs somewhere to go.
    let others = || {
        let osds = current.map.osds.iter();
        osds.filter(|other| other.osd != id && other.is_up() && other.is_in())
    };
    let full: Vec<String> = others()
        .filter(|other| other.takes_nothing())
        .map(|other| format!("osd.{}", other.osd))
        .collect();
    let full = match full.as_slice() {
        [] => String::new(),
        full => format!(", as {} can take nothing: too full", full.join(", ")),
    };
    let others: BTreeSet<u32> = others()
        .filter(|other| !other.takes_nothing())
        .map(|other| other.osd)
        .collect();
    current.map.pools.iter().find_map(|pool| {
        let rule = removal.rules.iter().find(|rule| rule.rule_id == pool.crush_rule)?;
        let domain = rule.failure_domain()?;
        let remain = current.tree.domains(domain, &others);
        (remain < usize::try_from(pool.size).unwrap_or(usize::MAX)).then(|| {
            format!(
                "osd.{id} is not safe to destroy: the pool {} keeps {} copies or shards, each on another {domain}, and without it {remain} would be left{full}",
                pool.pool_name, pool.size
            )
        })
    })
}

pub(super) fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    match &desired.want {
        Want::Present {
            device_class,
            memory_target,
        } => plan_present(desired, current, device_class.as_deref(), *memory_target),
        Want::Absent { id, zap } => plan_absent(desired, current, *id, *zap),
    }
}

/// Those that were on the device before: out before the new one is in, so that data moves once, and never started again on what is now
/// another one's. Of one that the cluster has purged nothing stays, because the new one may get its number.
fn make_room(current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    for former in &current.former {
        let entry = current.entry(former.uuid);
        if entry.is_some_and(Osd::is_in) {
            steps.push(Step::MarkOut { id: former.id });
        }
        if former.unit.enabled {
            steps.push(Step::Retire { id: former.id });
        }
        if entry.is_none() {
            steps.push(Step::RemoveFolder { id: former.id });
        }
    }
    steps
}

/// What an OSD's service needs beyond the packages': the device's node belongs to root after every boot.
pub(super) fn drop_in(place: &Place) -> Option<String> {
    match place {
        Place::Device(path) => Some(format!(
            "# Managed by ondol.cloud.ceph_osd.\n[Service]\nExecStartPre=+/bin/chown ceph:ceph {}\n",
            path.display()
        )),
        Place::File { .. } => None,
    }
}

fn plan_present(
    desired: &Desired,
    current: &Current,
    class: Option<&str>,
    memory_target: Option<u64>,
) -> Vec<Step> {
    let Some(place) = &desired.place else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    let path = place.path().clone();
    if let (
        Label::Nowhere,
        Place::File {
            path,
            size_mib: Some(size_mib),
        },
    ) = (&current.label, place)
    {
        steps.push(Step::CreateFile {
            path: path.clone(),
            size_mib: *size_mib,
        });
    }
    let mut entry = None;
    match &current.label {
        Label::Osd {
            uuid,
            whole: Some(whole),
        } if current.begun != Some(*uuid) => {
            entry = current.entry(*uuid);
            if !current.local.folder {
                steps.push(Step::Activate {
                    path,
                    uuid: *uuid,
                    id: whole.id,
                });
            }
        }
        _ => {
            steps.extend(make_room(current));
            steps.push(Step::Create {
                path,
                uuid: current.begun.unwrap_or(current.spare),
                begun: current.begun.is_some(),
            });
        }
    }
    if let Some(text) = drop_in(place)
        && current.local.drop_in.as_ref() != Some(&text)
    {
        steps.push(Step::WriteDropIn { text });
    }
    if !current.local.unit.enabled {
        steps.push(Step::Enable);
    }
    if !current.local.unit.active {
        steps.push(Step::Start);
    }
    if !entry.is_some_and(Osd::is_up) {
        steps.push(Step::AwaitUp {
            patience: desired.patience,
        });
    }
    if let Some(class) = class {
        let from = entry.and_then(|it| current.tree.class_of(it.osd));
        if from != Some(class) {
            steps.push(Step::SetClass {
                class: class.to_owned(),
                from: from.map(str::to_owned),
            });
        }
    }
    if let Some(bytes) = memory_target
        && current.memory_target != Some(bytes)
    {
        steps.push(Step::SetMemoryTarget {
            bytes,
            from: current.memory_target,
        });
    }
    steps
}

fn plan_absent(desired: &Desired, current: &Current, id: Option<u32>, zap: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(uuid) = current.begun {
        // It never was up, so nothing is on it.
        if let Some(osd) = current.entry(uuid) {
            steps.push(Step::Purge { id: osd.osd });
        }
        steps.push(Step::RemoveBegun { uuid });
        steps.extend(zap_step(desired, current, zap));
        return steps;
    }
    let labelled = match &current.label {
        Label::Osd { uuid, whole } => current
            .entry(*uuid)
            .map(|it| it.osd)
            .or(whole.as_ref().map(|it| it.id)),
        _ => None,
    };
    if let Some(id) = labelled.or(id) {
        // By its uuid where that is known: the number of a purged OSD may have gone to another one.
        let entry = match &current.label {
            Label::Osd { uuid, .. } => current.entry(*uuid),
            _ => current.map.osds.iter().find(|osd| osd.osd == id),
        };
        let is_safe = current
            .removal
            .as_ref()
            .is_some_and(|it| it.destroy == Verdict::Yes);
        if let Some(osd) = entry
            && !is_safe
        {
            if osd.is_in() {
                steps.push(Step::MarkOut { id });
            }
            steps.push(Step::AwaitSafe {
                id,
                patience: desired.patience,
            });
        }
        if current.local.unit.active || current.local.unit.enabled {
            steps.push(Step::Stop { id });
        }
        if entry.is_some() {
            steps.push(Step::Purge { id });
        }
        if current.local.folder || current.local.drop_in.is_some() {
            steps.push(Step::RemoveFolder { id });
        }
    }
    steps.extend(zap_step(desired, current, zap));
    steps
}

fn zap_step(desired: &Desired, current: &Current, zap: bool) -> Option<Step> {
    let place = desired.place.as_ref().filter(|_| zap)?;
    matches!(current.label, Label::Osd { .. }).then(|| Step::Zap {
        path: place.path().clone(),
        is_file: matches!(place, Place::File { .. }),
    })
}
