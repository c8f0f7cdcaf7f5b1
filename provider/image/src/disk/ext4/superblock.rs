//! The superblock, the groups' descriptors and bitmaps, and their copies: written last, when everything has its place. Pure.

use super::allocate::{Geometry, RESERVED_DESCRIPTOR_BLOCKS};
use super::inode::Inode;
use super::{
    BLOCK, BLOCKS_PER_GROUP, FIRST_FREE_INODE, INODE_SIZE, INODES_PER_GROUP, JOURNAL_INODE, Volume,
    Writer, checksum,
};
use crate::disk::sparse::Sparse;

/// `has_journal`, `ext_attr`, `resize_inode`, `dir_index`.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x10 | 0x20;
/// `filetype`, `extent`.
const INCOMPATIBLE: u32 = 0x2 | 0x40;
/// `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

const INODE_TABLE_ZEROED: u16 = 0x4;
/// Percent of the blocks that only root may fill.
const RESERVED: u32 = 1;

pub(super) fn finish(volume: &Volume<'_>, writer: Writer, journal: &Inode) -> Sparse {
    let Writer {
        seed,
        mut image,
        allocator,
        inodes,
        ..
    } = writer;
    let geometry = allocator.geometry();
    let last_inode = inodes
        .iter()
        .map(|(number, _)| *number)
        .max()
        .unwrap_or(FIRST_FREE_INODE - 1);

    for (number, bytes) in inodes {
        let index = number - 1;
        let table = u64::from(geometry.inode_table(index / INODES_PER_GROUP)) * BLOCK;
        let slot = u64::from(index % INODES_PER_GROUP) * INODE_SIZE as u64;
        image.put_bytes(table + slot, bytes);
    }

    let mut descriptors = Vec::new();
    let mut free_blocks = 0;
    for group in 0..geometry.groups {
        let blocks = allocator.used(group);
        let inodes = last_inode
            .saturating_sub(group * INODES_PER_GROUP)
            .min(INODES_PER_GROUP);
        let block_bitmap = bitmap(blocks, BLOCKS_PER_GROUP);
        let inode_bitmap = bitmap(inodes, INODES_PER_GROUP);
        let block_checksum = seed.checksum(&block_bitmap);
        let inode_checksum = seed.checksum(&inode_bitmap[..INODES_PER_GROUP as usize / 8]);
        let free_inodes = (INODES_PER_GROUP - inodes) as u16;
        free_blocks += BLOCKS_PER_GROUP - blocks;

        let mut descriptor = Vec::with_capacity(32);
        descriptor.extend(geometry.block_bitmap(group).to_le_bytes());
        descriptor.extend(geometry.inode_bitmap(group).to_le_bytes());
        descriptor.extend(geometry.inode_table(group).to_le_bytes());
        descriptor.extend(((BLOCKS_PER_GROUP - blocks) as u16).to_le_bytes());
        descriptor.extend(free_inodes.to_le_bytes());
        descriptor.extend(allocator.directories(group).to_le_bytes());
        descriptor.extend(INODE_TABLE_ZEROED.to_le_bytes());
        descriptor.extend([0; 4]); // no snapshots
        descriptor.extend((block_checksum as u16).to_le_bytes());
        descriptor.extend((inode_checksum as u16).to_le_bytes());
        // Those at the end of the table that were never used: a check passes over them.
        descriptor.extend(free_inodes.to_le_bytes());
        descriptor.extend([0; 2]);
        let checksum = seed.group(group, &descriptor);
        descriptor[30..].copy_from_slice(&checksum.to_le_bytes());
        descriptors.extend(descriptor);

        image.put_bytes(
            u64::from(geometry.block_bitmap(group)) * BLOCK,
            block_bitmap,
        );
        image.put_bytes(
            u64::from(geometry.inode_bitmap(group)) * BLOCK,
            inode_bitmap,
        );
    }

    let free_inodes = geometry.inodes() - last_inode;
    let superblock = |group| superblock(volume, geometry, free_blocks, free_inodes, journal, group);
    image.put_bytes(1024, superblock(0));
    image.put_bytes(BLOCK, descriptors.clone());
    for group in geometry.backups() {
        let at = u64::from(Geometry::first_block(group)) * BLOCK;
        image.put_bytes(at, superblock(group));
        image.put_bytes(at + BLOCK, descriptors.clone());
    }
    image
}

/// One block: the first `used` bits set, and those that nothing stands behind.
fn bitmap(used: u32, of: u32) -> Vec<u8> {
    (0..BLOCK as u32)
        .map(|byte| {
            (0..8).fold(0, |value, bit| {
                let index = byte * 8 + bit;
                value | (u8::from(index < used || index >= of) << bit)
            })
        })
        .collect()
}

fn superblock(
    volume: &Volume<'_>,
    geometry: Geometry,
    free_blocks: u32,
    free_inodes: u32,
    journal: &Inode,
    group: u32,
) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let epoch = volume.epoch as u32;
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let words: &[(usize, u32)] = &[
        (0x00, geometry.inodes()),
        (0x04, geometry.blocks()),
        (0x08, geometry.blocks() / 100 * RESERVED),
        (0x0c, free_blocks),
        (0x10, free_inodes),
        (0x18, 2), // blocks of 1024 << 2
        (0x1c, 2),
        (0x20, BLOCKS_PER_GROUP),
        (0x24, BLOCKS_PER_GROUP),
        (0x28, INODES_PER_GROUP),
        (0x30, epoch),
        (0x40, epoch), // last checked
        (0x4c, 1),     // a revision with inodes of any size
        (0x54, FIRST_FREE_INODE - 1),
        (0x5c, COMPATIBLE),
        (0x60, INCOMPATIBLE),
        (0x64, READ_ONLY_COMPATIBLE),
        (0xe0, JOURNAL_INODE),
        (0x100, 0xc), // mounted with user_xattr and acl
        (0x108, epoch),
        (0x160, 1), // names are hashed as signed characters
    ];
    for (at, word) in words {
        put(*at, &word.to_le_bytes());
    }
    let halves: &[(usize, u16)] = &[
        (0x36, 0xffff), // no check after so many mounts
        (0x38, 0xef53),
        (0x3a, 1), // clean
        (0x3c, 1), // on errors: go on; the mount options say otherwise
        (0x58, INODE_SIZE as u16),
        (0x5a, group as u16),
        (0xce, RESERVED_DESCRIPTOR_BLOCKS as u16),
        (0x15c, 32),
        (0x15e, 32),
    ];
    for (at, half) in halves {
        put(*at, &half.to_le_bytes());
    }
    put(0x68, &volume.id);
    put(0x78, &volume.label.as_bytes()[..volume.label.len().min(16)]);
    put(0xec, &volume.hash_seed);
    put(0xfc, &[1, 1]); // half MD4; the journal's place is kept below
    put(0x10c, &journal.place());
    put(0x175, &[1]); // CRC-32C
    let checksum = checksum::superblock(&bytes[..1020]);
    bytes[1020..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
