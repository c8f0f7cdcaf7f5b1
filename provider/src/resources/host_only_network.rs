//! `ondol_host_only_network`: a network between a host and its VMs, of which nobody else knows.
//!
//! Adapters join it with `type = "hostonly"`; that is `ondol_vm`'s.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use ondol_virtualbox::network::{DhcpServer, HostOnlyNetwork};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Diagnostic, Diagnostics, Failure, Operation, Planned, Resource, attribute, path,
};

use super::on_virtualbox::OnVirtualBox;
use crate::config::Cloud;
use crate::diagnostics::complain;

const KIND: &str = "ondol_host_only_network";

/// A host-only network of a VirtualBox host: an adapter of the host (`hostonlyif`), or with VirtualBox 7 on macOS a network of its own
/// (`hostonlynet`). It needs VirtualBox's kernel driver on the host, and on Linux an address that /etc/vbox/networks.conf allows
/// (192.168.56.0/21 unless it says otherwise).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// `HOST/NAME`.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub id: Attr<String>,
    /// A key of the provider's `hosts`, with `engine = "virtualbox"`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// What an adapter of `ondol_vm` names as its `adapter`. VirtualBox chooses it (`vboxnet0`), but on macOS, where it must be given.
    #[schemars(transform = attribute::optional_computed, transform = attribute::requires_replace, transform = attribute::stable)]
    pub name: Attr<String>,
    /// The host's address in the network with its prefix length, such as `192.168.56.1/24`.
    #[schemars(transform = attribute::required)]
    pub address: Attr<String>,
    /// A DHCP server for the guests. Left out, there is none.
    pub dhcp: Attr<Dhcp>,
}

/// A DHCP server of VirtualBox's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dhcp {
    /// The server's own address. Default: the one after the host's. On macOS it is the host's.
    pub server_address: Attr<String>,
    /// The first address that it gives out.
    #[schemars(transform = attribute::required)]
    pub lower_address: Attr<String>,
    /// The last one.
    #[schemars(transform = attribute::required)]
    pub upper_address: Attr<String>,
}

impl Model {
    /// What the model asks for; `None` while something in it is unknown or, before an import's first read, absent. `vmnet`: on macOS.
    fn wish(&self, vmnet: bool) -> Option<HostOnlyNetwork> {
        let address: Ipv4Net = self.address.known()?.parse().ok()?;
        let dhcp = match &self.dhcp {
            Attr::Unknown => return None,
            Attr::Null => None,
            Attr::Known(dhcp) => Some(dhcp.wish(address, vmnet)?),
        };
        Some(HostOnlyNetwork {
            name: self.name.known().cloned().unwrap_or_default(),
            address: address.addr(),
            netmask: address.netmask(),
            dhcp,
        })
    }

    fn require_wish(&self, vmnet: bool) -> Result<HostOnlyNetwork, Diagnostic> {
        self.wish(vmnet).ok_or_else(|| {
            Diagnostic::error("The host-only network is not fully described")
                .detail("An attribute has no value at apply time. This is a bug in the provider.")
        })
    }

    /// Takes over what was found; what says the same stays as it was written.
    fn observed(mut self, host: &str, found: &HostOnlyNetwork, vmnet: bool) -> Self {
        self.id = format!("{host}/{}", found.name).into();
        self.name = found.name.clone().into();
        if self.wish(vmnet).as_ref() == Some(found) {
            return self;
        }
        let net = Ipv4Net::with_netmask(found.address, found.netmask);
        Self {
            address: net
                .map_or(found.address.to_string(), |it| it.to_string())
                .into(),
            dhcp: found.dhcp.as_ref().map(Dhcp::from).into(),
            ..self
        }
    }
}

impl Dhcp {
    fn wish(&self, host: Ipv4Net, vmnet: bool) -> Option<DhcpServer> {
        let address = match &self.server_address {
            Attr::Unknown => return None,
            Attr::Null if vmnet => host.addr(),
            Attr::Null => Ipv4Addr::from_bits(host.addr().to_bits().wrapping_add(1)),
            Attr::Known(address) => address.parse().ok()?,
        };
        Some(DhcpServer {
            address,
            netmask: host.netmask(),
            lower: self.lower_address.known()?.parse().ok()?,
            upper: self.upper_address.known()?.parse().ok()?,
        })
    }
}

impl From<&DhcpServer> for Dhcp {
    fn from(server: &DhcpServer) -> Self {
        Self {
            server_address: server.address.to_string().into(),
            lower_address: server.lower.to_string().into(),
            upper_address: server.upper.to_string().into(),
        }
    }
}

pub struct HostOnlyNetworkResource;

