//! What is published, seen and taken away. Fetches nothing and decides nothing about packages.

use std::path::{Path as FilePath, PathBuf};

use ondol_mirror::apt::{self, Config, Manifest, Snapshot};
use ondol_mirror::{Cache, Error, audit};
use tfplugin::Diagnostic;

use super::validate::apt_error;
use crate::diagnostics::sentence;

/// Damaged files that `drift` names before it only counts.
const DRIFT_SHOWN: usize = 10;

/// What is published, and what is wrong with it.
pub(super) enum Seen {
    Gone,
    Damaged(Vec<String>),
    There(Box<Snapshot>, Vec<String>),
}

pub(super) fn look(config: &Config) -> Result<Seen, Error> {
    let root = config.root();
    if apt::current(&root)?.is_none() {
        return Ok(Seen::Gone);
    }
    if !config.site_key.exists() {
        return Ok(Seen::Damaged(vec![format!(
            "the site's key is gone: {}",
            config.site_key.display()
        )]));
    }
    let damages = audit::apt(config)?;
    let mut words: Vec<String> = damages
        .iter()
        .take(DRIFT_SHOWN)
        .map(ToString::to_string)
        .collect();
    if damages.len() > DRIFT_SHOWN {
        words.push(format!(
            "... and {} more files",
            damages.len() - DRIFT_SHOWN
        ));
    }
    match apt::observe(config) {
        Ok(Some(snapshot)) if damages.is_empty() => {
            Ok(Seen::There(Box::new(snapshot), apt::list(&root)?))
        }
        Ok(None) => Ok(Seen::Gone),
        Err(error) if words.is_empty() => Err(error),
        Ok(Some(_)) | Err(_) => Ok(Seen::Damaged(words)),
    }
}

pub(super) fn manifest(directory: &FilePath) -> Option<Manifest> {
    let id = apt::current(directory).ok()??;
    let bytes = std::fs::read(directory.join("snapshots").join(id).join("manifest.json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Takes away what is damaged, so that the sync puts it back. Answers with the snapshot whose indexes suffered: it cannot be published
/// any more, and another one takes its place.
pub(super) async fn make_room(
    config: &Config,
    cache: &Cache,
) -> Result<Option<PathBuf>, Diagnostic> {
    let (config, cache) = (config.clone(), cache.clone());
    let done = tokio::task::spawn_blocking(move || {
        let damages = audit::apt(&config)?;
        audit::discard(&config.root(), &damages, cache.pool())?;
        Ok(unusable(&damages))
    })
    .await;
    done.expect("looking at files does not panic")
        .map_err(|error: Error| apt_error(&error))
}

/// `snapshots/ID`, if one of the files is within.
pub(super) fn unusable(damages: &[audit::Damage]) -> Option<PathBuf> {
    let of_snapshot = damages
        .iter()
        .find(|damage| damage.file.starts_with("snapshots"));
    of_snapshot.map(|damage| damage.file.iter().take(2).collect())
}

pub(super) async fn remove(directory: PathBuf) -> Result<(), Diagnostic> {
    let removed = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", directory.display()))
        }
        _ => Ok(()),
    })
    .await;
    removed
        .expect("removing files does not panic")
        .map_err(|words| {
            Diagnostic::error("The mirror could not be removed").detail(sentence(&words))
        })
}
