"""A future of Ottla in a loop of asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from ottla._ottla import Future

__all__ = ["awaited"]


def awaited(future: Future) -> Generator[Any, None, Any]:
    """Return what `await future` steps through: a future of the running loop that ends as this one does."""
    loop = asyncio.get_running_loop()
    mine: asyncio.Future[Any] = loop.create_future()

    def success(value: Any) -> None:
        if not mine.done():
            mine.set_result(value)

    def failure(error: BaseException) -> None:
        if not mine.done():
            mine.set_exception(error)

    future.add_callback(lambda value: loop.call_soon_threadsafe(success, value))
    future.add_errback(lambda error: loop.call_soon_threadsafe(failure, error))
    return mine.__await__()
