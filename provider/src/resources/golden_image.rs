//! `ondol_golden_image`: one recipe, built into a root file system that lab VMs start from, an appliance for VirtualBox, or both.
//!
//! Building is `ondol_image`'s; here is when, and what Terraform sees of it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use ondol_image::{BootableDisk, DiskSpec, Distribution, Image, Progress, Recipe, User, Variant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, CancellationToken, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Path,
    Planned, Resource, Set, Timeouts, attribute, path,
};

use crate::config::Cloud;
use crate::diagnostics::sentence;
use crate::engines::lab;

/// A golden image: a recipe of packages and users, built once from this machine's apt sources, or from a mirror, and kept in a cache.
///
/// `formats` says what it is built into: a root file system for the lab engine, an appliance (.ova) for VirtualBox, or both. The
/// appliance's disk boots from BIOS and from EFI, has cloud-init for the first boot and no identity, key or password of its own. It is
/// made on x86-64 Linux with mmdebstrap, without VirtualBox and without a mount. The same packages give the same bytes; environment
/// variable SOURCE_DATE_EPOCH sets the newest time on the disk, which otherwise is the date of the newest package. Debian 12 is built and
/// booted by our tests; Ubuntu 22.04's package names are known, but no disk of it has been built yet.
///
/// Another recipe makes another image beside it, in place: what was made from the one before keeps it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The recipe's digest. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub id: Attr<String>,
    /// `debian` or `ubuntu`.
    #[schemars(transform = attribute::optional_computed, extend("default" = "debian"))]
    pub distribution: Attr<Distribution>,
    /// Code name of the release, for example `bookworm` or `jammy`.
    #[schemars(transform = attribute::required)]
    pub suite: Attr<String>,
    /// `minbase` or `standard`: how much of the distribution is there before `packages` are added.
    #[schemars(transform = attribute::optional_computed, extend("default" = "minbase"))]
    pub variant: Attr<Variant>,
    /// Packages beyond those that every VM needs to boot, to be reached over SSH and to take a netplan.
    pub packages: Attr<Set<String>>,
    /// Accounts that every VM has.
    pub users: Attr<Vec<UserModel>>,
    /// Where packages come from while the image is built, as deb822 text: the machine's own apt sources if not set. URIs may be
    /// `copy:` or `file:` and the path of a local mirror, which takes no network, or `http:`. The image is built anew when this text
    /// changes, not when the mirror does: name a snapshot of it. `copy:` and `file:` need mmdebstrap.
    pub apt_sources: Attr<String>,
    /// What the image itself has as its only apt source, as deb822 text: none if not set.
    pub image_sources: Attr<String>,
    /// What the image is built into: `rootfs`, a directory that lab VMs start from; `ova`, a bootable disk as an appliance.
    #[schemars(transform = attribute::optional_computed, extend("default" = ["rootfs"]))]
    pub formats: Attr<Set<Format>>,
    /// Size of the bootable disk, in MiB. It takes no more room than its content; the first boot grows the root file system to it.
    #[schemars(transform = attribute::optional_computed, range(min = 2048, max = 2_097_152), extend("default" = DiskSpec::DEFAULT_SIZE_MIB))]
    pub disk_size_mib: Attr<u64>,
    /// The `content_digest` that the image must have. Another one is an error, and nothing is registered.
    pub checksum: Attr<String>,
    /// Where images are kept.
    #[schemars(transform = attribute::optional_computed, extend("default" = ondol_image::DEFAULT_CACHE_DIR))]
    pub cache_dir: Attr<String>,
    /// Remove the image from the cache on destroy. The cache is shared by all labs of the machine, and VMs made from
    /// the image need it for as long as they live; so it is kept by default. While a VM needs it, whichever lab it is in,
    /// destroy fails. Images of earlier recipes stay. Labs in directories that neither the provider's configuration nor the
    /// default names are not seen.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub purge_on_destroy: Attr<bool>,
    /// SHA-256 of what the recipe says. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub digest: Attr<String>,
    /// The image's root file system, if `formats` has `rootfs`. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub path: Attr<String>,
    /// The appliance, if `formats` has `ova`. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub ova_path: Attr<String>,
    /// Hexadecimal SHA-256 of the appliance.
    #[schemars(transform = attribute::computed)]
    pub ova_sha256: Attr<String>,
    /// The appliance's disk by itself, a stream-optimised VMDK, which QEMU reads too. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub disk_path: Attr<String>,
    /// `sha256:` and the digest of the names and versions of the packages installed: in the root file system, or in the bootable disk
    /// if that is all there is.
    #[schemars(transform = attribute::computed)]
    pub content_digest: Attr<String>,
    /// How many packages are installed, counted where `content_digest` is taken.
    #[schemars(transform = attribute::computed)]
    pub package_count: Attr<u64>,
    pub timeouts: Attr<Timeouts>,
}

