//! `ondol_image`: an image on a host before any VM needs it, verified, and found again by its digest.
//!
//! `ondol_vm` brings its image by itself; this makes it a step of its own, with a checksum that it must have, and fetches it where it is
//! an address. It builds nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ondol_mirror::Digest;
use ondol_mirror::fetch::Download;
use ondol_mirror::progress::Meter;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tfplugin::{
    Attr, DefaultTimeouts, Diagnostic, Diagnostics, Failure, Operation, Planned, Resource,
    Timeouts, attribute, path,
};

use super::on_virtualbox::OnVirtualBox;
use crate::config::Cloud;
use crate::diagnostics::{complain, sentence};
use crate::mirror;

const KIND: &str = "ondol_image";
const FORMATS: [&str; 4] = ["ova", "vmdk", "vdi", "vhd"];

/// What an address begins with.
const SCHEMES: [&str; 3] = ["http://", "https://", "file:/"];

/// An appliance or disk image, brought from the machine that runs Terraform to a VirtualBox host. It is kept there as a disk under its
/// SHA-256, where every `ondol_vm` with the same `image` file finds it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// `HOST/SHA256`.
    #[schemars(transform = attribute::computed)]
    pub id: Attr<String>,
    /// A key of the provider's `hosts`, with `engine = "virtualbox"`.
    #[schemars(transform = attribute::required, transform = attribute::requires_replace)]
    pub host: Attr<String>,
    /// An .ova, .vmdk, .vdi or .vhd: a file on the machine that runs Terraform, which may go once it is on the host, or an `http`, `https`
    /// or `file` address, which that machine fetches. A download that broke off goes on where it ended, and one that is in the cache is
    /// not made again, whichever resource it was for.
    #[schemars(transform = attribute::required)]
    pub source: Attr<String>,
    /// The SHA-256 that `source` must have: 64 hexadecimal digits, with or without `sha256:` before them. Another file is refused. An
    /// address needs it.
    pub checksum: Attr<String>,
    /// Where downloads are kept on the machine that runs Terraform.
    #[schemars(transform = attribute::optional_computed, extend("default" = ondol_image::DEFAULT_CACHE_DIR))]
    pub cache_dir: Attr<String>,
    /// The image's file on the machine that runs Terraform, for `image` of an `ondol_vm`: `source`, or where it was fetched to. Known
    /// while planning.
    #[schemars(transform = attribute::computed)]
    pub file: Attr<String>,
    /// SHA-256 of `source`, in hexadecimal digits.
    #[schemars(transform = attribute::computed)]
    pub sha256: Attr<String>,
    /// The disk that the image became, on the host.
    #[schemars(transform = attribute::computed)]
    pub path: Attr<String>,
    pub timeouts: Attr<Timeouts>,
}

/// The digits of a checksum as it may be written.
fn bare(checksum: &str) -> String {
    let digits = checksum.strip_prefix("sha256:").unwrap_or(checksum);
    digits.to_ascii_lowercase()
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit())
}

/// Ends as an image that VirtualBox reads does.
fn extension(source: &str) -> Option<&'static str> {
    let name = match is_address(source) {
        true => source.split(['?', '#']).next()?,
        false => source,
    };
    let (_, found) = name.rsplit_once('.')?;
    FORMATS
        .into_iter()
        .find(|known| found.eq_ignore_ascii_case(known))
}

fn is_address(source: &str) -> bool {
    SCHEMES.iter().any(|scheme| source.starts_with(scheme))
}

/// Where an address is fetched to: by its content, with an ending that says what it is. `None` while that is not known.
fn fetched(model: &Model) -> Option<PathBuf> {
    let cache = model.cache_dir.known()?;
    let digest = bare(model.checksum.known()?);
    let extension = extension(model.source.known()?)?;
    Some(Path::new(cache).join(format!("fetched/{digest}.{extension}")))
}

/// The image's file on this machine, as far as it is known already.
fn file(model: &Model) -> Attr<String> {
    match model.source.known() {
        Some(source) if is_address(source) => match fetched(model) {
            Some(path) => path.display().to_string().into(),
            None => Attr::Unknown,
        },
        _ => model.source.clone(),
    }
}

