//! One file of a log and its indexes.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::error::{Damage, LogError};
use super::index::{Indexes, OffsetEntry, TimeEntry};
use super::producers::AbortedTransaction;
use super::scan::{Header, Scan, Step};
use crate::Timestamp;
use crate::storage::{Device, File, Handle, OpenFiles};

/// What a lookup reads at once: an index entry is at most about this far from its neighbour.
const LOOKUP_BYTES: usize = 8 * 1024;
/// How many of the last batches are known without reading.
const RECENT_BATCHES: usize = 64;
/// Index entries are written to their files in groups of this many.
const ENTRIES_PER_WRITE: usize = 512;

/// Where a log's files are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) device: Arc<dyn Device>,
    /// Opens the device's files, and keeps few of them open.
    pub(crate) files: Arc<OpenFiles>,
    pub(crate) dir: Arc<str>,
    /// How far index entries lie apart.
    pub(crate) index_interval_bytes: u64,
}

impl Place {
    pub(crate) fn path(&self, base: i64, suffix: &str) -> String {
        format!("{}/{base:020}{suffix}", self.dir)
    }

    pub(crate) fn in_dir(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// For `map_err` on what the device does.
    pub(crate) fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Device { action, log: self.dir.to_string(), source }
    }

    pub(crate) fn damaged(&self, segment: i64, position: u64, reason: Damage) -> LogError {
        LogError::Damaged { log: self.dir.to_string(), segment, position, reason }
    }

    /// Removes a file that may be missing.
    pub(crate) fn remove_if_there(&self, path: &str) -> io::Result<()> {
        match self.device.remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Makes a file, in place of one that an interrupted attempt left.
    pub(crate) fn create_anew(&self, path: &str) -> io::Result<Arc<dyn File>> {
        match self.files.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.device.remove(path)?;
                self.files.create(path)
            }
            created => created,
        }
    }
}

pub(crate) const LOG: &str = ".log";
pub(crate) const INDEX: &str = ".index";
pub(crate) const TIME_INDEX: &str = ".timeindex";
pub(crate) const TRANSACTION_INDEX: &str = ".txnindex";
pub(crate) const SNAPSHOT: &str = ".snapshot";

/// A segment: batches in a file named by its base offset.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: i64,
    /// Of the log file, in bytes.
    pub(crate) size: u64,
    pub(crate) aborted: Vec<AbortedTransaction>,
    /// Whether it grows: then its index files belong to its [`Tail`].
    pub(crate) is_active: bool,
    handle: Arc<Handle>,
    /// Loaded when first needed; always there for the active segment.
    indexes: Mutex<Option<Arc<Indexes>>>,
    /// The largest timestamp and the last offset of the batch that has it, of a closed segment.
    largest: OnceLock<Option<(Timestamp, i64)>>,
}

/// A batch and where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) position: u64,
    pub(crate) base_offset: i64,
    pub(crate) next_offset: i64,
    pub(crate) size: u32,
}

impl Located {
    fn new(position: u64, header: &Header) -> Self {
        Self { position, base_offset: header.base_offset, next_offset: header.next_offset(), size: header.size }
    }
}

impl Segment {
    pub(crate) fn new(base: i64, size: u64) -> Self {
        Self {
            base,
            size,
            aborted: Vec::new(),
            is_active: false,
            handle: Arc::default(),
            indexes: Mutex::default(),
            largest: OnceLock::new(),
        }
    }

    pub(crate) fn created(base: i64, place: &Place, file: Arc<dyn File>) -> Self {
        let segment = Self::new(base, 0);
        place.files.keep(&segment.handle, file);
        segment.set_indexes(Indexes::default());
        segment
    }

    /// The log file, opened when it is not open.
    pub(crate) fn file(&self, place: &Place) -> Result<Arc<dyn File>, LogError> {
        let open = || place.files.open(&place.path(self.base, LOG));
        place.files.get(&self.handle, open).map_err(place.failed("opening a segment"))
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    pub(crate) fn relative(&self, offset: i64) -> u32 {
        u32::try_from(offset.saturating_sub(self.base)).unwrap_or(if offset < self.base { 0 } else { u32::MAX })
    }

    /// Whether an offset can be written relative to the base, as indexes do.
    pub(crate) fn takes_offset(&self, offset: i64) -> bool {
        offset.checked_sub(self.base).is_some_and(|relative| (0..=i64::from(i32::MAX)).contains(&relative))
    }

    fn lock_indexes(&self) -> MutexGuard<'_, Option<Arc<Indexes>>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_indexes(&self, indexes: Indexes) {
        *self.lock_indexes() = Some(Arc::new(indexes));
    }

