"""firehose.py with Ottla's clients, and a consumer in a group beside the producer, over what happens to the brokers.

Arguments: bootstrap, topic, partitions, records a turn. Prints "sent NUMBER PARTITION OFFSET" for what was acknowledged
and "got NUMBER PARTITION OFFSET" for what was read. When its standard input has closed it ends when all was read.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from ottla import KafkaConsumer, KafkaProducer

bootstrap, topic, partitions, turn = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ended = threading.Event()
#: The offset after the last record of each partition, once all are sent.
ends: dict[int, int] = {}
failed: list[BaseException] = []
printing = threading.Lock()


def say(what: str, number: str, partition: int, offset: int) -> None:
    with printing:
        print(what, number, partition, offset, flush=True)


def read() -> None:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"{topic}-readers",
        auto_offset_reset="earliest",
        auto_commit_interval_ms=200,
        session_timeout_ms=6_000,
        heartbeat_interval_ms=500,
    )
    got: dict[int, int] = {}
    end = None
    while not ends or any(got.get(partition, 0) < end_offset for partition, end_offset in ends.items()):
        if ends and end is None:
            end = time.monotonic() + 60
        if end and time.monotonic() > end:
            raise TimeoutError(f"not everything was read within 60 s: {got} of {ends}")
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                say("got", record.value.decode(), record.partition, record.offset)
                got[record.partition] = record.offset + 1
    consumer.close()


def send() -> None:
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=2,
        delivery_timeout_ms=60_000,
        request_timeout_ms=5_000,
        retry_backoff_ms=20,
    )
    waiting = threading.Semaphore(5_000)
    highest: dict[int, int] = {}

    def sent(number: int) -> Any:
        def acknowledged(metadata: Any) -> None:
            waiting.release()
            highest[metadata.partition] = max(highest.get(metadata.partition, 0), metadata.offset + 1)
            say("sent", str(number), metadata.partition, metadata.offset)

        return acknowledged

    def lost(error: BaseException) -> None:
        failed.append(error)
        ended.set()
        waiting.release()

    number = 0
    while not ended.is_set():
        # While a broker is away, enough waits for it.
        for _ in range(turn):
            waiting.acquire()
            future = producer.send(topic, b"%d" % number, partition=number % partitions)
            future.add_callback(sent(number)).add_errback(lost)
            number += 1
        time.sleep(0.005)
    producer.flush(60)
    producer.close()
    ends.update(highest)


def await_end() -> None:
    sys.stdin.read()
    ended.set()


def guarded(work: Any) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 (it ends the program, and is said there)
        failed.append(error)
        ended.set()
        ends.setdefault(0, 0)


threading.Thread(target=await_end, daemon=True).start()
threads = [threading.Thread(target=guarded, args=(work,)) for work in (read, send)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if failed:
    sys.exit(f"{type(failed[0]).__name__}: {failed[0]}")
