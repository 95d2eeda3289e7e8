//! From whatever a crash left to a valid log.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::compaction::{SWAP, end_swap};
use super::epochs::Epochs;
use super::error::{Damage, LogError};
use super::index::Indexes;
use super::scan::{Header, Scan, Step};
use super::segment::{INDEX, LOG, Place, SNAPSHOT, Segment, TIME_INDEX, TRANSACTION_INDEX, Tail};
use super::{Checkpoints, Log, LogConfig, Unsynced, note_producer};
use crate::Timestamp;
use crate::storage::{Entry, File};

/// Where cut bytes are kept that hold a whole valid batch.
const QUARANTINE: &str = ".quarantine";
const COPY_BYTES: usize = 1024 * 1024;

/// What opening a log found and did. Its text is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The log was not there and was made.
    pub created: bool,
    /// The log was said to be closed cleanly, and was not.
    pub was_not_clean: bool,
    /// What was cut off at the end.
    pub cut: Option<Cut>,
    /// Damage below the recovery point: base offset of the segment, position and reason. It stays where it is; what lies
    /// around it can be read.
    pub damaged: Vec<(i64, u64, Damage)>,
    /// Base offsets of the segments whose indexes were made anew.
    pub rebuilt: Vec<i64>,
    /// Bytes that were read to find the log's end and its producers.
    pub scanned_bytes: u64,
    /// The log end offset.
    pub end: i64,
}

/// What recovery cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The base offset of the segment.
    pub segment: i64,
    /// The position in it from which on it was cut.
    pub position: u64,
    /// What was wrong there.
    pub reason: Damage,
    /// How many bytes were cut, in this and later segments.
    pub bytes: u64,
    /// Files that keep cut bytes, because whole valid batches are among them.
    pub quarantined: Vec<String>,
}

impl Recovery {
    /// Whether there was nothing to do.
    pub fn is_clean(&self) -> bool {
        self.cut.is_none() && self.damaged.is_empty() && self.rebuilt.is_empty() && !self.was_not_clean
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if self.created {
            parts.push("log made".to_owned());
        }
        if self.was_not_clean {
            parts.push("log was not closed cleanly although it was said to be".to_owned());
        }
        if let Some(cut) = &self.cut {
            let Cut { segment, position, reason, bytes, quarantined } = cut;
            let mut part = format!("cut {bytes} bytes at segment={segment:020} position={position} ({reason})");
            if !quarantined.is_empty() {
                part += &format!(", valid batches kept in {}", quarantined.join(" and "));
            }
            parts.push(part);
        }
        if let Some((segment, position, reason)) = self.damaged.first() {
            let count = self.damaged.len();
            parts
                .push(format!("{count} damaged places, first at segment={segment:020} position={position} ({reason})"));
        }
        if !self.rebuilt.is_empty() {
            parts.push(format!("{} indexes made anew", self.rebuilt.len()));
        }
        if parts.is_empty() {
            parts.push("nothing to recover".to_owned());
        }
        write!(f, "{} end={}", parts.join("; "), self.end)
    }
}

/// What lies in a log's directory.
#[derive(Default)]
struct Found {
    segments: Vec<Segment>,
    without_index: Vec<i64>,
    snapshots: Vec<i64>,
    epochs: Option<Epochs>,
}

