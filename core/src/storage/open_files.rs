//! A bound on how many files are open at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Device, File};

/// A device whose files are kept open, but no more than so many: a process has few descriptors, and a broker many segments.
///
/// A [`Handle`] is a file that may be closed at any time and is opened again when it is used. One that was used since its
/// turn came last is passed over once ("second chance"), so that what is used all the time stays open.
#[derive(Debug)]
pub struct OpenFiles {
    device: Arc<dyn Device>,
    max: usize,
    /// The handles that are open, in the order of their turns.
    open: Mutex<VecDeque<Weak<Handle>>>,
}

/// One file of [`OpenFiles`], open or not.
#[derive(Debug, Default)]
pub struct Handle {
    file: Mutex<Option<Arc<dyn File>>>,
    used: AtomicBool,
}

impl OpenFiles {
    /// Files of `device`, of which up to `max` stay open. Those that somebody is reading are not counted.
    pub fn new(device: Arc<dyn Device>, max: usize) -> Arc<Self> {
        Arc::new(Self { device, max, open: Mutex::default() })
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The file of `handle`, which `open` opens if it is closed.
    pub fn get(
        &self,
        handle: &Arc<Handle>,
        open: impl FnOnce() -> io::Result<Arc<dyn File>>,
    ) -> io::Result<Arc<dyn File>> {
        {
            let file = lock(&handle.file);
            if let Some(file) = &*file {
                handle.used.store(true, Ordering::Relaxed);
                return Ok(Arc::clone(file));
            }
        }
        // Without the lock: closing others takes theirs.
        let file = open()?;
        self.keep(handle, Arc::clone(&file));
        Ok(file)
    }

    /// Keeps a file that was just opened or made as that of `handle`.
    pub fn keep(&self, handle: &Arc<Handle>, file: Arc<dyn File>) {
        let was_open = lock(&handle.file).replace(file).is_some();
        let mut open = lock(&self.open);
        if !was_open {
            open.push_back(Arc::downgrade(handle));
        }
        // Twice around at most: after the first time nobody has a second chance.
        let mut turns = open.len() * 2;
        while open.len() > self.max && turns > 0 {
            turns -= 1;
            let Some(next) = open.pop_front() else { break };
            let Some(other) = next.upgrade() else { continue };
            if Arc::ptr_eq(&other, handle) || other.used.swap(false, Ordering::Relaxed) {
                open.push_back(next);
            } else {
                lock(&other.file).take();
            }
        }
    }

    /// Opens a file, and if that cannot be done, because there are too many open perhaps, closes the others first.
    pub fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.relieved(|| self.device.open(path))
    }

    /// Makes a file; otherwise as [`Self::open`].
    pub fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.relieved(|| self.device.create(path))
    }

    fn relieved(&self, act: impl Fn() -> io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        let error = match act() {
            Err(error) => error,
            done => return done,
        };
        use io::ErrorKind::{AlreadyExists, InvalidInput, NotFound, PermissionDenied, StorageFull};
        if matches!(error.kind(), AlreadyExists | InvalidInput | NotFound | PermissionDenied | StorageFull) {
            return Err(error);
        }
        for handle in lock(&self.open).drain(..).filter_map(|handle| handle.upgrade()) {
            lock(&handle.file).take();
        }
        act()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
