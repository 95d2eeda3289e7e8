"""aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from common import Patience, decode, encode, headers_in, headers_out, main

Record = dict[str, Any]


def refuse_errors(answer: Any) -> None:
    for name, code, *_ in getattr(answer, "topic_errors", None) or getattr(answer, "topic_error_codes", None) or ():
        if code != 0:
            raise RuntimeError(f"{name}: error {code}")


async def create(bootstrap: str, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    refuse_errors(await admin.create_topics([NewTopic(topic, partitions, 1)], timeout_ms=20_000))
    await admin.close()


async def topics(bootstrap: str) -> dict[str, int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
    await admin.close()
    return found


async def produce(bootstrap: str, topic: str, codec: str, records: list[Record]) -> list[list[int]]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type=None if codec == "none" else codec,
        acks="all",
        enable_idempotence=True,
        linger_ms=20,
    )
    await producer.start()
    futures = [
        await producer.send(
            topic,
            value=decode(record["value"]),
            key=decode(record["key"]),
            headers=headers_in(record),
            partition=record["partition"],
            timestamp_ms=record["timestamp"],
        )
        for record in records
    ]
    placed = await asyncio.wait_for(asyncio.gather(*futures), 40)
    await producer.stop()
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


async def consume(bootstrap: str, topic: str, partitions: int, count: int) -> list[Record]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, check_crcs=True
    )
    await consumer.start()
    consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
    patience = Patience()
    records: list[Record] = []
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += out(await consumer.getmany(timeout_ms=200))
    await consumer.stop()
    return records


async def member(bootstrap: str, group: str, topic: str) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=300,
        fetch_max_wait_ms=100,
    )

    class CommitFirst(ConsumerRebalanceListener):
        async def on_partitions_revoked(self, revoked: Any) -> None:
            if revoked:
                await consumer.commit()

        async def on_partitions_assigned(self, assigned: Any) -> None:
            pass

    consumer.subscribe([topic], listener=CommitFirst())
    await consumer.start()
    return consumer


def holds(consumer: AIOKafkaConsumer) -> list[int]:
    return sorted(p.partition for p in consumer.assignment())


async def group(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    everything = list(range(partitions))
    records: list[Record] = []
    phases = []
    first = await member(bootstrap, group, topic)
    patience = Patience()
    while holds(first) != everything and patience.lasts("the first member's partitions"):
        records += out(await first.getmany(timeout_ms=100, max_records=10))
    phases.append([holds(first)])
    joining = asyncio.ensure_future(member(bootstrap, group, topic))
    while not joining.done() and patience.lasts("the second member"):
        records += out(await first.getmany(timeout_ms=100, max_records=10))
    second = joining.result()
    while patience.lasts("partitions for both members"):
        records += out(await first.getmany(timeout_ms=100, max_records=10))
        records += out(await second.getmany(timeout_ms=100, max_records=10))
        if holds(first) and holds(second) and sorted(holds(first) + holds(second)) == everything:
            break
    phases.append([holds(first), holds(second)])
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += out(await first.getmany(timeout_ms=100))
        records += out(await second.getmany(timeout_ms=100))
    await second.commit()
    await second.stop()
    while holds(first) != everything and patience.lasts("the partitions of the member that left"):
        records += out(await first.getmany(timeout_ms=100))
    phases.append([holds(first)])
    await first.commit()
    await first.stop()
    return {"phases": phases, "records": records}


async def resume(bootstrap: str, topic: str, partitions: int, group: str, count: int) -> dict[str, Any]:
    consumer = await member(bootstrap, group, topic)
    committed = {str(p): await consumer.committed(TopicPartition(topic, p)) for p in range(partitions)}
    patience = Patience()
    records: list[Record] = []
    while len(records) < count and patience.lasts(f"record {len(records)} of {count}"):
        records += out(await consumer.getmany(timeout_ms=200))
    records += out(await consumer.getmany(timeout_ms=1_000))
    await consumer.commit()
    await consumer.stop()
    return {"committed": committed, "records": records}


async def offsets(bootstrap: str, topic: str, partitions: int, times: list[int]) -> dict[str, Any]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    each = [TopicPartition(topic, p) for p in range(partitions)]
    found = {}
    for instant in times:
        answer = await consumer.offsets_for_times(dict.fromkeys(each, instant))
        found[str(instant)] = {str(p.partition): -1 if at is None else at.offset for p, at in answer.items()}
    result = {
        "earliest": {str(p.partition): offset for p, offset in (await consumer.beginning_offsets(each)).items()},
        "latest": {str(p.partition): offset for p, offset in (await consumer.end_offsets(each)).items()},
        "times": found,
    }
    await consumer.stop()
    return result


async def delete_records(bootstrap: str, topic: str, before: dict[str, int]) -> dict[str, int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    wanted = {TopicPartition(topic, int(p)): RecordsToDelete(offset) for p, offset in before.items()}
    answer = await admin.delete_records(wanted, timeout_ms=20_000)
    await admin.close()
    return {str(p.partition): low for p, low in answer.items()}


async def delete(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    refuse_errors(await admin.delete_topics([topic], timeout_ms=20_000))
    await admin.close()


def blocking(step: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    return lambda **request: asyncio.run(step(**request))


if __name__ == "__main__":
    main(
        {
            "create": blocking(create),
            "topics": blocking(topics),
            "produce": blocking(produce),
            "consume": blocking(consume),
            "group": blocking(group),
            "resume": blocking(resume),
            "offsets": blocking(offsets),
            "delete_records": blocking(delete_records),
            "delete": blocking(delete),
        }
    )