pub(super) fn open(
    place: Place,
    config: LogConfig,
    checkpoints: Checkpoints,
    now: Timestamp,
) -> Result<(Log, Recovery), LogError> {
    let mut recovery = Recovery::default();
    let found = look(&place)?;
    let unsynced = Arc::new(Unsynced::default());
    let mut segments = found.segments;
    if segments.is_empty() {
        let base = checkpoints.start.max(0);
        let file = place.create_anew(&place.path(base, LOG)).map_err(place.failed("making a log"))?;
        segments.push(Segment::created(base, &place, file));
        unsynced.add_name();
        recovery.created = true;
    } else {
        // It was synced when it was made, or it would not matter.
        unsynced.lock().parent_is_synced = checkpoints.recovery_point > 0;
        unsynced.add_name();
    }
    let mut log = Log {
        place,
        config,
        start: segments[0].base,
        end: segments[0].base,
        segments,
        tail: Tail::default(),
        epochs: found.epochs.clone().unwrap_or_default(),
        producers: Default::default(),
        snapshots: found.snapshots,
        bytes_since_snapshot: 0,
        unsynced,
        has_stale_epochs: false,
        aborted_behind: Vec::new(),
        compacting: Default::default(),
        headers: Vec::new(),
        opened: None,
    };

    // From where on checksums count.
    let mut verify_from = checkpoints.recovery_point.max(0);
    let mut has_tail = false;
    if verify_from == i64::MAX {
        match log.load_tail().and_then(|()| check_last(&log, checkpoints.start)) {
            Ok(()) => {
                verify_from = log.end;
                has_tail = true;
            }
            Err(LogError::Damaged { .. }) => {
                recovery.was_not_clean = true;
                verify_from = log.active().base;
            }
            Err(error) => return Err(error),
        }
    }
    // From where on batches have to be looked at: epochs and transactions are known below.
    let mut look_from = verify_from;
    if let Some(base) = found.without_index.iter().find(|base| **base != log.active().base) {
        look_from = look_from.min(*base);
    }
    if log.epochs.entries().is_empty() {
        look_from = log.segments[0].base;
    }
    let mut walk_from = log.load_snapshot(look_from, now);
    loop {
        // Where the batch cannot be found from which on the producers are unknown, the way begins at its segment's first.
        let segment = &log.segments[log.segment_at(walk_from)];
        let base = segment.base;
        match segment.locate(&log.place, walk_from) {
            Err(LogError::Damaged { .. }) if base < walk_from => walk_from = log.load_snapshot(base, now),
            Err(error) if !matches!(error, LogError::Damaged { .. }) => return Err(error),
            _ => break,
        }
    }
    let walk = Walk {
        verify_from,
        epochs_are_known: !log.epochs.entries().is_empty(),
        without_index: found.without_index,
        epochs_changed: false,
        start: checkpoints.start,
        epochs_disagree: false,
        cut: None,
    };
    // Of a log that was closed well nothing is left to be looked at, as a rule.
    if !has_tail || walk_from < log.end {
        walk.run(&mut log, walk_from, &mut recovery)?;
        log.load_tail()?;
    }
    if log.end < walk_from {
        log.reload_producers()?;
    }
    // Nobody knows whether a crash of this process or of the machine was before; the first sync covers both.
    for at in log.segment_at(verify_from)..log.segments.len() - 1 {
        log.unsynced.add_file(log.place.path(log.segments[at].base, LOG));
    }
    finish(&mut log, checkpoints, &mut recovery)?;
    recovery.end = log.end;
    let was_clean = checkpoints.recovery_point == i64::MAX && !recovery.was_not_clean;
    let was_clean = was_clean && recovery.cut.is_none() && recovery.rebuilt.is_empty();
    log.opened = was_clean.then(|| (log.active().base, log.active().size));
    Ok((log, recovery))
}

