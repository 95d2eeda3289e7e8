//! Consumer groups: who is in them, who reads what, and how far they have read. (Kafka: `GroupCoordinator`, the classic
//! protocol.)
//!
//! A group goes round: *Empty* → somebody joins → *PreparingRebalance* (all who are in it must join again) → everybody has
//! joined, or had time to → a new generation, *CompletingRebalance* (its leader decides who reads what) → the leader's
//! assignment is written → *Stable*, until somebody comes, leaves or falls silent. The coordinator does not look into what
//! members tell each other; only the topics in a consumer's subscription matter to it, for the retention of offsets.
//!
//! [`Groups`] is a state machine: after any call drain [`Groups::poll_effect`] until it returns `None`, and call
//! [`Groups::handle_timeout`] when [`Groups::poll_timeout`] is due. What it wants to remember it hands out as records of
//! `__consumer_offsets` in Kafka's own format; what depends on them is answered after [`Groups::handle_persisted`]. At start
//! the records come back by [`Groups::replay`], and [`Groups::handle_replayed`] ends that.
//!
//! What may be relied on:
//! - Each request is answered once. A request that its sender has repeated meanwhile is answered `REBALANCE_IN_PROGRESS`.
//! - Writes of one group take effect in the order in which they were handed out, whatever order their results come in.
//! - The generation is written with the assignment, as Kafka does: one that was never assigned may be counted again after
//!   a crash, when nobody can have read anything in its name.
//! - Nothing is iterated in an order that differs from run to run, and chance comes from the seed.

mod membership;
mod offsets;
mod records;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::protocol::messages::delete_groups::DeletableGroupResult;
use crate::protocol::messages::describe_groups::DescribedGroup;
use crate::protocol::messages::leave_group::{MemberIdentity, MemberResponse};
use crate::protocol::messages::list_groups::ListedGroup;
use crate::protocol::messages::offset_fetch::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
};
use crate::protocol::messages::*;
use crate::protocol::{ErrorCode, ProtocolError, Request, Response};
use crate::{Error, Timestamp};

use super::RequestId;
use offsets::Committed;
pub(super) use records::partition_of;
use records::{Record, Stored};
use state::{Group, Purpose, State, Waiter, Write};

/// What a client may do with a group where nothing is forbidden: read, delete and describe it, as bits.
const AUTHORIZED_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;

/// If time has moved on by this much more than it should have, we were not there, and cannot say who fell silent.
const ABSENCE_MS: i64 = 5_000;

