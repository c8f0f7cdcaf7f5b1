//! Writes the provider's reference below a directory, or checks that what is there is up to date.
//!
//! The pages come from the same structs as the schemas; examples come from `examples/`. It knows nothing of the modules' pages,
//! which the module binary writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use terraform_provider_ondol::Ondol;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--check", directory] => check(Path::new(directory)),
        [directory] if !directory.starts_with('-') => write(Path::new(directory)),
        _ => Err(anyhow::anyhow!("usage: ondol-docs [--check] DIRECTORY")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ondol-docs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every page that should be there, by its path below the directory.
fn pages() -> BTreeMap<PathBuf, String> {
    let pages = tfplugin::docs::pages::<Ondol>();
    pages
        .into_iter()
        .map(|page| (page.file.into(), page.markdown))
        .collect()
}

fn write(directory: &Path) -> Result<()> {
    let pages = pages();
    for (file, markdown) in &pages {
        let path = directory.join(file);
        let folder = path.parent().expect("a page lies in the directory");
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(&path, markdown).with_context(|| format!("write {}", path.display()))?;
    }
    for file in present(directory, Path::new(""))?
        .iter()
        .filter(|file| !pages.contains_key(*file))
    {
        let path = directory.join(file);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

fn check(directory: &Path) -> Result<()> {
    let pages = pages();
    let mut stale: BTreeSet<PathBuf> = present(directory, Path::new(""))?;
    stale.retain(|file| !pages.contains_key(file));
    for (file, markdown) in &pages {
        if fs::read_to_string(directory.join(file)).ok().as_ref() != Some(markdown) {
            stale.insert(file.clone());
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = stale
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    bail!(
        "not what the code says: {}; run `make docs` and commit the result",
        names.join(", ")
    )
}

fn present(directory: &Path, below: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let folder = directory.join(below);
    if !folder.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let file = below.join(entry.file_name());
        if entry.path().is_dir() {
            files.extend(present(directory, &file)?);
        } else {
            files.insert(file);
        }
    }
    Ok(files)
}