/// What an image is built into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A directory that lab VMs start from.
    Rootfs,
    /// A bootable disk as an appliance.
    Ova,
}

/// An account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserModel {
    /// The user's name. The account has no password.
    #[schemars(transform = attribute::required)]
    pub name: Attr<String>,
    /// Whether the user may become root without a password.
    #[schemars(transform = attribute::optional_computed, extend("default" = false))]
    pub sudo: Attr<bool>,
    /// Public keys that may log in as the user.
    pub authorized_keys: Attr<Vec<String>>,
}

impl Model {
    /// The recipe; `None` while something in it is unknown.
    fn recipe(&self) -> Option<Recipe> {
        if self.packages.is_unknown()
            || self.users.is_unknown()
            || self.distribution.is_unknown()
            || self.variant.is_unknown()
            || self.apt_sources.is_unknown()
            || self.image_sources.is_unknown()
        {
            return None;
        }
        let distribution = self.distribution.unwrap_or(Distribution::Debian);
        let mut recipe = Recipe::base(distribution, self.suite.known()?);
        recipe.variant = self.variant.unwrap_or(Variant::Minbase);
        recipe
            .packages
            .extend(self.packages.known().into_iter().flatten().cloned());
        recipe.apt_sources = self.apt_sources.known().cloned();
        recipe.image_sources = self.image_sources.known().cloned();
        for user in self.users.known().into_iter().flatten() {
            if user.sudo.is_unknown() || user.authorized_keys.is_unknown() {
                return None;
            }
            recipe.users.push(User {
                name: user.name.known()?.clone(),
                sudo: user.sudo.unwrap_or(false),
                authorized_keys: user
                    .authorized_keys
                    .unwrap_or_default()
                    .iter()
                    .map(|key| key.trim().to_owned())
                    .collect(),
            });
        }
        Some(recipe)
    }

    /// `None` while it is unknown.
    fn wants(&self, format: Format) -> Option<bool> {
        if self.formats.is_unknown() {
            return None;
        }
        // A state from before there were formats had the root file system.
        Some(match self.formats.known() {
            Some(formats) => formats.iter().any(|wanted| *wanted == format),
            None => format == Format::Rootfs,
        })
    }

    /// The bootable disk; `None` while it is unknown.
    fn disk(&self) -> Option<DiskSpec> {
        (!self.disk_size_mib.is_unknown())
            .then(|| DiskSpec::new(self.disk_size_mib.unwrap_or(DiskSpec::DEFAULT_SIZE_MIB)))
    }

    fn cache_dir(&self) -> Option<PathBuf> {
        self.cache_dir.known().map(PathBuf::from)
    }

    fn with(mut self, built: &Built) -> Self {
        if let Some(image) = &built.image {
            self.path = image.rootfs.display().to_string().into();
        }
        if let Some(disk) = &built.disk {
            self.ova_path = disk.ova.display().to_string().into();
            self.ova_sha256 = disk.manifest.ova_sha256.clone().into();
            self.disk_path = disk.vmdk.display().to_string().into();
        }
        if let Some((content_digest, package_count)) = built.content() {
            self.content_digest = content_digest.into();
            self.package_count = package_count.into();
        }
        self
    }
}

/// What of an image is in the cache; all that is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
struct Built {
    image: Option<Image>,
    disk: Option<BootableDisk>,
}

impl Built {
    /// Content digest and number of packages.
    fn content(&self) -> Option<(String, u64)> {
        let of = |digest: &str, count: usize| (format!("sha256:{digest}"), count as u64);
        match (&self.image, &self.disk) {
            (Some(image), _) => Some(of(&image.content_digest, image.package_count)),
            (None, Some(disk)) => Some(of(
                &disk.manifest.content_digest,
                disk.manifest.packages.len(),
            )),
            (None, None) => None,
        }
    }

