//! `apt_sources`: which repositories a machine takes its packages from, and that its package lists are theirs.
//!
//! It speaks to repositories through apt itself, so that proxies, methods and keys are apt's. It installs no package and
//! does not touch keyrings: a source brings its key in `Signed-By`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ondol_kit::{Invalid, Module, TextDiff};
use ondol_machine::file;
use ondol_machine::program::Program;
use schemars::JsonSchema;
use serde::Deserialize;

mod deb822;

use deb822::check;

/// Say which repositories a machine takes its packages from
///
/// Each source is a file below C(/etc/apt/sources.list.d) in deb822 form; its package lists are fetched whenever they are not what the repository
/// offers now. apt verifies the signatures; a repository that cannot be reached or verified is an error, and the lists that were there stay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Texts in deb822 form (sources.list(5)) by name; the name becomes the file C(NAME.sources). An empty text removes that file.
    sources: BTreeMap<String, String>,
    /// Take packages from nowhere else: every other source is put aside, by adding C(.disabled) to its file's name.
    #[serde(default)]
    exclusive: bool,
    /// Fetch the package lists when they are not what the repositories offer now. Without it nothing is asked over the network.
    #[serde(default = "yes")]
    refresh: bool,
}

fn yes() -> bool {
    true
}

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Text by file name; empty: no such file.
    files: BTreeMap<String, String>,
    exclusive: bool,
    refresh: bool,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let mut files = BTreeMap::new();
        for (name, text) in params.sources {
            let at = || format!("sources.{name}");
            // apt reads no other names: see "FILES" in sources.list(5).
            let known = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
            if name.is_empty() || name.starts_with('.') || !name.bytes().all(known) {
                return Err(Invalid::new(
                    at(),
                    "a source's name is made of letters, digits, hyphens, underscores and dots",
                ));
            }
            let text = match text.trim() {
                "" => String::new(),
                text => {
                    check(text).map_err(|reason| Invalid::new(at(), reason))?;
                    format!("{text}\n")
                }
            };
            files.insert(format!("{name}.sources"), text);
        }
        Ok(Self {
            files,
            exclusive: params.exclusive,
            refresh: params.refresh,
        })
    }
}

/// The machine as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// Every source that apt reads, by path below `/etc/apt`.
    files: BTreeMap<PathBuf, String>,
    /// Repositories whose lists are not what they offer now. Not asked while a source is to be changed.
    outdated: BTreeSet<String>,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    WriteSource {
        path: PathBuf,
        text: String,
        new: bool,
    },
    RemoveSource {
        path: PathBuf,
    },
    DisableSource {
        path: PathBuf,
    },
    RefreshLists {
        why: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteSource { path, new, .. } => {
                let what = if *new { "write" } else { "change" };
                write!(f, "{what} the source /etc/apt/{}", path.display())
            }
            Self::RemoveSource { path } => {
                write!(f, "remove the source /etc/apt/{}", path.display())
            }
            Self::DisableSource { path } => write!(
                f,
                "put the source /etc/apt/{0} aside as {0}.disabled",
                path.display()
            ),
            Self::RefreshLists { why } => write!(f, "fetch the package lists ({why})"),
        }
    }
}

const FOLDER: &str = "sources.list.d";

/// Steps on files only: what must be right before the repositories are asked.
fn plan_files(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut ours = BTreeSet::new();
    for (name, text) in &desired.files {
        let path = Path::new(FOLDER).join(name);
        let is = current.files.get(&path);
        ours.insert(path.clone());
        match (is, text.as_str()) {
            (None, "") => {}
            (Some(_), "") => steps.push(Step::RemoveSource { path }),
            (Some(is), text) if is == text => {}
            (is, text) => steps.push(Step::WriteSource {
                new: is.is_none(),
                path,
                text: text.to_owned(),
            }),
        }
    }
    if desired.exclusive {
        // Last: until the new sources are there, the machine keeps what it has.
        let others = current.files.iter().filter(|(path, text)| {
            !ours.contains(*path) && text.lines().any(|line| !is_blank(line))
        });
        steps.extend(others.map(|(path, _)| Step::DisableSource { path: path.clone() }));
    }
    steps
}

/// An empty `sources.list` is no source.
fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = plan_files(desired, current);
    if !desired.refresh {
        return steps;
    }
    if !steps.is_empty() {
        steps.push(Step::RefreshLists {
            why: "the sources change".to_owned(),
        });
    } else if !current.outdated.is_empty() {
        let names: Vec<&str> = current.outdated.iter().map(String::as_str).collect();
        steps.push(Step::RefreshLists {
            why: format!("not what is offered now: {}", names.join(", ")),
        });
    }
    steps
}

/// A repository as `apt-get update --print-uris` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Repository {
    /// Where its `InRelease` and `Release` are.
    uri: String,
    /// Name of these files in apt's folder of lists, up to the last underscore.
    list: String,
}

/// From lines such as `'http://mirror/debian/dists/bookworm/InRelease' mirror_debian_dists_bookworm_InRelease 0`.
fn repositories(printed: &str) -> Vec<Repository> {
    printed
        .lines()
        .filter_map(|line| {
            let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let list = rest.split_whitespace().next()?;
            Some(Repository {
                uri: uri.strip_suffix("/InRelease")?.to_owned(),
                list: list.strip_suffix("_InRelease")?.to_owned(),
            })
        })
        .collect()
}

