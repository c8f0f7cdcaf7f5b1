//! `ondol_apt_mirror`: Debian packages and all that they need, as a signed archive of this site.
//!
//! Selecting, fetching and publishing are `ondol_mirror::apt`; here is when that happens, and what Terraform sees of it. A plan shows the
//! packages that change. It asks upstream only when there is something to decide: see `refresh`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};

use ondol_image::Distribution;
use ondol_mirror::apt::{
    self, Config, DEFAULT_SITE_KEY, Delta, Keyring, Machine, Manifest, Request, Selection,
    Snapshot, Trust, Upstream,
};
use ondol_mirror::fetch::Options;
use ondol_mirror::{Cache, CancellationToken, DEFAULT_CACHE_DIR, Error, audit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Path, Planned, Resource,
    Set, Timeouts, attribute, path,
};

use crate::config::Cloud;
use crate::diagnostics::{self, sentence};
use crate::mirror::{self, Refresh};

const KIND: &str = "apt";
const DEFAULT_KEEP: u64 = 3;
/// Packages that `changes` names before it only counts.
const CHANGES_SHOWN: usize = 40;
/// Damaged files that `drift` names before it only counts.
const DRIFT_SHOWN: usize = 10;

/// A signed archive of Debian packages for machines without a line: chosen packages and all that they need, or whole components.
///
/// It is published as `PATH/apt/NAME/current` in a directory that a web server shows. Upstream's signature and every digest are
/// verified. A new snapshot is published in one step: a client sees the old one or the new one, also in the middle of its update.
/// Upstreams are this machine's apt sources unless `upstreams` says otherwise. All suites (updates, security fixes) are published as one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The mirror's own directory, `PATH/apt/NAME`.
    #[schemars(transform = attribute::computed)]
    pub id: Attr<String>,
    /// The mirror's name.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub name: Attr<String>,
    /// The directory that a web server shows. Several mirrors of all kinds may share it. The site's public key is in `keys/site.asc`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub path: Attr<String>,
    /// `debian` or `ubuntu`: which of this machine's apt sources are meant, where `upstreams` names none.
    #[schemars(transform = attribute::optional_computed, extend("default" = "debian"))]
    pub distribution: Attr<Distribution>,
    /// What the suite is called here, for example `bookworm`. Of this machine's apt sources, the suite of this name, its updates and its
    /// security fixes are taken.
    #[schemars(transform = attribute::required)]
    pub suite: Attr<String>,
    /// Another suite, which this machine's apt sources have. If they do not have `suite` itself, it is taken from that suite's archive, by
    /// the same keys: `suite = "sid"` beside `bookworm`.
    pub beside_suite: Attr<String>,
    /// Of this machine's apt sources, whether a Release file that has expired is refused. Default: as this machine's apt does it. An
    /// archive that was frozen has unstable suites that are older than they promise to be; the signature is verified all the same.
    pub check_valid_until: Attr<bool>,
    /// Where packages come from, instead of this machine's apt sources.
    pub upstreams: Attr<Vec<UpstreamModel>>,
    /// Which components of this machine's apt sources are taken. Default: those that they name.
    pub components: Attr<Set<String>>,
    /// Debian's names of architectures. Default: this machine's.
    pub architectures: Attr<Set<String>>,
    /// Packages to have, with all that they need: `name`, `name=version` or `name:architecture`. Either this or `everything`.
    pub packages: Attr<Set<String>>,
    /// Every package of the components.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub everything: Attr<bool>,
    /// With `packages`: also what they recommend, where it can be had.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub recommends: Attr<bool>,
    /// With `packages`: also every essential package. An image can only be built from a mirror that has them.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub essential: Attr<bool>,
    /// With `packages`: also every package of these priorities, for example `required`.
    pub priorities: Attr<Set<String>>,
    /// Publish without packages that cannot be had, and list them in `missing`, instead of failing.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub allow_missing: Attr<bool>,
    /// How many snapshots are kept to go back to.
    #[schemars(transform = attribute::optional_computed, extend("default" = DEFAULT_KEEP), range(min = 1))]
    pub keep: Attr<u64>,
    /// Publish this one of `snapshots` and ask no upstream.
    pub pin: Attr<String>,
    /// How packages get here. Default: over the line.
    pub transport: Attr<Transport>,
    /// `on_change`: upstream is asked when something is changed here, when `triggers` change, or when what is published is damaged; what
    /// is new upstream does not show up by itself. `always`: at each plan, which costs one conditional request for each suite and is
    /// empty if there is nothing new.
    #[schemars(transform = attribute::optional_computed, extend("default" = "on_change"))]
    pub refresh: Attr<Refresh>,
    /// Any values. When one changes, upstream is asked: `{ month = "2026-11" }`.
    pub triggers: Attr<BTreeMap<String, String>>,
    /// Where clients see `path`, such as `http://mirror.example`. Only needed for `sources`.
    pub base_url: Attr<String>,
    /// The secret half of the site's key, which all mirrors of a site may share. Made with mode 0600 if it is not there. Only the path is
    /// in the state; it must be outside of `path`.
    #[schemars(transform = attribute::optional_computed, extend("default" = DEFAULT_SITE_KEY))]
    pub site_key_file: Attr<String>,
    /// Where downloads are kept for all mirrors of the machine.
    #[schemars(transform = attribute::optional_computed, extend("default" = DEFAULT_CACHE_DIR))]
    pub cache_dir: Attr<String>,
    /// The published snapshot.
    #[schemars(transform = attribute::computed)]
    pub snapshot_id: Attr<String>,
    /// `sha256:` and the digest of all that the snapshot holds: the same for the same content, wherever and whenever it was made.
    #[schemars(transform = attribute::computed)]
    pub content_digest: Attr<String>,
    /// What the last sync changed: a summary and a line for each package. The plan shows it beforehand as a warning, because upstream may
    /// have something newer by the time of the apply.
    #[schemars(transform = attribute::computed)]
    pub changes: Attr<Vec<String>>,
    /// The text for a client's `/etc/apt/sources.list.d/*.sources`, with the key in it. Null without `base_url`.
    #[schemars(transform = attribute::computed)]
    pub sources: Attr<String>,
    /// The same for this machine, which sees `path` as a directory.
    #[schemars(transform = attribute::computed)]
    pub local_sources: Attr<String>,
    /// The public half of the site's key.
    #[schemars(transform = attribute::computed)]
    pub public_key: Attr<String>,
    /// How many packages the snapshot has.
    #[schemars(transform = attribute::computed)]
    pub package_count: Attr<u64>,
    /// Size of its packages.
    #[schemars(transform = attribute::computed)]
    pub size_bytes: Attr<u64>,
    /// Packages that were asked for and cannot be had, each with the chain that fails. Empty without `allow_missing`.
    #[schemars(transform = attribute::computed)]
    pub missing: Attr<Vec<String>>,
    /// The bill of materials: SPDX 2.3 as JSON.
    #[schemars(transform = attribute::computed)]
    pub sbom_path: Attr<String>,
    /// The snapshots that are kept, oldest first.
    #[schemars(transform = attribute::computed)]
    pub snapshots: Attr<Vec<String>>,
    /// Published files that are not as they were. Empty when all is well.
    #[schemars(transform = attribute::computed)]
    pub drift: Attr<Vec<String>>,
    pub timeouts: Attr<Timeouts>,
}

