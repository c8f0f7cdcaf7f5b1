//! OpenPGP: upstream's signatures checked, our own made.
//!
//! A keyring is what the user trusts, so that its certificates need no signatures of others. Still their own say whether a key is
//! expired, revoked or not meant for signing, and then it proves nothing. As with apt, one good signature of several is enough, and one
//! bad signature by a known key is an alarm.

use std::fmt;
use std::fs;
use std::io::{Cursor, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, Deserializable, DetachedSignature, KeyType,
    SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails as _, Password, Tag, Timestamp};
use rand_08::rngs::OsRng;

use super::date;
use crate::error::{Error, Result};
use crate::place::{create_dir, parent, sync_dir};

/// Certificates to check signatures by.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
}

/// Why a signed file is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Untrusted(pub String);

impl Keyring {
    /// One or more certificates, armoured or not.
    pub fn parse(bytes: &[u8]) -> Result<Self, Untrusted> {
        const BEGIN: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";
        if bytes.get(8..12) == Some(b"KBXf") {
            return Err(Untrusted(
                "a GnuPG keybox, which apt cannot read either: export its keys with `gpg --export`"
                    .to_owned(),
            ));
        }
        let starts: Vec<usize> = memchr::memmem::find_iter(bytes, BEGIN).collect();
        let mut blocks: Vec<&[u8]> = Vec::new();
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(bytes.len());
            blocks.push(&bytes[start..end]);
        }
        if blocks.is_empty() {
            blocks.push(bytes);
        }
        let mut certificates = Vec::new();
        for block in blocks {
            let read =
                |error: pgp::errors::Error| Untrusted(format!("no OpenPGP keyring: {error}"));
            let (keys, _) =
                SignedPublicKey::from_reader_many_buf(Cursor::new(block)).map_err(read)?;
            for key in keys {
                certificates.push(key.map_err(read)?);
            }
        }
        if certificates.is_empty() {
            return Err(Untrusted("a keyring without a key".to_owned()));
        }
        Ok(Self { certificates })
    }

    pub fn load(path: &Path) -> Result<Self> {
        let bytes = fs::read(path)
            .map_err(|error| Error::io(format!("read keyring {}", path.display()), error))?;
        Self::parse(&bytes).map_err(|reason| {
            super::Error::Malformed {
                file: path.display().to_string(),
                reason: reason.to_string(),
            }
            .into()
        })
    }

    pub fn extend(&mut self, other: Self) {
        self.certificates.extend(other.certificates);
    }

    /// Of the certificates, in hexadecimal digits.
    pub fn fingerprints(&self) -> Vec<String> {
        self.certificates
            .iter()
            .map(|certificate| certificate.fingerprint().to_string())
            .collect()
    }

    /// Only the certificates that have this fingerprint or a subkey with it.
    pub fn only(&self, fingerprint: &str) -> Self {
        let is = |key: &dyn fmt::Display| key.to_string().eq_ignore_ascii_case(fingerprint);
        let wanted = |certificate: &&SignedPublicKey| {
            is(&certificate.fingerprint())
                || certificate
                    .public_subkeys
                    .iter()
                    .any(|subkey| is(&subkey.key.fingerprint()))
        };
        Self {
            certificates: self.certificates.iter().filter(wanted).cloned().collect(),
        }
    }

    /// The text within an inline-signed message (InRelease), if it is proven.
    pub fn verify_inline(&self, message: &str, now: SystemTime) -> Result<String, Untrusted> {
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|error| Untrusted(format!("no inline-signed message: {error}")))?;
        let text = message.signed_text();
        self.judge(message.signatures().iter(), text.as_bytes(), now)?;
        Ok(text.replace("\r\n", "\n"))
    }

    /// Whether `signature` (Release.gpg) proves `content`.
    pub fn verify_detached(
        &self,
        content: &[u8],
        signature: &[u8],
        now: SystemTime,
    ) -> Result<(), Untrusted> {
        let unreadable =
            |error: pgp::errors::Error| Untrusted(format!("no detached signature: {error}"));
        let (signatures, _) =
            DetachedSignature::from_reader_many_buf(Cursor::new(signature)).map_err(unreadable)?;
        let signatures = signatures
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        self.judge(
            signatures.iter().map(|detached| &detached.signature),
            content,
            now,
        )
    }

    fn judge<'a>(
        &self,
        signatures: impl Iterator<Item = &'a Signature>,
        content: &[u8],
        now: SystemTime,
    ) -> Result<(), Untrusted> {
        let mut reasons = Vec::new();
        let mut good = false;
        for signature in signatures {
            match self.check(signature, content, now) {
                Ok(()) => good = true,
                Err(Doubt::Bad(reason)) => return Err(Untrusted(reason)),
                Err(Doubt::Useless(reason)) => reasons.push(reason),
            }
        }
        if good {
            return Ok(());
        }
        if reasons.is_empty() {
            reasons.push("it has no signature".to_owned());
        }
        Err(Untrusted(reasons.join("; ")))
    }

    fn check(&self, signature: &Signature, content: &[u8], now: SystemTime) -> Result<(), Doubt> {
        let useless = |reason: String| Err(Doubt::Useless(reason));
        let Some((certificate, signer)) = self.signer(signature) else {
            return useless(format!(
                "signed by key {}, which is not in the keyring",
                issuer(signature)
            ));
        };
        let name = match signer {
            Signer::Primary => certificate.fingerprint().to_string(),
            Signer::Subkey(index) => certificate.public_subkeys[index]
                .key
                .fingerprint()
                .to_string(),
        };
        let verified = match signer {
            Signer::Primary => signature.verify(&certificate.primary_key, content),
            Signer::Subkey(index) => {
                signature.verify(&certificate.public_subkeys[index].key, content)
            }
        };
        if let Err(error) = verified {
            return Err(Doubt::Bad(format!("bad signature by key {name}: {error}")));
        }
        let weak = !matches!(
            signature.hash_alg(),
            Some(
                HashAlgorithm::Sha256
                    | HashAlgorithm::Sha384
                    | HashAlgorithm::Sha512
                    | HashAlgorithm::Sha3_256
                    | HashAlgorithm::Sha3_512
            )
        );
        if weak {
            return useless(format!("the signature by key {name} uses a weak hash"));
        }
        if !matches!(
            signature.typ(),
            Some(SignatureType::Binary | SignatureType::Text)
        ) {
            return useless(format!(
                "the signature by key {name} is not one over a document"
            ));
        }
        if let (Some(created), Some(lifetime)) =
            (signature.created(), signature.signature_expiration_time())
            && lifetime_is_over(created, lifetime, now).is_some()
        {
            return useless(format!("the signature by key {name} is expired"));
        }
        match fitness(certificate, signer, now) {
            Ok(()) => Ok(()),
            Err(reason) => useless(format!("key {name} {reason}")),
        }
    }

    fn signer(&self, signature: &Signature) -> Option<(&SignedPublicKey, Signer)> {
        let made_by = |key: &dyn pgp::types::KeyDetails| {
            signature
                .issuer_fingerprint()
                .iter()
                .any(|print| **print == key.fingerprint())
                || signature
                    .issuer_key_id()
                    .iter()
                    .any(|id| **id == key.legacy_key_id())
        };
        self.certificates.iter().find_map(|certificate| {
            if made_by(&certificate.primary_key) {
                return Some((certificate, Signer::Primary));
            }
            let index = certificate
                .public_subkeys
                .iter()
                .position(|subkey| made_by(&subkey.key))?;
            Some((certificate, Signer::Subkey(index)))
        })
    }
}

