//! What goes into a golden image, and the name that follows from it. Pure: nothing here touches the machine.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Raised whenever the same recipe would come out differently, so that caches are not mistaken for the new form.
const FORMAT: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    Debian,
    Ubuntu,
}

impl fmt::Display for Distribution {
    /// As in the `Origin` field of the distribution's Release files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
        })
    }
}

/// How much of the distribution is there before `packages` are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Essential packages, priority `required`, and apt.
    #[default]
    Minbase,
    /// What an ordinary installation has: also priorities `important` and `standard`.
    Standard,
}

/// A golden image as data. Two recipes that mean the same have the same [`Recipe::digest`], whatever the order of their lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub distribution: Distribution,
    /// Code name of the release, for example `bookworm` or `jammy`.
    pub suite: String,
    #[serde(default)]
    pub variant: Variant,
    /// Binary packages. [`Recipe::base_packages`] is what every VM of the lab needs.
    pub packages: Vec<String>,
    #[serde(default)]
    pub users: Vec<User>,
    /// Where packages come from while the image is built, as deb822 text; this machine's own apt sources if not said. `copy:`, `file:`,
    /// `http:` and `https:` URIs. A mirror that changes under one URI does not change the digest: name its snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apt_sources: Option<String>,
    /// What the image itself has in [`IMAGE_SOURCES_PATH`], as deb822 text; no source at all if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_sources: Option<String>,
}

/// Where [`Recipe::image_sources`] goes, from the image's root.
pub const IMAGE_SOURCES_PATH: &str = "etc/apt/sources.list.d/ondol.sources";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Made with a locked password: it can log in with a key only.
    pub name: String,
    /// May become root without a password.
    #[serde(default)]
    pub sudo: bool,
    /// Lines of OpenSSH's `authorized_keys`.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
}

/// What a VM needs to boot under systemd, be reached by SSH, be managed by Ansible and take a netplan. `udev` is for `netplan apply`.
/// Beside these Debian needs `systemd-resolved`, which it packs apart: without it netplan's name servers have no effect.
const BASE_PACKAGES: &[&str] = &[
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "netplan.io",
    "openssh-server",
    "python3-apt",
    "python3-minimal",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
];

impl Recipe {
    /// The smallest image that a lab VM or a VirtualBox VM boots from.
    pub fn base(distribution: Distribution, suite: &str) -> Self {
        Self {
            distribution,
            suite: suite.to_owned(),
            variant: Variant::Minbase,
            packages: Self::base_packages(distribution)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            users: Vec::new(),
            apt_sources: None,
            image_sources: None,
        }
    }

    /// Of the support list: Debian 12 and Ubuntu 22.04, or newer.
    pub fn base_packages(distribution: Distribution) -> Vec<&'static str> {
        let apart = match distribution {
            Distribution::Debian => Some("systemd-resolved"),
            Distribution::Ubuntu => None,
        };
        BASE_PACKAGES.iter().copied().chain(apart).collect()
    }

    /// Everything that can be said without looking at the machine.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field: String, reason: String| Err(Error::InvalidRecipe { field, reason });
        if !is_word(&self.suite, "-.") {
            return invalid(
                "suite".into(),
                format!("\"{}\" is not the code name of a release", self.suite),
            );
        }
        for (index, package) in self.packages.iter().enumerate() {
            if package.len() < 2 || !is_word(package, "+-.") {
                return invalid(
                    format!("packages[{index}]"),
                    format!("\"{package}\" is not the name of a package"),
                );
            }
        }
        for (field, text) in [
            ("apt_sources", &self.apt_sources),
            ("image_sources", &self.image_sources),
        ] {
            if let Some(text) = text
                && let Err(reason) = check_sources(text)
            {
                return invalid(field.into(), reason);
            }
        }
        let mut seen = BTreeSet::new();
        for (index, user) in self.users.iter().enumerate() {
            let field = |name: &str| format!("users[{index}].{name}");
            if user.name.len() > 32
                || !user.name.starts_with(|c: char| c.is_ascii_lowercase())
                || !is_word(&user.name, "-_")
            {
                return invalid(
                    field("name"),
                    format!("\"{}\" is not a user's name", user.name),
                );
            }
            if !seen.insert(&user.name) {
                return invalid(field("name"), format!("\"{}\" is used twice", user.name));
            }
            if user.sudo && !self.packages.iter().any(|package| package == "sudo") {
                return invalid(
                    field("sudo"),
                    "needs the package \"sudo\" in `packages`".into(),
                );
            }
            for (line, key) in user.authorized_keys.iter().enumerate() {
                if key.contains(['\n', '\r']) || key.split_whitespace().count() < 2 {
                    return invalid(
                        field(&format!("authorized_keys[{line}]")),
                        "is not one line of an authorized_keys file (type, key, comment)".into(),
                    );
                }
            }
        }
        Ok(())
    }

    /// Hexadecimal SHA-256 of what the recipe means, for the processor that this program runs on.
    pub fn digest(&self) -> String {
        #[derive(Serialize)]
        struct Meaning<'a> {
            format: u32,
            architecture: &'a str,
            distribution: Distribution,
            suite: &'a str,
            variant: Variant,
            packages: BTreeSet<&'a str>,
            users: Vec<(&'a str, bool, BTreeSet<&'a str>)>,
            #[serde(skip_serializing_if = "Option::is_none")]
            apt_sources: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            image_sources: Option<&'a str>,
        }
        let mut users: Vec<_> = self
            .users
            .iter()
            .map(|user| {
                (
                    user.name.as_str(),
                    user.sudo,
                    user.authorized_keys.iter().map(|key| key.trim()).collect(),
                )
            })
            .collect();
        users.sort_unstable();
        let meaning = Meaning {
            format: FORMAT,
            architecture: std::env::consts::ARCH,
            distribution: self.distribution,
            suite: &self.suite,
            variant: self.variant,
            packages: self.packages.iter().map(String::as_str).collect(),
            users,
            apt_sources: self.apt_sources.as_deref(),
            image_sources: self.image_sources.as_deref(),
        };
        let text =
            serde_json::to_vec(&meaning).expect("the meaning of a recipe has only string keys");
        sha256(&text)
    }
}