    /// `None` unless everything that the model asks for is there, or while that is unknown.
    fn find(model: &Model) -> Result<Option<Self>, Diagnostic> {
        let (Some(cache_dir), Some(recipe), Some(spec), Some(rootfs), Some(ova)) = (
            model.cache_dir(),
            model.recipe(),
            model.disk(),
            model.wants(Format::Rootfs),
            model.wants(Format::Ova),
        ) else {
            return Ok(None);
        };
        let mut built = Self::default();
        if rootfs {
            built.image = ondol_image::find(&cache_dir, &recipe.digest())
                .map_err(|error| image_error(&error))?;
        }
        if ova {
            built.disk = ondol_image::find_disk(&cache_dir, &spec.digest(&recipe))
                .map_err(|error| image_error(&error))?;
        }
        Ok((built.image.is_some() == rootfs && built.disk.is_some() == ova).then_some(built))
    }
}

fn image_path(cache_dir: &FilePath, digest: &str) -> PathBuf {
    cache_dir.join("images").join(digest)
}

pub struct GoldenImageResource;

impl Resource for GoldenImageResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_golden_image";
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(Duration::from_secs(30 * 60));

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let Some(recipe) = config.recipe()
            && let Err(error) = recipe.validate()
        {
            diagnostics.push(image_error(&error));
        }
        if let Some(checksum) = config.checksum.known()
            && !is_digest(checksum)
        {
            diagnostics.error(
                path!["checksum"],
                format!("{checksum:?} is not a checksum"),
                "Write \"sha256:\" and 64 hexadecimal digits, as content_digest shows them.",
            );
        }
        if config.formats.known().is_some_and(Set::is_empty) {
            diagnostics.error(
                path!["formats"],
                "formats is empty",
                "Write what the image is to be built into: \"rootfs\", \"ova\" or both.",
            );
        }
        if let Some(directory) = config.cache_dir.known()
            && !directory.starts_with('/')
        {
            diagnostics.error(
                path!["cache_dir"],
                "cache_dir is not an absolute path",
                "Write the path from the root.",
            );
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
        _: &Operation<Cloud>,
        _: Option<&Model>,
        mut planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        // An image that the cache has needs no guessing.
        if let Some(built) = Built::find(&planned.model)? {
            check(&planned.model, &built)?;
            planned.model = planned.model.with(&built);
        }
        Ok(planned)
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let unknown =
            |what: &str, at: Path| Diagnostic::error(format!("{what} is not known")).at(at);
        let recipe = planned
            .recipe()
            .ok_or_else(|| unknown("The recipe", path!["suite"]))?;
        let disk = planned
            .disk()
            .ok_or_else(|| unknown("The size of the disk", path!["disk_size_mib"]))?;
        let order = Order {
            recipe,
            cache_dir: PathBuf::from(planned.cache_dir.require(path!["cache_dir"])?),
            rootfs: planned.wants(Format::Rootfs).unwrap_or(false),
            disk: planned.wants(Format::Ova).unwrap_or(false).then_some(disk),
        };
        let built = build(cx, order).await?;
        check(&planned, &built)?;
        Ok(planned.with(&built))
    }

    async fn read(_: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        Ok(observe(state)?)
    }

    /// Never a replacement: that would begin by destroying an image which VMs need. The one before stays in the cache.
    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        config: &Model,
    ) -> Result<Model, Failure<Model>> {
        if (&prior.path, &prior.ova_path) != (&planned.path, &planned.ova_path) {
            return Self::create(cx, planned, config).await;
        }
        check_content(
            &planned,
            prior.content_digest.require(path!["content_digest"])?,
        )?;
        Ok(Model {
            content_digest: prior.content_digest,
            package_count: prior.package_count,
            ova_sha256: prior.ova_sha256,
            ..planned
        })
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        if state.purge_on_destroy != true.into() {
            return Ok(());
        }
        let cache_dir = PathBuf::from(state.cache_dir.require(path!["cache_dir"])?);
        let directory = image_path(&cache_dir, state.digest.require(path!["digest"])?);
        // An import copies the disk, so that nothing needs this one afterwards.
        let disk = state
            .ova_path
            .known()
            .and_then(|ova| FilePath::new(ova).parent());
        let disk = disk.map(FilePath::to_owned);
        let state_dirs = cx.context().state_dirs();
        let removal = tokio::task::spawn_blocking(move || {
            purge(&directory, &state_dirs)?;
            disk.map_or(Ok(()), |disk| remove(&disk))
        })
        .await;
        removal
            .unwrap_or_else(|error| Err(error.to_string()))
            .map_err(|words| {
                Diagnostic::error("The image could not be removed from the cache")
                    .detail(words)
                    .at(path!["purge_on_destroy"])
            })?;
        Ok(())
    }
}

