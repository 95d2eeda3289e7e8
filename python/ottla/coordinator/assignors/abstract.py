"""What the assignors have in common: a name.

An assignor's work is done by the core, for whichever member the coordinator chose as the group's leader; in Python a
class stands for it. An assignor written in Python is refused by the consumer's constructor for the time being.
"""

from __future__ import annotations

from abc import ABC
from enum import IntEnum
from typing import ClassVar

__all__ = ["AbstractPartitionAssignor", "RebalanceProtocol"]


class RebalanceProtocol(IntEnum):
    """What a member does with its partitions while the group shares them out anew."""

    EAGER = 0
    """It gives all of them up first."""
    COOPERATIVE = 1
    """It gives up only those that go to others (KIP-429)."""


class AbstractPartitionAssignor(ABC):
    """A way to share partitions out among a group's members."""

    name: ClassVar[str] = ""
    """The name that the members vote with."""
    version: ClassVar[int] = 0
    """The version of what the members tell each other."""

    def supported_protocols(self) -> list[RebalanceProtocol]:
        """Return what members may do while partitions move, the preferred first."""
        return [RebalanceProtocol.EAGER]
