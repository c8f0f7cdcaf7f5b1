//! What a report holds, and what follows from it. The JSON twin is this, written out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the JSON twin's shape. Changes when a reader would have to.
pub const SCHEMA: &str = "ondol-report/1";

/// The record of a site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// `ondol-report/1`.
    pub schema: String,
    pub title: String,
    /// When the page was made, RFC 3339, UTC.
    pub recorded_at: String,
    /// Where the page was made.
    pub machine: Machine,
    pub verdict: Verdict,
    /// The hosts and their machines, in the order given.
    pub topology: Vec<Host>,
    /// Sorted by name.
    pub sections: Vec<Section>,
}

/// The machine that made the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    pub name: String,
    pub kernel: String,
    pub cpus: usize,
    pub memory_mib: u64,
}

/// The sum of it all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// Something was checked and nothing failed.
    pub ok: bool,
    pub hosts: usize,
    pub vms: usize,
    pub checks: usize,
    pub checks_failed: usize,
    /// Ordered pairs of machines that were probed.
    pub pairs: usize,
    pub pairs_failed: usize,
}

/// A host and the machines on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name of the host.
    pub name: String,
    /// Virtual machines on it.
    #[serde(default)]
    pub vms: Vec<Vm>,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Name, as the checks' subject and the matrix have it.
    pub name: String,
    /// Its address.
    #[serde(default)]
    pub address: String,
    /// What it is for.
    #[serde(default)]
    pub role: String,
    /// Groups of the inventory.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Power state, for example C(running).
    #[serde(default)]
    pub state: String,
}

/// What one play saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Section {
    pub name: String,
    /// When it was recorded, RFC 3339, UTC.
    pub recorded_at: String,
    pub checks: Vec<Check>,
    pub matrix: Vec<Cell>,
    /// Absent in a section that was recorded before there were any.
    #[serde(default)]
    pub figures: Vec<Figure>,
    pub timeline: Vec<Event>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What holds if it is good, for example C(SSH answers).
    pub name: String,
    /// Machine or host that was checked.
    pub subject: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was seen: output, numbers, an error.
    #[serde(default)]
    pub evidence: String,
    /// How long it took.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// One ordered pair of machines, as M(ondol.cloud.reachability) returns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Machine that probed.
    pub from: String,
    /// Machine that was probed.
    pub to: String,
    /// Whether it was reached.
    pub ok: bool,
    /// Lost echo requests, percent.
    #[serde(default)]
    pub loss: f64,
    /// Average round trip, milliseconds.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// Whether the TCP ports accepted.
    #[serde(default = "yes")]
    pub tcp_ok: bool,
}

fn yes() -> bool {
    true
}

/// A number that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What was measured, for example C(longest time without a write).
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its unit, for example C(s).
    #[serde(default)]
    pub unit: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When; any text that sorts in order of time, best RFC 3339.
    pub at: String,
    /// What, in a few words.
    pub what: String,
    /// More about it.
    #[serde(default)]
    pub detail: String,
}

/// How a machine or host stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub checks: usize,
    pub checks_failed: usize,
    /// Failed pairs that are laid to its charge; see [`Report::charged`].
    pub pairs_failed: usize,
}

impl Standing {
    pub fn failed(self) -> bool {
        self.checks_failed > 0 || self.pairs_failed > 0
    }
}

impl Report {
    /// Puts the parts together. `sections` may come in any order.
    pub fn new(
        title: String,
        recorded_at: String,
        machine: Machine,
        topology: Vec<Host>,
        mut sections: Vec<Section>,
    ) -> Self {
        sections.sort_by(|a, b| a.name.cmp(&b.name));
        let checks = || sections.iter().flat_map(|section| &section.checks);
        let cells = || sections.iter().flat_map(|section| &section.matrix);
        let mut verdict = Verdict {
            ok: false,
            hosts: topology.len(),
            vms: topology.iter().map(|host| host.vms.len()).sum(),
            checks: checks().count(),
            checks_failed: checks().filter(|check| !check.ok).count(),
            pairs: cells().count(),
            pairs_failed: cells().filter(|cell| !cell.ok).count(),
        };
        verdict.ok = verdict.checks + verdict.pairs > 0
            && verdict.checks_failed == 0
            && verdict.pairs_failed == 0;
        Self {
            schema: SCHEMA.to_owned(),
            title,
            recorded_at,
            machine,
            verdict,
            topology,
            sections,
        }
    }

