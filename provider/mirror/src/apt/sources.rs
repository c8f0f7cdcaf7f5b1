//! apt's sources: parsed, and chosen for one suite. Pure; reading them from the machine is `machine`'s work.
//!
//! Formats: sources.list(5), both the one-line and the deb822 form. Sources that need a CD-ROM are of no use here and are left out.

/// One archive and suite to take packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
    pub signed_by: SignedBy,
    pub trusted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedBy {
    /// Whatever apt trusts by default.
    Default,
    /// Key files or fingerprints, as written.
    Named(String),
    /// An armoured key within the source itself.
    Inline(String),
}

impl Source {
    /// The one-line form, for mmdebstrap and for the fallback's sources.list. `inline_key` is where an inline key was put.
    pub fn line(&self, inline_key: Option<&str>) -> String {
        let mut options = Vec::new();
        match (&self.signed_by, inline_key) {
            (SignedBy::Named(keys), _) => options.push(format!("signed-by={keys}")),
            (SignedBy::Inline(_), Some(path)) => options.push(format!("signed-by={path}")),
            _ => {}
        }
        if self.trusted {
            options.push("trusted=yes".to_owned());
        }
        let options = if options.is_empty() {
            String::new()
        } else {
            format!("[{}] ", options.join(" "))
        };
        format!(
            "deb {options}{} {} {}",
            self.uri,
            self.suite,
            self.components.join(" ")
        )
        .trim_end()
        .to_owned()
    }

    /// Name of this suite's Release file below apt's lists directory, without the final `InRelease` or `Release`.
    pub fn release_file_stem(&self) -> String {
        let uri = self
            .uri
            .split_once("://")
            .map_or(self.uri.as_str(), |(_, rest)| rest);
        let without_login = uri.rsplit_once('@').map_or(uri, |(_, rest)| rest);
        let path = format!(
            "{}/dists/{}/",
            without_login.trim_end_matches('/'),
            self.suite
        );
        path.replace('_', "%5f").replace('/', "_")
    }
}

/// `deb` lines of a one-line style file. Lines that apt itself would reject are passed over.
pub fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let uri = words.next()?.to_owned();
    let suite = words.next()?.to_owned();
    let option = |name: &str| {
        options.split_whitespace().find_map(|option| {
            let (key, value) = option.split_once('=')?;
            (key.trim_end_matches('+').eq_ignore_ascii_case(name)).then(|| value.to_owned())
        })
    };
    usable(&uri).then(|| Source {
        uri,
        suite,
        components: words.map(str::to_owned).collect(),
        signed_by: option("signed-by").map_or(SignedBy::Default, SignedBy::Named),
        trusted: option("trusted").is_some_and(|value| is_yes(&value)),
    })
}

/// Stanzas of a deb822 style file: one source for each URI and suite.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in stanzas(text) {
        let field = |name: &str| {
            stanza
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_str())
        };
        let words = |name: &str| {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let disabled = field("Enabled")
            .is_some_and(|value| matches!(value.trim(), "no" | "false" | "0" | "off"));
        if disabled || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        let signed_by = match field("Signed-By") {
            None => SignedBy::Default,
            Some(value) if value.contains("-----BEGIN PGP") => SignedBy::Inline(unfold_key(value)),
            Some(value) => SignedBy::Named(value.split_whitespace().collect::<Vec<_>>().join(",")),
        };
        for uri in words("URIs").into_iter().filter(|uri| usable(uri)) {
            for suite in words("Suites") {
                sources.push(Source {
                    uri: uri.clone(),
                    suite,
                    components: words("Components"),
                    signed_by: signed_by.clone(),
                    trusted: field("Trusted").is_some_and(is_yes),
                });
            }
        }
    }
    sources
}

type Stanza = Vec<(String, String)>;

fn stanzas(text: &str) -> Vec<Stanza> {
    let mut all = vec![Stanza::new()];
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        let current = all.last_mut().expect("starts with one stanza");
        if line.trim().is_empty() {
            if !current.is_empty() {
                all.push(Stanza::new());
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = current.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            current.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all
}

/// In deb822 an empty line is written as a dot.
fn unfold_key(value: &str) -> String {
    let lines: Vec<&str> = value
        .trim()
        .lines()
        .map(|line| if line == "." { "" } else { line })
        .collect();
    lines.join("\n") + "\n"
}

fn usable(uri: &str) -> bool {
    !uri.starts_with("cdrom:")
}

fn is_yes(value: &str) -> bool {
    matches!(value.trim(), "yes" | "true" | "1" | "on")
}

/// What the Release file of a source says of itself; `None` where apt has not fetched it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    pub origin: Option<String>,
    pub codename: Option<String>,
}

pub fn parse_release(text: &str) -> Release {
    let field = |name: &str| {
        text.lines()
            .take_while(|line| !line.starts_with("-----BEGIN PGP SIGNATURE"))
            .find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix(':')
                    .map(|value| value.trim().to_owned())
            })
    };
    Release {
        origin: field("Origin"),
        codename: field("Codename"),
    }
}

