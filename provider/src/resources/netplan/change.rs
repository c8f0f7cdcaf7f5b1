//! Bringing a guest to what is planned, over a connection that the change itself may cut.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ondol_netplan as guest;
use ondol_netplan::{ChangeId, Desired, Observed, Status, Step};
use tfplugin::{Diagnostic, Diagnostics, Operation, path};
use uuid::Uuid;

use super::model::{DEFAULT_CONFIRM_SECONDS, Model, observed_state, problem};
use super::way::{Reached, Search, Unreached, Way, candidates, static_addresses};
use super::{engine_of, no_vm, observe_vm};
use crate::config::Cloud;
use crate::diagnostics;
use crate::engine::PowerState;
use crate::ssh;

/// networkd takes a reload and acts on it a moment later.
const TAKING_EFFECT: Duration = Duration::from_millis(700);

/// Brings a guest to what is planned and returns the state that it shows then.
pub(super) async fn converge(
    cx: &Operation<Cloud>,
    prior: Option<&Model>,
    planned: Model,
) -> Result<Model, Diagnostics> {
    let desired = planned.require_desired()?;
    let engine = engine_of(cx, &planned)?;
    let name = planned.vm.require(path!["vm"])?.clone();
    let vm = observe_vm(cx, &engine, &planned)
        .await?
        .ok_or_else(|| no_vm(&engine, &name))?;
    if vm.state == PowerState::Stopped {
        return Err(Diagnostic::error(format!(
            "The network of {} cannot be changed",
            planned.label()
        ))
        .detail("Its VM is stopped. Start it first: set power = \"running\" on the ondol_vm.")
        .at(path!["vm"])
        .into());
    }
    let way = Way::new(cx, &engine, &planned, &vm)?;
    let until = cx
        .deadline()
        .unwrap_or_else(|| Instant::now() + Duration::from_secs(300));
    let search = Search {
        label: planned.label(),
        candidates: candidates(prior, &desired, vm.first_boot_address),
        until,
    };
    let mut reached = way.reach(&search).await?;
    // A round more than one change needs: the second looks whether the first has held.
    for _ in 0..3 {
        let (calm, observed) = calm(&way, reached, &search).await?;
        reached = calm;
        let blockers = guest::blockers(&desired, &observed);
        if !blockers.is_empty() {
            return Err(blockers.iter().map(problem).collect());
        }
        let steps = guest::plan(&desired, &observed);
        if steps.is_empty() {
            way.note(reached.address).await;
            return Ok(observed_state(planned, &desired, &observed));
        }
        if let Some(change) = new_change(&planned, &desired, &observed, &steps) {
            reached = change_over(&way, reached, &desired, &change, &planned, until).await?;
        }
        if let Some(script) = guest::direct(&steps) {
            reached
                .run("set what cannot cut the guest off", &script)
                .await?;
        }
    }
    let observed = reached.observe().await?;
    let left: Vec<String> = guest::plan(&desired, &observed)
        .iter()
        .map(ToString::to_string)
        .collect();
    if left.is_empty() {
        way.note(reached.address).await;
        return Ok(observed_state(planned, &desired, &observed));
    }
    Err(Diagnostic::error(format!(
        "The network of {} does not stay as wanted",
        planned.label()
    ))
    .detail(format!(
        "Something on the guest works against it. Still to be done after three rounds: {}.",
        left.join("; ")
    ))
    .at(path!["ethernets"])
    .into())
}

pub(super) fn new_change(
    planned: &Model,
    desired: &Desired,
    observed: &Observed,
    steps: &[Step],
) -> Option<guest::Change> {
    let id =
        ChangeId::new(Uuid::new_v4().to_string()).expect("a UUID is letters, digits and hyphens");
    let patience = Duration::from_secs(
        planned
            .confirm_timeout_seconds
            .unwrap_or(DEFAULT_CONFIRM_SECONDS),
    );
    guest::Change::of(desired, observed, steps, id, patience)
}

/// Begins a change and confirms it over the address that it gives; otherwise says what the guest did.
pub(super) async fn change_over(
    way: &Way<'_>,
    reached: Reached,
    desired: &Desired,
    change: &guest::Change,
    planned: &Model,
    until: Instant,
) -> Result<Reached, Diagnostics> {
    begin(&reached, change).await?;
    let old = reached.address;
    let mut addresses = static_addresses(desired);
    if addresses.is_empty() {
        // DHCP alone: the old address may stay, or the hypervisor knows the new one.
        addresses.push(old);
        addresses.extend(way.engine_addresses().await);
    }
    let give_up = until.min(Instant::now() + change.rollback_after + Duration::from_secs(5));
    if addresses.contains(&old) {
        wait_until_applied(way, &reached, give_up).await?;
    }
    // A connection from before the change proves nothing about the network after it.
    reached.guest.forget().await;
    let reason = match confirm(way, &addresses, change, give_up).await {
        Ok(new) => return Ok(new),
        Err(Unreached::Stopped(diagnostic)) => return Err(diagnostic.into()),
        Err(Unreached::Unanswered(reason)) => reason,
    };
    let tried: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let outcome = after_rollback(way, planned, old, change).await;
    Err(Diagnostic::error(format!("The new network of {} was taken back", planned.label()))
        .detail(format!(
            "The guest did not answer on {} within {} s after the change: {reason}. {outcome} Check address, gateway and the network between.",
            tried.join(", "),
            change.rollback_after.as_secs(),
        ))
        .at(path!["ethernets"])
        .into())
}

