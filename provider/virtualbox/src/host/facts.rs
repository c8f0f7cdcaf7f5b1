//! What a host has: its capacity, and the names that a VM's wishes must fit.

use std::collections::BTreeMap;

use super::Host;
use crate::answer::{self, HostAdapter};
use crate::command::{Attachment, Command};
use crate::error::{Error, Result};
use crate::network;
use crate::readiness::{self, LOOK_POSIX, LOOK_WINDOWS, Readiness};
use crate::spec::VmSpec;
use crate::version::Version;

/// A host's own capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub version: Version,
    pub readiness: Readiness,
    pub memory_mib: u64,
    pub memory_free_mib: u64,
    pub disk_free_mib: u64,
    pub operating_system: String,
    /// What VMs can be bridged with.
    pub adapters: Vec<HostAdapter>,
}

impl Host {
    pub async fn facts(&self) -> Result<Facts> {
        let machine = self.machine().await?;
        let info = answer::properties(&machine.run(&Command::HostInfo).await?);
        let properties = answer::properties(&machine.run(&Command::ListSystemProperties).await?);
        let adapters = answer::host_adapters(&machine.run(&Command::ListBridgedAdapters).await?);
        let readiness = machine
            .script("look at the host's processor", LOOK_POSIX, LOOK_WINDOWS)
            .await?;
        let number = |key: &str| -> Option<u64> { info.get(key)?.split(' ').next()?.parse().ok() };
        let folder = properties
            .get("Default machine folder")
            .cloned()
            .unwrap_or_default();
        // The folder is made with the first VM.
        let below = match machine.list(&folder).await?.is_empty() {
            true => machine.directory(),
            false => folder,
        };
        let system = ["Operating system", "Operating system version"]
            .map(|it| info.get(it).cloned().unwrap_or_default());
        Ok(Facts {
            version: machine.version().await?,
            readiness: readiness::read(&readiness),
            memory_mib: number("Memory size").unwrap_or(0),
            memory_free_mib: number("Memory available").unwrap_or(0),
            disk_free_mib: machine.free_mib(&below).await?,
            operating_system: system.join(" ").trim().to_owned(),
            adapters,
        })
    }

    /// Whether this host has what the VM names: guest system, adapters, networks.
    pub async fn check(&self, spec: &VmSpec) -> Result<()> {
        spec.validate()?;
        let machine = self.machine().await?;
        if let Some(wanted) = &spec.hardware.os_type {
            let known = answer::os_types(&machine.run(&Command::ListOsTypes).await?);
            if !known.contains(wanted) {
                return Err(Error::invalid(
                    &["os_type"],
                    format!(
                        "this VirtualBox knows no guest system {wanted:?}{}",
                        nearest(wanted, &known)
                    ),
                ));
            }
        }
        let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (index, adapter) in spec
            .effective_adapters(&self.options.default_attachment)
            .iter()
            .enumerate()
        {
            let (name, command) = match &adapter.attachment {
                Some(Attachment::Bridged(name)) => (name, Command::ListBridgedAdapters),
                Some(Attachment::HostOnly(name)) => (name, Command::ListHostOnlyAdapters),
                Some(Attachment::Vmnet(name)) => (name, Command::ListVmnets),
                Some(Attachment::NatNetwork(name)) => (name, Command::ListNatNetworks),
                _ => continue,
            };
            let kind = adapter.attachment.as_ref().map_or("", Attachment::kind);
            if !lists.contains_key(kind) {
                // Elsewhere VBoxManage does not know the list.
                let text = match command {
                    Command::ListVmnets if !self.has_vmnet().await? => String::new(),
                    _ => machine.run(&command).await?,
                };
                let names = match command {
                    Command::ListVmnets => network::vmnets(&text)
                        .into_iter()
                        .map(|it| it.name)
                        .collect(),
                    Command::ListNatNetworks => network::nat_networks(&text)
                        .into_iter()
                        .map(|it| it.name)
                        .collect(),
                    _ => answer::host_adapters(&text)
                        .into_iter()
                        .map(|it| it.name)
                        .collect(),
                };
                lists.insert(kind, names);
            }
            if !lists[kind].contains(name) {
                let candidates = match lists[kind].as_slice() {
                    [] => "it has none".to_owned(),
                    names => format!("it has {}", quoted(names)),
                };
                return Err(Error::invalid(
                    &["network_interfaces", &index.to_string(), "adapter"],
                    format!(
                        "the host has nothing of the type {kind} called {name:?}: {candidates}"
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Names that share the wanted one's beginning or ending.
fn nearest(wanted: &str, known: &[String]) -> String {
    let wanted = wanted.to_ascii_lowercase();
    let stem: String = wanted
        .chars()
        .take_while(|c| c.is_ascii_alphabetic())
        .collect();
    let near: Vec<String> = known
        .iter()
        .filter(|name| !stem.is_empty() && name.to_ascii_lowercase().starts_with(&stem))
        .cloned()
        .collect();
    if near.is_empty() {
        "; `VBoxManage list ostypes` on the host lists them".to_owned()
    } else {
        format!("; it knows {}", quoted(&near))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_guest_system_is_met_with_those_like_it() {
        let known = ["Debian_64", "Ubuntu_64", "Ubuntu22_LTS_64"].map(str::to_owned);
        assert_eq!(
            nearest("Ubuntu-22", &known),
            "; it knows \"Ubuntu_64\", \"Ubuntu22_LTS_64\""
        );
        assert!(nearest("Plan9", &known).contains("list ostypes"));
    }
}
