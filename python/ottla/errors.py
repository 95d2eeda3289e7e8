"""What can go wrong: kafka-python's exceptions, and Ottla's own.

A broker answers with a number, and each number has a class: `for_code(36)` is `TopicAlreadyExistsError`. The names and
the tree are kafka-python 3's, so that `except` clauses go on working; names of kafka-python 1 and 2 that meant the
same are aliases. What a code means (`description`) comes from the core's table of codes, and so do the classes of
codes that are newer than this file.

`OttlaError` and its subclasses are for what no broker said: one for each kind of the core's error. Each is also the
exception of kafka-python, or of Python, that a caller would expect (`TimedOutError` is a `KafkaTimeoutError` and a
`TimeoutError`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ottla import _ottla

if TYPE_CHECKING:
    from ottla.structs import OffsetAndMetadata, TopicPartition


class KafkaError(Exception):
    """The base of every exception that Ottla raises on its own account."""

    retriable: ClassVar[bool] = False
    """Whether the same call may succeed later."""
    invalid_metadata: ClassVar[bool] = False
    """Whether the client has to ask anew where a partition's leader is."""

    def __str__(self) -> str:
        if not self.args:
            return type(self).__name__
        return f"{type(self).__name__}: {super().__str__()}"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.args == getattr(other, "args", None)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))


class RetriableError(KafkaError):
    """The same call may succeed later."""

    retriable = True


class InvalidMetadataError(RetriableError):
    """The client's picture of the cluster is out of date; it is fetched anew before the next try."""

    invalid_metadata = True


class Cancelled(RetriableError):
    """The request was given up before its answer came."""


class CommitFailedError(KafkaError):
    """The group gave these partitions to another member before the offsets were committed."""

    def __init__(self, *args: Any) -> None:
        if not args:
            message = (
                "the group has rebalanced and given the partitions to another member: call poll() more often,"
                " raise max_poll_interval_ms, or lower max_poll_records"
            )
            args = (message,)
        super().__init__(*args)


class IllegalArgumentError(KafkaError):
    """An argument that cannot be meant."""


class IllegalStateError(KafkaError):
    """The call does not fit what was called before, such as a send after close."""


class KafkaConfigurationError(KafkaError):
    """An option is unknown, has a wrong value, or contradicts another."""


class KafkaConnectionError(InvalidMetadataError):
    """A broker could not be reached, or closed the connection."""


class KafkaProtocolError(KafkaError):
    """A broker answered something that is not Kafka's protocol."""


class CorrelationIdError(RetriableError, KafkaProtocolError):
    """A broker answered a request that was not asked."""


class InvalidReceiveError(KafkaProtocolError):
    """A frame with an impossible length."""


class KafkaTimeoutError(RetriableError):
    """The time given to the call ran out."""


class MetadataEmptyBrokerList(RetriableError):
    """A broker named no brokers at all."""


class NoOffsetForPartitionError(KafkaError):
    """The group has no committed offset there, and `auto_offset_reset` says to raise."""


class LogTruncationError(KafkaError):
    """The broker's log was cut below what this consumer has read already.

    `divergent_offsets` has, for each partition, the offset up to which both agree; seek there to go on.
    """

    def __init__(self, divergent_offsets: dict[TopicPartition, OffsetAndMetadata] | None = None, *args: Any) -> None:
        self.divergent_offsets = divergent_offsets
        super().__init__(divergent_offsets, *args)


class NodeNotReadyError(RetriableError):
    """The connection to this broker is not up yet."""


class UnknownBrokerIdError(KafkaError):
    """No broker with this id is known."""


class QuotaViolationError(KafkaError):
    """A metric passed the bound of its quota."""


class StaleMetadata(InvalidMetadataError):
    """The client's picture of the cluster is out of date."""


class TooManyInFlightRequests(RetriableError):
    """The connection has as many unanswered requests as it may have."""


class UnrecognizedBrokerVersion(KafkaError):
    """The broker's version could not be found out."""


