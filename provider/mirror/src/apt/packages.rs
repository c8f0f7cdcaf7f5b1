//! Packages files: deb822 stanzas, one for each binary package. Pure.
//!
//! A full index is some 50 MB of text and is read on every sync, so that everything here borrows from that text, and fields that nobody
//! has asked for are stepped over.

use memchr::memchr;

/// The fields that a mirror needs. Empty where the stanza has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub architecture: &'a str,
    /// Relative to the archive's root.
    pub filename: &'a str,
    /// In bytes.
    pub size: u64,
    /// 64 hexadecimal digits if well-formed, which is not checked here.
    pub sha256: &'a str,
    pub depends: &'a str,
    pub pre_depends: &'a str,
    pub recommends: &'a str,
    pub provides: &'a str,
    pub priority: &'a str,
    pub essential: bool,
    pub multi_arch: MultiArch,
    /// The whole stanza, ending with its last line's newline if that has one.
    pub stanza: &'a str,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MultiArch {
    #[default]
    No,
    Same,
    Foreign,
    Allowed,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Malformed {
    /// Counted from one; where the stanza begins.
    pub line: usize,
    pub reason: String,
}

/// All packages of an index, in its order.
pub fn parse(text: &str) -> Result<Vec<Package<'_>>, Malformed> {
    // A stanza is about 750 bytes on average; a little too many is better than copying the list.
    let mut packages = Vec::with_capacity(text.len() / 600);
    let mut at = 0;
    while at < text.len() {
        let line = line_at(text, at);
        if is_blank(line) {
            at += line.len();
            continue;
        }
        let (package, end) = stanza(text, at)?;
        packages.push(package);
        at = end;
    }
    Ok(packages)
}

/// With its newline.
fn line_at(text: &str, at: usize) -> &str {
    let rest = &text.as_bytes()[at..];
    let end = memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1);
    &text[at..at + end]
}

fn is_blank(line: &str) -> bool {
    line.bytes().all(|byte| byte.is_ascii_whitespace())
}

fn stanza(text: &str, start: usize) -> Result<(Package<'_>, usize), Malformed> {
    let malformed = |reason: String| Malformed {
        line: 1 + text.as_bytes()[..start]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count(),
        reason,
    };
    let mut package = Package {
        name: "",
        version: "",
        architecture: "",
        filename: "",
        size: 0,
        sha256: "",
        depends: "",
        pre_depends: "",
        recommends: "",
        provides: "",
        priority: "",
        essential: false,
        multi_arch: MultiArch::No,
        stanza: "",
    };
    let mut size = "";
    let mut at = start;
    while at < text.len() {
        let line = line_at(text, at);
        // Only a line that begins with white space can be blank; nearly none does.
        if line.as_bytes()[0].is_ascii_whitespace() && is_blank(line) {
            break;
        }
        let mut end = at + line.len();
        while matches!(text.as_bytes().get(end), Some(b' ' | b'\t')) {
            let more = line_at(text, end);
            if is_blank(more) {
                break;
            }
            end += more.len();
        }
        let whole = &text[at..end];
        at = end;
        let Some(colon) = memchr(b':', whole.as_bytes()) else {
            return Err(malformed(format!(
                "a line without a colon: {:?}",
                whole.trim_end().chars().take(60).collect::<String>()
            )));
        };
        let (key, value) = (&whole[..colon], &whole[colon + 1..]);
        let known = match key.len() {
            4 if key.eq_ignore_ascii_case("Size") => &mut size,
            6 if key.eq_ignore_ascii_case("SHA256") => &mut package.sha256,
            7 if key.eq_ignore_ascii_case("Package") => &mut package.name,
            7 if key.eq_ignore_ascii_case("Version") => &mut package.version,
            7 if key.eq_ignore_ascii_case("Depends") => &mut package.depends,
            8 if key.eq_ignore_ascii_case("Filename") => &mut package.filename,
            8 if key.eq_ignore_ascii_case("Provides") => &mut package.provides,
            8 if key.eq_ignore_ascii_case("Priority") => &mut package.priority,
            9 if key.eq_ignore_ascii_case("Essential") => {
                package.essential = value.trim().eq_ignore_ascii_case("yes");
                continue;
            }
            10 if key.eq_ignore_ascii_case("Multi-Arch") => {
                package.multi_arch = match value.trim() {
                    "same" => MultiArch::Same,
                    "foreign" => MultiArch::Foreign,
                    "allowed" => MultiArch::Allowed,
                    _ => MultiArch::No,
                };
                continue;
            }
            10 if key.eq_ignore_ascii_case("Recommends") => &mut package.recommends,
            11 if key.eq_ignore_ascii_case("Pre-Depends") => &mut package.pre_depends,
            12 if key.eq_ignore_ascii_case("Architecture") => &mut package.architecture,
            _ => continue,
        };
        *known = value.trim();
    }
    package.stanza = &text[start..at];
    for (field, value) in [
        ("Package", package.name),
        ("Version", package.version),
        ("Architecture", package.architecture),
        ("Filename", package.filename),
    ] {
        if value.is_empty() {
            return Err(malformed(format!(
                "a stanza without {field}{}",
                if package.name.is_empty() {
                    String::new()
                } else {
                    format!(", of package {:?}", package.name)
                }
            )));
        }
    }
    package.size = size.parse().map_err(|_| {
        malformed(format!(
            "package {:?} has the size {size:?}, which is no number of bytes",
            package.name
        ))
    })?;
    Ok((package, at))
}

