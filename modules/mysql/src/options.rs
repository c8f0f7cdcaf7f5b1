//! Option files as the server reads them, and the one of ours: found, put together, rendered. What is wanted is decided elsewhere.
//!
//! Syntax: <https://dev.mysql.com/doc/refman/en/option-files.html>.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ondol_kit::Invalid;
use ondol_machine::file;

/// Values by name, names with underscores.
pub type Parameters = BTreeMap<String, String>;

/// What Debian and Ubuntu have the server read.
pub const MAIN: &str = "/etc/mysql/my.cnf";
/// Of the instance. It sorts behind the distribution's files, so that it wins.
pub const OURS: &str = "/etc/mysql/mysql.conf.d/zz-ondol.cnf";
/// Of the modules of replication.
pub const ROLE: &str = "/etc/mysql/mysql.conf.d/zz-ondol-role.cnf";

const DEEPEST: usize = 8;

/// The file with everything that it includes, in order; the file `replaced`, which need not exist, with another text.
pub fn expand(main: &Path, replaced: Option<(&Path, &str)>) -> anyhow::Result<String> {
    let mut text = String::new();
    include(main, replaced, 0, &mut text)?;
    Ok(text)
}

fn include(
    path: &Path,
    replaced: Option<(&Path, &str)>,
    depth: usize,
    into: &mut String,
) -> anyhow::Result<()> {
    anyhow::ensure!(depth < DEEPEST, "{} is included by itself", path.display());
    let text = match replaced {
        Some((at, text)) if at == path => text.to_owned(),
        _ => file::read(path)?.unwrap_or_default(),
    };
    let mut group = String::new();
    for line in text.lines() {
        let line = line.trim();
        let Some(directive) = line.strip_prefix('!') else {
            if line.starts_with('[') {
                group = line.to_owned();
            }
            *into += line;
            into.push('\n');
            continue;
        };
        let (word, at) = directive
            .split_once(char::is_whitespace)
            .unwrap_or((directive, ""));
        let at = Path::new(at.trim());
        match word {
            "include" => include(at, replaced, depth + 1, into)?,
            "includedir" => {
                for path in folder(at, replaced.map(|(path, _)| path))? {
                    include(&path, replaced, depth + 1, into)?;
                }
            }
            _ => {}
        }
        *into += &group;
        into.push('\n');
    }
    Ok(())
}

