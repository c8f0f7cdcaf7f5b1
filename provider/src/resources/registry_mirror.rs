//! `ondol_registry_mirror`: container images from other registries, kept as an OCI image layout, put into a local registry, or both.
//!
//! Fetching and pushing are `ondol_mirror::registry`; here is what Terraform sees of it, and when a tag is looked up again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};

use ondol_mirror::CancellationToken;
use ondol_mirror::registry::{
    self, AuthFile, Config, Digest, Image, LocalName, Observed, Platform, Reference,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Key, Operation, Planned, Resource,
    Set, Timeouts, attribute, path,
};

use crate::config::Cloud;
use crate::diagnostics::{complain, sentence};
use crate::mirror::{self, Refresh};

const KIND: &str = "registry";

/// Container images by tag or digest, with every platform or the chosen ones, kept as an OCI image layout, put into a local registry, or
/// both.
///
/// Every manifest and layer is verified by its digest. What the cache or the layout has is not fetched again, and what the local registry
/// has is not pushed again. A tag means what it meant when it was mirrored: with `refresh = "on_change"` it is looked up again only if
/// its `source` or `platforms` change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The layout's directory, or the local registry and the mirror's name.
    #[schemars(transform = attribute::computed)]
    pub id: Attr<String>,
    /// The mirror's name.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub name: Attr<String>,
    /// The directory that a web server shows: the images are kept below it in `registry/NAME`, an OCI image layout. At least one of `path`
    /// and `push` is needed.
    #[schemars(transform = attribute::requires_replace)]
    pub path: Attr<String>,
    /// The local registry that the images are pushed to: a host name or address, with its port. What was pushed stays there when an image
    /// is no longer wanted.
    pub push: Attr<String>,
    /// The images, by what they are called in the mirror: `repository:tag`.
    #[schemars(transform = attribute::required)]
    pub images: Attr<BTreeMap<String, ImageModel>>,
    /// Registries that are asked over plain http, whether images come from there or go there. All others need TLS.
    pub plain_http: Attr<Set<String>>,
    /// Credentials as `skopeo login`, `podman login` and `docker login` write them. Default: where these commands look,
    /// `REGISTRY_AUTH_FILE` first. Only the path is in the state.
    pub auth_file: Attr<String>,
    /// `on_change`: a tag is looked up again when its image is changed here. `always`: at each plan, which then needs the upstream
    /// registries, and shows a tag that has moved.
    #[schemars(transform = attribute::optional_computed, extend("default" = "on_change"))]
    pub refresh: Attr<Refresh>,
    /// Where downloads are kept for all mirrors of the machine.
    #[schemars(transform = attribute::optional_computed, extend("default" = ondol_image::DEFAULT_CACHE_DIR))]
    pub cache_dir: Attr<String>,
    /// Digest of each image in the mirror. It is upstream's, unless `platforms` leave something out.
    #[schemars(transform = attribute::computed)]
    pub digests: Attr<BTreeMap<String, Attr<String>>>,
    /// Digest that each image had upstream.
    #[schemars(transform = attribute::computed)]
    pub source_digests: Attr<BTreeMap<String, Attr<String>>>,
    /// How a container engine names each image: the local registry, the repository and the digest. Null without `push`.
    #[schemars(transform = attribute::computed)]
    pub references: Attr<BTreeMap<String, Attr<String>>>,
    /// Size of all manifests and layers, each counted once.
    #[schemars(transform = attribute::computed)]
    pub size_bytes: Attr<u64>,
    /// Images that are not whole or not where they belong, and why. Empty when all is well.
    #[schemars(transform = attribute::computed)]
    pub drift: Attr<Vec<String>>,
    pub timeouts: Attr<Timeouts>,
}

/// An image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageModel {
    /// Registry, repository, and tag or digest: `registry.example/team/app:1.0` or `registry.example/team/app@sha256:...`. The registry is
    /// the host that answers its API. No registry and no tag is a default.
    #[schemars(transform = attribute::required)]
    pub source: Attr<String>,
    /// Platforms to mirror, such as `linux/amd64` and `linux/arm/v7`. Default: all. With fewer than the image has, the mirror's index has
    /// a digest of its own.
    pub platforms: Attr<Set<String>>,
}

type Digests = BTreeMap<String, Attr<String>>;

impl Model {
    fn directory(&self) -> Option<PathBuf> {
        mirror::directory(&self.path, KIND, &self.name)
    }