/// Digest and paths follow from the recipe alone; the content only from a build.
fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
    let recipe = planned.recipe();
    let digest: Attr<String> = recipe
        .as_ref()
        .map_or(Attr::Unknown, |recipe| recipe.digest().into());
    planned.id = digest.clone();
    planned.digest = digest;
    let shown = |path: PathBuf| Attr::from(path.display().to_string());
    planned.path = match (planned.wants(Format::Rootfs), planned.cache_dir(), &recipe) {
        (Some(false), _, _) => Attr::Null,
        (Some(true), Some(cache_dir), Some(recipe)) => {
            shown(image_path(&cache_dir, &recipe.digest()).join("rootfs"))
        }
        _ => Attr::Unknown,
    };
    (planned.ova_path, planned.disk_path) = match (
        planned.wants(Format::Ova),
        planned.cache_dir(),
        &recipe,
        planned.disk(),
    ) {
        (Some(false), ..) => (Attr::Null, Attr::Null),
        (Some(true), Some(cache_dir), Some(recipe), Some(disk)) => {
            let (ova, vmdk) = ondol_image::disk_paths(&cache_dir, recipe, &disk.digest(recipe));
            (shown(ova), shown(vmdk))
        }
        _ => (Attr::Unknown, Attr::Unknown),
    };
    // The same recipe may have become something else in another cache.
    let same = |path: fn(&Model) -> &Attr<String>| {
        let here = path(&planned);
        prior.filter(|prior| here.known().is_some() && path(prior) == here)
    };
    let same_ova = same(|model| &model.ova_path);
    let same_content = match planned.wants(Format::Rootfs) {
        Some(true) => same(|model| &model.path),
        // Beside a root file system the content was that one's.
        _ => same_ova.filter(|prior| prior.path.known().is_none()),
    };
    planned.ova_sha256 = match (planned.wants(Format::Ova), same_ova) {
        (Some(false), _) => Attr::Null,
        (_, Some(prior)) => prior.ova_sha256.clone(),
        _ => Attr::Unknown,
    };
    (planned.content_digest, planned.package_count) = same_content
        .map_or((Attr::Unknown, Attr::Unknown), |prior| {
            (prior.content_digest.clone(), prior.package_count)
        });
    planned
}

/// Gone if any of what the state has is gone: then it is made again.
fn observe(state: Model) -> Result<Option<Model>, Diagnostic> {
    let cache_dir = PathBuf::from(state.cache_dir.require(path!["cache_dir"])?);
    let mut built = Built::default();
    if state.path.known().is_some() {
        let digest = state.digest.require(path!["digest"])?;
        built.image = ondol_image::find(&cache_dir, digest).map_err(|error| image_error(&error))?;
        if built.image.is_none() {
            return Ok(None);
        }
    }
    if let Some(ova) = state.ova_path.known() {
        let digest = FilePath::new(ova)
            .parent()
            .and_then(FilePath::file_name)
            .map(|name| name.to_string_lossy().into_owned());
        built.disk = ondol_image::find_disk(&cache_dir, &digest.unwrap_or_default())
            .map_err(|error| image_error(&error))?;
        if built.disk.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(state.with(&built)))
}

fn check(model: &Model, built: &Built) -> Result<(), Diagnostic> {
    built
        .content()
        .map_or(Ok(()), |(found, _)| check_content(model, &found))
}

