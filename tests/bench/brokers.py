"""`ottla serve` beside Apache Kafka and kfake, under Kafka's own perf tools; starting, and memory when idle."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

from harness import Contender, Measure, Options, Part, Took, Unavailable, kafka, ottla, peers, run, scratch

RECORD = 1_000
TICKS = os.sysconf("SC_CLK_TCK")

THROUGHPUT = [
    Measure("in", "MB/s in", 1, ratio=True),
    Measure("out", "MB/s out", 1, ratio=True),
    Measure("cpu", "CPU ms/MB", 2, ratio=True),
    Measure("mb", "resident MB", 0),
]
STARTING = [
    Measure("ready", "ready, ms", 1, ratio=True),
    Measure("killed", "after kill -9, ms", 0, ratio=True),
    Measure("mb", "resident MB", 1, ratio=True),
]


class Process:
    """A broker that is one program."""

    def __init__(self, command: list[str | Path], log: Path) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self.port: int = kafka.free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> float:
        """Seconds from before it is launched until it has answered a request for metadata."""
        command = [part.replace("PORT", str(self.port)) for part in self.command]
        with open(self.log, "ab") as output:
            begin = time.perf_counter()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, close_fds=False
            )
        end = begin + 60
        while kafka.brokers_known(self.port) < 1:
            if self.process.poll() is not None or time.perf_counter() > end:
                said = self.log.read_text(errors="replace").strip().splitlines()
                self.stop(kill=True)
                raise RuntimeError(f"{Path(command[0]).name} does not serve: {said[-1] if said else 'no output'}")
            time.sleep(0.0005)
        return time.perf_counter() - begin

    def stop(self, kill: bool = False) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(kill=True)


class Kafka:
    """Apache Kafka."""

    def __init__(self, data: Path, synced: bool) -> None:
        config = {"log.flush.interval.messages": "1"} if synced else {}
        self.broker = kafka.KafkaBroker(data / "kafka", config=config, heap="512m")

    @property
    def bootstrap(self) -> str:
        return str(self.broker.bootstrap_servers)

    @property
    def pid(self) -> int:
        return int(self.broker.nodes[0]["pid"])

    def start(self) -> float:
        if not self.broker.nodes:
            # Formats the directory, which is another program's run.
            self.broker.start()
            self.broker.stop()
        begin = time.perf_counter()
        self.broker.start()
        return time.perf_counter() - begin

    def stop(self, kill: bool = False) -> None:
        self.broker.stop(kill=kill)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.stop(kill=True)


Broker = Process | Kafka
_kfake: list[Path] = []


def kfake() -> Path:
    """franz-go's broker as a program, built once into the cache."""
    if not _kfake:
        if shutil.which("go") is None:
            raise Unavailable("Go is missing: no 'go' on the PATH, and kfake is built with it")
        program: Path = kafka.cache() / "bench" / "kfake"
        run(["go", "build", "-o", program, "-ldflags=-s -w", "."], cwd=Path(__file__).with_name("kfake"))
        _kfake.append(program)
    return _kfake[0]


def ottla_serve(data: Path, *options: str) -> Broker:
    return Process([ottla(), "serve", "--data", data / "ottla", "--listen", "127.0.0.1:PORT", *options], data / "log")


def ottla_memory(data: Path) -> Broker:
    return Process([ottla(), "serve", "--listen", "127.0.0.1:PORT"], data / "log")


def kfake_disk(data: Path, *options: str) -> Broker:
    return Process([kfake(), "-port", "PORT", "-data", data / "kfake", *options], data / "log")


def kfake_memory(data: Path) -> Broker:
    return Process([kfake(), "-port", "PORT"], data / "log")


