//! `report`: adds a section to a report and renders the page anew.
//!
//! A report is a record, not a state that a machine is brought to: recording the same thing twice is a second record. So the task never
//! reports "changed", and it records in check mode too, where it says what was seen without anything having been changed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ondol_kit::{Finding, Invalid, Probe};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::html::render;
use crate::model::{Cell, Check, Event, Figure, Host, Machine, Report, Section, Verdict};

/// Record checks in a report page and its JSON twin
///
/// Keeps one file for each section, so that plays can record at different times, and renders C(index.html) and C(report.json) from all of them.
/// Runs on the controller: delegate it to localhost, with C(run_once). Never reports a change, because a record is not a state.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Directory of the report; made if it is missing.
    path: String,
    /// Title of the page. The one given last stays.
    title: Option<String>,
    /// Hosts and the machines on them. The one given last stays.
    topology: Option<Vec<Host>>,
    /// Name of the section. An earlier record of the same name is replaced. Left out, the page is only rendered anew.
    section: Option<String>,
    /// What was checked.
    #[serde(default)]
    checks: Vec<Check>,
    /// Which machine reaches which: the C(matrix) of every M(ondol.cloud.reachability), in one list.
    #[serde(default)]
    matrix: Vec<Cell>,
    /// What was measured. It is shown above the timeline.
    #[serde(default)]
    figures: Vec<Figure>,
    /// What happened when, for drills. A section with a timeline shows the time since its first event too.
    #[serde(default)]
    timeline: Vec<Event>,
}

/// `Params` after checking.
#[derive(Debug)]
pub struct Desired {
    path: PathBuf,
    title: Option<String>,
    topology: Option<Vec<Host>>,
    section: Option<Section>,
}

impl TryFrom<Params> for Desired {
    type Error = Invalid;

    fn try_from(params: Params) -> Result<Self, Invalid> {
        let path = PathBuf::from(&params.path);
        if !path.is_absolute() {
            return Err(Invalid::new(
                "path",
                format!("{:?} is not an absolute path", params.path),
            ));
        }
        if let Some(topology) = &params.topology {
            let mut seen = BTreeSet::new();
            for (h, host) in topology.iter().enumerate() {
                for (v, vm) in host.vms.iter().enumerate() {
                    if !seen.insert(&vm.name) {
                        return Err(Invalid::new(
                            format!("topology[{h}].vms[{v}].name"),
                            format!("{:?} is there twice", vm.name),
                        ));
                    }
                }
            }
        }
        let section = match params.section {
            Some(name) if name.trim().is_empty() => {
                return Err(Invalid::new("section", "must not be empty"));
            }
            Some(name) => Some(Section {
                name,
                recorded_at: clock::now(),
                checks: params.checks,
                matrix: params.matrix,
                figures: params.figures,
                timeline: params.timeline,
            }),
            None if params.checks.is_empty()
                && params.matrix.is_empty()
                && params.figures.is_empty()
                && params.timeline.is_empty() =>
            {
                None
            }
            None => {
                return Err(Invalid::new(
                    "section",
                    "is needed to record `checks`, `matrix`, `figures` or `timeline`",
                ));
            }
        };
        Ok(Self {
            path,
            title: params.title,
            topology: params.topology,
            section,
        })
    }
}

/// Where the report is and what it says.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    /// Path of the page.
    pub page: String,
    /// Path of the JSON twin.
    pub json: String,
    pub verdict: Verdict,
}

/// The module.
#[derive(Debug, Default)]
pub struct ReportModule;

impl Probe for ReportModule {
    const NAME: &'static str = "report";
    const EXAMPLES: &'static str = r#"
- name: Record what was verified
  ondol.cloud.report:
    path: "{{ playbook_dir }}/../target/report"
    title: infra.internal
    section: 04 identity
    checks:
      - name: the host name is the inventory's
        subject: dns-server
        ok: true
        evidence: dns-server
    matrix: "{{ ansible_play_hosts | map('extract', hostvars, 'reachability') | map(attribute='matrix') | flatten }}"
  delegate_to: localhost
  run_once: true
"#;

    type Params = Params;
    type Desired = Desired;
    type Answer = Answer;

    fn probe(&mut self, desired: &Desired) -> anyhow::Result<Finding<Answer>> {
        let report = record(desired)?;
        Ok(Finding::good(Answer {
            page: desired.path.join("index.html").display().to_string(),
            json: desired.path.join("report.json").display().to_string(),
            verdict: report.verdict,
        }))
    }
}

/// What holds for the whole report; kept beside the sections.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Site {
    #[serde(default)]
    title: String,
    #[serde(default)]
    topology: Vec<Host>,
}

