//! `make bench`: measures what a user waits for, against a peer in the same run where there is one, and prints a table.
//!
//! Figures are written as `[{name, value, unit, peer, peer_value, ratio, machine}]`; the peer's fields are null where there is none.
//! Nothing is asserted here: a figure is not a test.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ondol_tests::bench::{
    ansible, ceph, databases, figure::Figure, machine, mirror, provider, site, virtualbox,
};

fn main() -> Result<()> {
    let mut out = PathBuf::from("target/bench.json");
    let mut wanted = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--out" => out = arguments.next().context("--out needs a file name")?.into(),
            "--help" => {
                println!("usage: ondol-bench [--out FILE] [{}]...", NAMES.join("|"));
                return Ok(());
            }
            name if NAMES.contains(&name) => wanted.push(name.to_owned()),
            other => bail!("{other}: no such benchmark; there are {}", NAMES.join(", ")),
        }
    }

    let mut figures = Vec::new();
    for (name, measure) in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("measuring: {name}");
            figures.extend(measure().with_context(|| format!("benchmark {name}"))?);
        }
    }
    let machine = machine::describe();
    println!("{}", Figure::table(&figures, &machine));
    let json: Vec<_> = figures.iter().map(|figure| figure.json(&machine)).collect();
    std::fs::write(&out, serde_json::to_string_pretty(&json)?)
        .with_context(|| format!("write {}", out.display()))
}

type Measure = fn() -> Result<Vec<Figure>>;
const BENCHES: [(&str, Measure); 9] = [
    ("handshake", provider::handshake),
    ("task", ansible::task),
    ("mirror", mirror::mirror),
    ("site", site::site),
    ("ceph", ceph::ceph),
    ("databases", databases::tasks),
    ("outages", databases::outages),
    ("golden", virtualbox::golden_appliance),
    ("virtualbox", virtualbox::virtualbox),
];
const NAMES: [&str; 9] = [
    BENCHES[0].0,
    BENCHES[1].0,
    BENCHES[2].0,
    BENCHES[3].0,
    BENCHES[4].0,
    BENCHES[5].0,
    BENCHES[6].0,
    BENCHES[7].0,
    BENCHES[8].0,
];
