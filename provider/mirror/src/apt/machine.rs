//! The apt sources of the machine this runs on, as upstreams: which archives, which keys, which proxies. Reads, and changes nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Error;
use super::config::{Trust, Upstream};
use super::sign::Keyring;
use super::sources::{self, Release, SignedBy, Source};
use crate::error::{self, Result};
use crate::fetch::{Options, Proxies};

/// What the machine's apt says.
#[derive(Debug, Clone)]
pub struct Machine {
    /// With what apt last fetched of their Release files.
    pub sources: Vec<(Source, Release)>,
    /// As `apt-config dump` prints it.
    pub apt_config: String,
    /// Of private archives.
    logins: Vec<Login>,
}

impl Machine {
    pub fn observe() -> Result<Self> {
        let sources = read_sources(Path::new("/etc/apt"))?
            .into_iter()
            .map(|source| {
                let release = last_release(&source);
                (source, release)
            })
            .collect();
        let output = Command::new("apt-config")
            .arg("dump")
            .output()
            .map_err(|error| {
                error::Error::io(
                    "read this machine's apt configuration with apt-config",
                    error,
                )
            })?;
        Ok(Self {
            sources,
            apt_config: String::from_utf8_lossy(&output.stdout).into_owned(),
            logins: read_logins(Path::new("/etc/apt"))?,
        })
    }

    /// The archives of one release of a distribution (`Debian`, `bookworm`): itself, its updates and its security fixes. Empty if the
    /// machine has no source for it.
    pub fn upstreams(&self, distribution: &str, suite: &str) -> Result<Vec<Upstream>> {
        sources::select(&self.sources, distribution, suite)
            .iter()
            .map(|source| self.upstream(source))
            .collect()
    }

    /// A suite that the machine has no source for, where it has one for another suite of the same archive: that source, the suite's name
    /// replaced. Updates and security fixes are suites of their own and do not come with it. Empty if the machine lacks the other suite too.
    pub fn upstreams_beside(
        &self,
        distribution: &str,
        suite: &str,
        beside: &str,
    ) -> Result<Vec<Upstream>> {
        sources::beside(&self.sources, distribution, suite, beside)
            .iter()
            .map(|source| self.upstream(source))
            .collect()
    }

    /// A source with its keys read and with the login that apt has for it.
    pub fn upstream(&self, source: &Source) -> Result<Upstream> {
        let mut upstream = upstream(source, self.checks_valid_until())?;
        for uri in &mut upstream.uris {
            *uri = with_login(uri, &self.logins);
        }
        Ok(upstream)
    }

    /// apt's own proxies, timeout and retries, where it has them; all else as by default.
    pub fn fetch_options(&self) -> Options {
        let number = |name: &str| option(&self.apt_config, name)?.parse::<u32>().ok();
        let mut options = Options {
            proxies: Proxies::from_apt_config(&self.apt_config),
            ..Options::default()
        };
        if let Some(seconds) = number("Acquire::http::Timeout").filter(|&seconds| seconds > 0) {
            options.stall_timeout = Duration::from_secs(seconds.into());
        }
        if let Some(retries) = number("Acquire::Retries") {
            options.tries = retries.saturating_add(1).min(20);
        }
        options
    }

    pub fn checks_valid_until(&self) -> bool {
        !option(&self.apt_config, "Acquire::Check-Valid-Until")
            .is_some_and(|value| matches!(value, "false" | "no" | "0" | "off"))
    }
}

/// Name and password for an archive: apt_auth.conf(5).
#[derive(Clone, Default, PartialEq, Eq)]
struct Login {
    /// Host, with a port and the beginning of a path where they matter, and with `http://` where a line in the clear will do.
    machine: String,
    user: String,
    password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({}@{}, ***)", self.user, self.machine)
    }
}

fn read_logins(apt: &Path) -> Result<Vec<Login>> {
    let mut paths = vec![apt.join("auth.conf")];
    paths.extend(
        files_of(&apt.join("auth.conf.d"))?
            .into_iter()
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "conf")
            }),
    );
    let mut logins = Vec::new();
    for path in paths {
        match fs::read_to_string(&path) {
            Ok(text) => logins.extend(parse_logins(&text)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied
                ) => {}
            Err(error) => return Err(error::Error::io(format!("read {}", path.display()), error)),
        }
    }
    Ok(logins)
}

fn parse_logins(text: &str) -> Vec<Login> {
    let mut logins: Vec<Login> = Vec::new();
    let without_comments = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let mut words = without_comments.flat_map(str::split_whitespace);
    while let Some(word) = words.next() {
        let Some(value) = words.next() else { break };
        match (word, logins.last_mut()) {
            ("machine", _) => logins.push(Login {
                machine: value.to_owned(),
                ..Login::default()
            }),
            ("login", Some(login)) => value.clone_into(&mut login.user),
            ("password", Some(login)) => value.clone_into(&mut login.password),
            _ => {}
        }
    }
    logins
}

/// The first login whose machine the address begins with. One without a scheme is for https only, as with apt.
fn with_login(uri: &str, logins: &[Login]) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return uri.to_owned();
    }
    let fits = |login: &&Login| {
        let (of_scheme, place) = login
            .machine
            .split_once("://")
            .unwrap_or(("https", &login.machine));
        let place = place.trim_end_matches('/');
        let without_port = authority.split(':').next().unwrap_or_default();
        of_scheme == scheme
            && (place == without_port
                || rest
                    .strip_prefix(place)
                    .is_some_and(|more| more.is_empty() || more.starts_with('/')))
    };
    match logins.iter().find(fits) {
        Some(login) => format!(
            "{scheme}://{}:{}@{rest}",
            quoted(&login.user),
            quoted(&login.password)
        ),
        None => uri.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Value of an option in the output of `apt-config dump`; the last one counts.
fn option<'a>(dump: &'a str, name: &str) -> Option<&'a str> {
    dump.lines().rev().find_map(|line| {
        let (key, value) = line.trim().strip_suffix(';')?.split_once(' ')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim_matches('"'))
    })
}

