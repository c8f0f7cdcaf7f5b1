//! The contract of a data source: it looks, and changes nothing.

use crate::timeouts::DefaultTimeouts;
use crate::{Diagnostics, Model, Operation};

/// A kind of data source.
pub trait DataSource: Sized + Send + Sync + 'static {
    /// The attributes, those of the configuration and those found.
    type Model: Model;
    type Context: Send + Sync + 'static;

    /// The full name, with the provider's: `ondol_vms`.
    const TYPE_NAME: &'static str;
    /// The limit of reading where `timeouts` sets none.
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::USUAL;

    /// Checks what no single attribute can tell.
    fn validate(config: &Self::Model, diagnostics: &mut Diagnostics) {
        let _ = (config, diagnostics);
    }

    /// Looks. The result must keep every value that the configuration gave.
    fn read(
        cx: &Operation<Self::Context>,
        config: Self::Model,
    ) -> impl Future<Output = Result<Self::Model, Diagnostics>> + Send;
}
