//! Release files, signed messages, keyrings and sources: nothing that comes over the line may make their parsers panic.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use ondol_mirror::apt::{Keyring, date, release, sources};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    match kind % 5 {
        0 => drop(release::parse(&text)),
        1 => drop(Keyring::parse(rest)),
        2 => drop(Keyring::default().verify_inline(&text, SystemTime::UNIX_EPOCH)),
        3 => {
            drop(sources::parse_deb822(&text));
            drop(sources::parse_list(&text));
        }
        _ => {
            if let Some(seconds) = date::parse(&text) {
                assert_eq!(date::parse(&date::format(seconds)), Some(seconds));
            }
        }
    }
});
