"""The round-robin assignor."""

from ottla.coordinator.assignors.abstract import AbstractPartitionAssignor

__all__ = ["RoundRobinPartitionAssignor"]


class RoundRobinPartitionAssignor(AbstractPartitionAssignor):
    """The partitions of all topics dealt out one by one."""

    name = "roundrobin"
