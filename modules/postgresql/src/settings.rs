//! Server parameters: the file that holds them, whether a value is in force already, and the server's own judgement of a candidate.
//!
//! They are kept in a file of ours in Debian's `conf.d`, so that `postgresql.conf` stays the package's and an upgrade asks nobody.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use ondol_kit::Invalid;

use crate::client::{Client, Row};
use crate::cluster::{Cluster, assignments, program};
use crate::sql::literals;

/// Below `conf.d`. Sorted after a distribution's `10-...` and before an administrator's `90-...`.
pub(crate) const FILE: &str = "60-ondol.conf";
const HEADER: &str = "# Written by ondol.cloud. Changes here are lost; put your own into another file of this directory.\n";

pub(crate) type Parameters = BTreeMap<String, String>;

/// What the server says of one parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Setting {
    /// In `unit`.
    pub value: String,
    pub unit: Option<String>,
    /// `bool`, `integer`, `real`, `enum`, `string`.
    pub kind: String,
    /// `postmaster` for those that need a restart.
    pub context: String,
    pub pending_restart: bool,
    /// Set by `ALTER SYSTEM`, which wins over every file.
    pub altered_system: bool,
}

/// Names as the server spells them (it ignores their case), and values without a line break.
pub(crate) fn check(given: BTreeMap<String, String>) -> Result<Parameters, Invalid> {
    const TAKEN: [(&str, &str); 9] = [
        ("port", "is the parameter `port`"),
        ("data_directory", "is the parameter `data_directory`"),
        (
            "unix_socket_directories",
            "is the parameter `socket_directory`",
        ),
        (
            "hba_file",
            "is in Debian's place; the rules are the parameter `pg_hba`",
        ),
        ("ident_file", "is in Debian's place"),
        ("config_file", "is in Debian's place"),
        ("primary_conninfo", "belongs to postgresql_standby"),
        ("primary_slot_name", "belongs to postgresql_standby"),
        (
            "synchronous_standby_names",
            "belongs to postgresql_synchronous",
        ),
    ];
    let mut parameters = Parameters::new();
    for (name, value) in given {
        let path = format!("parameters.{name}");
        let key = name.to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if key.is_empty() || !key.chars().all(plain) {
            return Err(Invalid::new(path, "is not the name of a parameter"));
        }
        if let Some((_, why)) = TAKEN.iter().find(|(taken, _)| *taken == key) {
            return Err(Invalid::new(path, *why));
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(Invalid::new(path, "must be one line"));
        }
        if parameters.insert(key, value).is_some() {
            return Err(Invalid::new(path, "is there twice, in different cases"));
        }
    }
    Ok(parameters)
}

/// The text of the file.
pub(crate) fn render(parameters: &Parameters) -> String {
    let lines = parameters.iter().map(|(name, value)| {
        format!(
            "{name} = '{}'\n",
            value.replace('\\', "\\\\").replace('\'', "''")
        )
    });
    std::iter::once(HEADER.to_owned()).chain(lines).collect()
}

/// Of those whose value differs from what `before`, the file's former text, gave: the names.
pub(crate) fn changed(before: &str, wanted: &Parameters) -> Vec<String> {
    let before = assignments(before);
    let removed = before.keys().filter(|name| !wanted.contains_key(*name));
    let differing = wanted
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, _)| name);
    let mut names: Vec<String> = removed.chain(differing).cloned().collect();
    names.sort_unstable();
    names
}

/// Asks a running server about these parameters; one that it does not know is left out.
pub(crate) fn ask<'a>(
    client: &mut Client,
    names: impl IntoIterator<Item = &'a str>,
) -> anyhow::Result<BTreeMap<String, Setting>> {
    let rows = client
        .query(&format!(
            "SELECT lower(s.name), s.setting, s.unit, s.vartype, s.context, s.pending_restart,
                    EXISTS (SELECT FROM pg_file_settings f
                            WHERE lower(f.name) = lower(s.name) AND f.sourcefile LIKE '%/postgresql.auto.conf')
             FROM pg_settings s WHERE lower(s.name) IN {}",
            literals(names)
        ))
        .context("read pg_settings")?;
    let setting = |row: Row| {
        let setting = Setting {
            value: row.text(1).to_owned(),
            unit: row.optional(2).map(str::to_owned),
            kind: row.text(3).to_owned(),
            context: row.text(4).to_owned(),
            pending_restart: row.text(5) == "t",
            altered_system: row.text(6) == "t",
        };
        (row.text(0).to_owned(), setting)
    };
    Ok(rows.into_iter().map(setting).collect())
}

