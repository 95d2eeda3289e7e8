//! Compaction: of each key the last record stays, at its offset. (`cleanup.policy=compact`; Kafka's log cleaner.)
//!
//! It goes in turns, so that the log goes on meanwhile and what waits for the device is done elsewhere:
//! ```text
//! Log::compaction         what is to be done: closed segments that every reader of committed data may have read
//! Compaction::run         elsewhere: finds the last offset of each key, writes NNN.log.cleaned beside the segments
//! Log::begin_swap         gives them their name NNN.log.swap: from here on a crash ends with the new segments
//! Swap::run               elsewhere: syncs the names
//! Log::finish_swap        takes the new segments in place of the old ones, when the names of those are gone for good
//! ```
//! Each new segment replaces one old segment or several that lie side by side, under the base offset of the first. The names are
//! Kafka's, and so is what an interrupted swap means: a whole `NNN.log.swap` replaces every segment that begins within it.
//!
//! - A deletion (a record without a value) goes when `delete.retention.ms` have passed since it was first compacted; its batch
//!   tells that time (KIP-534).
//! - What an aborted transaction wrote goes, and hides nothing. The markers of transactions stay.
//! - The last batch of a producer stays, without records if they went, or its sequence would be forgotten.
//! - A record without a key goes; only a topic that was not compacted before can have one.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Log;
use super::error::{Damage, LogError};
use super::index::Indexes;
use super::producers::AbortedTransaction;
use super::retention::Removal;
use super::scan::{Header, Scan, Step};
use super::segment::{INDEX, LOG, Place, Segment, TIME_INDEX, TRANSACTION_INDEX, Tail};
use crate::record::{Batch, Limits, Record, RecordError};
use crate::storage::{File, Handle};
use crate::{Error, Result, Timestamp};

/// What a new file is called until it is whole, behind its name.
const CLEANED: &str = ".cleaned";
/// What a new segment is called until the old ones are gone, behind its name.
pub(super) const SWAP: &str = ".swap";
/// What an old segment is called until it is removed, behind its name.
const DELETED: &str = ".deleted";

/// How many keys are looked at at a time; about 50 bytes each are needed.
const MAX_KEYS: usize = 1_000_000;
/// A new segment is no larger, or as large as the one that it replaces.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// How much is written at once.
const WRITE_BYTES: usize = 256 * 1024;

/// What a log knows of its compaction.
#[derive(Debug, Default)]
pub(super) struct Compacting {
    /// Below this each key has one record.
    to: i64,
    /// Counts what makes a compaction void that was begun before.
    pub(super) version: u64,
    /// Base offsets of the new segments that are being swapped in.
    swapping: Vec<i64>,
    /// Damage was found; opening the log anew may cure it.
    is_stopped: bool,
}

/// A compaction that is to be run.
#[derive(Debug)]
#[must_use = "nothing is compacted before it runs"]
pub struct Compaction {
    place: Place,
    version: u64,
    /// In order, side by side.
    segments: Vec<Old>,
    /// From here on keys have to be looked at.
    from: i64,
    now: Timestamp,
    delete_retention_ms: i64,
    segment_bytes: u64,
    /// The last offset of each producer.
    producers: HashMap<i64, i64>,
    /// Whatever was aborted of what the segments hold, wherever its marker is.
    aborted: Vec<AbortedTransaction>,
    pub(super) max_keys: usize,
    /// Makes it end at the next batch, and throw away what it has made.
    pub(crate) stop: Arc<AtomicBool>,
}

/// A segment that is to be compacted.
#[derive(Debug)]
struct Old {
    base: i64,
    end: i64,
    size: u64,
    handle: Arc<Handle>,
    aborted: Vec<AbortedTransaction>,
}

/// The new segments, whole and synced beside the old ones; or why there are none.
#[derive(Debug)]
#[must_use = "the new segments have to be swapped in"]
pub struct Compacted {
    place: Place,
    version: u64,
    groups: Vec<Group>,
    to: Result<i64>,
}

/// One new segment.
#[derive(Debug)]
struct Group {
    /// The base offsets of the segments that it replaces; the first is its own.
    bases: Vec<i64>,
    size: u64,
    largest: Option<(Timestamp, i64)>,
    aborted: Vec<AbortedTransaction>,
}

/// New segments whose names have to be synced before they replace the old ones.
#[derive(Debug)]
#[must_use = "the old segments stay until it runs"]
pub struct Swap {
    compacted: Compacted,
    to: i64,
}

