//! The content-addressed store below the cache directory, shared by all mirrors and all processes.
//!
//! ```text
//! pool/sha256/<2 hex>/<64 hex>   verified files, mode 0644, never changed
//! pool/partial/<64 hex>          downloads under way; whoever writes one holds a lock on it
//! pool/unsynced/<boot>.<pid>.<n> a batch of files that may not be on the disk yet
//! ```
//!
//! A file gets its name here only after its digest was proven. Files are not synced one by one, which would be slow: a batch marks the
//! pool, and one `syncfs` at its end removes the mark. After a power cut the marks of an earlier boot say from when on files are to be
//! read again; what a killed process leaves is whole, because the kernel has it. Nothing is ever deleted from the pool here.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::place::{create_dir, parent};

/// Of the pool's files: any web server may read them.
const MODE: u32 = 0o644;

#[derive(Debug, Clone)]
pub struct Pool {
    root: PathBuf,
}

impl Pool {
    /// The pool of a cache directory; made if it is not there. After a power cut this reads the files again that may have suffered.
    pub fn open(cache_dir: &Path) -> Result<Self> {
        let pool = Self {
            root: cache_dir.join("pool"),
        };
        for dir in ["sha256", "partial", "unsynced"] {
            create_dir(&pool.root.join(dir))?;
        }
        pool.recover()?;
        Ok(pool)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("sha256").join(&name[..2]).join(name)
    }

