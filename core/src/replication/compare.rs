//! Whether two places have the same records.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::outcomes::Outcomes;
use super::{Bounds, Run, Selection, Source, Topic, TopicPartition, Until};
use crate::record::{Batch, Limits};
use crate::{Error, ErrorKind, Result, Timestamp};

/// How much is read at a time.
const READ_BYTES: usize = 4 << 20;
/// How many partitions are compared at a time.
const PARTITIONS_AT_ONCE: usize = 4;

/// A partition's records from `start` to `end`, at two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// What it is called at the first.
    pub partition: TopicPartition,
    /// What it is called at the second.
    pub target: TopicPartition,
    /// The offsets.
    pub bounds: Bounds,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The partition at the second place.
    pub partition: TopicPartition,
    /// The first offset that was compared.
    pub start: i64,
    /// The offset after the last.
    pub end: i64,
    /// Records that both have, alike.
    pub same: u64,
    /// Records that one of them lacks, or that differ.
    pub differing: u64,
    /// The first of those, for people.
    pub first: Option<String>,
}

impl Compared {
    fn note(&mut self, offset: i64, what: &str) {
        self.differing += 1;
        if self.first.is_none() {
            self.first = Some(format!("{what} offset={offset}"));
        }
    }
}

/// Compares what consumers of committed records get from `left` and from `right`: offset, timestamp, key, value and headers of
/// every record. Batches that are the same byte for byte are not looked into. `ahead` is `left` once more, in which the
/// outcomes of transactions are looked up.
///
/// Checksums are verified on both sides. One answer for each of `wanted`, in their order; one that cannot be read is an error.
pub async fn compare(
    left: &dyn Source,
    ahead: &dyn Source,
    right: &dyn Source,
    wanted: &[Compare],
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Vec<Result<Compared>> {
    // By index and boxed, because the compiler cannot tell that it is `Send` otherwise.
    let compared = stream::iter(0..wanted.len()).map(|index| {
        let Compare { partition, target, bounds } = &wanted[index];
        let left = Reader::new(left, ahead, partition, *bounds);
        let right = Reader::new(right, right, target, *bounds);
        let comparing: futures::future::BoxFuture<'_, _> = Box::pin(partition_of(left, right, progress));
        async move { comparing.await.map_err(|error: Error| error.context(format_args!("partition={target}"))) }
    });
    compared.buffered(PARTITIONS_AT_ONCE).collect().await
}

/// What [`verify`] has found of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The comparison of the offsets that both have.
    pub compared: Compared,
    /// Offsets of the source that the target has removed: they are below its log start.
    pub removed: u64,
    /// Offsets of the source that are at or above the target's end.
    pub lacking: u64,
}

impl Verified {
    /// Whether the target has every record that the source has, but for what it has removed by itself.
    pub fn is_alike(&self) -> bool {
        self.compared.differing == 0 && self.lacking == 0
    }
}

