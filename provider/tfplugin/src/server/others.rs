//! Calls about everything but managed resources: schemas, the provider's configuration, data sources, ephemeral
//! resources and functions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Inner, act, codec, new_private, no_such, run, with_warnings};
use crate::cty::Value;
use crate::erased::{CallError, IdentitySchema, Read, Signature};
use crate::operation::{Record, Verb, lock};
use crate::proto::tfplugin6 as wire;
use crate::schema::{PlainAttribute, Schema};
use crate::{Diagnostic, Diagnostics, Provider, bridge, plan, validate};

fn capabilities() -> wire::ServerCapabilities {
    wire::ServerCapabilities {
        plan_destroy: true,
        get_provider_schema_optional: true,
        move_resource_state: true,
        generate_resource_config: false,
    }
}

/// The schemas that can be read; the others as errors.
fn schemas<'a>(
    all: impl Iterator<Item = (&'static str, Read<&'a Schema>)>,
    diagnostics: &mut Diagnostics,
) -> HashMap<String, wire::Schema> {
    all.filter_map(|(name, schema)| match schema {
        Ok(schema) => Some((name.to_owned(), schema.to_wire())),
        Err(error) => {
            diagnostics.push(error);
            None
        }
    })
    .collect()
}

impl Signature {
    fn to_wire(&self, summary: &str) -> wire::Function {
        wire::Function {
            parameters: self
                .parameters
                .iter()
                .map(PlainAttribute::to_parameter)
                .collect(),
            variadic_parameter: self.variadic.as_ref().map(PlainAttribute::to_parameter),
            r#return: Some(wire::function::Return {
                r#type: self.output.to_bytes(),
            }),
            summary: summary.to_owned(),
            description: self.description.clone(),
            description_kind: wire::StringKind::Markdown.into(),
            deprecation_message: String::new(),
        }
    }
}

impl IdentitySchema {
    fn to_wire(&self) -> wire::ResourceIdentitySchema {
        wire::ResourceIdentitySchema {
            version: self.version,
            identity_attributes: self
                .attributes
                .iter()
                .map(PlainAttribute::to_identity)
                .collect(),
        }
    }
}

impl<P: Provider> Inner<P> {
    pub(super) fn metadata(&self) -> wire::get_metadata::Response {
        use wire::get_metadata as named;
        let registry = &self.registry;
        let type_name = |name: &&'static str| (*name).to_owned();
        named::Response {
            server_capabilities: Some(capabilities()),
            resources: registry
                .resources
                .keys()
                .map(type_name)
                .map(|type_name| named::ResourceMetadata { type_name })
                .collect(),
            data_sources: registry
                .data_sources
                .keys()
                .map(type_name)
                .map(|type_name| named::DataSourceMetadata { type_name })
                .collect(),
            ephemeral_resources: registry
                .ephemerals
                .keys()
                .map(type_name)
                .map(|type_name| named::EphemeralMetadata { type_name })
                .collect(),
            functions: registry
                .functions
                .keys()
                .map(type_name)
                .map(|name| named::FunctionMetadata { name })
                .collect(),
            ..named::Response::default()
        }
    }

    pub(super) fn provider_schema(&self) -> wire::get_provider_schema::Response {
        let began = Instant::now();
        let registry = &self.registry;
        let mut diagnostics = Diagnostics::new();
        let provider = self.config_schema().map(Schema::to_wire);
        let provider = provider.map_err(|error| diagnostics.push(error)).ok();
        let answer = wire::get_provider_schema::Response {
            provider,
            resource_schemas: schemas(
                registry
                    .resources
                    .iter()
                    .map(|(name, r)| (*name, r.schema())),
                &mut diagnostics,
            ),
            data_source_schemas: schemas(
                registry
                    .data_sources
                    .iter()
                    .map(|(name, d)| (*name, d.schema())),
                &mut diagnostics,
            ),
            ephemeral_resource_schemas: schemas(
                registry
                    .ephemerals
                    .iter()
                    .map(|(name, e)| (*name, e.schema())),
                &mut diagnostics,
            ),
            functions: self.functions(&mut diagnostics),
            diagnostics: diagnostics.into_wire(),
            server_capabilities: Some(capabilities()),
            ..wire::get_provider_schema::Response::default()
        };
        tracing::debug!(micros = began.elapsed().as_micros() as u64, "schemas sent");
        answer
    }

