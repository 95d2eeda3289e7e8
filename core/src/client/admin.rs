//! Topics, configurations, groups: what an operator asks of a cluster.
//!
//! A call about many things returns a result for each: one that fails says nothing of the others. The outer result is about the
//! call itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::config::IsolationLevel;
use super::offsets::by_topic;
use super::{
    BrokerAddress, Client, Cluster, CoordinatorType, OffsetAndMetadata, OffsetAndTimestamp, Topic, TopicPartition,
    Topics, check, repeat,
};
use crate::protocol::messages::create_partitions::{CreatePartitionsAssignment, CreatePartitionsTopic};
use crate::protocol::messages::create_topics::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
use crate::protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use crate::protocol::messages::delete_topics::DeleteTopicState;
use crate::protocol::messages::describe_configs::DescribeConfigsResource;
use crate::protocol::messages::leave_group::MemberIdentity;
use crate::protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::protocol::messages::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use crate::protocol::messages::{
    AlterConfigsRequest, ConsumerProtocolAssignment, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    IncrementalAlterConfigsRequest, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    alter_configs, incremental_alter_configs,
};
use crate::protocol::{ApiKey, ErrorCode, Message, RequestMessage};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// Administers a cluster.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

/// A topic to create.
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; the broker's default when not set.
    pub partitions: Option<i32>,
    /// How many replicas of each; the broker's default when not set.
    pub replication_factor: Option<i16>,
    /// The brokers of each partition, in place of the two numbers.
    pub assignments: Option<BTreeMap<i32, Vec<i32>>>,
    /// Its configuration, as far as it is not the default.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the broker's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The same with so many partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// The same with one more line of configuration.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(name.into(), value.into());
        self
    }
}

/// More partitions for a topic.
#[derive(Clone, Debug, Default)]
pub struct NewPartitions {
    /// How many it shall have.
    pub total: i32,
    /// The brokers of each new one; the broker's choice when not set.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// What has a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker, by id; all of them when empty.
    Broker(String),
    /// Another kind, by its number in the protocol.
    Other(i8, String),
}

impl ConfigResource {
    fn from_parts(kind: i8, name: String) -> Self {
        match kind {
            2 => Self::Topic(name),
            4 => Self::Broker(name),
            kind => Self::Other(kind, name),
        }
    }

    fn parts(&self) -> (i8, &str) {
        match self {
            Self::Topic(name) => (2, name),
            Self::Broker(name) => (4, name),
            Self::Other(kind, name) => (*kind, name),
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic={name}"),
            Self::Broker(name) => write!(f, "broker={name}"),
            Self::Other(kind, name) => write!(f, "resource={name} type={kind}"),
        }
    }
}

/// A line of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The option's name.
    pub name: String,
    /// Its value; `None` when it has none, or is not shown.
    pub value: Option<String>,
    /// Whether it can be changed.
    pub read_only: bool,
    /// Whether it is not shown.
    pub is_sensitive: bool,
    /// Where the value is from: Kafka's number (1 the topic, 2 to 4 brokers, 5 the default).
    pub source: i8,
    /// Kafka's number of the value's type; 0 when not known.
    pub kind: i8,
    /// What it means, if asked for and known.
    pub documentation: Option<String>,
}

/// A change of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// This value.
    Set(String),
    /// The default.
    Delete,
    /// One more to a list.
    Append(String),
    /// One less of a list.
    Subtract(String),
}

/// A group, as a list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// The group.
    pub group_id: String,
    /// What its members are, "consumer" for consumers.
    pub protocol_type: String,
    /// Its state; empty from brokers that do not say.
    pub state: String,
    /// "classic", "consumer", …; empty from brokers that do not say.
    pub group_type: String,
}

/// A group in detail.
#[derive(Clone, Debug)]
pub struct GroupDescription {
    /// The group.
    pub group_id: String,
    /// Its state.
    pub state: String,
    /// What its members are.
    pub protocol_type: String,
    /// The assignor that it uses.
    pub protocol: String,
    /// Its coordinator.
    pub coordinator: BrokerAddress,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// Its name as a static member.
    pub group_instance_id: Option<String>,
    /// The name of its client.
    pub client_id: String,
    /// Where it is.
    pub client_host: String,
    /// Its partitions, if it is a consumer that has some.
    pub assignment: Vec<TopicPartition>,
}

