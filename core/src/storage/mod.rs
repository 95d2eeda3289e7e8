//! Bytes on a device: open files and the directory tree they live in.
//!
//! Two traits that a platform implements: [`File`] is one open file, [`Device`] a tree of them. Everything above speaks
//! only to these; [`memory`] is the one for tests, browsers and brokers that keep nothing.
//!
//! What a device promises, and [`conformance`] checks:
//! - Bytes that were appended can be read at once, also through other handles to the same file.
//! - They survive a power cut when [`File::sync`] returned after them *and* [`Device::sync_dir`] returned after the file
//!   got its name. Before that a crash may keep all, some, or none of them.
//! - An open file outlives the removal and the renaming of its name.

mod conformance;
pub mod memory;
mod open_files;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

pub use conformance::conformance;
pub use open_files::{Handle, OpenFiles};

/// An open file that grows at its end. Every call returns when it is done.
///
/// One owner at a time appends and truncates; anybody may read meanwhile.
pub trait File: Send + Sync + Debug {
    /// The size in bytes: where the next append goes.
    fn len(&self) -> u64;

    /// Whether it holds no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `len` bytes from `position` on; fewer only where the file ends.
    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes>;

    /// Writes `parts` one behind the other at the end, in one go. After an error none of it can be read, and the next
    /// append goes where this one would have gone.
    fn append(&self, parts: &[&[u8]]) -> io::Result<()>;

    /// Cuts everything from `len` on; nothing happens when the file is not that long.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Returns when everything appended or cut before would survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// A tree of files. Paths are relative to its root, separated by `/`; the root itself is the empty path.
pub trait Device: Send + Sync + Debug {
    /// Opens a file that is there.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Makes an empty file and the directory it lies in; `AlreadyExists` when there is one.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Makes a directory and those above it; nothing happens when it is there.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Whether a file or a directory has that path.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// What lies directly in a directory, in the order of the names.
    fn list(&self, dir: &str) -> io::Result<Vec<Entry>>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes a directory with everything in it.
    fn remove_dir(&self, path: &str) -> io::Result<()>;

    /// Gives a file or a directory another name. A file that has that name is replaced, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// The whole of a small file.
    fn read(&self, path: &str) -> io::Result<Bytes> {
        let file = self.open(path)?;
        let len = usize::try_from(file.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        file.read_at(0, len)
    }

    /// Gives a small file new contents: after a crash it has either these or those it had, and after the return these.
    fn replace(&self, path: &str, contents: &[u8]) -> io::Result<()> {
        let temporary = format!("{path}.tmp");
        match self.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let replaced = (|| {
            let file = self.create(&temporary)?;
            file.append(&[contents])?;
            file.sync()?;
            self.rename(&temporary, path)
        })();
        if let Err(error) = replaced {
            // Best effort: what stays is an unused file that the next replacement removes.
            let _ = self.remove(&temporary);
            return Err(error);
        }
        self.sync_dir(parent(path))
    }

    /// Returns when the names in a directory (made, removed, renamed before) would survive a power cut.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Whether a sync means anything; `false` in memory, where nobody needs to wait for one.
    fn is_durable(&self) -> bool {
        true
    }
}

/// A file or directory in a [`Device::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the directories above it.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The size of a file in bytes; 0 for a directory.
    pub len: u64,
}

/// The directory that `path` lies in; the root is the empty path.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Checks that `path` stays below the root: no empty, `.` or `..` component, nothing absolute.
pub fn check_path(path: &str) -> io::Result<()> {
    let inside =
        path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']));
    if inside {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("path leaves the directory path={path:?}")))
}

#[cfg(test)]
mod tests;