/// The sources to take `suite` of `distribution` from: the suite itself first, then its updates and security fixes. `distribution` is
/// the `Origin` of its Release files, for example `Debian`.
///
/// A third party's archive may use the same suite name, so that the Release file's `Origin` decides where it is known; a source without
/// one counts only with the component `main`. Backports and proposed updates are not part of a release.
pub fn select(sources: &[(Source, Release)], distribution: &str, suite: &str) -> Vec<Source> {
    let wanted = [
        suite.to_owned(),
        format!("{suite}-updates"),
        format!("{suite}-security"),
        format!("{suite}/updates"),
    ];
    let mut chosen: Vec<(usize, Source)> = Vec::new();
    for (source, release) in sources {
        if !is_distribution(source, release, distribution) {
            continue;
        }
        let named = [Some(&source.suite), release.codename.as_ref()]
            .into_iter()
            .flatten();
        // Ubuntu's update suites bear the bare code name in their Release files: the later of the two names says more.
        let Some(rank) = named
            .filter_map(|name| wanted.iter().position(|suite| suite == name))
            .max()
        else {
            continue;
        };
        if excluded(&source.suite) || chosen.iter().any(|(_, other)| other == source) {
            continue;
        }
        chosen.push((rank, source.clone()));
    }
    chosen.sort_by_key(|(rank, _)| *rank);
    if chosen.first().is_none_or(|(rank, _)| *rank != 0) {
        return Vec::new();
    }
    chosen.into_iter().map(|(_, source)| source).collect()
}

/// Sources for `suite`, made of those for `beside`: its archive, keys and components, and the other suite's name.
pub fn beside(
    sources: &[(Source, Release)],
    distribution: &str,
    suite: &str,
    beside: &str,
) -> Vec<Source> {
    let mut made: Vec<Source> = Vec::new();
    for (source, release) in sources {
        // Written as `oldstable` it is known by its code name, which Ubuntu's update suites bear too.
        let by_code_name =
            release.codename.as_deref() == Some(beside) && !source.suite.contains(['-', '/']);
        let is_it = source.suite == beside || by_code_name;
        if !is_it || !is_distribution(source, release, distribution) {
            continue;
        }
        let source = Source {
            suite: suite.to_owned(),
            ..source.clone()
        };
        if !made.contains(&source) {
            made.push(source);
        }
    }
    made
}

fn is_distribution(source: &Source, release: &Release, distribution: &str) -> bool {
    match &release.origin {
        Some(origin) => origin.eq_ignore_ascii_case(distribution),
        None => source
            .components
            .iter()
            .any(|component| component == "main"),
    }
}

fn excluded(suite: &str) -> bool {
    [
        "-backports",
        "-backports-sloppy",
        "-proposed",
        "-proposed-updates",
    ]
    .iter()
    .any(|end| suite.ends_with(end))
}