    pub(super) fn functions(
        &self,
        diagnostics: &mut Diagnostics,
    ) -> HashMap<String, wire::Function> {
        let mut functions = HashMap::new();
        for (name, function) in &self.registry.functions {
            match function.signature() {
                Ok(signature) => {
                    functions.insert((*name).to_owned(), signature.to_wire(function.summary()));
                }
                Err(error) => diagnostics.push(error),
            }
        }
        functions
    }

    pub(super) fn identity_schemas(&self) -> wire::get_resource_identity_schemas::Response {
        let mut diagnostics = Diagnostics::new();
        let mut identity_schemas = HashMap::new();
        for (name, resource) in &self.registry.resources {
            match resource.identity_schema() {
                Ok(Some(schema)) => {
                    identity_schemas.insert((*name).to_owned(), schema.to_wire());
                }
                Ok(None) => {}
                Err(error) => diagnostics.push(error),
            }
        }
        wire::get_resource_identity_schemas::Response {
            identity_schemas,
            diagnostics: diagnostics.into_wire(),
        }
    }

    pub(super) async fn validate_provider(
        self: Arc<Self>,
        request: wire::validate_provider_config::Request,
    ) -> wire::validate_provider_config::Response {
        let inner = Arc::clone(&self);
        let work = async move {
            let schema = inner.config_schema()?;
            let config = codec::read(request.config, schema.kind())?;
            let mut found = validate::check(&schema.attributes, &config, true);
            if !found.has_error() {
                let config = bridge::from_value(&config).map_err(crate::erased::unreadable)?;
                P::validate(&config, &mut found);
            }
            Ok::<_, Diagnostic>(found)
        };
        let outcome = run::run(
            &act(Verb::Validate, "the provider"),
            self.bounds(None),
            work,
        )
        .await;
        wire::validate_provider_config::Response {
            diagnostics: flat(outcome).into_wire(),
        }
    }

    pub(super) async fn configure(
        self: Arc<Self>,
        request: wire::configure_provider::Request,
    ) -> wire::configure_provider::Response {
        tracing::info!(terraform = request.terraform_version, "configure");
        let inner = Arc::clone(&self);
        let work = async move {
            let schema = inner.config_schema().map_err(Diagnostic::from)?;
            let config = codec::read(request.config, schema.kind())?;
            let config = plan::with_defaults(&schema.attributes, &config);
            let config = bridge::from_value(&config).map_err(crate::erased::unreadable)?;
            let context = inner.provider.configure(config, inner.stop.clone()).await?;
            *lock(&inner.context) = Some(context);
            Ok::<_, Diagnostics>(())
        };
        let outcome = run::run(
            &act(Verb::Configure, "the provider"),
            self.bounds(None),
            work,
        )
        .await;
        let diagnostics = match outcome {
            Ok(Ok(())) => Diagnostics::new(),
            Ok(Err(diagnostics)) => diagnostics,
            Err(diagnostic) => diagnostic.into(),
        };
        wire::configure_provider::Response {
            diagnostics: diagnostics.into_wire(),
        }
    }

    pub(super) async fn validate_data_source(
        self: Arc<Self>,
        request: wire::validate_data_resource_config::Request,
    ) -> wire::validate_data_resource_config::Response {
        let inner = Arc::clone(&self);
        let name = request.type_name;
        let act = act(Verb::Validate, &name);
        let work = async move {
            let source = inner.registry.data_sources.get(name.as_str());
            let source = source.ok_or_else(|| no_such("data source", &name))?;
            let schema = source.schema()?;
            let config = codec::read(request.config, schema.kind())?;
            let mut found = validate::check(&schema.attributes, &config, true);
            if !found.has_error() {
                found.extend(source.validate(&config));
            }
            Ok::<_, Diagnostic>(found)
        };
        let outcome = run::run(&act, self.bounds(None), work).await;
        wire::validate_data_resource_config::Response {
            diagnostics: flat(outcome).into_wire(),
        }
    }

    pub(super) async fn read_data_source(
        self: Arc<Self>,
        request: wire::read_data_source::Request,
    ) -> wire::read_data_source::Response {
        let record = Arc::new(Record::default());
        let state = self.found_by_data_source(request, &record).await;
        let (state, failures) = match state {
            Ok(state) => (Some(state), Diagnostics::new()),
            Err(failures) => (None, failures),
        };
        wire::read_data_source::Response {
            state,
            diagnostics: with_warnings(&record, failures).into_wire(),
            deferred: None,
        }
    }

