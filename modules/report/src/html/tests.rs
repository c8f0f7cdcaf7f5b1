//! The page of a small site, and that nothing gets out of its quotes.

use super::*;
use crate::model::Machine;

fn report(sections: Vec<Section>, topology: Vec<Host>) -> Report {
    Report::new(
        "infra.internal".to_owned(),
        "2026-11-22T14:03:11Z".to_owned(),
        Machine {
            name: "controller".to_owned(),
            kernel: "Linux 6.1.0".to_owned(),
            cpus: 2,
            memory_mib: 24_000,
        },
        topology,
        sections,
    )
}

fn vm(name: &str) -> Vm {
    Vm {
        name: name.to_owned(),
        address: "10.0.0.1".to_owned(),
        role: "a role".to_owned(),
        groups: vec!["db".to_owned()],
        state: "running".to_owned(),
    }
}

fn check(name: &str, subject: &str, ok: bool, evidence: &str) -> Check {
    Check {
        name: name.to_owned(),
        subject: subject.to_owned(),
        ok,
        evidence: evidence.to_owned(),
        seconds: None,
    }
}

fn cell(from: &str, to: &str, rtt_ms: Option<f64>, loss: f64, tcp_ok: bool) -> Cell {
    Cell {
        from: from.to_owned(),
        to: to.to_owned(),
        ok: loss < 50.0 && tcp_ok,
        loss,
        rtt_ms,
        tcp_ok,
    }
}

#[test]
fn a_small_site() {
    let page = render(&report(
        vec![Section {
            name: "verify".to_owned(),
            recorded_at: "2026-11-22T14:02:00Z".to_owned(),
            checks: vec![
                check("ssh answers", "a", true, "banner SSH-2.0"),
                check("ssh answers", "b", true, ""),
                check("name is right", "b", false, "is \"x\""),
            ],
            matrix: vec![
                cell("a", "b", Some(0.3), 0.0, true),
                cell("b", "a", None, 100.0, false),
            ],
            figures: vec![Figure {
                name: "longest time without a write".to_owned(),
                value: 2.5,
                unit: "s".to_owned(),
            }],
            timeline: vec![Event {
                at: "14:01".to_owned(),
                what: "began".to_owned(),
                detail: String::new(),
            }],
        }],
        vec![Host {
            name: "srv-01".to_owned(),
            vms: vec![vm("a"), vm("b"), vm("c")],
        }],
    ));
    let body = &page[page.find("<body>").unwrap()..page.find("<script>").unwrap()];
    insta::assert_snapshot!(body);
}

#[test]
fn nothing_gets_out_of_its_quotes() {
    let evil = "\"><script>alert('x')</script>&amp;\u{1b}[31m";
    let mut machine = vm(evil);
    machine.groups = vec![evil.to_owned()];
    machine.role = evil.to_owned();
    machine.address = evil.to_owned();
    machine.state = evil.to_owned();
    let mut all = report(
        vec![Section {
            name: evil.to_owned(),
            recorded_at: evil.to_owned(),
            checks: vec![
                check(evil, evil, false, evil),
                check(evil, evil, true, evil),
            ],
            matrix: vec![cell(evil, "other", None, 100.0, false)],
            figures: vec![Figure {
                name: evil.to_owned(),
                value: 1.0,
                unit: evil.to_owned(),
            }],
            timeline: vec![Event {
                at: evil.to_owned(),
                what: evil.to_owned(),
                detail: evil.to_owned(),
            }],
        }],
        vec![Host {
            name: evil.to_owned(),
            vms: vec![machine],
        }],
    );
    all.title = evil.to_owned();
    all.recorded_at = evil.to_owned();
    all.machine.name = evil.to_owned();
    all.machine.kernel = evil.to_owned();
    let page = render(&all);
    assert_eq!(page.matches("<script>").count(), 1, "only our own");
    assert!(!page.contains("alert('x')"));
    assert!(!page.contains('\u{1b}'));
    assert!(page.contains("&quot;&gt;&lt;script&gt;"));
}

#[test]
fn the_page_refers_to_nothing_outside() {
    let page = render(&report(vec![], vec![]));
    for outside in ["http:", "https:", "url(", "@import", "src=", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("Nothing has been checked yet"));
}

#[test]
fn a_cell_looks_like_what_it_says() {
    for (rtt, loss, tcp_ok, expected) in [
        (Some(0.1), 0.0, true, ("h0", "")),
        (Some(0.2), 0.0, true, ("h0", "")),
        (Some(0.21), 0.0, true, ("h1", "")),
        (Some(900.0), 0.0, true, ("h5", "")),
        (Some(1.0), 20.0, true, ("hp", "!")),
        (None, 100.0, true, ("hx", "✗")),
        (None, 100.0, false, ("hx", "✗")),
        (Some(1.0), 0.0, false, ("hx", "T")),
        (None, 0.0, true, ("hn", "")),
    ] {
        let (class, glyph) = look(&cell("a", "b", rtt, loss, tcp_ok));
        assert_eq!((class.as_str(), glyph), expected);
    }
}

#[test]
fn a_timeline_tells_the_time_since_its_first_event() {
    let event = |at: &str| Event {
        at: at.to_owned(),
        what: "x".to_owned(),
        detail: String::new(),
    };
    let mut page = String::new();
    timeline(
        &mut page,
        &[
            event("2026-11-22T14:00:02.500Z"),
            event("2026-11-22T14:00:00.000Z"),
            event("later"),
        ],
    );
    let at: Vec<&str> = page
        .split("mono at\"")
        .skip(1)
        .map(|rest| &rest[rest.find('>').unwrap() + 1..rest.find('<').unwrap()])
        .collect();
    assert_eq!(at, ["+0.0 s", "+2.5 s", "later"]);
    assert!(page.contains("title=\"2026-11-22T14:00:02.500Z\""));
}

#[test]
fn numbers_are_short() {
    assert_eq!(
        [0.0, 0.25, 1.0, 12.3456].map(number),
        ["0", "0.25", "1", "12.346"]
    );
    assert_eq!(
        [7, 1560, 1_000_000].map(thousands),
        ["7", "1,560", "1,000,000"]
    );
}