/// Lists the directory and removes what an interrupted change left.
fn look(place: &Place) -> Result<Found, LogError> {
    let opening = || place.failed("opening a log");
    let entries = match place.device.list(&place.dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            place.device.create_dir(&place.dir).map_err(opening())?;
            Vec::new()
        }
        entries => entries.map_err(opening())?,
    };
    let mut found = Found::default();
    let mut with_aborted = Vec::new();
    let mut indexes = Vec::new();
    let entries = end_swaps(place, entries)?;
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        let name = &entry.name;
        if [".tmp", ".deleted", ".cleaned", SWAP].iter().any(|suffix| name.ends_with(suffix)) {
            place.remove_if_there(&place.in_dir(name)).map_err(opening())?;
            continue;
        }
        let Some((base, suffix)) = split_name(name) else { continue };
        match suffix {
            LOG => found.segments.push(Segment::new(base, entry.len)),
            SNAPSHOT => found.snapshots.push(base),
            TRANSACTION_INDEX => with_aborted.push(base),
            INDEX | TIME_INDEX => indexes.push((base, suffix)),
            _ => {}
        }
    }
    found.segments.sort_by_key(|segment| segment.base);
    found.snapshots.sort_unstable();
    for segment in &mut found.segments {
        if with_aborted.contains(&segment.base) {
            segment.read_aborted(place)?;
        }
        if !indexes.contains(&(segment.base, INDEX)) {
            found.without_index.push(segment.base);
        }
    }
    for at in 1..found.segments.len() {
        // An interrupted swap may have left one segment the aborted transactions of those behind it, too.
        let end = found.segments[at].base;
        let segment = &mut found.segments[at - 1];
        let known = segment.aborted.len();
        segment.aborted.retain(|aborted| aborted.last_offset < end);
        if segment.aborted.len() < known {
            segment.write_aborted(place).map_err(opening())?;
        }
    }
    let is_known = |base: i64| found.segments.iter().any(|segment| segment.base == base);
    for (base, suffix) in indexes.iter().copied().chain(with_aborted.iter().map(|base| (*base, TRANSACTION_INDEX))) {
        if !is_known(base) {
            place.remove_if_there(&place.path(base, suffix)).map_err(opening())?;
        }
    }
    let epochs = place.in_dir(Epochs::FILE);
    if place.device.exists(&epochs).map_err(opening())? {
        let text = place.device.read(&epochs).map_err(opening())?;
        found.epochs = Epochs::from_text(&text);
        if found.epochs.is_none() {
            log::warn!("leader epochs are not readable and are made anew log={}", place.dir);
        }
    }
    Ok(found)
}

/// Ends the swaps of compacted segments that a crash has interrupted. Returns what lies in the directory then.
fn end_swaps(place: &Place, entries: Vec<Entry>) -> Result<Vec<Entry>, LogError> {
    let bases = |suffix: &str| -> Vec<i64> {
        let named = |entry: &Entry| split_name(&entry.name).filter(|(_, found)| *found == suffix).map(|(base, _)| base);
        let mut bases: Vec<i64> = entries.iter().filter(|entry| !entry.is_dir).filter_map(named).collect();
        bases.sort_unstable();
        bases
    };
    let swaps = bases(&format!("{LOG}{SWAP}"));
    if swaps.is_empty() {
        return Ok(entries);
    }
    let mut segments = bases(LOG);
    for base in swaps {
        let replaced = end_swap(place, base, &segments)?;
        segments.retain(|base| !replaced.contains(base));
    }
    place.device.list(&place.dir).map_err(place.failed("opening a log"))
}

/// `00000000000000000042.log` is 42 and `.log`.
fn split_name(name: &str) -> Option<(i64, &str)> {
    let (digits, suffix) = name.split_at_checked(20)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, suffix))
}

/// After a clean close the last batch is still looked at.
fn check_last(log: &Log, start: i64) -> Result<(), LogError> {
    let Some(last) = log.tail.recent.back() else { return Ok(()) };
    let segment = log.active();
    let file = segment.file(&log.place)?;
    let mut scan = Scan::with_window(&*file, last.position, segment.size, 0);
    let reason = match scan.next(true).map_err(log.place.failed("reading a segment"))? {
        Step::Damaged(_, reason) => reason,
        // No checksum covers the offset and the epoch, but others have noted them.
        Step::Batch(_, header) if disagrees(&log.epochs, &header, start) => Damage::Contradicted,
        _ if log.snapshots.binary_search(&log.end).is_err() => Damage::Contradicted,
        _ => return Ok(()),
    };
    Err(log.place.damaged(segment.base, last.position, reason))
}

/// Whether the history has another epoch for a batch than the batch itself. Below the log start it has none.
fn disagrees(epochs: &Epochs, header: &Header, start: i64) -> bool {
    let last = header.last_offset();
    header.leader_epoch >= 0 && last >= start && epochs.epoch_at(last) != Some(header.leader_epoch)
}

/// Makes the history of epochs from the batches alone.
fn rebuild_epochs(log: &mut Log) -> Result<(), LogError> {
    let mut epochs = Epochs::default();
    for segment in &log.segments {
        let file = segment.file(&log.place)?;
        let mut scan = Scan::new(&*file, 0, segment.size);
        loop {
            match scan.next(false).map_err(log.place.failed("reading a segment"))? {
                Step::Batch(_, header) => {
                    epochs.assign(header.leader_epoch, header.base_offset.max(log.start));
                }
                Step::End => break,
                Step::Damaged(..) => {
                    let offsets = segment.base..i64::MAX;
                    if scan.resync(offsets).map_err(log.place.failed("reading a segment"))?.is_none() {
                        break;
                    }
                }
            }
        }
    }
    log.replace_epochs(epochs)
}

