"""The brokers that the clients are run against: Ottla's, and Apache Kafka, which proves the tests themselves."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar, Self

ROOT = Path(__file__).resolve().parents[2]


_loader = importlib.machinery.SourceFileLoader("peers_script", str(ROOT / "scripts" / "peers"))
_spec = importlib.util.spec_from_loader(_loader.name, _loader)
assert _spec is not None
sys.dont_write_bytecode = True
peers = importlib.util.module_from_spec(_spec)
_loader.exec_module(peers)
kafka = peers.kafka


def ottla() -> Path | None:
    """The program under test: $OTTLA_BIN, or the newest of the virtual environment's and cargo's."""
    if named := os.environ.get("OTTLA_BIN"):
        return Path(named).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    places = [ROOT / ".venv" / "bin" / "ottla", target / "release" / "ottla", target / "debug" / "ottla"]
    there = [place for place in places if place.is_file()]
    return max(there, key=lambda place: place.stat().st_mtime, default=None)


class OttlaServer:
    """`ottla serve` on a port of its own; the port stays the same over a restart."""

    name = "ottla"

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data / "data"
        self.log = data / "ottla.log"
        self.options = options
        data.mkdir(exist_ok=True)
        self.port: int = kafka.free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        return None if ottla() else "no 'ottla' was built: neither .venv/bin/ottla nor one of cargo's"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def logs(self) -> Path:
        """The directory whose subdirectories are the partitions."""
        return self.data

    def start(self) -> None:
        command = [str(ottla()), "serve", "--data", str(self.data), "--listen", self.bootstrap, *self.options]
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        end = time.monotonic() + 20
        while kafka.brokers_known(self.port) < 1:
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(
                    f"{' '.join(command)} does not serve:\n{self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.01)

    def stop(self, kill: bool = False) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError("'ottla serve' did not end within 20 s of SIGTERM") from None
        self.process = None
        if not kill and code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            raise RuntimeError(f"'ottla serve' ended with {code}:\n{self.log.read_text(errors='replace')[-2000:]}")

    def restart(self, kill: bool = False) -> None:
        self.stop(kill)
        self.start()


class KafkaServer:
    """Apache Kafka."""

    name = "kafka"

    def __init__(self, data: Path) -> None:
        # A new process of a broker that was killed waits until the session of the old one has ended.
        sessions = {"broker.session.timeout.ms": "1500", "broker.heartbeat.interval.ms": "300"}
        self.broker = kafka.KafkaBroker(data / "kafka", config=sessions)

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        why: str | None = peers.missing("java")
        return why

    @property
    def bootstrap(self) -> str:
        return str(self.broker.bootstrap_servers)

    @property
    def pid(self) -> int:
        return int(self.broker.nodes[0]["pid"])

    @property
    def logs(self) -> Path:
        """The directory whose subdirectories are the partitions."""
        return Path(self.broker.logs)

    def start(self) -> None:
        self.broker.start()

    def stop(self, kill: bool = False) -> None:
        self.broker.stop(kill=kill)

    def restart(self, kill: bool = False) -> None:
        self.broker.restart(kill)


class KafkaCluster:
    """Three brokers of Apache Kafka, each of them a controller, too; a context manager."""

    #: Dead brokers are noticed soon, and what goes on in the background goes on at once.
    CONFIG: ClassVar[dict[str, str]] = {
        "broker.session.timeout.ms": "1500",
        "broker.heartbeat.interval.ms": "300",
        "controller.quorum.fetch.timeout.ms": "1000",
        "controller.quorum.election.timeout.ms": "500",
        "replica.fetch.backoff.ms": "200",
        "auto.leader.rebalance.enable": "false",
        "log.cleaner.backoff.ms": "200",
        "log.cleaner.dedupe.buffer.size": "4194304",
        "log.initial.task.delay.ms": "500",
        "log.retention.check.interval.ms": "500",
        "log.segment.delete.delay.ms": "500",
    }
    ELECT = """
import sys
from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
admin.elect_leaders(ElectionType.PREFERRED).result(30)
"""

    def __init__(self, data: Path, **config: str) -> None:
        config = self.CONFIG | config
        self.broker = kafka.KafkaBroker(data / "kafka", 3, config, heap="320m", options=kafka.SHORT_LIVED)

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        why: str | None = peers.missing("java") or peers.missing("python")
        return why

    @property
    def bootstrap(self) -> str:
        return str(self.broker.bootstrap_servers)

    @property
    def nodes(self) -> list[int]:
        return [int(node["id"]) for node in self.broker.nodes]

    def logs(self, node: int) -> Path:
        """The directory whose subdirectories are a broker's partitions."""
        return next(Path(each["logs"]) for each in self.broker.nodes if each["id"] == node)

    def kill(self, node: int) -> None:
        """`kill -9`."""
        self.broker.stop(node, kill=True)

    def start(self) -> None:
        """Starts what does not run, and waits until every broker knows the others."""
        self.broker.start()

    def elect(self) -> None:
        """Each partition is led by the first of its replicas again."""
        elected = [str(peers.python()), "-c", self.ELECT, self.bootstrap]
        run = subprocess.run(elected, capture_output=True, text=True, timeout=60)
        if run.returncode != 0:
            raise RuntimeError(f"no election of leaders: {run.stderr.strip()[-500:]}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.stop(kill=True)


Server = OttlaServer | KafkaServer
