"""What a client knows of its cluster: the part of kafka-python's `ClusterMetadata` that partitioners ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ClusterMetadata"]


class ClusterMetadata:
    """Topics and their partitions at one moment."""

    def __init__(
        self, partitions: Mapping[str, Iterable[int]], available: Mapping[str, Iterable[int]] | None = None
    ) -> None:
        self._partitions = {topic: set(numbers) for topic, numbers in partitions.items()}
        self._available = (
            self._partitions if available is None else {topic: set(numbers) for topic, numbers in available.items()}
        )

    def topics(self) -> set[str]:
        """Return the names of the known topics."""
        return set(self._partitions)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the topic's partitions, or None if it is not known."""
        known = self._partitions.get(topic)
        return None if known is None else set(known)

    def available_partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the topic's partitions that have a leader, or None if it is not known."""
        known = self._available.get(topic)
        return None if known is None else set(known)