fn check_content(model: &Model, found: &str) -> Result<(), Diagnostic> {
    let Some(pinned) = model.checksum.known() else {
        return Ok(());
    };
    let bare = |text: &str| {
        text.strip_prefix("sha256:")
            .unwrap_or(text)
            .to_ascii_lowercase()
    };
    if bare(pinned) == bare(found) {
        return Ok(());
    }
    Err(Diagnostic::error("The image is not the one that is pinned")
        .detail(format!(
            "checksum is {pinned}, but the packages installed have {found}. The apt sources have changed since it was pinned, or it \
             was pinned for another recipe. Nothing was registered. Set checksum to the new digest if the change is wanted."
        ))
        .at(path!["checksum"]))
}

fn is_digest(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit())
}

fn image_error(error: &ondol_image::Error) -> Diagnostic {
    let detail = sentence(&error.to_string());
    match error {
        ondol_image::Error::InvalidRecipe { field, reason } => {
            let at = recipe_path(field);
            Diagnostic::error(format!("{at} is not possible"))
                .detail(format!("{field}: {reason}."))
                .at(at)
        }
        ondol_image::Error::UnknownSuite { .. } => {
            Diagnostic::error("The apt sources do not have this suite")
                .detail(detail)
                .at(path!["suite"])
        }
        ondol_image::Error::DiskSize { .. } => Diagnostic::error("The disk cannot have this size")
            .detail(detail)
            .at(path!["disk_size_mib"]),
        ondol_image::Error::Architecture { .. } => {
            Diagnostic::error("A bootable disk cannot be made here")
                .detail(detail)
                .at(path!["formats"])
        }
        _ => Diagnostic::error("The golden image could not be made").detail(detail),
    }
}

/// `users[0].name` as a path. Packages are a set, whose elements have no place.
fn recipe_path(field: &str) -> Path {
    let mut at = Path::root();
    for part in field.split('.') {
        let (name, index) = part.split_once('[').unwrap_or((part, ""));
        at = at.child(name);
        if name == "packages" {
            return at;
        }
        if let Ok(index) = index.trim_end_matches(']').parse::<usize>() {
            at = at.child(index);
        }
    }
    at
}

/// What is to be built.
struct Order {
    recipe: Recipe,
    cache_dir: PathBuf,
    rootfs: bool,
    disk: Option<DiskSpec>,
}

