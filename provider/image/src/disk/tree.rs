//! The files of a root file system as they are to be, read from a tar archive. Nothing is unpacked: contents stay in the archive, so
//! that owners, devices and capabilities need no privilege.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek};

use super::sparse::Source;

pub(crate) type NodeId = usize;

pub(crate) const ROOT: NodeId = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory(BTreeMap<Vec<u8>, NodeId>),
    File(Source),
    Symlink(Vec<u8>),
    CharacterDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub kind: Kind,
    /// The twelve bits of permissions.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 (UTC). The latest there is for what was not in the archive.
    pub mtime: i64,
    /// Extended attributes by their full names.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

impl Node {
    fn new(kind: Kind, mode: u16) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: i64::MAX,
            attributes: BTreeMap::new(),
        }
    }
}

/// Paths have no leading slash.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            nodes: vec![Node::new(Kind::Directory(BTreeMap::new()), 0o755)],
        }
    }

    /// Reads an archive as GNU tar writes it with extended attributes (POSIX 2001 format).
    pub(crate) fn read(archive: &File) -> io::Result<Self> {
        let mut tree = Self::new();
        let mut archive = archive;
        archive.rewind()?;
        // Contents are passed over by seeking: a buffer would be thrown away for every file.
        for entry in tar::Archive::new(archive).entries_with_seek()? {
            tree.add(&mut entry?)?;
        }
        Ok(tree)
    }

    /// Of all nodes there ever were: a bound for a [`NodeId`].
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(crate) fn children(&self, id: NodeId) -> &BTreeMap<Vec<u8>, NodeId> {
        static NONE: BTreeMap<Vec<u8>, NodeId> = BTreeMap::new();
        match &self.nodes[id].kind {
            Kind::Directory(children) => children,
            _ => &NONE,
        }
    }

    /// Does not follow links.
    pub(crate) fn find(&self, path: &str) -> Option<NodeId> {
        names(path.as_bytes()).try_fold(ROOT, |at, name| self.children(at).get(name).copied())
    }

    /// Content of a file, wherever it is.
    pub(crate) fn content(&self, path: &str) -> Option<&Source> {
        match &self.nodes[self.find(path)?].kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Names below a directory, sorted; none if it is not there.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        self.find(path).map_or_else(Vec::new, |id| {
            self.children(id)
                .keys()
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect()
        })
    }

    pub(crate) fn remove(&mut self, path: &str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(id) = self.find(parent)
            && let Kind::Directory(children) = &mut self.nodes[id].kind
        {
            children.remove(name.as_bytes());
        }
    }

    pub(crate) fn remove_below(&mut self, path: &str) {
        if let Some(id) = self.find(path)
            && let Kind::Directory(children) = &mut self.nodes[id].kind
        {
            children.clear();
        }
    }

    /// Puts a file of root's, making the directories above it.
    pub(crate) fn put(&mut self, path: &str, mode: u16, content: impl Into<Vec<u8>>) {
        let content = Kind::File(Source::Bytes(content.into()));
        self.place(path.as_bytes(), Node::new(content, mode));
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u16) {
        let kind = Kind::Directory(BTreeMap::new());
        self.place(path.as_bytes(), Node::new(kind, mode));
    }

    /// The same content and mode under another name, as a file of its own.
    pub(crate) fn copy(&mut self, from: &str, to: &str) {
        if let Some(id) = self.find(from) {
            let node = self.nodes[id].clone();
            self.place(to.as_bytes(), node);
        }
    }

    pub(crate) fn own(&mut self, path: &str, uid: u32, gid: u32) {
        if let Some(id) = self.find(path) {
            (self.nodes[id].uid, self.nodes[id].gid) = (uid, gid);
        }
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        let kind = Kind::Symlink(target.as_bytes().to_vec());
        self.place(path.as_bytes(), Node::new(kind, 0o777));
    }

    /// Changes the text of a file that is there, keeping its owner and mode.
    pub(crate) fn replace(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        if let Some(id) = self.find(path) {
            self.nodes[id].kind = Kind::File(Source::Bytes(content.into()));
        }
    }

    #[cfg(test)]
    pub(crate) fn set_attribute(&mut self, id: NodeId, name: &str, value: Vec<u8>) {
        self.nodes[id].attributes.insert(name.to_owned(), value);
    }

    /// A directory of the same path keeps what is in it.
    fn place(&mut self, path: &[u8], node: Node) -> NodeId {
        let mut names: Vec<&[u8]> = names(path).collect();
        let Some(last) = names.pop() else {
            self.take_over(ROOT, node);
            return ROOT;
        };
        let mut at = ROOT;
        for name in names {
            at = self.child(at, name).unwrap_or_else(|| {
                let directory = Node::new(Kind::Directory(BTreeMap::new()), 0o755);
                self.insert(at, name, directory)
            });
        }
        match (self.child(at, last), &node.kind) {
            (Some(there), Kind::Directory(_)) if self.is_directory(there) => {
                self.take_over(there, node);
                there
            }
            _ => self.insert(at, last, node),
        }
    }

    fn child(&self, at: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children(at).get(name).copied()
    }

    fn is_directory(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].kind, Kind::Directory(_))
    }

    /// Owner, mode and the like of a directory that is there already.
    fn take_over(&mut self, id: NodeId, node: Node) {
        let kind = std::mem::replace(&mut self.nodes[id].kind, Kind::Fifo);
        self.nodes[id] = Node { kind, ..node };
    }

    fn insert(&mut self, parent: NodeId, name: &[u8], node: Node) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.name(parent, name, id);
        id
    }

    fn name(&mut self, parent: NodeId, name: &[u8], id: NodeId) {
        if let Kind::Directory(children) = &mut self.nodes[parent].kind {
            children.insert(name.to_vec(), id);
        }
    }

    fn add<R: io::Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let path = entry.path_bytes().into_owned();
        let target = entry.link_name_bytes().map(|target| target.into_owned());
        let header = entry.header().clone();
        let bad = |what: &str| {
            let path = String::from_utf8_lossy(&path);
            io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {what}"))
        };
        let device = || -> io::Result<(u32, u32)> {
            Ok((
                header.device_major()?.unwrap_or(0),
                header.device_minor()?.unwrap_or(0),
            ))
        };
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory(BTreeMap::new()),
            tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File(Source::Archive {
                offset: entry.raw_file_position(),
                len: entry.size(),
            }),
            tar::EntryType::Symlink => {
                Kind::Symlink(target.ok_or_else(|| bad("a link to nothing"))?)
            }
            tar::EntryType::Link => {
                let target = target.ok_or_else(|| bad("a link to nothing"))?;
                let id = names(&target)
                    .try_fold(ROOT, |at, name| self.child(at, name))
                    .ok_or_else(|| bad("a link to a file that has not come yet"))?;
                let mut path: Vec<&[u8]> = names(&path).collect();
                let last = path.pop().ok_or_else(|| bad("a link without a name"))?;
                let parent = path
                    .into_iter()
                    .try_fold(ROOT, |at, name| self.child(at, name))
                    .ok_or_else(|| bad("a link in a directory that has not come yet"))?;
                self.name(parent, last, id);
                return Ok(());
            }
            tar::EntryType::Char => {
                let (major, minor) = device()?;
                Kind::CharacterDevice { major, minor }
            }
            tar::EntryType::Block => {
                let (major, minor) = device()?;
                Kind::BlockDevice { major, minor }
            }
            tar::EntryType::Fifo => Kind::Fifo,
            tar::EntryType::XGlobalHeader => return Ok(()),
            other => return Err(bad(&format!("an entry of the unknown type {other:?}"))),
        };
        let id32 = |id: u64| u32::try_from(id).map_err(|_| bad("an owner beyond 32 bits"));
        let mut node = Node {
            mode: (header.mode()? & 0o7777) as u16,
            uid: id32(header.uid()?)?,
            gid: id32(header.gid()?)?,
            mtime: i64::try_from(header.mtime()?).unwrap_or(i64::MAX),
            ..Node::new(kind, 0)
        };
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                let key = extension
                    .key()
                    .map_err(|_| bad("an attribute without a name"))?;
                // ACLs look otherwise on a disk. Those of /var/log/journal are set at every boot; packages bring no others.
                if let Some(name) = key.strip_prefix("SCHILY.xattr.")
                    && !name.starts_with("system.")
                {
                    node.attributes
                        .insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
        }
        self.place(&path, node);
        Ok(())
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_with_its_links_devices_and_attributes() {
        let mut builder = tar::Builder::new(tempfile::tempfile().expect("a temporary file"));
        let mut append = |path: &str, kind: tar::EntryType, link: &str, data: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o4750);
            header.set_uid(3);
            header.set_gid(4);
            header.set_mtime(7);
            if !link.is_empty() {
                header.set_link_name(link).expect("short enough");
            }
            header.set_device_major(5).expect("ustar");
            header.set_device_minor(1).expect("ustar");
            builder
                .append_data(&mut header, path, data)
                .expect("writable");
        };
        append("./", tar::EntryType::Directory, "", b"");
        append("./bin/", tar::EntryType::Directory, "", b"");
        append("./bin/one", tar::EntryType::Regular, "", b"text");
        append("./bin/two", tar::EntryType::Link, "./bin/one", b"");
        append("./console", tar::EntryType::Char, "", b"");
        append(
            "./x",
            tar::EntryType::XHeader,
            "",
            b"36 SCHILY.xattr.security.x=a\0b\xffcdef\n",
        );
        append("./bin/three", tar::EntryType::Regular, "", b"");
        let file = builder.into_inner().expect("writable");
        let mut tree = Tree::read(&file).expect("readable");
        let one = tree.find("bin/one").expect("there");
        assert_eq!(tree.find("bin/two"), Some(one));
        let node = tree.node(one);
        assert_eq!(
            (node.mode, node.uid, node.gid, node.mtime),
            (0o4750, 3, 4, 7)
        );
        let Kind::File(Source::Archive { offset, len: 4 }) = node.kind else {
            panic!("{node:?}")
        };
        assert_eq!(offset % 512, 0);
        let device = tree.node(tree.find("console").expect("there"));
        assert_eq!(device.kind, Kind::CharacterDevice { major: 5, minor: 1 });
        let three = tree.node(tree.find("bin/three").expect("there"));
        assert_eq!(three.attributes["security.x"], b"a\0b\xffcdef");

        tree.put("etc/new/file", 0o600, "text");
        tree.link("bin/one", "elsewhere");
        tree.remove("console");
        assert_eq!(tree.names(""), ["bin", "etc"]);
        assert_eq!(tree.names("bin"), ["one", "three", "two"]);
        assert!(tree.find("bin/one") != tree.find("bin/two"));
    }
}
