//! Committed offsets: what a group's members, or somebody in its name, said they have read.
//!
//! An offset is committed once it is written, and read only from then on. Offsets go when their topic is deleted, when
//! they are deleted, or when nobody has needed them for the retention time (KIP-211): since the group became empty, or
//! since the commit where there is no group behind it or nobody in it subscribes to the topic any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::Timestamp;
use crate::broker::RequestId;
use crate::protocol::ErrorCode;
use crate::protocol::messages::offset_commit::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use crate::protocol::messages::offset_commit_record::OffsetCommitValue;
use crate::protocol::messages::offset_delete::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use crate::protocol::messages::offset_fetch::{OffsetFetchResponsePartitions, OffsetFetchResponseTopics};
use crate::protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse};

use super::records::{self, Record};
use super::state::{Group, Purpose, State, Waiter};
use super::{Alarm, Outbox};

/// The offsets of a group, by topic and partition.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Offsets {
    topics: BTreeMap<String, BTreeMap<i32, Committed>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Committed {
    pub(super) offset: i64,
    /// -1 if it was not said.
    pub(super) leader_epoch: i32,
    pub(super) metadata: String,
    pub(super) commit_timestamp: Timestamp,
    /// Set by clients from before Kafka 2.1 only; for others the broker's retention holds.
    pub(super) expire_timestamp: Option<Timestamp>,
}

/// An OffsetCommit that is being written.
#[derive(Debug)]
pub(super) struct Commit {
    request: RequestId,
    answer: OffsetCommitResponse,
    pub(super) offsets: Vec<(String, i32, Committed)>,
}

/// An OffsetDelete that is being written.
#[derive(Debug)]
pub(super) struct Forget {
    request: RequestId,
    answer: OffsetDeleteResponse,
    partitions: Vec<(String, i32)>,
}

impl Offsets {
    pub(super) fn insert(&mut self, topic: &str, partition: i32, committed: Committed) {
        match self.topics.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition, committed);
            }
            None => {
                self.topics.insert(topic.to_owned(), BTreeMap::from([(partition, committed)]));
            }
        }
    }

    pub(super) fn remove(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.topics.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    fn committed(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.topics.get(topic)?.get(&partition)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, i32, &Committed)> {
        let topics = self.topics.iter();
        topics.flat_map(|(topic, partitions)| partitions.iter().map(|(partition, at)| (topic.as_str(), *partition, at)))
    }
}

impl Committed {
    pub(super) fn from_record(value: OffsetCommitValue) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata,
            commit_timestamp: value.commit_timestamp,
            expire_timestamp: (value.expire_timestamp != -1).then_some(value.expire_timestamp),
        }
    }

    fn to_record(&self) -> OffsetCommitValue {
        OffsetCommitValue {
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata.clone(),
            commit_timestamp: self.commit_timestamp,
            expire_timestamp: self.expire_timestamp.unwrap_or(-1),
            ..OffsetCommitValue::default()
        }
    }
}