impl Resource for HostOnlyNetworkResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = KIND;
    const IMPORT_ID: Option<&'static str> = Some("HOST/NAME");

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        let net = config.address.as_str().map(str::parse::<Ipv4Net>);
        let net = match net {
            Some(Ok(net)) if net.addr() != net.network() => Some(net),
            Some(_) => {
                complain(
                    diagnostics,
                    path!["address"],
                    "address is not an IPv4 address with its prefix length",
                    "Write the host's own address like \"192.168.56.1/24\".",
                );
                None
            }
            None => None,
        };
        let Some(dhcp) = config.dhcp.known() else {
            return;
        };
        for (attribute, value) in [
            ("server_address", &dhcp.server_address),
            ("lower_address", &dhcp.lower_address),
            ("upper_address", &dhcp.upper_address),
        ] {
            let Some(text) = value.as_str() else { continue };
            let fits = text
                .parse::<Ipv4Addr>()
                .is_ok_and(|it| net.is_none_or(|net| net.contains(&it)));
            if !fits {
                complain(
                    diagnostics,
                    path!["dhcp", attribute],
                    format!("{text:?} is not an address of the network"),
                    "Name an IPv4 address within the network of `address`.",
                );
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
        let act = "look at the host's networks";
        let vmnet = on.look(cx, act, on.host().has_vmnet()).await?;
        check_name(vmnet, planned.name.is_known())?;
        let wanted = planned.require_wish(vmnet)?;
        let work = on.host().create_host_only_network(&wanted);
        let made = on.act(cx, "make a host-only network", work).await?;
        Ok(planned.observed(on.name(), &made, vmnet))
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let name = state.name.require(path!["name"])?;
        let act = format!("look for the host-only network {name:?}");
        let vmnet = on.look(cx, &act, on.host().has_vmnet()).await?;
        let found = on.look(cx, &act, on.host().host_only_network(name)).await?;
        Ok(found.map(|found| state.observed(on.name(), &found, vmnet)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        _: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
        let act = "change the host-only network";
        let vmnet = on.look(cx, act, on.host().has_vmnet()).await?;
        let wanted = planned.require_wish(vmnet)?;
        let work = on.host().update_host_only_network(&wanted);
        let made = on.act(cx, act, work).await?;
        Ok(planned.observed(on.name(), &made, vmnet))
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let name = state.name.require(path!["name"])?;
        let act = format!("remove the host-only network {name:?}");
        let work = on.host().delete_host_only_network(name);
        Ok(on.act(cx, &act, work).await?)
    }

    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let (host, name) = OnVirtualBox::part_id(id, "HOST/NAME", "srv-01/vboxnet0")?;
        Ok(Model {
            host: host.into(),
            name: name.into(),
            ..Model::default()
        })
    }
}

/// Where macOS carries the networks a new one must be given a name; elsewhere it cannot be.
fn check_name(vmnet: bool, named: bool) -> Result<(), Diagnostic> {
    let advice = match (vmnet, named) {
        (true, false) => "On macOS a host-only network has a name of your choice: give it one.",
        (false, true) => {
            "VirtualBox names its host-only adapters itself, except on macOS: leave `name` out."
        }
        _ => return Ok(()),
    };
    Err(Diagnostic::error("The network cannot be named so")
        .detail(advice)
        .at(path!["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            host: "srv-01".into(),
            name: "vboxnet0".into(),
            address: "192.168.56.1/24".into(),
            dhcp: Dhcp {
                server_address: Attr::Null,
                lower_address: "192.168.56.10".into(),
                upper_address: "192.168.56.99".into(),
            }
            .into(),
            ..Model::default()
        }
    }

    #[test]
    fn the_dhcp_server_is_next_to_the_host_and_on_macos_the_host() {
        let wish = |vmnet| {
            model()
                .wish(vmnet)
                .unwrap()
                .dhcp
                .unwrap()
                .address
                .to_string()
        };
        assert_eq!(
            (wish(false), wish(true)),
            ("192.168.56.2".into(), "192.168.56.1".into())
        );
    }

    #[test]
    fn what_is_found_as_it_was_wished_is_no_difference() {
        let wish = model().wish(false).unwrap();
        let expected = Model {
            id: "srv-01/vboxnet0".into(),
            ..model()
        };
        assert_eq!(model().observed("srv-01", &wish, false), expected);
        let drifted = HostOnlyNetwork {
            address: "192.168.57.1".parse().unwrap(),
            dhcp: None,
            ..wish
        };
        let seen = model().observed("srv-01", &drifted, false);
        assert_eq!(
            (seen.address, seen.dhcp),
            ("192.168.57.1/24".into(), Attr::Null)
        );
    }

    #[test]
    fn a_name_is_given_where_virtualbox_gives_none() {
        assert!(check_name(true, true).is_ok() && check_name(false, false).is_ok());
        for (vmnet, named) in [(true, false), (false, true)] {
            assert_eq!(check_name(vmnet, named).unwrap_err().path, path!["name"]);
        }
    }

    #[test]
    fn a_network_that_cannot_be_names_its_attribute() {
        let paths = |model: &Model| -> Vec<String> {
            let mut diagnostics = Diagnostics::new();
            HostOnlyNetworkResource::validate(model, &mut diagnostics);
            diagnostics.iter().map(|it| it.path.to_string()).collect()
        };
        assert_eq!(paths(&model()), [""; 0]);
        let network_itself = Model {
            address: "192.168.56.0/24".into(),
            ..model()
        };
        assert_eq!(paths(&network_itself), ["address"]);
        let elsewhere = Model {
            address: "192.168.57.1/24".into(),
            ..model()
        };
        assert_eq!(
            paths(&elsewhere),
            ["dhcp.lower_address", "dhcp.upper_address"]
        );
    }
}
