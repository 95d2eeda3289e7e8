"""The sticky assignor."""

from typing import ClassVar

from ottla.coordinator.assignors.abstract import AbstractPartitionAssignor

__all__ = ["StickyPartitionAssignor"]


class StickyPartitionAssignor(AbstractPartitionAssignor):
    """Evenly, and each member keeps as many of its partitions as it can (KIP-54)."""

    DEFAULT_GENERATION_ID: ClassVar[int] = -1

    name = "sticky"
