//! Runs one operation so that nothing it does can take the provider down or leave Terraform waiting: in a task of its
//! own, which a dropped connection does not cancel; a panic is caught; and past its time it is abandoned.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Diagnostic;
use crate::operation::Act;

/// When an operation must have ended.
pub(crate) struct Bounds {
    /// Cancelled when Terraform asks to stop.
    pub(crate) stop: CancellationToken,
    /// How long it may take.
    pub(crate) limit: Option<Duration>,
    /// How much longer it may take to return.
    pub(crate) grace: Duration,
}

thread_local! {
    /// Where the last panic of this thread was, from the hook until it is caught.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Sends panics to the log, and keeps their place for the diagnostic.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic: {}", message(info.payload()));
        LAST_PANIC.set(Some(place));
    }));
}

/// Runs an operation to its end. `Err` when it panicked or had to be abandoned.
pub(crate) async fn run<T: Send + 'static>(
    act: &Act,
    bounds: Bounds,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Diagnostic> {
    let name = act.to_string();
    tracing::debug!(operation = name, "begin");
    let task = tokio::spawn(async move {
        let Bounds { stop, limit, grace } = bounds;
        let overdue = async {
            let late = async {
                match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                () = stop.cancelled() => "Terraform asked the provider to stop",
                () = late => "its time was over",
            };
            tokio::time::sleep(grace).await;
            why
        };
        tokio::select! {
            biased;
            output = caught(work) => output.map_err(Failed::Panicked),
            why = overdue => Err(Failed::Abandoned { why, grace }),
        }
    });
    let outcome = match task.await {
        Ok(outcome) => outcome,
        // The task catches panics of the work; this is one of dropping it.
        Err(error) => Err(Failed::Panicked(error.to_string())),
    };
    tracing::debug!(operation = name, failed = outcome.is_err(), "end");
    outcome.map_err(|failed| failed.diagnostic(act))
}

enum Failed {
    Panicked(String),
    Abandoned { why: &'static str, grace: Duration },
}

impl Failed {
    fn diagnostic(self, act: &Act) -> Diagnostic {
        match self {
            Self::Panicked(message) => Diagnostic::error(format!("The provider crashed: {act}")).detail(format!(
                "This is a bug in the provider. To {act} it panicked: {message}. What had been done by then may exist \
                 without being in the state."
            )),
            Self::Abandoned { why, grace } => Diagnostic::error(format!("Abandoned: {act}")).detail(format!(
                "It had to end because {why}, but had not done so {} later. What it was doing may have been done or not.",
                crate::timeouts::Span(grace)
            )),
        }
    }
}

/// The output of a future, or the message of its panic and where that was.
async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(move |cx| {
        // After a panic the future is not polled again, so nobody sees what the panic left unfinished inside it.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => {
                let place = LAST_PANIC
                    .take()
                    .map(|place| format!(" (at {place})"))
                    .unwrap_or_default();
                Poll::Ready(Err(format!("{}{place}", message(payload.as_ref()))))
            }
        }
    })
    .await
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verb;

    fn act() -> Act {
        Act {
            verb: Verb::Create,
            subject: "sample_vm".into(),
        }
    }

    fn bounds(stop: &CancellationToken, limit: Option<Duration>) -> Bounds {
        Bounds {
            stop: stop.clone(),
            limit,
            grace: Duration::from_millis(5),
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_a_diagnostic_that_names_the_operation() {
        let bounds = bounds(&CancellationToken::new(), None);
        let error = run(&act(), bounds, async { panic!("no disk {}", 7) })
            .await
            .map(|(): ()| ());
        let error = error.expect_err("it panicked");
        assert!(error.summary.contains("create sample_vm"), "{error}");
        assert!(error.detail.contains("no disk 7"), "{error}");
    }

    #[tokio::test]
    async fn an_operation_that_does_not_stop_is_abandoned() {
        let stop = CancellationToken::new();
        stop.cancel();
        let hang = std::future::pending::<()>;
        let stopped = run(&act(), bounds(&stop, None), hang())
            .await
            .expect_err("abandoned");
        assert!(
            stopped.detail.contains("asked the provider to stop"),
            "{stopped}"
        );
        let late = bounds(&CancellationToken::new(), Some(Duration::from_millis(1)));
        let late = run(&act(), late, hang()).await.expect_err("abandoned");
        assert!(late.detail.contains("time was over"), "{late}");
    }

    #[tokio::test]
    async fn an_operation_outlives_whoever_waits_for_it() {
        let (done, finished) = tokio::sync::oneshot::channel();
        let bounds = bounds(&CancellationToken::new(), None);
        let act = act();
        let waiter = run(&act, bounds, async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            done.send(()).expect("the test listens");
        });
        let impatient = tokio::time::timeout(Duration::from_millis(1), waiter).await;
        assert!(impatient.is_err());
        finished.await.expect("it ran to its end");
    }
}
