//! The build of a root file system: packages from their origin, identity removed, users made.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ondol_mirror::apt::sources::SignedBy;

use crate::bootstrap::{self, Mmdebstrap, Places};
use crate::error::{Error, Result};
use crate::job::{self, Job, Progress, create_dir, on_path};
use crate::manifest::{self, Image, Manifest};
use crate::origin::Origin;
use crate::recipe::Recipe;
use crate::rootfs;

/// Builds the image of `recipe`, or finds it in `cache_dir`. `progress` may break off the build; nothing is left of it then.
///
/// Two processes that build the same recipe at the same time build it once.
pub fn build(
    recipe: &Recipe,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Image> {
    build_with(None, recipe, cache_dir, progress)
}

/// The programs that can make a root file system, the better one first.
#[derive(Debug, Clone, Copy)]
enum Tool {
    Mmdebstrap,
    Debootstrap,
}

impl Tool {
    /// debootstrap's second step is done by an apt within the new root, to which a directory of this machine is not visible.
    fn for_origin(origin: &Origin) -> Result<Self> {
        if on_path("mmdebstrap") {
            Ok(Self::Mmdebstrap)
        } else if origin.is_local() {
            Err(Error::NoMmdebstrap {
                why: "to build from a directory".to_owned(),
            })
        } else if on_path("debootstrap") {
            Ok(Self::Debootstrap)
        } else {
            Err(Error::NoBootstrapTool)
        }
    }
}

fn build_with(
    tool: Option<Tool>,
    recipe: &Recipe,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Image> {
    recipe.validate()?;
    let digest = recipe.digest();
    let build = Build {
        tool,
        recipe,
        cache_dir,
        digest: &digest,
    };
    job::once(
        &mut Job::new(progress),
        &cache_dir.join("images"),
        &digest,
        || manifest::find(cache_dir, &digest),
        |job, dir| build.run(job, dir),
    )
}

struct Build<'a> {
    /// The machine's best if not said.
    tool: Option<Tool>,
    recipe: &'a Recipe,
    cache_dir: &'a Path,
    digest: &'a str,
}

impl Build<'_> {
    fn run(&self, job: &mut Job<'_>, dir: &Path) -> Result<()> {
        let root = dir.join("rootfs");
        let debs = self.cache_dir.join("debs");
        create_dir(&debs)?;
        let origin = Origin::of(self.recipe, dir)?;
        let places = Places {
            rootfs: &root,
            debs: &debs,
        };
        self.bootstrap(job, &origin, places)?;

        job.report(
            "finish the image",
            Some("finishing: identity removed, units masked, users made".to_owned()),
        )?;
        rootfs::generalise(&root, self.recipe)?;
        for command in rootfs::commands(&root, self.recipe) {
            job.run_in_root(&root, command)?;
        }
        for user in &self.recipe.users {
            for command in rootfs::put_user_files(&root, user)? {
                job.run_in_root(&root, command)?;
            }
        }
        self.describe(dir, &root)
    }

    fn bootstrap(&self, job: &mut Job<'_>, origin: &Origin, places: Places<'_>) -> Result<()> {
        let act = format!(
            "build a root file system of {} {}",
            self.recipe.distribution, self.recipe.suite
        );
        let tool = self.tool.map_or_else(|| Tool::for_origin(origin), Ok)?;
        if let Tool::Mmdebstrap = tool {
            let command = Mmdebstrap {
                as_root: true,
                format: "directory",
                variant: self.recipe.variant,
                packages: self.recipe.packages.iter().map(String::as_str).collect(),
                hooks: Vec::new(),
                target: places.rootfs,
            };
            return job.run(&act, command.argv(origin, places.debs), &[]);
        }
        let base = &origin.sources[0];
        let keyring = match (&base.signed_by, &origin.keys[0]) {
            (SignedBy::Named(path), _) if path.starts_with('/') => path.split(',').next(),
            (_, inline) => inline.as_deref(),
        };
        let command = bootstrap::debootstrap(self.recipe, base, keyring, places);
        job.run(&act, command, &[])?;
        let within = install_keys(origin, places.rootfs)?;
        let command = bootstrap::upgrade_script(places.rootfs, &within, &origin.apt_options);
        job.run(&act, command, &[])
    }

    fn describe(&self, dir: &Path, root: &Path) -> Result<()> {
        let path = root.join("var/lib/dpkg/status");
        let status = fs::read_to_string(&path)
            .map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        let packages = manifest::parse_dpkg_status(&status);
        manifest::write_json(
            &dir.join("manifest.json"),
            &Manifest {
                digest: self.digest.to_owned(),
                recipe: self.recipe.clone(),
                content_digest: manifest::content_digest(&packages),
                created: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                packages,
            },
        )
    }
}

/// Copies the keys of the sources to where the new root's own apt finds them; answers with its sources.list.
fn install_keys(origin: &Origin, root: &Path) -> Result<String> {
    let mut list = String::new();
    for (index, source) in origin.sources.iter().enumerate() {
        let outside = match (&source.signed_by, &origin.keys[index]) {
            (SignedBy::Named(path), _) if path.starts_with('/') => {
                path.split(',').map(PathBuf::from).collect()
            }
            (_, Some(path)) => vec![PathBuf::from(path)],
            _ => Vec::new(),
        };
        let mut within = Vec::new();
        for path in outside {
            let extension = path
                .extension()
                .and_then(|extension| extension.to_str())
                .unwrap_or("gpg");
            let place = format!(
                "usr/share/keyrings/ondol-build-{index}-{}.{extension}",
                within.len()
            );
            fs::copy(&path, root.join(&place))
                .map_err(|error| Error::io(format!("copy {}", path.display()), error))?;
            within.push(format!("/{place}"));
        }
        let mut source = source.clone();
        if !within.is_empty() {
            source.signed_by = SignedBy::Named(within.join(","));
        }
        list += &(source.line(None) + "\n");
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Distribution;

    /// As real as those in tests/: root, debootstrap and the machine's mirror.
    #[test]
    fn debootstrap_builds_the_image_where_mmdebstrap_is_missing() {
        if !on_path("debootstrap") {
            assert!(
                std::env::var_os("CI").is_none(),
                "debootstrap is not installed"
            );
            eprintln!("SKIPPED: debootstrap is not installed");
            return;
        }
        let shared = Path::new(crate::DEFAULT_CACHE_DIR);
        create_dir(&shared.join("debs")).expect("the cache can be made");
        let cache = tempfile::tempdir_in(shared).expect("a directory in the cache can be made");
        std::os::unix::fs::symlink(shared.join("debs"), cache.path().join("debs"))
            .expect("a link can be made");
        let recipe = Recipe {
            packages: vec!["sudo".to_owned()],
            ..Recipe::base(Distribution::Debian, "bookworm")
        };
        let image = build_with(Some(Tool::Debootstrap), &recipe, cache.path(), &mut |_| {
            ControlFlow::Continue(())
        })
        .expect("the image builds");
        assert!(image.manifest.packages.contains_key("sudo"));
        let list = fs::read_to_string(image.rootfs.join("etc/apt/sources.list")).expect("readable");
        assert!(!list.contains("deb "), "{list}");
        assert!(!image.rootfs.join("etc/resolv.conf").exists());
        assert!(
            !image
                .rootfs
                .join("etc/apt/apt.conf.d/99ondol-build")
                .exists()
        );
    }
}
