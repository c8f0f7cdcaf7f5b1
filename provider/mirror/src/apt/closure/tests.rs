//! Archives of a line for each package, and what comes of them.

use super::super::packages::parse;
use super::*;

/// `name version field: value; field: value`, one package a line.
fn index(lines: &str) -> String {
    lines
        .lines()
        .map(|line| {
            let (head, fields) = line.split_once(" / ").unwrap_or((line, ""));
            let (name, version) = head.trim().split_once(' ').expect("name and version");
            let fields: String = fields
                .split(';')
                .filter(|field| !field.trim().is_empty())
                .map(|field| format!("{}\n", field.trim()))
                .collect();
            format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: f\nSize: 1\n{fields}\n")
        })
        .collect()
}

fn closure_of(archives: &[&str], request: &Request) -> (Vec<String>, Vec<String>) {
    let texts: Vec<String> = archives.iter().map(|lines| index(lines)).collect();
    let universe = Universe::new(
        "amd64",
        texts
            .iter()
            .map(|text| parse(text).expect("well-formed"))
            .collect(),
    );
    let closure = universe.closure(request);
    (
        closure
            .packages
            .iter()
            .map(|&id| {
                let package = universe.package(id);
                format!("{}={}", package.name, package.version)
            })
            .collect(),
        closure
            .unsatisfied
            .iter()
            .map(ToString::to_string)
            .collect(),
    )
}

fn names(names: &[&str]) -> Request {
    Request {
        packages: names.iter().map(|&name| name.to_owned()).collect(),
        ..Request::default()
    }
}

#[test]
fn dependencies_are_followed_and_the_newest_version_of_any_archive_wins() {
    let base =
        "app 1 / Depends: lib (>= 1), data\nlib 1.0\ndata 1 / Pre-Depends: tool\ntool 1\nother 1";
    let security = "lib 1.0+deb12u1 / Depends: extra\nextra 1\ntool 0.9";
    assert_eq!(
        closure_of(&[base, security], &names(&["app"])),
        (
            ["app=1", "data=1", "extra=1", "lib=1.0+deb12u1", "tool=1"]
                .map(str::to_owned)
                .to_vec(),
            vec![]
        )
    );
}

#[test]
fn of_alternatives_the_first_that_can_be_had_is_taken_unless_one_is_there_already() {
    let archive = "\
a 1 / Depends: gone | broken | good | better
broken 1 / Depends: nothing
good 1
better 1
b 1 / Depends: better
virtual-user 1 / Depends: mail-agent
postfix 1 / Provides: mail-agent; Priority: optional
exim 1 / Provides: mail-agent; Priority: important";
    let of = |wanted: &[&str]| closure_of(&[archive], &names(wanted)).0;
    assert_eq!(of(&["a"]), ["a=1", "good=1"]);
    assert_eq!(of(&["a", "b"]), ["a=1", "b=1", "better=1"]);
    assert_eq!(of(&["virtual-user"]), ["exim=1", "virtual-user=1"]);
    assert_eq!(
        of(&["virtual-user", "postfix"]),
        ["postfix=1", "virtual-user=1"]
    );
}

#[test]
fn provided_versions_and_architecture_qualifiers_are_honoured() {
    let archive = "\
a 1 / Depends: virt (>= 2)
p1 1 / Provides: virt
p2 9 / Provides: virt (= 1)
p3 1 / Provides: virt (= 2.5)
b 1 / Depends: python:any
python 3 / Multi-Arch: allowed
c 1 / Depends: plain:any
plain 1
d 1 / Depends: plain:amd64
e 1 / Depends: plain:i386";
    let of = |wanted: &[&str]| closure_of(&[archive], &names(wanted));
    assert_eq!(of(&["a"]).0, ["a=1", "p3=1"]);
    assert_eq!(of(&["b"]).0, ["b=1", "python=3"]);
    assert_eq!(of(&["d"]).0, ["d=1", "plain=1"]);
    assert_eq!(
        of(&["c"]).1,
        ["c: c 1 depends on plain:any: plain is not Multi-Arch: allowed"]
    );
    assert_eq!(
        of(&["e"]).1,
        ["e: e 1 depends on plain:i386: this index is of amd64"]
    );
}

