"""The thread that hands the core's log records to `logging`."""

from __future__ import annotations

import atexit
import threading

from ottla import _ottla

__all__ = ["start"]


def _run() -> None:
    while _ottla._drain_logs():
        pass


def start() -> None:
    """Start the thread; it ends before the interpreter does."""
    thread = threading.Thread(target=_run, name="ottla-logging", daemon=True)
    thread.start()

    def stop() -> None:
        _ottla._stop_logs()
        thread.join(timeout=5.0)

    atexit.register(stop)
