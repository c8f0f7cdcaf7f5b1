//! From upstream's indexes to what the mirror will hold: the packages, the indexes that list them, and where to fetch from. Reads
//! indexes from the pool; fetches and publishes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::closure::{Id, Universe, Unsatisfied};
use super::config::{Config, Selection};
use super::index::unpack;
use super::packages::{self, Package};
use super::upstream::{ANY, IndexFile};
use super::{Error, packages::parse};
use crate::digest::{Digest, Hasher};
use crate::error::Result;
use crate::fetch::Download;
use crate::pool::Pool;

/// One package of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub version: String,
    /// Its own, which may be `all`.
    pub architecture: String,
    pub component: String,
    pub sha256: Digest,
    /// In bytes.
    pub size: u64,
    /// Below the mirror's own directory and in its indexes, for example `pool/1a/1a2b3c4d5e6f7081-hello_2.10-3_amd64.deb`.
    pub file: String,
    /// Where it was found.
    pub source: String,
}

/// A package that was asked for and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Missing {
    pub package: String,
    /// The chain that fails, from what was asked for down to what is not there.
    pub reason: String,
}

/// A Packages file of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexText {
    pub component: String,
    pub architecture: String,
    pub text: String,
    /// Of the text.
    pub sha256: Digest,
}

impl IndexText {
    pub(crate) fn new(component: String, architecture: String, text: String) -> Self {
        Self {
            component,
            architecture,
            sha256: Digest::of(text.as_bytes()),
            text,
        }
    }
}

/// What a snapshot will be, before it has a name and a date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    /// Sorted.
    pub packages: Vec<Entry>,
    /// Sorted by component and architecture; there is one for each pair.
    pub indexes: Vec<IndexText>,
    pub missing: Vec<Missing>,
    /// See [`digest`].
    pub digest: Digest,
}

/// What makes two snapshots the same: their suite and their indexes, which hold the digests of all packages. Dates and signatures do not
/// count, so that another site's copy has the same digest.
pub(crate) fn digest(suite: &str, indexes: &[IndexText]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(format!("ondol apt snapshot 1\n{suite}\n").as_bytes());
    for index in indexes {
        let IndexText {
            component,
            architecture,
            sha256,
            ..
        } = index;
        hasher.update(format!("{component} {architecture} {sha256}\n").as_bytes());
    }
    hasher.finish()
}

/// Also answers with how to fetch each of the packages, in their order.
pub(crate) fn select(
    config: &Config,
    files: &[IndexFile],
    pool: &Pool,
) -> Result<(Draft, Vec<Download>)> {
    let texts: Vec<String> = read_all(files, pool)?;
    let mut parsed: Vec<Vec<Package<'_>>> = Vec::new();
    for (file, text) in files.iter().zip(&texts) {
        parsed.push(parse(text).map_err(|error| Error::Malformed {
            file: file.download.name.clone(),
            reason: error.to_string(),
        })?);
    }
    let mut entries: Vec<(Entry, Download)> = Vec::new();
    let mut components: BTreeSet<String> = BTreeSet::new();
    for upstream in &config.upstreams {
        components.extend(upstream.components());
    }
    let mut indexes: BTreeMap<(String, String), String> = components
        .iter()
        .flat_map(|component| {
            config
                .architectures
                .iter()
                .map(move |architecture| ((component.clone(), architecture.clone()), String::new()))
        })
        .collect();
    let mut missing: BTreeSet<Missing> = BTreeSet::new();
    let mut unsatisfied: Vec<Unsatisfied> = Vec::new();
    for architecture in &config.architectures {
        let used: Vec<usize> = (0..files.len())
            .filter(|&index| {
                let of = &files[index].architecture;
                of == architecture || of == "all" || of == ANY
            })
            .collect();
        let universe = Universe::new(
            architecture,
            used.iter().map(|&index| parsed[index].clone()).collect(),
        );
        let chosen = match &config.selection {
            Selection::Everything => universe.everything(),
            Selection::Closure(request) => {
                let closure = universe.closure(request);
                if config.allow_missing {
                    missing.extend(closure.unsatisfied.iter().map(|gap| Missing {
                        package: gap.package.clone(),
                        reason: gap.chain.join(": "),
                    }));
                } else {
                    unsatisfied.extend(closure.unsatisfied);
                }
                closure.packages
            }
        };
        for id in chosen {
            let file = &files[used[universe.origin(id) as usize]];
            let (entry, download) = entry(config, &universe, id, file)?;
            let index = indexes
                .get_mut(&(entry.component.clone(), architecture.clone()))
                .expect("there is an index for each component of an upstream");
            if !index.is_empty() {
                index.push('\n');
            }
            packages::with_filename(universe.package(id), &entry.file, index);
            entries.push((entry, download));
        }
    }
    if !unsatisfied.is_empty() {
        unsatisfied.dedup();
        return Err(Error::Unsatisfied(unsatisfied).into());
    }
    let indexes: Vec<IndexText> = indexes
        .into_iter()
        .map(|((component, architecture), text)| IndexText::new(component, architecture, text))
        .collect();
    // One of architecture `all` comes with each of the others.
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries.dedup_by(|(a, _), (b, _)| a == b);
    let (packages, downloads) = entries.into_iter().unzip();
    Ok((
        Draft {
            packages,
            digest: digest(&config.suite, &indexes),
            indexes,
            missing: missing.into_iter().collect(),
        },
        downloads,
    ))
}