/// Compares every record that `source` has of `topics` with what `target` has, where topics may be called otherwise. What the
/// target has beyond the source's end is not looked at. `ahead` is `source` once more; `progress` gets the number of records
/// that have been compared since the last call.
///
/// # Errors
/// `NotFound` if the target lacks a topic or partition; `Corrupt` if what is read is damaged; the source's and the target's.
pub async fn verify(
    source: &dyn Source,
    ahead: &dyn Source,
    target: &dyn Source,
    topics: &[Topic],
    renamed: &BTreeMap<String, String>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Vec<Verified>> {
    let name = |topic: &str| renamed.get(topic).cloned().unwrap_or_else(|| topic.to_owned());
    // Asked for by their names, so that one that is not there is an error.
    target.topics(&Selection::new(topics.iter().map(|topic| name(&topic.name)))?).await?;
    let partitions: Vec<TopicPartition> = topics.iter().flat_map(Topic::topic_partitions).collect();
    let targets: Vec<TopicPartition> =
        partitions.iter().map(|one| TopicPartition::new(name(&one.topic), one.partition)).collect();
    let ours = source.bounds(&partitions, Until::LastStable).await?;
    let theirs = target.bounds(&targets, Until::HighWatermark).await?;
    let mut wanted = Vec::with_capacity(partitions.len());
    let mut missing = Vec::with_capacity(partitions.len());
    for ((partition, target), (ours, theirs)) in partitions.into_iter().zip(targets).zip(ours.into_iter().zip(theirs)) {
        let (ours, theirs) = (ours?, theirs.map_err(|error| error.context(format_args!("partition={target}")))?);
        let count = |from: i64, to: i64| (to - from).max(0).unsigned_abs();
        missing.push((count(ours.start, theirs.start.min(ours.end)), count(theirs.end.max(ours.start), ours.end)));
        let start = ours.start.max(theirs.start).min(ours.end);
        let bounds = Bounds { start, end: ours.end.min(theirs.end).max(start), leader_epoch: -1 };
        wanted.push(Compare { partition, target, bounds });
    }
    let compared = compare(source, ahead, target, &wanted, progress).await;
    let verified = compared
        .into_iter()
        .zip(missing)
        .map(|(compared, (removed, lacking))| Ok(Verified { compared: compared?, removed, lacking }));
    verified.collect()
}

/// The first offset of a partition that has no record for consumers of committed ones, though it lies within `bounds`.
pub(super) async fn first_gap(
    source: &dyn Source,
    ahead: &dyn Source,
    partition: &TopicPartition,
    bounds: Bounds,
) -> Result<Option<i64>> {
    let mut reader = Reader::new(source, ahead, partition, bounds);
    let mut next = bounds.start;
    while let Some(batch) = reader.batch().await? {
        if batch.base_offset() > next {
            break;
        }
        if i64::from(batch.record_count()) != i64::from(batch.last_offset_delta()) + 1 {
            return Ok(Some(batch.base_offset().max(next)));
        }
        next = batch.next_offset();
    }
    Ok((next < bounds.end).then_some(next))
}

async fn partition_of(
    mut left: Reader<'_>,
    mut right: Reader<'_>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Compared> {
    let mut compared = Compared {
        partition: right.partition.clone(),
        start: left.next,
        end: left.end,
        same: 0,
        differing: 0,
        first: None,
    };
    loop {
        if left.records.is_empty() && right.records.is_empty() {
            let (one, other) = (left.batch().await?, right.batch().await?);
            match (one, other) {
                (None, None) => return Ok(compared),
                (Some(one), Some(other))
                    if one.base_offset() == other.base_offset()
                        && one.crc() == other.crc()
                        && one.size() == other.size()
                        && one.base_offset() >= compared.start =>
                {
                    let count = u64::try_from(one.record_count()).unwrap_or(0);
                    compared.same += count;
                    progress(count);
                    continue;
                }
                (one, other) => {
                    one.map_or(Ok(()), |batch| left.open(&batch))?;
                    other.map_or(Ok(()), |batch| right.open(&batch))?;
                }
            }
        }
        left.more().await?;
        right.more().await?;
        let offsets = (left.records.front().map(|one| one.offset), right.records.front().map(|one| one.offset));
        match offsets {
            (None, None) => {}
            (Some(one), other) if other.is_none_or(|other| one < other) => {
                compared.note(one, "record is missing");
                left.records.pop_front();
            }
            (one, Some(other)) if one.is_none_or(|one| other < one) => {
                compared.note(other, "record is one too many");
                right.records.pop_front();
            }
            _ => {
                let (one, other) = (left.records.pop_front(), right.records.pop_front());
                if let (Some(one), Some(other)) = (one, other) {
                    match one.difference(&other) {
                        None => compared.same += 1,
                        Some(what) => compared.note(one.offset, what),
                    }
                    progress(1);
                }
            }
        }
    }
}

/// A record by itself.
#[derive(Clone, Debug)]
struct Owned {
    offset: i64,
    timestamp: Timestamp,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(Bytes, Option<Bytes>)>,
}

impl Owned {
    fn difference(&self, other: &Self) -> Option<&'static str> {
        if self.timestamp != other.timestamp {
            return Some("timestamps differ");
        }
        if self.key != other.key {
            return Some("keys differ");
        }
        if self.value != other.value {
            return Some("values differ");
        }
        (self.headers != other.headers).then_some("headers differ")
    }
}

/// One side.
struct Reader<'a> {
    source: &'a dyn Source,
    ahead: &'a dyn Source,
    partition: &'a TopicPartition,
    start: i64,
    next: i64,
    end: i64,
    batches: VecDeque<Batch>,
    outcomes: Outcomes,
    records: VecDeque<Owned>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn Source, ahead: &'a dyn Source, partition: &'a TopicPartition, bounds: Bounds) -> Self {
        Self {
            source,
            ahead,
            partition,
            start: bounds.start,
            next: bounds.start,
            end: bounds.end,
            batches: VecDeque::new(),
            outcomes: Outcomes::default(),
            records: VecDeque::new(),
        }
    }

    /// The next batch whose records consumers get.
    async fn batch(&mut self) -> Result<Option<Batch>> {
        loop {
            while let Some(batch) = self.batches.pop_front() {
                if self.outcomes.is_visible(self.ahead, self.partition, &batch, self.end).await? {
                    return Ok(Some(batch));
                }
            }
            if self.next >= self.end {
                return Ok(None);
            }
            let mut size = READ_BYTES;
            let run = loop {
                let bytes = self.source.read(self.partition, self.next, size).await?;
                match Batch::claimed_size(&bytes) {
                    Some(claimed) if claimed > bytes.len() && claimed > size && claimed <= super::MAX_BATCH => {
                        size = claimed;
                    }
                    Some(claimed) if claimed > bytes.len() => {
                        let message = format!("a batch is cut off offset={}", self.next);
                        return Err(Error::new(ErrorKind::Corrupt, message));
                    }
                    _ => break Run::check(&bytes, self.next, -1, self.end)?,
                }
            };
            self.next = run.batches().last().map_or(self.end, Batch::next_offset);
            self.batches.extend(run.into_batches());
        }
    }

    /// Takes the records out of a batch.
    fn open(&mut self, batch: &Batch) -> Result<()> {
        let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES)?;
        let plain = records.bytes();
        for record in records.iter() {
            let record = record?;
            if record.offset < self.start || record.offset >= self.end {
                continue;
            }
            let slice = |bytes: &[u8]| plain.slice_ref(bytes);
            let headers = record.headers.raw().map(|header| {
                let (key, value) = header?;
                Ok::<_, Error>((slice(key), value.map(slice)))
            });
            self.records.push_back(Owned {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.map(slice),
                value: record.value.map(slice),
                headers: headers.collect::<Result<_>>()?,
            });
        }
        Ok(())
    }

    /// Has a record at hand, if there is one more.
    async fn more(&mut self) -> Result<()> {
        while self.records.is_empty() {
            let Some(batch) = self.batch().await? else { return Ok(()) };
            self.open(&batch)?;
        }
        Ok(())
    }
}
