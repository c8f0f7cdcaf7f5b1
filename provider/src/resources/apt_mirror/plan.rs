//! When a mirror is to be synced, what of it is known beforehand, and how a change of packages is told. Pure.

use std::collections::BTreeSet;

use ondol_mirror::apt::{self, Config, Delta, Manifest, Upstream};
use tfplugin::Attr;

use super::KIND;
use super::model::{Mode, Model, UpstreamModel};

/// Packages that `changes` names before it only counts.
pub(super) const CHANGES_SHOWN: usize = 40;

/// Whether the configuration, or what was found, asks for a sync.
pub(super) fn needs_sync(prior: Option<&Model>, planned: &Model) -> bool {
    let Some(prior) = prior else { return true };
    let drifted = prior.drift.known().is_some_and(|drift| !drift.is_empty());
    let elsewhere = planned.pin.is_known() && planned.pin != prior.snapshot_id;
    drifted || elsewhere || !prior.snapshot_id.is_known() || prior.inputs() != planned.inputs()
}

/// Pure. Everything about the snapshot stays known unless there is to be a sync.
pub(super) fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
    planned.id = match planned.directory() {
        Some(directory) => directory.display().to_string().into(),
        None => Attr::Unknown,
    };
    planned.drift = Vec::new().into();
    match prior.filter(|_| !needs_sync(prior, &planned)) {
        None => open(prior, planned),
        Some(prior) => Model {
            id: planned.id,
            drift: planned.drift,
            sources: sources(prior, &planned.base_url),
            name: planned.name,
            path: planned.path,
            snapshot_id: prior.snapshot_id.clone(),
            content_digest: prior.content_digest.clone(),
            changes: prior.changes.clone(),
            local_sources: prior.local_sources.clone(),
            public_key: prior.public_key.clone(),
            package_count: prior.package_count,
            size_bytes: prior.size_bytes,
            missing: prior.missing.clone(),
            sbom_path: prior.sbom_path.clone(),
            snapshots: prior.snapshots.clone(),
            ..planned
        },
    }
}

/// A plan to sync: what only that can tell is open. What clients are told stays, where nothing that it says can change.
pub(super) fn open(prior: Option<&Model>, planned: Model) -> Model {
    let told = |model: &Model| {
        let uris = |upstreams: &Attr<Vec<UpstreamModel>>| upstreams.clone();
        (
            (model.path.clone(), model.name.clone(), model.suite.clone()),
            (
                uris(&model.upstreams),
                model.components.clone(),
                model.architectures.clone(),
            ),
            (
                (model.distribution, model.beside_suite.clone()),
                model.site_key_file.clone(),
                model.mode(),
                model.pin.clone(),
            ),
        )
    };
    // A key that is gone is made anew.
    let keyed = |prior: &&Model| {
        let drift = prior.drift.known();
        drift.is_some_and(Vec::is_empty) && told(prior) == told(&planned)
    };
    // An archive has whatever components it has.
    let same = prior
        .filter(keyed)
        .filter(|_| planned.mode() != Mode::ImportArchive);
    let kept = |of: fn(&Model) -> Attr<String>| same.map_or(Attr::Unknown, of);
    Model {
        snapshot_id: match &planned.pin {
            Attr::Known(pin) => pin.clone().into(),
            _ => Attr::Unknown,
        },
        content_digest: Attr::Unknown,
        changes: Attr::Unknown,
        sources: same.map_or(
            match planned.base_url {
                Attr::Null => Attr::Null,
                _ => Attr::Unknown,
            },
            |prior| sources(prior, &planned.base_url),
        ),
        local_sources: kept(|prior| prior.local_sources.clone()),
        public_key: kept(|prior| prior.public_key.clone()),
        package_count: Attr::Unknown,
        size_bytes: Attr::Unknown,
        missing: Attr::Unknown,
        sbom_path: Attr::Unknown,
        snapshots: Attr::Unknown,
        ..planned
    }
}

/// Those that a sources text names.
pub(super) fn components(sources: &str) -> BTreeSet<String> {
    let line = sources
        .lines()
        .find_map(|line| line.strip_prefix("Components: "));
    line.unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Those that will be published. A pinned snapshot has its own.
pub(super) fn components_of(config: &Config) -> BTreeSet<String> {
    let of = |upstream: &Upstream| match upstream.components.is_empty() {
        true => vec!["main".to_owned()],
        false => upstream.components.clone(),
    };
    config.upstreams.iter().flat_map(of).collect()
}

/// The text for clients, from the one for this machine: only the address differs.
pub(super) fn sources(prior: &Model, base_url: &Attr<String>) -> Attr<String> {
    let (local, path, name) = (&prior.local_sources, &prior.path, &prior.name);
    match (base_url, local, path, name) {
        (Attr::Null, ..) => Attr::Null,
        (Attr::Known(base_url), Attr::Known(local), Attr::Known(path), Attr::Known(name)) => {
            let uri = |base: &str| format!("URIs: {}/{KIND}/{name}/", base.trim_end_matches('/'));
            let ours = uri(&format!("file:{}", path.trim_end_matches('/')));
            local.replacen(&ours, &uri(base_url), 1).into()
        }
        _ => Attr::Unknown,
    }
}

/// A summary and a line for each package, as many as a person reads.
pub(super) fn changes(delta: &Delta) -> Vec<String> {
    if delta.is_empty() {
        return Vec::new();
    }
    let summary = format!(
        "{} added, {} changed, {} removed, {} unchanged",
        delta.added.len(),
        delta.changed.len(),
        delta.removed.len(),
        delta.unchanged
    );
    let text = delta.to_string();
    let all = text.lines().count();
    let mut lines = vec![summary];
    lines.extend(text.lines().take(CHANGES_SHOWN).map(str::to_owned));
    if all > CHANGES_SHOWN {
        lines.push(format!("... and {} more", all - CHANGES_SHOWN));
    }
    lines
}

/// What one snapshot has that the other has not.
pub(super) fn difference(before: Option<&Manifest>, after: &Manifest) -> Delta {
    fn packages(manifest: &Manifest) -> impl Iterator<Item = (&str, &str, &str)> {
        let entries = manifest.packages.iter();
        entries.map(|entry| {
            (
                entry.name.as_str(),
                entry.architecture.as_str(),
                entry.version.as_str(),
            )
        })
    }
    apt::closure::delta(before.into_iter().flat_map(packages), packages(after))
}