#[test]
fn the_whole_chain_that_fails_is_told() {
    let archive = "\
app 1 / Depends: mid (>= 1) | other
other 1 / Depends: mid
mid 2 / Pre-Depends: leaf (>= 3), fine
leaf 2.5
fine 1
x 1 / Depends: nosuch | leaf (<< 1)
two 1";
    assert_eq!(
        closure_of(&[archive], &names(&["app", "x", "unknown", "two=2", "two:arm64", "fine"])),
        (
            vec!["fine=1".to_owned()],
            [
                "unknown: no package has the name \"unknown\" and none provides it",
                "two=2: version 2 is not there, but 1",
                "two:arm64: this index is of amd64, not of arm64",
                "app: app 1 depends on mid (>= 1) | other: mid 2 pre-depends on leaf (>= 3): leaf is version 2.5",
                "x: x 1 depends on nosuch | leaf (<< 1): no package has the name \"nosuch\" and none provides it; leaf is version 2.5",
            ]
            .map(str::to_owned)
            .to_vec()
        )
    );
}

#[test]
fn circles_end_and_a_circle_with_a_gap_is_broken() {
    let archive = "a 1 / Depends: b\nb 1 / Depends: a\nc 1 / Depends: d\nd 1 / Depends: c, gone";
    assert_eq!(closure_of(&[archive], &names(&["a"])).0, ["a=1", "b=1"]);
    assert_eq!(
        closure_of(&[archive], &names(&["c"])).1,
        [
            "c: c 1 depends on d: d 1 depends on gone: no package has the name \"gone\" and none provides it"
        ]
    );
}

#[test]
fn recommends_essential_and_priorities_are_taken_on_request() {
    let archive = "\
a 1 / Recommends: r, gone
r 1 / Depends: s
s 1
dash 1 / Essential: yes; Depends: base
base 1
login 1 / Priority: required";
    assert_eq!(closure_of(&[archive], &names(&["a"])).0, ["a=1"]);
    let all = Request {
        recommends: true,
        essential: true,
        priorities: vec!["required".into()],
        ..names(&["a"])
    };
    assert_eq!(
        closure_of(&[archive], &all),
        (
            ["a=1", "base=1", "dash=1", "login=1", "r=1", "s=1"]
                .map(str::to_owned)
                .to_vec(),
            vec![]
        )
    );
}

#[test]
fn a_version_or_a_virtual_package_can_be_asked_for() {
    let archive = "k 1 / Depends: k-lib (= 1)\nk-lib 1\nk-lib 2\nk 2 / Depends: k-lib (= 2)\nx 1 / Depends: k\np 1 / Provides: only\nq 1 / Provides: many\nr 1 / Provides: many";
    let of = |wanted: &[&str]| closure_of(&[archive], &names(wanted));
    assert_eq!(of(&["k"]).0, ["k=2", "k-lib=2"]);
    assert_eq!(of(&["k=1", "k-lib=1", "x"]).0, ["k=1", "k-lib=1", "x=1"]);
    assert_eq!(of(&["only"]).0, ["p=1"]);
    assert_eq!(
        of(&["many"]).1,
        ["many: it is a virtual package: ask for one of q, r"]
    );
    assert_eq!(
        of(&["k=1"]).1,
        ["k=1: k 1 depends on k-lib (= 1): k-lib is version 2"]
    );
}

#[test]
fn everything_is_every_version_once() {
    let (first, second) = (index("a 1\na 2\nb 1"), index("a 2\nc 1"));
    let universe = Universe::new(
        "amd64",
        vec![parse(&first).expect("ok"), parse(&second).expect("ok")],
    );
    let all: Vec<_> = universe
        .everything()
        .into_iter()
        .map(|id| {
            (
                universe.package(id).name,
                universe.package(id).version,
                universe.origin(id),
            )
        })
        .collect();
    assert_eq!(
        all,
        [("a", "1", 0), ("a", "2", 0), ("b", "1", 0), ("c", "1", 1)]
    );
}