class UnsupportedCodecError(KafkaError):
    """A batch is compressed in a way that is not known."""


class TransactionAbortedError(KafkaError):
    """The record was given up because its transaction was aborted."""

    message = "the transaction was aborted before the record was sent"


class BrokerResponseError(KafkaError):
    """A broker answered with an error code."""

    errno: ClassVar[int | None] = None
    """The code."""
    message: ClassVar[str | None] = None
    """The code's name."""
    description: ClassVar[str | None] = None
    """What the code means."""

    def __str__(self) -> str:
        return f"[Error {self.errno}] {super().__str__()}"


class AuthorizationError(BrokerResponseError):
    """The user may not do this."""


class UnknownError(BrokerResponseError):
    """Error -1 of a broker."""

    errno = -1
    message = "UNKNOWN"


class NoError(BrokerResponseError):
    """Error 0 of a broker."""

    errno = 0
    message = "NO_ERROR"


class OffsetOutOfRangeError(BrokerResponseError):
    """Error 1 of a broker."""

    errno = 1
    message = "OFFSET_OUT_OF_RANGE"


class CorruptRecordError(BrokerResponseError):
    """Error 2 of a broker."""

    errno = 2
    message = "CORRUPT_MESSAGE"


class UnknownTopicOrPartitionError(InvalidMetadataError, BrokerResponseError):
    """Error 3 of a broker."""

    errno = 3
    message = "UNKNOWN_TOPIC_OR_PARTITION"


class InvalidFetchRequestError(BrokerResponseError):
    """Error 4 of a broker."""

    errno = 4
    message = "INVALID_FETCH_SIZE"


class LeaderNotAvailableError(InvalidMetadataError, BrokerResponseError):
    """Error 5 of a broker."""

    errno = 5
    message = "LEADER_NOT_AVAILABLE"


class NotLeaderForPartitionError(InvalidMetadataError, BrokerResponseError):
    """Error 6 of a broker."""

    errno = 6
    message = "NOT_LEADER_FOR_PARTITION"


class RequestTimedOutError(RetriableError, BrokerResponseError):
    """Error 7 of a broker."""

    errno = 7
    message = "REQUEST_TIMED_OUT"


class BrokerNotAvailableError(BrokerResponseError):
    """Error 8 of a broker."""

    errno = 8
    message = "BROKER_NOT_AVAILABLE"


class ReplicaNotAvailableError(InvalidMetadataError, BrokerResponseError):
    """Error 9 of a broker."""

    errno = 9
    message = "REPLICA_NOT_AVAILABLE"


class MessageSizeTooLargeError(BrokerResponseError):
    """Error 10 of a broker."""

    errno = 10
    message = "MESSAGE_SIZE_TOO_LARGE"


class StaleControllerEpochError(BrokerResponseError):
    """Error 11 of a broker."""

    errno = 11
    message = "STALE_CONTROLLER_EPOCH"


class OffsetMetadataTooLargeError(BrokerResponseError):
    """Error 12 of a broker."""

    errno = 12
    message = "OFFSET_METADATA_TOO_LARGE"


class NetworkExceptionError(InvalidMetadataError, BrokerResponseError):
    """Error 13 of a broker."""

    errno = 13
    message = "NETWORK_EXCEPTION"


class CoordinatorLoadInProgressError(RetriableError, BrokerResponseError):
    """Error 14 of a broker."""

    errno = 14
    message = "COORDINATOR_LOAD_IN_PROGRESS"


class CoordinatorNotAvailableError(RetriableError, BrokerResponseError):
    """Error 15 of a broker."""

    errno = 15
    message = "COORDINATOR_NOT_AVAILABLE"


class NotCoordinatorError(RetriableError, BrokerResponseError):
    """Error 16 of a broker."""

    errno = 16
    message = "NOT_COORDINATOR"


class InvalidTopicError(BrokerResponseError):
    """Error 17 of a broker."""

    errno = 17
    message = "INVALID_TOPIC"


