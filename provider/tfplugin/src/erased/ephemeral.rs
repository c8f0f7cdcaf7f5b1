//! Ephemeral resources, for the registry.

use std::marker::PhantomData;
use std::time::SystemTime;

use super::{BoxFuture, Call, Lazy, Read, model, seen, written};
use crate::cty::Value;
use crate::schema::Schema;
use crate::{Diagnostic, Diagnostics, Ephemeral};

pub(crate) struct OpenedValue {
    pub(crate) value: Value,
    pub(crate) renew_at: Option<SystemTime>,
}

pub(crate) trait AnyEphemeral<C>: Send + Sync {
    fn schema(&self) -> Read<&Schema>;
    fn validate(&self, config: &Value) -> Diagnostics;
    fn open(&self, call: Call<C>, config: Value)
    -> BoxFuture<'_, Result<OpenedValue, Diagnostics>>;
    fn renew(&self, call: Call<C>) -> BoxFuture<'_, Result<Option<SystemTime>, Diagnostics>>;
    fn close(&self, call: Call<C>) -> BoxFuture<'_, Result<(), Diagnostics>>;
}

pub(crate) struct EphemeralEntry<E> {
    schema: Lazy<Schema>,
    kind: PhantomData<fn() -> E>,
}

impl<E: Ephemeral> EphemeralEntry<E> {
    pub(crate) fn new() -> Self {
        Self {
            schema: Lazy::new(),
            kind: PhantomData,
        }
    }
}

impl<E: Ephemeral> AnyEphemeral<E::Context> for EphemeralEntry<E> {
    fn schema(&self) -> Read<&Schema> {
        self.schema.get(|| Schema::of::<E::Model>(0))
    }

    fn validate(&self, config: &Value) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        match model(config) {
            Ok(config) => E::validate(&config, &mut diagnostics),
            Err(error) => diagnostics.push(error),
        }
        diagnostics
    }

    fn open(
        &self,
        call: Call<E::Context>,
        config: Value,
    ) -> BoxFuture<'_, Result<OpenedValue, Diagnostics>> {
        Box::pin(async move {
            let schema = self.schema().map_err(Diagnostic::from)?;
            let cx = call.operation()?;
            let typed: E::Model = model(&config)?;
            let before = seen(schema, &typed)?;
            let opened = E::open(&cx, typed).await?;
            Ok(OpenedValue {
                value: written(schema, config, &before, &opened.model)?,
                renew_at: opened.renew_at,
            })
        })
    }

    fn renew(
        &self,
        call: Call<E::Context>,
    ) -> BoxFuture<'_, Result<Option<SystemTime>, Diagnostics>> {
        Box::pin(async move {
            let cx = call.operation()?;
            E::renew(&cx).await
        })
    }

    fn close(&self, call: Call<E::Context>) -> BoxFuture<'_, Result<(), Diagnostics>> {
        Box::pin(async move {
            let cx = call.operation()?;
            E::close(&cx).await
        })
    }
}
