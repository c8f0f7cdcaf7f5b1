//! An ext4 file system made of a [`Tree`], byte for byte the same for the same tree. Pure.
//!
//! `mke2fs -d` would do it but for the times: up to version 1.47.0 it takes an inode's change time from the machine it runs on, and the
//! order of a directory from that machine's own file system. It would need the tree unpacked, too, with owners and devices.
//!
//! Source: the kernel's Documentation/filesystems/ext4. Block groups are laid out one by one (no `flex_bg`), and directories are linear
//! lists, which the kernel reads and extends as they are. The descriptor table has room to be grown to 4 TiB while mounted.

mod allocate;
mod checksum;
mod directory;
mod extent;
mod inode;
mod superblock;

use self::allocate::{Allocator, Geometry};
use self::checksum::Seed;
use self::inode::Inode;
use super::sparse::{Source, Sparse};
use super::tree::{Kind, NodeId, ROOT, Tree};

pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCKS_PER_GROUP: u32 = 32_768;
/// One for 16 KiB, as mke2fs does: every group that is added later brings as many.
pub(super) const INODES_PER_GROUP: u32 = 8192;
pub(super) const INODE_SIZE: usize = 256;
/// 64 MiB: what a disk of ordinary size has. Its blocks are zero and cost nothing in the image.
const JOURNAL_BLOCKS: u32 = 16_384;
const LOST_AND_FOUND_BLOCKS: u32 = 4;

const ROOT_INODE: u32 = 2;
const RESIZE_INODE: u32 = 7;
const JOURNAL_INODE: u32 = 8;
const LOST_AND_FOUND_INODE: u32 = 11;
const FIRST_FREE_INODE: u32 = 12;

pub(crate) struct Volume<'a> {
    pub id: [u8; 16],
    /// What the names in directories are hashed with.
    pub hash_seed: [u8; 16],
    /// At most sixteen bytes.
    pub label: &'a str,
    /// Seconds since 1970 (UTC): when the file system was made. No file is newer.
    pub epoch: i64,
    /// Room that the files do not fill, in bytes, at the least.
    pub free: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path}: the extended attributes do not fit into the {room} bytes that an inode has for them", room = inode::ATTRIBUTE_ROOM)]
    Attributes { path: String },
    #[error("{path}: the file is in more pieces than one block of extents can hold")]
    Pieces { path: String },
}

/// The file system, as large as it has to be: a multiple of 128 MiB.
pub(crate) fn write(volume: &Volume<'_>, tree: &Tree) -> Result<Sparse, Error> {
    let numbered = Numbered::of(tree);
    let geometry = Geometry::for_content(
        numbered.blocks() + (volume.free / BLOCK),
        numbered.next_inode - 1,
    );
    let mut writer = Writer {
        seed: Seed::of_filesystem(&volume.id),
        image: Sparse::new(u64::from(geometry.blocks()) * BLOCK),
        allocator: Allocator::new(geometry),
        inodes: Vec::new(),
        epoch: volume.epoch,
    };
    writer.resize_inode();
    let journal = writer.journal()?;
    writer.lost_and_found()?;
    for entry in &numbered.order {
        writer.node(tree, &numbered, entry)?;
    }
    Ok(superblock::finish(volume, writer, &journal))
}

/// A node with its number and the number of the directory it is in. A file with several names appears once.
struct Numbering {
    node: NodeId,
    inode: u32,
    parent: u32,
    path: String,
}

struct Numbered {
    order: Vec<Numbering>,
    /// By node; 0 for those that nothing names any more.
    inodes: Vec<u32>,
    /// Names that lead to the node, by node.
    names: Vec<u16>,
    next_inode: u32,
    data_blocks: u64,
}

impl Numbered {
    fn of(tree: &Tree) -> Self {
        let mut numbered = Self {
            order: Vec::new(),
            inodes: vec![0; tree.len()],
            names: vec![0; tree.len()],
            next_inode: FIRST_FREE_INODE,
            data_blocks: 0,
        };
        numbered.inodes[ROOT] = ROOT_INODE;
        numbered.visit(tree, ROOT, ROOT_INODE, "/");
        numbered
    }

