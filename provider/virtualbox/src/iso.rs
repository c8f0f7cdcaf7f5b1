//! A medium with a few small files in its root, as ISO 9660 (ECMA-119) with Joliet names, which every system reads.
//!
//! The same files give the same bytes: there is no date in it. No directories, no Rock Ridge, no boot records. Written here because
//! the crates that write ISO 9660 are young and do far more than this.

const SECTOR: usize = 2048;
const FIRST_DESCRIPTOR: usize = 16;
/// What follows the three descriptors: path tables in both byte orders, and a root directory, for each of the two trees.
const PATH_TABLES: [usize; 4] = [19, 20, 21, 22];
const ROOTS: [usize; 2] = [23, 24];
const FIRST_FILE: usize = 25;
/// VirtualBox refuses a medium smaller than this many sectors.
const LEAST_SECTORS: usize = 32;

/// A file by its name, at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// The medium's bytes. `label` is at most 16 characters of ASCII.
///
/// # Panics
/// If a root directory does not fit into one sector (some 20 files).
pub(crate) fn write(label: &str, files: &[File]) -> Vec<u8> {
    let mut extents = Vec::new();
    let mut next = FIRST_FILE;
    for file in files {
        extents.push(next);
        next += file.content.len().div_ceil(SECTOR).max(1);
    }
    let sectors = next.max(LEAST_SECTORS);
    let mut image = vec![0; sectors * SECTOR];
    let mut put = |sector: usize, bytes: &[u8]| {
        image[sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
    };
    for joliet in [false, true] {
        let tree = usize::from(joliet);
        put(FIRST_DESCRIPTOR + tree, &descriptor(joliet, label, sectors));
        put(PATH_TABLES[2 * tree], &path_table(ROOTS[tree], false));
        put(PATH_TABLES[2 * tree + 1], &path_table(ROOTS[tree], true));
        let directory = directory(joliet, files, &extents);
        assert!(
            directory.len() <= SECTOR,
            "the root directory fits into a sector"
        );
        put(ROOTS[tree], &directory);
    }
    put(FIRST_DESCRIPTOR + 2, b"\xffCD001\x01");
    for (file, &extent) in files.iter().zip(&extents) {
        put(extent, &file.content);
    }
    image
}

/// A file of a medium that [`write`] made.
pub(crate) fn read(image: &[u8], name: &str) -> Option<Vec<u8>> {
    let wanted = ucs2(name);
    let directory = image.get(ROOTS[1] * SECTOR..(ROOTS[1] + 1) * SECTOR)?;
    let mut at = 0;
    loop {
        let record = directory.get(at..)?;
        let length = usize::from(*record.first()?);
        if length == 0 {
            return None;
        }
        let name_length = usize::from(*record.get(32)?);
        if record.get(33..33 + name_length)? == wanted {
            let number = |from: usize| {
                let bytes: [u8; 4] = record.get(from..from + 4)?.try_into().ok()?;
                usize::try_from(u32::from_le_bytes(bytes)).ok()
            };
            let start = number(2)? * SECTOR;
            return Some(image.get(start..start + number(10)?)?.to_vec());
        }
        at += length;
    }
}

fn descriptor(joliet: bool, label: &str, sectors: usize) -> Vec<u8> {
    let text = |text: &str, length: usize| {
        let mut bytes = if joliet {
            ucs2(text)
        } else {
            text.as_bytes().to_vec()
        };
        bytes.truncate(length);
        let blank: &[u8] = if joliet { &[0, b' '] } else { b" " };
        while bytes.len() < length {
            bytes.push(blank[bytes.len() % blank.len()]);
        }
        bytes
    };
    let tree = usize::from(joliet);
    let mut out = vec![if joliet { 2 } else { 1 }];
    out.extend(b"CD001\x01\x00");
    out.extend(text("", 32));
    out.extend(text(label, 32));
    out.extend([0; 8]);
    out.extend(both32(sectors));
    let mut escapes = [0; 32];
    if joliet {
        escapes[..3].copy_from_slice(b"%/E");
    }
    out.extend(escapes);
    out.extend(both16(1));
    out.extend(both16(1));
    out.extend(both16(SECTOR));
    out.extend(both32(PATH_TABLE_LENGTH));
    out.extend(le32(PATH_TABLES[2 * tree]));
    out.extend([0; 4]);
    out.extend(be32(PATH_TABLES[2 * tree + 1]));
    out.extend([0; 4]);
    out.extend(record(&[0], ROOTS[tree], SECTOR, true));
    // Volume set, publisher, preparer, application; then three files with copyright, abstract and bibliography.
    for length in [128, 128, 128, 128, 37, 37, 37] {
        out.extend(text("", length));
    }
    // Creation, modification, expiration and effective date: not given.
    for _ in 0..4 {
        out.extend([b'0'; 16]);
        out.push(0);
    }
    out.push(1);
    out
}

const PATH_TABLE_LENGTH: usize = 10;

fn path_table(root: usize, big_endian: bool) -> Vec<u8> {
    let mut out = vec![1, 0];
    out.extend(if big_endian { be32(root) } else { le32(root) });
    out.extend(if big_endian { [0, 1] } else { [1, 0] });
    out.extend([0, 0]);
    out
}

fn directory(joliet: bool, files: &[File], extents: &[usize]) -> Vec<u8> {
    let root = ROOTS[usize::from(joliet)];
    let mut out = record(&[0], root, SECTOR, true);
    out.extend(record(&[1], root, SECTOR, true));
    let mut entries: Vec<(Vec<u8>, usize, usize)> = files
        .iter()
        .zip(extents)
        .map(|(file, &extent)| {
            let name = if joliet {
                ucs2(&file.name)
            } else {
                plain_name(&file.name)
            };
            (name, extent, file.content.len())
        })
        .collect();
    entries.sort();
    for (name, extent, length) in entries {
        out.extend(record(&name, extent, length, false));
    }
    out
}

fn record(name: &[u8], extent: usize, length: usize, is_directory: bool) -> Vec<u8> {
    let pad = (name.len() + 1) % 2;
    let size = 33 + name.len() + pad;
    let mut out = vec![
        u8::try_from(size).expect("a name has at most 64 characters"),
        0,
    ];
    out.extend(both32(extent));
    out.extend(both32(length));
    // 2000-01-01 00:00:00 UTC.
    out.extend([100, 1, 1, 0, 0, 0, 0]);
    out.extend([if is_directory { 2 } else { 0 }, 0, 0]);
    out.extend(both16(1));
    out.push(u8::try_from(name.len()).expect("a name has at most 64 characters"));
    out.extend(name);
    out.extend(std::iter::repeat_n(0, pad));
    out
}

/// Level 1: eight capitals, for readers that know no Joliet.
fn plain_name(name: &str) -> Vec<u8> {
    let letters = name.chars().filter(char::is_ascii_alphanumeric).take(8);
    let mut out: Vec<u8> = letters.map(|c| c.to_ascii_uppercase() as u8).collect();
    out.extend(b".;1");
    out
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

fn le32(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("a seed is small").to_le_bytes()
}

fn be32(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("a seed is small").to_be_bytes()
}

fn both32(value: usize) -> Vec<u8> {
    [le32(value), be32(value)].concat()
}

fn both16(value: usize) -> Vec<u8> {
    let value = u16::try_from(value).expect("it is a count or a sector's size");
    [value.to_le_bytes(), value.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<File> {
        [("meta-data", 5), ("network-config", 0), ("user-data", 5000)]
            .into_iter()
            .map(|(name, length)| File {
                name: name.to_owned(),
                content: name.bytes().cycle().take(length).collect(),
            })
            .collect()
    }

    #[test]
    fn what_is_written_can_be_read() {
        let image = write("cidata", &files());
        assert_eq!(image.len() % SECTOR, 0);
        assert_eq!(image, write("cidata", &files()));
        for file in files() {
            assert_eq!(
                read(&image, &file.name),
                Some(file.content),
                "{}",
                file.name
            );
        }
        assert_eq!(read(&image, "vendor-data"), None);
        assert_eq!(read(&image[..100], "meta-data"), None);
    }

    #[test]
    fn other_programs_see_the_label_and_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.iso");
        std::fs::write(&path, write("cidata", &files())).unwrap();
        let output = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program)
                .args(arguments)
                .arg(&path)
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let probed = output("blkid", &["-p", "-o", "export"]);
        for line in ["LABEL=cidata", "TYPE=iso9660"] {
            assert!(probed.lines().any(|it| it == line), "{line}: {probed}");
        }
        // libarchive reads it too, where it is installed.
        if std::process::Command::new("bsdtar")
            .arg("--version")
            .output()
            .is_ok()
        {
            let listing = output("bsdtar", &["-tf"]);
            assert!(listing.contains("network-config"), "{listing}");
        }
    }
}
