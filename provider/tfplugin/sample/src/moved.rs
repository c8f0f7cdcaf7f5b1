//! `sample_moved`: takes over the state of a `sample_file` for a `moved` block.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostics, Failure, MoveSource, Operation, Resource, attribute};

use crate::machine::Machine;

pub(crate) struct Moved;

/// A file's name, and how it came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    #[schemars(transform = attribute::required)]
    pub(crate) name: Attr<String>,
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub(crate) origin: Attr<String>,
}

type Cx = Operation<Machine>;

impl Resource for Moved {
    type Model = Model;
    type Context = Machine;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "sample_moved";

    async fn create(_: &Cx, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        Ok(Model {
            origin: "created".into(),
            ..planned
        })
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

    fn move_from(source: &MoveSource) -> Option<Result<Model, Diagnostics>> {
        if source.type_name != "sample_file" {
            return None;
        }
        Some(Ok(Model {
            name: source.state.get("name")?.as_str()?.into(),
            origin: source.type_name.as_str().into(),
        }))
    }
}