    /// Size of a file of the pool in bytes; `None` if it is not there.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("look at {}", path.display()), error)),
        }
    }

    pub fn holds(&self, digest: &Digest) -> Result<bool> {
        Ok(self.size(digest)?.is_some())
    }

    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        fs::read(&path).map_err(|error| Error::io(format!("read {}", path.display()), error))
    }

    /// Keeps bytes under their own digest.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        self.take_in(bytes, &digest)?
            .expect("bytes have their own digest");
        Ok(digest)
    }

    /// Keeps what a reader gives, if it is what `digest` says; [`crate::Failure`] tells otherwise. Answers with the size.
    pub fn take_in(
        &self,
        mut reader: impl Read,
        digest: &Digest,
    ) -> Result<Result<u64, crate::Failure>> {
        if let Some(size) = self.size(digest)? {
            return Ok(Ok(size));
        }
        let act = || format!("write {}", self.path(digest).display());
        let mut partial = loop {
            match self.partial(digest)? {
                Claim::Mine(partial) => break partial,
                Claim::Done => return self.take_in(reader, digest),
                Claim::Taken => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        partial.restart()?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|error| Error::io(act(), error))?;
            if count == 0 {
                break;
            }
            partial.write(&buffer[..count])?;
        }
        let size = partial.size();
        Ok(partial.admit()?.map(|()| size))
    }

    /// A second name for a file of the pool: a hard link, or a copy where the two are on different file systems. `target` may exist only
    /// as a file of that very size. Parent directories are made.
    pub fn link(&self, digest: &Digest, target: &Path) -> Result<()> {
        let source = self.path(digest);
        let act = || format!("link {} to {}", source.display(), target.display());
        let mut linked = fs::hard_link(&source, target);
        if matches!(&linked, Err(error) if error.kind() == ErrorKind::NotFound) {
            create_dir(parent(target))?;
            linked = fs::hard_link(&source, target);
        }
        match linked {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let (there, ours) = fs::metadata(target)
                    .and_then(|there| Ok((there, fs::metadata(&source)?)))
                    .map_err(|error| Error::io(act(), error))?;
                if there.len() == ours.len() {
                    Ok(())
                } else {
                    self.copy(&source, target)
                }
            }
            Err(error)
                if error.kind() == ErrorKind::CrossesDevices
                    || error.kind() == ErrorKind::TooManyLinks =>
            {
                self.copy(&source, target)
            }
            Err(error) => Err(Error::write(act(), target, error)),
        }
    }

    fn copy(&self, source: &Path, target: &Path) -> Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let temporary = parent(target).join(format!(
            ".copy-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        let copied = fs::copy(source, &temporary)
            .and_then(|_| File::open(&temporary)?.sync_all())
            .and_then(|()| fs::rename(&temporary, target));
        copied.map_err(|error| {
            // The error that counts is the first one.
            drop(fs::remove_file(&temporary));
            Error::write(
                format!("copy {} to {}", source.display(), target.display()),
                target,
                error,
            )
        })
    }

    /// Reads every file again and deletes those that are not what their names say; answers with these.
    pub fn verify(&self) -> Result<Vec<Digest>> {
        self.verify_since(SystemTime::UNIX_EPOCH)
    }

    fn verify_since(&self, since: SystemTime) -> Result<Vec<Digest>> {
        let mut bad = Vec::new();
        let root = self.root.join("sha256");
        for dir in entries(&root)? {
            for path in entries(&dir)? {
                let read = |error| Error::io(format!("read {}", path.display()), error);
                let Some(digest) = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .and_then(|name| name.parse::<Digest>().ok())
                else {
                    continue;
                };
                let written = fs::metadata(&path)
                    .and_then(|metadata| metadata.modified())
                    .map_err(read)?;
                if written >= since && Digest::of_file(&path).map_err(read)?.0 != digest {
                    fs::remove_file(&path)
                        .map_err(|error| Error::io(format!("remove {}", path.display()), error))?;
                    bad.push(digest);
                }
            }
        }
        Ok(bad)
    }

    /// Begins writing a file whose digest is known. The caller polls while another process or task has it.
    pub(crate) fn partial(&self, digest: &Digest) -> Result<Claim> {
        let path = self.root.join("partial").join(digest.to_string());
        let failed =
            |error: io::Error| Error::write(format!("write {}", path.display()), &path, error);
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(MODE)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Claim::Taken),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            let ours = file.metadata().map_err(failed)?;
            let is_named = || {
                fs::metadata(&path)
                    .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
            };
            if self.holds(digest)? {
                // Another finished it between our look and our lock; what we made or hold is of no use.
                if is_named() {
                    drop(fs::remove_file(&path));
                }
                return Ok(Claim::Done);
            }
            // The name may have gone to the pool, and with it the file that we have locked.
            if is_named() {
                return Ok(Claim::Mine(Partial {
                    file,
                    is_public: ours.mode() & 0o7777 == MODE,
                    inherited: ours.len() > 0,
                    path,
                    place: self.path(digest),
                    digest: *digest,
                    hasher: Hasher::default(),
                }));
            }
        }
    }

    /// Marks the pool while many files come in. Ends with [`Batch::seal`].
    pub(crate) fn batch(&self) -> Result<Batch> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let path = self.root.join("unsynced").join(format!(
            "{}.{}.{}",
            boot_id()?,
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        // Not synced: a journal keeps the order of names, so that no file of the batch is there after a power cut without this.
        File::create(&path)
            .map_err(|error| Error::write(format!("write {}", path.display()), &path, error))?;
        Ok(Batch {
            path,
            ahead: Arc::new(Ahead {
                root: self.root.clone(),
                bytes: AtomicU64::new(0),
                thread: Mutex::default(),
            }),
        })
    }

    fn recover(&self) -> Result<()> {
        let boot = boot_id()?;
        for path in entries(&self.root.join("unsynced"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let (of_boot, rest) = name.split_once('.').unwrap_or((&name, ""));
            if of_boot == boot {
                let pid = rest.split('.').next().unwrap_or_default();
                if Path::new("/proc").join(pid).exists() {
                    continue;
                }
                sync_file_system(&self.root)?;
            } else {
                let marked = fs::metadata(&path).and_then(|metadata| metadata.modified());
                let marked = match marked {
                    Ok(marked) => marked,
                    // Another process is at the same work and was quicker.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => {
                        return Err(Error::io(format!("look at {}", path.display()), error));
                    }
                };
                let bad = self.verify_since(marked - Duration::from_secs(2))?;
                if !bad.is_empty() {
                    tracing::warn!(
                        "{} files of {} did not survive the last power cut and are fetched again",
                        bad.len(),
                        self.root.display()
                    );
                }
            }
            remove_if_there(&path)?;
        }
        Ok(())
    }
}

/// Sorted; empty if the directory is not there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("list {}", dir.display()), error)),
    };
    let mut paths = list
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| Error::io(format!("list {}", dir.display()), error))?;
    paths.sort();
    Ok(paths)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(PATH)
        .map(|id| id.trim().to_owned())
        .map_err(|error| Error::io(format!("read {PATH}"), error))
}

pub(crate) fn sync_file_system(path: &Path) -> Result<()> {
    let act = || format!("sync the file system of {}", path.display());
    let dir = File::open(path).map_err(|error| Error::io(act(), error))?;
    nix::unistd::syncfs(&dir).map_err(|errno| Error::write(act(), path, errno.into()))
}