/// What an error can offer instead: `Debian "bookworm"` and the like, sorted.
pub fn available(sources: &[(Source, Release)]) -> Vec<String> {
    let mut names: Vec<String> = sources
        .iter()
        .map(|(source, release)| match &release.origin {
            Some(origin) => format!("{origin} \"{}\"", source.suite),
            None => format!("\"{}\"", source.suite),
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, components: &[&str], signed_by: SignedBy) -> Source {
        Source {
            uri: uri.into(),
            suite: suite.into(),
            components: components.iter().map(|&c| c.to_owned()).collect(),
            signed_by,
            trusted: false,
        }
    }

    const DEB: &str = "http://mirror.example/debian";

    #[test]
    fn one_line_sources_are_read_with_their_options_and_the_rest_is_passed_over() {
        let text = "\
# a comment
deb http://mirror.example/debian bookworm main contrib # why
deb [arch=amd64 signed-by=/k.gpg] https://docker.example/linux/debian bookworm stable
deb-src http://mirror.example/debian bookworm main
deb [trusted=yes]\tfile:/srv/repo ./
deb cdrom:[Debian 12]/ bookworm main
debug nonsense
";
        let mut flat = source("file:/srv/repo", "./", &[], SignedBy::Default);
        flat.trusted = true;
        assert_eq!(
            parse_list(text),
            [
                source(DEB, "bookworm", &["main", "contrib"], SignedBy::Default),
                source(
                    "https://docker.example/linux/debian",
                    "bookworm",
                    &["stable"],
                    SignedBy::Named("/k.gpg".into())
                ),
                flat,
            ]
        );
    }

    #[test]
    fn deb822_stanzas_are_read_for_each_uri_and_suite() {
        let text = "\
Types: deb deb-src
# http://a.comment/in/the/middle
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/
Suites: bookworm
Components: main

types: deb
uris: http://other.example/x
suites: jammy
components: main
 universe
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----
";
        let keyring = SignedBy::Named("/usr/share/keyrings/debian-archive-keyring.gpg".into());
        let inline = SignedBy::Inline(
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQINBF\n-----END PGP PUBLIC KEY BLOCK-----\n"
                .into(),
        );
        assert_eq!(
            parse_deb822(text),
            [
                source(DEB, "bookworm", &["main"], keyring.clone()),
                source(DEB, "bookworm-updates", &["main"], keyring),
                source(
                    "http://other.example/x",
                    "jammy",
                    &["main", "universe"],
                    inline
                ),
            ]
        );
    }

    #[test]
    fn a_line_says_again_what_was_parsed() {
        let line = "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib";
        assert_eq!(parse_list(line)[0].line(None), line);
        let inline = source(DEB, "bookworm", &["main"], SignedBy::Inline("key".into()));
        assert_eq!(
            inline.line(Some("/tmp/k.asc")),
            format!("deb [signed-by=/tmp/k.asc] {DEB} bookworm main")
        );
    }

    #[test]
    fn the_release_file_is_looked_for_where_apt_puts_it() {
        let s = source(
            "http://user:secret@mirror.example/debian_x/",
            "bookworm",
            &["main"],
            SignedBy::Default,
        );
        assert_eq!(
            s.release_file_stem(),
            "mirror.example_debian%5fx_dists_bookworm_"
        );
    }

    #[test]
    fn a_suite_brings_its_updates_and_security_fixes_and_nothing_of_a_third_party() {
        let plain =
            |suite: &str, components: &[&str]| source(DEB, suite, components, SignedBy::Default);
        let of = |origin: &str, codename: &str| Release {
            origin: Some(origin.into()),
            codename: Some(codename.into()),
        };
        let sources = [
            (
                plain("bookworm-security", &["main"]),
                of("Debian", "bookworm-security"),
            ),
            (plain("bookworm-updates", &["main"]), Release::default()),
            (
                plain("bookworm-backports", &["main"]),
                of("Debian", "bookworm-backports"),
            ),
            (
                source(
                    "https://docker.example",
                    "bookworm",
                    &["stable"],
                    SignedBy::Default,
                ),
                Release::default(),
            ),
            (
                source(
                    "https://corp.example",
                    "bookworm",
                    &["main"],
                    SignedBy::Default,
                ),
                of("Corp", "bookworm"),
            ),
            (plain("stable", &["main"]), of("Debian", "bookworm")),
            (plain("jammy", &["main"]), of("Ubuntu", "jammy")),
        ];
        let suites = |distribution: &str, suite: &str| -> Vec<String> {
            select(&sources, distribution, suite)
                .into_iter()
                .map(|source| source.suite)
                .collect()
        };
        assert_eq!(
            suites("Debian", "bookworm"),
            ["stable", "bookworm-updates", "bookworm-security"]
        );
        assert_eq!(suites("Ubuntu", "jammy"), ["jammy"]);
        assert!(suites("Debian", "jammy").is_empty());
        assert!(suites("Debian", "trixie").is_empty());
    }

    #[test]
    fn updates_without_the_suite_itself_are_no_base_to_build_on() {
        let updates = source(DEB, "bookworm-updates", &["main"], SignedBy::Default);
        assert!(select(&[(updates, Release::default())], "Debian", "bookworm").is_empty());
    }

    #[test]
    fn a_suite_beside_another_has_its_archive_and_keys_alone() {
        let debian = |codename: &str| Release {
            origin: Some("Debian".into()),
            codename: Some(codename.into()),
        };
        let keys = || SignedBy::Named("/k.gpg".into());
        let third = Release {
            origin: Some("Docker".into()),
            codename: Some("bookworm".into()),
        };
        let sources = [
            (
                source("https://docker.example", "bookworm", &["stable"], keys()),
                third,
            ),
            (
                source(DEB, "oldstable", &["main"], keys()),
                debian("bookworm"),
            ),
            (
                source(DEB, "bookworm-updates", &["main"], keys()),
                debian("bookworm"),
            ),
        ];
        let sid = source(DEB, "sid", &["main"], keys());
        for name in ["bookworm", "oldstable"] {
            assert_eq!(
                beside(&sources, "Debian", "sid", name),
                std::slice::from_ref(&sid)
            );
        }
        assert_eq!(beside(&sources, "Debian", "sid", "trixie"), []);
        assert_eq!(beside(&sources, "Ubuntu", "sid", "bookworm"), []);
    }
}