/// What the digest of the source, as far as it can be read now, means. A source that is gone was brought already, as long as its name
/// is the same.
fn plan(prior: Option<&Model>, mut planned: Model, found: Option<&str>) -> Model {
    planned.file = file(&planned);
    let kept = prior
        .filter(|prior| prior.source == planned.source)
        .and_then(|prior| prior.sha256.known());
    let digest = found.or(kept.map(String::as_str));
    let same = prior.filter(|prior| digest.is_some() && prior.sha256.as_str() == digest);
    planned.sha256 = match digest {
        Some(digest) => digest.into(),
        None => Attr::Unknown,
    };
    (planned.id, planned.path) = match same {
        Some(prior) => (prior.id.clone(), prior.path.clone()),
        None => (Attr::Unknown, Attr::Unknown),
    };
    planned
}

fn check(model: &Model, found: &str) -> Result<(), Diagnostic> {
    let Some(promised) = model.checksum.as_str() else {
        return Ok(());
    };
    if bare(promised) == found {
        return Ok(());
    }
    Err(Diagnostic::error("The image is not the one that is expected")
        .detail(format!(
            "{} has the SHA-256 {found}, and checksum is {promised}. Nothing was brought to the host. Fetch the file anew, or correct checksum.",
            model.source.as_str().unwrap_or_default()
        ))
        .at(path!["checksum"]))
}

pub struct ImageResource;

impl Resource for ImageResource {
    type Model = Model;
    type Context = Cloud;
    type Identity = ();
    type Private = ();

    const TYPE_NAME: &'static str = KIND;
    const IMPORT_ID: Option<&'static str> = Some("HOST/SHA256");
    const TIMEOUTS: DefaultTimeouts = DefaultTimeouts::all(std::time::Duration::from_secs(3600));

    fn validate(config: &Model, diagnostics: &mut Diagnostics) {
        if let Some(source) = config.source.as_str() {
            if extension(source).is_none() {
                complain(
                    diagnostics,
                    path!["source"],
                    "VirtualBox reads no such image",
                    format!("{source:?} ends in none of .{}.", FORMATS.join(", .")),
                );
            }
            if is_address(source) && config.checksum.is_null() {
                complain(
                    diagnostics,
                    path!["checksum"],
                    "What is fetched needs a checksum",
                    format!("{source} may have any content: say which SHA-256 is expected."),
                );
            }
        }
        mirror::check_absolute(&config.cache_dir, path!["cache_dir"], diagnostics);
        if let Some(checksum) = config.checksum.as_str()
            && !is_sha256(&bare(checksum))
        {
            complain(
                diagnostics,
                path!["checksum"],
                "checksum is not a SHA-256",
                format!("{checksum:?} is not 64 hexadecimal digits."),
            );
        }
    }

    async fn plan_in_context(
        cx: &Operation<Cloud>,
        prior: Option<&Model>,
        planned: Planned<Model>,
        _: &Model,
    ) -> Result<Planned<Model>, Diagnostics> {
        let model = planned.model;
        let (Some(source), true, true) = (
            model.source.known(),
            model.host.is_known(),
            cx.context().is_known(),
        ) else {
            return Ok(plan(None, model, None).into());
        };
        let on = OnVirtualBox::of(cx, &model.host, KIND)?;
        if is_address(source) {
            // It is what its checksum says, or it is not taken: there is nothing to ask for.
            let promised = model.checksum.as_str().map(bare);
            return Ok(plan(prior, model, promised.as_deref()).into());
        }
        // What is built in the same apply is not there yet.
        let found = if tokio::fs::try_exists(source).await.unwrap_or(false) {
            let act = format!("read {source}");
            Some(on.look(cx, &act, on.host().image_digest(source)).await?)
        } else {
            None
        };
        if let Some(found) = &found {
            check(&model, found)?;
        }
        Ok(plan(prior, model, found.as_deref()).into())
    }

    async fn create(
        cx: &Operation<Cloud>,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        Ok(place(cx, planned).await?)
    }