class RecordListTooLargeError(BrokerResponseError):
    """Error 18 of a broker."""

    errno = 18
    message = "RECORD_LIST_TOO_LARGE"


class NotEnoughReplicasError(RetriableError, BrokerResponseError):
    """Error 19 of a broker."""

    errno = 19
    message = "NOT_ENOUGH_REPLICAS"


class NotEnoughReplicasAfterAppendError(RetriableError, BrokerResponseError):
    """Error 20 of a broker."""

    errno = 20
    message = "NOT_ENOUGH_REPLICAS_AFTER_APPEND"


class InvalidRequiredAcksError(BrokerResponseError):
    """Error 21 of a broker."""

    errno = 21
    message = "INVALID_REQUIRED_ACKS"


class IllegalGenerationError(BrokerResponseError):
    """Error 22 of a broker."""

    errno = 22
    message = "ILLEGAL_GENERATION"


class InconsistentGroupProtocolError(BrokerResponseError):
    """Error 23 of a broker."""

    errno = 23
    message = "INCONSISTENT_GROUP_PROTOCOL"


class InvalidGroupIdError(BrokerResponseError):
    """Error 24 of a broker."""

    errno = 24
    message = "INVALID_GROUP_ID"


class UnknownMemberIdError(BrokerResponseError):
    """Error 25 of a broker."""

    errno = 25
    message = "UNKNOWN_MEMBER_ID"


class InvalidSessionTimeoutError(BrokerResponseError):
    """Error 26 of a broker."""

    errno = 26
    message = "INVALID_SESSION_TIMEOUT"


class RebalanceInProgressError(BrokerResponseError):
    """Error 27 of a broker."""

    errno = 27
    message = "REBALANCE_IN_PROGRESS"


class InvalidCommitOffsetSizeError(BrokerResponseError):
    """Error 28 of a broker."""

    errno = 28
    message = "INVALID_COMMIT_OFFSET_SIZE"


class TopicAuthorizationFailedError(AuthorizationError):
    """Error 29 of a broker."""

    errno = 29
    message = "TOPIC_AUTHORIZATION_FAILED"


class GroupAuthorizationFailedError(AuthorizationError):
    """Error 30 of a broker."""

    errno = 30
    message = "GROUP_AUTHORIZATION_FAILED"


class ClusterAuthorizationFailedError(AuthorizationError):
    """Error 31 of a broker."""

    errno = 31
    message = "CLUSTER_AUTHORIZATION_FAILED"


class InvalidTimestampError(BrokerResponseError):
    """Error 32 of a broker."""

    errno = 32
    message = "INVALID_TIMESTAMP"


class UnsupportedSaslMechanismError(BrokerResponseError):
    """Error 33 of a broker."""

    errno = 33
    message = "UNSUPPORTED_SASL_MECHANISM"


class IllegalSaslStateError(BrokerResponseError):
    """Error 34 of a broker."""

    errno = 34
    message = "ILLEGAL_SASL_STATE"


class UnsupportedVersionError(BrokerResponseError):
    """Error 35 of a broker."""

    errno = 35
    message = "UNSUPPORTED_VERSION"


class TopicAlreadyExistsError(BrokerResponseError):
    """Error 36 of a broker."""

    errno = 36
    message = "TOPIC_ALREADY_EXISTS"


class InvalidPartitionsError(BrokerResponseError):
    """Error 37 of a broker."""

    errno = 37
    message = "INVALID_PARTITIONS"


class InvalidReplicationFactorError(BrokerResponseError):
    """Error 38 of a broker."""

    errno = 38
    message = "INVALID_REPLICATION_FACTOR"


class InvalidReplicationAssignmentError(BrokerResponseError):
    """Error 39 of a broker."""

    errno = 39
    message = "INVALID_REPLICATION_ASSIGNMENT"


class InvalidConfigurationError(BrokerResponseError):
    """Error 40 of a broker."""

    errno = 40
    message = "INVALID_CONFIG"


class NotControllerError(RetriableError, BrokerResponseError):
    """Error 41 of a broker."""

    errno = 41
    message = "NOT_CONTROLLER"