/// One suite of one archive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamModel {
    /// Roots of the archive, the better one first: where one fails the next is asked. `http`, `https` or `file`.
    #[schemars(transform = attribute::required, length(min = 1))]
    pub uris: Attr<Vec<String>>,
    /// As in sources.list; with a slash at its end the archive is flat and has no components. Default: the mirror's `suite`.
    pub suite: Attr<String>,
    /// Default: `main`.
    pub components: Attr<Vec<String>>,
    /// The keys that may sign it, as a file. Without this and `keyring`: those that apt trusts here.
    pub keyring_file: Attr<String>,
    /// The keys that may sign it, armoured.
    pub keyring: Attr<String>,
    /// Take what the archive says without a signature.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub trusted: Attr<bool>,
    /// Refuse a Release file that has expired.
    #[schemars(transform = attribute::optional_computed, extend("default" = true))]
    pub check_valid_until: Attr<bool>,
}

/// How packages get here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transport {
    /// `online`; `export_archive`: online, and then written to `archive` for a site without a line; `import_archive`: from there.
    #[schemars(transform = attribute::required)]
    pub mode: Attr<Mode>,
    /// The tar file.
    pub archive: Attr<String>,
    /// To export only what the snapshot has more than this one, which the other site has.
    pub base: Attr<String>,
    /// The public key of the site that exported: its `keys/site.asc`.
    pub keyring_file: Attr<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Online,
    ExportArchive,
    ImportArchive,
}

