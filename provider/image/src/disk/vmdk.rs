//! A disk as a stream-optimised VMDK: compressed grains of 64 KiB in the order of the disk, and nothing for zeros.
//!
//! Source: VMware's "Virtual Disk Format 5.0". `qemu-img` writes the same but for a random content ID.

use std::io::{self, Write};
use std::num::NonZero;
use std::thread;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::gpt::SECTOR;
use super::sparse::Reader;

const GRAIN: u64 = 64 * 1024;
const GRAIN_SECTORS: u64 = GRAIN / SECTOR;
const GRAINS_PER_TABLE: u64 = 512;
/// What lies before the first grain: header and descriptor, filled up to a whole grain.
const OVERHEAD_SECTORS: u64 = 128;
const DESCRIPTOR_SECTORS: u64 = 20;
const DIRECTORY_AT_THE_END: u64 = u64::MAX;
/// Grains that are compressed together before they are written.
const BATCH: usize = 256;

/// Kinds of what is not a grain.
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

/// What a VMDK is called and known by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub file_name: &'a str,
    pub content_id: u32,
}

/// `go_on` is asked with the part that is done, from 0 to 1; an error from it ends the writing.
pub(crate) fn write(
    disk: &Reader<'_>,
    identity: Identity<'_>,
    out: &mut impl Write,
    go_on: &mut dyn FnMut(f64) -> io::Result<()>,
) -> io::Result<()> {
    let sectors = disk.size() / SECTOR;
    let mut out = Counted { out, sector: 0 };
    out.put(&header(sectors, DIRECTORY_AT_THE_END))?;
    let mut descriptor = descriptor(sectors, identity).into_bytes();
    descriptor.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    out.put(&descriptor)?;
    let gap = OVERHEAD_SECTORS - out.sector;
    out.put(&vec![0; (gap * SECTOR) as usize])?;

    let tables = sectors.div_ceil(GRAIN_SECTORS * GRAINS_PER_TABLE);
    let mut directory = vec![0u32; tables as usize];
    let mut table = Table::default();
    let grains = disk.occupied(GRAIN);
    for (done, batch) in grains.chunks(BATCH).enumerate() {
        go_on((done * BATCH) as f64 / grains.len() as f64)?;
        for (grain, compressed) in batch.iter().zip(compress(disk, batch)?) {
            let Some(compressed) = compressed else {
                continue;
            };
            if table.index != grain / GRAINS_PER_TABLE {
                table.finish(&mut directory, &mut out)?;
                table.index = grain / GRAINS_PER_TABLE;
            }
            table.grains[(grain % GRAINS_PER_TABLE) as usize] = out.sector as u32;
            let mut marker = Vec::with_capacity(compressed.len() + 12);
            marker.extend((grain * GRAIN_SECTORS).to_le_bytes());
            marker.extend((compressed.len() as u32).to_le_bytes());
            marker.extend(compressed);
            out.put(&marker)?;
        }
    }
    table.finish(&mut directory, &mut out)?;

    let directory: Vec<u8> = directory.iter().flat_map(|at| at.to_le_bytes()).collect();
    out.put(&marker(DIRECTORY, directory.len()))?;
    let directory_at = out.sector;
    out.put(&directory)?;
    out.put(&marker(FOOTER, SECTOR as usize))?;
    out.put(&header(sectors, directory_at))?;
    out.put(&marker(0, 0))?;
    go_on(1.0)
}

/// Where the grains of one table are; 0 for a grain of zeros.
struct Table {
    index: u64,
    grains: [u32; GRAINS_PER_TABLE as usize],
}

impl Default for Table {
    fn default() -> Self {
        Self {
            index: 0,
            grains: [0; GRAINS_PER_TABLE as usize],
        }
    }
}

impl Table {
    /// A table without a grain is not written at all.
    fn finish(&mut self, directory: &mut [u32], out: &mut Counted<impl Write>) -> io::Result<()> {
        if self.grains.iter().all(|at| *at == 0) {
            return Ok(());
        }
        let bytes: Vec<u8> = self.grains.iter().flat_map(|at| at.to_le_bytes()).collect();
        out.put(&marker(TABLE, bytes.len()))?;
        directory[self.index as usize] = out.sector as u32;
        out.put(&bytes)?;
        *self = Self::default();
        Ok(())
    }
}

/// Writes whole sectors and counts them.
struct Counted<W> {
    out: W,
    sector: u64,
}

impl<W: Write> Counted<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sectors = (bytes.len() as u64).div_ceil(SECTOR);
        self.out.write_all(bytes)?;
        let padding = (sectors * SECTOR) as usize - bytes.len();
        self.out.write_all(&[0; SECTOR as usize][..padding])?;
        self.sector += sectors;
        Ok(())
    }
}