    /// What `ondol_mirror` is asked for; images that are known by a digest already are asked for by that.
    fn config(&self) -> Result<Config, Diagnostic> {
        let pinned = self.source_digests.known();
        let mut images = BTreeMap::new();
        for (name, image) in self.images.require(path!["images"])? {
            let at = path!["images", Key(name)];
            let wrong = |error: String| Diagnostic::error(error).at(at.clone());
            let mut source: Reference = (image.source.require(at.child("source"))?.parse())
                .map_err(|error: registry::InvalidReference| wrong(error.to_string()))?;
            if let Some(digest) = pinned.and_then(|pinned| pinned.get(name)?.known()) {
                source.digest = Some(
                    (digest.parse())
                        .map_err(|error: registry::InvalidReference| wrong(error.to_string()))?,
                );
            }
            let platforms = image.platforms.known().into_iter().flatten();
            let platforms: Result<Vec<Platform>, _> = platforms.map(|text| text.parse()).collect();
            let platforms =
                platforms.map_err(|error: registry::InvalidPlatform| wrong(error.to_string()))?;
            let name: LocalName = (name.parse())
                .map_err(|error: registry::InvalidReference| wrong(error.to_string()))?;
            images.insert(name, Image { source, platforms });
        }
        Ok(Config {
            images,
            layout: self.directory(),
            push: self.push.known().cloned(),
            plain_http: (self.plain_http.known().into_iter().flatten().cloned()).collect(),
            auth: auth(self.auth_file.as_str())?,
        })
    }

    /// With what follows from the rest.
    fn derived(mut self) -> Self {
        self.id = match (&self.path, &self.push, &self.name) {
            (Attr::Unknown, ..) | (_, Attr::Unknown, _) | (_, _, Attr::Unknown) => Attr::Unknown,
            (Attr::Null, push, name) => {
                format!("{}/{}", push.unwrap_or_default(), name.unwrap_or_default()).into()
            }
            _ => (self
                .directory()
                .map(|directory| directory.display().to_string()))
            .into(),
        };
        self.references = match (&self.push, &self.digests) {
            (Attr::Null, _) => Attr::Null,
            (Attr::Known(registry), Attr::Known(digests)) => {
                let references = digests.iter().map(|(name, digest)| {
                    let repository = name.split(':').next().unwrap_or(name);
                    let reference = |digest: &String| format!("{registry}/{repository}@{digest}");
                    (name.clone(), digest.as_ref().map(reference))
                });
                references.collect::<Digests>().into()
            }
            _ => Attr::Unknown,
        };
        self
    }
}

/// The credentials of a file that is named, or else of the first one that there is. None at all is none.
fn auth(file: Option<&str>) -> Result<AuthFile, Diagnostic> {
    let usual = || {
        let below = |variable: &str, rest: &str| {
            let directory = std::env::var_os(variable).filter(|value| !value.is_empty())?;
            Some(FilePath::new(&directory).join(rest))
        };
        let places = [
            below("REGISTRY_AUTH_FILE", ""),
            below("XDG_RUNTIME_DIR", "containers/auth.json"),
            below("DOCKER_CONFIG", "config.json"),
            below("HOME", ".docker/config.json"),
        ];
        places.into_iter().flatten().find(|path| path.is_file())
    };
    let Some(path) = file.map(PathBuf::from).or_else(usual) else {
        return Ok(AuthFile::default());
    };
    registry::read_auth_file(&path).map_err(|error| {
        Diagnostic::error("The registries' credentials cannot be read")
            .detail(sentence(&error.to_string()))
            .at(path!["auth_file"])
    })
}

/// What upstream's digest of an image is, as far as it can be told without asking: named in the configuration, or known from before and
/// nothing about it changed.
fn pin(name: &str, image: &ImageModel, prior: Option<&Model>) -> Attr<String> {
    let named = image
        .source
        .as_str()
        .and_then(|text| text.parse::<Reference>().ok()?.digest);
    if let Some(digest) = named {
        return digest.to_string().into();
    }
    let known = prior.and_then(|prior| {
        let same = prior.images.known()?.get(name) == Some(image);
        let digest = prior.source_digests.known()?.get(name)?;
        same.then(|| digest.clone())
    });
    known.filter(Attr::is_known).unwrap_or(Attr::Unknown)
}

