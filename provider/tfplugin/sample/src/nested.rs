//! `sample_nested`: attributes in attributes, single, in lists, sets and maps, with behaviours of their own; and
//! collections of plain values, one of any type among them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, Diagnostic, Diagnostics, Dynamic, Failure, Operation, Resource, Set, attribute, path,
};

use crate::machine::{Machine, named};

const KIND: &str = "nested";

pub(crate) struct Nested;

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Disk {
    /// How large it is.
    #[schemars(transform = attribute::required, range(min = 1))]
    pub(crate) size_mib: Attr<u64>,
    /// How it is stored. Another format is another machine.
    #[schemars(extend("default" = "vdi"), transform = attribute::requires_replace)]
    pub(crate) format: Attr<String>,
    /// What the machine calls it.
    #[schemars(transform = attribute::computed, transform = attribute::stable)]
    pub(crate) uuid: Attr<String>,
}

/// Who logs in first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Seed {
    /// A name.
    #[schemars(transform = attribute::required)]
    pub(crate) user: Attr<String>,
    /// Public keys.
    pub(crate) keys: Attr<Vec<String>>,
    /// Never in the state.
    #[schemars(transform = attribute::write_only)]
    pub(crate) password: Attr<String>,
}

/// A machine with disks in every way to have them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Model {
    #[schemars(transform = attribute::required)]
    pub(crate) name: Attr<String>,
    pub(crate) seed: Attr<Seed>,
    pub(crate) list: Attr<Vec<Disk>>,
    pub(crate) set: Attr<Set<Disk>>,
    pub(crate) map: Attr<BTreeMap<String, Disk>>,
    /// Set by the machine, as one.
    #[schemars(transform = attribute::computed)]
    pub(crate) report: Attr<Disk>,
    pub(crate) labels: Attr<BTreeMap<String, Attr<String>>>,
    pub(crate) words: Attr<Set<String>>,
    pub(crate) anything: Attr<Dynamic>,
}

type Cx = Operation<Machine>;

fn finish(cx: &Cx, mut model: Model) -> Result<Model, Failure<Model>> {
    let name = named(&model.name)?.to_owned();
    let give = |disk: &mut Disk, id: String| {
        if disk.uuid.is_unknown() {
            disk.uuid = id.into();
        }
    };
    for (at, disk) in model.list.known_mut().into_iter().flatten().enumerate() {
        give(disk, format!("list-{at}"));
    }
    for disk in model.set.known_mut().into_iter().flat_map(|set| &mut set.0) {
        let id = format!("set-{}", disk.size_mib.unwrap_or_default());
        give(disk, id);
    }
    for (key, disk) in model.map.known_mut().into_iter().flatten() {
        give(disk, format!("map-{key}"));
    }
    model.report = Disk {
        size_mib: 1.into(),
        format: "raw".into(),
        uuid: "report".into(),
    }
    .into();
    cx.context().put(KIND, &name, &name)?;
    Ok(model)
}

impl Resource for Nested {
    type Model = Model;
    type Context = Machine;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "sample_nested";

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        let disks = config.map.known().into_iter().flatten();
        for (key, disk) in disks.filter(|(_, disk)| disk.size_mib == Attr::Known(13)) {
            diagnostics.error(
                path!["map", tfplugin::Key(key.as_str()), "size_mib"],
                "An unlucky size",
                format!(
                    "The disk {key:?} of format {:?} has an unlucky size.",
                    disk.format
                ),
            );
        }
    }

    async fn create(cx: &Cx, planned: Model, config: &Model) -> Result<Model, Failure<Model>> {
        if let Some(password) = config.seed.known().and_then(|seed| seed.password.as_str()) {
            cx.context().note(&format!("password {password}"))?;
        }
        finish(cx, planned)
    }

    async fn read(cx: &Cx, state: Model) -> Result<Option<Model>, Diagnostics> {
        let found = cx.context().get::<String>(KIND, named(&state.name)?);
        Ok(found.map_err(Diagnostic::from)?.map(|_| state))
    }

    async fn update(cx: &Cx, _: Model, planned: Model, _: &Model) -> Result<Model, Failure<Model>> {
        finish(cx, planned)
    }

    async fn delete(cx: &Cx, state: Model) -> Result<(), Failure<Model>> {
        Ok(cx.context().remove(KIND, named(&state.name)?)?)
    }
}
