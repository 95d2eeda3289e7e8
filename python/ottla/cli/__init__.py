"""The command line as a function."""

from __future__ import annotations

from ottla.__main__ import main

__all__ = ["run_cli"]


def run_cli(args: list[str] | None = None) -> int:
    """Run `ottla` with these arguments, or with the program's own, and return its exit code."""
    return main(args)
