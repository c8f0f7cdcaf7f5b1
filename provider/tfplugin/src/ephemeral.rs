//! The contract of an ephemeral resource: a value, such as a token, that no plan and no state ever holds.

use std::time::SystemTime;

use crate::operation::Private;
use crate::{Diagnostics, Model, Operation};

/// A kind of ephemeral resource.
pub trait Ephemeral: Sized + Send + Sync + 'static {
    /// The attributes, those of the configuration and those of the result.
    type Model: Model;
    type Context: Send + Sync + 'static;
    /// What `renew` and `close` need to know; `()` where there is nothing.
    type Private: Private;

    /// The full name, with the provider's.
    const TYPE_NAME: &'static str;

    /// Checks what no single attribute can tell.
    fn validate(config: &Self::Model, diagnostics: &mut Diagnostics) {
        let _ = (config, diagnostics);
    }

    /// Makes the value. What `renew` and `close` need goes into the operation's private state.
    fn open(
        cx: &Operation<Self::Context, Self::Private>,
        config: Self::Model,
    ) -> impl Future<Output = Result<Opened<Self::Model>, Diagnostics>> + Send;

    /// Keeps it valid for longer, and says when to do so again.
    fn renew(
        cx: &Operation<Self::Context, Self::Private>,
    ) -> impl Future<Output = Result<Option<SystemTime>, Diagnostics>> + Send {
        let _ = cx;
        async { Ok(None) }
    }

    /// Ends it.
    fn close(
        cx: &Operation<Self::Context, Self::Private>,
    ) -> impl Future<Output = Result<(), Diagnostics>> + Send {
        let _ = cx;
        async { Ok(()) }
    }
}

/// An open ephemeral resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened<M> {
    pub model: M,
    /// When Terraform should call `renew`.
    pub renew_at: Option<SystemTime>,
}

impl<M> Opened<M> {
    #[must_use]
    pub fn renew_at(mut self, at: SystemTime) -> Self {
        self.renew_at = Some(at);
        self
    }
}

impl<M> From<M> for Opened<M> {
    fn from(model: M) -> Self {
        Self {
            model,
            renew_at: None,
        }
    }
}
