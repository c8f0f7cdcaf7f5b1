//! Signatures between this crate and GnuPG, both ways, and the archives' own where the machine has them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use ondol_mirror::apt::{Keyring, SiteKey};

/// A GnuPG home of its own; its agent ends with it.
struct Gpg {
    home: tempfile::TempDir,
}

impl Drop for Gpg {
    fn drop(&mut self) {
        drop(
            Command::new("gpgconf")
                .arg("--homedir")
                .arg(self.home.path())
                .args(["--kill", "all"])
                .status(),
        );
    }
}

impl Gpg {
    fn new() -> Option<Self> {
        if Command::new("gpg").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "gpg is not installed");
            eprintln!("SKIPPED: gpg is not installed");
            return None;
        }
        Some(Self {
            home: tempfile::tempdir().expect("a temporary directory can be made"),
        })
    }

    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("gpg")
            .arg("--homedir")
            .arg(self.home.path())
            .args([
                "--batch",
                "--yes",
                "--quiet",
                "--passphrase",
                "",
                "--pinentry-mode",
                "loopback",
            ])
            .args(arguments)
            .output()
            .expect("gpg runs");
        assert!(
            output.status.success(),
            "gpg {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn fingerprint(&self, user: &str) -> String {
        let list = self.run(&["--with-colons", "--list-keys", user]);
        String::from_utf8(list)
            .expect("text")
            .lines()
            .find_map(|line| {
                line.strip_prefix("fpr:::::::::")?
                    .strip_suffix(':')
                    .map(str::to_owned)
            })
            .expect("every key has one")
    }

    fn sign(&self, user: &str, text: &str, more: &[&str]) -> (String, Vec<u8>) {
        let file = self.path("text");
        fs::write(&file, text).expect("writes");
        let mut inline = more.to_vec();
        inline.extend(["-u", user, "--clearsign", "-o", "-", &file]);
        let mut detached = more.to_vec();
        detached.extend(["-u", user, "--detach-sign", "-o", "-", &file]);
        (
            String::from_utf8(self.run(&inline)).expect("text"),
            self.run(&detached),
        )
    }

    fn export(&self, armour: bool, users: &[&str]) -> Keyring {
        let mut arguments = vec!["--export"];
        if armour {
            arguments.push("--armor");
        }
        arguments.extend(users);
        Keyring::parse(&self.run(&arguments)).expect("a keyring")
    }
}

const TEXT: &str = "Origin: Test\n- dashed line\nTrailing:  \nDescription: \u{fc}ber\n last\n";

fn now() -> SystemTime {
    SystemTime::now() + Duration::from_secs(2)
}

#[test]
fn what_gnupg_signs_is_proven_and_what_is_altered_is_not() {
    let Some(gpg) = Gpg::new() else { return };
    gpg.run(&["--quick-gen-key", "ed@example", "ed25519", "sign", "never"]);
    gpg.run(&["--quick-gen-key", "rsa@example", "rsa2048", "sign", "never"]);
    for (user, armour) in [("ed@example", true), ("rsa@example", false)] {
        let (inline, detached) = gpg.sign(user, TEXT, &[]);
        let keyring = gpg.export(armour, &[user]);
        let text = keyring.verify_inline(&inline, now()).expect("good");
        assert_eq!(
            text.replace("Trailing:\n", "Trailing:  \n").trim_end(),
            TEXT.trim_end()
        );
        keyring
            .verify_detached(TEXT.as_bytes(), &detached, now())
            .expect("good");

        let altered = inline.replace("Origin: Test", "Origin: Evil");
        let error = keyring
            .verify_inline(&altered, now())
            .expect_err("altered")
            .to_string();
        assert!(error.starts_with("bad signature by key"), "{error}");
        let error = keyring
            .verify_detached(b"other", &detached, now())
            .expect_err("altered")
            .to_string();
        assert!(error.starts_with("bad signature by key"), "{error}");
    }
    let both = gpg.export(true, &["ed@example", "rsa@example"]);
    assert_eq!(both.fingerprints().len(), 2);
    let only_rsa = both.only(&gpg.fingerprint("rsa@example").to_lowercase());
    let (inline, _) = gpg.sign("ed@example", TEXT, &[]);
    both.verify_inline(&inline, now()).expect("good");
    let error = only_rsa
        .verify_inline(&inline, now())
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("which is not in the keyring"), "{error}");
    // Two signatures, of which one is known.
    let (twice, detached) = gpg.sign("ed@example", TEXT, &["-u", "rsa@example"]);
    only_rsa
        .verify_inline(&twice, now())
        .expect("one is enough");
    only_rsa
        .verify_detached(TEXT.as_bytes(), &detached, now())
        .expect("one is enough");
    let error = both
        .verify_inline(&format!("{}\nextra", inline.trim_end()), now())
        .expect_err("text after the signature")
        .to_string();
    assert!(error.starts_with("no inline-signed message"), "{error}");
}

#[test]
fn a_subkey_signs_for_its_primary_key_until_it_is_expired_or_revoked() {
    let Some(gpg) = Gpg::new() else { return };
    gpg.run(&["--quick-gen-key", "sub@example", "ed25519", "cert", "never"]);
    let fingerprint = gpg.fingerprint("sub@example");
    gpg.run(&["--quick-add-key", &fingerprint, "ed25519", "sign", "2d"]);
    let (inline, _) = gpg.sign("sub@example", TEXT, &[]);
    let keyring = gpg.export(false, &["sub@example"]);
    keyring.verify_inline(&inline, now()).expect("good");
    let later = SystemTime::now() + Duration::from_secs(3 * 86_400);
    let error = keyring
        .verify_inline(&inline, later)
        .expect_err("expired")
        .to_string();
    assert!(error.contains(" expired on "), "{error}");

    let script = gpg.path("revoke");
    fs::write(&script, "key 1\nrevkey\ny\n0\n\ny\nsave\n").expect("writes");
    gpg.run(&["--command-file", &script, "--edit-key", &fingerprint]);
    let keyring = gpg.export(false, &["sub@example"]);
    let error = keyring
        .verify_inline(&inline, now())
        .expect_err("revoked")
        .to_string();
    assert!(error.contains(" is revoked"), "{error}");
}