/// One way through the batches: verifies, indexes, notes producers and epochs, and stops where the log has to be cut.
struct Walk {
    verify_from: i64,
    /// The history was there; it is written before the batches are, so it knows their epochs.
    epochs_are_known: bool,
    without_index: Vec<i64>,
    epochs_changed: bool,
    /// The log start offset as it is known elsewhere.
    start: i64,
    /// The history is not that of the batches.
    epochs_disagree: bool,
    cut: Option<(usize, u64, Damage)>,
}

/// A batch whose offset or epoch jumps ahead is believed when the next one goes on from there.
struct Held {
    position: u64,
    header: Header,
    /// The offset before the jump.
    next_offset: i64,
    /// The epoch before the jump.
    epoch: i32,
}

impl Walk {
    fn run(mut self, log: &mut Log, from: i64, recovery: &mut Recovery) -> Result<(), LogError> {
        // Transactions that end from here on are found again.
        let mut aborted_anew = BTreeSet::new();
        for segment in &mut log.segments {
            let known = segment.aborted.len();
            segment.aborted.retain(|aborted| aborted.last_offset < from);
            if segment.aborted.len() < known {
                aborted_anew.insert(segment.base);
            }
        }
        let first = log.segment_at(from);
        let mut next_offset = from.max(log.segments[0].base);
        let mut epoch = log.epochs.epoch_at(next_offset - 1).unwrap_or(-1);
        for at in first..log.segments.len() {
            let is_last = at + 1 == log.segments.len();
            let segment = &log.segments[at];
            let (base, size) = (segment.base, segment.size);
            if base < next_offset && next_offset > from {
                // Its name says that it begins before the one before it ends.
                self.cut = Some((at, 0, Damage::OffsetGoesBack));
                break;
            }
            let limit = log.segments.get(at + 1).map_or(i64::MAX, |next| next.base);
            if next_offset >= limit {
                continue;
            }
            let starts_whole = base >= from;
            next_offset = next_offset.max(base);
            let mut position = 0;
            let mut indexes = Indexes::default();
            if !starts_whole {
                position = segment.locate(&log.place, from)?.map_or(size, |located| located.position);
                if position > 0 {
                    indexes = Indexes::clone(&*segment.indexes(&log.place)?);
                    indexes.truncate(position, from - base);
                }
            }
            if position >= size && !is_last && !self.misses(log, next_offset, limit) {
                continue;
            }
            recovery.scanned_bytes += size - position;
            let is_verified = limit > self.verify_from;
            let mut tail = Tail::default();
            tail.largest = indexes.times.last().map(|entry| (entry.timestamp, base + i64::from(entry.relative)));
            next_offset =
                self.segment(log, at, position, limit, (next_offset, epoch), &mut tail, &mut indexes, recovery)?;
            epoch = epoch.max(log.epochs.epoch_at(next_offset - 1).unwrap_or(-1));
            if self.cut.is_none() && self.misses(log, next_offset, limit) {
                self.cut = Some((at, size, Damage::Missing));
            }
            let segment = &mut log.segments[at];
            if is_last || self.cut.is_some() {
                // Its files follow when the log's end is known.
                segment.is_active = true;
                segment.set_indexes(indexes);
            } else if starts_whole && (is_verified || self.without_index.contains(&base)) {
                if let Some((timestamp, offset)) = tail.largest {
                    indexes.push_time(timestamp, segment.relative(offset));
                }
                let is_right = segment
                    .read_indexes(&log.place)
                    .is_some_and(|found| found.offsets == indexes.offsets && found.times == indexes.times);
                if !is_right {
                    recovery.rebuilt.push(base);
                    if segment.write_indexes(&log.place, &indexes).is_err() {
                        segment.set_indexes(indexes);
                    }
                }
            }
            if self.cut.is_some() {
                break;
            }
        }
        if let Some((at, position, reason)) = self.cut {
            cut(log, at, position, reason, recovery)?;
        }
        for segment in &log.segments {
            // What was not found again must not come back, either.
            if aborted_anew.contains(&segment.base) || segment.aborted.iter().any(|aborted| aborted.last_offset >= from)
            {
                segment.write_aborted(&log.place).map_err(log.place.failed("writing a transaction index"))?;
            }
        }
        if self.epochs_disagree {
            log::warn!("leader epochs are not those of the batches and are made anew log={}", log.place.dir);
            rebuild_epochs(log)?;
        } else if self.epochs_changed {
            log.replace_epochs(log.epochs.clone())?;
        }
        Ok(())
    }