/// Who writes a partial file.
#[derive(Debug)]
pub(crate) enum Claim {
    Mine(Partial),
    /// In the pool already.
    Done,
    /// Another task or process is writing it.
    Taken,
}

/// A file under way, locked by this process. What is written stays there when this is dropped, for the next attempt.
#[derive(Debug)]
pub(crate) struct Partial {
    /// Its lock goes with it.
    file: File,
    /// Of [`MODE`] already.
    is_public: bool,
    /// An earlier run has written some of it.
    inherited: bool,
    path: PathBuf,
    place: PathBuf,
    digest: Digest,
    hasher: Hasher,
}

impl Partial {
    /// Takes over what an earlier attempt has written; answers with its length.
    pub(crate) fn resume(&mut self) -> Result<u64> {
        use std::io::Seek as _;
        let failed = |error| Error::io(format!("read {}", self.path.display()), error);
        self.hasher = Hasher::default();
        if !self.inherited {
            return Ok(0);
        }
        self.file.rewind().map_err(failed)?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = self.file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                return Ok(self.hasher.size());
            }
            self.hasher.update(&buffer[..count]);
        }
    }

    /// Forgets what was written.
    pub(crate) fn restart(&mut self) -> Result<()> {
        use std::io::Seek as _;
        self.hasher = Hasher::default();
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|error| Error::io(format!("truncate {}", self.path.display()), error))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| {
            Error::write(format!("write {}", self.path.display()), &self.path, error)
        })?;
        self.hasher.update(bytes);
        Ok(())
    }

    pub(crate) fn size(&self) -> u64 {
        self.hasher.size()
    }

    /// Moves the file into the pool if it is what it should be. If not, what was written is thrown away.
    pub(crate) fn admit(mut self) -> Result<Result<(), crate::Failure>> {
        let got = self.hasher.finish();
        if got != self.digest {
            self.restart()?;
            return Ok(Err(crate::Failure::WrongHash {
                got,
                expected: self.digest,
            }));
        }
        let act = || format!("keep {}", self.place.display());
        let failed = |error| Error::write(act(), &self.place, error);
        if !self.is_public {
            self.file
                .set_permissions(fs::Permissions::from_mode(MODE))
                .map_err(failed)?;
        }
        if self.inherited {
            // The time of arrival, which recovery goes by, even if an earlier run wrote all of it.
            self.file.set_modified(SystemTime::now()).map_err(failed)?;
        }
        let mut renamed = fs::rename(&self.path, &self.place);
        if matches!(&renamed, Err(error) if error.kind() == ErrorKind::NotFound) {
            create_dir(parent(&self.place))?;
            renamed = fs::rename(&self.path, &self.place);
        }
        renamed.map_err(failed)?;
        Ok(Ok(()))
    }
}

/// See [`Pool::batch`]. Dropped without [`Batch::seal`], the mark stays until the next [`Pool::open`].
#[derive(Debug)]
pub(crate) struct Batch {
    path: PathBuf,
    ahead: Arc<Ahead>,
}

impl Batch {
    /// For those who write its files.
    pub(crate) fn ahead(&self) -> Arc<Ahead> {
        self.ahead.clone()
    }

    /// Nothing was written.
    pub(crate) fn unused(self) -> Result<()> {
        remove_if_there(&self.path)
    }

    /// Everything written so far is on the disk when this returns.
    pub(crate) fn seal(self) -> Result<()> {
        // Who asks later is not told of what failed earlier.
        let thread = self.ahead.thread().take();
        thread.map_or(Ok(()), joined)?;
        sync_file_system(&self.ahead.root)?;
        remove_if_there(&self.path)
    }
}

