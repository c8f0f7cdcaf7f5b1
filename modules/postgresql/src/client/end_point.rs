//! The hash that binds a SCRAM exchange to the TLS connection below it. Whose certificate is taken is decided elsewhere.

use ring::digest::{self, SHA256, SHA384, SHA512};

/// `tls-server-end-point` of RFC 5929 section 4.1: the certificate hashed with the hash of its own signature, MD5 and SHA-1 raised to
/// SHA-256. `None` for a signature without such a hash, as Ed25519 and RSA-PSS.
pub(super) fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match signature_oid(certificate)? {
        // md5, sha1 and sha256 WithRSAEncryption; ecdsa-with-SHA1 and -SHA256.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 4 | 5 | 11]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 1]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 2] => &SHA256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 12]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 3] => &SHA384,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 13]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, 4] => &SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER, .. }, .. }` (RFC 5280).
fn signature_oid(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (inside, _) = element(SEQUENCE, certificate)?;
    let (_, rest) = element(SEQUENCE, inside)?;
    let (algorithm, _) = element(SEQUENCE, rest)?;
    Some(element(OBJECT_IDENTIFIER, algorithm)?.0)
}

/// The content of the DER element at the start of `bytes`, which must have this tag, and what follows it.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        let length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        (length, rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SEQUENCE { SEQUENCE {}, SEQUENCE { OID } }`.
    fn certificate(oid: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
        let oid = [&[6, length(oid)], oid].concat();
        let algorithm = [&[0x30, length(&oid)], &oid[..]].concat();
        let inside = [&[0x30, 0][..], &algorithm].concat();
        [&[0x30, 0x81, length(&inside)], &inside[..]].concat()
    }

    #[test]
    fn the_hash_follows_the_certificates_signature() {
        for (oid, length) in [
            (
                &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11][..],
                Some(32),
            ),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], Some(32)),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13], Some(64)),
            (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], Some(48)),
            (&[0x2b, 0x65, 0x70], None),
        ] {
            let hash = hash(&certificate(oid));
            assert_eq!(hash.map(|it| it.len()), length, "{oid:x?}");
        }
        for broken in [
            &[][..],
            &[0x30],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x02, 0],
        ] {
            assert_eq!(hash(broken), None);
        }
    }
}
