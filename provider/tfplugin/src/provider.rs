//! The contract of a provider: its configuration, and what it offers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{Diagnostics, Model, Registry};

/// A provider. [`serve`](crate::serve) runs one.
pub trait Provider: Send + Sync + 'static {
    /// The attributes of the `provider` block.
    type Config: Model;
    /// What resources get to work with: connections, for example.
    type Context: Send + Sync + 'static;

    /// The provider's type, the first part of its resources' names: `ondol`.
    const NAME: &'static str;
    /// How long an operation may go on after its deadline, or after Terraform has asked to stop, before it is abandoned.
    /// It is the time to clean up and to return what exists.
    const GRACE: Duration = Duration::from_secs(4);

    /// Checks what no single attribute can tell.
    fn validate(config: &Self::Config, diagnostics: &mut Diagnostics) {
        let _ = (config, diagnostics);
    }

    /// Makes the context. Attributes may be unknown while planning. `stop` is cancelled when Terraform asks to stop.
    fn configure(
        &self,
        config: Self::Config,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<Arc<Self::Context>, Diagnostics>> + Send;

    /// Names what the provider offers.
    fn register(registry: &mut Registry<Self::Context>);
}
