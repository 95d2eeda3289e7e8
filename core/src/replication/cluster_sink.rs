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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::lock::Mutex as AsyncMutex;
use futures::stream::{FuturesOrdered, StreamExt};

use super::cluster::{EARLIEST, LATEST, leader, unanswered};
use super::outcomes::Outcomes;
use super::{Bounds, ClusterSource, EpochEnd, Hole, Run, Sink, SinkEnd, Source, TopicPartition};
use crate::client::{Admin, CoordinatorType, Topics, check};
use crate::protocol::messages::add_partitions_to_txn::AddPartitionsToTxnTopic;
use crate::protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use crate::protocol::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic};
use crate::protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, ProduceRequest, WriteTxnMarkersRequest,
};
use crate::protocol::{ApiKey, ErrorCode};
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
/// Transactions without records that fill a gap at a time.
const TRANSACTIONS_AT_ONCE: i64 = 20;
/// How long one of them may take.
const TRANSACTION_TIMEOUT_MS: i32 = 60_000;
/// How often what may have been written, or overtaken, is tried again.
const TRIES: u32 = 10;
/// How long a broker may wait for its followers.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// A cluster as a sink. The topics are there, and take records of any time and size, with the producer's timestamps.
pub(super) struct ClusterSink<'a> {
    cluster: ClusterSource,
    /// Where the outcomes of transactions are looked up; the source, opened once more.
    ahead: &'a dyn Source,
    /// What topics are called at the target that are called otherwise at the source.
    renamed: BTreeMap<String, String>,
    /// Partitions of the target whose older records stay.
    keeping: HashSet<TopicPartition>,
    producer: (i64, i16),
    gaps: Gaps,
    lanes: Mutex<HashMap<TopicPartition, Arc<AsyncMutex<Lane>>>>,
    fillers: OnceLock<Batch>,
}

