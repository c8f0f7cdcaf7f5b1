//! `ondol_host`: stage 1, what a host needs before it can carry VMs.
//!
//! It adds what is lacking and takes nothing away: destroying it leaves the host as it is. What its firmware forbids only a person can
//! change; that is said, and nothing is done.

use std::time::Duration;

use ondol_virtualbox::host::Preparation;
use ondol_virtualbox::prepare::{Step, Wish};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Planned, Resource,
    Timeouts, attribute, path,
};

use super::on_virtualbox::OnVirtualBox;
use crate::config::Cloud;

const KIND: &str = "ondol_host";
/// For a restart, where `timeouts` sets no limit.
const PATIENCE: Duration = Duration::from_secs(900);

/// A host made ready for VirtualBox: its processor's virtualization checked, VirtualBox and Terraform installed without questions, and on
/// Windows Hyper-V and virtualization-based security turned off.
///
/// Windows is changed through PowerShell and winget, which must be there (Windows 10 2004 or newer, after
/// `examples/windows-host/bootstrap.ps1`), Debian and Ubuntu through apt. On macOS it only looks. The commands for Windows have
/// never been run: there was no Windows to try them on.
///
/// A VM is planned against a host that is ready: apply its `ondol_host` before the first VM, in a configuration of its own or with `-target`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The host's name.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// A key of the provider's `hosts`, with `engine = "virtualbox"`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// Whether VirtualBox is to be installed, and on Windows be on PATH.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub virtualbox: Attr<bool>,
    /// Whether Terraform is to be installed. On Linux an apt source of the host must have it.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub terraform: Attr<bool>,
    /// Whether VirtualBox's kernel driver is to be loaded, on Linux.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub kernel_driver: Attr<bool>,
    /// Whether Hyper-V, the Virtual Machine Platform and virtualization-based security are to be off, on Windows. WSL 2, Docker Desktop and
    /// Credential Guard need them.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub hyper_v_off: Attr<bool>,
    /// Whether the host may be restarted where that is needed. Without it, `lacking` says so.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub allow_restart: Attr<bool>,
    /// What the host lacks, as steps: `restart the host`. Empty when all is well.
    #[schemars(transform = attribute::computed)]
    pub lacking: Attr<Vec<String>>,
    /// The version of VirtualBox that is installed; null if none is.
    #[schemars(transform = attribute::computed)]
    pub virtualbox_version: Attr<String>,
    /// Another hypervisor that holds the processor's virtualization now.
    #[schemars(transform = attribute::computed)]
    pub hypervisor: Attr<String>,
    pub timeouts: Attr<Timeouts>,
}

impl Model {
    fn wish(&self) -> Wish {
        Wish {
            virtualbox: self.virtualbox.unwrap_or(true),
            terraform: self.terraform.unwrap_or(false),
            kernel_driver: self.kernel_driver.unwrap_or(true),
            hyper_v_off: self.hyper_v_off.unwrap_or(true),
        }
    }

    fn may_restart(&self) -> bool {
        self.allow_restart.unwrap_or(false)
    }

    fn observed(mut self, host: &str, seen: Preparation) -> Self {
        self.id = host.into();
        self.host = host.into();
        let lacking = seen.steps.iter().map(ToString::to_string);
        self.lacking = lacking.collect::<Vec<_>>().into();
        self.virtualbox_version = seen.found.virtualbox.into();
        self.hypervisor = seen.found.readiness.hypervisor.into();
        // An import comes without these.
        for (attribute, default) in [
            (&mut self.virtualbox, true),
            (&mut self.terraform, false),
            (&mut self.kernel_driver, true),
            (&mut self.hyper_v_off, true),
            (&mut self.allow_restart, false),
        ] {
            if attribute.is_null() {
                *attribute = default.into();
            }
        }
        self
    }
}

/// Whether there is anything to do: something else is wished for, or lacking. A restart that is not allowed is nothing to do.
fn is_due(prior: &Model, planned: &Model) -> bool {
    let restart = Step::Reboot.to_string();
    let lacking = prior.lacking.known().into_iter().flatten();
    let mut doable = lacking.filter(|step| planned.may_restart() || **step != restart);
    prior.wish() != planned.wish() || doable.next().is_some()
}

fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
    planned.id = planned.host.clone();
    match prior.filter(|prior| !is_due(prior, &planned)) {
        Some(prior) => {
            planned.lacking = prior.lacking.clone();
            planned.virtualbox_version = prior.virtualbox_version.clone();
            planned.hypervisor = prior.hypervisor.clone();
        }
        None => {
            planned.lacking = Attr::Unknown;
            planned.virtualbox_version = Attr::Unknown;
            planned.hypervisor = Attr::Unknown;
        }
    }
    planned
}

pub struct HostResource;

impl Resource for HostResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = KIND;
    const IMPORT_ID: Option<&'static str> = Some("HOST");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(Duration::from_secs(3600));

    fn plan(
        prior: Option<&Model>,
        planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        plan(prior, planned).into()
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
        let patience = cx.remaining().unwrap_or(PATIENCE);
        let (wish, may_restart) = (planned.wish(), planned.may_restart());
        let work = on.host().prepare(&wish, may_restart, patience);
        let left = on.act(cx, "prepare the host", work).await?;
        if left.steps.contains(&Step::Reboot) {
            cx.warn(
                Diagnostic::warning(format!("Host {:?} needs a restart", on.name())).detail(
                    "What was changed takes effect then, and VirtualBox is slow until then. Restart it, or set allow_restart = true and apply that.",
                ),
            );
        }
        let undone: Vec<String> = left
            .steps
            .iter()
            .filter(|step| **step != Step::Reboot || may_restart)
            .map(ToString::to_string)
            .collect();
        let made = planned.observed(on.name(), left);
        if undone.is_empty() {
            return Ok(made);
        }
        let error = Diagnostic::error(format!("Host {:?} is not ready", on.name())).detail(format!(
            "Everything was done, and it still lacks: {}. Look at the host: its own log says why.",
            undone.join("; ")
        ));
        Err(Failure::partial(made, error))
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let wish = state.wish();
        let seen = on.host().preparation(&wish);
        let seen = on.look(cx, "look at the host", seen).await?;
        Ok(Some(state.observed(on.name(), seen)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        _: Model,
        planned: Model,
        config: &Model,
    ) -> Result<Model, Failure<Model>> {
        Self::create(cx, planned, config).await
    }

    async fn delete(_: &Operation<Cloud>, _: Model) -> Result<(), Failure<Model>> {
        Ok(())
    }

    async fn import(cx: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        cx.context().engine(id, path!["host"])?;
        Ok(Model {
            id: id.into(),
            host: id.into(),
            ..Model::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(lacking: &[&str]) -> Model {
        let lacking: Vec<String> = lacking.iter().map(|&it| it.to_owned()).collect();
        Model {
            id: "srv-01".into(),
            host: "srv-01".into(),
            lacking: lacking.into(),
            virtualbox_version: "7.2.22".into(),
            ..Model::default()
        }
    }

    #[test]
    fn what_is_lacking_is_planned_away_and_a_restart_only_if_it_may_be() {
        let is_done = |prior: &Model, wanted: Model| plan(Some(prior), wanted).lacking.is_known();
        let allowed = |prior: &Model| Model {
            allow_restart: true.into(),
            ..prior.clone()
        };
        let whole = model(&[]);
        assert_eq!(plan(Some(&whole), whole.clone()), whole);
        let (lacks, restart) = (model(&["install virtualbox"]), model(&["restart the host"]));
        assert!(!is_done(&lacks, lacks.clone()));
        assert!(is_done(&restart, restart.clone()));
        assert!(!is_done(&restart, allowed(&restart)));
        assert!(is_done(&whole, allowed(&whole)));
        let more = Model {
            terraform: true.into(),
            ..whole.clone()
        };
        assert!(!is_done(&whole, more));
        assert!(plan(None, whole).lacking.is_unknown());
    }
}
