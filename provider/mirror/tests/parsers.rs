//! Documents from outside with a few bytes changed: their parsers do not panic, and what is signed is the text that was signed or nothing.
//!
//! The same as the fuzz target `release`, for machines without a fuzzer. The cases are the same in each run; another seed and a long run:
//! `PROPTEST_RNG_SEED=1 PROPTEST_CASES=100000 cargo test --release -p ondol-mirror --test parsers`.

use std::sync::LazyLock;
use std::time::SystemTime;

use ondol_mirror::apt::{Keyring, SiteKey, release, sources};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const RELEASE: &str = "\
Origin: Debian
Suite: stable
Codename: bookworm
Date: Sat, 17 May 2025 08:46:29 UTC
Valid-Until: Sat, 24 May 2025 08:46:29 UTC
Acquire-By-Hash: yes
Architectures: all amd64
Components: main contrib
- a line that must be escaped
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855       32 main/binary-amd64/Packages.xz
";
const DEB822: &str = "\
# Written by hand.
Enabled: yes
Types: deb deb-src
URIs: http://deb.example.org/debian https://mirror.example.org/debian
Suites: bookworm bookworm-updates
Components: main
Architectures: amd64
Check-Valid-Until: no
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEZ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: file:/srv/flat
Suites: ./
Trusted: yes
";
const LIST: &str = "\
deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/a.gpg trusted=yes] http://deb.example.org/debian bookworm main contrib # why
deb-src http://deb.example.org/debian bookworm main
deb [ check-valid-until=no ] cdrom:[Debian 12]/ bookworm main
";

struct Signed {
    keyring: Keyring,
    public: String,
    message: String,
    detached: String,
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let key = SiteKey::open(&dir.path().join("site.key")).expect("a key is made");
    Signed {
        keyring: key.keyring(),
        public: key.public().expect("has a public half"),
        message: key.sign_inline(RELEASE).expect("signs"),
        detached: key.sign_detached(RELEASE).expect("signs"),
    }
});

/// Puts `bytes` in the place of `length` bytes at a place between 0 (the beginning) and 1 (the end).
type Edit = (f64, usize, Vec<u8>);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..6),
        proptest::sample::select(vec![
            "\n",
            "\r\n",
            "-----",
            "- ",
            ":",
            "[",
            "]",
            " .",
            "=",
            "\n\n",
            "-----BEGIN PGP SIGNATURE-----\n",
            "99999999999999999999",
            "é",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    proptest::collection::vec((0.0..1.0, 0..40_usize, bytes), 0..6)
}

fn edited(document: &str, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = document.as_bytes().to_vec();
    for (place, length, new) in edits {
        let at = (place * bytes.len() as f64) as usize;
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, new.iter().copied());
    }
    bytes
}

/// The same cases each time, unless the environment asks for others.
fn settings() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig {
        rng_seed: match given.rng_seed {
            RngSeed::Random => RngSeed::Fixed(4),
            fixed => fixed,
        },
        failure_persistence: None,
        ..given
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_release_file_and_sources_may_say_anything(edits in edits()) {
        drop(release::parse(&String::from_utf8_lossy(&edited(RELEASE, &edits))));
        drop(sources::parse_deb822(&String::from_utf8_lossy(&edited(DEB822, &edits))));
        drop(sources::parse_list(&String::from_utf8_lossy(&edited(LIST, &edits))));
    }

    #[test]
    fn keys_may_be_anything(edits in edits()) {
        drop(Keyring::parse(&edited(&SIGNED.public, &edits)));
    }

    #[test]
    fn what_is_proven_is_what_was_signed(edits in edits()) {
        let message = edited(&SIGNED.message, &edits);
        // Not before the key was made.
        let now = SystemTime::now();
        if let Ok(text) = SIGNED.keyring.verify_inline(&String::from_utf8_lossy(&message), now) {
            // A signature of this kind does not cover white space at the end of a line.
            let lines = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(lines(&text), lines(RELEASE));
        }
        let signature = edited(&SIGNED.detached, &edits);
        drop(SIGNED.keyring.verify_detached(RELEASE.as_bytes(), &signature, now));
        let document = edited(RELEASE, &edits);
        let proven = SIGNED.keyring.verify_detached(&document, SIGNED.detached.as_bytes(), now).is_ok();
        prop_assert_eq!(proven, document == RELEASE.as_bytes());
    }
}
