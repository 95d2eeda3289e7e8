"""A replica of a real Kafka's topics beside kcat, which reads them to nowhere: near, far, and with nothing new."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness import Contender, Measure, Options, Part, Took, Unavailable, kafka, ottla, peers, run, scratch

RECORD = 1_000
ROUND_TRIP_MS = 100
#: Partitions of the topic that is not large.
MANY = 1_000

MEASURES = [
    Measure("rate", "MB/s", 0, ratio=True),
    Measure("cpu", "CPU s/GB", 2, ratio=True),
    Measure("mb", "resident MB", 0),
    Measure("ms", "copy, ms", 0),
    Measure("whole", "with opening, ms", 0),
]


def timed(command: list[str | Path]) -> tuple[float, float, float, str]:
    """Seconds, CPU seconds and resident MB of a program, and what it said."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{Path(str(command[0])).name} ended with {process.returncode}: {said.strip()[-200:]}")
    return took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def copy(home: Path, bootstrap: str, topic: str, *options: str) -> Took:
    """A full copy."""
    target = home / "replica"
    shutil.rmtree(target, ignore_errors=True)
    took, cpu, mb, _ = timed([ottla(), "replicate", bootstrap, target, "--topics", topic, *options])
    size = sum(file.stat().st_size for file in target.glob(f"{topic}-*/*.log"))
    return {"rate": size / 1e6 / took, "cpu": cpu / (size / 1e9), "mb": mb, "whole": took * 1e3}


def kcat(size: int, bootstrap: str, topic: str) -> Took:
    """A consumer of librdkafka, to nowhere."""
    options = ["-X", "check.crcs=true", "-X", "fetch.message.max.bytes=8000000"]
    took, cpu, mb, _ = timed(["kcat", "-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e", "-q", *options])
    return {"rate": size / 1e6 / took, "cpu": cpu / (size / 1e9), "mb": mb, "whole": took * 1e3}


def nothing_new(home: Path, bootstrap: str) -> Took:
    """A copy that finds that it has everything; the program says how long that took, without opening the directory."""
    took, _, mb, said = timed([ottla(), "replicate", bootstrap, home / "idle", "--topics", "many"])
    found = re.search(r"incremental: 0 records, .* in ([\d.]+) (ms|s)", said)
    if not found:
        raise RuntimeError(f"something was new: {said.strip().splitlines()[-1:]}")
    return {"ms": float(found[1]) * (1_000 if found[2] == "s" else 1), "mb": mb, "whole": took * 1e3}


def fill(bootstrap: str, topic: str, partitions: int, count: int) -> None:
    run([ottla(), "topics", bootstrap, "create", topic, "--partitions", str(partitions), "--config", "retention.ms=-1"])
    tool = kafka.java(
        "org.apache.kafka.tools.ProducerPerformance",
        [
            *("--topic", topic, "--num-records", str(count), "--record-size", str(RECORD), "--throughput", "-1"),
            *("--producer-props", f"bootstrap.servers={bootstrap}", "batch.size=100000", "linger.ms=10"),
        ],
        options=kafka.TOOL_OPTIONS,
    )
    run(tool)


@contextmanager
def part(options: Options) -> Iterator[Part]:
    for why in (kafka.missing(), peers.missing("kcat")):
        if why:
            raise Unavailable(why)
    count = options.count(600_000)
    port = kafka.free_ports(1)[0]
    with scratch("replica") as home:
        broker = kafka.KafkaBroker(home / "kafka", listeners={"FAR": "PLAINTEXT"}, advertised={"FAR": port})
        with broker:
            near, far = broker.bootstrap_servers, f"localhost:{port}"
            proxy = [sys.executable, Path(__file__).with_name("far.py"), str(port), broker.listener("FAR")]
            away = subprocess.Popen([*map(str, proxy), str(ROUND_TRIP_MS)])
            try:
                for topic, partitions in (("one", 1), ("six", 6)):
                    fill(near, topic, partitions, count)
                fill(near, "many", MANY, MANY * 20)
                run([ottla(), "replicate", near, home / "idle", "--topics", "many"])
                contenders = []
                for where, bootstrap in (("near", near), (f"{ROUND_TRIP_MS} ms away", far)):
                    for topic, what in (("one", "1 partition"), ("six", "6 partitions")):
                        group = f"{what}, {where}"
                        size = count * (RECORD + 10)
                        contenders += [
                            Contender(group, "kcat, to nowhere", partial(kcat, size, bootstrap, topic)),
                            Contender(group, "ottla replicate", partial(copy, home, bootstrap, topic), quick=True),
                        ]
                        if bootstrap == far:
                            few = partial(copy, home, bootstrap, topic, "--max-memory", "16MiB")
                            contenders.append(Contender(group, "  with 16 MiB of memory", few))
                for where, bootstrap in (("near", near), (f"{ROUND_TRIP_MS} ms away", far)):
                    idle = partial(nothing_new, home, bootstrap)
                    contenders.append(Contender(f"nothing new in {MANY:,} partitions", where, idle, quick=True))
                title = f"A replica of a real Kafka's topics: {count:,} records of {RECORD:,} bytes"
                yield Part(title, MEASURES, contenders)
            finally:
                away.kill()
                away.wait()