    async fn read(cx: &Operation<Cloud>, state: Model) -> Result<Option<Model>, Diagnostics> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let digest = state.sha256.require(path!["sha256"])?;
        let act = format!("look for the image {digest}");
        let found = on.look(cx, &act, on.host().find_image(digest)).await?;
        Ok(found.map(|path| Model {
            path: path.into(),
            ..state.clone()
        }))
    }

    /// Another image stands beside the former one for as long as VMs need that.
    async fn update(
        cx: &Operation<Cloud>,
        prior: Model,
        planned: Model,
        _: &Model,
    ) -> Result<Model, Failure<Model>> {
        let placed = place(cx, planned).await?;
        if prior.sha256 != placed.sha256
            && let Some(former) = prior.sha256.known()
        {
            let on = OnVirtualBox::of(cx, &prior.host, KIND)?;
            let act = format!("remove the former image {former}");
            if let Err(kept) = on.act(cx, &act, on.host().remove_image(former)).await {
                cx.warn(
                    Diagnostic::warning("The former image stays on the host").detail(kept.detail),
                );
            }
        }
        Ok(placed)
    }

    async fn delete(cx: &Operation<Cloud>, state: Model) -> Result<(), Failure<Model>> {
        let on = OnVirtualBox::of(cx, &state.host, KIND)?;
        let digest = state.sha256.require(path!["sha256"])?;
        let act = format!("remove the image {digest}");
        Ok(on.act(cx, &act, on.host().remove_image(digest)).await?)
    }

    async fn import(_: &Operation<Cloud>, id: &str) -> Result<Model, Diagnostics> {
        let (host, digest) = OnVirtualBox::part_id(id, "HOST/SHA256", "srv-01/9f86d0...")?;
        Ok(Model {
            id: id.into(),
            host: host.into(),
            sha256: bare(digest).into(),
            // Nobody knows where it came from; the next apply takes note of it and brings nothing.
            source: "".into(),
            ..Model::default()
        })
    }
}

/// Has the file of an address in the cache, as its checksum says.
async fn fetch(cx: &Operation<Cloud>, planned: Model) -> Result<Model, Diagnostic> {
    let source = planned.source.require(path!["source"])?.clone();
    let digest = bare(planned.checksum.require(path!["checksum"])?)
        .parse::<Digest>()
        .map_err(|error| {
            Diagnostic::error("checksum is not a SHA-256")
                .detail(sentence(&error.to_string()))
                .at(path!["checksum"])
        })?;
    let (pool, fetcher) = (mirror::pool(&planned.cache_dir)?, mirror::fetcher()?);
    let path = fetched(&planned).expect("source, checksum and cache_dir are known, and checked");
    let download = Download::new(source.clone(), vec![source.clone()], None, digest);
    let done = mirror::run(cx, async |cancel| {
        let meter = Arc::new(Meter::default());
        fetcher
            .fetch_all(&pool, vec![download], &meter, &cancel)
            .await?;
        pool.link(&digest, &path)
    })
    .await?;
    done.map_err(|error| {
        Diagnostic::error(format!("{source} could not be fetched"))
            .detail(sentence(&error.to_string()))
            .at(path!["source"])
    })?;
    Ok(Model {
        file: path.display().to_string().into(),
        ..planned
    })
}

