//! The server's configuration: files of ours among the others, tried by the server itself before they are written, and compared
//! with what runs. It restarts nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ondol_kit::Invalid;
use ondol_machine::file;
use ondol_machine::program::Program;

use crate::server::Server;

/// Where Debian and Ubuntu keep it.
const FOLDER: &str = "/etc/mysql/mariadb.conf.d";
const MAIN: &str = "/etc/mysql/my.cnf";

/// Variables by name with underscores, as the server would have them with its configuration.
pub(crate) type Effective = BTreeMap<String, String>;

/// Names with underscores. `Err` names a parameter `settings.X`.
pub(crate) fn check(
    param: &str,
    given: BTreeMap<String, String>,
    taken: &[&str],
) -> Result<BTreeMap<String, String>, Invalid> {
    let mut settings = BTreeMap::new();
    for (name, value) in given {
        let wrong = |reason: &str| Invalid::new(format!("{param}.{name}"), reason);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(wrong(
                "a variable's name is made of letters, digits and underscores",
            ));
        }
        if value.contains(char::is_control) {
            return Err(wrong(
                "a value has no line breaks or other control characters",
            ));
        }
        let name_in_server = name.replace('-', "_").to_ascii_lowercase();
        if taken.contains(&name_in_server.as_str()) {
            return Err(wrong("another parameter of the module says this"));
        }
        if settings.insert(name_in_server, value).is_some() {
            return Err(wrong("given twice, with hyphens and with underscores"));
        }
    }
    Ok(settings)
}

/// The text of an option file. `module` is named in its head.
pub(crate) fn render(module: &str, settings: &BTreeMap<String, String>) -> String {
    let mut text =
        format!("# Written by ondol.cloud.{module}; changes are overwritten.\n[mariadbd]\n");
    for (name, value) in settings {
        text += &format!("{name} = {}\n", quoted(value));
    }
    text
}

/// As option files want it: see "Option File Syntax" in MariaDB's documentation.
fn quoted(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:,;=+*%@".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\"))
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// What the server would make of its configuration with this file in it. An `Err` is the server's refusal.
pub(crate) fn with_file(name: &str, text: &str) -> anyhow::Result<Effective> {
    let Some(main) = file::read(Path::new(MAIN))? else {
        bail!("there is no {MAIN}: is mariadb-server installed?");
    };
    let scratch = tempfile::Builder::new()
        .prefix("ondol-mariadb-")
        .tempdir()
        .context("make a folder for the configuration to be tried")?;
    let folder = scratch.path().join("conf.d");
    fs::create_dir(&folder).context("make a folder for the configuration to be tried")?;
    for entry in fs::read_dir(FOLDER).with_context(|| format!("list {FOLDER}"))? {
        let other = entry.with_context(|| format!("list {FOLDER}"))?.file_name();
        if other.to_string_lossy().ends_with(".cnf") && other.to_string_lossy() != name {
            fs::copy(Path::new(FOLDER).join(&other), folder.join(&other))
                .with_context(|| format!("copy {}", other.display()))?;
        }
    }
    file::write(&folder.join(name), text, 0o600)?;
    let tried = scratch.path().join("my.cnf");
    file::write(
        &tried,
        &main.replace(FOLDER, &folder.display().to_string()),
        0o600,
    )?;
    effective(&[format!("--defaults-file={}", tried.display())])
}

/// What the server would make of its configuration as it is.
pub(crate) fn as_is() -> anyhow::Result<Effective> {
    effective(&[])
}

fn effective(defaults: &[String]) -> anyhow::Result<Effective> {
    let output = Program::new("mariadbd")
        .args(defaults)
        .args(["--help", "--verbose"])
        .within(Duration::from_secs(60))
        .run()
        .context("let the server read its configuration")?;
    let wrong = complaints(&output.stderr);
    if !output.status.success() || !wrong.is_empty() {
        let wrong = if wrong.is_empty() {
            output.words().to_owned()
        } else {
            wrong
        };
        bail!("the server refuses its configuration: {wrong}");
    }
    Ok(table(&output.stdout))
}

/// The server's errors, and values that it would silently replace by others. It exits with 0 after some of them.
fn complaints(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .filter_map(|line| {
            let error = line.split_once("[ERROR]").map(|(_, words)| words);
            let adjusted = line
                .split_once("[Warning]")
                .map(|(_, words)| words)
                .filter(|words| words.contains(" adjusted to "));
            let words = error.or(adjusted)?.trim();
            Some(
                words
                    .split_once("Buffered error: ")
                    .map_or(words, |(_, it)| it),
            )
        })
        .map(|words| {
            words
                .split_once("Buffered warning: ")
                .map_or(words, |(_, it)| it)
        })
        .collect();
    lines.join("; ")
}

/// The table at the end of `mariadbd --help --verbose`.
fn table(text: &str) -> Effective {
    text.lines()
        .skip_while(|line| !line.starts_with("-----"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            let value = match value.trim() {
                "(No default value)" => "",
                value => value,
            };
            (!name.is_empty()).then(|| (name.replace('-', "_"), value.to_owned()))
        })
        .collect()
}

/// A variable of ours that the server runs with otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drift {
    pub(crate) name: String,
    pub(crate) wanted: String,
    pub(crate) running: String,
    /// It can be set while the server runs.
    pub(crate) dynamic: bool,
}

