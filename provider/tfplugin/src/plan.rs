//! What a resource will be, as far as its schema decides: defaults, what is only known after apply, what stays, and what
//! needs a new resource. Everything here is pure, and works on values of any schema.

use std::collections::BTreeMap;

use crate::cty::Value;
use crate::path::{Path, Step};
use crate::schema::{Attribute, Nesting, Schema};

/// The plan before the resource's own `plan` sees it. `proposed` is Terraform's: the configuration, with prior values
/// where a computed attribute is not configured. `prior` is null when the resource is to be created.
pub(crate) fn propose(schema: &Schema, prior: &Value, proposed: Value, config: &Value) -> Value {
    let attributes = &schema.attributes;
    let wanted = with_defaults(attributes, config);
    let mut planned = fill(attributes, proposed, config, &wanted);
    null_write_only(attributes, &mut planned);
    if prior.is_null() || differs(schema, prior, &planned) {
        mark_unknown(attributes, &mut planned, &wanted);
    }
    planned
}

/// The configuration with defaults where it leaves an attribute out. An unknown value is not left out.
pub(crate) fn with_defaults(attributes: &[Attribute], config: &Value) -> Value {
    let Value::Map(config) = config else {
        return config.clone();
    };
    let mut wanted = config.clone();
    for attribute in attributes {
        let value = wanted.entry(attribute.name.clone()).or_default();
        if value.is_null()
            && let Some(default) = &attribute.default
        {
            *value = default.clone();
        }
        if let Some((nesting, attributes)) = attribute.nested() {
            each_object(nesting, value, |object| {
                *object = with_defaults(attributes, object)
            });
        }
    }
    Value::Map(wanted)
}

/// Calls `f` for each object of a nested attribute.
fn each_object(nesting: Nesting, value: &mut Value, mut f: impl FnMut(&mut Value)) {
    match (nesting, value) {
        (Nesting::Single, object @ Value::Map(_)) => f(object),
        (Nesting::List | Nesting::Set, Value::List(elements) | Value::Set(elements)) => {
            elements.iter_mut().for_each(f)
        }
        (Nesting::Map, Value::Map(elements)) => elements.values_mut().for_each(f),
        _ => {}
    }
}

/// The proposed object with every wanted value in it. A set's elements come out in the order of the configuration.
fn fill(attributes: &[Attribute], proposed: Value, config: &Value, wanted: &Value) -> Value {
    let (Value::Map(mut planned), Value::Map(config), Value::Map(wanted)) =
        (proposed, config, wanted)
    else {
        return wanted.clone();
    };
    for attribute in attributes {
        let name = &attribute.name;
        let wanted = wanted.get(name).unwrap_or(&Value::Null);
        let proposed = planned.remove(name).unwrap_or_default();
        let config = match config.get(name) {
            Some(config) if !config.is_null() => config,
            // A default stands for what is not configured.
            _ => wanted,
        };
        let value = match attribute.nested() {
            _ if wanted.is_null() && attribute.computed => proposed,
            Some((nesting, attributes)) if !wanted.is_null() => {
                fill_nested(nesting, attributes, proposed, config, wanted)
            }
            _ => wanted.clone(),
        };
        planned.insert(name.clone(), value);
    }
    Value::Map(planned)
}

fn fill_nested(
    nesting: Nesting,
    attributes: &[Attribute],
    proposed: Value,
    config: &Value,
    wanted: &Value,
) -> Value {
    let one = |proposed: Option<Value>, config: &Value, wanted: &Value| match proposed {
        Some(proposed) => fill(attributes, proposed, config, wanted),
        None => wanted.clone(),
    };
    match (nesting, proposed, config, wanted) {
        (Nesting::Single, proposed, config, wanted) => one(Some(proposed), config, wanted),
        (Nesting::List, Value::List(proposed), Value::List(config), Value::List(wanted)) => {
            let mut proposed = proposed.into_iter();
            let elements = config
                .iter()
                .zip(wanted)
                .map(|(config, wanted)| one(proposed.next(), config, wanted));
            Value::List(elements.collect())
        }
        (Nesting::Set, Value::Set(mut proposed), Value::Set(config), Value::Set(wanted)) => {
            let elements = config.iter().zip(wanted).map(|(config, wanted)| {
                let made_from = |proposed: &Value| comes_from(attributes, proposed, config);
                let found = proposed.iter().position(made_from);
                one(found.map(|at| proposed.swap_remove(at)), config, wanted)
            });
            Value::Set(elements.collect())
        }
        (Nesting::Map, Value::Map(mut proposed), Value::Map(config), Value::Map(wanted)) => {
            let elements = wanted.iter().map(|(key, wanted)| {
                let config = config.get(key).unwrap_or(&Value::Null);
                (key.clone(), one(proposed.remove(key), config, wanted))
            });
            Value::Map(elements.collect())
        }
        (_, _, _, wanted) => wanted.clone(),
    }
}