    /// Whether a segment that ends at `next_offset` has lost its end, when the one behind it begins at `limit`: the name of that,
    /// and perhaps its records, reached the disk first. Offsets that others may have are not to be passed over. Only compaction
    /// leaves such gaps by right, and the removal of what lies below the log start.
    fn misses(&self, log: &Log, next_offset: i64, limit: i64) -> bool {
        let is_gap = limit != i64::MAX && next_offset < limit && limit > self.start;
        is_gap && next_offset >= self.verify_from && !log.config.skips_offsets
    }

    /// Walks over one segment. Returns the offset behind its last batch.
    #[allow(clippy::too_many_arguments)] // one loop's state, named
    fn segment(
        &mut self,
        log: &mut Log,
        at: usize,
        position: u64,
        limit: i64,
        (mut next_offset, mut epoch): (i64, i32),
        tail: &mut Tail,
        indexes: &mut Indexes,
        recovery: &mut Recovery,
    ) -> Result<i64, LogError> {
        let place = log.place.clone();
        let reading = || place.failed("reading a segment");
        let file = log.segments[at].file(&place)?;
        let base = log.segments[at].base;
        let mut scan = Scan::new(&*file, position, log.segments[at].size);
        let mut held: Option<Held> = None;
        loop {
            let step = scan.next(next_offset >= self.verify_from).map_err(reading())?;
            let (position, reason) = match step {
                Step::Batch(position, header) => {
                    let reason = if header.base_offset < next_offset {
                        Damage::OffsetGoesBack
                    } else if header.leader_epoch >= 0 && header.leader_epoch < epoch {
                        Damage::EpochGoesBack
                    } else if !log.segments[at].takes_offset(header.last_offset()) || header.next_offset() > limit {
                        Damage::OffsetTooFar
                    } else {
                        if let Some(held) = held.take() {
                            self.note(log, at, held.position, &held.header, tail, indexes)?;
                        }
                        let held_at = Held { position, header, next_offset, epoch };
                        next_offset = header.next_offset();
                        epoch = epoch.max(header.leader_epoch);
                        if self.jumps(log, &held_at) {
                            held = Some(held_at);
                        } else {
                            self.note(log, at, position, &header, tail, indexes)?;
                        }
                        continue;
                    };
                    match held.take() {
                        // The one before jumped, and this one goes on as if it had not.
                        Some(before) if before.would_precede(&header) => {
                            (next_offset, epoch) = (before.next_offset, before.epoch);
                            (before.position, Damage::Contradicted)
                        }
                        before => {
                            if let Some(before) = before {
                                self.note(log, at, before.position, &before.header, tail, indexes)?;
                            }
                            (position, reason)
                        }
                    }
                }
                Step::End => match held.take() {
                    Some(held) if limit == i64::MAX && self.is_contradicted(log, &held) => {
                        (next_offset, epoch) = (held.next_offset, held.epoch);
                        (held.position, Damage::Contradicted)
                    }
                    Some(held) => {
                        self.note(log, at, held.position, &held.header, tail, indexes)?;
                        return Ok(next_offset);
                    }
                    None => return Ok(next_offset),
                },
                Step::Damaged(position, reason) => {
                    if let Some(held) = held.take() {
                        self.note(log, at, held.position, &held.header, tail, indexes)?;
                    }
                    (position, reason)
                }
            };
            if let Some(magic) = old_format(&*file, position).map_err(reading())? {
                let log = place.dir.to_string();
                return Err(LogError::OldFormat { log, segment: base, position, magic });
            }
            if next_offset < self.verify_from {
                // It was whole when it was synced. What lies behind it is worth more than a tidy end.
                scan.seek(position);
                if scan
                    .resync(next_offset..limit.min(self.verify_from.max(next_offset + 1)))
                    .map_err(reading())?
                    .is_some()
                {
                    recovery.damaged.push((base, position, reason));
                    continue;
                }
                if limit != i64::MAX {
                    recovery.damaged.push((base, position, reason));
                    return Ok(limit);
                }
            }
            self.cut = Some((at, position, reason));
            return Ok(next_offset);
        }
    }

