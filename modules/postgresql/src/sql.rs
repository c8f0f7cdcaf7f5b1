//! Names and texts as SQL writes them, and setting them apart from each other. No statement is made here.

/// An identifier in double quotes. A NUL cannot be in one: [`check_name`] comes first.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant, whatever `standard_conforming_strings` is.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A parenthesised list of string constants for `IN`; never empty.
pub(crate) fn literals<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = texts.into_iter().map(literal).collect();
    if all.is_empty() {
        return "(NULL)".to_owned();
    }
    format!("({})", all.join(", "))
}

/// The length at which the server silently cuts an identifier: NAMEDATALEN less the closing zero.
const NAME_BYTES: usize = 63;

/// Whether the server would keep the name as it is written.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if name.contains('\0') {
        return Err("must not hold a NUL".to_owned());
    }
    if name.len() > NAME_BYTES {
        return Err(format!(
            "{name:?} is {} bytes long; PostgreSQL would cut it to {NAME_BYTES}",
            name.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_stay_inside() {
        assert_eq!(identifier(r#"a"b; DROP"#), r#""a""b; DROP""#);
        for (text, quoted) in [
            ("plain", "'plain'"),
            ("it's", "'it''s'"),
            (r"a\' OR 1", r"E'a\\'' OR 1'"),
            ("비밀", "'비밀'"),
        ] {
            assert_eq!(literal(text), quoted);
        }
        assert_eq!(literals(["a", "b'"]), "('a', 'b''')");
        assert_eq!(literals([]), "(NULL)");
    }

    #[test]
    fn a_name_that_the_server_would_change_is_refused() {
        for (name, good) in [
            ("app", true),
            ("App User", true),
            ("", false),
            ("a\0b", false),
            (&"a".repeat(63), true),
            (&"가".repeat(22), false),
        ] {
            assert_eq!(check_name(name).is_ok(), good, "{name:?}");
        }
    }
}
