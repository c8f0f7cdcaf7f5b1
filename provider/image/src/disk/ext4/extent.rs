//! The tree of extents that an inode begins with: four runs of blocks in the inode, or one block full of them. Pure.

use super::BLOCK;
use super::allocate::Run;
use super::checksum::Seed;

pub(super) const IN_INODE: usize = 4;
const ENTRY: usize = 12;
const MAGIC: u16 = 0xf30a;
/// A header, 340 extents, a checksum.
const IN_BLOCK: usize = (BLOCK as usize - ENTRY) / ENTRY;

#[derive(Debug)]
pub(super) struct Extents {
    /// For the inode's 60 bytes.
    pub root: Vec<u8>,
    /// A block of the tree: where, and what.
    pub leaf: Option<(u32, Vec<u8>)>,
}

/// `leaf` is a block for the tree itself, given where the inode has no room. None if that is not enough either.
pub(super) fn tree(runs: &[Run], leaf: Option<u32>, seed: Seed) -> Option<Extents> {
    let Some(at) = leaf else {
        let mut root = header(runs.len(), IN_INODE, 0);
        root.extend(extents(runs));
        return Some(Extents { root, leaf: None });
    };
    if runs.len() > IN_BLOCK {
        return None;
    }
    let mut root = header(1, IN_INODE, 1);
    root.extend(0u32.to_le_bytes()); // from the file's first block on
    root.extend(at.to_le_bytes());
    root.extend(0u32.to_le_bytes());
    let mut bytes = header(runs.len(), IN_BLOCK, 0);
    bytes.extend(extents(runs));
    bytes.resize((1 + IN_BLOCK) * ENTRY, 0);
    let checksum = seed.checksum(&bytes);
    bytes.extend(checksum.to_le_bytes());
    Some(Extents {
        root,
        leaf: Some((at, bytes)),
    })
}

fn header(entries: usize, most: usize, depth: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK as usize);
    for half in [MAGIC, entries as u16, most as u16, depth, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes
}

fn extents(runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(runs.len() * ENTRY);
    let mut block = 0u32;
    for run in runs {
        bytes.extend(block.to_le_bytes());
        bytes.extend((run.len as u16).to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(run.start.to_le_bytes());
        block += run.len;
    }
    bytes
}
