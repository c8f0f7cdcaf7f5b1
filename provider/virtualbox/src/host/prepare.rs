//! Stage 1 on a host: looked at, and brought to what VMs need. What is lacking is [`crate::prepare`]'s decision.

use std::time::{Duration, Instant};

use super::Host;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::prepare::{self, Found, Step, Wish};

/// How often a host that restarts is called.
const CALL: Duration = Duration::from_secs(5);

/// A host, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparation {
    pub found: Found,
    pub steps: Vec<Step>,
}

impl Host {
    /// Looks at a host, which need not have a VirtualBox.
    pub async fn preparation(&self, wish: &Wish) -> Result<Preparation> {
        let machine = self.any_machine().await?;
        let found = observe(&machine).await?;
        let steps = prepare::plan(machine.system, &found, wish);
        prepare::check(machine.system, &found, wish, &steps)?;
        Ok(Preparation { found, steps })
    }

    /// Does what is lacking, and answers what is left: a restart that is not allowed. Waits for a restart within `patience`.
    pub async fn prepare(
        &self,
        wish: &Wish,
        may_restart: bool,
        patience: Duration,
    ) -> Result<Preparation> {
        let _host = self.lock("prepare").await;
        let before = self.preparation(wish).await?;
        for step in &before.steps {
            let machine = self.any_machine().await?;
            if *step == Step::Reboot && !may_restart {
                continue;
            }
            let script = prepare::script(step);
            machine.script(&step.to_string(), &script, &script).await?;
            if *step == Step::Reboot {
                self.wait_for_restart(&before.found.boot, patience).await?;
            }
        }
        self.preparation(wish).await
    }

    async fn wait_for_restart(&self, boot: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            tokio::time::sleep(CALL).await;
            let answer = match self.any_machine().await {
                Ok(machine) => observe(&machine).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(found) if found.boot != boot => return Ok(()),
                // It may still be on its way down, or not up again.
                Ok(_) | Err(Error::Unreachable { .. }) if Instant::now() < deadline => {}
                Ok(_) => {
                    return Err(Error::File {
                        act: "restart the host".to_owned(),
                        words: format!("it was not restarted within {} s", patience.as_secs()),
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn observe(machine: &Machine) -> Result<Found> {
    let (posix, powershell) = prepare::look();
    let text = machine
        .script("look at the host", &posix, &powershell)
        .await?;
    Ok(prepare::read(&text))
}
