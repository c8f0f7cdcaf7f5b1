//! `ondol_vm_snapshot`: a moment of a VM that it can be brought back to.
//!
//! Going back is an act, not a state: it is asked for by changing `restore`. What the VM is afterwards differs from its `ondol_vm` in
//! whatever was changed since, and the next plan of that says so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Planned, Resource,
    Timeouts, attribute, path,
};
use uuid::Uuid;

use super::on_virtualbox::OnVirtualBox;
use crate::config::Cloud;
use crate::diagnostics::complain;

const KIND: &str = "ondol_vm_snapshot";

/// A snapshot of a VirtualBox VM: its disks and settings, and of a running one its memory too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The snapshot's UUID.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// The VM's host, a key of the provider's `hosts` with `engine = "virtualbox"`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// The VM's UUID, `id` of an `ondol_vm`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub vm: Attr<String>,
    /// Its name, which no other snapshot of the VM may have.
    #[schemars(transform = attribute::required)]
    pub name: Attr<String>,
    /// What it is for.
    #[schemars(transform = attribute::optional_computed, extend("default" = ""))]
    pub description: Attr<String>,
    /// Brings the VM back to the snapshot whenever this changes to another text, such as a date. A VM that runs has its power cut, and is
    /// started again.
    pub restore: Attr<String>,
    /// When it was taken, in UTC.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub taken_at: Attr<String>,
    pub timeouts: Attr<Timeouts>,
}

impl Model {
    fn require_id(&self) -> Result<Uuid, Diagnostic> {
        let id = self.id.require(path!["id"])?;
        id.parse().map_err(|_| {
            Diagnostic::error(format!("{id:?} is not a snapshot's UUID")).at(path!["id"])
        })
    }
}

/// Whether the VM is to be brought back: only a new text says so, not its absence.
fn restores(prior: &Model, planned: &Model) -> bool {
    prior.restore != planned.restore && planned.restore.is_known()
}

pub struct VmSnapshotResource;

impl Resource for VmSnapshotResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = KIND;
    const IMPORT_ID: Option<&'static str> = Some("HOST/VM/SNAPSHOT, each VM and SNAPSHOT by UUID");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(std::time::Duration::from_secs(1800));

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if config.name.as_str() == Some("") {
            let advice = "A snapshot is found by its name.";
            complain(diagnostics, path!["name"], "name is empty", advice);
        }
        if let Some(vm) = config.vm.as_str()
            && vm.parse::<Uuid>().is_err()
        {
            let advice = "Give the `id` of its ondol_vm: another VM may be called the same later.";
            let summary = format!("{vm:?} is not a VM's UUID");
            complain(diagnostics, path!["vm"], summary, advice);
        }
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        prior: Option<&Model>,
        planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        if prior.is_some_and(|prior| restores(prior, &planned.model)) {
            cx.warn(
                Diagnostic::warning(format!(
                    "VM {} will be brought back to the snapshot {:?}",
                    planned.model.vm.as_str().unwrap_or_default(),
                    planned.model.name.as_str().unwrap_or_default()
                ))
                .detail("What was written to its disks since is lost. If it runs, its power is cut, and it is started again."),
            );
        }
        Ok(planned)
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
        let vm = planned.vm.require(path!["vm"])?;
        let name = planned.name.require(path!["name"])?;
        let description = planned.description.unwrap_or_default();
        let act = format!("take the snapshot {name:?} of the VM {vm}");
        let work = on.host().take_snapshot(vm, name, &description);
        let taken = on.act(cx, &act, work).await?;
        Ok(Model {
            id: taken.id.to_string().into(),
            taken_at: taken.taken_at.into(),
            ..planned
        })
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let (vm, id) = (state.vm.require(path!["vm"])?, state.require_id()?);
        let act = format!("look for the snapshot {id} of the VM {vm}");
        let all = on.look(cx, &act, on.host().snapshots(vm)).await?;
        let found = all.into_iter().flatten().find(|it| it.id == id);
        Ok(found.map(|found| Model {
            name: found.name.into(),
            description: found.description.into(),
            taken_at: found.taken_at.into(),
            ..state
        }))
    }

    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
        let (vm, id) = (planned.vm.require(path!["vm"])?, prior.require_id()?);
        if (&prior.name, &prior.description) != (&planned.name, &planned.description) {
            let name = planned.name.require(path!["name"])?;
            let description = planned.description.unwrap_or_default();
            let act = format!("describe the snapshot {id} of the VM {vm}");
            let work = on.host().describe_snapshot(vm, id, name, &description);
            on.act(cx, &act, work).await?;
        }
        if restores(&prior, &planned) {
            let act = format!("bring the VM {vm} back to the snapshot {id}");
            on.act(cx, &act, on.host().restore_snapshot(vm, id)).await?;
        }
        Ok(planned)
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let (vm, id) = (state.vm.require(path!["vm"])?, state.require_id()?);
        let act = format!("delete the snapshot {id} of the VM {vm}");
        Ok(on.act(cx, &act, on.host().delete_snapshot(vm, id)).await?)
    }

    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let form = "HOST/VM/SNAPSHOT";
        let example =
            "srv-01/6f6e646f-6c21-4c72-af30-5cb13459e52d/a4f77716-9d09-48b3-8026-9104bcff8b52";
        let (host, rest) = OnVirtualBox::part_id(id, form, example)?;
        let (vm, snapshot) = OnVirtualBox::part_id(rest, form, example)?;
        Ok(Model {
            id: snapshot.into(),
            host: host.into(),
            vm: vm.into(),
            ..Model::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_text_brings_a_vm_back() {
        let with = |restore: Attr<String>| Model {
            restore,
            ..Model::default()
        };
        for (before, after, expected) in [
            (Attr::Null, Attr::Null, false),
            (Attr::Null, "1".into(), true),
            ("1".into(), "1".into(), false),
            ("1".into(), "2".into(), true),
            ("2".into(), Attr::Null, false),
        ] {
            assert_eq!(restores(&with(before), &with(after)), expected);
        }
    }

    #[test]
    fn a_vm_is_named_by_its_uuid() {
        let mut diagnostics = Diagnostics::new();
        let wrong = Model {
            vm: "web-01".into(),
            name: "".into(),
            ..Model::default()
        };
        VmSnapshotResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics.iter().map(|it| it.path.to_string()).collect();
        assert_eq!(paths, ["name", "vm"]);
    }
}
