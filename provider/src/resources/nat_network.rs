//! `ondol_nat_network`: a network behind a router of VirtualBox's own, which the VMs of a host share.
//!
//! Adapters join it with `type = "natnetwork"`; that is `ondol_vm`'s.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use ondol_virtualbox::command::Protocol;
use ondol_virtualbox::network::{NatNetwork, NatRule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Diagnostic, Diagnostics, Failure, Key, Operation, Planned, Resource, attribute, path,
};

use super::on_virtualbox::OnVirtualBox;
use crate::config::Cloud;
use crate::diagnostics::complain;

const KIND: &str = "ondol_nat_network";

/// A NAT network of a VirtualBox host: VMs whose adapters have `type = "natnetwork"` see each other, and the outside through the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// `HOST/NAME`.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// A key of the provider's `hosts`, with `engine = "virtualbox"`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// The network's name, which an adapter of `ondol_vm` names as its `adapter`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub name: Attr<String>,
    /// The network in CIDR notation, such as `10.0.5.0/24`. Its first address is the router.
    #[schemars(transform = attribute::required)]
    pub network: Attr<String>,
    /// Whether the router gives out addresses.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub dhcp: Attr<bool>,
    /// Whether the network has IPv6 too.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub ipv6: Attr<bool>,
    /// Whether the router runs while a VM needs it.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub enabled: Attr<bool>,
    /// Ports of the host that lead to a guest, by name.
    pub port_forwards: Attr<BTreeMap<String, PortForward>>,
}

/// A port of the host that leads to one of a guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortForward {
    /// `tcp` or `udp`.
    #[schemars(transform = attribute::optional_computed, extend("default" = "tcp"))]
    pub protocol: Attr<String>,
    /// The host's IPv4 address to listen on. Default: all of them.
    pub host_address: Attr<String>,
    /// Port of the host.
    #[schemars(transform = attribute::required, range(min = 1, max = 65535))]
    pub host_port: Attr<u16>,
    /// The guest's address in the network.
    #[schemars(transform = attribute::required)]
    pub guest_address: Attr<String>,
    /// Port of the guest.
    #[schemars(transform = attribute::required, range(min = 1, max = 65535))]
    pub guest_port: Attr<u16>,
}

impl Model {
    /// What the model asks for; `None` while something in it is unknown or, before an import's first read, absent.
    fn wish(&self) -> Option<NatNetwork> {
        let rules = match &self.port_forwards {
            Attr::Unknown => return None,
            forwards => forwards.known().into_iter().flatten(),
        };
        Some(NatNetwork {
            name: self.name.known()?.clone(),
            cidr: self.network.known()?.clone(),
            dhcp: self.dhcp.unwrap_or(true),
            ipv6: self.ipv6.unwrap_or(false),
            enabled: self.enabled.unwrap_or(true),
            rules: rules
                .map(|(name, forward)| Some((name.clone(), forward.rule()?)))
                .collect::<Option<_>>()?,
        })
    }

    fn require_wish(&self) -> Result<NatNetwork, Diagnostic> {
        self.wish().ok_or_else(|| {
            Diagnostic::error("The NAT network is not fully described")
                .detail("An attribute has no value at apply time. This is a bug in the provider.")
        })
    }

    /// Takes over what was found; what says the same stays as it was written.
    fn observed(mut self, host: &str, found: &NatNetwork) -> Self {
        self.id = format!("{host}/{}", found.name).into();
        if self.wish().as_ref() == Some(found) {
            return self;
        }
        let forwards: BTreeMap<String, PortForward> = found
            .rules
            .iter()
            .map(|(name, rule)| (name.clone(), PortForward::from(rule)))
            .collect();
        Self {
            network: found.cidr.clone().into(),
            dhcp: found.dhcp.into(),
            ipv6: found.ipv6.into(),
            enabled: found.enabled.into(),
            port_forwards: Some(forwards).filter(|it| !it.is_empty()).into(),
            ..self
        }
    }
}

impl PortForward {
    fn rule(&self) -> Option<NatRule> {
        Some(NatRule {
            protocol: match &self.protocol {
                Attr::Unknown => return None,
                word => word
                    .as_str()
                    .and_then(Protocol::from_word)
                    .unwrap_or(Protocol::Tcp),
            },
            host_address: match &self.host_address {
                Attr::Unknown => return None,
                address => address.as_str().and_then(|it| it.parse().ok()),
            },
            host_port: *self.host_port.known()?,
            guest_address: self.guest_address.known()?.parse().ok()?,
            guest_port: *self.guest_port.known()?,
        })
    }
}

impl From<&NatRule> for PortForward {
    fn from(rule: &NatRule) -> Self {
        Self {
            protocol: rule.protocol.word().into(),
            host_address: rule.host_address.map(|it| it.to_string()).into(),
            host_port: rule.host_port.into(),
            guest_address: rule.guest_address.to_string().into(),
            guest_port: rule.guest_port.into(),
        }
    }
}

pub struct NatNetworkResource;

