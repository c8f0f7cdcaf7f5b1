//! What a configuration of `ondol_apt_mirror` may say and what Terraform is told. Decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ondol_image::Distribution;
use ondol_mirror::DEFAULT_CACHE_DIR;
use ondol_mirror::apt::{DEFAULT_SITE_KEY, Snapshot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{Attr, Diagnostic, Set, Timeouts, attribute, path};

use super::{DEFAULT_KEEP, KIND};
use crate::mirror::{self, Refresh};

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
    pub(super) fn directory(&self) -> Option<PathBuf> {
        mirror::directory(&self.path, KIND, &self.name)
    }

    pub(super) fn mode(&self) -> Mode {
        let transport = self.transport.known();
        transport.map_or(Mode::Online, |transport| {
            transport.mode.unwrap_or(Mode::Online)
        })
    }

    pub(super) fn archive(&self) -> Option<&str> {
        self.transport.known()?.archive.as_str()
    }

    /// What the content of a snapshot depends on, all else left out.
    pub(super) fn inputs(&self) -> Self {
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
    pub(super) fn is_decided(&self) -> bool {
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

    /// With what is published.
    pub(super) fn with_snapshot(mut self, snapshot: &Snapshot, all: Vec<String>) -> Self {
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

    pub(super) fn require_directory(&self) -> Result<PathBuf, Diagnostic> {
        self.path.require(path!["path"])?;
        self.name.require(path!["name"])?;
        Ok(self.directory().expect("both are known"))
    }
}

impl UpstreamModel {
    pub(super) fn is_decided(&self) -> bool {
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
}
