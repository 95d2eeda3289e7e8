"""Replicas of a real Kafka beside kcat and MirrorMaker 2; synchronous followers."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from brokers import Process, cpu_of, ottla_memory, ottla_serve, resident, send
from harness import (
    Contender,
    Measure,
    Options,
    Part,
    Took,
    Unavailable,
    kafka,
    ottla,
    ottla_python,
    peers,
    peers_python,
    run,
    scratch,
)

HERE = Path(__file__).parent
PARTITIONS = 6


@dataclass(frozen=True)
class Shape:
    """What a topic is filled with."""

    title: str
    codec: str
    #: Of a value, in bytes.
    each: int
    count: int

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return self.each * self.count

    def half(self) -> Shape:
        return replace(self, count=self.count // 2)


REPLICA = [
    Measure("mbs", "MB/s", 0, ratio=True),
    Measure("cpu", "CPU s/GB", 2, ratio=True),
    Measure("mb", "peak MB", 0),
]
THROUGHPUT = [
    Measure("in", "MB/s in", 1, ratio=True),
    Measure("cpu", "CPU ms/MB", 2, ratio=True),
    Measure("p50", "p50 ms", 2, ratio=True),
    Measure("p99", "p99 ms", 2, ratio=True),
]
#: Values like JSON from each of a thousand, to all partitions in turn.
FILL = """
import sys
from confluent_kafka import Producer
sys.path.insert(0, sys.argv[1])
from client import values
bootstrap, topic, partitions, count, size, codec = sys.argv[2], sys.argv[3], *map(int, sys.argv[4:7]), sys.argv[7]
producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "compression.type": codec, "linger.ms": 20,
                     "queue.buffering.max.kbytes": 200_000})
failed = []
made = values(size)
for number in range(count):
    while True:
        try:
            producer.produce(topic, made[number % 1000], partition=number % partitions,
                             on_delivery=lambda error, _: failed.append(error) if error else None)
            break
        except BufferError:
            producer.poll(0.1)
    if number % 1000 == 0:
        producer.poll(0)