impl Log {
    /// Below this offset every key has one record. Kafka keeps it for all logs together (`cleaner-offset-checkpoint`).
    pub fn compacted_to(&self) -> i64 {
        self.compacting.to
    }

    /// Takes over what somebody has kept of [`Self::compacted_to`].
    pub fn set_compacted_to(&mut self, offset: i64) {
        self.compacting.to = offset.min(self.end);
    }

    /// What there is to compact: nothing unless enough has been written since the last time
    /// (`min.cleanable.dirty.ratio`), or for long enough (`max.compaction.lag.ms`).
    pub fn compaction(&self, now: Timestamp, high_watermark: i64) -> Result<Option<Compaction>> {
        let config = &self.config;
        if !config.compacts || self.check_open().is_err() || !self.compacting.swapping.is_empty() {
            return Ok(None);
        }
        if self.compacting.is_stopped {
            return Ok(None);
        }
        let stable = self.last_stable_offset(high_watermark);
        let mut segments = Vec::new();
        let (mut clean, mut dirty) = (0, 0);
        let mut oldest: Option<Timestamp> = None;
        for (at, pair) in self.segments.windows(2).enumerate() {
            let (segment, end) = (&pair[0], pair[1].base);
            if end > stable {
                break;
            }
            if end <= self.compacting.to {
                clean += segment.size;
            } else {
                let largest = self.largest_in(at)?.map_or(0, |(timestamp, _)| timestamp);
                if config.min_compaction_lag_ms > 0 && now.saturating_sub(largest) < config.min_compaction_lag_ms {
                    break;
                }
                dirty += segment.size;
                oldest = Some(oldest.map_or(largest, |oldest| oldest.min(largest)));
            }
            segments.push(Old {
                base: segment.base,
                end,
                size: segment.size,
                handle: Arc::clone(segment.handle()),
                aborted: segment.aborted.clone(),
            });
        }
        let is_dirty = dirty > 0 && dirty as f64 >= config.min_cleanable_dirty_ratio * (clean + dirty) as f64;
        let is_due = oldest.is_some_and(|oldest| now.saturating_sub(oldest) > config.max_compaction_lag_ms);
        if dirty == 0 || !(is_dirty || is_due) {
            return Ok(None);
        }
        // A transaction is noted where its marker is, which may lie behind what is compacted.
        let end = segments.last().map_or(0, |segment| segment.end);
        let aborted = self.segments.iter().flat_map(|segment| &segment.aborted);
        let aborted = aborted.filter(|aborted| aborted.first_offset < end).copied().collect();
        Ok(Some(Compaction {
            place: self.place.clone(),
            version: self.compacting.version,
            aborted,
            segments,
            from: self.compacting.to,
            now,
            delete_retention_ms: config.delete_retention_ms,
            segment_bytes: config.segment_bytes,
            producers: self.producers.iter().map(|(id, producer)| (id, producer.last_offset())).collect(),
            max_keys: MAX_KEYS,
            stop: Arc::default(),
        }))
    }

    /// Takes what a compaction has made. `None` when there is nothing to swap: nothing has changed, or the log has changed
    /// meanwhile, and what was made is thrown away.
    ///
    /// After an error the log is as it was; if the compaction found damage, it is not tried again until the log is opened
    /// anew.
    pub fn begin_swap(&mut self, mut compacted: Compacted) -> Result<Option<Swap>> {
        if compacted.version != self.compacting.version || self.check_open().is_err() {
            compacted.throw_away();
            return Ok(None);
        }
        let to = std::mem::replace(&mut compacted.to, Ok(0))
            .inspect_err(|error| self.compacting.is_stopped |= error.kind() == crate::ErrorKind::Corrupt)?;
        if compacted.groups.is_empty() {
            self.compacting.to = to;
            return Ok(None);
        }
        let place = &self.place;
        let renamed = compacted.groups.iter().try_for_each(|group| {
            let base = group.bases[0];
            if !group.aborted.is_empty() {
                // Those of the segments that go besides its own: until they are gone, some are there twice.
                let path = place.path(base, TRANSACTION_INDEX);
                place.device.rename(&format!("{path}{CLEANED}"), &path)?;
            }
            let path = place.path(base, LOG);
            place.device.rename(&format!("{path}{CLEANED}"), &format!("{path}{SWAP}"))
        });
        self.compacting.swapping = compacted.groups.iter().map(|group| group.bases[0]).collect();
        if let Err(error) = renamed {
            self.abandon_swap()?;
            compacted.throw_away();
            return Err(self.place.failed("swapping compacted segments in")(error).into());
        }
        Ok(Some(Swap { compacted, to }))
    }

