//! Kafka's error codes.

use std::fmt;

use crate::ErrorKind::{self, *};

/// A code that a broker answers with; 0 is success. (Kafka protocol guide, "Error Codes".)
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i16);

/// What Kafka's clients do with a code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It stays an error if the request is sent again.
    Final,
    /// The same request may succeed later.
    Again,
    /// The same request may succeed later, after asking for metadata anew.
    Metadata,
}

use Class::{Again, Final, Metadata};

struct Entry {
    code: i16,
    name: &'static str,
    class: Class,
    kind: ErrorKind,
    message: &'static str,
}

macro_rules! codes {
    ($($code:literal $name:ident $class:ident $kind:ident $message:literal)*) => {
        impl ErrorCode {
            $(
                #[doc = concat!("Code ", $code, ": ", $message, ".")]
                pub const $name: Self = Self($code);
            )*

            /// Every code that Kafka has given a name, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }

        /// In ascending order and without gaps.
        const TABLE: &[Entry] = &[$(
            Entry { code: $code, name: stringify!($name), class: $class, kind: $kind, message: $message },
        )*];
    };
}

impl ErrorCode {
    /// The code with Kafka's `name`, such as `NOT_COORDINATOR`.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|entry| entry.name == name).map(|entry| Self(entry.code))
    }

    fn entry(self) -> Option<&'static Entry> {
        let first = TABLE.first()?.code;
        let entry = TABLE.get(usize::try_from(i32::from(self.0) - i32::from(first)).ok()?)?;
        debug_assert_eq!(entry.code, self.0);
        Some(entry)
    }

    /// Kafka's name; `UNKNOWN_SERVER_ERROR` for a code that we do not know, as Kafka's clients have it.
    pub fn name(self) -> &'static str {
        self.entry().map_or("UNKNOWN_SERVER_ERROR", |entry| entry.name)
    }

    /// What the code means, in a few words.
    pub fn message(self) -> &'static str {
        self.entry().map_or("the broker gave a code that this version does not know", |entry| entry.message)
    }

    /// Whether it is success.
    pub fn is_ok(self) -> bool {
        self == Self::NONE
    }

    /// Success as `Ok`, anything else as an error.
    ///
    /// # Errors
    /// The code itself.
    pub fn ok(self) -> Result<(), Self> {
        if self.is_ok() { Ok(()) } else { Err(self) }
    }

    /// What a caller can do about it.
    pub fn kind(self) -> ErrorKind {
        self.entry().map_or(Internal, |entry| entry.kind)
    }

    /// Whether Kafka classifies the code as retriable.
    pub fn is_retriable(self) -> bool {
        self.entry().is_some_and(|entry| entry.class != Final)
    }

    /// Whether the code says that what the client knows of leaders and partitions is out of date.
    pub fn is_invalid_metadata(self) -> bool {
        self.entry().is_some_and(|entry| entry.class == Metadata)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry() {
            Some(entry) => f.write_str(entry.name),
            None => write!(f, "code {}", self.0),
        }
    }
}

impl From<ErrorCode> for crate::Error {
    fn from(code: ErrorCode) -> Self {
        Self::from_code(code, format!("{} code={code}", code.message()))
    }
}

