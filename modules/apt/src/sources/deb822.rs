//! The little of deb822 that finds a mistake in a source before apt is asked: sources.list(5), "DEB822-STYLE FORMAT".
//! What a field may hold is apt's to judge.

/// `Err` says which paragraph lacks or holds what.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut number = 0;
    for paragraph in paragraphs(text) {
        number += 1;
        let fields = fields(&paragraph).map_err(|line| {
            format!("paragraph {number}: the line {line:?} is neither \"Field: value\" nor a continuation, which starts with a space")
        })?;
        for required in ["Types", "URIs", "Suites"] {
            let holds = |(name, value): &(&str, String)| {
                name.eq_ignore_ascii_case(required) && !value.is_empty()
            };
            if !fields.iter().any(holds) {
                return Err(format!("paragraph {number} has no value for {required}"));
            }
        }
        for (index, (name, _)) in fields.iter().enumerate() {
            if fields[..index]
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(name))
            {
                return Err(format!("paragraph {number} has {name} twice"));
            }
        }
    }
    if number == 0 {
        return Err("holds nothing but comments".to_owned());
    }
    Ok(())
}

/// Lines between empty lines, without comments.
fn paragraphs(text: &str) -> Vec<Vec<&str>> {
    let mut found = vec![Vec::new()];
    for line in text.lines() {
        if line.trim().is_empty() {
            found.push(Vec::new());
        } else if !line.starts_with('#')
            && let Some(last) = found.last_mut()
        {
            last.push(line);
        }
    }
    found.retain(|lines| !lines.is_empty());
    found
}

/// `Err` is a line that is none.
fn fields<'a>(lines: &[&'a str]) -> Result<Vec<(&'a str, String)>, &'a str> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().ok_or(*line)?;
            value.push_str(line.trim());
        } else {
            let (name, value) = line.split_once(':').ok_or(*line)?;
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(line);
            }
            fields.push((name, value.trim().to_owned()));
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named() {
        let good = "# site\nTypes: deb\nURIs: http://m/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n";
        let table = [
            (good, Ok(())),
            ("types: deb\nuris: http://m\nsuites: ./\n", Ok(())),
            (
                "Types: deb\nURIs: http://m\n",
                Err("paragraph 1 has no value for Suites"),
            ),
            (
                "Types: deb\nURIs:\nSuites: a\n",
                Err("paragraph 1 has no value for URIs"),
            ),
            (
                "Types: deb\nURIs: http://m\nSuites: a\n\nTypes: deb\n",
                Err("paragraph 2 has no value for URIs"),
            ),
            (
                "deb http://m bookworm main",
                Err(
                    "paragraph 1: the line \"deb http://m bookworm main\" is neither \"Field: value\" nor a continuation, which starts with a space",
                ),
            ),
            (
                "Types: deb\nURIs: a\nSuites: a\nSuites: b\n",
                Err("paragraph 1 has Suites twice"),
            ),
            ("# nothing", Err("holds nothing but comments")),
        ];
        for (text, expected) in table {
            assert_eq!(check(text), expected.map_err(str::to_owned), "{text}");
        }
    }
}
