//! A repository's objects as files of a directory.

use std::fs;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};

use super::buckets::BucketObjects;
use crate::backup::objects::{Listed, ObjectStore, Put, check_path, not_found};
use crate::{Error, ErrorKind, Result};

/// The store that `name` stands for: a directory or its `file://` URL, or a bucket, see [`BucketObjects`].
///
/// # Errors
/// `Invalid` for what is neither, and if the environment says too little of the bucket.
pub fn open(name: &str) -> Result<Arc<dyn ObjectStore>> {
    if let Some(path) = name.strip_prefix("file://") {
        return Ok(Arc::new(FileObjects::new(path)));
    }
    match name.contains("://") {
        true => Ok(Arc::new(BucketObjects::open(name)?)),
        false => Ok(Arc::new(FileObjects::new(name))),
    }
}

/// Where objects are while they are written; the part of a path cannot begin with a dot, so none is mistaken for one.
const UNFINISHED: &str = ".unfinished";
/// After this, what is unfinished is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// What Linux takes in one vectored write (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// Objects as files below a directory.
///
/// An object is written to a file of its own, synced, and given its name by a hard link, which fails if the name is taken;
/// then the directory is synced. So an object is there whole or not at all, and of several that put it one creates it. Where
/// the file system has no hard links, it is renamed if the name is free: two that put different bytes under one name at the
/// same moment would then both believe to have created it, which for names that are hashes cannot matter.
#[derive(Clone, Debug)]
pub struct FileObjects {
    root: Arc<PathBuf>,
}

impl FileObjects {
    /// Objects below `root`, which need not be there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: Arc::new(root.into()) }
    }

    /// Does `act` on a thread that may block, where there is a runtime to ask for one.
    fn blocking<T: Send + 'static>(
        &self,
        path: &str,
        act: impl FnOnce(&Path, &str) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let root = self.root.clone();
        let path = path.to_owned();
        let run = move || act(&root, &path).map_err(|error| failed(&root, &path, error));
        async move {
            match tokio::runtime::Handle::try_current() {
                Err(_) => run(),
                Ok(runtime) => match runtime.spawn_blocking(run).await {
                    Ok(done) => done,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => Err(Error::new(ErrorKind::Closed, "the runtime is shutting down")),
                },
            }
        }
        .boxed()
    }
}

impl ObjectStore for FileObjects {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn put_if_absent<'a>(&'a self, path: &'a str, parts: Vec<Bytes>) -> BoxFuture<'a, Result<Put>> {
        match check_path(path) {
            Ok(()) => self.blocking(path, move |root, path| put(root, path, &parts)),
            Err(error) => async move { Err(error) }.boxed(),
        }
    }

    fn get<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        self.blocking(path, move |root, path| match get(root, path, range) {
            Err(error) if is_absent(&error) => Err(io::ErrorKind::NotFound.into()),
            got => got,
        })
    }

    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        self.blocking(path, |root, path| match fs::metadata(at(root, path)?) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed>> {
        // Directories that are still to be listed; one is read at a time.
        let open = vec![prefix.to_owned()];
        stream::unfold(open, move |mut open| async move {
            let directory = open.pop()?;
            let listed = self.blocking(&directory, list).await;
            let (objects, below) = match listed {
                Ok((objects, below)) => (objects.into_iter().map(Ok).collect(), below),
                Err(error) => (vec![Err(error)], Vec::new()),
            };
            open.extend(below);
            Some((stream::iter(objects), open))
        })
        .flatten()
        .boxed()
    }

    fn delete<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        self.blocking(path, |root, path| match fs::remove_file(at(root, path)?) {
            Err(error) if !is_absent(&error) => Err(error),
            _ => Ok(()),
        })
    }
}

