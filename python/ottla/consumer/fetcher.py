"""The record as a consumer sees it."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ConsumerRecord"]


class ConsumerRecord(NamedTuple):
    """One record of a topic."""

    topic: str
    """The topic's name."""
    partition: int
    """The partition's number."""
    leader_epoch: int | None
    """The leader epoch under which the record was written."""
    offset: int
    """The record's place in the partition."""
    timestamp: int
    """Milliseconds since 1970, by the producer's clock or the broker's: see `timestamp_type`."""
    timestamp_type: int
    """0: the producer's clock (CreateTime); 1: the broker's (LogAppendTime)."""
    key: Any
    """The key as the deserializer made it; bytes, or None for a null, without one."""
    value: Any
    """The value as the deserializer made it; bytes, or None for a null, without one."""
    headers: list[tuple[str, bytes]]
    """The headers in order; a name may repeat."""
    checksum: int | None
    """None: batches have checksums now, records have not."""
    serialized_key_size: int
    """The key's bytes, or -1 for a null."""
    serialized_value_size: int
    """The value's bytes, or -1 for a null."""
    serialized_header_size: int
    """The bytes of the headers' names and values, or -1 without any."""
