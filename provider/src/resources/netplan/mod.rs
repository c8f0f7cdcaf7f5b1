//! `ondol_netplan`: a guest's host name and network, over SSH, changed so that a mistake takes itself back.
//!
//! What is in the file, what differs and how a change is rolled back are `ondol_netplan`'s decisions; here is
//! the way to the guest and back to it on its new address.

mod change;
mod model;
mod ssh;
mod way;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tfplugin::{
    DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Path, Planned, Resource, path,
};

use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::{Engine, PowerState, Vm};
use change::converge;
use model::{observed_state, plan};
use way::{Search, Way, candidates};

pub use model::Model;

/// How long a refresh looks for a guest that runs but does not answer.
const READ_PATIENCE: Duration = Duration::from_secs(20);

pub struct NetplanResource;

impl Resource for NetplanResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_netplan";
    const IMPORT_ID: Option<&'static str> = Some("HOST/NAME or HOST/UUID");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts {
        read: Duration::from_secs(60),
        ..DefaultTimeouts::all(Duration::from_secs(300))
    };

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let Some(ssh) = config.ssh.known() {
            ssh.validate(diagnostics);
        }
        if let Some(Err(problems)) = config.desired() {
            diagnostics.extend(problems);
        }
        if let Some(address) = config.first_boot_address.known()
            && address.parse::<IpAddr>().is_err()
        {
            diagnostics.error(
                path!["first_boot_address"],
                format!("{address:?} is not an address"),
                "Give the first_boot_address of the ondol_vm.",
            );
        }
    }

    fn plan(_: Option<&Model>, planned: Model, _: &Model, _: &mut Diagnostics) -> Planned<Model> {
        plan(planned).into()
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        _: Option<&Model>,
        planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        if let Some(host) = planned.model.host.known()
            && cx.context().is_known()
        {
            cx.context().engine(host, path!["host"])?;
        }
        Ok(planned)
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        Ok(converge(cx, None, planned).await?)
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let engine = engine_of(cx, &state)?;
        let vm = observe_vm(cx, &engine, &state).await?;
        let Some(vm) = vm else { return Ok(None) };
        // Right after an import there is nothing to log in with yet: the next apply looks.
        let (Some(Ok(desired)), Some(_)) = (state.desired(), state.ssh.known()) else {
            return Ok(Some(state));
        };
        if vm.state == PowerState::Stopped {
            cx.warn(
                Diagnostic::warning(format!(
                    "The network of {} was not looked at",
                    state.label()
                ))
                .detail("Its VM is stopped. The state keeps what was last seen."),
            );
            return Ok(Some(state));
        }
        let search = Search {
            label: state.label(),
            candidates: candidates(Some(&state), &desired, vm.first_boot_address),
            until: Instant::now() + READ_PATIENCE,
        };
        let reached = Way::new(cx, &engine, &state, &vm)?.reach(&search).await?;
        let observed = reached.observe().await?;
        Ok(Some(observed_state(state, &desired, &observed)))
    }

    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        Ok(converge(cx, Some(&prior), planned).await?)
    }

    /// The guest keeps its network: without an address nobody could reach it any more.
    async fn delete(_: &Operation<Cloud>, _: Model) -> Result<(), Failure<Model>> {
        Ok(())
    }

    async fn import(cx: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let Some((host, vm)) = id
            .split_once('/')
            .filter(|(host, vm)| !host.is_empty() && !vm.is_empty())
        else {
            return Err(Diagnostic::error(format!("{id:?} does not name a VM"))
                .detail("Write HOST/NAME or HOST/UUID, for example srv-01/dns-server. HOST is a key of the provider's `hosts`.")
                .into());
        };
        let engine = cx.context().engine(host, Path::root())?;
        let state = Model {
            host: host.into(),
            vm: vm.into(),
            ..Model::default()
        };
        let found = observe_vm(cx, &engine, &state)
            .await?
            .ok_or_else(|| no_vm(&engine, vm))?;
        Ok(Model {
            id: found.id.to_string().into(),
            vm: found.id.to_string().into(),
            first_boot_address: found.first_boot_address.to_string().into(),
            ..state
        })
    }
}

fn engine_of(cx: &Operation<Cloud>, model: &Model) -> Result<Arc<dyn Engine>, Diagnostic> {
    cx.context()
        .engine(model.host.require(path!["host"])?, path!["host"])
}

async fn observe_vm(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    model: &Model,
) -> Result<Option<Vm>, Diagnostic> {
    let vm = model.vm.require(path!["vm"])?;
    cx.wait(engine.observe(vm))
        .await?
        .map_err(|error| diagnostics::engine(&error))
}

fn no_vm(engine: &Arc<dyn Engine>, vm: &str) -> Diagnostic {
    Diagnostic::error(format!("Host {:?} has no VM {vm:?}", engine.host()))
        .detail("Give the `id` of an ondol_vm on that host.")
        .at(path!["vm"])
}

#[cfg(test)]
mod tests;
