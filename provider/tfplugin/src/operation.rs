//! What code gets while it works on a resource: the provider's context, the signal to stop, the time it has, private
//! state, and a place for warnings. It runs nothing itself; [`crate::server`] does.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::cty::Value;
use crate::{Diagnostic, Diagnostics, Model};

/// Data of a resource that Terraform keeps beside its state and never shows.
pub trait Private:
    Serialize + DeserializeOwned + Default + Clone + PartialEq + Send + Sync + 'static
{
}

impl<T: Serialize + DeserializeOwned + Default + Clone + PartialEq + Send + Sync + 'static> Private
    for T
{
}

/// What is being done with a resource, a data source or an ephemeral resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Validate,
    Configure,
    Plan,
    Create,
    Read,
    Update,
    Delete,
    Import,
    Move,
    Upgrade,
    Open,
    Renew,
    Close,
    Call,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Validate => "validate",
            Self::Configure => "configure",
            Self::Plan => "plan",
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Import => "import",
            Self::Move => "move",
            Self::Upgrade => "upgrade",
            Self::Open => "open",
            Self::Renew => "renew",
            Self::Close => "close",
            Self::Call => "call",
        })
    }
}

/// An operation's name for messages: `create sample_vm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Act {
    pub(crate) verb: Verb,
    pub(crate) subject: String,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.subject)
    }
}

/// Why a wait ended before what it waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Interrupted {
    #[error("{act} was stopped: Terraform was interrupted")]
    Stopped { act: String },
    #[error("{act} did not finish within {}", crate::timeouts::Span(*.limit))]
    DeadlineExceeded { act: String, limit: Duration },
}

impl From<Interrupted> for Diagnostic {
    fn from(interrupted: Interrupted) -> Self {
        let advice = match interrupted {
            Interrupted::Stopped { .. } => {
                "What was done so far is in the state. Run terraform apply again to continue."
            }
            Interrupted::DeadlineExceeded { .. } => {
                "What was done so far is in the state. If it only needs longer, raise this operation's limit in the \
                 timeouts attribute."
            }
        };
        Self::error(interrupted.to_string()).detail(advice)
    }
}

/// What an operation leaves behind. It lives outside the operation's task, so that a panic or an abandoned wait loses
/// nothing of it.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) warnings: Mutex<Diagnostics>,
    pub(crate) private: Mutex<Option<Vec<u8>>>,
    pub(crate) kept: Mutex<Option<Value>>,
}

/// A panic while one of these is held leaves a whole value behind: each is replaced in one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One operation under way. `C` is the provider's context, `P` the resource's private state.
#[derive(Debug)]
pub struct Operation<C, P = ()> {
    context: Arc<C>,
    act: Act,
    stop: CancellationToken,
    deadline: Option<(Instant, Duration)>,
    private: Mutex<P>,
    record: Arc<Record>,
}

impl<C, P: Private> Operation<C, P> {
    pub(crate) fn new(
        context: Arc<C>,
        act: Act,
        stop: CancellationToken,
        limit: Option<Duration>,
        private: &[u8],
        record: Arc<Record>,
    ) -> Result<Self, Diagnostic> {
        let value = if private.is_empty() {
            P::default()
        } else {
            serde_json::from_slice(private).map_err(|error| {
                Diagnostic::error(format!("Cannot read the private state to {act}")).detail(
                    format!("{error}. Another version of this provider may have written it."),
                )
            })?
        };
        Ok(Self {
            context,
            act,
            stop,
            // A limit too long for the clock is no limit.
            deadline: limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit))),
            private: Mutex::new(value),
            record,
        })
    }

    /// What the provider's `configure` made.
    pub fn context(&self) -> &C {
        &self.context
    }

    pub fn verb(&self) -> Verb {
        self.act.verb
    }

    /// Cancelled when Terraform asks the provider to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// When the operation's limit from `timeouts` ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|(at, _)| at)
    }

    /// The time left, zero when it is over, `None` where there is no limit.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Waits for a future, but not past the operation's deadline and not after Terraform has asked to stop. Every wait
    /// of a resource goes through here. The future is dropped when the wait ends early.
    pub async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Interrupted> {
        let act = || self.act.to_string();
        let overdue = async {
            match self.deadline {
                Some((at, limit)) => {
                    tokio::time::sleep_until(at.into()).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Interrupted::Stopped { act: act() }),
            limit = overdue => Err(Interrupted::DeadlineExceeded { act: act(), limit }),
            output = future => Ok(output),
        }
    }

    /// Sleeps, and wakes early when the operation has to end.
    pub async fn sleep(&self, duration: Duration) -> Result<(), Interrupted> {
        self.wait(tokio::time::sleep(duration)).await
    }

    /// A warning that the user sees even though the operation succeeds.
    pub fn warn(&self, warning: impl Into<Diagnostic>) {
        lock(&self.record.warnings).push(warning.into());
    }

    /// The resource's private state.
    pub fn private(&self) -> P {
        lock(&self.private).clone()
    }

    pub fn set_private(&self, private: P) {
        let bytes = if private == P::default() {
            Ok(Vec::new())
        } else {
            serde_json::to_vec(&private)
        };
        match bytes {
            Ok(bytes) => {
                *lock(&self.record.private) = Some(bytes);
                *lock(&self.private) = private;
            }
            Err(error) => self.warn(
                Diagnostic::warning(format!(
                    "The private state of {} could not be kept",
                    self.act.subject
                ))
                .detail(error.to_string()),
            ),
        }
    }

    /// Records what exists by now. Should the operation panic, or not end when it has to, this is what the state gets;
    /// an operation that returns, returns its own state.
    pub fn keep<M: Model>(&self, state: &M) {
        match crate::bridge::to_value(state) {
            Ok(value) => *lock(&self.record.kept) = Some(value),
            Err(error) => self.warn(
                Diagnostic::warning(format!(
                    "The unfinished state of {} could not be kept",
                    self.act.subject
                ))
                .detail(error.to_string()),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(stop: &CancellationToken, limit: Option<Duration>) -> Operation<(), u32> {
        let act = Act {
            verb: Verb::Create,
            subject: "sample_vm".into(),
        };
        Operation::new(Arc::new(()), act, stop.clone(), limit, b"7", Arc::default())
            .expect("valid private state")
    }

    #[tokio::test]
    async fn a_wait_ends_at_the_deadline_and_says_whose_it_was() {
        let stop = CancellationToken::new();
        let cx = operation(&stop, Some(Duration::from_millis(5)));
        let error = cx
            .wait(std::future::pending::<()>())
            .await
            .expect_err("the deadline passes");
        assert_eq!(
            error.to_string(),
            "create sample_vm did not finish within 5ms"
        );
    }

    #[tokio::test]
    async fn a_wait_ends_when_terraform_says_stop() {
        let stop = CancellationToken::new();
        let cx = operation(&stop, None);
        stop.cancel();
        let error = cx
            .sleep(Duration::from_secs(3600))
            .await
            .expect_err("stopped");
        assert!(matches!(error, Interrupted::Stopped { .. }), "{error}");
    }

    #[test]
    fn private_state_is_read_and_replaced() {
        let cx = operation(&CancellationToken::new(), None);
        assert_eq!(cx.private(), 7);
        cx.set_private(8);
        assert_eq!(cx.private(), 8);
        assert_eq!(lock(&cx.record.private).as_deref(), Some(b"8".as_slice()));
    }
}
