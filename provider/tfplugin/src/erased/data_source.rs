//! Data sources, for the registry.

use std::marker::PhantomData;

use super::{BoxFuture, Call, Lazy, Read, model, seen, written};
use crate::cty::Value;
use crate::schema::Schema;
use crate::timeouts::DefaultTimeouts;
use crate::{DataSource, Diagnostic, Diagnostics};

pub(crate) trait AnyDataSource<C>: Send + Sync {
    fn timeouts(&self) -> DefaultTimeouts;
    fn schema(&self) -> Read<&Schema>;
    fn validate(&self, config: &Value) -> Diagnostics;
    fn read(&self, call: Call<C>, config: Value) -> BoxFuture<'_, Result<Value, Diagnostics>>;
}

pub(crate) struct DataSourceEntry<D> {
    schema: Lazy<Schema>,
    kind: PhantomData<fn() -> D>,
}

impl<D: DataSource> DataSourceEntry<D> {
    pub(crate) fn new() -> Self {
        Self {
            schema: Lazy::new(),
            kind: PhantomData,
        }
    }
}

impl<D: DataSource> AnyDataSource<D::Context> for DataSourceEntry<D> {
    fn timeouts(&self) -> DefaultTimeouts {
        D::TIMEOUTS
    }

    fn schema(&self) -> Read<&Schema> {
        self.schema.get(|| Schema::of::<D::Model>(0))
    }

    fn validate(&self, config: &Value) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        match model(config) {
            Ok(config) => D::validate(&config, &mut diagnostics),
            Err(error) => diagnostics.push(error),
        }
        diagnostics
    }

    fn read(
        &self,
        call: Call<D::Context>,
        config: Value,
    ) -> BoxFuture<'_, Result<Value, Diagnostics>> {
        Box::pin(async move {
            let schema = self.schema().map_err(Diagnostic::from)?;
            let cx = call.operation()?;
            let typed: D::Model = model(&config)?;
            let before = seen(schema, &typed)?;
            let found = D::read(&cx, typed).await?;
            Ok(written(schema, config, &before, &found)?)
        })
    }
}
