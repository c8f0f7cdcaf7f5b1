//! A model as what `ondol_mirror` is asked for: upstreams, keys and the packages that are wanted. Reads the machine's apt sources and
//! keyrings; asks no upstream.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};

use ondol_image::Distribution;
use ondol_mirror::apt::{self, Config, Keyring, Machine, Request, Selection, Trust, Upstream};
use ondol_mirror::fetch::Options;
use tfplugin::{Attr, Diagnostic, Path, Set, path};

use super::DEFAULT_KEEP;
use super::model::{Mode, Model, UpstreamModel};
use super::validate::apt_error;
use crate::diagnostics::{self, sentence};

impl Model {
    /// What `ondol_mirror` is asked for. `online`: with upstreams and their keys, which are not needed to look at what is published.
    pub(super) fn config(&self, online: bool) -> Result<Config, Diagnostic> {
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
}

impl UpstreamModel {
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
