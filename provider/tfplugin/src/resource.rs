//! The contract of a managed resource. How a resource is planned and applied over the wire is in [`crate::server`].

use crate::operation::Private;
use crate::timeouts::DefaultTimeouts;
use crate::{Diagnostic, Diagnostics, Interrupted, Model, Operation, Path};

/// A kind of managed resource. It holds no data: everything is in its model, which is a plain struct.
///
/// Methods that work on the machine are `async fn`; the rest decide, and touch nothing.
pub trait Resource: Sized + Send + Sync + 'static {
    /// The attributes. Each field of it, at every depth, is an [`Attr`](crate::Attr).
    type Model: Model;
    /// What the provider's `configure` makes for its resources.
    type Context: Send + Sync + 'static;
    /// What finds the object in the real world, for import; `()` where there is none.
    type Identity: Model;
    /// What Terraform keeps beside the state and never shows; `()` where there is nothing.
    type Private: Private;

    /// The full name, with the provider's: `ondol_vm`.
    const TYPE_NAME: &'static str;
    /// The version of the model. [`upgrade`](Self::upgrade) brings older states to it.
    const VERSION: i64 = 0;
    /// The version of the identity.
    const IDENTITY_VERSION: i64 = 0;
    /// How an import id is written, such as `HOST/NAME`: for messages and the reference. `None`: no import.
    const IMPORT_ID: Option<&'static str> = None;
    /// The limits of operations where `timeouts` sets none.
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::USUAL;

    /// Checks what no single attribute can tell. Constraints in the schema have been checked already.
    fn validate(config: &Self::Model, diagnostics: &mut Diagnostics) {
        let _ = (config, diagnostics);
    }

    /// Decides what the resource will be. Defaults are set and unset computed attributes are unknown already;
    /// `requires_replace` marks are applied afterwards. `prior` is `None` when it is to be created. Only computed
    /// attributes may get another value than `planned` has.
    fn plan(
        prior: Option<&Self::Model>,
        planned: Self::Model,
        config: &Self::Model,
        diagnostics: &mut Diagnostics,
    ) -> Planned<Self::Model> {
        let _ = (prior, config, diagnostics);
        planned.into()
    }

    /// The part of planning that has to look: it gets what [`plan`](Self::plan) decided.
    fn plan_in_context(
        cx: &Operation<Self::Context, Self::Private>,
        prior: Option<&Self::Model>,
        planned: Planned<Self::Model>,
        config: &Self::Model,
    ) -> impl Future<Output = Result<Planned<Self::Model>, Diagnostics>> + Send {
        let _ = (cx, prior, config);
        async move { Ok(planned) }
    }

    /// Looks at a planned destruction, and can refuse it.
    fn plan_delete(prior: &Self::Model, diagnostics: &mut Diagnostics) {
        let _ = (prior, diagnostics);
    }

    /// Creates it. `config` alone has the write-only values. A failure carries the state of what exists by then.
    fn create(
        cx: &Operation<Self::Context, Self::Private>,
        planned: Self::Model,
        config: &Self::Model,
    ) -> impl Future<Output = Result<Self::Model, Failure<Self::Model>>> + Send;

    /// Looks at it. `None` says that it certainly does not exist any more; what cannot be reached is an error.
    fn read(
        cx: &Operation<Self::Context, Self::Private>,
        state: Self::Model,
    ) -> impl Future<Output = Result<Option<Self::Model>, Diagnostics>> + Send;

    /// Changes it in place. A failure without a state leaves the prior state.
    fn update(
        cx: &Operation<Self::Context, Self::Private>,
        prior: Self::Model,
        planned: Self::Model,
        config: &Self::Model,
    ) -> impl Future<Output = Result<Self::Model, Failure<Self::Model>>> + Send;

    /// Removes it; what is gone already is a success. A failure without a state leaves the prior state.
    fn delete(
        cx: &Operation<Self::Context, Self::Private>,
        state: Self::Model,
    ) -> impl Future<Output = Result<(), Failure<Self::Model>>> + Send;

    /// The first state of an existing object; Terraform reads it next, so what `read` needs is enough.
    fn import(
        cx: &Operation<Self::Context, Self::Private>,
        id: &str,
    ) -> impl Future<Output = Result<Self::Model, Diagnostics>> + Send {
        let _ = (cx, id);
        async { Err(no_import::<Self>("id").into()) }
    }

    /// [`import`](Self::import), from an identity.
    fn import_by_identity(
        cx: &Operation<Self::Context, Self::Private>,
        identity: Self::Identity,
    ) -> impl Future<Output = Result<Self::Model, Diagnostics>> + Send {
        let _ = (cx, identity);
        async { Err(no_import::<Self>("identity").into()) }
    }

    /// The identity of an object with this state. Once reported it must not change.
    fn identity(state: &Self::Model) -> Option<Self::Identity> {
        let _ = state;
        None
    }

    /// Turns a state of an older version into the present one. Errors are lowercase fragments.
    fn upgrade(from_version: i64, state: serde_json::Value) -> Result<serde_json::Value, String> {
        let _ = state;
        Err(format!(
            "{} has no upgrade from version {from_version} to {}",
            Self::TYPE_NAME,
            Self::VERSION
        ))
    }

    /// Turns an identity of an older version into the present one.
    fn upgrade_identity(
        from_version: i64,
        identity: serde_json::Value,
    ) -> Result<serde_json::Value, String> {
        let _ = identity;
        Err(format!(
            "the identity of {} has no upgrade from version {from_version} to {}",
            Self::TYPE_NAME,
            Self::IDENTITY_VERSION
        ))
    }

    /// Takes over the state of another resource type for a `moved` block. `None` when it is not one it knows.
    fn move_from(source: &MoveSource) -> Option<Result<Self::Model, Diagnostics>> {
        let _ = source;
        None
    }
}

