//! A source as it was at an earlier point in time.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};

use super::{
    Bounds, ClusterSettings, EpochEnd, GroupOffsets, Identity, MAX_BATCH, Selection, Source, Topic, TopicPartition,
    Until,
};
use crate::record::{Batch, batches};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How much is read at a time to find a point in time.
const READ_BYTES: usize = 4 << 20;

/// A point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Nothing from the first batch on that has a later record; `None` for no such bound.
    pub time: Option<Timestamp>,
    /// Nothing from these offsets on.
    pub offsets: HashMap<TopicPartition, i64>,
}

/// A source of which partitions end earlier.
///
/// Batches are not cut, and neither are transactions: a partition ends where a batch begins, and before the first transaction
/// that had not ended there. What groups had committed beyond is taken back to there.
pub struct Cut<'a> {
    source: &'a dyn Source,
    ends: HashMap<TopicPartition, i64>,
}

impl<'a> Cut<'a> {
    /// `source` as it was when it ended at `ends`, which [`find`](Self::find) has found.
    pub fn new(source: &'a dyn Source, ends: HashMap<TopicPartition, i64>) -> Self {
        Self { source, ends }
    }

    /// Where partitions of `topics` ended at that time. Reads what comes before it once.
    ///
    /// # Errors
    /// `NotFound` if an offset is of a partition that is not there, `OutOfRange` if it is below the log start; `Corrupt` if
    /// what is read is damaged.
    pub async fn find(source: &dyn Source, topics: &[Topic], at: &At) -> Result<HashMap<TopicPartition, i64>> {
        let partitions: Vec<TopicPartition> = topics.iter().flat_map(Topic::topic_partitions).collect();
        if let Some(missing) = at.offsets.keys().find(|wanted| !partitions.contains(wanted)) {
            return Err(Error::new(ErrorKind::NotFound, format!("no such partition partition={missing}")));
        }
        let bounds = source.bounds(&partitions, Until::LastStable).await?;
        let mut ends = HashMap::new();
        for (partition, bounds) in partitions.into_iter().zip(bounds) {
            let bounds = bounds?;
            let offset = at.offsets.get(&partition).copied();
            if offset.is_none() && at.time.is_none() {
                continue;
            }
            if let Some(offset) = offset.filter(|offset| *offset < bounds.start) {
                let message = format!(
                    "offset is below the log start partition={partition} offset={offset} start={}",
                    bounds.start
                );
                return Err(Error::new(ErrorKind::OutOfRange, message));
            }
            let is_later = |batch: &Batch| {
                offset.is_some_and(|offset| batch.next_offset() > offset)
                    || at.time.is_some_and(|time| batch.max_timestamp() > time && !batch.is_control())
            };
            let end = end_before(source, &partition, bounds, is_later);
            ends.insert(partition.clone(), end.await?.max(bounds.start));
        }
        Ok(ends)
    }

    fn end(&self, partition: &TopicPartition, end: i64) -> i64 {
        self.ends.get(partition).map_or(end, |cut| end.min(*cut))
    }
}

/// Where a partition ended before the first batch that `is_later`, and where its transactions were whole.
async fn end_before(
    source: &dyn Source,
    partition: &TopicPartition,
    bounds: Bounds,
    is_later: impl Fn(&Batch) -> bool,
) -> Result<i64> {
    let mut next = bounds.start;
    let mut open: HashMap<i64, i64> = HashMap::new();
    let mut size = READ_BYTES;
    'reading: while next < bounds.end {
        let bytes = source.read(partition, next, size).await?;
        match Batch::claimed_size(&bytes) {
            None => {
                next = bounds.end;
                break;
            }
            Some(claimed) if claimed > bytes.len() && claimed > size && claimed <= MAX_BATCH => {
                size = claimed;
                continue;
            }
            Some(_) => {}
        }
        let before = next;
        for batch in batches(bytes) {
            let batch = batch.map_err(|error| Error::from(error).context(format_args!("partition={partition}")))?;
            if batch.base_offset() >= bounds.end {
                next = bounds.end;
                break 'reading;
            }
            if is_later(&batch) {
                next = batch.base_offset();
                break 'reading;
            }
            if batch.is_control() {
                open.remove(&batch.producer_id());
            } else if batch.is_transactional() {
                open.entry(batch.producer_id()).or_insert(batch.base_offset());
            }
            next = batch.next_offset();
        }
        if next == before {
            let message = format!("a batch is cut off partition={partition} offset={next}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        size = READ_BYTES;
    }
    Ok(open.into_values().fold(next.min(bounds.end), i64::min))
}

impl Source for Cut<'_> {
    fn settings(&self) -> BoxFuture<'_, Result<ClusterSettings>> {
        self.source.settings()
    }

    fn identity(&self) -> BoxFuture<'_, Result<Identity>> {
        self.source.identity()
    }

    fn topics<'a>(&'a self, selection: &'a Selection) -> BoxFuture<'a, Result<Vec<Topic>>> {
        self.source.topics(selection)
    }

    fn committed<'a>(
        &'a self,
        topics: &'a [Topic],
        selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Vec<GroupOffsets>>> {
        async move {
            let mut groups = self.source.committed(topics, selection).await?;
            for committed in groups.iter_mut().flat_map(|group| &mut group.offsets) {
                committed.offset = self.end(&committed.partition, committed.offset);
            }
            Ok(groups)
        }
        .boxed()
    }

    fn bounds<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
        until: Until,
    ) -> BoxFuture<'a, Result<Vec<Result<Bounds>>>> {
        async move {
            let bounds = self.source.bounds(partitions, until).await?;
            let cut = partitions.iter().zip(bounds).map(|(partition, bounds)| {
                let bounds = bounds?;
                Ok(Bounds { end: self.end(partition, bounds.end), ..bounds })
            });
            Ok(cut.collect())
        }
        .boxed()
    }

    fn epoch_ends<'a>(
        &'a self,
        epochs: &'a [(TopicPartition, i32)],
    ) -> BoxFuture<'a, Result<Vec<Result<Option<EpochEnd>>>>> {
        async move {
            let ends = self.source.epoch_ends(epochs).await?;
            let cut = epochs
                .iter()
                .zip(ends)
                .map(|((partition, _), end)| Ok(end?.map(|end| EpochEnd { end: self.end(partition, end.end), ..end })));
            Ok(cut.collect())
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        partition: &'a TopicPartition,
        offset: i64,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Bytes>> {
        self.source.read(partition, offset, max_bytes)
    }

    fn round_trip(&self) -> Duration {
        self.source.round_trip()
    }

    fn least_read(&self) -> usize {
        self.source.least_read()
    }
}

impl std::fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cut").field("ends", &self.ends).finish_non_exhaustive()
    }
}