/// The text within an inline-signed message, whoever signed it; `None` if it is no such message.
pub(crate) fn text_within(message: &str) -> Option<Result<String, Untrusted>> {
    message
        .starts_with("-----BEGIN PGP SIGNED MESSAGE-----")
        .then(|| {
            CleartextSignedMessage::from_string(message)
                .map(|(message, _)| message.signed_text().replace("\r\n", "\n"))
                .map_err(|error| Untrusted(format!("no inline-signed message: {error}")))
        })
}

#[derive(Debug, Clone, Copy)]
enum Signer {
    Primary,
    Subkey(usize),
}

enum Doubt {
    /// A forgery or a damaged file.
    Bad(String),
    /// Proves nothing.
    Useless(String),
}

fn issuer(signature: &Signature) -> String {
    signature
        .issuer_fingerprint()
        .first()
        .map(ToString::to_string)
        .or_else(|| signature.issuer_key_id().first().map(ToString::to_string))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Whether the key may sign now.
fn fitness(certificate: &SignedPublicKey, signer: Signer, now: SystemTime) -> Result<(), String> {
    let primary = &certificate.primary_key;
    let details = &certificate.details;
    let certifications = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && signature.typ() != Some(SignatureType::CertRevocation)
                && signature
                    .verify_certification(primary, Tag::UserId, &user.id)
                    .is_ok()
        })
    });
    let direct = details
        .direct_signatures
        .iter()
        .filter(|signature| signature.verify_key(primary).is_ok());
    let own: Vec<&Signature> = certifications.chain(direct).collect();
    let Some(own) = newest(own.iter().copied(), now) else {
        return Err(if own.is_empty() {
            "has no valid self-signature".to_owned()
        } else {
            "is from the future: look at this machine's clock".to_owned()
        });
    };
    if details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(primary).is_ok())
    {
        return Err("is revoked".to_owned());
    }
    if let Some(lifetime) = own.key_expiration_time()
        && let Some(end) = lifetime_is_over(primary.created_at(), lifetime, now)
    {
        return Err(format!("expired on {}", date::format(end)));
    }
    let Signer::Subkey(index) = signer else {
        // A key without flags may do everything.
        let flags = own.key_flags();
        let says_something =
            flags.certify() || flags.sign() || flags.encrypt_comms() || flags.authentication();
        return if says_something && !flags.sign() {
            Err("is not meant for signing".to_owned())
        } else {
            Ok(())
        };
    };
    let subkey = &certificate.public_subkeys[index];
    let of_kind = |kind: SignatureType| {
        subkey.signatures.iter().filter(move |signature| {
            signature.typ() == Some(kind)
                && signature
                    .verify_subkey_binding(primary, &subkey.key)
                    .is_ok()
        })
    };
    if of_kind(SignatureType::SubkeyRevocation).next().is_some() {
        return Err("is revoked".to_owned());
    }
    let Some(binding) = newest(of_kind(SignatureType::SubkeyBinding), now) else {
        return Err("is not bound to its primary key".to_owned());
    };
    if !binding.key_flags().sign() {
        return Err("is not meant for signing".to_owned());
    }
    let confirmed = binding.embedded_signature().is_some_and(|back| {
        back.verify_primary_key_binding(&subkey.key, primary)
            .is_ok()
    });
    if !confirmed {
        return Err("does not confirm its primary key".to_owned());
    }
    if let Some(lifetime) = binding.key_expiration_time()
        && let Some(end) = lifetime_is_over(subkey.key.created_at(), lifetime, now)
    {
        return Err(format!("expired on {}", date::format(end)));
    }
    Ok(())
}