/// The mirror's digest of an image, as far as it follows from upstream's.
fn mirrored(
    name: &str,
    image: &ImageModel,
    source: &Attr<String>,
    prior: Option<&Model>,
) -> Attr<String> {
    if image.platforms.known().is_none_or(Set::is_empty) && !image.platforms.is_unknown() {
        return source.clone();
    }
    let known = prior.and_then(|prior| {
        let same = prior.images.known()?.get(name) == Some(image)
            && prior.source_digests.known()?.get(name) == Some(source);
        same.then(|| prior.digests.known()?.get(name).cloned())?
    });
    known.unwrap_or(Attr::Unknown)
}

/// Pure. `moved`: images whose tag means something else by now. What it means at the time of the apply is what will be mirrored.
fn plan(prior: Option<&Model>, mut planned: Model, moved: &BTreeSet<String>) -> Model {
    let Some(images) = planned.images.known() else {
        planned.digests = Attr::Unknown;
        planned.source_digests = Attr::Unknown;
        planned.size_bytes = Attr::Unknown;
        return planned.derived();
    };
    let sources: Digests = images
        .iter()
        .map(|(name, image)| {
            let source = match moved.contains(name) {
                true => Attr::Unknown,
                false => pin(name, image, prior),
            };
            (name.clone(), source)
        })
        .collect();
    let digests: Digests = images
        .iter()
        .map(|(name, image)| (name.clone(), mirrored(name, image, &sources[name], prior)))
        .collect();
    planned.digests = digests.into();
    planned.source_digests = sources.into();
    planned.drift = Vec::new().into();
    let same = |prior: &&Model| prior.digests == planned.digests;
    planned.size_bytes = prior
        .filter(same)
        .map_or(Attr::Unknown, |prior| prior.size_bytes);
    planned.derived()
}

/// The state with what was found: images that are not whole, or elsewhere something else, are not there.
fn found(
    mut state: Model,
    layout: Option<&Observed>,
    pushed: Option<&BTreeMap<LocalName, Digest>>,
) -> Model {
    let mut drift = Vec::new();
    let mut digests = state.digests.unwrap_or_default();
    digests.retain(|name, digest| {
        let (Ok(local), Some(digest)) = (name.parse::<LocalName>(), digest.known()) else {
            return false;
        };
        let mut problems = Vec::new();
        if let Some(layout) = layout {
            match layout.images.get(&local) {
                None => problems.push("it is not in the layout".to_owned()),
                Some(there) if there.to_string() != *digest => {
                    problems.push(format!("the layout has {there}"));
                }
                Some(_) => problems.extend(layout.damaged.get(&local).cloned()),
            }
        }
        if let Some(pushed) = pushed {
            match pushed.get(&local) {
                None => problems.push("it is not in the local registry".to_owned()),
                Some(there) if there.to_string() != *digest => {
                    problems.push(format!("the local registry has {there}"));
                }
                Some(_) => {}
            }
        }
        drift.extend(problems.iter().map(|problem| format!("{name}: {problem}")));
        problems.is_empty()
    });
    state.digests = digests.into();
    state.drift = drift.into();
    state.derived()
}

pub struct RegistryMirrorResource;

