//! Control batches: records of the broker's own, which mark where a transaction ends.

use super::{Batch, Builder, Limits, NO_HEADERS, ProducerFields, RecordError};
use crate::Timestamp;

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlType {
    /// The producer's transaction was aborted.
    Abort,
    /// The producer's transaction was committed.
    Commit,
    /// One of those that Kafka's controllers write to their own log, by its number.
    Other(i16),
}

/// The end of a transaction, as a control record tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransaction {
    /// How it ended.
    pub control_type: ControlType,
    /// The epoch of the transaction coordinator that ended it.
    pub coordinator_epoch: i32,
}

impl ControlType {
    /// Its number in the record's key.
    pub const fn id(self) -> i16 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
            Self::Other(id) => id,
        }
    }

    /// The type of a number.
    pub const fn from_id(id: i16) -> Self {
        match id {
            0 => Self::Abort,
            1 => Self::Commit,
            id => Self::Other(id),
        }
    }
}

/// The batch that ends the transaction of a producer (`EndTransactionMarker`): one control record, part of the transaction.
///
/// `coordinator_epoch` is the transaction coordinator's, `timestamp` the time of the append.
pub fn control_batch(
    base_offset: i64,
    leader_epoch: i32,
    producer_id: i64,
    producer_epoch: i16,
    control_type: ControlType,
    coordinator_epoch: i32,
    timestamp: Timestamp,
) -> Batch {
    let mut key = [0; 4];
    key[2..].copy_from_slice(&control_type.id().to_be_bytes());
    let mut value = [0; 6];
    value[2..].copy_from_slice(&coordinator_epoch.to_be_bytes());
    let mut builder = Builder::new_control();
    let producer = ProducerFields { producer_id, producer_epoch, base_sequence: -1 };
    builder
        .append(timestamp, Some(&key), Some(&value), NO_HEADERS)
        .and_then(|_| builder.seal_at(producer, base_offset, leader_epoch))
        .expect("one small record, and an offset below 2^63-1")
}

impl Batch {
    /// What the control record of this control batch says.
    ///
    /// # Errors
    /// When this is not a control batch, and when its record is not one.
    pub fn control_type(&self) -> Result<ControlType, RecordError> {
        self.control_record(|_, control_type, _| Some(control_type))
    }

    /// How the transaction ended that this control batch is the end of.
    ///
    /// # Errors
    /// When this is not a control batch, when it is of another type than commit and abort, and when its record is malformed.
    pub fn end_transaction(&self) -> Result<EndTransaction, RecordError> {
        self.control_record(|_, control_type, value| {
            if let ControlType::Other(_) = control_type {
                return None;
            }
            // Later versions append fields to the value.
            let &[a, b, c, d] = value?.get(2..6)? else { return None };
            Some(EndTransaction { control_type, coordinator_epoch: i32::from_be_bytes([a, b, c, d]) })
        })
    }

    fn control_record<T>(
        &self,
        read: impl FnOnce(i16, ControlType, Option<&[u8]>) -> Option<T>,
    ) -> Result<T, RecordError> {
        let base_offset = self.base_offset();
        if !self.is_control() {
            return Err(RecordError::NotControl { base_offset });
        }
        let records = self.records(Limits::MAX_DECOMPRESSED_BYTES)?;
        let malformed = RecordError::MalformedControl { base_offset };
        let record = records.iter().next().ok_or(malformed.clone())??;
        let Some(&[a, b, c, d, ..]) = record.key else { return Err(malformed) };
        let version = i16::from_be_bytes([a, b]);
        if version < 0 {
            return Err(malformed);
        }
        read(version, ControlType::from_id(i16::from_be_bytes([c, d])), record.value).ok_or(malformed)
    }
}
