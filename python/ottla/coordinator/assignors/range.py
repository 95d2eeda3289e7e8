"""The range assignor."""

from ottla.coordinator.assignors.abstract import AbstractPartitionAssignor

__all__ = ["RangePartitionAssignor"]


class RangePartitionAssignor(AbstractPartitionAssignor):
    """Each topic's partitions in as many runs as there are members; the first members get the longer ones."""

    name = "range"
