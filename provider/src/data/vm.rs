//! `ondol_vm` as a data source: a VM that somebody else manages.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, DataSource, Diagnostic, Diagnostics, Operation, attribute, path};

use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::Vm;

/// A VM of a host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// A key of the provider's `hosts`.
    #[schemars(transform = attribute::required)]
    pub host: Attr<String>,
    /// The VM's name, or its UUID.
    #[schemars(transform = attribute::required)]
    pub name: Attr<String>,
    /// The VM's UUID.
    #[schemars(transform = attribute::computed)]
    pub id: Attr<String>,
    /// The image that it started from.
    #[schemars(transform = attribute::computed)]
    pub image: Attr<String>,
    /// Number of CPUs.
    #[schemars(transform = attribute::computed)]
    pub cpus: Attr<u32>,
    /// Memory in MiB.
    #[schemars(transform = attribute::computed)]
    pub memory_mib: Attr<u64>,
    /// Sizes of its data disks in MiB, by key.
    #[schemars(transform = attribute::computed)]
    pub disks: Attr<BTreeMap<String, u64>>,
    /// `running` or `stopped`.
    #[schemars(transform = attribute::computed)]
    pub state: Attr<String>,
    /// Where the guest answers before it has a netplan.
    #[schemars(transform = attribute::computed)]
    pub first_boot_address: Attr<String>,
    /// The guest's SSH host key.
    #[schemars(transform = attribute::computed)]
    pub ssh_host_key: Attr<String>,
    /// Hardware addresses of the adapters, in order.
    #[schemars(transform = attribute::computed)]
    pub mac_addresses: Attr<Vec<String>>,
}

impl Model {
    pub(super) fn of(host: &str, vm: &Vm) -> Self {
        Self {
            host: host.into(),
            name: vm.spec.name.clone().into(),
            id: vm.id.to_string().into(),
            image: vm.spec.image.display().to_string().into(),
            cpus: vm.spec.cpus.into(),
            memory_mib: vm.spec.memory_mib.into(),
            disks: vm.spec.disks.clone().into(),
            state: vm.state.as_str().into(),
            first_boot_address: vm.first_boot_address.to_string().into(),
            ssh_host_key: vm.ssh_host_key.clone().into(),
            mac_addresses: vm.mac_addresses.clone().into(),
        }
    }
}

pub struct VmData;

impl DataSource for VmData {
    type Model = Model;
    type Context = Cloud;

    const TYPE_NAME: &'static str = "ondol_vm";

    async fn read(cx: &Operation<Cloud>, config: Model) -> Result<Model, Diagnostics> {
        let host = config.host.require(path!["host"])?;
        let name = config.name.require(path!["name"])?;
        let engine = cx.context().engine(host, path!["host"])?;
        let found = cx
            .wait(engine.observe(name))
            .await
            .map_err(Diagnostic::from)?
            .map_err(|error| diagnostics::engine(&error))?;
        let vm = found.ok_or_else(|| {
            Diagnostic::error(format!("Host {host:?} has no VM {name:?}"))
                .detail("The data source ondol_vms lists what the host has.")
                .at(path!["name"])
        })?;
        // A configuration that says a UUID keeps it.
        Ok(Model {
            name: config.name.clone(),
            ..Model::of(host, &vm)
        })
    }
}
