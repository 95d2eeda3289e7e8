"""confluent-kafka (librdkafka)."""

from __future__ import annotations

from typing import Any

from common import Patience, decode, encode, headers_in, headers_out, main
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

Record = dict[str, Any]


def admin(bootstrap: str) -> AdminClient:
    """A client; what it was asked is abandoned when nobody holds it any more."""
    return AdminClient({"bootstrap.servers": bootstrap})


def create(bootstrap: str, topic: str, partitions: int, config: dict[str, str] | None = None) -> None:
    client = admin(bootstrap)
    client.create_topics([NewTopic(topic, partitions, 1, config=config or {})], operation_timeout=20)[topic].result()


def topics(bootstrap: str) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in admin(bootstrap).list_topics(timeout=20).topics.items()}


def produce(bootstrap: str, topic: str, codec: str, records: list[Record], idempotent: bool = True) -> list[list[int]]:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": codec,
            "acks": "all",
            "enable.idempotence": idempotent,
            "linger.ms": 20,
        }
    )
    placed: list[list[int] | None] = [None] * len(records)
    errors: list[KafkaError] = []

    def delivered(index: int) -> Any:
        def callback(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                errors.append(error)
            placed[index] = [message.partition(), message.offset()]

        return callback

    for index, record in enumerate(records):
        producer.produce(
            topic,
            value=decode(record["value"]),
            key=decode(record["key"]),
            partition=record["partition"],
            timestamp=record["timestamp"],
            headers=headers_in(record),
            on_delivery=delivered(index),
        )
    left = producer.flush(40)
    if left or errors:
        raise RuntimeError(f"{left} records were not delivered; errors: {errors[:3]}")
    return placed  # type: ignore[return-value]


def out(message: Message) -> Record:
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": message.timestamp()[1],
        "key": encode(message.key()),
        "value": encode(message.value()),
        "headers": headers_out(message.headers()),
    }


def checked(messages: list[Message]) -> list[Message]:
    for message in messages:
        if message.error() is not None:
            raise KafkaException(message.error())
    return messages


def consume(bootstrap: str, topic: str, partitions: int, count: int) -> list[Record]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "check.crcs": True}
    )
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])
    patience = Patience()
    records: list[Record] = []
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += map(out, checked(consumer.consume(500, 0.2)))
    consumer.close()
    return records


def member(bootstrap: str, group: str, topic: str) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 10_000,
            "heartbeat.interval.ms": 300,
            "fetch.wait.max.ms": 100,
        }
    )

    def revoked(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        commit(consumer)

    consumer.subscribe([topic], on_revoke=revoked)
    return consumer


def commit(consumer: Consumer) -> None:
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        if error.args[0].code() != KafkaError._NO_OFFSET:  # noqa: SLF001 - so it is called
            raise


def holds(consumer: Consumer) -> list[int]:
    return sorted(p.partition for p in consumer.assignment())


def group(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    everything = list(range(partitions))
    records: list[Record] = []
    phases = []
    first = member(bootstrap, group, topic)
    patience = Patience()
    while holds(first) != everything and patience.lasts("the first member's partitions"):
        records += map(out, checked(first.consume(10, 0.1)))
    phases.append([holds(first)])
    second = member(bootstrap, group, topic)
    while patience.lasts("partitions for both members"):
        records += map(out, checked(first.consume(10, 0.1)))
        records += map(out, checked(second.consume(10, 0.1)))
        if holds(first) and holds(second) and sorted(holds(first) + holds(second)) == everything:
            break
    phases.append([holds(first), holds(second)])
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += map(out, checked(first.consume(100, 0.1)))
        records += map(out, checked(second.consume(100, 0.1)))
    commit(second)
    second.close()
    while holds(first) != everything and patience.lasts("the partitions of the member that left"):
        records += map(out, checked(first.consume(100, 0.1)))
    phases.append([holds(first)])
    commit(first)
    first.close()
    return {"phases": phases, "records": records}


def resume(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    consumer = member(bootstrap, group, topic)
    committed = consumer.committed([TopicPartition(topic, p) for p in range(partitions)], timeout=20)
    patience = Patience()
    records: list[Record] = []
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += map(out, checked(consumer.consume(100, 0.2)))
    records += map(out, checked(consumer.consume(100, 1.0)))
    commit(consumer)
    consumer.close()
    return {"committed": {str(p.partition): p.offset for p in committed}, "records": records}


def offsets(bootstrap: str, topic: str, partitions: int, times: list[int]) -> dict[str, Any]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused"})
    watermarks = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20) for p in range(partitions)}
    found = {}
    for instant in times:
        answer = consumer.offsets_for_times([TopicPartition(topic, p, instant) for p in range(partitions)], timeout=20)
        for each in answer:
            if each.error is not None:
                raise KafkaException(each.error)
        found[str(instant)] = {str(each.partition): each.offset for each in answer}
    consumer.close()
    return {
        "earliest": {str(p): low for p, (low, _) in watermarks.items()},
        "latest": {str(p): high for p, (_, high) in watermarks.items()},
        "times": found,
    }


def delete_records(bootstrap: str, topic: str, before: dict[str, int]) -> dict[str, int]:
    client = admin(bootstrap)
    futures = client.delete_records([TopicPartition(topic, int(p), offset) for p, offset in before.items()])
    return {str(partition.partition): future.result().low_watermark for partition, future in futures.items()}


def delete(bootstrap: str, topic: str) -> None:
    client = admin(bootstrap)
    client.delete_topics([topic], operation_timeout=20)[topic].result()


if __name__ == "__main__":
    main(
        {
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
    )
