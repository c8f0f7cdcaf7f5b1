//! The order of versions is total, whatever the texts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ondol_mirror::apt::version::compare;

fuzz_target!(|texts: (&str, &str, &str)| {
    let (a, b, c) = texts;
    assert_eq!(compare(a, b), compare(b, a).reverse());
    if compare(a, b).is_le() && compare(b, c).is_le() {
        assert!(compare(a, c).is_le());
    }
});