/// Whether Terraform made the proposed object from this part of the configuration: equal in all that is configured.
fn comes_from(attributes: &[Attribute], proposed: &Value, config: &Value) -> bool {
    if !matches!(config, Value::Map(_)) {
        return proposed == config;
    }
    attributes.iter().all(|attribute| {
        let config = config.get(&attribute.name).unwrap_or(&Value::Null);
        let proposed = proposed.get(&attribute.name).unwrap_or(&Value::Null);
        if config.is_null() {
            return attribute.computed || proposed.is_null();
        }
        match (attribute.nested(), proposed, config) {
            (Some((Nesting::Single, attributes)), proposed, config) => {
                comes_from(attributes, proposed, config)
            }
            (Some((_, attributes)), Value::List(proposed), Value::List(config))
            | (Some((_, attributes)), Value::Set(proposed), Value::Set(config)) => {
                proposed.len() == config.len()
                    && config.iter().all(|config| {
                        proposed
                            .iter()
                            .any(|proposed| comes_from(attributes, proposed, config))
                    })
            }
            (Some((Nesting::Map, attributes)), Value::Map(proposed), Value::Map(config)) => {
                proposed.len() == config.len()
                    && config.iter().all(|(key, config)| {
                        proposed
                            .get(key)
                            .is_some_and(|proposed| comes_from(attributes, proposed, config))
                    })
            }
            (_, proposed, config) => proposed == config,
        }
    })
}

/// Removes what plans and states must not hold.
pub(crate) fn null_write_only(attributes: &[Attribute], value: &mut Value) {
    let Value::Map(object) = value else { return };
    for attribute in attributes {
        let Some(value) = object.get_mut(&attribute.name) else {
            continue;
        };
        if attribute.write_only {
            *value = Value::Null;
        } else if let Some((nesting, attributes)) = attribute.nested() {
            each_object(nesting, value, |object| null_write_only(attributes, object));
        }
    }
}

/// Whether anything but the limits of operations is different.
pub(crate) fn differs(schema: &Schema, prior: &Value, planned: &Value) -> bool {
    match (prior, planned) {
        (Value::Map(prior), Value::Map(planned)) => schema.attributes.iter().any(|attribute| {
            let name = &attribute.name;
            let is_timeouts = schema.timeouts.as_ref() == Some(name);
            !is_timeouts
                && prior.get(name).unwrap_or(&Value::Null)
                    != planned.get(name).unwrap_or(&Value::Null)
        }),
        (prior, planned) => prior != planned,
    }
}

/// Makes unknown what only apply can tell: computed attributes that nobody wants a value for. A stable one keeps its
/// value, once it has one.
fn mark_unknown(attributes: &[Attribute], planned: &mut Value, wanted: &Value) {
    let Value::Map(planned) = planned else { return };
    for attribute in attributes {
        let wanted = wanted.get(&attribute.name).unwrap_or(&Value::Null);
        let value = planned.entry(attribute.name.clone()).or_default();
        if wanted.is_null() {
            let stays = attribute.stable && !value.is_null();
            if attribute.computed && !stays {
                *value = Value::UNKNOWN;
            }
            continue;
        }
        let Some((nesting, attributes)) = attribute.nested() else {
            continue;
        };
        match (nesting, value, wanted) {
            (Nesting::Single, object, wanted) => mark_unknown(attributes, object, wanted),
            // fill put a set's elements in the order of the wanted ones.
            (Nesting::List, Value::List(elements), Value::List(wanted))
            | (Nesting::Set, Value::Set(elements), Value::Set(wanted)) => {
                for (element, wanted) in elements.iter_mut().zip(wanted) {
                    mark_unknown(attributes, element, wanted);
                }
            }
            (Nesting::Map, Value::Map(elements), Value::Map(wanted)) => {
                for (key, element) in elements {
                    mark_unknown(attributes, element, wanted.get(key).unwrap_or(&Value::Null));
                }
            }
            _ => {}
        }
    }
}

/// The attributes whose change needs a new resource. One that nobody configured and that is only known after apply is
/// no change.
pub(crate) fn replacements(
    schema: &Schema,
    prior: &Value,
    planned: &Value,
    config: &Value,
) -> Vec<Path> {
    let mut found = Vec::new();
    replaced(
        &schema.attributes,
        prior,
        planned,
        config,
        &mut Path::root(),
        &mut found,
    );
    found
}

fn replaced(
    attributes: &[Attribute],
    prior: &Value,
    planned: &Value,
    config: &Value,
    path: &mut Path,
    found: &mut Vec<Path>,
) {
    let (Value::Map(prior), Value::Map(planned)) = (prior, planned) else {
        return;
    };
    for attribute in attributes {
        let of = |object: &BTreeMap<String, Value>| {
            object.get(&attribute.name).cloned().unwrap_or_default()
        };
        let (prior, planned) = (of(prior), of(planned));
        let config = config.get(&attribute.name).unwrap_or(&Value::Null);
        let left_open = planned.is_unknown() && config.is_null();
        if prior == planned || left_open {
            continue;
        }
        path.push(Step::Attribute(attribute.name.clone()));
        if attribute.requires_replace {
            found.push(path.clone());
        } else if let Some((nesting, attributes)) = attribute.nested() {
            replaced_in(nesting, attributes, &prior, &planned, config, path, found);
        }
        path.pop();
    }
}

