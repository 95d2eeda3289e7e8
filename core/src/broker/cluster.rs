//! What clients are told of the cluster: its topics, its one broker, its coordinator, its directory, its producers.

use std::sync::Arc;

use super::partition::Partition;
use super::stored::METADATA_TOPIC;
use super::topics::check_topic_name;
use super::{Broker, Context, RequestId};
use crate::Timestamp;
use crate::protocol::Endpoint;
use crate::protocol::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
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
use crate::protocol::messages::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::protocol::{ErrorCode, Response};

/// Operations that a client without restrictions may do, as Kafka's bit sets.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
const CLUSTER_OPERATIONS: i32 = 0b1_1111_0010_0000;
const NOT_ASKED: i32 = i32::MIN;

impl Broker {
    pub(super) fn metadata(&mut self, id: RequestId, context: &Context, request: MetadataRequest, now: Timestamp) {
        let operations = request.include_topic_authorized_operations;
        let view = self.view(now);
        let leader = view.leader;
        // Version 0 cannot say null: an empty list asks for all topics.
        let all = match &request.topics {
            None => true,
            Some(topics) => topics.is_empty() && context.version == 0,
        };
        let mut topics = Vec::new();
        let mut created = false;
        let mut room = self.config.max_partitions;
        if all {
            let names: Vec<Arc<str>> = self.topics.keys().cloned().collect();
            topics.extend(names.iter().map(|name| self.describe_topic(name, leader, operations)));
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
                        && self.accepts_writes()
                        && name != METADATA_TOPIC;
                    error_code = if check_topic_name(&name).is_err() {
                        ErrorCode::INVALID_TOPIC_EXCEPTION
                    } else if self.offline.contains_key(&name) {
                        ErrorCode::KAFKA_STORAGE_ERROR
                    } else if !allowed {
                        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                    } else {
                        match self.auto_create(&name, &mut room, now) {
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
                    self.describe_topic(&name, leader, operations)
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
        let broker = |(node_id, endpoint): (i32, Endpoint)| MetadataResponseBroker {
            node_id,
            host: endpoint.host,
            port: i32::from(endpoint.port),
            rack: None,
        };
        let response = MetadataResponse {
            brokers: view.brokers.into_iter().map(broker).collect(),
            cluster_id: Some(self.cluster_id.clone()),
            controller_id: view.leader,
            topics,
            cluster_authorized_operations: if request.include_cluster_authorized_operations {
                CLUSTER_OPERATIONS
            } else {
                NOT_ASKED
            },
            ..MetadataResponse::default()
        };
        // A topic that a power cut may take back is told to nobody: a follower would have it, and then another of that name.
        if created || !self.partition(self.metadata).is_failed() {
            self.respond_when_remembered(id, Response::Metadata(response));
        } else {
            self.respond(id, Response::Metadata(response));
        }
    }

    fn describe_topic(&self, name: &str, leader_id: i32, operations: bool) -> MetadataResponseTopic {
        let topic = &self.topics[name];
        let partitions = topic
            .partitions
            .iter()
            .map(|id| {
                let partition = self.partition(*id);
                let (replicas, in_sync) = self.replicas_of(partition);
                MetadataResponsePartition {
                    partition_index: partition.index,
                    leader_id,
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
        if let Some(known) = self.known_replicas(&partition.topic, partition.index) {
            return known;
        }
        let leader = std::iter::once(self.config.node_id);
        let others = |node: &i32| *node != self.config.node_id;
        (
            leader.clone().chain(partition.followers().keys().copied().filter(others)).collect(),
            leader.chain(partition.in_sync_followers().iter().copied().filter(others)).collect(),
        )
    }

    pub(super) fn describe_topic_partitions(
        &mut self,
        id: RequestId,
        request: DescribeTopicPartitionsRequest,
        now: Timestamp,
    ) {
        let leader_id = self.view(now).leader;
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
                    leader_id,
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

    pub(super) fn find_coordinator(
        &mut self,
        id: RequestId,
        context: &Context,
        request: FindCoordinatorRequest,
        now: Timestamp,
    ) {
        let coordinator = self.coordinator(now);
        // Types are group (0), transaction (1) and share group (2); this broker coordinates groups.
        let error_code = match request.key_type {
            0 if coordinator.is_some() => ErrorCode::NONE,
            0 | 1 => ErrorCode::COORDINATOR_NOT_AVAILABLE,
            _ => ErrorCode::INVALID_REQUEST,
        };
        let found = error_code == ErrorCode::NONE;
        let (node_id, host, port) = match coordinator.filter(|_| found) {
            Some((node_id, endpoint)) => (node_id, endpoint.host, i32::from(endpoint.port)),
            None => (-1, String::new(), -1),
        };
        let error_message = (!found).then(|| match request.key_type {
            0 => "the leader, which coordinates groups, does not answer".to_owned(),
            _ => "this broker coordinates consumer groups only".to_owned(),
        });
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

    pub(super) fn describe_cluster(&mut self, id: RequestId, request: DescribeClusterRequest, now: Timestamp) {
        let view = self.view(now);
        let broker = |(broker_id, endpoint): (i32, Endpoint)| DescribeClusterBroker {
            broker_id,
            host: endpoint.host,
            port: i32::from(endpoint.port),
            ..DescribeClusterBroker::default()
        };
        let response = DescribeClusterResponse {
            endpoint_type: request.endpoint_type,
            cluster_id: self.cluster_id.clone(),
            controller_id: view.leader,
            brokers: view.brokers.into_iter().map(broker).collect(),
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
