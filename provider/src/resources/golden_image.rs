//! `ondol_golden_image`: one recipe, built into a root file system that every VM starts from.
//!
//! Building is `ondol_image`'s; here is when, and what Terraform sees of it. The .ova half for VirtualBox is not here yet.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant};

use ondol_image::{Distribution, Image, Progress, Recipe, User, Variant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, CancellationToken, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Path,
    Planned, Resource, Set, Timeouts, attribute, path,
};

use crate::config::Cloud;
use crate::diagnostics::sentence;
use crate::engines::lab;

/// A golden image: a recipe of packages and users, built once from this machine's apt sources and kept in a cache.
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
    /// The image's root file system. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub path: Attr<String>,
    /// `sha256:` and the digest of the names and versions of the packages installed.
    #[schemars(transform = attribute::computed)]
    pub content_digest: Attr<String>,
    /// How many packages are installed.
    #[schemars(transform = attribute::computed)]
    pub package_count: Attr<u64>,
    pub timeouts: Attr<Timeouts>,
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
        {
            return None;
        }
        let distribution = self.distribution.unwrap_or(Distribution::Debian);
        let mut recipe = Recipe::base(distribution, self.suite.known()?);
        recipe.variant = self.variant.unwrap_or(Variant::Minbase);
        recipe
            .packages
            .extend(self.packages.known().into_iter().flatten().cloned());
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

    fn cache_dir(&self) -> Option<PathBuf> {
        self.cache_dir.known().map(PathBuf::from)
    }

    fn with_image(mut self, image: &Image) -> Self {
        self.id = image.digest.clone().into();
        self.digest = image.digest.clone().into();
        self.path = image.rootfs.display().to_string().into();
        self.content_digest = content(image).into();
        self.package_count = (image.package_count as u64).into();
        self
    }
}

fn content(image: &Image) -> String {
    format!("sha256:{}", image.content_digest)
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
        if let (Some(cache_dir), Some(digest)) =
            (planned.model.cache_dir(), planned.model.digest.known())
        {
            let found =
                ondol_image::find(&cache_dir, digest).map_err(|error| image_error(&error))?;
            if let Some(image) = found {
                check(&planned.model, &content(&image))?;
                planned.model = planned.model.with_image(&image);
            }
        }
        Ok(planned)
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let recipe = planned
            .recipe()
            .ok_or_else(|| Diagnostic::error("The recipe is not known").at(path!["suite"]))?;
        let cache_dir = PathBuf::from(planned.cache_dir.require(path!["cache_dir"])?);
        let image = build(cx, recipe, cache_dir).await?;
        check(&planned, &content(&image))?;
        Ok(planned.with_image(&image))
    }

    async fn read(_: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let cache_dir = PathBuf::from(state.cache_dir.require(path!["cache_dir"])?);
        let digest = state.digest.require(path!["digest"])?;
        let found = ondol_image::find(&cache_dir, digest).map_err(|error| image_error(&error))?;
        Ok(found.map(|image| state.with_image(&image)))
    }

    /// Never a replacement: that would begin by destroying an image which VMs need. The one before stays in the cache.
    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        config: &Model,
    ) -> Result<Model, Failure<Model>> {
        if prior.path != planned.path {
            return Self::create(cx, planned, config).await;
        }
        check(
            &planned,
            prior.content_digest.require(path!["content_digest"])?,
        )?;
        Ok(Model {
            content_digest: prior.content_digest,
            package_count: prior.package_count,
            ..planned
        })
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        if state.purge_on_destroy != true.into() {
            return Ok(());
        }
        let cache_dir = PathBuf::from(state.cache_dir.require(path!["cache_dir"])?);
        let directory = image_path(&cache_dir, state.digest.require(path!["digest"])?);
        let state_dirs = cx.context().state_dirs();
        let removal = tokio::task::spawn_blocking(move || purge(&directory, &state_dirs)).await;
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

/// Digest and path follow from the recipe alone; the content only from a build.
fn plan(prior: Option<&Model>, mut planned: Model) -> Model {
    let digest = planned.recipe().map(|recipe| recipe.digest());
    match (&digest, planned.cache_dir()) {
        (Some(digest), Some(cache_dir)) => {
            planned.id = digest.clone().into();
            planned.digest = digest.clone().into();
            planned.path = image_path(&cache_dir, digest)
                .join("rootfs")
                .display()
                .to_string()
                .into();
        }
        _ => {
            planned.id = Attr::Unknown;
            planned.digest = Attr::Unknown;
            planned.path = Attr::Unknown;
        }
    }
    // The same recipe may have become something else in another cache.
    let same = |prior: &&Model| prior.path.known().is_some() && prior.path == planned.path;
    if let Some(prior) = prior.filter(same) {
        planned.content_digest = prior.content_digest.clone();
        planned.package_count = prior.package_count;
    } else {
        planned.content_digest = Attr::Unknown;
        planned.package_count = Attr::Unknown;
    }
    planned
}

fn check(model: &Model, found: &str) -> Result<(), Diagnostic> {
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

/// Builds on a blocking thread, which asks several times a second whether to go on.
async fn build(
    cx: &Operation<Cloud>,
    recipe: Recipe,
    cache_dir: PathBuf,
) -> Result<Image, Diagnostic> {
    let (stop, deadline): (CancellationToken, Option<Instant>) = (cx.stop().clone(), cx.deadline());
    let task = tokio::task::spawn_blocking(move || {
        ondol_image::build(&recipe, &cache_dir, &mut |progress: Progress| {
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
        Ok(Ok(image)) => Ok(image),
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

    #[test]
    fn a_wrong_pin_names_both_digests() {
        let pinned = Model {
            checksum: "sha256:AB".into(),
            ..model()
        };
        assert_eq!(check(&pinned, "sha256:ab"), Ok(()));
        let error = check(&pinned, "sha256:cd").unwrap_err();
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
        let mut diagnostics = Diagnostics::new();
        GoldenImageResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics
            .iter()
            .map(|diagnostic| diagnostic.path.to_string())
            .collect();
        assert_eq!(paths, ["users[0].name", "checksum"]);
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
