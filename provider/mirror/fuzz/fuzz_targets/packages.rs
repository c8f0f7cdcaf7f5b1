//! Packages files. What is read must be readable again after it was written with another file name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ondol_mirror::apt::packages::{parse, with_filename};

fuzz_target!(|text: &str| {
    let Ok(packages) = parse(text) else { return };
    for package in packages {
        let mut written = String::new();
        with_filename(&package, "pool/x.deb", &mut written);
        let again = parse(&written).expect("what was read can be written");
        assert_eq!(again.len(), 1);
        assert_eq!(
            (again[0].name, again[0].version, again[0].size, again[0].filename),
            (package.name, package.version, package.size, "pool/x.deb")
        );
    }
});
