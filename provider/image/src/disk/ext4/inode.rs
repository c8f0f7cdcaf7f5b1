//! One inode as its 256 bytes. Pure.

use std::collections::BTreeMap;

use super::checksum::Seed;
use super::{BLOCK, INODE_SIZE};

pub(super) const FIFO: u16 = 0x1000;
pub(super) const CHARACTER_DEVICE: u16 = 0x2000;
pub(super) const DIRECTORY: u16 = 0x4000;
pub(super) const BLOCK_DEVICE: u16 = 0x6000;
pub(super) const REGULAR: u16 = 0x8000;
pub(super) const SYMLINK: u16 = 0xa000;

/// A target shorter than this lies in the inode itself.
pub(super) const FAST_SYMLINK: usize = 60;

const USES_EXTENTS: u32 = 0x8_0000;
/// What of the second half of an inode has a meaning to the kernel.
const EXTRA_SIZE: usize = 32;
const ATTRIBUTES_AT: usize = 128 + EXTRA_SIZE;
pub(super) const ATTRIBUTE_ROOM: usize = INODE_SIZE - ATTRIBUTES_AT;
const ATTRIBUTE_MAGIC: u32 = 0xea02_0000;
const CHECKSUM_LOW: usize = 0x7c;
const CHECKSUM_HIGH: usize = 0x82;

#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub number: u32,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u16,
    pub size: u64,
    pub mtime: i64,
    created: i64,
    flags: u32,
    /// Of 4 KiB.
    blocks: u32,
    content: [u8; 60],
    attributes: Vec<u8>,
}

impl Inode {
    /// Belongs to root; all its times are `epoch`.
    pub(super) fn new(number: u32, mode: u16, links: u16, epoch: i64) -> Self {
        Self {
            number,
            mode,
            uid: 0,
            gid: 0,
            links,
            size: 0,
            mtime: epoch,
            created: epoch,
            flags: 0,
            blocks: 0,
            content: [0; 60],
            attributes: Vec::new(),
        }
    }

    pub(super) fn set_extents(&mut self, root: &[u8], blocks: u32) {
        self.content[..root.len()].copy_from_slice(root);
        self.flags |= USES_EXTENTS;
        self.blocks = blocks;
    }

    /// The target of a link.
    pub(super) fn set_inline(&mut self, text: &[u8]) {
        self.content[..text.len()].copy_from_slice(text);
        self.size = text.len() as u64;
    }