/// How consumer groups are coordinated; the names are Kafka's.
#[derive(Clone, Debug)]
pub struct GroupsConfig {
    /// `group.min.session.timeout.ms`: the shortest session timeout that a member may ask for; default 6 s.
    pub group_min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`: the longest; default 30 minutes.
    pub group_max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members after the first, and again each
    /// time one comes, until its rebalance timeout; default 50 ms. Kafka's is 3 s, which a user of a single consumer waits
    /// for nothing, and Kafka's own quickstart and tests set it to 0, with which members that start together rebalance one by
    /// one, each having to wait for the next heartbeat (3 s) of those before. A short grace takes in those that start together
    /// and cannot be felt.
    pub group_initial_rebalance_delay_ms: i32,
    /// `group.max.size`: the most members of a group; default 10,000.
    pub group_max_size: usize,
    /// `offset.metadata.max.bytes`: the longest text that may be committed with an offset; default 4096.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`: how long committed offsets are kept that nobody needs any more; default 7 days.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`: how often they are looked at; default 10 minutes.
    pub offsets_retention_check_interval_ms: i64,
}

impl Default for GroupsConfig {
    fn default() -> Self {
        Self {
            group_min_session_timeout_ms: 6_000,
            group_max_session_timeout_ms: 30 * 60_000,
            group_initial_rebalance_delay_ms: 50,
            group_max_size: 10_000,
            offset_metadata_max_bytes: 4096,
            offsets_retention_ms: 7 * 24 * 60 * 60_000,
            offsets_retention_check_interval_ms: 10 * 60_000,
        }
    }
}

/// Who sends a request, for those who describe the group.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientInfo {
    pub(crate) client_id: String,
    /// The address, as `/127.0.0.1`.
    pub(crate) host: String,
}

/// Names records from when they are handed out until it is known whether they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PersistId(pub(crate) u64);

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Effect {
    Respond(RequestId, Response),
    /// Write records to the partition of `__consumer_offsets` that the group belongs to, in one batch, and say when they
    /// are durable. Records of one group must be written in the order in which they are handed out.
    Persist {
        id: PersistId,
        group: String,
        records: Vec<Record>,
    },
}

/// The coordinator of all groups. See the [module](self).
#[derive(Debug)]
pub(crate) struct Groups {
    groups: BTreeMap<Arc<str>, Group>,
    /// DeleteGroups requests, of which some groups are being written.
    deletions: BTreeMap<RequestId, Deletion>,
    out: Outbox,
}

#[derive(Debug)]
struct Deletion {
    answer: DeleteGroupsResponse,
    waiting: usize,
}

/// What all groups share: where they put what they want done.
#[derive(Debug)]
struct Outbox {
    config: GroupsConfig,
    effects: VecDeque<Effect>,
    alarms: Alarms,
    random: Random,
    next_persist: u64,
    /// The group of each write whose result is not known.
    writers: HashMap<PersistId, Arc<str>>,
    /// Writes that could not be encoded.
    unwritable: VecDeque<PersistId>,
}

impl Groups {
    /// A coordinator without groups. `seed` decides the member ids: it should differ at each start.
    pub(crate) fn new(config: GroupsConfig, seed: u64) -> Self {
        let out = Outbox {
            config,
            effects: VecDeque::new(),
            alarms: Alarms::default(),
            random: Random(seed),
            next_persist: 0,
            writers: HashMap::new(),
            unwritable: VecDeque::new(),
        };
        Self { groups: BTreeMap::new(), deletions: BTreeMap::new(), out }
    }

    /// Takes a request: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, OffsetCommit, OffsetFetch, OffsetDelete, ListGroups,
    /// DescribeGroups or DeleteGroups. `exists` says whether there is such a topic and partition.
    ///
    /// # Panics
    /// If it is another request.
    pub(crate) fn handle_request(
        &mut self,
        id: RequestId,
        client: &ClientInfo,
        request: Request,
        version: i16,
        exists: &dyn Fn(&str, i32) -> bool,
        now: Timestamp,
    ) {
        let waiter = Waiter { request: id, version };
        match request {
            Request::JoinGroup(request) => self.join(client, request, waiter, now),
            Request::SyncGroup(request) => match self.member_group(&request.group_id) {
                Ok(group) => group.0.sync(request, waiter, group.1, now),
                Err(error) => self.out.respond(id, membership::refused_sync(error)),
            },
            Request::Heartbeat(request) => {
                let result = match self.member_group(&request.group_id) {
                    Ok((group, out)) => group.heartbeat(&request, out, now),
                    Err(error) => Err(error),
                };
                let error_code = result.err().unwrap_or(ErrorCode::NONE);
                self.out.respond(id, HeartbeatResponse { error_code, ..HeartbeatResponse::default() });
            }
            Request::LeaveGroup(request) => self.leave(request, waiter, now),
            Request::OffsetCommit(request) => self.commit_offsets(request, waiter, exists, now),
            Request::OffsetFetch(request) => self.fetch_offsets(request, waiter),
            Request::OffsetDelete(request) => match self.groups.get_mut(request.group_id.as_str()) {
                Some(group) => group.delete_offsets(request, waiter, exists, &mut self.out),
                None => {
                    let error_code = ErrorCode::GROUP_ID_NOT_FOUND;
                    self.out.respond(id, OffsetDeleteResponse { error_code, ..OffsetDeleteResponse::default() });
                }
            },
            Request::ListGroups(request) => self.list(&request, id),
            Request::DescribeGroups(request) => self.describe(request, waiter),
            Request::DeleteGroups(request) => self.delete(request, id, now),
            other => unreachable!("not a request to the group coordinator: {}", other.api_key()),
        }
        self.fail_unwritable(now);
    }

    /// What is to be done next; `None` when there is nothing more.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.out.effects.pop_front()
    }

    /// Records that were handed out are durable, or could not be written.
    pub(crate) fn handle_persisted(&mut self, id: PersistId, result: Result<(), ErrorCode>, now: Timestamp) {
        self.written(id, result, now);
        self.fail_unwritable(now);
    }

    /// Takes a record of `__consumer_offsets`, in the order of the log. What we do not know is passed over.
    ///
    /// # Errors
    /// `Corrupt` if the record is not what it says it is; nothing has changed then, and the next can be taken.
    pub(crate) fn replay(&mut self, key: &[u8], value: Option<&[u8]>, timestamp: Timestamp) -> Result<(), Error> {
        match records::read(key, value)? {
            Stored::Offset(key, Some(value)) => {
                let group = entry(&mut self.groups, &key.group, timestamp);
                group.offsets.insert(&key.topic, key.partition, Committed::from_record(value));
            }
            Stored::Offset(key, None) => {
                if let Some(group) = self.groups.get_mut(key.group.as_str()) {
                    group.offsets.remove(&key.topic, key.partition);
                    self.drop_if_blank(&key.group);
                }
            }
            Stored::Group(key, Some(value)) => {
                let group = entry(&mut self.groups, &key.group, timestamp);
                let read = Group::from_record(Arc::clone(&group.name), value);
                group.offsets = std::mem::replace(group, read).offsets;
            }
            Stored::Group(key, None) => {
                if let Some(group) = self.groups.get_mut(key.group.as_str()) {
                    let blank = Group::new(Arc::clone(&group.name), timestamp);
                    group.offsets = std::mem::replace(group, blank).offsets;
                    self.drop_if_blank(&key.group);
                }
            }
            Stored::Unknown(key, value) => log::debug!("record of a group is passed over key={key} value={value:?}"),
        }
        Ok(())
    }

    /// All records have been replayed: from now on members must be heard of, and offsets expire.
    pub(crate) fn handle_replayed(&mut self, now: Timestamp) {
        for group in self.groups.values_mut() {
            group.wake(&mut self.out, now);
        }
        self.fail_unwritable(now);
    }

    /// Another broker coordinates: who waits is told so, and nothing is remembered.
    pub(crate) fn stand_down(&mut self) {
        const WHY: ErrorCode = ErrorCode::NOT_COORDINATOR;
        for group in self.groups.values_mut() {
            for (id, member) in &mut group.members {
                if let Some(waiter) = member.join.take() {
                    self.out.respond(waiter.request, membership::refused_join(WHY, id, waiter.version));
                }
                if let Some(waiter) = member.sync.take() {
                    self.out.respond(waiter.request, membership::refused_sync(WHY));
                }
            }
        }
        self.out.effects.retain(|effect| matches!(effect, Effect::Respond(..)));
        self.groups.clear();
        self.deletions.clear();
        self.out.alarms = Alarms::default();
        self.out.writers.clear();
        self.out.unwritable.clear();
    }

    /// A topic was deleted: its offsets go, too.
    pub(crate) fn topic_deleted(&mut self, topic: &str) {
        for group in self.groups.values_mut() {
            group.drop_topic(topic, &mut self.out);
        }
    }

    /// When [`Groups::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.out.alarms.next()
    }

    /// Time has passed. Called much later than was asked for, it gives members the time again that they could not use.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp) {
        let absent = self.out.alarms.next().is_some_and(|due| now.saturating_sub(due) > ABSENCE_MS);
        while let Some((name, alarm)) = self.out.alarms.pop(now) {
            let Some(group) = self.groups.get_mut(&name) else { continue };
            group.ring(alarm, absent, &mut self.out, now);
            self.drop_if_blank(&name);
        }
        self.fail_unwritable(now);
    }

    fn join(&mut self, client: &ClientInfo, request: JoinGroupRequest, waiter: Waiter, now: Timestamp) {
        let config = &self.out.config;
        let session_timeouts = config.group_min_session_timeout_ms..=config.group_max_session_timeout_ms;
        let error = if request.group_id.is_empty() {
            Some(ErrorCode::INVALID_GROUP_ID)
        } else if !session_timeouts.contains(&request.session_timeout_ms) {
            Some(ErrorCode::INVALID_SESSION_TIMEOUT)
        } else if !request.member_id.is_empty() && !self.groups.contains_key(request.group_id.as_str()) {
            Some(ErrorCode::UNKNOWN_MEMBER_ID)
        } else {
            None
        };
        if let Some(error) = error {
            return self
                .out
                .respond(waiter.request, membership::refused_join(error, &request.member_id, waiter.version));
        }
        let group = entry(&mut self.groups, &request.group_id, now);
        let name = Arc::clone(&group.name);
        group.join(request, client, waiter, &mut self.out, now);
        self.drop_if_blank(&name);
    }

    fn leave(&mut self, request: LeaveGroupRequest, waiter: Waiter, now: Timestamp) {
        let members = if waiter.version < 3 {
            vec![MemberIdentity { member_id: request.member_id, ..MemberIdentity::default() }]
        } else {
            request.members
        };
        let mut answer = LeaveGroupResponse::default();
        match self.member_group(&request.group_id) {
            Ok((group, _)) if group.state == State::Dead => answer.error_code = ErrorCode::COORDINATOR_NOT_AVAILABLE,
            Ok((group, out)) => {
                for member in members {
                    let error_code = group.leave(&member, out, now).err().unwrap_or(ErrorCode::NONE);
                    let MemberIdentity { member_id, group_instance_id, .. } = member;
                    answer.members.push(MemberResponse { member_id, group_instance_id, error_code });
                }
            }
            Err(ErrorCode::UNKNOWN_MEMBER_ID) => {
                let refused = |MemberIdentity { member_id, group_instance_id, .. }| {
                    let error_code = ErrorCode::UNKNOWN_MEMBER_ID;
                    MemberResponse { member_id, group_instance_id, error_code }
                };
                answer.members = members.into_iter().map(refused).collect();
            }
            Err(error) => answer.error_code = error,
        }
        if waiter.version < 3
            && let Some(member) = answer.members.pop()
        {
            answer.error_code = member.error_code;
        }
        self.out.respond(waiter.request, answer);
        self.drop_if_blank(&request.group_id);
    }

    fn commit_offsets(
        &mut self,
        request: OffsetCommitRequest,
        waiter: Waiter,
        exists: &dyn Fn(&str, i32) -> bool,
        now: Timestamp,
    ) {
        let name = request.group_id.clone();
        if request.generation_id_or_member_epoch >= 0 && !self.groups.contains_key(name.as_str()) {
            // A generation of a group that is no more, or of another coordinator.
            let gone = if waiter.version >= 9 { ErrorCode::GROUP_ID_NOT_FOUND } else { ErrorCode::ILLEGAL_GENERATION };
            return self.out.respond(waiter.request, offsets::refused_commit(&request, gone));
        }
        let group = entry(&mut self.groups, &name, now);
        group.commit_offsets(request, waiter, exists, &mut self.out, now);
        self.drop_if_blank(&name);
    }

    fn fetch_offsets(&mut self, request: OffsetFetchRequest, waiter: Waiter) {
        let fetch = |group: &str, topics: Option<Vec<(String, Vec<i32>)>>| match self.groups.get(group) {
            Some(group) => group.fetch_offsets(topics.as_deref()),
            None => offsets::fetched(topics.as_deref().unwrap_or_default(), |_, _| None),
        };
        let mut answer = OffsetFetchResponse::default();
        if waiter.version >= 8 {
            for group in request.groups {
                let topics = (group.topics)
                    .map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
                let topics = fetch(&group.group_id, topics);
                let group_id = group.group_id;
                answer.groups.push(OffsetFetchResponseGroup {
                    group_id,
                    topics,
                    ..OffsetFetchResponseGroup::default()
                });
            }
        } else {
            let topics = (request.topics)
                .map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
            for topic in fetch(&request.group_id, topics) {
                let partition = |partition: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
                    partition_index: partition.partition_index,
                    committed_offset: partition.committed_offset,
                    // No room for it before version 5.
                    committed_leader_epoch: if waiter.version >= 5 { partition.committed_leader_epoch } else { -1 },
                    metadata: partition.metadata,
                    error_code: partition.error_code,
                };
                let partitions = topic.partitions.into_iter().map(partition).collect();
                answer.topics.push(OffsetFetchResponseTopic { name: topic.name, partitions });
            }
        }
        self.out.respond(waiter.request, answer);
    }

    fn list(&mut self, request: &ListGroupsRequest, id: RequestId) {
        let wanted = |filter: &[String], name: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let mut answer = ListGroupsResponse::default();
        for group in self.groups.values() {
            if wanted(&request.states_filter, group.state.name()) && wanted(&request.types_filter, "classic") {
                answer.groups.push(ListedGroup {
                    group_id: group.name.to_string(),
                    protocol_type: group.protocol_type.clone().unwrap_or_default(),
                    group_state: group.state.name().to_owned(),
                    group_type: "classic".to_owned(),
                });
            }
        }
        self.out.respond(id, answer);
    }

    fn describe(&mut self, request: DescribeGroupsRequest, waiter: Waiter) {
        let mut answer = DescribeGroupsResponse::default();
        for group_id in request.groups {
            let mut described = match self.groups.get(group_id.as_str()) {
                Some(group) if group.state != State::Dead => group.describe(),
                _ => {
                    let mut described =
                        DescribedGroup { group_state: State::Dead.name().to_owned(), ..Default::default() };
                    if waiter.version >= 6 {
                        described.error_code = ErrorCode::GROUP_ID_NOT_FOUND;
                        described.error_message = Some(format!("there is no such group group={group_id}"));
                    }
                    described
                }
            };
            described.group_id = group_id;
            if request.include_authorized_operations {
                described.authorized_operations = AUTHORIZED_OPERATIONS;
            }
            answer.groups.push(described);
        }
        self.out.respond(waiter.request, answer);
    }

    fn delete(&mut self, request: DeleteGroupsRequest, id: RequestId, now: Timestamp) {
        let mut answer = DeleteGroupsResponse::default();
        let mut waiting = 0;
        let mut seen = BTreeSet::new();
        for group_id in request.groups_names {
            if !seen.insert(group_id.clone()) {
                continue;
            }
            let error_code = match self.groups.get_mut(group_id.as_str()) {
                None => ErrorCode::GROUP_ID_NOT_FOUND,
                Some(group) => match group.state {
                    State::Dead => ErrorCode::GROUP_ID_NOT_FOUND,
                    State::Empty => {
                        let partitions = group.partitions();
                        group.delete(&partitions, Some((id, answer.results.len())), &mut self.out, now);
                        waiting += 1;
                        ErrorCode::NONE
                    }
                    _ => ErrorCode::NON_EMPTY_GROUP,
                },
            };
            answer.results.push(DeletableGroupResult { group_id, error_code, ..DeletableGroupResult::default() });
        }
        if waiting == 0 {
            return self.out.respond(id, answer);
        }
        self.deletions.insert(id, Deletion { answer, waiting });
    }

    /// The group that a member speaks of.
    fn member_group(&mut self, name: &str) -> Result<(&mut Group, &mut Outbox), ErrorCode> {
        if name.is_empty() {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        let group = self.groups.get_mut(name).ok_or(ErrorCode::UNKNOWN_MEMBER_ID)?;
        Ok((group, &mut self.out))
    }

    /// Lets the writes of a group take effect that have their results, and no earlier one waits for its own.
    fn written(&mut self, id: PersistId, result: Result<(), ErrorCode>, now: Timestamp) {
        let Some(name) = self.out.writers.remove(&id) else {
            debug_assert!(false, "a result for records that nobody waits for: {id:?}");
            return;
        };
        let Some(group) = self.groups.get_mut(&name) else { return };
        if let Some(write) = group.writes.iter_mut().find(|write| write.id == id) {
            write.result = Some(result);
        }
        while let Some(result) = group.writes.front().and_then(|write| write.result) {
            let Some(Write { purpose, .. }) = group.writes.pop_front() else { break };
            if let Err(error) = result {
                log::warn!("group could not be written group={name} error={}", error.name());
            }
            match purpose {
                Purpose::Commit(commit) => group.committed(commit, result, &mut self.out, now),
                Purpose::Forget(forget) => group.forgot(forget, result, &mut self.out),
                Purpose::Forgotten | Purpose::Emptied => {}
                Purpose::Assignment { generation, assignments } => {
                    group.assigned(generation, assignments, result, &mut self.out, now);
                }
                Purpose::Replacement(replacement) => group.replaced(*replacement, result, &mut self.out, now),
                Purpose::Delete(asked_by) => {
                    group.deleted(result, &mut self.out, now);
                    if let Some((request, place)) = asked_by {
                        answer_deletion(&mut self.deletions, request, place, result, &mut self.out);
                    }
                    if result.is_ok() {
                        self.groups.remove(&name);
                        return;
                    }
                }
            }
        }
        self.drop_if_blank(&name);
    }

    /// Names that a record has no room for come only from callers in our own process; they get an answer, too.
    fn fail_unwritable(&mut self, now: Timestamp) {
        while let Some(id) = self.out.unwritable.pop_front() {
            self.written(id, Err(ErrorCode::UNKNOWN_SERVER_ERROR), now);
        }
    }

    fn drop_if_blank(&mut self, name: &str) {
        if let Some(group) = self.groups.get_mut(name)
            && group.is_blank()
        {
            self.out.alarms.set(&mut group.retention_check, &group.name, Alarm::Retention, None);
            self.groups.remove(name);
        }
    }
}