assert producer.flush(300) == 0 and not failed, failed[:1]
"""


def create(bootstrap: str, topic: str, partitions: int, *config: str) -> None:
    options = [part for option in config for part in ("--config", option)]
    run([ottla(), "topics", bootstrap, "create", topic, "--partitions", str(partitions), *options])
    # Kafka says that it is made before it knows of it.
    end = time.monotonic() + 30
    while subprocess.run([str(ottla()), "-q", "topics", bootstrap, "offsets", topic], capture_output=True).returncode:
        if time.monotonic() > end:
            raise RuntimeError(f"{topic} is not there 30 s after it was made")
        time.sleep(0.05)


def delete(bootstrap: str, topic: str) -> None:
    run([ottla(), "topics", bootstrap, "delete", topic])


def fill(bootstrap: str, topic: str, shape: Shape) -> None:
    arguments = [str(HERE), bootstrap, topic, str(PARTITIONS), str(shape.count), str(shape.each), shape.codec]
    run([peers_python(), "-c", FILL, *arguments])


def end_of(bootstrap: str, topic: str) -> int:
    """Records of a topic whose offsets begin at 0; 0 while it is not there."""
    try:
        said = run([ottla(), "topics", bootstrap, "offsets", topic, "--json"])
    except RuntimeError:
        return 0
    return sum(int(json.loads(line)["offset"]) for line in said.splitlines())


class Child:
    """A program, what it takes in all, and its lines as they come."""

    def __init__(self, *command: str | Path) -> None:
        # What others wrote is not to be its burden.
        os.sync()
        self.command = [str(part) for part in command]
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        pipes = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self._readers = [threading.Thread(target=lambda p=pipe, to=to: to.extend(p)) for pipe, to in pipes]
        for reader in self._readers:
            reader.start()

    def end(self, size: int) -> Took:
        """Waits until it has ended; per `size` bytes."""
        _, status, used = os.wait4(self.process.pid, 0)
        seconds = time.perf_counter() - self.begin
        self.process.returncode = code = os.waitstatus_to_exitcode(status)
        for reader in self._readers:
            reader.join()
        if code != 0:
            raise RuntimeError(f"{Path(self.command[0]).name} ended with {code}: {''.join(self.errors[-1:]).strip()}")
        return took(size, seconds, used)


def took(size: int, seconds: float, used: resource.struct_rusage) -> Took:
    cpu = used.ru_utime + used.ru_stime
    return {"mbs": size / 1e6 / seconds, "cpu": cpu / (size / 1e9), "mb": used.ru_maxrss / 1024}


def replicate(bootstrap: str, topic: str, size: int) -> Took:
    """Into an empty directory, synced in the end."""
    with scratch("replica") as data:
        return Child(ottla(), "--json", "replicate", bootstrap, data / "replica", "--topics", topic).end(size)


def kcat(bootstrap: str, topic: str, count: int) -> list[str | Path]:
    """No Python in it, only librdkafka: reads so many records and does nothing with them."""
    if why := peers.missing("kcat"):
        raise Unavailable(why)
    return ["kcat", "-C", "-q", "-b", bootstrap, "-t", topic, "-o", "beginning", "-c", str(count), "-f", ""]


def consume(bootstrap: str, topic: str, shape: Shape) -> Took:
    return Child(*kcat(bootstrap, topic, shape.count)).end(shape.size)


def write_down(size: int) -> Took:
    """As much as the replica, to the same disk."""
    with scratch("replica") as data:
        megabytes = str(max(1, size // 1_000_000))
        return Child(
            "dd", "if=/dev/zero", f"of={data / 'bytes'}", "bs=1000000", f"count={megabytes}", "conv=fsync"
        ).end(size)


def follow(bootstrap: str, shape: Shape, with_kcat: bool) -> Took:
    """While a producer fills a topic as fast as it can."""
    topic = f"following-{time.time_ns()}"
    create(bootstrap, topic, PARTITIONS)
    count, size = shape.count, shape.size
    try:
        with scratch("replica") as data:
            if with_kcat:
                child = Child(*kcat(bootstrap, topic, count))
                fill(bootstrap, topic, shape)
                result = child.end(size)
            else:
                child = Child(
                    ottla(), "--json", "replicate", bootstrap, data / "replica", "--topics", topic, "--follow"
                )
                fill(bootstrap, topic, shape)
                end = time.monotonic() + 120
                while not (child.lines and json.loads(child.lines[-1]).get("caught_up") and records_of(child) >= count):
                    if time.monotonic() > end or child.process.poll() is not None:
                        child.process.kill()
                        raise RuntimeError(f"it does not catch up: {child.lines[-1:]} {child.errors[-1:]}")
                    time.sleep(0.05)
                child.process.send_signal(signal.SIGINT)
                result = child.end(size)
    finally:
        delete(bootstrap, topic)
    # Its rate is the producer's.
    del result["mbs"]
    return result


def records_of(child: Child) -> int:
    lines = [json.loads(line) for line in child.lines]
    return sum(int(line["records"]) for line in lines if "extent" in line) + int(lines[-1]["records"])


def mirror_jars() -> Path:
    """MirrorMaker's own jars, fetched once."""
    home: Path = kafka.cache() / "bench" / f"mirror-{kafka.VERSION}"
    if not home.is_dir():
        if shutil.which("mvn") is None:
            raise Unavailable("Maven is missing: no 'mvn' on the PATH, and it fetches MirrorMaker's jars")
        aside = home.with_suffix(f".{os.getpid()}")
        goal = [
            "dependency:copy-dependencies",
            f"-DoutputDirectory={aside}",
            "-DincludeArtifactIds=connect-mirror,connect-mirror-client",
        ]
        run(["mvn", "-q", "-B", "-f", HERE / "mirror" / "pom.xml", f"-Dkafka.version={kafka.VERSION}", *goal])
        aside.rename(home)
    return home


