//! `samba_share`: one share of the SMB server, a section of `smb.conf`. Every other line of that file is left as it is.
//!
//! Global options and users are not its business. Samba reads its configuration again by itself, so a run that was killed before the
//! reload leaves nothing to mend.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{bail, ensure};
use ondol_kit::{Invalid, Module, TextDiff};
use ondol_machine::file;
use ondol_machine::program::Program;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::service::{self, Unit, absolute, word};

/// Share a directory by SMB, or stop to
///
/// The new C(smb.conf) is judged by testparm before it replaces the old one; an option that Samba does not know is an error. The directory must
/// exist. Clients that are connected stay connected.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the share.
    name: String,
    /// Directory to share. Required for `present`.
    path: Option<String>,
    /// What people see beside the name.
    comment: Option<String>,
    /// Whether clients may only read.
    #[serde(default)]
    read_only: bool,
    /// Users who may connect, or groups with an C(@) before them. Every user of the server if left out.
    #[serde(default)]
    users: Vec<String>,
    /// Further options of smb.conf(5) for this share.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// Whether the share should exist.
    #[serde(default)]
    state: State,
}

/// Whether it should exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Present,
    Absent,
}

/// Options by name, in lower case with single blanks.
type Section = BTreeMap<String, String>;

/// `Params` after checking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    name: String,
    section: Option<Section>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        word("name", params.name.trim_end_matches('$'))?;
        if ["global", "homes", "printers", "print$"].contains(&params.name.to_lowercase().as_str())
        {
            return Err(Invalid::new(
                "name",
                format!("{:?} means something else to Samba", params.name),
            ));
        }
        if params.state == State::Absent {
            return Ok(Self {
                name: params.name,
                section: None,
            });
        }
        let path = params
            .path
            .ok_or_else(|| Invalid::new("path", "is required for a share that is present"))?;
        absolute("path", &path)?;
        let mut section = Section::from([
            ("path".to_owned(), path),
            (
                "read only".to_owned(),
                if params.read_only { "yes" } else { "no" }.to_owned(),
            ),
        ]);
        if let Some(comment) = params.comment {
            section.insert("comment".to_owned(), comment);
        }
        if !params.users.is_empty() {
            for user in &params.users {
                word("users", user.trim_start_matches('@'))?;
            }
            section.insert("valid users".to_owned(), params.users.join(" "));
        }
        for (name, value) in params.settings {
            let at = || format!("settings.{name}");
            if section.insert(key(&name), value).is_some() {
                return Err(Invalid::new(at(), "is a parameter of its own"));
            }
        }
        for (name, value) in &section {
            if name.is_empty() || name.contains(['=', '[', '\n', '#', ';']) {
                return Err(Invalid::new(
                    format!("settings.{name}"),
                    "is not an option's name",
                ));
            }
            if value.contains('\n') || value.ends_with('\\') || value.trim() != value {
                return Err(Invalid::new(
                    format!("settings.{name}"),
                    format!("{value:?} does not fit on a line"),
                ));
            }
        }
        Ok(Self {
            name: params.name,
            section: Some(section),
        })
    }
}

/// Blanks and case in an option's name mean nothing to Samba.
fn key(name: &str) -> String {
    let words: Vec<String> = name.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

/// The lines of a section, from its header to its last option.
fn lines_of(text: &str, name: &str) -> Option<std::ops::Range<usize>> {
    let header = |line: &str| {
        let line = line.trim();
        line.strip_prefix('[')?.strip_suffix(']').map(key)
    };
    let lines: Vec<&str> = text.lines().collect();
    let start = lines
        .iter()
        .position(|line| header(line).is_some_and(|it| it == key(name)))?;
    let end = lines[start + 1..]
        .iter()
        .position(|line| header(line).is_some())
        .map_or(lines.len(), |it| start + 1 + it);
    // A comment before the next header is that one's.
    let own = lines[start..end]
        .iter()
        .rposition(|line| !is_comment(line))
        .expect("the header is no comment");
    Some(start..start + own + 1)
}

fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with(['#', ';'])
}

fn section(text: &str, name: &str) -> Option<Section> {
    let range = lines_of(text, name)?;
    let mut section = Section::new();
    let mut lines = text.lines().take(range.end).skip(range.start + 1);
    while let Some(line) = lines.next() {
        if is_comment(line) {
            continue;
        }
        let mut line = line.trim().to_owned();
        while line.ends_with('\\') {
            line.pop();
            line.push_str(lines.next().unwrap_or_default().trim());
        }
        if let Some((name, value)) = line.split_once('=') {
            section.insert(key(name), value.trim().to_owned());
        }
    }
    Some(section)
}

