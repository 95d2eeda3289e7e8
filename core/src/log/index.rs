//! The sparse indexes of a segment: where an offset lies, and where a time.
//!
//! They save reading and are never believed: an entry counts only when the batch it points at agrees.

use bytes::{Buf, BufMut};

use crate::Timestamp;

/// Where a batch begins. Kafka indexes a batch by its *last* offset, relative to the segment's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    pub(crate) relative: u32,
    pub(crate) position: u32,
}

/// Nothing up to and including the offset has a larger timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub(crate) timestamp: Timestamp,
    pub(crate) relative: u32,
}

impl OffsetEntry {
    pub(crate) const LEN: usize = 8;
}

impl TimeEntry {
    pub(crate) const LEN: usize = 12;
}

/// Both indexes of a segment, in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indexes {
    /// Both fields rise strictly.
    pub(crate) offsets: Vec<OffsetEntry>,
    /// The timestamp rises strictly, the offset does not fall.
    pub(crate) times: Vec<TimeEntry>,
}

impl Indexes {
    /// The last entry at or below `relative`.
    pub(crate) fn floor(&self, relative: u32) -> Option<OffsetEntry> {
        let after = self.offsets.partition_point(|entry| entry.relative <= relative);
        Some(self.offsets[after.checked_sub(1)?])
    }

    /// The last entry whose timestamp lies below `timestamp`.
    pub(crate) fn before_time(&self, timestamp: Timestamp) -> Option<TimeEntry> {
        let after = self.times.partition_point(|entry| entry.timestamp < timestamp);
        Some(self.times[after.checked_sub(1)?])
    }

    pub(crate) fn push_time(&mut self, timestamp: Timestamp, relative: u32) {
        if timestamp >= 0 && self.times.last().is_none_or(|last| last.timestamp < timestamp) {
            self.times.push(TimeEntry { timestamp, relative });
        }
    }

    /// Drops what points at or behind `position`, and times at or behind the offset that begins there.
    pub(crate) fn truncate(&mut self, position: u64, relative: i64) {
        self.offsets.truncate(self.offsets.partition_point(|entry| u64::from(entry.position) < position));
        self.times.truncate(self.times.partition_point(|entry| i64::from(entry.relative) < relative));
    }

    pub(crate) fn encode_offsets(entries: &[OffsetEntry]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(entries.len() * OffsetEntry::LEN);
        for entry in entries {
            bytes.put_u32(entry.relative);
            bytes.put_u32(entry.position);
        }
        bytes
    }

    pub(crate) fn encode_times(entries: &[TimeEntry]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(entries.len() * TimeEntry::LEN);
        for entry in entries {
            bytes.put_i64(entry.timestamp);
            bytes.put_u32(entry.relative);
        }
        bytes
    }

    /// Reads an offset index of a segment of `size` bytes. Kafka's unfinished files end in zeroes, which are left out.
    /// `None` when an entry contradicts the others or the size.
    pub(crate) fn decode_offsets(mut bytes: &[u8], size: u64) -> Option<Vec<OffsetEntry>> {
        let mut entries: Vec<OffsetEntry> = Vec::with_capacity(bytes.len() / OffsetEntry::LEN);
        while bytes.len() >= OffsetEntry::LEN {
            let entry = OffsetEntry { relative: bytes.get_u32(), position: bytes.get_u32() };
            let is_zero = entry == OffsetEntry { relative: 0, position: 0 };
            if is_zero && bytes.iter().all(|byte| *byte == 0) {
                entries.shrink_to_fit();
                return Some(entries);
            }
            let rises =
                entries.last().is_none_or(|last| last.relative < entry.relative && last.position < entry.position);
            if !rises || u64::from(entry.position) >= size || entry.relative > i32::MAX as u32 {
                return None;
            }
            entries.push(entry);
        }
        bytes.is_empty().then_some(entries)
    }

    /// Reads a time index, as [`Self::decode_offsets`] does an offset index.
    pub(crate) fn decode_times(mut bytes: &[u8]) -> Option<Vec<TimeEntry>> {
        let mut entries: Vec<TimeEntry> = Vec::with_capacity(bytes.len() / TimeEntry::LEN);
        while bytes.len() >= TimeEntry::LEN {
            let entry = TimeEntry { timestamp: bytes.get_i64(), relative: bytes.get_u32() };
            let is_zero = entry == TimeEntry { timestamp: 0, relative: 0 };
            if is_zero && bytes.iter().all(|byte| *byte == 0) {
                entries.shrink_to_fit();
                return Some(entries);
            }
            let rises =
                entries.last().is_none_or(|last| last.timestamp < entry.timestamp && last.relative <= entry.relative);
            if !rises || entry.timestamp < 0 || entry.relative > i32::MAX as u32 {
                return None;
            }
            entries.push(entry);
        }
        bytes.is_empty().then_some(entries)
    }
}
