//! Topics and their configuration: create, grow, alter, describe, delete; and what clients are told of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::config::{BROKER_OPTIONS, Kind, TOPIC_OPTIONS, TopicConfig, check_topic_value, topic_option};
use super::groups::partition_of;
use super::partition::{Partition, PartitionId};
use super::stored::{Change, METADATA_TOPIC, StoredTopic};
use super::{Broker, Context, Durability, OFFSETS_TOPIC, RequestId, Then};
use crate::log::{Checkpoints, Log, LogConfig};
use crate::protocol::messages::alter_configs::{self, AlterConfigsRequest, AlterConfigsResponse};
use crate::protocol::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};
use crate::protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use crate::protocol::messages::delete_records::{
    DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use crate::protocol::messages::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};
use crate::protocol::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};
use crate::protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::protocol::messages::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};
use crate::protocol::messages::describe_producers::{
    self, DescribeProducersRequest, DescribeProducersResponse, ProducerState,
};
use crate::protocol::messages::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use crate::protocol::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};
use crate::protocol::messages::incremental_alter_configs::{
    self, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use crate::protocol::messages::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::protocol::{ErrorCode, Response};
use crate::{Error, ErrorKind, Result, Timestamp};

/// A topic that the broker leads.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: Uuid,
    pub(super) replication_factor: i16,
    pub(super) configs: BTreeMap<String, String>,
    pub(super) partitions: Vec<PartitionId>,
    pub(super) internal: bool,
    /// Whether it is a copy of a source's, which takes no produce requests.
    pub(super) copy: bool,
}

impl Topic {
    pub(super) fn config<'a>(&'a self, defaults: &'a BTreeMap<String, String>) -> TopicConfig<'a> {
        TopicConfig { own: &self.configs, broker: defaults }
    }

    /// How its logs are kept. A copy removes nothing by age, size or key: its source does, and the copy follows.
    pub(super) fn log_config(&self, defaults: &BTreeMap<String, String>) -> LogConfig {
        let config = self.config(defaults).log_config();
        if !self.copy {
            return config;
        }
        LogConfig { retention_ms: None, retention_bytes: None, compacts: false, ..config }
    }

    pub(super) fn stored(&self) -> StoredTopic {
        StoredTopic {
            id: self.id,
            partitions: i32::try_from(self.partitions.len()).unwrap_or(i32::MAX),
            replication_factor: self.replication_factor,
            configs: self.configs.clone(),
            copy: self.copy,
        }
    }
}

/// Kafka's file of the offsets below which everything was synced.
pub(super) const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";

/// Kafka's file of the offsets below which logs are compacted.
pub(super) const CLEANER_OFFSETS: &str = "cleaner-offset-checkpoint";

/// Kafka's file of the log start offsets that lie inside a segment.
const LOG_STARTS: &str = "log-start-offset-checkpoint";

/// What the files in the root of a log directory tell of its logs.
#[derive(Debug, Default)]
struct RootCheckpoints {
    /// Whether the broker was closed.
    clean: bool,
    starts: BTreeMap<(String, i32), i64>,
    recovery_points: BTreeMap<(String, i32), i64>,
    cleaner_offsets: BTreeMap<(String, i32), i64>,
}

/// A Kafka code and what to say with it.
type Refusal = (ErrorCode, String);

/// Where a configuration value is from, in Kafka's numbers.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_STATIC_BROKER: i8 = 4;
const SOURCE_DEFAULT: i8 = 5;

/// Kafka's resource types.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

/// Operations that a client without restrictions may do, as Kafka's bit sets.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
const CLUSTER_OPERATIONS: i32 = 0b1_1111_0010_0000;
const NOT_ASKED: i32 = i32::MIN;

/// The code for an error of our own.
pub(super) fn code_of(error: &Error) -> ErrorCode {
    error.code().unwrap_or(match error.kind() {
        ErrorKind::Full | ErrorKind::Closed | ErrorKind::Corrupt => ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorKind::OutOfRange => ErrorCode::OFFSET_OUT_OF_RANGE,
        ErrorKind::NotFound => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorKind::AlreadyExists => ErrorCode::TOPIC_ALREADY_EXISTS,
        ErrorKind::Invalid => ErrorCode::INVALID_REQUEST,
        _ => ErrorCode::UNKNOWN_SERVER_ERROR,
    })
}

/// A topic id as Kafka writes it: URL-safe base64 without padding.
pub(super) fn uuid_text(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    (0..22)
        .map(|at| {
            let shift = 122 - 6 * at;
            let sextet = if shift >= 0 { bits >> shift } else { bits << -shift };
            char::from(ALPHABET[(sextet & 63) as usize])
        })
        .collect()
}

/// The reverse of [`uuid_text`].
pub(super) fn uuid_from_text(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits = 0_u128;
    for (at, byte) in text.bytes().enumerate() {
        let sextet = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        let shift = 122 - 6 * i32::try_from(at).ok()?;
        bits |= if shift >= 0 { u128::from(sextet) << shift } else { u128::from(sextet) >> -shift };
    }
    Some(Uuid::from_u128(bits))
}

/// Checks a topic's name by Kafka's rules: 1 to 249 of `[a-zA-Z0-9._-]`, and not `.` or `..`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_topic_name(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.len() > 249 {
        return Err(format!("a topic's name has 1 to 249 characters characters={}", name.len()));
    }
    if name == "." || name == ".." {
        return Err("a topic cannot be named '.' or '..'".to_owned());
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        return Err("a topic's name is made of letters, digits, '.', '_' and '-'".to_owned());
    }
    Ok(())
}

/// The topic and partition that a directory's name stands for.
pub(super) fn parse_dir(name: &str) -> Option<(&str, i32)> {
    let (topic, index) = name.rsplit_once('-')?;
    let partition = index.parse::<i32>().ok().filter(|partition| *partition >= 0)?;
    (check_topic_name(topic).is_ok() && partition.to_string() == index).then_some((topic, partition))
}

/// How internal logs are kept: small segments, nothing removed by age.
pub(super) fn internal_log_config() -> LogConfig {
    LogConfig {
        segment_bytes: 100 << 20,
        retention_ms: None,
        retention_bytes: None,
        deletes: false,
        ..LogConfig::default()
    }
}

