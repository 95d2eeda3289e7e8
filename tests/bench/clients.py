"""Clients in Python on a real Kafka: what a record costs the client's process, sent and received one by one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness import Contender, Measure, Options, Part, Took, kafka, ottla_python, peers, peers_python, run, scratch

CLIENT = Path(__file__).with_name("client.py")
PARTITIONS = 6

MEASURES = [
    Measure("cpu_us", "CPU µs/record", 2, ratio=True),
    Measure("krps", "k records/s", 0, ratio=True),
    Measure("stall_ms", "slowest 1,000, ms", 1),
    Measure("peak_mb", "peak MB", 0),
]

ADMIN = """
import sys
from ottla import KafkaAdminClient
from ottla.admin import NewTopic
admin = KafkaAdminClient(bootstrap_servers=sys.argv[2])
if sys.argv[1] == "create":
    admin.create_topics([NewTopic(sys.argv[3], int(sys.argv[4]), 1)])
    admin.wait_for_topics([sys.argv[3]])
else:
    admin.delete_topics([sys.argv[3]])
"""


def create(bootstrap: str) -> str:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    run([ottla_python(), "-c", ADMIN, "create", bootstrap, topic, str(PARTITIONS)])
    return topic


def delete(bootstrap: str, topic: str) -> None:
    run([ottla_python(), "-c", ADMIN, "delete", bootstrap, topic])


def work(python: Path, client: str, operation: str, bootstrap: str, topic: str, count: int, size: int) -> Took:
    said = run([python, CLIENT, client, operation, bootstrap, topic, str(count), str(size)])
    took: Took = json.loads(said)
    return took


def produce(python: Path, client: str, operation: str, bootstrap: str, count: int, size: int) -> Took:
    """Into a topic of its own, which is gone afterwards."""
    topic = create(bootstrap)
    try:
        return work(python, client, operation, bootstrap, topic, count, size)
    finally:
        delete(bootstrap, topic)


@contextmanager
def part(options: Options) -> Iterator[Part]:
    ours, theirs = ottla_python(), peers_python()
    if why := peers.missing("java"):
        raise RuntimeError(why)
    with scratch("clients") as data, kafka.KafkaBroker(data / "kafka", heap="1g") as broker:
        bootstrap = str(broker.bootstrap_servers)
        contenders: list[Contender] = []
        for size, many in ((100, 1_000_000), (1024, 400_000)):
            count, fewer = options.count(many), options.count(many // 8)
            unit = "100 B" if size == 100 else "1 KiB"
            sends = [
                ("ottla send()", ours, "ottla", "send", count),
                ("confluent produce()", theirs, "confluent", "produce", count),
                ("confluent produce_batch(1,000)", theirs, "confluent", "produce_batch", count),
                ("kafka-python send()", theirs, "kafka-python", "send", fewer),
                ("aiokafka send()", theirs, "aiokafka", "send", fewer),
            ]
            for name, python, client, operation, n in sends:
                action = partial(produce, python, client, operation, bootstrap, n, size)
                contenders.append(Contender(f"produce {unit}", name, action, client in {"ottla", "confluent"}))
            topic = create(bootstrap)
            # By a peer: batches as large as another client makes them.
            work(theirs, "confluent", "produce", bootstrap, topic, count, size)
            receives = [
                ("ottla for record in consumer", ours, "ottla", "iterate", count),
                ("ottla poll()", ours, "ottla", "poll", count),
                ("ottla consume(10,000)", ours, "ottla", "consume", count),
                ("confluent consume(10,000), tuned", theirs, "confluent", "consume_tuned", count),
                ("confluent consume(10,000), defaults", theirs, "confluent", "consume", count),
                ("kafka-python for record in consumer", theirs, "kafka-python", "iterate", fewer),
                ("kafka-python poll()", theirs, "kafka-python", "poll", fewer),
            ]
            for name, python, client, operation, n in receives:
                action = partial(work, python, client, operation, bootstrap, topic, n, size)
                contenders.append(Contender(f"consume {unit}", name, action, client == "ottla"))
        yield Part(
            f"Python clients on Apache Kafka {kafka.VERSION}: {PARTITIONS} partitions, acks=all, values like JSON",
            MEASURES,
            contenders,
            [
                "CPU: the client's process, all threads, user and system. Ratios to the group's first.",
                "Defaults, but for 'tuned': queued.min.messages, fetch.queue.backoff.ms=1, fetch.message.max.bytes.",
                "consume: first record included, so with the connection's and metadata's time.",
            ],
        )