    fn visit(&mut self, tree: &Tree, node: NodeId, parent: u32, path: &str) {
        let inode = self.inodes[node];
        self.data_blocks += match &tree.node(node).kind {
            Kind::Directory(children) => directory::blocks(children.keys(), node == ROOT),
            Kind::File(content) => content.len().div_ceil(BLOCK),
            Kind::Symlink(target) => u64::from(target.len() >= inode::FAST_SYMLINK),
            _ => 0,
        };
        self.order.push(Numbering {
            node,
            inode,
            parent,
            path: path.to_owned(),
        });
        for (name, &child) in tree.children(node) {
            self.names[child] += 1;
            if self.inodes[child] == 0 {
                self.inodes[child] = self.next_inode;
                self.next_inode += 1;
                let path = format!(
                    "{}/{}",
                    path.trim_end_matches('/'),
                    String::from_utf8_lossy(name)
                );
                self.visit(tree, child, inode, &path);
            }
        }
    }

    /// With the journal, lost+found and a little for the extents of large files.
    fn blocks(&self) -> u64 {
        self.data_blocks
            + u64::from(JOURNAL_BLOCKS + LOST_AND_FOUND_BLOCKS)
            + self.data_blocks / 256
            + 16
    }
}

struct Writer {
    seed: Seed,
    image: Sparse,
    allocator: Allocator,
    /// Number and bytes.
    inodes: Vec<(u32, [u8; INODE_SIZE])>,
    epoch: i64,
}

impl Writer {
    fn node(&mut self, tree: &Tree, numbered: &Numbered, entry: &Numbering) -> Result<(), Error> {
        let node = tree.node(entry.node);
        let links = numbered.names[entry.node];
        let mut inode = Inode::new(entry.inode, node.mode, links, self.epoch);
        (inode.uid, inode.gid) = (node.uid, node.gid);
        inode.mtime = node.mtime.min(self.epoch);
        if !inode.set_attributes(&node.attributes) {
            return Err(Error::Attributes {
                path: entry.path.clone(),
            });
        }
        match &node.kind {
            Kind::Directory(children) => {
                inode.mode |= inode::DIRECTORY;
                let mut links = 2;
                let mut entries = vec![
                    (b".".to_vec(), entry.inode, directory::Type::Directory),
                    (b"..".to_vec(), entry.parent, directory::Type::Directory),
                ];
                if entry.node == ROOT {
                    let name = b"lost+found".to_vec();
                    entries.push((name, LOST_AND_FOUND_INODE, directory::Type::Directory));
                    links += 1;
                }
                for (name, &child) in children {
                    let kind = directory::Type::of(&tree.node(child).kind);
                    links += u16::from(kind == directory::Type::Directory);
                    entries.push((name.clone(), numbered.inodes[child], kind));
                }
                inode.links = links;
                let bytes = directory::write(&entries, 1, self.seed.of_inode(entry.inode));
                self.content(&mut inode, Source::Bytes(bytes), &entry.path)?;
                self.allocator.count_directory(entry.inode);
            }
            Kind::File(content) => {
                inode.mode |= inode::REGULAR;
                self.content(&mut inode, content.clone(), &entry.path)?;
            }
            Kind::Symlink(target) => {
                inode.mode |= inode::SYMLINK;
                if target.len() < inode::FAST_SYMLINK {
                    inode.set_inline(target);
                } else {
                    self.content(&mut inode, Source::Bytes(target.clone()), &entry.path)?;
                }
            }
            Kind::CharacterDevice { major, minor } => {
                inode.mode |= inode::CHARACTER_DEVICE;
                inode.set_device(*major, *minor);
            }
            Kind::BlockDevice { major, minor } => {
                inode.mode |= inode::BLOCK_DEVICE;
                inode.set_device(*major, *minor);
            }
            Kind::Fifo => inode.mode |= inode::FIFO,
        }
        self.push(&inode);
        Ok(())
    }

    /// Gives an inode its blocks and puts the content there.
    fn content(&mut self, inode: &mut Inode, content: Source, path: &str) -> Result<(), Error> {
        let len = content.len();
        let count = u32::try_from(len.div_ceil(BLOCK)).expect("smaller than the disk");
        let runs = self.extents(inode, count, path)?;
        inode.size = len;
        let mut from = 0;
        for run in runs {
            let at = u64::from(run.start) * BLOCK;
            let part = (u64::from(run.len) * BLOCK).min(len - from);
            let piece = match &content {
                Source::Bytes(bytes) => {
                    Source::Bytes(bytes[from as usize..(from + part) as usize].to_vec())
                }
                Source::Archive { offset, .. } => Source::Archive {
                    offset: offset + from,
                    len: part,
                },
            };
            self.image.put(at, piece);
            from += part;
        }
        Ok(())
    }

