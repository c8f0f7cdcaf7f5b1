//! What is done with a VM through its engine, and the waiting that goes with it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tfplugin::{Attr, Diagnostic, Interrupted, Operation};
use tokio::io::AsyncReadExt as _;

use super::model::{Model, WaitFor};
use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::{Engine, PowerState, Vm, VmSpec};

/// How long a guest may take to shut down before its power is cut.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);
/// How long an act that should not be broken off goes on after Terraform has asked to stop. Well below the SDK's own
/// patience, after which an operation is abandoned without a word of its own.
const LAST_MOMENT: Duration = Duration::from_millis(2500);
const SSH_PORT: u16 = 22;

/// Why a VM does not run as it should, though it exists.
pub(super) enum Unstarted {
    Interrupted(Interrupted),
    Failed(Diagnostic),
}

impl From<Interrupted> for Unstarted {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

impl From<Diagnostic> for Unstarted {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Failed(diagnostic)
    }
}

/// Waits for an act that is better finished than broken off: when Terraform asks to stop, it gets a moment more.
pub(in crate::resources) async fn finish<T>(
    cx: &Operation<Cloud>,
    act: impl Future<Output = T>,
) -> Result<T, Interrupted> {
    let mut act = pin!(act);
    match cx.wait(act.as_mut()).await {
        Ok(output) => Ok(output),
        Err(interrupted) => tokio::time::timeout(LAST_MOMENT, act)
            .await
            .map_err(|_| interrupted),
    }
}

/// Changes a VM's shape, then its power. The disk stays what it is, whatever image is wished for.
pub(super) async fn bring_to(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    id: &str,
    spec: &VmSpec,
    planned: Model,
) -> Result<Model, Unstarted> {
    let engine_error = |error| Unstarted::Failed(diagnostics::engine(&error));
    let present = found(engine, id).await?.spec;
    let spec = VmSpec {
        image: present.image,
        seed: match planned.seed {
            Attr::Null => present.seed,
            _ => spec.seed.clone(),
        },
        ..spec.clone()
    };
    let waiting = finish(cx, engine.update(id, &spec))
        .await?
        .map_err(engine_error)?;
    let wanted = planned.wanted_power();
    let vm = found(engine, id).await?;
    let runs = vm.state == PowerState::Running;
    let stop = runs && (!waiting.is_empty() || wanted == PowerState::Stopped);
    if stop {
        cx.wait(engine.power(id, PowerState::Stopped, SHUTDOWN_PATIENCE))
            .await?
            .map_err(engine_error)?;
        // What had to wait can be done now; an engine that keeps it for the next start has nothing left to do.
        finish(cx, engine.update(id, &spec))
            .await?
            .map_err(engine_error)?;
    }
    if wanted == PowerState::Running && (stop || !runs) {
        return start(cx, engine, planned, &vm).await;
    }
    Ok(planned.observed(engine.host(), &found(engine, id).await?))
}

pub(super) async fn found(engine: &Arc<dyn Engine>, id: &str) -> Result<Vm, Diagnostic> {
    engine
        .observe(id)
        .await
        .map_err(|error| diagnostics::engine(&error))?
        .ok_or_else(|| {
            Diagnostic::error(format!("Host {:?} has no VM {id} any more", engine.host()))
                .detail("It was removed while Terraform worked on it. Run terraform apply again.")
        })
}

/// Starts a VM and waits for what the model asks to wait for.
pub(super) async fn start(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    model: Model,
    vm: &Vm,
) -> Result<Model, Unstarted> {
    let id = vm.id.to_string();
    cx.wait(engine.power(&id, PowerState::Running, SHUTDOWN_PATIENCE))
        .await?
        .map_err(|error| Unstarted::Failed(diagnostics::engine(&error)))?;
    match model.wait_for {
        Attr::Known(WaitFor::Ssh) => wait_for_ssh(cx, engine, vm).await?,
        Attr::Known(WaitFor::Ip) => wait_for_ip(cx, engine, &id).await?,
        _ => {}
    }
    Ok(model.observed(engine.host(), &found(engine, &id).await?))
}

/// The state as it is now; as it was, where nobody can say.
pub(super) async fn refresh(engine: &Arc<dyn Engine>, model: Model) -> Model {
    match engine.observe(model.id.as_str().unwrap_or_default()).await {
        Ok(Some(vm)) => model.observed(engine.host(), &vm),
        _ => model,
    }
}

/// Waits until the hypervisor knows an address of the guest.
async fn wait_for_ip(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    id: &str,
) -> Result<(), Interrupted> {
    loop {
        if let Ok(known) = cx.wait(engine.guest_addresses(id)).await?
            && !known.is_empty()
        {
            return Ok(());
        }
        cx.sleep(Duration::from_millis(500)).await?;
    }
}

/// Waits until the guest's SSH server greets, at its first-boot address or, where a netplan has taken that
/// away, where that was confirmed or at any address that the hypervisor sees.
async fn wait_for_ssh(
    cx: &Operation<Cloud>,
    engine: &Arc<dyn Engine>,
    vm: &Vm,
) -> Result<(), Interrupted> {
    let id = vm.id.to_string();
    let connector = engine.connector();
    loop {
        let known = cx.wait(engine.guest_addresses(&id)).await?;
        let mut addresses = vec![vm.first_boot_address];
        for address in vm
            .confirmed_address
            .into_iter()
            .chain(known.unwrap_or_default())
        {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        for address in addresses {
            let greeting = async {
                let mut stream =
                    connector(SocketAddr::new(address, SSH_PORT), Duration::from_secs(2))
                        .await
                        .ok()?;
                let mut start = [0; 4];
                stream.read_exact(&mut start).await.ok()?;
                (&start == b"SSH-").then_some(())
            };
            let greeting = tokio::time::timeout(Duration::from_secs(5), greeting);
            if let Ok(Some(())) = cx.wait(greeting).await? {
                return Ok(());
            }
        }
        cx.sleep(Duration::from_millis(300)).await?;
    }
}