impl Setting {
    /// Whether the server would take `wanted` for the value that it has.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        let wanted = wanted.trim();
        match self.kind.as_str() {
            "bool" => boolean(wanted).is_some_and(|it| Some(it) == boolean(&self.value)),
            "integer" | "real" => {
                let unit = self.unit.as_deref();
                match (amount(wanted, unit), self.value.parse::<f64>()) {
                    (Some(wanted), Ok(value)) => {
                        (wanted - value).abs() < 1e-9 * value.abs().max(1.0)
                    }
                    _ => false,
                }
            }
            "enum" => wanted.eq_ignore_ascii_case(&self.value),
            _ => wanted == self.value,
        }
    }
}

/// The server takes any beginning of these words that is not also one of the other's.
fn boolean(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || text == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

/// A number with a unit in terms of the parameter's own unit, such as `8kB` or `ms`.
fn amount(text: &str, own: Option<&str>) -> Option<f64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).ok().map(f64::from);
    }
    let end = text
        .find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.trim().parse().ok()?;
    if unit.is_empty() {
        return Some(number);
    }
    let own = own?;
    let split = own.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
    let (count, own) = own.split_at(split);
    let count: f64 = if count.is_empty() {
        1.0
    } else {
        count.parse().ok()?
    };
    let (given, own) = (scale(unit)?, scale(own)?);
    if given.0 != own.0 {
        return None;
    }
    // As the server does for integers: to the nearest of its own unit.
    Some((number * given.1 / (own.1 * count)).round())
}

/// Whether it is bytes (else microseconds), and how many.
fn scale(unit: &str) -> Option<(bool, f64)> {
    Some(match unit {
        "B" => (true, 1.0),
        "kB" => (true, 1024.0),
        "MB" => (true, 1_048_576.0),
        "GB" => (true, 1_073_741_824.0),
        "TB" => (true, 1_099_511_627_776.0),
        "us" => (false, 1.0),
        "ms" => (false, 1e3),
        "s" => (false, 1e6),
        "min" => (false, 6e7),
        "h" => (false, 3.6e9),
        "d" => (false, 8.64e10),
        _ => return None,
    })
}

/// Has the server's own program read the parameters in a file apart. Nothing that runs is touched.
pub(crate) fn validate(cluster: &Cluster, parameters: &Parameters) -> anyhow::Result<()> {
    if parameters.is_empty() || !cluster.is_installed() {
        return Ok(());
    }
    let dir = Apart::make()?;
    let file = dir.0.join("candidate.conf");
    fs::write(&file, render(parameters)).with_context(|| format!("write {}", file.display()))?;
    let read = program(cluster.program("postgres"))
        .args(["-C", "port", "-c"])
        .arg(format!("config_file={}", file.display()))
        .arg("-D")
        .arg(&dir.0)
        .succeed();
    let Err(error) = read else {
        return Ok(());
    };
    Err(complaint(&format!("{error:#}"), parameters).map_or(error, Into::into))
}

/// A directory for one candidate, removed with it.
struct Apart(PathBuf);