    async fn found_by_data_source(
        self: Arc<Self>,
        request: wire::read_data_source::Request,
        record: &Arc<Record>,
    ) -> Result<wire::DynamicValue, Diagnostics> {
        let name = request.type_name;
        let act = act(Verb::Read, &name);
        let source = self.registry.data_sources.get(name.as_str());
        let source = source.ok_or_else(|| no_such("data source", &name))?;
        let schema = source.schema().map_err(Diagnostic::from)?;
        let config = codec::read(request.config, schema.kind())?;
        let config = plan::with_defaults(&schema.attributes, &config);
        let limit = source
            .timeouts()
            .limit(Verb::Read, &config, schema.timeouts.as_deref());
        let call = self.call(&act, limit, Vec::new(), record)?;
        let inner = Arc::clone(&self);
        let work = async move {
            let source = inner
                .registry
                .data_sources
                .get(name.as_str())
                .expect("found above");
            source.read(call, config).await
        };
        let mut state = run::run(&act, self.bounds(limit), work).await??;
        left_open(&act.to_string(), &mut state).into_result()?;
        Ok(codec::write(&state, schema.kind())?)
    }

    pub(super) async fn validate_ephemeral(
        self: Arc<Self>,
        request: wire::validate_ephemeral_resource_config::Request,
    ) -> wire::validate_ephemeral_resource_config::Response {
        let inner = Arc::clone(&self);
        let name = request.type_name;
        let act = act(Verb::Validate, &name);
        let work = async move {
            let ephemeral = inner.registry.ephemerals.get(name.as_str());
            let ephemeral = ephemeral.ok_or_else(|| no_such("ephemeral resource", &name))?;
            let schema = ephemeral.schema()?;
            let config = codec::read(request.config, schema.kind())?;
            let mut found = validate::check(&schema.attributes, &config, true);
            if !found.has_error() {
                found.extend(ephemeral.validate(&config));
            }
            Ok::<_, Diagnostic>(found)
        };
        let outcome = run::run(&act, self.bounds(None), work).await;
        wire::validate_ephemeral_resource_config::Response {
            diagnostics: flat(outcome).into_wire(),
        }
    }

    pub(super) async fn open(
        self: Arc<Self>,
        request: wire::open_ephemeral_resource::Request,
    ) -> wire::open_ephemeral_resource::Response {
        let record = Arc::new(Record::default());
        let opened = self.opened(request, &record).await;
        let (result, renew_at, failures) = match opened {
            Ok((result, renew_at)) => (Some(result), renew_at, Diagnostics::new()),
            Err(failures) => (None, None, failures),
        };
        wire::open_ephemeral_resource::Response {
            result,
            renew_at,
            private: Some(new_private(&record, Vec::new())),
            diagnostics: with_warnings(&record, failures).into_wire(),
            deferred: None,
        }
    }

    async fn opened(
        self: Arc<Self>,
        request: wire::open_ephemeral_resource::Request,
        record: &Arc<Record>,
    ) -> Result<(wire::DynamicValue, Option<prost_types::Timestamp>), Diagnostics> {
        let name = request.type_name;
        let act = act(Verb::Open, &name);
        let ephemeral = self.registry.ephemerals.get(name.as_str());
        let ephemeral = ephemeral.ok_or_else(|| no_such("ephemeral resource", &name))?;
        let schema = ephemeral.schema().map_err(Diagnostic::from)?;
        let config = codec::read(request.config, schema.kind())?;
        let config = plan::with_defaults(&schema.attributes, &config);
        let call = self.call(&act, None, Vec::new(), record)?;
        let inner = Arc::clone(&self);
        let work = async move {
            let ephemeral = inner
                .registry
                .ephemerals
                .get(name.as_str())
                .expect("found above");
            ephemeral.open(call, config).await
        };
        let mut opened = run::run(&act, self.bounds(None), work).await??;
        left_open(&act.to_string(), &mut opened.value).into_result()?;
        let result = codec::write(&opened.value, schema.kind())?;
        Ok((result, opened.renew_at.map(codec::timestamp)))
    }