    fn jumps(&self, log: &Log, held: &Held) -> bool {
        held.header.base_offset > held.next_offset
            || (held.header.leader_epoch > held.epoch && log.epochs.start_of(held.header.leader_epoch).is_none())
    }

    /// At the log's end nothing follows that could confirm a jump. Base offset and epoch are the two fields that no
    /// checksum covers, so what else is known of the end has to agree, if there is something.
    fn is_contradicted(&self, log: &Log, held: &Held) -> bool {
        let header = &held.header;
        if header.base_offset > held.next_offset {
            let end = held.next_offset + i64::from(header.last_offset_delta) + 1;
            if log.snapshots.binary_search(&end).is_ok() || self.verify_from == end {
                return true;
            }
        }
        self.epochs_are_known
            && held.epoch >= 0
            && log.epochs.latest() == Some(held.epoch)
            && header.leader_epoch > held.epoch
    }

    fn note(
        &mut self,
        log: &mut Log,
        at: usize,
        position: u64,
        header: &Header,
        tail: &mut Tail,
        indexes: &mut Indexes,
    ) -> Result<(), LogError> {
        let marker = log.marker_at(at, position, header)?;
        let segment = &mut log.segments[at];
        tail.note(segment.base, position, header, indexes, log.place.index_interval_bytes);
        if let Some(aborted) = note_producer(&mut log.producers, header, marker) {
            segment.aborted.push(aborted);
        }
        self.epochs_changed |= log.epochs.assign(header.leader_epoch, header.base_offset);
        self.epochs_disagree |= disagrees(&log.epochs, header, self.start);
        Ok(())
    }
}

impl Held {
    /// Whether `next` follows where this batch would end if it had not jumped.
    fn would_precede(&self, next: &Header) -> bool {
        let end = self.next_offset + i64::from(self.header.last_offset_delta) + 1;
        let by_offset = self.header.base_offset > self.next_offset && next.base_offset == end;
        let by_epoch = self.header.leader_epoch > self.epoch && next.leader_epoch >= self.epoch;
        by_offset || (by_epoch && next.leader_epoch < self.header.leader_epoch)
    }
}

/// Whether a message of format 0 or 1 lies there: its format's number.
fn old_format(file: &dyn File, position: u64) -> std::io::Result<Option<u8>> {
    const OVERHEAD: usize = 12;
    let header = file.read_at(position, 17)?;
    let (Some(length), Some(&magic @ 0..=1)) = (header.get(8..OVERHEAD), header.get(16)) else { return Ok(None) };
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    // The smallest has a checksum, two bytes of format and attributes, and two lengths.
    if length < 14 || u64::from(length) + OVERHEAD as u64 > file.len() - position {
        return Ok(None);
    }
    let message = file.read_at(position + OVERHEAD as u64, length as usize)?;
    let Some((expected, covered)) = message.split_first_chunk::<4>() else { return Ok(None) };
    let mut crc = flate2::Crc::new();
    crc.update(covered);
    Ok((crc.sum() == u32::from_be_bytes(*expected)).then_some(magic))
}

