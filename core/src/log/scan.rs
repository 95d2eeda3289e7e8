//! Walking over the batches of a segment without believing them.

use std::io;

use bytes::{Buf, Bytes};

use super::error::Damage;
use super::producers::ProducedBatch;
use crate::Timestamp;
use crate::record::Batch;
use crate::storage::File;

/// What is read at once where whole batches are wanted.
const WINDOW_BYTES: usize = 256 * 1024;

/// The fields of a batch's header that a log uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) base_offset: i64,
    /// Of the whole batch, in bytes.
    pub(crate) size: u32,
    pub(crate) leader_epoch: i32,
    pub(crate) crc: u32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
}

impl Header {
    /// Reads a header; `None` when the bytes are too few or are no header of a batch of version 2.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.get(..Batch::HEADER_LEN)?;
        let base_offset = bytes.get_i64();
        let length = bytes.get_i32();
        let leader_epoch = bytes.get_i32();
        let magic = bytes.get_i8();
        let crc = bytes.get_u32();
        let attributes = bytes.get_i16();
        let last_offset_delta = bytes.get_i32();
        let _base_timestamp = bytes.get_i64();
        let max_timestamp = bytes.get_i64();
        let producer_id = bytes.get_i64();
        let producer_epoch = bytes.get_i16();
        let base_sequence = bytes.get_i32();
        let record_count = bytes.get_i32();
        let is_whole = length >= (Batch::HEADER_LEN - Batch::LOG_OVERHEAD) as i32;
        if magic != 2 || !is_whole || base_offset < 0 || last_offset_delta < 0 {
            return None;
        }
        // The next offset has to be one, too.
        base_offset.checked_add(i64::from(last_offset_delta))?.checked_add(1)?;
        Some(Self {
            base_offset,
            size: length as u32 + Batch::LOG_OVERHEAD as u32,
            leader_epoch,
            crc,
            attributes,
            last_offset_delta,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count,
        })
    }

    /// The same fields of a batch that gets `base_offset` and `leader_epoch`.
    pub(crate) fn of(batch: &Batch, base_offset: i64, leader_epoch: i32) -> Self {
        Self {
            base_offset,
            size: batch.size() as u32,
            leader_epoch,
            crc: batch.crc(),
            attributes: batch.attributes(),
            last_offset_delta: batch.last_offset_delta(),
            max_timestamp: batch.max_timestamp(),
            producer_id: batch.producer_id(),
            producer_epoch: batch.producer_epoch(),
            base_sequence: batch.base_sequence(),
            record_count: batch.record_count(),
        }
    }

    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    pub(crate) fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & (1 << 4) != 0
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & (1 << 5) != 0
    }

    pub(crate) fn produced(&self) -> Option<ProducedBatch> {
        (self.producer_id >= 0).then(|| ProducedBatch {
            producer_id: self.producer_id,
            epoch: self.producer_epoch,
            last_sequence: match self.base_sequence {
                sequence if sequence < 0 => -1,
                sequence => sequence.wrapping_add(self.last_offset_delta) & i32::MAX,
            },
            base_offset: self.base_offset,
            last_offset: self.last_offset(),
            max_timestamp: self.max_timestamp,
            is_transactional: self.is_transactional(),
        })
    }
}

/// One step of a [`Scan`].
#[derive(Debug)]
pub(crate) enum Step {
    /// A batch lies at this position.
    Batch(u64, Header),
    /// What lies at this position is no whole batch.
    Damaged(u64, Damage),
    /// The end was reached exactly.
    End,
}

/// Goes from batch to batch, by headers alone or with checksums.
pub(crate) struct Scan<'a> {
    file: &'a dyn File,
    position: u64,
    end: u64,
    window: Bytes,
    window_position: u64,
    window_bytes: usize,
}

impl<'a> Scan<'a> {
    /// For many batches in a row.
    pub(crate) fn new(file: &'a dyn File, position: u64, end: u64) -> Self {
        Self::with_window(file, position, end, WINDOW_BYTES)
    }

    /// For a few headers: reads no more than `window_bytes` at once.
    pub(crate) fn with_window(file: &'a dyn File, position: u64, end: u64, window_bytes: usize) -> Self {
        let end = end.min(file.len());
        Self { file, position, end, window: Bytes::new(), window_position: position, window_bytes }
    }

    /// The next batch. `with_crc` verifies its checksum. After damage the scan stays where it is.
    pub(crate) fn next(&mut self, with_crc: bool) -> io::Result<Step> {
        let position = self.position;
        if position >= self.end {
            return Ok(Step::End);
        }
        let bytes = self.bytes(Batch::HEADER_LEN)?;
        if bytes.len() < Batch::HEADER_LEN {
            return Ok(Step::Damaged(position, Damage::CutShort));
        }
        let Some(header) = Header::parse(bytes) else { return Ok(Step::Damaged(position, Damage::Header)) };
        if u64::from(header.size) > self.end - position {
            return Ok(Step::Damaged(position, Damage::CutShort));
        }
        if with_crc {
            let bytes = self.bytes(header.size as usize)?;
            if bytes.len() < header.size as usize
                || crc32c::crc32c(&bytes[CRC_FROM..header.size as usize]) != header.crc
            {
                return Ok(Step::Damaged(position, Damage::Checksum));
            }
        }
        self.position += u64::from(header.size);
        Ok(Step::Batch(position, header))
    }

    /// Goes on at another position.
    pub(crate) fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Looks for the next whole batch behind the current position, byte by byte, and goes there. Its base offset has to
    /// be in `offsets`. `None`, and at the end, when there is none.
    pub(crate) fn resync(&mut self, offsets: std::ops::Range<i64>) -> io::Result<Option<(u64, Header)>> {
        while self.position + (Batch::HEADER_LEN as u64) < self.end {
            self.position += 1;
            let bytes = self.bytes(Batch::HEADER_LEN)?;
            // The magic byte first: it rejects nearly all positions at once.
            if bytes.get(MAGIC) != Some(&2) {
                continue;
            }
            let Some(header) = Header::parse(bytes) else { continue };
            if !offsets.contains(&header.base_offset) || u64::from(header.size) > self.end - self.position {
                continue;
            }
            let position = self.position;
            if let Step::Batch(..) = self.next(true)? {
                self.position = position;
                return Ok(Some((position, header)));
            }
        }
        self.position = self.end;
        Ok(None)
    }

    /// At least `len` bytes from the current position on, fewer only at the end.
    fn bytes(&mut self, len: usize) -> io::Result<&[u8]> {
        let wanted = (self.end - self.position).min(len as u64);
        let window_end = self.window_position + self.window.len() as u64;
        if self.position < self.window_position || self.position + wanted > window_end {
            let read = (self.end - self.position).min(len.max(self.window_bytes) as u64);
            self.window = self.file.read_at(self.position, read as usize)?;
            self.window_position = self.position;
        }
        Ok(&self.window[(self.position - self.window_position) as usize..])
    }
}

const MAGIC: usize = 16;
/// The checksum covers a batch from its attributes on.
const CRC_FROM: usize = 21;