    pub(crate) fn indexes_mut(&mut self) -> &mut Indexes {
        let indexes = self.indexes.get_mut().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(indexes.get_or_insert_default())
    }

    /// Forgets the indexes that can be loaded again. Not for the active segment.
    pub(crate) fn unload(&self) {
        *self.lock_indexes() = None;
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.lock_indexes().is_some()
    }

    /// The indexes: from memory, from their files, or, when those are missing or contradict themselves, from the batches.
    pub(crate) fn indexes(&self, place: &Place) -> Result<Arc<Indexes>, LogError> {
        if let Some(indexes) = &*self.lock_indexes() {
            return Ok(Arc::clone(indexes));
        }
        let Some(indexes) = self.read_indexes(place) else { return self.rebuild_indexes(place) };
        let indexes = Arc::new(indexes);
        *self.lock_indexes() = Some(Arc::clone(&indexes));
        Ok(indexes)
    }

    /// The indexes as their files have them; `None` when they are missing or cannot be right.
    pub(crate) fn read_indexes(&self, place: &Place) -> Option<Indexes> {
        let offsets = place.device.read(&place.path(self.base, INDEX)).ok()?;
        let times = place.device.read(&place.path(self.base, TIME_INDEX)).ok()?;
        let offsets = Indexes::decode_offsets(&offsets, self.size)?;
        let times = Indexes::decode_times(&times)?;
        // Kafka's own entry for each few kilobytes: a long segment without any has lost them.
        let is_plausible = self.size <= LOOKUP_BYTES as u64 || (!offsets.is_empty() && !times.is_empty());
        is_plausible.then_some(Indexes { offsets, times })
    }

    /// Makes the indexes anew from the batches' headers, in memory and, as far as that works, in their files.
    pub(crate) fn rebuild_indexes(&self, place: &Place) -> Result<Arc<Indexes>, LogError> {
        let file = self.file(place)?;
        let mut scan = Scan::new(&*file, 0, self.size);
        let mut tail = Tail::default();
        let mut indexes = Indexes::default();
        let mut next_offset = self.base;
        loop {
            match scan.next(false).map_err(place.failed("reading a segment"))? {
                Step::Batch(position, header) if header.base_offset >= next_offset => {
                    next_offset = header.next_offset();
                    tail.note(self.base, position, &header, &mut indexes, place.index_interval_bytes);
                }
                Step::End => break,
                Step::Batch(..) | Step::Damaged(..) => {
                    if scan.resync(next_offset..i64::MAX).map_err(place.failed("reading a segment"))?.is_none() {
                        break;
                    }
                }
            }
        }
        if let Some((timestamp, offset)) = tail.largest {
            indexes.push_time(timestamp, self.relative(offset));
        }
        // Without the files the next open does this again, no more.
        if !self.is_active
            && let Err(error) = self.write_indexes(place, &indexes)
        {
            log::debug!("index is not written log={} segment={:020}: {error}", place.dir, self.base);
        }
        let indexes = Arc::new(indexes);
        *self.lock_indexes() = Some(Arc::clone(&indexes));
        Ok(indexes)
    }

    /// Writes both index files whole.
    pub(crate) fn write_indexes(&self, place: &Place, indexes: &Indexes) -> io::Result<()> {
        for (suffix, bytes) in
            [(INDEX, Indexes::encode_offsets(&indexes.offsets)), (TIME_INDEX, Indexes::encode_times(&indexes.times))]
        {
            let file = place.create_anew(&place.path(self.base, suffix))?;
            file.append(&[&bytes])?;
        }
        Ok(())
    }

