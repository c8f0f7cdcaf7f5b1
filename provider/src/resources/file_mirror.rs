//! `ondol_file_mirror`: single files by URL and SHA-256, published where a web server shows them.
//!
//! Fetching and publishing are `ondol_mirror::files`; here is what Terraform sees of it. The plan needs no network: what the files will
//! be is in the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ondol_mirror::Digest;
use ondol_mirror::files::{self, Config, FileName, Published, Source};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Key, Operation, Planned, Resource,
    Timeouts, attribute, path,
};

use crate::config::Cloud;
use crate::diagnostics::{complain, sentence};
use crate::mirror;

const KIND: &str = "files";

/// Files from elsewhere, such as disk images, charts and manifests, verified and published in a directory that a web server shows.
///
/// They are published as `PATH/files/NAME/...` with a `SHA256SUMS` file beside them. A file is fetched once for all mirrors of the machine,
/// and a download that broke off goes on where it ended. All files are there and verified before the first published one changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The directory that the files are published in.
    #[schemars(transform = attribute::computed)]
    pub id: Attr<String>,
    /// The mirror's name.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub name: Attr<String>,
    /// The directory that a web server shows. Several mirrors of all kinds may share it.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub path: Attr<String>,
    /// The files, by the path that they are published under: parts of letters, digits and `._+~@=-` between slashes. A file that is no
    /// longer here is removed.
    #[schemars(transform = attribute::required)]
    pub files: Attr<BTreeMap<String, File>>,
    /// Where clients find what is published in `path`, such as `http://mirror.example`. Only needed for `urls`.
    pub base_url: Attr<String>,
    /// Where downloads are kept for all mirrors of the machine.
    #[schemars(transform = attribute::optional_computed, extend("default" = ondol_image::DEFAULT_CACHE_DIR))]
    pub cache_dir: Attr<String>,
    /// Where clients find each file; null without `base_url`.
    #[schemars(transform = attribute::computed)]
    pub urls: Attr<BTreeMap<String, Attr<String>>>,
    /// `sha256:` and the digest of the published `SHA256SUMS`: two mirrors with the same one hold the same. Known while planning.
    #[schemars(transform = attribute::computed)]
    pub content_digest: Attr<String>,
    /// Size of all files.
    #[schemars(transform = attribute::computed)]
    pub size_bytes: Attr<u64>,
    /// Files that are not as they were published, and how: `disk.ova: missing`. Empty when all is well.
    #[schemars(transform = attribute::computed)]
    pub drift: Attr<Vec<String>>,
    pub timeouts: Attr<Timeouts>,
}

/// A file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct File {
    /// Where it comes from: `http`, `https` or `file`, tried in this order.
    #[schemars(transform = attribute::required, length(min = 1))]
    pub urls: Attr<Vec<String>>,
    /// What it must be: 64 hexadecimal digits.
    #[schemars(transform = attribute::required)]
    pub sha256: Attr<String>,
    /// Its size, if it is known: then a wrong file is refused at once, and the log can tell the time that is left.
    pub size_bytes: Attr<u64>,
}

impl Model {
    fn directory(&self) -> Option<PathBuf> {
        mirror::directory(&self.path, KIND, &self.name)
    }

    fn require_directory(&self) -> Result<PathBuf, Diagnostic> {
        self.path.require(path!["path"])?;
        self.name.require(path!["name"])?;
        Ok(self.directory().expect("both are known"))
    }

    /// What the files must be; `None` while something of it is unknown.
    fn digests(&self) -> Option<BTreeMap<FileName, Digest>> {
        let digest = |(name, file): (&String, &File)| {
            Some((name.parse().ok()?, file.sha256.known()?.parse().ok()?))
        };
        self.files.known()?.iter().map(digest).collect()
    }

    fn config(&self) -> Result<Config, Diagnostic> {
        let mut sources = BTreeMap::new();
        for (name, file) in self.files.require(path!["files"])? {
            let at = path!["files", Key(name)];
            let wrong = |error: String| Diagnostic::error(error).at(at.clone());
            let source = Source {
                urls: file.urls.require(at.child("urls"))?.clone(),
                sha256: (file.sha256.require(at.child("sha256"))?.parse::<Digest>())
                    .map_err(|error| wrong(error.to_string()))?,
                size: file.size_bytes.known().copied(),
            };
            let name: FileName =
                (name.parse()).map_err(|error: files::InvalidName| wrong(error.to_string()))?;
            sources.insert(name, source);
        }
        Ok(Config {
            dir: self.require_directory()?,
            files: sources,
        })
    }