class InvalidRequestError(BrokerResponseError):
    """Error 42 of a broker."""

    errno = 42
    message = "INVALID_REQUEST"


class UnsupportedForMessageFormatError(BrokerResponseError):
    """Error 43 of a broker."""

    errno = 43
    message = "UNSUPPORTED_FOR_MESSAGE_FORMAT"


class PolicyViolationError(BrokerResponseError):
    """Error 44 of a broker."""

    errno = 44
    message = "POLICY_VIOLATION"


class OutOfOrderSequenceNumberError(BrokerResponseError):
    """Error 45 of a broker."""

    errno = 45
    message = "OUT_OF_ORDER_SEQUENCE_NUMBER"


class DuplicateSequenceNumberError(BrokerResponseError):
    """Error 46 of a broker."""

    errno = 46
    message = "DUPLICATE_SEQUENCE_NUMBER"


class InvalidProducerEpochError(BrokerResponseError):
    """Error 47 of a broker."""

    errno = 47
    message = "INVALID_PRODUCER_EPOCH"


class InvalidTxnStateError(BrokerResponseError):
    """Error 48 of a broker."""

    errno = 48
    message = "INVALID_TXN_STATE"


class InvalidProducerIdMappingError(BrokerResponseError):
    """Error 49 of a broker."""

    errno = 49
    message = "INVALID_PRODUCER_ID_MAPPING"


class InvalidTransactionTimeoutError(BrokerResponseError):
    """Error 50 of a broker."""

    errno = 50
    message = "INVALID_TRANSACTION_TIMEOUT"


class ConcurrentTransactionsError(RetriableError, BrokerResponseError):
    """Error 51 of a broker."""

    errno = 51
    message = "CONCURRENT_TRANSACTIONS"


class TransactionCoordinatorFencedError(BrokerResponseError):
    """Error 52 of a broker."""

    errno = 52
    message = "TRANSACTION_COORDINATOR_FENCED"


class TransactionalIdAuthorizationFailedError(AuthorizationError):
    """Error 53 of a broker."""

    errno = 53
    message = "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"


class SecurityDisabledError(BrokerResponseError):
    """Error 54 of a broker."""

    errno = 54
    message = "SECURITY_DISABLED"


class OperationNotAttemptedError(BrokerResponseError):
    """Error 55 of a broker."""

    errno = 55
    message = "OPERATION_NOT_ATTEMPTED"


class KafkaStorageError(InvalidMetadataError, BrokerResponseError):
    """Error 56 of a broker."""

    errno = 56
    message = "KAFKA_STORAGE_ERROR"


class LogDirNotFoundError(BrokerResponseError):
    """Error 57 of a broker."""

    errno = 57
    message = "LOG_DIR_NOT_FOUND"


class SaslAuthenticationFailedError(BrokerResponseError):
    """Error 58 of a broker."""

    errno = 58
    message = "SASL_AUTHENTICATION_FAILED"


class UnknownProducerIdError(BrokerResponseError):
    """Error 59 of a broker."""

    errno = 59
    message = "UNKNOWN_PRODUCER_ID"


class ReassignmentInProgressError(BrokerResponseError):
    """Error 60 of a broker."""

    errno = 60
    message = "REASSIGNMENT_IN_PROGRESS"


class DelegationTokenAuthDisabledError(BrokerResponseError):
    """Error 61 of a broker."""

    errno = 61
    message = "DELEGATION_TOKEN_AUTH_DISABLED"


class DelegationTokenNotFoundError(BrokerResponseError):
    """Error 62 of a broker."""

    errno = 62
    message = "DELEGATION_TOKEN_NOT_FOUND"


class DelegationTokenOwnerMismatchError(BrokerResponseError):
    """Error 63 of a broker."""

    errno = 63
    message = "DELEGATION_TOKEN_OWNER_MISMATCH"


class DelegationTokenRequestNotAllowedError(BrokerResponseError):
    """Error 64 of a broker."""

    errno = 64
    message = "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED"


