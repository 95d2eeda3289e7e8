//! The embedded broker: a state machine that answers Kafka's requests over logs on a device.
//!
//! [`Broker`] takes a request and the time and gives answers and tasks back. It has no clock, socket or thread. After any
//! `handle_…` call, drain [`Broker::poll_response`] and [`Broker::poll_task`] until they return `None`; run each task where
//! it may wait and hand its outcome to [`Broker::handle_done`]; call [`Broker::handle_timeout`] when
//! [`Broker::poll_timeout`] is due. `transport::Embedded` does just that around a lock.
//!
//! What cannot be answered yet is a row in a table (`Deferred`): an answer, and the offsets that high watermarks must reach
//! before it may go out. One sync of a partition serves every row that waits for it.

mod cluster;
mod config;
mod configs;
mod copies;
pub(crate) mod directory;
mod fetch;
mod groups;
mod latency;
mod leadership;
mod partition;
mod produce;
mod served;
mod stored;
mod topics;
mod trace;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

pub use config::{BrokerConfig, Durability, GroupsConfig, check_topic_value as check_topic_config};
pub use copies::{Copy, CopyEnd};
use directory::CheckpointWriter;
pub use fetch::Reply;
use groups::{ClientInfo, Effect, Groups, PersistId};
use latency::Latencies;
pub use latency::{AckLatency, Times};
use leadership::Leadership;
pub use leadership::{KnownReplicas, Leader, LeadershipEvent, PARTIAL_LISTENER, Peer, STAND_BACK_MS, TERM};
use partition::{Partition, PartitionId};
pub use produce::Produce;
pub use served::{Incoming, SERVED, serves};
use stored::{Change, Stored};
pub use stored::{METADATA_TOPIC, ReplicaOf, StoredHole};
use topics::Topic;
use trace::Trace;
pub use trace::{Step, Traced};

use crate::log::{Checkpoints, Compacted, Compaction, Log, Recovery, Removal, Swap, SyncPoint};
use crate::protocol::connection::advertised;
use crate::protocol::messages::{
    ApiVersionsResponse, DescribeAclsResponse, HeartbeatResponse, ListOffsetsRequest,
    ListPartitionReassignmentsResponse,
};
use crate::protocol::{ErrorCode, Request, Response};
use crate::record::{Batch, Builder, BuilderOptions, Limits, NO_HEADERS, ProducerFields};
use crate::storage::{Device, OpenFiles};
use crate::{Error, ErrorKind, Result, Timestamp};

/// The internal topic of committed offsets and group membership, in Kafka's own format.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Marks a directory whose broker was closed; Kafka's own name for it.
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// Names a request from when it is handed in until it is answered. The shell chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Who sends a request.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The version of the request's API, which some answers depend on.
    pub version: i16,
    /// The client id of the request's header.
    pub client_id: Arc<str>,
    /// The client's address, as `/127.0.0.1`.
    pub host: Arc<str>,
}

/// Work on a device that may wait; run it away from the broker's lock and hand its [`Done`] back.
#[derive(Debug)]
pub struct Task(TaskKind);

