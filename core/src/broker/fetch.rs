//! Fetch with its sessions (KIP-227), ListOffsets and OffsetForLeaderEpoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::partition::{Partition, PartitionId};
use super::topics::{MAX_TOPIC_NAME, code_of};
use super::{Broker, Context, RequestId, Then};
use crate::log::Slice;
use crate::protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
};
use crate::protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use crate::protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset as EpochEnd, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};
use crate::protocol::{ErrorCode, Response};
use crate::{Result, Timestamp};

/// An answer, with the parts of files that belong into it. They are read by [`Reply::read`], away from the broker's lock.
#[derive(Debug)]
pub struct Reply {
    response: Response,
    /// (topic, partition) in a Fetch response, and its records.
    slices: Vec<(usize, usize, Slice)>,
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        Self { response, slices: Vec::new() }
    }
}

impl Reply {
    /// The whole answer. A part that cannot be read becomes its partition's KAFKA_STORAGE_ERROR.
    pub fn read(self) -> Response {
        let Self { mut response, slices } = self;
        if let Response::Fetch(fetch) = &mut response {
            for (topic, partition, slice) in slices {
                let data = &mut fetch.responses[topic].partitions[partition];
                match slice.read() {
                    Ok(bytes) => data.records = Some(bytes),
                    Err(error) => {
                        log::error!(
                            "records cannot be read partition={}-{}: {error}",
                            fetch.responses[topic].topic,
                            fetch.responses[topic].partitions[partition].partition_index
                        );
                        fetch.responses[topic].partitions[partition].error_code = ErrorCode::KAFKA_STORAGE_ERROR;
                    }
                }
            }
        }
        response
    }
}

/// What a client wants of one partition.
#[derive(Clone, Debug)]
struct Wanted {
    offset: i64,
    max_bytes: usize,
    current_leader_epoch: i32,
    last_fetched_epoch: i32,
    /// High watermark, last stable offset and log start offset as the client was told last; for sessions.
    told: Option<(i64, i64, i64)>,
}

/// A topic's name and a partition of it.
type Name = (Arc<str>, i32);

/// The partitions of a Fetch, in the order in which they are served.
#[derive(Clone, Debug, Default)]
struct WantedPartitions {
    turns: BTreeMap<u64, (Name, Wanted)>,
    /// Which turn a partition has.
    places: BTreeMap<Name, u64>,
    next: u64,
}

impl WantedPartitions {
    /// Adds a partition as the last one, or changes what is wanted of it.
    fn insert(&mut self, name: Name, wanted: Wanted) {
        let turn = *self.places.entry(name.clone()).or_insert(self.next);
        self.next = self.next.max(turn + 1);
        self.turns.insert(turn, (name, wanted));
    }

    fn remove(&mut self, name: &Name) {
        if let Some(turn) = self.places.remove(name) {
            self.turns.remove(&turn);
        }
    }

    fn get(&self, name: &Name) -> Option<&Wanted> {
        self.turns.get(self.places.get(name)?).map(|(_, wanted)| wanted)
    }

    fn get_mut(&mut self, name: &Name) -> Option<&mut Wanted> {
        let turn = self.places.get(name)?;
        self.turns.get_mut(turn).map(|(_, wanted)| wanted)
    }

