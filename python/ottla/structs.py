"""The plain values that cross the interface: named tuples, as in kafka-python."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ConsumerGroupMetadata",
    "MemberState",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "TopicPartition",
    "TopicPartitionReplica",
]


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    """The topic's name."""
    partition: int
    """The partition's number, from 0."""


class TopicPartitionReplica(NamedTuple):
    """A partition's replica on one broker."""

    topic: str
    """The topic's name."""
    partition: int
    """The partition's number, from 0."""
    broker_id: int
    """The broker's node id."""


class OffsetAndMetadata(NamedTuple):
    """What a group commits for a partition."""

    offset: int | None = None
    """The offset of the next record to read."""
    metadata: str | None = ""
    """Anything the committing program wants to note."""
    leader_epoch: int | None = -1
    """The leader epoch of the last record read, or -1 if unknown."""


class OffsetAndTimestamp(NamedTuple):
    """The answer to a search by time."""

    offset: int
    """The first offset at or after the time."""
    timestamp: int
    """Its record's timestamp, in milliseconds since 1970."""
    leader_epoch: int | None
    """The leader epoch of the record, or None or -1 if unknown."""


class MemberState:
    """Where a consumer stands in its group: the values of `ConsumerGroupMetadata.state`."""

    UNJOINED = "<unjoined>"
    """Not part of a group."""
    REBALANCING = "<rebalancing>"
    """Joining; the partitions are being shared out."""
    STABLE = "<stable>"
    """A member, with its partitions."""


class ConsumerGroupMetadata(NamedTuple):
    """A consumer's membership at one moment, for `KafkaProducer.send_offsets_to_transaction`."""

    group_id: str | None = None
    """The group, or None without one."""
    generation_id: int = -1
    """The group's generation, or -1 before the first."""
    member_id: str = ""
    """The name the coordinator gave this member."""
    group_instance_id: str | None = None
    """The static member's own name."""
    state: str = MemberState.UNJOINED
    """One of `MemberState`."""