#[test]
fn an_expired_a_revoked_and_a_weak_signature_prove_nothing() {
    let Some(gpg) = Gpg::new() else { return };
    gpg.run(&[
        "--faked-system-time",
        "20200101T000000",
        "--quick-gen-key",
        "old@example",
        "ed25519",
        "sign",
        "30d",
    ]);
    let (inline, detached) = gpg.sign(
        "old@example",
        TEXT,
        &["--faked-system-time", "20200102T000000"],
    );
    let keyring = gpg.export(true, &["old@example"]);
    for error in [
        keyring.verify_inline(&inline, now()).map(drop),
        keyring.verify_detached(TEXT.as_bytes(), &detached, now()),
    ] {
        let error = error.expect_err("expired").to_string();
        assert!(
            error.ends_with("expired on Fri, 31 Jan 2020 00:00:00 UTC"),
            "{error}"
        );
    }
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_578_000_000);
    keyring.verify_inline(&inline, then).expect("was good then");

    gpg.run(&[
        "--quick-gen-key",
        "gone@example",
        "ed25519",
        "sign",
        "never",
    ]);
    let (inline, _) = gpg.sign("gone@example", TEXT, &[]);
    let certificate = Path::new(&gpg.path("openpgp-revocs.d"))
        .join(format!("{}.rev", gpg.fingerprint("gone@example")));
    let revocation = fs::read_to_string(certificate)
        .expect("gpg makes one")
        .replace("\n:---", "\n---");
    fs::write(gpg.path("revocation"), revocation).expect("writes");
    gpg.run(&["--import", &gpg.path("revocation")]);
    let error = gpg
        .export(true, &["gone@example"])
        .verify_inline(&inline, now())
        .expect_err("revoked")
        .to_string();
    assert!(error.ends_with(" is revoked"), "{error}");

    gpg.run(&[
        "--quick-gen-key",
        "weak@example",
        "rsa2048",
        "sign",
        "never",
    ]);
    let (_, detached) = gpg.sign("weak@example", TEXT, &["--digest-algo", "SHA1"]);
    let error = gpg
        .export(true, &["weak@example"])
        .verify_detached(TEXT.as_bytes(), &detached, now())
        .expect_err("weak")
        .to_string();
    assert!(error.contains("weak hash"), "{error}");
}

#[test]
fn what_the_site_key_signs_gnupg_accepts() {
    let Some(gpg) = Gpg::new() else { return };
    let path = gpg.home.path().join("keys/site.key");
    let key = SiteKey::open(&path).expect("is made");
    assert_eq!(
        SiteKey::open(&path).expect("is read").fingerprint(),
        key.fingerprint()
    );
    fs::write(gpg.path("site.asc"), key.public().expect("armours")).expect("writes");
    gpg.run(&[
        "--no-default-keyring",
        "--keyring",
        &gpg.path("site.gpg"),
        "--import",
        &gpg.path("site.asc"),
    ]);
    fs::write(gpg.path("InRelease"), key.sign_inline(TEXT).expect("signs")).expect("writes");
    fs::write(gpg.path("Release"), TEXT).expect("writes");
    fs::write(
        gpg.path("Release.gpg"),
        key.sign_detached(TEXT).expect("signs"),
    )
    .expect("writes");
    for files in [vec!["InRelease"], vec!["Release.gpg", "Release"]] {
        let output = Command::new("gpgv")
            .args(["--keyring", &gpg.path("site.gpg")])
            .args(files.iter().map(|file| gpg.path(file)))
            .output()
            .expect("gpgv runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_keyring_that_is_none_is_told() {
    for (bytes, expected) in [
        (&b""[..], "keyring"),
        (
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnonsense",
            "keyring",
        ),
        (b"\0\0\0\x20\x01\x01\0\x02KBXf\0\0\0\0", "a GnuPG keybox"),
    ] {
        let error = Keyring::parse(bytes).expect_err("none").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_archives_of_this_machine_are_proven() {
    let keyring = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
    let Ok(lists) = fs::read_dir("/var/lib/apt/lists") else {
        eprintln!("SKIPPED: apt has no lists here");
        return;
    };
    let signed: Vec<String> = lists
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with("_InRelease"))
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter(|text| text.contains("\nOrigin: Debian\n"))
        .collect();
    if signed.is_empty() || !keyring.exists() {
        eprintln!("SKIPPED: apt has fetched nothing of Debian here");
        return;
    }
    let keyring = Keyring::load(keyring).expect("Debian's keyring is one");
    for inline in signed {
        // As of its own date: this test is not about how fresh the lists of a machine are.
        let date = inline
            .lines()
            .find_map(|line| ondol_mirror::apt::date::parse(line.strip_prefix("Date: ")?))
            .expect("every Release file has a date");
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(date.unsigned_abs() + 86_400);
        let text = keyring
            .verify_inline(&inline, then)
            .expect("signed by Debian");
        let release = ondol_mirror::apt::release::parse(&text).expect("well-formed");
        assert!(release.files.len() > 10);
    }
}
