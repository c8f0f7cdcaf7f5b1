//! How a registry wants to be asked, and the credentials that a person already keeps for it. Pure: the requests are
//! `client.rs`'s.
//!
//! Challenges: RFC 9110 section 11.6.1; tokens: the distribution project's token authentication. Credential helpers and
//! identity tokens are not supported: an entry that has no user name and password is passed over.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// What a registry's `WWW-Authenticate` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        /// Where tokens are to be had.
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The first challenge in the headers that can be met; tokens before passwords.
pub(crate) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut found: Vec<Challenge> = headers.flat_map(challenges).collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found.into_iter().next()
}

fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        match after.trim_start().strip_prefix('=') {
            Some(value) => {
                let (value, after) = parameter_value(value.trim_start());
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.insert(word.to_ascii_lowercase(), value);
                }
                rest = after;
            }
            None => {
                found.push((word.to_ascii_lowercase(), BTreeMap::new()));
                rest = after;
            }
        }
    }
    found
        .into_iter()
        .filter_map(|(scheme, mut parameters)| match scheme.as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => Some(Challenge::Bearer {
                realm: parameters.remove("realm")?,
                service: parameters.remove("service"),
                scope: parameters.remove("scope"),
            }),
            _ => None,
        })
        .collect()
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            c => value.push(c),
        }
    }
    (value, "")
}

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, ***)", self.user)
    }
}

impl Credentials {
    /// The value of an `Authorization` header.
    pub(crate) fn header(&self) -> String {
        let text = format!("{}:{}", self.user, self.password);
        format!("Basic {}", STANDARD.encode(text))
    }
}

/// Credentials by registry, as `docker login`, `podman login` and `skopeo login` write them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthFile(BTreeMap<String, Credentials>);

/// Why a file of credentials cannot be used. Never says what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthFile {
    #[error("it is not JSON with \"auths\" (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("the entry of {0:?} is not \"user:password\" in base 64")]
    Entry(String),
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    auths: BTreeMap<String, RawEntry>,
}

#[derive(Deserialize)]
struct RawEntry {
    auth: Option<String>,
}

impl AuthFile {
    pub fn parse(text: &str) -> Result<Self, InvalidAuthFile> {
        // serde's own words could quote a secret.
        let raw: RawFile = serde_json::from_str(text).map_err(|error| InvalidAuthFile::Json {
            line: error.line(),
            column: error.column(),
        })?;
        let mut entries = BTreeMap::new();
        for (key, entry) in raw.auths {
            let Some(auth) = entry.auth.filter(|auth| !auth.is_empty()) else {
                continue;
            };
            let decoded = STANDARD
                .decode(auth.trim())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':'))
            else {
                return Err(InvalidAuthFile::Entry(key));
            };
            let credentials = Credentials {
                user: user.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            };
            entries.insert(host_of(&key).to_owned(), credentials);
        }
        Ok(Self(entries))
    }

    pub fn get(&self, registry: &str) -> Option<&Credentials> {
        self.0.get(registry)
    }
}

/// Older clients wrote whole URLs.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn a_challenge_is_read_in_every_form_that_http_allows() {
        let cases: [(&[&str], Option<Challenge>); 7] = [
            (
                &[
                    r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
                ],
                bearer(
                    "https://auth.example/token",
                    Some("registry.example"),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            (&[r#"Basic realm="basic-realm""#], Some(Challenge::Basic)),
            (&[r#"basic"#], Some(Challenge::Basic)),
            (
                &[r#"Basic realm="x, Bearer", bearer realm = "https://a.example/\"t" , service=s"#],
                bearer("https://a.example/\"t", Some("s"), None),
            ),
            (
                &["Basic realm=x", "Bearer realm=y"],
                bearer("y", None, None),
            ),
            (&["Negotiate", "Bearer"], None),
            (
                &[r#"Bearer realm="unclosed"#],
                bearer("unclosed", None, None),
            ),
        ];
        for (headers, expected) in cases {
            assert_eq!(challenge(headers.iter().copied()), expected, "{headers:?}");
        }
    }

    #[test]
    fn credentials_are_found_by_registry_and_never_shown() {
        let text = r#"{"auths": {
            "registry.example:5000": {"auth": "dXNlcjpwYTpzcw=="},
            "https://old.example/v1/": {"auth": "YTpi"},
            "helper.example": {}
        }}"#;
        let file = AuthFile::parse(text).unwrap();
        let found = file.get("registry.example:5000").unwrap();
        assert_eq!(
            (found.user.as_str(), found.password.as_str()),
            ("user", "pa:ss")
        );
        assert_eq!(found.header(), "Basic dXNlcjpwYTpzcw==");
        assert!(file.get("old.example").is_some());
        assert!(file.get("helper.example").is_none() && file.get("registry.example").is_none());
        assert!(!format!("{file:?}").contains("pa:ss"));
    }

    #[test]
    fn a_file_of_credentials_that_cannot_be_read_does_not_show_its_text() {
        let cases = [
            (r#"{"auths": {"a.example": {"auth": 5}}}"#, "line 1"),
            (
                r#"{"auths": {"a.example": {"auth": "c2VjcmV0"}}}"#,
                "a.example",
            ),
            ("secret", "not JSON"),
        ];
        for (text, words) in cases {
            let error = AuthFile::parse(text).expect_err(text).to_string();
            assert!(
                error.contains(words) && !error.contains("c2VjcmV0") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