fn no_import<R: Resource>(what: &str) -> Diagnostic {
    Diagnostic::error(format!("{} cannot be imported by its {what}", R::TYPE_NAME))
}

/// What `plan` decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned<M> {
    pub model: M,
    /// Attributes whose change needs a new resource, besides those the schema marks.
    pub replace: Vec<Path>,
}

impl<M> Planned<M> {
    /// Adds an attribute whose change needs a new resource.
    #[must_use]
    pub fn replace(mut self, path: Path) -> Self {
        self.replace.push(path);
        self
    }
}

impl<M> From<M> for Planned<M> {
    fn from(model: M) -> Self {
        Self {
            model,
            replace: Vec::new(),
        }
    }
}

/// An operation that did not succeed, and what exists nevertheless.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure<M> {
    /// The state of what exists. `None`: as before the operation. Boxed, because results carry failures around.
    pub state: Option<Box<M>>,
    pub diagnostics: Diagnostics,
}

impl<M> Failure<M> {
    /// A failure that leaves this behind.
    pub fn partial(state: M, diagnostics: impl Into<Diagnostics>) -> Self {
        Self {
            state: Some(Box::new(state)),
            diagnostics: diagnostics.into(),
        }
    }
}

impl<M> From<Diagnostics> for Failure<M> {
    fn from(diagnostics: Diagnostics) -> Self {
        Self {
            state: None,
            diagnostics,
        }
    }
}

impl<M> From<Diagnostic> for Failure<M> {
    fn from(diagnostic: Diagnostic) -> Self {
        Diagnostics::from(diagnostic).into()
    }
}

impl<M> From<anyhow::Error> for Failure<M> {
    fn from(error: anyhow::Error) -> Self {
        Diagnostic::from(error).into()
    }
}

impl<M> From<Interrupted> for Failure<M> {
    fn from(interrupted: Interrupted) -> Self {
        Diagnostic::from(interrupted).into()
    }
}

/// What a `moved` block moves: the state of a resource of another type, perhaps of another provider.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveSource {
    /// Such as `registry.terraform.io/hashicorp/null`.
    pub provider_address: String,
    pub type_name: String,
    pub schema_version: i64,
    /// The state as that provider wrote it.
    pub state: serde_json::Value,
    /// That provider's private state.
    pub private: Vec<u8>,
}