    /// By the name of machine or host.
    pub fn standings(&self) -> BTreeMap<&str, Standing> {
        let mut standings: BTreeMap<&str, Standing> = BTreeMap::new();
        for section in &self.sections {
            for check in &section.checks {
                let standing = standings.entry(&check.subject).or_default();
                standing.checks += 1;
                standing.checks_failed += usize::from(!check.ok);
            }
        }
        for (name, cells) in self.charged() {
            standings.entry(name).or_default().pairs_failed += cells.len();
        }
        standings
    }

    /// Failed pairs by the machine they are laid to the charge of: of the two, the one that fails with more others; both, if they are equal.
    /// So one dead machine among forty stands alone and does not spoil the other thirty-nine.
    pub fn charged(&self) -> BTreeMap<&str, Vec<&Cell>> {
        let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
        let failed = || {
            let cells = self.sections.iter().flat_map(|section| &section.matrix);
            cells.filter(|cell| !cell.ok)
        };
        for cell in failed() {
            *failures.entry(&cell.from).or_default() += 1;
            *failures.entry(&cell.to).or_default() += 1;
        }
        let mut charged: BTreeMap<&str, Vec<&Cell>> = BTreeMap::new();
        for cell in failed() {
            let (from, to) = (failures[cell.from.as_str()], failures[cell.to.as_str()]);
            if from >= to {
                charged.entry(&cell.from).or_default().push(cell);
            }
            if to >= from && cell.from != cell.to {
                charged.entry(&cell.to).or_default().push(cell);
            }
        }
        charged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(subject: &str, ok: bool) -> Check {
        Check {
            name: "x".to_owned(),
            subject: subject.to_owned(),
            ok,
            evidence: String::new(),
            seconds: None,
        }
    }

    fn cell(from: &str, to: &str, ok: bool) -> Cell {
        Cell {
            from: from.to_owned(),
            to: to.to_owned(),
            ok,
            loss: 0.0,
            rtt_ms: None,
            tcp_ok: ok,
        }
    }

    fn verdict(checks: Vec<Check>, matrix: Vec<Cell>) -> Verdict {
        let section = Section {
            checks,
            matrix,
            ..Section::default()
        };
        report(vec![section]).verdict
    }

    /// The twin's shape is promised to its readers: a change of it shows here. `INSTA_UPDATE=always` writes it anew.
    #[test]
    fn the_twins_schema_is_the_documented_one() {
        let schema = schemars::SchemaGenerator::new(
            schemars::generate::SchemaSettings::draft2020_12().for_serialize(),
        )
        .into_root_schema_for::<Report>();
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/report.schema.json");
        if std::env::var("INSTA_UPDATE").as_deref() == Ok("always") {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }

    fn report(sections: Vec<Section>) -> Report {
        Report::new(
            String::new(),
            String::new(),
            Machine::default(),
            vec![],
            sections,
        )
    }

    #[test]
    fn nothing_checked_is_not_good() {
        assert!(!verdict(vec![], vec![]).ok);
        assert!(verdict(vec![check("a", true)], vec![]).ok);
        assert!(verdict(vec![], vec![cell("a", "b", true)]).ok);
        assert!(!verdict(vec![check("a", true), check("b", false)], vec![]).ok);
        assert!(!verdict(vec![check("a", true)], vec![cell("a", "b", false)]).ok);
    }

    #[test]
    fn a_dead_machine_is_charged_and_its_neighbours_are_not() {
        let pairs = [
            ("dead", "a", false),
            ("a", "dead", false),
            ("b", "dead", false),
            ("a", "b", true),
            ("b", "a", true),
        ];
        let report = report(vec![Section {
            matrix: pairs
                .iter()
                .map(|(from, to, ok)| cell(from, to, *ok))
                .collect(),
            ..Section::default()
        }]);
        let charged: Vec<(&str, usize)> = report
            .charged()
            .into_iter()
            .map(|(name, cells)| (name, cells.len()))
            .collect();
        assert_eq!(charged, [("dead", 3)]);
    }

    #[test]
    fn a_single_failed_pair_is_charged_to_both_sides() {
        let report = report(vec![Section {
            checks: vec![check("a", true), check("a", false)],
            matrix: vec![cell("a", "b", false), cell("b", "a", true)],
            ..Section::default()
        }]);
        let standings = report.standings();
        assert_eq!(
            standings["a"],
            Standing {
                checks: 2,
                checks_failed: 1,
                pairs_failed: 1
            }
        );
        assert_eq!(
            standings["b"],
            Standing {
                checks: 0,
                checks_failed: 0,
                pairs_failed: 1
            }
        );
    }
}
