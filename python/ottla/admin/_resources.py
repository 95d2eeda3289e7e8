"""The values that admin calls take and return."""

from __future__ import annotations

import os
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ottla._enums import EnumHelper
from ottla.errors import IllegalArgumentError
from ottla.structs import TopicPartition  # noqa: TC001 (the named tuple's annotations are read at run time)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class NewTopic:
    """A topic to create. -1 leaves a number to the broker."""

    def __init__(
        self,
        name: str,
        num_partitions: int = -1,
        replication_factor: int = -1,
        replica_assignments: Mapping[int, Sequence[int]] | None = None,
        topic_configs: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.num_partitions = num_partitions
        self.replication_factor = replication_factor
        self.replica_assignments = replica_assignments or {}
        self.topic_configs = topic_configs or {}

    def __repr__(self) -> str:
        return f"NewTopic({self.name!r}, {self.num_partitions}, {self.replication_factor})"


class NewPartitions:
    """How many partitions a topic shall have in all, and which brokers hold the new ones."""

    def __init__(self, total_count: int, new_assignments: Sequence[Sequence[int]] | None = None) -> None:
        self.total_count = total_count
        self.new_assignments = new_assignments

    def __repr__(self) -> str:
        return f"NewPartitions({self.total_count})"


class ConfigResourceType(EnumHelper, IntEnum):
    """What a configuration belongs to."""

    UNKNOWN = 0
    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


class ConfigResource:
    """A topic's, broker's or group's configuration: names to describe, or names with values to alter."""

    def __init__(self, resource_type: ConfigResourceType | str, name: str, configs: Any = None) -> None:
        self.resource_type = ConfigResourceType.build_from(resource_type)
        self.name = name
        self.configs = configs

    def __repr__(self) -> str:
        return f"ConfigResource({self.resource_type.name}, {self.name!r}, {self.configs!r})"


class ConfigType(EnumHelper, IntEnum):
    """The type of a configuration's value."""

    UNKNOWN = 0
    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class ConfigSourceType(EnumHelper, IntEnum):
    """Where a configuration's value comes from."""

    UNKNOWN = 0
    DYNAMIC_TOPIC_CONFIG = 1
    DYNAMIC_BROKER_CONFIG = 2
    DYNAMIC_DEFAULT_BROKER_CONFIG = 3
    STATIC_BROKER_CONFIG = 4
    DEFAULT_CONFIG = 5
    DYNAMIC_BROKER_LOGGER_CONFIG = 6
    DYNAMIC_CLIENT_METRICS_CONFIG = 7
    DYNAMIC_GROUP_CONFIG = 8

    def is_modified(self) -> bool:
        """Return whether somebody set the value on this very resource."""
        return self not in (
            ConfigSourceType.DYNAMIC_DEFAULT_BROKER_CONFIG,
            ConfigSourceType.STATIC_BROKER_CONFIG,
            ConfigSourceType.DEFAULT_CONFIG,
        )


class ConfigFilterType(EnumHelper, IntEnum):
    """Which configurations `describe_configs` returns."""

    ALL = 0
    DYNAMIC = 1
    MODIFIED = 2
    DEFAULT = 3
    STATIC = 4

    def keeps(self, source: ConfigSourceType, *, read_only: bool) -> bool:
        """Return whether a configuration from `source` is wanted."""
        if self is ConfigFilterType.DYNAMIC:
            return not read_only
        if self is ConfigFilterType.MODIFIED:
            return source.is_modified()
        if self is ConfigFilterType.DEFAULT:
            return not source.is_modified()
        if self is ConfigFilterType.STATIC:
            return source is ConfigSourceType.STATIC_BROKER_CONFIG
        return True


class AlterConfigOp(EnumHelper, IntEnum):
    """What to do with a configuration's value."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class GroupState(EnumHelper, str, Enum):
    """Where a group stands."""

    UNKNOWN = "Unknown"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"
    EMPTY = "Empty"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"


class GroupType(EnumHelper, str, Enum):
    """The protocol that a group's members speak."""

    UNKNOWN = "Unknown"
    CONSUMER = "consumer"
    CLASSIC = "classic"
    SHARE = "share"


class MemberToRemove:
    """A member to put out of a group: named by its id, or by its own static name."""

    def __init__(
        self, member_id: str | None = None, group_instance_id: str | None = None, reason: str | None = None
    ) -> None:
        if member_id is None and group_instance_id is None:
            raise ValueError("a member to remove needs a member_id or a group_instance_id")
        self.member_id = member_id
        self.group_instance_id = group_instance_id
        self.reason = reason


class TransactionState(EnumHelper, str, Enum):
    """Where a transaction stands."""

    UNKNOWN = "Unknown"
    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"
    DEAD = "Dead"
    PREPARE_EPOCH_FENCE = "PrepareEpochFence"


class UpdateFeatureType(EnumHelper, IntEnum):
    """Which way a feature's level may go."""

    UNKNOWN = 0
    UPGRADE = 1
    SAFE_DOWNGRADE = 2
    UNSAFE_DOWNGRADE = 3


class AbortTransactionSpec(NamedTuple):
    """A transaction to abort, as it is on one partition."""

    topic_partition: TopicPartition
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int = -1


class TransactionListing(NamedTuple):
    """One line of the list of transactions."""

    transactional_id: str
    producer_id: int
    state: TransactionState


class TransactionDescription(NamedTuple):
    """What a coordinator knows of a transaction."""

    coordinator_id: int
    state: TransactionState
    producer_id: int
    producer_epoch: int
    transaction_timeout_ms: int
    transaction_start_time_ms: int
    topic_partitions: set[TopicPartition]


class ProducerState(NamedTuple):
    """What a partition knows of one of its producers."""

    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_timestamp: int
    coordinator_epoch: int
    current_transaction_start_offset: int


class PartitionProducerState(NamedTuple):
    """What a partition knows of its producers."""

    active_producers: list[ProducerState]


class ResourceType(IntEnum):
    """What an access rule is about."""

    UNKNOWN = 0
    ANY = 1
    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5
    DELEGATION_TOKEN = 6
    USER = 7


class ACLOperation(IntEnum):
    """What an access rule allows or denies."""

    UNKNOWN = 0
    ANY = 1
    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12
    CREATE_TOKENS = 13
    DESCRIBE_TOKENS = 14


class ACLPermissionType(IntEnum):
    """Whether an access rule allows or denies."""

    UNKNOWN = 0
    ANY = 1
    DENY = 2
    ALLOW = 3


class ACLResourcePatternType(IntEnum):
    """How a rule's resource name is meant."""

    UNKNOWN = 0
    ANY = 1
    MATCH = 2
    LITERAL = 3
    PREFIXED = 4


class ResourcePatternFilter:
    """Resources to look for."""

    def __init__(
        self, resource_type: ResourceType, resource_name: str | None, pattern_type: ACLResourcePatternType
    ) -> None:
        self.resource_type = resource_type
        self.resource_name = resource_name
        self.pattern_type = pattern_type
        self.validate()

    def validate(self) -> None:
        """Raise IllegalArgumentError for a value of the wrong type."""
        if not isinstance(self.resource_type, ResourceType):
            raise IllegalArgumentError("resource_type must be a ResourceType")
        if not isinstance(self.pattern_type, ACLResourcePatternType):
            raise IllegalArgumentError("pattern_type must be an ACLResourcePatternType")

    def _key(self) -> tuple[Any, ...]:
        return (self.resource_type, self.resource_name, self.pattern_type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResourcePatternFilter) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.resource_type.name} {self.resource_name} {self.pattern_type.name}>"