    pub(super) async fn renew(
        self: Arc<Self>,
        request: wire::renew_ephemeral_resource::Request,
    ) -> wire::renew_ephemeral_resource::Response {
        let record = Arc::new(Record::default());
        let private = request.private.unwrap_or_default();
        let act = act(Verb::Renew, &request.type_name);
        let inner = Arc::clone(&self);
        let renewed = async {
            let call = self.call(&act, None, private.clone(), &record)?;
            let work = async move {
                let ephemeral = inner.registry.ephemerals.get(request.type_name.as_str());
                let ephemeral =
                    ephemeral.ok_or_else(|| no_such("ephemeral resource", &request.type_name))?;
                ephemeral.renew(call).await
            };
            run::run(&act, self.bounds(None), work).await?
        };
        let (renew_at, failures) = match renewed.await {
            Ok(renew_at) => (renew_at.map(codec::timestamp), Diagnostics::new()),
            Err(failures) => (None, failures),
        };
        wire::renew_ephemeral_resource::Response {
            renew_at,
            private: Some(new_private(&record, private)),
            diagnostics: with_warnings(&record, failures).into_wire(),
        }
    }

    pub(super) async fn close(
        self: Arc<Self>,
        request: wire::close_ephemeral_resource::Request,
    ) -> wire::close_ephemeral_resource::Response {
        let record = Arc::new(Record::default());
        let act = act(Verb::Close, &request.type_name);
        let inner = Arc::clone(&self);
        let closed = async {
            let call = self.call(&act, None, request.private.unwrap_or_default(), &record)?;
            let work = async move {
                let ephemeral = inner.registry.ephemerals.get(request.type_name.as_str());
                let ephemeral =
                    ephemeral.ok_or_else(|| no_such("ephemeral resource", &request.type_name))?;
                ephemeral.close(call).await
            };
            run::run(&act, self.bounds(None), work).await?
        };
        let failures = closed.await.err().unwrap_or_default();
        wire::close_ephemeral_resource::Response {
            diagnostics: with_warnings(&record, failures).into_wire(),
        }
    }

    pub(super) async fn call_function(
        self: Arc<Self>,
        request: wire::call_function::Request,
    ) -> wire::call_function::Response {
        let inner = Arc::clone(&self);
        let act = act(Verb::Call, &request.name);
        let work = async move { inner.function_result(request) };
        let outcome = run::run(&act, self.bounds(None), work).await;
        let outcome = outcome.unwrap_or_else(|panic| {
            Err(CallError {
                argument: None,
                text: panic.detail,
            })
        });
        match outcome {
            Ok(result) => wire::call_function::Response {
                result: Some(result),
                error: None,
            },
            Err(CallError { argument, text }) => wire::call_function::Response {
                result: None,
                error: Some(wire::FunctionError {
                    text,
                    function_argument: argument,
                }),
            },
        }
    }

    fn function_result(
        &self,
        request: wire::call_function::Request,
    ) -> Result<wire::DynamicValue, CallError> {
        let fault = |argument: Option<usize>, text: String| CallError {
            argument: argument.and_then(|position| i64::try_from(position).ok()),
            text,
        };
        let function = self.registry.functions.get(request.name.as_str());
        let function =
            function.ok_or_else(|| fault(None, no_such("function", &request.name).summary))?;
        let signature = function
            .signature()
            .map_err(|error| fault(None, error.to_string()))?;
        let arguments = request
            .arguments
            .into_iter()
            .enumerate()
            .map(|(position, argument)| {
                let kind = signature.kind_at(position);
                let kind = kind.ok_or_else(|| {
                    fault(Some(position), "there are too many arguments".to_owned())
                })?;
                codec::read_plainly(Some(argument), kind)
                    .map_err(|error| fault(Some(position), error.to_string()))
            });
        let result = function.call(arguments.collect::<Result<_, _>>()?)?;
        codec::write(&result, &signature.output).map_err(|error| fault(None, error.detail))
    }
}

/// All that a validation found, whichever way it ended.
fn flat(outcome: Result<Result<Diagnostics, Diagnostic>, Diagnostic>) -> Diagnostics {
    match outcome {
        Ok(Ok(found)) => found,
        Ok(Err(diagnostic)) | Err(diagnostic) => diagnostic.into(),
    }
}

/// An error for each value that an operation should have made known, and did not. The values become null.
pub(super) fn left_open(act: &str, state: &mut Value) -> Diagnostics {
    plan::settle(state)
        .into_iter()
        .map(|path| {
            Diagnostic::error(format!("{path} is still unknown"))
                .detail(format!(
                    "This is a bug in the provider: {act} left {path} unknown."
                ))
                .at(path)
        })
        .collect()
}