class DelegationTokenAuthorizationFailedError(AuthorizationError):
    """Error 65 of a broker."""

    errno = 65
    message = "DELEGATION_TOKEN_AUTHORIZATION_FAILED"


class DelegationTokenExpiredError(BrokerResponseError):
    """Error 66 of a broker."""

    errno = 66
    message = "DELEGATION_TOKEN_EXPIRED"


class InvalidPrincipalTypeError(BrokerResponseError):
    """Error 67 of a broker."""

    errno = 67
    message = "INVALID_PRINCIPAL_TYPE"


class NonEmptyGroupError(BrokerResponseError):
    """Error 68 of a broker."""

    errno = 68
    message = "NON_EMPTY_GROUP"


class GroupIdNotFoundError(BrokerResponseError):
    """Error 69 of a broker."""

    errno = 69
    message = "GROUP_ID_NOT_FOUND"


class FetchSessionIdNotFoundError(RetriableError, BrokerResponseError):
    """Error 70 of a broker."""

    errno = 70
    message = "FETCH_SESSION_ID_NOT_FOUND"


class InvalidFetchSessionEpochError(RetriableError, BrokerResponseError):
    """Error 71 of a broker."""

    errno = 71
    message = "INVALID_FETCH_SESSION_EPOCH"


class ListenerNotFoundError(InvalidMetadataError, BrokerResponseError):
    """Error 72 of a broker."""

    errno = 72
    message = "LISTENER_NOT_FOUND"


class TopicDeletionDisabledError(BrokerResponseError):
    """Error 73 of a broker."""

    errno = 73
    message = "TOPIC_DELETION_DISABLED"


class FencedLeaderEpochError(InvalidMetadataError, BrokerResponseError):
    """Error 74 of a broker."""

    errno = 74
    message = "FENCED_LEADER_EPOCH"


class UnknownLeaderEpochError(InvalidMetadataError, BrokerResponseError):
    """Error 75 of a broker."""

    errno = 75
    message = "UNKNOWN_LEADER_EPOCH"


class UnsupportedCompressionTypeError(BrokerResponseError):
    """Error 76 of a broker."""

    errno = 76
    message = "UNSUPPORTED_COMPRESSION_TYPE"


class StaleBrokerEpochError(BrokerResponseError):
    """Error 77 of a broker."""

    errno = 77
    message = "STALE_BROKER_EPOCH"


class OffsetNotAvailableError(RetriableError, BrokerResponseError):
    """Error 78 of a broker."""

    errno = 78
    message = "OFFSET_NOT_AVAILABLE"


class MemberIdRequiredError(BrokerResponseError):
    """Error 79 of a broker."""

    errno = 79
    message = "MEMBER_ID_REQUIRED"


class PreferredLeaderNotAvailableError(InvalidMetadataError, BrokerResponseError):
    """Error 80 of a broker."""

    errno = 80
    message = "PREFERRED_LEADER_NOT_AVAILABLE"


class GroupMaxSizeReachedError(BrokerResponseError):
    """Error 81 of a broker."""

    errno = 81
    message = "GROUP_MAX_SIZE_REACHED"


class FencedInstanceIdError(BrokerResponseError):
    """Error 82 of a broker."""

    errno = 82
    message = "FENCED_INSTANCE_ID"


class EligibleLeadersNotAvailableError(InvalidMetadataError, BrokerResponseError):
    """Error 83 of a broker."""

    errno = 83
    message = "ELIGIBLE_LEADERS_NOT_AVAILABLE"


class ElectionNotNeededError(InvalidMetadataError, BrokerResponseError):
    """Error 84 of a broker."""

    errno = 84
    message = "ELECTION_NOT_NEEDED"


class NoReassignmentInProgressError(BrokerResponseError):
    """Error 85 of a broker."""

    errno = 85
    message = "NO_REASSIGNMENT_IN_PROGRESS"