class ResourcePattern(ResourcePatternFilter):
    """Resources that a rule is about."""

    def __init__(
        self,
        resource_type: ResourceType,
        resource_name: str,
        pattern_type: ACLResourcePatternType = ACLResourcePatternType.LITERAL,
    ) -> None:
        super().__init__(resource_type, resource_name, pattern_type)

    def validate(self) -> None:
        """Raise IllegalArgumentError for a value that is only good for looking."""
        super().validate()
        if self.resource_type is ResourceType.ANY:
            raise IllegalArgumentError("a rule's resource_type cannot be ANY")
        if self.pattern_type in (ACLResourcePatternType.ANY, ACLResourcePatternType.MATCH):
            raise IllegalArgumentError(f"a rule's pattern_type cannot be {self.pattern_type.name}")


class ACLFilter:
    """Access rules to look for."""

    def __init__(
        self,
        principal: str | None,
        host: str | None,
        operation: ACLOperation,
        permission_type: ACLPermissionType,
        resource_pattern: ResourcePatternFilter,
    ) -> None:
        self.principal = principal
        self.host = host
        self.operation = operation
        self.permission_type = permission_type
        self.resource_pattern = resource_pattern
        self.validate()

    def validate(self) -> None:
        """Raise IllegalArgumentError for a value of the wrong type."""
        if not isinstance(self.operation, ACLOperation):
            raise IllegalArgumentError("operation must be an ACLOperation")
        if not isinstance(self.permission_type, ACLPermissionType):
            raise IllegalArgumentError("permission_type must be an ACLPermissionType")
        if not isinstance(self.resource_pattern, ResourcePatternFilter):
            raise IllegalArgumentError("resource_pattern must be a ResourcePatternFilter")

    def _key(self) -> tuple[Any, ...]:
        return (self.principal, self.host, self.operation, self.permission_type, self.resource_pattern)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ACLFilter) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.permission_type.name} {self.principal} {self.operation.name}"
            f" from {self.host} on {self.resource_pattern}>"
        )


