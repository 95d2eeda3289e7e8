//! A device in memory, which fails on request.
//!
//! [`MemoryDevice::new`] is for brokers that keep nothing. [`MemoryDevice::durable`] remembers besides what was synced, so
//! that [`MemoryDevice::crash`] can answer what a power cut would leave; on it every operation can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::{Device, Entry, File, check_path, parent};

/// Appended bytes are gathered up to this size before they become a chunk that readers share.
const CHUNK_BYTES: usize = 256 * 1024;
/// The unit in which a torn write reaches the disk.
const SECTOR_BYTES: usize = 512;

/// A tree of files in memory. Clones are the same device.
#[derive(Clone, Debug, Default)]
pub struct MemoryDevice {
    tree: Arc<Mutex<Tree>>,
    /// Only for a device that remembers what was synced.
    faults: Option<Arc<Mutex<Faults>>>,
}

/// What a power cut takes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Nothing: the device had written all of it.
    Nothing,
    /// All of it.
    Unsynced,
    /// Some of it, chosen by this seed: writes cut short, sectors of zeroes between, names without data.
    Torn(u64),
    /// As `Torn`, and later changes of names without earlier ones.
    Shuffled(u64),
}

#[derive(Debug, Default)]
struct Tree {
    files: BTreeMap<String, Arc<Inode>>,
    dirs: BTreeSet<String>,
    durable_files: BTreeMap<String, Arc<Inode>>,
    durable_dirs: BTreeSet<String>,
    /// What changed since the directories were synced, oldest first.
    pending: Vec<NameChange>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, Arc<Inode>),
    CreateDir(String),
    Remove(String),
    RemoveDir(String),
    Rename(String, String),
}

#[derive(Debug, Default)]
struct Inode {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// Position and bytes, without gaps.
    chunks: Vec<(u64, Bytes)>,
    /// What follows the last chunk and nobody has read yet.
    tail: BytesMut,
    len: u64,
    durable: Vec<(u64, Bytes)>,
    pending: Vec<DataChange>,
}

#[derive(Clone, Debug)]
enum DataChange {
    Append(Bytes),
    Truncate(u64),
}

#[derive(Debug, Default)]
struct Faults {
    operations: u64,
    syncs: u64,
    power_off_at: Option<u64>,
    fail_at: Option<(u64, io::ErrorKind)>,
    fail_sync_at: Option<u64>,
    capacity: Option<u64>,
    used: u64,
    is_off: bool,
}

impl MemoryDevice {
    /// An empty device that keeps nothing over a crash and so has nothing to sync.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty device that can crash and fail.
    pub fn durable() -> Self {
        Self { tree: Arc::default(), faults: Some(Arc::default()) }
    }

    /// What a power cut at this moment leaves, as a new device. This one stays as it is.
    pub fn crash(&self, loss: Loss) -> Self {
        let mut chance = Chance(match loss {
            Loss::Torn(seed) | Loss::Shuffled(seed) => seed,
            _ => 0,
        });
        let tree = lock(&self.tree);
        let (mut files, mut dirs) = match loss {
            Loss::Nothing => (tree.files.clone(), tree.dirs.clone()),
            _ => (tree.durable_files.clone(), tree.durable_dirs.clone()),
        };
        if let Loss::Torn(_) | Loss::Shuffled(_) = loss {
            let kept = chance.below(tree.pending.len() + 1);
            for (at, change) in tree.pending.iter().enumerate() {
                let place = if let Loss::Torn(_) = loss { at } else { chance.below(tree.pending.len()) };
                if place < kept {
                    change.apply(&mut files, &mut dirs);
                }
            }
        }
        let mut left = Tree::default();
        let is_reachable = |path: &String| ancestors(path).all(|dir| dirs.contains(dir));
        left.dirs = dirs.iter().filter(|dir| is_reachable(dir)).cloned().collect();
        for (path, inode) in files.iter().filter(|(path, _)| is_reachable(path)) {
            let bytes = lock(&inode.content).after_crash(loss, &mut chance);
            left.files.insert(path.clone(), Arc::new(Inode { content: Mutex::new(Content::synced(bytes)) }));
        }
        left.durable_files = left.files.clone();
        left.durable_dirs = left.dirs.clone();
        Self { tree: Arc::new(Mutex::new(left)), faults: Some(Arc::default()) }
    }

