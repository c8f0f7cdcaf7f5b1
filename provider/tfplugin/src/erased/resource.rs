//! Managed resources, for the registry.

use std::marker::PhantomData;

use super::{BoxFuture, Call, Lazy, Read, model, seen, unreadable, unwritable, written};
use crate::cty::{Type, Value, json};
use crate::path::Path;
use crate::schema::{PlainAttribute, Schema, SchemaError};
use crate::timeouts::DefaultTimeouts;
use crate::{Diagnostic, Diagnostics, Failure, MoveSource, Planned, Resource, bridge};

/// What an operation left behind.
pub(crate) struct Applied {
    /// `None`: what was there before.
    pub(crate) state: Option<Value>,
    pub(crate) diagnostics: Diagnostics,
}

/// What a resource decided to become.
pub(crate) struct PlannedValue {
    pub(crate) value: Value,
    /// Attributes whose change needs a new resource, besides those the schema marks.
    pub(crate) replace: Vec<Path>,
    pub(crate) warnings: Diagnostics,
}

pub(crate) enum ImportTarget {
    Id(String),
    Identity(Value),
}

pub(crate) struct IdentitySchema {
    pub(crate) version: i64,
    pub(crate) attributes: Vec<PlainAttribute>,
    pub(crate) kind: Type,
}

pub(crate) trait AnyResource<C>: Send + Sync {
    fn import_id(&self) -> Option<&'static str>;
    fn timeouts(&self) -> DefaultTimeouts;
    fn schema(&self) -> Read<&Schema>;
    /// `None` for a resource without an identity.
    fn identity_schema(&self) -> Read<Option<&IdentitySchema>>;
    fn validate(&self, config: &Value) -> Diagnostics;
    fn plan(
        &self,
        call: Call<C>,
        prior: Value,
        planned: Value,
        config: Value,
    ) -> BoxFuture<'_, Result<PlannedValue, Diagnostics>>;
    fn plan_delete(&self, prior: &Value) -> Diagnostics;
    fn create(&self, call: Call<C>, planned: Value, config: Value) -> BoxFuture<'_, Applied>;
    fn read(
        &self,
        call: Call<C>,
        state: Value,
    ) -> BoxFuture<'_, Result<Option<Value>, Diagnostics>>;
    fn update(
        &self,
        call: Call<C>,
        prior: Value,
        planned: Value,
        config: Value,
    ) -> BoxFuture<'_, Applied>;
    fn delete(&self, call: Call<C>, state: Value) -> BoxFuture<'_, Applied>;
    fn import(
        &self,
        call: Call<C>,
        target: ImportTarget,
    ) -> BoxFuture<'_, Result<Value, Diagnostics>>;
    fn identity(&self, state: &Value) -> Result<Option<Value>, Diagnostic>;
    fn upgrade(
        &self,
        from_version: i64,
        state: serde_json::Value,
    ) -> Result<serde_json::Value, String>;
    fn upgrade_identity(
        &self,
        from_version: i64,
        identity: serde_json::Value,
    ) -> Result<Value, Diagnostic>;
    fn move_from(&self, source: &MoveSource) -> Option<Result<Value, Diagnostics>>;
}

pub(crate) struct ResourceEntry<R> {
    schema: Lazy<Schema>,
    identity: Lazy<Option<IdentitySchema>>,
    kind: PhantomData<fn() -> R>,
}

impl<R: Resource> ResourceEntry<R> {
    pub(crate) fn new() -> Self {
        Self {
            schema: Lazy::new(),
            identity: Lazy::new(),
            kind: PhantomData,
        }
    }

    /// Operations begin after the schema was sent, so it is there.
    fn known_schema(&self) -> Result<&Schema, Diagnostic> {
        self.schema().map_err(Diagnostic::from)
    }
}

impl Applied {
    fn failed(diagnostics: impl Into<Diagnostics>) -> Self {
        Self {
            state: None,
            diagnostics: diagnostics.into(),
        }
    }
}