    /// Puts the new segments in place of the old ones, whose files are to be removed then. Waits for the device once, to
    /// sync the names.
    ///
    /// After an error the log takes no more writes: opening it anew ends the swap.
    pub fn finish_swap(&mut self, synced: Result<Swap>) -> Result<Vec<Removal>> {
        let finished = synced.and_then(|Swap { compacted, to }| {
            if compacted.version != self.compacting.version || self.check_open().is_err() {
                compacted.throw_away();
                return Ok(Vec::new());
            }
            Ok(self.swap_in(&compacted, to)?)
        });
        if finished.is_err() {
            self.unsynced.close("compaction");
        }
        finished
    }

    fn swap_in(&mut self, compacted: &Compacted, to: i64) -> Result<Vec<Removal>, LogError> {
        let place = self.place.clone();
        let swapping = || place.failed("swapping compacted segments in");
        let mut removals = Vec::new();
        for group in &compacted.groups {
            let base = group.bases[0];
            let old = self.replaced_by(group);
            let are_there = self
                .segments
                .get(old.clone())
                .is_some_and(|segments| segments.iter().map(|segment| segment.base).eq(group.bases.iter().copied()));
            if !are_there || old.end >= self.segments.len() {
                return Err(place.damaged(base, 0, Damage::Contradicted));
            }
            for segment in self.segments[old].iter().rev() {
                for suffix in [INDEX, TIME_INDEX, TRANSACTION_INDEX] {
                    if segment.base != base || suffix != TRANSACTION_INDEX {
                        place.remove_if_there(&place.path(segment.base, suffix)).map_err(swapping())?;
                    }
                }
                let path = place.path(segment.base, LOG);
                let gone = format!("{path}{DELETED}");
                place.device.rename(&path, &gone).map_err(swapping())?;
                removals.push(Removal::of_file(&place, segment.base, segment.size, gone));
            }
        }
        // A new one gets its name when those that it replaces are out of the way: no crash leaves both.
        place.device.sync_dir(&place.dir).map_err(swapping())?;
        for group in &compacted.groups {
            let base = group.bases[0];
            let old = self.replaced_by(group);
            let path = place.path(base, LOG);
            place.device.rename(&format!("{path}{SWAP}"), &path).map_err(swapping())?;
            for suffix in [INDEX, TIME_INDEX] {
                let path = place.path(base, suffix);
                // Without it the index is made anew.
                if place.device.rename(&format!("{path}{CLEANED}"), &path).is_ok() {
                    self.unsynced.add_file(path);
                }
            }
            let mut segment = Segment::new(base, group.size);
            segment.aborted.clone_from(&group.aborted);
            segment.set_largest(group.largest);
            self.segments.splice(old, [segment]);
        }
        self.unsynced.add_name();
        self.compacting.swapping.clear();
        self.compacting.version += 1;
        self.compacting.to = to;
        self.remove_superseded_snapshots();
        Ok(removals)
    }

    /// Where the segments are that a new one replaces.
    fn replaced_by(&self, group: &Group) -> Range<usize> {
        let first = self.segment_at(group.bases[0]);
        first..first + group.bases.len()
    }

    /// The log is about to change below its active segment: a compaction that is under way counts no more.
    pub(super) fn abandon_swap(&mut self) -> Result<(), LogError> {
        self.compacting.version += 1;
        if self.compacting.swapping.is_empty() {
            return Ok(());
        }
        let place = &self.place;
        let failed = || place.failed("abandoning a compaction");
        for base in &self.compacting.swapping {
            if let Ok(at) = self.segments.binary_search_by_key(base, |segment| segment.base) {
                // It has those of the segments that were to go besides.
                self.segments[at].write_aborted(place).map_err(failed())?;
            }
            place.remove_if_there(&format!("{}{SWAP}", place.path(*base, LOG))).map_err(failed())?;
        }
        place.device.sync_dir(&place.dir).map_err(failed())?;
        self.compacting.swapping.clear();
        Ok(())
    }