/// What a running server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) value: String,
    pub(crate) read_only: bool,
}

/// What a server that takes queries runs with.
pub(crate) fn running(server: &Server) -> anyhow::Result<BTreeMap<String, Running>> {
    let read_only: BTreeMap<String, bool> = server
        .query("SELECT LOWER(VARIABLE_NAME), READ_ONLY FROM information_schema.SYSTEM_VARIABLES")
        .context("ask the server which variables can be set")?
        .into_iter()
        .filter_map(|row| row.try_into().ok())
        .map(|[name, read_only]: [String; 2]| (name, read_only == "YES"))
        .collect();
    let rows = server
        .query("SHOW GLOBAL VARIABLES")
        .context("ask the server for its variables")?;
    Ok(rows
        .into_iter()
        .filter_map(|row| row.try_into().ok())
        .map(|[name, value]: [String; 2]| {
            let read_only = read_only.get(&name).copied().unwrap_or(true);
            (name, Running { value, read_only })
        })
        .collect())
}

/// `name` was checked to be one of the server's variables.
pub(crate) fn set(server: &Server, name: &str, value: &str) -> anyhow::Result<()> {
    let literal = match value.parse::<i64>() {
        Ok(number) => number.to_string(),
        Err(_) => format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")),
    };
    server
        .query(&format!("SET GLOBAL {name} = {literal}"))
        .map(drop)
}

/// Names of the variables that a file of ours sets.
pub(crate) fn assigned(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with(['#', '[']))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim())
        .collect()
}

/// `names` are the variables of ours.
pub(crate) fn drift<'a>(
    names: impl IntoIterator<Item = &'a str>,
    effective: &Effective,
    running: &BTreeMap<String, Running>,
) -> Vec<Drift> {
    names
        .into_iter()
        .filter_map(|name| {
            let wanted = effective.get(name)?;
            // An option that is no variable cannot be asked for.
            let is = running.get(name)?;
            let same = match name {
                "wsrep_provider_options" => provider_options_hold(wanted, &is.value),
                _ => same_value(wanted, &is.value),
            };
            (!same).then(|| Drift {
                name: name.to_owned(),
                wanted: wanted.clone(),
                running: is.value.clone(),
                dynamic: !is.read_only && !name.starts_with("wsrep_"),
            })
        })
        .collect()
}

/// Variables that only a restart brings about. The address list counts when the server starts, and then it is read anew.
pub(crate) fn needs_restart(drift: &[Drift]) -> Vec<String> {
    drift
        .iter()
        .filter(|it| !it.dynamic && it.name != "wsrep_cluster_address")
        .map(|it| format!("{} ({:?} instead of {:?})", it.name, it.wanted, it.running))
        .collect()
}

/// The server's help and its variables write the same value in two ways.
fn same_value(a: &str, b: &str) -> bool {
    fn plain(value: &str) -> String {
        match value.to_ascii_uppercase().as_str() {
            "TRUE" | "ON" | "YES" => "1".to_owned(),
            "FALSE" | "OFF" | "NO" => "0".to_owned(),
            // A directory with its slash or without.
            other => match other.strip_suffix('/') {
                Some(path) if path.starts_with('/') => path.to_owned(),
                _ => other.to_owned(),
            },
        }
    }
    plain(a) == plain(b)
}

