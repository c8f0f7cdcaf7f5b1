//! `provider::ondol::topology`: a topology file as a typed value.
//!
//! Reading and checking are in [`crate::topology`]; here is only the shape that Terraform sees.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Function, FunctionError};

use crate::topology::{self, Topology};

/// Reads a topology file (hosts, VMs, addresses, sizes as YAML) and checks all of it: names, ids and addresses are
/// unique, addresses lie in the network, names are DNS labels, nothing is missing or misspelt. Every complaint names
/// its field, for example `vms[5].address`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Arguments {
    /// The file's text: `file("topology.yaml")`.
    pub yaml_text: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Output {
    pub network: Network,
    /// Names of VMs by host.
    pub hosts: BTreeMap<String, Vec<String>>,
    pub vms: BTreeMap<String, Vm>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Network {
    pub cidr: String,
    pub prefix: u8,
    pub gateway: String,
    pub dns: Vec<String>,
    pub domain: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Vm {
    pub id: String,
    pub host: String,
    pub address: String,
    pub prefix: u8,
    pub app: String,
    pub role: String,
    pub groups: Vec<String>,
    pub cpus: u32,
    pub memory_mib: u64,
    pub disks: BTreeMap<String, Disk>,
    pub features: Features,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Disk {
    pub size_mib: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Features {
    pub containers: bool,
    pub tun: bool,
    pub fuse: bool,
}

impl From<Topology> for Output {
    fn from(topology: Topology) -> Self {
        let prefix = topology.network.cidr.prefix_len();
        let vms = topology.vms.into_iter().map(|(name, vm)| {
            let vm = Vm {
                id: vm.id,
                host: vm.host,
                address: vm.address.to_string(),
                prefix,
                app: vm.app,
                role: vm.role,
                groups: vm.groups,
                cpus: vm.cpus,
                memory_mib: vm.memory_mib,
                disks: vm
                    .disks
                    .into_iter()
                    .map(|(key, size_mib)| (key, Disk { size_mib }))
                    .collect(),
                features: Features {
                    containers: vm.features.containers,
                    tun: vm.features.tun,
                    fuse: vm.features.fuse,
                },
            };
            (name, vm)
        });
        Self {
            vms: vms.collect(),
            hosts: topology.hosts,
            network: Network {
                cidr: topology.network.cidr.to_string(),
                prefix,
                gateway: topology.network.gateway.to_string(),
                dns: topology
                    .network
                    .dns
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                domain: topology.network.domain,
            },
        }
    }
}

pub struct TopologyFunction;

impl Function for TopologyFunction {
    type Arguments = Arguments;
    type Output = Output;

    const NAME: &'static str = "topology";
    const SUMMARY: &'static str = "Reads and checks a topology file";

    fn call(arguments: Arguments) -> Result<Output, FunctionError> {
        topology::parse(&arguments.yaml_text)
            .map(Output::from)
            .map_err(|problems| FunctionError::argument("yaml_text", topology::describe(&problems)))
    }
}