    /// In the newer of the two encodings if the older has no room for it.
    pub(super) fn set_device(&mut self, major: u32, minor: u32) {
        if major < 256 && minor < 256 {
            self.content[..4].copy_from_slice(&((major << 8) | minor).to_le_bytes());
        } else {
            let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
            self.content[4..8].copy_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn set_double_indirect(&mut self, block: u32, blocks: u32) {
        self.content[13 * 4..14 * 4].copy_from_slice(&block.to_le_bytes());
        self.blocks = blocks;
    }

    /// The block map, then the size's halves: what the superblock keeps of the journal.
    pub(super) fn place(&self) -> [u8; 68] {
        let mut place = [0; 68];
        place[..60].copy_from_slice(&self.content);
        place[60..64].copy_from_slice(&((self.size >> 32) as u32).to_le_bytes());
        place[64..].copy_from_slice(&(self.size as u32).to_le_bytes());
        place
    }

    /// False if there is no room for all of them.
    pub(super) fn set_attributes(&mut self, attributes: &BTreeMap<String, Vec<u8>>) -> bool {
        if attributes.is_empty() {
            return true;
        }
        let mut names: Vec<(u8, &str, &[u8])> = attributes
            .iter()
            .map(|(name, value)| {
                let (index, rest) = short_name(name);
                (index, rest, value.as_slice())
            })
            .collect();
        names.sort_unstable();
        let mut bytes = vec![0; ATTRIBUTE_ROOM];
        bytes[..4].copy_from_slice(&ATTRIBUTE_MAGIC.to_le_bytes());
        let (mut head, mut tail) = (4, ATTRIBUTE_ROOM);
        for (index, name, value) in names {
            let entry = (16 + name.len()).next_multiple_of(4);
            let room = value.len().next_multiple_of(4);
            // Four zero bytes end the list.
            if head + entry + 4 + room > tail {
                return false;
            }
            tail -= room;
            bytes[head] = name.len() as u8;
            bytes[head + 1] = index;
            // Offsets count from behind the magic number.
            bytes[head + 2..head + 4].copy_from_slice(&(tail as u16 - 4).to_le_bytes());
            bytes[head + 8..head + 12].copy_from_slice(&(value.len() as u32).to_le_bytes());
            bytes[head + 16..][..name.len()].copy_from_slice(name.as_bytes());
            bytes[tail..][..value.len()].copy_from_slice(value);
            head += entry;
        }
        self.attributes = bytes;
        true
    }

    pub(super) fn bytes(&self, seed: Seed) -> [u8; INODE_SIZE] {
        let mut bytes = [0; INODE_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let sectors = u64::from(self.blocks) * BLOCK / 512;
        let (seconds, epoch_bits) = time(self.mtime);
        let (created, created_bits) = time(self.created);
        put(0x00, &self.mode.to_le_bytes());
        put(0x02, &(self.uid as u16).to_le_bytes());
        put(0x04, &(self.size as u32).to_le_bytes());
        for at in [0x08, 0x0c, 0x10] {
            put(at, &seconds.to_le_bytes());
        }
        put(0x18, &(self.gid as u16).to_le_bytes());
        put(0x1a, &self.links.to_le_bytes());
        put(0x1c, &(sectors as u32).to_le_bytes());
        put(0x20, &self.flags.to_le_bytes());
        put(0x28, &self.content);
        put(0x6c, &((self.size >> 32) as u32).to_le_bytes());
        put(0x74, &((sectors >> 32) as u16).to_le_bytes());
        put(0x78, &((self.uid >> 16) as u16).to_le_bytes());
        put(0x7a, &((self.gid >> 16) as u16).to_le_bytes());
        put(0x80, &(EXTRA_SIZE as u16).to_le_bytes());
        for at in [0x84, 0x88, 0x8c] {
            put(at, &epoch_bits.to_le_bytes());
        }
        put(0x90, &created.to_le_bytes());
        put(0x94, &created_bits.to_le_bytes());
        put(ATTRIBUTES_AT, &self.attributes);
        let checksum = seed.of_inode(self.number).checksum(&bytes);
        bytes[CHECKSUM_LOW..CHECKSUM_LOW + 2].copy_from_slice(&(checksum as u16).to_le_bytes());
        bytes[CHECKSUM_HIGH..CHECKSUM_HIGH + 2]
            .copy_from_slice(&((checksum >> 16) as u16).to_le_bytes());
        bytes
    }
}

/// A time as 32 bits with a sign, and the two bits that carry it beyond 2038.
fn time(seconds: i64) -> (i32, u32) {
    let low = seconds as i32;
    (low, (((seconds - i64::from(low)) >> 32) & 3) as u32)
}

/// The kernel writes common prefixes as a number.
fn short_name(name: &str) -> (u8, &str) {
    const PREFIXES: &[(u8, &str)] = &[(1, "user."), (4, "trusted."), (6, "security.")];
    PREFIXES
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(prefix)?)))
        .unwrap_or((0, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_beyond_2038_takes_two_more_bits() {
        assert_eq!(time(1), (1, 0));
        assert_eq!(time(-1), (-1, 0));
        assert_eq!(time(1 << 31), (i32::MIN, 1));
        assert_eq!(time((1 << 32) + 5), (5, 1));
    }

    #[test]
    fn a_capability_fits_and_a_long_value_does_not() {
        let mut inode = Inode::new(12, REGULAR, 1, 0);
        let capability = BTreeMap::from([("security.capability".to_owned(), vec![1; 20])]);
        assert!(inode.set_attributes(&capability));
        assert_eq!(inode.attributes[4..8], [10, 6, 72, 0]);
        assert_eq!(inode.attributes[76..], [1; 20]);
        let long = BTreeMap::from([("user.x".to_owned(), vec![1; 80])]);
        assert!(!inode.set_attributes(&long));
    }
}
