//! Calls about managed resources.

use std::sync::Arc;

use super::others::left_open;
use super::{Inner, act, codec, new_private, no_such, run, with_warnings};
use crate::cty::{Value, json};
use crate::erased::{AnyResource, Applied, ImportTarget, PlannedValue, unreadable};
use crate::operation::{Act, Record, Verb, lock};
use crate::proto::tfplugin6 as wire;
use crate::schema::Schema;
use crate::{Diagnostic, Diagnostics, MoveSource, Provider, plan, validate};

/// What `read` answers.
struct Found {
    state: wire::DynamicValue,
    identity: Option<wire::ResourceIdentityData>,
}

/// What `apply` answers.
struct Outcome {
    state: wire::DynamicValue,
    identity: Option<wire::ResourceIdentityData>,
    diagnostics: Diagnostics,
}

impl<P: Provider> Inner<P> {
    fn resource(&self, name: &str) -> Result<(&dyn AnyResource<P::Context>, &Schema), Diagnostic> {
        let resource = self.registry.resources.get(name);
        let resource = resource.ok_or_else(|| no_such("resource", name))?.as_ref();
        Ok((resource, resource.schema()?))
    }

    /// The resource again, inside an operation's own task.
    fn known(&self, name: &str) -> &dyn AnyResource<P::Context> {
        let resource = self.registry.resources.get(name);
        resource.expect("the call found it before").as_ref()
    }

    fn identity(
        &self,
        name: &str,
        state: &Value,
    ) -> Result<Option<wire::ResourceIdentityData>, Diagnostic> {
        if state.is_null() {
            return Ok(None);
        }
        let resource = self.known(name);
        let (Some(schema), Some(identity)) =
            (resource.identity_schema()?, resource.identity(state)?)
        else {
            return Ok(None);
        };
        Ok(Some(wire::ResourceIdentityData {
            identity_data: Some(codec::write(&identity, &schema.kind)?),
        }))
    }

    /// [`identity`](Self::identity) in a task of its own: the provider's code makes it, and may panic.
    async fn identified(
        self: &Arc<Self>,
        act: &Act,
        name: &str,
        state: &Value,
    ) -> Result<Option<wire::ResourceIdentityData>, Diagnostic> {
        let (inner, name, state) = (Arc::clone(self), name.to_owned(), state.clone());
        let work = async move { inner.identity(&name, &state) };
        run::run(act, self.bounds(None), work).await?
    }

    pub(super) async fn validate_resource(
        self: Arc<Self>,
        request: wire::validate_resource_config::Request,
    ) -> wire::validate_resource_config::Response {
        let inner = Arc::clone(&self);
        let act = act(Verb::Validate, &request.type_name);
        let work = async move {
            let (resource, schema) = inner.resource(&request.type_name)?;
            let config = codec::read(request.config, schema.kind())?;
            let capabilities = request.client_capabilities.unwrap_or_default();
            let mut found = validate::check(
                &schema.attributes,
                &config,
                capabilities.write_only_attributes_allowed,
            );
            if !found.has_error() {
                found.extend(resource.validate(&config));
            }
            Ok::<_, Diagnostic>(found)
        };
        let diagnostics = match run::run(&act, self.bounds(None), work).await {
            Ok(Ok(found)) => found,
            Ok(Err(diagnostic)) | Err(diagnostic) => diagnostic.into(),
        };
        wire::validate_resource_config::Response {
            diagnostics: diagnostics.into_wire(),
        }
    }

    pub(super) async fn upgrade(
        self: Arc<Self>,
        request: wire::upgrade_resource_state::Request,
    ) -> wire::upgrade_resource_state::Response {
        let inner = Arc::clone(&self);
        let act = act(Verb::Upgrade, &request.type_name);
        let work = async move { inner.upgraded(request) };
        let outcome = run::run(&act, self.bounds(None), work).await;
        let (upgraded_state, diagnostics) = match outcome {
            Ok(Ok(state)) => (Some(state), Diagnostics::new()),
            Ok(Err(diagnostic)) | Err(diagnostic) => (None, diagnostic.into()),
        };
        wire::upgrade_resource_state::Response {
            upgraded_state,
            diagnostics: diagnostics.into_wire(),
        }
    }

