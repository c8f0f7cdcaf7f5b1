//! Observe, plan and apply until nothing is left. It knows nothing of JSON or Ansible.

use crate::module::{Module, Notices, TextDiff};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Apply,
    Check,
}

/// What was done, or in check mode would be done first.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The `Display` of each step, in order.
    pub steps: Vec<String>,
    pub texts: Vec<TextDiff>,
    pub notices: Notices,
    /// What stopped the module. `steps` then holds only what was applied before.
    pub error: Option<anyhow::Error>,
}

impl Outcome {
    pub fn changed(&self) -> bool {
        !self.steps.is_empty()
    }
}

/// Errors are part of the outcome, because what was already applied must not be forgotten.
pub fn converge<M: Module>(module: &mut M, desired: &M::Desired, mode: Mode) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(error) = rounds(module, desired, mode, &mut outcome) {
        outcome.error = Some(error);
    }
    outcome.notices = module.notices();
    outcome
}

fn rounds<M: Module>(
    module: &mut M,
    desired: &M::Desired,
    mode: Mode,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    for round in 0.. {
        let current = module.observe(desired)?;
        let steps = M::plan(desired, &current);
        let Some(first) = steps.first() else { break };
        anyhow::ensure!(round < M::ROUNDS, "did not converge: {first}");
        if round == 0 {
            outcome.texts = M::diff(desired, &current);
        }
        if mode == Mode::Check {
            outcome.steps.extend(steps.iter().map(ToString::to_string));
            break;
        }
        for step in &steps {
            module
                .apply(step)
                .map_err(|error| error.context(step.to_string()))?;
            outcome.steps.push(step.to_string());
        }
    }
    Ok(())
}