def mirror(source: str, target: str, topic: str, shape: Shape, number: Iterator[int]) -> Took:
    """MirrorMaker 2 from one Kafka to another, from its first record on: its start costs nothing here."""
    alias = f"source{next(number)}"
    properties = {
        "clusters": f"{alias},target",
        f"{alias}.bootstrap.servers": source,
        "target.bootstrap.servers": target,
        f"{alias}->target.enabled": "true",
        f"{alias}->target.topics": topic,
        f"target->{alias}.enabled": "false",
        "replication.factor": "1",
        "tasks.max": "2",
        "emit.heartbeats.enabled": "false",
        "emit.checkpoints.enabled": "false",
        "sync.topic.acls.enabled": "false",
        "offset-syncs.topic.replication.factor": "1",
        "heartbeats.topic.replication.factor": "1",
        "checkpoints.topic.replication.factor": "1",
        "target.config.storage.replication.factor": "1",
        "target.offset.storage.replication.factor": "1",
        "target.status.storage.replication.factor": "1",
        f"{alias}.consumer.auto.offset.reset": "earliest",
        "target.producer.compression.type": shape.codec,
        "dedicated.mode.enable.internal.rest": "false",
    }
    copied = f"{alias}.{topic}"
    with scratch("mirror") as data:
        (data / "mm2.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        command = kafka.java("org.apache.kafka.connect.mirror.MirrorMaker", [str(data / "mm2.properties")], heap="1g")
        command[command.index("-cp") + 1] += f":{mirror_jars()}/*"
        os.sync()
        with open(data / "log", "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=data)
        try:
            first: tuple[int, float, float] | None = None
            end = time.monotonic() + 300
            while True:
                there = end_of(target, copied)
                if there and first is None:
                    first = (there, time.perf_counter(), cpu_of(process.pid))
                if there >= shape.count and first:
                    break
                if process.poll() is not None or time.monotonic() > end:
                    said = (data / "log").read_text(errors="replace").strip().splitlines()
                    raise RuntimeError(f"MirrorMaker copied {there} of {shape.count}: {said[-1:]}")
                time.sleep(0.05)
            size = (there - first[0]) * shape.each
            seconds, cpu = time.perf_counter() - first[1], cpu_of(process.pid) - first[2]
            return {"mbs": size / 1e6 / seconds, "cpu": cpu / (size / 1e9), "mb": resident(process.pid)}
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(RuntimeError):
                delete(target, copied)


@contextmanager
def replica_part(options: Options) -> Iterator[Part]:
    peers_python()
    ottla()
    if why := peers.missing("java"):
        raise Unavailable(why)
    shapes = [
        Shape("1 KiB uncompressed", "none", 1024, options.count(1_000_000)),
        Shape("1 KiB zstd", "zstd", 1024, options.count(1_000_000)),
        Shape("100 B uncompressed", "none", 100, options.count(5_000_000)),
    ]
    number = itertools.count()
    with (
        scratch("source") as data,
        kafka.KafkaBroker(data / "source", heap="1g") as source,
        kafka.KafkaBroker(data / "target", heap="512m") as target,
    ):
        there, to = str(source.bootstrap_servers), str(target.bootstrap_servers)
        contenders: list[Contender] = []
        stored: list[str] = []
        for shape in shapes:
            topic = f"bench-{shape.codec}-{shape.each}"
            create(there, topic, PARTITIONS)
            fill(there, topic, shape)
            logs = Path(source.nodes[0]["logs"])
            bytes_stored = sum(file.stat().st_size for file in logs.glob(f"{topic}-*/*.log"))
            stored.append(f"{shape.size / 1e6:,.0f} MB of {shape.title} in {bytes_stored / 1e6:,.0f}")
            group = f"a whole topic, {shape.title}"
            contenders += [
                Contender(group, "ottla replicate, synced", partial(replicate, there, topic, shape.size), quick=True),
                Contender(group, "kcat to nowhere", partial(consume, there, topic, shape), quick=True),
                Contender(group, "dd of as many bytes, synced", partial(write_down, bytes_stored), quick=True),
                Contender(group, "MirrorMaker 2 to a Kafka", partial(mirror, there, to, topic, shape, number)),
            ]
            group = f"following a producer, {shape.title}"
            contenders += [
                Contender(group, "ottla replicate --follow", partial(follow, there, shape.half(), False), quick=True),
                Contender(group, "kcat to nowhere", partial(follow, there, shape.half(), True), quick=True),
            ]
        yield Part(
            f"A replica of a topic in {PARTITIONS} partitions of Apache Kafka {kafka.VERSION}",
            REPLICA,
            contenders,
            [
                f"MB and GB are of values before compression. Stored are {'; '.join(stored)}. dd writes as much.",
                "CPU: the program's own process, all threads; MirrorMaker's without its start.",
                "MirrorMaker's producer compresses as the topic is; its memory is that at the end, of a heap of 1 GB.",
            ],
        )


ONE_BY_ONE = """
import json, sys, time
import ottla
bootstrap, count = sys.argv[1], int(sys.argv[2])
producer = ottla.KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)
value = b"x" * 100
for _ in range(100):
    producer.send("one-by-one", value).get(10)
times = []
for _ in range(count):
    start = time.perf_counter()
    producer.send("one-by-one", value).get(10)
    times.append(time.perf_counter() - start)
times.sort()
print(json.dumps({"p50": times[count // 2] * 1e3, "p99": times[count * 99 // 100] * 1e3}))
"""


@contextmanager
def brokers(data: Path, followers: int, durable: bool = True) -> Iterator[list[Process]]:
    """A leader and so many synchronous followers, in sync for the topics that the measurements use."""
    with contextlib.ExitStack() as stack:
        minimum = ("--config", f"min.insync.replicas={1 + followers}")
        leader = ottla_serve(data / "leader", *minimum) if durable else ottla_memory(data)
        assert isinstance(leader, Process)
        (data / "leader").mkdir()
        stack.enter_context(leader).start()
        running = [leader]
        for number in range(1, followers + 1):
            (data / f"follower-{number}").mkdir()
            follower = ottla_serve(data / f"follower-{number}", "--follow", leader.bootstrap, "--node-id", str(number))
            assert isinstance(follower, Process)
            stack.enter_context(follower).start()
            running.append(follower)
        for topic in ("perf", "one-by-one"):
            create(leader.bootstrap, topic, 1)
            end = time.monotonic() + 30
            while (
                len(
                    json.loads(run([ottla(), "topics", leader.bootstrap, "describe", topic, "--json"]))["partitions"][
                        0
                    ]["in_sync_replicas"]
                )
                <= followers
            ):
                if time.monotonic() > end:
                    raise RuntimeError("a follower does not come into sync within 30 s")
                time.sleep(0.05)
        yield running


def stream(followers: int, count: int) -> Took:
    with scratch("followers") as data, brokers(data, followers) as running:
        os.sync()
        before = sum(cpu_of(one.pid) for one in running)
        result = {"in": send(running[0], count, "batch.size=262144", "linger.ms=5")}
        result["cpu"] = (sum(cpu_of(one.pid) for one in running) - before) * 1e3 / (count * 1_000 / 1e6)
        return result


def one_by_one(followers: int, count: int, durable: bool) -> Took:
    with scratch("followers") as data, brokers(data, followers, durable) as running:
        os.sync()
        result: Took = json.loads(run([ottla_python(), "-c", ONE_BY_ONE, running[0].bootstrap, str(count)]))
        return result


def syncs(count: int, at_once: int) -> Took:
    """A write of 100 B at the end of each of so many files, and syncs of all of them at the same time."""
    with scratch("followers") as data, ThreadPoolExecutor(at_once) as pool, contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(data / str(number), "wb", buffering=0)) for number in range(at_once)]

        def write(file: io.FileIO) -> None:
            file.write(b"x" * 100)
            os.fdatasync(file.fileno())

        os.sync()
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            list(pool.map(write, files))
            times.append(time.perf_counter() - begin)
        times.sort()
        return {"p50": times[count // 2] * 1e3, "p99": times[count * 99 // 100] * 1e3}


@contextmanager
def followers_part(options: Options) -> Iterator[Part]:
    ottla_python()
    if why := peers.missing("java"):
        raise Unavailable(why)
    kafka.fetch()
    count, times = options.count(300_000), options.count(2_000)
    one = "one at a time, 100 B"
    rows: list[tuple[str, str, Callable[[], Took]]] = [
        ("as many as can be, 1,000 B", "ottla serve, alone", partial(stream, 0, count)),
        ("as many as can be, 1,000 B", "with a synchronous follower", partial(stream, 1, count)),
        ("as many as can be, 1,000 B", "with two", partial(stream, 2, count)),
        (one, "ottla serve, alone", partial(one_by_one, 0, times, True)),
        (one, "with a synchronous follower", partial(one_by_one, 1, times, True)),
        (one, "in memory: the round trip", partial(one_by_one, 0, times, False)),
        (one, "a sync of the disk", partial(syncs, times, 1)),
        (one, "two syncs at the same time", partial(syncs, times, 2)),
    ]
    yield Part(
        f"acks=all with synchronous followers on the same machine and disk, one partition, {count:,} records",
        THROUGHPUT,
        [Contender(group, name, action, quick=True) for group, name, action in rows],
        [
            "Many: Kafka's ProducerPerformance; CPU: all brokers'. One at a time: send().get() of Ottla's client.",
            "min.insync.replicas is the number of brokers.",
        ],
    )
