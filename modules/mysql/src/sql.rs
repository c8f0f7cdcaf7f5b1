//! Names and texts as SQL writes them, and setting them apart from each other. No statement is made here.

/// An identifier in backticks. A NUL cannot be in one: [`check_name`] comes first.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string constant. Each session of ours leaves backslashes their meaning: see [`crate::client`].
pub fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for c in text.chars() {
        match c {
            '\'' => literal.push_str("''"),
            '\\' => literal.push_str("\\\\"),
            '\0' => literal.push_str("\\0"),
            c => literal.push(c),
        }
    }
    literal.push('\'');
    literal
}

/// Bytes as a hexadecimal constant.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("0x{digits}")
}

/// The bytes of what `HEX()` printed.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect::<Option<Vec<u8>>>()
        .filter(|_| digits.len().is_multiple_of(2))
}

/// An account as SQL writes it.
pub fn account(user: &str, host: &str) -> String {
    format!("{}@{}", literal(user), literal(host))
}

/// Whether the server takes the name as it is written: at most so many characters, none of them NUL.
pub fn check_name(name: &str, characters: usize) -> Result<(), String> {
    if name.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if name.contains('\0') {
        return Err("must not hold a NUL".to_owned());
    }
    let length = name.chars().count();
    if length > characters {
        return Err(format!(
            "{name:?} is {length} characters long; the server takes {characters}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_stay_inside() {
        assert_eq!(identifier("a`b; DROP"), "`a``b; DROP`");
        for (text, quoted) in [
            ("plain", "'plain'"),
            ("it's", "'it''s'"),
            (r"a\' OR 1", r"'a\\'' OR 1'"),
            ("비밀", "'비밀'"),
        ] {
            assert_eq!(literal(text), quoted);
        }
        assert_eq!(account("o'k", "%"), "'o''k'@'%'");
    }

    #[test]
    fn bytes_go_through_hexadecimal_unchanged() {
        assert_eq!(hexadecimal(b"$A\0\xff"), "0x244100FF");
        assert_eq!(unhex("244100ff").as_deref(), Some(&b"$A\0\xff"[..]));
        assert_eq!(unhex(""), Some(Vec::new()));
        for broken in ["2", "2g", "244"] {
            assert_eq!(unhex(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_name_that_the_server_would_not_take_is_refused() {
        for (name, good) in [
            ("app", true),
            ("", false),
            ("a\0b", false),
            (&"가".repeat(32), true),
            (&"a".repeat(33), false),
        ] {
            assert_eq!(check_name(name, 32).is_ok(), good, "{name:?}");
        }
    }
}