    /// How many operations have changed the device so far: create, append, truncate, remove, rename, sync.
    pub fn operations(&self) -> u64 {
        self.faults.as_ref().map_or(0, |faults| lock(faults).operations)
    }

    /// How many syncs there were so far, of files and of directories.
    pub fn syncs(&self) -> u64 {
        self.faults.as_ref().map_or(0, |faults| lock(faults).syncs)
    }

    /// Cuts the power in the middle of operation number `operation` (from 0): it and all later ones fail.
    pub fn power_off_at(&self, operation: u64) {
        self.fault(|faults| faults.power_off_at = Some(operation));
    }

    /// Whether the power was cut: every operation fails from then on.
    pub fn is_off(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| lock(faults).is_off)
    }

    /// Makes operation number `operation` (from 0) fail once, without effect, as `kind`.
    pub fn fail_at(&self, operation: u64, kind: io::ErrorKind) {
        self.fault(|faults| faults.fail_at = Some((operation, kind)));
    }

    /// Makes sync number `sync` (from 0, files and directories) fail once, and forgets what it should have made safe:
    /// a later sync succeeds, and yet those bytes are gone after a crash.
    pub fn fail_sync_at(&self, sync: u64) {
        self.fault(|faults| faults.fail_sync_at = Some(sync));
    }

    /// Lets appends fail with `StorageFull` that would take the sum of all files beyond `bytes`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        let used = lock(&self.tree).files.values().map(|inode| lock(&inode.content).len).sum();
        self.fault(|faults| {
            faults.capacity = bytes;
            faults.used = used;
        });
    }

    /// Turns over the bits of `mask` in the byte at `position`, on the disk.
    pub fn flip(&self, path: &str, position: u64, mask: u8) -> io::Result<()> {
        let bytes = Device::read(self, path)?;
        let mut bytes = bytes.to_vec();
        let byte = usize::try_from(position).ok().and_then(|position| bytes.get_mut(position));
        *byte.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))? ^= mask;
        self.overwrite(path, bytes);
        Ok(())
    }

    /// Puts a file there as if it had always been: made and synced.
    pub fn overwrite(&self, path: &str, contents: impl Into<Bytes>) {
        let mut tree = lock(&self.tree);
        let inode = Arc::new(Inode { content: Mutex::new(Content::synced(contents.into())) });
        for dir in ancestors(path) {
            tree.dirs.insert(dir.to_owned());
            tree.durable_dirs.insert(dir.to_owned());
        }
        tree.files.insert(path.to_owned(), Arc::clone(&inode));
        tree.durable_files.insert(path.to_owned(), inode);
    }

    /// All files with their contents, by path.
    pub fn files(&self) -> BTreeMap<String, Bytes> {
        let tree = lock(&self.tree);
        let whole = |inode: &Inode| {
            let mut content = lock(&inode.content);
            let len = content.len as usize;
            content.read(0, len)
        };
        tree.files.iter().map(|(path, inode)| (path.clone(), whole(inode))).collect()
    }

    fn fault(&self, change: impl FnOnce(&mut Faults)) {
        let faults = self.faults.as_ref().expect("only a device made by `durable` can fail");
        change(&mut lock(faults));
    }

    /// Counts an operation that changes something. `Err` forbids it; `Ok(true)` lets it happen and then fail.
    fn operation(&self) -> io::Result<bool> {
        self.faults.as_ref().map_or(Ok(false), |faults| lock(faults).operation())
    }

    fn file(&self, inode: Arc<Inode>) -> Arc<dyn File> {
        Arc::new(MemoryFile { inode, faults: self.faults.clone() })
    }

    fn change(&self, tree: &mut Tree, change: NameChange) {
        let Tree { files, dirs, pending, .. } = tree;
        change.apply(files, dirs);
        if self.faults.is_some() {
            pending.push(change);
        }
    }

    fn make_dirs(&self, tree: &mut Tree, path: &str) {
        let missing: Vec<String> =
            ancestors_and_self(path).filter(|dir| !tree.dirs.contains(*dir)).map(str::to_owned).collect();
        for dir in missing {
            self.change(tree, NameChange::CreateDir(dir));
        }
    }
}

