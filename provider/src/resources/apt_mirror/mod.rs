//! `ondol_apt_mirror`: Debian packages and all that they need, as a signed archive of this site.
//!
//! Selecting, fetching and publishing are `ondol_mirror::apt`; here is when that happens, and what Terraform sees of it. A plan shows the
//! packages that change. It asks upstream only when there is something to decide: see `refresh`.

mod config;
mod model;
mod plan;
mod published;
mod sync;
#[cfg(test)]
mod tests;
mod validate;

use std::path::Path as FilePath;

use ondol_image::Distribution;
use ondol_mirror::apt::{self, DEFAULT_SITE_KEY};
use ondol_mirror::{CancellationToken, DEFAULT_CACHE_DIR};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Planned, Resource, Set,
    path,
};

pub use self::model::{Mode, Model, Transport, UpstreamModel};
use self::plan::{changes, components, components_of, needs_sync, open, plan, sources};
use self::published::{Seen, look, manifest, remove};
use self::sync::{cache, log, sync};
use self::validate::{apt_error, check_selection, check_transport};
use crate::config::Cloud;
use crate::diagnostics;
use crate::mirror::{self, Refresh};

const KIND: &str = "apt";

const DEFAULT_KEEP: u64 = 3;

pub struct AptMirrorResource;

impl Resource for AptMirrorResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_apt_mirror";
    const IMPORT_ID: Option<&'static str> = Some("PATH/apt/NAME");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(mirror::TIMEOUT);

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        mirror::check_name(&config.name, diagnostics);
        mirror::check_absolute(&config.path, path!["path"], diagnostics);
        mirror::check_absolute(&config.cache_dir, path!["cache_dir"], diagnostics);
        mirror::check_absolute(&config.site_key_file, path!["site_key_file"], diagnostics);
        mirror::check_base_url(&config.base_url, diagnostics);
        check_selection(config, diagnostics);
        check_transport(config, diagnostics);
        if let (Some(path), Some(key)) = (config.path.known(), config.site_key_file.known())
            && FilePath::new(key).starts_with(path)
        {
            diagnostics.error(
                path!["site_key_file"],
                "The secret key would be published",
                format!("{key} is below path, which a web server shows. Keep it elsewhere."),
            );
        }
        for (index, upstream) in config.upstreams.known().into_iter().flatten().enumerate() {
            if upstream.keyring.is_known() && upstream.keyring_file.is_known() {
                diagnostics::complain(
                    diagnostics,
                    path!["upstreams", index, "keyring"],
                    "The archive's keys are given twice",
                    "Set keyring or keyring_file.",
                );
            }
        }
    }

    fn plan(
        prior: Option<&Model>,
        planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        plan(prior, planned).into()
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        prior: Option<&Model>,
        mut planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        let model = &planned.model;
        let needed = needs_sync(prior, model);
        let asked = model.refresh == Refresh::Always.into() && model.pin.is_null();
        if !(needed || asked) || !model.is_decided() || model.mode() == Mode::ImportArchive {
            return Ok(planned);
        }
        let config = model.config(true)?;
        let cache = cache(model)?;
        let log = log(model);
        let found = mirror::run(cx, async |cancel: CancellationToken| {
            apt::plan(&config, &cache, &log, cancel).await
        })
        .await?;
        let found = found.map_err(|error| apt_error(&error))?;
        if !needed {
            let unmet = found
                .missing
                .iter()
                .map(|missing| format!("{}: {}", missing.package, missing.reason));
            let same_gaps = model.missing == unmet.collect::<Vec<_>>().into();
            if found.up_to_date && same_gaps {
                return Ok(planned);
            }
            planned.model = open(prior, planned.model);
        }
        if let [summary, packages @ ..] = &changes(&found.delta)[..] {
            // Not an attribute: Terraform plans once more when it applies, and refuses a known value that is another one then.
            cx.warn(
                Diagnostic::warning(format!("Packages will change: {summary}"))
                    .detail(packages.join("\n")),
            );
        }
        let told = planned.model.local_sources.as_str().map(components);
        if config.pin.is_none() && told.is_some_and(|told| told != components_of(&config)) {
            planned.model.local_sources = Attr::Unknown;
            planned.model.sources = sources(&planned.model, &planned.model.base_url);
        }
        Ok(planned)
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        sync(cx, planned).await
    }

    async fn read(_: &Operation<Cloud>, mut state: Model) -> Result<Option<Model>, Diagnostics> {
        let config = state.config(false)?;
        let seen = tokio::task::spawn_blocking(move || look(&config)).await;
        let seen = seen
            .expect("looking at files does not panic")
            .map_err(|error| apt_error(&error))?;
        match seen {
            Seen::Gone => Ok(None),
            Seen::Damaged(words) => {
                state.drift = words.into();
                Ok(Some(state))
            }
            Seen::There(snapshot, all) => {
                let exported = state.mode() == Mode::ExportArchive;
                let archive = state.archive().filter(|_| exported);
                let drift: Vec<String> = archive
                    .filter(|archive| !FilePath::new(archive).exists())
                    .map(|archive| format!("{archive}: missing"))
                    .into_iter()
                    .collect();
                state.drift = drift.into();
                Ok(Some(state.with_snapshot(&snapshot, all)))
            }
        }
    }

    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        if needs_sync(Some(&prior), &planned) || planned.package_count.is_unknown() {
            return sync(cx, planned).await;
        }
        Ok(planned)
    }

    /// What clients see goes; the site's key stays, because other mirrors and clients know it, and so does the cache.
    async fn delete(_: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let directory = state.require_directory()?;
        Ok(remove(directory).await?)
    }

    /// What was asked for is not written down: the next apply takes note of it, and publishes only what is new.
    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let (path, name) = mirror::from_directory(id, KIND)?;
        let mut model = Model {
            path: path.into(),
            name: name.into(),
            distribution: Distribution::Debian.into(),
            everything: false.into(),
            recommends: false.into(),
            essential: false.into(),
            allow_missing: false.into(),
            keep: DEFAULT_KEEP.into(),
            refresh: Refresh::OnChange.into(),
            site_key_file: DEFAULT_SITE_KEY.into(),
            cache_dir: DEFAULT_CACHE_DIR.into(),
            drift: Vec::new().into(),
            ..Model::default()
        };
        let published = manifest(&model.require_directory()?).ok_or_else(|| {
            Diagnostic::error("There is no mirror to import")
                .detail(format!("{id} has no published snapshot that can be read."))
        })?;
        model.suite = published.suite.into();
        model.architectures = Set(published.architectures).into();
        Ok(model)
    }
}