/// The text with this section in place of the one of its name, or at its end, or without it.
fn with_section(text: &str, name: &str, section: Option<&Section>) -> String {
    let mut own: Vec<String> = Vec::new();
    if let Some(section) = section {
        own.push(format!("[{name}]"));
        own.extend(
            section
                .iter()
                .map(|(key, value)| format!("   {key} = {value}")),
        );
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match lines_of(text, name) {
        Some(range) => {
            lines.splice(range, own);
        }
        None => {
            if lines.last().is_some_and(|it| !it.trim().is_empty()) {
                lines.push(String::new());
            }
            lines.extend(own);
        }
    }
    lines.join("\n") + "\n"
}

/// The configuration and the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// Text of `smb.conf`.
    conf: String,
    unit: Unit,
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Write {
        share: String,
        path: String,
        text: String,
        new: bool,
    },
    Remove {
        share: String,
        text: String,
    },
    Enable,
    Start,
    Reload,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write {
                share, path, new, ..
            } => {
                let what = if *new { "create" } else { "change" };
                write!(f, "{what} the share {share} of {path}")
            }
            Self::Remove { share, .. } => write!(f, "remove the share {share}"),
            Self::Enable => write!(f, "enable the SMB server"),
            Self::Start => write!(f, "start the SMB server"),
            Self::Reload => write!(f, "let the SMB server read its configuration"),
        }
    }
}

fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
    let mut steps = Vec::new();
    let share = desired.name.clone();
    let is = section(&current.conf, &share);
    if is != desired.section {
        let text = with_section(&current.conf, &share, desired.section.as_ref());
        steps.push(match &desired.section {
            None => Step::Remove { share, text },
            Some(section) => Step::Write {
                share,
                path: section["path"].clone(),
                text,
                new: is.is_none(),
            },
        });
    }
    let changes = !steps.is_empty();
    if desired.section.is_some() {
        if !current.unit.enabled {
            steps.push(Step::Enable);
        }
        if !current.unit.active {
            steps.push(Step::Start);
        }
    }
    if changes && current.unit.active {
        steps.push(Step::Reload);
    }
    steps
}

const CONF: &str = "/etc/samba/smb.conf";
const UNIT: &str = "smbd";

/// What testparm does not like. Options that it does not know are no failure to it.
fn complaints(stderr: &str) -> Vec<&str> {
    stderr
        .lines()
        .map(str::trim)
        .filter(|line| {
            let line = line.to_lowercase();
            line.contains("unknown parameter")
                || line.contains("error")
                || line.contains("ignoring")
        })
        .collect()
}

fn check(text: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in("/run")?;
    let candidate = folder.path().join("smb.conf");
    file::write(&candidate, text, 0o600)?;
    let judged = Program::new("testparm")
        .args(["--suppress-prompt".as_ref(), candidate.as_os_str()])
        .run()?;
    let complaints = complaints(&judged.stderr);
    if !judged.status.success() || !complaints.is_empty() {
        bail!(
            "testparm refuses it: {}",
            match complaints.join("; ") {
                none if none.is_empty() => judged.words().to_owned(),
                some => some,
            }
        );
    }
    Ok(())
}

/// The module.
#[derive(Default)]
pub struct SambaShare;

impl Module for SambaShare {
    const NAME: &'static str = "samba_share";
    const EXAMPLES: &'static str = r#"
- name: The team's files
  ondol.cloud.samba_share:
    name: team
    path: /srv/team
    users: ["@team"]
    settings:
      create mask: "0660"

- name: For everyone to read
  ondol.cloud.samba_share:
    name: manuals
    path: /srv/manuals
    read_only: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Current = Current;
    type Step = Step;

    fn observe(&mut self, _: &Desired) -> anyhow::Result<Current> {
        Ok(Current {
            conf: file::read(Path::new(CONF))?.unwrap_or_default(),
            unit: service::unit(UNIT)?,
        })
    }

    fn plan(desired: &Desired, current: &Current) -> Vec<Step> {
        plan(desired, current)
    }

    fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Write { path, text, .. } => {
                ensure!(Path::new(path).is_dir(), "there is no directory {path}");
                check(text)?;
                file::write(Path::new(CONF), text, 0o644)
            }
            Step::Remove { text, .. } => {
                check(text)?;
                file::write(Path::new(CONF), text, 0o644)
            }
            Step::Enable => service::systemctl(&["enable", "--quiet", UNIT]),
            Step::Start => service::systemctl(&["start", UNIT]),
            Step::Reload => service::systemctl(&["reload", UNIT]),
        }
    }

    fn diff(desired: &Desired, current: &Current) -> Vec<TextDiff> {
        plan(desired, current)
            .into_iter()
            .filter_map(|step| match step {
                Step::Write { text, .. } | Step::Remove { text, .. } => {
                    Some(TextDiff::new(CONF, current.conf.clone(), text))
                }
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = "[global]\n   workgroup = WORKGROUP\n\n[team]\n   Path = /srv/team\n   read  only = no\n   valid users = anna \\\n      ben\n\n# Printers\n[printers]\n   path = /var/tmp\n";

    fn desired(change: serde_json::Value) -> Result<Desired, Invalid> {
        let mut json = serde_json::json!({"name": "team", "path": "/srv/team"});
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Desired::try_from(serde_json::from_value::<Params>(json).unwrap())
    }

    fn runs(conf: &str) -> Current {
        Current {
            conf: conf.to_owned(),
            unit: Unit {
                active: true,
                enabled: true,
                started_at: 1,
            },
        }
    }

    #[test]
    fn a_share_is_made_changed_left_alone_and_removed() {
        let users = serde_json::json!({"users": ["anna", "ben"]});
        for (change, current, wanted) in [
            (
                serde_json::json!({}),
                Current::default(),
                vec![
                    "create the share team of /srv/team",
                    "enable the SMB server",
                    "start the SMB server",
                ],
            ),
            (users, runs(CONF), vec![]),
            (
                serde_json::json!({}),
                runs(CONF),
                vec![
                    "change the share team of /srv/team",
                    "let the SMB server read its configuration",
                ],
            ),
            (
                serde_json::json!({"state": "absent"}),
                runs(CONF),
                vec![
                    "remove the share team",
                    "let the SMB server read its configuration",
                ],
            ),
            (
                serde_json::json!({"state": "absent"}),
                Current::default(),
                vec![],
            ),
        ] {
            let steps: Vec<String> = plan(&desired(change.clone()).unwrap(), &current)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(steps, wanted, "{change}");
        }
    }

    #[test]
    fn every_other_line_stays_as_it_is() {
        let wanted = desired(serde_json::json!({"read_only": true})).unwrap();
        let changed = with_section(CONF, "TEAM", wanted.section.as_ref());
        assert_eq!(
            changed,
            "[global]\n   workgroup = WORKGROUP\n\n[TEAM]\n   path = /srv/team\n   read only = yes\n\n# Printers\n[printers]\n   path = /var/tmp\n"
        );
        assert_eq!(section(&changed, "team"), wanted.section);
        let removed = with_section(CONF, "team", None);
        assert_eq!(
            removed,
            "[global]\n   workgroup = WORKGROUP\n\n\n# Printers\n[printers]\n   path = /var/tmp\n"
        );
        let added = with_section("[global]\n", "team", wanted.section.as_ref());
        assert_eq!(
            added,
            "[global]\n\n[team]\n   path = /srv/team\n   read only = yes\n"
        );
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for change in [
            serde_json::json!({"name": "global"}),
            serde_json::json!({"name": "Homes"}),
            serde_json::json!({"name": "a]b"}),
            serde_json::json!({"path": "srv"}),
            serde_json::json!({"path": null}),
            serde_json::json!({"settings": {"Read Only": "yes"}}),
            serde_json::json!({"settings": {"comment": "a\n[x]"}}),
            serde_json::json!({"users": ["a b"]}),
        ] {
            assert!(desired(change.clone()).is_err(), "{change}");
        }
    }

    /// As testparm of Samba 4.17 says it.
    #[test]
    fn an_option_that_samba_ignores_is_a_complaint() {
        let said = "Load smb config files from /run/x/smb.conf\nUnknown parameter encountered: \"bogus\"\nIgnoring unknown parameter \"bogus\"\nLoaded services file OK.\nWeak crypto is allowed by GnuTLS (e.g. NTLM as a compatibility fallback)\n";
        assert_eq!(complaints(said).len(), 2);
        assert_eq!(complaints("Loaded services file OK.\n"), [""; 0]);
    }
}
