//! SCRAM-SHA-256 verifiers as `pg_authid` stores them: told apart, compared with a password, made.
//!
//! The server only ever gets a verifier. A password that is sent in the clear can stand in the server's log and in `pg_stat_statements`.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac, pbkdf2};

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Clone, PartialEq, Eq)]
struct Verifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
}

const PREFIX: &str = "SCRAM-SHA-256$";
const KEY_BYTES: usize = 32;

fn parse(text: &str) -> Option<Verifier> {
    let (head, keys) = text.strip_prefix(PREFIX)?.split_once('$')?;
    let (iterations, salt) = head.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let decode = |text: &str| STANDARD.decode(text).ok();
    let verifier = Verifier {
        iterations: iterations.parse().ok()?,
        salt: decode(salt)?,
        stored_key: decode(stored_key)?,
    };
    let sound = verifier.stored_key.len() == KEY_BYTES && decode(server_key)?.len() == KEY_BYTES;
    sound.then_some(verifier)
}

/// Whether what `pg_authid.rolpassword` holds belongs to `password`. `password` may be a verifier itself. A stored MD5 hash never matches: it is to be
/// replaced.
pub(crate) fn matches(stored: &str, password: &str) -> bool {
    if parse(password).is_some() {
        return stored == password;
    }
    let Some(verifier) = parse(stored) else {
        return false;
    };
    let keys = Keys::new(password, verifier.iterations, &verifier.salt);
    keys.stored.as_ref() == verifier.stored_key
}

/// What a verifier keeps of a password.
struct Keys {
    stored: digest::Digest,
    server: hmac::Tag,
}

impl Keys {
    /// RFC 5802, section 3.
    fn new(password: &str, iterations: NonZeroU32, salt: &[u8]) -> Self {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            &prepare(password),
            &mut salted,
        );
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client = hmac::sign(&salted, b"Client Key");
        Self {
            stored: digest::digest(&digest::SHA256, client.as_ref()),
            server: hmac::sign(&salted, b"Server Key"),
        }
    }
}

/// As many as the server takes by itself.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("more than none");

/// What makes two verifiers of one password differ. It is chosen before `plan`, where chance has no place; the verifier, which takes a
/// millisecond, is made when it is needed.
#[derive(Debug, Clone)]
pub(crate) struct Salt([u8; 16]);

impl Salt {
    pub(crate) fn random() -> Self {
        let mut salt = [0; 16];
        SystemRandom::new()
            .fill(&mut salt)
            .expect("the system has random numbers");
        Self(salt)
    }
}

/// What to send for `password`: a new verifier, or the one that it already is.
pub(crate) fn verifier(password: &str, salt: &Salt) -> String {
    if parse(password).is_some() {
        return password.to_owned();
    }
    let keys = Keys::new(password, ITERATIONS, &salt.0);
    format!(
        "{PREFIX}{ITERATIONS}:{}${}:{}",
        STANDARD.encode(salt.0),
        STANDARD.encode(keys.stored),
        STANDARD.encode(keys.server)
    )
}

/// SASLprep, and where that forbids the text the text itself, as the server and libpq do (`pg_saslprep`).
fn prepare(password: &str) -> Vec<u8> {
    stringprep::saslprep(password).map_or_else(
        |_| password.as_bytes().to_vec(),
        |prepared| prepared.as_bytes().to_vec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by PostgreSQL 15.18: `CREATE ROLE x PASSWORD 'pencil'`, salt and all.
    const OF_THE_SERVER: &str = include_str!("../fixtures/scram-verifiers.txt");

    #[test]
    fn verifiers_that_the_server_made_are_recognised() {
        let mut seen = 0;
        for line in OF_THE_SERVER.lines() {
            let (password, stored) = line.split_once('\t').expect("password, tab, verifier");
            assert!(matches(stored, password), "{password}");
            assert!(!matches(stored, &format!("{password}x")), "{password}");
            seen += 1;
        }
        assert!(seen >= 5);
    }

    #[test]
    fn a_verifier_of_ours_matches_only_its_password() {
        for password in [
            "pencil",
            r#"it's "so" \ bad"#,
            "비밀번호",
            "\u{2168}",
            "a\u{ad}b",
            "\u{7}bell",
        ] {
            let made = verifier(password, &Salt::random());
            assert!(matches(&made, password), "{password:?}");
            assert!(!matches(&made, "other"), "{password:?}");
        }
        let of = |password| verifier(password, &Salt::random());
        // SASLprep: Roman numeral nine is "IX", a soft hyphen is nothing.
        assert!(matches(&of("\u{2168}"), "IX"));
        assert!(matches(&of("a\u{ad}b"), "ab"));
    }

    #[test]
    fn a_verifier_stands_for_itself_and_rubbish_for_nothing() {
        let made = verifier("pencil", &Salt::random());
        assert_eq!(verifier(&made, &Salt::random()), made);
        assert!(matches(&made, &made));
        for stored in [
            "",
            "md5abc",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:AA==$AA==:AA==",
            &made[..60],
        ] {
            assert!(!matches(stored, "pencil"), "{stored}");
        }
    }
}
