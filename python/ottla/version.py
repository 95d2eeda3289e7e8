"""The version of this package."""

from ottla._ottla import __version__

__all__ = ["__version__"]
