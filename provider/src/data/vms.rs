//! `ondol_vms`: every VM of a host, or of all hosts.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, DataSource, Diagnostic, Diagnostics, Operation, attribute, path};

use super::vm;
use crate::config::Cloud;
use crate::diagnostics;

/// The VMs of one host, or of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// A key of the provider's `hosts`; all hosts if left out.
    pub host: Attr<String>,
    /// VMs by name.
    #[schemars(transform = attribute::computed)]
    pub vms: Attr<BTreeMap<String, vm::Model>>,
}

pub struct VmsData;

impl DataSource for VmsData {
    type Model = Model;
    type Context = Cloud;

    const TYPE_NAME: &'static str = "ondol_vms";

    async fn read(cx: &Operation<Cloud>, config: Model) -> Result<Model, Diagnostics> {
        let cloud = cx.context();
        let engines = match config.host.known() {
            Some(host) => vec![cloud.engine(host, path!["host"])?],
            None => cloud.engines().map(|(_, engine)| engine.clone()).collect(),
        };
        let mut vms = BTreeMap::new();
        for engine in engines {
            let found = cx
                .wait(engine.list())
                .await
                .map_err(Diagnostic::from)?
                .map_err(|error| diagnostics::engine(&error))?;
            for vm in found {
                let name = vm.spec.name.clone();
                let model = vm::Model::of(engine.host(), &vm);
                if vms.insert(name.clone(), model).is_some() {
                    return Err(Diagnostic::error(format!("Two hosts have a VM {name:?}"))
                        .detail("Names must be unique to be keys. Set `host` to look at one host at a time.")
                        .at(path!["host"])
                        .into());
                }
            }
        }
        Ok(Model {
            host: config.host,
            vms: vms.into(),
        })
    }
}
