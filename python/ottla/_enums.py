"""Enumerations that can be named by value, by member, or by the member's name in any case."""

from __future__ import annotations

from typing import Any, Self

__all__ = ["EnumHelper"]


class EnumHelper:
    """Adds `build_from` and `value_for` to an enumeration."""

    @classmethod
    def build_from(cls, val: Any) -> Self:
        """Return the member that `val` is, has as its value, or names.

        Raises:
            ValueError: There is none.
        """
        if isinstance(val, cls):
            return val
        members: dict[str, Self] = cls.__members__  # type: ignore[attr-defined]
        for member in members.values():
            if member.value == val:  # type: ignore[attr-defined]
                return member
        name = str(val).strip().upper().replace("-", "_")
        if name not in members:
            raise ValueError(f"unknown {cls.__name__}: {val!r}; one of {', '.join(members)}")
        return members[name]

    @classmethod
    def value_for(cls, val: Any) -> Any:
        """Return the value of the member that `val` is, has as its value, or names."""
        return cls.build_from(val).value  # type: ignore[attr-defined]