    /// With what follows from the configuration alone.
    fn derived(mut self) -> Self {
        self.id = match self.directory() {
            Some(directory) => directory.display().to_string().into(),
            None => Attr::Unknown,
        };
        self.content_digest = match self.digests() {
            Some(digests) => content_digest(&digests).into(),
            None => Attr::Unknown,
        };
        self.urls = match (&self.base_url, &self.name, &self.files) {
            (Attr::Null, ..) => Attr::Null,
            (Attr::Known(base), Attr::Known(mirror), Attr::Known(files)) => {
                let url = |name: &String| {
                    format!("{}/{KIND}/{mirror}/{name}", base.trim_end_matches('/'))
                };
                let urls = files.keys().map(|name| (name.clone(), url(name).into()));
                urls.collect::<BTreeMap<_, _>>().into()
            }
            _ => Attr::Unknown,
        };
        self.drift = Vec::new().into();
        self
    }

    /// With what was found, where that is not what was published.
    fn with_found(mut self, found: &Published) -> Self {
        let sound = found
            .files
            .iter()
            .map(|(name, (digest, _))| (name.clone(), *digest));
        self.content_digest = content_digest(&sound.collect()).into();
        self.size_bytes = found.size_bytes().into();
        self.drift = drift(found).into();
        self
    }
}

fn content_digest(digests: &BTreeMap<FileName, Digest>) -> String {
    format!("sha256:{}", Digest::of(files::sums(digests).as_bytes()))
}

fn drift(found: &Published) -> Vec<String> {
    let damaged = found.damaged.iter().map(|name| format!("{name}: changed"));
    let missing = found.missing.iter().map(|name| format!("{name}: missing"));
    damaged.chain(missing).collect()
}

/// Pure. The size of files that are not there yet is all that only a sync can tell.
fn plan(prior: Option<&Model>, planned: Model) -> Model {
    let mut planned = planned.derived();
    let same = |prior: &&Model| prior.content_digest == planned.content_digest;
    planned.size_bytes = match prior.filter(same) {
        Some(prior) if planned.content_digest.is_known() => prior.size_bytes,
        _ => Attr::Unknown,
    };
    planned
}

pub struct FileMirrorResource;

impl Resource for FileMirrorResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = "ondol_file_mirror";
    const IMPORT_ID: Option<&'static str> = Some("PATH/files/NAME");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(mirror::TIMEOUT);

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        mirror::check_name(&config.name, diagnostics);
        mirror::check_absolute(&config.path, path!["path"], diagnostics);
        mirror::check_absolute(&config.cache_dir, path!["cache_dir"], diagnostics);
        mirror::check_base_url(&config.base_url, diagnostics);
        let mut names = Vec::new();
        for (name, file) in config.files.known().into_iter().flatten() {
            let at = path!["files", Key(name)];
            match name.parse::<FileName>() {
                Ok(name) => names.push(name),
                Err(error) => complain(
                    diagnostics,
                    at.clone(),
                    "A file cannot have this name",
                    sentence(&error.to_string()),
                ),
            }
            if let Some(Err(error)) = file.sha256.known().map(|text| text.parse::<Digest>()) {
                complain(
                    diagnostics,
                    at.child("sha256"),
                    "This is not a SHA-256",
                    sentence(&error.to_string()),
                );
            }
            for (index, url) in file.urls.known().into_iter().flatten().enumerate() {
                if !["http://", "https://", "file:/"]
                    .iter()
                    .any(|scheme| url.starts_with(scheme))
                {
                    let said = format!("{url:?} begins with none of http://, https:// and file:/.");
                    complain(
                        diagnostics,
                        at.child("urls").child(index),
                        "A file cannot be fetched from here",
                        said,
                    );
                }
            }
        }
        let names: BTreeSet<&FileName> = names.iter().collect();
        if let Some((file, below)) = files::clashes(&names) {
            let said = format!(
                "{:?} would be a file, and for {:?} a directory.",
                file.as_str(),
                below.as_str()
            );
            complain(
                diagnostics,
                path!["files", Key(file.as_str())],
                "A file cannot be a directory too",
                said,
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

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let config = planned.config()?;
        let (pool, fetcher) = (mirror::pool(&planned.cache_dir)?, mirror::fetcher()?);
        let log = mirror::Log::new(format!("file mirror {}", planned.name.unwrap_or_default()));
        let done = mirror::run(cx, async |cancel| {
            files::sync(&config, &pool, &fetcher, &log, &cancel).await
        })
        .await?;
        let published = done.map_err(|error| sync_error(&error))?;
        Ok(planned.derived().with_found(&published))
    }

    async fn read(_: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let directory = state.require_directory()?;
        let found = tokio::task::spawn_blocking(move || files::observe(&directory)).await;
        let found = found
            .expect("looking at files does not panic")
            .map_err(|error| read_error(&error))?;
        Ok(found.map(|found| {
            // After an import there is nothing but the place.
            let state = match state.files {
                Attr::Null => imported(state, &found),
                _ => state,
            };
            state.with_found(&found)
        }))
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
        let directory = state.require_directory()?;
        let removed = tokio::task::spawn_blocking(move || files::remove(&directory)).await;
        removed
            .expect("removing files does not panic")
            .map_err(|error| {
                Diagnostic::error("The published files could not be removed")
                    .detail(sentence(&error.to_string()))
            })?;
        Ok(())
    }

    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let (path, name) = mirror::from_directory(id, KIND)?;
        Ok(Model {
            path: path.into(),
            name: name.into(),
            cache_dir: ondol_image::DEFAULT_CACHE_DIR.into(),
            ..Model::default()
        }
        .derived_place())
    }
}