    /// The first batch that has `offset` or one above it; `None` when the segment ends before.
    pub(crate) fn locate(&self, place: &Place, offset: i64) -> Result<Option<Located>, LogError> {
        let indexes = self.indexes(place)?;
        if let Some(found) = self.locate_by(place, &indexes, offset)? {
            return Ok(found);
        }
        log::warn!("index points beside the batches and is made anew log={} segment={:020}", place.dir, self.base);
        let indexes = self.rebuild_indexes(place)?;
        match self.locate_by(place, &indexes, offset)? {
            Some(found) => Ok(found),
            None => Err(place.damaged(self.base, 0, Damage::Header)),
        }
    }

    /// As [`Self::locate`]; the outer `None` says that the index is wrong.
    fn locate_by(&self, place: &Place, indexes: &Indexes, offset: i64) -> Result<Option<Option<Located>>, LogError> {
        let entry = indexes.floor(self.relative(offset));
        let failed = || place.failed("reading a segment");
        let file = self.file(place)?;
        let start = entry.map_or(0, |entry| u64::from(entry.position));
        let mut scan = Scan::with_window(&*file, start, self.size, LOOKUP_BYTES);
        let mut next_offset = self.base;
        let mut is_first = true;
        loop {
            let step = scan.next(false).map_err(failed())?;
            if let (true, Some(entry)) = (is_first, entry) {
                match &step {
                    Step::Batch(_, header) if header.last_offset() == self.base + i64::from(entry.relative) => {}
                    _ => return Ok(None),
                }
            }
            is_first = false;
            let (position, reason) = match step {
                Step::Batch(position, header) if header.base_offset >= next_offset => {
                    next_offset = header.next_offset();
                    if header.last_offset() >= offset {
                        return Ok(Some(Some(Located::new(position, &header))));
                    }
                    continue;
                }
                Step::End => return Ok(Some(None)),
                Step::Batch(position, _) => (position, Damage::OffsetGoesBack),
                Step::Damaged(position, reason) => (position, reason),
            };
            // One damaged batch does not hide those behind it.
            scan.seek(position);
            match scan.resync(next_offset..i64::MAX).map_err(failed())? {
                Some((_, header)) if header.base_offset <= offset => {}
                _ => return Err(place.damaged(self.base, position, reason)),
            }
        }
    }

    /// The largest timestamp in a closed segment and the last offset of the batch that has it.
    pub(crate) fn largest(&self, place: &Place) -> Result<Option<(Timestamp, i64)>, LogError> {
        if let Some(largest) = self.largest.get() {
            return Ok(*largest);
        }
        let was_loaded = self.is_loaded();
        let mut largest = self.last_time(&*self.indexes(place)?);
        if self.size > 0 {
            let agrees = match largest {
                Some((timestamp, offset)) => self.time_agrees(place, timestamp, offset)?,
                None => false,
            };
            if !agrees {
                largest = self.last_time(&*self.rebuild_indexes(place)?);
            }
        }
        if !was_loaded {
            self.unload();
        }
        Ok(*self.largest.get_or_init(|| largest))
    }

    pub(crate) fn set_largest(&self, largest: Option<(Timestamp, i64)>) {
        let _ = self.largest.set(largest);
    }

    fn last_time(&self, indexes: &Indexes) -> Option<(Timestamp, i64)> {
        indexes.times.last().map(|entry| (entry.timestamp, self.base + i64::from(entry.relative)))
    }

    /// Whether the batch with `offset` has that largest timestamp.
    pub(crate) fn time_agrees(&self, place: &Place, timestamp: Timestamp, offset: i64) -> Result<bool, LogError> {
        let Some(located) = self.locate(place, offset)? else { return Ok(false) };
        let header = self.header(place, located.position)?;
        Ok(located.base_offset <= offset && header.is_some_and(|header| header.max_timestamp == timestamp))
    }

    /// The header at a position where a batch should be.
    pub(crate) fn header(&self, place: &Place, position: u64) -> Result<Option<Header>, LogError> {
        let file = self.file(place)?;
        let mut scan = Scan::with_window(&*file, position, self.size, 0);
        match scan.next(false).map_err(place.failed("reading a segment"))? {
            Step::Batch(_, header) => Ok(Some(header)),
            _ => Ok(None),
        }
    }

