"""Transactions of several kinds, plain batches of every codec, and keys that come again, until it is told to end.

Arguments: bootstrap. Topics, of one partition: "transactions", "latest" (keys that recur), "retained" and "deleted".
Prints "turn NUMBER" after each turn, which has a transaction that is committed or aborted; others stay open for many.
When its standard input has a line it leaves one transaction open, prints "open", and stays until its input closes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException, Producer

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
TOPICS = ["transactions", "latest", "retained", "deleted"]
#: How many turns a long transaction is open for.
LONG = 12
bootstrap = sys.argv[1]
asked = threading.Event()


def client(codec: str, **more: Any) -> Producer:
    options = {
        "bootstrap.servers": bootstrap,
        "compression.type": codec,
        "enable.idempotence": True,
        "linger.ms": 1,
        "reconnect.backoff.max.ms": 200,
        "retry.backoff.ms": 50,
        "log_level": 2,
    }
    return Producer(options | {name.replace("_", "."): value for name, value in more.items()})


class Transactional:
    """A transactional producer that is made anew when it is fenced for good."""

    def __init__(self, name: str, codec: str) -> None:
        self.name, self.codec = name, codec
        self.is_open = False
        self.producer = self._made()

    def _made(self) -> Producer:
        made = client(self.codec, transactional_id=self.name, transaction_timeout_ms=300_000)
        self._until_done(made.init_transactions)
        return made

    @staticmethod
    def _until_done(call: Callable[[float], None]) -> None:
        for _ in range(20):
            try:
                return call(30)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
        raise TimeoutError("the coordinator is away for too long")

    def begin(self) -> None:
        self.producer.begin_transaction()
        self.is_open = True

    def send(self, topic: str, key: str, value: str) -> None:
        self.producer.produce(topic, key=key, value=value, partition=0)

    def end(self, commit: bool) -> None:
        self.is_open = False
        try:
            self._until_done(self.producer.commit_transaction if commit else self.producer.abort_transaction)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                self._until_done(self.producer.abort_transaction)
            else:
                self.producer = self._made()


def turn(number: int) -> None:
    for at, topic in enumerate(TOPICS):
        for record in range(10):
            plain[(number + at) % len(plain)].produce(
                topic, key=f"key {(number + record) % 17}", value=f"{number} {record} ".encode() * 20, partition=0
            )
    one = short[number % len(short)]
    one.begin()
    for topic in ("transactions", "latest"):
        for record in range(4):
            one.send(topic, f"key {(number * 3 + record) % 17}", f"short {number} {record} " * 10)
    one.end(commit=number % 3 != 1)
    other = long[number % len(long)]
    if not other.is_open:
        other.begin()
    other.send("transactions", f"long {number}", f"long {number}")
    other.send("latest", f"key {number % 17}", f"long {number}")
    if number % LONG < len(long):
        other.end(commit=number // LONG % 2 == 0)
    for producer in plain:
        if producer.flush(60):
            raise TimeoutError("records are not delivered within 60 s")


def await_word() -> None:
    sys.stdin.readline()
    asked.set()


plain = [client(codec) for codec in CODECS]
short = [Transactional(f"short {codec}", codec) for codec in CODECS[:3]]
long = [Transactional(f"long {codec}", codec) for codec in CODECS[3:]]
threading.Thread(target=await_word, daemon=True).start()
number = 0
while not asked.is_set():
    turn(number)
    print("turn", number, flush=True)
    number += 1
for transactional in long:
    if not transactional.is_open:
        transactional.begin()
    transactional.send("transactions", "open", "still open")
    transactional.producer.flush(30)
long[0].end(commit=False)
print("open", flush=True)
sys.stdin.read()
