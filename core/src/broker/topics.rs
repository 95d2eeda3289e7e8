//! Topics: create, grow, delete; and the deletion of their records.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::config::{TOPIC_OPTIONS, TopicConfig, check_topic_value};
use super::configs::value_of;
use super::directory::RootCheckpoints;
use super::groups::partition_of;
use super::partition::PartitionId;
use super::stored::{Change, METADATA_TOPIC, StoredTopic};
use super::{Broker, Context, OFFSETS_TOPIC, RequestId, Then};
use crate::log::{Checkpoints, LogConfig};
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

    /// How its logs are kept. A copy removes nothing by age, size or key: its source does, and the copy follows. That of
    /// committed offsets is nobody's but the brokers', and compacted where it is.
    pub(super) fn log_config(&self, defaults: &BTreeMap<String, String>) -> LogConfig {
        let config = self.config(defaults).log_config();
        if !self.copy || self.internal {
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

/// A Kafka code and what to say with it.
pub(super) type Refusal = (ErrorCode, String);

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

/// How many bytes a topic's name has at most.
pub(super) const MAX_TOPIC_NAME: usize = 249;

/// Checks a topic's name by Kafka's rules: 1 to 249 of `[a-zA-Z0-9._-]`, and not `.` or `..`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_topic_name(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.len() > MAX_TOPIC_NAME {
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
    /// The partition of `__consumer_offsets` that a group's records belong to; the topic is made when first needed. It has
    /// one partition then, unless told otherwise, but one that Kafka made has many.
    pub(super) fn offsets_partition(&mut self, group: &str, now: Timestamp) -> Result<PartitionId> {
        if !self.topics.contains_key(OFFSETS_TOPIC) {
            if let Some(why) = self.offline.get(OFFSETS_TOPIC) {
                return Err(Error::new(ErrorKind::Corrupt, why.clone()));
            }
            let id = self.random_uuid();
            let partitions = self.config.offsets_topic_num_partitions.min(self.config.max_partitions);
            let configs = offsets_configs(self.config.offsets_topic_segment_bytes);
            self.create_topic(OFFSETS_TOPIC, id, partitions, 1, configs, now)?;
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
            changes.push(Change::remove(format!("holes/{topic_id}/{index}")));
        }
        self.remember(changes, now)?;
        let Some(topic) = self.topics.remove(name) else { return Ok(()) };
        self.topic_names.remove(&topic_id);
        let mut dirs = Vec::new();
        for (index, id) in topic.partitions.iter().enumerate() {
            self.fail_waits(*id);
            for waiting in self.partition_mut(*id).take_sync_waits() {
                self.respond_synced(waiting, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            }
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
        // A topic that gets the name must not be taken for this one by its checkpoints.
        self.next_checkpoint = now;
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
        let mut room = self.config.max_partitions;
        for topic in &request.topics {
            let outcome = if names[&topic.name] > 1 {
                Err((ErrorCode::INVALID_REQUEST, format!("the request names a topic twice topic={}", topic.name)))
            } else {
                self.create_asked(topic, request.validate_only, &mut room, now)
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
        room: &mut i32,
        now: Timestamp,
    ) -> std::result::Result<CreatableTopicResult, Refusal> {
        let name = &topic.name;
        let (partitions, replication_factor, configs) = self.check_new_topic(topic)?;
        take_room(room, partitions, self.config.max_partitions)?;
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
        if let Some(why) = self.offline.get(name.as_str()) {
            return Err((ErrorCode::KAFKA_STORAGE_ERROR, why.clone()));
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
                (Some(name), None) if self.offline.contains_key(name) => {
                    Err((ErrorCode::KAFKA_STORAGE_ERROR, self.offline[name].clone()))
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
        let mut room = self.config.max_partitions;
        let results = request
            .topics
            .iter()
            .map(|topic| {
                let (error_code, error_message) = match self.grow_topic(topic, request.validate_only, &mut room, now) {
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
        room: &mut i32,
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
        take_room(room, asked.count - before, self.config.max_partitions)?;
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

    /// Makes a topic that a client asked for; `room` is for how many partitions there is room in this request.
    pub(super) fn auto_create(
        &mut self,
        name: &str,
        room: &mut i32,
        now: Timestamp,
    ) -> std::result::Result<(), Refusal> {
        let asked = CreatableTopic {
            name: name.to_owned(),
            num_partitions: -1,
            replication_factor: -1,
            ..CreatableTopic::default()
        };
        self.create_asked(&asked, false, room, now).map(|_| ())
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
        if found.copy || !self.accepts_writes() {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
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
            partition.after_start_moved();
            self.moved.insert(id);
            let change = Change::set(format!("start/{topic_id}/{index}"), &to).map_err(|error| code_of(&error))?;
            self.remember(vec![change], now).map_err(|error| code_of(&error))?;
        }
        Ok(self.partition(id).log.start())
    }
}

/// One request makes so many partitions and no more, as Kafka has it: the broker makes them while others wait.
fn take_room(room: &mut i32, partitions: i32, max: i32) -> std::result::Result<(), Refusal> {
    if partitions > *room {
        let message = format!("a request makes at most {max} partitions, ask for the others in another one");
        return Err((ErrorCode::POLICY_VIOLATION, message));
    }
    *room -= partitions;
    Ok(())
}

/// Whether clients may only read the topic.
pub(super) fn is_internal(name: &str) -> bool {
    name == OFFSETS_TOPIC || name == METADATA_TOPIC
}

/// The configuration of the topic of committed offsets.
pub(super) fn offsets_configs(segment_bytes: i32) -> BTreeMap<String, String> {
    let segment_bytes = segment_bytes.to_string();
    [("cleanup.policy", "compact"), ("compression.type", "producer"), ("segment.bytes", &segment_bytes)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
