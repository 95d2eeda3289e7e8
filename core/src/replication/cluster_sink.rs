//! A cluster as a sink: records at their original offsets, by what any client may ask of a broker.
//!
//! A broker gives offsets one after the other, so what is not there is made up for: the offsets before the log start by
//! batches of empty records, which `DeleteRecords` then removes, and those within it by transaction markers
//! (`WriteTxnMarkers`), which no consumer sees. Of transactions the outcome is written: the records of committed ones as
//! plain records, those of aborted ones not at all. Records keep their timestamps: a topic whose broker sets them takes the
//! producer's meanwhile. Batches are sent as they are but for their producer's fields, unless they lack records or have the
//! broker's timestamp; such ones are cut anew.
//!
//! Nothing is left to chance: batches are numbered as an idempotent producer's, so that none is written twice, and each answer
//! has to name the offset that is expected.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::lock::Mutex as AsyncMutex;
use futures::stream::{FuturesOrdered, StreamExt};

use super::cluster::{EARLIEST, LATEST, leader, unanswered};
use super::outcomes::Outcomes;
use super::{Bounds, ClusterSource, EpochEnd, Hole, Run, Sink, SinkEnd, Source, TopicPartition};
use crate::client::{Admin, check};
use crate::protocol::ErrorCode;
use crate::protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use crate::protocol::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic};
use crate::protocol::messages::{InitProducerIdRequest, ProduceRequest, WriteTxnMarkersRequest};
use crate::record::{
    Batch, Builder, BuilderOptions, Compression, Limits, NO_HEADERS, ProducerFields, RecordError, TimestampType,
};
use crate::{Error, ErrorKind, Result};

/// Requests of a partition that are under way at a time: as many as a broker remembers to tell a repeated one by.
const IN_FLIGHT: usize = 5;
/// Bytes of them, about.
const IN_FLIGHT_BYTES: usize = 8 << 20;
/// Markers in a request. Each is a batch of 78 bytes.
const MARKERS_AT_ONCE: i64 = 500;
/// Empty records in a batch before the log start: 0.8 MB as zstd packs them, within the usual `max.message.bytes`.
const FILLERS_AT_ONCE: i64 = 1_000_000;
/// How long a broker may wait for its followers.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// A cluster as a sink. The topics are there, and take records of any time and size, with the producer's timestamps.
pub struct ClusterSink<'a> {
    cluster: ClusterSource,
    /// Where the outcomes of transactions are looked up; the source, opened once more.
    ahead: &'a dyn Source,
    /// What topics are called at the target that are called otherwise at the source.
    renamed: BTreeMap<String, String>,
    producer: (i64, i16),
    /// The producer id that markers are written with. It writes nothing else, so none of them ends a transaction.
    marker_id: i64,
    lanes: Mutex<HashMap<TopicPartition, Arc<AsyncMutex<Lane>>>>,
    fillers: OnceLock<Batch>,
}

/// What is known of a partition while it is written.
#[derive(Debug, Default)]
struct Lane {
    /// The offset that the target gives to the next record.
    next: i64,
    /// Below this, what is not there may be anything.
    start: i64,
    /// The source's end; where the outcomes of transactions are looked for.
    end: i64,
    sequence: i32,
    outcomes: Outcomes,
}

/// What a batch of the source becomes.
enum Piece {
    /// A batch for the offsets from `at` on.
    Batch { at: i64, batch: Batch },
    /// Nothing up to this offset.
    Gap { upto: i64 },
}

impl<'a> ClusterSink<'a> {
    /// A sink that writes to `cluster`. `ends` are where partitions end at the source.
    ///
    /// # Errors
    /// What the cluster answers to the request for producer ids.
    pub(super) async fn new(
        cluster: ClusterSource,
        ahead: &'a dyn Source,
        renamed: BTreeMap<String, String>,
        ends: impl IntoIterator<Item = (TopicPartition, Bounds)>,
    ) -> Result<Self> {
        let producer = producer_id(&cluster).await?;
        let (marker_id, _) = producer_id(&cluster).await?;
        let lane = |bounds: Bounds| Lane { end: bounds.end, start: bounds.start, ..Lane::default() };
        let lanes = ends.into_iter().map(|(partition, bounds)| (partition, Arc::new(AsyncMutex::new(lane(bounds)))));
        Ok(Self {
            cluster,
            ahead,
            renamed,
            producer,
            marker_id,
            lanes: Mutex::new(lanes.collect()),
            fillers: OnceLock::new(),
        })
    }