impl Resource for NatNetworkResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = KIND;
    const IMPORT_ID: Option<&'static str> = Some("HOST/NAME");

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        let network = config.network.as_str().map(str::parse::<Ipv4Net>);
        let network = match network {
            Some(Ok(network)) if network.trunc() == network => Some(network),
            Some(_) => {
                complain(
                    diagnostics,
                    path!["network"],
                    "network is not an IPv4 network",
                    "Write it like \"10.0.5.0/24\": the address of the network itself, and its prefix length.",
                );
                None
            }
            None => None,
        };
        for (name, forward) in config.port_forwards.known().into_iter().flatten() {
            let at = path!["port_forwards", Key(name)];
            if let Some(word) = forward.protocol.as_str()
                && !Protocol::WORDS.contains(&word)
            {
                complain(
                    diagnostics,
                    at.child("protocol"),
                    format!("{word:?} is not a protocol"),
                    format!("It is one of {}.", Protocol::WORDS.join(", ")),
                );
            }
            for (attribute, value) in [
                ("host_address", &forward.host_address),
                ("guest_address", &forward.guest_address),
            ] {
                let Some(text) = value.as_str() else { continue };
                let address: Option<Ipv4Addr> = text.parse().ok();
                let outside = attribute == "guest_address"
                    && network.is_some_and(|it| address.is_some_and(|a| !it.contains(&a)));
                if address.is_none() || outside {
                    let problem = if outside {
                        format!("{text} is not in the network")
                    } else {
                        format!("{text:?} is not an IPv4 address")
                    };
                    let advice = "Name an IPv4 address: of the host, or of a guest in the network.";
                    complain(diagnostics, at.child(attribute), problem, advice);
                }
            }
        }
    }

    fn plan(
        _: Option<&Model>,
        mut planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        if let (Some(host), Some(name)) = (planned.host.as_str(), planned.name.as_str()) {
            planned.id = format!("{host}/{name}").into();
        }
        planned.into()
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
        let wanted = planned.require_wish()?;
        let act = format!("make the NAT network {:?}", wanted.name);
        let made = on
            .act(cx, &act, on.host().create_nat_network(&wanted))
            .await?;
        Ok(planned.observed(on.name(), &made))
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let name = state.name.require(path!["name"])?;
        let act = format!("look for the NAT network {name:?}");
        let found = on.look(cx, &act, on.host().nat_network(name)).await?;
        Ok(found.map(|found| state.observed(on.name(), &found)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        _: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
        let wanted = planned.require_wish()?;
        let act = format!("change the NAT network {:?}", wanted.name);
        let made = on
            .act(cx, &act, on.host().update_nat_network(&wanted))
            .await?;
        Ok(planned.observed(on.name(), &made))
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let name = state.name.require(path!["name"])?;
        let act = format!("remove the NAT network {name:?}");
        Ok(on.act(cx, &act, on.host().delete_nat_network(name)).await?)
    }

    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let (host, name) = OnVirtualBox::part_id(id, "HOST/NAME", "srv-01/site")?;
        Ok(Model {
            host: host.into(),
            name: name.into(),
            ..Model::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let forward = PortForward {
            protocol: "tcp".into(),
            host_address: Attr::Null,
            host_port: 2222.into(),
            guest_address: "10.0.5.10".into(),
            guest_port: 22.into(),
        };
        Model {
            host: "srv-01".into(),
            name: "site".into(),
            network: "10.0.5.0/24".into(),
            dhcp: true.into(),
            ipv6: false.into(),
            enabled: true.into(),
            port_forwards: BTreeMap::from([("ssh".to_owned(), forward)]).into(),
            ..Model::default()
        }
    }

    #[test]
    fn what_is_found_as_it_was_wished_is_no_difference() {
        let wish = model().wish().unwrap();
        let seen = model().observed("srv-01", &wish);
        let expected = Model {
            id: "srv-01/site".into(),
            ..model()
        };
        assert_eq!(seen, expected);
        let drifted = NatNetwork {
            dhcp: false,
            rules: BTreeMap::new(),
            ..wish
        };
        let seen = model().observed("srv-01", &drifted);
        assert_eq!((seen.dhcp, seen.port_forwards), (false.into(), Attr::Null));
        let unknown = Model {
            network: Attr::Unknown,
            ..model()
        };
        assert_eq!(unknown.wish(), None);
    }

    #[test]
    fn a_network_that_cannot_be_names_its_attribute() {
        let paths = |model: &Model| -> Vec<String> {
            let mut diagnostics = Diagnostics::new();
            NatNetworkResource::validate(model, &mut diagnostics);
            diagnostics.iter().map(|it| it.path.to_string()).collect()
        };
        assert_eq!(paths(&model()), [""; 0]);
        let mut wrong = model();
        wrong.network = "10.0.5.1/24".into();
        assert_eq!(paths(&wrong), ["network"]);
        let mut wrong = model();
        let forward = wrong.port_forwards.known_mut().unwrap();
        let forward = forward.get_mut("ssh").unwrap();
        forward.protocol = "icmp".into();
        forward.host_address = "here".into();
        forward.guest_address = "10.0.6.1".into();
        assert_eq!(
            paths(&wrong),
            [
                "port_forwards[\"ssh\"].protocol",
                "port_forwards[\"ssh\"].host_address",
                "port_forwards[\"ssh\"].guest_address"
            ]
        );
    }
}
