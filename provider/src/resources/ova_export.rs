//! `ondol_ova_export`: a VM written out as an appliance on its host.
//!
//! It is a copy of one moment: the VM may change afterwards, and another export is asked for with `triggers`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostics, Failure, Operation, Resource, Timeouts, attribute, path,
};

use super::on_virtualbox::OnVirtualBox;
use crate::config::Cloud;

const KIND: &str = "ondol_ova_export";

/// A stopped VM exported to an .ova on its host, with a manifest. The file is whole or does not exist; destroying the resource removes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// `HOST/PATH`.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// The VM's host, a key of the provider's `hosts` with `engine = "virtualbox"`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// The VM's UUID, `id` of an `ondol_vm`, or its name. It must be stopped.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub vm: Attr<String>,
    /// The appliance's absolute path on the host, ending in .ova. A file that is there is replaced.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub path: Attr<String>,
    /// Whatever is to have the VM exported anew when it changes.
    #[schemars(transform = attribute::requires_replace)]
    pub triggers: Attr<BTreeMap<String, String>>,
    /// SHA-256 of the appliance as it was written, in hexadecimal digits.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub sha256: Attr<String>,
    /// Its size as it was written. A file of another size is exported anew.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub size_bytes: Attr<u64>,
    pub timeouts: Attr<Timeouts>,
}

pub struct OvaExportResource;

impl Resource for OvaExportResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = KIND;
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(std::time::Duration::from_secs(3600));

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
        let (vm, path) = (
            planned.vm.require(path!["vm"])?,
            planned.path.require(path!["path"])?,
        );
        let act = format!("export the VM {vm} to {path}");
        let made = on.act(cx, &act, on.host().export(vm, path)).await?;
        Ok(Model {
            id: format!("{}/{}", on.name(), made.path.trim_start_matches('/')).into(),
            sha256: made.sha256.into(),
            size_bytes: made.size_bytes.into(),
            ..planned
        })
    }

    /// A file that is not whole any more is none.
    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let path = state.path.require(path!["path"])?;
        let act = format!("look for the appliance {path}");
        let size = on.look(cx, &act, on.host().file_size(path)).await?;
        Ok((size.is_some() && size == state.size_bytes.known().copied()).then_some(state))
    }

    /// Nothing but `timeouts` changes in place.
    async fn update(
        _: &Operation<Cloud>,
        _: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        Ok(planned)
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let path = state.path.require(path!["path"])?;
        let act = format!("remove the appliance {path}");
        Ok(on.act(cx, &act, on.host().remove_appliance(path)).await?)
    }
}
