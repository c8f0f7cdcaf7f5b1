//! The connections that are open, one for each target, shared by whoever needs that target.
//!
//! A dead connection is opened anew, an idle one is closed, and callers that want the same target at
//! the same moment wait for one attempt. What is run on a connection is not this file's concern.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;

use super::{Connection, Error, Limits, Target, client};
use crate::engine::Connector;

/// A connection unused for this long is closed: 40 guests held open cost memory that nobody uses.
const IDLE: Duration = Duration::from_secs(20);

/// `scope` tells apart equal addresses in different networks (two labs both have 192.168.10.11).
type Key = (String, Target);

/// Shared by all resources; clones are the same pool.
#[derive(Clone, Default)]
pub struct Pool {
    slots: Arc<Mutex<HashMap<Key, Arc<Slot>>>>,
}

#[derive(Default)]
struct Slot {
    state: AsyncMutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    failure: Option<(Instant, Error)>,
}

struct Open {
    connection: Arc<Connection>,
    used: Instant,
}

impl Pool {
    /// A guest: a target with the way to reach it.
    pub fn guest(&self, scope: impl Into<String>, target: Target, connector: Connector) -> Guest {
        Guest {
            pool: self.clone(),
            key: (scope.into(), target),
            connector,
        }
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut slots = self.slots.lock().expect("no panic happens under this lock");
        slots.entry(key.clone()).or_default().clone()
    }

    /// Closes what has been idle. Called on every use; there is no task that outlives the work.
    async fn sweep(&self) {
        let slots: Vec<Arc<Slot>> = {
            let slots = self.slots.lock().expect("no panic happens under this lock");
            slots.values().cloned().collect()
        };
        for slot in slots {
            // A slot that somebody holds is in use.
            let Ok(mut state) = slot.state.try_lock() else {
                continue;
            };
            let idle = state.open.as_ref().is_some_and(|open| {
                open.used.elapsed() > IDLE && Arc::strong_count(&open.connection) == 1
            });
            if idle && let Some(open) = state.open.take() {
                open.connection.close().await;
            }
        }
    }
}

/// A target that commands can be run on.
#[derive(Clone)]
pub struct Guest {
    pool: Pool,
    key: Key,
    connector: Connector,
}

impl Guest {
    pub fn target(&self) -> &Target {
        &self.key.1
    }

    /// The shared connection, opened if there is none or the last one died.
    pub async fn connection(&self, limits: &Limits) -> Result<Arc<Connection>, Error> {
        self.pool.sweep().await;
        let asked = Instant::now();
        let slot = self.pool.slot(&self.key);
        let mut state = slot.state.lock().await;
        if let Some(open) = &mut state.open {
            if open.connection.is_open() {
                open.used = Instant::now();
                return Ok(open.connection.clone());
            }
            state.open = None;
        }
        // Whoever queued behind a failing attempt shares its answer instead of repeating its wait.
        if let Some((when, error)) = &state.failure
            && *when >= asked
        {
            return Err(error.clone());
        }
        match client::connect(self.target(), &self.connector, limits).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.open = Some(Open {
                    connection: connection.clone(),
                    used: Instant::now(),
                });
                state.failure = None;
                Ok(connection)
            }
            Err(error) => {
                state.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Runs a script as root and expects it to succeed. Answers its standard output.
    pub async fn root(&self, act: &str, script: &str, limits: &Limits) -> Result<String, Error> {
        let connection = self.connection(limits).await?;
        let output = connection.script_as_root(act, script, limits).await?;
        let output = connection.expect_success(act, output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Closes the shared connection: the address under it is about to change.
    pub async fn forget(&self) {
        let slot = self.pool.slot(&self.key);
        let open = slot.state.lock().await.open.take();
        if let Some(open) = open {
            open.connection.close().await;
        }
    }
}
