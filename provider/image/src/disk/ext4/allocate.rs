//! Where things lie: block groups, what each begins with, and blocks handed out one after the other. Pure.

use super::{BLOCK, BLOCKS_PER_GROUP, INODE_SIZE, INODES_PER_GROUP};

/// Room for the table of a file system of 4 TiB.
pub(super) const RESERVED_DESCRIPTOR_BLOCKS: u32 = 255;

const DESCRIPTOR_SIZE: u32 = 32;
const DESCRIPTORS_PER_BLOCK: u32 = BLOCK as u32 / DESCRIPTOR_SIZE;
const INODE_TABLE_BLOCKS: u32 = INODES_PER_GROUP * INODE_SIZE as u32 / BLOCK as u32;
/// What an extent can say.
const LONGEST_RUN: u32 = 32_768;

/// Blocks in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub start: u32,
    pub len: u32,
}

/// A file system of whole groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub groups: u32,
}

impl Geometry {
    /// The smallest one with so many blocks for content and inodes up to this number.
    pub(super) fn for_content(blocks: u64, last_inode: u32) -> Self {
        let mut geometry = Self {
            groups: last_inode.div_ceil(INODES_PER_GROUP).max(1),
        };
        while geometry.content_blocks() < blocks {
            geometry.groups += 1;
        }
        geometry
    }

    pub(super) fn blocks(self) -> u32 {
        self.groups * BLOCKS_PER_GROUP
    }

    pub(super) fn inodes(self) -> u32 {
        self.groups * INODES_PER_GROUP
    }

    pub(super) fn descriptor_blocks(self) -> u32 {
        self.groups.div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    /// Groups beside the first that have a copy of the superblock: 1 and the powers of 3, 5 and 7 (`sparse_super`).
    pub(super) fn backups(self) -> Vec<u32> {
        (1..self.groups)
            .filter(|&group| has_backup(group))
            .collect()
    }

    fn head(self, group: u32) -> u32 {
        if group == 0 || has_backup(group) {
            1 + self.descriptor_blocks() + RESERVED_DESCRIPTOR_BLOCKS
        } else {
            0
        }
    }

    pub(super) fn first_block(group: u32) -> u32 {
        group * BLOCKS_PER_GROUP
    }

    pub(super) fn block_bitmap(self, group: u32) -> u32 {
        Self::first_block(group) + self.head(group)
    }

    pub(super) fn inode_bitmap(self, group: u32) -> u32 {
        self.block_bitmap(group) + 1
    }

    pub(super) fn inode_table(self, group: u32) -> u32 {
        self.block_bitmap(group) + 2
    }

    /// The first block of a group that content may have.
    pub(super) fn first_content(self, group: u32) -> u32 {
        self.inode_table(group) + INODE_TABLE_BLOCKS
    }

    fn content_blocks(self) -> u64 {
        (0..self.groups)
            .map(|group| u64::from(Self::first_block(group + 1) - self.first_content(group)))
            .sum()
    }
}

fn has_backup(group: u32) -> bool {
    group == 1
        || [3, 5, 7].iter().any(|&base| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        })
}

/// Hands out blocks in ascending order.
#[derive(Debug)]
pub(super) struct Allocator {
    geometry: Geometry,
    group: u32,
    next: u32,
    directories: Vec<u16>,
}

impl Allocator {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            group: 0,
            next: geometry.first_content(0),
            directories: vec![0; geometry.groups as usize],
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The geometry was chosen so that there is enough.
    pub(super) fn allocate(&mut self, mut count: u32) -> Vec<Run> {
        let mut runs = Vec::new();
        while count > 0 {
            let end = Geometry::first_block(self.group + 1);
            if self.next == end {
                self.group += 1;
                assert!(
                    self.group < self.geometry.groups,
                    "the file system is too small"
                );
                self.next = self.geometry.first_content(self.group);
                continue;
            }
            let len = count.min(end - self.next).min(LONGEST_RUN);
            runs.push(Run {
                start: self.next,
                len,
            });
            self.next += len;
            count -= len;
        }
        runs
    }

    pub(super) fn count_directory(&mut self, inode: u32) {
        self.directories[((inode - 1) / INODES_PER_GROUP) as usize] += 1;
    }

    pub(super) fn directories(&self, group: u32) -> u16 {
        self.directories[group as usize]
    }

    /// Blocks of a group in use, which are its first ones.
    pub(super) fn used(&self, group: u32) -> u32 {
        let first = Geometry::first_block(group);
        match group.cmp(&self.group) {
            std::cmp::Ordering::Less => BLOCKS_PER_GROUP,
            std::cmp::Ordering::Equal => self.next - first,
            std::cmp::Ordering::Greater => self.geometry.first_content(group) - first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_in_group_one_and_in_powers_of_three_five_and_seven() {
        let geometry = Geometry { groups: 130 };
        assert_eq!(geometry.backups(), [1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
        assert_eq!(geometry.descriptor_blocks(), 2);
    }

    #[test]
    fn a_file_that_does_not_fit_into_a_group_goes_on_behind_the_next_ones_tables() {
        let geometry = Geometry::for_content(60_000, 12);
        assert_eq!(geometry.groups, 2);
        let mut allocator = Allocator::new(geometry);
        let first = geometry.first_content(0);
        assert_eq!(first, 1 + 1 + 255 + 2 + 512);
        let runs = allocator.allocate(BLOCKS_PER_GROUP);
        assert_eq!(
            runs,
            [
                Run {
                    start: first,
                    len: BLOCKS_PER_GROUP - first
                },
                Run {
                    start: BLOCKS_PER_GROUP + first,
                    len: first
                },
            ]
        );
        assert_eq!(
            (allocator.used(0), allocator.used(1)),
            (BLOCKS_PER_GROUP, 2 * first)
        );
        assert_eq!(Geometry::for_content(1, 3 * INODES_PER_GROUP).groups, 3);
    }
}
