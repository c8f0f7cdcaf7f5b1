//! A FAT32 file system for the EFI system partition: a few files in upper case with names of eight and three letters. Pure.
//!
//! Source: Microsoft's FAT specification of 2000. Long names are not written: UEFI asks for none of them.

use std::collections::BTreeMap;

use super::sparse::{Source, Sparse};

const SECTOR: u32 = 512;
/// One sector each, so that a small partition has as many clusters as FAT32 demands (65,525).
const RESERVED_SECTORS: u32 = 32;
const FATS: u32 = 2;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const ENTRY: usize = 32;
const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const VOLUME_LABEL: u8 = 0x08;

#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub directories: BTreeMap<String, Directory>,
    pub files: BTreeMap<String, Source>,
}

impl Directory {
    /// Puts a file at a path with slashes, making the directories above it.
    pub(crate) fn put(&mut self, path: &str, content: Source) {
        match path.split_once('/') {
            Some((first, rest)) => self
                .directories
                .entry(first.to_owned())
                .or_default()
                .put(rest, content),
            None => {
                self.files.insert(path.to_owned(), content);
            }
        }
    }
}

pub(crate) struct Volume<'a> {
    /// In bytes, between 33 MiB and 2 GiB.
    pub size: u64,
    pub serial: u32,
    /// At most eleven letters.
    pub label: &'a str,
    /// Seconds since 1970 (UTC): the time of everything.
    pub epoch: i64,
}

/// The content must fit; names that cannot be said in eight and three letters are a mistake of the program.
pub(crate) fn write(volume: &Volume<'_>, root: &Directory) -> Sparse {
    let sectors = u32::try_from(volume.size / u64::from(SECTOR)).expect("below 2 TiB");
    // Each sector of a table speaks of 128 clusters; the tables themselves are not clusters, so this is a few too many.
    let fat_sectors = (sectors - RESERVED_SECTORS).div_ceil(128);
    let mut writer = Writer {
        volume,
        image: Sparse::new(volume.size),
        fat: vec![0x0fff_fff8, END_OF_CHAIN],
        first_data_sector: RESERVED_SECTORS + FATS * fat_sectors,
    };
    let clusters = sectors - writer.first_data_sector;
    let root_cluster = writer.directory(root, None);
    let used = writer.fat.len() as u32;
    assert!(used <= clusters, "the EFI system partition is too small");
    let boot = boot_sector(volume, sectors, fat_sectors, root_cluster);
    let info = info_sector(clusters + 2 - used, used);
    let table: Vec<u8> = writer
        .fat
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    for copy in 0..FATS {
        let at = u64::from((RESERVED_SECTORS + copy * fat_sectors) * SECTOR);
        writer.image.put_bytes(at, table.clone());
    }
    // Sector 6 holds the copies that repair programs look for.
    for at in [0, 6 * u64::from(SECTOR)] {
        writer.image.put_bytes(at, boot.clone());
        writer.image.put_bytes(at + u64::from(SECTOR), info.clone());
    }
    writer.image
}

struct Writer<'a> {
    volume: &'a Volume<'a>,
    image: Sparse,
    fat: Vec<u32>,
    first_data_sector: u32,
}

impl Writer<'_> {
    /// The first of as many clusters in a row as `len` bytes need; 0 for none.
    fn allocate(&mut self, len: u64) -> u32 {
        let count = u32::try_from(len.div_ceil(u64::from(SECTOR))).expect("below 2 TiB");
        if count == 0 {
            return 0;
        }
        let first = self.fat.len() as u32;
        self.fat.extend(first + 1..first + count);
        self.fat.push(END_OF_CHAIN);
        first
    }

    fn offset(&self, cluster: u32) -> u64 {
        u64::from(self.first_data_sector + cluster - 2) * u64::from(SECTOR)
    }

    /// `parent` is the cluster of the directory above, none for the root. Answers with the directory's own cluster.
    fn directory(&mut self, directory: &Directory, parent: Option<u32>) -> u32 {
        // The root has the volume's label where the others have the two dots.
        let own_entries = if parent.is_some() { 2 } else { 1 };
        let count = own_entries + directory.directories.len() + directory.files.len();
        let here = self.allocate((count * ENTRY) as u64);
        let mut entries = Vec::with_capacity(count * ENTRY);
        match parent {
            None => {
                let label = padded(self.volume.label, "", 11);
                self.entry(&mut entries, &label, VOLUME_LABEL, 0, 0);
            }
            Some(above) => {
                self.entry(&mut entries, &padded(".", "", 11), DIRECTORY, here, 0);
                // The root is called 0 here, wherever it is.
                let above = if above == 2 { 0 } else { above };
                self.entry(&mut entries, &padded("..", "", 11), DIRECTORY, above, 0);
            }
        }
        for (name, below) in &directory.directories {
            let cluster = self.directory(below, Some(here));
            self.entry(&mut entries, &short_name(name), DIRECTORY, cluster, 0);
        }
        for (name, content) in &directory.files {
            let cluster = self.allocate(content.len());
            let len = u32::try_from(content.len()).expect("below 4 GiB");
            self.entry(&mut entries, &short_name(name), ARCHIVE, cluster, len);
            if cluster != 0 {
                self.image.put(self.offset(cluster), content.clone());
            }
        }
        self.image.put_bytes(self.offset(here), entries);
        here
    }

    fn entry(&self, to: &mut Vec<u8>, name: &[u8], attributes: u8, cluster: u32, len: u32) {
        let (date, time) = dos_time(self.volume.epoch);
        to.extend(name);
        to.extend([attributes, 0, 0]);
        for half in [
            time,
            date,
            date,
            (cluster >> 16) as u16,
            time,
            date,
            cluster as u16,
        ] {
            to.extend(half.to_le_bytes());
        }
        to.extend(len.to_le_bytes());
    }
}

