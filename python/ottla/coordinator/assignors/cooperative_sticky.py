"""The cooperative sticky assignor."""

from ottla.coordinator.assignors.abstract import RebalanceProtocol
from ottla.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

__all__ = ["CooperativeStickyAssignor"]


class CooperativeStickyAssignor(StickyPartitionAssignor):
    """As the sticky assignor, and members go on reading what they keep while the rest moves (KIP-429)."""

    name = "cooperative-sticky"
    version = 1

    def supported_protocols(self) -> list[RebalanceProtocol]:
        """Return what members may do while partitions move, the preferred first."""
        return [RebalanceProtocol.COOPERATIVE, RebalanceProtocol.EAGER]