/// The answer to a request that another broker has to be asked: the coordinator is elsewhere.
pub(crate) fn refused(request: &Request, version: i16) -> Response {
    const WHY: ErrorCode = ErrorCode::NOT_COORDINATOR;
    match request {
        Request::JoinGroup(request) => membership::refused_join(WHY, &request.member_id, version).into(),
        Request::SyncGroup(_) => membership::refused_sync(WHY).into(),
        Request::Heartbeat(_) => HeartbeatResponse { error_code: WHY, ..Default::default() }.into(),
        Request::LeaveGroup(_) => LeaveGroupResponse { error_code: WHY, ..Default::default() }.into(),
        Request::OffsetCommit(request) => offsets::refused_commit(request, WHY).into(),
        Request::OffsetDelete(_) => OffsetDeleteResponse { error_code: WHY, ..Default::default() }.into(),
        // Each broker lists its own, and here there are none.
        Request::ListGroups(_) => ListGroupsResponse::default().into(),
        Request::DescribeGroups(request) => {
            let described = |group: &String| DescribedGroup {
                error_code: WHY,
                group_id: group.clone(),
                ..DescribedGroup::default()
            };
            let groups = request.groups.iter().map(described).collect();
            DescribeGroupsResponse { groups, ..Default::default() }.into()
        }
        Request::DeleteGroups(request) => {
            let deleted = |group: &String| DeletableGroupResult {
                group_id: group.clone(),
                error_code: WHY,
                ..DeletableGroupResult::default()
            };
            let results = request.groups_names.iter().map(deleted).collect();
            DeleteGroupsResponse { results, ..Default::default() }.into()
        }
        Request::OffsetFetch(request) => {
            let groups = request.groups.iter().map(|group| OffsetFetchResponseGroup {
                group_id: group.group_id.clone(),
                error_code: WHY,
                ..OffsetFetchResponseGroup::default()
            });
            let mut answer = OffsetFetchResponse { groups: groups.collect(), ..OffsetFetchResponse::default() };
            if version < 8 {
                // Version 1 has it on each partition, the others once.
                answer.error_code = if version >= 2 { WHY } else { ErrorCode::NONE };
                let partition = |index: &i32| OffsetFetchResponsePartition {
                    partition_index: *index,
                    committed_offset: -1,
                    committed_leader_epoch: -1,
                    error_code: WHY,
                    ..OffsetFetchResponsePartition::default()
                };
                answer.topics = (request.topics.iter().flatten())
                    .map(|topic| OffsetFetchResponseTopic {
                        name: topic.name.clone(),
                        partitions: topic.partition_indexes.iter().map(partition).collect(),
                    })
                    .collect();
            }
            answer.into()
        }
        other => unreachable!("not a request to the group coordinator: {}", other.api_key()),
    }
}

