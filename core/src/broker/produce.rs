//! Produce and InitProducerId.

use std::collections::BTreeSet;
use std::time::Duration;

use super::partition::PartitionId;
use super::stored::Change;
use super::topics::code_of;
use super::{Broker, PRODUCER_ID_BLOCK, RequestId, Then, trace};
use crate::log::Checked as Verdict;
use crate::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use crate::protocol::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};
use crate::protocol::{ErrorCode, Response};
use crate::record::{Batch, Checked, Limits, RecordError, TimestampType};
use crate::{Error, ErrorKind, Result, Timestamp};

/// A Produce request whose batches have been checked: checksums, counts, bounded decompression. Made without the broker, so
/// that its lock is not held for it.
#[derive(Debug)]
pub struct Produce {
    request: ProduceRequest,
    /// For each topic and partition of the request.
    checked: Vec<Vec<std::result::Result<Produced, Refusal>>>,
}

#[derive(Debug)]
struct Produced {
    batch: Batch,
    facts: Checked,
}

/// How many producer ids a node has: each gives out its own, so that a leader and the one that comes after it give nobody
/// the same. Those of node 0 begin at 0.
const PRODUCER_IDS: i64 = 1 << 30;

/// What a producer is told whose record was not acknowledged in time.
pub(super) const NOT_IN_TIME: &str = "written here, but not on all in-sync replicas in time";

/// A Kafka code and what to say with it.
type Refusal = (ErrorCode, String);

impl Produce {
    /// Checks all batches of `request`, decompressing none beyond `max_decompressed_bytes`.
    pub fn check(mut request: ProduceRequest, max_decompressed_bytes: usize) -> Self {
        let limits = Limits { max_decompressed_bytes, ..Limits::default() };
        let checked = request
            .topic_data
            .iter_mut()
            .map(|topic| topic.partition_data.iter_mut().map(|data| check(data, &limits)).collect())
            .collect();
        Self { request, checked }
    }
}

fn check(data: &mut PartitionProduceData, limits: &Limits) -> std::result::Result<Produced, Refusal> {
    let refusal = |error: RecordError| (ErrorCode(error.kafka_code()), error.to_string());
    let mut bytes = data.records.take().unwrap_or_default();
    let Some(batch) = Batch::split(&mut bytes).map_err(refusal)? else {
        return Err((ErrorCode::CORRUPT_MESSAGE, "the request holds no whole record batch".to_owned()));
    };
    if !bytes.is_empty() {
        return Err((ErrorCode::INVALID_RECORD, "a produce request holds one record batch for a partition".to_owned()));
    }
    let facts = batch.check_records(limits).map_err(refusal)?;
    Ok(Produced { batch, facts })
}

/// A Produce answer that waits for high watermarks.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: RequestId,
    pub(super) response: ProduceResponse,
    /// When the request came in.
    received: Duration,
    /// When all of it was on this broker's own device; as it came in, if it was there at once.
    pub(super) own_synced: Duration,
    /// Which answer belongs to which wait.
    places: Vec<Place>,
}

/// A wait, and its answer.
#[derive(Debug)]
struct Place {
    partition: PartitionId,
    /// What the high watermark has to reach.
    end: i64,
    /// How many replicas have to be in sync then, too: one that has left since is not waited for, and does not count.
    min_insync: usize,
    /// The topic's index in the response, and the partition's in it.
    answer: (usize, usize),
}

impl Pending {
    /// Refuses what still waits.
    pub(super) fn expire(&mut self, waits: &BTreeSet<(PartitionId, i64)>, code: ErrorCode, message: &str) {
        for place in &self.places {
            if waits.contains(&(place.partition, place.end)) {
                place.refuse(&mut self.response, code, message.to_owned());
            }
        }
    }
}

impl Place {
    fn refuse(&self, response: &mut ProduceResponse, error_code: ErrorCode, message: String) {
        let answer = &mut response.responses[self.answer.0].partition_responses[self.answer.1];
        *answer = PartitionProduceResponse {
            index: answer.index,
            error_code,
            base_offset: -1,
            error_message: Some(message),
            ..PartitionProduceResponse::default()
        };
    }
}

impl Broker {
    /// Everything that a Produce answer waited for has come, perhaps because a replica left that it waited for.
    pub(super) fn complete_produce(&mut self, pending: Pending) {
        let Pending { id, mut response, received, own_synced, places } = pending;
        let mut is_refused = false;
        for place in &places {
            let Some(partition) = self.partitions[place.partition.0].as_ref() else { continue };
            let in_sync = 1 + partition.in_sync_followers().len();
            if in_sync < place.min_insync {
                let message = format!(
                    "written here, but too few replicas have stayed in sync partition={}-{} in_sync={in_sync} \
                     min.insync.replicas={}",
                    partition.topic, partition.index, place.min_insync
                );
                place.refuse(&mut response, ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND, message);
                is_refused = true;
            }
        }
        if !places.is_empty() && !is_refused {
            self.latencies.record(received, own_synced, self.arrived);
        }
        self.answer_produce(id, response);
    }