    fn extents(
        &mut self,
        inode: &mut Inode,
        count: u32,
        path: &str,
    ) -> Result<Vec<allocate::Run>, Error> {
        let runs = self.allocator.allocate(count);
        let leaf = if runs.len() > extent::IN_INODE {
            Some(self.allocator.allocate(1)[0].start)
        } else {
            None
        };
        let tree =
            extent::tree(&runs, leaf, self.seed.of_inode(inode.number)).ok_or_else(|| {
                Error::Pieces {
                    path: path.to_owned(),
                }
            })?;
        if let Some((at, bytes)) = tree.leaf {
            self.image.put_bytes(u64::from(at) * BLOCK, bytes);
        }
        inode.set_extents(&tree.root, count + u32::from(leaf.is_some()));
        Ok(runs)
    }

    fn push(&mut self, inode: &Inode) {
        self.inodes.push((inode.number, inode.bytes(self.seed)));
    }

    fn lost_and_found(&mut self) -> Result<(), Error> {
        let mode = inode::DIRECTORY | 0o700;
        let mut inode = Inode::new(LOST_AND_FOUND_INODE, mode, 2, self.epoch);
        let entries = [
            (
                b".".to_vec(),
                LOST_AND_FOUND_INODE,
                directory::Type::Directory,
            ),
            (b"..".to_vec(), ROOT_INODE, directory::Type::Directory),
        ];
        let seed = self.seed.of_inode(LOST_AND_FOUND_INODE);
        let bytes = directory::write(&entries, LOST_AND_FOUND_BLOCKS, seed);
        self.content(&mut inode, Source::Bytes(bytes), "/lost+found")?;
        self.allocator.count_directory(LOST_AND_FOUND_INODE);
        self.push(&inode);
        Ok(())
    }

    /// Answers with the inode: the superblock keeps a copy of where it is.
    fn journal(&mut self) -> Result<Inode, Error> {
        let mut inode = Inode::new(JOURNAL_INODE, inode::REGULAR | 0o600, 1, self.epoch);
        let runs = self.extents(&mut inode, JOURNAL_BLOCKS, "the journal")?;
        inode.size = u64::from(JOURNAL_BLOCKS) * BLOCK;
        self.image
            .put_bytes(u64::from(runs[0].start) * BLOCK, journal_superblock());
        self.push(&inode);
        Ok(inode)
    }

    /// Holds the blocks that the descriptor table grows into.
    fn resize_inode(&mut self) {
        let own = self.allocator.allocate(1)[0].start;
        let geometry = self.allocator.geometry();
        let backups = geometry.backups();
        let pointers = (BLOCK / 4) as u32;
        let mut table = vec![0; BLOCK as usize];
        for index in 0..allocate::RESERVED_DESCRIPTOR_BLOCKS {
            let primary = 1 + geometry.descriptor_blocks() + index;
            let slot = ((geometry.descriptor_blocks() + index) % pointers) as usize * 4;
            table[slot..slot + 4].copy_from_slice(&primary.to_le_bytes());
            // Each of them in turn lists its copies in the groups that have backups.
            let copies: Vec<u8> = backups
                .iter()
                .flat_map(|group| (primary + group * BLOCKS_PER_GROUP).to_le_bytes())
                .collect();
            self.image.put_bytes(u64::from(primary) * BLOCK, copies);
        }
        self.image.put_bytes(u64::from(own) * BLOCK, table);
        let mut inode = Inode::new(RESIZE_INODE, inode::REGULAR | 0o600, 1, self.epoch);
        let pointers = u64::from(pointers);
        inode.size = (pointers * pointers + pointers + 12) * BLOCK;
        let count = 1 + allocate::RESERVED_DESCRIPTOR_BLOCKS * (1 + backups.len() as u32);
        inode.set_double_indirect(own, count);
        self.push(&inode);
    }
}

/// Big endian, unlike everything else: journalling came from elsewhere.
fn journal_superblock() -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0x00, 0xc03b_3998);
    put(0x04, 4); // a superblock of version 2
    put(0x0c, BLOCK as u32);
    put(0x10, JOURNAL_BLOCKS);
    put(0x14, 1); // first block of the log
    put(0x18, 1); // first commit expected
    put(0x40, 1); // one file system uses it
    bytes
}

#[cfg(test)]
mod tests;
