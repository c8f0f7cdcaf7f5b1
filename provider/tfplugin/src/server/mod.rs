//! Answers Terraform's calls: reads what it sends, asks [`crate::plan`] and [`crate::validate`] what follows, has the
//! provider's code do it under [`run`], and writes the answer. Calls that are newer than this SDK's purpose (list
//! resources, actions, state stores, generated configuration) are answered "unimplemented", which Terraform understands.

mod codec;
mod others;
mod resources;
mod run;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub(crate) use run::log_panics;

use crate::erased::{Call, Lazy, Read};
use crate::operation::{Act, Record, Verb, lock};
use crate::proto::tfplugin6 as wire;
use crate::schema::Schema;
use crate::{Diagnostic, Diagnostics, Provider, Registry};

type Answer<T> = Result<Response<T>, Status>;

/// A provider as a service.
pub(crate) struct Server<P: Provider>(Arc<Inner<P>>);

struct Inner<P: Provider> {
    provider: P,
    registry: Registry<P::Context>,
    config: Lazy<Schema>,
    context: Mutex<Option<Arc<P::Context>>>,
    stop: CancellationToken,
}

impl<P: Provider> Server<P> {
    /// `stop` is what StopProvider cancels.
    pub(crate) fn new(provider: P, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            provider,
            registry: Registry::of::<P>(),
            config: Lazy::new(),
            context: Mutex::new(None),
            stop,
        }))
    }
}

impl<P: Provider> Inner<P> {
    fn config_schema(&self) -> Read<&Schema> {
        self.config.get(Schema::of_config::<P::Config>)
    }

    fn bounds(&self, limit: Option<Duration>) -> run::Bounds {
        run::Bounds {
            stop: self.stop.clone(),
            limit,
            grace: P::GRACE,
        }
    }

    /// What an operation is made of. An error before Terraform has configured the provider.
    fn call(
        &self,
        act: &Act,
        limit: Option<Duration>,
        private: Vec<u8>,
        record: &Arc<Record>,
    ) -> Result<Call<P::Context>, Diagnostic> {
        let context = lock(&self.context).clone().ok_or_else(|| {
            Diagnostic::error(format!("Cannot {act}: the provider is not configured"))
                .detail("Terraform has not configured the provider, or its configuration failed.")
        })?;
        Ok(Call {
            context,
            act: act.clone(),
            stop: self.stop.clone(),
            limit,
            private,
            record: Arc::clone(record),
        })
    }
}

fn act(verb: Verb, subject: &str) -> Act {
    Act {
        verb,
        subject: subject.to_owned(),
    }
}

/// What was recorded as a warning, and then the rest.
fn with_warnings(record: &Record, rest: impl IntoIterator<Item = Diagnostic>) -> Diagnostics {
    let mut all = std::mem::take(&mut *lock(&record.warnings));
    all.extend(rest);
    all
}

fn new_private(record: &Record, before: Vec<u8>) -> Vec<u8> {
    lock(&record.private).take().unwrap_or(before)
}

fn no_such(what: &str, name: &str) -> Diagnostic {
    Diagnostic::error(format!("There is no {what} {name}"))
        .detail("This version of the provider does not have it. Another version may.")
}

/// Hands a call to the method of the same name.
macro_rules! answer {
    ($self:ident, $request:ident, $method:ident) => {
        Ok(Response::new(
            Arc::clone(&$self.0).$method($request.into_inner()).await,
        ))
    };
}

#[tonic::async_trait]
impl<P: Provider> wire::provider_server::Provider for Server<P> {
    async fn get_metadata(
        &self,
        _: Request<wire::get_metadata::Request>,
    ) -> Answer<wire::get_metadata::Response> {
        Ok(Response::new(self.0.metadata()))
    }

    async fn get_provider_schema(
        &self,
        _: Request<wire::get_provider_schema::Request>,
    ) -> Answer<wire::get_provider_schema::Response> {
        Ok(Response::new(self.0.provider_schema()))
    }

    async fn get_resource_identity_schemas(
        &self,
        _: Request<wire::get_resource_identity_schemas::Request>,
    ) -> Answer<wire::get_resource_identity_schemas::Response> {
        Ok(Response::new(self.0.identity_schemas()))
    }

