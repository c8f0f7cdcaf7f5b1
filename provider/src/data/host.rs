//! `ondol_host`: what a host can carry.
//!
//! Looks only; preparing a host is not its concern.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, DataSource, Diagnostic, Diagnostics, Operation, attribute, path};

use crate::config::Cloud;
use crate::diagnostics;

/// A host's capacity and tools.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// A key of the provider's `hosts`.
    #[schemars(transform = attribute::required)]
    pub name: Attr<String>,
    /// What runs its VMs.
    #[schemars(transform = attribute::computed)]
    pub engine: Attr<String>,
    /// Number of CPUs.
    #[schemars(transform = attribute::computed)]
    pub cpus: Attr<u32>,
    /// Memory in MiB.
    #[schemars(transform = attribute::computed)]
    pub memory_mib: Attr<u64>,
    /// Free space in MiB where the VMs' disks are kept.
    #[schemars(transform = attribute::computed)]
    pub disk_free_mib: Attr<u64>,
    /// Versions of the tools that the engine uses, as they print them.
    #[schemars(transform = attribute::computed)]
    pub tools: Attr<BTreeMap<String, String>>,
}

pub struct HostData;

impl DataSource for HostData {
    type Model = Model;
    type Context = Cloud;

    const TYPE_NAME: &'static str = "ondol_host";

    async fn read(cx: &Operation<Cloud>, config: Model) -> Result<Model, Diagnostics> {
        let engine = cx
            .context()
            .engine(config.name.require(path!["name"])?, path!["name"])?;
        let facts = cx
            .wait(engine.facts())
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error).at(path!["name"]))?;
        Ok(Model {
            name: config.name,
            engine: facts.engine.into(),
            cpus: facts.cpus.into(),
            memory_mib: facts.memory_mib.into(),
            disk_free_mib: facts.disk_free_mib.into(),
            tools: facts.tools.into(),
        })
    }
}
