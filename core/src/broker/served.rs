//! What the broker serves, and the checks of a request that need no broker.

use super::produce::Produce;
use crate::protocol::connection::Served;
use crate::protocol::{ApiKey, Request};

/// The APIs that the broker serves, with the lowest and highest version of each.
///
/// Topic ids in Produce and Fetch (their versions 13) are optional for clients and not served; neither are the features that
/// would make clients expect the second transaction protocol.
pub const SERVED: &[Served] = &[
    (ApiKey::PRODUCE, 3, 11),
    (ApiKey::FETCH, 4, 12),
    (ApiKey::LIST_OFFSETS, 1, 8),
    (ApiKey::METADATA, 0, 12),
    (ApiKey::OFFSET_COMMIT, 2, 8),
    (ApiKey::OFFSET_FETCH, 1, 8),
    (ApiKey::FIND_COORDINATOR, 0, 4),
    (ApiKey::JOIN_GROUP, 0, 9),
    (ApiKey::HEARTBEAT, 0, 4),
    (ApiKey::LEAVE_GROUP, 0, 5),
    (ApiKey::SYNC_GROUP, 0, 5),
    (ApiKey::DESCRIBE_GROUPS, 0, 5),
    (ApiKey::LIST_GROUPS, 0, 5),
    (ApiKey::API_VERSIONS, 0, 4),
    (ApiKey::CREATE_TOPICS, 2, 7),
    (ApiKey::DELETE_TOPICS, 1, 6),
    (ApiKey::DELETE_RECORDS, 0, 2),
    (ApiKey::INIT_PRODUCER_ID, 0, 4),
    (ApiKey::OFFSET_FOR_LEADER_EPOCH, 2, 4),
    (ApiKey::DESCRIBE_ACLS, 1, 3),
    (ApiKey::DESCRIBE_CONFIGS, 1, 4),
    (ApiKey::ALTER_CONFIGS, 0, 2),
    (ApiKey::DESCRIBE_LOG_DIRS, 1, 4),
    (ApiKey::CREATE_PARTITIONS, 0, 3),
    (ApiKey::DELETE_GROUPS, 0, 2),
    (ApiKey::ELECT_LEADERS, 0, 2),
    (ApiKey::INCREMENTAL_ALTER_CONFIGS, 0, 1),
    (ApiKey::LIST_PARTITION_REASSIGNMENTS, 0, 0),
    (ApiKey::OFFSET_DELETE, 0, 0),
    (ApiKey::VOTE, 0, 2),
    (ApiKey::BEGIN_QUORUM_EPOCH, 1, 1),
    (ApiKey::DESCRIBE_CLUSTER, 0, 1),
    (ApiKey::DESCRIBE_PRODUCERS, 0, 0),
    (ApiKey::BROKER_REGISTRATION, 0, 4),
    (ApiKey::DESCRIBE_TOPIC_PARTITIONS, 0, 0),
];

/// Whether the broker serves an API.
pub fn serves(api: ApiKey) -> bool {
    SERVED.iter().any(|(served, ..)| *served == api)
}

/// A request, checked as far as that needs no broker: so the broker's lock is not held for it.
#[derive(Debug)]
pub enum Incoming {
    /// A Produce whose batches were checked.
    Produce(Produce),
    /// Anything else.
    Other(Request),
}

impl Incoming {
    /// Checks `request`, decompressing no batch beyond `max_decompressed_bytes`.
    pub fn check(request: Request, max_decompressed_bytes: usize) -> Self {
        match request {
            Request::Produce(request) => Self::Produce(Produce::check(request, max_decompressed_bytes)),
            other => Self::Other(other),
        }
    }
}
