//! The checksums of ext4's `metadata_csum`. Pure.
//!
//! Source: the kernel's Documentation/filesystems/ext4, chapter "Checksums".

use crate::disk::crc::crc32c;

/// What the checksums of one file system begin with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn of_filesystem(id: &[u8; 16]) -> Self {
        Self(crc32c(!0, id))
    }

    /// For an inode's own blocks. The generation is always 0 here.
    pub(super) fn of_inode(self, inode: u32) -> Self {
        Self(crc32c(crc32c(self.0, &inode.to_le_bytes()), &[0; 4]))
    }

    pub(super) fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c(self.0, bytes)
    }

    /// `descriptor` is 32 bytes with its checksum zero.
    pub(super) fn group(self, group: u32, descriptor: &[u8]) -> u16 {
        crc32c(crc32c(self.0, &group.to_le_bytes()), descriptor) as u16
    }
}

/// Of the superblock's first 1,020 bytes.
pub(super) fn superblock(bytes: &[u8]) -> u32 {
    crc32c(!0, bytes)
}