fn short_name(name: &str) -> Vec<u8> {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    debug_assert!(stem.len() <= 8 && extension.len() <= 3, "{name}");
    padded(stem, extension, 8)
}

/// `stem` in `width` letters, then `extension`, filled up with blanks to eleven.
fn padded(stem: &str, extension: &str, width: usize) -> Vec<u8> {
    let mut name = format!("{stem:<width$.width$}{extension}").into_bytes();
    name.resize(11, b' ');
    name
}

fn boot_sector(volume: &Volume<'_>, sectors: u32, fat_sectors: u32, root: u32) -> Vec<u8> {
    let mut boot = Vec::with_capacity(SECTOR as usize);
    boot.extend([0xeb, 0x58, 0x90]);
    boot.extend(b"ONDOL   ");
    boot.extend((SECTOR as u16).to_le_bytes());
    boot.push(1); // sectors in a cluster
    boot.extend((RESERVED_SECTORS as u16).to_le_bytes());
    boot.push(FATS as u8);
    boot.extend([0; 4]); // entries and sectors of a FAT16
    boot.push(0xf8); // a fixed disk
    boot.extend([0; 2]);
    boot.extend(63u16.to_le_bytes());
    boot.extend(255u16.to_le_bytes());
    boot.extend(0u32.to_le_bytes()); // sectors before the partition: of no use to UEFI
    boot.extend(sectors.to_le_bytes());
    boot.extend(fat_sectors.to_le_bytes());
    boot.extend([0; 4]); // tables mirrored; version 0
    boot.extend(root.to_le_bytes());
    boot.extend(1u16.to_le_bytes());
    boot.extend(6u16.to_le_bytes());
    boot.extend([0; 12]);
    boot.extend([0x80, 0, 0x29]);
    boot.extend(volume.serial.to_le_bytes());
    boot.extend(padded(volume.label, "", 11));
    boot.extend(b"FAT32   ");
    boot.resize(510, 0);
    boot.extend([0x55, 0xaa]);
    boot
}

fn info_sector(free: u32, next: u32) -> Vec<u8> {
    let mut info = Vec::with_capacity(SECTOR as usize);
    info.extend(b"RRaA");
    info.resize(484, 0);
    info.extend(b"rrAa");
    info.extend(free.to_le_bytes());
    info.extend(next.to_le_bytes());
    info.resize(508, 0);
    info.extend([0, 0, 0x55, 0xaa]);
    info
}

/// Date and time as FAT writes them, in UTC; nothing before 1980.
fn dos_time(epoch: i64) -> (u16, u16) {
    let days = epoch.div_euclid(86_400);
    let seconds = epoch.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    if year < 1980 {
        return (0x21, 0);
    }
    let date = ((year - 1980) << 9) | (month << 5) | day;
    let time = ((seconds / 3600) << 11) | (seconds / 60 % 60) << 5 | (seconds % 60 / 2);
    (date as u16, time as u16)
}

/// Year, month and day of a day counted from 1 January 1970, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of the year 0, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_fat_does() {
        // date -u -d @1700000000: 2023-11-14 22:13:20
        assert_eq!(
            dos_time(1_700_000_000),
            ((43 << 9) | (11 << 5) | 14, (22 << 11) | (13 << 5) | 10)
        );
        // A leap day, and a time before FAT's.
        assert_eq!(dos_time(951_782_400).0, (20 << 9) | (2 << 5) | 29);
        assert_eq!(dos_time(0), (0x21, 0));
    }

    #[test]
    fn names_are_padded_to_eight_and_three() {
        assert_eq!(short_name("BOOTX64.EFI"), b"BOOTX64 EFI");
        assert_eq!(short_name("EFI"), b"EFI        ");
        assert_eq!(padded("..", "", 11), b"..         ");
    }
}