    pub(super) fn answer_produce(&mut self, id: RequestId, response: ProduceResponse) {
        self.trace_answered(id, &response);
        self.respond(id, Response::Produce(response));
    }

    pub(super) fn produce(&mut self, id: RequestId, produce: Produce, now: Timestamp) {
        let Produce { request, checked } = produce;
        let all = request.acks == -1;
        let mut response = ProduceResponse::default();
        let mut waits = Vec::new();
        let mut places = Vec::new();
        let refused = if request.transactional_id.is_some() {
            Some((ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "this broker takes no transactions yet".to_owned()))
        } else if !matches!(request.acks, -1..=1) {
            Some((ErrorCode::INVALID_REQUIRED_ACKS, format!("acks is -1, 0 or 1 acks={}", request.acks)))
        } else {
            None
        };
        for (topic, checked) in request.topic_data.into_iter().zip(checked) {
            let mut answers = Vec::with_capacity(checked.len());
            for (data, checked) in topic.partition_data.iter().zip(checked) {
                let bytes = checked.as_ref().map_or(0, |checked| checked.batch.size());
                let outcome = match &refused {
                    Some(refusal) => Err(refusal.clone()),
                    None => {
                        checked.and_then(|checked| self.append_produced(&topic.name, data.index, checked, all, now))
                    }
                };
                if self.trace.is_some() {
                    let written = outcome.as_ref().ok();
                    let written = written.map(|it| (it.partition, it.base_offset, it.end, it.is_new));
                    let (topic, partition, acks) = (&*topic.name, data.index, request.acks);
                    self.trace_produced(id, &trace::Produced { topic, partition, bytes, acks, written });
                }
                answers.push(match outcome {
                    Ok(written) => {
                        if all {
                            waits.push((written.partition, written.end));
                            places.push(Place {
                                partition: written.partition,
                                end: written.end,
                                min_insync: written.min_insync,
                                answer: (response.responses.len(), answers.len()),
                            });
                        }
                        PartitionProduceResponse {
                            index: data.index,
                            base_offset: written.base_offset,
                            log_append_time_ms: written.log_append_time.unwrap_or(-1),
                            log_start_offset: written.log_start_offset,
                            ..PartitionProduceResponse::default()
                        }
                    }
                    Err((error_code, message)) => PartitionProduceResponse {
                        index: data.index,
                        error_code,
                        base_offset: -1,
                        error_message: Some(message),
                        ..PartitionProduceResponse::default()
                    },
                });
            }
            response.responses.push(TopicProduceResponse {
                name: topic.name,
                partition_responses: answers,
                ..TopicProduceResponse::default()
            });
        }
        let deadline = now.saturating_add(i64::from(request.timeout_ms.max(0)));
        let (received, own_synced) = (self.arrived, self.arrived);
        self.defer(Then::Produce(Pending { id, response, received, own_synced, places }), waits, Some(deadline));
    }