/// How offsets within a log are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gaps {
    /// By markers of this producer id, which writes nothing else, so that none of them ends a transaction.
    Markers(i64),
    /// By transactions without records, where that is all we may do: their markers are one offset each.
    Transactions,
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
    /// Whether the broker knows our sequences here. Before, it would take any batch for the first.
    confirmed: bool,
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
        let (producer, marker) = (producer_id(&cluster, None).await?, producer_id(&cluster, None).await?);
        let lane = |bounds: Bounds| Lane { end: bounds.end, start: bounds.start, ..Lane::default() };
        let lanes = ends.into_iter().map(|(partition, bounds)| (partition, Arc::new(AsyncMutex::new(lane(bounds)))));
        Ok(Self {
            cluster,
            ahead,
            renamed,
            keeping: HashSet::new(),
            producer,
            gaps: Gaps::Markers(marker.0),
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

    /// The same, leaving what these partitions of the target have from before the source's log start.
    pub(super) fn keeping(self, keeping: HashSet<TopicPartition>) -> Self {
        Self { keeping, ..self }
    }

    fn lane(&self, partition: &TopicPartition) -> Result<Arc<AsyncMutex<Lane>>> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || Error::new(ErrorKind::Internal, format!("partition was not planned partition={partition}"));
        lanes.get(partition).map(Arc::clone).ok_or_else(missing)
    }

    /// The same, filling gaps within logs by what this client may do, and why it can do neither, if so. Markers are asked for
    /// with one for a partition that no topic has.
    ///
    /// # Errors
    /// What the cluster answers.
    pub(super) async fn with_gaps(mut self, topic: &str) -> Result<(Self, Option<Error>)> {
        let Gaps::Markers(marker_id) = self.gaps else { return Ok((self, None)) };
        let nowhere = TopicPartition::new(topic, i32::MAX);
        let client = self.cluster.client();
        let asked = client.retry(self.cluster.patience(), || client.call_any(markers(marker_id, &nowhere, 1))).await;
        let refused = match asked {
            Err(error) => error,
            Ok(response) => {
                let partitions = response.markers.iter().flat_map(|marker| &marker.topics);
                let mut codes = partitions.flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
                match codes.find(|code| *code != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) {
                    Some(code) if !code.is_ok() => Error::from_code(code, code.message()),
                    _ => return Ok((self, None)),
                }
            }
        };
        if !matches!(refused.kind(), ErrorKind::Denied | ErrorKind::Unsupported) {
            return Err(refused);
        }
        // Whoever may begin one may fill gaps with them.
        let begun = match self.check_transactions().await {
            Err(error) => Err(error),
            Ok(()) => producer_id(&self.cluster, Some(&transactional_id(&nowhere, 0))).await.map(drop),
        };
        match begun {
            Ok(()) => {
                log::info!("gaps are filled by transactions without records, markers are refused: {refused}");
                self.gaps = Gaps::Transactions;
                Ok((self, None))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
                let message = format!("neither markers nor transactions may be written ({refused}; {error})");
                Ok((self, Some(Error::new(error.kind(), message))))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the cluster's brokers have transactions at all.
    async fn check_transactions(&self) -> Result<()> {
        let client = self.cluster.client();
        let cluster = client.retry(self.cluster.patience(), || client.refresh_with(Topics::None, false)).await?;
        for broker in cluster.brokers.values() {
            let versions = client.transport().versions(&broker.endpoint).await?;
            versions.version_for(ApiKey::END_TXN)?;
        }
        Ok(())
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
        if lane.next >= upto {
            return Ok(());
        }
        let filled = match self.gaps {
            Gaps::Markers(marker_id) => self.fill_with_markers(marker_id, target, lane, upto).await,
            Gaps::Transactions => self.fill_with_transactions(target, lane, upto).await,
        };
        filled.map_err(|error| error.context(format_args!("filling a gap partition={target}")))
    }

    async fn fill_with_markers(
        &self,
        marker_id: i64,
        target: &TopicPartition,
        lane: &mut Lane,
        upto: i64,
    ) -> Result<()> {
        let client = self.cluster.client();
        let mut tries = 0;
        while lane.next < upto {
            let count = (upto - lane.next).min(MARKERS_AT_ONCE);
            match self.write_markers(markers(marker_id, target, count), target, tries > 0).await {
                Ok(()) => {
                    lane.next += count;
                    tries = 0;
                }
                Err(error) if error.is_retriable() && tries < TRIES => {
                    // Some may have been written: the end tells how many.
                    client.clock().sleep(client.backoff(tries)).await;
                    let end = self.end_of(target, lane.next).await?;
                    if end < lane.next || end > lane.next + count {
                        return Err(elsewhere(target, lane.next, end));
                    }
                    lane.next = end;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_markers(&self, request: WriteTxnMarkersRequest, target: &TopicPartition, anew: bool) -> Result<()> {
        let cluster = self.cluster.cluster(std::slice::from_ref(target), &[0], anew).await?;
        let response = self.cluster.client().call_node(leader(&cluster, target)?, request).await?;
        let mut codes = response.markers.iter().flat_map(|marker| &marker.topics).flat_map(|topic| &topic.partitions);
        codes.try_for_each(|partition| check(partition.error_code, None, format_args!("partition={target}")))
    }

    /// Several transactions at a time, one offset each.
    async fn fill_with_transactions(&self, target: &TopicPartition, lane: &mut Lane, upto: i64) -> Result<()> {
        let ids = (upto - lane.next).min(TRANSACTIONS_AT_ONCE);
        let share = |id: i64| (upto - lane.next) / ids + i64::from(id < (upto - lane.next) % ids);
        let each = (0..ids).map(|id| self.empty_transactions(target, id, share(id)));
        futures::future::try_join_all(each).await?;
        // A coordinator answers before its markers are there.
        let end = self.end_of(target, upto).await?;
        if end != upto {
            return Err(elsewhere(target, upto, end));
        }
        lane.next = upto;
        Ok(())
    }

    async fn empty_transactions(&self, target: &TopicPartition, id: i64, count: i64) -> Result<()> {
        let client = self.cluster.client();
        let transactional_id = transactional_id(target, id);
        let (producer_id, producer_epoch) = producer_id(&self.cluster, Some(&transactional_id)).await?;
        for _ in 0..count {
            let add = || async {
                let topic =
                    AddPartitionsToTxnTopic { name: target.topic.to_string(), partitions: vec![target.partition] };
                let request = AddPartitionsToTxnRequest {
                    v3_and_below_transactional_id: transactional_id.clone(),
                    v3_and_below_producer_id: producer_id,
                    v3_and_below_producer_epoch: producer_epoch,
                    v3_and_below_topics: vec![topic],
                    ..Default::default()
                };
                let coordinator = client.coordinator(CoordinatorType::Transaction, &transactional_id).await?;
                let response = client.call_endpoint(&coordinator.endpoint, request).await?;
                let results =
                    response.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
                let mut codes = results.map(|partition| partition.partition_error_code);
                codes.try_for_each(|code| check(code, None, format_args!("transactional_id={transactional_id}")))
            };
            client.retry(self.cluster.patience(), add).await?;
            let end = || async {
                let request = EndTxnRequest {
                    transactional_id: transactional_id.clone(),
                    producer_id,
                    producer_epoch,
                    committed: true,
                };
                let coordinator = client.coordinator(CoordinatorType::Transaction, &transactional_id).await?;
                let response = client.call_endpoint(&coordinator.endpoint, request).await?;
                check(response.error_code, None, format_args!("transactional_id={transactional_id}"))
            };
            client.retry(self.cluster.patience(), end).await?;
        }
        Ok(())
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
                let most = if lane.confirmed { IN_FLIGHT } else { 1 };
                while sent < batches.len()
                    && under_way.len() < most
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
                        lane.confirmed = true;
                        (tries, anew) = (0, false);
                    }
                    Ok(offset) => break Some(elsewhere(target, *at, offset)),
                    Err(error) => break Some(error),
                }
            };
            let Some(error) = failed else { continue };
            // What was sent behind it is refused, for it is out of order, or written where it belongs.
            for (at, _) in &batches[done + 1..sent] {
                match under_way.next().await {
                    Some(Ok(offset)) if offset != *at => return Err(elsewhere(target, *at, offset)),
                    _ => {}
                }
            }
            let pause = client.backoff(tries);
            let is_late = client.clock().monotonic().saturating_add(pause) >= deadline;
            // Requests may overtake each other where a connection was lost; the one in front is written then.
            let is_overtaken = error.code() == Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) && tries < TRIES;
            if !(error.is_retriable() || is_overtaken) || is_late {
                return Err(error.context(format_args!("offset={}", batches[done].0)));
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
        if answer.log_append_time_ms >= 0 {
            let message = format!(
                "the broker has set its own time, though the topic's message.timestamp.type was set to CreateTime: run it \
                 again with --force, which makes the topic anew partition={target} offset={}",
                answer.base_offset
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
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
                // It was written before an interruption; what is cut anew may have been written in part.
                let upto = batch.as_ref().map_or(wanted, |batch| wanted + i64::from(batch.last_offset_delta()) + 1);
                if upto <= at {
                    continue;
                }
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

/// A producer id: one that nobody has, or that of a transactional id.
async fn producer_id(cluster: &ClusterSource, transactional_id: Option<&str>) -> Result<(i64, i16)> {
    let client = cluster.client();
    let ask = || async {
        let request = InitProducerIdRequest {
            transactional_id: transactional_id.map(str::to_owned),
            transaction_timeout_ms: if transactional_id.is_some() { TRANSACTION_TIMEOUT_MS } else { i32::MAX },
            ..InitProducerIdRequest::default()
        };
        let response = match transactional_id {
            None => client.call_any(request).await?,
            Some(id) => {
                let coordinator = client.coordinator(CoordinatorType::Transaction, id).await?;
                client.call_endpoint(&coordinator.endpoint, request).await?
            }
        };
        check(response.error_code, None, format_args!("asking for a producer id"))?;
        Ok((response.producer_id, response.producer_epoch))
    };
    client.retry(cluster.patience(), ask).await
}

/// The transactional ids that gaps of a partition are filled with.
fn transactional_id(target: &TopicPartition, id: i64) -> String {
    format!("ottla-restore-{target}-{id}")
}

fn markers(marker_id: i64, target: &TopicPartition, count: i64) -> WriteTxnMarkersRequest {
    let topic = WritableTxnMarkerTopic { name: target.topic.to_string(), partition_indexes: vec![target.partition] };
    let marker = WritableTxnMarker {
        producer_id: marker_id,
        producer_epoch: 0,
        transaction_result: true,
        topics: vec![topic],
        coordinator_epoch: 0,
        transaction_version: 0,
    };
    WriteTxnMarkersRequest { markers: vec![marker; usize::try_from(count).unwrap_or(0)] }
}

fn elsewhere(target: &TopicPartition, expected: i64, found: i64) -> Error {
    let message = format!(
        "somebody else writes to the partition, so offsets cannot be kept: stop its producers, and run it again with --force, \
         which makes the topic anew partition={target} expected={expected} found={found}"
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
        let message = format!("a cluster's records cannot be taken back partition={partition} offset={}", to.end);
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
            if start < bounds.start && !self.keeping.contains(&target) {
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

/// Whether a batch of a target is what [`ClusterSink`] fills offsets with.
pub(super) fn is_filler(batch: &Batch) -> Result<bool> {
    if (batch.base_timestamp(), batch.max_timestamp()) != (0, 0) {
        return Ok(false);
    }
    let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES)?;
    let first = (&records).into_iter().next().transpose()?;
    Ok(first.is_none_or(|record| record.key.is_none() && record.value.is_none()))
}

/// How long records are waited for that are to be removed.
const PATIENCE: Duration = Duration::from_secs(30);

impl std::fmt::Debug for ClusterSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterSink").field("renamed", &self.renamed).finish_non_exhaustive()
    }
}