fn entry<'a>(groups: &'a mut BTreeMap<Arc<str>, Group>, name: &str, now: Timestamp) -> &'a mut Group {
    let name = Arc::<str>::from(name);
    groups.entry(Arc::clone(&name)).or_insert_with(|| Group::new(name, now))
}

/// One of the groups that a DeleteGroups request named is gone, or could not be deleted; the last one is answered with.
fn answer_deletion(
    deletions: &mut BTreeMap<RequestId, Deletion>,
    request: RequestId,
    place: usize,
    result: Result<(), ErrorCode>,
    out: &mut Outbox,
) {
    let Some(deletion) = deletions.get_mut(&request) else { return };
    if let (Err(error), Some(place)) = (result, deletion.answer.results.get_mut(place)) {
        place.error_code = membership::group_error(error);
    }
    deletion.waiting -= 1;
    if deletion.waiting == 0
        && let Some(deletion) = deletions.remove(&request)
    {
        out.respond(request, deletion.answer);
    }
}

impl Outbox {
    fn respond(&mut self, request: RequestId, response: impl Into<Response>) {
        self.effects.push_back(Effect::Respond(request, response.into()));
    }

    /// A member id that `is_taken` does not know: what names the member, and chance.
    fn member_id(&mut self, prefix: &str, is_taken: impl Fn(&str) -> bool) -> Arc<str> {
        // Member ids must fit into Kafka's strings, so a long prefix is cut.
        let prefix = prefix.chars().take(255).collect::<String>();
        loop {
            let bits = u128::from(self.random.next()) << 64 | u128::from(self.random.next());
            let id = format!("{prefix}-{}", uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid());
            if !is_taken(&id) {
                return id.into();
            }
        }
    }
}

