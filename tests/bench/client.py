"""One client's work, in a process of its own: produces or consumes so many records and prints what that took, as JSON.

    client.py CLIENT OPERATION BOOTSTRAP TOPIC COUNT SIZE

Runs under the interpreter that has the client. Connecting and finding the topic's partitions come before the clock is
started; `flush` comes before it is stopped. CPU time is that of the whole process: all threads, user and system.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

PARTITIONS = 6
#: The longest time for so many records is what tells a client that stalls.
STRIDE = 1_000
Took = dict[str, float]


def values(size: int) -> list[bytes]:
    """A thousand different values that look like JSON, of exactly `size` bytes."""
    made = []
    for i in range(1000):
        text = f'{{"id":{i},"name":"record {i}","amount":{i * 7919 % 10_007}.{i % 100},"tags":['
        n = i
        while len(text) < size - 2:
            n = (n * 6_364_136_223_846_793_005 + 1) % (1 << 64)
            text += f"{n >> 40},"
        made.append((text[: size - 2] + "]}").encode())
    return made


class Meter:
    """What passes between its start and `stop`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.longest = 0.0
        self.cpu = self._cpu()
        self.start = self.last = time.perf_counter()

    @staticmethod
    def _cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def stride(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self.last)
        self.last = now

    def stop(self) -> Took:
        seconds, cpu = time.perf_counter() - self.start, self._cpu() - self.cpu
        return {
            "cpu_us": cpu * 1e6 / self.count,
            "krps": self.count / seconds / 1e3,
            "stall_ms": self.longest * 1e3,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def every(count: int) -> Iterator[range]:
    """`range(count)` in strides."""
    for begin in range(0, count, STRIDE):
        yield range(begin, min(begin + STRIDE, count))


def check(got: int, count: int, bytes_: int, size: int) -> None:
    if got < count or bytes_ != got * size:
        raise SystemExit(f"{got} records and {bytes_} bytes came instead of {count} and {count * size}")


def send(producer: Any, topic: str, count: int, size: int) -> Took:
    """The loop that kafka-python's users write; Ottla's are the same."""
    data = values(size)
    assert len(producer.partitions_for(topic)) == PARTITIONS
    # The first record opens connections, and with kafka-python asks for the producer id.
    producer.send(topic, data[0]).get(30)
    meter = Meter(count)
    put = producer.send
    for stride in every(count):
        for i in stride:
            put(topic, data[i % 1000])
        meter.stride()
    producer.flush()
    took = meter.stop()
    producer.close()
    return took


def ottla_send(bootstrap: str, topic: str, count: int, size: int) -> Took:
    from ottla import KafkaProducer  # noqa: PLC0415

    return send(KafkaProducer(bootstrap_servers=bootstrap), topic, count, size)


def kafka_python_send(bootstrap: str, topic: str, count: int, size: int) -> Took:
    from kafka import KafkaProducer  # noqa: PLC0415

    return send(KafkaProducer(bootstrap_servers=bootstrap, acks="all"), topic, count, size)


def iterate(consumer: Any, count: int, size: int) -> Took:
    """`for record in consumer`."""
    meter = Meter(count)
    got = bytes_ = 0
    for record in consumer:
        bytes_ += len(record.value)
        got += 1
        if got % STRIDE == 0:
            meter.stride()
        if got == count:
            break
    took = meter.stop()
    check(got, count, bytes_, size)
    consumer.close()
    return took


def poll(consumer: Any, count: int, size: int, most: int | None = None) -> Took:
    """`consumer.poll` until all is there."""
    meter = Meter(count)
    got = bytes_ = due = 0
    while got < count:
        for records in consumer.poll(timeout_ms=10_000, max_records=most).values():
            for record in records:
                bytes_ += len(record.value)
            got += len(records)
        if got >= due:
            meter.stride()
            due = got + STRIDE
    took = meter.stop()
    check(got, count, bytes_, size)
    consumer.close()
    return took


def assigned(module: Any, bootstrap: str, topic: str) -> Any:
    consumer = module.KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    consumer.assign([module.TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    return consumer


def ottla_iterate(bootstrap: str, topic: str, count: int, size: int) -> Took:
    import ottla  # noqa: PLC0415

    return iterate(assigned(ottla, bootstrap, topic), count, size)


def ottla_poll(bootstrap: str, topic: str, count: int, size: int) -> Took:
    import ottla  # noqa: PLC0415

    return poll(assigned(ottla, bootstrap, topic), count, size)


def ottla_consume(bootstrap: str, topic: str, count: int, size: int) -> Took:
    import ottla  # noqa: PLC0415

    consumer = assigned(ottla, bootstrap, topic)
    meter = Meter(count)
    got = bytes_ = 0
    while got < count:
        records = consumer.consume(10_000, 1.0)
        for record in records:
            bytes_ += len(record.value)
        got += len(records)
        meter.stride()
    took = meter.stop()
    check(got, count, bytes_, size)
    consumer.close()
    return took


def kafka_python_iterate(bootstrap: str, topic: str, count: int, size: int) -> Took:
    import kafka  # noqa: PLC0415

    return iterate(assigned(kafka, bootstrap, topic), count, size)


def kafka_python_poll(bootstrap: str, topic: str, count: int, size: int) -> Took:
    import kafka  # noqa: PLC0415

    return poll(assigned(kafka, bootstrap, topic), count, size)


def confluent_producer(bootstrap: str, topic: str, first: bytes) -> Any:
    from confluent_kafka import Producer  # noqa: PLC0415

    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    assert len(producer.list_topics(topic, 30).topics[topic].partitions) == PARTITIONS
    producer.produce(topic, first)
    producer.flush(30)
    return producer


def confluent_produce(bootstrap: str, topic: str, count: int, size: int) -> Took:
    data = values(size)
    producer = confluent_producer(bootstrap, topic, data[0])
    meter = Meter(count)
    produce, serve = producer.produce, producer.poll
    for stride in every(count):
        for i in stride:
            try:
                produce(topic, data[i % 1000])
            except BufferError:
                while True:
                    serve(0.01)
                    try:
                        produce(topic, data[i % 1000])
                        break
                    except BufferError:
                        pass
        serve(0)
        meter.stride()
    producer.flush()
    return meter.stop()


def confluent_produce_batch(bootstrap: str, topic: str, count: int, size: int) -> Took:
    data = [{"value": value} for value in values(size)]
    producer = confluent_producer(bootstrap, topic, values(size)[0])
    meter = Meter(count)
    for stride in every(count):
        batch = [dict(message) for message in data[: len(stride)]]
        while batch:
            producer.produce_batch(topic, batch)
            # What did not fit says so, and is given again.
            batch = [{"value": message["value"]} for message in batch if "_error" in message]
            producer.poll(0.01 if batch else 0)
        meter.stride()
    producer.flush()
    return meter.stop()


def confluent_consume(bootstrap: str, topic: str, count: int, size: int, **tuned: Any) -> Took:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition  # noqa: PLC0415

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False, **tuned})
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    meter = Meter(count)
    got = bytes_ = 0
    while got < count:
        messages = consumer.consume(10_000, 1.0)
        for message in messages:
            bytes_ += len(message.value())
        got += len(messages)
        meter.stride()
    took = meter.stop()
    check(got, count, bytes_, size)
    consumer.close()
    return took


def confluent_consume_tuned(bootstrap: str, topic: str, count: int, size: int) -> Took:
    tuned = {"queued.min.messages": 1_000_000, "fetch.queue.backoff.ms": 1, "fetch.message.max.bytes": 10_000_000}
    return confluent_consume(bootstrap, topic, count, size, **tuned)


def aiokafka_send(bootstrap: str, topic: str, count: int, size: int) -> Took:
    from aiokafka import AIOKafkaProducer  # noqa: PLC0415

    async def run() -> Took:
        data = values(size)
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
        await producer.start()
        await producer.send_and_wait(topic, data[0])
        meter = Meter(count)
        for stride in every(count):
            for i in stride:
                await producer.send(topic, data[i % 1000])
            meter.stride()
        await producer.flush()
        took = meter.stop()
        await producer.stop()
        return took

    return asyncio.run(run())


OPERATIONS: dict[tuple[str, str], Callable[[str, str, int, int], Took]] = {
    ("ottla", "send"): ottla_send,
    ("ottla", "iterate"): ottla_iterate,
    ("ottla", "poll"): ottla_poll,
    ("ottla", "consume"): ottla_consume,
    ("kafka-python", "send"): kafka_python_send,
    ("kafka-python", "iterate"): kafka_python_iterate,
    ("kafka-python", "poll"): kafka_python_poll,
    ("confluent", "produce"): confluent_produce,
    ("confluent", "produce_batch"): confluent_produce_batch,
    ("confluent", "consume"): confluent_consume,
    ("confluent", "consume_tuned"): confluent_consume_tuned,
    ("aiokafka", "send"): aiokafka_send,
}


def main() -> None:
    client, operation, bootstrap, topic, count, size = sys.argv[1:]
    print(json.dumps(OPERATIONS[client, operation](bootstrap, topic, int(count), int(size))))


if __name__ == "__main__":
    main()