    /// The bytes of a batch that a scan has found.
    pub(crate) fn bytes(&self, place: &Place, position: u64, size: u32) -> Result<Bytes, LogError> {
        self.file(place)?.read_at(position, size as usize).map_err(place.failed("reading a segment"))
    }

    /// The segment is not closed any more.
    pub(crate) fn reopen(&mut self) {
        self.largest = OnceLock::new();
    }

    /// Puts the aborted transactions into their file, which is there only when there are any, and syncs it; a crash leaves
    /// this file or the one before.
    pub(crate) fn write_aborted(&self, place: &Place) -> io::Result<()> {
        let path = place.path(self.base, TRANSACTION_INDEX);
        if self.aborted.is_empty() {
            return place.remove_if_there(&path);
        }
        let bytes: Vec<u8> = self.aborted.iter().flat_map(|aborted| aborted.to_bytes()).collect();
        place.device.replace(&path, &bytes)
    }

    /// Reads the aborted transactions as far as they are right.
    pub(crate) fn read_aborted(&mut self, place: &Place) -> Result<(), LogError> {
        let path = place.path(self.base, TRANSACTION_INDEX);
        let bytes = place.device.read(&path).map_err(place.failed("reading a transaction index"))?;
        self.aborted = bytes.chunks_exact(AbortedTransaction::LEN).map_while(AbortedTransaction::from_bytes).collect();
        Ok(())
    }
}

/// What is known besides of the segment that grows.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// The largest timestamp so far and the last offset of the batch that has it.
    pub(crate) largest: Option<(Timestamp, i64)>,
    /// The first batch's, from which the segment's age counts.
    pub(crate) first_timestamp: Option<Timestamp>,
    /// The last batches, oldest first.
    pub(crate) recent: VecDeque<Located>,
    bytes_since_entry: u64,
    files: IndexFiles,
}

/// The index files of the segment that grows; they lag behind.
#[derive(Debug, Default)]
struct IndexFiles {
    /// Whether they were made.
    exist: bool,
    written_offsets: usize,
    written_times: usize,
}

