//! `sample_numbers`: numbers of every kind, and none of them changed on the way.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::cty::Number;
use tfplugin::{Attr, Diagnostics, Failure, Operation, Resource};

use crate::machine::Machine;

pub(crate) struct Numbers;

/// Numbers, and one long text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    pub(crate) unsigned: Attr<u64>,
    pub(crate) signed: Attr<i64>,
    pub(crate) small: Attr<u8>,
    pub(crate) fraction: Attr<f64>,
    /// Of any size.
    pub(crate) exact: Attr<Number>,
    pub(crate) text: Attr<String>,
}

type Cx = Operation<Machine>;

impl Resource for Numbers {
    type Model = Model;
    type Context = Machine;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "sample_numbers";

    async fn create(_: &Cx, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        Ok(planned)
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
