//! The typed contracts behind one form that takes and gives values, so that a registry can hold any of them. Each
//! file here reads models from values, calls the provider's code, and writes models back; nothing decides.

mod data_source;
mod ephemeral;
mod function;
mod resource;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

pub(crate) use data_source::{AnyDataSource, DataSourceEntry};
pub(crate) use ephemeral::{AnyEphemeral, EphemeralEntry};
pub(crate) use function::{AnyFunction, CallError, FunctionEntry, Signature};
pub(crate) use resource::{
    AnyResource, Applied, IdentitySchema, ImportTarget, PlannedValue, ResourceEntry,
};

use crate::cty::{Value, ValueError};
use crate::operation::{Act, Private, Record};
use crate::schema::{Schema, SchemaError};
use crate::{Diagnostic, Operation, bridge, plan};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A schema, or why there is none.
pub(crate) type Read<T> = Result<T, SchemaError>;

/// Everything that an [`Operation`] is made of.
pub(crate) struct Call<C> {
    pub(crate) context: Arc<C>,
    pub(crate) act: Act,
    pub(crate) stop: CancellationToken,
    pub(crate) limit: Option<Duration>,
    pub(crate) private: Vec<u8>,
    pub(crate) record: Arc<Record>,
}

impl<C> Call<C> {
    fn operation<P: Private>(self) -> Result<Operation<C, P>, Diagnostic> {
        Operation::new(
            self.context,
            self.act,
            self.stop,
            self.limit,
            &self.private,
            self.record,
        )
    }
}

/// A value that is built when it is first needed.
pub(crate) struct Lazy<T>(OnceLock<Read<T>>);

impl<T> Lazy<T> {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    pub(crate) fn get(&self, build: impl FnOnce() -> Read<T>) -> Read<&T> {
        self.0.get_or_init(build).as_ref().map_err(Clone::clone)
    }
}

impl From<SchemaError> for Diagnostic {
    fn from(error: SchemaError) -> Self {
        Self::error("The provider's schema is wrong")
            .detail(format!("This is a bug in the provider: {error}."))
    }
}

/// A value that Terraform sent and the model cannot hold.
pub(crate) fn unreadable(error: ValueError) -> Diagnostic {
    let what = if error.path.is_root() {
        "The value".to_owned()
    } else {
        error.path.to_string()
    };
    Diagnostic::error(format!("{what} cannot be read"))
        .detail(format!("{what} cannot be read: {}.", error.message))
        .at(error.path)
}

/// A model that the provider made and the schema does not allow.
pub(crate) fn unwritable(error: ValueError) -> Diagnostic {
    Diagnostic::error("The provider made a value that does not fit its schema")
        .detail(format!("This is a bug in the provider: {error}."))
        .at(error.path)
}

fn model<T: DeserializeOwned>(value: &Value) -> Result<T, Diagnostic> {
    bridge::from_value(value).map_err(unreadable)
}

/// The value of a model that code may have changed, over the value that it was read from.
fn written<T: Serialize>(
    schema: &Schema,
    original: Value,
    before: &Value,
    after: &T,
) -> Result<Value, Diagnostic> {
    let after = bridge::to_value_of(after, schema.kind()).map_err(unwritable)?;
    Ok(plan::merge(original, before, after))
}

/// A model as code sees it, to compare with what it makes of it.
fn seen<T: Serialize>(schema: &Schema, model: &T) -> Result<Value, Diagnostic> {
    bridge::to_value_of(model, schema.kind()).map_err(unwritable)
}
