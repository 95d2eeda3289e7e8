//! Which transactional batches were committed, found by reading ahead to the markers that end their transactions.

use std::collections::HashMap;

use super::{Source, TopicPartition};
use crate::record::{Batch, ControlType, batches};
use crate::{Error, ErrorKind, Result};

/// How much is read ahead at a time.
const AHEAD_BYTES: usize = 4 << 20;

/// The transactions of a partition, as far as they were needed.
///
/// Remembers only those that reach beyond what was asked about last.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// What lies below has been read.
    read_to: i64,
    /// Producers whose transaction had not ended there, and the first offset of it.
    open: HashMap<i64, i64>,
    aborted: Vec<Aborted>,
}

#[derive(Debug)]
struct Aborted {
    producer_id: i64,
    first: i64,
    /// Its marker's offset.
    marker: i64,
}

impl Outcomes {
    /// Whether a consumer that reads committed records gets those of `batch`: it is no marker, and its transaction, if it is
    /// in one, was committed below `end`. Asked about batches in their order.
    pub(super) async fn is_visible(
        &mut self,
        source: &dyn Source,
        partition: &TopicPartition,
        batch: &Batch,
        end: i64,
    ) -> Result<bool> {
        if batch.is_control() {
            return Ok(false);
        }
        if !batch.is_transactional() {
            return Ok(true);
        }
        let (producer_id, offset) = (batch.producer_id(), batch.base_offset());
        self.aborted.retain(|transaction| transaction.marker > offset);
        if self.read_to < offset {
            self.read_to = offset;
            self.open.clear();
        }
        loop {
            let ends_later = self.open.get(&producer_id).is_some_and(|first| *first <= offset);
            if self.read_to > offset && !ends_later {
                break;
            }
            if self.read_to >= end {
                // It has not ended, so nobody who reads committed records has them.
                return Ok(!ends_later);
            }
            self.read_on(source, partition, end).await?;
        }
        let is_aborted = self.aborted.iter().any(|one| one.producer_id == producer_id && one.first <= offset);
        Ok(!is_aborted)
    }

    async fn read_on(&mut self, source: &dyn Source, partition: &TopicPartition, end: i64) -> Result<()> {
        let mut size = AHEAD_BYTES;
        let bytes = loop {
            let bytes = source.read(partition, self.read_to, size).await?;
            match Batch::claimed_size(&bytes) {
                Some(claimed) if claimed > bytes.len() && claimed > size && claimed <= super::MAX_BATCH => {
                    size = claimed
                }
                Some(claimed) if claimed > bytes.len() => {
                    let message = format!("a batch is cut off partition={partition} offset={}", self.read_to);
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                _ => break bytes,
            }
        };
        let before = self.read_to;
        for batch in batches(bytes) {
            let batch = batch?;
            if batch.next_offset() <= self.read_to {
                continue;
            }
            self.read_to = batch.next_offset();
            if batch.is_control() {
                if let Some(first) = self.open.remove(&batch.producer_id())
                    && batch.control_type()? == ControlType::Abort
                {
                    let (producer_id, marker) = (batch.producer_id(), batch.base_offset());
                    self.aborted.push(Aborted { producer_id, first, marker });
                }
            } else if batch.is_transactional() {
                self.open.entry(batch.producer_id()).or_insert(batch.base_offset());
            }
        }
        if self.read_to == before {
            self.read_to = end;
        }
        Ok(())
    }
}
