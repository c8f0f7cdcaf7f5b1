//! The networks of a host that its VMs share: NAT networks and host-only ones. What has to be done is [`crate::network`]'s decision.

use super::Host;
use crate::command::{Command, NetworkAct};
use crate::error::{Error, Result};
use crate::network::{
    HostOnlyNetwork, NatNetwork, created_adapter, host_only_adapters, nat_networks, plan_adapter,
    plan_nat, plan_vmnet, vmnets,
};
use crate::shell::System;

/// The first VirtualBox that has macOS's vmnet instead of its own driver.
const FIRST_WITH_VMNET: u16 = 7;

impl Host {
    pub async fn nat_network(&self, name: &str) -> Result<Option<NatNetwork>> {
        let text = self.machine().await?.run(&Command::ListNatNetworks).await?;
        Ok(nat_networks(&text).into_iter().find(|it| it.name == name))
    }

    /// Makes a NAT network, whose name must be free.
    pub async fn create_nat_network(&self, wanted: &NatNetwork) -> Result<NatNetwork> {
        let _networks = self.lock("networks").await;
        match self.nat_network(&wanted.name).await? {
            // What an interrupted apply left is as it is wished; anything else is somebody's.
            Some(found) if found != *wanted => Err(taken(&wanted.name, "NAT network")),
            found => self.bring_nat_network(found.as_ref(), wanted).await,
        }
    }

    pub async fn update_nat_network(&self, wanted: &NatNetwork) -> Result<NatNetwork> {
        let _networks = self.lock("networks").await;
        let found = self.nat_network(&wanted.name).await?;
        self.bring_nat_network(found.as_ref(), wanted).await
    }

    async fn bring_nat_network(
        &self,
        found: Option<&NatNetwork>,
        wanted: &NatNetwork,
    ) -> Result<NatNetwork> {
        for act in plan_nat(found, wanted) {
            self.act(Command::Network(act)).await?;
        }
        let made = self.nat_network(&wanted.name).await?;
        made.ok_or_else(|| lost(&wanted.name, "NAT network"))
    }

    pub async fn delete_nat_network(&self, name: &str) -> Result<()> {
        let _networks = self.lock("networks").await;
        if self.nat_network(name).await?.is_some() {
            let remove = NetworkAct::RemoveNat(name.to_owned());
            self.act(Command::Network(remove)).await?;
        }
        Ok(())
    }

    /// Whether macOS carries the host-only networks: then they have names of the user's choice.
    pub async fn has_vmnet(&self) -> Result<bool> {
        let machine = self.machine().await?;
        Ok(matches!(machine.system, System::MacOs(_))
            && machine.version().await?.major >= FIRST_WITH_VMNET)
    }

    async fn host_only_networks(&self) -> Result<Vec<HostOnlyNetwork>> {
        let machine = self.machine().await?;
        if self.has_vmnet().await? {
            return Ok(vmnets(&machine.run(&Command::ListVmnets).await?));
        }
        let adapters = machine.run(&Command::ListHostOnlyAdapters).await?;
        let servers = machine.run(&Command::ListDhcpServers).await?;
        Ok(host_only_adapters(&adapters, &servers))
    }

    pub async fn host_only_network(&self, name: &str) -> Result<Option<HostOnlyNetwork>> {
        let found = self.host_only_networks().await?;
        Ok(found.into_iter().find(|it| it.name == name))
    }

    /// Makes a host-only network. `wanted.name` counts on macOS only; elsewhere VirtualBox chooses it, and the answer has it.
    pub async fn create_host_only_network(
        &self,
        wanted: &HostOnlyNetwork,
    ) -> Result<HostOnlyNetwork> {
        let _networks = self.lock("networks").await;
        let existing = self.host_only_networks().await?;
        if let Some(found) = existing.iter().find(|it| it.address == wanted.address) {
            return Err(Error::invalid(
                &["address"],
                format!(
                    "the host already has {} in its host-only network {:?}: import that one, or choose another address",
                    wanted.address, found.name
                ),
            ));
        }
        if self.has_vmnet().await? {
            if existing.iter().any(|it| it.name == wanted.name) {
                return Err(taken(&wanted.name, "host-only network"));
            }
            return self.bring_host_only_network(None, wanted).await;
        }
        let answer = self
            .act(Command::Network(NetworkAct::CreateAdapter))
            .await?;
        let name = created_adapter(&answer).ok_or_else(|| Error::File {
            act: "make a host-only adapter".to_owned(),
            words: format!("VBoxManage did not say what it is called: {answer}"),
        })?;
        let made = self.host_only_network(name).await?;
        let made = made.ok_or_else(|| lost(name, "host-only adapter"))?;
        match self.bring_host_only_network(Some(&made), wanted).await {
            Ok(network) => Ok(network),
            Err(error) => {
                // Nobody would know whose it is.
                let remove = NetworkAct::RemoveAdapter(made.name.clone());
                self.act(Command::Network(remove)).await?;
                Err(error)
            }
        }
    }

    /// Changes the network that has `wanted.name`.
    pub async fn update_host_only_network(
        &self,
        wanted: &HostOnlyNetwork,
    ) -> Result<HostOnlyNetwork> {
        let _networks = self.lock("networks").await;
        let found = self.host_only_network(&wanted.name).await?;
        let found = found.ok_or_else(|| lost(&wanted.name, "host-only network"))?;
        self.bring_host_only_network(Some(&found), wanted).await
    }

    async fn bring_host_only_network(
        &self,
        found: Option<&HostOnlyNetwork>,
        wanted: &HostOnlyNetwork,
    ) -> Result<HostOnlyNetwork> {
        let acts = match found {
            Some(found) if !self.has_vmnet().await? => plan_adapter(found, wanted),
            found => plan_vmnet(found, wanted)?,
        };
        for act in acts {
            self.act(Command::Network(act)).await?;
        }
        let name = found.map_or(&wanted.name, |found| &found.name);
        let made = self.host_only_network(name).await?;
        made.ok_or_else(|| lost(name, "host-only network"))
    }

    pub async fn delete_host_only_network(&self, name: &str) -> Result<()> {
        let _networks = self.lock("networks").await;
        let Some(found) = self.host_only_network(name).await? else {
            return Ok(());
        };
        if self.has_vmnet().await? {
            let remove = NetworkAct::RemoveVmnet(found.name);
            return self.act(Command::Network(remove)).await.map(drop);
        }
        if found.dhcp.is_some() {
            let remove = NetworkAct::RemoveDhcp(found.name.clone());
            self.act(Command::Network(remove)).await?;
        }
        let remove = NetworkAct::RemoveAdapter(found.name);
        self.act(Command::Network(remove)).await.map(drop)
    }
}

fn taken(name: &str, kind: &str) -> Error {
    Error::invalid(
        &["name"],
        format!(
            "the host already has a {kind} {name:?}, which is not as it is wished: import it, or choose another name"
        ),
    )
}

fn lost(name: &str, kind: &str) -> Error {
    Error::File {
        act: format!("look for the {kind} {name:?}"),
        words: "it is not there any more: somebody removed it meanwhile".to_owned(),
    }
}
