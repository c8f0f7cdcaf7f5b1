//! What is written, set live, or waits for a restart. Pure.

use ondol_kit::Module as _;

use super::{Current, Desired, MysqlInstance, Setting, Step};
use crate::options::{self, Parameters};

/// What a run does now.
pub(super) fn steps(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    if !current.initialised {
        steps.push(Step::Initialise {
            data: current.data.clone(),
        });
    }
    let old = options::assignments(&current.file);
    if let Some(wanted) = &desired.parameters {
        let text = rendered(wanted);
        let nothing = current.file.is_empty() && wanted.is_empty();
        if text != current.file && !nothing {
            steps.push(Step::WriteParameters {
                text,
                names: differing(&old, wanted),
            });
        }
    }
    if !current.at_boot {
        steps.push(Step::EnableAtBoot);
    }
    if !current.running {
        steps.push(Step::Start);
        return steps;
    }
    for (name, setting) in &current.settings {
        let Setting::Variable {
            value,
            dynamic,
            from_file,
            persisted,
        } = setting
        else {
            continue;
        };
        let wanted = desired.parameters.as_ref().and_then(|it| it.get(name));
        if wanted.is_some() && *persisted {
            steps.push(Step::ResetPersisted { name: name.clone() });
        }
        if !*dynamic {
            continue;
        }
        match wanted {
            Some(wanted) if !*from_file && !options::same(value, wanted) => {
                steps.push(Step::Set {
                    name: name.clone(),
                    value: Some(wanted.clone()),
                });
            }
            Some(wanted)
                if *from_file && old.get(name) != Some(wanted) && !options::same(value, wanted) =>
            {
                steps.push(Step::Set {
                    name: name.clone(),
                    value: Some(wanted.clone()),
                });
            }
            Some(_) => {}
            None if desired.parameters.is_some() => steps.push(Step::Set {
                name: name.clone(),
                value: current.others.get(name).cloned(),
            }),
            None => {}
        }
    }
    let names = needs_restart(desired, current);
    if !names.is_empty() && desired.restart {
        steps.push(Step::Restart { names });
    }
    steps
}

pub(super) fn rendered(parameters: &Parameters) -> String {
    options::render(MysqlInstance::NAME, parameters)
}

pub(super) fn differing(old: &Parameters, new: &Parameters) -> Vec<String> {
    let mut names: Vec<String> = old
        .keys()
        .chain(new.keys())
        .filter(|name| old.get(*name) != new.get(*name))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The parameters that are wanted, are not in force, and cannot be without a restart.
pub(super) fn needs_restart(desired: &Desired, current: &Current) -> Vec<String> {
    let Some(wanted) = &desired.parameters else {
        return Vec::new();
    };
    let changed = differing(&options::assignments(&current.file), wanted);
    let needs = |(name, setting): &(&String, &Setting)| match setting {
        Setting::Variable { dynamic: true, .. } => false,
        Setting::Variable {
            value, from_file, ..
        } => match wanted.get(*name) {
            Some(wanted) => {
                !options::same(value, wanted) && (changed.contains(name) || !*from_file)
            }
            None => changed.contains(name),
        },
        Setting::Option { in_force } => changed.contains(name) || !*in_force,
    };
    current
        .settings
        .iter()
        .filter(needs)
        .map(|(name, _)| name.clone())
        .collect()
}