/// A source with its keys read.
pub fn upstream(source: &Source, check_valid_until: bool) -> Result<Upstream> {
    Ok(Upstream {
        uris: vec![source.uri.clone()],
        suite: source.suite.clone(),
        components: source.components.clone(),
        trust: if source.trusted {
            Trust::Anyone
        } else {
            Trust::Keyring(keyring(&source.signed_by)?)
        },
        check_valid_until,
    })
}

/// The keys that a `Signed-By` means, as sources.list(5) has it: files, fingerprints, or a key itself; without it whatever apt trusts.
pub fn keyring(signed_by: &SignedBy) -> Result<Keyring> {
    match signed_by {
        SignedBy::Inline(armoured) => Keyring::parse(armoured.as_bytes()).map_err(|reason| {
            Error::Malformed {
                file: "the key in Signed-By".to_owned(),
                reason: reason.to_string(),
            }
            .into()
        }),
        SignedBy::Named(names) => {
            let mut keyring = Keyring::default();
            let mut trusted = None;
            for name in names.split(',').filter(|name| !name.is_empty()) {
                if name.starts_with('/') {
                    keyring.extend(Keyring::load(Path::new(name))?);
                    continue;
                }
                let all = match &trusted {
                    Some(all) => all,
                    None => trusted.insert(trusted_keys(Path::new("/etc/apt"))?),
                };
                // A trailing exclamation mark asks for that very subkey.
                keyring.extend(all.only(name.trim_end_matches('!')));
            }
            Ok(keyring)
        }
        SignedBy::Default => trusted_keys(Path::new("/etc/apt")),
    }
}

fn trusted_keys(apt: &Path) -> Result<Keyring> {
    let mut keyring = Keyring::default();
    let mut files = files_of(&apt.join("trusted.gpg.d"))?;
    files.push(apt.join("trusted.gpg"));
    for path in files {
        let is_keyring = path
            .extension()
            .is_some_and(|extension| extension == "gpg" || extension == "asc");
        if !is_keyring {
            continue;
        }
        match Keyring::load(&path) {
            Ok(more) => keyring.extend(more),
            Err(error::Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            // One bad file does not take the others' trust away.
            Err(error) => tracing::warn!("passed over: {error}"),
        }
    }
    Ok(keyring)
}

fn read_sources(apt: &Path) -> Result<Vec<Source>> {
    let mut paths = vec![apt.join("sources.list")];
    paths.extend(files_of(&apt.join("sources.list.d"))?);
    let mut found = Vec::new();
    for path in paths {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources::parse_list,
            Some("sources") => sources::parse_deb822,
            _ => continue,
        };
        match fs::read_to_string(&path) {
            Ok(text) => found.extend(parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error::Error::io(format!("read {}", path.display()), error)),
        }
    }
    Ok(found)
}

/// Sorted; empty if the directory is not there.
fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error::Error::io(format!("list {}", dir.display()), error)),
    }
}

/// What apt last fetched of the source's Release file, if anything.
fn last_release(source: &Source) -> Release {
    let stem = source.release_file_stem();
    ["InRelease", "Release"]
        .iter()
        .find_map(|end| fs::read_to_string(format!("/var/lib/apt/lists/{stem}{end}")).ok())
        .map_or_else(Release::default, |text| sources::parse_release(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_an_option_counts() {
        let dump = "Acquire::Check-Valid-Until \"true\";\nAcquire \"\";\nacquire::check-valid-until \"false\";\nAcquire::Retries \"1\";\nAcquire::http::Timeout \"7\";\n";
        let machine = Machine {
            sources: Vec::new(),
            apt_config: dump.to_owned(),
            logins: Vec::new(),
        };
        assert!(!machine.checks_valid_until());
        let options = machine.fetch_options();
        assert_eq!(
            (options.tries, options.stall_timeout),
            (2, Duration::from_secs(7))
        );
        assert_eq!(option(dump, "Acquire::Nothing"), None);
    }

    #[test]
    fn a_login_goes_to_its_own_archive_and_never_over_a_line_in_the_clear_unasked() {
        let logins = parse_logins(
            "# mine\nmachine a.example login me password se:cr@t\nmachine b.example/private\n  login you\n  password x\n\
             machine http://c.example:8080 login c password d\nmachine",
        );
        for (uri, expected) in [
            (
                "https://a.example/debian",
                "https://me:se%3Acr%40t@a.example/debian",
            ),
            (
                "https://a.example:8443/debian",
                "https://me:se%3Acr%40t@a.example:8443/debian",
            ),
            ("http://a.example/debian", "http://a.example/debian"),
            ("https://xa.example/debian", "https://xa.example/debian"),
            (
                "https://b.example/private/x",
                "https://you:x@b.example/private/x",
            ),
            ("https://b.example/privateer", "https://b.example/privateer"),
            ("http://c.example:8080/x", "http://c:d@c.example:8080/x"),
            ("http://c.example/x", "http://c.example/x"),
            (
                "https://own:login@a.example/",
                "https://own:login@a.example/",
            ),
            ("file:/srv", "file:/srv"),
        ] {
            assert_eq!(with_login(uri, &logins), expected);
        }
        assert_eq!(format!("{:?}", logins[0]), "Login(me@a.example, ***)");
    }
}