impl Order {
    fn build(
        &self,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> ondol_image::Result<Built> {
        let image = if self.rootfs {
            Some(ondol_image::build(&self.recipe, &self.cache_dir, progress)?)
        } else {
            None
        };
        let disk = match &self.disk {
            Some(disk) => Some(ondol_image::build_disk(
                &self.recipe,
                disk,
                &self.cache_dir,
                progress,
            )?),
            None => None,
        };
        Ok(Built { image, disk })
    }
}

/// Builds on a blocking thread, which asks several times a second whether to go on.
async fn build(cx: &Operation<Cloud>, order: Order) -> Result<Built, Diagnostic> {
    let (stop, deadline): (CancellationToken, Option<Instant>) = (cx.stop().clone(), cx.deadline());
    let task = tokio::task::spawn_blocking(move || {
        order.build(&mut |progress: Progress| {
            if let Some(news) = progress.news {
                tracing::info!(seconds = progress.elapsed.as_secs(), "golden image: {news}");
            }
            if stop.is_cancelled() || deadline.is_some_and(|deadline| Instant::now() > deadline) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
    });
    match task.await {
        Ok(Ok(built)) => Ok(built),
        Ok(Err(ondol_image::Error::Cancelled { .. })) => {
            cx.sleep(Duration::ZERO).await?;
            Err(Diagnostic::error(
                "The build of the golden image was stopped",
            ))
        }
        Ok(Err(error)) => Err(image_error(&error)),
        Err(error) => Err(
            Diagnostic::error("The build of the golden image ended early")
                .detail(error.to_string()),
        ),
    }
}

/// How many VMs a refusal to purge names.
const USERS_SHOWN: usize = 5;

/// Removes an image, unless a VM needs it: one of a lab below one of `state_dirs`, or any that runs.
fn purge(directory: &FilePath, state_dirs: &BTreeSet<PathBuf>) -> Result<(), String> {
    let mut users = Vec::new();
    for state_dir in state_dirs {
        users.extend(lab::vms_made_from(directory, state_dir)?);
    }
    if !users.is_empty() {
        let shown = users.len().min(USERS_SHOWN);
        let more = match users.len() - shown {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        return Err(format!(
            "{} is what the disks of these VMs were made from: {}{more}. Destroy them first, or set purge_on_destroy = false and apply \
             that, which keeps the image in the cache.",
            directory.display(),
            users[..shown].join(", ")
        ));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("read the mounts: {error}"))?;
    if is_mounted(directory, &mounts) {
        return Err(format!(
            "{} is mounted by a running VM. Destroy the VMs that were made from it, or set purge_on_destroy = false.",
            directory.display()
        ));
    }
    remove(directory)
}

fn remove(directory: &FilePath) -> Result<(), String> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn is_mounted(directory: &FilePath, mountinfo: &str) -> bool {
    mountinfo.contains(&format!("{}/", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            distribution: Distribution::Debian.into(),
            suite: "bookworm".into(),
            variant: Variant::Minbase.into(),
            packages: Set(vec!["nginx".to_owned()]).into(),
            cache_dir: "/cache".into(),
            purge_on_destroy: false.into(),
            formats: Set(vec![Format::Rootfs]).into(),
            disk_size_mib: DiskSpec::DEFAULT_SIZE_MIB.into(),
            ..Model::default()
        }
    }

    #[test]
    fn digest_and_path_are_known_while_planning() {
        let planned = plan(None, model());
        let digest = planned.digest.as_str().unwrap().to_owned();
        assert_eq!(
            planned.path,
            format!("/cache/images/{digest}/rootfs").into()
        );
        assert_eq!(
            (
                planned.content_digest.is_unknown(),
                planned.package_count.is_unknown()
            ),
            (true, true)
        );
        let unknown = plan(
            None,
            Model {
                packages: Attr::Unknown,
                ..model()
            },
        );
        assert_eq!(
            (unknown.path.is_unknown(), unknown.id.is_unknown()),
            (true, true)
        );
    }

    #[test]
    fn a_new_pin_leaves_the_content_known() {
        let prior = Model {
            content_digest: "sha256:aa".into(),
            package_count: 9.into(),
            ..plan(None, model())
        };
        let pinned = plan(
            Some(&prior),
            Model {
                checksum: "sha256:aa".into(),
                ..model()
            },
        );
        assert_eq!(
            (pinned.content_digest, pinned.package_count),
            (prior.content_digest.clone(), prior.package_count)
        );
        let other = plan(
            Some(&prior),
            Model {
                suite: "trixie".into(),
                ..model()
            },
        );
        assert_eq!(other.content_digest, Attr::Unknown);
        let elsewhere = plan(
            Some(&prior),
            Model {
                cache_dir: "/other".into(),
                ..model()
            },
        );
        assert_eq!(
            (elsewhere.digest, elsewhere.package_count),
            (prior.digest, Attr::Unknown)
        );
    }

    #[test]
    fn a_state_of_another_digest_promises_nothing_about_the_content() {
        let prior = Model {
            id: "0".into(),
            digest: "0".into(),
            path: "/cache/images/0/rootfs".into(),
            content_digest: "sha256:aa".into(),
            package_count: 9.into(),
            ..model()
        };
        let planned = plan(Some(&prior), prior.clone());
        assert_eq!(planned.digest, plan(None, model()).digest);
        assert_eq!(
            (planned.content_digest, planned.package_count),
            (Attr::Unknown, Attr::Unknown)
        );
    }

    fn appliance() -> Model {
        Model {
            formats: Set(vec![Format::Ova]).into(),
            disk_size_mib: 4096.into(),
            ..model()
        }
    }

    #[test]
    fn an_image_has_the_paths_of_the_formats_asked_for() {
        let rootfs = plan(None, model());
        assert_eq!(
            (&rootfs.ova_path, &rootfs.ova_sha256, &rootfs.disk_path),
            (&Attr::Null, &Attr::Null, &Attr::Null)
        );
        let ova = plan(None, appliance());
        assert_eq!(ova.path, Attr::Null);
        let path = ova.ova_path.as_str().unwrap();
        assert!(
            path.starts_with("/cache/disks/") && path.ends_with("/ondol-debian-bookworm.ova"),
            "{path}"
        );
        assert_eq!(ova.disk_path, path.replace(".ova", ".vmdk").into());
        assert_eq!(
            (&ova.ova_sha256, &ova.package_count),
            (&Attr::Unknown, &Attr::Unknown)
        );

        let both = Set(vec![Format::Ova, Format::Rootfs]);
        let both = plan(
            None,
            Model {
                formats: both.into(),
                ..appliance()
            },
        );
        assert_eq!(
            (both.path, both.ova_path),
            (rootfs.path, ova.ova_path.clone())
        );
        let larger = plan(
            None,
            Model {
                disk_size_mib: 8192.into(),
                ..appliance()
            },
        );
        assert_eq!(larger.digest, ova.digest);
        assert_ne!(larger.ova_path, ova.ova_path);
        let unknown = plan(
            None,
            Model {
                formats: Attr::Unknown,
                ..appliance()
            },
        );
        assert_eq!(
            (unknown.path, unknown.ova_path, unknown.ova_sha256),
            (Attr::Unknown, Attr::Unknown, Attr::Unknown)
        );
    }

    #[test]
    fn what_is_known_of_an_appliance_stays_known() {
        let prior = Model {
            ova_sha256: "0a".into(),
            content_digest: "sha256:aa".into(),
            package_count: 9.into(),
            ..plan(None, appliance())
        };
        assert_eq!(plan(Some(&prior), appliance()), prior);
        // Beside a root file system the content digest is that one's, which nobody has seen yet.
        let both = Set(vec![Format::Ova, Format::Rootfs]);
        let both = plan(
            Some(&prior),
            Model {
                formats: both.into(),
                ..appliance()
            },
        );
        assert_eq!(
            (both.ova_sha256, both.content_digest),
            ("0a".into(), Attr::Unknown)
        );
    }

    #[test]
    fn sources_are_part_of_the_recipe() {
        let sources = "Types: deb\nURIs: copy:/srv/mirror\nSuites: bookworm\nComponents: main\n";
        let own = plan(
            None,
            Model {
                apt_sources: sources.into(),
                ..model()
            },
        );
        assert_ne!(own.digest, plan(None, model()).digest);
        let unknown = plan(
            None,
            Model {
                image_sources: Attr::Unknown,
                ..model()
            },
        );
        assert_eq!(unknown.digest, Attr::Unknown);
        let mut diagnostics = Diagnostics::new();
        let wrong = Model {
            apt_sources: "deb http://m bookworm main".into(),
            ..model()
        };
        GoldenImageResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics.iter().map(|d| d.path.to_string()).collect();
        assert_eq!(paths, ["apt_sources"]);
    }

    #[test]
    fn a_wrong_pin_names_both_digests() {
        let pinned = Model {
            checksum: "sha256:AB".into(),
            ..model()
        };
        assert_eq!(check_content(&pinned, "sha256:ab"), Ok(()));
        let error = check_content(&pinned, "sha256:cd").unwrap_err();
        assert_eq!(error.path, path!["checksum"]);
        assert!(
            error.detail.contains("sha256:AB") && error.detail.contains("sha256:cd"),
            "{}",
            error.detail
        );
    }

    #[test]
    fn a_bad_recipe_names_its_attribute() {
        let mut wrong = model();
        wrong.users = vec![UserModel {
            name: "Root".into(),
            ..UserModel::default()
        }]
        .into();
        wrong.checksum = "md5:1".into();
        wrong.formats = Set(Vec::new()).into();
        let mut diagnostics = Diagnostics::new();
        GoldenImageResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| diagnostic.path.to_string())
            .collect();
        assert_eq!(paths, ["users[0].name", "checksum", "formats"]);
        assert_eq!(recipe_path("packages[3]"), path!["packages"]);
        assert_eq!(
            recipe_path("users[1].authorized_keys[0]"),
            path!["users", 1usize, "authorized_keys", 0usize]
        );
    }

    #[test]
    fn an_image_under_a_running_vm_is_seen() {
        let mounts =
            "36 35 98:0 / /vm rw - overlay overlay rw,lowerdir=/cache/images/ab/rootfs,upperdir=/u";
        assert!(is_mounted(FilePath::new("/cache/images/ab"), mounts));
        assert!(!is_mounted(FilePath::new("/cache/images/a"), mounts));
    }
}