fn record(desired: &Desired) -> anyhow::Result<Report> {
    let sections = desired.path.join("sections");
    fs::create_dir_all(&sections).with_context(|| format!("make {}", sections.display()))?;
    let site_path = desired.path.join("site.json");
    let mut site: Site = read(&site_path)?.unwrap_or_default();
    if let Some(title) = &desired.title {
        site.title.clone_from(title);
    }
    if let Some(topology) = &desired.topology {
        site.topology.clone_from(topology);
    }
    write(&site_path, &json(&site)?)?;
    if let Some(section) = &desired.section {
        let path = sections.join(format!("{}.json", file_name(&section.name)));
        write(&path, &json(section)?)?;
    }
    let mut all = Vec::new();
    let entries =
        fs::read_dir(&sections).with_context(|| format!("list {}", sections.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", sections.display()))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            all.extend(read::<Section>(&path)?);
        }
    }
    let title = if site.title.is_empty() {
        "Ondol"
    } else {
        &site.title
    };
    let report = Report::new(
        title.to_owned(),
        clock::now(),
        machine()?,
        site.topology,
        all,
    );
    write(&desired.path.join("report.json"), &json(&report)?)?;
    write(&desired.path.join("index.html"), &render(&report))?;
    Ok(report)
}

/// Letters, digits and hyphens stay; every other byte becomes `_` and its hexadecimal number, so that two names never share a file.
fn file_name(section: &str) -> String {
    section
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            other => format!("_{other:02x}"),
        })
        .collect()
}

fn json<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value).context("write JSON")? + "\n")
}

/// `None`: there is no such file.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    serde_json::from_str(&text).map(Some).with_context(|| {
        format!(
            "read {} (remove it to begin that part anew)",
            path.display()
        )
    })
}

/// Whole or not at all: somebody may be looking at the page. The process id keeps two controllers apart.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::File::create(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&new, path));
    written.with_context(|| format!("write {}", path.display()))
}

fn machine() -> anyhow::Result<Machine> {
    let text = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
    let memory_kib = text("/proc/meminfo")?
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0u64);
    Ok(Machine {
        name: text("/proc/sys/kernel/hostname")?.trim().to_owned(),
        kernel: format!("Linux {}", text("/proc/sys/kernel/osrelease")?.trim()),
        cpus: std::thread::available_parallelism()
            .context("count the processors")?
            .get(),
        memory_mib: memory_kib / 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(json: serde_json::Value) -> Result<Desired, Invalid> {
        let params: Params = serde_json::from_value(json).unwrap();
        Desired::try_from(params)
    }

    #[test]
    fn sections_add_up_and_the_last_of_a_name_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("report");
        let say = |extra: serde_json::Value| {
            let mut params = serde_json::json!({"path": path});
            params
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            record(&desired(params).unwrap()).unwrap()
        };
        let topology =
            serde_json::json!([{"name": "srv-01", "vms": [{"name": "a", "address": "10.0.0.1"}]}]);
        say(
            serde_json::json!({"title": "Site", "topology": topology, "section": "04 identity",
            "checks": [{"name": "n", "subject": "a", "ok": false}]}),
        );
        say(
            serde_json::json!({"section": "verify", "matrix": [{"from": "a", "to": "b", "ok": true}]}),
        );
        let report = say(
            serde_json::json!({"section": "04 identity", "checks": [{"name": "n", "subject": "a", "ok": true}]}),
        );
        assert!(report.verdict.ok);
        assert_eq!(
            (
                report.verdict.checks,
                report.verdict.pairs,
                report.verdict.vms
            ),
            (1, 1, 1)
        );
        assert_eq!(report.title, "Site");
        let twin: Report =
            serde_json::from_str(&fs::read_to_string(path.join("report.json")).unwrap()).unwrap();
        assert_eq!(twin, report);
        let mut names: Vec<String> = fs::read_dir(path.join("sections"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["04_20identity.json", "verify.json"]);
        assert!(
            fs::read_to_string(path.join("index.html"))
                .unwrap()
                .contains("<title>Site")
        );
        // Rendering alone changes no content.
        assert_eq!(say(serde_json::json!({})).sections, report.sections);
    }

    #[test]
    fn a_spoilt_section_is_named_and_the_old_page_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path();
        let wanted = desired(serde_json::json!({"path": path, "section": "a"})).unwrap();
        record(&wanted).unwrap();
        let page = fs::read_to_string(path.join("index.html")).unwrap();
        fs::write(path.join("sections/b.json"), "{").unwrap();
        let error = format!("{:#}", record(&wanted).unwrap_err());
        assert!(error.contains("sections/b.json"), "{error}");
        assert_eq!(fs::read_to_string(path.join("index.html")).unwrap(), page);
    }

    #[test]
    fn bad_parameters_are_refused_by_name() {
        let table = [
            (
                serde_json::json!({"path": "target/report"}),
                "path: \"target/report\" is not an absolute path",
            ),
            (
                serde_json::json!({"path": "/r", "section": " "}),
                "section: must not be empty",
            ),
            (
                serde_json::json!({"path": "/r", "checks": [{"name": "n", "subject": "a", "ok": true}]}),
                "section: is needed to record `checks`, `matrix`, `figures` or `timeline`",
            ),
            (
                serde_json::json!({"path": "/r", "topology": [{"name": "h", "vms": [{"name": "a"}, {"name": "a"}]}]}),
                "topology[0].vms[1].name: \"a\" is there twice",
            ),
        ];
        for (json, expected) in table {
            assert_eq!(desired(json).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn the_schema_holds_nothing_that_the_kit_does_not_enforce() {
        let schema = ondol_kit::Entry::probe::<ReportModule>().schema();
        assert_eq!(
            ondol_kit::unsupported_keywords(&schema),
            Vec::<String>::new()
        );
    }
}