impl Device for MemoryDevice {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        check_path(path)?;
        self.is_on()?;
        let tree = lock(&self.tree);
        let inode = tree.files.get(path).ok_or_else(|| not_found(path))?;
        Ok(self.file(Arc::clone(inode)))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        check_path(path)?;
        let mut tree = lock(&self.tree);
        if tree.files.contains_key(path) || tree.dirs.contains(path) || path.is_empty() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("file is there already path={path}")));
        }
        let dies = self.operation()?;
        self.make_dirs(&mut tree, parent(path));
        let inode = Arc::new(Inode::default());
        self.change(&mut tree, NameChange::Create(path.to_owned(), Arc::clone(&inode)));
        survives(dies)?;
        Ok(self.file(inode))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut tree = lock(&self.tree);
        if path.is_empty() || tree.dirs.contains(path) {
            return Ok(());
        }
        let dies = self.operation()?;
        self.make_dirs(&mut tree, path);
        survives(dies)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        check_path(path)?;
        self.is_on()?;
        let tree = lock(&self.tree);
        Ok(path.is_empty() || tree.files.contains_key(path) || tree.dirs.contains(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Entry>> {
        check_path(dir)?;
        self.is_on()?;
        let tree = lock(&self.tree);
        if !dir.is_empty() && !tree.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let name = |path: &str| path.strip_prefix(&prefix).filter(|name| !name.contains('/')).map(str::to_owned);
        let mut entries: Vec<Entry> = (tree.dirs.range(prefix.clone()..))
            .take_while(|path| path.starts_with(&prefix))
            .filter_map(|path| Some(Entry { name: name(path)?, is_dir: true, len: 0 }))
            .collect();
        for (path, inode) in tree.files.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix)) {
            if let Some(name) = name(path) {
                entries.push(Entry { name, is_dir: false, len: lock(&inode.content).len });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut tree = lock(&self.tree);
        let inode = tree.files.get(path).cloned().ok_or_else(|| not_found(path))?;
        let dies = self.operation()?;
        self.change(&mut tree, NameChange::Remove(path.to_owned()));
        self.release(lock(&inode.content).len);
        survives(dies)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let mut tree = lock(&self.tree);
        if !tree.dirs.contains(path) {
            return Err(not_found(path));
        }
        let dies = self.operation()?;
        let freed =
            tree.files.iter().filter(|(file, _)| is_below(file, path)).map(|(_, inode)| lock(&inode.content).len).sum();
        self.change(&mut tree, NameChange::RemoveDir(path.to_owned()));
        self.release(freed);
        survives(dies)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_path(from)?;
        check_path(to)?;
        let mut tree = lock(&self.tree);
        if !tree.files.contains_key(from) && !tree.dirs.contains(from) {
            return Err(not_found(from));
        }
        if tree.dirs.contains(to) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("directory is there already path={to}")));
        }
        let dies = self.operation()?;
        self.make_dirs(&mut tree, parent(to));
        self.change(&mut tree, NameChange::Rename(from.to_owned(), to.to_owned()));
        survives(dies)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        check_path(dir)?;
        let Some(faults) = &self.faults else { return Ok(()) };
        let mut tree = lock(&self.tree);
        if !dir.is_empty() && !tree.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let dies = lock(faults).operation()?;
        let fails = lock(faults).sync();
        let Tree { durable_files, durable_dirs, pending, .. } = &mut *tree;
        if fails {
            return Err(io::Error::other("sync failed on request"));
        }
        if !dies {
            pending.retain(|change| {
                let is_here = change.is_in(dir);
                if is_here {
                    change.apply(durable_files, durable_dirs);
                }
                !is_here
            });
        }
        survives(dies)
    }

    fn is_durable(&self) -> bool {
        self.faults.is_some()
    }
}

impl MemoryDevice {
    fn is_on(&self) -> io::Result<()> {
        if self.is_off() { Err(power_off()) } else { Ok(()) }
    }

    fn release(&self, bytes: u64) {
        if let Some(faults) = &self.faults {
            let mut faults = lock(faults);
            faults.used = faults.used.saturating_sub(bytes);
        }
    }
}

impl NameChange {
    fn apply(&self, files: &mut BTreeMap<String, Arc<Inode>>, dirs: &mut BTreeSet<String>) {
        match self {
            Self::Create(path, inode) => {
                files.insert(path.clone(), Arc::clone(inode));
            }
            Self::CreateDir(path) => {
                dirs.insert(path.clone());
            }
            Self::Remove(path) => {
                files.remove(path);
            }
            Self::RemoveDir(path) => {
                files.retain(|file, _| !is_below(file, path));
                dirs.retain(|dir| dir != path && !is_below(dir, path));
            }
            Self::Rename(from, to) => {
                if let Some(inode) = files.remove(from) {
                    files.insert(to.clone(), inode);
                }
                if dirs.remove(from) {
                    dirs.insert(to.clone());
                }
                let moved = |path: &str| format!("{to}{}", &path[from.len()..]);
                let below: Vec<String> = files.keys().filter(|path| is_below(path, from)).cloned().collect();
                for path in below {
                    if let Some(inode) = files.remove(&path) {
                        files.insert(moved(&path), inode);
                    }
                }
                let below: Vec<String> = dirs.iter().filter(|path| is_below(path, from)).cloned().collect();
                for path in below {
                    dirs.remove(&path);
                    dirs.insert(moved(&path));
                }
            }
        }
    }

