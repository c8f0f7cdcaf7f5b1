//! Release files: what an archive says of a suite and of its indexes. Pure.
//!
//! Only SHA-256 counts. Signatures are `sign`'s work.

use std::collections::HashMap;

use super::date;
use crate::digest::Digest;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    pub origin: Option<String>,
    pub label: Option<String>,
    pub suite: Option<String>,
    pub codename: Option<String>,
    /// Seconds since 1970.
    pub date: Option<i64>,
    /// Seconds since 1970.
    pub valid_until: Option<i64>,
    pub architectures: Vec<String>,
    pub components: Vec<String>,
    /// Indexes can be had by their digests too.
    pub by_hash: bool,
    /// Indexes of an architecture do not list the packages of architecture `all`; these have an index of their own.
    pub all_apart: bool,
    /// Path below the suite's directory: size in bytes, digest.
    pub files: HashMap<String, (u64, Digest)>,
}

/// `text` is without signature.
pub fn parse(text: &str) -> Result<Release, String> {
    let mut release = Release::default();
    let mut in_files = false;
    let mut all_elsewhere = true;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if in_files {
                let (path, entry) = file(line).ok_or_else(|| {
                    format!("line {number}: no digest, size and path: {:?}", line.trim())
                })?;
                release.files.insert(path, entry);
            }
            continue;
        }
        let (key, value) = line
            .split_once(':')
            .ok_or_else(|| format!("line {number}: a line without a colon"))?;
        let value = value.trim();
        let is = |name: &str| key.eq_ignore_ascii_case(name);
        let words = || value.split_whitespace().map(str::to_owned).collect();
        let date = || {
            date::parse(value).ok_or_else(|| format!("line {number}: {key}: {value:?} is no date"))
        };
        in_files = is("SHA256");
        if is("Origin") {
            release.origin = Some(value.to_owned());
        } else if is("Label") {
            release.label = Some(value.to_owned());
        } else if is("Suite") {
            release.suite = Some(value.to_owned());
        } else if is("Codename") {
            release.codename = Some(value.to_owned());
        } else if is("Date") {
            release.date = Some(date()?);
        } else if is("Valid-Until") {
            release.valid_until = Some(date()?);
        } else if is("Architectures") {
            release.architectures = words();
        } else if is("Components") {
            release.components = words();
        } else if is("Acquire-By-Hash") {
            release.by_hash = value.eq_ignore_ascii_case("yes");
        } else if is("No-Support-for-Architecture-all") {
            all_elsewhere = !value
                .split_whitespace()
                .any(|word| word.eq_ignore_ascii_case("Packages"));
        }
    }
    release.all_apart = all_elsewhere && release.architectures.iter().any(|name| name == "all");
    Ok(release)
}

fn file(line: &str) -> Option<(String, (u64, Digest))> {
    let mut words = line.split_whitespace();
    let digest = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    let path = words.next()?.to_owned();
    words.next().is_none().then_some((path, (size, digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
Origin: Debian
Label: Debian
Suite: oldstable
Codename: bookworm
Date: Sat, 17 May 2025 08:46:29 UTC
Acquire-By-Hash: yes
No-Support-for-Architecture-all: Packages
Architectures: all amd64
Components: main contrib
Description: Debian 12
MD5Sum:
 d41d8cd98f00b204e9800998ecf8427e        0 main/binary-amd64/Packages
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855       32 main/binary-amd64/Packages.xz
";

    #[test]
    fn a_release_is_read() {
        let release = parse(TEXT).expect("well-formed");
        let empty = Digest::of(b"");
        assert_eq!(
            release,
            Release {
                origin: Some("Debian".into()),
                label: Some("Debian".into()),
                suite: Some("oldstable".into()),
                codename: Some("bookworm".into()),
                date: Some(1_747_471_589),
                valid_until: None,
                architectures: vec!["all".into(), "amd64".into()],
                components: vec!["main".into(), "contrib".into()],
                by_hash: true,
                all_apart: false,
                files: [
                    ("main/binary-amd64/Packages".to_owned(), (0, empty)),
                    ("main/binary-amd64/Packages.xz".to_owned(), (32, empty)),
                ]
                .into(),
            }
        );
        let apart = TEXT.replace("No-Support-for-Architecture-all: Packages\n", "");
        assert!(parse(&apart).expect("well-formed").all_apart);
    }

    #[test]
    fn what_is_malformed_is_told_by_line() {
        let error = |text: &str| parse(text).expect_err("malformed");
        assert_eq!(error("Date: soon"), "line 1: Date: \"soon\" is no date");
        assert_eq!(
            error("Suite: x\nnonsense"),
            "line 2: a line without a colon"
        );
        assert_eq!(
            error("SHA256:\n abc 1 f"),
            "line 2: no digest, size and path: \"abc 1 f\""
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(SHA256:\n|Date: |Valid-Until:|[A-Za-z0-9: \n\té]{0,12}){0,8}") {
            drop(parse(&text));
        }
    }
}