impl Tail {
    /// Takes a batch that was written at `position`.
    pub(crate) fn note(&mut self, base: i64, position: u64, header: &Header, indexes: &mut Indexes, interval: u64) {
        // What compaction has left nothing of has a time, but no record of that time.
        let has_time = header.max_timestamp >= 0 && header.record_count > 0;
        if has_time && self.largest.is_none_or(|(largest, _)| header.max_timestamp > largest) {
            self.largest = Some((header.max_timestamp, header.last_offset()));
        }
        if self.first_timestamp.is_none() {
            self.first_timestamp = Some(header.max_timestamp);
        }
        let relative = |offset: i64| u32::try_from(offset - base).unwrap_or(u32::MAX);
        if self.bytes_since_entry > interval
            && let Ok(position) = u32::try_from(position)
        {
            indexes.offsets.push(OffsetEntry { relative: relative(header.last_offset()), position });
            if let Some((timestamp, offset)) = self.largest {
                indexes.push_time(timestamp, relative(offset));
            }
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += u64::from(header.size);
        if self.recent.len() == RECENT_BATCHES {
            self.recent.pop_front();
        }
        self.recent.push_back(Located::new(position, header));
    }

    /// The first batch that has `offset` or one above it, if it is one of the last.
    pub(crate) fn locate(&self, offset: i64) -> Option<Located> {
        let at = self.recent.partition_point(|batch| batch.next_offset <= offset);
        // Before the first one there may be others that have the offset.
        if at == 0 && self.recent.front()?.base_offset > offset {
            return None;
        }
        self.recent.get(at).copied()
    }

    /// Takes over index files that hold `indexes` whole, or none. Where they hold the last entry besides that a closed log
    /// has, and nothing else, `indexes` get it.
    pub(crate) fn start_files(&mut self, place: &Place, segment: &Segment, indexes: &mut Indexes) {
        self.files = IndexFiles::default();
        let mut closed = indexes.clone();
        if let Some((timestamp, offset)) = self.largest {
            closed.push_time(timestamp, segment.relative(offset));
        }
        let is_long = |suffix, entries: usize, entry: usize| {
            let file = place.files.open(&place.path(segment.base, suffix));
            file.is_ok_and(|file| file.len() == (entries * entry) as u64)
        };
        if segment
            .read_indexes(place)
            .is_some_and(|found| found.offsets == closed.offsets && found.times == closed.times)
            && is_long(INDEX, closed.offsets.len(), OffsetEntry::LEN)
            && is_long(TIME_INDEX, closed.times.len(), TimeEntry::LEN)
        {
            *indexes = closed;
            self.files =
                IndexFiles { exist: true, written_offsets: indexes.offsets.len(), written_times: indexes.times.len() };
            return;
        }
        if indexes.offsets.is_empty() && indexes.times.is_empty() {
            // Whatever is there is wrong or says nothing.
            for suffix in [INDEX, TIME_INDEX] {
                let _ = place.remove_if_there(&place.path(segment.base, suffix));
            }
            return;
        }
        let holds = |suffix, bytes: Vec<u8>| {
            let Ok(file) = place.files.open(&place.path(segment.base, suffix)) else { return false };
            file.len() >= bytes.len() as u64
                && file.read_at(0, bytes.len()).is_ok_and(|found| found == bytes)
                && file.truncate(bytes.len() as u64).is_ok()
        };
        if holds(INDEX, Indexes::encode_offsets(&indexes.offsets))
            && holds(TIME_INDEX, Indexes::encode_times(&indexes.times))
        {
            self.files =
                IndexFiles { exist: true, written_offsets: indexes.offsets.len(), written_times: indexes.times.len() };
            return;
        }
        for suffix in [INDEX, TIME_INDEX] {
            let _ = place.remove_if_there(&place.path(segment.base, suffix));
        }
        self.write_entries(place, segment, indexes);
    }

    /// Writes entries to the files when enough have gathered.
    pub(crate) fn write_many_entries(&mut self, place: &Place, segment: &Segment, indexes: &Indexes) -> bool {
        indexes.offsets.len().abs_diff(self.files.written_offsets) >= ENTRIES_PER_WRITE
            && self.write_entries(place, segment, indexes)
    }

    /// Writes what the files lack. Returns whether files were made; what fails is tried again the next time.
    pub(crate) fn write_entries(&mut self, place: &Place, segment: &Segment, indexes: &Indexes) -> bool {
        let mut made = false;
        let files = &mut self.files;
        let mut write = || -> io::Result<()> {
            if files.written_offsets > indexes.offsets.len() || files.written_times > indexes.times.len() {
                // The indexes were made anew.
                *files = IndexFiles::default();
            }
            if !files.exist {
                for suffix in [INDEX, TIME_INDEX] {
                    place.create_anew(&place.path(segment.base, suffix))?;
                }
                *files = IndexFiles { exist: true, ..IndexFiles::default() };
                made = true;
            }
            let add = |suffix, written: usize, bytes: Vec<u8>| {
                let file = place.files.open(&place.path(segment.base, suffix))?;
                // A write that was cut short may have left something there.
                file.truncate(written as u64)?;
                if file.len() < written as u64 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.append(&[&bytes])
            };
            let new = &indexes.offsets[files.written_offsets..];
            if !new.is_empty() {
                add(INDEX, files.written_offsets * OffsetEntry::LEN, Indexes::encode_offsets(new))?;
                files.written_offsets = indexes.offsets.len();
            }
            let new = &indexes.times[files.written_times..];
            if !new.is_empty() {
                add(TIME_INDEX, files.written_times * TimeEntry::LEN, Indexes::encode_times(new))?;
                files.written_times = indexes.times.len();
            }
            Ok(())
        };
        if let Err(error) = write() {
            log::debug!("index is not written log={} segment={:020}: {error}", place.dir, segment.base);
            // Whatever is there by now: all is written anew the next time.
            self.files = IndexFiles::default();
        }
        made
    }

    /// Whether the index files are there.
    pub(crate) fn has_files(&self) -> bool {
        self.files.exist
    }

    /// Whether the files hold `indexes` whole.
    pub(crate) fn files_have(&self, indexes: &Indexes) -> bool {
        self.files.exist
            && self.files.written_offsets == indexes.offsets.len()
            && self.files.written_times == indexes.times.len()
    }
}
