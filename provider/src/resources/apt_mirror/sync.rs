//! Brings what is published up to date, by the way that the transport says.

use std::path::{Path as FilePath, PathBuf};

use ondol_mirror::Cache;
use ondol_mirror::apt::{self, Config, Keyring, Snapshot};
use tfplugin::{Diagnostic, Failure, Operation, path};

use super::model::{Mode, Model};
use super::plan::{changes, difference};
use super::published::{make_room, manifest, remove};
use super::validate::apt_error;
use crate::config::Cloud;
use crate::diagnostics::sentence;
use crate::mirror;

/// Brings it up to date.
pub(super) async fn sync(cx: &Operation<Cloud>, planned: Model) -> Result<Model, Failure<Model>> {
    let mut config = planned.config(true)?;
    let cache = cache(&planned)?;
    let directory = planned.require_directory()?;
    let before = manifest(&directory);
    let unusable = make_room(&config, &cache).await?;
    if unusable.is_some() {
        // None of those to go back to has to leave for it.
        config.keep = config.keep.saturating_add(1);
    }
    let snapshot = transfer(cx, &planned, &config, &cache).await?;
    if let Some(unusable) = unusable.filter(|unusable| !unusable.ends_with(&snapshot.id)) {
        remove(directory.join(unusable)).await?;
    }
    let happened = manifest(&directory)
        .map(|after| changes(&difference(before.as_ref(), &after)))
        .unwrap_or_default();
    let all = apt::list(&directory).map_err(|error| apt_error(&error))?;
    let mut model = planned.clone().with_snapshot(&snapshot, all);
    model.changes = happened.into();
    if let Err(error) = export(cx, &planned, &config, &cache).await {
        // Published it is, and the archive is for the next apply.
        model.drift = vec!["the archive was not written".to_owned()].into();
        return Err(Failure::partial(model, error));
    }
    Ok(model)
}

/// Syncs as the transport says.
pub(super) async fn transfer(
    cx: &Operation<Cloud>,
    model: &Model,
    config: &Config,
    cache: &Cache,
) -> Result<Snapshot, Diagnostic> {
    let log = log(model);
    let synced = if model.mode() == Mode::ImportArchive && config.pin.is_none() {
        let at = path!["transport"];
        let needed = |name: &str, value: Option<&str>| {
            let value = value.map(PathBuf::from);
            value.ok_or_else(|| {
                Diagnostic::error(format!("transport.{name} is needed here")).at(at.clone())
            })
        };
        let transport = model.transport.known();
        let archive = needed("archive", model.archive())?;
        let keyring = transport.and_then(|transport| transport.keyring_file.as_str());
        let keyring =
            Keyring::load(&needed("keyring_file", keyring)?).map_err(|error| apt_error(&error))?;
        mirror::run(cx, async |cancel| {
            apt::import_archive(config, cache, &archive, &keyring, &log, cancel).await
        })
        .await?
    } else {
        mirror::run(cx, async |cancel| {
            apt::sync(config, cache, &log, cancel).await
        })
        .await?
    };
    synced.map_err(|error| apt_error(&error))
}

/// Writes the archive for the other site.
pub(super) async fn export(
    cx: &Operation<Cloud>,
    model: &Model,
    config: &Config,
    cache: &Cache,
) -> Result<(), Diagnostic> {
    let Some(archive) = model
        .archive()
        .filter(|_| model.mode() == Mode::ExportArchive)
    else {
        return Ok(());
    };
    let transport = model.transport.known();
    let base = transport.and_then(|transport| transport.base.as_str());
    let log = log(model);
    let exported = mirror::run(cx, async |cancel| {
        apt::export_archive(config, cache, FilePath::new(archive), base, &log, cancel).await
    })
    .await?;
    exported
        .map(drop)
        .map_err(|error| apt_error(&error).at(path!["transport"]))
}

pub(super) fn cache(model: &Model) -> Result<Cache, Diagnostic> {
    let cache_dir = model.cache_dir.require(path!["cache_dir"])?;
    Cache::open(FilePath::new(cache_dir)).map_err(|error| {
        Diagnostic::error("The cache cannot be used")
            .detail(sentence(&error.to_string()))
            .at(path!["cache_dir"])
    })
}

pub(super) fn log(model: &Model) -> mirror::Log {
    mirror::Log::new(format!("apt mirror {}", model.name.unwrap_or_default()))
}