    fn upgraded(
        &self,
        request: wire::upgrade_resource_state::Request,
    ) -> Result<wire::DynamicValue, Diagnostic> {
        let name = &request.type_name;
        let (resource, schema) = self.resource(name)?;
        let bytes = codec::raw_json(request.raw_state)?;
        let refuse = |detail: String| {
            Diagnostic::error(format!(
                "Cannot upgrade the state of {name} from version {} to {}",
                request.version, schema.version
            ))
            .detail(detail)
        };
        let value = if request.version == schema.version {
            // An attribute that the model has lost since is no reason to refuse a state of the same version.
            json::decode(&bytes, schema.kind(), json::Extra::Drop).map_err(unreadable)?
        } else if request.version > schema.version {
            return Err(refuse(
                "A newer version of this provider wrote it. Use that version, or a newer one."
                    .to_owned(),
            ));
        } else {
            let state = serde_json::from_slice(&bytes)
                .map_err(|error| refuse(format!("The state is not JSON: {error}.")))?;
            let upgraded = resource.upgrade(request.version, state).map_err(refuse)?;
            json::decode(
                upgraded.to_string().as_bytes(),
                schema.kind(),
                json::Extra::Refuse,
            )
            .map_err(|error| refuse(format!("The upgraded state does not fit: {error}.")))?
        };
        codec::write(&value, schema.kind())
    }

    pub(super) async fn upgrade_identity(
        self: Arc<Self>,
        request: wire::upgrade_resource_identity::Request,
    ) -> wire::upgrade_resource_identity::Response {
        let inner = Arc::clone(&self);
        let act = act(Verb::Upgrade, &request.type_name);
        let work = async move { inner.upgraded_identity(request) };
        let outcome = run::run(&act, self.bounds(None), work).await;
        let (identity, diagnostics) = match outcome {
            Ok(Ok(identity)) => (Some(identity), Diagnostics::new()),
            Ok(Err(diagnostic)) | Err(diagnostic) => (None, diagnostic.into()),
        };
        wire::upgrade_resource_identity::Response {
            upgraded_identity: identity.map(|identity| wire::ResourceIdentityData {
                identity_data: Some(identity),
            }),
            diagnostics: diagnostics.into_wire(),
        }
    }

    fn upgraded_identity(
        &self,
        request: wire::upgrade_resource_identity::Request,
    ) -> Result<wire::DynamicValue, Diagnostic> {
        let (resource, _) = self.resource(&request.type_name)?;
        let bytes = codec::raw_json(request.raw_identity)?;
        let identity = serde_json::from_slice(&bytes).map_err(|error| {
            Diagnostic::error(format!("Cannot read the identity of {}", request.type_name))
                .detail(error.to_string())
        })?;
        let identity = resource.upgrade_identity(request.version, identity)?;
        let schema = resource
            .identity_schema()?
            .expect("upgrade_identity refuses where there is none");
        codec::write(&identity, &schema.kind)
    }

    pub(super) async fn read(
        self: Arc<Self>,
        request: wire::read_resource::Request,
    ) -> wire::read_resource::Response {
        let record = Arc::new(Record::default());
        let before = request.current_state.clone();
        let identity_before = request.current_identity.clone();
        let private = request.private.clone();
        let outcome = self.found(request, &record).await;
        let (new_state, new_identity, failures) = match outcome {
            Ok(Found { state, identity }) => (
                Some(state),
                identity.or(identity_before),
                Diagnostics::new(),
            ),
            // What could not be looked at is as it was.
            Err(failures) => (before, identity_before, failures),
        };
        wire::read_resource::Response {
            new_state,
            new_identity,
            private: new_private(&record, private),
            diagnostics: with_warnings(&record, failures).into_wire(),
            deferred: None,
        }
    }

    async fn found(
        self: Arc<Self>,
        request: wire::read_resource::Request,
        record: &Arc<Record>,
    ) -> Result<Found, Diagnostics> {
        let name = request.type_name;
        let act = act(Verb::Read, &name);
        let (resource, schema) = self.resource(&name)?;
        let state = codec::read(request.current_state, schema.kind())?;
        let limit = resource
            .timeouts()
            .limit(Verb::Read, &state, schema.timeouts.as_deref());
        let call = self.call(&act, limit, request.private, record)?;
        let inner = Arc::clone(&self);
        let subject = name.clone();
        let work = async move { inner.known(&subject).read(call, state).await };
        let mut state = run::run(&act, self.bounds(limit), work)
            .await??
            .unwrap_or_default();
        plan::null_write_only(&schema.attributes, &mut state);
        left_open(&act.to_string(), &mut state).into_result()?;
        Ok(Found {
            identity: self.identified(&act, &name, &state).await?,
            state: codec::write(&state, schema.kind())?,
        })
    }

    pub(super) async fn plan(
        self: Arc<Self>,
        request: wire::plan_resource_change::Request,
    ) -> wire::plan_resource_change::Response {
        let record = Arc::new(Record::default());
        let private = request.prior_private.clone();
        let planned_identity = request.prior_identity.clone();
        let outcome = self.planned(request, &record).await;
        let (planned_state, requires_replace, found) = match outcome {
            Ok((state, replace, warnings)) => (Some(state), replace, warnings),
            Err(failures) => (None, Vec::new(), failures),
        };
        wire::plan_resource_change::Response {
            planned_state,
            requires_replace: requires_replace
                .iter()
                .filter_map(crate::Path::to_wire)
                .collect(),
            planned_private: new_private(&record, private),
            planned_identity,
            diagnostics: with_warnings(&record, found).into_wire(),
            legacy_type_system: false,
            deferred: None,
        }
    }

