//! One partition: an append-only log of record batches in Kafka's own directory layout.
//!
//! A log is a directory of segments, each named by the offset it begins with:
//! ```text
//! 00000000000000000042.log        batches, one behind the other
//! 00000000000000000042.index      last offset of a batch → position, every few kilobytes: 8 bytes an entry
//! 00000000000000000042.timeindex  largest timestamp so far → offset: 12 bytes an entry
//! 00000000000000000042.txnindex   aborted transactions, if there are any: 34 bytes an entry
//! 00000000000000000042.snapshot   what is known of producers just before that offset
//! leader-epoch-checkpoint         which leader wrote from which offset on
//! ```
//! Kafka's tools read it, and a directory that Kafka wrote opens here. Only the batches count: all the rest is made from
//! them when it is missing or wrong.
//!
//! Nothing here waits for a device's sync. A [`SyncPoint`] is what has to be synced so that all that is in the log now stays;
//! a [`Slice`] is what a reader will read; a [`Removal`] is which files to delete. Each is run by whoever has the time, while
//! the log goes on.

mod compaction;
#[cfg(test)]
mod compaction_tests;
mod epochs;
mod error;
mod index;
mod producers;
mod recovery;
mod retention;
mod scan;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

pub use compaction::{Compacted, Compaction, Swap};
pub use epochs::{EpochStart, Epochs};
pub use error::{Damage, LogError};
pub use producers::{AbortedTransaction, Checked, Producer, ProducerError, Producers};
pub use recovery::{Cut, Recovery};
pub use retention::Removal;

use crate::record::{Batch, ControlType, Limits, RecordError, TimestampType};
use crate::storage::{File, OpenFiles, parent};
use crate::{Error, ErrorKind, Result, Timestamp};
use compaction::Compacting;
use index::Indexes;
use producers::Marker;
use scan::{Header, Scan, Step};
use segment::{INDEX, LOG, Located, Place, SNAPSHOT, Segment, TIME_INDEX, TRANSACTION_INDEX, Tail};

/// After this many bytes a snapshot of the producers is written between rolls, so that recovery has less to read.
const SNAPSHOT_INTERVAL_BYTES: u64 = 64 * 1024 * 1024;