fn check_sources(text: &str) -> Result<(), String> {
    const SCHEMES: &[&str] = &["copy:/", "file:/", "http://", "https://"];
    let sources = ondol_mirror::apt::sources::parse_deb822(text);
    if sources.is_empty() {
        return Err("has no stanza with Types: deb, URIs and Suites".to_owned());
    }
    match sources
        .iter()
        .find(|source| !SCHEMES.iter().any(|scheme| source.uri.starts_with(scheme)))
    {
        Some(source) => Err(format!(
            "\"{}\" is not an absolute copy:, file:, http: or https: URI",
            source.uri
        )),
        None => Ok(()),
    }
}

/// Lower-case letters, digits and `also`, not beginning with any of the latter.
fn is_word(text: &str, also: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(c))
}

/// In hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            users: vec![
                User {
                    name: "ondol".into(),
                    sudo: true,
                    authorized_keys: vec!["ssh-ed25519 AAAA a".into()],
                },
                User {
                    name: "app".into(),
                    sudo: false,
                    authorized_keys: vec![],
                },
            ],
            ..Recipe::base(Distribution::Debian, "bookworm")
        }
    }

    const SOURCES: &str =
        "Types: deb\nURIs: copy:/srv/mirror\nSuites: bookworm\nComponents: main\n";

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_recipe_without_sources_keeps_the_digest_it_always_had() {
        assert_eq!(
            Recipe::base(Distribution::Debian, "bookworm").digest(),
            "b36a8000b4d8799ae803ddff3257d8cbac458e7c4f534ee9890fff95f996ae2f"
        );
    }

    #[test]
    fn the_order_of_lists_and_repeated_packages_do_not_change_the_digest() {
        let mut other = recipe();
        other.packages.reverse();
        other.packages.push("curl".into());
        other.users.reverse();
        assert_eq!(recipe().digest(), other.digest());
        assert_eq!(recipe().digest().len(), 64);
    }

    #[test]
    fn each_thing_that_a_recipe_says_changes_the_digest() {
        let base = recipe().digest();
        let changes: [fn(&mut Recipe); 8] = [
            |r| r.suite = "trixie".into(),
            |r| r.distribution = Distribution::Ubuntu,
            |r| r.variant = Variant::Standard,
            |r| r.packages.push("nginx".into()),
            |r| r.users[0].sudo = false,
            |r| r.users[0].authorized_keys[0] = "ssh-ed25519 BBBB a".into(),
            |r| r.apt_sources = Some(SOURCES.into()),
            |r| r.image_sources = Some(SOURCES.into()),
        ];
        for change in changes {
            let mut other = recipe();
            change(&mut other);
            assert_ne!(base, other.digest(), "{other:?}");
        }
    }

    #[test]
    fn a_bad_recipe_is_refused_with_the_field_named() {
        type Case = (fn(&mut Recipe), &'static str);
        let cases: [Case; 9] = [
            (|r| r.suite = "../etc".into(), "suite"),
            (|r| r.packages[1] = "--force".into(), "packages[1]"),
            (
                |r| r.apt_sources = Some("deb http://m x main".into()),
                "apt_sources",
            ),
            (
                |r| r.image_sources = Some(SOURCES.replace("copy:/", "cdrom:")),
                "image_sources",
            ),
            (|r| r.packages.retain(|p| p != "sudo"), "users[0].sudo"),
            (|r| r.users[1].name = "Root".into(), "users[1].name"),
            (|r| r.users[1].name = "ondol".into(), "users[1].name"),
            (
                |r| r.users[0].authorized_keys[0] = "AAAA".into(),
                "users[0].authorized_keys[0]",
            ),
            (
                |r| r.users[0].authorized_keys[0] = "ssh-rsa A\nssh-rsa B".into(),
                "users[0].authorized_keys[0]",
            ),
        ];
        recipe().validate().expect("the base recipe is fine");
        Recipe {
            apt_sources: Some(SOURCES.into()),
            ..recipe()
        }
        .validate()
        .expect("a mirror on the disk is fine");
        for (change, wanted) in cases {
            let mut bad = recipe();
            change(&mut bad);
            match bad.validate() {
                Err(Error::InvalidRecipe { field, .. }) => assert_eq!(field, wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
    }
}
