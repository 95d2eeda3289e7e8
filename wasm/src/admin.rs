//! The admin. A call about many things answers with a list that has, for each, its name and the error or undefined.

use std::collections::{BTreeMap, HashMap};

use js_sys::{Array, Int32Array};
use ottla::Result;
use ottla::client::config::IsolationLevel;
use ottla::client::{
    self, ConfigChange, ConfigResource, NewPartitions, NewTopic, OffsetAndMetadata, Topic, TopicPartition,
};
use wasm_bindgen::prelude::*;

use crate::consumer::flat;
use crate::error::{thrown, to_js};
use crate::values::{invalid, milliseconds, partitions};

/// An admin, as js/admin.ts drives it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Admin {
    core: client::Admin,
}

impl Admin {
    pub(crate) fn new(core: client::Admin) -> Self {
        Self { core }
    }
}

#[wasm_bindgen]
impl Admin {
    /// Creates topics; -1 partitions or replicas are the broker's default. `configs` has a list for each: name, value, name, value…
    #[wasm_bindgen(js_name = createTopics)]
    pub async fn create_topics(
        &self,
        names: Vec<String>,
        partitions: Vec<i32>,
        replicas: Vec<i16>,
        configs: Array,
        validate_only: bool,
        timeout_ms: f64,
    ) -> Result<Array, JsValue> {
        let topics: Vec<NewTopic> = names
            .into_iter()
            .zip(partitions.into_iter().zip(replicas))
            .zip(configs.iter())
            .map(|((name, (partitions, replicas)), configs)| NewTopic {
                name,
                partitions: (partitions != -1).then_some(partitions),
                replication_factor: (replicas != -1).then_some(replicas),
                assignments: None,
                configs: pairs(&configs),
            })
            .collect();
        let core = self.core.clone();
        let results = core.create_topics(&topics, validate_only, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(outcomes(results))
    }

    /// Deletes topics.
    #[wasm_bindgen(js_name = deleteTopics)]
    pub async fn delete_topics(&self, names: Vec<String>, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let results = core.delete_topics(&texts(&names), milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(outcomes(results))
    }

    /// All topics, as `describeTopics` has them.
    #[wasm_bindgen(js_name = listTopics)]
    pub async fn list_topics(&self, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let topics = core.list_topics(milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(topics.iter().map(|topic| described(topic)).collect())
    }

    /// Topics: name, error, id, whether it is internal, and for each partition its leader and leader epoch (-1 if there is none),
    /// its replicas and those in sync.
    #[wasm_bindgen(js_name = describeTopics)]
    pub async fn describe_topics(&self, names: Vec<String>, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let topics = core.describe_topics(&texts(&names), milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(topics
            .into_iter()
            .map(|(name, topic)| match topic {
                Ok(topic) => described(&topic),
                Err(error) => outcome(&name, Err(error)),
            })
            .collect())
    }

    /// Gives topics more partitions.
    #[wasm_bindgen(js_name = createPartitions)]
    pub async fn create_partitions(
        &self,
        names: Vec<String>,
        totals: Vec<i32>,
        validate_only: bool,
        timeout_ms: f64,
    ) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let topics = names
            .into_iter()
            .zip(totals)
            .map(|(name, total)| (name, NewPartitions { total, assignments: None }))
            .collect();
        let results = core.create_partitions(&topics, validate_only, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(outcomes(results))
    }

    /// Raises log start offsets; the new ones follow the errors.
    #[wasm_bindgen(js_name = deleteRecords)]
    pub async fn delete_records(
        &self,
        topics: Vec<String>,
        numbers: Vec<i32>,
        offsets: Vec<f64>,
        timeout_ms: f64,
    ) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let offsets = wanted.iter().cloned().zip(offsets.into_iter().map(|offset| offset as i64)).collect();
        let results = core.delete_records(&offsets, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(by_partition(&wanted, results, |start| [JsValue::from_f64(start as f64)]))
    }

    /// Offsets by time (-1 the end, -2 the start, -3 the largest timestamp): offset, timestamp and leader epoch follow the errors.
    #[wasm_bindgen(js_name = listOffsets)]
    pub async fn list_offsets(
        &self,
        topics: Vec<String>,
        numbers: Vec<i32>,
        times: Vec<f64>,
        read_committed: bool,
        timeout_ms: f64,
    ) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let times = wanted.iter().cloned().zip(times.into_iter().map(|time| time as i64)).collect();
        let isolation = if read_committed { IsolationLevel::ReadCommitted } else { IsolationLevel::ReadUncommitted };
        let results = core.list_offsets(&times, isolation, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(by_partition(&wanted, results, |found| {
            [found.offset as f64, found.timestamp as f64, f64::from(found.leader_epoch)].map(JsValue::from_f64)
        }))
    }

    /// The configuration of a `topic` or `broker`: name, value or null, whether it is read-only, whether it is sensitive, and where
    /// it is from, by Kafka's number.
    #[wasm_bindgen(js_name = describeConfigs)]
    pub async fn describe_configs(&self, kind: &str, name: String, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let wanted = [(resource(kind, name)?, None)];
        let results = core.describe_configs(&wanted, milliseconds(timeout_ms)).await.map_err(thrown)?;
        let list = Array::new();
        for (_, entries) in results {
            for entry in entries.map_err(thrown)? {
                list.push(&row([
                    entry.name.into(),
                    entry.value.map_or(JsValue::NULL, JsValue::from),
                    entry.read_only.into(),
                    entry.is_sensitive.into(),
                    entry.source.into(),
                ]));
            }
        }
        Ok(list)
    }

    /// Changes a configuration: names, and values or null for the default.
    #[wasm_bindgen(js_name = alterConfigs)]
    pub async fn alter_configs(
        &self,
        kind: &str,
        name: String,
        names: Vec<String>,
        values: Array,
        validate_only: bool,
        timeout_ms: f64,
    ) -> Result<(), JsValue> {
        let core = self.core.clone();
        let changes = names
            .into_iter()
            .zip(values.iter())
            .map(|(name, value)| (name, value.as_string().map_or(ConfigChange::Delete, ConfigChange::Set)))
            .collect();
        let changes = [(resource(kind, name)?, changes)];
        let results = core.alter_configs(&changes, validate_only, milliseconds(timeout_ms)).await.map_err(thrown)?;
        results.into_iter().try_for_each(|(_, result)| result).map_err(thrown)
    }

    /// Groups: id, protocol type, state, type.
    #[wasm_bindgen(js_name = listGroups)]
    pub async fn list_groups(&self, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let groups = core.list_groups(milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(groups
            .into_iter()
            .map(|group| row([group.group_id, group.protocol_type, group.state, group.group_type].map(JsValue::from)))
            .collect())
    }

    /// Groups: id, error, state, protocol type, protocol, and for each member its id, instance id or null, client, host and
    /// partitions.
    #[wasm_bindgen(js_name = describeGroups)]
    pub async fn describe_groups(&self, groups: Vec<String>, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let groups = core.describe_groups(&texts(&groups), milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(groups
            .into_iter()
            .map(|(name, group)| {
                let group = match group {
                    Ok(group) => group,
                    Err(error) => return outcome(&name, Err(error)),
                };
                let members: Array = group
                    .members
                    .into_iter()
                    .map(|member| {
                        row([
                            member.member_id.into(),
                            member.group_instance_id.map_or(JsValue::NULL, JsValue::from),
                            member.client_id.into(),
                            member.client_host.into(),
                            flat(&member.assignment).into(),
                        ])
                    })
                    .collect();
                row([
                    name.into(),
                    JsValue::UNDEFINED,
                    group.state.into(),
                    group.protocol_type.into(),
                    group.protocol.into(),
                    members.into(),
                ])
            })
            .collect())
    }

    /// Deletes groups.
    #[wasm_bindgen(js_name = deleteGroups)]
    pub async fn delete_groups(&self, groups: Vec<String>, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let results = core.delete_groups(&texts(&groups), milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(outcomes(results))
    }

    /// What a group committed: topic, partition, offset, metadata, leader epoch.
    #[wasm_bindgen(js_name = listGroupOffsets)]
    pub async fn list_group_offsets(&self, group: String, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let found = core.list_group_offsets(&group, None, milliseconds(timeout_ms)).await.map_err(thrown)?;
        let found: BTreeMap<TopicPartition, OffsetAndMetadata> = found.into_iter().collect();
        Ok(found
            .into_iter()
            .map(|(partition, committed)| {
                row([
                    JsValue::from_str(&partition.topic),
                    partition.partition.into(),
                    JsValue::from_f64(committed.offset as f64),
                    committed.metadata.into(),
                    committed.leader_epoch.into(),
                ])
            })
            .collect())
    }

    /// Commits offsets in a group's name.
    #[wasm_bindgen(js_name = alterGroupOffsets)]
    pub async fn alter_group_offsets(
        &self,
        group: String,
        topics: Vec<String>,
        numbers: Vec<i32>,
        offsets: Vec<f64>,
        metadata: Vec<String>,
        timeout_ms: f64,
    ) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let offsets = wanted
            .iter()
            .cloned()
            .zip(offsets.into_iter().zip(metadata))
            .map(|(partition, (offset, metadata))| {
                (partition, OffsetAndMetadata { offset: offset as i64, metadata, leader_epoch: -1 })
            })
            .collect();
        let results = core.alter_group_offsets(&group, &offsets, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(by_partition(&wanted, results, |()| []))
    }

    /// Forgets what a group committed.
    #[wasm_bindgen(js_name = deleteGroupOffsets)]
    pub async fn delete_group_offsets(
        &self,
        group: String,
        topics: Vec<String>,
        numbers: Vec<i32>,
        timeout_ms: f64,
    ) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let wanted = partitions(topics, &numbers);
        let results = core.delete_group_offsets(&group, &wanted, milliseconds(timeout_ms)).await.map_err(thrown)?;
        Ok(by_partition(&wanted, results, |()| []))
    }

    /// The cluster: its id, its controller's id or -1, and for each broker its id, host and port.
    #[wasm_bindgen(js_name = describeCluster)]
    pub async fn describe_cluster(&self, timeout_ms: f64) -> Result<Array, JsValue> {
        let core = self.core.clone();
        let cluster = core.describe_cluster(milliseconds(timeout_ms)).await.map_err(thrown)?;
        let brokers: Array = cluster
            .brokers
            .values()
            .map(|broker| {
                let endpoint = &broker.endpoint;
                row([broker.node_id.into(), JsValue::from_str(&endpoint.host), u32::from(endpoint.port).into()])
            })
            .collect();
        Ok(Array::of3(
            &cluster.cluster_id.as_deref().map_or(JsValue::NULL, JsValue::from_str),
            &cluster.controller_id.unwrap_or(-1).into(),
            &brokers,
        ))
    }
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn row<const N: usize>(values: [JsValue; N]) -> JsValue {
    values.into_iter().collect::<Array>().into()
}

fn pairs(list: &JsValue) -> BTreeMap<String, String> {
    let texts: Vec<String> = Array::from(list).iter().filter_map(|text| text.as_string()).collect();
    texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn outcome(name: &str, result: Result<()>) -> JsValue {
    row([JsValue::from_str(name), result.map_or_else(|error| to_js(&error), |()| JsValue::UNDEFINED)])
}

fn outcomes(results: Vec<(String, Result<()>)>) -> Array {
    results.into_iter().map(|(name, result)| outcome(&name, result)).collect()
}

/// For each partition, in the order in which they were asked about, its name, its error or undefined, and what was found.
fn by_partition<T, const N: usize>(
    wanted: &[TopicPartition],
    mut results: HashMap<TopicPartition, Result<T>>,
    found: impl Fn(T) -> [JsValue; N],
) -> Array {
    wanted
        .iter()
        .filter_map(|partition| {
            let list = Array::of1(&JsValue::from(partition.to_string()));
            match results.remove(partition)? {
                Ok(result) => {
                    list.push(&JsValue::UNDEFINED);
                    for value in found(result) {
                        list.push(&value);
                    }
                }
                Err(error) => {
                    list.push(&to_js(&error));
                }
            }
            Some(JsValue::from(list))
        })
        .collect()
}

fn described(topic: &Topic) -> JsValue {
    let partitions: Array = topic
        .partitions
        .iter()
        .map(|partition| {
            row([
                partition.leader.unwrap_or(-1).into(),
                partition.leader_epoch.into(),
                Int32Array::from(partition.replicas.as_slice()).into(),
                Int32Array::from(partition.in_sync_replicas.as_slice()).into(),
            ])
        })
        .collect();
    row([
        JsValue::from_str(&topic.name),
        JsValue::UNDEFINED,
        topic.id.to_string().into(),
        topic.is_internal.into(),
        partitions.into(),
    ])
}

fn resource(kind: &str, name: String) -> Result<ConfigResource, JsValue> {
    match kind {
        "topic" => Ok(ConfigResource::Topic(name)),
        "broker" => Ok(ConfigResource::Broker(name)),
        _ => Err(invalid(format!("expected a configuration of a topic or broker of={kind}"))),
    }
}
