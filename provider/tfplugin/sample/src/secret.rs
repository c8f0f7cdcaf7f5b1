//! `sample_secret`: a value that reaches the machine and stays out of every plan and state.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostics, Failure, Operation, Resource, attribute, path};

use crate::machine::Machine;

pub(crate) struct Secret;

/// A password on the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    /// The password itself.
    #[schemars(transform = attribute::required, transform = attribute::write_only, length(min = 4))]
    pub(crate) password: Attr<String>,
    /// Change it to have a new password written.
    #[schemars(extend("default" = 1))]
    pub(crate) version: Attr<u64>,
    /// How long the password is.
    #[schemars(transform = attribute::computed)]
    pub(crate) length: Attr<u64>,
}

type Cx = Operation<Machine>;

fn set(cx: &Cx, mut model: Model, config: &Model) -> Result<Model, Failure<Model>> {
    let password = config.password.require(path!["password"])?;
    cx.context().note(&format!("password {password}"))?;
    model.length = (password.len() as u64).into();
    // A careless resource returns it; the SDK must not let it through.
    model.password = config.password.clone();
    Ok(model)
}

impl Resource for Secret {
    type Model = Model;
    type Context = Machine;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "sample_secret";

    async fn create(cx: &Cx, planned: Model, config: &Model) -> Result<Model, Failure<Model>> {
        set(cx, planned, config)
    }

    async fn read(_: &Cx, state: Model) -> Result<Option<Model>, Diagnostics> {
        Ok(Some(state))
    }

    async fn update(
        cx: &Cx,
        _: Model,
        planned: Model,
        config: &Model,
    ) -> Result<Model, Failure<Model>> {
        set(cx, planned, config)
    }

    async fn delete(_: &Cx, _: Model) -> Result<(), Failure<Model>> {
        Ok(())
    }
}