impl Group {
    /// Hands out records; `purpose` happens once they are written, after that of all earlier ones.
    fn persist(&mut self, records: Result<Vec<Record>, ProtocolError>, purpose: Purpose, out: &mut Outbox) {
        let id = PersistId(out.next_persist);
        out.next_persist += 1;
        out.writers.insert(id, Arc::clone(&self.name));
        self.writes.push_back(Write { id, purpose, result: None });
        match records {
            Ok(records) => out.effects.push_back(Effect::Persist { id, group: self.name.to_string(), records }),
            Err(error) => {
                log::warn!("group cannot be written group={}: {error}", self.name);
                out.unwritable.push_back(id);
            }
        }
    }
}

/// What there is to wait for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// The time to join is over.
    Join,
    /// The time to ask for the assignment is over.
    Sync,
    /// A member was not heard of.
    Session(Arc<str>),
    /// A member id that was given out was not used.
    Pending(Arc<str>),
    /// Offsets may have expired.
    Retention,
}

/// All alarms of all groups, in the order of time. Each is also remembered where it belongs, so that it can be moved.
#[derive(Debug, Default)]
struct Alarms {
    queue: BTreeSet<(Timestamp, Arc<str>, Alarm)>,
}

impl Alarms {
    /// Moves an alarm from the time in `slot` to `at`.
    fn set(&mut self, slot: &mut Option<Timestamp>, group: &Arc<str>, alarm: Alarm, at: Option<Timestamp>) {
        if *slot == at {
            return;
        }
        let mut entry = (slot.unwrap_or_default(), Arc::clone(group), alarm);
        if slot.is_some() {
            let was_set = self.queue.remove(&entry);
            debug_assert!(was_set, "an alarm is not where it was remembered: {entry:?}");
        }
        *slot = at;
        if let Some(at) = at {
            entry.0 = at;
            self.queue.insert(entry);
        }
    }

    fn next(&self) -> Option<Timestamp> {
        self.queue.first().map(|(at, ..)| *at)
    }

    /// Takes the first alarm that is due; its slot is cleared by who it belongs to.
    fn pop(&mut self, now: Timestamp) -> Option<(Arc<str>, Alarm)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop_first().map(|(_, group, alarm)| (group, alarm))
    }
}

/// Numbers that look random, from a seed (SplitMix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