/// `k = v; k = v`: a running provider names all of its options, the configuration only some.
pub(crate) fn provider_options(text: &str) -> BTreeMap<&str, &str> {
    text.split(';')
        .filter_map(|it| it.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect()
}

fn provider_options_hold(wanted: &str, running: &str) -> bool {
    let running = provider_options(running);
    provider_options(wanted)
        .iter()
        .all(|(name, value)| running.get(name).is_some_and(|is| same_value(is, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn names_are_the_servers_and_values_are_one_line() {
        let taken = ["wsrep_on"];
        for (name, value, error) in [
            (
                "wsrep-on",
                "ON",
                "settings.wsrep-on: another parameter of the module says this",
            ),
            (
                "a b",
                "1",
                "settings.a b: a variable's name is made of letters, digits and underscores",
            ),
            (
                "a",
                "1\n[client]",
                "settings.a: a value has no line breaks or other control characters",
            ),
        ] {
            let found = check("settings", map(&[(name, value)]), &taken).unwrap_err();
            assert_eq!(found.to_string(), error);
        }
        assert_eq!(
            check("settings", map(&[("Max-Connections", "9")]), &taken).unwrap(),
            map(&[("max_connections", "9")])
        );
    }

    #[test]
    fn a_value_that_means_something_in_a_file_is_quoted() {
        let text = render(
            "m",
            &map(&[("a", "gcomm://1.2.3.4,b"), ("b", "x # y\\z"), ("c", "")]),
        );
        assert_eq!(
            text,
            "# Written by ondol.cloud.m; changes are overwritten.\n[mariadbd]\n\
             a = gcomm://1.2.3.4,b\nb = \"x # y\\\\z\"\nc = \"\"\n"
        );
    }

    #[test]
    fn the_servers_refusal_is_kept_and_its_chatter_is_not() {
        let stderr = "2026-11-22 17:15:57 0 [Warning] Could not increase number of max_open_files to more than 20000 (request: 32184)\n\
             2026-11-22 17:15:57 0 [Warning] Buffered warning: option 'max_connections': unsigned value 5 adjusted to 10\n\
             2026-11-22 17:15:57 0 [ERROR] mariadbd: unknown variable 'foo=1'\n";
        assert_eq!(
            complaints(stderr),
            "option 'max_connections': unsigned value 5 adjusted to 10; mariadbd: unknown variable 'foo=1'"
        );
        assert_eq!(
            complaints("2026-11-22 0 [Warning] Could not increase\n"),
            ""
        );
    }

    #[test]
    fn the_table_of_variables_is_read() {
        let text = "mariadbd  Ver 10.11\n\nVariables (--variable-name=value)\n\
             and boolean options {FALSE|TRUE}    Value (after reading options)\n\
             ----------------------- -------------\n\
             bind-address            (No default value)\nwsrep-on                TRUE\nwsrep-cluster-address   \n\nTo see what\n";
        assert_eq!(
            table(text),
            map(&[
                ("bind_address", ""),
                ("wsrep_on", "TRUE"),
                ("wsrep_cluster_address", "")
            ])
        );
    }

    #[test]
    fn only_what_differs_is_drift_and_wsrep_needs_a_restart() {
        let running: BTreeMap<String, Running> = [
            ("wsrep_on", "ON", false),
            ("max_connections", "151", false),
            ("bind_address", "127.0.0.1", true),
            ("wsrep_slave_threads", "1", false),
            ("datadir", "/var/lib/mysql/", true),
            (
                "wsrep_provider_options",
                "base_dir = /var; gcache.size = 128M; pc.weight = 1; ",
                false,
            ),
        ]
        .into_iter()
        .map(|(name, value, read_only)| {
            let value = value.to_owned();
            (name.to_owned(), Running { value, read_only })
        })
        .collect();
        let wanted = map(&[
            ("wsrep_on", "TRUE"),
            ("max_connections", "200"),
            ("bind_address", "0.0.0.0"),
            ("wsrep_slave_threads", "4"),
            ("datadir", "/var/lib/mysql"),
            ("wsrep_provider_options", "gcache.size=128M;pc.weight=1"),
        ]);
        let found: Vec<(String, bool)> =
            drift(wanted.keys().map(String::as_str), &wanted, &running)
                .into_iter()
                .map(|it| (it.name, it.dynamic))
                .collect();
        let named = |name: &str, dynamic| (name.to_owned(), dynamic);
        assert_eq!(
            found,
            [
                named("bind_address", false),
                named("max_connections", true),
                named("wsrep_slave_threads", false)
            ]
        );
    }
}
