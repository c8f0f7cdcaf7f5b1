//! What `caching_sha2_password` stores for a password, made and compared here, so that neither the password nor a statement with it goes to
//! the server.
//!
//! The text is `$A$005$`, twenty bytes of salt, and 43 characters: SHA-crypt with SHA-256 (<https://www.akkadia.org/drepper/SHA-crypt.txt>)
//! in `005` thousand rounds, except that the salt is longer than the sixteen bytes that crypt(3) takes.

use ring::digest::{Context, SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};

const SALT: usize = 20;
const PREFIX: &[u8] = b"$A$";
/// What `caching_sha2_password_digest_rounds` is unless someone changed it.
const THOUSANDS: u32 = 5;
/// The order in which SHA-crypt writes six bits each.
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What the server would store for the password, with a new salt.
pub fn verifier(password: &str) -> Vec<u8> {
    let mut salt = [0; SALT];
    SystemRandom::new()
        .fill(&mut salt)
        .expect("the system has random numbers");
    // Letters, so that the salt needs no quoting in any log or dump; 119 bits of chance are left.
    for byte in &mut salt {
        *byte = ALPHABET[usize::from(*byte & 63)];
    }
    stored(password, &salt, THOUSANDS)
}

/// Whether what the server has stored is the password's. What it cannot read is not.
pub fn matches(stored_text: &[u8], password: &str) -> bool {
    let Some((thousands, salt)) = parse(stored_text) else {
        return false;
    };
    stored(password, salt, thousands) == stored_text
}

/// Thousands of rounds and the salt.
fn parse(text: &[u8]) -> Option<(u32, &[u8])> {
    let rest = text.strip_prefix(PREFIX)?;
    let (digits, rest) = rest.split_at_checked(3)?;
    let salt = rest.strip_prefix(b"$")?.get(..SALT)?;
    let thousands = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (thousands > 0).then_some((thousands, salt))
}

fn stored(password: &str, salt: &[u8], thousands: u32) -> Vec<u8> {
    // An empty password is stored as nothing.
    if password.is_empty() {
        return Vec::new();
    }
    let mut text = PREFIX.to_vec();
    text.extend(format!("{thousands:03X}$").bytes());
    text.extend(salt);
    text.extend(encode(&crypt(password.as_bytes(), salt, thousands * 1000)));
    text
}

/// The numbered steps are those of the specification.
fn crypt(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 32] {
    // 4 to 8.
    let b = hash(&[password, salt, password]);
    // 1 to 3, 9 to 12.
    let mut a = Context::new(&SHA256);
    a.update(password);
    a.update(salt);
    a.update(&repeated(&b, password.len()));
    let mut bits = password.len();
    while bits > 0 {
        a.update(if bits & 1 == 1 { &b } else { password });
        bits >>= 1;
    }
    let a = finished(a);
    // 13 to 16.
    let mut dp = Context::new(&SHA256);
    for _ in 0..password.len() {
        dp.update(password);
    }
    let p = repeated(&finished(dp), password.len());
    // 17 to 20.
    let mut ds = Context::new(&SHA256);
    for _ in 0..16 + usize::from(a[0]) {
        ds.update(salt);
    }
    let s = repeated(&finished(ds), salt.len());
    // 21.
    let mut a = a;
    for round in 0..rounds {
        let mut c = Context::new(&SHA256);
        c.update(if round & 1 == 1 { &p } else { &a });
        if !round.is_multiple_of(3) {
            c.update(&s);
        }
        if !round.is_multiple_of(7) {
            c.update(&p);
        }
        c.update(if round & 1 == 1 { &a } else { &p });
        a = finished(c);
    }
    a
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    finished(context)
}

fn finished(context: Context) -> [u8; 32] {
    let digest = context.finish();
    digest
        .as_ref()
        .try_into()
        .expect("SHA-256 is 32 bytes long")
}

fn repeated(bytes: &[u8; 32], length: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(length).collect()
}

/// 22: groups of three bytes in an order of their own, least significant bits first.
fn encode(bytes: &[u8; 32]) -> Vec<u8> {
    let mut text = Vec::with_capacity(43);
    let mut push = |value: u32, characters: usize| {
        for place in 0..characters {
            text.push(ALPHABET[(value >> (6 * place)) as usize & 63]);
        }
    };
    let byte = |index: usize| u32::from(bytes[index]);
    let (mut x, mut y, mut z) = (0, 10, 20);
    for _ in 0..10 {
        push(byte(x) << 16 | byte(y) << 8 | byte(z), 4);
        (x, y, z) = (z + 1, x + 1, y + 1);
    }
    push(byte(31) << 8 | byte(30), 3);
    text
}

/// The answer to the server's challenge: proves the password without showing it.
pub fn scramble(password: &[u8], challenge: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = digest(&SHA256, password);
    let twice = digest(&SHA256, once.as_ref());
    let mask = hash(&[twice.as_ref(), challenge]);
    let pairs = once.as_ref().iter().zip(mask);
    pairs.map(|(byte, mask)| byte ^ mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::unhex;

    /// From MySQL 9.7.4: `SELECT HEX(authentication_string) FROM mysql.user` after `CREATE USER ... IDENTIFIED BY`.
    const STORED: [(&str, &str); 2] = [
        (
            "hunter2",
            "2441243030412451661E1E2503035C6C574A7E756D764952563F2848357A64692F6F4E72586268636556324E473049495463637A54616275614137634C366D57575375326834",
        ),
        (
            "p\"ä';x",
            "244124303041245F024B4B2E4E102D6F455B222F0A3927036F5E5D536468533556374172384E384B4E7853504232784C745A45702F437677636E5563666E702E6C396E427237",
        ),
    ];

    #[test]
    fn what_a_server_stored_is_known_again() {
        for (password, digits) in STORED {
            let stored = unhex(digits).expect("hexadecimal");
            assert!(matches(&stored, password), "{password}");
            assert!(!matches(&stored, "other"), "{password}");
            assert!(!matches(&stored, ""), "{password}");
        }
    }

    #[test]
    fn the_rounds_are_the_specifications() {
        // As `openssl passwd -5 -salt` prints them.
        for (password, salt, wanted) in [
            (
                "Hello world!",
                "saltstring",
                "5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
            ),
            (
                "a very much longer text to encrypt.  This one even stretches over morethan one line.",
                "anotherlongsalts",
                "xDOFsdwNAstVE3491M3cBSSbHS4ksOOPoR7XlHBf4G1",
            ),
        ] {
            let encoded = encode(&crypt(password.as_bytes(), salt.as_bytes(), 5000));
            assert_eq!(String::from_utf8_lossy(&encoded), wanted);
        }
    }

    #[test]
    fn a_new_verifier_is_the_passwords_and_never_the_same() {
        for password in ["x", "it's \\ \"비밀\"", &"long".repeat(100)] {
            let (one, two) = (verifier(password), verifier(password));
            assert_ne!(one, two);
            assert_eq!(one.len(), 70);
            assert!(one.starts_with(b"$A$005$"));
            assert!(matches(&one, password) && matches(&two, password));
            assert!(!matches(&one, "y"));
        }
    }

    #[test]
    fn what_is_not_such_a_text_matches_nothing() {
        for stored in [
            &b""[..],
            b"$A$",
            b"$A$005$short",
            b"*81F5E21E35407D884A6CD4A731AEBFB6AF209E1B",
            b"$A$000$",
            b"$A$xyz$aaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert!(!matches(stored, "x"), "{stored:?}");
        }
    }
}