    /// Whether new segments are being swapped in.
    pub(super) fn is_swapping(&self) -> bool {
        !self.compacting.swapping.is_empty()
    }

    /// The log was cut.
    pub(super) fn limit_compacted(&mut self) {
        self.compacting.to = self.compacting.to.min(self.end);
    }
}

impl Swap {
    /// Syncs the names of the new segments.
    pub fn run(self) -> Result<Self> {
        let place = &self.compacted.place;
        place.device.sync_dir(&place.dir).map_err(place.failed("swapping compacted segments in"))?;
        Ok(self)
    }
}

impl Compaction {
    /// The log's directory.
    pub fn dir(&self) -> &str {
        &self.place.dir
    }

    /// From which offset on it looks at keys.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// Reads the segments and writes the new ones. May take long, and waits for the device.
    pub fn run(self) -> Compacted {
        let mut groups = Vec::new();
        let to = self.last_offsets().and_then(|(keys, to)| {
            self.write(&keys, to, &mut groups)?;
            self.place.device.sync_dir(&self.place.dir).map_err(self.place.failed("compacting"))?;
            Ok(to)
        });
        let compacted = Compacted { place: self.place, version: self.version, groups, to };
        if compacted.to.is_err() {
            compacted.throw_away();
        }
        compacted
    }

    /// The last offset of each key from `self.from` on, and up to where that is known.
    fn last_offsets(&self) -> Result<(HashMap<Key, i64>, i64)> {
        let mut keys = HashMap::new();
        for segment in self.segments.iter().filter(|segment| segment.end > self.from) {
            let mut full_at = None;
            self.each_batch(segment, |header, read| {
                if header.next_offset() <= self.from || header.is_control() || self.is_aborted(header) {
                    return Ok(true);
                }
                let batch = read()?;
                for record in batch.records(Limits::MAX_DECOMPRESSED_BYTES).map_err(self.bad_batch())?.iter() {
                    let record = record.map_err(self.bad_batch())?;
                    if let Some(key) = record.key.filter(|_| record.offset >= self.from) {
                        keys.insert(key_of(key), record.offset);
                    }
                }
                if keys.len() >= self.max_keys {
                    full_at = Some(header.next_offset());
                }
                Ok(full_at.is_none())
            })?;
            if let Some(full_at) = full_at {
                return Ok((keys, full_at));
            }
        }
        Ok((keys, self.segments.last().map_or(self.from, |segment| segment.end)))
    }

    /// Writes the new segments.
    fn write(&self, keys: &HashMap<Key, i64>, to: i64, groups: &mut Vec<Group>) -> Result<()> {
        let mut rest = &self.segments[..self.segments.partition_point(|segment| segment.base < to)];
        let limit = self.segment_bytes.min(MAX_SEGMENT_BYTES);
        while let Some(first) = rest.first() {
            let mut size = 0;
            let count = rest.iter().take_while(|segment| {
                size += segment.size;
                let fits = size <= limit && segment.end - first.base <= i64::from(i32::MAX);
                fits || segment.base == first.base
            });
            let (group, others) = rest.split_at(count.count());
            rest = others;
            // It is there to be thrown away from the moment on when its files may be.
            let bases: Vec<i64> = group.iter().map(|segment| segment.base).collect();
            groups.push(Group { bases, size: 0, largest: None, aborted: Vec::new() });
            let is_changed = self.write_group(group, keys, to, groups.last_mut().expect("pushed above"))?;
            if !is_changed && let Some(same) = groups.pop() {
                same.throw_away(&self.place);
            }
        }
        Ok(())
    }