#[derive(Debug)]
enum TaskKind {
    Sync { partition: PartitionId, point: SyncPoint },
    Remove { removals: Vec<Removal> },
    RemoveDirs { device: Arc<dyn Device>, dirs: Vec<String>, topic_id: Uuid },
    Checkpoints { writer: Arc<CheckpointWriter>, number: u64, texts: [(&'static str, String); 3] },
    Compact { partition: PartitionId, compaction: Compaction },
    Swap { partition: PartitionId, swap: Swap },
}

/// The outcome of a [`Task`].
#[derive(Debug)]
pub struct Done(DoneKind);

#[derive(Debug)]
enum DoneKind {
    Synced { partition: PartitionId, result: Result<()> },
    Finished,
    Checkpointed,
    Compacted { partition: PartitionId, dir: String, compacted: Compacted },
    Swapped { partition: PartitionId, swapped: Result<Swap> },
    DirsRemoved { topic_id: Uuid, result: std::io::Result<()> },
}

impl Task {
    /// Does the work; may wait for the device.
    pub fn run(self) -> Done {
        Done(match self.0 {
            TaskKind::Sync { partition, point } => DoneKind::Synced { partition, result: point.run() },
            TaskKind::Remove { removals } => {
                for removal in removals {
                    if let Err(error) = removal.run() {
                        log::warn!("a segment that went out by retention could not be removed: {error}");
                    }
                }
                DoneKind::Finished
            }
            TaskKind::Checkpoints { writer, number, texts } => {
                if let Err(error) = writer.write(number, &texts) {
                    log::warn!("a checkpoint could not be written, a crash would make more work: {error}");
                }
                DoneKind::Checkpointed
            }
            TaskKind::Compact { partition, compaction } => {
                let dir = compaction.dir().to_owned();
                DoneKind::Compacted { partition, dir, compacted: compaction.run() }
            }
            TaskKind::Swap { partition, swap } => DoneKind::Swapped { partition, swapped: swap.run() },
            TaskKind::RemoveDirs { device, dirs, topic_id } => {
                let result = dirs.iter().try_for_each(|dir| match device.remove_dir(dir) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                    other => other,
                });
                DoneKind::DirsRemoved { topic_id, result }
            }
        })
    }
}

/// An answer that waits until every one of its offsets is below its partition's high watermark.
#[derive(Debug)]
struct Deferred {
    then: Then,
    /// What is still waited for.
    waits: BTreeSet<(PartitionId, i64)>,
    deadline: Option<Timestamp>,
}

#[derive(Debug)]
enum Then {
    /// The answer is ready and only waits to be durable.
    Respond(RequestId, Response),
    /// A Produce answer; partitions that do not make it by the deadline are answered with an error.
    Produce(produce::Pending),
    /// Look the offsets up again.
    ListOffsets(RequestId, ListOffsetsRequest, i16),
    /// Tell the group coordinator.
    Persisted(PersistId),
    /// A topic was deleted: its directories may go now.
    TopicDeleted { topic_id: Uuid, dirs: Vec<String> },
}

/// The embedded broker.
pub struct Broker {
    device: Arc<dyn Device>,
    files: Arc<OpenFiles>,
    config: BrokerConfig,
    cluster_id: String,
    leader_epoch: i32,
    stored: Stored,
    topics: BTreeMap<Arc<str>, Topic>,
    topic_names: HashMap<Uuid, Arc<str>>,
    /// Topics whose logs cannot be opened, and why; the others are served.
    offline: BTreeMap<String, String>,
    /// Those among them for which there was no room; they are tried again.
    without_room: BTreeSet<String>,
    next_reopening: Timestamp,
    /// The wall clock less the monotonic one, ms, as they were when deadlines were set.
    clocks_apart: Option<i64>,
    partitions: Vec<Option<Partition>>,
    metadata: PartitionId,
    leadership: Leadership,
    groups: Groups,
    producer_ids: std::ops::Range<i64>,
    sessions: fetch::Sessions,
    fetches: BTreeMap<u64, fetch::Pending>,
    deferred: BTreeMap<u64, Deferred>,
    deadlines: BTreeSet<(Timestamp, u64)>,
    next_row: u64,
    next_retention: Timestamp,
    next_checkpoint: Timestamp,
    /// The recovery points and the cleaner's offsets as they were written last.
    checkpoints: [(&'static str, String); 3],
    checkpoint_writer: Arc<CheckpointWriter>,
    checkpoint_number: u64,
    /// Whether checkpoints are being written by a task; one at a time is.
    checkpointing: bool,
    next_compaction: Timestamp,
    /// Whether a log is being compacted; one at a time is.
    compacting: bool,
    /// The partition that was looked at last.
    last_compacted: usize,
    random: u64,
    responses: VecDeque<(RequestId, Reply)>,
    tasks: VecDeque<Task>,
    /// Partitions that have in-sync followers, and perhaps some that had.
    followed: BTreeSet<PartitionId>,
    /// Partitions whose end, high watermark or in-sync replicas may have moved since the last [`Self::settle`].
    moved: BTreeSet<PartitionId>,
    /// What the group coordinator is to be told of its records.
    persisted: Vec<(PersistId, std::result::Result<(), ErrorCode>)>,
    recovered: Vec<(String, Recovery)>,
    trace: Option<Box<Trace>>,
    latencies: Latencies,
    /// When what is being handled came in, by the shell's monotonic clock.
    arrived: Duration,
    closed: bool,
    /// Ends the compaction that is under way.
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("cluster_id", &self.cluster_id)
            .field("node_id", &self.config.node_id)
            .field("topics", &self.topics.len())
            .finish_non_exhaustive()
    }
}

/// How often recovery points are written, ms; Kafka's `log.flush.offset.checkpoint.interval.ms`.
const CHECKPOINT_INTERVAL_MS: i64 = 60_000;

/// By how much the wall clock has to be off the monotonic one to have been set, in ms.
const CLOCK_SET_MS: i64 = 500;

/// How often topics are tried again that could not be opened because the device was full, in ms.
const REOPENING_INTERVAL_MS: i64 = 2_000;

/// How many segments stay open, of all logs together.
const MAX_OPEN_FILES: usize = 256;

/// How many producer ids are reserved with one record.
const PRODUCER_ID_BLOCK: i64 = 1_000;

impl Broker {
    /// Opens the broker whose logs are on `device`, making an empty one where nothing is.
    ///
    /// Recovers each log; [`Self::recovered`] says what was cut or rebuilt. Topic directories that the broker does not know
    /// (written by Kafka, or copied in) are adopted with the topic id of their `partition.metadata`. A start that follows
    /// anything but [`Self::close`] raises the leader epoch, durably. `seed` is what every random choice is drawn from.
    ///
    /// # Errors
    /// `Corrupt` if the broker's own metadata cannot be read; whatever the device answers.
    pub fn open(device: Arc<dyn Device>, config: BrokerConfig, now: Timestamp, seed: u64) -> Result<Self> {
        let dirs: Vec<String> =
            device.list("")?.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect();
        let clean = device.exists(CLEAN_SHUTDOWN)?;
        if clean {
            device.remove(CLEAN_SHUTDOWN)?;
            device.sync_dir("")?;
        }

        let checkpoints = if clean { Checkpoints::CLEAN } else { Checkpoints::default() };
        let metadata_dir = format!("{METADATA_TOPIC}-0");
        let existed = dirs.contains(&metadata_dir);
        let files = OpenFiles::new(Arc::clone(&device), MAX_OPEN_FILES);
        let (log, recovery) = Log::open(&files, &metadata_dir, topics::internal_log_config(), checkpoints, now)?;
        let mut stored = Stored::default();
        let mut records = 0_usize;
        read_all(&log, |key, value, _| {
            records += 1;
            let key = std::str::from_utf8(key).map_err(|error| {
                Error::new(ErrorKind::Corrupt, format!("a metadata key is not text topic={METADATA_TOPIC}"))
                    .with_source(error)
            })?;
            stored.apply(key, value);
            Ok(())
        })?;
        let waits_for_sync = device.is_durable() && config.durability == Durability::Sync;
        let last_epoch: Option<i32> = stored.get("leader-epoch")?;
        let leader_epoch = match last_epoch {
            None => log.epochs().latest().unwrap_or(0),
            Some(epoch) if clean => epoch,
            // A follower's is its leader's.
            Some(epoch) if stored.get::<Leader>("leader")?.is_some() => epoch,
            Some(epoch) => epoch.saturating_add(1),
        };
        let mut broker = Self {
            cluster_id: String::new(),
            leader_epoch,
            stored,
            topics: BTreeMap::new(),
            topic_names: HashMap::new(),
            offline: BTreeMap::new(),
            without_room: BTreeSet::new(),
            next_reopening: now.saturating_add(REOPENING_INTERVAL_MS),
            clocks_apart: None,
            partitions: Vec::new(),
            metadata: PartitionId(0),
            leadership: Leadership::default(),
            groups: Groups::new(config.groups.clone(), seed ^ 0x9e37_79b9_7f4a_7c15),
            producer_ids: 0..0,
            sessions: fetch::Sessions::new(config.max_fetch_sessions),
            fetches: BTreeMap::new(),
            deferred: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            next_row: 0,
            next_retention: now.saturating_add(config.log_retention_check_interval_ms),
            next_checkpoint: now.saturating_add(CHECKPOINT_INTERVAL_MS),
            checkpoints: Default::default(),
            checkpoint_writer: Arc::new(CheckpointWriter::new(Arc::clone(&device))),
            checkpoint_number: 0,
            checkpointing: false,
            next_compaction: now.saturating_add(config.log_cleaner_backoff_ms),
            compacting: false,
            last_compacted: 0,
            random: seed | 1,
            responses: VecDeque::new(),
            tasks: VecDeque::new(),
            followed: BTreeSet::new(),
            moved: BTreeSet::new(),
            persisted: Vec::new(),
            recovered: Vec::new(),
            trace: None,
            latencies: Latencies::default(),
            arrived: Duration::ZERO,
            closed: false,
            stop: Arc::default(),
            device,
            files,
            config,
        };
        if !recovery.is_clean() {
            broker.recovered.push((metadata_dir.clone(), recovery));
        }
        let synced_end = if clean { log.end() } else { log.start() };
        // This broker alone writes it, whoever leads.
        let own_epoch = leader_epoch.max(log.epochs().latest().unwrap_or(0));
        let partition = Partition::new(METADATA_TOPIC.into(), 0, log, own_epoch, waits_for_sync, synced_end);
        broker.partitions.push(Some(partition));

        let mut changes = Vec::new();
        broker.cluster_id = match (&broker.config.cluster_id, broker.stored.get::<String>("cluster-id")?) {
            (Some(wanted), _) => wanted.clone(),
            (None, Some(stored)) => stored,
            (None, None) => directory::uuid_text(broker.random_uuid()),
        };
        changes.push(Change::set("cluster-id", &broker.cluster_id)?);
        if last_epoch != Some(leader_epoch) {
            changes.push(Change::set("leader-epoch", &leader_epoch)?);
        }
        if records > 1_000 && records > broker.stored.len() * 4 {
            // Most records are outdated: write the state anew and drop what came before it.
            changes.extend(broker.stored.snapshot());
            broker.remember_and_compact(changes, now)?;
        } else {
            broker.remember(changes, now)?;
        }
        if existed && last_epoch != Some(leader_epoch) && waits_for_sync {
            // The new epoch is durable before the first append under it (Decision 1).
            let point = broker.partition(broker.metadata).log.sync_point();
            let end = point.end();
            point.run()?;
            broker.partition_mut(broker.metadata).note_synced(end);
        }
        broker.producer_ids = broker.stored.get::<i64>("producer-ids")?.map_or(0..0, |next| next..next);
        broker.open_topics(&dirs, clean, now)?;
        // Logs that were copied in may have seen more leaders than this broker has.
        let copied = |at: &usize| PartitionId(*at) != broker.metadata;
        let latest = (0..broker.partitions.len())
            .filter(copied)
            .filter_map(|at| broker.partitions[at].as_ref()?.log.epochs().latest())
            .max();
        if let Some(latest) = latest.filter(|latest| *latest > broker.leader_epoch) {
            broker.remember(vec![Change::set("leader-epoch", &latest)?], now)?;
            broker.set_leader_epoch(latest);
        }
        // Nor does a producer get an id under which one of another broker has written here.
        for at in 0..broker.partitions.len() {
            broker.pass_producer_ids(PartitionId(at));
        }
        broker.recall_peers()?;
        broker.replay_groups(now)?;
        // What a process that was killed has left unsynced is synced at once.
        broker.moved.extend((0..broker.partitions.len()).map(PartitionId));
        broker.settle(now);
        Ok(broker)
    }

    /// What recovery cut or rebuilt when the broker was opened: the partition's directory and the report.
    pub fn recovered(&self) -> &[(String, Recovery)] {
        &self.recovered
    }

    /// The topics that cannot be served because a log of theirs cannot be opened, and why. They are left as they are, and
    /// tried again at the next start.
    pub fn offline(&self) -> &BTreeMap<String, String> {
        &self.offline
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The configuration the broker was opened with.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// Tells clients from now on to connect to `host` and `port`.
    pub fn advertise(&mut self, host: &str, port: u16) {
        host.clone_into(&mut self.config.advertised_host);
        self.config.advertised_port = port;
    }

    /// Has the number `given` from now on, or else the one that it had before, that of its configuration if that has one,
    /// or `new`; which it is. Before anybody knows it by another.
    ///
    /// # Errors
    /// What the device answers.
    pub fn take_node_id(&mut self, given: Option<i32>, new: i32, now: Timestamp) -> Result<i32> {
        let configured = Some(self.config.node_id).filter(|node_id| *node_id != 0);
        let node_id = match given.or(configured) {
            Some(node_id) => node_id,
            None => self.stored.get("node-id")?.unwrap_or(new),
        };
        self.config.node_id = node_id;
        if node_id != 0 || self.stored.get::<i32>("node-id")?.is_some() {
            self.remember(vec![Change::set("node-id", &node_id)?], now)?;
            self.settle(now);
        }
        Ok(node_id)
    }

    /// Takes a request; its answer, if it gets one, comes by [`Self::poll_response`] under the same id.
    ///
    /// A Produce with `acks=0` is answered like any other; who speaks to a wire drops that answer.
    pub fn handle_request(&mut self, id: RequestId, context: &Context, request: Incoming, now: Timestamp) {
        assert!(!self.closed, "a closed broker takes no requests");
        let request = match request {
            Incoming::Produce(request) => {
                self.produce(id, request, now);
                return self.settle(now);
            }
            Incoming::Other(request) => request,
        };
        if let Some(request) = self.forward(id, context, request, now) {
            self.answer(id, context, request, now);
        }
        self.settle(now);
    }

    fn answer(&mut self, id: RequestId, context: &Context, request: Request, now: Timestamp) {
        match request {
            Request::Fetch(request) => self.fetch(id, context, request, now),
            Request::ListOffsets(request) => self.list_offsets(id, request, context.version),
            request if !self.accepts_writes() && leadership::changes_cluster(&request) => {
                self.respond(id, leadership::refused(&request));
            }
            Request::Metadata(request) => self.metadata(id, context, request, now),
            Request::CreateTopics(request) => self.create_topics(id, context, request, now),
            Request::DeleteTopics(request) => self.delete_topics(id, request, now),
            Request::CreatePartitions(request) => self.create_partitions(id, request, now),
            Request::DescribeConfigs(request) => self.describe_configs(id, request),
            Request::IncrementalAlterConfigs(request) => self.incremental_alter_configs(id, request, now),
            Request::AlterConfigs(request) => self.alter_configs(id, request, now),
            Request::DeleteRecords(request) => self.delete_records(id, request, now),
            Request::OffsetForLeaderEpoch(request) => self.offset_for_leader_epoch(id, request),
            Request::InitProducerId(request) => self.init_producer_id(id, request, now),
            Request::FindCoordinator(request) => self.find_coordinator(id, context, request, now),
            Request::DescribeCluster(request) => self.describe_cluster(id, request, now),
            Request::DescribeLogDirs(request) => self.describe_log_dirs(id, request),
            Request::DescribeProducers(request) => self.describe_producers(id, request),
            Request::DescribeTopicPartitions(request) => self.describe_topic_partitions(id, request, now),
            Request::ListPartitionReassignments(_) => {
                self.respond(id, Response::ListPartitionReassignments(ListPartitionReassignmentsResponse::default()));
            }
            Request::DescribeAcls(_) => {
                let response = DescribeAclsResponse {
                    error_code: ErrorCode::SECURITY_DISABLED,
                    error_message: Some("this broker has no authorizer".to_owned()),
                    ..DescribeAclsResponse::default()
                };
                self.respond(id, Response::DescribeAcls(response));
            }
            request @ (Request::JoinGroup(_)
            | Request::SyncGroup(_)
            | Request::Heartbeat(_)
            | Request::LeaveGroup(_)
            | Request::OffsetCommit(_)
            | Request::OffsetFetch(_)
            | Request::OffsetDelete(_)
            | Request::ListGroups(_)
            | Request::DescribeGroups(_)
            | Request::DeleteGroups(_)) => self.group_request(id, context, request, now),
            Request::ElectLeaders(request) => self.elect_leaders(id, request, now),
            Request::Vote(request) => self.vote(id, request, now),
            Request::BeginQuorumEpoch(request) => self.begin_quorum_epoch(id, request, now),
            Request::BrokerRegistration(request) => self.register_broker(id, request, now),
            Request::ApiVersions(_) => {
                let response = ApiVersionsResponse { api_keys: advertised(SERVED), ..ApiVersionsResponse::default() };
                self.respond(id, Response::ApiVersions(response));
            }
            request => log::error!("a request that is not served was handed in api={}", request.api_key()),
        }
    }

    /// Takes the outcome of a task.
    pub fn handle_done(&mut self, done: Done, now: Timestamp) {
        match done.0 {
            DoneKind::Synced { partition: id, result } => {
                let Some(partition) = self.partitions[id.0].as_mut() else { return };
                match result {
                    Ok(()) => partition.handle_synced(),
                    Err(error) => {
                        log::error!(
                            "a sync failed, the partition takes no more writes until the broker is opened anew \
                             partition={}-{} error={error}",
                            partition.topic,
                            partition.index
                        );
                        partition.handle_sync_failed();
                        for waiting in partition.take_sync_waits() {
                            self.respond_synced(waiting, ErrorCode::KAFKA_STORAGE_ERROR);
                        }
                        self.fail_waits(id);
                    }
                }
                self.moved.insert(id);
            }
            DoneKind::Finished => {}
            DoneKind::Checkpointed => self.checkpointing = false,
            DoneKind::Compacted { partition, dir, compacted } => self.handle_compacted(partition, &dir, compacted, now),
            DoneKind::Swapped { partition, swapped } => self.handle_swapped(partition, swapped, now),
            DoneKind::DirsRemoved { topic_id, result } => match result {
                Ok(()) => {
                    let change = Change::remove(format!("deleted/{topic_id}"));
                    if let Err(error) = self.remember(vec![change], now) {
                        log::warn!("the end of a topic's deletion could not be recorded: {error}");
                    }
                }
                Err(error) => log::warn!("a deleted topic's directory could not be removed: {error}"),
            },
        }
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let followed = self.followed.iter().filter_map(|id| self.partitions[id.0].as_ref());
        let shrink = followed.filter_map(|partition| partition.next_shrink(self.config.replica_lag_time_max_ms)).min();
        [
            self.deadlines.first().map(|(at, _)| *at),
            self.groups.poll_timeout(),
            Some(self.next_retention),
            (!self.compacting).then_some(self.next_compaction),
            (self.device.is_durable() && !self.checkpointing).then_some(self.next_checkpoint),
            (!self.without_room.is_empty()).then_some(self.next_reopening),
            shrink,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes in what the clocks say. A wall clock that was set moves every deadline along, and when followers were last heard of:
    /// nobody waits longer for it, or is thrown out. Says whether it was.
    pub fn note_clocks(&mut self, now: Timestamp, monotonic: Duration) -> bool {
        let apart = now.saturating_sub(i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX));
        let by = apart.saturating_sub(*self.clocks_apart.get_or_insert(apart));
        if by.abs() < CLOCK_SET_MS {
            return false;
        }
        self.clocks_apart = Some(apart);
        let deadlines = std::mem::take(&mut self.deadlines);
        self.deadlines = deadlines.into_iter().map(|(at, row)| (at.saturating_add(by), row)).collect();
        self.fetches.values_mut().for_each(|pending| pending.clock_was_set(by));
        for deadline in self.deferred.values_mut().filter_map(|deferred| deferred.deadline.as_mut()) {
            *deadline = deadline.saturating_add(by);
        }
        self.partitions.iter_mut().flatten().for_each(|partition| partition.clock_was_set(by));
        self.leadership.clock_was_set(by);
        let due =
            [&mut self.next_retention, &mut self.next_checkpoint, &mut self.next_compaction, &mut self.next_reopening];
        due.into_iter().for_each(|due| *due = due.saturating_add(by));
        true
    }

    /// Time has passed: answers what ran out, drops slow followers, applies retention.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(&(at, row)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            if self.fetches.contains_key(&row) {
                self.answer_fetch(row, now);
            } else if let Some(deferred) = self.deferred.remove(&row) {
                for (partition, offset) in &deferred.waits {
                    if let Some(partition) = self.partitions[partition.0].as_mut() {
                        partition.stop_waiting(*offset, row);
                    }
                }
                self.expire(deferred, ErrorCode::REQUEST_TIMED_OUT, produce::NOT_IN_TIME);
            }
        }
        self.groups.handle_timeout(now);
        for id in self.followed.iter().copied().collect::<Vec<_>>() {
            let Some(partition) = self.partitions[id.0].as_mut().filter(|it| !it.in_sync_followers().is_empty()) else {
                self.followed.remove(&id);
                continue;
            };
            let left = partition.shrink_in_sync(now, self.config.replica_lag_time_max_ms);
            if !left.is_empty() {
                log::warn!(
                    "followers left the in-sync replicas partition={}-{} nodes={left:?}",
                    partition.topic,
                    partition.index
                );
                self.moved.insert(id);
            }
        }
        if now >= self.next_retention {
            self.next_retention = now.saturating_add(self.config.log_retention_check_interval_ms);
            self.apply_retention(now);
        }
        if self.device.is_durable() && !self.checkpointing && now >= self.next_checkpoint {
            self.next_checkpoint = now.saturating_add(CHECKPOINT_INTERVAL_MS);
            for (at, partition) in self.partitions.iter_mut().enumerate() {
                if let Some(point) = partition.as_mut().and_then(Partition::poll_flush) {
                    self.tasks.push_back(Task(TaskKind::Sync { partition: PartitionId(at), point }));
                }
            }
            let texts = self.checkpoint_texts();
            if texts != self.checkpoints {
                self.checkpoints.clone_from(&texts);
                self.checkpoint_number += 1;
                self.checkpointing = true;
                self.tasks.push_back(Task(TaskKind::Checkpoints {
                    writer: Arc::clone(&self.checkpoint_writer),
                    number: self.checkpoint_number,
                    texts,
                }));
            }
        }
        if !self.without_room.is_empty() && now >= self.next_reopening {
            self.next_reopening = now.saturating_add(REOPENING_INTERVAL_MS);
            self.reopen_without_room(now);
        }
        if !self.compacting && now >= self.next_compaction {
            self.next_compaction = now.saturating_add(self.config.log_cleaner_backoff_ms);
            self.compact_next(now);
        }
        self.settle(now);
    }

    /// The next answer.
    pub fn poll_response(&mut self) -> Option<(RequestId, Reply)> {
        self.responses.pop_front()
    }

    /// The next task for the device.
    pub fn poll_task(&mut self) -> Option<Task> {
        self.tasks.pop_front()
    }

    /// Closes every log, syncs what is not synced, and marks the directory as cleanly closed. Waits for the device.
    ///
    /// Requests that wait are answered with an error first; drain [`Self::poll_response`] afterwards.
    ///
    /// # Errors
    /// What the device answers; the directory is not marked then, and the next start recovers.
    pub fn close(&mut self, now: Timestamp) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        self.stop.store(true, Ordering::Relaxed);
        let fetches: Vec<u64> = self.fetches.keys().copied().collect();
        for row in fetches {
            self.answer_fetch(row, now);
        }
        let mut failed = None;
        for at in 0..self.partitions.len() {
            let Some(partition) = self.partitions[at].as_mut() else { continue };
            let point = partition.log.close();
            let end = point.end();
            match point.run() {
                Ok(()) => partition.note_synced(end),
                Err(error) => failed = Some(error),
            }
            self.moved.insert(PartitionId(at));
        }
        self.settle(now);
        self.closed = true;
        for (_, deferred) in std::mem::take(&mut self.deferred) {
            self.expire(deferred, ErrorCode::REQUEST_TIMED_OUT, produce::NOT_IN_TIME);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.write_checkpoints()?;
        self.device.replace(CLEAN_SHUTDOWN, b"{\"version\":0,\"brokerEpoch\":-1}")?;
        Ok(())
    }

    fn respond(&mut self, id: RequestId, response: Response) {
        self.responses.push_back((id, Reply::from(response)));
    }

    fn respond_synced(&mut self, id: RequestId, error_code: ErrorCode) {
        self.respond(id, Response::Heartbeat(HeartbeatResponse { error_code, ..HeartbeatResponse::default() }));
    }

    /// Leads from now on under `epoch`, which is recorded.
    fn set_leader_epoch(&mut self, epoch: i32) {
        self.leader_epoch = epoch;
        let metadata = self.metadata;
        for (at, partition) in self.partitions.iter_mut().enumerate() {
            let Some(partition) = partition else { continue };
            // The epochs of a log do not go back, and this one's are nobody else's.
            partition.leader_epoch =
                if PartitionId(at) == metadata { partition.leader_epoch.max(epoch) } else { epoch };
        }
    }

    fn partition(&self, id: PartitionId) -> &Partition {
        self.partitions[id.0].as_ref().expect("ids of removed partitions are dropped with their topic")
    }

    fn partition_mut(&mut self, id: PartitionId) -> &mut Partition {
        self.partitions[id.0].as_mut().expect("ids of removed partitions are dropped with their topic")
    }

    fn find(&self, topic: &str, index: i32) -> Option<PartitionId> {
        if topic == METADATA_TOPIC && index == 0 {
            return Some(self.metadata);
        }
        let topic = self.topics.get(topic)?;
        usize::try_from(index).ok().and_then(|index| topic.partitions.get(index)).copied()
    }

    /// Draws from the seeded generator (xorshift64*).
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn random_uuid(&mut self) -> Uuid {
        let (high, low) = (self.random(), self.random());
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes()).into_uuid()
    }

    /// Appends changes to the metadata partition and applies them. They are durable when its high watermark has passed.
    fn remember(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<()> {
        let changes: Vec<Change> =
            changes.into_iter().filter(|change| !self.stored.holds(&change.key, change.value.as_deref())).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let records =
            changes.iter().map(|change| (Bytes::from(change.key.clone()), change.value.clone().map(Bytes::from)));
        self.append_internal(self.metadata, &records.collect::<Vec<_>>(), now)?;
        for change in changes {
            self.stored.apply(&change.key, change.value.as_deref());
        }
        Ok(())
    }

    /// Appends all of the state and drops what came before it.
    fn remember_and_compact(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<()> {
        for change in &changes {
            self.stored.apply(&change.key, change.value.as_deref());
        }
        let from = self.partition(self.metadata).log.end();
        let records: Vec<_> = self
            .stored
            .snapshot()
            .into_iter()
            .map(|change| (Bytes::from(change.key), change.value.map(Bytes::from)))
            .collect();
        self.append_internal(self.metadata, &records, now)?;
        let partition = self.partition_mut(self.metadata);
        let point = partition.log.sync_point();
        let end = point.end();
        point.run()?;
        partition.note_synced(end);
        partition.log.set_start(from)?;
        Ok(())
    }

    /// Appends records of our own making to an internal partition.
    fn append_internal(&mut self, id: PartitionId, records: &[(Bytes, Option<Bytes>)], now: Timestamp) -> Result<()> {
        let mut builder = Builder::new(BuilderOptions::default());
        for (key, value) in records {
            builder.append(now, Some(key), value.as_deref(), NO_HEADERS)?;
        }
        let batch = builder.seal(ProducerFields::NONE)?;
        self.partition_mut(id).append(&[batch], now)?;
        self.moved.insert(id);
        Ok(())
    }

    /// Puts a row into the table of deferred answers, or acts at once when there is nothing to wait for.
    fn defer(&mut self, then: Then, waits: Vec<(PartitionId, i64)>, deadline: Option<Timestamp>) {
        let row = self.next_row;
        self.next_row += 1;
        let waits: BTreeSet<_> = waits
            .into_iter()
            .filter(|(id, offset)| {
                self.partitions[id.0].as_ref().is_some_and(|partition| partition.high_watermark() < *offset)
            })
            .collect();
        for (id, offset) in &waits {
            self.partition_mut(*id).wait(*offset, row);
        }
        if waits.is_empty() {
            self.complete(then);
            return;
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, row));
        }
        self.deferred.insert(row, Deferred { then, waits, deadline });
    }

    /// Answers `response` once everything in the metadata partition is durable.
    fn respond_when_remembered(&mut self, id: RequestId, response: Response) {
        let end = self.partition(self.metadata).log.end();
        self.defer(Then::Respond(id, response), vec![(self.metadata, end)], None);
    }

    /// Everything that a deferred row waited for has come.
    fn complete(&mut self, then: Then) {
        match then {
            Then::Respond(id, response) => self.respond(id, response),
            Then::Produce(pending) => self.complete_produce(pending),
            Then::ListOffsets(id, request, version) => self.list_offsets(id, request, version),
            Then::Persisted(id) => self.persisted.push((id, Ok(()))),
            Then::TopicDeleted { topic_id, dirs } => {
                self.tasks.push_back(Task(TaskKind::RemoveDirs { device: Arc::clone(&self.device), dirs, topic_id }))
            }
        }
    }

    /// A deferred row ran out of time, or what it waits for will not come.
    fn expire(&mut self, deferred: Deferred, code: ErrorCode, message: &str) {
        match deferred.then {
            Then::Produce(mut pending) => {
                pending.expire(&deferred.waits, code, message);
                self.answer_produce(pending.id, pending.response);
            }
            Then::Persisted(id) => self.persisted.push((id, Err(ErrorCode::KAFKA_STORAGE_ERROR))),
            Then::Respond(id, response) => {
                // The change is written but may not survive a power cut; a connection that closes says just that.
                log::error!("an answer is given although the metadata could not be synced: {response:?}");
                self.respond(id, response);
            }
            Then::ListOffsets(id, request, version) => self.answer_list_offsets(id, &request, version),
            Then::TopicDeleted { .. } => {}
        }
    }

    fn fail_waits(&mut self, id: PartitionId) {
        self.refuse_waits(id, ErrorCode::REQUEST_TIMED_OUT, produce::NOT_IN_TIME);
    }

    /// Answers all who wait for the partition's high watermark: producers with `code`.
    fn refuse_waits(&mut self, id: PartitionId, code: ErrorCode, message: &str) {
        for row in self.partition_mut(id).take_waits() {
            if let Some(deferred) = self.deferred.remove(&row) {
                if let Some(deadline) = deferred.deadline {
                    self.deadlines.remove(&(deadline, row));
                }
                for (other, offset) in &deferred.waits {
                    if let Some(other) = self.partitions[other.0].as_mut() {
                        other.stop_waiting(*offset, row);
                    }
                }
                self.expire(deferred, code, message);
            }
        }
    }

    /// Follows up on whatever moved until nothing moves any more: syncs, rows that are complete, fetches, group effects.
    fn settle(&mut self, now: Timestamp) {
        loop {
            while let Some(effect) = self.groups.poll_effect() {
                match effect {
                    Effect::Respond(id, response) => self.respond(id, response),
                    Effect::Persist { id, group, records } => {
                        match self.offsets_partition(&group, now).and_then(|partition| {
                            self.append_internal(partition, &records, now)?;
                            Ok((partition, self.partition(partition).log.end()))
                        }) {
                            Ok(wait) => self.defer(Then::Persisted(id), vec![wait], None),
                            Err(error) => {
                                log::error!("committed offsets could not be written: {error}");
                                self.persisted.push((id, Err(topics::code_of(&error))));
                            }
                        }
                    }
                }
            }
            while let Some(id) = self.moved.pop_first() {
                let Some(partition) = self.partitions[id.0].as_mut() else { continue };
                if let Some(point) = partition.poll_sync() {
                    self.tasks.push_back(Task(TaskKind::Sync { partition: id, point }));
                }
                self.note_own_sync(id);
                self.trace_synced(id);
                while let Some(waiting) = self.partitions[id.0].as_mut().and_then(Partition::poll_synced) {
                    self.respond_synced(waiting, ErrorCode::NONE);
                }
                while let Some(row) = self.partitions[id.0].as_mut().and_then(Partition::poll_reached) {
                    self.reached(row, id);
                }
                self.wake_fetches(id, now);
            }
            let persisted = std::mem::take(&mut self.persisted);
            if persisted.is_empty() && self.moved.is_empty() {
                break;
            }
            for (id, result) in persisted {
                self.groups.handle_persisted(id, result, now);
            }
        }
    }

    /// Notes for whom this broker's own device is not waited for any more.
    fn note_own_sync(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions[id.0].as_mut() else { return };
        for row in partition.poll_own_reached() {
            if let Some(Deferred { then: Then::Produce(pending), .. }) = self.deferred.get_mut(&row) {
                pending.own_synced = self.arrived;
            }
        }
    }

    /// How long producers have waited for `acks=all`.
    pub fn ack_latency(&self) -> AckLatency {
        self.latencies.read()
    }

    /// A partition's high watermark has reached what `row` waited for there.
    fn reached(&mut self, row: u64, id: PartitionId) {
        let Some(deferred) = self.deferred.get_mut(&row) else { return };
        let Some(partition) = self.partitions[id.0].as_ref() else { return };
        let high_watermark = partition.high_watermark();
        deferred.waits.retain(|(other, offset)| *other != id || *offset > high_watermark);
        if deferred.waits.is_empty()
            && let Some(deferred) = self.deferred.remove(&row)
        {
            if let Some(deadline) = deferred.deadline {
                self.deadlines.remove(&(deadline, row));
            }
            self.complete(deferred.then);
        }
    }

    fn group_request(&mut self, id: RequestId, context: &Context, request: Request, now: Timestamp) {
        if !self.accepts_writes() {
            return self.respond(id, groups::refused(&request, context.version));
        }
        let client = ClientInfo { client_id: context.client_id.to_string(), host: context.host.to_string() };
        let topics = &self.topics;
        let exists = |topic: &str, partition: i32| {
            topics
                .get(topic)
                .is_some_and(|topic| usize::try_from(partition).is_ok_and(|index| index < topic.partitions.len()))
        };
        self.groups.handle_request(id, &client, request, context.version, &exists, now);
    }

    fn replay_groups(&mut self, now: Timestamp) -> Result<()> {
        let partitions = self.topics.get(OFFSETS_TOPIC).map(|topic| topic.partitions.clone()).unwrap_or_default();
        for id in partitions {
            let Some(partition) = &self.partitions[id.0] else { continue };
            read_all(&partition.log, |key, value, timestamp| {
                // One record that is not what it says must not keep everything else from being read.
                if let Err(error) = self.groups.replay(key, value, timestamp) {
                    log::warn!("a record of the groups is passed over: {error}");
                }
                Ok(())
            })?;
        }
        self.groups.handle_replayed(now);
        Ok(())
    }

    fn apply_retention(&mut self, now: Timestamp) {
        let mut removals = Vec::new();
        for (at, partition) in self.partitions.iter_mut().enumerate() {
            let Some(partition) = partition else { continue };
            let high_watermark = partition.high_watermark();
            match partition.log.retain(now, high_watermark) {
                Ok(gone) if gone.is_empty() => {}
                Ok(gone) => {
                    removals.extend(gone);
                    partition.after_start_moved();
                    self.moved.insert(PartitionId(at));
                }
                Err(error) => {
                    log::warn!("retention failed partition={}-{}: {error}", partition.topic, partition.index);
                }
            }
        }
        if !removals.is_empty() {
            self.tasks.push_back(Task(TaskKind::Remove { removals }));
        }
    }
}

impl Broker {
    /// Hands out the compaction of the next log that needs one.
    fn compact_next(&mut self, now: Timestamp) {
        let count = self.partitions.len();
        for at in (1..=count).map(|step| (self.last_compacted + step) % count) {
            let Some(partition) = &self.partitions[at] else { continue };
            match partition.log.compaction(now, partition.high_watermark()) {
                Ok(None) => {}
                Ok(Some(mut compaction)) => {
                    compaction.stop = Arc::clone(&self.stop);
                    self.compacting = true;
                    self.last_compacted = at;
                    self.tasks.push_back(Task(TaskKind::Compact { partition: PartitionId(at), compaction }));
                    return;
                }
                Err(error) => {
                    log::warn!("compaction failed partition={}-{}: {error}", partition.topic, partition.index);
                }
            }
        }
    }

