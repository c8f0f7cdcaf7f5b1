//! Images of a host by themselves, before and after the VMs that start from them; and a VM written out as an appliance.

use super::Host;
use crate::command::Command;
use crate::error::{Error, Result};
use crate::image;
use crate::machine::Machine;
use crate::shell::Algorithm;

/// An appliance on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appliance {
    pub path: String,
    /// Hexadecimal digits.
    pub sha256: String,
    pub size_bytes: u64,
}

impl Host {
    /// SHA-256 of an image's file on the machine that asks.
    pub async fn image_digest(&self, path: &str) -> Result<String> {
        self.images.digest(path).await
    }

    /// Brings an image to the host, where its digest finds it; answers its disk's path there.
    pub async fn place_image(&self, path: &str, digest: &str) -> Result<String> {
        let _image = self.lock(&format!("image {digest}")).await;
        image::ensure(self.machine().await?, path, digest).await
    }

    /// The path of an image's disk on the host.
    pub async fn find_image(&self, digest: &str) -> Result<Option<String>> {
        image::find(self.machine().await?, digest).await
    }

    pub async fn remove_image(&self, digest: &str) -> Result<()> {
        let _image = self.lock(&format!("image {digest}")).await;
        image::remove(self.machine().await?, digest).await
    }

    /// Writes a stopped VM to an .ova on the host: wholly, or not at all.
    pub async fn export(&self, vm: &str, path: &str) -> Result<Appliance> {
        let _vm = self.lock(vm).await;
        let found = self.require(vm).await?;
        let name = found.spec.name.clone();
        let machine = self.machine().await?;
        self.check_place(machine, path)?;
        if found.state.is_on() {
            return Err(Error::invalid(
                &["vm"],
                format!(
                    "the VM {name:?} runs: an appliance is made of a stopped one, so set its power to \"stopped\""
                ),
            ));
        }
        // VirtualBox writes an .ova only under a name that ends so, and over nothing.
        let unfinished = format!("{path}.ondol-new.ova");
        // The folder comes with a file in it.
        machine.write_file(&unfinished, b"").await?;
        machine.remove_file(&unfinished).await?;
        let export = Command::Export {
            vm: found.id.to_string(),
            appliance: unfinished.clone(),
        };
        if let Err(error) = self.act(export).await {
            machine.remove_file(&unfinished).await?;
            return Err(error);
        }
        machine.rename(&unfinished, path).await?;
        let sha256 = machine.checksum(path, Algorithm::Sha256).await?;
        let size_bytes = machine.size(path).await?.unwrap_or(0);
        Ok(Appliance {
            path: path.to_owned(),
            sha256,
            size_bytes,
        })
    }

    fn check_place(&self, machine: &Machine, path: &str) -> Result<()> {
        let fits = machine.system.is_absolute(path) && path.to_ascii_lowercase().ends_with(".ova");
        if fits {
            return Ok(());
        }
        Err(Error::invalid(
            &["path"],
            format!("{path:?} is not an absolute path on the host that ends in .ova"),
        ))
    }

    /// Size in bytes of a file of the host.
    pub async fn file_size(&self, path: &str) -> Result<Option<u64>> {
        self.machine().await?.size(path).await
    }

    pub async fn remove_appliance(&self, path: &str) -> Result<()> {
        let machine = self.machine().await?;
        machine
            .remove_file(&format!("{path}.ondol-new.ova"))
            .await?;
        machine.remove_file(path).await
    }
}