    /// Writes one new segment. Returns whether it differs from the old one.
    fn write_group(&self, old: &[Old], keys: &HashMap<Key, i64>, to: i64, group: &mut Group) -> Result<bool> {
        let place = &self.place;
        let failed = || place.failed("compacting");
        let base = old[0].base;
        let path = |suffix| format!("{}{CLEANED}", place.path(base, suffix));
        let file = place.create_anew(&path(LOG)).map_err(failed())?;
        let mut tail = Tail::default();
        let mut indexes = Indexes::default();
        let mut buffer: Vec<u8> = Vec::with_capacity(WRITE_BYTES);
        let mut is_changed = old.len() > 1;
        for segment in old {
            self.each_batch(segment, |header, read| {
                let batch = read()?;
                let left = if header.is_control() || header.base_offset >= to {
                    Some(batch.clone())
                } else {
                    self.left_of(&batch, header, keys, to)?
                };
                is_changed |= left.as_ref() != Some(&batch);
                let Some(left) = left else { return Ok(true) };
                let header = Header::of(&left, left.base_offset(), left.partition_leader_epoch());
                tail.note(base, group.size, &header, &mut indexes, place.index_interval_bytes);
                group.size += left.size() as u64;
                buffer.extend_from_slice(left.as_bytes());
                if buffer.len() >= WRITE_BYTES {
                    file.append(&[&buffer]).map_err(failed())?;
                    buffer.clear();
                }
                Ok(true)
            })?;
        }
        if !is_changed {
            return Ok(false);
        }
        file.append(&[&buffer]).map_err(failed())?;
        file.sync().map_err(failed())?;
        if let Some((timestamp, offset)) = tail.largest {
            indexes.push_time(timestamp, u32::try_from(offset - base).unwrap_or(u32::MAX));
        }
        group.largest = tail.largest;
        group.aborted = old.iter().flat_map(|segment| segment.aborted.clone()).collect();
        let aborted: Vec<u8> = group.aborted.iter().flat_map(|aborted| aborted.to_bytes()).collect();
        let files = [
            (INDEX, Indexes::encode_offsets(&indexes.offsets)),
            (TIME_INDEX, Indexes::encode_times(&indexes.times)),
            (TRANSACTION_INDEX, aborted),
        ];
        for (suffix, bytes) in files {
            if suffix != TRANSACTION_INDEX || !bytes.is_empty() {
                let file = place.create_anew(&path(suffix)).map_err(failed())?;
                file.append(&[&bytes]).and_then(|()| file.sync()).map_err(failed())?;
            }
        }
        Ok(true)
    }

    /// What stays of a batch; `None` when nothing does.
    fn left_of(&self, batch: &Batch, header: &Header, keys: &HashMap<Key, i64>, to: i64) -> Result<Option<Batch>> {
        let is_aborted = self.is_aborted(header);
        let is_over = batch.has_delete_horizon() && batch.base_timestamp() <= self.now;
        let stays = |record: &Record<'_>| {
            let Some(key) = record.key else { return false };
            let is_last = keys.get(&key_of(key)).is_none_or(|last| record.offset >= *last);
            record.offset >= to || (!is_aborted && is_last && (record.value.is_some() || !is_over))
        };
        let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES).map_err(self.bad_batch())?;
        let (mut kept, mut deletes) = (0, false);
        for record in records.iter() {
            let record = record.map_err(self.bad_batch())?;
            if stays(&record) {
                kept += 1;
                deletes |= record.value.is_none();
            }
        }
        let horizon =
            (deletes && !batch.has_delete_horizon()).then(|| self.now.saturating_add(self.delete_retention_ms));
        if kept == 0 {
            let is_last_of_producer = self.producers.get(&header.producer_id) == Some(&header.last_offset());
            if !is_last_of_producer {
                return Ok(None);
            }
        }
        if kept == batch.record_count() && horizon.is_none() {
            return Ok(Some(batch.clone()));
        }
        batch.filtered(horizon, Limits::MAX_DECOMPRESSED_BYTES, stays).map(Some).map_err(self.bad_batch())
    }

    fn is_aborted(&self, header: &Header) -> bool {
        header.is_transactional()
            && self.aborted.iter().any(|aborted| {
                aborted.producer_id == header.producer_id
                    && (aborted.first_offset..aborted.last_offset).contains(&header.base_offset)
            })
    }

    /// Goes over the batches of a segment until `each` returns false; it may ask for the whole batch.
    fn each_batch(
        &self,
        segment: &Old,
        mut each: impl FnMut(&Header, &dyn Fn() -> Result<Batch>) -> Result<bool>,
    ) -> Result<()> {
        let place = &self.place;
        let open = || place.files.open(&place.path(segment.base, LOG));
        let file = place.files.get(&segment.handle, open).map_err(place.failed("opening a segment"))?;
        let mut scan = Scan::new(&*file, 0, segment.size);
        let mut next_offset = segment.base;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::new(crate::ErrorKind::Closed, format!("compaction was stopped log={}", place.dir)));
            }
            let (position, header) = match scan.next(true).map_err(place.failed("reading a segment"))? {
                Step::Batch(position, header) => (position, header),
                Step::End => return Ok(()),
                Step::Damaged(position, reason) => return Err(place.damaged(segment.base, position, reason).into()),
            };
            if header.base_offset < next_offset || header.next_offset() > segment.end {
                return Err(place.damaged(segment.base, position, Damage::OffsetGoesBack).into());
            }
            next_offset = header.next_offset();
            let read = || {
                let bytes = file.read_at(position, header.size as usize).map_err(place.failed("reading a segment"))?;
                Batch::single(bytes).map_err(self.bad_batch())
            };
            if !each(&header, &read)? {
                return Ok(());
            }
        }
    }

    fn bad_batch(&self) -> impl FnOnce(RecordError) -> Error {
        |error| {
            let message = format!("batch cannot be compacted log={}: {error}", self.place.dir);
            Error::new(crate::ErrorKind::Corrupt, message)
        }
    }
}