    fn handle_compacted(&mut self, id: PartitionId, dir: &str, compacted: Compacted, now: Timestamp) {
        self.compacting = false;
        let Some(partition) = self.partitions[id.0].as_mut() else {
            // The topic was deleted meanwhile, and its directory must not come back with the files that were made there.
            let is_there = directory::parse_dir(dir).is_some_and(|(topic, index)| self.find(topic, index).is_some());
            if !is_there
                && let Err(error) = self.device.remove_dir(dir)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("a deleted topic's directory could not be removed dir={dir}: {error}");
            }
            return;
        };
        match partition.log.begin_swap(compacted) {
            Ok(Some(swap)) => {
                self.compacting = true;
                self.tasks.push_back(Task(TaskKind::Swap { partition: id, swap }));
            }
            Ok(None) => {
                self.next_compaction = self.next_compaction.min(now.saturating_add(self.config.log_cleaner_backoff_ms))
            }
            Err(error) => log::warn!("compaction failed partition={}-{}: {error}", partition.topic, partition.index),
        }
    }

    fn handle_swapped(&mut self, id: PartitionId, swapped: Result<Swap>, now: Timestamp) {
        self.compacting = false;
        // There may be more: in this log, if it had more keys than are looked at at a time, or in another one.
        self.next_compaction = now;
        let Some(partition) = self.partitions[id.0].as_mut() else { return };
        match partition.log.finish_swap(swapped) {
            Ok(removals) => self.tasks.push_back(Task(TaskKind::Remove { removals })),
            Err(error) => {
                log::error!(
                    "compaction failed halfway, the partition takes no more writes until the broker is opened anew \
                     partition={}-{} error={error}",
                    partition.topic,
                    partition.index
                );
            }
        }
    }
}

/// Gives every record of a log to `each`: key, value, timestamp. Records without a key are passed over.
fn read_all(log: &Log, mut each: impl FnMut(&[u8], Option<&[u8]>, Timestamp) -> Result<()>) -> Result<()> {
    let mut offset = log.start();
    while offset < log.end() {
        let mut bytes = log.read(offset, 1 << 20, log.end(), true)?.read()?;
        let before = offset;
        while let Some(batch) = Batch::split(&mut bytes)? {
            offset = batch.next_offset();
            if batch.is_control() {
                continue;
            }
            let records = batch.records(Limits::MAX_DECOMPRESSED_BYTES)?;
            for record in records.iter() {
                let record = record?;
                if let Some(key) = record.key {
                    each(key, record.value, record.timestamp)?;
                }
            }
        }
        if offset == before {
            return Err(Error::new(ErrorKind::Corrupt, format!("a log holds no whole batch offset={offset}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
