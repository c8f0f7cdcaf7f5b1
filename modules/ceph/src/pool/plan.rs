//! What is refused, and what is done otherwise. Pure: it does not reach the cluster.

use super::*;

const REPLICATED: u8 = 1;

/// Why nothing may be done, if so.
pub(super) fn refusal(desired: &Desired, current: &Current) -> Option<String> {
    let name = &desired.name;
    let spec = match &desired.want {
        Want::Absent { delete_data } => {
            let objects = current.objects.filter(|it| *it > 0 && !delete_data)?;
            return Some(format!(
                "the pool {name} holds {objects} objects; `delete_data: true` removes them with it"
            ));
        }
        Want::Present(spec) => spec,
    };
    if let Some(rule) = spec
        .crush_rule
        .as_ref()
        .filter(|it| !current.rules.contains(*it))
    {
        return Some(format!("there is no CRUSH rule {rule}"));
    }
    let Some(pool) = &current.pool else {
        let differs = spec
            .erasure
            .as_ref()?
            .differs_from(current.profile.as_ref()?)?;
        return Some(format!(
            "an erasure profile {name} is there and differs: {differs}"
        ));
    };
    match (&spec.erasure, pool.r#type) {
        (None, REPLICATED) => {}
        (Some(_), REPLICATED) => {
            return Some(format!(
                "the pool {name} is replicated, and stays so: data must be copied to a new pool"
            ));
        }
        (None, _) if spec.size.is_some() => {
            return Some(format!(
                "the pool {name} is erasure-coded, and stays so: data must be copied to a new pool"
            ));
        }
        (None, _) => {}
        (Some(erasure), _) => {
            if let Some(differs) = current
                .profile
                .as_ref()
                .and_then(|it| erasure.differs_from(it))
            {
                return Some(format!(
                    "the erasure profile of the pool {name} cannot be changed: {differs}"
                ));
            }
        }
    }
    if let Some(min_size) = spec.min_size
        && min_size > spec.size.unwrap_or(pool.size)
    {
        return Some(format!(
            "min_size {min_size} is more than the pool {name} has copies or shards"
        ));
    }
    if spec.allow_less_redundancy {
        return None;
    }
    for (property, wanted, is) in [
        ("size", spec.size, pool.size),
        ("min_size", spec.min_size, pool.min_size),
    ] {
        if let Some(wanted) = wanted.filter(|it| *it < is) {
            return Some(format!(
                "{property} of the pool {name} would fall from {is} to {wanted}; `allow_less_redundancy: true` allows it"
            ));
        }
    }
    None
}

pub(super) fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    match (&desired.want, &current.pool) {
        (Want::Absent { .. }, None) => Vec::new(),
        (Want::Absent { .. }, Some(pool)) => {
            let mut steps = vec![Step::Delete {
                objects: current.objects.unwrap_or_default(),
            }];
            // Ours by its name; others may be shared.
            if pool.erasure_code_profile == desired.name {
                steps.push(Step::DeleteProfile {
                    name: desired.name.clone(),
                });
            }
            steps
        }
        (Want::Present(spec), None) => plan_new(&desired.name, spec, current),
        (Want::Present(spec), Some(pool)) => plan_change(spec, pool, current.rule.as_deref()),
    }
}

fn plan_new(name: &str, spec: &Spec, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let (pg_num, rule, autoscale) = (spec.pg_num, spec.crush_rule.clone(), spec.pg_autoscale);
    match &spec.erasure {
        None => steps.push(Step::CreateReplicated {
            pg_num,
            size: spec.size,
            rule,
            autoscale,
        }),
        Some(erasure) => {
            if current.profile.is_none() {
                steps.push(Step::CreateProfile {
                    name: name.to_owned(),
                    profile: erasure.profile(),
                });
            }
            steps.push(Step::CreateErasure {
                pg_num,
                profile: name.to_owned(),
                rule,
                autoscale,
            });
            if erasure.overwrites {
                steps.push(set("allow_ec_overwrites", "true", None));
            }
        }
    }
    if let Some(min_size) = spec.min_size {
        steps.push(set("min_size", min_size, None));
    }
    for (property, value) in quotas(spec) {
        if value > 0 {
            steps.push(Step::SetQuota {
                property,
                value,
                from: None,
            });
        }
    }
    steps.extend(spec.applications.iter().map(|it| Step::Enable {
        application: it.clone(),
    }));
    steps
}

fn set(property: &'static str, value: impl ToString, from: Option<String>) -> Step {
    Step::Set {
        property,
        value: value.to_string(),
        from,
    }
}

fn quotas(spec: &Spec) -> impl Iterator<Item = (&'static str, u64)> {
    [
        ("max_bytes", spec.quota_bytes),
        ("max_objects", spec.quota_objects),
    ]
    .into_iter()
    .filter_map(|(property, value)| Some((property, value?)))
}

fn plan_change(spec: &Spec, pool: &Pool, rule: Option<&str>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(wanted) = &spec.crush_rule
        && rule != Some(wanted)
    {
        steps.push(set("crush_rule", wanted, rule.map(str::to_owned)));
    }
    // Setting `size` moves `min_size` along, so that one is always said after it.
    let resized = spec.size.is_some_and(|it| it != pool.size);
    if let Some(size) = spec.size
        && resized
    {
        steps.push(set("size", size, Some(pool.size.to_string())));
    }
    match spec.min_size {
        Some(min_size) if resized || min_size != pool.min_size => {
            steps.push(set("min_size", min_size, Some(pool.min_size.to_string())));
        }
        None if resized => {
            // Kept, as far as it still makes sense.
            let kept = pool.min_size.min(spec.size.unwrap_or(pool.size));
            steps.push(set("min_size", kept, Some(pool.min_size.to_string())));
        }
        _ => {}
    }
    if spec.erasure.as_ref().is_some_and(|it| it.overwrites)
        && !pool
            .flags_names
            .split(',')
            .any(|flag| flag == "ec_overwrites")
    {
        steps.push(set("allow_ec_overwrites", "true", Some("false".to_owned())));
    }
    let autoscale = spec
        .pg_autoscale
        .map_or(pool.pg_autoscale_mode.as_str(), |it| it.word());
    if autoscale != pool.pg_autoscale_mode {
        steps.push(set(
            "pg_autoscale_mode",
            autoscale,
            Some(pool.pg_autoscale_mode.clone()),
        ));
    }
    if let Some(pg_num) = spec.pg_num
        && autoscale != "on"
        && pg_num != pool.pg_num_target
    {
        steps.push(set("pg_num", pg_num, Some(pool.pg_num_target.to_string())));
    }
    for (property, value) in quotas(spec) {
        let from = match property {
            "max_bytes" => pool.quota_max_bytes,
            _ => pool.quota_max_objects,
        };
        if from != value {
            steps.push(Step::SetQuota {
                property,
                value,
                from: Some(from),
            });
        }
    }
    for application in &spec.applications {
        if !pool.application_metadata.contains_key(application) {
            steps.push(Step::Enable {
                application: application.clone(),
            });
        }
    }
    steps
}