impl Compacted {
    /// Removes the new files, which nobody has any use for. The next open removes what stays.
    fn throw_away(&self) {
        self.groups.iter().for_each(|group| group.throw_away(&self.place));
    }
}

impl Group {
    fn throw_away(&self, place: &Place) {
        for suffix in [LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX] {
            let _ = place.remove_if_there(&format!("{}{CLEANED}", place.path(self.bases[0], suffix)));
        }
    }
}

/// A key, by a hash that no two keys share.
type Key = [u8; 16];

fn key_of(key: &[u8]) -> Key {
    let mut short = Key::default();
    short.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
    short
}

/// Ends the swap of a new segment that a crash has interrupted. `bases` are those of all segments; returns those that are
/// there no more.
pub(super) fn end_swap(place: &Place, base: i64, bases: &[i64]) -> Result<Vec<i64>, LogError> {
    let ending = || place.failed("ending a compaction");
    let path = place.path(base, LOG);
    let swap = format!("{path}{SWAP}");
    let file = place.files.open(&swap).map_err(ending())?;
    let Some(end) = whole_until(&*file, base).map_err(ending())? else {
        if bases.contains(&base) {
            // It cannot be: it was synced before it got its name. What it was to replace is still there.
            log::warn!("a compacted segment is damaged and not used log={} segment={base:020}", place.dir);
            place.remove_if_there(&swap).map_err(ending())?;
            return Ok(Vec::new());
        }
        place.device.rename(&swap, &path).map_err(ending())?;
        return Ok(Vec::new());
    };
    let replaced: Vec<i64> = bases.iter().copied().filter(|other| *other > base && *other < end).collect();
    let mut aborted = BTreeSet::new();
    for base in replaced.iter().chain([&base]) {
        let path = place.path(*base, TRANSACTION_INDEX);
        if place.device.exists(&path).map_err(ending())? {
            let bytes = place.device.read(&path).map_err(ending())?;
            let whole = bytes.chunks_exact(AbortedTransaction::LEN).map_while(AbortedTransaction::from_bytes);
            aborted.extend(whole.map(|aborted| (aborted.last_offset, aborted.to_bytes())));
        }
    }
    if !aborted.is_empty() {
        let bytes: Vec<u8> = aborted.into_iter().flat_map(|(_, bytes)| bytes).collect();
        place.device.replace(&place.path(base, TRANSACTION_INDEX), &bytes).map_err(ending())?;
    }
    for other in replaced.iter().rev() {
        for suffix in [INDEX, TIME_INDEX, TRANSACTION_INDEX, LOG] {
            place.remove_if_there(&place.path(*other, suffix)).map_err(ending())?;
        }
    }
    for suffix in [INDEX, TIME_INDEX] {
        place.remove_if_there(&place.path(base, suffix)).map_err(ending())?;
    }
    place.device.sync_dir(&place.dir).map_err(ending())?;
    place.device.rename(&swap, &path).map_err(ending())?;
    place.device.sync_dir(&place.dir).map_err(ending())?;
    Ok(replaced)
}

/// The offset behind the last batch of a file that is nothing but whole batches.
fn whole_until(file: &dyn File, base: i64) -> io::Result<Option<i64>> {
    let mut scan = Scan::new(file, 0, file.len());
    let mut end = base;
    loop {
        match scan.next(true)? {
            Step::Batch(_, header) if header.base_offset >= end => end = header.next_offset(),
            Step::End => return Ok(Some(end)),
            Step::Batch(..) | Step::Damaged(..) => return Ok(None),
        }
    }
}
