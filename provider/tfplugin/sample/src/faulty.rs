//! `sample_faulty`: fails in the way it is told to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Diagnostic, Diagnostics, Failure, Operation, Planned, Resource, attribute, path,
};

use crate::machine::Machine;

pub(crate) struct Faulty;

/// When and how it fails.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    None,
    PanicPlan,
    PanicCreate,
    PanicCreateHalfway,
    RefusePlan,
    FailCreate,
    FailCreateHalfway,
    FailUpdate,
    FailDelete,
    LeaveUnknown,
    PanicIdentity,
}

/// Something that breaks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub(crate) id: Attr<String>,
    #[schemars(transform = attribute::required)]
    pub(crate) fault: Attr<Fault>,
    #[schemars(transform = attribute::computed)]
    pub(crate) result: Attr<String>,
    pub(crate) note: Attr<String>,
}

/// What tells it from others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Identity {
    pub(crate) id: String,
}

type Cx = Operation<Machine>;

fn broken(act: &str) -> Diagnostic {
    Diagnostic::error(format!("Could not {act}"))
        .detail("The machine said: no.")
        .at(path!["fault"])
}

impl Resource for Faulty {
    type Model = Model;
    type Context = Machine;
    type Identity = Identity;
    type Private = ();

    const TYPE_NAME: &'static str = "sample_faulty";

    fn plan(
        _: Option<&Model>,
        planned: Model,
        _: &Model,
        diagnostics: &mut Diagnostics,
    ) -> Planned<Model> {
        match planned.fault {
            Attr::Known(Fault::PanicPlan) => panic!("planned to panic"),
            Attr::Known(Fault::RefusePlan) => diagnostics.push(broken("plan")),
            _ => {}
        }
        planned.into()
    }

    async fn create(cx: &Cx, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        let halfway = Model {
            id: "halfway".into(),
            ..planned.clone()
        };
        match planned.fault.require(path!["fault"])? {
            Fault::PanicCreate => panic!("created to panic"),
            Fault::PanicCreateHalfway => {
                cx.keep(&halfway);
                panic!("halfway to panic");
            }
            Fault::FailCreate => Err(broken("create").into()),
            Fault::FailCreateHalfway => Err(Failure::partial(halfway, broken("finish"))),
            Fault::LeaveUnknown => Ok(halfway),
            _ => Ok(Model {
                id: "whole".into(),
                result: "done".into(),
                ..planned
            }),
        }
    }

    fn identity(state: &Model) -> Option<Identity> {
        if state.fault == Attr::Known(Fault::PanicIdentity) {
            panic!("identified to panic");
        }
        let id = state.id.as_str()?.to_owned();
        Some(Identity { id })
    }

    async fn read(_: &Cx, state: Model) -> Result<Option<Model>, Diagnostics> {
        if state.note.as_str() == Some("panic on read") {
            panic!("read to panic");
        }
        Ok(Some(state))
    }

    async fn update(_: &Cx, _: Model, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        match planned.fault.require(path!["fault"])? {
            Fault::FailUpdate => Err(broken("update").into()),
            _ => Ok(Model {
                result: "done again".into(),
                ..planned
            }),
        }
    }

    async fn delete(_: &Cx, state: Model) -> Result<(), Failure<Model>> {
        match state.fault.require(path!["fault"])? {
            Fault::FailDelete => Err(broken("delete").into()),
            _ => Ok(()),
        }
    }
}