    /// What a partition is called at the target.
    pub(super) fn target(&self, partition: &TopicPartition) -> TopicPartition {
        match self.renamed.get(&*partition.topic) {
            Some(name) => TopicPartition::new(name.as_str(), partition.partition),
            None => partition.clone(),
        }
    }

    fn lane(&self, partition: &TopicPartition) -> Result<Arc<AsyncMutex<Lane>>> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::new(ErrorKind::Internal, format!("partition was not planned partition={partition}"));
        lanes.get(partition).map(Arc::clone).ok_or_else(missing)
    }

    /// Whether markers may be written: asked with one for a partition that no topic has.
    ///
    /// # Errors
    /// `Denied` or `Unsupported` if not; what the cluster answers.
    pub(super) async fn check_markers(&self, topic: &str) -> Result<()> {
        let nowhere = TopicPartition::new(topic, i32::MAX);
        let request = self.markers(&nowhere, 1);
        let client = self.cluster.client();
        let response = client.retry(self.cluster.patience(), || client.call_any(request.clone())).await?;
        let codes = response.markers.iter().flat_map(|marker| &marker.topics).flat_map(|topic| &topic.partitions);
        for code in codes.map(|partition| partition.error_code) {
            if code != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
                check(code, None, format_args!("topic={topic}"))?;
            }
        }
        Ok(())
    }

    fn markers(&self, target: &TopicPartition, count: i64) -> WriteTxnMarkersRequest {
        let topic = WritableTxnMarkerTopic {
            name: target.topic.to_string(),
            partition_indexes: vec![target.partition],
        };
        let marker = WritableTxnMarker {
            producer_id: self.marker_id,
            producer_epoch: 0,
            transaction_result: true,
            topics: vec![topic],
            coordinator_epoch: 0,
            transaction_version: 0,
        };
        WriteTxnMarkersRequest { markers: vec![marker; usize::try_from(count).unwrap_or(0)] }
    }

    /// Where the target's partition ends. What followers do not have yet is waited for, up to `at_least`.
    async fn end_of(&self, target: &TopicPartition, at_least: i64) -> Result<i64> {
        let client = self.cluster.client();
        let deadline = client.clock().monotonic().saturating_add(self.cluster.patience());
        for tries in 0.. {
            let found = self.cluster.offsets(std::slice::from_ref(target), LATEST, 0).await;
            let (end, _) = found.into_iter().next().unwrap_or_else(|| Err(unanswered()))?;
            let pause = client.backoff(tries);
            if end >= at_least || client.clock().monotonic().saturating_add(pause) >= deadline {
                return Ok(end);
            }
            client.clock().sleep(pause).await;
        }
        Err(unanswered())
    }

    /// Fills the offsets up to `upto` with what no consumer sees.
    async fn fill(&self, target: &TopicPartition, lane: &mut Lane, upto: i64) -> Result<()> {
        // Below the log start, what is cheap.
        let start = lane.start.min(upto);
        while lane.next < start {
            let mut batches = Vec::with_capacity(IN_FLIGHT);
            let mut at = lane.next;
            while at < start && batches.len() < IN_FLIGHT {
                let count = (start - at).min(FILLERS_AT_ONCE);
                batches.push((at, self.filler(count)?));
                at += count;
            }
            self.produce(target, lane, batches).await?;
        }
        let client = self.cluster.client();
        let mut tries = 0;
        while lane.next < upto {
            let count = (upto - lane.next).min(MARKERS_AT_ONCE);
            let written = self.write_markers(target, count, tries > 0).await;
            match written {
                Ok(()) => {
                    lane.next += count;
                    tries = 0;
                }
                Err(error) if error.is_retriable() && tries < 10 => {
                    // Some may have been written: the end tells how many.
                    client.clock().sleep(client.backoff(tries)).await;
                    let end = self.end_of(target, lane.next).await?;
                    if end < lane.next || end > lane.next + count {
                        return Err(elsewhere(target, lane.next, end));
                    }
                    lane.next = end;
                    tries += 1;
                }
                Err(error) => return Err(error.context(format_args!("filling a gap partition={target}"))),
            }
        }
        Ok(())
    }

    async fn write_markers(&self, target: &TopicPartition, count: i64, anew: bool) -> Result<()> {
        let cluster = self.cluster.cluster(std::slice::from_ref(target), &[0], anew).await?;
        let request = self.markers(target, count);
        let response = self.cluster.client().call_node(leader(&cluster, target)?, request).await?;
        let mut codes = response.markers.iter().flat_map(|marker| &marker.topics).flat_map(|topic| &topic.partitions);
        codes.try_for_each(|partition| check(partition.error_code, None, format_args!("partition={target}")))
    }

    /// So many empty records, packed.
    fn filler(&self, count: i64) -> Result<Batch> {
        if count == FILLERS_AT_ONCE
            && let Some(known) = self.fillers.get()
        {
            return Ok(known.clone());
        }
        let mut builder = Builder::new(BuilderOptions { compression: Compression::Zstd, ..BuilderOptions::default() });
        for _ in 0..count {
            builder.append(0, None, None, NO_HEADERS)?;
        }
        let batch = builder.seal(ProducerFields::NONE)?;
        if count == FILLERS_AT_ONCE {
            let _ = self.fillers.set(batch.clone());
        }
        Ok(batch)
    }

    /// Sends batches one behind the other, several at a time, each for the offset beside it; returns when all are written.
    async fn produce(&self, target: &TopicPartition, lane: &mut Lane, batches: Vec<(i64, Batch)>) -> Result<()> {
        let client = self.cluster.client();
        let (producer_id, producer_epoch) = self.producer;
        let mut done = 0;
        let mut tries = 0;
        let mut anew = false;
        let deadline = client.clock().monotonic().saturating_add(self.cluster.patience());
        while done < batches.len() {
            let (mut sent, mut sequence, mut bytes) = (done, lane.sequence, 0);
            let mut under_way = FuturesOrdered::new();
            let failed = loop {
                while sent < batches.len()
                    && under_way.len() < IN_FLIGHT
                    && (under_way.is_empty() || bytes + batches[sent].1.size() <= IN_FLIGHT_BYTES)
                {
                    let batch = &batches[sent].1;
                    let fields = ProducerFields { producer_id, producer_epoch, base_sequence: sequence };
                    let batch = batch.as_produced(fields);
                    bytes += batch.size();
                    sequence = sequence.wrapping_add(batch.record_count()) & i32::MAX;
                    under_way.push_back(self.produce_one(target, batch, anew && sent == done));
                    sent += 1;
                }
                let Some(answer) = under_way.next().await else { break None };
                let (at, batch) = &batches[done];
                bytes -= batch.size();
                match answer {
                    Ok(offset) if offset == *at => {
                        lane.sequence = lane.sequence.wrapping_add(batch.record_count()) & i32::MAX;
                        lane.next = at + i64::from(batch.last_offset_delta()) + 1;
                        done += 1;
                        (tries, anew) = (0, false);
                    }
                    Ok(offset) => break Some(elsewhere(target, *at, offset)),
                    Err(error) => break Some(error),
                }
            };
            let Some(error) = failed else { continue };
            // What was sent behind it is refused, for it is out of order, or written where it belongs.
            while under_way.next().await.is_some() {}
            let pause = client.backoff(tries);
            let is_late = client.clock().monotonic().saturating_add(pause) >= deadline;
            if !error.is_retriable() || is_late {
                return Err(error.context(format_args!("partition={target} offset={}", batches[done].0)));
            }
            client.clock().sleep(pause).await;
            tries += 1;
            anew = true;
        }
        Ok(())
    }

    /// One Produce of one batch; the offset that it got.
    async fn produce_one(&self, target: &TopicPartition, batch: Batch, anew: bool) -> Result<i64> {
        let cluster = self.cluster.cluster(std::slice::from_ref(target), &[0], anew).await?;
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: PRODUCE_TIMEOUT_MS,
            topic_data: vec![TopicProduceData {
                name: target.topic.to_string(),
                partition_data: vec![PartitionProduceData {
                    index: target.partition,
                    records: Some(batch.into_bytes()),
                }],
                ..Default::default()
            }],
        };
        let response = self.cluster.client().call_node(leader(&cluster, target)?, request).await?;
        let answer = response.responses.iter().flat_map(|topic| &topic.partition_responses).next();
        let answer = answer.ok_or_else(unanswered)?;
        check(answer.error_code, answer.error_message.as_deref(), format_args!("partition={target}"))?;
        Ok(answer.base_offset)
    }

    async fn write_run(&self, partition: &TopicPartition, run: Run) -> Result<()> {
        let lane = self.lane(partition)?;
        let mut lane = lane.lock().await;
        let target = self.target(partition);
        let end = lane.end;
        let mut ready: Vec<(i64, Batch)> = Vec::new();
        // Where those that are ready end.
        let mut at = lane.next;
        for batch in run.batches() {
            let visible = lane.outcomes.is_visible(self.ahead, partition, batch, end).await?;
            let pieces = if visible { pieces(batch)? } else { Vec::new() };
            let pieces = pieces.into_iter().chain([Piece::Gap { upto: batch.next_offset() }]);
            for piece in pieces {
                let (wanted, batch) = match piece {
                    Piece::Batch { at, batch } => (at, Some(batch)),
                    Piece::Gap { upto } => (upto, None),
                };
                if wanted < at {
                    let message = format!("offsets go back partition={target} expected={at} found={wanted}");
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                if wanted > at {
                    if !ready.is_empty() {
                        self.produce(&target, &mut lane, std::mem::take(&mut ready)).await?;
                    }
                    // A gap at the end may go on in the next batch; it is filled when something follows.
                    if batch.is_some() {
                        self.fill(&target, &mut lane, wanted).await?;
                        at = wanted;
                    }
                }
                if let Some(batch) = batch {
                    ready.push((wanted, batch.clone()));
                    at = wanted + i64::from(batch.last_offset_delta()) + 1;
                }
            }
        }
        if !ready.is_empty() {
            self.produce(&target, &mut lane, ready).await?;
        }
        Ok(())
    }
}

