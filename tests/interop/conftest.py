"""Brokers and clients for these tests. A part that is not there skips its tests and says why."""

from __future__ import annotations

import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# The program as a user runs it: what the tests of the command line run it with.
sys.path.append(str(Path(__file__).parents[1] / "cli"))

from clients import CLIENTS, Client
from program import Program, Serve
from servers import KafkaServer, OttlaServer, Server

SERVERS: list[type[OttlaServer | KafkaServer]] = [OttlaServer, KafkaServer]


@pytest.fixture(scope="session", params=SERVERS, ids=lambda kind: kind.name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running broker, shared by all tests."""
    if why := request.param.missing():
        pytest.skip(why)
    running: Server = request.param(tmp_path_factory.mktemp(request.param.name))
    try:
        running.start()
        yield running
    finally:
        running.stop(kill=isinstance(running, KafkaServer))


@pytest.fixture(params=SERVERS, ids=lambda kind: kind.name)
def server_kind(request: pytest.FixtureRequest) -> type[OttlaServer | KafkaServer]:
    """Each kind of broker, for a test that starts its own."""
    kind: type[OttlaServer | KafkaServer] = request.param
    return kind


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    """Each of the real clients."""
    chosen: Client = request.param
    if why := chosen.missing():
        pytest.skip(why)
    return chosen


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def started() -> Iterator[Callable[[Program], Program]]:
    """Takes programs that are killed when the test has ended, if they run still."""
    running: list[Program] = []

    def take(one: Program) -> Program:
        running.append(one)
        return one

    yield take
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.process.kill()
            one.process.wait()


@pytest.fixture
def serve(started: Callable[[Program], Program], tmp_path: Path) -> Callable[..., Serve]:
    """Starts `ottla serve` over a directory of that name."""

    def start(name: str, *arguments: str, port: int = 0) -> Serve:
        server = Serve(tmp_path / name, *arguments, port=port)
        started(server)
        return server

    return start