impl Admin {
    /// An admin on `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client that it runs on.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates topics, or with `validate_only` says whether it could.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
        timeout: Duration,
    ) -> Result<Vec<(String, Result<()>)>> {
        let request = CreateTopicsRequest {
            topics: topics
                .iter()
                .map(|topic| CreatableTopic {
                    name: topic.name.clone(),
                    num_partitions: if topic.assignments.is_some() { -1 } else { topic.partitions.unwrap_or(-1) },
                    replication_factor: if topic.assignments.is_some() {
                        -1
                    } else {
                        topic.replication_factor.unwrap_or(-1)
                    },
                    assignments: topic
                        .assignments
                        .iter()
                        .flatten()
                        .map(|(partition_index, broker_ids)| CreatableReplicaAssignment {
                            partition_index: *partition_index,
                            broker_ids: broker_ids.clone(),
                        })
                        .collect(),
                    configs: topic
                        .configs
                        .iter()
                        .map(|(name, value)| CreatableTopicConfig { name: name.clone(), value: Some(value.clone()) })
                        .collect(),
                })
                .collect(),
            timeout_ms: milliseconds(timeout),
            validate_only,
        };
        let response = self
            .call_controller(request, timeout, |response| response.topics.first().map(|topic| topic.error_code))
            .await?;
        let results = response.topics.into_iter().map(|topic| {
            let result = check(topic.error_code, topic.error_message.as_deref(), format_args!("topic={}", topic.name));
            (topic.name, result)
        });
        Ok(results.collect())
    }

    /// Deletes topics and all that is in them.
    pub async fn delete_topics(&self, topics: &[&str], timeout: Duration) -> Result<Vec<(String, Result<()>)>> {
        let names: Vec<String> = topics.iter().map(ToString::to_string).collect();
        let (_, version) = self.controller_version(ApiKey::DELETE_TOPICS, timeout).await?;
        let mut request = DeleteTopicsRequest { timeout_ms: milliseconds(timeout), ..Default::default() };
        // From version 6 on a topic may be named by its id, too.
        if version >= 6 {
            request.topics =
                names.into_iter().map(|name| DeleteTopicState { name: Some(name), ..Default::default() }).collect();
        } else {
            request.topic_names = names;
        }
        let first = |response: &crate::protocol::messages::DeleteTopicsResponse| {
            response.responses.first().map(|topic| topic.error_code)
        };
        let response = self.call_controller(request, timeout, first).await?;
        let results = response.responses.into_iter().map(|topic| {
            let name = topic.name.unwrap_or_default();
            let result = check(topic.error_code, topic.error_message.as_deref(), format_args!("topic={name}"));
            (name, result)
        });
        Ok(results.collect())
    }

    /// All topics that may be seen, in the order of their names.
    pub async fn list_topics(&self, timeout: Duration) -> Result<Vec<Arc<Topic>>> {
        let cluster = self.client.retry(timeout, || self.client.refresh_with(Topics::All, false)).await?;
        let mut topics: Vec<Arc<Topic>> = cluster.topics.values().cloned().collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    /// These topics with their partitions.
    pub async fn describe_topics(
        &self,
        topics: &[&str],
        timeout: Duration,
    ) -> Result<Vec<(String, Result<Arc<Topic>>)>> {
        let names: Vec<Arc<str>> = topics.iter().map(|name| Arc::from(*name)).collect();
        let response = self.client.retry(timeout, || self.client.ask(Topics::Named(&names), false)).await?;
        let cluster = self.client.learn(&response, false);
        let results = response.topics.into_iter().map(|topic| {
            let name = topic.name.unwrap_or_default();
            let result = check(topic.error_code, None, format_args!("topic={name}")).and_then(|()| {
                cluster.topics.get(name.as_str()).cloned().ok_or_else(|| {
                    Error::from_code(
                        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                        format!("there is no such topic topic={name}"),
                    )
                })
            });
            (name, result)
        });
        Ok(results.collect())
    }

    /// Waits until brokers know these topics, each with a leader for all its partitions.
    pub async fn wait_for_topics(&self, topics: &[&str], timeout: Duration) -> Result<()> {
        let names: Vec<Arc<str>> = topics.iter().map(|name| Arc::from(*name)).collect();
        self.client
            .retry(timeout, || async {
                let cluster = self.client.refresh_with(Topics::Named(&names), false).await?;
                for name in &names {
                    let led = cluster.topics.get(name).is_some_and(|topic| {
                        !topic.partitions.is_empty()
                            && topic.partitions.iter().all(|partition| partition.leader.is_some())
                    });
                    if !led {
                        let code = ErrorCode::LEADER_NOT_AVAILABLE;
                        return Err(Error::from_code(code, format!("topic is not there yet topic={name}")));
                    }
                }
                Ok(())
            })
            .await
    }

    /// Gives topics more partitions.
    pub async fn create_partitions(
        &self,
        topics: &BTreeMap<String, NewPartitions>,
        validate_only: bool,
        timeout: Duration,
    ) -> Result<Vec<(String, Result<()>)>> {
        let request = CreatePartitionsRequest {
            topics: topics
                .iter()
                .map(|(name, new)| CreatePartitionsTopic {
                    name: name.clone(),
                    count: new.total,
                    assignments: new.assignments.as_ref().map(|assignments| {
                        let each =
                            |broker_ids: &Vec<i32>| CreatePartitionsAssignment { broker_ids: broker_ids.clone() };
                        assignments.iter().map(each).collect()
                    }),
                })
                .collect(),
            timeout_ms: milliseconds(timeout),
            validate_only,
        };
        let response = self
            .call_controller(request, timeout, |response| response.results.first().map(|topic| topic.error_code))
            .await?;
        let results = response.results.into_iter().map(|topic| {
            let result = check(topic.error_code, topic.error_message.as_deref(), format_args!("topic={}", topic.name));
            (topic.name, result)
        });
        Ok(results.collect())
    }

    /// Raises log start offsets: records below are gone. An offset of -1 is the high watermark. Returns the new log start offsets.
    pub async fn delete_records(
        &self,
        offsets: &HashMap<TopicPartition, i64>,
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Result<i64>>> {
        let wanted: Vec<(TopicPartition, i64)> = offsets.iter().map(|(name, offset)| (name.clone(), *offset)).collect();
        self.client
            .ask_leaders(wanted, timeout, |client, leader, wanted| {
                let request = DeleteRecordsRequest {
                    topics: by_topic(wanted)
                        .into_iter()
                        .map(|(name, partitions)| DeleteRecordsTopic {
                            name: name.to_string(),
                            partitions: partitions
                                .into_iter()
                                .map(|(partition_index, offset)| DeleteRecordsPartition { partition_index, offset })
                                .collect(),
                        })
                        .collect(),
                    timeout_ms: milliseconds(timeout),
                };
                Box::pin(async move {
                    let response = client.call_node(leader, request).await?;
                    let mut results = HashMap::new();
                    for topic in response.topics {
                        let name: Arc<str> = Arc::from(topic.name);
                        for partition in topic.partitions {
                            let name =
                                TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index };
                            let result = check(partition.error_code, None, format_args!("partition={name}"));
                            results.insert(name, result.map(|()| partition.low_watermark));
                        }
                    }
                    Ok(results)
                })
            })
            .await
    }

    /// Where logs start (-2), end (-1), or have the first record of a time or later; also -3: the record with the largest timestamp.
    pub async fn list_offsets(
        &self,
        wanted: &HashMap<TopicPartition, i64>,
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Result<OffsetAndTimestamp>>> {
        let wanted = wanted.iter().map(|(name, time)| (name.clone(), *time)).collect();
        self.client.list_offsets(wanted, isolation, timeout).await
    }

    /// Configurations; all lines, or those named.
    pub async fn describe_configs(
        &self,
        resources: &[(ConfigResource, Option<Vec<String>>)],
        timeout: Duration,
    ) -> Result<Vec<(ConfigResource, Result<Vec<ConfigEntry>>)>> {
        let mut results = Vec::with_capacity(resources.len());
        for (to, resources) in self.by_broker(resources, |(resource, _)| resource) {
            let request = DescribeConfigsRequest {
                resources: resources
                    .iter()
                    .map(|(resource, names)| {
                        let (resource_type, resource_name) = resource.parts();
                        DescribeConfigsResource {
                            resource_type,
                            resource_name: resource_name.to_owned(),
                            configuration_keys: names.clone(),
                        }
                    })
                    .collect(),
                ..Default::default()
            };
            let response = self.client.retry(timeout, || self.call_at(to, request.clone())).await?;
            for found in response.results {
                let resource = ConfigResource::from_parts(found.resource_type, found.resource_name);
                let entries = found.configs.into_iter().map(|entry| ConfigEntry {
                    name: entry.name,
                    value: entry.value,
                    read_only: entry.read_only,
                    is_sensitive: entry.is_sensitive,
                    source: entry.config_source,
                    kind: entry.config_type,
                    documentation: entry.documentation,
                });
                let result =
                    check(found.error_code, found.error_message.as_deref(), &resource).map(|()| entries.collect());
                results.push((resource, result));
            }
        }
        Ok(results)
    }

    /// Changes configurations, line by line; other lines stay as they are.
    pub async fn alter_configs(
        &self,
        changes: &[(ConfigResource, BTreeMap<String, ConfigChange>)],
        validate_only: bool,
        timeout: Duration,
    ) -> Result<Vec<(ConfigResource, Result<()>)>> {
        let mut results = Vec::with_capacity(changes.len());
        for (to, changes) in self.by_broker(changes, |(resource, _)| resource) {
            let request = IncrementalAlterConfigsRequest {
                resources: changes
                    .iter()
                    .map(|(resource, changes)| {
                        let (resource_type, resource_name) = resource.parts();
                        incremental_alter_configs::AlterConfigsResource {
                            resource_type,
                            resource_name: resource_name.to_owned(),
                            configs: changes.iter().map(|(name, change)| alterable(name, change)).collect(),
                        }
                    })
                    .collect(),
                validate_only,
            };
            let response = match self.client.retry(timeout, || self.call_at(to, request.clone())).await {
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    self.replace_configs(to, &changes, validate_only, timeout, error, &mut results).await?;
                    continue;
                }
                response => response?,
            };
            for changed in response.responses {
                let resource = ConfigResource::from_parts(changed.resource_type, changed.resource_name);
                let result = check(changed.error_code, changed.error_message.as_deref(), &resource);
                results.push((resource, result));
            }
        }
        Ok(results)
    }

    /// For brokers before 2.3, which only replace whole configurations: what is set now, with the changes.
    async fn replace_configs(
        &self,
        to: Option<i32>,
        changes: &[(ConfigResource, BTreeMap<String, ConfigChange>)],
        validate_only: bool,
        timeout: Duration,
        unsupported: Error,
        results: &mut Vec<(ConfigResource, Result<()>)>,
    ) -> Result<()> {
        let wanted: Vec<_> = changes.iter().map(|(resource, _)| (resource.clone(), None)).collect();
        let mut resources = Vec::with_capacity(changes.len());
        for (resource, entries) in Box::pin(self.describe_configs(&wanted, timeout)).await? {
            let mut values: BTreeMap<String, Option<String>> = entries?
                .into_iter()
                // Its own lines: those of a topic (1), of a broker (2).
                .filter(|entry| !entry.read_only && matches!(entry.source, 1 | 2))
                .map(|entry| (entry.name, entry.value))
                .collect();
            let changes = changes.iter().find(|(changed, _)| *changed == resource).map(|(_, changes)| changes);
            for (name, change) in changes.into_iter().flatten() {
                match change {
                    ConfigChange::Set(value) => drop(values.insert(name.clone(), Some(value.clone()))),
                    ConfigChange::Delete => drop(values.remove(name)),
                    ConfigChange::Append(_) | ConfigChange::Subtract(_) => return Err(unsupported),
                }
            }
            let (resource_type, resource_name) = resource.parts();
            resources.push(alter_configs::AlterConfigsResource {
                resource_type,
                resource_name: resource_name.to_owned(),
                configs: values
                    .into_iter()
                    .map(|(name, value)| alter_configs::AlterableConfig { name, value })
                    .collect(),
            });
        }
        let request = AlterConfigsRequest { resources, validate_only };
        let response = self.client.retry(timeout, || self.call_at(to, request.clone())).await?;
        for changed in response.responses {
            let resource = ConfigResource::from_parts(changed.resource_type, changed.resource_name);
            let result = check(changed.error_code, changed.error_message.as_deref(), &resource);
            results.push((resource, result));
        }
        Ok(())
    }

    /// Groups the resources by who must be asked: a broker for its own configuration, anybody for the rest.
    fn by_broker<T: Clone>(
        &self,
        items: &[T],
        resource: impl Fn(&T) -> &ConfigResource,
    ) -> BTreeMap<Option<i32>, Vec<T>> {
        let mut groups: BTreeMap<Option<i32>, Vec<T>> = BTreeMap::new();
        for item in items {
            let to = match resource(item) {
                ConfigResource::Broker(id) => id.parse().ok(),
                _ => None,
            };
            groups.entry(to).or_default().push(item.clone());
        }
        groups
    }

    async fn call_at<R: RequestMessage + Clone>(&self, to: Option<i32>, request: R) -> Result<R::Response> {
        match to {
            None => self.client.call_any(request).await,
            Some(node) => {
                if !self.client.cluster().brokers.contains_key(&node) {
                    self.client.refresh_with(Topics::None, false).await?;
                    if !self.client.cluster().brokers.contains_key(&node) {
                        return Err(Error::new(ErrorKind::NotFound, format!("there is no such broker node={node}")));
                    }
                }
                self.client.call_node(node, request).await
            }
        }
    }

    /// All groups of all brokers, by name.
    pub async fn list_groups(&self, timeout: Duration) -> Result<Vec<GroupListing>> {
        let cluster = self.client.retry(timeout, || self.client.refresh_with(Topics::None, false)).await?;
        let calls = cluster.brokers.keys().map(|node| {
            self.client.retry(timeout, move || async move {
                let response = self.client.call_node(*node, ListGroupsRequest::default()).await?;
                check(response.error_code, None, format_args!("broker={node}"))?;
                Ok(response.groups)
            })
        });
        let mut groups = BTreeMap::new();
        for listed in join_all(calls).await {
            for group in listed? {
                let listing = GroupListing {
                    group_id: group.group_id,
                    protocol_type: group.protocol_type,
                    state: group.group_state,
                    group_type: group.group_type,
                };
                groups.insert(listing.group_id.clone(), listing);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// Groups with their members.
    pub async fn describe_groups(
        &self,
        groups: &[&str],
        timeout: Duration,
    ) -> Result<Vec<(String, Result<GroupDescription>)>> {
        let each = groups.iter().map(|group| async move {
            let described = self.at_coordinator(group, timeout, move |coordinator| async move {
                let request = DescribeGroupsRequest { groups: vec![group.to_string()], ..Default::default() };
                let mut response = self.client.call_endpoint(&coordinator.endpoint, request).await?;
                let Some(found) = response.groups.pop() else {
                    return Err(Error::new(ErrorKind::Retriable, "the broker's answer leaves the group out"));
                };
                check(found.error_code, found.error_message.as_deref(), format_args!("group={group}"))?;
                let members = found.members.into_iter().map(|member| MemberDescription {
                    member_id: member.member_id,
                    group_instance_id: member.group_instance_id,
                    client_id: member.client_id,
                    client_host: member.client_host,
                    assignment: ConsumerProtocolAssignment::from_versioned_bytes(member.member_assignment)
                        .map(|assignment| assigned(&assignment))
                        .unwrap_or_default(),
                });
                Ok(GroupDescription {
                    group_id: found.group_id,
                    state: found.group_state,
                    protocol_type: found.protocol_type,
                    protocol: found.protocol_data,
                    coordinator,
                    members: members.collect(),
                })
            });
            ((*group).to_owned(), described.await)
        });
        Ok(join_all(each).await)
    }

    /// Deletes groups that have no members, and what they committed.
    pub async fn delete_groups(&self, groups: &[&str], timeout: Duration) -> Result<Vec<(String, Result<()>)>> {
        let each = groups.iter().map(|group| async move {
            let deleted = self.at_coordinator(group, timeout, move |coordinator| async move {
                let request = DeleteGroupsRequest { groups_names: vec![group.to_string()] };
                let response = self.client.call_endpoint(&coordinator.endpoint, request).await?;
                let code = response.results.first().map_or(ErrorCode::NONE, |result| result.error_code);
                check(code, None, format_args!("group={group}"))
            });
            ((*group).to_owned(), deleted.await)
        });
        Ok(join_all(each).await)
    }

    /// What a group committed; for `partitions`, or for all.
    pub async fn list_group_offsets(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, OffsetAndMetadata>> {
        self.at_coordinator(group, timeout, |coordinator| async move {
            self.client.committed_offsets(&coordinator.endpoint, group, partitions).await
        })
        .await
    }

    /// Commits offsets in a group's name; it must not have members that are subscribed to these topics.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &HashMap<TopicPartition, OffsetAndMetadata>,
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Result<()>>> {
        let topics = by_topic(offsets.iter().map(|(name, offset)| (name.clone(), offset)));
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            generation_id_or_member_epoch: -1,
            group_instance_id: None,
            topics: topics
                .into_iter()
                .map(|(name, partitions)| OffsetCommitRequestTopic {
                    name: name.to_string(),
                    partitions: partitions
                        .into_iter()
                        .map(|(partition_index, offset)| OffsetCommitRequestPartition {
                            partition_index,
                            committed_offset: offset.offset,
                            committed_leader_epoch: offset.leader_epoch,
                            committed_metadata: Some(offset.metadata.clone()),
                        })
                        .collect(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        self.at_coordinator(group, timeout, |coordinator| {
            let request = request.clone();
            async move {
                let response = self.client.call_endpoint(&coordinator.endpoint, request).await?;
                let rows = response.topics.into_iter().flat_map(|topic| {
                    let name: Arc<str> = Arc::from(topic.name);
                    topic
                        .partitions
                        .into_iter()
                        .map(move |row| (Arc::clone(&name), row.partition_index, row.error_code))
                });
                partition_results(group, rows)
            }
        })
        .await
    }

    /// Forgets what a group committed for these partitions.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Result<()>>> {
        let topics = by_topic(partitions.iter().map(|name| (name.clone(), ())));
        let request = OffsetDeleteRequest {
            group_id: group.to_owned(),
            topics: topics
                .into_iter()
                .map(|(name, partitions)| OffsetDeleteRequestTopic {
                    name: name.to_string(),
                    partitions: partitions
                        .into_iter()
                        .map(|(partition_index, ())| OffsetDeleteRequestPartition { partition_index })
                        .collect(),
                })
                .collect(),
        };
        self.at_coordinator(group, timeout, |coordinator| {
            let request = request.clone();
            async move {
                let response = self.client.call_endpoint(&coordinator.endpoint, request).await?;
                check(response.error_code, None, format_args!("group={group}"))?;
                let rows = response.topics.into_iter().flat_map(|topic| {
                    let name: Arc<str> = Arc::from(topic.name);
                    topic
                        .partitions
                        .into_iter()
                        .map(move |row| (Arc::clone(&name), row.partition_index, row.error_code))
                });
                partition_results(group, rows)
            }
        })
        .await
    }

    /// Has members leave a group: static ones by their names, others by their ids.
    pub async fn remove_members(
        &self,
        group: &str,
        members: &[(String, Option<String>)],
        timeout: Duration,
    ) -> Result<Vec<(String, Result<()>)>> {
        let identities = members.iter().map(|(member_id, group_instance_id)| MemberIdentity {
            member_id: member_id.clone(),
            group_instance_id: group_instance_id.clone(),
            reason: Some("removed by an admin".to_owned()),
        });
        let request =
            LeaveGroupRequest { group_id: group.to_owned(), members: identities.collect(), ..Default::default() };
        self.at_coordinator(group, timeout, |coordinator| {
            let request = request.clone();
            async move {
                let response = self.client.call_endpoint(&coordinator.endpoint, request).await?;
                check(response.error_code, None, format_args!("group={group}"))?;
                let results = response.members.into_iter().map(|member| {
                    let name = member.group_instance_id.unwrap_or(member.member_id);
                    let result = check(member.error_code, None, format_args!("group={group} member={name}"));
                    (name, result)
                });
                Ok(results.collect())
            }
        })
        .await
    }

    /// The brokers, the controller, the cluster's id.
    pub async fn describe_cluster(&self, timeout: Duration) -> Result<Arc<Cluster>> {
        self.client.retry(timeout, || self.client.refresh_with(Topics::None, false)).await
    }

    /// Calls a group's coordinator, and the next one when it has moved.
    async fn at_coordinator<T, F>(&self, group: &str, timeout: Duration, call: impl Fn(BrokerAddress) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.client
            .retry(timeout, || async {
                let coordinator = self.client.coordinator(CoordinatorType::Group, group).await?;
                call(coordinator).await
            })
            .await
    }

    /// The controller's address and the version of an API that it speaks.
    async fn controller_version(&self, api: ApiKey, timeout: Duration) -> Result<(Endpoint, i16)> {
        self.client
            .retry(timeout, || async {
                let endpoint = self.controller().await?;
                let versions = self.client.transport().versions(&endpoint).await?;
                let version = versions.version_for(api)?;
                Ok((endpoint, version))
            })
            .await
    }

    async fn controller(&self) -> Result<Endpoint> {
        let controller = |cluster: &Cluster| {
            cluster.controller_id.and_then(|id| cluster.brokers.get(&id)).map(|broker| broker.endpoint.clone())
        };
        if let Some(endpoint) = controller(&self.client.cluster()) {
            return Ok(endpoint);
        }
        let cluster = self.client.refresh_with(Topics::None, false).await?;
        controller(&cluster).ok_or_else(|| Error::new(ErrorKind::Retriable, "the cluster has no controller now"))
    }

    /// Calls the controller; asks who it is again when it has moved.
    async fn call_controller<R: RequestMessage + Clone>(
        &self,
        request: R,
        timeout: Duration,
        first_code: impl Fn(&R::Response) -> Option<ErrorCode>,
    ) -> Result<R::Response> {
        self.client
            .retry(timeout, || async {
                let endpoint = self.controller().await?;
                let result = self.client.call_endpoint(&endpoint, request.clone()).await;
                let moved = match &result {
                    Ok(response) => first_code(response).filter(|code| *code == ErrorCode::NOT_CONTROLLER),
                    Err(error) if error.is_retriable() => Some(ErrorCode::NOT_CONTROLLER),
                    Err(_) => None,
                };
                if let Some(code) = moved {
                    self.client.refresh_with(Topics::None, false).await?;
                    result?;
                    return Err(Error::from_code(code, code.message()));
                }
                result
            })
            .await
    }
}

fn partition_results(
    group: &str,
    rows: impl Iterator<Item = (Arc<str>, i32, ErrorCode)>,
) -> Result<HashMap<TopicPartition, Result<()>>> {
    let mut results = HashMap::new();
    for (topic, partition, code) in rows {
        let name = TopicPartition { topic, partition };
        let result = check(code, None, format_args!("group={group} partition={name}"));
        if let Err(error) = &result
            && error.is_retriable()
        {
            return Err(repeat(error));
        }
        results.insert(name, result);
    }
    Ok(results)
}

fn alterable(name: &str, change: &ConfigChange) -> incremental_alter_configs::AlterableConfig {
    let (config_operation, value) = match change {
        ConfigChange::Set(value) => (0, Some(value.clone())),
        ConfigChange::Delete => (1, None),
        ConfigChange::Append(value) => (2, Some(value.clone())),
        ConfigChange::Subtract(value) => (3, Some(value.clone())),
    };
    incremental_alter_configs::AlterableConfig { name: name.to_owned(), config_operation, value }
}

fn assigned(assignment: &ConsumerProtocolAssignment) -> Vec<TopicPartition> {
    let mut all = Vec::new();
    for topic in &assignment.assigned_partitions {
        let name: Arc<str> = Arc::from(topic.topic.as_str());
        all.extend(
            topic.partitions.iter().map(|partition| TopicPartition { topic: Arc::clone(&name), partition: *partition }),
        );
    }
    all
}

fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}
