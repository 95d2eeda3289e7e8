//! What mirroring costs: the bytes that each broker stores, and how long producers wait.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use super::promotion::Survey;
use crate::broker::AckLatency;
use crate::client::Client;
use crate::protocol::ErrorCode;
use crate::protocol::messages::describe_configs::DescribeConfigsResource;
use crate::protocol::messages::{DescribeConfigsRequest, DescribeLogDirsRequest};
use crate::transport::Endpoint;
use crate::{Error, Result};

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The number of brokers among what has a configuration.
const BROKER_RESOURCE: i8 = 4;

/// What mirroring costs, as the brokers of a cluster tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// For each broker that answers the bytes of its topics' logs, without internal topics.
    pub stored: BTreeMap<i32, u64>,
    /// How long producers have waited for `acks=all` at the leader since it was opened; `None` if no leader answers.
    pub latency: Option<AckLatency>,
    /// Who leads.
    pub leader: Option<i32>,
}

impl Costs {
    /// Bytes stored by all brokers for each byte that the leader has of what was produced; `None` if it has none.
    pub fn stored_for_each_byte(&self) -> Option<f64> {
        let produced = self.leader.and_then(|leader| self.stored.get(&leader)).filter(|bytes| **bytes > 0)?;
        Some(self.stored.values().sum::<u64>() as f64 / *produced as f64)
    }
}

/// Asks every broker that was `seen` from the one at `endpoint` what it costs.
///
/// # Errors
/// A broker that answered before does not any more.
pub async fn costs(client: &Client, endpoint: &Endpoint, seen: &Survey) -> Result<Costs> {
    let leader = seen.leader().map(|node| node.node_id);
    let answering = seen.nodes.iter().filter(|node| node.error.is_none());
    let asked = answering.map(|node| async move {
        // The one that was asked may be reached at another address than the one that it gives.
        let at = if node.node_id == seen.node_id { endpoint } else { &node.endpoint };
        let latency = match leader == Some(node.node_id) {
            true => Some(latency(client, at, node.node_id).await?),
            false => None,
        };
        Ok::<_, Error>((node.node_id, stored(client, at, seen).await?, latency))
    });
    let mut costs = Costs { leader, ..Costs::default() };
    for answer in join_all(asked).await {
        let (node_id, bytes, latency) = answer?;
        costs.stored.insert(node_id, bytes);
        costs.latency = costs.latency.or(latency);
    }
    Ok(costs)
}

async fn stored(client: &Client, endpoint: &Endpoint, seen: &Survey) -> Result<u64> {
    let request = DescribeLogDirsRequest { topics: None };
    let response = client.within(PATIENCE, client.call_endpoint(endpoint, request)).await?;
    let topics = response.results.iter().flat_map(|result| &result.topics);
    let shown = topics.filter(|topic| seen.partitions.iter().any(|known| *known.partition.topic == *topic.name));
    Ok(shown.flat_map(|topic| &topic.partitions).filter_map(|it| u64::try_from(it.partition_size).ok()).sum())
}

async fn latency(client: &Client, endpoint: &Endpoint, node_id: i32) -> Result<AckLatency> {
    let resource = DescribeConfigsResource {
        resource_type: BROKER_RESOURCE,
        resource_name: node_id.to_string(),
        configuration_keys: Some(AckLatency::names()),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let response = client.within(PATIENCE, client.call_endpoint(endpoint, request)).await?;
    if let Some(refused) = response.results.iter().find(|result| result.error_code != ErrorCode::NONE) {
        let message = refused.error_message.clone().unwrap_or_else(|| refused.error_code.message().to_owned());
        return Err(Error::from_code(refused.error_code, message));
    }
    let entries = response.results.iter().flat_map(|result| &result.configs);
    Ok(AckLatency::from_entries(entries.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)))))
}
