//! `sample_slow`: takes its time, within limits, and stops when it is told to; or does not.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostic, Diagnostics, Failure, Operation, Resource, Timeouts, attribute};

use crate::machine::Machine;

pub(crate) struct Slow;

/// Something that takes long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub(crate) id: Attr<String>,
    /// How long creating takes.
    #[schemars(transform = attribute::required)]
    pub(crate) create_millis: Attr<u64>,
    /// Hears nothing while it works.
    #[schemars(extend("default" = false))]
    pub(crate) deaf: Attr<bool>,
    pub(crate) timeouts: Attr<Timeouts>,
}

type Cx = Operation<Machine>;

impl Resource for Slow {
    type Model = Model;
    type Context = Machine;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "sample_slow";

    async fn create(cx: &Cx, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        let state = Model {
            id: "slow".into(),
            ..planned
        };
        cx.context().note("create began")?;
        cx.keep(&state);
        let time = Duration::from_millis(state.create_millis.unwrap_or_default());
        if state.deaf == Attr::Known(true) {
            tokio::time::sleep(time).await;
        } else if let Err(interrupted) = cx.sleep(time).await {
            cx.context().note("create interrupted")?;
            return Err(Failure::partial(state, Diagnostic::from(interrupted)));
        }
        cx.context().note("create ended")?;
        Ok(state)
    }

    async fn read(_: &Cx, state: Model) -> Result<Option<Model>, Diagnostics> {
        Ok(Some(state))
    }

    async fn update(_: &Cx, _: Model, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        Ok(planned)
    }

    async fn delete(_: &Cx, _: Model) -> Result<(), Failure<Model>> {
        Ok(())
    }
}
