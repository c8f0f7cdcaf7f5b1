//! `sample_files`: a data source.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, DataSource, Diagnostic, Diagnostics, Operation, attribute, path};

use crate::machine::Machine;

pub(crate) struct Files;

/// A file that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Found {
    /// Where it stands among the others.
    position: Attr<u64>,
}

/// The files on the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    /// Only files whose names begin like this.
    #[schemars(extend("default" = ""), length(max = 5))]
    prefix: Attr<String>,
    /// What the provider says.
    #[schemars(transform = attribute::computed)]
    greeting: Attr<String>,
    /// The files, by name.
    #[schemars(transform = attribute::computed)]
    files: Attr<BTreeMap<String, Found>>,
}

impl DataSource for Files {
    type Model = Model;
    type Context = Machine;

    const TYPE_NAME: &'static str = "sample_files";

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if config.prefix.as_str() == Some("/") {
            diagnostics.error(path!["prefix"], "Names have no slash", "Leave it out.");
        }
    }

    async fn read(cx: &Operation<Machine>, mut model: Model) -> Result<Model, Diagnostics> {
        let prefix = model.prefix.unwrap_or_default();
        let names = cx.context().list("file").map_err(Diagnostic::from)?;
        let files = names
            .into_iter()
            .filter(|name| name.starts_with(&prefix))
            .zip(0..);
        model.files = files
            .map(|(name, position)| {
                (
                    name,
                    Found {
                        position: Attr::Known(position),
                    },
                )
            })
            .collect::<BTreeMap<_, _>>()
            .into();
        model.greeting = cx.context().greeting.as_str().into();
        Ok(model)
    }
}
