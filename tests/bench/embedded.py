"""The embedded broker in process, and over a TCP connection to itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from harness import Contender, Measure, Options, Part, Took, ottla_python, run

ONE_BY_ONE = """
import json, resource, statistics, sys, time
import ottla
count, listen = int(sys.argv[1]), sys.argv[2] or None
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
with ottla.Broker(listen=listen) as broker:
    producer = ottla.KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    value = b"x" * 100
    for _ in range(100):
        producer.send("one-by-one", value).get(10)
    times, before = [], cpu()
    for _ in range(count):
        start = time.perf_counter()
        producer.send("one-by-one", value).get(10)
        times.append(time.perf_counter() - start)
    used = cpu() - before
    producer.close()
times.sort()
print(json.dumps({"p50_us": statistics.median(times) * 1e6, "p99_us": times[len(times) * 99 // 100] * 1e6,
                  "cpu_us": used * 1e6 / count}))
"""

STREAM = """
import json, resource, sys, time
import ottla
count, listen = int(sys.argv[1]), sys.argv[2] or None
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
with ottla.Broker(listen=listen) as broker:
    producer = ottla.KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    value = b"x" * 1024
    producer.send("stream", value).get(10)
    before, start = cpu(), time.perf_counter()
    for _ in range(count):
        producer.send("stream", value)
    producer.flush()
    consumer = ottla.KafkaConsumer("stream", bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    got = 0
    for record in consumer:
        got += 1
        if got == count:
            break
    used, seconds = cpu() - before, time.perf_counter() - start
    consumer.close()
    producer.close()
print(json.dumps({"cpu_us": used * 1e6 / count, "krps": count / seconds / 1e3}))
"""

MEASURES = [
    Measure("p50_us", "p50 µs", 1, ratio=True),
    Measure("p99_us", "p99 µs", 1),
    Measure("cpu_us", "CPU µs/record", 2, ratio=True),
    Measure("krps", "k records/s", 0, ratio=True),
]


def work(program: str, count: int, listen: str) -> Took:
    took: Took = json.loads(run([ottla_python(), "-c", program, str(count), listen]))
    return took


@contextmanager
def part(options: Options) -> Iterator[Part]:
    contenders = [
        Contender(group, name, partial(work, program, options.count(count), listen), quick=True)
        for group, program, count in (
            ("send() and get(), one at a time, 100 B", ONE_BY_ONE, 20_000),
            ("send(), flush(), then for record in consumer, 1 KiB", STREAM, 100_000),
        )
        for name, listen in (("in process", ""), ("over TCP to itself", "127.0.0.1:0"))
    ]
    yield Part(
        "The embedded broker, in memory, with its client in the same Python process",
        MEASURES,
        contenders,
        ["CPU: client and broker together."],
    )
