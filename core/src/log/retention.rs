//! What goes out of a log: by age, by size, and below the log start offset.

use super::segment::{INDEX, LOG, SNAPSHOT, TIME_INDEX, TRANSACTION_INDEX};
use super::{Log, LogError, Place};
use crate::{Result, Timestamp};

/// A segment that has left its log, and whose files are to be deleted. Run it off the log, in the order of the list.
#[derive(Debug)]
#[must_use = "the files stay until it runs"]
pub struct Removal {
    place: Place,
    base: i64,
    size: u64,
    paths: Vec<String>,
}

impl Removal {
    fn of_segment(place: &Place, base: i64, size: u64) -> Self {
        let suffixes = [LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX, SNAPSHOT];
        let paths = suffixes.iter().map(|suffix| place.path(base, suffix)).collect();
        Self { place: place.clone(), base, size, paths }
    }

    /// Of a segment that has another name by now.
    pub(super) fn of_file(place: &Place, base: i64, size: u64, path: String) -> Self {
        Self { place: place.clone(), base, size, paths: vec![path] }
    }

    /// The segment's base offset.
    pub fn base_offset(&self) -> i64 {
        self.base
    }

    /// The size of its log file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Deletes the files. Should that fail, the next open finds the segment again, below the log start offset.
    pub fn run(self) -> Result<()> {
        for path in &self.paths {
            self.place.remove_if_there(path).map_err(self.place.failed("deleting a segment"))?;
        }
        Ok(())
    }
}

impl Log {
    /// Lets segments go whose youngest record is older than the retention time, that make the log larger than its retention
    /// size, or that lie below the log start offset; never one that reaches above the high watermark. The log start offset
    /// follows. Forgets producers that have expired, too.
    pub fn retain(&mut self, now: Timestamp, high_watermark: i64) -> Result<Vec<Removal>> {
        self.check_open()?;
        self.producers.forget_completed(high_watermark);
        self.producers.expire(now, self.config.producer_expiration_ms);
        if self.is_swapping() {
            // It is a matter of moments; the next time.
            return Ok(Vec::new());
        }
        let count = self.expired_segments(now, high_watermark)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        if count == self.segments.len() {
            // One has to stay, so an empty one follows.
            self.roll(self.end)?;
        }
        let start = self.start.max(self.segments[count].base);
        let mut epochs = self.epochs.clone();
        if epochs.truncate_from_start(start) {
            self.write_epochs(epochs)?;
        }
        self.start = start;
        self.compacting.version += 1;
        let place = &self.place;
        let removals = self.segments.drain(..count);
        let removals = removals.map(|segment| Removal::of_segment(place, segment.base, segment.size));
        let removals: Vec<Removal> = removals.collect();
        let first = self.segments[0].base;
        for offset in self.snapshots.iter().filter(|offset| **offset < first) {
            if removals.iter().all(|removal| removal.base != *offset) {
                let _ = self.place.remove_if_there(&self.place.path(*offset, SNAPSHOT));
            }
        }
        self.snapshots.retain(|offset| *offset >= first);
        self.unsynced.add_name();
        Ok(removals)
    }

    /// How many segments from the first on may go.
    fn expired_segments(&self, now: Timestamp, high_watermark: i64) -> Result<usize, LogError> {
        let mut size = self.size_bytes();
        let mut count = 0;
        for (at, segment) in self.segments.iter().enumerate() {
            let is_active = at + 1 == self.segments.len();
            let end = self.segments.get(at + 1).map_or(self.end, |next| next.base);
            if end > high_watermark || (is_active && segment.size == 0) {
                break;
            }
            let is_below_start = end <= self.start && !is_active;
            let is_too_much = self.config.deletes
                && self.config.retention_bytes.is_some_and(|limit| size >= limit.saturating_add(segment.size));
            let is_too_old = || -> Result<bool, LogError> {
                let (true, Some(limit)) = (self.config.deletes, self.config.retention_ms) else { return Ok(false) };
                // Without a timestamp nobody can say how old it is.
                Ok(self.largest_in(at)?.is_some_and(|(largest, _)| now.saturating_sub(largest) > limit))
            };
            // Compaction may leave nothing of a segment.
            let is_empty = self.config.deletes && segment.size == 0;
            if !is_below_start && !is_too_much && !is_empty && !is_too_old()? {
                break;
            }
            size -= segment.size;
            count += 1;
        }
        Ok(count)
    }
}