impl Resource for RegistryMirrorResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_registry_mirror";
    const IMPORT_ID: Option<&'static str> = Some("PATH/registry/NAME");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(mirror::TIMEOUT);

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        mirror::check_name(&config.name, diagnostics);
        mirror::check_absolute(&config.path, path!["path"], diagnostics);
        mirror::check_absolute(&config.cache_dir, path!["cache_dir"], diagnostics);
        if config.path.is_null() && config.push.is_null() {
            diagnostics.push(Diagnostic::error("The mirror has no place").detail(
                "Set path to keep the images in a directory, push to put them into a registry, or both.",
            ));
        }
        let hosts = config.push.known().map(|host| (path!["push"], host));
        let plain = config.plain_http.known().into_iter().flatten();
        let hosts = hosts
            .into_iter()
            .chain(plain.map(|host| (path!["plain_http"], host)));
        for (at, host) in hosts {
            if !registry::is_registry(host) {
                diagnostics.error(
                    at,
                    format!("{host:?} is not a registry"),
                    "Write a host name or an address, with a port where it is not the usual one, and nothing else: \"registry.example:5000\".",
                );
            }
        }
        for (name, image) in config.images.known().into_iter().flatten() {
            let at = path!["images", Key(name)];
            if let Err(error) = name.parse::<LocalName>() {
                complain(
                    diagnostics,
                    at.clone(),
                    "An image cannot have this name",
                    sentence(&error.to_string()),
                );
            }
            if let Some(Err(error)) = image.source.known().map(|text| text.parse::<Reference>()) {
                complain(
                    diagnostics,
                    at.child("source"),
                    "This names no image",
                    sentence(&error.to_string()),
                );
            }
            for platform in image.platforms.known().into_iter().flatten() {
                if let Err(error) = platform.parse::<Platform>() {
                    complain(
                        diagnostics,
                        at.child("platforms"),
                        "This is no platform",
                        sentence(&error.to_string()),
                    );
                }
            }
        }
    }

    fn plan(
        prior: Option<&Model>,
        planned: Model,
        _: &Model,
        _: &mut Diagnostics,
    ) -> Planned<Model> {
        plan(prior, planned, &BTreeSet::new()).into()
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        prior: Option<&Model>,
        planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        let asked = planned.model.refresh == Refresh::Always.into();
        let Some(images) = planned.model.images.known().filter(|_| asked) else {
            return Ok(planned);
        };
        let is_tag = |image: &ImageModel| {
            let source = image
                .source
                .as_str()
                .and_then(|text| text.parse::<Reference>().ok());
            source.is_some_and(|source| source.digest.is_none())
        };
        let tags = images.iter().filter(|(_, image)| is_tag(image));
        let tags: BTreeMap<String, ImageModel> = tags
            .map(|(name, image)| (name.clone(), image.clone()))
            .collect();
        let only_tags = Model {
            images: tags.into(),
            source_digests: Attr::Null,
            ..planned.model.clone()
        };
        let (config, fetcher) = (only_tags.config()?, mirror::fetcher()?);
        let resolved = mirror::run(cx, async |cancel: CancellationToken| {
            registry::resolve(&config, &fetcher, &cancel).await
        })
        .await?;
        let resolved = resolved.map_err(|error| {
            Diagnostic::error("The tags' present meaning cannot be looked up")
                .detail(format!(
                    "{} With refresh = \"on_change\" a plan does not ask the upstream registries.",
                    sentence(&error.to_string())
                ))
                .at(path!["refresh"])
        })?;
        let known = planned.model.source_digests.unwrap_or_default();
        let mut moved = BTreeSet::new();
        for (name, digest) in resolved {
            let name = name.to_string();
            if let Some(before) = known.get(&name).and_then(Attr::as_str)
                && before != digest.to_string()
            {
                // Not a value of the plan: the tag may move again until the apply, and Terraform refuses a known value that is another one then.
                cx.warn(
                    Diagnostic::warning(format!("The tag of {name} has moved"))
                        .detail(format!("{before} is mirrored, and upstream has {digest}."))
                        .at(path!["images", Key(&name)]),
                );
                moved.insert(name);
            }
        }
        Ok(Planned {
            model: plan(prior, planned.model, &moved),
            replace: planned.replace,
        })
    }

    async fn create(
        cx: &Operation<Cloud>,
        mut planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let config = planned.config()?;
        let (pool, fetcher) = (mirror::pool(&planned.cache_dir)?, mirror::fetcher()?);
        let log = mirror::Log::new(format!(
            "registry mirror {}",
            planned.name.unwrap_or_default()
        ));
        let done = mirror::run(cx, async |cancel| {
            registry::sync(&config, &pool, &fetcher, &log, &cancel).await
        })
        .await?;
        let done = done.map_err(|error| {
            Diagnostic::error("The images could not be mirrored")
                .detail(sentence(&error.to_string()))
        })?;
        let all = |of: fn(&registry::Copy) -> Digest| -> Digests {
            let all = done.images.iter();
            all.map(|(name, copy)| (name.to_string(), of(copy).to_string().into()))
                .collect()
        };
        planned.digests = all(|copy| copy.digest).into();
        planned.source_digests = all(|copy| copy.source_digest).into();
        planned.size_bytes = done.size_bytes.into();
        planned.drift = Vec::new().into();
        Ok(planned.derived())
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let layout = match state.directory() {
            Some(directory) => {
                let seen = tokio::task::spawn_blocking(move || registry::observe(&directory)).await;
                let seen = seen.expect("looking at a layout does not panic");
                Some(seen.map_err(|error| {
                    Diagnostic::error("The layout cannot be looked at")
                        .detail(sentence(&error.to_string()))
                })?)
            }
            None => None,
        };
        if state.push.is_null() && layout == Some(None) {
            return Ok(None);
        }
        let layout = layout.map(Option::unwrap_or_default);
        // After an import there is nothing but the place.
        let state = match (&state.images, &layout) {
            (Attr::Null, Some(layout)) => imported(state, layout),
            _ => state,
        };
        let pushed = match state.push.known() {
            None => None,
            Some(registry) => {
                let (config, fetcher) = (state.config()?, mirror::fetcher()?);
                let pushed = mirror::run(cx, async |cancel: CancellationToken| {
                    registry::pushed(&config, &fetcher, &cancel).await
                })
                .await?;
                Some(pushed.map_err(|error| {
                    Diagnostic::error(format!("The registry {registry} cannot be asked"))
                        .detail(format!(
                            "{} Its images are not taken to be gone.",
                            sentence(&error.to_string())
                        ))
                        .at(path!["push"])
                })?)
            }
        };
        Ok(Some(found(state, layout.as_ref(), pushed.as_ref())))
    }

    async fn update(
        cx: &Operation<Cloud>,
        _: Model,
        planned: Model,
        config: &Model,
    ) -> Result<Model, Failure<Model>> {
        Self::create(cx, planned, config).await
    }

    async fn delete(_: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let Some(directory) = state.directory() else {
            return Ok(());
        };
        let removed = tokio::task::spawn_blocking(move || registry::remove(&directory)).await;
        removed
            .expect("removing a layout does not panic")
            .map_err(|error| {
                Diagnostic::error("The layout could not be removed")
                    .detail(sentence(&error.to_string()))
            })?;
        Ok(())
    }

    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let (path, name) = mirror::from_directory(id, KIND)?;
        let model = Model {
            path: path.into(),
            name: name.into(),
            refresh: Refresh::OnChange.into(),
            cache_dir: ondol_image::DEFAULT_CACHE_DIR.into(),
            ..Model::default()
        };
        Ok(model.derived())
    }
}