    /// Lets all others be served before it.
    fn move_to_end(&mut self, name: &Name) {
        if let Some(turn) = self.places.get_mut(name)
            && let Some(entry) = self.turns.remove(turn)
        {
            *turn = self.next;
            self.turns.insert(self.next, entry);
            self.next += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &(Name, Wanted)> {
        self.turns.values()
    }

    fn len(&self) -> usize {
        self.turns.len()
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes those out whose names are longer than a topic's can be: they are answered, and not worth remembering.
    fn split_off_impossible(&mut self) -> Self {
        let mut impossible = Self::default();
        if self.turns.values().any(|((topic, _), _)| topic.len() > MAX_TOPIC_NAME) {
            for (name, wanted) in std::mem::take(self).turns.into_values() {
                let side = if name.0.len() > MAX_TOPIC_NAME { &mut impossible } else { &mut *self };
                side.insert(name, wanted);
            }
        }
        impossible
    }

    /// These and `others`, which come last.
    fn with(self: Arc<Self>, others: Self) -> Arc<Self> {
        if others.is_empty() {
            return self;
        }
        let mut all = Arc::unwrap_or_clone(self);
        for (name, wanted) in others.turns.into_values() {
            all.insert(name, wanted);
        }
        Arc::new(all)
    }
}

/// A Fetch that waits for enough bytes or its deadline.
#[derive(Debug)]
pub(super) struct Pending {
    id: RequestId,
    fetch: Fetch,
    deadline: Timestamp,
    partitions: Vec<PartitionId>,
}

impl Pending {
    /// The wall clock was set `by` milliseconds ahead.
    pub(super) fn clock_was_set(&mut self, by: i64) {
        self.deadline = self.deadline.saturating_add(by);
    }
}

#[derive(Debug)]
struct Fetch {
    replica_id: i32,
    read_committed: bool,
    max_bytes: usize,
    min_bytes: usize,
    session: Option<i32>,
    /// Whether unchanged partitions are left out of the answer.
    incremental: bool,
    wanted: Arc<WantedPartitions>,
}

/// One client's fetch session.
#[derive(Debug)]
struct Session {
    next_epoch: i32,
    used: Timestamp,
    wanted: Arc<WantedPartitions>,
}

/// The fetch sessions, bounded in number.
#[derive(Debug)]
pub(super) struct Sessions {
    sessions: BTreeMap<i32, Session>,
    max: usize,
}

/// How many partitions all sessions together remember.
const MAX_SESSION_PARTITIONS: usize = 500_000;

/// A session that was not used for so long may make room for another (Kafka's min.incremental.fetch.session.eviction.ms).
const SESSION_EVICTION_MS: i64 = 120_000;

impl Sessions {
    pub(super) fn new(max: usize) -> Self {
        Self { sessions: BTreeMap::new(), max }
    }

    /// Opens a session, if there is room or can be made.
    fn open(&mut self, id: i32, wanted: &Arc<WantedPartitions>, now: Timestamp) -> Option<i32> {
        if self.sessions.len() >= self.max {
            let (oldest, used) =
                self.sessions.iter().map(|(id, session)| (*id, session.used)).min_by_key(|(_, used)| *used)?;
            if now.saturating_sub(used) < SESSION_EVICTION_MS {
                return None;
            }
            self.sessions.remove(&oldest);
        }
        if self.sessions.contains_key(&id) || !self.has_room(wanted.len()) {
            return None;
        }
        self.sessions.insert(id, Session { next_epoch: 1, used: now, wanted: Arc::clone(wanted) });
        Some(id)
    }

    /// Whether so many partitions more can be remembered.
    fn has_room(&self, partitions: usize) -> bool {
        let held: usize = self.sessions.values().map(|session| session.wanted.len()).sum();
        held.saturating_add(partitions) <= MAX_SESSION_PARTITIONS
    }
}

impl Broker {
    pub(super) fn fetch(&mut self, id: RequestId, context: &Context, request: FetchRequest, now: Timestamp) {
        let mut named = WantedPartitions::default();
        for topic in &request.topics {
            let name: Arc<str> = topic.topic.as_str().into();
            for partition in &topic.partitions {
                let wanted = Wanted {
                    offset: partition.fetch_offset,
                    max_bytes: partition.partition_max_bytes.max(0) as usize,
                    current_leader_epoch: partition.current_leader_epoch,
                    last_fetched_epoch: if context.version >= 12 { partition.last_fetched_epoch } else { -1 },
                    told: None,
                };
                named.insert((Arc::clone(&name), partition.partition), wanted);
            }
        }
        let (session, incremental, wanted) = match self.resolve_session(&request, named, now) {
            Ok(resolved) => resolved,
            Err(error_code) => {
                let response = FetchResponse { error_code, ..FetchResponse::default() };
                return self.respond(id, Response::Fetch(response));
            }
        };
        let fetch = Fetch {
            // Whoever has not registered is a reader: what it has acknowledges nothing.
            replica_id: if self.is_registered(request.replica_id) { request.replica_id } else { -1 },
            read_committed: request.isolation_level == 1,
            max_bytes: (request.max_bytes.max(0) as usize).min(self.config.fetch_max_bytes),
            min_bytes: request.min_bytes.max(0) as usize,
            session,
            incremental,
            wanted,
        };
        if fetch.replica_id >= 0 {
            self.note_follower(&fetch, now);
        }
        let (reply, ready) = self.read_fetch(&fetch);
        if ready || request.max_wait_ms <= 0 || fetch.wanted.is_empty() {
            return self.finish_fetch(id, fetch, reply);
        }
        let row = self.next_row;
        self.next_row += 1;
        let partitions: Vec<PartitionId> =
            fetch.wanted.iter().filter_map(|((topic, index), _)| self.find(topic, *index)).collect();
        for partition in &partitions {
            self.partition_mut(*partition).fetches().insert(row);
        }
        let deadline = now.saturating_add(i64::from(request.max_wait_ms));
        self.deadlines.insert((deadline, row));
        self.fetches.insert(row, Pending { id, fetch, deadline, partitions });
    }

    fn resolve_session(
        &mut self,
        request: &FetchRequest,
        mut named: WantedPartitions,
        now: Timestamp,
    ) -> std::result::Result<(Option<i32>, bool, Arc<WantedPartitions>), ErrorCode> {
        if request.session_epoch <= 0 {
            self.sessions.sessions.remove(&request.session_id);
            if request.session_epoch < 0 {
                return Ok((None, false, Arc::new(named)));
            }
            let id = ((self.random() >> 33) as i32).max(1);
            let impossible = named.split_off_impossible();
            let named = Arc::new(named);
            return Ok((self.sessions.open(id, &named, now), false, named.with(impossible)));
        }
        let impossible = named.split_off_impossible();
        if !named.is_empty() && !self.sessions.has_room(named.len()) {
            // Without a session there is nothing to remember; the client asks for all of it then.
            self.sessions.sessions.remove(&request.session_id);
        }
        let Some(session) = self.sessions.sessions.get_mut(&request.session_id) else {
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        };
        if session.next_epoch != request.session_epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        session.next_epoch = if session.next_epoch == i32::MAX { 1 } else { session.next_epoch + 1 };
        session.used = now;
        let all = Arc::make_mut(&mut session.wanted);
        for topic in &request.forgotten_topics_data {
            let name: Arc<str> = topic.topic.as_str().into();
            for partition in &topic.partitions {
                all.remove(&(Arc::clone(&name), *partition));
            }
        }
        for (name, mut wanted) in named.turns.into_values() {
            if let Some(before) = all.get_mut(&name) {
                wanted.told = before.told;
            }
            all.insert(name, wanted);
        }
        Ok((Some(request.session_id), true, Arc::clone(&session.wanted).with(impossible)))
    }

    /// A follower's fetch tells how far it is: that is the acknowledgement.
    fn note_follower(&mut self, fetch: &Fetch, now: Timestamp) {
        if fetch.replica_id == self.config.node_id || self.is_following() {
            return;
        }
        for ((topic, index), wanted) in fetch.wanted.iter() {
            let Some(id) = self.find(topic, *index).filter(|id| *id != self.metadata) else { continue };
            if !follows_our_history(self.partition(id), wanted) {
                continue;
            }
            self.trace_fetched(fetch.replica_id, id, wanted.offset);
            let partition = self.partition_mut(id);
            if partition.handle_follower_fetch(fetch.replica_id, wanted.offset, now) {
                log::info!(
                    "a follower joined the in-sync replicas partition={topic}-{index} node={}",
                    fetch.replica_id
                );
                self.followed.insert(id);
            }
            self.moved.insert(id);
        }
    }

    /// Reads for `fetch` what is there. The second value tells whether it may be answered before its deadline.
    fn read_fetch(&self, fetch: &Fetch) -> (Reply, bool) {
        let mut response = FetchResponse::default();
        let mut slices = Vec::new();
        let mut bytes = 0_usize;
        let mut ready = false;
        for ((topic, index), wanted) in fetch.wanted.iter() {
            let read = self.read_partition(fetch, topic, *index, wanted, bytes);
            let has_records = read.slice.as_ref().is_some_and(|slice| !slice.is_empty());
            let told = (read.data.high_watermark, read.data.last_stable_offset, read.data.log_start_offset);
            let is_urgent = read.is_urgent();
            ready |= is_urgent;
            if fetch.incremental && !has_records && !is_urgent && wanted.told == Some(told) {
                continue;
            }
            if response.responses.last().is_none_or(|last| last.topic != **topic) {
                response.responses.push(FetchableTopicResponse { topic: topic.to_string(), ..Default::default() });
            }
            let at = response.responses.len() - 1;
            let partitions = &mut response.responses[at].partitions;
            if let Some(slice) = read.slice.filter(|slice| !slice.is_empty()) {
                bytes += slice.len();
                slices.push((at, partitions.len(), slice));
            }
            partitions.push(read.data);
        }
        ready |= bytes >= fetch.min_bytes.max(1) || fetch.min_bytes == 0;
        (Reply { response: Response::Fetch(response), slices }, ready)
    }

    fn read_partition(&self, fetch: &Fetch, topic: &str, index: i32, wanted: &Wanted, bytes: usize) -> Read {
        let failed = |error_code| Read {
            data: PartitionData {
                partition_index: index,
                error_code,
                high_watermark: -1,
                last_stable_offset: -1,
                log_start_offset: -1,
                records: Some(bytes::Bytes::new()),
                ..PartitionData::default()
            },
            slice: None,
        };
        let Some(id) = self.find(topic, index) else {
            return failed(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        };
        let partition = self.partition(id);
        if let Err(code) = check_epoch(partition, wanted.current_leader_epoch) {
            return failed(code);
        }
        let log = &partition.log;
        let (start, end) = (log.start(), log.end());
        let mut data = PartitionData {
            partition_index: index,
            high_watermark: partition.high_watermark(),
            last_stable_offset: partition.last_stable_offset(),
            log_start_offset: start,
            records: Some(bytes::Bytes::new()),
            ..PartitionData::default()
        };
        if wanted.last_fetched_epoch >= 0 && !follows_our_history(partition, wanted) {
            match partition.epoch_end(wanted.last_fetched_epoch) {
                Some((epoch, end_offset)) => data.diverging_epoch = EpochEndOffset { epoch, end_offset },
                // Nothing is known of that epoch: nobody is to cut anything for it before he has asked.
                None => data.error_code = ErrorCode::OFFSET_OUT_OF_RANGE,
            }
            return Read { data, slice: None };
        }
        if wanted.offset < start || wanted.offset > end {
            data.error_code = ErrorCode::OFFSET_OUT_OF_RANGE;
            return Read { data, slice: None };
        }
        let upto = if fetch.replica_id >= 0 {
            end
        } else if fetch.read_committed {
            data.last_stable_offset
        } else {
            data.high_watermark
        };
        if wanted.offset >= upto || (bytes > 0 && bytes >= fetch.max_bytes) {
            return Read { data, slice: None };
        }
        let room = fetch.max_bytes.saturating_sub(bytes).min(wanted.max_bytes);
        match log.read(wanted.offset, room, upto, bytes == 0) {
            Ok(slice) => {
                if fetch.read_committed && !slice.is_empty() {
                    let aborted = log.aborted(wanted.offset, upto);
                    data.aborted_transactions = Some(
                        aborted
                            .into_iter()
                            .map(|aborted| AbortedTransaction {
                                producer_id: aborted.producer_id,
                                first_offset: aborted.first_offset,
                            })
                            .collect(),
                    );
                }
                Read { data, slice: Some(slice) }
            }
            Err(error) => {
                log::error!("a read failed partition={topic}-{index} offset={}: {error}", wanted.offset);
                data.error_code = code_of(&error);
                Read { data, slice: None }
            }
        }
    }

    /// Answers the fetches that wait on `id` and now have enough.
    pub(super) fn wake_fetches(&mut self, id: PartitionId, now: Timestamp) {
        let Some(partition) = self.partitions[id.0].as_mut() else { return };
        if partition.fetches().is_empty() {
            return;
        }
        let rows: Vec<u64> = partition.fetches().iter().copied().collect();
        let name = (Arc::clone(&partition.topic), partition.index);
        for row in rows {
            if self.fetches.get(&row).is_some_and(|pending| self.is_ready(&pending.fetch, &name)) {
                self.answer_fetch(row, now);
            }
        }
    }

    /// Whether a fetch that waits has enough now that something has happened in one of its partitions.
    fn is_ready(&self, fetch: &Fetch, name: &Name) -> bool {
        if fetch.min_bytes > 1 {
            return self.read_fetch(fetch).1;
        }
        // A byte is enough, and the others had none when something happened there.
        let Some(wanted) = fetch.wanted.get(name) else { return false };
        let read = self.read_partition(fetch, &name.0, name.1, wanted, 0);
        read.is_urgent() || read.slice.is_some_and(|slice| !slice.is_empty())
    }

    /// Answers a fetch that waits, with whatever there is.
    pub(super) fn answer_fetch(&mut self, row: u64, _now: Timestamp) {
        let Some(pending) = self.fetches.remove(&row) else { return };
        self.deadlines.remove(&(pending.deadline, row));
        for partition in &pending.partitions {
            if let Some(partition) = self.partitions[partition.0].as_mut() {
                partition.fetches().remove(&row);
            }
        }
        let (reply, _) = self.read_fetch(&pending.fetch);
        self.finish_fetch(pending.id, pending.fetch, reply);
    }

    fn finish_fetch(&mut self, id: RequestId, fetch: Fetch, mut reply: Reply) {
        self.trace_reply(&fetch, &reply);
        // The session's own then, which is changed in place.
        let Fetch { session, wanted, .. } = fetch;
        drop(wanted);
        if let (Some(session_id), Response::Fetch(response)) = (session, &mut reply.response) {
            response.session_id = session_id;
            if let Some(session) = self.sessions.sessions.get_mut(&session_id) {
                let all = Arc::make_mut(&mut session.wanted);
                let mut served = reply.slices.iter().map(|(topic, partition, _)| (*topic, *partition)).peekable();
                for (at, topic) in response.responses.iter().enumerate() {
                    let name: Arc<str> = topic.topic.as_str().into();
                    for (index, data) in topic.partitions.iter().enumerate() {
                        let name = (Arc::clone(&name), data.partition_index);
                        if let Some(wanted) = all.get_mut(&name) {
                            wanted.told = Some((data.high_watermark, data.last_stable_offset, data.log_start_offset));
                        }
                        // As Kafka does: or what is always full would leave no room for those behind it.
                        if served.next_if_eq(&(at, index)).is_some() {
                            all.move_to_end(&name);
                        }
                    }
                }
            }
        }
        self.responses.push_back((id, reply));
    }

    /// Notes which records a Fetch is answered with.
    fn trace_reply(&mut self, fetch: &Fetch, reply: &Reply) {
        let Response::Fetch(response) = &reply.response else { return };
        if self.trace.is_none() {
            return;
        }
        let node = Some(fetch.replica_id).filter(|node| *node >= 0);
        for (topic, partition, slice) in &reply.slices {
            let topic = &response.responses[*topic];
            let index = topic.partitions[*partition].partition_index;
            if let Some(at) = self.find(&topic.topic, index) {
                self.trace_sent(node, at, slice);
            }
        }
    }

    pub(super) fn list_offsets(&mut self, id: RequestId, request: ListOffsetsRequest, version: i16) {
        // The latest offset is known once nothing below it can be taken back: wait for the sync that is due (Decision 2).
        let mut waits = Vec::new();
        for topic in &request.topics {
            for wanted in &topic.partitions {
                let Some(id) = self.find(&topic.name, wanted.partition_index) else { continue };
                let partition = self.partition(id);
                if wanted.timestamp == LATEST
                    && request.replica_id != DEBUGGER
                    && partition.in_sync_followers().is_empty()
                    && !partition.is_limited()
                    && !partition.is_failed()
                {
                    waits.push((id, partition.log.end()));
                }
            }
        }
        waits.retain(|(id, end)| self.partition(*id).high_watermark() < *end);
        if !waits.is_empty() {
            return self.defer(Then::ListOffsets(id, request, version), waits, None);
        }
        self.answer_list_offsets(id, &request, version);
    }

    pub(super) fn answer_list_offsets(&mut self, id: RequestId, request: &ListOffsetsRequest, version: i16) {
        let mut topics: Vec<ListOffsetsTopicResponse> = request
            .topics
            .iter()
            .map(|topic| ListOffsetsTopicResponse {
                name: topic.name.clone(),
                partitions: topic
                    .partitions
                    .iter()
                    .map(|wanted| {
                        self.list_offset(&topic.name, wanted, request.isolation_level == 1, request.replica_id)
                    })
                    .collect(),
            })
            .collect();
        if version < 4 {
            // Older versions have no place for it.
            topics.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(|answer| answer.leader_epoch = -1);
        }
        self.respond(id, Response::ListOffsets(ListOffsetsResponse { topics, ..Default::default() }));
    }

    fn list_offset(
        &self,
        topic: &str,
        wanted: &ListOffsetsPartition,
        read_committed: bool,
        replica_id: i32,
    ) -> ListOffsetsPartitionResponse {
        let mut answer = ListOffsetsPartitionResponse {
            partition_index: wanted.partition_index,
            timestamp: -1,
            offset: -1,
            leader_epoch: -1,
            ..ListOffsetsPartitionResponse::default()
        };
        let Some(id) = self.find(topic, wanted.partition_index) else {
            answer.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
            return answer;
        };
        let partition = self.partition(id);
        if let Err(code) = check_epoch(partition, wanted.current_leader_epoch) {
            answer.error_code = code;
            return answer;
        }
        let log = &partition.log;
        let upto = match replica_id {
            // For those who compare logs: its end, whoever may read so far.
            DEBUGGER => log.end(),
            _ if read_committed => partition.last_stable_offset(),
            _ => partition.high_watermark(),
        };
        let found: Result<Option<(Timestamp, i64)>> = match wanted.timestamp {
            LATEST => Ok(Some((-1, upto))),
            EARLIEST | EARLIEST_LOCAL => Ok(Some((-1, log.start()))),
            MAX_TIMESTAMP => log.max_timestamp().map(|found| found.filter(|(_, offset)| *offset < upto)),
            timestamp if timestamp < 0 => Ok(None),
            timestamp => log.offset_for_time(timestamp, upto),
        };
        match found {
            Ok(Some((timestamp, offset))) => {
                answer.timestamp = timestamp;
                answer.offset = offset;
                answer.leader_epoch = if wanted.timestamp == LATEST && replica_id == DEBUGGER {
                    log.epochs().latest().unwrap_or(-1)
                } else if wanted.timestamp == LATEST {
                    partition.leader_epoch
                } else {
                    log.epochs().epoch_at(offset).unwrap_or(-1)
                };
            }
            Ok(None) => {}
            Err(error) => {
                log::error!("an offset cannot be looked up partition={topic}-{}: {error}", wanted.partition_index);
                answer.error_code = code_of(&error);
            }
        }
        answer
    }

    pub(super) fn offset_for_leader_epoch(&mut self, id: RequestId, request: OffsetForLeaderEpochRequest) {
        let answer = |topic: &str, wanted: &OffsetForLeaderPartition| {
            let mut answer =
                EpochEnd { partition: wanted.partition, leader_epoch: -1, end_offset: -1, ..EpochEnd::default() };
            match self.find(topic, wanted.partition) {
                None => answer.error_code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                Some(id) => {
                    let partition = self.partition(id);
                    match check_epoch(partition, wanted.current_leader_epoch) {
                        Err(code) => answer.error_code = code,
                        Ok(()) => {
                            (answer.leader_epoch, answer.end_offset) =
                                partition.epoch_end(wanted.leader_epoch).unwrap_or((-1, -1));
                        }
                    }
                }
            }
            answer
        };
        let topics = request
            .topics
            .iter()
            .map(|topic| OffsetForLeaderTopicResult {
                topic: topic.topic.clone(),
                partitions: topic.partitions.iter().map(|wanted| answer(&topic.topic, wanted)).collect(),
            })
            .collect();
        let response = OffsetForLeaderEpochResponse { topics, ..Default::default() };
        self.respond(id, Response::OffsetForLeaderEpoch(response));
    }
}

struct Read {
    data: PartitionData,
    slice: Option<Slice>,
}

impl Read {
    /// Whether the client is to be told at once: of an error, or that its history parts from ours.
    fn is_urgent(&self) -> bool {
        self.data.error_code != ErrorCode::NONE || self.data.diverging_epoch != EpochEndOffset::default()
    }
}

/// The replica id of who looks into logs without being a replica, as Kafka's own tools have it.
const DEBUGGER: i32 = -2;

/// ListOffsets' special timestamps.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;

/// The client's idea of who leads, against ours (KIP-320).
fn check_epoch(partition: &Partition, epoch: i32) -> std::result::Result<(), ErrorCode> {
    match epoch {
        epoch if epoch < 0 || epoch == partition.leader_epoch => Ok(()),
        epoch if epoch < partition.leader_epoch => Err(ErrorCode::FENCED_LEADER_EPOCH),
        _ => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
    }
}

/// Whether everything below the wanted offset is what this leader has (KIP-595's check of the last fetched epoch).
fn follows_our_history(partition: &Partition, wanted: &Wanted) -> bool {
    if wanted.last_fetched_epoch < 0 {
        return true;
    }
    partition
        .epoch_end(wanted.last_fetched_epoch)
        .is_some_and(|(epoch, end)| epoch == wanted.last_fetched_epoch && wanted.offset <= end)
}
