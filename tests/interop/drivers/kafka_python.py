"""kafka-python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import Patience, decode, encode, headers_in, headers_out, main
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

Record = dict[str, Any]


def admin(bootstrap: str) -> KafkaAdminClient:
    return KafkaAdminClient(bootstrap_servers=bootstrap)


def create(bootstrap: str, topic: str, partitions: int) -> None:
    client = admin(bootstrap)
    client.create_topics([NewTopic(topic, partitions, 1)], timeout_ms=20_000)
    client.close()


def topics(bootstrap: str) -> dict[str, int]:
    client = admin(bootstrap)
    found = {topic["name"]: len(topic["partitions"]) for topic in client.describe_topics()}
    client.close()
    return found


def produce(bootstrap: str, topic: str, codec: str, records: list[Record]) -> list[list[int]]:
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type=None if codec == "none" else codec, acks="all", linger_ms=20
    )
    futures = [
        producer.send(
            topic,
            value=decode(record["value"]),
            key=decode(record["key"]),
            headers=headers_in(record),
            partition=record["partition"],
            timestamp_ms=record["timestamp"],
        )
        for record in records
    ]
    producer.flush(40)
    placed = [future.get(20) for future in futures]
    producer.close()
    return [[each.partition, each.offset] for each in placed]


def out(polled: dict[TopicPartition, list[Any]]) -> list[Record]:
    return [
        {
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": encode(record.key),
            "value": encode(record.value),
            "headers": headers_out(record.headers),
        }
        for records in polled.values()
        for record in records
    ]


def consume(bootstrap: str, topic: str, partitions: int, count: int) -> list[Record]:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, check_crcs=True
    )
    consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
    patience = Patience()
    records: list[Record] = []
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += out(consumer.poll(timeout_ms=200))
    consumer.close()
    return records


def member(bootstrap: str, group: str, topic: str) -> KafkaConsumer:
    # A listener may not block, so only the automatic commit comes before the partitions are given up.
    return KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=True,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=300,
        fetch_max_wait_ms=100,
    )


def holds(consumer: KafkaConsumer) -> list[int]:
    return sorted(p.partition for p in consumer.assignment())


def group(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    everything = list(range(partitions))
    records: list[Record] = []
    phases = []
    first = member(bootstrap, group, topic)
    patience = Patience()
    while holds(first) != everything and patience.lasts("the first member's partitions"):
        records += out(first.poll(timeout_ms=100, max_records=10))
    phases.append([holds(first)])
    second = member(bootstrap, group, topic)
    while patience.lasts("partitions for both members"):
        records += out(first.poll(timeout_ms=100, max_records=10))
        records += out(second.poll(timeout_ms=100, max_records=10))
        if holds(first) and holds(second) and sorted(holds(first) + holds(second)) == everything:
            break
    phases.append([holds(first), holds(second)])
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += out(first.poll(timeout_ms=100))
        records += out(second.poll(timeout_ms=100))
    second.commit()
    second.close()
    while holds(first) != everything and patience.lasts("the partitions of the member that left"):
        records += out(first.poll(timeout_ms=100))
    phases.append([holds(first)])
    first.commit()
    first.close()
    return {"phases": phases, "records": records}


def resume(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    consumer = member(bootstrap, group, topic)
    committed = {str(p): consumer.committed(TopicPartition(topic, p)) for p in range(partitions)}
    patience = Patience()
    records: list[Record] = []
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += out(consumer.poll(timeout_ms=200))
    records += out(consumer.poll(timeout_ms=1_000))
    consumer.commit()
    consumer.close()
    return {"committed": committed, "records": records}


def offsets(bootstrap: str, topic: str, partitions: int, times: list[int]) -> dict[str, Any]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    each = [TopicPartition(topic, p) for p in range(partitions)]
    found = {}
    for instant in times:
        answer = consumer.offsets_for_times(dict.fromkeys(each, instant))
        found[str(instant)] = {str(p.partition): -1 if at is None else at.offset for p, at in answer.items()}
    result = {
        "earliest": {str(p.partition): offset for p, offset in consumer.beginning_offsets(each).items()},
        "latest": {str(p.partition): offset for p, offset in consumer.end_offsets(each).items()},
        "times": found,
    }
    consumer.close()
    return result


def delete_records(bootstrap: str, topic: str, before: dict[str, int]) -> dict[str, int]:
    client = admin(bootstrap)
    answer = client.delete_records(
        {TopicPartition(topic, int(p)): offset for p, offset in before.items()}, timeout_ms=20_000
    )
    client.close()
    return {str(p.partition): result["low_watermark"] for p, result in answer.items()}


def delete(bootstrap: str, topic: str) -> None:
    client = admin(bootstrap)
    client.delete_topics([topic], timeout_ms=20_000)
    client.close()


STEPS: dict[str, Callable[..., Any]] = {
    "create": create,
    "topics": topics,
    "produce": produce,
    "consume": consume,
    "group": group,
    "resume": resume,
    "offsets": offsets,
    "delete_records": delete_records,
    "delete": delete,
}

if __name__ == "__main__":
    main(STEPS)