class GroupSubscribedToTopicError(BrokerResponseError):
    """Error 86 of a broker."""

    errno = 86
    message = "GROUP_SUBSCRIBED_TO_TOPIC"


class InvalidRecordError(BrokerResponseError):
    """Error 87 of a broker."""

    errno = 87
    message = "INVALID_RECORD"


class UnstableOffsetCommitError(RetriableError, BrokerResponseError):
    """Error 88 of a broker."""

    errno = 88
    message = "UNSTABLE_OFFSET_COMMIT"


class ThrottlingQuotaExceededError(RetriableError, BrokerResponseError):
    """Error 89 of a broker."""

    errno = 89
    message = "THROTTLING_QUOTA_EXCEEDED"


class ProducerFencedError(BrokerResponseError):
    """Error 90 of a broker."""

    errno = 90
    message = "PRODUCER_FENCED"


class ResourceNotFoundError(BrokerResponseError):
    """Error 91 of a broker."""

    errno = 91
    message = "RESOURCE_NOT_FOUND"


class DuplicateResourceError(BrokerResponseError):
    """Error 92 of a broker."""

    errno = 92
    message = "DUPLICATE_RESOURCE"


class UnacceptableCredentialError(BrokerResponseError):
    """Error 93 of a broker."""

    errno = 93
    message = "UNACCEPTABLE_CREDENTIAL"


class InconsistentVoterSetError(BrokerResponseError):
    """Error 94 of a broker."""

    errno = 94
    message = "INCONSISTENT_VOTER_SET"


class InvalidUpdateVersionError(BrokerResponseError):
    """Error 95 of a broker."""

    errno = 95
    message = "INVALID_UPDATE_VERSION"


class FeatureUpdateFailedError(BrokerResponseError):
    """Error 96 of a broker."""

    errno = 96
    message = "FEATURE_UPDATE_FAILED"


class PrincipalDeserializationFailureError(BrokerResponseError):
    """Error 97 of a broker."""

    errno = 97
    message = "PRINCIPAL_DESERIALIZATION_FAILURE"


class SnapshotNotFoundError(BrokerResponseError):
    """Error 98 of a broker."""

    errno = 98
    message = "SNAPSHOT_NOT_FOUND"


class PositionOutOfRangeError(BrokerResponseError):
    """Error 99 of a broker."""

    errno = 99
    message = "POSITION_OUT_OF_RANGE"


class UnknownTopicIdError(InvalidMetadataError, BrokerResponseError):
    """Error 100 of a broker."""

    errno = 100
    message = "UNKNOWN_TOPIC_ID"


class DuplicateBrokerRegistrationError(BrokerResponseError):
    """Error 101 of a broker."""

    errno = 101
    message = "DUPLICATE_BROKER_REGISTRATION"


class BrokerIdNotRegisteredError(BrokerResponseError):
    """Error 102 of a broker."""

    errno = 102
    message = "BROKER_ID_NOT_REGISTERED"


class InconsistentTopicIdError(InvalidMetadataError, BrokerResponseError):
    """Error 103 of a broker."""

    errno = 103
    message = "INCONSISTENT_TOPIC_ID"


class InconsistentClusterIdError(BrokerResponseError):
    """Error 104 of a broker."""

    errno = 104
    message = "INCONSISTENT_CLUSTER_ID"


class TransactionalIdNotFoundError(BrokerResponseError):
    """Error 105 of a broker."""

    errno = 105
    message = "TRANSACTIONAL_ID_NOT_FOUND"


class FetchSessionTopicIdError(RetriableError, BrokerResponseError):
    """Error 106 of a broker."""

    errno = 106
    message = "FETCH_SESSION_TOPIC_ID_ERROR"


class IneligibleReplicaError(BrokerResponseError):
    """Error 107 of a broker."""

    errno = 107
    message = "INELIGIBLE_REPLICA"


class NewLeaderElectedError(BrokerResponseError):
    """Error 108 of a broker."""

    errno = 108
    message = "NEW_LEADER_ELECTED"


