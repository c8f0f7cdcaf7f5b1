//! MD4 (RFC 1320), for one use: Samba keeps a password as the MD4 of its UTF-16, and a module must see whether it is the wanted one.
//! It protects nothing.

/// What Samba keeps of a password, in capitals as `pdbedit -w` prints it.
pub(crate) fn nt_hash(password: &str) -> String {
    let utf16: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
    digest(&utf16)
        .iter()
        .map(|it| format!("{it:02X}"))
        .collect()
}

fn digest(message: &[u8]) -> [u8; 16] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    let bits = u64::try_from(message.len()).expect("a length") * 8;
    padded.extend(bits.to_le_bytes());

    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 16];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        let [mut a, mut b, mut c, mut d] = state;
        for round in 0..3 {
            for step in 0..16 {
                let (mixed, constant, index, shift) = match round {
                    0 => ((b & c) | (!b & d), 0, step, [3, 7, 11, 19]),
                    1 => (
                        (b & c) | (b & d) | (c & d),
                        0x5a82_7999,
                        (step % 4) * 4 + step / 4,
                        [3, 5, 9, 13],
                    ),
                    // The bits of the step's number in reverse.
                    _ => (
                        b ^ c ^ d,
                        0x6ed9_eba1,
                        [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15][step],
                        [3, 9, 11, 15],
                    ),
                };
                let turned = a
                    .wrapping_add(mixed)
                    .wrapping_add(words[index])
                    .wrapping_add(constant)
                    .rotate_left(shift[step % 4]);
                (a, b, c, d) = (d, turned, b, c);
            }
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the appendix of RFC 1320.
    #[test]
    fn digests_are_those_of_the_standard() {
        for (message, wanted) in [
            ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
            ("a", "bde52cb31de33e46245e05fbdbd6fb24"),
            ("message digest", "d9130a8164549fe818874806e1c7014b"),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "e33b4ddc9c38f2199c3e7b164fcc0536",
            ),
        ] {
            let digest: String = digest(message.as_bytes())
                .iter()
                .map(|it| format!("{it:02x}"))
                .collect();
            assert_eq!(digest, wanted, "{message}");
        }
    }

    /// As `pdbedit -L -w` of Samba 4.17 showed it.
    #[test]
    fn a_password_is_hashed_as_samba_does() {
        assert_eq!(nt_hash("password"), "8846F7EAEE8FB117AD06BDD830B7586C");
    }
}
