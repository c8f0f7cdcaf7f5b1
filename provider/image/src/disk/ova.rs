//! An appliance: a description, a manifest and the disk in one tar, in the order that the standard demands. Pure but for the writing.
//!
//! Source: DMTF DSP0243, Open Virtualization Format. The envelope is that of version 1, which every hypervisor reads; the manifest has
//! SHA-256 as version 2 has it, which VirtualBox and VMware accept in either.

use std::fs::File;
use std::io::{self, Read, Write};

use uuid::Uuid;

use crate::recipe::Distribution;

/// What the description says of the appliance. The hypervisor's user changes it on import.
#[derive(Debug, Clone)]
pub(crate) struct Appliance<'a> {
    /// Of the machine and the files: letters, digits, dots and dashes.
    pub name: &'a str,
    pub distribution: Distribution,
    /// For people: `Debian bookworm`.
    pub product: &'a str,
    pub disk_id: Uuid,
    /// In bytes.
    pub disk_capacity: u64,
    /// In bytes, of the VMDK.
    pub file_size: u64,
    pub cpus: u32,
    pub memory_mib: u64,
}

impl Appliance<'_> {
    pub(crate) fn disk_file(&self) -> String {
        format!("{}-disk001.vmdk", self.name)
    }

    fn ovf_file(&self) -> String {
        format!("{}.ovf", self.name)
    }

    fn manifest_file(&self) -> String {
        format!("{}.mf", self.name)
    }
}

/// Writes the whole .ova; the VMDK is read from `disk`, whose SHA-256 is `disk_sha256`.
pub(crate) fn write(
    appliance: &Appliance<'_>,
    disk: File,
    disk_sha256: &str,
    epoch: i64,
    out: &mut impl Write,
) -> io::Result<()> {
    let ovf = descriptor(appliance);
    let manifest = manifest(appliance, &ovf, disk_sha256);
    let mut tar = tar::Builder::new(out);
    let mut put = |name: &str, size: u64, content: &mut dyn Read| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_mtime(epoch.unsigned_abs());
        tar.append_data(&mut header, name, content)
    };
    put(&appliance.ovf_file(), ovf.len() as u64, &mut ovf.as_bytes())?;
    put(
        &appliance.manifest_file(),
        manifest.len() as u64,
        &mut manifest.as_bytes(),
    )?;
    put(
        &appliance.disk_file(),
        appliance.file_size,
        &mut disk.take(appliance.file_size),
    )?;
    tar.finish()
}

fn manifest(appliance: &Appliance<'_>, ovf: &str, disk_sha256: &str) -> String {
    format!(
        "SHA256({})= {}\nSHA256({})= {disk_sha256}\n",
        appliance.ovf_file(),
        crate::recipe::sha256(ovf.as_bytes()),
        appliance.disk_file(),
    )
}

/// One machine with an AHCI controller, the disk, and one network adapter that NAT serves until somebody says otherwise.
fn descriptor(appliance: &Appliance<'_>) -> String {
    // CIM_OperatingSystem.OSType, and VirtualBox's own name for it.
    let (os_id, os_type) = match appliance.distribution {
        Distribution::Debian => (96, "Debian_64"),
        Distribution::Ubuntu => (94, "Ubuntu_64"),
    };
    let Appliance {
        name,
        product,
        disk_id,
        disk_capacity,
        file_size,
        cpus,
        memory_mib,
        ..
    } = appliance;
    let disk_file = appliance.disk_file();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
  <References>
    <File ovf:id="file1" ovf:href="{disk_file}" ovf:size="{file_size}"/>
  </References>
  <DiskSection>
    <Info>Virtual disks of the appliance</Info>
    <Disk ovf:capacity="{disk_capacity}" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized" vbox:uuid="{disk_id}"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks that the appliance is connected to</Info>
    <Network ovf:name="NAT">
      <Description>Reaches the outside by the host's address</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A virtual machine</Info>
    <ProductSection>
      <Info>What is installed</Info>
      <Product>{product}</Product>
    </ProductSection>
    <OperatingSystemSection ovf:id="{os_id}">
      <Info>The guest's operating system</Info>
      <Description>{os_type}</Description>
      <vbox:OSType ovf:required="false">{os_type}</vbox:OSType>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>What the virtual machine consists of</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>virtualbox-2.2 vmx-10</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:Caption>{cpus} virtual CPUs</rasd:Caption>
        <rasd:Description>Number of virtual CPUs</rasd:Description>
        <rasd:ElementName>{cpus} virtual CPUs</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>{cpus}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:Caption>{memory_mib} MiB of memory</rasd:Caption>
        <rasd:Description>Memory size</rasd:Description>
        <rasd:ElementName>{memory_mib} MiB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>{memory_mib}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:Caption>sataController0</rasd:Caption>
        <rasd:Description>SATA controller</rasd:Description>
        <rasd:ElementName>sataController0</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>AHCI</rasd:ResourceSubType>
        <rasd:ResourceType>20</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:Caption>disk1</rasd:Caption>
        <rasd:Description>Disk image</rasd:Description>
        <rasd:ElementName>disk1</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Caption>Ethernet adapter on NAT</rasd:Caption>
        <rasd:Connection>NAT</rasd:Connection>
        <rasd:ElementName>Ethernet adapter on NAT</rasd:ElementName>
        <rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>E1000</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    #[test]
    fn the_parts_come_in_the_order_of_the_standard_and_the_manifest_covers_both() {
        let mut disk = tempfile::tempfile().expect("a temporary file");
        disk.write_all(b"disk").expect("writable");
        disk.rewind().expect("seekable");
        let appliance = Appliance {
            name: "ondol-debian-bookworm",
            distribution: Distribution::Debian,
            product: "Debian bookworm",
            disk_id: Uuid::from_u128(7),
            disk_capacity: 10 << 30,
            file_size: 4,
            cpus: 2,
            memory_mib: 2048,
        };
        let mut ova = Vec::new();
        write(&appliance, disk, "d15c", 1_700_000_000, &mut ova).expect("written");
        let parts: Vec<(String, String)> = tar::Archive::new(ova.as_slice())
            .entries()
            .expect("a tar")
            .map(|entry| {
                let mut entry = entry.expect("readable");
                assert_eq!(entry.header().as_ustar().map(|_| ()), Some(()));
                let mut text = String::new();
                entry.read_to_string(&mut text).expect("text");
                (entry.path().expect("UTF-8").display().to_string(), text)
            })
            .collect();
        let [(ovf_name, ovf), (_, manifest), (_, disk)] = parts.as_slice() else {
            panic!("{parts:?}")
        };
        assert_eq!(
            [ovf_name.as_str(), &parts[1].0, &parts[2].0],
            [
                "ondol-debian-bookworm.ovf",
                "ondol-debian-bookworm.mf",
                "ondol-debian-bookworm-disk001.vmdk"
            ]
        );
        assert_eq!(disk, "disk");
        let sum = crate::recipe::sha256(ovf.as_bytes());
        assert_eq!(
            *manifest,
            format!(
                "SHA256(ondol-debian-bookworm.ovf)= {sum}\nSHA256(ondol-debian-bookworm-disk001.vmdk)= d15c\n"
            )
        );
        assert!(ovf.contains(r#"ovf:capacity="10737418240""#) && ovf.contains(r#"ovf:size="4""#));
    }
}
