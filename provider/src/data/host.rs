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
    /// Memory in MiB that nothing uses now; null where the engine cannot tell.
    #[schemars(transform = attribute::computed)]
    pub memory_free_mib: Attr<u64>,
    /// The host's system and its version; null for a lab, which is the machine that runs Terraform.
    #[schemars(transform = attribute::computed)]
    pub operating_system: Attr<String>,
    /// Whether the processor has VT-x or AMD-V and the firmware allows it. Null, here and below, where there is no telling.
    #[schemars(transform = attribute::computed)]
    pub cpu_virtualization: Attr<bool>,
    /// Whether VirtualBox's kernel driver is there, without which no VM starts.
    #[schemars(transform = attribute::computed)]
    pub driver: Attr<bool>,
    /// Another hypervisor that holds the processor's virtualization: `Hyper-V` makes VirtualBox slow, `KVM` may keep VMs from starting.
    #[schemars(transform = attribute::computed)]
    pub hypervisor: Attr<String>,
    /// Whether Windows' virtualization-based security runs, which keeps Hyper-V on.
    #[schemars(transform = attribute::computed)]
    pub vbs: Attr<bool>,
    /// Adapters of the host that VMs can be bridged with.
    #[schemars(transform = attribute::computed)]
    pub adapters: Attr<Vec<Adapter>>,
    /// Versions of the tools that the engine uses, as they print them.
    #[schemars(transform = attribute::computed)]
    pub tools: Attr<BTreeMap<String, String>>,
}

/// An adapter of a host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Adapter {
    /// What `bridged_adapter` and an interface's `adapter` name.
    #[schemars(transform = attribute::computed)]
    pub name: Attr<String>,
    /// Its IPv4 address; null if it has none.
    #[schemars(transform = attribute::computed)]
    pub address: Attr<String>,
    /// Whether it is up.
    #[schemars(transform = attribute::computed)]
    pub up: Attr<bool>,
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
            memory_free_mib: facts.memory_free_mib.into(),
            operating_system: facts.operating_system.into(),
            cpu_virtualization: facts.cpu_virtualization.into(),
            driver: facts.driver.into(),
            hypervisor: facts.hypervisor.into(),
            vbs: facts.vbs.into(),
            adapters: facts
                .adapters
                .into_iter()
                .map(|adapter| Adapter {
                    name: adapter.name.into(),
                    address: adapter.address.map(|it| it.to_string()).into(),
                    up: adapter.up.into(),
                })
                .collect::<Vec<_>>()
                .into(),
            tools: facts.tools.into(),
        })
    }
}