/// A producer id that nobody has.
async fn producer_id(cluster: &ClusterSource) -> Result<(i64, i16)> {
    let client = cluster.client();
    let ask = || async {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            ..InitProducerIdRequest::default()
        };
        let response = client.call_any(request).await?;
        check(response.error_code, None, "asking for a producer id")?;
        Ok((response.producer_id, response.producer_epoch))
    };
    client.retry(cluster.patience(), ask).await
}

fn elsewhere(target: &TopicPartition, expected: i64, found: i64) -> Error {
    let message = format!(
        "somebody else writes to the partition, so offsets cannot be kept: stop its producers and run it again \
         partition={target} expected={expected} found={found}"
    );
    Error::new(ErrorKind::Invalid, message)
}

/// What a batch with records for consumers becomes: itself, where its offsets are dense and its timestamps its producer's.
fn pieces(batch: &Batch) -> Result<Vec<Piece>, RecordError> {
    let is_dense = i64::from(batch.record_count()) == i64::from(batch.last_offset_delta()) + 1;
    if is_dense && batch.timestamp_type() == TimestampType::CreateTime && !batch.has_delete_horizon() {
        return Ok(vec![Piece::Batch { at: batch.base_offset(), batch: batch.clone() }]);
    }
    let options = BuilderOptions { compression: batch.compression(), ..BuilderOptions::default() };
    let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES)?;
    let mut pieces = Vec::new();
    let mut builder = Builder::new(options);
    let mut at = batch.base_offset();
    for record in records.iter() {
        let record = record?;
        if record.offset != at + builder.len() as i64 && !builder.is_empty() {
            let full = std::mem::replace(&mut builder, Builder::new(options));
            pieces.push(Piece::Batch { at, batch: full.seal(ProducerFields::NONE)? });
        }
        if builder.is_empty() {
            at = record.offset;
        }
        let headers = record.headers.raw().collect::<Result<Vec<_>, _>>()?;
        builder.append(record.timestamp, record.key, record.value, headers.into_iter())?;
    }
    if !builder.is_empty() {
        pieces.push(Piece::Batch { at, batch: builder.seal(ProducerFields::NONE)? });
    }
    Ok(pieces)
}