impl Apart {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("ondol-postgresql-{}", std::process::id()));
        // Fails if it is there: nobody can have put a link in its place.
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // What stays is a directory in /tmp.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The server's words about the first parameter that it names.
fn complaint(said: &str, parameters: &Parameters) -> Option<Invalid> {
    let words = |line: &str| {
        ["LOG:  ", "FATAL:  ", "ERROR:  "]
            .into_iter()
            .find_map(|mark| line.split_once(mark))
            .map(|(_, words)| words.to_owned())
    };
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        let Some(text) = words(line) else { continue };
        let Some(name) = parameters
            .keys()
            .find(|name| text.contains(&format!("\"{name}\"")))
        else {
            continue;
        };
        // The place is in a file that the user never saw.
        let text = text.split(" in file ").next().unwrap_or_default();
        let hint = lines
            .next()
            .and_then(|line| line.split_once("HINT:  "))
            .map(|(_, hint)| format!(" ({hint})"))
            .unwrap_or_default();
        return Some(Invalid::new(
            format!("parameters.{name}"),
            format!("the server says: {text}{hint}"),
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn setting(kind: &str, unit: Option<&str>, value: &str) -> Setting {
        Setting {
            value: value.to_owned(),
            unit: unit.map(str::to_owned),
            kind: kind.to_owned(),
            ..Setting::default()
        }
    }

    #[test]
    fn a_value_is_the_same_in_other_words() {
        for (kind, unit, has, wanted, same) in [
            ("bool", None, "on", "yes", true),
            ("bool", None, "on", "T", true),
            ("bool", None, "off", "o", false),
            ("bool", None, "off", "0", true),
            ("integer", Some("8kB"), "16384", "128MB", true),
            ("integer", Some("8kB"), "16384", "129MB", false),
            ("integer", Some("8kB"), "16384", "16384", true),
            ("integer", Some("MB"), "1024", "1GB", true),
            ("integer", Some("ms"), "300000", "5min", true),
            ("integer", Some("s"), "300", "5min", true),
            ("integer", Some("s"), "300", "5MB", false),
            ("integer", None, "100", "100", true),
            ("integer", None, "448", "0x1c0", true),
            ("real", None, "0.9", "0.90", true),
            ("real", None, "4", "4.0", true),
            ("enum", None, "replica", "Replica", true),
            ("string", None, "UTC", "utc", false),
        ] {
            assert_eq!(
                setting(kind, unit, has).is(wanted),
                same,
                "{kind} {has} {wanted}"
            );
        }
    }

    #[test]
    fn the_file_reads_back_as_what_was_given() {
        let given = parameters(&[
            ("log_line_prefix", r"%m 'x' \t "),
            ("shared_buffers", "128MB"),
        ]);
        let text = render(&given);
        assert_eq!(assignments(&text), given);
        assert_eq!(changed(&text, &given), [""; 0]);
        assert_eq!(
            changed(
                &text,
                &parameters(&[("shared_buffers", "1GB"), ("work_mem", "4MB")])
            ),
            ["log_line_prefix", "shared_buffers", "work_mem"]
        );
    }

    #[test]
    fn the_servers_words_come_with_the_parameters_name() {
        let given = parameters(&[("shared_bufers", "1GB"), ("work_mem", "lots")]);
        let said = "2026-11-22 16:38:12.144 GMT [5334] LOG:  skipping missing configuration file \"/x\"\n\
                    2026-11-22 16:38:12.144 GMT [5334] LOG:  unrecognized configuration parameter \"shared_bufers\" in file \"/tmp/c.conf\" line 1\n\
                    2026-11-22 16:38:12.144 GMT [5334] FATAL:  configuration file \"/tmp/c.conf\" contains errors";
        assert_eq!(
            complaint(said, &given).map(|it| it.to_string()).as_deref(),
            Some(
                "parameters.shared_bufers: the server says: unrecognized configuration parameter \"shared_bufers\""
            )
        );
        let said = "LOG:  invalid value for parameter \"work_mem\": \"lots\"\nHINT:  Valid units for this parameter are \"B\".";
        assert_eq!(
            complaint(said, &given).map(|it| it.to_string()).as_deref(),
            Some(
                "parameters.work_mem: the server says: invalid value for parameter \"work_mem\": \"lots\" (Valid units for this parameter are \"B\".)"
            )
        );
        assert_eq!(complaint("nothing", &given), None);
    }

    #[test]
    fn what_another_module_decides_is_refused() {
        for (name, good) in [
            ("Work_Mem", true),
            ("port", false),
            ("primary_conninfo", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(check(parameters(&[(name, "1")])).is_ok(), good, "{name}");
        }
        assert!(check(parameters(&[("work_mem", "1\n2")])).is_err());
        assert!(check(parameters(&[("work_mem", "1"), ("WORK_MEM", "2")])).is_err());
    }
}
