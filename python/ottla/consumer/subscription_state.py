"""What a program can do when its group shares the partitions out anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from ottla.structs import TopicPartition

__all__ = ["AsyncConsumerRebalanceListener", "ConsumerRebalanceListener"]


class ConsumerRebalanceListener(ABC):
    """Told when partitions come and go; given to `KafkaConsumer.subscribe(listener=…)`.

    The methods run inside `poll()`, on the thread that called it, and may commit and seek.
    """

    @abstractmethod
    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Note that these partitions go to others after this call returns: the last chance to commit."""

    @abstractmethod
    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note that these partitions are ours now, before the first of their records."""

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Note that these partitions are somebody else's already: too late to commit."""
        self.on_partitions_revoked(lost)


class AsyncConsumerRebalanceListener(ABC):
    """The same with coroutine methods; each runs to its end inside `poll()`."""

    @abstractmethod
    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Note that these partitions go to others after this call returns: the last chance to commit."""

    @abstractmethod
    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note that these partitions are ours now, before the first of their records."""

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Note that these partitions are somebody else's already: too late to commit."""
        await self.on_partitions_revoked(lost)
