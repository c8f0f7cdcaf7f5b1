//! How long the closure of a list of packages takes over real indexes: `closure Packages.xz [more...] -- package...`
//!
//! Prints the time of each step and the peak memory of the process. Fetches nothing.

use std::time::Instant;

use ondol_mirror::apt::closure::{Request, Universe};
use ondol_mirror::apt::index::{Compression, unpack};
use ondol_mirror::apt::packages::parse;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (files, packages) = arguments.split_at(
        arguments
            .iter()
            .position(|argument| argument == "--")
            .unwrap_or(arguments.len()),
    );
    let began = Instant::now();
    let texts: Vec<String> = files
        .iter()
        .map(|file| {
            let compression = Compression::ALL
                .into_iter()
                .find(|compression| file.ends_with(compression.extension()))
                .expect("every name ends with nothing");
            let bytes = std::fs::read(file).expect("the index can be read");
            unpack(&bytes, compression, None).expect("the index can be unpacked")
        })
        .collect();
    let unpacked = began.elapsed();
    let archives: Vec<_> = texts
        .iter()
        .map(|text| parse(text).expect("the index is well-formed"))
        .collect();
    let parsed = began.elapsed();
    let count: usize = archives.iter().map(Vec::len).sum();
    let universe = Universe::new("amd64", archives);
    let indexed = began.elapsed();
    let closure = universe.closure(&Request {
        packages: packages.iter().skip(1).cloned().collect(),
        essential: true,
        priorities: vec!["required".to_owned()],
        ..Request::default()
    });
    let resolved = began.elapsed();
    for unsatisfied in &closure.unsatisfied {
        println!("{unsatisfied}");
    }
    let peak = std::fs::read_to_string("/proc/self/status")
        .expect("the kernel says it")
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")
                .map(|size| size.trim().to_owned())
        })
        .unwrap_or_default();
    println!(
        "{count} packages, closure of {}: unpack {unpacked:.1?}, parse {:.1?}, index {:.1?}, closure {:.1?}; all {resolved:.1?}; peak {peak}",
        closure.packages.len(),
        parsed - unpacked,
        indexed - parsed,
        resolved - indexed,
    );
}