/// What a log does by itself; the names and defaults are Kafka's.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment does not grow beyond this.
    pub segment_bytes: u64,
    /// `segment.ms`: nor does it span more time, by the timestamps of its batches.
    pub segment_ms: i64,
    /// `index.interval.bytes`: how far index entries lie apart.
    pub index_interval_bytes: u64,
    /// `segment.index.bytes`: how large an index may become.
    pub segment_index_bytes: u64,
    /// `retention.ms`: how old a segment's youngest record may become; `None` is for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: how large the log may become; `None` is without bound.
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy` has `delete`: the two above count.
    pub deletes: bool,
    /// `cleanup.policy` has `compact`: of each key the last record stays.
    pub compacts: bool,
    /// Whether offsets between two segments may be missing by right, because compaction took them here or at a source. Where
    /// not, a crash has lost them.
    pub skips_offsets: bool,
    /// `delete.retention.ms`: how long a deletion stays readable in a compacted log.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`: how long a record stays even if another one has its key.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: how long a record may stay beside a later one of its key.
    pub max_compaction_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`: which share of the log has to be new before it is compacted, 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// `message.timestamp.type`: whose clock counts.
    pub timestamp_type: TimestampType,
    /// `producer.id.expiration.ms`: when a producer that writes nothing is forgotten.
    pub producer_expiration_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1024 * 1024 * 1024,
            segment_ms: 7 * DAY_MS,
            index_interval_bytes: 4096,
            segment_index_bytes: 10 * 1024 * 1024,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            deletes: true,
            compacts: false,
            skips_offsets: true,
            delete_retention_ms: DAY_MS,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ratio: 0.5,
            timestamp_type: TimestampType::CreateTime,
            producer_expiration_ms: DAY_MS,
        }
    }
}

/// What somebody else remembers of a log: Kafka keeps it for all logs together, in the root's checkpoint files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoints {
    /// The log start offset, if it was raised above the first segment's.
    pub start: i64,
    /// Below this all was synced and is believed; from there on checksums are verified. `i64::MAX` after a clean close,
    /// 0 when nothing is known.
    pub recovery_point: i64,
}

impl Checkpoints {
    /// After a [`Log::close`] whose sync succeeded.
    pub const CLEAN: Self = Self { start: 0, recovery_point: i64::MAX };
}

/// A partition's log. It has one owner, which calls it one call at a time.
#[derive(Debug)]
pub struct Log {
    place: Place,
    config: LogConfig,
    /// Never empty, in order; the last one grows.
    segments: Vec<Segment>,
    tail: Tail,
    start: i64,
    end: i64,
    epochs: Epochs,
    producers: Producers,
    /// Offsets of the snapshots on the device, in order.
    snapshots: Vec<i64>,
    bytes_since_snapshot: u64,
    unsynced: Arc<Unsynced>,
    /// Whether the file of epochs is another than `epochs`, because there was no room to take a change back.
    has_stale_epochs: bool,
    /// Base offsets of segments whose transaction index could not be written.
    aborted_behind: Vec<i64>,
    compacting: Compacting,
    /// Headers of the batches of one append, kept for their room.
    headers: Vec<Header>,
    /// The active segment and its size as a log that had been closed well was opened.
    opened: Option<(i64, u64)>,
}

/// Where batches went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first batch's base offset.
    pub base_offset: i64,
    /// The log end offset behind the last one.
    pub end: i64,
    /// The timestamp that all records got, when the topic says so.
    pub log_append_time: Option<Timestamp>,
}

impl Log {
    /// Opens the log in `dir` (`orders-0`), or makes it.
    ///
    /// Whatever a crash left becomes a valid log: [`Recovery`] says what was done. Opening it again does the same.
    pub fn open(
        files: &Arc<OpenFiles>,
        dir: &str,
        config: LogConfig,
        checkpoints: Checkpoints,
        now: Timestamp,
    ) -> Result<(Self, Recovery)> {
        let place = Place {
            device: Arc::clone(files.device()),
            files: Arc::clone(files),
            dir: Arc::from(dir),
            index_interval_bytes: config.index_interval_bytes,
        };
        Ok(recovery::open(place, config, checkpoints, now)?)
    }

    /// The directory.
    pub fn dir(&self) -> &str {
        &self.place.dir
    }

    /// The log start offset: the first that is there.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// The log end offset: the one that the next record gets.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Which leader wrote from which offset on.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Who wrote.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// What it does by itself.
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Takes other options from now on; what is written stays as it is.
    pub fn update_config(&mut self, config: LogConfig) {
        self.place.index_interval_bytes = config.index_interval_bytes;
        self.config = config;
    }

    /// The size of all segments in bytes, without indexes.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Base offset and size in bytes of each segment, in order.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = (i64, u64)> {
        self.segments.iter().map(|segment| (segment.base, segment.size))
    }

    /// Where who reads committed data stops: the first offset of an open transaction, or the high watermark.
    pub fn last_stable_offset(&self, high_watermark: i64) -> i64 {
        let first = self.producers.first_unstable_offset(high_watermark);
        first.map_or(high_watermark, |first| first.max(self.start).min(high_watermark))
    }

    /// The aborted transactions that reach into `from..upto`, ordered by their end.
    pub fn aborted(&self, from: i64, upto: i64) -> Vec<AbortedTransaction> {
        let mut aborted = Vec::new();
        for segment in &self.segments[self.segment_at(from)..] {
            for transaction in &segment.aborted {
                if transaction.last_offset >= from && transaction.first_offset < upto {
                    aborted.push(*transaction);
                }
                if transaction.last_stable_offset >= upto {
                    return aborted;
                }
            }
        }
        aborted
    }

    /// Appends batches of a leader's clients at the end, with fresh offsets and the leader's epoch. The batches have been
    /// checked ([`Batch::check_records`], [`Producers::check`]).
    ///
    /// After an error the log is as it was; it takes writes again once there is room, unless the error is
    /// [`ErrorKind::Closed`].
    pub fn append(&mut self, batches: &[Batch], leader_epoch: i32, now: Timestamp) -> Result<Appended> {
        self.check_open()?;
        let stamped: Vec<Batch>;
        let (batches, log_append_time) = match self.config.timestamp_type {
            TimestampType::CreateTime => (batches, None),
            TimestampType::LogAppendTime => {
                stamped = batches.iter().map(|batch| batch.with_log_append_time(now)).collect();
                (&stamped[..], Some(now))
            }
        };
        let base_offset = self.end;
        let mut next_offset = self.end;
        if let Some(latest_epoch) = self.epochs.latest().filter(|latest| leader_epoch < *latest) {
            let (log, end) = (self.place.dir.to_string(), self.end);
            return Err(LogError::GoesBack { log, base_offset, leader_epoch, end, latest_epoch }.into());
        }
        self.headers.clear();
        for batch in batches {
            let size = batch.size();
            if size as u64 > self.config.segment_bytes {
                let segment_bytes = self.config.segment_bytes;
                return Err(LogError::TooLarge { log: self.place.dir.to_string(), size, segment_bytes }.into());
            }
            let delta = i64::from(batch.last_offset_delta()) + 1;
            let after = next_offset.checked_add(delta).filter(|after| *after < i64::MAX);
            let Some(after) = after else { return Err(self.out_of_range(next_offset).into()) };
            self.headers.push(Header::of(batch, next_offset, leader_epoch));
            next_offset = after;
        }
        if !batches.is_empty() {
            self.note_epoch(leader_epoch, self.end)?;
        }
        self.write(batches)?;
        Ok(Appended { base_offset, end: self.end, log_append_time })
    }

    /// Appends batches of another log as they are. Offsets and leader epochs may jump ahead, never back; checksums are
    /// verified. After an error the log is as it was.
    pub fn append_copy(&mut self, batches: &[Batch], _now: Timestamp) -> Result<()> {
        self.check_open()?;
        let mut next_offset = self.end;
        let mut latest_epoch = self.epochs.latest().unwrap_or(-1);
        self.headers.clear();
        for batch in batches {
            batch.check_crc().map_err(|error| self.bad_batch(&error))?;
            let (base_offset, leader_epoch) = (batch.base_offset(), batch.partition_leader_epoch());
            if base_offset < next_offset || (leader_epoch >= 0 && leader_epoch < latest_epoch) {
                let (log, end) = (self.place.dir.to_string(), next_offset);
                return Err(LogError::GoesBack { log, base_offset, leader_epoch, end, latest_epoch }.into());
            }
            self.headers.push(Header::of(batch, base_offset, leader_epoch));
            next_offset = batch.next_offset();
            latest_epoch = latest_epoch.max(leader_epoch);
        }
        // In one go and before the data, so that no batch is ever there whose epoch is not.
        let before = self.epochs.clone();
        let mut epochs = before.clone();
        let changes =
            self.headers.iter().filter(|header| epochs.assign(header.leader_epoch, header.base_offset)).count();
        if changes > 0 || self.has_stale_epochs {
            self.write_epochs(epochs)?;
        }
        if let Err(error) = self.write(batches) {
            if changes > 0 && self.write_epochs(before.clone()).is_err() {
                // No room for that either. The file tells of an epoch that begins where the log ends, as after a crash between the
                // two; it is written anew before the next batch.
                self.epochs = before;
                self.has_stale_epochs = true;
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// Notes that a leader begins with this epoch at the log end. Synced when it returns.
    pub fn assign_epoch(&mut self, epoch: i32) -> Result<()> {
        self.check_open()?;
        self.note_epoch(epoch, self.end)?;
        Ok(self.replace_epochs(self.epochs.clone())?)
    }

    /// What a reader gets from `offset` on: up to `max_bytes`, and one whole batch at least if `at_least_one`; nothing at
    /// or behind `upto`, which is a batch's first offset, or the end. The last batch may be cut short.
    ///
    /// It begins with the batch that holds `offset`, or the first one above it. Reads no records.
    pub fn read(&self, offset: i64, max_bytes: usize, upto: i64, at_least_one: bool) -> Result<Slice> {
        if offset < self.start || offset > self.end {
            return Err(self.out_of_range(offset).into());
        }
        let upto = upto.min(self.end);
        let mut at = self.segment_at(offset);
        while offset < upto && at < self.segments.len() {
            let segment = &self.segments[at];
            let Some(first) = self.locate_in(at, offset)? else {
                // The offset lies in a gap at the segment's end.
                at += 1;
                continue;
            };
            if first.base_offset >= upto {
                break;
            }
            let next_base = self.segments.get(at + 1).map_or(self.end, |next| next.base);
            let end = if upto >= next_base {
                segment.size
            } else {
                self.locate_in(at, upto)?.map_or(segment.size, |stop| stop.position)
            };
            if end <= first.position {
                break;
            }
            let limit = if at_least_one { max_bytes.max(first.size as usize) } else { max_bytes };
            let all = usize::try_from(end - first.position).unwrap_or(usize::MAX);
            let len = all.min(limit);
            if len == 0 {
                break;
            }
            return Ok(Slice {
                file: Some(segment.file(&self.place)?),
                place: Some((Arc::clone(&self.place.dir), segment.base)),
                position: first.position,
                len,
                first_offset: first.base_offset,
                upto: upto.min(next_base),
                is_cut: len < all,
            });
        }
        Ok(Slice::empty())
    }

    /// The first record at or above the log start whose timestamp is `timestamp` or later: its timestamp and offset. `None`
    /// when there is none below `upto`.
    pub fn offset_for_time(&self, timestamp: Timestamp, upto: i64) -> Result<Option<(Timestamp, i64)>> {
        let first = self.segment_at(self.start);
        for at in first..self.segments.len() {
            let Some((largest, _)) = self.largest_in(at)? else { continue };
            if largest < timestamp {
                continue;
            }
            let found = self.record_in(at, |header| header.max_timestamp >= timestamp, timestamp)?;
            if let Some((timestamp, offset)) = found {
                return Ok((offset < upto).then_some((timestamp, offset)));
            }
        }
        Ok(None)
    }

    /// The record with the largest timestamp, the first of them if there are many: its timestamp and offset. `None` when no
    /// record has one.
    pub fn max_timestamp(&self) -> Result<Option<(Timestamp, i64)>> {
        let mut found: Option<(usize, Timestamp)> = None;
        for at in self.segment_at(self.start)..self.segments.len() {
            if let Some((largest, _)) = self.largest_in(at)?
                && found.is_none_or(|(_, before)| largest > before)
            {
                found = Some((at, largest));
            }
        }
        let Some((at, largest)) = found else { return Ok(None) };
        self.record_in(at, |header| header.max_timestamp >= largest, largest)
    }

    /// Cuts everything from the batch that holds `to` on, or from the first one above it. Whole batches stay, so the end is
    /// `to` or below. An offset below the first segment empties the log and starts it there.
    pub fn truncate(&mut self, to: i64) -> Result<()> {
        self.check_open()?;
        if to >= self.end {
            // There is nothing to cut, but perhaps an epoch that begins there and of which no batch has come.
            let mut epochs = self.epochs.clone();
            if to == self.end && epochs.truncate_from_end(to) {
                self.replace_epochs(epochs)?;
            }
            return Ok(());
        }
        if to < self.segments[0].base {
            return self.reset(to);
        }
        let at = self.segment_at(to);
        let boundary = self.locate_in(at, to)?;
        self.abandon_swap()?;
        // From here on the way back is to open the log anew.
        let cut = self.truncate_to(at, boundary).and_then(|()| {
            let mut epochs = self.epochs.clone();
            if epochs.truncate_from_end(self.end) { self.replace_epochs(epochs) } else { Ok(()) }
        });
        if cut.is_err() {
            self.unsynced.close("truncation");
        }
        Ok(cut?)
    }

    /// Drops everything: the log starts and ends at `start`.
    pub fn reset(&mut self, start: i64) -> Result<()> {
        self.check_open()?;
        if start < 0 {
            return Err(self.out_of_range(start).into());
        }
        let reset = self.reset_to(start);
        if reset.is_err() {
            self.unsynced.close("reset");
        }
        Ok(reset?)
    }

    /// Raises the log start offset (DeleteRecords). What lies below is out of reach at once; its segments go with the next
    /// [`Self::retain`]. Whoever keeps the [`Checkpoints`] stores it.
    pub fn set_start(&mut self, offset: i64) -> Result<()> {
        if offset > self.end {
            return Err(self.out_of_range(offset).into());
        }
        if offset > self.start {
            let mut epochs = self.epochs.clone();
            if epochs.truncate_from_start(offset) {
                self.write_epochs(epochs)?;
            }
            self.start = offset;
        }
        Ok(())
    }

    /// What has to be synced so that everything below [`Self::end`] survives a power cut.
    pub fn sync_point(&self) -> SyncPoint {
        let active = self.active();
        let file = active.file(&self.place).ok();
        let state = self.unsynced.lock();
        SyncPoint {
            end: self.end,
            active: Some((self.place.path(active.base, LOG), file)),
            files: state.files.iter().map(|(path, change)| (path.clone(), *change)).collect(),
            name_changes: state.name_changes,
            syncs_names: state.name_changes > state.synced_name_changes,
            syncs_parent: !state.parent_is_synced,
            place: self.place.clone(),
            unsynced: Arc::clone(&self.unsynced),
        }
    }

    /// Writes what is kept back (index entries, a snapshot of the producers) and takes no more writes. Once the sync point
    /// has run, the log may be opened as [`Checkpoints::CLEAN`].
    pub fn close(&mut self) -> SyncPoint {
        let is_untouched = self.is_untouched();
        if self.check_open().is_ok() {
            self.finish_indexes();
            self.take_snapshot();
        }
        let point = if is_untouched {
            SyncPoint { active: None, syncs_names: false, syncs_parent: false, ..self.sync_point() }
        } else {
            self.note_index_files();
            self.sync_point()
        };
        self.unsynced.close("close");
        point
    }

    /// Whether it was closed well before it was opened, and is as it was then: nothing has to be written or synced.
    fn is_untouched(&self) -> bool {
        let active = self.active();
        let Ok(indexes) = active.indexes(&self.place) else { return false };
        let has_last_time = self.tail.largest.is_none_or(|(timestamp, _)| {
            timestamp < 0 || indexes.times.last().is_some_and(|last| last.timestamp >= timestamp)
        });
        self.opened == Some((active.base, active.size))
            && self.unsynced.is_as_opened()
            && self.snapshots.last() == Some(&self.end)
            && (active.size == 0 || (has_last_time && self.tail.files_have(&indexes)))
    }

    fn check_open(&self) -> Result<(), LogError> {
        match self.unsynced.closed_after() {
            None => Ok(()),
            Some(after) => Err(LogError::Closed { after, log: self.place.dir.to_string() }),
        }
    }

    fn out_of_range(&self, offset: i64) -> LogError {
        LogError::OutOfRange { log: self.place.dir.to_string(), offset, start: self.start, end: self.end }
    }

    fn bad_batch(&self, error: &RecordError) -> Error {
        Error::new(ErrorKind::Corrupt, format!("batch cannot be used log={}: {error}", self.place.dir))
    }

    fn active(&self) -> &Segment {
        self.segments.last().expect("a log has a segment")
    }

    /// Which segment an offset belongs to: the last one that begins at or below it, else the first.
    fn segment_at(&self, offset: i64) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }

    fn locate_in(&self, at: usize, offset: i64) -> Result<Option<Located>, LogError> {
        if at + 1 == self.segments.len()
            && let Some(located) = self.tail.locate(offset)
        {
            return Ok(Some(located));
        }
        self.segments[at].locate(&self.place, offset)
    }

    fn largest_in(&self, at: usize) -> Result<Option<(Timestamp, i64)>, LogError> {
        if at + 1 == self.segments.len() { Ok(self.tail.largest) } else { self.segments[at].largest(&self.place) }
    }

    /// The first record of a segment with a timestamp from `timestamp` on, in the first batch that `may_have` it.
    fn record_in(
        &self,
        at: usize,
        may_have: impl Fn(&Header) -> bool,
        timestamp: Timestamp,
    ) -> Result<Option<(Timestamp, i64)>> {
        let reading = || self.place.failed("reading a segment");
        let segment = &self.segments[at];
        let entry = segment.indexes(&self.place)?.before_time(timestamp);
        // An entry says that nothing up to its offset is later; its batch may be the first that is.
        let mut from = self.start;
        if let Some(entry) = entry {
            let offset = segment.base + i64::from(entry.relative);
            if segment.time_agrees(&self.place, entry.timestamp, offset)? {
                from = from.max(offset);
            }
        }
        let Some(first) = segment.locate(&self.place, from)? else { return Ok(None) };
        let file = segment.file(&self.place)?;
        let mut scan = Scan::with_window(&*file, first.position, segment.size, 8 * 1024);
        let limit = self.segments.get(at + 1).map_or(self.end, |next| next.base);
        let mut next_offset = first.base_offset;
        // Here offsets and timestamps are believed, so both are checked: the offset by the batch that follows.
        let mut found = None;
        let (position, reason) = loop {
            match scan.next(true).map_err(reading())? {
                Step::Batch(position, header) => {
                    if header.base_offset < next_offset || header.next_offset() > limit {
                        break (position, Damage::OffsetGoesBack);
                    }
                    if found.is_some() {
                        return Ok(found);
                    }
                    next_offset = header.next_offset();
                    if may_have(&header) {
                        let bytes = segment.bytes(&self.place, position, header.size)?;
                        let batch = Batch::single(bytes).map_err(|error| self.bad_batch(&error))?;
                        found = self.record_at_time(&batch, timestamp)?;
                    }
                }
                Step::End => return Ok(found),
                Step::Damaged(..) if found.is_some() => return Ok(found),
                Step::Damaged(position, reason) => break (position, reason),
            }
        };
        Err(self.place.damaged(segment.base, position, reason).into())
    }

    /// The first record of a batch with a timestamp from `timestamp` on, at or above the log start.
    fn record_at_time(&self, batch: &Batch, timestamp: Timestamp) -> Result<Option<(Timestamp, i64)>> {
        let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES).map_err(|error| self.bad_batch(&error))?;
        for record in records.iter() {
            let record = record.map_err(|error| self.bad_batch(&error))?;
            if record.timestamp >= timestamp && record.offset >= self.start {
                return Ok(Some((record.timestamp, record.offset)));
            }
        }
        Ok(None)
    }

    /// Writes the batches whose headers are in `self.headers`.
    fn write(&mut self, batches: &[Batch]) -> Result<(), LogError> {
        let headers = std::mem::take(&mut self.headers);
        let start = self.end;
        let mut written = 0;
        let mut result = Ok(());
        while written < batches.len() {
            let count = self.write_group(&batches[written..], &headers[written..]);
            match count {
                Ok(count) => written += count,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.headers = headers;
        if result.is_err() && written > 0 {
            // All or nothing.
            let at = self.segment_at(start);
            let undone = self.locate_in(at, start).and_then(|boundary| self.truncate_to(at, boundary));
            if undone.is_err() {
                self.unsynced.close("write that could not be undone");
            }
        }
        result
    }

    /// Writes as many batches as go into one segment, in one write; a new segment if the first one goes into no other.
    fn write_group(&mut self, batches: &[Batch], headers: &[Header]) -> Result<usize, LogError> {
        if self.must_roll(&headers[0], self.active().size) {
            self.roll(headers[0].base_offset)?;
        }
        let position = self.active().size;
        let mut end = position + u64::from(headers[0].size);
        let mut count = 1;
        while count < batches.len() && !self.must_roll(&headers[count], end) {
            end += u64::from(headers[count].size);
            count += 1;
        }
        let file = self.active().file(&self.place)?;
        if file.len() != position {
            // An append that failed may have left something behind the end; nothing can have taken something away.
            file.truncate(position).map_err(self.place.failed("writing to a segment"))?;
            if file.len() != position {
                return Err(self.place.damaged(self.active().base, file.len(), Damage::CutShort));
            }
        }
        let writing = self.place.failed("writing to a segment");
        let stamp = |at: usize| batches[at].stamp(headers[at].base_offset, headers[at].leader_epoch);
        let rest = |at: usize| &batches[at].as_bytes()[16..];
        if count == 1 {
            file.append(&[&stamp(0), rest(0)]).map_err(writing)?;
        } else {
            let stamps: Vec<[u8; 16]> = (0..count).map(stamp).collect();
            let parts: Vec<&[u8]> = (0..count).flat_map(|at| [&stamps[at][..], rest(at)]).collect();
            file.append(&parts).map_err(writing)?;
        }
        let mut position = position;
        for (batch, header) in batches[..count].iter().zip(headers) {
            let marker = if header.is_control() { marker(batch) } else { None };
            self.note(position, header, marker);
            position += u64::from(header.size);
        }
        Ok(count)
    }

    /// Takes into account a batch that is in the active segment now.
    fn note(&mut self, position: u64, header: &Header, marker: Option<Marker>) {
        let interval = self.place.index_interval_bytes;
        let segment = self.segments.last_mut().expect("a log has a segment");
        let base = segment.base;
        segment.size = position + u64::from(header.size);
        self.tail.note(base, position, header, segment.indexes_mut(), interval);
        self.end = header.next_offset();
        self.bytes_since_snapshot += u64::from(header.size);
        if let Some(aborted) = note_producer(&mut self.producers, header, marker) {
            segment.aborted.push(aborted);
            self.write_aborted(base);
        }
        let segment = self.segments.last().expect("a log has a segment");
        if let Ok(indexes) = segment.indexes(&self.place)
            && self.tail.write_many_entries(&self.place, segment, &indexes)
        {
            self.unsynced.add_name();
        }
        if self.bytes_since_snapshot >= SNAPSHOT_INTERVAL_BYTES {
            self.take_snapshot();
        }
    }

    /// Adds the active segment's latest aborted transaction to its file.
    fn write_aborted(&mut self, base: i64) {
        let Some((aborted, before)) = self.active().aborted.split_last() else { return };
        let bytes = aborted.to_bytes();
        let before = before.len() as u64 * AbortedTransaction::LEN as u64;
        let path = self.place.path(base, TRANSACTION_INDEX);
        let file = if before == 0 {
            self.unsynced.add_name();
            self.place.create_anew(&path)
        } else {
            self.place.files.open(&path)
        };
        match file.and_then(|file| file.append(&[&bytes]).map(|()| file)) {
            Ok(file) if file.len() == before + bytes.len() as u64 => self.unsynced.add_file(path),
            written => {
                if let Err(error) = written {
                    log::warn!("transaction index is not written log={} segment={base:020}: {error}", self.place.dir);
                }
                self.aborted_behind.push(base);
            }
        }
    }

    /// Writes the transaction indexes that could not be written. Returns whether all are.
    fn catch_up_aborted(&mut self) -> bool {
        let (segments, place, unsynced) = (&self.segments, &self.place, &self.unsynced);
        self.aborted_behind.retain(|base| {
            let Ok(at) = segments.binary_search_by_key(base, |segment| segment.base) else { return false };
            unsynced.add_name();
            segments[at].write_aborted(place).is_err()
        });
        self.aborted_behind.is_empty()
    }

    fn must_roll(&self, header: &Header, size: u64) -> bool {
        let active = self.active();
        if !active.takes_offset(header.last_offset()) {
            return true;
        }
        if size == 0 {
            return false;
        }
        let age = match self.tail.first_timestamp {
            Some(first) if first >= 0 && header.max_timestamp >= 0 => header.max_timestamp.saturating_sub(first),
            _ => 0,
        };
        let entries = active.indexes(&self.place).map_or(0, |indexes| indexes.offsets.len().max(indexes.times.len()));
        let index_limit = self.config.segment_index_bytes.min(i32::MAX as u64) / index::TimeEntry::LEN as u64;
        size + u64::from(header.size) > self.config.segment_bytes.min(i32::MAX as u64)
            || age > self.config.segment_ms
            || entries as u64 >= index_limit.max(1)
    }

    /// Closes the active segment and begins another one at `base`.
    fn roll(&mut self, base: i64) -> Result<(), LogError> {
        let base = base.max(self.end);
        if base == self.active().base {
            return Ok(());
        }
        let rolling = || self.place.failed("making a segment");
        let file = self.place.create_anew(&self.place.path(base, LOG)).map_err(rolling())?;
        self.unsynced.add_name();
        if self.active().size == 0 {
            // It holds nothing and could not take the next offset.
            let empty = self.active().base;
            self.push_segment(base, file);
            let at = self.segments.len() - 2;
            self.segments.remove(at);
            self.start = self.start.max(self.segments[0].base);
            for suffix in [LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX] {
                let _ = self.place.remove_if_there(&self.place.path(empty, suffix));
            }
            return Ok(());
        }
        self.finish_indexes();
        self.unsynced.add_file(self.place.path(self.active().base, LOG));
        self.note_index_files();
        let active = self.segments.last_mut().expect("a log has a segment");
        active.is_active = false;
        active.set_largest(self.tail.largest);
        if let Ok(indexes) = active.indexes(&self.place)
            && self.tail.files_have(&indexes)
        {
            active.unload();
        }
        self.push_segment(base, file);
        self.take_snapshot();
        Ok(())
    }

    /// The active segment's index files have to be synced, if they are there.
    fn note_index_files(&self) {
        if self.tail.has_files() {
            for suffix in [INDEX, TIME_INDEX] {
                self.unsynced.add_file(self.place.path(self.active().base, suffix));
            }
        }
    }

    fn push_segment(&mut self, base: i64, file: Arc<dyn File>) {
        let mut segment = Segment::created(base, &self.place, file);
        segment.is_active = true;
        self.tail = Tail::default();
        self.segments.push(segment);
    }

    /// Puts the whole index of the active segment into its files, with the last entry that a closed segment has.
    fn finish_indexes(&mut self) {
        let largest = self.tail.largest;
        let segment = self.segments.last_mut().expect("a log has a segment");
        if segment.size == 0 {
            return;
        }
        if let Some((timestamp, offset)) = largest {
            let relative = segment.relative(offset);
            segment.indexes_mut().push_time(timestamp, relative);
        }
        let Ok(indexes) = segment.indexes(&self.place) else { return };
        if self.tail.write_entries(&self.place, segment, &indexes) {
            self.unsynced.add_name();
        }
    }

    /// Writes down what is known of producers at the end. It only saves reading, so it may fail.
    fn take_snapshot(&mut self) {
        self.bytes_since_snapshot = 0;
        // Recovery believes that what lies below a snapshot has been written.
        if self.snapshots.last() == Some(&self.end) || !self.catch_up_aborted() {
            return;
        }
        let path = self.place.path(self.end, SNAPSHOT);
        let written = self.place.create_anew(&path).and_then(|file| file.append(&[&self.producers.to_snapshot()]));
        match written {
            Ok(()) => {
                self.unsynced.add_file(path);
                self.unsynced.add_name();
                self.snapshots.push(self.end);
                self.remove_superseded_snapshots();
            }
            Err(error) => {
                log::debug!("snapshot is not written log={} offset={}: {error}", self.place.dir, self.end);
                let _ = self.place.remove_if_there(&path);
            }
        }
    }

    /// Keeps those at the beginnings of segments, and the last two of the others.
    fn remove_superseded_snapshots(&mut self) {
        let is_base = |offset: &i64| self.segments.binary_search_by_key(offset, |segment| segment.base).is_ok();
        let others: Vec<i64> = self.snapshots.iter().filter(|offset| !is_base(offset)).copied().collect();
        for offset in &others[..others.len().saturating_sub(2)] {
            let _ = self.place.remove_if_there(&self.place.path(*offset, SNAPSHOT));
            self.snapshots.retain(|snapshot| snapshot != offset);
        }
    }

    fn note_epoch(&mut self, epoch: i32, start: i64) -> Result<(), LogError> {
        if epoch < 0 || (self.epochs.latest().is_some_and(|latest| epoch <= latest) && !self.has_stale_epochs) {
            return Ok(());
        }
        let mut epochs = self.epochs.clone();
        epochs.assign(epoch, start);
        self.write_epochs(epochs)
    }

    /// Stores another history and goes by it; it is synced with the next sync point. Until then a power cut may leave the
    /// one before, or none, and then recovery reads it off the batches.
    fn write_epochs(&mut self, epochs: Epochs) -> Result<(), LogError> {
        let place = &self.place;
        let path = place.in_dir(Epochs::FILE);
        let temporary = format!("{path}.tmp");
        let written = place
            .create_anew(&temporary)
            .and_then(|file| file.append(&[epochs.to_text().as_bytes()]))
            .and_then(|()| place.device.rename(&temporary, &path));
        if let Err(error) = written {
            // What stays is removed at the next open.
            let _ = place.remove_if_there(&temporary);
            return Err(place.failed("writing the leader epochs")(error));
        }
        self.unsynced.add_file(path);
        self.unsynced.add_name();
        self.epochs = epochs;
        self.has_stale_epochs = false;
        Ok(())
    }

    /// Stores another history, synced, and then goes by it.
    fn replace_epochs(&mut self, epochs: Epochs) -> Result<(), LogError> {
        let path = self.place.in_dir(Epochs::FILE);
        let failed = self.place.failed("writing the leader epochs");
        self.place.device.replace(&path, epochs.to_text().as_bytes()).map_err(failed)?;
        self.epochs = epochs;
        self.has_stale_epochs = false;
        Ok(())
    }

    /// Cuts segment `at` before `boundary`, or not at all, and removes those behind it.
    fn truncate_to(&mut self, at: usize, boundary: Option<Located>) -> Result<(), LogError> {
        let place = self.place.clone();
        let truncating = || place.failed("truncating");
        let before = self.segments.len();
        // The last first, so that whatever a crash leaves has no hole.
        while self.segments.len() > at + 1 {
            let base = self.active().base;
            for suffix in [LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX] {
                place.remove_if_there(&place.path(base, suffix)).map_err(truncating())?;
            }
            self.segments.pop();
        }
        let was_shortened = self.segments.len() < before;
        let segment = self.segments.last_mut().expect("the segment at `at`");
        if was_shortened {
            segment.reopen();
        }
        let indexes = segment.indexes(&place)?;
        segment.set_indexes(Indexes::clone(&indexes));
        let mut lost_aborted = false;
        if let Some(boundary) = boundary {
            segment.size = boundary.position;
            let relative = boundary.base_offset - segment.base;
            segment.indexes_mut().truncate(boundary.position, relative);
            let known = segment.aborted.len();
            segment.aborted.retain(|aborted| aborted.last_offset < boundary.base_offset);
            lost_aborted = segment.aborted.len() < known;
        }
        self.load_tail()?;
        // What was known of what is cut must not come back, either.
        let kept = self.snapshots.partition_point(|offset| *offset <= self.end);
        for offset in self.snapshots.split_off(kept) {
            place.remove_if_there(&place.path(offset, SNAPSHOT)).map_err(truncating())?;
        }
        place.device.sync_dir(&place.dir).map_err(truncating())?;
        let segment = self.segments.last().expect("a log has a segment");
        if let Some(boundary) = boundary {
            segment.file(&place)?.truncate(boundary.position).map_err(truncating())?;
        }
        if lost_aborted {
            segment.write_aborted(&place).map_err(truncating())?;
        }
        self.unsynced.add_name();
        self.start = self.start.min(self.end);
        self.limit_compacted();
        self.reload_producers()
    }

    fn reset_to(&mut self, start: i64) -> Result<(), LogError> {
        let place = self.place.clone();
        let resetting = || place.failed("starting the log anew");
        self.abandon_swap()?;
        while let Some(segment) = self.segments.last() {
            for suffix in [LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX] {
                place.remove_if_there(&place.path(segment.base, suffix)).map_err(resetting())?;
            }
            if self.segments.len() == 1 {
                break;
            }
            self.segments.pop();
        }
        for offset in self.snapshots.drain(..) {
            place.remove_if_there(&place.path(offset, SNAPSHOT)).map_err(resetting())?;
        }
        place.device.sync_dir(&place.dir).map_err(resetting())?;
        if !self.epochs.entries().is_empty() {
            self.replace_epochs(Epochs::default())?;
        }
        let file = place.device.create(&place.path(start, LOG)).map_err(resetting())?;
        self.unsynced.add_name();
        self.segments.clear();
        self.push_segment(start, file);
        self.producers.clear();
        self.start = start;
        self.end = start;
        self.limit_compacted();
        self.bytes_since_snapshot = 0;
        Ok(())
    }

    /// Finds the end of the active segment, from its last index entry on.
    fn load_tail(&mut self) -> Result<(), LogError> {
        let place = &self.place;
        let interval = self.place.index_interval_bytes;
        let segment = self.segments.last_mut().expect("a log has a segment");
        segment.is_active = true;
        let mut indexes = Indexes::clone(&*segment.indexes(place)?);
        let mut tail = Tail::default();
        let mut position = 0;
        if let Some(entry) = indexes.offsets.last() {
            let header = segment.header(place, entry.position.into())?;
            let agrees = header.is_some_and(|header| segment.relative(header.last_offset()) == entry.relative);
            let time = indexes.times.last().map(|entry| (entry.timestamp, segment.base + i64::from(entry.relative)));
            let time_agrees = match time {
                Some((timestamp, offset)) => segment.time_agrees(place, timestamp, offset)?,
                None => true,
            };
            if !agrees || !time_agrees {
                indexes = Indexes::clone(&*segment.rebuild_indexes(place)?);
            }
            if let Some(entry) = indexes.offsets.last() {
                position = u64::from(entry.position);
                let time = indexes.times.last();
                tail.largest = time.map(|entry| (entry.timestamp, segment.base + i64::from(entry.relative)));
                tail.first_timestamp = segment.header(place, 0)?.map(|header| header.max_timestamp);
            }
        } else {
            indexes.times.clear();
        }
        let file = segment.file(place)?;
        let mut scan = Scan::new(&*file, position, segment.size);
        let mut end = segment.base;
        loop {
            match scan.next(false).map_err(place.failed("reading a segment"))? {
                Step::Batch(position, header) => {
                    if header.base_offset < end || !segment.takes_offset(header.last_offset()) {
                        return Err(place.damaged(segment.base, position, Damage::OffsetGoesBack));
                    }
                    end = header.next_offset();
                    tail.note(segment.base, position, &header, &mut indexes, interval);
                }
                Step::End => break,
                Step::Damaged(position, reason) => return Err(place.damaged(segment.base, position, reason)),
            }
        }
        tail.start_files(place, segment, &mut indexes);
        segment.set_indexes(indexes);
        self.tail = tail;
        self.end = end;
        Ok(())
    }

    /// Finds out anew who wrote, from the latest snapshot on.
    fn reload_producers(&mut self) -> Result<(), LogError> {
        let from = self.load_snapshot(self.end, Timestamp::MIN);
        let mut next_offset = from;
        for at in self.segment_at(from)..self.segments.len() {
            let segment = &self.segments[at];
            let Some(first) = segment.locate(&self.place, next_offset.max(segment.base))? else { continue };
            let file = segment.file(&self.place)?;
            let mut scan = Scan::new(&*file, first.position, segment.size);
            loop {
                match scan.next(false).map_err(self.place.failed("reading a segment"))? {
                    Step::Batch(position, header) => {
                        next_offset = header.next_offset();
                        let marker = self.marker_at(at, position, &header)?;
                        // The aborted ones are known already.
                        note_producer(&mut self.producers, &header, marker);
                    }
                    Step::End => break,
                    Step::Damaged(..) => {
                        if scan.resync(next_offset..i64::MAX).map_err(self.place.failed("reading a segment"))?.is_none()
                        {
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the latest snapshot at or below `upto` that is whole. Returns from which offset on batches have to be added.
    fn load_snapshot(&mut self, upto: i64, now: Timestamp) -> i64 {
        let first = self.segments[0].base;
        for offset in self.snapshots.iter().rev().filter(|offset| **offset <= upto && **offset >= first) {
            let expiration_ms = self.config.producer_expiration_ms;
            let snapshot = self.place.device.read(&self.place.path(*offset, SNAPSHOT));
            if let Ok(bytes) = snapshot
                && let Some(producers) = Producers::from_snapshot(&bytes, now, expiration_ms)
            {
                self.producers = producers;
                return *offset;
            }
        }
        self.producers.clear();
        first
    }

    /// What a control batch says, when it ends a transaction.
    fn marker_at(&self, at: usize, position: u64, header: &Header) -> Result<Option<Marker>, LogError> {
        if !header.is_control() || header.producer_id < 0 {
            return Ok(None);
        }
        let bytes = self.segments[at].bytes(&self.place, position, header.size)?;
        Ok(Batch::single(bytes).ok().as_ref().and_then(marker))
    }
}

/// What a control batch says, when it ends a transaction.
fn marker(batch: &Batch) -> Option<Marker> {
    let end = batch.end_transaction().ok()?;
    Some(Marker { is_commit: end.control_type == ControlType::Commit, coordinator_epoch: end.coordinator_epoch })
}

fn note_producer(producers: &mut Producers, header: &Header, marker: Option<Marker>) -> Option<AbortedTransaction> {
    let produced = header.produced()?;
    match marker {
        Some(marker) => producers.complete(&produced, marker),
        // A control batch of another kind is nobody's data.
        None if header.is_control() => None,
        None => {
            producers.append(&produced);
            None
        }
    }
}

/// A piece of a segment to be read later, off the log. It stays valid when the segment is deleted.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// `None` when there is nothing to read.
    file: Option<Arc<dyn File>>,
    place: Option<(Arc<str>, i64)>,
    position: u64,
    len: usize,
    first_offset: i64,
    upto: i64,
    is_cut: bool,
}

impl Slice {
    /// Nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// How many bytes will be read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The base offset of the first batch, which may lie below the offset that was asked for.
    pub fn first_offset(&self) -> i64 {
        self.first_offset
    }

    /// No batch at or above this offset is read; every one below it is, if this is not [cut](Self::is_cut).
    pub fn upto(&self) -> i64 {
        self.upto
    }

    /// Whether a limit of bytes has ended it.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Reads it: whole batches whose lengths and offsets follow each other, and perhaps a part of one. Checksums are for
    /// whoever looks into the batches.
    ///
    /// Where the bytes are something else, what lies before that is returned, and an error when that is nothing.
    pub fn read(&self) -> Result<Bytes> {
        let (Some(file), Some((dir, segment))) = (&self.file, &self.place) else { return Ok(Bytes::new()) };
        let failed = |source| LogError::Device { action: "reading a segment", log: dir.to_string(), source };
        let bytes = file.read_at(self.position, self.len).map_err(failed)?;
        let mut next_offset = self.first_offset;
        let mut epoch = -1;
        // The start of the last batch that nothing behind it has confirmed.
        let (mut at, mut last) = (0, 0);
        let damage = loop {
            let rest = &bytes[at..];
            if rest.len() < Batch::HEADER_LEN {
                break if rest.is_empty() || at > 0 { None } else { Some((0, Damage::CutShort)) };
            }
            let Some(header) = Header::parse(rest) else { break Some((at, Damage::Header)) };
            if at == 0 && header.base_offset != self.first_offset || header.next_offset() > self.upto {
                break Some((at, Damage::Contradicted));
            }
            if header.base_offset < next_offset {
                // One of the two is wrong, and no checksum says which.
                break Some((last, Damage::OffsetGoesBack));
            }
            if header.leader_epoch < epoch {
                break Some((last, Damage::EpochGoesBack));
            }
            (next_offset, epoch) = (header.next_offset(), header.leader_epoch);
            if rest.len() <= header.size as usize {
                break None;
            }
            last = at;
            at += header.size as usize;
        };
        match damage {
            None => Ok(bytes),
            Some((0, reason)) => {
                let log = dir.to_string();
                Err(LogError::Damaged { log, segment: *segment, position: self.position, reason }.into())
            }
            Some((at, _)) => Ok(bytes.slice(..at)),
        }
    }
}

/// What has to be synced so that the log up to [`Self::end`] survives a power cut. Run it off the log.
#[derive(Debug)]
#[must_use = "nothing is synced before it runs"]
pub struct SyncPoint {
    end: i64,
    /// The active segment, and its file if it could be opened; none when it is as it was synced before.
    active: Option<(String, Option<Arc<dyn File>>)>,
    /// Other files, and the numbers of their last changes.
    files: Vec<(String, u64)>,
    name_changes: u64,
    syncs_names: bool,
    syncs_parent: bool,
    place: Place,
    unsynced: Arc<Unsynced>,
}

impl SyncPoint {
    /// The log end offset up to which everything is safe once this has run.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Syncs. After an error the log takes no more writes, because what the device has is unknown.
    pub fn run(self) -> Result<()> {
        let synced = (|| {
            for (path, _) in &self.files {
                match self.place.files.open(path) {
                    Ok(file) => file.sync()?,
                    // It was removed or replaced meanwhile, and whoever did it says what has to be synced then.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            match &self.active {
                Some((_, Some(file))) => file.sync()?,
                Some((path, None)) => self.place.files.open(path)?.sync()?,
                None => {}
            }
            if self.syncs_names {
                self.place.device.sync_dir(&self.place.dir)?;
            }
            if self.syncs_parent {
                self.place.device.sync_dir(parent(&self.place.dir))?;
            }
            io::Result::Ok(())
        })();
        if let Err(source) = synced {
            self.unsynced.close("sync");
            return Err(LogError::Device { action: "sync", log: self.place.dir.to_string(), source }.into());
        }
        let mut state = self.unsynced.lock();
        for (path, change) in &self.files {
            // One that was changed since has to be synced once more.
            if state.files.get(path) == Some(change) {
                state.files.remove(path);
            }
        }
        state.synced_name_changes = state.synced_name_changes.max(self.name_changes);
        state.parent_is_synced = true;
        Ok(())
    }
}

/// What a log has written and nobody has synced, besides the active segment.
#[derive(Debug, Default)]
struct Unsynced {
    state: Mutex<UnsyncedState>,
    /// Why the log takes no more writes.
    closed: Mutex<Option<&'static str>>,
}

#[derive(Debug, Default)]
struct UnsyncedState {
    /// By their paths; so none has to stay open. Each with the number of its last change.
    files: BTreeMap<String, u64>,
    file_changes: u64,
    /// Counts names made, removed and changed.
    name_changes: u64,
    synced_name_changes: u64,
    parent_is_synced: bool,
}

impl Unsynced {
    fn lock(&self) -> MutexGuard<'_, UnsyncedState> {
        // Nothing panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_file(&self, path: String) {
        let mut state = self.lock();
        state.file_changes += 1;
        let change = state.file_changes;
        state.files.insert(path, change);
    }

    fn add_name(&self) {
        self.lock().name_changes += 1;
    }

    /// Whether nothing has been added but the names that opening the log adds.
    fn is_as_opened(&self) -> bool {
        let state = self.lock();
        state.file_changes == 0 && state.name_changes <= 1
    }

    /// Lets the log take no more writes.
    fn close(&self, after: &'static str) {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(after);
    }

    fn closed_after(&self) -> Option<&'static str> {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
