//! The way to a guest: on which of its possible addresses it answers, and what it says there.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ondol_netplan as guest;
use ondol_netplan::{Desired, Observed, Presence};
use tfplugin::{Diagnostic, Diagnostics, Operation, path};

use super::model::Model;
use super::ssh::DEFAULT_PORT;
use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::{Engine, Vm};
use crate::ssh::{self, Guest, Limits, Target};

/// One try to log in at one address, and the part of it until the transport is open.
const LOGIN: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_millis(1500);
/// One command on the guest.
const COMMAND: Duration = Duration::from_secs(60);
/// One look at how a change stands.
const STATUS: Duration = Duration::from_secs(5);
/// How much later the next candidate address is tried while the first has not answered.
const STAGGER: Duration = Duration::from_millis(250);
/// A guest that is still booting lets nobody but root in (pam_nologin). Longer than this, it means it.
const BOOTING: Duration = Duration::from_secs(10);

/// Where the guest may answer, most likely first: where it was confirmed last or, if it never was, where it
/// boots first; and where it should be, because an apply that was cut short may have brought it there.
pub(super) fn candidates(
    prior: Option<&Model>,
    desired: &Desired,
    first_boot: IpAddr,
) -> Vec<IpAddr> {
    let confirmed: Option<IpAddr> = prior.and_then(|prior| prior.address.known()?.parse().ok());
    let wanted = static_addresses(desired);
    match confirmed {
        Some(confirmed) => unique([confirmed].into_iter().chain(wanted).chain([first_boot])),
        None => unique([first_boot].into_iter().chain(wanted)),
    }
}

pub(super) fn static_addresses(desired: &Desired) -> Vec<IpAddr> {
    match &desired.presence {
        Presence::Present(network) => network.addresses().map(|address| address.addr()).collect(),
        Presence::Absent => Vec::new(),
    }
}

/// How to get to one guest.
pub(super) struct Way<'a> {
    cx: &'a Operation<Cloud>,
    engine: &'a Arc<dyn Engine>,
    vm: &'a Vm,
    target: Target,
}

/// Which guest is looked for, where, and for how long.
pub(super) struct Search {
    pub(super) label: String,
    pub(super) candidates: Vec<IpAddr>,
    pub(super) until: Instant,
}

/// A guest that answered, as itself, on an address.
pub(super) struct Reached {
    pub(super) guest: Guest,
    pub(super) address: IpAddr,
    limits: Limits,
}

/// Why a guest's network was not read.
pub(super) struct Unobserved {
    diagnostic: Diagnostic,
    /// The connection went, not the guest: asking again may help.
    pub(super) lost: bool,
}

impl From<Unobserved> for Diagnostics {
    fn from(unobserved: Unobserved) -> Self {
        unobserved.diagnostic.into()
    }
}

pub(super) enum Unreached {
    Stopped(Diagnostic),
    /// What each address answered.
    Unanswered(String),
}

impl<'a> Way<'a> {
    pub(super) fn new(
        cx: &'a Operation<Cloud>,
        engine: &'a Arc<dyn Engine>,
        model: &Model,
        vm: &'a Vm,
    ) -> Result<Self, Diagnostic> {
        let ssh = model.ssh.require(path!["ssh"])?;
        let target = Target {
            address: SocketAddr::new(vm.first_boot_address, ssh.port.unwrap_or(DEFAULT_PORT)),
            user: ssh.user.require(path!["ssh", "user"])?.clone(),
            credentials: ssh.credentials(),
            host_key: ssh.host_key_policy()?,
        };
        Ok(Self {
            cx,
            engine,
            vm,
            target,
        })
    }

    pub(super) async fn sleep(&self, duration: Duration) -> Result<(), Diagnostic> {
        Ok(self.cx.sleep(duration).await?)
    }

    fn guest(&self, address: IpAddr) -> Guest {
        let target = Target {
            address: SocketAddr::new(address, self.target.address.port()),
            ..self.target.clone()
        };
        self.cx
            .context()
            .ssh
            .guest(self.engine.network_scope(), target, self.engine.connector())
    }

    fn limits(&self, deadline: Duration) -> Limits {
        Limits::new(deadline, self.cx.stop())
    }

    /// Has the engine keep where the guest answers, so that it is found when it starts again. Best effort: the network is as
    /// wanted either way.
    pub(super) async fn note(&self, address: IpAddr) {
        if self
            .vm
            .confirmed_address
            .unwrap_or(self.vm.first_boot_address)
            == address
        {
            return;
        }
        if let Err(error) = self
            .engine
            .note_address(&self.vm.id.to_string(), address)
            .await
        {
            tracing::warn!(vm = %self.vm.id, %address, %error, "the guest's address is not noted");
        }
    }

    pub(super) async fn engine_addresses(&self) -> Vec<IpAddr> {
        self.engine
            .guest_addresses(&self.vm.id.to_string())
            .await
            .unwrap_or_default()
    }