/// On an address that stays, waits until the guest runs the new network; the old one would answer as well.
pub(super) async fn wait_until_applied(
    way: &Way<'_>,
    reached: &Reached,
    give_up: Instant,
) -> Result<(), Diagnostic> {
    while Instant::now() < give_up {
        let answer = reached.status().await;
        match answer.map(|text| guest::parse_status(&text)) {
            Ok(Status::Pending { applied: false, .. }) => {
                way.sleep(Duration::from_millis(200)).await?
            }
            // Cut off: the change has arrived.
            Ok(_) | Err(_) => break,
        }
    }
    way.sleep(TAKING_EFFECT).await
}

/// Confirms a change over a connection that is opened after it. Says why, where the guest was not reached or took it back.
pub(super) async fn confirm(
    way: &Way<'_>,
    addresses: &[IpAddr],
    change: &guest::Change,
    give_up: Instant,
) -> Result<Reached, Unreached> {
    loop {
        let new = way.reach_any(addresses, give_up).await?;
        let answer = new
            .try_run("confirm the network change", &guest::confirm(&change.id))
            .await;
        let reason = match answer.map(|text| guest::parse_status(&text)) {
            Ok(Status::Confirmed { .. }) => return Ok(new),
            Ok(Status::RolledBack { reason, .. }) => return Err(Unreached::Unanswered(reason)),
            Ok(other) => format!("the guest answered the confirmation with {other:?}"),
            // To say it twice is fine: the connection may have broken before or after the guest heard it.
            Err(error) => error.to_string(),
        };
        if Instant::now() >= give_up {
            return Err(Unreached::Unanswered(reason));
        }
        new.guest.forget().await;
        way.sleep(Duration::from_millis(300))
            .await
            .map_err(Unreached::Stopped)?;
    }
}

/// Waits until no change is under way on the guest, and says what it is like then. A change that an apply left when it was
/// killed is taken back by the guest itself, and the address that it was reached on may go with it.
pub(super) async fn calm(
    way: &Way<'_>,
    mut reached: Reached,
    search: &Search,
) -> Result<(Reached, Observed), Diagnostics> {
    loop {
        match reached.observe().await {
            // The address that was asked may go while the guest settles. Asking changes nothing, so it is asked again elsewhere.
            Err(unobserved) if !unobserved.lost || Instant::now() >= search.until => {
                return Err(unobserved.into());
            }
            Err(_) => {}
            Ok(observed)
                if !matches!(
                    observed.status,
                    Status::Pending { .. } | Status::Settling { .. }
                ) =>
            {
                return Ok((reached, observed));
            }
            Ok(_) => {}
        }
        if Instant::now() >= search.until {
            return Err(Diagnostic::error(format!("The network of {} cannot be changed now", search.label))
                .detail("Another change of it is under way on the guest, and did not end in time. Run terraform apply again.")
                .at(path!["ethernets"])
                .into());
        }
        reached.guest.forget().await;
        way.sleep(Duration::from_secs(1)).await?;
        reached = way.reach(search).await?;
    }
}

pub(super) async fn begin(reached: &Reached, change: &guest::Change) -> Result<(), Diagnostics> {
    let act = "begin the network change";
    let answer = match reached.try_run(act, &guest::begin(change)).await {
        Ok(answer) => answer,
        // Begun or not, the new address will tell.
        Err(ssh::Error::Lost { .. } | ssh::Error::Deadline { .. }) => return Ok(()),
        Err(error) => return Err(diagnostics::ssh(&error, act).into()),
    };
    guest::parse_begin(&change.id, &answer).map_err(|error| {
        Diagnostic::error("The guest did not take the network change")
            .detail(format!(
                "{} Nothing was changed on the guest.",
                diagnostics::sentence(&error.to_string())
            ))
            .at(path!["ethernets"])
            .into()
    })
}

/// Looks whether the guest came back where it was, and says so.
pub(super) async fn after_rollback(
    way: &Way<'_>,
    planned: &Model,
    old: IpAddr,
    change: &guest::Change,
) -> String {
    let until = Instant::now() + change.rollback_after + Duration::from_secs(10);
    while let Ok(reached) = way.reach_any(&[old], until).await {
        match reached
            .status()
            .await
            .map(|text| guest::parse_status(&text))
        {
            Ok(Status::RolledBack { reason, .. }) => {
                return format!(
                    "The guest rolled it back by itself ({reason}) and answers on {old} as before."
                );
            }
            Ok(Status::Pending { .. } | Status::Settling { .. }) | Err(_) => {}
            Ok(other) => return format!("The guest answers on {old} as before ({other:?})."),
        }
        if Instant::now() >= until || way.sleep(Duration::from_millis(500)).await.is_err() {
            break;
        }
    }
    format!(
        "The guest {} rolls it back by itself, but did not answer on {old} yet.",
        planned.hostname.as_str().unwrap_or_default()
    )
}