/// The stanza with another `Filename`, ending with a newline and no blank line.
pub fn with_filename(package: &Package<'_>, filename: &str, out: &mut String) {
    let text = package.stanza;
    let mut at = 0;
    while at < text.len() {
        let line = line_at(text, at);
        let is_filename = line
            .get(..9)
            .is_some_and(|start| start.eq_ignore_ascii_case("Filename:"));
        at += line.len();
        if is_filename {
            while matches!(text.as_bytes().get(at), Some(b' ' | b'\t')) {
                at += line_at(text, at).len();
            }
            out.push_str("Filename: ");
            out.push_str(filename);
            out.push('\n');
        } else {
            out.push_str(line.trim_end_matches(['\r', '\n']));
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: &str = "\
Package: hello
Version: 2.10-3
Architecture: amd64
Essential: yes
Multi-Arch: foreign
Depends: libc6 (>= 2.34),
 libx
Description: a friend
 with a long text
 .
 Filename: not this
Filename: pool/main/h/hello_2.10-3_amd64.deb
Size: 1234
SHA256: abcd

\t
package: bye
version: 1
architecture: all
filename: ./bye.deb
size: 5
Priority: important";

    #[test]
    fn stanzas_are_read_field_by_field() {
        let read = parse(TWO).expect("well-formed");
        assert_eq!(read.len(), 2);
        assert_eq!(
            read[0],
            Package {
                name: "hello",
                version: "2.10-3",
                architecture: "amd64",
                filename: "pool/main/h/hello_2.10-3_amd64.deb",
                size: 1234,
                sha256: "abcd",
                depends: "libc6 (>= 2.34),\n libx",
                pre_depends: "",
                recommends: "",
                provides: "",
                priority: "",
                essential: true,
                multi_arch: MultiArch::Foreign,
                stanza: &TWO[..TWO.find("\n\n").expect("is there") + 1],
            }
        );
        assert_eq!((read[1].name, read[1].priority), ("bye", "important"));
        assert!(read[1].stanza.ends_with("important"));
    }

    #[test]
    fn a_broken_stanza_is_named_by_line_and_package() {
        let error = |text: &str| parse(text).expect_err("broken").to_string();
        assert_eq!(
            error(
                "Package: a\nVersion: 1\nArchitecture: all\nFilename: f\nSize: 1\n\nPackage: b\nVersion: 1\n"
            ),
            "line 7: a stanza without Architecture, of package \"b\""
        );
        assert_eq!(
            error("Package a\n"),
            "line 1: a line without a colon: \"Package a\""
        );
        assert_eq!(
            error("Package: a\nVersion: 1\nArchitecture: all\nFilename: f\nSize: -1\n"),
            "line 1: package \"a\" has the size \"-1\", which is no number of bytes"
        );
    }

    #[test]
    fn only_the_file_name_is_changed() {
        let read = parse(TWO).expect("well-formed");
        let mut out = String::new();
        with_filename(&read[0], "pool/x.deb", &mut out);
        assert_eq!(
            out,
            read[0]
                .stanza
                .replace("pool/main/h/hello_2.10-3_amd64.deb", "pool/x.deb")
        );
        out.clear();
        with_filename(&read[1], "pool/y.deb", &mut out);
        assert!(
            out.ends_with("Filename: pool/y.deb\nsize: 5\nPriority: important\n"),
            "{out}"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(Package: a\n|Size: 1\n|[A-Za-z:\n\t é]{0,9}|\n|Version: 1\nArchitecture: x\nFilename: f\n){0,12}") {
            if let Ok(packages) = parse(&text) {
                for package in packages {
                    let mut out = String::new();
                    with_filename(&package, "new", &mut out);
                    let again = parse(&out).expect("what was read can be written");
                    prop_assert_eq!(again.len(), 1);
                    prop_assert_eq!((again[0].name, again[0].filename), (package.name, "new"));
                }
            }
        }
    }
}
