"""The package: from `python` to a message that made its round trip, and its size."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import Contender, Measure, Options, Part, Took, ottla_python, run

ROUND_TRIP = """
import ottla
with ottla.Broker(listen=None) as broker:
    producer = ottla.KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    consumer = ottla.KafkaConsumer("t", bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    producer.send("t", b"hello").get(10)
    assert next(consumer).value == b"hello"
    consumer.close()
    producer.close()
"""

FILES = """
import importlib.metadata, json
files = importlib.metadata.files("ottla") or []
print(json.dumps([[str(file), str(file.locate())] for file in files if file.suffix != ".pyc"]))
"""

MEASURES = [
    Measure("ms", "ms", 0, ratio=True),
    Measure("cpu_ms", "CPU ms", 0),
    Measure("mb", "MB", 2),
]


def time_of(*arguments: str) -> Took:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([ottla_python(), "-I", "-c", *arguments], check=True, stdin=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"ms": seconds * 1e3, "cpu_ms": cpu * 1e3}


def size() -> Took:
    """What is installed, zipped as a wheel is."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, path in json.loads(run([ottla_python(), "-I", "-c", FILES])):
            if Path(path).is_file():
                wheel.write(path, name)
    return {"mb": len(zipped.getvalue()) / 1e6}


@contextmanager
def part(options: Options) -> Iterator[Part]:
    contenders = [
        Contender(
            "python -c", "import, embedded broker, one message there and back", lambda: time_of(ROUND_TRIP), True
        ),
        Contender("python -c", "import ottla", lambda: time_of("import ottla"), True),
        Contender("python -c", "nothing", lambda: time_of("pass"), True),
        Contender("the wheel", "its files, zipped", size, True),
    ]
    yield Part("The Python package: time of the whole process, and size", MEASURES, contenders)