    async fn planned(
        self: Arc<Self>,
        request: wire::plan_resource_change::Request,
        record: &Arc<Record>,
    ) -> Result<(wire::DynamicValue, Vec<crate::Path>, Diagnostics), Diagnostics> {
        let name = request.type_name;
        let act = act(Verb::Plan, &name);
        let (_, schema) = self.resource(&name)?;
        let prior = codec::read(request.prior_state, schema.kind())?;
        let proposed = codec::read(request.proposed_new_state, schema.kind())?;
        let config = codec::read(request.config, schema.kind())?;
        let inner = Arc::clone(&self);
        let subject = name.clone();
        if proposed.is_null() {
            let work = async move { inner.known(&subject).plan_delete(&prior) };
            let found = run::run(&act, self.bounds(None), work).await?;
            if found.has_error() {
                return Err(found);
            }
            return Ok((
                codec::write(&Value::Null, schema.kind())?,
                Vec::new(),
                found,
            ));
        }
        let planned = plan::propose(schema, &prior, proposed, &config);
        let call = self.call(&act, None, request.prior_private, record)?;
        let (prior_again, config_again) = (prior.clone(), config.clone());
        let work = async move {
            inner
                .known(&subject)
                .plan(call, prior_again, planned, config_again)
                .await
        };
        let PlannedValue {
            value: mut planned,
            mut replace,
            warnings: found,
        } = run::run(&act, self.bounds(None), work).await??;
        plan::null_write_only(&schema.attributes, &mut planned);
        if prior.is_null() {
            replace.clear();
        } else {
            replace.extend(plan::replacements(schema, &prior, &planned, &config));
            replace.sort();
            replace.dedup();
        }
        Ok((codec::write(&planned, schema.kind())?, replace, found))
    }

    pub(super) async fn apply(
        self: Arc<Self>,
        request: wire::apply_resource_change::Request,
    ) -> wire::apply_resource_change::Response {
        let record = Arc::new(Record::default());
        let before = request.prior_state.clone();
        let private = request.planned_private.clone();
        let planned_identity = request.planned_identity.clone();
        let outcome = self.applied(request, &record).await;
        let (new_state, identity, found) = match outcome {
            Ok(Outcome {
                state,
                identity,
                diagnostics,
            }) => (Some(state), identity.or(planned_identity), diagnostics),
            Err(diagnostic) => (before, planned_identity, diagnostic.into()),
        };
        wire::apply_resource_change::Response {
            new_state,
            new_identity: identity,
            private: new_private(&record, private),
            diagnostics: with_warnings(&record, found).into_wire(),
            legacy_type_system: false,
        }
    }

    async fn applied(
        self: Arc<Self>,
        request: wire::apply_resource_change::Request,
        record: &Arc<Record>,
    ) -> Result<Outcome, Diagnostic> {
        let name = request.type_name;
        let (resource, schema) = self.resource(&name)?;
        let prior = codec::read(request.prior_state, schema.kind())?;
        let planned = codec::read(request.planned_state, schema.kind())?;
        let config = codec::read(request.config, schema.kind())?;
        let verb = match (prior.is_null(), planned.is_null()) {
            (true, _) => Verb::Create,
            (false, true) => Verb::Delete,
            (false, false) => Verb::Update,
        };
        let act = act(verb, &name);
        if verb == Verb::Update && !plan::differs(schema, &prior, &planned) {
            // Only limits of operations changed: there is nothing to do.
            return Ok(Outcome {
                identity: self.identified(&act, &name, &planned).await?,
                state: codec::write(&planned, schema.kind())?,
                diagnostics: Diagnostics::new(),
            });
        }
        let limits = if verb == Verb::Delete {
            &prior
        } else {
            &planned
        };
        let limit = resource
            .timeouts()
            .limit(verb, limits, schema.timeouts.as_deref());
        let call = self.call(&act, limit, request.planned_private, record)?;
        let inner = Arc::clone(&self);
        let subject = name.clone();
        let prior_again = prior.clone();
        let work = async move {
            let resource = inner.known(&subject);
            match verb {
                Verb::Create => resource.create(call, planned, config).await,
                Verb::Delete => resource.delete(call, prior_again).await,
                _ => resource.update(call, prior_again, planned, config).await,
            }
        };
        let outcome = run::run(&act, self.bounds(limit), work).await;
        let Applied {
            state,
            mut diagnostics,
        } = outcome.unwrap_or_else(|diagnostic| {
            let kept = lock(&record.kept).take();
            Applied {
                state: kept.and_then(|kept| kept.conform(schema.kind()).ok()),
                diagnostics: diagnostic.into(),
            }
        });
        let mut state = state.unwrap_or(prior);
        plan::null_write_only(&schema.attributes, &mut state);
        let open = left_open(&act.to_string(), &mut state);
        if !diagnostics.has_error() {
            diagnostics.extend(open);
        }
        // What was done is in the state, whether it can be identified or not.
        let identity = match self.identified(&act, &name, &state).await {
            Ok(identity) => identity,
            Err(failure) => {
                diagnostics.push(failure);
                None
            }
        };
        Ok(Outcome {
            identity,
            state: codec::write(&state, schema.kind())?,
            diagnostics,
        })
    }