    /// Reaches the guest on one of the candidates, or else where the hypervisor sees it.
    pub(super) async fn reach(&self, search: &Search) -> Result<Reached, Diagnostics> {
        let mut candidates = search.candidates.clone();
        let refused_until = Instant::now() + BOOTING;
        loop {
            let errors = match self.race(&candidates).await {
                Ok(reached) => return Ok(reached),
                Err(errors) => errors,
            };
            if self.cx.stop().is_cancelled() {
                self.sleep(Duration::ZERO).await?;
            }
            let decisive = errors.iter().find(|(_, error)| !error.may_pass());
            let patient = match decisive {
                Some((_, ssh::Error::Refused { .. })) => Instant::now() < refused_until,
                Some(_) => false,
                None => true,
            };
            if !patient || Instant::now() + Duration::from_secs(1) > search.until {
                let act = format!("log in to the guest {}", search.label);
                return Err(match decisive {
                    Some((_, error)) => diagnostics::ssh(error, &act),
                    None => Diagnostic::error(format!("Could not {act}")).detail(format!(
                        "It runs, but did not answer on any of its addresses: {}. It is not taken to be gone. Look at its console and its network.",
                        listed(&errors)
                    )),
                }
                .into());
            }
            for address in self.engine_addresses().await {
                if !candidates.contains(&address) {
                    candidates.push(address);
                }
            }
            self.sleep(Duration::from_millis(300)).await?;
        }
    }

    /// Reaches the guest on one of these addresses and nowhere else.
    pub(super) async fn reach_any(
        &self,
        addresses: &[IpAddr],
        until: Instant,
    ) -> Result<Reached, Unreached> {
        loop {
            let errors = match self.race(addresses).await {
                Ok(reached) => return Ok(reached),
                Err(errors) => errors,
            };
            if Instant::now() >= until {
                return Err(Unreached::Unanswered(listed(&errors)));
            }
            self.sleep(Duration::from_millis(200))
                .await
                .map_err(Unreached::Stopped)?;
        }
    }

    /// Tries all addresses, the first with a small head start; whichever answers as the guest first, wins.
    async fn race(&self, addresses: &[IpAddr]) -> Result<Reached, Vec<(IpAddr, ssh::Error)>> {
        let mut attempts = tokio::task::JoinSet::new();
        for (position, &address) in addresses.iter().enumerate() {
            let (guest, limits) = (
                self.guest(address),
                self.limits(LOGIN).connect_within(CONNECT),
            );
            let delay = STAGGER * u32::try_from(position).unwrap_or(u32::MAX);
            attempts.spawn(async move {
                tokio::time::sleep(delay).await;
                let outcome = guest.connection(&limits).await.map(drop);
                (address, guest, outcome)
            });
        }
        let mut errors = Vec::new();
        while let Some(finished) = attempts.join_next().await {
            match finished {
                Ok((address, guest, Ok(()))) => {
                    return Ok(Reached {
                        guest,
                        address,
                        limits: self.limits(COMMAND),
                    });
                }
                Ok((address, _, Err(error))) => errors.push((address, error)),
                Err(_) => {}
            }
        }
        Err(errors)
    }
}

pub(super) fn listed(errors: &[(IpAddr, ssh::Error)]) -> String {
    errors
        .iter()
        .map(|(_, error)| error.to_string())
        .collect::<Vec<_>>()
        .join("; ")
}

/// Each address once, in this order.
pub(super) fn unique(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique
}

impl Reached {
    /// How the last change stands. Asked while the network under the connection may go, so it does not wait long.
    pub(super) async fn status(&self) -> Result<String, ssh::Error> {
        let limits = Limits {
            deadline: STATUS,
            ..self.limits.clone()
        };
        self.guest
            .root("ask how the change stands", &guest::status(), &limits)
            .await
    }

    pub(super) async fn try_run(&self, act: &str, script: &str) -> Result<String, ssh::Error> {
        self.guest.root(act, script, &self.limits).await
    }

    pub(super) async fn run(&self, act: &str, script: &str) -> Result<String, Diagnostic> {
        self.try_run(act, script)
            .await
            .map_err(|error| diagnostics::ssh(&error, act))
    }

    pub(super) async fn observe(&self) -> Result<Observed, Unobserved> {
        let act = "read the guest's network";
        let text = self.try_run(act, guest::OBSERVE).await.map_err(|error| {
            let lost = matches!(error, ssh::Error::Lost { .. } | ssh::Error::Deadline { .. });
            let diagnostic = diagnostics::ssh(&error, act);
            Unobserved { diagnostic, lost }
        })?;
        guest::parse_observation(&text).map_err(|error| {
            let diagnostic = Diagnostic::error(format!("Could not {act}")).detail(format!(
                "{} answered what cannot be read: {error}.",
                self.guest.target()
            ));
            Unobserved {
                diagnostic,
                lost: false,
            }
        })
    }
}
