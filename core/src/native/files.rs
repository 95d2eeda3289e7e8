//! A device over the files of the operating system.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::FlockOperation;

use crate::storage::{Device, Entry, File, check_path};
use crate::{Error, ErrorKind, Result};

/// The file whose lock says that a directory has an owner. Kafka takes the same kind of lock on the same name.
const LOCK: &str = ".lock";
/// What Linux takes in one vectored write (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// Roots that this process owns. Locks of the operating system do not hold within one process.
static OWNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A directory tree on disk, owned by this object as long as it lives.
#[derive(Debug)]
pub struct FileDevice {
    root: PathBuf,
    _lock: Lock,
}

impl FileDevice {
    /// Opens a directory, made when it is not there, and takes its lock.
    ///
    /// An error of kind [`ErrorKind::Fenced`] says that it has an owner already, in this process or another one.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let failed = |error| io_error("data directory cannot be opened", root, error);
        fs::create_dir_all(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let lock = Lock::take(&root)?;
        Ok(Self { root, _lock: lock })
    }

    /// The directory, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, path: &str) -> io::Result<PathBuf> {
        check_path(path)?;
        Ok(self.root.join(path))
    }
}

impl Device for FileDevice {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).write(true).open(self.path(path)?)?;
        let len = file.metadata()?.len();
        Ok(Arc::new(DiskFile { file, len: AtomicU64::new(len) }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path(path)?;
        let create = || fs::File::options().read(true).write(true).create_new(true).open(&path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                create()?
            }
            created => created?,
        };
        Ok(Arc::new(DiskFile { file, len: AtomicU64::new(0) }))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(path)?)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.path(path)?.try_exists()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(dir)?)? {
            let entry = entry?;
            // Names that are not text are nobody's of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if dir.is_empty() && name == LOCK {
                continue;
            }
            let metadata = match fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_dir = metadata.is_dir();
            entries.push(Entry { name, is_dir, len: if is_dir { 0 } else { metadata.len() } });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path)?)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        if path.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root is not removed"));
        }
        fs::remove_dir_all(self.path(path)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => {
                to.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::rename(&from, &to)
            }
            renamed => renamed,
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        fs::File::open(self.path(dir)?)?.sync_all()
    }
}

/// An open file. Appends go to a position of their own, so that a write cut short leaves nothing in the way.
#[derive(Debug)]
struct DiskFile {
    file: fs::File,
    len: AtomicU64,
}

impl File for DiskFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let available = self.len().saturating_sub(position);
        let len = usize::try_from(available).unwrap_or(usize::MAX).min(len);
        // Not zeroed first: a fetch reads a megabyte at once.
        let mut buffer = Vec::with_capacity(len);
        while buffer.len() < len {
            let at = position + buffer.len() as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut buffer), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        buffer.truncate(len);
        Ok(Bytes::from(buffer))
    }

    fn append(&self, parts: &[&[u8]]) -> io::Result<()> {
        let start = self.len();
        match write_all(&self.file, parts, start) {
            Ok(end) => {
                self.len.store(end, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                // If this fails, too, then what stays lies behind the end and the next append overwrites it.
                let _ = self.file.set_len(start);
                Err(error)
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if len < self.len() {
            self.file.set_len(len)?;
            self.len.store(len, Ordering::Release);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // The size is part of what this writes; times of access and change are not.
        self.file.sync_data()
    }
}

fn write_all(file: &fs::File, parts: &[&[u8]], mut position: u64) -> io::Result<u64> {
    // Two parts (a stamp and a batch) are the common case and need no allocation.
    let mut two = [IoSlice::new(&[]), IoSlice::new(&[])];
    let mut many;
    let mut slices: &mut [IoSlice<'_>] = if parts.len() <= two.len() {
        for (slice, part) in two.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        &mut two[..parts.len()]
    } else {
        many = parts.iter().map(|part| IoSlice::new(part)).collect::<Vec<_>>();
        &mut many
    };
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match rustix::io::pwritev(file, &slices[..slices.len().min(MAX_PARTS)], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(position)
}

/// The lock on a directory, given back when it is dropped.
#[derive(Debug)]
struct Lock {
    root: PathBuf,
    /// The lock lasts until *any* handle of this process to the file closes, so there is only this one.
    _file: fs::File,
}

impl Lock {
    fn take(root: &Path) -> Result<Self> {
        let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
        if owned.contains(root) {
            let message = format!("data directory is already open in this process path={}", root.display());
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        let failed = |error| io_error("data directory cannot be locked", root, error);
        let options = fs::File::options().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(root.join(LOCK)).map_err(failed)?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::ACCESS | rustix::io::Errno::AGAIN) => {
                let mut owner = String::new();
                // Kafka writes nothing into it.
                let _ = (&mut file).take(32).read_to_string(&mut owner);
                let owner = match owner.trim() {
                    "" => "unknown, perhaps a Kafka broker",
                    owner => owner,
                };
                let message = format!(
                    "data directory is owned by another process; to share it, run `ottla serve --data {}` and connect to \
                     its port owner_pid={owner}",
                    root.display()
                );
                return Err(Error::new(ErrorKind::Fenced, message));
            }
            Err(error) => return Err(failed(error.into())),
        }
        // For the message above; the lock holds without it, on a full disk for example.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        owned.insert(root.to_owned());
        Ok(Self { root: root.to_owned(), _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        OWNED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.root);
    }
}

fn io_error(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what} path={}", path.display())).with_source(error)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