/// On as many cores as there are indexes: unpacking is most of the work.
fn read_all(files: &[IndexFile], pool: &Pool) -> Result<Vec<String>> {
    let read = |file: &IndexFile| {
        let bytes = pool.read(&file.sha256)?;
        unpack(&bytes, file.compression, file.unpacked_size).map_err(|error| {
            Error::Malformed {
                file: file.download.name.clone(),
                reason: error.to_string(),
            }
            .into()
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|file| scope.spawn(move || read(file)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("unpacking does not panic"))
            .collect()
    })
}

fn entry(
    config: &Config,
    universe: &Universe<'_>,
    id: Id,
    file: &IndexFile,
) -> Result<(Entry, Download), Error> {
    let package = universe.package(id);
    let sha256: Digest = package.sha256.parse().map_err(|_| Error::Malformed {
        file: file.download.name.clone(),
        reason: format!(
            "package {} {} has no SHA-256 digest, without which it cannot be proven",
            package.name, package.version
        ),
    })?;
    let urls: Vec<String> = config.upstreams[file.upstream]
        .uris
        .iter()
        .map(|uri| format!("{}/{}", uri.trim_end_matches('/'), quoted(package.filename)))
        .collect();
    let entry = Entry {
        name: package.name.to_owned(),
        version: package.version.to_owned(),
        architecture: package.architecture.to_owned(),
        component: file.component.clone(),
        sha256,
        size: package.size,
        file: place(package, &sha256),
        source: crate::error::shown(&urls[0]),
    };
    let download = Download::new(package.filename, urls, Some(package.size), sha256);
    Ok((entry, download))
}

/// By digest, so that an address never means two contents, whatever upstream does with its names; and in few directories, because to make
/// one costs as much as to link a file.
fn place(package: &Package<'_>, sha256: &Digest) -> String {
    let digest = sha256.to_string();
    let last = package.filename.rsplit('/').next().unwrap_or_default();
    let is_plain = last.starts_with(|c: char| c.is_ascii_alphanumeric())
        && last.chars().all(|c| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '~' | '%' | ':')
        });
    let name = if is_plain { last } else { "package.deb" };
    format!("pool/{}/{}-{name}", &digest[..2], &digest[..16])
}

/// For a URL. As apt does it: a plus sign too, which some servers take for a space.
fn quoted(path: &str) -> String {
    let mut quoted = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b'~') {
            quoted.push(char::from(byte));
        } else {
            quoted += &format!("%{byte:02x}");
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_quoted_as_apt_quotes_it() {
        assert_eq!(
            quoted("pool/main/g/g++/g++_1%3a2~rc1 x.deb"),
            "pool/main/g/g%2b%2b/g%2b%2b_1%253a2~rc1%20x.deb"
        );
    }

    #[test]
    fn a_place_comes_of_the_digest_and_never_leads_elsewhere() {
        let text = "Package: a\nVersion: 1\nArchitecture: all\nFilename: NAME\nSize: 1\n";
        let digest = Digest::of(b"");
        for (filename, last) in [
            ("pool/a/a_1%3a2_all.deb", "a_1%3a2_all.deb"),
            ("./a.deb", "a.deb"),
            ("../..", "package.deb"),
            ("x/.hidden", "package.deb"),
            ("x/a b", "package.deb"),
        ] {
            let text = text.replace("NAME", filename);
            let package = parse(&text).expect("well-formed")[0];
            assert_eq!(
                place(&package, &digest),
                format!("pool/e3/e3b0c44298fc1c14-{last}")
            );
        }
    }

    #[test]
    fn the_digest_is_of_suite_and_indexes_in_order() {
        let index = |component: &str, text: &str| {
            IndexText::new(component.into(), "amd64".into(), text.into())
        };
        let one = digest("s", &[index("a", "x"), index("b", "y")]);
        assert_eq!(one, digest("s", &[index("a", "x"), index("b", "y")]));
        assert_ne!(one, digest("s", &[index("a", "y"), index("b", "x")]));
        assert_ne!(one, digest("t", &[index("a", "x"), index("b", "y")]));
    }
}