/// The outcome of `create` or `update`, over the planned value.
fn applied<M: crate::Model>(
    schema: &Schema,
    planned: Value,
    before: &Value,
    result: Result<M, Failure<M>>,
) -> Applied {
    let (state, mut diagnostics) = match result {
        Ok(state) => (Some(Box::new(state)), Diagnostics::new()),
        Err(Failure { state, diagnostics }) => (state, diagnostics),
    };
    let state = state.and_then(|state| match written(schema, planned, before, &state) {
        Ok(value) => Some(value),
        Err(diagnostic) => {
            diagnostics.push(diagnostic);
            None
        }
    });
    Applied { state, diagnostics }
}

/// `?` in a block whose failure is an outcome too.
macro_rules! attempt {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Applied::failed(Diagnostic::from(error)),
        }
    };
}

impl<R: Resource> AnyResource<R::Context> for ResourceEntry<R> {
    fn import_id(&self) -> Option<&'static str> {
        R::IMPORT_ID
    }

    fn timeouts(&self) -> DefaultTimeouts {
        R::TIMEOUTS
    }

    fn schema(&self) -> Read<&Schema> {
        self.schema.get(|| Schema::of::<R::Model>(R::VERSION))
    }

    fn identity_schema(&self) -> Read<Option<&IdentitySchema>> {
        let build = || -> Result<_, SchemaError> {
            let attributes = Schema::plain_attributes::<R::Identity>()?;
            if attributes.is_empty() {
                return Ok(None);
            }
            let kinds = attributes
                .iter()
                .map(|a| (a.name.clone(), a.kind.clone()))
                .collect();
            Ok(Some(IdentitySchema {
                version: R::IDENTITY_VERSION,
                attributes,
                kind: Type::Object(kinds),
            }))
        };
        self.identity.get(build).map(Option::as_ref)
    }

    fn validate(&self, config: &Value) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        match model(config) {
            Ok(config) => R::validate(&config, &mut diagnostics),
            Err(error) => diagnostics.push(error),
        }
        diagnostics
    }

    fn plan(
        &self,
        call: Call<R::Context>,
        prior: Value,
        planned: Value,
        config: Value,
    ) -> BoxFuture<'_, Result<PlannedValue, Diagnostics>> {
        Box::pin(async move {
            let schema = self.known_schema()?;
            let cx = call.operation()?;
            let prior: Option<R::Model> = match &prior {
                Value::Null => None,
                prior => Some(model(prior)?),
            };
            let config: R::Model = model(&config)?;
            let typed: R::Model = model(&planned)?;
            let before = seen(schema, &typed)?;
            let mut diagnostics = Diagnostics::new();
            let decided = R::plan(prior.as_ref(), typed, &config, &mut diagnostics);
            if diagnostics.has_error() {
                return Err(diagnostics);
            }
            let looked = cx
                .wait(R::plan_in_context(&cx, prior.as_ref(), decided, &config))
                .await;
            let Planned { model, replace } = match looked.map_err(Diagnostic::from)? {
                Ok(planned) => planned,
                Err(more) => {
                    diagnostics.extend(more);
                    return Err(diagnostics);
                }
            };
            Ok(PlannedValue {
                value: written(schema, planned, &before, &model)?,
                replace,
                warnings: diagnostics,
            })
        })
    }

    fn plan_delete(&self, prior: &Value) -> Diagnostics {
        let mut diagnostics = Diagnostics::new();
        match model(prior) {
            Ok(prior) => R::plan_delete(&prior, &mut diagnostics),
            Err(error) => diagnostics.push(error),
        }
        diagnostics
    }

    fn create(
        &self,
        call: Call<R::Context>,
        planned: Value,
        config: Value,
    ) -> BoxFuture<'_, Applied> {
        Box::pin(async move {
            let schema = attempt!(self.known_schema());
            let cx = attempt!(call.operation());
            let config: R::Model = attempt!(model(&config));
            let typed: R::Model = attempt!(model(&planned));
            let before = attempt!(seen(schema, &typed));
            let result = R::create(&cx, typed, &config).await;
            applied(schema, planned, &before, result)
        })
    }

    fn read(
        &self,
        call: Call<R::Context>,
        state: Value,
    ) -> BoxFuture<'_, Result<Option<Value>, Diagnostics>> {
        Box::pin(async move {
            let schema = self.known_schema()?;
            let cx = call.operation()?;
            let typed: R::Model = model(&state)?;
            let before = seen(schema, &typed)?;
            match R::read(&cx, typed).await? {
                Some(found) => Ok(Some(written(schema, state, &before, &found)?)),
                None => Ok(None),
            }
        })
    }

    fn update(
        &self,
        call: Call<R::Context>,
        prior: Value,
        planned: Value,
        config: Value,
    ) -> BoxFuture<'_, Applied> {
        Box::pin(async move {
            let schema = attempt!(self.known_schema());
            let cx = attempt!(call.operation());
            let prior: R::Model = attempt!(model(&prior));
            let config: R::Model = attempt!(model(&config));
            let typed: R::Model = attempt!(model(&planned));
            let before = attempt!(seen(schema, &typed));
            let result = R::update(&cx, prior, typed, &config).await;
            applied(schema, planned, &before, result)
        })
    }

    fn delete(&self, call: Call<R::Context>, state: Value) -> BoxFuture<'_, Applied> {
        Box::pin(async move {
            let schema = attempt!(self.known_schema());
            let cx = attempt!(call.operation());
            let typed: R::Model = attempt!(model(&state));
            let before = attempt!(seen(schema, &typed));
            match R::delete(&cx, typed).await {
                Ok(()) => Applied {
                    state: Some(Value::Null),
                    diagnostics: Diagnostics::new(),
                },
                Err(failure) => applied(schema, state, &before, Err(failure)),
            }
        })
    }

    fn import(
        &self,
        call: Call<R::Context>,
        target: ImportTarget,
    ) -> BoxFuture<'_, Result<Value, Diagnostics>> {
        Box::pin(async move {
            let schema = self.known_schema()?;
            let cx = call.operation()?;
            let found = match target {
                ImportTarget::Id(id) => R::import(&cx, &id).await?,
                ImportTarget::Identity(identity) => {
                    R::import_by_identity(&cx, model(&identity)?).await?
                }
            };
            Ok(bridge::to_value_of(&found, schema.kind()).map_err(unwritable)?)
        })
    }

    fn identity(&self, state: &Value) -> Result<Option<Value>, Diagnostic> {
        let Some(schema) = self.identity_schema()? else {
            return Ok(None);
        };
        let state: R::Model = model(state)?;
        R::identity(&state)
            .map(|identity| bridge::to_value_of(&identity, &schema.kind).map_err(unwritable))
            .transpose()
    }

    fn upgrade(
        &self,
        from_version: i64,
        state: serde_json::Value,
    ) -> Result<serde_json::Value, String> {
        R::upgrade(from_version, state)
    }

    fn upgrade_identity(
        &self,
        from_version: i64,
        identity: serde_json::Value,
    ) -> Result<Value, Diagnostic> {
        let Some(schema) = self.identity_schema()? else {
            return Err(Diagnostic::error(format!(
                "{} has no identity",
                R::TYPE_NAME
            )));
        };
        let upgraded = if from_version == schema.version {
            identity
        } else {
            R::upgrade_identity(from_version, identity).map_err(|error| {
                Diagnostic::error(format!("Cannot upgrade the identity of {}", R::TYPE_NAME))
                    .detail(error)
            })?
        };
        json::decode(
            upgraded.to_string().as_bytes(),
            &schema.kind,
            json::Extra::Drop,
        )
        .map_err(unreadable)
    }

    fn move_from(&self, source: &MoveSource) -> Option<Result<Value, Diagnostics>> {
        let moved = R::move_from(source)?;
        Some(moved.and_then(|moved| {
            let schema = self.known_schema()?;
            Ok(bridge::to_value_of(&moved, schema.kind()).map_err(unwritable)?)
        }))
    }
}
