"""The real clients: how each driver is started, and what its client can express."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from program import ok
from servers import ROOT, peers

DRIVERS = Path(__file__).resolve().parent / "drivers"
#: Has Ottla as a user gets it.
PYTHON = ROOT / ".venv" / "bin" / "python"

Record = dict[str, Any]


@dataclass(frozen=True)
class Client:
    """A real client behind its driver."""

    name: str
    driver: str
    peer: str
    #: Steps of the scenario that this client has no call for; another client does them for it.
    lacks: frozenset[str] = frozenset()
    #: Keys and values may be any bytes, and empty.
    binary: bool = True
    #: A header's value may be null.
    null_headers: bool = True
    #: The producer is told the partition and the timestamp.
    places: bool = True
    #: The producer is told the partition, but not the timestamp.
    stamps: bool = True

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.peer == "ottla":
            lacks = "the package ottla is not installed in .venv (scripts/venv does that)"
            imported = PYTHON.exists() and subprocess.run([PYTHON, "-c", "import ottla"], stderr=subprocess.DEVNULL)
            return None if imported and imported.returncode == 0 else lacks
        why: str | None = peers.missing(self.peer)
        return why

    def do(self, step: str, bootstrap: str, **request: Any) -> Any:
        """Runs one step; what the driver said when it failed is in the error."""
        programs = {"python": str(peers.python()), "kafkajs": "node", "ottla": str(PYTHON)}
        program = [programs.get(self.peer, sys.executable)]
        environment = dict(os.environ, KAFKAJS_HOME=str(peers.kafkajs_home()), KAFKAJS_NO_PARTITIONER_WARNING="1")
        environment.pop("PYTHONPATH", None)
        run = subprocess.run(
            [*program, str(DRIVERS / self.driver)],
            input=json.dumps({"step": step, "bootstrap": bootstrap, **request}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=150,
            env=environment,
        )
        if run.returncode != 0:
            raise AssertionError(f"{self.name} could not {step}:\n{run.stderr.strip()[-3000:]}")
        return json.loads(run.stdout.splitlines()[-1])


class Running:
    """A driver that writes lines until its standard input is closed."""

    def __init__(self, errors: Path, *command: str | Path) -> None:
        self.lines: list[list[str]] = []
        self._errors = errors
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.open("wb"),
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.split())

    def wait_for_more(self, count: int, what: str = "line") -> None:
        """Waits for so many further lines."""
        enough, end = len(self.lines) + count, time.monotonic() + 90
        while len(self.lines) < enough:
            assert self.process.poll() is None, f"it gave up: {self._errors.read_text()[-1000:]}"
            assert time.monotonic() < end, f"no {what} comes any more: {self._errors.read_text()[-1000:]}"
            time.sleep(0.01)

    def say(self, line: str) -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Closes its standard input, and waits until it has ended well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(120) == 0, f"it failed: {self._errors.read_text()[-1000:]}"
        self._reader.join()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


CONFLUENT = Client("confluent", "confluent.py", "python")
OTTLA = Client("ottla", "ottla_client.py", "ottla", null_headers=False)
CLIENTS = [
    CONFLUENT,
    OTTLA,
    Client("kafka-python", "kafka_python.py", "python", null_headers=False),
    Client("aiokafka", "aio.py", "python"),
    Client("kafkajs", "kafkajs.mjs", "kafkajs", null_headers=False),
    Client("java", "java_tools.py", "java", binary=False, places=False, stamps=False),
    Client(
        "kcat",
        "kcat.py",
        "kcat",
        lacks=frozenset({"create", "delete_records", "delete"}),
        binary=False,
        null_headers=False,
        stamps=False,
    ),
]


def decode(text: str | None) -> bytes | None:
    """Bytes as the drivers give them."""
    return None if text is None else base64.b64decode(text)


def encode(data: bytes | None) -> str | None:
    """Bytes as the drivers take them."""
    return None if data is None else base64.b64encode(data).decode()


def sample(client: Client, count: int, partitions: int, seed: str) -> list[Record]:
    """Records that look like the real thing and like its corners, as far as this client can say them."""
    chance = random.Random(seed)
    start = int(time.time() * 1000) - 3_600_000
    records = []
    for i in range(count):
        key: bytes | None = f"{seed}-key-{i % 17}".encode()
        value: bytes | None = json.dumps({"seed": seed, "n": i, "text": "snow, schnee, neige " * (i % 5)}).encode()
        headers: list[tuple[str, bytes | None]] = []
        if i % 5 == 1:
            key = None
        elif i % 5 == 2:
            value = None
        elif client.binary and i % 11 == 3:
            key, value = b"", b""
        elif client.binary and i % 11 == 5:
            key, value = chance.randbytes(20), chance.randbytes(300)
        if i % 50 == 43:
            value = ("a long value, well compressed " * 600).encode()
        if i % 3 == 0:
            headers = [("trace", b"abc"), ("trace", b"def"), ("content-type", b"application/json")]
            if client.binary:
                headers.append(("bytes", bytes(range(256))))
            if client.null_headers:
                headers.append(("nothing", None))
        records.append(
            {
                "partition": i % partitions,
                "key": encode(key),
                "value": encode(value),
                "headers": [[name, encode(data)] for name, data in headers],
                # Late ones, too: a producer's clock is not the log's order.
                "timestamp": start + i * 1000 - (7_500 if i % 13 == 12 else 0),
            }
        )
    return records


def essence(client: Client, record: Record) -> str:
    """What of a record must come back unchanged, given what the client could say."""
    fields = ["key", "value", "headers"]
    if client.places:
        fields.append("partition")
    if client.stamps:
        fields.append("timestamp")
    return json.dumps([record[field] for field in fields])


def check_same(client: Client, sent: list[Record], received: list[Record]) -> None:
    """Every record came once, unchanged, and in each partition in the order in which it was sent."""
    missing = Counter(essence(client, record) for record in sent)
    missing.subtract(essence(client, record) for record in received)
    different = {text: count for text, count in missing.items() if count}
    assert not different, f"{len(different)} records differ (1: lacks, -1: surplus), e.g. {list(different.items())[:3]}"
    places = Counter((record["partition"], record["offset"]) for record in received)
    assert max(places.values(), default=1) == 1, (
        f"came twice: {[place for place, count in places.items() if count > 1][:3]}"
    )
    if client.places and client.stamps:
        for partition in {record["partition"] for record in sent}:
            in_order = sorted((r for r in received if r["partition"] == partition), key=lambda r: r["offset"])
            wanted = [essence(client, r) for r in sent if r["partition"] == partition]
            assert [essence(client, r) for r in in_order] == wanted, (
                f"partition {partition} is not in the order of sending"
            )


def check_acknowledged(stored: dict[tuple[int, int], str], acknowledged: list[list[str]]) -> None:
    """Every record (number, partition, offset) is where it was acknowledged, and nothing else is, once and in order."""
    lost = [line for line in acknowledged if stored.get((int(line[1]), int(line[2]))) != line[0]]
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged records are not where they were, e.g. {lost[:5]}"
    for partition in {partition for partition, _ in stored}:
        values = [int(value) for (p, _), value in sorted(stored.items()) if p == partition]
        assert values == sorted(set(values)), f"a record of partition {partition} is there twice, or out of order"
    assert len(stored) == len(acknowledged), "all were acknowledged in the end"


def records(place: str | Path, topic: str) -> dict[tuple[int, int], str]:
    """What `ottla consume` reads there: the value at each partition and offset."""
    lines = ok("consume", place, topic).lines
    stored = {(line["partition"], line["offset"]): str(line["value"]) for line in lines}
    assert len(stored) == len(lines), "a reader got a record twice"
    return stored