impl Model {
    fn directory(&self) -> Option<PathBuf> {
        mirror::directory(&self.path, KIND, &self.name)
    }

    fn mode(&self) -> Mode {
        let transport = self.transport.known();
        transport.map_or(Mode::Online, |transport| {
            transport.mode.unwrap_or(Mode::Online)
        })
    }

    fn archive(&self) -> Option<&str> {
        self.transport.known()?.archive.as_str()
    }

    /// What the content of a snapshot depends on, all else left out.
    fn inputs(&self) -> Self {
        Self {
            id: Attr::Null,
            refresh: Attr::Null,
            base_url: Attr::Null,
            cache_dir: Attr::Null,
            snapshot_id: Attr::Null,
            content_digest: Attr::Null,
            changes: Attr::Null,
            sources: Attr::Null,
            local_sources: Attr::Null,
            public_key: Attr::Null,
            package_count: Attr::Null,
            size_bytes: Attr::Null,
            missing: Attr::Null,
            sbom_path: Attr::Null,
            snapshots: Attr::Null,
            drift: Attr::Null,
            timeouts: Attr::Null,
            ..self.clone()
        }
    }

    /// Whether everything that decides about the content is known.
    fn is_decided(&self) -> bool {
        let known = [
            self.name.is_unknown(),
            self.path.is_unknown(),
            self.distribution.is_unknown(),
            self.suite.is_unknown(),
            self.beside_suite.is_unknown(),
            self.check_valid_until.is_unknown(),
            self.upstreams.is_unknown(),
            self.components.is_unknown(),
            self.architectures.is_unknown(),
            self.packages.is_unknown(),
            self.everything.is_unknown(),
            self.recommends.is_unknown(),
            self.essential.is_unknown(),
            self.priorities.is_unknown(),
            self.allow_missing.is_unknown(),
            self.keep.is_unknown(),
            self.pin.is_unknown(),
            self.transport.is_unknown(),
            self.site_key_file.is_unknown(),
            self.cache_dir.is_unknown(),
        ];
        let upstreams = self.upstreams.known().into_iter().flatten();
        let transport = self.transport.known();
        !known.contains(&true)
            && upstreams.into_iter().all(UpstreamModel::is_decided)
            && transport.is_none_or(|transport| !transport.mode.is_unknown())
    }

    /// What `ondol_mirror` is asked for. `online`: with upstreams and their keys, which are not needed to look at what is published.
    fn config(&self, online: bool) -> Result<Config, Diagnostic> {
        let path = FilePath::new(self.path.require(path!["path"])?).to_owned();
        let suite = self.suite.require(path!["suite"])?.clone();
        let set = |values: &Attr<Set<String>>| -> Vec<String> {
            let values: BTreeSet<String> = values.known().into_iter().flatten().cloned().collect();
            values.into_iter().collect()
        };
        let mut architectures = set(&self.architectures);
        if architectures.is_empty() {
            architectures.push(machine_architecture().to_owned());
        }
        let selection = if self.everything.unwrap_or(false) {
            Selection::Everything
        } else {
            Selection::Closure(Request {
                packages: set(&self.packages),
                recommends: self.recommends.unwrap_or(false),
                essential: self.essential.unwrap_or(false),
                priorities: set(&self.priorities),
            })
        };
        let keep = self.keep.unwrap_or(DEFAULT_KEEP);
        let mut config = Config {
            name: self.name.require(path!["name"])?.clone(),
            path,
            suite,
            upstreams: Vec::new(),
            architectures,
            selection,
            allow_missing: self.allow_missing.unwrap_or(false),
            keep: usize::try_from(keep).unwrap_or(usize::MAX),
            pin: self.pin.known().cloned(),
            site_key: PathBuf::from(self.site_key_file.require(path!["site_key_file"])?),
            fetch: Options::default(),
        };
        if online && config.pin.is_none() && self.mode() != Mode::ImportArchive {
            self.add_upstreams(&mut config)?;
        }
        Ok(config)
    }

