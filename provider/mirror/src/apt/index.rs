//! Indexes as archives offer them: plain or compressed. Pure.

use std::io::{self, Read};

/// How an index is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Xz,
    Zstd,
    Gzip,
    None,
}

impl Compression {
    pub const ALL: [Self; 4] = [Self::Xz, Self::Zstd, Self::Gzip, Self::None];

    /// With its dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::None => "",
        }
    }

    /// Nanoseconds until the text is there, over a line of 100 Mbit/s and unpacked by one core. Sizes are in bytes. The smallest is not
    /// always the quickest: xz takes longer to unpack than gzip's larger file takes to come.
    pub fn cost(self, packed: u64, unpacked: u64) -> u64 {
        const LINE: u64 = 80;
        let core = match self {
            Self::Xz => 15,
            Self::Zstd => 4,
            Self::Gzip => 3,
            Self::None => 0,
        };
        packed
            .saturating_mul(LINE)
            .saturating_add(unpacked.saturating_mul(core))
    }
}

/// The text of an index. `expected` is its size in bytes, where the Release file tells it; more than 4 GiB is refused.
///
/// Bytes that are no UTF-8, which some archives have in maintainers' names, become replacement characters.
pub fn unpack(bytes: &[u8], compression: Compression, expected: Option<u64>) -> io::Result<String> {
    const LIMIT: u64 = 4 << 30;
    let limit = expected.unwrap_or(LIMIT).min(LIMIT);
    let mut text =
        Vec::with_capacity(usize::try_from(expected.unwrap_or(0).min(1 << 28)).unwrap_or(0));
    // One byte more tells a text that is too long from one that fits.
    match compression {
        Compression::None => {
            bytes.take(limit + 1).read_to_end(&mut text)?;
        }
        Compression::Gzip => {
            flate2::read::MultiGzDecoder::new(bytes)
                .take(limit + 1)
                .read_to_end(&mut text)?;
        }
        Compression::Xz => {
            liblzma::read::XzDecoder::new_multi_decoder(bytes)
                .take(limit + 1)
                .read_to_end(&mut text)?;
        }
        Compression::Zstd => {
            let mut rest = bytes;
            while !rest.is_empty() && (text.len() as u64) <= limit {
                let mut decoder =
                    ruzstd::decoding::StreamingDecoder::new(&mut rest).map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
                decoder
                    .by_ref()
                    .take(limit + 1 - text.len() as u64)
                    .read_to_end(&mut text)?;
            }
        }
    }
    if text.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unpacks to more than {limit} bytes"),
        ));
    }
    Ok(String::from_utf8(text)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn pack(text: &[u8], compression: Compression) -> Vec<u8> {
        match compression {
            Compression::None => text.to_vec(),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
                encoder.write_all(text).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            Compression::Zstd => {
                ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
            }
        }
    }

    #[test]
    fn every_compression_is_unpacked_also_in_several_parts() {
        let text = "Package: hello\n".repeat(1000);
        for compression in Compression::ALL {
            let mut packed = pack(text.as_bytes(), compression);
            assert_eq!(
                unpack(&packed, compression, Some(15_000)).expect("unpacks"),
                text,
                "{compression:?}"
            );
            assert_eq!(unpack(&packed, compression, None).expect("unpacks"), text);
            packed.extend(pack(b"end", compression));
            assert_eq!(
                unpack(&packed, compression, None).expect("unpacks"),
                text.clone() + "end",
                "{compression:?}"
            );
        }
    }

    #[test]
    fn the_quickest_form_is_neither_the_smallest_nor_the_plainest() {
        // Debian 12 main for amd64, in bytes.
        let text = 46_000_000;
        let [xz, gzip, none] = [
            Compression::Xz.cost(8_900_000, text),
            Compression::Gzip.cost(11_800_000, text),
            Compression::None.cost(text, text),
        ];
        assert!(gzip < xz && xz < none, "{gzip} {xz} {none}");
        assert!(Compression::Zstd.cost(10_000_000, text) < gzip);
        assert_eq!(Compression::Xz.cost(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn what_is_longer_than_said_or_no_such_format_is_refused() {
        for compression in Compression::ALL {
            let packed = pack(&[b'a'; 100_000], compression);
            let error = unpack(&packed, compression, Some(1000)).expect_err("too long");
            assert_eq!(
                error.to_string(),
                "unpacks to more than 1000 bytes",
                "{compression:?}"
            );
            if compression != Compression::None {
                assert!(
                    unpack(b"nonsense", compression, None).is_err(),
                    "{compression:?}"
                );
                assert!(
                    unpack(&packed[..packed.len() / 2], compression, None).is_err(),
                    "{compression:?}"
                );
            }
        }
    }

    #[test]
    fn bytes_that_are_no_utf_8_do_not_hide_an_index() {
        let text = unpack(b"Maintainer: Andr\xe9\n", Compression::None, None).expect("unpacks");
        assert_eq!(text, "Maintainer: Andr\u{fffd}\n");
    }
}
