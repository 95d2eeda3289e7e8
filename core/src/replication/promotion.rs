//! Which follower may lead, and making it lead.
//!
//! Without the leader a follower is sure to have everything that was acknowledged with `acks=all` if so many followers answer that
//! every acknowledgement needed one of them (replicas − `min.insync.replicas` + 1), and none of them is ahead of it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use super::TopicPartition;
use crate::client::{Admin, Client, ConfigResource};
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use crate::protocol::messages::elect_leaders::ElectLeadersRequest;
use crate::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::{ListOffsetsRequest, MetadataRequest, VoteRequest};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// How long a broker that may be away may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the broker that is to lead may take.
const ELECTION: Duration = Duration::from_secs(30);
/// The number of brokers among what has a configuration.
const BROKER_RESOURCE: i8 = 4;
/// The replica id of who compares logs: it is told their ends.
const DEBUGGER: i32 = -2;

/// A broker, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Its node id.
    pub node_id: i32,
    /// Where it is reached.
    pub endpoint: Endpoint,
    /// Whom it takes for the leader; `None` if it did not answer.
    pub leader: Option<i32>,
    /// The leader epoch that it is in; -1 if it did not answer.
    pub leader_epoch: i32,
    /// For each partition the epoch of its log's last batch, and where the log ends.
    pub ends: BTreeMap<TopicPartition, (i32, i64)>,
    /// Why it did not answer.
    pub error: Option<String>,
}

impl NodeState {
    /// Whether it says that it leads.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.node_id)
    }
}

/// A partition, as the broker that was asked knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Which.
    pub partition: TopicPartition,
    /// The nodes that have it.
    pub replicas: Vec<i32>,
    /// Those that were in sync, as it was told last.
    pub in_sync: Vec<i32>,
    /// How many must have a record before `acks=all` is answered.
    pub min_insync: usize,
}

/// A cluster of Ottla brokers, seen from one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The node that was asked.
    pub node_id: i32,
    /// Every broker that it knows.
    pub nodes: Vec<NodeState>,
    /// Every partition that it has, but those of internal topics.
    pub partitions: Vec<PartitionState>,
}

impl Survey {
    /// The node that was asked.
    pub fn node(&self) -> Option<&NodeState> {
        self.nodes.iter().find(|node| node.node_id == self.node_id)
    }

    /// The leader, if there is one that answers and knows that it is.
    pub fn leader(&self) -> Option<&NodeState> {
        self.nodes.iter().filter(|node| node.leads()).max_by_key(|node| node.leader_epoch)
    }

    /// How many records `node` lacks of what any broker has; and of how many partitions it was in sync.
    pub fn standing(&self, node: &NodeState) -> (u64, usize) {
        let mut behind = 0;
        let mut in_sync = 0;
        for state in &self.partitions {
            let ends = self.nodes.iter().filter_map(|other| other.ends.get(&state.partition));
            let furthest = ends.max().map_or(0, |(_, end)| *end);
            let end = node.ends.get(&state.partition).map_or(0, |(_, end)| *end);
            behind += u64::try_from(furthest - end).unwrap_or(0);
            in_sync += usize::from(state.in_sync.contains(&node.node_id));
        }
        (behind, in_sync)
    }

    /// What may be lost of what was acknowledged if the node that was asked is promoted; `None` if nothing.
    pub fn loss(&self) -> Option<String> {
        if self.leader().is_some() {
            // It hands over what it has.
            return None;
        }
        for PartitionState { partition, replicas, min_insync, in_sync } in &self.partitions {
            if in_sync.is_empty() {
                return Some(format!(
                    "it is not known who was in sync of {partition}, the leader has not been heard since this follower was started"
                ));
            }
            let answering: Vec<&NodeState> =
                self.nodes.iter().filter(|node| node.error.is_none() && replicas.contains(&node.node_id)).collect();
            let needed = (replicas.len() + 1).saturating_sub((*min_insync).max(1));
            if answering.len() < needed {
                let was = if in_sync.contains(&self.node_id) {
                    "it was in sync when the leader was heard last, but later acknowledgements may be lost"
                } else {
                    "and it was not in sync when the leader was heard last"
                };
                return Some(format!(
                    "{} of {} replicas of {partition} answer, and {needed} would have to with min.insync.replicas={min_insync}: {was}",
                    answering.len(),
                    replicas.len()
                ));
            }
            let end = |node: &NodeState| node.ends.get(partition).copied().unwrap_or((-1, 0));
            let own = self.node().map_or((-1, 0), end);
            if let Some(ahead) = answering.iter().find(|node| end(node) > own) {
                return Some(format!(
                    "node {} at {} has more of {partition}: it ends at {} in epoch {}, and this one at {} in epoch {}",
                    ahead.node_id,
                    ahead.endpoint,
                    end(ahead).1,
                    end(ahead).0,
                    own.1,
                    own.0
                ));
            }
        }
        None
    }
}