// What Kafka calls retriable is `Again`, or `Metadata` where it also calls the metadata invalid. The kind is Ottla's.
codes! {
    -1 UNKNOWN_SERVER_ERROR Final Internal "the broker failed in a way that has no code"
    0 NONE Final Internal "success"
    1 OFFSET_OUT_OF_RANGE Final OutOfRange "the offset is below the log start or above the end"
    2 CORRUPT_MESSAGE Again Corrupt "a batch has a wrong checksum or size, or a compacted topic's record has no key"
    3 UNKNOWN_TOPIC_OR_PARTITION Metadata NotFound "the broker does not have this topic or partition"
    4 INVALID_FETCH_SIZE Final Invalid "the size asked for in a fetch is not valid"
    5 LEADER_NOT_AVAILABLE Metadata Retriable "the partition has no leader at the moment"
    6 NOT_LEADER_OR_FOLLOWER Metadata Retriable "the broker does not lead the partition, or has no replica of it"
    7 REQUEST_TIMED_OUT Again Timeout "the broker gave up waiting"
    8 BROKER_NOT_AVAILABLE Final Retriable "the broker is not there"
    9 REPLICA_NOT_AVAILABLE Metadata Retriable "the partition's replica is not there"
    10 MESSAGE_TOO_LARGE Final Invalid "a batch is larger than the topic takes"
    11 STALE_CONTROLLER_EPOCH Final Fenced "another controller has taken over"
    12 OFFSET_METADATA_TOO_LARGE Final Invalid "the text committed with an offset is too long"
    13 NETWORK_EXCEPTION Metadata Retriable "the connection ended before the answer came"
    14 COORDINATOR_LOAD_IN_PROGRESS Again Retriable "the coordinator is still loading its state"
    15 COORDINATOR_NOT_AVAILABLE Again Retriable "there is no coordinator at the moment"
    16 NOT_COORDINATOR Again Retriable "another broker is the coordinator"
    17 INVALID_TOPIC_EXCEPTION Final Invalid "the topic's name is not valid, or the operation is not allowed on this topic"
    18 RECORD_LIST_TOO_LARGE Final Invalid "a batch is larger than a segment may be"
    19 NOT_ENOUGH_REPLICAS Again Retriable "fewer replicas are in sync than the topic requires; nothing was written"
    20 NOT_ENOUGH_REPLICAS_AFTER_APPEND Again Retriable "it was written, but fewer replicas have it than the topic requires"
    21 INVALID_REQUIRED_ACKS Final Invalid "acks is not one of -1, 0, 1"
    22 ILLEGAL_GENERATION Final Fenced "the group has gone on to another generation"
    23 INCONSISTENT_GROUP_PROTOCOL Final Invalid "the member shares no protocol with the others in the group"
    24 INVALID_GROUP_ID Final Invalid "the group id is not valid"
    25 UNKNOWN_MEMBER_ID Final Fenced "the group does not have this member"
    26 INVALID_SESSION_TIMEOUT Final Invalid "the session timeout is outside of what the broker allows"
    27 REBALANCE_IN_PROGRESS Final Retriable "the group is rebalancing: join again"
    28 INVALID_COMMIT_OFFSET_SIZE Final Invalid "the committed offsets take more room than a record may"
    29 TOPIC_AUTHORIZATION_FAILED Final Denied "not allowed on this topic"
    30 GROUP_AUTHORIZATION_FAILED Final Denied "not allowed on this group"
    31 CLUSTER_AUTHORIZATION_FAILED Final Denied "not allowed on this cluster"
    32 INVALID_TIMESTAMP Final Invalid "a record's timestamp is outside of what the topic allows"
    33 UNSUPPORTED_SASL_MECHANISM Final Unsupported "the broker does not offer this SASL mechanism"
    34 ILLEGAL_SASL_STATE Final Denied "the request does not fit the state of the authentication"
    35 UNSUPPORTED_VERSION Final Unsupported "the broker does not have this version of the request"
    36 TOPIC_ALREADY_EXISTS Final AlreadyExists "there is a topic with this name already"
    37 INVALID_PARTITIONS Final Invalid "the number of partitions is not valid"
    38 INVALID_REPLICATION_FACTOR Final Invalid "the replication factor is below 1 or above the number of brokers"
    39 INVALID_REPLICA_ASSIGNMENT Final Invalid "the replicas cannot be placed so"
    40 INVALID_CONFIG Final Invalid "a configuration value is not valid"
    41 NOT_CONTROLLER Again Retriable "another broker is the controller"
    42 INVALID_REQUEST Final Invalid "the request makes no sense to the broker"
    43 UNSUPPORTED_FOR_MESSAGE_FORMAT Final Unsupported "the topic's record format cannot do this"
    44 POLICY_VIOLATION Final Denied "a policy of the broker forbids it"
    45 OUT_OF_ORDER_SEQUENCE_NUMBER Final Invalid "a producer's batch does not follow the one before it"
    46 DUPLICATE_SEQUENCE_NUMBER Final AlreadyExists "a producer's batch was written before"
    47 INVALID_PRODUCER_EPOCH Final Fenced "a newer producer with the same id has taken over"
    48 INVALID_TXN_STATE Final Invalid "the transaction is not in a state that allows this"
    49 INVALID_PRODUCER_ID_MAPPING Final Fenced "the transactional id belongs to another producer id now"
    50 INVALID_TRANSACTION_TIMEOUT Final Invalid "the transaction timeout is longer than the broker allows"
    51 CONCURRENT_TRANSACTIONS Again Retriable "the transaction before is still being completed"
    52 TRANSACTION_COORDINATOR_FENCED Final Fenced "another transaction coordinator has taken over"
    53 TRANSACTIONAL_ID_AUTHORIZATION_FAILED Final Denied "not allowed with this transactional id"
    54 SECURITY_DISABLED Final Unsupported "the broker has no authorizer"
    55 OPERATION_NOT_ATTEMPTED Final Retriable "not tried, because another part of the request failed"
    56 KAFKA_STORAGE_ERROR Metadata Retriable "the broker could not read or write its disk"
    57 LOG_DIR_NOT_FOUND Final NotFound "the broker has no such log directory"
    58 SASL_AUTHENTICATION_FAILED Final Denied "authentication failed"
    59 UNKNOWN_PRODUCER_ID Final Invalid "the broker has nothing of this producer id any more"
    60 REASSIGNMENT_IN_PROGRESS Final Retriable "the partition is being moved"
    61 DELEGATION_TOKEN_AUTH_DISABLED Final Unsupported "delegation tokens are off"
    62 DELEGATION_TOKEN_NOT_FOUND Final NotFound "there is no such delegation token"
    63 DELEGATION_TOKEN_OWNER_MISMATCH Final Denied "the delegation token belongs to somebody else"
    64 DELEGATION_TOKEN_REQUEST_NOT_ALLOWED Final Denied "delegation tokens cannot be asked for on this connection"
    65 DELEGATION_TOKEN_AUTHORIZATION_FAILED Final Denied "not allowed on this delegation token"
    66 DELEGATION_TOKEN_EXPIRED Final Denied "the delegation token has expired"
    67 INVALID_PRINCIPAL_TYPE Final Invalid "principals of this type are not supported"
    68 NON_EMPTY_GROUP Final Invalid "the group has members"
    69 GROUP_ID_NOT_FOUND Final NotFound "there is no such group"
    70 FETCH_SESSION_ID_NOT_FOUND Again Retriable "the broker has forgotten the fetch session"
    71 INVALID_FETCH_SESSION_EPOCH Again Retriable "the fetch session is at another step"
    72 LISTENER_NOT_FOUND Metadata Retriable "the leader has no listener of the kind that was asked on"
    73 TOPIC_DELETION_DISABLED Final Denied "the broker does not delete topics"
    74 FENCED_LEADER_EPOCH Metadata Fenced "the leader epoch is older than the broker's"
    75 UNKNOWN_LEADER_EPOCH Again Retriable "the leader epoch is newer than the broker's"
    76 UNSUPPORTED_COMPRESSION_TYPE Final Unsupported "the request's version does not have this compression"
    77 STALE_BROKER_EPOCH Final Fenced "the broker has registered anew since"
    78 OFFSET_NOT_AVAILABLE Again Retriable "a new leader does not know yet how far its log is replicated"
    79 MEMBER_ID_REQUIRED Final Retriable "join again with the member id that was given"
    80 PREFERRED_LEADER_NOT_AVAILABLE Metadata Retriable "the preferred leader is not there"
    81 GROUP_MAX_SIZE_REACHED Final Full "the group has as many members as it may"
    82 FENCED_INSTANCE_ID Final Fenced "another member with the same group instance id has taken over"
    83 ELIGIBLE_LEADERS_NOT_AVAILABLE Metadata Retriable "no replica that may lead is there"
    84 ELECTION_NOT_NEEDED Metadata Retriable "the partition has the leader that it should have"
    85 NO_REASSIGNMENT_IN_PROGRESS Final NotFound "the partition is not being moved"
    86 GROUP_SUBSCRIBED_TO_TOPIC Final Invalid "the group reads the topic whose offsets were to be deleted"
    87 INVALID_RECORD Final Invalid "the broker refused a record"
    88 UNSTABLE_OFFSET_COMMIT Again Retriable "a transaction that commits offsets is still open"
    89 THROTTLING_QUOTA_EXCEEDED Again Retriable "a quota is used up for the moment"
    90 PRODUCER_FENCED Final Fenced "a newer producer with the same transactional id has taken over"
    91 RESOURCE_NOT_FOUND Final NotFound "there is no such resource"
    92 DUPLICATE_RESOURCE Final Invalid "the request names a resource twice"
    93 UNACCEPTABLE_CREDENTIAL Final Invalid "the credential is weaker than the broker accepts"
    94 INCONSISTENT_VOTER_SET Final Invalid "sender or receiver is not among the voters"
    95 INVALID_UPDATE_VERSION Final Invalid "the version of an update is not valid"
    96 FEATURE_UPDATE_FAILED Final Internal "the broker failed to update its features"
    97 PRINCIPAL_DESERIALIZATION_FAILURE Final Internal "the broker could not read the principal of a forwarded request"
    98 SNAPSHOT_NOT_FOUND Final NotFound "there is no such snapshot of the metadata log"
    99 POSITION_OUT_OF_RANGE Final OutOfRange "the position is outside of the snapshot of the metadata log"
    100 UNKNOWN_TOPIC_ID Metadata NotFound "the broker does not have a topic with this id"
    101 DUPLICATE_BROKER_REGISTRATION Final AlreadyExists "there is a broker with this id already"
    102 BROKER_ID_NOT_REGISTERED Final NotFound "there is no broker with this id"
    103 INCONSISTENT_TOPIC_ID Metadata Retriable "the topic has another id than the request says"
    104 INCONSISTENT_CLUSTER_ID Final Invalid "the cluster has another id than the request says"
    105 TRANSACTIONAL_ID_NOT_FOUND Final NotFound "there is no such transactional id"
    106 FETCH_SESSION_TOPIC_ID_ERROR Again Retriable "the fetch session mixes requests with and without topic ids"
    107 INELIGIBLE_REPLICA Final Invalid "a replica may not be counted as in sync"
    108 NEW_LEADER_ELECTED Final Fenced "the change was made, and the partition has a new leader"
    109 OFFSET_MOVED_TO_TIERED_STORAGE Final OutOfRange "the offset is in tiered storage only"
    110 FENCED_MEMBER_EPOCH Final Fenced "the member's epoch is out of date: give up its partitions and join again"
    111 UNRELEASED_INSTANCE_ID Final AlreadyExists "another member still has this group instance id"
    112 UNSUPPORTED_ASSIGNOR Final Unsupported "the group does not have this assignor"
    113 STALE_MEMBER_EPOCH Final Retriable "the member's epoch has moved on: try again with the next heartbeat's"
    114 MISMATCHED_ENDPOINT_TYPE Final Invalid "the request belongs to the other kind of endpoint, broker or controller"
    115 UNSUPPORTED_ENDPOINT_TYPE Final Unsupported "endpoints of this kind are not supported"
    116 UNKNOWN_CONTROLLER_ID Final NotFound "there is no controller with this id"
    117 UNKNOWN_SUBSCRIPTION_ID Final NotFound "the telemetry subscription is out of date"
    118 TELEMETRY_TOO_LARGE Final Invalid "there is more telemetry than the broker takes"
    119 INVALID_REGISTRATION Final Invalid "the controller refused the broker's registration"
    120 TRANSACTION_ABORTABLE Final Invalid "the transaction has to be aborted; the producer can go on after that"
    121 INVALID_RECORD_STATE Final Invalid "the record cannot be acknowledged as it is"
    122 SHARE_SESSION_NOT_FOUND Again Retriable "the broker has forgotten the share session"
    123 INVALID_SHARE_SESSION_EPOCH Again Retriable "the share session is at another step"
    124 FENCED_STATE_EPOCH Final Fenced "the share coordinator's state is at another epoch"
    125 INVALID_VOTER_KEY Final Invalid "the voter's key is not the receiver's"
    126 DUPLICATE_VOTER Final AlreadyExists "the voter is one already"
    127 VOTER_NOT_FOUND Final NotFound "there is no such voter"
    128 INVALID_REGULAR_EXPRESSION Final Invalid "the regular expression is not valid"
    129 REBOOTSTRAP_REQUIRED Final Retriable "start again from the bootstrap servers"
    130 STREAMS_INVALID_TOPOLOGY Final Invalid "the streams topology is not valid"
    131 STREAMS_INVALID_TOPOLOGY_EPOCH Final Invalid "the streams topology's epoch is not valid"
    132 STREAMS_TOPOLOGY_FENCED Final Fenced "the streams topology is out of date"
    133 SHARE_SESSION_LIMIT_REACHED Again Retriable "the broker has as many share sessions as it may"
    134 GROUP_DELETION_FAILED Final Internal "the group was not deleted; its own message says why"
    135 STREAMS_TOPOLOGY_DESCRIPTION_UPDATE_FAILED Final Internal "the description of the streams topology was not updated"
    136 CONTROLLER_ID_NOT_REGISTERED Final NotFound "there is no controller with this id"
}
