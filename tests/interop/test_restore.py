"""Restores to a real Kafka: every record at its offset, every group where it stood, by every way there is."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from program import ok, run
from segments import batches, check_dump, dump
from servers import KafkaCluster, KafkaServer, OttlaServer, kafka, peers

SHAPES = Path(__file__).parent / "drivers" / "shapes.py"


def shapes(step: str, bootstrap: str, **more: Any) -> Any:
    """Runs one step of `drivers/shapes.py`."""
    request = json.dumps({"step": step, "bootstrap": bootstrap, **more})
    done = subprocess.run(
        [str(peers.python()), str(SHAPES)], input=request, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{step}: {done.stderr[-3000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def available() -> None:
    for why in (KafkaServer.missing(), OttlaServer.missing(), peers.missing("python")):
        if why:
            pytest.skip(why)


class Broker:
    """A Kafka broker, or three, that can be stopped and started."""

    def __init__(self, data: Path, brokers: int = 1, **config: str) -> None:
        config = KafkaCluster.CONFIG | {"log.cleaner.backoff.ms": "200"} | config
        self.kafka = kafka.KafkaBroker(data, brokers, config, heap="320m", options=kafka.SHORT_LIVED)
        self.kafka.start()

    @property
    def bootstrap(self) -> str:
        return str(self.kafka.bootstrap_servers)

    @property
    def target(self) -> str:
        return f"kafka://{self.bootstrap}"

    def logs(self, node: int = 1) -> Path:
        return next(Path(each["logs"]) for each in self.kafka.nodes if each["id"] == node)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Broker]]:
    """Starts brokers; all are killed in the end."""
    running: list[Broker] = []

    def start(count: int = 1, **config: str) -> Broker:
        running.append(Broker(tmp_path_factory.mktemp("kafka") / "data", count, **config))
        return running[-1]

    yield start
    for one in running:
        one.kafka.stop(kill=True)


class Source:
    """A broker with topics of every shape, what they hold, and a backup of them."""

    def __init__(self, broker: Broker, repository: Path) -> None:
        self.broker, self.repository = broker, repository
        shapes("create", broker.bootstrap)
        shapes("write", broker.bootstrap)
        shapes("compact", broker.bootstrap)
        shapes("commit", broker.bootstrap)
        self.records = shapes("read", broker.bootstrap)
        self.groups = shapes("groups", broker.bootstrap)
        self.go_on = shapes("go_on", broker.bootstrap)
        ok("backup", broker.target, repository)


@pytest.fixture(scope="module")
def source(brokers: Callable[..., Broker], tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(brokers(), tmp_path_factory.mktemp("backup") / "repository")


def partitions(logs: Path) -> list[Path]:
    """The directories of the topics' partitions."""
    return sorted(directory for directory in logs.iterdir() if directory.is_dir() and directory.name[0] != "_")


def stored(logs: Path, source: Source) -> dict[str, list[bytes]]:
    """The batches of each partition, from its log start on."""
    starts = {directory: source.records[f"{directory.name} read_uncommitted"][0] for directory in partitions(logs)}
    return {directory.name: [batch.data for batch in batches(directory, at)] for directory, at in starts.items()}


def test_a_stopped_brokers_directory_comes_back_byte_for_byte(source: Source, tmp_path: Path) -> None:
    broker, logs = source.broker, source.broker.logs()
    repository = str(source.repository)
    refused = run("restore", repository, f"logdir:{logs}")
    assert refused.code == 1
    assert "stop it first" in refused.err
    broker.kafka.stop()
    before = stored(logs, source)
    assert len(before) == 10
    # Nothing is lacking, so nothing is written.
    for line in ok("restore", repository, f"logdir:{logs}", "--json").lines:
        assert line.get("bytes", 0) == 0, line
    # All is lost but the metadata and what groups committed.
    for directory in partitions(logs):
        shutil.rmtree(directory)
    planned = ok("restore", repository, f"logdir:{logs}", "--dry-run", "--json").lines
    assert sum(line["bytes"] for line in planned) == sum(len(data) for all in before.values() for data in all)
    assert partitions(logs) == []
    ok("restore", repository, f"logdir:{logs}", "--broker", "1")
    assert stored(logs, source) == before
    for directory in partitions(logs):
        check_dump(dump(directory, "--deep-iteration"))
    broker.kafka.start()
    assert shapes("read", broker.bootstrap) == source.records
    assert shapes("groups", broker.bootstrap) == source.groups
    assert shapes("go_on", broker.bootstrap) == source.go_on
