//! A guest's SSH host key, made before the guest exists so that nobody has to trust it at first sight.
//!
//! Only ed25519, only OpenSSH's own file format (`PROTOCOL.key` in its sources), and no passphrase: sshd could not use one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SecureRandom as _;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const KIND: &[u8] = b"ssh-ed25519";

/// Both halves, as OpenSSH writes them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HostKey {
    /// The text of `ssh_host_ed25519_key`.
    pub(crate) private: String,
    /// `ssh-ed25519 AAAA...`
    pub(crate) public: String,
}

impl HostKey {
    pub(crate) fn generate() -> Self {
        let mut seed = [0; 32];
        let random = ring::rand::SystemRandom::new();
        random
            .fill(&mut seed)
            .expect("the system has random numbers");
        Self::from_seed(&seed)
    }

    fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        let public = pair.public_key().as_ref();
        let public_blob = [string(KIND), string(public)].concat();

        let mut secrets = Vec::new();
        // The same number twice: a decrypted key is known to be whole by it. Without encryption it may be any.
        secrets.extend([0; 8]);
        secrets.extend(string(KIND));
        secrets.extend(string(public));
        secrets.extend(string(&[seed.as_slice(), public].concat()));
        secrets.extend(string(b""));
        for pad in 1u8.. {
            if secrets.len() % 8 == 0 {
                break;
            }
            secrets.push(pad);
        }

        let mut file = b"openssh-key-v1\0".to_vec();
        for part in [b"none".as_slice(), b"none", b""] {
            file.extend(string(part));
        }
        file.extend(1u32.to_be_bytes());
        file.extend(string(&public_blob));
        file.extend(string(&secrets));

        let mut private = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
        let text = STANDARD.encode(file);
        for start in (0..text.len()).step_by(70) {
            private.push_str(&text[start..text.len().min(start + 70)]);
            private.push('\n');
        }
        private.push_str("-----END OPENSSH PRIVATE KEY-----\n");
        Self {
            private,
            public: format!("ssh-ed25519 {}", STANDARD.encode(public_blob)),
        }
    }
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.public)
    }
}

/// SSH's wire format: the length, then the bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a key is short");
    [&length.to_be_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openssh_reads_the_private_half_and_finds_the_public_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = HostKey::generate();
        std::fs::write(&path, &key.private).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        let Ok(output) = std::process::Command::new("ssh-keygen")
            .arg("-yf")
            .arg(&path)
            .output()
        else {
            eprintln!("SKIPPED, not tested: ssh-keygen is not installed");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), key.public);
        assert_ne!(HostKey::generate(), key);
    }

    #[test]
    fn a_key_does_not_show_its_private_half() {
        let key = HostKey::from_seed(&[7; 32]);
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }
}