/// The option files in a folder, with one that is about to be there.
fn folder(path: &Path, also: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = also
        .filter(|it| it.parent() == Some(path))
        .map(Path::to_owned)
        .into_iter()
        .collect();
    match fs::read_dir(path) {
        Ok(entries) => {
            for entry in entries {
                let path = entry
                    .with_context(|| format!("list {}", path.display()))?
                    .path();
                if path.extension().is_some_and(|it| it == "cnf") {
                    found.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("list {}", path.display())),
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// What the server's groups of an expanded file say; a later line wins.
pub fn assignments(text: &str) -> Parameters {
    let mut found = Parameters::new();
    let mut ours = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(group) = line.strip_prefix('[') {
            let group = group.split(']').next().unwrap_or_default().trim();
            ours = matches!(group, "mysqld" | "server");
            continue;
        }
        if !ours {
            continue;
        }
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        found.insert(normal(name.trim()), unquoted(value));
    }
    found
}

/// A name with underscores and in lower case.
pub fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

fn unquoted(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some(end) = rest.rfind(quote)
        {
            return unescaped(&rest[..end]);
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    unescaped(value[..end].trim_end())
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('b') => plain.push('\u{8}'),
            Some('s') => plain.push(' '),
            Some(other) if matches!(other, '\\' | '"' | '\'') => plain.push(other),
            Some(other) => plain.extend(['\\', other]),
            None => plain.push('\\'),
        }
    }
    plain
}

/// Text of an option file of ours.
pub fn render(writer: &str, parameters: &Parameters) -> String {
    let mut text =
        format!("# Written by ondol.cloud.{writer}: a change made here is lost.\n[mysqld]\n");
    for (name, value) in parameters {
        text += &format!("{name} = {}\n", quoted(value));
    }
    text
}

fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:;/*%@+=()&|<>?^~".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return escaped;
    }
    format!("\"{escaped}\"")
}

/// Parameters that a user may write, with their usual names.
pub fn check(parameters: BTreeMap<String, String>) -> Result<Parameters, Invalid> {
    let mut checked = Parameters::new();
    for (name, value) in parameters {
        let at = || format!("parameters.{name}");
        let key = normal(&name);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if key.is_empty() || !key.chars().all(plain) {
            return Err(Invalid::new(at(), "is not the name of a server option"));
        }
        let belongs = match key.as_str() {
            "read_only" | "super_read_only" => Some(
                "who may be written to is decided by ondol.cloud.mysql_replication and ondol.cloud.mysql_source",
            ),
            "datadir" | "socket" | "user" | "pid_file" | "log_error" => {
                Some("belongs to the distribution's package")
            }
            "skip_grant_tables" | "init_file" | "initialize" | "initialize_insecure" => {
                Some("would open the server to everybody, or is not for a running one")
            }
            _ => None,
        };
        if let Some(reason) = belongs {
            return Err(Invalid::new(at(), reason));
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(Invalid::new(at(), "must be one line"));
        }
        if checked.insert(key, value).is_some() {
            return Err(Invalid::new(at(), "is there twice, once with hyphens"));
        }
    }
    Ok(checked)
}

/// Whether a value as the server shows it is the value as it was written: `1G` is 1073741824, `on` is 1.
pub fn same(shown: &str, written: &str) -> bool {
    let (shown, written) = (shown.trim(), written.trim());
    shown.eq_ignore_ascii_case(written)
        || matches!((truth(shown), truth(written)), (Some(a), Some(b)) if a == b)
        || matches!((number(shown), number(written)), (Some(a), Some(b)) if a == b)
        || matches!((shown.parse::<f64>(), written.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "1" | "true" => Some(true),
        "off" | "0" | "false" => Some(false),
        _ => None,
    }
}

/// A number with MySQL's suffix of binary thousands.
pub fn number(text: &str) -> Option<i128> {
    let shift = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        b'P' => 50,
        b'E' => 60,
        _ => return text.parse().ok(),
    };
    let digits: i128 = text[..text.len() - 1].parse().ok()?;
    digits.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Parameters {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn files_are_read_in_the_servers_order_and_ours_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let main = format!(
            "[mysqld]\nport=1\n!includedir {}\nsocket = /s # the usual one\n",
            at("d").display()
        );
        fs::create_dir(at("d")).expect("a folder");
        for (name, text) in [
            ("my.cnf", main.as_str()),
            (
                "d/b.cnf",
                "[mysqld]\nport=2\nmax-connections = 5\n[client]\nport=9\n",
            ),
            ("d/zz.cnf", "[mysqld]\nport=3\n"),
            ("d/readme", "[mysqld]\nport=4\n"),
        ] {
            fs::write(at(name), text).expect("written");
        }
        let read = |replaced| assignments(&expand(&at("my.cnf"), replaced).expect("expanded"));
        assert_eq!(
            read(None),
            map(&[("port", "3"), ("max_connections", "5"), ("socket", "/s")])
        );
        let (old, new) = (at("d/zz.cnf"), at("d/zzz.cnf"));
        assert_eq!(read(Some((&old, "")))["port"], "2");
        assert_eq!(read(Some((&new, "[server]\nport=7")))["port"], "7");
    }

    #[test]
    fn a_file_that_includes_itself_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let main = folder.path().join("my.cnf");
        fs::write(&main, format!("!include {}\n", main.display())).expect("written");
        let error = expand(&main, None).expect_err("endless");
        assert!(error.to_string().contains("included by itself"), "{error}");
    }

    #[test]
    fn what_is_rendered_reads_back() {
        let values = [
            ("a", "1G"),
            ("b", ""),
            ("c", "mysql_clone.so;semisync_source.so"),
            ("d", "has # in it"),
            ("e", r#"back\slash and "quotes" and 'these'"#),
            ("f", " spaces "),
            ("g", "SELECT '비밀'"),
        ];
        assert_eq!(
            assignments(&render("mysql_instance", &map(&values))),
            map(&values)
        );
    }

    #[test]
    fn values_are_compared_as_the_server_means_them() {
        for (shown, written, equal) in [
            ("134217728", "128M", true),
            ("134217728", "128m", true),
            ("ON", "1", true),
            ("ON", "on", true),
            ("OFF", "1", false),
            ("0.500000", "0.5", true),
            ("ROW", "row", true),
            ("", "0", false),
            ("x", "y", false),
        ] {
            assert_eq!(same(shown, written), equal, "{shown} {written}");
        }
    }

    #[test]
    fn options_that_are_not_the_users_are_refused() {
        for (name, value) in [
            ("super-read-only", "ON"),
            ("datadir", "/x"),
            ("a b", "1"),
            ("x", "1\n[client]"),
            ("skip-grant-tables", ""),
        ] {
            let error = check(map(&[(name, value)])).expect_err(name);
            assert_eq!(error.param, format!("parameters.{name}"));
        }
        assert!(
            check(map(&[
                ("max-allowed-packet", "1"),
                ("max_allowed_packet", "2")
            ]))
            .is_err()
        );
        assert_eq!(
            check(map(&[("Max-Connections", "5")])).expect("fine"),
            map(&[("max_connections", "5")])
        );
    }
}