impl Sink for ClusterSink<'_> {
    fn ends<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Option<SinkEnd>>>> {
        async move {
            let targets: Vec<TopicPartition> = partitions.iter().map(|partition| self.target(partition)).collect();
            let found = self.cluster.offsets(&targets, LATEST, 0).await;
            let mut ends = Vec::with_capacity(partitions.len());
            for (partition, found) in partitions.iter().zip(found) {
                let (end, _) = found?;
                self.lane(partition)?.lock().await.next = end;
                // Epochs are the target's own, and tell nothing of the source's.
                ends.push((end > 0).then_some(SinkEnd { end, leader_epoch: -1, last: None }));
            }
            Ok(ends)
        }
        .boxed()
    }

    fn begin<'a>(&'a self, partition: &'a TopicPartition, start: i64, hole: Option<Hole>) -> BoxFuture<'a, Result<()>> {
        async move {
            if let Some(Hole { start, end }) = hole {
                log::warn!("offsets are filled that the source lacks partition={partition} offsets={start}..{end}");
            }
            let lane = self.lane(partition)?;
            let mut lane = lane.lock().await;
            lane.start = lane.start.max(start);
            Ok(())
        }
        .boxed()
    }

    fn truncate<'a>(&'a self, partition: &'a TopicPartition, to: EpochEnd) -> BoxFuture<'a, Result<Option<SinkEnd>>> {
        let message =
            format!("a cluster's records cannot be taken back partition={partition} offset={}", to.end);
        futures::future::ready(Err(Error::new(ErrorKind::Unsupported, message))).boxed()
    }

    fn write<'a>(&'a self, partition: &'a TopicPartition, run: Run) -> BoxFuture<'a, Result<()>> {
        self.write_run(partition, run).boxed()
    }

    fn finish<'a>(&'a self, partition: &'a TopicPartition, bounds: Bounds) -> BoxFuture<'a, Result<()>> {
        async move {
            let lane = self.lane(partition)?;
            let mut lane = lane.lock().await;
            let target = self.target(partition);
            lane.start = lane.start.max(bounds.start);
            self.fill(&target, &mut lane, bounds.end).await?;
            let end = self.end_of(&target, bounds.end).await?;
            if end != bounds.end {
                return Err(elsewhere(&target, bounds.end, end));
            }
            let found = self.cluster.offsets(std::slice::from_ref(&target), EARLIEST, 0).await;
            let (start, _) = found.into_iter().next().unwrap_or_else(|| Err(unanswered()))?;
            if start < bounds.start {
                let admin = Admin::new(self.cluster.client().clone());
                let wanted = HashMap::from([(target.clone(), bounds.start)]);
                let deleted = admin.delete_records(&wanted, Duration::max(self.cluster.patience(), PATIENCE)).await?;
                deleted.into_values().try_for_each(|result| result.map(drop))?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// How long records are waited for that are to be removed.
const PATIENCE: Duration = Duration::from_secs(30);

impl std::fmt::Debug for ClusterSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterSink").field("renamed", &self.renamed).finish_non_exhaustive()
    }
}