impl Model {
    fn derived_place(mut self) -> Self {
        self.id = self
            .directory()
            .map(|directory| directory.display().to_string())
            .into();
        self
    }
}

/// Where the files came from is not written anywhere: the next apply takes note of it and fetches nothing.
fn imported(mut state: Model, found: &Published) -> Model {
    let file = |digest: &Digest| File {
        urls: Vec::new().into(),
        sha256: digest.to_string().into(),
        size_bytes: Attr::Null,
    };
    let files = found
        .files
        .iter()
        .map(|(name, (digest, _))| (name.to_string(), file(digest)));
    state.files = files.collect::<BTreeMap<_, _>>().into();
    state
}

fn sync_error(error: &ondol_mirror::Error) -> Diagnostic {
    Diagnostic::error("The files could not be mirrored").detail(format!(
        "{} The published files are as they were.",
        sentence(&error.to_string())
    ))
}

fn read_error(error: &ondol_mirror::Error) -> Diagnostic {
    Diagnostic::error("The published files cannot be looked at")
        .detail(sentence(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &str) -> File {
        File {
            urls: vec!["https://a.example/x".to_owned()].into(),
            sha256: Digest::of(bytes.as_bytes()).to_string().into(),
            size_bytes: Attr::Null,
        }
    }

    fn model(files: &[(&str, &str)]) -> Model {
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), file(bytes)));
        Model {
            name: "site".into(),
            path: "/srv/mirror".into(),
            files: files.collect::<BTreeMap<_, _>>().into(),
            cache_dir: "/cache".into(),
            ..Model::default()
        }
    }

    #[test]
    fn everything_but_the_size_is_known_while_planning() {
        let with_url = Model {
            base_url: "http://mirror.example/".into(),
            ..model(&[("a/b", "1")])
        };
        let planned = plan(None, with_url.clone());
        assert_eq!(planned.id, "/srv/mirror/files/site".into());
        assert_eq!(planned.drift, Vec::new().into());
        assert!(planned.content_digest.is_known() && planned.size_bytes.is_unknown());
        let url = &planned.urls.known().unwrap()["a/b"];
        assert_eq!(url.as_str(), Some("http://mirror.example/files/site/a/b"));

        let prior = Model {
            size_bytes: 1.into(),
            ..planned
        };
        assert_eq!(plan(Some(&prior), with_url), prior, "nothing to do");
        let added = plan(Some(&prior), model(&[("a/b", "1"), ("c", "2")]));
        assert!(added.content_digest != prior.content_digest && added.size_bytes.is_unknown());
        assert_eq!(added.urls, Attr::Null);
        let unknown = plan(
            Some(&prior),
            Model {
                files: Attr::Unknown,
                ..prior.clone()
            },
        );
        assert_eq!(unknown.content_digest, Attr::Unknown);
        assert_eq!(unknown.size_bytes, Attr::Unknown);
    }

    #[test]
    fn drift_is_planned_away() {
        let prior = Model {
            size_bytes: 2.into(),
            ..plan(None, model(&[("a", "1"), ("b", "2")]))
        };
        let found = Published {
            files: [("a".parse().unwrap(), (Digest::of(b"1"), 1))].into(),
            missing: ["b".parse().unwrap()].into(),
            ..Published::default()
        };
        let seen = prior.clone().with_found(&found);
        assert_eq!(seen.drift, vec!["b: missing".to_owned()].into());
        let planned = plan(Some(&seen), seen.clone());
        assert_eq!(
            (planned.drift, &planned.content_digest),
            (Vec::new().into(), &prior.content_digest)
        );
        assert_eq!(planned.size_bytes, Attr::Unknown);
    }

    #[test]
    fn a_configuration_that_cannot_be_names_its_attribute() {
        let mut wrong = model(&[("../a", "1"), ("b", "2"), ("b/c", "3"), ("d", "4")]);
        wrong.name = "Site".into();
        wrong.path = "srv".into();
        wrong.base_url = "mirror.example".into();
        let files = wrong.files.known_mut().unwrap();
        files.get_mut("d").unwrap().sha256 = "md5".into();
        files.get_mut("d").unwrap().urls = vec!["ftp://x".to_owned()].into();
        let mut diagnostics = Diagnostics::new();
        FileMirrorResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics.iter().map(|one| one.path.to_string()).collect();
        assert_eq!(
            paths,
            [
                "name",
                "path",
                "base_url",
                "files[\"../a\"]",
                "files[\"d\"].sha256",
                "files[\"d\"].urls[0]",
                "files[\"b\"]"
            ]
        );
        let mut none = Diagnostics::new();
        FileMirrorResource::validate(&model(&[("a/b.c", "1")]), &mut none);
        assert!(none.is_empty(), "{none:?}");
    }
}