    fn is_in(&self, dir: &str) -> bool {
        match self {
            Self::Create(path, _) | Self::CreateDir(path) | Self::Remove(path) | Self::RemoveDir(path) => {
                parent(path) == dir
            }
            Self::Rename(from, to) => parent(from) == dir || parent(to) == dir,
        }
    }
}

impl Faults {
    fn operation(&mut self) -> io::Result<bool> {
        if self.is_off {
            return Err(power_off());
        }
        let number = self.operations;
        self.operations += 1;
        if self.power_off_at == Some(number) {
            self.is_off = true;
            return Ok(true);
        }
        match self.fail_at {
            Some((at, kind)) if at == number => {
                self.fail_at = None;
                Err(io::Error::new(kind, "failed on request"))
            }
            _ => Ok(false),
        }
    }

    fn sync(&mut self) -> bool {
        let number = self.syncs;
        self.syncs += 1;
        let fails = self.fail_sync_at == Some(number);
        if fails {
            self.fail_sync_at = None;
        }
        fails
    }

    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        if self.capacity.is_some_and(|capacity| self.used + bytes > capacity) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "device is full on request"));
        }
        self.used += bytes;
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    inode: Arc<Inode>,
    faults: Option<Arc<Mutex<Faults>>>,
}

impl File for MemoryFile {
    fn len(&self) -> u64 {
        lock(&self.inode.content).len
    }

    fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        if let Some(faults) = &self.faults
            && lock(faults).is_off
        {
            return Err(power_off());
        }
        Ok(lock(&self.inode.content).read(position, len))
    }

    fn append(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut content = lock(&self.inode.content);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut dies = false;
        if let Some(faults) = &self.faults {
            let mut faults = lock(faults);
            dies = faults.operation()?;
            faults.reserve(len as u64)?;
        }
        content.append(parts, len);
        if self.faults.is_some() {
            content.flush();
            let position = content.len - len as u64;
            let appended = content.read(position, len);
            content.pending.push(DataChange::Append(appended));
        }
        survives(dies)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut content = lock(&self.inode.content);
        if len >= content.len {
            return Ok(());
        }
        let mut dies = false;
        if let Some(faults) = &self.faults {
            let mut faults = lock(faults);
            dies = faults.operation()?;
            faults.used = faults.used.saturating_sub(content.len - len);
        }
        content.truncate(len);
        if self.faults.is_some() {
            content.pending.push(DataChange::Truncate(len));
        }
        survives(dies)
    }

    fn sync(&self) -> io::Result<()> {
        let Some(faults) = &self.faults else { return Ok(()) };
        let mut content = lock(&self.inode.content);
        let dies = lock(faults).operation()?;
        if lock(faults).sync() {
            // The pages count as clean from here on, but the disk has zeroes.
            for change in &mut content.pending {
                if let DataChange::Append(bytes) = change {
                    *bytes = Bytes::from(vec![0; bytes.len()]);
                }
            }
            return Err(io::Error::other("sync failed on request"));
        }
        if !dies {
            let pending = std::mem::take(&mut content.pending);
            for change in pending {
                change.apply(&mut content.durable);
            }
        }
        survives(dies)
    }
}

impl DataChange {
    fn appended(&self) -> usize {
        match self {
            Self::Append(bytes) => bytes.len(),
            Self::Truncate(_) => 0,
        }
    }

    fn apply(self, chunks: &mut Vec<(u64, Bytes)>) {
        match self {
            Self::Append(bytes) => {
                let position = end_of(chunks);
                if !bytes.is_empty() {
                    chunks.push((position, bytes));
                }
            }
            Self::Truncate(len) => truncate_chunks(chunks, len),
        }
    }
}