    fn add_upstreams(&self, config: &mut Config) -> Result<(), Diagnostic> {
        let machine = Machine::observe();
        if let Ok(machine) = &machine {
            config.fetch = machine.fetch_options();
        }
        if let Some(upstreams) = self.upstreams.known() {
            for (index, upstream) in upstreams.iter().enumerate() {
                let at = path!["upstreams", index];
                config
                    .upstreams
                    .push(upstream.to_upstream(&config.suite, at)?);
            }
            return Ok(());
        }
        let machine = machine.map_err(|error| apt_error(&error))?;
        let distribution = self
            .distribution
            .unwrap_or(Distribution::Debian)
            .to_string();
        let found = machine.upstreams(&distribution, &config.suite);
        config.upstreams = found.map_err(|error| apt_error(&error))?;
        if config.upstreams.is_empty()
            && let Some(beside) = self.beside_suite.as_str()
        {
            let found = machine.upstreams_beside(&distribution, &config.suite, beside);
            config.upstreams = found.map_err(|error| apt_error(&error))?;
        }
        if let Some(check) = self.check_valid_until.known() {
            for upstream in &mut config.upstreams {
                upstream.check_valid_until = *check;
            }
        }
        if let Some(wanted) = self.components.known() {
            for upstream in &mut config.upstreams {
                upstream
                    .components
                    .retain(|component| wanted.0.contains(component));
            }
            config
                .upstreams
                .retain(|upstream| !upstream.components.is_empty());
        }
        if config.upstreams.is_empty() {
            let there = apt::sources::available(&machine.sources);
            return Err(Diagnostic::error("This machine's apt sources do not have this suite")
                .detail(format!(
                    "No apt source of this machine is {distribution} {:?}{}. They have {}. Name another suite, or set upstreams.",
                    config.suite,
                    match &self.components {
                        Attr::Known(wanted) => format!(" with one of the components {}", wanted.0.join(", ")),
                        _ => String::new(),
                    },
                    if there.is_empty() { "none that can be used".to_owned() } else { there.join(", ") },
                ))
                .at(path!["suite"]));
        }
        Ok(())
    }

    /// With what is published.
    fn with_snapshot(mut self, snapshot: &Snapshot, all: Vec<String>) -> Self {
        self.id = self
            .directory()
            .map(|directory| directory.display().to_string())
            .into();
        let path = self.path.unwrap_or_default();
        self.local_sources = snapshot
            .sources_text(&format!("file:{}", path.trim_end_matches('/')))
            .into();
        self.sources = match self.base_url.known() {
            Some(base_url) => snapshot.sources_text(base_url).into(),
            None => Attr::Null,
        };
        self.snapshot_id = snapshot.id.clone().into();
        self.content_digest = format!("sha256:{}", snapshot.digest).into();
        self.public_key = snapshot.public_key.clone().into();
        self.package_count = (snapshot.package_count as u64).into();
        self.size_bytes = snapshot.size_bytes.into();
        let missing = snapshot.missing.iter();
        let missing = missing.map(|missing| format!("{}: {}", missing.package, missing.reason));
        self.missing = missing.collect::<Vec<_>>().into();
        self.sbom_path = snapshot.bom.display().to_string().into();
        self.snapshots = all.into();
        self
    }

    fn require_directory(&self) -> Result<PathBuf, Diagnostic> {
        self.path.require(path!["path"])?;
        self.name.require(path!["name"])?;
        Ok(self.directory().expect("both are known"))
    }
}

impl UpstreamModel {
    fn is_decided(&self) -> bool {
        let unknown = [
            self.uris.is_unknown(),
            self.suite.is_unknown(),
            self.components.is_unknown(),
            self.keyring_file.is_unknown(),
            self.keyring.is_unknown(),
            self.trusted.is_unknown(),
            self.check_valid_until.is_unknown(),
        ];
        !unknown.contains(&true)
    }

