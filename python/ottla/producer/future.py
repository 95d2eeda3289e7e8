"""What `KafkaProducer.send` returns, and what that becomes."""

from __future__ import annotations

from typing import NamedTuple

from ottla._ottla import FutureRecordMetadata
from ottla.structs import TopicPartition  # noqa: TC001 (the named tuple's annotations are read at run time)

__all__ = ["FutureRecordMetadata", "RecordMetadata"]


class RecordMetadata(NamedTuple):
    """Where a record went."""

    topic: str
    """The topic's name."""
    partition: int
    """The partition's number."""
    topic_partition: TopicPartition
    """Both."""
    offset: int
    """The record's place in the partition, or -1 with `acks=0`."""
    timestamp: int
    """Milliseconds since 1970: the producer's, or the broker's if the topic takes its own (LogAppendTime)."""
    checksum: int | None
    """None: batches have checksums now, records have not."""
    serialized_key_size: int
    """The key's bytes, or -1 for a null."""
    serialized_value_size: int
    """The value's bytes, or -1 for a null."""
    serialized_header_size: int
    """The bytes of the headers' names and values, or -1 without any."""