impl Broker {
    /// Opens every stored topic, and adopts directories of topics that are not stored.
    pub(super) fn open_topics(&mut self, dirs: &[String], clean: bool, now: Timestamp) -> Result<()> {
        let stored: Vec<(String, StoredTopic)> = self
            .stored
            .below::<StoredTopic>("topic/")
            .map(|entry| entry.map(|(name, topic)| (name.to_owned(), topic)))
            .collect::<Result<_>>()?;
        let mut known: BTreeMap<String, StoredTopic> = stored.into_iter().collect();
        for name in known.keys() {
            check_topic_name(name).map_err(|reason| Error::new(ErrorKind::Corrupt, reason))?;
        }
        let deleted: BTreeMap<Uuid, String> = self
            .stored
            .below::<String>("deleted/")
            .filter_map(|entry| entry.ok().and_then(|(id, name)| Some((Uuid::parse_str(id).ok()?, name))))
            .collect();
        let mut leftovers: BTreeMap<Uuid, Vec<String>> = deleted.keys().map(|id| (*id, Vec::new())).collect();
        let mut adopted = Vec::new();
        for dir in dirs {
            if let Some(dirs) = dir
                .strip_suffix("-delete")
                .and_then(|name| name.rsplit_once('.'))
                .and_then(|(_, id)| Uuid::parse_str(id).ok())
                .and_then(|id| leftovers.get_mut(&id))
            {
                dirs.push(dir.clone());
                continue;
            }
            let Some((topic, partition)) = parse_dir(dir) else { continue };
            if topic == METADATA_TOPIC || topic.starts_with("__cluster_metadata") {
                continue;
            }
            // A power cut may have taken the id, but not what is known of the deletion.
            let id = self.read_partition_metadata(dir)?.or_else(|| {
                let unknown = !known.contains_key(topic);
                deleted.iter().find(|(_, name)| unknown && *name == topic).map(|(id, _)| *id)
            });
            if let Some(dirs) = id.and_then(|id| leftovers.get_mut(&id)) {
                dirs.push(dir.clone());
                continue;
            }
            match known.get_mut(topic) {
                Some(stored) if partition < stored.partitions => {}
                Some(stored) => {
                    stored.partitions = partition.saturating_add(1).min(self.config.max_partitions);
                    adopted.push(topic.to_owned());
                }
                None if !self.holds_log(dir)? => log::warn!("a directory is passed over, it holds no log dir={dir}"),
                None if partition < self.config.max_partitions => {
                    let configs = if topic == OFFSETS_TOPIC { offsets_configs() } else { BTreeMap::new() };
                    let id = match id {
                        Some(id) => id,
                        None => self.random_uuid(),
                    };
                    let stored =
                        StoredTopic { id, partitions: partition + 1, replication_factor: 1, configs, copy: false };
                    known.insert(topic.to_owned(), stored);
                    adopted.push(topic.to_owned());
                }
                None => log::warn!("a directory is passed over, its partition number is too large dir={dir}"),
            }
        }
        let checkpoints = RootCheckpoints {
            clean,
            starts: self.read_checkpoint(LOG_STARTS)?,
            recovery_points: self.read_checkpoint(RECOVERY_POINTS)?,
            cleaner_offsets: self.read_checkpoint(CLEANER_OFFSETS)?,
        };
        for (name, stored) in &known {
            self.open_topic(name, stored, &checkpoints, now)?;
        }
        adopted.sort_unstable();
        adopted.dedup();
        let changes = adopted
            .iter()
            .map(|name| Change::set(format!("topic/{name}"), &known[name]))
            .collect::<Result<Vec<_>>>()?;
        self.remember(changes, now)?;
        for (topic_id, dirs) in leftovers {
            self.complete(Then::TopicDeleted { topic_id, dirs });
        }
        Ok(())
    }

    fn open_topic(
        &mut self,
        name: &str,
        stored: &StoredTopic,
        checkpoints: &RootCheckpoints,
        now: Timestamp,
    ) -> Result<()> {
        let name: Arc<str> = name.into();
        let topic = Topic {
            id: stored.id,
            replication_factor: stored.replication_factor,
            configs: stored.configs.clone(),
            partitions: Vec::new(),
            internal: is_internal(&name),
            copy: stored.copy,
        };
        self.topic_names.insert(topic.id, Arc::clone(&name));
        self.topics.insert(Arc::clone(&name), topic);
        for index in 0..stored.partitions {
            let start = self
                .stored
                .get::<i64>(&format!("start/{}/{index}", stored.id))?
                .or_else(|| checkpoints.starts.get(&(name.to_string(), index)).copied());
            let recovery_point = match checkpoints.recovery_points.get(&(name.to_string(), index)) {
                _ if checkpoints.clean => i64::MAX,
                // A copy may have been cut below it since it was written.
                Some(point) if !stored.copy => *point,
                _ => 0,
            };
            let compacted_to = checkpoints.cleaner_offsets.get(&(name.to_string(), index)).copied().unwrap_or(0);
            let checkpoints = Checkpoints { start: start.unwrap_or(0), recovery_point };
            let id = self.open_partition(&name, index, checkpoints, now)?;
            self.partition_mut(id).log.set_compacted_to(compacted_to);
        }
        Ok(())
    }

    pub(super) fn open_partition(
        &mut self,
        name: &Arc<str>,
        index: i32,
        checkpoints: Checkpoints,
        now: Timestamp,
    ) -> Result<PartitionId> {
        let topic = &self.topics[name];
        let config = topic.config(&self.config.topic_defaults);
        let log_config = topic.log_config(&self.config.topic_defaults);
        let durability = config.durability().unwrap_or(self.config.durability);
        let (topic_id, copy) = (topic.id, topic.copy);
        let dir = format!("{name}-{index}");
        let (log, recovery) = Log::open(&self.files, &dir, log_config, checkpoints, now)
            .map_err(|error| error.context(format_args!("opening partition={dir}")))?;
        if !recovery.is_clean() {
            log::warn!("recovered partition={dir}: {recovery}");
            self.recovered.push((dir.clone(), recovery));
        }
        let metadata = format!("{dir}/partition.metadata");
        if !self.device.exists(&metadata)? {
            let text = format!("version: 0\ntopic_id: {}\n", uuid_text(topic_id));
            self.device.create(&metadata)?.append(&[text.as_bytes()])?;
        }
        let id = PartitionId(self.partitions.len());
        let waits_for_sync = self.device.is_durable() && durability == Durability::Sync;
        let mut partition = Partition::new(Arc::clone(name), index, log, self.leader_epoch, waits_for_sync);
        if copy {
            partition.set_limit(partition.log.end());
        }
        self.partitions.push(Some(partition));
        if let Some(topic) = self.topics.get_mut(name) {
            topic.partitions.push(id);
        }
        Ok(id)
    }