def cpu_of(pid: int) -> float:
    """Seconds, user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Megabytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def perf_tool(main: str, *arguments: str) -> str:
    options = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",)
    return run(kafka.java(main, list(arguments), heap="512m", options=options))


def send(broker: Broker, count: int, *properties: str) -> float:
    """MB/s (Kafka's: of 1,048,576 bytes) of ProducerPerformance."""
    said = perf_tool(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", "perf", "--num-records", str(count), "--record-size", str(RECORD), "--throughput", "-1"),
        *("--producer-props", f"bootstrap.servers={broker.bootstrap}", "acks=all", *properties),
    )
    found = re.findall(rf"^{count} records sent, .*\(([\d.]+) MB/sec\)", said, re.MULTILINE)
    if not found:
        raise RuntimeError(f"ProducerPerformance said: {said.strip().splitlines()[-1:]}")
    return float(found[-1])


def receive(broker: Broker, count: int) -> float:
    """MB/s of ConsumerPerformance, once it has its partition."""
    said = perf_tool(
        "org.apache.kafka.tools.ConsumerPerformance",
        *("--bootstrap-server", broker.bootstrap, "--topic", "perf", "--hide-header"),
        *("--messages" if not kafka.RENAMED else "--num-records", str(count), "--timeout", "20000"),
    )
    fields = [field.strip() for field in said.strip().splitlines()[-1].split(",")]
    if int(fields[4]) < count:
        raise RuntimeError(f"ConsumerPerformance read {fields[4]} of {count} records")
    return float(fields[8])


def throughput(make: Callable[[Path], Broker], count: int) -> Took:
    with scratch("broker") as data, make(data) as broker:
        broker.start()
        before = cpu_of(broker.pid)
        took = {"in": send(broker, count), "out": receive(broker, count)}
        took["cpu"] = (cpu_of(broker.pid) - before) * 1e3 / (2 * count * RECORD / 1e6)
        took["mb"] = resident(broker.pid)
        return took


def empty(make: Callable[[Path], Broker]) -> Took:
    with scratch("broker") as data, make(data) as broker:
        took = {"ready": broker.start() * 1e3}
        time.sleep(1.0)
        took["mb"] = resident(broker.pid)
        return took


def full(make: Callable[[Path], Broker], count: int) -> Took:
    """Starts on a log of so many records: after a crash, and after it was closed."""
    with scratch("broker") as data, make(data) as broker:
        broker.start()
        send(broker, count, "batch.size=262144", "linger.ms=5")
        broker.stop(kill=True)
        took = {"killed": broker.start() * 1e3}
        broker.stop()
        took["ready"] = broker.start() * 1e3
        took["mb"] = resident(broker.pid)
        return took


Makers = list[tuple[str, Callable[[Path], Broker]]]

SYNCED: Makers = [
    ("ottla serve", ottla_serve),
    ("Apache Kafka, log.flush.interval.messages=1", partial(Kafka, synced=True)),
    ("kfake, SyncWrites", lambda data: kfake_disk(data, "-sync")),
]
UNSYNCED: Makers = [
    ("ottla serve --durability os", lambda data: ottla_serve(data, "--durability", "os")),
    ("Apache Kafka", partial(Kafka, synced=False)),
    ("kfake, DataDir", kfake_disk),
]
MEMORY: Makers = [("ottla serve", ottla_memory), ("kfake", kfake_memory)]


@contextmanager
def throughput_part(options: Options) -> Iterator[Part]:
    count = options.count(300_000)
    groups = (
        ("synced before acknowledged", SYNCED),
        ("left to the operating system", UNSYNCED),
        ("in memory", MEMORY),
    )
    contenders = [
        Contender(group, name, partial(throughput, make, count), quick=make is ottla_serve)
        for group, makers in groups
        for name, make in makers
    ]
    with the_tools():
        yield Part(
            f"Brokers under the Java perf tools: {count:,} records of {RECORD:,} B, acks=all, one partition",
            THROUGHPUT,
            contenders,
            [
                f"Kafka {kafka.VERSION}'s own tools; an MB is 1,048,576 bytes. Ratios to the group's first.",
                "CPU: the broker's process, for each MB that went in or came out.",
            ],
        )


@contextmanager
def starting_part(options: Options) -> Iterator[Part]:
    many = options.count(1_000_000)
    log = f"a log of {many * RECORD / 1e9:.1f} GB"
    contenders = [Contender("an empty directory", n, partial(empty, m), quick="ottla" in n) for n, m in UNSYNCED]
    contenders += [Contender(log, n, partial(full, m, many), quick="ottla" in n) for n, m in UNSYNCED]
    with the_tools():
        yield Part(
            "Brokers that start",
            STARTING,
            contenders,
            [
                "ready: from launching the program until it has answered a request; Kafka's directory was formatted.",
                "after kill -9: the same on the log of a broker that was killed when it had taken the last record.",
            ],
        )


@contextmanager
def the_tools() -> Iterator[None]:
    """Everything that is built or fetched is there before the first measurement."""
    if why := peers.missing("java"):
        raise Unavailable(why)
    kafka.fetch()
    ottla()
    # Its contenders say what is missing.
    with contextlib.suppress(Unavailable):
        kfake()
    yield