impl Group {
    pub(super) fn commit_offsets(
        &mut self,
        request: OffsetCommitRequest,
        waiter: Waiter,
        exists: &dyn Fn(&str, i32) -> bool,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        if let Err(error) = self.check_commit(&request) {
            return out.respond(waiter.request, refused_commit(&request, error));
        }
        self.touch(&request.member_id, out, now);
        let expire_timestamp = (request.retention_time_ms >= 0).then(|| now.saturating_add(request.retention_time_ms));
        let mut answer = OffsetCommitResponse::default();
        let mut offsets = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in topic.partitions {
                let partition_index = partition.partition_index;
                let metadata = partition.committed_metadata.unwrap_or_default();
                let error_code = if !exists(&topic.name, partition_index) {
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                } else if metadata.len() > out.config.offset_metadata_max_bytes {
                    ErrorCode::OFFSET_METADATA_TOO_LARGE
                } else {
                    let (offset, leader_epoch) = (partition.committed_offset, partition.committed_leader_epoch);
                    let at = Committed { offset, leader_epoch, metadata, commit_timestamp: now, expire_timestamp };
                    offsets.push((topic.name.clone(), partition_index, at));
                    ErrorCode::NONE
                };
                partitions.push(OffsetCommitResponsePartition { partition_index, error_code });
            }
            let (name, topic_id) = (topic.name, topic.topic_id);
            answer.topics.push(OffsetCommitResponseTopic { name, topic_id, partitions });
        }
        if offsets.is_empty() {
            return out.respond(waiter.request, answer);
        }
        let record = |(topic, partition, at): &(String, i32, Committed)| -> Result<Record, _> {
            let key = records::offset_key(&self.name, topic, *partition)?;
            Ok((key, Some(records::offset_value(&at.to_record())?)))
        };
        let records = offsets.iter().map(record).collect();
        self.persist(records, Purpose::Commit(Commit { request: waiter.request, answer, offsets }), out);
    }

    fn check_commit(&self, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        if self.state == State::Dead {
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        if generation < 0 && request.member_id.is_empty() && request.group_instance_id.is_none() {
            // Nobody's member: an application that shares partitions out itself. It may not interfere with members.
            return if self.state == State::Empty { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) };
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if generation != self.generation {
            return Err(ErrorCode::ILLEGAL_GENERATION);
        }
        match self.state {
            State::CompletingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            // While the others join, what was read until now may still be committed: it is still this member's to read.
            _ => Ok(()),
        }
    }

    /// A commit was written, or not.
    pub(super) fn committed(
        &mut self,
        mut commit: Commit,
        result: Result<(), ErrorCode>,
        out: &mut Outbox,
        now: Timestamp,
    ) {
        match result {
            Ok(()) => {
                for (topic, partition, at) in commit.offsets {
                    let due = at.expire_timestamp.unwrap_or(now.saturating_add(out.config.offsets_retention_ms));
                    self.offsets.insert(&topic, partition, at);
                    self.check_retention_by(due, out, now);
                }
            }
            Err(error) => {
                let error = commit_error(error);
                let partitions = commit.answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                partitions
                    .filter(|partition| partition.error_code == ErrorCode::NONE)
                    .for_each(|p| p.error_code = error);
            }
        }
        out.respond(commit.request, commit.answer);
    }

    /// The committed offsets of `topics`, or of all that have any.
    pub(super) fn fetch_offsets(&self, topics: Option<&[(String, Vec<i32>)]>) -> Vec<OffsetFetchResponseTopics> {
        // A group whose deletion is being written has no offsets any more.
        let offsets = (self.state != State::Dead).then_some(&self.offsets);
        match topics {
            Some(topics) => fetched(topics, |topic, partition| offsets?.committed(topic, partition)),
            None => {
                let all = offsets.into_iter().flat_map(|offsets| &offsets.topics);
                let topic = |(topic, partitions): (&String, &BTreeMap<i32, Committed>)| OffsetFetchResponseTopics {
                    name: topic.clone(),
                    partitions: partitions
                        .iter()
                        .map(|(partition, at)| fetched_partition(*partition, Some(at)))
                        .collect(),
                    ..OffsetFetchResponseTopics::default()
                };
                all.map(topic).collect()
            }
        }
    }

    pub(super) fn delete_offsets(
        &mut self,
        request: OffsetDeleteRequest,
        waiter: Waiter,
        exists: &dyn Fn(&str, i32) -> bool,
        out: &mut Outbox,
    ) {
        let refusal = match self.state {
            State::Dead => Some(ErrorCode::GROUP_ID_NOT_FOUND),
            State::Empty => None,
            _ if self.is_consumer_group() => None,
            // What members of another kind read is not known.
            _ => Some(ErrorCode::NON_EMPTY_GROUP),
        };
        let mut answer = OffsetDeleteResponse::default();
        if let Some(error_code) = refusal {
            answer.error_code = error_code;
            return out.respond(waiter.request, answer);
        }
        let mut partitions = Vec::new();
        for topic in request.topics {
            let name = topic.name;
            let read =
                self.state != State::Empty && self.subscribed.as_ref().is_none_or(|topics| topics.contains(&name));
            let delete = |partition_index| {
                let error_code = if !exists(&name, partition_index) {
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                } else if read {
                    ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC
                } else {
                    if self.has_offset(&name, partition_index) {
                        partitions.push((name.clone(), partition_index));
                    }
                    ErrorCode::NONE
                };
                OffsetDeleteResponsePartition { partition_index, error_code }
            };
            let results = topic.partitions.iter().map(|partition| partition.partition_index).map(delete).collect();
            answer.topics.push(OffsetDeleteResponseTopic { name, partitions: results });
        }
        if partitions.is_empty() {
            return out.respond(waiter.request, answer);
        }
        let tombstones = self.tombstones(&partitions);
        self.persist(tombstones, Purpose::Forget(Forget { request: waiter.request, answer, partitions }), out);
    }

    /// An OffsetDelete was written, or not.
    pub(super) fn forgot(&mut self, mut forget: Forget, result: Result<(), ErrorCode>, out: &mut Outbox) {
        match result {
            Ok(()) => forget.partitions.iter().for_each(|(topic, partition)| self.offsets.remove(topic, *partition)),
            Err(error) => {
                forget.answer.error_code = commit_error(error);
                forget.answer.topics.clear();
            }
        }
        out.respond(forget.request, forget.answer);
    }

    /// Forgets the offsets of a topic that is no more, also those that are still being written: a topic that gets its
    /// name must not inherit them.
    pub(super) fn drop_topic(&mut self, topic: &str, out: &mut Outbox) {
        let committed = self.offsets.topics.remove(topic).unwrap_or_default();
        let mut partitions = committed.into_keys().collect::<BTreeSet<_>>();
        for write in &mut self.writes {
            if let Purpose::Commit(commit) = &mut write.purpose {
                let gone = commit.offsets.extract_if(.., |(name, ..)| name == topic);
                partitions.extend(gone.map(|(_, partition, _)| partition));
            }
        }
        if !partitions.is_empty() {
            let partitions = partitions.into_iter().map(|partition| (topic.to_owned(), partition)).collect::<Vec<_>>();
            self.persist(self.tombstones(&partitions), Purpose::Forgotten, out);
        }
    }

    /// Forgets the offsets that have expired, and the group with the last of them if nobody is in it.
    pub(super) fn check_retention(&mut self, out: &mut Outbox, now: Timestamp) {
        if self.state == State::Dead {
            return;
        }
        let being_written = self.offsets_being_written().collect::<BTreeSet<_>>();
        let mut expired = Vec::new();
        for (topic, partition, at) in self.offsets.iter() {
            let due = self.expiry(topic, at, out.config.offsets_retention_ms);
            if due.is_some_and(|due| due <= now) && !being_written.contains(&(topic, partition)) {
                expired.push((topic.to_owned(), partition));
            }
        }
        let last = self.state == State::Empty
            && self.pending.is_empty()
            && self.writes.is_empty()
            && expired.len() == self.offsets.iter().count();
        if !expired.is_empty() || last {
            log::info!("offsets expire group={} count={} group_goes={last}", self.name, expired.len());
        }
        for (topic, partition) in &expired {
            self.offsets.remove(topic, *partition);
        }
        if last {
            self.delete(&expired, None, out, now);
        } else {
            if !expired.is_empty() {
                self.persist(self.tombstones(&expired), Purpose::Forgotten, out);
            }
            self.schedule_retention(out, now);
        }
    }

    /// When the offset may go; none while a member may need it. A time in the past may be meant.
    fn expiry(&self, topic: &str, at: &Committed, retention_ms: i64) -> Option<Timestamp> {
        let since = match self.state {
            State::Empty if self.protocol_type.is_some() && self.state_since != -1 => self.state_since,
            State::Empty => at.commit_timestamp,
            State::Stable if self.subscribed.as_ref().is_some_and(|topics| !topics.contains(topic)) => {
                at.commit_timestamp
            }
            _ => return None,
        };
        Some(at.expire_timestamp.unwrap_or(since.saturating_add(retention_ms)))
    }

    /// Sets the time of the next look at what has expired, after the group's state or members have changed.
    pub(super) fn schedule_retention(&mut self, out: &mut Outbox, now: Timestamp) {
        let retention_ms = out.config.offsets_retention_ms;
        let soonest = self.offsets.iter().filter_map(|(topic, _, at)| self.expiry(topic, at, retention_ms)).min();
        let due = match soonest {
            // The group itself is all there is to forget.
            None if self.state == State::Empty && self.offsets.is_empty() => now,
            None => now.saturating_add(retention_ms),
            Some(due) => due,
        };
        let due = due.max(now.saturating_add(out.config.offsets_retention_check_interval_ms.max(1)));
        out.alarms.set(&mut self.retention_check, &self.name, Alarm::Retention, Some(due));
    }

    /// Makes sure that there is a look at what has expired at `due` or before.
    fn check_retention_by(&mut self, due: Timestamp, out: &mut Outbox, now: Timestamp) {
        let due = due.max(now.saturating_add(out.config.offsets_retention_check_interval_ms.max(1)));
        // Should the group's deletion not be written, there is a look at everything.
        if self.state != State::Dead && self.retention_check.is_none_or(|set| set > due) {
            out.alarms.set(&mut self.retention_check, &self.name, Alarm::Retention, Some(due));
        }
    }

    fn has_offset(&self, topic: &str, partition: i32) -> bool {
        self.offsets.committed(topic, partition).is_some()
            || self.offsets_being_written().any(|offset| offset == (topic, partition))
    }

    /// Every partition with an offset that is committed or about to be.
    pub(super) fn partitions(&self) -> Vec<(String, i32)> {
        let committed = self.offsets.iter().map(|(topic, partition, _)| (topic, partition));
        let all = committed.chain(self.offsets_being_written()).collect::<BTreeSet<_>>();
        all.into_iter().map(|(topic, partition)| (topic.to_owned(), partition)).collect()
    }

    fn offsets_being_written(&self) -> impl Iterator<Item = (&str, i32)> {
        let commits = self.writes.iter().filter_map(|write| match &write.purpose {
            Purpose::Commit(commit) => Some(&commit.offsets),
            _ => None,
        });
        commits.flatten().map(|(topic, partition, _)| (topic.as_str(), *partition))
    }

    pub(super) fn tombstones(
        &self,
        partitions: &[(String, i32)],
    ) -> Result<Vec<Record>, crate::protocol::ProtocolError> {
        let tombstone =
            |(topic, partition): &(String, i32)| Ok((records::offset_key(&self.name, topic, *partition)?, None));
        partitions.iter().map(tombstone).collect()
    }
}

