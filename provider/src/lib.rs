//! The Terraform provider `ondol/ondol`: VMs on the hosts of a private cloud, their image, their network
//! identity and the inventory that Ansible reads.
//!
//! The protocol is `tfplugin`'s, the hypervisors are behind [`engine::Engine`], a guest's network is
//! `ondol_netplan`'s. Here is what Terraform users see, and SSH.

pub mod config;
pub mod data;
pub mod diagnostics;
pub mod engine;
pub mod engines;
pub mod functions;
pub mod mirror;
pub mod resources;
pub mod ssh;
pub mod topology;

use std::sync::Arc;

use tfplugin::{CancellationToken, Diagnostics, Provider, Registry};

use crate::config::{Cloud, Config};

/// The provider `ondol/ondol`.
pub struct Ondol;

impl Provider for Ondol {
    type Config = Config;
    type Context = Cloud;

    const NAME: &'static str = "ondol";

    fn validate(config: &Config, diagnostics: &mut Diagnostics) {
        config::validate(config, diagnostics);
    }

    async fn configure(
        &self,
        config: Config,
        _: CancellationToken,
    ) -> Result<Arc<Cloud>, Diagnostics> {
        Cloud::new(&config).map(Arc::new)
    }

    fn register(registry: &mut Registry<Cloud>) {
        registry
            .resource::<resources::golden_image::GoldenImageResource>()
            .resource::<resources::apt_mirror::AptMirrorResource>()
            .resource::<resources::file_mirror::FileMirrorResource>()
            .resource::<resources::registry_mirror::RegistryMirrorResource>()
            .resource::<resources::vm::VmResource>()
            .resource::<resources::host::HostResource>()
            .resource::<resources::image::ImageResource>()
            .resource::<resources::ova_export::OvaExportResource>()
            .resource::<resources::vm_snapshot::VmSnapshotResource>()
            .resource::<resources::nat_network::NatNetworkResource>()
            .resource::<resources::host_only_network::HostOnlyNetworkResource>()
            .resource::<resources::netplan::NetplanResource>()
            .resource::<resources::ansible_inventory::AnsibleInventoryResource>()
            .data_source::<data::host::HostData>()
            .data_source::<data::vm::VmData>()
            .data_source::<data::vms::VmsData>()
            .function::<functions::base_packages::BasePackagesFunction>()
            .function::<functions::topology::TopologyFunction>();
    }
}
