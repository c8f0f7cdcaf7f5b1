//! What is refused, and what is done otherwise. Pure: it reaches neither the machine nor the cluster.

use super::*;

/// Why nothing may be done, if so.
pub(super) fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let Desired { name, fsid, .. } = desired;
    if let Some(other) = current.store.filter(|other| other != fsid) {
        return Some(format!(
            "the store of monitor {name} belongs to the cluster {other}, not {fsid}"
        ));
    }
    match &desired.want {
        Want::Absent => removal_refusal(desired, current),
        Want::Present {
            bootstrap,
            admin_key,
            ..
        } => {
            let configured = current
                .conf
                .as_deref()
                .and_then(|text| conf::option(text, "fsid"));
            if let Some(other) = configured.filter(|it| it.parse() != Ok(*fsid)) {
                return Some(format!(
                    "{} is of the cluster {other}, not {fsid}",
                    conf::PATH
                ));
            }
            if current.store.is_some() {
                let differs = current.admin_key.as_ref().is_some_and(|it| it != admin_key);
                return differs.then(|| {
                    format!(
                        "admin_key is not the key in {}, with which the cluster lives",
                        conf::ADMIN_KEYRING
                    )
                });
            }
            store_refusal(desired, current, *bootstrap)
        }
    }
}

/// Whether a store may be made where there is none.
fn store_refusal(desired: &Desired, current: &Current, bootstrap: bool) -> Option<String> {
    let Desired { name, fsid, .. } = desired;
    let named = |wanted: fn(&Peer) -> bool| -> Vec<String> {
        let found = current.peers.iter().filter(|(_, peer)| wanted(peer));
        found.map(|(address, _)| address.to_string()).collect()
    };
    match &current.living {
        Living::Quorum { fsid: other, .. } if other != fsid => Some(format!(
            "the monitors at {} are those of the cluster {other}, not {fsid}: nothing is founded over a living cluster",
            named(|peer| *peer == Peer::Answers).join(", ")
        )),
        Living::Quorum {
            members, quorum, ..
        } => {
            // The others may still count this one, whose store is gone.
            let joins =
                |member: &&String| *member != name && desired.monitors.contains_key(*member);
            if !quorum.iter().any(|member| joins(&member)) {
                return Some(format!(
                    "the cluster {fsid} lives with the monitors {}, and none of them is in `monitors`: \
                     nothing is founded over a living cluster",
                    list(quorum)
                ));
            }
            let wanted = desired.monitors.get(name);
            if let Some(other) = members.get(name).filter(|it| Some(*it) != wanted) {
                return Some(format!(
                    "the cluster knows the monitor {name} at {other}: remove it from the map before it gets another address"
                ));
            }
            let mut together: BTreeSet<&String> = members.keys().collect();
            together.extend(desired.monitors.keys());
            together.len().is_multiple_of(2).then(|| {
                format!(
                    "the map would hold an even number of monitors ({}): remove those that are not in `monitors` first",
                    list(members.keys().chain([name]).collect::<BTreeSet<_>>())
                )
            })
        }
        Living::Denied(words) => Some(format!(
            "a cluster lives at {} and does not accept admin_key: nothing is founded over it ({words})",
            named(|peer| *peer == Peer::Answers).join(", ")
        )),
        // Monitors that are being founded answer before they have a quorum.
        Living::NoQuorum(_) | Living::NotAsked if bootstrap => {
            if current.osds_of.contains(fsid) {
                return Some(format!(
                    "this machine holds OSDs of the cluster {fsid}, so it was founded before: start or restore its monitors"
                ));
            }
            let silent = named(|peer| matches!(peer, Peer::Silent(_)));
            (!silent.is_empty()).then(|| {
                format!(
                    "it is unknown whether a monitor lives at {}: nothing is founded until these machines can be reached",
                    silent.join(", ")
                )
            })
        }
        Living::NoQuorum(words) => Some(format!("the monitors have no quorum: {words}")),
        Living::NotAsked => Some(
            "no monitor of the cluster answers; if there is none yet, say `bootstrap: true`"
                .to_owned(),
        ),
    }
}

fn removal_refusal(desired: &Desired, current: &Current) -> Option<String> {
    let name = &desired.name;
    match &current.living {
        Living::Quorum { fsid, .. } if *fsid != desired.fsid => Some(format!(
            "the monitors are those of the cluster {fsid}, not {}",
            desired.fsid
        )),
        Living::Quorum {
            members, quorum, ..
        } => {
            let unknown: BTreeSet<&String> = desired
                .monitors
                .keys()
                .filter(|it| !members.contains_key(*it))
                .collect();
            if !unknown.is_empty() {
                return Some(format!(
                    "{} should remain and is not in the map",
                    list(unknown)
                ));
            }
            if !members.contains_key(name) {
                return None;
            }
            let remain = members.len() - 1;
            let alive = quorum.iter().filter(|it| *it != name).count();
            (alive * 2 <= remain).then(|| {
                format!(
                    "without {name} {alive} of {remain} monitors would be left in the quorum, which is no majority"
                )
            })
        }
        Living::Denied(words) | Living::NoQuorum(words) => Some(words.clone()),
        Living::NotAsked => Some("no monitor of the cluster answers".to_owned()),
    }
}

pub(super) fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|it| it.as_ref().to_owned()).collect();
    names.join(", ")
}

pub(super) fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    match &desired.want {
        Want::Present { .. } => plan_present(desired, current),
        Want::Absent => plan_absent(desired, current),
    }
}

fn plan_present(desired: &Desired, current: &Current) -> Vec<Step> {
    let Want::Present {
        monitor_key,
        admin_key,
        patience,
        ..
    } = &desired.want
    else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    if let Some(text) = desired.conf()
        && current.conf.as_ref() != Some(&text)
    {
        steps.push(Step::WriteConf {
            text,
            new: current.conf.is_none(),
        });
    }
    if current.admin_key.as_ref() != Some(admin_key) {
        steps.push(Step::WriteAdminKeyring {
            key: admin_key.clone(),
        });
    }
    let everything = |kinds: &[&str]| -> key::Caps {
        kinds
            .iter()
            .map(|kind| ((*kind).to_owned(), "allow *".to_owned()))
            .collect()
    };
    let keyring = |with_admin: bool| {
        let mut text = key::keyring("mon.", monitor_key, &everything(&["mon"]));
        if with_admin {
            let caps = everything(&["mon", "osd", "mds", "mgr"]);
            text += &key::keyring("client.admin", admin_key, &caps);
        }
        Secret::new(text)
    };
    if current.store.is_none() {
        steps.push(match &current.living {
            Living::Quorum { quorum, .. } => Step::Join {
                living: quorum.iter().cloned().collect(),
                keyring: keyring(false),
            },
            _ => Step::Found {
                monitors: desired.monitors.clone(),
                keyring: keyring(true),
            },
        });
    }
    if !current.unit.enabled {
        steps.push(Step::Enable);
    }
    if !current.unit.active {
        steps.push(Step::Start);
    }
    if !current.in_quorum && !patience.is_zero() {
        steps.push(Step::AwaitQuorum {
            patience: *patience,
        });
    }
    steps
}

fn plan_absent(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Living::Quorum { members, .. } = &current.living
        && members.contains_key(&desired.name)
    {
        // First the map: a monitor that is gone from it and still runs does no harm.
        steps.push(Step::RemoveFromMap {
            remain: members.len() - 1,
        });
    }
    if current.unit.active || current.unit.enabled {
        steps.push(Step::Stop);
    }
    if current.store.is_some() {
        steps.push(Step::RemoveStore);
    }
    steps
}