/// On all processors. None for a grain that holds only zeros after all.
fn compress(disk: &Reader<'_>, grains: &[u64]) -> io::Result<Vec<Option<Vec<u8>>>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = grains.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let shares: Vec<_> = grains
            .chunks(share)
            .map(|share| {
                scope.spawn(move || {
                    share
                        .iter()
                        .map(|grain| compressed(disk, *grain))
                        .collect::<io::Result<Vec<_>>>()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(grains.len());
        for share in shares {
            all.extend(share.join().expect("compressing does not panic")?);
        }
        Ok(all)
    })
}

fn compressed(disk: &Reader<'_>, grain: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; GRAIN as usize];
    disk.read(grain * GRAIN, &mut bytes)?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(&bytes)?;
    encoder.finish().map(Some)
}

fn header(sectors: u64, directory_at: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(SECTOR as usize);
    header.extend(b"KDMV");
    header.extend(3u32.to_le_bytes());
    // The test of line ends below is valid; grains are compressed and have markers.
    header.extend(0x3_0001u32.to_le_bytes());
    header.extend(sectors.to_le_bytes());
    header.extend(GRAIN_SECTORS.to_le_bytes());
    header.extend(1u64.to_le_bytes());
    header.extend(DESCRIPTOR_SECTORS.to_le_bytes());
    header.extend((GRAINS_PER_TABLE as u32).to_le_bytes());
    header.extend(0u64.to_le_bytes());
    header.extend(directory_at.to_le_bytes());
    header.extend(OVERHEAD_SECTORS.to_le_bytes());
    header.push(0); // shut down in order
    header.extend(b"\n \r\n");
    header.extend(1u16.to_le_bytes()); // deflate
    header.resize(SECTOR as usize, 0);
    header
}

fn marker(kind: u32, content: usize) -> Vec<u8> {
    let mut marker = Vec::with_capacity(SECTOR as usize);
    marker.extend((content as u64).div_ceil(SECTOR).to_le_bytes());
    marker.extend(0u32.to_le_bytes());
    marker.extend(kind.to_le_bytes());
    marker.resize(SECTOR as usize, 0);
    marker
}

fn descriptor(sectors: u64, identity: Identity<'_>) -> String {
    const HEADS: u64 = 255;
    const SECTORS_PER_TRACK: u64 = 63;
    let cylinders = (sectors / (HEADS * SECTORS_PER_TRACK)).min(65_535);
    format!(
        "# Disk DescriptorFile
version=1
CID={:08x}
parentCID=ffffffff
createType=\"streamOptimized\"

# Extent description
RDONLY {sectors} SPARSE \"{}\"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = \"4\"
ddb.adapterType=\"lsilogic\"
ddb.geometry.cylinders=\"{cylinders}\"
ddb.geometry.heads=\"{HEADS}\"
ddb.geometry.sectors=\"{SECTORS_PER_TRACK}\"
",
        identity.content_id, identity.file_name
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::disk::sparse::Sparse;

    const IDENTITY: Identity<'static> = Identity {
        file_name: "a.vmdk",
        content_id: 0xabc,
    };

    fn written(disk: Sparse) -> Vec<u8> {
        let archive = tempfile::tempfile().expect("a temporary file");
        let mut out = Vec::new();
        write(&disk.reader(&archive), IDENTITY, &mut out, &mut |_| Ok(())).expect("written");
        out
    }

    fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
        let mut number = [0; 8];
        number[..size].copy_from_slice(&bytes[at..at + size]);
        u64::from_le_bytes(number)
    }

    /// By the directory in the footer, as a reader that can seek does it.
    fn grain(vmdk: &[u8], grain: u64) -> Option<Vec<u8>> {
        let footer = &vmdk[vmdk.len() - 1024..];
        assert_eq!(&footer[..4], b"KDMV");
        let directory = number(footer, 56, 8) as usize * 512;
        let table = number(vmdk, directory + (grain / 512) as usize * 4, 4) as usize * 512;
        if table == 0 {
            return None;
        }
        let at = number(vmdk, table + (grain % 512) as usize * 4, 4) as usize * 512;
        if at == 0 {
            return None;
        }
        assert_eq!(number(vmdk, at, 8), grain * 128);
        let len = number(vmdk, at + 8, 4) as usize;
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(&vmdk[at + 12..at + 12 + len])
            .read_to_end(&mut bytes)
            .expect("deflated");
        Some(bytes)
    }

    #[test]
    fn grains_are_found_again_and_zeros_take_no_room() {
        let mut disk = Sparse::new(96 << 20);
        disk.put_bytes(70 << 10, *b"second grain");
        disk.put_bytes(1 << 20, vec![0; 1 << 20]);
        disk.put_bytes((96 << 20) - 5, *b"an en");
        let vmdk = written(disk);
        assert_eq!(grain(&vmdk, 0), None);
        let second = grain(&vmdk, 1).expect("there");
        assert_eq!(
            (second.len(), &second[4464 + 1680..][..12]),
            (65536, &b"second grain"[..])
        );
        assert_eq!(grain(&vmdk, 16), None, "written zeros are zeros");
        assert_eq!(grain(&vmdk, 600), None, "in a table that is not there");
        assert_eq!(&grain(&vmdk, 1535).expect("there")[65531..], b"an en");
        assert!(vmdk.len() < 80_000 && vmdk.len().is_multiple_of(512));
    }

    #[test]
    fn the_descriptor_names_the_file_and_the_size() {
        insta::assert_snapshot!(descriptor(20_971_520, IDENTITY), @r#"
        # Disk DescriptorFile
        version=1
        CID=00000abc
        parentCID=ffffffff
        createType="streamOptimized"

        # Extent description
        RDONLY 20971520 SPARSE "a.vmdk"

        # The Disk Data Base
        #DDB

        ddb.virtualHWVersion = "4"
        ddb.adapterType="lsilogic"
        ddb.geometry.cylinders="1305"
        ddb.geometry.heads="255"
        ddb.geometry.sectors="63"
        "#);
    }

    #[test]
    fn whoever_is_asked_can_end_it() {
        let mut disk = Sparse::new(1 << 20);
        disk.put_bytes(0, *b"x");
        let archive = tempfile::tempfile().expect("a temporary file");
        let stop = &mut |_| Err(io::Error::other("enough"));
        let error = write(&disk.reader(&archive), IDENTITY, &mut Vec::new(), stop);
        assert_eq!(error.expect_err("ended").to_string(), "enough");
    }
}