    async fn get_functions(
        &self,
        _: Request<wire::get_functions::Request>,
    ) -> Answer<wire::get_functions::Response> {
        let mut diagnostics = Diagnostics::new();
        Ok(Response::new(wire::get_functions::Response {
            functions: self.0.functions(&mut diagnostics),
            diagnostics: diagnostics.into_wire(),
        }))
    }

    async fn validate_provider_config(
        &self,
        request: Request<wire::validate_provider_config::Request>,
    ) -> Answer<wire::validate_provider_config::Response> {
        answer!(self, request, validate_provider)
    }

    async fn validate_resource_config(
        &self,
        request: Request<wire::validate_resource_config::Request>,
    ) -> Answer<wire::validate_resource_config::Response> {
        answer!(self, request, validate_resource)
    }

    async fn validate_data_resource_config(
        &self,
        request: Request<wire::validate_data_resource_config::Request>,
    ) -> Answer<wire::validate_data_resource_config::Response> {
        answer!(self, request, validate_data_source)
    }

    async fn validate_ephemeral_resource_config(
        &self,
        request: Request<wire::validate_ephemeral_resource_config::Request>,
    ) -> Answer<wire::validate_ephemeral_resource_config::Response> {
        answer!(self, request, validate_ephemeral)
    }

    async fn configure_provider(
        &self,
        request: Request<wire::configure_provider::Request>,
    ) -> Answer<wire::configure_provider::Response> {
        answer!(self, request, configure)
    }

    async fn upgrade_resource_state(
        &self,
        request: Request<wire::upgrade_resource_state::Request>,
    ) -> Answer<wire::upgrade_resource_state::Response> {
        answer!(self, request, upgrade)
    }

    async fn upgrade_resource_identity(
        &self,
        request: Request<wire::upgrade_resource_identity::Request>,
    ) -> Answer<wire::upgrade_resource_identity::Response> {
        answer!(self, request, upgrade_identity)
    }

    async fn read_resource(
        &self,
        request: Request<wire::read_resource::Request>,
    ) -> Answer<wire::read_resource::Response> {
        answer!(self, request, read)
    }

    async fn plan_resource_change(
        &self,
        request: Request<wire::plan_resource_change::Request>,
    ) -> Answer<wire::plan_resource_change::Response> {
        answer!(self, request, plan)
    }

    async fn apply_resource_change(
        &self,
        request: Request<wire::apply_resource_change::Request>,
    ) -> Answer<wire::apply_resource_change::Response> {
        answer!(self, request, apply)
    }

    async fn import_resource_state(
        &self,
        request: Request<wire::import_resource_state::Request>,
    ) -> Answer<wire::import_resource_state::Response> {
        answer!(self, request, import)
    }

    async fn move_resource_state(
        &self,
        request: Request<wire::move_resource_state::Request>,
    ) -> Answer<wire::move_resource_state::Response> {
        answer!(self, request, move_state)
    }

    async fn read_data_source(
        &self,
        request: Request<wire::read_data_source::Request>,
    ) -> Answer<wire::read_data_source::Response> {
        answer!(self, request, read_data_source)
    }

    async fn open_ephemeral_resource(
        &self,
        request: Request<wire::open_ephemeral_resource::Request>,
    ) -> Answer<wire::open_ephemeral_resource::Response> {
        answer!(self, request, open)
    }

    async fn renew_ephemeral_resource(
        &self,
        request: Request<wire::renew_ephemeral_resource::Request>,
    ) -> Answer<wire::renew_ephemeral_resource::Response> {
        answer!(self, request, renew)
    }

    async fn close_ephemeral_resource(
        &self,
        request: Request<wire::close_ephemeral_resource::Request>,
    ) -> Answer<wire::close_ephemeral_resource::Response> {
        answer!(self, request, close)
    }

    async fn call_function(
        &self,
        request: Request<wire::call_function::Request>,
    ) -> Answer<wire::call_function::Response> {
        answer!(self, request, call_function)
    }

    async fn stop_provider(
        &self,
        _: Request<wire::stop_provider::Request>,
    ) -> Answer<wire::stop_provider::Response> {
        tracing::info!("Terraform asked to stop");
        self.0.stop.cancel();
        Ok(Response::new(wire::stop_provider::Response::default()))
    }
}