/// Where the images came from is not written anywhere: the next apply looks their tags up, and fetches only what is new.
fn imported(mut state: Model, layout: &Observed) -> Model {
    let image = |name: &LocalName| {
        let image = ImageModel {
            source: "".into(),
            platforms: Attr::Null,
        };
        (name.to_string(), image)
    };
    state.images = layout
        .images
        .keys()
        .map(image)
        .collect::<BTreeMap<_, _>>()
        .into();
    let digests = layout.images.iter();
    let digests: Digests = digests
        .map(|(name, digest)| (name.to_string(), digest.to_string().into()))
        .collect();
    state.source_digests = digests.clone().into();
    state.digests = digests.into();
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn image(source: &str, platforms: &[&str]) -> ImageModel {
        ImageModel {
            source: source.into(),
            platforms: match platforms {
                [] => Attr::Null,
                some => some
                    .iter()
                    .map(|text| (*text).to_owned())
                    .collect::<Set<_>>()
                    .into(),
            },
        }
    }

    fn model(images: &[(&str, ImageModel)]) -> Model {
        let images = images
            .iter()
            .map(|(name, image)| ((*name).to_owned(), image.clone()));
        Model {
            name: "site".into(),
            path: "/srv/mirror".into(),
            push: "127.0.0.1:5000".into(),
            images: images.collect::<BTreeMap<_, _>>().into(),
            refresh: Refresh::OnChange.into(),
            cache_dir: "/cache".into(),
            ..Model::default()
        }
    }

    fn digests(list: &[(&str, &str)]) -> Attr<Digests> {
        list.iter()
            .map(|(name, digest)| ((*name).to_owned(), Attr::from(*digest)))
            .collect::<Digests>()
            .into()
    }

    const TAG: &str = "registry.example/app:1";

    #[test]
    fn a_tag_stays_what_it_was_until_its_image_changes() {
        let wanted = model(&[
            ("app:1", image(TAG, &[])),
            ("arm:1", image(TAG, &["linux/arm64"])),
        ]);
        let first = plan(None, wanted.clone(), &BTreeSet::new());
        let unknown = |map: &Attr<Digests>| map.known().unwrap().values().all(Attr::is_unknown);
        assert!(
            unknown(&first.digests)
                && unknown(&first.source_digests)
                && first.size_bytes.is_unknown()
        );

        let prior = Model {
            digests: digests(&[("app:1", A), ("arm:1", B)]),
            source_digests: digests(&[("app:1", A), ("arm:1", A)]),
            size_bytes: 7.into(),
            ..first
        }
        .derived();
        assert_eq!(
            plan(Some(&prior), wanted.clone(), &BTreeSet::new()),
            prior,
            "nothing to do"
        );
        let reference = &prior.references.known().unwrap()["app:1"];
        assert_eq!(
            *reference,
            format!("127.0.0.1:5000/app@{A}").as_str().into()
        );

        let mut changed = wanted.clone();
        changed
            .images
            .known_mut()
            .unwrap()
            .insert("arm:1".to_owned(), image(TAG, &["linux/amd64"]));
        let planned = plan(Some(&prior), changed, &BTreeSet::new());
        assert_eq!(planned.digests.known().unwrap()["app:1"], A.into());
        assert!(planned.digests.known().unwrap()["arm:1"].is_unknown());

        let planned = plan(Some(&prior), wanted, &["app:1".to_owned()].into());
        for map in [
            &planned.digests,
            &planned.source_digests,
            &planned.references,
        ] {
            assert!(map.known().unwrap()["app:1"].is_unknown());
            assert!(map.known().unwrap()["arm:1"].is_known());
        }
        let image = |name: &str| {
            planned.config().unwrap().images[&name.parse().unwrap()]
                .source
                .digest
        };
        assert_eq!(image("app:1"), None);
        assert_eq!(image("arm:1").unwrap().to_string(), A);
    }

    #[test]
    fn an_image_by_digest_is_known_while_planning() {
        let by_digest = image(&format!("registry.example/app@{A}"), &[]);
        let planned = plan(None, model(&[("app:1", by_digest)]), &BTreeSet::new());
        assert_eq!(planned.digests, digests(&[("app:1", A)]));
        let unknown = plan(
            None,
            Model {
                images: Attr::Unknown,
                ..model(&[])
            },
            &BTreeSet::new(),
        );
        assert!(unknown.digests.is_unknown() && unknown.references.is_unknown());
    }

    #[test]
    fn what_is_not_where_it_belongs_is_drift_and_planned_back() {
        let wanted = model(&[
            ("app:1", image(TAG, &[])),
            ("b:1", image(TAG, &[])),
            ("c:1", image(TAG, &[])),
        ]);
        let state = Model {
            digests: digests(&[("app:1", A), ("b:1", A), ("c:1", A)]),
            source_digests: digests(&[("app:1", A), ("b:1", A), ("c:1", A)]),
            size_bytes: 7.into(),
            ..wanted.clone()
        }
        .derived();
        let name = |text: &str| text.parse::<LocalName>().unwrap();
        let digest = |text: &str| text.parse::<Digest>().unwrap();
        let layout = Observed {
            images: [(name("app:1"), digest(A)), (name("b:1"), digest(A))].into(),
            damaged: [(name("b:1"), "a layer is missing".to_owned())].into(),
        };
        let pushed = [
            (name("app:1"), digest(B)),
            (name("b:1"), digest(A)),
            (name("c:1"), digest(A)),
        ]
        .into();
        let seen = found(state.clone(), Some(&layout), Some(&pushed));
        assert_eq!(
            seen.drift.known().unwrap(),
            &[
                format!("app:1: the local registry has {B}"),
                "b:1: a layer is missing".to_owned(),
                "c:1: it is not in the layout".to_owned(),
            ]
        );
        assert_eq!(seen.digests, digests(&[]));
        let planned = plan(Some(&seen), seen.clone(), &BTreeSet::new());
        assert_eq!(
            (planned.digests, planned.drift),
            (state.digests, Vec::new().into())
        );
    }

    #[test]
    fn a_configuration_that_cannot_be_names_its_attribute() {
        let mut wrong = model(&[
            ("App:1", image("nginx:1", &["linux"])),
            ("b:1", image(TAG, &[])),
        ]);
        wrong.path = Attr::Null;
        wrong.push = Attr::Null;
        wrong.plain_http = Set(vec!["http://registry.example".to_owned()]).into();
        let mut diagnostics = Diagnostics::new();
        RegistryMirrorResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics.iter().map(|one| one.path.to_string()).collect();
        assert_eq!(
            paths,
            [
                "",
                "plain_http",
                "images[\"App:1\"]",
                "images[\"App:1\"].source",
                "images[\"App:1\"].platforms"
            ]
        );
    }
}
