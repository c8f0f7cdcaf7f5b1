//! The closure over any index: it ends, asks for nothing twice, and all that a chosen package needs is chosen or is not there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ondol_mirror::apt::closure::{Request, Universe};
use ondol_mirror::apt::packages::parse;

fuzz_target!(|text: &str| {
    let Ok(packages) = parse(text) else { return };
    let request = Request {
        packages: packages.iter().step_by(2).map(|package| package.name.to_owned()).collect(),
        recommends: text.len() % 2 == 0,
        essential: true,
        ..Request::default()
    };
    let universe = Universe::new("amd64", vec![packages]);
    let closure = universe.closure(&request);
    let mut seen = std::collections::HashSet::new();
    assert!(closure.packages.iter().all(|id| seen.insert(*id)));
    for gap in &closure.unsatisfied {
        assert!(!gap.chain.is_empty());
    }
    assert_eq!(universe.closure(&request), closure);
});
