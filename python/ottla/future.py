"""A result that is not there yet, with callbacks."""

from ottla._ottla import Future
from ottla.errors import RetriableError

__all__ = ["Future", "RetriableError"]