/// Looks at the cluster from the broker at `endpoint`.
///
/// # Errors
/// `Unsupported` if it is no Ottla.
pub async fn survey(client: &Client, endpoint: &Endpoint) -> Result<Survey> {
    // Who is no Ottla says so before anything else is asked.
    standing_of(client, endpoint).await?;
    let request = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
    let metadata = client.within(ELECTION, client.call_endpoint(endpoint, request)).await?;
    let brokers: Vec<(i32, Endpoint)> = metadata
        .brokers
        .iter()
        .map(|broker| (broker.node_id, Endpoint::new(broker.host.clone(), u16::try_from(broker.port).unwrap_or(0))))
        .collect();
    let node_id = own_id(client, endpoint).await?;
    let mut brokers = brokers;
    if brokers.iter().all(|(known, _)| *known != node_id) {
        // It follows some topics alone, and its leader does not send clients there.
        brokers.push((node_id, endpoint.clone()));
    }
    let mut partitions: Vec<PartitionState> = metadata
        .topics
        .iter()
        .filter(|topic| !topic.is_internal && topic.error_code == ErrorCode::NONE)
        .flat_map(|topic| {
            let name = topic.name.clone().unwrap_or_default();
            topic.partitions.iter().map(move |partition| PartitionState {
                partition: TopicPartition::new(name.as_str(), partition.partition_index),
                replicas: partition.replica_nodes.clone(),
                in_sync: partition.isr_nodes.clone(),
                min_insync: 1,
            })
        })
        .collect();
    partitions.sort_by(|a, b| a.partition.cmp(&b.partition));
    let needed = min_insync(client, &partitions).await?;
    for state in &mut partitions {
        state.min_insync = needed.get(&*state.partition.topic).copied().unwrap_or(1);
    }
    let nodes = brokers.into_iter().map(|(node_id_here, known)| {
        let at = if node_id_here == node_id { endpoint.clone() } else { known.clone() };
        let partitions = &partitions;
        async move {
            let (leader, leader_epoch, ends, error) = match look(client, &at, partitions).await {
                Ok(((leader, epoch), ends)) => (Some(leader), epoch, ends, None),
                Err(error) => (None, -1, BTreeMap::new(), Some(error.to_string())),
            };
            NodeState { node_id: node_id_here, endpoint: known, leader, leader_epoch, ends, error }
        }
    });
    let nodes = join_all(nodes).await;
    Ok(Survey { node_id, nodes, partitions })
}

/// Makes the broker at `endpoint` the leader: from the leader's hand if `unclean` is false, and with whatever it has if it is true.
/// Whether it was not the leader before.
///
/// # Errors
/// The broker's, if it is not promoted.
pub async fn promote(client: &Client, endpoint: &Endpoint, unclean: bool) -> Result<bool> {
    let request = ElectLeadersRequest {
        election_type: i8::from(unclean),
        topic_partitions: None,
        timeout_ms: i32::try_from(ELECTION.as_millis()).unwrap_or(i32::MAX),
    };
    let response = client.within(ELECTION, client.call_endpoint(endpoint, request)).await?;
    let results = response.replica_election_results.iter().flat_map(|topic| &topic.partition_result);
    let mut promoted = true;
    for result in results {
        match result.error_code {
            ErrorCode::NONE => {}
            ErrorCode::ELECTION_NOT_NEEDED => promoted = false,
            code => {
                let message = result.error_message.clone().unwrap_or_else(|| code.message().to_owned());
                return Err(Error::from_code(code, message));
            }
        }
    }
    match response.error_code {
        ErrorCode::NONE => Ok(promoted),
        code => Err(Error::from_code(code, code.message())),
    }
}

