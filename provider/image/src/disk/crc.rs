//! The two 32-bit cyclic redundancy checks that disks need: IEEE's for a GPT, Castagnoli's for ext4. Table driven; the amounts are small.

/// Reflected polynomials.
const IEEE: u32 = 0xedb8_8320;
const CASTAGNOLI: u32 = 0x82f6_3b78;

static IEEE_TABLE: [u32; 256] = table(IEEE);
static CASTAGNOLI_TABLE: [u32; 256] = table(CASTAGNOLI);

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (if value & 1 == 1 { polynomial } else { 0 });
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

fn update(table: &[u32; 256], value: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(value, |value, byte| {
        (value >> 8) ^ table[((value ^ u32::from(*byte)) & 0xff) as usize]
    })
}

/// CRC-32 as in UEFI's partition tables: inverted before and after.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !update(&IEEE_TABLE, !0, bytes)
}

/// CRC-32C as ext4 chains it: nothing is inverted, the caller begins with `!0`.
pub(crate) fn crc32c(value: u32, bytes: &[u8]) -> u32 {
    update(&CASTAGNOLI_TABLE, value, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the CRC catalogue.
    #[test]
    fn the_check_values_come_out() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