fn replaced_in(
    nesting: Nesting,
    attributes: &[Attribute],
    prior: &Value,
    planned: &Value,
    config: &Value,
    path: &mut Path,
    found: &mut Vec<Path>,
) {
    let mut element = |step: Step, prior: &Value, planned: &Value, config: &Value| {
        path.push(step);
        replaced(attributes, prior, planned, config, path, found);
        path.pop();
    };
    match (nesting, prior, planned) {
        (Nesting::Single, prior, planned) => {
            replaced(attributes, prior, planned, config, path, found)
        }
        (Nesting::List, Value::List(prior), Value::List(planned)) => {
            for (index, (prior, planned)) in prior.iter().zip(planned).enumerate() {
                let config = match config {
                    Value::List(elements) => elements.get(index).unwrap_or(&Value::Null),
                    _ => &Value::Null,
                };
                element(Step::Index(index as u64), prior, planned, config);
            }
        }
        (Nesting::Map, Value::Map(prior), Value::Map(planned)) => {
            for (key, prior) in prior {
                if let Some(planned) = planned.get(key) {
                    element(
                        Step::Key(key.clone()),
                        prior,
                        planned,
                        config.get(key).unwrap_or(&Value::Null),
                    );
                }
            }
        }
        (Nesting::Set, Value::Set(prior), Value::Set(planned)) => {
            // A set's elements have no names: one was changed when, in what needs replacement, some were lost and
            // others found.
            let decisive = |elements: &[Value]| {
                elements
                    .iter()
                    .map(|e| decisive(attributes, e))
                    .collect::<Vec<_>>()
            };
            let (prior, planned) = (decisive(prior), decisive(planned));
            let lacks =
                |all: &[Value], other: &[Value]| other.iter().any(|element| !all.contains(element));
            if lacks(&prior, &planned) && lacks(&planned, &prior) {
                found.push(path.clone());
            }
        }
        _ => {}
    }
}

/// The part of an object whose change needs a new resource.
fn decisive(attributes: &[Attribute], object: &Value) -> Value {
    let part = attributes.iter().filter_map(|attribute| {
        let value = object.get(&attribute.name)?;
        if attribute.requires_replace {
            return Some((attribute.name.clone(), value.clone()));
        }
        let (nesting, attributes) = attribute.nested()?;
        let mut value = value.clone();
        each_object(nesting, &mut value, |object| {
            *object = decisive(attributes, object)
        });
        matches!(value, Value::Map(_) | Value::List(_) | Value::Set(_))
            .then(|| (attribute.name.clone(), value))
    });
    Value::Map(part.collect())
}

/// What a model's code changed, put into the value that the model was read from: everything else stays as Terraform
/// sent it, refinements and digits that the model cannot hold included.
pub(crate) fn merge(original: Value, before: &Value, after: Value) -> Value {
    if *before == after {
        return original;
    }
    match (original, before, after) {
        (Value::Map(mut original), Value::Map(before), Value::Map(after)) => Value::Map(
            after
                .into_iter()
                .map(|(key, after)| {
                    let value = match (original.remove(&key), before.get(&key)) {
                        (Some(original), Some(before)) => merge(original, before, after),
                        _ => after,
                    };
                    (key, value)
                })
                .collect(),
        ),
        (Value::List(original), Value::List(before), Value::List(after))
            if original.len() == after.len() && before.len() == after.len() =>
        {
            let pairs = original.into_iter().zip(before).zip(after);
            Value::List(
                pairs
                    .map(|((original, before), after)| merge(original, before, after))
                    .collect(),
            )
        }
        (_, _, after) => after,
    }
}

/// Makes null what is unknown, and says where that was. A state holds no unknown values.
pub(crate) fn settle(value: &mut Value) -> Vec<Path> {
    fn walk(value: &mut Value, path: &mut Path, found: &mut Vec<Path>) {
        let mut element = |step: Step, value: &mut Value| {
            path.push(step);
            walk(value, path, found);
            path.pop();
        };
        match value {
            Value::Unknown(_) => {
                found.push(path.clone());
                *value = Value::Null;
            }
            Value::List(elements) => {
                for (index, value) in elements.iter_mut().enumerate() {
                    element(Step::Index(index as u64), value);
                }
            }
            Value::Set(elements) => elements
                .iter_mut()
                .for_each(|value| element(Step::Element, value)),
            Value::Map(elements) => {
                for (key, value) in elements {
                    element(Step::Attribute(key.clone()), value);
                }
            }
            Value::Dynamic(pair) => walk(&mut pair.1, path, found),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    walk(value, &mut Path::root(), &mut found);
    found
}

#[cfg(test)]
mod tests;