/// What OffsetFetch answers for `topics`.
pub(super) fn fetched<'a>(
    topics: &[(String, Vec<i32>)],
    committed: impl Fn(&str, i32) -> Option<&'a Committed>,
) -> Vec<OffsetFetchResponseTopics> {
    let topic = |(topic, partitions): &(String, Vec<i32>)| OffsetFetchResponseTopics {
        name: topic.clone(),
        partitions: partitions.iter().map(|index| fetched_partition(*index, committed(topic, *index))).collect(),
        ..OffsetFetchResponseTopics::default()
    };
    topics.iter().map(topic).collect()
}

fn fetched_partition(partition_index: i32, committed: Option<&Committed>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: committed.map_or(-1, |at| at.offset),
        committed_leader_epoch: committed.map_or(-1, |at| at.leader_epoch),
        metadata: Some(committed.map(|at| at.metadata.clone()).unwrap_or_default()),
        error_code: ErrorCode::NONE,
    }
}

/// The answer that refuses all of a commit.
pub(super) fn refused_commit(request: &OffsetCommitRequest, error_code: ErrorCode) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: (topic.partitions.iter())
            .map(|partition| OffsetCommitResponsePartition { partition_index: partition.partition_index, error_code })
            .collect(),
    });
    OffsetCommitResponse { topics: topics.collect(), ..OffsetCommitResponse::default() }
}

/// What a client is told when offsets could not be written: the log's own errors would mislead it.
fn commit_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        | ErrorCode::NOT_ENOUGH_REPLICAS
        | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
        | ErrorCode::REQUEST_TIMED_OUT => ErrorCode::COORDINATOR_NOT_AVAILABLE,
        ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::KAFKA_STORAGE_ERROR => ErrorCode::NOT_COORDINATOR,
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE | ErrorCode::INVALID_FETCH_SIZE => {
            ErrorCode::INVALID_COMMIT_OFFSET_SIZE
        }
        other => other,
    }
}