    fn to_upstream(&self, suite: &str, at: Path) -> Result<Upstream, Diagnostic> {
        let keys = |name: &str, error: String| {
            let error =
                Diagnostic::error("The archive's keys cannot be read").detail(sentence(&error));
            diagnostics::at(error, at.child(name))
        };
        let trust = if self.trusted.unwrap_or(false) {
            Trust::Anyone
        } else if let Some(file) = self.keyring_file.as_str() {
            Trust::Keyring(
                Keyring::load(FilePath::new(file))
                    .map_err(|error| keys("keyring_file", error.to_string()))?,
            )
        } else if let Some(text) = self.keyring.as_str() {
            Trust::Keyring(
                Keyring::parse(text.as_bytes())
                    .map_err(|error| keys("keyring", error.to_string()))?,
            )
        } else {
            let trusted = apt::machine::keyring(&apt::sources::SignedBy::Default);
            Trust::Keyring(trusted.map_err(|error| keys("keyring_file", error.to_string()))?)
        };
        let suite = self.suite.unwrap_or(suite.to_owned());
        let components = match self.components.known() {
            Some(components) => components.clone(),
            None if suite.ends_with('/') => Vec::new(),
            None => vec!["main".to_owned()],
        };
        Ok(Upstream {
            uris: self.uris.require(at.child("uris"))?.clone(),
            suite,
            components,
            trust,
            check_valid_until: self.check_valid_until.unwrap_or(true),
        })
    }
}

/// Debian's name of the architecture that this runs on.
fn machine_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "i386",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

/// Whether the configuration, or what was found, asks for a sync.
fn needs_sync(prior: Option<&Model>, planned: &Model) -> bool {
    let Some(prior) = prior else { return true };
    let drifted = prior.drift.known().is_some_and(|drift| !drift.is_empty());
    let elsewhere = planned.pin.is_known() && planned.pin != prior.snapshot_id;
    drifted || elsewhere || !prior.snapshot_id.is_known() || prior.inputs() != planned.inputs()
}

