//! Keys of cephx, and keyrings that hold them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ondol_kit::Secret;
use serde::Deserialize;

/// A key as Ceph writes it: base64 of type 1, the time it was made, its length, and 16 bytes.
pub(crate) fn check(key: &Secret) -> Result<(), &'static str> {
    const WRONG: &str = "is not a key of Ceph's; `ceph-authtool --gen-print-key` makes one";
    let bytes = BASE64_STANDARD.decode(key.expose()).map_err(|_| WRONG)?;
    let fine = bytes.len() == 28 && bytes[..2] == [1, 0] && bytes[10..12] == [16, 0];
    if fine { Ok(()) } else { Err(WRONG) }
}

/// Capabilities by kind of daemon, such as `mon`: `allow r`.
pub(crate) type Caps = BTreeMap<String, String>;

/// One user as `ceph auth get --format json` prints it, in a list of one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct User {
    pub(crate) key: Secret,
    #[serde(default)]
    pub(crate) caps: Caps,
}

/// The text of a keyring.
pub(crate) fn keyring(entity: &str, key: &Secret, caps: &Caps) -> String {
    let mut text = format!("[{entity}]\n\tkey = {}\n", key.expose());
    for (kind, words) in caps {
        let _ = writeln!(text, "\tcaps {kind} = \"{words}\"");
    }
    text
}

/// The key of a user in the text of a keyring.
pub(crate) fn in_keyring(text: &str, entity: &str) -> Option<Secret> {
    let mut within = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            within = name == entity;
        } else if within
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == "key"
        {
            return Some(Secret::new(value.trim()));
        }
    }
    None
}

/// Spaces around commas and between words mean nothing to Ceph.
pub(crate) fn same_caps(a: &Caps, b: &Caps) -> bool {
    let tidy = |caps: &Caps| -> BTreeMap<String, String> {
        caps.iter()
            .filter(|(_, words)| !words.trim().is_empty())
            .map(|(kind, words)| {
                let parts: Vec<String> = words
                    .split(',')
                    .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect();
                (kind.clone(), parts.join(", "))
            })
            .collect()
    };
    tidy(a) == tidy(b)
}

/// `mon "allow r", osd "profile rbd"`.
pub(crate) fn show(caps: &Caps) -> String {
    let parts: Vec<String> = caps
        .iter()
        .map(|(kind, words)| format!("{kind} {words:?}"))
        .collect();
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Arguments of `ceph auth`: kind and words in turn.
pub(crate) fn arguments(caps: &Caps) -> Vec<&str> {
    caps.iter()
        .flat_map(|(kind, words)| [kind.as_str(), words.as_str()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_ceph_pass() {
        for (key, fine) in [
            ("AQBzzzzzAAAAABAAvzzzzzzzzzzzzzzzzzzzzA==", true),
            // A password of 16 letters in a key's frame, as a playbook can make it.
            ("AQAAAAAAAAAAABAAYWJjZGVmZ2hpamtsbW5vcA==", true),
            ("AQBzzzzzAAAAABAAvzzzzzzzzzzz", false),
            ("not a key", false),
            ("", false),
        ] {
            assert_eq!(check(&Secret::new(key)).is_ok(), fine, "{key}");
        }
    }

    #[test]
    fn capabilities_are_compared_by_meaning() {
        let caps = |words: &str| Caps::from([("osd".to_owned(), words.to_owned())]);
        assert!(same_caps(
            &caps("allow r,allow  w"),
            &caps("allow r, allow w")
        ));
        assert!(!same_caps(&caps("allow r"), &caps("allow rw")));
        assert!(same_caps(&caps(""), &Caps::new()));
    }

    #[test]
    fn a_keyring_has_the_form_that_ceph_writes() {
        let caps = Caps::from([("mon".to_owned(), "allow r".to_owned())]);
        assert_eq!(
            keyring("client.app", &Secret::new("K=="), &caps),
            "[client.app]\n\tkey = K==\n\tcaps mon = \"allow r\"\n"
        );
    }

    #[test]
    fn a_key_is_found_in_its_own_section_only() {
        let text = "[client.a]\n\tkey = A==\n[client.b]\n\tkey=B==\n\tcaps mon = \"allow r\"\n";
        assert_eq!(in_keyring(text, "client.b"), Some(Secret::new("B==")));
        assert_eq!(in_keyring(text, "client.c"), None);
    }
}
