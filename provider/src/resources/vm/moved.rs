//! A VM that another provider made: `virtualbox_vm` of terra-farm/virtualbox, and of its forks, becomes `ondol_vm` by a `moved` block.
//!
//! Its state says nothing about a host, as that provider works on the machine it runs on: the host is the one that has the VM. What the
//! state knows beyond what identifies the VM and what a configuration is likely to say stays open, and so unmanaged.

use std::sync::Arc;

use serde_json::Value;
use tfplugin::{Diagnostic, Diagnostics, MoveSource, Operation};

use super::model::{Interface, Model, Power};
use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::Engine;

const TYPE_NAME: &str = "virtualbox_vm";

/// The state as far as it goes; `None` for anything but a `virtualbox_vm`.
pub(super) fn from_terra_farm(source: &MoveSource) -> Option<Result<Model, Diagnostics>> {
    (source.type_name == TYPE_NAME).then(|| read(&source.state).map_err(Diagnostics::from))
}

fn read(state: &Value) -> Result<Model, Diagnostic> {
    let text = |name: &str| state.get(name).and_then(Value::as_str);
    let missing = |name: &str| {
        Diagnostic::error(format!("The state of a {TYPE_NAME} has no {name}")).detail(format!(
            "Without it the VM cannot be taken over. Import it instead: `terraform import` with HOST/NAME, once the {TYPE_NAME} is out of the state (`terraform state rm`)."
        ))
    };
    let id = text("id").filter(|id| id.parse::<uuid::Uuid>().is_ok());
    let memory = text("memory").and_then(memory_mib);
    let adapters = state.get("network_adapter").and_then(Value::as_array);
    let interfaces: Vec<Interface> = adapters
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, adapter)| interface(index, adapter))
        .collect::<Result<_, _>>()?;
    Ok(Model {
        id: id.ok_or_else(|| missing("UUID as its id"))?.into(),
        name: text("name").ok_or_else(|| missing("name"))?.into(),
        image: text("image").unwrap_or_default().into(),
        cpus: state
            .get("cpus")
            .and_then(Value::as_u64)
            .and_then(|it| u32::try_from(it).ok())
            .into(),
        memory_mib: memory.ok_or_else(|| missing("memory"))?.into(),
        power: match text("status") {
            Some("running") | None => Power::Running,
            Some(_) => Power::Stopped,
        }
        .into(),
        network_interfaces: Some(interfaces).filter(|it| !it.is_empty()).into(),
        ..Model::default()
    })
}

fn interface(index: usize, adapter: &Value) -> Result<Interface, Diagnostic> {
    let text = |name: &str| adapter.get(name).and_then(Value::as_str);
    let kind = match text("type") {
        Some("internal") => "intnet",
        Some(same @ ("bridged" | "nat" | "hostonly")) => same,
        other => {
            return Err(
                Diagnostic::error("An adapter of this VM cannot be taken over").detail(format!(
                    "network_adapter[{index}] has the type {:?}, which ondol_vm does not manage. Give the VM another attachment first, or leave it where it is.",
                    other.unwrap_or_default()
                )),
            );
        }
    };
    let leads_to = text("host_interface").filter(|it| !it.is_empty() && kind != "nat");
    Ok(Interface {
        name: ondol_virtualbox::spec::guest_name(index).into(),
        kind: kind.into(),
        adapter: leads_to.map(str::to_owned).into(),
        ..Interface::default()
    })
}

/// A size as people write it, `512mib`, `2.0 gib`, `1 GB` or bytes, in MiB: units of ten are less than those of two.
fn memory_mib(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 12] = [
        ("", 1.0),
        ("b", 1.0),
        ("k", 1e3),
        ("kb", 1e3),
        ("kib", 1024.0),
        ("m", 1e6),
        ("mb", 1e6),
        ("mib", 1024.0 * 1024.0),
        ("g", 1e9),
        ("gb", 1e9),
        ("gib", 1024.0 * 1024.0 * 1024.0),
        ("ki", 1024.0),
    ];
    let text = text.trim().to_ascii_lowercase().replace(',', "");
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(unit_at.unwrap_or(text.len()));
    let number: f64 = number.parse().ok()?;
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    let mib = (number * factor / (1024.0 * 1024.0)).floor();
    // Whole, and no machine has more than fits.
    (1.0..1e9)
        .contains(&mib)
        .then(|| format!("{mib:.0}").parse().ok())?
}