async fn min_insync(client: &Client, partitions: &[PartitionState]) -> Result<BTreeMap<String, usize>> {
    let mut topics: Vec<&str> = partitions.iter().map(|state| &*state.partition.topic).collect();
    topics.dedup();
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    const NAME: &str = "min.insync.replicas";
    let resource = |topic: &&str| (ConfigResource::Topic((*topic).to_owned()), Some(vec![NAME.to_owned()]));
    let resources: Vec<_> = topics.iter().map(resource).collect();
    let described = Admin::new(client.clone()).describe_configs(&resources, ELECTION).await?;
    let mut needed = BTreeMap::new();
    for (resource, entries) in described {
        let entry = entries?.into_iter().find(|entry| entry.name == NAME);
        let value = entry.and_then(|entry| entry.value).and_then(|value| value.parse().ok());
        if let ConfigResource::Topic(topic) = resource {
            needed.insert(topic.to_string(), value.unwrap_or(1));
        }
    }
    Ok(needed)
}

/// The node id of the broker at `endpoint`: which it is of those that it tells of.
async fn own_id(client: &Client, endpoint: &Endpoint) -> Result<i32> {
    const NAME: &str = "broker.id";
    let resource = DescribeConfigsResource {
        resource_type: BROKER_RESOURCE,
        resource_name: String::new(),
        configuration_keys: Some(vec![NAME.to_owned()]),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let response = client.within(PATIENCE, client.call_endpoint(endpoint, request)).await?;
    let entries = response.results.iter().flat_map(|result| &result.configs);
    let value = entries.into_iter().find(|entry| entry.name == NAME).and_then(|entry| entry.value.as_ref());
    value.and_then(|value| value.parse().ok()).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("a broker did not say which one it is broker={endpoint}"))
    })
}

/// Whom a broker takes for the leader, and the leader epoch that it is in.
async fn standing_of(client: &Client, endpoint: &Endpoint) -> Result<(i32, i32)> {
    let asked = client.within(PATIENCE, client.call_endpoint(endpoint, VoteRequest::default())).await;
    let response = asked.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => {
            Error::new(ErrorKind::Unsupported, format!("the broker is no Ottla, and only Ottla's brokers tell whom they follow and are promoted broker={endpoint}"))
        }
        _ => error,
    })?;
    let answer = response.topics.first().and_then(|topic| topic.partitions.first());
    let answer = answer.ok_or_else(|| {
        let message = format!("a broker did not say whom it follows broker={endpoint}");
        Error::new(ErrorKind::Corrupt, message)
    })?;
    Ok((answer.leader_id, answer.leader_epoch))
}

type Look = ((i32, i32), BTreeMap<TopicPartition, (i32, i64)>);

async fn look(client: &Client, endpoint: &Endpoint, partitions: &[PartitionState]) -> Result<Look> {
    let standing = standing_of(client, endpoint).await?;
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    for PartitionState { partition, .. } in partitions {
        if topics.last().is_none_or(|last| *last.name != *partition.topic) {
            topics.push(ListOffsetsTopic { name: partition.topic.to_string(), partitions: Vec::new() });
        }
        if let Some(topic) = topics.last_mut() {
            let partition_index = partition.partition;
            topic.partitions.push(ListOffsetsPartition { partition_index, current_leader_epoch: -1, timestamp: -1 });
        }
    }
    let request = ListOffsetsRequest { replica_id: DEBUGGER, topics, ..Default::default() };
    let response = client.within(PATIENCE, client.call_endpoint(endpoint, request)).await?;
    let answers = response.topics.into_iter().flat_map(|topic| {
        let name = topic.name;
        topic
            .partitions
            .into_iter()
            .map(move |answer| (TopicPartition::new(name.as_str(), answer.partition_index), answer))
    });
    let ends = answers
        .filter(|(_, answer)| answer.error_code == ErrorCode::NONE)
        .map(|(partition, answer)| (partition, (answer.leader_epoch, answer.offset)))
        .collect();
    Ok((standing, ends))
}
