"""What the drivers share: one step of the scenario in as JSON on stdin, its result out as JSON on stdout.

A driver is one real client and nothing else: it knows how to do each step with that client. The tests judge.

A record is ``{"partition", "key", "value", "headers", "timestamp"}`` and, when it was read, ``"offset"``. Keys and
values are base64 or null, headers a list of ``[name, base64 or null]``. The steps:

- ``create``  topic, partitions
- ``topics``  -> the number of partitions of each topic
- ``produce``  topic, codec, records -> partition and offset of each (null where the client does not tell)
- ``consume``  topic, partitions, count -> the records, from the beginning
- ``group``  topic, partitions, group, count: a member joins and has every partition; a second joins; together they
  read everything; each commits; the second leaves and the first has every partition again -> the members' partitions
  in the three phases, and the records
- ``resume``  topic, partitions, group, count -> what was committed before, and the records of a lone member now
- ``offsets``  topic, partitions, times -> earliest, latest, and the offset for each time (-1: none)
- ``delete_records``  topic, before (partition -> offset) -> the lowest offset of each partition afterwards
- ``delete``  topic
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

#: Seconds within which everything a step waits for has to happen.
PATIENCE = 45.0


def encode(data: bytes | None) -> str | None:
    """Bytes as they travel to the tests."""
    return None if data is None else base64.b64encode(data).decode()


def decode(text: str | None) -> bytes | None:
    """Bytes as they come from the tests."""
    return None if text is None else base64.b64decode(text)


def headers_out(headers: Iterable[tuple[str, bytes | None]] | None) -> list[list[str | None]]:
    """Headers as they travel to the tests."""
    return [[name, encode(value)] for name, value in headers or ()]


def headers_in(record: dict[str, Any]) -> list[tuple[str, bytes | None]]:
    """Headers as clients take them."""
    return [(name, decode(value)) for name, value in record["headers"]]


class Patience:
    """Time that runs out: ``while patience.lasts("what is waited for"): ...``."""

    def __init__(self, seconds: float = PATIENCE) -> None:
        self.end = time.monotonic() + seconds

    def lasts(self, what: str) -> bool:
        """True, or an error that names what did not come."""
        if time.monotonic() > self.end:
            raise TimeoutError(f"waited too long for {what}")
        return True


def main(steps: dict[str, Callable[..., Any]]) -> None:
    """Runs the step on stdin."""
    request = json.load(sys.stdin)
    step = request.pop("step")
    result = steps[step](**request)
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")