class OffsetMovedToTieredStorageError(BrokerResponseError):
    """Error 109 of a broker."""

    errno = 109
    message = "OFFSET_MOVED_TO_TIERED_STORAGE"


class FencedMemberEpochError(BrokerResponseError):
    """Error 110 of a broker."""

    errno = 110
    message = "FENCED_MEMBER_EPOCH"


class UnreleasedInstanceIdError(BrokerResponseError):
    """Error 111 of a broker."""

    errno = 111
    message = "UNRELEASED_INSTANCE_ID"


class UnsupportedAssignorError(BrokerResponseError):
    """Error 112 of a broker."""

    errno = 112
    message = "UNSUPPORTED_ASSIGNOR"


class StaleMemberEpochError(BrokerResponseError):
    """Error 113 of a broker."""

    errno = 113
    message = "STALE_MEMBER_EPOCH"


class MismatchedEndpointTypeError(BrokerResponseError):
    """Error 114 of a broker."""

    errno = 114
    message = "MISMATCHED_ENDPOINT_TYPE"


class UnsupportedEndpointTypeError(BrokerResponseError):
    """Error 115 of a broker."""

    errno = 115
    message = "UNSUPPORTED_ENDPOINT_TYPE"


class UnknownControllerIdError(BrokerResponseError):
    """Error 116 of a broker."""

    errno = 116
    message = "UNKNOWN_CONTROLLER_ID"


class UnknownSubscriptionIdError(BrokerResponseError):
    """Error 117 of a broker."""

    errno = 117
    message = "UNKNOWN_SUBSCRIPTION_ID"


class TelemetryTooLargeError(BrokerResponseError):
    """Error 118 of a broker."""

    errno = 118
    message = "TELEMETRY_TOO_LARGE"


class InvalidRegistrationError(BrokerResponseError):
    """Error 119 of a broker."""

    errno = 119
    message = "INVALID_REGISTRATION"


class TransactionAbortableError(BrokerResponseError):
    """Error 120 of a broker."""

    errno = 120
    message = "TRANSACTION_ABORTABLE"


class InvalidRecordStateError(BrokerResponseError):
    """Error 121 of a broker."""

    errno = 121
    message = "INVALID_RECORD_STATE"


class ShareSessionNotFoundError(RetriableError, BrokerResponseError):
    """Error 122 of a broker."""

    errno = 122
    message = "SHARE_SESSION_NOT_FOUND"


class InvalidShareSessionEpochError(RetriableError, BrokerResponseError):
    """Error 123 of a broker."""

    errno = 123
    message = "INVALID_SHARE_SESSION_EPOCH"


class FencedStateEpochError(BrokerResponseError):
    """Error 124 of a broker."""

    errno = 124
    message = "FENCED_STATE_EPOCH"


class InvalidVoterKeyError(BrokerResponseError):
    """Error 125 of a broker."""

    errno = 125
    message = "INVALID_VOTER_KEY"


class DuplicateVoterError(BrokerResponseError):
    """Error 126 of a broker."""

    errno = 126
    message = "DUPLICATE_VOTER"


class VoterNotFoundError(BrokerResponseError):
    """Error 127 of a broker."""

    errno = 127
    message = "VOTER_NOT_FOUND"


class IncompatibleBrokerVersion(UnsupportedVersionError):
    """The broker's version cannot do what was asked; raised without asking it."""


class OttlaError(KafkaError):
    """What no broker said; `kind` tells what a caller can do about it."""

    kind: ClassVar[str] = "internal"


class NoBrokersAvailable(KafkaTimeoutError, KafkaConnectionError):
    """None of the bootstrap servers answered: kafka-python 2's name, and a `KafkaTimeoutError` as in kafka-python 3."""


class UnavailableError(OttlaError, KafkaConnectionError, ConnectionError):
    """Nothing was done, or it is safe to repeat: the same call may succeed later."""

    kind = "retriable"


class FencedError(OttlaError):
    """Somebody newer has taken over; stop and open anew."""

    kind = "fenced"


