//! A disk with a GUID partition table that a BIOS can begin to boot from too. Pure.
//!
//! Source: UEFI Specification 2.10, chapter 5.

use uuid::Uuid;

use super::crc::crc32;
use super::sparse::Sparse;

pub(crate) const SECTOR: u64 = 512;
pub(crate) const MIB: u64 = 1024 * 1024;

const ENTRY_COUNT: usize = 128;
const ENTRY_SIZE: usize = 128;
const TABLE_SECTORS: u64 = (ENTRY_COUNT * ENTRY_SIZE) as u64 / SECTOR;
const FIRST_USABLE: u64 = 2 + TABLE_SECTORS;

/// Types of partitions.
pub(crate) const BIOS_BOOT: Uuid = Uuid::from_u128(0x21686148_6449_6e6f_744e_656564454649);
pub(crate) const EFI_SYSTEM: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
/// "Linux root (x86-64)" of the Discoverable Partitions Specification.
pub(crate) const LINUX_ROOT: Uuid = Uuid::from_u128(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709);

pub(crate) struct Partition {
    pub kind: Uuid,
    pub id: Uuid,
    pub name: &'static str,
    /// In bytes, multiples of [`MIB`].
    pub start: u64,
    pub size: u64,
}

/// Puts the protective MBR with `boot_code` in it and both copies of the table into `disk`, whose size is a multiple of [`MIB`].
pub(crate) fn write(disk: &mut Sparse, id: Uuid, boot_code: &[u8], partitions: &[Partition]) {
    let sectors = disk.size / SECTOR;
    let table = table(partitions);
    let backup_table = sectors - 1 - TABLE_SECTORS;
    disk.put_bytes(0, protective_mbr(boot_code, sectors));
    disk.put_bytes(SECTOR, header(id, 1, sectors - 1, 2, sectors, &table));
    disk.put_bytes(backup_table * SECTOR, table.clone());
    disk.put_bytes(
        (sectors - 1) * SECTOR,
        header(id, sectors - 1, 1, backup_table, sectors, &table),
    );
    disk.put_bytes(2 * SECTOR, table);
}

/// `boot_code` is at most 440 bytes: the rest of the sector is the disk's signature and the partition that covers everything.
fn protective_mbr(boot_code: &[u8], sectors: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR as usize];
    let code = &boot_code[..boot_code.len().min(440)];
    mbr[..code.len()].copy_from_slice(code);
    let covered = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    let entry = &mut mbr[446..462];
    // Cylinder, head and sector: 0/0/2 to the largest that can be said.
    entry[..8].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    entry[12..].copy_from_slice(&covered.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn table(partitions: &[Partition]) -> Vec<u8> {
    let mut table = Vec::with_capacity(ENTRY_COUNT * ENTRY_SIZE);
    for partition in partitions {
        let first = partition.start / SECTOR;
        table.extend(partition.kind.to_bytes_le());
        table.extend(partition.id.to_bytes_le());
        table.extend(first.to_le_bytes());
        table.extend((first + partition.size / SECTOR - 1).to_le_bytes());
        table.extend(0u64.to_le_bytes());
        let mut name = [0; 72];
        for (place, unit) in name.chunks_exact_mut(2).zip(partition.name.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        table.extend(name);
    }
    table.resize(ENTRY_COUNT * ENTRY_SIZE, 0);
    table
}

fn header(id: Uuid, here: u64, other: u64, table_at: u64, sectors: u64, table: &[u8]) -> Vec<u8> {
    const HEADER_SIZE: usize = 92;
    let mut header = Vec::with_capacity(SECTOR as usize);
    header.extend(b"EFI PART");
    header.extend(0x0001_0000u32.to_le_bytes());
    header.extend((HEADER_SIZE as u32).to_le_bytes());
    header.extend(0u64.to_le_bytes()); // the header's own checksum, and four reserved bytes
    header.extend(here.to_le_bytes());
    header.extend(other.to_le_bytes());
    header.extend(FIRST_USABLE.to_le_bytes());
    header.extend((sectors - FIRST_USABLE).to_le_bytes());
    header.extend(id.to_bytes_le());
    header.extend(table_at.to_le_bytes());
    header.extend((ENTRY_COUNT as u32).to_le_bytes());
    header.extend((ENTRY_SIZE as u32).to_le_bytes());
    header.extend(crc32(table).to_le_bytes());
    let checksum = crc32(&header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    header.resize(SECTOR as usize, 0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_headers_point_at_each_other_and_check() {
        let mut disk = Sparse::new(64 * MIB);
        let root = Partition {
            kind: LINUX_ROOT,
            id: Uuid::from_u128(1),
            name: "root",
            start: MIB,
            size: 32 * MIB,
        };
        write(&mut disk, Uuid::from_u128(2), &[0xeb; 512], &[root]);
        let archive = tempfile::tempfile().expect("a temporary file");
        let reader = disk.reader(&archive);
        let sector = |lba: u64| {
            let mut sector = [0; SECTOR as usize];
            reader.read(lba * SECTOR, &mut sector).expect("readable");
            sector
        };
        let last = 64 * MIB / SECTOR - 1;
        let number = |sector: &[u8], at: usize| {
            u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes"))
        };
        let (primary, backup) = (sector(1), sector(last));
        assert_eq!((number(&primary, 24), number(&primary, 32)), (1, last));
        assert_eq!((number(&backup, 24), number(&backup, 32)), (last, 1));
        assert_eq!(sector(2), sector(number(&backup, 72)));
        for mut header in [primary, backup] {
            let said = u32::from_le_bytes(header[16..20].try_into().expect("four bytes"));
            header[16..20].fill(0);
            assert_eq!(crc32(&header[..92]), said);
        }
        let mbr = sector(0);
        assert_eq!(
            (mbr[439], mbr[440], &mbr[510..]),
            (0xeb, 0, &[0x55, 0xaa][..])
        );
        assert_eq!(number(&sector(2), 32), 2048);
        assert_eq!(number(&sector(2), 40), 33 * 2048 - 1);
    }
}