fn put(root: &Path, path: &str, parts: &[Bytes]) -> io::Result<Put> {
    let target = at(root, path)?;
    if target.try_exists()? {
        return Ok(Put::Present);
    }
    let unfinished = root.join(UNFINISHED);
    if !unfinished.is_dir() {
        fs::create_dir_all(&unfinished)?;
        sync_dir(root)?;
    }
    let directory = target.parent().unwrap_or(root);
    make_directories(root, directory)?;
    let (name, mut file) = create_unfinished(&unfinished)?;
    let put = (|| {
        write_all(&mut file, parts)?;
        file.sync_all()?;
        let put = name_it(&name, &target)?;
        // Also when it was there: whoever created it may not have come to this yet.
        sync_dir(directory)?;
        Ok(put)
    })();
    // It has its name, or is of no use.
    let _ = fs::remove_file(&name);
    put
}

/// Gives the file `unfinished` the name `target`, if it is free.
fn name_it(unfinished: &Path, target: &Path) -> io::Result<Put> {
    let linked = match fs::hard_link(unfinished, target) {
        Ok(()) => return Ok(Put::Created),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Put::Present),
        Err(error) => error,
    };
    let has_no_links = matches!(linked.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied);
    if !has_no_links {
        return Err(linked);
    }
    if target.try_exists()? {
        return Ok(Put::Present);
    }
    fs::rename(unfinished, target).map(|()| Put::Created)
}

/// Makes `directory` and what is missing above it below `root`, for good.
fn make_directories(root: &Path, directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(above) = directory.parent().filter(|_| directory != root) {
        make_directories(root, above)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => return sync_dir(above),
        }
    }
    fs::create_dir_all(directory)
}

/// A new file that nobody else writes. Removes, now and then, what others have left behind.
fn create_unfinished(directory: &Path) -> io::Result<(PathBuf, fs::File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_abandoned(directory);
        }
        let path = directory.join(format!("{}-{number}", std::process::id()));
        match fs::File::options().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return Ok((path, opened?)),
        }
    }
}

fn remove_abandoned(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
        if age.is_some_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write_all(file: &mut fs::File, parts: &[Bytes]) -> io::Result<()> {
    let parts: Vec<&Bytes> = parts.iter().filter(|part| !part.is_empty()).collect();
    for parts in parts.chunks(MAX_PARTS) {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn get(root: &Path, path: &str, range: Range<u64>) -> io::Result<Bytes> {
    let file = fs::File::open(at(root, path)?)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let end = range.end.min(metadata.len());
    let len = usize::try_from(end.saturating_sub(range.start)).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], range.start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(Bytes::from(bytes))
}

/// The files and directories in a directory, which need not be there.
fn list(root: &Path, directory: &str) -> io::Result<(Vec<Listed>, Vec<String>)> {
    let mut objects = Vec::new();
    let mut below = Vec::new();
    let entries = match fs::read_dir(root.join(directory)) {
        Err(error) if is_absent(&error) => return Ok((objects, below)),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // What has another name than an object can have is none.
        let Some(name) = entry.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned) else {
            continue;
        };
        let path = format!("{directory}{name}");
        let metadata = match entry.metadata() {
            Err(error) if is_absent(&error) => continue,
            metadata => metadata?,
        };
        if metadata.is_dir() {
            below.push(format!("{path}/"));
        } else if metadata.is_file() {
            objects.push(Listed { path, bytes: metadata.len() });
        }
    }
    Ok((objects, below))
}

fn sync_dir(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

fn at(root: &Path, path: &str) -> io::Result<PathBuf> {
    check_path(path).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(root.join(path))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn failed(root: &Path, path: &str, error: io::Error) -> Error {
    use io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => return not_found(path),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => ErrorKind::Full,
        Io::InvalidInput | Io::InvalidFilename | Io::NotADirectory | Io::AlreadyExists => ErrorKind::Invalid,
        _ => ErrorKind::Retriable,
    };
    let what = if path.is_empty() { root.to_owned() } else { root.join(path) };
    Error::new(kind, format!("repository's file failed path={}", what.display())).with_source(error)
}
