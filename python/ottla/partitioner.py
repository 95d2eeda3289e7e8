"""Which partition a record goes to.

Without a `partitioner=` the core chooses: by murmur2 of the key, as Kafka's clients do, and without a key a partition
that changes from batch to batch. A partitioner in Python is asked for each record whose partition is not given.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ottla._ottla import murmur2

if TYPE_CHECKING:
    from ottla.cluster import ClusterMetadata

__all__ = ["DefaultPartitioner", "Partitioner", "StickyPartitioner", "murmur2"]


class Partitioner(ABC):
    """Chooses a record's partition; given to `KafkaProducer(partitioner=…)`."""

    @abstractmethod
    def partition(
        self,
        topic: str,
        key: Any,
        serialized_key: bytes | None,
        value: Any,
        serialized_value: bytes | None,
        cluster: ClusterMetadata,
    ) -> int:
        """Return the partition's number.

        Args:
            topic: Where the record goes.
            key: The key as it was given to `send`.
            serialized_key: Its bytes, or None.
            value: The value as it was given to `send`.
            serialized_value: Its bytes, or None.
            cluster: Answers `partitions_for_topic` and `available_partitions_for_topic`.
        """


def _by_key(serialized_key: bytes, partitions: list[int]) -> int:
    return partitions[(murmur2(serialized_key) & 0x7FFFFFFF) % len(partitions)]


def _partitions(topic: str, cluster: ClusterMetadata) -> list[int]:
    partitions = cluster.partitions_for_topic(topic)
    if not partitions:
        raise ValueError(f"topic is not known topic={topic}")
    return sorted(partitions)


class DefaultPartitioner(Partitioner):
    """Murmur2 of the key as Java's client has it; without a key, an available partition by chance.

    The producer recognises this class itself and lets the core choose, which is the same for keys and better for
    batches.
    """

    def partition(
        self,
        topic: str,
        key: Any,
        serialized_key: bytes | None,
        value: Any,
        serialized_value: bytes | None,
        cluster: ClusterMetadata,
    ) -> int:
        """Return the partition's number."""
        del key, value, serialized_value
        partitions = _partitions(topic, cluster)
        if serialized_key is not None:
            return _by_key(serialized_key, partitions)
        available = list(cluster.available_partitions_for_topic(topic) or ())
        return random.choice(available or partitions)  # noqa: S311 (spreading load, not secrets)


class StickyPartitioner(DefaultPartitioner):
    """Murmur2 of the key; without a key, the same partition until a batch is full (KIP-480).

    This is what the core does in any case, so the producer lets it.
    """

    def __init__(self) -> None:
        self._chosen: dict[str, int] = {}

    def partition(
        self,
        topic: str,
        key: Any,
        serialized_key: bytes | None,
        value: Any,
        serialized_value: bytes | None,
        cluster: ClusterMetadata,
    ) -> int:
        """Return the partition's number."""
        if serialized_key is None and topic in self._chosen:
            return self._chosen[topic]
        partition = super().partition(topic, key, serialized_key, value, serialized_value, cluster)
        if serialized_key is None:
            self._chosen[topic] = partition
        return partition

    def on_new_batch(self, topic: str, cluster: ClusterMetadata, prev_partition: int) -> None:
        """Choose another partition for `topic`, unless another record did so already."""
        if self._chosen.get(topic, prev_partition) != prev_partition:
            return
        available = set(cluster.available_partitions_for_topic(topic) or ()) or set(_partitions(topic, cluster))
        others = sorted(available - {prev_partition}) or sorted(available)
        self._chosen[topic] = random.choice(others)  # noqa: S311 (spreading load, not secrets)
