//! What a plan of `ondol_vm` promises, replaces and refuses. Pure.

use std::path::Path;

use tfplugin::{Attr, Diagnostic, Diagnostics, Planned, path};

use super::model::{Model, SeedModel, SeedNetwork};
use crate::diagnostics;
use crate::engine::{Change, Impact, PowerState};

/// The state is what `power` asks for; another order of adapters gives other hardware addresses.
pub(super) fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
    if let Some(power) = planned.power.known() {
        // A creation that is stopped between making and starting leaves it stopped, so it promises nothing.
        planned.state = if prior.is_some() {
            PowerState::from(*power).as_str().into()
        } else {
            Attr::Unknown
        };
    }
    let Some(prior) = prior else { return planned };
    if prior.network_interfaces != planned.network_interfaces {
        planned.mac_addresses = Attr::Unknown;
    }
    if first_network(prior) != first_network(&planned) {
        planned.first_boot_address = Attr::Unknown;
    }
    planned
}

/// What decides about the first-boot address.
fn first_network(model: &Model) -> (Option<&Attr<SeedNetwork>>, Option<&Attr<String>>) {
    let interfaces = model.network_interfaces.known();
    (
        model.seed.known().map(|seed| &seed.network),
        interfaces
            .and_then(|all| all.first())
            .map(|first| &first.mac_address),
    )
}

/// Whether the VM is to be made anew because its disk is another image's. An older state does not know the disk's image,
/// but then it was the wished one.
pub(super) fn another_disk(prior: &Model, planned: &Model) -> bool {
    let disk = prior.disk_image.known().or(prior.image.known());
    planned.replace_on_image_change == true.into()
        && planned.image.known().map(Path::new) != disk.map(Path::new)
}

/// Whether a change of the seed means anything: a key with a line break more is the same key.
pub(super) fn another_seed(prior: &Model, planned: &Model) -> bool {
    if prior.seed == planned.seed || planned.seed.is_null() {
        return false;
    }
    match (
        prior.seed.known().map(SeedModel::spec),
        planned.seed.known().map(SeedModel::spec),
    ) {
        (Some(Some(before)), Some(Some(after))) => before != after,
        _ => true,
    }
}

/// What an engine's list of changes means to a plan.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) replace: Vec<tfplugin::Path>,
}

pub(super) fn judge(
    changes: &[Change],
    planned: &Model,
    running: bool,
) -> Result<Verdict, Diagnostics> {
    let mut verdict = Verdict::default();
    let mut refused = Diagnostics::new();
    let mut restart = Vec::new();
    for change in changes {
        let at = diagnostics::field_path(&change.field);
        match &change.impact {
            Impact::Live => {}
            Impact::Replace => verdict
                .replace
                .push(at.steps().iter().take(1).cloned().collect()),
            Impact::Restart => restart.push(format!("{at}: {} -> {}", change.from, change.to)),
            Impact::Refused(reason) => refused.error(
                at.clone(),
                format!("{at} cannot become {}", change.to),
                format!("VM {}: it is {}: {reason}.", planned.label(), change.from),
            ),
        }
    }
    if running && !restart.is_empty() {
        verdict.warnings.push(
            Diagnostic::warning(format!("VM {} will be restarted", planned.label())).detail(
                format!(
                    "It cannot take these changes while it runs: {}.",
                    restart.join("; ")
                ),
            ),
        );
    }
    if refused.is_empty() {
        Ok(verdict)
    } else {
        Err(refused)
    }
}

pub(super) fn refuse_replacement(
    prior: &Model,
    planned: &Planned<Model>,
) -> Result<(), Diagnostic> {
    let new = &planned.model;
    let replaced = prior.host != new.host || prior.name != new.name || !planned.replace.is_empty();
    if replaced {
        Err(protected(prior))
    } else {
        Ok(())
    }
}

pub(super) fn protected(vm: &Model) -> Diagnostic {
    Diagnostic::error(format!("VM {} is protected", vm.label()))
        .detail("It has protected = true, so it is neither destroyed nor replaced. Set protected = false and apply that first.")
        .at(path!["protected"])
}
