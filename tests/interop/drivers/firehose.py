"""Produces with acks=all until its standard input closes, over whatever happens to the broker.

Arguments: bootstrap, topic, partitions, and how many records a turn of 5 ms has (50 when not given). Prints a line for
each record that was acknowledged: number, partition, offset.
The value of a record is its number, so that a test can look for it again.
"""

from __future__ import annotations

import sys
import threading

from confluent_kafka import KafkaError, Message, Producer

bootstrap, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
turn = int(sys.argv[4]) if len(sys.argv) > 4 else 50
producer = Producer(
    {
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 2,
        "message.timeout.ms": 60_000,
        "reconnect.backoff.max.ms": 200,
        "log_level": 2,
        "retry.backoff.ms": 20,
    }
)
ended = threading.Event()
failed: list[str] = []


def await_end() -> None:
    sys.stdin.read()
    ended.set()


threading.Thread(target=await_end, daemon=True).start()


def acknowledged(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        failed.append(f"record {message.value()!r} was not delivered: {error}")
        return
    print(message.value().decode(), message.partition(), message.offset())


number = 0
while not ended.is_set() and not failed:
    # While the broker is away, enough waits for it.
    for _ in range(turn if len(producer) < 5_000 else 0):
        producer.produce(topic, str(number).encode(), partition=number % partitions, on_delivery=acknowledged)
        number += 1
    producer.poll(0.005)
    sys.stdout.flush()
left = 0 if failed else producer.flush(60)
sys.stdout.flush()
if failed:
    sys.exit(f"{len(failed)} times: {failed[0]}")
if left:
    sys.exit(f"{left} records were not delivered")