/// Cuts the log at a position in a segment. Valid batches behind it are kept in files of their own.
///
/// Each step can be interrupted: the next recovery finds the same damage and does the rest.
fn cut(log: &mut Log, at: usize, position: u64, reason: Damage, recovery: &mut Recovery) -> Result<(), LogError> {
    let place = log.place.clone();
    let cutting = || place.failed("cutting a damaged end");
    let segment = &log.segments[at];
    let size = segment.size;
    let mut cut = Cut { segment: segment.base, position, reason, bytes: size - position, quarantined: Vec::new() };
    let file = segment.file(&place)?;
    if holds_batch(&*file, position, size).map_err(cutting())? {
        let name = quarantine(&place, segment.base, &*file, position).map_err(cutting())?;
        cut.quarantined.push(name);
    }
    while log.segments.len() > at + 1 {
        let last = log.active();
        let (base, size) = (last.base, last.size);
        let file = last.file(&place)?;
        if holds_batch(&*file, 0, size).map_err(cutting())? {
            let name = quarantine(&place, base, &*file, 0).map_err(cutting())?;
            cut.quarantined.push(name);
        }
        for suffix in [LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX] {
            place.remove_if_there(&place.path(base, suffix)).map_err(cutting())?;
        }
        cut.bytes += size;
        log.segments.pop();
    }
    place.device.sync_dir(&place.dir).map_err(cutting())?;
    file.truncate(position).map_err(cutting())?;
    file.sync().map_err(cutting())?;
    let segment = log.segments.last_mut().expect("the segment at `at`");
    segment.size = position;
    recovery.cut = Some(cut);
    Ok(())
}

/// Whether a whole valid batch begins in `from..end`.
fn holds_batch(file: &dyn File, from: u64, end: u64) -> std::io::Result<bool> {
    let mut scan = Scan::new(file, from, end);
    if let Step::Batch(..) = scan.next(true)? {
        return Ok(true);
    }
    scan.seek(from);
    Ok(scan.resync(0..i64::MAX)?.is_some())
}

/// Copies a file from a position on into a quarantine file, unless an interrupted recovery has done so. Returns its name.
fn quarantine(place: &Place, base: i64, file: &dyn File, from: u64) -> std::io::Result<String> {
    let mut number = 0;
    let name = loop {
        let name = match number {
            0 => format!("{base:020}{QUARANTINE}"),
            number => format!("{base:020}.{number}{QUARANTINE}"),
        };
        if !place.device.exists(&place.in_dir(&name))? {
            break name;
        }
        if is_same(&*place.device.open(&place.in_dir(&name))?, file, from)? {
            return Ok(name);
        }
        number += 1;
    };
    let temporary = place.in_dir(&format!("{name}.tmp"));
    let copied = (|| {
        let copy = place.create_anew(&temporary)?;
        let mut position = from;
        while position < file.len() {
            let bytes = file.read_at(position, COPY_BYTES)?;
            copy.append(&[&bytes])?;
            position += bytes.len() as u64;
        }
        copy.sync()?;
        place.device.rename(&temporary, &place.in_dir(&name))
    })();
    if copied.is_err() {
        let _ = place.remove_if_there(&temporary);
    }
    copied.map(|()| name)
}

fn is_same(copy: &dyn File, file: &dyn File, from: u64) -> std::io::Result<bool> {
    if copy.len() != file.len() - from {
        return Ok(false);
    }
    let mut position = 0;
    while position < copy.len() {
        let bytes = copy.read_at(position, COPY_BYTES)?;
        if bytes.is_empty() || bytes != file.read_at(from + position, bytes.len())? {
            return Ok(false);
        }
        position += bytes.len() as u64;
    }
    Ok(true)
}

/// Makes everything else agree with the log's end and start.
fn finish(log: &mut Log, checkpoints: Checkpoints, recovery: &mut Recovery) -> Result<(), LogError> {
    let place = log.place.clone();
    let finishing = || place.failed("opening a log");
    let kept = log.snapshots.partition_point(|offset| *offset <= log.end);
    for offset in log.snapshots.split_off(kept) {
        place.remove_if_there(&place.path(offset, SNAPSHOT)).map_err(finishing())?;
    }
    log.remove_superseded_snapshots();
    let mut epochs = log.epochs.clone();
    if epochs.forget_beyond(log.end) {
        log.replace_epochs(epochs)?;
    }
    if checkpoints.start > log.end {
        // What was to be kept begins behind what is left.
        log.reset_to(checkpoints.start)?;
    } else if checkpoints.start > log.start {
        log.start = checkpoints.start;
    }
    recovery.end = log.end;
    Ok(())
}