/// How long another apt may hold the lock of the lists.
const PATIENCE: Duration = Duration::from_secs(120);
/// One small file, or all lists, from a repository that works.
const FETCH: Duration = Duration::from_secs(300);

/// The module.
pub struct AptSources {
    root: PathBuf,
}

impl Default for AptSources {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
        }
    }
}

impl AptSources {
    fn etc(&self) -> PathBuf {
        self.root.join("etc/apt")
    }

    fn lists(&self) -> PathBuf {
        self.root.join("var/lib/apt/lists")
    }

    fn apt(&self, program: &str) -> Program {
        // Any source that fails is an error, instead of a warning and old lists.
        Program::new(program)
            .args(["-o", "APT::Update::Error-Mode=any", "-o"])
            .args([format!("Dir={}", self.root.display())])
            .within(FETCH)
    }

    fn files(&self) -> anyhow::Result<BTreeMap<PathBuf, String>> {
        let mut files = BTreeMap::new();
        let mut paths = vec![PathBuf::from("sources.list")];
        match fs::read_dir(self.etc().join(FOLDER)) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.context("list /etc/apt/sources.list.d")?.file_name();
                    let path = Path::new(FOLDER).join(name);
                    if path
                        .extension()
                        .is_some_and(|it| it == "list" || it == "sources")
                    {
                        paths.push(path);
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("list /etc/apt/sources.list.d"),
        }
        for path in paths {
            if let Some(text) = file::read(&self.etc().join(&path))? {
                files.insert(path, text);
            }
        }
        Ok(files)
    }

    /// Asks each repository for its release file and compares it with the one in the lists.
    fn outdated(&self) -> anyhow::Result<BTreeSet<String>> {
        let printed = self
            .apt("apt-get")
            .args(["update", "--print-uris"])
            .succeed()
            .context("ask apt for its repositories")?;
        let mut outdated = BTreeSet::new();
        for repository in repositories(&printed.stdout) {
            if !self.is_current(&repository)? {
                outdated.insert(repository.uri);
            }
        }
        Ok(outdated)
    }

    fn is_current(&self, repository: &Repository) -> anyhow::Result<bool> {
        // apt keeps `Release` for a repository that has no `InRelease`.
        for name in ["InRelease", "Release"] {
            let list = self.lists().join(format!("{}_{name}", repository.list));
            match fs::read(&list) {
                Ok(listed) => {
                    return Ok(listed == self.fetch(&format!("{}/{name}", repository.uri))?);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("read {}", list.display()));
                }
            }
        }
        Ok(false)
    }

    fn fetch(&self, uri: &str) -> anyhow::Result<Vec<u8>> {
        let offered = self.etc().join(".offered.ondol");
        // One that is already there would be taken for a part of the download.
        let _ = fs::remove_file(&offered);
        let fetched = self
            .apt("/usr/lib/apt/apt-helper")
            .args(["download-file".as_ref(), uri.as_ref(), offered.as_os_str()])
            .succeed()
            .with_context(|| format!("ask for {uri}"))
            .and_then(|_| fs::read(&offered).context("read what apt fetched"));
        let _ = fs::remove_file(&offered);
        fetched
    }

    fn refresh(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.apt("apt-get").args(["update", "-q"]).run()?;
            if output.status.success() {
                return Ok(());
            }
            let busy = output.stderr.contains("Could not get lock");
            if !busy || Instant::now() >= deadline {
                bail!(
                    "apt-get update ended with {}: {}",
                    output.status,
                    output.words()
                );
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

impl Module for AptSources {
    const NAME: &'static str = "apt_sources";
    const EXAMPLES: &'static str = r#"
- name: Packages come from the site's mirror and from nowhere else
  ondol.cloud.apt_sources:
    sources:
      mirror: |
        Types: deb
        URIs: http://192.168.10.16/apt/site/current
        Suites: bookworm
        Components: main
        Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
    exclusive: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, desired: &Desired) -> anyhow::Result<Current> {
        let mut current = Current {
            files: self.files()?,
            outdated: BTreeSet::new(),
        };
        // What sources that are about to go offer is of no interest, and they may not even be reachable.
        if desired.refresh && plan_files(desired, &current).is_empty() {
            current.outdated = self.outdated()?;
        }
        Ok(current)
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::WriteSource { path, text, .. } => {
                let path = self.etc().join(path);
                fs::create_dir_all(self.etc().join(FOLDER))
                    .context("create /etc/apt/sources.list.d")?;
                file::write(&path, text, 0o644)
            }
            Step::RemoveSource { path } => fs::remove_file(self.etc().join(path))
                .with_context(|| format!("remove /etc/apt/{}", path.display())),
            Step::DisableSource { path } => {
                let from = self.etc().join(path);
                let mut aside = from.clone().into_os_string();
                aside.push(".disabled");
                fs::rename(&from, aside)
                    .with_context(|| format!("put /etc/apt/{} aside", path.display()))
            }
            Step::RefreshLists { .. } => self.refresh(),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        plan(desired, current)
            .into_iter()
            .filter_map(|step| match step {
                Step::WriteSource { path, text, .. } => Some(TextDiff::new(
                    &format!("/etc/apt/{}", path.display()),
                    current.files.get(&path).cloned().unwrap_or_default(),
                    text,
                )),
                Step::RemoveSource { path } | Step::DisableSource { path } => Some(TextDiff::new(
                    &format!("/etc/apt/{}", path.display()),
                    current.files.get(&path).cloned().unwrap_or_default(),
                    String::new(),
                )),
                Step::RefreshLists { .. } => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
