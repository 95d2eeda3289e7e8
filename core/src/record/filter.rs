//! What compaction leaves of a batch.

use super::{
    Batch, Compression, Record, RecordError, TimestampType,
    batch::{
        ATTRIBUTES, BASE_TIMESTAMP, BATCH_LENGTH, COMPRESSION_MASK, DELETE_HORIZON, LAST_OFFSET_DELTA, MAX_TIMESTAMP,
        PARTITION_LEADER_EPOCH, PRODUCER_ID, RECORD_COUNT, seal_crc,
    },
    varint,
};
use crate::Timestamp;

impl Batch {
    /// A copy with the records that `keep` wants, at their offsets and in the batch's own codec. The rest of the header says
    /// what it said: the offsets and the producer's sequences that the batch had, so that both go on behind it. Without any
    /// record the header alone is left.
    ///
    /// `delete_horizon` is noted in the batch as the time from which on its tombstones may go ([`Self::has_delete_horizon`]).
    /// No more than `limit` bytes are decompressed.
    ///
    /// # Errors
    /// Those of [`Self::records`] and of reading them, and when the codec fails.
    pub fn filtered(
        &self,
        delete_horizon: Option<Timestamp>,
        limit: usize,
        mut keep: impl FnMut(&Record<'_>) -> bool,
    ) -> Result<Self, RecordError> {
        let records = self.records(limit)?;
        let base_timestamp = delete_horizon.unwrap_or(self.base_timestamp());
        let mut plain = Vec::new();
        let mut body = Vec::new();
        let mut count = 0_i32;
        let mut max_timestamp = Timestamp::MIN;
        for record in &records {
            let record = record?;
            if !keep(&record) {
                continue;
            }
            body.clear();
            body.push(0); // attributes, of which none are in use
            varint::put(&mut body, record.timestamp.wrapping_sub(base_timestamp));
            varint::put(&mut body, record.offset - self.base_offset());
            for field in [record.key, record.value] {
                match field {
                    Some(bytes) => {
                        varint::put(&mut body, bytes.len() as i64);
                        body.extend_from_slice(bytes);
                    }
                    None => varint::put(&mut body, -1),
                }
            }
            let (header_count, headers) = record.headers.encoded();
            varint::put(&mut body, i64::from(header_count));
            body.extend_from_slice(headers);
            varint::put(&mut plain, body.len() as i64);
            plain.extend_from_slice(&body);
            count += 1;
            max_timestamp = max_timestamp.max(record.timestamp);
        }
        let mut bytes = self.as_bytes()[..Self::HEADER_LEN].to_vec();
        let mut attributes = self.attributes();
        if count == 0 {
            attributes &= !(COMPRESSION_MASK | DELETE_HORIZON);
            bytes[BASE_TIMESTAMP..MAX_TIMESTAMP].copy_from_slice(&(-1_i64).to_be_bytes());
        } else {
            match self.compression() {
                Compression::None => bytes.extend_from_slice(&plain),
                codec => codec.compress(None, &plain, &mut bytes)?,
            }
            if delete_horizon.is_some() {
                attributes |= DELETE_HORIZON;
            }
            bytes[BASE_TIMESTAMP..MAX_TIMESTAMP].copy_from_slice(&base_timestamp.to_be_bytes());
            if self.timestamp_type() == TimestampType::CreateTime {
                bytes[MAX_TIMESTAMP..PRODUCER_ID].copy_from_slice(&max_timestamp.to_be_bytes());
            }
        }
        let size = bytes.len();
        let Ok(length) = i32::try_from(size - Self::LOG_OVERHEAD) else {
            return Err(RecordError::TooLarge { size, limit: i32::MAX as usize });
        };
        bytes[BATCH_LENGTH..PARTITION_LEADER_EPOCH].copy_from_slice(&length.to_be_bytes());
        bytes[ATTRIBUTES..LAST_OFFSET_DELTA].copy_from_slice(&attributes.to_be_bytes());
        bytes[RECORD_COUNT..Self::HEADER_LEN].copy_from_slice(&count.to_be_bytes());
        seal_crc(&mut bytes);
        Ok(Self::sealed(bytes.into()))
    }
}