class ACL(ACLFilter):
    """An access rule: who may, or may not, do what to which resources, from which host."""

    def validate(self) -> None:
        """Raise IllegalArgumentError for a value that is only good for looking."""
        super().validate()
        if self.operation is ACLOperation.ANY:
            raise IllegalArgumentError("a rule's operation cannot be ANY")
        if self.permission_type is ACLPermissionType.ANY:
            raise IllegalArgumentError("a rule's permission_type cannot be ANY")
        if not isinstance(self.resource_pattern, ResourcePattern):
            raise IllegalArgumentError("a rule's resource_pattern must be a ResourcePattern")


class ScramMechanism(IntEnum):
    """How a password is proved without being sent."""

    UNKNOWN = 0
    SCRAM_SHA_256 = 1
    SCRAM_SHA_512 = 2

    @property
    def hash_name(self) -> str:
        """The hash's name, as `hashlib` has it."""
        return self.name.removeprefix("SCRAM_").replace("_", "").lower()


def _mechanism(mechanism: ScramMechanism | int | str) -> ScramMechanism:
    if isinstance(mechanism, str):
        return ScramMechanism[mechanism.upper().replace("-", "_")]
    return ScramMechanism(mechanism)


class UserScramCredentialDeletion:
    """A user's credential to remove."""

    def __init__(self, user: str, mechanism: ScramMechanism | int | str) -> None:
        self.user = user
        self.mechanism = _mechanism(mechanism)

    def __repr__(self) -> str:
        return f"UserScramCredentialDeletion({self.user!r}, {self.mechanism.name})"


class UserScramCredentialUpsertion:
    """A user's credential to set. Only the salted password leaves this process."""

    DEFAULT_ITERATIONS: ClassVar[int] = 4096

    def __init__(
        self,
        user: str,
        mechanism: ScramMechanism | int | str,
        password: bytes | str,
        iterations: int | None = None,
        salt: bytes | None = None,
    ) -> None:
        self.user = user
        self.mechanism = _mechanism(mechanism)
        if self.mechanism is ScramMechanism.UNKNOWN:
            raise IllegalArgumentError("a credential needs a known mechanism")
        self.iterations = self.DEFAULT_ITERATIONS if iterations is None else iterations
        self.salt = os.urandom(24) if salt is None else salt
        secret = password.encode() if isinstance(password, str) else password
        import hashlib

        self.salted_password = hashlib.pbkdf2_hmac(self.mechanism.hash_name, secret, self.salt, self.iterations)

    def __repr__(self) -> str:
        return f"UserScramCredentialUpsertion({self.user!r}, {self.mechanism.name}, iterations={self.iterations})"