/// The last word of a key's owner that is not from the future.
fn newest<'a>(
    signatures: impl Iterator<Item = &'a Signature>,
    now: SystemTime,
) -> Option<&'a Signature> {
    signatures
        .filter(|signature| {
            signature
                .created()
                .is_some_and(|created| SystemTime::from(created) <= now)
        })
        .max_by_key(|signature| signature.created())
}

/// When it was over, in seconds since 1970, if it is. A lifetime of zero never ends.
fn lifetime_is_over(
    created: Timestamp,
    lifetime: pgp::types::Duration,
    now: SystemTime,
) -> Option<i64> {
    let lifetime = Duration::from(lifetime);
    let end = SystemTime::from(created) + lifetime;
    (!lifetime.is_zero() && end <= now).then(|| seconds(end))
}

pub(crate) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

pub(crate) fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The key that a site signs its mirrors with. The secret half never leaves its file.
#[derive(Debug)]
pub struct SiteKey {
    secret: SignedSecretKey,
}

impl SiteKey {
    /// Reads the key, or makes one (Ed25519, without an end) and keeps it with mode 0600. Two at once make one key.
    pub fn open(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => return Self::parse(path, &bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::io(
                    format!("read site key {}", path.display()),
                    error,
                ));
            }
        }
        let made = Self::generate()?;
        let armoured = made
            .secret
            .to_armored_bytes(ArmorOptions::default())
            .map_err(|error| signing("write the site key", &error))?;
        let act = || format!("write site key {}", path.display());
        let dir = parent(path);
        create_dir(dir)?;
        let temporary = PathBuf::from(format!(
            "{}.{}",
            path.display(),
            uuid::Uuid::new_v4().simple()
        ));
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(&armoured)?;
                file.sync_all()
            })
            // A link, unlike a rename, does not replace the key of one who was quicker.
            .and_then(|()| fs::hard_link(&temporary, path));
        drop(fs::remove_file(&temporary));
        match written {
            Ok(()) => {
                sync_dir(dir)?;
                Ok(made)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::open(path),
            Err(error) => Err(Error::write(act(), path, error)),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let (secret, _) =
            SignedSecretKey::from_reader_single_buf(Cursor::new(bytes)).map_err(|error| {
                super::Error::Malformed {
                    file: path.display().to_string(),
                    reason: format!("no OpenPGP secret key: {error}"),
                }
            })?;
        Ok(Self { secret })
    }

    fn generate() -> Result<Self> {
        let act = "make the site key";
        let mut parameters = SecretKeyParamsBuilder::default();
        parameters
            // The version 4 form of Ed25519, which every gpgv in use understands.
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .primary_user_id("Ondol site key (local mirror)".to_owned());
        let secret = parameters
            .build()
            .map_err(|error| signing(act, &error))?
            .generate(OsRng)
            .map_err(|error| signing(act, &error))?;
        Ok(Self { secret })
    }

    pub fn fingerprint(&self) -> String {
        self.secret.fingerprint().to_string()
    }

    /// The public half, armoured.
    pub fn public(&self) -> Result<String> {
        SignedPublicKey::from(self.secret.clone())
            .to_armored_string(ArmorOptions::default())
            .map_err(|error| signing("write the public half of the site key", &error))
    }

    pub fn keyring(&self) -> Keyring {
        Keyring {
            certificates: vec![SignedPublicKey::from(self.secret.clone())],
        }
    }

    /// The text with the signature in it, as InRelease is. White space at the ends of lines is no part of such a message (RFC 9580,
    /// section 7.2) and is left out.
    pub fn sign_inline(&self, text: &str) -> Result<String> {
        let text: String = text
            .lines()
            .map(|line| line.trim_end().to_owned() + "\n")
            .collect();
        CleartextSignedMessage::sign(OsRng, &text, &self.secret.primary_key, &Password::empty())
            .and_then(|message| message.to_armored_string(ArmorOptions::default()))
            .map_err(|error| signing("sign InRelease", &error))
    }

    /// The signature alone, armoured, as Release.gpg is.
    pub fn sign_detached(&self, text: &str) -> Result<String> {
        DetachedSignature::sign_binary_data(
            OsRng,
            &self.secret.primary_key,
            &Password::empty(),
            HashAlgorithm::Sha512,
            text.as_bytes(),
        )
        .and_then(|signature| signature.to_armored_string(ArmorOptions::default()))
        .map_err(|error| signing("sign Release", &error))
    }
}

fn signing(act: &str, error: &dyn fmt::Display) -> Error {
    super::Error::Signing {
        act: act.to_owned(),
        reason: error.to_string(),
    }
    .into()
}
