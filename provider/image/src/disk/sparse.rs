//! A disk, or a part of one, as the pieces of it that are not zero. Nothing is copied until somebody reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the bytes of a piece are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Bytes(Vec<u8>),
    /// This many bytes from this offset of the file that everything was read from.
    Archive {
        offset: u64,
        len: u64,
    },
}

impl Source {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Archive { len, .. } => *len,
        }
    }
}

impl Source {
    /// All of it.
    pub(crate) fn bytes(&self, archive: &File) -> io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::Archive { offset, len } => {
                let mut bytes = vec![0; *len as usize];
                archive.read_exact_at(&mut bytes, *offset)?;
                Ok(bytes)
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Offset in bytes from the beginning of the whole.
    pub at: u64,
    pub source: Source,
}

/// `size` bytes, of which all are zero that no piece covers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub size: u64,
    pieces: Vec<Piece>,
}

impl Sparse {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            size,
            pieces: Vec::new(),
        }
    }

    /// Pieces do not overlap; that is the caller's promise.
    pub(crate) fn put(&mut self, at: u64, source: Source) {
        debug_assert!(at + source.len() <= self.size);
        if source.len() > 0 {
            self.pieces.push(Piece { at, source });
        }
    }

    pub(crate) fn put_bytes(&mut self, at: u64, bytes: impl Into<Vec<u8>>) {
        self.put(at, Source::Bytes(bytes.into()));
    }

    /// Lays another whole into this one.
    pub(crate) fn put_all(&mut self, at: u64, other: Sparse) {
        for piece in other.pieces {
            self.put(at + piece.at, piece.source);
        }
    }

    /// Ready to be read; `archive` is what [`Source::Archive`] speaks of.
    pub(crate) fn reader(mut self, archive: &File) -> Reader<'_> {
        self.pieces.sort_by_key(|piece| piece.at);
        Reader {
            size: self.size,
            pieces: self.pieces,
            archive,
        }
    }
}

/// Reads from any place; shared by threads.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    size: u64,
    pieces: Vec<Piece>,
    archive: &'a File,
}

impl Reader<'_> {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Ranges of `granule` bytes, counted from 0, that may hold something else than zeros; ascending, each once.
    pub(crate) fn occupied(&self, granule: u64) -> Vec<u64> {
        let mut granules = Vec::new();
        for piece in &self.pieces {
            let first = piece.at / granule;
            let last = (piece.at + piece.source.len() - 1) / granule;
            let from = granules
                .last()
                .map_or(first, |&seen: &u64| first.max(seen + 1));
            granules.extend(from..=last);
        }
        granules
    }

    /// Fills `buffer` from `at` on. Beyond the end there are zeros.
    pub(crate) fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        let end = at + buffer.len() as u64;
        let first = self
            .pieces
            .partition_point(|piece| piece.at + piece.source.len() <= at);
        for piece in self.pieces[first..]
            .iter()
            .take_while(|piece| piece.at < end)
        {
            let from = at.max(piece.at);
            let to = end.min(piece.at + piece.source.len());
            let target = &mut buffer[(from - at) as usize..(to - at) as usize];
            let skip = from - piece.at;
            match &piece.source {
                Source::Bytes(bytes) => {
                    target.copy_from_slice(&bytes[skip as usize..][..target.len()]);
                }
                Source::Archive { offset, .. } => {
                    self.archive.read_exact_at(target, offset + skip)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_no_piece_covers_is_zero_and_pieces_come_from_where_they_are() {
        let mut archive = tempfile::tempfile().expect("a temporary file");
        archive.write_all(b"..hello..").expect("writable");
        let mut inner = Sparse::new(10);
        inner.put(1, Source::Archive { offset: 2, len: 5 });
        let mut whole = Sparse::new(100);
        whole.put_bytes(50, *b"xyz");
        whole.put_all(8, inner);
        let reader = whole.reader(&archive);
        let mut buffer = [9; 8];
        reader.read(7, &mut buffer).expect("readable");
        assert_eq!(&buffer, b"\0\0hello\0");
        reader.read(51, &mut buffer).expect("readable");
        assert_eq!(&buffer, b"yz\0\0\0\0\0\0");
        assert_eq!(reader.occupied(10), [0, 1, 5]);
        assert_eq!(reader.occupied(64), [0]);
    }
}
