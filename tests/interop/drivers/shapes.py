"""Topics of every shape that a backup has to keep: written, read whole, and gone on with, by other people's clients.

One step a run, asked for in JSON on standard input; the answer is JSON on standard output.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaConsumer
from kafka import TopicPartition as Partition

DAY = 86_400_000
T0 = 1_790_000_000_000
LONG = {"segment.bytes": str(1 << 20), "retention.ms": "-1"}
COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.01",
    "segment.bytes": str(1 << 20),
    "delete.retention.ms": str(7 * DAY),
}
#: Their partitions and configurations.
TOPICS: dict[str, tuple[int, dict[str, str]]] = {
    "appended": (1, {**LONG, "message.timestamp.type": "LogAppendTime"}),
    "codecs": (2, LONG),
    "compacted": (1, COMPACTED),
    "empty": (2, LONG),
    "transactions": (1, LONG),
    "trimmed": (3, LONG),
}
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def admin(asked: dict[str, Any]) -> AdminClient:
    return AdminClient({"bootstrap.servers": asked["bootstrap"]})


def producer(asked: dict[str, Any], **config: Any) -> Producer:
    base = {"bootstrap.servers": asked["bootstrap"], "linger.ms": 5, "batch.size": 20_000}
    return Producer(base | {name.replace("_", "."): value for name, value in config.items()})


def create(asked: dict[str, Any]) -> None:
    replicas = asked.get("replicas", 1)
    new = [NewTopic(name, count, replicas, config=config) for name, (count, config) in TOPICS.items()]
    # Its futures live no longer than it.
    client = admin(asked)
    for future in client.create_topics(new).values():
        future.result(30)


def flush(one: Producer) -> None:
    assert one.flush(60) == 0


def write(asked: dict[str, Any]) -> None:
    """Writes to every topic; `scale` times as much."""
    scale, first = asked.get("scale", 1), asked.get("first", 0)
    for number, codec in enumerate(CODECS):
        one = producer(asked, compression_type=codec, enable_idempotence=True)
        for record in range(first, first + 400 * scale):
            # Empty and null keys and values, equal headers, and 25 days in a batch.
            one.produce(
                "codecs",
                key=[None, b"", b"%s %d" % (codec.encode(), record)][record % 3],
                value=[b"%d" % record * 40, b"", None, "ß".encode()][record % 4],
                partition=record % 2,
                timestamp=T0 + (record % 26) * DAY + number,
                headers=[("codec", codec), ("codec", None), ("", b"\x00\xff"), ("codec", b"")][: record % 5],
            )
        flush(one)
        one = producer(asked, compression_type=codec)
        for record in range(200 * scale):
            one.produce("appended", value=b"%d" % record, timestamp=T0)
        flush(one)
    for number in range(6):
        one = producer(asked, transactional_id=f"t{number % 3}")
        one.init_transactions(30)
        one.begin_transaction()
        for record in range(7):
            one.produce("transactions", value=f"{first} {number} {record}", key=b"k", timestamp=T0 + record)
        one.flush(30)
        (one.abort_transaction if number % 3 == 1 else one.commit_transaction)(30)
    one = producer(asked)
    for record in range(50):
        one.produce("transactions", value=f"plain {first} {record}", timestamp=T0)
        for partition in range(3):
            one.produce("trimmed", value=b"%d" % record * 10, partition=partition, timestamp=T0 + record)
        one.produce("empty", value=b"", partition=0)
    flush(one)
    if first == 0:
        cut = [TopicPartition("trimmed", 0, 23), TopicPartition("trimmed", 1, -1)]
        client = admin(asked)
        for future in client.delete_records(cut).values():
            future.result(30)


def compact(asked: dict[str, Any]) -> None:
    """Writes the same keys again and again, some of them deleted, and waits until few are left."""
    for number, codec in enumerate(CODECS):
        one = producer(asked, compression_type=codec)
        for record in range(1_000):
            value = None if record % 40 == number else f"{codec} {record} ".encode() * 5
            one.produce("compacted", key=f"key {record % 40}", value=value, headers=[("codec", codec)])
        flush(one)
    one = producer(asked)
    for record in range(1_600):
        one.produce("compacted", key=f"filler {record % 3}", value=b"x" * 1000)
    flush(one)
    end = time.monotonic() + 60
    while (count := read_partition(asked, "compacted", 0, "read_uncommitted")[2]) > 2_500:
        assert time.monotonic() < end, f"not compacted, {count} are left"
        time.sleep(0.5)
    # It may go on: wait until it has nothing left to do.
    before = -1
    while before != count:
        time.sleep(2)
        before, count = count, read_partition(asked, "compacted", 0, "read_uncommitted")[2]


def read_partition(asked: dict[str, Any], topic: str, partition: int, level: str) -> list[Any]:
    """Where it begins and ends, how many records there are, and a digest of each of them whole."""
    consumer = Consumer(
        {
            "bootstrap.servers": asked["bootstrap"],
            "group.id": uuid.uuid4().hex,
            "check.crcs": True,
            "isolation.level": level,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
        }
    )
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
    consumer.assign([TopicPartition(topic, partition, low)])
    digest, count = hashlib.sha256(), 0
    while True:
        message = consumer.poll(30)
        assert message is not None, f"nothing came for 30 s topic={topic} partition={partition} level={level}"
        if message.error():
            assert message.error().name() == "_PARTITION_EOF", message.error()
            break
        time_kind, stamp = message.timestamp()
        if asked.get("kinds", True) is False:
            time_kind = 0
        record = (message.offset(), message.key(), message.value(), time_kind, stamp, message.headers())
        digest.update(repr(record).encode())
        count += 1
    consumer.close()
    return [low, high, count, digest.hexdigest()]


def read(asked: dict[str, Any]) -> dict[str, Any]:
    """Every record of `topics`."""
    answer = {}
    renamed = asked.get("renamed", {})
    for topic in asked.get("topics") or TOPICS:
        for partition in range(TOPICS[topic][0]):
            name = f"{topic}-{partition}"
            for level in asked.get("levels") or ["read_uncommitted", "read_committed"]:
                answer[f"{name} {level}"] = read_partition(asked, renamed.get(topic, topic), partition, level)
    return answer


def commit(asked: dict[str, Any]) -> None:
    """Has a group of librdkafka's and one of kafka-python's read a part of some topics."""
    for group, topic, count in [("librdkafka", "codecs", 300), ("librdkafka", "transactions", 20)]:
        consumer = Consumer(
            {
                "bootstrap.servers": asked["bootstrap"],
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        consumer.subscribe([topic])
        messages = [message for message in consumer.consume(count, 30) if not message.error()]
        assert len(messages) == count
        last = {message.partition(): message for message in messages}
        consumer.commit(
            offsets=[
                TopicPartition(topic, partition, message.offset() + 1, metadata=f"note {partition}")
                for partition, message in last.items()
            ],
            asynchronous=False,
        )
        consumer.close()
    consumer = KafkaConsumer(
        "compacted",
        bootstrap_servers=asked["bootstrap"],
        group_id="kafka-python",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=30,
    )
    while not consumer.poll(1_000):
        pass
    consumer.commit()
    assert consumer.committed(Partition("compacted", 0)) > 0
    consumer.close()


def groups(asked: dict[str, Any]) -> dict[str, Any]:
    """What groups have committed, with their notes."""
    answer, client = {}, admin(asked)
    for group in asked.get("groups") or ["kafka-python", "librdkafka"]:
        future = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
        found = future.result(30).topic_partitions
        rows = [[one.topic, one.partition, one.offset, one.metadata or ""] for one in found if one.offset >= 0]
        answer[group] = sorted(rows)
    return answer


def go_on(asked: dict[str, Any]) -> dict[str, Any]:
    """Has both groups go on where they stood, to the end; the offsets that each gets."""
    offsets: dict[str, list[int]] = {}
    for topic in ["codecs", "transactions"]:
        consumer = Consumer(
            {
                "bootstrap.servers": asked["bootstrap"],
                "group.id": "librdkafka",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            }
        )
        consumer.subscribe([topic])
        ended = 0
        while ended < TOPICS[topic][0]:
            message = consumer.poll(30)
            assert message is not None, f"nothing came for 30 s topic={topic}"
            if message.error():
                assert message.error().name() == "_PARTITION_EOF", message.error()
                ended += 1
                continue
            offsets.setdefault(f"{topic}-{message.partition()}", []).append(message.offset())
        consumer.close()
    consumer = KafkaConsumer(
        "compacted",
        bootstrap_servers=asked["bootstrap"],
        group_id="kafka-python",
        auto_offset_reset="none",
        enable_auto_commit=False,
    )
    partition = Partition("compacted", 0)
    end = consumer.end_offsets([partition])[partition]
    deadline = time.monotonic() + 60
    while not consumer.assignment() or consumer.position(partition) < end:
        assert time.monotonic() < deadline, "kafka-python does not come to the end"
        for records in consumer.poll(500).values():
            offsets.setdefault("compacted-0", []).extend(record.offset for record in records)
    consumer.close()
    return {name: [found[0], len(found), found[-1]] for name, found in sorted(offsets.items())}


STEPS = {
    "create": create,
    "write": write,
    "compact": compact,
    "read": read,
    "commit": commit,
    "groups": groups,
    "go_on": go_on,
}

if __name__ == "__main__":
    request = json.load(sys.stdin)
    print(json.dumps(STEPS[request["step"]](request)))
