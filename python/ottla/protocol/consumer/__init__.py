"""Isolation levels and ways to name an offset."""

from __future__ import annotations

from enum import IntEnum

from ottla._enums import EnumHelper

__all__ = ["IsolationLevel", "OffsetResetStrategy", "OffsetSpec", "OffsetTimestamp"]


class IsolationLevel(EnumHelper, IntEnum):
    """Whether records of open and aborted transactions are seen."""

    READ_UNCOMMITTED = 0
    """They are."""
    READ_COMMITTED = 1
    """They are not."""


class OffsetSpec(EnumHelper, IntEnum):
    """An offset by what it is; the values are those of ListOffsets' timestamps."""

    LATEST = -1
    """The offset of the next record to be written."""
    EARLIEST = -2
    """The first offset that is still there."""
    MAX_TIMESTAMP = -3
    """The offset of the record with the greatest timestamp (KIP-734)."""
    EARLIEST_LOCAL = -4
    """The first offset on the broker's own disk (KIP-405)."""
    LATEST_TIERED = -5
    """The last offset in tiered storage (KIP-1005)."""


class OffsetResetStrategy:
    """Where to start without a committed offset."""

    LATEST = -1
    """At the end."""
    EARLIEST = -2
    """At the beginning."""
    NONE = 0
    """Nowhere: raise."""


class OffsetTimestamp(int):
    """A time, in milliseconds since 1970, where an offset could stand: the first offset at or after it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"OffsetTimestamp({int(self)})"