impl Content {
    fn synced(bytes: Bytes) -> Self {
        let len = bytes.len() as u64;
        let chunks = if bytes.is_empty() { Vec::new() } else { vec![(0, bytes)] };
        Self { durable: chunks.clone(), chunks, len, ..Self::default() }
    }

    fn append(&mut self, parts: &[&[u8]], len: usize) {
        if self.tail.len() + len > CHUNK_BYTES {
            self.flush();
        }
        self.tail.reserve(len);
        for part in parts {
            self.tail.extend_from_slice(part);
        }
        self.len += len as u64;
    }

    /// Makes the tail a chunk that can be shared.
    fn flush(&mut self) {
        if !self.tail.is_empty() {
            let position = self.len - self.tail.len() as u64;
            self.chunks.push((position, self.tail.split().freeze()));
        }
    }

    /// Without a copy when one chunk has it all.
    fn read(&mut self, position: u64, len: usize) -> Bytes {
        let end = position.saturating_add(len as u64).min(self.len);
        if position >= end {
            return Bytes::new();
        }
        if end > self.len - self.tail.len() as u64 {
            self.flush();
        }
        let first = self.chunks.partition_point(|(start, bytes)| start + bytes.len() as u64 <= position);
        let (start, bytes) = &self.chunks[first];
        let from = (position - start) as usize;
        if end <= start + bytes.len() as u64 {
            return bytes.slice(from..(end - start) as usize);
        }
        let mut whole = BytesMut::with_capacity((end - position) as usize);
        whole.extend_from_slice(&bytes[from..]);
        for (start, bytes) in &self.chunks[first + 1..] {
            if *start >= end {
                break;
            }
            whole.extend_from_slice(&bytes[..bytes.len().min((end - start) as usize)]);
        }
        whole.freeze()
    }

    fn truncate(&mut self, len: u64) {
        self.flush();
        truncate_chunks(&mut self.chunks, len);
        self.len = len;
    }

    fn after_crash(&mut self, loss: Loss, chance: &mut Chance) -> Bytes {
        let mut chunks = self.durable.clone();
        match loss {
            Loss::Unsynced => {}
            Loss::Nothing => {
                for change in &self.pending {
                    change.clone().apply(&mut chunks);
                }
            }
            Loss::Torn(_) | Loss::Shuffled(_) => {
                let kept = chance.below(self.pending.len() + 1);
                for change in &self.pending[..kept] {
                    change.clone().apply(&mut chunks);
                }
                if let Some(DataChange::Append(bytes)) = self.pending.get(kept) {
                    DataChange::Append(bytes.slice(..chance.below(bytes.len() + 1))).apply(&mut chunks);
                }
                let mut bytes = join(&chunks);
                let synced = end_of(&self.durable).min(bytes.len() as u64) as usize;
                if kept < self.pending.len() && chance.below(3) == 0 {
                    // The size is there, the data is not.
                    let missing = self.pending[kept..].iter().map(DataChange::appended).sum::<usize>();
                    bytes.resize(bytes.len() + chance.below(missing.min(2 * SECTOR_BYTES) + 1), 0);
                }
                if chance.below(3) == 0 {
                    for sector in bytes[synced..].chunks_mut(SECTOR_BYTES) {
                        if chance.below(3) == 0 {
                            sector.fill(0);
                        }
                    }
                }
                return Bytes::from(bytes);
            }
        }
        Bytes::from(join(&chunks))
    }
}

fn truncate_chunks(chunks: &mut Vec<(u64, Bytes)>, len: u64) {
    chunks.truncate(chunks.partition_point(|(start, _)| *start < len));
    if let Some((start, bytes)) = chunks.last_mut() {
        bytes.truncate((len - *start) as usize);
    }
}

fn end_of(chunks: &[(u64, Bytes)]) -> u64 {
    chunks.last().map_or(0, |(start, bytes)| start + bytes.len() as u64)
}

fn join(chunks: &[(u64, Bytes)]) -> Vec<u8> {
    chunks.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
}

/// Numbers that look random and follow from a seed. (Steele, Lea, Flood 2014, "SplitMix".)
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// The directories above `path`, without the root, outermost first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn ancestors_and_self(path: &str) -> impl Iterator<Item = &str> {
    ancestors(path).chain((!path.is_empty()).then_some(path))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn survives(dies: bool) -> io::Result<()> {
    if dies { Err(power_off()) } else { Ok(()) }
}

fn power_off() -> io::Error {
    io::Error::other("power is off on request")
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file path={path}"))
}