    /// Whether a directory has a segment in it.
    fn holds_log(&self, dir: &str) -> Result<bool> {
        Ok(self.device.list(dir)?.iter().any(|entry| !entry.is_dir && entry.name.ends_with(".log")))
    }

    /// The topic id that a directory's `partition.metadata` tells, if there is one.
    fn read_partition_metadata(&self, dir: &str) -> Result<Option<Uuid>> {
        let path = format!("{dir}/partition.metadata");
        if !self.device.exists(&path)? {
            return Ok(None);
        }
        let bytes = self.device.read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().find_map(|line| line.strip_prefix("topic_id: ")).and_then(|id| uuid_from_text(id.trim())))
    }

    /// One of Kafka's checkpoints of a log directory: an offset for each topic and partition.
    fn read_checkpoint(&self, path: &str) -> Result<BTreeMap<(String, i32), i64>> {
        if !self.device.exists(path)? {
            return Ok(BTreeMap::new());
        }
        let bytes = self.device.read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text
            .lines()
            .skip(2)
            .filter_map(|line| {
                let mut words = line.split_ascii_whitespace();
                let (topic, partition, offset) = (words.next()?, words.next()?, words.next()?);
                Some(((topic.to_owned(), partition.parse().ok()?), offset.parse().ok()?))
            })
            .collect())
    }

    /// Writes the checkpoints of Kafka's log directory, so that Kafka finds the same starts and high watermarks.
    pub(super) fn write_checkpoints(&self) -> Result<()> {
        let all = || self.partitions.iter().flatten();
        let first = |partition: &Partition| partition.log.segments().next().map_or(0, |(base, _)| base);
        let starts = all()
            .filter(|partition| partition.log.start() > first(partition))
            .map(|partition| (partition, partition.log.start()));
        self.device.replace(LOG_STARTS, checkpoint_text(starts).as_bytes())?;
        let ends = all().map(|partition| (partition, partition.log.end()));
        self.device.replace(RECOVERY_POINTS, checkpoint_text(ends).as_bytes())?;
        self.device.replace(CLEANER_OFFSETS, self.cleaner_offsets().as_bytes())?;
        let watermarks = all().map(|partition| (partition, partition.high_watermark()));
        self.device.replace("replication-offset-checkpoint", checkpoint_text(watermarks).as_bytes())?;
        Ok(())
    }

    /// The partition of `__consumer_offsets` that a group's records belong to; the topic is made when first needed. It has
    /// one partition then, but one that Kafka made has many.
    pub(super) fn offsets_partition(&mut self, group: &str, now: Timestamp) -> Result<PartitionId> {
        if !self.topics.contains_key(OFFSETS_TOPIC) {
            let id = self.random_uuid();
            self.create_topic(OFFSETS_TOPIC, id, 1, 1, offsets_configs(), now)?;
        }
        let count = self.topics.get(OFFSETS_TOPIC).map_or(0, |topic| topic.partitions.len());
        self.find(OFFSETS_TOPIC, partition_of(group, count)).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("the offsets topic lacks the partition of a group group={group}"))
        })
    }

    /// Makes a topic; its name and configuration were checked.
    pub(super) fn create_topic(
        &mut self,
        name: &str,
        id: Uuid,
        partitions: i32,
        replication_factor: i16,
        configs: BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<()> {
        let stored = StoredTopic { id, partitions, replication_factor, configs, copy: false };
        self.create_stored(name, stored, now)
    }

    pub(super) fn create_stored(&mut self, name: &str, stored: StoredTopic, now: Timestamp) -> Result<()> {
        self.remember(vec![Change::set(format!("topic/{name}"), &stored)?], now)?;
        if let Err(error) = self.open_topic(name, &stored, &RootCheckpoints::default(), now) {
            // Nothing half-made stays: what was opened goes again.
            if let Err(error) = self.remove_topic(name, now) {
                log::error!("a topic that could not be created could not be removed either topic={name}: {error}");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Forgets a topic and has its directories removed once that is durable.
    pub(super) fn remove_topic(&mut self, name: &str, now: Timestamp) -> Result<()> {
        let Some(topic) = self.topics.get(name) else { return Ok(()) };
        let topic_id = topic.id;
        let mut changes = vec![
            Change::remove(format!("topic/{name}")),
            Change::set(format!("deleted/{topic_id}"), &name.to_owned())?,
        ];
        for index in 0..topic.partitions.len() {
            changes.push(Change::remove(format!("start/{topic_id}/{index}")));
        }
        self.remember(changes, now)?;
        let Some(topic) = self.topics.remove(name) else { return Ok(()) };
        self.topic_names.remove(&topic_id);
        let mut dirs = Vec::new();
        for (index, id) in topic.partitions.iter().enumerate() {
            self.fail_waits(*id);
            let fetches: Vec<u64> = self.partition_mut(*id).fetches().iter().copied().collect();
            self.partitions[id.0] = None;
            for row in fetches {
                self.answer_fetch(row, now);
            }
            let dir = format!("{name}-{index}");
            let gone = format!("{dir}.{}-delete", topic_id.simple());
            match self.device.rename(&dir, &gone) {
                Ok(()) => dirs.push(gone),
                Err(error) => {
                    log::warn!("a deleted topic's directory cannot be renamed dir={dir}: {error}");
                    dirs.push(dir);
                }
            }
        }
        self.groups.topic_deleted(name);
        let end = self.partition(self.metadata).log.end();
        self.defer(Then::TopicDeleted { topic_id, dirs }, vec![(self.metadata, end)], None);
        Ok(())
    }

    pub(super) fn create_topics(
        &mut self,
        id: RequestId,
        context: &Context,
        request: CreateTopicsRequest,
        now: Timestamp,
    ) {
        let _ = context;
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for topic in &request.topics {
            *names.entry(topic.name.clone()).or_default() += 1;
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let outcome = if names[&topic.name] > 1 {
                Err((ErrorCode::INVALID_REQUEST, format!("the request names a topic twice topic={}", topic.name)))
            } else {
                self.create_asked(topic, request.validate_only, now)
            };
            topics.push(outcome.unwrap_or_else(|(error_code, message)| CreatableTopicResult {
                name: topic.name.clone(),
                error_code,
                error_message: Some(message),
                num_partitions: -1,
                replication_factor: -1,
                ..CreatableTopicResult::default()
            }));
        }
        let response = CreateTopicsResponse { topics, ..CreateTopicsResponse::default() };
        self.respond_when_remembered(id, Response::CreateTopics(response));
    }

    fn create_asked(
        &mut self,
        topic: &CreatableTopic,
        validate_only: bool,
        now: Timestamp,
    ) -> std::result::Result<CreatableTopicResult, Refusal> {
        let name = &topic.name;
        let (partitions, replication_factor, configs) = self.check_new_topic(topic)?;
        let mut id = Uuid::nil();
        if !validate_only {
            id = self.random_uuid();
            self.create_topic(name, id, partitions, replication_factor, configs.clone(), now)
                .map_err(|error| (code_of(&error), error.to_string()))?;
        }
        let config = TopicConfig { own: &configs, broker: &self.config.topic_defaults };
        let shown = TOPIC_OPTIONS
            .iter()
            .map(|option| {
                let (value, config_source) = value_of(&config, option.name);
                CreatableTopicConfigs {
                    name: option.name.to_owned(),
                    value: Some(value),
                    config_source,
                    ..CreatableTopicConfigs::default()
                }
            })
            .collect();
        Ok(CreatableTopicResult {
            name: name.clone(),
            topic_id: id,
            num_partitions: partitions,
            replication_factor,
            configs: Some(shown),
            ..CreatableTopicResult::default()
        })
    }

    fn check_new_topic(
        &self,
        topic: &CreatableTopic,
    ) -> std::result::Result<(i32, i16, BTreeMap<String, String>), Refusal> {
        let name = &topic.name;
        check_topic_name(name).map_err(|reason| (ErrorCode::INVALID_TOPIC_EXCEPTION, reason))?;
        if name == METADATA_TOPIC {
            return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, format!("the name is the broker's own topic={name}")));
        }
        if self.topics.contains_key(name.as_str()) {
            return Err((ErrorCode::TOPIC_ALREADY_EXISTS, format!("the topic exists already topic={name}")));
        }
        // Kafka refuses names that are the same once '.' and '_' are, as its metrics cannot tell them apart.
        let folded = name.replace('.', "_");
        if let Some(other) = self.topics.keys().find(|other| other.replace('.', "_") == folded) {
            let message = format!("the name collides with another one topic={name} other={other}");
            return Err((ErrorCode::INVALID_TOPIC_EXCEPTION, message));
        }
        let replicas = 1 + self.followers_known();
        let (partitions, replication_factor) = if topic.assignments.is_empty() {
            let partitions = if topic.num_partitions == -1 { self.config.num_partitions } else { topic.num_partitions };
            if partitions < 1 || partitions > self.config.max_partitions {
                let message =
                    format!("a topic has 1 to {} partitions partitions={partitions}", self.config.max_partitions);
                return Err((ErrorCode::INVALID_PARTITIONS, message));
            }
            let factor = if topic.replication_factor == -1 { 1 } else { topic.replication_factor };
            if factor < 1 || i64::from(factor) > replicas {
                let message = format!(
                    "the replication factor must be 1 to the number of brokers replication_factor={factor} brokers={replicas}"
                );
                return Err((ErrorCode::INVALID_REPLICATION_FACTOR, message));
            }
            (partitions, factor)
        } else {
            self.check_assignments(topic)?
        };
        let mut configs = BTreeMap::new();
        for config in &topic.configs {
            let Some(value) = &config.value else {
                let message = format!("a configuration needs a value name={}", config.name);
                return Err((ErrorCode::INVALID_CONFIG, message));
            };
            check_topic_value(&config.name, value).map_err(|reason| (ErrorCode::INVALID_CONFIG, reason))?;
            configs.insert(config.name.clone(), value.clone());
        }
        Ok((partitions, replication_factor, configs))
    }

    fn check_assignments(&self, topic: &CreatableTopic) -> std::result::Result<(i32, i16), Refusal> {
        let bad = |message: &str| Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message.to_owned()));
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            return Err((ErrorCode::INVALID_REQUEST, "give counts or an assignment, not both".to_owned()));
        }
        let mut seen: Vec<i32> = topic.assignments.iter().map(|assignment| assignment.partition_index).collect();
        seen.sort_unstable();
        if seen.iter().enumerate().any(|(at, index)| i32::try_from(at) != Ok(*index)) {
            return bad("an assignment names partitions 0 to n - 1, each once");
        }
        if topic.assignments.iter().any(|assignment| assignment.broker_ids != [self.config.node_id]) {
            return bad("an assignment names this broker alone");
        }
        let partitions = i32::try_from(seen.len()).unwrap_or(i32::MAX);
        if partitions > self.config.max_partitions {
            return Err((ErrorCode::INVALID_PARTITIONS, format!("too many partitions partitions={partitions}")));
        }
        Ok((partitions, 1))
    }

    fn followers_known(&self) -> i64 {
        let mut nodes: Vec<i32> =
            self.partitions.iter().flatten().flat_map(|partition| partition.followers().keys().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        i64::try_from(nodes.len()).unwrap_or(i64::MAX)
    }

    pub(super) fn delete_topics(&mut self, id: RequestId, request: DeleteTopicsRequest, now: Timestamp) {
        let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
        let by_state = request.topics.into_iter().map(|topic| (topic.name, topic.topic_id));
        let mut responses = Vec::new();
        for (name, topic_id) in by_name.chain(by_state) {
            let name = name.or_else(|| self.topic_names.get(&topic_id).map(|name| name.to_string()));
            let found = name.as_deref().and_then(|name| self.topics.get(name)).map(|topic| topic.id);
            let outcome = match (&name, found) {
                (Some(name), Some(_)) if is_internal(name) => {
                    Err((ErrorCode::INVALID_TOPIC_EXCEPTION, format!("an internal topic stays topic={name}")))
                }
                (Some(name), Some(_)) => {
                    self.remove_topic(name, now).map_err(|error| (code_of(&error), error.to_string()))
                }
                (Some(name), None) => {
                    Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no such topic topic={name}")))
                }
                (None, _) => Err((ErrorCode::UNKNOWN_TOPIC_ID, format!("no such topic topic_id={topic_id}"))),
            };
            let (error_code, error_message) = match outcome {
                Ok(()) => (ErrorCode::NONE, None),
                Err((code, message)) => (code, Some(message)),
            };
            let topic_id = found.unwrap_or(topic_id);
            responses.push(DeletableTopicResult { name, topic_id, error_code, error_message });
        }
        let response = DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() };
        self.respond_when_remembered(id, Response::DeleteTopics(response));
    }

    pub(super) fn create_partitions(&mut self, id: RequestId, request: CreatePartitionsRequest, now: Timestamp) {
        let results = request
            .topics
            .iter()
            .map(|topic| {
                let (error_code, error_message) = match self.grow_topic(topic, request.validate_only, now) {
                    Ok(()) => (ErrorCode::NONE, None),
                    Err((code, message)) => (code, Some(message)),
                };
                CreatePartitionsTopicResult { name: topic.name.clone(), error_code, error_message }
            })
            .collect();
        let response = CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() };
        self.respond_when_remembered(id, Response::CreatePartitions(response));
    }

    fn grow_topic(
        &mut self,
        asked: &CreatePartitionsTopic,
        validate_only: bool,
        now: Timestamp,
    ) -> std::result::Result<(), Refusal> {
        let name = asked.name.as_str();
        let Some(topic) = self.topics.get(name) else {
            return Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no such topic topic={name}")));
        };
        let before = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if asked.count <= before || asked.count > self.config.max_partitions {
            let message = format!(
                "the count must grow, to at most {} topic={name} partitions={before} asked={}",
                self.config.max_partitions, asked.count
            );
            return Err((ErrorCode::INVALID_PARTITIONS, message));
        }
        if let Some(assignments) = &asked.assignments {
            let fits = i64::try_from(assignments.len()) == Ok(i64::from(asked.count - before))
                && assignments.iter().all(|assignment| assignment.broker_ids == [self.config.node_id]);
            if !fits {
                let message = "an assignment names this broker for each new partition".to_owned();
                return Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, message));
            }
        }
        if validate_only {
            return Ok(());
        }
        let failed = |error: Error| (code_of(&error), error.to_string());
        let stored = StoredTopic { partitions: asked.count, ..topic.stored() };
        let name: Arc<str> = name.into();
        self.remember(vec![Change::set(format!("topic/{name}"), &stored).map_err(failed)?], now).map_err(failed)?;
        for index in before..asked.count {
            self.open_partition(&name, index, Checkpoints::default(), now).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn metadata(&mut self, id: RequestId, context: &Context, request: MetadataRequest, now: Timestamp) {
        let operations = request.include_topic_authorized_operations;
        // Version 0 cannot say null: an empty list asks for all topics.
        let all = match &request.topics {
            None => true,
            Some(topics) => topics.is_empty() && context.version == 0,
        };
        let mut topics = Vec::new();
        let mut created = false;
        if all {
            let names: Vec<Arc<str>> = self.topics.keys().cloned().collect();
            topics.extend(names.iter().map(|name| self.describe_topic(name, operations)));
        } else {
            for asked in request.topics.unwrap_or_default() {
                let name = match asked.name {
                    Some(name) => name,
                    None => match self.topic_names.get(&asked.topic_id) {
                        Some(name) => name.to_string(),
                        None => {
                            topics.push(MetadataResponseTopic {
                                error_code: ErrorCode::UNKNOWN_TOPIC_ID,
                                topic_id: asked.topic_id,
                                topic_authorized_operations: NOT_ASKED,
                                ..MetadataResponseTopic::default()
                            });
                            continue;
                        }
                    },
                };
                let mut error_code = ErrorCode::NONE;
                if !self.topics.contains_key(name.as_str()) {
                    let allowed = self.config.auto_create_topics
                        && (context.version < 4 || request.allow_auto_topic_creation)
                        && name != METADATA_TOPIC;
                    error_code = if check_topic_name(&name).is_err() {
                        ErrorCode::INVALID_TOPIC_EXCEPTION
                    } else if !allowed {
                        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                    } else {
                        match self.auto_create(&name, now) {
                            Ok(()) => {
                                created = true;
                                ErrorCode::NONE
                            }
                            Err((code, message)) => {
                                log::warn!("a topic could not be created topic={name}: {message}");
                                code
                            }
                        }
                    };
                }
                topics.push(if error_code == ErrorCode::NONE {
                    self.describe_topic(&name, operations)
                } else {
                    MetadataResponseTopic {
                        error_code,
                        name: Some(name),
                        topic_authorized_operations: NOT_ASKED,
                        ..MetadataResponseTopic::default()
                    }
                });
            }
        }
        let response = MetadataResponse {
            brokers: vec![MetadataResponseBroker {
                node_id: self.config.node_id,
                host: self.config.advertised_host.clone(),
                port: i32::from(self.config.advertised_port),
                rack: None,
            }],
            cluster_id: Some(self.cluster_id.clone()),
            controller_id: self.config.node_id,
            topics,
            cluster_authorized_operations: if request.include_cluster_authorized_operations {
                CLUSTER_OPERATIONS
            } else {
                NOT_ASKED
            },
            ..MetadataResponse::default()
        };
        if created {
            self.respond_when_remembered(id, Response::Metadata(response));
        } else {
            self.respond(id, Response::Metadata(response));
        }
    }

    fn auto_create(&mut self, name: &str, now: Timestamp) -> std::result::Result<(), Refusal> {
        let asked = CreatableTopic {
            name: name.to_owned(),
            num_partitions: -1,
            replication_factor: -1,
            ..CreatableTopic::default()
        };
        self.create_asked(&asked, false, now).map(|_| ())
    }

    fn describe_topic(&self, name: &str, operations: bool) -> MetadataResponseTopic {
        let topic = &self.topics[name];
        let partitions = topic
            .partitions
            .iter()
            .map(|id| {
                let partition = self.partition(*id);
                let (replicas, in_sync) = self.replicas_of(partition);
                MetadataResponsePartition {
                    partition_index: partition.index,
                    leader_id: self.config.node_id,
                    leader_epoch: partition.leader_epoch,
                    replica_nodes: replicas,
                    isr_nodes: in_sync,
                    ..MetadataResponsePartition::default()
                }
            })
            .collect();
        MetadataResponseTopic {
            name: Some(name.to_owned()),
            topic_id: topic.id,
            is_internal: topic.internal,
            partitions,
            topic_authorized_operations: if operations { TOPIC_OPERATIONS } else { NOT_ASKED },
            ..MetadataResponseTopic::default()
        }
    }

    /// The nodes that hold a partition, and those of them that are in sync; the leader first.
    fn replicas_of(&self, partition: &Partition) -> (Vec<i32>, Vec<i32>) {
        let leader = std::iter::once(self.config.node_id);
        let others = |node: &i32| *node != self.config.node_id;
        (
            leader.clone().chain(partition.followers().keys().copied().filter(others)).collect(),
            leader.chain(partition.in_sync_followers().iter().copied().filter(others)).collect(),
        )
    }

    pub(super) fn describe_topic_partitions(&mut self, id: RequestId, request: DescribeTopicPartitionsRequest) {
        let mut names: Vec<String> = if request.topics.is_empty() {
            self.topics.keys().map(|name| name.to_string()).collect()
        } else {
            request.topics.into_iter().map(|topic| topic.name).collect()
        };
        names.sort_unstable();
        names.dedup();
        let (from_topic, from_partition) = match request.cursor {
            Some(cursor) => (cursor.topic_name, cursor.partition_index.max(0)),
            None => (String::new(), 0),
        };
        let mut room = request.response_partition_limit.clamp(1, 2_000) as usize;
        let mut topics = Vec::new();
        let mut next_cursor = None;
        for name in names.into_iter().filter(|name| *name >= from_topic) {
            if room == 0 {
                next_cursor = Some(Cursor { topic_name: name, partition_index: 0 });
                break;
            }
            let Some(topic) = self.topics.get(name.as_str()) else {
                let error_code = if check_topic_name(&name).is_ok() {
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                } else {
                    ErrorCode::INVALID_TOPIC_EXCEPTION
                };
                topics.push(DescribeTopicPartitionsResponseTopic {
                    error_code,
                    name: Some(name),
                    topic_authorized_operations: NOT_ASKED,
                    ..DescribeTopicPartitionsResponseTopic::default()
                });
                continue;
            };
            let skip = if name == from_topic { from_partition as usize } else { 0 };
            let shown = topic.partitions.iter().skip(skip).take(room).map(|id| {
                let partition = self.partition(*id);
                let (replica_nodes, isr_nodes) = self.replicas_of(partition);
                DescribeTopicPartitionsResponsePartition {
                    partition_index: partition.index,
                    leader_id: self.config.node_id,
                    leader_epoch: partition.leader_epoch,
                    replica_nodes,
                    isr_nodes,
                    eligible_leader_replicas: Some(Vec::new()),
                    last_known_elr: Some(Vec::new()),
                    ..DescribeTopicPartitionsResponsePartition::default()
                }
            });
            let partitions: Vec<_> = shown.collect();
            room -= partitions.len();
            let reached = skip + partitions.len();
            topics.push(DescribeTopicPartitionsResponseTopic {
                name: Some(name.clone()),
                topic_id: topic.id,
                is_internal: topic.internal,
                partitions,
                topic_authorized_operations: TOPIC_OPERATIONS,
                ..DescribeTopicPartitionsResponseTopic::default()
            });
            if reached < topic.partitions.len() {
                let partition_index = i32::try_from(reached).unwrap_or(i32::MAX);
                next_cursor = Some(Cursor { topic_name: name, partition_index });
                break;
            }
        }
        let response = DescribeTopicPartitionsResponse { topics, next_cursor, ..Default::default() };
        self.respond(id, Response::DescribeTopicPartitions(response));
    }

    pub(super) fn describe_configs(&mut self, id: RequestId, request: DescribeConfigsRequest) {
        let results = request
            .resources
            .iter()
            .map(|resource| {
                let mut result = DescribeConfigsResult {
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name.clone(),
                    ..DescribeConfigsResult::default()
                };
                match self.describe_resource(resource, request.include_synonyms) {
                    Ok(configs) => result.configs = configs,
                    Err((code, message)) => {
                        result.error_code = code;
                        result.error_message = Some(message);
                    }
                }
                result
            })
            .collect();
        let response = DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() };
        self.respond(id, Response::DescribeConfigs(response));
    }

    fn describe_resource(
        &self,
        resource: &DescribeConfigsResource,
        synonyms: bool,
    ) -> std::result::Result<Vec<DescribeConfigsResourceResult>, Refusal> {
        let asked =
            |name: &str| resource.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|key| key == name));
        match resource.resource_type {
            RESOURCE_TOPIC => {
                let name = resource.resource_name.as_str();
                let Some(topic) = self.topics.get(name) else {
                    return Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no such topic topic={name}")));
                };
                let config = topic.config(&self.config.topic_defaults);
                Ok(TOPIC_OPTIONS
                    .iter()
                    .filter(|option| asked(option.name))
                    .map(|option| {
                        let (value, config_source) = value_of(&config, option.name);
                        let synonyms = if synonyms {
                            let mut all = Vec::new();
                            if let Some(own) = config.own.get(option.name) {
                                all.push((own.clone(), SOURCE_TOPIC));
                            }
                            if let Some(broker) = config.broker.get(option.name) {
                                all.push((broker.clone(), SOURCE_STATIC_BROKER));
                            }
                            all.push((option.default.to_owned(), SOURCE_DEFAULT));
                            all.into_iter()
                                .map(|(value, source)| DescribeConfigsSynonym {
                                    name: option.name.to_owned(),
                                    value: Some(value),
                                    source,
                                })
                                .collect()
                        } else {
                            Vec::new()
                        };
                        DescribeConfigsResourceResult {
                            name: option.name.to_owned(),
                            value: Some(value),
                            config_source,
                            config_type: option.kind as i8,
                            synonyms,
                            ..DescribeConfigsResourceResult::default()
                        }
                    })
                    .collect())
            }
            RESOURCE_BROKER => {
                let name = resource.resource_name.as_str();
                if !name.is_empty() && name.parse() != Ok(self.config.node_id) {
                    return Err((ErrorCode::INVALID_REQUEST, format!("no such broker broker={name}")));
                }
                let config = &self.config;
                let here = format!("PLAINTEXT://{}:{}", config.advertised_host, config.advertised_port);
                let fixed = [
                    ("advertised.listeners", here, Kind::String),
                    ("broker.id", config.node_id.to_string(), Kind::Int),
                    ("default.replication.factor", "1".to_owned(), Kind::Int),
                ];
                let set = BROKER_OPTIONS.iter().map(|option| (option.name, (option.value)(config), option.kind));
                Ok(fixed
                    .into_iter()
                    .chain(set)
                    .filter(|(name, ..)| asked(name))
                    .map(|(name, value, kind)| DescribeConfigsResourceResult {
                        name: name.to_owned(),
                        value: Some(value),
                        read_only: true,
                        config_source: SOURCE_STATIC_BROKER,
                        config_type: kind as i8,
                        ..DescribeConfigsResourceResult::default()
                    })
                    .collect())
            }
            other => {
                Err((ErrorCode::INVALID_REQUEST, format!("resources are topics and brokers resource_type={other}")))
            }
        }
    }

    pub(super) fn incremental_alter_configs(
        &mut self,
        id: RequestId,
        request: IncrementalAlterConfigsRequest,
        now: Timestamp,
    ) {
        let mut responses = Vec::with_capacity(request.resources.len());
        for resource in &request.resources {
            let outcome =
                self.topic_to_alter(resource.resource_type, &resource.resource_name).and_then(|mut configs| {
                    for change in &resource.configs {
                        apply_change(&mut configs, change)?;
                    }
                    self.set_configs(&resource.resource_name, configs, request.validate_only, now)
                });
            let (error_code, error_message) = split(outcome);
            responses.push(incremental_alter_configs::AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            });
        }
        let response = IncrementalAlterConfigsResponse { responses, ..Default::default() };
        self.respond_when_remembered(id, Response::IncrementalAlterConfigs(response));
    }

    pub(super) fn alter_configs(&mut self, id: RequestId, request: AlterConfigsRequest, now: Timestamp) {
        let mut responses = Vec::with_capacity(request.resources.len());
        for resource in &request.resources {
            let outcome = self.topic_to_alter(resource.resource_type, &resource.resource_name).and_then(|_| {
                let mut configs = BTreeMap::new();
                for config in &resource.configs {
                    let Some(value) = &config.value else {
                        let message = format!("a configuration needs a value name={}", config.name);
                        return Err((ErrorCode::INVALID_CONFIG, message));
                    };
                    check_topic_value(&config.name, value).map_err(|reason| (ErrorCode::INVALID_CONFIG, reason))?;
                    configs.insert(config.name.clone(), value.clone());
                }
                self.set_configs(&resource.resource_name, configs, request.validate_only, now)
            });
            let (error_code, error_message) = split(outcome);
            responses.push(alter_configs::AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
            });
        }
        let response = AlterConfigsResponse { responses, ..AlterConfigsResponse::default() };
        self.respond_when_remembered(id, Response::AlterConfigs(response));
    }

    fn topic_to_alter(&self, resource_type: i8, name: &str) -> std::result::Result<BTreeMap<String, String>, Refusal> {
        if resource_type != RESOURCE_TOPIC {
            let message = "only topics' configuration can be altered; the broker's is given at its start".to_owned();
            return Err((ErrorCode::INVALID_REQUEST, message));
        }
        match self.topics.get(name) {
            Some(topic) => Ok(topic.configs.clone()),
            None => Err((ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("no such topic topic={name}"))),
        }
    }

    pub(super) fn set_configs(
        &mut self,
        name: &str,
        configs: BTreeMap<String, String>,
        validate_only: bool,
        now: Timestamp,
    ) -> std::result::Result<(), Refusal> {
        if validate_only {
            return Ok(());
        }
        let failed = |error: Error| (code_of(&error), error.to_string());
        let Some(topic) = self.topics.get(name) else { return Ok(()) };
        let stored = StoredTopic { configs: configs.clone(), ..topic.stored() };
        self.remember(vec![Change::set(format!("topic/{name}"), &stored).map_err(failed)?], now).map_err(failed)?;
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        topic.configs = configs;
        let config = TopicConfig { own: &topic.configs, broker: &self.config.topic_defaults };
        let log_config = topic.log_config(&self.config.topic_defaults);
        let durability = config.durability().unwrap_or(self.config.durability);
        let waits_for_sync = self.device.is_durable() && durability == Durability::Sync;
        for id in topic.partitions.clone() {
            let partition = self.partition_mut(id);
            partition.log.update_config(log_config.clone());
            partition.set_waits_for_sync(waits_for_sync);
            self.moved.insert(id);
        }
        self.apply_retention(now);
        Ok(())
    }

    pub(super) fn delete_records(&mut self, id: RequestId, request: DeleteRecordsRequest, now: Timestamp) {
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let outcome = self.delete_records_before(&topic.name, asked.partition_index, asked.offset, now);
                partitions.push(DeleteRecordsPartitionResult {
                    partition_index: asked.partition_index,
                    low_watermark: *outcome.as_ref().unwrap_or(&-1),
                    error_code: outcome.err().unwrap_or(ErrorCode::NONE),
                });
            }
            topics.push(DeleteRecordsTopicResult { name: topic.name.clone(), partitions });
        }
        self.apply_retention(now);
        let response = DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() };
        self.respond_when_remembered(id, Response::DeleteRecords(response));
    }

    fn delete_records_before(
        &mut self,
        topic: &str,
        index: i32,
        offset: i64,
        now: Timestamp,
    ) -> std::result::Result<i64, ErrorCode> {
        let id = self.find(topic, index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let found = self.topics.get(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let config = found.config(&self.config.topic_defaults);
        if found.internal || !config.log_config().deletes {
            return Err(ErrorCode::POLICY_VIOLATION);
        }
        let topic_id = found.id;
        let partition = self.partition_mut(id);
        let high_watermark = partition.high_watermark();
        let to = if offset == -1 { high_watermark } else { offset };
        if to < 0 || to > high_watermark {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        if to > partition.log.start() {
            partition.log.set_start(to).map_err(|error| code_of(&error))?;
            partition.after_truncation();
            self.moved.insert(id);
            let change = Change::set(format!("start/{topic_id}/{index}"), &to).map_err(|error| code_of(&error))?;
            self.remember(vec![change], now).map_err(|error| code_of(&error))?;
        }
        Ok(self.partition(id).log.start())
    }

    pub(super) fn find_coordinator(&mut self, id: RequestId, context: &Context, request: FindCoordinatorRequest) {
        // Types are group (0), transaction (1) and share group (2); this broker coordinates groups.
        let error_code = match request.key_type {
            0 => ErrorCode::NONE,
            1 => ErrorCode::COORDINATOR_NOT_AVAILABLE,
            _ => ErrorCode::INVALID_REQUEST,
        };
        let found = error_code == ErrorCode::NONE;
        let node_id = if found { self.config.node_id } else { -1 };
        let host = if found { self.config.advertised_host.clone() } else { String::new() };
        let port = if found { i32::from(self.config.advertised_port) } else { -1 };
        let error_message = (!found).then(|| "this broker coordinates consumer groups only".to_owned());
        let mut response = FindCoordinatorResponse::default();
        if context.version >= 4 {
            response.coordinators = request
                .coordinator_keys
                .into_iter()
                .map(|key| Coordinator {
                    key,
                    node_id,
                    host: host.clone(),
                    port,
                    error_code,
                    error_message: error_message.clone(),
                })
                .collect();
        } else {
            response.error_code = error_code;
            response.error_message = error_message;
            response.node_id = node_id;
            response.host = host;
            response.port = port;
        }
        self.respond(id, Response::FindCoordinator(response));
    }

    pub(super) fn describe_cluster(&mut self, id: RequestId, request: DescribeClusterRequest) {
        let response = DescribeClusterResponse {
            endpoint_type: request.endpoint_type,
            cluster_id: self.cluster_id.clone(),
            controller_id: self.config.node_id,
            brokers: vec![DescribeClusterBroker {
                broker_id: self.config.node_id,
                host: self.config.advertised_host.clone(),
                port: i32::from(self.config.advertised_port),
                ..DescribeClusterBroker::default()
            }],
            cluster_authorized_operations: if request.include_cluster_authorized_operations {
                CLUSTER_OPERATIONS
            } else {
                NOT_ASKED
            },
            ..DescribeClusterResponse::default()
        };
        self.respond(id, Response::DescribeCluster(response));
    }

    pub(super) fn describe_log_dirs(&mut self, id: RequestId, request: DescribeLogDirsRequest) {
        let mut topics = Vec::new();
        for (name, topic) in &self.topics {
            let asked = request.topics.as_ref().map(|topics| topics.iter().find(|asked| asked.topic == **name));
            if matches!(asked, Some(None)) {
                continue;
            }
            let partitions = topic
                .partitions
                .iter()
                .map(|id| self.partition(*id))
                .filter(|partition| asked.flatten().is_none_or(|asked| asked.partitions.contains(&partition.index)))
                .map(|partition| DescribeLogDirsPartition {
                    partition_index: partition.index,
                    partition_size: i64::try_from(partition.log.size_bytes()).unwrap_or(i64::MAX),
                    ..DescribeLogDirsPartition::default()
                })
                .collect();
            topics.push(DescribeLogDirsTopic { name: name.to_string(), partitions });
        }
        let result = DescribeLogDirsResult {
            log_dir: self.config.log_dir.clone(),
            topics,
            total_bytes: -1,
            usable_bytes: -1,
            ..DescribeLogDirsResult::default()
        };
        let response = DescribeLogDirsResponse { results: vec![result], ..DescribeLogDirsResponse::default() };
        self.respond(id, Response::DescribeLogDirs(response));
    }

    pub(super) fn describe_producers(&mut self, id: RequestId, request: DescribeProducersRequest) {
        let describe = |topic: &str, index: i32| {
            let Some(id) = self.find(topic, index) else {
                return describe_producers::PartitionResponse {
                    partition_index: index,
                    error_code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    ..Default::default()
                };
            };
            let producers = self.partition(id).log.producers().iter();
            describe_producers::PartitionResponse {
                partition_index: index,
                active_producers: producers
                    .map(|(producer_id, producer)| ProducerState {
                        producer_id,
                        producer_epoch: i32::from(producer.epoch()),
                        last_sequence: producer.last_sequence(),
                        last_timestamp: producer.last_timestamp(),
                        coordinator_epoch: producer.coordinator_epoch(),
                        current_txn_start_offset: producer.transaction_start().unwrap_or(-1),
                    })
                    .collect(),
                ..Default::default()
            }
        };
        let topics = request
            .topics
            .iter()
            .map(|topic| describe_producers::TopicResponse {
                name: topic.name.clone(),
                partitions: topic.partition_indexes.iter().map(|index| describe(&topic.name, *index)).collect(),
            })
            .collect();
        let response = DescribeProducersResponse { topics, ..DescribeProducersResponse::default() };
        self.respond(id, Response::DescribeProducers(response));
    }
}

/// A checkpoint file of Kafka's: version, count, and a line for each partition.
pub(super) fn checkpoint_text<'a>(offsets: impl Iterator<Item = (&'a Partition, i64)>) -> String {
    let lines: Vec<String> =
        offsets.map(|(partition, offset)| format!("{} {} {offset}\n", partition.topic, partition.index)).collect();
    format!("0\n{}\n{}", lines.len(), lines.concat())
}