/// Gives the disk its work while files still come in, so that there is little left to wait for at the end of a batch.
#[derive(Debug)]
pub(crate) struct Ahead {
    root: PathBuf,
    bytes: AtomicU64,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Ahead {
    const STEP_BYTES: u64 = 32 << 20;

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<Result<()>>>> {
        self.thread.lock().expect("nothing panics under this lock")
    }

    /// Takes note of a file that came in. The error is that of a sync before.
    pub(crate) fn came_in(&self, bytes: u64) -> Result<()> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before / Self::STEP_BYTES == (before + bytes) / Self::STEP_BYTES {
            return Ok(());
        }
        let mut thread = self.thread();
        match thread.take() {
            Some(running) if !running.is_finished() => *thread = Some(running),
            other => {
                other.map_or(Ok(()), joined)?;
                let root = self.root.clone();
                *thread = Some(std::thread::spawn(move || sync_file_system(&root)));
            }
        }
        Ok(())
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().expect("syncing does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let pool = Pool::open(dir.path()).expect("a new pool opens");
        (dir, pool)
    }

    fn partial(pool: &Pool, digest: &Digest) -> Partial {
        match pool.partial(digest).expect("the pool is writable") {
            Claim::Mine(partial) => partial,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_put_can_be_read_and_linked() {
        let (dir, pool) = pool();
        let digest = pool.put(b"hello").expect("puts");
        assert_eq!(pool.put(b"hello").expect("puts again"), digest);
        assert_eq!(pool.size(&digest).expect("looks"), Some(5));
        assert_eq!(pool.read(&digest).expect("reads"), b"hello");
        let target = dir.path().join("a/b/hello");
        pool.link(&digest, &target).expect("links");
        pool.link(&digest, &target).expect("links again");
        assert_eq!(fs::metadata(&target).expect("is there").nlink(), 2);
        fs::remove_file(&target).expect("removes");
        fs::write(&target, "other thing").expect("writes");
        pool.link(&digest, &target).expect("replaces a wrong file");
        assert_eq!(fs::read(&target).expect("reads"), b"hello");
    }

    #[test]
    fn what_is_not_as_its_digest_says_is_not_kept() {
        let (_dir, pool) = pool();
        let digest = Digest::of(b"right");
        let failure = pool.take_in(&b"wrong"[..], &digest).expect("no I/O error");
        assert!(matches!(failure, Err(crate::Failure::WrongHash { .. })));
        assert!(!pool.holds(&digest).expect("looks"));
        assert_eq!(
            pool.take_in(&b"right"[..], &digest).expect("no I/O error"),
            Ok(5)
        );
        assert!(pool.holds(&digest).expect("looks"));
    }

    #[test]
    fn an_interrupted_file_goes_on_where_it_ended() {
        let (_dir, pool) = pool();
        let digest = Digest::of(b"hello world");
        let mut first = partial(&pool, &digest);
        first.write(b"hello ").expect("writes");
        assert!(matches!(pool.partial(&digest).expect("asks"), Claim::Taken));
        drop(first);
        let mut second = partial(&pool, &digest);
        assert_eq!(second.resume().expect("reads"), 6);
        second.write(b"world").expect("writes");
        assert_eq!(second.admit().expect("no I/O error"), Ok(()));
        assert!(matches!(pool.partial(&digest).expect("asks"), Claim::Done));
        assert_eq!(pool.read(&digest).expect("reads"), b"hello world");
    }

    #[test]
    fn a_mark_of_an_earlier_boot_makes_the_pool_read_its_files_again() {
        let (dir, pool) = pool();
        let good = pool.put(b"good").expect("puts");
        let bad = pool.put(b"bad").expect("puts");
        fs::write(pool.path(&bad), "").expect("a power cut empties it");
        Pool::open(dir.path()).expect("opens");
        assert!(pool.holds(&bad).expect("looks"), "no mark, no reading");
        let mark = dir.path().join("pool/unsynced/0-0-0.1.0");
        let file = File::create(&mark).expect("marks");
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .expect("dates");
        Pool::open(dir.path()).expect("opens");
        assert!(pool.holds(&good).expect("looks"));
        assert!(!pool.holds(&bad).expect("looks"));
        assert!(!mark.exists());
    }

    #[test]
    fn what_is_much_is_synced_before_the_end() {
        let (_dir, pool) = pool();
        let batch = pool.batch().expect("marks");
        let ahead = batch.ahead();
        ahead.came_in(Ahead::STEP_BYTES - 1).expect("notes");
        assert!(ahead.thread().is_none());
        for _ in 0..3 {
            ahead.came_in(Ahead::STEP_BYTES).expect("notes");
            assert!(ahead.thread().is_some());
        }
        batch.seal().expect("syncs");
        assert!(ahead.thread().is_none());
    }

    #[test]
    fn a_batch_marks_the_pool_until_it_is_sealed() {
        let (dir, pool) = pool();
        let batch = pool.batch().expect("marks");
        Pool::open(dir.path()).expect("opens");
        assert!(batch.path.exists(), "its process lives");
        let path = batch.path.clone();
        batch.seal().expect("syncs");
        assert!(!path.exists());
    }
}