class OutOfRangeError(OttlaError, LookupError):
    """The offset is not there: choose another."""

    kind = "out of range"


class NotFoundError(OttlaError, FileNotFoundError):
    """A topic, group, snapshot or object is not there."""

    kind = "not found"


class AlreadyExistsError(OttlaError, FileExistsError):
    """What was to be created is there already."""

    kind = "already exists"


class DeniedError(OttlaError, PermissionError):
    """Authentication or authorization was refused."""

    kind = "denied"


class InvalidError(OttlaError, KafkaConfigurationError, IllegalArgumentError, ValueError):
    """The call, option or argument is wrong: correct it."""

    kind = "invalid"


class UnsupportedError(OttlaError, NotImplementedError):
    """This broker, version or platform cannot."""

    kind = "unsupported"


class CorruptError(OttlaError):
    """Bytes that are not what they claim; the message says where, and what is still good."""

    kind = "corrupt"


class FullError(OttlaError, BufferError):
    """A disk, quota or buffer limit is reached."""

    kind = "full"


class ClosedError(OttlaError, IllegalStateError):
    """The handle was closed, cancelled, or given up after a failed sync: open anew."""

    kind = "closed"


class TimedOutError(OttlaError, KafkaTimeoutError, TimeoutError):
    """The time given to the call ran out before the answer came."""

    kind = "timeout"


class InternalError(OttlaError, RuntimeError):
    """A defect of Ottla: please report it."""

    kind = "internal"


class ForkedError(OttlaError, IllegalStateError, RuntimeError):
    """The handle was opened before this process was forked; its threads live on in the parent only."""

    kind = "closed"


# Names of kafka-python 1 and 2, and its one alias in 3.
CorruptRecordException = CorruptRecordError
AuthenticationFailedError = SaslAuthenticationFailedError
AuthenticationMethodNotSupported = UnsupportedSaslMechanismError
GroupCoordinatorNotAvailableError = CoordinatorNotAvailableError
GroupLoadInProgressError = CoordinatorLoadInProgressError
KafkaUnavailableError = NoBrokersAvailable
NotCoordinatorForConsumerError = NotCoordinatorError
NotCoordinatorForGroupError = NotCoordinatorError
ProtocolError = KafkaProtocolError


def _broker_errors() -> dict[int, type[BrokerResponseError]]:
    """Return the class of each code, after giving each its description and making those that are missing here."""
    classes: dict[int, type[BrokerResponseError]] = {}
    for value in list(globals().values()):
        if (
            isinstance(value, type)
            and issubclass(value, BrokerResponseError)
            and value is not IncompatibleBrokerVersion
        ):
            errno = value.errno
            if errno is not None:
                classes.setdefault(errno, value)
    for code, name, description, retriable, invalid_metadata in _ottla.error_codes():
        known = classes.get(code)
        if known is None:
            bases: tuple[type[KafkaError], ...] = (BrokerResponseError,)
            if invalid_metadata:
                bases = (InvalidMetadataError, BrokerResponseError)
            elif retriable:
                bases = (RetriableError, BrokerResponseError)
            title = "".join(word.capitalize() for word in name.split("_"))
            title = title if title.endswith("Error") else f"{title}Error"
            attributes = {
                "errno": code,
                "message": name,
                "__doc__": f"Error {code} of a broker.",
                "__module__": __name__,
            }
            known = classes[code] = type(title, bases, attributes)
            globals()[title] = known
        known.description = description
    return classes


kafka_errors: dict[int, type[BrokerResponseError]] = _broker_errors()
"""The class of each code."""


def for_code(error_code: int) -> type[BrokerResponseError]:
    """Return the class for a broker's code; one that nobody knows gets a class of its own that keeps the number."""
    known = kafka_errors.get(error_code)
    if known is not None:
        return known
    attributes = {"errno": error_code, "__doc__": f"Error {error_code} of a broker, unknown to this version."}
    return type("UnrecognizedBrokerError", (UnknownError,), attributes)