/// Whether clients may only read the topic.
pub(super) fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == METADATA_TOPIC
}

/// The configuration of the topic of committed offsets.
fn offsets_configs() -> BTreeMap<String, String> {
    [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", "104857600")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn value_of(config: &TopicConfig<'_>, name: &str) -> (String, i8) {
    if let Some(value) = config.own.get(name) {
        (value.clone(), SOURCE_TOPIC)
    } else if let Some(value) = config.broker.get(name) {
        (value.clone(), SOURCE_STATIC_BROKER)
    } else {
        (topic_option(name).map_or("", |option| option.default).to_owned(), SOURCE_DEFAULT)
    }
}

/// Applies one change of IncrementalAlterConfigs: set (0), delete (1), append (2) or subtract (3).
fn apply_change(
    configs: &mut BTreeMap<String, String>,
    change: &incremental_alter_configs::AlterableConfig,
) -> std::result::Result<(), Refusal> {
    let invalid = |reason: String| (ErrorCode::INVALID_CONFIG, reason);
    let name = &change.name;
    let option = topic_option(name).ok_or_else(|| invalid(format!("unknown topic configuration name={name}")))?;
    if change.config_operation == 1 {
        configs.remove(name);
        return Ok(());
    }
    let Some(value) = &change.value else {
        return Err(invalid(format!("a configuration needs a value name={name}")));
    };
    let value = match change.config_operation {
        0 => value.clone(),
        operation @ (2 | 3) => {
            if option.kind != Kind::List {
                return Err(invalid(format!("only a list can be appended to or subtracted from name={name}")));
            }
            let now = configs.get(name).map_or(option.default, String::as_str);
            let mut parts: Vec<&str> = now.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
            for part in value.split(',').map(str::trim) {
                if operation == 3 {
                    parts.retain(|existing| *existing != part);
                } else if !parts.contains(&part) {
                    parts.push(part);
                }
            }
            parts.join(",")
        }
        other => {
            return Err((ErrorCode::INVALID_REQUEST, format!("unknown operation operation={other} name={name}")));
        }
    };
    check_topic_value(name, &value).map_err(invalid)?;
    configs.insert(name.clone(), value);
    Ok(())
}

fn split(outcome: std::result::Result<(), Refusal>) -> (ErrorCode, Option<String>) {
    match outcome {
        Ok(()) => (ErrorCode::NONE, None),
        Err((code, message)) => (code, Some(message)),
    }
}
