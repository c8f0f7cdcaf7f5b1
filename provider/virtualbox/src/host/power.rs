//! Starting and stopping a VM, and asking its guest.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Host;
use crate::answer::{self, VmState};
use crate::command::{Command, Control};
use crate::error::{Error, Result, start_hint};
use crate::shell::System;
use crate::spec::Vm;

/// How long a VM may take to come up after VirtualBox said that it started it, and to go down after its power was cut.
const SWITCHING: Duration = Duration::from_secs(60);

impl Host {
    /// Starts a VM, or stops it: gracefully for `patience`, then by cutting its power.
    pub async fn power(&self, id: &str, on: bool, patience: Duration) -> Result<()> {
        let _vm = self.lock(id).await;
        let vm = self.require(id).await?;
        let id = vm.id.to_string();
        if vm.state.is_on() == on {
            return Ok(());
        }
        if on {
            return self.start(&vm).await;
        }
        let button = Command::Control {
            vm: id.clone(),
            act: Control::PowerButton,
        };
        // A guest that is not up yet, or paused, has no ear for it; its power can be cut all the same.
        if self.act(button).await.is_ok() && self.wait_for(&id, false, patience).await?.is_none() {
            return Ok(());
        }
        let cut = Command::Control {
            vm: id.clone(),
            act: Control::PowerOff,
        };
        if let Err(error) = self.act(cut).await
            && self.state(&id).await?.is_on()
        {
            return Err(error);
        }
        match self.wait_for(&id, false, SWITCHING).await? {
            None => Ok(()),
            Some(state) => Err(Error::StillOn {
                vm: vm.spec.name,
                state,
                seconds: SWITCHING.as_secs(),
            }),
        }
    }

    async fn start(&self, vm: &Vm) -> Result<()> {
        let machine = self.machine().await?;
        let id = vm.id.to_string();
        let answer = self.act(Command::Start { vm: id.clone() }).await;
        let words = match answer {
            // It can say no and have started the VM, and say yes while the VM is still on its way down again.
            Err(Error::Refused { words, .. }) => {
                if self.state(&id).await?.is_on() {
                    return Ok(());
                }
                words
            }
            Err(other) => return Err(other),
            Ok(_) => match self.wait_for(&id, true, SWITCHING).await? {
                None => return Ok(()),
                Some(state) => format!("it is {state:?} {} s later", SWITCHING.as_secs()),
            },
        };
        let log = machine
            .system
            .join(&machine.system.join(&vm.place.folder, "Logs"), "VBox.log");
        let log = machine.read_file(&log).await?.unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let reason = log
            .lines()
            .rfind(|line| line.contains("VERR_"))
            .map(str::trim);
        let words = match reason {
            Some(line) => format!("{words}; its log says: {line}"),
            None => words,
        };
        let driver_missing = matches!(machine.system, System::Linux(_))
            && !machine
                .list("/dev")
                .await?
                .iter()
                .any(|name| name == "vboxdrv");
        Err(Error::NotStarted {
            vm: vm.spec.name.clone(),
            hint: start_hint(&words, driver_missing),
            words,
        })
    }

    async fn state(&self, id: &str) -> Result<VmState> {
        let machine = self.machine().await?;
        let info = machine.run(&Command::ShowVm { vm: id.to_owned() }).await?;
        Ok(answer::machine_readable(&info)
            .state()
            .unwrap_or(VmState::Changing))
    }

    /// Waits until a VM is on or off; answers the state that it is stuck in, if it does not get there.
    async fn wait_for(&self, id: &str, on: bool, patience: Duration) -> Result<Option<VmState>> {
        let deadline = Instant::now() + patience;
        loop {
            let state = self.state(id).await?;
            if state != VmState::Changing && state.is_on() == on {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Ok(Some(state));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Addresses that the guest additions report; none without them.
    pub async fn guest_addresses(&self, id: &str) -> Result<Vec<IpAddr>> {
        let machine = self.machine().await?;
        let command = Command::GuestProperties {
            vm: id.to_owned(),
            pattern: "/VirtualBox/GuestInfo/Net/*".to_owned(),
        };
        Ok(answer::guest_addresses(&machine.run(&command).await?))
    }
}
