//! What a name of a machine may look like. Shared by the modules and the provider; no look-ups.

/// RFC 1123: labels of letters, digits and inner hyphens, up to 253 characters.
pub fn check_domain_name(text: &str) -> Result<(), String> {
    let fine = !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    if fine {
        Ok(())
    } else {
        Err(format!("{text:?} is not a domain name"))
    }
}

/// A host name that Linux can hold (64 bytes), lower case, and not to be taken for an address.
pub fn check_hostname(text: &str) -> Result<(), String> {
    let fine = check_domain_name(text).is_ok()
        && text.len() <= 64
        && !text.bytes().any(|b| b.is_ascii_uppercase())
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if fine {
        Ok(())
    } else {
        Err(format!(
            "{text:?} is not a host name (up to 64 of lower-case letters, digits, inner `-`; labels joined by `.`)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_follow_the_rules_of_linux() {
        for good in ["a", "main-controller-01", "db.infra.internal", "k8s"] {
            assert_eq!(check_hostname(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "Main",
            "a_b",
            "10.0.0.1",
            "a..b",
            &"a".repeat(65),
        ] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
    }
}
