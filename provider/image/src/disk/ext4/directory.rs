//! The blocks of a directory: a list of names in each, and a checksum at its end. Pure.

use super::BLOCK;
use super::checksum::Seed;
use crate::disk::tree::Kind;

/// The checksum, dressed as an entry without a name.
const TAIL: usize = 12;
const ROOM: usize = BLOCK as usize - TAIL;

/// As in the entry of a directory (`filetype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Regular = 1,
    Directory = 2,
    CharacterDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

impl Type {
    pub(super) fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Directory(_) => Self::Directory,
            Kind::File(_) => Self::Regular,
            Kind::Symlink(_) => Self::Symlink,
            Kind::CharacterDevice { .. } => Self::CharacterDevice,
            Kind::BlockDevice { .. } => Self::BlockDevice,
            Kind::Fifo => Self::Fifo,
        }
    }
}

pub(super) type Entry = (Vec<u8>, u32, Type);

/// How many blocks [`write`] will need.
pub(super) fn blocks<'a>(names: impl Iterator<Item = &'a Vec<u8>>, is_root: bool) -> u64 {
    let own = [1, 2]
        .into_iter()
        .chain(is_root.then_some("lost+found".len()));
    let mut blocks = 1;
    let mut filled = 0;
    for len in own.chain(names.map(Vec::len)) {
        if filled + size(len) > ROOM {
            blocks += 1;
            filled = 0;
        }
        filled += size(len);
    }
    blocks
}

/// At least `least` blocks, so that there is room without an allocation.
pub(super) fn write(entries: &[Entry], least: u32, seed: Seed) -> Vec<u8> {
    let mut blocks: Vec<Vec<&Entry>> = vec![Vec::new()];
    let mut filled = 0;
    for entry in entries {
        let size = size(entry.0.len());
        if filled + size > ROOM {
            blocks.push(Vec::new());
            filled = 0;
        }
        filled += size;
        blocks.last_mut().expect("begins with one").push(entry);
    }
    while blocks.len() < least as usize {
        blocks.push(Vec::new());
    }
    blocks
        .iter()
        .flat_map(|entries| block(entries, seed))
        .collect()
}

fn block(entries: &[&Entry], seed: Seed) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK as usize);
    if entries.is_empty() {
        put(&mut bytes, 0, ROOM, b"", 0);
    }
    for (index, (name, inode, kind)) in entries.iter().enumerate() {
        // The last one owns what is left.
        let span = if index + 1 == entries.len() {
            ROOM - bytes.len()
        } else {
            size(name.len())
        };
        put(&mut bytes, *inode, span, name, *kind as u8);
    }
    let checksum = seed.checksum(&bytes);
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((TAIL as u16).to_le_bytes());
    bytes.extend([0, 0xde]);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn put(bytes: &mut Vec<u8>, inode: u32, span: usize, name: &[u8], kind: u8) {
    let end = bytes.len() + span;
    bytes.extend(inode.to_le_bytes());
    bytes.extend((span as u16).to_le_bytes());
    bytes.extend([name.len() as u8, kind]);
    bytes.extend(name);
    bytes.resize(end, 0);
}

/// Of an entry: number, length, length of the name, type, then the name, in steps of four.
fn size(name: usize) -> usize {
    (8 + name).next_multiple_of(4)
}