async fn place(cx: &Operation<Cloud>, planned: Model) -> Result<Model, Diagnostic> {
    let on = OnVirtualBox::of(cx, &planned.host, KIND)?;
    let source = planned.source.require(path!["source"])?;
    let planned = if is_address(source) {
        fetch(cx, planned).await?
    } else {
        let file = file(&planned);
        Model { file, ..planned }
    };
    let source = planned.file.require(path!["file"])?;
    let act = format!("bring {source} to the host");
    let known = planned.sha256.known().cloned();
    // Planned by its digest alone, it may be on the host, and its file gone.
    let found = match &known {
        Some(digest) => on.look(cx, &act, on.host().find_image(digest)).await?,
        None => None,
    };
    let (digest, path) = match (known, found) {
        (Some(digest), Some(path)) => (digest, path),
        (planned_digest, _) => {
            let digest = on.act(cx, &act, on.host().image_digest(source)).await?;
            check(&planned, &digest)?;
            if planned_digest.is_some_and(|it| it != digest) {
                return Err(Diagnostic::error("The image changed between plan and apply")
                    .detail(format!("{source} has another content than when it was planned. Run terraform apply again."))
                    .at(path!["source"]));
            }
            let path = on
                .act(cx, &act, on.host().place_image(source, &digest))
                .await?;
            (digest, path)
        }
    };
    let id = format!("{}/{digest}", on.name());
    Ok(Model {
        id: id.into(),
        sha256: digest.into(),
        path: path.into(),
        ..planned
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed() -> Model {
        Model {
            id: "srv-01/aa".into(),
            host: "srv-01".into(),
            source: "/x.ova".into(),
            file: "/x.ova".into(),
            sha256: "aa".into(),
            path: "/root/.ondol/images/aa.vdi".into(),
            ..Model::default()
        }
    }

    #[test]
    fn an_image_is_what_its_content_is() {
        let again = plan(Some(&placed()), placed(), Some("aa"));
        assert_eq!(again, placed());
        let gone = plan(Some(&placed()), placed(), None);
        assert_eq!(gone, placed(), "its file may go");
        let moved = Model {
            source: "/y.ova".into(),
            ..placed()
        };
        let same_content = plan(Some(&placed()), moved.clone(), Some("aa"));
        assert_eq!(same_content.path, placed().path);
        let other = plan(Some(&placed()), moved.clone(), Some("bb"));
        assert_eq!(
            (other.sha256.as_str(), other.path),
            (Some("bb"), Attr::Unknown)
        );
        let not_built_yet = plan(None, moved, None);
        assert_eq!(
            (not_built_yet.sha256, not_built_yet.id),
            (Attr::Unknown, Attr::Unknown)
        );
    }

    #[test]
    fn an_address_is_kept_under_its_content_and_known_before_it_is_fetched() {
        let model = |source: &str, checksum: Attr<String>| Model {
            source: source.into(),
            checksum,
            cache_dir: "/cache".into(),
            ..Model::default()
        };
        let fetched = plan(
            None,
            model("https://x.example/a.OVA?v=1", "sha256:AA".into()),
            Some("aa"),
        );
        assert_eq!(fetched.file.as_str(), Some("/cache/fetched/aa.ova"));
        assert_eq!(fetched.sha256.as_str(), Some("aa"));
        let unknown = plan(None, model("http://x.example/a.vdi", Attr::Unknown), None);
        assert_eq!(unknown.file, Attr::Unknown);
        let complaints = |source: &str, checksum: Attr<String>| {
            let mut diagnostics = Diagnostics::new();
            ImageResource::validate(&model(source, checksum), &mut diagnostics);
            let paths = diagnostics.iter().map(|it| it.path.to_string());
            paths.collect::<Vec<_>>()
        };
        let good = "0".repeat(64);
        assert_eq!(complaints("http://x/a.ova", good.clone().into()), [""; 0]);
        assert_eq!(complaints("http://x/a.ova", Attr::Null), ["checksum"]);
        assert_eq!(complaints("http://x/a.ova", Attr::Unknown), [""; 0]);
        assert_eq!(complaints("file:/x/a.iso", good.into()), ["source"]);
        assert_eq!(complaints("/x/a.ova?v=1", Attr::Null), ["source"]);
    }

    #[test]
    fn another_checksum_is_refused_and_the_same_in_other_words_is_not() {
        let pinned = |checksum: &str| Model {
            checksum: checksum.into(),
            ..placed()
        };
        assert_eq!(check(&pinned("sha256:AA"), "aa"), Ok(()));
        let error = check(&pinned("bb"), "aa").unwrap_err();
        assert_eq!(error.path, path!["checksum"]);
        assert!(error.detail.contains("SHA-256 aa"), "{}", error.detail);
        let mut diagnostics = Diagnostics::new();
        let wrong = Model {
            source: "/x.iso".into(),
            ..pinned("md5:1")
        };
        ImageResource::validate(&wrong, &mut diagnostics);
        let paths: Vec<String> = diagnostics.iter().map(|it| it.path.to_string()).collect();
        assert_eq!(paths, ["source", "checksum"]);
    }
}