/// The host that has a VM. A host that cannot be asked could be the one, so nothing is said to be gone then.
pub(super) async fn find_host(
    cx: &Operation<Cloud>,
    id: &str,
) -> Result<Option<Arc<dyn Engine>>, Diagnostics> {
    let mut unasked = Diagnostics::new();
    for (_, engine) in cx.context().engines() {
        match cx
            .wait(engine.observe(id))
            .await
            .map_err(Diagnostic::from)?
        {
            Ok(Some(_)) => return Ok(Some(engine.clone())),
            Ok(None) => {}
            Err(error) => unasked.push(diagnostics::engine(&error)),
        }
    }
    if unasked.is_empty() {
        Ok(None)
    } else {
        Err(unasked)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tfplugin::Attr;

    use super::*;

    fn state() -> Value {
        json!({
            "id": "4f8829de-667a-4c44-98a8-5979c7ea9a36",
            "name": "node-01",
            "image": "./ubuntu.box",
            "url": null,
            "cpus": 2,
            "memory": "1.0 gib",
            "status": "running",
            "user_data": "",
            "checksum": "",
            "checksum_type": "",
            "boot_order": ["disk", "none", "none", "none"],
            "optical_disks": [],
            "network_adapter": [
                { "type": "bridged", "device": "IntelPro1000MTServer", "host_interface": "en0", "mac_address": "080027AABBCC",
                  "status": "up", "ipv4_address": "192.168.1.7", "ipv4_address_available": "yes" },
                { "type": "nat", "device": "VirtIO", "host_interface": "" }
            ]
        })
    }

    fn source(type_name: &str, state: Value) -> MoveSource {
        MoveSource {
            provider_address: "example.org/terra-farm/virtualbox".to_owned(),
            type_name: type_name.to_owned(),
            schema_version: 0,
            state,
            private: Vec::new(),
        }
    }

    #[test]
    fn what_terra_farm_knew_of_a_vm_is_taken_over() {
        let interface = |name: &str, kind: &str, adapter: Attr<String>| Interface {
            name: name.into(),
            kind: kind.into(),
            adapter,
            ..Interface::default()
        };
        let expected = Model {
            id: "4f8829de-667a-4c44-98a8-5979c7ea9a36".into(),
            name: "node-01".into(),
            image: "./ubuntu.box".into(),
            cpus: 2.into(),
            memory_mib: 1024.into(),
            power: Power::Running.into(),
            network_interfaces: vec![
                interface("enp0s3", "bridged", "en0".into()),
                interface("enp0s8", "nat", Attr::Null),
            ]
            .into(),
            ..Model::default()
        };
        let moved = from_terra_farm(&source("virtualbox_vm", state()));
        assert_eq!(moved, Some(Ok(expected)));
        assert_eq!(
            from_terra_farm(&source("virtualbox_natnetwork", state())),
            None
        );
    }

    #[test]
    fn what_cannot_be_taken_over_is_said() {
        for (name, value, words) in [
            ("id", json!("node-01"), "no UUID"),
            ("memory", json!("much"), "no memory"),
            ("name", Value::Null, "no name"),
            (
                "network_adapter",
                json!([{ "type": "generic" }]),
                "cannot be taken over",
            ),
        ] {
            let mut broken = state();
            broken[name] = value;
            let error = read(&broken).unwrap_err();
            assert!(error.summary.contains(words), "{}", error.summary);
        }
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, expected) in [
            ("512mib", Some(512)),
            ("512 mib", Some(512)),
            ("2.0 gib", Some(2048)),
            ("1 GB", Some(953)),
            ("1,024 MiB", Some(1024)),
            ("536870912", Some(512)),
            ("12 parsecs", None),
            ("mib", None),
            ("1 kib", None),
        ] {
            assert_eq!(memory_mib(text), expected, "{text}");
        }
    }
}
