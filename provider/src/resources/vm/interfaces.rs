//! Network adapters of `ondol_vm`: their check, and both ways between attributes and an engine's wish. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tfplugin::{Attr, Diagnostics};

use super::convert::{check_word, settled, unless_empty};
use super::model::{Interface, PortForward};
use crate::diagnostics;
use crate::engine::{Attachment, Forward, NetworkInterface, NicModel, Promiscuous, Protocol};

/// Whether an adapter is as it was wished; what the wish leaves open may be anything.
pub(super) fn agrees(wished: &NetworkInterface, found: &NetworkInterface) -> bool {
    fn fits<T: PartialEq>(wished: Option<T>, found: Option<T>) -> bool {
        wished.is_none() || wished == found
    }
    let plain = |mac: &Option<String>| mac.as_deref().map(str::to_ascii_lowercase);
    wished.name == found.name
        && fits(plain(&wished.mac_address), plain(&found.mac_address))
        && fits(wished.attachment.as_ref(), found.attachment.as_ref())
        && fits(wished.model, found.model)
        && fits(wished.promiscuous, found.promiscuous)
        && fits(wished.cable_connected, found.cable_connected)
        && wished.port_forwards == found.port_forwards
}

impl Interface {
    /// `None` while something in it is unknown.
    pub(super) fn spec(&self) -> Option<NetworkInterface> {
        let to = settled(&self.adapter)?.unwrap_or_default();
        let attachment = settled(&self.kind)?.and_then(|kind| attachment(&kind, to));
        let forwards = settled(&self.port_forwards)?.unwrap_or_default();
        let forwards = forwards
            .iter()
            .map(|(name, forward)| Some((name.clone(), forward.spec()?)));
        let word = |attribute: &Attr<String>| settled(attribute);
        Some(NetworkInterface {
            name: self.name.known()?.clone(),
            mac_address: word(&self.mac_address)?,
            attachment,
            model: word(&self.model)?.as_deref().and_then(NicModel::from_word),
            promiscuous: word(&self.promiscuous)?
                .as_deref()
                .and_then(Promiscuous::from_word),
            cable_connected: settled(&self.cable_connected)?,
            port_forwards: forwards.collect::<Option<_>>()?,
        })
    }

    /// `written` is what stood there before: what it left open stays open.
    pub(super) fn observed(written: Option<&Self>, found: &NetworkInterface) -> Self {
        fn manage<T>(written: Option<&Attr<T>>, found: Option<T>) -> Attr<T> {
            match written {
                Some(Attr::Null) => Attr::Null,
                _ => found.into(),
            }
        }
        let attachment = found.attachment.as_ref();
        let forwards: BTreeMap<String, PortForward> = found
            .port_forwards
            .iter()
            .map(|(name, forward)| (name.clone(), PortForward::from(forward)))
            .collect();
        Self {
            name: found.name.clone().into(),
            mac_address: manage(written.map(|it| &it.mac_address), found.mac_address.clone()),
            kind: manage(
                written.map(|it| &it.kind),
                attachment.map(|it| it.kind().to_owned()),
            ),
            adapter: manage(
                written.map(|it| &it.adapter),
                attachment.and_then(Attachment::to).map(str::to_owned),
            ),
            model: manage(
                written.map(|it| &it.model),
                found.model.map(|it| it.word().to_owned()),
            ),
            promiscuous: manage(
                written.map(|it| &it.promiscuous),
                found.promiscuous.map(|it| it.word().to_owned()),
            ),
            cable_connected: manage(written.map(|it| &it.cable_connected), found.cable_connected),
            port_forwards: unless_empty(forwards),
        }
    }

    pub(super) fn validate(&self, at: &tfplugin::Path, diagnostics: &mut Diagnostics) {
        const KINDS: [&str; 6] = [
            "bridged",
            "nat",
            "hostonly",
            "hostonlynet",
            "intnet",
            "natnetwork",
        ];
        check_word(diagnostics, at.child("type"), &self.kind, &KINDS);
        check_word(diagnostics, at.child("model"), &self.model, NicModel::WORDS);
        check_word(
            diagnostics,
            at.child("promiscuous"),
            &self.promiscuous,
            Promiscuous::WORDS,
        );
        match self.kind.as_str() {
            Some("nat") if !self.adapter.is_null() => diagnostics::complain(
                diagnostics,
                at.child("adapter"),
                "NAT leads to no adapter",
                "Leave `adapter` out, or choose another type.",
            ),
            Some(kind) if kind != "nat" && KINDS.contains(&kind) && self.adapter.is_null() => {
                diagnostics::complain(
                    diagnostics,
                    at.child("adapter"),
                    format!("The type {kind:?} needs an adapter"),
                    "Name the host's adapter, or the network, that its cable leads to.",
                );
            }
            None if self.kind.is_null() && !self.adapter.is_null() => diagnostics::complain(
                diagnostics,
                at.child("type"),
                "An adapter without a type",
                "Say with `type` what the cable leads to.",
            ),
            _ => {}
        }
        for (name, forward) in self.port_forwards.known().into_iter().flatten() {
            let at = at.child("port_forwards").child(tfplugin::Key(name));
            check_word(
                diagnostics,
                at.child("protocol"),
                &forward.protocol,
                Protocol::WORDS,
            );
            if let Some(address) = forward.host_address.known()
                && address.parse::<IpAddr>().is_err()
            {
                let summary = format!("{address:?} is not an IP address");
                let advice = "Write one of the host's addresses, or leave it out for all of them.";
                diagnostics::complain(diagnostics, at.child("host_address"), summary, advice);
            }
        }
    }
}

fn attachment(kind: &str, to: String) -> Option<Attachment> {
    Some(match kind {
        "nat" => Attachment::Nat,
        "bridged" => Attachment::Bridged(to),
        "hostonly" => Attachment::HostOnly(to),
        "hostonlynet" => Attachment::Vmnet(to),
        "intnet" => Attachment::Internal(to),
        "natnetwork" => Attachment::NatNetwork(to),
        _ => return None,
    })
}

impl PortForward {
    /// `None` while something in it is unknown.
    pub(super) fn spec(&self) -> Option<Forward> {
        let protocol = settled(&self.protocol)?;
        Some(Forward {
            protocol: protocol
                .as_deref()
                .and_then(Protocol::from_word)
                .unwrap_or(Protocol::Tcp),
            host_address: settled(&self.host_address)?.and_then(|it| it.parse().ok()),
            host_port: *self.host_port.known()?,
            guest_port: *self.guest_port.known()?,
        })
    }
}

impl From<&Forward> for PortForward {
    fn from(forward: &Forward) -> Self {
        Self {
            protocol: forward.protocol.word().to_owned().into(),
            host_address: forward.host_address.map(|it| it.to_string()).into(),
            host_port: forward.host_port.into(),
            guest_port: forward.guest_port.into(),
        }
    }
}