/// Pure. Everything about the snapshot stays known unless there is to be a sync.
fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
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
fn open(prior: Option<&Model>, planned: Model) -> Model {
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
fn components(sources: &str) -> BTreeSet<String> {
    let line = sources
        .lines()
        .find_map(|line| line.strip_prefix("Components: "));
    line.unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Those that will be published. A pinned snapshot has its own.
fn components_of(config: &Config) -> BTreeSet<String> {
    let of = |upstream: &Upstream| match upstream.components.is_empty() {
        true => vec!["main".to_owned()],
        false => upstream.components.clone(),
    };
    config.upstreams.iter().flat_map(of).collect()
}

/// The text for clients, from the one for this machine: only the address differs.
fn sources(prior: &Model, base_url: &Attr<String>) -> Attr<String> {
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
fn changes(delta: &Delta) -> Vec<String> {
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
fn difference(before: Option<&Manifest>, after: &Manifest) -> Delta {
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

fn manifest(directory: &FilePath) -> Option<Manifest> {
    let id = apt::current(directory).ok()??;
    let bytes = std::fs::read(directory.join("snapshots").join(id).join("manifest.json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What is published, and what is wrong with it.
enum Seen {
    Gone,
    Damaged(Vec<String>),
    There(Box<Snapshot>, Vec<String>),
}

fn look(config: &Config) -> Result<Seen, Error> {
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

fn cache(model: &Model) -> Result<Cache, Diagnostic> {
    let cache_dir = model.cache_dir.require(path!["cache_dir"])?;
    Cache::open(FilePath::new(cache_dir)).map_err(|error| {
        Diagnostic::error("The cache cannot be used")
            .detail(sentence(&error.to_string()))
            .at(path!["cache_dir"])
    })
}

fn log(model: &Model) -> mirror::Log {
    mirror::Log::new(format!("apt mirror {}", model.name.unwrap_or_default()))
}

/// Takes away what is damaged, so that the sync puts it back. Answers with the snapshot whose indexes suffered: it cannot be published
/// any more, and another one takes its place.
async fn make_room(config: &Config, cache: &Cache) -> Result<Option<PathBuf>, Diagnostic> {
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
fn unusable(damages: &[audit::Damage]) -> Option<PathBuf> {
    let of_snapshot = damages
        .iter()
        .find(|damage| damage.file.starts_with("snapshots"));
    of_snapshot.map(|damage| damage.file.iter().take(2).collect())
}

/// Syncs as the transport says.
async fn transfer(
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
async fn export(
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

/// Brings it up to date.
async fn sync(cx: &Operation<Cloud>, planned: Model) -> Result<Model, Failure<Model>> {
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

async fn remove(directory: PathBuf) -> Result<(), Diagnostic> {
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

fn check_selection(config: &Model, diagnostics: &mut Diagnostics) {
    let everything = config.everything == true.into();
    let undecided = config.packages.is_unknown() || config.everything.is_unknown();
    let imported = config.mode() == Mode::ImportArchive || config.transport.is_unknown();
    if everything && config.packages.is_known() {
        diagnostics.error(
            path!["packages"],
            "All packages and some packages",
            "Set packages, or everything = true, which takes every package of the components.",
        );
    } else if !everything && config.packages.is_null() && !undecided && !imported {
        diagnostics.error(
            path!["packages"],
            "Nothing is chosen",
            "Set packages, with whose names all that they need comes too, or everything = true.",
        );
    }
    for package in config.packages.known().into_iter().flatten() {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-.:=~".contains(c);
        if package.is_empty() || !package.chars().all(is_part) || package.starts_with('-') {
            diagnostics.error(
                path!["packages"],
                format!("{package:?} is not a package"),
                "Write name, name=version or name:architecture.",
            );
        }
    }
}

fn check_transport(config: &Model, diagnostics: &mut Diagnostics) {
    let Some(transport) = config.transport.known() else {
        return;
    };
    let Some(mode) = transport.mode.known() else {
        return;
    };
    let (needs_archive, needs_keyring) = match mode {
        Mode::Online => (false, false),
        Mode::ExportArchive => (true, false),
        Mode::ImportArchive => (true, true),
    };
    let needs = [
        ("archive", &transport.archive, needs_archive, "the tar file"),
        (
            "keyring_file",
            &transport.keyring_file,
            needs_keyring,
            "the public key of the site that exported",
        ),
    ];
    for (name, value, needed, what) in needs {
        if needed && value.is_null() {
            diagnostics::complain(
                diagnostics,
                path!["transport", name],
                "The archive is not described",
                format!("This mode needs {what}."),
            );
        }
        if let Some(file) = value.known()
            && !file.starts_with('/')
        {
            diagnostics::complain(
                diagnostics,
                path!["transport", name],
                format!("{file:?} is not an absolute path"),
                "Terraform may run in any directory: write the path from the root.",
            );
        }
    }
}

/// The engine's words, at the attribute that decides.
fn apt_error(error: &Error) -> Diagnostic {
    let detail = sentence(&error.to_string());
    let Error::Apt(apt) = error else {
        return Diagnostic::error("The packages could not be mirrored")
            .detail(format!("{detail} What was published stays published."));
    };
    match apt {
        apt::Error::Invalid { field, reason } => {
            let at = config_path(field);
            diagnostics::at(Diagnostic::error(format!("{at} is not possible")).detail(sentence(reason)), at)
        }
        apt::Error::UnknownSuite { .. } => {
            Diagnostic::error("The archive does not have this suite").detail(detail).at(path!["suite"])
        }
        apt::Error::Unsatisfied(_) => Diagnostic::error("Packages cannot be had")
            .detail(format!("{detail} Correct packages, add an upstream that has them, or set allow_missing = true."))
            .at(path!["packages"]),
        apt::Error::UnknownSnapshot { .. } => {
            Diagnostic::error("There is no such snapshot").detail(detail).at(path!["pin"])
        }
        apt::Error::IncompleteArchive { .. } => {
            Diagnostic::error("The archive is not complete").detail(detail).at(path!["transport"])
        }
        _ => Diagnostic::error("The packages could not be mirrored")
            .detail(format!("{detail} What was published stays published.")),
    }
}

/// `upstreams[0].uris` as a path into the resource.
fn config_path(field: &str) -> Path {
    let mut at = Path::root();
    for part in field.split('.') {
        let (name, index) = part.split_once('[').unwrap_or((part, ""));
        at = at.child(if name == "site_key" {
            "site_key_file"
        } else {
            name
        });
        if let Ok(index) = index.trim_end_matches(']').parse::<usize>() {
            at = at.child(index);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            name: "site".into(),
            path: "/srv/mirror".into(),
            distribution: Distribution::Debian.into(),
            suite: "bookworm".into(),
            packages: Set(vec!["nginx".to_owned()]).into(),
            everything: false.into(),
            recommends: false.into(),
            essential: false.into(),
            allow_missing: false.into(),
            keep: 3.into(),
            refresh: Refresh::OnChange.into(),
            base_url: "http://mirror.example/".into(),
            site_key_file: "/var/lib/key".into(),
            cache_dir: "/cache".into(),
            ..Model::default()
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            id: "20260101T000000Z-0123456789ab".to_owned(),
            digest: ondol_mirror::Digest::of(b"x"),
            name: "site".to_owned(),
            suite: "bookworm".to_owned(),
            components: vec!["main".to_owned()],
            architectures: vec!["amd64".to_owned()],
            package_count: 12,
            size_bytes: 345,
            missing: Vec::new(),
            bom: "/srv/mirror/apt/site/snapshots/x/sbom.json".into(),
            manifest: "/srv/mirror/apt/site/snapshots/x/manifest.json".into(),
            public_key: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n".to_owned(),
            changed: true,
            requests: 1,
            bytes_received: 1,
        }
    }

    fn published() -> Model {
        let mut model = plan(None, model()).with_snapshot(&snapshot(), vec![snapshot().id]);
        model.changes = vec!["12 added, 0 changed, 0 removed, 0 unchanged".to_owned()].into();
        model
    }

    #[test]
    fn a_plan_without_a_change_is_empty_and_an_input_opens_the_content() {
        let prior = published();
        assert_eq!(plan(Some(&prior), prior.clone()), prior);

        let more = Model {
            packages: Set(vec!["nginx".to_owned(), "curl".to_owned()]).into(),
            ..prior.clone()
        };
        let planned = plan(Some(&prior), more);
        assert!(
            planned.snapshot_id.is_unknown()
                && planned.changes.is_unknown()
                && planned.package_count.is_unknown()
        );
        let told = |model: &Model| {
            (
                model.sources.clone(),
                model.local_sources.clone(),
                model.public_key.clone(),
            )
        };
        assert_eq!(told(&planned), told(&prior), "machines are told the same");

        let other = plan(
            Some(&prior),
            Model {
                suite: "trixie".into(),
                ..prior.clone()
            },
        );
        assert!(other.sources.is_unknown() && other.local_sources.is_unknown());
        let triggered = [("month".to_owned(), "2".to_owned())].into();
        let triggered: Attr<BTreeMap<_, _>> = Attr::Known(triggered);
        let planned = plan(
            Some(&prior),
            Model {
                triggers: triggered,
                ..prior.clone()
            },
        );
        assert!(planned.snapshot_id.is_unknown());
    }

    #[test]
    fn another_address_changes_the_text_for_clients_and_nothing_else() {
        let prior = published();
        let moved = Model {
            base_url: "http://10.0.0.1".into(),
            // As the framework hands it over: open, because an attribute differs.
            sources: Attr::Unknown,
            content_digest: Attr::Unknown,
            package_count: Attr::Unknown,
            ..prior.clone()
        };
        let planned = plan(Some(&prior), moved.clone());
        let expected = moved.with_snapshot(&snapshot(), vec![snapshot().id]);
        assert_eq!(planned, expected);
        assert!(
            planned
                .sources
                .as_str()
                .unwrap()
                .contains("URIs: http://10.0.0.1/apt/site/current\n")
        );
        assert!(
            planned
                .local_sources
                .as_str()
                .unwrap()
                .contains("URIs: file:/srv/mirror/apt/site/current\n")
        );
        let without = plan(
            Some(&prior),
            Model {
                base_url: Attr::Null,
                ..prior.clone()
            },
        );
        assert_eq!(without.sources, Attr::Null);
    }

    #[test]
    fn damage_and_another_pin_ask_for_a_sync() {
        let prior = published();
        let damaged = Model {
            drift: vec!["pool/x.deb: missing".to_owned()].into(),
            ..prior.clone()
        };
        let planned = plan(Some(&damaged), damaged.clone());
        assert_eq!(planned.drift, Vec::new().into());
        assert!(planned.snapshot_id.is_unknown());

        let pinned = plan(
            Some(&prior),
            Model {
                pin: "older".into(),
                ..prior.clone()
            },
        );
        assert_eq!(pinned.snapshot_id, "older".into());
        let at_pin = Model {
            pin: snapshot().id.into(),
            ..prior.clone()
        };
        assert!(
            needs_sync(Some(&prior), &at_pin),
            "the configuration has changed"
        );
        assert!(!needs_sync(Some(&at_pin), &at_pin));
        let moved_away = Model {
            snapshot_id: "newer".into(),
            ..at_pin.clone()
        };
        assert!(needs_sync(Some(&moved_away), &at_pin));
    }

    #[test]
    fn changes_are_summed_up_and_only_some_are_named() {
        let entry = |name: &str, version: &str| format!("{name} {version}");
        let parse = |list: &[String]| -> Vec<(String, String, String)> {
            let split = |text: &String| {
                text.split_once(' ')
                    .map(|(a, b)| (a.to_owned(), "amd64".to_owned(), b.to_owned()))
            };
            list.iter().filter_map(split).collect()
        };
        let borrow =
            |list: &[(String, String, String)]| -> Vec<(String, String, String)> { list.to_vec() };
        let delta = |before: &[String], after: &[String]| {
            let (before, after) = (borrow(&parse(before)), borrow(&parse(after)));
            apt::closure::delta(
                before
                    .iter()
                    .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())),
                after
                    .iter()
                    .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())),
            )
        };
        let one = delta(
            &[entry("a", "1"), entry("b", "1"), entry("c", "1")],
            &[entry("b", "2"), entry("c", "1"), entry("d", "1")],
        );
        assert_eq!(
            changes(&one),
            [
                "1 added, 1 changed, 1 removed, 1 unchanged",
                "+ d 1",
                "~ b 1 -> 2",
                "- a 1"
            ]
        );
        let many: Vec<String> = (0..100)
            .map(|index| entry(&format!("p{index:03}"), "1"))
            .collect();
        let shown = changes(&delta(&[], &many));
        assert_eq!(shown.len(), CHANGES_SHOWN + 2);
        assert_eq!(shown.last().map(String::as_str), Some("... and 60 more"));
        assert_eq!(changes(&delta(&many, &many)), [""; 0]);
    }

    #[test]
    fn a_configuration_that_cannot_be_names_its_attribute() {
        let paths = |model: &Model| -> Vec<String> {
            let mut diagnostics = Diagnostics::new();
            AptMirrorResource::validate(model, &mut diagnostics);
            diagnostics.iter().map(|one| one.path.to_string()).collect()
        };
        assert_eq!(paths(&model()), [""; 0]);
        let twice = UpstreamModel {
            keyring: "k".into(),
            keyring_file: "/k".into(),
            ..UpstreamModel::default()
        };
        let cases = [
            (
                Model {
                    packages: Attr::Null,
                    ..model()
                },
                vec!["packages"],
            ),
            (
                Model {
                    everything: true.into(),
                    ..model()
                },
                vec!["packages"],
            ),
            (
                Model {
                    packages: Set(vec!["a b".to_owned()]).into(),
                    ..model()
                },
                vec!["packages"],
            ),
            (
                Model {
                    site_key_file: "/srv/mirror/keys/x".into(),
                    ..model()
                },
                vec!["site_key_file"],
            ),
            (
                Model {
                    upstreams: vec![twice].into(),
                    ..model()
                },
                vec!["upstreams[0].keyring"],
            ),
            (
                Model {
                    packages: Attr::Null,
                    transport: Transport {
                        mode: Mode::ImportArchive.into(),
                        ..Transport::default()
                    }
                    .into(),
                    ..model()
                },
                vec!["transport.archive", "transport.keyring_file"],
            ),
        ];
        for (wrong, expected) in cases {
            assert_eq!(paths(&wrong), expected);
        }
        assert_eq!(
            config_path("upstreams[1].uris"),
            path!["upstreams", 1usize, "uris"]
        );
        assert_eq!(config_path("site_key"), path!["site_key_file"]);
    }
}