    pub(super) async fn import(
        self: Arc<Self>,
        request: wire::import_resource_state::Request,
    ) -> wire::import_resource_state::Response {
        let record = Arc::new(Record::default());
        let (imported, failures) = match self.imported(request, &record).await {
            Ok(imported) => (vec![imported], Diagnostics::new()),
            Err(failures) => (Vec::new(), failures),
        };
        wire::import_resource_state::Response {
            imported_resources: imported,
            diagnostics: with_warnings(&record, failures).into_wire(),
            deferred: None,
        }
    }

    async fn imported(
        self: Arc<Self>,
        request: wire::import_resource_state::Request,
        record: &Arc<Record>,
    ) -> Result<wire::import_resource_state::ImportedResource, Diagnostics> {
        let name = request.type_name;
        let act = act(Verb::Import, &name);
        let (resource, schema) = self.resource(&name)?;
        let target = match request
            .identity
            .clone()
            .and_then(|identity| identity.identity_data)
        {
            Some(identity) => {
                let schema = resource.identity_schema().map_err(Diagnostic::from)?;
                let schema =
                    schema.ok_or_else(|| Diagnostic::error(format!("{name} has no identity")))?;
                ImportTarget::Identity(codec::read(Some(identity), &schema.kind)?)
            }
            None => ImportTarget::Id(request.id),
        };
        let call = self.call(&act, None, Vec::new(), record)?;
        let inner = Arc::clone(&self);
        let subject = name.clone();
        let work = async move { inner.known(&subject).import(call, target).await };
        let mut state = run::run(&act, self.bounds(None), work).await??;
        plan::null_write_only(&schema.attributes, &mut state);
        // An import may leave open what the read that follows finds out.
        plan::settle(&mut state);
        Ok(wire::import_resource_state::ImportedResource {
            state: Some(codec::write(&state, schema.kind())?),
            private: new_private(record, Vec::new()),
            identity: self
                .identified(&act, &name, &state)
                .await?
                .or(request.identity),
            type_name: name,
        })
    }

    pub(super) async fn move_state(
        self: Arc<Self>,
        request: wire::move_resource_state::Request,
    ) -> wire::move_resource_state::Response {
        let inner = Arc::clone(&self);
        let act = act(Verb::Move, &request.target_type_name);
        let work = async move { inner.moved(request) };
        let outcome = run::run(&act, self.bounds(None), work).await;
        let (target_state, target_identity, diagnostics) = match outcome {
            Ok(Ok(Found { state, identity })) => (Some(state), identity, Diagnostics::new()),
            Ok(Err(diagnostics)) => (None, None, diagnostics),
            Err(diagnostic) => (None, None, diagnostic.into()),
        };
        wire::move_resource_state::Response {
            target_state,
            target_identity,
            target_private: Vec::new(),
            diagnostics: diagnostics.into_wire(),
        }
    }

    fn moved(&self, request: wire::move_resource_state::Request) -> Result<Found, Diagnostics> {
        let name = &request.target_type_name;
        let (resource, schema) = self.resource(name)?;
        let bytes = codec::raw_json(request.source_state)?;
        let state = serde_json::from_slice(&bytes).map_err(|error| {
            Diagnostic::error(format!(
                "Cannot read the state of {}",
                request.source_type_name
            ))
            .detail(error.to_string())
        })?;
        let source = MoveSource {
            provider_address: request.source_provider_address,
            type_name: request.source_type_name,
            schema_version: request.source_schema_version,
            state,
            private: request.source_private,
        };
        let moved = resource.move_from(&source).ok_or_else(|| {
            Diagnostic::error(format!("{} cannot be moved to {name}", source.type_name)).detail(
                format!(
                    "{name} does not know how to take over {} of {}, version {}.",
                    source.type_name, source.provider_address, source.schema_version
                ),
            )
        })?;
        let mut state = moved?;
        plan::null_write_only(&schema.attributes, &mut state);
        plan::settle(&mut state);
        Ok(Found {
            identity: self.identity(name, &state)?,
            state: codec::write(&state, schema.kind())?,
        })
    }
}
