//! Compressed indexes: damaged ones are refused, none unpacks to more than it is allowed to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ondol_mirror::apt::index::{Compression, unpack};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let compression = Compression::ALL[usize::from(*kind) % Compression::ALL.len()];
    if let Ok(text) = unpack(rest, compression, Some(1 << 20)) {
        // Each byte that is no UTF-8 becomes three at most.
        assert!(text.len() <= 3 << 20);
    }
});