    fn append_produced(
        &mut self,
        topic_name: &str,
        index: i32,
        produced: Produced,
        all: bool,
        now: Timestamp,
    ) -> std::result::Result<Written, Refusal> {
        if let Some(why) = self.offline.get(topic_name) {
            return Err((ErrorCode::KAFKA_STORAGE_ERROR, why.clone()));
        }
        let unknown =
            || (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no such partition partition={topic_name}-{index}"));
        let topic = self.topics.get(topic_name).ok_or_else(unknown)?;
        let id = usize::try_from(index).ok().and_then(|at| topic.partitions.get(at)).copied().ok_or_else(unknown)?;
        if topic.internal {
            let message = format!("clients do not write to an internal topic topic={topic_name}");
            return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, message));
        }
        if topic.copy || !self.accepts_writes() {
            let message = format!("the topic is a copy here, produce to its leader topic={topic_name}");
            return Err((ErrorCode::NOT_LEADER_OR_FOLLOWER, message));
        }
        let config = topic.config(&self.config.topic_defaults);
        let Produced { mut batch, facts } = produced;
        if batch.size() > config.max_message_bytes() {
            let message = format!(
                "the batch is larger than max.message.bytes partition={topic_name}-{index} bytes={} max={}",
                batch.size(),
                config.max_message_bytes()
            );
            return Err((ErrorCode::MESSAGE_TOO_LARGE, message));
        }
        if let Some(place) = facts.keyless.filter(|_| config.compacted()) {
            let message =
                format!("records of a compacted topic need a key partition={topic_name}-{index} record={place}");
            return Err((ErrorCode::INVALID_RECORD, message));
        }
        let min_insync = config.min_insync_replicas();
        let stamps = config.timestamp_type() == TimestampType::LogAppendTime;
        if !stamps {
            let (oldest, newest) = (facts.min_timestamp, facts.max_timestamp);
            if newest.saturating_sub(now) > config.timestamp_after_max_ms()
                || (oldest >= 0 && now.saturating_sub(oldest) > config.timestamp_before_max_ms())
            {
                let message = format!(
                    "a timestamp is out of bounds partition={topic_name}-{index} oldest={oldest} newest={newest} now={now}"
                );
                return Err((ErrorCode::INVALID_TIMESTAMP, message));
            }
            if batch.max_timestamp() != newest {
                batch = batch.with_max_timestamp(newest);
            }
        }
        let partition = self.partition_mut(id);
        if all && 1 + partition.in_sync_followers().len() < min_insync {
            let message = format!(
                "too few replicas are in sync partition={topic_name}-{index} in_sync={} min.insync.replicas={min_insync}",
                1 + partition.in_sync_followers().len()
            );
            return Err((ErrorCode::NOT_ENOUGH_REPLICAS, message));
        }
        match partition.log.producers().check(&batch) {
            Ok(Verdict::Accept) => {}
            Ok(Verdict::Duplicate { base_offset, last_offset, timestamp }) => {
                // Answered as its original was, and waits as its original does (Decision 3).
                return Ok(Written {
                    partition: id,
                    base_offset,
                    end: last_offset.saturating_add(1),
                    log_append_time: stamps.then_some(timestamp),
                    log_start_offset: partition.log.start(),
                    min_insync,
                    is_new: false,
                });
            }
            Err(error) => return Err((ErrorCode(error.kafka_code()), error.to_string())),
        }
        match partition.append(std::slice::from_ref(&batch), now) {
            Ok(appended) => {
                let written = Written {
                    partition: id,
                    base_offset: appended.base_offset,
                    end: appended.end,
                    log_append_time: appended.log_append_time,
                    log_start_offset: partition.log.start(),
                    min_insync,
                    is_new: true,
                };
                self.moved.insert(id);
                Ok(written)
            }
            Err(error) => {
                if error.kind() != ErrorKind::Full {
                    log::error!("an append failed partition={topic_name}-{index}: {error}");
                }
                Err((code_of(&error), error.to_string()))
            }
        }
    }

    pub(super) fn init_producer_id(&mut self, id: RequestId, request: InitProducerIdRequest, now: Timestamp) {
        if request.transactional_id.is_some() {
            let response = InitProducerIdResponse {
                error_code: ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
                producer_id: -1,
                producer_epoch: -1,
                ..InitProducerIdResponse::default()
            };
            return self.respond(id, Response::InitProducerId(response));
        }
        let response = match self.next_producer_id(now) {
            Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
            Err(error) => InitProducerIdResponse {
                error_code: code_of(&error),
                producer_id: -1,
                producer_epoch: -1,
                ..InitProducerIdResponse::default()
            },
        };
        // The block that the id is from is durable before the id is given out.
        self.respond_when_remembered(id, Response::InitProducerId(response));
    }

    /// Lets the next producer id be above all that have written to a partition.
    pub(super) fn pass_producer_ids(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions[id.0].as_ref() else { return };
        // An id of another node's will not be given out here.
        let own = self.own_producer_ids();
        let ids = partition.log.producers().iter().map(|(id, _)| id);
        if let Some(largest) = ids.filter(|id| own.contains(id)).max() {
            self.producer_ids.start = self.producer_ids.start.max(largest + 1);
        }
    }

    fn own_producer_ids(&self) -> std::ops::Range<i64> {
        let first = i64::from(self.config.node_id) * PRODUCER_IDS;
        first..first + PRODUCER_IDS
    }

    fn next_producer_id(&mut self, now: Timestamp) -> Result<i64> {
        let own = self.own_producer_ids();
        if !own.contains(&self.producer_ids.start) && self.producer_ids.start != own.end {
            // The node had another number.
            self.producer_ids = own.start..own.start;
            for at in 0..self.partitions.len() {
                self.pass_producer_ids(PartitionId(at));
            }
        }
        if self.producer_ids.is_empty() {
            let start = self.producer_ids.start;
            let end = start.saturating_add(PRODUCER_ID_BLOCK).min(own.end);
            if start >= end {
                return Err(Error::new(ErrorKind::Internal, "there are no producer ids left"));
            }
            self.remember(vec![Change::set("producer-ids", &end)?], now)?;
            self.producer_ids = start..end;
        }
        let next = self.producer_ids.start;
        self.producer_ids.start += 1;
        Ok(next)
    }
}

#[derive(Debug)]
struct Written {
    partition: PartitionId,
    base_offset: i64,
    end: i64,
    log_append_time: Option<Timestamp>,
    log_start_offset: i64,
    min_insync: usize,
    /// Whether it was appended now.
    is_new: bool,
}
