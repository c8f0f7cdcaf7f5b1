//! `sample_file`: defaults, constraints, computed and stable attributes, replacement, sensitive and deprecated
//! attributes, import, identity, private state, warnings, and a destruction that can be refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Diagnostic, Diagnostics, Failure, Operation, Planned, Resource, Timeouts, attribute, path,
};

use crate::machine::{Machine, named};

const KIND: &str = "file";

pub(crate) struct File;

/// How much others may do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Access {
    /// Only its owner.
    Private,
    /// Everyone may read.
    Shared,
}

/// A file with text in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    /// What the machine calls it.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub(crate) id: Attr<String>,
    /// The file's name.
    #[schemars(
        transform = attribute::required, transform = attribute::requires_replace,
        length(min = 1, max = 30), pattern("^[a-z][a-z0-9-]*$")
    )]
    pub(crate) name: Attr<String>,
    /// What is in it.
    #[schemars(extend("default" = ""))]
    pub(crate) content: Attr<String>,
    /// Its mode, in decimal.
    #[schemars(extend("default" = 420), range(min = 0, max = 511))]
    pub(crate) mode: Attr<u32>,
    /// Who may read it.
    #[schemars(extend("default" = "private"))]
    pub(crate) access: Attr<Access>,
    /// How long its content is.
    #[schemars(transform = attribute::computed)]
    pub(crate) size: Attr<u64>,
    /// How often it was written.
    #[schemars(transform = attribute::computed)]
    pub(crate) revision: Attr<u64>,
    /// The owner; the machine chooses one if you do not.
    #[schemars(transform = attribute::optional_computed, transform = attribute::stable)]
    pub(crate) owner: Attr<String>,
    /// A word that Terraform must not show.
    #[schemars(transform = attribute::sensitive, length(min = 4))]
    pub(crate) password: Attr<String>,
    /// What this was called once.
    #[schemars(transform = attribute::deprecated("use `name`"))]
    pub(crate) title: Attr<String>,
    /// Refuses to be destroyed.
    #[schemars(extend("default" = false))]
    pub(crate) keep: Attr<bool>,
    pub(crate) timeouts: Attr<Timeouts>,
}

/// Where the file is.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Identity {
    /// The file's name.
    name: String,
}

/// How often the file was written, beside its state.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Private {
    writes: u64,
}

type Cx = Operation<Machine, Private>;

fn write(cx: &Cx, mut model: Model) -> Result<Model, Failure<Model>> {
    let name = named(&model.name)?.to_owned();
    let Private { writes } = cx.private();
    cx.set_private(Private { writes: writes + 1 });
    model.id = format!("file/{name}").into();
    model.size = (model.content.as_str().unwrap_or_default().len() as u64).into();
    model.revision = (writes + 1).into();
    if model.owner.is_unknown() {
        model.owner = "root".into();
    }
    if model.content.as_str() == Some("") {
        cx.warn(Diagnostic::warning("The file is empty").at(path!["content"]));
    }
    cx.context().put(KIND, &name, &model)?;
    Ok(model)
}

impl Resource for File {
    type Model = Model;
    type Context = Machine;
    type Identity = Identity;
    type Private = Private;

    const TYPE_NAME: &'static str = "sample_file";
    const IMPORT_ID: Option<&'static str> = Some("NAME");

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let (Some(Access::Shared), Some(_)) = (config.access.known(), config.password.known()) {
            diagnostics.error(
                path!["password"],
                "A shared file has no password",
                "Remove password, or set access to \"private\".",
            );
        }
    }

    fn plan(
        _: Option<&Model>,
        mut planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        // The length is known as soon as the content is.
        if planned.size.is_unknown() {
            planned.size = planned.content.as_ref().map(|content| content.len() as u64);
        }
        planned.into()
    }

    fn plan_delete(prior: &Model, diagnostics: &mut Diagnostics) {
        if prior.keep == Attr::Known(true) {
            diagnostics.error(
                path!["keep"],
                "The file is to be kept",
                "Set keep to false first.",
            );
        }
    }

    async fn create(cx: &Cx, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        let name = named(&planned.name)?;
        if cx.context().get::<Model>(KIND, name)?.is_some() {
            return Err(Diagnostic::error(format!("The file {name:?} exists"))
                .detail(format!("Import it with its id, {name}."))
                .at(path!["name"])
                .into());
        }
        write(cx, planned)
    }

    async fn read(cx: &Cx, state: Model) -> Result<Option<Model>, Diagnostics> {
        let found = cx.context().get::<Model>(KIND, named(&state.name)?);
        let found = found.map_err(Diagnostic::from)?;
        Ok(found.map(|found| Model {
            timeouts: state.timeouts,
            ..found
        }))
    }

    async fn update(cx: &Cx, _: Model, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        write(cx, planned)
    }

    async fn delete(cx: &Cx, state: Model) -> Result<(), Failure<Model>> {
        Ok(cx.context().remove(KIND, named(&state.name)?)?)
    }

    async fn import(_: &Cx, id: &str) -> Result<Model, Diagnostics> {
        Ok(Model {
            name: id.into(),
            ..Model::default()
        })
    }

    async fn import_by_identity(_: &Cx, identity: Identity) -> Result<Model, Diagnostics> {
        Ok(Model {
            name: identity.name.into(),
            ..Model::default()
        })
    }

    fn identity(state: &Model) -> Option<Identity> {
        let name = state.name.known()?.clone();
        Some(Identity { name })
    }
}
