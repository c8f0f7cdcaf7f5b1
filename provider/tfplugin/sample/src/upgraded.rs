//! `sample_upgraded`: its states of version 0 had `title`, of version 1 `name` as text; now `name` is a list of words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tfplugin::{Attr, Diagnostics, Failure, Operation, Resource, attribute};

use crate::machine::Machine;

pub(crate) struct Upgraded;

/// A name in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    #[schemars(transform = attribute::required)]
    pub(crate) words: Attr<Vec<String>>,
}

type Cx = Operation<Machine>;

impl Resource for Upgraded {
    type Model = Model;
    type Context = Machine;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "sample_upgraded";
    const VERSION: i64 = 2;

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

    fn upgrade(from_version: i64, state: Value) -> Result<Value, String> {
        let old = match from_version {
            0 => "title",
            1 => "name",
            other => return Err(format!("version {other} never existed")),
        };
        let text = state.get(old).and_then(Value::as_str);
        let text = text.ok_or_else(|| format!("the state has no {old}"))?;
        Ok(json!({ "words": text.split(' ').collect::<Vec<_>>() }))
    }
}
